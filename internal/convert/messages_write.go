package convert

import (
	"strconv"

	"github.com/loadchange/apexproxy/internal/protocol"
	"github.com/loadchange/apexproxy/internal/rawjson"
)

// messagesEvents writes an answer as the events of the Messages API.
// https://platform.claude.com/docs/en/build-with-claude/streaming
type messagesEvents struct {
	*buffer
	c    *Conversion
	open BlockKind
	next int // index of the next block
}

func newMessagesEvents(b *buffer, c *Conversion) Answer { return &messagesEvents{buffer: b, c: c} }

// begin writes an event of the block at hand up to its index.
func (w *messagesEvents) begin(typ string) {
	w.str("event: ")
	w.str(typ)
	w.str("\ndata: {\"type\":\"")
	w.str(typ)
	w.str(`","index":`)
	w.out = strconv.AppendInt(w.out, int64(w.next-1), 10)
}

func (w *messagesEvents) Start(u Usage) {
	w.str("event: message_start\ndata: {\"type\":\"message_start\",\"message\":")
	messageHead(w.buffer, w.c)
	w.str(`],"stop_reason":null,"stop_sequence":null,"stop_details":null,"container":null,`)
	messageUsage(w.buffer, &u)
	w.str("}}\n\n")
}

func (w *messagesEvents) Open(b Block) {
	w.open = b.Kind
	w.next++
	w.begin("content_block_start")
	w.str(`,"content_block":`)
	switch b.Kind {
	case ThinkingBlock:
		w.str(`{"type":"thinking","thinking":"","signature":""}`)
	case CallBlock:
		toolUse(w.buffer, &b)
		w.str(`{}}`)
	default:
		w.str(`{"type":"text","text":""}`)
	}
	w.str("}\n\n")
}

func (w *messagesEvents) Delta(s rawjson.Text) {
	w.begin("content_block_delta")
	switch w.open {
	case ThinkingBlock:
		w.str(`,"delta":{"type":"thinking_delta","thinking":"`)
	case CallBlock:
		w.str(`,"delta":{"type":"input_json_delta","partial_json":"`)
	default:
		w.str(`,"delta":{"type":"text_delta","text":"`)
	}
	w.text(s)
	w.str("\"}}\n\n")
}

func (w *messagesEvents) Input(object rawjson.Value) { w.Delta(rawjson.AppendText(nil, object)) }

func (w *messagesEvents) Close(carry *Carry) {
	if carry != nil {
		w.begin("content_block_delta")
		w.str(`,"delta":{"type":"signature_delta","signature":"`)
		w.out = appendSignature(w.out, carry)
		w.str("\"}}\n\n")
	}
	w.begin("content_block_stop")
	w.str("}\n\n")
}

func (w *messagesEvents) End(e *Ending) {
	w.str("event: message_delta\ndata: {\"type\":\"message_delta\",\"delta\":{")
	messageStop(w.buffer, e)
	w.str(`},`)
	messageUsage(w.buffer, &e.Usage)
	w.str("}\n\nevent: message_stop\ndata: {\"type\":\"message_stop\"}\n\n")
}

func (w *messagesEvents) Fail(err *Error) {
	w.str("event: error\ndata: {\"type\":\"error\",\"error\":{\"type\":\"")
	w.str(err.Class.Word(protocol.Messages))
	w.str(`","message":`)
	w.out = rawjson.AppendString(w.out, err.Message)
	w.str("}}\n\n")
}

func (w *messagesEvents) Ping() { w.str("event: ping\ndata: {\"type\":\"ping\"}\n\n") }

// messagesDocument writes an answer as one Message.
type messagesDocument struct {
	*buffer
	c      *Conversion
	open   BlockKind
	blocks int
}

func newMessagesDocument(b *buffer, c *Conversion) Answer { return &messagesDocument{buffer: b, c: c} }

func (w *messagesDocument) Start(Usage) { messageHead(w.buffer, w.c) }

func (w *messagesDocument) Open(b Block) {
	if w.blocks > 0 {
		w.str(",")
	}
	w.blocks++
	w.open = b.Kind
	switch b.Kind {
	case ThinkingBlock:
		w.str(`{"type":"thinking","thinking":"`)
	case CallBlock:
		toolUse(w.buffer, &b)
	default:
		w.str(`{"type":"text","text":"`)
	}
}

func (w *messagesDocument) Delta(s rawjson.Text)       { w.text(s) }
func (w *messagesDocument) Input(object rawjson.Value) { w.out = append(w.out, object...) }

func (w *messagesDocument) Close(carry *Carry) {
	if carry != nil {
		w.str(`","signature":"`)
		w.out = appendSignature(w.out, carry)
	}
	if w.open == CallBlock {
		w.str(`}`)
	} else {
		w.str(`"}`)
	}
}

func (w *messagesDocument) End(e *Ending) {
	w.str(`],`)
	messageStop(w.buffer, e)
	w.str(`,`)
	messageUsage(w.buffer, &e.Usage)
	w.str(`}`)
}

func (w *messagesDocument) Fail(*Error) {}
func (w *messagesDocument) Ping()       {}

// messageHead writes a Message up to its content.
func messageHead(w *buffer, c *Conversion) {
	w.str(`{"id":"msg_`)
	w.str(c.id())
	w.str(`","type":"message","role":"assistant","model":`)
	w.out = append(w.out, c.model...)
	w.str(`,"content":[`)
}

// toolUse writes a tool_use block up to its input.
func toolUse(w *buffer, b *Block) {
	w.str(`{"type":"tool_use","id":"`)
	w.text(b.ID)
	w.str(`","name":"`)
	w.text(b.Name)
	w.str(`","input":`)
}

var stopReasons = [...]string{EndTurn: "end_turn", MaxTokens: "max_tokens", ToolUse: "tool_use", StopSequence: "stop_sequence", Refused: "refusal"}

// messageStop writes why the answer ended: stop_reason, stop_sequence, stop_details and container.
func messageStop(w *buffer, e *Ending) {
	w.str(`"stop_reason":"`)
	w.str(stopReasons[e.Reason])
	w.str(`","stop_sequence":`)
	if e.Sequence != "" {
		w.out = rawjson.AppendString(w.out, e.Sequence)
	} else {
		w.str("null")
	}
	w.str(`,"stop_details":`)
	switch {
	case e.Reason != Refused:
		w.str("null")
	case e.Refusal == nil:
		w.str(`{"type":"refusal","category":null,"explanation":null}`)
	default:
		w.str(`{"type":"refusal","category":null,"explanation":"`)
		w.text(e.Refusal)
		w.str(`"}`)
	}
	w.str(`,"container":null`)
}

// messageUsage writes the member usage. Anthropic's three kinds of input are disjoint.
func messageUsage(w *buffer, u *Usage) {
	for _, f := range [...]struct {
		name  string
		count int64
	}{
		{`"usage":{"input_tokens":`, max(max(u.Input-u.CacheRead, 0)-u.CacheWrite, 0)},
		{`,"cache_creation_input_tokens":`, u.CacheWrite},
		{`,"cache_read_input_tokens":`, u.CacheRead},
		{`,"output_tokens":`, u.Output},
	} {
		w.str(f.name)
		w.out = strconv.AppendInt(w.out, f.count, 10)
	}
	if u.Reasoning > 0 {
		w.str(`,"output_tokens_details":{"thinking_tokens":`)
		w.out = strconv.AppendInt(w.out, u.Reasoning, 10)
		w.str(`}`)
	}
	if u.Tier != "" {
		w.str(`,"service_tier":"`)
		w.str(u.Tier)
		w.str(`"`)
	}
	w.str(`}`)
}
