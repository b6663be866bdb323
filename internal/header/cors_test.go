package header

import (
	"net/http"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
)

func TestNewCORS(t *testing.T) {
	t.Parallel()
	for _, good := range [][]string{
		nil, {}, {"*"}, {"https://app.example.com"}, {"http://localhost:3000", "https://a.example", "*"},
		{"http://127.0.0.1:8080"}, {"http://[::1]:8080"}, {"app://obsidian.md"}, {"chrome-extension://abcdef"},
	} {
		if _, err := NewCORS(good); err != nil {
			t.Errorf("NewCORS(%q): %v", good, err)
		}
	}
	for _, bad := range []string{
		"", "app.example.com", "https://", "https://app.example.com/", "https://app.example.com/x", "https://app.example.com?x", "https://app.example.com#x",
		"https://user@app.example.com", "HTTPS://app.example.com", "https://App.example.com", "https://*.example.com", "https://*", "**", "null",
		"//app.example.com", " https://app.example.com", "https://app.example.com,https://b.example", "https://a b", "http://[::1", ":",
	} {
		_, err := NewCORS([]string{"https://good.example", bad})
		if err == nil {
			t.Errorf("NewCORS(%q): no error", bad)
			continue
		}
		if !strings.Contains(err.Error(), "scheme://host[:port]") {
			t.Errorf("NewCORS(%q): %v does not say what to write", bad, err)
		}
	}

	origins := []string{"https://a.example"}
	c, err := NewCORS(origins)
	if err != nil {
		t.Fatal(err)
	}
	origins[0] = "https://evil.example"
	h := http.Header{}
	c.Apply(h, "https://evil.example")
	if got := h.Get("Access-Control-Allow-Origin"); got != "" {
		t.Errorf("the caller's slice is still the policy: %q", got)
	}
}

func newCORS(t *testing.T, origins ...string) CORS {
	t.Helper()
	c, err := NewCORS(origins)
	if err != nil {
		t.Fatal(err)
	}
	return c
}

func TestApply(t *testing.T) {
	t.Parallel()
	const app, evil = "https://app.example.com", "https://evil.example"
	list := []string{"https://other.example", app}
	expose := []string{exposed}
	tests := []struct {
		name    string
		origins []string
		origin  string
		in      http.Header
		want    http.Header
	}{
		{"zero value", nil, app, http.Header{"X": {"1"}}, http.Header{"X": {"1"}}},
		{"zero value removes the upstream's", nil, app, http.Header{"Access-Control-Allow-Origin": {"*"}}, http.Header{}},
		{"any", []string{"*"}, app, http.Header{},
			http.Header{"Access-Control-Allow-Origin": {"*"}, "Access-Control-Expose-Headers": expose}},
		{"any, no browser", []string{"*"}, "", http.Header{},
			http.Header{"Access-Control-Allow-Origin": {"*"}, "Access-Control-Expose-Headers": expose}},
		{"any beside a list", []string{app, "*"}, evil, http.Header{},
			http.Header{"Access-Control-Allow-Origin": {"*"}, "Access-Control-Expose-Headers": expose}},
		{"listed", list, app, http.Header{"Vary": {"Accept-Encoding"}},
			http.Header{"Access-Control-Allow-Origin": {app}, "Access-Control-Expose-Headers": expose, "Vary": {"Accept-Encoding", "Origin"}}},
		{"not listed", list, evil, http.Header{}, http.Header{"Vary": {"Origin"}}},
		{"no browser", list, "", http.Header{}, http.Header{"Vary": {"Origin"}}},
		{"null", list, "null", http.Header{}, http.Header{"Vary": {"Origin"}}},
		{"other case", list, "https://APP.example.com", http.Header{}, http.Header{"Vary": {"Origin"}}},
		{"other port", list, app + ":8443", http.Header{}, http.Header{"Vary": {"Origin"}}},
		{"longer", list, app + ".evil.example", http.Header{}, http.Header{"Vary": {"Origin"}}},
		{"the upstream's own say", list, app,
			http.Header{
				"Access-Control-Allow-Origin": {"*", evil}, "Access-Control-Allow-Credentials": {"true"}, "Access-Control-Allow-Methods": {"PUT"},
				"Access-Control-Allow-Headers": {"x"}, "Access-Control-Expose-Headers": {"x-secret"}, "Access-Control-Max-Age": {"1"}, "Request-Id": {"r"},
			},
			http.Header{"Access-Control-Allow-Origin": {app}, "Access-Control-Expose-Headers": expose, "Vary": {"Origin"}, "Request-Id": {"r"}}},
		{"not listed, the upstream allowed all", list, evil,
			http.Header{"Access-Control-Allow-Origin": {"*"}, "Access-Control-Allow-Credentials": {"true"}}, http.Header{"Vary": {"Origin"}}},
	}
	for _, test := range tests {
		c := newCORS(t, test.origins...)
		got := http.Header{}
		Add(got, OfAnswer(test.in), "")
		c.Apply(got, test.origin)
		if diff := cmp.Diff(test.want, got); diff != "" {
			t.Errorf("%s (-want +got):\n%s", test.name, diff)
		}
	}
}

