package convert

import (
	"bytes"
	"context"
	"errors"
	"net"
	"net/netip"
	"strconv"
	"strings"
	"unicode/utf8"

	"github.com/loadchange/apexproxy/internal/protocol"
	"github.com/loadchange/apexproxy/internal/rawjson"
)

// Error is an answer in place of a converted one, in no protocol's words.
type Error struct {
	Status int            // of the answer
	Class  protocol.Class // of what went wrong
	// Message is for the client. It names a field of the request, without its value, or is what the
	// provider said, with keys and internal addresses masked.
	Message string
	NoRetry bool   // answer with x-should-retry: false
	Code    string // of an upstream's error, digits or a word; empty when it has none
	Gateway bool   // Cloudflare AI Gateway made the error itself
	TooLong bool   // the prompt is: the message begins with the words by which clients know

	cause error
}

// Error returns status and class alone: what the provider said may repeat the prompt.
func (e *Error) Error() string {
	return "convert: " + strconv.Itoa(e.Status) + " " + e.Class.Word(protocol.Messages)
}

// Unwrap returns the read error behind e, if that is where it comes from.
func (e *Error) Unwrap() error { return e.cause }

func invalid(message string) *Error {
	return &Error{Status: 400, Class: protocol.InvalidRequest, Message: message}
}

func badAnswer(message string) *Error {
	return &Error{Status: 502, Class: protocol.Internal, Message: message}
}

func overloaded(message string) *Error {
	return &Error{Status: 529, Class: protocol.Overloaded, Message: message}
}

// readError is what a failed read of the upstream's answer means to the client.
func readError(err error) *Error {
	e := badAnswer("upstream stream ended before completion")
	var t net.Error
	if errors.Is(err, context.DeadlineExceeded) || errors.As(err, &t) && t.Timeout() {
		e = &Error{Status: 504, Class: protocol.SlowUpstream, Message: "upstream took too long to answer"}
	}
	e.cause = err
	return e
}

const maxErrorText = 2000

// UpstreamError makes the client's error out of an upstream's answer with a status that is no
// success, whatever form its body has. The class follows from the status, because providers put
// anything into their own types. See section 5.1 of the conversion specification. A status below
// 300 counts as 502. body is not retained.
func UpstreamError(status int, body []byte) *Error {
	body = rawjson.Trim(body)
	if len(body) > 0 && (body[0] == '{' || body[0] == '[') && rawjson.Valid(body) {
		return upstreamError(status, body)
	}
	msg := ""
	if utf8.Valid(body) {
		msg = string(body)
	}
	e := byStatus(status)
	e.explain(msg, status)
	return e
}

// upstreamError is UpstreamError for a JSON body.
func upstreamError(status int, doc rawjson.Value) *Error {
	if doc.IsArray() {
		doc = doc.First()
	}
	code, typ := errorCodes(doc)
	message := errorMessage(doc)
	gatewayCode, text, gateway := GatewayError(doc)
	if gateway {
		code, message = gatewayCode, text
		if code == "2005" && status == 400 {
			status = 502 // "Failed to get response from provider" hides a 5xx
		}
	}
	e := byStatus(status)
	e.Code, e.Gateway = code, gateway
	e.explain(message, status)
	if code == "context_length_exceeded" || typ == "context_length_exceeded" {
		e.tooLong()
	}
	for _, c := range []string{code, typ} {
		if c == "insufficient_quota" || c == "billing_hard_limit_reached" {
			e.NoRetry = true
		}
	}
	return e
}

