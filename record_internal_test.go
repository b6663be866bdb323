package apexproxy

import (
	"context"
	"errors"
	"io"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"
	"time"

	"github.com/loadchange/apexproxy/internal/convert"
	"github.com/loadchange/apexproxy/internal/protocol"
	"github.com/loadchange/apexproxy/internal/usage"
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
				x := &exchange{r: httptest.NewRequest(http.MethodPost, "/", nil), w: httptest.NewRecorder(), start: time.Now()}
				x.deadline.Timeout = timeout
				x.operation, x.observed = Operation(name), true
				x.upstream = protocols[x.operation]
				res := &http.Response{Header: http.Header{"Content-Type": {"text/event-stream"}}, Body: repeating(event)}
				tap, buf := newTap(x, res), make([]byte, 32<<10)
				_, _ = tap.Read(buf)
				if n := testing.AllocsPerRun(1000, func() { _, _ = tap.Read(buf) }); n != 0 {
					t.Errorf("%v allocations a chunk", n)
				}
			})
		}
	}
}

// failedEvents is a converted stream that ended with an error.
func failedEvents(t *testing.T) *convert.Events {
	t.Helper()
	c, failed := convert.Convert([]byte(`{"max_tokens":1,"stream":true,"messages":[{"role":"user","content":"x"}]}`), protocol.Messages, protocol.Chat, convert.Params{})
	if failed != nil {
		t.Fatal(failed)
	}
	e := c.Events(strings.NewReader(`data: {"error":{"message":"no"}}`))
	if _, err := io.ReadAll(e); err != nil || e.Failed() == nil {
		t.Fatal("the stream did not fail", err)
	}
	return e
}

