// Package relay moves bytes between an upstream and a client: an answer's body on its way, and the
// memory of a request's body in a transport's hands. It knows nothing of what the bytes mean.
package relay

import (
	"compress/gzip"
	"io"
	"net/http"
	"sync"
	"time"
)

// Copy copies an answer's body to w, read by read: what has come leaves before more is waited for.
// If headAlone is set the head leaves at once, because the body may take its time; if not, head and
// body leave in as few writes as they can. A body with a method Buffered is not flushed while that
// says that it has more at hand. came is called after each read that brought something, before that
// is written.
//
// One of the errors is that of reading body, nil at io.EOF; what came with it has left. The other
// is that of writing to w, a short write included, which the writer of a host may keep to itself.
// That of a flush does not count: a client that is gone fails the next write. After either error
// nothing more is copied.
func Copy(w http.ResponseWriter, body io.Reader, headAlone bool, came func()) (readErr, writeErr error) {
	flush := http.NewResponseController(w).Flush
	if headAlone {
		_ = flush()
	}
	more, _ := body.(interface{ Buffered() int })
	var buf buffer
	defer buf.free()
	for n := 0; ; {
		b := buf.after(n)
		n, readErr = body.Read(b)
		if n > 0 {
			came()
			if writeErr = writeAll(w, b[:n]); writeErr != nil {
				return nil, writeErr
			}
		}
		if readErr == io.EOF {
			return nil, nil // the end of the answer is a flush
		}
		if n > 0 && (more == nil || more.Buffered() == 0) {
			_ = flush()
		}
		if readErr != nil {
			return readErr, nil
		}
	}
}

// writeAll is Write for a writer that may break the contract of [io.Writer].
func writeAll(w io.Writer, b []byte) error {
	n, err := w.Write(b)
	if err == nil && n < len(b) {
		err = io.ErrShortWrite
	}
	return err
}

// buffer is a small one while an answer waits for a model's next word, and a large one while it
// comes faster than it leaves.
type buffer struct {
	small *[smallSize]byte
	large *[largeSize]byte
}

const (
	smallSize = 4 << 10
	largeSize = 32 << 10
)

// The pools hold pointers to arrays, because a slice in a sync.Pool allocates its header each time.
var (
	smallBuffers = sync.Pool{New: func() any { return new([smallSize]byte) }}
	largeBuffers = sync.Pool{New: func() any { return new([largeSize]byte) }}
)

// after returns the memory for the read that follows one of n bytes.
func (b *buffer) after(n int) []byte {
	switch {
	case b.small == nil:
		b.small = smallBuffers.Get().(*[smallSize]byte)
	case b.large == nil && n == smallSize:
		b.large = largeBuffers.Get().(*[largeSize]byte)
	case b.large != nil && n < smallSize/4:
		largeBuffers.Put(b.large)
		b.large = nil
	}
	if b.large != nil {
		return b.large[:]
	}
	return b.small[:]
}

func (b *buffer) free() {
	smallBuffers.Put(b.small)
	if b.large != nil {
		largeBuffers.Put(b.large)
	}
}

// Drain reads up to n bytes of r, for no longer than d. A read that takes longer goes on until
// somebody closes r.
func Drain(r io.Reader, n int64, d time.Duration) {
	done := make(chan struct{})
	go func() {
		defer close(done)
		_, _ = io.CopyN(io.Discard, r, n)
	}()
	timer := time.NewTimer(d)
	defer timer.Stop()
	select {
	case <-done:
	case <-timer.C:
	}
}

// ReadCloser reads from one value and closes another.
type ReadCloser struct {
	io.Reader
	io.Closer
}

// Gunzip returns the content of a gzip body. Nothing is read before the first Read.
func Gunzip(src io.ReadCloser) io.ReadCloser { return &gunzip{src: src} }

type gunzip struct {
	src io.ReadCloser
	zip *gzip.Reader
	err error // of the beginning: it stays
}

func (g *gunzip) Read(p []byte) (int, error) {
	if g.zip == nil && g.err == nil {
		g.zip, g.err = gzip.NewReader(g.src)
	}
	if g.err != nil {
		return 0, g.err
	}
	return g.zip.Read(p)
}

func (g *gunzip) Close() error { return g.src.Close() }

// A Deadline moves the write deadline that a host's [http.Server.WriteTimeout] set, so that it
// bounds each wait for the client and not the whole answer. The zero Deadline has none to move.
type Deadline struct {
	Timeout time.Duration // of the host's server; 0: none
	moved   time.Time     // when it was last moved
}

// Extend moves the deadline of w, the writer of r, at most four times in a Timeout. For HTTP/2 it
// is lifted once: there it would end a stream that is merely quiet.
func (d *Deadline) Extend(w http.ResponseWriter, r *http.Request) {
	if d.Timeout <= 0 {
		return
	}
	deadline, now := time.Time{}, time.Now()
	switch {
	case r.ProtoMajor < 2:
		deadline = now.Add(d.Timeout)
	case !d.moved.IsZero():
		return
	}
	if now.Sub(d.moved) < d.Timeout/4 {
		return
	}
	d.moved = now
	// Writers without deadlines (recorders, wrappers without Unwrap) say ErrNotSupported: there is
	// nothing to move.
	_ = http.NewResponseController(w).SetWriteDeadline(deadline)
}
