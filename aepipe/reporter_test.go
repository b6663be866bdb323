package aepipe

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"slices"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/loadchange/apexproxy"
	"github.com/loadchange/apexproxy/aepipe/aepipetest"
	"github.com/loadchange/apexproxy/apexproxytest"
	"github.com/loadchange/apexproxy/reportertest"
	"github.com/tidwall/gjson"
)

func startAepipe(t *testing.T) *aepipetest.Server {
	t.Helper()
	fake := aepipetest.NewServer(token)
	t.Cleanup(func() {
		fake.Close()
		if v := fake.Violations(); len(v) > 0 {
			t.Errorf("the store would have lost data: %q", v)
		}
	})
	return fake
}

func newReporter(t *testing.T, cfg Config) *Reporter {
	t.Helper()
	if cfg.Token == "" {
		cfg.Token = token
	}
	r, err := New(cfg)
	if err != nil {
		t.Fatal(err)
	}
	return r
}

// sizes groups calls by logstore and action and lists how many entries each held.
func sizes(fake *aepipetest.Server) map[string][]int {
	m := map[string][]int{}
	for _, c := range fake.Requests() {
		n := len(gjson.GetBytes(c.Body, "points").Array()) + len(gjson.GetBytes(c.Body, "logs").Array())
		path := strings.TrimPrefix(c.RequestURI, "/v1/apex-ai-proxy/")
		m[path] = append(m[path], n)
	}
	return m
}

func TestReport(t *testing.T) {
	t.Parallel()
	fake := startAepipe(t)
	r := newReporter(t, Config{BaseURL: fake.URL + "//"})
	liveness, preflight := record(), record()
	liveness.Operation, preflight.Operation = apexproxy.OperationLiveness, apexproxy.OperationPreflight
	rec := record()
	if err := r.Report(t.Context(), []apexproxy.Record{liveness, rec, {}, preflight}); err != nil {
		t.Fatal(err)
	}
	var targets []string
	for _, c := range fake.Requests() {
		targets = append(targets, c.Method+" "+c.RequestURI)
		want := http.Header{
			"Authorization":   {"Bearer " + token},
			"Content-Type":    {"application/json"},
			"User-Agent":      {"apexproxy-aepipe"},
			"Accept-Encoding": {"gzip"},
			"Content-Length":  {fmt.Sprint(len(c.Body))},
		}
		if diff := cmp.Diff(want, c.Header); diff != "" {
			t.Errorf("headers (-want +got):\n%s", diff)
		}
	}
	slices.Sort(targets)
	if diff := cmp.Diff([]string{"POST /v1/apex-ai-proxy/raw/log", "POST /v1/apex-ai-proxy/requests/ingest"}, targets); diff != "" {
		t.Errorf("calls (-want +got):\n%s", diff)
	}
	points, logs := fake.Points("requests"), fake.Logs("raw")
	if len(points) != 2 || len(logs) != 2 {
		t.Fatalf("%d points and %d logs stored, want 2 each", len(points), len(logs))
	}
	if want := string(encode(newPoint(r.s, &rec))); string(points[0].Raw) != want {
		t.Errorf("point %s, want %s", points[0].Raw, want)
	}
	if want := string(encode(newLogEntry(&rec))); string(logs[0].Raw) != want {
		t.Errorf("entry %s, want %s", logs[0].Raw, want)
	}

	fake.Reset()
	if err := r.Report(t.Context(), []apexproxy.Record{liveness}); err != nil || len(fake.Requests()) != 0 {
		t.Errorf("a batch with nothing to send: error %v, %d calls", err, len(fake.Requests()))
	}
}

func TestReportNames(t *testing.T) {
	t.Parallel()
	var paths sync.Map
	srv := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		paths.Store(r.RequestURI, true)
		fmt.Fprint(w, `{"ok":true,"written":1}`)
	}))
	t.Cleanup(srv.Close)
	r := newReporter(t, Config{BaseURL: srv.URL + "/a%2Fb/", Project: "p", LogStore: "x", RawLogStore: "y"})
	if err := r.Report(t.Context(), []apexproxy.Record{record()}); err != nil {
		t.Fatal(err)
	}
	for _, path := range []string{"/a%2Fb/v1/p/x/ingest", "/a%2Fb/v1/p/y/log"} {
		if _, ok := paths.Load(path); !ok {
			t.Errorf("no call to %s", path)
		}
	}
}

