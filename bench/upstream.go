package main

import (
	"bytes"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"io"
	"math/big"
	"net"
	"net/http"
	"strconv"
	"strings"
	"time"
)

// providerHeaders are in every answer, as a gateway in front of a provider sends them.
var providerHeaders = []string{
	"X-Request-Id", "Cf-Ray", "Cf-Aig-Log-Id", "Openai-Version", "Openai-Processing-Ms",
	"X-Ratelimit-Limit-Requests", "X-Ratelimit-Limit-Tokens", "X-Ratelimit-Remaining-Requests",
	"X-Ratelimit-Remaining-Tokens", "X-Ratelimit-Reset-Requests",
}

// upstream plays the provider. It answers every request of the workload with the same bytes, made
// before, and refuses one that a proxy has not passed on whole.
func upstream(l *workload) http.Handler {
	chat, messages, mark := l.frames(false), l.frames(true), []byte(l.mark())
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		body := make([]byte, max(r.ContentLength, 0))
		if _, err := io.ReadFull(r.Body, body); err != nil {
			http.Error(w, "upstream: "+err.Error(), http.StatusBadRequest)
			return
		}
		if !bytes.Contains(body, mark) {
			http.Error(w, "upstream: the request has no length, or not the text of "+l.name, http.StatusBadRequest)
			return
		}
		if r.TLS != nil && r.ProtoMajor != 2 {
			http.Error(w, "upstream: over TLS the proxy must speak HTTP/2", http.StatusHTTPVersionNotSupported)
			return
		}
		if strings.HasSuffix(r.URL.Path, "/messages") {
			l.reply(w, messages)
		} else {
			l.reply(w, chat)
		}
	})
}

// reply writes the frames, each at its time.
func (l *workload) reply(w http.ResponseWriter, frames [][]byte) {
	for _, name := range providerHeaders {
		w.Header()[name] = []string{"2025-01-01"}
	}
	if !l.stream {
		w.Header().Set("Content-Type", "application/json")
		w.Header().Set("Content-Length", strconv.Itoa(len(frames[0])))
		_, _ = w.Write(frames[0])
		return
	}
	w.Header().Set("Content-Type", "text/event-stream")
	flush := http.NewResponseController(w).Flush
	var stamped []byte
	for i, f := range frames {
		if i > 0 && l.gap > 0 {
			time.Sleep(l.gap)
		}
		if at := bytes.IndexByte(f, '@'); l.gap > 0 && at >= 0 {
			stamped = append(stamped[:0], f...) // the frame itself is in other streams too
			strconv.AppendInt(stamped[:at+1], time.Now().UnixNano(), 10)
			f = stamped
		}
		if _, err := w.Write(f); err != nil || flush() != nil {
			return
		}
	}
}

// certificate makes one for loopback. No client verifies it.
func certificate() (tls.Certificate, error) {
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		return tls.Certificate{}, err
	}
	t := &x509.Certificate{
		SerialNumber: big.NewInt(1),
		NotBefore:    time.Now().Add(-time.Hour),
		NotAfter:     time.Now().Add(24 * time.Hour),
		IPAddresses:  []net.IP{net.IPv4(127, 0, 0, 1)},
	}
	der, err := x509.CreateCertificate(rand.Reader, t, t, &key.PublicKey, key)
	return tls.Certificate{Certificate: [][]byte{der}, PrivateKey: key}, err
}
