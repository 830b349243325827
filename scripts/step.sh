#!/usr/bin/env bash
# scripts/step.sh TITLE COMMAND...: runs a command under a title and says how long it took.
set -euo pipefail
title=$1
shift
printf '== %s\n' "$title"
start=$SECONDS
if "$@"; then
	printf '== %s: ok, %d s\n' "$title" $((SECONDS - start))
else
	status=$?
	printf '== %s: FAILED with status %d after %d s\n' "$title" "$status" $((SECONDS - start)) >&2
	exit "$status"
fi
