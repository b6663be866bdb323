package apexproxy_test

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/http"
	"net/http/httptest"
	"runtime"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/google/go-cmp/cmp/cmpopts"

	"github.com/loadchange/apexproxy"
	"github.com/loadchange/apexproxy/apexproxytest"
)

// collector is a Reporter that keeps everything.
type collector struct {
	mu      sync.Mutex
	records []apexproxy.Record
}

func (c *collector) Report(_ context.Context, batch []apexproxy.Record) error {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.records = append(c.records, batch...)
	return nil
}

// settle waits until p has ended all exchanges: an answer is at the client a moment before that.
func settle(p *apexproxy.Proxy) {
	for start := time.Now(); p.Stats().InFlight > 0 && time.Since(start) < 10*time.Second; {
		runtime.Gosched()
	}
}

// after shuts p down, so that everything is reported, and returns the records.
func (c *collector) after(tb testing.TB, p *apexproxy.Proxy) []apexproxy.Record {
	tb.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), 10*time.Second)
	defer cancel()
	settle(p)
	if err := p.Shutdown(ctx); err != nil {
		tb.Fatal(err)
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.records
}

// recordOptions compares records without what differs from run to run.
var recordOptions = cmp.Options{
	cmpopts.IgnoreFields(apexproxy.Record{}, "ID", "Start", "Duration", "TimeToFirstByte", "GatewayLogID"),
	cmpopts.EquateEmpty(),
}

var wantUsage = &apexproxy.Usage{InputTokens: apexproxytest.InputTokens, OutputTokens: apexproxytest.OutputTokens, CacheReadTokens: apexproxytest.CachedTokens}

const (
	chatBody     = `{"model":"gpt-5.5#openai","messages":[{"role":"user","content":"hi"}]}`
	chatStream   = `{"model":"gpt-5.5#openai","stream":true,"messages":[{"role":"user","content":"hi"}]}`
	messageBody  = `{"model":"claude-opus-4-7#anthropic","max_tokens":10,"messages":[{"role":"user","content":"hi"}]}`
	bearerHeader = "Bearer " + gatewayToken
)

