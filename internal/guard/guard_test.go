package guard

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
)

func TestPublic(t *testing.T) {
	t.Parallel()
	groups := []struct {
		what   string
		public bool
		addrs  string
	}{
		{"public", true, "1.1.1.1 8.8.8.8 8.8.4.4 9.9.9.9 104.16.0.1 162.159.140.245 20.42.0.1 223.255.255.255 " +
			"2606:4700::1111 2001:4860:4860::8888 2620:fe::fe 2a00:1450:4001::1 2400:cb00::1 2c0f:fb50::1"},
		{"public, special purpose but reachable (AS112, AMT)", true, "192.31.196.1 192.52.193.1 192.175.48.1 2620:4f:8000::1"},
		{"unspecified, this network", false, "0.0.0.0 0.0.0.1 0.255.255.255 ::"},
		{"loopback", false, "127.0.0.1 127.0.0.53 127.1.2.3 127.255.255.255 ::1"},
		{"private", false, "10.0.0.1 172.16.0.1 172.31.255.254 192.168.0.1 192.168.255.255"},
		{"unique local", false, "fc00::1 fd00::1 fdff:ffff::1"},
		{"link-local", false, "169.254.0.1 169.254.255.255 fe80::1 febf:ffff::1"},
		{"site-local, deprecated", false, "fec0::1 feff::1"},
		{"shared address space", false, "100.64.0.1 100.127.255.255"},
		{"metadata: AWS, GCP, Azure, Oracle, DigitalOcean, OpenStack", false, "169.254.169.254 fe80::a9fe:a9fe"},
		{"metadata: AWS tasks, EKS, time, DNS", false, "169.254.170.2 169.254.170.23 169.254.169.123 169.254.169.253 fd00:ec2::254 fd00:ec2::23 fd00:ec2::253"},
		{"metadata: GCP over IPv6", false, "fd20:ce::254"},
		{"metadata: Azure's wire server", false, "168.63.129.16"},
		{"metadata: Alibaba, Tencent, Oracle Classic", false, "100.100.100.200 169.254.0.23 192.0.0.192"},
		{"protocol assignments", false, "192.0.0.1 192.0.0.8 192.0.0.170 192.0.0.255"},
		{"documentation", false, "192.0.2.1 198.51.100.1 203.0.113.1 2001:db8::1 3fff::1 3fff:fff::1"},
		{"benchmarking", false, "198.18.0.1 198.19.255.255 2001:2::1"},
		{"6to4 relay anycast", false, "192.88.99.1"},
		{"multicast", false, "224.0.0.1 239.255.255.250 ff00::1 ff02::1 ff0e::1"},
		{"reserved, broadcast", false, "240.0.0.1 254.1.2.3 255.255.255.254 255.255.255.255"},
		{"IPv4-mapped", false, "::ffff:127.0.0.1 ::ffff:10.0.0.1 ::ffff:169.254.169.254 ::ffff:8.8.8.8 ::ffff:0:0"},
		{"IPv4-compatible", false, "::127.0.0.1 ::10.0.0.1 ::8.8.8.8 ::2"},
		{"IPv4-translated", false, "::ffff:0:127.0.0.1"},
		{"NAT64", false, "64:ff9b::7f00:1 64:ff9b::a9fe:a9fe 64:ff9b::8.8.8.8 64:ff9b:1::a00:1 64:ff9b:1:ffff:ffff:ffff:ffff:ffff"},
		{"6to4", false, "2002:7f00:1:: 2002:a00:1::1 2002:a9fe:a9fe::1 2002:808:808::1"},
		{"Teredo", false, "2001::1 2001:0:4136:e378:8000:63bf:80ff:fffe"},
		{"ORCHID, drone ids, other assignments", false, "2001:10::1 2001:20::1 2001:30::1 2001:1::1 2001:3::1 2001:4:112::1"},
		{"discard, dummy", false, "100::1 100:0:0:1::1"},
		{"segment routing", false, "5f00::1"},
		{"not given out", false, "4000::1 8000::1 e000::1 1fff::1 200::1"},
		{"zones", false, "fe80::1%eth0 2606:4700::1111%eth0 ::1%lo ff02::1%1"},
	}
	for _, g := range groups {
		for s := range strings.FieldsSeq(g.addrs) {
			if got := Public(netip.MustParseAddr(s)); got != g.public {
				t.Errorf("%s: Public(%s) = %v", g.what, s, got)
			}
		}
	}
	if Public(netip.Addr{}) {
		t.Error("the zero Addr is public")
	}
}

