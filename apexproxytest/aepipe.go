package apexproxytest

import (
	"bytes"
	"encoding/json"
	"fmt"
	"maps"
	"net/http"
	"regexp"
	"slices"
	"strings"
	"time"
	"unicode/utf8"

	"github.com/tidwall/gjson"
)

// What an aepipe store keeps of a call and of a point. Beyond the limits of a point Cloudflare's Analytics Engine drops or cuts data
// without an error. Sources: https://github.com/loadchange/aepipe and
// https://developers.cloudflare.com/analytics/analytics-engine/limits/.
const (
	maxEntries    = 250
	maxRefIDs     = 100
	maxBlobs      = 15 // besides project, logstore, event, level and ref id
	maxDoubles    = 20
	maxBlobBytes  = 16 << 10  // of all blobs of a point together
	maxIndexBytes = 96        // of "project/logstore"
	maxPayload    = 2_000_000 // a row of D1
	defaultTTL    = 90 * 24 * 3600
)

// An Aepipe is a fake aepipe store. It answers as the real one does, and lists in [Aepipe.Violations] what the real one would lose without
// a word. It keeps everything in memory and never expires a payload. Its methods may be called from several goroutines.
type Aepipe struct {
	URL   string // "http://127.0.0.1:port"
	Host  string // host:port
	Token string

	server
	calls      []AepipeCall
	points     []Point
	logs       []LogEntry
	lines      []line
	payloads   map[string]payload
	violations []string
	rows       []json.RawMessage
	fail       []http.Handler
	hold       chan struct{} // not nil while calls hang
}

// An AepipeCall is one call, whatever its answer.
type AepipeCall struct {
	Request
	Project  string // "" for the list of projects and for unknown paths
	Logstore string
	Action   string // "ingest", "log", "query", "rawlog", "detail", "projects", "logstores", or "" for an unknown path
	Status   int    // 0 when the client left before the answer
}

// A Point is an entry of an ingest call.
type Point struct {
	Project  string
	Logstore string
	Event    string
	Level    string // "info" when the point has none
	RefID    string // "" when the point has no payload
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

// line is what rawlog reads: aepipe prints points and log entries alike.
type line struct {
	project, logstore string
	at                time.Time
	level             string
	data              json.RawMessage
}

type payload struct {
	data             json.RawMessage
	created, expires int64 // milliseconds
}

// NewAepipe starts a store that accepts token. The caller must call Close.
func NewAepipe(token string) *Aepipe {
	a := &Aepipe{Token: token, payloads: map[string]payload{}}
	a.start(false, a.serve)
	a.URL, a.Host = a.srv.URL, a.host()
	return a
}

// Calls returns a copy of all calls since the start or the last Reset. A call is recorded before it is answered.
func (a *Aepipe) Calls() []AepipeCall {
	a.mu.Lock()
	defer a.mu.Unlock()
	list := slices.Clone(a.calls)
	for i := range list {
		list[i].Request = list[i].Request.clone()
	}
	return list
}

// Points returns the points written to a logstore, whatever the project, in order.
func (a *Aepipe) Points(logstore string) []Point {
	a.mu.Lock()
	defer a.mu.Unlock()
	return slices.DeleteFunc(slices.Clone(a.points), func(p Point) bool { return p.Logstore != logstore })
}

// Logs returns the log entries written to a logstore, whatever the project, in order.
func (a *Aepipe) Logs(logstore string) []LogEntry {
	a.mu.Lock()
	defer a.mu.Unlock()
	return slices.DeleteFunc(slices.Clone(a.logs), func(l LogEntry) bool { return l.Logstore != logstore })
}

// Violations lists what a real store would have dropped, cut or garbled in calls that it answers with success. A correct client causes
// none; none of them quotes the data.
func (a *Aepipe) Violations() []string {
	a.mu.Lock()
	defer a.mu.Unlock()
	return slices.Clone(a.violations)
}

// SetRows sets the rows that the query calls answer with, one JSON object each. It panics on anything else.
func (a *Aepipe) SetRows(rows ...string) {
	list := []json.RawMessage{}
	for _, r := range rows {
		if !gjson.Valid(r) || !gjson.Parse(r).IsObject() {
			panic("apexproxytest: a row must be a JSON object")
		}
		list = append(list, json.RawMessage(r))
	}
	a.update(func() { a.rows = list })
}

// Fail answers the next n calls with a status and stores nothing; 429 comes with Retry-After: 1.
func (a *Aepipe) Fail(n, status int) {
	var header []string
	if status == http.StatusTooManyRequests {
		header = []string{"Retry-After", "1"}
	}
	h := aepipeError(status, "scripted failure", header...)
	a.update(func() { a.fail = append(a.fail, slices.Repeat([]http.Handler{h}, n)...) })
}

// Hang keeps the calls that come from now on waiting until release is called or the client leaves; a released call goes on as usual.
// Close releases nobody: it breaks the connections.
func (a *Aepipe) Hang() (release func()) {
	hold := make(chan struct{})
	a.update(func() { a.hold = hold })
	return func() {
		a.update(func() {
			if a.hold == hold {
				a.hold = nil
				close(hold)
			}
		})
	}
}

// Reset forgets calls, points, logs, payloads, violations, rows, failures not yet used and the counts behind WaitRequests and
// WaitCancelled.
func (a *Aepipe) Reset() {
	a.update(func() {
		a.calls, a.points, a.logs, a.lines, a.violations, a.rows, a.fail = nil, nil, nil, nil, nil, nil, nil
		a.payloads = map[string]payload{}
		a.arrived, a.cancelled = 0, 0
	})
}

func aepipeError(status int, message string, header ...string) http.Handler {
	return JSON(status, `{"error":`+quote(message)+`}`, header...)
}

func aepipeOK(v any) http.Handler {
	b, err := json.Marshal(v)
	if err != nil {
		return crashed // a caller's JSON that cannot be put into an answer
	}
	return JSON(http.StatusOK, string(b))
}

// crashed is what Cloudflare answers when the worker throws.
var crashed = http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
	http.Error(w, "error code: 1101", http.StatusInternalServerError)
})

