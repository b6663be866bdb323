package aepipetest_test

import (
	"encoding/json"
	"io"
	"net/http"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"github.com/tidwall/gjson"

	"github.com/loadchange/apexproxy/aepipe/aepipetest"
	"github.com/loadchange/apexproxy/apexproxytest"
)

const bearer = "Bearer secret"

func send(t *testing.T, store *aepipetest.Server, auth, method, path, body string) (*http.Response, string) {
	t.Helper()
	req, err := http.NewRequestWithContext(t.Context(), method, store.URL+path, strings.NewReader(body))
	if err != nil {
		t.Fatal(err)
	}
	if auth != "" {
		req.Header.Set("Authorization", auth)
	}
	resp, err := store.Client().Do(req)
	if err != nil {
		t.Fatal(err)
	}
	defer resp.Body.Close()
	b, err := io.ReadAll(resp.Body)
	if err != nil {
		t.Fatal(err)
	}
	return resp, string(b)
}

func TestAnswers(t *testing.T) {
	t.Parallel()
	many := func(n int, entry string) string { return strings.TrimSuffix(strings.Repeat(entry+",", n), ",") }
	long := strings.Repeat("n", 65)
	tests := []struct {
		method, path, body string
		status             int
		want               string
	}{
		{"POST", "/v1/p/s/ingest", `{"points":[{"event":"e"}]}`, 200, `{"ok":true,"written":1}`},
		{"POST", "//v1/p//s/ingest/", `{"points":[{"event":"e"}]}`, 200, `{"ok":true,"written":1}`},
		{"POST", "/v1/p/s/ingest", `{"points":[{"event":""},{}]}`, 200, `{"ok":true,"written":0}`},
		{"POST", "/v1/p/s/ingest", `{"points":[` + many(250, `{"event":"e"}`) + `]}`, 200, `{"ok":true,"written":250}`},
		{"POST", "/v1/p/s/ingest", `{"points":[` + many(251, `{"event":"e"}`) + `]}`, 400, `{"error":"max 250 points per request"}`},
		{"POST", "/v1/p/s/ingest", `{"points":[]}`, 400, `{"error":"points must be a non-empty array"}`},
		{"POST", "/v1/p/s/ingest", `{"points":{}}`, 400, `{"error":"points must be a non-empty array"}`},
		{"POST", "/v1/p/s/ingest", `[]`, 400, `{"error":"points must be a non-empty array"}`},
		{"POST", "/v1/p/s/ingest", `{`, 400, `{"error":"invalid json"}`},
		{"POST", "/v1/p/s/ingest", `null`, 500, "error code: 1101"},
		{"POST", "/v1/p/s/ingest", `{"points":[null]}`, 500, "error code: 1101"},
		{"POST", "/v1/p/s/log", `{"logs":[{"message":"m"},{"message":1}]}`, 200, `{"ok":true,"written":1}`},
		{"POST", "/v1/p/s/log", `{"logs":[]}`, 400, `{"error":"logs must be a non-empty array"}`},
		{"POST", "/v1/p/s/log", `{"logs":[` + many(251, `{"message":"m"}`) + `]}`, 400, `{"error":"max 250 logs per request"}`},
		{"POST", "/v1/p/s/query", `{"sql":" "}`, 400, `{"error":"sql is required"}`},
		{"POST", "/v1/p/s/query", `{"sql":"SELECT 1"}`, 200, `{"data":[],"meta":[],"rows":0,"rows_before_limit_at_least":0}`},
		{"POST", "/v1/p/s/rawlog", `{}`, 200, `{"count":0,"logs":[]}`},
		{"POST", "/v1/p/s/detail", `{"ref_ids":[]}`, 400, `{"error":"ref_ids must be a non-empty array"}`},
		{"POST", "/v1/p/s/detail", `{"ref_ids":[` + many(101, `"x"`) + `]}`, 400, `{"error":"max 100 ref_ids per request"}`},
		{"POST", "/v1/p/s/detail", `{"ref_ids":["x"]}`, 200, `{"results":[]}`},
		{"GET", "/v1/projects", ``, 200, `{"projects":[]}`},
		{"GET", "/v1/p/logstores", ``, 200, `{"logstores":[]}`},
		{"POST", "/v1/p!/s/ingest", `{}`, 400, `{"error":"invalid project name"}`},
		{"POST", "/v1/" + long + "/s/ingest", `{}`, 400, `{"error":"invalid project name"}`},
		{"POST", "/v1/p/s%20/ingest", `{}`, 400, `{"error":"invalid logstore name"}`},
		{"GET", "/v1/p!/logstores", ``, 400, `{"error":"invalid project name"}`},
		{"POST", "/v1/p/s/other", `{}`, 404, `{"error":"not found"}`},
		{"GET", "/v1/p/s/ingest", ``, 404, `{"error":"not found"}`},
		{"POST", "/v1/p/s/ingest/more", `{}`, 404, `{"error":"not found"}`},
		{"POST", "/v2/p/s/ingest", `{}`, 404, `{"error":"not found"}`},
	}
	for _, tt := range tests {
		t.Run(tt.method+tt.path, func(t *testing.T) {
			t.Parallel()
			store := aepipetest.NewServer("secret")
			defer store.Close()
			resp, body := send(t, store, bearer, tt.method, tt.path, tt.body)
			if resp.StatusCode != tt.status || body != tt.want {
				t.Errorf("got %d %s, want %d %s", resp.StatusCode, body, tt.status, tt.want)
			}
		})
	}
}

