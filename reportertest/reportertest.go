// Package reportertest tests implementations of [apexproxy.Reporter] against its contract, as
// [testing/slogtest] does for slog handlers.
//
//	func TestContract(t *testing.T) {
//		reportertest.Run(t, func(t *testing.T) apexproxy.Reporter {
//			return newReporter(t, startFakeDestination(t))
//		})
//	}
//
// Run the test with -race as well: data that reporters share, and data they use after Report
// returned, show best there.
package reportertest

import (
	"bytes"
	"cmp"
	"context"
	"fmt"
	"maps"
	"math"
	"net/http"
	"net/http/httptest"
	"reflect"
	"runtime/debug"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/loadchange/apexproxy"
)

// A Deliverer is a Reporter that can tell what has reached its destination. Where newReporter
// returns one, usually a wrapper made for the test, Run also checks that Report delivers each
// record once, and before it returns.
//
// Delivered returns what the destination holds, in any order. A field that the destination does not
// keep stays zero and is not compared. Of the others ID, Provider, RequestModel, StatusCode and
// Outcome are. A Reporter that leaves out records on purpose should not be a Deliverer.
type Deliverer interface {
	apexproxy.Reporter
	Delivered() []apexproxy.Record
}

const (
	patience = time.Minute     // for a destination that works, on a machine that is busy
	grace    = 5 * time.Second // for a context that is done
)

// Run runs each case of the contract as a subtest on a Reporter of its own, which newReporter makes
// and whose destination it starts; it cleans up with t.Cleanup. The destination should work and be
// empty. The subtest Deadline is better with one that never answers: strings.HasSuffix(t.Name(),
// "/Deadline") tells.
//
// A Report that does not return is left running. It fails its case after a minute, or five seconds
// after its context was done.
func Run(t *testing.T, newReporter func(t *testing.T) apexproxy.Reporter) {
	t.Helper()
	for _, c := range cases {
		t.Run(c.name, func(t *testing.T) {
			if problem := c.run(t.Context(), func() apexproxy.Reporter { return newReporter(t) }); problem != "" {
				t.Errorf("%s\n\n%s", problem, c.explanation)
			}
		})
	}
}

