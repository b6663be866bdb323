package apexproxy_test

import (
	"io"
	"log"
	"os"
	"testing"
)

// TestMain keeps what net/http says about broken connections out of the output: many tests break
// one on purpose, and one line that matters is not found among a thousand.
func TestMain(m *testing.M) {
	log.SetOutput(io.Discard)
	os.Exit(m.Run())
}