// GatewayError recognises the error envelopes that Cloudflare AI Gateway makes itself
// (AiGatewayError, v4 errors, policy objects) and returns their code, digits or empty, and their
// message, with keys and internal addresses masked. A provider's own error is none of them. body
// may be any bytes.
// https://developers.cloudflare.com/ai-gateway/reference/troubleshooting/
func GatewayError(body []byte) (code, message string, ok bool) {
	doc := rawjson.Value(rawjson.Trim(body))
	if !rawjson.ValidObject(doc) {
		return "", "", false
	}
	e := doc.Get("error")
	first := e.First()
	refused := doc.Get("success").IsFalse()
	switch {
	case doc.Get("name").Is("AiGatewayError"), doc.Get("internalCode") != nil:
	case refused && doc.Get("errors").IsArray():
		first = doc.Get("errors").First()
	case refused && first.IsObject():
	case refused && e.IsObject():
		first = e
	default:
		return "", "", false
	}
	number := first.Get("code")
	if !number.IsNumber() {
		number = doc.Get("internalCode")
	}
	if number.IsNumber() && len(number) < 10 {
		code = string(number)
	}
	if message = string(first.Get("message").Decode()); message == "" {
		message = string(doc.Get("message").Decode())
	}
	switch {
	case code == "2040":
		// The original lists every key alias of the account.
		message = "the gateway knows no stored key with this alias"
	case message == "":
		message = "the gateway refused the request"
	}
	return code, mask(bounded(message)), true
}

// bounded bounds a provider's text.
func bounded(s string) string {
	if len(s) > maxErrorText {
		s = strings.ToValidUTF8(s[:maxErrorText], "")
	}
	return s
}

// payloadError is for an error inside an answer of status 200: the status comes from a code in it,
// else from its type.
func payloadError(doc rawjson.Value) *Error {
	if doc.IsArray() {
		doc = doc.First()
	}
	code, typ := errorCodes(doc)
	if n, err := strconv.Atoi(code); err == nil && n >= 400 && n <= 599 {
		return upstreamError(n, doc)
	}
	status := 502
	for _, c := range []string{code, typ} {
		if s := statusOfCode(c); s != 0 {
			status = s
			break
		}
	}
	return upstreamError(status, doc)
}

func statusOfCode(c string) int {
	switch c {
	case "rate_limit_exceeded", "insufficient_quota", "rate_limit_error":
		return 429
	case "server_is_overloaded", "slow_down", "service_unavailable_error":
		return 529
	case "invalid_request_error", "invalid_prompt", "context_length_exceeded":
		return 400
	case "authentication_error":
		return 401
	case "permission_error":
		return 403
	case "not_found_error":
		return 404
	}
	switch {
	case strings.HasPrefix(c, "overloaded"):
		return 529
	case strings.HasPrefix(c, "timeout"):
		return 504
	}
	return 0
}

// byStatus returns the error that an upstream's status stands for. Clients of Messages retry on 529
// and know no 503; what only an edge in front of the provider says becomes 502 or 504.
func byStatus(status int) *Error {
	switch {
	case status == 422:
		status = 400
	case status == 503:
		status = 529
	case status == 522, status == 524:
		status = 504
	case status < 400, status > 500 && status != 504 && status != 529:
		status = 502
	}
	return &Error{Status: status, Class: protocol.ClassOf(status)}
}

// explain sets the message, or a general one in place of an empty one.
func (e *Error) explain(msg string, status int) {
	msg = strings.TrimSpace(msg)
	if looksLikeHTML(msg) {
		msg = ""
	}
	msg = bounded(msg)
	e.Message = mask(msg)
	if e.Message == "" {
		e.Message = "upstream returned HTTP " + strconv.Itoa(status)
	}
	if e.Status == 400 || e.Status == 413 {
		low := strings.ToLower(msg)
		for _, words := range []string{"maximum context length", "context window", "prompt is too long", "too many tokens"} {
			if strings.Contains(low, words) {
				e.tooLong()
				return
			}
		}
	}
}

// tooLong uses the words on which Claude Code compacts the conversation; without them the session
// is stuck.
func (e *Error) tooLong() {
	const words = "prompt is too long"
	e.Status, e.Class, e.TooLong = 400, protocol.InvalidRequest, true
	if !strings.HasPrefix(e.Message, words) {
		e.Message = words + ": " + e.Message
	}
}

