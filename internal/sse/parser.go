// Package sse reads event streams (text/event-stream) as they pass by.
//
// [Parser] turns bytes into events; [Filter] copies a stream and leaves some of its events out.
// Both take bytes cut anywhere, hold a bounded part of one event at most, and fail on nothing: what
// is too large is passed over.
package sse

import "bytes"

// Event is one dispatched event. Its slices point into the chunk being fed or into the parser's own
// buffer: they are valid only during the call that hands them over, and must not be changed.
type Event struct {
	Type []byte // empty means "message"
	Data []byte // the data lines, joined by LF
}

// Parser is an incremental event-stream parser after the WHATWG HTML Living Standard, section 9.2.6
// "Interpreting an event stream". It differs in two things: an event larger than Max is passed over
// and counted, and [Parser.Close] dispatches a last event that lacks its blank line, because model
// servers often end so. The id and retry fields are read and ignored. Bytes that are not UTF-8 are
// handed over as they came.
//
// The zero value is ready. A Parser is not safe for concurrent use.
type Parser struct {
	// Max bounds the bytes (type and data) of one event that the parser will hold. Zero or less
	// means 1 MiB. It decides by size alone, so the same events come out whether or not they lay
	// inside one chunk.
	Max int

	data, typ         span
	skipped, comments int
	name              [9]byte // of the unfinished line's field: room for a BOM, "event", and one more to tell it is longer
	nameLen           uint8
	at                position
	field             field
	cr                bool // the chunk ended in CR: a LF at the start of the next one belongs to that line's end
	later             bool // the first line is over, so there is no BOM to expect
	has               bool // the event has a data field
	over              bool // the event is larger than Max
}

// Held returns the number of bytes that the parser has allocated for an unfinished event.
func (p *Parser) Held() int { return cap(p.data.buf) + cap(p.typ.buf) }

// Idle reports whether the parser is between two events: nothing of the next one was read, and no
// byte order mark is to be expected.
func (p *Parser) Idle() bool {
	return p.later && !p.has && !p.over && !p.cr && p.at == inName && p.nameLen == 0 && p.typ.len() == 0
}

// position says which part of a line the next byte belongs to.
type position uint8

const (
	inName position = iota
	afterColon
	inValue
)

type field uint8

const (
	otherField field = iota
	dataField
	typeField
	comment
)

// ending says what kind of line has just ended.
type ending uint8

const (
	unended ending = iota
	blankLine
	commentLine
	fieldLine
)

const (
	defaultMax = 1 << 20
	// keepCap is the largest buffer kept for the next event: streams idle for minutes, and one
	// large event must not cost its memory until the end.
	keepCap = 16 << 10
	bom     = "\xEF\xBB\xBF"
)

var lineFeed = []byte{'\n'}

// Feed parses b, the next bytes of the stream, and calls emit for every event that ends in it, in
// order. b may be cut anywhere and is not kept. emit must not call the parser. Feed does not
// allocate for events that lie inside b, nor for others once its buffer has grown to their size (up
// to 16 KiB, beyond which the buffer is given back).
func (p *Parser) Feed(b []byte, emit func(Event)) {
	for len(b) > 0 {
		n, end := p.line(b)
		b = b[n:]
		if end == blankLine {
			p.dispatch(emit)
		}
	}
	p.keep()
}

// Close says that the stream has ended, and calls emit if an event was still open. The event may
// have been cut short inside its data: the parser cannot know. Afterwards the parser is ready for
// another stream; its counters go on.
func (p *Parser) Close(emit func(Event)) {
	p.endLine()
	p.dispatch(emit)
	p.cr, p.later = false, false
}

// Skipped returns the number of events that were passed over because they were larger than Max.
func (p *Parser) Skipped() int { return p.skipped }

// Comments returns the number of comment lines seen. Servers send them to keep a connection alive.
func (p *Parser) Comments() int { return p.comments }

// line consumes b, which is not empty, up to and including the first end of a line. It returns
// unended if there is none. At a blankLine the event is complete, and the caller calls clear when
// done with it. Until keep is called, the event may point into b.
func (p *Parser) line(b []byte) (int, ending) {
	if p.cr {
		p.cr = false
		if b[0] == '\n' {
			return 1, unended
		}
	}
	i := lineEnd(b)
	if i < 0 {
		p.text(b)
		return len(b), unended
	}
	p.text(b[:i])
	n := i + 1
	if b[i] == '\r' {
		if n == len(b) {
			p.cr = true
		} else if b[n] == '\n' {
			n++
		}
	}
	return n, p.endLine()
}

