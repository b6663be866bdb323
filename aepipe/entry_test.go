package aepipe

import (
	"bytes"
	"encoding/json"
	"flag"
	"fmt"
	"net/http"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"testing"
	"time"
	"unicode/utf8"

	"github.com/google/go-cmp/cmp"
	"github.com/loadchange/apexproxy"
)

var update = flag.Bool("update", false, "write the golden files")

// record returns a record with each field set, and each to another value.
func record() apexproxy.Record {
	return apexproxy.Record{
		ID:              "id-1",
		Start:           time.Date(2025, 1, 2, 3, 4, 5, 6000000, time.FixedZone("", 3600)),
		Duration:        812*time.Millisecond + 999*time.Microsecond,
		TimeToFirstByte: 101 * time.Millisecond,
		Method:          "POST",
		Path:            "/v1/chat/completions",
		Mode:            apexproxy.ModeGateway,
		Operation:       apexproxy.OperationChat,
		Identity:        apexproxy.Identity{Subject: "token-1", Metadata: map[string]string{"team": "not sent"}},
		Provider:        "anthropic",
		UpstreamHost:    "gateway.example:443",
		ClientModel:     "claude-client#anthropic",
		RequestModel:    "claude-upstream",
		ResponseModel:   "claude-answered",
		Stream:          true,
		Converted:       true,
		Dropped:         []string{"logit_bias"},
		StatusCode:      429,
		Outcome:         apexproxy.OutcomeUpstreamError,
		ErrorType:       "rate_limit_error",
		RequestBytes:    1001,
		ResponseBytes:   1002,
		Usage:           &apexproxy.Usage{InputTokens: 11, OutputTokens: 12, CacheReadTokens: 13, CacheWriteTokens: 14, ReasoningTokens: 15},
		FinishReason:    "end_turn",
		GatewayLogID:    "log-1",
		CacheStatus:     "MISS",
		Content: &apexproxy.Content{
			URL:            "/v1/chat/completions?key=[REDACTED]&a=<b>",
			RequestHeader:  http.Header{"Authorization": {"[REDACTED]"}, "X-Many": {"a", "b"}},
			RequestBody:    []byte(`{"model":"claude-client#anthropic","n":1}`),
			ResponseHeader: http.Header{"Retry-After": {"3"}},
			ResponseBody:   []byte("{\"error\":\"<slow\xff down>\"}"),
		},
	}
}

func testStore(t testing.TB) *store {
	t.Helper()
	s, err := newStore(Config{BaseURL: "https://store.example", Token: token})
	if err != nil {
		t.Fatal(err)
	}
	return s
}

// TestSchema pins what is written, byte for byte. A diff in the columns that is not an addition at
// the end breaks the queries of everybody.
func TestSchema(t *testing.T) {
	t.Parallel()
	full, bare := record(), record()
	bare.Content, bare.Usage, bare.Dropped = nil, nil, nil
	s := testStore(t)
	var columns strings.Builder
	for i, c := range blobColumns {
		fmt.Fprintf(&columns, "blob%d %s\n", i+6, c.name)
	}
	for i, c := range doubleColumns {
		fmt.Fprintf(&columns, "double%d %s\n", i+1, c.name)
	}
	for name, got := range map[string][]byte{
		"columns":    []byte(columns.String()),
		"point":      encode(newPoint(s, &full)),
		"point-bare": encode(newPoint(s, &bare)),
		"log":        encode(newLogEntry(&full)),
		"log-bare":   encode(newLogEntry(&bare)),
	} {
		if json.Valid(got) {
			var b bytes.Buffer
			if err := json.Indent(&b, got, "", "  "); err != nil {
				t.Fatal(err)
			}
			b.WriteByte('\n')
			got = b.Bytes()
		}
		path := filepath.Join("testdata", name+".golden")
		if *update {
			if err := os.WriteFile(path, got, 0o666); err != nil {
				t.Fatal(err)
			}
		}
		want, err := os.ReadFile(path)
		if err != nil {
			t.Fatal(err)
		}
		if diff := cmp.Diff(string(want), string(got)); diff != "" {
			t.Errorf("%s (-golden +got):\n%s", path, diff)
		}
	}
	if len(blobColumns) > 15 || len(doubleColumns) > 20 {
		t.Errorf("%d blobs and %d doubles, the store has room for 15 and 20", len(blobColumns), len(doubleColumns))
	}
}

