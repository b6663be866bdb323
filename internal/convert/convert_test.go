package convert

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"slices"
	"strings"
	"testing"
	"testing/iotest"

	"github.com/google/go-cmp/cmp"

	"github.com/loadchange/apexproxy/internal/protocol"
	"github.com/loadchange/apexproxy/internal/rawjson"
)

const request1 = `{"max_tokens":1,"messages":[{"role":"user","content":"x"}]}`

func newConversion(t testing.TB, body string, p Params) *Conversion {
	t.Helper()
	c, err := messagesToChat([]byte(body), p)
	if err != nil {
		t.Fatal(err)
	}
	c.id = counter()
	return c
}

func textChunk(text string) string {
	return `data: {"id":"c","object":"chat.completion.chunk","created":1700000000,"model":"m","choices":[{"index":0,"delta":{"content":` + text + `},"finish_reason":null}]}` + "\n\n"
}

func TestStreamWorkedExampleExactly(t *testing.T) {
	t.Parallel()
	a := readArchive(t, "testdata/stream/worked-example.txtar")
	out, err := io.ReadAll(conversion(t, a).Events(strings.NewReader(a.files["upstream"])))
	if err != nil {
		t.Fatal(err)
	}
	var want strings.Builder
	for line := range strings.Lines(a.files["events"]) {
		var e struct{ Type string }
		if err := json.Unmarshal([]byte(line), &e); err != nil {
			t.Fatal(err)
		}
		fmt.Fprintf(&want, "event: %s\ndata: %s\n\n", e.Type, strings.TrimSpace(line))
	}
	if diff := cmp.Diff(want.String(), string(out)); diff != "" {
		t.Errorf("(-want +got):\n%s", diff)
	}
}

// script is an upstream body that gives one piece a read.
type script struct {
	pieces []string
	err    error
	reads  int
}

func (s *script) Read(p []byte) (int, error) {
	s.reads++
	if len(s.pieces) == 0 {
		if s.err == nil {
			return 0, io.EOF
		}
		return 0, s.err
	}
	n := copy(p, s.pieces[0])
	if s.pieces[0] = s.pieces[0][n:]; s.pieces[0] == "" {
		s.pieces = s.pieces[1:]
	}
	return n, nil
}

func TestStreamFlush(t *testing.T) {
	t.Parallel()
	pieces := []string{textChunk(`"a"`), textChunk(`"b"`), ": wait\n\n", textChunk(`"c"`)}
	src := &script{pieces: slices.Clone(pieces)}
	e := newConversion(t, request1, Params{}).Events(src)
	if err := e.Start(); err != nil {
		t.Fatal(err)
	}
	buf := make([]byte, 4096)
	for i, want := range []string{`"text":"a"`, `"text":"b"`, `"type":"ping"`, `"text":"c"`} {
		n, err := e.Read(buf)
		if err != nil || !strings.Contains(string(buf[:n]), want) {
			t.Errorf("read %d: %q, %v; want %s in it", i, buf[:n], err, want)
		}
		if src.reads != i+1 {
			t.Errorf("after read %d the source was read %d times", i, src.reads)
		}
	}
}

