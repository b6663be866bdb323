package apexproxy_test

import (
	"bytes"
	"context"
	"errors"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/loadchange/apexproxy/apexproxytest"
)

func TestUpstreamDiesBeforeItsAnswer(t *testing.T) {
	t.Parallel()
	type result struct {
		Status      int
		ProxyStatus string
		Body        string
	}
	const message = "the upstream closed the connection before it answered: try again"
	openAI := result{502, "apexproxy; error=connection_terminated",
		`{"error":{"message":"` + message + `","type":"server_error","code":"connection_terminated"}}` + "\n"}
	anthropic := result{502, "apexproxy; error=connection_terminated",
		`{"type":"error","error":{"type":"api_error","message":"` + message + `"},"request_id":"ID"}` + "\n"}
	for _, death := range []struct {
		name    string
		handler http.Handler
	}{
		{"closed", apexproxytest.Abort()},
		{"reset", apexproxytest.ResetConn()},
		{"not HTTP", apexproxytest.Raw("SSH-2.0-OpenSSH_9.9\r\n")},
		{"half a head", apexproxytest.Raw("HTTP/1.1 200 OK\r\nContent-Ty")},
	} {
		for _, proto := range protocols {
			for _, route := range []struct {
				mode, path, model string
				want              result
			}{
				{gatewayMode, "/v1/chat/completions", "m#mistral", openAI},
				{gatewayMode, "/v1/messages", "m#anthropic", anthropic},
				{passthroughMode, "/v1/chat/completions", "m", openAI},
			} {
				t.Run(strings.Join([]string{death.name, proto.name, route.mode, route.model}, "/"), func(t *testing.T) {
					t.Parallel()
					rig := newRig(t, rigConfig{clientHTTP2: proto.clientHTTP2, upstreamHTTP2: proto.upstreamHTTP2}, death.handler)
					res, body := rig.do(t, rig.request(t, route.mode, route.path, `{"model":"`+route.model+`"}`))
					if id := res.Header.Get("Request-Id"); id != "" {
						body = bytes.Replace(body, []byte(id), []byte("ID"), 1)
					}
					if diff := cmp.Diff(route.want, result{res.StatusCode, res.Header.Get("Proxy-Status"), string(body)}); diff != "" {
						t.Errorf("answer (-want +got):\n%s", diff)
					}
				})
			}
		}
	}
}

// The client of an answer that broke off sees an error and never a clean end.
func TestUpstreamDiesInItsAnswer(t *testing.T) {
	t.Parallel()
	const event = "data: 1\n\n"
	for _, death := range []struct {
		name    string
		handler http.Handler
		prefix  string
	}{
		{"stream", apexproxytest.Abort(event), event},
		{"stream after its head", apexproxytest.Abort(""), ""},
		{"reset", apexproxytest.ResetConn(event), ""}, // what was not read yet may be lost
		{"JSON", apexproxytest.Abort(`{"choices":[`), `{"choices":[`},
		{"gzip", apexproxytest.Gzip(apexproxytest.Abort(event)), ""},
		{"length", short(200), "short"},
		{"error with a length", short(500), "short"},
		{"error in chunks", http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
			w.WriteHeader(http.StatusInternalServerError)
			_, _ = io.WriteString(w, "short")
			_ = http.NewResponseController(w).Flush()
			panic(http.ErrAbortHandler)
		}), "short"},
	} {
		for _, proto := range protocols {
			for _, route := range streamRoutes {
				t.Run(death.name+"/"+proto.name+"/"+route.name, func(t *testing.T) {
					t.Parallel()
					rig := newRig(t, rigConfig{clientHTTP2: proto.clientHTTP2, upstreamHTTP2: proto.upstreamHTTP2}, death.handler)
					res, err := rig.client.Do(rig.request(t, route.mode, "/v1/chat/completions", route.body))
					if err != nil {
						return // the head was still in a buffer when the answer broke off
					}
					defer res.Body.Close()
					got, err := io.ReadAll(res.Body)
					if err == nil {
						t.Errorf("a clean end after %q", got)
					}
					if !strings.HasPrefix(string(got), death.prefix) {
						t.Errorf("received %q, want %q and an error", got, death.prefix)
					}
				})
			}
		}
	}
}

// short declares more than it sends.
func short(status int) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		w.Header().Set("Content-Length", "100")
		w.WriteHeader(status)
		_, _ = io.WriteString(w, "short")
		_ = http.NewResponseController(w).Flush()
		panic(http.ErrAbortHandler)
	})
}

func TestClientLeaves(t *testing.T) {
	t.Parallel()
	for _, proto := range protocols {
		for _, route := range streamRoutes {
			for _, when := range []struct {
				name    string
				handler http.Handler
			}{
				{"before the head", apexproxytest.Hang()},
				{"before the first event", apexproxytest.StallAfter()},
				{"between events", apexproxytest.StallAfter("data: 1\n\n")},
			} {
				t.Run(proto.name+"/"+route.name+"/"+when.name, func(t *testing.T) {
					t.Parallel()
					rig := newRig(t, rigConfig{clientHTTP2: proto.clientHTTP2, upstreamHTTP2: proto.upstreamHTTP2}, when.handler)
					req := rig.request(t, route.mode, "/v1/chat/completions", route.body)
					ctx, leave := context.WithCancel(req.Context())
					defer leave()
					left := make(chan error, 1)
					go func() {
						res, err := rig.client.Do(req.WithContext(ctx))
						if err == nil {
							if when.name == "between events" {
								_, _ = io.ReadFull(res.Body, make([]byte, len("data: 1\n\n")))
							}
							leave()
							_, err = io.Copy(io.Discard, res.Body)
							_ = res.Body.Close()
						}
						left <- err
					}()
					if err := rig.upstream.WaitRequests(req.Context(), 1); err != nil {
						t.Fatal(err)
					}
					if when.name == "before the head" {
						leave()
					}
					if err := <-left; !errors.Is(err, context.Canceled) {
						t.Errorf("the client left with %v", err)
					}
					if err := rig.upstream.WaitCancelled(req.Context(), 1); err != nil {
						t.Errorf("the upstream works on for nobody: %v", err)
					}
				})
			}
		}
	}
}

