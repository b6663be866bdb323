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
	"net/http/httputil"
	"net/url"
	"strconv"
	"strings"
	"sync"
	"time"

	"github.com/tidwall/gjson"

	"github.com/loadchange/apexproxy/internal/body"
	"github.com/loadchange/apexproxy/internal/convert"
	"github.com/loadchange/apexproxy/internal/header"
	"github.com/loadchange/apexproxy/internal/sse"
)

type exchangeKey struct{}

// forward applies what the stages decided.
func (p *Proxy) forward(w http.ResponseWriter, r *http.Request, x *exchange) {
	x.extendWrite()
	p.reverse.ServeHTTP(w, r.WithContext(context.WithValue(r.Context(), exchangeKey{}, x)))
}

// newReverseProxy returns the one place where requests are changed (Rewrite)
// and answers are looked at (Transport).
func (p *Proxy) newReverseProxy() *httputil.ReverseProxy {
	return &httputil.ReverseProxy{
		Rewrite:       p.rewrite,
		Transport:     roundTripper(p.roundTrip),
		FlushInterval: -1, // also a slow body with a length leaves at once
		BufferPool:    bufferPool{},
		ErrorLog:      slog.NewLogLogger(p.logger.Handler(), slog.LevelDebug),
		ErrorHandler:  p.upstreamFailed,
	}
}

// rewrite makes the outbound request. It runs after ReverseProxy has deleted
// what the client named in Connection: what is set here cannot be removed from
// outside.
func (p *Proxy) rewrite(pr *httputil.ProxyRequest) {
	x := pr.In.Context().Value(exchangeKey{}).(*exchange)
	out := pr.Out
	u := x.target.url
	out.URL, out.Host = &u, u.Host
	out.Trailer = nil
	h := out.Header
	if x.rec.Mode == ModeGateway {
		header.Gateway(h, p.gateway.forward)
	} else {
		header.Passthrough(h)
	}
	h.Del("Connection") // ReverseProxy restores it for an upgrade; no operation has one
	h.Del("Expect")     // answered already, when the body was read
	if p.mustRead(x) {
		h.Set("Accept-Encoding", "identity")
	}
	if x.rec.Converted {
		header.Convert(h)
	}
	out.Body, out.GetBody, out.ContentLength = nil, nil, 0
	if x.out != nil {
		if !strings.Contains(h.Get("Content-Type"), "json") {
			h.Set("Content-Type", "application/json")
		}
		if x.encoding == "" {
			h.Del("Content-Encoding")
		}
		out.ContentLength = int64(len(x.out))
		x.source.Reset(x.out)
		// With GetBody an HTTP/2 request that the upstream refused before it
		// looked at it is sent again instead of failing.
		out.GetBody = func() (io.ReadCloser, error) { return x.source.NewReader(), nil }
		out.Body = x.source.NewReader()
	}
	for name, values := range x.target.header {
		h[name] = values
	}
}

// mustRead reports whether the answer has to be readable to the proxy: the
// gateway's own errors are translated, reporters want usage.
func (p *Proxy) mustRead(x *exchange) bool {
	return x.rec.Mode == ModeGateway || x.rec.Converted || len(p.sinks) > 0
}

type roundTripper func(*http.Request) (*http.Response, error)

func (f roundTripper) RoundTrip(r *http.Request) (*http.Response, error) { return f(r) }

