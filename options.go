package apexproxy

import (
	"errors"
	"log/slog"
	"net"
	"net/http"
	"slices"
	"time"
)

// An Option configures a [Proxy]. The order of options does not matter. [WithProvider],
// [WithReporter] and [WithCORS] add to what was given before; of the others the last one counts.
// Slices and maps passed in are copied, except a [ChatProfile]. A nil Option does nothing.
type Option interface{ apply(*config) }

type optionFunc func(*config)

func (f optionFunc) apply(c *config) { f(c) }

type config struct {
	gateway     *Gateway
	providers   []Provider
	passthrough *Passthrough
	auth        Authenticator
	authSet     bool
	mapping     string
	origins     []string
	strict      bool
	maxRequest  int64
	maxBuffered int64
	transport   http.RoundTripper
	owned       []*http.Transport // made here, for the Proxy to close
	sinks       []sinkConfig
	logger      *slog.Logger
}

// Defaults of [WithMaxRequestBytes] and [WithMaxBufferedBytes].
const (
	defaultMaxRequest  = 32 << 20
	defaultMaxBuffered = 512 << 20
)

// newConfig applies the options, and the defaults of what none of them says.
func newConfig(opts []Option) *config {
	c := &config{maxRequest: defaultMaxRequest}
	for _, o := range opts {
		if o != nil {
			o.apply(c)
		}
	}
	if c.logger == nil {
		c.logger = slog.New(slog.DiscardHandler)
	}
	if c.maxBuffered == 0 {
		c.maxBuffered = max(defaultMaxBuffered, c.maxRequest)
	}
	if c.transport == nil {
		t := NewTransport()
		c.transport, c.owned = t, append(c.owned, t)
	}
	return c
}

// clients returns who decides which clients may use the gateway.
func (c *config) clients() Authenticator {
	switch {
	case c.authSet:
		return c.auth
	case c.gateway != nil:
		return Tokens(c.gateway.Token)
	}
	return nil
}

// validate returns what is wrong with the options beside the values that have a grammar of their
// own: the gateway, hosts, mapping and origins are checked where they are read.
func (c *config) validate() error {
	var errs []error
	check := func(wrong bool, message string) {
		if wrong {
			errs = append(errs, errors.New(message))
		}
	}
	check(c.maxRequest <= 0 || c.maxBuffered < c.maxRequest, "WithMaxRequestBytes must be positive and not above WithMaxBufferedBytes")
	check(c.gateway == nil && c.passthrough == nil, "nothing to forward to: give WithGateway, WithPassthrough or both")
	check(c.gateway == nil && (c.authSet || len(c.providers) > 0),
		"WithAuth and WithProvider need WithGateway: passthrough has Passthrough.Auth and no table")
	check(c.authSet && (c.auth == nil || admitsNobody(c.auth)), "WithAuth: the Authenticator is nil, or Tokens got no token or an empty one")
	check(c.passthrough != nil && c.passthrough.Auth != nil && admitsNobody(c.passthrough.Auth), "passthrough: Auth: Tokens got no token or an empty one")
	for _, s := range c.sinks {
		f, isFunc := s.reporter.(ReporterFunc)
		check(s.reporter == nil || isFunc && f == nil, "WithReporter: the Reporter is nil")
		check(s.Items <= 0 || s.Bytes <= 0 || s.Batch <= 0 || s.Timeout <= 0 || s.content < 0,
			"WithReporter: QueueSize, BatchSize, ReportTimeout and CaptureContent must be positive")
	}
	return errors.Join(errs...)
}

// WithGateway turns gateway mode on. Without it, requests that name no upstream are refused.
func WithGateway(g Gateway) Option {
	g.ForwardHeaders = slices.Clone(g.ForwardHeaders)
	return optionFunc(func(c *config) { c.gateway = &g })
}

// WithProvider adds a row to the provider table, or replaces the row of the same name: whole, what
// is empty stays empty. Without [WithGateway] it makes [New] fail.
func WithProvider(row Provider) Option {
	return optionFunc(func(c *config) { c.providers = append(c.providers, row) })
}

// WithPassthrough turns passthrough on. Read [Passthrough] before turning it on where strangers can
// reach the proxy. Without this option a request with X-APEX-AI-PROXY-PROVIDER is refused.
func WithPassthrough(p Passthrough) Option {
	p.Hosts = slices.Clone(p.Hosts)
	return optionFunc(func(c *config) { c.passthrough = &p })
}

