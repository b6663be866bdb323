package aepipe

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"strings"
	"time"
)

const (
	maxAnswer    = 64 << 20 // bytes
	maxRefIDs    = 100
	maxRawLogs   = 200
	maxErrorText = 1 << 10
)

// A Client reads from a store what a [Reporter] wrote. It may be used concurrently. Each method
// makes one call, tries nothing again and reads answers of at most 64 MiB. An answer that is not a
// success is an [*Error]; mistakes in the arguments are found before anything is sent.
type Client struct {
	s *store
}

// NewClient returns a Client for the store and the project that cfg describes. It makes no call.
// The error names every mistake in cfg at once.
func NewClient(cfg Config) (*Client, error) {
	s, err := newStore(cfg)
	if err != nil {
		return nil, err
	}
	return &Client{s}, nil
}

// A QueryResult is the answer to [Client.Query].
type QueryResult struct {
	Columns []Column `json:"meta"`

	// Rows is a JSON array of objects, one a row: unmarshal it into a slice of structs. Analytics
	// Engine writes 64-bit integers as strings.
	Rows json.RawMessage `json:"data"`
}

// A Column is a column of a [QueryResult].
type Column struct {
	Name string `json:"name"`
	Type string `json:"type"` // as Analytics Engine names it: String, Float64, DateTime, …
}

// Query runs a SELECT of Analytics Engine's SQL on the table aepipe, without a FORMAT clause. An
// empty logstore is that of [Config].
//
// The store adds a condition on the project and the logstore after the first WHERE of the text: put
// an OR of your own in parentheses, and never build the text from what others wrote, or it will
// read other projects too.
func (c *Client) Query(ctx context.Context, logstore, sql string) (*QueryResult, error) {
	logstore = orDefault(logstore, c.s.logstore)
	if err := checkLogStore("logstore", c.s.project, logstore); err != nil {
		return nil, err
	}
	if strings.TrimSpace(sql) == "" {
		return nil, errors.New("aepipe: sql is empty: pass a SELECT statement")
	}
	var result QueryResult
	err := c.call(ctx, http.MethodPost, c.s.path(logstore, "query"), map[string]string{"sql": sql}, &result)
	if err != nil {
		return nil, err
	}
	return &result, nil
}

// RawLogOptions narrows [Client.RawLog].
type RawLogOptions struct {
	Limit int       // 1 to 200, 0 is the store's default of 50
	Start time.Time // zero is six hours ago
	End   time.Time // zero is now
}

// A RawLogEntry is a line of Workers Logs.
type RawLogEntry struct {
	Time  time.Time // zero when the store did not say
	Level string
	Data  json.RawMessage // an object with the fields of a raw entry, or a string
}

// RawLog reads lines of Workers Logs, which keeps them for days. An empty logstore is the
// RawLogStore of [Config].
func (c *Client) RawLog(ctx context.Context, logstore string, opts RawLogOptions) ([]RawLogEntry, error) {
	logstore = orDefault(logstore, c.s.rawstore)
	if err := checkLogStore("logstore", c.s.project, logstore); err != nil {
		return nil, err
	}
	if opts.Limit < 0 || opts.Limit > maxRawLogs {
		return nil, fmt.Errorf("aepipe: Limit must be 0 to %d", maxRawLogs)
	}
	if !opts.Start.IsZero() && !opts.End.IsZero() && !opts.Start.Before(opts.End) {
		return nil, errors.New("aepipe: Start must be before End")
	}
	in := struct {
		Limit int    `json:"limit,omitempty"`
		Start string `json:"start,omitempty"`
		End   string `json:"end,omitempty"`
	}{opts.Limit, timestamp(opts.Start), timestamp(opts.End)}
	var out struct {
		Logs []struct {
			Timestamp string          `json:"timestamp"`
			Level     string          `json:"level"`
			Data      json.RawMessage `json:"data"`
		} `json:"logs"`
	}
	if err := c.call(ctx, http.MethodPost, c.s.path(logstore, "rawlog"), in, &out); err != nil {
		return nil, err
	}
	entries := make([]RawLogEntry, len(out.Logs))
	for i, l := range out.Logs {
		t, _ := time.Parse(time.RFC3339, l.Timestamp)
		entries[i] = RawLogEntry{Time: t, Level: l.Level, Data: l.Data}
	}
	return entries, nil
}

