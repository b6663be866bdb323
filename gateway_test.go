package apexproxy_test

import (
	"fmt"
	"io"
	"net/http"
	"strconv"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"github.com/tidwall/gjson"

	"github.com/loadchange/apexproxy"
	"github.com/loadchange/apexproxy/apexproxytest"
)

// sent is a request as an upstream received it. URI and Body are bytes, Header is the whole map.
type sent struct {
	Method, URI, Host string
	Header            http.Header
	Body              string
}

func sentFrom(r apexproxytest.Request) sent {
	return sent{r.Method, r.RequestURI, r.Host, r.Header, string(r.Body)}
}

func sentToGateway(g *apexproxytest.Gateway) []sent {
	var list []sent
	for _, r := range g.Requests() {
		list = append(list, sentFrom(r.Request))
	}
	return list
}

func sentToUpstream(u *apexproxytest.Upstream) []sent {
	var list []sent
	for _, r := range u.Requests() {
		list = append(list, sentFrom(r))
	}
	return list
}

// inBody puts a model into a body that tells re-encoding from copying: escapes, a number without a
// float64, odd white space, a nested and a doubled key.
func inBody(model string) string {
	return `{"messages": [ {"role":"user","content":"a\u003cb \/"} ],"seed":1E400,"n":9223372036854775808,` +
		` "model" :` + strconv.Quote(model) + `	,"metadata":{"model":"not#this"},"x":1,"x":2,"input":"hi"}`
}

// clientHeaders is what every client in this file sends beside its token.
var clientHeaders = []string{
	"User-Agent", "test/1",
	"Accept", "application/json",
	"Anthropic-Version", "2023-06-01",
	"Anthropic-Beta", "a-2025-01-01,b-2025-01-01",
	"X-Stainless-Lang", "js",
	"Cookie", "session=1",
	"Api-Key", clientKey,
	"Cf-Aig-Cache-Ttl", "60",
	"Cf-Aig-Byok-Alias", "other",
}

// atGateway is the header with which such a request reaches the gateway.
func atGateway(body string, more ...string) http.Header {
	h := headers(append([]string{
		"User-Agent", "test/1",
		"Accept", "application/json",
		"Anthropic-Version", "2023-06-01",
		"Anthropic-Beta", "a-2025-01-01,b-2025-01-01",
		"X-Stainless-Lang", "js",
		"Cf-Aig-Cache-Ttl", "60",
		"Cf-Aig-Authorization", "Bearer " + gatewayToken,
		"Accept-Encoding", "identity",
	}, more...)...)
	if body != "" {
		h.Set("Content-Type", "application/json; charset=utf-8")
		h.Set("Content-Length", strconv.Itoa(len(body)))
	}
	return h
}

// callGateway sends one request, with the token where that operation's clients put it.
func callGateway(t *testing.T, proxy, path, body string) answer {
	t.Helper()
	h := append([]string{"Content-Type", "application/json; charset=utf-8"}, clientHeaders...)
	if strings.Contains(path, "/messages") {
		h = append(h, "X-Api-Key", gatewayToken)
	} else {
		h = append(h, "Authorization", "Bearer "+gatewayToken)
	}
	return do(t, http.MethodPost, proxy+path, body, h...)
}

// operationPaths are the client's paths.
var operationPaths = map[apexproxy.Operation]string{
	apexproxy.OperationChat:        "/v1/chat/completions",
	apexproxy.OperationMessages:    "/v1/messages",
	apexproxy.OperationCountTokens: "/v1/messages/count_tokens",
	apexproxy.OperationResponses:   "/v1/responses",
	apexproxy.OperationEmbeddings:  "/v1/embeddings",
}

// route is where one operation of a provider goes: the path below the gateway's base URL and the
// model there. The zero route is a 400.
type route struct{ path, model string }

