package body

import (
	"bytes"
	"compress/gzip"
	"encoding/json"
	"errors"
	"io"
	"math/rand/v2"
	"strings"
	"sync"
	"testing"
	"testing/iotest"
	"unicode/utf8"

	"github.com/google/go-cmp/cmp"
)

// text returns n bytes that differ from place to place and from seed to seed.
func text(n int, seed uint64) []byte {
	b := make([]byte, n)
	_, _ = rand.NewChaCha8([32]byte{byte(seed), byte(seed >> 8)}).Read(b)
	return b
}

func newReader(limit, budget int64) *Reader {
	return &Reader{Limit: limit, Budget: NewBudget(budget)}
}

// left asserts what remains of the budget and is called before and after Release.
func left(t *testing.T, r *Reader, want int64) {
	t.Helper()
	if got := r.Budget.left.Load(); got != want {
		t.Errorf("the budget has %d bytes left, want %d", got, want)
	}
}

var errBroken = errors.New("broken")

func TestRead(t *testing.T) {
	t.Parallel()
	const large = maxPooled + 17
	tests := []struct {
		name   string
		n      int // bytes that the source has
		size   int64
		limit  int64
		want   error
		prefix int // of the bytes that come back, when fewer than n
	}{
		{name: "empty, declared", n: 0, size: 0, limit: 10},
		{name: "empty, chunked", n: 0, size: -1, limit: 10},
		{name: "exact", n: 100, size: 100, limit: 1000},
		{name: "exact, limit met", n: 100, size: 100, limit: 100},
		{name: "declared over the limit", n: 101, size: 101, limit: 100, want: ErrTooLarge},
		{name: "short", n: 99, size: 100, limit: 1000, want: io.ErrUnexpectedEOF},
		{name: "nothing of what was declared", n: 0, size: 100, limit: 1000, want: io.ErrUnexpectedEOF},
		{name: "long", n: 101, size: 100, limit: 100, prefix: 100},
		{name: "long, nothing declared", n: 1, size: 0, limit: 100, prefix: -1},
		{name: "chunked", n: 100, size: -1, limit: 1000},
		{name: "chunked, limit met", n: 100, size: -1, limit: 100},
		{name: "chunked, limit passed by one", n: 101, size: -1, limit: 100, want: ErrTooLarge},
		{name: "chunked, limit 0", n: 0, size: -1, limit: 0},
		{name: "chunked, limit 0 passed", n: 1, size: -1, limit: 0, want: ErrTooLarge},
		{name: "buffer exactly full", n: 4 << 10, size: -1, limit: 4 << 10},
		{name: "buffer exactly full and one more", n: 4<<10 + 1, size: -1, limit: 4 << 10, want: ErrTooLarge},
		{name: "one past the first buffer", n: 4<<10 + 1, size: -1, limit: 1 << 20},
		{name: "all buffers", n: large, size: -1, limit: 1 << 30},
		{name: "large, declared", n: large, size: large, limit: 1 << 30},
		{name: "large, short", n: large - 1, size: large, limit: 1 << 30, want: io.ErrUnexpectedEOF},
		{name: "large, long", n: large + 1, size: large, limit: 1 << 30, prefix: large},
		{name: "large, limit met", n: large, size: -1, limit: large},
		{name: "large, limit passed by one", n: large + 1, size: -1, limit: large, want: ErrTooLarge},
		{name: "largest pooled, declared", n: maxPooled, size: maxPooled, limit: maxPooled},
		{name: "largest pooled, chunked", n: maxPooled, size: -1, limit: maxPooled},
		{name: "one past the largest pooled", n: maxPooled + 1, size: maxPooled + 1, limit: maxPooled + 1},
	}
	sources := map[string]func(io.Reader) io.Reader{
		"plain":    func(r io.Reader) io.Reader { return r },
		"one byte": iotest.OneByteReader,
		"half":     iotest.HalfReader,
		"data+EOF": iotest.DataErrReader,
	}
	for _, test := range tests {
		t.Run(test.name, func(t *testing.T) {
			t.Parallel()
			data := text(test.n, 1)
			for name, source := range sources {
				const budget = 1 << 30
				r := newReader(test.limit, budget)
				got, err := r.Read(source(bytes.NewReader(data)), test.size)
				if !errors.Is(err, test.want) || err != nil && test.want == nil {
					t.Errorf("%s: error %v, want %v", name, err, test.want)
				}
				want := data
				switch {
				case test.want != nil:
					want = nil
				case test.prefix > 0:
					want = data[:test.prefix]
				case test.prefix < 0:
					want = nil
				}
				if !bytes.Equal(got, want) {
					t.Errorf("%s: %d bytes came back, want %d, or other bytes", name, len(got), len(want))
				}
				r.Release()
				left(t, r, budget)
			}
		})
	}
}

