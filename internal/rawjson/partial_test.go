package rawjson

import (
	"bytes"
	"testing"
)

func TestPartial(t *testing.T) {
	t.Parallel()
	for _, s := range []string{
		`{}`, ` { "a" : [ ] , "b":{"c":[1,-0.5e+10,0,true,false,null,"x\"\\\n\u00e9\ud83d\ude00"]}}  `, `{"a":1.5E3,"b":[[],[{}]]}`,
	} {
		esc := AppendText(nil, s)
		var p Partial
		if n := p.Feed(esc); n != len(esc) || !p.Complete() {
			t.Errorf("%s: took %d of %d, complete %v", s, n, len(esc), p.Complete())
		}
		// Every beginning must close to valid JSON, wherever the pieces are cut.
		for i := range len(s) {
			esc := AppendText(nil, s[:i])
			var p Partial
			if n := p.Feed(esc); n != len(esc) {
				t.Errorf("%q: took %d", s[:i], n)
			}
			if got := p.AppendClosing(esc).Decode(); !ValidObject(bytes.Trim(got, space)) {
				t.Errorf("%q closes to %s", s[:i], got)
			}
		}
	}
	for _, s := range []string{`[1]`, `{"a":01}`, `{"a":1.}`, `{"a":tru }`, `{,}`, `{"a"}`, `{"a":1,}`, `{"a":"\x"}`, `{"a":"\u12g4"}`, `{"a":[}`, `{}{`, "{\"a\":\"\n\"}", `{"a":-}`, `{"a":1e}`, `nul`, `{"a":é}`} {
		esc := AppendText(nil, s)
		var p Partial
		n := p.Feed(esc)
		if n == len(esc) {
			t.Errorf("%q was taken whole", s)
		}
		if got := p.AppendClosing(esc[:n]).Decode(); !ValidObject(bytes.Trim(got, space)) {
			t.Errorf("%q closes to %s", s, got)
		}
	}
}

const space = " \t\r\n" // JSON's

// FuzzPartial: a text is complete exactly when it is a JSON object, and what was taken of any text
// closes to one.
func FuzzPartial(f *testing.F) {
	for _, s := range []string{``, `{}`, ` {"a":[1,-2.5e+3,{"b":"\u00e9\\"}]} `, `{"a":tru`, `{"a":"\`, `{"a":"\u12`, `{"a":1e`, `[1]`, `{"a":01}`, `{}x`, "{}\v", `{"é":0}`} {
		f.Add(s, uint(3))
	}
	f.Fuzz(func(t *testing.T, s string, cut uint) {
		esc := Text(AppendText(nil, s))
		var p Partial
		n := 0
		for rest := esc; len(rest) > 0; {
			piece := rest[:min(len(rest), int(cut%16)+1)]
			if i := bytes.LastIndexByte(piece, '\\'); i >= 0 {
				piece = rest[:min(len(rest), len(piece)+6)] // never in an escape sequence
				if len(piece) < len(rest) {
					piece = rest
				}
			}
			took := p.Feed(piece)
			n += took
			if took < len(piece) {
				break
			}
			rest = rest[len(piece):]
		}
		plain := bytes.Trim(esc.Decode(), space)
		if got, want := p.Complete() && n == len(esc), ValidObject(plain); got != want {
			t.Errorf("%q: complete %v, valid %v", s, got, want)
		}
		if got := p.AppendClosing(bytes.Clone(esc[:n])).Decode(); !ValidObject(bytes.Trim(got, space)) {
			t.Errorf("%q closes to %s", s, got)
		}
	})
}
