package apexproxytest_test

import (
	"io"
	"net"
	"net/http"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"github.com/loadchange/apexproxy/apexproxytest"
	"github.com/tidwall/gjson"
)

const chatBody = `{"model":"gpt-5.5","messages":[]}`

// call sends a request with the gateway's token unless header says otherwise, and returns the
// answer with its body read.
func call(t *testing.T, g *apexproxytest.Gateway, method, path, body string, header ...string) (*http.Response, string) {
	t.Helper()
	if !strings.HasPrefix(path, "http") {
		path = g.BaseURL() + path
	}
	req, err := http.NewRequest(method, path, strings.NewReader(body))
	if err != nil {
		t.Fatal(err)
	}
	req.Header.Set("cf-aig-authorization", "Bearer "+g.Token)
	for i := 0; i < len(header); i += 2 {
		req.Header.Set(header[i], header[i+1])
		if header[i+1] == "" {
			req.Header.Del(header[i])
		}
	}
	return do(t, g.Client(), req)
}

func do(t *testing.T, c *http.Client, req *http.Request) (*http.Response, string) {
	t.Helper()
	resp, err := c.Do(req)
	if err != nil {
		t.Fatal(err)
	}
	defer resp.Body.Close()
	b, err := io.ReadAll(resp.Body)
	if err != nil {
		t.Fatal(err)
	}
	return resp, string(b)
}

