package aepipe_test

import (
	"context"
	"encoding/json"
	"fmt"
	"net/http/httptest"
	"strings"

	"github.com/loadchange/apexproxy"
	"github.com/loadchange/apexproxy/aepipe"
	"github.com/loadchange/apexproxy/aepipe/aepipetest"
	"github.com/loadchange/apexproxy/apexproxytest"
)

func Example() {
	gateway := apexproxytest.NewGateway(apexproxytest.GatewayConfig{})
	defer gateway.Close()
	store := aepipetest.NewServer("admin-token")
	defer store.Close()

	reporter, err := aepipe.New(aepipe.Config{BaseURL: store.URL, Token: "admin-token"})
	if err != nil {
		fmt.Println(err)
		return
	}
	proxy, err := apexproxy.New(
		apexproxy.WithGateway(apexproxy.Gateway{BaseURL: gateway.BaseURL(), Token: gateway.Token}),
		apexproxy.WithReporter(reporter, apexproxy.CaptureContent(512<<10)),
	)
	if err != nil {
		fmt.Println(err)
		return
	}

	body := `{"model":"claude-x#anthropic","max_tokens":10,"messages":[{"role":"user","content":"hi"}]}`
	r := httptest.NewRequest("POST", "/v1/messages", strings.NewReader(body))
	r.Header.Set("Authorization", "Bearer "+gateway.Token)
	r.Header.Set("anthropic-version", "2023-06-01")
	proxy.ServeHTTP(httptest.NewRecorder(), r)
	if err := proxy.Shutdown(context.Background()); err != nil { // sends what is left
		fmt.Println(err)
		return
	}

	point := store.Points("requests")[0]
	fmt.Println(point.Event, point.Level, point.Blobs[:7])
	var entry struct {
		Headers map[string]string `json:"request_headers"`
		Body    string            `json:"request_body"`
	}
	if err := json.Unmarshal(store.Logs("raw")[0].Raw, &entry); err != nil {
		fmt.Println(err)
		return
	}
	fmt.Println(entry.Headers["authorization"])
	fmt.Println(entry.Body)
	// Output:
	// POST /v1/messages info [anthropic claude-x messages 200 sync gateway completed]
	// [REDACTED]
	// {"model":"claude-x#anthropic","max_tokens":10,"messages":[{"role":"user","content":"hi"}]}
}

func ExampleClient_Query() {
	store := aepipetest.NewServer("admin-token")
	defer store.Close()
	store.SetRows(`{"model":"claude-x","input_tokens":200}`, `{"model":"gpt-x","input_tokens":100}`)

	client, err := aepipe.NewClient(aepipe.Config{BaseURL: store.URL, Token: "admin-token"})
	if err != nil {
		fmt.Println(err)
		return
	}
	result, err := client.Query(context.Background(), "", `SELECT blob7 AS model, SUM(double6 * _sample_interval) AS input_tokens
		FROM aepipe WHERE timestamp > NOW() - INTERVAL '1' DAY GROUP BY model`)
	if err != nil {
		fmt.Println(err)
		return
	}
	var rows []struct {
		Model       string  `json:"model"`
		InputTokens float64 `json:"input_tokens"`
	}
	if err := json.Unmarshal(result.Rows, &rows); err != nil {
		fmt.Println(err)
		return
	}
	for _, r := range rows {
		fmt.Println(r.Model, r.InputTokens)
	}
	// Output:
	// claude-x 200
	// gpt-x 100
}