// TestRecord has one exchange a row, each of which must leave exactly one record.
func TestRecord(t *testing.T) {
	t.Parallel()
	type setup struct {
		provider http.Handler // behind the gateway, or the passthrough upstream
		opts     []apexproxy.Option
		wrap     func(http.Handler) http.Handler
	}
	// call sends the row's request. It may fail: some exchanges break off.
	call := func(t *testing.T, url, path, body string, header ...string) {
		t.Helper()
		req, err := http.NewRequestWithContext(t.Context(), http.MethodPost, url+path, strings.NewReader(body))
		if err != nil {
			t.Fatal(err)
		}
		req.Header = headers(header...)
		if res, err := client.Do(req); err == nil {
			_, _ = io.Copy(io.Discard, res.Body)
			res.Body.Close()
		}
	}
	token := apexproxy.Identity{Subject: "token-1"}
	gatewayRecord := func(r apexproxy.Record) apexproxy.Record {
		r.Method, r.Mode, r.Identity = http.MethodPost, apexproxy.ModeGateway, token
		return r
	}
	deadline := func(h http.Handler) http.Handler {
		return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
			ctx, cancel := context.WithTimeout(r.Context(), time.Second)
			defer cancel()
			h.ServeHTTP(w, r.WithContext(ctx))
		})
	}
	const host = "GATEWAY" // replaced by the fake gateway's address
	tests := []struct {
		name  string
		setup setup
		do    func(t *testing.T, url string)
		want  apexproxy.Record
	}{
		{
			name: "chat, JSON",
			do: func(t *testing.T, url string) {
				call(t, url, "/v1/chat/completions", chatBody, "Authorization", bearerHeader)
			},
			want: gatewayRecord(apexproxy.Record{Path: "/v1/chat/completions", Operation: "chat", Provider: "openai", UpstreamHost: host,
				ClientModel: "gpt-5.5#openai", RequestModel: "gpt-5.5", ResponseModel: "gpt-5.5", StatusCode: 200, Outcome: "completed",
				RequestBytes: int64(len(chatBody)), ResponseBytes: -1, Usage: wantUsage, FinishReason: "stop", CacheStatus: "MISS"}),
		},
		{
			name: "chat, stream",
			do: func(t *testing.T, url string) {
				call(t, url, "/v1/chat/completions", chatStream, "Authorization", bearerHeader)
			},
			want: gatewayRecord(apexproxy.Record{Path: "/v1/chat/completions", Operation: "chat", Provider: "openai", UpstreamHost: host, Stream: true,
				ClientModel: "gpt-5.5#openai", RequestModel: "gpt-5.5", ResponseModel: "gpt-5.5", StatusCode: 200, Outcome: "completed",
				RequestBytes: int64(len(chatStream)), ResponseBytes: -1, Usage: wantUsage, FinishReason: "stop", CacheStatus: "MISS"}),
		},
		{
			name: "messages, stream",
			do: func(t *testing.T, url string) {
				call(t, url, "/v1/messages", strings.Replace(messageBody, "{", `{"stream":true,`, 1), "X-Api-Key", gatewayToken, "Anthropic-Version", "2023-06-01")
			},
			want: gatewayRecord(apexproxy.Record{Path: "/v1/messages", Operation: "messages", Provider: "anthropic", UpstreamHost: host, Stream: true,
				ClientModel: "claude-opus-4-7#anthropic", RequestModel: "claude-opus-4-7", ResponseModel: "claude-opus-4-7", StatusCode: 200, Outcome: "completed",
				RequestBytes: int64(len(messageBody) + len(`"stream":true,`)), ResponseBytes: -1, Usage: wantUsage, FinishReason: "end_turn", CacheStatus: "MISS"}),
		},
		{
			name:  "provider error",
			setup: setup{provider: apexproxytest.RateLimited()},
			do: func(t *testing.T, url string) {
				call(t, url, "/v1/messages", messageBody, "X-Api-Key", gatewayToken, "Anthropic-Version", "2023-06-01")
			},
			want: gatewayRecord(apexproxy.Record{Path: "/v1/messages", Operation: "messages", Provider: "anthropic", UpstreamHost: host,
				ClientModel: "claude-opus-4-7#anthropic", RequestModel: "claude-opus-4-7", StatusCode: 429, Outcome: "upstream_error", ErrorType: "rate_limit_error",
				RequestBytes: int64(len(messageBody)), ResponseBytes: -1, CacheStatus: "MISS"}),
		},
		{
			name:  "gateway error",
			setup: setup{provider: apexproxytest.AiGatewayError(429, 2003, "Rate limited")},
			do: func(t *testing.T, url string) {
				call(t, url, "/v1/chat/completions", chatBody, "Authorization", bearerHeader)
			},
			want: gatewayRecord(apexproxy.Record{Path: "/v1/chat/completions", Operation: "chat", Provider: "openai", UpstreamHost: host,
				ClientModel: "gpt-5.5#openai", RequestModel: "gpt-5.5", StatusCode: 429, Outcome: "upstream_error", ErrorType: "gateway_2003",
				RequestBytes: int64(len(chatBody)), ResponseBytes: -1, CacheStatus: "MISS"}),
		},
		{
			name:  "error inside a stream",
			setup: setup{provider: apexproxytest.SSE(apexproxytest.MessageStream("a")[0], "event: error\ndata: {\"type\":\"error\",\"error\":{\"type\":\"overloaded_error\",\"message\":\"x\"}}\n\n")},
			do: func(t *testing.T, url string) {
				call(t, url, "/v1/messages", messageBody, "X-Api-Key", gatewayToken, "Anthropic-Version", "2023-06-01")
			},
			want: gatewayRecord(apexproxy.Record{Path: "/v1/messages", Operation: "messages", Provider: "anthropic", UpstreamHost: host, Stream: true,
				ClientModel: "claude-opus-4-7#anthropic", RequestModel: "claude-opus-4-7", ResponseModel: "claude-opus-4-7", StatusCode: 200, Outcome: "upstream_error", ErrorType: "overloaded_error",
				RequestBytes: int64(len(messageBody)), ResponseBytes: -1, CacheStatus: "MISS",
				Usage: &apexproxy.Usage{InputTokens: apexproxytest.InputTokens, CacheReadTokens: apexproxytest.CachedTokens, OutputTokens: 1}}),
		},
		{
			name: "401",
			do: func(t *testing.T, url string) {
				call(t, url, "/v1/chat/completions", chatBody, "Authorization", "Bearer wrong")
			},
			want: apexproxy.Record{Method: "POST", Path: "/v1/chat/completions", Mode: "gateway", Operation: "chat", StatusCode: 401, Outcome: "rejected", ErrorType: "invalid_api_key", ResponseBytes: -1},
		},
		{
			name: "404",
			do:   func(t *testing.T, url string) { call(t, url, "/v1/nothing", "") },
			want: apexproxy.Record{Method: "POST", Path: "/v1/nothing", StatusCode: 404, Outcome: "rejected", ErrorType: "not_found", ResponseBytes: -1},
		},
		{
			name: "405",
			do:   func(t *testing.T, url string) { do(t, "PUT", url+"/v1/messages", "") },
			want: apexproxy.Record{Method: "PUT", Path: "/v1/messages", Operation: "messages", StatusCode: 405, Outcome: "rejected", ErrorType: "method_not_allowed", ResponseBytes: -1},
		},
		{
			name:  "413",
			setup: setup{opts: []apexproxy.Option{apexproxy.WithMaxRequestBytes(10)}},
			do: func(t *testing.T, url string) {
				call(t, url, "/v1/chat/completions", chatBody, "Authorization", bearerHeader)
			},
			want: gatewayRecord(apexproxy.Record{Path: "/v1/chat/completions", Operation: "chat", StatusCode: 413, Outcome: "rejected", ErrorType: "request_too_large", ResponseBytes: -1}),
		},
		{
			name: "bad JSON",
			do: func(t *testing.T, url string) {
				call(t, url, "/v1/chat/completions", "{", "Authorization", bearerHeader)
			},
			want: gatewayRecord(apexproxy.Record{Path: "/v1/chat/completions", Operation: "chat", StatusCode: 400, Outcome: "rejected", ErrorType: "invalid_json", RequestBytes: 1, ResponseBytes: -1}),
		},
		{
			name:  "blocked upstream",
			setup: setup{opts: []apexproxy.Option{apexproxy.WithPassthrough(apexproxy.Passthrough{})}},
			do: func(t *testing.T, url string) {
				call(t, url, "/v1/chat/completions", chatBody, "X-Apex-Ai-Proxy-Provider", "localhost:1")
			},
			want: apexproxy.Record{Method: "POST", Path: "/v1/chat/completions", Mode: "passthrough", Operation: "chat", Provider: "localhost:1", UpstreamHost: "localhost:1",
				ClientModel: "gpt-5.5#openai", RequestModel: "gpt-5.5#openai", StatusCode: 403, Outcome: "rejected", ErrorType: "destination_ip_prohibited", RequestBytes: int64(len(chatBody)), ResponseBytes: -1},
		},
		{
			name: "liveness",
			do:   func(t *testing.T, url string) { do(t, "GET", url+"/", "") },
			want: apexproxy.Record{Method: "GET", Path: "/", Operation: "liveness", StatusCode: 200, Outcome: "completed", ResponseBytes: -1},
		},
		{
			name: "preflight",
			do:   func(t *testing.T, url string) { do(t, "OPTIONS", url+"/v1/messages", "") },
			want: apexproxy.Record{Method: "OPTIONS", Path: "/v1/messages", Operation: "preflight", StatusCode: 204, Outcome: "completed"},
		},
		{
			name:  "dies before the head",
			setup: setup{provider: apexproxytest.Abort()},
			do: func(t *testing.T, url string) {
				call(t, url, "/v1/chat/completions", chatBody, "Authorization", bearerHeader)
			},
			want: gatewayRecord(apexproxy.Record{Path: "/v1/chat/completions", Operation: "chat", Provider: "openai", UpstreamHost: host,
				ClientModel: "gpt-5.5#openai", RequestModel: "gpt-5.5", StatusCode: 502, Outcome: "upstream_error", ErrorType: "connection_terminated",
				RequestBytes: int64(len(chatBody)), ResponseBytes: -1}),
		},
		{
			name:  "dies in the stream",
			setup: setup{provider: apexproxytest.Abort(apexproxytest.MessageStream("a", "b")[:4]...)},
			do: func(t *testing.T, url string) {
				call(t, url, "/v1/messages", messageBody, "X-Api-Key", gatewayToken, "Anthropic-Version", "2023-06-01")
			},
			want: gatewayRecord(apexproxy.Record{Path: "/v1/messages", Operation: "messages", Provider: "anthropic", UpstreamHost: host, Stream: true,
				ClientModel: "claude-opus-4-7#anthropic", RequestModel: "claude-opus-4-7", ResponseModel: "claude-opus-4-7", StatusCode: 200, Outcome: "upstream_truncated",
				RequestBytes: int64(len(messageBody)), ResponseBytes: -1, CacheStatus: "MISS",
				Usage: &apexproxy.Usage{InputTokens: apexproxytest.InputTokens, CacheReadTokens: apexproxytest.CachedTokens, OutputTokens: 1}}),
		},
		{
			name:  "ends the stream early but cleanly",
			setup: setup{provider: apexproxytest.SSE(apexproxytest.MessageStream("a", "b")[:4]...)},
			do: func(t *testing.T, url string) {
				call(t, url, "/v1/messages", messageBody, "X-Api-Key", gatewayToken, "Anthropic-Version", "2023-06-01")
			},
			want: gatewayRecord(apexproxy.Record{Path: "/v1/messages", Operation: "messages", Provider: "anthropic", UpstreamHost: host, Stream: true,
				ClientModel: "claude-opus-4-7#anthropic", RequestModel: "claude-opus-4-7", ResponseModel: "claude-opus-4-7", StatusCode: 200, Outcome: "upstream_truncated",
				RequestBytes: int64(len(messageBody)), ResponseBytes: -1, CacheStatus: "MISS",
				Usage: &apexproxy.Usage{InputTokens: apexproxytest.InputTokens, CacheReadTokens: apexproxytest.CachedTokens, OutputTokens: 1}}),
		},
		{
			name:  "stalls before the head",
			setup: setup{provider: apexproxytest.Hang(), wrap: deadline},
			do: func(t *testing.T, url string) {
				call(t, url, "/v1/chat/completions", chatBody, "Authorization", bearerHeader)
			},
			want: gatewayRecord(apexproxy.Record{Path: "/v1/chat/completions", Operation: "chat", Provider: "openai", UpstreamHost: host,
				ClientModel: "gpt-5.5#openai", RequestModel: "gpt-5.5", StatusCode: 504, Outcome: "timeout", ErrorType: "http_response_timeout",
				RequestBytes: int64(len(chatBody)), ResponseBytes: -1}),
		},
		{
			name:  "stalls in the stream",
			setup: setup{provider: apexproxytest.StallAfter(apexproxytest.ChatStream("a")[:2]...), wrap: deadline},
			do: func(t *testing.T, url string) {
				call(t, url, "/v1/chat/completions", chatStream, "Authorization", bearerHeader)
			},
			want: gatewayRecord(apexproxy.Record{Path: "/v1/chat/completions", Operation: "chat", Provider: "openai", UpstreamHost: host, Stream: true,
				ClientModel: "gpt-5.5#openai", RequestModel: "gpt-5.5", ResponseModel: "gpt-5.5", StatusCode: 200, Outcome: "timeout",
				RequestBytes: int64(len(chatStream)), ResponseBytes: -1, CacheStatus: "MISS"}),
		},
		{
			name:  "client leaves before the head",
			setup: setup{provider: apexproxytest.Hang()},
			do: func(t *testing.T, url string) {
				ctx, cancel := context.WithTimeout(t.Context(), time.Second)
				defer cancel()
				req, _ := http.NewRequestWithContext(ctx, http.MethodPost, url+"/v1/chat/completions", strings.NewReader(chatBody))
				req.Header.Set("Authorization", bearerHeader)
				if res, err := client.Do(req); err == nil {
					t.Errorf("status %d", res.StatusCode)
					res.Body.Close()
				}
			},
			want: gatewayRecord(apexproxy.Record{Path: "/v1/chat/completions", Operation: "chat", Provider: "openai", UpstreamHost: host,
				ClientModel: "gpt-5.5#openai", RequestModel: "gpt-5.5", StatusCode: 499, Outcome: "client_closed", ErrorType: "client_closed",
				RequestBytes: int64(len(chatBody))}),
		},
		{
			name: "client leaves in the upload",
			do: func(t *testing.T, url string) {
				c, err := net.Dial("tcp", hostOf(t, url))
				if err != nil {
					t.Fatal(err)
				}
				fmt.Fprintf(c, "POST /v1/chat/completions HTTP/1.1\r\nHost: x\r\nAuthorization: %s\r\nContent-Length: 100\r\n\r\n{", bearerHeader)
				_ = c.(*net.TCPConn).CloseWrite()
				_, _ = io.Copy(io.Discard, c) // until the exchange is over
				c.Close()
			},
			want: gatewayRecord(apexproxy.Record{Path: "/v1/chat/completions", Operation: "chat", StatusCode: 499, Outcome: "client_closed", ErrorType: "client_closed", ResponseBytes: -1}),
		},
		{
			name: "unknown model",
			do: func(t *testing.T, url string) {
				do(t, http.MethodGet, url+"/v1/models/none%23openai", "", "Authorization", bearerHeader)
			},
			want: func() apexproxy.Record {
				r := gatewayRecord(apexproxy.Record{Path: "/v1/models/none%23openai", Operation: "models", UpstreamHost: host, StatusCode: 404, Outcome: "rejected",
					ErrorType: "model_not_found", ResponseBytes: -1, CacheStatus: "MISS"})
				r.Method = http.MethodGet
				return r
			}(),
		},
		{
			name:  "client leaves in the stream",
			setup: setup{provider: apexproxytest.StallAfter(apexproxytest.MessageStream("a", "b")[:4]...)},
			do: func(t *testing.T, url string) {
				req, _ := http.NewRequestWithContext(t.Context(), http.MethodPost, url+"/v1/messages", strings.NewReader(messageBody))
				req.Header = headers("X-Api-Key", gatewayToken, "Anthropic-Version", "2023-06-01")
				res, err := client.Do(req)
				if err != nil {
					t.Fatal(err)
				}
				want := strings.Join(apexproxytest.MessageStream("a", "b")[:4], "")
				if _, err := io.ReadFull(res.Body, make([]byte, len(want))); err != nil {
					t.Error(err)
				}
				res.Body.Close()
			},
			want: gatewayRecord(apexproxy.Record{Path: "/v1/messages", Operation: "messages", Provider: "anthropic", UpstreamHost: host, Stream: true,
				ClientModel: "claude-opus-4-7#anthropic", RequestModel: "claude-opus-4-7", ResponseModel: "claude-opus-4-7", StatusCode: 200, Outcome: "client_closed",
				RequestBytes: int64(len(messageBody)), ResponseBytes: -1, CacheStatus: "MISS",
				Usage: &apexproxy.Usage{InputTokens: apexproxytest.InputTokens, CacheReadTokens: apexproxytest.CachedTokens, OutputTokens: 1}}),
		},
		{
			name: "panic of a host's writer",
			setup: setup{wrap: func(h http.Handler) http.Handler {
				return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) { h.ServeHTTP(panicWriter{w}, r) })
			}},
			do: func(t *testing.T, url string) {
				call(t, url, "/v1/chat/completions", chatBody, "Authorization", bearerHeader)
			},
			want: gatewayRecord(apexproxy.Record{Path: "/v1/chat/completions", Operation: "chat", Provider: "openai", UpstreamHost: host,
				ClientModel: "gpt-5.5#openai", RequestModel: "gpt-5.5", ResponseModel: "gpt-5.5", StatusCode: 200, Outcome: "aborted",
				RequestBytes: int64(len(chatBody)), ResponseBytes: -1, Usage: wantUsage, FinishReason: "stop", CacheStatus: "MISS"}),
		},
		{
			name:  "panic of an Authenticator",
			setup: setup{opts: []apexproxy.Option{apexproxy.WithAuth(func(*http.Request) (apexproxy.Identity, error) { panic("host") })}},
			do: func(t *testing.T, url string) {
				call(t, url, "/v1/chat/completions", chatBody)
			},
			want: apexproxy.Record{Method: "POST", Path: "/v1/chat/completions", Mode: "gateway", Operation: "chat", Outcome: "aborted"},
		},
		{
			name: "converted stream",
			do: func(t *testing.T, url string) {
				call(t, url, "/v1/messages", `{"model":"gpt-5.5#openai","stream":true,"max_tokens":9,"top_k":3,"messages":[{"role":"user","content":"hi"}]}`, "X-Api-Key", gatewayToken, "Anthropic-Version", "2023-06-01")
			},
			want: gatewayRecord(apexproxy.Record{Path: "/v1/messages", Operation: "messages", Provider: "openai", UpstreamHost: host, Stream: true, Converted: true, Dropped: []string{"top_k"},
				ClientModel: "gpt-5.5#openai", RequestModel: "gpt-5.5", ResponseModel: "gpt-5.5", StatusCode: 200, Outcome: "completed",
				RequestBytes: 109, ResponseBytes: -1, Usage: wantUsage, FinishReason: "stop", CacheStatus: "MISS"}),
		},
		{
			name:  "converted stream that breaks off",
			setup: setup{provider: apexproxytest.SSE(apexproxytest.ChatStream("a")[:2]...)},
			do: func(t *testing.T, url string) {
				call(t, url, "/v1/messages", `{"model":"gpt-5.5#openai","stream":true,"max_tokens":9,"messages":[{"role":"user","content":"hi"}]}`, "X-Api-Key", gatewayToken, "Anthropic-Version", "2023-06-01")
			},
			want: gatewayRecord(apexproxy.Record{Path: "/v1/messages", Operation: "messages", Provider: "openai", UpstreamHost: host, Stream: true, Converted: true,
				ClientModel: "gpt-5.5#openai", RequestModel: "gpt-5.5", ResponseModel: "gpt-5.5", StatusCode: 200, Outcome: "upstream_truncated",
				RequestBytes: 99, ResponseBytes: -1, CacheStatus: "MISS"}),
		},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			gw := newGateway(t, apexproxytest.GatewayConfig{Provider: tt.setup.provider})
			c := new(collector)
			p, err := apexproxy.New(append([]apexproxy.Option{apexproxy.WithGateway(via(gw)), apexproxy.WithReporter(c)}, tt.setup.opts...)...)
			if err != nil {
				t.Fatal(err)
			}
			var h http.Handler = p
			if tt.setup.wrap != nil {
				h = tt.setup.wrap(p)
			}
			srv := httptest.NewUnstartedServer(h)
			srv.Config.ErrorLog = slog.NewLogLogger(slog.DiscardHandler, 0)
			srv.Start()
			tt.do(t, srv.URL)
			srv.CloseClientConnections()
			srv.Close()
			records := c.after(t, p)
			if len(records) != 1 {
				t.Fatalf("%d records, want exactly one: %+v", len(records), records)
			}
			got := records[0]
			if tt.want.UpstreamHost == host {
				tt.want.UpstreamHost = gw.Host
			}
			if tt.want.ResponseBytes == -1 && got.ResponseBytes > 0 {
				tt.want.ResponseBytes = got.ResponseBytes
			}
			if diff := cmp.Diff(tt.want, got, recordOptions); diff != "" {
				t.Error(diff)
			}
			if got.ID == "" || got.Start.IsZero() || got.Duration <= 0 {
				t.Errorf("id %q, start %v, duration %v", got.ID, got.Start, got.Duration)
			}
		})
	}
}

