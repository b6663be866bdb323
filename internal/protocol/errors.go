package protocol

import (
	"bytes"
	"encoding/json"
)

// Class is the kind of an error, in no protocol's words.
type Class uint8

// The classes. Each has a status that it is usually sent with.
const (
	InvalidRequest Class = iota // 400
	Authentication              // 401
	Billing                     // 402
	Permission                  // 403
	NotFound                    // 404
	SlowRequest                 // 408
	Conflict                    // 409
	TooLarge                    // 413
	RateLimit                   // 429
	Internal                    // 500
	Overloaded                  // 503, 529
	SlowUpstream                // 504
)

// words says how OpenAI's protocols and Anthropic's name a class. The Anthropic column is
// platform.claude.com/docs, "Errors". OpenAI has no official list: its column is what its own SDKs
// and servers use.
var words = [...]struct{ openAI, anthropic string }{
	InvalidRequest: {"invalid_request_error", "invalid_request_error"},
	Authentication: {"authentication_error", "authentication_error"},
	Billing:        {"insufficient_quota", "billing_error"},
	Permission:     {"permission_error", "permission_error"},
	NotFound:       {"not_found_error", "not_found_error"},
	SlowRequest:    {"timeout_error", "timeout_error"},
	Conflict:       {"conflict_error", "conflict_error"},
	TooLarge:       {"invalid_request_error", "request_too_large"},
	RateLimit:      {"rate_limit_error", "rate_limit_error"},
	Internal:       {"server_error", "api_error"},
	Overloaded:     {"server_error", "overloaded_error"},
	SlowUpstream:   {"server_error", "timeout_error"},
}

// ClassOf returns the class of an HTTP status: InvalidRequest for one below 500 that has no class
// of its own, Internal for any other.
func ClassOf(status int) Class {
	switch status {
	case 401:
		return Authentication
	case 402:
		return Billing
	case 403:
		return Permission
	case 404:
		return NotFound
	case 408:
		return SlowRequest
	case 409:
		return Conflict
	case 413:
		return TooLarge
	case 429:
		return RateLimit
	case 503, 529:
		return Overloaded
	case 504:
		return SlowUpstream
	}
	if status < 500 {
		return InvalidRequest
	}
	return Internal
}

// Word returns c as protocol p spells it: Anthropic's word for Messages, OpenAI's for all others.
func (c Class) Word(p Protocol) string {
	if p == Messages {
		return words[c].anthropic
	}
	return words[c].openAI
}

// Error renders an error as protocol p has it, with a line end. code is OpenAI's error.code, null
// when empty; requestID is Anthropic's request_id. What the protocol has no place for is left out.
func Error(p Protocol, c Class, code, message, requestID string) []byte {
	type anthropic struct {
		Type    string `json:"type"`
		Message string `json:"message"`
	}
	type openAI struct {
		Message string  `json:"message"`
		Type    string  `json:"type"`
		Code    *string `json:"code"`
	}
	var v any
	if p == Messages {
		v = struct {
			Type      string    `json:"type"`
			Error     anthropic `json:"error"`
			RequestID string    `json:"request_id"`
		}{"error", anthropic{c.Word(p), message}, requestID}
	} else {
		e := openAI{Message: message, Type: c.Word(p)}
		if code != "" {
			e.Code = &code
		}
		v = struct {
			Error openAI `json:"error"`
		}{e}
	}
	var b bytes.Buffer
	enc := json.NewEncoder(&b)
	enc.SetEscapeHTML(false)
	_ = enc.Encode(v) // strings never fail
	return b.Bytes()
}
