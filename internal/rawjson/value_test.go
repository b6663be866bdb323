package rawjson

import (
	"encoding/json"
	"testing"
	"unicode/utf8"

	"github.com/google/go-cmp/cmp"
)

func TestValue(t *testing.T) {
	t.Parallel()
	doc := Value(` {"a" : {"b":[1, "x\"]", {"c":null}]} ,"n\u0061me":"t\u00e9xt","a2":true,"twice":1,"twice":2, "e":{}, "z":[] } `)[1:]
	got := map[string]string{}
	for name, value := range doc.Members() {
		got[string(name)] = string(value)
	}
	want := map[string]string{"a": `{"b":[1, "x\"]", {"c":null}]}`, "name": `"t\u00e9xt"`, "a2": "true", "twice": "2", "e": "{}", "z": "[]"}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Errorf("members (-want +got):\n%s", diff)
	}
	var elements []string
	for e := range doc.Get("a", "b").Elements() {
		elements = append(elements, string(e))
	}
	if diff := cmp.Diff([]string{"1", `"x\"]"`, `{"c":null}`}, elements); diff != "" {
		t.Errorf("elements (-want +got):\n%s", diff)
	}
	for _, absent := range []Value{doc.Get("b"), doc.Get("a", "c", "d"), doc.Get("z").First(), Value("1").First(), Value(nil).Get("x")} {
		if absent != nil || !absent.IsNull() || absent.Kind() != 0 {
			t.Errorf("%q is not absent", absent)
		}
	}
	if s := doc.Get("name"); !s.Is("téxt") || string(s.Text()) != `t\u00e9xt` || s.Is("x") {
		t.Errorf("%s: %q, %q", s, s.Decode(), s.Text())
	}
}

// A Reader descends where the loop's body does, and steps over what it leaves alone.
func TestReader(t *testing.T) {
	t.Parallel()
	r := &Reader{Doc: []byte(` {"skipped":{"x":[1]},"list":[ {"a":1} , "s", [2,3] ],"last":true} , next`)}
	var got []string
	for name := range r.Members() {
		got = append(got, string(name))
		if string(name) != "list" {
			continue
		}
		for i := range r.Elements() {
			switch i {
			case 0:
				for name := range r.Members() {
					got = append(got, string(name), string(r.Value()))
				}
			case 2:
				got = append(got, string(r.Value()))
			}
		}
	}
	if diff := cmp.Diff([]string{"skipped", "list", "a", "1", "[2,3]", "last"}, got); diff != "" {
		t.Errorf("(-want +got):\n%s", diff)
	}
	if rest := string(r.Doc[r.At:]); rest != " , next" {
		t.Errorf("stands before %q", rest)
	}
	for range r.Elements() { // no array is next
		t.Error("an element of none")
	}
}

func TestValue_numbers(t *testing.T) {
	t.Parallel()
	for in, want := range map[string]int64{
		"0": 0, "17": 17, "1.9": 1, "1e3": 1000, "-5": 0, "1e300": 0, `"5"`: 0, "": 0, "null": 0, "999999999999999999": 999999999999999999, "99999999999999999999": 0,
	} {
		if got := Value(in).Count(); got != want {
			t.Errorf("%s counts %d, want %d", in, got, want)
		}
	}
}

// A walk over a document costs nothing: it is done for every chunk of a stream.
func TestMembers_allocations(t *testing.T) {
	doc := Value(`{"id":"c","choices":[{"index":0,"delta":{"content":"word"}},{"index":1}],"usage":null}`)
	n := testing.AllocsPerRun(100, func() {
		sum := 0
		for name, value := range doc.Members() {
			sum += len(name)
			for e := range value.Elements() {
				sum += int(e.Get("index").Count())
			}
		}
		if sum == 0 {
			t.Error("nothing was walked")
		}
	})
	if n != 0 {
		t.Errorf("%v allocations", n)
	}
}

// FuzzValue: of valid documents the walk finds what encoding/json finds, and of others it ends.
func FuzzValue(f *testing.F) {
	for _, s := range []string{`{"a":[1,"\ud83d\ude00\"",{"b":null}],"c":"\u00e9"}`, `[`, `{"a"`, `{"a":"\`, `]`, `{]}`, "\xff", `{"\u0061":1e9}`} {
		f.Add([]byte(s))
	}
	f.Fuzz(func(t *testing.T, b []byte) {
		got := walk(Value(Trim(b)))
		if !json.Valid(b) {
			return
		}
		var want any
		if json.Unmarshal(b, &want) != nil || !utf8.Valid(b) {
			return
		}
		if diff := cmp.Diff(shape(want), got); diff != "" {
			t.Errorf("%s (-want +got):\n%s", b, diff)
		}
	})
}

// walk returns a document as maps, slices and strings; all else is its kind.
func walk(v Value) any {
	switch v.Kind() {
	case '{':
		m := map[string]any{}
		for name, value := range v.Members() {
			m[string(name)] = walk(value)
		}
		return m
	case '[':
		l := []any{}
		for e := range v.Elements() {
			l = append(l, walk(e))
		}
		return l
	case '"':
		return string(v.Decode())
	}
	return nil
}

// shape is walk for what encoding/json made.
func shape(v any) any {
	switch v := v.(type) {
	case map[string]any:
		m := map[string]any{}
		for name, value := range v {
			m[name] = shape(value)
		}
		return m
	case []any:
		l := []any{}
		for _, e := range v {
			l = append(l, shape(e))
		}
		return l
	case string:
		return v
	}
	return nil
}

func TestAppendEmbedded(t *testing.T) {
	t.Parallel()
	for _, in := range []string{`{}`, `{ "a" : "q\"\\\n\u00e9" , "b":[1, 2.50 ,null ] }`, `"\""`, `[]`} {
		got := append(append([]byte{'"'}, AppendEmbedded(nil, Value(in))...), '"')
		var s string
		if err := json.Unmarshal(got, &s); err != nil {
			t.Fatalf("%s: %v", got, err)
		}
		var a, b any
		if json.Unmarshal([]byte(in), &a) != nil || json.Unmarshal([]byte(s), &b) != nil {
			t.Fatalf("%s embeds as %s", in, s)
		}
		if diff := cmp.Diff(a, b); diff != "" {
			t.Errorf("%s (-want +got):\n%s", in, diff)
		}
	}
}
