package apexproxy_test

import (
	"context"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"net/url"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/loadchange/apexproxy"
	"github.com/loadchange/apexproxy/apexproxytest"
)

// Tokens that must be found wherever they leak.
const (
	gatewayToken = "gw-token-5e1a"
	clientKey    = "sk-client-77c0"
)

// newProxy serves a Proxy on loopback and returns its URL. At the end of the test no exchange may
// be left under way.
func newProxy(tb testing.TB, opts ...apexproxy.Option) string {
	tb.Helper()
	p, err := apexproxy.New(opts...)
	if err != nil {
		tb.Fatal(err)
	}
	return serve(tb, p, p)
}

// serve is newProxy for a handler that stands around p.
func serve(tb testing.TB, p *apexproxy.Proxy, h http.Handler) string {
	tb.Helper()
	srv := httptest.NewServer(h)
	tb.Cleanup(func() {
		srv.CloseClientConnections()
		srv.Close()
		if n := p.Stats().InFlight; n != 0 {
			tb.Errorf("%d exchanges are still under way after the server was closed", n)
		}
		ctx, cancel := context.WithTimeout(context.Background(), 5*time.Second)
		defer cancel()
		if err := p.Shutdown(ctx); err != nil {
			tb.Errorf("Shutdown: %v", err)
		}
	})
	return srv.URL
}

// newGateway starts a fake gateway whose token is gatewayToken.
func newGateway(tb testing.TB, cfg apexproxytest.GatewayConfig) *apexproxytest.Gateway {
	tb.Helper()
	cfg.Token = gatewayToken
	g := apexproxytest.NewGateway(cfg)
	tb.Cleanup(g.Close)
	return g
}

// via is the option's value for a fake gateway.
func via(g *apexproxytest.Gateway) apexproxy.Gateway {
	return apexproxy.Gateway{BaseURL: g.BaseURL(), Token: g.Token}
}

// newUpstream starts a scripted TLS upstream for passthrough.
func newUpstream(tb testing.TB, replies ...http.Handler) *apexproxytest.Upstream {
	tb.Helper()
	u := apexproxytest.NewTLSUpstream(replies...)
	tb.Cleanup(u.Close)
	return u
}

// reaching are the options with which passthrough can reach u, and nothing else.
func reaching(u *apexproxytest.Upstream) []apexproxy.Option {
	return []apexproxy.Option{
		apexproxy.WithPassthrough(apexproxy.Passthrough{Hosts: []string{u.Host}}),
		apexproxy.WithTransport(u.Transport()),
	}
}

// answer is all that a client gets.
type answer struct {
	Status int
	Header http.Header
	Body   string
}

// answerSoon is how long a test waits for what must come at once.
const answerSoon = 5 * time.Second

// client adds nothing to a request and follows no redirect.
var client = &http.Client{
	Transport:     &http.Transport{DisableCompression: true, DisableKeepAlives: true},
	CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse },
	Timeout:       30 * time.Second,
}

// do sends a request and reads the whole answer. header holds alternating names and values; names
// go out as they are spelled, repeated ones as several lines. The Date header is left out of the
// answer.
func do(tb testing.TB, method, url, body string, header ...string) answer {
	tb.Helper()
	req, err := http.NewRequestWithContext(tb.Context(), method, url, strings.NewReader(body))
	if err != nil {
		tb.Fatal(err)
	}
	if body == "" {
		req.Body, req.GetBody = nil, nil
	}
	req.Header = headers(header...)
	if _, ok := req.Header["User-Agent"]; !ok {
		req.Header["User-Agent"] = nil // or the client adds its own
	}
	res, err := client.Do(req)
	if err != nil {
		tb.Fatal(err)
	}
	defer res.Body.Close()
	b, err := io.ReadAll(res.Body)
	if err != nil {
		tb.Fatalf("after %d bytes of the answer: %v", len(b), err)
	}
	res.Header.Del("Date")
	return answer{res.StatusCode, res.Header, string(b)}
}

// post is do with POST and a JSON body.
func post(tb testing.TB, url, body string, header ...string) answer {
	tb.Helper()
	return do(tb, http.MethodPost, url, body, append([]string{"Content-Type", "application/json"}, header...)...)
}

// headers makes a header of alternating names and values, as they are spelled.
func headers(pairs ...string) http.Header {
	h := http.Header{}
	for i := 0; i < len(pairs); i += 2 {
		h[pairs[i]] = append(h[pairs[i]], pairs[i+1])
	}
	return h
}

// loopback counts the connections to one port on 127.0.0.1 and, where the machine has it, ::1.
type loopback struct {
	port     string
	accepted atomic.Int64
}

func newLoopback(tb testing.TB) *loopback {
	tb.Helper()
	l := new(loopback)
	accept := func(ln net.Listener) {
		tb.Cleanup(func() { ln.Close() })
		go func() {
			for {
				c, err := ln.Accept()
				if err != nil {
					return
				}
				l.accepted.Add(1)
				c.Close()
			}
		}()
	}
	four, err := net.Listen("tcp4", "127.0.0.1:0")
	if err != nil {
		tb.Fatal(err)
	}
	_, l.port, _ = net.SplitHostPort(four.Addr().String())
	accept(four)
	if six, err := net.Listen("tcp6", "[::1]:"+l.port); err == nil {
		accept(six)
	}
	return l
}

// hostOf returns the host[:port] of a URL.
func hostOf(tb testing.TB, raw string) string {
	tb.Helper()
	u, err := url.Parse(raw)
	if err != nil {
		tb.Fatal(err)
	}
	return u.Host
}

// discard is a reporter that keeps nothing.
var discard = apexproxy.ReporterFunc(func(context.Context, []apexproxy.Record) error { return nil })
