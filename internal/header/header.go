// Package header knows each header's fate: which ones of a client's request go upstream, which ones
// of an upstream's answer reach the client, and which values a record may show. Tables and pure
// functions.
package header

import (
	"maps"
	"net/http"
	"net/textproto"
	"slices"
	"strings"
)

// Redacted stands where a record would otherwise show a secret.
const Redacted = "[REDACTED]"

// ControlPrefix starts every header that steers this proxy. None goes upstream.
const ControlPrefix = "X-Apex-Ai-Proxy-"

const aigPrefix = "Cf-Aig-"

// credentials are the headers in which clients send keys. The gateway prefers any of them, even a
// dummy, over the key it has stored (Cloudflare, Unified Billing, "Credential precedence"), so none
// may reach it.
var credentials = set(
	"Authorization", "X-Api-Key", "Api-Key", "X-Goog-Api-Key", "Xi-Api-Key",
	"Ocp-Apim-Subscription-Key", "X-Amz-Security-Token",
)

// never goes upstream in any mode.
var never = set(
	"Cookie", "Forwarded", "X-Real-Ip", "True-Client-Ip", "Cdn-Loop", "Via", "Origin", "Referer",
	"Expect", // answered already, when the body was read
	aigPrefix+"Authorization",
)

// hopByHop belongs to one connection (RFC 9110 §7.6.1), in either direction.
var hopByHop = set(
	"Connection", "Proxy-Connection", "Keep-Alive", "Proxy-Authenticate", "Proxy-Authorization", "Te",
	"Trailer", "Transfer-Encoding", "Upgrade",
)

// common are names that most requests have, and that pass. They stand here to be found at once.
var common = set(
	"Accept", "Accept-Encoding", "Accept-Language", "Content-Type", "Content-Length", "User-Agent",
	"Anthropic-Version", "Anthropic-Beta", "Idempotency-Key", "Traceparent", "Sec-Fetch-Mode",
	"X-Stainless-Lang", "X-Stainless-Package-Version", "X-Stainless-Os", "X-Stainless-Arch",
	"X-Stainless-Runtime", "X-Stainless-Runtime-Version", "X-Stainless-Retry-Count", "X-Stainless-Timeout",
)

// DefaultForward is what passes of a client's cf-aig-* headers to the gateway unless the operator
// says otherwise. The rest would let a client pick a stored key, fake cost, switch logs off or
// poison a cache.
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

// Set returns the canonical forms of names as a set, for [ToGateway].
func Set(names []string) map[string]bool { return set(names...) }

// fate says what becomes of a request's header.
type fate uint8

const (
	passes     fate = iota + 1
	dropped         // in any mode
	credential      // goes to an upstream that the client named
	forAig          // goes there too, and to the gateway if it is on the list
)

// known holds the names that are known one by one.
var known = func() map[string]fate {
	m := map[string]fate{}
	for f, names := range map[fate][]map[string]bool{passes: {common}, dropped: {never, hopByHop}, credential: {credentials}} {
		for _, set := range names {
			for n := range set {
				m[n] = f
			}
		}
	}
	return m
}()

func fateOf(name string) fate {
	if f := known[name]; f != 0 {
		return f
	}
	n := textproto.CanonicalMIMEHeaderKey(name)
	switch f := known[n]; {
	case f != 0:
		return f
	case strings.HasPrefix(n, aigPrefix):
		return forAig
	case strings.HasPrefix(n, ControlPrefix), strings.HasPrefix(n, "X-Forwarded-"), strings.HasPrefix(n, "Cf-"):
		return dropped
	}
	return passes
}

// ToGateway returns what of a client's header may reach the gateway. forward names the cf-aig-*
// headers that pass; cf-aig-authorization never does. The values are shared with src.
func ToGateway(src http.Header, forward map[string]bool) http.Header {
	h := make(http.Header, len(src)+4)
	for name, values := range src {
		switch fateOf(name) {
		case passes:
			h[name] = values
		case forAig:
			if forward[textproto.CanonicalMIMEHeaderKey(name)] {
				h[name] = values
			}
		}
	}
	return endToEnd(h, src)
}

