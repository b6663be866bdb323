package sse

import (
	"bytes"
	"fmt"
	"math/rand/v2"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
)

// ev is an Event that may be kept.
type ev struct{ Type, Data string }

// parse feeds the chunks to p and returns all that it emitted.
func parse(p *Parser, chunks ...[]byte) []ev {
	var out []ev
	emit := func(e Event) { out = append(out, ev{string(e.Type), string(e.Data)}) }
	for _, c := range chunks {
		c = bytes.Clone(c)
		p.Feed(c, emit)
		for i := range c { // whatever the parser kept of the chunk is spoilt
			c[i] = 'X'
		}
	}
	p.Close(emit)
	return out
}

// cut splits s at places that depend on seed alone.
func cut(s []byte, seed uint64) [][]byte {
	r := rand.New(rand.NewPCG(seed, 1))
	size := 1 + int(seed%40)
	var out [][]byte
	for len(s) > 0 {
		n := min(len(s), r.IntN(size+1))
		out = append(out, s[:n])
		s = s[n:]
	}
	return out
}

// pieces cuts s into pieces of n bytes.
func pieces(s []byte, n int) (out [][]byte) {
	for p := range slices.Chunk(s, n) {
		out = append(out, p)
	}
	return out
}

// reference is the standard's algorithm in the plainest words, with everything in memory.
func reference(s string, limit int) (out []ev, skipped, comments int) {
	s = strings.TrimPrefix(s, "\xEF\xBB\xBF")
	s = strings.ReplaceAll(s, "\r\n", "\n")
	s = strings.ReplaceAll(s, "\r", "\n")
	var typ string
	var data []string
	var over bool
	for _, line := range append(strings.Split(s, "\n"), "") {
		if line == "" {
			switch {
			case data == nil:
			case over:
				skipped++
			default:
				out = append(out, ev{typ, strings.Join(data, "\n")})
			}
			typ, data, over = "", nil, false
			continue
		}
		name, value, _ := strings.Cut(line, ":")
		value = strings.TrimPrefix(value, " ")
		switch name {
		case "":
			comments++
		case "event":
			typ = value
		case "data":
			data = append(data, value)
		}
		over = over || len(typ)+len(strings.Join(data, "\n")) > limit
	}
	return out, skipped, comments
}

var grammar = []struct {
	name, in string
	want     []ev
}{
	{"nothing", "", nil},
	{"LF", "data: a\n\ndata: b\n\n", []ev{{"", "a"}, {"", "b"}}},
	{"CRLF", "data: a\r\n\r\ndata: b\r\n\r\n", []ev{{"", "a"}, {"", "b"}}},
	{"CR", "data: a\r\rdata: b\r\r", []ev{{"", "a"}, {"", "b"}}},
	{"mixed ends", "data: a\r\n\ndata: b\n\r\ndata: c\r\n\rdata: d\n\r", []ev{{"", "a"}, {"", "b"}, {"", "c"}, {"", "d"}}},
	{"LF then CR is two lines", "data: a\n\rdata: b\n\r", []ev{{"", "a"}, {"", "b"}}},
	{"no space", "data:a\n\n", []ev{{"", "a"}}},
	{"one space only is taken", "data:  a \n\n", []ev{{"", " a "}}},
	{"tab is not a space", "data:\ta\n\n", []ev{{"", "\ta"}}},
	{"colons in the value", "data: {\"a\":1}\n\n", []ev{{"", `{"a":1}`}}},
	{"several data lines", "data: a\ndata:\ndata: b\n\n", []ev{{"", "a\n\nb"}}},
	{"the standard's two empty events", "data\n\ndata\ndata\n\n", []ev{{"", ""}, {"", "\n"}}},
	{"data without colon, unfinished", "data", []ev{{"", ""}}},
	{"type", "event: ping\ndata: {}\n\ndata: x\n\n", []ev{{"ping", "{}"}, {"", "x"}}},
	{"type after data, last wins", "event: a\ndata: x\nevent: b\n\n", []ev{{"b", "x"}}},
	{"type made empty again", "event: a\nevent\ndata: x\n\n", []ev{{"", "x"}}},
	{"type without data", "event: ping\n\ndata: x\n\n", []ev{{"", "x"}}},
	{"comments", ": OPENROUTER PROCESSING\n\n:\ndata: a\n: b\ndata: c\n\n", []ev{{"", "a\nc"}}},
	{"id, retry and unknown fields", "id: 1\nretry: 10\nfoo: bar\ndatas: x\ndat: y\nData: z\ndata: a\n\n", []ev{{"", "a"}}},
	{"long unknown name", strings.Repeat("data", 100) + ": x\ndata: a\n\n", []ev{{"", "a"}}},
	{"BOM", "\xEF\xBB\xBFdata: a\n\n", []ev{{"", "a"}}},
	{"BOM before event", "\xEF\xBB\xBFevent: e\ndata: a\n\n", []ev{{"e", "a"}}},
	{"BOM before a comment", "\xEF\xBB\xBF: c\ndata: a\n\n", []ev{{"", "a"}}},
	{"BOM alone on its line", "\xEF\xBB\xBF\ndata: a\n\n", []ev{{"", "a"}}},
	{"half a BOM", "\xEF\xBBdata: a\n\ndata: b\n\n", []ev{{"", "b"}}},
	{"BOM later is a name", "data: a\n\n\xEF\xBB\xBFdata: b\n\n", []ev{{"", "a"}}},
	{"BOM alone on a later line is no blank line", "data: a\n\xEF\xBB\xBF\ndata: b\n\n", []ev{{"", "a\nb"}}},
	{"runes", "data: žluťoučký 🐎\n\n", []ev{{"", "žluťoučký 🐎"}}},
	{"not UTF-8, NUL", "data: \xff\x00\xfe\n\n", []ev{{"", "\xff\x00\xfe"}}},
	{"no blank line at the end", "data: a\n\ndata: [DONE]\n", []ev{{"", "a"}, {"", "[DONE]"}}},
	{"no line end at the end", "data: a\n\ndata: [DONE]", []ev{{"", "a"}, {"", "[DONE]"}}},
	{"CR at the end", "data: a\r", []ev{{"", "a"}}},
	{"blank lines", "\n\n\r\n\r\rdata: a\n\n\n\n", []ev{{"", "a"}}},
}

