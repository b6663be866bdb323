package apexproxy

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"maps"
	"net"
	"net/http"
	"syscall"

	"github.com/loadchange/apexproxy/internal/guard"
	"github.com/loadchange/apexproxy/internal/protocol"
)

// reply is an answer that the proxy makes itself. A stage returns one in place of going on.
type reply struct {
	status  int
	fault   string  // RFC 9209 §2.3 error type; empty for an answer that is no error
	code    string  // of low cardinality: OpenAI's error.code and Record.ErrorType
	message string  // for the client: says what to change, holds no secret, no address, no Go error
	outcome Outcome // how the exchange ends with it
	header  http.Header
}

// refuse makes the reply for a request that the proxy does not send on.
func refuse(status int, code, format string, args ...any) *reply {
	fault := "http_request_error"
	switch status {
	case http.StatusUnauthorized, http.StatusForbidden:
		fault = "http_request_denied"
	case http.StatusServiceUnavailable:
		fault = "proxy_internal_response"
	}
	return &reply{status: status, fault: fault, code: code, message: fmt.Sprintf(format, args...), outcome: OutcomeRejected}
}

func (rp *reply) with(name, value string) *reply {
	if rp.header == nil {
		rp.header = http.Header{}
	}
	rp.header.Set(name, value)
	return rp
}

// badUpstream makes the reply for an upstream that gave no answer which could be sent on.
func badUpstream(code, message string) *reply {
	return &reply{status: 502, outcome: OutcomeUpstreamError, fault: code, code: code, message: message}
}

// write sends rp to the client.
func (p *Proxy) write(x *exchange, rp *reply) {
	w, r := x.w, x.r
	x.reply = rp
	x.extendDeadline()
	h := w.Header()
	if !x.read && r.ContentLength != 0 && r.ProtoMajor == 1 {
		// Without it net/http reads up to 256 KiB of the body that nobody read before it sends the
		// answer.
		h.Set("Connection", "close")
	}
	maps.Copy(h, rp.header)
	if r.Method == http.MethodOptions {
		p.cors.Preflight(h, r.Header)
	} else {
		p.cors.Apply(h, r.Header.Get("Origin"))
	}
	body := []byte(rp.message)
	if rp.fault != "" {
		h.Set("Proxy-Status", "apexproxy; error="+rp.fault)
		h.Set(x.requestIDHeader(), x.id)
		body = protocol.Error(x.client, protocol.ClassOf(rp.status), rp.code, rp.message, x.id)
	}
	if len(body) > 0 {
		h.Set("Content-Type", "application/json")
		h.Set("X-Content-Type-Options", "nosniff")
	}
	w.WriteHeader(rp.status)
	if r.Method != http.MethodHead {
		n, _ := w.Write(body)
		x.answered = int64(n)
	} else {
		body = nil
	}
	x.content.replied(h, body)
}

// statusClientClosed is nginx's number for a client that left before the answer began. It is for
// the host's access log: nobody else is there.
const statusClientClosed = 499

// unreachable says in our words why no answer came from the upstream. ctx is the client's.
func unreachable(ctx context.Context, err error) *reply {
	if errors.Is(ctx.Err(), context.Canceled) {
		return &reply{status: statusClientClosed, code: "client_closed", outcome: OutcomeClientClosed}
	}
	var (
		dns     *net.DNSError
		op      *net.OpError
		cert    *tls.CertificateVerificationError
		record  tls.RecordHeaderError
		timeout net.Error
	)
	late := func(fault, message string) *reply {
		return &reply{status: 504, outcome: OutcomeTimeout, fault: fault, code: fault, message: message}
	}
	switch {
	case errors.Is(err, guard.ErrBlocked):
		return prohibited()
	case errors.As(err, &cert):
		return badUpstream("tls_certificate_error", "the upstream's certificate could not be verified")
	case errors.As(err, &record):
		return badUpstream("tls_protocol_error", "the upstream does not speak TLS on this port")
	case errors.As(err, &op) && op.Op == "remote error": // how crypto/tls reports an alert
		return badUpstream("tls_alert_received", "the upstream refused the TLS handshake")
	case errors.Is(err, context.DeadlineExceeded), errors.As(err, &timeout) && timeout.Timeout():
		if errors.As(err, &op) && op.Op == "dial" {
			return late("connection_timeout", "the upstream could not be reached in time: try again")
		}
		return late("http_response_timeout", "the upstream did not answer in time: try again")
	case errors.As(err, &dns):
		return badUpstream("dns_error", "the upstream's name could not be resolved: check the host")
	case errors.Is(err, syscall.ECONNREFUSED):
		return badUpstream("connection_refused", "the upstream refused the connection: check host and port")
	case errors.As(err, &op) && op.Op == "dial":
		return badUpstream("destination_unavailable", "the upstream could not be reached: check host and port")
	}
	return badUpstream("connection_terminated", "the upstream closed the connection before it answered: try again")
}

// prohibited refuses a host that is not on the public internet.
func prohibited() *reply {
	return &reply{status: 403, outcome: OutcomeRejected, fault: "destination_ip_prohibited", code: "destination_ip_prohibited",
		message: "the host in X-APEX-AI-PROXY-PROVIDER has no public address: name a public host"}
}