// gatewayRoutes is the provider table as clients see it. Chat for anthropic and messages for all
// others have their own tests below.
var gatewayRoutes = []struct {
	model string // as the client writes it
	chat  route
	// compat is chat with PreferCompat, chat again where that changes nothing.
	compat                route
	responses, embeddings route
}{
	{
		model:      "gpt-5.5#openai",
		chat:       route{"/openai/chat/completions", "gpt-5.5"},
		compat:     route{"/compat/chat/completions", "openai/gpt-5.5"},
		responses:  route{"/openai/responses", "gpt-5.5"},
		embeddings: route{"/openai/embeddings", "gpt-5.5"},
	},
	{
		model:      "gemini-3-pro#google-ai-studio",
		chat:       route{"/google-ai-studio/v1beta/openai/chat/completions", "gemini-3-pro"},
		compat:     route{"/compat/chat/completions", "google-ai-studio/gemini-3-pro"},
		embeddings: route{"/google-ai-studio/v1beta/openai/embeddings", "gemini-3-pro"},
	},
	{
		model:     "openai/gpt-oss-120b#groq",
		chat:      route{"/groq/chat/completions", "openai/gpt-oss-120b"},
		compat:    route{"/compat/chat/completions", "groq/openai/gpt-oss-120b"},
		responses: route{"/groq/responses", "openai/gpt-oss-120b"},
	},
	{
		model:      "mistral-large#mistral",
		chat:       route{"/mistral/v1/chat/completions", "mistral-large"},
		compat:     route{"/compat/chat/completions", "mistral/mistral-large"},
		embeddings: route{"/mistral/v1/embeddings", "mistral-large"},
	},
	{
		model:     "grok-4#grok",
		chat:      route{"/grok/v1/chat/completions", "grok-4"},
		compat:    route{"/compat/chat/completions", "grok/grok-4"},
		responses: route{"/grok/v1/responses", "grok-4"},
	},
	{
		model:  "deepseek-chat#deepseek",
		chat:   route{"/deepseek/chat/completions", "deepseek-chat"},
		compat: route{"/compat/chat/completions", "deepseek/deepseek-chat"},
	},
	{
		model:  "llama-4#cerebras",
		chat:   route{"/cerebras/chat/completions", "llama-4"},
		compat: route{"/compat/chat/completions", "cerebras/llama-4"},
	},
	{
		model:      "command-a#cohere",
		chat:       route{"/cohere/compatibility/v1/chat/completions", "command-a"},
		compat:     route{"/compat/chat/completions", "cohere/command-a"},
		embeddings: route{"/cohere/compatibility/v1/embeddings", "command-a"},
	},
	{
		model:     "sonar#perplexity-ai",
		chat:      route{"/perplexity-ai/chat/completions", "sonar"},
		compat:    route{"/perplexity-ai/chat/completions", "sonar"},
		responses: route{"/perplexity-ai/v1/responses", "sonar"},
	},
	{
		model:      "my deployment%2F1#azure-openai",
		chat:       route{"/azure-openai/my-resource/my%20deployment%252F1/chat/completions?api-version=2025-01-01", "my deployment%2F1"},
		compat:     route{"/azure-openai/my-resource/my%20deployment%252F1/chat/completions?api-version=2025-01-01", "my deployment%2F1"},
		embeddings: route{"/azure-openai/my-resource/my%20deployment%252F1/embeddings?api-version=2025-01-01", "my deployment%2F1"},
	},
	{
		model:      "meta/llama#openrouter",
		chat:       route{"/openrouter/v1/chat/completions", "meta/llama"},
		compat:     route{"/openrouter/v1/chat/completions", "meta/llama"},
		responses:  route{"/openrouter/v1/responses", "meta/llama"},
		embeddings: route{"/openrouter/v1/embeddings", "meta/llama"},
	},
	{
		model:  "baseten/some-model#compat",
		chat:   route{"/compat/chat/completions", "baseten/some-model"},
		compat: route{"/compat/chat/completions", "baseten/some-model"},
	},
	{
		model:  "support#dynamic",
		chat:   route{"/compat/chat/completions", "dynamic/support"},
		compat: route{"/compat/chat/completions", "dynamic/support"},
	},
	{
		model:      "@cf/meta/llama-4#workers-ai",
		chat:       route{"/workers-ai/v1/chat/completions", "@cf/meta/llama-4"},
		compat:     route{"/workers-ai/v1/chat/completions", "@cf/meta/llama-4"},
		embeddings: route{"/workers-ai/v1/embeddings", "@cf/meta/llama-4"},
	},
	{
		model:  "gemini-3-pro#google-vertex-ai",
		chat:   route{"/compat/chat/completions", "google-vertex-ai/google/gemini-3-pro"},
		compat: route{"/compat/chat/completions", "google-vertex-ai/google/gemini-3-pro"},
	},
	{
		model:  "google/gemini-3-pro#google-vertex-ai",
		chat:   route{"/compat/chat/completions", "google-vertex-ai/google/gemini-3-pro"},
		compat: route{"/compat/chat/completions", "google-vertex-ai/google/gemini-3-pro"},
	},
	{
		model:      "any/thing#custom-mine_1",
		chat:       route{"/custom-mine_1/v1/chat/completions", "any/thing"},
		compat:     route{"/custom-mine_1/v1/chat/completions", "any/thing"},
		responses:  route{"/custom-mine_1/v1/responses", "any/thing"},
		embeddings: route{"/custom-mine_1/v1/embeddings", "any/thing"},
	},
	{model: "claude-opus-4-7#anthropic"},
}

func TestGatewayRoutes(t *testing.T) {
	t.Parallel()
	for _, row := range gatewayRoutes {
		for _, preferCompat := range []bool{false, true} {
			chat := row.chat
			if preferCompat {
				chat = row.compat
			}
			for op, want := range map[apexproxy.Operation]route{
				apexproxy.OperationChat:       chat,
				apexproxy.OperationResponses:  row.responses,
				apexproxy.OperationEmbeddings: row.embeddings,
			} {
				if op == apexproxy.OperationChat && want == (route{}) {
					continue
				}
				t.Run(fmt.Sprintf("%s/%s/PreferCompat=%t", row.model, op, preferCompat), func(t *testing.T) {
					t.Parallel()
					g := newGateway(t, apexproxytest.GatewayConfig{})
					cfg := via(g)
					cfg.PreferCompat = preferCompat
					cfg.Azure = apexproxy.Azure{Resource: "my-resource", APIVersion: "2025-01-01"}
					got := callGateway(t, newProxy(t, apexproxy.WithGateway(cfg)), operationPaths[op], inBody(row.model))
					if want == (route{}) {
						_, name, _ := strings.Cut(row.model, "#")
						wantRefused(t, got, 400, "unsupported_operation",
							fmt.Sprintf("provider %s has no %s API here: choose another provider or operation", name, op))
						wantUntouched(t, g)
						return
					}
					wantSent(t, g, want, got)
				})
			}
		}
	}
}

func TestGatewayMessagesNative(t *testing.T) {
	t.Parallel()
	for path, want := range map[string]string{
		"/v1/messages":           "/anthropic/v1/messages",
		"/v1/messages?beta=true": "/anthropic/v1/messages?beta=true",
		"/v1/messages/count_tokens?beta=true&key=abcd": "/anthropic/v1/messages/count_tokens?beta=true",
	} {
		for _, preferCompat := range []bool{false, true} {
			t.Run(fmt.Sprintf("%s/PreferCompat=%t", path, preferCompat), func(t *testing.T) {
				t.Parallel()
				g := newGateway(t, apexproxytest.GatewayConfig{})
				cfg := via(g)
				cfg.PreferCompat = preferCompat
				got := callGateway(t, newProxy(t, apexproxy.WithGateway(cfg)), path, inBody("claude-opus-4-7#anthropic"))
				wantSent(t, g, route{want, "claude-opus-4-7"}, got)
			})
		}
	}
}

