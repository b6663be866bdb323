package main

import (
	"bytes"
	"errors"
	"fmt"
	"strconv"
	"strings"
	"time"
)

// token is the gateway's, which the clients know.
const token = "bench-token"

// The models that clients ask for. Each is mapped to one of a provider, and with it goes the
// protocol that is spoken there.
const (
	modelChat      = "copied"
	modelMessages  = "copied-messages"
	modelConverted = "converted"
)

// goals are the ratios to revproxy that a target is to hold, over plain HTTP and over TLS. Zero
// means that none is set.
var goals = []struct {
	workload, target string
	plain, tls       float64
}{
	{"json2k", "ours", 1.00, 1.05},
	{"json200k", "ours", 1.25, 1.15},
	{"sse", "ours", 1.00, 1.10},
	{"paced", "ours", 1.05, 0},
	{"msgjson", "ours", 1.00, 0},
	{"msgjson", "converted", 1.40, 0},
	{"msgsse", "ours", 0.90, 0},
	{"msgsse", "converted", 2.00, 0},
	{"slow", "ours", 0.85, 0},
}

// goal returns the ratio that a target is to hold in a workload; 0 if there is none.
func goal(workload, target string, tls bool) float64 {
	for _, g := range goals {
		switch {
		case g.workload != workload || g.target != target:
		case tls:
			return g.tls
		default:
			return g.plain
		}
	}
	return 0
}

// workload is one kind of exchange.
type workload struct {
	name      string
	messages  bool          // the client speaks Messages, else Chat Completions
	stream    bool          // the answer is one
	size      int           // of the request, about
	chunks    int           // of the stream
	batch     int           // of them, sent with one write
	gap       time.Duration // between writes; with one, latency is the age of a chunk, not the time of a request
	conns     int           // at a time
	ramp      time.Duration // over which the connections begin
	least     time.Duration // of a turn, and of the warm-up before it
	memory    bool          // what the ratio compares, else CPU time
	onRequest bool          // runs only if -only names it

	path      string             // that the client asks for
	model     string             // that the client asks for
	check     func([]byte) error // of an answer that was copied
	converted func([]byte) error // of one that was converted; nil where no other protocol is spoken
}

// workloads returns all there are.
func workloads() []*workload {
	all := []*workload{
		{name: "json2k", size: 2 << 10, conns: 32},
		{name: "json200k", size: 200 << 10, conns: 32},
		// Each write of the upstream holds several chunks: how many of them a proxy finds at a read
		// must not depend on how busy the machine is.
		{name: "sse", stream: true, size: 2 << 10, chunks: 200, batch: 12, conns: 32},
		// As models write: each chunk comes alone.
		{
			name: "paced", stream: true, size: 2 << 10, chunks: 50, batch: 1, gap: 20 * time.Millisecond,
			conns: 100, ramp: 500 * time.Millisecond, least: 2 * time.Second,
		},
		{name: "msgjson", messages: true, size: 4 << 10, conns: 32},
		{name: "msgsse", messages: true, stream: true, size: 4 << 10, chunks: 100, batch: 12, conns: 32},
		{
			name: "slow", stream: true, size: 2 << 10, chunks: 30, batch: 1, gap: 100 * time.Millisecond,
			conns: 1000, ramp: 2 * time.Second, least: 4 * time.Second, memory: true, onRequest: true,
		},
	}
	for _, w := range all {
		w.complete()
	}
	return all
}

// named returns a workload, or nil if there is none of this name.
func named(name string) *workload {
	for _, w := range workloads() {
		if w.name == name {
			return w
		}
	}
	return nil
}

// names returns those of all workloads.
func names() []string {
	var all []string
	for _, w := range workloads() {
		all = append(all, w.name)
	}
	return all
}

// complete sets what follows from the rest.
func (w *workload) complete() {
	w.path, w.model = "/v1/chat/completions", modelChat
	if w.messages {
		w.path, w.model = "/v1/messages", modelMessages
	}
	switch {
	case w.messages && w.stream:
		w.converted = func(got []byte) error {
			return errors.Join(count(got, `"text_delta"`, w.chunks), count(got, "event: message_stop", 1))
		}
	case w.messages:
		w.converted = func(got []byte) error {
			return errors.Join(count(got, `"type":"message"`, 1), count(got, `"output_tokens":420`, 1))
		}
	}
	if w.gap > 0 { // the upstream writes the time into each chunk
		w.check = func(got []byte) error { return count(got, `"delta":{"content":"`, w.chunks) }
		return
	}
	want := bytes.Join(w.frames(w.messages), nil)
	w.check = func(got []byte) error {
		if !bytes.Equal(got, want) {
			return errors.New("other bytes than the upstream's")
		}
		return nil
	}
}

func count(got []byte, what string, n int) error {
	if have := bytes.Count(got, []byte(what)); have != n {
		return fmt.Errorf("%d of %s instead of %d", have, what, n)
	}
	return nil
}

// mark stands in the last message of a request. The upstream looks for it.
func (w *workload) mark() string { return "[[" + w.name + "]]" }

