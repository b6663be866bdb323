package convert

import (
	"bytes"
	"encoding/json"
	"slices"
	"strconv"

	"github.com/loadchange/apexproxy/internal/sse"
)

// Message converts an upstream's whole answer of status 2xx into a Message. An answer that is none (an error, HTML, no
// choices) is the returned error. An event stream that came although none was asked for is collected. body is not
// retained. See section 2 of the conversion specification.
func (c *Conversion) Message(body []byte) ([]byte, *Error) {
	c.body = nil
	m := machine{c: c, whole: true, out: make([]byte, 0, len(body)+len(body)/4+512)}
	doc := trim(body)
	if looksLikeStream(doc) {
		var p sse.Parser
		p.Max = len(body) + 1
		p.Feed(body, m.payload)
		p.Close(m.payload)
		m.end()
	} else {
		m.document(doc)
	}
	if m.err != nil {
		return nil, m.err
	}
	return m.out, nil
}

func looksLikeStream(b []byte) bool {
	for _, s := range []string{"data:", "event:", "id:", "retry:", ":"} {
		if bytes.HasPrefix(b, []byte(s)) {
			return true
		}
	}
	return false
}

// document takes an answer that is one JSON document.
func (m *machine) document(doc []byte) {
	switch {
	case !json.Valid(doc):
		m.fail(badAnswer("upstream answer is not JSON"))
	case isErrorPayload(doc):
		m.fail(payloadError(doc))
	case firstElement(get(doc, "choices")) == nil:
		m.fail(badAnswer("upstream response has no choices"))
	default:
		m.chunk(doc)
		m.finish()
	}
}

// appendStop appends why the answer ended: stop_reason, stop_sequence, stop_details and container.
func (m *machine) appendStop(dst []byte) []byte {
	reason, sequence := "end_turn", ""
	refused := false
	switch fin := m.fin; {
	case m.refusal != nil || len(fin) >= 14 && fin[:14] == "content_filter":
		reason, refused = "refusal", true
	case isLength(fin):
		reason = "max_tokens"
	case m.tools > 0:
		reason = "tool_use"
	case m.matched != "" && slices.Contains(m.c.stops, m.matched):
		reason, sequence = "stop_sequence", m.matched
	}
	dst = append(dst, `"stop_reason":"`...)
	dst = append(dst, reason...)
	dst = append(dst, `","stop_sequence":`...)
	if sequence != "" {
		dst = appendString(dst, sequence)
	} else {
		dst = append(dst, "null"...)
	}
	dst = append(dst, `,"stop_details":`...)
	switch {
	case !refused:
		dst = append(dst, "null"...)
	case m.refusal == nil:
		dst = append(dst, `{"type":"refusal","category":null,"explanation":null}`...)
	default:
		dst = append(dst, `{"type":"refusal","category":null,"explanation":"`...)
		dst = append(dst, m.refusal...)
		dst = append(dst, `"}`...)
	}
	return append(dst, `,"container":null`...)
}

func isLength(fin string) bool {
	return fin == "length" || fin == "max_tokens" || fin == "model_length"
}

// finishError returns the error that a finish reason stands for, if it does.
func finishError(fin []byte) *Error {
	switch string(fin) {
	case "error", "abort":
		return badAnswer("upstream ended the answer with an error")
	case "insufficient_system_resource":
		return &Error{Status: 529, Type: "overloaded_error", Message: "upstream ended the answer for lack of resources"}
	}
	return nil
}

// counts are the numbers of a usage object, in Anthropic's way: the three kinds of input are disjoint.
type counts struct{ input, written, read, output, thinking int64 }

// countUsage reads a Chat usage object; none at all is all zero.
func countUsage(raw []byte, reasoningExtra bool) counts {
	var prompt, completion, total, cached, cacheRead, hits, written, created int64
	var n counts
	r := reader{b: raw}
	if r.enter('{') {
		for r.more('}') {
			switch k, v := r.key(), r.value(); string(k) {
			case "prompt_tokens":
				prompt = number(v)
			case "completion_tokens":
				completion = number(v)
			case "total_tokens":
				total = number(v)
			case "cache_read_input_tokens":
				cacheRead = number(v)
			case "prompt_cache_hit_tokens":
				hits = number(v)
			case "cache_creation_input_tokens":
				created = number(v)
			case "prompt_tokens_details":
				cached = number(get(v, "cached_tokens"))
				if written = number(get(v, "cache_write_tokens")); written == 0 {
					written = number(get(v, "cache_creation_tokens"))
				}
			case "completion_tokens_details":
				n.thinking = number(get(v, "reasoning_tokens"))
			}
		}
	}
	n.read, n.written, n.output = firstOf(cached, cacheRead, hits), firstOf(written, created), completion
	n.input = max(max(prompt-n.read, 0)-n.written, 0)
	if reasoningExtra {
		n.output = max(n.output, total-prompt)
	}
	return n
}

func firstOf(ns ...int64) int64 {
	for _, n := range ns {
		if n != 0 {
			return n
		}
	}
	return 0
}

// appendUsage appends the member usage. At the start of a stream nothing was put out yet.
func (m *machine) appendUsage(dst []byte, start bool) []byte {
	n := countUsage(m.usage, m.c.profile.ReasoningExtra)
	if start {
		n.output, n.thinking = 0, 0
		if m.usage == nil {
			n.input = int64(m.c.estimate)
		}
	}
	dst = append(dst, `"usage":{"input_tokens":`...)
	dst = strconv.AppendInt(dst, n.input, 10)
	dst = append(dst, `,"cache_creation_input_tokens":`...)
	dst = strconv.AppendInt(dst, n.written, 10)
	dst = append(dst, `,"cache_read_input_tokens":`...)
	dst = strconv.AppendInt(dst, n.read, 10)
	dst = append(dst, `,"output_tokens":`...)
	dst = strconv.AppendInt(dst, n.output, 10)
	if n.thinking > 0 {
		dst = append(dst, `,"output_tokens_details":{"thinking_tokens":`...)
		dst = strconv.AppendInt(dst, n.thinking, 10)
		dst = append(dst, '}')
	}
	if m.tier != "" {
		dst = append(dst, `,"service_tier":"`...)
		dst = append(dst, m.tier...)
		dst = append(dst, '"')
	}
	return append(dst, '}')
}
