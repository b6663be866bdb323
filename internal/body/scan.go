// Package body reads a request body once, within bounds, and finds and
// replaces single values of the JSON in it without touching another byte.
package body

import (
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
	"math/bits"

	"github.com/tidwall/gjson"
)

// maxDepth bounds nesting. A recursive parser further on (ours or an
// upstream's) would turn a body of brackets into a stack of gigabytes.
// encoding/json has the same bound.
const maxDepth = 10000

// ErrDepth is returned by [Scan] for JSON nested deeper than 10,000 levels.
var ErrDepth = errors.New("body: nested too deeply")

// SyntaxError says where a document stops being JSON.
type SyntaxError struct {
	Offset int // bytes before the offending one
}

func (e *SyntaxError) Error() string {
	return fmt.Sprintf("body: not JSON at byte %d", e.Offset)
}

// Member is a member of the top-level object: how often its name stands there
// and where the value of its last occurrence lies.
type Member struct {
	Count      int
	Start, End int
}

// Doc is what [Scan] found.
type Doc struct {
	Object                       bool // the document is an object
	Model, Stream, StreamOptions Member
}

// String returns the value of m decoded, and whether it is a string.
func (m Member) String(doc []byte) (string, bool) {
	if m.Count == 0 || doc[m.Start] != '"' {
		return "", false
	}
	return gjson.ParseBytes(doc[m.Start:m.End]).Str, true
}

// True reports whether the value of m is the literal true.
func (m Member) True(doc []byte) bool {
	return m.Count > 0 && string(doc[m.Start:m.End]) == "true"
}

// Scan checks that b is exactly one JSON text (RFC 8259; a byte order mark in
// front is allowed, as its section 8.1 permits parsers) and finds the members
// the proxy reads. Names are compared decoded, so "mod\u0065l" counts.
// It works in one pass, without recursion, and keeps nothing of b.
func Scan(b []byte) (Doc, error) {
	var (
		doc   Doc
		stack [maxDepth/64 + 1]uint64 // one bit a level: 1 = object
		depth int
		cur   *Member
		i     int
	)
	if len(b) >= 3 && b[0] == 0xEF && b[1] == 0xBB && b[2] == 0xBF {
		i = 3
	}
	isObject := func() bool { return stack[depth/64]&(1<<(depth%64)) != 0 }

value:
	i = skipSpace(b, i)
	if i >= len(b) {
		return Doc{}, &SyntaxError{i}
	}
	if depth == 1 && cur != nil {
		cur.Count++
		cur.Start = i
	}
	switch c := b[i]; {
	case c == '{' || c == '[':
		if depth++; depth > maxDepth {
			return Doc{}, ErrDepth
		}
		closing := byte(']')
		if c == '{' {
			stack[depth/64] |= 1 << (depth % 64)
			closing = '}'
			if depth == 1 {
				doc.Object = true
			}
		} else {
			stack[depth/64] &^= 1 << (depth % 64)
		}
		i = skipSpace(b, i+1)
		if i < len(b) && b[i] == closing {
			i++
			depth--
			break
		}
		if closing == '}' {
			goto key
		}
		goto value
	case c == '"':
		end, ok := skipString(b, i)
		if !ok {
			return Doc{}, &SyntaxError{end}
		}
		i = end
	case c == '-' || c >= '0' && c <= '9':
		end, ok := skipNumber(b, i)
		if !ok {
			return Doc{}, &SyntaxError{end}
		}
		i = end
	default:
		end, ok := skipLiteral(b, i)
		if !ok {
			return Doc{}, &SyntaxError{end}
		}
		i = end
	}

after:
	if depth == 1 && cur != nil {
		cur.End = i
		cur = nil
	}
	i = skipSpace(b, i)
	if depth == 0 {
		if i != len(b) {
			return Doc{}, &SyntaxError{i}
		}
		return doc, nil
	}
	if i >= len(b) {
		return Doc{}, &SyntaxError{i}
	}
	switch obj := isObject(); {
	case b[i] == ',' && obj:
		i++
		goto key
	case b[i] == ',':
		i++
		goto value
	case b[i] == '}' && obj, b[i] == ']' && !obj:
		i++
		depth--
		goto after
	}
	return Doc{}, &SyntaxError{i}

key:
	i = skipSpace(b, i)
	if i >= len(b) || b[i] != '"' {
		return Doc{}, &SyntaxError{i}
	}
	end, ok := skipString(b, i)
	if !ok {
		return Doc{}, &SyntaxError{end}
	}
	if depth == 1 {
		cur = doc.member(b[i:end])
	}
	i = skipSpace(b, end)
	if i >= len(b) || b[i] != ':' {
		return Doc{}, &SyntaxError{i}
	}
	i++
	goto value
}