func last(p netip.Prefix) netip.Addr {
	b := p.Masked().Addr().AsSlice()
	for i := p.Bits(); i < 8*len(b); i++ {
		b[i/8] |= 1 << (7 - i%8)
	}
	a, _ := netip.AddrFromSlice(b)
	return a
}

// Each block, written here once more and not taken from the code under test: its first and last
// address are blocked, and its neighbours are what the table says, so that no block is one bit too
// wide or too narrow.
func TestBoundaries(t *testing.T) {
	t.Parallel()
	const in, out, none = false, true, false
	tests := []struct {
		block         string
		before, after bool // the neighbours are public
	}{
		{"0.0.0.0/8", none, out},
		{"10.0.0.0/8", out, out},
		{"100.64.0.0/10", out, out},
		{"127.0.0.0/8", out, out},
		{"168.63.129.16/32", out, out},
		{"169.254.0.0/16", out, out},
		{"172.16.0.0/12", out, out},
		{"192.0.0.0/24", out, out},
		{"192.0.2.0/24", out, out},
		{"192.88.99.0/24", out, out},
		{"192.168.0.0/16", out, out},
		{"198.18.0.0/15", out, out},
		{"198.51.100.0/24", out, out},
		{"203.0.113.0/24", out, out},
		{"224.0.0.0/4", out, in},
		{"240.0.0.0/4", in, none},
		{"::/3", none, out},
		{"2001::/23", out, out},
		{"2001:db8::/32", out, out},
		{"2002::/16", out, out},
		{"3fff::/20", out, out},
		{"4000::/2", out, in},
		{"8000::/1", in, none},
	}
	for _, test := range tests {
		p := netip.MustParsePrefix(test.block)
		first, end := p.Addr(), last(p)
		got := [4]bool{Public(first.Prev()), Public(first), Public(end), Public(end.Next())}
		want := [4]bool{test.before, false, false, test.after}
		if got != want {
			t.Errorf("%s: public before, first, last, after = %v, want %v", p, got, want)
		}
	}
}

// A trap is a listener that must not be reached.
type trap struct {
	net.Listener
	port string
}

func newTrap(t *testing.T, addr string) trap {
	t.Helper()
	l, err := net.Listen("tcp", net.JoinHostPort(addr, "0"))
	if err != nil {
		t.Skipf("no listener on %s: %v", addr, err)
	}
	t.Cleanup(func() { l.Close() })
	_, port, _ := net.SplitHostPort(l.Addr().String())
	return trap{l, port}
}

// untouched connects without a guard and fails t unless that connection is the first one the
// listener ever got: the kernel hands them out in order.
func (l trap) untouched(t *testing.T) {
	t.Helper()
	own, err := net.Dial("tcp", l.Addr().String())
	if err != nil {
		t.Fatal(err)
	}
	defer own.Close()
	got, err := l.Accept()
	if err != nil {
		t.Fatal(err)
	}
	defer got.Close()
	if got.RemoteAddr().String() != own.LocalAddr().String() {
		t.Error("a guarded dial opened a connection")
	}
}

