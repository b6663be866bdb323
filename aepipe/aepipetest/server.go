// Package aepipetest has a fake aepipe store for tests of what reports to one. It answers as the
// real one does (https://github.com/loadchange/aepipe), and [Server.Violations] lists what the real
// one would lose without a word.
package aepipetest

import (
	"encoding/json"
	"io"
	"net/http"
	"regexp"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/tidwall/gjson"

	"github.com/loadchange/apexproxy/apexproxytest"
)

// A Server is a fake store on the loopback interface. It keeps everything in memory and never
// expires a payload. Its methods may be called from several goroutines.
//
// It is an [apexproxytest.Upstream] whose every reply is the store's: Requests lists the calls,
// Close ends it. Script puts other replies in the store's place, which store nothing:
//
//	store.Script(apexproxytest.RateLimited(), store) // refuses one call, then goes on
//	store.Script(apexproxytest.Hang())               // hangs
type Server struct {
	*apexproxytest.Upstream
	Token string

	mu         sync.Mutex
	points     []Point
	logs       []LogEntry
	lines      []line
	payloads   map[string]payload
	violations []string
	rows       []json.RawMessage
}

// A Point is an entry of an ingest call.
type Point struct {
	Project  string
	Logstore string
	Event    string
	Level    string // "info" when the point has none
	RefID    string // "" when the store has no payload of the point
	Blobs    []string
	Doubles  []float64
	Payload  json.RawMessage // nil when there is none
	TTL      int64           // seconds, 90 days when the point has none; 0 without payload
	Raw      json.RawMessage // the point as sent
}

// A LogEntry is an entry of a log call.
type LogEntry struct {
	Project  string
	Logstore string
	Message  string
	Level    string          // "info" when the entry has none
	Raw      json.RawMessage // the entry as sent
}

// NewServer starts a store that accepts token. The caller must call Close.
func NewServer(token string) *Server {
	s := &Server{Token: token, payloads: map[string]payload{}}
	s.Upstream = apexproxytest.NewUpstream(s)
	return s
}

// Points returns the points written to a logstore, whatever the project, in order.
func (s *Server) Points(logstore string) []Point {
	s.mu.Lock()
	defer s.mu.Unlock()
	return slices.DeleteFunc(slices.Clone(s.points), func(p Point) bool { return p.Logstore != logstore })
}

// Logs returns the log entries written to a logstore, whatever the project, in order.
func (s *Server) Logs(logstore string) []LogEntry {
	s.mu.Lock()
	defer s.mu.Unlock()
	return slices.DeleteFunc(slices.Clone(s.logs), func(l LogEntry) bool { return l.Logstore != logstore })
}

// Violations lists what a real store would have dropped, cut or garbled in calls that it answers
// with success. A correct client causes none; none of them quotes the data.
func (s *Server) Violations() []string {
	s.mu.Lock()
	defer s.mu.Unlock()
	return slices.Clone(s.violations)
}

// SetRows sets the rows that the query calls answer with, one JSON object each. It panics on
// anything else.
func (s *Server) SetRows(rows ...string) {
	list := []json.RawMessage{}
	for _, r := range rows {
		if !gjson.Valid(r) || !gjson.Parse(r).IsObject() {
			panic("aepipetest: a row must be a JSON object")
		}
		list = append(list, json.RawMessage(r))
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	s.rows = list
}

// Reset forgets requests, points, logs, payloads, violations, rows and the counts behind
// WaitRequests and WaitCancelled. A script goes on where it was.
func (s *Server) Reset() {
	s.Upstream.Reset()
	s.mu.Lock()
	defer s.mu.Unlock()
	s.points, s.logs, s.lines, s.violations, s.rows = nil, nil, nil, nil, nil
	s.payloads = map[string]payload{}
}

// ServeHTTP is the store. It is there to be an argument of Script.
func (s *Server) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	body, err := io.ReadAll(r.Body)
	if err != nil {
		panic(http.ErrAbortHandler)
	}
	s.mu.Lock()
	a := s.answer(r, body)
	s.mu.Unlock()
	b, err := json.Marshal(a.body)
	if a.body == nil || err != nil { // what Cloudflare answers when the worker throws
		w.WriteHeader(http.StatusInternalServerError)
		io.WriteString(w, "error code: 1101")
		return
	}
	apexproxytest.JSON(a.status, string(b)).ServeHTTP(w, r)
}

// An answer is a status and what becomes its JSON. The zero answer is a crash of the store.
type answer struct {
	status int
	body   any
}

type object = map[string]any

func ok(body object) answer { return answer{http.StatusOK, body} }

func refuse(status int, message string) answer { return answer{status, object{"error": message}} }

// A call is what a POST is about.
type call struct {
	project, logstore, action string
	body                      []byte
}

var validName = regexp.MustCompile(`^[a-zA-Z0-9_-]{1,64}$`)

// answer routes a request. It runs under the lock, as does all that it calls.
func (s *Server) answer(r *http.Request, body []byte) answer {
	parts := strings.FieldsFunc(r.URL.EscapedPath(), func(c rune) bool { return c == '/' })
	if len(parts) == 0 || parts[0] != "v1" {
		return refuse(http.StatusNotFound, "not found")
	}
	words := strings.Split(r.Header.Get("Authorization"), " ")
	if len(words) < 2 || words[0] != "Bearer" || words[1] != s.Token {
		return refuse(http.StatusUnauthorized, "unauthorized")
	}
	switch {
	case r.Method == http.MethodGet && len(parts) == 2 && parts[1] == "projects":
		return s.projects()
	case r.Method == http.MethodGet && len(parts) == 3 && parts[2] == "logstores":
		return s.logstores(parts[1])
	case r.Method == http.MethodPost && len(parts) == 4:
		return s.post(call{parts[1], parts[2], parts[3], body})
	}
	return refuse(http.StatusNotFound, "not found")
}

func (s *Server) post(c call) answer {
	handle, known := map[string]func(call) answer{
		"ingest": s.ingest, "log": s.log, "query": s.query, "rawlog": s.rawlog, "detail": s.detail,
	}[c.action]
	switch {
	case !validName.MatchString(c.project):
		return refuse(http.StatusBadRequest, "invalid project name")
	case !validName.MatchString(c.logstore):
		return refuse(http.StatusBadRequest, "invalid logstore name")
	case !known:
		return refuse(http.StatusNotFound, "not found")
	case !gjson.ValidBytes(c.body):
		return refuse(http.StatusBadRequest, "invalid json")
	case gjson.ParseBytes(c.body).Type == gjson.Null:
		return answer{}
	}
	return handle(c)
}

// line is what rawlog reads: aepipe prints points and log entries alike.
type line struct {
	project, logstore string
	at                time.Time
	level             string
	data              object
}

type payload struct {
	data             json.RawMessage
	created, expires int64 // milliseconds
}
