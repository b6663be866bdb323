package main

import (
	"bytes"
	"io"
	"net/http"
	"strings"
	"testing"
	"unicode/utf8"

	"github.com/google/go-cmp/cmp"

	"github.com/loadchange/apexproxy"
	"github.com/loadchange/apexproxy/apexproxytest"
)

func TestRun(t *testing.T) {
	t.Parallel()
	var out bytes.Buffer
	if err := run(&out); err != nil {
		t.Fatalf("%v\n%s", err, out.String())
	}
	for line := range strings.Lines(out.String()) {
		if n := utf8.RuneCountInString(strings.TrimSuffix(line, "\n")); n >= 100 {
			t.Errorf("line of %d columns: %s", n, line)
		}
	}
	for _, want := range []string{
		"stands in for zenmux.ai",
		"stands in for gateway.ai.cloudflare.com",
		"cf-aig-authorization: Bearer fake-gateway-token",
		"authorization: (not there)",
		`{"model":"mimo-v2.5-pro",`,
		"401 Unauthorized",
		"gateway chat, 200 completed, 15 tokens in (4 of them cached), 7 out",
		"gateway chat, 401 rejected (invalid_api_key)",
		"went as they should",
	} {
		if !strings.Contains(out.String(), want) {
			t.Errorf("output lacks %q", want)
		}
	}
	if strings.Contains(out.String(), "SURPRISE") {
		t.Error("output shows a surprise")
	}
}

// TestCheck sees to it that check notices each thing that can go wrong.
func TestCheck(t *testing.T) {
	t.Parallel()
	e := example{
		body: `{"model":"a#b"}`, url: "http://h/p", model: "a", status: 200, text: "hi",
		arrives: []string{"cf-aig-authorization: Bearer t", "authorization:"},
		events:  []string{"data: {\"delta\":{\"text\":\"hi\"}}\n\n"},
	}
	good := func() answer {
		return answer{
			arrived: []arrival{{"gateway", "http://h/p", http.Header{"Cf-Aig-Authorization": {"Bearer t"}}, `{"model":"a"}`}},
			status:  200, body: e.events[0], steps: 1,
			record: apexproxy.Record{
				StatusCode: 200, Outcome: apexproxy.OutcomeCompleted, RequestModel: "a",
				Usage: &apexproxy.Usage{InputTokens: 15, CacheReadTokens: 4, OutputTokens: 7},
			},
		}
	}
	if got := check(e, good()); got != nil {
		t.Fatalf("a good answer surprises: %q", got)
	}
	for name, spoil := range map[string]func(*answer){
		"status":         func(a *answer) { a.status = 500 },
		"text":           func(a *answer) { a.body = "data: {\"delta\":{\"text\":\"ho\"}}\n\n" },
		"stream bytes":   func(a *answer) { a.body += "\n" },
		"held back":      func(a *answer) { a.steps = 0 },
		"nowhere":        func(a *answer) { a.arrived = nil },
		"twice":          func(a *answer) { a.arrived = append(a.arrived, a.arrived[0]) },
		"url":            func(a *answer) { a.arrived[0].url = "http://h/q" },
		"body":           func(a *answer) { a.arrived[0].body = `{"model": "a"}` },
		"no token":       func(a *answer) { a.arrived[0].head.Del("Cf-Aig-Authorization") },
		"client's key":   func(a *answer) { a.arrived[0].head.Set("Authorization", "Bearer k") },
		"control":        func(a *answer) { a.arrived[0].head.Set("X-Apex-Ai-Proxy-Type", "anthropic") },
		"record status":  func(a *answer) { a.record.StatusCode = 500 },
		"record outcome": func(a *answer) { a.record.Outcome = apexproxy.OutcomeAborted },
		"record model":   func(a *answer) { a.record.RequestModel = "a#b" },
		"converted":      func(a *answer) { a.record.Converted = true },
		"no usage":       func(a *answer) { a.record.Usage = nil },
		"usage":          func(a *answer) { a.record.Usage.InputTokens = 19 },
	} {
		a := good()
		spoil(&a)
		if check(e, a) == nil {
			t.Errorf("%s: no surprise", name)
		}
	}
	refused := example{status: 401, text: "no"}
	a := answer{
		status: 401, body: `{"error":{"message":"no"}}`,
		record: apexproxy.Record{StatusCode: 401, Outcome: apexproxy.OutcomeRejected},
	}
	if got := check(refused, a); got != nil {
		t.Errorf("a good refusal surprises: %q", got)
	}
	a.arrived = good().arrived
	if check(refused, a) == nil {
		t.Error("a refused request that went on: no surprise")
	}
	converted := example{status: 200, text: "hi", url: "http://h/p", model: "a", arrives: e.arrives, converted: []string{"x.y: z", "w:"}}
	for body, ok := range map[string]bool{`{"x":{"y":"z"}}`: true, `{"x":{}}`: false, `{"x":{"y":"z"},"w":1}`: false} {
		a := good()
		a.record.Converted = true
		a.arrived[0].body = body
		if got := check(converted, a); (got == nil) != ok {
			t.Errorf("converted body %s: surprises %q", body, got)
		}
	}
}

// TestSend goes against a provider that does not answer as the example says.
func TestSend(t *testing.T) {
	t.Parallel()
	s, err := newStage(io.Discard)
	if err != nil {
		t.Fatal(err)
	}
	defer s.close()
	s.upstream.Script(apexproxytest.RateLimited())
	for _, e := range examples(s.gateway, s.upstream) {
		if !strings.HasPrefix(e.url, s.upstream.URL) {
			continue
		}
		a, err := s.send(t.Context(), e)
		if err != nil {
			t.Fatal(err)
		}
		want := []string{
			"status: got 429, want 200",
			"status in the record: got 429, want 200",
			"text of the answer: got Rate limit reached. Please try again in 7s., want " + apexproxytest.Answer,
			"outcome in the record: got upstream_error, want completed",
			"usage in the record: got none, want some",
		}
		if diff := cmp.Diff(want, check(e, a)); diff != "" {
			t.Errorf("%s (-want +got):\n%s", e.title, diff)
		}
	}
}
