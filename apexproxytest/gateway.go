package apexproxytest

import (
	"bytes"
	"cmp"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"slices"
	"strconv"
	"strings"

	"github.com/tidwall/gjson"
)

// A GatewayConfig says what a fake gateway knows. The zero value is usable.
type GatewayConfig struct {
	AccountID string // default "test-account"
	GatewayID string // default "test-gateway"
	Token     string // the gateway token; default "test-token"

	// StoredKeys lists the providers, by slug, with a stored key. Nil means all; an empty list
	// means none.
	StoredKeys []string

	// UnifiedBilling lets the gateway pay for a request without any key, where the provider is in
	// Unified Billing.
	UnifiedBilling bool

	// Paths adds or replaces providers: slug to patterns of a method and the path after the slug,
	// such as "POST v1/chat/completions". A "*" stands for one segment, a pattern "*" for anything.
	Paths map[string][]string

	// Provider answers what passes the gateway; nil means [Provider]. It sees the path after the
	// provider's slug and no cf-aig header.
	Provider http.Handler

	// TLS makes the gateway speak TLS and HTTP/2. [Gateway.Transport] and [Gateway.RootCAs] trust
	// its certificate.
	TLS bool
}

// A Gateway is a fake of Cloudflare AI Gateway, the host gateway.ai.cloudflare.com. It checks what
// the real one checks and also what the real one loses without a word, see
// [GatewayRequest.Violations]. One difference: it takes the token from cf-aig-authorization alone.
// Its methods may be called from several goroutines.
type Gateway struct {
	URL       string // "http://127.0.0.1:port" or "https://127.0.0.1:port"
	Host      string // host:port
	AccountID string
	GatewayID string
	Token     string

	server
	cfg      GatewayConfig
	requests []GatewayRequest
	fail     []http.Handler
}

// The values of [GatewayRequest.Credential].
const (
	CredentialStored  = "stored"  // the gateway added its stored key
	CredentialRequest = "request" // the request brought a credential, which beat the stored key
	CredentialUnified = "unified" // Unified Billing paid
)

// A GatewayRequest is a request and what the gateway made of it.
type GatewayRequest struct {
	Request

	Provider string // the slug; "compat" for the unified endpoint
	Path     string // what follows the slug, without leading slash and query, still escaped
	Model    string // the body's model, "" when there is none

	// Credential names whose key reached the provider: one of the Credential constants, "" when the
	// gateway refused the request.
	Credential string

	// Metadata is cf-aig-metadata as the gateway keeps it, nil when there is none or all of it was
	// lost.
	Metadata map[string]any

	// LogID is the cf-aig-log-id of the answer.
	LogID string

	// Refused says which check the request failed; "" when it went on to the provider.
	Refused string

	// Violations lists cf-aig headers that the real gateway ignores without telling: unknown names,
	// values out of range, lost metadata.
	Violations []string
}

// NewGateway starts a gateway. The caller must call Close.
func NewGateway(cfg GatewayConfig) *Gateway {
	setDefault := func(s *string, v string) {
		if *s == "" {
			*s = v
		}
	}
	setDefault(&cfg.AccountID, "test-account")
	setDefault(&cfg.GatewayID, "test-gateway")
	setDefault(&cfg.Token, "test-token")
	if cfg.Provider == nil {
		cfg.Provider = Provider()
	}
	g := &Gateway{AccountID: cfg.AccountID, GatewayID: cfg.GatewayID, Token: cfg.Token, cfg: cfg}
	g.start(cfg.TLS, g.serve)
	g.URL, g.Host = g.srv.URL, g.host()
	return g
}

// BaseURL returns what replaces https://gateway.ai.cloudflare.com/v1/{account}/{gateway}.
func (g *Gateway) BaseURL() string { return g.URL + "/v1/" + g.AccountID + "/" + g.GatewayID }

// Requests returns a copy of the requests recorded since the start or the last Reset, refused ones
// included.
func (g *Gateway) Requests() []GatewayRequest {
	g.mu.Lock()
	defer g.mu.Unlock()
	list := slices.Clone(g.requests)
	for i := range list {
		list[i].Request = list[i].Request.clone()
	}
	return list
}

// Reset forgets the recorded requests, the counts behind WaitRequests and WaitCancelled, and the
// failures not yet used.
func (g *Gateway) Reset() {
	g.update(func() { g.requests, g.fail, g.arrived, g.cancelled = nil, nil, 0, 0 })
}