func TestSplit(t *testing.T) {
	t.Parallel()
	big := record()
	big.Content = &apexproxy.Content{RequestBody: []byte(strings.Repeat("a", maxBody)), ResponseBody: []byte(strings.Repeat("\"", maxBody))}
	tests := []struct {
		name  string
		batch []apexproxy.Record
		want  []int // entries of each call
	}{
		{"250 small ones", make([]apexproxy.Record, 250), []int{250}},
		{"251 small ones", make([]apexproxy.Record, 251), []int{250, 1}},
		{"1000 small ones", make([]apexproxy.Record, 1000), []int{250, 250, 250, 250}},
		// 1.42 MB each.
		{"6 big ones", slices.Repeat([]apexproxy.Record{big}, 6), []int{5, 1}},
		{"huge ones", hugeRecords()[:2], nil},
	}
	for _, test := range tests {
		t.Run(test.name, func(t *testing.T) {
			t.Parallel()
			fake := startAepipe(t)
			if err := newReporter(t, Config{BaseURL: fake.URL}).Report(t.Context(), test.batch); err != nil {
				t.Fatal(err)
			}
			if test.want != nil {
				if diff := cmp.Diff(map[string][]int{"requests/ingest": test.want, "raw/log": test.want}, sizes(fake)); diff != "" {
					t.Errorf("entries a call (-want +got):\n%s", diff)
				}
			}
			for _, c := range fake.Requests() {
				if len(c.Body) > maxCallBytes {
					t.Errorf("a call of %d bytes", len(c.Body))
				}
			}
			if n, m := len(fake.Points("requests")), len(fake.Logs("raw")); n != len(test.batch) || m != len(test.batch) {
				t.Errorf("%d points and %d logs stored of %d", n, m, len(test.batch))
			}
			for _, p := range fake.Points("requests") {
				if p.RefID == "" {
					t.Error("a payload was not stored")
				}
			}
		})
	}
}

// An exchange is what a fake transport answers to one attempt.
type exchange struct {
	status int // 0 is a failure of the network
	body   string
	header http.Header
	hang   bool // until the context is done
}

var success = exchange{status: 200, body: `{"ok":true,"written":1}`}

// script answers the attempts at one path; the last answer stays.
type script struct {
	mu      sync.Mutex
	answers map[string][]exchange // by the end of the path
	times   map[string][]time.Duration
	start   time.Time
	closed  int
}

type closeCounter struct {
	io.Reader
	close func()
}

func (b *closeCounter) Close() error { b.close(); return nil }

func (s *script) RoundTrip(r *http.Request) (*http.Response, error) {
	if _, err := io.Copy(io.Discard, r.Body); err != nil {
		return nil, err
	}
	action := r.URL.Path[strings.LastIndexByte(r.URL.Path, '/')+1:]
	s.mu.Lock()
	list := s.answers[action]
	x := success
	if len(list) > 0 {
		x = list[0]
	}
	if len(list) > 1 {
		s.answers[action] = list[1:]
	}
	s.times[action] = append(s.times[action], time.Since(s.start))
	s.mu.Unlock()
	if x.hang {
		<-r.Context().Done()
		return nil, r.Context().Err()
	}
	if x.status == 0 {
		return nil, errors.New("connection refused")
	}
	if x.header == nil {
		x.header = http.Header{}
	}
	return &http.Response{StatusCode: x.status, Header: x.header, Request: r, Body: &closeCounter{strings.NewReader(x.body), func() {
		s.mu.Lock()
		defer s.mu.Unlock()
		s.closed++
	}}}, nil
}

