package apexproxytest

import (
	"fmt"
	"io"
	"net/http"
	"strings"

	"github.com/tidwall/gjson"
)

// Answer is what [Provider] says, and AnswerWords is how it streams it.
const Answer = "Hello from the provider."

// AnswerWords returns the deltas in which [Provider] streams [Answer].
func AnswerWords() []string { return strings.SplitAfter(Answer, " ") }

// Provider returns a handler that answers as a provider would, by the end of the path:
// chat/completions, messages, messages/count_tokens, responses, embeddings and models. It streams
// when the body's stream is true, adds a usage chunk to a chat stream when
// stream_options.include_usage is true, and repeats the request's model. Other paths are 501. The
// anthropic-version header selects the shape of models.
func Provider() http.Handler { return http.HandlerFunc(provide) }

func provide(w http.ResponseWriter, r *http.Request) {
	body, err := io.ReadAll(r.Body)
	if err != nil {
		panic(http.ErrAbortHandler)
	}
	model := gjson.GetBytes(body, "model").String()
	reply := func(whole string, events []string) http.Handler {
		if gjson.GetBytes(body, "stream").Bool() {
			return SSE(events...)
		}
		return JSON(http.StatusOK, whole)
	}
	path := r.URL.Path
	w.Header().Set("Request-Id", "req_test")   // Anthropic's name
	w.Header().Set("X-Request-Id", "req_test") // OpenAI's
	var h http.Handler
	switch {
	case r.Method == http.MethodGet && isModels(path):
		h = JSON(http.StatusOK, modelList(r))
	case strings.HasSuffix(path, "/chat/completions"):
		usage := gjson.GetBytes(body, "stream_options.include_usage").Bool()
		h = reply(chatCompletion(model, Answer), chatStream(model, usage, AnswerWords()))
	case strings.HasSuffix(path, "/messages/count_tokens"):
		h = JSON(http.StatusOK, fmt.Sprintf(`{"input_tokens":%d}`, InputTokens))
	case strings.HasSuffix(path, "/messages"):
		h = reply(message(model, Answer), messageStream(model, AnswerWords()))
	case strings.HasSuffix(path, "/responses"):
		h = reply(response(model, Answer), responseStream(model, AnswerWords()))
	case strings.HasSuffix(path, "/embeddings"):
		h = JSON(http.StatusOK, embeddings(model))
	default:
		h = ProviderError(http.StatusNotImplemented, "apexproxytest has no canonical answer for "+path)
	}
	h.ServeHTTP(w, r)
}

func isModels(path string) bool {
	return strings.HasSuffix(path, "/models") || strings.Contains(path, "/models/")
}

func modelList(r *http.Request) string {
	switch {
	case r.Header.Get("Anthropic-Version") != "":
		return `{"data":[{"type":"model","id":"claude-opus-4-7","display_name":"Claude Opus 4.7","created_at":"2026-01-01T00:00:00Z"}],` +
			`"has_more":false,"first_id":"claude-opus-4-7","last_id":"claude-opus-4-7"}`
	case strings.HasSuffix(r.URL.Path, "/v1beta/models"):
		return `{"models":[{"name":"models/gemini-3-pro","displayName":"Gemini 3 Pro","supportedGenerationMethods":["generateContent"]}]}`
	}
	return `{"object":"list","data":[{"id":"gpt-5.5","object":"model","created":1767225600,"owned_by":"openai"}]}`
}

// ProviderError answers with an error in the provider's own shape: Anthropic's for paths that end
// in messages or count_tokens and for requests with an anthropic-version header, Google's JSON
// array for its OpenAI-compatible paths, OpenAI's otherwise. header holds alternating names and
// values.
func ProviderError(status int, message string, header ...string) http.Handler {
	headerPairs(header)
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		w.Header().Set("Request-Id", "req_test")
		JSON(status, providerError(r, status, message), header...).ServeHTTP(w, r)
	})
}

func providerError(r *http.Request, status int, message string) string {
	path := r.URL.Path
	switch {
	case strings.Contains(path, "/v1beta/openai/"):
		return fmt.Sprintf(`[{"error":{"code":%d,"message":%s,"status":%s}}]`, status, quote(message), quote(googleStatus(status)))
	case strings.HasSuffix(path, "/messages"), strings.HasSuffix(path, "/count_tokens"), r.Header.Get("Anthropic-Version") != "":
		return fmt.Sprintf(`{"type":"error","error":{"type":%s,"message":%s},"request_id":"req_test"}`, quote(anthropicType(status)), quote(message))
	}
	typ, code := openAIType(status)
	return fmt.Sprintf(`{"error":{"message":%s,"type":%s,"param":null,"code":%s}}`, quote(message), quote(typ), code)
}

// anthropicType follows https://platform.claude.com/docs/en/api/errors.
func anthropicType(status int) string {
	switch status {
	case 401:
		return "authentication_error"
	case 402:
		return "billing_error"
	case 403:
		return "permission_error"
	case 404:
		return "not_found_error"
	case 413:
		return "request_too_large"
	case 429:
		return "rate_limit_error"
	case 504:
		return "timeout_error"
	case 529:
		return "overloaded_error"
	}
	if status < 500 {
		return "invalid_request_error"
	}
	return "api_error"
}

func openAIType(status int) (typ, code string) {
	switch {
	case status == 401:
		return "invalid_request_error", `"invalid_api_key"`
	case status == 404:
		return "invalid_request_error", `"model_not_found"`
	case status == 429:
		return "requests", `"rate_limit_exceeded"`
	case status < 500:
		return "invalid_request_error", "null"
	}
	return "server_error", "null"
}

func googleStatus(status int) string {
	switch status {
	case 401:
		return "UNAUTHENTICATED"
	case 403:
		return "PERMISSION_DENIED"
	case 404:
		return "NOT_FOUND"
	case 429:
		return "RESOURCE_EXHAUSTED"
	case 501:
		return "UNIMPLEMENTED"
	case 503:
		return "UNAVAILABLE"
	}
	if status < 500 {
		return "INVALID_ARGUMENT"
	}
	return "INTERNAL"
}

// RateLimited answers 429 in the provider's shape with the headers that clients obey or show:
// retry-after: 7, x-should-retry: true, x-ratelimit-*, anthropic-ratelimit-*, request-id and
// x-request-id.
func RateLimited() http.Handler {
	return ProviderError(http.StatusTooManyRequests, "Rate limit reached. Please try again in 7s.",
		"Retry-After", "7",
		"X-Should-Retry", "true",
		"X-Request-Id", "req_test",
		"X-Ratelimit-Limit-Requests", "60",
		"X-Ratelimit-Remaining-Requests", "0",
		"X-Ratelimit-Reset-Requests", "7s",
		"X-Ratelimit-Limit-Tokens", "150000",
		"X-Ratelimit-Remaining-Tokens", "149984",
		"X-Ratelimit-Reset-Tokens", "6ms",
		"Anthropic-Ratelimit-Requests-Limit", "50",
		"Anthropic-Ratelimit-Requests-Remaining", "0",
		"Anthropic-Ratelimit-Requests-Reset", "2026-01-01T00:00:07Z",
		"Anthropic-Ratelimit-Tokens-Limit", "40000",
		"Anthropic-Ratelimit-Tokens-Remaining", "39000",
		"Anthropic-Ratelimit-Tokens-Reset", "2026-01-01T00:00:07Z")
}
