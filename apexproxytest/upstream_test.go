package apexproxytest_test

import (
	"bytes"
	"compress/gzip"
	"context"
	"errors"
	"io"
	"net"
	"net/http"
	"net/http/httptrace"
	"net/textproto"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/loadchange/apexproxy/apexproxytest"
)

// both runs a test over HTTP/1.1 and over HTTP/2.
func both(t *testing.T, test func(t *testing.T, start func(...http.Handler) *apexproxytest.Upstream)) {
	for name, start := range map[string]func(...http.Handler) *apexproxytest.Upstream{
		"h1": apexproxytest.NewUpstream,
		"h2": apexproxytest.NewTLSUpstream,
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			test(t, func(replies ...http.Handler) *apexproxytest.Upstream {
				up := start(replies...)
				t.Cleanup(up.Close)
				return up
			})
		})
	}
}

func testContext(t *testing.T) context.Context {
	ctx, cancel := context.WithTimeout(t.Context(), 10*time.Second)
	t.Cleanup(cancel)
	return ctx
}

func post(t *testing.T, up *apexproxytest.Upstream, path string) *http.Response {
	t.Helper()
	resp, err := up.Client().Post(up.URL+path, "application/json", strings.NewReader(`{"model":"m"}`))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { resp.Body.Close() })
	return resp
}

func TestUpstreamRecords(t *testing.T) {
	t.Parallel()
	up := apexproxytest.NewUpstream()
	defer up.Close()
	if got := up.Connections(); got != 0 {
		t.Errorf("%d connections before the first request", got)
	}
	req, err := http.NewRequest("POST", up.URL+"/a%2Fb/./c//d?x=1&x=%20;y", io.MultiReader(strings.NewReader("bo"), strings.NewReader("dy")))
	if err != nil {
		t.Fatal(err)
	}
	req.Host = "api.example"
	req.Header = http.Header{"X-Two": {"1", "2"}, "User-Agent": {"test"}, "Accept-Encoding": {"identity"}}
	req.Trailer = http.Header{"X-Sum": {"42"}}
	resp, _ := do(t, up.Client(), req)
	if resp.StatusCode != http.StatusNotImplemented {
		t.Errorf("status %d", resp.StatusCode)
	}
	want := []apexproxytest.Request{{
		Method: "POST", RequestURI: "/a%2Fb/./c//d?x=1&x=%20;y", Host: "api.example", Proto: "HTTP/1.1",
		Header:        http.Header{"X-Two": {"1", "2"}, "User-Agent": {"test"}, "Accept-Encoding": {"identity"}},
		Trailer:       http.Header{"X-Sum": {"42"}},
		ContentLength: -1,
		Body:          []byte("body"),
	}}
	got := up.Requests()
	if diff := cmp.Diff(want, got); diff != "" {
		t.Error("-want +got:\n" + diff)
	}
	got[0].Body[0], got[0].Header["X-Two"][0] = 'X', "changed"
	if diff := cmp.Diff(want, up.Requests()); diff != "" {
		t.Error("the copy is not a copy:\n" + diff)
	}
	if got := up.Connections(); got != 1 {
		t.Errorf("%d connections", got)
	}
	up.Reset()
	if got := up.Requests(); len(got) != 0 {
		t.Errorf("%d requests after Reset", len(got))
	}
}

func TestUpstreamScript(t *testing.T) {
	t.Parallel()
	up := apexproxytest.NewUpstream(apexproxytest.JSON(201, "1"), apexproxytest.JSON(202, "2", "X-A", "1", "X-A", "2"))
	defer up.Close()
	var got []int
	for range 3 {
		got = append(got, post(t, up, "/").StatusCode)
	}
	up.Script(apexproxytest.JSON(203, "3"))
	resp := post(t, up, "/")
	got = append(got, resp.StatusCode)
	if diff := cmp.Diff([]int{201, 202, 202, 203}, got); diff != "" {
		t.Error("-want +got:\n" + diff)
	}
}

func TestTLS(t *testing.T) {
	t.Parallel()
	up := apexproxytest.NewTLSUpstream(apexproxytest.JSON(200, "{}"))
	defer up.Close()
	resp, err := (&http.Client{Transport: up.Transport()}).Get(up.URL)
	if err != nil {
		t.Fatal(err)
	}
	resp.Body.Close()
	if got := up.Requests()[0].Proto; got != "HTTP/2.0" {
		t.Errorf("proto %s", got)
	}
	if up.Certificate() == nil || up.RootCAs() == nil {
		t.Error("no certificate")
	}
	plain := apexproxytest.NewUpstream()
	defer plain.Close()
	if plain.Certificate() != nil || plain.RootCAs() != nil {
		t.Error("a certificate for plain HTTP")
	}
}

