package convert

import (
	"bytes"
	"slices"

	"github.com/loadchange/apexproxy/internal/rawjson"
)

// maxSchemaDepth is how deep a schema is looked into. Real ones stay below 20.
const maxSchemaDepth = 32

// isStrict reports whether a schema obeys OpenAI's rules for strict: every object is closed, and
// all its properties are required. It is never made so: that would change what the tool accepts.
func isStrict(schema rawjson.Value, depth int) bool {
	if !schema.IsObject() {
		return true
	}
	if depth > maxSchemaDepth {
		return false
	}
	var object, closed bool
	var properties, required rawjson.Value
	for name, v := range schema.Members() {
		switch string(name) {
		case "type":
			object = object || bytes.Contains(v, []byte(`"object"`))
		case "additionalProperties":
			closed = v.IsFalse()
		case "properties":
			object, properties = true, v
		case "required":
			required = v
		case "oneOf", "allOf", "not", "if", "then", "else", "patternProperties":
			return false
		}
		if !eachSubschema(string(name), v, func(s rawjson.Value) bool { return isStrict(s, depth+1) }) {
			return false
		}
	}
	return !object || closed && allNamed(properties, required)
}

// eachSubschema calls f for the schemas inside of a keyword's value until one fails, and reports
// whether all passed. An anyOf that is no list fails.
func eachSubschema(keyword string, v rawjson.Value, f func(rawjson.Value) bool) bool {
	switch keyword {
	case "properties", "$defs", "definitions":
		for _, s := range v.Members() {
			if !f(s) {
				return false
			}
		}
	case "items":
		return f(v)
	case "anyOf":
		for s := range v.Elements() {
			if !f(s) {
				return false
			}
		}
		return v.IsArray()
	}
	return true
}

// allNamed reports whether a list holds the name of every member.
func allNamed(members, list rawjson.Value) bool {
	names := make(map[string]bool)
	for e := range list.Elements() {
		names[string(e.Decode())] = true
	}
	for name := range members.Members() {
		if !names[string(name)] {
			return false
		}
	}
	return true
}

// appendParameters appends a schema as a function's parameters: OpenAI wants a type, and properties
// with type object. An absent schema takes anything.
func appendParameters(dst []byte, schema rawjson.Value) []byte {
	typ, properties := schema.Get("type"), schema.Get("properties")
	object := typ.IsNull() || typ.Is("object")
	if !typ.IsNull() && (!object || properties.IsObject()) {
		return append(dst, schema...)
	}
	dst = append(dst, '{')
	if typ.IsNull() {
		dst = append(dst, `"type":"object"`...)
	}
	for name, v := range schema.Members() {
		if string(name) == "type" && typ.IsNull() || string(name) == "properties" && !properties.IsObject() {
			continue
		}
		dst = appendMember(dst, name, v)
	}
	if object && !properties.IsObject() {
		dst = appendMember(dst, []byte("properties"), rawjson.Value("{}"))
	}
	return append(dst, '}')
}

// appendMember appends a member of an object that is being written, with its comma.
func appendMember(dst, name []byte, v rawjson.Value) []byte {
	return append(appendName(dst, name), v...)
}

func appendName(dst, name []byte) []byte {
	if c := dst[len(dst)-1]; c != '{' {
		dst = append(dst, ',')
	}
	return append(rawjson.AppendString(dst, name), ':')
}

// notGemini are the keywords that Gemini's subset of JSON Schema lacks.
var notGemini = map[string]bool{
	"$schema": true, "$id": true, "$comment": true, "$defs": true, "definitions": true, "additionalProperties": true,
	"unevaluatedProperties": true, "propertyNames": true, "patternProperties": true, "dependentRequired": true, "not": true,
	"if": true, "then": true, "else": true, "default": true, "examples": true, "deprecated": true, "readOnly": true,
	"writeOnly": true, "contentEncoding": true, "contentMediaType": true, "multipleOf": true, "uniqueItems": true,
}

// geminiNames are the keywords that it says differently.
var geminiNames = map[string]string{"const": "enum", "oneOf": "anyOf", "exclusiveMinimum": "minimum", "exclusiveMaximum": "maximum"}

// maxGeminiSchema bounds what references may add to a schema, and four times that what they may add
// to a request.
const maxGeminiSchema = 256 << 10

// refBudget bounds the work of resolving $ref in one request: nested references grow exponentially,
// and a schema of a kilobyte can say what takes hours.
type refBudget struct {
	added int // bytes
	read  int // bytes
}

func newRefBudget(body int) refBudget {
	// Without references no byte is read more often than it is deep.
	return refBudget{added: 4 * maxGeminiSchema, read: maxSchemaDepth * (body + maxGeminiSchema)}
}

var anyObject = []byte(`{"type":"object"}`)

// geminiSchema rewrites one schema for Gemini.
type geminiSchema struct {
	root rawjson.Value
	defs map[string]rawjson.Value // by reference; nil until the first is met
	refs []string                 // the references being resolved
	dst  []byte
	most int
	left *refBudget
}

