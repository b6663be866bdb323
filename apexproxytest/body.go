package apexproxytest

import (
	"bytes"
	"encoding/json"
	"fmt"
	"strings"
)

// Every canonical answer reports the same usage. OpenAI's prompt_tokens count the cached tokens in,
// Anthropic's input_tokens do not: an Anthropic answer says InputTokens-CachedTokens and
// CachedTokens.
const (
	InputTokens  = 15
	CachedTokens = 4
	OutputTokens = 7
)

// The models that the canonical bodies name. [Provider] names the requested model instead.
const (
	ChatModel    = "gpt-5.5"
	MessageModel = "claude-opus-4-7"
)

// quote returns s as a JSON string. Invalid UTF-8 becomes U+FFFD.
func quote(s string) string {
	var b bytes.Buffer
	enc := json.NewEncoder(&b)
	enc.SetEscapeHTML(false)
	if err := enc.Encode(s); err != nil {
		panic(err) // a string always encodes
	}
	return strings.TrimSuffix(b.String(), "\n")
}

func data(format string, args ...any) string {
	return "data: " + fmt.Sprintf(format, args...) + "\n\n"
}

func event(name, format string, args ...any) string {
	return "event: " + name + "\n" + data(format, args...)
}

var chatUsage = fmt.Sprintf(`{"prompt_tokens":%d,"completion_tokens":%d,"total_tokens":%d,`+
	`"prompt_tokens_details":{"cached_tokens":%d,"audio_tokens":0},"completion_tokens_details":{"reasoning_tokens":0,"audio_tokens":0,"accepted_prediction_tokens":0,"rejected_prediction_tokens":0}}`,
	InputTokens, OutputTokens, InputTokens+OutputTokens, CachedTokens)

// ChatCompletion returns a chat.completion object of the OpenAI Chat Completions API whose one
// choice says text. Shape: https://platform.openai.com/docs/api-reference/chat/object.
func ChatCompletion(text string) string { return chatCompletion(ChatModel, text) }

func chatCompletion(model, text string) string {
	return fmt.Sprintf(`{"id":"chatcmpl-test","object":"chat.completion","created":1767225600,"model":%s,`+
		`"choices":[{"index":0,"message":{"role":"assistant","content":%s,"refusal":null,"annotations":[]},"logprobs":null,"finish_reason":"stop"}],`+
		`"usage":%s,"service_tier":"default","system_fingerprint":"fp_test"}`, quote(model), quote(text), chatUsage)
}

// ChatStream returns the events of a streamed chat completion: a chunk with the role, one for each
// word, one with the finish reason, and [DONE]. Join words with their own spaces.
func ChatStream(words ...string) []string { return chatStream(ChatModel, false, words) }

// ChatStreamUsage is [ChatStream] as a client gets it that sent stream_options.include_usage: every
// chunk has a null usage, and before [DONE] comes one with the usage and no choices.
func ChatStreamUsage(words ...string) []string { return chatStream(ChatModel, true, words) }

func chatStream(model string, usage bool, words []string) []string {
	null := ""
	if usage {
		null = `,"usage":null`
	}
	head := `{"id":"chatcmpl-test","object":"chat.completion.chunk","created":1767225600,"model":` + quote(model) +
		`,"service_tier":"default","system_fingerprint":"fp_test"`
	chunk := func(delta, finish string) string {
		return data(`%s,"choices":[{"index":0,"delta":%s,"logprobs":null,"finish_reason":%s}]%s}`, head, delta, finish, null)
	}
	events := []string{chunk(`{"role":"assistant","content":"","refusal":null}`, "null")}
	for _, w := range words {
		events = append(events, chunk(`{"content":`+quote(w)+`}`, "null"))
	}
	events = append(events, chunk(`{}`, `"stop"`))
	if usage {
		events = append(events, data(`%s,"choices":[],"usage":%s}`, head, chatUsage))
	}
	return append(events, "data: [DONE]\n\n")
}

func messageUsage(output int) string {
	return fmt.Sprintf(`{"input_tokens":%d,"cache_creation_input_tokens":0,"cache_read_input_tokens":%d,"output_tokens":%d,"service_tier":"standard"}`,
		InputTokens-CachedTokens, CachedTokens, output)
}

// Message returns a message object of the Anthropic Messages API whose one block says text. Shape:
// https://platform.claude.com/docs/en/api/messages.
func Message(text string) string { return message(MessageModel, text) }

func message(model, text string) string {
	return fmt.Sprintf(`{"id":"msg_test","type":"message","role":"assistant","model":%s,"content":[{"type":"text","text":%s}],`+
		`"stop_reason":"end_turn","stop_sequence":null,"usage":%s}`, quote(model), quote(text), messageUsage(OutputTokens))
}

