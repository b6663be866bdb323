package usage

import (
	"bytes"
	"encoding/json"
	"math/rand/v2"
	"os"
	"path/filepath"
	"runtime/debug"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/loadchange/apexproxy/internal/protocol"
	"github.com/loadchange/apexproxy/internal/rawjson"
)

var dialects = map[string]protocol.Protocol{"chat": protocol.Chat, "responses": protocol.Responses, "messages": protocol.Messages, "embeddings": protocol.Embeddings}

// fixture is one file of testdata: a remark, the answer's bytes, and what is to be read from them.
type fixture struct {
	name    string
	dialect protocol.Protocol
	stream  bool
	extra   bool // ReasoningExtra
	answer  []byte
	want    Summary
}

// fixtures reads testdata. The form is txtar: "-- name --" lines, each followed by that file's
// content.
func fixtures(t testing.TB) (all []fixture) {
	t.Helper()
	files, err := filepath.Glob("testdata/*.txtar")
	if err != nil || len(files) == 0 {
		t.Fatal("no fixtures", err)
	}
	for _, file := range files {
		b, err := os.ReadFile(file)
		if err != nil {
			t.Fatal(err)
		}
		fx := fixture{name: filepath.Base(file)}
		for _, part := range strings.Split("\n"+string(b), "\n-- ")[1:] {
			head, content, ok := strings.Cut(part, " --\n")
			dialect, kind, _ := strings.Cut(head, ".")
			switch {
			case !ok:
				t.Fatalf("%s: bad part %q", file, head)
			case head == "want":
				if err := json.Unmarshal([]byte(content), &fx.want); err != nil {
					t.Fatalf("%s: %v", file, err)
				}
			default:
				fx.dialect, fx.stream, fx.answer = dialects[dialect], kind == "sse", []byte(content+"\n")
			}
		}
		if fx.dialect == protocol.None {
			t.Fatalf("%s: no answer", file)
		}
		fx.extra = strings.HasPrefix(fx.want.Model, "grok-") // as the table of profiles says of xAI
		all = append(all, fx)
	}
	return all
}

func readAnswer(d protocol.Protocol, stream bool, chunks ...[]byte) Summary {
	return readExtra(d, stream, false, chunks...)
}

func readExtra(d protocol.Protocol, stream, extra bool, chunks ...[]byte) Summary {
	r := NewReader(d, stream)
	r.ReasoningExtra = extra
	for _, c := range chunks {
		c = bytes.Clone(c)
		r.Feed(c)
		clear(c) // a Reader that kept it would read zeros
	}
	return r.Summary()
}

func TestFixtures(t *testing.T) {
	t.Parallel()
	for _, fx := range fixtures(t) {
		t.Run(fx.name, func(t *testing.T) {
			t.Parallel()
			if diff := cmp.Diff(fx.want, readExtra(fx.dialect, fx.stream, fx.extra, fx.answer)); diff != "" {
				t.Fatalf("-want +got:\n%s", diff)
			}
			for i := range fx.answer {
				if diff := cmp.Diff(fx.want, readExtra(fx.dialect, fx.stream, fx.extra, fx.answer[:i], fx.answer[i:])); diff != "" {
					t.Fatalf("cut at %d (-want +got):\n%s", i, diff)
				}
			}
			if fx.stream {
				crlf := bytes.ReplaceAll(fx.answer, []byte("\n"), []byte("\r\n"))
				tight := bytes.ReplaceAll(fx.answer, []byte("data: "), []byte("data:"))
				for _, b := range [][]byte{crlf, tight} {
					if diff := cmp.Diff(fx.want, readExtra(fx.dialect, true, fx.extra, b)); diff != "" {
						t.Errorf("other spelling of the stream (-want +got):\n%s", diff)
					}
				}
			} else if got := readExtra(fx.dialect, false, fx.extra, fx.answer[:len(fx.answer)-3]); got != (Summary{}) {
				t.Errorf("cut short: %+v, want nothing", got)
			}
			if got := readAnswer(protocol.None, fx.stream, fx.answer); got != (Summary{}) {
				t.Errorf("dialect None: %+v, want nothing", got)
			}
		})
	}
}

