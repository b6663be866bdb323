package body

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"runtime"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/loadchange/apexproxy/internal/rawjson"
)

// seeds are documents for the verdict table and the fuzz targets alike.
var seeds = []string{
	``, ` `, "\n\t\r ", `{}`, ` { } `, `[]`, `[ ]`, `{`, `}`, `[`, `]`, `[}`, `{]`, `{}{}`, `{} x`, `[] []`,
	`null`, `true`, `false`, `nul`, `truee`, `True`, `nullnull`, `tru`, `f`, `t`, ` null `,
	`0`, `-0`, `-`, `+1`, `01`, `-01`, `00`, `1.`, `.5`, `1.0`, `1.e1`, `1e`, `1e+`, `1e-`, `1E400`, `1e+09`, `-1.5E-3`, `1.5.5`, `1e5e5`,
	`9223372036854775808`, `1 2`, `0x1`, `1_000`, `NaN`, `Infinity`, `1a`, `-a`, `--1`,
	`""`, `"`, `"a`, `"a"b`, `'a'`, `"\"`, `"\`, `"\\"`, `"\a"`, `"\b\f\n\r\t\/\"\\"`, `"\u"`, `"\u00"`, `"\u00e"`, `"\u00eg"`, `"\u00E9"`, `"\U00e9"`,
	`"\ud800"`, `"\ud83d\ude00"`, `"\u0000"`, "\"\x00\"", "\"\x1f\"", "\"\x7f\"", "\"\n\"", "\"\xff\xfe\"", "\"\u2028\"", "\x00", "\xff",
	`"12345678"`, `"1234567\u0041"`, "\"123456\x1f8\"", "\"\x80234567\x1f\"", `"1234567`, `"123456\"`, `"1234567\`, `"12345678\u12`,
	`{"a"}`, `{"a":}`, `{"a":1,}`, `{"a":1 "b":2}`, `{"a":1,,"b":2}`, `{a:1}`, `{1:1}`, `{"a"1}`, `{:1}`, `{,}`, `{"a":1`, `{"a":`, `{"a"`, `{"a":1,`, `{"a":1]`,
	`[1,]`, `[,1]`, `[,]`, `[1 2]`, `[1,2`, `[1}`, `["a":1]`, `[1:2]`, `[[],{},[{}]]`, `[[[`, `]]]`, `{"a":{"b":[{"c":{}}]}}`, `{"a":[}`, `{"a":{]}`,
	"{\f}", "{\v}", "\u00a0{}", "{} \x00", `{/**/}`, "{}//", "\xef\xbb\xbf{}", "\xef\xbb\xbf", "\xef\xbb{}", "\xef\xbb\xbf\xef\xbb\xbf{}", "{}\xef\xbb\xbf",
	`{"model":"gpt","stream":true,"stream_options":{"include_usage":true}}`,
	`{"model":{"model":"x"},"messages":[{"model":"y"}]}`, `{"mod\u0065l":"x","model":"y"}`, `{"\ud800":1,"model\u0000":2}`,
	"{ \"model\"\n:\t\"a\" , \"n\" : -0.0e-0 }\r\n",
}

// valid is the reference: encoding/json, with a leading byte order mark allowed.
func valid(doc []byte) bool { return json.Valid(bytes.TrimPrefix(doc, []byte("\xef\xbb\xbf"))) }

// checkScan fails t when the verdict of Scan differs from the reference or the error's offset
// cannot be right.
func checkScan(t *testing.T, in []byte) {
	t.Helper()
	before := bytes.Clone(in)
	doc, err := Scan(in)
	if !bytes.Equal(before, in) {
		t.Fatalf("Scan changed its input %q", before)
	}
	if errors.Is(err, rawjson.ErrDepth) {
		if n := bytes.Count(in, []byte("[")) + bytes.Count(in, []byte("{")); n <= rawjson.MaxDepth {
			t.Fatalf("ErrDepth with %d brackets", n)
		}
		return
	}
	if want := valid(in); (err == nil) != want {
		t.Fatalf("Scan(%q) error = %v, valid is %v", in, err, want)
	}
	if err == nil {
		return
	}
	if doc != (Doc{}) {
		t.Fatalf("Scan(%q) failed and returned %+v", in, doc)
	}
	var syntax *rawjson.SyntaxError
	if !errors.As(err, &syntax) {
		t.Fatalf("Scan(%q) error = %v, want a SyntaxError", in, err)
	}
	if syntax.Offset < 0 || syntax.Offset > len(in) {
		t.Fatalf("Scan(%q) offset %d outside of the document", in, syntax.Offset)
	}
}

