package apexproxy_test

import (
	"bytes"
	"compress/gzip"
	"context"
	"fmt"
	"io"
	"net/http"
	"strings"
	"sync"
	"testing"

	"github.com/loadchange/apexproxy"
	"github.com/loadchange/apexproxy/apexproxytest"
)

// padded returns a request of exactly n bytes.
func padded(n int) string {
	const head, tail = `{"model":"m#mistral","pad":"`, `"}`
	return head + strings.Repeat("p", n-len(head)-len(tail)) + tail
}

func gzipped(tb testing.TB, s string) string {
	tb.Helper()
	var b bytes.Buffer
	zw := gzip.NewWriter(&b)
	if _, err := io.WriteString(zw, s); err != nil {
		tb.Fatal(err)
	}
	if err := zw.Close(); err != nil {
		tb.Fatal(err)
	}
	return b.String()
}

func TestRequestSize(t *testing.T) {
	t.Parallel()
	for _, limit := range []int{100, 4 << 10, 1<<20 + 1} {
		for _, c := range []struct {
			name     string
			size     int
			chunked  bool
			encoding string
			want     int
		}{
			{"at the limit, declared", limit, false, "", 200},
			{"at the limit, chunked", limit, true, "", 200},
			{"at the limit, gzip", limit, false, "gzip", 200},
			{"above, declared", limit + 1, false, "", 413},
			{"above, chunked", limit + 1, true, "", 413},
			{"far above, inflated", 4 * limit, false, "gzip", 413},
			{"far above, inflated and chunked", 4 * limit, true, "gzip", 413},
		} {
			for _, proto := range protocols[1:3] { // either version on the client's side
				t.Run(fmt.Sprint(limit, "/", c.name, "/", proto.name), func(t *testing.T) {
					t.Parallel()
					rig := newRig(t, rigConfig{
						clientHTTP2: proto.clientHTTP2, upstreamHTTP2: proto.upstreamHTTP2,
						options: []apexproxy.Option{apexproxy.WithMaxRequestBytes(int64(limit))},
					}, echo)
					body, want := padded(c.size), strings.Replace(padded(c.size), "m#mistral", "m", 1)
					if c.encoding == "gzip" {
						if body = gzipped(t, body); len(body) > limit {
							t.Skip("gzip does not make so little smaller")
						}
					}
					req := rig.request(t, gatewayMode, "/v1/chat/completions", body)
					if c.chunked {
						req.ContentLength = -1
					}
					if c.encoding != "" {
						req.Header.Set("Content-Encoding", c.encoding)
					}
					res, got := rig.do(t, req)
					if res.StatusCode != c.want {
						t.Fatalf("status %d, want %d: %s", res.StatusCode, c.want, clip(got))
					}
					if c.want == http.StatusOK {
						if string(got) != want {
							t.Errorf("the upstream got %s", clip(got))
						}
						return
					}
					if !strings.Contains(string(got), fmt.Sprintf("larger than %d bytes", limit)) {
						t.Errorf("the answer does not name the limit: %s", got)
					}
					if n := rig.upstream.Connections(); n != 0 {
						t.Errorf("%d connections to the upstream", n)
					}
				})
			}
		}
	}
}

// A passthrough body that nobody has to read is bounded as it came.
func TestPassthroughDoesNotInflate(t *testing.T) {
	t.Parallel()
	rig := newRig(t, rigConfig{options: []apexproxy.Option{apexproxy.WithMaxRequestBytes(4 << 10)}}, echo)
	body := gzipped(t, padded(40<<10))
	req := rig.request(t, passthroughMode, "/v1/chat/completions", body)
	req.Header.Set("Content-Encoding", "gzip")
	if res, got := rig.do(t, req); res.StatusCode != http.StatusOK || string(got) != body {
		t.Errorf("%d %s", res.StatusCode, clip(got))
	}
	if got := rig.upstream.Requests()[0].Header.Get("Content-Encoding"); got != "gzip" {
		t.Errorf("Content-Encoding %q", got)
	}
	req = rig.request(t, passthroughMode, "/v1/chat/completions", body)
	req.Header.Set("Content-Encoding", "gzip")
	req.Header.Set("X-Apex-Ai-Proxy-Mapping", "a#b")
	if res, got := rig.do(t, req); res.StatusCode != http.StatusRequestEntityTooLarge {
		t.Errorf("with a mapping to apply: %d %s", res.StatusCode, clip(got))
	}
}