func TestAuth(t *testing.T) {
	t.Parallel()
	store := aepipetest.NewServer("secret")
	defer store.Close()
	for header, want := range map[string]int{
		"": 401, "Bearer secret": 200, "Bearer wrong": 401, "bearer secret": 401, "Bearer  secret": 401, "Bearer secret more": 200, "secret": 401,
	} {
		resp, body := send(t, store, header, "GET", "/v1/projects", "")
		if resp.StatusCode != want || want == 401 && body != `{"error":"unauthorized"}` {
			t.Errorf("%q: %d %s, want %d", header, resp.StatusCode, body, want)
		}
	}
}

func TestStores(t *testing.T) {
	t.Parallel()
	store := aepipetest.NewServer("secret")
	defer store.Close()
	point := `{"event":"e","level":"error","blobs":["a","é"],"doubles":[1.5,2],"payload":{"k": [1]},"ttl":60}`
	entry := `{"message":"hi","level":"warn","n":1}`
	send(t, store, bearer, "POST", "/v1/proj/requests/ingest", `{"points":[`+point+`,{"event":"bare"}]}`)
	send(t, store, bearer, "POST", "/v1/proj/raw/log", `{"logs":[`+entry+`]}`)

	wantPoints := []aepipetest.Point{
		{Project: "proj", Logstore: "requests", Event: "e", Level: "error", RefID: "00000000-0000-4000-8000-000000000001", Blobs: []string{"a", "é"},
			Doubles: []float64{1.5, 2}, Payload: json.RawMessage(`{"k":[1]}`), TTL: 60, Raw: json.RawMessage(point)},
		{Project: "proj", Logstore: "requests", Event: "bare", Level: "info", Raw: json.RawMessage(`{"event":"bare"}`)},
	}
	if diff := cmp.Diff(wantPoints, store.Points("requests")); diff != "" {
		t.Error("points -want +got:\n" + diff)
	}
	wantLogs := []aepipetest.LogEntry{{Project: "proj", Logstore: "raw", Message: "hi", Level: "warn", Raw: json.RawMessage(entry)}}
	if diff := cmp.Diff(wantLogs, store.Logs("raw")); diff != "" {
		t.Error("logs -want +got:\n" + diff)
	}
	if len(store.Points("raw")) != 0 || len(store.Logs("requests")) != 0 {
		t.Error("entries in the wrong logstore")
	}

	get := func(method, path, body, field string) string {
		t.Helper()
		_, b := send(t, store, bearer, method, path, body)
		return gjson.Get(b, field).Raw
	}
	store.SetRows(`{"event":"e","n":2}`)
	got := map[string]string{
		"projects":  get("GET", "/v1/projects", "", "projects"),
		"logstores": get("GET", "/v1/proj/logstores", "", "logstores"),
		"detail":    get("POST", "/v1/proj/requests/detail", `{"ref_ids":["00000000-0000-4000-8000-000000000001"]}`, "results.0.payload"),
		"rawlog":    get("POST", "/v1/proj/raw/rawlog", `{"limit":1}`, "logs.0.data"),
		"points":    get("POST", "/v1/proj/requests/rawlog", `{}`, "count"),
		"old":       get("POST", "/v1/proj/requests/rawlog", `{"end":"2020-01-01T00:00:00Z"}`, "count"),
		"query":     get("POST", "/v1/proj/requests/query", `{"sql":"SELECT 1"}`, "@this"),
	}
	want := map[string]string{
		"projects": `["proj"]`, "logstores": `["requests"]`, "detail": `{"k":[1]}`,
		"rawlog": `{"level":"warn","logstore":"raw","message":"hi","n":1,"project":"proj"}`, "points": "2", "old": "0",
		"query": `{"data":[{"event":"e","n":2}],"meta":[{"name":"event","type":"String"},{"name":"n","type":"Float64"}],"rows":1,"rows_before_limit_at_least":1}`,
	}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Error("-want +got:\n" + diff)
	}
	if v := store.Violations(); len(v) != 0 {
		t.Error(v)
	}
	store.Reset()
	if len(store.Points("requests"))+len(store.Logs("raw"))+len(store.Requests()) != 0 {
		t.Error("something left after Reset")
	}
}