// TestGatewayMessagesElsewhere holds where messages go for providers without a Messages API:
// converted, to that provider's chat completions. Tokens are counted here.
func TestGatewayMessagesElsewhere(t *testing.T) {
	t.Parallel()
	messages := func(model string) string {
		return `{"model":` + quoted(model) + `,"max_tokens":5,"messages":[{"role":"user","content":"hi"}]}`
	}
	for _, row := range gatewayRoutes {
		if row.chat == (route{}) {
			continue
		}
		for _, preferCompat := range []bool{false, true} {
			want := row.chat
			if preferCompat {
				want = row.compat
			}
			t.Run(fmt.Sprintf("%s/PreferCompat=%t", row.model, preferCompat), func(t *testing.T) {
				t.Parallel()
				g := newGateway(t, apexproxytest.GatewayConfig{})
				cfg := via(g)
				cfg.PreferCompat = preferCompat
				cfg.Azure = apexproxy.Azure{Resource: "my-resource", APIVersion: "2025-01-01"}
				proxy := newProxy(t, apexproxy.WithGateway(cfg))

				got := callGateway(t, proxy, "/v1/messages/count_tokens", messages(row.model))
				if got.Status != 200 || !strings.HasPrefix(got.Body, `{"input_tokens":`) || got.Header.Get("X-Apex-Ai-Proxy-Estimate") != "input_tokens" {
					t.Errorf("count_tokens: got %d %s %v", got.Status, got.Body, got.Header)
				}
				wantUntouched(t, g)

				got = callGateway(t, proxy, "/v1/messages", messages(row.model))
				if got.Status != 200 || !strings.HasPrefix(got.Body, `{"id":`) || !strings.Contains(got.Body, `"type":"message"`) {
					t.Errorf("messages: got %d %s", got.Status, got.Body)
				}
				var body string
				for _, r := range g.Requests() {
					body = string(r.Body)
				}
				header := atGateway(body)
				header.Del("Anthropic-Version")
				header.Del("Anthropic-Beta")
				wantAll := []sent{{
					Method: "POST", URI: "/v1/test-account/test-gateway" + want.path, Host: g.Host, Header: header, Body: body,
				}}
				if diff := cmp.Diff(wantAll, sentToGateway(g)); diff != "" {
					t.Errorf("the gateway got (-want +got):\n%s", diff)
				}
				if model := gjson.Get(body, "model").Str; model != want.model || gjson.Get(body, "messages.0.content").String() != "hi" {
					t.Errorf("the gateway got %s, want model %s", body, want.model)
				}
			})
		}
	}
}

// TestGatewayChatForAnthropic holds what becomes of chat completions for the one provider that has
// no OpenAI-shaped path.
func TestGatewayChatForAnthropic(t *testing.T) {
	t.Parallel()
	for _, preferCompat := range []bool{false, true} {
		t.Run(fmt.Sprintf("PreferCompat=%t", preferCompat), func(t *testing.T) {
			t.Parallel()
			g := newGateway(t, apexproxytest.GatewayConfig{})
			cfg := via(g)
			cfg.PreferCompat = preferCompat
			got := callGateway(t, newProxy(t, apexproxy.WithGateway(cfg)), "/v1/chat/completions", inBody("claude-opus-4-7#anthropic"))
			wantSent(t, g, route{"/compat/chat/completions", "anthropic/claude-opus-4-7"}, got)
		})
	}
}

// wantSent checks that exactly one request reached the gateway, that it is the client's in all but
// the model, and that its answer came back.
func wantSent(t *testing.T, g *apexproxytest.Gateway, want route, got answer) {
	t.Helper()
	body := inBody(want.model)
	wantAll := []sent{{
		Method: http.MethodPost, URI: "/v1/test-account/test-gateway" + want.path, Host: g.Host,
		Header: atGateway(body), Body: body,
	}}
	if diff := cmp.Diff(wantAll, sentToGateway(g)); diff != "" {
		t.Errorf("the gateway got (-want +got):\n%s", diff)
	}
	for _, r := range g.Requests() {
		if r.Refused != "" || r.Violations != nil || r.Credential != apexproxytest.CredentialStored {
			t.Errorf("the gateway refused %q, found %q and used the %s credential", r.Refused, r.Violations, r.Credential)
		}
	}
	if got.Status != 200 {
		t.Errorf("the client got %d %s", got.Status, got.Body)
	}
}

// wantRefused checks an answer of the proxy itself, in the dialect it is in.
func wantRefused(t *testing.T, got answer, status int, code, message string) {
	t.Helper()
	if got.Status != status || got.Header.Get("Proxy-Status") == "" || !strings.Contains(got.Body, strconv.Quote(message)) {
		t.Errorf("got %d %s, want %d by the proxy with message %q", got.Status, got.Body, status, message)
	}
	if !strings.Contains(got.Body, `"request_id"`) && !strings.Contains(got.Body, `"code":`+strconv.Quote(code)) {
		t.Errorf("got %s, want code %q", got.Body, code)
	}
}

func wantUntouched(t *testing.T, g *apexproxytest.Gateway) {
	t.Helper()
	if n, list := g.Connections(), g.Requests(); n != 0 || len(list) != 0 {
		t.Errorf("the gateway saw %d connections and %d requests, want none", n, len(list))
	}
}

func TestGatewayModels(t *testing.T) {
	t.Parallel()
	for _, method := range []string{http.MethodGet, http.MethodHead} {
		for path, want := range map[string]string{
			"/v1/models":                       "/compat/models",
			"/models/?limit=1000&api_key=x&&a": "/compat/models?limit=1000&&a",
		} {
			t.Run(method+path, func(t *testing.T) {
				t.Parallel()
				g := newGateway(t, apexproxytest.GatewayConfig{Paths: map[string][]string{"compat": {"*"}}})
				proxy := newProxy(t, apexproxy.WithGateway(via(g)))
				got := do(t, method, proxy+path, "", append([]string{"Authorization", "Bearer " + gatewayToken}, clientHeaders...)...)
				wantAll := []sent{{
					Method: method, URI: "/v1/test-account/test-gateway" + want, Host: g.Host, Header: atGateway(""),
				}}
				if diff := cmp.Diff(wantAll, sentToGateway(g)); diff != "" {
					t.Errorf("the gateway got (-want +got):\n%s", diff)
				}
				if got.Status != 200 || (got.Body == "") != (method == http.MethodHead) {
					t.Errorf("got %d with %d bytes", got.Status, len(got.Body))
				}
			})
		}
	}
}

