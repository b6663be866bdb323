package convert

import (
	"bytes"
	"slices"
	"strings"
)

// pending is a tool call of the assistant message written last.
type pending struct {
	id       []byte // as it went upstream, inside a JSON string
	answered bool
}

// part is a piece of a user message, or of a tool's output.
type part struct {
	kind partKind
	a, b []byte // inside a JSON string
}

type partKind uint8

const (
	textPart partKind = iota // a: the text
	dataPart                 // a: media type, b: base64
	urlPart                  // a: the URL
	filePart                 // a: file name, b: base64
)

func (w *writer) writeMessages() *Error {
	w.field("messages")
	w.out = append(w.out, '[')
	if err := w.writeSystem(); err != nil {
		return err
	}
	turns := w.merge(w.order())
	for i, t := range turns {
		bs := w.blocks[t.from:t.to]
		if t.role != user {
			w.interrupted()
		}
		switch t.role {
		case user:
			w.writeUserTurn(bs)
		case assistant:
			w.writeAssistant(bs, i == len(turns)-1)
		case system:
			w.writeReminder(bs)
		}
		if w.err != nil {
			return w.err
		}
	}
	w.interrupted()
	if w.turns == 0 {
		return invalid("messages: nothing to send, all content is empty")
	}
	w.out = append(w.out, ']')
	return nil
}

// billingPrefix begins Claude Code's attribution block. Its hash differs from request to request, and would defeat
// every prefix cache.
var billingPrefix = []byte("x-anthropic-billing-header")

// writeSystem writes the one leading system message: the request's system and the system messages that open the list.
func (w *writer) writeSystem() *Error {
	mark := len(w.out)
	w.str(`{"role":"system","content":"`)
	start := len(w.out)
	add := func(raw []byte) {
		s := inner(raw)
		if blank(s) || bytes.HasPrefix(s, billingPrefix) {
			return
		}
		if len(w.out) > start {
			w.str(`\n\n`)
		}
		w.out = append(w.out, s...)
	}
	switch kind(w.system) {
	case 0, 'n':
	case '"':
		add(w.system)
	case '[':
		r := reader{b: w.system}
		r.enter('[')
		for i := 0; r.more(']'); i++ {
			b := r.value()
			t := get(b, "text")
			switch typ := text(get(b, "type")); {
			case kind(b) != '{' || len(typ) == 0 || string(typ) == "text" && !isString(t):
				return invalid(path("system", i) + ": must be a text block")
			case string(typ) != "text":
				w.c.drop("system." + safeName(typ))
			default:
				add(t)
			}
		}
	default:
		return invalid("system: must be a string or an array")
	}
	for len(w.messages) > 0 && w.messages[0].role == system {
		m := w.messages[0]
		w.messages = w.messages[1:]
		w.eachText(w.blocks[m.from:m.to], add)
	}
	if w.p.JSONObjectOnly {
		if s := w.schema(); s != nil {
			if len(w.out) > start {
				w.str(`\n\n`)
			}
			w.str(`Answer with one JSON object that follows this JSON Schema: `)
			w.out = appendJSONText(w.out, s)
		}
	}
	if len(w.out) == start {
		w.out = w.out[:mark]
		return nil
	}
	w.str(`"}`)
	return nil
}

// eachText calls add for the texts of a system message.
func (w *writer) eachText(bs []block, add func(raw []byte)) {
	for i := range bs {
		if string(bs[i].typ) == "text" {
			add(bs[i].text)
		} else {
			w.dropBlock(&bs[i])
		}
	}
}

func (w *writer) dropBlock(b *block) {
	if len(w.c.dropped) == maxDropped {
		return
	}
	w.c.drop(b.path("") + ":" + safeName(b.typ))
}

// writeReminder writes a system message in the middle of the conversation.
func (w *writer) writeReminder(bs []block) {
	mark := len(w.out)
	w.sep()
	w.str(`{"role":"system","content":"`)
	start := len(w.out)
	w.eachText(bs, func(raw []byte) {
		if s := inner(raw); !blank(s) {
			if len(w.out) > start {
				w.str(`\n\n`)
			}
			w.out = append(w.out, s...)
		}
	})
	if len(w.out) == start {
		w.out = w.out[:mark]
		return
	}
	w.str(`"}`)
}

