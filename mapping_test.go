package apexproxy_test

import (
	"bytes"
	"compress/gzip"
	"io"
	"net/http"
	"strconv"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/loadchange/apexproxy"
	"github.com/loadchange/apexproxy/apexproxytest"
)

const mappingHeader = "X-APEX-AI-PROXY-MAPPING"

// TestMapping: which model goes where, in both modes. A row's model is the client's, gateway is
// "provider/path model" or a refusal's message, and passthrough is the model there.
func TestMapping(t *testing.T) {
	t.Parallel()
	const (
		openAI  = "/openai/chat/completions "
		grok    = "/grok/v1/chat/completions "
		compat  = "/compat/chat/completions "
		missing = "names no provider"
	)
	for _, tt := range []struct {
		name    string
		header  []string // one X-APEX-AI-PROXY-MAPPING each
		option  string
		model   string
		gateway string
		passby  string
	}{
		{"none", nil, "", "a#openai", openAI + "a", "a#openai"},
		{"simple", []string{"a#b"}, "", "a#openai", openAI + "b", "b#openai"},
		{"by option", nil, "a#b", "a#openai", openAI + "b", "b#openai"},
		{"no match", []string{"a#b"}, "c#d", "x#openai", openAI + "x", "x#openai"},
		{"exact: longer", []string{"a#b"}, "", "aa#openai", openAI + "aa", "aa#openai"},
		{"exact: case", []string{"a#b"}, "", "A#openai", openAI + "A", "A#openai"},
		{"exact: space in the model", []string{"a#b"}, "", " a#openai", openAI + " a", " a#openai"},
		{"header before option", []string{"a#h"}, "a#o", "a#openai", openAI + "h", "h#openai"},
		{"option for what the header leaves", []string{"a#h"}, "b#o", "b#openai", openAI + "o", "o#openai"},
		{"no chain in the header", []string{"a#b,b#c"}, "", "a#openai", openAI + "b", "b#openai"},
		{"no chain from header to option", []string{"a#b"}, "b#c", "a#openai", openAI + "b", "b#openai"},
		{"no chain in the option", nil, "a#b,b#c", "a#openai", openAI + "b", "b#openai"},
		{"swap", []string{"a#b,b#a"}, "", "b#openai", openAI + "a", "a#openai"},
		{"later counts", []string{"a#b,a#c"}, "", "a#openai", openAI + "c", "c#openai"},
		{"two header lines", []string{"a#b", "c#d"}, "", "c#openai", openAI + "d", "d#openai"},
		{"spaces", []string{" \t a # b \t,  c#d "}, "", "a#openai", openAI + "b", "b#openai"},
		{"empty entries", []string{",, ,a#b,\t,"}, "", "a#openai", openAI + "b", "b#openai"},
		{"empty header", []string{""}, "a#o", "a#openai", openAI + "o", "o#openai"},
		{"spaces inside", []string{"my model#your model"}, "", "my model#openai", openAI + "your model", "your model#openai"},
		{"odd characters", []string{`a"\<é#b"\<é`}, "", `a"\<é#openai`, openAI + `b"\<é`, `b"\<é#openai`},
		{"path in the target", []string{"a#meta/llama:free@1"}, "", "a#openai", openAI + "meta/llama:free@1", "meta/llama:free@1#openai"},
		{"target's provider", []string{"a#grok-4#grok"}, "", "a#openai", grok + "grok-4", "grok-4#openai"},
		{"target's provider, client has none", []string{"a#grok-4#grok"}, "", "a", grok + "grok-4", "grok-4"},
		{"target's provider by option", nil, "a#grok-4#grok", "a", grok + "grok-4", "grok-4"},
		{"target's provider, spaces", []string{"a # grok-4 # grok "}, "", "a", grok + "grok-4", "grok-4"},
		{"target's provider on compat", []string{"a#b#dynamic"}, "", "a", compat + "dynamic/b", "b"},
		{"target's provider unknown", []string{"a#b#nobody"}, "", "a#openai", `provider \"nobody\" is unknown`, "b#openai"},
		{"no provider at all", []string{"a#b"}, "", "a", missing, "b"},
		{"no match, no provider", []string{"a#b"}, "", "x", missing, "x"},
		{"not on the whole model", []string{"a#b#grok"}, "", "x#a", `provider \"a\" is unknown`, "x#a"},
		{"same name", []string{"a#a"}, "", "a#openai", openAI + "a", "a#openai"},
		{"model opaque in passthrough", []string{"a#b"}, "", "a#b#c", "more than one #", "b#b#c"},
		{"empty suffix", []string{"a#b"}, "", "a#", missing, "b#"},
		{"longer", []string{"a#" + strings.Repeat("long-", 100)}, "", "a#openai", openAI + strings.Repeat("long-", 100), strings.Repeat("long-", 100) + "#openai"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			g := newGateway(t, apexproxytest.GatewayConfig{})
			up := newUpstream(t)
			proxy := newProxy(t, append(reaching(up), apexproxy.WithGateway(via(g)), apexproxy.WithMapping(tt.option))...)
			var hs []string
			for _, v := range tt.header {
				hs = append(hs, mappingHeader, v)
			}
			bodyWith := func(model string) string {
				return `{"x":{"model":"a"}, "model" : ` + quoted(model) + `,"model2":"a","n":1E400}`
			}
			refusal := post(t, proxy+"/v1/chat/completions", bodyWith(tt.model), append([]string{"X-Api-Key", gatewayToken}, hs...)...)
			var got []string
			for _, r := range sentToGateway(g) {
				got = append(got, strings.TrimPrefix(r.URI, "/v1/test-account/test-gateway"), r.Body)
			}
			var want []string
			if path, model, ok := strings.Cut(tt.gateway, " "); ok && strings.HasPrefix(tt.gateway, "/") {
				want = []string{path, bodyWith(model)}
			} else if refusal.Status != 400 || !strings.Contains(refusal.Body, tt.gateway) {
				t.Errorf("gateway: got %d %s, want 400 with %q", refusal.Status, refusal.Body, tt.gateway)
			}
			if diff := cmp.Diff(want, got); diff != "" {
				t.Errorf("gateway (-want +got):\n%s", diff)
			}
			post(t, proxy+"/v1/chat/completions", bodyWith(tt.model), append([]string{providerHeader, up.Host}, hs...)...)
			got = nil
			for _, r := range sentToUpstream(up) {
				got = append(got, r.Body)
			}
			if diff := cmp.Diff([]string{bodyWith(tt.passby)}, got); diff != "" {
				t.Errorf("passthrough (-want +got):\n%s", diff)
			}
		})
	}
}

