package apexproxy_test

import (
	"bufio"
	"fmt"
	"io"
	"net/http"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/loadchange/apexproxy"
	"github.com/loadchange/apexproxy/apexproxytest"
)

// A converted stream ends at the upstream's [DONE], which is not the end of its body. What follows
// is read too, for over HTTP/1.1 the connection could not be used again otherwise: each exchange
// would cost a handshake with the gateway.
func TestConvertedStreamsShareAConnection(t *testing.T) {
	t.Parallel()
	const exchanges = 10
	// The upstream ends its body only when the client has seen the end of the message: nothing of
	// it can be there by chance when the proxy has read [DONE].
	seen := make(chan struct{})
	rig := newRig(t, rigConfig{}, http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		apexproxytest.SSE(apexproxytest.ChatStream("a", "b")...).ServeHTTP(w, r)
		select {
		case <-seen:
			_, _ = io.WriteString(w, ": bye\n\n")
		case <-r.Context().Done(): // the proxy did not wait
			select {
			case <-seen:
			case <-t.Context().Done():
			}
		}
	}))
	for range exchanges {
		res := rig.open(t, rig.request(t, gatewayMode, "/v1/messages", messagesFor("gpt-4.1#openai", `,"stream":true`)))
		lines := bufio.NewReader(res.Body)
		for line := ""; !strings.Contains(line, `"message_stop"`); {
			var err error
			if line, err = lines.ReadString('\n'); err != nil {
				t.Fatalf("after %q: %v", line, err)
			}
		}
		seen <- struct{}{}
		if rest, err := io.ReadAll(lines); err != nil || string(rest) != "\n" {
			t.Errorf("after message_stop: %q, %v", rest, err)
		}
		rig.inside.Wait() // the connection goes back before the exchange is over
	}
	// The proxy waits for the rest for a short time only. A busy machine may miss it now and then,
	// and never half of the time.
	if n := rig.upstream.Connections(); n > exchanges/2 {
		t.Errorf("%d connections for %d exchanges, one after the other", n, exchanges)
	}
}

// What conversion loses of the answer is known when the answer's head is gone: the record is the
// only place that names it, beside what was lost of the request.
func TestRecord_answerLosses(t *testing.T) {
	t.Parallel()
	// Arguments must be an object in Messages.
	const call = `"tool_calls":[{"index":0,"id":"a","type":"function","function":{"name":"f","arguments":"[1]"}}]`
	const lost, asked = "response.tool_calls.arguments", "top_k"
	for _, tt := range []struct {
		name, more string
		reply      http.Handler
		want       []string
	}{
		{"document", ``, apexproxytest.JSON(200, `{"choices":[{"message":{`+call+`},"finish_reason":"tool_calls"}]}`), []string{lost}},
		{"document, and of the request", `,"top_k":3`, apexproxytest.JSON(200, `{"choices":[{"message":{`+call+`},"finish_reason":"tool_calls"}]}`), []string{lost, asked}},
		{"stream", `,"stream":true`, apexproxytest.SSE(step(call, `"tool_calls"`), "data: [DONE]\n\n"), []string{lost}},
		{"stream, and of the request", `,"stream":true,"top_k":3`, apexproxytest.SSE(step(call, `"tool_calls"`), "data: [DONE]\n\n"), []string{lost, asked}},
		{"nothing", ``, apexproxytest.JSON(200, apexproxytest.ChatCompletion("a")), nil},
	} {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			c := new(collector)
			gw := atProvider(t, tt.reply)
			p, err := apexproxy.New(apexproxy.WithGateway(via(gw)), apexproxy.WithReporter(c))
			if err != nil {
				t.Fatal(err)
			}
			if got := post(t, serve(t, p, p)+"/v1/messages", messagesFor("gpt-4.1#openai", tt.more), asClaude()...); got.Status != http.StatusOK {
				t.Fatalf("%d %s", got.Status, got.Body)
			}
			records := c.after(t, p)
			if len(records) != 1 {
				t.Fatalf("%d records", len(records))
			}
			if diff := cmp.Diff(tt.want, records[0].Dropped); diff != "" {
				t.Errorf("(-want +got):\n%s", diff)
			}
		})
	}
}

// The header that names what was lost is a client's own text, and bounded: proxies on its way back
// refuse an answer whose head is too long. The record has all of it.
func TestConvertedDroppedIsBounded(t *testing.T) {
	t.Parallel()
	var more strings.Builder
	var names []string
	for i := range 40 {
		name := fmt.Sprintf("field_%02d_", i) + strings.Repeat("x", 55)
		names = append(names, name)
		more.WriteString(`,"` + name + `":1`)
	}
	c := new(collector)
	gw := newGateway(t, apexproxytest.GatewayConfig{})
	p, err := apexproxy.New(apexproxy.WithGateway(via(gw)), apexproxy.WithReporter(c))
	if err != nil {
		t.Fatal(err)
	}
	got := post(t, serve(t, p, p)+"/v1/messages", messagesFor("gpt-4.1#openai", more.String()), asClaude()...)
	if diff := cmp.Diff([]string{strings.Join(names, ", ")[:2048]}, got.Header["X-Apex-Ai-Proxy-Dropped"]); diff != "" {
		t.Errorf("header (-want +got):\n%s", diff)
	}
	if diff := cmp.Diff(names, c.after(t, p)[0].Dropped); diff != "" {
		t.Errorf("record (-want +got):\n%s", diff)
	}
}
