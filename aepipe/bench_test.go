package aepipe

import (
	"strings"
	"testing"
)

func BenchmarkEntries(b *testing.B) {
	s := testStore(b)
	for name, size := range map[string]int{"2KB": 2 << 10, "512KB": maxBody} {
		rec := record()
		rec.Content.RequestBody = []byte(strings.Repeat(`{"role":"user","content":"hello, world"}`, size/40))
		rec.Content.ResponseBody = rec.Content.RequestBody
		b.Run(name, func(b *testing.B) {
			b.ReportAllocs()
			for b.Loop() {
				encode(newPoint(s, &rec))
				encode(newLogEntry(&rec))
			}
		})
	}
}
