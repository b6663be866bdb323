package main

import (
	"log/slog"
	"net/http"
	"net/http/httptest"
	"os"
	"strings"
	"sync"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/loadchange/apexproxy/apexproxytest"
)

// outside stands where the network would be. TestMain makes it the proxy of the environment, which
// net/http reads once, so that a request to a public https host asks it for a tunnel, is refused,
// and never leaves this machine.
var outside struct {
	mu    sync.Mutex
	asked []string
}

func TestMain(m *testing.M) {
	server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		outside.mu.Lock()
		defer outside.mu.Unlock()
		outside.asked = append(outside.asked, r.Method+" "+r.RequestURI)
		w.WriteHeader(http.StatusForbidden)
	}))
	os.Setenv("HTTPS_PROXY", server.URL)
	os.Setenv("NO_PROXY", "")
	os.Setenv("no_proxy", "")
	os.Exit(m.Run())
}

// vars is an environment. Only what it holds is set.
type vars map[string]string

func (v vars) get(name string) string { return v[name] }

// behind returns v with what a gateway needs added.
func (v vars) behind(g *apexproxytest.Gateway) vars {
	out := vars{"GATEWAY_BASE_URL": g.BaseURL(), "GATEWAY_TOKEN": g.Token}
	for name, value := range v {
		out[name] = value
	}
	return out
}

const chatBody = `{"model":"gpt-5.5#openai","messages":[]}`

// newRequest returns a POST with headers in the form "Name: value".
func newRequest(t *testing.T, path, body string, header ...string) *http.Request {
	t.Helper()
	r := httptest.NewRequestWithContext(t.Context(), http.MethodPost, path, strings.NewReader(body))
	for _, h := range header {
		name, value, _ := strings.Cut(h, ": ")
		r.Header.Set(name, value)
	}
	return r
}

