package apexproxy_test

import (
	"bufio"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"net"
	"net/http"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/tidwall/gjson"

	"github.com/loadchange/apexproxy"
	"github.com/loadchange/apexproxy/apexproxytest"
)

const converted = "/v1/messages?beta=true&trace=7"

// messagesFor is a small Messages request.
func messagesFor(model string, more ...string) string {
	return `{"model":"` + model + `","max_tokens":64,"messages":[{"role":"user","content":"Hello."}]` + strings.Join(more, "") + `}`
}

// asClaude are the headers of Anthropic's SDK.
func asClaude(more ...string) []string {
	return append([]string{"X-Api-Key", gatewayToken, "Anthropic-Version", "2023-06-01", "Anthropic-Beta", "context-1m-2025-08-07",
		"Anthropic-Dangerous-Direct-Browser-Access", "true", "User-Agent", "claude-cli/3", "X-Stainless-Lang", "js"}, more...)
}

// atProvider makes a gateway whose provider answers from a script.
func atProvider(tb testing.TB, replies ...http.Handler) *apexproxytest.Gateway {
	tb.Helper()
	return newGateway(tb, apexproxytest.GatewayConfig{Provider: apexproxytest.Replies(replies...)})
}

// Where a Messages request for each provider goes, and as what.
func TestConvertedRequests(t *testing.T) {
	t.Parallel()
	for _, tt := range []struct {
		model, path, query string
		name               string // the model that arrives
		limit              string // how max_tokens is spelled there
		preferCompat       bool
	}{
		{model: "gpt-4.1#openai", path: "/openai/chat/completions", name: "gpt-4.1", limit: "max_completion_tokens"},
		{model: "gemini-2.0-flash#google-ai-studio", path: "/google-ai-studio/v1beta/openai/chat/completions", name: "gemini-2.0-flash"},
		{model: "llama-3.3#groq", path: "/groq/chat/completions", name: "llama-3.3"},
		{model: "mistral-large#mistral", path: "/mistral/v1/chat/completions", name: "mistral-large"},
		{model: "grok-4#grok", path: "/grok/v1/chat/completions", name: "grok-4"},
		{model: "deepseek-v4-pro#deepseek", path: "/deepseek/chat/completions", name: "deepseek-v4-pro"},
		{model: "llama-3.3#cerebras", path: "/cerebras/chat/completions", name: "llama-3.3"},
		{model: "command-a#cohere", path: "/cohere/compatibility/v1/chat/completions", name: "command-a"},
		{model: "sonar#perplexity-ai", path: "/perplexity-ai/chat/completions", name: "sonar"},
		{model: "gpt-4.1#azure-openai", path: "/azure-openai/res/gpt-4.1/chat/completions", query: "api-version=2024-10-21&", name: "gpt-4.1", limit: "max_completion_tokens"},
		{model: "qwen/qwen3#openrouter", path: "/openrouter/v1/chat/completions", name: "qwen/qwen3"},
		{model: "@cf/meta/llama-4#workers-ai", path: "/workers-ai/v1/chat/completions", name: "@cf/meta/llama-4"},
		{model: "some-model#custom-mine", path: "/custom-mine/v1/chat/completions", name: "some-model"},
		{model: "gemini-2.0-flash#google-vertex-ai", path: "/compat/chat/completions", name: "google-vertex-ai/google/gemini-2.0-flash"},
		{model: "support#dynamic", path: "/compat/chat/completions", name: "dynamic/support"},
		{model: "mistral/mistral-large#compat", path: "/compat/chat/completions", name: "mistral/mistral-large"},
		{model: "gpt-4.1#openai", path: "/compat/chat/completions", name: "openai/gpt-4.1", limit: "max_completion_tokens", preferCompat: true},
		{model: "sonar#perplexity-ai", path: "/perplexity-ai/chat/completions", name: "sonar", preferCompat: true},
	} {
		t.Run(fmt.Sprintf("%s/compat %t", tt.model, tt.preferCompat), func(t *testing.T) {
			t.Parallel()
			gw := newGateway(t, apexproxytest.GatewayConfig{})
			cfg := via(gw)
			cfg.Azure.Resource, cfg.PreferCompat = "res", tt.preferCompat
			url := newProxy(t, apexproxy.WithGateway(cfg))
			got := post(t, url+converted, messagesFor(tt.model), asClaude()...)
			if got.Status != 200 || gjson.Get(got.Body, "content.0.text").Str != apexproxytest.Answer || gjson.Get(got.Body, "model").Str != tt.model {
				t.Errorf("answer %d %s", got.Status, got.Body)
			}
			requests := gw.Requests()
			if len(requests) != 1 {
				t.Fatalf("%d requests arrived", len(requests))
			}
			r := requests[0]
			if want := strings.TrimPrefix(gw.BaseURL(), gw.URL) + tt.path + "?" + tt.query + "trace=7"; r.RequestURI != want || r.Refused != "" {
				t.Errorf("arrived at %s (%s), want %s", r.RequestURI, r.Refused, want)
			}
			limit := tt.limit
			if limit == "" {
				limit = "max_tokens"
			}
			want := `{"model":"` + tt.name + `","messages":[{"role":"user","content":"Hello."}],"` + limit + `":64}`
			if !sameValue(t, want, string(r.Body)) {
				t.Errorf("body %s, want %s", r.Body, want)
			}
			wantHeader := http.Header{
				"Cf-Aig-Authorization": {"Bearer " + gatewayToken}, "Content-Type": {"application/json"}, "Accept-Encoding": {"identity"},
				"User-Agent": {"claude-cli/3"}, "X-Stainless-Lang": {"js"}, "Content-Length": {fmt.Sprint(len(r.Body))},
			}
			if diff := cmp.Diff(wantHeader, r.Header); diff != "" {
				t.Errorf("header (-want +got):\n%s", diff)
			}
		})
	}
}

