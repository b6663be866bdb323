package aepipetest

import (
	"encoding/json"
	"net/http"
	"slices"
	"strings"
	"time"

	"github.com/tidwall/gjson"
)

// query answers in the JSON format of the Analytics Engine SQL API. The SQL is not run: see
// SetRows.
func (s *Server) query(c call) answer {
	if strings.TrimSpace(gjson.GetBytes(c.body, "sql").Str) == "" {
		return refuse(http.StatusBadRequest, "sql is required")
	}
	rows, meta := append([]json.RawMessage{}, s.rows...), []object{}
	if len(rows) > 0 {
		gjson.ParseBytes(rows[0]).ForEach(func(key, value gjson.Result) bool {
			typ := "String"
			if value.Type == gjson.Number {
				typ = "Float64"
			}
			meta = append(meta, object{"name": key.String(), "type": typ})
			return true
		})
	}
	return ok(object{"meta": meta, "data": rows, "rows": len(rows), "rows_before_limit_at_least": len(rows)})
}

func (s *Server) rawlog(c call) answer {
	limit := 50
	if v := gjson.GetBytes(c.body, "limit"); v.Type != gjson.Null {
		limit = min(int(v.Int()), 200)
	}
	now := time.Now()
	from, to := now.Add(-6*time.Hour), now
	for name, at := range map[string]*time.Time{"start": &from, "end": &to} {
		v := gjson.GetBytes(c.body, name).String()
		if v == "" {
			continue
		}
		t, err := time.Parse(time.RFC3339, v)
		if err != nil {
			return refuse(http.StatusBadGateway, "CF Telemetry API 400: bad timeframe")
		}
		*at = t
	}
	logs := []object{}
	for _, l := range s.lines {
		if len(logs) >= limit {
			break
		}
		if l.project == c.project && l.logstore == c.logstore && !l.at.Before(from) && !l.at.After(to) {
			at := l.at.UTC().Format("2006-01-02T15:04:05.000Z")
			logs = append(logs, object{"timestamp": at, "level": l.level, "data": l.data})
		}
	}
	return ok(object{"logs": logs, "count": len(logs)})
}

func (s *Server) detail(c call) answer {
	ids, refusal := c.entries("ref_ids", maxRefIDs)
	if ids == nil {
		return refusal
	}
	results := []object{}
	for _, id := range ids {
		if p, ok := s.payloads[id.String()]; ok {
			results = append(results, object{
				"ref_id": id.String(), "payload": p.data, "created_at": p.created, "expires_at": p.expires,
			})
		}
	}
	return ok(object{"results": results})
}

func (s *Server) projects() answer {
	names := []string{}
	for _, p := range s.points {
		names = append(names, p.Project)
	}
	slices.Sort(names)
	return ok(object{"projects": slices.Compact(names)})
}

func (s *Server) logstores(project string) answer {
	if !validName.MatchString(project) {
		return refuse(http.StatusBadRequest, "invalid project name")
	}
	names := []string{}
	for _, p := range s.points {
		if p.Project == project {
			names = append(names, p.Logstore)
		}
	}
	slices.Sort(names)
	return ok(object{"logstores": slices.Compact(names)})
}
