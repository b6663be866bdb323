package apexproxytest

import (
	"fmt"
	"net/http"
)

// AiGatewayError answers as the gateway does when it refuses a request itself: error is an array,
// name and internalCode tell it from a provider's error. header holds alternating names and values,
// such as Retry-After.
//
// Codes seen in public: 2001 unknown gateway, 2003 rate limited, 2008 invalid provider, 2009
// unauthorized, 2016 and 2017 guardrails, 2019 bad format or unsupported compat endpoint, 2021 no
// credit, 2029 and 2030 DLP, 2040 unknown key alias, 2041 spend limit, 2044 no key.
func AiGatewayError(status, code int, message string, header ...string) http.Handler {
	return JSON(status, fmt.Sprintf(`{"success":false,"result":[],"messages":[],"error":[{"code":%d,"message":%s}],`+
		`"name":"AiGatewayError","httpCode":%d,"internalCode":%d,"message":%s,"description":%s}`,
		code, quote(message), status, code, quote(message), quote(message)), header...)
}

// V4Error answers with the envelope of Cloudflare's API v4, as Workers AI behind the gateway does:
// errors is an array, result null. header is as in [JSON].
func V4Error(status, code int, message string, header ...string) http.Handler {
	return JSON(status, fmt.Sprintf(`{"result":null,"success":false,"errors":[{"code":%d,"message":%s}],"messages":[]}`,
		code, quote(message)), header...)
}

// PolicyError answers as a gateway policy does: error is an object that has nothing but a message.
// header is as in [JSON].
func PolicyError(status int, message string, header ...string) http.Handler {
	return JSON(status, fmt.Sprintf(`{"success":false,"error":{"message":%s}}`, quote(message)), header...)
}
