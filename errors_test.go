package apexproxy_test

import (
	"context"
	"crypto/tls"
	"fmt"
	"net"
	"net/http"
	"regexp"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/loadchange/apexproxy"
	"github.com/loadchange/apexproxy/apexproxytest"
)

var ourID = regexp.MustCompile(`req_[A-Z2-7]{26}`)

// masked is a with the proxy's request id, which is random, as ID.
func masked(a answer) answer {
	a.Body = ourID.ReplaceAllString(a.Body, "ID")
	for name, values := range a.Header {
		for i, v := range values {
			values[i] = ourID.ReplaceAllString(v, "ID")
		}
		a.Header[name] = values
	}
	delete(a.Header, "Connection")
	return a
}

// openAIError and anthropicError are answers of the proxy itself, whole.
func openAIError(status int, fault, typ, code, message string, header ...string) answer {
	body := `{"error":{"message":` + quoted(message) + `,"type":"` + typ + `","code":"` + code + `"}}` + "\n"
	return answer{status, headers(append([]string{
		"Content-Type", "application/json", "Content-Length", strconv.Itoa(len(body)), "X-Content-Type-Options", "nosniff",
		"Proxy-Status", "apexproxy; error=" + fault, "X-Request-Id", "ID",
	}, header...)...), body}
}

func anthropicError(status int, fault, typ, message string, header ...string) answer {
	const id = 30 // bytes of a request id
	body := `{"type":"error","error":{"type":"` + typ + `","message":` + quoted(message) + `},"request_id":"ID"}` + "\n"
	return answer{status, headers(append([]string{
		"Content-Type", "application/json", "Content-Length", strconv.Itoa(len(body) - len("ID") + id), "X-Content-Type-Options", "nosniff",
		"Proxy-Status", "apexproxy; error=" + fault, "Request-Id", "ID",
	}, header...)...), body}
}

