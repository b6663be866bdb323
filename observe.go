package apexproxy

import (
	"bytes"
	"compress/gzip"
	"context"
	"io"
	"log/slog"
	"net/http"
	"slices"
	"strings"
	"sync/atomic"
	"time"

	"github.com/loadchange/apexproxy/internal/header"
	"github.com/loadchange/apexproxy/internal/queue"
	"github.com/loadchange/apexproxy/internal/usage"
)

// A Reporter takes records of finished exchanges to where they are kept.
// Report is written as a plain blocking function: the [Proxy] owns the
// asynchrony.
//
//   - When: once for every exchange that entered [Proxy.ServeHTTP], rejected
//     ones included, after its end.
//   - From where: a goroutine owned by the Proxy, never the request's. Report
//     cannot delay or fail an exchange.
//   - Concurrency: Report is never called concurrently with itself for one
//     [WithReporter]. Different reporters run independently.
//   - Context: not the request's. It carries the deadline set with
//     [ReportTimeout] and is cancelled when the context of [Proxy.Shutdown]
//     ends. Report must return then; a batch it did not keep is lost.
//   - Order and duplicates: roughly in order of completion, each record at most
//     once. Nothing is retried; a Reporter that wants retries does them inside
//     the deadline.
//   - Overload: the queue is bounded in records and bytes. When it is full, new
//     records are dropped and counted in [Stats].
//   - Errors: counted, and logged through [WithLogger] at most once a minute.
//     Their text must hold no secret.
//   - Panics: recovered, counted, logged. In our goroutine one would otherwise
//     end the host's process.
//   - Ownership: the batch slice is reused after the call: copy the records you
//     keep. What they point to (Usage, Content, Identity.Metadata, Dropped) is
//     shared with other reporters and may be kept, but not changed.
type Reporter interface {
	Report(ctx context.Context, batch []Record) error
}

// ReporterFunc makes a function a [Reporter].
type ReporterFunc func(ctx context.Context, batch []Record) error

// Report calls f.
func (f ReporterFunc) Report(ctx context.Context, batch []Record) error { return f(ctx, batch) }

// Mode says how an exchange was routed.
type Mode string

// The modes. An exchange that was answered before one was chosen (liveness,
// preflight, unknown paths) has none.
const (
	ModeGateway     Mode = "gateway"
	ModePassthrough Mode = "passthrough"
)

// Operation says what the client asked for, known by the end of the path.
type Operation string

// The operations. A path that is none of them is answered with 404 and recorded
// without an operation.
const (
	OperationChat        Operation = "chat"
	OperationMessages    Operation = "messages"
	OperationCountTokens Operation = "count_tokens"
	OperationResponses   Operation = "responses"
	OperationEmbeddings  Operation = "embeddings"
	OperationModels      Operation = "models"
	OperationLiveness    Operation = "liveness"  // GET or HEAD on the mount point
	OperationPreflight   Operation = "preflight" // OPTIONS on any path
)

// Outcome says how an exchange ended. The set is closed.
type Outcome string

const (
	// OutcomeCompleted means that the whole answer went to the client and was
	// not an error.
	OutcomeCompleted Outcome = "completed"
	// OutcomeRejected means that the proxy refused the request itself.
	OutcomeRejected Outcome = "rejected"
	// OutcomeUpstreamError means that the upstream could not be reached, died
	// before its answer began, or answered with an error, inside a stream too.
	OutcomeUpstreamError Outcome = "upstream_error"
	// OutcomeUpstreamTruncated means that the upstream's answer broke off.
	OutcomeUpstreamTruncated Outcome = "upstream_truncated"
	// OutcomeTimeout means that a deadline passed before the answer was whole.
	OutcomeTimeout Outcome = "timeout"
	// OutcomeClientClosed means that the client left before the answer was whole.
	OutcomeClientClosed Outcome = "client_closed"
	// OutcomeAborted means that a panic of the host's code ended the exchange.
	OutcomeAborted Outcome = "aborted"
)

