package apexproxy_test

import (
	"compress/gzip"
	"context"
	"crypto/tls"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"log"
	"math/rand/v2"
	"net"
	"net/http"
	"net/http/httptest"
	"net/http/httptrace"
	"net/textproto"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/loadchange/apexproxy"
	"github.com/loadchange/apexproxy/apexproxytest"
)

const (
	gatewayMode     = "gateway"
	passthroughMode = "passthrough"
)

// A rig is a Proxy in a real server in front of one scripted upstream, which it reaches in both
// modes and over either HTTP version.
type rig struct {
	upstream *apexproxytest.Upstream
	proxy    *apexproxy.Proxy
	server   *httptest.Server
	client   *http.Client   // decodes nothing
	inside   sync.WaitGroup // requests in the server: over HTTP/2 it closes without waiting for them
}

type rigConfig struct {
	clientHTTP2, upstreamHTTP2 bool
	bare                       bool // no reporter, so that nothing looks at what passes
	options                    []apexproxy.Option
	server                     func(*http.Server)              // changes the host's server
	wrap                       func(http.Handler) http.Handler // the host's middleware and mux
}

func newRig(tb testing.TB, cfg rigConfig, replies ...http.Handler) *rig {
	tb.Helper()
	g := &rig{upstream: newUpstream(tb, replies...)}
	transport := g.upstream.Transport()
	transport.DisableCompression = true
	if !cfg.upstreamHTTP2 {
		transport.Protocols = new(http.Protocols)
		transport.Protocols.SetHTTP1(true)
		transport.TLSClientConfig.NextProtos = nil
	}
	tb.Cleanup(transport.CloseIdleConnections)
	options := append([]apexproxy.Option{
		apexproxy.WithGateway(apexproxy.Gateway{BaseURL: g.upstream.URL + "/v1/account/gateway", Token: gatewayToken}),
		apexproxy.WithPassthrough(apexproxy.Passthrough{Hosts: []string{g.upstream.Host}}),
		apexproxy.WithTransport(transport),
	}, cfg.options...)
	if !cfg.bare {
		ignore := apexproxy.ReporterFunc(func(context.Context, []apexproxy.Record) error { return nil })
		options = append(options, apexproxy.WithReporter(ignore, apexproxy.CaptureContent(1<<10)))
	}
	var err error
	if g.proxy, err = apexproxy.New(options...); err != nil {
		tb.Fatal(err)
	}
	var h http.Handler = g.proxy
	if cfg.wrap != nil {
		h = cfg.wrap(h)
	}
	g.server = httptest.NewUnstartedServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		g.inside.Add(1)
		defer g.inside.Done()
		h.ServeHTTP(w, r)
	}))
	var serverLog lockedBuffer
	g.server.Config.ErrorLog = log.New(&serverLog, "", 0)
	if cfg.server != nil {
		cfg.server(g.server.Config)
	}
	if cfg.clientHTTP2 {
		g.server.EnableHTTP2 = true
		g.server.StartTLS()
	} else {
		g.server.Start()
	}
	tb.Cleanup(func() {
		g.server.CloseClientConnections()
		g.server.Close()
		g.inside.Wait()
		if text := serverLog.String(); strings.Contains(text, "panic serving") {
			tb.Errorf("the host's log: %s", text)
		}
		if n := g.proxy.Stats().InFlight; n != 0 {
			tb.Errorf("%d exchanges are still under way after the last handler returned", n)
		}
		ctx, cancel := context.WithTimeout(context.Background(), 5*time.Second)
		defer cancel()
		if err := g.proxy.Shutdown(ctx); err != nil {
			tb.Errorf("Shutdown: %v", err)
		}
	})
	g.client = g.server.Client()
	g.client.Transport.(*http.Transport).DisableCompression = true
	return g
}

// request makes a POST that the proxy accepts in the given mode. It is cancelled after 20 seconds,
// so that a stream that is held back fails.
func (g *rig) request(tb testing.TB, mode, path, body string) *http.Request {
	tb.Helper()
	ctx, cancel := context.WithTimeout(tb.Context(), 20*time.Second)
	tb.Cleanup(cancel)
	req, err := http.NewRequestWithContext(ctx, http.MethodPost, g.server.URL+path, strings.NewReader(body))
	if err != nil {
		tb.Fatal(err)
	}
	req.Header.Set("Content-Type", "application/json")
	req.Header.Set("Authorization", "Bearer "+gatewayToken)
	if mode == passthroughMode {
		req.Header.Set("X-Apex-Ai-Proxy-Provider", g.upstream.Host)
	}
	return req
}

