package aepipe

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"strings"
	"time"
)

// Config says where an aepipe store is and who asks. It prints without its Token, in any fmt verb,
// through slog and in JSON.
type Config struct {
	// BaseURL is where the store answers, http or https, without user, query and fragment. A path
	// is kept, slashes at its end are cut.
	BaseURL string

	// Token is the store's ADMIN_TOKEN. It is sent to BaseURL only.
	Token string

	// Project and the two logstores are names of 1 to 64 letters, digits, "_" and "-"; project, a
	// slash and a logstore together have at most 96 bytes. Empty ones are "apex-ai-proxy",
	// "requests" and "raw".
	Project     string
	LogStore    string
	RawLogStore string

	// HTTPClient makes the calls. It is copied, and the copy follows no redirect. Nil is a client
	// on [http.DefaultTransport] with a timeout of 30 seconds.
	HTTPClient *http.Client
}

// Format implements [fmt.Formatter] for all verbs.
func (c Config) Format(f fmt.State, _ rune) {
	base := "[invalid]"
	if u, err := url.Parse(c.BaseURL); err == nil {
		base = (&url.URL{Scheme: u.Scheme, Host: u.Host, Path: u.Path}).String()
	}
	token := ""
	if c.Token != "" {
		token = "[REDACTED]"
	}
	fmt.Fprintf(f, "aepipe.Config{BaseURL:%q, Token:%q, Project:%q, LogStore:%q, RawLogStore:%q}",
		base, token, c.Project, c.LogStore, c.RawLogStore)
}

// MarshalText implements [encoding.TextMarshaler], for slog and encoding/json.
func (c Config) MarshalText() ([]byte, error) { return fmt.Append(nil, c), nil }

// An Error is an answer of the store that is not a success.
type Error struct {
	Status  int    // HTTP status
	Message string // from a [Client] what the store wrote, at most 1 KiB; from a [Reporter] our own words
}

func (e *Error) Error() string { return fmt.Sprintf("aepipe: status %d: %s", e.Status, e.Message) }

// store is an endpoint and the credential that belongs to it.
type store struct {
	base, project      string
	logstore, rawstore string
	token              func() string // a func prints as an address, whatever the verb
	client             *http.Client
}

func newStore(cfg Config) (*store, error) {
	s := &store{
		base:     strings.TrimRight(cfg.BaseURL, "/"),
		token:    func() string { return cfg.Token },
		project:  orDefault(cfg.Project, "apex-ai-proxy"),
		logstore: orDefault(cfg.LogStore, "requests"),
		rawstore: orDefault(cfg.RawLogStore, "raw"),
		client:   &http.Client{Timeout: 30 * time.Second},
	}
	if cfg.HTTPClient != nil {
		c := *cfg.HTTPClient
		s.client = &c
	}
	// A redirect would take the token and the records to a host nobody configured.
	s.client.CheckRedirect = func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse }

	errs := []error{
		checkBaseURL(cfg.BaseURL),
		checkToken(cfg.Token),
		checkName("Project", s.project),
		checkLogStore("LogStore", s.project, s.logstore),
		checkLogStore("RawLogStore", s.project, s.rawstore),
	}
	if err := errors.Join(errs...); err != nil {
		return nil, err
	}
	return s, nil
}

func orDefault(s, def string) string {
	if s == "" {
		return def
	}
	return s
}

// checkBaseURL never shows the value: a password or token may have slipped into it.
func checkBaseURL(base string) error {
	u, err := url.Parse(base)
	switch {
	case base == "":
		return errors.New("aepipe: Config.BaseURL is empty: set it to the store's address, such as https://aepipe.example.workers.dev")
	case err != nil:
		return errors.New("aepipe: Config.BaseURL is not a URL: set it to something like https://aepipe.example.workers.dev")
	case u.Scheme != "https" && u.Scheme != "http" || u.Hostname() == "":
		return errors.New("aepipe: Config.BaseURL must begin with https:// or http:// and a host")
	case u.User != nil || strings.ContainsAny(base, "?#"):
		return errors.New("aepipe: Config.BaseURL must not have a user, a query or a fragment: remove it, credentials go into Token")
	}
	return nil
}

// checkToken refuses what the store cannot read: it takes the text between the first two spaces.
func checkToken(token string) error {
	if token == "" {
		return errors.New("aepipe: Config.Token is empty: set it to the store's ADMIN_TOKEN")
	}
	for i := range len(token) {
		if token[i] <= ' ' || token[i] >= 0x7f {
			return errors.New("aepipe: Config.Token must be visible ASCII without spaces: look for a line break at its end")
		}
	}
	return nil
}

func checkName(field, name string) error {
	const word = "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789_-"
	if name == "" || len(name) > 64 || strings.Trim(name, word) != "" {
		return fmt.Errorf("aepipe: %s must be 1 to 64 letters, digits, \"_\" or \"-\": rename it", field)
	}
	return nil
}

// checkLogStore also keeps project/logstore, which is the index of Analytics Engine, within its 96
// bytes.
func checkLogStore(field, project, logstore string) error {
	if err := checkName(field, logstore); err != nil {
		return err
	}
	if n := len(project) + 1 + len(logstore); n > 96 {
		return fmt.Errorf("aepipe: Project and %s have %d bytes with the slash between them, at most 96 fit: shorten one", field, n)
	}
	return nil
}

func (s *store) path(logstore, action string) string {
	return "/v1/" + s.project + "/" + logstore + "/" + action
}

// do makes one call and reads the answer, at most one byte over limit. An answer that is read to
// its end leaves the connection for the next call.
func (s *store) do(ctx context.Context, method, path string, body []byte, limit int64) (*http.Response, []byte, error) {
	req, err := http.NewRequestWithContext(ctx, method, s.base+path, bytes.NewReader(body))
	if err != nil {
		return nil, nil, err
	}
	req.Header.Set("Authorization", "Bearer "+s.token())
	req.Header.Set("User-Agent", "apexproxy-aepipe")
	if method == http.MethodPost {
		req.Header.Set("Content-Type", "application/json")
	}
	resp, err := s.client.Do(req)
	if err != nil {
		return nil, nil, err
	}
	defer resp.Body.Close()
	answer, err := io.ReadAll(io.LimitReader(resp.Body, limit+1))
	return resp, answer, err
}
