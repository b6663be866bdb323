package apexproxy

import (
	"context"
	"crypto/sha256"
	"crypto/subtle"
	"errors"
	"net/http"
	"reflect"
	"strconv"
	"strings"

	"github.com/loadchange/apexproxy/internal/header"
)

// An Authenticator decides who may call. It gets the request as it came, must neither read the body
// nor change anything, and may be called concurrently. Any error refuses the request with 401; its
// text reaches neither the client nor a log.
type Authenticator func(r *http.Request) (Identity, error)

// Identity says who called. Stages after authentication and records see it, so it must hold no
// secret. The zero Identity is nobody.
type Identity struct {
	Subject  string            // high cardinality
	Metadata map[string]string // not copied: do not change it after returning it
}

type identityKey struct{}

// IdentityFromContext returns the identity of the exchange. It is set in the request that
// [Gateway].Header gets.
func IdentityFromContext(ctx context.Context) (Identity, bool) {
	id, ok := ctx.Value(identityKey{}).(Identity)
	return id, ok
}

var errUnauthenticated = errors.New("apexproxy: unauthenticated")

// Tokens returns an Authenticator that admits clients presenting one of tokens, compared in
// constant time. In gateway mode a client presents it as Authorization: Bearer or, only when that
// header is absent or empty, as x-api-key; in passthrough mode as X-APEX-AI-PROXY-TOKEN. The
// identity's subject is "token-1" for the first of tokens, and so on. Without tokens, or with an
// empty one among them, it admits nobody and [New] fails: a slip in a configuration never opens a
// proxy.
func Tokens(tokens ...string) Authenticator {
	if len(tokens) == 0 {
		return admitNobody
	}
	sums := make([][sha256.Size]byte, len(tokens))
	for i, t := range tokens {
		if t == "" {
			return admitNobody
		}
		sums[i] = sha256.Sum256([]byte(t))
	}
	return func(r *http.Request) (Identity, error) {
		presented := sha256.Sum256([]byte(presentedToken(r)))
		match := -1
		for i := range sums {
			match = subtle.ConstantTimeSelect(subtle.ConstantTimeCompare(presented[:], sums[i][:]), i, match)
		}
		if match < 0 {
			return Identity{}, errUnauthenticated
		}
		return Identity{Subject: "token-" + strconv.Itoa(match+1)}, nil
	}
}

func admitNobody(*http.Request) (Identity, error) { return Identity{}, errUnauthenticated }

// admitsNobody recognises what Tokens returns for no tokens.
func admitsNobody(a Authenticator) bool {
	return reflect.ValueOf(a).Pointer() == reflect.ValueOf(admitNobody).Pointer()
}

const (
	headerProvider = header.ControlPrefix + "Provider"
	headerType     = header.ControlPrefix + "Type"
	headerMapping  = header.ControlPrefix + "Mapping"
	headerToken    = header.ControlPrefix + "Token"
)

// presentedToken returns what the client presents to the proxy itself. A non-empty Authorization
// decides alone, also when it is of no use; a header that comes twice is no token.
func presentedToken(r *http.Request) string {
	if passthroughAsked(r) {
		return onlyValue(r.Header[headerToken])
	}
	if auth := r.Header["Authorization"]; len(auth) > 1 || len(auth) == 1 && auth[0] != "" {
		scheme, token, _ := strings.Cut(onlyValue(auth), " ")
		if !strings.EqualFold(scheme, "Bearer") {
			return ""
		}
		return strings.Trim(token, " \t")
	}
	return onlyValue(r.Header["X-Api-Key"])
}

func onlyValue(values []string) string {
	if len(values) != 1 {
		return ""
	}
	return values[0]
}
