package apexproxy

import (
	"bytes"
	"cmp"
	"encoding/json"
	"errors"
	"io"
	"net/http"
	"net/url"
	"strconv"
	"strings"
	"time"

	"github.com/tidwall/gjson"

	"github.com/loadchange/apexproxy/internal/body"
	"github.com/loadchange/apexproxy/internal/convert"
	"github.com/loadchange/apexproxy/internal/header"
	"github.com/loadchange/apexproxy/internal/protocol"
	"github.com/loadchange/apexproxy/internal/rawjson"
	"github.com/loadchange/apexproxy/internal/relay"
	"github.com/loadchange/apexproxy/internal/sse"
)

// answer looks at the upstream's answer and changes what must not be copied as it is: res is then
// ours to send. It sends nothing itself.
func (p *Proxy) answer(x *exchange, res *http.Response) *reply {
	if res.StatusCode < 200 || res.StatusCode > 999 {
		// 101 included: no request asks for another protocol.
		return badUpstream("http_protocol_error", "the upstream's answer has no valid status")
	}
	listed := x.mode == ModeGateway && x.operation == OperationModels
	if isGzip(res.Header.Get("Content-Encoding")) && (x.conversion != nil || listed) {
		// The upstream compressed although we asked for identity, and this has to be read.
		res.Body = relay.Gunzip(res.Body)
		res.Header.Del("Content-Encoding")
		res.Header.Del("Content-Length")
		res.ContentLength = -1
	}
	x.tap = newTap(x, res)
	res.Body = x.tap
	switch {
	case x.conversion != nil:
		return x.convertAnswer(res)
	case x.mode == ModeGateway && res.StatusCode >= 300:
		return x.translate(res)
	case listed:
		return p.listModels(x, res)
	case x.hideUsage && isEventStream(res.Header) && res.Header.Get("Content-Encoding") == "":
		res.Body = &relay.ReadCloser{Reader: sse.NewFilter(x.tap, usageOnly), Closer: x.tap}
		res.ContentLength = -1
		res.Header.Del("Content-Length")
	}
	return nil
}

// maxError is how much of an error answer is looked at, maxDocument of one that has to be read
// whole to be converted.
const (
	maxError    = 64 << 10
	maxDocument = 32 << 20
)

// noRoom is the reply when the budget has no room for an answer.
func noRoom() *reply {
	return (&reply{status: 503, outcome: OutcomeUpstreamError, fault: "proxy_internal_response", code: "proxy_busy",
		message: "the proxy is holding as much as it may and has no room for the answer: try again"}).with("Retry-After", "1")
}

// replace puts a document of ours in the place of the upstream's.
func replace(res *http.Response, status int, document []byte) {
	res.Body.Close()
	res.StatusCode, res.Status = status, ""
	res.Body = io.NopCloser(bytes.NewReader(document))
	res.ContentLength = int64(len(document))
	res.TransferEncoding, res.Trailer = nil, nil
	res.Header.Set("Content-Length", strconv.Itoa(len(document)))
	res.Header.Set("Content-Type", "application/json")
	res.Header.Del("Content-Encoding")
}

// replaceError puts an error in the place of the upstream's answer. code is the one that the
// client's protocol has room for. fault is empty when the error is the upstream's in other words.
func (x *exchange) replaceError(res *http.Response, status int, class protocol.Class, fault, code, message string) {
	if fault != "" {
		res.Header.Set("Proxy-Status", "apexproxy; error="+fault)
		x.replaced = cmp.Or(code, fault)
	}
	id := x.nameRequest(res.Header)
	replace(res, status, protocol.Error(x.client, class, code, message, id))
}

// nameRequest sees to it that an answer has a request id where the client's SDK looks for it: the
// upstream's, or ours. It returns the id, which is to stand in the body as well.
func (x *exchange) nameRequest(h http.Header) string {
	name := x.requestIDHeader()
	id := cmp.Or(h.Get(name), h.Get("Request-Id"), h.Get("X-Request-Id"), x.id)
	h.Set(name, id)
	return id
}

func (x *exchange) requestIDHeader() string {
	if x.client == protocol.Messages {
		return "Request-Id"
	}
	return "X-Request-Id"
}

