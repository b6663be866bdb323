package apexproxy_test

import (
	"context"
	"fmt"
	"net"
	"net/http"
	"net/http/httptest"
	"net/url"
	"strconv"
	"strings"
	"sync/atomic"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/loadchange/apexproxy"
	"github.com/loadchange/apexproxy/apexproxytest"
)

const providerHeader = "X-APEX-AI-PROXY-PROVIDER"

// TestPassthroughRequest: URL, header and body as a TLS upstream gets them.
func TestPassthroughRequest(t *testing.T) {
	t.Parallel()
	// Not what the gateway would take, and no second model to be refused.
	const body = "\uFEFF { \"n\":1E400,\"model\" :\"a#b#c\",\"model\":2, \"x\":\"\\u003c\" }\n"
	for _, tt := range []struct {
		provider, path string // HOST stands for the upstream's host:port
		want           string // URI; empty: path
	}{
		{provider: "HOST", path: "/v1/chat/completions"},
		{provider: "https://HOST", path: "/v1/messages"},
		{provider: "HTTPS://HOST/", path: "/v1/messages/count_tokens"},
		{provider: " HOST	", path: "/v1/embeddings"},
		{provider: "HOST/api", path: "/v1/chat/completions", want: "/api/v1/chat/completions"},
		{provider: "HOST/api///", path: "//v1/responses", want: "/api//v1/responses"},
		{provider: "https://HOST/a//b/%2F%41", path: "/v1/embeddings", want: "/a//b/%2F%41/v1/embeddings"},
		{provider: "HOST/a.b/..c/...", path: "/embeddings", want: "/a.b/..c/.../embeddings"},
		{provider: "HOST/a:b;c=d,e!$&'()*+~_-", path: "/embeddings", want: "/a:b;c=d,e!$&'()*+~_-/embeddings"},
		{provider: "HOST", path: "/A%2fb/%7Euser/a%20b//v1/chat/completions"},
		{provider: "HOST", path: "/v1/chat/completions?"},
		{provider: "HOST", path: "/v1/chat/completions?key=k&api_key=k&token=t&api-version=1&b=%2F+%zz&a=1&a=2&=&"},
		{provider: "HOST/v1", path: "/embeddings?a=1;b=2", want: "/v1/embeddings?a=1;b=2"},
	} {
		t.Run(tt.provider+" "+tt.path, func(t *testing.T) {
			t.Parallel()
			up := newUpstream(t)
			proxy := newProxy(t, reaching(up)...)
			got := post(t, proxy+tt.path, body,
				providerHeader, strings.ReplaceAll(tt.provider, "HOST", up.Host),
				"Authorization", "Bearer "+clientKey, "User-Agent", "test/1", "Accept-Encoding", "br")
			want := []sent{{
				Method: "POST", URI: tt.want, Host: up.Host, Body: body,
				Header: headers("Authorization", "Bearer "+clientKey, "User-Agent", "test/1", "Accept-Encoding", "br",
					"Content-Type", "application/json", "Content-Length", strconv.Itoa(len(body))),
			}}
			if tt.want == "" {
				want[0].URI = strings.TrimSuffix(tt.path, "?")
			}
			if diff := cmp.Diff(want, sentToUpstream(up)); diff != "" {
				t.Errorf("the upstream got (-want +got):\n%s", diff)
			}
			if got.Status != 200 {
				t.Errorf("the client got %d %s", got.Status, got.Body)
			}
		})
	}
}