func sameValue(tb testing.TB, a, b string) bool {
	tb.Helper()
	var x, y any
	if err := json.Unmarshal([]byte(a), &x); err != nil {
		tb.Fatalf("%v: %s", err, a)
	}
	if err := json.Unmarshal([]byte(b), &y); err != nil {
		tb.Fatalf("%v: %s", err, b)
	}
	return cmp.Equal(x, y)
}

func TestConvertedPassthrough(t *testing.T) {
	t.Parallel()
	for _, tt := range []struct {
		name, base, path string
		auth             []string
		wantPath         string
		wantAuth         []string
	}{
		{"key becomes a bearer", "/api", "/v1/messages?beta=true&trace=7", []string{"X-Api-Key", clientKey}, "/api/v1/chat/completions?trace=7", []string{"Bearer " + clientKey}},
		{"bearer stays", "", "/v1/messages/", []string{"Authorization", "Bearer " + clientKey}, "/v1/chat/completions", []string{"Bearer " + clientKey}},
		{"bearer before key", "", "/messages", []string{"Authorization", "Bearer " + clientKey, "X-Api-Key", "other"}, "/chat/completions", []string{"Bearer " + clientKey}},
		{"nothing", "", "/v1/messages", nil, "/v1/chat/completions", nil},
	} {
		for _, protocol := range []string{"chat-completions", " Chat-Completions "} {
			t.Run(tt.name+"/"+protocol, func(t *testing.T) {
				t.Parallel()
				up := newUpstream(t)
				url := newProxy(t, reaching(up)...)
				header := append([]string{"X-Apex-Ai-Proxy-Provider", up.Host + tt.base, "X-Apex-Ai-Proxy-Type", protocol, "X-Apex-Ai-Proxy-Mapping", "fast#gpt-4.1",
					"Anthropic-Version", "2023-06-01", "Anthropic-Beta", "x", "User-Agent", "claude-cli/3"}, tt.auth...)
				got := post(t, url+tt.path, messagesFor("fast"), header...)
				if got.Status != 200 || gjson.Get(got.Body, "content.0.text").Str != apexproxytest.Answer || gjson.Get(got.Body, "model").Str != "fast" {
					t.Errorf("answer %d %s", got.Status, got.Body)
				}
				r := up.Requests()[0]
				if r.RequestURI != tt.wantPath {
					t.Errorf("arrived at %s, want %s", r.RequestURI, tt.wantPath)
				}
				if want := `{"model":"gpt-4.1","messages":[{"role":"user","content":"Hello."}],"max_completion_tokens":64}`; !sameValue(t, want, string(r.Body)) {
					t.Errorf("body %s, want %s", r.Body, want)
				}
				want := http.Header{"Content-Type": {"application/json"}, "Accept-Encoding": {"identity"}, "User-Agent": {"claude-cli/3"}, "Content-Length": {fmt.Sprint(len(r.Body))}}
				if tt.wantAuth != nil {
					want["Authorization"] = tt.wantAuth
				}
				if diff := cmp.Diff(want, r.Header); diff != "" {
					t.Errorf("header (-want +got):\n%s", diff)
				}
			})
		}
	}
}

