package convert

import (
	"crypto/rand"
	"crypto/sha256"
	"encoding/hex"
	"slices"
	"strconv"
	"strings"
	"unicode/utf8"
)

// Params say where a converted request goes.
type Params struct {
	// Provider is the routed provider, for example "google-ai-studio". Empty means unknown; see [ProfileFor].
	Provider string
	// Model goes into the request's "model" as it is.
	Model string
	// ClientModel is the model as the client wrote it, and stands in the answers. Empty means Model.
	ClientModel string
	// Profile replaces what ProfileFor says. Nil means the table. It is copied.
	Profile *Profile
	// MaxTokens bounds the client's max_tokens. Zero or less means no bound.
	MaxTokens int
	// EstimateInput puts an estimate of the input tokens (see [CountTokens]) into the start of a stream, where most
	// upstreams have not said them yet and clients show them. The end of the stream has the upstream's number.
	EstimateInput bool
	// Strict makes a 400 of every loss that Dropped would name.
	Strict bool
}

// Conversion is one exchange of a client that speaks Messages with an upstream that speaks Chat Completions: the
// converted request, and what is needed of it to convert the answer. It holds nothing of the request's texts other than
// the stop sequences. Its methods must not be called concurrently; the Events of one Conversion count as calls.
type Conversion struct {
	body     []byte
	stream   bool
	profile  Profile
	model    []byte // the client's, as a JSON string
	thinking bool   // was asked for
	omitted  bool   // but is not to be shown
	stops    []string
	names    []rename
	estimate int // of the input tokens, for the start of a stream; 0 when not asked for
	dropped  []string
	id       func() string // letters and digits, another each time
}

// rename is a tool whose name had to be changed. Both are as inside a JSON string.
type rename struct{ upstream, client string }

// Body returns the Chat Completions request, the caller's to keep. When an answer is converted the Conversion lets go
// of it, so that a stream does not hold it to its end; from then on Body returns nil.
func (c *Conversion) Body() []byte { return c.body }

// Stream reports whether the client asked for a stream.
func (c *Conversion) Stream() bool { return c.stream }

const maxDropped = 64

// Dropped returns the names of what was left out or changed because Chat Completions or the provider has no place for
// it: "top_k", "tools.web_search_20250305", "messages.3.content.1:thinking". They are sorted, each stands once, there
// are at most 64, and none holds a value. After an answer was converted they include its losses, "response.…". Prompt
// cache marks are not counted: they do not change what is said.
func (c *Conversion) Dropped() []string {
	slices.Sort(c.dropped)
	return c.dropped
}

func (c *Conversion) drop(name string) {
	if len(c.dropped) < maxDropped && !slices.Contains(c.dropped, name) {
		c.dropped = append(c.dropped, name)
	}
}

// MessagesToChat converts a Messages request. body must be valid JSON, nested no deeper than encoding/json allows; it
// may begin with a byte order mark, and is neither changed nor retained. The error is always of status 400 and names
// the field. See section 1 of the conversion specification for the rules.
//
// Of what it cannot express the conversion tells in [Conversion.Dropped]. Nothing is fetched: images by URL go on as
// URLs. Raw JSON (tool inputs, schemas) keeps its numbers, key order and characters.
func MessagesToChat(body []byte, p Params) (*Conversion, *Error) {
	c := &Conversion{id: rand.Text}
	if p.Profile != nil {
		c.profile = *p.Profile
	} else {
		c.profile = ProfileFor(p.Provider, p.Model)
	}
	if p.ClientModel == "" {
		p.ClientModel = p.Model
	}
	c.model = appendString(nil, p.ClientModel)
	w := &writer{c: c, p: &c.profile, refs: newReferences(len(body))}
	w.blocks = make([]block, 0, 8+len(body)/1024)
	if err := w.parse(trim(body), c.drop); err != nil {
		return nil, err
	}
	w.out = make([]byte, 0, len(body)+len(body)/8+512)
	if err := w.write(p); err != nil {
		return nil, err
	}
	c.body = w.out
	if p.EstimateInput && c.stream {
		c.estimate = w.tokens()
	}
	if p.Strict && len(c.dropped) > 0 {
		return nil, invalid("cannot be converted for this provider without loss: " + strings.Join(c.Dropped(), ", "))
	}
	return c, nil
}

