package convert

import (
	"bytes"
	"fmt"
	"io"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
)

// loosened is a stream that means the same, no chunk of which is like the one before: the white
// space between its tokens differs.
func loosened(events []string) string {
	var b strings.Builder
	for i, e := range events {
		fmt.Fprintf(&b, "data: {%s%s\n\n", strings.Repeat(" ", i+1), strings.TrimPrefix(e, "{"))
	}
	return b.String()
}

func tight(events []string) string {
	var b strings.Builder
	for _, e := range events {
		b.WriteString("data: " + e + "\n\n")
	}
	return b.String()
}

// checkAlike fails t when it matters for a converted stream whether its chunks are like each other.
func checkAlike(t *testing.T, which uint8, events []string) {
	t.Helper()
	read := func(up string) (string, []string) {
		c := fuzzConversion(t, which)
		c.id = counter()
		out, err := io.ReadAll(c.Events(strings.NewReader(up)))
		if err != nil {
			t.Fatal(err)
		}
		return string(out), c.Dropped()
	}
	want, wantDropped := read(loosened(events))
	got, gotDropped := read(tight(events))
	if diff := cmp.Diff(want, got) + cmp.Diff(wantDropped, gotDropped); diff != "" {
		t.Errorf("%q (-all parsed +compared):\n%s", events, diff)
	}
}

// Chunks like the one before are not parsed again. That changes nothing of what comes out.
func TestAlikeChunks(t *testing.T) {
	t.Parallel()
	delta := func(s string) string {
		return `{"model":"m","choices":[{"index":0,"delta":{` + s + `},"finish_reason":null}],"usage":null}`
	}
	call := func(index int, args string) string {
		return delta(fmt.Sprintf(`"tool_calls":[{"index":%d,"function":{"arguments":"%s"}}]`, index, args))
	}
	begin := func(index int, id string) string {
		return delta(fmt.Sprintf(`"tool_calls":[{"index":%d,"id":"%s","function":{"name":"fs.read","arguments":""}}]`, index, id))
	}
	end := `{"choices":[{"index":0,"delta":{},"finish_reason":"stop"}]}`
	for name, events := range map[string][]string{
		"text":                  {delta(`"content":"a"`), delta(`"content":"b"`), delta(`"content":""`), delta(`"content":"\u00e9\"\\"`), end},
		"not a string":          {delta(`"content":"a"`), delta(`"content":"b"`), delta(`"content":null`), delta(`"content":"c"`), end},
		"a broken escape":       {delta(`"content":"a"`), delta(`"content":"b"`), delta(`"content":"\q"`), delta(`"content":"c"`), end},
		"more members":          {delta(`"content":"a"`), delta(`"content":"b"`), delta(`"content":"c","refusal":"no"`), delta(`"content":"d"`), end},
		"the end in a like one": {delta(`"content":"a"`), delta(`"content":"b"`), strings.Replace(delta(`"content":"c"`), "null}]", `"length"}]`, 1)},
		"usage in a like one":   {delta(`"content":"a"`), strings.Replace(delta(`"content":"b"`), `"usage":null`, `"usage":{"prompt_tokens":3,"completion_tokens":4}`, 1), delta(`"content":"c"`), end},
		"thinking":              {delta(`"reasoning_content":"a"`), delta(`"reasoning_content":"b"`), delta(`"reasoning_content":"c","content":""`), delta(`"content":"d"`), delta(`"content":"e"`), end},
		"thinking, otherwise":   {delta(`"content":"","reasoning":"a"`), delta(`"content":"","reasoning":"b"`), delta(`"content":"x","reasoning":"c"`), end},
		"a call":                {begin(0, "a"), call(0, `{\"x\":`), call(0, `1`), call(0, `}`), end},
		"two calls":             {begin(0, "a"), call(0, `{\"x\":`), begin(1, "b"), call(1, `{}`), call(0, `1`), call(0, `}`), end},
		"one index for all":     {begin(0, "a"), call(0, `{}`), begin(0, "b"), call(0, `{\"y\":2}`), call(0, ` `), end},
		"text in a call":        {begin(0, "a"), call(0, `{\"x\":`), delta(`"content":"a"`), delta(`"content":"b"`), call(0, `1}`), delta(`"content":"c"`), end},
		"blank text":            {delta(`"content":"\n"`), delta(`"content":" "`), delta(`"content":"x"`), end},
		"no end":                {delta(`"content":"a"`), delta(`"content":"b"`)},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			for which := range uint8(len(fuzzProfiles)) {
				checkAlike(t, which, events)
				checkAlike(t, which|0x40, events)
			}
		})
	}
}

func FuzzAlikeChunks(f *testing.F) {
	for i, s := range []string{
		`"choices":[{"index":0,"delta":{"content":"@"}}]}`, `"choices":[{"delta":{"role":"assistant","content":"@","reasoning_content":""}}],"usage":null}`,
		`"choices":[{"delta":{"content":"","reasoning_content":"@"}}]}`, `"choices":[{"delta":{"tool_calls":[{"index":0,"id":"a","function":{"name":"x","arguments":"@"}}]}}]}`,
		`"choices":[{"delta":{"tool_calls":[{"function":{"arguments":"@"}}]}}]}`, `"error":"@"}`, `"choices":[{"delta":{"content":"a"},"finish_reason":"@"}]}`,
	} {
		f.Add(s, `one`, `{\"a\":`, uint8(i))
		f.Add(s, `{}`, `\"}`, uint8(i)|0x40)
	}
	f.Fuzz(func(t *testing.T, chunk, one, two string, which uint8) {
		if strings.ContainsAny(chunk+one+two, "\r\n") || bytes.HasSuffix([]byte(chunk), []byte(" ")) {
			return // more than one line, or not the same chunk with white space before it
		}
		var events []string
		for _, s := range []string{one, two, one, "", two} {
			events = append(events, "{"+strings.ReplaceAll(chunk, "@", s))
		}
		checkAlike(t, which, events)
	})
}