// A look in the middle shows what was said until then, and does not disturb what comes.
func TestSummaryAtAnyTime(t *testing.T) {
	t.Parallel()
	for _, fx := range fixtures(t) {
		r := NewReader(fx.dialect, fx.stream)
		r.ReasoningExtra = fx.extra
		for i := range fx.answer {
			r.Feed(fx.answer[i : i+1])
			got := r.Summary()
			if i%17 != 0 {
				continue
			}
			if diff := cmp.Diff(readExtra(fx.dialect, fx.stream, fx.extra, fx.answer[:i+1]), got); diff != "" {
				t.Fatalf("%s: after %d bytes (-want +got):\n%s", fx.name, i+1, diff)
			}
		}
		if diff := cmp.Diff(fx.want, r.Summary()); diff != "" {
			t.Errorf("%s (-want +got):\n%s", fx.name, diff)
		}
	}
}

// What single answers say. In a stream each line is an event; otherwise it is the body.
func TestReader(t *testing.T) {
	t.Parallel()
	long := strings.Repeat("x", 300)
	for _, tt := range []struct {
		name    string
		dialect protocol.Protocol
		stream  bool
		in      string
		want    Summary
	}{
		{"nothing", protocol.Chat, true, ``, Summary{}},
		{"garbage", protocol.Chat, true, "{\nusage\n[]\n\"usage\"\nnull\n{\"usage\":\n{\"usage\":{\"prompt_tokens\":1}", Summary{}},
		{"empty data", protocol.Chat, true, "\n\n[DONE]", Summary{Done: true}},
		{"not an object", protocol.Chat, false, `["usage",{"usage":{"prompt_tokens":1}}]`, Summary{}},
		{"empty body", protocol.Chat, false, ``, Summary{}},
		{"HTML", protocol.Messages, false, `<html>"usage"</html>`, Summary{}},
		{"wrong kinds", protocol.Chat, false, `{"id":1,"model":{},"choices":"x","usage":{"prompt_tokens":"1","completion_tokens":[2]}}`, Summary{Done: true}},
		{"choices an object", protocol.Chat, false, `{"choices":{"a":"b"},"usage":7}`, Summary{Done: true}},
		{"negative and absent", protocol.Chat, false, `{"usage":{"prompt_tokens":-1,"total_tokens":3}}`, Summary{Done: true}},
		{"negative beside a number", protocol.Chat, false, `{"usage":{"prompt_tokens":-1,"completion_tokens":3}}`, Summary{Usage: &Usage{Output: 3}, Done: true}},
		{"zero is a number", protocol.Chat, false, `{"usage":{"prompt_tokens":0}}`, Summary{Usage: &Usage{}, Done: true}},
		{"floats", protocol.Chat, false, `{"usage":{"prompt_tokens":10.9,"completion_tokens":1e2}}`, Summary{Usage: &Usage{Input: 10, Output: 100}, Done: true}},
		{"too large", protocol.Chat, false, `{"usage":{"prompt_tokens":1e300,"completion_tokens":99999999999999999999}}`, Summary{Done: true}},
		{"usage null after usage", protocol.Chat, true, `{"usage":{"prompt_tokens":1,"completion_tokens":2}}` + "\n" + `{"usage":null}` + "\n" + `{"usage":{}}`, Summary{Usage: &Usage{Input: 1, Output: 2}}},
		{"a later object replaces all", protocol.Chat, true, `{"usage":{"prompt_tokens":9,"prompt_tokens_details":{"cached_tokens":9}}}` + "\n" + `{"usage":{"prompt_tokens":1,"completion_tokens":2}}`, Summary{Usage: &Usage{Input: 1, Output: 2}}},
		{"cache write", protocol.Chat, false, `{"usage":{"prompt_tokens":100,"completion_tokens":2,"prompt_tokens_details":{"cached_tokens":50,"cache_write_tokens":40}}}`, Summary{Usage: &Usage{Input: 100, Output: 2, CacheRead: 50, CacheWrite: 40}, Done: true}},
		{"a total without a profile that explains it", protocol.Chat, false, `{"usage":{"prompt_tokens":5,"completion_tokens":9,"total_tokens":243}}`, Summary{Usage: &Usage{Input: 5, Output: 9}, Done: true}},
		{"cache outside prompt_tokens is not output", protocol.Chat, false, `{"usage":{"prompt_tokens":5,"completion_tokens":9,"total_tokens":114,"cache_read_input_tokens":100}}`, Summary{Usage: &Usage{Input: 5, Output: 9, CacheRead: 100}, Done: true}},
		{"after [DONE] nothing counts", protocol.Chat, true, "[DONE]\n" + `{"usage":{"prompt_tokens":1}}`, Summary{Done: true}},
		{"empty finish_reason", protocol.Chat, true, `{"choices":[{"finish_reason":"stop"}]}` + "\n" + `{"choices":[{"finish_reason":""}]}`, Summary{FinishReason: "stop"}},
		{"index at the end", protocol.Chat, true, `{"choices":[{"finish_reason":"a","index":1},{"finish_reason":"b","index":0}]}`, Summary{FinishReason: "b"}},
		{"spaces", protocol.Chat, true, `{ "usage" : { "prompt_tokens" : 1 } , "choices" : [ { "finish_reason" : "stop" } ] }`, Summary{Usage: &Usage{Input: 1}, FinishReason: "stop"}},
		{"long strings", protocol.Chat, false, `{"id":"` + long + `","model":"` + long + `","choices":[{"finish_reason":"` + long + `"}]}`, Summary{Done: true}},
		{"error a string", protocol.Chat, false, `{"error":"no such model: secret prompt"}`, Summary{Failed: true, Done: true}},
		{"error null", protocol.Chat, false, `{"error":null,"id":"x"}`, Summary{ID: "x", Done: true}},
		{"error with a prompt for a type", protocol.Chat, true, `{"error":{"type":"your text: \"hello\"","code":"bad_request"}}`, Summary{Failed: true, ErrorType: "bad_request"}},
		{"error type too long", protocol.Chat, true, `{"error":{"type":"` + long + `"}}`, Summary{Failed: true}},
		{"error type at the bound", protocol.Chat, true, `{"error":{"type":"` + long[:64] + `"}}`, Summary{Failed: true, ErrorType: long[:64]}},
		{"error goes on", protocol.Chat, true, `{"error":{"code":429}}` + "\n" + `{"usage":{"prompt_tokens":1}}`, Summary{Usage: &Usage{Input: 1}, Failed: true, ErrorType: "429"}},
		{"chat error in Responses", protocol.Responses, true, `{"error":{"type":"server_error"}}`, Summary{Failed: true, ErrorType: "server_error"}},
		{"incomplete, no reason", protocol.Responses, false, `{"status":"incomplete"}`, Summary{FinishReason: "incomplete", Done: true}},
		{"not finished", protocol.Responses, false, `{"status":"queued"}`, Summary{Done: true}},
		{"failed", protocol.Responses, false, `{"status":"failed","error":{"code":"server_error"}}`, Summary{FinishReason: "failed", Failed: true, ErrorType: "server_error", Done: true}},
		{"[DONE] is not theirs", protocol.Messages, true, "[DONE]", Summary{}},
		{"no usage in message_start", protocol.Messages, true, `{"type":"message_start","message":{"id":"m","usage":null}}`, Summary{ID: "m"}},
		{"zeros are numbers", protocol.Messages, true, `{"type":"message_start","message":{"usage":{"input_tokens":0,"output_tokens":0}}}`, Summary{Usage: &Usage{}}},
		{"zero beside the cache is meant", protocol.Messages, true, `{"type":"message_start","message":{"usage":{"input_tokens":100}}}` + "\n" + `{"type":"message_delta","usage":{"input_tokens":0,"cache_read_input_tokens":100}}`, Summary{Usage: &Usage{Input: 100, CacheRead: 100}}},
		{"count_tokens", protocol.Messages, false, `{"input_tokens":14}`, Summary{Done: true}},
	} {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			in := tt.in
			if tt.stream {
				in = "data: " + strings.ReplaceAll(in, "\n", "\n\ndata: ")
			}
			if diff := cmp.Diff(tt.want, readAnswer(tt.dialect, tt.stream, []byte(in))); diff != "" {
				t.Errorf("-want +got:\n%s", diff)
			}
		})
	}
}