func TestReadError(t *testing.T) {
	t.Parallel()
	for _, size := range []int64{-1, 10, 11} {
		r := newReader(100, 1<<20)
		src := io.MultiReader(strings.NewReader("0123456789"), iotest.ErrReader(errBroken))
		b, err := r.Read(src, size)
		if size == 10 { // all that was declared has come; nobody asked further
			if err != nil || string(b) != "0123456789" {
				t.Errorf("size %d: %q, %v", size, b, err)
			}
		} else if err != errBroken || b != nil {
			t.Errorf("size %d: %q, %v; want the source's own error", size, b, err)
		}
		r.Release()
		left(t, r, 1<<20)
	}
	r := newReader(100, 1<<20)
	if _, err := r.Read(iotest.TimeoutReader(iotest.OneByteReader(strings.NewReader("ab"))), -1); err != iotest.ErrTimeout {
		t.Errorf("error %v, want the source's own", err)
	}
}

func TestBudget(t *testing.T) {
	t.Parallel()
	const budget = 24 << 10
	shared := NewBudget(budget)
	a := &Reader{Limit: 1 << 20, Budget: shared}
	b := &Reader{Limit: 1 << 20, Budget: shared}
	if _, err := a.Read(strings.NewReader(strings.Repeat("a", 10<<10)), 10<<10); err != nil {
		t.Fatal(err)
	}
	left(t, a, budget-16<<10)
	if _, err := b.Read(strings.NewReader(strings.Repeat("b", 10<<10)), 10<<10); err != ErrBusy {
		t.Fatalf("second body: %v, want ErrBusy", err)
	}
	left(t, a, budget-16<<10) // a refusal takes nothing
	if _, err := b.Read(strings.NewReader("b"), 1); err != nil {
		t.Fatalf("a body that still fits: %v", err)
	}
	left(t, a, budget-20<<10)
	a.Release()
	left(t, a, budget-4<<10)
	a.Release() // a second time gives nothing back
	left(t, a, budget-4<<10)
	b.Release()
	left(t, a, budget)

	// Growing can fail too. What was taken before is given back.
	c := newReader(1<<20, 8<<10)
	if _, err := c.Read(bytes.NewReader(make([]byte, 5<<10)), -1); err != ErrBusy {
		t.Fatalf("growing past the budget: %v, want ErrBusy", err)
	}
	c.Release()
	left(t, c, 8<<10)
	if _, err := c.Read(strings.NewReader("again"), -1); err != nil {
		t.Fatalf("a released Reader reads again: %v", err)
	}
}

func TestBudgetConcurrent(t *testing.T) {
	t.Parallel()
	const budget = 100 << 10
	shared := NewBudget(budget)
	var wg sync.WaitGroup
	for i := range 32 {
		wg.Go(func() {
			data := text(1000*i, uint64(i))
			for range 20 {
				r := &Reader{Limit: 1 << 20, Budget: shared}
				b, err := r.Read(bytes.NewReader(data), -1)
				if err != nil && err != ErrBusy || err == nil && !bytes.Equal(b, data) {
					t.Errorf("%d bytes, %v", len(b), err)
				}
				r.Release()
			}
		})
	}
	wg.Wait()
	if got := shared.left.Load(); got != budget {
		t.Errorf("the budget has %d bytes left, want %d", got, budget)
	}
}