// TestPassthroughType: where an exchange goes whose upstream speaks another protocol than its
// client.
func TestPassthroughType(t *testing.T) {
	t.Parallel()
	const messages = `{"model":"m","max_tokens":5,"messages":[{"role":"user","content":"hi"}]}`
	key := []string{"Anthropic-Version", "2023-06-01", "X-Api-Key", clientKey}
	type got struct {
		Status        int
		URI           string
		Authorization string
		Unchanged     bool
	}
	for _, tt := range []struct {
		typ, path string
		want      got
	}{
		{"", "/v1/messages?beta=true", got{200, "/base/v1/messages?beta=true", "", true}},
		{"anthropic", "/v1/messages?beta=true", got{200, "/base/v1/messages?beta=true", "", true}},
		{"something", "/v1/messages", got{200, "/base/v1/messages", "", true}},
		{"chat-completions", "/v1/chat/completions", got{200, "/base/v1/chat/completions", "", true}},
		{"chat-completions", "/v1/messages", got{200, "/base/v1/chat/completions", "Bearer " + clientKey, false}},
		{" Chat-Completions ", "/a%2Fb/messages/?beta=true&x=1", got{200, "/base/a%2Fb/chat/completions?x=1", "Bearer " + clientKey, false}},
		{"chat-completions", "/v1/messages/count_tokens", got{Status: 200}},
		{"anthropic", "/v1/chat/completions", got{Status: 400}},
	} {
		t.Run(tt.typ+tt.path, func(t *testing.T) {
			t.Parallel()
			up := newUpstream(t)
			res := post(t, newProxy(t, reaching(up)...)+tt.path, messages, append([]string{providerHeader, up.Host + "/base", "X-APEX-AI-PROXY-TYPE", tt.typ}, key...)...)
			have := got{Status: res.Status}
			for _, r := range sentToUpstream(up) {
				have.URI, have.Authorization, have.Unchanged = r.URI, r.Header.Get("Authorization"), r.Body == messages
			}
			if diff := cmp.Diff(tt.want, have); diff != "" {
				t.Errorf("%s (-want +got):\n%s", res.Body, diff)
			}
		})
	}
}

func TestPassthroughModels(t *testing.T) {
	t.Parallel()
	for _, tt := range []struct{ method, path string }{
		{"GET", "/v1/models"},
		{"HEAD", "/v1/models"},
		{"GET", "/v1/models/gpt-5.5?a=b"},
		{"GET", "/v1beta/models/models%2Fgemini"},
	} {
		t.Run(tt.method+tt.path, func(t *testing.T) {
			t.Parallel()
			up := newUpstream(t)
			do(t, tt.method, newProxy(t, reaching(up)...)+tt.path, "", providerHeader, up.Host+"/base", "X-Goog-Api-Key", clientKey)
			want := []sent{{Method: tt.method, URI: "/base" + tt.path, Host: up.Host, Header: headers("X-Goog-Api-Key", clientKey)}}
			if diff := cmp.Diff(want, sentToUpstream(up)); diff != "" {
				t.Errorf("the upstream got (-want +got):\n%s", diff)
			}
		})
	}
}

// TestPassthroughURL: the grammar's good forms, at a transport that dials nobody.
func TestPassthroughURL(t *testing.T) {
	t.Parallel()
	for provider, want := range map[string]string{
		"api.openai.com":                       "https://api.openai.com/v1/embeddings",
		"API.OpenAI.com":                       "https://api.openai.com/v1/embeddings",
		"api.openai.com:443":                   "https://api.openai.com/v1/embeddings",
		"api.openai.com:8443/base":             "https://api.openai.com:8443/base/v1/embeddings",
		"Https://api.groq.com/openai":          "https://api.groq.com/openai/v1/embeddings",
		"8.8.8.8":                              "https://8.8.8.8/v1/embeddings",
		"8.8.8.8:1":                            "https://8.8.8.8:1/v1/embeddings",
		"[2606:4700::1111]":                    "https://[2606:4700::1111]/v1/embeddings",
		"[2606:4700:0:0::1111]:65535/b":        "https://[2606:4700::1111]:65535/b/v1/embeddings",
		"my_host.example-1.com":                "https://my_host.example-1.com/v1/embeddings",
		"xn--bcher-kva.example":                "https://xn--bcher-kva.example/v1/embeddings",
		"api.example.com/caf%C3%A9":            "https://api.example.com/caf%C3%A9/v1/embeddings",
		"1e100.net":                            "https://1e100.net/v1/embeddings",
		"127.0.0.1.example.com":                "https://127.0.0.1.example.com/v1/embeddings",
		"https://api.example.com/https://x/y/": "https://api.example.com/https://x/y/v1/embeddings",
	} {
		t.Run(provider, func(t *testing.T) {
			t.Parallel()
			got := route1(t, provider, want)
			if got != want {
				t.Errorf("got  %s\nwant %s", got, want)
			}
		})
	}
}