// roundTrip sends the request and looks at the answer's head; the body it wraps
// and leaves to be copied.
func (p *Proxy) roundTrip(r *http.Request) (*http.Response, error) {
	x := r.Context().Value(exchangeKey{}).(*exchange)
	res, err := x.target.rt.RoundTrip(r)
	if err != nil {
		return nil, err
	}
	x.extendWrite()
	if res.StatusCode < 200 || res.StatusCode > 999 {
		// 101 included: no request asks for another protocol.
		res.Body.Close()
		return nil, &reply{status: 502, fault: "http_protocol_error", code: "http_protocol_error",
			message: "the upstream's answer has no valid status", outcome: OutcomeUpstreamError}
	}
	x.rec.StatusCode = res.StatusCode
	x.rec.GatewayLogID = short(res.Header.Get("Cf-Aig-Log-Id"))
	x.rec.CacheStatus = short(res.Header.Get("Cf-Aig-Cache-Status"))
	if enc := res.Header.Get("Content-Encoding"); (x.conv != nil || x.rec.Operation == OperationModels && x.rec.Mode == ModeGateway) && isGzip(enc) {
		// It was asked not to, and what has to be converted has to be read.
		res.Body = &inflated{src: res.Body}
		res.Header.Del("Content-Encoding")
		res.Header.Del("Content-Length")
		res.ContentLength = -1
	}
	p.cors.Replace(res.Header, x.request.Header.Get("Origin"))
	x.content.responseHead(res.Header)
	x.tap = newTap(x, res, len(p.sinks) > 0)
	res.Body = x.tap
	switch {
	case x.conv != nil:
		return p.convertAnswer(x, res)
	case x.rec.Mode == ModeGateway && res.StatusCode >= 300:
		return p.translate(x, res)
	case x.rec.Mode == ModeGateway && x.rec.Operation == OperationModels:
		return p.listModels(x, res)
	case x.hide && isEventStream(res.Header) && res.Header.Get("Content-Encoding") == "":
		res.Body = &stream{Reader: sse.NewFilter(x.tap, usageOnly), Closer: x.tap}
		res.ContentLength = -1
		res.Header.Del("Content-Length")
	}
	return res, nil
}

// maxError is how much of an error answer is looked at, maxDocument of one that
// has to be read whole to be converted.
const (
	maxError    = 64 << 10
	maxDocument = 32 << 20
)

// document returns a reader for such an answer. Its memory counts like that of
// a request: in passthrough it is the client that picked the upstream.
func (p *Proxy) document() *body.Reader {
	return &body.Reader{Limit: maxDocument, Budget: p.budget}
}

// replace puts an answer of ours in the place of the upstream's.
func (x *exchange) replace(res *http.Response, status int, body []byte) *http.Response {
	res.Body.Close()
	x.rec.StatusCode = status
	res.StatusCode, res.Status = status, ""
	res.Body = io.NopCloser(bytes.NewReader(body))
	res.ContentLength = int64(len(body))
	res.TransferEncoding, res.Trailer = nil, nil
	res.Header.Set("Content-Length", strconv.Itoa(len(body)))
	res.Header.Set("Content-Type", "application/json")
	res.Header.Del("Content-Encoding")
	return res
}

// fail puts an error in the place of the upstream's answer. fault is empty when
// the error is the upstream's in other words. An empty typ is taken from the
// status. The client finds one request id in header and body:
// the upstream's, or ours.
func (x *exchange) fail(res *http.Response, status int, fault, typ, code, message string) *http.Response {
	if fault != "" {
		res.Header.Set("Proxy-Status", "apexproxy; error="+fault)
		x.rec.ErrorType = cmp.Or(code, fault)
	}
	name := "X-Request-Id"
	if x.dialect == dialectAnthropic {
		name = "Request-Id"
	}
	id := cmp.Or(res.Header.Get(name), res.Header.Get("Request-Id"), res.Header.Get("X-Request-Id"), x.rec.ID)
	res.Header.Set(name, id)
	return x.replace(res, status, errorBody(x.dialect, status, typ, code, message, id))
}

// translate turns an error that the gateway made itself into the client's
// dialect. Status and headers stay; a provider's error stays as it was written.
func (p *Proxy) translate(x *exchange, res *http.Response) (*http.Response, error) {
	if res.StatusCode < 400 {
		if res.StatusCode == http.StatusNotModified {
			return res, nil
		}
		res.Body.Close()
		return nil, &reply{status: 502, fault: "http_protocol_error", code: "gateway_redirect",
			message: "the gateway answered with a redirect, which is never followed: check its base URL", outcome: OutcomeUpstreamError}
	}
	head, err := io.ReadAll(io.LimitReader(x.tap, maxError))
	code, message, ours := gatewayError(head)
	if err != nil || !ours {
		res.Body = &stream{Reader: io.MultiReader(bytes.NewReader(head), x.tap), Closer: x.tap}
		return res, nil
	}
	x.rec.ErrorType = gatewayErrorType(code)
	return x.fail(res, res.StatusCode, "", "", code, message), nil
}