// A watched source tells after every read how much has arrived.
type watched struct {
	src     io.Reader
	arrived int64
	check   func(arrived int64)
}

func (w *watched) Read(p []byte) (int, error) {
	w.check(w.arrived)
	n, err := w.src.Read(p)
	w.arrived += int64(n)
	return n, err
}

// A client that declares 32 MiB and sends little holds little: the declared size buys the largest
// pooled buffer at most, and what is held beyond it stays in proportion to what has arrived.
func TestDeclaredSizeReservesNothing(t *testing.T) {
	t.Parallel()
	const size = 32 << 20
	for _, declared := range []int64{size, -1} {
		r := newReader(size, 1<<40)
		src := &watched{src: bytes.NewReader(make([]byte, size))}
		src.check = func(arrived int64) {
			if r.held > maxPooled+6*arrived {
				t.Fatalf("%d declared, %d arrived, %d held", declared, arrived, r.held)
			}
		}
		b, err := r.Read(src, declared)
		if err != nil || len(b) != size {
			t.Fatalf("%d bytes, %v", len(b), err)
		}
		if r.held > 2*size {
			t.Errorf("%d held for a body of %d", r.held, size)
		}
		r.Release()
		left(t, r, 1<<40)
	}
	r := newReader(size, 1<<40)
	if _, err := r.Read(strings.NewReader("{}"), size); err != io.ErrUnexpectedEOF || r.held > maxPooled {
		t.Errorf("two of 32 MiB: %v, %d held", err, r.held)
	}
}

func gzipped(t testing.TB, b []byte) []byte {
	t.Helper()
	var buf bytes.Buffer
	w := gzip.NewWriter(&buf)
	if _, err := w.Write(b); err != nil {
		t.Fatal(err)
	}
	if err := w.Close(); err != nil {
		t.Fatal(err)
	}
	return buf.Bytes()
}

func TestInflate(t *testing.T) {
	t.Parallel()
	data := text(100<<10, 3)
	z := gzipped(t, data)
	wrongSum := bytes.Clone(z)
	wrongSum[len(wrongSum)-5] ^= 1
	tests := []struct {
		name   string
		in     []byte
		limit  int64
		budget int64
		out    []byte
		err    error
	}{
		{"whole", z, 1 << 20, 1 << 30, data, nil},
		{"empty content", gzipped(t, nil), 1 << 20, 1 << 30, nil, nil},
		{"limit met", z, int64(len(data)), 1 << 30, data, nil},
		{"limit passed by one", z, int64(len(data)) - 1, 1 << 30, nil, ErrTooLarge},
		{"two members", append(bytes.Clone(z), gzipped(t, []byte("more"))...), 1 << 20, 1 << 30, append(bytes.Clone(data), "more"...), nil},
		{"no bytes", nil, 1 << 20, 1 << 30, nil, ErrEncoding},
		{"not gzip", []byte(`{"model":"x"}`), 1 << 20, 1 << 30, nil, ErrEncoding},
		{"header cut", z[:5], 1 << 20, 1 << 30, nil, ErrEncoding},
		{"content cut", z[:len(z)/2], 1 << 20, 1 << 30, nil, ErrEncoding},
		{"trailer cut", z[:len(z)-1], 1 << 20, 1 << 30, nil, ErrEncoding},
		{"checksum wrong", wrongSum, 1 << 20, 1 << 30, nil, ErrEncoding},
		{"garbage behind", append(bytes.Clone(z), "garbage"...), 1 << 20, 1 << 30, nil, ErrEncoding},
		{"bomb", gzipped(t, make([]byte, 8<<20)), 1 << 20, 1 << 30, nil, ErrTooLarge},
		{"budget used up", z, 1 << 20, 50 << 10, nil, ErrBusy},
	}
	for _, test := range tests {
		t.Run(test.name, func(t *testing.T) {
			t.Parallel()
			r := newReader(test.limit, test.budget)
			got, err := r.Inflate(test.in)
			if err != test.err || !bytes.Equal(got, test.out) {
				t.Errorf("%d bytes, %v; want %d bytes, %v", len(got), err, len(test.out), test.err)
			}
			if max := 6*test.limit + 4<<10; r.held > max {
				t.Errorf("%d bytes held, more than %d", r.held, max)
			}
			r.Release()
			left(t, r, test.budget)
		})
	}
}