// quoted is s as a JSON string; messages hold no control character.
func quoted(s string) string {
	return `"` + strings.NewReplacer(`\`, `\\`, `"`, `\"`).Replace(s) + `"`
}

// TestRejections: every answer with which the proxy refuses a request, whole, in both dialects.
func TestRejections(t *testing.T) {
	t.Parallel()
	const (
		request = "http_request_error"
		denied  = "http_request_denied"
		invalid = "invalid_request_error"
	)
	bearer := []string{"Authorization", "Bearer " + gatewayToken}
	upTo := strings.Repeat("x", 2000)
	gzipped := "\x1f\x8b not gzip at all"
	for _, tt := range []struct {
		name           string
		path, body     string // an empty path is /v1/chat/completions in one dialect, /v1/messages in the other
		header         []string
		status         int
		fault, code    string
		openAI, anthro string // types
		message        string
		more           []string // headers of the answer
	}{
		{name: "401", status: 401, fault: denied, code: "invalid_api_key", openAI: "authentication_error", anthro: "authentication_error",
			body: `{"model":"m#openai"}`, message: "no valid key: present the proxy's token as Authorization: Bearer or x-api-key"},
		{name: "401 in passthrough", header: []string{providerHeader, "api.example.com"}, status: 401, fault: denied, code: "invalid_api_key",
			openAI: "authentication_error", anthro: "authentication_error", message: "no valid key: present the proxy's token as X-APEX-AI-PROXY-TOKEN"},
		{name: "403 not listed", header: []string{providerHeader, "api.other.example", "X-APEX-AI-PROXY-TOKEN", "caller"}, status: 403, fault: denied,
			code: "host_not_allowed", openAI: "permission_error", anthro: "permission_error", message: "the host in X-APEX-AI-PROXY-PROVIDER is not on this proxy's list"},
		{name: "400 provider", header: []string{providerHeader, "http://api.example.com", "X-APEX-AI-PROXY-TOKEN", "caller"}, status: 400, fault: request,
			code: "invalid_provider", openAI: invalid, anthro: invalid, message: "X-APEX-AI-PROXY-PROVIDER has a scheme other than https"},
		{name: "400 provider's path", path: "/v1/..%2f/messages", header: []string{providerHeader, "api.example.com", "X-APEX-AI-PROXY-TOKEN", "caller"}, status: 400, fault: request,
			code: "invalid_path", openAI: invalid, anthro: invalid, message: "the path has a . or .. segment: write it out"},
		{name: "400 JSON", header: bearer, body: `{"model":"m#openai"`, status: 400, fault: request, code: "invalid_json", openAI: invalid, anthro: invalid,
			message: "the request body is not valid JSON at byte 19"},
		{name: "400 mapping", header: append([]string{"X-APEX-AI-PROXY-MAPPING", "a#b, c"}, bearer...), body: `{"model":"m#openai"}`, status: 400, fault: request,
			code: "invalid_mapping", openAI: invalid, anthro: invalid, message: `X-APEX-AI-PROXY-MAPPING: mapping entry "c" is not from#to or from#to#provider`},
		{name: "400 gzip", header: append([]string{"Content-Encoding", "gzip"}, bearer...), body: gzipped, status: 400, fault: request, code: "invalid_encoding",
			openAI: invalid, anthro: invalid, message: "the body is not the gzip that Content-Encoding says"},
		{name: "413", header: bearer, body: `{"model":"m#openai","x":"` + upTo + `"}`, status: 413, fault: request, code: "request_too_large", openAI: invalid,
			anthro: "request_too_large", message: "the request body is larger than 1000 bytes: send less"},
		{name: "415", header: append([]string{"Content-Encoding", "zstd"}, bearer...), body: "\x28\xb5\x2f\xfd", status: 415, fault: request, code: "unsupported_encoding",
			openAI: invalid, anthro: invalid, message: `Content-Encoding "zstd" cannot be read here: send the body as gzip or unencoded`, more: []string{"Accept-Encoding", "gzip, identity"}},
	} {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			g := newGateway(t, apexproxytest.GatewayConfig{})
			proxy := newProxy(t, apexproxy.WithGateway(via(g)), apexproxy.WithMaxRequestBytes(1000), apexproxy.WithMaxBufferedBytes(100_000),
				apexproxy.WithPassthrough(apexproxy.Passthrough{Hosts: []string{"api.example.com"}, Auth: apexproxy.Tokens("caller")}))
			for _, dialect := range []string{"openai", "anthropic"} {
				path, want := "/v1/chat/completions", openAIError(tt.status, tt.fault, tt.openAI, tt.code, tt.message, tt.more...)
				if dialect == "anthropic" {
					path, want = "/v1/messages", anthropicError(tt.status, tt.fault, tt.anthro, tt.message, tt.more...)
				}
				if tt.path != "" && dialect == "anthropic" {
					path = tt.path
				} else if tt.path != "" {
					path = strings.Replace(tt.path, "/messages", "/responses", 1)
				}
				got := masked(post(t, proxy+path, tt.body, tt.header...))
				if diff := cmp.Diff(want, got); diff != "" {
					t.Errorf("%s (-want +got):\n%s", dialect, diff)
				}
			}
			wantUntouched(t, g)
		})
	}
}