// TestVariables sends a request through the proxy that an environment makes and compares what the
// gateway got, or what the answer says.
func TestVariables(t *testing.T) {
	t.Parallel()
	const chat = "/v1/chat/completions"
	token := "Authorization: Bearer test-token"
	type result struct {
		Status  int
		Path    string // below the gateway's base URL; empty: nothing arrived
		Model   string
		Header  string // the answer's or the arrived request's header that the case names
		Message string // a part of the answer's body, where the case names one
	}
	for _, tt := range []struct {
		name    string
		env     vars
		path    string // default chat
		body    string // default chatBody
		header  []string
		arrived string // name of a header to compare in what the gateway got
		answer  string // name of a header to compare in the answer
		want    result
	}{
		{
			name: "the gateway alone", header: []string{token}, arrived: "Cf-Aig-Authorization",
			want: result{Status: 200, Path: "/openai/chat/completions", Model: "gpt-5.5", Header: "Bearer test-token"},
		},
		{
			name: "PREFER_COMPAT off", env: vars{"PREFER_COMPAT": "off"}, header: []string{token},
			want: result{Status: 200, Path: "/openai/chat/completions", Model: "gpt-5.5"},
		},
		{
			name: "PREFER_COMPAT on", env: vars{"PREFER_COMPAT": "on"}, header: []string{token},
			want: result{Status: 200, Path: "/compat/chat/completions", Model: "openai/gpt-5.5"},
		},
		{
			name: "BYOK_ONLY off", header: []string{token}, arrived: "Cf-Aig-No-Wholesale",
			want: result{Status: 200, Path: "/openai/chat/completions", Model: "gpt-5.5"},
		},
		{
			name: "BYOK_ONLY on", env: vars{"BYOK_ONLY": "on"}, header: []string{token}, arrived: "Cf-Aig-No-Wholesale",
			want: result{Status: 200, Path: "/openai/chat/completions", Model: "gpt-5.5", Header: "true"},
		},
		{
			name: "CLIENT_TOKENS, the second", env: vars{"CLIENT_TOKENS": "one, two"}, header: []string{"x-api-key: two"}, arrived: "X-Api-Key",
			want: result{Status: 200, Path: "/openai/chat/completions", Model: "gpt-5.5"},
		},
		{
			name: "CLIENT_TOKENS replace the gateway's", env: vars{"CLIENT_TOKENS": "one,two"}, header: []string{token},
			want: result{Status: 401, Message: "no valid key"},
		},
		{
			name: "AZURE_RESOURCE", env: vars{"AZURE_RESOURCE": "res"}, header: []string{token}, body: `{"model":"dep#azure-openai"}`,
			want: result{Status: 200, Path: "/azure-openai/res/dep/chat/completions?api-version=2024-10-21", Model: "dep"},
		},
		{
			name: "AZURE_API_VERSION", env: vars{"AZURE_RESOURCE": "res", "AZURE_API_VERSION": "2025-01-01-preview"}, header: []string{token},
			body: `{"model":"dep#azure-openai"}`,
			want: result{Status: 200, Path: "/azure-openai/res/dep/chat/completions?api-version=2025-01-01-preview", Model: "dep"},
		},
		{
			name: "no AZURE_RESOURCE", header: []string{token}, body: `{"model":"dep#azure-openai"}`,
			want: result{Status: 400, Message: "provider azure-openai is not configured"},
		},
		{
			name: "MODEL_MAPPING", env: vars{"MODEL_MAPPING": "gpt-5.5#grok-4#grok, x#y"}, header: []string{token},
			want: result{Status: 200, Path: "/grok/v1/chat/completions", Model: "grok-4"},
		},
		{
			name: "MAX_REQUEST_BYTES", env: vars{"MAX_REQUEST_BYTES": "39"}, header: []string{token},
			want: result{Status: 413, Message: "larger than 39 bytes"},
		},
		{
			name: "MAX_REQUEST_BYTES, just enough", env: vars{"MAX_REQUEST_BYTES": "40"}, header: []string{token},
			want: result{Status: 200, Path: "/openai/chat/completions", Model: "gpt-5.5"},
		},
		{
			name: "CORS_ORIGINS, default", header: []string{token, "Origin: https://a.example"}, answer: "Access-Control-Allow-Origin",
			want: result{Status: 200, Path: "/openai/chat/completions", Model: "gpt-5.5", Header: "*"},
		},
		{
			name: "CORS_ORIGINS, listed", env: vars{"CORS_ORIGINS": "https://b.example, https://a.example"},
			header: []string{token, "Origin: https://a.example"}, answer: "Access-Control-Allow-Origin",
			want: result{Status: 200, Path: "/openai/chat/completions", Model: "gpt-5.5", Header: "https://a.example"},
		},
		{
			name: "CORS_ORIGINS, another", env: vars{"CORS_ORIGINS": "https://b.example"},
			header: []string{token, "Origin: https://a.example"}, answer: "Access-Control-Allow-Origin",
			want: result{Status: 200, Path: "/openai/chat/completions", Model: "gpt-5.5"},
		},
		{
			name: "PASSTHROUGH off", env: vars{"PASSTHROUGH": "off"}, header: []string{"X-APEX-AI-PROXY-PROVIDER: 127.0.0.1"},
			want: result{Status: 403, Message: "passthrough is off"},
		},
		{
			name: "PASSTHROUGH on by itself, not to private addresses", header: []string{"X-APEX-AI-PROXY-PROVIDER: 127.0.0.1"},
			want: result{Status: 403, Message: "no public address"},
		},
		{
			name: "PASSTHROUGH_TOKENS, none presented", env: vars{"PASSTHROUGH_TOKENS": "one,two"}, header: []string{"X-APEX-AI-PROXY-PROVIDER: 127.0.0.1", token},
			want: result{Status: 401, Message: "X-APEX-AI-PROXY-TOKEN"},
		},
		{
			name: "PASSTHROUGH_TOKENS, the second", env: vars{"PASSTHROUGH_TOKENS": "one,two"},
			header: []string{"X-APEX-AI-PROXY-PROVIDER: 127.0.0.1", "X-APEX-AI-PROXY-TOKEN: two"},
			want:   result{Status: 403, Message: "no public address"}, // admitted, and stopped by the guard
		},
		{
			name: "PASSTHROUGH_HOSTS, another", env: vars{"PASSTHROUGH_HOSTS": "a.example, b.example:8443"}, header: []string{"X-APEX-AI-PROXY-PROVIDER: b.example"},
			want: result{Status: 403, Message: "not on this proxy's list"},
		},
		{
			name: "AEPIPE_TOKEN alone is off", env: vars{"AEPIPE_TOKEN": "t"}, header: []string{token},
			want: result{Status: 200, Path: "/openai/chat/completions", Model: "gpt-5.5"},
		},
		{
			name: "AEPIPE_BASE_URL alone is off", env: vars{"AEPIPE_BASE_URL": "https://aepipe.example"}, header: []string{token},
			want: result{Status: 200, Path: "/openai/chat/completions", Model: "gpt-5.5"},
		},
	} {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			gateway := apexproxytest.NewGateway(apexproxytest.GatewayConfig{})
			defer gateway.Close()
			s, err := configure(tt.env.behind(gateway).get)
			if err != nil {
				t.Fatal(err)
			}
			defer func() { _ = s.proxy.Shutdown(t.Context()) }()
			if tt.path == "" {
				tt.path = chat
			}
			if tt.body == "" {
				tt.body = chatBody
			}
			rec := httptest.NewRecorder()
			s.proxy.ServeHTTP(rec, newRequest(t, tt.path, tt.body, tt.header...))

			got := result{Status: rec.Code, Header: rec.Header().Get(tt.answer)}
			for _, r := range gateway.Requests() {
				got.Path += strings.TrimPrefix(r.RequestURI, "/v1/test-account/test-gateway")
				got.Model = r.Model
				if tt.arrived != "" {
					got.Header = r.Header.Get(tt.arrived)
				}
			}
			if tt.want.Message != "" && strings.Contains(rec.Body.String(), tt.want.Message) {
				got.Message = tt.want.Message
			}
			if diff := cmp.Diff(tt.want, got); diff != "" {
				t.Errorf("(-want +got):\n%s\nanswer: %s", diff, rec.Body)
			}
		})
	}
}