func TestStreamReadErrors(t *testing.T) {
	t.Parallel()
	reset := errors.New("connection reset")
	fin := `data: {"choices":[{"index":0,"delta":{},"finish_reason":"stop"}]}` + "\n\n"
	tests := []struct {
		name   string
		pieces []string
		err    error
		start  string // of Start
		event  string // of the stream
		cause  error
	}{
		{"deadline", []string{textChunk(`"a"`)}, context.DeadlineExceeded, "", "timeout_error: upstream took too long to answer", context.DeadlineExceeded},
		{"wrapped timeout", []string{textChunk(`"a"`)}, fmt.Errorf("read: %w", os.ErrDeadlineExceeded), "", "timeout_error: upstream took too long to answer", os.ErrDeadlineExceeded},
		{"reset", []string{textChunk(`"a"`)}, reset, "", "api_error: upstream stream ended before completion", reset},
		{"unexpected eof", []string{textChunk(`"a"`)}, io.ErrUnexpectedEOF, "", "api_error: upstream stream ended before completion", io.ErrUnexpectedEOF},
		{"reset after finish", []string{textChunk(`"a"`), fin}, reset, "", "api_error: upstream stream ended before completion", reset},
		{"reset after done", []string{textChunk(`"a"`), fin + "data: [DONE]\n\n"}, reset, "", "", nil},
		{"eof", []string{textChunk(`"a"`)}, io.EOF, "", "api_error: upstream stream ended before completion", nil},
		{"eof after finish", []string{textChunk(`"a"`), fin}, io.EOF, "", "", nil},
		{"deadline at once", nil, context.DeadlineExceeded, "504 timeout_error upstream took too long to answer", "", context.DeadlineExceeded},
		{"reset at once", []string{": hi\n\n"}, reset, "502 api_error upstream stream ended before completion", "", reset},
		{"empty", nil, io.EOF, "502 api_error upstream stream ended before completion", "", nil},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			e := newConversion(t, request1, Params{}).Events(&script{pieces: tt.pieces, err: tt.err})
			err := e.Start()
			if err != nil {
				if got := errorText(err); got != tt.start {
					t.Errorf("Start: %s, want %q", got, tt.start)
				}
				if tt.cause != nil && !errors.Is(err, tt.cause) {
					t.Errorf("Start's error does not wrap %v", tt.cause)
				}
			} else {
				if tt.start != "" {
					t.Error("Start succeeded")
				}
				out, _ := io.ReadAll(e)
				if a := accumulate(t, out); a.Err != tt.event {
					t.Errorf("error %q, want %q", a.Err, tt.event)
				}
			}
			if !errors.Is(e.Err(), tt.cause) {
				t.Errorf("Err: %v, want %v", e.Err(), tt.cause)
			}
			if (tt.start+tt.event != "") != (e.Failed() != nil) {
				t.Errorf("Failed: %v", e.Failed())
			}
		})
	}
}

// TestStreamWithoutStart sees to it that a reader that never called Start is told of an error too.
func TestStreamWithoutStart(t *testing.T) {
	t.Parallel()
	out, err := io.ReadAll(newConversion(t, request1, Params{}).Events(strings.NewReader(`data: {"error":{"message":"no"}}`)))
	if a := accumulate(t, out); err != nil || a.Err != "api_error: no" {
		t.Errorf("%q, %v", a.Err, err)
	}
}

func TestStreamLongLines(t *testing.T) {
	t.Parallel()
	for _, tt := range []struct {
		size int
		want string
	}{{1 << 20, ""}, {16<<20 - 512, ""}, {17 << 20, "api_error: upstream sent an event that is too large"}} {
		src := textChunk(`"a"`) + textChunk(`"`+strings.Repeat("x", tt.size)+`"`) + "data: [DONE]\n\n"
		e := newConversion(t, request1, Params{}).Events(strings.NewReader(src))
		out, _ := io.ReadAll(e)
		a, err := tryAccumulate(out)
		if err != nil {
			t.Fatal(err)
		}
		if a.Err != tt.want {
			t.Errorf("%d bytes: error %q, want %q", tt.size, a.Err, tt.want)
		}
		if tt.want == "" && len(a.Blocks[0].Text) != tt.size+1 {
			t.Errorf("%d bytes: got %d", tt.size, len(a.Blocks[0].Text))
		}
	}
}

// TestStreamBounds sees to it that an upstream cannot make the proxy hold without end.
func TestStreamBounds(t *testing.T) {
	t.Parallel()
	args := `data: {"choices":[{"delta":{"tool_calls":[{"index":1,"id":"b","function":{"name":"y","arguments":"` + strings.Repeat("x", 1<<20) + `"}}]}}]}` + "\n\n"
	open := `data: {"choices":[{"delta":{"tool_calls":[{"index":0,"id":"a","function":{"name":"x","arguments":"{"}}]}}]}` + "\n\n"
	var many strings.Builder
	for i := range maxCalls + 1 {
		fmt.Fprintf(&many, `data: {"choices":[{"delta":{"tool_calls":[{"index":%d,"id":"a%d","function":{"name":"x","arguments":""}}]}}]}`+"\n\n", i, i)
	}
	for _, tt := range []struct{ name, up, want string }{
		{"held arguments", open + strings.Repeat(args, 18), "api_error: upstream sent more than can be held back"},
		{"held text", open + strings.Repeat(textChunk(`"`+strings.Repeat("x", 1<<20)+`"`), 18), "api_error: upstream sent more than can be held back"},
		{"calls", many.String(), "api_error: upstream made too many tool calls at once"},
	} {
		out, _ := io.ReadAll(newConversion(t, request1, Params{}).Events(strings.NewReader(tt.up)))
		if a := accumulate(t, out); a.Err != tt.want {
			t.Errorf("%s: error %q, want %q", tt.name, a.Err, tt.want)
		}
	}
}

