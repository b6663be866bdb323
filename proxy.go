package apexproxy

import (
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"log/slog"
	"net/http"
	"net/url"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"github.com/loadchange/apexproxy/internal/body"
	"github.com/loadchange/apexproxy/internal/convert"
	"github.com/loadchange/apexproxy/internal/header"
	"github.com/loadchange/apexproxy/internal/protocol"
	"github.com/loadchange/apexproxy/internal/relay"
)

// ServeHTTP answers one exchange. Its stages run in this order, which is a security property; the
// package documentation has the whole picture:
//
//	classify      operation, protocol and mode                  here
//	authenticate  who calls                                     auth.go
//	route         reads the body; where to, with which model    request.go, mapping.go, gateway.go, passthrough.go
//	prepare       the body as it goes there                     request.go
//	forward       send, head, copy, trailers                    forward.go
//	              what is not copied is replaced                answer.go
//	end           one Record for the Reporters                  record.go, observe.go
//
// The first three decide and write the plan; prepare and forward apply it; end observes. A stage
// that answers itself returns a reply, and those behind it do not run: errors.go renders it. None
// of them changes r.
//
// When an upstream's answer breaks off under an [http.Server], ServeHTTP panics with
// [http.ErrAbortHandler] so that the client sees it; middleware that recovers must panic again with
// it.
func (p *Proxy) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	x := p.begin(w, r)
	defer p.end(x)
	for _, stage := range [...]func(*exchange) *reply{
		p.classify, p.authenticate, p.route, p.prepare, p.forward,
	} {
		if rp := stage(x); rp != nil {
			p.write(x, rp)
			break
		}
	}
	x.done = true
}

// A Proxy is an [http.Handler] that forwards LLM requests to a Cloudflare AI Gateway or to the
// upstream a client names. Make one with [New]. It is safe for concurrent use and immutable.
type Proxy struct {
	gateway     *gateway     // nil: off
	passthrough *passthrough // nil: off
	auth        Authenticator
	mapping     mapping
	cors        header.CORS
	strict      bool
	maxRequest  int64
	budget      *body.Budget
	logger      *slog.Logger
	owned       []*http.Transport // ours to close
	sinks       []*sink
	content     int // bytes of each body that some reporter wants
	inFlight    atomic.Int64
}

var _ http.Handler = (*Proxy)(nil)

// exchange is one request and its answer on their way through the proxy. One goroutine uses it at a
// time.
type exchange struct {
	id    string
	start time.Time
	r     *http.Request // as it came; nobody changes it
	w     http.ResponseWriter

	plan
	request
	facts
	held     body.Reader    // what may be held of the answer, and what is: the client may have picked its upstream
	tap      *tap           // nil: no answer from upstream
	content  *capture       // nil: nobody asked
	deadline relay.Deadline // of w
}

func (x *exchange) extendDeadline() { x.deadline.Extend(x.w, x.r) }

// plan is what was decided. Classify, authenticate and route write it; nothing changes it after
// them.
type plan struct {
	operation Operation
	mode      Mode
	client    protocol.Protocol // what the client speaks, its errors too
	upstream  protocol.Protocol // what the upstream speaks
	identity  Identity
	observed  bool // some reporter wants the record

	target      target
	provider    string               // from name#provider; in passthrough the upstream's host
	clientModel string               // as the client wrote it
	model       string               // as it goes upstream
	rewrite     bool                 // the body's model has to be replaced by it
	stream      bool                 // the client asked for an event stream
	profile     *convert.ChatProfile // how a converted request wants to be asked
	askUsage    bool                 // the upstream is to be asked for usage in a chat stream

	reasoningExtra bool // the upstream counts reasoning outside of completion_tokens
}

// converts reports whether client and upstream speak different protocols.
func (p *plan) converts() bool { return p.client != p.upstream }

// estimates reports whether tokens are to be counted here, for an upstream that cannot.
func (p *plan) estimates() bool { return p.operation == OperationCountTokens && p.converts() }

// target is one upstream together with the headers that only it may see, its credential among them.
// They travel as one value.
type target struct {
	url    url.URL
	header http.Header
	rt     http.RoundTripper // nil: no upstream is needed
}

func (p *Proxy) begin(w http.ResponseWriter, r *http.Request) *exchange {
	p.inFlight.Add(1)
	x := &exchange{id: "req_" + rand.Text(), start: time.Now(), r: r, w: w}
	x.observed = len(p.sinks) > 0
	x.allowance = body.Reader{Limit: p.maxRequest, Budget: p.budget}
	x.held = body.Reader{Limit: maxDocument, Budget: p.budget}
	if p.content > 0 {
		x.content = &capture{max: p.content}
	}
	if s, ok := r.Context().Value(http.ServerContextKey).(*http.Server); ok {
		x.deadline.Timeout = s.WriteTimeout
	}
	return x
}

// end gives back what the exchange held and hands its record over, in a defer because an aborted
// answer panics. It does not recover: the panic and its meaning stay the host's.
func (p *Proxy) end(x *exchange) {
	x.release()
	x.held.Release()
	if x.observed {
		rec := x.record()
		x.content.finish(x.r)
		for _, s := range p.sinks {
			s.put(rec, x.content)
		}
	}
	p.inFlight.Add(-1)
}

