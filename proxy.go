package apexproxy

import (
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net/http"
	"net/http/httputil"
	"net/url"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"github.com/loadchange/apexproxy/internal/body"
	"github.com/loadchange/apexproxy/internal/convert"
	"github.com/loadchange/apexproxy/internal/header"
)

// A Proxy is an [http.Handler] that forwards LLM requests to a Cloudflare AI
// Gateway or to the upstream a client names. Make one with [New]. It is safe
// for concurrent use and immutable.
type Proxy struct {
	gateway     *gateway     // nil: off
	passthrough *passthrough // nil: off
	auth        Authenticator
	mapping     mapping
	cors        header.CORS
	strict      bool
	maxRequest  int64
	budget      *body.Budget
	reverse     *httputil.ReverseProxy
	logger      *slog.Logger
	own         *http.Transport // ours to close, or nil
	sinks       []*sink
	content     int // bytes of each body that some reporter wants
	inFlight    atomic.Int64
}

var _ http.Handler = (*Proxy)(nil)

// New returns a Proxy, or all mistakes in its options joined in one error. At
// least one of [WithGateway] and [WithPassthrough] is needed. It starts one
// goroutine for each reporter, which [Proxy.Shutdown] ends, and no other.
func New(opts ...Option) (*Proxy, error) {
	c := config{maxRequest: defaultMaxRequest}
	for _, o := range opts {
		if o != nil {
			o.apply(&c)
		}
	}
	p := &Proxy{maxRequest: c.maxRequest, strict: c.strict, logger: c.logger}
	var errs []error
	check := func(err error) {
		if err != nil {
			errs = append(errs, err)
		}
	}
	if p.logger == nil {
		p.logger = slog.New(slog.DiscardHandler)
	}
	if c.maxBuffered == 0 {
		c.maxBuffered = max(defaultMaxBuffered, c.maxRequest)
	}
	if c.maxRequest <= 0 || c.maxBuffered < c.maxRequest {
		check(errors.New("WithMaxRequestBytes must be positive and not above WithMaxBufferedBytes"))
	}
	p.budget = body.NewBudget(c.maxBuffered)
	if c.transport == nil {
		p.own = NewTransport()
		c.transport = p.own
	}

	var err error
	if c.gateway == nil && c.passthrough == nil {
		check(errors.New("nothing to forward to: give WithGateway, WithPassthrough or both"))
	}
	if c.gateway != nil {
		p.gateway, err = newGateway(*c.gateway, c.providers, c.transport)
		check(err)
		p.auth = Tokens(c.gateway.Token)
	} else if c.authSet || len(c.providers) > 0 {
		check(errors.New("WithAuth and WithProvider need WithGateway: passthrough has Passthrough.Auth and no table"))
	}
	if c.authSet {
		p.auth = c.auth
		if c.auth == nil || admitsNobody(c.auth) {
			check(errors.New("WithAuth: the Authenticator is nil, or Tokens got no token or an empty one"))
		}
	}
	if c.passthrough != nil {
		p.passthrough, err = newPassthrough(*c.passthrough, c.transport)
		check(err)
		if c.passthrough.Auth != nil && admitsNobody(c.passthrough.Auth) {
			check(errors.New("passthrough: Auth: Tokens got no token or an empty one"))
		}
	}
	p.mapping, err = parseMapping(c.mapping)
	check(err)
	p.cors, err = header.NewCORS(c.origins)
	check(err)
	for _, s := range c.sinks {
		switch {
		case s.reporter == nil:
			check(errors.New("WithReporter: the Reporter is nil"))
		case s.Items <= 0 || s.Bytes <= 0 || s.Batch <= 0 || s.Timeout <= 0 || s.content < 0:
			check(errors.New("WithReporter: QueueSize, BatchSize, ReportTimeout and CaptureContent must be positive"))
		}
		p.content = max(p.content, s.content)
	}
	if len(errs) > 0 {
		return nil, fmt.Errorf("apexproxy: %w", errors.Join(errs...))
	}
	p.reverse = p.newReverseProxy()
	for _, s := range c.sinks {
		p.sinks = append(p.sinks, newSink(s, p.logger))
	}
	return p, nil
}

// ServeHTTP answers one exchange. The stages decide, in this order, and none of
// them changes r; forward applies what they decided.
//
// When an upstream's answer breaks off under an [http.Server], ServeHTTP panics
// with [http.ErrAbortHandler] so that the client sees it; middleware that
// recovers must panic again with it.
func (p *Proxy) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	x := p.begin(w, r)
	defer p.end(x)
	for _, stage := range [...]func(*http.Request, *exchange) *reply{
		p.limit, p.authenticate, p.route, p.mapModel,
	} {
		if rp := stage(r, x); rp != nil {
			p.write(x, rp)
			x.done = true
			return
		}
	}
	p.forward(w, r, x)
	x.done = true
}

