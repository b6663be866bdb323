package convert

import (
	"bytes"
	"slices"
	"strconv"
	"strings"

	"github.com/loadchange/apexproxy/internal/protocol"
	"github.com/loadchange/apexproxy/internal/rawjson"
	"github.com/loadchange/apexproxy/internal/sse"
	"github.com/loadchange/apexproxy/internal/usage"
)

// chatAnswer reads an answer of Chat Completions: chunks, or a whole completion, which is one large
// chunk to it.
type chatAnswer struct {
	progress
	callTable
	c     *Conversion
	to    Answer
	whole bool // the answer leaves as one document: arguments can wait for their end

	open    BlockKind
	space   rawjson.Text // white space that no text has followed yet
	late    []lateText   // waits for the calls to be complete
	carry   Carry        // goes with the next thinking block
	tools   int          // calls begun
	usage   Usage
	counted bool // the upstream said usage
	refusal rawjson.Text
	finish  string
	matched string // stop sequence
	alike   likeChunk
}

func newChatAnswer(c *Conversion, to Answer, whole bool) source {
	return &chatAnswer{c: c, to: to, whole: whole}
}

// lateText is text that came while a call was not complete.
type lateText struct {
	kind BlockKind
	text rawjson.Text
}

func (a *chatAnswer) state() *progress { return &a.progress }

func (a *chatAnswer) event(ev sse.Event) {
	if a.ended {
		return
	}
	data := rawjson.Value(bytes.TrimSpace(ev.Data))
	failed := string(ev.Type) == "error"
	if s, ok := a.alike.text(data); ok && !failed {
		a.like(s)
		return
	}
	switch {
	case string(data) == "[DONE]":
		a.complete()
	case !data.IsObject() && !data.IsArray() || !rawjson.Valid(data):
		if failed {
			a.fail(badAnswer("upstream reported an error"))
		}
	case failed, data.IsArray() && isErrorPayload(data):
		a.fail(payloadError(data))
	case data.IsObject():
		a.chunk(data)
	}
}

func (a *chatAnswer) document(body []byte) {
	doc := rawjson.Value(body)
	switch {
	case !rawjson.Valid(doc):
		a.fail(badAnswer("upstream answer is not JSON"))
	case isErrorPayload(doc):
		a.fail(payloadError(doc))
	case doc.Get("choices").First() == nil:
		a.fail(badAnswer("upstream response has no choices"))
	default:
		a.chunk(doc)
		a.complete()
	}
}

// looksLikeStream reports whether an answer is an event stream, whatever its type says.
func looksLikeStream(b []byte) bool {
	for _, field := range []string{"data:", "event:", "id:", "retry:", ":"} {
		if bytes.HasPrefix(b, []byte(field)) {
			return true
		}
	}
	return false
}

// chunk takes one JSON object: a chunk, a whole completion, or an error. What is neither is passed
// over.
func (a *chatAnswer) chunk(data rawjson.Value) {
	ch, failed := readChunk(data)
	switch {
	case failed:
		a.fail(payloadError(data))
		return
	case !ch.choices.IsArray() && ch.usage == nil:
		return
	}
	a.note(&ch)
	a.start()
	if ch.choices.First() == nil {
		if a.finish != "" && ch.usage != nil {
			a.complete()
		}
		return
	}
	if reason := ch.choice.finish.Decode(); len(reason) > 0 {
		if err := finishError(string(reason)); err != nil {
			a.fail(err)
			return
		}
		if a.finish == "" {
			a.finish = string(reason)
		}
	}
	d := readDelta(ch.choice.delta)
	if ch.usage == nil && !ch.choice.all && a.finish == "" {
		a.learn(data, &d)
	}
	a.delta(d, ch.choice.all)
	a.bound()
}

// bound ends an answer of which too much has to wait.
func (a *chatAnswer) bound() {
	if a.held > maxHeld && !a.whole {
		a.fail(badAnswer("upstream sent more than can be held back"))
	}
}

