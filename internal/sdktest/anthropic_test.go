package sdktest

import (
	"bytes"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"strings"
	"testing"

	"github.com/anthropics/anthropic-sdk-go"
	"github.com/anthropics/anthropic-sdk-go/option"
	"github.com/google/go-cmp/cmp"
	"github.com/tidwall/gjson"

	"github.com/loadchange/apexproxy/apexproxytest"
)

// A route is a way from Anthropic's SDK to a provider.
type route struct {
	name        string
	model       string // as the client writes it
	path        string // where the request arrives, below the gateway or the upstream
	native      bool   // the provider speaks Messages
	passthrough bool

	limit     string                 // how the provider spells max_tokens
	id        func(id string) string // a tool id in the history
	signed    string                 // added to the first call of an assistant message
	assistant string                 // added to an assistant message with calls
	noUsage   bool                   // takes no stream_options
}

func same(id string) string { return id }

func nine(id string) string {
	sum := sha256.Sum256([]byte(id))
	return hex.EncodeToString(sum[:])[:9]
}

var routes = []route{
	{name: "anthropic", model: "claude-opus-4-7#anthropic", path: "/anthropic/v1/messages", native: true},
	{name: "openai", model: "gpt-4.1#openai", path: "/openai/chat/completions", limit: "max_completion_tokens", id: same},
	{name: "deepseek", model: "deepseek-v4-pro#deepseek", path: "/deepseek/chat/completions", limit: "max_tokens", id: same, assistant: `,"reasoning_content":""`},
	{name: "google-ai-studio", model: "gemini-3-pro#google-ai-studio", path: "/google-ai-studio/v1beta/openai/chat/completions", limit: "max_tokens", id: same,
		signed: `,"extra_content":{"google":{"thought_signature":"skip_thought_signature_validator"}}`},
	{name: "mistral", model: "mistral-large#mistral", path: "/mistral/v1/chat/completions", limit: "max_tokens", id: nine, noUsage: true},
	{name: "passthrough", model: "some-model", path: "/api/v1/chat/completions", passthrough: true, limit: "max_tokens", id: same},
}

func (rt route) upstreamModel() string {
	name, _, _ := strings.Cut(rt.model, "#")
	return name
}

// anthropicClient is the SDK as its users make it. A failing call is not repeated unless opts say
// so.
func (s *stand) anthropicClient(rt route, opts ...option.RequestOption) anthropic.Client {
	base := []option.RequestOption{option.WithoutEnvironmentDefaults(), option.WithBaseURL(s.url), option.WithAPIKey(gatewayToken), option.WithMaxRetries(0)}
	if rt.passthrough {
		base = append(base, option.WithAPIKey(upstreamKey),
			option.WithHeader("X-APEX-AI-PROXY-PROVIDER", s.upstream.Host+"/api"),
			option.WithHeader("X-APEX-AI-PROXY-TYPE", "chat-completions"))
	}
	return anthropic.NewClient(append(base, opts...)...)
}

// send makes one exchange, streamed or not, and returns what the SDK makes of it.
func send(tb testing.TB, client anthropic.Client, stream bool, params anthropic.MessageNewParams) (*anthropic.Message, error) {
	tb.Helper()
	if !stream {
		return client.Messages.New(tb.Context(), params)
	}
	events := client.Messages.NewStreaming(tb.Context(), params)
	defer events.Close()
	message, stopped := new(anthropic.Message), false
	for events.Next() {
		event := events.Current()
		if err := message.Accumulate(event); err != nil {
			tb.Fatalf("Accumulate: %v", err)
		}
		stopped = event.Type == "message_stop"
	}
	if events.Err() == nil && !stopped {
		tb.Error("the stream ended without message_stop and without error")
	}
	if events.Err() != nil && stopped {
		tb.Errorf("an error after message_stop: %v", events.Err())
	}
	return message, events.Err()
}

// block and answer are what matters of a Message.
type block struct{ Type, Text, Thinking, ID, Name, Input string }

type answer struct {
	Model, Stop                              string
	Content                                  []block
	Input, CacheRead, CacheWrite, Out, Think int64
}

