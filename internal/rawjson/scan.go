package rawjson

import (
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
	"math/bits"
)

// MaxDepth bounds nesting. A recursive parser further on (ours or an upstream's) would turn a body
// of brackets into a stack of gigabytes. encoding/json has the same bound.
const MaxDepth = 10000

// ErrDepth is returned by [Scan] for JSON nested deeper than [MaxDepth].
var ErrDepth = errors.New("rawjson: nested too deeply")

// A SyntaxError says where a document stops being JSON.
type SyntaxError struct {
	Offset int // bytes before the offending one
}

func (e *SyntaxError) Error() string { return fmt.Sprintf("rawjson: not JSON at byte %d", e.Offset) }

// A Span is a place in a document: bytes Start to End, without the latter.
type Span struct{ Start, End int }

// Valid reports whether b is exactly one JSON text as [encoding/json.Valid] knows it: RFC 8259,
// nested no deeper than [MaxDepth], without a byte order mark.
func Valid(b []byte) bool {
	return !bytes.HasPrefix(b, byteOrderMark) && Scan(b, nil) == nil
}

// ValidObject reports whether b is one valid JSON object.
func ValidObject(b []byte) bool { return Value(b).IsObject() && Valid(b) }

var byteOrderMark = []byte("\xEF\xBB\xBF")

// Scan checks that b is exactly one JSON text. A byte order mark in front is allowed, as RFC 8259
// §8.1 permits parsers. If member is not nil it is called for each member of a top-level object, in
// order, with the places of its quoted name and of its value. The error is a [*SyntaxError] or
// [ErrDepth]. Scan works in one pass, without recursion or allocation, and keeps nothing of b.
func Scan(b []byte, member func(name, value Span)) error { return scan(b, member, skipString) }

// ScanStructure is Scan for a fraction of its cost: it leaves what stands inside of string values
// unread, escapes and control characters, and looks for their ends alone. Everything else is
// checked: names whole, numbers, literals, brackets and depth.
func ScanStructure(b []byte, member func(name, value Span)) error {
	return scan(b, member, skipContent)
}

// scan is Scan with a function that skips string values.
//
// The labels are the states of the grammar, and the function is long because the grammar is: with a
// function for each state, place and nesting would have to be handed on at every token.
func scan(b []byte, member func(name, value Span), skipValue func([]byte, int) (int, bool)) error {
	var (
		in    nesting
		name  Span // of the top-level member at hand
		start int  // of its value
		ok    bool
		i     int
		quote int
	)
	if bytes.HasPrefix(b, byteOrderMark) {
		i = len(byteOrderMark)
	}

value:
	i = skipSpace(b, i)
	if i >= len(b) {
		return &SyntaxError{i}
	}
	if in.depth == 1 {
		start = i
	}
	switch c := b[i]; {
	case c == '{' || c == '[':
		if !in.push(c == '{') {
			return ErrDepth
		}
		i = skipSpace(b, i+1)
		switch {
		case i < len(b) && b[i] == c+2: // ] is [ + 2, and } is { + 2
			i++
			in.depth--
		case c == '{':
			goto name
		default:
			goto value
		}
	case c == '"':
		if i, ok = skipValue(b, i); !ok {
			return &SyntaxError{i}
		}
	case c == '-' || c >= '0' && c <= '9':
		if i, ok = skipNumber(b, i); !ok {
			return &SyntaxError{i}
		}
	default:
		if i, ok = skipLiteral(b, i); !ok {
			return &SyntaxError{i}
		}
	}

after:
	if in.depth == 1 && member != nil && in.object() {
		member(name, Span{start, i})
	}
	i = skipSpace(b, i)
	if in.depth == 0 && i == len(b) {
		return nil
	}
	if in.depth == 0 || i >= len(b) {
		return &SyntaxError{i}
	}
	switch object := in.object(); {
	case b[i] == ',' && object:
		i++
		goto name
	case b[i] == ',':
		i++
		goto value
	case b[i] == '}' && object, b[i] == ']' && !object:
		i++
		in.depth--
		goto after
	}
	return &SyntaxError{i}

name:
	i = skipSpace(b, i)
	if i >= len(b) || b[i] != '"' {
		return &SyntaxError{i}
	}
	quote = i
	if i, ok = skipString(b, i); !ok {
		return &SyntaxError{i}
	}
	if in.depth == 1 {
		name = Span{quote, i}
	}
	if i = skipSpace(b, i); i >= len(b) || b[i] != ':' {
		return &SyntaxError{i}
	}
	i++
	goto value
}

// nesting remembers of each open container whether it is an object, one bit a level.
type nesting struct {
	depth   int
	objects [MaxDepth/64 + 1]uint64
}

