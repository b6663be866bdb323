// Quickstart shows what the proxy does without an account, a network or any
// configuration: it starts a fake Cloudflare AI Gateway and a fake provider in
// this process, puts the proxy before them, and sends it one request of every
// kind. For each it prints what the client sent, what arrived, what came back
// and what a reporter got. It checks all of that and exits with 1 on any
// surprise.
package main

import (
	"bufio"
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"strconv"
	"strings"
	"time"

	"github.com/tidwall/gjson"

	"github.com/loadchange/apexproxy"
	"github.com/loadchange/apexproxy/apexproxytest"
)

const gatewayToken = "fake-gateway-token"

func main() {
	if err := run(os.Stdout); err != nil {
		fmt.Fprintln(os.Stderr, "quickstart:", err)
		os.Exit(1)
	}
}

func run(out io.Writer) error {
	ctx, cancel := context.WithTimeout(context.Background(), 30*time.Second)
	defer cancel()
	s, err := newStage(out)
	if err != nil {
		return err
	}
	defer s.close()
	fmt.Fprintf(out, "proxy     %s  (apexproxy.New, served on loopback)\n", s.proxyURL)
	fmt.Fprintf(out, "gateway   %s  (stands in for gateway.ai.cloudflare.com)\n", s.gateway.URL)
	fmt.Fprintf(out, "upstream  %s  (stands in for zenmux.ai)\n", s.upstream.URL)
	fmt.Fprintln(out, "Nothing leaves this process, and every key below is made up.")

	list, surprises := examples(s.gateway, s.upstream), 0
	for i, e := range list {
		fmt.Fprintf(out, "\n%d. %s\n", i+1, e.title)
		a, err := s.send(ctx, e)
		if err != nil {
			return fmt.Errorf("%d. %s: %w", i+1, e.title, err)
		}
		show(out, e, a)
		for _, surprise := range check(e, a) {
			surprises++
			fmt.Fprintf(out, "  SURPRISE      %s\n", surprise)
		}
	}
	if surprises > 0 {
		return fmt.Errorf("%d surprises: look for SURPRISE above", surprises)
	}
	fmt.Fprintf(out, "\nAll %d went as they should.\n", len(list))
	return nil
}

// stage is the proxy with what stands around it.
type stage struct {
	gateway  *apexproxytest.Gateway
	upstream *apexproxytest.Upstream
	proxy    *apexproxy.Proxy
	server   *http.Server
	proxyURL string
	client   *http.Client
	records  chan apexproxy.Record
}

func newStage(out io.Writer) (*stage, error) {
	s := &stage{
		gateway:  apexproxytest.NewGateway(apexproxytest.GatewayConfig{Token: gatewayToken}),
		upstream: apexproxytest.NewTLSUpstream(),
		client:   &http.Client{Transport: &http.Transport{DisableCompression: true}},
		records:  make(chan apexproxy.Record, 16),
	}
	transport := apexproxy.NewTransport()
	transport.TLSClientConfig = &tls.Config{RootCAs: s.upstream.RootCAs()}

	var err error
	s.proxy, err = apexproxy.New(
		apexproxy.WithGateway(apexproxy.Gateway{BaseURL: s.gateway.BaseURL(), Token: gatewayToken}),
		apexproxy.WithPassthrough(apexproxy.Passthrough{Hosts: []string{s.upstream.Host}}),
		apexproxy.WithTransport(transport),
		apexproxy.WithReporter(apexproxy.ReporterFunc(s.report)),
	)
	if err != nil {
		return nil, err
	}
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		return nil, err
	}
	s.proxyURL = "http://" + listener.Addr().String()
	s.server = &http.Server{Handler: s.proxy, ReadHeaderTimeout: 10 * time.Second}
	go func() {
		if err := s.server.Serve(listener); !errors.Is(err, http.ErrServerClosed) {
			fmt.Fprintln(out, err)
		}
	}()
	return s, nil
}

// report is the whole of a reporter. The proxy calls it after an exchange has
// ended, in a goroutine where it delays nobody.
func (s *stage) report(ctx context.Context, batch []apexproxy.Record) error {
	for _, rec := range batch {
		select {
		case s.records <- rec:
		case <-ctx.Done():
			return ctx.Err()
		}
	}
	return nil
}