// panicWriter is a host's ResponseWriter with a bug.
type panicWriter struct{ http.ResponseWriter }

func (panicWriter) Write([]byte) (int, error) { panic("host") }

// TestRecord_refusedConnection cannot use the fake gateway: nobody listens.
func TestRecord_refusedConnection(t *testing.T) {
	t.Parallel()
	c := new(collector)
	p, err := apexproxy.New(apexproxy.WithReporter(c),
		apexproxy.WithGateway(apexproxy.Gateway{BaseURL: "http://" + apexproxytest.RefusingAddr(), Token: gatewayToken}))
	if err != nil {
		t.Fatal(err)
	}
	post(t, serve(t, p, p)+"/v1/chat/completions", chatBody, "Authorization", bearerHeader)
	records := c.after(t, p)
	if len(records) != 1 || records[0].Outcome != apexproxy.OutcomeUpstreamError || records[0].ErrorType != "connection_refused" || records[0].StatusCode != 502 {
		t.Errorf("%+v", records)
	}
}

// TestUsageAskedFor shows that the proxy asks for usage where nobody did, and that only the
// reporter notices.
func TestUsageAskedFor(t *testing.T) {
	t.Parallel()
	const prefix = `{"model":"M","stream":true,"messages":[]`
	tests := []struct {
		name, path, model, body string
		reporter                bool
		upstream                string // body as it arrives, model aside
		hidden                  bool   // the usage chunk does not reach the client
	}{
		{"asked for", "/v1/chat/completions", "gpt-5.5#openai", prefix + `}`, true,
			`{"stream_options":{"include_usage":true},"model":"gpt-5.5","stream":true,"messages":[]}`, true},
		{"client asked", "/v1/chat/completions", "gpt-5.5#openai", prefix + `,"stream_options":{"include_usage":true}}`, true,
			`{"model":"gpt-5.5","stream":true,"messages":[],"stream_options":{"include_usage":true}}`, false},
		{"client said no", "/v1/chat/completions", "gpt-5.5#openai", prefix + `,"stream_options":{"include_usage":false, "x":1}}`, true,
			`{"model":"gpt-5.5","stream":true,"messages":[],"stream_options":{"include_usage":true, "x":1}}`, true},
		{"other options", "/v1/chat/completions", "gpt-5.5#openai", `{"stream_options":{"x":1},"model":"M","stream":true}`, true,
			`{"stream_options":{"x":1,"include_usage":true},"model":"gpt-5.5","stream":true}`, true},
		{"options are no object", "/v1/chat/completions", "gpt-5.5#openai", prefix + `,"stream_options":null}`, true,
			`{"model":"gpt-5.5","stream":true,"messages":[],"stream_options":null}`, false},
		{"byte order mark", "/v1/chat/completions", "gpt-5.5#openai", "\ufeff" + prefix + `}`, true,
			"\ufeff" + `{"stream_options":{"include_usage":true},"model":"gpt-5.5","stream":true,"messages":[]}`, true},
		{"not streaming", "/v1/chat/completions", "gpt-5.5#openai", `{"model":"M"}`, true, `{"model":"gpt-5.5"}`, false},
		{"provider does not take it", "/v1/chat/completions", "m#mistral", prefix + `}`, true, `{"model":"m","stream":true,"messages":[]}`, false},
		{"responses", "/v1/responses", "gpt-5.5#openai", prefix + `}`, true, `{"model":"gpt-5.5","stream":true,"messages":[]}`, false},
		{"messages", "/v1/messages", "claude#anthropic", prefix + `}`, true, `{"model":"claude","stream":true,"messages":[]}`, false},
		{"nobody reports", "/v1/chat/completions", "gpt-5.5#openai", prefix + `}`, false, `{"model":"gpt-5.5","stream":true,"messages":[]}`, false},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			gw := newGateway(t, apexproxytest.GatewayConfig{})
			opts := []apexproxy.Option{apexproxy.WithGateway(via(gw))}
			c := new(collector)
			if tt.reporter {
				opts = append(opts, apexproxy.WithReporter(c))
			}
			p, err := apexproxy.New(opts...)
			if err != nil {
				t.Fatal(err)
			}
			got := post(t, serve(t, p, p)+tt.path, strings.Replace(tt.body, `"M"`, `"`+tt.model+`"`, 1), "Authorization", bearerHeader)
			sent := gw.Requests()[0]
			if diff := cmp.Diff(tt.upstream, string(sent.Body)); diff != "" {
				t.Error(diff)
			}
			if got.Status == 200 && strings.Contains(tt.path, "chat") && strings.Contains(tt.upstream, `"include_usage":true`) {
				if seen := strings.Contains(got.Body, `"usage":{`); seen == tt.hidden {
					t.Errorf("usage chunk at the client: %v\n%s", seen, got.Body)
				}
				if !strings.HasSuffix(got.Body, "data: [DONE]\n\n") {
					t.Errorf("the end is missing: %s", got.Body)
				}
				if records := c.after(t, p); len(records) != 1 || !cmp.Equal(records[0].Usage, wantUsage) {
					t.Errorf("records: %+v", records)
				}
			}
		})
	}
	t.Run("passthrough", func(t *testing.T) {
		t.Parallel()
		up := newUpstream(t, apexproxytest.SSE(apexproxytest.ChatStreamUsage("a")...))
		p, err := apexproxy.New(append(reaching(up), apexproxy.WithReporter(new(collector)))...)
		if err != nil {
			t.Fatal(err)
		}
		body := prefix + `}`
		got := post(t, serve(t, p, p)+"/v1/chat/completions", body, "X-Apex-Ai-Proxy-Provider", up.Host)
		if sent := string(up.Requests()[0].Body); sent != body {
			t.Errorf("sent %s", sent)
		}
		if want := strings.Join(apexproxytest.ChatStreamUsage("a"), ""); got.Body != want {
			t.Error(cmp.Diff(want, got.Body))
		}
	})
}

