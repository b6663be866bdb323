package apexproxytest

import (
	"bytes"
	"context"
	"crypto/x509"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"strings"
	"sync"
	"sync/atomic"
)

// A Request is one request as a fake received it.
type Request struct {
	Method     string
	RequestURI string // the request target as received, byte for byte
	Host       string
	Proto      string // "HTTP/1.1" or "HTTP/2.0"
	Header     http.Header
	Trailer    http.Header // nil when the client sent none

	// ContentLength is the declared length of the body, -1 when the client declared none.
	ContentLength int64

	// Body is what arrived of the body. It is empty when the reply was made with [Unread].
	Body []byte

	// BodyErr is the error that ended the reading of the body, nil after a complete one. A client
	// that leaves while it uploads shows here. Such a request gets no reply.
	BodyErr error
}

func (r Request) clone() Request {
	r.Header = r.Header.Clone()
	r.Trailer = r.Trailer.Clone()
	r.Body = bytes.Clone(r.Body)
	return r
}

func (r *Request) readBody(body io.Reader) {
	r.Body, r.BodyErr = io.ReadAll(body)
}

func newRequest(r *http.Request) Request {
	return Request{
		Method:        r.Method,
		RequestURI:    r.RequestURI,
		Host:          r.Host,
		Proto:         r.Proto,
		Header:        r.Header.Clone(),
		ContentLength: r.ContentLength,
	}
}

// capture reads the whole request and leaves r with a body that can be read again.
func capture(r *http.Request) Request {
	req := newRequest(r)
	req.readBody(r.Body)
	req.Trailer = r.Trailer.Clone()
	r.Body = io.NopCloser(bytes.NewReader(req.Body))
	return req
}

// server is what the fakes have in common: a listener, and counts that a test can wait for.
type server struct {
	srv   *httptest.Server
	ctx   context.Context // done once Close has been called
	stop  context.CancelFunc
	conns atomic.Int64

	mu        sync.Mutex
	changed   chan struct{} // closed and replaced when a count below changes
	arrived   int
	cancelled int
}

func (s *server) start(useTLS bool, h http.HandlerFunc) {
	s.ctx, s.stop = context.WithCancel(context.Background())
	s.changed = make(chan struct{})
	s.srv = httptest.NewUnstartedServer(h)
	s.srv.Config.BaseContext = func(net.Listener) context.Context { return s.ctx }
	s.srv.Config.ConnState = func(_ net.Conn, state http.ConnState) {
		if state == http.StateNew {
			s.conns.Add(1)
		}
	}
	if useTLS {
		s.srv.EnableHTTP2 = true
		s.srv.StartTLS()
	} else {
		s.srv.Start()
	}
}

func (s *server) host() string { return s.srv.Listener.Addr().String() }

// Close ends the requests in flight, closes the listener and waits for the handlers to return.
func (s *server) Close() {
	s.stop()
	s.srv.Close()
}

// Connections returns how many TCP connections have been accepted since the start. It proves, for
// instance, that a rejected request never reached an upstream.
func (s *server) Connections() int64 { return s.conns.Load() }

// Client returns a client that trusts the server's certificate. Every call returns the same client.
func (s *server) Client() *http.Client { return s.srv.Client() }

// Transport returns a new transport that trusts the server's certificate and speaks HTTP/2 where
// the server does. The caller may change it.
func (s *server) Transport() *http.Transport {
	return s.srv.Client().Transport.(*http.Transport).Clone()
}

// Certificate returns the server's certificate, nil for plain HTTP. It is valid for 127.0.0.1, ::1
// and example.com.
func (s *server) Certificate() *x509.Certificate { return s.srv.Certificate() }

// RootCAs returns a new pool that holds the server's certificate, nil for plain HTTP.
func (s *server) RootCAs() *x509.CertPool {
	cert := s.srv.Certificate()
	if cert == nil {
		return nil
	}
	pool := x509.NewCertPool()
	pool.AddCert(cert)
	return pool
}

// WaitRequests waits until n requests have been recorded since the start or the last Reset. A
// request is recorded when its body has been read and before its reply begins. The error is ctx's.
func (s *server) WaitRequests(ctx context.Context, n int) error {
	return s.wait(ctx, func() bool { return s.arrived >= n })
}

// WaitCancelled waits until n requests, since the start or the last Reset, were left by their
// client before the reply was complete: the request's context was cancelled, or its body broke off.
// The error is ctx's.
func (s *server) WaitCancelled(ctx context.Context, n int) error {
	return s.wait(ctx, func() bool { return s.cancelled >= n })
}

func (s *server) wait(ctx context.Context, done func() bool) error {
	for {
		s.mu.Lock()
		ok, changed := done(), s.changed
		s.mu.Unlock()
		if ok {
			return nil
		}
		select {
		case <-changed:
		case <-ctx.Done():
			return ctx.Err()
		}
	}
}

// update runs f under the lock and wakes who waits.
func (s *server) update(f func()) {
	s.mu.Lock()
	defer s.mu.Unlock()
	f()
	close(s.changed)
	s.changed = make(chan struct{})
}

func (s *server) countCancelled() {
	if s.ctx.Err() == nil { // Close cancels every request; no client left
		s.update(func() { s.cancelled++ })
	}
}

// watch counts the request as cancelled if its context ends before the returned func is called.
func (s *server) watch(r *http.Request) (stop func()) {
	unwatch := context.AfterFunc(r.Context(), s.countCancelled)
	return func() {
		// A context that ends wakes the reply, which may be here before the AfterFunc has been
		// started.
		if unwatch() && r.Context().Err() != nil {
			s.countCancelled()
		}
	}
}

// RefusingAddr returns a loopback address, host:port, that refuses connections: its listener is
// closed. Nothing keeps another process from taking the port later.
func RefusingAddr() string {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		panic("apexproxytest: no loopback listener: " + err.Error())
	}
	defer l.Close()
	return l.Addr().String()
}

// headerPairs checks a list of alternating names and values when a reply is made, where the mistake
// is.
func headerPairs(pairs []string) []string {
	if len(pairs)%2 != 0 {
		panic("apexproxytest: header needs alternating names and values, got " + strings.Join(pairs, ", "))
	}
	return pairs
}

func addHeader(h http.Header, pairs []string) {
	for i := 0; i < len(pairs); i += 2 {
		h.Add(pairs[i], pairs[i+1])
	}
}
