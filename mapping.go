package apexproxy

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"net/http"
	"os"
	"strings"

	"github.com/tidwall/gjson"
	"github.com/tidwall/sjson"

	"github.com/loadchange/apexproxy/internal/body"
	"github.com/loadchange/apexproxy/internal/convert"
)

// mapping is a parsed list of from#to entries; of two with one from, the later
// counts.
type mapping []struct{ from, to string }

// parseMapping reads the grammar of X-APEX-AI-PROXY-MAPPING: from#to entries
// separated by commas. Spaces around parts and empty entries are ignored; to may
// itself end in #provider.
func parseMapping(s string) (mapping, error) {
	if s == "" {
		return nil, nil
	}
	var m mapping
	for entry := range strings.SplitSeq(s, ",") {
		entry = strings.TrimSpace(entry)
		if entry == "" {
			continue
		}
		from, to, found := strings.Cut(entry, "#")
		name, provider, named := strings.Cut(to, "#")
		from, name, provider = strings.TrimSpace(from), strings.TrimSpace(name), strings.TrimSpace(provider)
		if !found || from == "" || name == "" || named && (provider == "" || strings.Contains(provider, "#")) {
			return nil, fmt.Errorf("mapping entry %s is not from#to or from#to#provider", quoteShort(entry))
		}
		if named {
			name += "#" + provider
		}
		m = append(m, struct{ from, to string }{from, name})
	}
	return m, nil
}

func (m mapping) find(bare string) (to string, ok bool) {
	for i := len(m) - 1; i >= 0; i-- {
		if m[i].from == bare {
			return m[i].to, true
		}
	}
	return "", false
}

// quoteShort quotes a client's text for a message, cut to a readable length.
func quoteShort(s string) string {
	if len(s) > 80 {
		s = strings.ToValidUTF8(s[:80], "") + "…"
	}
	return fmt.Sprintf("%q", s)
}

// mapModel reads the body, finds the model in it, maps it, and completes the
// target with what only the model tells.
func (p *Proxy) mapModel(r *http.Request, x *exchange) *reply {
	header, err := parseMapping(strings.Join(r.Header[headerMapping], ","))
	if err != nil {
		return refuse(400, "invalid_mapping", "X-APEX-AI-PROXY-MAPPING: %v", err)
	}
	if x.rec.Operation == OperationModels {
		if x.rec.Mode == ModeGateway {
			return p.gateway.models(x, r)
		}
		return nil
	}
	if rp := p.readBody(r, x); rp != nil {
		return rp
	}
	mapped := func(bare string) (string, bool) {
		if to, ok := header.find(bare); ok {
			return to, true
		}
		return p.mapping.find(bare)
	}
	if x.rec.Mode == ModeGateway {
		return p.mapGateway(r, x, mapped)
	}
	return p.mapPassthrough(x, mapped, len(header)+len(p.mapping) > 0)
}

// readBody reads the client's body once, whole and bounded.
func (p *Proxy) readBody(r *http.Request, x *exchange) *reply {
	b, err := x.body.Read(x.in, r.ContentLength)
	x.rec.RequestBytes = int64(len(b))
	if err != nil {
		return p.unreadable(r, err)
	}
	x.sent = b
	x.encoding = strings.ToLower(strings.TrimSpace(strings.Join(r.Header["Content-Encoding"], ",")))
	if x.encoding == "identity" {
		x.encoding = ""
	}
	x.content.request(b)
	return nil
}

func (p *Proxy) unreadable(r *http.Request, err error) *reply {
	var tooLarge *http.MaxBytesError
	switch {
	case errors.Is(err, body.ErrTooLarge), errors.As(err, &tooLarge):
		return refuse(413, "request_too_large", "the request body is larger than %d bytes: send less", p.maxRequest)
	case errors.Is(err, body.ErrBusy):
		return refuse(503, "proxy_busy", "the proxy is holding as many request bodies as it may: try again").with("Retry-After", "1")
	case errors.Is(err, body.ErrEncoding):
		return refuse(400, "invalid_encoding", "the body is not the gzip that Content-Encoding says")
	case errors.Is(err, os.ErrDeadlineExceeded):
		return refuse(408, "request_timeout", "the request body did not arrive in time")
	case r.Context().Err() != nil, errors.Is(err, io.ErrUnexpectedEOF):
		rp := refuse(400, "client_closed", "the request body ended early")
		rp.status, rp.outcome = statusClientClosed, OutcomeClientClosed
		return rp
	default:
		return refuse(400, "invalid_body", "the request body could not be read")
	}
}

// parse returns the body as JSON text, inflated if it came as gzip, and where in
// it the members are that the proxy reads.
func (p *Proxy) parse(x *exchange) (b []byte, doc body.Doc, rp *reply) {
	b = x.sent
	switch {
	case isGzip(x.encoding):
		inflated, err := x.body.Inflate(b)
		if err != nil {
			return nil, doc, p.unreadable(x.request, err)
		}
		b = inflated
	case x.encoding != "":
		return nil, doc, refuse(415, "unsupported_encoding",
			"Content-Encoding %s cannot be read here: send the body as gzip or unencoded", quoteShort(x.encoding)).
			with("Accept-Encoding", "gzip, identity")
	}
	doc, err := body.Scan(b)
	var syntax *body.SyntaxError
	switch {
	case errors.As(err, &syntax):
		return nil, doc, refuse(400, "invalid_json", "the request body is not valid JSON at byte %d", syntax.Offset)
	case err != nil:
		return nil, doc, refuse(400, "invalid_json", "the request body is nested too deeply")
	}
	x.rec.Stream = doc.Stream.True(b)
	return b, doc, nil
}

var errDuplicateModel = refuse(400, "ambiguous_model", "the request body has more than one \"model\": send it once")

