package sdktest

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"github.com/openai/openai-go/v3"
	"github.com/openai/openai-go/v3/option"
	"github.com/openai/openai-go/v3/responses"

	"github.com/loadchange/apexproxy/apexproxytest"
)

// openaiModes are the ways from OpenAI's SDK to a provider.
var openaiModes = []struct {
	name        string
	model       string // as the client writes it
	prefix      string // what stands before the path where the request arrives
	passthrough bool
	mapping     string
}{
	{name: "gateway", model: "gpt-5.5#openai", prefix: "/v1/test-account/test-gateway/openai"},
	{name: "gateway mapped", model: "fast", prefix: "/v1/test-account/test-gateway/openai", mapping: "slow#other, fast#gpt-5.5#openai"},
	{name: "passthrough", model: "gpt-5.5", prefix: "/api/v1", passthrough: true},
	{name: "passthrough mapped", model: "fast", prefix: "/api/v1", passthrough: true, mapping: "fast#gpt-5.5"},
}

func (s *stand) openaiClient(passthrough bool, mapping string, opts ...option.RequestOption) openai.Client {
	base := []option.RequestOption{option.WithBaseURL(s.url + "/v1"), option.WithAPIKey(gatewayToken), option.WithMaxRetries(0)}
	if passthrough {
		base = append(base, option.WithAPIKey(upstreamKey), option.WithHeader("X-APEX-AI-PROXY-PROVIDER", s.upstream.Host+"/api"))
	}
	if mapping != "" {
		base = append(base, option.WithHeader("X-APEX-AI-PROXY-MAPPING", mapping))
	}
	return openai.NewClient(append(base, opts...)...)
}

// arrivedOnce returns the body of the one request that arrived, which must be at uri.
func (s *stand) arrivedOnce(tb testing.TB, uri string) []byte {
	tb.Helper()
	arrived := s.arrived(tb)
	if len(arrived) != 1 {
		tb.Fatalf("%d requests arrived, want 1", len(arrived))
	}
	if got := arrived[0].RequestURI; got != uri {
		tb.Errorf("the request arrived at %s, want %s", got, uri)
	}
	for name := range arrived[0].Header {
		if strings.HasPrefix(name, "X-Apex-") {
			tb.Errorf("the header %s arrived", name)
		}
	}
	return arrived[0].Body
}

func TestOpenAIChat(t *testing.T) {
	t.Parallel()
	for _, mode := range openaiModes {
		for _, stream := range []bool{false, true} {
			t.Run(fmt.Sprintf("%s/stream %t", mode.name, stream), func(t *testing.T) {
				t.Parallel()
				s := newStand(t) // answers like a provider
				client := s.openaiClient(mode.passthrough, mode.mapping)
				params := openai.ChatCompletionNewParams{Model: mode.model, MaxCompletionTokens: openai.Int(64),
					Messages: []openai.ChatCompletionMessageParamUnion{openai.SystemMessage("Be brief."), openai.UserMessage("Hello, <b>.")}}
				want := `"max_completion_tokens":64,"messages":[{"role":"system","content":"Be brief."},{"role":"user","content":"Hello, <b>."}],"model":"gpt-5.5"`
				var got *openai.ChatCompletion
				var err error
				if stream {
					var acc openai.ChatCompletionAccumulator
					chunks := client.Chat.Completions.NewStreaming(t.Context(), params)
					for chunks.Next() {
						if !acc.AddChunk(chunks.Current()) {
							t.Errorf("the accumulator refuses %s", chunks.Current().RawJSON())
						}
					}
					got, err = &acc.ChatCompletion, chunks.Err()
					want += `,"stream":true`
					if !mode.passthrough {
						want += `,"stream_options":{"include_usage":true}` // for the reporter
					}
				} else {
					got, err = client.Chat.Completions.New(t.Context(), params)
				}
				if err != nil {
					t.Fatal(err)
				}
				if len(got.Choices) != 1 || got.Choices[0].Message.Content != apexproxytest.Answer || got.Choices[0].FinishReason != "stop" || got.Model != "gpt-5.5" {
					t.Errorf("the answer is %+v", got.Choices)
				}
				// The usage that the proxy asked for is not for the client.
				if has := got.Usage.PromptTokens == apexproxytest.InputTokens; has == stream {
					t.Errorf("usage %d", got.Usage.PromptTokens)
				}
				sameJSON(t, "the body that arrived", "{"+want+"}", s.arrivedOnce(t, mode.prefix+"/chat/completions"))
			})
		}
	}
}

