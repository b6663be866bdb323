// Mount puts the proxy into a service that exists already: on the service's own mux, beside its own
// routes, behind its own middleware, and into the order of its shutdown.
package main

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/http"
	"os"
	"os/signal"
	"syscall"
	"time"

	"github.com/loadchange/apexproxy"
)

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	if err := run(ctx, os.Getenv, nil); err != nil {
		fmt.Fprintln(os.Stderr, "mount:", err)
		os.Exit(1)
	}
}

// run serves until ctx ends. listening, when not nil, is told the address.
func run(ctx context.Context, getenv func(string) string, listening func(net.Addr)) error {
	proxy, err := newProxy(getenv)
	if err != nil {
		return fmt.Errorf("%w\nset GATEWAY_TOKEN, and ACCOUNT_ID and GATEWAY_ID or GATEWAY_BASE_URL; "+
			"to see the proxy without an account: go run ./examples/quickstart", err)
	}
	addr := getenv("ADDR")
	if addr == "" {
		addr = "127.0.0.1:8080"
	}
	listener, err := net.Listen("tcp", addr)
	if err != nil {
		return err
	}
	server := &http.Server{
		Handler:           newHandler(proxy),
		ReadHeaderTimeout: 10 * time.Second,
		// For the service's own routes. While an answer of the proxy flows, the proxy moves the
		// deadline, so that it does not cut a long stream.
		WriteTimeout: 30 * time.Second,
	}
	slog.Info("listening", "url", "http://"+listener.Addr().String()+"/ai/v1")
	if listening != nil {
		listening(listener.Addr())
	}
	failed := make(chan error, 1)
	go func() { failed <- server.Serve(listener) }()
	select {
	case err := <-failed:
		return err
	case <-ctx.Done():
	}

	// First the server, which waits for open streams, then the proxy, whose reports of those
	// streams are complete only now.
	end, cancel := context.WithTimeout(context.Background(), 8*time.Second)
	defer cancel()
	err = server.Shutdown(end)
	if err != nil {
		_ = server.Close() // cuts the streams that did not finish
	}
	return errors.Join(err, proxy.Shutdown(end))
}

func newProxy(getenv func(string) string) (*apexproxy.Proxy, error) {
	return apexproxy.New(apexproxy.WithGateway(apexproxy.Gateway{
		AccountID: getenv("ACCOUNT_ID"),
		GatewayID: getenv("GATEWAY_ID"),
		Token:     getenv("GATEWAY_TOKEN"),
		BaseURL:   getenv("GATEWAY_BASE_URL"),
	}))
}

// newHandler is the service's mux behind the service's middleware.
func newHandler(proxy http.Handler) http.Handler {
	mux := http.NewServeMux()
	mux.HandleFunc("GET /hello", func(w http.ResponseWriter, r *http.Request) {
		fmt.Fprintln(w, "hello from the service itself")
	})
	// Clients use http://…/ai/v1 as an OpenAI base URL, http://…/ai as an Anthropic one.
	mux.Handle("/ai/", http.StripPrefix("/ai", proxy))
	return recoverPanics(mux)
}

// recoverPanics answers 500 when a handler panics. It passes [http.ErrAbortHandler] on: with it the
// proxy says that an upstream's answer broke off, and swallowing it would make the broken answer
// look whole.
func recoverPanics(next http.Handler) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		defer func() {
			switch v := recover(); v {
			case nil:
			case http.ErrAbortHandler:
				panic(v)
			default:
				slog.Error("a handler panicked", "panic", v, "path", r.URL.Path)
				http.Error(w, "internal error", http.StatusInternalServerError)
			}
		}()
		next.ServeHTTP(w, r)
	})
}
