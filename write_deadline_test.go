package apexproxy_test

import (
	"context"
	"io"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/loadchange/apexproxy"
)

// A move of a write deadline: when, and to when. Both count from the start of the request.
type move struct {
	At, To time.Duration
	Off    bool // the deadline was lifted
}

// deadlines is a ResponseWriter that notes the write deadlines it is given.
type deadlines struct {
	*httptest.ResponseRecorder
	start time.Time
	moves []move
}

func (d *deadlines) SetWriteDeadline(t time.Time) error {
	m := move{At: time.Since(d.start)}
	if m.Off = t.IsZero(); !m.Off {
		m.To = t.Sub(d.start)
	}
	d.moves = append(d.moves, m)
	return nil
}

// paced is a body that gives a byte at each of the times in at, which count from its start.
type paced struct {
	start time.Time
	at    []time.Duration
}

func (p *paced) Read(b []byte) (int, error) {
	if len(p.at) == 0 {
		return 0, io.EOF
	}
	<-time.After(time.Until(p.start.Add(p.at[0])))
	p.at = p.at[1:]
	return copy(b, "x"), nil
}

func (*paced) Close() error { return nil }

// The host's deadline is moved when a quarter of it is over. Moved at its end it would be too late
// for a piece that comes a moment later, and moved for each piece it would cost a call for nothing.
func TestWriteDeadlineIsMoved(t *testing.T) {
	t.Parallel()
	const s, ms = time.Second, time.Millisecond
	// The head comes after a second.
	pieces := []time.Duration{1 * s, 1900 * ms, 2 * s, 2100 * ms, 3 * s, 3999 * ms, 4001 * ms, 11 * s, 12 * s, 13 * s, 30 * s}
	for _, tt := range []struct {
		name    string
		timeout time.Duration
		http2   bool
		want    []move
	}{
		{"HTTP/1.1", 8 * s, false, []move{{At: 0, To: 8 * s}, {At: 2 * s, To: 10 * s}, {At: 4001 * ms, To: 12001 * ms},
			{At: 11 * s, To: 19 * s}, {At: 13 * s, To: 21 * s}, {At: 30 * s, To: 38 * s}}},
		{"a shorter one", 2 * s, false, []move{{At: 0, To: 2 * s}, {At: 1 * s, To: 3 * s}, {At: 1900 * ms, To: 3900 * ms}, {At: 3 * s, To: 5 * s},
			{At: 3999 * ms, To: 5999 * ms}, {At: 11 * s, To: 13 * s}, {At: 12 * s, To: 14 * s}, {At: 13 * s, To: 15 * s}, {At: 30 * s, To: 32 * s}}},
		{"HTTP/2", 8 * s, true, []move{{Off: true}}},
		{"none set", 0, false, nil},
	} {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			synctest.Test(t, func(t *testing.T) {
				start := time.Now()
				transport := opaque(func(r *http.Request) (*http.Response, error) {
					<-time.After(time.Second)
					return &http.Response{StatusCode: 200, ProtoMajor: 1, ProtoMinor: 1, Header: http.Header{}, ContentLength: -1,
						Body: &paced{start, pieces}, Request: r}, nil
				})
				p, err := apexproxy.New(apexproxy.WithTransport(transport),
					apexproxy.WithGateway(apexproxy.Gateway{BaseURL: "https://gateway.example", Token: gatewayToken}))
				if err != nil {
					t.Fatal(err)
				}
				host := context.WithValue(t.Context(), http.ServerContextKey, &http.Server{WriteTimeout: tt.timeout})
				req := httptest.NewRequestWithContext(host, http.MethodPost, "/v1/chat/completions", strings.NewReader(chatBody))
				req.Header.Set("Authorization", bearerHeader)
				if tt.http2 {
					req.Proto, req.ProtoMajor, req.ProtoMinor = "HTTP/2.0", 2, 0
				}
				w := &deadlines{ResponseRecorder: httptest.NewRecorder(), start: start}
				p.ServeHTTP(w, req)
				if want := strings.Repeat("x", len(pieces)); w.Code != http.StatusOK || w.Body.String() != want {
					t.Errorf("%d %q, want %q", w.Code, w.Body, want)
				}
				if diff := cmp.Diff(tt.want, w.moves); diff != "" {
					t.Errorf("(-want +got):\n%s", diff)
				}
			})
		})
	}
}
