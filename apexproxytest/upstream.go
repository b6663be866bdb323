package apexproxytest

import (
	"net/http"
	"sync"
)

// An Upstream is a scripted HTTP server that records what it receives. Its methods may be called
// from several goroutines.
type Upstream struct {
	URL  string // "http://127.0.0.1:port" or "https://127.0.0.1:port", no trailing slash
	Host string // host:port

	server
	script   *script
	requests []Request
}

// NewUpstream starts an upstream that speaks plain HTTP/1.1. Each request takes the next reply, the
// last one repeats; without replies it answers like [Provider]. The caller must call Close.
func NewUpstream(replies ...http.Handler) *Upstream { return newUpstream(false, replies) }

// NewTLSUpstream is NewUpstream with TLS and HTTP/2. [Upstream.Transport] and [Upstream.RootCAs]
// trust its certificate.
func NewTLSUpstream(replies ...http.Handler) *Upstream { return newUpstream(true, replies) }

func newUpstream(useTLS bool, replies []http.Handler) *Upstream {
	u := &Upstream{script: newScript(replies)}
	u.start(useTLS, u.serve)
	u.URL, u.Host = u.srv.URL, u.host()
	return u
}

func (u *Upstream) serve(w http.ResponseWriter, r *http.Request) {
	reply := u.script.next()
	var req Request
	if _, ok := reply.(unread); ok {
		req = newRequest(r)
	} else {
		req = capture(r)
	}
	u.update(func() {
		u.requests = append(u.requests, req)
		u.arrived++
	})
	if req.BodyErr != nil {
		u.countCancelled()
		panic(http.ErrAbortHandler)
	}
	defer u.watch(r)()
	reply.ServeHTTP(w, r)
}

// Requests returns a copy of the requests recorded since the start or the last Reset, in the order
// of their arrival.
func (u *Upstream) Requests() []Request {
	u.mu.Lock()
	defer u.mu.Unlock()
	list := make([]Request, len(u.requests))
	for i, r := range u.requests {
		list[i] = r.clone()
	}
	return list
}

// Reset forgets the recorded requests and the counts behind WaitRequests and WaitCancelled. The
// script goes on where it was.
func (u *Upstream) Reset() {
	u.update(func() { u.requests, u.arrived, u.cancelled = nil, 0, 0 })
}

// Script replaces the replies; the next request takes the first of them.
func (u *Upstream) Script(replies ...http.Handler) { u.script.set(replies) }

// Replies returns a handler whose every request takes the next reply; the last one repeats. It
// scripts what stands behind a [Gateway]. Without replies it answers like [Provider].
func Replies(replies ...http.Handler) http.Handler { return newScript(replies) }

type script struct {
	mu      sync.Mutex
	replies []http.Handler
}

func newScript(replies []http.Handler) *script {
	s := new(script)
	s.set(replies)
	return s
}

func (s *script) set(replies []http.Handler) {
	if len(replies) == 0 {
		replies = []http.Handler{Provider()}
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	s.replies = replies
}

func (s *script) next() http.Handler {
	s.mu.Lock()
	defer s.mu.Unlock()
	h := s.replies[0]
	if len(s.replies) > 1 {
		s.replies = s.replies[1:]
	}
	return h
}

func (s *script) ServeHTTP(w http.ResponseWriter, r *http.Request) { s.next().ServeHTTP(w, r) }
