package apexproxy

import (
	"bytes"
	"context"
	"crypto/tls"
	"encoding/json"
	"errors"
	"fmt"
	"net"
	"net/http"
	"strings"
	"syscall"

	"github.com/tidwall/gjson"

	"github.com/loadchange/apexproxy/internal/guard"
)

// reply is an answer that the proxy makes itself. As an error it carries such an
// answer out of a RoundTripper.
type reply struct {
	status  int
	fault   string  // RFC 9209 §2.3 error type; empty for an answer that is no error
	code    string  // ours or the gateway's, low cardinality: OpenAI's error.code and Record.ErrorType
	message string  // for the client: says what to change, holds no secret, no address, no Go error
	outcome Outcome // how the exchange ends with it
	header  http.Header
}

func (rp *reply) Error() string { return "apexproxy: " + rp.code }

// refuse makes the reply for a request that the proxy does not send on.
func refuse(status int, code, format string, args ...any) *reply {
	fault := "http_request_error"
	switch status {
	case http.StatusUnauthorized, http.StatusForbidden:
		fault = "http_request_denied"
	case http.StatusServiceUnavailable:
		fault = "proxy_internal_response"
	}
	return &reply{status: status, fault: fault, code: code, message: fmt.Sprintf(format, args...), outcome: OutcomeRejected}
}

func (rp *reply) with(name, value string) *reply {
	if rp.header == nil {
		rp.header = http.Header{}
	}
	rp.header.Set(name, value)
	return rp
}

// dialect is the form in which a client expects errors.
type dialect int

const (
	dialectOpenAI dialect = iota
	dialectAnthropic
)

// errorTypes says how each dialect names the class of a status. The Anthropic
// column is platform.claude.com/docs, "Errors"; OpenAI's has no official list,
// so its column is what its own SDKs and servers use.
var errorTypes = map[int][2]string{
	400: {"invalid_request_error", "invalid_request_error"},
	401: {"authentication_error", "authentication_error"},
	402: {"insufficient_quota", "billing_error"},
	403: {"permission_error", "permission_error"},
	404: {"not_found_error", "not_found_error"},
	408: {"timeout_error", "timeout_error"},
	409: {"conflict_error", "conflict_error"},
	413: {"invalid_request_error", "request_too_large"},
	429: {"rate_limit_error", "rate_limit_error"},
	500: {"server_error", "api_error"},
	502: {"server_error", "api_error"},
	503: {"server_error", "overloaded_error"},
	504: {"server_error", "timeout_error"},
	529: {"server_error", "overloaded_error"},
}

func errorType(d dialect, status int) string {
	t, ok := errorTypes[status]
	switch {
	case ok:
	case status >= 500:
		t = errorTypes[500]
	default:
		t = errorTypes[400]
	}
	return t[d]
}

// errorBody renders an error in the client's dialect. An empty typ is taken
// from the status, an empty code is null.
func errorBody(d dialect, status int, typ, code, message, requestID string) []byte {
	if typ == "" {
		typ = errorType(d, status)
	}
	var v any
	if d == dialectAnthropic {
		type inner struct {
			Type    string `json:"type"`
			Message string `json:"message"`
		}
		v = struct {
			Type      string `json:"type"`
			Error     inner  `json:"error"`
			RequestID string `json:"request_id"`
		}{"error", inner{typ, message}, requestID}
	} else {
		type inner struct {
			Message string  `json:"message"`
			Type    string  `json:"type"`
			Code    *string `json:"code"`
		}
		in := inner{Message: message, Type: typ}
		if code != "" {
			in.Code = &code
		}
		v = struct {
			Error inner `json:"error"`
		}{in}
	}
	var b bytes.Buffer
	enc := json.NewEncoder(&b)
	enc.SetEscapeHTML(false)
	_ = enc.Encode(v) // strings never fail
	return b.Bytes()
}

// write sends rp to the client and notes it in the record.
func (p *Proxy) write(x *exchange, rp *reply) {
	w, r := x.writer, x.request
	x.rec.StatusCode = rp.status
	x.rec.Outcome = rp.outcome
	x.extendWrite()
	h := w.Header()
	if x.sent == nil && r.ContentLength != 0 && r.ProtoMajor == 1 {
		// Otherwise the server waits for the body that nobody read before it
		// lets the answer out.
		h.Set("Connection", "close")
	}
	for name, values := range rp.header {
		h[name] = values
	}
	if r.Method == http.MethodOptions {
		p.cors.Preflight(h, r.Header)
	} else {
		p.cors.Apply(h, r.Header.Get("Origin"))
	}
	body := []byte(rp.message)
	if rp.fault != "" {
		x.rec.ErrorType = rp.code
		h.Set("Proxy-Status", "apexproxy; error="+rp.fault)
		body = errorBody(x.dialect, rp.status, "", rp.code, rp.message, x.rec.ID)
		if x.dialect == dialectAnthropic {
			h.Set("Request-Id", x.rec.ID)
		} else {
			h.Set("X-Request-Id", x.rec.ID)
		}
	}
	if len(body) > 0 {
		h.Set("Content-Type", "application/json")
		h.Set("X-Content-Type-Options", "nosniff")
	}
	w.WriteHeader(rp.status)
	if r.Method != http.MethodHead {
		n, _ := w.Write(body)
		x.rec.ResponseBytes = int64(n)
		x.content.response(body)
	}
	x.content.responseHead(h)
}