// TestTap_gzip has an upstream that compresses although it was asked not to: the client's bytes
// stay compressed, the record knows the usage all the same.
func TestTap_gzip(t *testing.T) {
	t.Parallel()
	for name, reply := range map[string]http.Handler{
		"JSON":   apexproxytest.JSON(200, apexproxytest.Message("hello")),
		"stream": apexproxytest.SSE(apexproxytest.MessageStream("hel", "lo")...),
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			up := newUpstream(t, apexproxytest.Gzip(reply))
			c := new(collector)
			p, err := apexproxy.New(append(reaching(up), apexproxy.WithReporter(c, apexproxy.CaptureContent(1<<20)))...)
			if err != nil {
				t.Fatal(err)
			}
			got := post(t, serve(t, p, p)+"/v1/messages", messageBody, "X-Apex-Ai-Proxy-Provider", up.Host, "Accept-Encoding", "gzip, br, zstd")
			if got.Header.Get("Content-Encoding") != "gzip" || !strings.HasPrefix(got.Body, "\x1f\x8b") {
				t.Errorf("the client got %q", got.Header)
			}
			if asked := up.Requests()[0].Header.Get("Accept-Encoding"); asked != "identity" {
				t.Errorf("asked upstream for %q", asked)
			}
			rec := c.after(t, p)[0]
			if diff := cmp.Diff(wantUsage, rec.Usage); diff != "" {
				t.Error(diff)
			}
			if !strings.Contains(string(rec.Content.ResponseBody), "message") {
				t.Errorf("captured %q", rec.Content.ResponseBody)
			}
		})
	}
}

