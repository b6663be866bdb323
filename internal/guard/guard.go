// Package guard decides which addresses may be dialled on behalf of a client that names the host
// itself.
package guard

import (
	"errors"
	"net"
	"net/netip"
	"syscall"
	"time"
)

// ErrBlocked is what a guarded dial fails with when an address is not public. It names no address:
// the error may end up in a log that clients can read.
var ErrBlocked = errors.New("guard: the address is not a public one")

// blocked4 lists the IPv4 blocks of the IANA special-purpose registry that are not globally
// reachable, the deprecated 6to4 relay anycast, multicast and the reserved space, plus the one
// cloud metadata service on a public address.
// https://www.iana.org/assignments/iana-ipv4-special-registry
var blocked4 = prefixes(
	"0.0.0.0/8", "10.0.0.0/8", "100.64.0.0/10", "127.0.0.0/8",
	"169.254.0.0/16", "172.16.0.0/12", "192.0.0.0/24", "192.0.2.0/24",
	"192.88.99.0/24", "192.168.0.0/16", "198.18.0.0/15", "198.51.100.0/24",
	"203.0.113.0/24", "224.0.0.0/4", "240.0.0.0/4",
	"168.63.129.16/32", // Azure's wire server
)

// public6 is the only block of IPv6 that IANA has given out as global unicast. Everything that
// hides an IPv4 address outside it (mapped, compatible, NAT64) is refused by not being in it.
// https://www.iana.org/assignments/ipv6-address-space
var public6 = netip.MustParsePrefix("2000::/3")

// blocked6 lists what is not public inside public6: protocol assignments (Teredo and ORCHID among
// them), documentation, and 6to4, which carries an IPv4 address.
// https://www.iana.org/assignments/iana-ipv6-special-registry
var blocked6 = prefixes("2001::/23", "2001:db8::/32", "2002::/16", "3fff::/20")

func prefixes(list ...string) []netip.Prefix {
	out := make([]netip.Prefix, len(list))
	for i, s := range list {
		out[i] = netip.MustParsePrefix(s)
	}
	return out
}

// Public reports whether a is a public unicast address. An IPv4-mapped address and one with a zone
// are not.
func Public(a netip.Addr) bool {
	blocked := blocked6
	switch {
	case a.Is4():
		blocked = blocked4
	case a.Zone() != "" || !public6.Contains(a):
		return false
	}
	for _, p := range blocked {
		if p.Contains(a) {
			return false
		}
	}
	return true
}

// NewDialer returns a dialer that connects to public addresses only. The check runs after name
// resolution on the very address that is about to be connected, so a resolver that changes its
// answer gains nothing. A nil resolver is net.DefaultResolver.
func NewDialer(resolver *net.Resolver) *net.Dialer {
	return &net.Dialer{
		Timeout:   15 * time.Second,
		KeepAlive: 30 * time.Second,
		Resolver:  resolver,
		Control: func(_, address string, _ syscall.RawConn) error {
			ap, err := netip.ParseAddrPort(address)
			if err != nil || !Public(ap.Addr()) {
				return ErrBlocked
			}
			return nil
		},
	}
}
