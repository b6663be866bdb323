// Package apexproxy is an [http.Handler] that fronts LLM traffic: it routes
// model#provider through Cloudflare AI Gateway, passes requests through to an
// upstream that the client names, maps models in both, and reports every
// exchange without anybody waiting for it.
//
// # Getting started
//
//	proxy, err := apexproxy.New(
//		apexproxy.WithGateway(apexproxy.Gateway{AccountID: "…", GatewayID: "…", Token: token}),
//		apexproxy.WithReporter(apexproxy.NewLogReporter(logger)),
//	)
//	mux.Handle("/llm/", http.StripPrefix("/llm", proxy))
//
// Clients use any OpenAI or Anthropic SDK with the base URL of the mount point
// and a model such as gpt-5.5#openai or claude-opus-4-7#anthropic.
//
// # Operations
//
// An operation is known by the end of the path, under any prefix, with or
// without /v1: POST …/chat/completions, …/messages, …/messages/count_tokens,
// …/responses, …/embeddings and GET …/models. GET or HEAD on the mount point
// answers that the proxy is alive. OPTIONS is answered on any path before
// anybody is asked for a key. The rest is 404.
//
// # Request pipeline
//
// Five stages run in this order, which is a security property and not
// configurable: limit (operation, method, bound of the body), authenticate,
// route (where to), mapModel (the only one that reads the body), forward. The
// first four decide and change nothing of the request; forward applies what
// they decided. To add a stage, wrap the Proxy: it is an http.Handler.
//
// Where client and upstream speak the same protocol, a body goes upstream with
// nothing changed but the value of "model", and the answer comes back as it is.
// There are four exceptions: chat streams through the gateway are asked for
// usage when a reporter is there to read it; thinking that conversion made for
// another provider is taken out of messages, because Anthropic would refuse its
// signature; a gzip body whose model is changed goes on inflated; and errors and
// model lists of the gateway itself get the client's shape.
//
// # Conversion
//
// A messages request for a provider that does not speak the Messages protocol,
// or for a passthrough upstream whose X-APEX-AI-PROXY-TYPE is chat-completions,
// is converted to Chat Completions and its answer back, event by event. What
// cannot be carried is named in the answer's X-Apex-Ai-Proxy-Dropped and in
// [Record].Dropped; see [WithStrictConversion]. Count_tokens for such a provider
// is an estimate, and X-Apex-Ai-Proxy-Estimate says so.
//
// # Mounting
//
// The Proxy works under any mux and behind any middleware that keeps three
// rules. A middleware that recovers panics must panic again with
// [http.ErrAbortHandler]: swallowing it turns a broken answer into one that
// looks complete. [http.TimeoutHandler] and compressing middleware hold streams
// back. A [http.ResponseWriter] that is wrapped should have an Unwrap method,
// so that flushes and write deadlines reach the connection. In passthrough the
// path that the Proxy sees goes upstream: use [http.StripPrefix]. With chi that
// is r.Mount("/llm", http.StripPrefix("/llm", proxy)).
//
// # Streaming
//
// Every write of the upstream is flushed at once. What is held back is a part of
// an event, until its end is in, where an event may have to be hidden or
// converted. A host's WriteTimeout bounds each wait for the client instead of the whole
// answer. When the upstream breaks off, so does the client's connection; when
// the client leaves, the upstream's request is cancelled.
//
// # Headers
//
// Never upstream: hop-by-hop headers and what Connection names,
// X-APEX-AI-PROXY-*, cookies, Proxy-Authorization, Forwarded, X-Forwarded-*,
// X-Real-Ip, True-Client-Ip, Cf-* and Cdn-Loop of an edge in front, Via, Origin
// and Referer; to the gateway no client credential either, and of Cf-Aig-* what
// [Gateway].ForwardHeaders names; to a passthrough upstream no
// cf-aig-authorization. All others pass. Of answers all end-to-end headers
// pass, except Access-Control-*, which [WithCORS] decides.
//
// # Errors
//
// Errors that the Proxy makes have the shape of the client's protocol, a message
// that says what to change, and a Proxy-Status header (RFC 9209). A provider's
// error passes as the provider wrote it. An error of the gateway itself keeps
// its status and headers and gets the client's shape.
//
// # Reporting
//
// See [Reporter] for the contract, [Record] for what is known, and package
// aepipe for a store.
//
// # Security
//
// A credential is bound to the host it is for. Passthrough to hosts that nobody
// listed dials public addresses only, checked after name resolution. Redirects
// are never followed. Secrets are in no error, log line or record. See
// [Passthrough] for what an open one means.
package apexproxy
