package apexproxy_test

import (
	"bytes"
	"context"
	"fmt"
	"io"
	"log"
	"net/http"
	"net/http/httptest"
	"net/http/httputil"
	"net/url"
	"runtime"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/loadchange/apexproxy"
)

// BenchmarkProxy compares the proxy with a plain tuned ReverseProxy in front of
// the same upstream, 16 clients at a time over loopback. Read the ratio within
// one run:
//
//	go test -run '^$' -bench BenchmarkProxy -count 7 .
func BenchmarkProxy(b *testing.B) {
	stream := make([]string, 100)
	for i := range stream {
		stream[i] = fmt.Sprintf("data: {\"id\":\"chatcmpl-1\",\"object\":\"chat.completion.chunk\",\"choices\":[{\"index\":0,\"delta\":{\"content\":\"word %d \"},\"finish_reason\":null}]}\n\n", i)
	}
	answer := `{"id":"chatcmpl-1","object":"chat.completion","model":"gpt-5.5","choices":[{"index":0,"message":{"role":"assistant","content":"` +
		strings.Repeat("answer ", 260) + `"},"finish_reason":"stop"}],"usage":{"prompt_tokens":500,"completion_tokens":260,"total_tokens":760}}`
	upstream := benchUpstream(answer, stream)
	defer upstream.Close()

	proxy := func(opts ...apexproxy.Option) func() http.Handler {
		return func() http.Handler {
			p, err := apexproxy.New(append(opts, apexproxy.WithGateway(apexproxy.Gateway{BaseURL: upstream.URL + "/v1/a/g", Token: "bench"}))...)
			if err != nil {
				b.Fatal(err)
			}
			return p
		}
	}
	handlers := []struct {
		name string
		make func() http.Handler
	}{
		{"ReverseProxy", func() http.Handler { return plainProxy(upstream.URL) }},
		{"bare", proxy()},
		{"mapping", proxy(apexproxy.WithMapping("gpt#gpt-5.5"))},
		{"mapping+reporter", proxy(apexproxy.WithMapping("gpt#gpt-5.5"), apexproxy.WithReporter(discard))},
		{"mapping+hanging", proxy(apexproxy.WithMapping("gpt#gpt-5.5"), apexproxy.WithReporter(hang, apexproxy.ReportTimeout(time.Hour)))},
	}
	for _, work := range []struct {
		name, kind string
		body       []byte
	}{
		{"2KB", "json", benchBody(2 << 10)},
		{"200KB", "json", benchBody(200 << 10)},
		{"stream100", "stream", benchBody(2 << 10)},
	} {
		for _, h := range handlers {
			b.Run(work.name+"/"+h.name, func(b *testing.B) {
				server := httptest.NewServer(h.make())
				defer server.Close()
				client := &http.Client{Transport: apexproxy.NewTransport()}
				b.ReportAllocs()
				b.SetParallelism(8)
				b.RunParallel(func(pb *testing.PB) {
					for pb.Next() {
						req, _ := http.NewRequest(http.MethodPost, server.URL+"/v1/chat/completions", bytes.NewReader(work.body))
						req.Header.Set("Authorization", "Bearer bench")
						req.Header.Set("X-Bench", work.kind)
						res, err := client.Do(req)
						if err != nil {
							b.Error(err)
							return
						}
						if n, err := io.Copy(io.Discard, res.Body); err != nil || res.StatusCode != 200 || n < 1000 {
							b.Errorf("status %d, %d bytes, %v", res.StatusCode, n, err)
						}
						_ = res.Body.Close()
					}
				})
			})
		}
	}
}

var discard = apexproxy.ReporterFunc(func(context.Context, []apexproxy.Record) error { return nil })

// hang is a reporter that never returns: what it costs is what it may cost.
var hang = apexproxy.ReporterFunc(func(ctx context.Context, _ []apexproxy.Record) error {
	<-ctx.Done()
	return ctx.Err()
})

// BenchmarkIdleStreams holds open streams and reports what one costs in this
// process, with the client and the upstream, which are the same for both.
//
//	go test -run '^$' -bench BenchmarkIdleStreams -benchtime 1x -count 7 .
func BenchmarkIdleStreams(b *testing.B) {
	const streams = 500
	for _, name := range []string{"ReverseProxy", "mapping+reporter"} {
		b.Run(name, func(b *testing.B) {
			leave := make(chan struct{})
			upstream := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
				_, _ = io.Copy(io.Discard, r.Body)
				w.Header().Set("Content-Type", "text/event-stream")
				_, _ = io.WriteString(w, "data: {}\n\n")
				w.(http.Flusher).Flush()
				<-leave
			}))
			defer upstream.Close()
			defer close(leave)
			var h http.Handler
			if name == "ReverseProxy" {
				h = plainProxy(upstream.URL)
			} else {
				p, err := apexproxy.New(apexproxy.WithMapping("gpt#gpt-5.5"), apexproxy.WithReporter(discard),
					apexproxy.WithGateway(apexproxy.Gateway{BaseURL: upstream.URL + "/v1/a/g", Token: "bench"}))
				if err != nil {
					b.Fatal(err)
				}
				h = p
			}
			server := httptest.NewServer(h)
			defer server.Close()
			defer server.CloseClientConnections()
			client := &http.Client{Transport: apexproxy.NewTransport()}
			open := func() {
				req, _ := http.NewRequest(http.MethodPost, server.URL+"/v1/chat/completions", bytes.NewReader(benchBody(2<<10)))
				req.Header.Set("Authorization", "Bearer bench")
				res, err := client.Do(req)
				if err != nil {
					b.Fatal(err)
				}
				if _, err := io.ReadFull(res.Body, make([]byte, 10)); err != nil {
					b.Fatal(err)
				}
			}
			open()
			used := func() uint64 {
				var m runtime.MemStats
				runtime.GC()
				runtime.ReadMemStats(&m)
				return m.HeapAlloc + m.StackInuse
			}
			for b.Loop() {
				before := used()
				for range streams {
					open()
				}
				b.ReportMetric(float64(used()-before)/streams, "B/stream")
			}
		})
	}
}

func plainProxy(upstream string) http.Handler {
	target, _ := url.Parse(upstream)
	pool := &sync.Pool{New: func() any { return new([32 << 10]byte) }}
	return &httputil.ReverseProxy{
		Rewrite:       func(pr *httputil.ProxyRequest) { pr.SetURL(target) },
		Transport:     apexproxy.NewTransport(),
		FlushInterval: -1,
		BufferPool:    benchPool{pool},
		ErrorLog:      log.New(io.Discard, "", 0),
	}
}

// benchUpstream answers with a document, or with events where X-Bench asks for a
// stream.
func benchUpstream(answer string, events []string) *httptest.Server {
	return httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		_, _ = io.Copy(io.Discard, r.Body)
		if r.Header.Get("X-Bench") != "stream" {
			w.Header().Set("Content-Type", "application/json")
			_, _ = io.WriteString(w, answer)
			return
		}
		w.Header().Set("Content-Type", "text/event-stream")
		for _, event := range events {
			_, _ = io.WriteString(w, event)
			w.(http.Flusher).Flush()
		}
	}))
}

func benchBody(size int) []byte {
	return []byte(`{"model":"gpt#openai","messages":[{"role":"user","content":"` + strings.Repeat("prompt ", size/7) + `"}]}`)
}

type benchPool struct{ *sync.Pool }

func (p benchPool) Get() []byte  { return p.Pool.Get().(*[32 << 10]byte)[:] }
func (p benchPool) Put(b []byte) { p.Pool.Put((*[32 << 10]byte)(b)) }