// note keeps what a chunk says beside its text.
func (a *chatAnswer) note(ch *chunk) {
	if ch.usage != nil {
		a.counted = true
		a.usage.Usage, _ = usage.OfChat(ch.usage, a.c.profile.ReasoningExtra)
	}
	switch {
	case ch.tier.Is("default"):
		a.usage.Tier = "standard"
	case ch.tier.Is("priority"):
		a.usage.Tier = "priority"
	}
	for _, v := range [...]rawjson.Value{ch.choice.stop, ch.choice.matched} {
		if s := v.Decode(); len(s) > 0 {
			a.matched = string(s)
		}
	}
}

// A chunk is one JSON object of an answer.
type chunk struct {
	choices rawjson.Value
	choice  choice        // of index 0
	usage   rawjson.Value // an object, or absent
	tier    rawjson.Value
}

// readChunk reads a chunk, and reports whether it is an error.
func readChunk(data rawjson.Value) (ch chunk, failed bool) {
	var groq rawjson.Value
	for name, v := range data.Members() {
		failed = failed || saysError(string(name), v)
		switch string(name) {
		case "choices":
			ch.choices, ch.choice = v, readChoice(v)
		case "usage":
			ch.usage = v
		case "x_groq":
			groq = v.Get("usage")
		case "service_tier":
			ch.tier = v
		}
	}
	for _, other := range [...]rawjson.Value{groq, ch.choice.usage, nil} {
		if !ch.usage.IsObject() {
			ch.usage = other
		}
	}
	return ch, failed
}

// choice is one element of choices.
type choice struct {
	delta, finish, stop, matched, usage rawjson.Value
	all                                 bool // delta is a whole message
}

// readChoice reads the choice of index 0, which an element without index has.
func readChoice(choices rawjson.Value) choice {
	for e := range choices.Elements() {
		if !e.IsObject() {
			continue
		}
		var c choice
		var message, index rawjson.Value
		for name, v := range e.Members() {
			switch string(name) {
			case "index":
				index = v
			case "delta":
				c.delta = v
			case "message":
				message = v
			case "finish_reason":
				c.finish = v
			case "stop_reason":
				c.stop = v
			case "matched_stop":
				c.matched = v
			case "usage":
				c.usage = v
			}
		}
		if index.IsNull() || string(index) == "0" {
			if c.delta.IsNull() {
				c.delta, c.all = message, true
			}
			return c
		}
	}
	return choice{}
}

// delta is a piece of an answer, or the whole of it.
type delta struct {
	content, calls, function, refusal rawjson.Value
	reasoning, reasoning2, details    rawjson.Value
}

func readDelta(v rawjson.Value) (d delta) {
	for name, v := range v.Members() {
		switch string(name) {
		case "content":
			d.content = v
		case "reasoning_content":
			d.reasoning = v
		case "reasoning":
			d.reasoning2 = v
		case "reasoning_details":
			d.details = v
		case "refusal":
			d.refusal = v
		case "tool_calls":
			d.calls = v
		case "function_call": // what tool_calls was before
			d.function = v
		}
	}
	return d
}

// likeChunk knows how the chunks of a stream begin and end that hold nothing but a piece of text,
// or of one call's arguments. Most chunks are like the one before but for that, and so are not
// parsed again: outside of one valid string their bytes are the same, so they mean the same.
type likeChunk struct {
	kind           BlockKind
	call           callPiece // of a CallBlock, without arguments
	prefix, suffix []byte    // of the last one, without the quotes of its text; empty: not known yet
}

// maxAlike bounds what is kept of a chunk.
const maxAlike = 1 << 10

// text returns the text of a chunk that is like the last one, and whether it is.
func (l *likeChunk) text(data []byte) (rawjson.Text, bool) {
	if len(l.prefix) == 0 || !bytes.HasPrefix(data, l.prefix) || len(data) == len(l.prefix) || data[len(l.prefix)] != '"' {
		return nil, false
	}
	end, ok := rawjson.StringEnd(data, len(l.prefix))
	if !ok || !bytes.Equal(data[end:], l.suffix) {
		return nil, false
	}
	return rawjson.Text(data[len(l.prefix)+1 : end-1]), true
}

// like takes the text of a chunk that is like the last one.
func (a *chatAnswer) like(s rawjson.Text) {
	if a.alike.kind == CallBlock {
		p := a.alike.call
		p.args = s
		a.piece(p, false)
	} else {
		a.text(a.alike.kind, s)
	}
	a.bound()
}