func answerOf(m *anthropic.Message) answer {
	a := answer{Model: m.Model, Stop: string(m.StopReason), Input: m.Usage.InputTokens, CacheRead: m.Usage.CacheReadInputTokens,
		CacheWrite: m.Usage.CacheCreationInputTokens, Out: m.Usage.OutputTokens, Think: m.Usage.OutputTokensDetails.ThinkingTokens}
	for _, b := range m.Content {
		a.Content = append(a.Content, block{b.Type, b.Text, b.Thinking, b.ID, b.Name, string(b.Input)})
	}
	return a
}

// answer is what the SDK has to make of a turn.
func (t turn) answer(rt route) answer {
	a := answer{Model: rt.model, Stop: t.stopReason(), Input: 20, CacheRead: 100, Out: 40, Think: 12}
	if rt.native {
		a.Model = "upstream-model" // a copied answer is not touched
	}
	if t.thinking != "" {
		a.Content = append(a.Content, block{Type: "thinking", Thinking: t.thinking})
	}
	if t.text != "" {
		a.Content = append(a.Content, block{Type: "text", Text: t.text})
	}
	for _, c := range t.calls {
		a.Content = append(a.Content, block{Type: "tool_use", ID: c.id, Name: c.name, Input: c.args})
	}
	return a
}

var tools = []anthropic.ToolUnionParam{
	{OfTool: &anthropic.ToolParam{Name: "weather", Description: anthropic.String("The weather in a city."),
		InputSchema:  anthropic.ToolInputSchemaParam{Properties: map[string]any{"city": map[string]any{"type": "string"}}, Required: []string{"city"}},
		CacheControl: anthropic.NewCacheControlEphemeralParam()}},
	{OfTool: &anthropic.ToolParam{Name: "clock", InputSchema: anthropic.ToolInputSchemaParam{Properties: map[string]any{"zone": map[string]any{"type": "string"}}}}},
}

const chatTools = `[{"type":"function","function":{"name":"weather","description":"The weather in a city.","parameters":{"type":"object","properties":{"city":{"type":"string"}},"required":["city"]}}},` +
	`{"type":"function","function":{"name":"clock","parameters":{"type":"object","properties":{"zone":{"type":"string"}}}}}]`

// The session of the tool loop: two parallel calls, one more, an answer.
var session = []turn{
	{text: "Two look-ups.", calls: []call{
		{id: "call_a", name: "weather", args: `{"city":"Zürich <b>&","n":9223372036854775807}`},
		{id: "call_b", name: "clock", args: `{"zone":"CET"}`}}},
	{calls: []call{{id: "call_c", name: "clock", args: `{}`}}},
	{text: "It is warm, and \"late\"."},
}

const pixel = "iVBORw0KGgoAAAANSUhEUgAAAAEAAAABCAYAAAAfFcSJAAAADUlEQVR42mNk+M9QDwADhgGAWjR9awAAAABJRU5ErkJggg=="

