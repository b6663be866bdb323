package apexproxy_test

import (
	"bytes"
	"compress/gzip"
	"encoding/json"
	"fmt"
	"io"
	"math/rand/v2"
	"net/http"
	"strings"
	"testing"
	"unicode/utf8"

	"github.com/google/go-cmp/cmp"

	"github.com/loadchange/apexproxy/apexproxytest"
)

// identityRoutes are the ways in which a body can be copied. mapped ones carry the mapping
// cheap#dear.
var identityRoutes = []struct {
	name   string
	mode   string
	mapped bool
}{
	{"gateway", gatewayMode, false},
	{"gateway mapped", gatewayMode, true},
	{"passthrough", passthroughMode, false},
	{"passthrough mapped", passthroughMode, true},
}

// identityProvider takes no stream_options, so nothing is added to its requests.
const identityProvider = "mistral"

// echo answers with the bytes that arrived.
var echo = http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
	w.Header().Set("Content-Type", "application/json")
	_, _ = io.Copy(w, r.Body)
})

// checkIdentity sends doc along every route and holds what arrives, and what comes back, against an
// oracle that shares no code with the proxy. It reports on how many routes doc was sent on.
func checkIdentity(t *testing.T, rig *rig, doc []byte) (sent int) {
	t.Helper()
	models, object, valid := topModels(t, doc)
	for _, route := range identityRoutes {
		req := rig.request(t, route.mode, "/v1/chat/completions", string(doc))
		if route.mapped {
			req.Header.Set("X-Apex-Ai-Proxy-Mapping", "cheap#dear")
		}
		rig.upstream.Reset()
		res, answer := rig.do(t, req)
		arrived := rig.upstream.Requests()

		want := identityWant(doc, models, object, valid, route.mode == gatewayMode, route.mapped)
		fail := func(format string, args ...any) {
			t.Helper()
			t.Fatalf("%s: %s\nclient sent %s\nanswer %d %s", route.name, fmt.Sprintf(format, args...), clip(doc), res.StatusCode, clip(answer))
		}
		if res.StatusCode != http.StatusOK {
			if len(arrived) > 0 {
				fail("refused and sent")
			}
			if res.StatusCode != http.StatusBadRequest {
				fail("status is not 400")
			}
			if want.fate == mustPass {
				fail("refused")
			}
			continue
		}
		sent++
		if want.fate == mustRefuse {
			fail("not refused")
		}
		if len(arrived) != 1 || arrived[0].BodyErr != nil {
			fail("%d requests arrived", len(arrived))
		}
		got := arrived[0].Body
		if !bytes.Equal(answer, got) {
			fail("the answer is not what the upstream sent: %s", clip(got))
		}
		if arrived[0].ContentLength != int64(len(got)) {
			fail("Content-Length %d, body %d", arrived[0].ContentLength, len(got))
		}
		if want.span == [2]int{} {
			if !bytes.Equal(got, doc) {
				fail("changed: %s", clip(got))
			}
			continue
		}
		before, after := doc[:want.span[0]], doc[want.span[1]:]
		if len(got) < len(before)+len(after) || !bytes.HasPrefix(got, before) || !bytes.HasSuffix(got, after) {
			fail("more than the model's value changed: %s", clip(got))
		}
		value := got[len(before) : len(got)-len(after)]
		var model string
		if err := json.Unmarshal(value, &model); err != nil || want.fate == mustPass && model != want.model {
			fail("model %s, want %q", clip(value), want.model)
		}
	}
	return sent
}

type fate int

const (
	mustPass fate = iota
	mustRefuse
	mayPass // the provider table decides, or two decoders may read the model differently
)

type identityResult struct {
	fate  fate
	span  [2]int // where the one value that may change stands; zero: nothing may
	model string // what stands there afterwards
}

