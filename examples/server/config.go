package main

import (
	"errors"
	"fmt"
	"log/slog"
	"os"
	"strconv"
	"strings"
	"time"

	"github.com/loadchange/apexproxy"
	"github.com/loadchange/apexproxy/aepipe"
)

// variables is the whole configuration, with defaults.
const variables = `
ADDR                 listen address (127.0.0.1:8787)
ACCOUNT_ID           Cloudflare account     } gateway mode;
GATEWAY_ID           AI Gateway id          } none of them: passthrough only
GATEWAY_TOKEN        AI Gateway token       }
GATEWAY_BASE_URL     replaces the gateway's whole base URL; http:// is allowed
PREFER_COMPAT        on|off: chat completions through /compat (off)
BYOK_ONLY            on|off: never spend Unified Billing credit (off)
CLIENT_TOKENS        comma list that clients present instead of GATEWAY_TOKEN
AZURE_RESOURCE       Azure OpenAI resource
AZURE_API_VERSION    Azure OpenAI API version (2024-10-21)
AEPIPE_BASE_URL      report to aepipe; either empty: off
AEPIPE_TOKEN
PASSTHROUGH          on|off (on)
PASSTHROUGH_TOKENS   comma list for X-APEX-AI-PROXY-TOKEN (empty: nobody is asked)
PASSTHROUGH_HOSTS    comma list, exact host[:port] (empty: any public host)
MODEL_MAPPING        from#to,from#to#provider for every client
MAX_REQUEST_BYTES    bound of one request body (33554432)
CORS_ORIGINS         comma list of origins, or * (*)
LOG_LEVEL            debug|info|warn|error (info)
`

type settings struct {
	addr   string
	proxy  *apexproxy.Proxy
	logger *slog.Logger
	open   bool // passthrough to any public host for anybody
}

// configure reads the environment. It returns all mistakes at once, each with
// the name of its variable and never with the value of a token.
func configure(getenv func(string) string) (*settings, error) {
	e := env{getenv: getenv}
	s := &settings{addr: e.or("ADDR", "127.0.0.1:8787")}

	var level slog.Level
	if err := level.UnmarshalText([]byte(e.or("LOG_LEVEL", "info"))); err != nil {
		e.fail("LOG_LEVEL", errors.New("use debug, info, warn or error"))
	}
	s.logger = slog.New(slog.NewTextHandler(os.Stderr, &slog.HandlerOptions{Level: level}))
	opts := []apexproxy.Option{apexproxy.WithLogger(s.logger)}

	opts = append(opts, e.gateway()...)
	pass := apexproxy.Passthrough{Hosts: e.list("PASSTHROUGH_HOSTS")}
	if tokens := e.list("PASSTHROUGH_TOKENS"); len(tokens) > 0 {
		pass.Auth = apexproxy.Tokens(tokens...)
	}
	withPass := e.try("PASSTHROUGH_HOSTS", apexproxy.WithPassthrough(pass))
	if e.on("PASSTHROUGH", true) {
		s.open = len(pass.Hosts) == 0 && pass.Auth == nil
		opts = append(opts, withPass)
	} else if len(opts) == 1 {
		e.fail("PASSTHROUGH", errors.New("is off and there is no gateway: set GATEWAY_TOKEN, ACCOUNT_ID and GATEWAY_ID, or turn it on"))
	}

	if v := getenv("MODEL_MAPPING"); v != "" {
		opts = append(opts, e.try("MODEL_MAPPING", apexproxy.WithMapping(v)))
	}
	if v := getenv("MAX_REQUEST_BYTES"); v != "" {
		n, err := strconv.ParseInt(v, 10, 64)
		if err != nil || n <= 0 {
			e.fail("MAX_REQUEST_BYTES", errors.New("must be a number of bytes above 0"))
		}
		opts = append(opts, apexproxy.WithMaxRequestBytes(n))
	}
	origins := e.list("CORS_ORIGINS")
	if len(origins) == 0 {
		origins = []string{"*"}
	}
	opts = append(opts, e.try("CORS_ORIGINS", apexproxy.WithCORS(origins...)))

	if base, token := getenv("AEPIPE_BASE_URL"), getenv("AEPIPE_TOKEN"); base != "" && token != "" {
		if _, err := aepipe.New(aepipe.Config{BaseURL: base, Token: "t"}); err != nil {
			e.fail("AEPIPE_BASE_URL", err)
		}
		if _, err := aepipe.New(aepipe.Config{BaseURL: "https://aepipe.example", Token: token}); err != nil {
			e.fail("AEPIPE_TOKEN", err)
		}
		reporter, _ := aepipe.New(aepipe.Config{BaseURL: base, Token: token})
		opts = append(opts, apexproxy.WithReporter(reporter, apexproxy.CaptureContent(512<<10), apexproxy.BatchSize(250), apexproxy.ReportTimeout(30*time.Second)))
	}

	if len(e.errs) > 0 {
		return nil, fmt.Errorf("configuration:\n%w\n\nvariables:\n%s", errors.Join(e.errs...), strings.TrimSpace(variables))
	}
	var err error
	s.proxy, err = apexproxy.New(opts...)
	return s, err
}