// badMappings are refused with a message that names the entry.
var badMappings = map[string]string{
	"a":                      `"a"`,
	"#":                      `"#"`,
	"a#":                     `"a#"`,
	"#b":                     `"#b"`,
	" # b":                   `"# b"`,
	"a# ":                    `"a#"`,
	"a##":                    `"a##"`,
	"a##grok":                `"a##grok"`,
	"a#b#":                   `"a#b#"`,
	"a#b# ":                  `"a#b#"`,
	"a#b#c#d":                `"a#b#c#d"`,
	"a#b#c#":                 `"a#b#c#"`,
	"a#b,c":                  `"c"`,
	"a#b , c d ,e":           `"c d"`,
	"a=b":                    `"a=b"`,
	"a#b;c#d#e#f":            `"a#b;c#d#e#f"`,
	"a:b->c":                 `"a:b->c"`,
	"\"":                     `"\""`,
	strings.Repeat("x", 100): `"` + strings.Repeat("x", 80) + `…"`,
}

func TestBadMapping(t *testing.T) {
	t.Parallel()
	g := newGateway(t, apexproxytest.GatewayConfig{})
	up := newUpstream(t)
	proxy := newProxy(t, append(reaching(up), apexproxy.WithGateway(via(g)))...)
	for value, entry := range badMappings {
		message := "mapping entry " + entry + " is not from#to or from#to#provider"
		for _, call := range []answer{
			post(t, proxy+"/v1/chat/completions", `{"model":"m#openai"}`, mappingHeader, value, "X-Api-Key", gatewayToken),
			post(t, proxy+"/v1/messages", `{"model":"m"}`, mappingHeader, value, providerHeader, up.Host),
			do(t, "GET", proxy+"/v1/models", "", mappingHeader, value, "X-Api-Key", gatewayToken),
		} {
			if call.Status != 400 || !strings.Contains(call.Body, escaped(mappingHeader+": "+message)) {
				t.Errorf("%q: got %d %s, want 400 with %q", value, call.Status, call.Body, message)
			}
		}
		if _, err := apexproxy.New(apexproxy.WithGateway(via(g)), apexproxy.WithMapping(value)); err == nil || !strings.Contains(err.Error(), message) {
			t.Errorf("WithMapping(%q): %v, want %q in it", value, err, message)
		}
	}
	wantUntouched(t, g)
	if n := up.Connections(); n != 0 {
		t.Errorf("%d connections upstream", n)
	}
}

