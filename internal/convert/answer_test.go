package convert_test

import (
	"encoding/json"
	"errors"
	"io"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"github.com/tidwall/gjson"

	"github.com/loadchange/apexproxy/internal/convert"
	"github.com/loadchange/apexproxy/internal/protocol"
)

// asked returns the conversion of a small request, whose answer is still to come.
func asked(t testing.TB) *convert.Conversion {
	t.Helper()
	c, err := convert.Convert([]byte(`{"max_tokens":9,"messages":[{"role":"user","content":"q"}]}`), protocol.Messages, protocol.Chat, convert.Params{Provider: "openai", Model: "m"})
	if err != nil {
		t.Fatal(err)
	}
	return c
}

// ends returns what the client is told at the end of an answer with the text "a", as JSON with
// stop_reason and usage, for an upstream that sends members beside its choices: once for a
// document, once for a stream.
func ends(t testing.TB, finish, members string) map[string]string {
	t.Helper()
	if members != "" {
		members = "," + members
	}
	message, failed := asked(t).Document([]byte(`{"choices":[{"index":0,"message":{"content":"a"},"finish_reason":"` + finish + `"}]` + members + `}`))
	if failed != nil {
		t.Fatal(failed)
	}
	events, err := io.ReadAll(asked(t).Events(strings.NewReader(
		`data: {"choices":[{"index":0,"delta":{"content":"a"}}]}` + "\n\n" +
			`data: {"choices":[{"index":0,"delta":{},"finish_reason":"` + finish + `"}]` + members + "}\n\ndata: [DONE]\n\n")))
	if err != nil {
		t.Fatal(err)
	}
	_, last, _ := strings.Cut(string(events), "event: message_delta\ndata: ")
	last, _, _ = strings.Cut(last, "\n")
	return map[string]string{"document": string(message), "stream": last}
}

// TestAnswer_filtered: servers add to content_filter what was found. A client that read end_turn
// would take what is left of such an answer for the whole of it.
func TestAnswer_filtered(t *testing.T) {
	t.Parallel()
	for finish, want := range map[string]string{
		"content_filter":             `{"reason":"refusal","details":{"type":"refusal","category":null,"explanation":null}}`,
		"content_filter_results":     `{"reason":"refusal","details":{"type":"refusal","category":null,"explanation":null}}`,
		"content_filter: PROHIBITED": `{"reason":"refusal","details":{"type":"refusal","category":null,"explanation":null}}`,
		"content_filte":              `{"reason":"end_turn","details":null}`,
		"no_content_filter":          `{"reason":"end_turn","details":null}`,
	} {
		for form, end := range ends(t, finish, "") {
			stop := gjson.Parse(end)
			if delta := stop.Get("delta"); delta.Exists() {
				stop = delta
			}
			got := `{"reason":` + stop.Get("stop_reason").Raw + `,"details":` + stop.Get("stop_details").Raw + `}`
			if diff := cmp.Diff(want, got); diff != "" {
				t.Errorf("%s, %s (-want +got):\n%s", finish, form, diff)
			}
		}
	}
}

// TestAnswer_usage: a server may spell what it read from its cache in several ways at once, and
// they need not agree. The more exact one counts, so that what is billed at a lower price is not
// counted twice.
func TestAnswer_usage(t *testing.T) {
	t.Parallel()
	type usage struct {
		Input   int    `json:"input_tokens"`
		Written int    `json:"cache_creation_input_tokens"`
		Read    int    `json:"cache_read_input_tokens"`
		Output  int    `json:"output_tokens"`
		Tier    string `json:"service_tier"`
	}
	for _, tt := range []struct {
		name, members string
		want          usage
	}{
		{"all spellings", `"usage":{"prompt_cache_hit_tokens":10,"cache_read_input_tokens":20,"prompt_tokens_details":{"cached_tokens":30},"prompt_tokens":100,"completion_tokens":5}`,
			usage{Input: 70, Read: 30, Output: 5}},
		{"all spellings, turned round", `"usage":{"prompt_tokens":100,"completion_tokens":5,"prompt_tokens_details":{"cached_tokens":30},"cache_read_input_tokens":20,"prompt_cache_hit_tokens":10}`,
			usage{Input: 70, Read: 30, Output: 5}},
		{"no details", `"usage":{"prompt_tokens":100,"completion_tokens":5,"prompt_cache_hit_tokens":10,"cache_read_input_tokens":20}`,
			usage{Input: 80, Read: 20, Output: 5}},
		{"empty details", `"usage":{"prompt_tokens":100,"completion_tokens":5,"prompt_cache_hit_tokens":10,"prompt_tokens_details":{"cached_tokens":0}}`,
			usage{Input: 90, Read: 10, Output: 5}},
		{"both spellings of what was written", `"usage":{"prompt_tokens":100,"completion_tokens":5,"cache_creation_input_tokens":10,"prompt_tokens_details":{"cache_creation_tokens":20,"cache_write_tokens":30}}`,
			usage{Input: 70, Written: 30, Output: 5}},
		{"default tier", `"service_tier":"default"`, usage{Tier: "standard"}},
		{"priority tier", `"service_tier":"priority"`, usage{Tier: "priority"}},
		{"a tier that Anthropic does not have", `"service_tier":"flex"`, usage{}},
	} {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			for form, end := range ends(t, "stop", tt.members) {
				var got struct{ Usage usage }
				if err := json.Unmarshal([]byte(end), &got); err != nil {
					t.Fatal(err)
				}
				if diff := cmp.Diff(tt.want, got.Usage); diff != "" {
					t.Errorf("%s (-want +got):\n%s", form, diff)
				}
			}
		})
	}
}