// One reader serves the record and the client of a converted answer: what a provider counts where.
func TestOfChat(t *testing.T) {
	t.Parallel()
	for _, tt := range []struct {
		name, in string
		extra    bool
		want     Usage
	}{
		{"Moonshot's cached tokens", `{"prompt_tokens":100,"completion_tokens":5,"cached_tokens":80}`, false, Usage{Input: 100, Output: 5, CacheRead: 80}},
		{"vLLM's written tokens", `{"prompt_tokens":50,"completion_tokens":4,"prompt_tokens_details":{"cached_tokens":12,"created_cache_tokens":30}}`, false,
			Usage{Input: 50, Output: 4, CacheRead: 12, CacheWrite: 30}},
		{"order of the cached ones", `{"prompt_tokens":9,"cached_tokens":4,"prompt_cache_hit_tokens":3,"cache_read_input_tokens":2,"prompt_tokens_details":{"cached_tokens":1}}`, false,
			Usage{Input: 9, CacheRead: 1}},
		{"an odd total", `{"prompt_tokens":100,"completion_tokens":5,"total_tokens":150}`, false, Usage{Input: 100, Output: 5}},
		{"Google's silent reasoning", `{"prompt_tokens":5,"completion_tokens":9,"total_tokens":243}`, true, Usage{Input: 5, Output: 238}},
		{"Google with a cache outside of the prompt", `{"prompt_tokens":5,"completion_tokens":9,"total_tokens":114,"cache_read_input_tokens":100}`, true,
			Usage{Input: 5, Output: 109, CacheRead: 100}},
		{"xAI's reasoning", `{"prompt_tokens":41,"completion_tokens":2,"total_tokens":143,"completion_tokens_details":{"reasoning_tokens":100}}`, true,
			Usage{Input: 41, Output: 102, Reasoning: 100}},
		{"a total that is less", `{"prompt_tokens":41,"completion_tokens":2,"total_tokens":10}`, true, Usage{Input: 41, Output: 2}},
	} {
		got, ok := OfChat(rawjson.Value(tt.in), tt.extra)
		if diff := cmp.Diff(tt.want, got); diff != "" || !ok {
			t.Errorf("%s: %v (-want +got):\n%s", tt.name, ok, diff)
		}
	}
	if _, ok := OfChat(rawjson.Value(`{"total_tokens":3}`), true); ok {
		t.Error("a total alone is no usage")
	}
}