// route1 returns the URL to which a proxy with one allowed host sends an exchange, or the answer
// when it sends none.
func route1(t *testing.T, provider, allowed string) string {
	t.Helper()
	u, err := url.Parse(allowed)
	if err != nil {
		t.Fatal(err)
	}
	var sentTo atomic.Pointer[string]
	rt := transportFunc(func(r *http.Request) (*http.Response, error) {
		s := r.URL.String()
		sentTo.Store(&s)
		return &http.Response{StatusCode: 200, Header: http.Header{}, Body: http.NoBody, Request: r}, nil
	})
	proxy := newProxy(t, apexproxy.WithTransport(rt), apexproxy.WithPassthrough(apexproxy.Passthrough{Hosts: []string{u.Host}}))
	got := post(t, proxy+"/v1/embeddings", `{}`, providerHeader, provider)
	if s := sentTo.Load(); s != nil {
		return *s
	}
	return fmt.Sprint(got.Status, " ", got.Body)
}

// badProviders are the header's bad forms with the answer's status and a piece of its message. PORT
// is one on which somebody listens on loopback.
var badProviders = []struct {
	value   string
	status  int
	message string
}{
	// Loopback, private and special addresses, in the one form that is grammar.
	{"127.0.0.1:PORT", 403, noPublic},
	{"127.1.2.3:PORT", 403, noPublic},
	{"0.0.0.0:PORT", 403, noPublic},
	{"0.0.0.1:PORT", 403, noPublic},
	{"10.0.0.1", 403, noPublic},
	{"172.16.0.1", 403, noPublic},
	{"172.31.255.255", 403, noPublic},
	{"192.168.1.1", 403, noPublic},
	{"169.254.169.254/latest/meta-data", 403, noPublic},
	{"169.254.170.2", 403, noPublic},
	{"100.64.0.1", 403, noPublic},
	{"100.100.100.200", 403, noPublic},
	{"168.63.129.16", 403, noPublic},
	{"192.0.0.192", 403, noPublic},
	{"192.0.2.1", 403, noPublic},
	{"192.88.99.1", 403, noPublic},
	{"198.18.0.1", 403, noPublic},
	{"198.51.100.1", 403, noPublic},
	{"203.0.113.1", 403, noPublic},
	{"224.0.0.1", 403, noPublic},
	{"240.0.0.1", 403, noPublic},
	{"255.255.255.255", 403, noPublic},
	{"[::1]:PORT", 403, noPublic},
	{"[::]:PORT", 403, noPublic},
	{"[0:0:0:0:0:0:0:1]:PORT", 403, noPublic},
	{"[::7f00:1]:PORT", 403, noPublic},           // IPv4-compatible
	{"[::127.0.0.1]:PORT", 403, noPublic},        // the same, dotted
	{"[64:ff9b::7f00:1]:PORT", 403, noPublic},    // NAT64
	{"[64:ff9b::127.0.0.1]:PORT", 403, noPublic}, // the same, dotted
	{"[64:ff9b:1::7f00:1]:PORT", 403, noPublic},  // NAT64, local
	{"[2002:7f00:1::]:PORT", 403, noPublic},      // 6to4
	{"[2002:c0a8:101::1]", 403, noPublic},        // 6to4
	{"[2001:0:7f00:1::]", 403, noPublic},         // Teredo
	{"[fe80::1]", 403, noPublic},                 // link-local
	{"[fec0::1]", 403, noPublic},                 // site-local
	{"[fc00::1]", 403, noPublic},                 // ULA
	{"[fd00:ec2::254]", 403, noPublic},           // metadata
	{"[ff02::1]", 403, noPublic},                 // multicast
	{"[2001:db8::1]", 403, noPublic},             // documentation
	{"[3fff::1]", 403, noPublic},                 // documentation
	{"[100::1]", 403, noPublic},                  // discard
	{"[4000::1]", 403, noPublic},                 // nobody's
	{"https://[::1]:PORT/base", 403, noPublic},
	{"localhost:PORT", 403, noPublic}, // the dialer's work
	{"LOCALHOST:PORT", 403, noPublic},
	{"https://localhost:PORT/v1", 403, noPublic},
	{"[::ffff:127.0.0.1]:PORT", 400, badV6}, // IPv4-mapped
	{"[::ffff:7f00:1]:PORT", 400, badV6},
	{"[::FFFF:169.254.169.254]", 400, badV6},
	{"[::1%lo]:PORT", 400, badV6}, // zones
	{"[fe80::1%eth0]", 400, badV6},
	{"[fe80::1%25eth0]", 400, badV6},
	{"[2606:4700::1111%25lo]", 400, badV6},
	{"[127.0.0.1]:PORT", 400, badV6},
	{"[::1", 400, "broken IPv6"},
	{"[::1]PORT", 400, "broken IPv6"},
	{"[::1].example.com", 400, "broken IPv6"},
	{"[::g]", 400, badV6},
	{"[]", 400, badV6},
	{"[v1.fe80::a+en1]", 400, badV6},
	{"[api.example.com]", 400, badV6},
	{"::1", 400, "has no host"},
	{"fe80::1", 400, "port that is not a number"},
	{"2606:4700::1111", 400, noNumber},

	// Numbers that are addresses to some parsers.
	{"2130706433:PORT", 400, noNumber},
	{"0x7f000001:PORT", 400, noNumber},
	{"0X7F000001:PORT", 400, noNumber},
	{"017700000001:PORT", 400, noNumber},
	{"0177.0.0.1:PORT", 400, noNumber},
	{"0x7f.0.0.1:PORT", 400, noNumber},
	{"0x7f.1:PORT", 400, noNumber},
	{"127.1:PORT", 400, noNumber},
	{"127.0.1:PORT", 400, noNumber},
	{"127.0.0.01:PORT", 400, noNumber},
	{"127.0.0.0x1:PORT", 400, noNumber},
	{"0:PORT", 400, noNumber},
	{"0x:PORT", 400, noNumber},
	{"00000000000000000000000000000000000000000127.0.0.1", 400, noNumber},
	{"1.2.3.4.5", 400, noNumber},
	{"256.0.0.1", 400, noNumber},
	{"99999999999999999999999", 400, noNumber},
	{"example.0x7f", 400, noNumber},
	{"example.123", 400, noNumber},
	{"127.0.0.1.:PORT", 400, "empty or too long label"},
	{"localhost.:PORT", 400, "empty or too long label"},
	{"api.example.com.", 400, "empty or too long label"},
	{".example.com", 400, "empty or too long label"},
	{"a..b", 400, "empty or too long label"},
	{strings.Repeat("a", 64) + ".com", 400, "empty or too long label"},
	{strings.Repeat("a.", 127), 400, "too long"},
	{"①②⑦.⓪.⓪.①:PORT", 400, "outside ASCII"},
	{"loc\u00adalhost:PORT", 400, "outside ASCII"},
	{"bücher.example", 400, "outside ASCII"},
	{"api.example.com/é", 400, "outside ASCII"},
	{"127。0。0。1", 400, "outside ASCII"},
	{"%6c%6f%63alhost:PORT", 400, "no host name has"},
	{"127.0.0.1%2f.example.com", 400, "no host name has"},
	{"127.0.0.1,api.example.com", 400, "no host name has"},
	{"api.example.com;127.0.0.1", 400, "no host name has"},
	{"api.example.com&x", 400, "no host name has"},
	{"api.example.com!", 400, "no host name has"},
	{"a*b.example.com", 400, "no host name has"},
	{"{host}", 400, "no host name has"},

	// What hides the host from one of two parsers.
	{"user@127.0.0.1:PORT", 400, `holds '@'`},
	{"user:pass@api.example.com", 400, `holds '@'`},
	{"api.example.com@127.0.0.1:PORT", 400, `holds '@'`},
	{"@api.example.com", 400, `holds '@'`},
	{"api.example.com/x@y", 400, `holds '@'`},
	{`127.0.0.1:PORT\@api.example.com`, 400, `holds '\\'`},
	{`api.example.com\.127.0.0.1`, 400, `holds '\\'`},
	{`https:\\127.0.0.1:PORT`, 400, `holds '\\'`},
	{"127.0.0.1:PORT#@api.example.com", 400, `holds '#'`},
	{"api.example.com/#x", 400, `holds '#'`},
	{"127.0.0.1:PORT?@api.example.com", 400, `holds '?'`},
	{"api.example.com/v1?x=1", 400, `holds '?'`},
	{"api.example.com?", 400, `holds '?'`},
	{"api.example.com /v1", 400, "white space"},
	{"127.0.0.1:PORT api.example.com", 400, "white space"},
	{"api.example.com\tx", 400, "white space"},

	// Schemes.
	{"http://api.example.com", 400, "scheme other than https"},
	{"http://127.0.0.1:PORT", 400, "scheme other than https"},
	{"file:///etc/passwd", 400, "scheme other than https"},
	{"gopher://127.0.0.1:PORT/_x", 400, "scheme other than https"},
	{"ws://api.example.com", 400, "scheme other than https"},
	{"unix:///var/run/docker.sock", 400, "scheme other than https"},
	{"://api.example.com", 400, "scheme other than https"},
	{"api.example.com://127.0.0.1", 400, "scheme other than https"},
	{"https://https://api.example.com", 400, "port that is not a number"},
	{"https:api.example.com", 400, "port that is not a number"},
	{"https:/api.example.com", 400, "port that is not a number"},
	{"//api.example.com", 400, "has no host"},
	{"//127.0.0.1:PORT", 400, "has no host"},
	{"https:///v1", 400, "has no host"},
	{"https://", 400, "has no host"},
	{"/", 400, "has no host"},
	{":PORT", 400, "has no host"},
	{"", 400, "has no host"},
	{"   ", 400, "has no host"},

	// Ports.
	{"api.example.com:", 400, "port that is not a number from 1 to 65535"},
	{"api.example.com:/v1", 400, "port that is not a number"},
	{"api.example.com:0", 400, "port that is not a number"},
	{"api.example.com:65536", 400, "port that is not a number"},
	{"api.example.com:-1", 400, "port that is not a number"},
	{"api.example.com:+443", 400, "port that is not a number"},
	{"api.example.com:0443", 400, "port that is not a number"},
	{"api.example.com:443:443", 400, "port that is not a number"},
	{"api.example.com:0x1bb", 400, "port that is not a number"},
	{"api.example.com:https", 400, "port that is not a number"},
	{"api.example.com:4_43", 400, "port that is not a number"},
	{"[2606:4700::1111]:", 400, "port that is not a number"},
	{"[2606:4700::1111]:0", 400, "port that is not a number"},
	{"api.example.com:99999999999999999999", 400, "port that is not a number"},

	// Dot segments and odd bytes in the base path.
	{"api.example.com/..", 400, ". or .. segment"},
	{"api.example.com/./v1", 400, ". or .. segment"},
	{"api.example.com/a/../b", 400, ". or .. segment"},
	{"api.example.com/%2e%2e/b", 400, ". or .. segment"},
	{"api.example.com/.%2E", 400, ". or .. segment"},
	{"api.example.com/a%2F..%2Fb", 400, ". or .. segment"},
	{"api.example.com/%252e%252e/b", 400, ". or .. segment"},
	{"api.example.com/%252E./b", 400, ". or .. segment"},
	{"api.example.com/a%252f..%252fb", 400, ". or .. segment"},
	{"api.example.com/%", 400, "broken % escape"},
	{"api.example.com/%zz", 400, "broken % escape"},
	{"api.example.com/%00", 400, "control character or backslash"},
	{"api.example.com/%0d%0aHost:x", 400, "control character or backslash"},
	{"api.example.com/..%5c..", 400, "control character or backslash"},
	{"api.example.com/%7f", 400, "control character or backslash"},
}