// request is a Messages request, as pieces of its body.
type request struct {
	messages []message
	blocks   []block
	added    [][]byte // tools declared inside messages

	system, limit, stream, temperature, topP, stop, metadata, tools, choice, thinking []byte
	output, format, tier                                                              []byte
}

type role uint8

const (
	noRole role = iota
	user
	assistant
	system
)

// message is a message of the request, or a run of such.
type message struct {
	role     role
	from, to int // its blocks
	at       int // its place in the request
}

// block is one content block. Fields that its type does not have are nil.
type block struct {
	raw                               []byte // all of it
	typ                               []byte // resolved
	text, id, name                    []byte // as they stand, with quotes
	input, content, source, signature []byte
	failed                            bool // is_error
	orphan                            bool // a result that answers no call
	message, at                       int  // its place
}

func path(parts ...any) string {
	var b strings.Builder
	for i, p := range parts {
		if i > 0 {
			b.WriteByte('.')
		}
		switch p := p.(type) {
		case string:
			b.WriteString(p)
		case int:
			b.WriteString(strconv.Itoa(p))
		}
	}
	return b.String()
}

func (b *block) path(field string) string {
	s := path("messages", b.message, "content", b.at)
	if field != "" {
		s += "." + field
	}
	return s
}

func (r *request) parse(body []byte, drop func(string)) *Error {
	d := reader{b: body}
	if !d.enter('{') {
		return invalid("the body must be a JSON object")
	}
	var err *Error
	seen := false
	for d.more('}') {
		switch k := d.key(); string(k) {
		case "messages":
			seen = true
			if err = r.parseMessages(&d); err != nil {
				return err
			}
		case "system":
			r.system = d.value()
		case "max_tokens":
			r.limit = d.value()
		case "stream":
			r.stream = d.value()
		case "temperature":
			r.temperature = d.value()
		case "top_p":
			r.topP = d.value()
		case "stop_sequences":
			r.stop = d.value()
		case "metadata":
			r.metadata = d.value()
		case "tools":
			r.tools = d.value()
		case "tool_choice":
			r.choice = d.value()
		case "thinking":
			r.thinking = d.value()
		case "output_config":
			r.output = d.value()
		case "output_format":
			r.format = d.value()
		case "service_tier":
			r.tier = d.value()
		case "model", "cache_control":
			d.value()
		case "mcp_servers":
			if v := (reader{b: d.value()}); v.enter('[') && v.more(']') {
				return invalid("mcp_servers: not supported for this provider, the tools would have to run at the server")
			}
		case "thread":
			if string(text(get(d.value(), "type"))) == "continue" {
				return invalid("thread: continuing a stored conversation is not supported for this provider")
			}
		default:
			name := safeName(k)
			if v := d.value(); !isNull(v) {
				drop(name)
			}
		}
	}
	switch {
	case !seen:
		return invalid("messages: field required")
	case len(r.messages) == 0:
		return invalid("messages: at least one message is required")
	}
	return nil
}

// safeName returns a name to report: one that a client made up may be anything.
func safeName(k []byte) string {
	for _, c := range k {
		if c != '_' && c != '-' && (c < '0' || c > '9') && (c < 'a' || c > 'z') {
			return "unknown"
		}
	}
	if len(k) == 0 || len(k) > 64 {
		return "unknown"
	}
	return string(k)
}

func (r *request) parseMessages(d *reader) *Error {
	r.messages, r.blocks = r.messages[:0], r.blocks[:0]
	if d.peek() != '[' {
		return invalid("messages: must be an array")
	}
	d.enter('[')
	for d.more(']') {
		if len(r.messages) == maxParts {
			return invalid("messages: has too many elements")
		}
		if err := r.parseMessage(d); err != nil {
			return err
		}
	}
	return nil
}