func (a *Aepipe) serve(w http.ResponseWriter, r *http.Request) {
	call := AepipeCall{Request: capture(r)}
	handle := a.route(&call, r)
	var i int
	var hold chan struct{}
	var fail http.Handler
	a.update(func() {
		i, hold = len(a.calls), a.hold
		a.calls = append(a.calls, call)
		a.arrived++
		if len(a.fail) > 0 {
			fail, a.fail = a.fail[0], a.fail[1:]
		}
	})
	if call.BodyErr != nil {
		a.countCancelled()
		panic(http.ErrAbortHandler)
	}
	defer a.watch(r)()
	if hold != nil {
		select {
		case <-hold:
		case <-r.Context().Done():
			panic(http.ErrAbortHandler)
		}
	}
	answer := fail
	if answer == nil {
		a.update(func() { answer = handle(&call) })
	}
	h := w.Header()
	h.Set("Access-Control-Allow-Origin", "*")
	h.Set("Access-Control-Allow-Methods", "GET, POST, OPTIONS")
	h.Set("Access-Control-Allow-Headers", "Authorization, Content-Type")
	answer.ServeHTTP(&statusWriter{ResponseWriter: w, wrote: func(status int) {
		a.update(func() {
			if i < len(a.calls) { // else a Reset came in between
				a.calls[i].Status = status
			}
		})
	}}, r)
}

// statusWriter tells the status before it is sent, so that a client with the answer in hand finds it in Calls.
type statusWriter struct {
	http.ResponseWriter
	wrote func(int)
}

func (w *statusWriter) WriteHeader(status int) {
	w.wrote(status)
	w.ResponseWriter.WriteHeader(status)
}

var aepipeName = regexp.MustCompile(`^[a-zA-Z0-9_-]{1,64}$`)