func TestErrorEventWithoutJSON(t *testing.T) {
	t.Parallel()
	for _, d := range []protocol.Protocol{protocol.Chat, protocol.Responses, protocol.Messages} {
		if diff := cmp.Diff(Summary{Failed: true}, readAnswer(d, true, []byte("event: error\ndata: Service Unavailable\n\n"))); diff != "" {
			t.Errorf("dialect %d (-want +got):\n%s", d, diff)
		}
	}
}

func TestBounds(t *testing.T) {
	t.Parallel()
	tail := []byte(`"],"usage":{"prompt_tokens":1}}`)
	fill := bytes.Repeat([]byte{'x'}, maxHeld-len(tail)-len(`{"a":["`))
	at := &Usage{Input: 1}
	if got := readAnswer(protocol.Chat, false, []byte(`{"a":["`), fill, tail); got.Usage == nil || *got.Usage != *at {
		t.Errorf("a body at the bound: %+v, want %+v", got.Usage, at)
	}
	r := NewReader(protocol.Chat, false)
	for _, b := range [][]byte{[]byte(`{"a":["x`), fill, tail, []byte(`{}`)} {
		r.Feed(b)
	}
	if got := r.Summary(); got != (Summary{}) || cap(r.body) != 0 {
		t.Errorf("a body over the bound: %+v, holding %d bytes; want nothing", got, cap(r.body))
	}
	// A large event is passed over; what follows is read.
	got := readAnswer(protocol.Chat, true, []byte(`data: {"a":["x`), fill, tail, []byte("\n\ndata: {\"usage\":{\"prompt_tokens\":2}}\n\n"))
	if diff := cmp.Diff(Summary{Usage: &Usage{Input: 2}}, got); diff != "" {
		t.Errorf("after a large event (-want +got):\n%s", diff)
	}
	// Nesting as deep as fits: a recursive parser would need half a gigabyte of stack, and now dies
	// of less.
	debug.SetMaxStack(64 << 20)
	deep := bytes.Repeat([]byte{'['}, maxHeld)
	if got := readAnswer(protocol.Chat, false, deep); got != (Summary{}) {
		t.Errorf("brackets: %+v", got)
	}
}

