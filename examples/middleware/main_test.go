package main

import (
	"bytes"
	"context"
	"io"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/loadchange/apexproxy/apexproxytest"
)

// lockedBuffer takes the access log: a line is written when the handler returns, which a client may
// not wait for.
type lockedBuffer struct {
	mu  sync.Mutex
	buf bytes.Buffer
}

func (b *lockedBuffer) Write(p []byte) (int, error) {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.buf.Write(p)
}

func (b *lockedBuffer) String() string {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.buf.String()
}

// serve returns the example's handler on a server. log is complete after the server's Close.
func serve(t *testing.T, gateway *apexproxytest.Gateway, writeTimeout time.Duration) (server *httptest.Server, log *lockedBuffer) {
	t.Helper()
	env := map[string]string{
		"API_KEYS":         "acme=key-a, globex=key-g",
		"GATEWAY_TOKEN":    gateway.Token,
		"GATEWAY_BASE_URL": gateway.BaseURL(),
	}
	proxy, err := newProxy(func(name string) string { return env[name] })
	if err != nil {
		t.Fatal(err)
	}
	log = &lockedBuffer{}
	server = httptest.NewUnstartedServer(logAccess(slog.New(slog.NewTextHandler(log, nil)), proxy))
	server.Config.WriteTimeout = writeTimeout
	server.Config.ErrorLog = slog.NewLogLogger(slog.DiscardHandler, 0)
	server.Start()
	t.Cleanup(server.Close)
	return server, log
}

// deadline keeps a test that waits for what never comes from hanging.
func deadline(t *testing.T) context.Context {
	ctx, cancel := context.WithTimeout(t.Context(), 20*time.Second)
	t.Cleanup(cancel)
	return ctx
}

func send(t *testing.T, server *httptest.Server, header, value, body string) *http.Response {
	t.Helper()
	req, err := http.NewRequestWithContext(deadline(t), http.MethodPost, server.URL+"/v1/chat/completions", strings.NewReader(body))
	if err != nil {
		t.Fatal(err)
	}
	req.Header.Set(header, value)
	resp, err := server.Client().Do(req)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { resp.Body.Close() })
	return resp
}

func TestTenants(t *testing.T) {
	t.Parallel()
	gateway := apexproxytest.NewGateway(apexproxytest.GatewayConfig{})
	defer gateway.Close()
	server, log := serve(t, gateway, 0)

	for _, tt := range []struct {
		header, value string
		status        int
		metadata      map[string]any
	}{
		{"Authorization", "Bearer key-a", 200, map[string]any{"tenant": "acme"}},
		{"X-Api-Key", "key-g", 200, map[string]any{"tenant": "globex"}},
		{"Authorization", "Bearer key-b", 401, nil},
		{"Authorization", "key-a", 401, nil},
		{"X-Other", "key-a", 401, nil},
		{"Authorization", "Bearer " + gateway.Token, 401, nil},
	} {
		gateway.Reset()
		resp := send(t, server, tt.header, tt.value, `{"model":"gpt-5.5#openai"}`)
		var metadata map[string]any
		for _, r := range gateway.Requests() {
			metadata = r.Metadata
			if r.Credential != apexproxytest.CredentialStored {
				t.Errorf("%s: %s: the gateway used %q", tt.header, tt.value, r.Credential)
			}
		}
		if diff := cmp.Diff(tt.metadata, metadata); resp.StatusCode != tt.status || diff != "" {
			t.Errorf("%s: %s: status %d, want %d; metadata (-want +got):\n%s", tt.header, tt.value, resp.StatusCode, tt.status, diff)
		}
	}
	server.Close()
	// A line is written after its answer, so the order is not certain.
	for part, want := range map[string]int{"path=/v1/chat/completions status=200 bytes=": 2, "status=401": 4, "aborted=false": 6, "\n": 6} {
		if got := strings.Count(log.String(), part); got != want {
			t.Errorf("%q %d times in the access log, want %d:\n%s", part, got, want, log)
		}
	}
	for _, secret := range []string{"key-", gateway.Token} {
		if strings.Contains(log.String(), secret) {
			t.Errorf("the access log shows a key:\n%s", log)
		}
	}
}

// TestStream reads each event before the next one is sent, through the access log, on a server
// whose WriteTimeout is much shorter than the stream.
func TestStream(t *testing.T) {
	t.Parallel()
	gateway := apexproxytest.NewGateway(apexproxytest.GatewayConfig{})
	defer gateway.Close()
	const writeTimeout = 500 * time.Millisecond
	server, _ := serve(t, gateway, writeTimeout)

	events := apexproxytest.ChatStream("one ", "two ", "three")
	gate := apexproxytest.Steps(events...)
	gateway.Fail(apexproxytest.EarlyHints(gate))
	resp := send(t, server, "Authorization", "Bearer key-a", `{"model":"gpt-5.5#openai","stream":true}`)
	tick := time.NewTicker(writeTimeout / 2)
	defer tick.Stop()
	for _, want := range events {
		<-tick.C // the stream takes longer than WriteTimeout
		if err := gate.Next(deadline(t)); err != nil {
			t.Fatal(err)
		}
		got := make([]byte, len(want))
		if _, err := io.ReadFull(resp.Body, got); err != nil || string(got) != want {
			t.Fatalf("got %q, error %v, want %q", got, err, want)
		}
	}
}

func TestBrokenAnswer(t *testing.T) {
	t.Parallel()
	gateway := apexproxytest.NewGateway(apexproxytest.GatewayConfig{})
	defer gateway.Close()
	server, log := serve(t, gateway, 0)

	gateway.Fail(apexproxytest.EarlyHints(apexproxytest.Abort(apexproxytest.ChatStream("half ")[:2]...)))
	resp := send(t, server, "Authorization", "Bearer key-a", `{"model":"gpt-5.5#openai","stream":true}`)
	if b, err := io.ReadAll(resp.Body); err == nil {
		t.Errorf("a broken answer looks whole: %s", b)
	}
	server.Close()
	if !strings.Contains(log.String(), "status=200") || !strings.Contains(log.String(), "aborted=true") {
		t.Errorf("access log:\n%s", log)
	}
}

func TestNothingSet(t *testing.T) {
	t.Parallel()
	for env, secret := range map[string]string{"": "", "acme": "", "=s3cret": "s3cret", "acme=s3cret,": "s3cret"} {
		err := run(t.Context(), func(name string) string {
			if name == "API_KEYS" {
				return env
			}
			return ""
		})
		if err == nil || !strings.Contains(err.Error(), "API_KEYS") || secret != "" && strings.Contains(err.Error(), secret) {
			t.Errorf("API_KEYS=%q: error %v", env, err)
		}
	}
}
