package relay

import (
	"bytes"
	"context"
	"io"
	"net/http"
	"net/http/httptrace"
	"sync/atomic"

	"github.com/loadchange/apexproxy/internal/body"
)

// A Loan is a request's body in the hands of a transport, which may go on reading it after
// RoundTrip returned: an upstream can answer before it has read all of it, or the client can leave.
// Until the body is back its memory must not be used again. The zero Loan is of nothing. It must
// not be copied, nor used for a second request.
//
// There are two ways to know. An [http.Transport] tells by its hooks when it has written the
// request, after its last look at the body (Request.write and http2's writeRequest call
// WroteRequest then, and not at all on some errors); the body is back when that happened once, over
// the only connection that the request was given, and nobody asked for the body again. Such a
// transport is lent the memory itself, because it sends head and body in one write only when it
// knows the body to be in memory. Any other RoundTripper reads through a [body.Source], which can
// be closed.
type Loan struct {
	memory bool         // was lent, and not a source
	conns  atomic.Int32 // connections the request was given
	wrote  atomic.Int32 // times it was written to one
	again  atomic.Bool  // its body was asked for a second time

	source body.Source
	trace  httptrace.ClientTrace
}

// Watch returns the context for a request that is to be sent by rt, of which the loan is told.
func (l *Loan) Watch(ctx context.Context, rt http.RoundTripper) context.Context {
	if _, l.memory = rt.(*http.Transport); !l.memory {
		return ctx
	}
	l.trace.GotConn = func(httptrace.GotConnInfo) { l.conns.Add(1) }
	l.trace.WroteRequest = func(httptrace.WroteRequestInfo) { l.wrote.Add(1) }
	return httptrace.WithClientTrace(ctx, &l.trace)
}

// Lend makes b the body of r, whose context is that of Watch. With GetBody, a request that an
// HTTP/2 upstream refused before it looked at it is sent again instead of failing.
func (l *Loan) Lend(r *http.Request, b []byte) {
	r.ContentLength = int64(len(b))
	if !l.memory {
		l.source.Reset(b)
		r.Body = l.source.NewReader()
		r.GetBody = func() (io.ReadCloser, error) { return l.source.NewReader(), nil }
		return
	}
	r.Body = io.NopCloser(bytes.NewReader(b))
	r.GetBody = func() (io.ReadCloser, error) {
		l.again.Store(true)
		return io.NopCloser(bytes.NewReader(b)), nil
	}
}

// Returned reports whether the transport is known to be done with the memory that it was lent. It
// is false of nothing, and of a source, which is open until Back.
func (l *Loan) Returned() bool {
	return l.memory && !l.again.Load() && l.conns.Load() == 1 && l.wrote.Load() == 1
}

// Back ends the loan: it closes a source, and reports whether nobody can see the memory any more.
func (l *Loan) Back() bool {
	l.source.Close()
	return !l.memory || l.Returned()
}
