package apexproxy_test

import (
	"context"
	"errors"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"net/url"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/loadchange/apexproxy"
	"github.com/loadchange/apexproxy/apexproxytest"
)

// The default transport of net/http keeps two idle connections to a host and would open hundreds
// here.
func TestConnectionsAreReused(t *testing.T) {
	t.Parallel()
	const requests, atOnce = 1000, 50
	upstream := apexproxytest.NewUpstream(apexproxytest.JSON(200, apexproxytest.ChatCompletion("hi")))
	t.Cleanup(upstream.Close)
	proxy := newProxy(t, apexproxy.WithGateway(apexproxy.Gateway{BaseURL: upstream.URL, Token: gatewayToken}))
	client := &http.Client{Transport: apexproxy.NewTransport()}
	t.Cleanup(client.CloseIdleConnections)
	jobs := make(chan struct{})
	var workers sync.WaitGroup
	for range atOnce {
		workers.Go(func() {
			for range jobs {
				req, err := http.NewRequestWithContext(t.Context(), http.MethodPost, proxy+"/v1/chat/completions", strings.NewReader(`{"model":"m#mistral"}`))
				if err != nil {
					t.Error(err)
					continue
				}
				req.Header.Set("Authorization", "Bearer "+gatewayToken)
				res, err := client.Do(req)
				if err != nil {
					t.Error(err)
					continue
				}
				if _, err := io.Copy(io.Discard, res.Body); err != nil || res.StatusCode != http.StatusOK {
					t.Errorf("status %d, %v", res.StatusCode, err)
				}
				_ = res.Body.Close()
			}
		})
	}
	for range requests {
		jobs <- struct{}{}
	}
	close(jobs)
	workers.Wait()
	if got := upstream.Connections(); got > atOnce*6/5 {
		t.Errorf("%d connections for %d requests, %d at a time", got, requests, atOnce)
	}
}

func TestNewTransport(t *testing.T) {
	t.Parallel()
	a, b := apexproxy.NewTransport(), apexproxy.NewTransport()
	if a == b {
		t.Error("two calls share a transport: changing one would change the other")
	}
	if a.Proxy == nil || a.DialContext == nil {
		t.Error("Proxy or DialContext is not set")
	}
	type settings struct {
		HTTP2, NoCompression                                  bool
		Idle, IdlePerHost, PerHost                            int
		IdleTimeout, TLSTimeout, HeaderTimeout, ExpectTimeout time.Duration
	}
	want := settings{true, true, 512, 128, 0, 90 * time.Second, 10 * time.Second, 0, time.Second}
	got := settings{a.ForceAttemptHTTP2, a.DisableCompression, a.MaxIdleConns, a.MaxIdleConnsPerHost, a.MaxConnsPerHost,
		a.IdleConnTimeout, a.TLSHandshakeTimeout, a.ResponseHeaderTimeout, a.ExpectContinueTimeout}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Errorf("settings (-want +got):\n%s", diff)
	}
}

// opaque is a RoundTripper that is no *http.Transport.
type opaque func(*http.Request) (*http.Response, error)

func (f opaque) RoundTrip(r *http.Request) (*http.Response, error) { return f(r) }

func TestOpaqueRoundTripper(t *testing.T) {
	t.Parallel()
	gateway := apexproxy.WithGateway(apexproxy.Gateway{BaseURL: "https://gateway.example/base", Token: gatewayToken})
	transport := apexproxy.WithTransport(opaque(func(r *http.Request) (*http.Response, error) {
		return &http.Response{
			StatusCode: 200, ProtoMajor: 1, ProtoMinor: 1, Request: r,
			Header: http.Header{"X-Url": {r.URL.String()}}, Body: io.NopCloser(strings.NewReader("{}")), ContentLength: 2,
		}, nil
	}))
	if _, err := apexproxy.New(gateway, transport, apexproxy.WithPassthrough(apexproxy.Passthrough{})); err == nil || !strings.Contains(err.Error(), "Hosts") {
		t.Errorf("an open passthrough that cannot be guarded: %v", err)
	}
	p, err := apexproxy.New(gateway, transport, apexproxy.WithPassthrough(apexproxy.Passthrough{Hosts: []string{"api.example"}}))
	if err != nil {
		t.Fatal(err)
	}
	proxy := serve(t, p, p)
	for _, c := range []struct {
		header []string
		want   string
	}{
		{[]string{"Authorization", "Bearer " + gatewayToken}, "https://gateway.example/base/mistral/v1/chat/completions"},
		{[]string{"X-Apex-Ai-Proxy-Provider", "api.example"}, "https://api.example/v1/chat/completions"},
	} {
		got := post(t, proxy+"/v1/chat/completions", `{"model":"m#mistral"}`, c.header...)
		if got.Status != 200 || got.Body != "{}" || got.Header.Get("X-Url") != c.want {
			t.Errorf("%d %s from %q, want %s", got.Status, got.Body, got.Header.Get("X-Url"), c.want)
		}
	}
}

