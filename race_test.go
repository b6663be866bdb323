//go:build race

package apexproxy

const raceEnabled = true