// A client that asks for usage in a stream gets it.
func TestOpenAIStreamUsage(t *testing.T) {
	t.Parallel()
	for _, mode := range openaiModes {
		s := newStand(t)
		client := s.openaiClient(mode.passthrough, mode.mapping)
		chunks := client.Chat.Completions.NewStreaming(t.Context(), openai.ChatCompletionNewParams{Model: mode.model,
			Messages:      []openai.ChatCompletionMessageParamUnion{openai.UserMessage("Hello.")},
			StreamOptions: openai.ChatCompletionStreamOptionsParam{IncludeUsage: openai.Bool(true)}})
		var acc openai.ChatCompletionAccumulator
		for chunks.Next() {
			acc.AddChunk(chunks.Current())
		}
		if chunks.Err() != nil || acc.Usage.PromptTokens != apexproxytest.InputTokens || acc.Usage.CompletionTokens != apexproxytest.OutputTokens {
			t.Errorf("%s: usage %+v, error %v", mode.name, acc.Usage, chunks.Err())
		}
	}
}

func TestOpenAIToolLoop(t *testing.T) {
	t.Parallel()
	type toolCall struct{ ID, Name, Args string }
	for _, mode := range openaiModes {
		for _, style := range []string{"JSON", sequential, interleaved} {
			t.Run(mode.name+"/"+style, func(t *testing.T) {
				t.Parallel()
				var replies []http.Handler
				for _, turn := range session {
					if style == "JSON" {
						replies = append(replies, turn.chat())
					} else {
						replies = append(replies, turn.chatStream(style))
					}
				}
				s := newStand(t, replies...)
				client := s.openaiClient(mode.passthrough, mode.mapping)
				params := openai.ChatCompletionNewParams{Model: mode.model,
					Messages: []openai.ChatCompletionMessageParamUnion{openai.UserMessage("What is it like here?")},
					Tools: []openai.ChatCompletionToolUnionParam{openai.ChatCompletionFunctionTool(openai.FunctionDefinitionParam{
						Name: "clock", Parameters: openai.FunctionParameters{"type": "object"}})},
				}
				for i, turn := range session {
					var message openai.ChatCompletionMessage
					if style == "JSON" {
						got, err := client.Chat.Completions.New(t.Context(), params)
						if err != nil {
							t.Fatal(err)
						}
						message = got.Choices[0].Message
					} else {
						var acc openai.ChatCompletionAccumulator
						chunks := client.Chat.Completions.NewStreaming(t.Context(), params)
						for chunks.Next() {
							if !acc.AddChunk(chunks.Current()) {
								t.Fatalf("the accumulator refuses %s", chunks.Current().RawJSON())
							}
						}
						if err := chunks.Err(); err != nil {
							t.Fatal(err)
						}
						message = acc.Choices[0].Message
					}
					var got, want []toolCall
					for _, c := range message.ToolCalls {
						got = append(got, toolCall{c.ID, c.Function.Name, c.Function.Arguments})
					}
					for _, c := range turn.calls {
						want = append(want, toolCall{c.id, c.name, c.args})
					}
					if diff := cmp.Diff(want, got); diff != "" || message.Content != turn.text {
						t.Fatalf("turn %d: text %q, calls (-want +got):\n%s", i, message.Content, diff)
					}
					params.Messages = append(params.Messages, message.ToParam())
					for _, c := range turn.calls {
						params.Messages = append(params.Messages, openai.ToolMessage("result of "+c.id, c.id))
					}
				}
				sent, err := json.Marshal(params)
				if err != nil {
					t.Fatal(err)
				}
				// The client's last request is params without the last answer.
				arrived := s.arrived(t)
				var got, want struct{ Messages []any }
				if err := errors.Join(json.Unmarshal(arrived[len(arrived)-1].Body, &got), json.Unmarshal(sent, &want)); err != nil {
					t.Fatal(err)
				}
				if diff := cmp.Diff(want.Messages[:len(want.Messages)-1], got.Messages); diff != "" || len(arrived) != 3 {
					t.Errorf("%d requests; messages of the last (-want +got):\n%s", len(arrived), diff)
				}
			})
		}
	}
}

func TestOpenAIResponses(t *testing.T) {
	t.Parallel()
	for _, mode := range openaiModes {
		for _, stream := range []bool{false, true} {
			t.Run(fmt.Sprintf("%s/stream %t", mode.name, stream), func(t *testing.T) {
				t.Parallel()
				s := newStand(t)
				client := s.openaiClient(mode.passthrough, mode.mapping)
				params := responses.ResponseNewParams{Model: mode.model, Input: responses.ResponseNewParamsInputUnion{OfString: openai.String("Hello.")}}
				want, text, output := `{"model":"gpt-5.5","input":"Hello."}`, "", int64(0)
				if stream {
					want = `{"model":"gpt-5.5","input":"Hello.","stream":true}`
					events := client.Responses.NewStreaming(t.Context(), params)
					for events.Next() {
						e := events.Current()
						switch e.Type {
						case "response.output_text.delta":
							text += e.Delta
						case "response.completed":
							output = e.Response.Usage.OutputTokens
						}
					}
					if err := events.Err(); err != nil {
						t.Fatal(err)
					}
				} else {
					got, err := client.Responses.New(t.Context(), params)
					if err != nil {
						t.Fatal(err)
					}
					text, output = got.OutputText(), got.Usage.OutputTokens
				}
				if text != apexproxytest.Answer || output != apexproxytest.OutputTokens {
					t.Errorf("text %q, %d output tokens", text, output)
				}
				sameJSON(t, "the body that arrived", want, s.arrivedOnce(t, mode.prefix+"/responses"))
			})
		}
	}
}

