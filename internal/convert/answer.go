package convert

import (
	"io"

	"github.com/loadchange/apexproxy/internal/rawjson"
	"github.com/loadchange/apexproxy/internal/sse"
	"github.com/loadchange/apexproxy/internal/usage"
)

// An Answer takes a model's answer piece by piece and writes it in the client's protocol, as events
// or as one document. The calls come in this order: Start, then for each block Open, any number of
// Delta or one Input, Close, then End; or Fail at any point, which ends it. Blocks do not overlap:
// the source holds back what a client's protocol could not interleave. An implementation appends to
// its buffer and allocates nothing per Delta.
type Answer interface {
	Start(Usage)
	Open(Block)
	Delta(rawjson.Text)  // a piece of the open block; of a call, of the text of its arguments
	Input(rawjson.Value) // all arguments of a call, an object, in the place of its Deltas
	Close(*Carry)        // of a thinking block with what it has to take along, else nil
	End(*Ending)
	Fail(*Error)
	Ping() // says that the upstream is still at work
}

// A Block is one part of an answer.
type Block struct {
	Kind     BlockKind
	ID, Name rawjson.Text // of a call, as the client knows them
}

// BlockKind says what a block is.
type BlockKind uint8

// The kinds.
const (
	NoBlock BlockKind = iota
	ThinkingBlock
	TextBlock
	RefusalBlock // a text that says why there is none
	CallBlock
)

// Usage is what an answer cost. At its start the output is not known.
type Usage struct {
	usage.Usage
	Tier string // of the service, in Anthropic's words; empty when the upstream did not say
}

// An Ending says why an answer ended, and what it cost.
type Ending struct {
	Reason   StopReason
	Sequence string       // the stop sequence that was met
	Refusal  rawjson.Text // the upstream's explanation of a refusal, nil if there is none
	Usage    Usage
}

// StopReason is why an answer ended.
type StopReason uint8

// The reasons. Sequence is one that the client asked for.
const (
	EndTurn StopReason = iota
	MaxTokens
	ToolUse
	StopSequence
	Refused
)

// buffer is what an Answer, or a request, is appended to.
type buffer struct{ out []byte }

func (b *buffer) str(s string)        { b.out = append(b.out, s...) }
func (b *buffer) text(s rawjson.Text) { b.out = append(b.out, s...) }

// A source reads an upstream's answer in its protocol and drives an Answer.
type source interface {
	// event takes one event of a stream, document an answer that is one JSON document, end the end
	// of the body. None of them does anything once the answer has ended.
	event(sse.Event)
	document([]byte)
	end()
	fail(*Error)
	state() *progress
}

// progress is how far an answer has come.
type progress struct {
	started bool   // something was written
	ended   bool   // all was
	err     *Error // with which it ended
	held    int    // bytes that wait
}

const (
	maxEvent = 16 << 20 // of the upstream; more is an error
	maxHeld  = 16 << 20 // text and arguments that wait for a tool call to end
	maxDoc   = 32 << 20 // a document in place of a stream
	readSize = 8 << 10
	keepCap  = 64 << 10 // the largest output buffer kept from read to read
	maxIdle  = 100      // empty reads in a row
)

// Events is the answer to a streamed request, as events of the client's protocol: an io.Reader that
// converts as it is read. It starts no goroutine and does not close its source. It is not safe for
// concurrent use.
//
// It ends where the upstream's protocol says that it ends, without waiting for the end of the body,
// which may then have bytes left. There is no timer: an upstream that goes silent after its finish
// reason is waited for.
type Events struct {
	to       *buffer
	answer   Answer
	from     source
	at       *progress // of from
	src      io.Reader
	err      error // the source's, other than io.EOF
	p        sse.Parser
	take     func(sse.Event)
	in       []byte
	doc      []byte
	read     int // how much of the output has been read
	comments int
	idle     int
	form     form
	charge   func(int64) error
	charged  int64
}

// form says what the answer turned out to be.
type form uint8

const (
	unknown form = iota
	stream
	document
)

// Events converts an upstream's streamed answer of status 2xx. See section 3 of the conversion
// specification.
func (c *Conversion) Events(src io.Reader) *Events {
	c.body = nil
	to := new(buffer)
	answer := c.client.events(to, c)
	from := c.upstream.source(c, answer, false)
	e := &Events{to: to, answer: answer, from: from, at: from.state(), src: src, in: make([]byte, readSize)}
	e.p.Max = maxEvent
	e.take = func(ev sse.Event) {
		if e.p.Skipped() == 0 { // what follows a lost event must not look whole; feed reports it
			from.event(ev)
		}
	}
	return e
}

