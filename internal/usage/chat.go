package usage

import (
	"bytes"

	"github.com/tidwall/gjson"

	"github.com/loadchange/apexproxy/internal/sse"
)

var (
	chatNames  = [][]byte{[]byte(`"usage"`), []byte(`"finish_reason"`), []byte(`"error"`)}
	firstNames = append([][]byte{[]byte(`"model"`)}, chatNames...)
)

// https://platform.openai.com/docs/api-reference/chat-streaming
func (r *Reader) chatEvent(e sse.Event) {
	if string(bytes.TrimSpace(e.Data)) == "[DONE]" {
		r.sum.Done = true
		return
	}
	failed := string(e.Type) == "error"
	names := chatNames
	if r.sum.Model == "" {
		names = firstNames
	}
	if !failed && !says(e.Data, names) {
		return
	}
	doc, ok := object(e.Data)
	if failed {
		r.fail(doc)
	}
	if ok {
		r.failure(doc)
		r.chat(doc)
	}
}

// chat takes a chunk, or a whole completion. Usage comes in the last chunk, in one with choices, or grown a little in
// each; the last one named holds. Groq puts it into x_groq, and some models into their choice.
func (r *Reader) chat(doc doc) {
	r.name(doc)
	var choice gjson.Result
	doc.Get("choices").ForEach(func(_, c gjson.Result) bool {
		if c.Get("index").Num != 0 {
			return true
		}
		choice = c
		return false
	})
	set(&r.sum.FinishReason, choice.Get("finish_reason"))
	if !r.chatUsage(doc.Get("usage")) && !r.chatUsage(choice.Get("usage")) {
		r.chatUsage(doc.Get("x_groq.usage"))
	}
}

// chatUsage takes a usage object that counts in prompt_tokens and completion_tokens, and reports whether it was one.
func (r *Reader) chatUsage(u gjson.Result) bool {
	in, hasIn := count(u.Get("prompt_tokens"))
	out, hasOut := count(u.Get("completion_tokens"))
	if !hasIn && !hasOut {
		return false
	}
	n := Usage{
		Input:  in,
		Output: out,
		// OpenAI; Anthropic's names kept by translating gateways; DeepSeek; Moonshot. prompt_tokens includes them all.
		CacheRead:  first(u, "prompt_tokens_details.cached_tokens", "cache_read_input_tokens", "prompt_cache_hit_tokens", "cached_tokens"),
		CacheWrite: first(u, "prompt_tokens_details.cache_write_tokens", "prompt_tokens_details.cache_creation_tokens", "cache_creation_input_tokens"),
		Reasoning:  first(u, "completion_tokens_details.reasoning_tokens"),
	}
	// xAI and Google leave reasoning out of completion_tokens, and it shows in the total. Where the cache is in play
	// another explanation is possible, so there the difference must be the reasoning exactly.
	if total, ok := count(u.Get("total_tokens")); ok && hasIn {
		more := total - in - out
		if more > 0 && (more == n.Reasoning || n.CacheRead+n.CacheWrite == 0) {
			n.Output += more
		}
	}
	r.usage, r.said = n, true
	return true
}