// A chat client and an upstream that speaks Messages do not meet.
func TestChatForAnthropicUpstream(t *testing.T) {
	t.Parallel()
	up := newUpstream(t)
	url := newProxy(t, reaching(up)...)
	got := post(t, url+"/v1/chat/completions", `{"model":"m","messages":[]}`, "X-Apex-Ai-Proxy-Provider", up.Host, "X-Apex-Ai-Proxy-Type", "anthropic")
	want := `{"error":{"message":"chat completions cannot be converted for an upstream that speaks anthropic: send a messages request","type":"invalid_request_error","code":"unsupported_operation"}}` + "\n"
	if got.Status != 400 || got.Body != want || up.Connections() != 0 {
		t.Errorf("%d %s, %d connections to the upstream", got.Status, got.Body, up.Connections())
	}
	// The same protocol on both sides is copied.
	body := messagesFor("m")
	if got := post(t, url+"/v1/messages", body, "X-Apex-Ai-Proxy-Provider", up.Host, "X-Apex-Ai-Proxy-Type", "anthropic"); got.Status != 200 || string(up.Requests()[0].Body) != body {
		t.Errorf("copied: %d %s", got.Status, got.Body)
	}
}

// What of an upstream's header a client of another protocol gets.
func TestConvertedAnswerHeaders(t *testing.T) {
	t.Parallel()
	upstream := []string{"X-Request-Id", "req_up", "Retry-After", "7", "Retry-After-Ms", "7000", "X-Should-Retry", "true", "X-Ratelimit-Remaining-Requests", "3",
		"Anthropic-Ratelimit-Requests-Remaining", "4", "Cf-Aig-Cache-Status", "HIT",
		"Set-Cookie", "a=b", "Server", "cloudflare", "Cf-Ray", "1-FRA", "Openai-Organization", "org", "Openai-Processing-Ms", "3", "Etag", "x", "Location", "https://x.test/",
		"Access-Control-Allow-Origin", "*", "Content-Language", "de", "Strict-Transport-Security", "max-age=1", "Trailer", "X-Late"}
	kept := http.Header{"Request-Id": {"req_up"}, "Retry-After": {"7"}, "Retry-After-Ms": {"7000"}, "X-Should-Retry": {"true"}, "X-Ratelimit-Remaining-Requests": {"3"},
		"Anthropic-Ratelimit-Requests-Remaining": {"4"}, "Cf-Aig-Cache-Status": {"HIT"}}
	const dropped = "messages.0.content.1:container_upload, top_k"
	for _, tt := range []struct {
		name  string
		reply http.Handler
		more  string
		want  []string
	}{
		{"JSON", apexproxytest.JSON(200, apexproxytest.ChatCompletion("Hi."), upstream...), "", []string{"Content-Type", "application/json", "Content-Length", "*"}},
		{"error", apexproxytest.JSON(429, `{"error":{"message":"Slow."}}`, upstream...), "", []string{"Content-Type", "application/json", "Content-Length", "*"}},
		{"stream", withHeader(apexproxytest.SSE(apexproxytest.ChatStream("Hi.")...), upstream...), `,"stream":true`,
			[]string{"Content-Type", "text/event-stream; charset=utf-8", "Cache-Control", "no-cache", "X-Accel-Buffering", "no"}},
	} {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			up := newUpstream(t, tt.reply)
			url := newProxy(t, reaching(up)...)
			body := `{"model":"m","max_tokens":64,"top_k":3,"messages":[{"role":"user","content":[{"type":"text","text":"Hello."},{"type":"container_upload","file_id":"f"}]}]` + tt.more + `}`
			got := post(t, url+"/v1/messages", body, "X-Apex-Ai-Proxy-Provider", up.Host, "X-Apex-Ai-Proxy-Type", "chat-completions")
			want := kept.Clone()
			want.Set("X-Apex-Ai-Proxy-Dropped", dropped)
			for i := 0; i < len(tt.want); i += 2 {
				want.Set(tt.want[i], tt.want[i+1])
			}
			if want.Get("Content-Length") != "" {
				want.Set("Content-Length", fmt.Sprint(len(got.Body)))
			}
			if diff := cmp.Diff(want, got.Header); diff != "" {
				t.Errorf("%d, header (-want +got):\n%s", got.Status, diff)
			}
		})
	}
	t.Run("no id", func(t *testing.T) {
		t.Parallel()
		up := newUpstream(t, apexproxytest.JSON(500, `{"error":{"message":"Oops."}}`))
		url := newProxy(t, reaching(up)...)
		got := post(t, url+"/v1/messages", messagesFor("m"), "X-Apex-Ai-Proxy-Provider", up.Host, "X-Apex-Ai-Proxy-Type", "chat-completions")
		id := got.Header.Get("Request-Id")
		if want := `{"type":"error","error":{"type":"api_error","message":"Oops."},"request_id":"` + id + `"}` + "\n"; got.Body != want || !strings.HasPrefix(id, "req_") {
			t.Errorf("%s, want %s", got.Body, want)
		}
	})
}

