package usage

import (
	"bytes"

	"github.com/loadchange/apexproxy/internal/rawjson"
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
		r.dull = true
		return
	}
	d, _ := read(e.Data)
	if failed || isError(d.err) {
		r.fail(&d)
	}
	r.take(&d)
}

// chat takes a chunk, or a whole completion. Usage comes in the last chunk, in one with choices, or
// grown a little in each; the last one named holds. Groq puts it into x_groq, and some models into
// their choice.
func (r *Reader) chat(d *doc) {
	finish, usage := firstChoice(d.choices)
	set(&r.sum.FinishReason, finish)
	for _, u := range [...]rawjson.Value{d.usage, usage, d.groq.Get("usage")} {
		if n, ok := OfChat(u, r.ReasoningExtra); ok {
			r.usage, r.said = n, true
			return
		}
	}
}

// firstChoice reads the element of index 0, which one without an index has.
func firstChoice(choices rawjson.Value) (finish, usage rawjson.Value) {
	r := rawjson.Reader{Doc: choices}
	for range r.Elements() {
		var index rawjson.Value
		finish, usage = nil, nil
		for name := range r.Members() {
			switch string(name) {
			case "index":
				index = r.Value()
			case "finish_reason":
				finish = r.Value()
			case "usage":
				usage = r.Value()
			}
		}
		if index.IsNull() || index.Count() == 0 {
			return finish, usage
		}
	}
	return nil, nil
}

// OfChat reads a usage object that counts in prompt_tokens and completion_tokens, and reports
// whether it is one. reasoningExtra says that completion_tokens leaves the reasoning tokens out, as
// at Google and xAI: there the output is the total less the prompt when that is more.
func OfChat(u rawjson.Value, reasoningExtra bool) (Usage, bool) {
	var prompt, completion, total, prompts, completions rawjson.Value // the last two: details
	var cached, hits, read, created rawjson.Value
	for name, v := range u.Members() {
		switch string(name) {
		case "prompt_tokens":
			prompt = v
		case "completion_tokens":
			completion = v
		case "total_tokens":
			total = v
		case "prompt_tokens_details":
			prompts = v
		case "completion_tokens_details":
			completions = v
		case "cache_read_input_tokens": // Anthropic's name, kept by translating gateways
			read = v
		case "prompt_cache_hit_tokens": // DeepSeek
			hits = v
		case "cached_tokens": // Moonshot
			cached = v
		case "cache_creation_input_tokens": // translating gateways
			created = v
		}
	}
	in, hasIn := count(prompt)
	out, hasOut := count(completion)
	if !hasIn && !hasOut {
		return Usage{}, false
	}
	n := Usage{Input: in, Output: out} // prompt_tokens includes the cached ones of all kinds
	n.CacheRead = first(prompts.Get("cached_tokens"), read, hits, cached)
	n.CacheWrite = first(prompts.Get("cache_write_tokens"), prompts.Get("cache_creation_tokens"), created, prompts.Get("created_cache_tokens"))
	n.Reasoning = first(completions.Get("reasoning_tokens"))
	if all, ok := count(total); ok && hasIn && reasoningExtra {
		n.Output = max(n.Output, all-in)
	}
	return n, true
}
