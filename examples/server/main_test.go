package main

import (
	"bufio"
	"context"
	"io"
	"net"
	"net/http"
	"os"
	"strings"
	"testing"
	"time"

	"github.com/loadchange/apexproxy/aepipe/aepipetest"
	"github.com/loadchange/apexproxy/apexproxytest"
)

// program is a running server.
type program struct {
	url  string
	addr string
	stop context.CancelFunc // what a signal does
	done chan error         // what run returned
}

func start(t *testing.T, env vars) *program {
	t.Helper()
	ctx, cancel := context.WithCancel(t.Context())
	t.Cleanup(cancel)
	if env["ADDR"] == "" {
		env["ADDR"] = "127.0.0.1:0"
	}
	env["LOG_LEVEL"] = "error"
	p := &program{stop: cancel, done: make(chan error, 1)}
	addr := make(chan string, 1)
	go func() { p.done <- run(ctx, env.get, func(a net.Addr) { addr <- a.String() }) }()
	select {
	case p.addr = <-addr:
		p.url = "http://" + p.addr
	case err := <-p.done:
		t.Fatal(err)
	}
	return p
}

// deadline keeps a test that waits for what never comes from hanging.
func deadline(t *testing.T) context.Context {
	ctx, cancel := context.WithTimeout(t.Context(), 20*time.Second)
	t.Cleanup(cancel)
	return ctx
}

func (p *program) post(t *testing.T, path, body string, header ...string) *http.Response {
	t.Helper()
	req, err := http.NewRequestWithContext(deadline(t), http.MethodPost, p.url+path, strings.NewReader(body))
	if err != nil {
		t.Fatal(err)
	}
	for _, h := range header {
		name, value, _ := strings.Cut(h, ": ")
		req.Header.Set(name, value)
	}
	resp, err := http.DefaultClient.Do(req)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { resp.Body.Close() })
	return resp
}

// TestWarning runs before the parallel tests: it takes os.Stderr.
func TestWarning(t *testing.T) {
	for _, tt := range []struct {
		name string
		env  vars
		want bool
	}{
		{"every address", vars{"ADDR": ":0"}, true},
		{"loopback", vars{"ADDR": "127.0.0.1:0"}, false},
		{"tokens", vars{"ADDR": ":0", "PASSTHROUGH_TOKENS": "t"}, false},
		{"hosts", vars{"ADDR": ":0", "PASSTHROUGH_HOSTS": "a.example"}, false},
		{"off", vars{"ADDR": ":0", "PASSTHROUGH": "off", "ACCOUNT_ID": "a", "GATEWAY_ID": "g", "GATEWAY_TOKEN": "t"}, false},
	} {
		t.Run(tt.name, func(t *testing.T) {
			r, w, err := os.Pipe()
			if err != nil {
				t.Fatal(err)
			}
			stderr := os.Stderr
			os.Stderr = w
			ctx, cancel := context.WithCancel(t.Context())
			err = run(ctx, tt.env.get, func(net.Addr) { cancel() })
			os.Stderr = stderr
			w.Close()
			log, readErr := io.ReadAll(r)
			if err != nil || readErr != nil {
				t.Fatal(err, readErr)
			}
			got := strings.Contains(string(log), "level=WARN") && strings.Contains(string(log), "PASSTHROUGH_TOKENS, PASSTHROUGH_HOSTS or PASSTHROUGH=off")
			if got != tt.want {
				t.Errorf("warning %v, want %v:\n%s", got, tt.want, log)
			}
		})
	}
}