func (s *stage) close() {
	ctx, cancel := context.WithTimeout(context.Background(), 5*time.Second)
	defer cancel()
	s.client.CloseIdleConnections()
	_ = s.server.Shutdown(ctx)
	_ = s.proxy.Shutdown(ctx)
	s.gateway.Close()
	s.upstream.Close()
}

// arrival is a request as the gateway or the upstream got it.
type arrival struct {
	at   string // who got it
	url  string
	head http.Header
	body string
}

// answer is all that is known of one exchange when it is over.
type answer struct {
	arrived []arrival
	status  int
	head    http.Header
	body    string
	steps   int // events that were here before the next one was let go
	record  apexproxy.Record
}

// send sends e through the proxy and collects what came of it.
func (s *stage) send(ctx context.Context, e example) (answer, error) {
	s.gateway.Reset()
	s.upstream.Reset()
	var gate *apexproxytest.Gate
	if e.events != nil {
		gate = apexproxytest.Steps(e.events...)
		s.gateway.Fail(gate)
	}
	req, err := http.NewRequestWithContext(ctx, http.MethodPost, s.proxyURL+e.path, strings.NewReader(e.body))
	if err != nil {
		return answer{}, err
	}
	req.Header.Set("Content-Type", "application/json")
	for _, h := range e.header {
		name, value := splitHeader(h)
		req.Header.Set(name, value)
	}
	resp, err := s.client.Do(req)
	if err != nil {
		return answer{}, err
	}
	defer resp.Body.Close()

	a := answer{status: resp.StatusCode, head: resp.Header}
	body := bufio.NewReader(resp.Body)
	if gate != nil && resp.StatusCode == http.StatusOK {
		for range e.events {
			if err := gate.Next(ctx); err != nil {
				return a, err
			}
			event, err := readEvent(body)
			if err != nil {
				return a, err
			}
			a.body += event
			a.steps++
		}
		if err := gate.Next(ctx); err != nil { // no more events
			return a, err
		}
	}
	rest, err := io.ReadAll(body)
	if err != nil {
		return a, err
	}
	a.body += string(rest)
	for _, r := range s.gateway.Requests() {
		a.arrived = append(a.arrived, arrival{"gateway", "http://" + r.Host + r.RequestURI, r.Header, string(r.Body)})
	}
	for _, r := range s.upstream.Requests() {
		a.arrived = append(a.arrived, arrival{"upstream", "https://" + r.Host + r.RequestURI, r.Header, string(r.Body)})
	}
	select {
	case a.record = <-s.records:
		return a, nil
	case <-ctx.Done():
		return a, errors.New("no record came")
	}
}

// readEvent reads up to the empty line that ends an event.
func readEvent(r *bufio.Reader) (string, error) {
	var event strings.Builder
	for {
		line, err := r.ReadString('\n')
		event.WriteString(line)
		if err != nil || line == "\n" {
			return event.String(), err
		}
	}
}

