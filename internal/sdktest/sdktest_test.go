package sdktest

import (
	"context"
	"encoding/json"
	"fmt"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/loadchange/apexproxy"
	"github.com/loadchange/apexproxy/apexproxytest"
)

const (
	gatewayToken = "gw-token-91d2"
	upstreamKey  = "sk-upstream-40c7"
)

// A stand is a Proxy between an SDK and a provider that answers from a script, once behind a fake
// gateway and once as an upstream of passthrough.
type stand struct {
	url      string
	gateway  *apexproxytest.Gateway
	upstream *apexproxytest.Upstream
}

func newStand(tb testing.TB, replies ...http.Handler) *stand {
	tb.Helper()
	s := &stand{upstream: apexproxytest.NewTLSUpstream(replies...)}
	s.gateway = apexproxytest.NewGateway(apexproxytest.GatewayConfig{Token: gatewayToken, Provider: apexproxytest.Replies(replies...)})
	proxy, err := apexproxy.New(
		apexproxy.WithGateway(apexproxy.Gateway{BaseURL: s.gateway.BaseURL(), Token: gatewayToken}),
		apexproxy.WithPassthrough(apexproxy.Passthrough{Hosts: []string{s.upstream.Host}}),
		apexproxy.WithTransport(s.upstream.Transport()),
		// With a reporter the proxy reads every answer that passes.
		apexproxy.WithReporter(apexproxy.ReporterFunc(func(context.Context, []apexproxy.Record) error { return nil })),
	)
	if err != nil {
		tb.Fatal(err)
	}
	server := httptest.NewServer(proxy)
	s.url = server.URL
	tb.Cleanup(func() {
		server.CloseClientConnections()
		server.Close()
		ctx, cancel := context.WithTimeout(context.Background(), 5*time.Second)
		defer cancel()
		if err := proxy.Shutdown(ctx); err != nil {
			tb.Errorf("Shutdown: %v", err)
		}
		s.gateway.Close()
		s.upstream.Close()
	})
	return s
}

// arrived returns the requests at the gateway and the upstream, and fails where one of them carried
// a credential that is not for it.
func (s *stand) arrived(tb testing.TB) []apexproxytest.Request {
	tb.Helper()
	var out []apexproxytest.Request
	for _, r := range s.gateway.Requests() {
		if r.Refused != "" || len(r.Violations) > 0 {
			tb.Errorf("the gateway refuses %s: %s %v", r.RequestURI, r.Refused, r.Violations)
		}
		out = append(out, r.Request)
	}
	for _, r := range s.upstream.Requests() {
		if got := r.Header.Get("Authorization"); got != "Bearer "+upstreamKey || r.Header.Get("X-Api-Key") != "" {
			tb.Errorf("the upstream got Authorization %q and X-Api-Key %q", got, r.Header.Get("X-Api-Key"))
		}
		out = append(out, r)
	}
	return out
}

// call is a tool call as the model makes it.
type call struct{ id, name, args, signature string }

// turn is what a model says, in no protocol's form.
type turn struct {
	thinking, text string
	calls          []call
}

func (t turn) finish() string {
	if len(t.calls) > 0 {
		return "tool_calls"
	}
	return "stop"
}

func quote(s string) string {
	var b strings.Builder
	e := json.NewEncoder(&b)
	e.SetEscapeHTML(false)
	_ = e.Encode(s) // a string never fails
	return strings.TrimSuffix(b.String(), "\n")
}

const chatUsage = `{"prompt_tokens":120,"completion_tokens":40,"total_tokens":160,` +
	`"prompt_tokens_details":{"cached_tokens":100},"completion_tokens_details":{"reasoning_tokens":12}}`

func (c call) json(index string) string {
	extra := ""
	if c.signature != "" {
		extra = `,"extra_content":{"google":{"thought_signature":` + quote(c.signature) + `}}`
	}
	return `{` + index + `"id":` + quote(c.id) + `,"type":"function","function":{"name":` + quote(c.name) + `,"arguments":` + quote(c.args) + `}` + extra + `}`
}

// chat is the turn as a chat completion.
func (t turn) chat() http.Handler {
	message := `"role":"assistant","content":null`
	if t.text != "" {
		message = `"role":"assistant","content":` + quote(t.text)
	}
	if t.thinking != "" {
		message += `,"reasoning_content":` + quote(t.thinking)
	}
	var calls []string
	for _, c := range t.calls {
		calls = append(calls, c.json(""))
	}
	if calls != nil {
		message += `,"tool_calls":[` + strings.Join(calls, ",") + `]`
	}
	return apexproxytest.JSON(200, `{"id":"chatcmpl-1","object":"chat.completion","created":1767225600,"model":"upstream-model","choices":[{"index":0,"message":{`+
		message+`},"logprobs":null,"finish_reason":"`+t.finish()+`"}],"usage":`+chatUsage+`}`)
}

// The ways in which servers stream parallel tool calls.
const (
	sequential  = "sequential"
	interleaved = "interleaved"
	indexZero   = "all index 0"
)

func chunk(delta, finish string) string {
	return `data: {"id":"chatcmpl-1","object":"chat.completion.chunk","created":1767225600,"model":"upstream-model","choices":[{"index":0,"delta":{` +
		delta + `},"finish_reason":` + finish + "}]}\n\n"
}