func TestRun(t *testing.T) {
	t.Parallel()
	gateway := apexproxytest.NewGateway(apexproxytest.GatewayConfig{})
	defer gateway.Close()
	p := start(t, vars{
		"PASSTHROUGH":   "off",
		"MODEL_MAPPING": "claude-opus-4.7#mimo-v2.5-pro",
		"CLIENT_TOKENS": "client-token",
	}.behind(gateway))

	for _, tt := range []struct {
		name, path, body string
		header           []string
		status           int
		arrived          string // path below the gateway and model
	}{
		{"chat", "/v1/chat/completions", chatBody, []string{"Authorization: Bearer client-token"}, 200, "/openai/chat/completions gpt-5.5"},
		{"messages", "/v1/messages", `{"model":"claude-sonnet-4-6#anthropic","max_tokens":9}`, []string{"x-api-key: client-token", "anthropic-version: 2023-06-01"}, 200, "/anthropic/v1/messages claude-sonnet-4-6"},
		{"mapping", "/v1/messages", `{"model":"claude-opus-4.7#anthropic","max_tokens":9}`, []string{"x-api-key: client-token", "anthropic-version: 2023-06-01"}, 200, "/anthropic/v1/messages mimo-v2.5-pro"},
		{"the gateway's token", "/v1/chat/completions", chatBody, []string{"Authorization: Bearer test-token"}, 401, ""},
		{"passthrough", "/v1/chat/completions", chatBody, []string{"Authorization: Bearer client-token", "X-APEX-AI-PROXY-PROVIDER: a.example"}, 403, ""},
	} {
		gateway.Reset()
		resp := p.post(t, tt.path, tt.body, tt.header...)
		body, err := io.ReadAll(resp.Body)
		if err != nil || resp.StatusCode != tt.status || tt.status == 200 && !strings.Contains(string(body), apexproxytest.Answer) {
			t.Errorf("%s: status %d, want %d, error %v: %s", tt.name, resp.StatusCode, tt.status, err, body)
		}
		arrived := ""
		for _, r := range gateway.Requests() {
			arrived += strings.TrimPrefix(r.RequestURI, "/v1/test-account/test-gateway") + " " + r.Model
			if r.Credential != apexproxytest.CredentialStored {
				t.Errorf("%s: the gateway used %q", tt.name, r.Credential)
			}
		}
		if arrived != tt.arrived {
			t.Errorf("%s: the gateway got %q, want %q", tt.name, arrived, tt.arrived)
		}
	}
	p.stop()
	if err := <-p.done; err != nil {
		t.Error(err)
	}
}

// TestStopWaits stops the server while a stream is open: no new connections, the stream comes to
// its end, then run returns.
func TestStopWaits(t *testing.T) {
	t.Parallel()
	gateway := apexproxytest.NewGateway(apexproxytest.GatewayConfig{})
	defer gateway.Close()
	p := start(t, vars{}.behind(gateway))

	events := apexproxytest.ChatStream("one ", "two ", "three")
	gate := apexproxytest.Steps(events...)
	gateway.Fail(gate)
	resp := p.post(t, "/v1/chat/completions", `{"model":"gpt-5.5#openai","stream":true}`, "Authorization: Bearer test-token")
	next := func() {
		t.Helper()
		if err := gate.Next(deadline(t)); err != nil {
			t.Fatal(err)
		}
	}
	next()
	body := bufio.NewReader(resp.Body)
	if _, err := body.Peek(len(events[0])); err != nil {
		t.Fatal(err)
	}
	p.stop()
	for ctx := deadline(t); ; {
		conn, err := net.Dial("tcp", p.addr)
		if err != nil {
			break // it listens no more
		}
		conn.Close()
		if ctx.Err() != nil {
			t.Fatal("still listening")
		}
	}
	for range events[1:] {
		next()
	}
	select {
	case err := <-p.done:
		t.Fatalf("run returned %v with a stream open", err)
	default:
	}
	next() // the end
	got, err := io.ReadAll(body)
	if want := strings.Join(events, ""); err != nil || string(got) != want {
		t.Errorf("stream: error %v, got\n%s\nwant\n%s", err, got, want)
	}
	if err := <-p.done; err != nil {
		t.Error(err)
	}
}

