package apexproxy_test

import (
	"context"
	"crypto/tls"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"slices"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/loadchange/apexproxy"
	"github.com/loadchange/apexproxy/apexproxytest"
)

// tightListener gives its first connection a buffer that holds only a part of a large request.
type tightListener struct {
	net.Listener
	accepted atomic.Int64
}

func (l *tightListener) Accept() (net.Conn, error) {
	c, err := l.Listener.Accept()
	if tcp, ok := c.(*net.TCPConn); ok && l.accepted.Add(1) == 1 {
		_ = tcp.SetReadBuffer(64 << 10)
	}
	return c, err
}

// letters is a request of about size bytes of one letter.
func letters(letter string, size int, model string) string {
	return `{"model":"` + model + `","pad":"` + strings.Repeat(letter, size) + `"}`
}

// An upstream may answer before it has read the request, and go on reading while the answer lasts.
// The request's memory is lent to the transport until then: what leaves late must be what the
// client sent, although the proxy is long busy with other requests, which take their memory from
// one pool.
func TestEarlyAnswerToALargeRequest(t *testing.T) {
	t.Parallel()
	for _, size := range []int{200_000, 1_000_000, 5_000_000} {
		for name, http2 := range map[string]bool{"HTTP/1": false, "HTTP/2": true} {
			t.Run(fmt.Sprint(size, " over ", name), func(t *testing.T) {
				t.Parallel()
				others := make(chan struct{}) // closed when the others are through
				got := make(chan string, 1)
				upstream := httptest.NewUnstartedServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
					w.Header().Set("Content-Type", "text/event-stream")
					if r.Header.Get("X-Early") == "" {
						_, _ = io.Copy(io.Discard, r.Body)
						_, _ = io.WriteString(w, "data: [DONE]\n\n")
						return
					}
					rc := http.NewResponseController(w)
					_ = rc.EnableFullDuplex()
					_, _ = io.WriteString(w, "data: 1\n\n")
					_ = rc.Flush()
					select {
					case <-others:
					case <-r.Context().Done():
					}
					b, err := io.ReadAll(r.Body)
					if err != nil {
						t.Errorf("after %d bytes of the request: %v", len(b), err)
					}
					got <- string(b)
				}))
				upstream.Listener = &tightListener{Listener: upstream.Listener}
				upstream.EnableHTTP2 = http2
				upstream.Config.HTTP2 = &http.HTTP2Config{MaxReceiveBufferPerStream: 64 << 10}
				upstream.StartTLS()
				t.Cleanup(upstream.Close)

				transport := apexproxy.NewTransport()
				transport.TLSClientConfig = &tls.Config{RootCAs: upstream.Client().Transport.(*http.Transport).TLSClientConfig.RootCAs}
				if !http2 {
					transport.Protocols = new(http.Protocols)
					transport.Protocols.SetHTTP1(true)
				}
				transport.DialContext = tight(transport.DialContext)
				t.Cleanup(transport.CloseIdleConnections)
				proxy := newProxy(t, apexproxy.WithTransport(transport),
					apexproxy.WithGateway(apexproxy.Gateway{BaseURL: upstream.URL, Token: gatewayToken}))

				send := func(letter string, header ...string) *http.Response {
					req, err := http.NewRequestWithContext(t.Context(), http.MethodPost, proxy+"/v1/chat/completions", strings.NewReader(letters(letter, size, "m#mistral")))
					if err != nil {
						t.Fatal(err)
					}
					req.Header = headers(append([]string{"Authorization", bearerHeader, "Content-Type", "application/json"}, header...)...)
					res, err := client.Do(req)
					if err != nil {
						t.Fatal(err)
					}
					t.Cleanup(func() { _ = res.Body.Close() })
					return res
				}
				early := send("A", "X-Early", "1")
				if _, err := io.ReadFull(early.Body, make([]byte, len("data: 1\n\n"))); err != nil {
					t.Fatal(err)
				}
				for _, letter := range []string{"B", "C", "D", "E"} {
					if b, err := io.ReadAll(send(letter).Body); err != nil || string(b) != "data: [DONE]\n\n" {
						t.Fatalf("%s: %q, %v", letter, b, err)
					}
				}
				close(others)
				if b, want := <-got, letters("A", size, "m"); b != want {
					t.Errorf("the upstream got %s (%d bytes), want %d bytes of A", clip([]byte(strings.ReplaceAll(b, "A", ""))), len(b), len(want))
				}
				if _, err := io.ReadAll(early.Body); err != nil {
					t.Error(err)
				}
			})
		}
	}
}