// lineEnd returns the index of the first CR or LF in b, or -1. It looks through growing windows:
// looking for LF through all of b first would take quadratic time where lines end in CR.
func lineEnd(b []byte) int {
	for at, size := 0, 512; at < len(b); at, size = at+size, size*2 {
		w := b[at:min(at+size, len(b))]
		lf := bytes.IndexByte(w, '\n')
		if lf >= 0 {
			w = w[:lf]
		}
		if cr := bytes.IndexByte(w, '\r'); cr >= 0 {
			return at + cr
		}
		if lf >= 0 {
			return at + lf
		}
	}
	return -1
}

// text takes b, some or all of the rest of a line without its end.
func (p *Parser) text(b []byte) {
	if p.at == inName {
		i := bytes.IndexByte(b, ':')
		name := b
		if i >= 0 {
			name = b[:i]
		}
		p.nameLen += uint8(copy(p.name[p.nameLen:], name))
		if i < 0 {
			return
		}
		p.beginField()
		p.at = afterColon
		b = b[i+1:]
	}
	if len(b) == 0 {
		return
	}
	if p.at == afterColon {
		p.at = inValue
		if b[0] == ' ' {
			b = b[1:]
		}
	}
	switch p.field {
	case dataField:
		p.add(&p.data, b)
	case typeField:
		p.add(&p.typ, b)
	}
}

// beginField takes the name of the line's field, which is now complete.
func (p *Parser) beginField() {
	name := p.name[:p.nameLen]
	if !p.later {
		name = bytes.TrimPrefix(name, []byte(bom))
	}
	switch string(name) {
	case "data":
		p.field = dataField
		if p.has {
			p.add(&p.data, lineFeed)
		}
		p.has = true
	case "event":
		p.field = typeField
		p.typ.reset()
	case "":
		p.field = comment
		p.comments++
	default:
		p.field = otherField
	}
}

func (p *Parser) endLine() ending {
	end := fieldLine
	switch {
	case p.at != inName:
		if p.field == comment {
			end = commentLine
		}
	case p.nameLen == 0 || !p.later && string(p.name[:p.nameLen]) == bom:
		end = blankLine
	default: // a name without a colon is a field with an empty value
		p.beginField()
	}
	p.at, p.nameLen, p.later = inName, 0, true
	return end
}

// add appends b to one of the event's two parts, unless that makes the event too large.
func (p *Parser) add(s *span, b []byte) {
	limit := p.Max
	if limit <= 0 {
		limit = defaultMax
	}
	if p.over || p.data.len()+p.typ.len()+len(b) > limit {
		p.over = true
		p.data.reset()
		p.typ.reset()
		return
	}
	s.add(b)
}

func (p *Parser) dispatch(emit func(Event)) {
	if p.has {
		if p.over {
			p.skipped++
		} else {
			emit(Event{Type: p.typ.bytes(), Data: p.data.bytes()})
		}
	}
	p.clear()
}

// clear forgets the event at hand.
func (p *Parser) clear() {
	p.data.reset()
	p.typ.reset()
	p.has, p.over = false, false
}

// keep copies what points into the chunk at hand, which is about to become invalid.
func (p *Parser) keep() {
	p.data.keep()
	p.typ.keep()
}

// span is a run of bytes: a slice of the chunk at hand while it is one piece, else a copy.
type span struct {
	alias []byte // into the chunk; empty when buf is not
	buf   []byte
}

func (s *span) len() int { return len(s.alias) + len(s.buf) }

func (s *span) bytes() []byte {
	if len(s.buf) > 0 {
		return s.buf
	}
	return s.alias
}

func (s *span) add(b []byte) {
	if s.len() == 0 {
		s.alias = b
		return
	}
	s.keep()
	s.buf = append(s.buf, b...)
}

func (s *span) keep() {
	if len(s.alias) > 0 {
		s.buf = append(s.buf[:0], s.alias...)
		s.alias = nil
	}
}

func (s *span) reset() {
	s.alias = nil
	if cap(s.buf) > keepCap {
		s.buf = nil
	}
	s.buf = s.buf[:0]
}
