package header

import (
	"net/http"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
)

// fates lists every header that the package knows or that a client is known to send, and whether it
// goes upstream. What belongs to one connection is not here, nor what Connection names: see
// TestHopByHop.
var fates = []struct {
	name                 string
	gateway, passthrough bool
}{
	// A client's credentials stay with the host they were meant for.
	{"Authorization", false, true},
	{"X-Api-Key", false, true},
	{"Api-Key", false, true},
	{"X-Goog-Api-Key", false, true},
	{"Xi-Api-Key", false, true},
	{"Ocp-Apim-Subscription-Key", false, true},
	{"X-Amz-Security-Token", false, true},

	// What steers this proxy.
	{"X-APEX-AI-PROXY-PROVIDER", false, false},
	{"X-APEX-AI-PROXY-MAPPING", false, false},
	{"X-APEX-AI-PROXY-TYPE", false, false},
	{"X-APEX-AI-PROXY-TOKEN", false, false},
	{"X-Apex-Ai-Proxy-Anything-Later", false, false},

	// The gateway's own.
	{"Cf-Aig-Authorization", false, false},
	{"Cf-Aig-Cache-Ttl", true, true},
	{"Cf-Aig-Skip-Cache", true, true},
	{"Cf-Aig-Request-Timeout", true, true},
	{"Cf-Aig-Max-Attempts", true, true},
	{"Cf-Aig-Retry-Delay", true, true},
	{"Cf-Aig-Backoff", true, true},
	{"Cf-Aig-Event-Id", true, true},
	{"Cf-Aig-Metadata", true, true},
	{"Cf-Aig-Otel-Trace-Id", true, true},
	{"Cf-Aig-Otel-Parent-Span-Id", true, true},
	{"Cf-Aig-Byok-Alias", false, true},
	{"Cf-Aig-No-Wholesale", false, true},
	{"Cf-Aig-Cache-Key", false, true},
	{"Cf-Aig-Custom-Cost", false, true},
	{"Cf-Aig-Collect-Log", false, true},
	{"Cf-Aig-Collect-Log-Payload", false, true},
	{"Cf-Aig-Zdr", false, true},
	{"Cf-Aig-Gateway-Id", false, true},
	{"Cf-Aig-Session-Id", false, true},
	{"Cf-Aig-Turn-Id", false, true},
	{"Cf-Aig-No-Session-Affinity", false, true},
	{"Cf-Aig-Allowed-Models", false, true},
	{"Cf-Aig-Allowed-Providers", false, true},
	{"Cf-Aig-Anything-Later", false, true},

	// What an edge, a proxy or a browser in front of us adds.
	{"Cf-Cache-Ttl", false, false},
	{"Cf-Skip-Cache", false, false},
	{"Cf-Connecting-Ip", false, false},
	{"Cf-Connecting-Ipv6", false, false},
	{"Cf-Ipcountry", false, false},
	{"Cf-Ray", false, false},
	{"Cf-Visitor", false, false},
	{"Cf-Worker", false, false},
	{"Cf-Ew-Via", false, false},
	{"Cf-Access-Client-Id", false, false},
	{"Cf-Access-Client-Secret", false, false},
	{"Cf-Access-Jwt-Assertion", false, false},
	{"Cdn-Loop", false, false},
	{"Forwarded", false, false},
	{"X-Forwarded-For", false, false},
	{"X-Forwarded-Host", false, false},
	{"X-Forwarded-Port", false, false},
	{"X-Forwarded-Prefix", false, false},
	{"X-Forwarded-Proto", false, false},
	{"X-Forwarded-Server", false, false},
	{"X-Forwarded-Ssl", false, false},
	{"X-Forwarded-Client-Cert", false, false},
	{"X-Real-Ip", false, false},
	{"True-Client-Ip", false, false},
	{"Via", false, false},
	{"Origin", false, false},
	{"Referer", false, false},
	{"Cookie", false, false},
	{"Proxy-Authorization", false, false},
	{"Upgrade", false, false},

	// The protocols and their clients.
	{"Anthropic-Version", true, true},
	{"Anthropic-Beta", true, true},
	{"Anthropic-Dangerous-Direct-Browser-Access", true, true},
	{"Anthropic-Anything-Later", true, true},
	{"OpenAI-Organization", true, true},
	{"OpenAI-Project", true, true},
	{"OpenAI-Beta", true, true},
	{"X-Stainless-Lang", true, true},
	{"X-Stainless-Package-Version", true, true},
	{"X-Stainless-OS", true, true},
	{"X-Stainless-Arch", true, true},
	{"X-Stainless-Runtime", true, true},
	{"X-Stainless-Runtime-Version", true, true},
	{"X-Stainless-Retry-Count", true, true},
	{"X-Stainless-Timeout", true, true},
	{"X-Stainless-Read-Timeout", true, true},
	{"X-Stainless-Async", true, true},
	{"X-Stainless-Helper", true, true},
	{"X-Stainless-Helper-Method", true, true},
	{"X-Claude-Code-Session-Id", true, true},
	{"X-Claude-Code-Agent-Id", true, true},
	{"X-Claude-Code-Parent-Agent-Id", true, true},
	{"X-App", true, true},
	{"Originator", true, true},
	{"Session-Id", true, true},
	{"Session_id", true, true},
	{"Thread-Id", true, true},
	{"Idempotency-Key", true, true},
	{"X-Client-Request-Id", true, true},
	{"X-Request-Id", true, true},
	{"Http-Referer", true, true}, // OpenRouter's; not Referer
	{"X-Title", true, true},
	{"X-Goog-Api-Client", true, true},
	{"X-Goog-User-Project", true, true},
	{"X-Initiator", true, true},

	// Plain HTTP.
	{"Accept", true, true},
	{"Accept-Encoding", true, true},
	{"Accept-Language", true, true},
	{"Cache-Control", true, true},
	{"Content-Encoding", true, true},
	{"Content-Length", true, true},
	{"Content-Type", true, true},
	{"Date", true, true},
	{"Pragma", true, true},
	{"Priority", true, true},
	{"Sec-Fetch-Mode", true, true},
	{"User-Agent", true, true},

	// Tracing.
	{"Traceparent", true, true},
	{"Tracestate", true, true},
	{"Baggage", true, true},
	{"B3", true, true},
	{"X-B3-Traceid", true, true},

	// Names that only look like one above.
	{"Authorization-Info", true, true},
	{"X-Api-Keys", true, true},
	{"X-Forwarded", true, true},
	{"Cf", true, true},
	{"Cfx-Ray", true, true},
	{"X-Apex-Ai-Proxy", true, true},
	{"X-Cf-Ray", true, true},
	{"My-Cookie", true, true},
}

