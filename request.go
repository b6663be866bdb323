package apexproxy

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"net/http"
	"os"
	"strings"

	"github.com/tidwall/gjson"
	"github.com/tidwall/sjson"

	"github.com/loadchange/apexproxy/internal/body"
	"github.com/loadchange/apexproxy/internal/convert"
	"github.com/loadchange/apexproxy/internal/protocol"
	"github.com/loadchange/apexproxy/internal/rawjson"
	"github.com/loadchange/apexproxy/internal/relay"
)

// request is the client's body on its way through the proxy: received, then read as text where
// somebody has to understand it, then outbound.
type request struct {
	allowance  body.Reader // what may be held of it, and what is
	read       bool        // all of it has come
	size       int64       // of received
	received   []byte      // as the client sent it; nil until it is read
	encoding   string      // Content-Encoding of received; empty: none
	text       []byte      // received as JSON, inflated; nil when nobody has to read it
	doc        body.Doc    // where in text the members are that the proxy reads
	outbound   []byte      // as it goes upstream; nil: nothing does
	asReceived bool        // outbound is received, encoding and all
	hideUsage  bool        // outbound asks for usage that the client did not: it must not see the chunk
	loan       relay.Loan  // of outbound to the transport
	conversion *convert.Conversion
}

// receive reads the client's body once, whole and bounded.
func (p *Proxy) receive(x *exchange) *reply {
	src := io.Reader(x.r.Body)
	if x.r.Body == nil {
		src = http.NoBody
	}
	b, err := x.allowance.Read(src, x.r.ContentLength)
	if x.size = int64(len(b)); err != nil {
		return p.unreadable(x, err)
	}
	x.received, x.read = b, true
	x.encoding = strings.ToLower(strings.TrimSpace(strings.Join(x.r.Header["Content-Encoding"], ",")))
	if x.encoding == "identity" {
		x.encoding = ""
	}
	x.content.request(b)
	return nil
}

// unreadable says why a request's body could not be read, or held.
func (p *Proxy) unreadable(x *exchange, err error) *reply {
	var tooLarge *http.MaxBytesError
	switch {
	case errors.Is(err, body.ErrTooLarge), errors.As(err, &tooLarge):
		return refuse(413, "request_too_large", "the request body is larger than %d bytes: send less", p.maxRequest)
	case errors.Is(err, body.ErrBusy):
		return refuse(503, "proxy_busy", "the proxy is holding as many request bodies as it may: try again").with("Retry-After", "1")
	case errors.Is(err, body.ErrEncoding):
		return refuse(400, "invalid_encoding", "the body is not the gzip that Content-Encoding says")
	case errors.Is(err, os.ErrDeadlineExceeded):
		return refuse(408, "request_timeout", "the request body did not arrive in time")
	case x.r.Context().Err() != nil, errors.Is(err, io.ErrUnexpectedEOF):
		rp := refuse(400, "client_closed", "the request body ended early")
		rp.status, rp.outcome = statusClientClosed, OutcomeClientClosed
		return rp
	default:
		return refuse(400, "invalid_body", "the request body could not be read")
	}
}

// understand reads the body as JSON text, inflated if it came as gzip, and finds the members that
// the proxy reads.
func (p *Proxy) understand(x *exchange) *reply {
	text := x.received
	var err error
	switch {
	case isGzip(x.encoding):
		if text, err = x.allowance.Inflate(text); err != nil {
			return p.unreadable(x, err)
		}
	case x.encoding != "":
		return refuse(415, "unsupported_encoding",
			"Content-Encoding %s cannot be read here: send the body as gzip or unencoded", quoteShort(x.encoding)).
			with("Accept-Encoding", "gzip, identity")
	}
	if x.doc, err = body.Scan(text); err != nil {
		return invalidJSON(err)
	}
	x.text = text
	x.stream = x.doc.Stream.True(text)
	return nil
}