func TestScanVerdict(t *testing.T) {
	t.Parallel()
	for _, s := range seeds {
		checkScan(t, []byte(s))
		for i := range len(s) { // every truncation, and every byte broken
			checkScan(t, []byte(s[:i]))
			checkScan(t, []byte(s[:i]+"\x01"+s[i+1:]))
		}
	}
}

// Strings are read eight bytes at a time: what ends or breaks one is put at every place of a word,
// behind bytes that look like it but for the high bit.
func TestScanStringPositions(t *testing.T) {
	t.Parallel()
	for _, fill := range []string{"a", "\xa2", "\xdc", "\x80", "!", "]"} {
		for n := range 9 {
			head := `{"x":"` + strings.Repeat(fill, n)
			for c := range 256 {
				for _, tail := range []string{`"}`, strings.Repeat(fill, 9) + `"}`} {
					checkScan(t, []byte(head+string([]byte{byte(c)})+tail))
				}
			}
		}
	}
}

func FuzzScan(f *testing.F) {
	for _, s := range seeds {
		f.Add([]byte(s))
	}
	f.Fuzz(func(t *testing.T, in []byte) { checkScan(t, in) })
}

// A found is a [Member] with the bytes it points at.
type found struct {
	Count int
	Value string
}

func TestScanMembers(t *testing.T) {
	t.Parallel()
	type want struct {
		Object                       bool
		Model, Stream, StreamOptions found
	}
	once := func(v string) want { return want{Object: true, Model: found{1, v}} }
	object := want{Object: true}
	tests := []struct {
		in   string
		want want
	}{
		{`{}`, object},
		{` { } `, object},
		{`[]`, want{}},
		{`["model"]`, want{}},
		{`[{"model":"x"}]`, want{}},
		{`"model"`, want{}},
		{`null`, want{}},
		{`1`, want{}},
		{`{"model":"gpt"}`, once(`"gpt"`)},
		{`{"model":""}`, once(`""`)},
		{`{"model":"a\"b\\"}`, once(`"a\"b\\"`)},
		{`{"model":null}`, once(`null`)},
		{`{"model":true}`, once(`true`)},
		{`{"model":false,"a":1}`, once(`false`)},
		{`{"model":-1.5e3}`, once(`-1.5e3`)},
		{`{"model":0}`, once(`0`)},
		{`{"model":{}}`, once(`{}`)},
		{`{"model":{ }}`, once(`{ }`)},
		{`{"model":[]}`, once(`[]`)},
		{`{"model":{"a":1}}`, once(`{"a":1}`)},
		{`{"model":{"a":1,"b":[2,{"c":3}]},"z":0}`, once(`{"a":1,"b":[2,{"c":3}]}`)},
		{`{"model":[1,"x",[2],{"model":3}] ,"z":0}`, once(`[1,"x",[2],{"model":3}]`)},
		{`{"model":{"model":"inner"}}`, once(`{"model":"inner"}`)},
		{"{\r\n\t\"model\" :\n \"gpt\"\t,\"a\":1 }\n", once(`"gpt"`)},
		{"\xef\xbb\xbf{\"model\":\"gpt\"}", once(`"gpt"`)},
		{`{"a":{"model":"x"},"b":[{"model":"y","stream":true}]}`, object},
		{`{"a":{"model":"x"},"model":"z"}`, once(`"z"`)},
		{`{"model":"z","a":[[{"model":"x"}]]}`, once(`"z"`)},
		{`{"model":"a","model":"b"}`, want{Object: true, Model: found{2, `"b"`}}},
		{`{"model":{"a":[1]},"model":"b","x":{"model":1},"model":[2]}`, want{Object: true, Model: found{3, `[2]`}}},
		{`{"mod\u0065l":"a"}`, once(`"a"`)},
		{`{"\u006d\u006F\u0064\u0065\u006c":"a","model":"b"}`, want{Object: true, Model: found{2, `"b"`}}},
		{`{"Model":"a","models":"b","mode":"c","model ":"d","\\model":"e","model\u0000":"f","":"g"}`, object},
		{`{"x":"model","y":["model"],"z":"\"model\":1"}`, object},
		{`{"stream":true,"model":"m","stream_options":{"include_usage":true}}`,
			want{true, found{1, `"m"`}, found{1, `true`}, found{1, `{"include_usage":true}`}}},
		{`{"stream":false,"stream":true,"stre\u0061m_options":null}`,
			want{true, found{}, found{2, `true`}, found{1, `null`}}},
	}
	for _, test := range tests {
		doc, err := Scan([]byte(test.in))
		if err != nil {
			t.Errorf("Scan(%q): %v", test.in, err)
			continue
		}
		show := func(m Member) found { return found{m.Count, test.in[m.Start:m.End]} }
		if !doc.Whole {
			t.Errorf("Scan(%q) did not check all", test.in)
		}
		got := want{doc.Object, show(doc.Model), show(doc.Stream), show(doc.StreamOptions)}
		if diff := cmp.Diff(test.want, got); diff != "" {
			t.Errorf("Scan(%q) (-want +got):\n%s", test.in, diff)
		}
	}
}

