package aepipe

import (
	"bytes"
	"encoding/json"
	"fmt"
	"maps"
	"math"
	"net/http"
	"slices"
	"strconv"
	"strings"
	"time"
	"unicode/utf8"

	"github.com/loadchange/apexproxy"
)

// The limits of the store and what we make of them. Analytics Engine: 20 blobs of 16 KB in all, of
// which aepipe keeps 5 for itself, and 20 doubles
// (https://developers.cloudflare.com/analytics/analytics-engine/limits/). D1: 2,000,000 bytes a row
// (https://developers.cloudflare.com/d1/platform/limits/). Budgets of the payload are in bytes of
// JSON, the form in which D1 stores it: two bodies, two sets of headers, the URL and the meta data
// stay below 1.95 MB.
const (
	maxBlobBytes = 16384 // all blobs of a point, with those aepipe adds
	refIDBytes   = 36    // a UUID in blob5

	maxBody        = 512 << 10 // bytes of a body
	maxBodyJSON    = 900_000   // and as JSON
	maxURL         = 16 << 10
	maxHeaders     = 32 << 10 // names and values together
	maxHeaderValue = 4 << 10
	maxMeta        = 1 << 10 // each string of meta
	maxDropped     = 64      // entries of meta.dropped
	maxDroppedPath = 256

	mark     = "…"
	bodyMark = "…[truncated]"
)

// A column is one position of the schema.
type column[T any] struct {
	name  string
	value func(*apexproxy.Record) T
}

// blobColumns and doubleColumns are the schema of a point: append only, pinned by
// testdata/point.golden. The first of blobColumns is blob6.
var blobColumns = []column[string]{
	{"provider", func(r *apexproxy.Record) string { return r.Provider }},
	{"model", model},
	{"endpoint_type", endpointType},
	{"status", func(r *apexproxy.Record) string { return strconv.Itoa(r.StatusCode) }},
	{"stream", func(r *apexproxy.Record) string {
		if r.Stream {
			return "stream"
		}
		return "sync"
	}},
	{"mode", func(r *apexproxy.Record) string { return string(r.Mode) }},
	{"outcome", func(r *apexproxy.Record) string { return string(r.Outcome) }},
	{"upstream_host", func(r *apexproxy.Record) string { return r.UpstreamHost }},
	{"upstream_model", func(r *apexproxy.Record) string { return r.RequestModel }},
	{"finish_reason", func(r *apexproxy.Record) string { return r.FinishReason }},
	{"identity", func(r *apexproxy.Record) string { return r.Identity.Subject }},
}

// The values are integers, so that no NaN and no infinity can come up.
var doubleColumns = []column[int64]{
	{"duration_ms", func(r *apexproxy.Record) int64 { return r.Duration.Milliseconds() }},
	{"status", func(r *apexproxy.Record) int64 { return int64(r.StatusCode) }},
	{"request_bytes", func(r *apexproxy.Record) int64 { return r.RequestBytes }},
	{"response_bytes", func(r *apexproxy.Record) int64 { return r.ResponseBytes }},
	{"ttfb_ms", func(r *apexproxy.Record) int64 { return r.TimeToFirstByte.Milliseconds() }},
	{"input_tokens", func(r *apexproxy.Record) int64 { return tokens(r).InputTokens }},
	{"output_tokens", func(r *apexproxy.Record) int64 { return tokens(r).OutputTokens }},
	{"cache_read_tokens", func(r *apexproxy.Record) int64 { return tokens(r).CacheReadTokens }},
	{"cache_write_tokens", func(r *apexproxy.Record) int64 { return tokens(r).CacheWriteTokens }},
	{"reasoning_tokens", func(r *apexproxy.Record) int64 { return tokens(r).ReasoningTokens }},
}

func tokens(r *apexproxy.Record) (u apexproxy.Usage) {
	if r.Usage != nil {
		u = *r.Usage
	}
	return u
}

// model is what the client asked for. In passthrough mode the name is opaque.
func model(r *apexproxy.Record) string {
	if r.Mode == apexproxy.ModePassthrough {
		return r.ClientModel
	}
	name, _, _ := strings.Cut(r.ClientModel, "#")
	return name
}