// route decides what answers the call and fills in its names. The func it returns runs under the lock.
func (a *Aepipe) route(call *AepipeCall, r *http.Request) func(*AepipeCall) http.Handler {
	always := func(h http.Handler) func(*AepipeCall) http.Handler {
		return func(*AepipeCall) http.Handler { return h }
	}
	if r.Method == http.MethodOptions {
		return always(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) { w.WriteHeader(http.StatusNoContent) }))
	}
	notFound := always(aepipeError(http.StatusNotFound, "not found"))
	parts := strings.FieldsFunc(r.URL.EscapedPath(), func(c rune) bool { return c == '/' })
	if len(parts) == 0 || parts[0] != "v1" {
		return notFound
	}
	if words := strings.Split(r.Header.Get("Authorization"), " "); len(words) < 2 || words[0] != "Bearer" || words[1] != a.Token {
		return always(aepipeError(http.StatusUnauthorized, "unauthorized"))
	}
	badName := func(what string) func(*AepipeCall) http.Handler {
		return always(aepipeError(http.StatusBadRequest, "invalid "+what+" name"))
	}
	switch {
	case r.Method == http.MethodGet && len(parts) == 2 && parts[1] == "projects":
		call.Action = "projects"
		return a.projects
	case r.Method == http.MethodGet && len(parts) == 3 && parts[2] == "logstores":
		call.Action = "logstores"
		call.Project = parts[1]
		if !aepipeName.MatchString(call.Project) {
			return badName("project")
		}
		return a.logstores
	case r.Method == http.MethodPost && len(parts) == 4:
		call.Project, call.Logstore = parts[1], parts[2]
		if !aepipeName.MatchString(call.Project) {
			return badName("project")
		}
		if !aepipeName.MatchString(call.Logstore) {
			return badName("logstore")
		}
		handle, known := map[string]func(*AepipeCall) http.Handler{
			"ingest": a.ingest, "log": a.log, "query": a.query, "rawlog": a.rawlog, "detail": a.detail,
		}[parts[3]]
		if !known {
			return notFound
		}
		call.Action = parts[3]
		return func(call *AepipeCall) http.Handler {
			switch body := gjson.ParseBytes(call.Body); {
			case !gjson.ValidBytes(call.Body):
				return aepipeError(http.StatusBadRequest, "invalid json")
			case body.Type == gjson.Null:
				return crashed
			}
			return handle(call)
		}
	}
	return notFound
}

// list returns the entries of the named array, or the answer that refuses them.
func list(body []byte, name string, limit int, unit string) ([]gjson.Result, http.Handler) {
	v := gjson.GetBytes(body, name)
	entries := v.Array()
	switch {
	case !v.IsArray() || len(entries) == 0:
		return nil, aepipeError(http.StatusBadRequest, name+" must be a non-empty array")
	case len(entries) > limit:
		return nil, aepipeError(http.StatusBadRequest, fmt.Sprintf("max %d %s per request", limit, unit))
	case slices.ContainsFunc(entries, func(e gjson.Result) bool { return e.Type == gjson.Null }):
		return nil, crashed
	}
	return entries, nil
}

func (a *Aepipe) violate(call *AepipeCall, i int, format string, args ...any) {
	a.violations = append(a.violations, fmt.Sprintf("%s/%s/%s entry %d: ", call.Project, call.Logstore, call.Action, i)+fmt.Sprintf(format, args...))
}

func (a *Aepipe) ingest(call *AepipeCall) http.Handler {
	entries, refused := list(call.Body, "points", maxEntries, "points")
	if refused != nil {
		return refused
	}
	now := time.Now()
	written := 0
	degraded := false
	if n := len(call.Project) + 1 + len(call.Logstore); n > maxIndexBytes {
		a.violate(call, 0, "project/logstore is %d bytes, the index holds %d", n, maxIndexBytes)
	}
	for i, e := range entries {
		event := e.Get("event")
		if event.Type != gjson.String || event.Str == "" {
			a.violate(call, i, "no event: the point is skipped")
			continue
		}
		p := a.point(call, i, e)
		if v := e.Get("payload"); truthy(v) {
			p.TTL = defaultTTL
			if ttl := e.Get("ttl"); ttl.Exists() && ttl.Type != gjson.Null {
				p.TTL = ttl.Int()
				if ttl.Type != gjson.Number || p.TTL <= 0 {
					a.violate(call, i, "ttl is not a positive number")
				}
			}
			p.Payload = compact(v.Raw)
			if n := len(p.Payload); n > maxPayload {
				a.violate(call, i, "payload is %d bytes, a row holds %d: the payloads of the call are lost", n, maxPayload)
				degraded = true
			}
		}
		a.points = append(a.points, p)
		a.print(call, now, p.Level, e)
		written++
	}
	for i := range a.points[len(a.points)-written:] {
		p := &a.points[len(a.points)-written+i]
		if p.Payload == nil || degraded { // one batch: a payload too big loses them all
			continue
		}
		p.RefID = fmt.Sprintf("00000000-0000-4000-8000-%012d", len(a.payloads)+1)
		created := now.UnixMilli()
		a.payloads[p.RefID] = payload{p.Payload, created, created + p.TTL*1000}
	}
	if degraded {
		return aepipeOK(map[string]any{"ok": true, "written": written, "payload_degraded": true, "payload_error": "D1_ERROR: string or blob too big: SQLITE_TOOBIG"})
	}
	return aepipeOK(map[string]any{"ok": true, "written": written})
}