// listModels turns the gateway's list of models into what this proxy routes.
func (p *Proxy) listModels(x *exchange, res *http.Response) (*http.Response, error) {
	if x.request.Method == http.MethodHead {
		res.Header.Del("Content-Length") // of another text
		return res, nil
	}
	doc := p.document()
	defer doc.Release()
	b, err := doc.Read(x.tap, -1)
	if errors.Is(err, body.ErrBusy) {
		return nil, p.unreadable(x.request, err)
	}
	id := ""
	if path := strings.TrimRight(x.request.URL.EscapedPath(), "/"); !strings.HasSuffix(path, "/models") {
		_, last := cutLast(path)
		id, _ = url.PathUnescape(last)
	}
	out, ok, found := p.gateway.modelList(b, x.dialect, id)
	switch {
	case err != nil || !ok:
		return x.fail(res, 502, "http_protocol_error", "", "", "the gateway's list of models could not be read"), nil
	case !found:
		x.rec.Outcome = OutcomeRejected
		return x.fail(res, 404, "http_request_error", "", "model_not_found", "no such model: GET …/models lists them"), nil
	}
	return x.replace(res, 200, out), nil
}

// convertAnswer turns a Chat Completions answer into what the client of Messages
// expects. Headers of the upstream's protocol do not survive.
func (p *Proxy) convertAnswer(x *exchange, res *http.Response) (*http.Response, error) {
	status := res.StatusCode
	header.ConvertAnswer(res.Header, x.rec.ID)
	p.cors.Apply(res.Header, x.request.Header.Get("Origin"))
	if len(x.rec.Dropped) > 0 {
		res.Header.Set("X-Apex-Ai-Proxy-Dropped", header.Value(strings.Join(x.rec.Dropped, ", ")))
	}
	fail := func(fault string, e *convert.Error) (*http.Response, error) {
		if e.NoRetry {
			res.Header.Set("X-Should-Retry", "false")
		}
		return x.fail(res, e.Status, fault, e.Type, "", e.Message), nil
	}
	if status < 200 || status > 299 {
		head, _ := io.ReadAll(io.LimitReader(x.tap, maxError))
		e := convert.UpstreamError(status, head)
		if code, message, ours := gatewayError(head); ours && x.rec.Mode == ModeGateway {
			x.rec.ErrorType, e.Message = gatewayErrorType(code), message
		}
		if status < 400 {
			return fail("http_protocol_error", e)
		}
		return fail("", e)
	}
	if !x.conv.Stream() {
		doc := p.document()
		defer doc.Release()
		b, err := doc.Read(x.tap, -1)
		if errors.Is(err, body.ErrBusy) {
			return nil, p.unreadable(x.request, err)
		}
		if err != nil {
			return fail("http_response_incomplete", &convert.Error{Status: 502, Type: "api_error", Message: "the upstream's answer broke off or is too large to be converted"})
		}
		message, e := x.conv.Message(b)
		if e != nil {
			return fail("http_protocol_error", e)
		}
		return x.replace(res, status, message), nil
	}
	events := x.conv.Events(x.tap)
	events.Charge(x.body.Charge)
	if e := events.Start(); e != nil {
		return fail("http_protocol_error", e)
	}
	x.events = events
	res.Body = &converted{Events: events, tap: x.tap}
	res.ContentLength, res.Trailer = -1, nil
	res.Header.Set("Content-Type", "text/event-stream; charset=utf-8")
	res.Header.Set("Cache-Control", "no-cache")
	res.Header.Set("X-Accel-Buffering", "no")
	return res, nil
}

// converted is the body of a converted stream, which ends at the upstream's
// [DONE]: on HTTP/1.1 the connection can only be used again when the few bytes
// behind it were read too.
type converted struct {
	*convert.Events
	tap *tap
}

const drainTime = 100 * time.Millisecond

func (c *converted) Close() error {
	if c.Failed() == nil && c.tap.x.request.Context().Err() == nil {
		done := make(chan struct{})
		go func() {
			defer close(done)
			_, _ = io.CopyN(io.Discard, c.tap.body, 4<<10)
		}()
		timer := time.NewTimer(drainTime)
		defer timer.Stop()
		select {
		case <-done:
		case <-timer.C: // Close ends the read
		}
	}
	return c.tap.Close()
}

