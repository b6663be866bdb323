package convert

import (
	"slices"
	"strings"

	"github.com/loadchange/apexproxy/internal/rawjson"
)

// maxParts bounds messages, content blocks wherever they stand, tools and stop sequences each: what
// is noted of one takes far more memory than its shortest form.
const maxParts = 100_000

// messagesRequest reads a Messages request into a Conversation. Losses that every other protocol
// shares are told to drop; what only some destinations cannot carry is left to their writers.
type messagesRequest struct {
	Conversation
	drop    func(string)
	parts   []part // of the message at hand; reused
	blocks  int    // read so far
	items   []Item // of all turns, each a slice of it
	results []Item // of all tool results, likewise
	added   []Tool // declared inside of messages
	seen    bool   // the member messages

	system, limit, stream, temperature, topP, stop, metadata rawjson.Value
	tools, choice, thinking, output, format, tier            rawjson.Value
}

// part is one content block. Fields that its type does not have are absent.
type part struct {
	typ                                               rawjson.Value
	text, id, name, input, content, source, signature rawjson.Value
	title, context, tool                              rawjson.Value
	failed                                            bool
	raw                                               rawjson.Value
	where                                             Place
}

// readMessages reads a Messages request. body must be valid JSON.
func readMessages(body []byte, drop func(string)) (*Conversation, *Error) {
	r, err := readTurns(body, drop)
	if err != nil {
		return nil, err
	}
	r.tokens = r.count
	return &r.Conversation, r.settle()
}

// readTurns reads the turns of a Messages request, and notes the rest for settle. It walks the
// messages without stepping over them first: they are nearly all of a request.
func readTurns(body []byte, drop func(string)) (*messagesRequest, *Error) {
	r := &messagesRequest{drop: drop, items: make([]Item, 0, 8+len(body)/1024)}
	d := &rawjson.Reader{Doc: body}
	if d.Peek() != '{' {
		return nil, invalid("the body must be a JSON object")
	}
	for name := range d.Members() {
		if err := r.member(name, d); err != nil {
			return nil, err
		}
	}
	switch {
	case !r.seen:
		return nil, invalid("messages: field required")
	case len(r.Turns) == 0:
		return nil, invalid("messages: at least one message is required")
	}
	return r, nil
}

// member takes a member of the request.
func (r *messagesRequest) member(name []byte, d *rawjson.Reader) *Error {
	if field := r.field(name); field != nil {
		*field = d.Value()
		return nil
	}
	switch string(name) {
	case "messages":
		return r.readTurns(d)
	case "model", "cache_control":
	case "mcp_servers":
		if d.Value().First() != nil {
			return invalid("mcp_servers: not supported for this provider, the tools would have to run at the server")
		}
	case "thread":
		if d.Value().Get("type").Is("continue") {
			return invalid("thread: continuing a stored conversation is not supported for this provider")
		}
	default:
		known := safeName(name)
		if !d.Value().IsNull() {
			r.drop(known)
		}
	}
	return nil
}

// field returns where a member that is only read later is noted, nil for any other.
func (r *messagesRequest) field(name []byte) *rawjson.Value {
	switch string(name) {
	case "system":
		return &r.system
	case "max_tokens":
		return &r.limit
	case "stream":
		return &r.stream
	case "temperature":
		return &r.temperature
	case "top_p":
		return &r.topP
	case "stop_sequences":
		return &r.stop
	case "metadata":
		return &r.metadata
	case "tools":
		return &r.tools
	case "tool_choice":
		return &r.choice
	case "thinking":
		return &r.thinking
	case "output_config":
		return &r.output
	case "output_format":
		return &r.format
	case "service_tier":
		return &r.tier
	}
	return nil
}

func (r *messagesRequest) readTurns(d *rawjson.Reader) *Error {
	if r.seen {
		return invalid("messages: stands twice")
	}
	r.seen = true
	if d.Peek() != '[' {
		return invalid("messages: must be an array")
	}
	for i := range d.Elements() {
		if i == maxParts {
			return invalid("messages: has too many elements")
		}
		if err := r.readTurn(d, i); err != nil {
			return err
		}
	}
	return nil
}

func (r *messagesRequest) readTurn(d *rawjson.Reader, at int) *Error {
	if d.Peek() != '{' {
		return invalid(path("messages", at) + ": must be an object")
	}
	var role Role
	content := false
	for name := range d.Members() {
		switch string(name) {
		case "role":
			role = roles[string(d.Value().Decode())]
		case "content":
			content = true
			if err := r.readContent(d, at); err != nil {
				return err
			}
		}
	}
	switch {
	case role == NoRole:
		return invalid(path("messages", at, "role") + ": must be user, assistant or system")
	case !content:
		return invalid(path("messages", at, "content") + ": field required")
	}
	from := len(r.items)
	for i := range r.parts {
		if err := r.add(role, &r.parts[i]); err != nil {
			return err
		}
	}
	r.Turns = append(r.Turns, Turn{role, slices.Clip(r.items[from:])})
	return nil
}