var deltas = map[string]struct {
	dialect protocol.Protocol
	chunk   string
}{
	"chat":      {protocol.Chat, `data: {"id":"chatcmpl-123","object":"chat.completion.chunk","created":1694268190,"model":"gpt-4o-mini","system_fingerprint":"fp_44709d6fcb","choices":[{"index":0,"delta":{"content":"Hello there"},"logprobs":null,"finish_reason":null}],"usage":null}` + "\n\n"},
	"responses": {protocol.Responses, "event: response.output_text.delta\n" + `data: {"type":"response.output_text.delta","sequence_number":4,"item_id":"msg_67c9fdcf","output_index":0,"content_index":0,"delta":"Hi","logprobs":[]}` + "\n\n"},
	"messages":  {protocol.Messages, "event: content_block_delta\n" + `data: {"type":"content_block_delta","index":0,"delta":{"type":"text_delta","text":"Hello there"}}` + "\n\n"},
}

// The first chunk names the model; the others must cost nothing, whole or cut.
func TestFeedAllocs(t *testing.T) {
	for name, d := range deltas {
		chunk := []byte(d.chunk)
		r := NewReader(d.dialect, true)
		r.Feed(chunk)
		r.Feed(chunk[:40])
		r.Feed(chunk[40:]) // grows the buffer
		if got := testing.AllocsPerRun(200, func() { r.Feed(chunk) }); got != 0 {
			t.Errorf("%s: %v allocations a chunk", name, got)
		}
		if got := testing.AllocsPerRun(200, func() { r.Feed(chunk[:40]); r.Feed(chunk[40:]) }); got != 0 {
			t.Errorf("%s: %v allocations a cut chunk", name, got)
		}
	}
}

func FuzzReader(f *testing.F) {
	for i, fx := range fixtures(f) {
		f.Add(fx.answer, uint8(fx.dialect), fx.stream, uint64(i))
	}
	f.Fuzz(func(t *testing.T, in []byte, dialect uint8, stream bool, seed uint64) {
		d := protocol.Protocol(dialect % 5)
		want := readAnswer(d, stream, in)
		var chunks [][]byte
		r := rand.New(rand.NewPCG(seed, 1))
		for b := in; len(b) > 0; {
			n := min(len(b), r.IntN(1+int(seed%100)))
			chunks = append(chunks, b[:n])
			b = b[n:]
			if seed%100 == 0 {
				seed++
			}
		}
		got := readAnswer(d, stream, chunks...)
		if diff := cmp.Diff(want, got); diff != "" {
			t.Fatalf("depends on the cut (-whole +cut):\n%s", diff)
		}
		for _, s := range []string{got.FinishReason, got.Model, got.ID} {
			if len(s) > maxText {
				t.Fatalf("%d bytes of text", len(s))
			}
		}
		if got.ErrorType != "" && (!plain(got.ErrorType) || !got.Failed) {
			t.Fatalf("error type %q", got.ErrorType)
		}
		if u := got.Usage; u != nil && (u.Input < 0 || u.Output < 0 || u.CacheRead < 0 || u.CacheWrite < 0 || u.Reasoning < 0) {
			t.Fatalf("negative: %+v", u)
		}
	})
}

