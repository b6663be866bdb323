package apexproxy

import (
	"bytes"
	"context"
	"fmt"
	"io"
	"net"
	"net/http"
	"strings"
	"testing"
)

// inMemory is a transport that answers everything with the same.
type inMemory struct {
	header http.Header
	body   string
}

func (t *inMemory) RoundTrip(r *http.Request) (*http.Response, error) {
	_, _ = io.Copy(io.Discard, r.Body)
	length := int64(len(t.body))
	if isEventStream(t.header) {
		length = -1
	}
	return &http.Response{StatusCode: 200, Header: t.header.Clone(), Body: io.NopCloser(strings.NewReader(t.body)), ContentLength: length}, nil
}

// canned returns a real transport whose connections answer each request, which ends in "]}", with
// the same bytes.
func canned(tb testing.TB, answer string) *http.Transport {
	t := &http.Transport{DialContext: func(context.Context, string, string) (net.Conn, error) {
		here, there := net.Pipe()
		go func() {
			defer there.Close()
			answer, buf := []byte(answer), make([]byte, 32<<10)
			for {
				n, err := there.Read(buf)
				if err != nil {
					return
				}
				if bytes.HasSuffix(buf[:n], []byte("]}")) {
					if _, err := there.Write(answer); err != nil {
						return
					}
				}
			}
		}()
		return here, nil
	}}
	tb.Cleanup(t.CloseIdleConnections)
	return t
}

// discarding is a client that takes everything.
type discarding struct{ header http.Header }

func (w *discarding) Header() http.Header         { return w.header }
func (w *discarding) Write(b []byte) (int, error) { return len(b), nil }
func (w *discarding) WriteHeader(int)             {}
func (w *discarding) Flush()                      {}

// exchanges are kinds of work, each with what one exchange may allocate in the proxy, the transport
// and the client above and the header of the request included.
var exchanges = map[string]struct {
	path, model, contentType, answer string
	most                             float64
	lent                             bool // the request is, to a real transport
}{
	"copied": {"/v1/chat/completions", "m#openai", "application/json",
		`{"id":"c","model":"m","choices":[{"index":0,"message":{"role":"assistant","content":"words"},"finish_reason":"stop"}],"usage":{"prompt_tokens":5,"completion_tokens":4}}`, 46, false},
	"lent": {"/v1/chat/completions", "m#openai", "application/json",
		`{"id":"c","model":"m","choices":[]}`, 85, true},
	"copied stream": {"/v1/chat/completions", "m#openai", "text/event-stream",
		strings.Repeat(`data: {"model":"m","choices":[{"index":0,"delta":{"content":"word"},"finish_reason":null}]}`+"\n\n", 500) + "data: [DONE]\n\n", 56, false},
	"converted": {"/v1/messages", "m#openai", "application/json",
		`{"id":"c","model":"m","choices":[{"index":0,"message":{"role":"assistant","content":"words"},"finish_reason":"stop"}],"usage":{"prompt_tokens":5,"completion_tokens":4}}`, 75, false},
	"converted stream": {"/v1/messages", "m#openai", "text/event-stream",
		strings.Repeat(`data: {"model":"m","choices":[{"index":0,"delta":{"content":"word"},"finish_reason":null}]}`+"\n\n", 500) +
			`data: {"choices":[{"index":0,"delta":{},"finish_reason":"stop"}]}` + "\n\ndata: [DONE]\n\n", 100, false},
}

// exchange returns a function that runs one exchange of a kind.
func newExchange(tb testing.TB, kind string) func() {
	tb.Helper()
	k := exchanges[kind]
	var transport http.RoundTripper = &inMemory{http.Header{"Content-Type": {k.contentType}, "X-Request-Id": {"r"}, "Cf-Aig-Log-Id": {"l"}}, k.answer}
	if k.lent {
		transport = canned(tb, fmt.Sprintf("HTTP/1.1 200 OK\r\nContent-Type: %s\r\nContent-Length: %d\r\n\r\n%s", k.contentType, len(k.answer), k.answer))
	}
	p, err := New(WithGateway(Gateway{BaseURL: "http://gateway.example", Token: "token"}), WithTransport(transport), WithMapping("a#b"),
		WithReporter(ReporterFunc(func(context.Context, []Record) error { return nil })))
	if err != nil {
		tb.Fatal(err)
	}
	tb.Cleanup(func() { _ = p.Shutdown(context.Background()) })
	stream := "false"
	if strings.HasPrefix(k.contentType, "text/event-stream") {
		stream = "true"
	}
	body := []byte(`{"model":"` + k.model + `","max_tokens":10,"stream":` + stream + `,"messages":[{"role":"user","content":"` + strings.Repeat("words ", 300) + `"}]}`)
	head := http.Header{"Authorization": {"Bearer token"}, "Content-Type": {"application/json"}, "User-Agent": {"test"}, "Accept": {"*/*"}, "X-Stainless-Lang": {"js"}}
	return func() {
		r, err := http.NewRequest(http.MethodPost, "http://proxy.example"+k.path, bytes.NewReader(body))
		if err != nil {
			tb.Fatal(err)
		}
		r.Header = head
		p.ServeHTTP(&discarding{http.Header{}}, r)
	}
}

// What an exchange allocates is what the collector has to do at thousands of them a second. A
// stream costs no more for being long.
func TestExchange_allocations(t *testing.T) {
	if raceEnabled {
		t.Skip("the race detector empties pools")
	}
	for name, k := range exchanges {
		run := newExchange(t, name)
		run()
		if n := testing.AllocsPerRun(200, run); n > k.most {
			t.Errorf("%s: %v allocations an exchange, want at most %v", name, n, k.most)
		} else {
			t.Logf("%s: %v allocations", name, n)
		}
	}
}

// BenchmarkExchange is what an exchange costs in the proxy itself, without any network: for
// profiles. What a process pays is measured in bench.
func BenchmarkExchange(b *testing.B) {
	for name := range exchanges {
		b.Run(name, func(b *testing.B) {
			run := newExchange(b, name)
			b.ReportAllocs()
			for b.Loop() {
				run()
			}
		})
	}
}