// sparse is a body that gives a piece only after a number of reads that give nothing. Behind its
// last piece it gives nothing for a long time and then an error of its own, so that who would go on
// for ever fails the test and does not hang it.
type sparse struct {
	pieces []string
	empty  int // reads before each piece
	read   int // empty ones since the last piece
}

var errLost = errors.New("lost")

func (s *sparse) Read(p []byte) (int, error) {
	switch {
	case len(s.pieces) == 0 && s.read == 100_000:
		return 0, errLost
	case len(s.pieces) == 0 || s.read < s.empty:
		s.read++
		return 0, nil
	}
	n := copy(p, s.pieces[0])
	s.pieces, s.read = s.pieces[1:], 0
	return n, nil
}

// TestEvents_emptyReads: io.Reader allows reads that give nothing. Some of them do no harm however
// many they are in all; a source that gives nothing any more would spin for ever.
func TestEvents_emptyReads(t *testing.T) {
	t.Parallel()
	const piece = `data: {"choices":[{"index":0,"delta":{"content":"a"}}]}` + "\n\n"
	t.Run("between pieces", func(t *testing.T) {
		t.Parallel()
		pieces := append(slices.Repeat([]string{piece}, 20), "data: [DONE]\n\n")
		out, err := io.ReadAll(asked(t).Events(&sparse{pieces: pieces, empty: 50}))
		if err != nil || strings.Count(string(out), `"text":"a"`) != 20 || !strings.HasSuffix(string(out), "data: {\"type\":\"message_stop\"}\n\n") {
			t.Errorf("%v\n%s", err, out)
		}
	})
	t.Run("for good, at the start", func(t *testing.T) {
		t.Parallel()
		err := asked(t).Events(new(sparse)).Start()
		if !errors.Is(err, io.ErrNoProgress) {
			t.Fatalf("%v, which is not io.ErrNoProgress", err)
		}
		if got := []any{err.Status, err.Class, err.Message}; !cmp.Equal(got, []any{502, protocol.Internal, "upstream stream ended before completion"}) {
			t.Errorf("%v", got)
		}
	})
	t.Run("for good, in the middle", func(t *testing.T) {
		t.Parallel()
		src := &sparse{pieces: []string{piece}}
		e := asked(t).Events(src)
		out, err := io.ReadAll(e)
		const end = "event: error\ndata: {\"type\":\"error\",\"error\":{\"type\":\"api_error\",\"message\":\"upstream stream ended before completion\"}}\n\n"
		if err != nil || !strings.HasSuffix(string(out), end) || !errors.Is(e.Failed(), io.ErrNoProgress) {
			t.Errorf("%v, %v\n%s", err, e.Failed(), out)
		}
		if src.read > 1000 {
			t.Errorf("%d reads that gave nothing", src.read)
		}
	})
}

// TestProfileFor_dates: model names carry dates where others carry versions. A date must not make a
// model the newest of its family, which would be sent what it refuses.
func TestProfileFor_dates(t *testing.T) {
	t.Parallel()
	for _, tt := range []struct{ provider, model, like string }{
		{"grok", "grok-1212", "grok-2"},
		{"grok", "grok-100", "grok-2"},
		{"grok", "grok-99", "grok-5"},
		{"grok", "grok-2-1212", "grok-2"},
		{"google-ai-studio", "gemini-1206", "gemini-2.0-flash"},
		{"google-ai-studio", "gemini-exp-1206", "gemini-2.0-flash"},
		{"google-vertex-ai", "google/gemini-2.5-pro-0325", "google/gemini-2.5-pro"},
		{"openai", "gpt-1106-preview", "gpt-4.1"},
		{"openai", "gpt-20260101", "gpt-4.1"},
		{"openai", "gpt-4o-2024-08-06", "gpt-4.1"},
		{"custom-x", "gpt-20260101", "gpt-4.1"},
	} {
		if diff := cmp.Diff(convert.ProfileFor(tt.provider, tt.like), convert.ProfileFor(tt.provider, tt.model)); diff != "" {
			t.Errorf("%s at %s is not asked like %s (-want +got):\n%s", tt.model, tt.provider, tt.like, diff)
		}
	}
}
