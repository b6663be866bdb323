package apexproxy

import (
	"maps"
	"net/http"
	"strings"

	"github.com/loadchange/apexproxy/internal/header"
	"github.com/loadchange/apexproxy/internal/relay"
)

// forward sends the exchange upstream and copies the answer to the client: send, head, copy,
// trailers. It returns a reply only while nothing has been written. An informational answer (1xx)
// of the upstream is not passed on: it would erase headers that the host's middleware has set.
func (p *Proxy) forward(x *exchange) *reply {
	x.extendDeadline()
	res, err := x.target.rt.RoundTrip(p.outboundRequest(x))
	if err != nil {
		return unreachable(x.r.Context(), err)
	}
	if res.Body == nil { // a RoundTripper of the host's may do what http.Transport never does
		res.Body = http.NoBody
	}
	defer res.Body.Close()
	x.moved()
	res.Header = header.OfAnswer(res.Header)
	if rp := p.answer(x, res); rp != nil {
		return rp
	}

	head := x.w.Header()
	header.Add(head, res.Header, "")
	if _, said := head["Content-Type"]; !said {
		head["Content-Type"] = nil // net/http would guess one
	}
	p.cors.Apply(head, x.r.Header.Get("Origin"))
	announced := len(res.Trailer)
	if names := header.Announce(res.Trailer); names != "" {
		head.Add("Trailer", names)
	}
	x.status = res.StatusCode
	x.w.WriteHeader(res.StatusCode)

	readErr, writeErr := relay.Copy(x.w, res.Body, res.ContentLength < 0, x.moved)
	if x.writeErr = writeErr; readErr != nil || writeErr != nil {
		if x.r.Context().Value(http.ServerContextKey) == nil {
			return nil // nobody would recover: a host's own test
		}
		panic(http.ErrAbortHandler)
	}

	res.Body.Close() // now, because this completes res.Trailer
	if x.events != nil || len(res.Trailer) == 0 {
		return nil // trailers are those of the stream that was copied, not of one made of it
	}
	_ = http.NewResponseController(x.w).Flush() // or a short body gets a length, and loses its trailers
	prefix := ""
	if len(res.Trailer) != announced {
		prefix = http.TrailerPrefix
	}
	header.Add(head, header.OfTrailer(res.Trailer), prefix)
	return nil
}

// moved says that something has come from the upstream: the client gets its time to take it, and
// the request's memory may be free. A stream lasts for minutes, and the transport can be a moment
// late to say that it is done with the request.
func (x *exchange) moved() {
	x.extendDeadline()
	if x.outbound != nil && x.loan.Returned() {
		x.release()
	}
}

// outboundRequest makes the request that goes upstream. Headers that the client named in Connection
// go first: what is set after that cannot be removed from outside.
func (p *Proxy) outboundRequest(x *exchange) *http.Request {
	out := x.r.WithContext(x.loan.Watch(x.r.Context(), x.target.rt))
	u := x.target.url
	out.URL, out.Host, out.RequestURI = &u, u.Host, ""
	out.Proto, out.ProtoMajor, out.ProtoMinor = "HTTP/1.1", 1, 1
	out.Close, out.TransferEncoding, out.Trailer, out.TLS = false, nil, nil, nil
	out.Form, out.PostForm, out.MultipartForm = nil, nil, nil
	out.Body, out.GetBody, out.ContentLength = nil, nil, 0

	// The values are shared with the client's request: nobody may change them in place.
	var h http.Header
	if x.mode == ModeGateway {
		h = header.ToGateway(x.r.Header, p.gateway.forward)
	} else {
		h = header.ToUpstream(x.r.Header)
	}
	out.Header = h
	if _, ok := h["User-Agent"]; !ok {
		h["User-Agent"] = noUserAgent
	}
	if x.mode == ModeGateway || x.converts() || x.observed {
		h["Accept-Encoding"] = identityEncoding // the answer has to be readable
	}
	if x.converts() {
		header.Convert(h)
	}
	if x.outbound != nil {
		if !strings.Contains(h.Get("Content-Type"), "json") {
			h.Set("Content-Type", "application/json")
		}
		if !x.asReceived {
			delete(h, "Content-Encoding")
		}
		x.loan.Lend(out, x.outbound)
	}
	maps.Copy(h, x.target.header)
	return out
}

var (
	noUserAgent      = []string{""} // or Go says its own
	identityEncoding = []string{"identity"}
)