// order moves system messages out from between an assistant message with tool calls and the turn that answers them: a
// call and its result must be neighbours.
func (w *writer) order() []message {
	moved := false
	out := make([]message, 0, len(w.messages))
	var held []message
	next, more := -1, false         // the message after the system messages at hand; it has results
	calls, answered := false, false // of the assistant turn before; a user turn came after it
	for i, m := range w.messages {
		switch m.role {
		case system:
			if calls && answered && next < i {
				next = i
				for next < len(w.messages) && w.messages[next].role == system {
					next++
				}
				more = next < len(w.messages) && w.messages[next].role == user && w.has(w.messages[next], "tool_result")
			}
			if calls && (!answered || more) {
				held = append(held, m)
				continue
			}
		case user:
			moved = moved || len(held) > 0
			answered = calls
		case assistant:
			if answered {
				out, held = append(out, held...), held[:0]
				calls, answered = false, false
			}
			moved = moved || len(held) > 0
			calls = calls || w.has(m, "tool_use")
		}
		if m.role == system {
			out, held = append(out, held...), held[:0]
			calls, answered = false, false
		}
		out = append(out, m)
	}
	out = append(out, held...)
	if moved {
		blocks := make([]block, 0, len(w.blocks))
		for i, m := range out {
			out[i].from = len(blocks)
			blocks = append(blocks, w.blocks[m.from:m.to]...)
			out[i].to = len(blocks)
		}
		w.blocks = blocks
	}
	return out
}

func (w *writer) has(m message, typ string) bool {
	return slices.ContainsFunc(w.blocks[m.from:m.to], func(b block) bool { return string(b.typ) == typ })
}

// merge makes one turn of neighbouring messages of one role. Their blocks are neighbours too.
func (w *writer) merge(ms []message) []message {
	turns := ms[:0]
	for _, m := range ms {
		if n := len(turns); n > 0 && m.role != system && turns[n-1].role == m.role {
			turns[n-1].to = m.to
			continue
		}
		turns = append(turns, m)
	}
	return turns
}

func (w *writer) writeAssistant(bs []block, last bool) {
	mark := len(w.out)
	w.sep()
	w.str(`{"role":"assistant","content":"`)
	start := len(w.out)
	calls, apart := 0, false
	add := func(s []byte) {
		if blank(s) {
			return
		}
		if apart && len(w.out) > start {
			w.str(`\n\n`)
		}
		apart = false
		w.out = append(w.out, s...)
	}
	for i := range bs {
		b := &bs[i]
		switch typ := string(b.typ); {
		case typ == "text":
			add(inner(b.text))
			continue
		case typ == "tool_use":
			calls++
		case typ == "thinking":
			if !w.p.Echo || w.thinkingOff() {
				w.dropBlock(b)
			}
		case typ == "compaction" && isString(b.content):
			apart = true
			add(inner(b.content))
		case strings.HasSuffix(typ, "_tool_result"):
			w.dropBlock(b)
			apart = true
			w.serverResult(b.content, add)
		default:
			w.dropBlock(b)
		}
		apart = true
	}
	if len(w.out) > start {
		w.str(`"`)
	} else {
		if calls == 0 {
			w.out = w.out[:mark]
			return
		}
		w.out = append(w.out[:start-1], "null"...)
	}
	w.turns++
	w.writeEcho(bs, calls > 0)
	if calls > 0 {
		w.writeCalls(bs, calls)
	} else if last && w.p.MarkPrefill {
		w.str(`,"prefix":true`)
	}
	w.out = append(w.out, '}')
}

// serverResult adds the pages that a server tool found, one line each.
func (w *writer) serverResult(content []byte, add func([]byte)) {
	var lines []byte
	r := reader{b: content}
	if !r.enter('[') {
		return
	}
	for r.more(']') {
		e := r.value()
		title, url := inner(get(e, "title")), inner(get(e, "url"))
		if len(url) == 0 {
			continue
		}
		if lines != nil {
			lines = append(lines, `\n`...)
		}
		lines = append(lines, "- "...)
		lines = append(lines, title...)
		lines = append(lines, ": "...)
		lines = append(lines, url...)
	}
	add(lines)
}

