package convert

import (
	"slices"
	"strconv"
	"strings"
)

// ChatProfile says how one model at one provider wants to be asked over Chat Completions. The zero
// value is a provider of which nothing is known. The fields are those of the root package's type of
// the same name, in the same order, which has their contracts.
type ChatProfile struct {
	Name string

	LimitField     string
	User           bool
	MaxStop        int
	NoSampling     bool
	ServiceTier    bool
	NoUsageOption  bool
	JSONObjectOnly bool

	NoTools         bool
	NoParallelField bool
	NoStrict        bool
	ShortToolIDs    bool
	RequiredIsAny   bool
	GeminiSchemas   bool
	MarkPrefill     bool

	Efforts       []string
	AnyEffort     bool
	EffortOrTools bool
	Off           string
	Echo          bool
	EmptyEcho     string
	CallSigned    bool

	ReasoningExtra bool
}

const (
	limitNew   = "max_completion_tokens"
	offObject  = `"thinking":{"type":"disabled"}`
	offByLevel = `"reasoning_effort":"none"`
)

var (
	lowToHigh = []string{"low", "medium", "high"}

	// providerRows is the table by provider; familyOf adds what depends on the model.
	providerRows = map[string]ChatProfile{
		"openai":     {LimitField: limitNew, User: true, MaxStop: 4, ServiceTier: true},
		"google":     {MaxStop: 5, GeminiSchemas: true, ReasoningExtra: true},
		"xai":        {User: true, ReasoningExtra: true},
		"groq":       {User: true, MaxStop: 4},
		"cerebras":   {User: true, NoParallelField: true},
		"mistral":    {NoUsageOption: true, ShortToolIDs: true, RequiredIsAny: true, MarkPrefill: true},
		"deepseek":   {JSONObjectOnly: true},
		"moonshot":   {},
		"cohere":     {NoParallelField: true},
		"perplexity": {NoTools: true},
		"workers-ai": {},
		"openrouter": {User: true},
		"generic":    {User: true},
	}

	providerAliases = map[string]string{
		"azure-openai": "openai", "google-ai-studio": "google", "google-vertex-ai": "google",
		"grok": "xai", "x-ai": "xai", "perplexity-ai": "perplexity", "moonshotai": "moonshot", "kimi": "moonshot",
	}

	// families says whose model a name is, by its beginning; the first that fits counts.
	families = []struct{ prefix, row string }{
		{"gpt-oss", "gpt-oss"}, {"gpt-", "openai"}, {"chatgpt-", "openai"}, {"gemini-", "google"}, {"kimi-", "moonshot"},
		{"deepseek-", "deepseek"}, {"grok-", "xai"}, {"mistral-", "mistral"}, {"ministral-", "mistral"}, {"magistral-", "mistral"},
		{"codestral-", "mistral"}, {"devstral-", "mistral"}, {"pixtral-", "mistral"}, {"sonar", "perplexity"}, {"command-", "cohere"},
	}
)

// ProfileFor returns the profile of a model at a provider, after the table in section 0.3 of the
// conversion specification. A provider that is unknown, or only a way to others ("compat",
// "dynamic"), is taken from the first part of model where that is known; failing that the generic
// row applies with the reasoning rules of the model's family, and with the whole row of the family
// when provider is empty. Upper and lower case are the same.
func ProfileFor(provider, model string) ChatProfile {
	model = strings.ToLower(model)
	row := rowName(provider)
	if first, rest, ok := strings.Cut(model, "/"); ok && row == "" {
		if row = rowName(first); row != "" {
			model = rest
		}
	}
	if row == "" && strings.HasPrefix(model, "@cf/") {
		row = "workers-ai"
	}
	name := model[strings.LastIndexByte(model, '/')+1:]
	family := familyOf(name)
	if row == "" {
		row = "generic"
		if _, ok := providerRows[family]; ok && provider == "" || family == "moonshot" {
			row = family
		}
	}
	p := providerRows[row]
	p.Name = row
	switch row {
	case "generic":
		if family == "gpt-oss" || family == "openai" || family == "google" || family == "deepseek" {
			p.reasoning(family, name)
		}
	case "groq", "cerebras":
		if family == "gpt-oss" {
			p.Efforts = lowToHigh
		}
	case "workers-ai":
		if strings.Contains(name, "gpt-oss") {
			p.Efforts = lowToHigh
		}
	case "openrouter":
		p.AnyEffort = true
	case "openai", "google", "xai", "deepseek", "moonshot":
		p.reasoning(row, name)
	}
	return p
}