// ToUpstream returns what of a client's header may reach an upstream that it named. Its credentials
// are among it: they belong to that upstream. The values are shared with src.
func ToUpstream(src http.Header) http.Header {
	h := make(http.Header, len(src)+4)
	for name, values := range src {
		if fateOf(name) != dropped {
			h[name] = values
		}
	}
	return endToEnd(h, src)
}

// endToEnd takes out of h what src names in Connection. That the client takes trailers is said
// again, for the next connection.
func endToEnd(h, src http.Header) http.Header {
	deleteNamed(h, src["Connection"])
	for _, list := range src["Te"] {
		for coding := range strings.SplitSeq(list, ",") {
			if strings.EqualFold(textproto.TrimString(coding), "trailers") {
				h["Te"] = []string{"trailers"}
			}
		}
	}
	return h
}

func deleteNamed(h http.Header, connection []string) {
	for _, list := range connection {
		for name := range strings.SplitSeq(list, ",") {
			h.Del(textproto.TrimString(name))
		}
	}
}

// OfAnswer takes out of an upstream's header, or out of its trailers, what may not reach the
// client: what belongs to one connection, and what only this proxy may say, such as what the
// upstream said about its own origin (two values of Access-Control-Allow-Origin make browsers
// refuse an answer). Names are spelled as [http.Header] does, because a RoundTripper of the host's
// may not: net/http would write such a Content-Length beside its own. It returns h, or an empty
// header for nil.
func OfAnswer(h http.Header) http.Header {
	if h == nil {
		return http.Header{}
	}
	deleteNamed(h, h["Connection"])
	for name, values := range h {
		key := textproto.CanonicalMIMEHeaderKey(name)
		if key == name && mayAnswer(key) {
			continue
		}
		delete(h, name)
		if mayAnswer(key) {
			h[key] = append(h[key], values...)
		}
	}
	return h
}

// OfTrailer is [OfAnswer] for trailers, of which none may say how long the answer was (RFC 9110
// §6.5.1).
func OfTrailer(h http.Header) http.Header {
	h = OfAnswer(h)
	h.Del("Content-Length")
	return h
}

// Add adds src to dst, prefix before each name. Values that dst has stay; the others are shared
// with src.
func Add(dst, src http.Header, prefix string) {
	for name, values := range src {
		name = prefix + name
		if old := dst[name]; len(old) > 0 {
			values = append(old[:len(old):len(old)], values...)
		}
		dst[name] = values
	}
}

func mayAnswer(name string) bool {
	return !hopByHop[name] && !strings.HasPrefix(name, "Access-Control-") && !strings.HasPrefix(name, ControlPrefix)
}

// Announce returns the value of Trailer for what may reach the client of the trailers that an
// upstream announced, sorted.
func Announce(trailers http.Header) string {
	names := slices.Sorted(maps.Keys(trailers))
	return strings.Join(slices.DeleteFunc(names, func(n string) bool { return !mayAnswer(n) }), ", ")
}

// Convert removes from an outbound header what only the client's protocol knows, and puts an
// Anthropic client's key where Chat Completions upstreams look for it. A client's key is there in
// passthrough only: use it after [ToGateway] or [ToUpstream].
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

// ConvertAnswer leaves of an upstream's header what a client of another protocol can use: limits,
// retries, what the gateway says, and the request id under the name that the client looks for.
func ConvertAnswer(h http.Header, requestID string) {
	for name := range h {
		switch {
		case name == requestID, name == "Retry-After", name == "Retry-After-Ms", name == "X-Should-Retry",
			strings.HasPrefix(name, "X-Ratelimit-"), strings.HasPrefix(name, "Anthropic-Ratelimit-"), strings.HasPrefix(name, aigPrefix):
		default:
			delete(h, name)
		}
	}
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

// secret lists the headers whose values a record shows as [Redacted] although they are no
// credentials of a provider and do not sound like a secret.
var secret = set("Authentication-Info", "Cf-Access-Jwt-Assertion")

// soundsSecret reports whether a part of a header's name is a word for a secret. Too much redacted
// costs nothing.
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
