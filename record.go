package apexproxy

import (
	"bytes"
	"cmp"
	"compress/gzip"
	"context"
	"errors"
	"io"
	"log/slog"
	"net/http"
	"slices"
	"strings"
	"sync/atomic"
	"time"

	"github.com/loadchange/apexproxy/internal/convert"
	"github.com/loadchange/apexproxy/internal/header"
	"github.com/loadchange/apexproxy/internal/protocol"
	"github.com/loadchange/apexproxy/internal/queue"
	"github.com/loadchange/apexproxy/internal/usage"
)

// facts are what became of an exchange. Each is written where it happens; outcome alone says what
// they mean.
type facts struct {
	done     bool            // ServeHTTP came to its end without a panic
	reply    *reply          // the proxy's own answer; nil: none was written
	status   int             // of the upstream's answer as the client got it; 0: no head was written
	replaced string          // the error type of what was put in the place of the upstream's answer
	refused  bool            // it was, because the request asked for what is not there
	readErr  error           // why reading the answer ended: io.EOF at its end, nil while it has not
	writeErr error           // why writing it ended early
	gone     error           // why the client's context had ended when the exchange did
	events   *convert.Events // the converted stream that was sent; nil: none was

	streamed  bool          // an event stream was asked for, or came
	firstByte time.Time     // of the answer
	answered  int64         // bytes of the answer's body, or of the reply's
	said      usage.Summary // what the answer says of itself, if somebody listened
}

// outcome says how an exchange ended, with which status for the client, and of which type the error
// was if it was one.
func (f *facts) outcome() (o Outcome, status int, errorType string) {
	errorType = cmp.Or(f.replaced, f.said.ErrorType)
	switch {
	case f.reply != nil:
		return f.reply.outcome, f.reply.status, cmp.Or(f.reply.code, errorType)
	case f.readErr != nil && f.readErr != io.EOF:
		return f.broken(), f.status, errorType
	case errors.Is(f.writeErr, http.ErrContentLength), errors.Is(f.writeErr, http.ErrBodyNotAllowed):
		return OutcomeUpstreamError, f.status, errorType // more than the answer's own head allows
	case f.writeErr != nil, !f.done && errors.Is(f.gone, context.Canceled):
		return OutcomeClientClosed, f.status, errorType
	case !f.done:
		return OutcomeAborted, f.status, errorType
	case f.refused:
		return OutcomeRejected, f.status, errorType
	case f.status >= 400, f.said.Failed:
		return OutcomeUpstreamError, f.status, errorType
	}
	return f.ending(), f.status, errorType
}

// broken is the outcome of an answer that could not be read to its end.
func (f *facts) broken() Outcome {
	switch {
	case errors.Is(f.gone, context.Canceled):
		return OutcomeClientClosed
	case errors.Is(f.readErr, context.DeadlineExceeded), errors.Is(f.gone, context.DeadlineExceeded):
		return OutcomeTimeout
	}
	return OutcomeUpstreamTruncated
}

// ending is the outcome of an answer that was no error and ended as HTTP wants it.
func (f *facts) ending() Outcome {
	failed := f.events != nil && f.events.Failed() != nil
	// An answer that named its model has begun; it is whole only if it also says that it ended.
	unfinished := f.streamed && !f.said.Done && f.said.FinishReason == "" && f.said.Model != ""
	switch {
	case failed && f.readErr == nil:
		return OutcomeUpstreamError // we gave it up before its end
	case unfinished:
		return OutcomeUpstreamTruncated
	case failed:
		return OutcomeUpstreamError
	}
	return OutcomeCompleted
}

