package apexproxy_test

import (
	"bufio"
	"context"
	"encoding/base64"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/loadchange/apexproxy"
	"github.com/loadchange/apexproxy/apexproxytest"
)

// TestAuthGatewayToken: without WithAuth a client presents the gateway's token.
func TestAuthGatewayToken(t *testing.T) {
	t.Parallel()
	const auth, key, right = "Authorization", "X-Api-Key", "Bearer " + gatewayToken
	basic := "Basic " + base64.StdEncoding.EncodeToString([]byte(gatewayToken+":"))
	for _, tt := range []struct {
		name   string
		query  string
		header []string
		want   bool
	}{
		{name: "nothing"},
		{name: "bearer", header: []string{auth, right}, want: true},
		{name: "lower-case scheme", header: []string{auth, "bearer " + gatewayToken}, want: true},
		{name: "upper-case scheme", header: []string{auth, "BEARER " + gatewayToken}, want: true},
		{name: "lower-case header", header: []string{"authorization", right}, want: true},
		{name: "many spaces", header: []string{auth, "  Bearer   " + gatewayToken + "  "}, want: true},
		{name: "tab after a space", header: []string{auth, "Bearer \t" + gatewayToken}, want: true},
		{name: "x-api-key", header: []string{key, gatewayToken}, want: true},
		{name: "lower-case x-api-key", header: []string{"x-api-key", gatewayToken}, want: true},
		{name: "wrong bearer", header: []string{auth, "Bearer wrong"}},
		{name: "wrong x-api-key", header: []string{key, "wrong"}},
		{name: "empty x-api-key", header: []string{key, ""}},
		{name: "case of the token", header: []string{auth, "Bearer " + strings.ToUpper(gatewayToken)}},
		{name: "prefix of the token", header: []string{auth, right[:len(right)-1]}},
		{name: "longer than the token", header: []string{auth, right + "x"}},
		{name: "no scheme", header: []string{auth, gatewayToken}},
		{name: "scheme alone", header: []string{auth, "Bearer"}},
		{name: "scheme and space", header: []string{auth, "Bearer "}},
		{name: "Basic", header: []string{auth, basic}},
		{name: "Basic with the token", header: []string{auth, "Basic " + gatewayToken}},
		{name: "no space", header: []string{auth, "Bearer" + gatewayToken}},
		{name: "comma list", header: []string{auth, right + ", " + right}},
		{name: "bearer in x-api-key", header: []string{key, right}},
		{name: "two Authorization", header: []string{auth, right, auth, right}},
		{name: "two Authorization, first empty", header: []string{auth, "", auth, right}},
		{name: "two x-api-key", header: []string{key, gatewayToken, key, gatewayToken}},
		{name: "both right", header: []string{auth, right, key, gatewayToken}, want: true},
		{name: "right Authorization, wrong x-api-key", header: []string{auth, right, key, "wrong"}, want: true},
		{name: "wrong Authorization, right x-api-key", header: []string{auth, "Bearer wrong", key, gatewayToken}},
		{name: "Basic, right x-api-key", header: []string{auth, basic, key, gatewayToken}},
		{name: "raw Authorization, right x-api-key", header: []string{auth, "x", key, gatewayToken}},
		{name: "empty bearer, right x-api-key", header: []string{auth, "Bearer ", key, gatewayToken}},
		{name: "empty Authorization, right x-api-key", header: []string{auth, "", key, gatewayToken}, want: true},
		{name: "api-key", header: []string{"Api-Key", gatewayToken}},
		{name: "x-goog-api-key", header: []string{"X-Goog-Api-Key", gatewayToken}},
		{name: "cf-aig-authorization", header: []string{"Cf-Aig-Authorization", right}},
		{name: "proxy-authorization", header: []string{"Proxy-Authorization", right}},
		{name: "passthrough's header", header: []string{"X-Apex-Ai-Proxy-Token", gatewayToken}},
		{name: "cookie", header: []string{"Cookie", "x-api-key=" + gatewayToken}},
		{name: "query", query: "?key=" + gatewayToken + "&api_key=" + gatewayToken + "&token=" + gatewayToken},
	} {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			g := newGateway(t, apexproxytest.GatewayConfig{})
			proxy := newProxy(t, apexproxy.WithGateway(via(g)))
			for path, body := range map[string]string{
				"/v1/chat/completions": `{"model":"m#openai"}`, "/v1/messages": `{"model":"m#anthropic"}`, "/v1/models": "",
			} {
				method := "POST"
				if body == "" {
					method = "GET"
				}
				got := do(t, method, proxy+path+tt.query, body, append([]string{"Anthropic-Version", "2023-06-01"}, tt.header...)...)
				if want := map[bool]int{true: 200, false: 401}[tt.want]; got.Status != want {
					t.Errorf("%s: got %d %s, want %d", path, got.Status, got.Body, want)
				}
				if strings.Contains(fmt.Sprint(got), gatewayToken) {
					t.Errorf("%s: the answer holds the token: %v", path, got)
				}
			}
			if !tt.want {
				wantUntouched(t, g)
			}
		})
	}
}