var roles = map[string]Role{"user": User, "assistant": Assistant, "system": System}

// readContent reads the blocks of a message into r.parts.
func (r *messagesRequest) readContent(d *rawjson.Reader, at int) *Error {
	r.parts = r.parts[:0]
	switch d.Peek() {
	case '"':
		r.parts = append(r.parts, part{typ: textType, text: d.Value(), where: Place{Message: at}})
		return nil
	case '[':
	default:
		return invalid(path("messages", at, "content") + ": must be a string or an array")
	}
	for i := range d.Elements() {
		p, err := r.readPart(d, Place{at, i})
		if err != nil {
			return err
		}
		r.parts = append(r.parts, p)
	}
	return nil
}

var textType = rawjson.Value(`"text"`)

// readPart reads the block that is next, and sees to it that the fields which its type needs have
// the right JSON type.
func (r *messagesRequest) readPart(d *rawjson.Reader, where Place) (p part, err *Error) {
	if r.blocks++; r.blocks > maxParts {
		return p, invalid(path("messages", where.Message, "content") + ": the request has too many blocks")
	}
	p.where = where
	if d.Peek() != '{' {
		return p, invalid(where.path("") + ": must be an object")
	}
	start := d.At
	for name := range d.Members() {
		switch string(name) {
		case "type":
			p.typ = d.Value()
		case "text", "thinking":
			p.text = d.Value()
		case "id", "tool_use_id":
			p.id = d.Value()
		case "name", "tool_name":
			p.name = d.Value()
		case "input":
			p.input = d.Value()
		case "content":
			p.content = d.Value()
		case "source":
			p.source = d.Value()
		case "signature":
			p.signature = d.Value()
		case "title":
			p.title = d.Value()
		case "context":
			p.context = d.Value()
		case "tool":
			p.tool = d.Value()
		case "is_error":
			p.failed = d.Value().IsTrue()
		}
	}
	p.raw = d.Doc[start:d.At]
	return p, p.check()
}

func (p *part) check() *Error {
	need := func(field string, v rawjson.Value, kinds string) *Error {
		if v == nil {
			return invalid(p.where.path(field) + ": field required")
		}
		if strings.IndexByte(kinds, v.Kind()) < 0 {
			return invalid(p.where.path(field) + ": has the wrong type")
		}
		return nil
	}
	switch string(p.typ.Decode()) {
	case "":
		return invalid(p.where.path("type") + ": must be a string")
	case "text":
		return need("text", p.text, `"`)
	case "thinking":
		return need("thinking", p.text, `"`)
	case "tool_use":
		if err := need("id", p.id, `"`); err != nil {
			return err
		}
		return need("name", p.name, `"`)
	case "tool_result":
		if p.content != nil {
			if err := need("content", p.content, `"[n`); err != nil {
				return err
			}
		}
		return need("tool_use_id", p.id, `"`)
	case "image", "document":
		return need("source", p.source, `{`)
	}
	return nil
}

// add appends what a block of that role says.
func (r *messagesRequest) add(role Role, p *part) (err *Error) {
	typ := string(p.typ.Decode())
	switch {
	case typ == "text":
		r.items = append(r.items, p.item(TextItem))
		return nil
	case role == Assistant:
		r.items = p.appendAssistant(r.items, typ)
		return nil
	case role != User:
	case typ == "tool_result":
		it := p.item(ResultItem)
		it.Result, err = r.readResult(p)
		r.items = append(r.items, it)
		return err
	case typ == "image" || typ == "document" || typ == "search_result":
		r.items, err = r.appendContent(r.items, p)
		return err
	case typ == "tool_addition" && len(p.tool.Get("name").Text()) > 0 && p.tool.Get("input_schema").IsObject():
		tool, err := r.readTool(p.tool, -1)
		if tool != nil {
			r.added = append(r.added, *tool)
		}
		return err
	}
	r.items = append(r.items, p.unknown())
	return nil
}

