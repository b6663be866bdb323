package apexproxy

import (
	"bytes"
	"context"
	"errors"
	"io"
	"maps"
	"net/http"
	"net/http/httptrace"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"github.com/loadchange/apexproxy/internal/body"
	"github.com/loadchange/apexproxy/internal/header"
)

// forward sends the exchange upstream and copies the answer to the client: send, head, copy,
// trailers. It returns a reply only while nothing has been written. An informational answer (1xx) of
// the upstream is not passed on: it would erase headers that the host's middleware has set.
func (p *Proxy) forward(x *exchange) *reply {
	x.deadline.extend(x)
	res, err := x.target.rt.RoundTrip(p.outboundRequest(x))
	if err != nil {
		return unreachable(x.r.Context(), err)
	}
	defer res.Body.Close()
	x.deadline.extend(x)
	x.releaseEarly()
	if rp := p.answer(x, res); rp != nil {
		return rp
	}

	head := x.w.Header()
	header.Answer(head, res.Header)
	p.cors.Apply(head, x.r.Header.Get("Origin"))
	x.tellLosses(head)
	announced := len(res.Trailer)
	if announced > 0 {
		head.Add("Trailer", header.Announce(res.Trailer))
	}
	x.status = res.StatusCode
	x.w.WriteHeader(res.StatusCode)

	if err := copyBody(x, res); err != nil {
		if x.r.Context().Value(http.ServerContextKey) == nil {
			return nil // nobody would recover: a host's own test
		}
		panic(http.ErrAbortHandler)
	}

	res.Body.Close() // now, because this completes res.Trailer
	if len(res.Trailer) == 0 {
		return nil
	}
	_ = http.NewResponseController(x.w).Flush() // or a short body gets a length, and loses its trailers
	prefix := ""
	if len(res.Trailer) != announced {
		prefix = http.TrailerPrefix
	}
	header.Trailers(head, res.Trailer, prefix)
	return nil
}

// copyBody copies an answer, read by read: what has come leaves before more is waited for. Without
// a length the head leaves at once, because the body may take its time; with one, head and body
// leave in as few writes as they can.
func copyBody(x *exchange, res *http.Response) error {
	flush := http.NewResponseController(x.w).Flush
	left := res.ContentLength
	if left < 0 {
		_ = flush()
	}
	more := func() bool { return false }
	if c, ok := res.Body.(*converted); ok {
		more = func() bool { return c.Buffered() > 0 }
	}
	var buf copyBuffer
	defer buf.free()
	for {
		n, err := res.Body.Read(buf.next())
		if n > 0 {
			x.releaseEarly()
			left -= int64(n)
			if werr := writeAll(x.w, buf.b[:n]); werr != nil {
				x.writeErr = werr
				return werr
			}
			if err == nil && left != 0 && !more() {
				if ferr := flush(); ferr != nil && !errors.Is(ferr, http.ErrNotSupported) {
					x.writeErr = ferr
					return ferr
				}
			}
		}
		switch {
		case err == io.EOF:
			return nil
		case err != nil:
			return err
		}
		buf.last = n
	}
}

// writeAll is Write for a ResponseWriter of the host's, which may break the contract of [io.Writer].
func writeAll(w io.Writer, b []byte) error {
	n, err := w.Write(b)
	if err == nil && n < len(b) {
		err = io.ErrShortWrite
	}
	return err
}

// copyBuffer is a small buffer while an answer waits for a model's next word, and a large one while
// it comes faster than it leaves.
type copyBuffer struct {
	b     []byte
	last  int // bytes of the last read
	small *[smallCopy]byte
	large *[largeCopy]byte
}

const (
	smallCopy = 4 << 10
	largeCopy = 32 << 10
)

// The pools hold pointers to arrays, because a slice in a sync.Pool allocates its header each time.
var (
	smallBuffers = sync.Pool{New: func() any { return new([smallCopy]byte) }}
	largeBuffers = sync.Pool{New: func() any { return new([largeCopy]byte) }}
)

// next returns the buffer for the next read.
func (c *copyBuffer) next() []byte {
	switch {
	case c.large == nil && c.last == smallCopy:
		c.large = largeBuffers.Get().(*[largeCopy]byte)
		c.b = c.large[:]
	case c.large != nil && c.last < smallCopy/4:
		largeBuffers.Put(c.large)
		c.large, c.b = nil, c.small[:]
	case c.small == nil:
		c.small = smallBuffers.Get().(*[smallCopy]byte)
		c.b = c.small[:]
	}
	return c.b
}

func (c *copyBuffer) free() {
	if c.small != nil {
		smallBuffers.Put(c.small)
	}
	if c.large != nil {
		largeBuffers.Put(c.large)
	}
}