func BenchmarkFeed(b *testing.B) {
	for name, d := range deltas {
		b.Run(name, func(b *testing.B) {
			r := NewReader(d.dialect, true)
			chunk := []byte(d.chunk)
			b.SetBytes(int64(len(chunk)))
			b.ReportAllocs()
			for b.Loop() {
				r.Feed(chunk)
			}
		})
	}
}

func BenchmarkAnswer(b *testing.B) {
	for _, fx := range fixtures(b) {
		if fx.name != "chat_json.txtar" && fx.name != "chat_stream.txtar" && fx.name != "messages_stream.txtar" {
			continue
		}
		b.Run(fx.name, func(b *testing.B) {
			b.SetBytes(int64(len(fx.answer)))
			b.ReportAllocs()
			for b.Loop() {
				r := NewReader(fx.dialect, fx.stream)
				r.Feed(fx.answer)
				if r.Summary().Usage == nil {
					b.Fatal("no usage")
				}
			}
		})
	}
}

// Events like the one before are not looked at; whatever is between them must be.
func TestAlike(t *testing.T) {
	t.Parallel()
	chunk := func(s string) string {
		return `data: {"id":"c","model":"m","choices":[{"index":0,"delta":{"content":` + s + `},"finish_reason":null}],"usage":null}` + "\n\n"
	}
	some := strings.Repeat(chunk(`"one"`)+chunk(`"two"`), 5)
	delta := func(s string) string {
		return "event: content_block_delta\ndata: {\"type\":\"content_block_delta\",\"index\":0,\"delta\":{\"type\":\"text_delta\",\"text\":" + s + "}}\n\n"
	}
	start := `data: {"type":"message_start","message":{"id":"i","model":"m"}}` + "\n\n"
	ping := `data: {"type":"ping"}` + "\n\n"
	for name, tt := range map[string]struct {
		in   string
		p    protocol.Protocol
		want Summary
	}{
		"nothing":              {some, protocol.Chat, Summary{ID: "c", Model: "m"}},
		"escapes":              {some + chunk(`"a\"b\\"`) + chunk(`"\\"`) + some, protocol.Chat, Summary{ID: "c", Model: "m"}},
		"a broken escape":      {some + strings.Replace(chunk(`"x"`), `"x"`, `"x\"`, 1) + some, protocol.Chat, Summary{ID: "c", Model: "m"}},
		"words of ours inside": {some + chunk(`"usage"`) + chunk(`"finish_reason: stop"`) + some, protocol.Chat, Summary{ID: "c", Model: "m"}},
		"the end in a like one": {some + strings.Replace(chunk(`"x"`), "null}]", `"stop"}]`, 1) + some, protocol.Chat,
			Summary{ID: "c", Model: "m", FinishReason: "stop"}},
		"usage in a like one": {some + strings.Replace(chunk(`"x"`), `"usage":null`, `"usage":{"prompt_tokens":3}`, 1) + some, protocol.Chat,
			Summary{ID: "c", Model: "m", Usage: &Usage{Input: 3}}},
		"more members behind": {some + strings.Replace(chunk(`"x"`), `"x"`, `"x","error":{"code":"late"},"y":"z"`, 1) + some, protocol.Chat, Summary{ID: "c", Model: "m"}},
		"an error":            {some + `data: {"error":{"code":"late"}}` + "\n\n" + some, protocol.Chat, Summary{ID: "c", Model: "m", Failed: true, ErrorType: "late"}},
		"two events in one":   {some + strings.Replace(chunk(`"x"`), "\n\n", "\ndata: [DONE]\n\n", 1) + some, protocol.Chat, Summary{ID: "c", Model: "m"}},
		"done":                {some + "data: [DONE]\n\n" + strings.Replace(chunk(`"x"`), "null}]", `"stop"}]`, 1), protocol.Chat, Summary{ID: "c", Model: "m", Done: true}},
		"the end as a type":   {start + ping + ping + `data: {"type":"message_stop"}` + "\n\n", protocol.Messages, Summary{ID: "i", Model: "m", Done: true}},
		"an error as a type":  {start + ping + ping + `data: {"type":"error"}` + "\n\n", protocol.Messages, Summary{ID: "i", Model: "m", Failed: true}},
		"a type, its name escaped": {start + strings.Replace(ping+ping, "type", `typ\u0065`, 2) + `data: {"typ\u0065":"error"}` + "\n\n", protocol.Messages,
			Summary{ID: "i", Model: "m", Failed: true}},
		"responses": {strings.Repeat(`data: {"type":"keepalive"}`+"\n\n", 3) + `data: {"type":"error"}` + "\n\n", protocol.Responses, Summary{Failed: true}},
		"a CR inside": {some + strings.Replace(chunk(`"x"`), `"x"`, "\"x\r\rdata: [DONE]\r\r\"", 1) + strings.Replace(chunk(`"x"`), "null}]", `"stop"}]`, 1), protocol.Chat,
			Summary{ID: "c", Model: "m", Done: true}},
		"messages": {strings.Repeat(delta(`"a"`)+delta(`"b"`), 5) + "event: message_delta\ndata: {\"type\":\"message_delta\",\"delta\":{\"stop_reason\":\"end_turn\"},\"usage\":{\"output_tokens\":7}}\n\n" +
			delta(`"c"`) + "event: message_stop\ndata: {\"type\":\"message_stop\"}\n\n", protocol.Messages, Summary{FinishReason: "end_turn", Usage: &Usage{Output: 7}, Done: true}},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			if diff := cmp.Diff(tt.want, readAnswer(tt.p, true, []byte(tt.in))); diff != "" {
				t.Errorf("whole (-want +got):\n%s", diff)
			}
			var bytes [][]byte
			for i := range tt.in {
				bytes = append(bytes, []byte(tt.in[i:i+1])) // nothing is whole: all is looked at
			}
			if diff := cmp.Diff(tt.want, readAnswer(tt.p, true, bytes...)); diff != "" {
				t.Errorf("byte by byte (-want +got):\n%s", diff)
			}
		})
	}
}