// Fail scripts the answers to the next requests that pass every check, one each; after them the
// provider answers again. It takes any handler: [AiGatewayError], [V4Error], [PolicyError],
// [ProviderError], [RateLimited], [Hang].
func (g *Gateway) Fail(answers ...http.Handler) {
	g.update(func() { g.fail = append(g.fail, answers...) })
}

func (g *Gateway) serve(w http.ResponseWriter, r *http.Request) {
	req := GatewayRequest{Request: capture(r)}
	answer := g.check(&req, r)
	refused := req.Refused != ""
	var n int
	g.update(func() {
		if !refused && len(g.fail) > 0 {
			answer, g.fail = g.fail[0], g.fail[1:]
		}
		g.arrived++
		n = g.arrived
		req.LogID = fmt.Sprintf("019a0000-0000-7000-8000-%012d", n)
		g.requests = append(g.requests, req)
	})
	if req.BodyErr != nil {
		g.countCancelled()
		panic(http.ErrAbortHandler)
	}
	defer g.watch(r)()
	if answer == nil {
		answer = g.cfg.Provider
	}

	h := w.Header()
	h.Set("Cf-Aig-Log-Id", req.LogID)
	h.Set("Cf-Aig-Event-Id", cmp.Or(r.Header.Get("Cf-Aig-Event-Id"), req.LogID))
	h.Set("Cf-Aig-Cache-Status", "MISS")
	if !refused {
		h.Set("Request-Id", "req_test")
		r = forwarded(r, req)
	}
	answer.ServeHTTP(w, r)
}

// forwarded returns the request as the provider gets it. The path holds at least one segment: check
// has seen to it.
func forwarded(r *http.Request, req GatewayRequest) *http.Request {
	out := r.Clone(r.Context())
	out.Body = io.NopCloser(bytes.NewReader(req.Body))
	out.URL.RawPath = "/" + req.Path
	out.URL.Path, _ = url.PathUnescape(out.URL.RawPath)
	out.RequestURI = out.URL.RequestURI()
	for name := range out.Header {
		if strings.HasPrefix(name, "Cf-Aig-") {
			out.Header.Del(name)
		}
	}
	return out
}

// check returns the gateway's answer to a request that does not go on to the provider, nil for one
// that does. Where a path, a body or a key is wrong that answer is the provider's. It fills req on
// the way. The first check that answers decides.
func (g *Gateway) check(req *GatewayRequest, r *http.Request) http.Handler {
	in := &inspection{GatewayRequest: req, gateway: g, r: r}
	for _, check := range []func() http.Handler{
		in.checkGateway, in.checkToken, in.checkSegments, in.checkProvider, in.checkPath, in.checkAPIVersion,
		in.checkBody, in.checkModel, in.checkAnthropicVersion, in.checkKey,
	} {
		if answer := check(); answer != nil {
			return answer
		}
	}
	return nil
}

// An inspection is a request on its way through the checks. Each of them returns the answer that
// ends the way, or nil.
type inspection struct {
	*GatewayRequest
	gateway *Gateway
	r       *http.Request
	segs    []string // of the path, still escaped
	slug    string   // whose key is needed: the provider's; for a POST to compat that of the model
}

// refuse records the reason and returns the gateway's error.
func (in *inspection) refuse(status, code int, format string, args ...any) http.Handler {
	in.Refused = fmt.Sprintf(format, args...)
	return AiGatewayError(status, code, in.Refused)
}

// fail records the reason and returns what the provider answers.
func (in *inspection) fail(reason string, answer http.Handler) http.Handler {
	in.Refused = reason
	return answer
}

func (in *inspection) compat() bool { return in.Provider == "compat" }

func (in *inspection) checkGateway() http.Handler {
	path, _, _ := strings.Cut(in.RequestURI, "?")
	in.segs = strings.Split(strings.TrimPrefix(path, "/"), "/")
	g := in.gateway
	if len(in.segs) < 3 || in.segs[0] != "v1" || in.segs[1] != g.AccountID || in.segs[2] != g.GatewayID {
		return in.refuse(400, 2001, "Please configure AI Gateway in the Cloudflare dashboard")
	}
	return nil
}

func (in *inspection) checkToken() http.Handler {
	if auth := in.r.Header.Values("Cf-Aig-Authorization"); len(auth) != 1 || auth[0] != "Bearer "+in.gateway.Token {
		return in.refuse(401, 2009, "Unauthorized")
	}
	return nil
}

