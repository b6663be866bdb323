package convert

import (
	"strconv"
	"unicode/utf8"

	"github.com/loadchange/apexproxy/internal/rawjson"
)

// chatRequest writes a normalized Conversation as a Chat Completions request, in the way of one
// profile.
type chatRequest struct {
	buffer
	from *Conversation
	p    *ChatProfile
	drop func(string)

	names      []rename                 // tools whose names had to be changed
	declared   map[string]bool          // names of the tools that are sent, as the client wrote them
	signatures map[string]rawjson.Value // thought signatures of the turn at hand, by the client's call id
	refs       refBudget
	parts      []Item // of the user message at hand; reused
	said       bool   // something other than system messages
}

// writeChat writes the request of a conversation that was made of size bytes.
func writeChat(c *Conversion, from *Conversation, p *Params, size int) *Error {
	w := &chatRequest{from: from, p: &c.profile, drop: c.drop, refs: newRefBudget(size), buffer: buffer{make([]byte, 0, size+size/8+512)}}
	w.str(`{"model":`)
	w.out = rawjson.AppendString(w.out, p.Model)
	if err := w.messages(); err != nil {
		return err
	}
	w.limit(p.MaxTokens)
	w.stream()
	w.sampling()
	w.user()
	w.tools()
	if err := w.choice(); err != nil {
		return err
	}
	w.reasoning()
	w.format()
	w.tier()
	w.str(`}`)
	c.body, c.names = w.out, w.names
	return nil
}

// sep puts a comma where one is due.
func (w *chatRequest) sep() {
	if c := w.out[len(w.out)-1]; c != '{' && c != '[' {
		w.out = append(w.out, ',')
	}
}

// field writes the beginning of a member.
func (w *chatRequest) field(name string) {
	w.sep()
	w.out = append(w.out, '"')
	w.str(name)
	w.str(`":`)
}

func (w *chatRequest) raw(name string, v rawjson.Value) {
	w.field(name)
	w.out = append(w.out, v...)
}

func (w *chatRequest) quoted(name, value string) {
	w.field(name)
	w.out = rawjson.AppendString(w.out, value)
}

func (w *chatRequest) messages() *Error {
	w.field("messages")
	w.str(`[`)
	w.system()
	for i, t := range w.from.Turns {
		switch t.Role {
		case User:
			if err := w.userTurn(t.Items); err != nil {
				return err
			}
		case Assistant:
			w.assistant(t.Items, i == len(w.from.Turns)-1)
		case System:
			w.reminder(t.Items)
		}
	}
	if !w.said {
		return invalid("messages: nothing to send, all content is empty")
	}
	w.str(`]`)
	return nil
}

// message writes a message of one text, or nothing if write writes none.
func (w *chatRequest) message(role string, write func(begun int)) {
	mark := len(w.out)
	w.sep()
	w.str(`{"role":"`)
	w.str(role)
	w.str(`","content":"`)
	begun := len(w.out)
	if write(begun); len(w.out) == begun {
		w.out = w.out[:mark]
		return
	}
	w.str(`"}`)
}

// system writes the one leading system message.
func (w *chatRequest) system() {
	w.message("system", func(begun int) {
		for _, s := range w.from.System {
			w.out = appendApart(w.out, begun, `\n\n`, s)
		}
		if schema := w.from.Settings.Schema; schema != nil && w.p.JSONObjectOnly {
			w.out = appendApart(w.out, begun, `\n\n`, rawjson.Text(`Answer with one JSON object that follows this JSON Schema: `))
			w.out = rawjson.AppendEmbedded(w.out, schema)
		}
	})
}

// reminder writes a system message in the middle of the conversation.
func (w *chatRequest) reminder(items []Item) {
	w.message("system", func(begun int) {
		for i := range items {
			switch it := &items[i]; {
			case it.Kind != TextItem:
				w.lose(it)
			case !it.Text.Blank():
				w.out = appendApart(w.out, begun, `\n\n`, it.Text)
			}
		}
	})
}

// lose reports an item that Chat Completions has no place for.
func (w *chatRequest) lose(it *Item) { w.drop(it.loss()) }

// assistant writes an assistant message: its texts, what of its reasoning the provider wants back,
// and its calls. One without texts and calls is left out.
func (w *chatRequest) assistant(items []Item, last bool) {
	mark := len(w.out)
	w.sep()
	w.str(`{"role":"assistant","content":"`)
	begun := len(w.out)
	calls := w.assistantTexts(items, begun)
	switch {
	case len(w.out) > begun:
		w.str(`"`)
	case calls == 0:
		w.out = w.out[:mark]
		return
	default:
		w.out = append(w.out[:begun-1], "null"...)
	}
	w.said = true
	w.echo(items, calls > 0)
	if calls > 0 {
		w.calls(items)
	} else if last && w.p.MarkPrefill {
		w.str(`,"prefix":true`)
	}
	w.str(`}`)
}

