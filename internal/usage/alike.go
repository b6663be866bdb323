package usage

import (
	"bytes"

	"github.com/loadchange/apexproxy/internal/rawjson"
)

// alike knows how the events of a stream begin and end that hold nothing but a piece of the output:
// they are the same around one string. Most events of a stream are like the one before, and so are
// not looked at.
type alike struct {
	last           []byte // the last event that said nothing, up to its blank line
	prefix, suffix []byte // of last, with the quotes of the string between them; empty: not known yet
}

// maxAlike bounds the events that are compared.
const maxAlike = 1 << 10

// skip returns b, which begins with an event, without the events at its start that are like those
// before. What tells that an event says something are names, and the value of "type": the middle of
// such an event is neither, because it is one valid string, which holds no line end either, the
// quotes around it are followed by no colon, and learn takes no value of "type" for it. So what said
// nothing before says nothing now.
func (a *alike) skip(b []byte) []byte {
	for len(a.prefix) > 0 && bytes.HasPrefix(b, a.prefix) {
		end, ok := rawjson.StringEnd(b, len(a.prefix)-1)
		if !ok {
			break
		}
		rest, like := bytes.CutPrefix(b[end-1:], a.suffix)
		if rest, ok = bytes.CutPrefix(rest, blankLine); !like || !ok {
			break
		}
		b = rest
	}
	return b
}

// learn compares an event that said nothing, with its blank line, with the one before.
func (a *alike) learn(event []byte) {
	if len(event) > maxAlike || bytes.IndexByte(event, '\r') >= 0 {
		return
	}
	event = event[:len(event)-len(blankLine)]
	old, same := a.last, 0
	for same < min(len(old), len(event)) && old[same] == event[same] {
		same++
	}
	same = bytes.LastIndex(event[:same], openString) + len(openString)
	tail := 0
	for tail < min(len(old), len(event))-same && old[len(old)-1-tail] == event[len(event)-1-tail] {
		tail++
	}
	a.last = append(a.last[:0], event...)
	suffix := a.last[len(a.last)-max(tail, 0):]
	quote := bytes.IndexByte(suffix, '"')
	if same < len(openString) || isType(event[:same]) || quote < 0 || quote+1 == len(suffix) || suffix[quote+1] != '}' && suffix[quote+1] != ',' {
		a.prefix, a.suffix = nil, nil
		return
	}
	a.prefix, a.suffix = a.last[:same], suffix[quote:]
}

// isType reports whether what ends in the opening quote of a string may make it the value of
// "type". A name with an escape may be any.
func isType(prefix []byte) bool {
	name := bytes.TrimRight(prefix[:len(prefix)-len(openString)], " \t")
	name = bytes.TrimSuffix(name, []byte(`"`))
	name = name[bytes.LastIndexByte(name, '"')+1:]
	return string(name) == "type" || bytes.IndexByte(name, '\\') >= 0
}

var openString, blankLine = []byte(`:"`), []byte("\n\n")

// feedEvents feeds a stream, event by event where they are whole.
func (r *Reader) feedEvents(b []byte) {
	for len(b) > 0 {
		whole := r.events.Idle()
		if whole {
			if b = r.alike.skip(b); len(b) == 0 {
				return
			}
		}
		n := len(b)
		if i := bytes.Index(b, blankLine); i >= 0 {
			n = i + len(blankLine)
		} else {
			whole = false
		}
		r.dull = false
		r.events.Feed(b[:n], r.event)
		if whole && r.dull && r.events.Idle() {
			r.alike.learn(b[:n])
		}
		b = b[n:]
	}
}