// TestPassthroughOpaque: any valid JSON passes, and what has no string for a model is left alone,
// also when a mapping is in force.
func TestPassthroughOpaque(t *testing.T) {
	t.Parallel()
	up := newUpstream(t, apexproxytest.JSON(200, `{}`))
	proxy := newProxy(t, reaching(up)...)
	for _, tt := range []struct {
		body    string
		plain   string // sent on without a mapping; empty: refused
		mapped  string // sent on with a#b in force; empty: refused
		message string
	}{
		{`{"model":7}`, `{"model":7}`, `{"model":7}`, ""},
		{`{"model":null}`, `{"model":null}`, `{"model":null}`, ""},
		{`{"model":["a"]}`, `{"model":["a"]}`, `{"model":["a"]}`, ""},
		{`{"model":{"model":"a"}}`, `{"model":{"model":"a"}}`, `{"model":{"model":"a"}}`, ""},
		{`{"model":""}`, `{"model":""}`, `{"model":""}`, ""},
		{`{}`, `{}`, `{}`, ""},
		{` [ "model", "a" ] `, ` [ "model", "a" ] `, ` [ "model", "a" ] `, ""},
		{`"a"`, `"a"`, `"a"`, ""},
		{`1E400`, `1E400`, `1E400`, ""},
		{`null`, `null`, `null`, ""},
		{"\uFEFF{\"model\":\"a\"}", "\uFEFF{\"model\":\"a\"}", "\uFEFF{\"model\":\"b\"}", ""},
		{`{"m\u006fdel":"\u0061"}`, `{"m\u006fdel":"\u0061"}`, `{"m\u006fdel":"b"}`, ""},
		{`{"model":"a","model":"a"}`, `{"model":"a","model":"a"}`, "", `the request body has more than one \"model\": send it once`},
		{`{"model":"x","mode\u006c":"y"}`, `{"model":"x","mode\u006c":"y"}`, "", `the request body has more than one \"model\": send it once`},
		{`{"model":1,"model":2}`, `{"model":1,"model":2}`, "", `the request body has more than one \"model\": send it once`},
		{`{"model":"a"`, "", "", "the request body is not valid JSON at byte 12"},
		{`{"model":"a"} x`, "", "", "the request body is not valid JSON at byte 14"},
		{`{'model':'a'}`, "", "", "the request body is not valid JSON at byte 1"},
		{`NaN`, "", "", "the request body is not valid JSON at byte 0"},
		{`+1`, "", "", "the request body is not valid JSON at byte 0"},
		{"{\"a\":\"\n\"}", "", "", "the request body is not valid JSON at byte 6"},
		{"   ", "", "", "the request body is not valid JSON at byte 3"},
	} {
		for mapping, want := range map[string]string{"": tt.plain, "a#b": tt.mapped} {
			up.Reset()
			got := post(t, proxy+"/v1/embeddings", tt.body, providerHeader, up.Host, mappingHeader, mapping)
			if want == "" {
				if got.Status != 400 || !strings.Contains(got.Body, tt.message) || len(up.Requests()) != 0 {
					t.Errorf("%s with %q: got %d %s, want 400 with %q", tt.body, mapping, got.Status, got.Body, tt.message)
				}
				continue
			}
			var bodies []string
			for _, r := range up.Requests() {
				bodies = append(bodies, string(r.Body))
			}
			if diff := cmp.Diff([]string{want}, bodies); diff != "" {
				t.Errorf("%s with %q (-want +got):\n%s", tt.body, mapping, diff)
			}
		}
	}
}

func gzipOf(tb testing.TB, s string) string {
	tb.Helper()
	var b bytes.Buffer
	w := gzip.NewWriter(&b)
	if _, err := io.WriteString(w, s); err != nil {
		tb.Fatal(err)
	}
	if err := w.Close(); err != nil {
		tb.Fatal(err)
	}
	return b.String()
}