const (
	noPublic = "has no public address: name a public host"
	noNumber = "has a number for a host that is not a plain IPv4 address"
	badV6    = "is not an IPv6 address without zone"
)

// TestPassthroughRefused sends every bad form through a real server, and proves by a listener that
// nothing was connected.
func TestPassthroughRefused(t *testing.T) {
	t.Parallel()
	listener := newLoopback(t)
	proxy := newProxy(t, apexproxy.WithPassthrough(apexproxy.Passthrough{}))
	for _, tt := range badProviders {
		value := strings.ReplaceAll(tt.value, "PORT", listener.port)
		got := post(t, proxy+"/v1/chat/completions", `{"model":"m"}`, providerHeader, value, "Authorization", "Bearer "+clientKey)
		if got.Status != tt.status || !strings.Contains(got.Body, escaped(tt.message)) || !strings.Contains(got.Body, providerHeader) {
			t.Errorf("%q: got %d %s, want %d with %q", value, got.Status, got.Body, tt.status, tt.message)
		}
	}
	if n := listener.accepted.Load(); n != 0 {
		t.Errorf("%d connections were opened", n)
	}
}

// escaped is s as it stands in a JSON string.
func escaped(s string) string {
	q := strconv.Quote(s)
	return q[1 : len(q)-1]
}

