package apexproxytest

import (
	"compress/gzip"
	"context"
	"crypto/tls"
	"io"
	"net"
	"net/http"
	"strings"
)

const (
	typeJSON = "application/json"
	typeSSE  = "text/event-stream; charset=utf-8"
)

// JSON answers with a status and a body of type application/json. header holds alternating names
// and values, which are added to the answer; an odd number panics. The body is sent as it is, valid
// or not.
func JSON(status int, body string, header ...string) http.Handler {
	headerPairs(header)
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		w.Header().Set("Content-Type", typeJSON)
		addHeader(w.Header(), header)
		w.WriteHeader(status)
		io.WriteString(w, body)
	})
}

// SSE answers with an event stream. Each argument is one write, flushed at once and not
// reformatted, so that an argument may hold half an event or ten. See [ChatStream] and
// [MessageStream] for real ones.
func SSE(events ...string) http.Handler { return Chunks(typeSSE, events...) }

// Chunks answers 200 with the given content type; each chunk is one write, flushed at once. A
// client may still receive several chunks in one read.
func Chunks(contentType string, chunks ...string) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		send(w, r, contentType, chunks)
	})
}

// Split cuts body into pieces of n bytes, the last one shorter, to be sent with [SSE] or [Chunks].
// It panics unless n is positive.
func Split(body string, n int) []string {
	if n <= 0 {
		panic("apexproxytest: Split needs a positive size")
	}
	var pieces []string
	for len(body) > n {
		pieces = append(pieces, body[:n])
		body = body[n:]
	}
	if body != "" {
		pieces = append(pieces, body)
	}
	return pieces
}

// send writes the head and the chunks, and stops early when the client has left.
func send(w http.ResponseWriter, r *http.Request, contentType string, chunks []string) {
	w.Header().Set("Content-Type", contentType)
	w.WriteHeader(http.StatusOK)
	for _, c := range chunks {
		if r.Context().Err() != nil {
			return
		}
		io.WriteString(w, c)
		flush(w)
	}
}

// flush ignores errors: a client that left shows in the request's context.
func flush(w http.ResponseWriter) { _ = http.NewResponseController(w).Flush() }

// guessType serves the replies that take chunks alone.
func guessType(chunks []string) string {
	if len(chunks) > 0 && (strings.HasPrefix(chunks[0], "{") || strings.HasPrefix(chunks[0], "[")) {
		return typeJSON
	}
	return typeSSE
}

// Abort answers 200 with the chunks and then breaks the answer off: over HTTP/1.1 the connection is
// closed in the middle of a chunked body, over HTTP/2 the stream is reset. The client receives all
// chunks first. With no chunk at all the client gets no status; Abort("") sends the head and
// nothing more. The type is JSON when the first chunk starts with a brace or bracket, else an event
// stream.
func Abort(prefix ...string) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if len(prefix) > 0 {
			send(w, r, guessType(prefix), prefix)
		}
		panic(http.ErrAbortHandler)
	})
}

// ResetConn is [Abort] with a TCP reset instead of an orderly close; chunks that the client has not
// read yet may be lost. Over HTTP/2 it is Abort.
func ResetConn(prefix ...string) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if len(prefix) > 0 {
			send(w, r, guessType(prefix), prefix)
		}
		conn, _, err := http.NewResponseController(w).Hijack()
		if err != nil {
			panic(http.ErrAbortHandler)
		}
		if t, ok := conn.(*tls.Conn); ok {
			conn = t.NetConn() // closing the TLS layer would say goodbye first
		}
		if t, ok := conn.(*net.TCPConn); ok {
			_ = t.SetLinger(0)
		}
		conn.Close()
	})
}

// Raw writes bytes to the connection as they are, status line included, and closes it: for answers
// that net/http refuses to make. HTTP/1.1 only; over HTTP/2 the stream is reset.
func Raw(response string) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		conn, _, err := http.NewResponseController(w).Hijack()
		if err != nil {
			panic(http.ErrAbortHandler)
		}
		defer conn.Close()
		io.WriteString(conn, response)
	})
}

