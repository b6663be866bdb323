package apexproxy_test

import (
	"fmt"
	"net/http"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"github.com/tidwall/gjson"

	"github.com/loadchange/apexproxy"
	"github.com/loadchange/apexproxy/apexproxytest"
)

// An answer that has to be read whole and finds no room is none of the client's doing: the proxy
// says so in the answer's words, and the record does not call it rejected, for the upstream has
// answered and is paid.
func TestAnswerWithoutRoom(t *testing.T) {
	t.Parallel()
	const message = "the proxy is holding as much as it may and has no room for the answer: try again"
	completion := apexproxytest.ChatCompletion(strings.Repeat("long ", 400_000))
	models := `{"object":"list","data":[{"id":"openai/gpt-5.5","pad":"` + strings.Repeat("x", 2<<20) + `"}]}`
	anthropic, openAI := []string{"Request-Id", "ID"}, []string{"X-Request-Id", "ID"}
	for _, tt := range []struct {
		name, method, path, body, answer string
		header                           []string
		want                             string
	}{
		{"converted", "POST", "/v1/messages", messagesFor("gpt-5.5#openai", ""), completion, anthropic,
			`{"type":"error","error":{"type":"overloaded_error","message":"` + message + `"},"request_id":"ID"}`},
		{"models", "GET", "/v1/models", "", models, openAI, `{"error":{"message":"` + message + `","type":"server_error","code":"proxy_busy"}}`},
	} {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			c := new(collector)
			up := apexproxytest.NewUpstream(apexproxytest.JSON(200, tt.answer), apexproxytest.JSON(200, `{"data":[],"choices":[{"message":{"content":"short"}}]}`))
			t.Cleanup(up.Close)
			p, err := apexproxy.New(apexproxy.WithGateway(apexproxy.Gateway{BaseURL: up.URL, Token: gatewayToken}), apexproxy.WithReporter(c),
				apexproxy.WithMaxRequestBytes(100_000), apexproxy.WithMaxBufferedBytes(1<<20))
			if err != nil {
				t.Fatal(err)
			}
			url := serve(t, p, p)
			got := masked(do(t, tt.method, url+tt.path, tt.body, "Authorization", bearerHeader))
			want := answer{503, headers(append([]string{"Content-Type", "application/json", "X-Content-Type-Options", "nosniff", "Retry-After", "1",
				"Proxy-Status", "apexproxy; error=proxy_internal_response", "Content-Length", got.Header.Get("Content-Length")}, tt.header...)...), tt.want + "\n"}
			if diff := cmp.Diff(want, got); diff != "" {
				t.Errorf("(-want +got):\n%s", diff)
			}
			if got := do(t, tt.method, url+tt.path, tt.body, "Authorization", bearerHeader); got.Status != http.StatusOK {
				t.Errorf("a short one afterwards: %d %s", got.Status, got.Body)
			}
			rec := c.after(t, p)[0]
			if got, want := fmt.Sprint(rec.Outcome, rec.StatusCode, rec.ErrorType), fmt.Sprint(apexproxy.OutcomeUpstreamError, 503, "proxy_busy"); got != want {
				t.Errorf("recorded %s, want %s", got, want)
			}
		})
	}
}

// One usage object, two readers: what the client of a converted answer is told and what the record
// holds are one count.
func TestUsage_recordAndClientAgree(t *testing.T) {
	t.Parallel()
	for _, tt := range []struct {
		name, model, usage string
		want               apexproxy.Usage
	}{
		{"Moonshot's cached tokens", "kimi-k2.6#custom-moonshot", `{"prompt_tokens":100,"completion_tokens":5,"cached_tokens":80}`,
			apexproxy.Usage{InputTokens: 100, OutputTokens: 5, CacheReadTokens: 80}},
		{"an odd total", "m#openrouter", `{"prompt_tokens":100,"completion_tokens":5,"total_tokens":150}`,
			apexproxy.Usage{InputTokens: 100, OutputTokens: 5}},
		{"reasoning outside, and a cache", "gemini-3-pro#google-ai-studio",
			`{"prompt_tokens":5,"completion_tokens":9,"total_tokens":114,"prompt_tokens_details":{"cached_tokens":3}}`,
			apexproxy.Usage{InputTokens: 5, OutputTokens: 109, CacheReadTokens: 3}},
		{"vLLM's written tokens", "q#custom-vllm", `{"prompt_tokens":50,"completion_tokens":4,"prompt_tokens_details":{"cached_tokens":12,"created_cache_tokens":30}}`,
			apexproxy.Usage{InputTokens: 50, OutputTokens: 4, CacheReadTokens: 12, CacheWriteTokens: 30}},
	} {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			c := new(collector)
			up := apexproxytest.NewUpstream(apexproxytest.JSON(200, `{"model":"m","choices":[{"index":0,"message":{"content":"x"},"finish_reason":"stop"}],"usage":`+tt.usage+`}`))
			t.Cleanup(up.Close)
			p, err := apexproxy.New(apexproxy.WithGateway(apexproxy.Gateway{BaseURL: up.URL, Token: gatewayToken}), apexproxy.WithReporter(c))
			if err != nil {
				t.Fatal(err)
			}
			url := serve(t, p, p)
			converted := post(t, url+"/v1/messages", messagesFor(tt.model, ""), "Authorization", bearerHeader)
			if got := post(t, url+"/v1/chat/completions", `{"model":"`+tt.model+`"}`, "Authorization", bearerHeader); got.Status != 200 {
				t.Fatalf("copied: %d %s", got.Status, got.Body)
			}
			u := gjson.Get(converted.Body, "usage")
			read, written := u.Get("cache_read_input_tokens").Int(), u.Get("cache_creation_input_tokens").Int()
			client := apexproxy.Usage{InputTokens: u.Get("input_tokens").Int() + read + written, OutputTokens: u.Get("output_tokens").Int(),
				CacheReadTokens: read, CacheWriteTokens: written}
			if diff := cmp.Diff(tt.want, client); diff != "" {
				t.Errorf("the client (-want +got):\n%s", diff)
			}
			for _, rec := range c.after(t, p) {
				if diff := cmp.Diff(&tt.want, rec.Usage); diff != "" {
					t.Errorf("the record of %s (-want +got):\n%s", rec.Path, diff)
				}
			}
		})
	}
}