// TestContentEncoding: a compressed body is inflated where the model must be read, sent plain where
// it was rewritten, and otherwise as it came.
func TestContentEncoding(t *testing.T) {
	t.Parallel()
	const (
		inGateway = iota
		inPassthrough
		mapped // in passthrough
	)
	const body = `{ "model":"a#openai", "n":1E400 }`
	zipped := gzipOf(t, body)
	cut := zipped[:len(zipped)-9]
	bomb := gzipOf(t, `{"model":"a#openai","x":"`+strings.Repeat("x", 200_000)+`"}`)
	unmapped := gzipOf(t, `{"model":"x"}`)
	zstd := "\x28\xb5\x2f\xfd\x00\x00"
	type got struct {
		Status         int
		Encoding, Body string // at the upstream
	}
	for _, tt := range []struct {
		name     string
		mode     int
		encoding []string
		body     string
		want     got
		message  string
	}{
		{"gateway, gzip", inGateway, []string{"gzip"}, zipped, got{200, "", `{ "model":"a", "n":1E400 }`}, ""},
		{"gateway, GZIP", inGateway, []string{" GZip "}, zipped, got{200, "", `{ "model":"a", "n":1E400 }`}, ""},
		{"gateway, x-gzip", inGateway, []string{"x-gzip"}, zipped, got{200, "", `{ "model":"a", "n":1E400 }`}, ""},
		{"gateway, identity", inGateway, []string{"identity"}, body, got{200, "", `{ "model":"a", "n":1E400 }`}, ""},
		{"gateway, empty", inGateway, []string{""}, body, got{200, "", `{ "model":"a", "n":1E400 }`}, ""},
		{"gateway, two members", inGateway, []string{"gzip"}, gzipOf(t, `{"model":`) + gzipOf(t, `"a#openai"}`), got{200, "", `{"model":"a"}`}, ""},
		{"gateway, not gzip", inGateway, []string{"gzip"}, body, got{Status: 400}, "not the gzip that Content-Encoding says"},
		{"gateway, cut off", inGateway, []string{"gzip"}, cut, got{Status: 400}, "not the gzip that Content-Encoding says"},
		{"gateway, junk behind", inGateway, []string{"gzip"}, zipped + "junk", got{Status: 400}, "not the gzip that Content-Encoding says"},
		{"gateway, empty body", inGateway, []string{"gzip"}, "", got{Status: 400}, "not the gzip that Content-Encoding says"},
		{"gateway, bomb", inGateway, []string{"gzip"}, bomb, got{Status: 413}, "larger than 100000 bytes"},
		{"gateway, gzip but not said", inGateway, nil, zipped, got{Status: 400}, "not valid JSON at byte 0"},
		{"gateway, zstd", inGateway, []string{"zstd"}, zstd, got{Status: 415}, `Content-Encoding \"zstd\" cannot be read here`},
		{"gateway, br", inGateway, []string{"br"}, "x", got{Status: 415}, `Content-Encoding \"br\" cannot be read here`},
		{"gateway, deflate", inGateway, []string{"deflate"}, "x", got{Status: 415}, `Content-Encoding \"deflate\" cannot be read here`},
		{"gateway, two encodings", inGateway, []string{"gzip, gzip"}, gzipOf(t, zipped), got{Status: 415}, `Content-Encoding \"gzip, gzip\" cannot be read here`},
		{"gateway, two headers", inGateway, []string{"gzip", "br"}, zipped, got{Status: 415}, `cannot be read here`},
		{"passthrough, gzip", inPassthrough, []string{"gzip"}, zipped, got{200, "gzip", zipped}, ""},
		{"passthrough, zstd", inPassthrough, []string{"zstd"}, zstd, got{200, "zstd", zstd}, ""},
		{"passthrough, br", inPassthrough, []string{"br"}, "br", got{200, "br", "br"}, ""},
		{"passthrough, not gzip", inPassthrough, []string{"gzip"}, "x", got{200, "gzip", "x"}, ""},
		{"passthrough, spelling kept", inPassthrough, []string{"GZip"}, zipped, got{200, "GZip", zipped}, ""},
		{"mapped, gzip", mapped, []string{"gzip"}, zipped, got{200, "", `{ "model":"b#openai", "n":1E400 }`}, ""},
		{"mapped, gzip, no match", mapped, []string{"gzip"}, unmapped, got{200, "gzip", unmapped}, ""},
		{"mapped, not gzip", mapped, []string{"gzip"}, "x", got{Status: 400}, "not the gzip that Content-Encoding says"},
		{"mapped, bomb", mapped, []string{"gzip"}, bomb, got{Status: 413}, "larger than 100000 bytes"},
		{"mapped, zstd", mapped, []string{"zstd"}, zstd, got{Status: 415}, `Content-Encoding \"zstd\" cannot be read here`},
	} {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			up := newUpstream(t, apexproxytest.JSON(200, `{}`))
			proxy := newProxy(t, append(reaching(up), apexproxy.WithMaxRequestBytes(100_000),
				apexproxy.WithGateway(apexproxy.Gateway{BaseURL: up.URL, Token: gatewayToken}))...)
			var hs []string
			for _, e := range tt.encoding {
				hs = append(hs, "Content-Encoding", e)
			}
			switch tt.mode {
			case inGateway:
				hs = append(hs, "X-Api-Key", gatewayToken)
			case mapped:
				hs = append(hs, providerHeader, up.Host, mappingHeader, "a#b")
			default:
				hs = append(hs, providerHeader, up.Host)
			}
			res := post(t, proxy+"/v1/chat/completions", tt.body, hs...)
			have := got{Status: res.Status}
			for _, r := range up.Requests() {
				have.Encoding, have.Body = strings.Join(r.Header["Content-Encoding"], "|"), string(r.Body)
				if r.ContentLength != int64(len(r.Body)) {
					t.Errorf("Content-Length %d for %d bytes", r.ContentLength, len(r.Body))
				}
			}
			if diff := cmp.Diff(tt.want, have); diff != "" {
				t.Errorf("(-want +got):\n%s", diff)
			}
			if tt.message != "" && !strings.Contains(res.Body, tt.message) {
				t.Errorf("got %s, want %q in it", res.Body, tt.message)
			}
			if accepts := res.Header.Get("Accept-Encoding"); (res.Status == 415) != (accepts != "") {
				t.Errorf("%d with Accept-Encoding %q", res.Status, accepts)
			}
		})
	}
}