// TestPassthroughControlCharacters: net/http refuses these on the wire, but a handler may be called
// by other code.
func TestPassthroughControlCharacters(t *testing.T) {
	t.Parallel()
	p, err := apexproxy.New(apexproxy.WithPassthrough(apexproxy.Passthrough{}))
	if err != nil {
		t.Fatal(err)
	}
	for c := range 256 {
		if c == '.' || c == '-' || c == '_' || c == '/' || c == ':' ||
			c >= '0' && c <= '9' || c >= 'a' && c <= 'z' || c >= 'A' && c <= 'Z' {
			continue
		}
		r := httptest.NewRequest("POST", "/v1/chat/completions", strings.NewReader(`{}`))
		r.Header[http.CanonicalHeaderKey(providerHeader)] = []string{"api" + string([]byte{byte(c)}) + "example.com"}
		w := httptest.NewRecorder()
		p.ServeHTTP(w, r)
		if w.Code != 400 {
			t.Errorf("byte %#x: got %d %s", c, w.Code, w.Body)
		}
	}
}

func TestPassthroughRepeatedHeader(t *testing.T) {
	t.Parallel()
	up := newUpstream(t)
	proxy := newProxy(t, reaching(up)...)
	for name, hs := range map[string][]string{
		"same":            {providerHeader, up.Host, providerHeader, up.Host},
		"different":       {providerHeader, up.Host, providerHeader, "127.0.0.1"},
		"different cases": {providerHeader, up.Host, "x-apex-ai-proxy-provider", up.Host},
		"first empty":     {providerHeader, "", providerHeader, up.Host},
		"second empty":    {providerHeader, up.Host, providerHeader, ""},
	} {
		got := post(t, proxy+"/v1/chat/completions", `{}`, hs...)
		if got.Status != 400 || !strings.Contains(got.Body, "X-APEX-AI-PROXY-PROVIDER must come once") {
			t.Errorf("%s: got %d %s", name, got.Status, got.Body)
		}
	}
	if n := up.Connections(); n != 0 {
		t.Errorf("%d connections were opened", n)
	}
}

