package main

import (
	"bytes"
	"io"
	"strings"
	"testing"

	"github.com/loadchange/apexproxy/apexproxytest"
)

func start(t *testing.T) (*apexproxytest.Gateway, *apexproxytest.Upstream) {
	t.Helper()
	gateway := apexproxytest.NewGateway(apexproxytest.GatewayConfig{Token: "gateway-token"})
	t.Cleanup(gateway.Close)
	upstream := apexproxytest.NewTLSUpstream()
	t.Cleanup(upstream.Close)
	return gateway, upstream
}

func TestRun(t *testing.T) {
	t.Parallel()
	gateway, upstream := start(t)
	var out bytes.Buffer
	if err := run(&out, gateway, upstream); err != nil {
		t.Fatalf("%v\n%s", err, out.String())
	}
	for text, times := range map[string]int{
		"  gateway got   POST ":                            4,
		"  upstream got  POST /api/v1/chat/completions\n":  1,
		"Cf-Aig-Authorization: Bearer gateway-token\n":     4,
		`{"model":"grok-4",`:                               1,
		"200 OK, chat.completion: Hello from the provider": 3,
		"200 OK, message: Hello from the provider":         2,
		"200 completed, 15 tokens in, 7 out\n":             5,
	} {
		if n := strings.Count(out.String(), text); n != times {
			t.Errorf("%q is there %d times, want %d:\n%s", text, n, times, out.String())
		}
	}
}

func TestRunFails(t *testing.T) {
	t.Parallel()
	gateway, upstream := start(t)
	upstream.Script(apexproxytest.RateLimited())
	err := run(io.Discard, gateway, upstream)
	if err == nil || !strings.HasSuffix(err.Error(), ": status 429") {
		t.Errorf("error %v, want one of status 429", err)
	}
}