// TestNoSecretInRecords sends a secret in every place that holds one and looks for it in everything
// a reporter gets.
func TestNoSecretInRecords(t *testing.T) {
	t.Parallel()
	const secret = "s3cr3t-value"
	names := []string{"Authorization", "X-Api-Key", "Api-Key", "X-Goog-Api-Key", "Cf-Aig-Authorization", "Proxy-Authorization", "Cookie",
		"X-Apex-Ai-Proxy-Token", "Xi-Api-Key", "X-Amz-Security-Token", "Ocp-Apim-Subscription-Key", "X-Auth-Token", "Cf-Access-Client-Secret"}
	var pairs []string
	for _, n := range names {
		pairs = append(pairs, n, secret)
	}
	pairs = append(pairs, "Referer", "https://app.example/?api_key="+secret+"&page=2")
	up := newUpstream(t, apexproxytest.JSON(200, apexproxytest.ChatCompletion("hello"), "Set-Cookie", "session="+secret))
	c := new(collector)
	p, err := apexproxy.New(append(reaching(up), apexproxy.WithReporter(c, apexproxy.CaptureContent(1<<20)),
		apexproxy.WithGateway(apexproxy.Gateway{BaseURL: "https://gateway.invalid", Token: secret}))...)
	if err != nil {
		t.Fatal(err)
	}
	url := serve(t, p, p) + "/v1/chat/completions?key=" + secret + "&api_key=" + secret + "&TOKEN=" + secret + "&access_token=" + secret + "&beta=true"
	if got := post(t, url, chatBody, append(pairs, "X-Apex-Ai-Proxy-Provider", up.Host)...); got.Status != 200 {
		t.Fatal(got)
	}
	settle(p)                        // so that this record is the first
	post(t, url, chatBody, pairs...) // refused: two kinds of credential, none of them right
	records := c.after(t, p)
	if len(records) != 2 {
		t.Fatalf("%d records", len(records))
	}
	var logged bytes.Buffer
	_ = apexproxy.NewLogReporter(slog.New(slog.NewJSONHandler(&logged, nil))).Report(t.Context(), records)
	printed, err := json.Marshal(records)
	if err != nil {
		t.Fatal(err)
	}
	for what, text := range map[string]string{"JSON": string(printed), "%+v": fmt.Sprintf("%+v", records), "log": logged.String()} {
		if strings.Contains(text, secret) {
			t.Errorf("%s holds the secret: %s", what, text)
		}
	}
	content := records[0].Content
	want := map[string]string{"URL": "http://" + hostOf(t, url) + "/v1/chat/completions?key=[REDACTED]&api_key=[REDACTED]&TOKEN=[REDACTED]&access_token=[REDACTED]&beta=true"}
	got := map[string]string{"URL": content.URL}
	for _, n := range names {
		want[n], got[n] = "[REDACTED]", content.RequestHeader.Get(n)
	}
	want["Set-Cookie"], got["Set-Cookie"] = "[REDACTED]", content.ResponseHeader.Get("Set-Cookie")
	if diff := cmp.Diff(want, got); diff != "" {
		t.Error(diff)
	}
	if string(content.RequestBody) != chatBody || string(content.ResponseBody) != apexproxytest.ChatCompletion("hello") {
		t.Errorf("bodies: %q, %q", content.RequestBody, content.ResponseBody)
	}
}

