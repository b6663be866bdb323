package apexproxy

import (
	"context"
	"errors"
	"net"
	"net/http"
	"net/http/httptest"
	"net/netip"
	"net/url"
	"strings"
	"sync/atomic"
	"testing"

	"github.com/loadchange/apexproxy/internal/guard"
)

// FuzzProvider: whatever X-APEX-AI-PROXY-PROVIDER says, a proxy without a list of hosts connects to
// nothing on this machine, also when every name resolves to it. What the grammar lets through is
// one host, the same to net/url.
func FuzzProvider(f *testing.F) {
	for _, s := range []string{
		"api.openai.com", "https://API.example.com:8443/base/", "8.8.8.8", "[2606:4700::1111]:443/b", "localhost:PORT", "127.0.0.1:PORT",
		"[::1]:PORT", "[::ffff:127.0.0.1]:PORT", "[64:ff9b::7f00:1]:PORT", "[2002:7f00:1::]:PORT", "[::1%lo]:PORT", "127.1:PORT", "0x7f000001:PORT",
		"017700000001:PORT", "127.0.0.1.:PORT", "a@127.0.0.1:PORT", `a\@127.0.0.1:PORT`, "127.0.0.1:PORT#a", "127.0.0.1:PORT?a", "http://127.0.0.1:PORT",
		"api.example.com/%2e%2e/x", "api.example.com/%252e%252e/x", "api.example.com/%zz", "//127.0.0.1:PORT", "a.b:0443", "\x00", "é.example", "",
	} {
		f.Add(s)
	}
	var accepted atomic.Int64
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		f.Fatal(err)
	}
	f.Cleanup(func() { ln.Close() })
	go func() {
		for {
			c, err := ln.Accept()
			if err != nil {
				return
			}
			accepted.Add(1)
			c.Close()
		}
	}()
	here := ln.Addr().String()

	p, err := New(WithPassthrough(Passthrough{}))
	if err != nil {
		f.Fatal(err)
	}
	// The dialer under test, save that nothing is asked of a resolver and no public address is
	// dialled.
	guarded := p.passthrough.rt.(*http.Transport).DialContext
	p.passthrough.rt.(*http.Transport).DialContext = func(ctx context.Context, network, addr string) (net.Conn, error) {
		host, _, err := net.SplitHostPort(addr)
		if err != nil {
			return nil, err
		}
		if a, err := netip.ParseAddr(host); err != nil {
			addr = here
		} else if guard.Public(a) {
			return nil, errors.New("a public address")
		}
		return guarded(ctx, network, addr)
	}
	_, port, _ := net.SplitHostPort(here)

	f.Fuzz(func(t *testing.T, value string) {
		value = strings.ReplaceAll(value, "PORT", port)
		r := httptest.NewRequest("POST", "/v1/chat/completions", strings.NewReader(`{}`))
		r.Header[headerProvider] = []string{value}
		w := httptest.NewRecorder()
		p.ServeHTTP(w, r)
		if n := accepted.Load(); n != 0 {
			t.Fatalf("%q: %d connections were opened", value, n)
		}
		d, err := parseDestination(strings.Trim(value, " \t\r\n"))
		if err != nil {
			if w.Code != 400 {
				t.Errorf("%q: got %d %s", value, w.Code, w.Body)
			}
			return
		}
		a, notAddr := netip.ParseAddr(d.host)
		if want := map[bool]int{true: 502, false: 403}[notAddr == nil && guard.Public(a)]; w.Code != want {
			t.Errorf("%q: got %d %s, want %d", value, w.Code, w.Body, want)
		}
		u, err := url.Parse("https://" + d.address() + d.base)
		if d.port == "" {
			d.port = "443"
		}
		if err != nil || u.Hostname() != d.host || u.Port() != d.port || u.User != nil || u.RawQuery != "" || u.Fragment != "" {
			t.Errorf("%q is %+v to us and %+v to net/url (%v)", value, d, u, err)
		}
		if again, err := parseDestination(d.address() + d.base); err != nil || again != d {
			t.Errorf("%q: %+v reads as %+v again (%v)", value, d, again, err)
		}
	})
}
