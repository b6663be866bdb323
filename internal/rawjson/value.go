// Package rawjson handles JSON as the bytes that it is. A [Value] is a value as it stands in a
// document, a [Text] what stands between the quotes of a string, a [Partial] an object that arrives
// in pieces. Nothing is decoded that nobody compares: numbers, escapes and the order of members go
// from one document into another unchanged.
package rawjson

import (
	"bytes"
	"iter"
	"math"
	"strconv"
)

// A Value is one JSON value as it stands in a document. Its first byte tells its kind. Nil is the
// absent value. The document must be JSON in its structure at least, see [ScanStructure]: of
// anything else, and of strings with invalid escapes, the results are arbitrary, but no method
// panics and every one comes to an end. A Value shares the document's memory.
type Value []byte

// Kind returns the value's first byte: one of { [ " t f n - and 0 to 9, or 0 of the absent value.
func (v Value) Kind() byte {
	if len(v) == 0 {
		return 0
	}
	return v[0]
}

// IsString reports whether v is a string.
func (v Value) IsString() bool { return v.Kind() == '"' }

// IsObject reports whether v is an object.
func (v Value) IsObject() bool { return v.Kind() == '{' }

// IsArray reports whether v is an array.
func (v Value) IsArray() bool { return v.Kind() == '[' }

// IsNumber reports whether v is a number.
func (v Value) IsNumber() bool {
	c := v.Kind()
	return c == '-' || c >= '0' && c <= '9'
}

// IsNull reports whether v is absent or null: most protocols mean the same by both.
func (v Value) IsNull() bool { return len(v) == 0 || v[0] == 'n' }

// IsTrue reports whether v is the literal true.
func (v Value) IsTrue() bool { return v.Kind() == 't' }

// IsFalse reports whether v is the literal false.
func (v Value) IsFalse() bool { return v.Kind() == 'f' }

// Text returns what stands between the quotes of a string, and nil of any other value.
func (v Value) Text() Text {
	if len(v) < 2 || v[0] != '"' {
		return nil
	}
	return Text(v[1 : len(v)-1])
}

// Decode returns the characters of a string, and nil of any other value. It allocates only where
// there are escapes.
func (v Value) Decode() []byte { return v.Text().Decode() }

// Is reports whether v is the string s.
func (v Value) Is(s string) bool { return v.IsString() && string(v.Decode()) == s }

// Members iterates over the members of an object, names decoded; there are none of any other value.
func (v Value) Members() iter.Seq2[[]byte, Value] {
	return func(yield func([]byte, Value) bool) { v.members(yield) }
}

// members keeps Members small enough to be inlined, so that a loop over it allocates nothing.
func (v Value) members(yield func([]byte, Value) bool) {
	r := Reader{Doc: v}
	if !r.Enter('{') {
		return
	}
	for r.More('}') {
		name := r.Name()
		if !yield(name, r.Value()) {
			return
		}
	}
}

// Elements iterates over the elements of an array; there are none of any other value.
func (v Value) Elements() iter.Seq[Value] {
	return func(yield func(Value) bool) { v.elements(yield) }
}

func (v Value) elements(yield func(Value) bool) {
	r := Reader{Doc: v}
	if !r.Enter('[') {
		return
	}
	for r.More(']') && yield(r.Value()) {
	}
}

// First returns the first element of an array, absent if there is none.
func (v Value) First() Value {
	for e := range v.Elements() {
		return e
	}
	return nil
}

// Get returns the value at a path of member names, absent if there is none. Of equal names the last
// one counts.
func (v Value) Get(path ...string) Value {
	for _, want := range path {
		var found Value
		for name, value := range v.Members() {
			if string(name) == want {
				found = value
			}
		}
		v = found
	}
	return v
}

// Integer returns a number of up to 18 digits and nothing else, and whether v is one.
func (v Value) Integer() (n int64, ok bool) {
	for _, c := range v {
		if c < '0' || c > '9' {
			return 0, false
		}
		n = n*10 + int64(c-'0')
	}
	return n, len(v) > 0 && len(v) <= 18
}

