package apexproxy

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"maps"
	"net/http"
	"net/url"
	"regexp"
	"slices"
	"strings"

	"github.com/loadchange/apexproxy/internal/header"
	"github.com/loadchange/apexproxy/internal/protocol"
	"github.com/loadchange/apexproxy/internal/rawjson"
)

// Gateway is a Cloudflare AI Gateway: where it is and how it is used. With it, a request without
// X-APEX-AI-PROXY-PROVIDER is routed by the model#provider in its body. Printing a Gateway never
// shows its token.
type Gateway struct {
	// AccountID and GatewayID name the gateway. They may be empty only with BaseURL.
	AccountID, GatewayID string
	// Token is sent as cf-aig-authorization and nowhere else. Without [WithAuth] it is also what
	// clients present. It must not be empty.
	Token string
	// BaseURL replaces https://gateway.ai.cloudflare.com/v1/{AccountID}/{GatewayID} whole, for
	// custom domains. http and https are allowed.
	BaseURL string
	// Azure is needed for the provider azure-openai only.
	Azure Azure
	// BYOKOnly adds cf-aig-no-wholesale: true, so that a missing stored key is an error and never
	// spends Unified Billing credit.
	BYOKOnly bool
	// PreferCompat sends chat completions for anthropic, openai, google-ai-studio, groq, mistral,
	// grok, deepseek, cerebras and cohere to /compat/chat/completions as provider/model instead of
	// to the provider's own path. Other operations stay native.
	PreferCompat bool
	// ForwardHeaders replaces the list of client headers named cf-aig-… that reach the gateway;
	// write full names. Nil means those that end in cache-ttl, skip-cache, request-timeout,
	// max-attempts, retry-delay, backoff, event-id, metadata, otel-trace-id and
	// otel-parent-span-id; an empty list means none. cf-aig-authorization never passes.
	ForwardHeaders []string
	// Header, when not nil, returns headers to set on this request to the gateway, such as
	// cf-aig-metadata or cf-aig-cache-key for a tenant (see [IdentityFromContext]). It wins over
	// the client, not over Token. It may be called concurrently and must not change the request or
	// read its body.
	Header func(*http.Request) http.Header
}

// Azure names an Azure OpenAI resource behind the gateway. The model is the deployment.
type Azure struct {
	Resource   string // empty: azure-openai is refused with 400
	APIVersion string // empty: 2024-10-21, the newest dated general availability
}

const defaultAzureVersion = "2024-10-21"

// Format implements [fmt.Formatter] so that no verb prints the token.
func (g Gateway) Format(s fmt.State, _ rune) {
	fmt.Fprintf(s, "apexproxy.Gateway{AccountID:%q GatewayID:%q BaseURL:%q Token:%s}", g.AccountID, g.GatewayID, g.BaseURL, header.Redacted)
}

// LogValue implements [slog.LogValuer] without the token.
func (g Gateway) LogValue() slog.Value { return slog.StringValue(fmt.Sprint(g)) }

// Provider is a row of the table that says where a provider's operations are below the gateway's
// base URL. A path is empty when the provider has none: messages are then converted for Chat or
// Compat, chat completions go to /compat, and the rest is refused. In paths, which start with a
// slash, {model} and {provider} stand for the two sides of model#provider, escaped as one segment;
// {resource} and {api-version} for [Azure]. A path with {model} may carry a query. [New] fails on a
// row that it cannot use. An exact name goes before a prefix, and a long prefix before a short one.
type Provider struct {
	Name        string // as clients write it behind #; ending in * it is a prefix
	Chat        string // an OpenAI-shaped chat completions path
	Messages    string // a native Anthropic Messages path; /count_tokens is below it
	Responses   string
	Embeddings  string
	Compat      string // what stands before /model on /compat; empty when /compat does not serve it
	StreamUsage bool   // chat streams may be asked for usage (stream_options.include_usage)
	// Profile says what requests that are converted to Chat Completions have to respect. Nil means
	// what [ProfileFor] knows of the provider and each model; what stands here holds for all of the
	// row's models. It is not copied: do not change it after [New].
	Profile *ChatProfile
}

// compatChat is the gateway's OpenAI-compatible endpoint.
// https://developers.cloudflare.com/ai-gateway/usage/chat-completion/
const compatChat = "/compat/chat/completions"