func rowName(provider string) string {
	provider = strings.ToLower(provider)
	if alias, ok := providerAliases[provider]; ok {
		return alias
	}
	if _, ok := providerRows[provider]; ok && provider != "generic" {
		return provider
	}
	return ""
}

func familyOf(name string) string {
	for _, f := range families {
		if strings.HasPrefix(name, f.prefix) {
			return f.row
		}
	}
	if isOSeries(name) {
		return "openai"
	}
	return ""
}

func isOSeries(name string) bool {
	return len(name) > 1 && name[0] == 'o' && '0' <= name[1] && name[1] <= '9'
}

// reasoning sets what depends on the model within a family.
func (p *ChatProfile) reasoning(family, name string) {
	v := version(name)
	switch family {
	case "gpt-oss":
		p.Efforts = lowToHigh
	case "openai":
		p.openAI(name, v)
	case "google":
		if strings.HasPrefix(name, "gemini-") {
			if v >= 2.5 {
				p.Efforts = lowToHigh
			}
			p.CallSigned = v >= 3
		}
	case "xai":
		mini3 := strings.HasPrefix(name, "grok-3-mini")
		if mini3 || v >= 4.3 || strings.HasPrefix(name, "grok-4.20-multi-agent") {
			p.Efforts = lowToHigh
		}
		if mini3 || v >= 4 || strings.HasPrefix(name, "grok-code") {
			p.MaxStop = -1
		}
	case "deepseek":
		p.AnyEffort, p.Echo, p.Off = true, true, offObject
	case "moonshot":
		if !strings.HasPrefix(name, "kimi-") {
			return
		}
		p.NoSampling, p.NoStrict, p.Echo, p.EmptyEcho = true, true, true, " "
		switch {
		case strings.HasPrefix(name, "kimi-k3"):
			p.Efforts = []string{"low", "high", "max"}
		case strings.HasPrefix(name, "kimi-k2.5"), strings.HasPrefix(name, "kimi-k2.6"):
			p.Off = offObject
		}
	}
}

func (p *ChatProfile) openAI(name string, v float64) {
	switch {
	case strings.HasSuffix(name, "-chat-latest"):
		return
	case isOSeries(name):
		p.Efforts, p.NoParallelField = lowToHigh, true
	case strings.HasPrefix(name, "gpt-oss"):
		p.Efforts = lowToHigh
		return
	case !strings.HasPrefix(name, "gpt-") || v < 5:
		return
	case strings.HasSuffix(name, "-pro") || strings.Contains(name, "-pro-"):
		p.Efforts = []string{"high"}
	case v >= 5.2:
		p.Efforts = []string{"none", "low", "medium", "high", "xhigh"}
	case v >= 5.1:
		p.Efforts = []string{"none", "low", "medium", "high"}
	default:
		p.Efforts = []string{"minimal", "low", "medium", "high"}
	}
	p.NoSampling, p.MaxStop = true, -1
	p.EffortOrTools = v >= 5.4 && strings.HasPrefix(name, "gpt-")
	if slices.Contains(p.Efforts, "none") {
		p.Off = offByLevel
	}
}

// version reads the number behind the first hyphen: 5.4 of gpt-5.4-mini, 0 where there is none. A
// number of three digits or more is a date or a size.
func version(name string) float64 {
	_, s, _ := strings.Cut(name, "-")
	end := 0
	for end < len(s) && (s[end] == '.' || '0' <= s[end] && s[end] <= '9') {
		end++
	}
	v, err := strconv.ParseFloat(strings.TrimRight(s[:end], "."), 64)
	if err != nil || v >= 100 {
		return 0
	}
	return v
}

// effortRank orders the values of both protocols.
var effortRank = map[string]int{"none": 0, "minimal": 1, "low": 2, "medium": 3, "high": 4, "xhigh": 5, "max": 6}

// effort returns the value to send for a wanted one: itself, or the nearest lower one that is
// taken, or the lowest; "" when none is.
func (p *ChatProfile) effort(want string) string {
	if p.AnyEffort {
		return want
	}
	rank, known := effortRank[want]
	if !known {
		return ""
	}
	best := ""
	for _, e := range p.Efforts {
		if best == "" || effortRank[e] <= rank {
			best = e
		}
	}
	return best
}
