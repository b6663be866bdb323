package usage

import (
	"bytes"

	"github.com/loadchange/apexproxy/internal/rawjson"
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
	r.response(doc.Get("response"))
	switch typ {
	case "response.completed", "response.incomplete", "response.failed":
		r.sum.Done = true
	}
}

// response takes a response object, finished or not.
func (r *Reader) response(doc rawjson.Value) {
	var status, usage, details rawjson.Value
	for name, v := range doc.Members() {
		switch string(name) {
		case "id":
			setOnce(&r.sum.ID, v)
		case "model":
			setOnce(&r.sum.Model, v)
		case "status":
			status = v
		case "incomplete_details":
			details = v
		case "usage":
			usage = v
		}
	}
	switch string(status.Decode()) {
	case "incomplete":
		set(&r.sum.FinishReason, status)
		set(&r.sum.FinishReason, details.Get("reason"))
	case "failed":
		r.fail(doc)
		fallthrough
	case "completed", "cancelled":
		set(&r.sum.FinishReason, status)
	}
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