func TestStreamSmallReads(t *testing.T) {
	t.Parallel()
	a := readArchive(t, "testdata/stream/worked-example.txtar")
	want, _ := io.ReadAll(conversion(t, a).Events(strings.NewReader(a.files["upstream"])))
	got, err := io.ReadAll(iotest.OneByteReader(conversion(t, a).Events(strings.NewReader(a.files["upstream"]))))
	if err != nil || !bytes.Equal(want, got) {
		t.Errorf("got %d bytes, want %d; %v", len(got), len(want), err)
	}
	if n, err := conversion(t, a).Events(strings.NewReader("")).Read(nil); n != 0 || err != nil {
		t.Errorf("an empty read: %d, %v", n, err)
	}
}

// TestStreamGivesMemoryBack sees to it that one large event does not cost its memory until the end.
func TestStreamGivesMemoryBack(t *testing.T) {
	t.Parallel()
	e := newConversion(t, request1, Params{}).Events(&script{pieces: []string{textChunk(`"` + strings.Repeat("x", 1<<20) + `"`), textChunk(`"y"`), textChunk(`"z"`)}})
	buf := make([]byte, 4<<20)
	for !bytes.Contains(buf, []byte(`"y"`)) {
		if _, err := e.Read(buf); err != nil {
			t.Fatal(err)
		}
	}
	if n := cap(e.to.out); n > keepCap {
		t.Errorf("%d bytes are kept", n)
	}
}

func TestStreamNoProgress(t *testing.T) {
	t.Parallel()
	e := newConversion(t, request1, Params{}).Events(readerFunc(func([]byte) (int, error) { return 0, nil }))
	if err := e.Start(); err == nil || !errors.Is(err, io.ErrNoProgress) {
		t.Errorf("got %v", err)
	}
}

type readerFunc func([]byte) (int, error)

func (f readerFunc) Read(p []byte) (int, error) { return f(p) }

func TestDefaultIDs(t *testing.T) {
	t.Parallel()
	c, err := messagesToChat([]byte(request1), Params{Model: "m"})
	if err != nil {
		t.Fatal(err)
	}
	seen := map[string]bool{}
	for range 2 {
		b, err := c.Document([]byte(`{"choices":[{"message":{}}]}`))
		if err != nil {
			t.Fatal(err)
		}
		var m struct{ ID, Model string }
		if err := json.Unmarshal(b, &m); err != nil {
			t.Fatal(err)
		}
		id, ok := strings.CutPrefix(m.ID, "msg_")
		if !ok || len(id) < 20 || strings.Trim(id, "ABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789") != "" || seen[id] || m.Model != "m" {
			t.Errorf("%+v", m)
		}
		seen[id] = true
	}
}

func TestBOM(t *testing.T) {
	t.Parallel()
	want := newConversion(t, request1, Params{Model: "m"}).Body()
	got := newConversion(t, "\xEF\xBB\xBF \n"+request1+"\n", Params{Model: "m"}).Body()
	if diff := cmp.Diff(string(want), string(got)); diff != "" {
		t.Error(diff)
	}
	if _, err := newConversion(t, request1, Params{}).Document([]byte("\xEF\xBB\xBF{\"choices\":[{}]}")); err != nil {
		t.Error(err)
	}
}

