package convert

import (
	"bytes"
	"encoding/json"
)

// arguments follows the text of a tool call's arguments as it arrives in pieces: is the object in it complete, how far
// is it valid JSON, and what would close it. It looks at each byte once and keeps one byte for each open bracket.
type arguments struct {
	open   []byte // '{' and '[', innermost last
	state  argState
	rest   string // of the literal at hand
	hex    uint8  // digits of \u still to come
	name   bool   // the string at hand is a member's name
	broken bool
}

type argState uint8

const (
	argStart argState = iota
	argValue
	argFirstValue // or ]
	argName
	argFirstName // or }
	argColon
	argAfter
	argString
	argEscape
	argHex
	argMinus
	argZero
	argInt
	argDot
	argFraction
	argE
	argSign
	argExponent
	argLiteral
	argDone
)

func (a *arguments) complete() bool { return a.state == argDone }

// feed takes the next piece, as it stands inside a JSON string, and returns how many of its bytes continue an object
// validly. After a piece that was not taken whole nothing more is taken.
func (a *arguments) feed(s []byte) int {
	for i := 0; i < len(s); {
		if a.broken {
			return i
		}
		if a.state == argString {
			n := bytes.IndexByte(s[i:], '\\')
			if n < 0 {
				return len(s)
			}
			i += n
		}
		c, n := rune(s[i]), 1
		if c == '\\' {
			c, n = escaped(s[i:])
		}
		if c >= 0x80 && a.state != argString {
			c = 0 // nothing that could stand outside a string
		}
		if !a.step(c) {
			a.broken = true
			return i
		}
		i += n
	}
	return len(s)
}

func (a *arguments) step(c rune) bool {
	switch a.state {
	case argString:
		switch {
		case c == '"' && a.name:
			a.state = argColon
		case c == '"':
			a.state = argAfter
		case c == '\\':
			a.state = argEscape
		case c < ' ':
			return false
		}
		return true
	case argEscape:
		switch c {
		case '"', '\\', '/', 'b', 'f', 'n', 'r', 't':
			a.state = argString
		case 'u':
			a.state, a.hex = argHex, 4
		default:
			return false
		}
		return true
	case argHex:
		if !('0' <= c && c <= '9' || 'a' <= c|0x20 && c|0x20 <= 'f') {
			return false
		}
		if a.hex--; a.hex == 0 {
			a.state = argString
		}
		return true
	case argLiteral:
		if c != rune(a.rest[0]) {
			return false
		}
		if a.rest = a.rest[1:]; a.rest == "" {
			a.state = argAfter
		}
		return true
	}
	if a.digit(c) {
		return true
	}
	if c == ' ' || c == '\n' || c == '\r' || c == '\t' {
		return a.endNumber()
	}
	switch a.state {
	case argStart:
		return c == '{' && a.push('{')
	case argFirstName, argName:
		if c == '}' && a.state == argFirstName {
			return a.pop('{')
		}
		if c == '"' {
			a.state, a.name = argString, true
		}
		return c == '"'
	case argColon:
		if c == ':' {
			a.state = argValue
		}
		return c == ':'
	case argValue, argFirstValue:
		if c == ']' && a.state == argFirstValue {
			return a.pop('[')
		}
		return a.value(c)
	case argMinus, argDot, argE, argSign, argDone:
		return false
	}
	a.state = argAfter
	switch c {
	case ',':
		a.state = argValue
		if a.open[len(a.open)-1] == '{' {
			a.state = argName
		}
		return true
	case '}':
		return a.pop('{')
	case ']':
		return a.pop('[')
	}
	return false
}

// value begins a value with c.
func (a *arguments) value(c rune) bool {
	switch {
	case c == '{' || c == '[':
		return a.push(byte(c))
	case c == '"':
		a.state, a.name = argString, false
	case c == '-':
		a.state = argMinus
	case c == '0':
		a.state = argZero
	case '1' <= c && c <= '9':
		a.state = argInt
	case c == 't':
		a.state, a.rest = argLiteral, "rue"
	case c == 'f':
		a.state, a.rest = argLiteral, "alse"
	case c == 'n':
		a.state, a.rest = argLiteral, "ull"
	default:
		return false
	}
	return true
}

// digit continues a number with c, if there is one and c can.
func (a *arguments) digit(c rune) bool {
	digit := '0' <= c && c <= '9'
	switch {
	case a.state == argMinus && c == '0':
		a.state = argZero
	case (a.state == argMinus || a.state == argInt) && digit:
		a.state = argInt
	case (a.state == argZero || a.state == argInt) && c == '.':
		a.state = argDot
	case (a.state == argDot || a.state == argFraction) && digit:
		a.state = argFraction
	case (a.state == argZero || a.state == argInt || a.state == argFraction) && c|0x20 == 'e':
		a.state = argE
	case a.state == argE && (c == '+' || c == '-'):
		a.state = argSign
	case (a.state == argE || a.state == argSign || a.state == argExponent) && digit:
		a.state = argExponent
	default:
		return false
	}
	return true
}

// endNumber takes white space, which may end a number.
func (a *arguments) endNumber() bool {
	switch a.state {
	case argMinus, argDot, argE, argSign:
		return false
	case argZero, argInt, argFraction, argExponent:
		a.state = argAfter
	}
	return true
}

func (a *arguments) push(c byte) bool {
	if len(a.open) == maxDepth {
		return false
	}
	a.open = append(a.open, c)
	a.state = argFirstValue
	if c == '{' {
		a.state = argFirstName
	}
	return true
}

func (a *arguments) pop(c byte) bool {
	if a.open[len(a.open)-1] != c {
		return false
	}
	a.open = a.open[:len(a.open)-1]
	a.state = argAfter
	if len(a.open) == 0 {
		a.state = argDone
	}
	return true
}

// appendClosing appends what makes the text taken so far a complete object, as it stands inside a JSON string.
func (a *arguments) appendClosing(dst []byte) []byte {
	switch a.state {
	case argStart:
		dst = append(dst, '{', '}')
	case argValue:
		dst = append(dst, `null`...)
	case argName:
		dst = append(dst, `\"\":null`...)
	case argColon:
		dst = append(dst, `:null`...)
	case argMinus, argDot, argE, argSign:
		dst = append(dst, '0')
	case argLiteral:
		dst = append(dst, a.rest...)
	case argString, argEscape, argHex:
		if a.state == argEscape {
			dst = append(dst, `\\`...)
		} else if a.state == argHex {
			dst = append(dst, `0000`[:a.hex]...)
		}
		dst = append(dst, `\"`...)
		if a.name {
			dst = append(dst, `:null`...)
		}
	}
	for i := len(a.open) - 1; i >= 0; i-- {
		dst = append(dst, a.open[i]+2) // '{'+2 is '}', '['+2 is ']'
	}
	return dst
}

// input makes a tool's input out of the text of its arguments, as it stands inside a JSON string: the object in it, also
// one encoded twice; the closed beginning of an object if the answer was cut; {} for anything else. exact is false when
// something was lost.
func input(args []byte, cut bool) (object []byte, exact bool) {
	s := trim(unescape(args))
	if isString(s) && json.Valid(s) {
		s = trim(text(s))
	}
	switch {
	case len(s) == 0 || string(s) == "null":
		return []byte("{}"), true
	case validObject(s):
		return s, true
	case cut && s[0] == '{':
		var a arguments
		esc := appendEscaped(nil, s)
		esc = a.appendClosing(esc[:a.feed(esc)])
		return unescape(esc), false
	}
	return []byte("{}"), false
}