// Record is what is known of one exchange. Fields are added over time: use keyed
// literals. It holds no header value, body or credential unless Content is set.
type Record struct {
	ID              string        // ours, sent as request id on answers the proxy made; high cardinality
	Start           time.Time     // when ServeHTTP was entered
	Duration        time.Duration // until the answer's last byte or the end of the attempt
	TimeToFirstByte time.Duration // until the first body byte from upstream; 0 when none came

	Method    string
	Path      string    // escaped, without query
	Mode      Mode      // empty when none was chosen
	Operation Operation // empty when the path is none
	Identity  Identity  // zero when nobody was authenticated

	Provider      string // gateway: from model#provider; passthrough: the upstream's host
	UpstreamHost  string // host[:port] the request went to; empty when none was chosen
	ClientModel   string // as the client wrote it; empty when the body was not read
	RequestModel  string // as sent upstream
	ResponseModel string // as the upstream named it; empty when it did not

	Stream    bool // the client asked for, or got, an event stream
	Converted bool // client and upstream spoke different protocols
	// Dropped names what conversion could not carry, by path and never by value.
	Dropped []string

	StatusCode int     // sent to the client; 499 when it left before the head of an answer
	Outcome    Outcome // how the exchange ended
	// ErrorType is empty on success and of low cardinality: our code
	// ("invalid_json"), an RFC 9209 §2.3 name when no answer came
	// ("connection_refused"), "gateway_" and a code of Cloudflare's, or the
	// provider's own type or code.
	ErrorType string

	RequestBytes  int64 // body bytes the client sent, 0 when the body was not read
	ResponseBytes int64 // body bytes read from the upstream or written by the proxy itself

	Usage        *Usage // nil: the upstream did not say
	FinishReason string // as the upstream spelled it

	GatewayLogID string // cf-aig-log-id; high cardinality
	CacheStatus  string // cf-aig-cache-status: HIT or MISS

	// Content is set only for a reporter registered with [CaptureContent].
	Content *Content
}

// Usage counts tokens in the sense of OpenTelemetry's GenAI conventions: the
// cached ones are part of InputTokens, the reasoning ones part of OutputTokens,
// whatever the provider's own arithmetic is.
type Usage struct {
	InputTokens      int64
	OutputTokens     int64
	CacheReadTokens  int64
	CacheWriteTokens int64
	ReasoningTokens  int64
}

// Content is what the client sent and what the upstream answered. Secrets in
// headers and query are replaced by [REDACTED]; bodies are as they were and may
// hold prompts and whatever users typed.
type Content struct {
	URL               string // as the client asked this server, below a stripped prefix; query redacted
	RequestHeader     http.Header
	RequestBody       []byte // as the client sent it, before mapping
	RequestTruncated  bool
	ResponseHeader    http.Header
	ResponseBody      []byte // as the upstream sent it, before conversion; inflated
	ResponseTruncated bool
}

// LogValue implements [slog.LogValuer] with the fields an operator searches
// by. Content is left out.
func (r Record) LogValue() slog.Value {
	attrs := []slog.Attr{
		slog.String("id", r.ID),
		slog.String("method", r.Method),
		slog.String("path", r.Path),
		slog.String("mode", string(r.Mode)),
		slog.String("operation", string(r.Operation)),
		slog.String("identity", r.Identity.Subject),
		slog.String("provider", r.Provider),
		slog.String("client_model", r.ClientModel),
		slog.String("request_model", r.RequestModel),
		slog.Bool("stream", r.Stream),
		slog.Int("status", r.StatusCode),
		slog.String("outcome", string(r.Outcome)),
		slog.String("error_type", r.ErrorType),
		slog.Duration("duration", r.Duration),
		slog.Duration("ttfb", r.TimeToFirstByte),
		slog.Int64("request_bytes", r.RequestBytes),
		slog.Int64("response_bytes", r.ResponseBytes),
		slog.String("finish_reason", r.FinishReason),
	}
	if u := r.Usage; u != nil {
		attrs = append(attrs,
			slog.Int64("input_tokens", u.InputTokens),
			slog.Int64("output_tokens", u.OutputTokens),
			slog.Int64("cache_read_tokens", u.CacheReadTokens),
			slog.Int64("cache_write_tokens", u.CacheWriteTokens),
			slog.Int64("reasoning_tokens", u.ReasoningTokens))
	}
	return slog.GroupValue(attrs...)
}

// NewLogReporter returns a Reporter that logs each record as one line at level
// Info, or Error when the status is 400 or more or the outcome is not
// completed. A nil logger is [slog.Default].
func NewLogReporter(l *slog.Logger) Reporter {
	return ReporterFunc(func(ctx context.Context, batch []Record) error {
		l := l
		if l == nil {
			l = slog.Default()
		}
		for _, rec := range batch {
			level := slog.LevelInfo
			if rec.Failed() {
				level = slog.LevelError
			}
			l.LogAttrs(ctx, level, "exchange", slog.Any("exchange", rec))
		}
		return nil
	})
}

// Failed reports whether the status is 400 or more or the outcome is not
// completed.
func (r Record) Failed() bool {
	return r.StatusCode >= 400 || r.Outcome != OutcomeCompleted
}

// ReporterOption configures one reporter of [WithReporter].
type ReporterOption interface{ applyReporter(*sinkConfig) }

type reporterOptionFunc func(*sinkConfig)

func (f reporterOptionFunc) applyReporter(c *sinkConfig) { f(c) }

type sinkConfig struct {
	reporter Reporter
	queue.Config
	content int // bytes of each body; 0: no content
}

func newSinkConfig(r Reporter, opts []ReporterOption) sinkConfig {
	c := sinkConfig{reporter: r, Config: queue.Config{Items: 4096, Bytes: 64 << 20, Batch: 100, Timeout: 10 * time.Second}}
	for _, o := range opts {
		if o != nil {
			o.applyReporter(&c)
		}
	}
	return c
}

