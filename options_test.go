package apexproxy_test

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/http"
	"strings"
	"testing"

	"github.com/loadchange/apexproxy"
	"github.com/loadchange/apexproxy/apexproxytest"
)

// TestNewReportsAllMistakes: one run shows everything that is wrong.
func TestNewReportsAllMistakes(t *testing.T) {
	t.Parallel()
	p, err := apexproxy.New(
		apexproxy.WithGateway(apexproxy.Gateway{AccountID: "a/b", GatewayID: "", Azure: apexproxy.Azure{Resource: "r/../x", APIVersion: "1&2"}}),
		apexproxy.WithProvider(apexproxy.Provider{Name: "none"}),
		apexproxy.WithProvider(apexproxy.Provider{Name: "a b", Chat: "/x"}),
		apexproxy.WithProvider(apexproxy.Provider{Name: "rel", Chat: "x/y"}),
		apexproxy.WithPassthrough(apexproxy.Passthrough{Hosts: []string{"ok.example.com", "http://x", "host/path"}}),
		apexproxy.WithAuth(apexproxy.Tokens()),
		apexproxy.WithMapping("broken"),
		apexproxy.WithCORS("app.example.com"),
		apexproxy.WithMaxRequestBytes(-1),
	)
	if p != nil || err == nil {
		t.Fatalf("New returned %v, %v", p, err)
	}
	for _, want := range []string{
		`AccountID "a/b"`, `GatewayID ""`, "Token is empty", `Azure.Resource "r/../x"`, `Azure.APIVersion "1&2"`,
		"provider none: has no path", `provider: Name "a b"`, `provider rel: path "x/y"`,
		`Hosts entry "http://x"`, `Hosts entry "host/path"`,
		"WithAuth: the Authenticator is nil", `mapping entry "broken"`, `"app.example.com" is not an origin`, "WithMaxRequestBytes must be positive",
	} {
		if !strings.Contains(err.Error(), want) {
			t.Errorf("the error does not say %q:\n%v", want, err)
		}
	}
	if strings.Contains(err.Error(), "ok.example.com") || !strings.HasPrefix(err.Error(), "apexproxy: ") {
		t.Errorf("got %v", err)
	}
}