func endpointType(r *apexproxy.Record) string {
	if r.Operation == apexproxy.OperationChat {
		return "chat_completions"
	}
	return string(r.Operation)
}

func level(r *apexproxy.Record) string {
	if r.Failed() {
		return "error"
	}
	return "info"
}

// event is never empty: the store skips such points without a word.
func event(r *apexproxy.Record) string {
	return orDefault(r.Method, "-") + " " + orDefault(r.Path, "-")
}

// reported leaves out what no client of a model asked for.
func reported(r *apexproxy.Record) bool {
	return r.Operation != apexproxy.OperationLiveness && r.Operation != apexproxy.OperationPreflight
}

type point struct {
	Event   string   `json:"event"`
	Level   string   `json:"level"`
	Blobs   []string `json:"blobs"`
	Doubles []int64  `json:"doubles"`
	Payload payload  `json:"payload"`
}

type payload struct {
	Request  requestPart  `json:"request"`
	Response responsePart `json:"response"`
	Meta     meta         `json:"meta"`
}

// Headers and bodies are absent when the reporter was registered without CaptureContent. A body
// that was captured and is empty is "".

type requestPart struct {
	Method  string            `json:"method"`
	URL     string            `json:"url"`
	Headers map[string]string `json:"headers,omitzero"`
	Body    *string           `json:"body,omitzero"`
}

type responsePart struct {
	Status     int               `json:"status"`
	Headers    map[string]string `json:"headers,omitzero"`
	Body       *string           `json:"body,omitzero"`
	DurationMS int64             `json:"duration_ms"`
}

type meta struct {
	Provider         string      `json:"provider"`
	Model            string      `json:"model"`
	EndpointType     string      `json:"endpoint_type"`
	IsStream         bool        `json:"is_stream"`
	ID               string      `json:"id"`
	Start            string      `json:"start"` // RFC 3339, UTC
	Mode             string      `json:"mode"`
	Outcome          string      `json:"outcome"`
	ErrorType        string      `json:"error_type"`
	Identity         string      `json:"identity"`
	UpstreamHost     string      `json:"upstream_host"`
	UpstreamModel    string      `json:"upstream_model"`
	ResponseModel    string      `json:"response_model"`
	Converted        bool        `json:"converted"`
	Dropped          []string    `json:"dropped,omitempty"`
	FinishReason     string      `json:"finish_reason"`
	GatewayLogID     string      `json:"gateway_log_id"`
	CacheStatus      string      `json:"cache_status"`
	TTFBMS           int64       `json:"ttfb_ms"`
	RequestBodySize  int64       `json:"request_body_size"`
	ResponseBodySize int64       `json:"response_body_size"`
	Usage            *tokenCount `json:"usage"` // null: the upstream did not say
}

type tokenCount struct {
	Input      int64 `json:"input_tokens"`
	Output     int64 `json:"output_tokens"`
	CacheRead  int64 `json:"cache_read_tokens"`
	CacheWrite int64 `json:"cache_write_tokens"`
	Reasoning  int64 `json:"reasoning_tokens"`
}

type logEntry struct {
	Message          string            `json:"message"`
	Level            string            `json:"level"`
	Provider         string            `json:"provider"`
	Model            string            `json:"model"`
	EndpointType     string            `json:"endpoint_type"`
	IsStream         bool              `json:"is_stream"`
	DurationMS       int64             `json:"duration_ms"`
	Status           int               `json:"status"`
	RequestURL       string            `json:"request_url"`
	RequestHeaders   map[string]string `json:"request_headers,omitzero"`
	RequestBody      *string           `json:"request_body,omitzero"`
	RequestBodySize  int64             `json:"request_body_size"`
	ResponseHeaders  map[string]string `json:"response_headers,omitzero"`
	ResponseBody     *string           `json:"response_body,omitzero"`
	ResponseBodySize int64             `json:"response_body_size"`
}

