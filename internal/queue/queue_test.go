package queue

import (
	"context"
	"errors"
	"slices"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/google/go-cmp/cmp"
)

var roomy = Config{Items: 100, Bytes: 1000, Batch: 10, Timeout: time.Second}

func TestQueue_batches(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		var got [][]int
		release := make(chan struct{})
		q := New(roomy, func(_ context.Context, b []int) error {
			got = append(got, slices.Clone(b))
			<-release
			return nil
		}, nil)
		q.Put(0, 1)
		synctest.Wait() // the first call holds the worker; the rest gathers
		for i := 1; i <= 25; i++ {
			if !q.Put(i, 1) {
				t.Fatalf("item %d refused", i)
			}
		}
		close(release)
		if err := q.Close(t.Context()); err != nil {
			t.Fatal(err)
		}
		var sizes []int
		var all []int
		for _, b := range got {
			sizes = append(sizes, len(b))
			all = append(all, b...)
		}
		if diff := cmp.Diff([]int{1, 10, 10, 5}, sizes); diff != "" {
			t.Error(diff)
		}
		if !slices.IsSorted(all) || len(all) != 26 {
			t.Errorf("items %v", all)
		}
		if diff := cmp.Diff(Stats{Handled: 26}, q.Stats()); diff != "" {
			t.Error(diff)
		}
	})
}

func TestQueue_bounds(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		release := make(chan struct{})
		q := New(Config{Items: 3, Bytes: 10, Batch: 1, Timeout: time.Hour}, func(context.Context, []int) error {
			<-release
			return nil
		}, nil)
		want := []bool{true, true, false, true, false}
		var got []bool
		for _, size := range []int64{4, 4, 4, 1, 1} {
			got = append(got, q.Put(1, size))
			synctest.Wait() // what is being handled still counts
		}
		if diff := cmp.Diff(want, got); diff != "" {
			t.Error(diff)
		}
		close(release)
		synctest.Wait()
		if !q.Put(1, 10) {
			t.Error("no room after everything was handled")
		}
		_ = q.Close(t.Context())
		if q.Put(1, 1) {
			t.Error("room after Close")
		}
		if diff := cmp.Diff(Stats{Handled: 4, TooLarge: 1, Full: 1, Closed: 1}, q.Stats()); diff != "" {
			t.Error(diff)
		}
	})
}

func TestQueue_failures(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		var seen []string
		q := New(Config{Items: 10, Bytes: 10, Batch: 1, Timeout: time.Second}, func(ctx context.Context, b []string) error {
			switch b[0] {
			case "panic":
				panic("boom")
			case "slow":
				<-ctx.Done()
				return ctx.Err()
			case "error":
				return errors.New("no")
			}
			return nil
		}, func(err error) { seen = append(seen, strings.SplitN(err.Error(), "\n", 2)[0]) })
		for _, s := range []string{"panic", "slow", "error", "fine"} {
			q.Put(s, 1)
		}
		if err := q.Close(t.Context()); err != nil {
			t.Fatal(err)
		}
		if diff := cmp.Diff([]string{"panic: boom", "context deadline exceeded", "no"}, seen); diff != "" {
			t.Error(diff)
		}
		if diff := cmp.Diff(Stats{Handled: 1, Failed: 3, Errors: 3}, q.Stats()); diff != "" {
			t.Error(diff)
		}
	})
}

func TestQueue_closeAtDeadline(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		release := make(chan struct{})
		var cancelled bool
		q := New(Config{Items: 10, Bytes: 10, Batch: 1, Timeout: time.Hour}, func(ctx context.Context, _ []int) error {
			<-ctx.Done()
			cancelled = true
			<-release // a reporter that does not listen
			return ctx.Err()
		}, nil)
		q.Put(1, 1)
		q.Put(2, 1)
		ctx, cancel := context.WithTimeout(t.Context(), 5*time.Second)
		defer cancel()
		start := time.Now()
		err := q.Close(ctx)
		if !errors.Is(err, context.DeadlineExceeded) || time.Since(start) != 5*time.Second {
			t.Errorf("Close: %v after %v", err, time.Since(start))
		}
		synctest.Wait()
		if !cancelled {
			t.Error("the call under way was not cancelled")
		}
		if got := q.Stats().Closed; got != 2 {
			t.Errorf("dropped at Close: %d, want the one that waited and the one under way", got)
		}
		close(release)
		synctest.Wait()
		if diff := cmp.Diff(Stats{Closed: 2, Errors: 1}, q.Stats()); diff != "" {
			t.Error(diff)
		}
		if err := q.Close(t.Context()); err != nil {
			t.Errorf("second Close: %v", err)
		}
	})
}

func TestQueue_concurrentClose(t *testing.T) {
	t.Parallel()
	q := New(roomy, func(context.Context, []int) error { return nil }, nil)
	var wg sync.WaitGroup
	for range 8 {
		wg.Go(func() {
			for range 100 {
				q.Put(1, 1)
			}
			if err := q.Close(t.Context()); err != nil {
				t.Error(err)
			}
		})
	}
	wg.Wait()
	s := q.Stats()
	if s.Handled+s.Full+s.TooLarge+s.Closed != 800 {
		t.Errorf("items went missing: %+v", s)
	}
}

// A queue that always holds something is never reset by running empty. What has been handled must
// make room all the same, or its slice grows for as long as the process lives.
func TestQueue_steadyLoad(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		const items, waiting = 64, 10
		release := make(chan struct{})
		var next int
		q := New(Config{Items: items, Bytes: 1 << 20, Batch: 3, Timeout: time.Hour}, func(_ context.Context, b []int) error {
			<-release
			for _, v := range b {
				if v != next {
					t.Errorf("item %d came, want %d", v, next)
				}
				next++
			}
			return nil
		}, nil)
		put, most := 0, 0
		for range 10_000 {
			for put < next+waiting {
				q.Put(put, 1)
				put++
			}
			release <- struct{}{}
			synctest.Wait()
			q.mu.Lock()
			most = max(most, cap(q.items))
			if q.held == 0 {
				t.Error("the queue ran empty")
			}
			q.mu.Unlock()
		}
		if most > 4*items {
			t.Errorf("the slice of a queue of %d items has grown to %d", items, most)
		}
		close(release)
		if err := q.Close(t.Context()); err != nil {
			t.Fatal(err)
		}
		if diff := cmp.Diff(Stats{Handled: uint64(put)}, q.Stats()); diff != "" {
			t.Error(diff)
		}
	})
}

// Producers are request goroutines: they get no garbage to pay for.
func TestQueue_putAllocations(t *testing.T) {
	release := make(chan struct{})
	q := New(Config{Items: 1 << 20, Bytes: 1 << 40, Batch: 1 << 20, Timeout: time.Hour}, func(context.Context, [][64]byte) error {
		<-release
		return nil
	}, nil)
	q.items = make([]item[[64]byte], 0, 1<<14)
	if n := testing.AllocsPerRun(1000, func() { q.Put([64]byte{}, 1) }); n != 0 {
		t.Errorf("%v allocations a Put", n)
	}
	close(release)
	_ = q.Close(context.Background())
}