func TestRetry(t *testing.T) {
	t.Parallel()
	retryAfter := func(status int, v string) exchange {
		return exchange{status: status, header: http.Header{"Retry-After": {v}}}
	}
	const none = time.Hour
	tests := []struct {
		name     string
		answers  []exchange
		deadline time.Duration
		attempts int
		min, max time.Duration // until the last attempt
		err      string        // "" is success
	}{
		{"success", []exchange{success}, none, 1, 0, 0, ""},
		{"500 once", []exchange{{status: 500}, success}, none, 2, 0, 250 * time.Millisecond, ""},
		{"429 without Retry-After", []exchange{{status: 429}, success}, none, 2, 0, 250 * time.Millisecond, ""},
		{"429 with seconds", []exchange{retryAfter(429, "7"), success}, none, 2, 7 * time.Second, 7 * time.Second, ""},
		{"503 with a date", []exchange{retryAfter(503, "Sat, 01 Jan 2000 00:00:09 GMT"), success}, none, 2, 9 * time.Second, 9 * time.Second, ""},
		{"Retry-After in the past", []exchange{retryAfter(503, "Fri, 31 Dec 1999 00:00:00 GMT"), success}, none, 2, 0, 250 * time.Millisecond, ""},
		{"Retry-After without sense", []exchange{retryAfter(503, "-5"), retryAfter(503, "soon"), success}, none, 3, 0, 750 * time.Millisecond, ""},
		{"Retry-After beyond all sense", []exchange{retryAfter(503, "86400"), success}, none, 1, 0, 0, "status 503: Service Unavailable"},
		{"Retry-After beyond the deadline", []exchange{retryAfter(429, "5"), success}, 4 * time.Second, 1, 0, 0, "status 429: Too Many Requests"},
		{"network", []exchange{{}, {}, success}, none, 3, 0, 750 * time.Millisecond, ""},
		{"network for good", []exchange{{}}, none, 5, 0, 3750 * time.Millisecond, `Post "https://store.example/v1/apex-ai-proxy/requests/ingest": connection refused`},
		{"503 for good", []exchange{{status: 503, body: strings.Repeat("x", 100<<10)}}, none, 5, 0, 3750 * time.Millisecond, "status 503: Service Unavailable"},
		{"a slow store", []exchange{{hang: true}}, 10 * time.Second, 1, 0, 0, `Post "https://store.example/v1/apex-ai-proxy/requests/ingest": context deadline exceeded`},
		{"400", []exchange{{status: 400, body: `{"error":"PROMPT"}`}}, none, 1, 0, 0, "status 400: Bad Request"},
		{"401", []exchange{{status: 401, body: `{"error":"unauthorized"}`}}, none, 1, 0, 0, "status 401: the store refused the token: check Config.Token"},
		{"404", []exchange{{status: 404}}, none, 1, 0, 0, "status 404: no store there: check Config.BaseURL"},
		{"413", []exchange{{status: 413}}, none, 1, 0, 0, "status 413: Request Entity Too Large"},
		{"redirect", []exchange{{status: 307, header: http.Header{"Location": {"https://other.example/"}}}}, none, 1, 0, 0, "status 307: redirects are not followed: set Config.BaseURL to the final address"},
		{"a page", []exchange{{status: 200, body: "<html>PROMPT"}}, none, 1, 0, 0, "status 200: the answer is not that of an aepipe store: check Config.BaseURL"},
		{"another service", []exchange{{status: 200, body: `{"success":true}`}}, none, 1, 0, 0, "status 200: the answer is not that of an aepipe store: check Config.BaseURL"},
		{"skipped", []exchange{{status: 200, body: `{"ok":true,"written":0}`}}, none, 1, 0, 0, "status 200: the store took 0 of 1 records of a call"},
		{"no D1", []exchange{{status: 200, body: `{"ok":true,"written":1,"payload_degraded":true,"payload_error":"PROMPT"}`}}, none, 1, 0, 0, "status 200: stored without their payload: look at the store's D1 database"},
	}
	for _, test := range tests {
		t.Run(test.name, func(t *testing.T) {
			t.Parallel()
			synctest.Test(t, func(t *testing.T) {
				s := &script{answers: map[string][]exchange{"ingest": test.answers}, times: map[string][]time.Duration{}, start: time.Now()}
				r := newReporter(t, Config{BaseURL: "https://store.example", HTTPClient: &http.Client{Transport: s}})
				ctx, cancel := context.WithTimeout(t.Context(), test.deadline)
				defer cancel()
				err := r.Report(ctx, []apexproxy.Record{record()})
				took := time.Since(s.start)

				times := s.times["ingest"]
				if len(times) != test.attempts {
					t.Fatalf("%d attempts, want %d", len(times), test.attempts)
				}
				if last := times[len(times)-1]; last < test.min || last > test.max {
					t.Errorf("the last attempt came after %v, want %v to %v", last, test.min, test.max)
				}
				// Nothing is waited for after the last attempt.
				if want := times[len(times)-1]; took != want && (!test.answers[0].hang || took != test.deadline) {
					t.Errorf("took %v, want %v", took, want)
				}
				// The other logstore got its entry whatever happened.
				if len(s.times["log"]) != 1 {
					t.Errorf("%d calls to raw, want 1", len(s.times["log"]))
				}
				want := "<nil>"
				if test.err != "" {
					want = "aepipe: logstore requests: 1 of 1 records lost or incomplete: "
					if strings.HasPrefix(test.err, "status") {
						want += "aepipe: "
					}
					want += test.err
				}
				if got := fmt.Sprint(err); got != want {
					t.Errorf("error\n%s, want\n%s", got, want)
				}
				var status *Error
				if strings.Contains(test.err, "status") && (!errors.As(err, &status) || status.Status != test.answers[0].status) {
					t.Errorf("%v is not an *Error with status %d", err, test.answers[0].status)
				}
				answered := 1
				for i := range times {
					if test.answers[min(i, len(test.answers)-1)].status != 0 {
						answered++
					}
				}
				if s.closed != answered {
					t.Errorf("%d of %d bodies closed", s.closed, answered)
				}
			})
		})
	}
}

