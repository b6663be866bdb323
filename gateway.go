package apexproxy

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"maps"
	"net/http"
	"net/url"
	"regexp"
	"slices"
	"strings"
	"time"

	"github.com/tidwall/gjson"

	"github.com/loadchange/apexproxy/internal/body"
	"github.com/loadchange/apexproxy/internal/convert"
	"github.com/loadchange/apexproxy/internal/header"
)

// Gateway is a Cloudflare AI Gateway: where it is and how it is used. With it,
// a request without X-APEX-AI-PROXY-PROVIDER is routed by the model#provider in
// its body. Printing a Gateway never shows its token.
type Gateway struct {
	// AccountID and GatewayID name the gateway. They may be empty only with
	// BaseURL.
	AccountID, GatewayID string
	// Token is sent as cf-aig-authorization and nowhere else. Without
	// [WithAuth] it is also what clients present. It must not be empty.
	Token string
	// BaseURL replaces https://gateway.ai.cloudflare.com/v1/{AccountID}/{GatewayID}
	// whole, for custom domains. http and https are allowed.
	BaseURL string
	// Azure is needed for the provider azure-openai only.
	Azure Azure
	// BYOKOnly adds cf-aig-no-wholesale: true, so that a missing stored key is
	// an error and never spends Unified Billing credit.
	BYOKOnly bool
	// PreferCompat sends chat completions for anthropic, openai,
	// google-ai-studio, groq, mistral, grok, deepseek, cerebras and cohere to
	// /compat/chat/completions as provider/model instead of to the provider's
	// own path. Other operations stay native.
	PreferCompat bool
	// ForwardHeaders replaces the list of client headers named cf-aig-… that
	// reach the gateway; write full names. Nil means those that end in
	// cache-ttl, skip-cache, request-timeout, max-attempts, retry-delay,
	// backoff, event-id, metadata, otel-trace-id and otel-parent-span-id; an
	// empty list means none. cf-aig-authorization never passes.
	ForwardHeaders []string
	// Header, when not nil, returns headers to set on this request to the
	// gateway, such as cf-aig-metadata or cf-aig-cache-key for a tenant (see
	// [IdentityFromContext]). It wins over the client, not over Token. It may be
	// called concurrently and must not change the request or read its body.
	Header func(*http.Request) http.Header
}

// Azure names an Azure OpenAI resource behind the gateway. The model is the
// deployment.
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

// Provider is a row of the table that says where a provider's operations are
// below the gateway's base URL. A path is empty when the provider has none.
// In paths {model} and {provider} stand for the two sides of model#provider,
// escaped as one segment; {resource} and {api-version} for [Azure]. A path
// with {model} may carry a query.
type Provider struct {
	Name        string // as clients write it behind #; ending in * it is a prefix
	Chat        string // an OpenAI-shaped chat completions path
	Messages    string // a native Anthropic Messages path; /count_tokens is below it
	Responses   string
	Embeddings  string
	Compat      string // what stands before /model on /compat; empty when it is not there
	StreamUsage bool   // chat streams may be asked for usage (stream_options.include_usage)
	// Profile says what requests converted from Messages have to respect. Nil
	// means what [ProfileFor] knows of the provider and each model.
	Profile *Profile
}

// Profile says how a provider's models want to be asked over Chat Completions:
// LimitField names the token limit; User, ServiceTier, AnyEffort and Efforts say
// what is taken; NoSampling, NoUsageOption, NoTools, NoParallelField and NoStrict
// what is refused; ShortToolIDs, RequiredIsAny, PlainSchemas, MarkPrefill,
// EffortOrTools, JSONObjectOnly and MaxStop what has to be spelled differently;
// Echo, EmptyEcho and CallSigned what of its thinking the model wants back. Start
// from [ProfileFor]. It is not copied: do not change it after [New].
type Profile = convert.Profile

// ProfileFor returns the built-in profile of a model at a provider, to be
// changed and set in [Provider].Profile.
func ProfileFor(provider, model string) Profile { return convert.ProfileFor(provider, model) }

// compatChat is the gateway's OpenAI-compatible endpoint.
// https://developers.cloudflare.com/ai-gateway/usage/chat-completion/
const compatChat = "/compat/chat/completions"

// providers is the table that ships. Sources: the provider pages below
// https://developers.cloudflare.com/ai-gateway/usage/providers/ and the
// registry in cloudflare/ai, packages/gateway-core.
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

// gateway is a [Gateway] resolved: what does not change from request to request
// is worked out once.
type gateway struct {
	Gateway
	base    *url.URL
	own     http.Header // what every request carries; read only
	forward map[string]bool
	table   map[string]Provider
	names   string // for messages
	rt      http.RoundTripper
}

var idPattern = regexp.MustCompile(`^[A-Za-z0-9_-]+$`)