func TestCaptureContent_bounds(t *testing.T) {
	t.Parallel()
	gw := newGateway(t, apexproxytest.GatewayConfig{Provider: apexproxytest.JSON(200, apexproxytest.ChatCompletion("a long enough answer"))})
	none, some, all := new(collector), new(collector), new(collector)
	p, err := apexproxy.New(apexproxy.WithGateway(via(gw)), apexproxy.WithMapping("gpt-5.5#mapped"), apexproxy.WithReporter(none),
		apexproxy.WithReporter(some, apexproxy.CaptureContent(10)), apexproxy.WithReporter(all, apexproxy.CaptureContent(1<<20)))
	if err != nil {
		t.Fatal(err)
	}
	post(t, serve(t, p, p)+"/v1/chat/completions", chatBody, "Authorization", bearerHeader)
	if rec := none.after(t, p)[0]; rec.Content != nil {
		t.Errorf("content for a reporter that did not ask: %+v", rec.Content)
	}
	cut, whole := some.after(t, p)[0].Content, all.after(t, p)[0].Content
	answer := apexproxytest.ChatCompletion("a long enough answer")
	type bodies struct {
		Request, Response       string
		RequestCut, ResponseCut bool
	}
	if diff := cmp.Diff([]bodies{{chatBody[:10], answer[:10], true, true}, {chatBody, answer, false, false}}, []bodies{
		{string(cut.RequestBody), string(cut.ResponseBody), cut.RequestTruncated, cut.ResponseTruncated},
		{string(whole.RequestBody), string(whole.ResponseBody), whole.RequestTruncated, whole.ResponseTruncated},
	}); diff != "" {
		t.Error(diff)
	}
}