// TestBackoffGrows looks at many runs: each wait is random, up to a bound that doubles.
func TestBackoffGrows(t *testing.T) {
	t.Parallel()
	var longest [maxAttempts - 1]time.Duration
	for range 60 {
		synctest.Test(t, func(t *testing.T) {
			s := &script{answers: map[string][]exchange{"ingest": {{status: 500}}}, times: map[string][]time.Duration{}, start: time.Now()}
			r := newReporter(t, Config{BaseURL: "https://store.example", HTTPClient: &http.Client{Transport: s}})
			_ = r.Report(t.Context(), []apexproxy.Record{record()})
			for i, at := range s.times["ingest"][1:] {
				longest[i] = max(longest[i], at-s.times["ingest"][i])
			}
		})
	}
	for i, got := range longest {
		if bound := minBackoff << i; got > bound || got < bound*3/4 {
			t.Errorf("the longest wait before attempt %d was %v, want nearly %v", i+2, got, bound)
		}
	}
}

func TestDeadline(t *testing.T) {
	t.Parallel()
	tests := []struct {
		name           string
		answers        map[string][]exchange
		deadline       time.Duration
		least, longest time.Duration
	}{
		{"both hang", map[string][]exchange{"ingest": {{hang: true}}, "log": {{hang: true}}}, 3 * time.Second, 3 * time.Second, 3 * time.Second},
		{"both fail", map[string][]exchange{"ingest": {{status: 500}}, "log": {{}}}, time.Second, 0, time.Second},
		{"cancelled before", map[string][]exchange{"ingest": {{hang: true}}}, 0, 0, 0},
	}
	for _, test := range tests {
		t.Run(test.name, func(t *testing.T) {
			t.Parallel()
			synctest.Test(t, func(t *testing.T) {
				s := &script{answers: test.answers, times: map[string][]time.Duration{}, start: time.Now()}
				r := newReporter(t, Config{BaseURL: "https://store.example", HTTPClient: &http.Client{Transport: s}})
				ctx, cancel := context.WithTimeout(t.Context(), test.deadline)
				defer cancel()
				err := r.Report(ctx, slices.Repeat([]apexproxy.Record{record()}, 600))
				if took := time.Since(s.start); took < test.least || took > test.longest {
					t.Errorf("returned after %v", took)
				}
				if got := fmt.Sprint(err); strings.Count(got, "600 of 600 records lost or incomplete") != 2 {
					t.Errorf("error %s", got)
				}
			})
		})
	}
	t.Run("cancelled while it waits", func(t *testing.T) {
		t.Parallel()
		synctest.Test(t, func(t *testing.T) {
			s := &script{answers: map[string][]exchange{"log": {{status: 429, header: http.Header{"Retry-After": {"30"}}}}}, times: map[string][]time.Duration{}, start: time.Now()}
			r := newReporter(t, Config{BaseURL: "https://store.example", HTTPClient: &http.Client{Transport: s}})
			ctx, cancel := context.WithCancel(t.Context())
			time.AfterFunc(11*time.Second, cancel)
			if err := r.Report(ctx, []apexproxy.Record{record()}); err == nil || time.Since(s.start) != 11*time.Second {
				t.Errorf("error %v after %v, want one after 11s", err, time.Since(s.start))
			}
		})
	})
}

