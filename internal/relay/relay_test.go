package relay

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"net/http"
	"strings"
	"testing"
	"testing/iotest"

	"github.com/google/go-cmp/cmp"
)

// journal is a writer that notes what is done to it.
type journal struct {
	steps    []string
	short    bool  // every write takes one byte less and says nothing
	writeErr error // of every write
	flushErr error // of every flush
}

func (j *journal) Header() http.Header { return http.Header{} }
func (j *journal) WriteHeader(int)     {}

func (j *journal) Write(b []byte) (int, error) {
	if len(b) > 20 {
		j.steps = append(j.steps, fmt.Sprintf("write %d bytes", len(b)))
	} else {
		j.steps = append(j.steps, "write "+string(b))
	}
	if j.short {
		return len(b) - 1, nil
	}
	return len(b), j.writeErr
}

func (j *journal) FlushError() error {
	j.steps = append(j.steps, "flush")
	return j.flushErr
}

// pieces is a body that comes read by read, and ends with err, together with the last piece if
// together is set.
type pieces struct {
	list     []string
	err      error
	together bool
}

func (p *pieces) Read(b []byte) (int, error) {
	if len(p.list) == 0 {
		return 0, p.err
	}
	n := copy(b, p.list[0])
	if p.list[0] = p.list[0][n:]; p.list[0] == "" {
		p.list = p.list[1:]
	}
	if len(p.list) == 0 && p.together {
		return n, p.err
	}
	return n, nil
}

// holding says that it has more until its last piece.
type holding struct{ *pieces }

func (h holding) Buffered() int { return len(h.list) }

func TestCopy(t *testing.T) {
	t.Parallel()
	broken, gone := errors.New("broken"), errors.New("gone")
	for name, tt := range map[string]struct {
		w        journal
		body     io.Reader
		head     bool
		steps    []string
		readErr  error
		writeErr error
	}{
		"whole, with a length":            {body: &pieces{[]string{"abc"}, io.EOF, true}, steps: []string{"write abc"}},
		"whole, the end apart":            {body: &pieces{[]string{"abc"}, io.EOF, false}, steps: []string{"write abc", "flush"}},
		"slow, with a length":             {body: &pieces{[]string{"a", "bc"}, io.EOF, false}, steps: []string{"write a", "flush", "write bc", "flush"}},
		"a stream":                        {body: &pieces{[]string{"a", "bc"}, io.EOF, false}, head: true, steps: []string{"flush", "write a", "flush", "write bc", "flush"}},
		"a stream, the end with its last": {body: &pieces{[]string{"a", "bc"}, io.EOF, true}, head: true, steps: []string{"flush", "write a", "flush", "write bc"}},
		"more at hand":                    {body: holding{&pieces{[]string{"a", "b", "c"}, io.EOF, false}}, head: true, steps: []string{"flush", "write a", "write b", "write c", "flush"}},
		"nothing":                         {body: strings.NewReader("")},
		"broken off":                      {body: &pieces{[]string{"a"}, broken, false}, head: true, steps: []string{"flush", "write a", "flush"}, readErr: broken},
		"broken with its last":            {body: &pieces{[]string{"a"}, broken, true}, steps: []string{"write a", "flush"}, readErr: broken},
		"nobody takes it":                 {w: journal{writeErr: gone}, body: &pieces{[]string{"a", "b"}, io.EOF, false}, head: true, steps: []string{"flush", "write a"}, writeErr: gone},
		"a short write":                   {w: journal{short: true}, body: &pieces{[]string{"ab", "c"}, io.EOF, false}, steps: []string{"write ab"}, writeErr: io.ErrShortWrite},
		"nobody takes the flush": {w: journal{flushErr: gone}, body: &pieces{[]string{"a", "b"}, io.EOF, false}, head: true,
			steps: []string{"flush", "write a", "flush", "write b", "flush"}},
		"a writer that cannot flush": {w: journal{flushErr: http.ErrNotSupported}, body: &pieces{[]string{"a", "b"}, io.EOF, false}, head: true,
			steps: []string{"flush", "write a", "flush", "write b", "flush"}},
		"fast, then slow": {body: &pieces{[]string{strings.Repeat("x", 100<<10), "y", strings.Repeat("z", 6<<10)}, io.EOF, true},
			steps: []string{"write 4096 bytes", "flush", "write 32768 bytes", "flush", "write 32768 bytes", "flush", "write 32768 bytes", "flush",
				"write y", "flush", "write 4096 bytes", "flush", "write 2048 bytes"}},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			came, reads := 0, strings.Count(strings.Join(tt.steps, "\n"), "write")
			readErr, writeErr := Copy(&tt.w, tt.body, tt.head, func() { came++ })
			if readErr != tt.readErr || writeErr != tt.writeErr {
				t.Errorf("errors %v and %v, want %v and %v", readErr, writeErr, tt.readErr, tt.writeErr)
			}
			if came != reads {
				t.Errorf("told of %d reads, want %d", came, reads)
			}
			if diff := cmp.Diff(tt.steps, tt.w.steps); diff != "" {
				t.Errorf("(-want +got):\n%s", diff)
			}
		})
	}
}

func TestGunzip(t *testing.T) {
	t.Parallel()
	if b, err := io.ReadAll(Gunzip(io.NopCloser(strings.NewReader("no gzip")))); err == nil || len(b) > 0 {
		t.Errorf("%q, %v", b, err)
	}
	broken := errors.New("broken")
	g := Gunzip(io.NopCloser(iotest.ErrReader(broken)))
	for range 2 {
		if _, err := g.Read(make([]byte, 1)); !errors.Is(err, broken) {
			t.Errorf("%v, want the source's error to stay", err)
		}
	}
}

// The buffers come from pools: a copy allocates what its controller takes, whatever passes.
func TestCopy_allocations(t *testing.T) {
	w, doc := &quiet{}, bytes.Repeat([]byte("x"), 1<<20)
	body := bytes.NewReader(doc)
	if n := testing.AllocsPerRun(100, func() {
		body.Reset(doc)
		if readErr, writeErr := Copy(w, body, true, func() {}); readErr != nil || writeErr != nil {
			t.Error(readErr, writeErr)
		}
	}); n > 3 {
		t.Errorf("%v allocations", n)
	}
}

type quiet struct{}

func (quiet) Header() http.Header         { return nil }
func (quiet) WriteHeader(int)             {}
func (quiet) Write(b []byte) (int, error) { return len(b), nil }
func (quiet) Flush()                      {}
