// Command bench measures what the proxy costs beside an httputil.ReverseProxy at its best: the CPU
// time that the process of each uses for a request. Client, upstream and proxies are processes of
// their own, so that only the proxy's work is in the number.
//
// The command starts itself several times over for every workload: an upstream, a ReverseProxy
// ("revproxy"), a second one that is the same ("control"), the least that net/http can do
// ("floor"), and the library, copying ("ours") and, where there is another protocol to speak,
// converting ("converted"). They take turns under the same load, one turn each a round, and each
// round begins with another of them. A ratio is a target's number divided by revproxy's of the same
// round; the table shows the median of all rounds, and beside it the goal where there is one.
//
// It runs where getrusage is: on Linux, on macOS and on the BSDs.
package main

import (
	"errors"
	"flag"
	"fmt"
	"io"
	"log"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"time"
)

func main() {
	log.SetFlags(0)
	log.SetPrefix("bench: ")
	if isChild() {
		serveChild()
		return
	}
	c, err := parse(os.Args[1:])
	if err == nil {
		err = c.run(os.Stdout)
	}
	if err != nil {
		log.Fatal(err)
	}
}

// config is what the command line says.
type config struct {
	rounds    int
	time      time.Duration
	tls       bool
	against   string
	profile   string
	workloads []*workload
}

// parse reads the command line. Without -only it takes each workload that has a goal, but none that
// has to be asked for.
func parse(args []string) (*config, error) {
	var c config
	flags := flag.NewFlagSet("bench", flag.ExitOnError)
	flags.IntVar(&c.rounds, "rounds", 7, "turns of each target in each workload")
	flags.DurationVar(&c.time, "time", 600*time.Millisecond, "measured time of a turn")
	only := flags.String("only", "", "comma-separated `workloads` of "+strings.Join(names(), ", ")+
		"; without it, all that have a goal but slow")
	flags.BoolVar(&c.tls, "tls", false, "reach the upstream over TLS and HTTP/2, as in production")
	flags.StringVar(&c.against, "against", "", "this `program`, built at another commit: "+
		"its library takes part as \"before\"")
	flags.StringVar(&c.profile, "profile", "", "write CPU profiles of the library's processes to this `folder`")
	_ = flags.Parse(args) // exits where it fails
	switch {
	case flags.NArg() > 0:
		return nil, fmt.Errorf("%q is no flag; name workloads with -only", flags.Arg(0))
	case c.rounds < 1:
		return nil, fmt.Errorf("-rounds %d: give 1 or more", c.rounds)
	case c.time <= 0:
		return nil, fmt.Errorf("-time %v: give more than nothing, such as 600ms", c.time)
	}
	if *only == "" {
		c.workloads = slices.DeleteFunc(workloads(), func(w *workload) bool {
			return w.onRequest || goal(w.name, "ours", c.tls) == 0
		})
		return &c, nil
	}
	for name := range strings.SplitSeq(*only, ",") {
		w := named(strings.TrimSpace(name))
		if w == nil {
			return nil, fmt.Errorf("-only: there is no workload %q; name some of %s", name, strings.Join(names(), ", "))
		}
		c.workloads = append(c.workloads, w)
	}
	return &c, nil
}

// run measures one workload after the other and prints each as soon as it is done.
func (c *config) run(out io.Writer) error {
	if c.profile != "" {
		if err := os.MkdirAll(c.profile, 0o777); err != nil {
			return fmt.Errorf("-profile: %w", err)
		}
	}
	t := table{out: out}
	t.head()
	for _, w := range c.workloads {
		targets, err := c.measure(w)
		if err != nil {
			return fmt.Errorf("%s: %w", c.label(w), err)
		}
		t.add(c.label(w), w, targets, c.tls)
	}
	t.foot()
	return nil
}

// label names a workload in the table and in the names of profiles.
func (c *config) label(w *workload) string {
	if c.tls {
		return w.name + "+tls"
	}
	return w.name
}

// measure starts an upstream and all targets, lets them take their turns and stops them.
func (c *config) measure(w *workload) (targets []*target, err error) {
	up, err := start("", child{Role: "upstream", Workload: w.name, Gap: w.gap, TLS: c.tls})
	if err != nil {
		return nil, err
	}
	defer func() { err = errors.Join(err, up.stop()) }()
	url := "http://" + up.addr
	if c.tls {
		url = "https://" + up.addr
	}
	targets = c.targets(w)
	for _, t := range targets {
		how := child{Role: t.role, Upstream: url}
		if c.profile != "" && t.role == "ours" {
			how.Profile = filepath.Join(c.profile, t.name+"."+c.label(w)+".pprof")
		}
		if t.process, err = start(t.program, how); err != nil {
			if t.program != "" {
				err = fmt.Errorf("-against: %w; build it with go build -o before . in bench of the other commit "+
					"and give ./before", err)
			}
			return nil, fmt.Errorf("%s: %w", t.name, err)
		}
		defer func() { err = errors.Join(err, t.process.stop()) }()
	}
	for round := range c.rounds {
		for i := range targets {
			t := targets[(round+i)%len(targets)]
			if err := t.turn(w, c.time); err != nil {
				return nil, fmt.Errorf("%s: %w", t.name, err)
			}
		}
	}
	return targets, nil
}

// targets lists who takes part in a workload. The first is the one that all others are divided by.
func (c *config) targets(w *workload) []*target {
	all := []*target{
		{name: "revproxy", role: "revproxy"},
		{name: "control", role: "revproxy"},
		{name: "floor", role: "floor"},
		{name: "ours", role: "ours"},
	}
	if c.against != "" {
		all = append(all, &target{name: "before", role: "ours", program: c.against})
	}
	for _, t := range all {
		t.model, t.check = w.model, w.check
	}
	if w.converted == nil {
		return all
	}
	all = append(all, &target{name: "converted", role: "ours", model: modelConverted, check: w.converted})
	if c.against != "" {
		all = append(all, &target{name: "conv-before", role: "ours", program: c.against,
			model: modelConverted, check: w.converted})
	}
	return all
}