func newGateway(g Gateway, extra []Provider, rt http.RoundTripper) (*gateway, error) {
	var errs []error
	fail := func(format string, args ...any) { errs = append(errs, fmt.Errorf("gateway: "+format, args...)) }

	raw := g.BaseURL
	if raw == "" {
		if !idPattern.MatchString(g.AccountID) {
			fail("AccountID %q is not an account id (letters, digits, - and _)", g.AccountID)
		}
		if !idPattern.MatchString(g.GatewayID) {
			fail("GatewayID %q is not a gateway id (letters, digits, - and _)", g.GatewayID)
		}
		raw = "https://gateway.ai.cloudflare.com/v1/" + g.AccountID + "/" + g.GatewayID
	}
	base, err := url.Parse(strings.TrimRight(raw, "/"))
	if err != nil || base.Scheme != "https" && base.Scheme != "http" || base.Host == "" || base.User != nil || base.RawQuery != "" || base.Fragment != "" {
		fail("BaseURL must be http(s)://host[/path] without user, query and fragment")
	}
	if g.Token == "" {
		fail("Token is empty: without it nobody could be told from anybody")
	} else if strings.ContainsFunc(g.Token, func(c rune) bool { return c <= ' ' || c >= 0x7F }) {
		fail("Token holds white space, a line end or a character outside ASCII")
	}
	for name, v := range map[string]string{"Azure.Resource": g.Azure.Resource, "Azure.APIVersion": g.Azure.APIVersion} {
		if v != "" && !idPattern.MatchString(v) {
			fail("%s %q may hold letters, digits, - and _ only", name, v)
		}
	}
	if g.Azure.APIVersion == "" {
		g.Azure.APIVersion = defaultAzureVersion
	}

	forward := g.ForwardHeaders
	for _, name := range forward {
		if len(name) < 8 || !strings.EqualFold(name[:7], "cf-aig-") {
			fail("ForwardHeaders: %q is no cf-aig- header: write full names; other headers need no list", name)
		}
	}
	if forward == nil {
		forward = header.DefaultForward
	}
	out := &gateway{Gateway: g, base: base, own: http.Header{"Cf-Aig-Authorization": {"Bearer " + g.Token}}, forward: header.Set(forward), table: map[string]Provider{}, rt: rt}
	if g.BYOKOnly {
		out.own.Set("Cf-Aig-No-Wholesale", "true")
	}
	for _, row := range slices.Concat(providers, extra) {
		if err := row.validate(); err != nil {
			errs = append(errs, err)
		}
		out.table[row.Name] = row
	}
	out.names = strings.Join(slices.Sorted(maps.Keys(out.table)), ", ")
	return out, errors.Join(errs...)
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
	return nil
}

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

// resolve points the exchange at the provider's path for its operation and sets
// the model that goes there.
func (g *gateway) resolve(x *exchange, r *http.Request, model, name string) *reply {
	x.rec.Provider = name
	row, ok := g.provider(name)
	if !ok {
		return refuse(400, "unknown_provider", "provider %s is unknown: use one of %s", quoteShort(name), g.names)
	}
	x.rec.RequestModel = model
	x.profile = row.Profile
	path := ""
	switch x.rec.Operation {
	case OperationChat:
		path = g.chatPath(x, row, model)
		x.askUsage = row.StreamUsage
	case OperationMessages, OperationCountTokens:
		if row.Messages == "" {
			path = g.chatPath(x, row, model)
			x.rec.Converted = true
		} else if path = row.Messages; x.rec.Operation == OperationCountTokens {
			path += "/count_tokens"
		}
	case OperationResponses:
		path = row.Responses
	case OperationEmbeddings:
		path = row.Embeddings
	}
	if path == "" {
		return refuse(400, "unsupported_operation", "provider %s has no %s API here: choose another provider or operation", name, x.rec.Operation)
	}
	return g.aim(x, r, path, name, model)
}

// chatPath returns where row takes chat completions, and sets the model as it
// has to be written there.
func (g *gateway) chatPath(x *exchange, row Provider, model string) string {
	if row.Compat == "" || row.Chat != "" && !(g.PreferCompat && unified[row.Name]) {
		return row.Chat
	}
	x.rec.RequestModel = compatModel(row.Compat, model)
	return compatChat
}

// compatModel joins a compat prefix and a model. A client may repeat the part
// of the prefix that is the model's publisher (google/gemini-… on Vertex).
func compatModel(prefix, model string) string {
	if i := strings.LastIndexByte(prefix, '/'); i >= 0 {
		model = strings.TrimPrefix(model, prefix[i+1:]+"/")
	}
	return prefix + "/" + model
}