// assistantTexts writes the texts of an assistant turn and counts its calls. Neighbours run on;
// between others stands an empty line.
func (w *chatRequest) assistantTexts(items []Item, begun int) (calls int) {
	apart := false
	for i := range items {
		it := &items[i]
		if it.Kind == TextItem {
			if apart = apart || it.Apart; !it.Text.Blank() {
				separator := ""
				if apart {
					separator = `\n\n`
				}
				w.out = appendApart(w.out, begun, separator, it.Text)
				apart = false
			}
			apart = apart || it.Apart
			continue
		}
		apart = true
		switch {
		case it.Kind == CallItem:
			calls++
		case it.Kind != ThinkingItem || !w.echoes():
			w.lose(it)
		}
	}
	return calls
}

// echoes reports whether the provider wants its reasoning back.
func (w *chatRequest) echoes() bool { return w.p.Echo && !w.from.Settings.NoThinking }

// echo gives a provider that wants it the reasoning of an earlier turn.
func (w *chatRequest) echo(items []Item, calls bool) {
	if !w.echoes() {
		return
	}
	mark := len(w.out)
	w.str(`,"reasoning_content":"`)
	begun := len(w.out)
	for i := range items {
		if items[i].Kind != ThinkingItem {
			continue
		}
		s := items[i].Text
		if len(s) == 0 {
			s = openSignature(items[i].Signature).Get("r").Text()
		}
		if len(s) > 0 {
			w.out = appendApart(w.out, begun, `\n\n`, s)
		}
	}
	switch {
	case len(w.out) > begun:
	case calls:
		w.str(w.p.EmptyEcho)
	default:
		w.out = w.out[:mark]
		return
	}
	w.str(`"`)
}

func (w *chatRequest) calls(items []Item) {
	if w.p.CallSigned {
		w.readSignatures(items)
	}
	w.str(`,"tool_calls":[`)
	first := true
	for i := range items {
		it := &items[i]
		if it.Kind != CallItem {
			continue
		}
		w.sep()
		w.str(`{"id":"`)
		w.text(w.p.toolID(it.ID))
		w.str(`","type":"function","function":{"name":"`)
		w.text(toolName(it.Name))
		w.str(`","arguments":"`)
		if it.Value.IsObject() {
			w.out = rawjson.AppendEmbedded(w.out, it.Value)
		} else {
			w.str("{}")
			if !it.Value.IsNull() {
				w.drop(it.Where.path("input"))
			}
		}
		w.str(`"}`)
		if w.p.CallSigned {
			w.callSignature(it.ID, first)
		}
		w.str(`}`)
		first = false
	}
	w.str(`]`)
}

// readSignatures collects the thought signatures that came back in a turn's thinking, by call.
func (w *chatRequest) readSignatures(items []Item) {
	w.signatures = make(map[string]rawjson.Value)
	for i := range items {
		if items[i].Kind != ThinkingItem {
			continue
		}
		for id, signature := range openSignature(items[i].Signature).Get("g").Members() {
			if signature.IsString() {
				w.signatures[string(id)] = signature
			}
		}
	}
}

// callSignature gives Gemini the thought signature of a call back. The first call of a turn must
// have one; for a call that Gemini did not make, or whose signature did not come back, its
// documentation has a constant.
func (w *chatRequest) callSignature(id rawjson.Text, first bool) {
	signature := w.signatures[string(id.Decode())]
	if signature == nil {
		if !first {
			return
		}
		signature = rawjson.Value(`"skip_thought_signature_validator"`)
	}
	w.str(`,"extra_content":{"google":{"thought_signature":`)
	w.out = append(w.out, signature...)
	w.str(`}}`)
}

// userTurn writes the tool messages that the results become, and behind them one user message with
// all the rest: only text is legal in a tool message, and nothing may stand between two of them.
func (w *chatRequest) userTurn(items []Item) *Error {
	parts := w.parts[:0]
	for i := range items {
		it := &items[i]
		switch it.Kind {
		case ResultItem:
			parts = w.result(parts, it)
		case TextItem:
			if !it.Text.Blank() {
				parts = append(parts, *it)
			}
		case ImageItem, FileItem:
			if !it.hasSource() {
				return invalid(it.Where.path("source") + sourceWords[it.Kind])
			}
			parts = append(parts, *it)
		default:
			w.lose(it)
		}
	}
	w.userMessage(parts)
	w.parts = parts
	return nil
}