// open sends req and returns the answer with its body still to read.
func (g *rig) open(tb testing.TB, req *http.Request) *http.Response {
	tb.Helper()
	res, err := g.client.Do(req)
	if err != nil {
		tb.Fatal(err)
	}
	tb.Cleanup(func() { _ = res.Body.Close() })
	return res
}

// do sends req and reads the whole answer.
func (g *rig) do(tb testing.TB, req *http.Request) (*http.Response, []byte) {
	tb.Helper()
	res := g.open(tb, req)
	body, err := io.ReadAll(res.Body)
	if err != nil {
		tb.Fatalf("reading the answer: %v", err)
	}
	_ = res.Body.Close()
	return res, body
}

// protocols are the four ways in which HTTP/1.1 and HTTP/2 meet in a proxy.
var protocols = []struct {
	name                       string
	clientHTTP2, upstreamHTTP2 bool
}{
	{"h1 to h1", false, false},
	{"h1 to h2", false, true},
	{"h2 to h1", true, false},
	{"h2 to h2", true, true},
}

// streamRoutes are the paths of a stream through the proxy. The provider openai is asked for usage,
// so its stream is looked at where it passes.
var streamRoutes = []struct{ name, mode, body string }{
	{"gateway copy", gatewayMode, `{"model":"m#mistral","stream":true}`},
	{"gateway usage", gatewayMode, `{"model":"m#openai","stream":true}`},
	{"passthrough", passthroughMode, `{"model":"m","stream":true}`},
}

// oddEvents are events that a line reader with a limit, or one that knows only one line end, would
// hold back or change.
func oddEvents() []string {
	return append(apexproxytest.ChatStream("Hel", "lo", " wörld"),
		"data: {\"crlf\":true}\r\n\r\n",
		"data: {\"cr\":true}\r\r",
		": keep-alive\n\n",
		":\n\n",
		"data:\n\n",
		"data:{\"no space\":1}\n\n",
		"id: 7\nretry: 10\nevent: odd\ndata: 1\ndata: 2\n\n",
		"data: \"\xff not UTF-8\"\n\n",
		"data: \""+strings.Repeat("x", 1<<20)+"\"\n\n",
		"data: [DONE]\n\n",
		"data: after the end\n\n",
	)
}

func TestStreamEventByEvent(t *testing.T) {
	t.Parallel()
	for _, proto := range protocols {
		for i, route := range slices.Concat(streamRoutes, streamRoutes) {
			bare := i < len(streamRoutes)
			t.Run(fmt.Sprintf("%s/%s/bare %v", proto.name, route.name, bare), func(t *testing.T) {
				t.Parallel()
				events := oddEvents()
				gate := apexproxytest.Steps(events...)
				rig := newRig(t, rigConfig{bare: bare, clientHTTP2: proto.clientHTTP2, upstreamHTTP2: proto.upstreamHTTP2}, gate)
				req := rig.request(t, route.mode, "/v1/chat/completions", route.body)
				res := rig.open(t, req)
				if want := []bool{proto.clientHTTP2, proto.upstreamHTTP2}; !slices.Equal(want, []bool{res.ProtoMajor == 2, rig.upstream.Requests()[0].Proto == "HTTP/2.0"}) {
					t.Fatalf("client speaks %s, upstream %s", res.Proto, rig.upstream.Requests()[0].Proto)
				}
				for i, event := range events {
					// A large event only fits the buffers when it is read while it is sent.
					sent := make(chan error, 1)
					go func() { sent <- gate.Next(req.Context()) }()
					got := make([]byte, len(event))
					if n, err := io.ReadFull(res.Body, got); err != nil {
						t.Fatalf("event %d: %d of %d bytes before the next was sent: %v", i, n, len(event), err)
					}
					if string(got) != event {
						t.Fatalf("event %d: got %s, want %s", i, clip(got), clip([]byte(event)))
					}
					if err := <-sent; err != nil {
						t.Fatal(err)
					}
				}
				if err := gate.Next(req.Context()); err != nil {
					t.Fatal(err)
				}
				if rest, err := io.ReadAll(res.Body); err != nil || len(rest) > 0 {
					t.Errorf("after the last event: %s, %v", clip(rest), err)
				}
			})
		}
	}
}