// Cases return what is wrong, "" when nothing is, rather than take a *testing.T: so the kit's own
// test can see them fail.
var cases = []struct {
	name        string
	explanation string
	run         func(ctx context.Context, newReporter func() apexproxy.Reporter) string
}{
	{
		"EmptyBatch",
		"A batch without records has nothing that could fail. Return nil before you look at batch[0].",
		func(ctx context.Context, newReporter func() apexproxy.Reporter) string {
			for _, batch := range [][]apexproxy.Record{nil, {}} {
				if problem := deliver(ctx, newReporter(), batch); problem != "" {
					return problem
				}
			}
			return ""
		},
	},
	{
		"OneRecord",
		"The least that a Reporter does: one record, delivered when Report returns.",
		func(ctx context.Context, newReporter func() apexproxy.Reporter) string {
			return deliver(ctx, newReporter(), records(1))
		},
	},
	{
		"ZeroRecord",
		"An exchange that was refused early has hardly a field set. Empty strings, a zero time and zero numbers are values like others.",
		func(ctx context.Context, newReporter func() apexproxy.Reporter) string {
			return deliver(ctx, newReporter(), make([]apexproxy.Record, 1))
		},
	},
	{
		"LargeBatch",
		"A batch may be larger than one call of a destination can be. Split it; do not drop its end.",
		func(ctx context.Context, newReporter func() apexproxy.Reporter) string {
			return deliver(ctx, newReporter(), records(1000))
		},
	},
	{
		"NilUsageAndContent",
		"Usage is nil when the upstream did not tell, Content for a Reporter registered without CaptureContent, and what Content holds may be nil too.",
		func(ctx context.Context, newReporter func() apexproxy.Reporter) string {
			batch := records(4)
			batch[0].Usage = nil
			batch[1].Content = nil
			batch[2].Usage, batch[2].Content, batch[2].Dropped, batch[2].Identity = nil, nil, nil, apexproxy.Identity{}
			batch[3].Content = &apexproxy.Content{}
			return deliver(ctx, newReporter(), batch)
		},
	},
	{
		"UnusualValues",
		"Clients choose the model, the path and the bodies: any bytes of any length may be in them. Make them fit.",
		func(ctx context.Context, newReporter func() apexproxy.Reporter) string {
			return deliver(ctx, newReporter(), unusual())
		},
	},
	{
		"Cancelled",
		"A context that is done means that the process is ending. Report must return at once; its error may tell, and records may be lost.",
		func(ctx context.Context, newReporter func() apexproxy.Reporter) string {
			ctx, cancel := context.WithCancel(ctx)
			cancel()
			returned, panicked, _ := report(ctx, newReporter(), records(10), grace)
			if !returned {
				return fmt.Sprintf("Report did not return within %v of a call with a context that was cancelled before", grace)
			}
			return panicked
		},
	},
	{
		"Deadline",
		"Report must return when its context is done, whatever it waits for: pass the context on to every call, and wait in a select with ctx.Done().",
		func(ctx context.Context, newReporter func() apexproxy.Reporter) string {
			const timeout = 100 * time.Millisecond
			ctx, cancel := context.WithTimeout(ctx, timeout)
			defer cancel()
			returned, panicked, _ := report(ctx, newReporter(), records(10), timeout+grace)
			if !returned {
				return fmt.Sprintf("Report did not return within %v of its deadline", grace)
			}
			return panicked
		},
	},
	{
		"Shutdown",
		"A Proxy that shuts down hands over what waits and then nothing more, while exchanges still end. Every batch of a real Proxy must be taken, whatever its size, and Report must come back each time.",
		shutdown,
	},
	{
		"TwoReporters",
		"A Proxy runs its reporters at the same time, on records that share what they point to. Two reporters of one type must not share state that is not guarded, nor mix up their records.",
		func(ctx context.Context, newReporter func() apexproxy.Reporter) string {
			batch := records(100)
			var wg sync.WaitGroup
			var problems [2]string
			for i, r := range []apexproxy.Reporter{newReporter(), newReporter()} {
				wg.Go(func() { problems[i] = deliverTo(ctx, r, slices.Clone(batch), batch) })
			}
			wg.Wait()
			return cmp.Or(problems[:]...)
		},
	},
	{
		"AfterReturn",
		"Report is a plain blocking function: the Proxy has a queue and a goroutine for it. What goes on after Report returned is lost when the process ends, and its errors are seen by nobody. Finish the batch, then return; to keep records, copy them rather than the slice.",
		func(ctx context.Context, newReporter func() apexproxy.Reporter) string {
			r := newReporter()
			sent := records(20)
			batch := slices.Clone(sent)
			if problem := deliverTo(ctx, r, batch, sent); problem != "" {
				return problem
			}
			for i := range batch {
				batch[i] = apexproxy.Record{ID: "overwritten", Provider: "overwritten", StatusCode: 1}
			}
			if problem := delivered(r, sent); problem != "" {
				return "after the batch was overwritten: " + problem
			}
			return ""
		},
	},
	{
		"ReadOnly",
		"Records are shared between reporters: what they point to (Usage, Content, Identity.Metadata, Dropped) must not be changed. Copy what you want to change. The Record values themselves are yours.",
		func(ctx context.Context, newReporter func() apexproxy.Reporter) string {
			sent := append(records(5), unusual()...)
			before := make([]apexproxy.Record, len(sent))
			for i := range sent {
				before[i] = clone(sent[i])
			}
			if problem := deliverTo(ctx, newReporter(), slices.Clone(sent), before); problem != "" {
				return problem
			}
			for i := range sent {
				if field := firstDifference(sent[i], before[i]); field != "" {
					return fmt.Sprintf("Report changed what %s of record %d points to", field, i)
				}
			}
			return ""
		},
	},
}

// shutdown runs exchanges through a Proxy and ends it from two places meanwhile.
func shutdown(ctx context.Context, newReporter func() apexproxy.Reporter) string {
	const clients, exchanges = 4, 25
	p, err := apexproxy.New(apexproxy.WithPassthrough(apexproxy.Passthrough{}),
		apexproxy.WithReporter(newReporter(), apexproxy.BatchSize(7), apexproxy.ReportTimeout(patience)))
	if err != nil {
		return err.Error()
	}
	ctx, cancel := context.WithTimeout(ctx, grace)
	defer cancel()
	some := func() {
		for range exchanges {
			p.ServeHTTP(httptest.NewRecorder(), httptest.NewRequest("POST", "/none", nil)) // 404
		}
	}
	some() // so that there is something to hand over, however fast Shutdown is
	var wg sync.WaitGroup
	for range clients - 1 {
		wg.Go(some)
	}
	var errs [2]error
	for i := range errs {
		wg.Go(func() { errs[i] = p.Shutdown(ctx) })
	}
	wg.Wait()
	switch s := p.Stats(); {
	case errs[0] != nil || errs[1] != nil:
		return fmt.Sprintf("Shutdown did not end within %v: Report had not returned", grace)
	case s.ReportErrors > 0:
		return fmt.Sprintf("%d calls of Report failed or panicked", s.ReportErrors)
	case s.Reported+s.Dropped.Shutdown != clients*exchanges:
		return fmt.Sprintf("of %d records %d were taken and %d came too late", clients*exchanges, s.Reported, s.Dropped.Shutdown)
	}
	return ""
}

