package main

import "github.com/loadchange/apexproxy/apexproxytest"

// example is one request and what must come of it. Headers are written
// "Name: value", as curl's -H takes them.
type example struct {
	title  string
	path   string
	header []string
	body   string
	events []string // the provider streams these; nil: it answers as a whole

	url     string   // where the request must arrive; empty: nowhere
	arrives []string // headers that must arrive there; one without a value must not
	model   string   // in the body that arrives, which is the client's own in every other byte
	// converted holds "path: value" of the body that arrives where it is not
	// the client's own but one in another protocol.
	converted []string
	status    int
	text      string // of the answer
}

const (
	hiOpenAI    = `{"model":"gpt-5.5#openai","messages":[{"role":"user","content":"hi"}]}`
	hiAnthropic = `{"model":"claude-opus-4.7#anthropic","max_tokens":1000,"messages":[{"role":"user","content":"hi"}]}`

	seedMapping = "X-APEX-AI-PROXY-MAPPING: claude-opus-4.7#mimo-v2.5-pro,claude-sonnet-4-6#mimo-v2.5"
)

// examples returns the list. In passthrough the in-process upstream has the
// place of zenmux.ai; paths and headers are the same.
func examples(gateway *apexproxytest.Gateway, upstream *apexproxytest.Upstream) []example {
	// The gateway's token travels in its own header. Any provider key beside
	// it, even a dummy, would beat the key that the gateway has stored.
	gatewayHeaders := []string{"cf-aig-authorization: Bearer " + gatewayToken, "authorization:", "x-api-key:"}
	streamed := apexproxytest.MessageStream(apexproxytest.AnswerWords()...)

	return []example{
		{
			title:   "Gateway, OpenAI style",
			path:    "/v1/chat/completions",
			header:  []string{"Authorization: Bearer " + gatewayToken},
			body:    hiOpenAI,
			url:     gateway.BaseURL() + "/openai/chat/completions",
			arrives: gatewayHeaders,
			model:   "gpt-5.5",
			status:  200,
			text:    apexproxytest.Answer,
		},
		{
			title:   "Gateway, Anthropic style",
			path:    "/v1/messages",
			header:  []string{"Authorization: Bearer " + gatewayToken, "anthropic-version: 2023-06-01"},
			body:    hiAnthropic,
			url:     gateway.BaseURL() + "/anthropic/v1/messages",
			arrives: append([]string{"anthropic-version: 2023-06-01"}, gatewayHeaders...),
			model:   "claude-opus-4.7",
			status:  200,
			text:    apexproxytest.Answer,
		},
		{
			title:   "Gateway, a stream; the client sends its token as the Anthropic SDK does",
			path:    "/v1/messages",
			header:  []string{"x-api-key: " + gatewayToken, "anthropic-version: 2023-06-01"},
			body:    `{"model":"claude-opus-4.7#anthropic","stream":true,"max_tokens":9,"messages":[{"role":"user","content":"hi"}]}`,
			events:  streamed,
			url:     gateway.BaseURL() + "/anthropic/v1/messages",
			arrives: gatewayHeaders,
			model:   "claude-opus-4.7",
			status:  200,
			text:    apexproxytest.Answer,
		},
		{
			title:   "Gateway, an Anthropic client on an OpenAI model: converted both ways",
			path:    "/v1/messages",
			header:  []string{"x-api-key: " + gatewayToken, "anthropic-version: 2023-06-01"},
			body:    `{"model":"gpt-5.5#openai","max_tokens":1000,"messages":[{"role":"user","content":"hi"}]}`,
			url:     gateway.BaseURL() + "/openai/chat/completions",
			arrives: append([]string{"anthropic-version:"}, gatewayHeaders...),
			model:   "gpt-5.5",
			converted: []string{
				"model: gpt-5.5", "max_completion_tokens: 1000", "max_tokens:", "messages.0.role: user", "messages.0.content: hi",
			},
			status: 200,
			text:   apexproxytest.Answer,
		},
		{
			title: "Passthrough, OpenAI style",
			path:  "/v1/chat/completions",
			header: []string{
				"Authorization: Bearer fake-upstream-key",
				"X-APEX-AI-PROXY-PROVIDER: " + upstream.Host + "/api",
				"X-APEX-AI-PROXY-TYPE: chat-completions",
			},
			body:    `{"model":"gpt-5.4","messages":[{"role":"user","content":"hi"}]}`,
			url:     upstream.URL + "/api/v1/chat/completions",
			arrives: []string{"authorization: Bearer fake-upstream-key", "cf-aig-authorization:"},
			model:   "gpt-5.4",
			status:  200,
			text:    apexproxytest.Answer,
		},
		{
			title: "Passthrough, Anthropic style",
			path:  "/v1/messages",
			header: []string{
				"x-api-key: fake-upstream-key",
				"anthropic-version: 2023-06-01",
				"X-APEX-AI-PROXY-PROVIDER: " + upstream.Host + "/api/anthropic",
				"X-APEX-AI-PROXY-TYPE: anthropic",
			},
			body:    `{"model":"claude-sonnet-4-6","max_tokens":1000,"messages":[{"role":"user","content":"hi"}]}`,
			url:     upstream.URL + "/api/anthropic/v1/messages",
			arrives: []string{"x-api-key: fake-upstream-key", "anthropic-version: 2023-06-01", "cf-aig-authorization:"},
			model:   "claude-sonnet-4-6",
			status:  200,
			text:    apexproxytest.Answer,
		},
		{
			title:   "Mapping through the gateway: the client's #provider stays",
			path:    "/v1/messages",
			header:  []string{"Authorization: Bearer " + gatewayToken, "anthropic-version: 2023-06-01", seedMapping},
			body:    hiAnthropic,
			url:     gateway.BaseURL() + "/anthropic/v1/messages",
			arrives: gatewayHeaders,
			model:   "mimo-v2.5-pro",
			status:  200,
			text:    apexproxytest.Answer,
		},
		{
			title: "Mapping in passthrough",
			path:  "/v1/messages",
			header: []string{
				"x-api-key: fake-upstream-key",
				"anthropic-version: 2023-06-01",
				"X-APEX-AI-PROXY-PROVIDER: " + upstream.Host + "/api/anthropic",
				seedMapping,
			},
			body:    `{"model":"claude-sonnet-4-6","max_tokens":1000,"messages":[{"role":"user","content":"hi"}]}`,
			url:     upstream.URL + "/api/anthropic/v1/messages",
			arrives: []string{"x-api-key: fake-upstream-key", "cf-aig-authorization:"},
			model:   "mimo-v2.5",
			status:  200,
			text:    apexproxytest.Answer,
		},
		{
			title:   "Mapping to another provider, for a client that cannot say #provider",
			path:    "/v1/chat/completions",
			header:  []string{"Authorization: Bearer " + gatewayToken, "X-APEX-AI-PROXY-MAPPING: gpt-5.5#grok-4#grok"},
			body:    `{"model":"gpt-5.5","messages":[{"role":"user","content":"hi"}]}`,
			url:     gateway.BaseURL() + "/grok/v1/chat/completions",
			arrives: gatewayHeaders,
			model:   "grok-4",
			status:  200,
			text:    apexproxytest.Answer,
		},
		{
			title:  "Refused: the wrong token",
			path:   "/v1/chat/completions",
			header: []string{"Authorization: Bearer not-the-token"},
			body:   hiOpenAI,
			status: 401,
			text:   "no valid key: present the proxy's token as Authorization: Bearer or x-api-key",
		},
	}
}
