package convert

import (
	"bytes"
	"encoding/json"
	"io"
	"strconv"

	"github.com/loadchange/apexproxy/internal/sse"
)

const (
	maxEvent = 16 << 20 // of the upstream; more is an error
	maxHeld  = 16 << 20 // text and arguments that wait for a tool call to end
	maxDoc   = 32 << 20 // a document in place of a stream
	maxCalls = 256
	readSize = 8 << 10
	keepCap  = 64 << 10 // the largest output buffer kept from read to read
)

// Events is the answer to a streamed request, as Messages events: an io.Reader that converts as it is read. It starts no
// goroutine and does not close its source. It is not safe for concurrent use.
//
// It ends at the upstream's [DONE], or when after the finish reason a chunk came that has nothing but usage, without
// waiting for the end of the body, which may then have bytes left. There is no timer: an upstream that goes silent after
// its finish reason is waited for.
type Events struct {
	m        machine
	src      io.Reader
	err      error // the source's, other than io.EOF
	p        sse.Parser
	emit     func(sse.Event)
	in       []byte
	doc      []byte
	at       int // how much of m.out has been read
	comments int
	idle     int
	form     form
	charge   func(int64) error
	charged  int64
}

// form says what the answer turned out to be.
type form uint8

const (
	unknown form = iota
	stream
	document
)

// Events converts an upstream's streamed answer of status 2xx. See section 3 of the conversion specification.
func (c *Conversion) Events(src io.Reader) *Events {
	c.body = nil
	e := &Events{m: machine{c: c}, src: src, in: make([]byte, readSize)}
	e.p.Max = maxEvent
	e.emit = e.take
	return e
}

// Charge sets what is asked before more memory is held for the stream, with the number of further bytes. An error of it
// ends the stream. It is asked for large steps only. Nil, the default, allows everything up to the fixed bounds.
func (e *Events) Charge(charge func(n int64) error) { e.charge = charge }

// account asks for what is held beyond what was asked for.
func (e *Events) account() {
	held := int64(cap(e.doc) + e.p.Held() + e.m.held + cap(e.m.out))
	if e.charge == nil || e.m.ended || held < e.charged+keepCap {
		return
	}
	if e.charge(held-e.charged) != nil {
		e.m.fail(&Error{Status: 529, Type: "overloaded_error", Message: "the proxy is holding as much as it may: try again"})
		return
	}
	e.charged = held
}

// Start reads until the first payload is known, and returns an error while nothing has been written: then a status can
// still be given, and Read returns io.EOF. It may wait for as long as the upstream does. A document in place of a stream
// is read whole, up to 32 MiB. Without Start such an error is the first event.
func (e *Events) Start() *Error {
	for !e.m.started && !e.m.ended {
		e.step()
	}
	if !e.m.started {
		e.m.out = nil
		return e.m.err
	}
	return nil
}

// Read implements [io.Reader]. It reads its source once, and again only while nothing has come out of it. Whatever goes
// wrong becomes an event of type error, followed by io.EOF; Read returns no other error.
func (e *Events) Read(p []byte) (int, error) {
	if len(p) == 0 {
		return 0, nil
	}
	for e.at == len(e.m.out) {
		if e.m.ended {
			return 0, io.EOF
		}
		e.at, e.m.out = 0, e.m.out[:0]
		if cap(e.m.out) > keepCap {
			e.m.out = nil
		}
		e.step()
	}
	n := copy(p, e.m.out[e.at:])
	e.at += n
	return n, nil
}

// Err returns the read error of the source, if one other than io.EOF has ended the stream.
func (e *Events) Err() error { return e.err }

// Failed returns the error that ended the stream, nil while there is none or when it ended well.
func (e *Events) Failed() *Error { return e.m.err }

func (e *Events) step() {
	n, err := e.src.Read(e.in)
	e.feed(e.in[:n])
	e.account()
	switch {
	case n > 0:
		e.idle = 0
	case err == nil:
		if e.idle++; e.idle > 100 {
			err = io.ErrNoProgress
		}
	}
	if err == nil || e.m.ended {
		return
	}
	switch {
	case err != io.EOF:
		e.err = err
		e.m.fail(readError(err))
	case e.form == document:
		e.m.document(e.doc)
		e.doc = nil
	default:
		e.p.Close(e.emit)
		e.m.end()
	}
}