// deliver reports batch and checks the result.
func deliver(ctx context.Context, r apexproxy.Reporter, batch []apexproxy.Record) string {
	return deliverTo(ctx, r, batch, slices.Clone(batch))
}

// deliverTo does so where the caller keeps batch in want: the Reporter may do with the slice what
// it likes.
func deliverTo(ctx context.Context, r apexproxy.Reporter, batch, want []apexproxy.Record) string {
	switch returned, panicked, err := report(ctx, r, batch, patience); {
	case !returned:
		return fmt.Sprintf("Report did not return within %v", patience)
	case panicked != "":
		return panicked
	case err != nil:
		return fmt.Sprintf("Report of %d records returned the error %q, want nil", len(want), err)
	}
	return delivered(r, want)
}

// report calls r.Report and waits for it, but not longer than limit.
func report(ctx context.Context, r apexproxy.Reporter, batch []apexproxy.Record, limit time.Duration) (returned bool, panicked string, err error) {
	type result struct {
		panicked string
		err      error
	}
	done := make(chan result, 1) // a Report that comes back late finds room
	go func() {
		var res result
		defer func() {
			if v := recover(); v != nil {
				res.panicked = fmt.Sprintf("Report panicked: %v\n%s", v, debug.Stack())
			}
			done <- res
		}()
		res.err = r.Report(ctx, batch)
	}()
	timer := time.NewTimer(limit)
	defer timer.Stop()
	select {
	case res := <-done:
		return true, res.panicked, res.err
	case <-timer.C:
		return false, "", nil
	}
}

func delivered(r apexproxy.Reporter, want []apexproxy.Record) string {
	d, ok := r.(Deliverer)
	if !ok {
		return ""
	}
	got := d.Delivered()
	if len(got) != len(want) {
		return fmt.Sprintf("%d records had been delivered when Report of %d returned", len(got), len(want))
	}
	left := slices.Clone(want)
	for _, g := range got {
		i := slices.IndexFunc(left, func(w apexproxy.Record) bool { return matches(g, w) })
		if i < 0 {
			return fmt.Sprintf("a record was delivered that was not sent, or twice: ID %q, Provider %q, RequestModel %q, StatusCode %d, Outcome %q",
				short(g.ID), short(g.Provider), short(g.RequestModel), g.StatusCode, short(string(g.Outcome)))
		}
		left = slices.Delete(left, i, i+1)
	}
	return ""
}

// matches compares what the destination kept. Strings that cannot be stored as they are, because
// they are long or not UTF-8, match anything.
func matches(got, want apexproxy.Record) bool {
	for _, p := range [][2]string{
		{got.ID, want.ID}, {got.Provider, want.Provider}, {got.RequestModel, want.RequestModel}, {string(got.Outcome), string(want.Outcome)},
	} {
		if p[0] != "" && p[0] != p[1] && plain(p[1]) {
			return false
		}
	}
	return got.StatusCode == 0 || got.StatusCode == want.StatusCode
}

func plain(s string) bool {
	return len(s) <= 256 && strings.Trim(s, "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789_-./") == ""
}

func short(s string) string {
	if len(s) > 40 {
		return s[:40] + "…"
	}
	return s
}