func TestFates(t *testing.T) {
	t.Parallel()
	forward := Set(DefaultForward)
	modes := map[string]struct {
		apply  func(http.Header) http.Header
		passes func(i int) bool
	}{
		"gateway":     {func(h http.Header) http.Header { return ToGateway(h, forward) }, func(i int) bool { return fates[i].gateway }},
		"passthrough": {ToUpstream, func(i int) bool { return fates[i].passthrough }},
	}
	// net/http makes keys canonical; a handler in front of us may not.
	casings := map[string]func(string) string{
		"canonical": http.CanonicalHeaderKey,
		"lower":     strings.ToLower,
		"upper":     strings.ToUpper,
		"odd": func(s string) string {
			b := []byte(strings.ToLower(s))
			for i := 1; i < len(b); i += 2 {
				b[i] = strings.ToUpper(string(b[i]))[0]
			}
			return string(b)
		},
	}
	for mode, m := range modes {
		for casing, c := range casings {
			t.Run(mode+"/"+casing, func(t *testing.T) {
				t.Parallel()
				got, want := http.Header{}, http.Header{}
				for i, f := range fates {
					values := []string{"value of " + f.name, "", "second value of " + f.name}
					got[c(f.name)] = values
					if m.passes(i) {
						want[c(f.name)] = values
					}
				}
				if len(got) != len(fates) {
					t.Fatalf("%d rows give %d headers: one is there twice", len(fates), len(got))
				}
				if diff := cmp.Diff(want, m.apply(got)); diff != "" {
					t.Errorf("what goes upstream (-want +got):\n%s", diff)
				}
			})
		}
	}
}

