package apexproxy_test

import (
	"bufio"
	"bytes"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"net/textproto"
	"strings"
	"sync"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/loadchange/apexproxy"
	"github.com/loadchange/apexproxy/apexproxytest"
)

// mounts are the ways in which a host gives the proxy a place on its own mux.
var mounts = []struct {
	name, prefix string
	wrap         func(http.Handler) http.Handler
}{
	{"alone", "", nil},
	{"StripPrefix on a subtree", "/llm", func(p http.Handler) http.Handler {
		mux := http.NewServeMux()
		mux.Handle("/llm/", http.StripPrefix("/llm", p))
		return mux
	}},
	{"subtree", "/llm", func(p http.Handler) http.Handler {
		mux := http.NewServeMux()
		mux.Handle("/llm/", p)
		return mux
	}},
	{"wildcard", "/llm", func(p http.Handler) http.Handler {
		mux := http.NewServeMux()
		mux.Handle("POST /llm/v1/{rest...}", p)
		return mux
	}},
	{"exact", "", func(p http.Handler) http.Handler {
		mux := http.NewServeMux()
		mux.Handle("POST /v1/chat/completions", p)
		mux.Handle("POST /v1/messages", p)
		return mux
	}},
	{"nested mux", "/api/llm", func(p http.Handler) http.Handler {
		inner := http.NewServeMux()
		inner.Handle("/llm/", http.StripPrefix("/llm", p))
		mux := http.NewServeMux()
		mux.Handle("/api/", http.StripPrefix("/api", inner))
		return mux
	}},
}

func TestMounted(t *testing.T) {
	t.Parallel()
	for _, mount := range mounts {
		for _, op := range []struct{ path, model, want string }{
			{"/v1/chat/completions", "m#mistral", "/v1/account/gateway/mistral/v1/chat/completions"},
			{"/v1/messages", "m#anthropic", "/v1/account/gateway/anthropic/v1/messages"},
		} {
			t.Run(mount.name+op.path, func(t *testing.T) {
				t.Parallel()
				rig := newRig(t, rigConfig{wrap: mount.wrap}, echo)
				res, body := rig.do(t, rig.request(t, gatewayMode, mount.prefix+op.path+"?beta=true", `{"model":"`+op.model+`"}`))
				if res.StatusCode != http.StatusOK || string(body) != `{"model":"m"}` {
					t.Fatalf("%d %s", res.StatusCode, body)
				}
				if got, want := rig.upstream.Requests()[0].RequestURI, op.want+"?beta=true"; got != want {
					t.Errorf("upstream got %s, want %s", got, want)
				}
			})
		}
	}
}

// Escapes reach a passthrough upstream as the client wrote them, with and without StripPrefix.
func TestEscapedPathsSurvive(t *testing.T) {
	t.Parallel()
	for _, prefix := range []string{"", "/llm"} {
		t.Run("prefix "+prefix, func(t *testing.T) {
			t.Parallel()
			rig := newRig(t, rigConfig{wrap: func(p http.Handler) http.Handler { return http.StripPrefix(prefix, p) }}, echo)
			for _, path := range []string{
				"/v1/chat/completions",
				"/accounts%2Fteam/v1/chat/completions",
				"/models/@cf/meta%2Fllama:8b/v1/chat/completions",
				"/a%20b/%E4%B8%96/v1/messages",
				"/sub;v=1/v1/embeddings",
				"/v1/chat/completions?x=a%2Fb&y=%20",
			} {
				rig.upstream.Reset()
				req := rig.request(t, passthroughMode, prefix+path, `{}`)
				if res, body := rig.do(t, req); res.StatusCode != http.StatusOK {
					t.Errorf("%s: %d %s", path, res.StatusCode, body)
					continue
				}
				if got := rig.upstream.Requests()[0].RequestURI; got != path {
					t.Errorf("%s arrived as %s", path, got)
				}
			}
		})
	}
}

