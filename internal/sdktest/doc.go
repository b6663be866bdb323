// Package sdktest has no code: its tests drive the official Go SDKs of Anthropic and OpenAI through
// a Proxy against scripted upstreams. It is a module of its own so that nobody else gets their
// dependencies.
package sdktest