func TestGatewayChecks(t *testing.T) {
	t.Parallel()
	const version = "2023-06-01"
	type config = apexproxytest.GatewayConfig
	tests := []struct {
		name   string
		cfg    config
		method string
		path   string
		body   string
		header []string
		status int
		code   int64  // internalCode of the gateway's envelope, 0 for a provider's answer
		cred   string // whose credential was used
		ok     bool   // reached the provider
	}{
		{name: "chat", path: "/openai/chat/completions", body: chatBody, status: 200, cred: "stored", ok: true},
		{name: "chat with v1", path: "/openai/v1/chat/completions", body: chatBody, status: 200, cred: "stored", ok: true},
		{name: "messages", path: "/anthropic/v1/messages?beta=true", body: chatBody, header: []string{"anthropic-version", version}, status: 200, cred: "stored", ok: true},
		{name: "messages without version", path: "/anthropic/v1/messages", body: chatBody, status: 400},
		{name: "count_tokens", path: "/anthropic/v1/messages/count_tokens", body: chatBody, header: []string{"anthropic-version", version}, status: 200, cred: "stored", ok: true},
		{name: "responses", path: "/openai/responses", body: chatBody, status: 200, cred: "stored", ok: true},
		{name: "embeddings", path: "/mistral/v1/embeddings", body: chatBody, status: 200, cred: "stored", ok: true},
		{name: "models", method: "GET", path: "/openai/models", status: 200, cred: "stored", ok: true},
		{name: "deepseek messages", path: "/deepseek/anthropic/v1/messages", body: chatBody, status: 200, cred: "stored", ok: true},
		{name: "custom provider", path: "/custom-mine/any/chat/completions", body: chatBody, status: 200, cred: "stored", ok: true},
		{name: "own provider", cfg: config{Paths: map[string][]string{"mine": {"POST v1/chat/completions"}}}, path: "/mine/v1/chat/completions", body: chatBody, status: 200, cred: "stored", ok: true},

		{name: "no token", path: "/openai/chat/completions", body: chatBody, header: []string{"cf-aig-authorization", ""}, status: 401, code: 2009},
		{name: "wrong token", path: "/openai/chat/completions", body: chatBody, header: []string{"cf-aig-authorization", "Bearer nope"}, status: 401, code: 2009},
		{name: "token without scheme", path: "/openai/chat/completions", body: chatBody, header: []string{"cf-aig-authorization", "test-token"}, status: 401, code: 2009},
		{name: "unknown gateway", cfg: config{GatewayID: "mine"}, path: "URL/v1/test-account/other/openai/chat/completions", body: chatBody, status: 400, code: 2001},
		{name: "extra v1", path: "URL/v1/v1/test-account/test-gateway/openai/chat/completions", body: chatBody, status: 400, code: 2001},
		{name: "no provider", path: "/", body: chatBody, status: 400, code: 2008},
		{name: "no provider path", path: "/openai", body: chatBody, status: 400, code: 2008},
		{name: "empty provider path", path: "/openai/", body: chatBody, status: 400, code: 2008},
		{name: "double slash", path: "//openai/chat/completions", body: chatBody, status: 400, code: 2008},
		{name: "double slash inside", path: "/openai//chat/completions", body: chatBody, status: 400, code: 2008},
		{name: "escaped dot segment", path: "/openai/%2e%2e/chat/completions", body: chatBody, status: 400, code: 2008},
		{name: "unknown provider", path: "/nobody/v1/chat/completions", body: chatBody, status: 400, code: 2008},
		{name: "v1 for a provider", path: "/v1/models", method: "GET", status: 400, code: 2008},
		{name: "v1 twice", path: "/openai/v1/v1/chat/completions", body: chatBody, status: 404},
		{name: "groq has no v1", path: "/groq/v1/chat/completions", body: chatBody, status: 404},
		{name: "anthropic without v1", path: "/anthropic/messages", body: chatBody, status: 404},
		{name: "wrong method", method: "GET", path: "/openai/chat/completions", status: 404},
		{name: "no JSON", path: "/openai/chat/completions", body: `{"model":`, status: 400},
		{name: "two JSON values", path: "/openai/chat/completions", body: chatBody + chatBody, status: 400},
		{name: "suffix left on the model", path: "/openai/chat/completions", body: `{"model":"gpt-5.5#openai"}`, status: 404},

		{name: "azure", path: "/azure-openai/res/dep/chat/completions?api-version=2024-10-21", body: `{}`, status: 200, cred: "stored", ok: true},
		{name: "azure without version", path: "/azure-openai/res/dep/chat/completions", body: `{}`, status: 404},
		{name: "azure with two versions", path: "/azure-openai/res/dep/chat/completions?api-version=1&api-version=2", body: `{}`, status: 404},
		{name: "azure with deployments", path: "/azure-openai/res/deployments/dep/chat/completions?api-version=1", body: `{}`, status: 404},
		{name: "azure without deployment", path: "/azure-openai/res/chat/completions?api-version=1", body: `{}`, status: 404},

		{name: "compat", path: "/compat/chat/completions", body: `{"model":"anthropic/claude-opus-4.7"}`, status: 200, cred: "stored", ok: true},
		{name: "compat with v1", path: "/compat/v1/chat/completions", body: `{"model":"openai/gpt-5.5"}`, status: 200, cred: "stored", ok: true},
		{name: "compat dynamic", path: "/compat/chat/completions", body: `{"model":"dynamic/support"}`, status: 200, cred: "stored", ok: true},
		{name: "compat auto", path: "/compat/chat/completions", body: `{"model":"cloudflare/auto"}`, status: 200, cred: "stored", ok: true},
		{name: "compat custom", path: "/compat/chat/completions", body: `{"model":"custom-mine/m"}`, status: 200, cred: "stored", ok: true},
		{name: "compat workers-ai", path: "/compat/chat/completions", body: `{"model":"workers-ai/@cf/meta/llama"}`, status: 200, cred: "stored", ok: true},
		{name: "compat models", method: "GET", path: "/compat/models", status: 200, cred: "stored", ok: true},
		{name: "compat bare model", path: "/compat/chat/completions", body: chatBody, status: 400, code: 2008},
		{name: "compat no model", path: "/compat/chat/completions", body: `{}`, status: 400, code: 2008},
		{name: "compat empty name", path: "/compat/chat/completions", body: `{"model":"openai/"}`, status: 400, code: 2008},
		{name: "compat other cloudflare model", path: "/compat/chat/completions", body: `{"model":"cloudflare/other"}`, status: 400, code: 2008},
		{name: "compat slug for prefix", path: "/compat/chat/completions", body: `{"model":"perplexity-ai/sonar"}`, status: 400, code: 2008},
		{name: "compat openrouter", path: "/compat/chat/completions", body: `{"model":"openrouter/x"}`, status: 400, code: 2008},
		{name: "compat suffix", path: "/compat/chat/completions", body: `{"model":"openai/gpt-5.5#openai"}`, status: 400, code: 2008},
		{name: "compat bare @cf", path: "/compat/chat/completions", body: `{"model":"@cf/meta/llama"}`, status: 400, code: 2008},
		{name: "compat responses", path: "/compat/responses", body: `{"model":"openai/gpt-5.5"}`, status: 400, code: 2019},
		{name: "compat bad JSON", path: "/compat/chat/completions", body: `{`, status: 400, code: 2019},

		{name: "authorization beats the stored key", path: "/openai/chat/completions", body: chatBody, header: []string{"Authorization", "Bearer dummy"}, status: 401, cred: "request"},
		{name: "x-api-key beats it", path: "/anthropic/v1/messages", body: chatBody, header: []string{"X-Api-Key", "dummy", "anthropic-version", version}, status: 401, cred: "request"},
		{name: "api-key beats it", path: "/openai/chat/completions", body: chatBody, header: []string{"Api-Key", "dummy"}, status: 401, cred: "request"},
		{name: "x-goog-api-key beats it", path: "/openai/chat/completions", body: chatBody, header: []string{"X-Goog-Api-Key", "dummy"}, status: 401, cred: "request"},
		{name: "xi-api-key beats it", path: "/openai/chat/completions", body: chatBody, header: []string{"Xi-Api-Key", "dummy"}, status: 401, cred: "request"},
		{name: "no wholesale", cfg: config{StoredKeys: []string{}, UnifiedBilling: true}, path: "/openai/chat/completions", body: chatBody, header: []string{"cf-aig-no-wholesale", "true"}, status: 400, code: 2044},
		{name: "unified billing", cfg: config{StoredKeys: []string{"anthropic"}, UnifiedBilling: true}, path: "/openai/chat/completions", body: chatBody, status: 200, cred: "unified", ok: true},
		{name: "unified billing off", cfg: config{StoredKeys: []string{}}, path: "/openai/chat/completions", body: chatBody, status: 402, code: 2021},
		{name: "not in unified billing", cfg: config{StoredKeys: []string{}, UnifiedBilling: true}, path: "/mistral/v1/chat/completions", body: chatBody, status: 402, code: 2021},
		{name: "one stored key", cfg: config{StoredKeys: []string{"perplexity-ai"}}, path: "/compat/chat/completions", body: `{"model":"perplexity/sonar"}`, status: 200, cred: "stored", ok: true},
		{name: "default alias", path: "/openai/chat/completions", body: chatBody, header: []string{"cf-aig-byok-alias", "default"}, status: 200, cred: "stored", ok: true},
		{name: "unknown alias", path: "/openai/chat/completions", body: chatBody, header: []string{"cf-aig-byok-alias", "other"}, status: 400, code: 2040},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			g := apexproxytest.NewGateway(tt.cfg)
			defer g.Close()
			method := tt.method
			if method == "" {
				method = "POST"
			}
			resp, body := call(t, g, method, strings.Replace(tt.path, "URL", g.URL, 1), tt.body, tt.header...)
			req := g.Requests()[0]
			type result struct {
				Status int
				Code   int64
				Cred   string
				OK     bool
			}
			got := result{resp.StatusCode, gjson.Get(body, "internalCode").Int(), req.Credential, req.Refused == ""}
			if diff := cmp.Diff(result{tt.status, tt.code, tt.cred, tt.ok}, got); diff != "" {
				t.Errorf("-want +got:\n%s\nrefused: %s\nbody: %s", diff, req.Refused, body)
			}
			if resp.Header.Get("cf-aig-log-id") != req.LogID || req.LogID == "" {
				t.Errorf("cf-aig-log-id %q, recorded %q", resp.Header.Get("cf-aig-log-id"), req.LogID)
			}
		})
	}
}