func TestLiveness(t *testing.T) {
	t.Parallel()
	at := func(pattern string) func(http.Handler) http.Handler {
		return func(p http.Handler) http.Handler {
			mux := http.NewServeMux()
			mux.Handle(pattern, p)
			return mux
		}
	}
	for _, c := range []struct {
		name string
		wrap func(http.Handler) http.Handler
		path string
		want int
	}{
		{"root", nil, "/", 200},
		{"StripPrefix", mounts[1].wrap, "/llm/", 200},
		{"StripPrefix without slash", func(p http.Handler) http.Handler { return http.StripPrefix("/llm", p) }, "/llm", 200},
		{"subtree", at("/llm/"), "/llm/", 200},
		{"subtree of a host", at("127.0.0.1/llm/"), "/llm/", 200},
		{"wildcard", at("/llm/{rest...}"), "/llm/", 200},
		{"wildcard below a version", at("/llm/v1/{rest...}"), "/llm/v1/", 200},
		{"exact", at("/llm/{$}"), "/llm/", 200},
		{"elsewhere in the subtree", at("/llm/"), "/llm/status", 404},
		{"elsewhere", nil, "/status", 404},
	} {
		t.Run(c.name, func(t *testing.T) {
			t.Parallel()
			rig := newRig(t, rigConfig{wrap: c.wrap})
			for _, method := range []string{http.MethodGet, http.MethodHead} {
				req := rig.request(t, gatewayMode, c.path, "")
				req.Method, req.Body, req.ContentLength = method, nil, 0
				req.Header.Del("Authorization") // anybody may ask
				res, body := rig.do(t, req)
				if res.StatusCode != c.want {
					t.Errorf("%s %s: %d, want %d", method, c.path, res.StatusCode, c.want)
				}
				if got, want := string(body), `{"status":"ok"}`+"\n"; c.want == 200 && method == http.MethodGet && got != want {
					t.Errorf("body %q, want %q", got, want)
				}
				if method == http.MethodHead && len(body) > 0 {
					t.Errorf("HEAD with a body: %q", body)
				}
			}
			if n := rig.upstream.Connections(); n != 0 {
				t.Errorf("%d connections to the upstream", n)
			}
		})
	}
}

// A browser asks before it has a key to show.
func TestOptionsNeedsNoKey(t *testing.T) {
	t.Parallel()
	rig := newRig(t, rigConfig{options: []apexproxy.Option{apexproxy.WithCORS("https://app.example.com")}})
	for _, path := range []string{"/", "/v1/chat/completions", "/v1/messages", "/v1/models/x", "/nowhere"} {
		req := rig.request(t, passthroughMode, path, "")
		req.Method, req.Body, req.ContentLength = http.MethodOptions, nil, 0
		req.Header = headers("Origin", "https://app.example.com", "Access-Control-Request-Method", "POST", "Access-Control-Request-Headers", "x-api-key, x-custom")
		res, body := rig.do(t, req)
		if res.StatusCode != http.StatusNoContent || len(body) > 0 {
			t.Errorf("%s: %d %q", path, res.StatusCode, body)
		}
		if got := res.Header.Get("Access-Control-Allow-Origin"); got != "https://app.example.com" {
			t.Errorf("%s: Access-Control-Allow-Origin %q", path, got)
		}
		if got := res.Header.Get("Access-Control-Allow-Headers"); !strings.Contains(got, "x-custom") {
			t.Errorf("%s: Access-Control-Allow-Headers %q", path, got)
		}
	}
	if n := rig.upstream.Connections(); n != 0 {
		t.Errorf("%d connections to the upstream", n)
	}
}

// statusLogger is a host's logging writer as many are written: it has Unwrap, and what
// http.ResponseController finds behind it, but no Flush of its own.
type statusLogger struct {
	http.ResponseWriter
	status int
}