// record returns all that is known of the exchange at its end.
func (x *exchange) record() Record {
	x.gone = x.r.Context().Err()
	x.streamed = x.streamed || x.stream
	x.said = x.tap.summary()
	rec := Record{
		ID:            x.id,
		Start:         x.start,
		Duration:      time.Since(x.start),
		Method:        short(x.r.Method),
		Path:          strings.Clone(x.r.URL.EscapedPath()),
		Mode:          x.mode,
		Operation:     x.operation,
		Identity:      x.identity,
		Provider:      x.provider,
		UpstreamHost:  x.target.url.Host,
		ClientModel:   x.clientModel,
		RequestModel:  x.model,
		ResponseModel: x.said.Model,
		Stream:        x.streamed,
		Converted:     x.converts(),
		RequestBytes:  x.size,
		ResponseBytes: x.answered,
		FinishReason:  x.said.FinishReason,
	}
	if !x.firstByte.IsZero() {
		rec.TimeToFirstByte = x.firstByte.Sub(x.start)
	}
	if x.conversion != nil {
		rec.Dropped = x.conversion.Dropped()
	}
	if u := x.said.Usage; u != nil {
		rec.Usage = &Usage{InputTokens: u.Input, OutputTokens: u.Output, CacheReadTokens: u.CacheRead,
			CacheWriteTokens: u.CacheWrite, ReasoningTokens: u.Reasoning}
	}
	if x.tap != nil {
		rec.GatewayLogID, rec.CacheStatus = short(x.tap.logID), short(x.tap.cacheStatus)
	}
	rec.Outcome, rec.StatusCode, rec.ErrorType = x.outcome()
	return rec
}

// short bounds a text that records keep and that somebody else wrote. It copies: a substring would
// keep all of what it was cut from.
func short(s string) string {
	if len(s) > 256 {
		s = strings.ToValidUTF8(s[:256], "") + "…"
	}
	return strings.Clone(s)
}

// sink is one reporter with its queue.
type sink struct {
	*queue.Queue[Record]
	content int
	logged  atomic.Int64 // Unix seconds of the last line about it
	logger  *slog.Logger
}

func newSink(c sinkConfig, logger *slog.Logger) *sink {
	s := &sink{content: c.content, logger: logger}
	s.Queue = queue.New(c.Config, c.reporter.Report, func(err error) { s.log("apexproxy: reporter failed", err) })
	return s
}

// log writes at most one line a minute for one reporter, in a goroutine of its own: a logger that
// blocks must not hold up an exchange.
func (s *sink) log(message string, err error) {
	now, last := time.Now().Unix(), s.logged.Load()
	if now-last < 60 || !s.logged.CompareAndSwap(last, now) {
		return
	}
	stats := s.Stats()
	go s.logger.Warn(message, "error", err, "dropped", stats.Full+stats.TooLarge, "failed_calls", stats.Errors)
}

func (s *sink) put(rec Record, c *capture) {
	if s.content > 0 {
		rec.Content = c.upTo(s.content)
	}
	if !s.Put(rec, rec.size()) {
		s.log("apexproxy: reporter is too slow, records are dropped", nil)
	}
}

// size is about what a queued record keeps in memory.
func (r *Record) size() int64 {
	n := 1024 + len(r.Path) + len(r.Provider) + len(r.UpstreamHost) + len(r.ClientModel) + len(r.RequestModel) + len(r.ResponseModel)
	for _, d := range r.Dropped {
		n += len(d)
	}
	if c := r.Content; c != nil {
		n += cap(c.RequestBody) + cap(c.ResponseBody) + len(c.URL)
		for _, h := range []http.Header{c.RequestHeader, c.ResponseHeader} {
			for name, values := range h {
				n += len(name)
				for _, v := range values {
					n += len(v) + 16
				}
			}
		}
	}
	return int64(n)
}

// capture gathers content while an exchange runs. A nil capture gathers nothing.
type capture struct {
	max int // bytes of each body
	c   Content
}

// keep appends b to dst up to the bound, in memory of its own.
func (c *capture) keep(dst *[]byte, truncated *bool, b []byte) {
	if room := c.max - len(*dst); len(b) > room {
		b = b[:max(room, 0)]
		*truncated = true
	}
	*dst = append(*dst, b...)
}

func (c *capture) request(b []byte) {
	if c != nil {
		c.keep(&c.c.RequestBody, &c.c.RequestTruncated, b)
	}
}

func (c *capture) responseHead(h http.Header) {
	if c != nil {
		c.c.ResponseHeader = header.Redact(h)
	}
}

func (c *capture) response(b []byte) {
	if c != nil {
		c.keep(&c.c.ResponseBody, &c.c.ResponseTruncated, b)
	}
}

// replied keeps an answer of the proxy's own in the place of the upstream's.
func (c *capture) replied(h http.Header, b []byte) {
	if c != nil {
		c.c.ResponseBody, c.c.ResponseTruncated = nil, false
		c.responseHead(h)
		c.response(b)
	}
}

