package protocol

import (
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
)

// TestClasses pins the whole table: status, and how either family of protocols spells it.
func TestClasses(t *testing.T) {
	t.Parallel()
	type row struct {
		Class             Class
		OpenAI, Anthropic string
	}
	const invalid = "invalid_request_error"
	for status, want := range map[int]row{
		304: {InvalidRequest, invalid, invalid},
		400: {InvalidRequest, invalid, invalid},
		401: {Authentication, "authentication_error", "authentication_error"},
		402: {Billing, "insufficient_quota", "billing_error"},
		403: {Permission, "permission_error", "permission_error"},
		404: {NotFound, "not_found_error", "not_found_error"},
		408: {SlowRequest, "timeout_error", "timeout_error"},
		409: {Conflict, "conflict_error", "conflict_error"},
		413: {TooLarge, invalid, "request_too_large"},
		418: {InvalidRequest, invalid, invalid},
		429: {RateLimit, "rate_limit_error", "rate_limit_error"},
		500: {Internal, "server_error", "api_error"},
		502: {Internal, "server_error", "api_error"},
		503: {Overloaded, "server_error", "overloaded_error"},
		504: {SlowUpstream, "server_error", "timeout_error"},
		520: {Internal, "server_error", "api_error"},
		529: {Overloaded, "server_error", "overloaded_error"},
	} {
		c := ClassOf(status)
		if diff := cmp.Diff(want, row{c, c.Word(Responses), c.Word(Messages)}); diff != "" {
			t.Errorf("%d (-want +got):\n%s", status, diff)
		}
	}
}

func TestError(t *testing.T) {
	t.Parallel()
	const message = `a "quoted" <b> & a line
end`
	escaped := `a \"quoted\" <b> & a line\nend`
	for p, want := range map[Protocol]string{
		None:      `{"error":{"message":"` + escaped + `","type":"server_error","code":"proxy_busy"}}`,
		Chat:      `{"error":{"message":"` + escaped + `","type":"server_error","code":"proxy_busy"}}`,
		Responses: `{"error":{"message":"` + escaped + `","type":"server_error","code":"proxy_busy"}}`,
		Messages:  `{"type":"error","error":{"type":"overloaded_error","message":"` + escaped + `"},"request_id":"req_1"}`,
	} {
		if diff := cmp.Diff(want+"\n", string(Error(p, Overloaded, "proxy_busy", message, "req_1"))); diff != "" {
			t.Errorf("%d (-want +got):\n%s", p, diff)
		}
	}
	if got := string(Error(Chat, NotFound, "", "m", "")); !strings.Contains(got, `"code":null`) {
		t.Errorf("without a code: %s", got)
	}
}