// Count returns a number as an integer: fractions are cut off, what is negative, too large or no
// number is 0.
func (v Value) Count() int64 {
	if n, ok := v.Integer(); ok {
		return n
	}
	if c := v.Kind(); c < '0' || c > '9' {
		return 0
	}
	f, err := strconv.ParseFloat(string(v), 64)
	if err != nil || f >= math.MaxInt64 {
		return 0
	}
	return int64(f)
}

// A Reader walks one document, once, and hands out its values. It is for what the iterators of
// [Value] cannot do: to descend into large values without walking over them first, and to know
// where in the document a value stands. The zero Reader is at the end of an empty document.
type Reader struct {
	Doc []byte
	At  int // of the next byte to be read
}

// Members iterates over the names, decoded, of the object that is next. In the loop's body r stands
// before the member's value; what the body leaves unread is stepped over. Of any other value there
// are none, and it is stepped over.
func (r *Reader) Members() iter.Seq[[]byte] {
	return func(yield func([]byte) bool) { r.members(yield) }
}

func (r *Reader) members(yield func([]byte) bool) {
	if !r.Enter('{') {
		return
	}
	for r.More('}') {
		name := r.Name()
		at := r.At
		if !yield(name) {
			return
		}
		if r.At == at {
			r.Value()
		}
	}
}

// Elements iterates over the indexes of the array that is next, like [Reader.Members].
func (r *Reader) Elements() iter.Seq[int] {
	return func(yield func(int) bool) { r.elements(yield) }
}

func (r *Reader) elements(yield func(int) bool) {
	if !r.Enter('[') {
		return
	}
	for i := 0; r.More(']'); i++ {
		at := r.At
		if !yield(i) {
			return
		}
		if r.At == at {
			r.Value()
		}
	}
}

// Space steps over white space.
func (r *Reader) Space() {
	for r.At < len(r.Doc) && r.Doc[r.At] <= ' ' {
		r.At++
	}
}

// Peek returns the first byte of the next value, 0 at the end.
func (r *Reader) Peek() byte {
	r.Space()
	if r.At < len(r.Doc) {
		return r.Doc[r.At]
	}
	return 0
}

// Enter steps into the object or array that is next, if it opens with c. If it does not, Enter
// steps over the value.
func (r *Reader) Enter(c byte) bool {
	if r.Peek() != c {
		r.Value()
		return false
	}
	r.At++
	return true
}

// More reports whether another member or element follows in the container that ends with c, and
// steps out of it if not.
func (r *Reader) More(c byte) bool {
	p := r.Peek()
	if p == ',' {
		r.At++
		p = r.Peek()
	}
	if p == c || p == 0 || p == ']' || p == '}' {
		r.At = min(r.At+1, len(r.Doc))
		return false
	}
	return true
}

// Name reads the name of the next member, decoded.
func (r *Reader) Name() []byte {
	name := r.Value()
	if r.Peek() == ':' {
		r.At++
	}
	return name.Decode()
}

// Value steps over the next value and returns it, absent at the end of the document.
func (r *Reader) Value() Value {
	r.Space()
	start := r.At
	if r.At == len(r.Doc) {
		return nil
	}
	switch r.Doc[r.At] {
	case '"':
		r.str()
	case '{', '[':
		r.container()
	default:
		r.At++
		for r.At < len(r.Doc) && !delimiter[r.Doc[r.At]] {
			r.At++
		}
	}
	return Value(r.Doc[start:r.At])
}

// delimiter are the bytes that end a number or a literal.
var delimiter = [256]bool{',': true, ']': true, '}': true, ' ': true, '\n': true, '\r': true, '\t': true, ':': true}

// container steps over the object or array that begins here.
func (r *Reader) container() {
	for depth := 0; r.At < len(r.Doc); {
		switch r.Doc[r.At] {
		case '"':
			r.str()
			continue
		case '{', '[':
			depth++
		case '}', ']':
			depth--
		}
		r.At++
		if depth == 0 {
			return
		}
	}
}

// str steps over the string that begins here.
func (r *Reader) str() { r.At, _ = skipContent(r.Doc, r.At) }

// Trim cuts a byte order mark and the white space around a document.
func Trim(b []byte) []byte {
	return bytes.TrimSpace(bytes.TrimPrefix(bytes.TrimSpace(b), []byte("\xEF\xBB\xBF")))
}
