package apexproxytest_test

import (
	"fmt"
	"net/http"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"github.com/loadchange/apexproxy/apexproxytest"
	"github.com/tidwall/gjson"
)

// TestProvider reads each canonical answer as a client would: all text, the model, the usage.
func TestProvider(t *testing.T) {
	t.Parallel()
	up := apexproxytest.NewUpstream()
	defer up.Close()
	type answer struct{ Text, Model, Usage string }
	chat := fmt.Sprint(apexproxytest.InputTokens, apexproxytest.OutputTokens)
	tests := []struct {
		name, path, extra   string
		text, model, in, ou string // gjson paths of one event
		usage               string
	}{
		{"chat", "/v1/chat/completions", ``, "choices.0.message.content", "model", "usage.prompt_tokens", "usage.completion_tokens", chat},
		{"chat stream", "/v1/chat/completions", `,"stream":true`, "choices.0.delta.content", "model", "usage.prompt_tokens", "usage.completion_tokens", ""},
		{"chat stream with usage", "/v1/chat/completions", `,"stream":true,"stream_options":{"include_usage":true}`, "choices.0.delta.content", "model", "usage.prompt_tokens", "usage.completion_tokens", chat},
		{"messages", "/v1/messages", ``, "content.0.text", "model", "usage.input_tokens", "usage.output_tokens", fmt.Sprint(apexproxytest.InputTokens-apexproxytest.CachedTokens, apexproxytest.OutputTokens)},
		{"messages stream", "/v1/messages", `,"stream":true`, "delta.text", "message.model", "message.usage.input_tokens", "usage.output_tokens", fmt.Sprint(apexproxytest.InputTokens-apexproxytest.CachedTokens, apexproxytest.OutputTokens)},
		{"responses", "/v1/responses", ``, "output.0.content.0.text", "model", "usage.input_tokens", "usage.output_tokens", chat},
		{"responses stream", "/v1/responses", `,"stream":true`, "delta", "response.model", "response.usage.input_tokens", "response.usage.output_tokens", chat},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			req, err := http.NewRequest("POST", up.URL+tt.path, strings.NewReader(`{"model":"the-model"`+tt.extra+`}`))
			if err != nil {
				t.Fatal(err)
			}
			_, body := do(t, up.Client(), req)
			var got answer
			var usage []string
			done := false
			for event := range strings.SplitSeq(body, "\n\n") {
				if i := strings.Index(event, "data: "); i >= 0 {
					event = event[i+len("data: "):]
				}
				if event == "" || event == "[DONE]" {
					done = event == "" && done || event == "[DONE]"
					continue
				}
				if done || !gjson.Valid(event) {
					t.Fatalf("not JSON, or after [DONE]: %q", event)
				}
				if v := gjson.Get(event, tt.text); v.Type == gjson.String {
					got.Text += v.Str
				}
				if v := gjson.Get(event, tt.model); v.Exists() {
					got.Model = v.Str
				}
				for _, path := range []string{tt.in, tt.ou} {
					if v := gjson.Get(event, path); v.Exists() {
						usage = append(usage, v.Raw)
					}
				}
			}
			got.Usage = strings.Join(usage, " ")
			if diff := cmp.Diff(answer{apexproxytest.Answer, "the-model", tt.usage}, got); diff != "" {
				t.Error("-want +got:\n" + diff)
			}
			if done != (strings.Contains(tt.path, "chat") && tt.extra != "") {
				t.Errorf("[DONE]: %t", done)
			}
		})
	}
}

func TestProviderOther(t *testing.T) {
	t.Parallel()
	up := apexproxytest.NewUpstream()
	defer up.Close()
	tests := []struct {
		method, path, version, field, want string
	}{
		{"POST", "/v1/messages/count_tokens", "", "input_tokens", "15"},
		{"POST", "/v1/embeddings", "", "data.0.embedding.#", "3"},
		{"GET", "/v1/models", "", "data.0.object", `"model"`},
		{"GET", "/v1/models", "2023-06-01", "data.0.type", `"model"`},
		{"GET", "/v1beta/models", "", "models.0.name", `"models/gemini-3-pro"`},
	}
	for _, tt := range tests {
		req, err := http.NewRequest(tt.method, up.URL+tt.path, strings.NewReader("{}"))
		if err != nil {
			t.Fatal(err)
		}
		if tt.version != "" {
			req.Header.Set("Anthropic-Version", tt.version)
		}
		_, body := do(t, up.Client(), req)
		if got := gjson.Get(body, tt.field).Raw; !gjson.Valid(body) || got != tt.want {
			t.Errorf("%s %s: %s", tt.method, tt.path, body)
		}
	}
}

func TestRateLimited(t *testing.T) {
	t.Parallel()
	up := apexproxytest.NewUpstream(apexproxytest.RateLimited())
	defer up.Close()
	for path, field := range map[string]string{
		"/v1/chat/completions":            `error.code="rate_limit_exceeded"`,
		"/v1/messages":                    `error.type="rate_limit_error"`,
		"/v1beta/openai/chat/completions": `0.error.status="RESOURCE_EXHAUSTED"`,
	} {
		req, _ := http.NewRequest("POST", up.URL+path, strings.NewReader("{}"))
		resp, body := do(t, up.Client(), req)
		name, want, _ := strings.Cut(field, "=")
		if got := gjson.Get(body, name).Raw; got != want {
			t.Errorf("%s: %s", path, body)
		}
		for _, name := range []string{"Retry-After", "X-Should-Retry", "Request-Id", "X-Ratelimit-Remaining-Requests", "Anthropic-Ratelimit-Requests-Remaining"} {
			if resp.Header.Get(name) == "" {
				t.Errorf("%s: no %s", path, name)
			}
		}
	}
}
