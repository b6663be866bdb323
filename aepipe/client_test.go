package aepipe

import (
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/loadchange/apexproxy"
	"github.com/tidwall/gjson"
)

func newClient(t *testing.T, url string) *Client {
	t.Helper()
	c, err := NewClient(Config{BaseURL: url, Token: token})
	if err != nil {
		t.Fatal(err)
	}
	return c
}

// TestReadBack writes with the Reporter and reads with the Client.
func TestReadBack(t *testing.T) {
	t.Parallel()
	fake := startAepipe(t)
	c, ctx := newClient(t, fake.URL), t.Context()
	rec := record()
	if err := newReporter(t, Config{BaseURL: fake.URL}).Report(ctx, []apexproxy.Record{rec}); err != nil {
		t.Fatal(err)
	}

	projects, err := c.Projects(ctx)
	if diff := cmp.Diff([]string{"apex-ai-proxy"}, projects); diff != "" || err != nil {
		t.Errorf("Projects: %v %s", err, diff)
	}
	logstores, err := c.LogStores(ctx)
	if diff := cmp.Diff([]string{"requests"}, logstores); diff != "" || err != nil {
		t.Errorf("LogStores: %v %s", err, diff)
	}

	fake.SetRows(`{"ref_id":"`+fake.Points("requests")[0].RefID+`","n":2}`, `{"ref_id":"","n":3}`)
	result, err := c.Query(ctx, "", "SELECT blob5 AS ref_id, double1 AS n FROM aepipe")
	if err != nil {
		t.Fatal(err)
	}
	var rows []struct {
		RefID string `json:"ref_id"`
		N     float64
	}
	if err := json.Unmarshal(result.Rows, &rows); err != nil || len(rows) != 2 || rows[1].N != 3 {
		t.Fatalf("rows %+v, error %v", rows, err)
	}
	if diff := cmp.Diff([]Column{{"ref_id", "String"}, {"n", "Float64"}}, result.Columns); diff != "" {
		t.Errorf("columns (-want +got):\n%s", diff)
	}

	before := time.Now().Add(-time.Minute)
	details, err := c.Detail(ctx, []string{rows[0].RefID, "unknown"})
	if err != nil || len(details) != 1 {
		t.Fatalf("%d details, error %v", len(details), err)
	}
	d := details[0]
	if d.RefID != rows[0].RefID || d.CreatedAt.Before(before) || d.ExpiresAt.Sub(d.CreatedAt) != 90*24*time.Hour {
		t.Errorf("detail %s from %v to %v", d.RefID, d.CreatedAt, d.ExpiresAt)
	}
	if diff := cmp.Diff(gjson.ParseBytes(encode(newPayload(&rec))).Value(), gjson.ParseBytes(d.Payload).Value()); diff != "" {
		t.Errorf("payload (-sent +read):\n%s", diff)
	}

	logs, err := c.RawLog(ctx, "", RawLogOptions{Limit: 10, Start: before, End: time.Now().Add(time.Minute)})
	if err != nil || len(logs) != 1 {
		t.Fatalf("%d raw logs, error %v", len(logs), err)
	}
	if l := logs[0]; l.Level != "error" || l.Time.Before(before) || gjson.GetBytes(l.Data, "message").Str != "POST /v1/chat/completions 429 812ms [anthropic/claude-client]" {
		t.Errorf("raw log %v %s %s", l.Time, l.Level, l.Data)
	}
	if logs, err := c.RawLog(ctx, "", RawLogOptions{End: before}); err != nil || len(logs) != 0 {
		t.Errorf("%d raw logs of before, error %v", len(logs), err)
	}
}

// TestClientRequests pins what goes over the wire.
func TestClientRequests(t *testing.T) {
	t.Parallel()
	fake := startAepipe(t)
	c, ctx := newClient(t, fake.URL+"/"), t.Context()
	at := time.Date(2025, 1, 2, 3, 4, 5, 6789000, time.FixedZone("", 3600))
	tests := []struct {
		call func() error
		want string
	}{
		{func() error { _, err := c.Query(ctx, "", "SELECT 1 < 2"); return err }, `POST /v1/apex-ai-proxy/requests/query {"sql":"SELECT 1 < 2"}`},
		{func() error { _, err := c.Query(ctx, "other", "SELECT 1"); return err }, `POST /v1/apex-ai-proxy/other/query {"sql":"SELECT 1"}`},
		{func() error { _, err := c.RawLog(ctx, "", RawLogOptions{}); return err }, `POST /v1/apex-ai-proxy/raw/rawlog {}`},
		{func() error { _, err := c.RawLog(ctx, "other", RawLogOptions{200, at, at.Add(time.Hour)}); return err },
			`POST /v1/apex-ai-proxy/other/rawlog {"limit":200,"start":"2025-01-02T02:04:05.006Z","end":"2025-01-02T03:04:05.006Z"}`},
		{func() error { _, err := c.Detail(ctx, []string{"a", "b"}); return err }, `POST /v1/apex-ai-proxy/requests/detail {"ref_ids":["a","b"]}`},
		{func() error { _, err := c.Projects(ctx); return err }, `GET /v1/projects `},
		{func() error { _, err := c.LogStores(ctx); return err }, `GET /v1/apex-ai-proxy/logstores `},
	}
	for _, test := range tests {
		fake.Reset()
		if err := test.call(); err != nil {
			t.Errorf("%s: %v", test.want, err)
			continue
		}
		calls := fake.Requests()
		if len(calls) != 1 {
			t.Fatalf("%s: %d calls", test.want, len(calls))
		}
		if got := fmt.Sprintf("%s %s %s", calls[0].Method, calls[0].RequestURI, calls[0].Body); got != test.want {
			t.Errorf("sent %s, want %s", got, test.want)
		}
		if got := calls[0].Header.Get("Authorization"); got != "Bearer "+token {
			t.Errorf("%s: Authorization %q", test.want, got)
		}
	}
}

