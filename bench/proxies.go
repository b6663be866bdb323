package main

import (
	"bytes"
	"context"
	"crypto/tls"
	"io"
	"net/http"
	"net/http/httputil"
	"net/url"
	"sync"

	"github.com/loadchange/apexproxy"
)

// ours rewrites the model, taps the answer and reports, as in production.
func ours(upstream *url.URL) (http.Handler, error) {
	return apexproxy.New(
		apexproxy.WithGateway(apexproxy.Gateway{BaseURL: upstream.String(), Token: token}),
		apexproxy.WithTransport(transport()),
		apexproxy.WithMapping(modelChat+"#gpt-4o#openai,"+modelMessages+"#claude#anthropic,"+modelConverted+"#gpt-4o#openai"),
		apexproxy.WithReporter(apexproxy.ReporterFunc(func(context.Context, []apexproxy.Record) error { return nil })),
	)
}

// reverseProxy is an httputil.ReverseProxy as one would set it up for this work. It has no
// FlushInterval: streams are flushed without it, and with it an answer that has a length would
// leave in two writes.
func reverseProxy(upstream *url.URL) http.Handler {
	p := &httputil.ReverseProxy{
		Rewrite:    func(r *httputil.ProxyRequest) { r.SetURL(upstream) },
		Transport:  transport(),
		BufferPool: &pool{},
	}
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		// Without it the server may close the request's body while the transport still reads it.
		_ = http.NewResponseController(w).EnableFullDuplex()
		p.ServeHTTP(w, r)
	})
}

// floor is the least that net/http can do with a request that is read before it is passed on. The
// memory of the request is not pooled, for the transport may read it after the answer has begun.
func floor(upstream *url.URL) http.Handler {
	t, buffers := transport(), &pool{}
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		body := make([]byte, max(r.ContentLength, 0))
		if _, err := io.ReadFull(r.Body, body); err != nil {
			w.WriteHeader(http.StatusBadRequest)
			return
		}
		out := &http.Request{
			Method: r.Method,
			Host:   upstream.Host,
			URL:    &url.URL{Scheme: upstream.Scheme, Host: upstream.Host, Path: r.URL.Path},
			Header: http.Header{
				"Content-Type":  r.Header["Content-Type"],
				"Authorization": r.Header["Authorization"],
			},
			Body:          io.NopCloser(bytes.NewReader(body)),
			ContentLength: int64(len(body)),
		}
		res, err := t.RoundTrip(out.WithContext(r.Context()))
		if err != nil {
			w.WriteHeader(http.StatusBadGateway)
			return
		}
		defer res.Body.Close()
		for _, name := range []string{"Content-Type", "Content-Length"} {
			if v := res.Header[name]; v != nil {
				w.Header()[name] = v
			}
		}
		w.WriteHeader(res.StatusCode)
		buf := buffers.Get()
		defer buffers.Put(buf)
		to := io.Writer(struct{ io.Writer }{w}) // w itself would not use buf
		if res.ContentLength < 0 {
			to = flushing{w}
		}
		_, _ = io.CopyBuffer(to, res.Body, buf)
	})
}

// flushing sends every write at once.
type flushing struct{ w http.ResponseWriter }

func (f flushing) Write(b []byte) (int, error) {
	n, err := f.w.Write(b)
	f.w.(http.Flusher).Flush()
	return n, err
}

// transport is the same for all. It does not verify the upstream, which has made its certificate
// itself.
func transport() *http.Transport {
	t := apexproxy.NewTransport()
	t.MaxIdleConns, t.MaxIdleConnsPerHost = 0, 4096
	t.TLSClientConfig = &tls.Config{InsecureSkipVerify: true}
	return t
}

// pool is an httputil.BufferPool of 32 KB each.
type pool struct{ p sync.Pool }

func (p *pool) Get() []byte {
	if b, ok := p.p.Get().(*[32 << 10]byte); ok {
		return b[:]
	}
	return make([]byte, 32<<10)
}

func (p *pool) Put(b []byte) { p.p.Put((*[32 << 10]byte)(b)) }