// withHeader adds alternating names and values to a reply.
func withHeader(h http.Handler, pairs ...string) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		for i := 0; i < len(pairs); i += 2 {
			w.Header().Set(pairs[i], pairs[i+1])
		}
		h.ServeHTTP(w, r)
	})
}

func TestStrictConversion(t *testing.T) {
	t.Parallel()
	gw := newGateway(t, apexproxytest.GatewayConfig{})
	url := newProxy(t, apexproxy.WithGateway(via(gw)), apexproxy.WithStrictConversion())
	got := post(t, url+converted, messagesFor("gpt-4.1#openai", `,"top_k":3`), asClaude()...)
	if got.Status != 400 || gjson.Get(got.Body, "error.type").Str != "invalid_request_error" || !strings.Contains(gjson.Get(got.Body, "error.message").Str, "top_k") {
		t.Errorf("%d %s, want a 400 that names top_k", got.Status, got.Body)
	}
	if n := gw.Connections(); n != 0 {
		t.Errorf("%d connections to the gateway, want none", n)
	}
	if got := post(t, url+converted, messagesFor("gpt-4.1#openai"), asClaude()...); got.Status != 200 || got.Header.Get("X-Apex-Ai-Proxy-Dropped") != "" {
		t.Errorf("without a loss: %d %s", got.Status, got.Body)
	}
	if got := post(t, url+converted, messagesFor("claude-opus-4-7#anthropic", `,"top_k":3`), asClaude()...); got.Status != 200 {
		t.Errorf("where nothing is converted: %d %s", got.Status, got.Body)
	}
}

func TestCountTokensEstimate(t *testing.T) {
	t.Parallel()
	gw := newGateway(t, apexproxytest.GatewayConfig{})
	url := newProxy(t, apexproxy.WithGateway(via(gw)))
	got := post(t, url+"/v1/messages/count_tokens?beta=true", messagesFor("gpt-4.1#openai"), asClaude()...)
	n := gjson.Get(got.Body, "input_tokens").Int()
	want := answer{200, headers("Content-Type", "application/json", "Content-Length", fmt.Sprint(len(got.Body)), "X-Content-Type-Options", "nosniff", "X-Apex-Ai-Proxy-Estimate", "input_tokens"),
		fmt.Sprintf(`{"input_tokens":%d}`, n)}
	if diff := cmp.Diff(want, got); diff != "" || n < 1 || n > 30 {
		t.Errorf("estimate of %d (-want +got):\n%s", n, diff)
	}
	if gw.Connections() != 0 {
		t.Error("the gateway was asked")
	}
	// Anthropic counts itself.
	got = post(t, url+"/v1/messages/count_tokens", messagesFor("claude-opus-4-7#anthropic"), asClaude()...)
	if requests := gw.Requests(); got.Status != 200 || got.Header.Get("X-Apex-Ai-Proxy-Estimate") != "" || len(requests) != 1 || requests[0].Path != "v1/messages/count_tokens" {
		t.Errorf("native: %d %v %s", got.Status, got.Header, got.Body)
	}
	if got := post(t, url+"/v1/messages/count_tokens", `{"model":"gpt-4.1#openai","messages":5}`, asClaude()...); got.Status != 400 || gjson.Get(got.Body, "type").Str != "error" {
		t.Errorf("wrong types: %d %s", got.Status, got.Body)
	}
}

