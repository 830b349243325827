#!/usr/bin/env bash
# Runs the tests that need no PostgreSQL server under the race detector: those would make this leg slow, and the goroutines are
# in the code that the other tests drive. S3 servers start in a second, so tests with them belong here. The detector needs
# cgo, hence a C compiler.
set -euo pipefail
cd "$(dirname "$0")/.."
mapfile -t packages < <(
	go list -f '{{if or .TestGoFiles .XTestGoFiles}}{{.ImportPath}} {{join .TestImports " "}} {{join .XTestImports " "}}{{end}}' ./... |
		awk 'NF && !/internal\/pgtest( |$)/ && $1 !~ /internal\/(pgtest|lint)$/ { print $1 }'
)
if [ ${#packages[@]} -eq 0 ]; then
	echo "race: no package with tests was found" >&2
	exit 1
fi
CGO_ENABLED=1 go test -race -timeout 30m "${packages[@]}"