func TestOpenAIEmbeddings(t *testing.T) {
	t.Parallel()
	for _, mode := range openaiModes {
		s := newStand(t)
		client := s.openaiClient(mode.passthrough, mode.mapping)
		got, err := client.Embeddings.New(t.Context(), openai.EmbeddingNewParams{Model: mode.model,
			Input: openai.EmbeddingNewParamsInputUnion{OfArrayOfStrings: []string{"one", "two"}}})
		if err != nil || len(got.Data) == 0 || len(got.Data[0].Embedding) == 0 {
			t.Errorf("%s: %v, %v", mode.name, got, err)
		}
		sameJSON(t, "the body that arrived", `{"model":"gpt-5.5","input":["one","two"]}`, s.arrivedOnce(t, mode.prefix+"/embeddings"))
	}
}

func TestOpenAIModels(t *testing.T) {
	t.Parallel()
	s := newStand(t)
	client := s.openaiClient(false, "")
	page, err := client.Models.List(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	type model struct {
		ID, OwnedBy string
		Created     int64
	}
	var got []model
	for _, m := range page.Data {
		got = append(got, model{m.ID, m.OwnedBy, m.Created})
	}
	want := []model{
		{"gpt-5.5#openai", "openai", 1767225600}, {"claude-opus-4.7#anthropic", "anthropic", 1767225600},
		{"gemini-3-pro#google-ai-studio", "google-ai-studio", 1767225600},
		{"@cf/meta/llama-4-scout-17b-16e-instruct#workers-ai", "workers-ai", 1767225600}, {"sonar#perplexity-ai", "perplexity-ai", 1767225600},
	}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Errorf("models (-want +got):\n%s", diff)
	}
	for _, m := range want {
		if one, err := client.Models.Get(t.Context(), m.ID); err != nil || one.ID != m.ID {
			t.Errorf("model %s: %v, %v", m.ID, one, err)
		}
	}
	_, err = client.Models.Get(t.Context(), "none#openai")
	if diff := cmp.Diff(openaiFailure{404, "not_found_error", "model_not_found", "no such model: GET …/models lists them"}, openaiFailureOf(t, err)); diff != "" {
		t.Errorf("an unknown model (-want +got):\n%s", diff)
	}

	// In passthrough the list is the upstream's.
	through := s.openaiClient(true, "")
	if page, err := through.Models.List(t.Context()); err != nil || len(page.Data) == 0 || strings.Contains(page.Data[0].ID, "#") {
		t.Errorf("passthrough: %v, %v", page, err)
	}
}

// openaiFailure is what a user sees of an error.
type openaiFailure struct {
	Status              int
	Type, Code, Message string
}

func openaiFailureOf(tb testing.TB, err error) openaiFailure {
	tb.Helper()
	var e *openai.Error
	if !errors.As(err, &e) {
		tb.Fatalf("%v is a %T, want the SDK's *Error", err, err)
	}
	return openaiFailure{e.StatusCode, e.Type, e.Code, e.Message}
}