// TestGatewayModelList: the gateway's list in the client's dialect, with ids that this proxy
// routes.
func TestGatewayModelList(t *testing.T) {
	t.Parallel()
	const list = `{"object":"list","data":[{"id":"openai/gpt-5.5","created_at":1767225600},{"id":"anthropic/claude-opus-4.7","created_at":0},` +
		`{"id":"workers-ai/@cf/meta/llama","created_at":1}, {"id":"perplexity/sonar"}, {"id":7}, {"id":""}, {"id":"a/b#c"}]}`
	for _, tt := range []struct {
		name, path, list string
		header           []string
		status           int
		want             string
	}{
		{"OpenAI", "/v1/models", list, nil, 200, `{"object":"list","data":[` +
			`{"id":"gpt-5.5#openai","object":"model","created":1767225600,"owned_by":"openai"},` +
			`{"id":"claude-opus-4.7#anthropic","object":"model","created":0,"owned_by":"anthropic"},` +
			`{"id":"@cf/meta/llama#workers-ai","object":"model","created":1,"owned_by":"workers-ai"},` +
			`{"id":"sonar#perplexity-ai","object":"model","created":0,"owned_by":"perplexity-ai"}]}`},
		{"Anthropic", "/v1/models?limit=1000", list, []string{"Anthropic-Version", "2023-06-01"}, 200, `{"data":[` +
			`{"id":"gpt-5.5#openai","type":"model","display_name":"gpt-5.5#openai","created_at":"2026-01-01T00:00:00Z"},` +
			`{"id":"claude-opus-4.7#anthropic","type":"model","display_name":"claude-opus-4.7#anthropic","created_at":"1970-01-01T00:00:00Z"},` +
			`{"id":"@cf/meta/llama#workers-ai","type":"model","display_name":"@cf/meta/llama#workers-ai","created_at":"1970-01-01T00:00:01Z"},` +
			`{"id":"sonar#perplexity-ai","type":"model","display_name":"sonar#perplexity-ai","created_at":"1970-01-01T00:00:00Z"}],` +
			`"has_more":false,"first_id":"gpt-5.5#openai","last_id":"sonar#perplexity-ai"}`},
		{"one", "/v1/models/gpt-5.5%23openai", list, nil, 200, `{"id":"gpt-5.5#openai","object":"model","created":1767225600,"owned_by":"openai"}`},
		{"one, no such", "/v1/models/gpt-4", list, nil, 404, `{"error":{"message":"no such model: GET …/models lists them","type":"not_found_error","code":"model_not_found"}}` + "\n"},
		{"none", "/v1/models", `{"data":[]}`, nil, 200, `{"object":"list","data":[]}`},
		{"none, Anthropic", "/v1/models", `{"data":[]}`, []string{"Anthropic-Version", "2023-06-01"}, 200, `{"data":[],"has_more":false,"first_id":null,"last_id":null}`},
		{"no list", "/v1/models", `{"data":{}}`, nil, 502, `{"error":{"message":"the gateway's list of models could not be read","type":"server_error","code":null}}` + "\n"},
		{"not JSON", "/v1/models", `<html>`, nil, 502, `{"error":{"message":"the gateway's list of models could not be read","type":"server_error","code":null}}` + "\n"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			up := newUpstream(t, apexproxytest.JSON(200, tt.list))
			proxy := newProxy(t, apexproxy.WithTransport(up.Transport()), apexproxy.WithGateway(apexproxy.Gateway{BaseURL: up.URL, Token: gatewayToken}))
			got := do(t, "GET", proxy+tt.path, "", append([]string{"X-Api-Key", gatewayToken}, tt.header...)...)
			if diff := cmp.Diff(tt.want, got.Body); diff != "" || got.Status != tt.status {
				t.Errorf("got %d, want %d (-want +got):\n%s", got.Status, tt.status, diff)
			}
		})
	}
}

func TestGatewayQuery(t *testing.T) {
	t.Parallel()
	for query, want := range map[string]string{
		"":                                  "",
		"?":                                 "",
		"?beta=true":                        "?beta=true",
		"?a=1&b=%2F&a=2&c":                  "?a=1&b=%2F&a=2&c",
		"?key=s&beta=true":                  "?beta=true",
		"?beta=true&api_key=s":              "?beta=true",
		"?access_token=s&a=1&token=s":       "?a=1",
		"?KEY=s&Token=s&a=1":                "?a=1",
		"?%6bey=s&t%6Fken=s&a=%6bey":        "?a=%6bey",
		"?a=1;key=s;b=2&c=3":                "?a=1&c=3",
		"?key":                              "",
		"?monkey=1&keys=2&token_count=3":    "?monkey=1&keys=2&token_count=3",
		"?api-version=2020-01-01&a=1":       "?api-version=2020-01-01&a=1",
		"?redirect=https://evil.example/%0": "?redirect=https://evil.example/%0",
	} {
		t.Run(query, func(t *testing.T) {
			t.Parallel()
			g := newGateway(t, apexproxytest.GatewayConfig{})
			callGateway(t, newProxy(t, apexproxy.WithGateway(via(g))), "/v1/chat/completions"+query, inBody("m#openai"))
			wantURIs(t, g, "/v1/test-account/test-gateway/openai/chat/completions"+want)
		})
	}
}

func wantURIs(t *testing.T, g *apexproxytest.Gateway, want ...string) {
	t.Helper()
	var got []string
	for _, r := range g.Requests() {
		got = append(got, r.RequestURI)
	}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Errorf("requests at the gateway (-want +got):\n%s", diff)
	}
}

