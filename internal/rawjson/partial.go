package rawjson

import "bytes"

// A Partial follows the text of an object that arrives in pieces inside of JSON strings, as the
// arguments of a tool call do: is the object complete, how far is it valid JSON, and what would
// close it. It looks at each byte once and holds one byte for each open bracket. The zero Partial
// has seen nothing.
type Partial struct {
	open   []byte // '{' and '[', innermost last
	state  partialState
	rest   string // of the literal at hand
	hex    uint8  // digits of \u still to come
	name   bool   // the string at hand is a member's name
	broken bool
}

type partialState uint8

const (
	atStart partialState = iota
	atValue
	atFirstValue // or ]
	atName
	atFirstName // or }
	atColon
	atAfter // a value: a comma or a bracket
	atDone
	lastBetween = atDone // up to here white space changes nothing
)

const (
	inString partialState = lastBetween + 1 + iota
	inEscape
	inHex
	inLiteral
	inMinus // the states from here on are those of a number
	inZero
	inInt
	inDot
	inFraction
	inE
	inSign
	inExponent
)

// Begun reports whether the object's bracket has come.
func (p *Partial) Begun() bool { return p.state != atStart }

// Complete reports whether the whole object has come. White space behind it is a part of it.
func (p *Partial) Complete() bool { return p.state == atDone }

// Held returns the bytes that p holds.
func (p *Partial) Held() int { return cap(p.open) }

// Drop gives back what p holds. Nothing may be fed to it afterwards.
func (p *Partial) Drop() { p.open = nil }

