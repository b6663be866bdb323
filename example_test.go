package apexproxy_test

import (
	"context"
	"fmt"
	"io"
	"log"
	"net/http"
	"net/http/httptest"
	"strings"

	"github.com/loadchange/apexproxy"
	"github.com/loadchange/apexproxy/apexproxytest"
)

// The smallest useful proxy: clients say model#provider, the gateway has the
// providers' keys.
func Example() {
	gateway := apexproxytest.NewGateway(apexproxytest.GatewayConfig{}) // stands for Cloudflare's
	defer gateway.Close()

	proxy, err := apexproxy.New(apexproxy.WithGateway(apexproxy.Gateway{
		BaseURL: gateway.BaseURL(), // in earnest AccountID and GatewayID
		Token:   gateway.Token,
	}))
	if err != nil {
		log.Fatal(err)
	}
	server := httptest.NewServer(proxy) // in earnest http.ListenAndServe
	defer server.Close()

	req, _ := http.NewRequest(http.MethodPost, server.URL+"/v1/chat/completions",
		strings.NewReader(`{"model": "gpt-5.5#openai", "messages": [{"role": "user", "content": "Hello"}]}`))
	req.Header.Set("Authorization", "Bearer "+gateway.Token)
	res, err := http.DefaultClient.Do(req)
	if err != nil {
		log.Fatal(err)
	}
	defer res.Body.Close()

	sent := gateway.Requests()[0]
	fmt.Println(res.Status)
	fmt.Println(sent.Provider, sent.Path)
	fmt.Printf("%s\n", sent.Body)
	// Output:
	// 200 OK
	// openai chat/completions
	// {"model": "gpt-5.5", "messages": [{"role": "user", "content": "Hello"}]}
}

// ask posts a body to a handler and returns the status. header holds
// alternating names and values.
func ask(h http.Handler, path, body string, header ...string) int {
	r := httptest.NewRequest(http.MethodPost, path, strings.NewReader(body))
	for i := 0; i < len(header); i += 2 {
		r.Header.Set(header[i], header[i+1])
	}
	w := httptest.NewRecorder()
	h.ServeHTTP(w, r)
	return w.Code
}

// New reports every mistake in its options at once.
func ExampleNew() {
	_, err := apexproxy.New(
		apexproxy.WithGateway(apexproxy.Gateway{AccountID: "0123", GatewayID: "my-gateway"}),
		apexproxy.WithMapping("fast"),
	)
	fmt.Println(err)
	// Output:
	// apexproxy: gateway: Token is empty: without it nobody could be told from anybody
	// mapping entry "fast" is not from#to or from#to#provider
}

// A proxy in an existing service, under a path of its own mux.
func ExampleProxy_stripPrefix() {
	gateway := apexproxytest.NewGateway(apexproxytest.GatewayConfig{})
	defer gateway.Close()
	proxy, err := apexproxy.New(apexproxy.WithGateway(apexproxy.Gateway{BaseURL: gateway.BaseURL(), Token: gateway.Token}))
	if err != nil {
		log.Fatal(err)
	}

	mux := http.NewServeMux()
	mux.HandleFunc("GET /health", func(w http.ResponseWriter, _ *http.Request) { _, _ = io.WriteString(w, "ok") })
	mux.Handle("/llm/", http.StripPrefix("/llm", proxy))

	status := ask(mux, "/llm/v1/messages", `{"model":"claude-opus-4-7#anthropic","max_tokens":1,"messages":[]}`,
		"X-Api-Key", gateway.Token, "Anthropic-Version", "2023-06-01")
	fmt.Println(status, gateway.Requests()[0].Path)
	// Output: 200 v1/messages
}

// The order at the end of a service: streams first, then the records that they
// left.
func ExampleProxy_Shutdown() {
	gateway := apexproxytest.NewGateway(apexproxytest.GatewayConfig{})
	defer gateway.Close()
	proxy, err := apexproxy.New(
		apexproxy.WithGateway(apexproxy.Gateway{BaseURL: gateway.BaseURL(), Token: gateway.Token}),
		apexproxy.WithReporter(apexproxy.ReporterFunc(func(_ context.Context, batch []apexproxy.Record) error {
			for _, record := range batch {
				fmt.Println(record.Provider, record.RequestModel, record.Outcome)
			}
			return nil
		})),
	)
	if err != nil {
		log.Fatal(err)
	}
	server := httptest.NewServer(proxy)
	req, _ := http.NewRequest(http.MethodPost, server.URL+"/v1/chat/completions", strings.NewReader(`{"model":"gpt-5.5#openai"}`))
	req.Header.Set("Authorization", "Bearer "+gateway.Token)
	res, err := http.DefaultClient.Do(req)
	if err != nil {
		log.Fatal(err)
	}
	_, _ = io.Copy(io.Discard, res.Body)
	_ = res.Body.Close()

	ctx := context.Background() // in earnest with a deadline
	if err := server.Config.Shutdown(ctx); err != nil {
		log.Print(err)
	}
	if err := proxy.Shutdown(ctx); err != nil {
		log.Print(err)
	}
	// Output: openai gpt-5.5 completed
}

