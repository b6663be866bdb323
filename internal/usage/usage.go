// Package usage reads from a copy of an upstream's answer what the answer says of itself: tokens
// used, finish reason, model, id, and whether it failed.
//
// Only what the upstream said is told. Bytes that are not what their protocol promises say nothing;
// they never fail.
package usage

import (
	"bytes"
	"strconv"
	"sync"

	"github.com/loadchange/apexproxy/internal/protocol"
	"github.com/loadchange/apexproxy/internal/rawjson"
	"github.com/loadchange/apexproxy/internal/sse"
)

// Usage counts tokens as the OpenTelemetry GenAI conventions do (registry/attributes/gen-ai, notes
// on gen_ai.usage.input_tokens, .cache_read.input_tokens and .cache_creation.input_tokens): Input
// "SHOULD include all types of input tokens, including cached tokens". CacheRead and CacheWrite are
// parts of Input, and Reasoning is a part of Output: adding them to it counts them twice.
type Usage struct{ Input, Output, CacheRead, CacheWrite, Reasoning int64 }

// Summary is what an answer has said of itself so far. Strings are as the upstream spelled them,
// empty if it did not say or said more than 256 bytes.
type Summary struct {
	// Usage is nil if the upstream named no number. When a stream stops early it holds the numbers
	// named until then.
	Usage *Usage
	// FinishReason is the first choice's finish_reason, the stop_reason, or the response's final
	// status, in whose place stands the reason when it is "incomplete".
	FinishReason string
	Model        string
	ID           string
	// Failed is set by an error in the answer: an "error" event or object, or a response whose
	// status is "failed".
	Failed bool
	// ErrorType is the type, else the code, of that error: at most 64 of the characters A-Z a-z 0-9
	// _ . - and empty otherwise, so that nothing a client wrote is in it.
	ErrorType string
	// Done says the answer came to its own end: [DONE], message_stop, response.completed,
	// .incomplete or .failed in a stream; else a whole JSON object.
	Done bool
}

const (
	// maxHeld bounds a JSON body, or one event of a stream. Larger ones are passed over.
	maxHeld = 4 << 20
	maxText = 256
	maxType = 64
)

// Reader reads one answer. Make one with [NewReader]. It is not safe for concurrent use.
type Reader struct {
	// ReasoningExtra says that completion_tokens leaves the reasoning tokens out, see [OfChat].
	ReasoningExtra bool

	protocol protocol.Protocol
	stream   bool
	over     bool // the JSON body is larger than maxHeld
	said     bool // a number was named
	events   sse.Parser
	body     []byte
	sum      Summary // without Usage
	usage    Usage
	uncached int64 // Messages: input tokens that the cache had no part in
	dull     bool  // the event at hand said nothing
	alike    alike
}

// NewReader returns a Reader for an answer in protocol p. stream says that the answer is an event
// stream; otherwise it is one JSON text, of which up to 4 MiB are held: of a longer one nothing is
// told.
func NewReader(p protocol.Protocol, stream bool) *Reader {
	return &Reader{protocol: p, stream: stream, events: sse.Parser{Max: maxHeld}}
}

// Feed reads b, the next bytes of the answer's content (inflated, if it was compressed), cut
// anywhere. It does not keep b. In a stream it allocates nothing for an event that holds only a
// piece of the output.
func (r *Reader) Feed(b []byte) {
	switch {
	case r.protocol == protocol.None:
	case r.stream:
		r.feedEvents(b)
	case r.over:
	case len(r.body)+len(b) > maxHeld:
		r.over, r.body = true, nil
	default:
		if r.body == nil {
			r.body = (*bodies.Get().(*[]byte))[:0]
		}
		r.body = append(r.body, b...)
	}
}

// bodies holds memory for JSON bodies; one that had to grow far beyond it is left to the collector.
var bodies = sync.Pool{New: func() any { b := make([]byte, 0, 16<<10); return &b }}

// Close gives back what r holds. Nothing may be asked of it afterwards.
func (r *Reader) Close() {
	if b := r.body; b != nil && cap(b) <= 64<<10 {
		bodies.Put(&b)
	}
	r.over, r.body = true, nil
}

// Summary returns what was said until now, as if the answer ended here: an event without its blank
// line counts if its data is whole. It may be called at any time, and Feed afterwards.
func (r *Reader) Summary() Summary {
	c := *r
	if c.stream {
		c.events.Close(c.event)
	} else if doc, ok := read(c.body); ok {
		c.sum.Done = true
		if isError(doc.err) {
			c.fail(&doc)
		}
		c.take(&doc)
	}
	if c.said {
		u := c.usage
		if c.protocol == protocol.Messages {
			u.Input = c.uncached + u.CacheRead + u.CacheWrite
		}
		c.sum.Usage = &u
	}
	return c.sum
}

func (r *Reader) event(e sse.Event) {
	if r.sum.Done {
		return
	}
	switch r.protocol {
	case protocol.Chat, protocol.Embeddings:
		r.chatEvent(e)
	case protocol.Responses:
		r.responsesEvent(e)
	case protocol.Messages:
		r.messagesEvent(e)
	}
}

var errorWord = []byte(`"error"`) // as a name, or as the type of an event

