package sse

import (
	"bytes"
	"errors"
	"io"
	"slices"
	"strings"
	"testing"
	"testing/iotest"

	"github.com/google/go-cmp/cmp"
)

// marked picks the events that the tests want left out.
func marked(data []byte) bool { return string(data) == "DROP" }

// chunked hands out one chunk a Read, then err. What is left of p it spoils, as a Reader may.
type chunked struct {
	chunks [][]byte
	err    error
	reads  int
}

func (c *chunked) Read(p []byte) (int, error) {
	c.reads++
	for i := range p {
		p[i] = '\n'
	}
	if len(c.chunks) == 0 {
		return 0, c.err
	}
	n := copy(p, c.chunks[0])
	if c.chunks[0] = c.chunks[0][n:]; len(c.chunks[0]) == 0 {
		c.chunks = c.chunks[1:]
	}
	return n, nil
}

func TestFilter(t *testing.T) {
	t.Parallel()
	big := strings.Repeat("x", holdMax)
	for _, tt := range []struct{ name, in, want string }{
		{"nothing", "", ""},
		{"only it", "data: DROP\n\n", ""},
		{"first", "data: DROP\n\ndata: a\n\n", "data: a\n\n"},
		{"middle", "data: a\n\ndata: DROP\n\ndata: b\n\n", "data: a\n\ndata: b\n\n"},
		{"last", "data: a\n\ndata: DROP\n\n", "data: a\n\n"},
		{"all its lines", "data: a\n\nid: 1\nevent: x\n: y\ndata: DROP\nretry: 3\n\ndata: b\n\n", "data: a\n\ndata: b\n\n"},
		{"a comment before it stays", ": keep-alive\ndata: DROP\n\n: c\n\n", ": keep-alive\n: c\n\n"},
		{"CRLF", "data: a\r\n\r\ndata: DROP\r\n\r\ndata: b\r\n\r\n", "data: a\r\n\r\ndata: b\r\n\r\n"},
		{"CR", "data: a\r\rdata: DROP\r\rdata: b\r\r", "data: a\r\rdata: b\r\r"},
		{"LF CRLF", "data: DROP\n\r\n\r\ndata: b\n\n", "\r\ndata: b\n\n"},
		{"CR comment after it", "data: DROP\r\r: c\r\ndata: b\r\r", ": c\r\ndata: b\r\r"},
		{"no blank line", "data: a\n\ndata: DROP\n", "data: a\n\n"},
		{"no line end", "data: a\n\ndata: DROP", "data: a\n\n"},
		{"cut short", "data: a\n\ndata: DRO", "data: a\n\ndata: DRO"},
		{"name only", "data: a\n\ndat", "data: a\n\ndat"},
		{"after a large one", "data: " + big + "\n\ndata: DROP\n\ndata: " + big + big + "\n\n", "data: " + big + "\n\ndata: " + big + big + "\n\n"},
		// Every chunk of 1000 and of 5000 bytes that ends in CR is followed by one that starts with
		// its LF.
		{"CRLF cut inside a large one", "data: DROP\r\n\r\nid: " + big[:65000] + big[:4981] + "\r\nid: y\r\n\r\n", "id: " + big[:65000] + big[:4981] + "\r\nid: y\r\n\r\n"},
		{"large for its other lines", ":" + big + "\nid: " + big + "\ndata: DROP\n\n", ":" + big + "\nid: " + big + "\ndata: DROP\n\n"},
		{"not an event stream", "{\"error\":\"\r\n\r\n\"}", "{\"error\":\"\r\n\r\n\"}"},
		{"zeros", "\x00\x00\n\n\x00", "\x00\x00\n\n\x00"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			boom := errors.New("boom")
			for _, size := range []int{1, 2, 3, 1000, 5000, 1 << 20} {
				if size < 1000 && len(tt.in) > holdMax {
					continue
				}
				for _, end := range []error{io.EOF, boom} {
					f := NewFilter(&chunked{chunks: pieces([]byte(tt.in), size), err: end}, marked)
					got, err := io.ReadAll(f)
					if diff := cmp.Diff(tt.want, string(got)); diff != "" {
						t.Fatalf("chunks of %d (-want +got):\n%s", size, diff)
					}
					if end == boom && err != boom || end == io.EOF && err != nil || f.Err() != end {
						t.Errorf("chunks of %d: ended with %v and %v, want %v unchanged", size, err, f.Err(), end)
					}
					if n, err := f.Read(make([]byte, 10)); n != 0 || err != end {
						t.Errorf("Read after the end = %d, %v; want 0, %v", n, err, end)
					}
				}
				for _, src := range []io.Reader{
					iotest.DataErrReader(bytes.NewReader([]byte(tt.in))),
					iotest.HalfReader(bytes.NewReader([]byte(tt.in))),
				} {
					var got bytes.Buffer
					f := NewFilter(src, marked)
					if _, err := io.CopyBuffer(onlyWriter{&got}, f, make([]byte, size)); err != nil {
						t.Fatal(err)
					}
					if diff := cmp.Diff(tt.want, got.String()); diff != "" {
						t.Fatalf("Reads of %d (-want +got):\n%s", size, diff)
					}
				}
			}
		})
	}
}