// appendGeminiSchema appends schema rewritten to the subset of JSON Schema that Gemini takes:
// unknown keywords go, others are said differently, local references are resolved, one that leads
// back to itself is any object.
func appendGeminiSchema(dst []byte, schema rawjson.Value, left *refBudget) []byte {
	own := len(dst) + len(schema)
	g := geminiSchema{root: schema, dst: dst, most: own + min(maxGeminiSchema, left.added), left: left}
	g.schema(schema, 0)
	left.added = max(0, left.added-max(0, len(g.dst)-own))
	return g.dst
}

func (g *geminiSchema) schema(s rawjson.Value, depth int) {
	if !s.IsObject() {
		g.dst = append(g.dst, s...)
		return
	}
	g.left.read -= len(s)
	if depth > maxSchemaDepth || len(g.dst) > g.most || g.left.read < 0 {
		g.dst = append(g.dst, anyObject...)
		return
	}
	if ref := s.Get("$ref"); ref.IsString() {
		g.ref(string(ref.Decode()), depth)
		return
	}
	has, done := make(map[string]bool), make(map[string]bool)
	for k := range s.Members() {
		has[string(k)] = true
	}
	g.dst = append(g.dst, '{')
	for k, v := range s.Members() {
		name, ok := geminiName(string(k), v, has)
		if !ok || done[name] {
			continue
		}
		done[name] = true
		g.member(string(k), name, v, has, depth)
	}
	g.dst = append(g.dst, '}')
}

// geminiName returns how Gemini spells a keyword, and whether it has it. has holds the keywords of
// the same schema: a word of its own beats one that would be spelled like it.
func geminiName(keyword string, v rawjson.Value, has map[string]bool) (name string, ok bool) {
	name, renamed := geminiNames[keyword]
	if !renamed {
		name = keyword
	}
	switch {
	case notGemini[name], renamed && has[name]:
		return "", false
	case keyword == "exclusiveMinimum", keyword == "exclusiveMaximum":
		return name, !v.IsTrue() && !v.IsFalse() // JSON Schema draft 4 has a flag there
	case keyword == "format":
		return name, v.Is("enum") || v.Is("date-time")
	}
	return name, true
}

func (g *geminiSchema) member(keyword, name string, v rawjson.Value, has map[string]bool, depth int) {
	switch {
	case keyword == "const":
		g.dst = append(appendName(g.dst, []byte("enum")), '[')
		g.dst = append(append(g.dst, v...), ']')
	case name == "type" && v.IsArray():
		g.types(v, has)
	case name == "properties" && v.IsObject():
		g.dst = append(appendName(g.dst, []byte(name)), '{')
		for k, s := range v.Members() {
			g.dst = appendName(g.dst, k)
			g.schema(s, depth+1)
		}
		g.dst = append(g.dst, '}')
	case name == "items" || name == "anyOf" || name == "allOf" || name == "prefixItems":
		g.dst = appendName(g.dst, []byte(name))
		g.schemas(v, depth)
	default:
		g.dst = appendMember(g.dst, []byte(name), v)
	}
}

// schemas writes a schema or an array of them.
func (g *geminiSchema) schemas(v rawjson.Value, depth int) {
	if !v.IsArray() {
		g.schema(v, depth+1)
		return
	}
	g.dst = append(g.dst, '[')
	for s := range v.Elements() {
		g.dst = comma(g.dst, '[')
		g.schema(s, depth+1)
	}
	g.dst = append(g.dst, ']')
}

// comma appends a comma unless dst has just opened a container with that bracket.
func comma(dst []byte, bracket byte) []byte {
	if dst[len(dst)-1] == bracket {
		return dst
	}
	return append(dst, ',')
}

// types writes a list of types: one and null as that one, nullable; more as alternatives.
func (g *geminiSchema) types(v rawjson.Value, has map[string]bool) {
	var others []rawjson.Value
	null := false
	for t := range v.Elements() {
		if t.Is("null") {
			null = true
		} else {
			others = append(others, t)
		}
	}
	switch {
	case len(others) == 1 || len(others) > 1 && (has["anyOf"] || has["oneOf"]):
		g.dst = appendMember(g.dst, []byte("type"), others[0])
	case len(others) > 1:
		g.dst = append(appendName(g.dst, []byte("anyOf")), '[')
		for _, t := range others {
			g.dst = append(comma(g.dst, '['), '{')
			g.dst = append(appendMember(g.dst, []byte("type"), t), '}')
		}
		g.dst = append(g.dst, ']')
	}
	if null && !has["nullable"] {
		g.dst = appendMember(g.dst, []byte("nullable"), rawjson.Value("true"))
	}
}

// ref writes the schema that a local reference names.
func (g *geminiSchema) ref(ref string, depth int) {
	if g.defs == nil {
		g.defs = make(map[string]rawjson.Value)
		for _, list := range []string{"$defs", "definitions"} {
			for name, def := range g.root.Get(list).Members() {
				g.defs["#/"+list+"/"+string(name)] = def
			}
		}
	}
	target := g.defs[ref]
	if !target.IsObject() || slices.Contains(g.refs, ref) {
		g.dst = append(g.dst, anyObject...)
		return
	}
	g.refs = append(g.refs, ref)
	g.schema(target, depth+1)
	g.refs = g.refs[:len(g.refs)-1]
}