func newPoint(s *store, r *apexproxy.Record) point {
	p := point{Level: level(r), Payload: newPayload(r)}
	texts := []string{event(r)}
	for _, c := range blobColumns {
		texts = append(texts, c.value(r))
	}
	fitBlobs(texts, maxBlobBytes-refIDBytes-len(s.project)-len(s.logstore)-len(p.Level))
	p.Event, p.Blobs = texts[0], texts[1:]
	for _, c := range doubleColumns {
		p.Doubles = append(p.Doubles, c.value(r))
	}
	return p
}

func newPayload(r *apexproxy.Record) payload {
	m := meta{
		Provider:         shorten(r.Provider, maxMeta),
		Model:            shorten(model(r), maxMeta),
		EndpointType:     shorten(endpointType(r), maxMeta),
		IsStream:         r.Stream,
		ID:               shorten(r.ID, maxMeta),
		Start:            r.Start.UTC().Format(time.RFC3339Nano),
		Mode:             shorten(string(r.Mode), maxMeta),
		Outcome:          shorten(string(r.Outcome), maxMeta),
		ErrorType:        shorten(r.ErrorType, maxMeta),
		Identity:         shorten(r.Identity.Subject, maxMeta),
		UpstreamHost:     shorten(r.UpstreamHost, maxMeta),
		UpstreamModel:    shorten(r.RequestModel, maxMeta),
		ResponseModel:    shorten(r.ResponseModel, maxMeta),
		Converted:        r.Converted,
		FinishReason:     shorten(r.FinishReason, maxMeta),
		GatewayLogID:     shorten(r.GatewayLogID, maxMeta),
		CacheStatus:      shorten(r.CacheStatus, maxMeta),
		TTFBMS:           r.TimeToFirstByte.Milliseconds(),
		RequestBodySize:  r.RequestBytes,
		ResponseBodySize: r.ResponseBytes,
	}
	for i, path := range r.Dropped {
		if i == maxDropped {
			m.Dropped = append(m.Dropped, mark)
			break
		}
		m.Dropped = append(m.Dropped, shorten(path, maxDroppedPath))
	}
	if u := r.Usage; u != nil {
		m.Usage = &tokenCount{u.InputTokens, u.OutputTokens, u.CacheReadTokens, u.CacheWriteTokens, u.ReasoningTokens}
	}
	p := payload{
		Request:  requestPart{Method: shorten(r.Method, maxMeta), URL: requestURL(r)},
		Response: responsePart{Status: r.StatusCode, DurationMS: r.Duration.Milliseconds()},
		Meta:     m,
	}
	if c := r.Content; c != nil {
		p.Request.Headers = headers(c.RequestHeader)
		p.Request.Body = body(c.RequestBody, c.RequestTruncated)
		p.Response.Headers = headers(c.ResponseHeader)
		p.Response.Body = body(c.ResponseBody, c.ResponseTruncated)
	}
	return p
}

func newLogEntry(r *apexproxy.Record) logEntry {
	e := logEntry{
		Message: fmt.Sprintf("%s %d %dms [%s/%s]", shorten(event(r), maxMeta), r.StatusCode,
			r.Duration.Milliseconds(), shorten(r.Provider, maxMeta), shorten(model(r), maxMeta)),
		Level:            level(r),
		Provider:         shorten(r.Provider, maxMeta),
		Model:            shorten(model(r), maxMeta),
		EndpointType:     shorten(endpointType(r), maxMeta),
		IsStream:         r.Stream,
		DurationMS:       r.Duration.Milliseconds(),
		Status:           r.StatusCode,
		RequestURL:       requestURL(r),
		RequestBodySize:  r.RequestBytes,
		ResponseBodySize: r.ResponseBytes,
	}
	if c := r.Content; c != nil {
		e.RequestHeaders = headers(c.RequestHeader)
		e.RequestBody = body(c.RequestBody, c.RequestTruncated)
		e.ResponseHeaders = headers(c.ResponseHeader)
		e.ResponseBody = body(c.ResponseBody, c.ResponseTruncated)
	}
	return e
}