func TestGatewayAzure(t *testing.T) {
	t.Parallel()
	const base = "/v1/test-account/test-gateway/azure-openai/res/"
	for _, tt := range []struct {
		name, model, query string
		azure              apexproxy.Azure
		want               string // URI; empty: refused
		message            string
	}{
		{name: "default version", model: "d", azure: apexproxy.Azure{Resource: "res"}, want: base + "d/chat/completions?api-version=2024-10-21"},
		{name: "client's version", model: "d", query: "?api-version=1999-01-01", azure: apexproxy.Azure{Resource: "res"}, want: base + "d/chat/completions?api-version=2024-10-21"},
		{name: "client's version, escaped", model: "d", query: "?a=1&api%2Dversion=1999&API-Version=2&b=2", azure: apexproxy.Azure{Resource: "res"}, want: base + "d/chat/completions?api-version=2024-10-21&a=1&b=2"},
		{name: "query", model: "d", query: "?a=1&key=s", azure: apexproxy.Azure{Resource: "res", APIVersion: "preview"}, want: base + "d/chat/completions?api-version=preview&a=1"},
		{name: "odd model", model: "dé?&;:@=+$,", azure: apexproxy.Azure{Resource: "res"}, want: base + "d%C3%A9%3F&%3B:@=+$%2C/chat/completions?api-version=2024-10-21"},
		{name: "three dots", model: "...", azure: apexproxy.Azure{Resource: "res"}, want: base + ".../chat/completions?api-version=2024-10-21"},
		{name: "placeholder as a model", model: "{resource}", azure: apexproxy.Azure{Resource: "res"}, want: base + "%7Bresource%7D/chat/completions?api-version=2024-10-21"},
		{name: "no resource", model: "d", message: "provider azure-openai is not configured on this proxy"},
		{name: "slash", model: "a/b", azure: apexproxy.Azure{Resource: "res"}, message: `model \"a/b\" must be one path segment for provider azure-openai: name the deployment alone`},
		{name: "backslash", model: `a\\b`, azure: apexproxy.Azure{Resource: "res"}, message: "must be one path segment"},
		{name: "dot", model: ".", azure: apexproxy.Azure{Resource: "res"}, message: "must be one path segment"},
		{name: "dots", model: "..", azure: apexproxy.Azure{Resource: "res"}, message: "must be one path segment"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			g := newGateway(t, apexproxytest.GatewayConfig{})
			cfg := via(g)
			cfg.Azure = tt.azure
			got := callGateway(t, newProxy(t, apexproxy.WithGateway(cfg)), "/v1/chat/completions"+tt.query, `{"model":"`+tt.model+`#azure-openai"}`)
			if tt.want == "" {
				if got.Status != 400 || !strings.Contains(got.Body, tt.message) {
					t.Errorf("got %d %s, want 400 with %q", got.Status, got.Body, tt.message)
				}
				wantUntouched(t, g)
				return
			}
			wantURIs(t, g, tt.want)
		})
	}
}

// An estimate of a count is for a provider that could be asked for the message.
func TestGatewayAzure_estimate(t *testing.T) {
	t.Parallel()
	g := newGateway(t, apexproxytest.GatewayConfig{})
	proxy := newProxy(t, apexproxy.WithGateway(via(g)))
	got := callGateway(t, proxy, "/v1/messages/count_tokens", messagesFor("d#azure-openai"))
	if got.Status != 400 || !strings.Contains(got.Body, "provider azure-openai is not configured on this proxy") {
		t.Errorf("got %d %s", got.Status, got.Body)
	}
}

func TestGatewayRefusedModels(t *testing.T) {
	t.Parallel()
	const names = "anthropic, azure-openai, cerebras, cohere, compat, custom-*, deepseek, dynamic, google-ai-studio, google-vertex-ai, grok, groq, mistral, openai, openrouter, perplexity-ai, workers-ai"
	unknown := func(name string) string { return `provider "` + name + `" is unknown: use one of ` + names }
	long := strings.Repeat("x", 100)
	for _, tt := range []struct{ name, body, code, message string }{
		{"no provider", `{"model":"gpt"}`, "invalid_model", `model "gpt" names no provider: write it as name#provider`},
		{"empty provider", `{"model":"gpt#"}`, "invalid_model", `model "gpt#" names no provider: write it as name#provider`},
		{"empty name", `{"model":"#openai"}`, "invalid_model", `model "#openai" names no provider: write it as name#provider`},
		{"only #", `{"model":"#"}`, "invalid_model", `model "#" names no provider: write it as name#provider`},
		{"two #", `{"model":"a#b#openai"}`, "invalid_model", `model "a#b#openai" has more than one #: write it as name#provider`},
		{"two # together", `{"model":"a##openai"}`, "invalid_model", `model "a##openai" has more than one #: write it as name#provider`},
		{"unknown", `{"model":"a#nobody"}`, "unknown_provider", unknown("nobody")},
		{"case", `{"model":"a#OpenAI"}`, "unknown_provider", unknown("OpenAI")},
		{"space", `{"model":"a# openai"}`, "unknown_provider", unknown(" openai")},
		{"path in provider", `{"model":"a#openai/../../x"}`, "unknown_provider", unknown("openai/../../x")},
		{"pattern as provider", `{"model":"a#custom-*"}`, "unknown_provider", unknown("custom-*")},
		{"pattern's prefix", `{"model":"a#custom-"}`, "unknown_provider", unknown("custom-")},
		{"path in custom", `{"model":"a#custom-x/y"}`, "unknown_provider", unknown("custom-x/y")},
		{"dots in custom", `{"model":"a#custom-../x"}`, "unknown_provider", unknown("custom-../x")},
		{"query in custom", `{"model":"a#custom-x?y"}`, "unknown_provider", unknown("custom-x?y")},
		{"long", `{"model":"a#` + long + `"}`, "unknown_provider", unknown(long[:80] + "…")},
		{"missing", `{}`, "model_missing", `"model" must be a non-empty string: write it as name#provider`},
		{"empty", `{"model":""}`, "model_missing", `"model" must be a non-empty string: write it as name#provider`},
		{"null", `{"model":null}`, "model_missing", `"model" must be a non-empty string: write it as name#provider`},
		{"number", `{"model":7}`, "model_missing", `"model" must be a non-empty string: write it as name#provider`},
		{"array", `{"model":["a#openai"]}`, "model_missing", `"model" must be a non-empty string: write it as name#provider`},
		{"nested only", `{"x":{"model":"a#openai"}}`, "model_missing", `"model" must be a non-empty string: write it as name#provider`},
		{"case of the key", `{"Model":"a#openai"}`, "model_missing", `"model" must be a non-empty string: write it as name#provider`},
		{"twice", `{"model":"a#openai","model":"a#openai"}`, "ambiguous_model", `the request body has more than one "model": send it once`},
		{"twice, escaped", `{"model":"a#openai","m\u006fdel":1}`, "ambiguous_model", `the request body has more than one "model": send it once`},
		{"array body", `["model","a#openai"]`, "invalid_json", "the request body must be a JSON object"},
		{"string body", `"a#openai"`, "invalid_json", "the request body must be a JSON object"},
		{"no body", ``, "invalid_json", "the request body is not valid JSON at byte 0"},
		{"not JSON", `{"model":"a#openai",}`, "invalid_json", "the request body is not valid JSON at byte 20"},
		{"two documents", `{"model":"a#openai"}{}`, "invalid_json", "the request body is not valid JSON at byte 20"},
		{"cut off", `{"model":"a#openai"`, "invalid_json", "the request body is not valid JSON at byte 19"},
		{"too deep", `{"model":"a#openai","x":` + strings.Repeat("[", 10001), "invalid_json", "the request body is nested too deeply"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			g := newGateway(t, apexproxytest.GatewayConfig{})
			proxy := newProxy(t, apexproxy.WithGateway(via(g)))
			for _, path := range []string{"/v1/chat/completions", "/v1/messages", "/v1/messages/count_tokens", "/v1/responses", "/v1/embeddings"} {
				wantRefused(t, callGateway(t, proxy, path, tt.body), 400, tt.code, tt.message)
			}
			wantUntouched(t, g)
		})
	}
}

