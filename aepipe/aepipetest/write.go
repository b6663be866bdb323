package aepipetest

import (
	"bytes"
	"encoding/json"
	"fmt"
	"net/http"
	"slices"
	"strings"
	"time"
	"unicode/utf8"

	"github.com/tidwall/gjson"
)

// What a store keeps of a call and of a point. Beyond the limits of a point Cloudflare's Analytics
// Engine drops or cuts data without an error. Sources: https://github.com/loadchange/aepipe and
// https://developers.cloudflare.com/analytics/analytics-engine/limits/.
const (
	maxEntries    = 250
	maxRefIDs     = 100
	maxBlobs      = 15 // besides project, logstore, event, level and ref id
	maxDoubles    = 20
	maxBlobBytes  = 16 << 10  // of all blobs of a point together
	refIDBytes    = 36        // a ref id is a UUID
	maxIndexBytes = 96        // of "project/logstore"
	maxPayload    = 2_000_000 // a row of D1
	defaultTTL    = 90 * 24 * 3600
)

// entries returns the entries of the named array. It returns none when the answer refuses the call.
func (c call) entries(name string, limit int) ([]gjson.Result, answer) {
	member := gjson.GetBytes(c.body, name)
	list := member.Array()
	switch {
	case !member.IsArray() || len(list) == 0:
		return nil, refuse(http.StatusBadRequest, name+" must be a non-empty array")
	case len(list) > limit:
		return nil, refuse(http.StatusBadRequest, fmt.Sprintf("max %d %s per request", limit, name))
	case slices.ContainsFunc(list, func(e gjson.Result) bool { return e.Type == gjson.Null }):
		return nil, answer{}
	}
	return list, answer{}
}

// A violateFunc notes what the store would lose of one entry.
type violateFunc func(format string, args ...any)

func (s *Server) violate(c call, entry int) violateFunc {
	return func(format string, args ...any) {
		where := fmt.Sprintf("%s/%s/%s entry %d: ", c.project, c.logstore, c.action, entry)
		s.violations = append(s.violations, where+fmt.Sprintf(format, args...))
	}
}

func (s *Server) ingest(c call) answer {
	entries, refusal := c.entries("points", maxEntries)
	if entries == nil {
		return refusal
	}
	if n := len(c.project) + 1 + len(c.logstore); n > maxIndexBytes {
		s.violate(c, 0)("project/logstore is %d bytes, the index holds %d", n, maxIndexBytes)
	}
	now := time.Now()
	var written []Point
	tooBig := false
	for i, e := range entries {
		violate := s.violate(c, i)
		if e.Get("event").Str == "" {
			violate("no event: the point is skipped")
			continue
		}
		p := readPoint(c, e, violate)
		tooBig = tooBig || len(p.Payload) > maxPayload
		written = append(written, p)
		s.print(c, now, p.Level, e)
	}
	result := object{"ok": true, "written": len(written)}
	if tooBig { // the payloads of a call go in one batch: one that is too big loses them all
		result["payload_degraded"] = true
		result["payload_error"] = "D1_ERROR: string or blob too big: SQLITE_TOOBIG"
	} else {
		s.keepPayloads(written, now.UnixMilli())
	}
	s.points = append(s.points, written...)
	return ok(result)
}

func (s *Server) keepPayloads(points []Point, now int64) {
	for i := range points {
		p := &points[i]
		if p.Payload != nil {
			p.RefID = fmt.Sprintf("00000000-0000-4000-8000-%012d", len(s.payloads)+1)
			s.payloads[p.RefID] = payload{p.Payload, now, now + p.TTL*1000}
		}
	}
}