// invalidJSON says what a scan has found, nil if nothing.
func invalidJSON(err error) *reply {
	var syntax *rawjson.SyntaxError
	switch {
	case err == nil:
		return nil
	case errors.As(err, &syntax):
		return refuse(400, "invalid_json", "the request body is not valid JSON at byte %d", syntax.Offset)
	}
	return refuse(400, "invalid_json", "the request body is nested too deeply")
}

// prepare makes the outbound body: as it came, with another model, or converted. What needs no
// upstream after all it answers.
func (p *Proxy) prepare(x *exchange) *reply {
	switch {
	case x.text == nil, x.encoding != "" && !x.rewrite && !x.converts():
		x.outbound, x.asReceived = x.received, true
		return nil
	case x.estimates():
		return p.estimate(x)
	case x.converts():
		return p.convert(x)
	}
	b := x.text
	if x.askUsage {
		b, x.hideUsage = askForUsage(b, &x.doc)
	}
	if x.rewrite {
		b = body.Replace(b, x.doc.Model, x.model)
	}
	if x.client == protocol.Messages {
		b = convert.StripOwnThinking(b)
	}
	if len(b) > len(x.received) {
		// A longer body is a copy: both are held now.
		if err := x.allowance.Charge(int64(len(b))); err != nil {
			return p.unreadable(x, err)
		}
	}
	x.outbound = b
	return nil
}

// estimate counts tokens where only Anthropic could have counted them.
func (p *Proxy) estimate(x *exchange) *reply {
	n, failed := convert.CountTokens(x.text)
	if failed != nil {
		return refuse(failed.Status, "invalid_request", "%s", failed.Message)
	}
	return (&reply{status: 200, message: fmt.Sprintf(`{"input_tokens":%d}`, n), outcome: OutcomeCompleted}).
		with("X-Apex-Ai-Proxy-Estimate", "input_tokens")
}

// convert makes a request in the upstream's protocol of one in the client's.
func (p *Proxy) convert(x *exchange) *reply {
	if !x.doc.Whole {
		// A text may go into another one, where what is wrong with it would break more than itself.
		if rp := invalidJSON(rawjson.Scan(x.text, nil)); rp != nil {
			return rp
		}
	}
	c, failed := convert.Convert(x.text, x.client, x.upstream, convert.Params{
		Model: x.model, ClientModel: x.clientModel, Profile: x.profile, Strict: p.strict, EstimateInput: true,
	})
	if failed != nil {
		return refuse(failed.Status, "invalid_request", "%s", failed.Message)
	}
	x.conversion, x.outbound = c, c.Body()
	if err := x.allowance.Charge(int64(cap(x.outbound))); err != nil {
		return p.unreadable(x, err)
	}
	return nil
}

// askForUsage sets stream_options.include_usage unless the client did, moves doc's model along, and
// reports whether it changed that. A stream_options that is no object, or that comes twice, is left
// to the client and the provider.
func askForUsage(b []byte, doc *body.Doc) ([]byte, bool) {
	m := doc.StreamOptions
	options := []byte(`"stream_options":{"include_usage":true},`)
	switch {
	case m.Count == 0:
		m.Start = bytes.IndexByte(b, '{') + 1
		m.End = m.Start
	case m.Count > 1 || b[m.Start] != '{':
		return b, false
	default:
		old := b[m.Start:m.End]
		if gjson.GetBytes(old, "include_usage").Type == gjson.True {
			return b, false
		}
		var err error
		if options, err = sjson.SetRawBytes(old, "include_usage", []byte("true")); err != nil {
			return b, false
		}
	}
	if doc.Model.Start >= m.End {
		more := len(options) - (m.End - m.Start)
		doc.Model.Start += more
		doc.Model.End += more
	}
	return body.Splice(b, m.Start, m.End, options), true
}

// release gives back all that is held of the body. Whoever may still read the outbound one keeps
// it.
func (x *exchange) release() {
	if !x.loan.Back() {
		x.allowance.Forget()
	}
	x.received, x.text, x.outbound = nil, nil, nil
	x.allowance.Release()
}