func TestEnvelopes(t *testing.T) {
	t.Parallel()
	g := apexproxytest.NewGateway(apexproxytest.GatewayConfig{})
	defer g.Close()
	g.Fail(
		apexproxytest.AiGatewayError(429, 2003, `Rate "limited"`, "Retry-After", "3"),
		apexproxytest.V4Error(401, 10000, "Authentication error"),
		apexproxytest.PolicyError(403, "Access denied by policy"),
		apexproxytest.ProviderError(429, "slow"))
	var got []string
	for range 5 {
		resp, body := call(t, g, "POST", "/openai/chat/completions", chatBody)
		if !gjson.Valid(body) {
			t.Errorf("not JSON: %s", body)
		}
		if resp.StatusCode == 200 {
			body = "ok"
		}
		got = append(got, resp.Status[:3]+" "+resp.Header.Get("Retry-After")+" "+body)
	}
	want := []string{
		`429 3 {"success":false,"result":[],"messages":[],"error":[{"code":2003,"message":"Rate \"limited\""}],` +
			`"name":"AiGatewayError","httpCode":429,"internalCode":2003,"message":"Rate \"limited\"","description":"Rate \"limited\""}`,
		`401  {"result":null,"success":false,"errors":[{"code":10000,"message":"Authentication error"}],"messages":[]}`,
		`403  {"success":false,"error":{"message":"Access denied by policy"}}`,
		`429  {"error":{"message":"slow","type":"requests","param":null,"code":"rate_limit_exceeded"}}`,
		`200  ok`,
	}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Error("-want +got:\n" + diff)
	}
	for _, r := range g.Requests() {
		if r.Refused != "" {
			t.Errorf("refused: %s", r.Refused)
		}
	}
}