// translate turns an error that the gateway made itself into the client's protocol. Status and
// headers stay; a provider's error stays as it was written.
func (x *exchange) translate(res *http.Response) *reply {
	if res.StatusCode == http.StatusNotModified {
		return nil
	}
	if res.StatusCode < 400 {
		rp := badUpstream("http_protocol_error", "the gateway answered with a redirect, which is never followed: check its base URL")
		rp.code = "gateway_redirect"
		return rp
	}
	head, err := io.ReadAll(io.LimitReader(x.tap, maxError))
	code, message, ours := convert.GatewayError(head)
	if err != nil || !ours {
		res.Body = &relay.ReadCloser{Reader: io.MultiReader(bytes.NewReader(head), x.tap), Closer: x.tap}
		return nil
	}
	x.replaceError(res, res.StatusCode, protocol.ClassOf(res.StatusCode), "", code, gatewaySays(message))
	x.replaced = gatewayErrorType(code)
	return nil
}

func gatewaySays(message string) string { return "Cloudflare AI Gateway: " + message }

// gatewayErrorType is Record.ErrorType for an error of the gateway itself.
func gatewayErrorType(code string) string {
	if code == "" {
		return "gateway"
	}
	return "gateway_" + code
}

// convertAnswer makes an answer in the client's protocol of the upstream's. Headers of the
// upstream's protocol do not survive.
func (x *exchange) convertAnswer(res *http.Response) *reply {
	x.nameRequest(res.Header)
	header.ConvertAnswer(res.Header, x.requestIDHeader())
	defer x.tellLosses(res.Header)
	switch {
	case res.StatusCode > 299:
		x.convertError(res)
		return nil
	case x.conversion.Stream():
		x.convertStream(res)
		return nil
	}
	return x.convertDocument(res)
}

// tellLosses names in an answer's head what its conversion, and that of its request, could not
// carry. Losses of a stream that come later are in the record alone.
func (x *exchange) tellLosses(h http.Header) {
	if dropped := x.conversion.Dropped(); len(dropped) > 0 {
		h.Set("X-Apex-Ai-Proxy-Dropped", header.Value(strings.Join(dropped, ", ")))
	}
}

func (x *exchange) convertError(res *http.Response) {
	head, _ := io.ReadAll(io.LimitReader(x.tap, maxError))
	e := convert.UpstreamError(res.StatusCode, head)
	fault := ""
	if res.StatusCode < 400 {
		fault = "http_protocol_error"
	}
	gateway := e.Gateway && x.mode == ModeGateway
	if gateway && !e.TooLong {
		e.Message = gatewaySays(e.Message)
	}
	x.failConversion(res, fault, e)
	if gateway {
		x.replaced = gatewayErrorType(e.Code)
	}
}

// failConversion answers with what went wrong in a conversion, or in what was converted.
func (x *exchange) failConversion(res *http.Response, fault string, e *convert.Error) {
	if e.NoRetry {
		res.Header.Set("X-Should-Retry", "false")
	}
	x.replaceError(res, e.Status, e.Class, fault, "", e.Message)
}

func (x *exchange) convertDocument(res *http.Response) *reply {
	defer x.held.Release()
	b, err := x.held.Read(x.tap, -1)
	switch {
	case errors.Is(err, body.ErrBusy):
		return noRoom()
	case err != nil:
		x.failConversion(res, "http_response_incomplete", &convert.Error{Status: 502, Class: protocol.Internal,
			Message: "the upstream's answer broke off or is too large to be converted"})
		return nil
	}
	document, failed := x.conversion.Document(b)
	if failed != nil {
		x.failConversion(res, "http_protocol_error", failed)
		return nil
	}
	replace(res, res.StatusCode, document)
	return nil
}

func (x *exchange) convertStream(res *http.Response) {
	events := x.conversion.Events(x.tap)
	events.Charge(x.held.Charge)
	if failed := events.Start(); failed != nil {
		x.failConversion(res, "http_protocol_error", failed)
		return
	}
	x.events = events
	res.Body = &converted{Events: events, tap: x.tap, http1: res.ProtoMajor == 1}
	res.ContentLength, res.Trailer = -1, nil
	res.Header.Set("Content-Type", "text/event-stream; charset=utf-8")
	res.Header.Set("Cache-Control", "no-cache")
	res.Header.Set("X-Accel-Buffering", "no")
}

// converted is the body of a converted stream, which ends at the upstream's own end mark: on
// HTTP/1.1 the connection can only be used again when the few bytes behind it were read too.
type converted struct {
	*convert.Events
	tap   *tap
	http1 bool
}

const drainTime = 100 * time.Millisecond

func (c *converted) Close() error {
	if x := c.tap.x; c.http1 && x.readErr == nil && c.Failed() == nil && x.r.Context().Err() == nil {
		relay.Drain(c.tap.body, 4<<10, drainTime)
	}
	return c.tap.Close()
}

func isGzip(encoding string) bool {
	return strings.EqualFold(encoding, "gzip") || strings.EqualFold(encoding, "x-gzip")
}