func (e *Events) feed(b []byte) {
	if e.form == unknown {
		for len(b) > 0 && (b[0] <= ' ' || b[0] == 0xEF || b[0] == 0xBB || b[0] == 0xBF) {
			b = b[1:]
		}
		if len(b) == 0 {
			return
		}
		e.form = stream
		if b[0] == '{' || b[0] == '[' || b[0] == '<' {
			e.form = document
		}
	}
	if e.form == document {
		if e.doc = append(e.doc, b...); len(e.doc) > maxDoc {
			e.m.fail(badAnswer("upstream answer is too large"))
		}
		return
	}
	before := len(e.m.out)
	e.p.Feed(b, e.emit)
	if e.p.Skipped() > 0 {
		e.m.fail(badAnswer("upstream sent an event that is too large"))
	}
	if c := e.p.Comments(); c != e.comments {
		e.comments = c
		if e.m.started && !e.m.ended && len(e.m.out) == before {
			e.m.out = append(e.m.out, "event: ping\ndata: {\"type\":\"ping\"}\n\n"...)
		}
	}
}

func (e *Events) take(ev sse.Event) {
	if e.p.Skipped() > 0 {
		return // what follows a lost event must not look whole; feed reports it
	}
	e.m.payload(ev)
}

// machine turns Chat chunks into a Messages answer: into events, or with whole into one Message. Texts are kept as they
// stand inside a JSON string throughout.
type machine struct {
	c     *Conversion
	whole bool
	out   []byte

	open  blockKind
	next  int         // index of the next block
	space []byte      // white space that no text has followed yet
	late  []lateDelta // waits for the calls to be complete
	held  int         // bytes that wait

	calls []call
	head  int // the first call not closed; the only one that may be open
	last  int // the call touched last

	reasoning  []byte          // not shown, goes into the signature
	signatures []callSignature // go into the next signature
	tools      int             // tool_use blocks
	usage      []byte          // the last one seen
	refusal    []byte
	fin        string
	matched    string
	tier       string
	started    bool
	ended      bool
	err        *Error
}

type blockKind uint8

const (
	noBlock blockKind = iota
	thinkingBlock
	textBlock
	refusalBlock
	toolBlock
)

type lateDelta struct {
	kind blockKind
	text []byte
}

// call is one tool call of the answer.
type call struct {
	index    int64
	indexed  bool
	started  bool
	closed   bool
	id, name []byte
	sentID   []byte
	thought  []byte    // Gemini's signature
	buf      []byte    // arguments not written yet
	args     arguments // all arguments so far
}

// payload takes one event of the upstream.
func (m *machine) payload(ev sse.Event) {
	if m.ended {
		return
	}
	data := bytes.TrimSpace(ev.Data)
	failed := string(ev.Type) == "error"
	switch k := kind(data); {
	case string(data) == "[DONE]":
		m.finish()
	case k != '{' && k != '[' || !json.Valid(data):
		if failed {
			m.fail(badAnswer("upstream reported an error"))
		}
	case failed, k == '[' && isErrorPayload(data):
		m.fail(payloadError(data))
	case k == '{':
		m.chunk(data)
	}
}

// chunk takes one JSON object: a chunk, a whole completion, or an error. What is neither is passed over.
func (m *machine) chunk(data []byte) {
	var choices, usage []byte
	failed := false
	r := reader{b: data}
	r.enter('{')
	for r.more('}') {
		switch k, v := r.key(), r.value(); string(k) {
		case "choices":
			choices = v
		case "usage":
			if kind(v) == '{' {
				usage = v
			}
		case "x_groq":
			if u := get(v, "usage"); kind(u) == '{' && usage == nil {
				usage = u
			}
		case "service_tier":
			switch string(text(v)) {
			case "default":
				m.tier = "standard"
			case "priority":
				m.tier = "priority"
			}
		case "error":
			failed = failed || truthy(v)
		case "object", "type":
			failed = failed || string(v) == `"error"`
		case "success":
			failed = failed || string(v) == "false"
		}
	}
	if failed {
		m.fail(payloadError(data))
		return
	}
	if kind(choices) != '[' && usage == nil {
		return
	}
	ch := readChoice(choices)
	if kind(ch.usage) == '{' && usage == nil {
		usage = ch.usage
	}
	if usage != nil {
		m.usage = append(m.usage[:0], usage...)
	}
	m.start()
	if firstElement(choices) == nil {
		if m.fin != "" && usage != nil {
			m.finish()
		}
		return
	}
	if fin := text(ch.finish); len(fin) > 0 {
		if err := finishError(fin); err != nil {
			m.fail(err)
			return
		}
		if m.fin == "" {
			m.fin = string(fin)
		}
	}
	for _, s := range [][]byte{ch.stop, ch.matched} {
		if s := text(s); len(s) > 0 {
			m.matched = string(s)
		}
	}
	m.delta(ch.delta, ch.all)
	if m.held > maxHeld && !m.whole {
		m.fail(badAnswer("upstream sent more than can be held back"))
	}
}

