// Package apexproxytest has the servers that stand around an apexproxy.Proxy in a test: an
// [Upstream] that answers from a script, and a [Gateway] that checks requests as Cloudflare AI
// Gateway does. They listen on the loopback interface, record what they receive and are closed like
// an httptest.Server; nothing here needs a testing.TB.
//
// A script is a list of replies, and a reply is any http.Handler. The functions that return one
// cover what goes wrong between a proxy and its upstream: [Abort], [ResetConn], [Hang],
// [StallAfter], [RateLimited], [Redirect], [Gzip], [Trailers], [EarlyHints], [Raw]. [Steps] proves
// that a stream is not held back. [ChatStream], [MessageStream] and their like are bodies in the
// real shapes of the providers' APIs.
//
// To wait without sleeping use WaitRequests and WaitCancelled, which every server has.
//
// A fake aepipe store is in package aepipe/aepipetest.
package apexproxytest