// writeEcho gives a provider that wants it the reasoning of an earlier turn.
func (w *writer) writeEcho(bs []block, calls bool) {
	if !w.p.Echo || w.thinkingOff() {
		return
	}
	mark := len(w.out)
	w.str(`,"reasoning_content":"`)
	start := len(w.out)
	for i := range bs {
		if string(bs[i].typ) != "thinking" {
			continue
		}
		s := inner(bs[i].text)
		if len(s) == 0 {
			s = inner(get(openSignature(bs[i].signature), "r"))
		}
		if len(s) == 0 {
			continue
		}
		if len(w.out) > start {
			w.str(`\n\n`)
		}
		w.out = append(w.out, s...)
	}
	switch {
	case len(w.out) > start:
	case calls:
		w.str(w.p.EmptyEcho)
	default:
		w.out = w.out[:mark]
		return
	}
	w.str(`"`)
}

func (w *writer) writeCalls(bs []block, n int) {
	w.calls = w.calls[:0]
	clear(w.callIndex)
	if w.callIndex == nil {
		w.callIndex = make(map[string]int, n)
	}
	if w.p.CallSigned {
		w.readSignatures(bs)
	}
	w.str(`,"tool_calls":[`)
	for i := range bs {
		b := &bs[i]
		if string(b.typ) != "tool_use" {
			continue
		}
		id, given := w.toolID(b.id), text(b.id)
		if _, ok := w.callIndex[string(given)]; !ok {
			w.callIndex[string(given)] = len(w.calls)
		}
		w.calls = append(w.calls, pending{id: id})
		w.sep()
		w.str(`{"id":"`)
		w.out = append(w.out, id...)
		w.str(`","type":"function","function":{"name":"`)
		w.out = append(w.out, toolName(b.name)...)
		w.str(`","arguments":"`)
		if kind(b.input) == '{' {
			w.out = appendJSONText(w.out, b.input)
		} else {
			w.str("{}")
			if !isNull(b.input) {
				w.c.drop(b.path("input"))
			}
		}
		w.str(`"}`)
		if w.p.CallSigned {
			w.writeCallSignature(given, len(w.calls) == 1)
		}
		w.out = append(w.out, '}')
	}
	w.out = append(w.out, ']')
}

// readSignatures collects the thought signatures that came back in a turn's thinking blocks, by call.
func (w *writer) readSignatures(bs []block) {
	clear(w.signatures)
	if w.signatures == nil {
		w.signatures = make(map[string][]byte)
	}
	for i := range bs {
		if string(bs[i].typ) != "thinking" {
			continue
		}
		r := reader{b: get(openSignature(bs[i].signature), "g")}
		if !r.enter('{') {
			continue
		}
		for r.more('}') {
			if id, sig := r.key(), r.value(); isString(sig) {
				w.signatures[string(id)] = sig
			}
		}
	}
}

// writeCallSignature gives Gemini the thought signature of a call back. The first call of a turn must have one; for a
// call that Gemini did not make, or whose signature did not come back, its documentation has a constant.
func (w *writer) writeCallSignature(id []byte, first bool) {
	sig := w.signatures[string(id)]
	if sig == nil {
		if !first {
			return
		}
		sig = []byte(`"skip_thought_signature_validator"`)
	}
	w.str(`,"extra_content":{"google":{"thought_signature":`)
	w.out = append(w.out, sig...)
	w.str(`}}`)
}

// interrupted gives every call that is still without a result one: an unpaired call is a 400 everywhere.
func (w *writer) interrupted() {
	for i := range w.calls {
		if !w.calls[i].answered {
			w.toolMessage(w.calls[i].id)
			w.str(`[no result: the tool call was interrupted]"}`)
		}
	}
	w.calls = w.calls[:0]
	clear(w.callIndex)
}

// toolMessage writes a tool message up to the inside of its content.
func (w *writer) toolMessage(id []byte) {
	w.sep()
	w.str(`{"role":"tool","tool_call_id":"`)
	w.out = append(w.out, id...)
	w.str(`","content":"`)
	w.turns++
}

func (w *writer) writeUserTurn(bs []block) {
	w.parts = w.parts[:0]
	for i := range bs {
		if string(bs[i].typ) == "tool_result" {
			w.writeResult(&bs[i])
		}
	}
	w.interrupted()
	for i := range bs {
		b := &bs[i]
		switch string(b.typ) {
		case "tool_result":
			if b.orphan {
				w.appendOrphan(b)
			}
		case "text", "image", "document", "search_result":
			w.parts = w.appendPart(w.parts, b, false)
		case "tool_addition":
			if !w.addTool(b) {
				w.dropBlock(b)
			}
		default:
			w.dropBlock(b)
		}
	}
	w.writeParts()
}

