package convert

import (
	"bytes"
	"encoding/base64"
	"encoding/json"
)

// signaturePrefix begins the signatures of the thinking blocks that conversion makes; no signature of Anthropic's has
// it. Behind it stands the base64url of a JSON object: "r" is the reasoning when it was not shown but the provider
// wants it back, "g" holds Gemini's thought signatures by tool call id.
const signaturePrefix = "apx1."

// callSignature is Gemini's thought signature of a call, both as inside a JSON string.
type callSignature struct{ id, signature []byte }

// appendSignature appends a signature that holds the reasoning, which may be empty, and the calls' signatures.
func appendSignature(dst, reasoning []byte, calls []callSignature) []byte {
	dst = append(dst, signaturePrefix...)
	if len(reasoning) == 0 && len(calls) == 0 {
		return append(dst, "e30"...)
	}
	doc := append(make([]byte, 0, len(reasoning)+64), '{')
	if len(reasoning) > 0 {
		doc = append(doc, `"r":"`...)
		doc = append(doc, reasoning...)
		doc = append(doc, '"')
	}
	for i, c := range calls {
		switch {
		case i > 0:
			doc = append(doc, ',')
		case len(reasoning) > 0:
			doc = append(doc, `,"g":{`...)
		default:
			doc = append(doc, `"g":{`...)
		}
		doc = append(doc, '"')
		doc = append(doc, c.id...)
		doc = append(doc, `":"`...)
		doc = append(doc, c.signature...)
		doc = append(doc, '"')
	}
	if len(calls) > 0 {
		doc = append(doc, '}')
	}
	doc = append(doc, '}')
	return base64.RawURLEncoding.AppendEncode(dst, doc)
}

// openSignature returns the object inside a signature that conversion made, nil for any other. The client had it in
// its hands, so it may hold anything.
func openSignature(raw []byte) []byte {
	s, own := bytes.CutPrefix(inner(raw), []byte(signaturePrefix))
	if !own {
		return nil
	}
	doc, err := base64.RawURLEncoding.AppendDecode(nil, s)
	if err != nil || !json.Valid(doc) {
		return nil
	}
	return doc
}

// StripOwnThinking takes the thinking blocks that conversion made for another provider out of a Messages request, for
// Anthropic refuses their signatures. All other bytes stay as they are. A message that would be left without content
// goes too; if that would be every message, nothing is changed. Without such a block it returns body itself, at the
// cost of one search. body must be valid JSON and is not modified.
func StripOwnThinking(body []byte) []byte {
	if !bytes.Contains(body, []byte(`"`+signaturePrefix)) {
		return body
	}
	var cuts []cut
	r := reader{b: body, i: len(body) - len(bytes.TrimPrefix(body, []byte("\xEF\xBB\xBF")))}
	if !r.enter('{') {
		return body
	}
	for r.more('}') {
		if string(r.key()) != "messages" {
			r.value()
			continue
		}
		var all bool
		if cuts, all = cutElements(cuts, &r, cutThinking); all {
			return body
		}
	}
	if len(cuts) == 0 {
		return body
	}
	out := make([]byte, 0, len(body))
	at := 0
	for _, c := range cuts {
		out = append(out, body[at:c.from]...)
		at = c.to
	}
	return append(out, body[at:]...)
}

type cut struct{ from, to int }

// cutElements reads an array and adds cuts for the elements that drop picks, each with one comma. all reports that no
// element of a non-empty array would be left; then nothing is added. drop reads the next element, and may add cuts
// inside of it.
func cutElements(cuts []cut, r *reader, drop func([]cut, *reader) ([]cut, bool)) (out []cut, all bool) {
	if !r.enter('[') {
		return cuts, false
	}
	mark, kept, n := len(cuts), -1, 0 // kept: the end of the last element that stays
	open := -1                        // the start of a run of dropped elements that nothing stands before
	for ; r.more(']'); n++ {
		r.space()
		start := r.i
		inside := len(cuts)
		var gone bool
		cuts, gone = drop(cuts, r)
		switch {
		case gone && kept >= 0:
			cuts = append(cuts[:inside], cut{kept, r.i})
			kept = r.i
		case gone && open < 0:
			cuts, open = cuts[:inside], start
		case gone:
			cuts = cuts[:inside]
		default:
			if open >= 0 {
				cuts = append(cuts, cut{})
				copy(cuts[inside+1:], cuts[inside:])
				cuts[inside] = cut{open, start}
				open = -1
			}
			kept = r.i
		}
	}
	if open >= 0 {
		return cuts[:mark], n > 0
	}
	return cuts, false
}

// cutThinking reads a message, and drops it when nothing of its content would be left.
func cutThinking(cuts []cut, r *reader) ([]cut, bool) {
	gone := false
	if !r.enter('{') {
		return cuts, false
	}
	for r.more('}') {
		if string(r.key()) != "content" {
			r.value()
			continue
		}
		cuts, gone = cutElements(cuts, r, func(cuts []cut, r *reader) ([]cut, bool) {
			b := r.value()
			own := bytes.HasPrefix(inner(get(b, "signature")), []byte(signaturePrefix))
			return cuts, own && string(text(get(b, "type"))) == "thinking"
		})
	}
	return cuts, gone
}