func TestDroppedIsBounded(t *testing.T) {
	t.Parallel()
	var b strings.Builder
	b.WriteString(`{"max_tokens":1,"messages":[{"role":"user","content":"x"}]`)
	for i := range 200 {
		fmt.Fprintf(&b, `,"field_%d":1`, i)
	}
	b.WriteString(`,"sk-SECRET":1}`)
	d := newConversion(t, b.String(), Params{}).Dropped()
	if len(d) != maxDropped || !slices.IsSorted(d) || slices.Contains(d, "sk-SECRET") {
		t.Errorf("%d names: %v", len(d), d)
	}
}

// TestManyCalls keeps pairing calls and results from taking the square of their number.
func TestManyCalls(t *testing.T) {
	t.Parallel()
	const n = 20_000
	var calls, results []string
	for i := range n {
		calls = append(calls, fmt.Sprintf(`{"type":"tool_use","id":"c%d","name":"x","input":{}}`, i))
		results = append(results, fmt.Sprintf(`{"type":"tool_result","tool_use_id":"c%d","content":"r"}`, n-1-i))
	}
	body := `{"max_tokens":1,"messages":[{"role":"assistant","content":[` + strings.Join(calls, ",") + `]},{"role":"user","content":[` + strings.Join(results, ",") + `]}]}`
	c := newConversion(t, body, Params{Provider: "google-ai-studio", Model: "gemini-3-pro"})
	checkPairs(t, c.Body())
}

// TestSchemaBomb keeps references from growing a schema without end.
func TestSchemaBomb(t *testing.T) {
	t.Parallel()
	var defs []string
	for i := range 40 {
		r := fmt.Sprintf(`{"$ref":"#/$defs/d%d"}`, i+1)
		defs = append(defs, fmt.Sprintf(`"d%d":{"type":"object","properties":{"a":%s,"b":%s,"c":%s}}`, i, r, r, r))
	}
	schema := `{"type":"object","properties":{"x":{"$ref":"#/$defs/d0"}},"$defs":{` + strings.Join(defs, ",") + `}}`
	left := newRefBudget(len(schema))
	out := appendGeminiSchema(nil, []byte(schema), &left)
	if !json.Valid(out) || len(out) > 4*maxGeminiSchema {
		t.Errorf("valid %v, %d bytes", json.Valid(out), len(out))
	}
}

func TestProfiles(t *testing.T) {
	t.Parallel()
	none := []string(nil)
	tests := []struct {
		provider, model string
		name            string
		efforts         []string
		noSampling      bool
		maxStop         int
	}{
		{"openai", "gpt-4.1", "openai", none, false, 4},
		{"openai", "gpt-4o-2024-08-06", "openai", none, false, 4},
		{"azure-openai", "GPT-5", "openai", []string{"minimal", "low", "medium", "high"}, true, -1},
		{"openai", "gpt-5-chat-latest", "openai", none, false, 4},
		{"openai", "gpt-5.1", "openai", []string{"none", "low", "medium", "high"}, true, -1},
		{"openai", "gpt-5.2-pro", "openai", []string{"high"}, true, -1},
		{"openai", "gpt-6", "openai", []string{"none", "low", "medium", "high", "xhigh"}, true, -1},
		{"openai", "o4-mini", "openai", lowToHigh, true, -1},
		{"openai", "omni-moderation", "openai", none, false, 4},
		{"google-ai-studio", "gemini-2.0-flash", "google", none, false, 5},
		{"google-vertex-ai", "google/gemini-2.5-pro", "google", lowToHigh, false, 5},
		{"grok", "grok-4", "xai", none, false, -1},
		{"grok", "grok-4.3", "xai", lowToHigh, false, -1},
		{"grok", "grok-4.20-multi-agent", "xai", lowToHigh, false, -1},
		{"grok", "grok-4.20", "xai", none, false, -1},
		{"grok", "grok-3-mini", "xai", lowToHigh, false, -1},
		{"grok", "grok-2", "xai", none, false, 0},
		{"groq", "openai/gpt-oss-120b", "groq", lowToHigh, false, 4},
		{"workers-ai", "@cf/openai/gpt-oss-20b", "workers-ai", lowToHigh, false, 0},
		{"", "@cf/meta/llama-3", "workers-ai", none, false, 0},
		{"custom-x", "kimi-k3", "moonshot", []string{"low", "high", "max"}, true, 0},
		{"custom-x", "gpt-5", "generic", []string{"minimal", "low", "medium", "high"}, true, -1},
		{"", "gpt-5", "openai", []string{"minimal", "low", "medium", "high"}, true, -1},
		{"compat", "openai/o3", "openai", lowToHigh, true, -1},
		{"compat", "workers-ai/@cf/openai/gpt-oss-20b", "workers-ai", lowToHigh, false, 0},
		{"dynamic", "dynamic/route", "generic", none, false, 0},
		{"", "llama-3", "generic", none, false, 0},
		{"", "", "generic", none, false, 0},
	}
	for _, tt := range tests {
		p := ProfileFor(tt.provider, tt.model)
		got := tt
		got.name, got.efforts, got.noSampling, got.maxStop = p.Name, p.Efforts, p.NoSampling, p.MaxStop
		if diff := cmp.Diff(fmt.Sprint(tt), fmt.Sprint(got)); diff != "" {
			t.Errorf("%s/%s: %s", tt.provider, tt.model, diff)
		}
	}
	own := ChatProfile{Name: "own", LimitField: "max_out"}
	if b := newConversion(t, request1, Params{Provider: "openai", Model: "m", Profile: &own}).Body(); !bytes.Contains(b, []byte(`"max_out":1`)) {
		t.Errorf("Profile was not used: %s", b)
	}
}