// TestReporters_isolation has one reporter that hangs, one that panics, one that fails and a good
// one.
func TestReporters_isolation(t *testing.T) {
	t.Parallel()
	const n = 200
	gw := newGateway(t, apexproxytest.GatewayConfig{})
	good := new(collector)
	release := make(chan struct{})
	var lines lockedBuffer
	p, err := apexproxy.New(apexproxy.WithGateway(via(gw)),
		apexproxy.WithLogger(slog.New(slog.NewTextHandler(&lines, nil))),
		apexproxy.WithReporter(apexproxy.ReporterFunc(func(context.Context, []apexproxy.Record) error { <-release; return nil }),
			apexproxy.QueueSize(10, 1<<20), apexproxy.ReportTimeout(time.Hour)),
		apexproxy.WithReporter(apexproxy.ReporterFunc(func(context.Context, []apexproxy.Record) error { panic("reporter") })),
		apexproxy.WithReporter(apexproxy.ReporterFunc(func(context.Context, []apexproxy.Record) error { return io.ErrClosedPipe })),
		apexproxy.WithReporter(good))
	if err != nil {
		t.Fatal(err)
	}
	srv := httptest.NewServer(p)
	defer srv.Close()
	for range n {
		if got := post(t, srv.URL+"/v1/chat/completions", chatBody, "Authorization", bearerHeader); got.Status != 200 {
			t.Fatal(got)
		}
	}
	settle(p)
	ctx, cancel := context.WithTimeout(t.Context(), 1500*time.Millisecond)
	defer cancel()
	if err := p.Shutdown(ctx); err == nil {
		t.Error("Shutdown did not tell that a reporter hangs")
	}
	good.mu.Lock()
	got := len(good.records)
	good.mu.Unlock()
	if got != n {
		t.Errorf("the good reporter got %d of %d", got, n)
	}
	s := p.Stats()
	if s.Dropped.QueueFull != n-10 || s.Dropped.Shutdown != 10 || s.Dropped.Failed != 2*n || s.Reported != n || s.ReportErrors == 0 {
		t.Errorf("%+v", s)
	}
	if c := strings.Count(lines.String(), "\n"); c == 0 || c > 3 {
		t.Errorf("%d log lines for three bad reporters, want one each at most", c)
	}
	close(release)
}

