package main

import (
	"bufio"
	"context"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"
	"time"

	"github.com/loadchange/apexproxy/apexproxytest"
)

// serve runs the service before gateway until the returned cancel is called; done gets what run
// returned.
func serve(t *testing.T, gateway *apexproxytest.Gateway) (url string, cancel context.CancelFunc, done <-chan error) {
	t.Helper()
	env := map[string]string{"ADDR": "127.0.0.1:0", "GATEWAY_TOKEN": gateway.Token, "GATEWAY_BASE_URL": gateway.BaseURL()}
	ctx, cancel := context.WithCancel(t.Context())
	t.Cleanup(cancel)
	addr, ended := make(chan string, 1), make(chan error, 1)
	go func() {
		ended <- run(ctx, func(name string) string { return env[name] }, func(a net.Addr) { addr <- a.String() })
	}()
	select {
	case a := <-addr:
		return "http://" + a, cancel, ended
	case err := <-ended:
		t.Fatal(err)
		return "", nil, nil
	}
}

// deadline keeps a test that waits for what never comes from hanging.
func deadline(t *testing.T) context.Context {
	ctx, cancel := context.WithTimeout(t.Context(), 20*time.Second)
	t.Cleanup(cancel)
	return ctx
}

func send(t *testing.T, method, url, body string) *http.Response {
	t.Helper()
	req, err := http.NewRequestWithContext(deadline(t), method, url, strings.NewReader(body))
	if err != nil {
		t.Fatal(err)
	}
	req.Header.Set("Authorization", "Bearer test-token")
	resp, err := http.DefaultClient.Do(req)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { resp.Body.Close() })
	return resp
}

func text(t *testing.T, resp *http.Response) string {
	t.Helper()
	b, err := io.ReadAll(resp.Body)
	if err != nil {
		t.Fatal(err)
	}
	return string(b)
}

func TestRoutes(t *testing.T) {
	t.Parallel()
	gateway := apexproxytest.NewGateway(apexproxytest.GatewayConfig{})
	defer gateway.Close()
	url, stop, done := serve(t, gateway)

	for _, tt := range []struct {
		method, path, body string
		status             int
		answer, upstream   string
	}{
		{"GET", "/hello", "", 200, "hello from the service itself", ""},
		{"GET", "/ai/", "", 200, `"ok"`, ""},
		{"POST", "/ai/v1/chat/completions", `{"model":"gpt-5.5#openai"}`, 200, apexproxytest.Answer, "/openai/chat/completions"},
		{"POST", "/ai/v1/nothing", `{}`, 404, "no such path", ""},
		{"GET", "/elsewhere", "", 404, "404 page not found", ""},
	} {
		gateway.Reset()
		resp := send(t, tt.method, url+tt.path, tt.body)
		if got := text(t, resp); resp.StatusCode != tt.status || !strings.Contains(got, tt.answer) {
			t.Errorf("%s %s: %d %s, want %d with %q", tt.method, tt.path, resp.StatusCode, got, tt.status, tt.answer)
		}
		upstream := ""
		if reqs := gateway.Requests(); len(reqs) > 0 {
			upstream = strings.TrimPrefix(reqs[0].RequestURI, "/v1/test-account/test-gateway")
		}
		if upstream != tt.upstream {
			t.Errorf("%s %s: the gateway got %q, want %q", tt.method, tt.path, upstream, tt.upstream)
		}
	}
	stop()
	if err := <-done; err != nil {
		t.Error(err)
	}
}

// TestPrefix sees to it that the proxy gets paths without the mount point: in passthrough they are
// what the upstream gets.
func TestPrefix(t *testing.T) {
	t.Parallel()
	var got string
	service := newHandler(http.HandlerFunc(func(_ http.ResponseWriter, r *http.Request) { got = r.URL.Path }))
	service.ServeHTTP(httptest.NewRecorder(), httptest.NewRequestWithContext(t.Context(), http.MethodPost, "/ai/v1/messages", nil))
	if got != "/v1/messages" {
		t.Errorf("the proxy got the path %q, want /v1/messages", got)
	}
}

// TestShutdown ends the service while a stream is open: the stream finishes.
func TestShutdown(t *testing.T) {
	t.Parallel()
	gateway := apexproxytest.NewGateway(apexproxytest.GatewayConfig{})
	defer gateway.Close()
	url, stop, done := serve(t, gateway)

	events := apexproxytest.ChatStream("one ", "two ", "three")
	gate := apexproxytest.Steps(events...)
	gateway.Fail(gate)
	resp := send(t, "POST", url+"/ai/v1/chat/completions", `{"model":"gpt-5.5#openai","stream":true}`)
	if err := gate.Next(deadline(t)); err != nil {
		t.Fatal(err)
	}
	body := bufio.NewReader(resp.Body)
	if _, err := body.Peek(len(events[0])); err != nil {
		t.Fatal(err)
	}
	stop()
	for range events {
		select {
		case err := <-done:
			t.Fatalf("run returned %v with a stream open", err)
		default:
		}
		if err := gate.Next(deadline(t)); err != nil {
			t.Fatal(err)
		}
	}
	got, err := io.ReadAll(body)
	if want := strings.Join(events, ""); err != nil || string(got) != want {
		t.Errorf("stream: error %v, got\n%s\nwant\n%s", err, got, want)
	}
	if err := <-done; err != nil {
		t.Error(err)
	}
}

// TestBrokenAnswer sees to it that recoverPanics leaves an answer that broke off looking broken,
// and that it catches what it is there for.
func TestBrokenAnswer(t *testing.T) {
	t.Parallel()
	gateway := apexproxytest.NewGateway(apexproxytest.GatewayConfig{})
	defer gateway.Close()
	url, _, _ := serve(t, gateway)

	gateway.Fail(apexproxytest.Abort(apexproxytest.ChatStream("half ")[:2]...))
	resp := send(t, "POST", url+"/ai/v1/chat/completions", `{"model":"gpt-5.5#openai","stream":true}`)
	if b, err := io.ReadAll(resp.Body); err == nil {
		t.Errorf("a broken answer looks whole: %s", b)
	}

	rec := httptest.NewRecorder()
	recoverPanics(http.HandlerFunc(func(http.ResponseWriter, *http.Request) { panic("bug") })).
		ServeHTTP(rec, httptest.NewRequestWithContext(t.Context(), http.MethodGet, "/", nil))
	if rec.Code != 500 {
		t.Errorf("status %d after a panic, want 500", rec.Code)
	}
}

func TestNothingSet(t *testing.T) {
	t.Parallel()
	err := run(t.Context(), func(string) string { return "" }, nil)
	if err == nil {
		t.Fatal("no error")
	}
	for _, want := range []string{"GATEWAY_TOKEN", "ACCOUNT_ID", "GATEWAY_ID", "GATEWAY_BASE_URL", "examples/quickstart"} {
		if !strings.Contains(err.Error(), want) {
			t.Errorf("%q does not name %s", err, want)
		}
	}
}