func TestViolations(t *testing.T) {
	t.Parallel()
	n := func(n int, v string) string { return "[" + strings.TrimSuffix(strings.Repeat(v+",", n), ",") + "]" }
	// The four names of the point take 1+1+1+4 bytes, a ref id 36.
	blob := func(size int) string { return `["` + strings.Repeat("b", size) + `"]` }
	name64, name32 := strings.Repeat("p", 64), strings.Repeat("s", 32)
	tests := []struct {
		name, path, entry, want string
	}{
		{"15 blobs", "/v1/p/s/ingest", `{"event":"e","blobs":` + n(15, `""`) + `}`, ""},
		{"16 blobs", "/v1/p/s/ingest", `{"event":"e","blobs":` + n(16, `""`) + `}`, "16 blobs, the store keeps 15"},
		{"20 doubles", "/v1/p/s/ingest", `{"event":"e","doubles":` + n(20, `1`) + `}`, ""},
		{"21 doubles", "/v1/p/s/ingest", `{"event":"e","doubles":` + n(21, `1`) + `}`, "21 doubles, the store keeps 20"},
		{"16 KB", "/v1/p/s/ingest", `{"event":"e","blobs":` + blob(16384-7) + `}`, ""},
		{"over 16 KB", "/v1/p/s/ingest", `{"event":"e","blobs":` + blob(16384-6) + `}`, "blobs are 16385 bytes, the store cuts at 16384"},
		{"16 KB with ref id", "/v1/p/s/ingest", `{"event":"e","payload":{},"blobs":` + blob(16384-43) + `}`, ""},
		{"over 16 KB with ref id", "/v1/p/s/ingest", `{"event":"e","payload":{},"blobs":` + blob(16384-42) + `}`, "blobs are 16385 bytes, the store cuts at 16384"},
		{"number blob", "/v1/p/s/ingest", `{"event":"e","blobs":["a",200]}`, "blob 1 is not a string"},
		{"string double", "/v1/p/s/ingest", `{"event":"e","doubles":["1"]}`, "double 0 is not a number"},
		{"blobs a string", "/v1/p/s/ingest", `{"event":"e","blobs":"abc"}`, "blobs is not an array"},
		{"level a number", "/v1/p/s/ingest", `{"event":"e","level":3}`, "level is not a string"},
		{"no event", "/v1/p/s/ingest", `{"level":"info"}`, "no event: the point is skipped"},
		{"ttl a string", "/v1/p/s/ingest", `{"event":"e","payload":{"a":1},"ttl":"60"}`, "ttl is not a positive number"},
		{"big payload", "/v1/p/s/ingest", `{"event":"e","payload":{"a":"` + strings.Repeat("x", 2_000_000) + `"}}`, "payload is 2000008 bytes, a row holds 2000000: the payloads of the call are lost"},
		{"96 bytes of names", "/v1/" + name64 + "/" + name32[1:] + "/ingest", `{"event":"e"}`, ""},
		{"97 bytes of names", "/v1/" + name64 + "/" + name32 + "/ingest", `{"event":"e"}`, "project/logstore is 97 bytes, the index holds 96"},
		{"no message", "/v1/p/s/log", `{"level":"info"}`, "no message: the entry is skipped"},
		{"override", "/v1/p/s/log", `{"message":"m","project":"other"}`, "the entry overrides its project"},
		{"level", "/v1/p/s/log", `{"message":"m","level":"fatal"}`, "level is none of debug, info, warn, error"},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			store := aepipetest.NewServer("secret")
			defer store.Close()
			key := "points"
			if strings.HasSuffix(tt.path, "/log") {
				key = "logs"
			}
			resp, body := send(t, store, bearer, "POST", tt.path, `{"`+key+`":[`+tt.entry+`]}`)
			if resp.StatusCode != 200 {
				t.Fatal(resp.StatusCode, body)
			}
			var got string
			if v := store.Violations(); len(v) > 0 {
				_, got, _ = strings.Cut(strings.Join(v, "\n"), "entry 0: ")
			}
			if got != tt.want {
				t.Errorf("got %q, want %q", got, tt.want)
			}
		})
	}
}

// TestScript has other replies in the store's place: they store nothing, and the store goes on.
func TestScript(t *testing.T) {
	t.Parallel()
	store := aepipetest.NewServer("secret")
	defer store.Close()
	store.Script(apexproxytest.RateLimited(), apexproxytest.JSON(500, `{"error":"down"}`), store)
	var got []int
	for range 3 {
		resp, _ := send(t, store, bearer, "POST", "/v1/p/s/ingest", `{"points":[{"event":"e"}]}`)
		got = append(got, resp.StatusCode)
	}
	if diff := cmp.Diff([]int{429, 500, 200}, got); diff != "" {
		t.Error("-want +got:\n" + diff)
	}
	if p, r := len(store.Points("s")), len(store.Requests()); p != 1 || r != 3 {
		t.Errorf("%d points of %d requests, want 1 of 3", p, r)
	}
}