// writeResult writes the tool message that a result becomes, and keeps its media for the user message behind all tool
// messages: only text is legal in a tool message, and nothing may stand between two of them.
func (w *writer) writeResult(b *block) {
	i, ok := w.callIndex[string(text(b.id))]
	if !ok || w.calls[i].answered {
		b.orphan = true
		return
	}
	w.calls[i].answered = true
	id := w.calls[i].id
	w.result = w.appendContent(w.result[:0], b)
	w.toolMessage(id)
	n, media := w.joinText(), false
	for _, p := range w.result {
		if p.kind == textPart {
			continue
		}
		if !media {
			media = true
			label := append([]byte("[output of tool call "), id...)
			w.parts = append(w.parts, part{a: append(label, ']')})
		}
		w.parts = append(w.parts, p)
	}
	switch {
	case n > 0:
	case media:
		w.str("[the tool output is attached in the next user message]")
	case b.failed:
		w.str("Tool execution failed")
	}
	w.str(`"}`)
}

// joinText writes the texts of the result at hand, a line break between them, and returns how much it wrote.
func (w *writer) joinText() int {
	start := len(w.out)
	for _, p := range w.result {
		if p.kind == textPart {
			if len(w.out) > start {
				w.str(`\n`)
			}
			w.out = append(w.out, p.a...)
		}
	}
	return len(w.out) - start
}

// appendOrphan makes user content of a result that answers no call, or a call that was answered before.
func (w *writer) appendOrphan(b *block) {
	w.result = w.appendContent(w.result[:0], b)
	start := len(w.out)
	w.joinText()
	s := append([]byte("[tool result] "), w.out[start:]...)
	w.out = w.out[:start]
	w.parts = append(w.parts, part{a: s})
	for _, p := range w.result {
		if p.kind != textPart {
			w.parts = append(w.parts, p)
		}
	}
}

// appendContent appends the parts of a tool result.
func (w *writer) appendContent(dst []part, b *block) []part {
	if s := inner(b.content); len(s) > 0 {
		return append(dst, part{a: s})
	}
	if kind(b.content) != '[' {
		return dst
	}
	r := reader{b: b.content}
	r.enter('[')
	for r.more(']') {
		in := block{message: b.message, at: b.at}
		if err := in.parse(&r); err != nil {
			w.fail(err)
			return dst
		}
		dst = w.appendPart(dst, &in, true)
	}
	return dst
}

// appendPart appends what a block becomes in a user message, or in a tool result.
func (w *writer) appendPart(dst []part, b *block, inResult bool) []part {
	switch string(b.typ) {
	case "text":
		if s := inner(b.text); !blank(s) {
			dst = append(dst, part{a: s})
		}
	case "image":
		p, ok := imagePart(b.source)
		switch {
		case ok:
			dst = append(dst, p)
		case inResult:
			w.c.drop(b.path("") + ":image")
			dst = append(dst, part{a: []byte("[image omitted: unsupported source]")})
		default:
			w.fail(invalid(b.path("source") + ": only base64 and url images can be sent to this provider"))
		}
	case "document":
		return w.appendDocument(dst, b, inResult)
	case "search_result":
		s := append([]byte("Title: "), inner(get(b.raw, "title"))...)
		s = append(s, `\nSource: `...)
		s = append(s, inner(b.source)...)
		r := reader{b: b.content}
		if r.enter('[') {
			for r.more(']') {
				if t := inner(get(r.value(), "text")); !blank(t) {
					s = append(s, `\n`...)
					s = append(s, t...)
				}
			}
		}
		dst = append(dst, part{a: s})
	case "tool_reference":
		s := append([]byte("[tool "), inner(b.name)...)
		dst = append(dst, part{a: append(s, " is now available]"...)})
	default:
		dst = append(dst, part{a: appendUnknown(nil, b.raw)})
	}
	return dst
}

// appendUnknown writes a block of unknown type as JSON text, less its cache mark.
func appendUnknown(dst, raw []byte) []byte {
	dst = append(dst, '{')
	r := reader{b: raw}
	r.enter('{')
	for r.more('}') {
		k, v := r.key(), r.value()
		if string(k) == "cache_control" {
			continue
		}
		if dst[len(dst)-1] != '{' {
			dst = append(dst, ',')
		}
		dst = appendJSONText(dst, appendString(nil, k))
		dst = append(dst, ':')
		dst = appendJSONText(dst, v)
	}
	return append(dst, '}')
}

