// Package usage reads from a copy of an upstream's answer what the answer says of itself: tokens used, finish reason,
// model, id, and whether it failed.
//
// Only what the upstream said is told. Bytes that are not what their dialect promises say nothing; they never fail.
package usage

import (
	"bytes"
	"strings"

	"github.com/tidwall/gjson"

	"github.com/loadchange/apexproxy/internal/body"
	"github.com/loadchange/apexproxy/internal/sse"
)

// Dialect names the shape of an answer. The zero value is None, of which nothing is read.
type Dialect uint8

// The dialects, each after its public API reference.
const (
	None       Dialect = iota
	Chat               // OpenAI Chat Completions and the many that follow it
	Responses          // OpenAI Responses
	Messages           // Anthropic Messages
	Embeddings         // OpenAI Embeddings
)

// Usage counts tokens as the OpenTelemetry GenAI conventions do (registry/attributes/gen-ai, notes on
// gen_ai.usage.input_tokens, .cache_read.input_tokens and .cache_creation.input_tokens): Input "SHOULD include all
// types of input tokens, including cached tokens". CacheRead and CacheWrite are parts of Input, and Reasoning is a part
// of Output: adding them to it counts them twice.
type Usage struct{ Input, Output, CacheRead, CacheWrite, Reasoning int64 }

// Summary is what an answer has said of itself so far. Strings are as the upstream spelled them, empty if it did not
// say or said more than 256 bytes.
type Summary struct {
	// Usage is nil if the upstream named no number. When a stream stops early it holds the numbers named until then.
	Usage *Usage
	// FinishReason is the first choice's finish_reason, the stop_reason, or the response's final status, in whose place
	// stands the reason when it is "incomplete".
	FinishReason string
	Model        string
	ID           string
	// Failed is set by an error in the answer: an "error" event or object, or a response whose status is "failed".
	Failed bool
	// ErrorType is the type, else the code, of that error: at most 64 of the characters A-Z a-z 0-9 _ . - and empty
	// otherwise, so that nothing a client wrote is in it.
	ErrorType string
	// Done says the answer came to its own end: [DONE], message_stop, response.completed, .incomplete or .failed in a
	// stream; else a whole JSON object.
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
	dialect  Dialect
	stream   bool
	over     bool // the JSON body is larger than maxHeld
	said     bool // a number was named
	events   sse.Parser
	body     []byte
	sum      Summary // without Usage
	usage    Usage
	uncached int64 // Messages: input tokens that the cache had no part in
}

// NewReader returns a Reader for an answer in dialect d. stream says that the answer is an event stream; otherwise it
// is one JSON text, of which up to 4 MiB are held: of a longer one nothing is told.
func NewReader(d Dialect, stream bool) *Reader {
	return &Reader{dialect: d, stream: stream, events: sse.Parser{Max: maxHeld}}
}

// Feed reads b, the next bytes of the answer's content (inflated, if it was compressed), cut anywhere. It does not keep
// b. In a stream it allocates nothing for an event that holds only a piece of the output.
func (r *Reader) Feed(b []byte) {
	switch {
	case r.dialect == None:
	case r.stream:
		r.events.Feed(b, r.event)
	case r.over:
	case len(r.body)+len(b) > maxHeld:
		r.over, r.body = true, nil
	default:
		r.body = append(r.body, b...)
	}
}