// choice is one element of choices. Fields are as they stand.
type choice struct {
	delta, finish, stop, matched, usage []byte
	all                                 bool // delta is a whole message
}

// readChoice reads the choice of index 0, which an element without index has.
func readChoice(choices []byte) (c choice) {
	r := reader{b: choices}
	if !r.enter('[') {
		return c
	}
	for r.more(']') {
		var e choice
		var message, index []byte
		if !r.enter('{') {
			continue
		}
		for r.more('}') {
			switch k, v := r.key(), r.value(); string(k) {
			case "index":
				index = v
			case "delta":
				e.delta = v
			case "message":
				message = v
			case "finish_reason":
				e.finish = v
			case "stop_reason":
				e.stop = v
			case "matched_stop":
				e.matched = v
			case "usage":
				e.usage = v
			}
		}
		if isNull(index) || string(index) == "0" {
			if isNull(e.delta) {
				e.delta, e.all = message, true
			}
			return e
		}
	}
	return c
}

// delta takes a piece of the answer, or with all set the whole of it: then no two elements are one call.
func (m *machine) delta(raw []byte, all bool) {
	var content, details, calls, legacy, reasoning, reasoning2, refusal []byte
	r := reader{b: raw}
	if !r.enter('{') {
		return
	}
	for r.more('}') {
		switch k, v := r.key(), r.value(); string(k) {
		case "content":
			content = v
		case "reasoning_content":
			reasoning = v
		case "reasoning":
			reasoning2 = v
		case "reasoning_details":
			details = v
		case "refusal":
			refusal = v
		case "tool_calls":
			calls = v
		case "function_call":
			legacy = v
		}
	}
	if m.c.thinking {
		switch {
		case len(inner(reasoning)) > 0:
			m.text(thinkingBlock, inner(reasoning))
		case len(inner(reasoning2)) > 0:
			m.text(thinkingBlock, inner(reasoning2))
		case !m.texts(thinkingBlock, details, "text", "summary"):
			m.thinkingParts(content)
		}
	}
	if isString(content) {
		m.text(textBlock, inner(content))
	} else {
		m.texts(textBlock, content, "text")
	}
	if s := inner(refusal); len(s) > 0 {
		m.refusal = append(m.refusal, s...)
		m.held += len(s)
		m.text(refusalBlock, s)
	}
	n := 0
	if c := (reader{b: calls}); kind(calls) == '[' {
		c.enter('[')
		for ; c.more(']') && !m.ended; n++ {
			m.element(c.value(), false, all)
		}
	}
	if n == 0 && kind(legacy) == '{' {
		m.element(legacy, true, all)
	}
}

// texts takes the texts of an array's elements, the first of the names that one has, and reports whether there were any.
func (m *machine) texts(k blockKind, list []byte, names ...string) bool {
	found := false
	r := reader{b: list}
	if kind(list) != '[' {
		return false
	}
	r.enter('[')
	for r.more(']') {
		e := r.value()
		for _, name := range names {
			if s := inner(get(e, name)); len(s) > 0 {
				m.text(k, s)
				found = true
				break
			}
		}
	}
	return found
}

// thinkingParts takes Mistral's form: thinking as parts of the content.
func (m *machine) thinkingParts(content []byte) {
	if kind(content) != '[' {
		return
	}
	r := reader{b: content}
	r.enter('[')
	for r.more(']') {
		t := get(r.value(), "thinking")
		if isString(t) {
			m.text(thinkingBlock, inner(t))
		} else {
			m.texts(thinkingBlock, t, "text")
		}
	}
}