// Clients name the upstream and bring its key. With Hosts only the listed ones
// can be named.
func ExampleWithPassthrough() {
	upstream := apexproxytest.NewTLSUpstream() // stands for a provider
	defer upstream.Close()
	proxy, err := apexproxy.New(
		apexproxy.WithPassthrough(apexproxy.Passthrough{Hosts: []string{upstream.Host}}),
		apexproxy.WithTransport(upstream.Transport()), // trusts the test's certificate
	)
	if err != nil {
		log.Fatal(err)
	}

	const body = `{"model":"any","messages":[]}`
	fmt.Println(ask(proxy, "/v1/chat/completions", body, "X-APEX-AI-PROXY-PROVIDER", upstream.Host, "Authorization", "Bearer sk-theirs"))
	fmt.Println(ask(proxy, "/v1/chat/completions", body, "X-APEX-AI-PROXY-PROVIDER", "169.254.169.254"))
	for _, got := range upstream.Requests() {
		fmt.Println(got.RequestURI, got.Header.Get("Authorization"))
	}
	// Output:
	// 200
	// 403
	// /v1/chat/completions Bearer sk-theirs
}

// Clients ask for a name of yours; what stands behind it changes here.
func ExampleWithMapping() {
	gateway := apexproxytest.NewGateway(apexproxytest.GatewayConfig{})
	defer gateway.Close()
	proxy, err := apexproxy.New(
		apexproxy.WithGateway(apexproxy.Gateway{BaseURL: gateway.BaseURL(), Token: gateway.Token}),
		apexproxy.WithMapping("fast#llama-3.3-70b-versatile#groq, smart#gpt-5.5#openai"),
	)
	if err != nil {
		log.Fatal(err)
	}

	ask(proxy, "/v1/chat/completions", `{"model":"fast"}`, "Authorization", "Bearer "+gateway.Token)
	ask(proxy, "/v1/chat/completions", `{"model":"smart"}`, "Authorization", "Bearer "+gateway.Token)
	for _, got := range gateway.Requests() {
		fmt.Println(got.Provider, got.Model)
	}
	// Output:
	// groq llama-3.3-70b-versatile
	// openai gpt-5.5
}

// Each client gets a token of its own, and none of them the gateway's.
func ExampleTokens() {
	gateway := apexproxytest.NewGateway(apexproxytest.GatewayConfig{})
	defer gateway.Close()
	proxy, err := apexproxy.New(
		apexproxy.WithGateway(apexproxy.Gateway{BaseURL: gateway.BaseURL(), Token: gateway.Token}),
		apexproxy.WithAuth(apexproxy.Tokens("alices-token", "bobs-token")),
	)
	if err != nil {
		log.Fatal(err)
	}

	const body = `{"model":"gpt-5.5#openai"}`
	fmt.Println("bob:", ask(proxy, "/v1/chat/completions", body, "Authorization", "Bearer bobs-token"))
	fmt.Println("mallory:", ask(proxy, "/v1/chat/completions", body, "Authorization", "Bearer guess", "X-Api-Key", "bobs-token"))
	fmt.Println("with the gateway's own:", ask(proxy, "/v1/chat/completions", body, "Authorization", "Bearer "+gateway.Token))
	fmt.Println("reached the gateway:", len(gateway.Requests()))
	// Output:
	// bob: 200
	// mallory: 401
	// with the gateway's own: 401
	// reached the gateway: 1
}

// A provider that the table does not have: here a custom provider of the
// gateway under a shorter name.
func ExampleWithProvider() {
	gateway := apexproxytest.NewGateway(apexproxytest.GatewayConfig{
		Paths: map[string][]string{"custom-acme": {"POST v2/chat/completions"}},
	})
	defer gateway.Close()
	proxy, err := apexproxy.New(
		apexproxy.WithGateway(apexproxy.Gateway{BaseURL: gateway.BaseURL(), Token: gateway.Token}),
		apexproxy.WithProvider(apexproxy.Provider{Name: "acme", Chat: "/custom-acme/v2/chat/completions"}),
	)
	if err != nil {
		log.Fatal(err)
	}

	status := ask(proxy, "/v1/chat/completions", `{"model":"tiny#acme"}`, "Authorization", "Bearer "+gateway.Token)
	got := gateway.Requests()[0]
	fmt.Println(status, got.Provider, got.Path, got.Model)
	// Output: 200 custom-acme v2/chat/completions tiny
}