func TestStreamChunkings(t *testing.T) {
	t.Parallel()
	const stream = ": hi\n\ndata: {\"choices\":[{\"delta\":{\"content\":\"é\"}}]}\r\n\r\ndata:\rdata: [DONE]\n\n"
	chunkings := make([][]string, 0, 2*len(stream)+50)
	for i := 1; i < len(stream); i++ {
		chunkings = append(chunkings, []string{stream[:i], stream[i:]})
	}
	for n := 1; n <= len(stream); n++ {
		chunkings = append(chunkings, apexproxytest.Split(stream, n))
	}
	seed := rand.Uint64()
	t.Logf("seed %d", seed)
	r := rand.New(rand.NewPCG(seed, 0))
	for range 50 {
		var pieces []string
		for rest := stream; rest != ""; {
			n := 1 + r.IntN(min(12, len(rest)))
			pieces, rest = append(pieces, rest[:n]), rest[n:]
		}
		chunkings = append(chunkings, pieces)
	}
	for _, route := range streamRoutes {
		t.Run(route.name, func(t *testing.T) {
			t.Parallel()
			rig := newRig(t, rigConfig{})
			for _, pieces := range chunkings {
				rig.upstream.Script(apexproxytest.SSE(pieces...))
				_, got := rig.do(t, rig.request(t, route.mode, "/v1/chat/completions", route.body))
				if string(got) != stream {
					t.Fatalf("sent as %q, received %q", pieces, got)
				}
			}
		})
	}
}

// Where nobody has to read the answer, a client that accepts gzip gets what the upstream
// compressed, still event by event; in gateway mode the proxy asks for readable answers.
func TestStreamCompressed(t *testing.T) {
	t.Parallel()
	events := apexproxytest.ChatStream("a", "b")
	gate := apexproxytest.Steps(events...)
	rig := newRig(t, rigConfig{bare: true}, apexproxytest.Gzip(gate))
	req := rig.request(t, passthroughMode, "/v1/chat/completions", `{"stream":true}`)
	req.Header.Set("Accept-Encoding", "gzip, br")
	res := rig.open(t, req)
	if got := rig.upstream.Requests()[0].Header["Accept-Encoding"]; !slices.Equal(got, []string{"gzip, br"}) {
		t.Errorf("Accept-Encoding %q", got)
	}
	if got := res.Header.Get("Content-Encoding"); got != "gzip" {
		t.Fatalf("Content-Encoding %q", got)
	}
	zr, err := gzip.NewReader(res.Body)
	if err != nil {
		t.Fatal(err)
	}
	for _, event := range events {
		if err := gate.Next(req.Context()); err != nil {
			t.Fatal(err)
		}
		got := make([]byte, len(event))
		if _, err := io.ReadFull(zr, got); err != nil || string(got) != event {
			t.Fatalf("got %q, %v; want %q", got, err, event)
		}
	}

	req = rig.request(t, gatewayMode, "/v1/chat/completions", `{"model":"m#mistral","stream":true}`)
	req.Header.Set("Accept-Encoding", "gzip, br")
	rig.upstream.Script(apexproxytest.SSE(events...))
	rig.upstream.Reset()
	if _, got := rig.do(t, req); string(got) != strings.Join(events, "") {
		t.Errorf("got %q", got)
	}
	if got := rig.upstream.Requests()[0].Header["Accept-Encoding"]; !slices.Equal(got, []string{"identity"}) {
		t.Errorf("Accept-Encoding %q, want identity", got)
	}
}

