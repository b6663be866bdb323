// Package header knows each header's fate: which ones of a client's request go
// upstream, and which values a record may show. Tables and pure functions.
package header

import (
	"net/http"
	"net/textproto"
	"strings"
)

// Redacted stands where a record would otherwise show a secret.
const Redacted = "[REDACTED]"

// ControlPrefix starts every header that steers this proxy. None goes upstream.
const ControlPrefix = "X-Apex-Ai-Proxy-"

const aigPrefix = "Cf-Aig-"

// credentials are the headers in which clients send keys. The gateway prefers
// any of them, even a dummy, over the key it has stored (Cloudflare, Unified
// Billing, "Credential precedence"), so none may reach it.
var credentials = set(
	"Authorization", "X-Api-Key", "Api-Key", "X-Goog-Api-Key", "Xi-Api-Key",
	"Ocp-Apim-Subscription-Key", "X-Amz-Security-Token",
)

// never goes upstream in any mode. Hop-by-hop headers and what Connection names
// are not here: httputil.ReverseProxy removed them before we look.
var never = set(
	"Cookie", "Proxy-Authorization", "Forwarded", "X-Real-Ip", "True-Client-Ip",
	"Cdn-Loop", "Via", "Origin", "Referer", "Upgrade",
)

// DefaultForward is what passes of a client's cf-aig-* headers to the gateway
// unless the operator says otherwise. The rest would let a client pick a
// stored key, fake cost, switch logs off or poison a cache.
var DefaultForward = []string{
	"Cf-Aig-Cache-Ttl", "Cf-Aig-Skip-Cache", "Cf-Aig-Request-Timeout",
	"Cf-Aig-Max-Attempts", "Cf-Aig-Retry-Delay", "Cf-Aig-Backoff",
	"Cf-Aig-Event-Id", "Cf-Aig-Metadata",
	"Cf-Aig-Otel-Trace-Id", "Cf-Aig-Otel-Parent-Span-Id",
}

func set(names ...string) map[string]bool {
	m := make(map[string]bool, len(names))
	for _, n := range names {
		m[textproto.CanonicalMIMEHeaderKey(n)] = true
	}
	return m
}

// Set returns the canonical forms of names as a set, for [Gateway].
func Set(names []string) map[string]bool { return set(names...) }

// Gateway removes from h what must not reach the gateway. forward names the
// cf-aig-* headers that pass; cf-aig-authorization never does.
func Gateway(h http.Header, forward map[string]bool) {
	for name := range h {
		n := textproto.CanonicalMIMEHeaderKey(name)
		if dropped(n) || credentials[n] || strings.HasPrefix(n, aigPrefix) && (!forward[n] || n == aigPrefix+"Authorization") {
			delete(h, name)
		}
	}
}

// Passthrough removes from h what must not reach an upstream that the client
// named. The client's credentials stay: they belong to that upstream.
func Passthrough(h http.Header) {
	for name := range h {
		n := textproto.CanonicalMIMEHeaderKey(name)
		if dropped(n) || n == aigPrefix+"Authorization" {
			delete(h, name)
		}
	}
}

// Convert removes from an outbound header what only the client's protocol knows,
// and puts an Anthropic client's key where Chat Completions upstreams look for
// it. A client's key is there in passthrough only: use it after [Gateway] or
// [Passthrough].
func Convert(h http.Header) {
	for name := range h {
		if strings.HasPrefix(name, "Anthropic-") {
			delete(h, name)
		}
	}
	if key := h.Get("X-Api-Key"); key != "" && h.Get("Authorization") == "" {
		h.Set("Authorization", "Bearer "+key)
	}
	h.Del("X-Api-Key")
}

// ConvertAnswer leaves of an upstream's header what a client of another protocol
// can use: ids, limits, retries, and what the gateway says. Clients of Messages
// read request-id; without one from upstream it is id.
func ConvertAnswer(h http.Header, id string) {
	for _, name := range []string{"X-Request-Id", "Request-Id"} {
		if v := h.Get(name); v != "" {
			id = v
		}
	}
	for name := range h {
		switch {
		case name == "Retry-After", name == "Retry-After-Ms", name == "X-Should-Retry",
			strings.HasPrefix(name, "X-Ratelimit-"), strings.HasPrefix(name, "Anthropic-Ratelimit-"), strings.HasPrefix(name, aigPrefix):
		default:
			delete(h, name)
		}
	}
	h.Set("Request-Id", id)
}

// Value makes a header value of s: printable ASCII, of bounded length.
func Value(s string) string {
	s = strings.Map(func(c rune) rune {
		if c < ' ' || c > '~' {
			return '_'
		}
		return c
	}, s)
	return s[:min(len(s), 2048)]
}

func dropped(n string) bool {
	switch {
	case never[n],
		strings.HasPrefix(n, ControlPrefix),
		strings.HasPrefix(n, "X-Forwarded-"),
		strings.HasPrefix(n, "Cf-") && !strings.HasPrefix(n, aigPrefix):
		return true
	}
	return false
}

// secret lists the headers whose values a record shows as [Redacted] although
// they are no credentials of a provider and do not sound like a secret.
var secret = set("Authentication-Info", "Cf-Access-Jwt-Assertion")

// soundsSecret reports whether a part of a header's name is a word for a secret.
// Too much redacted costs nothing.
func soundsSecret(name string) bool {
	if name == "Idempotency-Key" {
		return false
	}
	for part := range strings.FieldsFuncSeq(name, func(c rune) bool { return c == '-' || c == '_' }) {
		switch strings.ToLower(part) {
		case "key", "apikey", "token", "secret", "auth", "authorization", "password", "credential", "credentials", "cookie":
			return true
		}
	}
	return false
}

// Redact returns a copy of h in which every secret value is [Redacted].
func Redact(h http.Header) http.Header {
	out := make(http.Header, len(h))
	for name, values := range h {
		n := textproto.CanonicalMIMEHeaderKey(name)
		if credentials[n] || secret[n] || soundsSecret(n) {
			out[name] = []string{Redacted}
			continue
		}
		out[name] = append([]string(nil), values...)
		for i, v := range out[name] {
			switch {
			case n == "Referer" || n == "Location":
				if path, query, ok := strings.Cut(v, "?"); ok {
					out[name][i] = path + "?" + RedactQuery(query)
				}
			case n == ControlPrefix+"Provider" && strings.Contains(v, "@"):
				out[name][i] = Redacted // refused, and maybe user:password
			}
		}
	}
	return out
}
