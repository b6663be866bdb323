package convert

import (
	"bytes"
	"encoding/base64"

	"github.com/loadchange/apexproxy/internal/rawjson"
)

// signaturePrefix begins the signatures of the thinking blocks that conversion makes; no signature
// of Anthropic's has it. Behind it stands the base64url of a JSON object: "r" is the reasoning when
// it was not shown but the provider wants it back, "g" holds Gemini's thought signatures by tool
// call id.
const signaturePrefix = "apx1."

// A Carry is what an upstream wants back with the next request although no client shows it. An
// answer takes it along in its protocol's own place for such things.
type Carry struct {
	Reasoning rawjson.Text    // that was not shown
	Calls     []callSignature // Gemini's
}

// callSignature is Gemini's thought signature of a call, whose id is the client's.
type callSignature struct{ id, signature rawjson.Text }

// appendSignature appends a signature that holds a Carry, which may be empty.
func appendSignature(dst []byte, c *Carry) []byte {
	dst = append(dst, signaturePrefix...)
	if len(c.Reasoning) == 0 && len(c.Calls) == 0 {
		return append(dst, "e30"...)
	}
	doc := append(make([]byte, 0, len(c.Reasoning)+64), '{')
	if len(c.Reasoning) > 0 {
		doc = append(doc, `"r":"`...)
		doc = append(doc, c.Reasoning...)
		doc = append(doc, '"')
	}
	for i, call := range c.Calls {
		switch {
		case i > 0:
			doc = append(doc, ',')
		case len(c.Reasoning) > 0:
			doc = append(doc, `,"g":{`...)
		default:
			doc = append(doc, `"g":{`...)
		}
		doc = append(doc, '"')
		doc = append(doc, call.id...)
		doc = append(doc, `":"`...)
		doc = append(doc, call.signature...)
		doc = append(doc, '"')
	}
	if len(c.Calls) > 0 {
		doc = append(doc, '}')
	}
	doc = append(doc, '}')
	return base64.RawURLEncoding.AppendEncode(dst, doc)
}

// openSignature returns the object inside a signature that conversion made, absent for any other.
// The client had it in its hands, so it may hold anything.
func openSignature(signature rawjson.Text) rawjson.Value {
	s, own := bytes.CutPrefix(signature, []byte(signaturePrefix))
	if !own {
		return nil
	}
	doc, err := base64.RawURLEncoding.AppendDecode(nil, s)
	if err != nil || !rawjson.Valid(doc) {
		return nil
	}
	return doc
}

// StripOwnThinking takes the thinking blocks that conversion made for another provider out of a
// Messages request, for Anthropic refuses their signatures. All other bytes stay as they are. A
// message that would be left without content goes too; if that would be every message, nothing is
// changed. Without such a block it returns body itself, at the cost of one search. body must be
// JSON in its structure, see [rawjson.ScanStructure], and is not modified.
func StripOwnThinking(body []byte) []byte {
	if !bytes.Contains(body, []byte(`"`+signaturePrefix)) {
		return body
	}
	var cuts []cut
	r := &rawjson.Reader{Doc: body, At: len(body) - len(bytes.TrimPrefix(body, []byte("\xEF\xBB\xBF")))}
	if !r.Enter('{') {
		return body
	}
	for r.More('}') {
		if string(r.Name()) != "messages" {
			r.Value()
			continue
		}
		var all bool
		if cuts, all = cutElements(cuts, r, cutThinking); all {
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

// cutElements reads an array and adds cuts for the elements that drop picks, each with one comma:
// of [A,X,B] it cuts ",X", of [X,A] "X,". all reports that no element of a non-empty array would be
// left; then nothing is added. drop reads the next element, and may add cuts inside of it.
func cutElements(cuts []cut, r *rawjson.Reader, drop func([]cut, *rawjson.Reader) ([]cut, bool)) (out []cut, all bool) {
	if !r.Enter('[') {
		return cuts, false
	}
	mark, kept, n := len(cuts), -1, 0 // kept: the end of the last element that stays
	open := -1                        // the start of a run of dropped elements that nothing stands before
	for ; r.More(']'); n++ {
		r.Space()
		start := r.At
		inside := len(cuts)
		var gone bool
		cuts, gone = drop(cuts, r)
		switch {
		case gone && kept >= 0:
			cuts = append(cuts[:inside], cut{kept, r.At})
			kept = r.At
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
			kept = r.At
		}
	}
	if open >= 0 {
		return cuts[:mark], n > 0
	}
	return cuts, false
}

// cutThinking reads a message, and drops it when nothing of its content would be left.
func cutThinking(cuts []cut, r *rawjson.Reader) ([]cut, bool) {
	gone := false
	if !r.Enter('{') {
		return cuts, false
	}
	for r.More('}') {
		if string(r.Name()) != "content" {
			r.Value()
			continue
		}
		cuts, gone = cutElements(cuts, r, func(cuts []cut, r *rawjson.Reader) ([]cut, bool) {
			b := r.Value()
			own := bytes.HasPrefix(b.Get("signature").Text(), []byte(signaturePrefix))
			return cuts, own && b.Get("type").Is("thinking")
		})
	}
	return cuts, gone
}
