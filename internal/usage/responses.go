package usage

import (
	"bytes"

	"github.com/loadchange/apexproxy/internal/sse"
)

var (
	responseName = []byte(`"response"`)
	deltaSuffix  = []byte(".delta")
)

// https://platform.openai.com/docs/api-reference/responses-streaming
func (r *Reader) responsesEvent(e sse.Event) {
	failed := string(e.Type) == "error"
	if bytes.HasSuffix(e.Type, deltaSuffix) ||
		!failed && !bytes.Contains(e.Data, responseName) && !bytes.Contains(e.Data, errorWord) {
		r.dull = true
		return
	}
	d, ok := r.typed(e)
	if !ok {
		return
	}
	response := within(d.response)
	r.take(&response)
	switch string(d.typ.Decode()) {
	case "response.completed", "response.incomplete", "response.failed":
		r.sum.Done = true
	}
}

// response takes a response object, finished or not.
func (r *Reader) response(d *doc) {
	switch string(d.status.Decode()) {
	case "incomplete":
		set(&r.sum.FinishReason, d.status)
		set(&r.sum.FinishReason, d.incomplete.Get("reason"))
	case "failed":
		r.fail(d)
		fallthrough
	case "completed", "cancelled":
		set(&r.sum.FinishReason, d.status)
	}
	usage := d.usage
	in, hasIn := count(usage.Get("input_tokens"))
	out, hasOut := count(usage.Get("output_tokens"))
	if hasIn || hasOut {
		r.said = true
		r.usage = Usage{
			Input:      in,
			Output:     out,
			CacheRead:  first(usage.Get("input_tokens_details", "cached_tokens")),
			CacheWrite: first(usage.Get("input_tokens_details", "cache_write_tokens")),
			Reasoning:  first(usage.Get("output_tokens_details", "reasoning_tokens")),
		}
	}
}
