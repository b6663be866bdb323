package apexproxy_test

import (
	"net/http"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/loadchange/apexproxy"
	"github.com/loadchange/apexproxy/apexproxytest"
)

// manyTimes is how often a choice among rows is asked for: rows stand in a map, whose order is
// another each time, so that a choice by chance is right once in a while.
const manyTimes = 60

// The row with the longest prefix is the one that was written for a provider. With any other a
// request with its key would go to a path of somebody else.
func TestWithProvider_longestPrefix(t *testing.T) {
	t.Parallel()
	rig := newRig(t, rigConfig{options: []apexproxy.Option{
		apexproxy.WithProvider(apexproxy.Provider{Name: "custom-ab*", Chat: "/two/{provider}"}),
		apexproxy.WithProvider(apexproxy.Provider{Name: "custom-a*", Chat: "/one/{provider}"}),
		apexproxy.WithProvider(apexproxy.Provider{Name: "custom-abc*", Chat: "/three/{provider}"}),
		apexproxy.WithProvider(apexproxy.Provider{Name: "custom-abc", Chat: "/whole/{provider}"}),
	}}, echo)
	for name, want := range map[string]string{
		"custom-b":    "/custom-b/v1/chat/completions", // the row that ships
		"custom-a":    "/custom-a/v1/chat/completions", // a prefix alone is no name
		"custom-ac":   "/one/custom-ac",
		"custom-ab":   "/one/custom-ab",
		"custom-abd":  "/two/custom-abd",
		"custom-abc":  "/whole/custom-abc",
		"custom-abcd": "/three/custom-abcd",
	} {
		rig.upstream.Reset()
		for range manyTimes {
			if res, body := rig.do(t, rig.request(t, gatewayMode, "/v1/chat/completions", `{"model":"m#`+name+`"}`)); res.StatusCode != http.StatusOK {
				t.Fatalf("%s: %d %s", name, res.StatusCode, body)
			}
		}
		got := map[string]int{}
		for _, r := range rig.upstream.Requests() {
			got[r.RequestURI]++
		}
		if diff := cmp.Diff(map[string]int{"/v1/account/gateway" + want: manyTimes}, got); diff != "" {
			t.Errorf("where %s was sent (-want +got):\n%s", name, diff)
		}
	}
}

// Two rows may be reached under one name on compat. Clients compare lists of models and keep ids: a
// model must have the same id each time.
func TestModels_sameIDs(t *testing.T) {
	t.Parallel()
	list := apexproxytest.JSON(200, `{"data":[{"id":"shared/m","created_at":1},{"id":"shared/deep/m","created_at":1},{"id":"openai/m","created_at":1},{"id":"nobody/m","created_at":1}]}`)
	up := apexproxytest.NewUpstream(list)
	t.Cleanup(up.Close)
	opts := []apexproxy.Option{apexproxy.WithGateway(apexproxy.Gateway{BaseURL: up.URL, Token: gatewayToken})}
	// The names of some stand before openai and compat, those of others behind.
	for _, name := range []string{"zeta", "beta", "alpha", "gamma"} {
		opts = append(opts, apexproxy.WithProvider(apexproxy.Provider{Name: name, Compat: "shared"}))
	}
	opts = append(opts, apexproxy.WithProvider(apexproxy.Provider{Name: "yet-deeper", Compat: "shared/deep"}),
		apexproxy.WithProvider(apexproxy.Provider{Name: "x-deeper", Compat: "shared/deep"}))
	url := newProxy(t, opts...)
	got := map[string]int{}
	for range manyTimes {
		got[do(t, http.MethodGet, url+"/v1/models", "", "X-Api-Key", gatewayToken).Body]++
	}
	const model = `,"object":"model","created":1,"owned_by":`
	want := `{"object":"list","data":[{"id":"m#alpha"` + model + `"alpha"},{"id":"m#x-deeper"` + model + `"x-deeper"},` +
		`{"id":"m#openai"` + model + `"openai"},{"id":"nobody/m#compat"` + model + `"compat"}]}`
	if diff := cmp.Diff(map[string]int{want: manyTimes}, got); diff != "" {
		t.Errorf("(-want +got):\n%s", diff)
	}
}
