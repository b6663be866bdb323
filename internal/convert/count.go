package convert

import (
	"encoding/binary"
	"math/bits"
)

const (
	imageTokens    = 1600 // what a large image costs at Anthropic
	documentTokens = 1500 // a page, at least
	messageTokens  = 4    // role and separators
	toolTokens     = 8
)

// CountTokens estimates the input tokens of a Messages request, for providers that cannot count: two tokens for seven
// ASCII characters, one for any other character, 1600 for an image, one for 40 characters of an encoded document, and a
// few for every message and tool. Thinking of earlier turns counts nothing, as most providers never get it. It is no
// tokenizer and can be far off. body must be valid JSON; max_tokens need not be there.
func CountTokens(body []byte) (int, *Error) {
	var r request
	if err := r.parse(trim(body), func(string) {}); err != nil {
		return 0, err
	}
	return r.tokens(), nil
}

func (r *request) tokens() int {
	n := countBlocks(r.system) + len(r.messages)*messageTokens
	for i := range r.blocks {
		n += r.blocks[i].tokens()
	}
	tools := reader{b: r.tools}
	if kind(r.tools) == '[' {
		tools.enter('[')
		for tools.more(']') {
			t := tools.value()
			n += toolTokens + countText(inner(get(t, "name"))) + countText(inner(get(t, "description"))) +
				countText(get(t, "input_schema"))
		}
	}
	return n
}

func (b *block) tokens() int {
	switch string(b.typ) {
	case "text":
		return countText(inner(b.text))
	case "thinking", "redacted_thinking":
		return 0
	case "image":
		return imageTokens
	case "document":
		s := readSource(b.source)
		if string(s.typ) == "text" {
			return countText(inner(s.data))
		}
		if s.content != nil {
			return countBlocks(s.content)
		}
		return max(documentTokens, len(s.data)/40)
	case "tool_use":
		return toolTokens + countText(inner(b.name)) + countText(b.input)
	case "tool_result":
		return toolTokens + countBlocks(b.content)
	}
	return countText(b.raw)
}

// countBlocks counts a string, or an array of blocks.
func countBlocks(raw []byte) int {
	if kind(raw) != '[' {
		return countText(inner(raw))
	}
	n := 0
	r := reader{b: raw}
	r.enter('[')
	for r.more(']') {
		var b block
		e := reader{b: r.value()}
		if b.parse(&e) != nil {
			continue
		}
		if string(b.typ) == "document" && kind(b.source) == '{' || string(b.typ) == "tool_result" {
			// No deeper: a document in a result counts by its size.
			n += max(documentTokens, len(b.raw)/40)
			continue
		}
		n += b.tokens()
	}
	return n
}

func countText(s []byte) int {
	ascii, other := len(s), 0
	for ; len(s) >= 8; s = s[8:] {
		// The high bit of each byte that is not ASCII, and with the next bit those that begin a character.
		v := binary.LittleEndian.Uint64(s)
		high := v & 0x8080808080808080
		ascii -= bits.OnesCount64(high)
		other += bits.OnesCount64(high & (v << 1))
	}
	for _, c := range s {
		if c >= 0x80 {
			ascii--
		}
		if c >= 0xC0 {
			other++
		}
	}
	return (ascii*2+6)/7 + other
}