// onlyWriter hides a ReadFrom, so that io.CopyBuffer uses its buffer.
type onlyWriter struct{ io.Writer }

// Each step is what one Read of the source gives, and all that must have left by then.
func TestFilterDoesNotHoldBack(t *testing.T) {
	t.Parallel()
	for _, room := range []int{100, 32 << 10} {
		r, w := io.Pipe()
		in := make(chan string, 10)
		go func() {
			for s := range in {
				io.WriteString(w, s)
			}
		}()
		f := NewFilter(r, marked)
		// want is read right after in was written, while the source has no more to give: a Read too
		// many would hang.
		for _, step := range []struct{ in, want string }{
			{"data: a\n\n", "data: a\n\n"},
			{"data: b\n\ndata: D", "data: b\n\n"},
			{"ROP\n\n: ping\n", ": ping\n"},
			{"data: DROP\r\n\r", ""},
			{"\n: ping\n\n", ": ping\n\n"},
			{"data: c\r\n\r", "data: c\r\n\r"},
			{"\n", "\n"},
			{"data: d", ""},
			{"\n\n", "data: d\n\n"},
			{"data: " + strings.Repeat("x", holdMax), "data: " + strings.Repeat("x", holdMax)},
			{"yz", "yz"},
			{"\n\n", "\n\n"},
			{"data: DROP\n", ""},
			{"\ndata: e\n\n", "data: e\n\n"},
		} {
			in <- step.in
			if step.want == "" {
				continue // the next step's bytes come with it
			}
			got := make([]byte, 0, len(step.want))
			for len(got) < len(step.want) {
				b := make([]byte, room)
				n, err := f.Read(b)
				if err != nil {
					t.Fatal(err)
				}
				got = append(got, b[:n]...)
			}
			if diff := cmp.Diff(step.want, string(got)); diff != "" {
				t.Fatalf("after %.20q (-want +got):\n%s", step.in, diff)
			}
		}
		close(in)
	}
}

func TestFilterReadsOnce(t *testing.T) {
	t.Parallel()
	src := &chunked{chunks: [][]byte{[]byte("data: a\n\nda"), []byte("ta: b\n\n"), []byte("data: D"), []byte("ROP\n\n"), []byte("data: c\n\n")}, err: io.EOF}
	f := NewFilter(src, marked)
	var reads []int
	for {
		b := make([]byte, 8<<10)
		_, err := f.Read(b)
		reads = append(reads, src.reads)
		if err != nil {
			break
		}
	}
	if diff := cmp.Diff([]int{1, 2, 5, 6}, reads); diff != "" {
		t.Errorf("source Reads so far, by Read (-want +got):\n%s", diff)
	}
	none := NewFilter(&chunked{}, marked)
	if n, err := none.Read(make([]byte, 8<<10)); n != 0 || err != nil {
		t.Errorf("a source that gives nothing: %d, %v", n, err)
	}
	if n, err := none.Read(make([]byte, 8)); n != 0 || err != nil {
		t.Errorf("a source that gives nothing, small Read: %d, %v", n, err)
	}
}