func TestMemberString(t *testing.T) {
	t.Parallel()
	type result struct {
		S    string
		OK   bool
		True bool
	}
	for in, want := range map[string]result{
		`{}`:                                {},
		`{"model":"gpt"}`:                   {S: "gpt", OK: true},
		`{"model":""}`:                      {OK: true},
		`{"model":"\u0067\"\\\/\n\u00e9é"}`: {S: "g\"\\/\né" + "é", OK: true},
		`{"model":"\ud83d\ude00"}`:          {S: "😀", OK: true},
		`{"model":true}`:                    {True: true},
		`{"model":false}`:                   {},
		`{"model":null}`:                    {},
		`{"model":"true"}`:                  {S: "true", OK: true},
		`{"model":1}`:                       {},
		`{"model":["true"]}`:                {},
		`{"model":{"a":"b"}}`:               {},
	} {
		doc, err := Scan([]byte(in))
		if err != nil {
			t.Fatal(err)
		}
		var got result
		got.S, got.OK = doc.Model.String([]byte(in))
		got.True = doc.Model.True([]byte(in))
		if diff := cmp.Diff(want, got); diff != "" {
			t.Errorf("%s (-want +got):\n%s", in, diff)
		}
	}
}

func TestSyntaxErrorOffset(t *testing.T) {
	t.Parallel()
	for in, want := range map[string]int{
		``:                   0,
		`  `:                 2,
		`x`:                  0,
		` x`:                 1,
		`{} x`:               3,
		`{"a":1,}`:           7,
		`{"a" 1}`:            5,
		`{"a":1 "b"}`:        7,
		`[1,]`:               3,
		`[1`:                 2,
		`[1}`:                2,
		`{"a":"b`:            7,
		`"a\x"`:              3,
		`"a\u12g4"`:          6,
		"\"abc\n\"":          4,
		"\xef\xbb\xbf{\"a\"": 7,
	} {
		_, err := Scan([]byte(in))
		var syntax *rawjson.SyntaxError
		if !errors.As(err, &syntax) || syntax.Offset != want {
			t.Errorf("Scan(%q) = %v, want a SyntaxError at %d", in, err, want)
		}
	}
	_, err := Scan([]byte(`{"secret":secret}`))
	if got, want := fmt.Sprint(err), "rawjson: not JSON at byte 10"; got != want {
		t.Errorf("error text %q, want %q", got, want)
	}
}