func TestAbort(t *testing.T) {
	t.Parallel()
	for name, reply := range map[string]func(...string) http.Handler{"Abort": apexproxytest.Abort, "ResetConn": apexproxytest.ResetConn} {
		t.Run(name, func(t *testing.T) {
			both(t, func(t *testing.T, start func(...http.Handler) *apexproxytest.Upstream) {
				up := start(reply("data: 1\n\n", "data: 2\n\n"), reply(), reply("{"))
				resp := post(t, up, "/")
				b, err := io.ReadAll(resp.Body)
				if err == nil {
					t.Error("a clean end")
				}
				if name == "Abort" && string(b) != "data: 1\n\ndata: 2\n\n" {
					t.Errorf("body %q", b)
				}
				if got := resp.Header.Get("Content-Type"); !strings.HasPrefix(got, "text/event-stream") {
					t.Errorf("content type %q", got)
				}
				req, err := http.NewRequest("POST", up.URL, io.MultiReader(strings.NewReader("{}"))) // a body that cannot be sent twice
				if err != nil {
					t.Fatal(err)
				}
				if resp, err := up.Client().Do(req); err == nil {
					resp.Body.Close()
					t.Errorf("status %d instead of an error", resp.StatusCode)
				}
				if got := post(t, up, "/").Header.Get("Content-Type"); got != "application/json" {
					t.Errorf("content type %q", got)
				}
			})
		})
	}
}

func TestSSEIsFlushedAsGiven(t *testing.T) {
	t.Parallel()
	both(t, func(t *testing.T, start func(...http.Handler) *apexproxytest.Upstream) {
		events := apexproxytest.Split(strings.Join(apexproxytest.ChatStream("a", "é"), ""), 7)
		resp := post(t, start(apexproxytest.SSE(events...)), "/")
		b, err := io.ReadAll(resp.Body)
		if err != nil {
			t.Fatal(err)
		}
		if diff := cmp.Diff(strings.Join(apexproxytest.ChatStream("a", "é"), ""), string(b)); diff != "" {
			t.Error("-want +got:\n" + diff)
		}
	})
}

// TestChunks looks at the chunked coding itself: one chunk of HTTP for each argument.
func TestChunks(t *testing.T) {
	t.Parallel()
	up := apexproxytest.NewUpstream(apexproxytest.Chunks("text/plain", "one", "three"))
	defer up.Close()
	conn, err := net.Dial("tcp", up.Host)
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	io.WriteString(conn, "GET / HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n")
	b, err := io.ReadAll(conn)
	if err != nil {
		t.Fatal(err)
	}
	_, body, _ := strings.Cut(string(b), "\r\n\r\n")
	if want := "3\r\none\r\n5\r\nthree\r\n0\r\n\r\n"; body != want {
		t.Errorf("got %q, want %q", body, want)
	}
}

func TestSplit(t *testing.T) {
	t.Parallel()
	if diff := cmp.Diff([]string{"abc", "def", "g"}, apexproxytest.Split("abcdefg", 3)); diff != "" {
		t.Error(diff)
	}
	if diff := cmp.Diff([]string{"abc"}, apexproxytest.Split("abc", 3)); diff != "" {
		t.Error(diff)
	}
	if got := apexproxytest.Split("", 3); got != nil {
		t.Error(got)
	}
}

func TestWaitCancelled(t *testing.T) {
	t.Parallel()
	for name, reply := range map[string]http.Handler{
		"Hang":       apexproxytest.Hang(),
		"StallAfter": apexproxytest.StallAfter("data: 1\n\n"),
		"Steps":      apexproxytest.Steps("data: 1\n\n"),
	} {
		t.Run(name, func(t *testing.T) {
			both(t, func(t *testing.T, start func(...http.Handler) *apexproxytest.Upstream) {
				up, ctx := start(reply), testContext(t)
				reqCtx, leave := context.WithCancel(ctx)
				req, err := http.NewRequestWithContext(reqCtx, "POST", up.URL, strings.NewReader("{}"))
				if err != nil {
					t.Fatal(err)
				}
				done := make(chan error, 1)
				go func() {
					resp, err := up.Client().Do(req)
					if err == nil {
						_, err = io.ReadAll(resp.Body)
						resp.Body.Close()
					}
					done <- err
				}()
				if err := up.WaitRequests(ctx, 1); err != nil {
					t.Fatal(err)
				}
				leave()
				if err := <-done; !errors.Is(err, context.Canceled) {
					t.Error(err)
				}
				if err := up.WaitCancelled(ctx, 1); err != nil {
					t.Error(err)
				}
			})
		})
	}
}

