// Middleware wraps the proxy with what a service has of its own: API keys that belong to tenants,
// the tenant's name on every request in the gateway's logs, and an access log.
package main

import (
	"context"
	"crypto/sha256"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/http"
	"os"
	"os/signal"
	"strings"
	"syscall"
	"time"

	"github.com/loadchange/apexproxy"
)

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	if err := run(ctx, os.Getenv); err != nil {
		fmt.Fprintln(os.Stderr, "middleware:", err)
		os.Exit(1)
	}
}

func run(ctx context.Context, getenv func(string) string) error {
	proxy, err := newProxy(getenv)
	if err != nil {
		return fmt.Errorf("%w\nset API_KEYS=tenant=key,tenant=key and GATEWAY_TOKEN, and ACCOUNT_ID and GATEWAY_ID or GATEWAY_BASE_URL; "+
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
	server := &http.Server{Handler: logAccess(slog.Default(), proxy), ReadHeaderTimeout: 10 * time.Second}
	slog.Info("listening", "addr", listener.Addr().String())
	failed := make(chan error, 1)
	go func() { failed <- server.Serve(listener) }()
	select {
	case err := <-failed:
		return err
	case <-ctx.Done():
	}
	end, cancel := context.WithTimeout(context.Background(), 8*time.Second)
	defer cancel()
	err = server.Shutdown(end)
	if err != nil {
		_ = server.Close()
	}
	return errors.Join(err, proxy.Shutdown(end))
}

func newProxy(getenv func(string) string) (*apexproxy.Proxy, error) {
	keys, err := parseKeys(getenv("API_KEYS"))
	if err != nil {
		return nil, err
	}
	return apexproxy.New(
		apexproxy.WithGateway(apexproxy.Gateway{
			AccountID: getenv("ACCOUNT_ID"),
			GatewayID: getenv("GATEWAY_ID"),
			Token:     getenv("GATEWAY_TOKEN"),
			BaseURL:   getenv("GATEWAY_BASE_URL"),
			Header:    tenantMetadata,
		}),
		apexproxy.WithAuth(keys.authenticate),
	)
}

// tenantKeys holds the tenant of each key under the key's hash: a lookup then takes no time that
// tells how much of a guess was right, and a dump of the map shows no key.
type tenantKeys map[[sha256.Size]byte]string

// parseKeys reads tenant=key entries separated by commas. Its errors name the tenant at most.
func parseKeys(s string) (tenantKeys, error) {
	keys := tenantKeys{}
	for entry := range strings.SplitSeq(s, ",") {
		tenant, key, _ := strings.Cut(strings.TrimSpace(entry), "=")
		if tenant == "" || key == "" {
			return nil, errors.New("API_KEYS must be tenant=key entries separated by commas")
		}
		keys[sha256.Sum256([]byte(key))] = tenant
	}
	return keys, nil
}

var errUnknownKey = errors.New("unknown key")

// authenticate is an [apexproxy.Authenticator]. It takes keys as the OpenAI SDK (Authorization) and
// the Anthropic SDK (x-api-key) send them.
func (k tenantKeys) authenticate(r *http.Request) (apexproxy.Identity, error) {
	key, bearer := strings.CutPrefix(r.Header.Get("Authorization"), "Bearer ")
	if !bearer {
		key = r.Header.Get("X-Api-Key")
	}
	tenant, ok := k[sha256.Sum256([]byte(key))]
	if !ok {
		return apexproxy.Identity{}, errUnknownKey
	}
	return apexproxy.Identity{Subject: tenant}, nil
}

// tenantMetadata tells the gateway for whom a request is, so that its logs and costs can be told
// apart. What it sets wins over what a client sends.
func tenantMetadata(r *http.Request) http.Header {
	id, _ := apexproxy.IdentityFromContext(r.Context())
	metadata, err := json.Marshal(map[string]string{"tenant": id.Subject})
	if err != nil {
		return nil
	}
	return http.Header{"Cf-Aig-Metadata": {string(metadata)}}
}

// logAccess logs one line when a request is over, also when the proxy panics with
// [http.ErrAbortHandler] because the upstream's answer broke off: it does not recover, so the
// server still sees the panic and breaks the connection off.
func logAccess(logger *slog.Logger, next http.Handler) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		start, lw, aborted := time.Now(), &loggedWriter{ResponseWriter: w}, true
		defer func() {
			logger.Info("request", "method", r.Method, "path", r.URL.Path, "status", lw.status,
				"bytes", lw.bytes, "aborted", aborted, "duration", time.Since(start))
		}()
		next.ServeHTTP(lw, r)
		aborted = false
	})
}

// loggedWriter notes status and size. Unwrap is all that streaming needs: through it
// [http.ResponseController] finds Flush and the deadlines of the server's own writer.
type loggedWriter struct {
	http.ResponseWriter
	status int
	bytes  int64
}

func (w *loggedWriter) Unwrap() http.ResponseWriter { return w.ResponseWriter }

func (w *loggedWriter) WriteHeader(status int) {
	if w.status == 0 && status >= 200 { // 103 Early Hints come before the status
		w.status = status
	}
	w.ResponseWriter.WriteHeader(status)
}

func (w *loggedWriter) Write(b []byte) (int, error) {
	if w.status == 0 {
		w.status = http.StatusOK
	}
	n, err := w.ResponseWriter.Write(b)
	w.bytes += int64(n)
	return n, err
}