func (c *capture) finish(r *http.Request) {
	if c != nil {
		scheme := "http://"
		if r.TLS != nil {
			scheme = "https://"
		}
		c.c.URL = scheme + r.Host + r.URL.EscapedPath()
		if q := header.RedactQuery(r.URL.RawQuery); q != "" {
			c.c.URL += "?" + q
		}
		c.c.RequestHeader = header.Redact(r.Header)
	}
}

// upTo returns the content with bodies of at most n bytes.
func (c *capture) upTo(n int) *Content {
	if c == nil {
		return nil
	}
	out := c.c
	if len(out.RequestBody) > n {
		out.RequestBody, out.RequestTruncated = slices.Clone(out.RequestBody[:n]), true
	}
	if len(out.ResponseBody) > n {
		out.ResponseBody, out.ResponseTruncated = slices.Clone(out.ResponseBody[:n]), true
	}
	return &out
}

// tap is an answer's body on its way to the client. It notes what passes and changes nothing. What
// it cannot parse is left out of the record.
type tap struct {
	body io.ReadCloser
	x    *exchange

	usage       *usage.Reader // nil: nobody asks, or nothing can be read
	gzip        bool
	zipped      []byte // the answer as it came, while it is gzip and short enough
	logID       string // of the gateway
	cacheStatus string
}

// maxZipped bounds what is held of a compressed answer, and maxUnzipped what is read of it. The
// proxy asks for uncompressed answers; this is for upstreams that do not listen.
const (
	maxZipped   = 4 << 20
	maxUnzipped = 32 << 20
)

func newTap(x *exchange, res *http.Response) *tap {
	t := &tap{body: res.Body, x: x}
	if !x.observed {
		return t
	}
	t.logID, t.cacheStatus = res.Header.Get("Cf-Aig-Log-Id"), res.Header.Get("Cf-Aig-Cache-Status")
	x.content.responseHead(res.Header)
	x.streamed = isEventStream(res.Header)
	switch encoding := res.Header.Get("Content-Encoding"); {
	case encoding == "", strings.EqualFold(encoding, "identity"):
	case isGzip(encoding):
		t.gzip = true
	default:
		return t
	}
	t.usage = usage.NewReader(x.spoken(), x.streamed)
	t.usage.ReasoningExtra = x.reasoningExtra
	return t
}

// spoken returns the protocol of the upstream's answer as far as it says what it cost.
func (x *exchange) spoken() protocol.Protocol {
	if x.operation == OperationCountTokens || x.operation == OperationModels {
		return protocol.None
	}
	return x.upstream
}

func (t *tap) Read(b []byte) (int, error) {
	n, err := t.body.Read(b)
	x := t.x
	if n > 0 {
		if x.firstByte.IsZero() {
			x.firstByte = time.Now()
		}
		x.answered += int64(n)
		t.see(b[:n])
	}
	if err != nil {
		x.readErr = err
	}
	return n, err
}

func (t *tap) see(b []byte) {
	switch {
	case t.usage == nil:
	case !t.gzip:
		t.usage.Feed(b)
		t.x.content.response(b)
	case len(t.zipped)+len(b) <= maxZipped:
		t.zipped = append(t.zipped, b...)
	default:
		t.usage, t.zipped = nil, nil
	}
}

func (t *tap) Close() error { return t.body.Close() }

// summary returns what the answer said of itself.
func (t *tap) summary() usage.Summary {
	if t == nil || t.usage == nil {
		return usage.Summary{}
	}
	if t.gzip {
		t.unzip()
	}
	defer t.usage.Close()
	return t.usage.Summary()
}

// unzip reads what was held of a gzip answer; of one that broke off, as much as there is.
func (t *tap) unzip() {
	zr, err := gzip.NewReader(bytes.NewReader(t.zipped))
	if err != nil {
		return
	}
	src, buf := io.LimitReader(zr, maxUnzipped), make([]byte, 32<<10)
	for {
		n, err := src.Read(buf)
		t.usage.Feed(buf[:n])
		t.x.content.response(buf[:n])
		if err != nil {
			return
		}
	}
}
