package apexproxy

import (
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
)

func TestParseMapping(t *testing.T) {
	t.Parallel()
	for s, want := range map[string]mapping{
		"":                   nil,
		" , ,, ":             nil,
		"a#b":                {{"a", "b"}},
		"a#b#c":              {{"a", "b#c"}},
		" a  #\tb # c , d#e": {{"a", "b#c"}, {"d", "e"}},
		"a#b,a#c":            {{"a", "b"}, {"a", "c"}},
	} {
		got, err := parseMapping(s)
		if err != nil {
			t.Errorf("%q: %v", s, err)
		}
		if diff := cmp.Diff(want, got, cmp.AllowUnexported(struct{ from, to string }{})); diff != "" {
			t.Errorf("%q (-want +got):\n%s", s, diff)
		}
	}
}

// FuzzMapping: what the grammar lets through holds no part that could be read otherwise, means the
// same when it is written out again, and finds a target.
func FuzzMapping(f *testing.F) {
	for _, s := range []string{"", "a#b", "a#b#c", " a # b , c#d#e ,,", "a", "#", "a#", "#b", "a##b", "a#b#", "a#b#c#d", "a#b,a#c", "é#ü", "\xff#\x00", "a\u00a0#b"} {
		f.Add(s)
	}
	f.Fuzz(func(t *testing.T, s string) {
		m, err := parseMapping(s)
		if err != nil {
			if len(m) != 0 || !strings.HasPrefix(err.Error(), "mapping entry \"") || len(err.Error()) > 500 {
				t.Errorf("%q: %v, %v", s, m, err)
			}
			return
		}
		var entries []string
		for i, e := range m {
			name, provider, named := strings.Cut(e.to, "#")
			for _, part := range []string{e.from, name, provider} {
				if part != strings.TrimSpace(part) || strings.ContainsAny(part, "#,") || part == "" && (named || part != provider) {
					t.Errorf("%q: entry %d is %q", s, i, e)
				}
			}
			if to, ok := m.find(e.from); !ok || to == "" {
				t.Errorf("%q: %q is not found", s, e.from)
			}
			entries = append(entries, e.from+"#"+e.to)
		}
		again, err := parseMapping(strings.Join(entries, ","))
		if diff := cmp.Diff(m, again, cmp.AllowUnexported(struct{ from, to string }{})); diff != "" || err != nil {
			t.Errorf("%q written out again: %v (-want +got):\n%s", s, err, diff)
		}
	})
}
