package relay

import (
	"context"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"
)

// lent sends b through rt to url and returns what came of it, with the loan still open.
func lent(ctx context.Context, t *testing.T, l *Loan, rt http.RoundTripper, url string, b []byte) (*http.Response, error) {
	t.Helper()
	req, err := http.NewRequestWithContext(l.Watch(ctx, rt), http.MethodPost, url, nil)
	if err != nil {
		t.Fatal(err)
	}
	l.Lend(req, b)
	return rt.RoundTrip(req)
}

func TestLoan_returned(t *testing.T) {
	t.Parallel()
	srv := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		_, _ = io.Copy(w, r.Body)
	}))
	t.Cleanup(srv.Close)
	rt := &http.Transport{}
	t.Cleanup(rt.CloseIdleConnections)
	var l Loan
	res, err := lent(t.Context(), t, &l, rt, srv.URL, []byte("hello"))
	if err != nil {
		t.Fatal(err)
	}
	if b, err := io.ReadAll(res.Body); err != nil || string(b) != "hello" {
		t.Errorf("%q, %v", b, err)
	}
	_ = res.Body.Close()
	if !l.Returned() || !l.Back() {
		t.Errorf("returned %t, back %t after the whole exchange", l.Returned(), l.Back())
	}
}

// stuck is a connection whose answer is there although its first write lasts until free is closed.
type stuck struct {
	net.Conn
	answer  io.Reader
	writing chan struct{} // closed when the write began
	free    <-chan struct{}
}

func (s stuck) Read(b []byte) (int, error) {
	<-s.writing
	return s.answer.Read(b)
}

func (s stuck) Write(b []byte) (int, error) {
	select {
	case <-s.writing:
	default:
		close(s.writing)
	}
	<-s.free
	return len(b), nil
}

// After an answer that came early the transport may be reading the memory still, closed or not.
func TestLoan_earlyAnswer(t *testing.T) {
	t.Parallel()
	free := make(chan struct{})
	defer close(free)
	here, there := net.Pipe()
	t.Cleanup(func() { _ = there.Close() })
	rt := &http.Transport{DialContext: func(context.Context, string, string) (net.Conn, error) {
		return stuck{here, strings.NewReader("HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nno"), make(chan struct{}), free}, nil
	}}
	var l Loan
	res, err := lent(t.Context(), t, &l, rt, "http://upstream.invalid/", []byte(strings.Repeat("a", 100<<10)))
	if err != nil {
		t.Fatal(err)
	}
	if b, err := io.ReadAll(res.Body); err != nil || string(b) != "no" {
		t.Errorf("%q, %v", b, err)
	}
	_ = res.Body.Close()
	if l.Returned() || l.Back() {
		t.Errorf("returned %t, back %t while the transport is writing", l.Returned(), l.Back())
	}
}

// A RoundTripper of which nothing is known is cut off: it reads an error instead of the next
// exchange's bytes.
func TestLoan_source(t *testing.T) {
	t.Parallel()
	var kept io.Reader
	var l Loan
	_, err := lent(t.Context(), t, &l, roundTripper(func(r *http.Request) (*http.Response, error) {
		kept = r.Body
		return &http.Response{Body: http.NoBody}, nil
	}), "http://upstream.invalid/", []byte("hello"))
	if err != nil {
		t.Fatal(err)
	}
	if l.Returned() {
		t.Error("returned before it ended")
	}
	if !l.Back() {
		t.Error("not back although nobody can read it")
	}
	if n, err := kept.Read(make([]byte, 5)); n > 0 || err == nil || err == io.EOF {
		t.Errorf("read %d bytes and %v of a loan that ended", n, err)
	}
}

type roundTripper func(*http.Request) (*http.Response, error)

func (f roundTripper) RoundTrip(r *http.Request) (*http.Response, error) { return f(r) }
