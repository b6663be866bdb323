// Server is the proxy as a program: everything it does is set in the environment (see [variables]).
// It is small enough to copy and change.
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
)

// The whole exit fits in 8 seconds: streams get most of it, reports the rest.
const (
	drainTime = 6 * time.Second
	flushTime = 1500 * time.Millisecond
)

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	context.AfterFunc(ctx, stop) // a second signal ends the process at once
	if err := run(ctx, os.Getenv, nil); err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
}

// run serves until ctx ends. listening, when not nil, is told the address.
func run(ctx context.Context, getenv func(string) string, listening func(net.Addr)) error {
	s, err := configure(getenv)
	if err != nil {
		return err
	}
	listener, err := net.Listen("tcp", s.addr)
	if err != nil {
		return fmt.Errorf("ADDR: %w", err)
	}
	if s.open && !loopback(listener.Addr()) {
		s.logger.Warn("anybody who reaches this address can send requests to any public host from here: set PASSTHROUGH_TOKENS, PASSTHROUGH_HOSTS or PASSTHROUGH=off")
	}
	server := &http.Server{
		Handler:           s.proxy,
		ReadHeaderTimeout: 10 * time.Second,
		ReadTimeout:       5 * time.Minute, // of the whole request; a slow body holds memory
		IdleTimeout:       2 * time.Minute,
		// No WriteTimeout: answers stream for minutes.
		ErrorLog: slog.NewLogLogger(s.logger.Handler(), slog.LevelWarn),
	}
	s.logger.Info("listening", "addr", listener.Addr().String())
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

	s.logger.Info("stopping: no new connections, open streams may finish")
	drain, cancel := context.WithTimeout(context.Background(), drainTime)
	defer cancel()
	if err := server.Shutdown(drain); err != nil {
		s.logger.Warn("streams were cut", "error", err)
		_ = server.Close()
	}
	flush, cancel := context.WithTimeout(context.Background(), flushTime)
	defer cancel()
	if err := s.proxy.Shutdown(flush); err != nil {
		s.logger.Warn("reports were lost", "error", err)
	}
	if err := <-failed; !errors.Is(err, http.ErrServerClosed) {
		return err
	}
	return nil
}

func loopback(a net.Addr) bool {
	tcp, ok := a.(*net.TCPAddr)
	return ok && tcp.IP.IsLoopback()
}