// exchange is one request and its answer on their way through the proxy. The
// stages write it; one goroutine uses it at a time.
type exchange struct {
	request *http.Request
	writer  http.ResponseWriter
	dialect dialect
	rec     Record
	content *capture // nil: nobody asked

	in       io.Reader // the client's body
	body     body.Reader
	sent     []byte      // body as the client sent it, until mapModel rewrites it
	out      []byte      // body as it goes upstream
	encoding string      // Content-Encoding of out
	source   body.Source // what the transport reads out from

	target   target
	askUsage bool // the provider may be asked for usage in chat streams
	hide     bool // usage was asked for by us: the client must not see its chunk
	profile  *Profile
	conv     *convert.Conversion // nil: client and upstream speak the same protocol
	events   *convert.Events     // nil: no converted stream
	tap      *tap                // nil: no answer from upstream

	done         bool  // ServeHTTP came to its end without a panic
	answerErr    error // why reading the answer ended, nil while it has not
	writeTimeout time.Duration
	extended     time.Time
}

// target is one upstream together with the headers that only it may see, its
// credential among them. They travel as one value.
type target struct {
	url    url.URL
	header http.Header
	rt     http.RoundTripper
}

func (x *exchange) aim(t target) {
	x.target = t
	x.rec.UpstreamHost = t.url.Host
}

func (p *Proxy) begin(w http.ResponseWriter, r *http.Request) *exchange {
	p.inFlight.Add(1)
	x := &exchange{request: r, writer: w}
	x.body = body.Reader{Limit: p.maxRequest, Budget: p.budget}
	if p.content > 0 {
		x.content = &capture{max: p.content}
	}
	x.rec = Record{
		ID:     "req_" + rand.Text(),
		Start:  time.Now(),
		Method: short(r.Method),
		Path:   strings.Clone(r.URL.EscapedPath()),
	}
	if s, ok := r.Context().Value(http.ServerContextKey).(*http.Server); ok {
		x.writeTimeout = s.WriteTimeout
	}
	return x
}

// end completes the record and hands it over, in a defer because an aborted
// answer panics. It does not recover: the panic and its meaning stay the host's.
func (p *Proxy) end(x *exchange) {
	x.source.Close()
	x.body.Release()
	x.rec.Duration = time.Since(x.rec.Start)
	if x.rec.Outcome == "" {
		x.rec.Outcome = x.outcome()
	}
	if len(p.sinks) > 0 {
		x.tap.summarise(&x.rec)
		if x.conv != nil {
			x.rec.Dropped = x.conv.Dropped()
		}
		if x.rec.Outcome == OutcomeCompleted && x.events != nil && x.events.Failed() != nil {
			x.rec.Outcome = OutcomeUpstreamError
		}
		x.content.finish(x.request)
		for _, s := range p.sinks {
			s.put(x.rec, x.content)
		}
	}
	p.inFlight.Add(-1)
}

// limit knows the operation and answers what is none or needs no upstream. The
// body's bounds are in x.body.
func (p *Proxy) limit(r *http.Request, x *exchange) *reply {
	op := operationOf(r)
	methods, allowed := "POST", r.Method == http.MethodPost
	if op == OperationModels || op == OperationLiveness {
		methods, allowed = "GET, HEAD", r.Method == http.MethodGet || r.Method == http.MethodHead
	}
	if (op == OperationModels || op == "") && r.Header.Get("Anthropic-Version") != "" {
		x.dialect = dialectAnthropic
	}
	if op == OperationMessages || op == OperationCountTokens {
		x.dialect = dialectAnthropic
	}
	x.rec.Operation = op
	switch {
	case r.Method == http.MethodOptions:
		x.rec.Operation = OperationPreflight
		rp := &reply{status: http.StatusNoContent, outcome: OutcomeCompleted}
		if op != "" {
			rp.with("Allow", methods+", OPTIONS")
		}
		return rp
	case op == "":
		return refuse(404, "not_found", "no such path: the proxy serves …/chat/completions, …/messages, …/messages/count_tokens, …/responses, …/embeddings and …/models")
	case !allowed:
		return refuse(405, "method_not_allowed", "method %s is not allowed here: use %s", quoteShort(r.Method), methods).with("Allow", methods)
	case op == OperationLiveness:
		return &reply{status: http.StatusOK, message: `{"status":"ok"}` + "\n", outcome: OutcomeCompleted}
	}
	x.rec.Mode = ModeGateway
	if passthroughAsked(r) {
		x.rec.Mode = ModePassthrough
	}
	if x.in = r.Body; x.in == nil {
		x.in = http.NoBody
	}
	return nil
}