// learn keeps how a chunk begins and ends around the one text that it holds, if it holds one.
func (a *chatAnswer) learn(data rawjson.Value, d *delta) {
	k, text := d.only(a.c.thinking)
	var p callPiece
	if k == CallBlock {
		p = readCall(d.calls.First())
		text = p.args
	}
	from := cap(data) - cap(text) // where text begins, if it is a slice of data
	to := from + len(text)
	if k == NoBlock || len(text) == 0 || from < 1 || to >= len(data) || &data[from] != &text[0] || len(data)-len(text) > maxAlike {
		return
	}
	a.alike.kind = k
	a.alike.call = callPiece{index: bytes.Clone(p.index), id: bytes.Clone(p.id), name: bytes.Clone(p.name), thought: bytes.Clone(p.thought)}
	a.alike.prefix = append(a.alike.prefix[:0], data[:from-1]...)
	a.alike.suffix = append(a.alike.suffix[:0], data[to+1:]...)
}

// only returns the text that a piece holds if it holds nothing else, and the kind of its block; a
// CallBlock if that is a piece of one call.
func (d *delta) only(thinking bool) (BlockKind, rawjson.Text) {
	content, reasoning, reasoning2 := d.content.Text(), d.reasoning.Text(), d.reasoning2.Text()
	texts := len(content) + len(reasoning) + len(reasoning2)
	switch {
	case !d.function.IsNull() || !d.details.IsNull() || len(d.refusal.Text()) > 0 || d.content.IsArray():
		return NoBlock, nil
	case !d.calls.IsNull():
		n := 0
		for range d.calls.Elements() {
			n++
		}
		if n != 1 || texts > 0 {
			return NoBlock, nil
		}
		return CallBlock, nil
	case texts == len(content):
		return TextBlock, content
	case thinking && texts == len(reasoning):
		return ThinkingBlock, reasoning
	case thinking && texts == len(reasoning2):
		return ThinkingBlock, reasoning2
	}
	return NoBlock, nil
}

// delta takes a piece of the answer, or with all set the whole of it: then no two elements are one
// call.
func (a *chatAnswer) delta(d delta, all bool) {
	if a.c.thinking {
		a.thinking(&d)
	}
	if d.content.IsString() {
		a.text(TextBlock, d.content.Text())
	} else {
		a.texts(TextBlock, d.content, "text")
	}
	if s := d.refusal.Text(); len(s) > 0 {
		a.refusal = append(a.refusal, s...)
		a.held += len(s)
		a.text(RefusalBlock, s)
	}
	called := false
	for e := range d.calls.Elements() {
		if called = true; a.ended {
			return
		}
		a.piece(readCall(e), all)
	}
	if !called && d.function.IsObject() {
		p := callPiece{index: rawjson.Value("0")}
		p.readFunction(d.function)
		a.piece(p, all)
	}
}

// thinking takes the reasoning of a piece, in the first of the forms that hold any.
func (a *chatAnswer) thinking(d *delta) {
	switch {
	case len(d.reasoning.Text()) > 0:
		a.text(ThinkingBlock, d.reasoning.Text())
	case len(d.reasoning2.Text()) > 0:
		a.text(ThinkingBlock, d.reasoning2.Text())
	case a.texts(ThinkingBlock, d.details, "text", "summary"):
	default: // Mistral: parts of the content
		for e := range d.content.Elements() {
			if t := e.Get("thinking"); t.IsString() {
				a.text(ThinkingBlock, t.Text())
			} else {
				a.texts(ThinkingBlock, t, "text")
			}
		}
	}
}

// texts takes the texts of an array's elements, the first of the names that one has, and reports
// whether there were any.
func (a *chatAnswer) texts(k BlockKind, list rawjson.Value, names ...string) (found bool) {
	for e := range list.Elements() {
		for _, name := range names {
			if s := e.Get(name).Text(); len(s) > 0 {
				a.text(k, s)
				found = true
				break
			}
		}
	}
	return found
}

// text takes a piece of text for a block of kind k. A tool call that is not complete is never cut
// in two by it: the text waits.
func (a *chatAnswer) text(k BlockKind, s rawjson.Text) {
	if len(s) == 0 || a.ended {
		return
	}
	if k == TextBlock && a.open != TextBlock && len(a.late) == 0 && s.Blank() {
		a.space = append(a.space, s...)
		a.held += len(s)
		return
	}
	if a.open == CallBlock {
		if !a.callTable.complete() {
			a.wait(k, s)
			return
		}
		a.flush()
	}
	a.write(k, s)
}