// FuzzAlike: an answer says the same whether its events are compared or all looked at.
func FuzzAlike(f *testing.F) {
	f.Add(`data: {"model":"m","c":"`, `","finish_reason":null,"usage":null}`, "one", "two", `x","usage":{"prompt_tokens":1},"y":"z`, uint8(1))
	f.Add("event: content_block_delta\ndata: {\"d\":{\"text\":\"", `"}}`, "one", "two", `usage`, uint8(3))
	f.Add(`data: {"c":"`, `"}`, "a", `b\`, `"error`, uint8(2))
	f.Add(`data: {"type":"`, `"}`, "ping", "message_stop", "error", uint8(2))
	f.Add(`data: {"c":"`, `"}`, "a", "b", "\r\rdata: [DONE]\r\r", uint8(1))
	f.Fuzz(func(t *testing.T, prefix, suffix, a, b, c string, p uint8) {
		var in []byte
		for _, s := range []string{a, b, a, c, b, c, a} {
			in = append(in, prefix+s+suffix+"\n\n"...)
		}
		var pieces [][]byte
		for i := range in {
			pieces = append(pieces, in[i:i+1])
		}
		q := protocol.Protocol(p % 5)
		if diff := cmp.Diff(readAnswer(q, true, pieces...), readAnswer(q, true, in)); diff != "" {
			t.Errorf("%q (-looked at +compared):\n%s", in, diff)
		}
	})
}