// aim completes the target: URL, query, and the headers that belong to this
// host and no other.
func (g *gateway) aim(x *exchange, r *http.Request, path, provider, model string) *reply {
	azure := strings.Contains(path, "{api-version}")
	if strings.Contains(path, "{resource}") && g.Azure.Resource == "" {
		return refuse(400, "unsupported_operation", "provider %s is not configured on this proxy", provider)
	}
	if strings.Contains(path, "{model}") && (strings.ContainsAny(model, `/\`) || model == "." || model == "..") {
		return refuse(400, "invalid_model", "model %s must be one path segment for provider %s: name the deployment alone", quoteShort(model), provider)
	}
	if strings.Contains(path, "{") {
		path = strings.NewReplacer("{provider}", url.PathEscape(provider), "{model}", url.PathEscape(model),
			"{resource}", url.PathEscape(g.Azure.Resource), "{api-version}", url.QueryEscape(g.Azure.APIVersion)).Replace(path)
	}
	path, query, _ := strings.Cut(path, "?")
	var drop []string
	if azure {
		drop = append(drop, "api-version")
	}
	if x.rec.Converted {
		drop = append(drop, "beta")
	}
	kept := header.StripQuery(r.URL.RawQuery, drop...)
	if query != "" && kept != "" {
		query += "&"
	}
	u := *g.base
	setPath(&u, g.base.EscapedPath()+path)
	u.RawQuery = query + kept

	h := g.own
	if g.Header != nil {
		h = http.Header{}
		for name, values := range g.Header(r.WithContext(context.WithValue(r.Context(), identityKey{}, x.rec.Identity))) {
			h[http.CanonicalHeaderKey(name)] = slices.Clone(values)
		}
		maps.Copy(h, g.own)
	}
	x.aim(target{url: u, header: h, rt: g.rt})
	return nil
}

// models asks the gateway's own list, of which one model is a part.
func (g *gateway) models(x *exchange, r *http.Request) *reply {
	return g.aim(x, r, "/compat/models", "", "")
}

// modelList turns the gateway's list into the client's dialect, with ids that
// this proxy routes: provider/name becomes name#provider. It picks the model id
// if that is not empty. ok is false when it is no such list, found when it
// has no such model.
// https://developers.cloudflare.com/ai-gateway/integrations/coding-agents/xcode/
func (g *gateway) modelList(list []byte, d dialect, id string) (out []byte, ok, found bool) {
	_, err := body.Scan(list)
	data := gjson.GetBytes(list, "data")
	if err != nil || !data.IsArray() {
		return nil, false, false
	}
	type model struct {
		ID          string `json:"id"`
		Object      string `json:"object,omitempty"`
		Created     *int64 `json:"created,omitempty"`
		OwnedBy     string `json:"owned_by,omitempty"`
		Type        string `json:"type,omitempty"`
		DisplayName string `json:"display_name,omitempty"`
		CreatedAt   string `json:"created_at,omitempty"`
	}
	models := []model{}
	for _, m := range data.Array() {
		name, provider, routed := g.routable(m.Get("id").Str)
		if !routed {
			continue
		}
		created := m.Get("created_at").Int()
		entry := model{ID: name + "#" + provider, Object: "model", Created: &created, OwnedBy: provider}
		if d == dialectAnthropic {
			entry = model{ID: entry.ID, Type: "model", DisplayName: entry.ID, CreatedAt: time.Unix(created, 0).UTC().Format(time.RFC3339)}
		}
		if id == entry.ID {
			out, err := json.Marshal(entry)
			return out, err == nil, true
		}
		models = append(models, entry)
	}
	var page any = struct {
		Object string  `json:"object"`
		Data   []model `json:"data"`
	}{"list", models}
	if d == dialectAnthropic {
		p := struct {
			Data    []model `json:"data"`
			HasMore bool    `json:"has_more"`
			FirstID *string `json:"first_id"`
			LastID  *string `json:"last_id"`
		}{Data: models}
		if n := len(models); n > 0 {
			p.FirstID, p.LastID = &models[0].ID, &models[n-1].ID
		}
		page = p
	}
	out, err = json.Marshal(page)
	return out, err == nil, id == ""
}

// routable splits an id of the gateway's list. One whose provider has no row is
// still reached through compat.
func (g *gateway) routable(id string) (name, provider string, ok bool) {
	if id == "" || strings.Contains(id, "#") {
		return "", "", false
	}
	name, provider, longest := id, "compat", 0
	for _, row := range g.table {
		if rest, ok := strings.CutPrefix(id, row.Compat+"/"); ok && rest != "" && (len(row.Compat) > longest || len(row.Compat) == longest && row.Name < provider) {
			name, provider, longest = rest, row.Name, len(row.Compat)
		}
	}
	return name, provider, true
}

// setPath sets an escaped path so that its bytes are sent as they are.
func setPath(u *url.URL, escaped string) {
	plain, err := url.PathUnescape(escaped)
	if err != nil {
		plain = escaped
	}
	u.Path, u.RawPath = plain, escaped
}