func TestTokens(t *testing.T) {
	t.Parallel()
	for _, list := range [][]string{nil, {}, {""}, {"a", ""}, {"", "a"}} {
		if _, err := apexproxy.Tokens(list...)(httptest.NewRequest(http.MethodPost, "/", nil)); err == nil {
			t.Errorf("Tokens(%q) admits somebody", list)
		}
		for what, option := range map[string]apexproxy.Option{
			"WithAuth":         apexproxy.WithAuth(apexproxy.Tokens(list...)),
			"Passthrough.Auth": apexproxy.WithPassthrough(apexproxy.Passthrough{Auth: apexproxy.Tokens(list...)}),
		} {
			if _, err := apexproxy.New(apexproxy.WithGateway(apexproxy.Gateway{BaseURL: "https://g.example", Token: "t"}), option); err == nil || !strings.Contains(err.Error(), "got no token or an empty one") {
				t.Errorf("%s(Tokens(%q)): New says %v", what, list, err)
			}
		}
	}
	tokens := []string{"one", "two", "one", "three"}
	auth := apexproxy.Tokens(tokens...)
	clear(tokens) // what was passed in was copied
	type outcome struct {
		Subject string
		OK      bool
	}
	got, want := map[string]outcome{}, map[string]outcome{
		"two": {"token-2", true}, "three": {"token-4", true}, "four": {}, "": {}, "tw": {}, "two ": {}, "Two": {},
	}
	for token := range want {
		r := httptest.NewRequest("POST", "/v1/messages", nil)
		r.Header.Set("X-Api-Key", token)
		id, err := auth(r)
		got[token] = outcome{id.Subject, err == nil}
		if id.Metadata != nil || err != nil && token != "" && strings.Contains(err.Error(), token) {
			t.Errorf("%q: got %+v, %v", token, id, err)
		}
	}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Errorf("(-want +got):\n%s", diff)
	}
}

// TestWithAuth: another Authenticator replaces the gateway's token, and its error's text stays
// where it is.
func TestWithAuth(t *testing.T) {
	t.Parallel()
	g := newGateway(t, apexproxytest.GatewayConfig{})
	call := func(auth apexproxy.Authenticator, header ...string) answer {
		return post(t, newProxy(t, apexproxy.WithGateway(via(g)), apexproxy.WithAuth(auth))+"/v1/chat/completions", `{"model":"m#openai"}`, header...)
	}
	for _, tt := range []struct {
		name   string
		auth   apexproxy.Authenticator
		header []string
		want   int
	}{
		{"tokens, first", apexproxy.Tokens("one", "two"), []string{"Authorization", "Bearer one"}, 200},
		{"tokens, second", apexproxy.Tokens("one", "two"), []string{"X-Api-Key", "two"}, 200},
		{"tokens, another", apexproxy.Tokens("one", "two"), []string{"X-Api-Key", "three"}, 401},
		{"the gateway's token", apexproxy.Tokens("one", "two"), []string{"Authorization", "Bearer " + gatewayToken}, 401},
		{"everybody", func(*http.Request) (apexproxy.Identity, error) { return apexproxy.Identity{}, nil }, nil, 200},
		{"nobody", func(*http.Request) (apexproxy.Identity, error) {
			return apexproxy.Identity{Subject: "ann"}, errors.New("the database at 10.0.0.7 said no")
		}, []string{"Authorization", "Bearer " + gatewayToken}, 401},
	} {
		got := call(tt.auth, tt.header...)
		if got.Status != tt.want || strings.Contains(got.Body, "10.0.0.7") {
			t.Errorf("%s: got %d %s, want %d", tt.name, got.Status, got.Body, tt.want)
		}
	}
	for _, r := range g.Requests() {
		if r.Header.Get("Cf-Aig-Authorization") != "Bearer "+gatewayToken || r.Header["Authorization"] != nil || r.Header["X-Api-Key"] != nil {
			t.Errorf("the gateway got %v", r.Header)
		}
	}
	if n := len(g.Requests()); n != 3 {
		t.Errorf("%d requests at the gateway, want 3", n)
	}
}

