// Package body reads a request body once, within bounds, and finds and replaces single values of
// the JSON in it without touching another byte.
package body

import (
	"bytes"
	"compress/gzip"
	"encoding/json"
	"errors"
	"io"
	"slices"
	"sync"
	"sync/atomic"
)

var (
	// ErrTooLarge is returned when a body, inflated or not, passes its limit.
	ErrTooLarge = errors.New("body: larger than the limit")
	// ErrBusy is returned when the budget shared by all bodies is used up.
	ErrBusy = errors.New("body: buffer budget used up")
	// ErrEncoding is returned by [Reader.Inflate] for bytes that are not gzip.
	ErrEncoding = errors.New("body: not valid gzip")
)

// Budget is a number of bytes that all buffered bodies share. It is safe for concurrent use.
type Budget struct{ left atomic.Int64 }

// NewBudget returns a budget of n bytes.
func NewBudget(n int64) *Budget {
	b := new(Budget)
	b.left.Store(n)
	return b
}

// Reader reads bodies within a limit and a shared budget, into pooled memory. It remembers what it
// took so that [Reader.Release] can give it back. Not for concurrent use.
type Reader struct {
	Limit  int64 // bytes of one body
	Budget *Budget
	held   int64
	pooled []*[]byte
}

// The pools hold buffers of these sizes. Without them every large body would be fresh, zeroed
// memory, and the collector would run every few requests.
var (
	poolSizes = [...]int64{4 << 10, 16 << 10, 64 << 10, 256 << 10, maxPooled}
	pools     [len(poolSizes)]sync.Pool
)

// A body of a declared size up to firstBuffer gets its memory at once; above it, and without a
// size, memory follows what has really arrived, so that a client cannot reserve with a header what
// it never sends.
const (
	firstBuffer = 64 << 10
	maxPooled   = 1 << 20
)

// buffer returns an empty buffer of at least n bytes and at most the limit, charged to the budget.
func (r *Reader) buffer(n int64) ([]byte, error) {
	class := 0
	for class < len(poolSizes) && poolSizes[class] < n {
		class++
	}
	if class < len(poolSizes) && poolSizes[class] > r.Limit {
		class = len(poolSizes)
	}
	if class < len(poolSizes) {
		n = poolSizes[class]
	}
	if err := r.Charge(n); err != nil {
		return nil, err
	}
	if class == len(poolSizes) {
		return make([]byte, 0, n), nil
	}
	b, ok := pools[class].Get().(*[]byte)
	if !ok {
		fresh := make([]byte, n)
		b = &fresh
	}
	r.pooled = append(r.pooled, b)
	return (*b)[:0], nil
}

// Charge counts n more bytes against the budget, until Release.
func (r *Reader) Charge(n int64) error {
	if r.Budget.left.Add(-n) < 0 {
		r.Budget.left.Add(n)
		return ErrBusy
	}
	r.held += n
	return nil
}

// grow moves buf, which is the newest buffer, into a larger one of at least n bytes and gives the
// old one back.
func (r *Reader) grow(buf []byte, n int64) ([]byte, error) {
	old := len(r.pooled) - 1
	pooled := old >= 0 && cap(buf) == cap(*r.pooled[old])
	r.Budget.left.Add(int64(cap(buf)))
	r.held -= int64(cap(buf))
	grown, err := r.buffer(n)
	if err != nil {
		return nil, err
	}
	grown = append(grown, buf...)
	if pooled {
		recycle(r.pooled[old])
		r.pooled = slices.Delete(r.pooled, old, old+1)
	}
	return grown, nil
}

func recycle(b *[]byte) {
	if class := slices.Index(poolSizes[:], int64(len(*b))); class >= 0 {
		pools[class].Put(b)
	}
}

// Release gives back what the bodies read so far hold. Nobody may use them any more: a [Source]
// over one must be closed before.
func (r *Reader) Release() {
	for _, b := range r.pooled {
		recycle(b)
	}
	r.pooled = nil
	r.Budget.left.Add(r.held)
	r.held = 0
}

// Forget leaves the memory to the collector, because somebody may still read it: Release then gives
// back the budget alone.
func (r *Reader) Forget() { r.pooled = nil }

