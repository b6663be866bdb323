// Package convert lets a client of one protocol use an upstream of another: it converts the
// request, the answer, the stream and the errors. It knows bytes and readers only, nothing of HTTP.
//
//	client's request ─ messages_read ─▶ Conversation ─ normalize ─▶ chat_write ─▶ upstream's request
//	client's answer ◀─ messages_write ──── Answer ◀───────────────── chat_read ◀─ upstream's answer
//
// A protocol is a reader and a writer of each of the two, so that N protocols need N of each and
// not N². What they share stands in conversation.go and answer.go; calls.go knows which piece
// belongs to which tool call, names.go what a tool may be called, schema.go what a schema may say,
// thinking.go how reasoning comes back, count.go what a request costs, errors.go what went wrong.
//
// What is binding is the specification in SPEC.md; comments name its sections. Three decisions
// shape the code:
//
//   - It is neutral in structure and never in text. All protocols are JSON, so a string goes from
//     one document into the other as it stands between its quotes ([rawjson.Text]); numbers, escapes
//     and key order cannot change on the way.
//   - A request is read once, into slices of its body, and written once.
//   - An answer is a handful of events. A whole completion is one large piece of a stream, and a
//     document is one more form of output, so that both kinds of upstream answer serve both kinds
//     of client.
//
// What one provider wants and another refuses is data, see [ChatProfile]. What cannot be said in
// the other protocol is left out and named, see [Conversion.Dropped].
package convert