// TestIndependence lets one logstore fail or hang and looks at the other.
func TestIndependence(t *testing.T) {
	t.Parallel()
	failures := map[string]exchange{"final": {status: 401}, "temporary": {status: 503}, "hangs": {hang: true}, "network": {}}
	for name, failure := range failures {
		for _, broken := range []string{"ingest", "log"} {
			t.Run(name+"/"+broken, func(t *testing.T) {
				t.Parallel()
				synctest.Test(t, func(t *testing.T) {
					ok := exchange{status: 200, body: `{"ok":true,"written":250}`}
					last := exchange{status: 200, body: `{"ok":true,"written":100}`}
					s := &script{
						answers: map[string][]exchange{"ingest": {ok, ok, last}, "log": {ok, ok, last}},
						times:   map[string][]time.Duration{}, start: time.Now(),
					}
					s.answers[broken] = []exchange{failure}
					r := newReporter(t, Config{BaseURL: "https://store.example", HTTPClient: &http.Client{Transport: s}})
					ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
					defer cancel()
					err := r.Report(ctx, slices.Repeat([]apexproxy.Record{record()}, 600))
					other, store := "log", "requests"
					if broken == "log" {
						other, store = "ingest", "raw"
					}
					if got := s.times[other]; len(got) != 3 || got[2] != 0 {
						t.Errorf("calls to %s at %v, want 3 at once", other, got)
					}
					if want := "aepipe: logstore " + store + ": 600 of 600 records lost or incomplete: "; err == nil || !strings.HasPrefix(err.Error(), want) || strings.Count(err.Error(), "lost or incomplete") != 1 {
						t.Errorf("error %v, want %s…", err, want)
					}
				})
			})
		}
	}
}

// TestPartialFailure has one call of several fail: the others count.
func TestPartialFailure(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		ok := exchange{status: 200, body: `{"ok":true,"written":250}`}
		s := &script{answers: map[string][]exchange{"ingest": {ok, {status: 400}, {status: 200, body: `{"ok":true,"written":100}`}}, "log": {ok, ok, {status: 200, body: `{"ok":true,"written":100}`}}}, times: map[string][]time.Duration{}}
		r := newReporter(t, Config{BaseURL: "https://store.example", HTTPClient: &http.Client{Transport: s}})
		err := r.Report(t.Context(), slices.Repeat([]apexproxy.Record{record()}, 600))
		if want := "aepipe: logstore requests: 250 of 600 records lost or incomplete: aepipe: status 400: Bad Request"; fmt.Sprint(err) != want {
			t.Errorf("error %v, want %s", err, want)
		}
	})
}

type roundTripper func(*http.Request) (*http.Response, error)

func (f roundTripper) RoundTrip(r *http.Request) (*http.Response, error) { return f(r) }

// A transport may go on reading a body after its RoundTrip returned, as one does that got an early
// answer. What it reads then must be that call and no later one.
func TestLateReaders(t *testing.T) {
	t.Parallel()
	type body struct {
		late     io.Reader
		written  string
		n        int
		logstore string
	}
	var mu sync.Mutex
	var bodies []body
	r := newReporter(t, Config{BaseURL: "https://store.example", HTTPClient: &http.Client{Transport: roundTripper(func(r *http.Request) (*http.Response, error) {
		again, err := r.GetBody()
		if err != nil {
			return nil, err
		}
		written, err := io.ReadAll(again)
		if err != nil {
			return nil, err
		}
		n := len(gjson.GetBytes(written, "points").Array()) + len(gjson.GetBytes(written, "logs").Array())
		mu.Lock()
		defer mu.Unlock()
		bodies = append(bodies, body{late: r.Body, written: string(written), n: n, logstore: r.URL.Path})
		return &http.Response{StatusCode: 200, Request: r, Body: io.NopCloser(strings.NewReader(fmt.Sprintf(`{"ok":true,"written":%d}`, n)))}, nil
	})}})
	batch := slices.Repeat([]apexproxy.Record{record()}, 600)
	for i := range batch {
		batch[i].ID = fmt.Sprintf("id-%d", i)
	}
	if err := r.Report(t.Context(), batch); err != nil {
		t.Fatal(err)
	}
	sent := map[string][]int{}
	for i, b := range bodies {
		sent[b.logstore] = append(sent[b.logstore], b.n)
		late, err := io.ReadAll(b.late)
		if err != nil || string(late) != b.written {
			t.Errorf("call %d of %d entries was written over after it returned, error %v", i, b.n, err)
		}
	}
	want := []int{250, 250, 100}
	if diff := cmp.Diff(map[string][]int{"/v1/apex-ai-proxy/requests/ingest": want, "/v1/apex-ai-proxy/raw/log": want}, sent); diff != "" {
		t.Errorf("entries a call (-want +got):\n%s", diff)
	}
}