// maxParts bounds messages, content blocks, tools and stop sequences each: what is noted of one takes far more memory
// than its shortest form.
const maxParts = 100_000

func (r *request) parseMessage(d *reader) *Error {
	m := message{from: len(r.blocks), at: len(r.messages)}
	if d.peek() != '{' {
		return invalid(path("messages", m.at) + ": must be an object")
	}
	content := false
	d.enter('{')
	for d.more('}') {
		switch k := d.key(); string(k) {
		case "role":
			switch string(text(d.value())) {
			case "user":
				m.role = user
			case "assistant":
				m.role = assistant
			case "system":
				m.role = system
			default:
				m.role = noRole
			}
		case "content":
			content = true
			r.blocks = r.blocks[:m.from]
			switch d.peek() {
			case '"':
				r.blocks = append(r.blocks, block{typ: textType, text: d.value(), message: m.at})
			case '[':
				d.enter('[')
				for d.more(']') {
					if len(r.blocks) == maxParts {
						return invalid(path("messages", m.at, "content") + ": the request has too many blocks")
					}
					b := block{message: m.at, at: len(r.blocks) - m.from}
					if err := b.parse(d); err != nil {
						return err
					}
					r.blocks = append(r.blocks, b)
				}
			default:
				return invalid(path("messages", m.at, "content") + ": must be a string or an array")
			}
		default:
			d.value()
		}
	}
	switch {
	case m.role == noRole:
		return invalid(path("messages", m.at, "role") + ": must be user, assistant or system")
	case !content:
		return invalid(path("messages", m.at, "content") + ": field required")
	}
	m.to = len(r.blocks)
	r.messages = append(r.messages, m)
	return nil
}

var textType = []byte("text")

// parse reads the next block, and sees to it that the fields which its type needs have the right JSON type.
func (b *block) parse(d *reader) *Error {
	if d.peek() != '{' {
		return invalid(b.path("") + ": must be an object")
	}
	start := d.i
	d.enter('{')
	for d.more('}') {
		switch k := d.key(); string(k) {
		case "type":
			b.typ = text(d.value())
		case "text", "thinking":
			b.text = d.value()
		case "id", "tool_use_id":
			b.id = d.value()
		case "name", "tool_name":
			b.name = d.value()
		case "input":
			b.input = d.value()
		case "content":
			b.content = d.value()
		case "source":
			b.source = d.value()
		case "signature":
			b.signature = d.value()
		case "is_error":
			b.failed = isTrue(d.value())
		default:
			d.value()
		}
	}
	b.raw = d.b[start:d.i]
	need := func(field string, raw []byte, kinds string) *Error {
		if raw == nil {
			return invalid(b.path(field) + ": field required")
		}
		if strings.IndexByte(kinds, raw[0]) < 0 {
			return invalid(b.path(field) + ": has the wrong type")
		}
		return nil
	}
	switch string(b.typ) {
	case "":
		return invalid(b.path("type") + ": must be a string")
	case "text":
		return need("text", b.text, `"`)
	case "thinking":
		return need("thinking", b.text, `"`)
	case "tool_use":
		if err := need("id", b.id, `"`); err != nil {
			return err
		}
		return need("name", b.name, `"`)
	case "tool_result":
		if b.content != nil {
			if err := need("content", b.content, `"[n`); err != nil {
				return err
			}
		}
		return need("tool_use_id", b.id, `"`)
	case "image", "document":
		return need("source", b.source, `{`)
	}
	return nil
}

// writer makes the Chat request. It appends to out and otherwise reuses what it holds from turn to turn.
type writer struct {
	request
	c   *Conversion
	p   *Profile
	out []byte
	err *Error // the first found while writing

	parts, result []part
	calls         []pending
	callIndex     map[string]int    // by the client's id
	signatures    map[string][]byte // thought signatures of the turn at hand, by the client's call id
	declared      map[string]bool   // names of the tools that are sent, as the client wrote them
	sent          map[string]bool   // the same, as they are sent
	refs          references
	turns         int // messages written that are not system messages
}