func TestExposed(t *testing.T) {
	t.Parallel()
	names := map[string]bool{}
	for n := range strings.SplitSeq(exposed, ", ") {
		if names[n] || n != strings.ToLower(n) || n == "*" {
			t.Errorf("%q is there twice, not in lower case or a wildcard", n)
		}
		names[n] = true
	}
	for _, n := range []string{
		"request-id", "x-request-id", "retry-after", "proxy-status", "cf-aig-log-id", "cf-aig-cache-status", "cf-aig-step",
		"x-ratelimit-limit-requests", "x-ratelimit-remaining-requests", "x-ratelimit-reset-requests",
		"x-ratelimit-limit-tokens", "x-ratelimit-remaining-tokens", "x-ratelimit-reset-tokens",
		"anthropic-ratelimit-requests-limit", "anthropic-ratelimit-requests-remaining", "anthropic-ratelimit-requests-reset",
		"anthropic-ratelimit-tokens-remaining", "anthropic-ratelimit-input-tokens-reset", "anthropic-ratelimit-output-tokens-limit",
	} {
		if !names[n] {
			t.Errorf("%s is not exposed", n)
		}
	}
}

func TestPreflight(t *testing.T) {
	t.Parallel()
	const app, evil = "https://app.example.com", "https://evil.example"
	ask := func(origin, headers string) http.Header {
		h := http.Header{"Origin": {origin}, "Access-Control-Request-Method": {"POST"}}
		if headers != "" {
			h.Set("Access-Control-Request-Headers", headers)
		}
		return h
	}
	answer := func(origin, allowed string, vary ...string) http.Header {
		return http.Header{
			"Access-Control-Allow-Origin":   {origin},
			"Access-Control-Allow-Methods":  {"GET, HEAD, POST, OPTIONS"},
			"Access-Control-Allow-Headers":  {allowed},
			"Access-Control-Expose-Headers": {exposed},
			"Access-Control-Max-Age":        {"86400"},
			"Vary":                          vary,
		}
	}
	const asked = "authorization,content-type,x-stainless-os,x-apex-ai-proxy-provider"
	tests := []struct {
		name    string
		origins []string
		request http.Header
		want    http.Header
	}{
		{"any, echo", []string{"*"}, ask(app, asked), answer("*", asked, "Access-Control-Request-Headers")},
		{"listed, echo", []string{app}, ask(app, asked), answer(app, asked, "Origin", "Access-Control-Request-Headers")},
		{"listed, nothing asked", []string{app}, ask(app, ""), answer(app, allowedByDefault, "Origin", "Access-Control-Request-Headers")},
		{"not listed", []string{app}, ask(evil, asked), http.Header{"Vary": {"Origin"}}},
		{"zero value", nil, ask(app, asked), http.Header{}},
		{"any, no preflight at all", []string{"*"}, http.Header{}, answer("*", allowedByDefault, "Access-Control-Request-Headers")},
	}
	for _, test := range tests {
		got := http.Header{}
		before := test.request.Clone()
		newCORS(t, test.origins...).Preflight(got, test.request)
		if diff := cmp.Diff(test.want, got); diff != "" {
			t.Errorf("%s (-want +got):\n%s", test.name, diff)
		}
		if diff := cmp.Diff(before, test.request); diff != "" {
			t.Errorf("%s: the request changed:\n%s", test.name, diff)
		}
	}
	if strings.Contains(allowedByDefault, "*") || !strings.Contains(allowedByDefault, "authorization") {
		t.Errorf("a wildcard would not cover authorization: %q", allowedByDefault)
	}
}