func TestParserGrammar(t *testing.T) {
	t.Parallel()
	for _, tt := range grammar {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			in := []byte(tt.in)
			ref, _, comments := reference(tt.in, 1<<20)
			if diff := cmp.Diff(tt.want, ref); diff != "" {
				t.Fatalf("the test's own reference (-want +got):\n%s", diff)
			}
			for i := range len(in) + 1 {
				var p Parser
				if diff := cmp.Diff(tt.want, parse(&p, in[:i], in[i:])); diff != "" {
					t.Fatalf("cut at %d (-want +got):\n%s", i, diff)
				}
				if p.Comments() != comments || p.Skipped() != 0 {
					t.Errorf("cut at %d: %d comments, %d skipped; want %d, 0", i, p.Comments(), p.Skipped(), comments)
				}
			}
			var p Parser
			if diff := cmp.Diff(tt.want, parse(&p, pieces(in, 1)...)); diff != "" {
				t.Errorf("byte by byte (-want +got):\n%s", diff)
			}
			if diff := cmp.Diff(tt.want, parse(&p, in)); diff != "" {
				t.Errorf("a second stream through the same parser (-want +got):\n%s", diff)
			}
		})
	}
}

// An event must come out with the byte that ends it, not with the next one.
func TestParserEmitsAtOnce(t *testing.T) {
	t.Parallel()
	for _, s := range []string{"data: a\n\n", "data: a\r\r", "data: a\r\n\r"} {
		var p Parser
		var at []int
		for i := range s {
			p.Feed([]byte(s[i:i+1]), func(Event) { at = append(at, i) })
		}
		if diff := cmp.Diff([]int{len(s) - 1}, at); diff != "" {
			t.Errorf("%q (-want +got):\n%s", s, diff)
		}
	}
}

func TestParserMax(t *testing.T) {
	t.Parallel()
	const limit = 100
	line := func(n int) string { return "data: " + strings.Repeat("x", n) + "\n" }
	for _, tt := range []struct {
		name, in string
		want     int // events before the last
		skipped  int
	}{
		{"at the limit", line(limit) + "\n", 1, 0},
		{"over it", line(limit+1) + "\n", 0, 1},
		{"joined at the limit", line(limit-10) + line(9) + "\n", 1, 0},
		{"joined over it", line(limit-10) + line(10) + "\n", 0, 1},
		{"type counts", "event: e\n" + line(limit) + "\n", 0, 1},
		{"type alone", "event: " + strings.Repeat("x", limit+1) + "\n\n", 0, 0},
		{"comment does not count", ":" + strings.Repeat("x", 10*limit) + "\n" + line(1) + "\n", 1, 0},
		{"id does not count", "id:" + strings.Repeat("x", 10*limit) + "\n" + line(1) + "\n", 1, 0},
		{"two in a row", line(limit+1) + "\n" + line(limit+1) + "\n", 0, 2},
		{"data after it", line(limit+1) + line(1) + "\n", 0, 1},
	} {
		for _, n := range []int{1, 7, 1 << 20} {
			p := Parser{Max: limit}
			got := parse(&p, pieces([]byte(tt.in+"data: after\n\n"), n)...)
			if len(got) != tt.want+1 || got[len(got)-1].Data != "after" || p.Skipped() != tt.skipped {
				t.Errorf("%s, chunks of %d: %d events, %d skipped; want %d, %d", tt.name, n, len(got), p.Skipped(), tt.want+1, tt.skipped)
			}
		}
	}
}