var sourceWords = [...]string{
	ImageItem: ": only base64 and url images can be sent to this provider",
	FileItem:  ": only text, content and base64 documents can be sent to this provider",
}

// result writes a tool message, and appends what cannot stand in it to the parts of the user
// message behind all tool messages.
func (w *chatRequest) result(parts []Item, it *Item) []Item {
	id := w.p.toolID(it.ID)
	w.sep()
	w.str(`{"role":"tool","tool_call_id":"`)
	w.text(id)
	w.str(`","content":"`)
	w.said = true
	begun, media := len(w.out), false
	for _, in := range it.Result {
		if in.Kind == TextItem {
			w.out = appendApart(w.out, begun, `\n`, in.Text)
			continue
		}
		if !media {
			media = true
			parts = append(parts, Item{Kind: TextItem, Text: append(append(rawjson.Text("[output of tool call "), id...), ']')})
		}
		parts = append(parts, in)
	}
	switch {
	case len(w.out) > begun:
	case media:
		w.str("[the tool output is attached in the next user message]")
	case it.Failed:
		w.str("Tool execution failed")
	}
	w.str(`"}`)
	return parts
}

// userMessage writes a user message: a string when all is text, which every endpoint takes, else an
// array.
func (w *chatRequest) userMessage(parts []Item) {
	if len(parts) == 0 {
		return
	}
	w.said = true
	w.sep()
	w.str(`{"role":"user","content":`)
	if allText(parts) {
		w.str(`"`)
		begun := len(w.out)
		for i := range parts {
			w.out = appendApart(w.out, begun, `\n\n`, parts[i].Text)
		}
		w.str(`"}`)
		return
	}
	w.str(`[`)
	for i := range parts {
		w.sep()
		w.part(&parts[i])
	}
	w.str(`]}`)
}

func allText(items []Item) bool {
	for i := range items {
		if items[i].Kind != TextItem {
			return false
		}
	}
	return true
}

func (w *chatRequest) part(it *Item) {
	switch {
	case it.Kind == TextItem:
		w.str(`{"type":"text","text":"`)
		w.text(it.Text)
		w.str(`"}`)
	case it.Kind == FileItem:
		name := it.Text
		if len(name) == 0 {
			name = rawjson.Text("document.pdf")
		}
		w.str(`{"type":"file","file":{"filename":"`)
		w.text(name)
		w.str(`","file_data":"data:application/pdf;base64,`)
		w.text(it.Data)
		w.str(`"}}`)
	case it.URL != nil:
		w.str(`{"type":"image_url","image_url":{"url":"`)
		w.text(it.URL)
		w.str(`"}}`)
	default:
		w.str(`{"type":"image_url","image_url":{"url":"data:`)
		w.text(it.Media)
		w.str(`;base64,`)
		w.text(it.Data)
		w.str(`"}}`)
	}
}

// limit writes the token limit, at most most if that is positive.
func (w *chatRequest) limit(most int) {
	n := w.from.Settings.MaxTokens
	if n == nil {
		return
	}
	if v, err := strconv.Atoi(string(n)); most > 0 && (err != nil || v > most) {
		n = strconv.AppendInt(nil, int64(most), 10)
		w.drop("max_tokens")
	}
	if w.p.LimitField != "" {
		w.raw(w.p.LimitField, n)
	} else {
		w.raw("max_tokens", n)
	}
}

func (w *chatRequest) stream() {
	if !w.from.Settings.Stream {
		return
	}
	w.str(`,"stream":true`)
	if !w.p.NoUsageOption {
		w.str(`,"stream_options":{"include_usage":true}`)
	}
}

func (w *chatRequest) sampling() {
	s := &w.from.Settings
	for _, f := range []struct {
		name  string
		value rawjson.Value
	}{{"temperature", s.Temperature}, {"top_p", s.TopP}} {
		switch {
		case f.value == nil:
		case w.p.NoSampling:
			w.drop(f.name)
		default:
			w.raw(f.name, f.value)
		}
	}
	stop := s.Stop
	if most := max(w.p.MaxStop, 0); w.p.MaxStop != 0 && len(stop) > most {
		stop = stop[:most]
		w.drop("stop_sequences")
	}
	if len(stop) == 0 {
		return
	}
	w.field("stop")
	w.str(`[`)
	for _, text := range stop {
		w.sep()
		w.str(`"`)
		w.text(text)
		w.str(`"`)
	}
	w.str(`]`)
}

func (w *chatRequest) user() {
	id := w.from.Settings.User
	switch {
	case len(id) == 0:
	case !w.p.User:
		w.drop("metadata.user_id")
	case utf8.RuneCount(id.Decode()) > 64:
		w.quoted("user", digest(id.Decode(), 64)) // cutting would make different users one
	default:
		w.str(`,"user":"`)
		w.text(id)
		w.str(`"`)
	}
}