// Summary returns what was said until now, as if the answer ended here: an event without its blank line counts if its
// data is whole. It may be called at any time, and Feed afterwards.
func (r *Reader) Summary() Summary {
	c := *r
	if c.stream {
		c.events.Close(c.event)
	} else if doc, ok := object(c.body); ok {
		c.sum.Done = true
		c.failure(doc)
		switch c.dialect {
		case Chat, Embeddings:
			c.chat(doc)
		case Responses:
			c.response(doc)
		case Messages:
			c.message(doc)
		}
	}
	if c.said {
		u := c.usage
		if c.dialect == Messages {
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
	switch r.dialect {
	case Chat, Embeddings:
		r.chatEvent(e)
	case Responses:
		r.responsesEvent(e)
	case Messages:
		r.messagesEvent(e)
	}
}

var errorWord = []byte(`"error"`) // as a name, or as the type of an event

// says reports whether b may hold a member with one of these names, given in their quotes, and a value other than null.
// It keeps ordinary chunks, which say "usage":null and "finish_reason":null, from the JSON parser. Text that a model
// wrote cannot match, its quotes being escaped; if it could, it would cause a look for nothing. Hopping from colon to
// colon finds all names in one pass, in a third of the time that bytes.Contains takes for three.
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

// doc holds the members of an object. gjson reads an object anew for every path it is asked; several are asked for here,
// and the longest member of an answer, its text, would be read over each time.
type doc []struct{ name, raw string }

// object parses b if it is wholly a JSON object.
func object(b []byte) (doc, bool) {
	if shape, err := body.Scan(b); err != nil || !shape.Object {
		return nil, false
	}
	return members(gjson.ParseBytes(b)), true
}

func members(v gjson.Result) doc {
	d := make(doc, 0, 12)
	if v.IsObject() {
		v.ForEach(func(k, v gjson.Result) bool {
			d = append(d, struct{ name, raw string }{k.Str, v.Raw})
			return true
		})
	}
	return d
}

// Get returns the value at a path of names with dots between them.
func (d doc) Get(path string) gjson.Result {
	name, rest, nested := strings.Cut(path, ".")
	for _, m := range d {
		if m.name == name {
			v := gjson.Parse(m.raw)
			if nested {
				v = v.Get(rest)
			}
			return v
		}
	}
	return gjson.Result{}
}

// typed parses an event that names its type in its data, and notes the error that it may be or hold.
func (r *Reader) typed(e sse.Event) (d doc, typ string, ok bool) {
	d, ok = object(e.Data)
	typ = d.Get("type").Str
	if string(e.Type) == "error" || typ == "error" {
		r.fail(d)
	}
	if ok {
		r.failure(d)
	}
	return d, typ, ok
}

// failure notes the doc's error object, if it has one.
func (r *Reader) failure(doc doc) {
	if e := doc.Get("error"); e.IsObject() || e.Type == gjson.String && e.Str != "" {
		r.fail(doc)
	}
}

// fail notes that the answer failed. doc is the event or the object that says so.
func (r *Reader) fail(doc doc) {
	r.sum.Failed = true
	for _, path := range []string{"error.type", "error.code", "type", "code"} {
		v := doc.Get(path)
		if v.Type != gjson.String && v.Type != gjson.Number {
			continue
		}
		if s := v.String(); s != "error" && plain(s) { // the type of an error event is "error": that is no news
			r.sum.ErrorType = strings.Clone(s)
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

// set sets *s to v if v is a string that says something. It copies: v is a part of the whole event.
func set(s *string, v gjson.Result) {
	if v.Type == gjson.String && v.Str != "" && len(v.Str) <= maxText {
		*s = strings.Clone(v.Str)
	}
}

// name takes the id and model of doc, if they were not known.
func (r *Reader) name(doc doc) {
	if r.sum.ID == "" {
		set(&r.sum.ID, doc.Get("id"))
	}
	if r.sum.Model == "" {
		set(&r.sum.Model, doc.Get("model"))
	}
}

// count returns v as a number of tokens, and whether it is one. Fractions are cut off; beyond 2⁵³ a JSON number is not
// exact and counts nothing.
func count(v gjson.Result) (int64, bool) {
	if v.Type != gjson.Number || !(v.Num >= 0 && v.Num <= 1<<53) {
		return 0, false
	}
	return int64(v.Num), true
}

// first returns the first count other than zero that u holds at one of the paths, or zero.
func first(u gjson.Result, paths ...string) int64 {
	for _, p := range paths {
		if n, _ := count(u.Get(p)); n > 0 {
			return n
		}
	}
	return 0
}