func TestScanDepth(t *testing.T) {
	t.Parallel()
	nest := func(open, inner, shut string, n int) []byte {
		return []byte(strings.Repeat(open, n) + inner + strings.Repeat(shut, n))
	}
	for _, kind := range [][3]string{{"[", "", "]"}, {`{"a":`, "1", "}"}, {"[", "{}", "]"}} {
		deepest := rawjson.MaxDepth
		if kind[1] == "{}" {
			deepest--
		}
		in := nest(kind[0], kind[1], kind[2], deepest)
		if _, err := Scan(in); err != nil || !json.Valid(in) {
			t.Errorf("%s at the limit: %v; encoding/json says %v", kind[0], err, json.Valid(in))
		}
		in = nest(kind[0], kind[1], kind[2], deepest+1)
		if _, err := Scan(in); !errors.Is(err, rawjson.ErrDepth) || json.Valid(in) {
			t.Errorf("%s one past the limit: %v; encoding/json says %v", kind[0], err, json.Valid(in))
		}
	}

	// Levels are counted, not brackets: siblings do not add up, and a level remembers its kind
	// after another kind was there.
	in := []byte("[" + strings.Repeat(`{"a":[[]]},[{}],`, 2*rawjson.MaxDepth) + "0]")
	if _, err := Scan(in); err != nil {
		t.Errorf("many siblings: %v", err)
	}
}

func TestScanBrackets(t *testing.T) {
	for _, s := range []string{"[", `{"a":`} {
		in := bytes.Repeat([]byte(s), 32<<20/len(s))
		var before, after runtime.MemStats
		runtime.ReadMemStats(&before)
		_, err := Scan(in)
		runtime.ReadMemStats(&after)
		if !errors.Is(err, rawjson.ErrDepth) {
			t.Errorf("32 MiB of %s: %v, want ErrDepth", s, err)
		}
		if grown := after.StackInuse - before.StackInuse; after.StackInuse > before.StackInuse && grown > 1<<20 {
			t.Errorf("32 MiB of %s: the stack grew by %d bytes", s, grown)
		}
		if n := testing.AllocsPerRun(1, func() { _, _ = Scan(in) }); n != 0 {
			t.Errorf("32 MiB of %s: %v allocations", s, n)
		}
	}
}

func TestScanAllocations(t *testing.T) {
	in := []byte(`{"model":"gpt#openai","stream":true,"stream_options":{"include_usage":true},"messages":[{"role":"user","content":"` +
		strings.Repeat(`prompt \u00e9 `, 1000) + `"}],"tools":[{"a":[1,2.5,null,true]}]}`)
	if n := testing.AllocsPerRun(100, func() {
		if _, err := Scan(in); err != nil {
			t.Fatal(err)
		}
	}); n != 0 {
		t.Errorf("Scan allocates %v times, want 0", n)
	}
}

// Of a large body the structure is checked, names and the members that are found whole; what stands
// inside of other strings is not.
func TestScanLarge(t *testing.T) {
	t.Parallel()
	pad := strings.Repeat(`some \"words\" and a line\n`, 4000)
	for in, offset := range map[string]int{
		`{"model":"m","x":["` + pad + `\q` + "\x01\n" + `"]}`: -1,
		`{"model":"m","x":"` + pad + `"}`:                     -1,
		`{"model":"m\q","x":"` + pad + `"}`:                   9,
		"{\"model\":\"m\n\",\"x\":\"" + pad + "\"}":           9,
		`{"model":"a","x":"` + pad + `","model":"\u12"}`:      len(pad) + 28,
		`{"stream_options":{"a":"\q"},"x":"` + pad + `"}`:     18,
		`{"mod\qel":"m","x":"` + pad + `"}`:                   6,
		`{"x":"` + pad + `","y":[1,]}`:                        len(pad) + 15,
		`{"x":"` + pad + `","y":tru}`:                         len(pad) + 12,
		`{"x":"` + pad + `\"}`:                                len(pad) + 9,
		`{"x":"` + pad:                                        len(pad) + 6,
	} {
		doc, err := Scan([]byte(in))
		var syntax *rawjson.SyntaxError
		switch {
		case offset < 0 && (err != nil || doc.Whole || doc.Model.Count != 1):
			t.Errorf("%.30s… %v, %+v", in, err, doc)
		case offset >= 0 && (!errors.As(err, &syntax) || syntax.Offset != offset):
			t.Errorf("%.30s… %v, want byte %d", in, err, offset)
		}
	}
}