// readPoint reads what Analytics Engine and D1 store of a point and notes what they would lose.
func readPoint(c call, e gjson.Result, violate violateFunc) Point {
	p := Point{
		Project: c.project, Logstore: c.logstore, Event: e.Get("event").Str, Level: level(e),
		Raw: json.RawMessage(e.Raw),
	}
	if t := e.Get("level").Type; t != gjson.Null && t != gjson.String {
		violate("level is not a string")
	}
	size := len(p.Project) + len(p.Logstore) + len(p.Event) + len(p.Level)
	for n, b := range elements(e, "blob", gjson.String, maxBlobs, violate) {
		p.Blobs = append(p.Blobs, b.String())
		size += len(p.Blobs[n])
		if !utf8.ValidString(p.Blobs[n]) {
			violate("blob %d is not UTF-8", n)
		}
	}
	for _, d := range elements(e, "double", gjson.Number, maxDoubles, violate) {
		p.Doubles = append(p.Doubles, d.Float())
	}
	if v := e.Get("payload"); truthy(v) {
		p.Payload, p.TTL = compact(v.Raw), ttl(e, violate)
		size += refIDBytes
		if n := len(p.Payload); n > maxPayload {
			violate("payload is %d bytes, a row holds %d: the payloads of the call are lost", n, maxPayload)
		}
	}
	if size > maxBlobBytes {
		violate("blobs are %d bytes, the store cuts at %d", size, maxBlobBytes)
	}
	return p
}

// elements returns a point's blobs or doubles: name is one of them.
func elements(e gjson.Result, name string, want gjson.Type, limit int, violate violateFunc) []gjson.Result {
	member := e.Get(name + "s")
	if !member.IsArray() {
		if member.Type != gjson.Null {
			violate("%ss is not an array", name)
		}
		return nil
	}
	list := member.Array()
	for n, v := range list {
		if v.Type != want {
			violate("%s %d is not a %s", name, n, strings.ToLower(want.String()))
		}
	}
	if len(list) > limit {
		violate("%d %ss, the store keeps %d", len(list), name, limit)
	}
	return list
}

// ttl returns for how many seconds the payload of a point is kept.
func ttl(e gjson.Result, violate violateFunc) int64 {
	v := e.Get("ttl")
	if v.Type == gjson.Null {
		return defaultTTL
	}
	if v.Type != gjson.Number || v.Int() <= 0 {
		violate("ttl is not a positive number")
	}
	return v.Int()
}

func level(e gjson.Result) string {
	if v := e.Get("level"); v.Type != gjson.Null {
		return v.String()
	}
	return "info"
}

// truthy is JavaScript's: what aepipe asks of a payload.
func truthy(v gjson.Result) bool {
	switch v.Type {
	case gjson.String:
		return v.Str != ""
	case gjson.Number:
		return v.Num != 0
	case gjson.True, gjson.JSON:
		return true
	}
	return false
}

func compact(raw string) json.RawMessage {
	var b bytes.Buffer
	if err := json.Compact(&b, []byte(raw)); err != nil {
		return json.RawMessage(raw)
	}
	return b.Bytes()
}

func (s *Server) log(c call) answer {
	entries, refusal := c.entries("logs", maxEntries)
	if entries == nil {
		return refusal
	}
	now := time.Now()
	written := 0
	for i, e := range entries {
		violate := s.violate(c, i)
		message, level := e.Get("message").Str, level(e)
		if message == "" {
			violate("no message: the entry is skipped")
			continue
		}
		if !slices.Contains([]string{"debug", "info", "warn", "error"}, level) {
			violate("level is none of debug, info, warn, error")
		}
		for _, name := range []string{"project", "logstore"} {
			if e.Get(name).Exists() {
				violate("the entry overrides its %s", name)
			}
		}
		s.logs = append(s.logs, LogEntry{c.project, c.logstore, message, level, json.RawMessage(e.Raw)})
		s.print(c, now, level, e)
		written++
	}
	return ok(object{"ok": true, "written": written})
}

// print adds a line to what rawlog reads: the entry's members override the names, as in the real
// store.
func (s *Server) print(c call, at time.Time, level string, e gjson.Result) {
	members := object{"project": c.project, "logstore": c.logstore}
	if c.action == "log" {
		members["level"] = level
	}
	e.ForEach(func(key, value gjson.Result) bool {
		members[key.String()] = json.RawMessage(value.Raw)
		return true
	})
	s.lines = append(s.lines, line{c.project, c.logstore, at, level, members})
}