// TestDocTable compares the table in the package comment with the columns.
func TestDocTable(t *testing.T) {
	t.Parallel()
	doc, err := os.ReadFile("doc.go")
	if err != nil {
		t.Fatal(err)
	}
	var got, want []string
	for _, m := range regexp.MustCompile(`(?m)^//\t((?:blob|double)\d+) +(\w+)`).FindAllSubmatch(doc, -1) {
		got = append(got, fmt.Sprintf("%s %s", m[1], m[2]))
	}
	for i, name := range []string{"project", "logstore", "event", "level", "ref_id"} {
		want = append(want, fmt.Sprintf("blob%d %s", i+1, name))
	}
	for i, c := range blobColumns {
		want = append(want, fmt.Sprintf("blob%d %s", i+6, c.name))
	}
	for i, c := range doubleColumns {
		want = append(want, fmt.Sprintf("double%d %s", i+1, c.name))
	}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Errorf("table (-columns +doc):\n%s", diff)
	}
}

func TestDerivedFields(t *testing.T) {
	t.Parallel()
	type fields struct{ Event, Level, Provider, Model, EndpointType, Stream, Message, URL string }
	tests := []struct {
		name   string
		record apexproxy.Record
		want   fields
	}{
		{
			"gateway",
			apexproxy.Record{
				Method: "POST", Path: "/v1/messages", Mode: apexproxy.ModeGateway, Operation: apexproxy.OperationMessages, Provider: "anthropic",
				ClientModel: "claude-x#anthropic", StatusCode: 200, Outcome: apexproxy.OutcomeCompleted, Duration: 812 * time.Millisecond,
			},
			fields{"POST /v1/messages", "info", "anthropic", "claude-x", "messages", "sync", "POST /v1/messages 200 812ms [anthropic/claude-x]", "/v1/messages"},
		},
		{
			"mapped to another provider",
			apexproxy.Record{
				Method: "POST", Path: "/v1/chat/completions", Mode: apexproxy.ModeGateway, Operation: apexproxy.OperationChat, Provider: "grok",
				ClientModel: "gpt-a", RequestModel: "grok-4", StatusCode: 200, Outcome: apexproxy.OutcomeCompleted, Stream: true,
			},
			fields{"POST /v1/chat/completions", "info", "grok", "gpt-a", "chat_completions", "stream", "POST /v1/chat/completions 200 0ms [grok/gpt-a]", "/v1/chat/completions"},
		},
		{
			"an opaque model in passthrough mode",
			apexproxy.Record{
				Method: "POST", Path: "/v1/messages/count_tokens", Mode: apexproxy.ModePassthrough, Operation: apexproxy.OperationCountTokens,
				Provider: "api.example", ClientModel: "a#b#c", StatusCode: 200, Outcome: apexproxy.OutcomeCompleted,
			},
			fields{"POST /v1/messages/count_tokens", "info", "api.example", "a#b#c", "count_tokens", "sync", "POST /v1/messages/count_tokens 200 0ms [api.example/a#b#c]", "/v1/messages/count_tokens"},
		},
		{
			"a stream that broke off after 200",
			apexproxy.Record{Method: "POST", Path: "/x", StatusCode: 200, Outcome: apexproxy.OutcomeUpstreamTruncated, Content: &apexproxy.Content{URL: "/x?a=1"}},
			fields{"POST /x", "error", "", "", "", "sync", "POST /x 200 0ms [/]", "/x?a=1"},
		},
		{
			"the zero record",
			apexproxy.Record{},
			fields{"- -", "error", "", "", "", "sync", "- - 0 0ms [/]", ""},
		},
	}
	s := testStore(t)
	for _, test := range tests {
		t.Run(test.name, func(t *testing.T) {
			t.Parallel()
			p, l := newPoint(s, &test.record), newLogEntry(&test.record)
			got := fields{p.Event, p.Level, p.Blobs[0], p.Blobs[1], p.Blobs[2], p.Blobs[4], l.Message, p.Payload.Request.URL}
			if diff := cmp.Diff(test.want, got); diff != "" {
				t.Errorf("(-want +got):\n%s", diff)
			}
			if got := (fields{p.Event, l.Level, l.Provider, l.Model, l.EndpointType, got.Stream, l.Message, l.RequestURL}); got != test.want {
				t.Errorf("the log entry differs: %+v", got)
			}
		})
	}
}