// text takes a piece of text for a block of kind k. A tool call that is not complete is never cut in two by it: the text
// waits.
func (m *machine) text(k blockKind, s []byte) {
	if len(s) == 0 || m.ended {
		return
	}
	if k == textBlock && m.open != textBlock && len(m.late) == 0 && blank(s) {
		m.space = append(m.space, s...)
		m.held += len(s)
		return
	}
	if m.open == toolBlock {
		if !m.callsComplete() {
			if n := len(m.late); n > 0 && m.late[n-1].kind == k {
				m.late[n-1].text = append(m.late[n-1].text, s...)
			} else {
				m.late = append(m.late, lateDelta{k, bytes.Clone(s)})
				m.held += 64
			}
			m.held += len(s)
			return
		}
		m.flush()
	}
	m.write(k, s)
}

// write puts text out.
func (m *machine) write(k blockKind, s []byte) {
	if m.open != k {
		m.openBlock(k)
		if k == textBlock && len(m.space) > 0 {
			m.writeDelta(k, m.space)
			m.space = m.space[:0]
		}
	}
	if k == thinkingBlock && m.c.omitted {
		if m.c.profile.Echo {
			m.reasoning = append(m.reasoning, s...)
			m.held += len(s)
		}
		return
	}
	m.writeDelta(k, s)
}

func (m *machine) writeDelta(k blockKind, s []byte) {
	switch {
	case m.whole:
		m.out = append(m.out, s...)
		return
	case k == thinkingBlock:
		m.begin(`content_block_delta`)
		m.str(`,"delta":{"type":"thinking_delta","thinking":"`)
	case k == toolBlock:
		m.begin(`content_block_delta`)
		m.str(`,"delta":{"type":"input_json_delta","partial_json":"`)
	default:
		m.begin(`content_block_delta`)
		m.str(`,"delta":{"type":"text_delta","text":"`)
	}
	m.out = append(m.out, s...)
	m.str("\"}}\n\n")
}

func (m *machine) str(s string) { m.out = append(m.out, s...) }

// begin writes an event of the block at hand up to its index.
func (m *machine) begin(typ string) {
	m.str("event: ")
	m.str(typ)
	m.str("\ndata: {\"type\":\"")
	m.str(typ)
	m.str(`","index":`)
	m.out = strconv.AppendInt(m.out, int64(m.next-1), 10)
}

// start writes what comes before all blocks.
func (m *machine) start() {
	if m.started {
		return
	}
	m.started = true
	if !m.whole {
		m.str("event: message_start\ndata: {\"type\":\"message_start\",\"message\":")
	}
	m.str(`{"id":"msg_`)
	m.str(m.c.id())
	m.str(`","type":"message","role":"assistant","model":`)
	m.out = append(m.out, m.c.model...)
	m.str(`,"content":[`)
	if !m.whole {
		m.str(`],"stop_reason":null,"stop_sequence":null,"stop_details":null,"container":null,`)
		m.out = m.appendUsage(m.out, true)
		m.str("}}\n\n")
	}
}

// openBlock closes the block at hand and begins one of kind k.
func (m *machine) openBlock(k blockKind) {
	m.closeBlock()
	m.open = k
	if k != textBlock {
		m.space = m.space[:0]
	}
	m.next++
	if m.whole {
		if m.next > 1 {
			m.str(",")
		}
	} else {
		m.begin(`content_block_start`)
		m.str(`,"content_block":`)
	}
	switch k {
	case thinkingBlock:
		m.str(`{"type":"thinking","thinking":"`)
		if !m.whole {
			m.str(`","signature":""}`)
		}
	case textBlock, refusalBlock:
		m.str(`{"type":"text","text":"`)
		if !m.whole {
			m.str(`"}`)
		}
	case toolBlock:
		c := &m.calls[m.head]
		m.str(`{"type":"tool_use","id":"`)
		m.out = append(m.out, c.sentID...)
		m.str(`","name":"`)
		m.writeName(c)
		m.str(`","input":`)
		if !m.whole {
			m.str(`{}}`)
		}
	}
	if !m.whole {
		m.str("}\n\n")
	}
}

// closeBlock ends the block at hand. A tool's arguments must have been written.
func (m *machine) closeBlock() {
	switch {
	case m.open == noBlock:
		return
	case m.open == thinkingBlock && m.whole:
		m.str(`","signature":"`)
		m.writeSignature()
		m.str(`"}`)
	case m.open == thinkingBlock:
		m.begin(`content_block_delta`)
		m.str(`,"delta":{"type":"signature_delta","signature":"`)
		m.writeSignature()
		m.str("\"}}\n\n")
	case m.open == toolBlock && m.whole:
		m.str(`}`)
	case m.whole:
		m.str(`"}`)
	}
	if !m.whole {
		m.begin(`content_block_stop`)
		m.str("}\n\n")
	}
	m.open = noBlock
}

