package apexproxy

import (
	"io"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"
	"time"
)

// repeating is an answer that says the same for ever.
type repeating string

func (r repeating) Read(p []byte) (int, error) { return copy(p, r), nil }
func (repeating) Close() error                 { return nil }

// What a chunk of a stream costs is paid by every token of every client.
func TestTap_allocations(t *testing.T) {
	for name, event := range map[string]string{
		"chat":     `data: {"id":"1","object":"chat.completion.chunk","model":"m","choices":[{"index":0,"delta":{"content":"word "},"finish_reason":null}]}` + "\n\n",
		"messages": "event: content_block_delta\n" + `data: {"type":"content_block_delta","index":0,"delta":{"type":"text_delta","text":"word "}}` + "\n\n",
	} {
		for what, timeout := range map[string]time.Duration{"": 0, ", WriteTimeout": time.Hour} {
			t.Run(name+what, func(t *testing.T) {
				x := &exchange{request: httptest.NewRequest(http.MethodPost, "/", nil), writer: httptest.NewRecorder(), writeTimeout: timeout}
				x.rec.Operation = Operation(name)
				x.rec.Start = time.Now()
				res := &http.Response{Header: http.Header{"Content-Type": {"text/event-stream"}}, Body: repeating(event)}
				tap, buf := newTap(x, res, true), make([]byte, 32<<10)
				_, _ = tap.Read(buf)
				if n := testing.AllocsPerRun(1000, func() { _, _ = tap.Read(buf) }); n != 0 {
					t.Errorf("%v allocations a chunk", n)
				}
			})
		}
	}
}

func TestOutcome(t *testing.T) {
	t.Parallel()
	type state struct {
		err    error
		done   bool
		status int
	}
	for name, tt := range map[string]struct {
		state
		want Outcome
	}{
		"whole":              {state{io.EOF, true, 200}, OutcomeCompleted},
		"no body":            {state{nil, true, 204}, OutcomeCompleted},
		"refused by them":    {state{io.EOF, true, 429}, OutcomeUpstreamError},
		"broke off":          {state{io.ErrUnexpectedEOF, false, 200}, OutcomeUpstreamTruncated},
		"broke off, caught":  {state{io.ErrUnexpectedEOF, true, 200}, OutcomeUpstreamTruncated},
		"panic of the host":  {state{nil, false, 200}, OutcomeAborted},
		"panic at the end":   {state{io.EOF, false, 200}, OutcomeAborted},
		"broke off an error": {state{io.ErrUnexpectedEOF, true, 500}, OutcomeUpstreamTruncated},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			x := &exchange{request: httptest.NewRequest(http.MethodPost, "/", strings.NewReader("")), answerErr: tt.err, done: tt.done}
			x.rec.StatusCode = tt.status
			if got := x.outcome(); got != tt.want {
				t.Errorf("%s, want %s", got, tt.want)
			}
		})
	}
}
