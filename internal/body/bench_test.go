package body

import (
	"encoding/json"
	"strings"
	"testing"

	"github.com/tidwall/gjson"
)

func BenchmarkScan(b *testing.B) {
	doc := []byte(`{"model":"gpt#openai","messages":[{"role":"user","content":"` + strings.Repeat("prompt ", 200<<10/7) + `"}]}`)
	b.Run("scan", func(b *testing.B) {
		b.SetBytes(int64(len(doc)))
		b.ReportAllocs()
		for b.Loop() {
			if _, err := Scan(doc); err != nil {
				b.Fatal(err)
			}
		}
	})
	code, _ := json.Marshal(map[string]string{"content": strings.Repeat("\tif err != nil {\n\t\treturn fmt.Errorf(\"open: %w\", err)\n\t}\n", 4000)})
	b.Run("code", func(b *testing.B) {
		b.SetBytes(int64(len(code)))
		for b.Loop() {
			if _, err := Scan(code); err != nil {
				b.Fatal(err)
			}
		}
	})
	b.Run("gjson.Valid", func(b *testing.B) {
		b.SetBytes(int64(len(doc)))
		for b.Loop() {
			if !gjson.ValidBytes(doc) {
				b.Fatal("invalid")
			}
		}
	})
}