func (e *env) gateway() []apexproxy.Option {
	g := apexproxy.Gateway{
		AccountID: e.getenv("ACCOUNT_ID"), GatewayID: e.getenv("GATEWAY_ID"),
		Token: e.getenv("GATEWAY_TOKEN"), BaseURL: e.getenv("GATEWAY_BASE_URL"),
		Azure:        apexproxy.Azure{Resource: e.getenv("AZURE_RESOURCE"), APIVersion: e.getenv("AZURE_API_VERSION")},
		PreferCompat: e.on("PREFER_COMPAT", false),
		BYOKOnly:     e.on("BYOK_ONLY", false),
	}
	// One field at a time beside good ones, so that a mistake has a name.
	valid := apexproxy.Gateway{AccountID: "a", GatewayID: "g", Token: "t"}
	for _, field := range []struct {
		name, value string
		set         func(*apexproxy.Gateway)
	}{
		{"ACCOUNT_ID", g.AccountID, func(v *apexproxy.Gateway) { v.AccountID = g.AccountID }},
		{"GATEWAY_ID", g.GatewayID, func(v *apexproxy.Gateway) { v.GatewayID = g.GatewayID }},
		{"GATEWAY_TOKEN", g.Token, func(v *apexproxy.Gateway) { v.Token = g.Token }},
		{"GATEWAY_BASE_URL", g.BaseURL, func(v *apexproxy.Gateway) { v.BaseURL = g.BaseURL }},
		{"AZURE_RESOURCE", g.Azure.Resource, func(v *apexproxy.Gateway) { v.Azure.Resource = g.Azure.Resource }},
		{"AZURE_API_VERSION", g.Azure.APIVersion, func(v *apexproxy.Gateway) { v.Azure.APIVersion = g.Azure.APIVersion }},
	} {
		if field.value != "" {
			probe := valid
			field.set(&probe)
			e.try(field.name, apexproxy.WithGateway(probe))
		}
	}
	tokens := e.list("CLIENT_TOKENS")
	if g.AccountID+g.GatewayID+g.Token+g.BaseURL == "" {
		if len(tokens) > 0 {
			e.fail("CLIENT_TOKENS", errors.New("is set, but there is no gateway: set GATEWAY_TOKEN, ACCOUNT_ID and GATEWAY_ID"))
		}
		return nil
	}
	missing := func(name, value string) {
		if value == "" {
			e.fail(name, errors.New("is needed for gateway mode"))
		}
	}
	missing("GATEWAY_TOKEN", g.Token)
	if g.BaseURL == "" {
		missing("ACCOUNT_ID", g.AccountID)
		missing("GATEWAY_ID", g.GatewayID)
	}
	opts := []apexproxy.Option{apexproxy.WithGateway(g)}
	if len(tokens) > 0 {
		opts = append(opts, apexproxy.WithAuth(apexproxy.Tokens(tokens...)))
	}
	return opts
}

// env reads variables and collects what is wrong with them.
type env struct {
	getenv func(string) string
	errs   []error
}

func (e *env) fail(name string, err error) {
	e.errs = append(e.errs, fmt.Errorf("%s: %w", name, err))
}

// try checks one option by itself.
func (e *env) try(name string, o apexproxy.Option) apexproxy.Option {
	if _, err := apexproxy.New(apexproxy.WithPassthrough(apexproxy.Passthrough{}), o); err != nil {
		e.fail(name, err)
	}
	return o
}

func (e *env) or(name, def string) string {
	if v := e.getenv(name); v != "" {
		return v
	}
	return def
}

func (e *env) on(name string, def bool) bool {
	switch e.getenv(name) {
	case "":
		return def
	case "on":
		return true
	case "off":
		return false
	}
	e.fail(name, errors.New("must be on or off"))
	return def
}

// list splits a comma list. A variable that is set must hold something: a list
// of nothing but commas is a mistake, not an empty list.
func (e *env) list(name string) []string {
	v := e.getenv(name)
	if strings.TrimSpace(v) == "" {
		return nil
	}
	var out []string
	for item := range strings.SplitSeq(v, ",") {
		if item = strings.TrimSpace(item); item != "" {
			out = append(out, item)
		}
	}
	if len(out) == 0 {
		e.fail(name, errors.New("holds no entry"))
	}
	return out
}