func TestNewMistakes(t *testing.T) {
	t.Parallel()
	good := apexproxy.Gateway{AccountID: "a", GatewayID: "g", Token: "t"}
	gateway := func(set func(*apexproxy.Gateway)) []apexproxy.Option {
		g := good
		set(&g)
		return []apexproxy.Option{apexproxy.WithGateway(g)}
	}
	base := func(u string) []apexproxy.Option {
		return gateway(func(g *apexproxy.Gateway) { g.BaseURL = u })
	}
	token := func(s string) []apexproxy.Option {
		return gateway(func(g *apexproxy.Gateway) { g.Token = s })
	}
	row := func(row apexproxy.Provider) []apexproxy.Option {
		return []apexproxy.Option{apexproxy.WithGateway(good), apexproxy.WithProvider(row)}
	}
	with := func(o ...apexproxy.Option) []apexproxy.Option { return append(o, apexproxy.WithGateway(good)) }
	hosts := func(h ...string) []apexproxy.Option {
		return []apexproxy.Option{apexproxy.WithPassthrough(apexproxy.Passthrough{Hosts: h})}
	}
	const badBase, badToken, badPath = "BaseURL must be http(s)://", "Token holds white space", "must start with / and may use"
	for name, tt := range map[string]struct {
		opts []apexproxy.Option
		want string // part of the error; empty: none
	}{
		"nothing":                 {nil, "nothing to forward to"},
		"nil options":             {[]apexproxy.Option{nil, apexproxy.WithGateway(good), nil}, ""},
		"gateway":                 {with(), ""},
		"passthrough":             {hosts(), ""},
		"account":                 {gateway(func(g *apexproxy.Gateway) { g.AccountID = "" }), `AccountID ""`},
		"gateway id":              {gateway(func(g *apexproxy.Gateway) { g.GatewayID = "a?b" }), `GatewayID "a?b"`},
		"no ids with a base":      {[]apexproxy.Option{apexproxy.WithGateway(apexproxy.Gateway{BaseURL: "https://x", Token: "t"})}, ""},
		"base http":               {base("http://127.0.0.1:1/v1"), ""},
		"base without scheme":     {base("gateway.example.com/v1"), badBase},
		"base of another scheme":  {base("ftp://gateway.example.com"), badBase},
		"base without host":       {base("https:///v1"), badBase},
		"base with user":          {base("https://u:secret@gateway.example.com"), badBase},
		"base with query":         {base("https://gateway.example.com?token=secret"), badBase},
		"base with fragment":      {base("https://gateway.example.com#secret"), badBase},
		"base not a URL":          {base("https://gateway.example.com/%zz"), badBase},
		"base with a newline":     {base("https://gateway.example.com\n"), badBase},
		"no token":                {token(""), "Token is empty"},
		"token with a newline":    {token("secret\n"), badToken},
		"token with a space":      {token("a secret"), badToken},
		"token not ASCII":         {token("secrét"), badToken},
		"token with CRLF":         {token("secret\r\nX-Evil: 1"), badToken},
		"no token with WithAuth":  {append(token(""), apexproxy.WithAuth(apexproxy.Tokens("x"))), "Token is empty"},
		"nil auth":                {with(apexproxy.WithAuth(nil)), "WithAuth: the Authenticator is nil"},
		"no tokens":               {with(apexproxy.WithAuth(apexproxy.Tokens())), "WithAuth: the Authenticator is nil"},
		"empty token":             {with(apexproxy.WithAuth(apexproxy.Tokens("a", ""))), "WithAuth: the Authenticator is nil"},
		"last WithAuth counts":    {with(apexproxy.WithAuth(nil), apexproxy.WithAuth(apexproxy.Tokens("a"))), ""},
		"row":                     {row(apexproxy.Provider{Name: "my.prov_1-*", Chat: "/{provider}/{model}/{resource}?v={api-version}"}), ""},
		"row without name":        {row(apexproxy.Provider{Chat: "/x"}), `Name ""`},
		"row with a # in it":      {row(apexproxy.Provider{Name: "a#b", Chat: "/x"}), `Name "a#b"`},
		"row with a slash":        {row(apexproxy.Provider{Name: "a/b", Chat: "/x"}), `Name "a/b"`},
		"row with a star inside":  {row(apexproxy.Provider{Name: "a*b", Chat: "/x"}), `Name "a*b"`},
		"row without a path":      {row(apexproxy.Provider{Name: "x", StreamUsage: true}), "provider x: has no path at all"},
		"thinking off, no JSON":   {row(apexproxy.Provider{Name: "x", Chat: "/x", Profile: &apexproxy.ChatProfile{Off: `"a":1},{`}}), "provider x: Profile.Off"},
		"thinking off, blank":     {row(apexproxy.Provider{Name: "x", Chat: "/x", Profile: &apexproxy.ChatProfile{Off: " "}}), "provider x: Profile.Off"},
		"empty echo, no JSON":     {row(apexproxy.Provider{Name: "x", Chat: "/x", Profile: &apexproxy.ChatProfile{EmptyEcho: `a"`}}), "provider x: Profile.EmptyEcho"},
		"a profile":               {row(apexproxy.Provider{Name: "x", Chat: "/x", Profile: &apexproxy.ChatProfile{Off: `"a":1`, EmptyEcho: `\n`}}), ""},
		"relative path":           {row(apexproxy.Provider{Name: "x", Chat: "chat"}), badPath},
		"path with a host":        {row(apexproxy.Provider{Name: "x", Messages: "//evil.example/x"}), badPath},
		"path that is a URL":      {row(apexproxy.Provider{Name: "x", Messages: "https://evil.example/x"}), badPath},
		"path with a fragment":    {row(apexproxy.Provider{Name: "x", Responses: "/x#y"}), badPath},
		"path with dots":          {row(apexproxy.Provider{Name: "x", Embeddings: "/x/../y"}), badPath},
		"path with escaped dots":  {row(apexproxy.Provider{Name: "x", Embeddings: "/x/%2e%2e/y"}), badPath},
		"unknown placeholder":     {row(apexproxy.Provider{Name: "x", Chat: "/{models}/y"}), badPath},
		"host with a path":        {hosts("api.example.com/v1"), `Hosts entry "api.example.com/v1": has a path`},
		"host of another scheme":  {hosts("http://api.example.com"), `Hosts entry "http://api.example.com": has a scheme other than https`},
		"host with a star":        {hosts("*.example.com"), `Hosts entry "*.example.com"`},
		"host empty":              {hosts("a.example", ""), `Hosts entry ""`},
		"host with a space":       {hosts(" api.example.com"), `Hosts entry " api.example.com"`},
		"host that is a network":  {hosts("10.0.0.0/8"), `Hosts entry "10.0.0.0/8"`},
		"RoundTripper, no hosts":  {append(hosts(), apexproxy.WithTransport(transportFunc(nil))), "list Hosts, or pass an *http.Transport"},
		"RoundTripper and hosts":  {append(hosts("a.example"), apexproxy.WithTransport(transportFunc(nil))), ""},
		"RoundTripper, gateway":   {with(apexproxy.WithTransport(transportFunc(nil))), ""},
		"mapping":                 {with(apexproxy.WithMapping("a#b,c")), `mapping entry "c"`},
		"origin with a path":      {with(apexproxy.WithCORS("https://a.example/")), `"https://a.example/" is not an origin`},
		"origin with a star":      {with(apexproxy.WithCORS("https://*.example")), `"https://*.example" is not an origin`},
		"origin empty":            {with(apexproxy.WithCORS("")), `"" is not an origin`},
		"no request at all":       {with(apexproxy.WithMaxRequestBytes(0)), "WithMaxRequestBytes must be positive"},
		"budget below one body":   {with(apexproxy.WithMaxRequestBytes(10), apexproxy.WithMaxBufferedBytes(9)), "not above WithMaxBufferedBytes"},
		"budget of one body":      {with(apexproxy.WithMaxRequestBytes(10), apexproxy.WithMaxBufferedBytes(10)), ""},
		"one body above default":  {with(apexproxy.WithMaxRequestBytes(1 << 40)), ""},
		"budget negative":         {with(apexproxy.WithMaxBufferedBytes(-1)), "not above WithMaxBufferedBytes"},
		"nil transport":           {with(apexproxy.WithTransport(nil)), ""},
		"nil logger":              {with(apexproxy.WithLogger(nil)), ""},
		"last gateway counts":     {[]apexproxy.Option{apexproxy.WithGateway(apexproxy.Gateway{}), apexproxy.WithGateway(good)}, ""},
		"azure resource":          {gateway(func(g *apexproxy.Gateway) { g.Azure.Resource = "a.b" }), `Azure.Resource "a.b"`},
		"provider without a gate": {append(hosts(), apexproxy.WithProvider(apexproxy.Provider{Name: "x", Chat: "/x"})), "need WithGateway"},
		"auth without a gate":     {append(hosts(), apexproxy.WithAuth(apexproxy.Tokens("x"))), "need WithGateway"},
		"short header name":       {gateway(func(g *apexproxy.Gateway) { g.ForwardHeaders = []string{"cache-ttl"} }), `"cache-ttl" is no cf-aig- header`},
		"no option of a reporter": {with(apexproxy.WithReporter(apexproxy.NewLogReporter(nil), nil)), ""},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			p, err := apexproxy.New(tt.opts...)
			switch {
			case tt.want == "" && err != nil:
				t.Errorf("New: %v", err)
			case tt.want != "" && (err == nil || p != nil || !strings.Contains(err.Error(), tt.want)):
				t.Errorf("New returned %v, %v; want %q in the error", p, err, tt.want)
			case err != nil && (strings.Contains(err.Error(), "secret") || strings.Contains(err.Error(), "secrét")):
				t.Errorf("the error holds a secret: %v", err)
			}
		})
	}
}