// Two bodies that live at the same time never see each other's bytes, nor a new one what an old one
// left.
func TestPooledBuffersNotShared(t *testing.T) {
	t.Parallel()
	budget := NewBudget(1 << 40)
	var wg sync.WaitGroup
	for g := range 8 {
		wg.Go(func() {
			for i := range 50 {
				n := []int{0, 1, 2000, 5000, 30000, 300000}[(i+g)%6]
				x, y := text(n, uint64(g*1000+i)), text(n/2, uint64(g*1000+i+500))
				rx := &Reader{Limit: 1 << 20, Budget: budget}
				ry := &Reader{Limit: 1 << 20, Budget: budget}
				bx, err := rx.Read(bytes.NewReader(x), int64(n))
				if err != nil {
					t.Error(err)
				}
				by, err := ry.Read(bytes.NewReader(y), -1)
				if err != nil {
					t.Error(err)
				}
				if !bytes.Equal(bx, x) || !bytes.Equal(by, y) {
					t.Error("a body changed while another was read")
				}
				clear(bx[:cap(bx)])
				if !bytes.Equal(by, y) {
					t.Error("two live bodies share memory")
				}
				rx.Release()
				ry.Release()
			}
		})
	}
	wg.Wait()
}

// A buffer given back twice would be handed out twice.
func TestReleaseTwice(t *testing.T) {
	budget := NewBudget(1 << 30)
	for range 100 {
		r := Reader{Limit: 1 << 20, Budget: budget}
		if _, err := r.Read(strings.NewReader("first"), 5); err != nil {
			t.Fatal(err)
		}
		r.Release()
		r.Release()
		x := Reader{Limit: 1 << 20, Budget: budget}
		y := Reader{Limit: 1 << 20, Budget: budget}
		bx, errX := x.Read(strings.NewReader("xxxxx"), 5)
		by, errY := y.Read(strings.NewReader("yyyyy"), 5)
		if errX != nil || errY != nil || string(bx) != "xxxxx" || string(by) != "yyyyy" {
			t.Fatalf("two live bodies share memory: %q, %q, %v, %v", bx, by, errX, errY)
		}
		x.Release()
		y.Release()
	}
}

func TestReleaseMakesReusable(t *testing.T) {
	data := make([]byte, 2<<10)
	src := bytes.NewReader(data)
	r := newReader(1<<20, 1<<20)
	if n := testing.AllocsPerRun(200, func() {
		src.Reset(data)
		if _, err := r.Read(src, int64(len(data))); err != nil {
			t.Fatal(err)
		}
		r.Release()
	}); n > 2 {
		t.Errorf("reading 2 KiB allocates %v times, want at most 2", n)
	}
}

