package header

import (
	"net/url"
	"strings"
)

// credentialParam reports whether a query parameter's name is one that clients put keys in. The
// name is compared decoded and in any case.
func credentialParam(name string) bool {
	if strings.ContainsAny(name, "%+") {
		if n, err := url.QueryUnescape(name); err == nil {
			name = n
		}
	}
	switch strings.ToLower(name) {
	case "key", "api_key", "access_token", "token",
		"api-key", "apikey", "x-api-key", "access-token", "auth_token", "auth-token", "subscription-key":
		return true
	}
	return false
}

// StripQuery returns raw without the parameters that look like credentials and without those named
// in also. What stays keeps its bytes and its order.
func StripQuery(raw string, also ...string) string {
	return cutQuery(raw, "", func(name string) bool {
		for _, a := range also {
			if n, err := url.QueryUnescape(name); err == nil && strings.EqualFold(n, a) {
				return true
			}
		}
		return credentialParam(name)
	})
}

// RedactQuery returns raw with the values of credential parameters replaced by [Redacted].
func RedactQuery(raw string) string {
	return cutQuery(raw, "="+Redacted, credentialParam)
}

// cutQuery takes out the parameters whose names are hidden; if value is not empty, it stands for
// theirs. Some servers still take ; as a separator, and a key must not hide behind one. For the
// others a ; is part of the value, so what follows a hidden parameter goes with it, up to the next
// &.
func cutQuery(raw, value string, hidden func(name string) bool) string {
	if raw == "" {
		return ""
	}
	var out []string
	for pair := range strings.SplitSeq(raw, "&") {
		parts := strings.Split(pair, ";")
		for i, part := range parts {
			name, _, _ := strings.Cut(part, "=")
			if !hidden(name) {
				continue
			}
			parts = parts[:i]
			if value != "" {
				parts = append(parts, name+value)
			}
			break
		}
		if len(parts) > 0 {
			out = append(out, strings.Join(parts, ";"))
		}
	}
	return strings.Join(out, "&")
}