func TestUpstreamErrors(t *testing.T) {
	t.Parallel()
	tests := []struct {
		name   string
		status int
		body   string
		want   string
	}{
		{"429", 429, `{"error":{"message":"slow","type":"x"}}`, "429 rate_limit_error slow"},
		{"401", 401, `{"error":{"message":"no key"}}`, "401 authentication_error no key"},
		{"402", 402, ``, "402 billing_error upstream returned HTTP 402"},
		{"403", 403, `{}`, "403 permission_error upstream returned HTTP 403"},
		{"404", 404, `{"message":"no model"}`, "404 not_found_error no model"},
		{"408", 408, ``, "408 timeout_error upstream returned HTTP 408"},
		{"409", 409, ``, "409 conflict_error upstream returned HTTP 409"},
		{"413", 413, `{"error":"big"}`, "413 request_too_large big"},
		{"418", 418, `x`, "418 invalid_request_error x"},
		{"422", 422, `{"detail":[{"loc":["body"],"msg":"extra fields not permitted"}]}`, "400 invalid_request_error extra fields not permitted"},
		{"503", 503, `busy`, "529 overloaded_error busy"},
		{"529", 529, ``, "529 overloaded_error upstream returned HTTP 529"},
		{"504", 504, ``, "504 timeout_error upstream returned HTTP 504"},
		{"524", 524, ``, "504 timeout_error upstream returned HTTP 524"},
		{"500", 500, ``, "500 api_error upstream returned HTTP 500"},
		{"521", 521, ``, "502 api_error upstream returned HTTP 521"},
		{"302", 302, ``, "502 api_error upstream returned HTTP 302"},
		{"context-length", 400, `{"error":{"message":"This model's maximum context length is 8192 tokens.","code":"context_length_exceeded"}}`, "400 invalid_request_error prompt is too long: This model's maximum context length is 8192 tokens."},
		{"context-length-413", 413, `{"error":{"message":"too many tokens"}}`, "400 invalid_request_error prompt is too long: too many tokens"},
		{"context-length-plain", 400, `prompt is too long: 9 > 8`, "400 invalid_request_error prompt is too long: 9 > 8"},
		{"context-length-code", 500, `{"error":{"message":"x","code":"context_length_exceeded"}}`, "400 invalid_request_error prompt is too long: x"},
		{"gateway-error-list", 424, `{"success":false,"result":[],"messages":[],"error":[{"code":2016,"message":"Prompt blocked"}]}`, "424 invalid_request_error Prompt blocked"},
		{"gateway-errors", 401, `{"success":false,"errors":[{"code":10000,"message":"Authentication error"}]}`, "401 authentication_error Authentication error"},
		{"policy", 429, `{"success":false,"error":{"message":"Spending limit exceeded","bucket":"b"}}`, "429 rate_limit_error Spending limit exceeded"},
		{"gateway-2005", 400, `{"success":false,"error":[{"code":2005,"message":"Failed to get response from provider"}]}`, "502 api_error Failed to get response from provider"},
		{"gateway-aliases", 400, `{"success":false,"error":[{"code":2040,"message":"Alias not found: prod, staging"}]}`, "400 invalid_request_error the gateway knows no stored key with this alias"},
		{"gateway-internal-code", 401, `{"name":"AiGatewayError","httpCode":401,"internalCode":2009,"message":"Unauthorized"}`, "401 authentication_error Unauthorized"},
		{"google-array", 400, `[{"error":{"code":400,"message":"bad field","status":"INVALID_ARGUMENT"}}]`, "400 invalid_request_error bad field"},
		{"xai-string", 400, `{"code":"bad","error":"text"}`, "400 invalid_request_error text"},
		{"detail", 400, `{"detail":"nope"}`, "400 invalid_request_error nope"},
		{"html", 502, "<!DOCTYPE html><html>nginx</html>", "502 api_error upstream returned HTTP 502"},
		{"long", 500, strings.Repeat("é", 1500), "500 api_error " + strings.Repeat("é", 1000)},
		{"quota", 429, `{"error":{"message":"You exceeded your current quota","type":"insufficient_quota","code":"insufficient_quota"}}`, "429 rate_limit_error You exceeded your current quota (no retry)"},
		{"content-filter", 400, `{"error":{"message":"filtered","code":"content_filter"}}`, "400 invalid_request_error filtered"},
		{"masked-key", 401, `{"error":{"message":"Incorrect API key provided: sk-proj-abc***********xyz. See docs."}}`, "401 authentication_error Incorrect API key provided: [masked]. See docs."},
		{"masked-address", 502, `dial tcp 10.1.2.3:8080: refused, not 8.8.8.8`, "502 api_error dial tcp [masked]: refused, not 8.8.8.8"},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			if got := errorText(UpstreamError(tt.status, []byte(tt.body))); got != tt.want {
				t.Errorf("got  %s\nwant %s", got, tt.want)
			}
		})
	}
}