// TestNoTokenInPrint: no verb and no logger shows what is secret in an option, a Gateway or the
// Proxy.
func TestNoTokenInPrint(t *testing.T) {
	t.Parallel()
	const caller = "caller-token-9b2f"
	g := apexproxy.Gateway{AccountID: "a", GatewayID: "g", Token: gatewayToken}
	pass := apexproxy.Passthrough{Auth: apexproxy.Tokens(caller)}
	p, err := apexproxy.New(apexproxy.WithGateway(g), apexproxy.WithPassthrough(pass), apexproxy.WithAuth(apexproxy.Tokens(caller)))
	if err != nil {
		t.Fatal(err)
	}
	things := map[string]any{
		"Gateway": g, "*Gateway": &g, "[]Gateway": []apexproxy.Gateway{g}, "in a struct": struct{ G apexproxy.Gateway }{g}, "in a map": map[string]any{"g": g},
		"WithGateway": apexproxy.WithGateway(g), "options": []apexproxy.Option{apexproxy.WithGateway(g)},
		"Passthrough": pass, "WithPassthrough": apexproxy.WithPassthrough(pass),
		"Tokens": apexproxy.Tokens(caller), "WithAuth": apexproxy.WithAuth(apexproxy.Tokens(caller)), "Proxy": p,
	}
	for name, thing := range things {
		printed := map[string]string{}
		for _, verb := range []string{"%v", "%+v", "%#v", "%s", "%q", "%x", "%d"} {
			if name == "Proxy" && verb != "%v" && verb != "%+v" && verb != "%#v" {
				continue
			}
			printed[verb] = fmt.Sprintf(verb, thing)
		}
		var text, js bytes.Buffer
		slog.New(slog.NewTextHandler(&text, nil)).Info("x", "thing", thing)
		slog.New(slog.NewJSONHandler(&js, nil)).Info("x", "thing", thing)
		printed["slog text"], printed["slog JSON"] = text.String(), js.String()
		for how, s := range printed {
			for _, secret := range []string{gatewayToken, caller} {
				if strings.Contains(s, secret) || strings.Contains(s, fmt.Sprintf("%x", secret)) {
					t.Errorf("%s by %s shows a token: %s", name, how, s)
				}
			}
		}
	}
	if got := fmt.Sprintf("%+v", g); !strings.Contains(got, `AccountID:"a"`) || !strings.Contains(got, "[REDACTED]") {
		t.Errorf("a Gateway prints as %s", got)
	}
}