// TestPassthroughHosts reaches a listed host although it is on loopback. The server trusts public
// certificates only, so the handshake is as far as it gets.
func TestPassthroughHosts(t *testing.T) {
	t.Parallel()
	upstream := apexproxytest.NewTLSUpstream()
	defer upstream.Close()
	s, err := configure(vars{"PASSTHROUGH_HOSTS": "a.example," + upstream.Host}.get)
	if err != nil {
		t.Fatal(err)
	}
	rec := httptest.NewRecorder()
	s.proxy.ServeHTTP(rec, newRequest(t, "/v1/chat/completions", chatBody, "X-APEX-AI-PROXY-PROVIDER: "+upstream.Host))
	if rec.Code != 502 || !strings.Contains(rec.Body.String(), "tls_certificate_error") || upstream.Connections() != 1 {
		t.Errorf("status %d, %d connections, %s", rec.Code, upstream.Connections(), rec.Body)
	}
}

// TestCloudflare needs no GATEWAY_BASE_URL: ids alone lead to Cloudflare.
func TestCloudflare(t *testing.T) {
	t.Parallel()
	s, err := configure(vars{"ACCOUNT_ID": "acc", "GATEWAY_ID": "gw", "GATEWAY_TOKEN": "test-token"}.get)
	if err != nil {
		t.Fatal(err)
	}
	rec := httptest.NewRecorder()
	s.proxy.ServeHTTP(rec, newRequest(t, "/v1/chat/completions", chatBody, "Authorization: Bearer test-token"))
	outside.mu.Lock()
	defer outside.mu.Unlock()
	defer func() { outside.asked = nil }()
	if diff := cmp.Diff([]string{"CONNECT gateway.ai.cloudflare.com:443"}, outside.asked); rec.Code != 502 || diff != "" {
		t.Errorf("status %d, hosts asked for (-want +got):\n%s", rec.Code, diff)
	}
}

func TestSettings(t *testing.T) {
	t.Parallel()
	type plain struct {
		Addr        string
		Debug, Info bool
		Open        bool
	}
	for _, tt := range []struct {
		name string
		env  vars
		want plain
	}{
		{"nothing set", vars{}, plain{"127.0.0.1:8787", false, true, true}},
		{"ADDR", vars{"ADDR": ":9"}, plain{":9", false, true, true}},
		{"LOG_LEVEL debug", vars{"LOG_LEVEL": "debug"}, plain{"127.0.0.1:8787", true, true, true}},
		{"LOG_LEVEL warn", vars{"LOG_LEVEL": "warn"}, plain{"127.0.0.1:8787", false, false, true}},
		{"PASSTHROUGH_TOKENS", vars{"PASSTHROUGH_TOKENS": "t"}, plain{"127.0.0.1:8787", false, true, false}},
		{"PASSTHROUGH_HOSTS", vars{"PASSTHROUGH_HOSTS": "a.example"}, plain{"127.0.0.1:8787", false, true, false}},
		{"PASSTHROUGH off", vars{"PASSTHROUGH": "off", "ACCOUNT_ID": "a", "GATEWAY_ID": "g", "GATEWAY_TOKEN": "t"}, plain{"127.0.0.1:8787", false, true, false}},
	} {
		s, err := configure(tt.env.get)
		if err != nil {
			t.Errorf("%s: %v", tt.name, err)
			continue
		}
		got := plain{s.addr, s.logger.Enabled(t.Context(), slog.LevelDebug), s.logger.Enabled(t.Context(), slog.LevelInfo), s.open}
		if diff := cmp.Diff(tt.want, got); diff != "" {
			t.Errorf("%s (-want +got):\n%s", tt.name, diff)
		}
	}
}