func TestErrorTellsNoText(t *testing.T) {
	t.Parallel()
	err := UpstreamError(400, []byte(`{"error":{"message":"bad prompt: my secret"}}`))
	if got := fmt.Sprintf("%v", err); got != "convert: 400 invalid_request_error" {
		t.Errorf("got %q", got)
	}
}

func TestPayloadErrorTypes(t *testing.T) {
	t.Parallel()
	for code, want := range map[string]string{
		`"rate_limit_exceeded"`: "rate_limit_error", `"insufficient_quota"`: "rate_limit_error", `"server_is_overloaded"`: "overloaded_error",
		`"overloaded_error"`: "overloaded_error", `"slow_down"`: "overloaded_error", `"service_unavailable_error"`: "overloaded_error",
		`"invalid_request_error"`: "invalid_request_error", `"invalid_prompt"`: "invalid_request_error", `"timeout"`: "timeout_error",
		`"authentication_error"`: "authentication_error", `"permission_error"`: "permission_error", `"not_found_error"`: "not_found_error",
		`503`: "overloaded_error", `"429"`: "rate_limit_error", `200`: "api_error", `null`: "api_error", `"x"`: "api_error",
	} {
		for _, field := range []string{"code", "type"} {
			if field == "type" && code[0] != '"' || field == "type" && code == `"429"` {
				continue
			}
			if e := payloadError(rawjson.Value(`{"error":{"message":"m","` + field + `":` + code + `}}`)); e.Class.Word(protocol.Messages) != want {
				t.Errorf("%s %s: %s, want %s", field, code, e.Class.Word(protocol.Messages), want)
			}
		}
	}
}