func (w *writer) str(s string) { w.out = append(w.out, s...) }

// sep puts a comma where one is due.
func (w *writer) sep() {
	if c := w.out[len(w.out)-1]; c != '{' && c != '[' {
		w.out = append(w.out, ',')
	}
}

func (w *writer) fail(err *Error) {
	if w.err == nil {
		w.err = err
	}
}

// field writes the beginning of a member.
func (w *writer) field(name string) {
	w.sep()
	w.out = append(w.out, '"')
	w.out = append(w.out, name...)
	w.out = append(w.out, '"', ':')
}

func (w *writer) raw(name string, value []byte) {
	w.field(name)
	w.out = append(w.out, value...)
}

func (w *writer) quoted(name, value string) {
	w.field(name)
	w.out = appendString(w.out, value)
}

func (w *writer) write(p Params) *Error {
	w.out = append(w.out, '{')
	w.quoted("model", p.Model)
	for _, step := range []func() *Error{w.writeMessages, func() *Error { return w.writeLimit(p.MaxTokens) },
		w.writeStream, w.writeSampling, w.writeUser, w.writeTools, w.writeThinking, w.writeFormat, w.writeTier} {
		if err := step(); err != nil {
			return err
		}
	}
	w.out = append(w.out, '}')
	return w.err
}

func (w *writer) writeLimit(most int) *Error {
	n := w.limit
	if n == nil {
		return invalid("max_tokens: field required")
	}
	for _, c := range n {
		if c < '0' || c > '9' {
			return invalid("max_tokens: must be an integer of at least 1")
		}
	}
	if n[0] == '0' {
		return invalid("max_tokens: must be an integer of at least 1")
	}
	name := w.p.LimitField
	if name == "" {
		name = "max_tokens"
	}
	if v, err := strconv.Atoi(string(n)); most > 0 && (err != nil || v > most) {
		n = strconv.AppendInt(nil, int64(most), 10)
		w.c.drop("max_tokens")
	}
	w.raw(name, n)
	return nil
}

func (w *writer) writeStream() *Error {
	switch kind(w.stream) {
	case 0, 'n', 'f':
		return nil
	case 't':
		w.c.stream = true
		w.raw("stream", w.stream)
		if !w.p.NoUsageOption {
			w.raw("stream_options", []byte(`{"include_usage":true}`))
		}
		return nil
	}
	return invalid("stream: must be true or false")
}

func (w *writer) writeSampling() *Error {
	for _, f := range []struct {
		name string
		raw  []byte
	}{{"temperature", w.temperature}, {"top_p", w.topP}} {
		switch c := kind(f.raw); {
		case isNull(f.raw):
		case c != '-' && (c < '0' || c > '9'):
			return invalid(f.name + ": must be a number")
		case w.p.NoSampling:
			w.c.drop(f.name)
		default:
			w.raw(f.name, f.raw)
		}
	}
	return w.writeStop()
}

func (w *writer) writeStop() *Error {
	if isNull(w.stop) {
		return nil
	}
	if kind(w.stop) != '[' {
		return invalid("stop_sequences: must be an array of strings")
	}
	mark, n := len(w.out), 0
	w.field("stop")
	w.out = append(w.out, '[')
	r := reader{b: w.stop}
	r.enter('[')
	for r.more(']') {
		s := r.value()
		if !isString(s) {
			return invalid("stop_sequences: must be an array of strings")
		}
		if len(s) == 2 {
			continue
		}
		if len(w.c.stops) == maxParts {
			return invalid("stop_sequences: has too many elements")
		}
		w.c.stops = append(w.c.stops, string(text(s)))
		if w.p.MaxStop != 0 && n >= w.p.MaxStop {
			w.c.drop("stop_sequences")
			continue
		}
		n++
		w.sep()
		w.out = append(w.out, s...)
	}
	w.out = append(w.out, ']')
	if n == 0 {
		w.out = w.out[:mark]
	}
	return nil
}