type lockedBuffer struct {
	mu sync.Mutex
	bytes.Buffer
}

func (b *lockedBuffer) Write(p []byte) (int, error) {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.Buffer.Write(p)
}

func (b *lockedBuffer) String() string {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.Buffer.String()
}

// TestShutdown_losesNothing runs 10,000 exchanges through a reporter that is slower than they are
// and has room for them all.
func TestShutdown_losesNothing(t *testing.T) {
	t.Parallel()
	const n = 10_000
	c := new(collector)
	p, err := apexproxy.New(apexproxy.WithGateway(apexproxy.Gateway{BaseURL: "http://127.0.0.1:1", Token: gatewayToken}),
		apexproxy.WithReporter(c, apexproxy.QueueSize(n, 1<<30), apexproxy.BatchSize(7)))
	if err != nil {
		t.Fatal(err)
	}
	var wg sync.WaitGroup
	c.mu.Lock() // the reporter's first call takes as long as all exchanges
	for range 10 {
		wg.Go(func() {
			for range n / 10 {
				r := httptest.NewRequest(http.MethodPost, "/v1/chat/completions", strings.NewReader(chatBody))
				p.ServeHTTP(httptest.NewRecorder(), r) // 401
			}
		})
	}
	wg.Wait()
	c.mu.Unlock()
	ids := make(map[string]bool)
	for _, r := range c.after(t, p) {
		ids[r.ID] = true
	}
	if len(ids) != n || p.Stats().Reported != n || p.Stats().Dropped.Total() != 0 {
		t.Errorf("%d different records, %+v", len(ids), p.Stats())
	}
}

// FuzzTap sends answers of any shape through a passthrough whose reporter reads and captures them:
// the client's bytes are the upstream's.
func FuzzTap(f *testing.F) {
	f.Add("text/event-stream", strings.Join(apexproxytest.ChatStream("a", "b"), ""), uint8(7))
	f.Add("application/json", apexproxytest.ChatCompletion("a"), uint8(3))
	f.Add("text/event-stream", "data: {\"choices\":[],\"usage\":{\"prompt_tokens\":1}}\r\n\r\ndata", uint8(1))
	f.Add("text/event-stream", "\ufeffdata:{}\r\r:\n\n\n"+strings.Repeat("x", 70000), uint8(200))
	up := apexproxytest.NewTLSUpstream()
	f.Cleanup(up.Close)
	p, err := apexproxy.New(append(reaching(up), apexproxy.WithReporter(new(discarding), apexproxy.CaptureContent(1000)))...)
	if err != nil {
		f.Fatal(err)
	}
	srv := httptest.NewServer(p)
	f.Cleanup(srv.Close)
	paths := []string{"/v1/chat/completions", "/v1/messages", "/v1/responses", "/v1/embeddings"}
	f.Fuzz(func(t *testing.T, contentType, answer string, cut uint8) {
		if strings.ContainsFunc(contentType, func(c rune) bool { return c < ' ' || c > '~' }) || answer == "" {
			return
		}
		up.Script(apexproxytest.Chunks(contentType, apexproxytest.Split(answer, 1+int(cut)*40)...))
		got := post(t, srv.URL+paths[int(cut)%len(paths)], chatStream, "X-Apex-Ai-Proxy-Provider", up.Host)
		if got.Body != answer {
			t.Errorf("sent %q, the client got %q", answer, got.Body)
		}
	})
}

type discarding struct{}

func (*discarding) Report(context.Context, []apexproxy.Record) error { return nil }
