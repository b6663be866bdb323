# Every target is one thing; `make help` lists them.
SHELL := bash
.SHELLFLAGS := -euo pipefail -c
.DEFAULT_GOAL := all

STATICCHECK := honnef.co/go/tools/cmd/staticcheck@v0.8.2
GOLANGCI    := github.com/golangci/golangci-lint/v2/cmd/golangci-lint@v2.15.0
MODULES     := $(dir $(shell git ls-files '*go.mod' 'go.mod'))
FUZZTIME    ?= 5s

.PHONY: all help quick test race lint golangci fuzz bench cover tidy
all: lint race ## what a pull request must pass

help: ## list the targets
	@grep -hE '^[a-z]+:.*## ' $(MAKEFILE_LIST) | sed 's/:.*## /\t/'

quick: ## vet and the tests of the root module: about 20 seconds
	go vet ./... && go test ./...

test: ## the tests of the root module
	go test ./...

race: ## the tests of every module, with the race detector
	for m in $(MODULES); do (cd $$m && go test -race -shuffle=on ./...); done

lint: ## gofmt, vet, tidy and staticcheck in every module, and the root's imports
	@test -z "$$(gofmt -l .)" || { gofmt -l .; exit 1; }
	for m in $(MODULES); do (cd $$m && go vet ./... && go mod tidy -diff && go run $(STATICCHECK) ./...); done
	./.ci/imports

golangci: ## the longer list of linters
	go run $(GOLANGCI) run ./...

fuzz: ## each fuzz target for FUZZTIME
	./.ci/fuzz $(FUZZTIME)

bench: ## CPU of the proxy alone, beside a ReverseProxy: separate processes, 7 interleaved rounds, 5 minutes
	cd bench && go run .

cover: ## coverage of the root module
	go test -coverpkg=./... -coverprofile=coverage.out ./... && go tool cover -func=coverage.out | tail -1

tidy: ## go mod tidy in every module
	for m in $(MODULES); do (cd $$m && go mod tidy); done