func TestAnthropicToolLoop(t *testing.T) {
	t.Parallel()
	for _, rt := range routes {
		styles := []string{"JSON", sequential, interleaved, indexZero}
		if rt.native {
			styles = styles[:2]
		}
		for _, style := range styles {
			t.Run(rt.name+"/"+style, func(t *testing.T) {
				t.Parallel()
				stream := style != "JSON"
				var replies []http.Handler
				for _, turn := range session {
					switch {
					case rt.native && stream:
						replies = append(replies, turn.messageStream())
					case rt.native:
						replies = append(replies, turn.message())
					case stream:
						replies = append(replies, turn.chatStream(style))
					default:
						replies = append(replies, turn.chat())
					}
				}
				s := newStand(t, replies...)
				var sent []byte
				client := s.anthropicClient(rt, option.WithMiddleware(func(r *http.Request, next option.MiddlewareNext) (*http.Response, error) {
					sent, _ = io.ReadAll(r.Body)
					r.Body = io.NopCloser(bytes.NewReader(sent))
					return next(r)
				}))
				params := anthropic.MessageNewParams{
					Model: rt.model, MaxTokens: 1024, Tools: tools,
					System: []anthropic.TextBlockParam{{Text: "Be brief.", CacheControl: anthropic.NewCacheControlEphemeralParam()}},
					Messages: []anthropic.MessageParam{anthropic.NewUserMessage(
						anthropic.NewTextBlock("What is it like here?"), anthropic.NewImageBlockBase64("image/png", pixel))},
				}
				for i, turn := range session {
					message, err := send(t, client, stream, params)
					if err != nil {
						t.Fatalf("turn %d: %v", i, err)
					}
					if diff := cmp.Diff(turn.answer(rt), answerOf(message)); diff != "" {
						t.Fatalf("turn %d (-want +got):\n%s", i, diff)
					}
					var results []anthropic.ContentBlockParamUnion
					for n, c := range turn.calls {
						results = append(results, anthropic.NewToolResultBlock(c.id, fmt.Sprintf("result of %s", c.id), n == 1))
					}
					params.Messages = append(params.Messages, message.ToParam())
					if results != nil {
						params.Messages = append(params.Messages, anthropic.NewUserMessage(results...))
					}
				}
				arrived := s.arrived(t)
				if len(arrived) != len(session) {
					t.Fatalf("%d requests arrived, want %d", len(arrived), len(session))
				}
				last := arrived[len(arrived)-1]
				path, query, _ := strings.Cut(strings.TrimPrefix(last.RequestURI, "/v1/test-account/test-gateway"), "?")
				if path != rt.path || query != "" {
					t.Errorf("the request arrived at %s?%s, want %s", path, query, rt.path)
				}
				if rt.native {
					want := bytes.Replace(sent, []byte("claude-opus-4-7#anthropic"), []byte("claude-opus-4-7"), 1)
					if diff := cmp.Diff(string(want), string(last.Body)); diff != "" {
						t.Errorf("the body that arrived (-want +got):\n%s", diff)
					}
					return
				}
				sameJSON(t, "the body that arrived", rt.wantLoop(stream), last.Body)
			})
		}
	}
}

// wantLoop is the third request of the session as a provider gets it.
func (rt route) wantLoop(stream bool) string {
	calls := func(t turn) string {
		var out []string
		for i, c := range t.calls {
			signed := ""
			if i == 0 {
				signed = rt.signed
			}
			var args bytes.Buffer
			json.HTMLEscape(&args, []byte(c.args)) // as the SDK writes the history
			out = append(out, fmt.Sprintf(`{"id":%q,"type":"function","function":{"name":%q,"arguments":%s}%s}`, rt.id(c.id), c.name, quote(args.String()), signed))
		}
		return `,"tool_calls":[` + strings.Join(out, ",") + `]` + rt.assistant
	}
	result := func(id string) string {
		return fmt.Sprintf(`{"role":"tool","tool_call_id":%q,"content":"result of %s"}`, rt.id(id), id)
	}
	flags := ""
	if stream {
		flags = `,"stream":true`
		if !rt.noUsage {
			flags += `,"stream_options":{"include_usage":true}`
		}
	}
	return `{"model":"` + rt.upstreamModel() + `","` + rt.limit + `":1024,"messages":[` + strings.Join([]string{
		`{"role":"system","content":"Be brief."}`,
		`{"role":"user","content":[{"type":"text","text":"What is it like here?"},{"type":"image_url","image_url":{"url":"data:image/png;base64,` + pixel + `"}}]}`,
		`{"role":"assistant","content":"Two look-ups."` + calls(session[0]) + `}`,
		result("call_a"), result("call_b"),
		`{"role":"assistant","content":null` + calls(session[1]) + `}`,
		result("call_c"),
	}, ",") + `],"tools":` + chatTools + flags + `}`
}