// request renders what the client sends: an agent's conversation where it is long.
func (w *workload) request(model string) []byte {
	const schema = `{"type":"object","properties":{"path":{"type":"string","description":"where"},` +
		`"limit":{"type":"integer"}},"required":["path"]}`
	tool := `{"type":"function","function":{"name":"tool_%d","description":%s,"parameters":%s}}`
	if w.messages {
		tool = `{"name":"tool_%d","description":%s,"input_schema":%s}`
	}
	var b strings.Builder
	fmt.Fprintf(&b, `{"model":%q,"max_tokens":1024,"temperature":0.7,"stream":%t,`, model, w.stream)
	if w.stream && !w.messages {
		b.WriteString(`"stream_options":{"include_usage":true},`)
	}
	b.WriteString(`"tools":[`)
	for i := range 1 + min(11, w.size/10_000) {
		if i > 0 {
			b.WriteByte(',')
		}
		fmt.Fprintf(&b, tool, i, quoted(100, i), schema)
	}
	b.WriteString(`],"messages":[`)
	for i := 0; b.Len() < w.size-1500; i++ {
		n := min(4000, w.size-1500-b.Len())
		fmt.Fprintf(&b, `{"role":"user","content":%s},{"role":"assistant","content":%s},`,
			quoted(n/4, 2*i), quoted(n*2/3, 2*i+1))
	}
	fmt.Fprintf(&b, `{"role":"user","content":%s}]}`, strconv.Quote(text(300, 7)+" "+w.mark()))
	return []byte(b.String())
}

// frames renders the answer in the pieces that the upstream writes.
func (w *workload) frames(messages bool) [][]byte {
	switch {
	case w.stream && messages:
		return w.messagesStream()
	case w.stream:
		return w.chatStream()
	case messages:
		return [][]byte{[]byte(`{"id":"msg_1","type":"message","role":"assistant","model":"copied",` +
			`"content":[{"type":"text","text":` + quoted(1900, 11) + `}],` +
			`"stop_reason":"end_turn","stop_sequence":null,"usage":{"input_tokens":384,` +
			`"cache_creation_input_tokens":0,"cache_read_input_tokens":128,"output_tokens":420}}`)}
	default:
		return [][]byte{[]byte(`{"id":"chatcmpl-1","object":"chat.completion","created":1760000000,` +
			`"model":"copied","choices":[{"index":0,"message":{"role":"assistant",` +
			`"content":` + quoted(1900, 11) + `,"refusal":null},"logprobs":null,"finish_reason":"stop"}],` +
			`"usage":{"prompt_tokens":512,"completion_tokens":420,"total_tokens":932,` +
			`"prompt_tokens_details":{"cached_tokens":128},"completion_tokens_details":{"reasoning_tokens":0}}}`)}
	}
}

func (w *workload) chatStream() [][]byte {
	chunk := func(rest string) string {
		return `data: {"id":"chatcmpl-1","object":"chat.completion.chunk","created":1760000000,` +
			`"model":"copied","system_fingerprint":"fp_1",` + rest + "}\n\n"
	}
	choice := func(delta, finish string) string {
		return chunk(`"choices":[{"index":0,"delta":{` + delta + `},"logprobs":null,"finish_reason":` + finish + `}]`)
	}
	first := choice(`"role":"assistant"`, "null")
	last := choice("", `"stop"`) +
		chunk(`"choices":[],"usage":{"prompt_tokens":512,"completion_tokens":420,"total_tokens":932}`) +
		"data: [DONE]\n\n"
	return w.batches(first, last, func(text string) string { return choice(`"content":`+text, "null") })
}

func (w *workload) messagesStream() [][]byte {
	event := func(name, rest string) string {
		return "event: " + name + "\ndata: {\"type\":\"" + name + "\"" + rest + "}\n\n"
	}
	first := event("message_start", `,"message":{"id":"msg_1","type":"message","role":"assistant",`+
		`"model":"copied","content":[],"stop_reason":null,"stop_sequence":null,`+
		`"usage":{"input_tokens":384,"cache_read_input_tokens":128,"output_tokens":1}}`) +
		event("content_block_start", `,"index":0,"content_block":{"type":"text","text":""}`)
	last := event("content_block_stop", `,"index":0`) +
		event("message_delta", `,"delta":{"stop_reason":"end_turn","stop_sequence":null},"usage":{"output_tokens":420}`) +
		event("message_stop", "")
	return w.batches(first, last, func(text string) string {
		return event("content_block_delta", `,"index":0,"delta":{"type":"text_delta","text":`+text+`}`)
	})
}

// stampLen is the length of a time in a chunk, in nanoseconds.
const stampLen = 19

// batches puts the chunks of a stream into pieces, between a first and a last. Where each comes at
// a time of its own there is room for that time in it, behind an @.
func (w *workload) batches(first, last string, chunk func(text string) string) [][]byte {
	all := [][]byte{[]byte(first)}
	for i := range w.chunks {
		s := quoted(18, i)
		if w.gap > 0 {
			s = `"@` + strings.Repeat("0", stampLen) + s[1:]
		}
		if i%w.batch == 0 {
			all = append(all, nil)
		}
		all[len(all)-1] = append(all[len(all)-1], chunk(s)...)
	}
	return append(all, []byte(last))
}

// text is like what models and agents write: code and prose, of which about one byte in thirty has
// to be escaped. It is the same for the same seed.
func text(n, seed int) string {
	var b strings.Builder
	for i := seed; b.Len() < n; i = i*5 + 3 {
		w := words[uint(i)/7%uint(len(words))]
		b.WriteString(w)
		if len(w) > 20 || strings.HasPrefix(w, "\t") {
			b.WriteByte('\n')
		} else {
			b.WriteByte(' ')
		}
	}
	return strings.ToValidUTF8(b.String()[:n], "")
}

var words = strings.Split(`func (r *Reader) Read(p []byte) (int, error) {|	if err != nil {|`+
	`		return 0, fmt.Errorf("read %q: %w", name, err)|	}|`+
	`the|handler|copies|what|has|come|before|more|is|waited|for|naïve|café|日本|→|a <tag> & "quoted" word|`+
	`path/to/file.go:42|C:\dir|`, "|")

// quoted is a text as JSON has it, for in this text Go's quoting is JSON's.
func quoted(n, seed int) string { return strconv.Quote(text(n, seed)) }
