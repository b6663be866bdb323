package convert

import (
	"bytes"
	"encoding/json"
	"errors"
	"flag"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"testing"
	"testing/iotest"

	"github.com/google/go-cmp/cmp"

	"github.com/loadchange/apexproxy/internal/protocol"
	"github.com/loadchange/apexproxy/internal/rawjson"
)

var update = flag.Bool("update", false, "write the golden files anew")

// archive is a text with named sections, "-- name --" on a line of its own before each.
type archive struct {
	comment string
	names   []string
	files   map[string]string
}

func readArchive(t testing.TB, file string) *archive {
	t.Helper()
	b, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	a := &archive{files: map[string]string{}}
	name := ""
	for line := range strings.Lines(string(b)) {
		if n, ok := strings.CutPrefix(line, "-- "); ok && strings.HasSuffix(n, " --\n") {
			name = strings.TrimSuffix(n, " --\n")
			a.names = append(a.names, name)
			a.files[name] = ""
			continue
		}
		if name == "" {
			a.comment += line
		} else {
			a.files[name] += line
		}
	}
	return a
}

func (a *archive) set(name, content string) {
	if _, ok := a.files[name]; !ok {
		a.names = append(a.names, name)
	}
	if content != "" && !strings.HasSuffix(content, "\n") {
		content += "\n"
	}
	a.files[name] = content
}

func (a *archive) write(t testing.TB, file string) {
	t.Helper()
	var b strings.Builder
	b.WriteString(a.comment)
	for _, n := range a.names {
		fmt.Fprintf(&b, "-- %s --\n%s", n, a.files[n])
	}
	if err := os.WriteFile(file, []byte(b.String()), 0o644); err != nil {
		t.Fatal(err)
	}
}

// params reads "key: value" lines of the comment.
func (a *archive) params(t testing.TB) Params {
	t.Helper()
	p := Params{Provider: "openai", Model: "gpt-4.1", ClientModel: "claude-x"}
	for line := range strings.Lines(a.comment) {
		k, v, ok := strings.Cut(strings.TrimSpace(line), ": ")
		if !ok {
			continue
		}
		switch k {
		case "provider":
			p.Provider = v
		case "model":
			p.Model = v
		case "max":
			p.MaxTokens, _ = strconv.Atoi(v)
		case "strict":
			p.Strict = v == "true"
		case "spec", "quoted":
		default:
			t.Fatalf("unknown parameter %q", k)
		}
	}
	return p
}

func eachArchive(t *testing.T, dir string, f func(t *testing.T, file string, a *archive)) {
	files, err := filepath.Glob(filepath.Join("testdata", dir, "*.txtar"))
	if err != nil || len(files) == 0 {
		t.Fatal("no golden files", err)
	}
	for _, file := range files {
		t.Run(strings.TrimSuffix(filepath.Base(file), ".txtar"), func(t *testing.T) {
			t.Parallel()
			f(t, file, readArchive(t, file))
		})
	}
}

// sections compares the sections that a test made with those of the file, or writes them.
func sections(t *testing.T, file string, a *archive, got map[string]string, order ...string) {
	t.Helper()
	if *update {
		for _, n := range order {
			if _, ok := got[n]; ok {
				a.set(n, got[n])
			}
		}
		a.write(t, file)
		return
	}
	for _, n := range order {
		g, w := got[n], a.files[n]
		if _, ok := got[n]; !ok {
			if w != "" {
				t.Errorf("%s: want one, got none", n)
			}
			continue
		}
		if diff := cmp.Diff(canonical(t, w), canonical(t, g)); diff != "" {
			t.Errorf("%s (-want +got):\n%s", n, diff)
		}
	}
}

// canonical indents JSON for a readable difference. Numbers and strings stay as they are written,
// and so does the order of members.
func canonical(t testing.TB, s string) string {
	t.Helper()
	var out bytes.Buffer
	d := json.NewDecoder(strings.NewReader(s))
	for {
		var raw json.RawMessage
		if err := d.Decode(&raw); err == io.EOF {
			return out.String()
		} else if err != nil {
			return strings.TrimSpace(s)
		}
		json.Indent(&out, raw, "", " ")
		out.WriteByte('\n')
	}
}

