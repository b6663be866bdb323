package apexproxy_test

import (
	"bufio"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"strconv"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/loadchange/apexproxy"
	"github.com/loadchange/apexproxy/apexproxytest"
)

// raw writes a request's lines as they are, for what net/http's client refuses to send, and returns
// the first final answer.
func raw(tb testing.TB, url, body string, lines ...string) answer {
	tb.Helper()
	c, err := net.Dial("tcp", hostOf(tb, url))
	if err != nil {
		tb.Fatal(err)
	}
	defer c.Close()
	if _, err := io.WriteString(c, strings.Join(lines, "\r\n")+"\r\n\r\n"+body); err != nil {
		tb.Fatal(err)
	}
	r := bufio.NewReader(c)
	for {
		res, err := http.ReadResponse(r, nil)
		if err != nil {
			tb.Fatal(err)
		}
		if res.StatusCode < 200 {
			continue
		}
		b, err := io.ReadAll(res.Body)
		if err != nil {
			tb.Fatal(err)
		}
		res.Header.Del("Date")
		return answer{res.StatusCode, res.Header, string(b)}
	}
}

// headerFates is each header's fate: what reaches the gateway, and what an upstream that the client
// named. Nil means nothing.
var headerFates = []struct {
	name                 string
	values               []string
	gateway, passthrough []string
}{
	// One connection's business.
	{"Connection", []string{"x-named, Upgrade", "close, cf-aig-authorization"}, nil, nil},
	{"X-Named", []string{"1"}, nil, nil},
	{"Keep-Alive", []string{"timeout=5"}, nil, nil},
	{"Proxy-Connection", []string{"close"}, nil, nil},
	{"Te", []string{"gzip"}, nil, nil},
	{"Upgrade", []string{"websocket"}, nil, nil},
	{"Expect", []string{"100-continue"}, nil, nil},
	{"Http2-Settings", []string{"AAMAAABkAAQAAP__"}, []string{"AAMAAABkAAQAAP__"}, []string{"AAMAAABkAAQAAP__"}},

	// Ours.
	{"X-Apex-Ai-Proxy-Mapping", []string{"a#b"}, nil, nil},
	{"X-Apex-Ai-Proxy-Type", []string{"chat-completions"}, nil, nil},
	{"X-Apex-Ai-Proxy-Token", []string{"caller"}, nil, nil},
	{"X-Apex-Ai-Proxy-Future", []string{"1"}, nil, nil},

	// Of the browser, of a proxy or an edge in front of us.
	{"Cookie", []string{"session=1"}, nil, nil},
	{"Proxy-Authorization", []string{"Basic eDp5"}, nil, nil},
	{"Forwarded", []string{"for=10.0.0.1"}, nil, nil},
	{"X-Forwarded-For", []string{"10.0.0.1"}, nil, nil},
	{"X-Forwarded-Host", []string{"internal.example"}, nil, nil},
	{"X-Forwarded-Proto", []string{"http"}, nil, nil},
	{"X-Forwarded-Client-Cert", []string{"x"}, nil, nil},
	{"X-Real-Ip", []string{"10.0.0.1"}, nil, nil},
	{"True-Client-Ip", []string{"10.0.0.1"}, nil, nil},
	{"Cf-Connecting-Ip", []string{"10.0.0.1"}, nil, nil},
	{"Cf-Ray", []string{"x"}, nil, nil},
	{"Cf-Ipcountry", []string{"DE"}, nil, nil},
	{"Cf-Access-Jwt-Assertion", []string{"x"}, nil, nil},
	{"Cf-Access-Client-Secret", []string{"x"}, nil, nil},
	{"Cdn-Loop", []string{"cloudflare"}, nil, nil},
	{"Via", []string{"1.1 front"}, nil, nil},
	{"Origin", []string{"https://app.example"}, nil, nil},
	{"Referer", []string{"https://app.example/chat"}, nil, nil},

	// Credentials: of the upstream in passthrough, of nobody behind the gateway.
	{"X-Api-Key", []string{clientKey}, nil, []string{clientKey}},
	{"Api-Key", []string{clientKey}, nil, []string{clientKey}},
	{"X-Goog-Api-Key", []string{clientKey}, nil, []string{clientKey}},
	{"Xi-Api-Key", []string{clientKey}, nil, []string{clientKey}},
	{"Ocp-Apim-Subscription-Key", []string{clientKey}, nil, []string{clientKey}},
	{"X-Amz-Security-Token", []string{clientKey}, nil, []string{clientKey}},

	// The gateway's own; another gateway may be what passthrough names.
	{"Cf-Aig-Authorization", []string{"Bearer other"}, []string{"Bearer " + gatewayToken}, nil},
	{"Cf-Aig-Skip-Cache", []string{"true"}, []string{"true"}, []string{"true"}},
	{"Cf-Aig-Byok-Alias", []string{"other"}, nil, []string{"other"}},
	{"Cf-Aig-Custom-Cost", []string{"{}"}, nil, []string{"{}"}},
	{"Cf-Aig-Cache-Key", []string{"k"}, nil, []string{"k"}},
	{"Cf-Aig-Collect-Log", []string{"false"}, nil, []string{"false"}},

	// About the body, which is JSON whatever it is called.
	{"Content-Type", []string{"text/plain"}, []string{"application/json"}, []string{"application/json"}},
	{"Content-Encoding", []string{"identity"}, nil, nil},
	{"Content-Language", []string{"de"}, []string{"de"}, []string{"de"}},
	{"Accept-Encoding", []string{"gzip, br"}, []string{"identity"}, []string{"gzip, br"}},

	// Everything else.
	{"Accept", []string{"text/event-stream", "application/json"}, []string{"text/event-stream", "application/json"}, []string{"text/event-stream", "application/json"}},
	{"User-Agent", []string{"claude-cli/2.1 (external, cli)"}, []string{"claude-cli/2.1 (external, cli)"}, []string{"claude-cli/2.1 (external, cli)"}},
	{"Anthropic-Version", []string{"2023-06-01"}, []string{"2023-06-01"}, []string{"2023-06-01"}},
	{"Anthropic-Beta", []string{"a", "b,c"}, []string{"a", "b,c"}, []string{"a", "b,c"}},
	{"Openai-Organization", []string{"org"}, []string{"org"}, []string{"org"}},
	{"Openai-Beta", []string{"x=v1"}, []string{"x=v1"}, []string{"x=v1"}},
	{"X-Stainless-Retry-Count", []string{"0"}, []string{"0"}, []string{"0"}},
	{"Idempotency-Key", []string{"i"}, []string{"i"}, []string{"i"}},
	{"Traceparent", []string{"00-0-0-01"}, []string{"00-0-0-01"}, []string{"00-0-0-01"}},
	{"Tracestate", []string{"a=b"}, []string{"a=b"}, []string{"a=b"}},
	{"Baggage", []string{"a=b"}, []string{"a=b"}, []string{"a=b"}},
	{"X-Request-Id", []string{"r"}, []string{"r"}, []string{"r"}},
	{"X-Custom", []string{"1", "2", ""}, []string{"1", "2", ""}, []string{"1", "2", ""}},
}