// TestOptionsAreCopied: what the caller does later with what it passed in changes nothing, and one
// option may make two proxies.
func TestOptionsAreCopied(t *testing.T) {
	t.Parallel()
	g := newGateway(t, apexproxytest.GatewayConfig{})
	cfg := via(g)
	cfg.ForwardHeaders = []string{"cf-aig-session-id"}
	hosts := []string{"a.example"}
	opts := []apexproxy.Option{apexproxy.WithGateway(cfg), apexproxy.WithPassthrough(apexproxy.Passthrough{Hosts: hosts})}
	cfg.ForwardHeaders[0], hosts[0] = "cf-aig-byok-alias", "b.example"
	for range 2 {
		proxy := newProxy(t, opts...)
		post(t, proxy+"/v1/chat/completions", `{"model":"m#openai"}`, "X-Api-Key", gatewayToken, "Cf-Aig-Session-Id", "s", "Cf-Aig-Byok-Alias", "b")
		if got := post(t, proxy+"/v1/chat/completions", `{}`, providerHeader, "b.example"); got.Status != 403 {
			t.Errorf("b.example: got %d %s, want 403", got.Status, got.Body)
		}
	}
	for _, r := range g.Requests() {
		got := r.Header.Get("Cf-Aig-Session-Id") + r.Header.Get("Cf-Aig-Byok-Alias")
		if got != "s" {
			t.Errorf("the gateway got %q", got)
		}
	}
}