// Hang sends nothing until the client leaves or the server is closed.
func Hang() http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		<-r.Context().Done()
		panic(http.ErrAbortHandler)
	})
}

// StallAfter answers 200 with the chunks and then sends nothing more until the client leaves or the
// server is closed. StallAfter() sends the head alone. Its content type is that of [Abort].
func StallAfter(chunks ...string) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		send(w, r, guessType(chunks), chunks)
		flush(w)
		<-r.Context().Done()
		panic(http.ErrAbortHandler)
	})
}

// EarlyHints sends 103 Early Hints with a Link header, then the reply.
func EarlyHints(then http.Handler) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		w.Header().Set("Link", "</style.css>; rel=preload; as=style")
		w.WriteHeader(http.StatusEarlyHints)
		w.Header().Del("Link")
		then.ServeHTTP(w, r)
	})
}

// Trailers gives the reply announced trailers: alternating names and values, an odd number panics.
func Trailers(then http.Handler, trailer ...string) http.Handler {
	headerPairs(trailer)
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		for i := 0; i < len(trailer); i += 2 {
			w.Header().Add("Trailer", trailer[i])
		}
		then.ServeHTTP(w, r)
		addHeader(w.Header(), trailer)
	})
}

// Gzip sends the reply with Content-Encoding: gzip, whatever the client accepts; every flush of the
// reply ends a gzip block, so that a reader can decode each event when it arrives. A reply that
// aborts leaves the gzip stream unfinished.
func Gzip(then http.Handler) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		w.Header().Set("Content-Encoding", "gzip")
		zw := &gzipWriter{ResponseWriter: w, gz: gzip.NewWriter(w)}
		then.ServeHTTP(zw, r)
		zw.gz.Close()
	})
}

type gzipWriter struct {
	http.ResponseWriter
	gz *gzip.Writer
}

func (w *gzipWriter) Write(p []byte) (int, error) { return w.gz.Write(p) }

func (w *gzipWriter) Flush() {
	w.gz.Flush()
	flush(w.ResponseWriter)
}

// Redirect answers with a 3xx status and a Location, which is sent as it is.
func Redirect(status int, location string) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		w.Header().Set("Location", location)
		w.WriteHeader(status)
	})
}

// Unread sends the reply without reading the request's body, as a server that refuses an upload
// does. It must be the outermost reply. A client that leaves early is not noticed.
func Unread(then http.Handler) http.Handler { return unread{then} }

type unread struct{ http.Handler }

func (u unread) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	// An HTTP/1 server would wait for the body before it answers; HTTP/2 never does and reports the
	// call as unsupported.
	_ = http.NewResponseController(w).EnableFullDuplex()
	u.Handler.ServeHTTP(w, r)
}

// A Gate is an event stream whose every event waits for the test: it proves that event n reached
// the client before event n+1 was sent. Use it for one request at a time.
type Gate struct {
	events     []string
	step, sent chan struct{}
}

// Steps returns a Gate. Its head is sent when the request arrives, its events by [Gate.Next].
func Steps(events ...string) *Gate {
	return &Gate{events: events, step: make(chan struct{}), sent: make(chan struct{})}
}

// Next lets the next event out and returns when it has been flushed; after the last event one more
// call ends the stream. It waits for the request to arrive. The error is ctx's; it also tells that
// there is no step left or that the client has gone.
func (g *Gate) Next(ctx context.Context) error {
	select {
	case g.step <- struct{}{}:
	case <-ctx.Done():
		return ctx.Err()
	}
	select {
	case <-g.sent:
	case <-ctx.Done():
		return ctx.Err()
	}
	return nil
}

// ServeHTTP sends the events, each when Next allows it.
func (g *Gate) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	send(w, r, typeSSE, nil)
	flush(w)
	for i := range len(g.events) + 1 {
		select {
		case <-g.step:
		case <-r.Context().Done():
			panic(http.ErrAbortHandler)
		}
		if i < len(g.events) {
			io.WriteString(w, g.events[i])
			flush(w)
		}
		select {
		case g.sent <- struct{}{}:
		case <-r.Context().Done():
			panic(http.ErrAbortHandler)
		}
	}
}