// TestPassthroughClientPath: dot segments in the client's own path could climb out of a base path.
func TestPassthroughClientPath(t *testing.T) {
	t.Parallel()
	up := newUpstream(t)
	p, err := apexproxy.New(reaching(up)...)
	if err != nil {
		t.Fatal(err)
	}
	for _, path := range []string{
		"/../v1/chat/completions", "/a/./v1/chat/completions", "/%2e%2e/v1/chat/completions",
		"/a/%2E/v1/chat/completions", "/..%2Fadmin/v1/chat/completions",
	} {
		r := httptest.NewRequest("POST", path, strings.NewReader(`{}`))
		r.Header.Set(providerHeader, up.Host+"/tenant")
		w := httptest.NewRecorder()
		p.ServeHTTP(w, r)
		if w.Code != 400 {
			t.Errorf("%s: got %d %s", path, w.Code, w.Body)
		}
	}
	if n := up.Connections(); n != 0 {
		t.Errorf("%d connections were opened", n)
	}
}

func TestPassthroughHosts(t *testing.T) {
	t.Parallel()
	up := newUpstream(t)
	_, port, _ := strings.Cut(up.Host, ":")
	for _, tt := range []struct {
		listed, named string
		allowed       bool
	}{
		{"127.0.0.1:PORT", "127.0.0.1:PORT", true},
		{"127.0.0.1:PORT", "https://127.0.0.1:PORT/base", true},
		{"https://127.0.0.1:PORT", "127.0.0.1:PORT", true},
		{"127.0.0.1", "127.0.0.1:PORT", false},
		{"127.0.0.1:PORT", "127.0.0.1", false},
		{"127.0.0.1:PORT", "127.0.0.1:1PORT", false},
		{"127.0.0.1:PORT", "127.0.0.2:PORT", false},
		{"127.0.0.1:PORT", "localhost:PORT", false},
		{"127.0.0.1:PORT", "[::1]:PORT", false},
		{"localhost:PORT", "LocalHost:PORT", true},
		{"LOCALHOST:PORT", "localhost:PORT", true},
		{"localhost:PORT", "a.localhost:PORT", false},
		{"localhost:PORT", "xlocalhost:PORT", false},
		{"localhost:PORT", "localhost:PORT.example.com", false},
		{"example.com", "localhost:PORT", false},
	} {
		t.Run(tt.listed+" "+tt.named, func(t *testing.T) {
			t.Parallel()
			listed, named := strings.ReplaceAll(tt.listed, "PORT", port), strings.ReplaceAll(tt.named, "PORT", port)
			transport := up.Transport()
			transport.TLSClientConfig.ServerName = "example.com" // the certificate has no localhost
			proxy := newProxy(t, apexproxy.WithTransport(transport),
				apexproxy.WithPassthrough(apexproxy.Passthrough{Hosts: []string{"api.example.com", listed}}))
			got := post(t, proxy+"/v1/chat/completions", `{"model":"m"}`, providerHeader, named)
			switch {
			case tt.allowed && got.Status != 200,
				!tt.allowed && got.Status != 403 && got.Status != 400,
				got.Status == 403 && !strings.Contains(got.Body, "is not on this proxy's list"):
				t.Errorf("got %d %s", got.Status, got.Body)
			}
		})
	}
}

