//go:build race

package convert

// raceEnabled: under the race detector sync.Pool forgets on purpose, so json.Valid allocates.
const raceEnabled = true
