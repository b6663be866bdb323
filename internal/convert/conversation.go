package convert

import (
	"bytes"
	"slices"
	"strconv"

	"github.com/loadchange/apexproxy/internal/rawjson"
)

// A Conversation is a request of any protocol, as slices of the client's body: nothing in it is
// decoded, and next to nothing copied. A reader fills it in the client's order, normalize brings it
// into one that every upstream takes, a writer renders it.
type Conversation struct {
	System   []rawjson.Text // none is blank
	Turns    []Turn
	Tools    []Tool
	Settings Settings
	tokens   func() int // an estimate of what it costs, as it was read
}

// A Turn is one speaker's run of items.
//
// After normalize, no two neighbours but system turns have the same role; the results of a turn's
// calls, one for each and in the order in which they came, begin the user turn behind it; and no
// other result is anywhere. A turn may still be empty, or hold nothing but blank text.
type Turn struct {
	Role  Role
	Items []Item
}

// Role says who speaks.
type Role uint8

// The roles. A system turn inside of the conversation is a reminder of the host's.
const (
	NoRole Role = iota
	User
	Assistant
	System
)

// An Item is one thing said. Its kind tells which fields are set.
type Item struct {
	Kind      ItemKind
	Apart     bool          // of a text: it never runs on from the text before, nor on into that behind
	Failed    bool          // of a result: the call failed
	Text      rawjson.Text  // of a text and of thinking; of a file its name
	Media     rawjson.Text  // of an image: its media type
	Data      rawjson.Text  // of an image or a file, base64
	URL       rawjson.Text  // of an image, in the place of Media and Data
	ID        rawjson.Text  // of a call, and of its result
	Name      rawjson.Text  // of a call
	Signature rawjson.Text  // of thinking
	Value     rawjson.Value // of a call its input, of an unknown item all of it
	Result    []Item        // of a result: texts, and images and files that have a source
	Where     Place
}

// ItemKind says what an item is.
type ItemKind uint8

// The kinds. An image or a file without Data and URL is one whose source no other protocol knows.
const (
	UnknownItem ItemKind = iota
	TextItem
	ThinkingItem
	ImageItem
	FileItem // a PDF
	CallItem
	ResultItem
)

// A Place is where the client wrote an item, for losses and errors.
type Place struct{ Message, Block int }

// path returns the place as the client's protocol spells it, with a field's name behind it if that
// is not empty.
func (p Place) path(field string) string {
	s := path("messages", p.Message, "content", p.Block)
	if field != "" {
		s += "." + field
	}
	return s
}

// path joins names and indexes by dots.
func path(parts ...any) string {
	var b []byte
	for i, p := range parts {
		if i > 0 {
			b = append(b, '.')
		}
		switch p := p.(type) {
		case string:
			b = append(b, p...)
		case int:
			b = strconv.AppendInt(b, int64(p), 10)
		}
	}
	return string(b)
}

// A Tool is a function that the model may call. Schema is absent or an object.
type Tool struct {
	Name        rawjson.Text
	Description rawjson.Value
	Schema      rawjson.Value
	Strict      bool
}

// Settings are what a request asks for beside the conversation. Absent values and zero are what the
// client did not say.
type Settings struct {
	MaxTokens   rawjson.Value // digits
	Stream      bool
	Temperature rawjson.Value
	TopP        rawjson.Value
	Stop        []rawjson.Text // none is empty
	User        rawjson.Text
	Effort      string // of reasoning, in OpenAI's words
	NoThinking  bool   // thinking was switched off
	Thinking    bool   // the answer may hold thinking
	Omitted     bool   // but not show it
	Schema      rawjson.Value
	Choice      ToolChoice
	Serial      bool // one tool call at a time
	Tier        Tier
}

// ToolChoice says which tools may or must be called.
type ToolChoice struct {
	Mode ChoiceMode
	Name rawjson.Text // of the tool that must be called
}

// ChoiceMode is one of the four ways to choose tools.
type ChoiceMode uint8