// TestTransportIsLeftAlone: a transport passed in keeps its settings, and Shutdown keeps its
// connections.
func TestTransportIsLeftAlone(t *testing.T) {
	t.Parallel()
	up := newUpstream(t, apexproxytest.JSON(200, `{}`))
	transport := up.Transport()
	dialled := 0
	transport.DialContext = func(ctx context.Context, network, addr string) (net.Conn, error) {
		dialled++
		return new(net.Dialer).DialContext(ctx, network, addr)
	}
	p, err := apexproxy.New(apexproxy.WithTransport(transport), apexproxy.WithGateway(apexproxy.Gateway{BaseURL: up.URL, Token: gatewayToken}),
		apexproxy.WithPassthrough(apexproxy.Passthrough{}))
	if err != nil {
		t.Fatal(err)
	}
	proxy := serve(t, p, p)
	for range 2 {
		got := post(t, proxy+"/v1/chat/completions", `{"model":"m#openai"}`, "X-Api-Key", gatewayToken)
		if got.Status != 200 {
			t.Fatalf("got %d %s", got.Status, got.Body)
		}
		if err := p.Shutdown(t.Context()); err != nil {
			t.Fatal(err)
		}
	}
	if dialled != 1 || transport.DisableCompression {
		t.Errorf("%d connections, DisableCompression %t: want 1, false", dialled, transport.DisableCompression)
	}
}

// TestNoSecretInLog: what goes wrong is logged without a header or a body.
func TestNoSecretInLog(t *testing.T) {
	t.Parallel()
	var log lockedBuffer
	failing := apexproxy.ReporterFunc(func(context.Context, []apexproxy.Record) error { return errors.New("the store is away") })
	up := newUpstream(t, apexproxytest.Abort(`{"half":`))
	p, err := apexproxy.New(append(reaching(up), apexproxy.WithLogger(slog.New(slog.NewTextHandler(&log, &slog.HandlerOptions{Level: slog.LevelDebug}))),
		apexproxy.WithReporter(failing, apexproxy.CaptureContent(1<<10)),
		apexproxy.WithGateway(apexproxy.Gateway{BaseURL: "http://" + apexproxytest.RefusingAddr(), Token: gatewayToken}))...)
	if err != nil {
		t.Fatal(err)
	}
	const prompt = "a prompt nobody may read"
	t.Cleanup(func() { // after the server: nobody writes any more
		text := log.String()
		if !strings.Contains(text, "the store is away") {
			t.Errorf("what went wrong was not logged: %q", text)
		}
		for _, secret := range []string{gatewayToken, clientKey, prompt} {
			if strings.Contains(text, secret) {
				t.Errorf("the log holds %q:\n%s", secret, text)
			}
		}
	})
	proxy := serve(t, p, p)
	post(t, proxy+"/v1/chat/completions?key="+clientKey, `{"model":"m#openai","x":"`+prompt+`"}`, "X-Api-Key", gatewayToken)
	req, err := http.NewRequestWithContext(t.Context(), "POST", proxy+"/v1/chat/completions?key="+clientKey, strings.NewReader(`{"x":"`+prompt+`"}`))
	if err != nil {
		t.Fatal(err)
	}
	req.Header = headers(providerHeader, up.Host, "Authorization", "Bearer "+clientKey)
	if res, err := client.Do(req); err == nil {
		if _, err := io.ReadAll(res.Body); err == nil {
			t.Error("half an answer came as a whole one")
		}
		res.Body.Close()
	}
}

// TestNewTransportDefaults pins what the proxy relies on.
func TestNewTransportDefaults(t *testing.T) {
	t.Parallel()
	one, two := apexproxy.NewTransport(), apexproxy.NewTransport()
	if one == two || one.ResponseHeaderTimeout != 0 || !one.DisableCompression || !one.ForceAttemptHTTP2 || one.Proxy == nil {
		t.Errorf("got %+v", one)
	}
}