func TestClientValidation(t *testing.T) {
	t.Parallel()
	fake := startAepipe(t)
	c, ctx := newClient(t, fake.URL), t.Context()
	now := time.Now()
	for name, call := range map[string]func() error{
		"query: name":     func() error { _, err := c.Query(ctx, "a/b", "SELECT 1"); return err },
		"query: long":     func() error { _, err := c.Query(ctx, strings.Repeat("a", 83), "SELECT 1"); return err },
		"query: empty":    func() error { _, err := c.Query(ctx, "", " \n"); return err },
		"rawlog: name":    func() error { _, err := c.RawLog(ctx, "?", RawLogOptions{}); return err },
		"rawlog: limit":   func() error { _, err := c.RawLog(ctx, "", RawLogOptions{Limit: 201}); return err },
		"rawlog: below 0": func() error { _, err := c.RawLog(ctx, "", RawLogOptions{Limit: -1}); return err },
		"rawlog: order":   func() error { _, err := c.RawLog(ctx, "", RawLogOptions{Start: now, End: now}); return err },
		"detail: none":    func() error { _, err := c.Detail(ctx, nil); return err },
		"detail: 101":     func() error { _, err := c.Detail(ctx, make([]string, 101)); return err },
	} {
		if err := call(); err == nil || !strings.HasPrefix(err.Error(), "aepipe: ") {
			t.Errorf("%s: error %v", name, err)
		}
	}
	if n := fake.Connections(); n != 0 {
		t.Errorf("%d connections", n)
	}
}

func TestClientErrors(t *testing.T) {
	t.Parallel()
	tests := []struct {
		name   string
		status int
		body   string
		want   Error
	}{
		{"what the store says", 502, `{"error":"CF API 422: unknown column"}`, Error{502, "CF API 422: unknown column"}},
		{"no D1", 501, `{"error":"D1 payload storage is not configured"}`, Error{501, "D1 payload storage is not configured"}},
		{"not JSON", 500, "error code: 1101", Error{500, "Internal Server Error"}},
		{"empty", 401, "", Error{401, "the store refused the token: check Config.Token"}},
		{"an echo of the token", 400, `{"error":"Bearer ` + token + `!"}`, Error{400, "Bearer [REDACTED]!"}},
		{"long", 400, `{"error":"` + strings.Repeat("€", 1000) + `"}`, Error{400, strings.Repeat("€", 340) + "…"}},
		{"redirect", 302, "", Error{302, "redirects are not followed: set Config.BaseURL to the final address"}},
		{"a page", 200, "<html>", Error{200, "the answer is not that of an aepipe store: check Config.BaseURL"}},
		{"another shape", 200, `{"projects":"x"}`, Error{200, "the answer is not that of an aepipe store: check Config.BaseURL"}},
	}
	for _, test := range tests {
		t.Run(test.name, func(t *testing.T) {
			t.Parallel()
			srv := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
				w.Header().Set("Location", "/elsewhere")
				w.WriteHeader(test.status)
				fmt.Fprint(w, test.body)
			}))
			t.Cleanup(srv.Close)
			_, err := newClient(t, srv.URL).Projects(t.Context())
			var got *Error
			if !errors.As(err, &got) {
				t.Fatalf("error %v", err)
			}
			if diff := cmp.Diff(test.want, *got); diff != "" {
				t.Errorf("(-want +got):\n%s", diff)
			}
		})
	}
}

func TestClientBoundsAnswers(t *testing.T) {
	t.Parallel()
	srv := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		chunk := []byte(strings.Repeat(" ", 1<<20))
		for {
			if _, err := w.Write(chunk); err != nil {
				return // the client has had enough
			}
		}
	}))
	t.Cleanup(srv.Close)
	_, err := newClient(t, srv.URL).Projects(t.Context())
	if want := "aepipe: status 200: the answer is over 64 MiB: ask for less"; fmt.Sprint(err) != want {
		t.Errorf("error %v, want %s", err, want)
	}
}