// providers is the table that ships. Sources: the provider pages below
// https://developers.cloudflare.com/ai-gateway/usage/providers/ and the registry in cloudflare/ai,
// packages/gateway-core.
var providers = []Provider{
	{Name: "anthropic", Messages: "/anthropic/v1/messages", Compat: "anthropic"},
	{Name: "openai", Chat: "/openai/chat/completions", Responses: "/openai/responses", Embeddings: "/openai/embeddings", Compat: "openai", StreamUsage: true},
	{Name: "google-ai-studio", Chat: "/google-ai-studio/v1beta/openai/chat/completions", Embeddings: "/google-ai-studio/v1beta/openai/embeddings", Compat: "google-ai-studio", StreamUsage: true},
	{Name: "groq", Chat: "/groq/chat/completions", Responses: "/groq/responses", Compat: "groq", StreamUsage: true},
	{Name: "mistral", Chat: "/mistral/v1/chat/completions", Embeddings: "/mistral/v1/embeddings", Compat: "mistral"},
	{Name: "grok", Chat: "/grok/v1/chat/completions", Responses: "/grok/v1/responses", Compat: "grok", StreamUsage: true},
	{Name: "deepseek", Chat: "/deepseek/chat/completions", Compat: "deepseek", StreamUsage: true},
	{Name: "cerebras", Chat: "/cerebras/chat/completions", Compat: "cerebras", StreamUsage: true},
	{Name: "cohere", Chat: "/cohere/compatibility/v1/chat/completions", Embeddings: "/cohere/compatibility/v1/embeddings", Compat: "cohere"},
	{Name: "perplexity-ai", Chat: "/perplexity-ai/chat/completions", Responses: "/perplexity-ai/v1/responses", Compat: "perplexity"},
	{Name: "azure-openai", Chat: "/azure-openai/{resource}/{model}/chat/completions?api-version={api-version}", Embeddings: "/azure-openai/{resource}/{model}/embeddings?api-version={api-version}", Compat: "azure-openai", StreamUsage: true},
	{Name: "openrouter", Chat: "/openrouter/v1/chat/completions", Responses: "/openrouter/v1/responses", Embeddings: "/openrouter/v1/embeddings"},
	{Name: "compat", Chat: compatChat},
	{Name: "dynamic", Compat: "dynamic"},
	{Name: "workers-ai", Chat: "/workers-ai/v1/chat/completions", Embeddings: "/workers-ai/v1/embeddings", Compat: "workers-ai"},
	{Name: "google-vertex-ai", Compat: "google-vertex-ai/google"},
	{Name: "custom-*", Chat: "/{provider}/v1/chat/completions", Responses: "/{provider}/v1/responses", Embeddings: "/{provider}/v1/embeddings", Compat: ""},
}

// unified are the providers that PreferCompat moves to /compat.
var unified = map[string]bool{
	"anthropic": true, "openai": true, "google-ai-studio": true, "groq": true, "mistral": true,
	"grok": true, "deepseek": true, "cerebras": true, "cohere": true,
}

// gateway is a [Gateway] resolved: what does not change from request to request is worked out once.
type gateway struct {
	Gateway
	base    *url.URL
	fixed   http.Header // what every request carries; read only
	forward map[string]bool
	table   map[string]Provider
	names   string // for messages
	rt      http.RoundTripper
}

func newGateway(g Gateway, extra []Provider, rt http.RoundTripper) (*gateway, error) {
	errs := []error{g.validate()}
	if g.BaseURL == "" {
		g.BaseURL = "https://gateway.ai.cloudflare.com/v1/" + g.AccountID + "/" + g.GatewayID
	}
	base, err := parseBase(g.BaseURL)
	errs = append(errs, err)
	if g.Azure.APIVersion == "" {
		g.Azure.APIVersion = defaultAzureVersion
	}
	if g.ForwardHeaders == nil {
		g.ForwardHeaders = header.DefaultForward
	}
	out := &gateway{Gateway: g, base: base, rt: rt, forward: header.Set(g.ForwardHeaders), table: map[string]Provider{}}
	out.fixed = http.Header{"Cf-Aig-Authorization": {"Bearer " + g.Token}}
	if g.BYOKOnly {
		out.fixed.Set("Cf-Aig-No-Wholesale", "true")
	}
	for _, row := range slices.Concat(providers, extra) {
		errs = append(errs, row.validate())
		out.table[row.Name] = row
	}
	out.names = strings.Join(slices.Sorted(maps.Keys(out.table)), ", ")
	return out, errors.Join(errs...)
}