func TestSource(t *testing.T) {
	t.Parallel()
	data := text(10000, 5)
	var s Source
	if _, err := s.NewReader().Read(make([]byte, 1)); err == nil || err == io.EOF {
		t.Errorf("a reader over the zero Source: %v", err)
	}
	s.Reset(data)
	if err := iotest.TestReader(s.NewReader(), data); err != nil {
		t.Error(err)
	}

	a, b := s.NewReader(), s.NewReader()
	head := make([]byte, 100)
	if _, err := io.ReadFull(a, head); err != nil || !bytes.Equal(head, data[:100]) {
		t.Errorf("first reader: %v", err)
	}
	whole, err := io.ReadAll(b)
	if err != nil || !bytes.Equal(whole, data) {
		t.Errorf("a second reader starts where the first is: %d bytes, %v", len(whole), err)
	}
	if err := a.Close(); err != nil { // one reader's end is not the Source's
		t.Error(err)
	}
	if n, err := s.NewReader().Read(head); n != len(head) || err != nil {
		t.Errorf("after another reader was closed: %d, %v", n, err)
	}

	late := s.NewReader()
	if _, err := io.ReadFull(late, head); err != nil {
		t.Fatal(err)
	}
	s.Close()
	for _, r := range []io.Reader{late, b, s.NewReader()} {
		clear(head)
		if n, err := r.Read(head); n != 0 || err == nil || err == io.EOF || !bytes.Equal(head, make([]byte, 100)) {
			t.Errorf("a read after Close: %d bytes, %v", n, err)
		}
	}

	s.Reset([]byte{})
	if rest, err := io.ReadAll(s.NewReader()); err != nil || len(rest) != 0 {
		t.Errorf("an empty body: %q, %v", rest, err)
	}
}

// The transport may still read while the exchange ends. After Close nobody may touch the buffer:
// the race detector sees it if somebody does.
func TestSourceCloseWhileReading(t *testing.T) {
	t.Parallel()
	for range 20 {
		data := bytes.Repeat([]byte{'a'}, 64<<10)
		var s Source
		s.Reset(data)
		var wg sync.WaitGroup
		started := make(chan struct{}, 4)
		for range 4 {
			wg.Go(func() {
				r := s.NewReader()
				defer r.Close()
				p := make([]byte, 64)
				for first := true; ; first = false {
					n, err := r.Read(p)
					if bytes.Count(p[:n], []byte{'a'}) != n {
						t.Error("a reader saw memory that was given back")
					}
					if first {
						started <- struct{}{}
					}
					if err != nil {
						return
					}
				}
			})
		}
		<-started
		s.Close()
		for i := range data {
			data[i] = 'b'
		}
		wg.Wait()
	}
}

func TestReplace(t *testing.T) {
	t.Parallel()
	tests := []struct{ in, to, want string }{
		{`{"model":"a"}`, "b", `{"model":"b"}`},
		{`{"model":"gpt#openai"}`, "gpt", `{"model":"gpt"}`},
		{`{"model":"gpt#openai","messages":[1,2,3,"long enough to make the front the shorter side"]}`, "gpt",
			`{"model":"gpt","messages":[1,2,3,"long enough to make the front the shorter side"]}`},
		{`{"messages":[1,2,3,"long enough to make the back the shorter side"],"model":"gpt#openai"}`, "gpt",
			`{"messages":[1,2,3,"long enough to make the back the shorter side"],"model":"gpt"}`},
		{`{"model":"a","n":1}`, "a-much-longer-name", `{"model":"a-much-longer-name","n":1}`},
		{`{"model":"a"}`, "", `{"model":""}`},
		{`{"model":""}`, "a", `{"model":"a"}`},
		{`{"model":null}`, "null", `{"model":"null"}`},
		{`{"model":{"a":[1]} , "b":2}`, "x", `{"model":"x" , "b":2}`},
		{"\xef\xbb\xbf{ \"model\" :\t\"abc\" }\n", "d", "\xef\xbb\xbf{ \"model\" :\t\"d\" }\n"},
		{`{"model":"a"}`, "<a&b>", `{"model":"<a&b>"}`},
		{`{"model":"a"}`, "<é&>", `{"model":"<é&>"}`},
		{`{"model":"a"}`, `q"b\s/`, `{"model":"q\"b\\s/"}`},
		{`{"model":"a"}`, "é😀", `{"model":"é😀"}`},
		{`{"model":"a"}`, "\x00\x1f\n", `{"model":"\u0000\u001f\n"}`},
		{`{"model":"a"}`, "x\xffy", `{"model":"x\ufffdy"}`},
		{`{"a":1E400,"b":9223372036854775808,"c":"\u003c\ud800","a":{"model":1},"model":"m#p","d" : [ ] }`, "m",
			`{"a":1E400,"b":9223372036854775808,"c":"\u003c\ud800","a":{"model":1},"model":"m","d" : [ ] }`},
	}
	for _, test := range tests {
		in := []byte(test.in)
		doc, err := Scan(in)
		if err != nil {
			t.Fatal(err)
		}
		if diff := cmp.Diff(test.want, string(Replace(in, doc.Model, test.to))); diff != "" {
			t.Errorf("Replace(%s, %q) (-want +got):\n%s", test.in, test.to, diff)
		}
	}
}