func (m *machine) writeSignature() {
	m.out = appendSignature(m.out, m.reasoning, m.signatures)
	m.reasoning, m.signatures = m.reasoning[:0], m.signatures[:0]
}

// element takes one element of tool_calls, or a legacy function call.
func (m *machine) element(raw []byte, legacy, all bool) {
	var index, id, function, name, args, extra []byte
	r := reader{b: raw}
	if !r.enter('{') {
		return
	}
	for r.more('}') {
		switch k, v := r.key(), r.value(); string(k) {
		case "index":
			index = v
		case "id":
			id = inner(v)
		case "function":
			function = v
		case "extra_content":
			extra = v
		}
	}
	if legacy {
		index, function = []byte("0"), raw
	}
	r = reader{b: function}
	if r.enter('{') {
		for r.more('}') {
			switch k, v := r.key(), r.value(); string(k) {
			case "name":
				name = inner(v)
			case "arguments":
				args = inner(v)
				if kind(v) == '{' {
					args = appendJSONText(nil, v)
				}
			}
		}
	}
	if len(id) == 0 && len(name) == 0 && len(args) == 0 {
		return
	}
	c := m.find(index, id, name, args, all)
	if c == nil {
		m.fail(badAnswer("upstream made too many tool calls at once"))
		return
	}
	if len(c.id) == 0 {
		c.id = bytes.Clone(id)
		m.held += len(id)
	}
	if len(c.name) == 0 {
		c.name = bytes.Clone(name)
		m.held += len(name)
	}
	if s := inner(get(extra, "google", "thought_signature")); len(s) > 0 {
		c.thought = bytes.Clone(s)
		m.held += len(s)
	}
	if len(args) > 0 && !c.closed {
		n := c.args.feed(args)
		if m.whole || c.args.state == argStart {
			// A Message needs all of it; and before an object has begun it may be one that is encoded twice.
			n = len(args)
		} else if n < len(args) && !blank(args[n:]) {
			m.c.drop("response.tool_calls.arguments")
		}
		c.buf = append(c.buf, args[:n]...)
		if m.last != m.head || !c.started || c.args.state == argStart {
			m.held += n
		}
	}
	m.advance()
	if len(m.late) > 0 && m.callsComplete() {
		m.flush()
		m.writeLate()
	}
}

// find returns the call that an element belongs to, nil when there are too many. Servers disagree about index and id.
func (m *machine) find(index, id, name, args []byte, all bool) *call {
	i := -1
	n, indexed := integer(index)
	switch {
	case all:
	case indexed:
		for j := len(m.calls) - 1; j >= 0 && i < 0; j-- {
			if c := &m.calls[j]; c.indexed && c.index == n {
				i = j
			}
		}
		if i >= 0 && len(name) > 0 {
			// Some send every call with index 0.
			c := &m.calls[i]
			other := len(id) > 0 && len(c.id) > 0 && string(id) != string(c.id)
			again := len(id) == 0 && c.args.complete() && !blank(args)
			if other || again {
				i = -1
			}
		}
	case len(id) > 0:
		for j := len(m.calls) - 1; j >= 0 && i < 0; j-- {
			if string(m.calls[j].id) == string(id) {
				i = j
			}
		}
	case len(name) == 0 && len(m.calls) > 0:
		i = m.last
	}
	if i < 0 {
		if len(m.calls) == maxCalls {
			return nil
		}
		i = len(m.calls)
		m.calls = append(m.calls, call{index: n, indexed: indexed})
	}
	m.last = i
	return &m.calls[i]
}

// advance writes what can be written of the calls: the head as it comes, the next one when the head is complete.
func (m *machine) advance() {
	for m.head < len(m.calls) {
		c := &m.calls[m.head]
		if !c.started {
			if len(c.id) == 0 || len(c.name) == 0 {
				return
			}
			m.startCall(c)
		}
		m.writeArguments(c)
		if m.head+1 == len(m.calls) || !c.args.complete() {
			return
		}
		m.closeCall(c)
	}
}

// callsComplete reports whether the arguments of all calls are.
func (m *machine) callsComplete() bool {
	for i := m.head; i < len(m.calls); i++ {
		if c := &m.calls[i]; !c.args.complete() || len(c.id) == 0 || len(c.name) == 0 {
			return false
		}
	}
	return true
}

