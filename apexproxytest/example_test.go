package apexproxytest_test

import (
	"fmt"
	"io"
	"net/http"
	"strings"

	"github.com/loadchange/apexproxy/apexproxytest"
)

func ExampleUpstream() {
	up := apexproxytest.NewUpstream(
		apexproxytest.RateLimited(),
		apexproxytest.JSON(200, apexproxytest.ChatCompletion("Hi.")),
	)
	defer up.Close()

	for range 2 {
		resp, err := up.Client().Post(up.URL+"/v1/chat/completions", "application/json", strings.NewReader(`{"model":"gpt-5.5"}`))
		if err != nil {
			fmt.Println(err)
			return
		}
		resp.Body.Close()
		fmt.Printf("%d, retry after %q\n", resp.StatusCode, resp.Header.Get("Retry-After"))
	}
	for _, r := range up.Requests() {
		fmt.Printf("%s %s %s\n", r.Method, r.RequestURI, r.Body)
	}
	// Output:
	// 429, retry after "7"
	// 200, retry after ""
	// POST /v1/chat/completions {"model":"gpt-5.5"}
	// POST /v1/chat/completions {"model":"gpt-5.5"}
}

func ExampleGateway() {
	gw := apexproxytest.NewGateway(apexproxytest.GatewayConfig{StoredKeys: []string{"anthropic"}})
	defer gw.Close()

	send := func(path, model string) {
		req, err := http.NewRequest("POST", gw.BaseURL()+path, strings.NewReader(`{"model":"`+model+`"}`))
		if err != nil {
			fmt.Println(err)
			return
		}
		req.Header.Set("cf-aig-authorization", "Bearer "+gw.Token)
		req.Header.Set("anthropic-version", "2023-06-01")
		resp, err := gw.Client().Do(req)
		if err != nil {
			fmt.Println(err)
			return
		}
		io.Copy(io.Discard, resp.Body)
		resp.Body.Close()
		fmt.Println(resp.StatusCode)
	}
	send("/anthropic/v1/messages", "claude-opus-4-7")
	send("/compat/chat/completions", "claude-opus-4-7")

	for _, r := range gw.Requests() {
		fmt.Printf("%s %s %s: credential %q, refused %q\n", r.Provider, r.Path, r.Model, r.Credential, r.Refused)
	}
	// Output:
	// 200
	// 400
	// anthropic v1/messages claude-opus-4-7: credential "stored", refused ""
	// compat chat/completions claude-opus-4-7: credential "", refused "Invalid provider"
}