// TestUnservedPaths: 404 and 405, which know the dialect by path or header.
func TestUnservedPaths(t *testing.T) {
	t.Parallel()
	const notFound = "no such path: the proxy serves …/chat/completions, …/messages, …/messages/count_tokens, …/responses, …/embeddings and …/models"
	anthropicVersion := []string{"Anthropic-Version", "2023-06-01"}
	method := func(m, use string) string {
		return fmt.Sprintf("method %q is not allowed here: use %s", m, use)
	}
	g := newGateway(t, apexproxytest.GatewayConfig{})
	proxy := newProxy(t, apexproxy.WithGateway(via(g)))
	for _, tt := range []struct {
		method, path string
		header       []string
		want         answer
	}{
		{"GET", "/v1/files", nil, openAIError(404, "http_request_error", "not_found_error", "not_found", notFound)},
		{"POST", "/v1/files", anthropicVersion, anthropicError(404, "http_request_error", "not_found_error", notFound)},
		{"GET", "/v1/chat/completions", nil, openAIError(405, "http_request_error", "invalid_request_error", "method_not_allowed", method("GET", "POST"), "Allow", "POST")},
		{"DELETE", "/v1/responses", nil, openAIError(405, "http_request_error", "invalid_request_error", "method_not_allowed", method("DELETE", "POST"), "Allow", "POST")},
		{"PUT", "/v1/messages", nil, anthropicError(405, "http_request_error", "invalid_request_error", method("PUT", "POST"), "Allow", "POST")},
		{"GET", "/v1/messages/count_tokens", nil, anthropicError(405, "http_request_error", "invalid_request_error", method("GET", "POST"), "Allow", "POST")},
		{"POST", "/v1/models", nil, openAIError(405, "http_request_error", "invalid_request_error", "method_not_allowed", method("POST", "GET, HEAD"), "Allow", "GET, HEAD")},
		{"POST", "/v1/models", anthropicVersion, anthropicError(405, "http_request_error", "invalid_request_error", method("POST", "GET, HEAD"), "Allow", "GET, HEAD")},
		{"DELETE", "/v1/models/ft:x", nil, openAIError(405, "http_request_error", "invalid_request_error", "method_not_allowed", method("DELETE", "GET, HEAD"), "Allow", "GET, HEAD")},
		{"POST", "/", nil, openAIError(405, "http_request_error", "invalid_request_error", "method_not_allowed", method("POST", "GET, HEAD"), "Allow", "GET, HEAD")},
		{"GET", "/v1/models", nil, openAIError(401, "http_request_denied", "authentication_error", "invalid_api_key", "no valid key: present the proxy's token as Authorization: Bearer or x-api-key")},
		{"GET", "/v1/models", anthropicVersion, anthropicError(401, "http_request_denied", "authentication_error", "no valid key: present the proxy's token as Authorization: Bearer or x-api-key")},
	} {
		got := masked(do(t, tt.method, proxy+tt.path, "", tt.header...))
		if diff := cmp.Diff(tt.want, got); diff != "" {
			t.Errorf("%s %s %s (-want +got):\n%s", tt.method, tt.path, tt.header, diff)
		}
	}
	// Nobody is asked for a token to learn that the proxy is there.
	alive := headers("Content-Type", "application/json", "X-Content-Type-Options", "nosniff", "Content-Length", "16")
	for _, path := range []string{"", "/"} {
		got := masked(do(t, "GET", proxy+path, ""))
		if diff := cmp.Diff(answer{200, alive, `{"status":"ok"}` + "\n"}, got); diff != "" {
			t.Errorf("GET %q (-want +got):\n%s", path, diff)
		}
	}
	if got := do(t, "HEAD", proxy, ""); got.Status != 200 || got.Body != "" {
		t.Errorf("HEAD: got %d %s", got.Status, got.Body)
	}
	wantUntouched(t, g)
}

// TestModeOff: a mode that was not configured is refused in words.
func TestModeOff(t *testing.T) {
	t.Parallel()
	g := newGateway(t, apexproxytest.GatewayConfig{})
	got := masked(post(t, newProxy(t, apexproxy.WithGateway(via(g)))+"/v1/embeddings", `{}`, providerHeader, "api.example.com", "Authorization", "Bearer "+gatewayToken))
	want := openAIError(403, "http_request_denied", "permission_error", "passthrough_off", "passthrough is off on this proxy: leave out X-APEX-AI-PROXY-PROVIDER")
	if diff := cmp.Diff(want, got); diff != "" {
		t.Errorf("passthrough (-want +got):\n%s", diff)
	}
	got = masked(post(t, newProxy(t, apexproxy.WithPassthrough(apexproxy.Passthrough{}))+"/v1/messages", `{}`))
	want = anthropicError(400, "http_request_error", "invalid_request_error", "this proxy has no gateway: name an upstream in X-APEX-AI-PROXY-PROVIDER")
	if diff := cmp.Diff(want, got); diff != "" {
		t.Errorf("gateway (-want +got):\n%s", diff)
	}
	wantUntouched(t, g)
}