// MessageStream returns the events of a streamed message: message_start with the input usage, one
// text block with a delta for each word, message_delta with the output usage, message_stop. A ping
// follows content_block_start, as Anthropic sends it. Shape:
// https://platform.claude.com/docs/en/build-with-claude/streaming.
func MessageStream(words ...string) []string { return messageStream(MessageModel, words) }

func messageStream(model string, words []string) []string {
	events := []string{
		event("message_start", `{"type":"message_start","message":{"id":"msg_test","type":"message","role":"assistant","model":%s,`+
			`"content":[],"stop_reason":null,"stop_sequence":null,"usage":%s}}`, quote(model), messageUsage(1)),
		event("content_block_start", `{"type":"content_block_start","index":0,"content_block":{"type":"text","text":""}}`),
		event("ping", `{"type":"ping"}`),
	}
	for _, w := range words {
		events = append(events, event("content_block_delta", `{"type":"content_block_delta","index":0,"delta":{"type":"text_delta","text":%s}}`, quote(w)))
	}
	return append(events,
		event("content_block_stop", `{"type":"content_block_stop","index":0}`),
		event("message_delta", `{"type":"message_delta","delta":{"stop_reason":"end_turn","stop_sequence":null},"usage":{"output_tokens":%d}}`, OutputTokens),
		event("message_stop", `{"type":"message_stop"}`))
}

var responseUsage = fmt.Sprintf(`{"input_tokens":%d,"input_tokens_details":{"cached_tokens":%d},"output_tokens":%d,"output_tokens_details":{"reasoning_tokens":0},"total_tokens":%d}`,
	InputTokens, CachedTokens, OutputTokens, InputTokens+OutputTokens)

// Response returns a response object of the OpenAI Responses API with one output message that says
// text. Shape: https://platform.openai.com/docs/api-reference/responses/object.
func Response(text string) string { return response(ChatModel, text) }

func response(model, text string) string {
	return responseObject(model, "completed", outputItem("completed", outputText(text)), responseUsage)
}

func responseObject(model, status, output, usage string) string {
	return fmt.Sprintf(`{"id":"resp_test","object":"response","created_at":1767225600,"status":%s,"error":null,"incomplete_details":null,`+
		`"instructions":null,"model":%s,"output":[%s],"parallel_tool_calls":true,"tool_choice":"auto","tools":[],"usage":%s,"metadata":{}}`,
		quote(status), quote(model), output, usage)
}

func outputItem(status, content string) string {
	return fmt.Sprintf(`{"id":"msg_test","type":"message","status":%s,"role":"assistant","content":[%s]}`, quote(status), content)
}

func outputText(text string) string {
	return `{"type":"output_text","text":` + quote(text) + `,"annotations":[]}`
}

// ResponseStream returns the events of a streamed response, with a delta for each word. The usage
// is in response.completed.
func ResponseStream(words ...string) []string { return responseStream(ChatModel, words) }

func responseStream(model string, words []string) []string {
	var events []string
	add := func(name, format string, args ...any) {
		events = append(events, event(name, `{"type":%s,"sequence_number":%d,%s}`, quote(name), len(events), fmt.Sprintf(format, args...)))
	}
	const part = `"item_id":"msg_test","output_index":0,"content_index":0,`
	text := strings.Join(words, "")
	add("response.created", `"response":%s`, responseObject(model, "in_progress", "", "null"))
	add("response.in_progress", `"response":%s`, responseObject(model, "in_progress", "", "null"))
	add("response.output_item.added", `"output_index":0,"item":%s`, outputItem("in_progress", ""))
	add("response.content_part.added", part+`"part":%s`, outputText(""))
	for _, w := range words {
		add("response.output_text.delta", part+`"delta":%s,"logprobs":[]`, quote(w))
	}
	add("response.output_text.done", part+`"text":%s,"logprobs":[]`, quote(text))
	add("response.content_part.done", part+`"part":%s`, outputText(text))
	add("response.output_item.done", `"output_index":0,"item":%s`, outputItem("completed", outputText(text)))
	add("response.completed", `"response":%s`, response(model, text))
	return events
}

func embeddings(model string) string {
	return fmt.Sprintf(`{"object":"list","data":[{"object":"embedding","index":0,"embedding":[0.25,-0.5,0.125]}],"model":%s,`+
		`"usage":{"prompt_tokens":%d,"total_tokens":%d}}`, quote(model), InputTokens, InputTokens)
}