// While one exchange holds the budget another is told to come again, and gets through once the
// first is over.
func TestBufferBudget(t *testing.T) {
	t.Parallel()
	const size = 2 << 20
	rig := newRig(t, rigConfig{options: []apexproxy.Option{
		apexproxy.WithMaxRequestBytes(size), apexproxy.WithMaxBufferedBytes(size + size/2),
	}})
	for round := range 3 {
		rig.upstream.Reset()
		rig.upstream.Script(apexproxytest.Hang(), echo)
		first := rig.request(t, gatewayMode, "/v1/chat/completions", padded(size))
		ctx, leave := context.WithCancel(first.Context())
		defer leave()
		go func() {
			if res, err := rig.client.Do(first.WithContext(ctx)); err == nil {
				_ = res.Body.Close()
			}
		}()
		if err := rig.upstream.WaitRequests(first.Context(), 1); err != nil {
			t.Fatal(err)
		}
		res, got := rig.do(t, rig.request(t, gatewayMode, "/v1/chat/completions", padded(size)))
		if res.StatusCode != http.StatusServiceUnavailable || res.Header.Get("Retry-After") == "" {
			t.Errorf("round %d: status %d, Retry-After %q: %s", round, res.StatusCode, res.Header.Get("Retry-After"), clip(got))
		}
		small, got := rig.do(t, rig.request(t, gatewayMode, "/v1/chat/completions", padded(100)))
		if small.StatusCode != http.StatusOK {
			t.Errorf("round %d: a small body found no room: %d %s", round, small.StatusCode, clip(got))
		}

		leave()
		if err := rig.upstream.WaitCancelled(first.Context(), 1); err != nil {
			t.Fatal(err)
		}
		rig.inside.Wait()
		res, got = rig.do(t, rig.request(t, gatewayMode, "/v1/chat/completions", padded(size)))
		if res.StatusCode != http.StatusOK || len(got) != size-len("#mistral") {
			t.Errorf("round %d: the budget was not given back: %d %s", round, res.StatusCode, clip(got))
		}
	}
}

// The smallest budget that New accepts has room for one body of any allowed size, however it comes.
func TestBudgetOfOneBody(t *testing.T) {
	t.Parallel()
	for _, size := range []int{4 << 10, 100_000, 2 << 20} {
		rig := newRig(t, rigConfig{options: []apexproxy.Option{
			apexproxy.WithMaxRequestBytes(int64(size)), apexproxy.WithMaxBufferedBytes(int64(size)),
		}}, echo)
		for _, chunked := range []bool{false, true} {
			req := rig.request(t, gatewayMode, "/v1/chat/completions", padded(size))
			if chunked {
				req.ContentLength = -1
			}
			if res, got := rig.do(t, req); res.StatusCode != http.StatusOK {
				t.Errorf("%d bytes, chunked %v: %d %s", size, chunked, res.StatusCode, clip(got))
			}
		}
	}
}

// untouched fails the test when somebody reads it.
type untouched struct {
	t *testing.T
	io.ReadCloser
}

func (u untouched) Read([]byte) (int, error) {
	u.t.Error("the body was read before the client was known")
	return 0, io.EOF
}

