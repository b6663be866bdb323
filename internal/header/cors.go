package header

import (
	"fmt"
	"net/http"
	"net/url"
	"slices"
	"strings"
)

// CORS answers browsers. The zero value allows no origin and sets nothing.
type CORS struct {
	any     bool
	origins []string
}

// NewCORS returns a policy for origins: "*" for any, or exact ones such as
// "https://app.example.com".
func NewCORS(origins []string) (CORS, error) {
	c := CORS{origins: slices.Clone(origins), any: slices.Contains(origins, "*")}
	for _, o := range origins {
		u, err := url.Parse(o)
		if o != "*" && (err != nil || u.Scheme == "" || u.Host == "" || u.Scheme+"://"+strings.ToLower(u.Host) != o || strings.Contains(o, "*")) {
			return CORS{}, fmt.Errorf(`%q is not an origin: write "*" or scheme://host[:port]`, o)
		}
	}
	return c, nil
}

// exposed are the answer headers that scripts may read: request ids, limits, retries and what the
// gateway says. A wildcard would not do for all browsers.
var exposed = func() string {
	names := []string{
		"request-id", "x-request-id", "retry-after", "retry-after-ms", "x-should-retry",
		"proxy-status", "x-apex-ai-proxy-dropped", "x-apex-ai-proxy-estimate",
		"cf-aig-log-id", "cf-aig-event-id", "cf-aig-request-id", "cf-aig-cache-status", "cf-aig-step", "cf-aig-model", "cf-aig-provider",
		"anthropic-ratelimit-unified-status", "anthropic-ratelimit-unified-reset",
	}
	for _, what := range []string{"requests", "tokens"} {
		for _, kind := range []string{"limit", "remaining", "reset"} {
			names = append(names, "x-ratelimit-"+kind+"-"+what)
		}
	}
	for _, what := range []string{"requests", "tokens", "input-tokens", "output-tokens"} {
		for _, kind := range []string{"limit", "remaining", "reset"} {
			names = append(names, "anthropic-ratelimit-"+what+"-"+kind)
		}
	}
	return strings.Join(names, ", ")
}()

// Apply sets on an answer's header what the policy says for a request's Origin.
func (c CORS) Apply(h http.Header, origin string) {
	switch {
	case c.any:
		h.Set("Access-Control-Allow-Origin", "*")
	case len(c.origins) == 0:
		return
	default:
		h.Add("Vary", "Origin")
		if !slices.Contains(c.origins, origin) {
			return
		}
		h.Set("Access-Control-Allow-Origin", origin)
	}
	h.Set("Access-Control-Expose-Headers", exposed)
}

// allowedByDefault answers a preflight that asks for no header by name.
const allowedByDefault = "authorization, content-type, x-api-key, anthropic-version, anthropic-beta, " +
	"x-apex-ai-proxy-provider, x-apex-ai-proxy-type, x-apex-ai-proxy-mapping, x-apex-ai-proxy-token"

// Preflight answers an OPTIONS request. The headers asked for are named back: a "*" would not cover
// Authorization (Fetch standard, CORS-preflight fetch).
func (c CORS) Preflight(h, request http.Header) {
	c.Apply(h, request.Get("Origin"))
	if h.Get("Access-Control-Allow-Origin") == "" {
		return
	}
	h.Set("Access-Control-Allow-Methods", "GET, HEAD, POST, OPTIONS")
	h.Set("Access-Control-Max-Age", "86400")
	h.Add("Vary", "Access-Control-Request-Headers")
	asked := request.Get("Access-Control-Request-Headers")
	if asked == "" {
		asked = allowedByDefault
	}
	h.Set("Access-Control-Allow-Headers", asked)
}
