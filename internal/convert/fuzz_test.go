package convert

import (
	"bytes"
	"encoding/json"
	"io"
	"path/filepath"
	"strings"
	"testing"

	"github.com/loadchange/apexproxy/internal/protocol"
	"github.com/loadchange/apexproxy/internal/rawjson"
)

// seeds calls add with a section of every golden file.
func seeds(f *testing.F, dir, section string, add func(request, s string)) {
	f.Helper()
	files, err := filepath.Glob(filepath.Join("testdata", dir, "*.txtar"))
	if err != nil || len(files) == 0 {
		f.Fatal("no seeds", err)
	}
	for _, file := range files {
		a := readArchive(f, file)
		if a.files[section] != "" {
			add(a.files["request"], a.files[section])
		}
	}
}

// cutReader gives pieces whose lengths follow from the cuts.
type cutReader struct {
	data, cuts []byte
	i          int
}

func (r *cutReader) Read(p []byte) (int, error) {
	if len(r.data) == 0 {
		return 0, io.EOF
	}
	n := len(r.data)
	if len(r.cuts) > 0 {
		n = min(n, 1+int(r.cuts[r.i%len(r.cuts)]))
		r.i++
	}
	n = copy(p, r.data[:n])
	r.data = r.data[n:]
	return n, nil
}

var fuzzProfiles = []Params{
	{Provider: "openai", Model: "gpt-5.4"}, {Provider: "google-ai-studio", Model: "gemini-3-pro"}, {Provider: "deepseek", Model: "deepseek-v4"},
	{Provider: "mistral", Model: "mistral-large"}, {Provider: "moonshot", Model: "kimi-k2.6"}, {Model: "x"},
}

// fuzzConversion is for answers: thinking asked for, so that all of it is converted.
func fuzzConversion(t testing.TB, which uint8) *Conversion {
	t.Helper()
	display := ""
	if which&0x40 != 0 {
		display = `,"display":"omitted"`
	}
	return newConversion(t, `{"max_tokens":1,"stop_sequences":["END"],"thinking":{"type":"adaptive"`+display+`},"tools":[{"name":"fs.read"}],"messages":[{"role":"user","content":"x"}]}`,
		fuzzProfiles[int(which)%len(fuzzProfiles)])
}

func FuzzChunking(f *testing.F) {
	seeds(f, "stream", "upstream", func(_, s string) { f.Add([]byte(s), []byte{3, 0, 200}) })
	f.Fuzz(func(t *testing.T, up, cuts []byte) {
		whole, _ := io.ReadAll(fuzzConversion(t, 2).Events(bytes.NewReader(up)))
		cut, _ := io.ReadAll(fuzzConversion(t, 2).Events(&cutReader{data: up, cuts: cuts}))
		const ping = "event: ping\ndata: {\"type\":\"ping\"}\n\n"
		a, b := strings.ReplaceAll(string(whole), ping, ""), strings.ReplaceAll(string(cut), ping, "")
		if a != b {
			t.Errorf("whole:\n%s\ncut:\n%s", a, b)
		}
	})
}

func FuzzStream(f *testing.F) {
	seeds(f, "stream", "upstream", func(_, s string) { f.Add([]byte(s), uint8(2)) })
	f.Fuzz(func(t *testing.T, up []byte, which uint8) {
		e := fuzzConversion(t, which).Events(bytes.NewReader(up))
		if which&0x80 != 0 {
			if err := e.Start(); err != nil {
				if err.Status < 400 || err.Status > 599 || err.Class.Word(protocol.Messages) == "" || err.Message == "" {
					t.Errorf("bad error %+v", err)
				}
				return
			}
		}
		out, err := io.ReadAll(e)
		if err != nil {
			t.Fatal(err)
		}
		if _, err := tryAccumulate(out); err != nil {
			t.Errorf("%v\n%s", err, out)
		}
	})
}

func FuzzRequest(f *testing.F) {
	seeds(f, "request", "request", func(_, s string) { f.Add([]byte(s), uint8(0)) })
	f.Fuzz(func(t *testing.T, body []byte, which uint8) {
		if !json.Valid(rawjson.Trim(body)) {
			return
		}
		kept := bytes.Clone(body)
		CountTokens(body)
		c, err := messagesToChat(body, fuzzProfiles[int(which)%len(fuzzProfiles)])
		if !bytes.Equal(kept, body) {
			t.Error("the body was changed")
		}
		if err != nil {
			if err.Status != 400 || err.Message == "" {
				t.Errorf("bad error %+v", err)
			}
			return
		}
		if !json.Valid(c.Body()) {
			t.Fatalf("not JSON: %s", c.Body())
		}
		checkPairs(t, c.Body())
	})
}

func FuzzResponse(f *testing.F) {
	seeds(f, "response", "upstream", func(_, s string) { f.Add([]byte(s), uint8(0)) })
	f.Fuzz(func(t *testing.T, body []byte, which uint8) {
		UpstreamError(int(which)*3, body)
		m, err := fuzzConversion(t, which).Document(body)
		if err != nil {
			if err.Status < 400 || err.Class.Word(protocol.Messages) == "" || err.Message == "" {
				t.Errorf("bad error %+v", err)
			}
			return
		}
		if !json.Valid(m) {
			t.Fatalf("not JSON: %s", m)
		}
		var doc struct {
			Content []struct {
				Type, ID, Name, Signature string
				Input                     json.RawMessage
			}
			StopReason string `json:"stop_reason"`
		}
		if err := json.Unmarshal(m, &doc); err != nil || doc.StopReason == "" {
			t.Fatalf("%v: %s", err, m)
		}
		ids := map[string]bool{}
		for _, b := range doc.Content {
			if b.Type == "tool_use" && (ids[b.ID] || b.ID == "" || b.Name == "" || b.Input[0] != '{') || b.Type == "thinking" && b.Signature == "" {
				t.Errorf("bad block %+v", b)
			}
			if b.Type == "tool_use" {
				ids[b.ID] = true
			}
		}
	})
}

func FuzzStripOwnThinking(f *testing.F) {
	seeds(f, "request", "request", func(_, s string) { f.Add([]byte(s)) })
	f.Add([]byte(`{"messages":[{"content":[{"type":"thinking","signature":"apx1.e30"},{"type":"text"}]},{"content":[{"type":"thinking","signature":"apx1."}]},{}]}`))
	f.Fuzz(func(t *testing.T, body []byte) {
		if !json.Valid(body) {
			return
		}
		kept := bytes.Clone(body)
		out := StripOwnThinking(body)
		if !bytes.Equal(kept, body) {
			t.Error("the body was changed")
		}
		if !json.Valid(out) {
			t.Errorf("not JSON: %s", out)
		}
		if !bytes.Contains(body, []byte(`"apx1.`)) && !bytes.Equal(out, body) {
			t.Errorf("changed: %s", out)
		}
		if again := StripOwnThinking(out); !bytes.Equal(again, out) {
			t.Errorf("a second run changes %s to %s", out, again)
		}
	})
}
