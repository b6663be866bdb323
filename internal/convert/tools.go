package convert

import (
	"strings"
	"unicode/utf8"
)

func (w *writer) writeTools() *Error {
	mark := len(w.out)
	w.declared, w.sent = make(map[string]bool), make(map[string]bool)
	w.field("tools")
	w.out = append(w.out, '[')
	if !isNull(w.tools) {
		r := reader{b: w.tools}
		if !r.enter('[') {
			return invalid("tools: must be an array")
		}
		for i := 0; r.more(']'); i++ {
			if i == maxParts {
				return invalid("tools: has too many elements")
			}
			if err := w.writeTool(r.value(), i); err != nil {
				return err
			}
		}
	}
	for _, t := range w.added {
		if err := w.writeTool(t, -1); err != nil {
			return err
		}
	}
	w.out = append(w.out, ']')
	if len(w.declared) == 0 {
		w.out = w.out[:mark]
	}
	return w.writeChoice()
}

// addTool takes a tool that a message declares whole, and reports whether it does.
func (w *writer) addTool(b *block) bool {
	t := get(b.raw, "tool")
	if !isString(get(t, "name")) || kind(get(t, "input_schema")) != '{' {
		return false
	}
	w.added = append(w.added, t)
	return true
}

func (w *writer) writeTool(tool []byte, at int) *Error {
	var typ, name, description, schema, strict []byte
	r := reader{b: tool}
	if !r.enter('{') {
		return invalid(path("tools", at) + ": must be an object")
	}
	for r.more('}') {
		switch k, v := r.key(), r.value(); string(k) {
		case "type":
			typ = v
		case "name":
			name = v
		case "description":
			description = v
		case "input_schema":
			schema = v
		case "strict":
			strict = v
		}
	}
	if t := string(text(typ)); !isNull(typ) && t != "custom" {
		w.c.drop("tools." + safeName(text(typ)))
		return nil
	}
	if !isString(name) || len(name) == 2 {
		return invalid(path("tools", at, "name") + ": must be a non-empty string")
	}
	if w.p.NoTools {
		w.c.drop("tools")
		return nil
	}
	given := string(text(name))
	sent := toolName(name)
	// Two names can be sent as one: a call of the second would come back as a call of the first.
	if w.declared[given] || w.sent[string(sent)] {
		w.c.drop("tools.duplicate")
		return nil
	}
	w.declared[given], w.sent[string(sent)] = true, true
	if string(sent) != string(inner(name)) {
		w.c.names = append(w.c.names, rename{string(sent), string(inner(name))})
	}
	w.sep()
	w.str(`{"type":"function","function":{"name":"`)
	w.out = append(w.out, sent...)
	w.str(`"`)
	if isString(description) {
		w.raw("description", description)
	}
	w.field("parameters")
	if kind(schema) != '{' {
		schema = []byte("{}")
	}
	strictly := isTrue(strict)
	if strictly && (w.p.NoStrict || w.p.PlainSchemas || !isStrict(schema, 0)) {
		strictly = false
		w.c.drop("tools.strict")
	}
	if w.p.PlainSchemas {
		schema = appendPlainSchema(nil, schema, &w.refs)
	}
	w.out = appendParameters(w.out, schema)
	if strictly {
		w.str(`,"strict":true`)
	}
	w.str(`}}`)
	return nil
}

// appendParameters appends a schema as a function's parameters: OpenAI wants a type, and properties with type object.
func appendParameters(dst, schema []byte) []byte {
	var typ, properties []byte
	r := reader{b: schema}
	r.enter('{')
	for r.more('}') {
		switch k, v := r.key(), r.value(); string(k) {
		case "type":
			typ = v
		case "properties":
			properties = v
		}
	}
	object := isNull(typ) || string(text(typ)) == "object"
	if !isNull(typ) && (!object || kind(properties) == '{') {
		return append(dst, schema...)
	}
	dst = append(dst, '{')
	if isNull(typ) {
		dst = append(dst, `"type":"object"`...)
	}
	r = reader{b: schema}
	r.enter('{')
	for r.more('}') {
		k, v := r.key(), r.value()
		if string(k) == "type" && isNull(typ) || string(k) == "properties" && kind(properties) != '{' {
			continue
		}
		dst = appendMember(dst, k, v)
	}
	if object && kind(properties) != '{' {
		dst = appendMember(dst, []byte("properties"), []byte("{}"))
	}
	return append(dst, '}')
}

