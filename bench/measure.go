package main

import (
	"fmt"
	"io"
	"math"
	"slices"
	"time"
)

// target is a way through one of the proxies.
type target struct {
	name    string
	role    string // of its process
	program string // of its process; empty: this one
	process *process
	model   string             // that its requests name
	check   func([]byte) error // of its answers
	turns   []turn             // one a round
}

// turn is what a target used and how long its clients waited in one turn.
type turn struct {
	cpu      float64 // µs a request
	allocs   float64 // objects a request
	p50, p99 float64 // ms
	memory   float64 // MB at the end
}

// turn puts the target under load for a while and notes what it used. It warms up for a third of
// the time before, both not shorter than the workload wants.
func (t *target) turn(w *workload, d time.Duration) error {
	d = max(d, w.least)
	r, err := load(w, t, max(d/3, w.least), d)
	if err != nil {
		return err
	}
	slices.Sort(r.took)
	at := func(q float64) float64 {
		if len(r.took) == 0 {
			return math.NaN()
		}
		return r.took[int(q*float64(len(r.took)-1))].Seconds() * 1e3
	}
	n := float64(r.requests)
	t.turns = append(t.turns, turn{
		cpu:    (r.after.cpu - r.before.cpu) / 1e3 / n,
		allocs: (r.after.allocs - r.before.allocs) / n,
		p50:    at(.5),
		p99:    at(.99),
		memory: r.after.memory / (1 << 20),
	})
	return nil
}

// median is the median of a number over all turns.
func (t *target) median(of func(turn) float64) float64 {
	var all []float64
	for _, r := range t.turns {
		all = append(all, of(r))
	}
	return median(all)
}

func median(l []float64) float64 {
	s := slices.Sorted(slices.Values(l))
	return (s[(len(s)-1)/2] + s[len(s)/2]) / 2
}

// table prints what was measured, a row for each target of each workload.
type table struct {
	out         io.Writer
	goals, held int
	memory      string // the last row whose ratio compares it
}

func (t *table) head() {
	fmt.Fprintf(t.out, "%-12s %-11s %9s %6s %13s %-13s %6s %8s %8s %6s\n",
		"workload", "target", "cpu µs/rq", "ratio", "(min–max)", "goal", "allocs", "p50 ms", "p99 ms", "MB")
}

func (t *table) add(label string, w *workload, targets []*target, tls bool) {
	what := func(r turn) float64 { return r.cpu }
	if w.memory {
		what = func(r turn) float64 { return r.memory }
		t.memory = label
	}
	for _, g := range targets {
		var ratios []float64
		for i, r := range g.turns {
			ratios = append(ratios, what(r)/what(targets[0].turns[i]))
		}
		ratio := median(ratios)
		fmt.Fprintf(t.out, "%-12s %-11s %9.1f %6.2f %13s %-13s %6.0f %8.2f %8.2f %6.1f\n", label, g.name,
			g.median(func(r turn) float64 { return r.cpu }), ratio,
			fmt.Sprintf("(%.2f–%.2f)", slices.Min(ratios), slices.Max(ratios)),
			t.verdict(ratio, goal(w.name, g.name, tls)),
			g.median(func(r turn) float64 { return r.allocs }),
			g.median(func(r turn) float64 { return r.p50 }),
			g.median(func(r turn) float64 { return r.p99 }),
			g.median(func(r turn) float64 { return r.memory }))
	}
}

// verdict sets the goal beside a ratio, which counts as it is printed.
func (t *table) verdict(ratio, goal float64) string {
	if goal == 0 {
		return ""
	}
	t.goals++
	if math.Round(ratio*100) > math.Round(goal*100) {
		return fmt.Sprintf("%.2f missed", goal)
	}
	t.held++
	return fmt.Sprintf("%.2f holds", goal)
}

func (t *table) foot() {
	if t.memory != "" {
		fmt.Fprintf(t.out, "the ratios of %s compare MB\n", t.memory)
	}
	if t.goals > 0 {
		fmt.Fprintf(t.out, "%d of %d goals hold\n", t.held, t.goals)
	}
}
