package apexproxy_test

import (
	"fmt"
	"net/http"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"github.com/tidwall/gjson"

	"github.com/loadchange/apexproxy"
	"github.com/loadchange/apexproxy/apexproxytest"
)

// A body that grows on its way is a second one in memory, and counts like one: the client decides
// on both. One that does not grow is changed where it stands.
func TestBufferBudget_grownBodies(t *testing.T) {
	t.Parallel()
	const size = 2 << 20
	for _, tt := range []struct {
		name, model, stream, mapping string
		budget                       int64
		want                         int
	}{
		{"as it came", "m#mistral", "false", "", 3 * size / 2, http.StatusOK},
		{"a shorter name", "model#mistral", "false", "model#m", 3 * size / 2, http.StatusOK},
		{"a longer name", "m#mistral", "false", "m#" + strings.Repeat("long", 10), 3 * size / 2, http.StatusServiceUnavailable},
		{"a longer name, room for both", "m#mistral", "false", "m#" + strings.Repeat("long", 10), 2*size + 4<<10, http.StatusOK},
		{"include_usage", "m#openai", "true", "", 3 * size / 2, http.StatusServiceUnavailable},
		{"include_usage, room for both", "m#openai", "true", "", 2*size + 4<<10, http.StatusOK},
	} {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			rig := newRig(t, rigConfig{options: []apexproxy.Option{
				apexproxy.WithMaxRequestBytes(size), apexproxy.WithMaxBufferedBytes(tt.budget),
			}}, echo)
			head := `{"model":"` + tt.model + `","stream":` + tt.stream + `,"pad":"`
			body := head + strings.Repeat("p", size-len(head)-len(`"}`)) + `"}`
			// More than once: what was taken must have been given back.
			for range 3 {
				req := rig.request(t, gatewayMode, "/v1/chat/completions", body)
				if tt.mapping != "" {
					req.Header.Set("X-Apex-Ai-Proxy-Mapping", tt.mapping)
				}
				res, got := rig.do(t, req)
				if res.StatusCode != tt.want {
					t.Fatalf("status %d, want %d: %s", res.StatusCode, tt.want, clip(got))
				}
				if code := gjson.GetBytes(got, "error.code").Str; tt.want != http.StatusOK && code != "proxy_busy" {
					t.Errorf("code %q", code)
				}
				rig.inside.Wait()
			}
			if n := rig.upstream.Connections(); (n > 0) != (tt.want == http.StatusOK) {
				t.Errorf("%d connections to the upstream", n)
			}
		})
	}
}

// heldCalls is a stream whose second tool call is held back because its first is not complete:
// Messages has one block after the other. Each of the n pieces of the second is a MiB.
func heldCalls(n int) []string {
	call := func(index int, id, arguments string) string {
		return step(fmt.Sprintf(`"tool_calls":[{"index":%d,"id":%q,"type":"function","function":{"name":"f","arguments":%q}}]`, index, id, arguments), "null")
	}
	events := []string{call(0, "a", `{"x":`), call(1, "b", `{"y":"`)}
	for range n {
		events = append(events, call(1, "b", strings.Repeat("y", 1<<20)))
	}
	return append(events, call(1, "b", `"}`), call(0, "a", `1}`), step("", `"tool_calls"`), "data: [DONE]\n\n")
}

// What an upstream makes a converted stream hold counts against the budget, and has bounds of its
// own. The client, who has had its 200, is told in its own protocol; the record says that it was no
// success.
func TestConvertedStreamBounds(t *testing.T) {
	t.Parallel()
	type result struct {
		Error   string // of the stream
		Outcome apexproxy.Outcome
	}
	ended := result{"", apexproxy.OutcomeCompleted}
	tooMuch := func(typ, message string) result { return result{typ + ": " + message, apexproxy.OutcomeUpstreamError} }
	small := []apexproxy.Option{apexproxy.WithMaxRequestBytes(1 << 20), apexproxy.WithMaxBufferedBytes(4 << 20)}
	first := step(`"role":"assistant","content":"a"`, "null")
	for _, tt := range []struct {
		name   string
		events []string
		opts   []apexproxy.Option
		want   result
	}{
		{"within the budget", heldCalls(1), small, ended},
		{"within the default budget", heldCalls(8), nil, ended},
		{"above the budget", heldCalls(8), small, tooMuch("overloaded_error", "the proxy is holding as much as it may: try again")},
		{"above what one stream may hold", heldCalls(18), nil, tooMuch("api_error", "upstream sent more than can be held back")},
		{"too large an event", []string{first, step(`"content":"`+strings.Repeat("x", 17<<20)+`"`, "null"), "data: [DONE]\n\n"}, nil,
			tooMuch("api_error", "upstream sent an event that is too large")},
	} {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			for i, event := range tt.events {
				// An answer that names its model and does not say that it ended looks cut.
				tt.events[i] = strings.Replace(event, `data: {`, `data: {"model":"m",`, 1)
			}
			const rounds = 2 // what the first took must have been given back
			c := new(collector)
			rig := newRig(t, rigConfig{options: append(tt.opts[:len(tt.opts):len(tt.opts)], apexproxy.WithReporter(c))}, apexproxytest.SSE(tt.events...))
			var got []result
			for range rounds {
				res, body := rig.do(t, rig.request(t, gatewayMode, "/v1/messages", messagesFor("gpt-4.1#openai", `,"stream":true`)))
				if res.StatusCode != http.StatusOK {
					t.Fatalf("%d %s", res.StatusCode, clip(body))
				}
				events := strings.Split(strings.TrimSuffix(string(body), "\n\n"), "\n\n")
				last, data, _ := strings.Cut(events[len(events)-1], "\ndata: ")
				r := result{}
				switch last {
				case "event: error":
					r.Error = gjson.Get(data, "error.type").Str + ": " + gjson.Get(data, "error.message").Str
				case "event: message_stop":
				default:
					t.Errorf("the last event is %s", clip([]byte(data)))
				}
				got = append(got, r)
				rig.inside.Wait()
			}
			records := c.after(t, rig.proxy)
			if len(records) != rounds {
				t.Fatalf("%d records", len(records))
			}
			for i, rec := range records {
				got[i].Outcome = rec.Outcome
			}
			if diff := cmp.Diff([]result{tt.want, tt.want}, got); diff != "" {
				t.Errorf("(-want +got):\n%s", diff)
			}
		})
	}
}
