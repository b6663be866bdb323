package apexproxy

import (
	"context"
	"log/slog"
	"net/http"
	"time"

	"github.com/loadchange/apexproxy/internal/queue"
)

// A Reporter takes records of finished exchanges to where they are kept. Report is written as a
// plain blocking function: the [Proxy] owns the asynchrony.
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
//   - Order and duplicates: by the end of the exchanges, though those that end
//     together may change places; each record at most once. Nothing is retried; a Reporter that wants retries does them inside
//     the deadline.
//   - Overload: the queue is bounded in records and bytes. When it is full, new
//     records are dropped and counted in [Stats].
//   - Errors: counted, and logged through [WithLogger] at most once a minute.
//     Their text must hold no secret.
//   - Panics: recovered, counted, logged. In our goroutine one would otherwise
//     end the host's process.
//   - Ownership: the batch slice is reused after the call: copy the records you
//     keep. What they point to (Usage, Content, Identity.Metadata, [Record].Dropped) is
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

// The modes. An exchange that was answered before one was chosen (liveness, preflight, unknown
// paths) has none.
const (
	ModeGateway     Mode = "gateway"
	ModePassthrough Mode = "passthrough"
)

// Operation says what the client asked for, known by the end of the path.
type Operation string

// The operations. A path that is none of them is answered with 404 and recorded without an
// operation.
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
	// OutcomeCompleted means that the whole answer went to the client and was not an error.
	OutcomeCompleted Outcome = "completed"
	// OutcomeRejected means that the proxy refused the request itself.
	OutcomeRejected Outcome = "rejected"
	// OutcomeUpstreamError means that the upstream could not be reached, died before its answer
	// began, or answered with an error, inside a stream too.
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

// Record is what is known of one exchange. Fields are added over time: use keyed literals. It holds
// no header value, body or credential unless Content is set.
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
	RequestModel  string // as it went upstream, or would have: UpstreamHost is empty when nothing did
	ResponseModel string // as the upstream named it; empty when it did not

	Stream    bool // the client asked for, or got, an event stream
	Converted bool // client and upstream speak different protocols; true of an estimate too
	// Dropped names what conversion could not carry, by path and never by value.
	Dropped []string

	StatusCode int     // sent to the client; 499 when it left before the head of an answer
	Outcome    Outcome // how the exchange ended
	// ErrorType is empty on success and of low cardinality: our code ("invalid_json"; the package
	// documentation lists them under Errors), an RFC 9209 §2.3 name when no answer came
	// ("connection_refused"), "gateway_" and a code of Cloudflare's, or the provider's own type or
	// code.
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

// Usage counts tokens in the sense of OpenTelemetry's GenAI conventions: the cached ones are part
// of InputTokens, the reasoning ones part of OutputTokens, whatever the provider's own arithmetic
// is.
type Usage struct {
	InputTokens      int64
	OutputTokens     int64
	CacheReadTokens  int64
	CacheWriteTokens int64
	ReasoningTokens  int64
}

// Content is what the client sent and what the upstream answered. Secrets in headers and query are
// replaced by [REDACTED]; bodies are as they were and may hold prompts and whatever users typed.
type Content struct {
	URL               string // as the client asked this server, below a stripped prefix; query redacted
	RequestHeader     http.Header
	RequestBody       []byte // as the client sent it, before mapping
	RequestTruncated  bool
	ResponseHeader    http.Header
	ResponseBody      []byte // as the upstream sent it, before conversion; inflated
	ResponseTruncated bool
}

// LogValue implements [slog.LogValuer] with the fields an operator searches by. Content is left
// out.
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

// NewLogReporter returns a Reporter that logs each record as one line at level Info, or Error when
// the status is 400 or more or the outcome is not completed. A nil logger is [slog.Default].
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

// Failed reports whether the status is 400 or more or the outcome is not completed.
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

// CaptureContent gives the reporter [Record].Content with up to maxBytes of each body. Bodies hold
// prompts and answers: know where they end up. maxBytes must be positive.
func CaptureContent(maxBytes int) ReporterOption {
	if maxBytes <= 0 {
		maxBytes = -1 // New refuses it
	}
	return reporterOptionFunc(func(c *sinkConfig) { c.content = maxBytes })
}

// QueueSize bounds the records that wait for a reporter or are with it, in number and in bytes;
// further ones are dropped and counted. The default is 4096 records and 64 MiB. Both must be
// positive.
func QueueSize(records int, bytes int64) ReporterOption {
	return reporterOptionFunc(func(c *sinkConfig) { c.Items, c.Bytes = records, bytes })
}

// BatchSize bounds the records of one call of Report. The default is 100. A batch is not waited
// for: it is what has gathered during the call before. n must be positive.
func BatchSize(n int) ReporterOption {
	return reporterOptionFunc(func(c *sinkConfig) { c.Batch = n })
}

// ReportTimeout bounds one call of Report through its context. The default is 10 seconds. d must be
// positive.
func ReportTimeout(d time.Duration) ReporterOption {
	return reporterOptionFunc(func(c *sinkConfig) { c.Timeout = d })
}
