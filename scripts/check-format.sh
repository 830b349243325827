#!/usr/bin/env bash
# Fails if gofmt would change a Go file, and names it.
set -euo pipefail
cd "$(dirname "$0")/.."
changed=$(gofmt -l .)
if [ -n "$changed" ]; then
	printf 'gofmt -w would change:\n%s\n' "$changed" >&2
	exit 1
fi