// identityWant says what the contract is for doc on one route.
func identityWant(doc []byte, models [][2]int, object, valid, gateway, mapped bool) identityResult {
	refuse := identityResult{fate: mustRefuse}
	if !valid || gateway && (!object || len(models) != 1) || mapped && len(models) > 1 {
		return refuse
	}
	if len(models) != 1 || !gateway && !mapped {
		return identityResult{}
	}
	span := models[0]
	value := doc[span[0]:span[1]]
	var s *string
	if err := json.Unmarshal(value, &s); err != nil || s == nil { // no string
		if gateway {
			return refuse
		}
		return identityResult{}
	}
	if !utf8.Valid(value) || strings.ContainsRune(*s, utf8.RuneError) {
		return identityResult{fate: mayPass, span: span}
	}
	name, suffix, hashed := strings.Cut(*s, "#")
	if gateway && (name == "" || suffix == "" || strings.Contains(suffix, "#")) {
		return refuse
	}
	if mapped && name == "cheap" {
		name = "dear"
	} else if !gateway {
		return identityResult{}
	}
	switch {
	case gateway && suffix != identityProvider:
		return identityResult{fate: mayPass, span: span}
	case !gateway && hashed:
		name += "#" + suffix
	}
	return identityResult{span: span, model: name}
}

// topModels finds with encoding/json where the values of the top-level members stand whose decoded
// name is model.
func topModels(t *testing.T, doc []byte) (values [][2]int, object, valid bool) {
	t.Helper()
	text := bytes.TrimPrefix(doc, []byte("\xEF\xBB\xBF"))
	if !json.Valid(text) {
		return nil, false, false
	}
	dec := json.NewDecoder(bytes.NewReader(text))
	dec.UseNumber()
	if tok, err := dec.Token(); err != nil || tok != json.Delim('{') {
		return nil, false, true
	}
	for dec.More() {
		name, err := dec.Token()
		var value json.RawMessage
		if err == nil {
			err = dec.Decode(&value)
		}
		if err != nil {
			t.Fatalf("oracle: %v in %s", err, clip(doc))
		}
		if name == "model" {
			end := int(dec.InputOffset()) + len(doc) - len(text)
			start := end - len(value)
			if !bytes.Equal(doc[start:end], value) {
				t.Fatalf("oracle: lost its place in %s", clip(doc))
			}
			values = append(values, [2]int{start, end})
		}
	}
	return values, true, true
}

// clip shortens a document for a message.
func clip(b []byte) string {
	if len(b) > 400 {
		return fmt.Sprintf("%q… (%d bytes)", b[:400], len(b))
	}
	return fmt.Sprintf("%q", b)
}

// pick returns one of the choices.
func pick[T any](r *rand.Rand, choices ...T) T { return choices[r.IntN(len(choices))] }

// randomDocument writes a valid JSON object with everything that a decoder and encoder would
// normalise.
func randomDocument(r *rand.Rand) []byte {
	var b bytes.Buffer
	space := func() {
		for range pick(r, 0, 0, 0, 1, 3) {
			b.WriteByte(pick[byte](r, ' ', '\t', '\n', '\r'))
		}
	}
	if r.IntN(8) == 0 {
		b.WriteString("\xEF\xBB\xBF")
	}
	space()
	b.WriteByte('{')
	members := r.IntN(7)
	models := pick(r, 0, 1, 1, 1, 1, 1, 1, 1, 2)
	for i := members + models; i > 0; i-- {
		space()
		if model := r.IntN(i) < models; model {
			models--
			b.WriteString(pick(r, `"model"`, `"model"`, `"model"`, `"mod\u0065l"`, `"\u006Dodel"`, `"\u006d\u006f\u0064\u0065\u006c"`))
			space()
			b.WriteByte(':')
			space()
			b.WriteString(pick(r, `"cheap#mistral"`, `"ch\u0065ap\u0023mistral"`, `"mistral-large#mistral"`, `"a\/b:c#mistral"`,
				`"<&>é\ud83d\ude00#mistral"`, `"cheap"`, `"cheap#a#b"`, `"#mistral"`, `""`, `null`, `{"model":"cheap#mistral"}`,
				`"`+strings.Repeat("long", r.IntN(2000))+`#mistral"`, "\"\u2028\\t\\u0000#mistral\""))
		} else {
			b.WriteString(pick(r, `"a"`, `"a"`, `"Model"`, `"model "`, `"mod\\u0065l"`, `"\u006dodels"`, `""`, `"messages"`, `"\ud800"`, `"é"`, "\"\\\"model\""))
			space()
			b.WriteByte(':')
			space()
			randomValue(r, &b, space, 4)
		}
		space()
		if i > 1 {
			b.WriteByte(',')
		}
	}
	b.WriteByte('}')
	space()
	return b.Bytes()
}

