package apexproxy_test

import (
	"bytes"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"

	"github.com/loadchange/apexproxy"
)

// BenchmarkConvert compares the same exchange copied (a chat client) and
// converted (a client of Messages), 16 clients at a time over loopback. Read
// the ratio within one run:
//
//	go test -run '^$' -bench BenchmarkConvert -count 7 .
func BenchmarkConvert(b *testing.B) {
	chunks := make([]string, 0, 102)
	for i := range 100 {
		chunks = append(chunks, fmt.Sprintf("data: {\"id\":\"chatcmpl-1\",\"object\":\"chat.completion.chunk\",\"choices\":[{\"index\":0,\"delta\":{\"content\":\"word %d \"},\"finish_reason\":null}]}\n\n", i))
	}
	chunks = append(chunks, "data: {\"id\":\"chatcmpl-1\",\"object\":\"chat.completion.chunk\",\"choices\":[{\"index\":0,\"delta\":{},\"finish_reason\":\"stop\"}]}\n\n", "data: [DONE]\n\n")
	answer := `{"id":"chatcmpl-1","object":"chat.completion","model":"gpt-4.1","choices":[{"index":0,"message":{"role":"assistant","content":"` +
		strings.Repeat("answer ", 260) + `","tool_calls":[{"id":"call_1","type":"function","function":{"name":"weather","arguments":"{\"city\":\"Paris\",\"unit\":\"celsius\"}"}}]},` +
		`"finish_reason":"tool_calls"}],"usage":{"prompt_tokens":500,"completion_tokens":260,"total_tokens":760}}`
	upstream := benchUpstream(answer, chunks)
	defer upstream.Close()
	proxy, err := apexproxy.New(
		apexproxy.WithGateway(apexproxy.Gateway{BaseURL: upstream.URL + "/v1/a/g", Token: "bench"}),
		apexproxy.WithReporter(discard))
	if err != nil {
		b.Fatal(err)
	}
	server := httptest.NewServer(proxy)
	defer server.Close()

	prompt := strings.Repeat("prompt ", 260)
	const schema = `{"type":"object","properties":{"city":{"type":"string"}},"required":["city"]}`
	// One request in both protocols; %s is its stream member.
	chat := `{"model":"gpt-4.1#openai","max_completion_tokens":1024%s,"messages":[{"role":"system","content":"Be brief."},{"role":"user","content":"` + prompt +
		`"},{"role":"assistant","content":null,"tool_calls":[{"id":"call_0","type":"function","function":{"name":"weather","arguments":"{\"city\":\"Rome\"}"}}]},` +
		`{"role":"tool","tool_call_id":"call_0","content":"18 degrees"}],"tools":[{"type":"function","function":{"name":"weather","parameters":` + schema + `}}]}`
	messages := `{"model":"gpt-4.1#openai","max_tokens":1024%s,"system":"Be brief.","messages":[{"role":"user","content":"` + prompt +
		`"},{"role":"assistant","content":[{"type":"tool_use","id":"call_0","name":"weather","input":{"city":"Rome"}}]},` +
		`{"role":"user","content":[{"type":"tool_result","tool_use_id":"call_0","content":"18 degrees"}]}],"tools":[{"name":"weather","input_schema":` + schema + `}]}`
	for _, work := range []struct{ name, kind, member, chatEnd, messagesEnd string }{
		{"JSON", "json", "", "760}}", "}}"},
		{"SSE100", "stream", `,"stream":true`, "data: [DONE]\n\n", "data: {\"type\":\"message_stop\"}\n\n"},
	} {
		for _, way := range []struct{ name, path, body, end string }{
			{"copied", "/v1/chat/completions", chat, work.chatEnd},
			{"converted", "/v1/messages", messages, work.messagesEnd},
		} {
			b.Run(work.name+"/"+way.name, func(b *testing.B) {
				client := &http.Client{Transport: apexproxy.NewTransport()}
				body := fmt.Appendf(nil, way.body, work.member)
				b.ReportAllocs()
				b.SetParallelism(8)
				b.RunParallel(func(pb *testing.PB) {
					for pb.Next() {
						req, _ := http.NewRequest(http.MethodPost, server.URL+way.path, bytes.NewReader(body))
						req.Header.Set("Authorization", "Bearer bench")
						req.Header.Set("X-Bench", work.kind)
						res, err := client.Do(req)
						if err != nil {
							b.Error(err)
							return
						}
						got, err := io.ReadAll(res.Body)
						_ = res.Body.Close()
						if err != nil || res.StatusCode != http.StatusOK || !bytes.HasSuffix(got, []byte(way.end)) {
							b.Errorf("status %d, %v: …%s", res.StatusCode, err, got[max(0, len(got)-200):])
							return
						}
					}
				})
			})
		}
	}
}