// The modes.
const (
	ChoiceUnsaid ChoiceMode = iota
	ChoiceAuto
	ChoiceNone
	ChoiceAny
	ChoiceTool
)

// Tier says how fast the answer should be.
type Tier uint8

// The tiers.
const (
	TierUnsaid   Tier = iota
	TierStandard      // no more than what is guaranteed
	TierOther         // one that no other protocol knows
)

// normalize brings the conversation into the order that Turn promises. drop is told of what is
// lost.
func (c *Conversation) normalize(drop func(string)) {
	for len(c.Turns) > 0 && c.Turns[0].Role == System {
		for i := range c.Turns[0].Items {
			c.addSystem(&c.Turns[0].Items[i], drop)
		}
		c.Turns = c.Turns[1:]
	}
	c.System = slices.DeleteFunc(c.System, isNoise)
	for _, t := range c.Turns {
		for i := range t.Items {
			t.Items[i].replaceUnknownSources(drop)
		}
	}
	c.Turns = paired(merged(unsplit(c.Turns)))
}

func (c *Conversation) addSystem(it *Item, drop func(string)) {
	if it.Kind == TextItem {
		c.System = append(c.System, it.Text)
	} else {
		drop(it.loss())
	}
}

// loss names an item that cannot be carried.
func (it *Item) loss() string {
	typ := kindNames[it.Kind]
	if it.Kind == UnknownItem {
		typ = safeName(it.Value.Get("type").Decode())
	}
	return it.Where.path("") + ":" + typ
}

// hasSource reports whether an image or a file can be sent: whether any other protocol knows where
// it comes from.
func (it *Item) hasSource() bool { return it.Data != nil || it.URL != nil }

var kindNames = [...]string{TextItem: "text", ThinkingItem: "thinking", ImageItem: "image", FileItem: "document", CallItem: "tool_use", ResultItem: "tool_result"}

// replaceUnknownSources says in words what of a result cannot be sent.
func (it *Item) replaceUnknownSources(drop func(string)) {
	for i := range it.Result {
		if in := &it.Result[i]; in.Kind != TextItem && !in.hasSource() {
			drop(in.loss())
			*in = Item{Kind: TextItem, Text: rawjson.Text("[" + kindNames[in.Kind] + " omitted: unsupported source]"), Where: in.Where}
		}
	}
}

// billingPrefix begins Claude Code's attribution block. Its hash differs from request to request,
// and would defeat every prefix cache.
var billingPrefix = []byte("x-anthropic-billing-header")

// isNoise reports whether a text of the system prompt tells the model nothing.
func isNoise(s rawjson.Text) bool { return s.Blank() || bytes.HasPrefix(s, billingPrefix) }

func (t *Turn) has(k ItemKind) bool {
	return slices.ContainsFunc(t.Items, func(it Item) bool { return it.Kind == k })
}

// unsplit moves system turns out of tool groups and behind them: a call and its result must be
// neighbours.
func unsplit(turns []Turn) []Turn {
	if !slices.ContainsFunc(turns, func(t Turn) bool { return t.Role == System }) {
		return turns
	}
	out := make([]Turn, 0, len(turns))
	for len(turns) > 0 {
		n := max(toolGroup(turns), 1)
		for _, system := range []bool{false, true} {
			for _, t := range turns[:n] {
				if (t.Role == System) == system {
					out = append(out, t)
				}
			}
		}
		turns = turns[n:]
	}
	return out
}

// toolGroup returns how many of the turns belong together: an assistant turn with calls, whatever
// stands before the user turn that answers it, and further user turns, with system turns between
// them only where what follows holds results still. It is 0 when the first turn has no calls.
func toolGroup(turns []Turn) int {
	if turns[0].Role != Assistant || !turns[0].has(CallItem) {
		return 0
	}
	n := 1
	for n < len(turns) && turns[n].Role != User {
		n++
	}
	for n < len(turns) && turns[n].Role == User {
		n++
		next := n
		for next < len(turns) && turns[next].Role == System {
			next++
		}
		if next < len(turns) && turns[next].Role == User && turns[next].has(ResultItem) {
			n = next
		}
	}
	return n
}

