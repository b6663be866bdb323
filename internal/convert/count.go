package convert

import (
	"encoding/binary"
	"math/bits"

	"github.com/loadchange/apexproxy/internal/rawjson"
)

const (
	imageTokens    = 1600 // what a large image costs at Anthropic
	documentTokens = 1500 // a page, at least
	messageTokens  = 4    // role and separators
	toolTokens     = 8
)

// CountTokens estimates the input tokens of a Messages request, for providers that cannot count:
// two tokens for seven ASCII characters, one for any other character, 1600 for an image, one for 40
// characters of an encoded document, and a few for every message and tool. Thinking of earlier
// turns counts nothing, as most providers never get it. It is no tokenizer and can be far off. body
// must be JSON in its structure, see [rawjson.ScanStructure]; max_tokens need not be there.
func CountTokens(body []byte) (int, *Error) {
	r, err := readTurns(rawjson.Trim(body), func(string) {})
	if err != nil {
		return 0, err
	}
	return r.count(), nil
}

// count counts a request as it was read, its settings read or not.
func (r *messagesRequest) count() int {
	n := countText(r.system.Text()) + len(r.Turns)*messageTokens
	for b := range r.system.Elements() {
		n += countText(b.Get("text").Text())
	}
	for i := range r.items {
		n += r.items[i].tokens()
	}
	for t := range r.tools.Elements() {
		n += toolTokens + countText(t.Get("name").Text()) + countText(t.Get("description").Text()) + countText(t.Get("input_schema"))
	}
	return n
}

func (it *Item) tokens() int {
	switch it.Kind {
	case TextItem:
		return countText(it.Text)
	case ThinkingItem:
		return 0
	case ImageItem:
		return imageTokens
	case FileItem:
		return max(documentTokens, len(it.Data)/40)
	case CallItem:
		return toolTokens + countText(it.Name) + countText(it.Value)
	case ResultItem:
		n := toolTokens
		for i := range it.Result {
			n += it.Result[i].tokens()
		}
		return n
	}
	if it.Value.Get("type").Is("redacted_thinking") {
		return 0
	}
	return countText(it.Value)
}

func countText[T ~[]byte](s T) int {
	ascii, other := len(s), 0
	for ; len(s) >= 8; s = s[8:] {
		// The high bit of each byte that is not ASCII, and with the next bit those that begin a
		// character.
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