// TestBusy: bodies past the process-wide budget are refused, and a budget given back serves again.
func TestBusy(t *testing.T) {
	t.Parallel()
	up := newUpstream(t, apexproxytest.Hang(), apexproxytest.JSON(200, `{}`))
	proxy := newProxy(t, append(reaching(up), apexproxy.WithMaxRequestBytes(60_000), apexproxy.WithMaxBufferedBytes(70_000))...)
	body := `{"x":"` + strings.Repeat("x", 50_000) + `"}`
	ctx, cancel := context.WithCancel(t.Context())
	first := make(chan error, 1)
	go func() {
		req, _ := http.NewRequestWithContext(ctx, "POST", proxy+"/v1/embeddings", strings.NewReader(body))
		req.Header.Set(providerHeader, up.Host)
		res, err := client.Do(req)
		if err == nil {
			res.Body.Close()
		}
		first <- err
	}()
	if err := up.WaitRequests(t.Context(), 1); err != nil {
		t.Fatal(err)
	}
	const message = "the proxy is holding as many request bodies as it may: try again"
	got := masked(post(t, proxy+"/v1/embeddings", body, providerHeader, up.Host))
	if diff := cmp.Diff(openAIError(503, "proxy_internal_response", "server_error", "proxy_busy", message, "Retry-After", "1"), got); diff != "" {
		t.Errorf("chat (-want +got):\n%s", diff)
	}
	got = masked(post(t, proxy+"/v1/messages", body, providerHeader, up.Host))
	if diff := cmp.Diff(anthropicError(503, "proxy_internal_response", "overloaded_error", message, "Retry-After", "1"), got); diff != "" {
		t.Errorf("messages (-want +got):\n%s", diff)
	}
	cancel()
	if err := <-first; err == nil {
		t.Error("the first request got an answer")
	}
	if err := up.WaitCancelled(t.Context(), 1); err != nil {
		t.Fatal(err)
	}
	// The budget comes back when ServeHTTP returns, shortly after the upstream saw its request
	// cancelled.
	deadline := time.Now().Add(10 * time.Second)
	for got.Status != 200 && time.Now().Before(deadline) {
		got = post(t, proxy+"/v1/embeddings", body, providerHeader, up.Host)
	}
	if got.Status != 200 {
		t.Errorf("after the first body was given back: %d %s", got.Status, got.Body)
	}
}

// TestUnreachable: why no answer came, without an address or a Go error in it.
func TestUnreachable(t *testing.T) {
	t.Parallel()
	plain := apexproxytest.NewUpstream()
	t.Cleanup(plain.Close)
	secure := newUpstream(t)
	hanging := newUpstream(t, apexproxytest.Hang())
	dying := newUpstream(t, apexproxytest.Abort())

	resolving := func(err error) *http.Transport {
		tr := secure.Transport()
		tr.DialContext = func(ctx context.Context, network, addr string) (net.Conn, error) {
			return nil, &net.OpError{Op: "dial", Net: network, Err: err}
		}
		return tr
	}
	alerting := secure.Transport()
	alerting.TLSClientConfig.MaxVersion = tls.VersionTLS10
	alerting.TLSClientConfig.MinVersion = tls.VersionTLS10

	const server = "server_error"
	for _, tt := range []struct {
		name                string
		host                string
		transport           *http.Transport
		timeout             time.Duration // of a handler outside of the proxy
		status              int
		fault, openAI, anth string
		message             string
	}{
		{"refused", apexproxytest.RefusingAddr(), apexproxy.NewTransport(), 0, 502, "connection_refused", server, "api_error", "the upstream refused the connection: check host and port"},
		{"untrusted certificate", secure.Host, apexproxy.NewTransport(), 0, 502, "tls_certificate_error", server, "api_error", "the upstream's certificate could not be verified"},
		{"no TLS", plain.Host, apexproxy.NewTransport(), 0, 502, "tls_protocol_error", server, "api_error", "the upstream does not speak TLS on this port"},
		{"TLS alert", secure.Host, alerting, 0, 502, "tls_alert_received", server, "api_error", "the upstream refused the TLS handshake"},
		{"no such name", "nowhere.example", resolving(&net.DNSError{Err: "no such host", Name: "nowhere.example", Server: "10.0.0.53:53", IsNotFound: true}), 0, 502, "dns_error", server, "api_error", "the upstream's name could not be resolved: check the host"},
		{"no network", "nowhere.example", resolving(fmt.Errorf("connect: network is unreachable from 10.1.2.3")), 0, 502, "destination_unavailable", server, "api_error", "the upstream could not be reached: check host and port"},
		{"connecting too long", "nowhere.example", resolving(context.DeadlineExceeded), 0, 504, "connection_timeout", server, "timeout_error", "the upstream could not be reached in time: try again"},
		{"broken off", dying.Host, dying.Transport(), 0, 502, "connection_terminated", server, "api_error", "the upstream closed the connection before it answered: try again"},
		{"answering too late", hanging.Host, hanging.Transport(), 500 * time.Millisecond, 504, "http_response_timeout", server, "timeout_error", "the upstream did not answer in time: try again"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			p, err := apexproxy.New(apexproxy.WithTransport(tt.transport), apexproxy.WithPassthrough(apexproxy.Passthrough{Hosts: []string{tt.host}}),
				apexproxy.WithGateway(apexproxy.Gateway{BaseURL: "https://" + tt.host + "/v1/a/g", Token: gatewayToken}))
			if err != nil {
				t.Fatal(err)
			}
			proxy := serve(t, p, http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
				if tt.timeout > 0 {
					ctx, cancel := context.WithTimeout(r.Context(), tt.timeout)
					defer cancel()
					r = r.WithContext(ctx)
				}
				p.ServeHTTP(w, r)
			}))
			for mode, header := range map[string][]string{
				"passthrough": {providerHeader, tt.host, "Authorization", "Bearer " + clientKey},
				"gateway":     {"Authorization", "Bearer " + gatewayToken},
			} {
				got := masked(post(t, proxy+"/v1/chat/completions", `{"model":"m#openai"}`, header...))
				if diff := cmp.Diff(openAIError(tt.status, tt.fault, tt.openAI, tt.fault, tt.message), got); diff != "" {
					t.Errorf("%s, chat (-want +got):\n%s", mode, diff)
				}
				got = masked(post(t, proxy+"/v1/messages", `{"model":"m#anthropic"}`, header...))
				if diff := cmp.Diff(anthropicError(tt.status, tt.fault, tt.anth, tt.message), got); diff != "" {
					t.Errorf("%s, messages (-want +got):\n%s", mode, diff)
				}
			}
		})
	}
}