// A session that thinks at one provider, and goes on at Anthropic with the history it has.
func TestAnthropicThinking(t *testing.T) {
	t.Parallel()
	first := turn{thinking: "I need the weather.", calls: []call{{id: "call_a", name: "weather", args: `{"city":"Paris"}`, signature: "sig-of-call-a"}}}
	second := turn{thinking: "Warm enough.", text: "It is warm."}
	native := turn{thinking: "Native thought.", text: "Indeed."}
	for _, tt := range []struct {
		route     string
		assistant string // the first turn as the provider gets it back
	}{
		{"deepseek", `{"role":"assistant","content":null,"tool_calls":[{"id":"call_a","type":"function","function":{"name":"weather","arguments":"{\"city\":\"Paris\"}"}}],"reasoning_content":"I need the weather."}`},
		{"google-ai-studio", `{"role":"assistant","content":null,"tool_calls":[{"id":"call_a","type":"function","function":{"name":"weather","arguments":"{\"city\":\"Paris\"}"},"extra_content":{"google":{"thought_signature":"sig-of-call-a"}}}]}`},
		{"openai", `{"role":"assistant","content":null,"tool_calls":[{"id":"call_a","type":"function","function":{"name":"weather","arguments":"{\"city\":\"Paris\"}"}}]}`},
	} {
		for _, stream := range []bool{false, true} {
			t.Run(fmt.Sprintf("%s/stream %t", tt.route, stream), func(t *testing.T) {
				t.Parallel()
				var rt route
				for _, r := range routes {
					if r.name == tt.route {
						rt = r
					}
				}
				replies := []http.Handler{first.chat(), second.chat(), native.message(), native.message()}
				if stream {
					replies = []http.Handler{first.chatStream(sequential), second.chatStream(sequential), native.messageStream(), native.messageStream()}
				}
				s := newStand(t, replies...)
				client := s.anthropicClient(rt)
				params := anthropic.MessageNewParams{
					Model: rt.model, MaxTokens: 4096, Tools: tools[:1],
					Thinking: anthropic.ThinkingConfigParamOfEnabled(2048),
					Messages: []anthropic.MessageParam{anthropic.NewUserMessage(anthropic.NewTextBlock("Is it warm in Paris?"))},
				}
				var signatures []string
				exchange := func(rt route, turn turn) {
					t.Helper()
					params.Model = rt.model
					message, err := send(t, client, stream, params)
					if err != nil {
						t.Fatal(err)
					}
					if diff := cmp.Diff(turn.answer(rt), answerOf(message)); diff != "" {
						t.Fatalf("answer (-want +got):\n%s", diff)
					}
					if message.Content[0].Signature == "" {
						t.Fatal("the thinking block has no signature")
					}
					signatures = append(signatures, message.Content[0].Signature)
					params.Messages = append(params.Messages, message.ToParam())
				}
				say := func(b anthropic.ContentBlockParamUnion) {
					params.Messages = append(params.Messages, anthropic.NewUserMessage(b))
				}

				exchange(rt, first)
				say(anthropic.NewToolResultBlock("call_a", "25 degrees", false))
				exchange(rt, second)
				say(anthropic.NewTextBlock("Ask another one."))
				exchange(routes[0], native)
				say(anthropic.NewTextBlock("Once more."))
				exchange(routes[0], native)

				arrived := s.arrived(t)
				if got := gjson.GetBytes(arrived[1].Body, "messages.1").Raw; got == "" {
					t.Errorf("the second request has no history: %s", arrived[1].Body)
				} else {
					sameJSON(t, "the assistant's turn sent back", tt.assistant, []byte(got))
				}
				for i, r := range arrived[2:] {
					if bytes.Contains(r.Body, []byte(signatures[0])) || bytes.Contains(r.Body, []byte(signatures[1])) || bytes.Contains(r.Body, []byte("Warm enough.")) {
						t.Errorf("a thinking block of another provider reached Anthropic: %s", r.Body)
					}
					if has := bytes.Contains(r.Body, []byte(nativeSignature)); has != (i == 1) {
						t.Errorf("request %d has Anthropic's own thinking: %t", i, has)
					}
					if got := gjson.GetBytes(r.Body, "messages.1.content.#").Int(); got != 1 {
						t.Errorf("the first assistant turn has %d blocks, want the tool call alone: %s", got, r.Body)
					}
				}
			})
		}
	}
}