func (w *writer) writeUser() *Error {
	if isNull(w.metadata) {
		return nil
	}
	if kind(w.metadata) != '{' {
		return invalid("metadata: must be an object")
	}
	id := get(w.metadata, "user_id")
	switch {
	case isNull(id) || len(id) == 2:
		return nil
	case !isString(id):
		return invalid("metadata.user_id: must be a string")
	case !w.p.User:
		w.c.drop("metadata.user_id")
		return nil
	}
	if s := text(id); utf8.RuneCount(s) > 64 {
		// Cutting would make different users one.
		w.quoted("user", digest(s, 64))
		return nil
	}
	w.raw("user", id)
	return nil
}

// digest returns the first n hexadecimal digits of the SHA-256 of s.
func digest(s []byte, n int) string {
	sum := sha256.Sum256(s)
	return hex.EncodeToString(sum[:])[:n]
}

func (w *writer) writeThinking() *Error {
	if !isNull(w.thinking) && kind(w.thinking) != '{' {
		return invalid("thinking: must be an object")
	}
	if !isNull(w.output) && kind(w.output) != '{' {
		return invalid("output_config: must be an object")
	}
	want := string(text(get(w.output, "effort")))
	off := false
	switch string(text(get(w.thinking, "type"))) {
	case "enabled":
		w.c.thinking = true
		switch b := number(get(w.thinking, "budget_tokens")); {
		case b <= 2048:
			want = "low"
		case b <= 10000:
			want = "medium"
		default:
			want = "high"
		}
	case "adaptive":
		w.c.thinking = true
		if want == "" {
			want = "high"
		}
	case "between_tools":
		w.c.thinking = true
	case "disabled":
		off, want = true, ""
	}
	w.c.omitted = string(text(get(w.thinking, "display"))) == "omitted"
	effort := w.p.effort(want)
	switch {
	case w.p.EffortOrTools && len(w.declared) > 0:
		w.quoted("reasoning_effort", "none")
		if want != "" {
			w.c.drop("reasoning_effort")
		}
	case off && w.p.Off != "":
		w.sep()
		w.str(w.p.Off)
	case effort != "":
		w.quoted("reasoning_effort", effort)
		if effort != want {
			w.c.drop("reasoning_effort")
		}
	case want != "":
		w.c.drop("reasoning_effort")
	}
	return nil
}

func (w *writer) thinkingOff() bool { return string(text(get(w.thinking, "type"))) == "disabled" }

// schema returns the schema that the answer shall follow, nil if none.
func (w *writer) schema() []byte {
	f := get(w.output, "format")
	if isNull(f) {
		f = w.format
	}
	if isNull(f) {
		return nil
	}
	s := get(f, "schema")
	if string(text(get(f, "type"))) != "json_schema" || kind(s) != '{' {
		w.c.drop("output_config.format")
		return nil
	}
	return s
}

func (w *writer) writeFormat() *Error {
	s := w.schema()
	switch {
	case s == nil:
	case w.p.JSONObjectOnly:
		w.raw("response_format", []byte(`{"type":"json_object"}`))
	default:
		w.field("response_format")
		w.str(`{"type":"json_schema","json_schema":{"name":"response","schema":`)
		strict := !w.p.PlainSchemas && isStrict(s, 0)
		if w.p.PlainSchemas {
			w.out = appendPlainSchema(w.out, s, &w.refs)
		} else {
			w.out = append(w.out, s...)
		}
		if strict {
			w.str(`,"strict":true`)
		}
		w.str("}}")
	}
	return nil
}

func (w *writer) writeTier() *Error {
	switch string(text(w.tier)) {
	case "", "auto":
	case "standard_only":
		if w.p.ServiceTier {
			w.quoted("service_tier", "default")
			break
		}
		fallthrough
	default:
		w.c.drop("service_tier")
	}
	return nil
}