func imagePart(source []byte) (part, bool) {
	s := readSource(source)
	switch {
	case string(s.typ) == "base64" && isString(s.media) && isString(s.data):
		return part{dataPart, inner(s.media), inner(s.data)}, true
	case string(s.typ) == "url" && isString(s.url):
		return part{kind: urlPart, a: inner(s.url)}, true
	}
	return part{}, false
}

// source is where an image or a document comes from.
type source struct{ typ, media, data, url, content []byte }

func readSource(raw []byte) (s source) {
	r := reader{b: raw}
	if !r.enter('{') {
		return s
	}
	for r.more('}') {
		switch k, v := r.key(), r.value(); string(k) {
		case "type":
			s.typ = text(v)
		case "media_type":
			s.media = v
		case "data":
			s.data = v
		case "url":
			s.url = v
		case "content":
			s.content = v
		}
	}
	return s
}

func (w *writer) appendDocument(dst []part, b *block, inResult bool) []part {
	src := readSource(b.source)
	title := inner(get(b.raw, "title"))
	var head []byte
	for _, f := range []struct {
		label string
		text  []byte
	}{{"Title: ", title}, {"Context: ", inner(get(b.raw, "context"))}} {
		if len(f.text) > 0 {
			head = append(append(append(head, f.label...), f.text...), `\n`...)
		}
	}
	switch typ := string(src.typ); {
	case typ == "text" && isString(src.data):
		return append(dst, part{a: append(head, inner(src.data)...)})
	case typ == "base64" && isString(src.data):
		if len(title) == 0 {
			title = []byte("document.pdf")
		}
		return append(dst, part{filePart, title, inner(src.data)})
	case typ == "content" && isString(src.content):
		return append(dst, part{a: append(head, inner(src.content)...)})
	case typ == "content" && kind(src.content) == '[':
		if head != nil {
			dst = append(dst, part{a: head[:len(head)-len(`\n`)]})
		}
		r := reader{b: src.content}
		r.enter('[')
		for r.more(']') {
			in := block{message: b.message, at: b.at}
			if err := in.parse(&r); err != nil {
				w.fail(err)
				return dst
			}
			if t := string(in.typ); t == "text" || t == "image" {
				dst = w.appendPart(dst, &in, inResult)
			} else {
				w.dropBlock(&in)
			}
		}
		return dst
	case inResult:
		w.c.drop(b.path("") + ":document")
		return append(dst, part{a: []byte("[document omitted: unsupported source]")})
	}
	w.fail(invalid(b.path("source") + ": only text, content and base64 documents can be sent to this provider"))
	return dst
}

// writeParts writes a user message: a string when all is text, which every endpoint takes, else an array.
func (w *writer) writeParts() {
	if len(w.parts) == 0 {
		return
	}
	w.turns++
	w.sep()
	w.str(`{"role":"user","content":`)
	if !slices.ContainsFunc(w.parts, func(p part) bool { return p.kind != textPart }) {
		w.str(`"`)
		for i, p := range w.parts {
			if i > 0 {
				w.str(`\n\n`)
			}
			w.out = append(w.out, p.a...)
		}
		w.str(`"}`)
		return
	}
	w.out = append(w.out, '[')
	for _, p := range w.parts {
		w.sep()
		switch p.kind {
		case textPart:
			w.str(`{"type":"text","text":"`)
			w.out = append(w.out, p.a...)
			w.str(`"}`)
		case urlPart:
			w.str(`{"type":"image_url","image_url":{"url":"`)
			w.out = append(w.out, p.a...)
			w.str(`"}}`)
		case dataPart:
			w.str(`{"type":"image_url","image_url":{"url":"data:`)
			w.out = append(w.out, p.a...)
			w.str(`;base64,`)
			w.out = append(w.out, p.b...)
			w.str(`"}}`)
		case filePart:
			w.str(`{"type":"file","file":{"filename":"`)
			w.out = append(w.out, p.a...)
			w.str(`","file_data":"data:application/pdf;base64,`)
			w.out = append(w.out, p.b...)
			w.str(`"}}`)
		}
	}
	w.str(`]}`)
}