// unreachable says in our words why no answer came from the upstream.
func unreachable(err error) *reply {
	var (
		rp      *reply
		dns     *net.DNSError
		op      *net.OpError
		cert    *tls.CertificateVerificationError
		record  tls.RecordHeaderError
		timeout net.Error
	)
	bad := func(status int, outcome Outcome, fault, message string) *reply {
		return &reply{status: status, outcome: outcome, fault: fault, code: fault, message: message}
	}
	switch {
	case errors.As(err, &rp):
		return rp
	case errors.Is(err, guard.ErrBlocked):
		return bad(403, OutcomeRejected, "destination_ip_prohibited",
			"the host in X-APEX-AI-PROXY-PROVIDER has no public address: name a public host")
	case errors.As(err, &cert):
		return bad(502, OutcomeUpstreamError, "tls_certificate_error", "the upstream's certificate could not be verified")
	case errors.As(err, &record):
		return bad(502, OutcomeUpstreamError, "tls_protocol_error", "the upstream does not speak TLS on this port")
	case errors.As(err, &op) && op.Op == "remote error": // how crypto/tls reports an alert
		return bad(502, OutcomeUpstreamError, "tls_alert_received", "the upstream refused the TLS handshake")
	case errors.Is(err, context.DeadlineExceeded), errors.As(err, &timeout) && timeout.Timeout():
		if errors.As(err, &op) && op.Op == "dial" {
			return bad(504, OutcomeTimeout, "connection_timeout", "the upstream could not be reached in time: try again")
		}
		return bad(504, OutcomeTimeout, "http_response_timeout", "the upstream did not answer in time: try again")
	case errors.As(err, &dns):
		return bad(502, OutcomeUpstreamError, "dns_error", "the upstream's name could not be resolved: check the host")
	case errors.Is(err, syscall.ECONNREFUSED):
		return bad(502, OutcomeUpstreamError, "connection_refused", "the upstream refused the connection: check host and port")
	case errors.As(err, &op) && op.Op == "dial":
		return bad(502, OutcomeUpstreamError, "destination_unavailable", "the upstream could not be reached: check host and port")
	default:
		return bad(502, OutcomeUpstreamError, "connection_terminated", "the upstream closed the connection before it answered: try again")
	}
}

// gatewayErrorType is Record.ErrorType for an error of the gateway itself.
func gatewayErrorType(code string) string {
	if code == "" {
		return "gateway"
	}
	return "gateway_" + code
}

// gatewayError recognises the error envelopes that Cloudflare makes itself
// (AiGatewayError, v4 errors, policy objects) and returns their code and their
// message. A provider's own error is none of them.
// https://developers.cloudflare.com/ai-gateway/reference/troubleshooting/
func gatewayError(body []byte) (code, message string, ok bool) {
	if !gjson.ValidBytes(body) {
		return "", "", false
	}
	doc := gjson.ParseBytes(body)
	if !doc.IsObject() {
		return "", "", false
	}
	first := doc.Get("error.0")
	switch {
	case doc.Get("name").Str == "AiGatewayError", doc.Get("internalCode").Exists():
	case doc.Get("success").Type == gjson.False && doc.Get("errors").IsArray():
		first = doc.Get("errors.0")
	case doc.Get("success").Type == gjson.False && first.IsObject():
	case doc.Get("success").Type == gjson.False && doc.Get("error").IsObject():
		first = doc.Get("error")
	default:
		return "", "", false
	}
	number := first.Get("code")
	if number.Type != gjson.Number {
		number = doc.Get("internalCode")
	}
	if number.Type == gjson.Number {
		code = number.Raw
	}
	message = first.Get("message").Str
	if message == "" {
		message = doc.Get("message").Str
	}
	switch {
	case code == "2040":
		// The original lists every key alias of the account.
		message = "the gateway knows no stored key with this alias"
	case message == "":
		message = "the gateway refused the request"
	}
	return code, strings.TrimSpace("Cloudflare AI Gateway: " + message), true
}