func TestCompleteAnswerIsNotCancelled(t *testing.T) {
	t.Parallel()
	both(t, func(t *testing.T, start func(...http.Handler) *apexproxytest.Upstream) {
		up := start(apexproxytest.JSON(200, "{}"))
		for range 3 {
			io.Copy(io.Discard, post(t, up, "/").Body)
		}
		up.Close()
		ctx, cancel := context.WithCancel(t.Context())
		cancel()
		if err := up.WaitCancelled(ctx, 1); !errors.Is(err, context.Canceled) {
			t.Error("a complete answer counts as cancelled")
		}
		if err := up.WaitRequests(ctx, 3); err != nil {
			t.Error(err)
		}
	})
}

func TestBodyError(t *testing.T) {
	t.Parallel()
	up := apexproxytest.NewUpstream(apexproxytest.JSON(200, "{}"))
	defer up.Close()
	conn, err := net.Dial("tcp", up.Host)
	if err != nil {
		t.Fatal(err)
	}
	io.WriteString(conn, "POST / HTTP/1.1\r\nHost: x\r\nContent-Length: 10\r\n\r\nhalf")
	conn.Close()
	if err := up.WaitCancelled(testContext(t), 1); err != nil {
		t.Fatal(err)
	}
	got := up.Requests()[0]
	if string(got.Body) != "half" || !errors.Is(got.BodyErr, io.ErrUnexpectedEOF) {
		t.Errorf("body %q, error %v", got.Body, got.BodyErr)
	}
}

func TestUnread(t *testing.T) {
	t.Parallel()
	up := apexproxytest.NewUpstream(apexproxytest.Unread(apexproxytest.JSON(413, "{}")))
	defer up.Close()
	pr, pw := io.Pipe()
	defer pw.Close()
	req, err := http.NewRequest("POST", up.URL, pr)
	if err != nil {
		t.Fatal(err)
	}
	resp, err := up.Client().Do(req)
	if err != nil {
		t.Fatal(err)
	}
	resp.Body.Close()
	if resp.StatusCode != 413 {
		t.Errorf("status %d", resp.StatusCode)
	}
}

func TestCloseEndsHang(t *testing.T) {
	t.Parallel()
	both(t, func(t *testing.T, start func(...http.Handler) *apexproxytest.Upstream) {
		up, ctx := start(apexproxytest.Hang()), testContext(t)
		done := make(chan error, 1)
		go func() {
			req, err := http.NewRequest("POST", up.URL, io.MultiReader(strings.NewReader("{}")))
			if err == nil {
				_, err = up.Client().Do(req)
			}
			done <- err
		}()
		if err := up.WaitRequests(ctx, 1); err != nil {
			t.Fatal(err)
		}
		up.Close()
		if err := <-done; err == nil {
			t.Error("an answer without a cause")
		}
		gone, cancel := context.WithCancel(ctx)
		cancel()
		if err := up.WaitCancelled(gone, 1); !errors.Is(err, context.Canceled) {
			t.Error("Close counts as a client that left")
		}
	})
}

func TestSteps(t *testing.T) {
	t.Parallel()
	both(t, func(t *testing.T, start func(...http.Handler) *apexproxytest.Upstream) {
		gate := apexproxytest.Steps("one", "two")
		up, ctx := start(gate), testContext(t)
		resp := post(t, up, "/") // the head comes before the first step

		read := func(want string) {
			t.Helper()
			b := make([]byte, len(want))
			if _, err := io.ReadFull(resp.Body, b); err != nil || string(b) != want {
				t.Fatalf("%q, %v", b, err)
			}
		}
		for _, want := range []string{"one", "two"} {
			if err := gate.Next(ctx); err != nil {
				t.Fatal(err)
			}
			read(want)
		}
		if err := gate.Next(ctx); err != nil {
			t.Fatal(err)
		}
		if n, err := resp.Body.Read(make([]byte, 8)); n != 0 || err != io.EOF {
			t.Errorf("%d bytes, %v after the last event", n, err)
		}
		gone, cancel := context.WithCancel(ctx)
		cancel()
		if err := gate.Next(gone); !errors.Is(err, context.Canceled) {
			t.Error("a step too many")
		}
	})
}

func TestEarlyHints(t *testing.T) {
	t.Parallel()
	both(t, func(t *testing.T, start func(...http.Handler) *apexproxytest.Upstream) {
		up := start(apexproxytest.EarlyHints(apexproxytest.JSON(200, "{}")))
		var hints []string
		ctx := httptrace.WithClientTrace(t.Context(), &httptrace.ClientTrace{Got1xxResponse: func(code int, h textproto.MIMEHeader) error {
			hints = append(hints, h.Get("Link"))
			return nil
		}})
		req, err := http.NewRequestWithContext(ctx, "GET", up.URL, nil)
		if err != nil {
			t.Fatal(err)
		}
		resp, _ := do(t, up.Client(), req)
		if len(hints) != 1 || hints[0] == "" || resp.StatusCode != 200 || resp.Header.Get("Link") != "" {
			t.Errorf("hints %q, status %d, header %v", hints, resp.StatusCode, resp.Header)
		}
	})
}