func TestAnthropicStopReasons(t *testing.T) {
	t.Parallel()
	const tool = `"tool_calls":[{"index":0,"id":"call_a","type":"function","function":{"name":"clock","arguments":"{}"}}]`
	for _, tt := range []struct {
		name, message, finish string
		stop, explanation     string
	}{
		{"stop", `"content":"Hi."`, "stop", "end_turn", ""},
		{"tool calls", tool, "tool_calls", "tool_use", ""},
		{"stop with calls", tool, "stop", "tool_use", ""},
		{"length", `"content":"Hi"`, "length", "max_tokens", ""},
		{"length in a call", tool, "length", "max_tokens", ""},
		{"filter", `"content":"Hi"`, "content_filter", "refusal", ""},
		{"refusal", `"refusal":"I will not."`, "stop", "refusal", "I will not."},
	} {
		for _, stream := range []bool{false, true} {
			t.Run(fmt.Sprintf("%s/stream %t", tt.name, stream), func(t *testing.T) {
				t.Parallel()
				reply := apexproxytest.JSON(200, `{"id":"1","object":"chat.completion","choices":[{"index":0,"message":{"role":"assistant",`+tt.message+`},"finish_reason":"`+tt.finish+`"}]}`)
				if stream {
					reply = apexproxytest.SSE(chunk(`"role":"assistant",`+tt.message, "null"), chunk("", `"`+tt.finish+`"`), "data: [DONE]\n\n")
				}
				s := newStand(t, reply)
				message, err := send(t, s.anthropicClient(route{}), stream, hello("gpt-4.1#openai"))
				if err != nil {
					t.Fatal(err)
				}
				if string(message.StopReason) != tt.stop || message.StopDetails.Explanation != tt.explanation {
					t.Errorf("stop reason %q, explanation %q; want %q, %q", message.StopReason, message.StopDetails.Explanation, tt.stop, tt.explanation)
				}
			})
		}
	}
}

func hello(model string) anthropic.MessageNewParams {
	return anthropic.MessageNewParams{Model: model, MaxTokens: 64, Tools: tools[1:],
		Messages: []anthropic.MessageParam{anthropic.NewUserMessage(anthropic.NewTextBlock("Hello."))}}
}

// failure is what a user sees of an error.
type failure struct {
	Status                    int
	Type, Message, ID, RetryA string
}

func failureOf(tb testing.TB, err error) failure {
	tb.Helper()
	var e *anthropic.Error
	if !errors.As(err, &e) {
		tb.Fatalf("%v is a %T, want the SDK's *Error", err, err)
	}
	if !json.Valid([]byte(e.RawJSON())) {
		tb.Fatalf("the error's body is no JSON: %q", e.RawJSON())
	}
	body := gjson.Parse(e.RawJSON())
	if typ := body.Get("error.type").Str; typ != string(e.Type()) {
		tb.Errorf("Type() is %q, the body says %q", e.Type(), typ)
	}
	if id := body.Get("request_id").Str; id != "" && id != e.RequestID {
		tb.Errorf("request_id is %q in the body and %q in the header", id, e.RequestID)
	}
	return failure{e.StatusCode, string(e.Type()), body.Get("error.message").Str, e.RequestID, e.Response.Header.Get("Retry-After")}
}