// records returns n ordinary records of different kinds, with everything set.
func records(n int) []apexproxy.Record {
	list := make([]apexproxy.Record, n)
	for i := range list {
		r := apexproxy.Record{
			ID:              fmt.Sprintf("record-%d", i),
			Start:           time.Date(2025, 1, 2, 3, 4, 5, i, time.UTC),
			Duration:        time.Duration(i+1) * time.Millisecond,
			TimeToFirstByte: time.Millisecond,
			Method:          http.MethodPost,
			Path:            "/v1/messages",
			Mode:            apexproxy.ModeGateway,
			Operation:       apexproxy.OperationMessages,
			Identity:        apexproxy.Identity{Subject: "token-1", Metadata: map[string]string{"team": "a"}},
			Provider:        "anthropic",
			UpstreamHost:    "gateway.example",
			ClientModel:     "claude-test#anthropic",
			RequestModel:    "claude-test",
			ResponseModel:   "claude-test-1",
			Dropped:         []string{"messages[0].cache_control"},
			StatusCode:      http.StatusOK,
			Outcome:         apexproxy.OutcomeCompleted,
			RequestBytes:    17,
			ResponseBytes:   18,
			Usage:           &apexproxy.Usage{InputTokens: 5, OutputTokens: 4, CacheReadTokens: 3, CacheWriteTokens: 2, ReasoningTokens: 1},
			FinishReason:    "end_turn",
			GatewayLogID:    "log-1",
			CacheStatus:     "MISS",
			Content: &apexproxy.Content{
				URL:            "/v1/messages?beta=true",
				RequestHeader:  http.Header{"Content-Type": {"application/json"}, "X-Many": {"a", "b"}},
				RequestBody:    []byte(`{"model":"m","a":1}`),
				ResponseHeader: http.Header{"Content-Type": {"application/json"}},
				ResponseBody:   []byte(`{"model":"m","b":2}`),
			},
		}
		switch i % 3 {
		case 1:
			r.Mode, r.Operation, r.Path = apexproxy.ModePassthrough, apexproxy.OperationChat, "/v1/chat/completions"
			r.Provider, r.UpstreamHost, r.Stream, r.Converted = "api.example", "api.example", true, true
		case 2:
			r.StatusCode, r.Outcome, r.ErrorType = http.StatusTooManyRequests, apexproxy.OutcomeUpstreamError, "rate_limit_error"
		}
		list[i] = r
	}
	return list
}

// unusual returns records with values that clients and upstreams can cause.
func unusual() []apexproxy.Record {
	var list []apexproxy.Record
	for _, s := range []string{
		"\xff\xfe invalid \xc3\x28 UTF-8 \xe2\x82",
		"nul \x00, control \x1b[31m and \u2028 separators \u2029",
		"quotes \" ' ` and \\ and \r\n new lines {{.}} %s %!d(MISSING) <script>&amp;",
		strings.Repeat("a", 1<<20),
		strings.Repeat("\u20ac", 1<<13) + "\xe2\x82",
		strings.Repeat("\x01\"", 1<<14),
	} {
		list = append(list, apexproxy.Record{
			ID: s, Method: s, Path: s, Mode: apexproxy.Mode(s), Operation: apexproxy.Operation(s),
			Identity: apexproxy.Identity{Subject: s, Metadata: map[string]string{s: s}},
			Provider: s, UpstreamHost: s, ClientModel: s, RequestModel: s, ResponseModel: s, Dropped: []string{s, ""},
			Outcome: apexproxy.Outcome(s), ErrorType: s, FinishReason: s, GatewayLogID: s, CacheStatus: s,
			Usage: &apexproxy.Usage{},
			Content: &apexproxy.Content{
				URL: s, RequestHeader: http.Header{s: {s, ""}, "": nil}, RequestBody: []byte(s), RequestTruncated: true,
				ResponseHeader: http.Header{"X": {s}}, ResponseBody: []byte(s),
			},
		})
	}
	return append(list,
		apexproxy.Record{
			Start: time.Date(9999, 12, 31, 23, 59, 59, 999999999, time.UTC), Duration: math.MaxInt64, TimeToFirstByte: math.MaxInt64,
			StatusCode: math.MaxInt32, RequestBytes: math.MaxInt64, ResponseBytes: math.MaxInt64,
			Usage: &apexproxy.Usage{InputTokens: math.MaxInt64, OutputTokens: math.MaxInt64},
		},
		apexproxy.Record{
			Duration: -1, TimeToFirstByte: math.MinInt64, StatusCode: -1, RequestBytes: -1, ResponseBytes: math.MinInt64,
			Usage: &apexproxy.Usage{InputTokens: math.MinInt64, ReasoningTokens: -1},
		})
}

func clone(r apexproxy.Record) apexproxy.Record {
	r.Identity.Metadata = maps.Clone(r.Identity.Metadata)
	r.Dropped = slices.Clone(r.Dropped)
	if r.Usage != nil {
		u := *r.Usage
		r.Usage = &u
	}
	if r.Content != nil {
		c := *r.Content
		c.RequestHeader, c.ResponseHeader = c.RequestHeader.Clone(), c.ResponseHeader.Clone()
		c.RequestBody, c.ResponseBody = bytes.Clone(c.RequestBody), bytes.Clone(c.ResponseBody)
		r.Content = &c
	}
	return r
}

// firstDifference names the first field in which two records differ.
func firstDifference(a, b apexproxy.Record) string {
	va, vb := reflect.ValueOf(a), reflect.ValueOf(b)
	for i := range va.NumField() {
		if !reflect.DeepEqual(va.Field(i).Interface(), vb.Field(i).Interface()) {
			return va.Type().Field(i).Name
		}
	}
	return ""
}