// pretty breaks a document into lines of bearable length, one for each top-level member and
// message.
func pretty(b []byte) string {
	var out bytes.Buffer
	if err := json.Indent(&out, b, "", " "); err != nil {
		return string(b)
	}
	return out.String()
}

func counter() func() string {
	n := 0
	return func() string { n++; return strconv.Itoa(n) }
}

func errorText(e *Error) string {
	s := fmt.Sprintf("%d %s %s", e.Status, e.Class.Word(protocol.Messages), e.Message)
	if e.NoRetry {
		s += " (no retry)"
	}
	return s
}

func TestRequests(t *testing.T) {
	t.Parallel()
	eachArchive(t, "request", func(t *testing.T, file string, a *archive) {
		got := map[string]string{}
		body := []byte(strings.TrimSpace(a.files["request"]))
		kept := bytes.Clone(body)
		c, err := messagesToChat(body, a.params(t))
		if !bytes.Equal(kept, body) {
			t.Error("the body was changed")
		}
		if err != nil {
			got["error"] = errorText(err)
		} else {
			if !json.Valid(c.Body()) {
				t.Fatalf("not JSON: %s", c.Body())
			}
			checkPairs(t, c.Body())
			got["chat"] = pretty(c.Body())
			if d := c.Dropped(); len(d) > 0 {
				got["dropped"] = strings.Join(d, "\n")
			}
		}
		sections(t, file, a, got, "chat", "error", "dropped")
	})
}

// checkPairs sees to what every OpenAI-like server checks: a tool message answers a call of the
// assistant message that it stands behind, once, and no call is left without.
func checkPairs(t testing.TB, chat []byte) {
	t.Helper()
	var doc struct {
		Messages []struct {
			Role      string
			ID        string                `json:"tool_call_id"`
			ToolCalls []struct{ ID string } `json:"tool_calls"`
		}
	}
	if err := json.Unmarshal(chat, &doc); err != nil {
		t.Fatal(err)
	}
	open := map[string]int{}
	pending := 0
	for i, m := range doc.Messages {
		if m.Role == "tool" {
			if open[m.ID] == 0 {
				t.Errorf("message %d: the result answers no call", i)
			}
			open[m.ID]--
			pending--
			continue
		}
		if pending != 0 {
			t.Errorf("message %d: %d calls before it have no result", i, pending)
		}
		clear(open)
		pending = len(m.ToolCalls)
		for _, c := range m.ToolCalls {
			open[c.ID]++
		}
	}
	if pending != 0 {
		t.Errorf("at the end %d calls have no result", pending)
	}
}

func conversion(t testing.TB, a *archive) *Conversion {
	t.Helper()
	req := strings.TrimSpace(a.files["request"])
	if req == "" {
		req = `{"max_tokens":1,"messages":[{"role":"user","content":"x"}]}`
	}
	c, err := messagesToChat([]byte(req), a.params(t))
	if err != nil {
		t.Fatal(err)
	}
	c.dropped = nil
	c.id = counter()
	return c
}

func TestResponses(t *testing.T) {
	t.Parallel()
	eachArchive(t, "response", func(t *testing.T, file string, a *archive) {
		got := map[string]string{}
		c := conversion(t, a)
		m, err := c.Document([]byte(a.files["upstream"]))
		if err != nil {
			got["error"] = errorText(err)
		} else {
			if !json.Valid(m) {
				t.Fatalf("not JSON: %s", m)
			}
			got["message"] = pretty(m)
		}
		if d := c.Dropped(); len(d) > 0 {
			got["dropped"] = strings.Join(d, "\n")
		}
		sections(t, file, a, got, "message", "error", "dropped")
	})
}