func (p *part) appendAssistant(items []Item, typ string) []Item {
	switch {
	case typ == "tool_use":
		return append(items, p.item(CallItem))
	case typ == "thinking":
		return append(items, p.item(ThinkingItem))
	case typ == "compaction" && p.content.IsString():
		return append(items, Item{Kind: TextItem, Apart: true, Text: p.content.Text(), Where: p.where})
	case strings.HasSuffix(typ, "_tool_result"):
		return append(items, p.unknown(), Item{Kind: TextItem, Apart: true, Text: pages(p.content), Where: p.where})
	}
	return append(items, p.unknown())
}

// item returns the block as an item of kind k, its type's fields set.
func (p *part) item(k ItemKind) Item {
	it := Item{Kind: k, Text: p.text.Text(), ID: p.id.Text(), Name: p.name.Text(), Failed: p.failed, Where: p.where}
	switch k {
	case CallItem:
		it.Value = p.input
	case ThinkingItem:
		it.Signature = p.signature.Text()
	}
	return it
}

func (p *part) unknown() Item {
	return Item{Kind: UnknownItem, Value: p.raw, Where: p.where}
}

// pages lists what a server tool found, one line a page.
func pages(content rawjson.Value) (lines rawjson.Text) {
	for e := range content.Elements() {
		title, url := e.Get("title").Text(), e.Get("url").Text()
		if len(url) == 0 {
			continue
		}
		if lines != nil {
			lines = append(lines, `\n`...)
		}
		lines = append(lines, "- "...)
		lines = append(lines, title...)
		lines = append(lines, ": "...)
		lines = append(lines, url...)
	}
	return lines
}

// readResult reads the content of a tool result.
func (r *messagesRequest) readResult(p *part) (result []Item, err *Error) {
	from := len(r.results)
	if s := p.content.Text(); len(s) > 0 {
		r.results = append(r.results, Item{Kind: TextItem, Text: s, Where: p.where})
	}
	d := &rawjson.Reader{Doc: p.content}
	for range d.Elements() {
		in, err := r.readPart(d, p.where)
		if err != nil {
			return nil, err
		}
		if r.results, err = r.appendInResult(r.results, &in); err != nil {
			return nil, err
		}
	}
	return slices.Clip(r.results[from:]), nil
}

func (r *messagesRequest) appendInResult(items []Item, p *part) ([]Item, *Error) {
	switch string(p.typ.Decode()) {
	case "text":
		if p.text.Text().Blank() {
			return items, nil
		}
		return append(items, p.item(TextItem)), nil
	case "image", "document", "search_result":
		return r.appendContent(items, p)
	case "tool_reference":
		text := append(append(rawjson.Text("[tool "), p.name.Text()...), " is now available]"...)
		return append(items, Item{Kind: TextItem, Text: text, Where: p.where}), nil
	}
	return append(items, Item{Kind: TextItem, Text: embedded(p.raw), Where: p.where}), nil
}

// embedded writes a block of unknown type as JSON text, less its cache mark.
func embedded(block rawjson.Value) rawjson.Text {
	dst := []byte{'{'}
	for name, v := range block.Members() {
		if string(name) == "cache_control" {
			continue
		}
		if dst[len(dst)-1] != '{' {
			dst = append(dst, ',')
		}
		dst = rawjson.AppendEmbedded(dst, rawjson.AppendString(nil, name))
		dst = append(dst, ':')
		dst = rawjson.AppendEmbedded(dst, v)
	}
	return append(dst, '}')
}

// appendContent appends what an image, a document or a search result says.
func (r *messagesRequest) appendContent(items []Item, p *part) ([]Item, *Error) {
	switch string(p.typ.Decode()) {
	case "image":
		return append(items, p.image()), nil
	case "document":
		return r.appendDocument(items, p)
	}
	text := append(rawjson.Text("Title: "), p.title.Text()...)
	text = append(text, `\nSource: `...)
	text = append(text, p.source.Text()...)
	for e := range p.content.Elements() {
		if t := e.Get("text").Text(); !t.Blank() {
			text = append(text, `\n`...)
			text = append(text, t...)
		}
	}
	return append(items, Item{Kind: TextItem, Text: text, Where: p.where}), nil
}

// origin is where an image or a document comes from.
type origin struct{ typ, media, data, url, content rawjson.Value }

func readOrigin(v rawjson.Value) (o origin) {
	for name, v := range v.Members() {
		switch string(name) {
		case "type":
			o.typ = v
		case "media_type":
			o.media = v
		case "data":
			o.data = v
		case "url":
			o.url = v
		case "content":
			o.content = v
		}
	}
	return o
}

func (p *part) image() Item {
	it, s := p.item(ImageItem), readOrigin(p.source)
	switch {
	case s.typ.Is("base64") && s.media.IsString() && s.data.IsString():
		it.Media, it.Data = s.media.Text(), s.data.Text()
	case s.typ.Is("url") && s.url.IsString():
		it.URL = s.url.Text()
	}
	return it
}