// Feed takes the next piece and returns how many of its bytes continue an object validly. An escape
// sequence must not be cut in two. After a piece that was not taken whole nothing more is taken.
func (p *Partial) Feed(s Text) int {
	for i := 0; i < len(s); {
		if p.broken {
			return i
		}
		if p.state == inString {
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
		if c >= 0x80 && p.state != inString {
			c = 0 // nothing that could stand outside of a string
		}
		if !p.step(c) {
			p.broken = true
			return i
		}
		i += n
	}
	return len(s)
}

// step takes the next character, and reports whether the object can go on with it. If not, nothing
// has changed.
func (p *Partial) step(c rune) bool {
	if p.state <= lastBetween && isSpace(c) {
		return true
	}
	switch p.state {
	case inString:
		return p.character(c)
	case inEscape:
		return p.escape(c)
	case inHex:
		return p.hexDigit(c)
	case inLiteral:
		return p.letter(c)
	case atStart:
		return c == '{' && p.push('{')
	case atFirstName:
		return c == '}' && p.pop('{') || p.beginName(c)
	case atName:
		return p.beginName(c)
	case atColon:
		if c == ':' {
			p.state = atValue
		}
		return c == ':'
	case atFirstValue:
		return c == ']' && p.pop('[') || p.beginValue(c)
	case atValue:
		return p.beginValue(c)
	case atAfter:
		return p.after(c)
	case atDone:
		return false
	}
	return p.number(c)
}

func isSpace(c rune) bool { return c == ' ' || c == '\n' || c == '\r' || c == '\t' }

func (p *Partial) character(c rune) bool {
	switch {
	case c == '"' && p.name:
		p.state = atColon
	case c == '"':
		p.state = atAfter
	case c == '\\':
		p.state = inEscape
	}
	return c >= ' '
}

func (p *Partial) escape(c rune) bool {
	switch {
	case c == 'u':
		p.state, p.hex = inHex, 4
	case c < 0x80 && simple[c]:
		p.state = inString
	default:
		return false
	}
	return true
}

func (p *Partial) hexDigit(c rune) bool {
	if c >= 0x80 || !isHex(byte(c)) {
		return false
	}
	if p.hex--; p.hex == 0 {
		p.state = inString
	}
	return true
}

func (p *Partial) letter(c rune) bool {
	if c != rune(p.rest[0]) {
		return false
	}
	if p.rest = p.rest[1:]; p.rest == "" {
		p.state = atAfter
	}
	return true
}

func (p *Partial) beginName(c rune) bool {
	if c == '"' {
		p.state, p.name = inString, true
	}
	return c == '"'
}

func (p *Partial) beginValue(c rune) bool {
	switch {
	case c == '{' || c == '[':
		return p.push(byte(c))
	case c == '"':
		p.state, p.name = inString, false
	case c == 't':
		p.state, p.rest = inLiteral, "rue"
	case c == 'f':
		p.state, p.rest = inLiteral, "alse"
	case c == 'n':
		p.state, p.rest = inLiteral, "ull"
	case c == '-':
		p.state = inMinus
	case c == '0':
		p.state = inZero
	case '1' <= c && c <= '9':
		p.state = inInt
	default:
		return false
	}
	return true
}

// inNumber says where a number goes on with 0, another digit, a dot, an e or a sign; zero stands
// for nowhere. It begins with inMinus.
var inNumber = [...]struct{ zero, digit, dot, e, sign partialState }{
	0:                    {zero: inZero, digit: inInt},
	inZero - inMinus:     {dot: inDot, e: inE},
	inInt - inMinus:      {zero: inInt, digit: inInt, dot: inDot, e: inE},
	inDot - inMinus:      {zero: inFraction, digit: inFraction},
	inFraction - inMinus: {zero: inFraction, digit: inFraction, e: inE},
	inE - inMinus:        {zero: inExponent, digit: inExponent, sign: inSign},
	inSign - inMinus:     {zero: inExponent, digit: inExponent},
	inExponent - inMinus: {zero: inExponent, digit: inExponent},
}

// number goes on with a number, or with what may stand behind it.
func (p *Partial) number(c rune) bool {
	row := &inNumber[p.state-inMinus]
	var next partialState
	switch {
	case c == '0':
		next = row.zero
	case '1' <= c && c <= '9':
		next = row.digit
	case c == '.':
		next = row.dot
	case c|0x20 == 'e':
		next = row.e
	case c == '+' || c == '-':
		next = row.sign
	case p.needsDigit():
		return false
	default:
		p.state = atAfter
		return isSpace(c) || p.after(c)
	}
	if next == 0 {
		return false
	}
	p.state = next
	return true
}

// needsDigit reports whether a number cannot end here.
func (p *Partial) needsDigit() bool {
	switch p.state {
	case inMinus, inDot, inE, inSign:
		return true
	}
	return false
}

func (p *Partial) after(c rune) bool {
	switch c {
	case ',':
		p.state = atValue
		if p.open[len(p.open)-1] == '{' {
			p.state = atName
		}
		return true
	case '}':
		return p.pop('{')
	case ']':
		return p.pop('[')
	}
	return false
}

func (p *Partial) push(c byte) bool {
	if len(p.open) == MaxDepth {
		return false
	}
	p.open = append(p.open, c)
	p.state = atFirstValue
	if c == '{' {
		p.state = atFirstName
	}
	return true
}

func (p *Partial) pop(c byte) bool {
	if p.open[len(p.open)-1] != c {
		return false
	}
	p.open = p.open[:len(p.open)-1]
	p.state = atAfter
	if len(p.open) == 0 {
		p.state = atDone
	}
	return true
}

// AppendClosing appends what makes the text taken so far a complete object.
func (p *Partial) AppendClosing(dst Text) Text {
	switch p.state {
	case atStart:
		dst = append(dst, `{}`...)
	case atValue:
		dst = append(dst, `null`...)
	case atName:
		dst = append(dst, `\"\":null`...)
	case atColon:
		dst = append(dst, `:null`...)
	case inMinus, inDot, inE, inSign:
		dst = append(dst, '0')
	case inLiteral:
		dst = append(dst, p.rest...)
	case inEscape:
		dst = p.closeString(append(dst, `\\`...))
	case inHex:
		dst = p.closeString(append(dst, `0000`[:p.hex]...))
	case inString:
		dst = p.closeString(dst)
	}
	for i := len(p.open) - 1; i >= 0; i-- {
		switch p.open[i] {
		case '{':
			dst = append(dst, '}')
		case '[':
			dst = append(dst, ']')
		}
	}
	return dst
}

func (p *Partial) closeString(dst Text) Text {
	dst = append(dst, `\"`...)
	if p.name {
		dst = append(dst, `:null`...)
	}
	return dst
}