func TestTrailers(t *testing.T) {
	t.Parallel()
	both(t, func(t *testing.T, start func(...http.Handler) *apexproxytest.Upstream) {
		for _, then := range []http.Handler{apexproxytest.JSON(200, "{}"), apexproxytest.SSE("data: 1\n\n")} {
			up := start(apexproxytest.Trailers(then, "X-Sum", "42", "X-Other", "1"))
			resp := post(t, up, "/")
			io.Copy(io.Discard, resp.Body)
			if diff := cmp.Diff(http.Header{"X-Sum": {"42"}, "X-Other": {"1"}}, resp.Trailer); diff != "" {
				t.Error("-want +got:\n" + diff)
			}
		}
	})
}

func TestGzip(t *testing.T) {
	t.Parallel()
	both(t, func(t *testing.T, start func(...http.Handler) *apexproxytest.Upstream) {
		gate := apexproxytest.Steps("data: 1\n\n", "data: 2\n\n")
		up, ctx := start(apexproxytest.Gzip(gate), apexproxytest.Gzip(apexproxytest.JSON(200, "{}")), apexproxytest.Gzip(apexproxytest.Abort("{"))), testContext(t)
		get := func() *http.Response {
			req, err := http.NewRequest("GET", up.URL, nil)
			if err != nil {
				t.Fatal(err)
			}
			req.Header.Set("Accept-Encoding", "gzip") // named, so that the transport leaves the body alone
			resp, err := up.Client().Do(req)
			if err != nil {
				t.Fatal(err)
			}
			t.Cleanup(func() { resp.Body.Close() })
			if got := resp.Header.Get("Content-Encoding"); got != "gzip" {
				t.Errorf("content encoding %q", got)
			}
			return resp
		}
		resp := get()
		var zr *gzip.Reader
		for _, want := range []string{"data: 1\n\n", "data: 2\n\n"} {
			if err := gate.Next(ctx); err != nil {
				t.Fatal(err)
			}
			if zr == nil {
				var err error
				if zr, err = gzip.NewReader(resp.Body); err != nil {
					t.Fatal(err)
				}
			}
			b := make([]byte, len(want))
			if _, err := io.ReadFull(zr, b); err != nil || string(b) != want {
				t.Fatalf("%q, %v", b, err)
			}
		}
		if err := gate.Next(ctx); err != nil {
			t.Fatal(err)
		}
		if _, err := zr.Read(make([]byte, 1)); err != io.EOF {
			t.Error(err)
		}

		zr, err := gzip.NewReader(get().Body)
		if err != nil {
			t.Fatal(err)
		}
		if b, err := io.ReadAll(zr); err != nil || string(b) != "{}" {
			t.Errorf("%q, %v", b, err)
		}

		b, err := io.ReadAll(get().Body)
		if err == nil || !bytes.HasPrefix(b, []byte{0x1f, 0x8b}) {
			t.Errorf("aborted gzip: %x, %v", b, err)
		}
	})
}

func TestRedirectAndRaw(t *testing.T) {
	t.Parallel()
	up := apexproxytest.NewUpstream(
		apexproxytest.Redirect(307, "http://169.254.169.254/"),
		apexproxytest.Raw("HTTP/1.1 200 OK\r\nContent-Length: 10\r\n\r\nhalf"))
	defer up.Close()
	c := &http.Client{Transport: up.Transport(), CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse }}
	defer c.CloseIdleConnections()
	req, _ := http.NewRequest("GET", up.URL, nil)
	resp, _ := do(t, c, req)
	if resp.StatusCode != 307 || resp.Header.Get("Location") != "http://169.254.169.254/" {
		t.Errorf("%d %q", resp.StatusCode, resp.Header.Get("Location"))
	}
	resp, err := c.Get(up.URL)
	if err != nil {
		t.Fatal(err)
	}
	defer resp.Body.Close()
	if b, err := io.ReadAll(resp.Body); !errors.Is(err, io.ErrUnexpectedEOF) || string(b) != "half" {
		t.Errorf("%q, %v", b, err)
	}
}

func TestRefusingAddr(t *testing.T) {
	t.Parallel()
	conn, err := net.Dial("tcp", apexproxytest.RefusingAddr())
	if err == nil {
		conn.Close()
		t.Error("connected")
	}
}

func TestOddHeaderPanics(t *testing.T) {
	t.Parallel()
	defer func() {
		if recover() == nil {
			t.Error("no panic")
		}
	}()
	apexproxytest.JSON(200, "{}", strings.Fields("X-A")...)
}
