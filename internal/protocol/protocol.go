// Package protocol names the protocols that clients and upstreams speak, and each one's words for
// what went wrong.
package protocol

// Protocol is the shape of a request and of its answer. The zero value is None.
type Protocol uint8

// The protocols, each after its public API reference.
const (
	None       Protocol = iota // none that is known: nothing in it is read
	Chat                       // OpenAI Chat Completions and the many that follow it
	Messages                   // Anthropic Messages
	Responses                  // OpenAI Responses
	Embeddings                 // OpenAI Embeddings
)