// errorMessage finds the text in any of the forms that gateways and providers use.
func errorMessage(doc rawjson.Value) string {
	e := doc.Get("error")
	for _, v := range []rawjson.Value{
		e.Get("message"), e, e.First().Get("message"), doc.Get("errors").First().Get("message"),
		doc.Get("message"), doc.Get("detail"), doc.Get("detail").First().Get("msg"),
	} {
		if s := v.Decode(); len(bytes.TrimSpace(s)) > 0 {
			return string(s)
		}
	}
	return ""
}

// errorCodes returns code and type of an error, a number as its digits.
func errorCodes(doc rawjson.Value) (code, typ string) {
	e := doc.Get("error")
	switch e.Kind() {
	case '{':
	case '[':
		e = e.First()
	default:
		if e = doc.Get("errors").First(); e == nil {
			e = doc
		}
	}
	word := func(name string) string {
		v := e.Get(name)
		if v == nil {
			v = doc.Get(name)
		}
		if v.IsString() {
			return string(v.Decode())
		}
		return string(v)
	}
	if code = word("code"); code == "" || code == "null" {
		code = word("internalCode")
	}
	return code, word("type")
}

// isErrorPayload reports whether a document that came with status 200 is an error.
func isErrorPayload(doc rawjson.Value) bool {
	if doc.IsArray() {
		doc = doc.First()
	}
	for name, v := range doc.Members() {
		if saysError(string(name), v) {
			return true
		}
	}
	return false
}

// saysError reports whether a member makes an error of the object that holds it.
func saysError(name string, v rawjson.Value) bool {
	switch name {
	case "error":
		return truthy(v)
	case "object", "type":
		return v.Is("error")
	case "success":
		return v.IsFalse()
	}
	return false
}

func truthy(v rawjson.Value) bool {
	switch string(v) {
	case "", "null", "false", `""`, "0":
		return false
	}
	return true
}

func looksLikeHTML(s string) bool {
	low := strings.ToLower(s[:min(len(s), 1024)])
	return strings.HasPrefix(low, "<") || strings.Contains(low, "<html") || strings.Contains(low, "<body")
}

// keyPrefixes begin the API keys of providers.
var keyPrefixes = []string{"sk-", "gsk_", "xai-", "csk-", "pplx-", "AIza", "AKIA", "cfut_"}

// mask replaces what looks like a key or an internal address in a provider's text.
func mask(s string) string {
	if !strings.ContainsAny(s, "-_.:A") {
		return s
	}
	var out strings.Builder
	for len(s) > 0 {
		n := strings.IndexFunc(s, isWordByte)
		if n < 0 {
			break
		}
		out.WriteString(s[:n])
		s = s[n:]
		end := strings.IndexFunc(s, func(r rune) bool { return !isWordByte(r) })
		if end < 0 {
			end = len(s)
		}
		out.WriteString(maskWord(s[:end]))
		s = s[end:]
	}
	return out.String() + s
}

func isWordByte(r rune) bool {
	return r >= 'a' && r <= 'z' || r >= 'A' && r <= 'Z' || r >= '0' && r <= '9' || strings.ContainsRune("-_.:*", r)
}

func maskWord(w string) string {
	host := strings.TrimRight(w, ".:")
	for _, p := range keyPrefixes {
		if len(host) >= 12 && strings.HasPrefix(host, p) {
			return "[masked]" + w[len(host):]
		}
	}
	addr, err := netip.ParseAddr(host)
	if err != nil {
		ap, err := netip.ParseAddrPort(host)
		if err != nil {
			return w
		}
		addr = ap.Addr()
	}
	if addr.IsPrivate() || addr.IsLoopback() || addr.IsLinkLocalUnicast() {
		return "[masked]" + w[len(host):]
	}
	return w
}