func TestStripOwnThinking(t *testing.T) {
	t.Parallel()
	own := `{"type":"thinking","thinking":"t","signature":"apx1.e30"}`
	foreign := `{"type":"thinking","thinking":"t","signature":"EqQB"}`
	text := `{ "type":"text", "text":"\u00e9 apx1.e30", "n":9223372036854775808 }`
	tests := []struct{ name, in, want string }{
		{"none", `{"messages":[{"role":"assistant","content":[` + foreign + `]}]}`, ""},
		{"first", `{"messages":[ {"role":"assistant","content":[ ` + own + ` , ` + text + `]} ], "z":1}`, `{"messages":[ {"role":"assistant","content":[ ` + text + `]} ], "z":1}`},
		{"last", `{"messages":[{"content":[` + text + ` , ` + own + ` ]}]}`, `{"messages":[{"content":[` + text + ` ]}]}`},
		{"middle", `{"messages":[{"content":[` + text + `,` + own + `,` + foreign + `]}]}`, `{"messages":[{"content":[` + text + `,` + foreign + `]}]}`},
		{"several", `{"messages":[{"content":[` + own + `,` + own + `,` + text + `,` + own + `,` + own + `]}]}`, `{"messages":[{"content":[` + text + `]}]}`},
		{"whole message", `{"messages":[{"role":"user","content":"q"},{"role":"assistant","content":[` + own + `]},{"role":"user","content":"r"}]}`, `{"messages":[{"role":"user","content":"q"},{"role":"user","content":"r"}]}`},
		{"first message", `{"messages":[{"role":"assistant","content":[` + own + `]},{"content":[` + own + `,` + text + `]}]}`, `{"messages":[{"content":[` + text + `]}]}`},
		{"every message", `{"messages":[{"role":"assistant","content":[` + own + `]}]}`, ""},
		{"elsewhere", `{"system":[` + own + `],"messages":[{"role":"user","content":"\"apx1.e30"}]}`, ""},
		{"inside a result", `{"messages":[{"content":[{"type":"tool_result","content":[` + own + `]}]}]}`, ""},
		{"content twice", `{"messages":[{"content":"q"},{"content":[` + own + `,` + text + `],"content":[` + own + `]},{"content":"r"}]}`, `{"messages":[{"content":"q"},{"content":"r"}]}`},
		{"BOM", "\xEF\xBB\xBF" + `{"messages":[{"content":[` + own + `,` + text + `]}]}`, "\xEF\xBB\xBF" + `{"messages":[{"content":[` + text + `]}]}`},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			in := []byte(tt.in)
			got := StripOwnThinking(in)
			if string(in) != tt.in {
				t.Error("the body was changed")
			}
			if tt.want == "" {
				if &got[0] != &in[0] || len(got) != len(in) {
					t.Errorf("not the body itself: %s", got)
				}
				return
			}
			if diff := cmp.Diff(tt.want, string(got)); diff != "" {
				t.Errorf("(-want +got):\n%s", diff)
			}
		})
	}
}

// TestSignatureRoundTrip takes a signature through a whole round: made in an answer, used in the
// next request.
func TestSignatureRoundTrip(t *testing.T) {
	t.Parallel()
	p := Params{Provider: "google-ai-studio", Model: "gemini-3-pro"}
	first := newConversion(t, `{"max_tokens":9,"thinking":{"type":"adaptive"},"messages":[{"role":"user","content":"q"}]}`, p)
	m, e := first.Document([]byte(`{"choices":[{"message":{"tool_calls":[{"id":"c.1","function":{"name":"f","arguments":"{}"},"extra_content":{"google":{"thought_signature":"A+/=\u003d"}}}]}}]}`))
	if e != nil {
		t.Fatal(e)
	}
	next := `{"max_tokens":9,"messages":[{"role":"user","content":"q"},{"role":"assistant","content":` + string(rawjson.Value(m).Get("content")) + `}]}`
	b := newConversion(t, next, p).Body()
	if !bytes.Contains(b, []byte(`"thought_signature":"A+/=\u003d"`)) || bytes.Contains(b, []byte("skip_thought")) {
		t.Errorf("%s", b)
	}
	if s := StripOwnThinking([]byte(next)); bytes.Contains(s, []byte("thinking")) || !json.Valid(s) {
		t.Errorf("%s", s)
	}
}