// operationOf knows an operation by the end of the path, under any prefix.
func operationOf(r *http.Request) Operation {
	path := strings.TrimRight(r.URL.EscapedPath(), "/")
	rest, last := cutLast(path)
	_, before := cutLast(rest)
	switch {
	case last == "models":
		return OperationModels
	case before == "chat" && last == "completions":
		return OperationChat
	case before == "messages" && last == "count_tokens":
		return OperationCountTokens
	case last == "messages":
		return OperationMessages
	case last == "responses":
		return OperationResponses
	case last == "embeddings":
		return OperationEmbeddings
	case before == "models":
		return OperationModels
	case path == "", path == mountPoint(r):
		return OperationLiveness
	}
	return ""
}

func cutLast(path string) (rest, last string) {
	i := strings.LastIndexByte(path, '/')
	return path[:max(i, 0)], path[i+1:]
}

// mountPoint returns the path under which a Go 1.22 mux holds the handler,
// without trailing slash and wildcard.
func mountPoint(r *http.Request) string {
	i := strings.IndexByte(r.Pattern, '/')
	if i < 0 {
		return ""
	}
	path, _, _ := strings.Cut(r.Pattern[i:], "{")
	return strings.TrimRight(path, "/")
}

// authenticate asks who calls, before a byte of the body is read.
func (p *Proxy) authenticate(r *http.Request, x *exchange) *reply {
	auth := p.auth
	message := "no valid key: present the proxy's token as Authorization: Bearer or x-api-key"
	if x.rec.Mode == ModePassthrough {
		if p.passthrough == nil {
			return refuse(403, "passthrough_off", "passthrough is off on this proxy: leave out X-APEX-AI-PROXY-PROVIDER")
		}
		auth = p.passthrough.auth
		message = "no valid key: present the proxy's token as X-APEX-AI-PROXY-TOKEN"
	}
	if auth == nil {
		return nil
	}
	id, err := auth(r)
	if err != nil {
		return refuse(401, "invalid_api_key", "%s", message)
	}
	x.rec.Identity = id
	return nil
}

// Stats are counters of a Proxy's life so far. Those of records count each
// record once for every reporter.
type Stats struct {
	InFlight     int64  // exchanges under way
	Reported     uint64 // records that a call of Report took
	ReportErrors uint64 // calls of Report that failed, panicked or ran out of time
	Dropped      Dropped
}

// Dropped counts records that no reporter kept, by reason.
type Dropped struct {
	QueueFull  uint64 // the queue's bound of records was reached
	QueueBytes uint64 // the queue's bound of bytes was reached
	Shutdown   uint64 // they came after Shutdown or outlasted its context
	Failed     uint64 // they were in a batch whose Report failed
}

// Total is the sum over all reasons.
func (d Dropped) Total() uint64 { return d.QueueFull + d.QueueBytes + d.Shutdown + d.Failed }

// Stats returns the counters now. It may be called at any time.
func (p *Proxy) Stats() Stats {
	out := Stats{InFlight: p.inFlight.Load()}
	for _, s := range p.sinks {
		q := s.Stats()
		out.Reported += q.Handled
		out.ReportErrors += q.Errors
		out.Dropped.QueueFull += q.Full
		out.Dropped.QueueBytes += q.TooLarge
		out.Dropped.Shutdown += q.Closed
		out.Dropped.Failed += q.Failed
	}
	return out
}

// Shutdown hands all waiting records to the reporters and ends their goroutines.
// Call it after [http.Server.Shutdown], which waits for open streams. It stops
// reporting, not serving: records of later exchanges are dropped and counted.
// When ctx ends first, what is left is dropped and counted and ctx's error
// returned, also when a reporter does not return. It also closes idle
// connections of the transports that New made, never of one passed in. A
// second call waits like the first.
func (p *Proxy) Shutdown(ctx context.Context) error {
	if p.own != nil {
		p.own.CloseIdleConnections()
	}
	if p.passthrough != nil && p.passthrough.own != nil {
		p.passthrough.own.CloseIdleConnections()
	}
	errs := make([]error, len(p.sinks))
	var wg sync.WaitGroup
	for i, s := range p.sinks {
		wg.Go(func() { errs[i] = s.Close(ctx) })
	}
	wg.Wait()
	return errors.Join(errs...)
}