func TestOpenAIErrors(t *testing.T) {
	t.Parallel()
	for _, tt := range []struct {
		name          string
		reply         http.Handler
		want          openaiFailure
		onPassthrough bool // the same through passthrough
	}{
		{"401", apexproxytest.ProviderError(401, "Bad key."), openaiFailure{401, "invalid_request_error", "invalid_api_key", "Bad key."}, true},
		{"404", apexproxytest.ProviderError(404, "No such model."), openaiFailure{404, "invalid_request_error", "model_not_found", "No such model."}, true},
		{"429", apexproxytest.RateLimited(), openaiFailure{429, "requests", "rate_limit_exceeded", "Rate limit reached. Please try again in 7s."}, true},
		{"500", apexproxytest.ProviderError(500, "Oops."), openaiFailure{500, "server_error", "", "Oops."}, true},
		{"gateway rate limit", apexproxytest.AiGatewayError(429, 2003, "Rate limited"), openaiFailure{429, "rate_limit_error", "2003", "Cloudflare AI Gateway: Rate limited"}, false},
		{"gateway credit", apexproxytest.AiGatewayError(402, 2021, "Insufficient credit"), openaiFailure{402, "insufficient_quota", "2021", "Cloudflare AI Gateway: Insufficient credit"}, false},
		{"gateway v4", apexproxytest.V4Error(403, 7003, "No route"), openaiFailure{403, "permission_error", "7003", "Cloudflare AI Gateway: No route"}, false},
		{"gateway policy", apexproxytest.PolicyError(400, "Blocked by policy"), openaiFailure{400, "invalid_request_error", "", "Cloudflare AI Gateway: Blocked by policy"}, false},
	} {
		for _, mode := range openaiModes {
			if mode.passthrough && !tt.onPassthrough {
				continue
			}
			for _, stream := range []bool{false, true} {
				t.Run(fmt.Sprintf("%s/%s/stream %t", tt.name, mode.name, stream), func(t *testing.T) {
					t.Parallel()
					s := newStand(t, tt.reply)
					client := s.openaiClient(mode.passthrough, mode.mapping)
					params := openai.ChatCompletionNewParams{Model: mode.model, Messages: []openai.ChatCompletionMessageParamUnion{openai.UserMessage("Hello.")}}
					var err error
					if stream {
						chunks := client.Chat.Completions.NewStreaming(t.Context(), params)
						for chunks.Next() {
							t.Errorf("a chunk: %s", chunks.Current().RawJSON())
						}
						err = chunks.Err()
					} else {
						_, err = client.Chat.Completions.New(t.Context(), params)
					}
					if diff := cmp.Diff(tt.want, openaiFailureOf(t, err)); diff != "" {
						t.Errorf("error (-want +got):\n%s", diff)
					}
				})
			}
		}
	}
}

// What the proxy refuses itself looks to the SDK like what OpenAI refuses.
func TestOpenAIRefusals(t *testing.T) {
	t.Parallel()
	s := newStand(t)
	for _, tt := range []struct {
		name, model string
		opts        []option.RequestOption
		want        openaiFailure
	}{
		{"wrong token", "gpt-5.5#openai", []option.RequestOption{option.WithAPIKey("wrong")},
			openaiFailure{401, "authentication_error", "invalid_api_key", "no valid key: present the proxy's token as Authorization: Bearer or x-api-key"}},
		{"no provider", "gpt-5.5", nil,
			openaiFailure{400, "invalid_request_error", "invalid_model", `model "gpt-5.5" names no provider: write it as name#provider`}},
		{"broken mapping", "gpt-5.5#openai", []option.RequestOption{option.WithHeader("X-APEX-AI-PROXY-MAPPING", "nonsense")},
			openaiFailure{400, "invalid_request_error", "invalid_mapping", `X-APEX-AI-PROXY-MAPPING: mapping entry "nonsense" is not from#to or from#to#provider`}},
	} {
		client := s.openaiClient(false, "", tt.opts...)
		_, err := client.Chat.Completions.New(t.Context(), openai.ChatCompletionNewParams{Model: tt.model,
			Messages: []openai.ChatCompletionMessageParamUnion{openai.UserMessage("Hello.")}})
		if diff := cmp.Diff(tt.want, openaiFailureOf(t, err)); diff != "" {
			t.Errorf("%s: error (-want +got):\n%s", tt.name, diff)
		}
	}
	if n := len(s.arrived(t)); n != 0 {
		t.Errorf("%d requests arrived, want none", n)
	}
}

// A copied stream ends as the upstream's did.
func TestOpenAIStreamErrors(t *testing.T) {
	t.Parallel()
	word := chunk(`"role":"assistant","content":"Hi"`, "null")
	for _, tt := range []struct {
		name  string
		reply http.Handler
	}{
		{"breaks off", apexproxytest.Abort(word)},
		{"error", apexproxytest.SSE(word, `data: {"error":{"message":"Busy.","type":"server_error"}}`+"\n\n")},
	} {
		for _, mode := range openaiModes {
			s := newStand(t, tt.reply)
			client := s.openaiClient(mode.passthrough, mode.mapping)
			chunks := client.Chat.Completions.NewStreaming(t.Context(), openai.ChatCompletionNewParams{Model: mode.model,
				Messages: []openai.ChatCompletionMessageParamUnion{openai.UserMessage("Hello.")}})
			var text bytes.Buffer
			for chunks.Next() {
				text.WriteString(chunks.Current().Choices[0].Delta.Content)
			}
			if chunks.Err() == nil || text.String() != "Hi" {
				t.Errorf("%s, %s: text %q, error %v", tt.name, mode.name, text.String(), chunks.Err())
			}
		}
	}
}