func randomValue(r *rand.Rand, b *bytes.Buffer, space func(), depth int) {
	if depth == 0 || r.IntN(3) > 0 {
		b.WriteString(pick(r, `9223372036854775808`, `18446744073709551616`, `1E400`, `-0.0`, `1.0`, `1e+2`, `0.1e-7`, `true`, `null`,
			`"\u003c\u003e\u0026"`, `"<>&"`, `"\ud800"`, `"\udc00\ud800x"`, `"\/\b\f"`, "\"\u2028\u2029\"", "\"caf\u00e9\"", "\"\x7f\xff\"",
			`"data: [DONE]\n\n"`, `{"model":"cheap#mistral","model":2}`, `"`+strings.Repeat("lorem \\n", r.IntN(3000))+`"`,
			strings.Repeat("[", 900)+strings.Repeat("]", 900)))
		return
	}
	n := r.IntN(4)
	if r.IntN(2) == 0 {
		b.WriteByte('[')
		for i := range n {
			if i > 0 {
				b.WriteByte(',')
			}
			space()
			randomValue(r, b, space, depth-1)
			space()
		}
		b.WriteByte(']')
		return
	}
	b.WriteByte('{')
	for i := range n {
		if i > 0 {
			b.WriteByte(',')
		}
		space()
		b.WriteString(pick(r, `"model"`, `"model"`, `"k"`, `"k"`, `""`))
		space()
		b.WriteByte(':')
		space()
		randomValue(r, b, space, depth-1)
		space()
	}
	b.WriteByte('}')
}

func TestIdentity(t *testing.T) {
	t.Parallel()
	rig := newRig(t, rigConfig{}, echo)
	seed := rand.Uint64()
	r := rand.New(rand.NewPCG(seed, 0))
	t.Logf("seed %d", seed)
	const documents = 300
	sent := 0
	for range documents {
		sent += checkIdentity(t, rig, randomDocument(r))
	}
	if all := documents * len(identityRoutes); sent < all/4 || sent == all {
		t.Errorf("%d of %d documents were sent: the generator has lost its variety", sent, all)
	}
}

func FuzzIdentity(f *testing.F) {
	r := rand.New(rand.NewPCG(1, 2))
	for range 20 {
		f.Add(randomDocument(r))
	}
	for _, doc := range []string{
		``, `null`, `[]`, `[{"model":"cheap#mistral"}]`, `"model"`, `{}`, `{"model":1}`, `{"model":"cheap#mistral"`, `{"model":"cheap#mistral"}}`,
		`{"model":"cheap#mistral","stream":true}`, `{"model":"cheap#mistral",}`, "{\"model\":\"cheap#mistral\"}\x00", `{"model":"\ud800cheap#mistral"}`,
	} {
		f.Add([]byte(doc))
	}
	rig := newRig(f, rigConfig{}, echo)
	f.Fuzz(func(t *testing.T, doc []byte) { checkIdentity(t, rig, doc) })
}

func TestIdentityHolds(t *testing.T) {
	t.Parallel()
	rig := newRig(t, rigConfig{}, echo)
	const model = `"cheap#mistral"`
	for _, doc := range []string{
		`{"model":` + model + `}`,
		"\xEF\xBB\xBF {\r\n\t\"model\" :\t" + model + " \n}\n",
		`{"a":1,"a":2,"model":` + model + `,"a":3}`,
		`{"seed":9223372036854775808,"t":1E400,"u":1.0,"model":` + model + `}`,
		`{"mod\u0065l":` + model + `,"s":"\u003c\ud800\/"}`,
		`{"nested":{"model":"other#groq","model":3},"list":[{"model":1}],"model":` + model + `}`,
		`{"deep":` + strings.Repeat(`{"model":[`, 4000) + strings.Repeat(`]}`, 4000) + `,"model":` + model + `}`,
		`{"model":` + model + `,"image":"` + strings.Repeat("QUJD", 1<<18) + `"}`,
		`{"image":"` + strings.Repeat("QUJD", 1<<18) + `","model":` + model + `}`,
	} {
		if sent := checkIdentity(t, rig, []byte(doc)); sent != len(identityRoutes) {
			t.Errorf("sent on %d of %d routes: %s", sent, len(identityRoutes), clip([]byte(doc)))
		}
	}
}