func (a *chatAnswer) wait(k BlockKind, s rawjson.Text) {
	a.held += len(s)
	if n := len(a.late); n > 0 && a.late[n-1].kind == k {
		a.late[n-1].text = append(a.late[n-1].text, s...)
		return
	}
	a.late = append(a.late, lateText{k, bytes.Clone(s)})
	a.held += 64
}

// write puts text out.
func (a *chatAnswer) write(k BlockKind, s rawjson.Text) {
	if a.open != k {
		a.openBlock(Block{Kind: k})
		if k == TextBlock && len(a.space) > 0 {
			a.to.Delta(a.space)
			a.space = a.space[:0]
		}
	}
	if k == ThinkingBlock && a.c.omitted {
		if a.c.profile.Echo {
			a.carry.Reasoning = append(a.carry.Reasoning, s...)
			a.held += len(s)
		}
		return
	}
	a.to.Delta(s)
}

// start begins the answer. Of its usage only the input is known then, if that.
func (a *chatAnswer) start() {
	if a.started {
		return
	}
	a.started = true
	u := a.usage
	u.Output, u.Reasoning = 0, 0
	if !a.counted {
		u.Input = int64(a.c.estimate)
	}
	a.to.Start(u)
}

// openBlock closes the block at hand and begins another one.
func (a *chatAnswer) openBlock(b Block) {
	a.closeBlock()
	a.open = b.Kind
	if b.Kind != TextBlock {
		a.space = a.space[:0]
	}
	a.to.Open(b)
}

// closeBlock ends the block at hand. A call's arguments must have been written.
func (a *chatAnswer) closeBlock() {
	switch a.open {
	case NoBlock:
		return
	case ThinkingBlock:
		a.to.Close(&a.carry)
		a.carry.Reasoning, a.carry.Calls = a.carry.Reasoning[:0], a.carry.Calls[:0]
	default:
		a.to.Close(nil)
	}
	a.open = NoBlock
}

// readCall reads an element of tool_calls.
func readCall(e rawjson.Value) (p callPiece) {
	for name, v := range e.Members() {
		switch string(name) {
		case "index":
			p.index = v
		case "id":
			p.id = v.Text()
		case "function":
			p.readFunction(v)
		case "extra_content":
			p.thought = v.Get("google", "thought_signature").Text()
		}
	}
	return p
}

func (p *callPiece) readFunction(v rawjson.Value) {
	p.name, p.args = nil, nil
	for name, v := range v.Members() {
		switch string(name) {
		case "name":
			p.name = v.Text()
		case "arguments":
			p.args = v.Text()
			if v.IsObject() {
				p.args = rawjson.AppendEmbedded(nil, v)
			}
		}
	}
}

// piece takes a piece of a tool call.
func (a *chatAnswer) piece(p callPiece, apart bool) {
	if p.empty() {
		return
	}
	c := a.take(&p, apart)
	if c == nil {
		a.fail(badAnswer("upstream made too many tool calls at once"))
		return
	}
	a.held += c.note(&p)
	a.arguments(c, p.args)
	a.advance()
	if len(a.late) > 0 && a.callTable.complete() {
		a.flush()
		a.writeLate()
	}
}

func (a *chatAnswer) arguments(c *call, args rawjson.Text) {
	if len(args) == 0 || c.closed {
		return
	}
	n := c.args.Feed(args)
	switch {
	case a.whole || !c.args.Begun():
		// A document needs all of it; and before an object has begun it may be one that is encoded
		// twice.
		n = len(args)
	case n < len(args) && !args[n:].Blank():
		a.c.drop("response.tool_calls.arguments")
	}
	c.buf = append(c.buf, args[:n]...)
	if a.last != a.head || !c.started || !c.args.Begun() {
		a.held += n
	}
}

// advance writes what can be written of the calls: the head as it comes, the next one when the head
// is complete.
func (a *chatAnswer) advance() {
	for a.head < len(a.calls) {
		c := &a.calls[a.head]
		if !c.started {
			if !c.named() {
				return
			}
			a.startCall(c)
		}
		a.writeArguments(c)
		if a.head+1 == len(a.calls) || !c.args.Complete() {
			return
		}
		a.closeCall(c)
	}
}

