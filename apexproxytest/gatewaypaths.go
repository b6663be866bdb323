package apexproxytest

import (
	"net/url"
	"strings"
)

// providerPaths is what stands behind each slug: the documented paths and those that follow from
// the rule that the gateway appends the rest of the path to the provider's own base. Sources:
// https://developers.cloudflare.com/ai-gateway/usage/providers/ and the provider registry in
// github.com/cloudflare/ai. Where the two disagree about a leading v1, both are here.
var providerPaths = map[string][]string{
	"openai": {
		"POST chat/completions", "POST responses", "POST embeddings", "GET models", "GET models/*",
		"POST v1/chat/completions", "POST v1/responses", "POST v1/embeddings", "GET v1/models", "GET v1/models/*",
	},
	"anthropic": {
		"POST v1/messages", "POST v1/messages/count_tokens", "POST v1/chat/completions", "GET v1/models", "GET v1/models/*",
	},
	"google-ai-studio": {
		"POST v1beta/openai/chat/completions", "POST v1beta/openai/embeddings", "GET v1beta/openai/models",
		"GET v1beta/models", "POST v1beta/models/*",
	},
	"groq":     {"POST chat/completions", "POST responses", "GET models", "GET models/*"},
	"mistral":  {"POST v1/chat/completions", "POST v1/embeddings", "GET v1/models", "GET v1/models/*"},
	"grok":     {"POST v1/chat/completions", "POST v1/messages", "POST v1/responses", "POST v1/embeddings", "GET v1/models", "GET v1/models/*"},
	"deepseek": {"POST chat/completions", "POST anthropic/v1/messages", "GET models"},
	"cerebras": {"POST chat/completions", "POST v1/chat/completions", "GET models", "GET v1/models"},
	"cohere": {
		"POST v1/chat", "POST compatibility/v1/chat/completions", "POST compatibility/v1/embeddings", "GET v1/models",
	},
	"perplexity-ai": {"POST chat/completions", "POST v1/responses", "GET v1/models"},
	"azure-openai":  {"POST */*/chat/completions", "POST */*/embeddings", "POST */openai/responses"},
	"azure":         {"POST */anthropic/v1/messages"},
	"openrouter": {
		"POST chat/completions", "POST v1/chat/completions", "POST v1/messages", "POST v1/responses", "POST v1/embeddings", "GET v1/models",
	},
	"workers-ai":       {"POST v1/chat/completions", "POST v1/embeddings", "POST @cf/*/*"},
	"google-vertex-ai": {"POST v1/projects/*/locations/*/publishers/*/models/*"},
	"aws-bedrock":      {"POST bedrock-runtime/*/model/*/invoke", "POST bedrock-mantle/*/anthropic/v1/messages"},
	"compat":           {"POST chat/completions", "POST v1/chat/completions", "GET models", "GET v1/models"},
}

// compatPrefixes lists what may stand before the slash in a model on the compat endpoint, with the
// slug of its stored key. Source:
// https://developers.cloudflare.com/ai-gateway/usage/chat-completion/.
var compatPrefixes = map[string]string{
	"openai": "openai", "anthropic": "anthropic", "google-ai-studio": "google-ai-studio", "groq": "groq", "mistral": "mistral",
	"grok": "grok", "deepseek": "deepseek", "cerebras": "cerebras", "cohere": "cohere", "perplexity": "perplexity-ai",
	"azure-openai": "azure-openai", "workers-ai": "workers-ai", "google-vertex-ai": "google-vertex-ai", "aws-bedrock": "aws-bedrock",
	"baseten": "baseten", "parallel": "parallel",
	"dynamic": "dynamic",
}

// unifiedBilling lists the providers that Cloudflare bills. Source:
// https://developers.cloudflare.com/ai-gateway/features/unified-billing/.
var unifiedBilling = []string{"openai", "anthropic", "google-ai-studio", "google-vertex-ai", "grok", "groq", "dynamic", "cloudflare"}

// compatModels has the shape that GET compat/models is documented with.
const compatModels = `{"object":"list","data":[` +
	`{"id":"openai/gpt-5.5","object":"model","created_at":1767225600,"cost_in":0.00000125,"cost_out":0.00001,"owned_by":"openai"},` +
	`{"id":"anthropic/claude-opus-4.7","object":"model","created_at":1767225600,"cost_in":0.000005,"cost_out":0.000025,"owned_by":"anthropic"},` +
	`{"id":"google-ai-studio/gemini-3-pro","object":"model","created_at":1767225600,"cost_in":0.000002,"cost_out":0.000012,"owned_by":"google-ai-studio"},` +
	`{"id":"workers-ai/@cf/meta/llama-4-scout-17b-16e-instruct","object":"model","created_at":1767225600,"cost_in":2.7e-7,"cost_out":8.5e-7,"owned_by":"workers-ai"},` +
	`{"id":"perplexity/sonar","object":"model","created_at":1767225600,"cost_in":0.000001,"cost_out":0.000001,"owned_by":"perplexity"}]}`

func (g *Gateway) paths(slug string) (patterns []string, known bool) {
	if patterns, known = g.cfg.Paths[slug]; known {
		return patterns, true
	}
	if name, ok := strings.CutPrefix(slug, "custom-"); ok && name != "" {
		return []string{"*"}, true
	}
	patterns, known = providerPaths[slug]
	return patterns, known
}

// matches reports whether a pattern of method and path fits. segs are escaped and not empty.
func matches(pattern, method string, segs []string) bool {
	if pattern == "*" {
		return true
	}
	verb, path, _ := strings.Cut(pattern, " ")
	want := strings.Split(path, "/")
	if verb != method || len(want) != len(segs) {
		return false
	}
	for i, w := range want {
		if name, _ := url.PathUnescape(segs[i]); w != "*" && w != name {
			return false
		}
	}
	return true
}

// compatProvider returns the slug whose key a model on the compat endpoint needs.
func compatProvider(model string) (slug string, ok bool) {
	prefix, name, _ := strings.Cut(model, "/")
	if name == "" || strings.Contains(model, "#") {
		return "", false
	}
	switch {
	case prefix == "cloudflare":
		return "cloudflare", name == "auto"
	case prefix == "workers-ai" && !strings.HasPrefix(name, "@"):
		return "", false
	case strings.HasPrefix(prefix, "custom-"):
		return prefix, prefix != "custom-"
	}
	slug, ok = compatPrefixes[prefix]
	return slug, ok
}