// appendMember appends a member of an object that is being written, with its comma.
func appendMember(dst, name, value []byte) []byte {
	return append(appendName(dst, name), value...)
}

func appendName(dst, name []byte) []byte {
	if c := dst[len(dst)-1]; c != '{' {
		dst = append(dst, ',')
	}
	return append(appendString(dst, name), ':')
}

func (w *writer) writeChoice() *Error {
	if isNull(w.choice) {
		return nil
	}
	if kind(w.choice) != '{' {
		return invalid("tool_choice: must be an object")
	}
	typ, name := string(text(get(w.choice, "type"))), get(w.choice, "name")
	none := len(w.declared) == 0
	switch {
	case typ == "any" && none:
		return invalid("tool_choice: no tool is left that this provider could call")
	case typ == "tool" && !w.declared[string(text(name))]:
		return invalid("tool_choice.name: names no tool that this provider could call")
	case typ != "auto" && typ != "any" && typ != "none" && typ != "tool":
		return invalid("tool_choice.type: must be auto, any, none or tool")
	case none:
		return nil
	}
	switch typ {
	case "any":
		word := "required"
		if w.p.RequiredIsAny {
			word = "any"
		}
		w.quoted("tool_choice", word)
	case "tool":
		w.field("tool_choice")
		w.str(`{"type":"function","function":{"name":"`)
		w.out = append(w.out, toolName(name)...)
		w.str(`"}}`)
	default:
		w.quoted("tool_choice", typ)
	}
	if isTrue(get(w.choice, "disable_parallel_tool_use")) {
		if w.p.NoParallelField {
			w.c.drop("tool_choice.disable_parallel_tool_use")
		} else {
			w.raw("parallel_tool_calls", []byte("false"))
		}
	}
	return nil
}

// isToolByte reports whether c may stand in a tool's name or id at OpenAI.
func isToolByte(c byte) bool {
	return 'a' <= c && c <= 'z' || 'A' <= c && c <= 'Z' || '0' <= c && c <= '9' || c == '_' || c == '-'
}