// member returns where to note the value of the member with this quoted name,
// or nil when nobody asks for it.
func (d *Doc) member(quoted []byte) *Member {
	name := quoted[1 : len(quoted)-1]
	for _, c := range name {
		if c == '\\' {
			name = []byte(gjson.ParseBytes(quoted).Str)
			break
		}
	}
	switch string(name) {
	case "model":
		return &d.Model
	case "stream":
		return &d.Stream
	case "stream_options":
		return &d.StreamOptions
	}
	return nil
}

func skipSpace(b []byte, i int) int {
	for i < len(b) && (b[i] == ' ' || b[i] == '\n' || b[i] == '\r' || b[i] == '\t') {
		i++
	}
	return i
}

const (
	ones  = 0x0101010101010101
	highs = 0x8080808080808080
)

// stops marks, in the high bit of each byte of v, those that end a run of plain
// string: quotes, backslashes and control characters. The lowest mark is right;
// marks above it may be wrong.
func stops(v uint64) uint64 {
	return ((v - ones*' ') | ((v ^ ones*'"') - ones) | ((v ^ ones*'\\') - ones)) &^ v & highs
}

// simple are the bytes that follow a backslash in an escape of two.
var simple = [256]bool{'"': true, '\\': true, '/': true, 'b': true, 'f': true, 'n': true, 'r': true, 't': true}

// skipString returns the index after the string that starts at i, or the
// index of the byte that breaks it. A prompt is nearly all string, so the longer
// a run without escapes is, the more bytes are looked at together.
func skipString(b []byte, i int) (int, bool) {
	for i++; ; {
		if i+8 <= len(b) {
			stop := stops(binary.LittleEndian.Uint64(b[i:]))
			if stop == 0 {
				i = skipLong(b, i+8)
				continue
			}
			i += bits.TrailingZeros64(stop) / 8
		} else if i >= len(b) {
			return i, false
		}
		switch c := b[i]; {
		case c == '\\':
			if i+1 >= len(b) {
				return len(b), false
			}
			if simple[b[i+1]] {
				i += 2
				continue
			}
			if b[i+1] != 'u' {
				return i + 1, false
			}
			for k := i + 2; k < i+6; k++ {
				if k >= len(b) || !isHex(b[k]) {
					return min(k, len(b)), false
				}
			}
			i += 6
		case c == '"':
			return i + 1, true
		case c < ' ':
			return i, false
		default:
			i++ // one of the last seven bytes of b
		}
	}
}

// skipLong skips what is plain string in large steps.
func skipLong(b []byte, i int) int {
	for n := 0; i+32 <= len(b); n++ {
		p := b[i : i+32 : i+32]
		if stops(binary.LittleEndian.Uint64(p))|stops(binary.LittleEndian.Uint64(p[8:]))|
			stops(binary.LittleEndian.Uint64(p[16:]))|stops(binary.LittleEndian.Uint64(p[24:])) != 0 {
			return i
		}
		i += 32
		// bytes.IndexByte is faster still, but not on short runs.
		for n >= 4 && i+window <= len(b) && plain(b[i:i+window]) {
			i += window
		}
	}
	return i
}

const window = 512

func plain(p []byte) bool {
	if bytes.IndexByte(p, '\\') >= 0 || bytes.IndexByte(p, '"') >= 0 {
		return false
	}
	var control uint64
	for ; len(p) >= 32; p = p[32:] {
		v0, v1 := binary.LittleEndian.Uint64(p), binary.LittleEndian.Uint64(p[8:])
		v2, v3 := binary.LittleEndian.Uint64(p[16:]), binary.LittleEndian.Uint64(p[24:])
		control |= (v0-ones*' ')&^v0 | (v1-ones*' ')&^v1 | (v2-ones*' ')&^v2 | (v3-ones*' ')&^v3
	}
	return control&highs == 0
}

func isHex(c byte) bool {
	return c >= '0' && c <= '9' || c|0x20 >= 'a' && c|0x20 <= 'f'
}

func skipDigits(b []byte, i int) int {
	for i < len(b) && b[i] >= '0' && b[i] <= '9' {
		i++
	}
	return i
}

func skipNumber(b []byte, i int) (int, bool) {
	if b[i] == '-' {
		i++
	}
	start := i
	i = skipDigits(b, i)
	if i == start || b[start] == '0' && i > start+1 {
		return start, false
	}
	if i < len(b) && b[i] == '.' {
		start = i + 1
		if i = skipDigits(b, start); i == start {
			return i, false
		}
	}
	if i < len(b) && b[i]|0x20 == 'e' {
		i++
		if i < len(b) && (b[i] == '+' || b[i] == '-') {
			i++
		}
		start = i
		if i = skipDigits(b, start); i == start {
			return i, false
		}
	}
	return i, true
}

func skipLiteral(b []byte, i int) (int, bool) {
	for _, lit := range [...]string{"true", "false", "null"} {
		if len(b)-i >= len(lit) && string(b[i:i+len(lit)]) == lit {
			return i + len(lit), true
		}
	}
	return i, false
}