func TestGatewayUnauthorized(t *testing.T) {
	t.Parallel()
	g := apexproxytest.NewGateway(apexproxytest.GatewayConfig{})
	defer g.Close()
	g.Fail(apexproxytest.PolicyError(403, "not yet")) // a request that fails a check leaves the script alone
	_, body := call(t, g, "POST", "/openai/chat/completions", chatBody, "cf-aig-authorization", "")
	const want = `{"success":false,"result":[],"messages":[],"error":[{"code":2009,"message":"Unauthorized"}],` +
		`"name":"AiGatewayError","httpCode":401,"internalCode":2009,"message":"Unauthorized","description":"Unauthorized"}`
	if diff := cmp.Diff(want, body); diff != "" {
		t.Error("-want +got:\n" + diff)
	}
	if resp, _ := call(t, g, "POST", "/openai/chat/completions", chatBody); resp.StatusCode != 403 {
		t.Errorf("status %d", resp.StatusCode)
	}
}

func TestGatewayHeaders(t *testing.T) {
	t.Parallel()
	tests := []struct {
		name       string
		header     []string
		metadata   map[string]any
		violations []string
	}{
		{name: "none"},
		{name: "good", header: []string{"cf-aig-cache-ttl", "60", "cf-aig-max-attempts", "5", "cf-aig-backoff", "linear", "cf-aig-no-wholesale", "true"}},
		{name: "unknown", header: []string{"cf-aig-whatever", "1"}, violations: []string{"cf-aig-whatever is no request header of the gateway"}},
		{name: "ttl", header: []string{"cf-aig-cache-ttl", "59"}, violations: []string{"cf-aig-cache-ttl has a value that the gateway does not take"}},
		{name: "attempts", header: []string{"cf-aig-max-attempts", "6"}, violations: []string{"cf-aig-max-attempts has a value that the gateway does not take"}},
		{name: "backoff", header: []string{"cf-aig-backoff", "none"}, violations: []string{"cf-aig-backoff has a value that the gateway does not take"}},
		{name: "trace", header: []string{"cf-aig-otel-trace-id", "xyz"}, violations: []string{"cf-aig-otel-trace-id has a value that the gateway does not take"}},
		{name: "metadata", header: []string{"cf-aig-metadata", `{"a":"1","b":2,"c":true}`}, metadata: map[string]any{"a": "1", "b": 2.0, "c": true}},
		{name: "metadata null", header: []string{"cf-aig-metadata", `{"a":"1","b":null}`}, violations: []string{"cf-aig-metadata has a value that is not a string, number or boolean: all of it lost"}},
		{name: "metadata nested", header: []string{"cf-aig-metadata", `{"a":{}}`}, violations: []string{"cf-aig-metadata has a value that is not a string, number or boolean: all of it lost"}},
		{name: "metadata array", header: []string{"cf-aig-metadata", `[1]`}, violations: []string{"cf-aig-metadata is not a JSON object: lost"}},
		{name: "metadata reserved", header: []string{"cf-aig-metadata", `{"cf.a":1,"b":2}`}, metadata: map[string]any{"b": 2.0}, violations: []string{"cf-aig-metadata uses a reserved key: cf.*"}},
		{name: "metadata six", header: []string{"cf-aig-metadata", `{"a":1,"b":1,"c":1,"d":1,"e":1,"f":1}`},
			metadata: map[string]any{"a": 1.0, "b": 1.0, "c": 1.0, "d": 1.0, "e": 1.0}, violations: []string{"cf-aig-metadata has 6 entries, 5 are kept"}},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			g := apexproxytest.NewGateway(apexproxytest.GatewayConfig{})
			defer g.Close()
			call(t, g, "POST", "/openai/chat/completions", chatBody, tt.header...)
			got := g.Requests()[0]
			if diff := cmp.Diff(tt.violations, got.Violations); diff != "" {
				t.Error("violations -want +got:\n" + diff)
			}
			if diff := cmp.Diff(tt.metadata, got.Metadata); diff != "" {
				t.Error("metadata -want +got:\n" + diff)
			}
		})
	}
}