// The gateway gets the host's transport as it is; passthrough gets a copy without a proxy, because
// that would connect to what the guard refuses.
func TestTransportOfTheHost(t *testing.T) {
	t.Parallel()
	upstream := newUpstream(t, echo)
	transport := upstream.Transport()
	t.Cleanup(transport.CloseIdleConnections)
	var proxied, dialled sync.Map
	transport.Proxy = func(r *http.Request) (*url.URL, error) {
		proxied.Store(r.URL.Path, true)
		return nil, errors.New("no proxy today")
	}
	dialer := &net.Dialer{}
	transport.DialContext = func(ctx context.Context, network, addr string) (net.Conn, error) {
		dialled.Store(addr, true)
		return dialer.DialContext(ctx, network, addr)
	}
	options := []apexproxy.Option{
		apexproxy.WithGateway(apexproxy.Gateway{BaseURL: upstream.URL, Token: gatewayToken}), apexproxy.WithTransport(transport),
	}
	open := newProxy(t, append(options, apexproxy.WithPassthrough(apexproxy.Passthrough{}))...)
	if got := post(t, open+"/v1/chat/completions", `{}`, "X-Apex-Ai-Proxy-Provider", upstream.Host); got.Status != http.StatusForbidden {
		t.Errorf("a loopback address without Hosts: %d %s", got.Status, got.Body)
	}
	// A name is only looked up by the dialer: the host's own must not be it.
	if got := post(t, open+"/v1/chat/completions", `{}`, "X-Apex-Ai-Proxy-Provider", strings.Replace(upstream.Host, "127.0.0.1", "localhost", 1)); got.Status != http.StatusForbidden {
		t.Errorf("localhost without Hosts: %d %s", got.Status, got.Body)
	}
	dialled.Range(func(addr, _ any) bool {
		t.Errorf("the host's dialer connected to %s for an open passthrough", addr)
		return true
	})

	listed := newProxy(t, append(options, apexproxy.WithPassthrough(apexproxy.Passthrough{Hosts: []string{upstream.Host}}))...)
	if got := post(t, listed+"/passthrough/v1/chat/completions", `{}`, "X-Apex-Ai-Proxy-Provider", upstream.Host); got.Status != http.StatusOK {
		t.Errorf("a listed host: %d %s", got.Status, got.Body)
	}
	if _, ok := dialled.Load(upstream.Host); !ok {
		t.Error("the host's dialer was not used for a listed host")
	}
	if _, ok := proxied.Load("/passthrough/v1/chat/completions"); ok {
		t.Error("passthrough asked for a proxy")
	}
	if got := post(t, listed+"/v1/chat/completions", `{"model":"m#mistral"}`, "Authorization", "Bearer "+gatewayToken); got.Status != http.StatusBadGateway || strings.Contains(got.Body, "today") {
		t.Errorf("gateway through a broken proxy: %d %s", got.Status, got.Body)
	}
	if _, ok := proxied.Load("/mistral/v1/chat/completions"); !ok {
		t.Error("gateway mode did not use the host's proxy setting")
	}
	if transport.Proxy == nil {
		t.Error("the host's transport was changed")
	}
}