// TestPassthroughHosts443: a missing port is 443, on both sides.
func TestPassthroughHosts443(t *testing.T) {
	t.Parallel()
	for _, listed := range []string{"https://api.example.com", "https://api.example.com:443"} {
		for named, want := range map[string]string{
			"api.example.com":      "https://api.example.com/v1/embeddings",
			"API.example.COM:443":  "https://api.example.com/v1/embeddings",
			"api.example.com:8443": `403 {"error":{"message":"the host in X-APEX-AI-PROXY-PROVIDER is not on this proxy's list"`,
			"api.example.com:80":   `403 {"error":{"message":"the host in X-APEX-AI-PROXY-PROVIDER is not on this proxy's list"`,
		} {
			if got := route1(t, named, listed); !strings.HasPrefix(got, want) {
				t.Errorf("%s with %s listed: got %s, want %s", named, listed, got, want)
			}
		}
	}
}

// TestPassthroughWithoutGuard: neither a transport's own dialers nor a proxy get between the guard
// and the network.
func TestPassthroughWithoutGuard(t *testing.T) {
	t.Parallel()
	listener := newLoopback(t)
	other := newLoopback(t)
	dial := func(ctx context.Context, network, _ string) (net.Conn, error) {
		return new(net.Dialer).DialContext(ctx, network, "127.0.0.1:"+other.port)
	}
	for name, set := range map[string]func(*http.Transport){
		"Proxy": func(tr *http.Transport) {
			tr.Proxy = func(*http.Request) (*url.URL, error) { return url.Parse("http://127.0.0.1:" + other.port) }
		},
		"DialContext":    func(tr *http.Transport) { tr.DialContext = dial },
		"DialTLSContext": func(tr *http.Transport) { tr.DialTLSContext = dial },
		"Dial and DialTLS": func(tr *http.Transport) {
			old := func(network, addr string) (net.Conn, error) { return dial(t.Context(), network, addr) }
			//lint:ignore SA1019 what hosts still set
			tr.Dial, tr.DialTLS = old, old
		},
	} {
		transport := apexproxy.NewTransport()
		set(transport)
		proxy := newProxy(t, apexproxy.WithTransport(transport), apexproxy.WithPassthrough(apexproxy.Passthrough{}))
		for _, host := range []string{"localhost:", "127.0.0.1:", "[::1]:"} {
			got := post(t, proxy+"/v1/chat/completions", `{}`, providerHeader, host+listener.port)
			if got.Status != 403 || !strings.Contains(got.Body, noPublic) {
				t.Errorf("%s, %s: got %d %s", name, host, got.Status, got.Body)
			}
		}
	}
	if n := listener.accepted.Load() + other.accepted.Load(); n != 0 {
		t.Errorf("%d connections were opened", n)
	}
}

