package apexproxy

import (
	"errors"
	"fmt"
	"net"
	"net/http"
	"net/netip"
	"net/textproto"
	"net/url"
	"strconv"
	"strings"

	"github.com/loadchange/apexproxy/internal/guard"
	"github.com/loadchange/apexproxy/internal/header"
	"github.com/loadchange/apexproxy/internal/protocol"
)

// Passthrough lets clients name the upstream in X-APEX-AI-PROXY-PROVIDER and bring its key. The
// zero value lets anybody who can reach the proxy send requests to any public host from the proxy's
// address: on a network that others share, set Hosts, Auth or both.
type Passthrough struct {
	// Hosts, when not empty, is an exact allowlist of host[:port] (443 when absent). A listed host
	// may be anywhere, loopback and private networks included, because the operator named it. When
	// empty, the dialer connects to public addresses only, checked after name resolution.
	Hosts []string
	// Auth, when not nil, decides who may use passthrough. Authorization belongs to the upstream
	// here: clients present theirs in X-APEX-AI-PROXY-TOKEN (see [Tokens]).
	Auth Authenticator
}

// passthrough is a [Passthrough] resolved.
type passthrough struct {
	auth  Authenticator
	hosts map[string]bool // nil: any public host
	rt    http.RoundTripper
	owned []*http.Transport // rt, if we made it
}

func newPassthrough(p Passthrough, base http.RoundTripper) (*passthrough, error) {
	var errs []error
	out := &passthrough{auth: p.Auth, rt: base}
	for _, h := range p.Hosts {
		d, err := parseDestination(h)
		if err == nil && d.base != "" {
			err = errors.New("has a path")
		}
		if err != nil {
			errs = append(errs, fmt.Errorf("passthrough: Hosts entry %q: %w", h, err))
			continue
		}
		if out.hosts == nil {
			out.hosts = make(map[string]bool)
		}
		out.hosts[d.address()] = true
	}
	t, ok := base.(*http.Transport)
	switch {
	case ok:
		// A proxy would connect on our behalf to what the guard refuses.
		t = t.Clone()
		t.Proxy = nil
		t.DisableCompression = true
		if len(p.Hosts) == 0 {
			t.DialContext = guard.NewDialer(nil).DialContext
			//lint:ignore SA1019 a deprecated dialer left in place would go round the guard
			t.Dial, t.DialTLS, t.DialTLSContext = nil, nil, nil
			t.ForceAttemptHTTP2 = true
		}
		out.rt, out.owned = t, []*http.Transport{t}
	case len(p.Hosts) == 0:
		errs = append(errs, errors.New("passthrough: a transport that is not *http.Transport cannot be kept off private addresses: list Hosts, or pass an *http.Transport"))
	}
	return out, errors.Join(errs...)
}

func passthroughAsked(r *http.Request) bool {
	_, ok := r.Header[headerProvider]
	return ok
}

// destination is a parsed X-APEX-AI-PROXY-PROVIDER.
type destination struct {
	host string // lower case; an IPv6 address without brackets
	port string // empty: 443
	base string // escaped path without trailing slash, or empty
}

func (d destination) address() string {
	port := d.port
	if port == "" {
		port = "443"
	}
	return net.JoinHostPort(d.host, port)
}

// authority is what stands in the URL and the Host header.
func (d destination) authority() string {
	host := d.host
	if strings.Contains(host, ":") {
		host = "[" + host + "]"
	}
	if d.port == "" || d.port == "443" {
		return host
	}
	return host + ":" + d.port
}

// parseDestination reads [https://]host[:port][/base]. The grammar is narrow on purpose: what two
// parsers could read differently (userinfo, backslash, odd numbers, escapes in the host, dot
// segments, a trailing dot) is refused.
func parseDestination(s string) (destination, error) {
	var d destination
	for i := range len(s) {
		switch c := s[i]; {
		case c <= ' ' || c == 0x7F:
			return d, errors.New("holds white space or a control character")
		case c >= 0x80:
			return d, errors.New("holds a character outside ASCII: write the host in punycode")
		case c == '\\' || c == '@' || c == '?' || c == '#':
			return d, fmt.Errorf("holds %q: only host, port and base path are allowed", c)
		}
	}
	if i := strings.Index(s, "://"); i >= 0 {
		if !strings.EqualFold(s[:i], "https") {
			return d, errors.New("has a scheme other than https")
		}
		s = s[i+len("://"):]
	}
	authority, base := s, ""
	if i := strings.IndexByte(s, '/'); i >= 0 {
		authority, base = s[:i], s[i:]
	}
	if err := d.parseAuthority(authority); err != nil {
		return d, err
	}
	plain, err := url.PathUnescape(base)
	if err != nil {
		return d, errors.New("has a base path with a broken % escape")
	}
	// Decoded once more: an upstream that decodes twice must not see dots that we did not.
	if twice, err := url.PathUnescape(plain); hasDotSegment(plain) || err == nil && hasDotSegment(twice) {
		return d, errors.New("has a . or .. segment in its base path")
	}
	if strings.ContainsFunc(plain, func(c rune) bool { return c < ' ' || c == 0x7F || c == '\\' }) {
		return d, errors.New("has a control character or backslash in its base path")
	}
	d.base = strings.TrimRight(base, "/")
	return d, nil
}