// TestGatewayModelEncoding shows that the model is compared decoded and written back as JSON.
func TestGatewayModelEncoding(t *testing.T) {
	t.Parallel()
	for _, tt := range []struct{ name, body, want string }{
		{"escaped key", `{"m\u006fdel":"a#openai"}`, `{"m\u006fdel":"a"}`},
		{"escaped value", `{"model":"\u0061\u0023openai"}`, `{"model":"a"}`},
		{"quote in the name", `{"model":"a\"b\\c#openai"}`, `{"model":"a\"b\\c"}`},
		{"angle brackets", `{"model":"<a>&#openai"}`, `{"model":"<a>&"}`},
		{"not ASCII", `{"model":"modèle#openai"}`, `{"model":"modèle"}`},
		{"white space", "\n{\t\"model\"\r\n: \"a#openai\" }\n\n", "\n{\t\"model\"\r\n: \"a\" }\n\n"},
		{"byte order mark", "\uFEFF{\"model\":\"a#openai\"}", "\uFEFF{\"model\":\"a\"}"},
		{"spaces in the name", `{"model":" a #openai"}`, `{"model":" a "}`},
		{"doubled other keys", `{"stream":false,"stream":false,"model":"a#openai"}`, `{"stream":false,"stream":false,"model":"a"}`},
		{"lone surrogate elsewhere", `{"model":"a#openai","x":"\ud800"}`, `{"model":"a","x":"\ud800"}`},
		{"bytes that are no UTF-8", "{\"x\":\"\xff\",\"model\":\"a#openai\"}", "{\"x\":\"\xff\",\"model\":\"a\"}"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			g := newGateway(t, apexproxytest.GatewayConfig{Paths: map[string][]string{"openai": {"*"}}})
			callGateway(t, newProxy(t, apexproxy.WithGateway(via(g))), "/v1/chat/completions", tt.body)
			var got []string
			for _, r := range g.Requests() {
				got = append(got, string(r.Body))
			}
			if diff := cmp.Diff([]string{tt.want}, got); diff != "" {
				t.Errorf("bodies at the gateway (-want +got):\n%s", diff)
			}
		})
	}
}

func TestWithProvider(t *testing.T) {
	t.Parallel()
	everything := apexproxytest.GatewayConfig{Paths: map[string][]string{"fireworks": {"*"}, "openai": {"*"}, "mine": {"*"}, "custom-a": {"*"}, "v": {"*"}}}
	for _, tt := range []struct {
		name        string
		row         apexproxy.Provider
		path, model string
		want, sent  string // path below the base URL and the model there
	}{
		{"new", apexproxy.Provider{Name: "fireworks", Chat: "/fireworks/v1/chat/completions"}, "/v1/chat/completions", "a#fireworks", "/fireworks/v1/chat/completions", "a"},
		{"new with messages", apexproxy.Provider{Name: "mine", Messages: "/mine/anthropic/v1/messages"}, "/v1/messages", "a#mine", "/mine/anthropic/v1/messages", "a"},
		{"count_tokens below messages", apexproxy.Provider{Name: "mine", Messages: "/mine/v1/messages"}, "/v1/messages/count_tokens", "a#mine", "/mine/v1/messages/count_tokens", "a"},
		{"compat alone", apexproxy.Provider{Name: "baseten", Compat: "baseten"}, "/v1/chat/completions", "a#baseten", "/compat/chat/completions", "baseten/a"},
		{"placeholders", apexproxy.Provider{Name: "mine", Chat: "/v/{provider}/{resource}/{model}/chat?v={api-version}&model={model}"}, "/v1/chat/completions?api-version=1&b=2", "a b#mine", "/v/mine/res/a%20b/chat?v=2024-10-21&model=a%20b&b=2", "a b"},
		{"replaced", apexproxy.Provider{Name: "openai", Chat: "/openai/v1/chat/completions"}, "/v1/chat/completions", "a#openai", "/openai/v1/chat/completions", "a"},
		{"replaced row keeps nothing", apexproxy.Provider{Name: "openai", Chat: "/openai/v1/chat/completions"}, "/v1/responses", "a#openai", "", ""},
		{"before a pattern", apexproxy.Provider{Name: "custom-a", Chat: "/custom-a/chat"}, "/v1/chat/completions", "a#custom-a", "/custom-a/chat", "a"},
		{"pattern", apexproxy.Provider{Name: "my-*", Chat: "/mine/{provider}"}, "/v1/chat/completions", "a#my-x", "/mine/my-x", "a"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			g := newGateway(t, everything)
			cfg := via(g)
			cfg.Azure.Resource = "res"
			got := callGateway(t, newProxy(t, apexproxy.WithGateway(cfg), apexproxy.WithProvider(tt.row)), tt.path, inBody(tt.model))
			if tt.want == "" {
				wantRefused(t, got, 400, "unsupported_operation", "provider openai has no responses API here: choose another provider or operation")
				wantUntouched(t, g)
				return
			}
			body := inBody(tt.sent)
			wantAll := []sent{{Method: "POST", URI: "/v1/test-account/test-gateway" + tt.want, Host: g.Host, Header: atGateway(body), Body: body}}
			if diff := cmp.Diff(wantAll, sentToGateway(g)); diff != "" {
				t.Errorf("the gateway got (-want +got):\n%s", diff)
			}
		})
	}
}