// What a request held is given back when its answer begins, not when it ends: a stream lasts for
// minutes, and others have to find room meanwhile.
func TestRequestMemoryDuringAStream(t *testing.T) {
	t.Parallel()
	const size = 2 << 20
	for _, proto := range protocols[:2] { // either version to the upstream
		t.Run(proto.name, func(t *testing.T) {
			t.Parallel()
			events := slices.Repeat([]string{"data: 1\n\n"}, 20)
			gate := apexproxytest.Steps(events...)
			rig := newRig(t, rigConfig{upstreamHTTP2: proto.upstreamHTTP2, options: []apexproxy.Option{
				apexproxy.WithMaxRequestBytes(size), apexproxy.WithMaxBufferedBytes(size + size/2),
			}}, gate, echo)
			first := rig.request(t, gatewayMode, "/v1/chat/completions", padded(size))
			res := rig.open(t, first)
			// The transport says that it is done with the request a moment after it is.
			status := 0
			for range events {
				if err := gate.Next(first.Context()); err != nil {
					t.Fatal(err)
				}
				if _, err := io.ReadFull(res.Body, make([]byte, len(events[0]))); err != nil {
					t.Fatal(err)
				}
				if status != http.StatusOK {
					second, _ := rig.do(t, rig.request(t, gatewayMode, "/v1/chat/completions", padded(size)))
					status = second.StatusCode
				}
			}
			if status != http.StatusOK {
				t.Errorf("while a stream runs: %d", status)
			}
			if err := gate.Next(first.Context()); err != nil {
				t.Fatal(err)
			}
			if rest, err := io.ReadAll(res.Body); err != nil || len(rest) > 0 {
				t.Errorf("%q, %v", rest, err)
			}
		})
	}
}

// What a converted stream holds counts on when the request's memory is given back: it stays.
func TestStreamMemoryOutlivesTheRequests(t *testing.T) {
	t.Parallel()
	const chunk = `data: {"choices":[{"index":0,"delta":{"tool_calls":[{"index":%d,"id":"c%[1]d","function":{"name":"f","arguments":"%s"}}]}}]}` + "\n\n"
	upstream := httptest.NewUnstartedServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		rc := http.NewResponseController(w)
		w.Header().Set("Content-Type", "text/event-stream")
		fmt.Fprintf(w, chunk, 0, `{\"a\":\"`)
		fmt.Fprintf(w, chunk, 1, `{\"a\":\"`)
		for range 12 {
			fmt.Fprintf(w, chunk, 1, strings.Repeat("x", 256<<10)) // held until the call before it is whole
		}
		_ = rc.Flush()
		_, _ = io.Copy(io.Discard, r.Body) // more than a stream takes unread
		for r.Context().Err() == nil {
			fmt.Fprintf(w, chunk, 0, "y")
			_ = rc.Flush()
		}
	}))
	upstream.EnableHTTP2 = true
	upstream.StartTLS()
	t.Cleanup(upstream.Close)
	p, err := apexproxy.New(apexproxy.WithTransport(upstream.Client().Transport),
		apexproxy.WithGateway(apexproxy.Gateway{BaseURL: upstream.URL, Token: gatewayToken}),
		apexproxy.WithMaxRequestBytes(6<<20), apexproxy.WithMaxBufferedBytes(8<<20))
	if err != nil {
		t.Fatal(err)
	}
	header := headers("Authorization", bearerHeader, "Content-Type", "application/json")
	body := messagesFor("m#mistral", `,"stream":true,"system":"`+strings.Repeat("p", 2<<20)+`"`)
	req, err := http.NewRequestWithContext(t.Context(), http.MethodPost, serve(t, p, p)+"/v1/messages", strings.NewReader(body))
	if err != nil {
		t.Fatal(err)
	}
	req.Header = header
	res, err := client.Do(req)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = res.Body.Close() })
	if _, err := io.CopyN(io.Discard, res.Body, 64<<10); err != nil { // far past the end of the request
		t.Fatal(err)
	}
	// No connection is between: one that is closed before a large request is read may take the
	// answer with it.
	ctx, cancel := context.WithTimeout(t.Context(), 10*time.Second)
	defer cancel()
	second := httptest.NewRequestWithContext(ctx, http.MethodPost, "/v1/chat/completions", strings.NewReader(padded(11<<19)))
	second.Header = header
	w := httptest.NewRecorder()
	if p.ServeHTTP(w, second); w.Code != http.StatusServiceUnavailable {
		t.Errorf("%d", w.Code)
	}
}

// tight returns a dialer whose first connection holds only a part of a large request.
func tight(dial func(context.Context, string, string) (net.Conn, error)) func(context.Context, string, string) (net.Conn, error) {
	var dialled atomic.Int64
	return func(ctx context.Context, network, addr string) (net.Conn, error) {
		c, err := dial(ctx, network, addr)
		if tcp, ok := c.(*net.TCPConn); ok && dialled.Add(1) == 1 {
			_ = tcp.SetWriteBuffer(64 << 10)
		}
		return c, err
	}
}