func TestTransportTimeout(t *testing.T) {
	t.Parallel()
	upstream := newUpstream(t, apexproxytest.Hang())
	transport := upstream.Transport()
	transport.ResponseHeaderTimeout = 50 * time.Millisecond
	proxy := newProxy(t,
		apexproxy.WithGateway(apexproxy.Gateway{BaseURL: upstream.URL, Token: gatewayToken}),
		apexproxy.WithPassthrough(apexproxy.Passthrough{Hosts: []string{upstream.Host}}),
		apexproxy.WithTransport(transport))
	for _, header := range [][]string{{"Authorization", "Bearer " + gatewayToken}, {"X-Apex-Ai-Proxy-Provider", upstream.Host}} {
		got := post(t, proxy+"/v1/chat/completions", `{"model":"m#mistral"}`, header...)
		if status := got.Header.Get("Proxy-Status"); got.Status != http.StatusGatewayTimeout || status != "apexproxy; error=http_response_timeout" {
			t.Errorf("%d, Proxy-Status %q: %s", got.Status, status, got.Body)
		}
	}
}

// What a RoundTripper may do with a request body by its contract: get it again while the exchange
// lasts, and read on after it returned, when there is nothing left to see.
func TestBodyOfARoundTripper(t *testing.T) {
	t.Parallel()
	const want = `{"model":"m","n":1}`
	var late []io.Reader
	transport := opaque(func(r *http.Request) (*http.Response, error) {
		if r.ContentLength != int64(len(want)) {
			t.Errorf("ContentLength %d, want %d", r.ContentLength, len(want))
		}
		first := make([]byte, 3)
		if _, err := io.ReadFull(r.Body, first); err != nil {
			t.Error(err)
		}
		late = append(late, r.Body)
		if r.GetBody == nil {
			t.Error("no GetBody")
			return nil, errors.New("no GetBody")
		}
		again, err := r.GetBody()
		if err != nil {
			t.Error(err)
		}
		if b, err := io.ReadAll(again); err != nil || string(b) != want {
			t.Errorf("GetBody gave %q, %v", b, err)
		}
		fresh, _ := r.GetBody()
		late = append(late, fresh)
		return &http.Response{StatusCode: 200, ProtoMajor: 1, ProtoMinor: 1, Header: http.Header{}, Body: http.NoBody}, nil
	})
	p, err := apexproxy.New(apexproxy.WithGateway(apexproxy.Gateway{BaseURL: "https://gateway.example", Token: gatewayToken}), apexproxy.WithTransport(transport))
	if err != nil {
		t.Fatal(err)
	}
	req := httptest.NewRequest(http.MethodPost, "/v1/chat/completions", strings.NewReader(`{"model":"m#mistral","n":1}`))
	req.Header.Set("Authorization", "Bearer "+gatewayToken)
	w := httptest.NewRecorder()
	p.ServeHTTP(w, req)
	if w.Code != http.StatusOK || len(late) != 2 {
		t.Fatalf("%d %s", w.Code, w.Body)
	}
	for i, r := range late {
		if b, err := io.ReadAll(r); err == nil || len(b) > 0 {
			t.Errorf("late reader %d got %q, %v", i, b, err)
		}
	}
}

// Shutdown closes what New made and nothing that the host owns.
func TestShutdownAndConnections(t *testing.T) {
	t.Parallel()
	for _, c := range []struct {
		name    string
		options []apexproxy.Option
		want    int64 // connections after a request, Shutdown, and a request
	}{
		{"own", nil, 2},
		{"the host's", []apexproxy.Option{apexproxy.WithTransport(apexproxy.NewTransport())}, 1},
	} {
		t.Run(c.name, func(t *testing.T) {
			t.Parallel()
			upstream := apexproxytest.NewUpstream()
			t.Cleanup(upstream.Close)
			p, err := apexproxy.New(append(c.options, apexproxy.WithGateway(apexproxy.Gateway{BaseURL: upstream.URL, Token: gatewayToken}))...)
			if err != nil {
				t.Fatal(err)
			}
			for range 2 {
				req := httptest.NewRequest(http.MethodPost, "/v1/chat/completions", strings.NewReader(`{"model":"m#mistral"}`))
				req.Header.Set("Authorization", "Bearer "+gatewayToken)
				w := httptest.NewRecorder()
				p.ServeHTTP(w, req)
				if w.Code != http.StatusOK {
					t.Errorf("%d %s", w.Code, w.Body)
				}
				if err := p.Shutdown(t.Context()); err != nil {
					t.Error(err)
				}
			}
			if got := upstream.Connections(); got != c.want {
				t.Errorf("%d connections, want %d", got, c.want)
			}
		})
	}
}
