#!/usr/bin/env bash
# Measures full backup, second full backup of the unchanged cluster, and restore, of pgbak and of pgBackRest on the same generated
# cluster of about 3 GB, and prints a Markdown table of medians. docs/BENCHMARKS.md says how to read it; settings.sh lists the
# variables that change something.
#
#   bench/run.sh          microbenchmarks, then everything
#   bench/run.sh --micro  the microbenchmarks only
#
# What is measured: wall clock and CPU (user and system) of the command and all processes that it starts, and the peak of the sum of their
# resident memory, sampled every 50 ms. Not in it: archive_command, which the server starts, and the server itself. The page cache is
# warm: the cluster has just been read or written, as it is on a server with memory enough. `sync` runs before each measurement, so
# that nobody pays for the dirty pages of another. Tools take turns within a round; no measurement is left out.
set -euo pipefail
umask 022
root=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)
cd "$root"
# shellcheck source=bench/settings.sh
. bench/settings.sh
# shellcheck source=bench/cluster.sh
. bench/cluster.sh
# shellcheck source=bench/tools.sh
. bench/tools.sh

microbenchmarks() {
	say "microbenchmarks: frames, packs, maps, codecs, page checksums, parsers"
	go test -run '^$' -bench . -benchtime 300ms -benchmem ./repo/... ./internal/postgres ./internal/crc32c | grep -vE '^(PASS|ok|\?|goos|goarch)' |
		tee "$results/micro.txt"
}

# measured TOOL OPERATION COMMAND...: one measurement, one line in the table of raw results. measure says by that line, not by its
# exit status, how the command ended.
measured() {
	local tool=$1 operation=$2 before=$stored
	shift 2
	sync
	rm -f "$base/row"
	as_server "$base/bin/measure" -row "$base/row" -- "$@" >"$base/command.log" 2>&1 || true
	if [ "$(cut -f 1 "$base/row" 2>/dev/null)" != 0 ]; then
		cat "$base/command.log" >&2
		tail -n 20 "$base/server.log" >&2
		die "$tool, $operation: the command failed"
	fi
	stored=$(stored_bytes)
	printf '%s\t%s\t%s\t%s\t%s\t%s\n' "$round" "$tool" "$operation" "$(cut -f 2- "$base/row")" "$stored" $((stored - before)) |
		tee -a "$results/raw.tsv" | awk -F '\t' '{ printf "bench: round %s: %s, %s: %.2f s\n", $1, $2, $3, $4 }' >&2
}

# stored_bytes prints the sum of the sizes of all files in the repository.
stored_bytes() { { find "$repository" -type f -printf "%s\n" 2>/dev/null || true; } | awk '{ n += $1 } END { printf "%.0f\n", n }'; }

# tool_round TOOL: an empty repository, two full backups, a restore.
tool_round() {
	local tool=$1
	rm -rf "$repository" "$restored"
	stored=0
	"${tool}_prepare"
	sql -c "CHECKPOINT"
	measured "$tool" "full" "${backup[@]}"
	measured "$tool" "second full" "${backup[@]}"
	measured "$tool" "restore" "${restore[@]}"
	if [ "$round" -eq 1 ]; then
		"${tool}_prove"
	fi
	rm -rf "$repository" "$restored"
}

copy_round() {
	rm -rf "$restored"
	stored=0
	measured copy "full" cp -a --reflink=never "$data" "$restored"
	rm -rf "$restored"
}

# warm reads the whole cluster once, and ends the WAL file that holds what was written when it was generated: it would be charged to
# the tool that comes first.
warm() {
	find "$data" -type f -exec cat {} + >/dev/null
	sql -c CHECKPOINT -c "SELECT pg_switch_wal()" >/dev/null
	until [ "$(sql -c "SELECT last_archived_wal IS NOT NULL FROM pg_stat_archiver")" = t ]; do sleep 0.1; done
}

finish() {
	local status=$?
	trap - EXIT INT TERM
	server_stop || true
	rm -rf "$repository" "$restored"
	exit "$status"
}

main() {
	local tool
	find_postgres
	make_base
	if [ "${1:-}" = --micro ]; then microbenchmarks; return; fi
	[ $# -eq 0 ] || die "unknown argument $1 (known: --micro)"
	microbenchmarks
	tools_build
	tools_find_pgbackrest
	cluster_make
	trap finish EXIT
	trap 'exit 130' INT
	trap 'exit 143' TERM
	archive_with true
	server_benchmark
	warm
	: >"$results/raw.tsv"
	for round in $(seq "$runs"); do
		for tool in "${tools[@]}"; do tool_round "$tool"; done
		copy_round
	done
	"$base/bin/report" -raw "$results/raw.tsv" -bytes "$(cluster_bytes)" >"$results/table.md"
	{ tools_environment; echo; cat "$results/table.md"; } | tee "$results/report.md"
	say "written to $results"
}

main "$@"