// chatStream is the turn as chunks of a chat completion.
func (t turn) chatStream(style string) http.Handler {
	events := []string{": keep-alive\n\n", chunk(`"role":"assistant","content":null`, "null")}
	delta := func(d string) { events = append(events, chunk(d, "null")) }
	text := func(name, s string) {
		for i, word := range strings.SplitAfter(s, " ") {
			if word != "" || i > 0 {
				delta(quote(name) + ":" + quote(word))
			}
		}
	}
	text("reasoning_content", t.thinking)
	text("content", t.text)
	head := func(i int, c call) {
		c.args = ""
		delta(fmt.Sprintf(`"tool_calls":[%s]`, c.json(fmt.Sprintf(`"index":%d,`, i))))
	}
	part := func(i int, args string) {
		delta(fmt.Sprintf(`"tool_calls":[{"index":%d,"function":{"arguments":%s}}]`, i, quote(args)))
	}
	switch style {
	case sequential:
		for i, c := range t.calls {
			head(i, c)
			for _, p := range apexproxytest.Split(c.args, 5) {
				part(i, p)
			}
		}
	case interleaved:
		longest := 0
		for i, c := range t.calls {
			head(i, c)
			longest = max(longest, len(c.args))
		}
		for at := 0; at < longest; at += 5 {
			for i, c := range t.calls {
				if at < len(c.args) {
					part(i, c.args[at:min(at+5, len(c.args))])
				}
			}
		}
	case indexZero:
		for _, c := range t.calls {
			delta(`"tool_calls":[` + c.json(`"index":0,`) + `]`)
		}
	}
	events = append(events, chunk("", `"`+t.finish()+`"`),
		`data: {"id":"chatcmpl-1","object":"chat.completion.chunk","created":1767225600,"model":"upstream-model","choices":[],"usage":`+chatUsage+"}\n\n",
		"data: [DONE]\n\n")
	return apexproxytest.SSE(events...)
}

const (
	nativeUsage     = `{"input_tokens":20,"cache_creation_input_tokens":0,"cache_read_input_tokens":100,"output_tokens":40,"output_tokens_details":{"thinking_tokens":12}}`
	nativeSignature = "EqQBCgIYAhIM1gbcDa9GJwZA2b3h"
)

func (t turn) stopReason() string {
	if len(t.calls) > 0 {
		return "tool_use"
	}
	return "end_turn"
}

// message is the turn as Anthropic says it.
func (t turn) message() http.Handler {
	var blocks []string
	if t.thinking != "" {
		blocks = append(blocks, `{"type":"thinking","thinking":`+quote(t.thinking)+`,"signature":"`+nativeSignature+`"}`)
	}
	if t.text != "" {
		blocks = append(blocks, `{"type":"text","text":`+quote(t.text)+`}`)
	}
	for _, c := range t.calls {
		blocks = append(blocks, `{"type":"tool_use","id":`+quote(c.id)+`,"name":`+quote(c.name)+`,"input":`+c.args+`}`)
	}
	return apexproxytest.JSON(200, `{"id":"msg_1","type":"message","role":"assistant","model":"upstream-model","content":[`+strings.Join(blocks, ",")+
		`],"stop_reason":"`+t.stopReason()+`","stop_sequence":null,"usage":`+nativeUsage+`}`)
}

// messageStream is the turn as Anthropic streams it.
func (t turn) messageStream() http.Handler {
	events := []string{"event: message_start\ndata: " + `{"type":"message_start","message":{"id":"msg_1","type":"message","role":"assistant","model":"upstream-model","content":[],"stop_reason":null,"stop_sequence":null,` +
		`"usage":{"input_tokens":20,"cache_creation_input_tokens":0,"cache_read_input_tokens":100,"output_tokens":1}}}` + "\n\n"}
	index := 0
	block := func(start string, deltas ...string) {
		events = append(events, fmt.Sprintf("event: content_block_start\ndata: {\"type\":\"content_block_start\",\"index\":%d,\"content_block\":%s}\n\n", index, start))
		for _, d := range deltas {
			events = append(events, fmt.Sprintf("event: content_block_delta\ndata: {\"type\":\"content_block_delta\",\"index\":%d,\"delta\":%s}\n\n", index, d))
		}
		events = append(events, fmt.Sprintf("event: content_block_stop\ndata: {\"type\":\"content_block_stop\",\"index\":%d}\n\n", index))
		index++
	}
	if t.thinking != "" {
		block(`{"type":"thinking","thinking":"","signature":""}`,
			`{"type":"thinking_delta","thinking":`+quote(t.thinking)+`}`, `{"type":"signature_delta","signature":"`+nativeSignature+`"}`)
	}
	if t.text != "" {
		block(`{"type":"text","text":""}`, `{"type":"text_delta","text":`+quote(t.text)+`}`)
	}
	for _, c := range t.calls {
		var deltas []string
		for _, p := range apexproxytest.Split(c.args, 5) {
			deltas = append(deltas, `{"type":"input_json_delta","partial_json":`+quote(p)+`}`)
		}
		block(`{"type":"tool_use","id":`+quote(c.id)+`,"name":`+quote(c.name)+`,"input":{}}`, deltas...)
	}
	events = append(events,
		`event: message_delta`+"\n"+`data: {"type":"message_delta","delta":{"stop_reason":"`+t.stopReason()+`","stop_sequence":null},"usage":`+nativeUsage+"}\n\n",
		"event: message_stop\ndata: {\"type\":\"message_stop\"}\n\n")
	return apexproxytest.SSE(events...)
}

// sameJSON compares two JSON texts by what they mean.
func sameJSON(tb testing.TB, what, want string, got []byte) {
	tb.Helper()
	var w, g any
	if err := json.Unmarshal([]byte(want), &w); err != nil {
		tb.Fatalf("the wanted %s: %v\n%s", what, err, want)
	}
	if err := json.Unmarshal(got, &g); err != nil {
		tb.Fatalf("%s: %v: %q", what, err, got)
	}
	if diff := cmp.Diff(w, g); diff != "" {
		tb.Errorf("%s (-want +got):\n%s", what, diff)
	}
}