// flush writes all calls to their end.
func (m *machine) flush() {
	for m.head < len(m.calls) {
		c := &m.calls[m.head]
		if !c.started {
			m.startCall(c)
		}
		m.closeCall(c)
	}
}

func (m *machine) writeLate() {
	late := m.late
	m.late = nil
	for _, d := range late {
		m.write(d.kind, d.text)
	}
}

// startCall opens the block of the head. A thought signature of Gemini's goes before it, into a thinking block of its
// own if need be: nothing else comes back from the client.
func (m *machine) startCall(c *call) {
	c.started = true
	m.tools++
	m.giveID(c)
	if len(c.thought) > 0 && m.c.thinking {
		if m.open != thinkingBlock {
			m.openBlock(thinkingBlock)
		}
		m.signatures = append(m.signatures, callSignature{c.sentID, c.thought})
	}
	m.openBlock(toolBlock)
}

// giveID sets the id that the client sees: the upstream's where Anthropic would take it and it is the first of its kind.
func (m *machine) giveID(c *call) {
	s := bytes.Clone(unescape(c.id))
	for i, b := range s {
		if !isToolByte(b) {
			s[i] = '_'
		}
	}
	fresh := len(s) > 0
	for i := range m.calls {
		fresh = fresh && string(m.calls[i].sentID) != string(s)
	}
	if !fresh {
		s = append([]byte("toolu_"), m.c.id()...)
	}
	c.sentID = s
}

// writeName writes a call's name as the client declared it.
func (m *machine) writeName(c *call) {
	for _, n := range m.c.names {
		if n.upstream == string(c.name) {
			m.str(n.client)
			return
		}
	}
	if len(c.name) == 0 {
		m.str("tool_")
		m.out = strconv.AppendInt(m.out, int64(m.head), 10)
		return
	}
	m.out = append(m.out, c.name...)
}

// writeArguments writes what has come of the head's arguments. In a Message they are written at the end.
func (m *machine) writeArguments(c *call) {
	if len(c.buf) > 0 && !m.whole && c.args.state != argStart {
		m.writeDelta(toolBlock, c.buf)
		c.buf = c.buf[:0]
	}
}

// closeCall ends the head. What it lacks to be an object is added, unless the answer was cut by its length: then the
// client knows.
func (m *machine) closeCall(c *call) {
	cut := isLength(m.fin)
	switch {
	case m.whole || c.args.state == argStart:
		object, exact := input(c.buf, cut)
		if !exact {
			m.c.drop("response.tool_calls.arguments")
		}
		if m.whole {
			m.out = append(m.out, object...)
		} else {
			m.writeDelta(toolBlock, appendEscaped(nil, object))
		}
	case !c.args.complete() && !cut:
		m.c.drop("response.tool_calls.arguments")
		c.buf = c.args.appendClosing(c.buf)
		fallthrough
	default:
		m.writeArguments(c)
	}
	m.closeBlock()
	c.closed, c.buf, c.args.open = true, nil, nil
	m.head++
}

// end is the end of the body.
func (m *machine) end() {
	switch {
	case m.ended:
	case m.fin != "":
		m.finish()
	default:
		m.fail(badAnswer("upstream stream ended before completion"))
	}
}

// finish ends a complete answer.
func (m *machine) finish() {
	if m.ended {
		return
	}
	m.start()
	m.flush()
	m.writeLate()
	m.closeBlock()
	if m.whole {
		m.str(`],`)
		m.out = m.appendStop(m.out)
		m.str(`,`)
		m.out = m.appendUsage(m.out, false)
		m.str(`}`)
	} else {
		m.str("event: message_delta\ndata: {\"type\":\"message_delta\",\"delta\":{")
		m.out = m.appendStop(m.out)
		m.str(`},`)
		m.out = m.appendUsage(m.out, false)
		m.str("}\n\nevent: message_stop\ndata: {\"type\":\"message_stop\"}\n\n")
	}
	m.ended = true
}

// fail ends an answer with an error.
func (m *machine) fail(err *Error) {
	if m.ended {
		return
	}
	m.ended, m.err = true, err
	if m.whole {
		return
	}
	m.str("event: error\ndata: {\"type\":\"error\",\"error\":{\"type\":\"")
	m.str(err.Type)
	m.str(`","message":`)
	m.out = appendString(m.out, err.Message)
	m.str("}}\n\n")
}