// TestGatewayEnvelopes: the gateway's own errors in the client's dialect, with their status and
// headers.
func TestGatewayEnvelopes(t *testing.T) {
	t.Parallel()
	const aliases = `Unknown BYOK alias "x"; configured aliases: default, team-secret`
	kept := []string{"Retry-After", "7", "X-Custom", "1"}
	for _, tt := range []struct {
		name          string
		reply         http.Handler
		status        int
		openAI, anth  string // types
		code, message string
	}{
		{"AiGatewayError", apexproxytest.AiGatewayError(429, 2003, `Rate "limited" <1>`, kept...), 429, "rate_limit_error", "rate_limit_error", `"2003"`, `Cloudflare AI Gateway: Rate "limited" <1>`},
		{"v4", apexproxytest.V4Error(401, 10000, "Authentication error", kept...), 401, "authentication_error", "authentication_error", `"10000"`, "Cloudflare AI Gateway: Authentication error"},
		{"policy", apexproxytest.PolicyError(403, "Access denied by policy", kept...), 403, "permission_error", "permission_error", `null`, "Cloudflare AI Gateway: Access denied by policy"},
		{"no credit", apexproxytest.AiGatewayError(402, 2021, "Insufficient credit", kept...), 402, "insufficient_quota", "billing_error", `"2021"`, "Cloudflare AI Gateway: Insufficient credit"},
		{"guardrail", apexproxytest.AiGatewayError(424, 2016, "Prompt blocked", kept...), 424, "invalid_request_error", "invalid_request_error", `"2016"`, "Cloudflare AI Gateway: Prompt blocked"},
		{"scanner", apexproxytest.AiGatewayError(503, 7013, "Guardrail unavailable", kept...), 503, "server_error", "overloaded_error", `"7013"`, "Cloudflare AI Gateway: Guardrail unavailable"},
		{"unlisted 5xx", apexproxytest.AiGatewayError(520, 2005, "Failed to get response from provider", kept...), 520, "server_error", "api_error", `"2005"`, "Cloudflare AI Gateway: Failed to get response from provider"},
		{"aliases", apexproxytest.AiGatewayError(400, 2040, aliases, kept...), 400, "invalid_request_error", "invalid_request_error", `"2040"`, "Cloudflare AI Gateway: the gateway knows no stored key with this alias"},
		{"aliases, v4", apexproxytest.V4Error(400, 2040, aliases, kept...), 400, "invalid_request_error", "invalid_request_error", `"2040"`, "Cloudflare AI Gateway: the gateway knows no stored key with this alias"},
		{"no message", apexproxytest.JSON(400, `{"success":false,"errors":[]}`, kept...), 400, "invalid_request_error", "invalid_request_error", `null`, "Cloudflare AI Gateway: the gateway refused the request"},
		{"odd types", apexproxytest.JSON(500, `{"name":"AiGatewayError","error":"x","internalCode":"y","message":["z"]}`, kept...), 500, "server_error", "api_error", `null`, "Cloudflare AI Gateway: the gateway refused the request"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			g := newGateway(t, apexproxytest.GatewayConfig{})
			proxy := newProxy(t, apexproxy.WithGateway(via(g)))
			header := func(n, length int, more ...string) http.Header {
				id := fmt.Sprintf("019a0000-0000-7000-8000-%012d", n)
				return headers(append(append([]string{
					"Content-Type", "application/json", "Content-Length", strconv.Itoa(length),
					"Cf-Aig-Log-Id", id, "Cf-Aig-Event-Id", id, "Cf-Aig-Cache-Status", "MISS", "Request-Id", "req_test",
				}, kept...), more...)...)
			}
			g.Fail(tt.reply)
			got := masked(post(t, proxy+"/v1/chat/completions", `{"model":"m#openai"}`, "Authorization", "Bearer "+gatewayToken))
			body := `{"error":{"message":` + quoted(tt.message) + `,"type":"` + tt.openAI + `","code":` + tt.code + `}}` + "\n"
			if diff := cmp.Diff(answer{tt.status, header(1, len(body), "X-Request-Id", "req_test"), body}, got); diff != "" {
				t.Errorf("chat (-want +got):\n%s", diff)
			}
			g.Fail(tt.reply)
			got = masked(post(t, proxy+"/v1/messages", `{"model":"m#anthropic"}`, "Anthropic-Version", "2023-06-01", "Authorization", "Bearer "+gatewayToken))
			body = `{"type":"error","error":{"type":"` + tt.anth + `","message":` + quoted(tt.message) + `},"request_id":"req_test"}` + "\n"
			if diff := cmp.Diff(answer{tt.status, header(2, len(body)), body}, got); diff != "" {
				t.Errorf("messages (-want +got):\n%s", diff)
			}
		})
	}
}

