package aepipetest_test

import (
	"context"
	"fmt"

	"github.com/loadchange/apexproxy"
	"github.com/loadchange/apexproxy/aepipe"
	"github.com/loadchange/apexproxy/aepipe/aepipetest"
)

func Example() {
	store := aepipetest.NewServer("admin-token")
	defer store.Close()

	reporter, err := aepipe.New(aepipe.Config{BaseURL: store.URL, Token: store.Token})
	if err != nil {
		fmt.Println(err)
		return
	}
	record := apexproxy.Record{
		Method: "POST", Path: "/v1/messages", Provider: "anthropic", ClientModel: "claude-x#anthropic",
		StatusCode: 200, Outcome: apexproxy.OutcomeCompleted,
	}
	if err := reporter.Report(context.Background(), []apexproxy.Record{record}); err != nil {
		fmt.Println(err)
		return
	}
	for _, p := range store.Points("requests") {
		fmt.Println(p.Event, p.Level, p.Blobs[:2])
	}
	fmt.Println("lost:", len(store.Violations()))
	// Output:
	// POST /v1/messages info [anthropic claude-x]
	// lost: 0
}
