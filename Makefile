# pgbak: `make` lists the targets.

SHELL := /bin/bash
.DEFAULT_GOAL := help
.SUFFIXES:

# Stamps by the go command need a git that trusts the checkout's owner; the version below does without.
export GOFLAGS := -buildvcs=false $(GOFLAGS)

VERSION ?= $(shell git describe --tags --always --dirty 2>/dev/null || echo unknown)
FUZZTIME ?= 10s
STEP := scripts/step.sh

# The faster codec, libzstd, needs cgo, hence a C compiler that links statically. Without one pgbak is pure Go.
STATIC_C = $(shell printf 'int main(void) { return 0; }' | $(or $(CC),cc) -static -x c - -o /dev/null 2>/dev/null && echo yes)

.PHONY: help
help: ## list the targets
	@awk -F ':.*## ' '/^[a-z-]+:.*## / { printf "  make %-12s %s\n", $$1, $$2 }' $(firstword $(MAKEFILE_LIST))

.PHONY: build
build: ## build the static binary bin/pgbak
	@mkdir -p bin
ifeq ($(CGO_ENABLED),0)
	$(build-pure)
else
	@if [ "$(STATIC_C)" = yes ]; then set -x; $(build-cgo); else set -x; $(build-pure); fi
endif

build-cgo = CGO_ENABLED=1 go build -trimpath -tags netgo,osusergo -ldflags '-s -w -X main.version=$(VERSION) -extldflags "-static"' -o bin/pgbak ./cmd/pgbak
build-pure = CGO_ENABLED=0 go build -trimpath -ldflags '-s -w -X main.version=$(VERSION)' -o bin/pgbak ./cmd/pgbak

.PHONY: demo
demo: ## show the main job on a real PostgreSQL: back up, lose a table, restore to the moment before
	scripts/demo.sh

.PHONY: test
test: install lint unit ## install what the tests need and run all of them, real servers of six majors included
	@$(STEP) "race detector, tests without PostgreSQL" scripts/race.sh

.PHONY: install
install:
	@$(STEP) "PostgreSQL for the tests" scripts/install-postgres.sh
	@$(STEP) "S3 servers for the tests" scripts/install-s3.sh

.PHONY: unit
unit: install
	@$(STEP) "all tests" go test -timeout 40m ./...

.PHONY: lint
lint: ## check format, go vet, staticcheck and the house rules (internal/lint)
	@$(STEP) "gofmt" scripts/check-format.sh
	@$(STEP) "go vet" go vet ./...
	@$(STEP) "go vet, builds of tests" go vet -tags pgbak_faults,sidecar ./cmd/pgbak ./e2e
	@$(STEP) "staticcheck" go tool staticcheck ./...
	@$(STEP) "house rules" go test -count=1 ./internal/lint

.PHONY: race
race: ## run the tests that need no PostgreSQL under the race detector
	@$(STEP) "race detector, tests without PostgreSQL" scripts/race.sh

.PHONY: fuzz
fuzz: ## run every fuzz target for FUZZTIME, 10s by default
	@FUZZTIME=$(FUZZTIME) $(STEP) "fuzzing" scripts/fuzz.sh

.PHONY: bench
bench: ## measure backup and restore of a 3 GB cluster next to pgBackRest, WAL-G and pg_basebackup
	bench/run.sh

.PHONY: docs
docs: ## generate docs/commands.md from the commands
	go generate ./cmd/pgbak

.PHONY: govulncheck
govulncheck: ## look for known vulnerabilities in what pgbak is linked with
	@$(STEP) "govulncheck" scripts/govulncheck.sh

.PHONY: clean
clean: ## remove what make built
	rm -rf bin
