// Quickstart shows what the proxy does without an account, a network or any configuration: a fake
// Cloudflare AI Gateway and a fake provider run in this process, and the proxy stands before them.
// It sends one request of each kind and prints what the client sent, what arrived behind the proxy,
// what came back, and at the end what a reporter got. It exits with 1 when a request fails.
package main

import (
	"cmp"
	"context"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"os"
	"strings"

	"github.com/tidwall/gjson"

	"github.com/loadchange/apexproxy"
	"github.com/loadchange/apexproxy/apexproxytest"
)

func main() {
	gateway := apexproxytest.NewGateway(apexproxytest.GatewayConfig{Token: "gateway-token"})
	defer gateway.Close()
	upstream := apexproxytest.NewTLSUpstream()
	defer upstream.Close()
	if err := run(os.Stdout, gateway, upstream); err != nil {
		fmt.Fprintln(os.Stderr, "quickstart:", err)
		os.Exit(1)
	}
}

func run(out io.Writer, gateway *apexproxytest.Gateway, upstream *apexproxytest.Upstream) error {
	var records []apexproxy.Record
	reporter := func(_ context.Context, batch []apexproxy.Record) error {
		records = append(records, batch...) // one call at a time, and none after Shutdown
		return nil
	}
	proxy, err := apexproxy.New(
		apexproxy.WithGateway(apexproxy.Gateway{BaseURL: gateway.BaseURL(), Token: gateway.Token}),
		apexproxy.WithPassthrough(apexproxy.Passthrough{Hosts: []string{upstream.Host}}),
		apexproxy.WithReporter(apexproxy.ReporterFunc(reporter)),
		apexproxy.WithTransport(upstream.Transport()), // trusts the fake's certificate
	)
	if err != nil {
		return err
	}
	server := httptest.NewServer(proxy) // it is an http.Handler: any server will do
	defer server.Close()

	fmt.Fprint(out, "Nothing leaves this process, and every key below is made up.\n\n")
	list := requests(upstream.Host)
	for i, r := range list {
		fmt.Fprintf(out, "%d. %s\n", i+1, r.title)
		show(out, "client sent", r.path, r.header, r.body)
		status, answer, err := send(server.URL, r)
		if err != nil {
			return err
		}
		for _, got := range gateway.Requests() {
			show(out, "gateway got", got.RequestURI, credentials(got.Header), string(got.Body))
		}
		for _, got := range upstream.Requests() {
			show(out, "upstream got", got.RequestURI, credentials(got.Header), string(got.Body))
		}
		gateway.Reset()
		upstream.Reset()
		fmt.Fprintf(out, "  came back     %s\n\n", answer)
		if status != http.StatusOK {
			return fmt.Errorf("%s: status %d", r.title, status)
		}
	}

	server.Close()
	if err := proxy.Shutdown(context.Background()); err != nil { // hands over the last records
		return err
	}
	fmt.Fprintln(out, "The reporter got")
	for _, r := range records {
		usage := cmp.Or(r.Usage, &apexproxy.Usage{}) // nil when the upstream did not say
		fmt.Fprintf(out, "  %-11s  %-8s  %-25s  as %-15s  from %-15s  %d %s, %d tokens in, %d out\n", r.Mode, r.Operation,
			r.ClientModel, r.RequestModel, r.Provider, r.StatusCode, r.Outcome, usage.InputTokens, usage.OutputTokens)
	}
	if len(records) != len(list) {
		return fmt.Errorf("%d records of %d requests", len(records), len(list))
	}
	return nil
}

// A request is what a client sends. Headers are written "Name: value".
type request struct {
	title, path, body string
	header            []string
}

// requests returns one of each kind. The upstream has the place of any host that speaks one of the
// protocols, such as openrouter.ai/api.
func requests(upstream string) []request {
	return []request{
		{
			title:  "A chat completion through the gateway: the model names its provider",
			path:   "/v1/chat/completions",
			header: []string{"Authorization: Bearer gateway-token"},
			body:   `{"model":"gpt-5.5#openai","messages":[{"role":"user","content":"hi"}]}`,
		},
		{
			title:  "A message through the gateway: Anthropic's own path, and only the model's name changes",
			path:   "/v1/messages",
			header: []string{"X-Api-Key: gateway-token", "Anthropic-Version: 2023-06-01"},
			body:   `{"model":"claude-opus-4-7#anthropic","max_tokens":99,"messages":[{"role":"user","content":"hi"}]}`,
		},
		{
			title:  "Claude Code on an OpenAI model: Messages converted to Chat, the answer back to Messages",
			path:   "/v1/messages",
			header: []string{"Authorization: Bearer gateway-token", "Anthropic-Version: 2023-06-01"},
			body:   `{"model":"gpt-5.5#openai","max_tokens":99,"messages":[{"role":"user","content":"hi"}]}`,
		},
		{
			title:  "Passthrough: the client names the upstream and brings its key",
			path:   "/v1/chat/completions",
			header: []string{"Authorization: Bearer upstream-key", "X-APEX-AI-PROXY-PROVIDER: " + upstream + "/api"},
			body:   `{"model":"gpt-5.5","messages":[{"role":"user","content":"hi"}]}`,
		},
		{
			title:  "A mapping: the client asks for one model and gets another, from another provider",
			path:   "/v1/chat/completions",
			header: []string{"Authorization: Bearer gateway-token", "X-APEX-AI-PROXY-MAPPING: gpt-5.5#grok-4#grok"},
			body:   `{"model":"gpt-5.5","messages":[{"role":"user","content":"hi"}]}`,
		},
	}
}

// send sends r and returns the status and, in short, what came back.
func send(url string, r request) (status int, answer string, err error) {
	req, err := http.NewRequest(http.MethodPost, url+r.path, strings.NewReader(r.body))
	if err != nil {
		return 0, "", err
	}
	for _, h := range r.header {
		name, value, _ := strings.Cut(h, ": ")
		req.Header.Set(name, value)
	}
	resp, err := http.DefaultClient.Do(req)
	if err != nil {
		return 0, "", err
	}
	defer resp.Body.Close()
	body, err := io.ReadAll(resp.Body)
	if err != nil {
		return 0, "", err
	}
	// A completion has an object and choices, a message a type and content, an error its message.
	var words []string
	for _, path := range []string{"object", "type", "choices.0.message.content", "content.0.text", "error.message"} {
		if v := gjson.GetBytes(body, path); v.Exists() {
			words = append(words, v.String())
		}
	}
	return resp.StatusCode, resp.Status + ", " + strings.Join(words, ": "), nil
}

// credentials returns the headers that say who pays, as they arrived.
func credentials(h http.Header) (list []string) {
	for _, name := range []string{"Cf-Aig-Authorization", "Authorization", "X-Api-Key"} {
		if v := h.Get(name); v != "" {
			list = append(list, name+": "+v)
		}
	}
	return list
}

func show(out io.Writer, who, path string, header []string, body string) {
	fmt.Fprintf(out, "  %-12s  POST %s\n", who, path)
	for _, line := range append(header, body) {
		fmt.Fprintf(out, "  %-12s  %s\n", "", line)
	}
}