// toolName returns the name under which a tool goes upstream, as inside a JSON string: its own where OpenAI takes it,
// else one made from it alone, so that history and declaration agree without being compared.
func toolName(raw []byte) []byte {
	s := text(raw)
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

// toolID returns the id under which a call and its result go upstream, as inside a JSON string.
func (w *writer) toolID(raw []byte) []byte {
	s := text(raw)
	if w.p.ShortToolIDs {
		fits := len(s) == 9
		for _, c := range s {
			fits = fits && isToolByte(c) && c != '_' && c != '-'
		}
		if fits {
			return s
		}
		return []byte(digest(s, 9))
	}
	if utf8.RuneCount(s) > 40 {
		return []byte("call_" + digest(s, 32))
	}
	return inner(raw)
}

// maxSchemaDepth is how deep a schema is looked into. Real ones stay below 20.
const maxSchemaDepth = 32

// isStrict reports whether a schema obeys OpenAI's rules for strict: every object is closed, and all its properties are
// required. It is never made so: that would change what the tool accepts.
func isStrict(schema []byte, depth int) bool {
	if kind(schema) != '{' {
		return true
	}
	if depth > maxSchemaDepth {
		return false
	}
	var object, closed bool
	var properties, required []byte
	r := reader{b: schema}
	r.enter('{')
	for r.more('}') {
		k, v := r.key(), r.value()
		switch string(k) {
		case "type":
			object = object || strings.Contains(string(v), `"object"`)
		case "additionalProperties":
			closed = string(v) == "false"
		case "properties":
			object, properties = true, v
			if !eachMember(v, func(_, s []byte) bool { return isStrict(s, depth+1) }) {
				return false
			}
		case "required":
			required = v
		case "$defs", "definitions":
			if !eachMember(v, func(_, s []byte) bool { return isStrict(s, depth+1) }) {
				return false
			}
		case "items":
			if !isStrict(v, depth+1) {
				return false
			}
		case "anyOf":
			e := reader{b: v}
			if !e.enter('[') {
				return false
			}
			for e.more(']') {
				if !isStrict(e.value(), depth+1) {
					return false
				}
			}
		case "oneOf", "allOf", "not", "if", "then", "else", "patternProperties":
			return false
		}
	}
	if !object {
		return true
	}
	names := make(map[string]bool)
	q := reader{b: required}
	if q.enter('[') {
		for q.more(']') {
			names[string(text(q.value()))] = true
		}
	}
	return closed && eachMember(properties, func(name, _ []byte) bool { return names[string(name)] })
}

// eachMember calls f for the members of an object until it returns false, and reports whether it never did.
func eachMember(raw []byte, f func(name, value []byte) bool) bool {
	r := reader{b: raw}
	if !r.enter('{') {
		return true
	}
	for r.more('}') {
		if k := r.key(); !f(k, r.value()) {
			return false
		}
	}
	return true
}

// notPlain are the keywords that Gemini's part of JSON Schema lacks.
var notPlain = map[string]bool{
	"$schema": true, "$id": true, "$comment": true, "$defs": true, "definitions": true, "additionalProperties": true,
	"unevaluatedProperties": true, "propertyNames": true, "patternProperties": true, "dependentRequired": true, "not": true,
	"if": true, "then": true, "else": true, "default": true, "examples": true, "deprecated": true, "readOnly": true,
	"writeOnly": true, "contentEncoding": true, "contentMediaType": true, "multipleOf": true, "uniqueItems": true,
}

// maxPlainSchema bounds what references may add to a schema, and four times that what they may add to a request.
const maxPlainSchema = 256 << 10

// references is what resolving references may still cost in one request. A schema of a kilobyte can say what takes hours.
type references struct {
	added int // bytes
	read  int // bytes
}

func newReferences(body int) references {
	// Without references no byte is read more often than it is deep.
	return references{added: 4 * maxPlainSchema, read: maxSchemaDepth * (body + maxPlainSchema)}
}

var anyObject = []byte(`{"type":"object"}`)

// plainer rewrites one schema for Gemini.
type plainer struct {
	root []byte
	defs map[string][]byte // by reference; nil until the first is met
	refs []string          // the references being resolved
	dst  []byte
	most int
	left *references
}

// appendPlainSchema appends schema rewritten to the part of JSON Schema that Gemini takes: unknown keywords go, others
// are said differently, local references are resolved, one that leads back to itself is any object.
func appendPlainSchema(dst, schema []byte, left *references) []byte {
	own := len(dst) + len(schema)
	p := plainer{root: schema, dst: dst, most: own + min(maxPlainSchema, left.added), left: left}
	p.schema(schema, 0)
	left.added = max(0, left.added-max(0, len(p.dst)-own))
	return p.dst
}

func (p *plainer) schema(s []byte, depth int) {
	if kind(s) != '{' {
		p.dst = append(p.dst, s...)
		return
	}
	p.left.read -= len(s)
	if depth > maxSchemaDepth || len(p.dst) > p.most || p.left.read < 0 {
		p.dst = append(p.dst, anyObject...)
		return
	}
	if ref := get(s, "$ref"); isString(ref) {
		p.ref(string(text(ref)), depth)
		return
	}
	has := make(map[string]bool)
	eachMember(s, func(k, _ []byte) bool { has[string(k)] = true; return true })
	p.dst = append(p.dst, '{')
	done := make(map[string]bool)
	eachMember(s, func(k, v []byte) bool {
		name := string(k)
		switch name {
		case "const":
			name = "enum"
		case "oneOf":
			name = "anyOf"
		case "exclusiveMinimum":
			name = "minimum"
		case "exclusiveMaximum":
			name = "maximum"
		case "format":
			if f := string(text(v)); f != "enum" && f != "date-time" {
				return true
			}
		}
		renamed := name != string(k)
		limit := name == "minimum" || name == "maximum"
		if notPlain[name] || done[name] || renamed && has[name] || renamed && limit && (isTrue(v) || string(v) == "false") {
			return true
		}
		done[name] = true
		switch {
		case string(k) == "const":
			p.dst = append(appendName(p.dst, []byte("enum")), '[')
			p.dst = append(append(p.dst, v...), ']')
		case name == "type" && kind(v) == '[':
			p.types(v, has)
		case name == "properties" && kind(v) == '{':
			p.dst = append(appendName(p.dst, k), '{')
			eachMember(v, func(k, v []byte) bool {
				p.dst = appendName(p.dst, k)
				p.schema(v, depth+1)
				return true
			})
			p.dst = append(p.dst, '}')
		case name == "items" || name == "anyOf" || name == "allOf" || name == "prefixItems":
			p.dst = appendName(p.dst, []byte(name))
			p.schemas(v, depth)
		default:
			p.dst = appendMember(p.dst, []byte(name), v)
		}
		return true
	})
	p.dst = append(p.dst, '}')
}

// schemas writes a schema or an array of them.
func (p *plainer) schemas(v []byte, depth int) {
	if kind(v) != '[' {
		p.schema(v, depth+1)
		return
	}
	p.dst = append(p.dst, '[')
	r := reader{b: v}
	r.enter('[')
	for i := 0; r.more(']'); i++ {
		if i > 0 {
			p.dst = append(p.dst, ',')
		}
		p.schema(r.value(), depth+1)
	}
	p.dst = append(p.dst, ']')
}

// types writes a list of types: one and null as that one, nullable; more as alternatives.
func (p *plainer) types(v []byte, has map[string]bool) {
	var others [][]byte
	null := false
	r := reader{b: v}
	r.enter('[')
	for r.more(']') {
		if t := r.value(); string(text(t)) == "null" {
			null = true
		} else {
			others = append(others, t)
		}
	}
	switch {
	case len(others) == 1 || len(others) > 1 && (has["anyOf"] || has["oneOf"]):
		p.dst = appendMember(p.dst, []byte("type"), others[0])
	case len(others) > 1:
		p.dst = append(appendName(p.dst, []byte("anyOf")), '[')
		for i, t := range others {
			if i > 0 {
				p.dst = append(p.dst, ',')
			}
			p.dst = append(p.dst, '{')
			p.dst = append(appendMember(p.dst, []byte("type"), t), '}')
		}
		p.dst = append(p.dst, ']')
	}
	if null && !has["nullable"] {
		p.dst = appendMember(p.dst, []byte("nullable"), []byte("true"))
	}
}

// ref writes the schema that a local reference names.
func (p *plainer) ref(ref string, depth int) {
	for _, r := range p.refs {
		if r == ref {
			p.dst = append(p.dst, anyObject...)
			return
		}
	}
	if p.defs == nil {
		p.defs = make(map[string][]byte)
		for _, list := range []string{"$defs", "definitions"} {
			eachMember(get(p.root, list), func(name, def []byte) bool {
				p.defs["#/"+list+"/"+string(name)] = def
				return true
			})
		}
	}
	target := p.defs[ref]
	if kind(target) != '{' {
		p.dst = append(p.dst, anyObject...)
		return
	}
	p.refs = append(p.refs, ref)
	p.schema(target, depth+1)
	p.refs = p.refs[:len(p.refs)-1]
}