func TestStrangersBodyIsNotRead(t *testing.T) {
	t.Parallel()
	for _, c := range []struct {
		name, mode string
		set        func(http.Header)
	}{
		{"no key", gatewayMode, func(h http.Header) { h.Del("Authorization") }},
		{"wrong key", gatewayMode, func(h http.Header) { h.Set("Authorization", "Bearer no") }},
		{"passthrough without token", passthroughMode, func(http.Header) {}},
		{"passthrough with wrong token", passthroughMode, func(h http.Header) { h.Set("X-Apex-Ai-Proxy-Token", "no") }},
	} {
		t.Run(c.name, func(t *testing.T) {
			t.Parallel()
			upstream := newUpstream(t)
			p, err := apexproxy.New(
				apexproxy.WithGateway(apexproxy.Gateway{BaseURL: upstream.URL, Token: gatewayToken}),
				apexproxy.WithPassthrough(apexproxy.Passthrough{Hosts: []string{upstream.Host}, Auth: apexproxy.Tokens("passthrough-token")}),
				apexproxy.WithTransport(upstream.Transport()))
			if err != nil {
				t.Fatal(err)
			}
			url := serve(t, p, http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
				r.Body = untouched{t, r.Body}
				p.ServeHTTP(w, r)
			}))
			h := headers("Authorization", "Bearer "+gatewayToken)
			if c.mode == passthroughMode {
				h.Set("X-Apex-Ai-Proxy-Provider", upstream.Host)
			}
			c.set(h)
			var pairs []string
			for name := range h {
				pairs = append(pairs, name, h.Get(name))
			}
			if got := post(t, url+"/v1/chat/completions", `{"model":"m#mistral"}`, pairs...); got.Status != http.StatusUnauthorized {
				t.Errorf("status %d: %s", got.Status, got.Body)
			}
			if n := upstream.Connections(); n != 0 {
				t.Errorf("%d connections to the upstream", n)
			}
		})
	}
}

// lettered is a large request of one letter, of a size whose memory comes from a pool.
func lettered(letter, model string) string {
	return `{"model":"` + model + `","pad":"` + strings.Repeat(letter, 1_000_000) + `"}`
}

// A transport may go on sending a body after the answer has come. The memory behind it is used
// again by then: what still leaves must be this client's own bytes or nothing.
func TestLateReadersSeeNoForeignBytes(t *testing.T) {
	t.Parallel()
	for _, proto := range protocols[:2] { // either version to the upstream
		t.Run(proto.name, func(t *testing.T) {
			t.Parallel()
			var readers sync.WaitGroup
			// The answer is out before the body is read; the rest of it is read while the proxy is
			// already busy with other exchanges.
			early := apexproxytest.Unread(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
				readers.Add(1)
				defer readers.Done()
				rc := http.NewResponseController(w)
				_ = rc.EnableFullDuplex()
				w.Header().Set("Content-Type", "application/json")
				w.Header().Set("Content-Length", "2")
				_, _ = io.WriteString(w, "{}")
				_ = rc.Flush()
				body, _ := io.ReadAll(r.Body)
				if want := lettered(r.Header.Get("X-Letter"), "m"); !strings.HasPrefix(want, string(body)) {
					t.Errorf("the body of %s had foreign bytes: %s", r.Header.Get("X-Letter"), clip(body))
				}
			}))
			rig := newRig(t, rigConfig{upstreamHTTP2: proto.upstreamHTTP2}, early)
			var clients sync.WaitGroup
			for i := range 12 {
				letter := string(rune('A' + i))
				for range 4 {
					req := rig.request(t, gatewayMode, "/v1/chat/completions", lettered(letter, "m#mistral"))
					req.Header.Set("X-Letter", letter)
					clients.Go(func() {
						res, err := rig.client.Do(req)
						if err != nil {
							t.Error(err)
							return
						}
						defer res.Body.Close()
						if got, err := io.ReadAll(res.Body); err != nil || string(got) != "{}" {
							t.Errorf("%d %s, %v", res.StatusCode, clip(got), err)
						}
					})
				}
			}
			clients.Wait()
			readers.Wait()
		})
	}
}
