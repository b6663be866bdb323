package convert

import (
	"crypto/rand"
	"slices"
	"strings"

	"github.com/loadchange/apexproxy/internal/protocol"
	"github.com/loadchange/apexproxy/internal/rawjson"
)

// Params say where a converted request goes.
type Params struct {
	// Provider is the routed provider, for example "google-ai-studio". Empty means unknown; see
	// [ProfileFor].
	Provider string
	// Model goes into the request's "model" as it is.
	Model string
	// ClientModel is the model as the client wrote it, and stands in the answers. Empty means
	// Model.
	ClientModel string
	// Profile replaces what ProfileFor says. Nil means the table. It is copied.
	Profile *ChatProfile
	// MaxTokens bounds the client's max_tokens. Zero or less means no bound.
	MaxTokens int
	// EstimateInput puts an estimate of the input tokens (see [CountTokens]) into the start of a
	// stream, where most upstreams have not said them yet and clients show them. The end of the
	// stream has the upstream's number.
	EstimateInput bool
	// Strict makes a 400 of every loss that Dropped would name.
	Strict bool
}

// Conversion is one exchange of a client and an upstream that speak different protocols: the
// converted request, and what is needed of it to convert the answer. It holds nothing of the
// request's texts other than the stop sequences. Its methods must not be called concurrently; the
// Events of one Conversion count as calls.
type Conversion struct {
	client   codec
	upstream codec
	body     []byte
	stream   bool
	profile  ChatProfile
	model    rawjson.Value // the client's, as a JSON string
	thinking bool          // was asked for
	omitted  bool          // but is not to be shown
	stops    []string
	names    []rename
	estimate int // of the input tokens, for the start of a stream; 0 when not asked for
	dropped  []string
	id       func() string // letters and digits, another each time
}

// Body returns the converted request, the caller's to keep. When an answer is converted the
// Conversion lets go of it, so that a stream does not hold it to its end; from then on Body returns
// nil.
func (c *Conversion) Body() []byte { return c.body }

// Stream reports whether the client asked for a stream.
func (c *Conversion) Stream() bool { return c.stream }

const maxDropped = 64

// Dropped returns the names of what was left out or changed because the upstream's protocol or the
// provider has no place for it: "top_k", "tools.web_search_20250305",
// "messages.3.content.1:thinking". They are sorted, each stands once, there are at most 64, and
// none holds a value. After an answer was converted they include its losses, "response.…". Prompt
// cache marks are not counted: they do not change what is said.
func (c *Conversion) Dropped() []string {
	slices.Sort(c.dropped)
	return c.dropped
}

func (c *Conversion) drop(name string) {
	if len(c.dropped) < maxDropped && !slices.Contains(c.dropped, name) {
		c.dropped = append(c.dropped, name)
	}
}

// codec is what conversion knows of one protocol: how a client's requests are read and its answers
// written, and how an upstream's requests are written and its answers read. What is nil it does not
// know yet.
type codec struct {
	readRequest  func(body []byte, drop func(string)) (*Conversation, *Error)
	events       func(*buffer, *Conversion) Answer
	document     func(*buffer, *Conversion) Answer
	writeRequest func(*Conversion, *Conversation, *Params, int) *Error
	source       func(c *Conversion, to Answer, whole bool) source
}

var codecs = map[protocol.Protocol]codec{
	protocol.Messages: {readRequest: readMessages, events: newMessagesEvents, document: newMessagesDocument},
	protocol.Chat:     {writeRequest: writeChat, source: newChatAnswer},
}

// Can reports whether requests and answers can be converted between a client's protocol and an
// upstream's.
func Can(client, upstream protocol.Protocol) bool {
	return codecs[client].readRequest != nil && codecs[upstream].writeRequest != nil
}

// Convert converts a request from the client's protocol to the upstream's. body must be valid JSON,
// nested no deeper than [rawjson.MaxDepth]; it may begin with a byte order mark, and is neither
// changed nor retained. The error is always of status 400 and names the field, or says that the
// pair is none of which [Can] says that it is possible. See section 1 of the conversion
// specification for the rules.
//
// Of what it cannot express the conversion tells in [Conversion.Dropped]. Nothing is fetched:
// images by URL go on as URLs. Raw JSON (tool inputs, schemas) keeps its numbers, key order and
// characters.
func Convert(body []byte, client, upstream protocol.Protocol, p Params) (*Conversion, *Error) {
	if !Can(client, upstream) {
		return nil, invalid("this protocol cannot be converted to the provider's")
	}
	c := &Conversion{client: codecs[client], upstream: codecs[upstream], id: rand.Text}
	if p.Profile != nil {
		c.profile = *p.Profile
	} else {
		c.profile = ProfileFor(p.Provider, p.Model)
	}
	if p.ClientModel == "" {
		p.ClientModel = p.Model
	}
	c.model = rawjson.AppendString(nil, p.ClientModel)
	conversation, err := c.client.readRequest(rawjson.Trim(body), c.drop)
	if err != nil {
		return nil, err
	}
	c.settle(&conversation.Settings)
	if p.EstimateInput && c.stream {
		c.estimate = conversation.tokens()
	}
	conversation.normalize(c.drop)
	if err := c.upstream.writeRequest(c, conversation, &p, len(body)); err != nil {
		return nil, err
	}
	if p.Strict && len(c.dropped) > 0 {
		return nil, invalid("cannot be converted for this provider without loss: " + strings.Join(c.Dropped(), ", "))
	}
	return c, nil
}

// settle keeps what the conversion of the answer needs of the settings.
func (c *Conversion) settle(s *Settings) {
	c.stream, c.thinking, c.omitted = s.Stream, s.Thinking, s.Omitted
	for _, stop := range s.Stop {
		c.stops = append(c.stops, string(stop.Decode()))
	}
}