// TestMistakes looks at the lines of the error, each of which starts with a variable's name.
// Whatever is wrong, no token may show.
func TestMistakes(t *testing.T) {
	t.Parallel()
	const secret = "s3cret"
	gateway := vars{"ACCOUNT_ID": "acc", "GATEWAY_ID": "gw", "GATEWAY_TOKEN": secret, "CLIENT_TOKENS": secret + "-1," + secret + "-2", "PASSTHROUGH_TOKENS": secret}
	with := func(name, value string) vars {
		out := vars{name: value}
		for n, v := range gateway {
			if n != name {
				out[n] = v
			}
		}
		return out
	}
	for _, tt := range []struct {
		env  vars
		want []string
	}{
		{with("GATEWAY_TOKEN", ""), []string{"GATEWAY_TOKEN: is needed"}},
		{with("GATEWAY_TOKEN", secret+"\n"), []string{"GATEWAY_TOKEN: holds white space"}},
		{with("ACCOUNT_ID", ""), []string{"ACCOUNT_ID: is needed"}},
		{with("ACCOUNT_ID", "a/b"), []string{`ACCOUNT_ID: "a/b" is not an account id`}},
		{with("ACCOUNT_ID", "a\n"), []string{"ACCOUNT_ID: "}},
		{with("GATEWAY_ID", ""), []string{"GATEWAY_ID: is needed"}},
		{with("GATEWAY_ID", "a b"), []string{`GATEWAY_ID: "a b" is not a gateway id`}},
		{with("GATEWAY_BASE_URL", "gateway.example"), []string{"GATEWAY_BASE_URL: "}},
		{with("GATEWAY_BASE_URL", "ftp://gateway.example"), []string{"GATEWAY_BASE_URL: "}},
		{with("GATEWAY_BASE_URL", "https://user:"+secret+"@gateway.example"), []string{"GATEWAY_BASE_URL: "}},
		{with("GATEWAY_BASE_URL", "https://gateway.example/?token="+secret), []string{"GATEWAY_BASE_URL: "}},
		{with("PREFER_COMPAT", "yes"), []string{"PREFER_COMPAT: must be on or off"}},
		{with("BYOK_ONLY", "true"), []string{"BYOK_ONLY: must be on or off"}},
		{with("CLIENT_TOKENS", " , "), []string{"CLIENT_TOKENS: holds no entry"}},
		{vars{"CLIENT_TOKENS": secret}, []string{"CLIENT_TOKENS: "}},
		{with("AZURE_RESOURCE", "a/b"), []string{`AZURE_RESOURCE: "a/b" may hold`}},
		{vars{"AZURE_RESOURCE": "a/b"}, []string{"AZURE_RESOURCE: "}},
		{with("AZURE_API_VERSION", "a&b"), []string{`AZURE_API_VERSION: "a&b" may hold`}},
		{with("PASSTHROUGH", "ON"), []string{"PASSTHROUGH: must be on or off"}},
		{vars{"PASSTHROUGH": "off"}, []string{"PASSTHROUGH: is off and there is no gateway"}},
		{with("PASSTHROUGH_TOKENS", ","), []string{"PASSTHROUGH_TOKENS: holds no entry"}},
		{with("PASSTHROUGH_HOSTS", ","), []string{"PASSTHROUGH_HOSTS: holds no entry"}},
		{with("PASSTHROUGH_HOSTS", "a.example/base"), []string{`PASSTHROUGH_HOSTS: entry "a.example/base": has a path`}},
		{with("PASSTHROUGH_HOSTS", "a b, c/d"), []string{`PASSTHROUGH_HOSTS: entry "a b": `, `PASSTHROUGH_HOSTS: entry "c/d": `}},
		{with("PASSTHROUGH_HOSTS", "a.example, http://b.example"), []string{"PASSTHROUGH_HOSTS: "}},
		{with("MODEL_MAPPING", "gpt-5.5"), []string{`MODEL_MAPPING: entry "gpt-5.5" is not from#to`}},
		{with("MAX_REQUEST_BYTES", "0"), []string{"MAX_REQUEST_BYTES: "}},
		{with("MAX_REQUEST_BYTES", "-1"), []string{"MAX_REQUEST_BYTES: "}},
		{with("MAX_REQUEST_BYTES", "32MiB"), []string{"MAX_REQUEST_BYTES: "}},
		{with("CORS_ORIGINS", "a.example"), []string{`CORS_ORIGINS: "a.example" is not an origin`}},
		{with("CORS_ORIGINS", ","), []string{"CORS_ORIGINS: holds no entry"}},
		{with("AEPIPE_BASE_URL", "ftp://aepipe.example"), nil}, // off without a token
		{vars{"AEPIPE_BASE_URL": "ftp://aepipe.example", "AEPIPE_TOKEN": secret}, []string{"AEPIPE_BASE_URL"}},
		{vars{"AEPIPE_BASE_URL": "https://user:" + secret + "@aepipe.example", "AEPIPE_TOKEN": "t"}, []string{"AEPIPE_BASE_URL"}},
		{vars{"AEPIPE_BASE_URL": "https://aepipe.example", "AEPIPE_TOKEN": secret + "\n"}, []string{"AEPIPE_TOKEN: must be"}},
		{vars{"AEPIPE_BASE_URL": "aepipe.example", "AEPIPE_TOKEN": secret + " "}, []string{"AEPIPE_BASE_URL: must begin", "AEPIPE_TOKEN: must be"}},
		{with("LOG_LEVEL", "loud"), []string{"LOG_LEVEL: use debug"}},
		{ // what is off is read, too
			vars{"PASSTHROUGH": "off", "PASSTHROUGH_HOSTS": "a b", "AZURE_API_VERSION": "a b"},
			[]string{"AZURE_API_VERSION: ", "PASSTHROUGH_HOSTS: ", "PASSTHROUGH: is off"},
		},
		{
			vars{"GATEWAY_TOKEN": secret, "PREFER_COMPAT": "1", "MODEL_MAPPING": "#", "LOG_LEVEL": "x"},
			[]string{"LOG_LEVEL: ", "PREFER_COMPAT: ", "ACCOUNT_ID: is needed", "GATEWAY_ID: is needed", "MODEL_MAPPING: "},
		},
	} {
		_, err := configure(tt.env.get)
		if (err == nil) != (tt.want == nil) {
			t.Errorf("error %v, want %q", err, tt.want)
		}
		if err == nil {
			continue
		}
		if strings.Contains(err.Error(), secret) {
			t.Errorf("%v: the error shows a token: %v", tt.want, err)
		}
		mistakes, list, _ := strings.Cut(strings.TrimPrefix(err.Error(), "configuration:\n"), "\n\nvariables:\n")
		if list != strings.TrimSpace(variables) {
			t.Errorf("%v: the error does not end with the list of variables:\n%v", tt.want, err)
		}
		lines := strings.Split(mistakes, "\n")
		ok := len(lines) == len(tt.want)
		for i := 0; ok && i < len(lines); i++ {
			ok = strings.HasPrefix(lines[i], tt.want[i])
		}
		if !ok {
			t.Errorf("got\n%s\nwant lines that start with %q", mistakes, tt.want)
		}
	}
}

// TestVariablesListed keeps the list that an error prints complete and short.
func TestVariablesListed(t *testing.T) {
	t.Parallel()
	read := map[string]bool{}
	for _, env := range []vars{{}, {"GATEWAY_TOKEN": "t", "ACCOUNT_ID": "a", "GATEWAY_ID": "g"}} {
		if _, err := configure(func(name string) string { read[name] = true; return env[name] }); err != nil {
			t.Fatal(err)
		}
	}
	listed := map[string]bool{}
	for line := range strings.Lines(strings.TrimSpace(variables)) {
		listed[strings.Fields(line)[0]] = true
	}
	if diff := cmp.Diff(listed, read); diff != "" {
		t.Errorf("(-listed +read):\n%s", diff)
	}
}