func TestBody(t *testing.T) {
	t.Parallel()
	a := strings.Repeat("a", maxBody)
	tests := []struct {
		name      string
		in        string
		truncated bool
		want      string
	}{
		{"nil", "", false, ""},
		{"short", "{}", false, "{}"},
		{"cut by the proxy", "{", true, "{…[truncated]"},
		{"nothing left by the proxy", "", true, "…[truncated]"},
		{"just fits", a, false, a},
		{"one byte over", a + "b", false, a + "…[truncated]"},
		{"a rune over the end", a[:maxBody-1] + "€", false, a[:maxBody-1] + "…[truncated]"},
		{"a rune up to the end", a[:maxBody-3] + "€", false, a},
		{"a rune up to the end and more", a[:maxBody-3] + "€b", false, ""},
		{"four bytes over by one", a[:maxBody-3] + "😀", false, a[:maxBody-3] + "…[truncated]"},
		{"not UTF-8", "a\xffb\xe2\x82", false, "a\ufffdb\ufffd\ufffd"},
		{"not UTF-8 at the end", a[:maxBody-1] + "\xff", false, a[:maxBody-1] + "…[truncated]"},
	}
	tests[7].want = tests[7].in
	tests[8].want = tests[7].in + "…[truncated]"
	for _, test := range tests {
		t.Run(test.name, func(t *testing.T) {
			t.Parallel()
			if got := *body([]byte(test.in), test.truncated); got != test.want {
				t.Errorf("%d bytes ending in %q, want %d ending in %q", len(got), got[max(0, len(got)-20):], len(test.want), test.want[max(0, len(test.want)-20):])
			}
		})
	}
}

func TestFitBlobs(t *testing.T) {
	t.Parallel()
	x := func(n int) string { return strings.Repeat("x", n) }
	tests := []struct {
		name   string
		budget int
		in     []string
		want   []string
	}{
		{"all fit", 10, []string{"", "abc", "defghij"}, []string{"", "abc", "defghij"}},
		{"only the longest is cut", 20, []string{"abc", x(100), "de"}, []string{"abc", x(12) + "…", "de"}},
		{"two share the rest", 23, []string{x(50), "abc", x(100)}, []string{x(7) + "…", "abc", x(7) + "…"}},
		{"one is just within its share", 23, []string{x(10), "abc", x(100)}, []string{x(10), "abc", x(7) + "…"}},
		{"at a rune boundary", 10, []string{"€€€€"}, []string{"€€…"}},
		{"not UTF-8", 10, []string{"a\xff", "\xff\xff\xff"}, []string{"a\ufffd", "\ufffd…"}},
	}
	for _, test := range tests {
		t.Run(test.name, func(t *testing.T) {
			t.Parallel()
			fitBlobs(test.in, test.budget)
			if diff := cmp.Diff(test.want, test.in); diff != "" {
				t.Errorf("(-want +got):\n%s", diff)
			}
		})
	}
}

