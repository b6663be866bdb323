package convert

import (
	"crypto/sha256"
	"encoding/hex"
	"unicode/utf8"

	"github.com/loadchange/apexproxy/internal/rawjson"
)

// A rename is a tool whose name had to be changed on its way upstream.
type rename struct{ upstream, client string }

// isToolByte reports whether c may stand in a tool's name or id at OpenAI and at Anthropic.
func isToolByte(c byte) bool {
	return 'a' <= c && c <= 'z' || 'A' <= c && c <= 'Z' || '0' <= c && c <= '9' || c == '_' || c == '-'
}

// toolName returns the name under which a tool goes upstream: its own where OpenAI takes it, else
// one made from it alone, so that history and declaration agree without being compared.
func toolName(name rawjson.Text) rawjson.Text {
	s := name.Decode()
	fits := len(s) > 0 && len(s) <= 64
	for _, c := range s {
		fits = fits && isToolByte(c)
	}
	if fits {
		return s
	}
	short := make([]byte, 0, 64)
	for i := 0; i < len(s) && len(short) < 55; {
		r, n := utf8.DecodeRune(s[i:])
		c := byte('_')
		if r < utf8.RuneSelf && isToolByte(byte(r)) {
			c = byte(r)
		}
		short = append(short, c)
		i += n
	}
	short = append(short, '_')
	return append(short, digest(s, 8)...)
}

// toolID returns the id under which a call and its result go upstream.
func (p *ChatProfile) toolID(id rawjson.Text) rawjson.Text {
	s := id.Decode()
	if p.ShortToolIDs {
		fits := len(s) == 9
		for _, c := range s {
			fits = fits && isToolByte(c) && c != '_' && c != '-'
		}
		if fits {
			return s
		}
		return rawjson.Text(digest(s, 9))
	}
	if utf8.RuneCount(s) > 40 {
		return rawjson.Text("call_" + digest(s, 32))
	}
	return id
}

// digest returns the first n hexadecimal digits of the SHA-256 of s.
func digest(s []byte, n int) string {
	sum := sha256.Sum256(s)
	return hex.EncodeToString(sum[:])[:n]
}

// safeName returns a name to report: one that a client made up may be anything.
func safeName(k []byte) string {
	for _, c := range k {
		if c != '_' && c != '-' && (c < '0' || c > '9') && (c < 'a' || c > 'z') {
			return "unknown"
		}
	}
	if len(k) == 0 || len(k) > 64 {
		return "unknown"
	}
	return string(k)
}