func isEventStream(h http.Header) bool {
	const want = "text/event-stream"
	typ := h.Get("Content-Type")
	return len(typ) >= len(want) && strings.EqualFold(typ[:len(want)], want)
}

// usageOnly recognises the chunk that stream_options.include_usage adds to a chat stream.
// https://platform.openai.com/docs/api-reference/chat/create
func usageOnly(data []byte) bool {
	if !bytes.Contains(data, []byte(`"usage"`)) || !rawjson.ValidObject(data) {
		return false
	}
	got := gjson.GetManyBytes(data, "choices", "usage")
	return got[0].IsArray() && len(got[0].Array()) == 0 && got[1].IsObject()
}

// listModels turns the gateway's list of models into what this proxy routes.
func (p *Proxy) listModels(x *exchange, res *http.Response) *reply {
	if x.r.Method == http.MethodHead {
		res.Header.Del("Content-Length") // it is that of the gateway's list
		return nil
	}
	defer x.held.Release()
	b, err := x.held.Read(x.tap, -1)
	if errors.Is(err, body.ErrBusy) {
		return noRoom()
	}
	id := ""
	if path := strings.TrimRight(x.r.URL.EscapedPath(), "/"); !strings.HasSuffix(path, "/models") {
		_, last := cutLast(path)
		id, _ = url.PathUnescape(last)
	}
	list, ok, found := p.gateway.modelList(b, x.client, id)
	switch {
	case err != nil || !ok:
		x.replaceError(res, 502, protocol.Internal, "http_protocol_error", "", "the gateway's list of models could not be read")
	case !found:
		x.refused = true
		x.replaceError(res, 404, protocol.NotFound, "http_request_error", "model_not_found", "no such model: GET …/models lists them")
	default:
		replace(res, 200, list)
	}
	return nil
}

// modelList turns the gateway's list into the client's protocol, with ids that this proxy routes:
// provider/name becomes name#provider. It picks the model id if that is not empty. ok is false when
// it is no such list, found when it has no such model.
// https://developers.cloudflare.com/ai-gateway/integrations/coding-agents/xcode/
func (g *gateway) modelList(list []byte, client protocol.Protocol, id string) (out []byte, ok, found bool) {
	data := gjson.GetBytes(list, "data")
	if rawjson.Scan(list, nil) != nil || !data.IsArray() {
		return nil, false, false
	}
	type model struct {
		ID          string `json:"id"`
		Object      string `json:"object,omitempty"`
		Created     *int64 `json:"created,omitempty"`
		OwnedBy     string `json:"owned_by,omitempty"`
		Type        string `json:"type,omitempty"`
		DisplayName string `json:"display_name,omitempty"`
		CreatedAt   string `json:"created_at,omitempty"`
	}
	models := []model{}
	for _, m := range data.Array() {
		name, provider, routed := g.routable(m.Get("id").Str)
		if !routed {
			continue
		}
		created := m.Get("created_at").Int()
		entry := model{ID: name + "#" + provider, Object: "model", Created: &created, OwnedBy: provider}
		if client == protocol.Messages {
			entry = model{ID: entry.ID, Type: "model", DisplayName: entry.ID, CreatedAt: time.Unix(created, 0).UTC().Format(time.RFC3339)}
		}
		if id == entry.ID {
			out, err := json.Marshal(entry)
			return out, err == nil, true
		}
		models = append(models, entry)
	}
	var page any = struct {
		Object string  `json:"object"`
		Data   []model `json:"data"`
	}{"list", models}
	if client == protocol.Messages {
		p := struct {
			Data    []model `json:"data"`
			HasMore bool    `json:"has_more"`
			FirstID *string `json:"first_id"`
			LastID  *string `json:"last_id"`
		}{Data: models}
		if n := len(models); n > 0 {
			p.FirstID, p.LastID = &models[0].ID, &models[n-1].ID
		}
		page = p
	}
	out, err := json.Marshal(page)
	return out, err == nil, id == ""
}

// routable splits an id of the gateway's list. One whose provider has no row is still reached
// through compat. Of rows with equally long prefixes the first by name counts.
func (g *gateway) routable(id string) (name, provider string, ok bool) {
	if id == "" || strings.Contains(id, "#") {
		return "", "", false
	}
	name, provider, longest := id, "compat", 0
	for _, row := range g.table {
		if rest, ok := strings.CutPrefix(id, row.Compat+"/"); ok && rest != "" && (len(row.Compat) > longest || len(row.Compat) == longest && row.Name < provider) {
			name, provider, longest = rest, row.Name, len(row.Compat)
		}
	}
	return name, provider, true
}
