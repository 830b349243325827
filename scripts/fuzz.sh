#!/usr/bin/env bash
# Runs every fuzz target for FUZZTIME (default 10s), one after the other, as go test takes one at a time.
set -euo pipefail
cd "$(dirname "$0")/.."
time=${FUZZTIME:-10s}
count=0
for package in $(go list -f '{{if or .TestGoFiles .XTestGoFiles}}{{.ImportPath}}{{end}}' ./...); do
	for target in $(go test -list '^Fuzz' "$package" | grep '^Fuzz' || true); do
		echo "== $package $target for $time"
		go test -run '^$' -fuzz "^$target\$" -fuzztime "$time" "$package" </dev/null
		count=$((count + 1))
	done
done
echo "== $count fuzz targets ran"
[ "$count" -gt 0 ]