// blocked fails t unless the dial was refused by the guard.
func blocked(t *testing.T, d *net.Dialer, network, address string) {
	t.Helper()
	c, err := d.DialContext(t.Context(), network, address)
	if err == nil {
		c.Close()
		t.Errorf("dial %s: connected", address)
		return
	}
	if !errors.Is(err, ErrBlocked) {
		t.Errorf("dial %s: %v, want ErrBlocked", address, err)
	}
	var op *net.OpError
	if !errors.As(err, &op) || op.Err != ErrBlocked {
		t.Errorf("dial %s: %#v, want a net.OpError around ErrBlocked", address, err)
	}
}

func TestDialLiteral(t *testing.T) {
	t.Parallel()
	v4 := newTrap(t, "127.0.0.1")
	d := NewDialer(nil)
	for _, host := range []string{"127.0.0.1", "127.0.0.2", "0.0.0.0", "", "::ffff:127.0.0.1", "::ffff:7f00:1", "::", "localhost"} {
		blocked(t, d, "tcp", net.JoinHostPort(host, v4.port))
	}
	for _, host := range []string{"127.0.0.1", "0.0.0.0", "", "::ffff:127.0.0.1"} {
		blocked(t, d, "tcp4", net.JoinHostPort(host, v4.port))
	}
	v4.untouched(t)

	for _, host := range []string{"10.0.0.1", "169.254.169.254", "192.168.1.1", "100.100.100.200", "168.63.129.16", "255.255.255.255", "224.0.0.1",
		"fd00:ec2::254", "fe80::1", "64:ff9b::7f00:1", "2002:7f00:1::", "::127.0.0.1"} {
		blocked(t, d, "tcp", net.JoinHostPort(host, "80"))
	}
}

func TestDialLiteral6(t *testing.T) {
	t.Parallel()
	v6 := newTrap(t, "::1")
	d := NewDialer(nil)
	for _, host := range []string{"::1", "::", "::1%lo", "0:0:0:0:0:0:0:1"} {
		blocked(t, d, "tcp", net.JoinHostPort(host, v6.port))
		blocked(t, d, "tcp6", net.JoinHostPort(host, v6.port))
	}
	v6.untouched(t)
}

func TestErrorText(t *testing.T) {
	t.Parallel()
	if got, want := ErrBlocked.Error(), "guard: the address is not a public one"; got != want {
		t.Errorf("%q, want %q: an address must not get into it", got, want)
	}
	err := NewDialer(nil).Control("tcp4", "10.11.12.13:8080", nil)
	if err != ErrBlocked {
		t.Errorf("Control returned %v, want ErrBlocked itself", err)
	}
	for _, address := range []string{"", ":80", "10.0.0.1", "name:80", "1.1.1.1", "1.1.1.1:http", "[::1]:80", "[fe80::1%eth0]:80"} {
		if err := NewDialer(nil).Control("tcp", address, nil); err != ErrBlocked {
			t.Errorf("Control(%q) = %v, want ErrBlocked", address, err)
		}
	}
	for _, address := range []string{"1.1.1.1:443", "[2606:4700::1111]:443"} {
		if err := NewDialer(nil).Control("tcp", address, nil); err != nil {
			t.Errorf("Control(%q) = %v", address, err)
		}
	}
}

// A nameserver answers on loopback with what its script says.
type nameserver struct {
	conn net.PacketConn
	// answer returns the addresses of a name for the nth question about it and one record type,
	// counted from 0.
	answer func(name string, n int) []string

	mu    sync.Mutex
	asked map[string]int
}

const typeA, typeAAAA = 1, 28