func TestAnthropicErrors(t *testing.T) {
	t.Parallel()
	limited := apexproxytest.ProviderError(429, "Slow down.", "Retry-After", "7")
	for _, tt := range []struct {
		name, model string
		reply       http.Handler
		want        failure
	}{
		{"401", "gpt-4.1#openai", apexproxytest.ProviderError(401, "Bad key."), failure{401, "authentication_error", "Bad key.", "req_test", ""}},
		{"403", "gpt-4.1#openai", apexproxytest.ProviderError(403, "Not yours."), failure{403, "permission_error", "Not yours.", "req_test", ""}},
		{"404", "gpt-4.1#openai", apexproxytest.ProviderError(404, "No such model."), failure{404, "not_found_error", "No such model.", "req_test", ""}},
		{"413", "gpt-4.1#openai", apexproxytest.ProviderError(413, "Too large."), failure{413, "request_too_large", "Too large.", "req_test", ""}},
		{"422", "mistral-large#mistral", apexproxytest.JSON(422, `{"detail":[{"loc":["body","x"],"msg":"Extra inputs are not permitted"}]}`), failure{400, "invalid_request_error", "Extra inputs are not permitted", "req_test", ""}},
		{"429", "gpt-4.1#openai", limited, failure{429, "rate_limit_error", "Slow down.", "req_test", "7"}},
		{"500", "gpt-4.1#openai", apexproxytest.ProviderError(500, "Oops."), failure{500, "api_error", "Oops.", "req_test", ""}},
		{"503", "gpt-4.1#openai", apexproxytest.ProviderError(503, "Busy."), failure{529, "overloaded_error", "Busy.", "req_test", ""}},
		{"Google's array", "gemini-3-pro#google-ai-studio", apexproxytest.ProviderError(503, "Busy."), failure{529, "overloaded_error", "Busy.", "req_test", ""}},
		{"context length", "gpt-4.1#openai", apexproxytest.JSON(400, `{"error":{"message":"maximum context length is 128000 tokens","type":"invalid_request_error","code":"context_length_exceeded"}}`),
			failure{400, "invalid_request_error", "prompt is too long: maximum context length is 128000 tokens", "req_test", ""}},
		{"gateway", "gpt-4.1#openai", apexproxytest.AiGatewayError(429, 2003, "Rate limited", "Retry-After", "3"),
			failure{429, "rate_limit_error", "Cloudflare AI Gateway: Rate limited", "req_test", "3"}},
		{"gateway, native", "claude-opus-4-7#anthropic", apexproxytest.AiGatewayError(429, 2003, "Rate limited", "Retry-After", "3"),
			failure{429, "rate_limit_error", "Cloudflare AI Gateway: Rate limited", "req_test", "3"}},
		{"429, native", "claude-opus-4-7#anthropic", limited, failure{429, "rate_limit_error", "Slow down.", "req_test", "7"}},
		{"529, native", "claude-opus-4-7#anthropic", apexproxytest.ProviderError(529, "Busy."), failure{529, "overloaded_error", "Busy.", "req_test", ""}},
		{"error in 200", "gpt-4.1#openai", apexproxytest.JSON(200, `{"error":{"message":"No credit.","code":402}}`), failure{402, "billing_error", "No credit.", "req_test", ""}},
	} {
		for _, stream := range []bool{false, true} {
			t.Run(fmt.Sprintf("%s/stream %t", tt.name, stream), func(t *testing.T) {
				t.Parallel()
				s := newStand(t, tt.reply)
				_, err := send(t, s.anthropicClient(route{}), stream, hello(tt.model))
				if diff := cmp.Diff(tt.want, failureOf(t, err)); diff != "" {
					t.Errorf("error (-want +got):\n%s", diff)
				}
				if n := len(s.arrived(t)); n != 1 {
					t.Errorf("%d requests arrived, want 1", n)
				}
			})
		}
	}
}

// What the proxy itself refuses looks to the SDK like what Anthropic refuses.
func TestAnthropicRefusals(t *testing.T) {
	t.Parallel()
	for _, tt := range []struct {
		name   string
		opts   []option.RequestOption
		params anthropic.MessageNewParams
		want   failure
	}{
		{"wrong token", []option.RequestOption{option.WithAPIKey("wrong")}, hello("gpt-4.1#openai"),
			failure{401, "authentication_error", "no valid key: present the proxy's token as Authorization: Bearer or x-api-key", "", ""}},
		{"no provider", nil, hello("gpt-4.1"), failure{400, "invalid_request_error", `model "gpt-4.1" names no provider: write it as name#provider`, "", ""}},
		{"not convertible", nil, anthropic.MessageNewParams{Model: "gpt-4.1#openai", Messages: hello("").Messages},
			failure{400, "invalid_request_error", "max_tokens: must be an integer of at least 1", "", ""}},
	} {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			s := newStand(t)
			_, err := send(t, s.anthropicClient(route{}, tt.opts...), false, tt.params)
			got := failureOf(t, err)
			if !strings.HasPrefix(got.ID, "req_") {
				t.Errorf("request id %q", got.ID)
			}
			got.ID = ""
			if diff := cmp.Diff(tt.want, got); diff != "" {
				t.Errorf("error (-want +got):\n%s", diff)
			}
			if n := len(s.arrived(t)); n != 0 {
				t.Errorf("%d requests arrived, want none", n)
			}
		})
	}
}

