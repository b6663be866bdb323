package sse

import "io"

const (
	// holdMax is how many bytes of an unfinished event a Filter holds back. The events worth dropping are a few hundred
	// bytes; what is larger passes.
	holdMax = 64 << 10
	// readMin is the least room a Filter gives its source.
	readMin = 4 << 10
)

// Filter copies an event stream byte for byte, but leaves out the events that its drop function picks. Make one with
// [NewFilter]. It starts no goroutine and closes nothing. It is not safe for concurrent use.
type Filter struct {
	src     io.Reader
	drop    func(data []byte) bool
	err     error // the source's, returned when all else has left
	p       Parser
	buf     []byte // room for what cannot be put into the caller's slice
	ready   []byte // of buf: may leave
	held    []byte // of buf, behind ready: the bytes of an event of which more is to come
	begun   bool   // the event at hand has had a line other than a comment
	through bool   // the event at hand is larger than holdMax, and passes
	dropped bool   // what came last before held was left out
}

// NewFilter returns a Filter that reads src. drop is called with the data of every event of up to 64 KiB, in order,
// and true leaves out all bytes of that event with its blank line. The data is valid only during the call. At the end
// of the stream drop is also asked about an event that lacks its blank line; its data may have been cut short, so drop
// must be sure of what it sees.
func NewFilter(src io.Reader, drop func(data []byte) bool) *Filter {
	return &Filter{src: src, drop: drop, p: Parser{Max: holdMax}}
}

// Read implements [io.Reader]. An event leaves as soon as its blank line is in, and a comment between events as soon
// as its line is. Bytes of an unfinished event are held back until then, up to 64 KiB of them, after which it passes
// as it comes. Read reads its source once, or again while nothing may leave yet. An error of the source, io.EOF too,
// is returned unchanged after everything read before it, and again on every later call.
func (f *Filter) Read(b []byte) (int, error) {
	if len(b) == 0 {
		return 0, nil
	}
	for len(f.ready) == 0 {
		if f.err != nil {
			return 0, f.err
		}
		if len(f.held) == 0 && len(f.buf) > keepCap {
			f.buf = nil
		}
		if len(f.held) == 0 && len(b) >= readMin {
			n, err := f.src.Read(b)
			out, tail := f.sift(b[:n], 0, err)
			if len(tail) > 0 {
				f.room(len(tail))
				f.held = f.buf[:copy(f.buf, tail)]
			}
			if out > 0 || n == 0 && err == nil {
				return out, nil
			}
			continue
		}
		f.room(len(f.held))
		h := copy(f.buf, f.held)
		n, err := f.src.Read(f.buf[h:])
		out, tail := f.sift(f.buf[:h+n], h, err)
		f.ready, f.held = f.buf[:out], tail
		if out == 0 && n == 0 && err == nil {
			return 0, nil
		}
	}
	n := copy(b, f.ready)
	f.ready = f.ready[n:]
	return n, nil
}

// Err returns the error with which the source ended, as it was given, or nil while it has not. It is known as soon as
// the source said it, so possibly before Read has handed out the last bytes.
func (f *Filter) Err() error { return f.err }

// room gives buf space for n held bytes and a read. The held bytes may be in the old buf still.
func (f *Filter) room(n int) {
	if len(f.buf) < n+readMin {
		f.buf = make([]byte, 2*n+readMin)
	}
}

// sift looks at w, whose first h bytes are the held ones and have been looked at before. It moves what may leave to
// the front of w and returns its length, and the part of w that must be held.
func (f *Filter) sift(w []byte, h int, err error) (out int, tail []byte) {
	f.err = err
	start, i := 0, h // w[start:i] is the part looked at of the event at hand
	pass := func(end int) {
		if out != start {
			copy(w[out:], w[start:end])
		}
		out += end - start
		start = end
	}
	if h == 0 && len(w) > 0 && w[0] == '\n' && f.p.cr {
		// The second half of a CRLF goes the way of its first.
		f.p.cr = false
		i = 1
		if f.dropped {
			start = 1
		} else {
			pass(1)
		}
	}
	for i < len(w) {
		n, end := f.p.line(w[i:])
		i += n
		switch {
		case end == blankLine:
			f.dropped = !f.through && i-start <= holdMax && f.picked()
			if f.dropped {
				start = i
			} else {
				pass(i)
			}
			f.p.clear()
			f.begun, f.through = false, false
		case end == fieldLine:
			f.begun = true
		case end == commentLine && !f.begun:
			f.dropped = false
			pass(i)
		}
	}
	f.p.keep()
	if f.through || len(w)-start > holdMax {
		f.through, f.dropped = true, false
		pass(len(w))
	}
	if err != nil && start < len(w) {
		f.p.endLine()
		if f.picked() {
			start = len(w)
		} else {
			pass(len(w))
		}
	}
	return out, w[start:]
}

// picked reports whether the event at hand is to be left out.
func (f *Filter) picked() bool {
	return f.p.has && !f.p.over && f.drop(f.p.data.bytes())
}
