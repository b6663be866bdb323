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

// configure reads the environment. It returns all mistakes at once, each with the name of its
// variable and never with the value of a token.
func configure(getenv func(string) string) (*settings, error) {
	e := env{getenv: getenv}
	s := &settings{addr: e.or("ADDR", "127.0.0.1:8787")}

	var level slog.Level
	if err := level.UnmarshalText([]byte(e.or("LOG_LEVEL", "info"))); err != nil {
		e.fail("LOG_LEVEL", errors.New("use debug, info, warn or error"))
	}
	s.logger = slog.New(slog.NewTextHandler(os.Stderr, &slog.HandlerOptions{Level: level}))

	pass := apexproxy.Passthrough{Hosts: e.list("PASSTHROUGH_HOSTS")}
	if tokens := e.list("PASSTHROUGH_TOKENS"); len(tokens) > 0 {
		pass.Auth = apexproxy.Tokens(tokens...)
	}
	origins := e.list("CORS_ORIGINS")
	if len(origins) == 0 {
		origins = []string{"*"}
	}
	opts := []apexproxy.Option{
		apexproxy.WithLogger(s.logger),
		apexproxy.WithMapping(getenv("MODEL_MAPPING")),
		apexproxy.WithCORS(origins...),
	}
	if v := getenv("MAX_REQUEST_BYTES"); v != "" {
		n, err := strconv.ParseInt(v, 10, 64)
		if err != nil || n <= 0 {
			e.fail("MAX_REQUEST_BYTES", errors.New("must be a number of bytes above 0"))
		} else {
			opts = append(opts, apexproxy.WithMaxRequestBytes(n))
		}
	}
	gateway, behind := e.gateway()
	// With everything on, New finds the mistakes in what is off, too. It starts nothing that would
	// have to be ended: there is no reporter yet.
	_, err := apexproxy.New(append(opts, apexproxy.WithGateway(gateway), apexproxy.WithPassthrough(pass))...)
	e.explain(err)

	opts = append(opts, behind...)
	if e.on("PASSTHROUGH", true) {
		s.open = len(pass.Hosts) == 0 && pass.Auth == nil
		opts = append(opts, apexproxy.WithPassthrough(pass))
	} else if len(behind) == 0 {
		e.fail("PASSTHROUGH", errors.New("is off and there is no gateway: set GATEWAY_TOKEN, ACCOUNT_ID and GATEWAY_ID, or turn it on"))
	}
	if base, token := getenv("AEPIPE_BASE_URL"), getenv("AEPIPE_TOKEN"); base != "" && token != "" {
		reporter, err := aepipe.New(aepipe.Config{BaseURL: base, Token: token})
		e.explain(err)
		opts = append(opts, apexproxy.WithReporter(reporter, apexproxy.CaptureContent(512<<10), apexproxy.BatchSize(250), apexproxy.ReportTimeout(30*time.Second)))
	}

	if len(e.errs) > 0 {
		return nil, fmt.Errorf("configuration:\n%w\n\nvariables:\n%s", errors.Join(e.errs...), strings.TrimSpace(variables))
	}
	s.proxy, err = apexproxy.New(opts...)
	return s, err
}

// gateway returns what the variables say of the gateway, and the options that turn it on: none when
// none of the variables that it cannot do without is set.
func (e *env) gateway() (apexproxy.Gateway, []apexproxy.Option) {
	g := apexproxy.Gateway{
		AccountID: e.getenv("ACCOUNT_ID"), GatewayID: e.getenv("GATEWAY_ID"),
		Token: e.getenv("GATEWAY_TOKEN"), BaseURL: e.getenv("GATEWAY_BASE_URL"),
		Azure:        apexproxy.Azure{Resource: e.getenv("AZURE_RESOURCE"), APIVersion: e.getenv("AZURE_API_VERSION")},
		PreferCompat: e.on("PREFER_COMPAT", false),
		BYOKOnly:     e.on("BYOK_ONLY", false),
	}
	tokens := e.list("CLIENT_TOKENS")
	if g.AccountID+g.GatewayID+g.Token+g.BaseURL == "" {
		if len(tokens) > 0 {
			e.fail("CLIENT_TOKENS", errors.New("is set, but there is no gateway: set GATEWAY_TOKEN, ACCOUNT_ID and GATEWAY_ID"))
		}
		return g, nil
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
	return g, opts
}

// words turns what an error of New says of a field into what it says of a variable. Every mistake
// has a line of its own.
var words = strings.NewReplacer(
	"\ngateway: AccountID ", "\nACCOUNT_ID: ",
	"\ngateway: GatewayID ", "\nGATEWAY_ID: ",
	"\ngateway: Token ", "\nGATEWAY_TOKEN: ",
	"\ngateway: BaseURL ", "\nGATEWAY_BASE_URL: ",
	"\ngateway: Azure.Resource ", "\nAZURE_RESOURCE: ",
	"\ngateway: Azure.APIVersion ", "\nAZURE_API_VERSION: ",
	"\npassthrough: Hosts ", "\nPASSTHROUGH_HOSTS: ",
	"\nmapping ", "\nMODEL_MAPPING: ",
	"\n\"", "\nCORS_ORIGINS: \"", // an origin in quotes
	"\naepipe: Config.BaseURL ", "\nAEPIPE_BASE_URL: ",
	"\naepipe: Config.Token ", "\nAEPIPE_TOKEN: ",
)

// explain adds the mistakes in an error of New, in the words of the environment.
func (e *env) explain(err error) {
	if err == nil {
		return
	}
	text := words.Replace("\n" + strings.TrimPrefix(err.Error(), "apexproxy: "))
	for mistake := range strings.SplitSeq(text[1:], "\n") {
		name, _, _ := strings.Cut(mistake, ":")
		if e.getenv(name) == "" && strings.Contains(variables, "\n"+name+" ") {
			continue // not set: gateway has said so where it is needed
		}
		e.errs = append(e.errs, errors.New(mistake))
	}
}

// env reads variables and collects what is wrong with them.
type env struct {
	getenv func(string) string
	errs   []error
}

func (e *env) fail(name string, err error) {
	e.errs = append(e.errs, fmt.Errorf("%s: %w", name, err))
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

// list splits a comma list. A variable that is set must hold something: a list of nothing but
// commas is a mistake, not an empty list.
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
