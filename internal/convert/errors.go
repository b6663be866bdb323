package convert

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"net"
	"net/netip"
	"strconv"
	"strings"
	"unicode/utf8"
)

// Error is an answer in place of a converted one, in the terms of an Anthropic client.
type Error struct {
	Status int    // of the answer
	Type   string // Anthropic's error type
	// Message is for the client. It names a field of the request, without its value, or is what the provider said, with
	// keys and internal addresses masked.
	Message string
	NoRetry bool // answer with x-should-retry: false

	cause error
}

// Error returns status and type alone: what the provider said may repeat the prompt.
func (e *Error) Error() string { return "convert: " + strconv.Itoa(e.Status) + " " + e.Type }

// Unwrap returns the read error behind e, if that is where it comes from.
func (e *Error) Unwrap() error { return e.cause }

func invalid(message string) *Error {
	return &Error{Status: 400, Type: "invalid_request_error", Message: message}
}

func badAnswer(message string) *Error {
	return &Error{Status: 502, Type: "api_error", Message: message}
}

// readError is what a failed read of the upstream's answer means to the client.
func readError(err error) *Error {
	e := badAnswer("upstream stream ended before completion")
	var t net.Error
	if errors.Is(err, context.DeadlineExceeded) || errors.As(err, &t) && t.Timeout() {
		e = &Error{Status: 504, Type: "timeout_error", Message: "upstream took too long to answer"}
	}
	e.cause = err
	return e
}

const maxErrorText = 2000

// UpstreamError makes the client's error out of an upstream's answer with a status that is no success, whatever form its
// body has. The type follows from the status, because providers put anything into their own types. See section 5.1 of
// the conversion specification. A status below 300 counts as 502. body is not retained.
func UpstreamError(status int, body []byte) *Error {
	body = trim(body)
	if len(body) > 0 && (body[0] == '{' || body[0] == '[') && json.Valid(body) {
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
func upstreamError(status int, doc []byte) *Error {
	if kind(doc) == '[' {
		doc = firstElement(doc)
	}
	code, typ := errorCodes(doc)
	if code == "2005" && status == 400 {
		status = 502 // the gateway's "Failed to get response from provider" hides a 5xx
	}
	e := byStatus(status)
	if code == "2040" {
		// The gateway's text lists the configured key aliases.
		e.Message = "the gateway does not know the key alias of this request"
		return e
	}
	e.explain(errorMessage(doc), status)
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

// payloadError is for an error inside an answer of status 200: the status comes from a code in it, else from its type.
func payloadError(doc []byte) *Error {
	if kind(doc) == '[' {
		doc = firstElement(doc)
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

func byStatus(status int) *Error {
	e := &Error{Status: status}
	switch status {
	case 400, 422:
		e.Status, e.Type = 400, "invalid_request_error"
	case 401:
		e.Type = "authentication_error"
	case 402:
		e.Type = "billing_error"
	case 403:
		e.Type = "permission_error"
	case 404:
		e.Type = "not_found_error"
	case 408:
		e.Type = "timeout_error"
	case 409:
		e.Type = "conflict_error"
	case 413:
		e.Type = "request_too_large"
	case 429:
		e.Type = "rate_limit_error"
	case 503, 529:
		e.Status, e.Type = 529, "overloaded_error"
	case 504, 522, 524:
		e.Status, e.Type = 504, "timeout_error"
	case 500:
		e.Type = "api_error"
	default:
		if status >= 400 && status < 500 {
			e.Type = "invalid_request_error"
		} else {
			e.Status, e.Type = 502, "api_error"
		}
	}
	return e
}

// explain sets the message, or a general one in place of an empty one.
func (e *Error) explain(msg string, status int) {
	msg = strings.TrimSpace(msg)
	if looksLikeHTML(msg) {
		msg = ""
	}
	if len(msg) > maxErrorText {
		msg = strings.ToValidUTF8(msg[:maxErrorText], "")
	}
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

// tooLong uses the words on which Claude Code compacts the conversation; without them the session is stuck.
func (e *Error) tooLong() {
	const words = "prompt is too long"
	e.Status, e.Type = 400, "invalid_request_error"
	if !strings.HasPrefix(e.Message, words) {
		e.Message = words + ": " + e.Message
	}
}

// errorMessage finds the text in any of the forms that gateways and providers use.
func errorMessage(doc []byte) string {
	e := get(doc, "error")
	for _, raw := range [][]byte{
		get(e, "message"), e, get(firstElement(e), "message"), get(firstElement(get(doc, "errors")), "message"),
		get(doc, "message"), get(doc, "detail"), get(firstElement(get(doc, "detail")), "msg"),
	} {
		if s := text(raw); len(bytes.TrimSpace(s)) > 0 {
			return string(s)
		}
	}
	return ""
}

// errorCodes returns code and type of an error, a number as its digits.
func errorCodes(doc []byte) (code, typ string) {
	e := get(doc, "error")
	switch kind(e) {
	case '{':
	case '[':
		e = firstElement(e)
	default:
		if e = firstElement(get(doc, "errors")); e == nil {
			e = doc
		}
	}
	word := func(name string) string {
		raw := get(e, name)
		if raw == nil {
			raw = get(doc, name)
		}
		if isString(raw) {
			return string(text(raw))
		}
		return string(raw)
	}
	if code = word("code"); code == "" || code == "null" {
		code = word("internalCode")
	}
	return code, word("type")
}

func firstElement(raw []byte) []byte {
	r := reader{b: raw}
	if r.enter('[') && r.more(']') {
		return r.value()
	}
	return nil
}

// isErrorPayload reports whether a document that came with status 200 is an error.
func isErrorPayload(doc []byte) bool {
	if kind(doc) == '[' {
		doc = firstElement(doc)
	}
	r := reader{b: doc}
	if !r.enter('{') {
		return false
	}
	for r.more('}') {
		switch k, v := r.key(), r.value(); string(k) {
		case "error":
			if truthy(v) {
				return true
			}
		case "object", "type":
			if string(text(v)) == "error" {
				return true
			}
		case "success":
			if string(v) == "false" {
				return true
			}
		}
	}
	return false
}

func truthy(raw []byte) bool {
	switch string(raw) {
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