func (in *inspection) checkSegments() http.Handler {
	if len(in.segs) < 5 {
		return in.refuse(400, 2008, "Invalid provider: the path needs /{provider}/{path} after the gateway")
	}
	for _, s := range in.segs[3:] {
		if name, err := url.PathUnescape(s); err != nil || name == "" || name == "." || name == ".." {
			return in.refuse(400, 2008, "Invalid provider: empty or dot segment in the path")
		}
	}
	return nil
}

// checkProvider also notes what the request says, whatever the later checks find.
func (in *inspection) checkProvider() http.Handler {
	in.Provider, in.Path = in.segs[3], strings.Join(in.segs[4:], "/")
	in.Model = gjson.GetBytes(in.Body, "model").String()
	in.checkHeaders(in.r.Header)
	in.slug = in.Provider
	if _, known := in.gateway.paths(in.slug); !known {
		return in.refuse(400, 2008, "Invalid provider")
	}
	return nil
}

func (in *inspection) checkPath() http.Handler {
	patterns, _ := in.gateway.paths(in.slug)
	switch {
	case slices.ContainsFunc(patterns, func(p string) bool { return matches(p, in.Method, in.segs[4:]) }):
		return nil
	case in.compat():
		return in.refuse(400, 2019, "Compatibility endpoint: %s is not supported.", in.Path)
	}
	return in.fail("the provider has no "+in.Method+" "+in.Path,
		ProviderError(404, "Not Found: "+in.Method+" /"+in.Path))
}

func (in *inspection) checkAPIVersion() http.Handler {
	v := in.r.URL.Query()["api-version"]
	if in.slug == "azure-openai" && (len(v) != 1 || v[0] == "") {
		return in.fail("azure-openai needs exactly one api-version",
			JSON(404, `{"error":{"code":"404","message":"Resource not found"}}`))
	}
	return nil
}

func (in *inspection) checkBody() http.Handler {
	switch {
	case in.Method != http.MethodPost || gjson.ValidBytes(in.Body):
		return nil
	case in.compat():
		return in.refuse(400, 2019, "Chat completion bad format")
	}
	return in.fail("the body is not one JSON value",
		ProviderError(400, "We could not parse the JSON body of your request."))
}

func (in *inspection) checkModel() http.Handler {
	if in.Method != http.MethodPost {
		return nil
	}
	if in.compat() {
		var ok bool
		if in.slug, ok = compatProvider(in.Model); !ok {
			return in.refuse(400, 2008, "Invalid provider")
		}
		return nil
	}
	if strings.Contains(in.Model, "#") {
		return in.fail("the model still has its #provider",
			ProviderError(404, "The model "+quote(in.Model)+" does not exist"))
	}
	return nil
}

func (in *inspection) checkAnthropicVersion() http.Handler {
	if in.Provider != "anthropic" || in.r.Header.Get("Anthropic-Version") != "" {
		return nil
	}
	const reason = "anthropic-version: header is required"
	return in.fail(reason, http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		r.Header.Set("Anthropic-Version", "2023-06-01") // selects the shape of the error
		ProviderError(400, reason).ServeHTTP(w, r)
	}))
}

// checkKey applies the credential precedence: the request's own, the stored key, Unified Billing.
func (in *inspection) checkKey() http.Handler {
	if in.slug == "compat" { // the model list needs the gateway's token and no key
		in.Credential = CredentialStored
		return JSON(200, compatModels)
	}
	h, cfg := in.r.Header, in.gateway.cfg
	for _, name := range []string{"Authorization", "X-Api-Key", "Api-Key", "X-Goog-Api-Key", "Xi-Api-Key"} {
		if h.Get(name) != "" {
			in.Credential = CredentialRequest
			name = strings.ToLower(name)
			return in.fail(name+" on the request beats the stored key",
				ProviderError(401, "Incorrect API key provided in "+name))
		}
	}
	stored := cfg.StoredKeys == nil || slices.Contains(cfg.StoredKeys, in.slug)
	switch in.slug {
	case "dynamic", "cloudflare": // the route picks among the providers
		stored = stored || len(cfg.StoredKeys) > 0
	}
	if alias := h.Get("Cf-Aig-Byok-Alias"); stored && alias != "" && alias != "default" {
		return in.refuse(400, 2040, "Unknown BYOK alias %q; configured aliases: default", alias)
	}
	switch {
	case stored:
		in.Credential = CredentialStored
	case h.Get("Cf-Aig-No-Wholesale") == "true":
		return in.refuse(400, 2044, "Customer-provided provider credentials are required for this request")
	case !cfg.UnifiedBilling:
		return in.refuse(402, 2021, "Insufficient credit for Unified Billing")
	case !slices.Contains(unifiedBilling, in.slug):
		return in.refuse(402, 2021, "%s is not available via unified billing. Please use BYOK", in.slug)
	default:
		in.Credential = CredentialUnified
	}
	return nil
}

