package reportertest

import (
	"context"
	"errors"
	"slices"
	"strings"
	"sync"
	"testing"
	"testing/synctest"

	"github.com/google/go-cmp/cmp"
	"github.com/loadchange/apexproxy"
)

// memory is a reporter as it should be. The bad ones below change one thing.
type memory struct {
	mu   sync.Mutex
	kept []apexproxy.Record
}

func (m *memory) Report(ctx context.Context, batch []apexproxy.Record) error {
	if err := ctx.Err(); err != nil {
		return err
	}
	m.mu.Lock()
	defer m.mu.Unlock()
	m.kept = append(m.kept, batch...)
	return nil
}

func (m *memory) Delivered() []apexproxy.Record {
	m.mu.Lock()
	defer m.mu.Unlock()
	return slices.Clone(m.kept)
}

// bad reports through its func and otherwise delivers as memory does.
type bad struct {
	*memory
	report func(ctx context.Context, m *memory, batch []apexproxy.Record) error
}

func (b bad) Report(ctx context.Context, batch []apexproxy.Record) error {
	return b.report(ctx, b.memory, batch)
}

func TestRun(t *testing.T) {
	t.Parallel()
	t.Run("deliverer", func(t *testing.T) {
		t.Parallel()
		Run(t, func(*testing.T) apexproxy.Reporter { return new(memory) })
	})
	t.Run("plain", func(t *testing.T) {
		t.Parallel()
		Run(t, func(*testing.T) apexproxy.Reporter { return apexproxy.ReporterFunc(new(memory).Report) })
	})
	// A destination that keeps the status only: what is zero is not compared.
	t.Run("forgetful", func(t *testing.T) {
		t.Parallel()
		Run(t, func(*testing.T) apexproxy.Reporter {
			return bad{new(memory), func(ctx context.Context, m *memory, batch []apexproxy.Record) error {
				statuses := make([]apexproxy.Record, len(batch))
				for i := range batch {
					statuses[i].StatusCode = batch[i].StatusCode
				}
				return m.Report(ctx, statuses)
			}}
		})
	})
}

// lazy keeps the batch itself and reads it when somebody asks.
type lazy struct{ batches [][]apexproxy.Record }

func (l *lazy) Report(ctx context.Context, batch []apexproxy.Record) error {
	l.batches = append(l.batches, batch)
	return ctx.Err()
}

func (l *lazy) Delivered() []apexproxy.Record { return slices.Concat(l.batches...) }