// classify finds operation, protocol and mode. It answers at once what needs no upstream: OPTIONS,
// liveness, unknown paths and wrong methods.
func (p *Proxy) classify(x *exchange) *reply {
	r := x.r
	op := operationOf(r)
	x.operation = op
	x.client = protocols[op]
	if (op == OperationModels || op == "") && r.Header.Get("Anthropic-Version") != "" {
		x.client = protocol.Messages
	}
	x.upstream = x.client
	methods, allowed := "POST", r.Method == http.MethodPost
	if op == OperationModels || op == OperationLiveness {
		methods, allowed = "GET, HEAD", r.Method == http.MethodGet || r.Method == http.MethodHead
	}
	switch {
	case r.Method == http.MethodOptions:
		x.operation = OperationPreflight
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
	x.mode = ModeGateway
	if passthroughAsked(r) {
		x.mode = ModePassthrough
	}
	return nil
}

// protocols says what the clients of an operation speak.
var protocols = map[Operation]protocol.Protocol{
	OperationChat:        protocol.Chat,
	OperationMessages:    protocol.Messages,
	OperationCountTokens: protocol.Messages,
	OperationResponses:   protocol.Responses,
	OperationEmbeddings:  protocol.Embeddings,
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

// mountPoint returns the path under which a Go 1.22 mux holds the handler, without trailing slash
// and wildcard.
func mountPoint(r *http.Request) string {
	i := strings.IndexByte(r.Pattern, '/')
	if i < 0 {
		return ""
	}
	path, _, _ := strings.Cut(r.Pattern[i:], "{")
	return strings.TrimRight(path, "/")
}

// authenticate asks who calls, before a byte of the body is read.
func (p *Proxy) authenticate(x *exchange) *reply {
	auth := p.auth
	message := "no valid key: present the proxy's token as Authorization: Bearer or x-api-key"
	if x.mode == ModePassthrough {
		if p.passthrough == nil {
			return refuse(403, "passthrough_off", "passthrough is off on this proxy: leave out X-APEX-AI-PROXY-PROVIDER")
		}
		auth = p.passthrough.auth
		message = "no valid key: present the proxy's token as X-APEX-AI-PROXY-TOKEN"
	}
	if auth == nil {
		return nil
	}
	id, err := auth(x.r)
	if err != nil {
		return refuse(401, "invalid_api_key", "%s", message)
	}
	x.identity = id
	return nil
}

// route decides where the request goes and with which model. In passthrough the client's header
// names the target, and the model is mapped if there is one; through the gateway the model names
// the provider. Both read the body, once.
func (p *Proxy) route(x *exchange) *reply {
	switch {
	case x.mode == ModeGateway && p.gateway == nil:
		return refuse(400, "no_gateway", "this proxy has no gateway: name an upstream in X-APEX-AI-PROXY-PROVIDER")
	case x.mode == ModePassthrough:
		if rp := p.passthrough.aim(x); rp != nil {
			return rp
		}
	}
	models, rp := p.mappings(x.r)
	switch {
	case rp != nil:
		return rp
	case x.operation != OperationModels:
		if rp := p.receive(x); rp != nil {
			return rp
		}
	}
	switch {
	case x.mode == ModeGateway && x.operation == OperationModels:
		p.gateway.aimAtModels(x)
	case x.mode == ModeGateway:
		name, provider, rp := p.namedModel(x, models)
		if rp != nil {
			return rp
		}
		return p.gateway.aim(x, name, provider)
	case x.operation != OperationModels:
		return p.opaqueModel(x, models)
	}
	return nil
}

// New returns a Proxy, or all mistakes in its options joined in one error. At least one of
// [WithGateway] and [WithPassthrough] is needed. It starts one goroutine for each reporter, which
// [Proxy.Shutdown] ends, and no other.
func New(opts ...Option) (*Proxy, error) {
	c := newConfig(opts)
	p := &Proxy{
		auth: c.clients(), strict: c.strict, maxRequest: c.maxRequest,
		budget: body.NewBudget(c.maxBuffered), logger: c.logger, owned: c.owned,
	}
	errs := []error{c.validate()}
	build := func(err error) { errs = append(errs, err) }
	var err error
	if c.gateway != nil {
		p.gateway, err = newGateway(*c.gateway, c.providers, c.transport)
		build(err)
	}
	if c.passthrough != nil {
		p.passthrough, err = newPassthrough(*c.passthrough, c.transport)
		build(err)
		p.owned = append(p.owned, p.passthrough.owned...)
	}
	p.mapping, err = parseMapping(c.mapping)
	build(err)
	p.cors, err = header.NewCORS(c.origins)
	build(err)
	if err := errors.Join(errs...); err != nil {
		return nil, fmt.Errorf("apexproxy: %w", err)
	}
	for _, s := range c.sinks {
		p.content = max(p.content, s.content)
		p.sinks = append(p.sinks, newSink(s, p.logger))
	}
	return p, nil
}

// Stats are counters of a Proxy's life so far. Those of records count each record once for every
// reporter.
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

// Shutdown hands all waiting records to the reporters and ends their goroutines. Call it after
// [http.Server.Shutdown], which waits for open streams. It stops reporting, not serving: records of
// later exchanges are dropped and counted. When ctx ends first, what is left is dropped and counted
// and ctx's error returned, also when a reporter does not return. It also closes idle connections
// of the transports that New made, never of one passed in. A second call waits like the first.
func (p *Proxy) Shutdown(ctx context.Context) error {
	for _, t := range p.owned {
		t.CloseIdleConnections()
	}
	errs := make([]error, len(p.sinks))
	var wg sync.WaitGroup
	for i, s := range p.sinks {
		wg.Go(func() { errs[i] = s.Close(ctx) })
	}
	wg.Wait()
	return errors.Join(errs...)
}