// WithAuth replaces the gateway token as what clients present in gateway mode. Passthrough has its
// own: [Passthrough].Auth. A nil Authenticator makes [New] fail, and so does WithAuth without
// [WithGateway].
func WithAuth(a Authenticator) Option {
	return optionFunc(func(c *config) { c.auth, c.authSet = a, true })
}

// WithMapping maps models for every client, in the grammar of X-APEX-AI-PROXY-MAPPING: from#to or
// from#to#provider, separated by commas. A client's own header is looked at first; only one of them
// applies, once.
func WithMapping(mapping string) Option {
	return optionFunc(func(c *config) { c.mapping = mapping })
}

// WithStrictConversion refuses with 400 a request that conversion between protocols cannot carry
// whole. Without it the request goes on without what cannot be carried, and that is named in the
// answer's X-Apex-Ai-Proxy-Dropped and in [Record].Dropped. What an answer loses is named there
// too, and refused by neither.
func WithStrictConversion() Option {
	return optionFunc(func(c *config) { c.strict = true })
}

// WithCORS lets browsers on these origins read answers: "*" or exact origins such as
// "https://app.example.com". Credentials in the sense of cookies are never allowed. Without it no
// CORS header is sent.
func WithCORS(origins ...string) Option {
	return optionFunc(func(c *config) { c.origins = append(c.origins, origins...) })
}

// WithMaxRequestBytes bounds one request body, inflated or not; a larger one is answered with 413.
// The default is 32 MiB. n must be positive.
func WithMaxRequestBytes(n int64) Option {
	return optionFunc(func(c *config) { c.maxRequest = n })
}

// WithMaxBufferedBytes bounds what the Proxy holds of bodies at one time: those of requests,
// answers that are read whole, and what a converted stream keeps of its tool calls and thinking.
// Past it the client gets 503 and Retry-After, or in a stream that has begun an error event. The
// default is 512 MiB, or the bound of one body when that is more. A request that is inflated or
// converted counts with both forms. n must not be less than the bound of one body.
func WithMaxBufferedBytes(n int64) Option {
	return optionFunc(func(c *config) { c.maxBuffered = n })
}

// WithTransport replaces the transport made by [NewTransport], which nil means too. The gateway
// uses it as it is. Passthrough uses a clone that has no proxy and, unless [Passthrough].Hosts is
// set, only dials public addresses; a RoundTripper that is not an *http.Transport is accepted for
// passthrough only with Hosts, and then used as it is: it must not follow redirects.
func WithTransport(rt http.RoundTripper) Option {
	return optionFunc(func(c *config) { c.transport = rt })
}

// WithReporter adds a reporter. Each has a queue and a goroutine of its own: one that is slow or
// fails delays neither the others nor clients. A nil Reporter makes [New] fail.
func WithReporter(r Reporter, opts ...ReporterOption) Option {
	return optionFunc(func(c *config) { c.sinks = append(c.sinks, newSinkConfig(r, opts)) })
}

// WithLogger sets where the Proxy logs what no answer and no record can tell, such as a failing
// reporter. The default, and nil, discards. No line holds a secret or a body.
func WithLogger(l *slog.Logger) Option {
	return optionFunc(func(c *config) { c.logger = l })
}

// NewTransport returns the default transport: many idle connections to one host, HTTP/2, no
// compression of its own, and no limit on the time until an answer begins, because a completion's
// headers may take minutes. It honours the proxy settings of the environment as
// [http.DefaultTransport] does. Change it and pass it to [WithTransport].
func NewTransport() *http.Transport {
	return &http.Transport{
		Proxy:                 http.ProxyFromEnvironment,
		DialContext:           (&net.Dialer{Timeout: 15 * time.Second, KeepAlive: 30 * time.Second}).DialContext,
		ForceAttemptHTTP2:     true,
		MaxIdleConns:          512,
		MaxIdleConnsPerHost:   128,
		IdleConnTimeout:       90 * time.Second,
		TLSHandshakeTimeout:   10 * time.Second,
		ExpectContinueTimeout: time.Second,
		DisableCompression:    true,
	}
}