// TestBadReporters has reporters for each case that no other, or few others, catch, and asserts
// which ones do. Those that write to shared data leave the batches of TwoReporters alone: there the
// race detector would find them.
func TestBadReporters(t *testing.T) {
	t.Parallel()
	var stopped chan struct{} // closed when a case has ended
	type reportFunc = func(ctx context.Context, m *memory, batch []apexproxy.Record) error
	each := func(report reportFunc) func() func() apexproxy.Reporter {
		newReporter := func() apexproxy.Reporter { return bad{new(memory), report} }
		return func() func() apexproxy.Reporter { return newReporter }
	}
	type badReporter struct {
		name   string
		new    func() func() apexproxy.Reporter // called for each case
		caught []string                         // names of cases
		says   string
	}
	tests := []badReporter{
		{
			"looks at the first record of none",
			each(func(ctx context.Context, m *memory, batch []apexproxy.Record) error {
				_ = batch[0]
				return m.Report(ctx, batch)
			}),
			[]string{"EmptyBatch"}, "panicked",
		},
		{
			"has no use for an empty batch",
			each(func(ctx context.Context, m *memory, batch []apexproxy.Record) error {
				if len(batch) == 0 {
					return errors.New("empty")
				}
				return m.Report(ctx, batch)
			}),
			[]string{"EmptyBatch"}, `error "empty"`,
		},
		{
			"waits for a second record",
			each(func(ctx context.Context, m *memory, batch []apexproxy.Record) error {
				if len(batch) == 1 {
					return nil
				}
				return m.Report(ctx, batch)
			}),
			[]string{"OneRecord", "ZeroRecord"}, "0 records had been delivered",
		},
		{
			"needs an ID",
			each(func(ctx context.Context, m *memory, batch []apexproxy.Record) error {
				for _, r := range batch {
					if r.ID == "" && r.Duration == 0 {
						panic("no ID")
					}
				}
				return m.Report(ctx, batch)
			}),
			[]string{"ZeroRecord"}, "no ID",
		},
		{
			"drops what one call does not hold",
			each(func(ctx context.Context, m *memory, batch []apexproxy.Record) error {
				return m.Report(ctx, batch[:min(len(batch), 250)])
			}),
			[]string{"LargeBatch"}, "250 records had been delivered when Report of 1000 returned",
		},
		{
			"needs Usage",
			each(func(ctx context.Context, m *memory, batch []apexproxy.Record) error {
				for i := range batch {
					if batch[i].ID != "" {
						_ = batch[i].Usage.InputTokens
					}
				}
				return m.Report(ctx, batch)
			}),
			[]string{"NilUsageAndContent", "Shutdown"}, "nil pointer",
		},
		{
			"needs headers",
			each(func(ctx context.Context, m *memory, batch []apexproxy.Record) error {
				for _, r := range batch {
					if r.Content != nil && r.Content.RequestHeader == nil {
						panic("assignment to entry in nil map")
					}
				}
				return m.Report(ctx, batch)
			}),
			[]string{"NilUsageAndContent"}, "nil map",
		},
		{
			"refuses long models",
			each(func(ctx context.Context, m *memory, batch []apexproxy.Record) error {
				for _, r := range batch {
					if len(r.ClientModel) > 16<<10 {
						return errors.New("model too long")
					}
				}
				return m.Report(ctx, batch)
			}),
			[]string{"ReadOnly", "UnusualValues"}, "model too long",
		},
		{
			"delivers twice",
			each(func(ctx context.Context, m *memory, batch []apexproxy.Record) error {
				return errors.Join(m.Report(ctx, batch), m.Report(ctx, batch))
			}),
			[]string{"AfterReturn", "LargeBatch", "NilUsageAndContent", "OneRecord", "ReadOnly", "TwoReporters", "UnusualValues", "ZeroRecord"},
			"2 records had been delivered when Report of 1 returned",
		},
		{
			"delivers the first instead of each",
			each(func(ctx context.Context, m *memory, batch []apexproxy.Record) error {
				batch = slices.Clone(batch)
				for i := range batch {
					batch[i] = batch[0]
				}
				return m.Report(ctx, batch)
			}),
			[]string{"AfterReturn", "LargeBatch", "NilUsageAndContent", "ReadOnly", "TwoReporters", "UnusualValues"}, "or twice",
		},
		{
			"ignores a context that was cancelled",
			each(func(ctx context.Context, m *memory, batch []apexproxy.Record) error {
				if ctx.Err() != nil {
					<-stopped
				}
				return m.Report(ctx, batch)
			}),
			[]string{"Cancelled"}, "cancelled before",
		},
		{
			"panics on a context that was cancelled",
			each(func(ctx context.Context, m *memory, batch []apexproxy.Record) error {
				if ctx.Err() != nil {
					panic(ctx.Err())
				}
				return m.Report(ctx, batch)
			}),
			[]string{"Cancelled"}, "panicked",
		},
		{
			"refuses what a Proxy makes",
			each(func(ctx context.Context, m *memory, batch []apexproxy.Record) error {
				for _, r := range batch {
					if strings.HasPrefix(r.ID, "req_") {
						return errors.New("strange id")
					}
				}
				return m.Report(ctx, batch)
			}),
			[]string{"Shutdown"}, "failed or panicked",
		},
		{
			"ignores a deadline",
			each(func(ctx context.Context, m *memory, batch []apexproxy.Record) error {
				if _, ok := ctx.Deadline(); ok {
					<-stopped
				}
				return m.Report(ctx, batch)
			}),
			[]string{"Deadline", "Shutdown"}, "of its deadline",
		},
		{
			"is not alone in its memory",
			func() func() apexproxy.Reporter {
				m := new(memory) // as a package variable would be
				return func() apexproxy.Reporter { return m }
			},
			[]string{"TwoReporters"}, "200 records had been delivered when Report of 100 returned",
		},
		{
			"returns before it has begun",
			each(func(ctx context.Context, m *memory, batch []apexproxy.Record) error {
				go func() {
					<-stopped
					_ = m.Report(ctx, batch)
				}()
				return nil
			}),
			[]string{"AfterReturn", "LargeBatch", "NilUsageAndContent", "OneRecord", "ReadOnly", "TwoReporters", "UnusualValues", "ZeroRecord"},
			"0 records had been delivered when Report of 1 returned",
		},
		{
			"delivers a batch when it is asked for it",
			func() func() apexproxy.Reporter {
				return func() apexproxy.Reporter { return new(lazy) }
			},
			[]string{"AfterReturn"}, "after the batch was overwritten",
		},
		{
			"forgets what is secret in the record that all share",
			each(func(ctx context.Context, m *memory, batch []apexproxy.Record) error {
				for _, r := range batch {
					if r.Content != nil && len(batch) != 100 {
						r.Content.RequestBody = nil
					}
				}
				return m.Report(ctx, batch)
			}),
			[]string{"ReadOnly"}, "Content of record 0",
		},
		{
			"changes a header",
			each(func(ctx context.Context, m *memory, batch []apexproxy.Record) error {
				for _, r := range batch {
					if r.Content != nil && len(batch) != 100 {
						r.Content.ResponseHeader.Del("Content-Type")
					}
				}
				return m.Report(ctx, batch)
			}),
			[]string{"ReadOnly"}, "Content of record 0",
		},
		{
			"writes to Usage and Dropped",
			each(func(ctx context.Context, m *memory, batch []apexproxy.Record) error {
				for _, r := range batch {
					if r.Usage != nil && len(r.Dropped) > 0 && len(batch) != 100 {
						r.Dropped[0] = strings.ToUpper(r.Dropped[0])
						r.Usage.InputTokens++
					}
				}
				return m.Report(ctx, batch)
			}),
			[]string{"ReadOnly"}, "Dropped of record 0",
		},
		{
			"may change the records themselves",
			each(func(ctx context.Context, m *memory, batch []apexproxy.Record) error {
				err := m.Report(ctx, batch)
				slices.Reverse(batch)
				clear(batch)
				return err
			}),
			nil, "",
		},
	}
	for _, test := range tests {
		t.Run(test.name, func(t *testing.T) {
			var caught []string
			var said string
			for _, c := range cases {
				synctest.Test(t, func(t *testing.T) {
					stopped = make(chan struct{})
					defer close(stopped)
					if problem := c.run(t.Context(), test.new()); problem != "" {
						caught = append(caught, c.name)
						said += problem + "\n"
					}
				})
			}
			slices.Sort(caught)
			if diff := cmp.Diff(test.caught, caught); diff != "" {
				t.Errorf("caught by (-want +got):\n%s", diff)
			}
			if !strings.Contains(said, test.says) {
				t.Errorf("%q does not say %q", said, test.says)
			}
		})
	}
	// Every case must have caught somebody.
	for _, c := range cases {
		if !slices.ContainsFunc(tests, func(test badReporter) bool { return slices.Contains(test.caught, c.name) }) {
			t.Errorf("no reporter fails %s", c.name)
		}
	}
}