// merged makes one turn of neighbours of one role.
func merged(turns []Turn) []Turn {
	out := turns[:0]
	own := false // the last turn's items are in memory of its own
	for _, t := range turns {
		if n := len(out); n > 0 && t.Role != System && out[n-1].Role == t.Role {
			last := &out[n-1]
			if !own {
				last.Items = slices.Clip(last.Items)
			}
			last.Items, own = append(last.Items, t.Items...), true
			continue
		}
		out, own = append(out, t), false
	}
	return out
}

// interrupted is the result of a call that has none: an unpaired call is a 400 everywhere.
var interrupted = []Item{{Kind: TextItem, Text: rawjson.Text("[no result: the tool call was interrupted]")}}

// paired gives every call its result, in the turn behind it, and makes plain text of the results
// that answer none.
func paired(turns []Turn) []Turn {
	if !slices.ContainsFunc(turns, func(t Turn) bool { return t.has(CallItem) || t.has(ResultItem) }) {
		return turns
	}
	out := make([]Turn, 0, len(turns)+1)
	var calls []rawjson.Text // ids of the turn before
	for _, t := range turns {
		switch {
		case t.Role == User:
			t.Items = answers(calls, t.Items)
		case len(calls) > 0:
			out = append(out, Turn{User, answers(calls, nil)})
		}
		out = append(out, t)
		calls = calls[:0]
		for i := range t.Items {
			if t.Items[i].Kind == CallItem {
				calls = append(calls, t.Items[i].ID)
			}
		}
	}
	if len(calls) > 0 {
		out = append(out, Turn{User, answers(calls, nil)})
	}
	return out
}

// answers returns the items of the user turn behind the calls: their results first.
func answers(calls []rawjson.Text, items []Item) []Item {
	if inOrder(calls, items) {
		return items
	}
	open := make(map[string]int, len(calls)) // calls by id; of equal ids the first is answered
	for i := len(calls) - 1; i >= 0; i-- {
		open[string(calls[i].Decode())] = i
	}
	answered := make([]bool, len(calls))
	out := make([]Item, 0, len(items)+len(calls))
	var rest []Item
	for _, it := range items {
		if it.Kind != ResultItem {
			rest = append(rest, it)
			continue
		}
		i, ok := open[string(it.ID.Decode())]
		if !ok || answered[i] {
			rest = appendOrphan(rest, it)
			continue
		}
		answered[i] = true
		it.ID = calls[i]
		out = append(out, it)
	}
	for i, id := range calls {
		if !answered[i] {
			out = append(out, Item{Kind: ResultItem, ID: id, Result: interrupted})
		}
	}
	return append(out, rest...)
}

// inOrder reports whether the items are what answers would make of them, as they nearly always are.
// It looks at no more than a few calls.
func inOrder(calls []rawjson.Text, items []Item) bool {
	if len(calls) > 8 || len(items) < len(calls) {
		return false
	}
	for i := range items {
		if (i < len(calls)) != (items[i].Kind == ResultItem) {
			return false
		}
	}
	for i, id := range calls {
		if !bytes.Equal(id, items[i].ID) {
			return false
		}
		for _, other := range calls[:i] {
			if bytes.Equal(id, other) {
				return false
			}
		}
	}
	return true
}

// appendOrphan makes plain items of a result that answers no call, or one that was answered before.
func appendOrphan(dst []Item, result Item) []Item {
	text := rawjson.Text("[tool result] ")
	begun := len(text)
	for _, it := range result.Result {
		if it.Kind == TextItem {
			text = appendApart(text, begun, `\n`, it.Text)
		}
	}
	dst = append(dst, Item{Kind: TextItem, Text: text})
	for _, it := range result.Result {
		if it.Kind != TextItem {
			dst = append(dst, it)
		}
	}
	return dst
}

// appendApart appends s, behind the separator if dst is longer than begun.
func appendApart[T ~[]byte](dst T, begun int, separator string, s rawjson.Text) T {
	if len(dst) > begun {
		dst = append(dst, separator...)
	}
	return append(dst, s...)
}