func (r *messagesRequest) appendDocument(items []Item, p *part) ([]Item, *Error) {
	var head rawjson.Text
	for _, f := range [...]struct {
		label string
		value rawjson.Value
	}{{"Title: ", p.title}, {"Context: ", p.context}} {
		if text := f.value.Text(); len(text) > 0 {
			head = append(append(append(head, f.label...), text...), `\n`...)
		}
	}
	text := func(s rawjson.Text) ([]Item, *Error) {
		return append(items, Item{Kind: TextItem, Text: append(head, s...), Where: p.where}), nil
	}
	switch s := readOrigin(p.source); {
	case s.typ.Is("text") && s.data.IsString():
		return text(s.data.Text())
	case s.typ.Is("content") && s.content.IsString():
		return text(s.content.Text())
	case s.typ.Is("content") && s.content.IsArray():
		if head != nil {
			items, _ = text(nil)
			last := &items[len(items)-1]
			last.Text = last.Text[:len(last.Text)-len(`\n`)]
		}
		return r.appendBlocks(items, s.content, p.where)
	case s.typ.Is("base64") && s.data.IsString():
		it := p.item(FileItem)
		it.Text, it.Data = p.title.Text(), s.data.Text()
		return append(items, it), nil
	}
	return append(items, p.item(FileItem)), nil
}

// appendBlocks appends the texts and images that a document consists of.
func (r *messagesRequest) appendBlocks(items []Item, blocks rawjson.Value, where Place) ([]Item, *Error) {
	d := &rawjson.Reader{Doc: blocks}
	for range d.Elements() {
		in, err := r.readPart(d, where)
		if err != nil {
			return nil, err
		}
		switch string(in.typ.Decode()) {
		case "text":
			if !in.text.Text().Blank() {
				items = append(items, in.item(TextItem))
			}
		case "image":
			items = append(items, in.image())
		default:
			it := in.unknown()
			r.drop(it.loss())
		}
	}
	return items, nil
}

// settle reads everything beside the turns.
func (r *messagesRequest) settle() *Error {
	for _, step := range []func() *Error{
		r.settleSystem, r.settleLimit, r.settleSampling, r.settleUser, r.settleTools, r.settleChoice, r.settleThinking, r.settleFormat,
	} {
		if err := step(); err != nil {
			return err
		}
	}
	return nil
}

func (r *messagesRequest) settleSystem() *Error {
	switch r.system.Kind() {
	case 0, 'n':
	case '"':
		r.System = append(r.System, r.system.Text())
	case '[':
		i := 0
		for b := range r.system.Elements() {
			text, typ := b.Get("text"), b.Get("type").Decode()
			switch {
			case !b.IsObject() || len(typ) == 0 || string(typ) == "text" && !text.IsString():
				return invalid(path("system", i) + ": must be a text block")
			case string(typ) != "text":
				r.drop("system." + safeName(typ))
			default:
				r.System = append(r.System, text.Text())
			}
			i++
		}
	default:
		return invalid("system: must be a string or an array")
	}
	return nil
}

func (r *messagesRequest) settleLimit() *Error {
	if r.limit == nil {
		return invalid("max_tokens: field required")
	}
	for i, c := range r.limit {
		if c < '0' || c > '9' || i == 0 && c == '0' {
			return invalid("max_tokens: must be an integer of at least 1")
		}
	}
	r.Settings.MaxTokens = r.limit
	switch r.stream.Kind() {
	case 0, 'n', 'f':
	case 't':
		r.Settings.Stream = true
	default:
		return invalid("stream: must be true or false")
	}
	return nil
}

func (r *messagesRequest) settleSampling() *Error {
	s := &r.Settings
	for _, f := range []struct {
		name string
		from rawjson.Value
		to   *rawjson.Value
	}{{"temperature", r.temperature, &s.Temperature}, {"top_p", r.topP, &s.TopP}} {
		switch {
		case f.from.IsNull():
		case !f.from.IsNumber():
			return invalid(f.name + ": must be a number")
		default:
			*f.to = f.from
		}
	}
	if r.stop.IsNull() {
		return nil
	}
	if !r.stop.IsArray() {
		return invalid("stop_sequences: must be an array of strings")
	}
	for v := range r.stop.Elements() {
		switch {
		case !v.IsString():
			return invalid("stop_sequences: must be an array of strings")
		case len(s.Stop) == maxParts:
			return invalid("stop_sequences: has too many elements")
		case len(v.Text()) > 0:
			s.Stop = append(s.Stop, v.Text())
		}
	}
	return nil
}