// Two spellings of a name are two keys of the map. Both go.
func TestBothSpellings(t *testing.T) {
	t.Parallel()
	in := http.Header{"Authorization": {"a"}, "authorization": {"b"}, "Cf-Aig-Authorization": {"c"}, "cf-aig-authorization": {"d"}, "accept": {"e"}}
	got := ToGateway(in, nil)
	if diff := cmp.Diff(http.Header{"accept": {"e"}}, got); diff != "" {
		t.Errorf("gateway (-want +got):\n%s", diff)
	}
	got = ToUpstream(in)
	if diff := cmp.Diff(http.Header{"Authorization": {"a"}, "authorization": {"b"}, "accept": {"e"}}, got); diff != "" {
		t.Errorf("passthrough (-want +got):\n%s", diff)
	}
	if len(in) != 5 {
		t.Errorf("the client's header was changed: %v", in)
	}
	if a, b := ToGateway(nil, nil), ToUpstream(nil); a == nil || b == nil {
		t.Error("no header to set anything in")
	}
}

func TestForward(t *testing.T) {
	t.Parallel()
	in := http.Header{
		"Cf-Aig-Authorization": {"Bearer stolen"},
		"Cf-Aig-Cache-Key":     {"tenant"},
		"Cf-Aig-Cache-Ttl":     {"60"},
		"Cf-Ray":               {"1"},
		"X-Api-Key":            {"sk"},
	}
	for _, test := range []struct {
		forward []string
		want    http.Header
	}{
		{nil, http.Header{}},
		{[]string{"cf-aig-CACHE-key"}, http.Header{"Cf-Aig-Cache-Key": {"tenant"}}},
		// An operator's list opens cf-aig-* names alone, and never the credential.
		{[]string{"cf-aig-authorization", "CF-AIG-AUTHORIZATION", "x-api-key", "cf-ray", "cf-aig-cache-ttl"}, http.Header{"Cf-Aig-Cache-Ttl": {"60"}}},
	} {
		got := ToGateway(in, Set(test.forward))
		if diff := cmp.Diff(test.want, got); diff != "" {
			t.Errorf("forward %q (-want +got):\n%s", test.forward, diff)
		}
	}
}

// A value names what a client wrote. Whatever that was, it must be a valid header line, of a length
// that clients and the proxies before them take.
func TestValue(t *testing.T) {
	t.Parallel()
	long := strings.Repeat("a", 2048)
	for _, tt := range []struct{ name, in, want string }{
		{"empty", "", ""},
		{"names", "top_k, metadata.x", "top_k, metadata.x"},
		{"line ends", "a\r\nSet-Cookie: b\x7f", "a__Set-Cookie: b_"},
		{"not ASCII", "é\xff~ ", "__~ "},
		{"as long as it may be", long, long},
		{"a byte more", long + "b", long},
		{"longer in bytes only", long[1:] + "é", long[1:] + "_"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			if diff := cmp.Diff(tt.want, Value(tt.in)); diff != "" {
				t.Errorf("(-want +got):\n%s", diff)
			}
		})
	}
}

func TestRedact(t *testing.T) {
	t.Parallel()
	secrets := []string{
		"Authorization", "X-Api-Key", "Api-Key", "X-Goog-Api-Key", "Xi-Api-Key", "Ocp-Apim-Subscription-Key", "X-Amz-Security-Token",
		"Cf-Aig-Authorization", "Proxy-Authorization", "Cookie", "Set-Cookie", "X-APEX-AI-PROXY-TOKEN",
		"X-Auth-Token", "Authentication-Info", "Cf-Access-Client-Secret", "Cf-Access-Jwt-Assertion",
	}
	shown := []string{
		"Content-Type", "User-Agent", "Anthropic-Version", "X-Request-Id", "X-Apex-Ai-Proxy-Provider", "X-Apex-Ai-Proxy-Mapping",
		"Cf-Aig-Log-Id", "Idempotency-Key", "Retry-After", "X-Ratelimit-Remaining-Tokens", "Www-Authenticate",
	}
	for _, spell := range []func(string) string{http.CanonicalHeaderKey, strings.ToLower, strings.ToUpper} {
		in, want := http.Header{}, http.Header{}
		for _, name := range secrets {
			in[spell(name)] = []string{"Bearer s3cr3t", "s3cr3t"}
			want[spell(name)] = []string{"[REDACTED]"}
		}
		for _, name := range shown {
			in[spell(name)] = []string{"one", "two"}
			want[spell(name)] = []string{"one", "two"}
		}
		before := in.Clone()
		got := Redact(in)
		if diff := cmp.Diff(want, got); diff != "" {
			t.Errorf("(-want +got):\n%s", diff)
		}
		for _, values := range got {
			values[0] = "changed by the record's owner"
		}
		got.Set("New", "x")
		if diff := cmp.Diff(before, in); diff != "" {
			t.Errorf("the input changed (-before +after):\n%s", diff)
		}
	}
	if got := Redact(nil); got == nil || len(got) != 0 {
		t.Errorf("Redact(nil) = %v, want an empty map", got)
	}
}