func TestReplaceInPlace(t *testing.T) {
	in := []byte(`{"model":"gpt#openai","x":"` + strings.Repeat("prompt ", 30000) + `"}`)
	doc, err := Scan(in)
	if err != nil {
		t.Fatal(err)
	}
	work := bytes.Clone(in)
	if n := testing.AllocsPerRun(20, func() {
		copy(work, in)
		Replace(work, doc.Model, "gpt")
	}); n > 1 {
		t.Errorf("a shorter value allocates %v times, want the value alone", n)
	}
}

func FuzzReplace(f *testing.F) {
	for i, s := range seeds {
		f.Add([]byte(s), seeds[(i+1)%len(seeds)])
	}
	for _, to := range []string{"", "x", "é", "\xff", "a\u2028b", `"`, "<&>", "a-name-longer-than-what-was-there"} {
		f.Add([]byte(`{"a":"before","model":"gpt#openai"}`), to)
		f.Add([]byte(`{"model":"gpt#openai","a":"behind, and longer than in front"}`), to)
		f.Add([]byte(`{"model":[1,{"model":2}],"model":{"a":"b"}}`), to)
	}
	f.Fuzz(func(t *testing.T, in []byte, to string) {
		doc, err := Scan(in)
		if err != nil || doc.Model.Count == 0 {
			return
		}
		m := doc.Model
		head, tail := string(in[:m.Start]), string(in[m.End:])
		out := Replace(bytes.Clone(in), m, to)
		if !valid(out) {
			t.Fatalf("Replace(%q, %q) = %q is not JSON", in, to, out)
		}
		value, ok := strings.CutPrefix(string(out), head)
		if ok {
			value, ok = strings.CutSuffix(value, tail)
		}
		if !ok {
			t.Fatalf("Replace(%q, %q) = %q changed other bytes", in, to, out)
		}
		var got string
		if err := json.Unmarshal([]byte(value), &got); err != nil {
			t.Fatalf("Replace(%q, %q) put in %q", in, to, value)
		}
		if want := string([]rune(to)); got != want {
			t.Fatalf("the value decodes to %q, want %q", got, want)
		}
		if !utf8.ValidString(value) {
			t.Fatalf("the value %q is not UTF-8", value)
		}
		again, err := Scan(out)
		if err != nil {
			t.Fatal(err)
		}
		want := doc
		want.Model.End = m.Start + len(value)
		shift := want.Model.End - m.End
		for _, other := range []*Member{&want.Stream, &want.StreamOptions} {
			if other.Start > m.Start {
				other.Start += shift
				other.End += shift
			}
		}
		if diff := cmp.Diff(want, again); diff != "" {
			t.Fatalf("what Scan finds afterwards (-want +got):\n%s", diff)
		}
	})
}

// A header alone reserves little: what a client declares is not what it sends.
func TestRead_declaredOnly(t *testing.T) {
	t.Parallel()
	r := &Reader{Limit: 32 << 20, Budget: NewBudget(1 << 30)}
	_, _ = r.Read(iotest.TimeoutReader(iotest.OneByteReader(strings.NewReader("x"))), 1<<20)
	if r.held > firstBuffer {
		t.Errorf("%d bytes are held for one that came", r.held)
	}
}