// outboundRequest makes the request that goes upstream. Headers that the client named in Connection
// go first: what is set after that cannot be removed from outside.
func (p *Proxy) outboundRequest(x *exchange) *http.Request {
	r, ctx := x.r, x.r.Context()
	_, memory := x.target.rt.(*http.Transport)
	if memory {
		ctx = x.loan.watch(ctx)
	}
	out := r.WithContext(ctx)
	u := x.target.url
	out.URL, out.Host, out.RequestURI = &u, u.Host, ""
	out.Proto, out.ProtoMajor, out.ProtoMinor = "HTTP/1.1", 1, 1
	out.Close, out.TransferEncoding, out.Trailer, out.TLS = false, nil, nil, nil
	out.Form, out.PostForm, out.MultipartForm = nil, nil, nil
	out.Body, out.GetBody, out.ContentLength = nil, nil, 0

	// The values are shared with the client's request: nobody may change them in place.
	var h http.Header
	if x.mode == ModeGateway {
		h = header.ToGateway(r.Header, p.gateway.forward)
	} else {
		h = header.ToUpstream(r.Header)
	}
	out.Header = h
	if _, ok := h["User-Agent"]; !ok {
		h["User-Agent"] = noUserAgent
	}
	if x.mode == ModeGateway || x.converts() || x.observed {
		h["Accept-Encoding"] = identityEncoding // the answer has to be readable
	}
	if x.converts() {
		header.Convert(h)
	}
	if x.outbound != nil {
		if !strings.Contains(h.Get("Content-Type"), "json") {
			h.Set("Content-Type", "application/json")
		}
		if x.encoding == "" {
			delete(h, "Content-Encoding")
		}
		x.loan.lend(out, x.outbound, memory)
	}
	maps.Copy(h, x.target.header)
	return out
}

var (
	noUserAgent      = []string{""} // or Go says its own
	identityEncoding = []string{"identity"}
)

// loan is a request's body in the hands of a transport, which may go on reading it after RoundTrip
// returned: an upstream can answer before it has read all of it, or the client can leave. Until
// the body is back its memory must not be used again. The zero loan is of nothing.
//
// There are two ways to know. An http.Transport tells by its hooks when it has written the request,
// after its last look at the body (net/http, Request.write and http2's writeRequest call
// WroteRequest then, and not at all on some errors); it is back when that happened once, over the
// only connection that the request was given, and nobody asked for the body again. Such a transport
// is lent the memory itself, because it sends head and body in one write only when it knows the
// body to be in memory. Any other RoundTripper reads through a Source, which can be closed.
type loan struct {
	lent  bool         // the memory itself
	conns atomic.Int32 // connections the request was given
	wrote atomic.Int32 // times it was written to one
	again atomic.Bool  // its body was asked for a second time

	source body.Source
	trace  httptrace.ClientTrace
}

// watch returns a context whose request tells the loan what becomes of it.
func (l *loan) watch(ctx context.Context) context.Context {
	l.trace.GotConn = func(httptrace.GotConnInfo) { l.conns.Add(1) }
	l.trace.WroteRequest = func(httptrace.WroteRequestInfo) { l.wrote.Add(1) }
	return httptrace.WithClientTrace(ctx, &l.trace)
}

// lend gives b to a request: as memory if the transport can be watched, else through the source.
// With GetBody a request that an HTTP/2 upstream refused before it looked at it is sent again
// instead of failing.
func (l *loan) lend(r *http.Request, b []byte, memory bool) {
	r.ContentLength = int64(len(b))
	if !memory {
		l.source.Reset(b)
		r.Body = l.source.NewReader()
		r.GetBody = func() (io.ReadCloser, error) { return l.source.NewReader(), nil }
		return
	}
	l.lent = true
	r.Body = io.NopCloser(bytes.NewReader(b))
	r.GetBody = func() (io.ReadCloser, error) {
		l.again.Store(true)
		return io.NopCloser(bytes.NewReader(b)), nil
	}
}

// back closes the source, and reports whether nobody can see the memory any more.
func (l *loan) back() bool {
	l.source.Close()
	return !l.lent || !l.again.Load() && l.conns.Load() == 1 && l.wrote.Load() == 1
}

// writeDeadline moves the deadline that a host's http.Server.WriteTimeout set, so that it bounds
// each wait for the client and not the whole answer.
type writeDeadline struct {
	timeout  time.Duration // of the host's server; 0: none
	extended time.Time     // when the deadline was last moved
}

// extend moves the deadline. For HTTP/2 it is lifted once: there it would end a stream that is
// merely quiet.
func (d *writeDeadline) extend(x *exchange) {
	if d.timeout <= 0 {
		return
	}
	deadline, now := time.Time{}, time.Now()
	switch {
	case x.r.ProtoMajor < 2:
		deadline = now.Add(d.timeout)
	case !d.extended.IsZero():
		return
	}
	if now.Sub(d.extended) < d.timeout/4 {
		return
	}
	d.extended = now
	// Writers without deadlines (recorders, wrappers without Unwrap) say ErrNotSupported: there is
	// nothing to move.
	_ = http.NewResponseController(x.w).SetWriteDeadline(deadline)
}