func TestHeaderFates(t *testing.T) {
	t.Parallel()
	const body = `{"model":"m#openai"}`
	for _, spelling := range []struct {
		name string
		of   func(string) string
	}{
		{"canonical", func(s string) string { return s }},
		{"lower case", strings.ToLower},
		{"upper case", strings.ToUpper},
	} {
		t.Run(spelling.name, func(t *testing.T) {
			t.Parallel()
			g := newGateway(t, apexproxytest.GatewayConfig{})
			up := newUpstream(t)
			proxy := newProxy(t, append(reaching(up), apexproxy.WithGateway(via(g)))...)
			request := func(provider string) []string {
				lines := []string{
					"POST /v1/chat/completions HTTP/1.1", "Host: proxy.example", "Content-Length: " + strconv.Itoa(len(body)),
				}
				if provider != "" {
					lines = append(lines, spelling.of(providerHeader)+": "+provider, spelling.of("Authorization")+": Bearer "+clientKey)
				} else {
					lines = append(lines, spelling.of("Authorization")+": Bearer "+gatewayToken)
				}
				for _, f := range headerFates {
					for _, v := range f.values {
						lines = append(lines, spelling.of(f.name)+": "+v)
					}
				}
				return lines
			}
			wantGateway := headers("Content-Length", strconv.Itoa(len(`{"model":"m"}`)))
			wantUpstream := headers("Content-Length", strconv.Itoa(len(body)), "Authorization", "Bearer "+clientKey)
			for _, f := range headerFates {
				if f.gateway != nil {
					wantGateway[f.name] = f.gateway
				}
				if f.passthrough != nil {
					wantUpstream[f.name] = f.passthrough
				}
			}
			raw(t, proxy, body, request("")...)
			raw(t, proxy, body, request(up.Host)...)
			if diff := cmp.Diff([]sent{{
				Method: "POST", URI: "/v1/test-account/test-gateway/openai/chat/completions", Host: g.Host, Header: wantGateway, Body: `{"model":"m"}`,
			}}, sentToGateway(g)); diff != "" {
				t.Errorf("the gateway got (-want +got):\n%s", diff)
			}
			if diff := cmp.Diff([]sent{{
				Method: "POST", URI: "/v1/chat/completions", Host: up.Host, Header: wantUpstream, Body: body,
			}}, sentToUpstream(up)); diff != "" {
				t.Errorf("the upstream got (-want +got):\n%s", diff)
			}
		})
	}
}