// TestPassthroughProxy: passthrough connects by itself, also to a listed host, where the gateway's
// requests take the transport's proxy.
func TestPassthroughProxy(t *testing.T) {
	t.Parallel()
	front := apexproxytest.NewUpstream(apexproxytest.JSON(200, `{"from":"the proxy"}`))
	t.Cleanup(front.Close)
	up := newUpstream(t)
	transport := up.Transport()
	transport.Proxy = func(*http.Request) (*url.URL, error) { return url.Parse(front.URL) }
	proxy := newProxy(t, apexproxy.WithTransport(transport),
		apexproxy.WithGateway(apexproxy.Gateway{BaseURL: "http://gateway.example", Token: gatewayToken}),
		apexproxy.WithPassthrough(apexproxy.Passthrough{Hosts: []string{up.Host}}))

	got := post(t, proxy+"/v1/chat/completions", `{"model":"m"}`, providerHeader, up.Host)
	if got.Status != 200 || len(up.Requests()) != 1 || front.Connections() != 0 {
		t.Errorf("got %d %s; %d requests upstream, %d connections to the proxy", got.Status, got.Body, len(up.Requests()), front.Connections())
	}
	got = post(t, proxy+"/v1/chat/completions", `{"model":"m#openai"}`, "X-Api-Key", gatewayToken)
	if got.Body != `{"from":"the proxy"}` {
		t.Errorf("the gateway's request got %d %s without the proxy", got.Status, got.Body)
	}
}

// TestPassthroughCredentials: the gateway's token is for the gateway, the client's key for the
// upstream it named. One proxy serves both.
func TestPassthroughCredentials(t *testing.T) {
	t.Parallel()
	g := newGateway(t, apexproxytest.GatewayConfig{})
	up := newUpstream(t)
	cfg := via(g)
	cfg.BYOKOnly = true
	cfg.Header = func(*http.Request) http.Header { return headers("X-Operator", gatewayToken) }
	proxy := newProxy(t, append(reaching(up), apexproxy.WithGateway(cfg))...)
	keys := []string{"X-Api-Key", clientKey, "Api-Key", clientKey, "X-Goog-Api-Key", clientKey}

	post(t, proxy+"/v1/chat/completions?key="+clientKey, `{"model":"m#openai"}`, append(keys, "Authorization", "Bearer "+gatewayToken)...)
	post(t, proxy+"/v1/chat/completions?key="+clientKey, `{"model":"m#openai"}`, append(keys, "Authorization", "Bearer "+clientKey,
		providerHeader, up.Host, "cf-aig-authorization", "Bearer "+gatewayToken)...)
	if got := fmt.Sprint(sentToGateway(g)); strings.Contains(got, clientKey) || !strings.Contains(got, gatewayToken) {
		t.Errorf("the gateway got %s", got)
	}
	if got := fmt.Sprint(sentToUpstream(up)); strings.Contains(got, gatewayToken) || strings.Count(got, clientKey) != 5 {
		t.Errorf("the upstream got %s", got)
	}
}