// transportFunc is a RoundTripper that shows what would be sent.
type transportFunc func(*http.Request) (*http.Response, error)

func (f transportFunc) RoundTrip(r *http.Request) (*http.Response, error) { return f(r) }

func TestGatewayBaseURL(t *testing.T) {
	t.Parallel()
	for _, tt := range []struct {
		name string
		g    apexproxy.Gateway
		want string
	}{
		{"Cloudflare", apexproxy.Gateway{AccountID: "acc_1", GatewayID: "gw-1"}, "https://gateway.ai.cloudflare.com/v1/acc_1/gw-1/openai/chat/completions"},
		{"custom domain", apexproxy.Gateway{BaseURL: "https://ai.example.com"}, "https://ai.example.com/openai/chat/completions"},
		{"it replaces the ids", apexproxy.Gateway{AccountID: "a", GatewayID: "b", BaseURL: "https://ai.example.com/"}, "https://ai.example.com/openai/chat/completions"},
		{"path", apexproxy.Gateway{BaseURL: "https://ai.example.com:8443/llm/v1///"}, "https://ai.example.com:8443/llm/v1/openai/chat/completions"},
		{"escaped path", apexproxy.Gateway{BaseURL: "http://ai.example.com/a%2Fb/c%20d"}, "http://ai.example.com/a%2Fb/c%20d/openai/chat/completions"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			tt.g.Token = gatewayToken
			var got string
			rt := transportFunc(func(r *http.Request) (*http.Response, error) {
				got = r.URL.String()
				if r.Host != r.URL.Host {
					t.Errorf("Host is %q", r.Host)
				}
				return &http.Response{StatusCode: 200, Header: http.Header{}, Body: io.NopCloser(strings.NewReader(`{}`)), Request: r}, nil
			})
			callGateway(t, newProxy(t, apexproxy.WithGateway(tt.g), apexproxy.WithTransport(rt)), "/some/prefix/v1/chat/completions/", inBody("m#openai"))
			if got != tt.want {
				t.Errorf("got  %s\nwant %s", got, tt.want)
			}
		})
	}
}

