package sse

import "io"

const (
	// holdMax is how many bytes of an unfinished event a Filter holds back. The events worth
	// dropping are a few hundred bytes; what is larger passes.
	holdMax = 64 << 10
	// readMin is the least room a Filter gives its source.
	readMin = 4 << 10
)

// Filter copies an event stream byte for byte, but leaves out the events that its drop function
// picks. Make one with [NewFilter]. It starts no goroutine and closes nothing. It is not safe for
// concurrent use.
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

// NewFilter returns a Filter that reads src. drop is called with the data of every event of up to
// 64 KiB, in order, and true leaves out all bytes of that event with its blank line. The data is
// valid only during the call. At the end of the stream drop is also asked about an event that lacks
// its blank line; its data may have been cut short, so drop must be sure of what it sees.
func NewFilter(src io.Reader, drop func(data []byte) bool) *Filter {
	return &Filter{src: src, drop: drop, p: Parser{Max: holdMax}}
}

// Read implements [io.Reader]. An event leaves as soon as its blank line is in, and a comment
// between events as soon as its line is. Bytes of an unfinished event are held back until then, up
// to 64 KiB of them, after which it passes as it comes. Read reads its source once, or again while
// nothing may leave yet. An error of the source, io.EOF too, is returned unchanged after everything
// read before it, and again on every later call.
func (f *Filter) Read(b []byte) (int, error) {
	if len(b) == 0 {
		return 0, nil
	}
	for len(f.ready) == 0 {
		f.trim()
		switch {
		case f.err != nil:
			return 0, f.err
		case len(f.held) > 0 || len(b) < readMin:
			if n := f.fill(); n == 0 && len(f.ready) == 0 && f.err == nil {
				return 0, nil
			}
			continue
		}
		n, err := f.src.Read(b)
		out, tail := f.sift(b[:n], 0, err)
		if len(tail) > 0 {
			f.room(len(tail))
			f.held = f.buf[:copy(f.buf, tail)]
		}
		if out > 0 || n == 0 && err == nil {
			return out, nil
		}
	}
	n := copy(b, f.ready)
	f.ready = f.ready[n:]
	return n, nil
}

// fill reads the source into buf, behind the bytes that are held, and returns how many came.
func (f *Filter) fill() int {
	f.room(len(f.held))
	h := copy(f.buf, f.held)
	n, err := f.src.Read(f.buf[h:])
	out, tail := f.sift(f.buf[:h+n], h, err)
	f.ready, f.held = f.buf[:out], tail
	return n
}

// trim gives back a large buffer that nothing is in.
func (f *Filter) trim() {
	if len(f.held) == 0 && len(f.buf) > keepCap {
		f.buf = nil
	}
}

// Err returns the error with which the source ended, as it was given, or nil while it has not. It
// is known as soon as the source said it, so possibly before Read has handed out the last bytes.
func (f *Filter) Err() error { return f.err }

// room gives buf space for n held bytes and a read. The held bytes may be in the old buf still.
func (f *Filter) room(n int) {
	if len(f.buf) < n+readMin {
		f.buf = make([]byte, 2*n+readMin)
	}
}

// sieve moves the bytes of w that may leave to its front.
type sieve struct {
	w     []byte
	start int // of the event at hand
	out   int // bytes that may leave
}

// pass lets the event at hand leave up to end.
func (s *sieve) pass(end int) {
	if s.out != s.start {
		copy(s.w[s.out:], s.w[s.start:end])
	}
	s.out += end - s.start
	s.start = end
}

// sift looks at w, whose first h bytes are the held ones and have been looked at before. It moves
// what may leave to the front of w and returns its length, and the part of w that must be held.
func (f *Filter) sift(w []byte, h int, err error) (out int, tail []byte) {
	f.err = err
	s := sieve{w: w}
	i := h
	if h == 0 && len(w) > 0 && w[0] == '\n' && f.p.cr {
		// The second half of a CRLF goes the way of its first.
		f.p.cr = false
		i = 1
		if f.dropped {
			s.start = 1
		} else {
			s.pass(1)
		}
	}
	for i < len(w) {
		n, end := f.p.line(w[i:])
		i += n
		f.line(&s, i, end)
	}
	f.p.keep()
	if f.through || len(w)-s.start > holdMax {
		f.through, f.dropped = true, false
		s.pass(len(w))
	}
	if err != nil && s.start < len(w) {
		f.p.endLine()
		if f.picked() {
			s.start = len(w)
		} else {
			s.pass(len(w))
		}
	}
	return s.out, w[s.start:]
}

// line takes the end of a line, which is at i.
func (f *Filter) line(s *sieve, i int, end ending) {
	switch {
	case end == blankLine:
		f.dropped = !f.through && i-s.start <= holdMax && f.picked()
		if f.dropped {
			s.start = i
		} else {
			s.pass(i)
		}
		f.p.clear()
		f.begun, f.through = false, false
	case end == fieldLine:
		f.begun = true
	case end == commentLine && !f.begun:
		f.dropped = false
		s.pass(i)
	}
}

// picked reports whether the event at hand is to be left out.
func (f *Filter) picked() bool {
	return f.p.has && !f.p.over && f.drop(f.p.data.bytes())
}