// TestErrorsAsWritten: what a provider answers is the client's, byte by byte, and so is what looks
// like an envelope but is not the gateway's.
func TestErrorsAsWritten(t *testing.T) {
	t.Parallel()
	for name, tt := range map[string]struct {
		status     int
		typ, body  string
		compressed bool
	}{
		"OpenAI":            {400, "application/json", `{"error": {"message":"a\u003cb","type":"invalid_request_error","param":null,"code":null}}` + "\n", false},
		"Anthropic":         {529, "application/json", `{"type":"error","error":{"type":"overloaded_error","message":"Overloaded"},"request_id":"req_1"}`, false},
		"Google":            {429, "application/json; charset=UTF-8", "[{\n  \"error\": {\n    \"code\": 429,\n    \"status\": \"RESOURCE_EXHAUSTED\"\n  }\n}\n]\n", false},
		"HTML":              {503, "text/html", "<html><body>error code: 1010</body></html>", false},
		"empty":             {500, "text/plain", "", false},
		"not JSON":          {400, "application/json", `{"success":false,"errors":[`, false},
		"success as a text": {400, "application/json", `{"success":"false","errors":[{"code":1,"message":"x"}]}`, false},
		"success alone":     {400, "application/json", `{"success":false,"message":"x"}`, false},
		"error as a text":   {400, "application/json", `{"success":false,"error":"x"}`, false},
		"large":             {400, "application/json", `{"error":{"message":"` + strings.Repeat("long ", 40_000) + `"}}`, false},
		"large envelope":    {400, "application/json", `{"name":"AiGatewayError","message":"` + strings.Repeat("long ", 40_000) + `"}`, false},
		"compressed":        {400, "application/json", "\x1f\x8b\x08\x00\x00\x00\x00\x00\x00\xff", true},
		"200 in disguise":   {200, "application/json", `{"name":"AiGatewayError","internalCode":2001}`, false},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			reply := http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
				w.Header().Set("Content-Type", tt.typ)
				if tt.compressed {
					w.Header().Set("Content-Encoding", "gzip")
				}
				w.WriteHeader(tt.status)
				fmt.Fprint(w, tt.body)
			})
			up := newUpstream(t, reply)
			proxy := newProxy(t, append(reaching(up), apexproxy.WithGateway(apexproxy.Gateway{BaseURL: up.URL, Token: gatewayToken}))...)
			for _, path := range []string{"/v1/chat/completions", "/v1/messages"} {
				model := map[bool]string{true: "m#openai", false: "m#anthropic"}[path == "/v1/chat/completions"]
				for _, header := range [][]string{{"X-Api-Key", gatewayToken}, {providerHeader, up.Host}} {
					got := post(t, proxy+path, `{"model":"`+model+`"}`, header...)
					if got.Status != tt.status || got.Body != tt.body || got.Header.Get("Content-Type") != tt.typ || got.Header["Proxy-Status"] != nil {
						t.Errorf("%s with %s: got %d %.200q %v", path, header[0], got.Status, got.Body, got.Header)
					}
				}
			}
		})
	}
	// Cloudflare's envelope from an upstream that the client named is that upstream's own.
	up := newUpstream(t, apexproxytest.AiGatewayError(401, 2009, "Unauthorized"))
	got := post(t, newProxy(t, reaching(up)...)+"/v1/chat/completions", `{}`, providerHeader, up.Host)
	if got.Status != 401 || !strings.Contains(got.Body, `"name":"AiGatewayError"`) {
		t.Errorf("envelope in passthrough: got %d %s", got.Status, got.Body)
	}
}