// point reads what Analytics Engine stores of a point and notes what it would lose.
func (a *Aepipe) point(call *AepipeCall, i int, e gjson.Result) Point {
	p := Point{Project: call.Project, Logstore: call.Logstore, Event: e.Get("event").Str, Level: "info", Raw: json.RawMessage(e.Raw)}
	if level := e.Get("level"); level.Exists() && level.Type != gjson.Null {
		p.Level = level.String()
		if level.Type != gjson.String {
			a.violate(call, i, "level is not a string")
		}
	}
	if blobs := e.Get("blobs"); blobs.IsArray() {
		for n, b := range blobs.Array() {
			if b.Type != gjson.String {
				a.violate(call, i, "blob %d is not a string", n)
			}
			p.Blobs = append(p.Blobs, b.String())
		}
	} else if blobs.Exists() && blobs.Type != gjson.Null {
		a.violate(call, i, "blobs is not an array")
	}
	if doubles := e.Get("doubles"); doubles.IsArray() {
		for n, d := range doubles.Array() {
			if d.Type != gjson.Number {
				a.violate(call, i, "double %d is not a number", n)
			}
			p.Doubles = append(p.Doubles, d.Float())
		}
	} else if doubles.Exists() && doubles.Type != gjson.Null {
		a.violate(call, i, "doubles is not an array")
	}
	if len(p.Blobs) > maxBlobs {
		a.violate(call, i, "%d blobs, the store keeps %d", len(p.Blobs), maxBlobs)
	}
	if len(p.Doubles) > maxDoubles {
		a.violate(call, i, "%d doubles, the store keeps %d", len(p.Doubles), maxDoubles)
	}
	size := len(p.Project) + len(p.Logstore) + len(p.Event) + len(p.Level)
	if truthy(e.Get("payload")) {
		size += 36 // the ref id is a UUID
	}
	for n, b := range p.Blobs {
		size += len(b)
		if !utf8.ValidString(b) {
			a.violate(call, i, "blob %d is not UTF-8", n)
		}
	}
	if size > maxBlobBytes {
		a.violate(call, i, "blobs are %d bytes, the store cuts at %d", size, maxBlobBytes)
	}
	return p
}

func (a *Aepipe) log(call *AepipeCall) http.Handler {
	entries, refused := list(call.Body, "logs", maxEntries, "logs")
	if refused != nil {
		return refused
	}
	now := time.Now()
	written := 0
	for i, e := range entries {
		message := e.Get("message")
		if message.Type != gjson.String || message.Str == "" {
			a.violate(call, i, "no message: the entry is skipped")
			continue
		}
		level := "info"
		if v := e.Get("level"); v.Exists() && v.Type != gjson.Null {
			level = v.String()
			if !slices.Contains([]string{"debug", "info", "warn", "error"}, level) {
				a.violate(call, i, "level is none of debug, info, warn, error")
			}
		}
		for _, name := range []string{"project", "logstore"} {
			if e.Get(name).Exists() {
				a.violate(call, i, "the entry overrides its %s", name)
			}
		}
		a.logs = append(a.logs, LogEntry{call.Project, call.Logstore, message.Str, level, json.RawMessage(e.Raw)})
		a.print(call, now, level, e)
		written++
	}
	return aepipeOK(map[string]any{"ok": true, "written": written})
}

// print adds a line to what rawlog reads: the entry's members override the names, as in the real store.
func (a *Aepipe) print(call *AepipeCall, at time.Time, level string, e gjson.Result) {
	members := map[string]json.RawMessage{"project": json.RawMessage(quote(call.Project)), "logstore": json.RawMessage(quote(call.Logstore))}
	if call.Action == "log" {
		members["level"] = json.RawMessage(quote(level))
	}
	e.ForEach(func(key, value gjson.Result) bool {
		members[key.String()] = json.RawMessage(value.Raw)
		return true
	})
	data, err := json.Marshal(members)
	if err != nil {
		data = json.RawMessage("{}")
	}
	a.lines = append(a.lines, line{call.Project, call.Logstore, at, level, data})
}

