package apexproxy

import (
	"slices"

	"github.com/loadchange/apexproxy/internal/convert"
)

// ChatProfile says how one model at one provider wants to be asked over Chat Completions, for
// requests that are converted to it. The zero value is a provider of which nothing is known: it
// gets max_tokens, sampling, tools and schemas as they are, and no field that only some providers
// take.
//
// Start from [ProfileFor], change what differs, and set it in [Provider].Profile. What a profile
// says is not taken is left out of the request and named in [Record].Dropped.
type ChatProfile struct {
	// Name is that of the built-in row it comes from, for people who print it. Nothing reads it.
	Name string

	// LimitField names the field for the token limit, such as "max_completion_tokens". Empty means
	// "max_tokens".
	LimitField string
	// User says that "user" is taken, for the client's metadata.user_id. One of more than 64
	// characters goes as its hash.
	User bool
	// MaxStop is how many stop sequences are taken; those behind are left out. 0 means any number,
	// less than 0 none.
	MaxStop int
	// NoSampling says that temperature and top_p are refused.
	NoSampling bool
	// ServiceTier says that "service_tier" is taken.
	ServiceTier bool
	// NoUsageOption says that stream_options is refused: the provider tells usage unasked.
	NoUsageOption bool
	// JSONObjectOnly says that response_format knows json_object and not json_schema. The schema
	// goes into the system message instead.
	JSONObjectOnly bool

	// NoTools says that tools are refused.
	NoTools bool
	// NoParallelField says that parallel_tool_calls is refused.
	NoParallelField bool
	// NoStrict says that "strict" is refused in a tool.
	NoStrict bool
	// ShortToolIDs says that the ids of tool calls are exactly nine letters or digits. Others go as
	// a hash of that length.
	ShortToolIDs bool
	// RequiredIsAny says that tool_choice "required" is spelled "any".
	RequiredIsAny bool
	// GeminiSchemas says that schemas are rewritten to Gemini's subset of JSON Schema: references
	// are resolved and unknown keywords left out.
	GeminiSchemas bool
	// MarkPrefill says that an assistant message at the end, which the answer is to go on with,
	// needs "prefix": true.
	MarkPrefill bool

	// Efforts are the values of reasoning_effort that are taken, from least to most. A wanted one
	// that is not among them becomes the nearest below, or the first. Nil means that the field is
	// refused.
	Efforts []string
	// AnyEffort says that every value is taken. It goes before Efforts.
	AnyEffort bool
	// EffortOrTools says that with tools reasoning_effort must be "none".
	EffortOrTools bool
	// Off is the member that switches thinking off, as JSON without a comma, such as
	// `"thinking":{"type":"disabled"}`. Empty means that none is known. [New] refuses other JSON.
	Off string
	// Echo says that the model wants the reasoning of its answer back as reasoning_content in the
	// next request. When the client asked not to be shown it, it travels inside of the thinking
	// block's signature.
	Echo bool
	// EmptyEcho is what goes as reasoning_content with tool calls whose reasoning is lost, for a
	// provider that refuses them without. It is JSON text without its quotes, and read only with
	// Echo.
	EmptyEcho string
	// CallSigned says that Gemini's thought signatures have to come back on tool calls.
	CallSigned bool

	// ReasoningExtra says that completion_tokens leaves the reasoning tokens out: the output is the
	// total less the prompt, in answers and in records.
	ReasoningExtra bool
}

// ProfileFor returns the built-in profile of a model at a provider, the caller's to change. A
// provider that is unknown, or only leads to others ("compat", "dynamic"), is read from the first
// part of a model such as openai/gpt-5.5. If that says nothing either, the profile is "generic"
// with what is known of how the model's family thinks, or, for an empty provider, that family's
// own. Upper and lower case are the same.
func ProfileFor(provider, model string) ChatProfile {
	p := ChatProfile(convert.ProfileFor(provider, model))
	p.Efforts = slices.Clone(p.Efforts)
	return p
}

// setProfile decides how the upstream of a chat request counts, and how it wants to be asked if the
// request is to be converted: as the operator says, or as is known of the model.
func (x *exchange) setProfile(own *ChatProfile, provider string) {
	if !x.converts() && !x.observed {
		return // nobody asks
	}
	var p convert.ChatProfile
	if own != nil {
		p = convert.ChatProfile(*own)
	} else {
		p = convert.ProfileFor(provider, x.model)
	}
	x.reasoningExtra = p.ReasoningExtra
	if x.converts() {
		kept := p // p itself stays on the stack
		x.profile = &kept
	}
}