// TestConnectionHeader: a client names in Connection what a proxy must remove. What the proxy adds
// for this hop is none of that.
func TestConnectionHeader(t *testing.T) {
	t.Parallel()
	g := newGateway(t, apexproxytest.GatewayConfig{})
	cfg := via(g)
	cfg.BYOKOnly = true
	cfg.Header = func(*http.Request) http.Header { return headers("Cf-Aig-Metadata", "{}") }
	up := newUpstream(t)
	proxy := newProxy(t, append(reaching(up), apexproxy.WithGateway(cfg))...)
	attacks := []string{
		"Connection", "cf-aig-authorization, cf-aig-no-wholesale,cf-aig-metadata ,content-type",
		"connection", "Content-Length,ACCEPT-ENCODING,,x-custom, authorization",
		"X-Custom", "1",
		"X-Other", "2",
		"Transfer-Encoding", "chunked",
	}
	post(t, proxy+"/v1/chat/completions", `{"model":"m#openai"}`, append(attacks, "Authorization", "Bearer "+gatewayToken)...)
	post(t, proxy+"/v1/chat/completions", `{"model":"m"}`, append(attacks, "Authorization", "Bearer "+clientKey, providerHeader, up.Host)...)
	want := sent{
		Method: "POST", URI: "/v1/test-account/test-gateway/openai/chat/completions", Host: g.Host, Body: `{"model":"m"}`,
		Header: headers("Content-Length", "13", "Content-Type", "application/json", "Accept-Encoding", "identity", "X-Other", "2",
			"Cf-Aig-Authorization", "Bearer "+gatewayToken, "Cf-Aig-No-Wholesale", "true", "Cf-Aig-Metadata", "{}"),
	}
	if diff := cmp.Diff([]sent{want}, sentToGateway(g)); diff != "" {
		t.Errorf("the gateway got (-want +got):\n%s", diff)
	}
	want = sent{
		Method: "POST", URI: "/v1/chat/completions", Host: up.Host, Body: `{"model":"m"}`,
		Header: headers("Content-Length", "13", "Content-Type", "application/json", "X-Other", "2"),
	}
	if diff := cmp.Diff([]sent{want}, sentToUpstream(up)); diff != "" {
		t.Errorf("the upstream got (-want +got):\n%s", diff)
	}
}