// Charge sets what is asked before more memory is held for the stream, with the number of further
// bytes. An error of it ends the stream. It is asked for large steps only. Nil, the default, allows
// everything up to the fixed bounds.
func (e *Events) Charge(charge func(n int64) error) { e.charge = charge }

// account asks for what is held beyond what was asked for.
func (e *Events) account() {
	held := int64(cap(e.doc) + e.p.Held() + e.at.held + cap(e.to.out))
	if e.charge == nil || e.at.ended || held < e.charged+keepCap {
		return
	}
	if e.charge(held-e.charged) != nil {
		e.from.fail(overloaded("the proxy is holding as much as it may: try again"))
		return
	}
	e.charged = held
}

// Start reads until the first payload is known, and returns an error while nothing has been
// written: then a status can still be given, and Read returns io.EOF. It may wait for as long as
// the upstream does. A document in place of a stream is read whole, up to 32 MiB. Without Start
// such an error is the first event.
func (e *Events) Start() *Error {
	for !e.at.started && !e.at.ended {
		e.step()
	}
	if !e.at.started {
		e.to.out = nil
		return e.at.err
	}
	return nil
}

// Read implements [io.Reader]. It reads its source once, and again only while nothing has come out
// of it. Whatever goes wrong becomes an error in the client's protocol, followed by io.EOF; Read
// returns no other error.
func (e *Events) Read(p []byte) (int, error) {
	if len(p) == 0 {
		return 0, nil
	}
	for e.read == len(e.to.out) {
		if e.at.ended {
			return 0, io.EOF
		}
		e.read, e.to.out = 0, e.to.out[:0]
		if cap(e.to.out) > keepCap {
			e.to.out = nil
		}
		e.step()
	}
	n := copy(p, e.to.out[e.read:])
	e.read += n
	return n, nil
}

// Buffered returns the bytes that the next Read has without reading the source.
func (e *Events) Buffered() int { return len(e.to.out) - e.read }

// Err returns the read error of the source, if one other than io.EOF has ended the stream.
func (e *Events) Err() error { return e.err }

// Failed returns the error that ended the stream, nil while there is none or when it ended well.
func (e *Events) Failed() *Error { return e.at.err }

// step reads the source once.
func (e *Events) step() {
	n, err := e.src.Read(e.in)
	e.feed(e.in[:n])
	e.account()
	switch {
	case n > 0:
		e.idle = 0
	case err == nil:
		if e.idle++; e.idle > maxIdle {
			err = io.ErrNoProgress
		}
	}
	if err == nil || e.at.ended {
		return
	}
	switch {
	case err != io.EOF:
		e.err = err
		e.from.fail(readError(err))
	case e.form == document:
		e.from.document(e.doc)
		e.doc = nil
	default:
		e.p.Close(e.take)
		e.from.end()
	}
}

func (e *Events) feed(b []byte) {
	if e.form == unknown {
		if b = skipBlank(b); len(b) == 0 {
			return
		}
		e.form = stream
		if b[0] == '{' || b[0] == '[' || b[0] == '<' {
			e.form = document
		}
	}
	if e.form == document {
		if e.doc = append(e.doc, b...); len(e.doc) > maxDoc {
			e.from.fail(badAnswer("upstream answer is too large"))
		}
		return
	}
	before := len(e.to.out)
	e.p.Feed(b, e.take)
	if e.p.Skipped() > 0 {
		e.from.fail(badAnswer("upstream sent an event that is too large"))
	}
	if c := e.p.Comments(); c != e.comments {
		e.comments = c
		if e.at.started && !e.at.ended && len(e.to.out) == before {
			e.answer.Ping()
		}
	}
}

// skipBlank cuts white space and a byte order mark, in pieces too, from the beginning.
func skipBlank(b []byte) []byte {
	for len(b) > 0 && (b[0] <= ' ' || b[0] == 0xEF || b[0] == 0xBB || b[0] == 0xBF) {
		b = b[1:]
	}
	return b
}

// Document converts an upstream's whole answer of status 2xx into one of the client's protocol. An
// answer that is none (an error, HTML, no choices) is the returned error. An event stream that came
// although none was asked for is collected. body is not retained. See section 2 of the conversion
// specification.
func (c *Conversion) Document(body []byte) ([]byte, *Error) {
	c.body = nil
	to := &buffer{out: make([]byte, 0, len(body)+len(body)/4+512)}
	from := c.upstream.source(c, c.client.document(to, c), true)
	doc := rawjson.Trim(body)
	if looksLikeStream(doc) {
		p := sse.Parser{Max: len(body) + 1}
		p.Feed(body, from.event)
		p.Close(from.event)
		from.end()
	} else {
		from.document(doc)
	}
	if err := from.state().err; err != nil {
		return nil, err
	}
	return to.out, nil
}