func (w *statusLogger) WriteHeader(status int) {
	if status >= 200 {
		w.status = status
	}
	w.ResponseWriter.WriteHeader(status)
}

func (w *statusLogger) Unwrap() http.ResponseWriter { return w.ResponseWriter }

// plainWriter has nothing but the three methods.
type plainWriter struct{ w http.ResponseWriter }

func (w plainWriter) Header() http.Header         { return w.w.Header() }
func (w plainWriter) Write(b []byte) (int, error) { return w.w.Write(b) }
func (w plainWriter) WriteHeader(status int)      { w.w.WriteHeader(status) }

func TestBehindLoggingAndRecovery(t *testing.T) {
	t.Parallel()
	events := apexproxytest.ChatStream("a", "b")
	gate := apexproxytest.Steps(events...)
	logged := make(chan int, 1)
	rig := newRig(t, rigConfig{wrap: func(next http.Handler) http.Handler {
		return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
			lw := &statusLogger{ResponseWriter: w}
			defer func() {
				v := recover()
				logged <- lw.status
				if v != nil {
					panic(v)
				}
			}()
			next.ServeHTTP(lw, r)
		})
	}}, gate)
	req := rig.request(t, gatewayMode, "/v1/chat/completions", `{"model":"m#mistral","stream":true}`)
	res := rig.open(t, req)
	for _, event := range events {
		if err := gate.Next(req.Context()); err != nil {
			t.Fatal(err)
		}
		got := make([]byte, len(event))
		if _, err := io.ReadFull(res.Body, got); err != nil || string(got) != event {
			t.Fatalf("got %q, %v; want %q", got, err, event)
		}
	}
	if err := gate.Next(req.Context()); err != nil {
		t.Fatal(err)
	}
	if _, err := io.ReadAll(res.Body); err != nil {
		t.Error(err)
	}
	if got := <-logged; got != http.StatusOK {
		t.Errorf("logged status %d", got)
	}

	rig.upstream.Script(apexproxytest.EarlyHints(apexproxytest.RateLimited()))
	rig.do(t, rig.request(t, gatewayMode, "/v1/chat/completions", `{"model":"m#mistral"}`))
	if got := <-logged; got != http.StatusTooManyRequests {
		t.Errorf("logged status %d, want 429", got)
	}
}

// A writer that can do nothing but write may hold events back. It must not change or lose them, nor
// hide their breaking off.
func TestBehindAPlainWriter(t *testing.T) {
	t.Parallel()
	for _, proto := range protocols {
		t.Run(proto.name, func(t *testing.T) {
			t.Parallel()
			events := oddEvents()
			rig := newRig(t, rigConfig{
				clientHTTP2: proto.clientHTTP2, upstreamHTTP2: proto.upstreamHTTP2,
				options: []apexproxy.Option{apexproxy.WithMaxRequestBytes(4 << 10)},
				wrap: func(next http.Handler) http.Handler {
					return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) { next.ServeHTTP(plainWriter{w}, r) })
				},
			}, apexproxytest.SSE(events...))
			for _, route := range streamRoutes {
				_, got := rig.do(t, rig.request(t, route.mode, "/v1/chat/completions", route.body))
				if string(got) != strings.Join(events, "") {
					t.Errorf("%s: received %s", route.name, clip(got))
				}
			}
			rig.upstream.Script(apexproxytest.Abort("data: 1\n\n"))
			res, err := rig.client.Do(rig.request(t, gatewayMode, "/v1/chat/completions", `{"model":"m#mistral","stream":true}`))
			if err == nil {
				defer res.Body.Close()
				if got, err := io.ReadAll(res.Body); err == nil {
					t.Errorf("a clean end after %q", got)
				}
			}
			big := rig.request(t, gatewayMode, "/v1/chat/completions", strings.Repeat(" ", 4<<10+1))
			big.ContentLength = -1
			if res, _ := rig.do(t, big); res.StatusCode != http.StatusRequestEntityTooLarge {
				t.Errorf("a body above the limit: status %d", res.StatusCode)
			}
		})
	}
}