// query answers in the JSON format of the Analytics Engine SQL API. The SQL is not run: see SetRows.
func (a *Aepipe) query(call *AepipeCall) http.Handler {
	if sql := gjson.GetBytes(call.Body, "sql"); sql.Type != gjson.String || strings.TrimSpace(sql.Str) == "" {
		return aepipeError(http.StatusBadRequest, "sql is required")
	}
	meta := []map[string]string{}
	if len(a.rows) > 0 {
		gjson.ParseBytes(a.rows[0]).ForEach(func(key, value gjson.Result) bool {
			typ := "String"
			if value.Type == gjson.Number {
				typ = "Float64"
			}
			meta = append(meta, map[string]string{"name": key.String(), "type": typ})
			return true
		})
	}
	rows := a.rows
	if rows == nil {
		rows = []json.RawMessage{}
	}
	return aepipeOK(map[string]any{"meta": meta, "data": rows, "rows": len(rows), "rows_before_limit_at_least": len(rows)})
}

func (a *Aepipe) rawlog(call *AepipeCall) http.Handler {
	limit := 50
	if v := gjson.GetBytes(call.Body, "limit"); v.Exists() && v.Type != gjson.Null {
		limit = min(int(v.Int()), 200)
	}
	now := time.Now()
	from, to := now.Add(-6*time.Hour), now
	for name, at := range map[string]*time.Time{"start": &from, "end": &to} {
		v := gjson.GetBytes(call.Body, name).String()
		if v == "" {
			continue
		}
		t, err := time.Parse(time.RFC3339, v)
		if err != nil {
			return aepipeError(http.StatusBadGateway, "CF Telemetry API 400: bad timeframe")
		}
		*at = t
	}
	type entry struct {
		Timestamp string          `json:"timestamp"`
		Level     string          `json:"level"`
		Data      json.RawMessage `json:"data"`
	}
	logs := []entry{}
	for _, l := range a.lines {
		if len(logs) >= limit {
			break
		}
		if l.project == call.Project && l.logstore == call.Logstore && !l.at.Before(from) && !l.at.After(to) {
			logs = append(logs, entry{l.at.UTC().Format("2006-01-02T15:04:05.000Z"), l.level, l.data})
		}
	}
	return aepipeOK(map[string]any{"logs": logs, "count": len(logs)})
}

func (a *Aepipe) detail(call *AepipeCall) http.Handler {
	ids, refused := list(call.Body, "ref_ids", maxRefIDs, "ref_ids")
	if refused != nil {
		return refused
	}
	type entry struct {
		RefID     string          `json:"ref_id"`
		Payload   json.RawMessage `json:"payload"`
		CreatedAt int64           `json:"created_at"`
		ExpiresAt int64           `json:"expires_at"`
	}
	results := []entry{}
	for _, id := range ids {
		if p, ok := a.payloads[id.String()]; ok {
			results = append(results, entry{id.String(), p.data, p.created, p.expires})
		}
	}
	return aepipeOK(map[string]any{"results": results})
}

func (a *Aepipe) projects(*AepipeCall) http.Handler {
	names := map[string]bool{}
	for _, p := range a.points {
		names[p.Project] = true
	}
	return aepipeOK(map[string]any{"projects": sorted(names)})
}

func (a *Aepipe) logstores(call *AepipeCall) http.Handler {
	names := map[string]bool{}
	for _, p := range a.points {
		if p.Project == call.Project {
			names[p.Logstore] = true
		}
	}
	return aepipeOK(map[string]any{"logstores": sorted(names)})
}

func sorted(set map[string]bool) []string {
	return append([]string{}, slices.Sorted(maps.Keys(set))...)
}

// truthy is JavaScript's: what aepipe asks of a payload.
func truthy(v gjson.Result) bool {
	switch v.Type {
	case gjson.String:
		return v.Str != ""
	case gjson.Number:
		return v.Num != 0
	case gjson.True, gjson.JSON:
		return true
	}
	return false
}

func compact(raw string) json.RawMessage {
	var b bytes.Buffer
	if err := json.Compact(&b, []byte(raw)); err != nil {
		return json.RawMessage(raw)
	}
	return b.Bytes()
}