// Errors on a converted route, whoever made them.
func TestConvertedErrors(t *testing.T) {
	t.Parallel()
	type result struct {
		Status        int
		Type, Message string
		RetryAfter    string
	}
	for _, tt := range []struct {
		name  string
		reply http.Handler
		want  result
	}{
		{"gateway rate limit", apexproxytest.AiGatewayError(429, 2003, "Rate limited", "Retry-After", "7"), result{429, "rate_limit_error", "Cloudflare AI Gateway: Rate limited", "7"}},
		{"gateway credit", apexproxytest.AiGatewayError(402, 2021, "Insufficient credit"), result{402, "billing_error", "Cloudflare AI Gateway: Insufficient credit", ""}},
		{"gateway aliases", apexproxytest.AiGatewayError(400, 2040, "aliases: prod, secret"), result{400, "invalid_request_error", "Cloudflare AI Gateway: the gateway knows no stored key with this alias", ""}},
		{"v4 envelope", apexproxytest.V4Error(403, 7003, "No route"), result{403, "permission_error", "Cloudflare AI Gateway: No route", ""}},
		{"policy", apexproxytest.PolicyError(400, "Blocked"), result{400, "invalid_request_error", "Cloudflare AI Gateway: Blocked", ""}},
		{"provider", apexproxytest.ProviderError(503, "Busy."), result{529, "overloaded_error", "Busy.", ""}},
		{"gzip", apexproxytest.Gzip(apexproxytest.ProviderError(404, "No model.")), result{404, "not_found_error", "No model.", ""}},
		{"redirect", apexproxytest.Redirect(307, "https://elsewhere.test/"), result{502, "api_error", "*", ""}},
		{"not modified", apexproxytest.JSON(304, ""), result{502, "api_error", "*", ""}},
		{"HTML in 200", apexproxytest.Chunks("text/html", "<html>secret</html>"), result{502, "api_error", "*", ""}},
		{"nothing in 200", apexproxytest.JSON(200, ""), result{502, "api_error", "*", ""}},
		{"no content", apexproxytest.Raw("HTTP/1.1 204 No Content\r\n\r\n"), result{502, "api_error", "*", ""}},
		{"error in 200", apexproxytest.JSON(200, `{"error":{"message":"No.","code":429}}`), result{429, "rate_limit_error", "No.", ""}},
		{"broken off", apexproxytest.Abort(`{"choices":[`), result{502, "api_error", "*", ""}},
		{"no answer", apexproxytest.Abort(), result{502, "api_error", "the upstream closed the connection before it answered: try again", ""}},
	} {
		for _, stream := range []string{"", `,"stream":true`} {
			t.Run(tt.name+"/"+stream, func(t *testing.T) {
				t.Parallel()
				gw := atProvider(t, tt.reply)
				url := newProxy(t, apexproxy.WithGateway(via(gw)))
				got := post(t, url+converted, messagesFor("gpt-4.1#openai", stream), asClaude()...)
				body := gjson.Parse(got.Body)
				r := result{got.Status, body.Get("error.type").Str, body.Get("error.message").Str, got.Header.Get("Retry-After")}
				if tt.want.Message == "*" && r.Message != "" && !strings.Contains(r.Message, "secret") {
					r.Message = "*"
				}
				if diff := cmp.Diff(tt.want, r); diff != "" {
					t.Errorf("%s (-want +got):\n%s", got.Body, diff)
				}
				if id := got.Header.Get("Request-Id"); id == "" || body.Get("request_id").Str != id {
					t.Errorf("Request-Id %q, request_id %q", id, body.Get("request_id").Str)
				}
				if got.Header.Get("Content-Type") != "application/json" || got.Header.Get("Location") != "" || got.Header.Get("Content-Encoding") != "" {
					t.Errorf("header %v", got.Header)
				}
			})
		}
	}
}

// Answers in another form than asked for.
func TestConvertedMixedForms(t *testing.T) {
	t.Parallel()
	words := apexproxytest.AnswerWords()
	for _, tt := range []struct {
		name   string
		reply  http.Handler
		stream bool
	}{
		{"JSON for a stream", apexproxytest.JSON(200, apexproxytest.ChatCompletion(apexproxytest.Answer)), true},
		{"stream for JSON", apexproxytest.SSE(apexproxytest.ChatStreamUsage(words...)...), false},
		{"gzip JSON", apexproxytest.Gzip(apexproxytest.JSON(200, apexproxytest.ChatCompletion(apexproxytest.Answer))), false},
		{"gzip stream", apexproxytest.Gzip(apexproxytest.SSE(apexproxytest.ChatStreamUsage(words...)...)), true},
		{"bytes", apexproxytest.SSE(apexproxytest.Split(strings.Join(apexproxytest.ChatStreamUsage(words...), ""), 1)...), true},
	} {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			gw := atProvider(t, tt.reply)
			url := newProxy(t, apexproxy.WithGateway(via(gw)))
			more, kind := "", "application/json"
			if tt.stream {
				more, kind = `,"stream":true`, "text/event-stream; charset=utf-8"
			}
			got := post(t, url+converted, messagesFor("gpt-4.1#openai", more), asClaude()...)
			if got.Status != 200 || got.Header.Get("Content-Type") != kind || got.Header.Get("Content-Encoding") != "" {
				t.Fatalf("%d %v %q", got.Status, got.Header, got.Body)
			}
			text, stop, output := "", "", int64(0)
			if tt.stream {
				for data := range strings.SplitSeq(got.Body, "\n") {
					if data, ok := strings.CutPrefix(data, "data: "); ok {
						event := gjson.Parse(data)
						text += event.Get("delta.text").Str
						stop += event.Get("delta.stop_reason").Str
						output = max(output, event.Get("usage.output_tokens").Int())
					}
				}
				if !strings.HasSuffix(got.Body, "event: message_stop\ndata: {\"type\":\"message_stop\"}\n\n") {
					t.Errorf("the stream ends in %q", got.Body[max(0, len(got.Body)-80):])
				}
			} else {
				message := gjson.Parse(got.Body)
				text, stop, output = message.Get("content.0.text").Str, message.Get("stop_reason").Str, message.Get("usage.output_tokens").Int()
			}
			if text != apexproxytest.Answer || stop != "end_turn" || output != apexproxytest.OutputTokens {
				t.Errorf("text %q, stop reason %q, %d tokens:\n%s", text, stop, output, got.Body)
			}
		})
	}
}

