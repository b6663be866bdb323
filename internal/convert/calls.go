package convert

import (
	"bytes"

	"github.com/loadchange/apexproxy/internal/rawjson"
)

// maxCalls bounds the tool calls of one answer.
const maxCalls = 256

// A callPiece is what one element of tool_calls says of a call. Servers disagree about which of the
// fields they repeat.
type callPiece struct {
	index   rawjson.Value
	id      rawjson.Text
	name    rawjson.Text
	args    rawjson.Text
	thought rawjson.Text // Gemini's signature
}

// empty reports whether the piece says nothing of any call.
func (p *callPiece) empty() bool { return len(p.id) == 0 && len(p.name) == 0 && len(p.args) == 0 }

// call is one tool call of an answer.
type call struct {
	index    int64
	indexed  bool
	started  bool
	closed   bool
	id, name rawjson.Text // the upstream's
	clientID rawjson.Text
	thought  rawjson.Text    // Gemini's signature
	buf      rawjson.Text    // arguments not written yet
	args     rawjson.Partial // all arguments so far
}

// named reports whether it is known which call it is.
func (c *call) named() bool { return len(c.id) > 0 && len(c.name) > 0 }

// A callTable knows which piece belongs to which call, and how far the calls have come. They are
// written one after the other: only the head may be open, those behind it wait.
type callTable struct {
	calls []call
	head  int // the first call that is not closed
	last  int // the call touched last
}

// take returns the call that a piece belongs to, nil when there are too many. apart says that no
// two pieces are one call.
func (t *callTable) take(p *callPiece, apart bool) *call {
	i := -1
	index, indexed := p.index.Integer()
	switch {
	case apart:
	case indexed:
		i = t.byIndex(index)
		if i >= 0 && t.calls[i].restarted(p) {
			i = -1
		}
	case len(p.id) > 0:
		i = t.byID(p.id)
	case len(p.name) == 0 && len(t.calls) > 0:
		i = t.last
	}
	if i < 0 {
		if len(t.calls) == maxCalls {
			return nil
		}
		i = len(t.calls)
		t.calls = append(t.calls, call{index: index, indexed: indexed})
	}
	t.last = i
	return &t.calls[i]
}

// byIndex returns the newest call of an index, -1 if there is none.
func (t *callTable) byIndex(index int64) int {
	for i := len(t.calls) - 1; i >= 0; i-- {
		if c := &t.calls[i]; c.indexed && c.index == index {
			return i
		}
	}
	return -1
}

func (t *callTable) byID(id rawjson.Text) int {
	for i := len(t.calls) - 1; i >= 0; i-- {
		if string(t.calls[i].id) == string(id) {
			return i
		}
	}
	return -1
}

// restarted reports whether a piece of the same index begins another call: some servers send every
// call with index 0.
func (c *call) restarted(p *callPiece) bool {
	if len(p.name) == 0 {
		return false
	}
	other := len(p.id) > 0 && len(c.id) > 0 && string(p.id) != string(c.id)
	again := len(p.id) == 0 && c.args.Complete() && !p.args.Blank()
	return other || again
}

// note keeps what a piece says for the first time, but for its arguments, and returns how many
// bytes that holds.
func (c *call) note(p *callPiece) (held int) {
	if len(c.id) == 0 {
		c.id = bytes.Clone(p.id)
		held += len(p.id)
	}
	if len(c.name) == 0 {
		c.name = bytes.Clone(p.name)
		held += len(p.name)
	}
	if len(p.thought) > 0 {
		c.thought = bytes.Clone(p.thought)
		held += len(p.thought)
	}
	return held
}

// complete reports whether all of every call is known.
func (t *callTable) complete() bool {
	for i := t.head; i < len(t.calls); i++ {
		if c := &t.calls[i]; !c.args.Complete() || !c.named() {
			return false
		}
	}
	return true
}

// giveID sets the id that the client sees: the upstream's where every client takes it and it is the
// first of its kind, else what made returns.
func (t *callTable) giveID(c *call, made func() string) {
	id := rawjson.Text(bytes.Clone(c.id.Decode()))
	for i, b := range id {
		if !isToolByte(b) {
			id[i] = '_'
		}
	}
	fresh := len(id) > 0
	for i := range t.calls {
		fresh = fresh && string(t.calls[i].clientID) != string(id)
	}
	if !fresh {
		id = rawjson.Text(made())
	}
	c.clientID = id
}

// input makes a tool's input out of the text of its arguments: the object in it, also one that was
// encoded twice; {} for none at all; the closed beginning of an object if the answer was cut; {}
// for anything else. exact is false when something was lost.
func input(args rawjson.Text, cut bool) (object rawjson.Value, exact bool) {
	s := rawjson.Value(rawjson.Trim(args.Decode()))
	if s.IsString() && rawjson.Valid(s) {
		s = rawjson.Trim(s.Decode())
	}
	switch {
	case len(s) == 0 || string(s) == "null":
		return rawjson.Value("{}"), true
	case rawjson.ValidObject(s):
		return s, true
	case cut && s.IsObject():
		var p rawjson.Partial
		text := rawjson.Text(rawjson.AppendText(nil, s))
		text = p.AppendClosing(text[:p.Feed(text)])
		return text.Decode(), false
	}
	return rawjson.Value("{}"), false
}