var idPattern = regexp.MustCompile(`^[A-Za-z0-9_-]+$`)

// validate returns all that is wrong with g but for its BaseURL.
func (g *Gateway) validate() error {
	var errs []error
	fail := func(format string, args ...any) { errs = append(errs, fmt.Errorf("gateway: "+format, args...)) }
	if g.BaseURL == "" && !idPattern.MatchString(g.AccountID) {
		fail("AccountID %q is not an account id (letters, digits, - and _)", g.AccountID)
	}
	if g.BaseURL == "" && !idPattern.MatchString(g.GatewayID) {
		fail("GatewayID %q is not a gateway id (letters, digits, - and _)", g.GatewayID)
	}
	switch {
	case g.Token == "":
		fail("Token is empty: without it nobody could be told from anybody")
	case strings.ContainsFunc(g.Token, func(c rune) bool { return c <= ' ' || c >= 0x7F }):
		fail("Token holds white space, a line end or a character outside ASCII")
	}
	for name, v := range map[string]string{"Azure.Resource": g.Azure.Resource, "Azure.APIVersion": g.Azure.APIVersion} {
		if v != "" && !idPattern.MatchString(v) {
			fail("%s %q may hold letters, digits, - and _ only", name, v)
		}
	}
	for _, name := range g.ForwardHeaders {
		if len(name) < 8 || !strings.EqualFold(name[:7], "cf-aig-") {
			fail("ForwardHeaders: %q is no cf-aig- header: write full names; other headers need no list", name)
		}
	}
	return errors.Join(errs...)
}

func parseBase(raw string) (*url.URL, error) {
	u, err := url.Parse(strings.TrimRight(raw, "/"))
	if err != nil || u.Scheme != "https" && u.Scheme != "http" || u.Host == "" || u.User != nil || u.RawQuery != "" || u.Fragment != "" {
		return nil, errors.New("gateway: BaseURL must be http(s)://host[/path] without user, query and fragment")
	}
	return u, nil
}

var (
	providerName = regexp.MustCompile(`^[A-Za-z0-9._-]+\*?$`)
	placeholder  = regexp.MustCompile(`\{(model|provider|resource|api-version)\}`)
)

func (row Provider) validate() error {
	if !providerName.MatchString(row.Name) {
		return fmt.Errorf("provider: Name %q may hold letters, digits, dot, - and _, and end in *", row.Name)
	}
	for _, path := range []string{row.Chat, row.Messages, row.Responses, row.Embeddings} {
		filled := placeholder.ReplaceAllString(path, "x")
		u, err := url.Parse(filled)
		if path != "" && (err != nil || path[0] != '/' || u.Host != "" || u.Fragment != "" || strings.ContainsAny(filled, "{}") || hasDotSegment(u.Path)) {
			return fmt.Errorf("provider %s: path %q must start with / and may use {model}, {provider}, {resource}, {api-version}", row.Name, path)
		}
	}
	if row.Chat == "" && row.Messages == "" && row.Responses == "" && row.Embeddings == "" && row.Compat == "" {
		return fmt.Errorf("provider %s: has no path at all", row.Name)
	}
	if p := row.Profile; p != nil {
		if p.Off != "" && !rawjson.Valid([]byte("{"+p.Off+`,"":0}`)) {
			return fmt.Errorf("provider %s: Profile.Off %q must be a JSON member, such as \"thinking\":false", row.Name, p.Off)
		}
		if !rawjson.Valid([]byte(`"` + p.EmptyEcho + `"`)) {
			return fmt.Errorf("provider %s: Profile.EmptyEcho %q must be JSON text without its quotes", row.Name, p.EmptyEcho)
		}
	}
	return nil
}

// provider returns the row of a name. Of prefix rows the longest counts.
func (g *gateway) provider(name string) (Provider, bool) {
	if row, ok := g.table[name]; ok && !strings.HasSuffix(name, "*") {
		return row, true
	}
	var found Provider
	for pattern, row := range g.table {
		prefix, ok := strings.CutSuffix(pattern, "*")
		if ok && len(name) > len(prefix) && strings.HasPrefix(name, prefix) && idPattern.MatchString(name) && len(pattern) > len(found.Name) {
			found = row
		}
	}
	return found, found.Name != ""
}