func TestTrailers(t *testing.T) {
	t.Parallel()
	unannounced := http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		_, _ = io.WriteString(w, "data: 1\n\n")
		_ = http.NewResponseController(w).Flush()
		w.Header().Set(http.TrailerPrefix+"X-Late", "late")
	})
	for _, proto := range protocols {
		for _, reply := range []struct {
			name    string
			handler http.Handler
			want    http.Header
		}{
			{"announced", apexproxytest.Trailers(apexproxytest.SSE("data: 1\n\n"), "X-Sum", "abc", "X-Cost", "0.1"), http.Header{"X-Sum": {"abc"}, "X-Cost": {"0.1"}}},
			{"unannounced", unannounced, http.Header{"X-Late": {"late"}}},
		} {
			t.Run(proto.name+"/"+reply.name, func(t *testing.T) {
				t.Parallel()
				rig := newRig(t, rigConfig{clientHTTP2: proto.clientHTTP2, upstreamHTTP2: proto.upstreamHTTP2}, reply.handler)
				res, got := rig.do(t, rig.request(t, gatewayMode, "/v1/chat/completions", `{"model":"m#mistral","stream":true}`))
				if string(got) != "data: 1\n\n" {
					t.Errorf("body %q", got)
				}
				if diff := cmp.Diff(reply.want, res.Trailer); diff != "" {
					t.Errorf("trailers (-want +got):\n%s", diff)
				}
			})
		}
	}
}

// A stream that is made of the upstream's has none of its trailers.
func TestTrailers_converted(t *testing.T) {
	t.Parallel()
	reply := apexproxytest.Trailers(apexproxytest.SSE(apexproxytest.ChatStream("a")...), "X-Sum", "abc")
	rig := newRig(t, rigConfig{}, reply)
	res, got := rig.do(t, rig.request(t, gatewayMode, "/v1/messages", messagesFor("m#mistral", `,"stream":true`)))
	if !strings.Contains(string(got), "message_stop") || len(res.Trailer) > 0 {
		t.Errorf("%q and trailers %v", got, res.Trailer)
	}
}

// An answer without a type gets none: net/http would guess it of the first bytes.
func TestNoContentType(t *testing.T) {
	t.Parallel()
	rig := newRig(t, rigConfig{}, http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
		w.Header()["Content-Type"] = nil
		_, _ = io.WriteString(w, "<html>")
	}))
	res, got := rig.do(t, rig.request(t, gatewayMode, "/v1/chat/completions", `{"model":"m#mistral"}`))
	if typ, ok := res.Header["Content-Type"]; string(got) != "<html>" || ok {
		t.Errorf("%q, %q", got, typ)
	}
}

// An informational answer of the upstream ends at the proxy: passed on, it would take with it what
// the host's middleware has set for the final one.
func TestInformationalAnswers(t *testing.T) {
	t.Parallel()
	for _, proto := range protocols {
		for _, reply := range []struct {
			name    string
			handler http.Handler
			status  int
		}{
			{"103 then 200", apexproxytest.JSON(200, `{}`), 200},
			{"103 then 429", apexproxytest.RateLimited(), 429},
		} {
			t.Run(proto.name+"/"+reply.name, func(t *testing.T) {
				t.Parallel()
				rig := newRig(t, rigConfig{clientHTTP2: proto.clientHTTP2, upstreamHTTP2: proto.upstreamHTTP2, wrap: func(next http.Handler) http.Handler {
					return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
						w.Header().Set("X-Host", "kept")
						next.ServeHTTP(w, r)
					})
				}}, apexproxytest.EarlyHints(reply.handler))
				req := rig.request(t, gatewayMode, "/v1/chat/completions", `{"model":"m#mistral"}`)
				req = req.WithContext(httptrace.WithClientTrace(req.Context(), &httptrace.ClientTrace{
					Got1xxResponse: func(code int, h textproto.MIMEHeader) error {
						t.Errorf("the client got %d %v", code, h)
						return nil
					},
				}))
				res, _ := rig.do(t, req)
				if res.StatusCode != reply.status {
					t.Errorf("status %d, want %d", res.StatusCode, reply.status)
				}
				if link, host := res.Header.Get("Link"), res.Header.Get("X-Host"); link != "" || host != "kept" {
					t.Errorf("Link %q, X-Host %q", link, host)
				}
			})
		}
	}
}

// An informational answer can be late: the final one is already on its way to the client, which
// then owns the header.
func TestLateInformationalAnswer(t *testing.T) {
	t.Parallel()
	late := apexproxytest.Raw("HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nContent-Length: 2\r\n\r\n{}" +
		strings.Repeat("HTTP/1.1 103 Early Hints\r\nLink: </late.css>\r\n\r\n", 20))
	rig := newRig(t, rigConfig{}, late)
	for range 20 {
		res, got := rig.do(t, rig.request(t, gatewayMode, "/v1/chat/completions", `{"model":"m#mistral"}`))
		if res.StatusCode != 200 || string(got) != "{}" || res.Header.Get("Link") != "" {
			t.Fatalf("%d %s %v", res.StatusCode, got, res.Header)
		}
	}
}