// timestamp writes t in the form of JavaScript's Date, whose years have four digits.
func timestamp(t time.Time) string {
	if t.IsZero() {
		return ""
	}
	return t.UTC().Format("2006-01-02T15:04:05.000Z")
}

// A Detail is the payload of a point.
type Detail struct {
	RefID     string          // blob5 of the point
	Payload   json.RawMessage // {"request": …, "response": …, "meta": …}
	CreatedAt time.Time
	ExpiresAt time.Time
}

// Detail reads the payloads of 1 to 100 points by their ref_id, blob5. Payloads that have expired
// are left out; the order is the store's. A store without D1 answers with status 501. The store
// does not check to which project a ref_id belongs.
func (c *Client) Detail(ctx context.Context, refIDs []string) ([]Detail, error) {
	if len(refIDs) == 0 || len(refIDs) > maxRefIDs {
		return nil, fmt.Errorf("aepipe: refIDs must have 1 to %d elements, not %d", maxRefIDs, len(refIDs))
	}
	var out struct {
		Results []struct {
			RefID     string          `json:"ref_id"`
			Payload   json.RawMessage `json:"payload"`
			CreatedAt int64           `json:"created_at"`
			ExpiresAt int64           `json:"expires_at"`
		} `json:"results"`
	}
	in := map[string][]string{"ref_ids": refIDs}
	if err := c.call(ctx, http.MethodPost, c.s.path(c.s.logstore, "detail"), in, &out); err != nil {
		return nil, err
	}
	details := make([]Detail, len(out.Results))
	for i, r := range out.Results {
		details[i] = Detail{r.RefID, r.Payload, time.UnixMilli(r.CreatedAt), time.UnixMilli(r.ExpiresAt)}
	}
	return details, nil
}

// Projects lists the projects of the store.
func (c *Client) Projects(ctx context.Context) ([]string, error) {
	var out struct {
		Projects []string `json:"projects"`
	}
	err := c.call(ctx, http.MethodGet, "/v1/projects", nil, &out)
	return out.Projects, err
}

// LogStores lists the logstores of the project that hold points. Analytics Engine knows nothing of
// those that hold raw entries only.
func (c *Client) LogStores(ctx context.Context) ([]string, error) {
	var out struct {
		LogStores []string `json:"logstores"`
	}
	err := c.call(ctx, http.MethodGet, "/v1/"+c.s.project+"/logstores", nil, &out)
	return out.LogStores, err
}

func (c *Client) call(ctx context.Context, method, path string, in, out any) error {
	var body []byte
	if in != nil {
		body = encode(in)
	}
	resp, answer, err := c.s.do(ctx, method, path, body, maxAnswer)
	if err != nil {
		return err
	}
	if resp.StatusCode < 200 || resp.StatusCode >= 300 {
		return &Error{resp.StatusCode, c.errorText(resp.StatusCode, answer)}
	}
	if len(answer) > maxAnswer {
		return &Error{resp.StatusCode, "the answer is over 64 MiB: ask for less"}
	}
	if json.Unmarshal(answer, out) != nil {
		return &Error{resp.StatusCode, "the answer is not that of an aepipe store: check Config.BaseURL"}
	}
	return nil
}

// errorText is what the store says, without the token in case it was echoed.
func (c *Client) errorText(status int, answer []byte) string {
	var said struct {
		Error string `json:"error"`
	}
	if json.Unmarshal(answer, &said) != nil || said.Error == "" {
		return advice(status)
	}
	return shorten(strings.ReplaceAll(said.Error, c.s.token(), "[REDACTED]"), maxErrorText)
}
