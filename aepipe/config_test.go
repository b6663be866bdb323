package aepipe

import (
	"encoding/json"
	"fmt"
	"log/slog"
	"net/http"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
)

const token = "s3cret-admin-token"

func TestNewMistakes(t *testing.T) {
	t.Parallel()
	tests := []struct {
		name string
		cfg  Config
		want []string // the beginning of each line of the error
	}{
		{"defaults", Config{BaseURL: "https://store.example", Token: token}, nil},
		{"all set", Config{BaseURL: "http://127.0.0.1:8080/prefix//", Token: token, Project: "P_1-a", LogStore: "l", RawLogStore: strings.Repeat("r", 64), HTTPClient: new(http.Client)}, nil},
		{"nothing set", Config{}, []string{"aepipe: Config.BaseURL is empty", "aepipe: Config.Token is empty"}},
		{"everything wrong", Config{BaseURL: "://", Token: "a b", Project: "a b", LogStore: "ä", RawLogStore: strings.Repeat("x", 65)}, []string{
			"aepipe: Config.BaseURL is not a URL",
			"aepipe: Config.Token must be visible ASCII",
			"aepipe: Project must be",
			"aepipe: LogStore must be",
			"aepipe: RawLogStore must be",
		}},
		{"other scheme", Config{BaseURL: "ftp://store.example", Token: token}, []string{"aepipe: Config.BaseURL must begin with"}},
		{"no scheme", Config{BaseURL: "store.example", Token: token}, []string{"aepipe: Config.BaseURL must begin with"}},
		{"no host", Config{BaseURL: "https:///path", Token: token}, []string{"aepipe: Config.BaseURL must begin with"}},
		{"port only", Config{BaseURL: "https://:443", Token: token}, []string{"aepipe: Config.BaseURL must begin with"}},
		{"opaque", Config{BaseURL: "https:store.example", Token: token}, []string{"aepipe: Config.BaseURL must begin with"}},
		{"user", Config{BaseURL: "https://" + token + "@store.example", Token: token}, []string{"aepipe: Config.BaseURL must not have"}},
		{"query", Config{BaseURL: "https://store.example?key=" + token, Token: token}, []string{"aepipe: Config.BaseURL must not have"}},
		{"empty query", Config{BaseURL: "https://store.example?", Token: token}, []string{"aepipe: Config.BaseURL must not have"}},
		{"fragment", Config{BaseURL: "https://store.example#" + token, Token: token}, []string{"aepipe: Config.BaseURL must not have"}},
		{"empty fragment", Config{BaseURL: "https://store.example#", Token: token}, []string{"aepipe: Config.BaseURL must not have"}},
		{"secret in a bad URL", Config{BaseURL: "https://a:" + token + "@[::1", Token: token}, []string{"aepipe: Config.BaseURL is not a URL"}},
		{"line break in token", Config{BaseURL: "https://store.example", Token: token + "\n"}, []string{"aepipe: Config.Token must be visible ASCII"}},
		{"index too long", Config{BaseURL: "https://store.example", Token: token, Project: strings.Repeat("p", 64), LogStore: strings.Repeat("l", 31), RawLogStore: strings.Repeat("r", 32)},
			[]string{"aepipe: Project and RawLogStore have 97 bytes"}},
		{"slash in a name", Config{BaseURL: "https://store.example", Token: token, LogStore: "a/../b"}, []string{"aepipe: LogStore must be"}},
	}
	for _, test := range tests {
		t.Run(test.name, func(t *testing.T) {
			t.Parallel()
			_, err := New(test.cfg)
			_, clientErr := NewClient(test.cfg)
			if fmt.Sprint(err) != fmt.Sprint(clientErr) {
				t.Errorf("New says %v, NewClient %v", err, clientErr)
			}
			var got []string
			if err != nil {
				got = strings.Split(err.Error(), "\n")
			}
			for i := range got {
				if i < len(test.want) && strings.HasPrefix(got[i], test.want[i]) {
					got[i] = test.want[i]
				}
			}
			if diff := cmp.Diff(test.want, got); diff != "" {
				t.Errorf("mistakes (-want +got):\n%s", diff)
			}
			if strings.Contains(fmt.Sprint(err), token) {
				t.Errorf("%v shows the token", err)
			}
		})
	}
}

func TestTokenIsNotShown(t *testing.T) {
	t.Parallel()
	cfg := Config{BaseURL: "https://store.example/x", Token: token, Project: "p"}
	r, err := New(cfg)
	if err != nil {
		t.Fatal(err)
	}
	c, err := NewClient(cfg)
	if err != nil {
		t.Fatal(err)
	}
	wrong := cfg
	wrong.BaseURL = "https://user:" + token + "@store.example/?key=" + token
	nested := struct {
		Config  Config
		Pointer *Config
		Any     any
		R       *Reporter
	}{cfg, &cfg, wrong, r}

	var out strings.Builder
	for _, v := range []any{cfg, &cfg, wrong, nested, []Config{cfg}, map[string]Config{"a": wrong}, r, *r, c, *c} {
		for _, verb := range []string{"%v", "%+v", "%#v", "%s", "%q", "%d", "%x", "%T", "%10.3v"} {
			fmt.Fprintf(&out, verb+"\n", v)
		}
		slog.New(slog.NewTextHandler(&out, nil)).Info("text", "v", v)
		slog.New(slog.NewJSONHandler(&out, nil)).Info("json", "v", v)
		b, err := json.Marshal(v)
		if err != nil {
			t.Fatal(err)
		}
		out.Write(b)
	}
	for _, secret := range []string{token, fmt.Sprintf("%x", token)} {
		if i := strings.Index(out.String(), secret); i >= 0 {
			t.Errorf("token shown: %s", out.String()[max(0, i-200):i])
		}
	}
	want := `aepipe.Config{BaseURL:"https://store.example/x", Token:"[REDACTED]", Project:"p", LogStore:"", RawLogStore:""}`
	if got := fmt.Sprintf("%+v", cfg); got != want {
		t.Errorf("Config prints as %s, want %s", got, want)
	}
}