// An error in a stream is the SDK's typed error, and a stream that breaks off is never a clean end.
func TestAnthropicStreamErrors(t *testing.T) {
	t.Parallel()
	const failed = `data: {"error":{"message":"Busy.","type":"server_error","code":503}}` + "\n\n"
	word := chunk(`"role":"assistant","content":"Hi"`, "null")
	call := chunk(`"tool_calls":[{"index":0,"id":"call_a","type":"function","function":{"name":"clock","arguments":"{\"zone\":"}}]`, "null")
	for _, tt := range []struct {
		name  string
		reply http.Handler
		want  failure
		text  string // what came before
	}{
		{"first", apexproxytest.SSE(failed), failure{529, "overloaded_error", "Busy.", "req_test", ""}, ""},
		{"after comments", apexproxytest.SSE(": keep-alive\n\n", failed), failure{529, "overloaded_error", "Busy.", "req_test", ""}, ""},
		{"midway", apexproxytest.SSE(word, failed), failure{200, "overloaded_error", "Busy.", "req_test", ""}, "Hi"},
		{"event: error midway", apexproxytest.SSE(word, "event: error\n"+failed), failure{200, "overloaded_error", "Busy.", "req_test", ""}, "Hi"},
		{"ends in a text", apexproxytest.SSE(word), failure{200, "api_error", "upstream stream ended before completion", "req_test", ""}, "Hi"},
		{"ends in a call", apexproxytest.SSE(word, call), failure{200, "api_error", "upstream stream ended before completion", "req_test", ""}, "Hi"},
		{"breaks off", apexproxytest.Abort(word, call), failure{200, "api_error", "upstream stream ended before completion", "req_test", ""}, "Hi"},
		{"nothing", apexproxytest.SSE(), failure{502, "api_error", "", "req_test", ""}, ""},
	} {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			s := newStand(t, tt.reply)
			message, err := send(t, s.anthropicClient(route{}), true, hello("gpt-4.1#openai"))
			got := failureOf(t, err)
			if tt.want.Message == "" && got.Message != "" {
				got.Message = ""
			}
			if diff := cmp.Diff(tt.want, got); diff != "" {
				t.Errorf("error (-want +got):\n%s", diff)
			}
			text := ""
			if len(message.Content) > 0 {
				text = message.Content[0].Text
			}
			if text != tt.text || message.StopReason != "" {
				t.Errorf("text %q, stop reason %q; want %q and none", text, message.StopReason, tt.text)
			}
		})
	}
	t.Run("native", func(t *testing.T) {
		t.Parallel()
		events := apexproxytest.MessageStream("Hi")
		s := newStand(t, apexproxytest.Abort(events[:len(events)-2]...))
		message, err := send(t, s.anthropicClient(route{}), true, hello("claude-opus-4-7#anthropic"))
		if err == nil || len(message.Content) != 1 || message.StopReason != "" {
			t.Errorf("error %v, %d blocks, stop reason %q; want an error after one block", err, len(message.Content), message.StopReason)
		}
	})
}

