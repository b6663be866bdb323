package rawjson

import (
	"encoding/json"
	"testing"
)

// FuzzScanStructure: what is valid is so by its structure too, with the same members; what is valid
// by its structure alone becomes valid JSON when its string values are emptied.
func FuzzScanStructure(f *testing.F) {
	for _, s := range []string{
		`{"a":"\q","b":[1,"` + "\x01" + `"]}`, `{"a\q":1}`, `["\\"]`, `["\"]`, `{"model":"x","n":{"model":[]}}`, `"`, `"\`, `[01]`, `{"a":"b"`, ` "x" `, "\xEF\xBB\xBF{}",
	} {
		f.Add([]byte(s))
	}
	f.Fuzz(func(t *testing.T, b []byte) {
		type pair struct{ name, value Span }
		var whole, structure []pair
		err := Scan(b, func(n, v Span) { whole = append(whole, pair{n, v}) })
		errStructure := ScanStructure(b, func(n, v Span) { structure = append(structure, pair{n, v}) })
		if (err == nil) != json.Valid(trimMark(b)) {
			t.Fatalf("%q: %v", b, err)
		}
		if err == nil {
			if errStructure != nil || len(whole) != len(structure) {
				t.Fatalf("%q: %v, %v and %v", b, errStructure, whole, structure)
			}
			for i := range whole {
				if whole[i] != structure[i] {
					t.Errorf("%q: member %v and %v", b, whole[i], structure[i])
				}
			}
		} else if errStructure == nil {
			if hollow := emptied(b); !json.Valid(hollow) {
				t.Errorf("%q has the structure of JSON, and emptied is %q", b, hollow)
			}
		}
	})
}

func trimMark(b []byte) []byte {
	if len(b) >= 3 && string(b[:3]) == "\xEF\xBB\xBF" {
		return b[3:]
	}
	return b
}

// emptied returns a document without what stands inside of its strings, names excepted.
func emptied(b []byte) []byte {
	var out []byte
	r := Reader{Doc: trimMark(b)}
	for r.At < len(r.Doc) {
		if r.Doc[r.At] != '"' {
			out = append(out, r.Doc[r.At])
			r.At++
			continue
		}
		s := r.Value()
		if r.Peek() == ':' {
			out = append(out, s...)
		} else {
			out = append(out, `""`...)
		}
	}
	return out
}