// An upstream that breaks off after its stream began ends in an error event.
func TestConvertedTruncated(t *testing.T) {
	t.Parallel()
	events := apexproxytest.ChatStream("Hi", " there")
	for _, tt := range []struct {
		name  string
		reply http.Handler
	}{
		{"clean end", apexproxytest.SSE(events[:2]...)},
		{"half an event", apexproxytest.SSE(events[0], events[1], events[2][:len(events[2])/2])},
		{"aborted", apexproxytest.Abort(events[:2]...)},
		{"gzip", apexproxytest.Gzip(apexproxytest.Abort(events[:2]...))},
	} {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			records := make(chan apexproxy.Record, 1)
			gw := atProvider(t, tt.reply)
			url := newProxy(t, apexproxy.WithGateway(via(gw)), apexproxy.WithReporter(apexproxy.ReporterFunc(func(_ context.Context, batch []apexproxy.Record) error {
				records <- batch[0]
				return nil
			})))
			got := post(t, url+converted, messagesFor("gpt-4.1#openai", `,"stream":true`), asClaude()...)
			const end = "event: error\ndata: {\"type\":\"error\",\"error\":{\"type\":\"api_error\",\"message\":\"upstream stream ended before completion\"}}\n\n"
			if got.Status != 200 || !strings.HasSuffix(got.Body, end) || !strings.Contains(got.Body, `"text":"Hi"`) || strings.Contains(got.Body, "message_stop") || strings.Contains(got.Body, "message_delta") {
				t.Errorf("%d %s", got.Status, got.Body)
			}
			if rec := <-records; rec.Outcome == apexproxy.OutcomeCompleted || !rec.Converted {
				t.Errorf("the record says %s, converted %t", rec.Outcome, rec.Converted)
			}
		})
	}
}

// An event is out as soon as it is in.
func TestConvertedEventByEvent(t *testing.T) {
	t.Parallel()
	steps := []struct {
		event string
		out   []string // the types of the events that come out
	}{
		{": keep-alive\n\n", nil},
		{step(`"role":"assistant"`, "null"), []string{"message_start"}},
		{step(`"content":"one "`, "null"), []string{"content_block_start", "content_block_delta"}},
		{step(`"content":"two"`, "null"), []string{"content_block_delta"}},
		{step(`"tool_calls":[{"index":0,"id":"a","type":"function","function":{"name":"clock","arguments":"{\"zo"}}]`, "null"),
			[]string{"content_block_stop", "content_block_start", "content_block_delta"}},
		{step(`"tool_calls":[{"index":0,"function":{"arguments":"ne\":1}"}}]`, "null"), []string{"content_block_delta"}},
		{step("", `"tool_calls"`), nil},
		{"data: [DONE]\n\n", []string{"content_block_stop", "message_delta", "message_stop"}},
	}
	var events []string
	for _, s := range steps {
		events = append(events, s.event)
	}
	for _, proto := range protocols {
		t.Run(proto.name, func(t *testing.T) {
			t.Parallel()
			gate := apexproxytest.Steps(events...)
			rig := newRig(t, rigConfig{clientHTTP2: proto.clientHTTP2, upstreamHTTP2: proto.upstreamHTTP2}, gate)
			req := rig.request(t, gatewayMode, "/v1/messages", messagesFor("gpt-4.1#openai", `,"stream":true`))
			// The head waits for the first chunk, which decides on the status.
			first := make(chan error, 1)
			go func() {
				if err := gate.Next(req.Context()); err != nil {
					first <- err
				} else {
					first <- gate.Next(req.Context())
				}
			}()
			lines := bufio.NewReader(rig.open(t, req).Body)
			if err := <-first; err != nil {
				t.Fatal(err)
			}
			for i, s := range steps {
				if i > 1 {
					if err := gate.Next(req.Context()); err != nil {
						t.Fatal(err)
					}
				}
				for _, want := range s.out {
					got := ""
					for !strings.HasPrefix(got, "event: ") || got == "event: ping\n" {
						var err error
						if got, err = lines.ReadString('\n'); err != nil {
							t.Fatalf("waiting for %s after event %d: %v", want, i, err)
						}
					}
					if got != "event: "+want+"\n" {
						t.Fatalf("%q came after event %d, want %s", got, i, want)
					}
				}
			}
			// After message_stop the answer ends, whatever the upstream does.
			if rest, err := io.ReadAll(lines); err != nil || strings.Contains(string(rest), "event:") {
				t.Errorf("after message_stop: %q, %v", rest, err)
			}
		})
	}
}