// What a large event took is given back when it has passed.
func TestFilterMemory(t *testing.T) {
	t.Parallel()
	large := append([]byte("data: "), bytes.Repeat([]byte("x"), holdMax-1000)...)
	large = append(large, "\n\n"...)
	small := []byte("data: a\n\n")
	f := NewFilter(&chunked{chunks: append(pieces(large, 10_000), small, small)}, marked)
	b := make([]byte, 32<<10)
	most := 0
	for left := len(large) + 2*len(small); left > 0; {
		n, err := f.Read(b)
		if err != nil {
			t.Fatal(err)
		}
		left -= n
		most = max(most, len(f.buf))
	}
	if most < holdMax-1000 || most > 2*holdMax+readMin {
		t.Errorf("held up to %d bytes", most)
	}
	if len(f.buf) > keepCap {
		t.Errorf("holds %d bytes after the event", len(f.buf))
	}
}

// repeat is an endless stream, cut every n bytes.
type repeat struct {
	s     []byte
	n, at int
}

func (r *repeat) Read(p []byte) (int, error) {
	n := copy(p, r.s[r.at:min(len(r.s), r.at+r.n)])
	r.at = (r.at + n) % len(r.s)
	return n, nil
}

func TestFilterAllocs(t *testing.T) {
	in := append(stream(20, 300), "data: DROP\n\n"...)
	for _, n := range []int{1 << 20, 1400, 100} {
		f := NewFilter(&repeat{s: in, n: n}, marked)
		b := make([]byte, 32<<10)
		read := func() {
			if _, err := f.Read(b); err != nil {
				t.Fatal(err)
			}
		}
		for range 100 {
			read() // grows the buffers
		}
		if got := testing.AllocsPerRun(200, read); got != 0 {
			t.Errorf("chunks of %d: %v allocations a Read", n, got)
		}
	}
}

// Whatever the bytes and wherever they are cut: with nothing to drop the copy is identical, and of
// a stream into which marked events were put, all but these comes out.
func FuzzFilter(f *testing.F) {
	for i, tt := range grammar {
		f.Add([]byte(tt.in), uint64(i), uint16(i), uint8(i))
	}
	f.Add([]byte("data: "+strings.Repeat("x", holdMax+100)+"\n\n"), uint64(39), uint16(5000), uint8(3))
	f.Fuzz(func(t *testing.T, in []byte, seed uint64, room uint16, end uint8) {
		read := func(in []byte, drop func([]byte) bool) []byte {
			var out bytes.Buffer
			f := NewFilter(&chunked{chunks: cut(in, seed), err: io.EOF}, drop)
			if _, err := io.CopyBuffer(onlyWriter{&out}, f, make([]byte, int(room)+1)); err != nil {
				t.Fatal(err)
			}
			return out.Bytes()
		}
		if got := read(in, func([]byte) bool { return false }); !bytes.Equal(got, in) {
			t.Fatalf("not identical: %q, want %q", got, in)
		}
		nl := []string{"\n", "\r\n", "\r"}[end%3]
		event := "event: x" + nl + "data: DROP" + nl + nl
		// A blank line of our own keeps the marked events apart from what stands before them.
		want := append(bytes.Clone(in), "\n\n"...)
		if nl == "\r" && want[0] == '\n' || bytes.Contains(in, []byte("DROP")) {
			return // that LF would belong to the marked event
		}
		with := slices.Concat([]byte(event), want, []byte(event+event+"data: end"))
		want = append(want, "data: end"...)
		if got := read(with, marked); !bytes.Equal(got, want) {
			t.Fatalf("got %q, want %q", got, want)
		}
	})
}

func BenchmarkFilter(b *testing.B) {
	for _, bb := range []struct {
		name string
		n    int
	}{{"whole", 1 << 20}, {"cut", 1400}} {
		b.Run(bb.name, func(b *testing.B) {
			s := stream(1000, 200)
			f := NewFilter(&repeat{s: s, n: bb.n}, marked)
			p := make([]byte, 32<<10)
			b.ReportAllocs()
			var total int64
			for b.Loop() {
				n, _ := f.Read(p)
				total += int64(n)
			}
			b.SetBytes(total / int64(b.N))
		})
	}
}