// The SDK obeys what upstreams say about trying again.
func TestAnthropicRetries(t *testing.T) {
	t.Parallel()
	for _, tt := range []struct {
		name   string
		reply  http.Handler
		status int // 0: the second request succeeds
		sent   int
	}{
		{"429", apexproxytest.ProviderError(429, "Slow down.", "Retry-After-Ms", "1"), 0, 2},
		{"529", apexproxytest.ProviderError(503, "Busy.", "Retry-After-Ms", "1"), 0, 2},
		{"told not to", apexproxytest.ProviderError(503, "Busy.", "X-Should-Retry", "false"), 529, 1},
		{"no quota", apexproxytest.JSON(429, `{"error":{"message":"No credit.","type":"insufficient_quota","code":"insufficient_quota"}}`), 429, 1},
		{"400", apexproxytest.ProviderError(400, "No."), 400, 1},
	} {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			s := newStand(t, tt.reply, session[2].chat())
			_, err := send(t, s.anthropicClient(route{}, option.WithMaxRetries(1)), false, hello("gpt-4.1#openai"))
			if tt.status == 0 && err != nil {
				t.Errorf("%v, want an answer at the second attempt", err)
			}
			if tt.status != 0 {
				if got := failureOf(t, err); got.Status != tt.status {
					t.Errorf("status %d, want %d", got.Status, tt.status)
				}
			}
			if n := len(s.arrived(t)); n != tt.sent {
				t.Errorf("%d requests arrived, want %d", n, tt.sent)
			}
		})
	}
}

func TestAnthropicCountTokens(t *testing.T) {
	t.Parallel()
	s := newStand(t, apexproxytest.JSON(200, `{"input_tokens":4711}`))
	client := s.anthropicClient(route{})
	count := func(model, text string) (tokens int64, estimate string) {
		t.Helper()
		var res *http.Response
		got, err := client.Messages.CountTokens(t.Context(), anthropic.MessageCountTokensParams{Model: model,
			Messages: []anthropic.MessageParam{anthropic.NewUserMessage(anthropic.NewTextBlock(text))}}, option.WithResponseInto(&res))
		if err != nil {
			t.Fatal(err)
		}
		return got.InputTokens, res.Header.Get("X-Apex-Ai-Proxy-Estimate")
	}
	if n, estimate := count("claude-opus-4-7#anthropic", "Hello."); n != 4711 || estimate != "" {
		t.Errorf("native: %d tokens, estimate %q; want what Anthropic said", n, estimate)
	}
	arrived := s.arrived(t)
	if len(arrived) != 1 || !strings.HasSuffix(arrived[0].RequestURI, "/anthropic/v1/messages/count_tokens") {
		t.Fatalf("arrived: %v", arrived)
	}
	few, estimate := count("gpt-4.1#openai", "Hello.")
	many, _ := count("gpt-4.1#openai", strings.Repeat("Hello. ", 1000))
	if estimate != "input_tokens" || few < 1 || few > 50 || many < 1000 || many > 4000 {
		t.Errorf("estimate %q: %d tokens for a word, %d for a thousand", estimate, few, many)
	}
	if n := len(s.arrived(t)); n != 1 {
		t.Errorf("an estimate was asked of the gateway: %d requests", n)
	}
}

func TestAnthropicModels(t *testing.T) {
	t.Parallel()
	client := newStand(t).anthropicClient(route{})
	var ids []string
	pages := client.Models.ListAutoPaging(t.Context(), anthropic.ModelListParams{})
	for pages.Next() {
		m := pages.Current()
		if m.DisplayName == "" || m.CreatedAt.Unix() != 1767225600 {
			t.Errorf("model %s: name %q, created %v", m.ID, m.DisplayName, m.CreatedAt)
		}
		ids = append(ids, m.ID)
	}
	if pages.Err() != nil {
		t.Fatal(pages.Err())
	}
	want := []string{"gpt-5.5#openai", "claude-opus-4.7#anthropic", "gemini-3-pro#google-ai-studio",
		"@cf/meta/llama-4-scout-17b-16e-instruct#workers-ai", "sonar#perplexity-ai"}
	if diff := cmp.Diff(want, ids); diff != "" {
		t.Errorf("models (-want +got):\n%s", diff)
	}
	for _, id := range want {
		if m, err := client.Models.Get(t.Context(), id, anthropic.ModelGetParams{}); err != nil || m.ID != id {
			t.Errorf("model %s: %v, %v", id, m, err)
		}
	}
	_, err := client.Models.Get(t.Context(), "none#openai", anthropic.ModelGetParams{})
	if got := failureOf(t, err); got.Status != 404 || got.Type != "not_found_error" {
		t.Errorf("an unknown model: %+v", got)
	}
}
