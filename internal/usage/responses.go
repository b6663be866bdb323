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
		return
	}
	doc, typ, ok := r.typed(e)
	if !ok {
		return
	}
	r.response(members(doc.Get("response")))
	switch typ {
	case "response.completed", "response.incomplete", "response.failed":
		r.sum.Done = true
	}
}

// response takes a response object, finished or not.
func (r *Reader) response(doc doc) {
	r.name(doc)
	switch status := doc.Get("status"); status.Str {
	case "incomplete":
		set(&r.sum.FinishReason, status)
		set(&r.sum.FinishReason, doc.Get("incomplete_details.reason"))
	case "failed":
		r.fail(doc)
		fallthrough
	case "completed", "cancelled":
		set(&r.sum.FinishReason, status)
	}
	u := doc.Get("usage")
	in, hasIn := count(u.Get("input_tokens"))
	out, hasOut := count(u.Get("output_tokens"))
	if hasIn || hasOut {
		r.said = true
		r.usage = Usage{
			Input:      in,
			Output:     out,
			CacheRead:  first(u, "input_tokens_details.cached_tokens"),
			CacheWrite: first(u, "input_tokens_details.cache_write_tokens"),
			Reasoning:  first(u, "output_tokens_details.reasoning_tokens"),
		}
	}
}