// step is a chunk of a chat stream.
func step(delta, finish string) string {
	return `data: {"id":"chatcmpl-1","object":"chat.completion.chunk","choices":[{"index":0,"delta":{` + delta + `},"finish_reason":` + finish + "}]}\n\n"
}

// A client that reads nothing makes the upstream stop sending.
func TestConvertedBackPressure(t *testing.T) {
	t.Parallel()
	const (
		tooMuch = 64 << 20 // far above what the sockets on the way hold
		total   = 4 * tooMuch
	)
	event := step(`"content":"`+strings.Repeat("word ", 1<<14)+`"`, "null")
	blocked := make(chan int, 1)
	up := newUpstream(t, http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		w.Header().Set("Content-Type", "text/event-stream")
		written, control := 0, http.NewResponseController(w)
		for written < total {
			if err := control.SetWriteDeadline(time.Now().Add(time.Second)); err != nil {
				t.Error(err)
			}
			n, err := io.WriteString(w, event)
			written += n
			if err != nil || control.Flush() != nil {
				break
			}
		}
		blocked <- written
	}))
	url := newProxy(t, append(reaching(up), apexproxy.WithReporter(discard))...)
	conn, err := net.Dial("tcp", hostOf(t, url))
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	body := messagesFor("m", `,"stream":true`)
	if _, err := fmt.Fprintf(conn, "POST /v1/messages HTTP/1.1\r\nHost: proxy\r\nX-Apex-Ai-Proxy-Provider: %s\r\nX-Apex-Ai-Proxy-Type: chat-completions\r\nContent-Length: %d\r\n\r\n%s",
		up.Host, len(body), body); err != nil {
		t.Fatal(err)
	}
	if n := <-blocked; n < len(event) || n > tooMuch {
		t.Errorf("the upstream wrote %d bytes to a client that reads none, want at most %d", n, tooMuch)
	}
}

// A client that leaves a converted exchange cancels it upstream.
func TestConvertedClientLeaves(t *testing.T) {
	t.Parallel()
	for _, tt := range []struct {
		name  string
		reply http.Handler
		first string // how the answer begins when there is one
	}{
		{"before the answer", apexproxytest.Hang(), ""},
		{"before the first event", apexproxytest.StallAfter(": keep-alive\n\n"), ""},
		{"in the stream", apexproxytest.StallAfter(step(`"role":"assistant"`, "null")), "event: message_start\n"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			rig := newRig(t, rigConfig{}, tt.reply)
			req := rig.request(t, gatewayMode, "/v1/messages", messagesFor("gpt-4.1#openai", `,"stream":true`))
			ctx, leave := context.WithCancel(req.Context())
			defer leave()
			if tt.first == "" {
				go func() {
					_ = rig.upstream.WaitRequests(ctx, 1)
					leave()
				}()
				if res, err := rig.client.Do(req.WithContext(ctx)); err == nil {
					res.Body.Close()
					t.Fatalf("an answer: %s", res.Status)
				}
			} else {
				res := rig.open(t, req.WithContext(ctx))
				if got, err := bufio.NewReader(res.Body).ReadString('\n'); got != tt.first || err != nil {
					t.Fatalf("%q, %v", got, err)
				}
				leave()
			}
			soon, cancel := context.WithTimeout(t.Context(), answerSoon)
			defer cancel()
			if err := rig.upstream.WaitCancelled(soon, 1); err != nil {
				t.Errorf("the upstream was not left: %v", err)
			}
		})
	}
}

