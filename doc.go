// Package apexproxy is an [http.Handler] that fronts LLM traffic: it routes model#provider through
// Cloudflare AI Gateway, passes requests through to an upstream that the client names, maps models
// in both, and reports every exchange without anybody waiting for it.
//
// # Getting started
//
//	proxy, err := apexproxy.New(
//		apexproxy.WithGateway(apexproxy.Gateway{AccountID: "…", GatewayID: "…", Token: token}),
//		apexproxy.WithReporter(apexproxy.NewLogReporter(logger)),
//	)
//	mux.Handle("/llm/", http.StripPrefix("/llm", proxy))
//
// Clients use any OpenAI or Anthropic SDK with the base URL of the mount point and a model such as
// gpt-5.5#openai or claude-opus-4-7#anthropic.
//
// # Operations
//
// An operation is known by the end of the path, under any prefix, with or without /v1: POST
// …/chat/completions, …/messages, …/messages/count_tokens, …/responses, …/embeddings and GET
// …/models. GET or HEAD on the mount point answers that the proxy is alive. OPTIONS is answered on
// any path before anybody is asked for a key. The rest is 404.
//
// # Request pipeline
//
// Five stages run in this order. It is a security property and not configurable.
//
//	the client's request
//	  │
//	  ├─ classify       operation and protocol; gateway or  proxy.go: the paths
//	  │                 passthrough                         internal/protocol: the protocols
//	  ├─ authenticate   who calls                           auth.go
//	  ├─ route          reads the body; decides on the      request.go, mapping.go, passthrough.go
//	  │                 upstream and the model              gateway.go: the table of providers
//	  │
//	  │  The plan is made. From here on it is applied.
//	  │
//	  ├─ prepare        the body: unchanged, with its model request.go, internal/body
//	  │                 replaced, or converted              internal/convert: readers and writers
//	  │                                                     profile.go: quirks of providers
//	  ├─ forward        sends it ──▶ upstream               forward.go
//	  │                                                     internal/header: every header's fate
//	  │                 the answer: as it comes, or         answer.go, internal/convert
//	  │                 converted
//	  │                 writes head, body and trailers      forward.go, internal/relay
//	  ▼
//	the client's answer
//	  │
//	  └─ end            one Record ──▶ Reporters            observe.go: what they are, every outcome
//	                                                        record.go: fills it, decides the outcome
//	                                                        internal/usage: tokens
//
//	A stage may end the exchange with an answer of the proxy's own: errors.go renders it.
//
// Classify, authenticate and route only decide, and what they decide is the plan. Prepare and
// forward apply it. When the exchange is over, one [Record] is made of the plan and of what
// happened. No stage changes
// the client's request, and nothing wraps the ResponseWriter. To add a stage, wrap the Proxy: it is
// an http.Handler.
//
// What is changed where:
//
//	a provider of the gateway  gateway.go has the table of their paths
//	a quirk of a provider      profile.go names it, internal/convert/chat_profile.go has the table,
//	                           internal/convert/chat_write.go heeds it
//	a header's fate            internal/header/header.go
//	an outcome                 observe.go names it, record.go decides on it, and errors.go on those
//	                           of the proxy's own answers
//	an error of the proxy      the stage that refuses words it, errors.go renders it and says why
//	                           an upstream did not answer
//	an upstream's error        internal/convert/errors.go reads it, internal/protocol/errors.go has
//	                           each protocol's words
//	a protocol                 internal/protocol names it, observe.go its operation; proxy.go knows
//	                           the client's paths, gateway.go and passthrough.go the upstream's;
//	                           internal/usage reads its cost, internal/convert has its reader and
//	                           its writer; internal/header
//	an option                  options.go
//
// # What is copied
//
// Where client and upstream speak the same protocol, a body goes upstream with nothing changed but
// the value of "model", and the answer comes back as it is. There are four exceptions:
//
//   - Chat streams through the gateway are asked for usage when a reporter is there to read it. The
//     chunk that this adds is hidden from a client that did not ask for it.
//   - Thinking that conversion made for another provider is taken out of messages, because
//     Anthropic would refuse its signature.
//   - A gzip body whose model is changed goes on inflated.
//   - Errors and model lists of the gateway itself get the client's shape.
//
// A body is valid JSON or answered with 400. Above 64 KiB that is said of its structure, of all
// names, and of "model", "stream" and "stream_options": escapes and control characters inside of
// other strings are left to the provider, who reads them anyway. A body that is converted is always
// checked whole. In passthrough a compressed body that no mapping concerns is not looked into.
//
// # Conversion
//
// A messages request for a provider that does not speak the Messages protocol, or for a passthrough
// upstream whose X-APEX-AI-PROXY-TYPE is chat-completions, is converted to Chat Completions and its
// answer back, event by event. [ChatProfile] says what such a provider takes.
//
// What cannot be carried is left out and named in [Record].Dropped; see [WithStrictConversion]. The
// answer's X-Apex-Ai-Proxy-Dropped names what is known when the answer begins: the losses of the
// request, and those of an answer that is one document. What a stream loses on its way is in the
// record alone. Count_tokens for such a provider is an estimate, and X-Apex-Ai-Proxy-Estimate says
// so.
//
// # Mounting
//
// The Proxy works under any mux and behind any middleware that keeps three rules. A middleware that
// recovers panics must panic again with [http.ErrAbortHandler]: swallowing it turns a broken answer
// into one that looks complete. [http.TimeoutHandler] and compressing middleware hold streams back.
// A [http.ResponseWriter] that is wrapped should have an Unwrap method, so that flushes and write
// deadlines reach the connection. In passthrough the path that the Proxy sees goes upstream: use
// [http.StripPrefix]. With chi that is r.Mount("/llm", http.StripPrefix("/llm", proxy)).
//
// # Streaming
//
// What has come from the upstream leaves before more is waited for. Only where an event may have to
// be hidden or converted, a part of one is held back until its end is in. A host's WriteTimeout
// bounds each wait for the client instead of the whole answer. When the upstream breaks off, so
// does the client's connection; when the client leaves, the upstream's request is cancelled.
//
// The memory of a request is given back when its answer begins, if the transport is an
// [http.Transport] that is done with it, and else at the end of the exchange. See
// [WithMaxBufferedBytes] for the bound of all that is held.
//
// # Headers
//
// Never upstream: hop-by-hop headers and what Connection names, X-APEX-AI-PROXY-*, cookies,
// Proxy-Authorization, Forwarded, X-Forwarded-*, X-Real-Ip, True-Client-Ip, Cf-* and Cdn-Loop of an
// edge in front, Via, Origin, Referer and Expect; to the gateway no client credential either, and
// of Cf-Aig-* what [Gateway].ForwardHeaders names; to a passthrough upstream no
// cf-aig-authorization. All others pass.
//
// Of answers all end-to-end headers and trailers pass, except Access-Control-*, which [WithCORS]
// decides, and X-APEX-AI-PROXY-*. Of converted answers only those pass that tell of limits,
// retries, the gateway and the request id. Informational answers (1xx) of an upstream are not
// passed on: they would erase headers that middleware has set.
//
// # Errors
//
// Errors that the Proxy makes have the shape of the client's protocol, a message that says what to
// change, and a Proxy-Status header (RFC 9209). A provider's error passes as the provider wrote it,
// or converted. An error of the gateway itself keeps its status and headers and gets the client's
// shape. Where [WithMaxBufferedBytes] leaves no room, for a request or for an answer that has to be
// read whole, the client gets 503 with Retry-After, and the record says proxy_busy.
//
// The codes of its own errors, which OpenAI clients see as error.code and reporters as
// [Record].ErrorType. They keep their meaning; there will be more.
//
//	400  ambiguous_model invalid_body invalid_encoding invalid_json invalid_mapping invalid_model
//	     invalid_path invalid_provider invalid_request model_missing no_gateway unknown_provider
//	     unsupported_operation
//	401  invalid_api_key
//	403  destination_ip_prohibited host_not_allowed passthrough_off
//	404  not_found
//	405  method_not_allowed
//	408  request_timeout
//	413  request_too_large
//	415  unsupported_encoding
//	499  client_closed
//	503  proxy_busy
//
// When no answer came from the upstream, the code is the error's name in RFC 9209 §2.3, such as
// connection_refused, with 502, or 504 for a timeout.
//
// # Reporting
//
// See [Reporter] for the contract, [Record] for what is known, and package aepipe for a store.
//
// # Security
//
// A credential is bound to the host it is for. Passthrough to hosts that nobody listed dials public
// addresses only, checked after name resolution. Redirects are never followed. Secrets are in no
// error, log line or record. See [Passthrough] for what an open one means.
package apexproxy