func TestHeaders(t *testing.T) {
	t.Parallel()
	many := http.Header{}
	for i := range 100 {
		many.Set(fmt.Sprintf("X-%03d", i), strings.Repeat("\"", 1000))
	}
	tests := []struct {
		name string
		in   http.Header
		want map[string]string
	}{
		{"nil", nil, map[string]string{}},
		{"values are joined", http.Header{"Set-Cookie": {"[REDACTED]", "[REDACTED]"}, "X": nil}, map[string]string{"set-cookie": "[REDACTED], [REDACTED]", "x": ""}},
		{"a long value", http.Header{"A": {strings.Repeat("a", 5000)}}, map[string]string{"a": strings.Repeat("a", 4093) + "…"}},
		{"a value long as JSON only", http.Header{"A": {strings.Repeat("\x00", 4000)}}, map[string]string{"a": strings.Repeat("\x00", 682) + "…"}},
	}
	for _, test := range tests {
		if diff := cmp.Diff(test.want, headers(test.in)); diff != "" {
			t.Errorf("%s (-want +got):\n%s", test.name, diff)
		}
	}
	got := headers(many)
	if len(got) != 17 || got["…"] != "[truncated]" || got["x-015"] == "" {
		t.Errorf("%d of 100 headers kept, want the first 16 and a mark", len(got))
	}
}

// hugeRecords have every text as long as a client or upstream can make it.
func hugeRecords() []apexproxy.Record {
	var list []apexproxy.Record
	for _, s := range []string{"a", "\"", "\x00", "\xff", "\u2028", "a😀"} {
		text := strings.Repeat(s, 600<<10/len(s)) // longer than a body may be
		long := text[:64<<10]
		r := record()
		for _, p := range []*string{&r.ID, &r.Method, &r.Path, &r.Identity.Subject, &r.Provider, &r.UpstreamHost, &r.ClientModel,
			&r.RequestModel, &r.ResponseModel, &r.ErrorType, &r.FinishReason, &r.GatewayLogID, &r.CacheStatus} {
			*p = long
		}
		r.Mode, r.Operation, r.Outcome = apexproxy.Mode(long), apexproxy.Operation(long), apexproxy.Outcome(long)
		r.Dropped = nil
		header := http.Header{}
		for i := range 100 {
			r.Dropped = append(r.Dropped, long[:4096])
			header.Set(fmt.Sprintf("X-%d-%s", i, long[:300]), long[:10000])
		}
		r.Content = &apexproxy.Content{URL: long, RequestHeader: header, RequestBody: []byte(text), ResponseHeader: header, ResponseBody: []byte(text)}
		list = append(list, r)
	}
	return list
}

// TestLimits measures entries as the store does.
func TestLimits(t *testing.T) {
	t.Parallel()
	s := testStore(t)
	for _, r := range hugeRecords() {
		sent, log := encode(newPoint(s, &r)), encode(newLogEntry(&r))
		var p point
		if err := json.Unmarshal(sent, &p); err != nil {
			t.Fatal(err)
		}
		if !json.Valid(log) || !utf8.Valid(sent) || !utf8.Valid(log) {
			t.Fatal("not valid JSON in UTF-8")
		}
		blobs := len(s.project) + len(s.logstore) + 36 + len(p.Event) + len(p.Level)
		for _, b := range p.Blobs {
			blobs += len(b)
		}
		if blobs > 16384 || blobs < 16000 {
			t.Errorf("blobs of %d bytes, want 16384 or hardly less", blobs)
		}
		if n := len(encode(p.Payload)); n > 1_950_000 {
			t.Errorf("payload of %d bytes", n)
		}
		if len(log) > 1_950_000 {
			t.Errorf("log entry of %d bytes", len(log))
		}
		meta := p.Payload.Meta
		for i, cut := range []string{p.Event, p.Blobs[0], p.Blobs[10], meta.Model, meta.Dropped[0], p.Payload.Request.URL} {
			if !strings.HasSuffix(cut, "…") {
				t.Errorf("text %d was cut without a mark, or not at all: it has %d bytes", i, len(cut))
			}
		}
		for _, body := range []string{*p.Payload.Request.Body, *p.Payload.Response.Body} {
			if !strings.HasSuffix(body, "…[truncated]") || len(body) > maxBody+len(bodyMark) {
				t.Errorf("a body has %d bytes and ends in %q", len(body), body[max(0, len(body)-20):])
			}
		}
		if n := len(meta.Dropped); n != maxDropped+1 || meta.Dropped[maxDropped] != "…" {
			t.Errorf("%d dropped paths", n)
		}
	}
}