// Two members named model are read differently by different parsers, so a policy decided on one
// could be paid for on the other.
func TestTwoModelsAreRefused(t *testing.T) {
	t.Parallel()
	for _, doc := range []string{
		`{"model":"cheap#mistral","model":"dear#mistral"}`,
		`{"model":"cheap#mistral","model":"cheap#mistral"}`,
		`{"model":"cheap#mistral","mod\u0065l":"dear#mistral"}`,
		`{"\u006dodel":"cheap#mistral","x":[],"model":"dear#mistral"}`,
		`{"model":"cheap#mistral","model":null}`,
		`{"model":1,"model":"cheap#mistral"}`,
	} {
		for _, route := range identityRoutes {
			rig := newRig(t, rigConfig{}, echo)
			req := rig.request(t, route.mode, "/v1/chat/completions", doc)
			if route.mapped {
				req.Header.Set("X-Apex-Ai-Proxy-Mapping", "cheap#dear")
			}
			res, answer := rig.do(t, req)
			if route.mode == passthroughMode && !route.mapped {
				if res.StatusCode != http.StatusOK || string(answer) != doc {
					t.Errorf("%s: an opaque body did not pass: %d %s", route.name, res.StatusCode, answer)
				}
				continue
			}
			if res.StatusCode != http.StatusBadRequest || !strings.Contains(string(answer), "ambiguous_model") {
				t.Errorf("%s: %s: %d %s", route.name, doc, res.StatusCode, answer)
			}
			if n := rig.upstream.Connections(); n > 0 {
				t.Errorf("%s: %s: %d connections to the upstream", route.name, doc, n)
			}
		}
	}
}

func TestAnswerIdentity(t *testing.T) {
	t.Parallel()
	var zipped bytes.Buffer
	zw := gzip.NewWriter(&zipped)
	_, _ = io.WriteString(zw, `{"compressed":true}`)
	_ = zw.Close()
	answers := []struct {
		name   string
		status int
		body   string
		header []string
	}{
		{"odd JSON", 200, "\xEF\xBB\xBF{\r\n \"a\":1E400,\"a\":9223372036854775808,\"s\":\"\\u003c\\ud800<\"} \n", nil},
		{"not UTF-8", 200, "\xff\xfe\x00{\"model\":\"x\"", nil},
		{"empty", 200, "", nil},
		{"no content type of ours", 200, "plain", []string{"X-Upstream", "1"}},
		{"created", 201, `{"model":"a#b"}`, nil},
		{"gzip", 200, zipped.String(), []string{"Content-Encoding", "gzip"}},
		{"a provider's error", 400, "{ \"error\": {\"message\":\"no\\u003c\",\"type\":\"invalid_request_error\"} }\n", nil},
		{"an error that is not JSON", 503, "<html>overloaded</html>", []string{"Retry-After", "7"}},
		{"a long error", 529, `{"error":"` + strings.Repeat("long ", 50000) + `"}`, nil},
	}
	for _, answer := range answers {
		for _, mode := range []string{gatewayMode, passthroughMode} {
			t.Run(answer.name+"/"+mode, func(t *testing.T) {
				t.Parallel()
				rig := newRig(t, rigConfig{}, apexproxytest.JSON(answer.status, answer.body, answer.header...))
				req := rig.request(t, mode, "/v1/chat/completions", `{"model":"m#mistral"}`)
				req.Header.Set("Accept-Encoding", "gzip")
				res, got := rig.do(t, req)
				if res.StatusCode != answer.status {
					t.Errorf("status %d, want %d", res.StatusCode, answer.status)
				}
				if diff := cmp.Diff(answer.body, string(got)); diff != "" {
					t.Errorf("body (-sent +received):\n%s", diff)
				}
				for i := 0; i < len(answer.header); i += 2 {
					if v := res.Header.Get(answer.header[i]); v != answer.header[i+1] {
						t.Errorf("%s: %q, want %q", answer.header[i], v, answer.header[i+1])
					}
				}
			})
		}
	}
}
