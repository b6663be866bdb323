// Package convert lets a client that speaks Anthropic Messages use an upstream that speaks OpenAI Chat Completions: it
// converts the request, the answer, the stream and the errors. It knows bytes and readers only, nothing of HTTP.
//
// What is binding is the specification in SPEC.md; comments name its sections. Three decisions shape the code:
//
//   - Texts are never decoded. Both protocols are JSON, so a string goes from one document into the other as it stands
//     between its quotes; numbers, escapes and key order cannot change on the way.
//   - A request is read once, into slices of its body, and written once.
//   - There is one machine for answers. It makes events out of chunks; a whole completion is one large chunk to it, and
//     a Message is its other form of output. So both kinds of upstream answer can serve both kinds of client.
//
// What one provider wants and another refuses is data, see [Profile]. What cannot be said in the other protocol is left
// out and named, see [Conversion.Dropped].
package convert