// TestRedirects: none is followed. The gateway has none to give; in passthrough it is the client's
// to follow.
func TestRedirects(t *testing.T) {
	t.Parallel()
	second := newUpstream(t)
	for _, status := range []int{301, 302, 303, 307, 308} {
		t.Run(strconv.Itoa(status), func(t *testing.T) {
			t.Parallel()
			location := second.URL + "/v1/chat/completions"
			up := newUpstream(t, apexproxytest.Redirect(status, location))
			proxy := newProxy(t,
				apexproxy.WithTransport(up.Transport()),
				apexproxy.WithGateway(apexproxy.Gateway{BaseURL: up.URL, Token: gatewayToken}),
				apexproxy.WithPassthrough(apexproxy.Passthrough{Hosts: []string{up.Host, second.Host}}))

			const message = "the gateway answered with a redirect, which is never followed: check its base URL"
			got := masked(post(t, proxy+"/v1/chat/completions", `{"model":"m#openai"}`, "X-Api-Key", gatewayToken))
			if diff := cmp.Diff(openAIError(502, "http_protocol_error", "server_error", "gateway_redirect", message), got); diff != "" {
				t.Errorf("gateway, chat (-want +got):\n%s", diff)
			}
			got = masked(post(t, proxy+"/v1/messages", `{"model":"m#anthropic"}`, "X-Api-Key", gatewayToken))
			if diff := cmp.Diff(anthropicError(502, "http_protocol_error", "api_error", message), got); diff != "" {
				t.Errorf("gateway, messages (-want +got):\n%s", diff)
			}
			got = masked(post(t, proxy+"/v1/chat/completions", `{"model":"m"}`, providerHeader, up.Host))
			if diff := cmp.Diff(answer{status, headers("Location", location, "Content-Length", "0"), ""}, got); diff != "" {
				t.Errorf("passthrough (-want +got):\n%s", diff)
			}
			if n := len(up.Requests()); n != 3 {
				t.Errorf("%d requests at the first upstream, want 3", n)
			}
		})
	}
	t.Cleanup(func() {
		if n := second.Connections(); n != 0 {
			t.Errorf("%d connections to the second upstream", n)
		}
	})
}
