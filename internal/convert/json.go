package convert

import (
	"bytes"
	"encoding/json"
	"math"
	"strconv"
	"unicode/utf16"
	"unicode/utf8"
)

// maxDepth is the deepest nesting that is read. json.Valid refuses more.
const maxDepth = 10000

// reader walks one JSON document, once, and hands out values as the bytes they are. The document must be valid JSON;
// of anything else the values are arbitrary, but it never panics and always comes to an end.
type reader struct {
	b []byte
	i int
}

func (r *reader) space() {
	for r.i < len(r.b) && r.b[r.i] <= ' ' {
		r.i++
	}
}

// peek returns the first byte of the next value, 0 at the end.
func (r *reader) peek() byte {
	r.space()
	if r.i < len(r.b) {
		return r.b[r.i]
	}
	return 0
}

// enter steps into the object or array that is next, if it opens with c. If it does not, it steps over the value.
func (r *reader) enter(c byte) bool {
	if r.peek() != c {
		r.value()
		return false
	}
	r.i++
	return true
}

// more reports whether another member or element follows in the container that ends with c, and steps out of it if not.
func (r *reader) more(c byte) bool {
	p := r.peek()
	if p == ',' {
		r.i++
		p = r.peek()
	}
	if p == c || p == 0 || p == ']' || p == '}' {
		r.i = min(r.i+1, len(r.b))
		return false
	}
	return true
}

// key reads the name of the next member, its escapes resolved.
func (r *reader) key() []byte {
	k := r.value()
	if r.peek() == ':' {
		r.i++
	}
	return text(k)
}

// value steps over the next value and returns its bytes, nil at the end of the document.
func (r *reader) value() []byte {
	r.space()
	start := r.i
	if r.i == len(r.b) {
		return nil
	}
	switch r.b[r.i] {
	case '"':
		r.str()
	case '{', '[':
		for depth := 0; r.i < len(r.b); {
			switch r.b[r.i] {
			case '"':
				r.str()
				continue
			case '{', '[':
				depth++
			case '}', ']':
				depth--
			}
			r.i++
			if depth == 0 {
				break
			}
		}
	default:
		r.i++
		for r.i < len(r.b) {
			switch r.b[r.i] {
			case ',', ']', '}', ' ', '\n', '\r', '\t', ':':
				return r.b[start:r.i]
			}
			r.i++
		}
	}
	return r.b[start:r.i]
}

// str steps over the string that starts here.
func (r *reader) str() {
	r.i++
	for {
		n := bytes.IndexByte(r.b[r.i:], '"')
		if n < 0 {
			r.i = len(r.b)
			return
		}
		end := r.i + n
		r.i = end + 1
		slashes := 0
		for end > slashes && r.b[end-1-slashes] == '\\' {
			slashes++
		}
		if slashes%2 == 0 {
			return
		}
	}
}

func kind(raw []byte) byte {
	if len(raw) == 0 {
		return 0
	}
	return raw[0]
}

func isString(raw []byte) bool { return kind(raw) == '"' }
func isNull(raw []byte) bool   { return len(raw) == 0 || raw[0] == 'n' }
func isTrue(raw []byte) bool   { return kind(raw) == 't' }

// inner returns what stands between the quotes of a string, escapes and all, and nil for any other value. Texts pass
// through conversion in this form: both protocols are JSON, so nothing is decoded and nothing can change.
func inner(raw []byte) []byte {
	if len(raw) < 2 || raw[0] != '"' {
		return nil
	}
	return raw[1 : len(raw)-1]
}

// text returns the text of a string, its escapes resolved, and nil for any other value. It allocates only when there
// are escapes.
func text(raw []byte) []byte { return unescape(inner(raw)) }

func unescape(s []byte) []byte {
	i := bytes.IndexByte(s, '\\')
	if i < 0 {
		return s
	}
	dst := append(make([]byte, 0, len(s)), s[:i]...)
	for i < len(s) {
		if s[i] != '\\' {
			n := bytes.IndexByte(s[i:], '\\')
			if n < 0 {
				return append(dst, s[i:]...)
			}
			dst = append(dst, s[i:i+n]...)
			i += n
			continue
		}
		c, n := escaped(s[i:])
		if utf16.IsSurrogate(c) {
			c2, n2 := escaped(s[i+n:])
			if d := utf16.DecodeRune(c, c2); d != utf8.RuneError {
				c, n = d, n+n2
			}
		}
		dst = utf8.AppendRune(dst, c)
		i += n
	}
	return dst
}

