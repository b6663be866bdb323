// Package queue hands items from many goroutines to one slow consumer, in batches, without ever
// making a producer wait.
package queue

import (
	"context"
	"fmt"
	"runtime/debug"
	"sync"
	"time"
)

// Config bounds a Queue. All fields must be positive.
type Config struct {
	Items   int           // held at one time, those being handled included
	Bytes   int64         // held at one time, as given to Put
	Batch   int           // most items of one call
	Timeout time.Duration // of one call
}

// Stats count items, and calls of the handler that went wrong.
type Stats struct {
	Handled  uint64
	Full     uint64 // dropped: the bound of Items was reached
	TooLarge uint64 // dropped: the bound of Bytes was reached
	Closed   uint64 // dropped: after Close, or not handled in its time
	Failed   uint64 // lost in a call that failed
	Errors   uint64 // calls that returned an error or panicked
}

// Queue is a bounded queue with one worker. It is safe for concurrent use.
type Queue[T any] struct {
	cfg    Config
	handle func(context.Context, []T) error
	failed func(error)
	ctx    context.Context // of the calls; ends when Close gives up
	cancel context.CancelFunc
	wake   chan struct{}
	done   chan struct{}

	batch []T // of the call under way; the worker's own

	mu     sync.Mutex
	items  []item[T]
	first  int // of items that waits; those before it are zero
	held   int // items waiting or being handled
	bytes  int64
	closed bool
	gaveUp bool // Close counted what was held
	stats  Stats
}

type item[T any] struct {
	value T
	size  int64
}

// New starts a queue and its worker. handle is called with batches, never concurrently with itself,
// and must not keep their slice; failed, when not nil, with each error or panic of handle, from the
// same goroutine. The worker ends after [Queue.Close].
func New[T any](cfg Config, handle func(context.Context, []T) error, failed func(error)) *Queue[T] {
	q := &Queue[T]{cfg: cfg, handle: handle, failed: failed, wake: make(chan struct{}, 1), done: make(chan struct{})}
	q.ctx, q.cancel = context.WithCancel(context.Background())
	go q.work()
	return q
}

// Put adds v, which takes size bytes, and reports whether there was room. It never blocks and, once
// the queue has grown, does not allocate.
func (q *Queue[T]) Put(v T, size int64) bool {
	q.mu.Lock()
	defer q.mu.Unlock()
	switch {
	case q.closed:
		q.stats.Closed++
		return false
	case q.held >= q.cfg.Items:
		q.stats.Full++
		return false
	case q.bytes+size > q.cfg.Bytes:
		q.stats.TooLarge++
		return false
	}
	q.held++
	q.bytes += size
	q.items = append(q.items, item[T]{v, size})
	select {
	case q.wake <- struct{}{}:
	default:
	}
	return true
}

// Stats returns the counters now.
func (q *Queue[T]) Stats() Stats {
	q.mu.Lock()
	defer q.mu.Unlock()
	return q.stats
}

// Close refuses further items and waits until all that wait are handled, or until ctx ends: then
// the call under way is cancelled, its items and those that wait are counted as dropped, and ctx's
// error is returned without waiting for the handler. A second Close waits too.
func (q *Queue[T]) Close(ctx context.Context) error {
	q.mu.Lock()
	if !q.closed {
		q.closed = true
		close(q.wake)
	}
	q.mu.Unlock()
	select {
	case <-q.done:
		return nil
	case <-ctx.Done():
	}
	q.cancel()
	q.mu.Lock()
	defer q.mu.Unlock()
	select {
	case <-q.done:
		return nil
	default:
	}
	if !q.gaveUp {
		q.gaveUp = true
		q.stats.Closed += uint64(q.held)
		q.items, q.first = nil, 0
	}
	return ctx.Err()
}

func (q *Queue[T]) work() {
	defer close(q.done)
	defer q.cancel()
	for open := true; open; {
		_, open = <-q.wake
		for {
			size := q.take()
			if len(q.batch) == 0 {
				break
			}
			err := q.call()
			q.settle(size, err)
		}
	}
}

// take moves the next items into the batch and returns their size. They count as held until settle.
func (q *Queue[T]) take() (size int64) {
	q.mu.Lock()
	defer q.mu.Unlock()
	waiting := q.items[q.first:]
	waiting = waiting[:min(len(waiting), q.cfg.Batch)]
	for _, it := range waiting {
		q.batch = append(q.batch, it.value)
		size += it.size
	}
	clear(waiting)
	q.first += len(waiting)
	// Moved down at half, so that an item is moved once on average.
	if q.first >= len(q.items)-q.first {
		rest := copy(q.items, q.items[q.first:])
		clear(q.items[rest:])
		q.items, q.first = q.items[:rest], 0
	}
	return size
}

func (q *Queue[T]) settle(size int64, err error) {
	q.mu.Lock()
	n := len(q.batch)
	q.held -= n
	q.bytes -= size
	switch {
	case err != nil && q.gaveUp:
		q.stats.Errors++
	case q.gaveUp:
	case err != nil:
		q.stats.Failed += uint64(n)
		q.stats.Errors++
	default:
		q.stats.Handled += uint64(n)
	}
	q.mu.Unlock()
	clear(q.batch)
	q.batch = q.batch[:0]
	if err != nil && q.failed != nil {
		q.failed(err)
	}
}

// call runs the handler. A panic is an error here: in our goroutine it would end a process that is
// not ours.
func (q *Queue[T]) call() (err error) {
	ctx, cancel := context.WithTimeout(q.ctx, q.cfg.Timeout)
	defer cancel()
	defer func() {
		if v := recover(); v != nil {
			err = fmt.Errorf("panic: %v\n%s", v, debug.Stack())
		}
	}()
	return q.handle(ctx, q.batch)
}