// TestHeaderKeysOfMiddleware: code in front of the proxy can put keys into the map that are not
// canonical. They leak no more than others.
func TestHeaderKeysOfMiddleware(t *testing.T) {
	t.Parallel()
	g := newGateway(t, apexproxytest.GatewayConfig{})
	up := newUpstream(t)
	p, err := apexproxy.New(append(reaching(up), apexproxy.WithGateway(via(g)))...)
	if err != nil {
		t.Fatal(err)
	}
	call := func(h http.Header) {
		r := httptest.NewRequest("POST", "/v1/chat/completions", strings.NewReader(`{"model":"m#openai"}`))
		r.Header = h
		for _, name := range []string{
			"cookie", "X-API-KEY", "api-key", "cf-aig-authorization", "cf-aig-byok-alias", "x-apex-ai-proxy-token", "x-forwarded-for", "cf-ray", "via", "proxy-authorization", "authorization",
		} {
			h[name] = []string{"secret"}
		}
		h["x-custom"] = []string{"1"}
		w := httptest.NewRecorder()
		p.ServeHTTP(w, r)
		if w.Code != 200 {
			t.Errorf("got %d %s", w.Code, w.Body)
		}
	}
	call(headers("Authorization", "Bearer "+gatewayToken))
	call(headers("Authorization", "Bearer "+clientKey, http.CanonicalHeaderKey(providerHeader), up.Host))
	for _, r := range sentToGateway(g) {
		if fmt.Sprint(r.Header["X-Custom"]) != "[1]" || strings.Contains(fmt.Sprint(r), "secret") {
			t.Errorf("the gateway got %v", r)
		}
	}
	for _, r := range sentToUpstream(up) {
		for _, name := range []string{"X-Api-Key", "Api-Key", "Cf-Aig-Byok-Alias", "Authorization"} {
			delete(r.Header, name)
		}
		if fmt.Sprint(r.Header["X-Custom"]) != "[1]" || strings.Contains(fmt.Sprint(r), "secret") {
			t.Errorf("the upstream got %v", r)
		}
	}
	if g, u := len(g.Requests()), len(up.Requests()); g != 1 || u != 1 {
		t.Errorf("%d requests at the gateway, %d at the upstream", g, u)
	}
}

// upstreamAnswer has every kind of header an upstream may answer with.
var upstreamAnswer = []string{
	"Request-Id", "req_up", "X-Request-Id", "x-up", "Retry-After", "7", "Retry-After-Ms", "7000", "X-Should-Retry", "true",
	"X-Ratelimit-Remaining-Tokens", "1", "Anthropic-Ratelimit-Requests-Reset", "2026-01-01T00:00:00Z", "Openai-Processing-Ms", "12",
	"Cf-Aig-Step", "0", "Cf-Ray", "abc", "Server", "cloudflare", "X-Custom", "1", "X-Custom", "2", "Set-Cookie", "a=b", "Vary", "Accept",
	"Proxy-Status", "edge; error=x", "Via", "1.1 edge", "Cache-Control", "no-store",
}

func TestAnswerHeaders(t *testing.T) {
	t.Parallel()
	reply := apexproxytest.JSON(200, `{}`, append([]string{
		"Access-Control-Allow-Origin", "*", "Access-Control-Allow-Credentials", "true", "Access-Control-Expose-Headers", "*", "Access-Control-Max-Age", "1",
		"Connection", "x-hop", "X-Hop", "1", "Keep-Alive", "timeout=1", "Proxy-Authenticate", "Basic",
	}, upstreamAnswer...)...)
	// HTTP/1.1 for the upstream: over HTTP/2 there is no Connection to test.
	up := apexproxytest.NewUpstream(reply)
	t.Cleanup(up.Close)
	const origin = "https://app.example"
	kept := append([]string{"Content-Type", "application/json", "Content-Length", "2"}, upstreamAnswer...)
	for _, tt := range []struct {
		name    string
		origins []string
		want    http.Header
	}{
		{"no CORS", nil, headers(kept...)},
		{"any origin", []string{"*"}, headers(append(kept, "Access-Control-Allow-Origin", "*", "Access-Control-Expose-Headers", exposedHeaders)...)},
		{"this origin", []string{"https://a.example", origin}, headers(append(kept, "Vary", "Origin", "Access-Control-Allow-Origin", origin, "Access-Control-Expose-Headers", exposedHeaders)...)},
		{"another origin", []string{"https://a.example"}, headers(append(kept, "Vary", "Origin")...)},
	} {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			proxy := newProxy(t, apexproxy.WithCORS(tt.origins...), apexproxy.WithGateway(apexproxy.Gateway{BaseURL: up.URL, Token: gatewayToken}))
			got := post(t, proxy+"/v1/chat/completions", `{"model":"m#openai"}`, "Authorization", "Bearer "+gatewayToken, "Origin", origin)
			delete(got.Header, "Connection") // this hop's: the test's client keeps none alive
			if diff := cmp.Diff(answer{200, tt.want, "{}"}, got); diff != "" {
				t.Errorf("the client got (-want +got):\n%s", diff)
			}
		})
	}
}

