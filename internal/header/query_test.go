package header

import (
	"net/url"
	"slices"
	"strings"
	"testing"
)

func TestStripQuery(t *testing.T) {
	t.Parallel()
	tests := []struct {
		in   string
		also []string
		want string
	}{
		{in: "", want: ""},
		{in: "beta=true", want: "beta=true"},
		{in: "b=2&a=1&b=1&c", want: "b=2&a=1&b=1&c"},
		{in: "a=%2F+x&B=%6b%zz&&=&", want: "a=%2F+x&B=%6b%zz&&=&"},
		{in: "a=1;b=2&c=3", want: "a=1;b=2&c=3"},
		{in: "key=s", want: ""},
		{in: "key", want: ""},
		{in: "key=", want: ""},
		{in: "key=a=b", want: ""},
		{in: "key=s&beta=true", want: "beta=true"},
		{in: "beta=true&key=s", want: "beta=true"},
		{in: "a=1&key=s&b=2&key=t&c=3", want: "a=1&b=2&c=3"},
		{in: "api_key=s&access_token=s&token=s&key=s&x=1", want: "x=1"},
		{in: "KEY=s&Api_Key=s&ACCESS_TOKEN=s&tOkEn=s&x=1", want: "x=1"},
		{in: "%6bey=s&%6Bey=s&k%65y=s&%4b%45%59=s&api%5Fkey=s&x=1", want: "x=1"},
		{in: "keys=1&apikey=2&api-key=3&my_token=4&k=key&%256bey=5&+key=6", want: "keys=1&my_token=4&k=key&%256bey=5&+key=6"},
		{in: "key%zz=1&%=2&k%65y%=3", want: "key%zz=1&%=2&k%65y%=3"},
		{in: "a=key=s", want: "a=key=s"},
		// ; separates for some and belongs to the value for others.
		{in: "a=1;key=s", want: "a=1"},
		{in: "a=1;key=s&b=2", want: "a=1&b=2"},
		{in: "a=1;k%65y=s;b=2&c=3", want: "a=1&c=3"},
		{in: "key=s;t&b=2", want: "b=2"},
		{in: ";key=s", want: ""},
		{in: "key;key=s;&x", want: "x"},
		{in: "a=1&api-version=2024-10-21", want: "a=1&api-version=2024-10-21"},
		{in: "api-version=1&a=1&API-Version=2&api%2Dversion=3&key=s", also: []string{"api-version"}, want: "a=1"},
		{in: "api-version=1&x=1&y=2&z=3", also: []string{"x", "Z"}, want: "api-version=1&y=2"},
	}
	for _, test := range tests {
		if got := StripQuery(test.in, test.also...); got != test.want {
			t.Errorf("StripQuery(%q, %q) = %q, want %q", test.in, test.also, got, test.want)
		}
	}
}

func TestRedactQuery(t *testing.T) {
	t.Parallel()
	for in, want := range map[string]string{
		"":                       "",
		"beta=true&a=%2F+x&&c&":  "beta=true&a=%2F+x&&c&",
		"key=s":                  "key=[REDACTED]",
		"key=":                   "key=[REDACTED]",
		"key":                    "key=[REDACTED]",
		"key=a=b":                "key=[REDACTED]",
		"a=1&key=s&b=2":          "a=1&key=[REDACTED]&b=2",
		"token=s&Api_Key=t":      "token=[REDACTED]&Api_Key=[REDACTED]",
		"%6Bey=s&ACCESS%5FTOKEN": "%6Bey=[REDACTED]&ACCESS%5FTOKEN=[REDACTED]",
		"a=1;key=s;b=2&c=3":      "a=1;key=[REDACTED]&c=3",
		"key=s;s":                "key=[REDACTED]",
		"keys=1&a=key":           "keys=1&a=key",
	} {
		if got := RedactQuery(in); got != want {
			t.Errorf("RedactQuery(%q) = %q, want %q", in, got, want)
		}
	}
}