// aim decides on the provider's path for the operation and the model as it is written there.
func (g *gateway) aim(x *exchange, model, provider string) *reply {
	x.provider = provider
	row, ok := g.provider(provider)
	if !ok {
		return refuse(400, "unknown_provider", "provider %s is unknown: use one of %s", quoteShort(provider), g.names)
	}
	x.model = model
	var path string
	switch x.client {
	case protocol.Chat:
		path = row.Chat
	case protocol.Messages:
		path = row.Messages
	case protocol.Responses:
		path = row.Responses
	case protocol.Embeddings:
		path = row.Embeddings
	}
	if x.client == protocol.Messages && path == "" {
		x.upstream = protocol.Chat
	}
	if x.upstream == protocol.Chat {
		if path = row.Chat; row.Compat != "" && (path == "" || g.PreferCompat && unified[row.Name]) {
			path = compatChat
			x.model = compatModel(row.Compat, model)
		}
		x.askUsage = row.StreamUsage && x.stream && x.observed && !x.converts()
		x.setProfile(row.Profile, provider)
	}
	switch {
	case path == "":
		return refuse(400, "unsupported_operation", "provider %s has no %s API here: choose another provider or operation", provider, x.operation)
	case x.operation == OperationCountTokens && !x.converts():
		path += "/count_tokens"
	}
	if rp := g.check(path, provider, model); rp != nil || x.estimates() {
		return rp // for an estimate nothing is sent
	}
	g.aimAt(x, path, provider, model)
	return nil
}

// compatModel joins a compat prefix and a model. A client may repeat the part of the prefix that is
// the model's publisher (google/gemini-… on Vertex).
func compatModel(prefix, model string) string {
	if i := strings.LastIndexByte(prefix, '/'); i >= 0 {
		model = strings.TrimPrefix(model, prefix[i+1:]+"/")
	}
	return prefix + "/" + model
}

// aimAtModels decides on the gateway's own list of models, of which one model is a part.
func (g *gateway) aimAtModels(x *exchange) { g.aimAt(x, "/compat/models", "", "") }

// check returns what keeps a path of the table from being used for a model.
func (g *gateway) check(path, provider, model string) *reply {
	if strings.Contains(path, "{resource}") && g.Azure.Resource == "" {
		return refuse(400, "unsupported_operation", "provider %s is not configured on this proxy", provider)
	}
	if strings.Contains(path, "{model}") && (strings.ContainsAny(model, `/\`) || model == "." || model == "..") {
		return refuse(400, "invalid_model", "model %s must be one path segment for provider %s: name the deployment alone", quoteShort(model), provider)
	}
	return nil
}

// aimAt makes the target of a path below the base URL: URL, query, and the headers that belong to
// this host and no other.
func (g *gateway) aimAt(x *exchange, path, provider, model string) {
	azure := strings.Contains(path, "{api-version}")
	if strings.Contains(path, "{") {
		path = strings.NewReplacer("{provider}", url.PathEscape(provider), "{model}", url.PathEscape(model),
			"{resource}", url.PathEscape(g.Azure.Resource), "{api-version}", url.QueryEscape(g.Azure.APIVersion)).Replace(path)
	}
	path, query, _ := strings.Cut(path, "?")
	var drop []string
	if azure {
		drop = append(drop, "api-version")
	}
	if x.converts() {
		drop = append(drop, "beta")
	}
	kept := header.StripQuery(x.r.URL.RawQuery, drop...)
	if query != "" && kept != "" {
		query += "&"
	}
	u := *g.base
	setPath(&u, g.base.EscapedPath()+path)
	u.RawQuery = query + kept
	x.target = target{url: u, header: g.headers(x), rt: g.rt}
}

// headers returns what this request to the gateway carries of ours, read only.
func (g *gateway) headers(x *exchange) http.Header {
	if g.Header == nil {
		return g.fixed
	}
	r := x.r.WithContext(context.WithValue(x.r.Context(), identityKey{}, x.identity))
	h := http.Header{}
	for name, values := range g.Header(r) {
		h[http.CanonicalHeaderKey(name)] = slices.Clone(values)
	}
	maps.Copy(h, g.fixed)
	return h
}

// setPath sets an escaped path so that its bytes are sent as they are.
func setPath(u *url.URL, escaped string) {
	plain, err := url.PathUnescape(escaped)
	if err != nil {
		plain = escaped
	}
	u.Path, u.RawPath = plain, escaped
}