// TestMaxRequestBytes: the bound counts bytes as they arrive, declared or not.
func TestMaxRequestBytes(t *testing.T) {
	t.Parallel()
	up := newUpstream(t, apexproxytest.JSON(200, `{}`))
	const limit = 5000
	proxy := newProxy(t, append(reaching(up), apexproxy.WithMaxRequestBytes(limit))...)
	for _, size := range []int{1, 100, limit - 1, limit, limit + 1, 2 * limit} {
		body := "1" + strings.Repeat(" ", size-1)
		for _, chunked := range []bool{false, true} {
			up.Reset()
			req, err := http.NewRequestWithContext(t.Context(), "POST", proxy+"/v1/responses", strings.NewReader(body))
			if err != nil {
				t.Fatal(err)
			}
			if chunked {
				req.ContentLength = -1
			}
			req.Header.Set(providerHeader, up.Host)
			res, err := client.Do(req)
			if err != nil {
				t.Fatalf("%d bytes: %v", size, err)
			}
			res.Body.Close()
			var bodies []string
			for _, r := range up.Requests() {
				bodies = append(bodies, string(r.Body))
			}
			wantStatus, wantBodies := 200, []string{body}
			if size > limit {
				wantStatus, wantBodies = 413, nil
			}
			if diff := cmp.Diff(wantBodies, bodies); diff != "" || res.StatusCode != wantStatus {
				t.Errorf("%d bytes, chunked %t: got %d, want %d; bodies upstream (-want +got):\n%s", size, chunked, res.StatusCode, wantStatus, diff)
			}
		}
	}
	got := raw(t, proxy, "", "POST /v1/responses HTTP/1.1", "Host: x", providerHeader+": "+up.Host, "Content-Length: "+strconv.Itoa(1<<62))
	if got.Status != 413 {
		t.Errorf("a huge Content-Length: got %d %s, want 413", got.Status, got.Body)
	}
}