func FuzzClip(f *testing.F) {
	f.Add("", 0, 0)
	f.Add("a€b\xff\"\u2028😀", 9, 12)
	f.Fuzz(func(t *testing.T, s string, maxBytes, maxJSON int) {
		maxBytes, maxJSON = max(0, maxBytes), max(0, maxJSON)
		text, whole := clip(s, maxBytes, maxJSON)
		all := strings.ToValidUTF8(string([]rune(s)), "\ufffd")
		switch {
		case !utf8.ValidString(text):
			t.Errorf("%q is not UTF-8", text)
		case len(text) > maxBytes:
			t.Errorf("%d bytes, want at most %d", len(text), maxBytes)
		case len(encode(text))-2 > maxJSON:
			t.Errorf("%d bytes of JSON, want at most %d", len(encode(text))-2, maxJSON)
		case !strings.HasPrefix(all, text):
			t.Errorf("%q is not a prefix of %q", text, all)
		case whole != (text == all):
			t.Errorf("whole is %t for %q of %q", whole, text, all)
		case len(encode(text))-2 != jsonLen(text):
			t.Errorf("jsonLen(%q) = %d, JSON has %d bytes", text, jsonLen(text), len(encode(text))-2)
		}
		if !whole { // the longest such prefix: one rune more would be too long
			_, n := utf8.DecodeRuneInString(all[len(text):])
			longer := all[:len(text)+n]
			if len(longer) <= maxBytes && jsonLen(longer) <= maxJSON {
				t.Errorf("%q was cut to %q, %q fits too", s, text, longer)
			}
		}
	})
}

func FuzzFitBlobs(f *testing.F) {
	f.Add("a", "b€", "\xff\xff", uint16(20))
	f.Fuzz(func(t *testing.T, a, b, c string, n uint16) {
		budget := max(int(n), 12)
		texts := []string{a, b, c, a + b}
		fitBlobs(texts, budget)
		size := 0
		for i, s := range texts {
			size += len(s)
			whole := string([]rune([]string{a, b, c, a + b}[i]))
			if !utf8.ValidString(s) {
				t.Errorf("%q is not UTF-8", s)
			}
			if s != whole && !strings.HasSuffix(s, "…") {
				t.Errorf("%q became %q without a mark", whole, s)
			}
		}
		if size > budget {
			t.Errorf("%d bytes, want at most %d", size, budget)
		}
	})
}

func FuzzBody(f *testing.F) {
	f.Add([]byte("{}"), 1, false)
	f.Add([]byte("\x00€\""), 1<<18, true)
	f.Fuzz(func(t *testing.T, b []byte, repeat int, truncated bool) {
		b = bytes.Repeat(b, min(max(repeat, 1), 2<<20/max(len(b), 1)+1))
		got := *body(b, truncated)
		whole := strings.TrimSuffix(got, bodyMark)
		if !utf8.ValidString(got) || len(whole) > maxBody || len(encode(got)) > maxBodyJSON+len(bodyMark)+2 {
			t.Errorf("%d bytes, %d as JSON", len(got), len(encode(got)))
		}
		if fits := len(string([]rune(string(b)))) <= maxBody && len(encode(string([]rune(string(b)))))-2 <= maxBodyJSON; !truncated && fits != (got == string([]rune(string(b)))) {
			t.Errorf("a body of %d bytes became one of %d", len(b), len(got))
		}
	})
}