// Read reads src to its end. size is the declared length, or negative. Errors of src come back as
// they are. The result is valid until Release.
func (r *Reader) Read(src io.Reader, size int64) ([]byte, error) {
	if size > r.Limit {
		return nil, ErrTooLarge
	}
	end, first := r.Limit, min(poolSizes[0], r.Limit)
	if size >= 0 {
		end, first = size, min(size, firstBuffer)
	}
	buf, err := r.buffer(first)
	if err != nil {
		return nil, err
	}
	for int64(len(buf)) < end {
		if len(buf) == cap(buf) {
			if buf, err = r.grow(buf, min(4*int64(cap(buf)), end)); err != nil {
				return nil, err
			}
		}
		n, err := src.Read(buf[len(buf):min(int64(cap(buf)), end)])
		buf = buf[:len(buf)+n]
		switch {
		case err == io.EOF && int64(len(buf)) < size:
			return nil, io.ErrUnexpectedEOF
		case err == io.EOF:
			return buf, nil
		case err != nil:
			return nil, err
		}
	}
	if size < 0 {
		if err := ended(src); err != nil {
			return nil, err
		}
	}
	return buf, nil
}

// ended returns ErrTooLarge unless src is at its end.
func ended(src io.Reader) error {
	var b [1]byte
	switch n, err := io.ReadFull(src, b[:]); {
	case n > 0:
		return ErrTooLarge
	case err != io.EOF:
		return err
	}
	return nil
}

// Source hands out readers over one buffer until it is closed. An [net/http.RoundTripper] may read
// a request body after it returned; a closed Source makes such a late reader fail instead of seeing
// memory that was given back. The zero Source is closed.
type Source struct {
	mu sync.Mutex
	b  []byte
}

// Reset opens s over b.
func (s *Source) Reset(b []byte) {
	s.mu.Lock()
	s.b = b
	s.mu.Unlock()
}

// Close makes all readers of s fail from now on.
func (s *Source) Close() { s.Reset(nil) }

// NewReader returns a reader from the start of the buffer.
func (s *Source) NewReader() io.ReadCloser { return &sourceReader{s: s} }

type sourceReader struct {
	s   *Source
	off int
}

var errClosed = errors.New("body: the exchange is over")

func (r *sourceReader) Read(p []byte) (int, error) {
	r.s.mu.Lock()
	defer r.s.mu.Unlock()
	if r.s.b == nil {
		return 0, errClosed
	}
	n := copy(p, r.s.b[r.off:])
	r.off += n
	if r.off == len(r.s.b) {
		return n, io.EOF
	}
	return n, nil
}

func (r *sourceReader) Close() error { return nil }

// Inflate returns the content of a gzip body within the same limit and budget.
func (r *Reader) Inflate(b []byte) ([]byte, error) {
	zr, err := gzip.NewReader(bytes.NewReader(b))
	if err != nil {
		return nil, ErrEncoding
	}
	out, err := r.Read(zr, -1)
	if err != nil && !errors.Is(err, ErrTooLarge) && !errors.Is(err, ErrBusy) {
		return nil, ErrEncoding
	}
	return out, err
}

// Replace returns doc with the value of m replaced by the JSON string s, as [Splice] does it.
func Replace(doc []byte, m Member, s string) []byte {
	return Splice(doc, m.Start, m.End, quote(s))
}

// Splice returns doc with the bytes from start to end replaced by value. All other bytes stay. It
// may shift bytes inside doc instead of copying it, so the caller must use the result in place of
// doc.
func Splice(doc []byte, start, end int, value []byte) []byte {
	diff := (end - start) - len(value)
	switch {
	case diff < 0:
		out := make([]byte, 0, len(doc)-diff)
		out = append(out, doc[:start]...)
		out = append(out, value...)
		return append(out, doc[end:]...)
	case start <= len(doc)-end:
		copy(doc[diff:], doc[:start])
		copy(doc[diff+start:], value)
		return doc[diff:]
	default:
		copy(doc[start:], value)
		copy(doc[start+len(value):], doc[end:])
		return doc[:len(doc)-diff]
	}
}

func quote(s string) []byte {
	plain := true
	for i := range len(s) {
		plain = plain && s[i] >= ' ' && s[i] < 0x7F && s[i] != '"' && s[i] != '\\'
	}
	if plain {
		return append(append(append(make([]byte, 0, len(s)+2), '"'), s...), '"')
	}
	var b bytes.Buffer
	enc := json.NewEncoder(&b)
	enc.SetEscapeHTML(false)
	_ = enc.Encode(s) // a string never fails
	return bytes.TrimSuffix(b.Bytes(), []byte("\n"))
}
