package usage

import (
	"bytes"

	"github.com/loadchange/apexproxy/internal/rawjson"
	"github.com/loadchange/apexproxy/internal/sse"
)

var (
	messagePrefix = []byte(`"message_`)
	blockPrefix   = []byte("content_block_")
)

// https://platform.claude.com/docs/en/build-with-claude/streaming
func (r *Reader) messagesEvent(e sse.Event) {
	failed := string(e.Type) == "error"
	if bytes.HasPrefix(e.Type, blockPrefix) ||
		!failed && !bytes.Contains(e.Data, messagePrefix) && !bytes.Contains(e.Data, errorWord) {
		r.dull = true
		return
	}
	d, ok := r.typed(e)
	if !ok {
		return
	}
	switch string(d.typ.Decode()) {
	case "message_start":
		start := within(d.message)
		r.take(&start)
	case "message_delta":
		set(&r.sum.FinishReason, d.delta.Get("stop_reason"))
		r.messagesUsage(d.usage)
	case "message_stop":
		r.sum.Done = true
	}
}

// messagesUsage takes a usage object. In a stream there are several, each with the counts so far: a
// later one holds, member by member, because it may name the output alone. Some servers do not know
// the input when they start and some have forgotten it when they end, so three zeros for it never
// replace a number.
func (r *Reader) messagesUsage(u rawjson.Value) {
	in, hasIn := count(u.Get("input_tokens"))
	read, hasRead := count(u.Get("cache_read_input_tokens"))
	write, hasWrite := count(u.Get("cache_creation_input_tokens"))
	out, hasOut := count(u.Get("output_tokens"))
	r.said = r.said || hasIn || hasRead || hasWrite || hasOut
	if in+read+write > 0 {
		if hasIn {
			r.uncached = in
		}
		if hasRead {
			r.usage.CacheRead = read
		}
		if hasWrite {
			r.usage.CacheWrite = write
		}
	}
	if hasOut {
		r.usage.Output = out
	}
	if n := first(u.Get("output_tokens_details", "thinking_tokens")); n > 0 {
		r.usage.Reasoning = n
	}
}
