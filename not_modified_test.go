package apexproxy_test

import (
	"net/http"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/loadchange/apexproxy"
	"github.com/loadchange/apexproxy/apexproxytest"
)

// A client that asks whether its list is still the newest gets the gateway's answer. There is no
// body in it to translate, and it is no redirect.
func TestGatewayNotModified(t *testing.T) {
	t.Parallel()
	const tag = `"list-7"`
	for _, tt := range []struct{ method, path, body string }{
		{http.MethodGet, "/v1/models", ""},
		{http.MethodHead, "/v1/models", ""},
		{http.MethodPost, "/v1/chat/completions", chatBody},
		{http.MethodPost, "/v1/messages", messageBody},
	} {
		t.Run(tt.method+tt.path, func(t *testing.T) {
			t.Parallel()
			up := apexproxytest.NewUpstream(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
				w.Header().Set("Etag", tag)
				if r.Header.Get("If-None-Match") != tag {
					t.Errorf("asked with %q", r.Header)
				}
				w.WriteHeader(http.StatusNotModified)
			}))
			t.Cleanup(up.Close)
			url := newProxy(t, apexproxy.WithGateway(apexproxy.Gateway{BaseURL: up.URL, Token: gatewayToken}))
			got := do(t, tt.method, url+tt.path, tt.body, "X-Api-Key", gatewayToken, "If-None-Match", tag)
			if diff := cmp.Diff(answer{http.StatusNotModified, http.Header{"Etag": {tag}}, ""}, got); diff != "" {
				t.Errorf("(-want +got):\n%s", diff)
			}
		})
	}
}