// Whatever never leaves for an upstream because it is a credential is not shown in a record either.
func TestCredentialsAreRedacted(t *testing.T) {
	t.Parallel()
	for _, f := range fates {
		if f.gateway || !f.passthrough || strings.HasPrefix(f.name, "Cf-Aig-") {
			continue
		}
		if got := Redact(http.Header{f.name: {"s3cr3t"}}); got[f.name][0] != Redacted {
			t.Errorf("%s: %q", f.name, got[f.name])
		}
	}
}

// What belongs to one connection stays on it, whatever a client or an upstream names in Connection.
func TestHopByHop(t *testing.T) {
	t.Parallel()
	hops := http.Header{
		"Connection": {"close, x-named", "X-Other , Keep-Alive"}, "Keep-Alive": {"5"}, "Proxy-Connection": {"x"}, "Transfer-Encoding": {"chunked"},
		"Trailer": {"X-Sum"}, "Upgrade": {"h2c"}, "Proxy-Authenticate": {"Basic"}, "Proxy-Authorization": {"Basic x"},
		"X-Named": {"1"}, "X-Other": {"2"}, "X-Kept": {"3"},
	}
	for name, tt := range map[string]struct{ te, want []string }{
		"none": {nil, nil}, "gzip": {[]string{"gzip"}, nil}, "trailers": {[]string{"deflate, Trailers"}, []string{"trailers"}},
	} {
		in := hops.Clone()
		want := http.Header{"X-Kept": {"3"}}
		if tt.te != nil {
			in["Te"] = tt.te
		}
		if tt.want != nil {
			want["Te"] = tt.want
		}
		for mode, got := range map[string]http.Header{"gateway": ToGateway(in, nil), "upstream": ToUpstream(in)} {
			if diff := cmp.Diff(want, got); diff != "" {
				t.Errorf("%s to the %s (-want +got):\n%s", name, mode, diff)
			}
		}
	}
	got := http.Header{"X-Kept": {"host's"}}
	answer := hops.Clone()
	answer["x-other"], answer["access-control-allow-origin"], answer["transfer-encoding"] = []string{"4"}, []string{"*"}, []string{"gzip"}
	Add(got, OfAnswer(answer), "")
	if diff := cmp.Diff(http.Header{"X-Kept": {"host's", "3"}, "X-Other": {"4"}}, got); diff != "" {
		t.Errorf("answer (-want +got):\n%s", diff)
	}
}

// Trailers pass by the same rule as headers.
func TestTrailers(t *testing.T) {
	t.Parallel()
	trailers := http.Header{"X-Sum": {"a"}, "X-Cost": {"1", "2"}, "Access-Control-Allow-Origin": {"*"}, "X-Apex-Ai-Proxy-Dropped": {"all"}, "Connection": {"close"}, "Content-Length": {"3"}}
	if got := Announce(trailers); got != "Content-Length, X-Cost, X-Sum" { // net/http drops the first
		t.Errorf("announced %q", got)
	}
	got := http.Header{}
	Add(got, OfTrailer(trailers), "Trailer:")
	if diff := cmp.Diff(http.Header{"Trailer:X-Sum": {"a"}, "Trailer:X-Cost": {"1", "2"}}, got); diff != "" {
		t.Errorf("(-want +got):\n%s", diff)
	}
}
