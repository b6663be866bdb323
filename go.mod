module github.com/loadchange/apexproxy

go 1.25.0

require (
	github.com/google/go-cmp v0.7.0
	github.com/tidwall/gjson v1.20.0
	github.com/tidwall/sjson v1.2.5
)

require (
	github.com/tidwall/match v1.1.1 // indirect
	github.com/tidwall/pretty v1.2.0 // indirect
)
