package aepipe

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"math/rand/v2"
	"net/http"
	"strconv"
	"time"

	"github.com/loadchange/apexproxy"
)

const (
	maxEntries   = 250     // of one call; the store refuses more
	maxCallBytes = 8 << 20 // of one call's body: a Worker has 128 MB for all its requests

	maxAttempts = 5
	minBackoff  = 250 * time.Millisecond // upper bound of the first wait, doubled for each further one
	maxWait     = time.Minute            // a longer Retry-After is as good as a final error
)

// A Reporter sends records to a store. It holds no goroutine, buffer or connection of its own
// between calls, and may be used concurrently.
type Reporter struct {
	s *store
}

var _ apexproxy.Reporter = (*Reporter)(nil)

// New returns a Reporter for the store that cfg describes. It makes no call. The error names every
// mistake in cfg at once.
func New(cfg Config) (*Reporter, error) {
	s, err := newStore(cfg)
	if err != nil {
		return nil, err
	}
	return &Reporter{s}, nil
}

// Report implements [apexproxy.Reporter]. It writes the records to both logstores, at the same time
// and independently: one that fails does not stop the other, and the errors of both are joined.
// Calls hold at most 250 records and 8 MiB.
//
// Answers 429 and 5xx and failures of the network are tried again, five times in all, after a
// random wait that grows and is at least what Retry-After asks for. No wait goes beyond the
// deadline of ctx: the error comes early instead. The store cannot tell a repeated call from a new
// one, so a call that was stored before its answer got lost is stored twice.
//
// An error says how many records are not, or not whole, in which logstore. It wraps an [*Error]
// when the store answered, and holds nothing of the records, the answer or the token.
func (r *Reporter) Report(ctx context.Context, batch []apexproxy.Record) error {
	s := r.s
	raw := make(chan error, 1)
	go func() {
		raw <- s.send(ctx, s.rawstore, "log", "logs", batch, func(rec *apexproxy.Record) any { return newLogEntry(rec) })
	}()
	err := s.send(ctx, s.logstore, "ingest", "points", batch, func(rec *apexproxy.Record) any { return newPoint(s, rec) })
	return errors.Join(err, <-raw)
}

// send writes batch to one logstore, in as many calls as it takes.
func (s *store) send(ctx context.Context, logstore, action, key string, batch []apexproxy.Record, entry func(*apexproxy.Record) any) (err error) {
	// A panic, which only the transport of Config.HTTPClient can cause, would end the process: one
	// of the two sends has a goroutine of ours.
	defer func() {
		if v := recover(); v != nil {
			err = fmt.Errorf("aepipe: logstore %s: panic with a %T", logstore, v)
		}
	}()
	var (
		total, lost int
		firstErr    error
		buf         []byte // the body of the next call, less its end
		n           int    // entries in it
	)
	fail := func(records int, err error) {
		lost += records
		if firstErr == nil {
			firstErr = err
		}
	}
	flush := func() {
		if n == 0 {
			return
		}
		if err := s.post(ctx, s.path(logstore, action), append(buf, "]}"...), n); err != nil {
			fail(n, err)
		}
		// A transport may read a body after its RoundTrip returned: never reuse it.
		buf, n = nil, 0
	}
	for i := range batch {
		if !reported(&batch[i]) {
			continue
		}
		total++
		if ctx.Err() != nil {
			fail(1, context.Cause(ctx))
			continue
		}
		e := encode(entry(&batch[i]))
		if n == maxEntries || len(buf)+len(e)+len(",]}") > maxCallBytes {
			flush()
		}
		if n == 0 {
			buf = append(buf, `{"`+key+`":[`...)
		} else {
			buf = append(buf, ',')
		}
		buf = append(buf, e...)
		n++
	}
	flush()
	if firstErr != nil {
		return fmt.Errorf("aepipe: logstore %s: %d of %d records lost or incomplete: %w", logstore, lost, total, firstErr)
	}
	return nil
}

// post makes one call of n entries until it succeeds, cannot succeed, or there is no time left to
// try again.
func (s *store) post(ctx context.Context, path string, body []byte, n int) error {
	backoff := minBackoff
	for attempt := 1; ; attempt++ {
		retryAfter, again, err := s.try(ctx, path, body, n)
		if err == nil || !again || attempt == maxAttempts || ctx.Err() != nil {
			return err
		}
		wait := max(rand.N(backoff), retryAfter)
		backoff *= 2
		if deadline, ok := ctx.Deadline(); wait > maxWait || ok && time.Until(deadline) <= wait {
			return err
		}
		timer := time.NewTimer(wait)
		select {
		case <-timer.C:
		case <-ctx.Done():
			timer.Stop()
			return err
		}
	}
}

// try makes one call of n entries, and says whether and when another is worth it.
func (s *store) try(ctx context.Context, path string, body []byte, n int) (retryAfter time.Duration, again bool, err error) {
	resp, answer, err := s.do(ctx, http.MethodPost, path, body, 64<<10)
	if err != nil {
		return 0, true, err
	}
	switch status := resp.StatusCode; {
	case status == http.StatusTooManyRequests || status >= 500:
		return parseRetryAfter(resp.Header.Get("Retry-After")), true, &Error{status, http.StatusText(status)}
	case status < 200 || status >= 300:
		return 0, false, &Error{status, advice(status)}
	}
	var result struct {
		OK              bool `json:"ok"`
		Written         int  `json:"written"`
		PayloadDegraded bool `json:"payload_degraded"`
	}
	switch err := json.Unmarshal(answer, &result); {
	case err != nil || !result.OK:
		return 0, false, &Error{resp.StatusCode, "the answer is not that of an aepipe store: check Config.BaseURL"}
	case result.Written != n:
		return 0, false, &Error{resp.StatusCode, fmt.Sprintf("the store took %d of %d records of a call", result.Written, n)}
	case result.PayloadDegraded:
		return 0, false, &Error{resp.StatusCode, "stored without their payload: look at the store's D1 database"}
	}
	return 0, false, nil
}

func advice(status int) string {
	switch {
	case status >= 300 && status < 400:
		return "redirects are not followed: set Config.BaseURL to the final address"
	case status == http.StatusUnauthorized, status == http.StatusForbidden:
		return "the store refused the token: check Config.Token"
	case status == http.StatusNotFound:
		return "no store there: check Config.BaseURL"
	}
	return http.StatusText(status)
}

// parseRetryAfter reads both forms of RFC 9110 §10.2.3; anything else is 0.
func parseRetryAfter(v string) time.Duration {
	if seconds, err := strconv.ParseUint(v, 10, 31); err == nil {
		return time.Duration(seconds) * time.Second
	}
	if t, err := http.ParseTime(v); err == nil {
		return time.Until(t)
	}
	return 0
}