// check compares what came of e with what should have.
func check(e example, a answer) (surprises []string) {
	expect := func(what string, got, want any) {
		if got != want {
			surprises = append(surprises, fmt.Sprintf("%s: got %v, want %v", what, got, want))
		}
	}
	expect("status", a.status, e.status)
	expect("status in the record", a.record.StatusCode, e.status)
	expect("model in the record", a.record.RequestModel, e.model)
	expect("conversion in the record", a.record.Converted, e.converted != nil)
	expect("text of the answer", textOf(a.body), e.text)
	if e.events != nil {
		expect("events one by one", a.steps, len(e.events))
		expect("bytes of the stream", a.body, strings.Join(e.events, ""))
	}
	if e.url == "" {
		expect("requests that went on", len(a.arrived), 0)
		expect("outcome in the record", a.record.Outcome, apexproxy.OutcomeRejected)
		return surprises
	}
	expect("requests that went on", len(a.arrived), 1)
	expect("outcome in the record", a.record.Outcome, apexproxy.OutcomeCompleted)
	if u := a.record.Usage; u == nil {
		expect("usage in the record", "none", "some")
	} else {
		expect("usage in the record", *u, apexproxy.Usage{
			InputTokens:     apexproxytest.InputTokens,
			CacheReadTokens: apexproxytest.CachedTokens,
			OutputTokens:    apexproxytest.OutputTokens,
		})
	}
	for _, got := range a.arrived {
		expect("URL", got.url, e.url)
		for _, h := range e.arrives {
			name, value := splitHeader(h)
			expect(name, strings.Join(got.head.Values(name), ", "), value)
		}
		for name := range got.head {
			if strings.HasPrefix(name, "X-Apex-Ai-Proxy-") {
				expect(name, "sent on", "removed")
			}
		}
		for _, member := range e.converted {
			path, value := splitHeader(member)
			expect(path, gjson.Get(got.body, path).String(), value)
		}
		if e.converted == nil {
			client := strconv.Quote(gjson.Get(e.body, "model").String())
			expect("body", got.body, strings.Replace(e.body, client, strconv.Quote(e.model), 1))
		}
	}
	return surprises
}

// show prints one exchange in the order in which it happened.
func show(out io.Writer, e example, a answer) {
	label := "client sent"
	line := func(format string, args ...any) {
		for _, part := range wrap(fmt.Sprintf(format, args...)) {
			fmt.Fprintf(out, "  %-13s %s\n", label, part)
			label = ""
		}
	}
	line("POST %s", e.path)
	for _, h := range e.header {
		line("%s", h)
	}
	line("%s", e.body)

	for _, got := range a.arrived {
		label = got.at + " got"
		line("POST %s", got.url)
		for _, h := range e.arrives {
			name, _ := splitHeader(h)
			if values := got.head.Values(name); len(values) > 0 {
				line("%s: %s", name, strings.Join(values, ", "))
			} else {
				line("%s: (not there)", name)
			}
		}
		line("%s", got.body)
	}
	if len(a.arrived) == 0 {
		label = "went on"
		line("nothing: the proxy answered")
	}

	label = "came back"
	line("%d %s, %s", a.status, http.StatusText(a.status), a.head.Get("Content-Type"))
	if ps := a.head.Get("Proxy-Status"); ps != "" {
		line("Proxy-Status: %s", ps)
	}
	if a.steps > 0 {
		line("%d events, each of them here before the next one had left", a.steps)
	}
	if e.converted != nil {
		line("%s", a.body)
	}
	line("%q", textOf(a.body))

	label = "recorded"
	rec := a.record
	end := string(rec.Outcome)
	if rec.ErrorType != "" {
		end += " (" + rec.ErrorType + ")"
	}
	if u := rec.Usage; u != nil {
		end += fmt.Sprintf(", %d tokens in (%d of them cached), %d out", u.InputTokens, u.CacheReadTokens, u.OutputTokens)
	}
	line("%s %s, %d %s", rec.Mode, rec.Operation, rec.StatusCode, end)
	if rec.Provider != "" {
		line("provider %s, model %s, sent as %s", rec.Provider, rec.ClientModel, rec.RequestModel)
	}
}

// wrap breaks s at commas, so that every line is shorter than 100 columns.
func wrap(s string) (lines []string) {
	const width = 83
	for len(s) > width {
		i := strings.LastIndexByte(s[:width], ',') + 1
		if i == 0 {
			i = width
		}
		lines, s = append(lines, s[:i]), s[i:]
	}
	return append(lines, s)
}

// textOf returns what an answer says: of a completion or a message, whole or
// streamed, or of an error.
func textOf(body string) string {
	var text strings.Builder
	for line := range strings.Lines(body) {
		data := strings.TrimPrefix(line, "data: ")
		for _, path := range []string{"choices.0.message.content", "content.0.text", "delta.text", "error.message"} {
			text.WriteString(gjson.Get(data, path).String())
		}
	}
	return text.String()
}

// splitHeader splits "name: value", as curl's -H takes it.
func splitHeader(h string) (name, value string) {
	name, value, _ = strings.Cut(h, ":")
	return name, strings.TrimSpace(value)
}