// stream is a body that is read through something else.
type stream struct {
	io.Reader
	io.Closer
}

// inflated reads a gzip body. Nothing is read before the first Read.
type inflated struct {
	src io.ReadCloser
	zip *gzip.Reader
	err error // of the beginning: it stays
}

func (b *inflated) Read(p []byte) (int, error) {
	if b.zip == nil && b.err == nil {
		b.zip, b.err = gzip.NewReader(b.src)
	}
	if b.err != nil {
		return 0, b.err
	}
	return b.zip.Read(p)
}

func (b *inflated) Close() error { return b.src.Close() }

func isGzip(encoding string) bool {
	return strings.EqualFold(encoding, "gzip") || strings.EqualFold(encoding, "x-gzip")
}

func isEventStream(h http.Header) bool {
	return strings.HasPrefix(strings.ToLower(h.Get("Content-Type")), "text/event-stream")
}

// usageOnly recognises the chunk that stream_options.include_usage adds to a
// chat stream. https://platform.openai.com/docs/api-reference/chat/create
func usageOnly(data []byte) bool {
	if !bytes.Contains(data, []byte(`"usage"`)) || !gjson.ValidBytes(data) {
		return false
	}
	got := gjson.GetManyBytes(data, "choices", "usage")
	return got[0].IsArray() && len(got[0].Array()) == 0 && got[1].IsObject()
}

// upstreamFailed answers when there is no answer from upstream to copy. The
// request that ReverseProxy hands over is the outbound one.
func (p *Proxy) upstreamFailed(w http.ResponseWriter, out *http.Request, err error) {
	x := out.Context().Value(exchangeKey{}).(*exchange)
	if errors.Is(x.request.Context().Err(), context.Canceled) {
		x.rec.StatusCode, x.rec.Outcome, x.rec.ErrorType = statusClientClosed, OutcomeClientClosed, "client_closed"
		w.WriteHeader(statusClientClosed) // for the host's access log; nobody else is there
		return
	}
	p.write(x, unreachable(err))
}

// statusClientClosed is nginx's number for a client that left before the
// answer began.
const statusClientClosed = 499

// extendWrite moves the write deadline that a host's http.Server.WriteTimeout
// set, so that it bounds each wait for the client and not the whole answer.
// Nothing is done where the host set none, or for HTTP/2, where the deadline is
// lifted once: there it would end a stream that is merely quiet.
func (x *exchange) extendWrite() {
	if x.writeTimeout <= 0 {
		return
	}
	deadline, now := time.Time{}, time.Now()
	switch {
	case x.request.ProtoMajor < 2:
		deadline = now.Add(x.writeTimeout)
	case !x.extended.IsZero():
		return
	}
	if now.Sub(x.extended) < x.writeTimeout/4 {
		return
	}
	x.extended = now
	// A writer that cannot do it is one without our deadline.
	_ = http.NewResponseController(x.writer).SetWriteDeadline(deadline)
}

// outcome tells how an exchange ended that got an answer from upstream.
func (x *exchange) outcome() Outcome {
	ctx := x.request.Context().Err()
	switch err := x.answerErr; {
	case err != nil && err != io.EOF:
		switch {
		case errors.Is(ctx, context.Canceled):
			return OutcomeClientClosed
		case errors.Is(err, context.DeadlineExceeded), errors.Is(ctx, context.DeadlineExceeded):
			return OutcomeTimeout
		}
		return OutcomeUpstreamTruncated
	case !x.done && errors.Is(ctx, context.Canceled):
		return OutcomeClientClosed
	case !x.done:
		return OutcomeAborted
	case x.rec.StatusCode >= 400:
		return OutcomeUpstreamError
	}
	return OutcomeCompleted
}

// bufferPool keeps copy buffers. Pointers to arrays, because a slice in a
// sync.Pool allocates its header each time.
type bufferPool struct{}

var buffers = sync.Pool{New: func() any { return new([32 << 10]byte) }}

func (bufferPool) Get() []byte  { return buffers.Get().(*[32 << 10]byte)[:] }
func (bufferPool) Put(b []byte) { buffers.Put((*[32 << 10]byte)(b)) }