// A limit that the host put outside is the client's mistake too.
func TestMaxBytesHandlerOutside(t *testing.T) {
	t.Parallel()
	for _, chunked := range []bool{false, true} {
		t.Run(fmt.Sprint("chunked ", chunked), func(t *testing.T) {
			t.Parallel()
			rig := newRig(t, rigConfig{wrap: func(p http.Handler) http.Handler { return http.MaxBytesHandler(p, 100) }}, echo)
			body := `{"model":"m#mistral"}` + strings.Repeat(" ", 200)
			req := rig.request(t, gatewayMode, "/v1/chat/completions", body)
			if chunked {
				req.ContentLength = -1
			}
			res, got := rig.do(t, req)
			if res.StatusCode != http.StatusRequestEntityTooLarge {
				t.Errorf("%d %s", res.StatusCode, got)
			}
			if n := rig.upstream.Connections(); n != 0 {
				t.Errorf("%d connections to the upstream", n)
			}
		})
	}
}

// The server has told the client to go on when the body was read; an upstream that never says 100
// must not make the exchange wait for it.
func TestExpectContinue(t *testing.T) {
	t.Parallel()
	for _, mode := range []string{gatewayMode, passthroughMode} {
		t.Run(mode, func(t *testing.T) {
			t.Parallel()
			rig := newRig(t, rigConfig{}, echo)
			conn, err := net.Dial("tcp", rig.server.Listener.Addr().String())
			if err != nil {
				t.Fatal(err)
			}
			defer conn.Close()
			const body = `{"model":"m#mistral"}`
			req := rig.request(t, mode, "/v1/chat/completions", "")
			head := "POST /v1/chat/completions HTTP/1.1\r\nHost: x\r\nExpect: 100-continue\r\nConnection: close\r\nContent-Length: " + fmt.Sprint(len(body)) + "\r\n"
			for name, values := range req.Header {
				head += name + ": " + values[0] + "\r\n"
			}
			_, _ = io.WriteString(conn, head+"\r\n")
			in := textproto.NewReader(bufio.NewReader(conn))
			if line, err := in.ReadLine(); err != nil || line != "HTTP/1.1 100 Continue" {
				t.Fatalf("got %q, %v", line, err)
			}
			_, _ = io.WriteString(conn, body)
			rest, err := io.ReadAll(in.R)
			if err != nil || !bytes.Contains(rest, []byte("HTTP/1.1 200 OK\r\n")) {
				t.Errorf("got %q, %v", rest, err)
			}
			if got, ok := rig.upstream.Requests()[0].Header["Expect"]; ok {
				t.Errorf("the upstream was asked to say 100: Expect %q", got)
			}
		})
	}
}

func TestInProcess(t *testing.T) {
	t.Parallel()
	rig := newRig(t, rigConfig{}, apexproxytest.SSE("data: 1\n\n", "data: 2\n\n"))
	req := httptest.NewRequest(http.MethodPost, "/v1/chat/completions", strings.NewReader(`{"model":"m#mistral","stream":true}`))
	req.Header.Set("Authorization", "Bearer "+gatewayToken)
	w := httptest.NewRecorder()
	rig.proxy.ServeHTTP(w, req)
	if w.Code != http.StatusOK || w.Body.String() != "data: 1\n\ndata: 2\n\n" || !w.Flushed {
		t.Errorf("%d %q, flushed %v", w.Code, w.Body, w.Flushed)
	}
}

