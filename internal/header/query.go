package header

import (
	"net/url"
	"strings"
)

// credentialParam reports whether a query parameter's name is one that clients
// put keys in. The name is compared decoded and in any case.
func credentialParam(name string) bool {
	if strings.ContainsAny(name, "%+") {
		if n, err := url.QueryUnescape(name); err == nil {
			name = n
		}
	}
	switch strings.ToLower(name) {
	case "key", "api_key", "access_token", "token":
		return true
	}
	return false
}

// StripQuery returns raw without the parameters that look like credentials and
// without those named in also. What stays keeps its bytes and its order.
func StripQuery(raw string, also ...string) string {
	return mapQuery(raw, func(name, pair string) (string, bool) {
		for _, a := range also {
			if n, err := url.QueryUnescape(name); err == nil && strings.EqualFold(n, a) {
				return "", false
			}
		}
		return pair, !credentialParam(name)
	})
}

// RedactQuery returns raw with the values of credential parameters replaced by
// [Redacted].
func RedactQuery(raw string) string {
	return mapQuery(raw, func(name, pair string) (string, bool) {
		if credentialParam(name) {
			return name + "=" + Redacted, true
		}
		return pair, true
	})
}

// mapQuery splits at & and ; alike: some servers still take ; as a separator,
// and a key must not hide behind it.
func mapQuery(raw string, f func(name, pair string) (string, bool)) string {
	if raw == "" {
		return ""
	}
	var out strings.Builder
	for raw != "" {
		pair, sep := raw, ""
		if i := strings.IndexAny(raw, "&;"); i >= 0 {
			pair, sep, raw = raw[:i], raw[i:i+1], raw[i+1:]
		} else {
			raw = ""
		}
		name, _, _ := strings.Cut(pair, "=")
		if kept, ok := f(name, pair); ok {
			out.WriteString(kept)
			out.WriteString(sep)
		}
	}
	return strings.TrimRight(out.String(), "&;")
}