func newNameserver(t *testing.T, answer func(name string, n int) []string) *nameserver {
	t.Helper()
	conn, err := net.ListenPacket("udp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	s := &nameserver{conn: conn, answer: answer, asked: map[string]int{}}
	done := make(chan struct{})
	t.Cleanup(func() {
		conn.Close()
		<-done
	})
	go func() {
		defer close(done)
		p := make([]byte, 1500)
		for {
			n, from, err := conn.ReadFrom(p)
			if err != nil {
				return
			}
			if reply := s.reply(p[:n]); reply != nil {
				_, _ = conn.WriteTo(reply, from)
			}
		}
	}()
	return s
}

// reply answers one question (RFC 1035, section 4).
func (s *nameserver) reply(q []byte) []byte {
	if len(q) < 12 || binary.BigEndian.Uint16(q[4:]) != 1 {
		return nil
	}
	var labels []string
	i := 12
	for i < len(q) && q[i] != 0 {
		n := int(q[i])
		if i+1+n > len(q) {
			return nil
		}
		labels = append(labels, string(q[i+1:i+1+n]))
		i += 1 + n
	}
	if i+5 > len(q) {
		return nil
	}
	name, kind, end := strings.Join(labels, "."), binary.BigEndian.Uint16(q[i+1:]), i+5

	s.mu.Lock()
	key := fmt.Sprint(name, kind)
	addrs := s.answer(name, s.asked[key])
	s.asked[key]++
	s.mu.Unlock()

	r := append([]byte(nil), q[:end]...)
	binary.BigEndian.PutUint16(r[2:], 0x8180) // a response, recursion available, no error
	clear(r[6:12])
	for _, addr := range addrs {
		a := netip.MustParseAddr(addr)
		if a.Is4() != (kind == typeA) || kind != typeA && kind != typeAAAA {
			continue
		}
		r[7]++
		r = append(r, 0xC0, 12)                        // the name asked for
		r = append(r, 0, byte(kind), 0, 1, 0, 0, 0, 0) // class IN, TTL 0
		r = append(r, 0, byte(len(a.AsSlice())))       // length
		r = append(r, a.AsSlice()...)
	}
	return r
}

func (s *nameserver) resolver() *net.Resolver {
	return &net.Resolver{
		PreferGo: true,
		Dial: func(ctx context.Context, _, _ string) (net.Conn, error) {
			return new(net.Dialer).DialContext(ctx, "udp", s.conn.LocalAddr().String())
		},
	}
}

var errHalt = errors.New("the guard let it pass; the test goes no further")

// halting makes d note the guard's verdict for each address that is about to be connected and never
// connect, so that no test reaches out to a public one.
func halting(d *net.Dialer) (verdicts func() map[string]bool) {
	var mu sync.Mutex
	seen := map[string]bool{}
	guarded := d.Control
	d.Control = func(network, address string, c syscall.RawConn) error {
		err := guarded(network, address, c)
		mu.Lock()
		seen[address] = err == nil
		mu.Unlock()
		if err == nil {
			err = errHalt
		}
		return err
	}
	return func() map[string]bool {
		mu.Lock()
		defer mu.Unlock()
		return seen
	}
}

func TestDialName(t *testing.T) {
	t.Parallel()
	l := newTrap(t, "127.0.0.1")
	zone := map[string][]string{
		"loopback.test.": {"127.0.0.1"},
		"six.test.":      {"::1"},
		"both.test.":     {"::1", "127.0.0.1"},
		"private.test.":  {"10.0.0.1", "192.168.0.1", "fd00::1"},
		"metadata.test.": {"169.254.169.254"},
		"mapped.test.":   {"::ffff:127.0.0.1"},
		"nat64.test.":    {"64:ff9b::7f00:1"},
		"zero.test.":     {"0.0.0.0", "::"},
	}
	s := newNameserver(t, func(name string, _ int) []string { return zone[strings.ToLower(name)+"."] })
	for name := range zone {
		blocked(t, NewDialer(s.resolver()), "tcp", net.JoinHostPort(name, l.port))
		blocked(t, NewDialer(s.resolver()), "tcp", net.JoinHostPort(strings.ToUpper(name), l.port))
	}
	l.untouched(t)
}

// Addresses in the forms of inet_aton are names to Go, whatever a resolver makes of them.
func TestDialOddNumbers(t *testing.T) {
	t.Parallel()
	l := newTrap(t, "127.0.0.1")
	s := newNameserver(t, func(string, int) []string { return []string{"127.0.0.1"} })
	for _, host := range []string{"127.1", "2130706433", "0x7f000001", "0x7f.0.0.1", "0177.0.0.1", "017700000001", "127.0.0.1.", "127.000.000.001", "①27.0.0.1", "127。0。0。1"} {
		c, err := NewDialer(s.resolver()).DialContext(t.Context(), "tcp", net.JoinHostPort(host, l.port))
		if err == nil {
			c.Close()
			t.Errorf("dial %s: connected", host)
		}
	}
	l.untouched(t)
}

func TestDialMixedAnswer(t *testing.T) {
	t.Parallel()
	l := newTrap(t, "127.0.0.1")
	s := newNameserver(t, func(string, int) []string {
		return []string{"8.8.8.8", "127.0.0.1", "2606:4700::1111", "::1", "10.0.0.1"}
	})
	d := NewDialer(s.resolver())
	d.FallbackDelay = -1 // one address after the other: all are tried
	verdicts := halting(d)
	if _, err := d.DialContext(t.Context(), "tcp", "mixed.test.:"+l.port); !errors.Is(err, errHalt) && !errors.Is(err, ErrBlocked) {
		t.Errorf("error %v", err)
	}
	want := map[string]bool{}
	for addr, public := range map[string]bool{"8.8.8.8": true, "127.0.0.1": false, "2606:4700::1111": true, "::1": false, "10.0.0.1": false} {
		want[net.JoinHostPort(addr, l.port)] = public
	}
	if diff := cmp.Diff(want, verdicts()); diff != "" {
		t.Errorf("address → passed (-want +got):\n%s", diff)
	}
	l.untouched(t)
}

// The resolver says a public address while somebody looks, and loopback when it comes to
// connecting.
func TestDialFlippedAnswer(t *testing.T) {
	t.Parallel()
	l := newTrap(t, "127.0.0.1")
	s := newNameserver(t, func(_ string, n int) []string {
		if n == 0 {
			return []string{"8.8.8.8"}
		}
		return []string{"127.0.0.1"}
	})
	resolver := s.resolver()
	addrs, err := resolver.LookupNetIP(t.Context(), "ip4", "flip.test.")
	if err != nil || len(addrs) != 1 || !Public(addrs[0].Unmap()) {
		t.Fatalf("the first answer is %v, %v; the test needs a public one", addrs, err)
	}
	blocked(t, NewDialer(resolver), "tcp4", "flip.test.:"+l.port)

	// The same between two dials of one dialer.
	d := NewDialer(resolver)
	verdicts := halting(d)
	for _, want := range []error{errHalt, ErrBlocked, ErrBlocked} {
		if _, err := d.DialContext(t.Context(), "tcp4", "again.test.:"+l.port); !errors.Is(err, want) {
			t.Errorf("error %v, want %v", err, want)
		}
	}
	want := map[string]bool{"8.8.8.8:" + l.port: true, "127.0.0.1:" + l.port: false}
	if diff := cmp.Diff(want, verdicts()); diff != "" {
		t.Errorf("address → passed (-want +got):\n%s", diff)
	}
	l.untouched(t)
}

// A dialer without the guard reaches the trap by the fake name: the tests above are about
// something.
func TestTrapWorks(t *testing.T) {
	t.Parallel()
	l := newTrap(t, "127.0.0.1")
	s := newNameserver(t, func(string, int) []string { return []string{"127.0.0.1"} })
	d := NewDialer(s.resolver())
	if d.Resolver == nil || d.Timeout != 15*time.Second || d.ControlContext != nil {
		t.Errorf("the dialer is %+v", d)
	}
	d.Control = nil
	c, err := d.DialContext(t.Context(), "tcp", "loopback.test.:"+l.port)
	if err != nil {
		t.Fatal(err)
	}
	c.Close()
}