// shortWriter takes less than it is given and says nothing of it, as a broken wrapper of a host
// may.
type shortWriter struct{ http.ResponseWriter }

func (w shortWriter) Write(b []byte) (int, error) { return w.ResponseWriter.Write(b[:len(b)/2]) }
func (w shortWriter) Unwrap() http.ResponseWriter { return w.ResponseWriter }

// What a host's writer lost must not look whole to the client.
func TestShortWrite(t *testing.T) {
	t.Parallel()
	for _, proto := range protocols {
		for name, reply := range map[string]http.Handler{
			"length": apexproxytest.JSON(200, `{"choices":[]}`), "stream": apexproxytest.SSE("data: 1\n\n", "data: [DONE]\n\n"),
		} {
			t.Run(proto.name+"/"+name, func(t *testing.T) {
				t.Parallel()
				c := new(collector)
				rig := newRig(t, rigConfig{clientHTTP2: proto.clientHTTP2, upstreamHTTP2: proto.upstreamHTTP2,
					options: []apexproxy.Option{apexproxy.WithReporter(c)},
					wrap: func(next http.Handler) http.Handler {
						return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) { next.ServeHTTP(shortWriter{w}, r) })
					}}, reply)
				res, err := rig.client.Do(rig.request(t, gatewayMode, "/v1/chat/completions", `{"model":"m#mistral"}`))
				if err == nil {
					defer res.Body.Close()
					var got []byte
					if got, err = io.ReadAll(res.Body); err == nil {
						t.Errorf("a clean end after %q", got)
					}
				}
				if rec := c.after(t, rig.proxy)[0]; rec.Outcome != apexproxy.OutcomeClientClosed {
					t.Errorf("recorded %s", rec.Outcome)
				}
			})
		}
	}
}

// A body with a length may come slowly too, and its last byte long before its end.
func TestSlowBodyWithLengthLeavesAtOnce(t *testing.T) {
	t.Parallel()
	for _, proto := range protocols {
		for _, mode := range []string{gatewayMode, passthroughMode} {
			t.Run(proto.name+"/"+mode, func(t *testing.T) {
				t.Parallel()
				seen := make(chan struct{})
				rig := newRig(t, rigConfig{clientHTTP2: proto.clientHTTP2, upstreamHTTP2: proto.upstreamHTTP2}, http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
					w.Header().Set("Content-Length", "10")
					w.Header().Set("Content-Type", "application/json")
					for _, half := range []string{"first", "rest!"} {
						_, _ = io.WriteString(w, half)
						_ = http.NewResponseController(w).Flush()
						select {
						case <-seen:
						case <-r.Context().Done():
						}
					}
				}))
				res := rig.open(t, rig.request(t, mode, "/v1/chat/completions", `{"model":"m#mistral"}`))
				if res.ContentLength != 10 {
					t.Errorf("Content-Length %d", res.ContentLength)
				}
				for _, half := range []string{"first", "rest!"} {
					got := make([]byte, len(half))
					if _, err := io.ReadFull(res.Body, got); err != nil || string(got) != half {
						t.Fatalf("%q was held back: %q, %v", half, got, err)
					}
					seen <- struct{}{}
				}
				if rest, err := io.ReadAll(res.Body); err != nil || len(rest) > 0 {
					t.Errorf("%q, %v", rest, err)
				}
			})
		}
	}
}

