//go:build !race

package apexproxy

const raceEnabled = false