func (d *destination) parseAuthority(s string) error {
	host, port := s, ""
	if strings.HasPrefix(s, "[") {
		end := strings.IndexByte(s, ']')
		if end < 0 || end+1 < len(s) && s[end+1] != ':' {
			return errors.New("has a broken IPv6 host")
		}
		host, port = s[1:end], s[end+1:]
		a, err := netip.ParseAddr(host)
		if err != nil || !a.Is6() || a.Zone() != "" || a.Is4In6() {
			return errors.New("is not an IPv6 address without zone")
		}
		host = a.String()
	} else {
		if i := strings.IndexByte(s, ':'); i >= 0 {
			host, port = s[:i], s[i:]
		}
		host = strings.ToLower(host)
		if err := checkHost(host); err != nil {
			return err
		}
	}
	d.host = host
	if port == "" {
		return nil
	}
	n, err := strconv.ParseUint(port[1:], 10, 16)
	if err != nil || n == 0 || strconv.FormatUint(n, 10) != port[1:] {
		return errors.New("has a port that is not a number from 1 to 65535")
	}
	d.port = port[1:]
	return nil
}

// checkHost accepts DNS names and canonical dotted quads. A name whose last label is a number in
// any base is an IPv4 address to some parsers (WHATWG URL, "ends in a number checker") and refused
// unless canonical.
func checkHost(host string) error {
	if host == "" {
		return errors.New("has no host: write host[:port][/base]")
	}
	if len(host) > 253 {
		return errors.New("has a host that is too long")
	}
	labels := strings.Split(host, ".")
	for _, l := range labels {
		if l == "" || len(l) > 63 {
			return errors.New("has an empty or too long label in its host")
		}
		for i := range len(l) {
			if c := l[i]; !(c >= 'a' && c <= 'z' || c >= '0' && c <= '9' || c == '-' || c == '_') {
				return errors.New("has a character in its host that no host name has")
			}
		}
	}
	last := labels[len(labels)-1]
	_, err := strconv.ParseUint(last, 10, 64)
	numeric := err == nil || errors.Is(err, strconv.ErrRange) || strings.HasPrefix(last, "0x")
	if a, err := netip.ParseAddr(host); numeric && (err != nil || a.String() != host) {
		return errors.New("has a number for a host that is not a plain IPv4 address")
	}
	return nil
}

func hasDotSegment(path string) bool {
	for seg := range strings.SplitSeq(path, "/") {
		if seg == "." || seg == ".." {
			return true
		}
	}
	return false
}

// aim decides on the target that the client names. No body is read for it.
func (pt *passthrough) aim(x *exchange) *reply {
	r := x.r
	values := r.Header[headerProvider]
	if len(values) != 1 {
		return refuse(400, "invalid_provider", "X-APEX-AI-PROXY-PROVIDER must come once")
	}
	d, err := parseDestination(textproto.TrimString(values[0]))
	if err != nil {
		return refuse(400, "invalid_provider", "X-APEX-AI-PROXY-PROVIDER %v", err)
	}
	x.provider = d.authority()
	if pt.hosts != nil && !pt.hosts[d.address()] {
		return refuse(403, "host_not_allowed", "the host in X-APEX-AI-PROXY-PROVIDER is not on this proxy's list")
	}
	if a, err := netip.ParseAddr(d.host); err == nil && pt.hosts == nil && !guard.Public(a) {
		return prohibited()
	}
	if hasDotSegment(r.URL.Path) {
		return refuse(400, "invalid_path", "the path has a . or .. segment: write it out")
	}
	path, query := r.URL.EscapedPath(), r.URL.RawQuery
	switch asked := strings.ToLower(strings.TrimSpace(r.Header.Get(headerType))); {
	case asked == "chat-completions" && x.client == protocol.Messages && x.operation != OperationModels:
		x.upstream = protocol.Chat
		path = strings.TrimSuffix(strings.TrimRight(path, "/"), "/messages") + "/chat/completions"
		query = header.StripQuery(query, "beta")
	case asked == "anthropic" && x.client == protocol.Chat:
		return refuse(400, "unsupported_operation",
			"chat completions cannot be converted for an upstream that speaks anthropic: send a messages request")
	}
	if x.estimates() {
		return nil // nothing is sent
	}
	u := url.URL{Scheme: "https", Host: d.authority(), RawQuery: query}
	setPath(&u, d.base+path)
	x.target = target{url: u, rt: pt.rt}
	return nil
}