// The gateway's list in the client's dialect, whole and one model of it.
func TestConvertedModels(t *testing.T) {
	t.Parallel()
	const created = `"created":1767225600,`
	gpt := [2]string{
		`{"id":"gpt-5.5#openai","object":"model",` + created + `"owned_by":"openai"}`,
		`{"id":"gpt-5.5#openai","type":"model","display_name":"gpt-5.5#openai","created_at":"2026-01-01T00:00:00Z"}`,
	}
	short := apexproxytest.JSON(200, `{"object":"list","data":[{"id":"openai/gpt-5.5","object":"model","created_at":1767225600,"owned_by":"openai"},{"id":"odd#id"},{"id":7}]}`)
	for _, tt := range []struct {
		name   string
		path   string
		reply  http.Handler
		status int
		want   [2]string // for OpenAI's clients and Anthropic's; ID stands for the request's id
	}{
		{"list", "/v1/models", short, 200, [2]string{
			`{"object":"list","data":[` + gpt[0] + `]}`,
			`{"data":[` + gpt[1] + `],"has_more":false,"first_id":"gpt-5.5#openai","last_id":"gpt-5.5#openai"}`}},
		{"empty list", "/v1/models", apexproxytest.JSON(200, `{"data":[]}`), 200, [2]string{
			`{"object":"list","data":[]}`, `{"data":[],"has_more":false,"first_id":null,"last_id":null}`}},
		{"one", "/v1/models/gpt-5.5%23openai", short, 200, gpt},
		{"one that is not there", "/v1/models/gpt-4%23openai", short, 404, [2]string{
			`{"error":{"message":"no such model: GET …/models lists them","type":"not_found_error","code":"model_not_found"}}`,
			`{"type":"error","error":{"type":"not_found_error","message":"no such model: GET …/models lists them"},"request_id":"ID"}`}},
		{"no list", "/v1/models", apexproxytest.JSON(200, `<html>`), 502, [2]string{
			`{"error":{"message":"the gateway's list of models could not be read","type":"server_error","code":null}}`,
			`{"type":"error","error":{"type":"api_error","message":"the gateway's list of models could not be read"},"request_id":"ID"}`}},
		{"gateway error", "/v1/models", apexproxytest.AiGatewayError(429, 2003, "Rate limited"), 429, [2]string{
			`{"error":{"message":"Cloudflare AI Gateway: Rate limited","type":"rate_limit_error","code":"2003"}}`,
			`{"type":"error","error":{"type":"rate_limit_error","message":"Cloudflare AI Gateway: Rate limited"},"request_id":"ID"}`}},
	} {
		for i, dialect := range [][]string{nil, {"Anthropic-Version", "2023-06-01"}} {
			t.Run(fmt.Sprintf("%s/%v", tt.name, dialect), func(t *testing.T) {
				t.Parallel()
				gw := newGateway(t, apexproxytest.GatewayConfig{})
				gw.Fail(tt.reply)
				url := newProxy(t, apexproxy.WithGateway(via(gw)))
				got := do(t, http.MethodGet, url+tt.path, "", append([]string{"X-Api-Key", gatewayToken}, dialect...)...)
				want := strings.Replace(tt.want[i], `"ID"`, `"`+got.Header.Get("Request-Id")+`"`, 1)
				if diff := cmp.Diff(want, strings.TrimSuffix(got.Body, "\n")); diff != "" || got.Status != tt.status {
					t.Errorf("%d (-want +got):\n%s", got.Status, diff)
				}
				if r := gw.Requests()[0]; r.Provider != "compat" || r.Path != "models" {
					t.Errorf("asked for %s/%s", r.Provider, r.Path)
				}
			})
		}
	}
}

// TestProvider_profile: a row may say how its models want to be asked.
func TestProvider_profile(t *testing.T) {
	t.Parallel()
	gw := newGateway(t, apexproxytest.GatewayConfig{})
	profile := apexproxy.ProfileFor("custom-mine", "m")
	profile.LimitField = "max_completion_tokens"
	url := newProxy(t, apexproxy.WithGateway(via(gw)),
		apexproxy.WithProvider(apexproxy.Provider{Name: "custom-mine", Chat: "/custom-mine/v1/chat/completions", Profile: &profile}))
	for model, want := range map[string]string{"m#custom-mine": "max_completion_tokens", "m#custom-other": "max_tokens"} {
		gw.Reset()
		post(t, url+"/v1/messages", messagesFor(model), asClaude()...)
		if got := gw.Requests()[0].Body; gjson.GetBytes(got, want).Int() != 64 {
			t.Errorf("%s: %s", model, got)
		}
	}
}

// TestConvertedStart: Claude Code counts with the input tokens of message_start.
func TestConvertedStart(t *testing.T) {
	t.Parallel()
	gw := newGateway(t, apexproxytest.GatewayConfig{})
	got := post(t, newProxy(t, apexproxy.WithGateway(via(gw)))+"/v1/messages", messagesFor("gpt-4.1#openai", `,"stream":true`), asClaude()...)
	start, rest, _ := strings.Cut(got.Body, "\n\n")
	_, data, _ := strings.Cut(start, "data: ")
	if n := gjson.Get(data, "message.usage.input_tokens").Int(); n < 1 || n > 20 {
		t.Errorf("%s", start)
	}
	if want := fmt.Sprintf(`"input_tokens":%d,`, apexproxytest.InputTokens-apexproxytest.CachedTokens); !strings.Contains(rest, want) {
		t.Errorf("the end lacks the upstream's own number %s:\n%s", want, rest)
	}
}