// CaptureContent gives the reporter [Record].Content with up to maxBytes of each
// body. Bodies hold prompts and answers: know where they end up. maxBytes must be
// positive.
func CaptureContent(maxBytes int) ReporterOption {
	if maxBytes <= 0 {
		maxBytes = -1 // New refuses it
	}
	return reporterOptionFunc(func(c *sinkConfig) { c.content = maxBytes })
}

// QueueSize bounds the records that wait for a reporter or are with it, in
// number and in bytes; further ones are dropped and counted. The default is 4096
// records and 64 MiB. Both must be positive.
func QueueSize(records int, bytes int64) ReporterOption {
	return reporterOptionFunc(func(c *sinkConfig) { c.Items, c.Bytes = records, bytes })
}

// BatchSize bounds the records of one call of Report. The default is 100. A
// batch is not waited for: it is what has gathered during the call before. n
// must be positive.
func BatchSize(n int) ReporterOption {
	return reporterOptionFunc(func(c *sinkConfig) { c.Batch = n })
}

// ReportTimeout bounds one call of Report through its context. The default is 10
// seconds. d must be positive.
func ReportTimeout(d time.Duration) ReporterOption {
	return reporterOptionFunc(func(c *sinkConfig) { c.Timeout = d })
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

// log writes at most one line a minute for one reporter, in a goroutine of its
// own: a logger that blocks must not hold up an exchange.
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

// short bounds a text that records keep and that somebody else wrote. It copies:
// a substring would keep all of what it was cut from.
func short(s string) string {
	if len(s) > 256 {
		s = strings.ToValidUTF8(s[:256], "") + "…"
	}
	return strings.Clone(s)
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
	max int
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

// dialects says what the answer to an operation looks like.
var dialects = map[Operation]usage.Dialect{
	OperationChat:       usage.Chat,
	OperationMessages:   usage.Messages,
	OperationResponses:  usage.Responses,
	OperationEmbeddings: usage.Embeddings,
}

// tap is an answer's body on its way to the client. It looks at a copy of what
// passes and changes nothing; where it understands nothing, it says nothing.
type tap struct {
	body   io.ReadCloser
	x      *exchange
	usage  *usage.Reader // nil: nobody asks
	zipped []byte        // the answer as it came, while it is gzip and short enough
	gzip   bool
}

// maxZipped bounds what is held of a compressed answer, and maxUnzipped what is
// read of it. The proxy asks for uncompressed answers; this is for upstreams that
// do not listen.
const (
	maxZipped   = 4 << 20
	maxUnzipped = 32 << 20
)

func newTap(x *exchange, res *http.Response, observed bool) *tap {
	t := &tap{body: res.Body, x: x}
	if !observed {
		return t
	}
	stream := isEventStream(res.Header)
	dialect := dialects[x.rec.Operation]
	if x.rec.Converted {
		dialect = usage.Chat
	}
	t.usage = usage.NewReader(dialect, stream)
	x.rec.Stream = x.rec.Stream || stream
	switch enc := res.Header.Get("Content-Encoding"); {
	case enc == "", strings.EqualFold(enc, "identity"):
	case isGzip(enc):
		t.gzip = true
	default:
		t.usage = nil
	}
	return t
}

func (t *tap) Read(b []byte) (int, error) {
	n, err := t.body.Read(b)
	x := t.x
	if n > 0 {
		if x.rec.TimeToFirstByte == 0 {
			x.rec.TimeToFirstByte = time.Since(x.rec.Start)
		}
		x.rec.ResponseBytes += int64(n)
		x.extendWrite()
		t.see(b[:n])
	}
	if err != nil {
		x.answerErr = err
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

// summarise puts what the answer said of itself into the record.
func (t *tap) summarise(rec *Record) {
	if t == nil || t.usage == nil {
		return
	}
	if t.gzip {
		t.unzip()
	}
	s := t.usage.Summary()
	if u := s.Usage; u != nil {
		rec.Usage = &Usage{InputTokens: u.Input, OutputTokens: u.Output, CacheReadTokens: u.CacheRead,
			CacheWriteTokens: u.CacheWrite, ReasoningTokens: u.Reasoning}
	}
	rec.FinishReason, rec.ResponseModel = s.FinishReason, s.Model
	if rec.ErrorType == "" {
		rec.ErrorType = s.ErrorType
	}
	if rec.Outcome != OutcomeCompleted {
		return
	}
	switch {
	case s.Failed:
		rec.Outcome = OutcomeUpstreamError
	case rec.Stream && !s.Done && s.FinishReason == "" && s.Model != "":
		// The body ended as it should and what it says does not.
		rec.Outcome = OutcomeUpstreamTruncated
	}
}

// unzip reads what was held of a gzip answer; of one that broke off, as much as
// there is.
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