const exposedHeaders = "request-id, x-request-id, retry-after, retry-after-ms, x-should-retry, proxy-status, x-apex-ai-proxy-dropped, x-apex-ai-proxy-estimate, " +
	"cf-aig-log-id, cf-aig-event-id, cf-aig-request-id, cf-aig-cache-status, cf-aig-step, cf-aig-model, cf-aig-provider, " +
	"anthropic-ratelimit-unified-status, anthropic-ratelimit-unified-reset, " +
	"x-ratelimit-limit-requests, x-ratelimit-remaining-requests, x-ratelimit-reset-requests, x-ratelimit-limit-tokens, x-ratelimit-remaining-tokens, x-ratelimit-reset-tokens, " +
	"anthropic-ratelimit-requests-limit, anthropic-ratelimit-requests-remaining, anthropic-ratelimit-requests-reset, " +
	"anthropic-ratelimit-tokens-limit, anthropic-ratelimit-tokens-remaining, anthropic-ratelimit-tokens-reset, " +
	"anthropic-ratelimit-input-tokens-limit, anthropic-ratelimit-input-tokens-remaining, anthropic-ratelimit-input-tokens-reset, " +
	"anthropic-ratelimit-output-tokens-limit, anthropic-ratelimit-output-tokens-remaining, anthropic-ratelimit-output-tokens-reset"

func TestPreflight(t *testing.T) {
	t.Parallel()
	const origin = "https://app.example"
	for _, tt := range []struct {
		name    string
		origins []string
		path    string
		send    []string
		want    http.Header
	}{
		{"no CORS", nil, "/v1/messages", []string{"Origin", origin}, headers("Allow", "POST, OPTIONS")},
		{"no CORS, no path of ours", nil, "/x", nil, headers()},
		{
			"any origin", []string{"*"}, "/v1/models",
			[]string{"Origin", origin, "Access-Control-Request-Method", "GET", "Access-Control-Request-Headers", "authorization,x-custom"},
			headers("Allow", "GET, HEAD, OPTIONS", "Access-Control-Allow-Origin", "*", "Access-Control-Expose-Headers", exposedHeaders,
				"Access-Control-Allow-Methods", "GET, HEAD, POST, OPTIONS", "Access-Control-Allow-Headers", "authorization,x-custom",
				"Access-Control-Max-Age", "86400", "Vary", "Access-Control-Request-Headers"),
		},
		{
			"this origin", []string{origin}, "/v1/messages", []string{"Origin", origin},
			headers("Allow", "POST, OPTIONS", "Access-Control-Allow-Origin", origin, "Access-Control-Expose-Headers", exposedHeaders,
				"Access-Control-Allow-Methods", "GET, HEAD, POST, OPTIONS",
				"Access-Control-Allow-Headers", "authorization, content-type, x-api-key, anthropic-version, anthropic-beta, x-apex-ai-proxy-provider, x-apex-ai-proxy-type, x-apex-ai-proxy-mapping, x-apex-ai-proxy-token",
				"Access-Control-Max-Age", "86400", "Vary", "Origin", "Vary", "Access-Control-Request-Headers"),
		},
		{"another origin", []string{"https://other.example"}, "/v1/messages", []string{"Origin", origin}, headers("Allow", "POST, OPTIONS", "Vary", "Origin")},
	} {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			g := newGateway(t, apexproxytest.GatewayConfig{})
			proxy := newProxy(t, apexproxy.WithGateway(via(g)), apexproxy.WithCORS(tt.origins...))
			got := do(t, http.MethodOptions, proxy+tt.path, "", tt.send...)
			delete(got.Header, "Connection")
			if diff := cmp.Diff(answer{204, tt.want, ""}, got); diff != "" {
				t.Errorf("the client got (-want +got):\n%s", diff)
			}
			wantUntouched(t, g)
		})
	}
}