// TestPassthroughAuth: the caller's token has its own header there, because Authorization is the
// upstream's.
func TestPassthroughAuth(t *testing.T) {
	t.Parallel()
	for _, tt := range []struct {
		name   string
		header []string
		want   int
	}{
		{"right", []string{"X-APEX-AI-PROXY-TOKEN", "caller"}, 200},
		{"lower case", []string{"x-apex-ai-proxy-token", "caller"}, 200},
		{"wrong", []string{"X-APEX-AI-PROXY-TOKEN", "other"}, 401},
		{"none", nil, 401},
		{"empty", []string{"X-APEX-AI-PROXY-TOKEN", ""}, 401},
		{"bearer in it", []string{"X-APEX-AI-PROXY-TOKEN", "Bearer caller"}, 401},
		{"twice", []string{"X-APEX-AI-PROXY-TOKEN", "caller", "X-APEX-AI-PROXY-TOKEN", "caller"}, 401},
		{"as Authorization", []string{"Authorization", "Bearer caller"}, 401},
		{"as x-api-key", []string{"X-Api-Key", "caller"}, 401},
		{"the gateway's token", []string{"X-APEX-AI-PROXY-TOKEN", gatewayToken}, 401},
	} {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			up := newUpstream(t)
			proxy := newProxy(t, apexproxy.WithTransport(up.Transport()),
				apexproxy.WithGateway(apexproxy.Gateway{BaseURL: "https://gateway.example", Token: gatewayToken}),
				apexproxy.WithPassthrough(apexproxy.Passthrough{Hosts: []string{up.Host}, Auth: apexproxy.Tokens("caller")}))
			got := post(t, proxy+"/v1/chat/completions", `{"model":"m"}`, append([]string{providerHeader, up.Host}, tt.header...)...)
			if got.Status != tt.want {
				t.Errorf("got %d %s, want %d", got.Status, got.Body, tt.want)
			}
			if n := up.Connections(); tt.want != 200 && n != 0 {
				t.Errorf("%d connections upstream", n)
			}
			for _, r := range sentToUpstream(up) {
				if strings.Contains(fmt.Sprint(r), "caller") {
					t.Errorf("the upstream got the caller's token: %v", r)
				}
			}
		})
	}
	// WithAuth is about the gateway; passthrough without Auth asks nobody.
	up := newUpstream(t)
	proxy := newProxy(t, append(reaching(up), apexproxy.WithAuth(apexproxy.Tokens("one")),
		apexproxy.WithGateway(apexproxy.Gateway{BaseURL: "https://gateway.invalid", Token: gatewayToken}))...)
	if got := post(t, proxy+"/v1/chat/completions", `{"model":"m"}`, providerHeader, up.Host); got.Status != 200 {
		t.Errorf("without Auth: got %d %s", got.Status, got.Body)
	}
}

// TestAuthBeforeBody: a refused client learns so before its body is there, and whatever else is
// wrong with the request.
func TestAuthBeforeBody(t *testing.T) {
	t.Parallel()
	up := newUpstream(t)
	proxy := newProxy(t, apexproxy.WithTransport(up.Transport()), apexproxy.WithMaxRequestBytes(100),
		apexproxy.WithGateway(apexproxy.Gateway{BaseURL: up.URL, Token: gatewayToken}),
		apexproxy.WithPassthrough(apexproxy.Passthrough{Hosts: []string{up.Host}, Auth: apexproxy.Tokens("caller")}))
	for name, lines := range map[string][]string{
		"gateway":           {"Content-Length: 100"},
		"gateway, chunked":  {"Transfer-Encoding: chunked"},
		"passthrough":       {"Content-Length: 100", providerHeader + ": " + up.Host},
		"Expect":            {"Content-Length: 100", "Expect: 100-continue"},
		"too large":         {"Content-Length: 1000000"},
		"bad provider":      {"Content-Length: 100", providerHeader + ": http://127.0.0.1"},
		"unlisted provider": {"Content-Length: 100", providerHeader + ": api.example.com"},
		"bad mapping":       {"Content-Length: 100", "X-APEX-AI-PROXY-MAPPING: x"},
		"bad encoding":      {"Content-Length: 100", "Content-Encoding: br"},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			ctx, cancel := context.WithTimeout(t.Context(), answerSoon)
			defer cancel()
			c, err := new(net.Dialer).DialContext(ctx, "tcp", hostOf(t, proxy))
			if err != nil {
				t.Fatal(err)
			}
			defer c.Close()
			defer context.AfterFunc(ctx, func() { c.Close() })()
			head := append([]string{"POST /v1/chat/completions HTTP/1.1", "Host: x", "Authorization: Bearer wrong"}, lines...)
			if _, err := io.WriteString(c, strings.Join(head, "\r\n")+"\r\n\r\n"); err != nil {
				t.Fatal(err)
			}
			res, err := http.ReadResponse(bufio.NewReader(c), nil)
			if err != nil {
				t.Fatalf("no answer without a body: %v", err)
			}
			res.Body.Close()
			if res.StatusCode != 401 {
				t.Errorf("got %s, want 401", res.Status)
			}
		})
	}
	got := post(t, proxy+"/v1/chat/completions", `{"model":`, "Authorization", "Bearer wrong")
	if got.Status != 401 {
		t.Errorf("bad JSON: got %d %s, want 401", got.Status, got.Body)
	}
	t.Cleanup(func() {
		if n := up.Connections(); n != 0 {
			t.Errorf("%d connections upstream", n)
		}
	})
}
