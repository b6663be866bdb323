package convert

import (
	"encoding/json"
	"fmt"
	"io"
	"strings"
	"testing"
)

// agentRequest is a request as a coding agent sends it: tools, and turns of calls and results.
func agentRequest(size int) []byte {
	var b strings.Builder
	b.WriteString(`{"model":"claude-x","max_tokens":32000,"stream":true,"system":[{"type":"text","text":"You are a coding agent.","cache_control":{"type":"ephemeral"}}],"tools":[`)
	for i := range max(size/20_000, 1) {
		if i > 0 {
			b.WriteByte(',')
		}
		fmt.Fprintf(&b, `{"name":"tool_%d","description":"Reads a file from the disk and returns its lines, with numbers.","input_schema":{"type":"object","properties":{"path":{"type":"string","description":"The absolute path"},"limit":{"type":"integer"}},"required":["path"]}}`, i)
	}
	b.WriteString(`],"messages":[{"role":"user","content":"Fix the bug."}`)
	line := `\tif err != nil {\n\t\treturn fmt.Errorf(\"read %q: %w\", name, err)\n\t}\n`
	for i := 0; b.Len() < size-400; i++ {
		fmt.Fprintf(&b, `,{"role":"assistant","content":[{"type":"text","text":"Let me look."},{"type":"tool_use","id":"toolu_%d","name":"tool_0","input":{"path":"/src/main.go","limit":200}}]},{"role":"user","content":[{"type":"tool_result","tool_use_id":"toolu_%d","content":[{"type":"text","text":"%s"}]}]}`,
			i, i, strings.Repeat(line, min(30, (size-b.Len())/len(line))))
	}
	b.WriteString(`]}`)
	return []byte(b.String())
}

func BenchmarkRequest(b *testing.B) {
	for _, size := range []int{2_000, 200_000} {
		b.Run(fmt.Sprintf("%dKB", size/1000), func(b *testing.B) {
			body := agentRequest(size)
			if !json.Valid(body) {
				b.Fatal("not JSON")
			}
			b.SetBytes(int64(len(body)))
			b.ReportAllocs()
			for b.Loop() {
				if _, err := messagesToChat(body, Params{Provider: "openai", Model: "gpt-4.1"}); err != nil {
					b.Fatal(err)
				}
			}
		})
	}
}

func BenchmarkMessage(b *testing.B) {
	body := []byte(`{"id":"c","object":"chat.completion","created":1,"model":"m","choices":[{"index":0,"message":{"role":"assistant","content":"` + strings.Repeat("Some words of an answer. ", 60) +
		`","tool_calls":[{"id":"call_a","type":"function","function":{"name":"get","arguments":"{\"city\":\"Paris\"}"}}]},"finish_reason":"tool_calls"}],"usage":{"prompt_tokens":100,"completion_tokens":5,"prompt_tokens_details":{"cached_tokens":80}}}`)
	c := newConversion(b, request1, Params{})
	b.SetBytes(int64(len(body)))
	b.ReportAllocs()
	for b.Loop() {
		if _, err := c.Document(body); err != nil {
			b.Fatal(err)
		}
	}
}

// loop is an upstream that sends one chunk a read, for ever.
type loop struct{ chunk string }

func (l loop) Read(p []byte) (int, error) { return copy(p, l.chunk), nil }

func BenchmarkStream(b *testing.B) {
	call := `data: {"id":"c","object":"chat.completion.chunk","created":1700000000,"model":"m","choices":[{"index":0,"delta":{"tool_calls":[{"index":0,"id":"a","function":{"name":"x","arguments":"%s"}}]},"finish_reason":null}]}` + "\n\n"
	for _, bb := range []struct{ name, first, chunk string }{
		{"text", textChunk(`"a"`), textChunk(`" some words\n"`)},
		{"arguments", fmt.Sprintf(call, `{\"a\":\"`), fmt.Sprintf(call, `some \\\"words\\\" `)},
	} {
		b.Run(bb.name, func(b *testing.B) {
			e := newConversion(b, request1, Params{}).Events(io.MultiReader(strings.NewReader(bb.first), loop{bb.chunk}))
			if err := e.Start(); err != nil {
				b.Fatal(err)
			}
			buf := make([]byte, 32<<10)
			b.SetBytes(int64(len(bb.chunk)))
			b.ReportAllocs()
			for b.Loop() {
				if _, err := e.Read(buf); err != nil {
					b.Fatal(err)
				}
			}
		})
	}
}

func BenchmarkStrip(b *testing.B) {
	body := agentRequest(200_000)
	b.SetBytes(int64(len(body)))
	b.ReportAllocs()
	for b.Loop() {
		StripOwnThinking(body)
	}
}

func TestStreamAllocations(t *testing.T) {
	if raceEnabled {
		t.Skip("the race detector allocates")
	}
	for name, up := range map[string]string{
		"text":      textChunk(`" some words\n"`),
		"reasoning": strings.Replace(textChunk(`"x"`), `"content"`, `"reasoning_content"`, 1),
	} {
		e := newConversion(t, `{"max_tokens":1,"thinking":{"type":"adaptive"},"messages":[{"role":"user","content":"x"}]}`, Params{}).Events(loop{up})
		buf := make([]byte, 4096)
		for range 10 {
			if _, err := e.Read(buf); err != nil {
				t.Fatal(err)
			}
		}
		if n := testing.AllocsPerRun(100, func() { e.Read(buf) }); n != 0 {
			t.Errorf("%s: %v allocations an event, want 0", name, n)
		}
	}
	args := &script{pieces: []string{`data: {"choices":[{"delta":{"tool_calls":[{"index":0,"id":"a","function":{"name":"x","arguments":"{\"a\":\""}}]}}]}` + "\n\n"}}
	more := `data: {"choices":[{"delta":{"tool_calls":[{"index":0,"function":{"arguments":"some \\\" words"}}]}}]}` + "\n\n"
	e := newConversion(t, request1, Params{}).Events(io.MultiReader(args, loop{more}))
	buf := make([]byte, 4096)
	for range 10 {
		if _, err := e.Read(buf); err != nil {
			t.Fatal(err)
		}
	}
	if n := testing.AllocsPerRun(100, func() { e.Read(buf) }); n != 0 {
		t.Errorf("arguments: %v allocations an event, want 0", n)
	}
}