var querySeeds = []string{
	"", "a=1&b=2", "key=MARKER", "a=1;key=MARKER&b=2", "key=x;MARKER", "%6bey=MARKER", "KEY=MARKER;a", "api_key=MARKER&&;", "token", "tok%65n=MARKER%zz",
	"access_token=MARKER&a=MARKER", "a;b;k%65y=MARKER;;&=&;=MARKER", "key%3DMARKER", "a=1&key", "+key=1", "k%2565y=MARKER", "a=b%26key=MARKER",
}

func isCredential(name string) bool {
	n, err := url.QueryUnescape(name)
	return err == nil && slices.Contains([]string{"key", "api_key", "access_token", "token",
		"api-key", "apikey", "x-api-key", "access-token", "auth_token", "auth-token", "subscription-key"}, strings.ToLower(n))
}

func pieces(raw string) []string {
	return strings.FieldsFunc(raw, func(r rune) bool { return r == '&' || r == ';' })
}

func FuzzStripQuery(f *testing.F) {
	for _, s := range querySeeds {
		f.Add(s)
	}
	f.Fuzz(func(t *testing.T, raw string) {
		out := StripQuery(raw)
		values, _ := url.ParseQuery(out) // what it refuses, it leaves out
		for name := range values {
			if isCredential(url.QueryEscape(name)) {
				t.Fatalf("StripQuery(%q) = %q: a server reads %q", raw, out, name)
			}
		}
		left := pieces(raw)
		for _, p := range pieces(out) {
			name, _, _ := strings.Cut(p, "=")
			if isCredential(name) {
				t.Fatalf("StripQuery(%q) = %q: a server that splits at ; reads %q", raw, out, name)
			}
			i := slices.Index(left, p)
			if i < 0 {
				t.Fatalf("StripQuery(%q) = %q: %q is new or out of order", raw, out, p)
			}
			left = left[i+1:]
		}
		secret := func(p string) bool { name, _, _ := strings.Cut(p, "="); return isCredential(name) }
		if !slices.ContainsFunc(pieces(raw), secret) && out != raw {
			t.Fatalf("StripQuery(%q) = %q, though there is nothing to strip", raw, out)
		}
		// A pair without a credential stays, whatever stands around it.
		var want []string
		for pair := range strings.SplitSeq(raw, "&") {
			if !slices.ContainsFunc(pieces(pair), secret) && pair != "" {
				want = append(want, pair)
			}
		}
		got := strings.Split(out, "&")
		for _, w := range want {
			i := slices.Index(got, w)
			if i < 0 {
				t.Fatalf("StripQuery(%q) = %q lost %q", raw, out, w)
			}
			got = got[i+1:]
		}
		if again := StripQuery(out); again != out {
			t.Fatalf("StripQuery(%q) = %q, and of that %q", raw, out, again)
		}
	})
}

func FuzzRedactQuery(f *testing.F) {
	const marker = "MARKER"
	for _, s := range querySeeds {
		f.Add(s)
	}
	f.Fuzz(func(t *testing.T, raw string) {
		out := RedactQuery(raw)
		// others is raw without the values of credential parameters, as a server sees them that
		// splits at & and as one that splits at ; too.
		var others []string
		for pair := range strings.SplitSeq(raw, "&") {
			name, _, _ := strings.Cut(pair, "=")
			if isCredential(name) {
				others = append(others, name)
				continue
			}
			for part := range strings.SplitSeq(pair, ";") {
				name, _, _ := strings.Cut(part, "=")
				if isCredential(name) {
					part = name
				}
				others = append(others, part)
			}
		}
		if strings.Contains(out, marker) && !strings.Contains(strings.Join(others, "\n"), marker) {
			t.Fatalf("RedactQuery(%q) = %q shows the secret", raw, out)
		}
		if again := RedactQuery(out); again != out {
			t.Fatalf("RedactQuery(%q) = %q, and of that %q", raw, out, again)
		}
		if !slices.ContainsFunc(pieces(raw), func(p string) bool { name, _, _ := strings.Cut(p, "="); return isCredential(name) }) && out != raw {
			t.Fatalf("RedactQuery(%q) = %q, though there is nothing to redact", raw, out)
		}
	})
}