// TestOutcome has a row for each rule by which an exchange is judged, and for the order of rules.
func TestOutcome(t *testing.T) {
	t.Parallel()
	type want struct {
		Outcome Outcome
		Status  int
		Type    string
	}
	cut := io.ErrUnexpectedEOF
	failed := failedEvents(t)
	for name, tt := range map[string]struct {
		facts
		want want
	}{
		"whole":                    {facts{done: true, readErr: io.EOF, status: 200}, want{OutcomeCompleted, 200, ""}},
		"no body":                  {facts{done: true, status: 204}, want{OutcomeCompleted, 204, ""}},
		"whole stream":             {facts{done: true, readErr: io.EOF, status: 200, streamed: true, said: usage.Summary{Done: true, Model: "m"}}, want{OutcomeCompleted, 200, ""}},
		"finished stream":          {facts{done: true, readErr: io.EOF, status: 200, streamed: true, said: usage.Summary{FinishReason: "stop", Model: "m"}}, want{OutcomeCompleted, 200, ""}},
		"stream of something else": {facts{done: true, readErr: io.EOF, status: 200, streamed: true}, want{OutcomeCompleted, 200, ""}},

		"refused by us":             {facts{done: true, reply: refuse(401, "invalid_api_key", "")}, want{OutcomeRejected, 401, "invalid_api_key"}},
		"answered by us":            {facts{done: true, reply: &reply{status: 200, outcome: OutcomeCompleted}}, want{OutcomeCompleted, 200, ""}},
		"refused, client left":      {facts{done: true, gone: context.Canceled, reply: refuse(401, "invalid_api_key", "")}, want{OutcomeRejected, 401, "invalid_api_key"}},
		"no room for the answer":    {facts{done: true, reply: noRoom(), said: usage.Summary{ErrorType: "x"}}, want{OutcomeUpstreamError, 503, "proxy_busy"}},
		"unreachable":               {facts{done: true, reply: unreachable(context.Background(), errors.New("x"))}, want{OutcomeUpstreamError, 502, "connection_terminated"}},
		"answered too late":         {facts{done: true, reply: unreachable(context.Background(), context.DeadlineExceeded)}, want{OutcomeTimeout, 504, "http_response_timeout"}},
		"client left before":        {facts{done: true, reply: unreachable(cancelled(), context.Canceled)}, want{OutcomeClientClosed, 499, "client_closed"}},
		"a model that is not there": {facts{done: true, readErr: io.EOF, refused: true, status: 404, replaced: "model_not_found"}, want{OutcomeRejected, 404, "model_not_found"}},

		"refused by them":           {facts{done: true, readErr: io.EOF, status: 429, said: usage.Summary{ErrorType: "rate_limit_error"}}, want{OutcomeUpstreamError, 429, "rate_limit_error"}},
		"refused by the gateway":    {facts{done: true, readErr: io.EOF, status: 429, replaced: "gateway_2003", said: usage.Summary{ErrorType: "x"}}, want{OutcomeUpstreamError, 429, "gateway_2003"}},
		"an error in an answer":     {facts{done: true, readErr: io.EOF, status: 200, said: usage.Summary{Failed: true, ErrorType: "overloaded_error"}}, want{OutcomeUpstreamError, 200, "overloaded_error"}},
		"an error in a stream":      {facts{done: true, readErr: io.EOF, status: 200, streamed: true, said: usage.Summary{Failed: true, Model: "m"}}, want{OutcomeUpstreamError, 200, ""}},
		"a conversion that gave up": {facts{done: true, status: 200, streamed: true, events: failed, said: usage.Summary{Model: "m"}}, want{OutcomeUpstreamError, 200, ""}},
		"a conversion that failed":  {facts{done: true, readErr: io.EOF, status: 200, streamed: true, events: failed}, want{OutcomeUpstreamError, 200, ""}},

		"broke off":                  {facts{readErr: cut, status: 200}, want{OutcomeUpstreamTruncated, 200, ""}},
		"broke off, caught":          {facts{done: true, readErr: cut, status: 200}, want{OutcomeUpstreamTruncated, 200, ""}},
		"broke off an error":         {facts{done: true, readErr: cut, status: 500}, want{OutcomeUpstreamTruncated, 500, ""}},
		"ended too early":            {facts{done: true, readErr: io.EOF, status: 200, streamed: true, said: usage.Summary{Model: "m"}}, want{OutcomeUpstreamTruncated, 200, ""}},
		"converted, ended too early": {facts{done: true, readErr: io.EOF, status: 200, streamed: true, events: failed, said: usage.Summary{Model: "m"}}, want{OutcomeUpstreamTruncated, 200, ""}},

		"too slow":               {facts{readErr: context.DeadlineExceeded, status: 200}, want{OutcomeTimeout, 200, ""}},
		"the host's deadline":    {facts{readErr: cut, gone: context.DeadlineExceeded, status: 200}, want{OutcomeTimeout, 200, ""}},
		"client left":            {facts{readErr: context.Canceled, gone: context.Canceled, status: 200}, want{OutcomeClientClosed, 200, ""}},
		"client left at the end": {facts{readErr: io.EOF, gone: context.Canceled, status: 200}, want{OutcomeClientClosed, 200, ""}},
		"client takes no more":   {facts{writeErr: io.ErrShortWrite, status: 200}, want{OutcomeClientClosed, 200, ""}},
		"longer than its length": {facts{writeErr: http.ErrContentLength, status: 200}, want{OutcomeUpstreamError, 200, ""}},
		"more than a 204 has":    {facts{writeErr: http.ErrBodyNotAllowed, status: 204}, want{OutcomeUpstreamError, 204, ""}},
		"left, but all was sent": {facts{done: true, readErr: io.EOF, gone: context.Canceled, status: 200}, want{OutcomeCompleted, 200, ""}},
		"panic of the host":      {facts{status: 200}, want{OutcomeAborted, 200, ""}},
		"panic at the end":       {facts{readErr: io.EOF, status: 200}, want{OutcomeAborted, 200, ""}},
		"panic before all":       {facts{}, want{OutcomeAborted, 0, ""}},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			var got want
			got.Outcome, got.Status, got.Type = tt.outcome()
			if got != tt.want {
				t.Errorf("%+v, want %+v", got, tt.want)
			}
		})
	}
}

func cancelled() context.Context {
	ctx, cancel := context.WithCancel(context.Background())
	cancel()
	return ctx
}