// says reports whether b may hold a member with one of these names, given in their quotes, and a
// value other than null. It keeps ordinary chunks, which say "usage":null and "finish_reason":null,
// from the JSON parser. Text that a model wrote cannot match, its quotes being escaped; if it
// could, it would cause a look for nothing. Hopping from colon to colon finds all names in one
// pass, in a third of the time that bytes.Contains takes for three.
func says(b []byte, names [][]byte) bool {
	for at := 0; ; {
		i := bytes.IndexByte(b[at:], ':')
		if i < 0 {
			return false
		}
		name := b[:at+i]
		at += i + 1
		for len(name) > 0 && name[len(name)-1] <= ' ' {
			name = name[:len(name)-1]
		}
		for _, n := range names {
			// The last letter tells most names apart, without a call.
			if len(name) >= len(n) && name[len(name)-2] == n[len(n)-2] && bytes.HasSuffix(name, n) && !startsNull(b[at:]) {
				return true
			}
		}
	}
}

func startsNull(b []byte) bool {
	for len(b) > 0 && b[0] <= ' ' {
		b = b[1:]
	}
	return len(b) >= 4 && string(b[:4]) == "null"
}

// doc holds the members that any of the protocols has at the top of an answer, or of an event.
type doc struct {
	id, model, usage, err, typ, code rawjson.Value
	choices, groq                    rawjson.Value // Chat
	message, delta, stopReason       rawjson.Value // Messages
	response, status, incomplete     rawjson.Value // Responses
}

// read reads b in one pass, and reports whether it has the structure of one JSON object: what an
// answer's texts hold inside of them says nothing here.
func read(b []byte) (d doc, ok bool) {
	b = rawjson.Trim(b)
	err := rawjson.ScanStructure(b, func(name, value rawjson.Span) {
		d.set(rawjson.Value(b[name.Start:name.End]).Decode(), b[value.Start:value.End])
	})
	if err != nil || !rawjson.Value(b).IsObject() {
		return doc{}, false
	}
	return d, true
}

// within reads an object inside of one that was read.
func within(v rawjson.Value) (d doc) {
	for name, v := range v.Members() {
		d.set(name, v)
	}
	return d
}

func (d *doc) set(name []byte, v rawjson.Value) {
	switch string(name) {
	case "id":
		d.id = v
	case "model":
		d.model = v
	case "usage":
		d.usage = v
	case "error":
		d.err = v
	case "type":
		d.typ = v
	case "code":
		d.code = v
	case "choices":
		d.choices = v
	case "x_groq":
		d.groq = v
	case "message":
		d.message = v
	case "delta":
		d.delta = v
	case "stop_reason":
		d.stopReason = v
	case "response":
		d.response = v
	case "status":
		d.status = v
	case "incomplete_details":
		d.incomplete = v
	}
}

// take takes a whole answer, or what a chunk has of one.
func (r *Reader) take(d *doc) {
	if r.sum.ID == "" {
		set(&r.sum.ID, d.id)
	}
	if r.sum.Model == "" {
		set(&r.sum.Model, d.model)
	}
	switch r.protocol {
	case protocol.Chat, protocol.Embeddings:
		r.chat(d)
	case protocol.Responses:
		r.response(d)
	case protocol.Messages:
		set(&r.sum.FinishReason, d.stopReason)
		r.messagesUsage(d.usage)
	}
}

// typed reads an event that names its type in its data, and notes the error that it may be or hold.
func (r *Reader) typed(e sse.Event) (d doc, ok bool) {
	d, ok = read(e.Data)
	if string(e.Type) == "error" || d.typ.Is("error") || isError(d.err) {
		r.fail(&d)
	}
	return d, ok
}

// isError reports whether the value of a member "error" says that there is one.
func isError(e rawjson.Value) bool { return e.IsObject() || len(e.Text()) > 0 }

// fail notes that the answer failed. d is the event or the object that says so.
func (r *Reader) fail(d *doc) {
	r.sum.Failed = true
	for _, v := range [...]rawjson.Value{d.err.Get("type"), d.err.Get("code"), d.typ, d.code} {
		word := string(v)
		if v.IsString() {
			word = string(v.Decode())
		}
		// The type of an error event is "error", which is no news.
		if (v.IsString() || v.IsNumber()) && word != "error" && plain(word) {
			r.sum.ErrorType = word
			return
		}
	}
}

func plain(s string) bool {
	if s == "" || len(s) > maxType {
		return false
	}
	for _, c := range []byte(s) {
		switch {
		case c >= 'a' && c <= 'z', c >= 'A' && c <= 'Z', c >= '0' && c <= '9', c == '_', c == '.', c == '-':
		default:
			return false
		}
	}
	return true
}

// set sets *s to v if v is a string that says something of bounded length.
func set(s *string, v rawjson.Value) {
	if t := v.Decode(); len(t) > 0 && len(t) <= maxText {
		*s = string(t)
	}
}

// count returns v as a number of tokens, and whether it is one. Fractions are cut off; beyond 2⁵³ a
// JSON number is not exact and counts nothing.
func count(v rawjson.Value) (int64, bool) {
	const most = 1 << 53
	if n, ok := v.Integer(); ok {
		return n, n <= most
	}
	if !v.IsNumber() {
		return 0, false
	}
	f, err := strconv.ParseFloat(string(v), 64)
	if err != nil || !(f >= 0 && f <= most) {
		return 0, false
	}
	return int64(f), true
}

// first returns the first of these counts other than zero, or zero.
func first(values ...rawjson.Value) int64 {
	for _, v := range values {
		if n, ok := count(v); ok && n > 0 {
			return n
		}
	}
	return 0
}