// TestGatewayOwnHeaders: what the operator sets, and what nobody can set.
func TestGatewayOwnHeaders(t *testing.T) {
	t.Parallel()
	var aig []string
	wantAig := http.Header{}
	for _, name := range []string{
		"Cache-Ttl", "Skip-Cache", "Request-Timeout", "Max-Attempts", "Retry-Delay", "Backoff", "Event-Id", "Metadata", "Otel-Trace-Id", "Otel-Parent-Span-Id",
	} {
		aig = append(aig, "cf-aig-"+strings.ToLower(name), "client "+name)
		wantAig.Set("Cf-Aig-"+name, "client "+name)
	}
	var refused []string
	for _, name := range []string{
		"Authorization", "Byok-Alias", "No-Wholesale", "Cache-Key", "Custom-Cost", "Collect-Log", "Collect-Log-Payload", "Zdr", "Session-Id", "Allowed-Models", "Unknown",
	} {
		refused = append(refused, "cf-aig-"+strings.ToLower(name), "client "+name)
	}
	all := append(append([]string{"Authorization", "Bearer " + gatewayToken}, aig...), refused...)
	with := func(base http.Header, pairs ...string) http.Header {
		h := base.Clone()
		for name, values := range headers(pairs...) {
			h[name] = values
		}
		return h
	}
	hook := func(pairs ...string) func(*http.Request) http.Header {
		return func(*http.Request) http.Header { return headers(pairs...) }
	}
	const auth = "Bearer " + gatewayToken
	for _, tt := range []struct {
		name string
		set  func(*apexproxy.Gateway)
		want http.Header // the cf-aig-* and x-* headers at the gateway
	}{
		{"default list", func(*apexproxy.Gateway) {}, with(wantAig, "Cf-Aig-Authorization", auth)},
		{"empty list", func(g *apexproxy.Gateway) { g.ForwardHeaders = []string{} }, headers("Cf-Aig-Authorization", auth)},
		{"replaced list", func(g *apexproxy.Gateway) {
			g.ForwardHeaders = []string{"cf-aig-session-id", "CF-AIG-ZDR", "Cf-Aig-Authorization"}
		}, headers("Cf-Aig-Authorization", auth, "Cf-Aig-Session-Id", "client Session-Id", "Cf-Aig-Zdr", "client Zdr")},
		{"the token in the list", func(g *apexproxy.Gateway) { g.ForwardHeaders = []string{"Cf-Aig-Authorization"} }, headers("Cf-Aig-Authorization", auth)},
		{"BYOKOnly", func(g *apexproxy.Gateway) { g.BYOKOnly = true }, with(wantAig, "Cf-Aig-Authorization", auth, "Cf-Aig-No-Wholesale", "true")},
		{"BYOKOnly before the client", func(g *apexproxy.Gateway) {
			g.BYOKOnly, g.ForwardHeaders = true, []string{"cf-aig-no-wholesale"}
		}, headers("Cf-Aig-Authorization", auth, "Cf-Aig-No-Wholesale", "true")},
		{"BYOKOnly before the hook", func(g *apexproxy.Gateway) {
			g.BYOKOnly, g.ForwardHeaders, g.Header = true, []string{}, hook("cf-aig-no-wholesale", "false")
		}, headers("Cf-Aig-Authorization", auth, "Cf-Aig-No-Wholesale", "true")},
		{"hook wins over the client", func(g *apexproxy.Gateway) {
			g.ForwardHeaders = []string{"cf-aig-metadata", "cf-aig-event-id"}
			g.Header = hook("cf-aig-metadata", `{"tenant":1}`, "cf-aig-cache-key", "k", "X-Tenant", "1", "X-Tenant", "2")
		}, headers("Cf-Aig-Authorization", auth, "Cf-Aig-Event-Id", "client Event-Id", "Cf-Aig-Metadata", `{"tenant":1}`, "Cf-Aig-Cache-Key", "k", "X-Tenant", "1", "X-Tenant", "2")},
		{"hook cannot set the token", func(g *apexproxy.Gateway) {
			g.ForwardHeaders, g.Header = []string{}, hook("cf-aig-authorization", "Bearer other", "CF-AIG-AUTHORIZATION", "Bearer third")
		}, headers("Cf-Aig-Authorization", auth)},
		{"hook without headers", func(g *apexproxy.Gateway) {
			g.ForwardHeaders, g.Header = []string{}, func(*http.Request) http.Header { return nil }
		}, headers("Cf-Aig-Authorization", auth)},
	} {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			g := newGateway(t, apexproxytest.GatewayConfig{})
			cfg := via(g)
			tt.set(&cfg)
			post(t, newProxy(t, apexproxy.WithGateway(cfg))+"/v1/chat/completions", `{"model":"m#openai"}`, all...)
			var got []http.Header
			for _, r := range g.Requests() {
				for name := range r.Header {
					if !strings.HasPrefix(name, "Cf-Aig-") && !strings.HasPrefix(name, "X-") {
						delete(r.Header, name)
					}
				}
				got = append(got, r.Header)
			}
			if diff := cmp.Diff([]http.Header{tt.want}, got); diff != "" {
				t.Errorf("headers at the gateway (-want +got):\n%s", diff)
			}
		})
	}
}

// TestGatewayHeaderHook: the hook sees the request as it came and who called.
func TestGatewayHeaderHook(t *testing.T) {
	t.Parallel()
	g := newGateway(t, apexproxytest.GatewayConfig{})
	cfg := via(g)
	cfg.Header = func(r *http.Request) http.Header {
		id, ok := apexproxy.IdentityFromContext(r.Context())
		return http.Header{"X-Seen": {fmt.Sprint(r.Method, " ", r.URL.Path, " ", r.Header.Get("X-Tenant"), " ", id.Subject, " ", id.Metadata["plan"], " ", ok)}}
	}
	auth := func(*http.Request) (apexproxy.Identity, error) {
		return apexproxy.Identity{Subject: "ann", Metadata: map[string]string{"plan": "pro"}}, nil
	}
	proxy := newProxy(t, apexproxy.WithGateway(cfg), apexproxy.WithAuth(auth))
	post(t, proxy+"/v1/chat/completions", `{"model":"m#openai"}`, "X-Tenant", "t1")
	do(t, http.MethodGet, proxy+"/v1/models", "")
	var got []string
	for _, r := range g.Requests() {
		got = append(got, r.Header.Get("X-Seen"))
	}
	want := []string{"POST /v1/chat/completions t1 ann pro true", "GET /v1/models  ann pro true"}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Errorf("the hook saw (-want +got):\n%s", diff)
	}
}

// TestOperations: an operation is known by the end of the path.
func TestOperations(t *testing.T) {
	t.Parallel()
	g := newGateway(t, apexproxytest.GatewayConfig{})
	proxy := newProxy(t, apexproxy.WithGateway(via(g)))
	const base = "/v1/test-account/test-gateway"
	for _, tt := range []struct{ path, want string }{
		{"/chat/completions", base + "/openai/chat/completions"},
		{"/v1/chat/completions", base + "/openai/chat/completions"},
		{"/v1/chat/completions/", base + "/openai/chat/completions"},
		{"/a/b/v1/chat/completions", base + "/openai/chat/completions"},
		{"/a%2Fb/%2e/v1/chat/completions", base + "/openai/chat/completions"},
		{"/v1/models/responses", base + "/openai/responses"}, // POST: no model of that name
		{"/embeddings", base + "/openai/embeddings"},
		{"/v1/completions", ""},
		{"/v1/chat", ""},
		{"/v1/chat/completions/x", ""},
		{"/v1/chat%2Fcompletions", ""},
		{"/v1/xresponses", ""},
		{"/v1/Responses", ""},
		{"/v1/responses/resp_1", ""},
		{"/v1/messages/batches", ""},
		{"/v1/audio/speech", ""},
	} {
		g.Reset()
		got := post(t, proxy+tt.path, inBody("m#openai"), "Authorization", "Bearer "+gatewayToken)
		if tt.want == "" {
			if got.Status != 404 || len(g.Requests()) != 0 {
				t.Errorf("%s: got %d %s, want 404", tt.path, got.Status, got.Body)
			}
			continue
		}
		wantURIs(t, g, tt.want)
	}
}