// TestGatewayForwards looks at the request from behind the gateway.
func TestGatewayForwards(t *testing.T) {
	t.Parallel()
	var got apexproxytest.Request
	g := apexproxytest.NewGateway(apexproxytest.GatewayConfig{TLS: true, Provider: http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		body, _ := io.ReadAll(r.Body)
		got = apexproxytest.Request{Method: r.Method, RequestURI: r.RequestURI, Proto: r.Proto, Body: body, Header: r.Header}
		w.Header().Set("Request-Id", "own")
	})})
	defer g.Close()
	resp, _ := call(t, g, "POST", "/custom-x/a%2Fb/c?q=1", "[1]", "cf-aig-event-id", "ev", "User-Agent", "test", "Accept-Encoding", "identity")
	want := apexproxytest.Request{Method: "POST", RequestURI: "/a%2Fb/c?q=1", Proto: "HTTP/2.0", Body: []byte("[1]"),
		Header: http.Header{"User-Agent": {"test"}, "Accept-Encoding": {"identity"}, "Content-Length": {"3"}}}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Error("-want +got:\n" + diff)
	}
	answer := map[string]string{}
	for _, name := range []string{"Request-Id", "Cf-Aig-Event-Id", "Cf-Aig-Cache-Status"} {
		answer[name] = resp.Header.Get(name)
	}
	if diff := cmp.Diff(map[string]string{"Request-Id": "own", "Cf-Aig-Event-Id": "ev", "Cf-Aig-Cache-Status": "MISS"}, answer); diff != "" {
		t.Error("-want +got:\n" + diff)
	}
}

func TestGatewayBodyError(t *testing.T) {
	t.Parallel()
	g := apexproxytest.NewGateway(apexproxytest.GatewayConfig{})
	defer g.Close()
	conn, err := net.Dial("tcp", g.Host)
	if err != nil {
		t.Fatal(err)
	}
	io.WriteString(conn, "POST / HTTP/1.1\r\nHost: x\r\nContent-Length: 10\r\n\r\nhalf")
	conn.(*net.TCPConn).CloseWrite()
	if b, err := io.ReadAll(conn); len(b) > 0 || err != nil {
		t.Errorf("answered %q, %v", b, err)
	}
	conn.Close()
	if err := g.WaitCancelled(testContext(t), 1); err != nil {
		t.Fatal(err)
	}
	if got := g.Requests()[0]; string(got.Body) != "half" || got.BodyErr == nil {
		t.Errorf("body %q, error %v", got.Body, got.BodyErr)
	}
}