func TestCountTokens(t *testing.T) {
	t.Parallel()
	words := strings.Repeat("some plain words ", 100) // 1700 characters
	tests := []struct {
		name, body string
		low, high  int
		err        string
	}{
		{"text", `{"system":"x","messages":[{"role":"user","content":"` + words + `"}]}`, 300, 600, ""},
		{"chinese", `{"messages":[{"role":"user","content":"` + strings.Repeat("你好", 100) + `"}]}`, 150, 300, ""},
		{"image", `{"messages":[{"role":"user","content":[{"type":"image","source":{"type":"base64","data":"` + strings.Repeat("A", 1<<20) + `"}}]}]}`, 1000, 2000, ""},
		{"tools", `{"tools":[{"name":"a","description":"` + words + `","input_schema":{"type":"object"}}],"messages":[{"role":"user","content":"x"}]}`, 300, 600, ""},
		{"result", `{"messages":[{"role":"user","content":[{"type":"tool_result","tool_use_id":"a","content":[{"type":"text","text":"` + words + `"},{"type":"image","source":{}}]}]}]}`, 1900, 2200, ""},
		{"no messages", `{}`, 0, 0, "400 invalid_request_error messages: field required"},
		{"no object", `[]`, 0, 0, "400 invalid_request_error the body must be a JSON object"},
	}
	for _, tt := range tests {
		n, err := CountTokens([]byte(tt.body))
		if err != nil {
			if errorText(err) != tt.err {
				t.Errorf("%s: %s", tt.name, errorText(err))
			}
			continue
		}
		if tt.err != "" || n < tt.low || n > tt.high {
			t.Errorf("%s: %d, want %d to %d %s", tt.name, n, tt.low, tt.high, tt.err)
		}
	}
}

// Clients show the input tokens of message_start while the answer runs.
func TestEstimateInput(t *testing.T) {
	t.Parallel()
	const body = `{"max_tokens":1,"stream":true,"system":"Be brief. Grüße.","messages":[{"role":"user","content":"How many tokens are in this sentence?"}]}`
	estimate, failed := CountTokens([]byte(body))
	if failed != nil || estimate < 10 {
		t.Fatal(estimate, failed)
	}
	const chunk = `data: {"choices":[{"index":0,"delta":{"content":"x"}}]}` + "\n\n"
	const usage = `data: {"choices":[],"usage":{"prompt_tokens":77,"completion_tokens":1}}` + "\n\n"
	const rest = `data: {"choices":[{"index":0,"delta":{},"finish_reason":"stop"}]}` + "\n\n" + usage + "data: [DONE]\n\n"
	for name, tt := range map[string]struct {
		up    string
		asked bool
		want  int
	}{
		"estimate":         {chunk + rest, true, estimate},
		"upstream said it": {usage + chunk + rest, true, 77},
		"not asked for":    {chunk + rest, false, 0},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			c, failed := messagesToChat([]byte(body), Params{Model: "m", EstimateInput: tt.asked})
			if failed != nil {
				t.Fatal(failed)
			}
			out, err := io.ReadAll(c.Events(strings.NewReader(tt.up)))
			start, _, _ := strings.Cut(string(out), "\n\n")
			if want := fmt.Sprintf(`"usage":{"input_tokens":%d,`, tt.want); err != nil || !strings.Contains(start, want) {
				t.Errorf("%v: %s lacks %s", err, start, want)
			}
			if !strings.Contains(string(out), `"type":"message_delta"`) || strings.Count(string(out), `"input_tokens":77`) != 1+strings.Count(start, `"input_tokens":77`) {
				t.Errorf("the end does not say what the upstream said:\n%s", out)
			}
		})
	}
}

func TestCountText(t *testing.T) {
	t.Parallel()
	for _, s := range []string{"", "a", "seven b", "eight by", "Grüße aus Köln, señor", "漢字かな交じり文です", "emoji 🎉🎉🎉 and more text behind them", "\xff\x80\xc0 broken"} {
		for cut := range len(s) + 1 {
			want, other := 0, 0
			for _, c := range []byte(s[cut:]) {
				switch {
				case c < 0x80:
					want++
				case c >= 0xC0:
					other++
				}
			}
			if got := countText([]byte(s[cut:])); got != (want*2+6)/7+other {
				t.Errorf("%q: %d", s[cut:], got)
			}
		}
	}
}
