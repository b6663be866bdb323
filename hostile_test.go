package apexproxy_test

import (
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"

	"github.com/loadchange/apexproxy"
	"github.com/loadchange/apexproxy/apexproxytest"
)

// TestInvalidStatus has upstreams whose answers are none: they end in 502, not in a panic of the
// server.
func TestInvalidStatus(t *testing.T) {
	t.Parallel()
	for name, raw := range map[string]string{
		"099": "HTTP/1.1 099 Odd\r\nContent-Length: 0\r\n\r\n",
		"101": "HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\nUpgrade: evil\r\n\r\n",
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			gw := newGateway(t, apexproxytest.GatewayConfig{Provider: apexproxytest.Raw(raw)})
			c := new(collector)
			p, err := apexproxy.New(apexproxy.WithGateway(via(gw)), apexproxy.WithReporter(c))
			if err != nil {
				t.Fatal(err)
			}
			got := post(t, serve(t, p, p)+"/v1/chat/completions", chatBody, "Authorization", bearerHeader)
			if got.Status != 502 || got.Header.Get("Proxy-Status") == "" {
				t.Errorf("got %d %v", got.Status, got.Header)
			}
			if rec := c.after(t, p)[0]; rec.Outcome != apexproxy.OutcomeUpstreamError {
				t.Errorf("recorded %s", rec.Outcome)
			}
		})
	}
}

// TestModels_gzipError: an error that is not converted arrives whole although it was inflated on
// the way.
func TestModels_gzipError(t *testing.T) {
	t.Parallel()
	const body = `{"error":{"message":"a provider's own error","type":"server_error"}}`
	gw := newGateway(t, apexproxytest.GatewayConfig{})
	gw.Fail(apexproxytest.Gzip(apexproxytest.JSON(500, body)))
	got := do(t, http.MethodGet, newProxy(t, apexproxy.WithGateway(via(gw)))+"/v1/models", "", "Authorization", bearerHeader)
	if got.Status != 500 || got.Body != body {
		t.Errorf("got %d %q", got.Status, got.Body)
	}
}

// TestAnswersCannotSpeakAsUs: what only the proxy says is taken out of answers.
func TestAnswersCannotSpeakAsUs(t *testing.T) {
	t.Parallel()
	up := newUpstream(t, apexproxytest.JSON(200, `{}`, "X-Apex-Ai-Proxy-Dropped", "everything", "X-Kept", "1"))
	got := post(t, newProxy(t, reaching(up)...)+"/v1/chat/completions", `{}`, "X-Apex-Ai-Proxy-Provider", up.Host)
	if got.Header.Get("X-Apex-Ai-Proxy-Dropped") != "" || got.Header.Get("X-Kept") != "1" {
		t.Errorf("%v", got.Header)
	}
}

// TestRecord_longTexts: what somebody else wrote is short in a record.
func TestRecord_longTexts(t *testing.T) {
	t.Parallel()
	c := new(collector)
	p, err := apexproxy.New(apexproxy.WithReporter(c), apexproxy.WithGateway(apexproxy.Gateway{BaseURL: "http://127.0.0.1:1", Token: "t"}))
	if err != nil {
		t.Fatal(err)
	}
	p.ServeHTTP(httptest.NewRecorder(), httptest.NewRequest(strings.Repeat("M", 100_000), "/v1/messages", nil))
	if rec := c.after(t, p)[0]; len(rec.Method) > 300 {
		t.Errorf("a method of %d bytes", len(rec.Method))
	}
}
