package main

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"os"
	"slices"
	"strings"
	"testing"
	"time"
)

// TestMain lets the test's own program be the children too.
func TestMain(m *testing.M) {
	if isChild() {
		serveChild()
		os.Exit(0)
	}
	os.Exit(m.Run())
}

// short makes a run of one turn for each target, as short and small as can be.
func short(t *testing.T, args ...string) *config {
	t.Setenv("GORACE", "atexit_sleep_ms=0") // else each child waits a second before it ends
	c, err := parse(append(args, "-rounds=1", "-time=10ms"))
	if err != nil {
		t.Fatal(err)
	}
	for _, w := range c.workloads {
		w.conns, w.ramp, w.least, w.gap = 2, 0, 0, min(w.gap, time.Millisecond)
	}
	return c
}

// TestRun sends every workload that runs by default through all targets. It asserts nothing about
// times: the clients check the answers, and the table has to name each row and its goal.
func TestRun(t *testing.T) {
	program, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	for _, tls := range []bool{false, true} {
		c := short(t, "-against="+program, fmt.Sprintf("-tls=%t", tls))
		var out strings.Builder
		if err := c.run(&out); err != nil {
			t.Fatal(err)
		}
		t.Logf("\n%s", out.String())
		for _, w := range c.workloads {
			for _, g := range c.targets(w) {
				row := fmt.Sprintf("\n%-12s %-11s ", c.label(w), g.name)
				_, rest, found := strings.Cut(out.String(), row)
				if !found {
					t.Errorf("the table has no row %q", row[1:])
				}
				line, _, _ := strings.Cut(rest, "\n")
				if goal := goal(w.name, g.name, tls); goal > 0 && !strings.Contains(line, fmt.Sprintf(" %.2f ", goal)) {
					t.Errorf("%s %s: %q does not name the goal %.2f", w.name, g.name, line, goal)
				}
			}
		}
	}
}

// TestWrongAnswer shows that a wrong answer ends the run and is named.
func TestWrongAnswer(t *testing.T) {
	c := short(t, "-only=json2k")
	c.workloads[0].check = func([]byte) error { return errors.New("not what was asked") }
	err := c.run(io.Discard)
	if err == nil || !strings.Contains(err.Error(), "json2k: revproxy: wrong answer, status 200: not what was asked") {
		t.Error(err)
	}
}

// TestProfile tells whether the profile of a library's process is written.
func TestProfile(t *testing.T) {
	dir := t.TempDir()
	if err := short(t, "-only=json2k", "-profile="+dir).run(io.Discard); err != nil {
		t.Fatal(err)
	}
	if f, err := os.Stat(dir + "/ours.json2k.pprof"); err != nil || f.Size() == 0 {
		t.Errorf("profile: %v, %v", f, err)
	}
}

func TestParse(t *testing.T) {
	for _, test := range []struct {
		args, want string // names of the workloads, or what the error says
	}{
		{"", "json2k json200k sse paced msgjson msgsse"},
		{"-tls", "json2k json200k sse"},
		{"-only=slow,sse", "slow sse"},
		{"-tls -only=paced", "paced"},
		{"-only=sse,chat", `no workload "chat"; name some of json2k, json200k, sse, paced, msgjson, msgsse, slow`},
		{"-rounds=0", "-rounds 0: give 1 or more"},
		{"-time=0s", "-time 0s: give more"},
		{"sse", `"sse" is no flag; name workloads with -only`},
	} {
		c, err := parse(strings.Fields(test.args))
		if err != nil {
			if !strings.Contains(err.Error(), test.want) {
				t.Errorf("%s: %v", test.args, err)
			}
			continue
		}
		var got []string
		for _, w := range c.workloads {
			got = append(got, w.name)
		}
		if strings.Join(got, " ") != test.want {
			t.Errorf("%s: %q instead of %q", test.args, got, test.want)
		}
	}
}

// TestGoals tells whether each goal is one of a row that the table can have.
func TestGoals(t *testing.T) {
	for _, g := range goals {
		w := named(g.workload)
		if w == nil {
			t.Errorf("there is no workload %q", g.workload)
			continue
		}
		if !slices.ContainsFunc(new(config).targets(w), func(t *target) bool { return t.name == g.target }) {
			t.Errorf("%s has no target %q", g.workload, g.target)
		}
	}
}

func TestVerdict(t *testing.T) {
	var tab table
	for _, test := range []struct {
		ratio, goal float64
		want        string
	}{
		{1.004, 1.00, "1.00 holds"},
		{1.006, 1.00, "1.00 missed"},
		{0.84, 0.85, "0.85 holds"},
		{3.00, 0, ""},
	} {
		if got := tab.verdict(test.ratio, test.goal); got != test.want {
			t.Errorf("%v of %v: %q instead of %q", test.ratio, test.goal, got, test.want)
		}
	}
	if tab.goals != 3 || tab.held != 2 {
		t.Errorf("%d of %d goals hold instead of 2 of 3", tab.held, tab.goals)
	}
}

// TestCheck shows that an answer that lacks something is seen.
func TestCheck(t *testing.T) {
	for _, w := range workloads() {
		answer := bytes.Join(w.frames(w.messages), nil)
		half := answer[:len(answer)/2]
		if err := w.check(answer); err != nil {
			t.Errorf("%s: %v", w.name, err)
		}
		if w.check(half) == nil || w.converted != nil && w.converted(half) == nil {
			t.Errorf("%s: half an answer is taken for a whole one", w.name)
		}
	}
}