func requestURL(r *apexproxy.Record) string {
	if r.Content != nil {
		return shorten(r.Content.URL, maxURL)
	}
	return shorten(r.Path, maxURL)
}

// headers writes h as the Fetch API would: lower-case names, values joined.
func headers(h http.Header) map[string]string {
	m := make(map[string]string, len(h))
	left := maxHeaders
	for _, name := range slices.Sorted(maps.Keys(h)) {
		key := shorten(strings.ToLower(name), maxHeaderValue)
		value := shorten(strings.Join(h[name], ", "), maxHeaderValue)
		left -= jsonLen(key) + jsonLen(value)
		if left < 0 {
			m[mark] = "[truncated]"
			break
		}
		m[key] = value
	}
	return m
}

// body returns b as text within both limits, marked when something is missing.
func body(b []byte, truncated bool) *string {
	// The bytes after maxBody are there for clip to see the last rune whole.
	s := string(b[:min(len(b), maxBody+utf8.UTFMax-1)])
	text, whole := clip(s, maxBody, maxBodyJSON)
	if truncated || !whole {
		text += bodyMark
	}
	return &text
}

// fitBlobs makes all texts valid UTF-8 and shortens the longest ones until their sum is within
// budget, so that short ones stay whole. The budget must be at least that of a few marks.
func fitBlobs(texts []string, budget int) {
	lengths := make([]int, len(texts))
	for i, s := range texts {
		texts[i] = limit(s, budget, math.MaxInt)
		lengths[i] = len(texts[i])
	}
	slices.Sort(lengths)
	for i, n := range lengths {
		share := budget / (len(lengths) - i)
		if n > share {
			for j, s := range texts {
				texts[j] = limit(s, share, math.MaxInt)
			}
			return
		}
		budget -= n
	}
}

// shorten returns s as valid UTF-8 with at most n bytes, also as JSON. What was cut ends in "…".
func shorten(s string, n int) string { return limit(s, n, n) }

func limit(s string, maxBytes, maxJSON int) string {
	if text, whole := clip(s, maxBytes, maxJSON); whole {
		return text
	}
	text, _ := clip(s, maxBytes-len(mark), maxJSON-len(mark))
	return text + mark
}

// clip returns the longest prefix of s, with each invalid byte replaced by U+FFFD, that has at most
// maxBytes bytes and maxJSON bytes as a JSON string without its quotes. It reports whether that is
// all of s.
func clip(s string, maxBytes, maxJSON int) (text string, whole bool) {
	if len(s) <= maxBytes && len(s) <= maxJSON/6 && utf8.ValidString(s) { // JSON takes at most 6 bytes for a byte
		return s, true
	}
	end, size, escaped := len(s), 0, 0
	for i, r := range s {
		size += utf8.RuneLen(r)
		escaped += runeJSONLen(r)
		if size > maxBytes || escaped > maxJSON {
			end = i
			break
		}
	}
	whole = end == len(s)
	s = s[:end]
	if utf8.ValidString(s) {
		return s, whole
	}
	var b strings.Builder
	for _, r := range s {
		b.WriteRune(r)
	}
	return b.String(), whole
}

func jsonLen(s string) (n int) {
	for _, r := range s {
		n += runeJSONLen(r)
	}
	return n
}

// runeJSONLen is what encoding/json writes without EscapeHTML. JavaScript's JSON.stringify, which
// the store uses, never writes more.
func runeJSONLen(r rune) int {
	switch r {
	case '"', '\\', '\n', '\r', '\t', '\b', '\f':
		return 2
	case '\u2028', '\u2029':
		return 6
	}
	if r < ' ' {
		return 6
	}
	return utf8.RuneLen(r)
}

// encode writes v as JSON. None of the types here can fail.
func encode(v any) []byte {
	var b bytes.Buffer
	enc := json.NewEncoder(&b)
	enc.SetEscapeHTML(false)
	if err := enc.Encode(v); err != nil {
		panic("aepipe: " + err.Error())
	}
	return bytes.TrimSuffix(b.Bytes(), []byte("\n"))
}
