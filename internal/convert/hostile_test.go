package convert

import (
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"runtime"
	"strings"
	"testing"

	"github.com/loadchange/apexproxy/internal/protocol"
	"github.com/loadchange/apexproxy/internal/rawjson"
)

// A target that is made of removed keywords writes nothing and is read for each reference to it:
// the work has a bound of its own.
func TestReferences_work(t *testing.T) {
	t.Parallel()
	refs := strings.Repeat(`{"$ref":"#/$defs/a"},`, 20_000)
	schema := `{"type":"object","$defs":{"a":{"default":[` + strings.Repeat("1,", 200_000) + `1]}},"anyOf":[` + strings.TrimSuffix(refs, ",") + `]}`
	left := newRefBudget(len(schema))
	out := appendGeminiSchema(nil, []byte(schema), &left)
	if !json.Valid(out) || left.read > 0 {
		t.Errorf("valid %v, work left %d", json.Valid(out), left.read)
	}
	if next := appendGeminiSchema(nil, []byte(`{"type":"object","properties":{"a":{"type":"string"}}}`), &left); string(next) != string(anyObject) {
		t.Errorf("the next schema of the request is looked at all the same: %s", next)
	}
}

func TestTooManyParts(t *testing.T) {
	t.Parallel()
	many := func(s string) string { return strings.TrimSuffix(strings.Repeat(s+",", maxParts+1), ",") }
	for name, body := range map[string]string{
		"messages": `{"max_tokens":1,"messages":[` + many(`{"role":"user","content":"x"}`) + `]}`,
		"content":  `{"max_tokens":1,"messages":[{"role":"user","content":[` + many(`{"type":"a"}`) + `]}]}`,
		"result":   `{"max_tokens":1,"messages":[{"role":"user","content":[{"type":"tool_result","tool_use_id":"a","content":[` + many(`{"type":"a"}`) + `]}]}]}`,
		"document": `{"max_tokens":1,"messages":[{"role":"user","content":[{"type":"document","source":{"type":"content","content":[` + many(`{"type":"text","text":"x"}`) + `]}}]}]}`,
		"tools":    `{"max_tokens":1,"messages":[{"role":"user","content":"x"}],"tools":[` + many(`{"name":"a"}`) + `]}`,
		"stop":     `{"max_tokens":1,"messages":[{"role":"user","content":"x"}],"stop_sequences":[` + many(`"a"`) + `]}`,
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			_, err := messagesToChat([]byte(body), Params{Model: "m"})
			if err == nil || err.Status != 400 || !strings.Contains(err.Message, "too many") {
				t.Errorf("%+v", err)
			}
		})
	}
}

// Many messages of one role become one: what that costs must grow with their number, not with its
// square.
func TestManyMessagesOfOneRole(t *testing.T) {
	cost := func(n int) uint64 {
		body := `{"max_tokens":1,"messages":[` + strings.TrimSuffix(strings.Repeat(`{"role":"user","content":"x"},`, n), ",") + `]}`
		var before, after runtime.MemStats
		runtime.ReadMemStats(&before)
		if _, err := messagesToChat([]byte(body), Params{Model: "m"}); err != nil {
			t.Fatal(err)
		}
		runtime.ReadMemStats(&after)
		return after.TotalAlloc - before.TotalAlloc
	}
	if few, many := cost(500), cost(4000); many > 16*few {
		t.Errorf("%d bytes for 500 messages, %d for 4000", few, many)
	}
}

func TestMessagesTwice(t *testing.T) {
	t.Parallel()
	const list = `"messages":[{"role":"user","content":"x"}]`
	_, err := messagesToChat([]byte(`{"max_tokens":1,`+list+`,`+list+`}`), Params{Model: "m"})
	if got := errorText(err); got != "400 invalid_request_error messages: stands twice" {
		t.Error(got)
	}
}

// What cannot be written yet counts, whatever part of a call it is.
func TestHeldIsBounded(t *testing.T) {
	t.Parallel()
	call := func(i int, fields string) string {
		return fmt.Sprintf(`data: {"choices":[{"index":0,"delta":{"tool_calls":[{"index":%d,%s}]}}]}`+"\n\n", i, fields)
	}
	mega := strings.Repeat("x", 1<<20)
	for name, event := range map[string]func(i int) string{
		"arguments that never begin": func(i int) string {
			if i == 0 {
				return call(0, `"id":"a","function":{"name":"f"}`)
			}
			return call(0, `"function":{"arguments":"`+mega+`"}`)
		},
		"ids":   func(i int) string { return call(i, `"id":"`+mega+fmt.Sprint(i)+`"`) },
		"names": func(i int) string { return call(i, `"function":{"name":"`+mega+`"}`) },
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			i := 0
			e := newConversion(t, request1, Params{}).Events(readerFromEvents(func() string { i++; return event(i - 1) }))
			_, _ = io.Copy(io.Discard, e)
			if e.Failed() == nil || i > 40 {
				t.Errorf("%d MiB were taken, failed: %v", i, e.Failed())
			}
		})
	}
}

// readerFromEvents reads an endless stream, event by event.
func readerFromEvents(next func() string) io.Reader {
	var rest string
	return readerFunc(func(p []byte) (int, error) {
		if rest == "" {
			rest = next()
		}
		n := copy(p, rest)
		rest = rest[n:]
		return n, nil
	})
}

func TestCharge(t *testing.T) {
	t.Parallel()
	document := `{"choices":[{"message":{"content":"` + strings.Repeat("x", 1<<20)
	for name, up := range map[string]string{"document": document, "event": "data: " + document} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			var asked int64
			e := newConversion(t, request1, Params{}).Events(strings.NewReader(up))
			e.Charge(func(n int64) error {
				if asked += n; asked > 512<<10 {
					return errors.New("no")
				}
				return nil
			})
			if err := e.Start(); err == nil || err.Class.Word(protocol.Messages) != "overloaded_error" {
				t.Errorf("Start: %+v", err)
			}
		})
	}
}

func TestToolNameCollision(t *testing.T) {
	t.Parallel()
	sent := string(toolName(rawjson.Text(`files.delete`)))
	body := `{"max_tokens":1,"messages":[{"role":"user","content":"x"}],"tools":[{"name":"files.delete","input_schema":{}},{"name":"` + sent + `","input_schema":{}}]}`
	c, err := messagesToChat([]byte(body), Params{Model: "m"})
	if err != nil {
		t.Fatal(err)
	}
	if n := strings.Count(string(c.Body()), sent); n != 1 || len(c.Dropped()) != 1 {
		t.Errorf("%q is declared %d times, dropped %q", sent, n, c.Dropped())
	}
}