// A client that leaves while it sends has asked for nothing yet.
func TestClientLeavesInItsRequest(t *testing.T) {
	t.Parallel()
	done := make(chan struct{})
	rig := newRig(t, rigConfig{wrap: func(next http.Handler) http.Handler {
		return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
			defer close(done)
			next.ServeHTTP(w, r)
		})
	}})
	conn, err := net.Dial("tcp", rig.server.Listener.Addr().String())
	if err != nil {
		t.Fatal(err)
	}
	_, _ = io.WriteString(conn, "POST /v1/chat/completions HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer "+gatewayToken+"\r\nContent-Length: 100\r\n\r\n"+`{"model":"m#mistral"`)
	_ = conn.Close()
	<-done
	if n := rig.upstream.Connections(); n != 0 {
		t.Errorf("%d connections to the upstream", n)
	}
}

// The deadlines of a host's server count from the request; an answer may take longer as long as
// somebody takes it. Real time, because it is the server's clock that is looked at.
func TestHostDeadlinesDoNotCut(t *testing.T) {
	// Not parallel: a busy machine must not miss ReadTimeout before the request is in.
	const limit = 400 * time.Millisecond
	const events = 8
	pause := func(ctx context.Context, d time.Duration) {
		select {
		case <-time.After(d):
		case <-ctx.Done():
		}
	}
	slow := http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		pause(r.Context(), 2*limit) // a slow first byte
		w.Header().Set("Content-Type", "text/event-stream")
		for range events {
			_, _ = io.WriteString(w, "data: 1\n\n")
			_ = http.NewResponseController(w).Flush()
			pause(r.Context(), limit/4)
		}
		pause(r.Context(), limit+limit/2) // a quiet time in the middle
		_, _ = io.WriteString(w, "data: [DONE]\n\n")
	})
	want := strings.Repeat("data: 1\n\n", events) + "data: [DONE]\n\n"
	var exchanges sync.WaitGroup           // all at once: subtests would wait for each other
	for _, proto := range protocols[1:3] { // either version on the client's side
		for name, set := range map[string]func(*http.Server){
			"WriteTimeout": func(s *http.Server) { s.WriteTimeout = limit },
			"ReadTimeout":  func(s *http.Server) { s.ReadTimeout = 5 * limit }, // the answer takes 5.5
			"both":         func(s *http.Server) { s.ReadTimeout, s.WriteTimeout = 5*limit, limit },
		} {
			for _, route := range streamRoutes {
				rig := newRig(t, rigConfig{clientHTTP2: proto.clientHTTP2, upstreamHTTP2: proto.upstreamHTTP2, server: set}, slow)
				req := rig.request(t, route.mode, "/v1/chat/completions", route.body)
				exchanges.Go(func() {
					res, err := rig.client.Do(req)
					if err != nil {
						t.Errorf("%s, %s, %s: %v", proto.name, name, route.name, err)
						return
					}
					defer res.Body.Close()
					if got, err := io.ReadAll(res.Body); err != nil || string(got) != want {
						t.Errorf("%s, %s, %s: received %q, %v", proto.name, name, route.name, got, err)
					}
				})
			}
		}
	}
	exchanges.Wait()
}

// Middleware that recovers and panics again keeps the abort; the value is http.ErrAbortHandler,
// which the server does not log.
func TestRecoverMiddlewareThatPanicsAgain(t *testing.T) {
	t.Parallel()
	for _, proto := range protocols {
		t.Run(proto.name, func(t *testing.T) {
			t.Parallel()
			recovered := make(chan any, 1)
			rig := newRig(t, rigConfig{clientHTTP2: proto.clientHTTP2, upstreamHTTP2: proto.upstreamHTTP2, wrap: func(next http.Handler) http.Handler {
				return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
					defer func() {
						v := recover()
						recovered <- v
						if v != nil {
							panic(v)
						}
					}()
					next.ServeHTTP(w, r)
				})
			}}, apexproxytest.Abort("data: 1\n\n"))
			res := rig.open(t, rig.request(t, gatewayMode, "/v1/chat/completions", `{"model":"m#mistral","stream":true}`))
			if got, err := io.ReadAll(res.Body); err == nil {
				t.Errorf("a clean end after %q", got)
			}
			if v := <-recovered; v != http.ErrAbortHandler {
				t.Errorf("recovered %v", v)
			}
		})
	}
}

// Without a server there is nobody to abort for: a test with a recorder sees a short body and no
// panic.
func TestAbortInARecorder(t *testing.T) {
	t.Parallel()
	rig := newRig(t, rigConfig{}, apexproxytest.Abort("data: 1\n\n"))
	req := httptest.NewRequest(http.MethodPost, "/v1/chat/completions", strings.NewReader(`{"model":"m#mistral","stream":true}`))
	req.Header.Set("Authorization", "Bearer "+gatewayToken)
	w := httptest.NewRecorder()
	rig.proxy.ServeHTTP(w, req)
	if w.Code != http.StatusOK || w.Body.String() != "data: 1\n\n" {
		t.Errorf("%d %q", w.Code, w.Body)
	}
}