// The stages decide on the request and leave it alone: what runs after the proxy, such as a log
// line, sees what the client sent.
func TestRequestIsNotChanged(t *testing.T) {
	t.Parallel()
	for _, mode := range []string{gatewayMode, passthroughMode} {
		t.Run(mode, func(t *testing.T) {
			t.Parallel()
			changes := make(chan string, 1)
			rig := newRig(t, rigConfig{wrap: func(next http.Handler) http.Handler {
				return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
					type seen struct {
						Method, Host, RequestURI, Pattern string
						URL                               string
						Header, Trailer                   http.Header
						ContentLength                     int64
						TransferEncoding                  []string
					}
					look := func() seen {
						return seen{r.Method, r.Host, r.RequestURI, r.Pattern, fmt.Sprintf("%#v", *r.URL), r.Header.Clone(), r.Trailer.Clone(), r.ContentLength, r.TransferEncoding}
					}
					before, body, ctx := look(), r.Body, r.Context()
					next.ServeHTTP(w, r)
					diff := cmp.Diff(before, look())
					if r.Body != body || r.Context() != ctx {
						diff += "body or context replaced"
					}
					changes <- diff
				})
			}}, echo)
			req := rig.request(t, mode, "/v1/%63hat/completions?b=2&a=1;x", `{"model":"cheap#mistral"}`)
			req.URL.Path, req.URL.RawPath = "/x@y/v1/chat/completions", "/x%40y/v1/chat/completions"
			for name, value := range map[string]string{
				"Connection": "X-Hop", "X-Hop": "1", "Cookie": "a=b", "X-Forwarded-For": "192.0.2.1", "X-Api-Key": clientKey,
				"Cf-Aig-Authorization": "Bearer mine", "X-Apex-Ai-Proxy-Mapping": "cheap#dear", "Accept-Encoding": "br", "Origin": "https://x.example", "Te": "trailers",
			} {
				req.Header.Set(name, value)
			}
			if res, body := rig.do(t, req); res.StatusCode != http.StatusOK || !bytes.Contains(body, []byte("dear")) {
				t.Fatalf("%d %s", res.StatusCode, body)
			}
			if diff := <-changes; diff != "" {
				t.Errorf("request before and after (-before +after):\n%s", diff)
			}
		})
	}
}

// One Proxy serves everything at once; every client gets its own answer.
func TestConcurrentExchanges(t *testing.T) {
	t.Parallel()
	echoStream := http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		body, _ := io.ReadAll(r.Body)
		w.Header().Set("Content-Type", "text/event-stream")
		for len(body) > 0 {
			n := min(7<<10, len(body))
			_, _ = w.Write(body[:n])
			_ = http.NewResponseController(w).Flush()
			body = body[n:]
		}
	})
	rig := newRig(t, rigConfig{clientHTTP2: true, upstreamHTTP2: true, options: []apexproxy.Option{apexproxy.WithMapping("cheap#dear")}}, echoStream)
	var exchanges sync.WaitGroup
	for i := range 200 {
		pad := fmt.Sprintf(`,"n":%d,"pad":"%s"}`, i, strings.Repeat(fmt.Sprint(i%10), 100*i))
		mode, path, status := gatewayMode, "/v1/chat/completions", http.StatusOK
		body, want := `{"model":"cheap#mistral"`+pad, `{"model":"dear"`+pad
		switch i % 5 {
		case 1:
			mode, body = passthroughMode, `{"model":"cheap"`+pad
		case 2:
			path, body, want = "/v1/messages", `{"model":"m#anthropic"`+pad, `{"model":"m"`+pad
		case 3:
			body, status = `{"model":"cheap#a#b"`+pad, http.StatusBadRequest
		case 4:
			path, status = "/v1/nothing", http.StatusNotFound
		}
		req := rig.request(t, mode, path, body)
		exchanges.Go(func() {
			res, err := rig.client.Do(req)
			if err != nil {
				t.Error(err)
				return
			}
			defer res.Body.Close()
			got, err := io.ReadAll(res.Body)
			if err != nil || res.StatusCode != status || status == http.StatusOK && string(got) != want {
				t.Errorf("exchange %d: %d, %v: %s", i, res.StatusCode, err, clip(got))
			}
		})
	}
	exchanges.Wait()
}