// TestStopCuts stops the server while a stream is open that never ends: run returns in the 8
// seconds that it promises, and the client sees a broken stream.
func TestStopCuts(t *testing.T) {
	t.Parallel()
	if testing.Short() {
		t.Skip("takes the whole drain time")
	}
	gateway := apexproxytest.NewGateway(apexproxytest.GatewayConfig{})
	defer gateway.Close()
	p := start(t, vars{}.behind(gateway))

	event := apexproxytest.ChatStream("half ")[0]
	gateway.Fail(apexproxytest.StallAfter(event))
	resp := p.post(t, "/v1/chat/completions", `{"model":"gpt-5.5#openai","stream":true}`, "Authorization: Bearer test-token")
	if _, err := io.ReadFull(resp.Body, make([]byte, len(event))); err != nil {
		t.Fatal(err)
	}
	p.stop()
	began := time.Now()
	if rest, err := io.ReadAll(resp.Body); err == nil {
		t.Errorf("the cut stream looks whole: %q", rest)
	}
	if err := <-p.done; err != nil {
		t.Error(err)
	}
	if took := time.Since(began); took > 8*time.Second {
		t.Errorf("run took %v to return", took)
	}
	if err := gateway.WaitCancelled(deadline(t), 1); err != nil {
		t.Error(err)
	}
}

func TestAddrMistakes(t *testing.T) {
	t.Parallel()
	taken, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer taken.Close()
	for _, addr := range []string{"nonsense", "127.0.0.1:99999", taken.Addr().String()} {
		err := run(t.Context(), vars{"ADDR": addr}.get, func(net.Addr) { t.Errorf("%s: listens", addr) })
		if err == nil || !strings.HasPrefix(err.Error(), "ADDR: ") {
			t.Errorf("%s: error %v does not name ADDR", addr, err)
		}
	}
}

// TestAepipe finds the exchange in both logstores when run has returned: the stop flushes.
func TestAepipe(t *testing.T) {
	t.Parallel()
	gateway := apexproxytest.NewGateway(apexproxytest.GatewayConfig{})
	defer gateway.Close()
	store := aepipetest.NewServer("aepipe-token")
	defer store.Close()
	p := start(t, vars{"AEPIPE_BASE_URL": store.URL, "AEPIPE_TOKEN": store.Token}.behind(gateway))
	if _, err := io.ReadAll(p.post(t, "/v1/chat/completions", chatBody, "Authorization: Bearer test-token").Body); err != nil {
		t.Fatal(err)
	}
	p.stop()
	if err := <-p.done; err != nil {
		t.Error(err)
	}
	points, logs := store.Points("requests"), store.Logs("raw")
	if len(points) != 1 || len(logs) != 1 || len(store.Violations()) != 0 {
		t.Fatalf("%d points, %d log entries, violations %q", len(points), len(logs), store.Violations())
	}
	if points[0].Project != "apex-ai-proxy" || points[0].Event != "POST /v1/chat/completions" || points[0].Level != "info" {
		t.Errorf("point %s", points[0].Raw)
	}
	// With content: the request's body, and no token in a header.
	if log := string(logs[0].Raw); !strings.Contains(log, `gpt-5.5#openai`) || strings.Contains(log, "test-token") || !strings.Contains(log, "[REDACTED]") {
		t.Errorf("log entry %s", log)
	}
}

// TestAepipeHangs stops the server while the store does not answer.
func TestAepipeHangs(t *testing.T) {
	t.Parallel()
	gateway := apexproxytest.NewGateway(apexproxytest.GatewayConfig{})
	defer gateway.Close()
	store := aepipetest.NewServer("aepipe-token")
	defer store.Close()
	store.Script(apexproxytest.Hang())
	p := start(t, vars{"AEPIPE_BASE_URL": store.URL, "AEPIPE_TOKEN": store.Token}.behind(gateway))
	if _, err := io.ReadAll(p.post(t, "/v1/chat/completions", chatBody, "Authorization: Bearer test-token").Body); err != nil {
		t.Fatal(err)
	}
	p.stop()
	began := time.Now()
	select {
	case err := <-p.done:
		if took := time.Since(began); err != nil || took > 8*time.Second {
			t.Errorf("run took %v to return %v", took, err)
		}
	case <-deadline(t).Done():
		t.Error("run does not return")
	}
}