// escaped reads the escape sequence at the start of s: its character, possibly half of a surrogate pair, and its
// length. Without one it returns RuneError and 0, and for a broken one the length of what is there.
func escaped(s []byte) (rune, int) {
	if len(s) < 2 || s[0] != '\\' {
		return utf8.RuneError, min(len(s), 1)
	}
	switch c := s[1]; c {
	case 'b':
		return '\b', 2
	case 'f':
		return '\f', 2
	case 'n':
		return '\n', 2
	case 'r':
		return '\r', 2
	case 't':
		return '\t', 2
	case 'u':
		if len(s) < 6 {
			return utf8.RuneError, len(s)
		}
		n, err := strconv.ParseUint(string(s[2:6]), 16, 32)
		if err != nil {
			return utf8.RuneError, 2
		}
		return rune(n), 6
	default:
		return rune(c), 2
	}
}

// blank reports whether an escaped text holds nothing but white space.
func blank(s []byte) bool {
	for i := 0; i < len(s); {
		c, n := rune(s[i]), 1
		if c == '\\' {
			c, n = escaped(s[i:])
		}
		switch c {
		case ' ', '\t', '\n', '\r', '\v', '\f':
		default:
			return false
		}
		i += n
	}
	return true
}

// appendString appends s as a JSON string.
func appendString[T []byte | string](dst []byte, s T) []byte {
	dst = append(dst, '"')
	dst = appendEscaped(dst, s)
	return append(dst, '"')
}

// appendEscaped appends s as it stands inside a JSON string. Only what must be escaped is; invalid UTF-8 becomes U+FFFD.
func appendEscaped[T []byte | string](dst []byte, s T) []byte {
	const hex = "0123456789abcdef"
	for _, c := range string(s) {
		switch {
		case c == '"' || c == '\\':
			dst = append(dst, '\\', byte(c))
		case c == '\n':
			dst = append(dst, `\n`...)
		case c < ' ':
			dst = append(dst, `\u00`...)
			dst = append(dst, hex[c>>4], hex[c&15])
		default:
			dst = utf8.AppendRune(dst, c)
		}
	}
	return dst
}

// appendJSONText appends a JSON value as text inside a JSON string, without the white space between its tokens.
func appendJSONText(dst, raw []byte) []byte {
	for i := 0; i < len(raw); {
		switch c := raw[i]; {
		case c == '"':
			r := reader{raw, i}
			r.str()
			s := raw[i+1 : max(r.i-1, i+1)]
			i = r.i
			dst = append(dst, '\\', '"')
			for {
				n := bytes.IndexByte(s, '\\')
				if n < 0 || n+1 >= len(s) {
					break
				}
				dst = append(dst, s[:n]...)
				dst = append(dst, '\\', '\\')
				if s[n+1] == '\\' || s[n+1] == '"' {
					dst = append(dst, '\\')
				}
				dst = append(dst, s[n+1])
				s = s[n+2:]
			}
			dst = append(dst, s...)
			dst = append(dst, '\\', '"')
		case c <= ' ':
			i++
		default:
			dst = append(dst, c)
			i++
		}
	}
	return dst
}

// integer reads a number of up to 18 digits and nothing else.
func integer(raw []byte) (n int64, ok bool) {
	for _, c := range raw {
		if c < '0' || c > '9' {
			return 0, false
		}
		n = n*10 + int64(c-'0')
	}
	return n, len(raw) > 0 && len(raw) <= 18
}

// number reads a JSON number as an integer: fractions are cut off, what is negative or no number is 0.
func number(raw []byte) int64 {
	if n, ok := integer(raw); ok {
		return n
	}
	if c := kind(raw); c < '0' || c > '9' {
		return 0
	}
	f, err := strconv.ParseFloat(string(raw), 64)
	if err != nil || f >= math.MaxInt64 {
		return 0
	}
	return int64(f)
}

// get returns the value at a path of member names, nil when there is none. Of equal names the last counts.
func get(raw []byte, path ...string) []byte {
	for _, name := range path {
		var found []byte
		r := reader{b: raw}
		if r.enter('{') {
			for r.more('}') {
				if k := r.key(); string(k) == name {
					found = r.value()
				} else {
					r.value()
				}
			}
		}
		raw = found
	}
	return raw
}

// trim cuts a byte order mark and the white space around a document.
func trim(b []byte) []byte {
	return bytes.TrimSpace(bytes.TrimPrefix(bytes.TrimSpace(b), []byte("\xEF\xBB\xBF")))
}

// validObject reports whether b is one JSON object of bearable depth.
func validObject(b []byte) bool { return kind(b) == '{' && json.Valid(b) }