// mapGateway resolves name#provider and points the exchange at that provider.
func (p *Proxy) mapGateway(r *http.Request, x *exchange, mapped func(string) (string, bool)) *reply {
	b, doc, rp := p.parse(x)
	if rp != nil {
		return rp
	}
	model, isString := doc.Model.String(b)
	switch {
	case !doc.Object:
		return refuse(400, "invalid_json", "the request body must be a JSON object")
	case doc.Model.Count > 1:
		return errDuplicateModel
	case !isString || model == "":
		return refuse(400, "model_missing", "\"model\" must be a non-empty string: write it as name#provider")
	}
	x.rec.ClientModel = model
	if strings.Count(model, "#") > 1 {
		return refuse(400, "invalid_model", "model %s has more than one #: write it as name#provider", quoteShort(model))
	}
	bare, suffix, _ := strings.Cut(model, "#")
	resolved := model
	if to, ok := mapped(bare); ok {
		resolved = to
		if !strings.Contains(to, "#") && suffix != "" {
			resolved += "#" + suffix
		}
	}
	name, provider, _ := strings.Cut(resolved, "#")
	if name == "" || provider == "" {
		return refuse(400, "invalid_model", "model %s names no provider: write it as name#provider", quoteShort(model))
	}
	if rp := p.gateway.resolve(x, r, name, provider); rp != nil {
		return rp
	}
	return p.encode(x, b, doc)
}

// mapPassthrough maps an opaque model. Any valid JSON passes, and a body that
// cannot or need not be read stays exactly as it came.
func (p *Proxy) mapPassthrough(x *exchange, mapped func(string) (string, bool), inForce bool) *reply {
	if x.encoding != "" && !inForce && !x.rec.Converted {
		x.out = x.sent
		return nil
	}
	b, doc, rp := p.parse(x)
	if rp != nil {
		return rp
	}
	model, isString := doc.Model.String(b)
	x.rec.ClientModel, x.rec.RequestModel = model, model
	if doc.Model.Count > 1 && (inForce || x.rec.Converted) {
		return errDuplicateModel
	}
	bare, suffix, hashed := strings.Cut(model, "#")
	to, ok := mapped(bare)
	switch {
	case ok && isString:
		to, _, _ = strings.Cut(to, "#")
		if hashed {
			to += "#" + suffix
		}
		x.rec.RequestModel = strings.Clone(to)
	case x.encoding != "" && !x.rec.Converted:
		x.out = x.sent
		return nil
	default:
		doc.Model.Count = 0 // its bytes stay as they are
	}
	return p.encode(x, b, doc)
}

// encode makes the outbound body from the readable one.
func (p *Proxy) encode(x *exchange, b []byte, doc body.Doc) *reply {
	x.encoding = ""
	if x.rec.Converted {
		return p.convert(x, b)
	}
	if doc.Model.Count == 1 {
		b = body.Replace(b, doc.Model, x.rec.RequestModel)
	}
	switch {
	case x.rec.Operation == OperationMessages, x.rec.Operation == OperationCountTokens:
		b = convert.StripOwnThinking(b)
	case x.askUsage && x.rec.Stream && len(p.sinks) > 0:
		b, x.hide = askForUsage(b, doc.StreamOptions.Count)
	}
	if len(b) > len(x.sent) {
		// A longer one is a copy.
		if err := x.body.Charge(int64(len(b))); err != nil {
			return p.unreadable(x.request, err)
		}
	}
	x.out = b
	return nil
}

// convert makes a Chat Completions request of a Messages request, or answers
// what only Anthropic could have counted.
func (p *Proxy) convert(x *exchange, b []byte) *reply {
	if x.rec.Operation == OperationCountTokens {
		n, failed := convert.CountTokens(b)
		if failed != nil {
			return refuse(failed.Status, "invalid_request", "%s", failed.Message)
		}
		x.target, x.rec.UpstreamHost = target{}, ""
		return (&reply{status: 200, message: fmt.Sprintf(`{"input_tokens":%d}`, n), outcome: OutcomeCompleted}).
			with("X-Apex-Ai-Proxy-Estimate", "input_tokens")
	}
	provider := x.rec.Provider
	if x.rec.Mode == ModePassthrough {
		provider = ""
	}
	conv, failed := convert.MessagesToChat(b, convert.Params{
		Provider: provider, Model: x.rec.RequestModel, ClientModel: x.rec.ClientModel, Profile: x.profile,
		Strict: p.strict, EstimateInput: true,
	})
	if failed != nil {
		return refuse(failed.Status, "invalid_request", "%s", failed.Message)
	}
	x.conv, x.out = conv, conv.Body()
	x.rec.Dropped = conv.Dropped()
	if err := x.body.Charge(int64(cap(x.out))); err != nil {
		return p.unreadable(x.request, err)
	}
	return nil
}

// askForUsage sets stream_options.include_usage unless the client did, and
// reports whether it changed that. A stream_options that is no object, or that
// comes twice, is left to the client and the provider.
func askForUsage(b []byte, members int) ([]byte, bool) {
	if members == 0 {
		at := bytes.IndexByte(b, '{') + 1
		return body.Splice(b, at, at, []byte(`"stream_options":{"include_usage":true},`)), true
	}
	doc, err := body.Scan(b)
	m := doc.StreamOptions
	if err != nil || m.Count != 1 || b[m.Start] != '{' {
		return b, false
	}
	old := b[m.Start:m.End]
	if gjson.GetBytes(old, "include_usage").Type == gjson.True {
		return b, false
	}
	options, err := sjson.SetRawBytes(old, "include_usage", []byte("true"))
	if err != nil {
		return b, false
	}
	return body.Splice(b, m.Start, m.End, options), true
}