func TestStreams(t *testing.T) {
	t.Parallel()
	eachArchive(t, "stream", func(t *testing.T, file string, a *archive) {
		got := map[string]string{}
		up := a.files["upstream"]
		if strings.Contains(a.comment, "quoted: true") {
			up = unquote(t, up)
		}
		c := conversion(t, a)
		e := c.Events(strings.NewReader(up))
		if err := e.Start(); err != nil {
			got["error"] = errorText(err)
			if rest, _ := io.ReadAll(e); len(rest) != 0 {
				t.Errorf("after an error of Start came %q", rest)
			}
		} else {
			out, err := io.ReadAll(e)
			if err != nil {
				t.Fatal(err)
			}
			acc := accumulate(t, out)
			got["events"] = dataLines(out)
			got["sum"] = acc.String()
		}
		if d := c.Dropped(); len(d) > 0 {
			got["dropped"] = strings.Join(d, "\n")
		}
		sections(t, file, a, got, "events", "sum", "error", "dropped")

		// Cut at every byte it must be the same.
		e2 := conversion(t, a).Events(iotest.OneByteReader(strings.NewReader(up)))
		if err := e2.Start(); err != nil {
			if errorText(err) != got["error"] {
				t.Errorf("byte by byte: %v", errorText(err))
			}
			return
		}
		out, _ := io.ReadAll(e2)
		accumulate(t, out)
		if diff := cmp.Diff(canonical(t, dropPings(got["events"])), canonical(t, dropPings(dataLines(out)))); diff != "" {
			t.Errorf("byte by byte (-want +got):\n%s", diff)
		}
	})
}

// unquote resolves the escapes of a section whose line ends and bytes matter.
func unquote(t testing.TB, s string) string {
	t.Helper()
	s, err := strconv.Unquote(`"` + strings.ReplaceAll(strings.TrimSpace(s), `"`, `\"`) + `"`)
	if err != nil {
		t.Fatal(err)
	}
	return s
}

func dropPings(s string) string { return strings.ReplaceAll(s, `{"type":"ping"}`+"\n", "") }

// dataLines returns the data of all events, one a line.
func dataLines(out []byte) string {
	var b strings.Builder
	for line := range strings.Lines(string(out)) {
		if d, ok := strings.CutPrefix(line, "data: "); ok {
			b.WriteString(d)
		}
	}
	return b.String()
}

// accumulator is what the official SDKs do with the events: it refuses what they throw on.
type accumulator struct {
	Model      string
	Blocks     []accBlock
	StopReason string
	Usage      json.RawMessage
	Err        string

	started, delta, stopped, failed bool
	open                            int
}

type accBlock struct {
	Type, Text, ID, Name, Signature string
	Input                           json.RawMessage
	json                            string
}

func (a *accumulator) String() string {
	b, err := json.Marshal(a)
	if err != nil {
		return err.Error()
	}
	return pretty(b)
}

func accumulate(t testing.TB, out []byte) *accumulator {
	t.Helper()
	a, err := tryAccumulate(out)
	if err != nil {
		t.Errorf("the SDKs refuse this stream: %v\n%s", err, out)
	}
	return a
}

func tryAccumulate(out []byte) (*accumulator, error) {
	a := &accumulator{open: -1}
	events := strings.Split(string(out), "\n\n")
	if len(events) == 0 || events[len(events)-1] != "" {
		return a, errors.New("the last event has no blank line")
	}
	for _, ev := range events[:len(events)-1] {
		name, data, ok := strings.Cut(ev, "\n")
		name, ok1 := strings.CutPrefix(name, "event: ")
		data, ok2 := strings.CutPrefix(data, "data: ")
		if !ok || !ok1 || !ok2 || strings.ContainsAny(data, "\n\r") {
			return a, fmt.Errorf("malformed event %q", ev)
		}
		if err := a.event(name, data); err != nil {
			return a, fmt.Errorf("%w at %s", err, data)
		}
	}
	if !a.stopped && !a.failed {
		return a, errors.New("neither message_stop nor error")
	}
	return a, nil
}