func (r *messagesRequest) settleUser() *Error {
	if r.metadata.IsNull() {
		return nil
	}
	if !r.metadata.IsObject() {
		return invalid("metadata: must be an object")
	}
	id := r.metadata.Get("user_id")
	if !id.IsNull() && !id.IsString() {
		return invalid("metadata.user_id: must be a string")
	}
	r.Settings.User = id.Text()
	return nil
}

func (r *messagesRequest) settleTools() *Error {
	if !r.tools.IsNull() && !r.tools.IsArray() {
		return invalid("tools: must be an array")
	}
	i := 0
	for v := range r.tools.Elements() {
		if i == maxParts {
			return invalid("tools: has too many elements")
		}
		tool, err := r.readTool(v, i)
		if err != nil {
			return err
		}
		if tool != nil {
			r.Tools = append(r.Tools, *tool)
		}
		i++
	}
	r.Tools = append(r.Tools, r.added...)
	return nil
}

// readTool reads a tool's declaration, nil for one that only Anthropic can run. at is its place in
// tools, and not used of one that is an object with a name.
func (r *messagesRequest) readTool(v rawjson.Value, at int) (*Tool, *Error) {
	if !v.IsObject() {
		return nil, invalid(path("tools", at) + ": must be an object")
	}
	var t Tool
	var typ, name rawjson.Value
	for member, v := range v.Members() {
		switch string(member) {
		case "type":
			typ = v
		case "name":
			name = v
		case "description":
			t.Description = v
		case "input_schema":
			t.Schema = v
		case "strict":
			t.Strict = v.IsTrue()
		}
	}
	if !typ.IsNull() && !typ.Is("custom") {
		r.drop("tools." + safeName(typ.Decode()))
		return nil, nil
	}
	if t.Name = name.Text(); len(t.Name) == 0 {
		return nil, invalid(path("tools", at, "name") + ": must be a non-empty string")
	}
	if !t.Description.IsString() {
		t.Description = nil
	}
	if !t.Schema.IsObject() {
		t.Schema = nil
	}
	return &t, nil
}

var choiceModes = map[string]ChoiceMode{"auto": ChoiceAuto, "any": ChoiceAny, "none": ChoiceNone, "tool": ChoiceTool}

func (r *messagesRequest) settleChoice() *Error {
	if r.choice.IsNull() {
		return nil
	}
	if !r.choice.IsObject() {
		return invalid("tool_choice: must be an object")
	}
	mode, ok := choiceModes[string(r.choice.Get("type").Decode())]
	if !ok {
		return invalid("tool_choice.type: must be auto, any, none or tool")
	}
	r.Settings.Choice = ToolChoice{mode, r.choice.Get("name").Text()}
	r.Settings.Serial = r.choice.Get("disable_parallel_tool_use").IsTrue()
	return nil
}

func (r *messagesRequest) settleThinking() *Error {
	if !r.thinking.IsNull() && !r.thinking.IsObject() {
		return invalid("thinking: must be an object")
	}
	if !r.output.IsNull() && !r.output.IsObject() {
		return invalid("output_config: must be an object")
	}
	s := &r.Settings
	s.Effort = string(r.output.Get("effort").Decode())
	s.Omitted = r.thinking.Get("display").Is("omitted")
	switch string(r.thinking.Get("type").Decode()) {
	case "enabled":
		s.Thinking = true
		s.Effort = effortOfBudget(r.thinking.Get("budget_tokens").Count())
	case "adaptive":
		s.Thinking = true
		if s.Effort == "" {
			s.Effort = "high"
		}
	case "between_tools":
		s.Thinking = true
	case "disabled":
		s.NoThinking, s.Effort = true, ""
	}
	return nil
}

func effortOfBudget(tokens int64) string {
	switch {
	case tokens <= 2048:
		return "low"
	case tokens <= 10000:
		return "medium"
	}
	return "high"
}

// settleFormat reads the schema that the answer shall follow, and the service tier.
func (r *messagesRequest) settleFormat() *Error {
	f := r.output.Get("format")
	if f.IsNull() {
		f = r.format
	}
	if !f.IsNull() {
		if schema := f.Get("schema"); f.Get("type").Is("json_schema") && schema.IsObject() {
			r.Settings.Schema = schema
		} else {
			r.drop("output_config.format")
		}
	}
	switch string(r.tier.Decode()) {
	case "", "auto":
	case "standard_only":
		r.Settings.Tier = TierStandard
	default:
		r.Settings.Tier = TierOther
	}
	return nil
}