// push opens a container, and reports false when that is one too many.
func (n *nesting) push(object bool) bool {
	if n.depth++; n.depth > MaxDepth {
		return false
	}
	bit := uint64(1) << (n.depth % 64)
	if object {
		n.objects[n.depth/64] |= bit
	} else {
		n.objects[n.depth/64] &^= bit
	}
	return true
}

// object reports whether the innermost container is one.
func (n *nesting) object() bool { return n.objects[n.depth/64]&(1<<(n.depth%64)) != 0 }

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

// stops marks, in the high bit of each byte of v, those that end a run of plain string: quotes,
// backslashes and control characters. A quote xor 2 is the space, so that one subtraction finds it
// together with the control characters. Borrows make marks above the lowest one unreliable: only
// that one may be used.
func stops(v uint64) uint64 {
	return (((v ^ ones*2) - ones*0x21) | ((v ^ ones*'\\') - ones)) &^ v & highs
}

// simple are the bytes that follow a backslash in an escape of two.
var simple = [256]bool{'"': true, '\\': true, '/': true, 'b': true, 'f': true, 'n': true, 'r': true, 't': true}

// StringEnd returns the index after the string that starts at b[i], its closing quote included, and
// whether it is a valid one.
func StringEnd(b []byte, i int) (end int, ok bool) { return skipString(b, i) }

// skipString returns the index after the string that starts at i, or the index of the byte that
// breaks it. A prompt is nearly all string, and most of what stops the run are escapes of two: the
// loop goes on behind them at once. After a long run without any it looks at more bytes together.
func skipString(b []byte, i int) (int, bool) {
	i++
	for run := i; ; {
		for i+16 <= len(b) {
			p := b[i : i+16 : i+16]
			low, high := stops(binary.LittleEndian.Uint64(p)), stops(binary.LittleEndian.Uint64(p[8:]))
			switch {
			case low|high == 0:
				if i += 16; i-run >= 2*window {
					i = skipPlain(b, i)
					run = i
				}
				continue
			case low != 0:
				i += bits.TrailingZeros64(low) / 8
			default:
				i += 8 + bits.TrailingZeros64(high)/8
			}
			if b[i] != '\\' || i+1 >= len(b) || !simple[b[i+1]] {
				break
			}
			i += 2
			run = i
		}
		// A quote, an escape of six, a control character, or one of the last fifteen bytes of b.
		switch {
		case i >= len(b) || b[i] < ' ':
			return i, false
		case b[i] == '"':
			return i + 1, true
		}
		end, ok := skipCharacter(b, i)
		if !ok {
			return end, false
		}
		i = end
	}
}

// skipContent is skipString for any bytes between the quotes.
func skipContent(b []byte, i int) (int, bool) {
	for i++; ; {
		n := bytes.IndexByte(b[i:], '"')
		if n < 0 {
			return len(b), false
		}
		end := i + n
		i = end + 1
		slashes := 0
		for b[end-1-slashes] == '\\' { // there is the opening quote before them
			slashes++
		}
		if slashes%2 == 0 {
			return i, true
		}
	}
}

// skipCharacter returns the index after the character or the escape sequence that starts at i, or
// that of the byte that breaks it.
func skipCharacter(b []byte, i int) (int, bool) {
	switch {
	case b[i] != '\\':
		return i + 1, true
	case i+1 >= len(b):
		return len(b), false
	case simple[b[i+1]]:
		return i + 2, true
	case b[i+1] != 'u':
		return i + 1, false
	}
	for k := i + 2; k < i+6; k++ {
		if k >= len(b) || !isHex(b[k]) {
			return min(k, len(b)), false
		}
	}
	return i + 6, true
}

const window = 512

// skipPlain skips windows that are plain string.
func skipPlain(b []byte, i int) int {
	for i+window <= len(b) && plain(b[i:i+window]) {
		i += window
	}
	return i
}

// plain reports whether nothing in p, a multiple of 32 bytes, ends a run of plain string.
func plain(p []byte) bool {
	if bytes.IndexByte(p, '\\') >= 0 {
		return false
	}
	var stop uint64
	for ; len(p) >= 32; p = p[32:] {
		v0, v1 := binary.LittleEndian.Uint64(p), binary.LittleEndian.Uint64(p[8:])
		v2, v3 := binary.LittleEndian.Uint64(p[16:]), binary.LittleEndian.Uint64(p[24:])
		stop |= ((v0^ones*2)-ones*0x21)&^v0 | ((v1^ones*2)-ones*0x21)&^v1 |
			((v2^ones*2)-ones*0x21)&^v2 | ((v3^ones*2)-ones*0x21)&^v3
	}
	return stop&highs == 0
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