// headerRules says which cf-aig request headers there are and which values the gateway takes.
// Source: https://developers.cloudflare.com/ai-gateway/glossary/ and the pages it links to.
var headerRules = map[string]func(string) bool{
	"Cf-Aig-Authorization":       anything,
	"Cf-Aig-Byok-Alias":          anything,
	"Cf-Aig-No-Wholesale":        oneOf("true", "false"),
	"Cf-Aig-Cache-Ttl":           between(60, 31*24*3600),
	"Cf-Aig-Skip-Cache":          oneOf("true", "false"),
	"Cf-Aig-Cache-Key":           anything,
	"Cf-Aig-Metadata":            anything, // see keepMetadata
	"Cf-Aig-Custom-Cost":         gjson.Valid,
	"Cf-Aig-Collect-Log":         oneOf("true", "false"),
	"Cf-Aig-Collect-Log-Payload": oneOf("true", "false"),
	"Cf-Aig-Request-Timeout":     between(1, 1<<31),
	"Cf-Aig-Max-Attempts":        between(1, 5),
	"Cf-Aig-Retry-Delay":         between(0, 60000),
	"Cf-Aig-Backoff":             oneOf("constant", "linear", "exponential"),
	"Cf-Aig-Event-Id":            anything,
	"Cf-Aig-Zdr":                 oneOf("true", "false"),
	"Cf-Aig-Otel-Trace-Id":       hexDigits(32),
	"Cf-Aig-Otel-Parent-Span-Id": hexDigits(16),
	"Cf-Aig-Session-Id":          anything,
	"Cf-Aig-Turn-Id":             anything,
	"Cf-Aig-No-Session-Affinity": oneOf("true", "false"),
	"Cf-Aig-Allowed-Models":      anything,
	"Cf-Aig-Allowed-Providers":   anything,
}

func anything(string) bool { return true }

func oneOf(values ...string) func(string) bool {
	return func(v string) bool { return slices.Contains(values, v) }
}

func between(low, high int) func(string) bool {
	return func(v string) bool {
		n, err := strconv.Atoi(v)
		return err == nil && low <= n && n <= high
	}
}

func hexDigits(n int) func(string) bool {
	return func(v string) bool { return len(v) == n && strings.Trim(v, "0123456789abcdefABCDEF") == "" }
}

func (req *GatewayRequest) checkHeaders(h http.Header) {
	violate := func(format string, args ...any) {
		req.Violations = append(req.Violations, fmt.Sprintf(format, args...))
	}
	for name, values := range h {
		if !strings.HasPrefix(name, "Cf-Aig-") {
			continue
		}
		rule, known := headerRules[name]
		switch {
		case !known:
			violate("%s is no request header of the gateway", strings.ToLower(name))
		case len(values) > 1:
			violate("%s is repeated", strings.ToLower(name))
		case !rule(values[0]):
			violate("%s has a value that the gateway does not take", strings.ToLower(name))
		}
	}
	if v := h.Get("Cf-Aig-Metadata"); v != "" {
		req.Metadata = keepMetadata(v, violate)
	}
	slices.Sort(req.Violations)
}

// keepMetadata returns what the gateway keeps of cf-aig-metadata: the first five entries of one
// flat object; one value that is null, an array or an object loses them all.
func keepMetadata(v string, violate func(string, ...any)) map[string]any {
	if !gjson.Valid(v) || !gjson.Parse(v).IsObject() {
		violate("cf-aig-metadata is not a JSON object: lost")
		return nil
	}
	kept, entries, flat := map[string]any{}, 0, true
	gjson.Parse(v).ForEach(func(key, value gjson.Result) bool {
		entries++
		if value.Type == gjson.Null || value.IsObject() || value.IsArray() {
			flat = false
			return false
		}
		if strings.HasPrefix(key.String(), "cf.") {
			violate("cf-aig-metadata uses a reserved key: cf.*")
			return true
		}
		if entries <= 5 {
			kept[key.String()] = value.Value()
		}
		return true
	})
	if !flat {
		violate("cf-aig-metadata has a value that is not a string, number or boolean: all of it lost")
		return nil
	}
	if entries > 5 {
		violate("cf-aig-metadata has %d entries, 5 are kept", entries)
	}
	return kept
}
