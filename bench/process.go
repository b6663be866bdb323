package main

import (
	"bufio"
	"crypto/tls"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"log"
	"net"
	"net/http"
	"net/url"
	"os"
	"os/exec"
	"runtime/metrics"
	"runtime/pprof"
	"syscall"
	"time"
)

// childEnv holds, in a process that this program starts, what the process is to be.
const childEnv = "APEXPROXY_BENCH_CHILD"

// child says what a process is to be. It travels as JSON, so that a build of another commit ignores
// what it does not know.
type child struct {
	Role     string        // upstream, revproxy, floor or ours
	Upstream string        // where a proxy sends its requests
	Workload string        // what the upstream answers
	Gap      time.Duration // the workload's
	TLS      bool          // the upstream speaks it
	Profile  string        // file for a CPU profile; none if empty
}

// process is a child that runs. It says its address first and then, for every line that it reads,
// what it has used so far. It ends when its standard input does, and so never outlives its parent.
type process struct {
	addr string
	cmd  *exec.Cmd
	in   io.WriteCloser
	out  *bufio.Scanner
}

// start starts a child: this program, or the one given.
func start(program string, c child) (*process, error) {
	if program == "" {
		var err error
		if program, err = os.Executable(); err != nil {
			return nil, err
		}
	}
	how, err := json.Marshal(c)
	if err != nil {
		return nil, err
	}
	p := &process{cmd: exec.Command(program)}
	p.cmd.Env = append(os.Environ(), childEnv+"="+string(how))
	p.cmd.Stderr = os.Stderr
	if p.in, err = p.cmd.StdinPipe(); err != nil {
		return nil, err
	}
	out, err := p.cmd.StdoutPipe()
	if err != nil {
		return nil, err
	}
	p.out = bufio.NewScanner(out)
	if err := p.cmd.Start(); err != nil {
		return nil, err
	}
	if p.addr, err = p.line(); err == nil {
		_, _, err = net.SplitHostPort(p.addr)
	}
	if err != nil {
		_ = p.stop()
		return nil, fmt.Errorf("%s does not serve as %s: %w", program, c.Role, err)
	}
	return p, nil
}

func (p *process) line() (string, error) {
	if !p.out.Scan() {
		return "", errors.Join(errors.New("the process ended early"), p.out.Err())
	}
	return p.out.Text(), nil
}

// stop lets the process end and waits for it.
func (p *process) stop() error {
	_ = p.in.Close()
	for p.out.Scan() { // what it still has to say must not keep it
	}
	return p.cmd.Wait()
}

// spent is what a process has used since it began: nanoseconds of CPU time and objects; and the
// bytes that its Go runtime holds now.
type spent struct{ cpu, allocs, memory float64 }

func (p *process) spent() (s spent, err error) {
	if _, err := fmt.Fprintln(p.in); err != nil {
		return s, err
	}
	line, err := p.line()
	if err != nil {
		return s, err
	}
	_, err = fmt.Sscan(line, &s.cpu, &s.allocs, &s.memory)
	return s, err
}

func isChild() bool { return os.Getenv(childEnv) != "" }

// serveChild is the main function of a child.
func serveChild() {
	var c child
	err := json.Unmarshal([]byte(os.Getenv(childEnv)), &c)
	if err == nil {
		err = c.serve(os.Stdin, os.Stdout)
	}
	if err != nil {
		log.Fatalf("%s: %v", c.Role, err)
	}
}

// serve plays the role until in ends.
func (c child) serve(in io.Reader, out io.Writer) error {
	if c.Profile != "" {
		f, err := os.Create(c.Profile)
		if err != nil {
			return err
		}
		defer f.Close()
		if err := pprof.StartCPUProfile(f); err != nil {
			return err
		}
		defer pprof.StopCPUProfile()
	}
	addr, err := c.listen()
	if err != nil {
		return err
	}
	fmt.Fprintln(out, addr)
	asked := bufio.NewScanner(in)
	for asked.Scan() {
		if err := tellSpent(out); err != nil {
			return err
		}
	}
	return asked.Err()
}

// listen begins to play the role on a free port of loopback.
func (c child) listen() (addr string, err error) {
	s := &http.Server{}
	if s.Handler, err = c.handler(); err != nil {
		return "", err
	}
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		return "", err
	}
	if !c.TLS {
		go func() { _ = s.Serve(l) }()
		return l.Addr().String(), nil
	}
	cert, err := certificate()
	if err != nil {
		return "", err
	}
	s.TLSConfig = &tls.Config{Certificates: []tls.Certificate{cert}, MinVersion: tls.VersionTLS13}
	go func() { _ = s.ServeTLS(l, "", "") }()
	return l.Addr().String(), nil
}

func (c child) handler() (http.Handler, error) {
	to, err := url.Parse(c.Upstream)
	if err != nil {
		return nil, err
	}
	switch c.Role {
	case "upstream":
		w := named(c.Workload)
		if w == nil {
			return nil, fmt.Errorf("there is no workload %q", c.Workload)
		}
		w.gap = c.Gap
		return upstream(w), nil
	case "revproxy":
		return reverseProxy(to), nil
	case "floor":
		return floor(to), nil
	case "ours":
		return ours(to)
	default:
		return nil, errors.New("there is no such role")
	}
}

// tellSpent writes the line that process.spent reads.
func tellSpent(out io.Writer) error {
	var u syscall.Rusage
	if err := syscall.Getrusage(syscall.RUSAGE_SELF, &u); err != nil {
		return err
	}
	s := []metrics.Sample{
		{Name: "/gc/heap/allocs:objects"},
		{Name: "/memory/classes/total:bytes"},
		{Name: "/memory/classes/heap/released:bytes"},
	}
	metrics.Read(s)
	cpu, objects := u.Utime.Nano()+u.Stime.Nano(), s[0].Value.Uint64()
	_, err := fmt.Fprintln(out, cpu, objects, s[1].Value.Uint64()-s[2].Value.Uint64())
	return err
}
