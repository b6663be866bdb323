package rawjson

import (
	"bytes"
	"strconv"
	"unicode/utf16"
	"unicode/utf8"
)

// A Text is the inside of a JSON string, escapes and all. It goes from one document into another
// unchanged; it is never compared and never measured in characters without Decode.
type Text []byte

// Decode returns the characters of t, as UTF-8. It allocates only where there are escapes; without
// any it returns t's own memory.
func (t Text) Decode() []byte {
	i := bytes.IndexByte(t, '\\')
	if i < 0 {
		return t
	}
	dst := append(make([]byte, 0, len(t)), t[:i]...)
	for i < len(t) {
		if t[i] != '\\' {
			n := bytes.IndexByte(t[i:], '\\')
			if n < 0 {
				return append(dst, t[i:]...)
			}
			dst = append(dst, t[i:i+n]...)
			i += n
			continue
		}
		c, n := escaped(t[i:])
		if utf16.IsSurrogate(c) {
			c2, n2 := escaped(t[i+n:])
			if d := utf16.DecodeRune(c, c2); d != utf8.RuneError {
				c, n = d, n+n2
			}
		}
		dst = utf8.AppendRune(dst, c)
		i += n
	}
	return dst
}

// Blank reports whether t holds nothing but white space.
func (t Text) Blank() bool {
	for i := 0; i < len(t); {
		c, n := rune(t[i]), 1
		if c == '\\' {
			c, n = escaped(t[i:])
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

// escaped reads the escape sequence at the start of s: its character, possibly half of a surrogate
// pair, and its length. Without one it returns RuneError and 0, and for a broken one the length of
// what is there.
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

// AppendString appends s, which is not escaped, as a JSON string.
func AppendString[T ~[]byte | ~string](dst []byte, s T) []byte {
	dst = append(dst, '"')
	dst = AppendText(dst, s)
	return append(dst, '"')
}

// AppendText appends s, which is not escaped, as it stands inside a JSON string. Only what must be
// escaped is; invalid UTF-8 becomes U+FFFD.
func AppendText[T ~[]byte | ~string](dst []byte, s T) []byte {
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

// AppendEmbedded appends a value as text inside a JSON string, without the white space between its
// tokens: how a document stands in a string of another one.
func AppendEmbedded(dst []byte, v Value) []byte {
	for i := 0; i < len(v); {
		switch c := v[i]; {
		case c == '"':
			end, _ := skipContent(v, i)
			s := v[i+1 : max(end-1, i+1)]
			i = end
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