func (w *chatRequest) tools() {
	mark := len(w.out)
	w.declared = make(map[string]bool)
	sent := make(map[string]bool)
	w.field("tools")
	w.str(`[`)
	for i := range w.from.Tools {
		t := &w.from.Tools[i]
		given, name := string(t.Name.Decode()), toolName(t.Name)
		switch {
		case w.p.NoTools:
			w.drop("tools")
			continue
		case w.declared[given] || sent[string(name)]:
			// Sent as one name, a call of the second would come back as a call of the first.
			w.drop("tools.duplicate")
			continue
		}
		w.declared[given], sent[string(name)] = true, true
		if string(name) != string(t.Name) {
			w.names = append(w.names, rename{string(name), string(t.Name)})
		}
		w.tool(t, name)
	}
	w.str(`]`)
	if len(w.declared) == 0 {
		w.out = w.out[:mark]
	}
}

func (w *chatRequest) tool(t *Tool, name rawjson.Text) {
	w.sep()
	w.str(`{"type":"function","function":{"name":"`)
	w.text(name)
	w.str(`"`)
	if t.Description != nil {
		w.raw("description", t.Description)
	}
	w.field("parameters")
	schema := t.Schema
	if schema == nil {
		schema = rawjson.Value("{}")
	}
	strict := t.Strict
	if strict && (w.p.NoStrict || w.p.GeminiSchemas || !isStrict(schema, 0)) {
		strict = false
		w.drop("tools.strict")
	}
	if w.p.GeminiSchemas {
		schema = appendGeminiSchema(nil, schema, &w.refs)
	}
	w.out = appendParameters(w.out, schema)
	if strict {
		w.str(`,"strict":true`)
	}
	w.str(`}}`)
}

func (w *chatRequest) choice() *Error {
	c := w.from.Settings.Choice
	none := len(w.declared) == 0
	switch {
	case c.Mode == ChoiceUnsaid:
		return nil
	case c.Mode == ChoiceAny && none:
		return invalid("tool_choice: no tool is left that this provider could call")
	case c.Mode == ChoiceTool && !w.declared[string(c.Name.Decode())]:
		return invalid("tool_choice.name: names no tool that this provider could call")
	case none:
		return nil
	}
	switch c.Mode {
	case ChoiceAuto:
		w.quoted("tool_choice", "auto")
	case ChoiceNone:
		w.quoted("tool_choice", "none")
	case ChoiceAny:
		word := "required"
		if w.p.RequiredIsAny {
			word = "any"
		}
		w.quoted("tool_choice", word)
	case ChoiceTool:
		w.str(`,"tool_choice":{"type":"function","function":{"name":"`)
		w.text(toolName(c.Name))
		w.str(`"}}`)
	}
	switch {
	case !w.from.Settings.Serial:
	case w.p.NoParallelField:
		w.drop("tool_choice.disable_parallel_tool_use")
	default:
		w.str(`,"parallel_tool_calls":false`)
	}
	return nil
}

// reasoning writes how hard the model shall think, as near to what is wanted as the provider takes.
func (w *chatRequest) reasoning() {
	want := w.from.Settings.Effort
	effort := w.p.effort(want)
	lost := effort != want
	switch {
	case w.p.EffortOrTools && len(w.declared) > 0:
		effort, lost = "none", want != ""
	case w.from.Settings.NoThinking && w.p.Off != "":
		w.sep()
		w.str(w.p.Off)
		return
	}
	if effort != "" {
		w.quoted("reasoning_effort", effort)
	}
	if lost {
		w.drop("reasoning_effort")
	}
}

func (w *chatRequest) format() {
	schema := w.from.Settings.Schema
	switch {
	case schema == nil:
	case w.p.JSONObjectOnly:
		w.str(`,"response_format":{"type":"json_object"}`)
	default:
		w.str(`,"response_format":{"type":"json_schema","json_schema":{"name":"response","schema":`)
		if w.p.GeminiSchemas {
			w.out = appendGeminiSchema(w.out, schema, &w.refs)
		} else {
			w.out = append(w.out, schema...)
		}
		if !w.p.GeminiSchemas && isStrict(schema, 0) {
			w.str(`,"strict":true`)
		}
		w.str("}}")
	}
}

func (w *chatRequest) tier() {
	switch t := w.from.Settings.Tier; {
	case t == TierUnsaid:
	case t == TierStandard && w.p.ServiceTier:
		w.quoted("service_tier", "default")
	default:
		w.drop("service_tier")
	}
}