func (a *accumulator) event(name, data string) error {
	var e struct {
		Type    string
		Index   int
		Message struct {
			ID, Model, Role, Type string
			Content               []any
			Usage                 map[string]any
		}
		Block *accBlockStart `json:"content_block"`
		Delta *struct {
			Type, Text, Thinking, Signature string
			PartialJSON                     string `json:"partial_json"`
			StopReason                      string `json:"stop_reason"`
		}
		Usage json.RawMessage
		Error *struct{ Type, Message string }
	}
	if err := json.Unmarshal([]byte(data), &e); err != nil {
		return err
	}
	switch {
	case e.Type != name:
		return errors.New("event and type differ")
	case a.stopped || a.failed:
		return errors.New("after the end")
	case !a.started && name != "message_start" && name != "error":
		return errors.New("before message_start")
	}
	switch name {
	case "message_start":
		if a.started || e.Message.ID == "" || e.Message.Role != "assistant" || e.Message.Content == nil || e.Message.Usage["output_tokens"] == nil {
			return errors.New("bad message_start")
		}
		a.started, a.Model = true, e.Message.Model
	case "content_block_start":
		if a.open >= 0 || e.Index != len(a.Blocks) || e.Block == nil || a.delta {
			return errors.New("block out of order")
		}
		a.open = e.Index
		a.Blocks = append(a.Blocks, accBlock{Type: e.Block.Type, ID: e.Block.ID, Name: e.Block.Name})
	case "content_block_delta":
		if a.open < 0 || e.Index != a.open || e.Delta == nil {
			return errors.New("delta for a block that is not open")
		}
		b := &a.Blocks[a.open]
		want := map[string]string{"text_delta": "text", "thinking_delta": "thinking", "signature_delta": "thinking", "input_json_delta": "tool_use"}
		if want[e.Delta.Type] != b.Type {
			return errors.New("delta for another type of block")
		}
		if b.Signature != "" {
			return errors.New("delta after the signature")
		}
		b.Text += e.Delta.Text + e.Delta.Thinking
		b.Signature += e.Delta.Signature
		b.json += e.Delta.PartialJSON
	case "content_block_stop":
		if a.open < 0 || e.Index != a.open {
			return errors.New("stop of a block that is not open")
		}
		b := &a.Blocks[a.open]
		if b.Type == "thinking" && b.Signature == "" {
			return errors.New("thinking without signature")
		}
		if b.Type == "tool_use" {
			if b.ID == "" || b.Name == "" {
				return errors.New("tool_use without id or name")
			}
			if json.Valid([]byte(b.json)) {
				b.Input = json.RawMessage(b.json)
			} else {
				b.Input, _ = json.Marshal("cut: " + b.json)
			}
		}
		a.open = -1
	case "message_delta":
		if a.open >= 0 || a.delta || e.Delta == nil || e.Delta.StopReason == "" || e.Usage == nil {
			return errors.New("bad message_delta")
		}
		a.delta, a.StopReason, a.Usage = true, e.Delta.StopReason, e.Usage
	case "message_stop":
		if !a.delta {
			return errors.New("message_stop without message_delta")
		}
		a.stopped = true
		for _, b := range a.Blocks {
			if b.Type == "tool_use" && a.StopReason != "max_tokens" && !rawjson.ValidObject(b.Input) {
				return fmt.Errorf("input %s is no object", b.Input)
			}
		}
	case "error":
		if e.Error == nil || e.Error.Type == "" || e.Error.Message == "" {
			return errors.New("bad error")
		}
		a.failed, a.Err = true, e.Error.Type+": "+e.Error.Message
	case "ping":
	default:
		return errors.New("unknown event")
	}
	return nil
}

type accBlockStart struct{ Type, ID, Name string }

func messagesToChat(body []byte, p Params) (*Conversion, *Error) {
	return Convert(body, protocol.Messages, protocol.Chat, p)
}