// flush writes all calls to their end.
func (a *chatAnswer) flush() {
	for a.head < len(a.calls) {
		c := &a.calls[a.head]
		if !c.started {
			a.startCall(c)
		}
		a.closeCall(c)
	}
}

func (a *chatAnswer) writeLate() {
	late := a.late
	a.late = nil
	for _, l := range late {
		a.write(l.kind, l.text)
	}
}

// startCall opens the block of the head. A thought signature of Gemini's goes before it, into a
// thinking block of its own if need be: nothing else comes back from the client.
func (a *chatAnswer) startCall(c *call) {
	c.started = true
	a.tools++
	a.giveID(c, func() string { return "toolu_" + a.c.id() })
	if len(c.thought) > 0 && a.c.thinking {
		if a.open != ThinkingBlock {
			a.openBlock(Block{Kind: ThinkingBlock})
		}
		a.carry.Calls = append(a.carry.Calls, callSignature{c.clientID, c.thought})
	}
	a.openBlock(Block{Kind: CallBlock, ID: c.clientID, Name: a.clientName(c)})
}

// clientName returns a call's name as the client declared it.
func (a *chatAnswer) clientName(c *call) rawjson.Text {
	for _, n := range a.c.names {
		if n.upstream == string(c.name) {
			return rawjson.Text(n.client)
		}
	}
	if len(c.name) == 0 {
		return rawjson.Text("tool_" + strconv.Itoa(a.head))
	}
	return c.name
}

// writeArguments writes what has come of the head's arguments. In a document they are written at
// the end.
func (a *chatAnswer) writeArguments(c *call) {
	if len(c.buf) > 0 && !a.whole && c.args.Begun() {
		a.to.Delta(c.buf)
		c.buf = c.buf[:0]
	}
}

// closeCall ends the head. What it lacks to be an object is added, unless the answer was cut by its
// length: then the client knows.
func (a *chatAnswer) closeCall(c *call) {
	cut := isLength(a.finish)
	switch {
	case a.whole || !c.args.Begun():
		object, exact := input(c.buf, cut)
		if !exact {
			a.c.drop("response.tool_calls.arguments")
		}
		a.to.Input(object)
	case !c.args.Complete() && !cut:
		a.c.drop("response.tool_calls.arguments")
		c.buf = c.args.AppendClosing(c.buf)
		fallthrough
	default:
		a.writeArguments(c)
	}
	a.closeBlock()
	c.closed, c.buf = true, nil
	c.args.Drop()
	a.head++
}

func (a *chatAnswer) end() {
	switch {
	case a.ended:
	case a.finish != "":
		a.complete()
	default:
		a.fail(badAnswer("upstream stream ended before completion"))
	}
}

// complete ends a whole answer.
func (a *chatAnswer) complete() {
	if a.ended {
		return
	}
	a.start()
	a.flush()
	a.writeLate()
	a.closeBlock()
	a.to.End(a.ending())
	a.ended = true
}

func (a *chatAnswer) ending() *Ending {
	e := &Ending{Refusal: a.refusal, Usage: a.usage}
	switch {
	case a.refusal != nil || strings.HasPrefix(a.finish, "content_filter"):
		e.Reason = Refused
	case isLength(a.finish):
		e.Reason = MaxTokens
	case a.tools > 0:
		e.Reason = ToolUse
	case a.matched != "" && slices.Contains(a.c.stops, a.matched):
		e.Reason, e.Sequence = StopSequence, a.matched
	}
	return e
}

func (a *chatAnswer) fail(err *Error) {
	if a.ended {
		return
	}
	a.ended, a.err = true, err
	a.to.Fail(err)
}

func isLength(finish string) bool {
	return finish == "length" || finish == "max_tokens" || finish == "model_length"
}

// finishError returns the error that a finish reason stands for, if it does.
func finishError(finish string) *Error {
	switch finish {
	case "error", "abort":
		return badAnswer("upstream ended the answer with an error")
	case "insufficient_system_resource":
		return &Error{Status: 529, Class: protocol.Overloaded, Message: "upstream ended the answer for lack of resources"}
	}
	return nil
}