// One 16 MiB event is passed over without being held, and a large one does not leave its buffer
// behind.
func TestParserMemory(t *testing.T) {
	t.Parallel()
	var p Parser
	n := 0
	emit := func(Event) { n++ }
	held := func() int { return cap(p.data.buf) + cap(p.typ.buf) }
	chunk := bytes.Repeat([]byte{'x'}, 32<<10)
	p.Feed([]byte("data: "), emit)
	for range 512 {
		p.Feed(chunk, emit)
		if held() > defaultMax*3/2 {
			t.Fatalf("holds %d bytes", held())
		}
	}
	if held() != 0 {
		t.Errorf("holds %d bytes of an event that it will not emit", held())
	}
	p.Feed([]byte("\n\ndata: "), emit)
	for range 16 {
		p.Feed(chunk, emit)
	}
	p.Feed([]byte("\n\n"), emit)
	if n != 1 || p.Skipped() != 1 {
		t.Errorf("%d events, %d skipped; want 1, 1", n, p.Skipped())
	}
	if held() > keepCap {
		t.Errorf("holds %d bytes after the event", held())
	}
	for range 1024 {
		p.Feed(chunk, emit) // a field name of 32 MiB
	}
	if held() != 0 {
		t.Errorf("holds %d bytes of a name", held())
	}
}

func TestParserDoesNotCopy(t *testing.T) {
	t.Parallel()
	chunk := []byte("event: message\ndata: one piece\n\n")
	var p Parser
	p.Feed(chunk, func(e Event) {
		if &e.Data[0] != &chunk[bytes.Index(chunk, []byte("one"))] || &e.Type[0] != &chunk[7] {
			t.Error("an event inside one chunk was copied")
		}
	})
}

func TestParserAllocs(t *testing.T) {
	n := 0
	emit := func(e Event) { n += len(e.Data) }
	for name, chunks := range map[string][][]byte{
		"whole":      {stream(10, 300)},
		"in halves":  cut(stream(10, 300), 39),
		"many lines": {bytes.Repeat([]byte("event: e\ndata: a\ndata: b\n\n"), 10)},
	} {
		var p Parser
		feed := func() {
			for _, c := range chunks {
				p.Feed(c, emit)
			}
		}
		feed() // grows the buffer
		if got := testing.AllocsPerRun(100, feed); got != 0 {
			t.Errorf("%s: %v allocations", name, got)
		}
	}
}

func FuzzParser(f *testing.F) {
	for i, tt := range grammar {
		f.Add([]byte(tt.in), uint64(i), uint16(0))
	}
	f.Add([]byte("data: 0123456789\n\nevent: e\ndata: 1\n\n"), uint64(3), uint16(9))
	f.Fuzz(func(t *testing.T, in []byte, seed uint64, limit uint16) {
		p := Parser{Max: int(limit)}
		got := parse(&p, cut(in, seed)...)
		l := int(limit)
		if l == 0 {
			l = defaultMax
		}
		want, skipped, comments := reference(string(in), l)
		if diff := cmp.Diff(want, got); diff != "" {
			t.Fatalf("-want +got:\n%s", diff)
		}
		if p.Skipped() != skipped || p.Comments() != comments {
			t.Fatalf("%d skipped, %d comments; want %d, %d", p.Skipped(), p.Comments(), skipped, comments)
		}
	})
}

// stream returns n events with about size bytes of data each.
func stream(n, size int) []byte {
	var b bytes.Buffer
	for range n {
		fmt.Fprintf(&b, "event: delta\ndata: {\"text\":\"%s\"}\n\n", strings.Repeat("word ", size/5))
	}
	return b.Bytes()
}

func BenchmarkParser(b *testing.B) {
	for _, bb := range []struct {
		name        string
		n, size, at int
	}{
		{"200B", 1000, 200, 0},
		{"200B/cut", 1000, 200, 1400},
		{"4KB", 100, 4 << 10, 0},
		{"512KB", 4, 512 << 10, 32 << 10},
	} {
		b.Run(bb.name, func(b *testing.B) {
			s := stream(bb.n, bb.size)
			at := bb.at
			if at == 0 {
				at = len(s)
			}
			var p Parser
			n := 0
			emit := func(Event) { n++ }
			b.SetBytes(int64(len(s)))
			b.ReportAllocs()
			for b.Loop() {
				for r := s; len(r) > 0; {
					k := min(at, len(r))
					p.Feed(r[:k], emit)
					r = r[k:]
				}
			}
		})
	}
}