func TestTransportPanics(t *testing.T) {
	t.Parallel()
	r := newReporter(t, Config{BaseURL: "https://store.example", HTTPClient: &http.Client{Transport: roundTripper(func(*http.Request) (*http.Response, error) {
		panic("token " + token)
	})}})
	err := r.Report(t.Context(), []apexproxy.Record{record()})
	if want := "aepipe: logstore requests: panic with a string\naepipe: logstore raw: panic with a string"; fmt.Sprint(err) != want {
		t.Errorf("error %v, want %s", err, want)
	}
}

// TestRedirect has a server on each side: the second must see nothing.
func TestRedirect(t *testing.T) {
	t.Parallel()
	other := startAepipe(t)
	srv := httptest.NewServer(http.RedirectHandler(other.URL, http.StatusPermanentRedirect))
	t.Cleanup(srv.Close)
	mine := &http.Client{CheckRedirect: func(*http.Request, []*http.Request) error { return nil }}
	for _, c := range []*http.Client{nil, mine} {
		err := newReporter(t, Config{BaseURL: srv.URL, HTTPClient: c}).Report(t.Context(), []apexproxy.Record{record()})
		if err == nil || other.Connections() != 0 {
			t.Errorf("error %v, %d connections to the other host", err, other.Connections())
		}
	}
	if mine.CheckRedirect(nil, nil) != nil {
		t.Error("the caller's client was changed")
	}
}

// TestErrorsHoldNoSecret runs into every kind of error with a store that echoes.
func TestErrorsHoldNoSecret(t *testing.T) {
	t.Parallel()
	rec := record()
	secrets := []string{token, "PROMPT", "claude-client", "/v1/chat"}
	rec.Content.RequestBody = []byte("PROMPT")
	for _, status := range []int{200, 302, 400, 401, 404, 418, 429, 500} {
		srv := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
			b, err := io.ReadAll(r.Body)
			if err != nil {
				panic(http.ErrAbortHandler)
			}
			w.Header().Set("Location", "/"+token)
			w.Header().Set("Retry-After", "3600")
			w.WriteHeader(status)
			fmt.Fprintf(w, `{"error":%q}`, r.Header.Get("Authorization")+string(b))
		}))
		err := newReporter(t, Config{BaseURL: srv.URL}).Report(t.Context(), []apexproxy.Record{rec})
		srv.Close()
		if err == nil {
			t.Errorf("no error for %d", status)
			continue
		}
		for _, s := range secrets {
			if strings.Contains(fmt.Sprintf("%v %+v %#v", err, err, err), s) {
				t.Errorf("%v shows %s", err, s)
			}
		}
	}
}

// delivering reads back what the fake store holds.
type delivering struct {
	*Reporter
	fake *aepipetest.Server
}

func (d delivering) Delivered() (list []apexproxy.Record) {
	for _, p := range d.fake.Points("requests") {
		meta := gjson.GetBytes(p.Payload, "meta")
		list = append(list, apexproxy.Record{
			ID:           meta.Get("id").Str,
			Provider:     p.Blobs[0],
			RequestModel: p.Blobs[8],
			StatusCode:   int(p.Doubles[1]),
			Outcome:      apexproxy.Outcome(p.Blobs[6]),
		})
	}
	return list
}

func TestConformance(t *testing.T) {
	t.Parallel()
	reportertest.Run(t, func(t *testing.T) apexproxy.Reporter {
		fake := startAepipe(t)
		if strings.HasSuffix(t.Name(), "/Deadline") {
			fake.Script(apexproxytest.Hang())
		}
		return delivering{newReporter(t, Config{BaseURL: fake.URL}), fake}
	})
}