// An HTTP/2 server that refuses a stream did not look at it (RFC 9113 §8.7); the transport sends it
// again when it can get the body again.
func TestRefusedStreamIsSentAgain(t *testing.T) {
	t.Parallel()
	for _, mode := range []string{gatewayMode, passthroughMode} {
		t.Run(mode, func(t *testing.T) {
			t.Parallel()
			peer := newRefusingPeer(t)
			transport := apexproxy.NewTransport()
			transport.TLSClientConfig = &tls.Config{InsecureSkipVerify: true}
			t.Cleanup(transport.CloseIdleConnections)
			proxy, err := apexproxy.New(
				apexproxy.WithGateway(apexproxy.Gateway{BaseURL: "https://" + peer.host, Token: gatewayToken}),
				apexproxy.WithPassthrough(apexproxy.Passthrough{Hosts: []string{peer.host}}),
				apexproxy.WithTransport(transport))
			if err != nil {
				t.Fatal(err)
			}
			body := `{"model":"m#mistral","pad":"` + strings.Repeat("p", 8<<10) + `"}`
			req := httptest.NewRequest(http.MethodPost, "/v1/chat/completions", strings.NewReader(body))
			req.Header.Set("Authorization", "Bearer "+gatewayToken)
			want := strings.Replace(body, "m#mistral", "m", 1)
			if mode == passthroughMode {
				req.Header.Set("X-Apex-Ai-Proxy-Provider", peer.host)
				want = body
			}
			w := httptest.NewRecorder()
			proxy.ServeHTTP(w, req)
			if w.Code != http.StatusOK {
				t.Errorf("status %d: %s", w.Code, w.Body)
			}
			if got := <-peer.bodies; got != want {
				t.Errorf("the second stream carried %s", clip([]byte(got)))
			}
		})
	}
}

// refusingPeer is an HTTP/2 server that answers the first stream with RST_STREAM REFUSED_STREAM
// once its body has begun, and the second with 200.
type refusingPeer struct {
	host   string
	bodies chan string // of the streams that were answered
}

func newRefusingPeer(t *testing.T) *refusingPeer {
	t.Helper()
	// The certificate of any test server will do; the client does not look.
	s := httptest.NewUnstartedServer(nil)
	s.StartTLS()
	t.Cleanup(s.Close)
	l, err := tls.Listen("tcp", "127.0.0.1:0", &tls.Config{Certificates: s.TLS.Certificates, NextProtos: []string{"h2"}})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = l.Close() })
	p := &refusingPeer{host: l.Addr().String(), bodies: make(chan string, 1)}
	refused := false
	go func() {
		for {
			conn, err := l.Accept()
			if err != nil {
				return
			}
			err = p.serve(conn, &refused)
			_ = conn.Close()
			if err != nil && !errors.Is(err, io.EOF) {
				p.bodies <- "peer: " + err.Error()
				return
			}
		}
	}()
	return p
}

// serve speaks just enough of RFC 9113: frames of nine header bytes, of which it reads settings,
// headers, data and ping.
func (p *refusingPeer) serve(conn net.Conn, refused *bool) error {
	const (
		data, headers, reset, settings, ping = 0, 1, 3, 4, 6

		endStream, ack, endHeaders = 1, 1, 4
		refusedStream              = 7
	)
	_ = conn.SetDeadline(time.Now().Add(20 * time.Second))
	if _, err := io.CopyN(io.Discard, conn, int64(len("PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"))); err != nil {
		return err
	}
	write := func(kind, flags byte, stream uint32, payload []byte) error {
		frame := make([]byte, 9, 9+len(payload))
		binary.BigEndian.PutUint32(frame, uint32(len(payload))<<8|uint32(kind))
		frame[4] = flags
		binary.BigEndian.PutUint32(frame[5:], stream)
		_, err := conn.Write(append(frame, payload...))
		return err
	}
	if err := write(settings, 0, 0, nil); err != nil {
		return err
	}
	var body strings.Builder
	var dropped uint32
	for {
		head := make([]byte, 9)
		if _, err := io.ReadFull(conn, head); err != nil {
			return err
		}
		payload := make([]byte, binary.BigEndian.Uint32(head)>>8)
		if _, err := io.ReadFull(conn, payload); err != nil {
			return err
		}
		kind, flags, stream := head[3], head[4], binary.BigEndian.Uint32(head[5:])
		var err error
		switch {
		case kind == settings && flags&ack == 0:
			err = write(settings, ack, 0, nil)
		case kind == ping && flags&ack == 0:
			err = write(ping, ack, 0, payload)
		case kind == data && stream == dropped:
		case kind == data && !*refused:
			*refused, dropped = true, stream
			err = write(reset, 0, stream, []byte{0, 0, 0, refusedStream})
		case kind == data:
			body.Write(payload)
			if flags&endStream == 0 {
				break
			}
			p.bodies <- body.String()
			const status200 = 0x88 // RFC 7541 appendix A, index 8
			if err = write(headers, endHeaders, stream, []byte{status200}); err == nil {
				err = write(data, endStream, stream, []byte("{}"))
			}
		}
		if err != nil {
			return err
		}
	}
}
