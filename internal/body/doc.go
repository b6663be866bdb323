package body

import (
	"bytes"

	"github.com/tidwall/gjson"

	"github.com/loadchange/apexproxy/internal/rawjson"
)

// Member is a member of the top-level object: how often its name stands there and where the value
// of its last occurrence lies.
type Member struct {
	Count      int
	Start, End int
}

// Doc is what [Scan] found.
type Doc struct {
	Object                       bool // the document is an object
	Whole                        bool // all of it was checked, the inside of strings too
	Model, Stream, StreamOptions Member
}

// String returns the value of m decoded, in memory of its own, and whether it is a string.
func (m Member) String(doc []byte) (string, bool) {
	if m.Count == 0 || doc[m.Start] != '"' {
		return "", false
	}
	return gjson.ParseBytes(doc[m.Start:m.End]).Str, true
}

// True reports whether the value of m is the literal true.
func (m Member) True(doc []byte) bool {
	return m.Count > 0 && string(doc[m.Start:m.End]) == "true"
}

// maxWhole is the size up to which a body is checked whole. What a prompt of more holds inside of
// its strings is for the provider to judge: looking at every byte of it would be a good part of
// what an exchange costs.
const maxWhole = 64 << 10

// Scan checks that b is exactly one JSON text and finds the members that the proxy reads. Names are
// compared decoded, so "mod\u0065l" counts. Up to 64 KiB all of b is checked, as [rawjson.Scan]
// does with the same errors; beyond, the structure and the members that are found, see
// [rawjson.ScanStructure], and Doc.Whole is false. It keeps nothing of b.
func Scan(b []byte) (Doc, error) {
	doc := Doc{Whole: len(b) <= maxWhole}
	note := func(name, value rawjson.Span) {
		doc.Object = true
		if m := doc.member(b[name.Start:name.End]); m != nil {
			*m = Member{m.Count + 1, value.Start, value.End}
		}
	}
	var err error
	if doc.Whole {
		err = rawjson.Scan(b, note)
	} else {
		err = rawjson.ScanStructure(b, note)
		for _, m := range [...]Member{doc.Model, doc.Stream, doc.StreamOptions} {
			if err == nil && m.Count > 0 && !rawjson.Valid(b[m.Start:m.End]) {
				err = &rawjson.SyntaxError{Offset: m.Start}
			}
		}
	}
	if err != nil {
		return Doc{}, err
	}
	doc.Object = doc.Object || rawjson.Value(rawjson.Trim(b)).IsObject()
	return doc, nil
}

// member returns where to note the value of the member with this quoted name, or nil when nobody
// asks for it.
func (d *Doc) member(quoted []byte) *Member {
	name := quoted[1 : len(quoted)-1]
	if bytes.IndexByte(name, '\\') >= 0 {
		name = []byte(gjson.ParseBytes(quoted).Str)
	}
	switch string(name) {
	case "model":
		return &d.Model
	case "stream":
		return &d.Stream
	case "stream_options":
		return &d.StreamOptions
	}
	return nil
}
