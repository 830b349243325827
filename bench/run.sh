#!/usr/bin/env bash
# Measures full backup, second full backup of the unchanged cluster, and restore, of pgbak and of pgBackRest on the same generated
# cluster of about 3 GB, on the local disk and on S3, archiving, fetching and replaying of WAL, incremental backups (with WAL-G and PostgreSQL's
# own pg_basebackup besides) and clusters of very many files, and prints Markdown tables of medians.
# docs/BENCHMARKS.md says how to read them; settings.sh lists the variables that change something.
#
#   bench/run.sh          microbenchmarks, then everything
#   bench/run.sh --micro  the microbenchmarks only
#   bench/run.sh --local  the local disk only
#   bench/run.sh --s3     S3 only
#   bench/run.sh --wal    archiving, fetching and replaying of WAL only
#   bench/run.sh --incremental  incremental backups only
#   bench/run.sh --manyfiles    clusters of very many files only
#
# What is measured: wall clock and CPU (user and system) of the command and all processes that it starts, and the peak of the sum of their
# resident memory, sampled every 50 ms. Not in it: archive_command, which the server starts, and the server itself; the CPU time of both
# together is measured apart for incremental backups. The page cache is
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
# shellcheck source=bench/waltools.sh
. bench/waltools.sh
# shellcheck source=bench/walround.sh
. bench/walround.sh
# shellcheck source=bench/s3.sh
. bench/s3.sh
# shellcheck source=bench/incremental.sh
. bench/incremental.sh
# shellcheck source=bench/manyfiles.sh
. bench/manyfiles.sh

microbenchmarks() {
	say "microbenchmarks: frames, packs, maps, codecs, page checksums, parsers"
	go test -run '^$' -bench . -benchtime 300ms -benchmem ./repo/... ./internal/postgres ./internal/crc32c | grep -vE '^(PASS|ok|\?|goos|goarch)' |
		tee "$results/micro.txt"
}

# measured TOOL OPERATION COMMAND...: one measurement, one line in the table of raw results. measure says by that line, not by its
# exit status, how the command ended.
measured() {
	local tool=$1 operation=$2 before served redone='' watch=()
	shift 2
	before=$(stored_bytes) # now: WAL may have come since the last measurement
	sync
	rm -f "$base/row"
	if [ -n "$apart" ]; then watch=(-server "$(sed -n 1p "$data/postmaster.pid")"); fi
	if [ -n "${daemons[agent]:-}" ]; then watch+=(-daemon "$(<"$base/agent.pid")"); fi
	if [ "$store" = s3 ]; then served=$(server_counts); fi
	as_server "$base/bin/measure" -row "$base/row" "${watch[@]}" -- "$@" >"$base/command.log" 2>&1 || true
	if [ "$(cut -f 1 "$base/row" 2>/dev/null)" != 0 ]; then
		cat "$base/command.log" >&2
		tail -n 20 "$base/server.log" >&2
		die "$tool, $operation: the command failed"
	fi
	if [ -n "$replaying" ]; then redone=$(replayed) && [ -n "$redone" ] || die "$tool, $operation: the server's log does not say when redo began and ended"; fi
	if [ "$store" = s3 ]; then served=$(counted "$served" "$(server_counts)"); else served=$'-\t-'; fi
	stored=$(stored_bytes)
	printf '%s\t%s\t%s\t%s\t%s\t%s\t%s\t%s\n' "$round" "$tool" "$operation" "$(awk -F '\t' -v OFS='\t' -v wall="$redone" '{ print wall == "" ? $2 : wall, $3, $4, $5, $6 }' "$base/row")" "$stored" $((stored - before)) "$served" "$(further)" |
		tee -a "$raw" | awk -F '\t' '{ printf "bench: round %s: %s, %s: %.2f s\n", $1, $2, $3, $4 }' >&2
}

# further prints what else is known of a measurement: CPU s of the PostgreSQL server, s that pgbak says it waited for it, changed bytes.
apart=''
changed=-
further() {
	local server=- waited=-
	if [ -n "$apart" ]; then
		server=$(cut -f 7 "$base/row")
		waited=$(sed -nE 's/.*"waiting-for-server": *([0-9.]+).*/\1/p' "$base/command.log" | sed -n 1p)
	fi
	printf '%s\t%s\t%s' "$server" "${waited:--}" "$changed"
}

# measured_again TOOL OPERATION COMMAND...: measures a restore the second time in a row. The first finds the memory for 3 GB of new pages,
# which on a virtual machine costs more the longer that memory was free, since its host takes it away meanwhile.
measured_again() {
	quietly "${@:3}"
	find "$restored" -mindepth 1 -delete
	measured "$@"
}

# stored_bytes prints the sum of the sizes of all files in the repository.
stored_bytes() { { find "$repository" -type f -printf "%s\n" 2>/dev/null || true; } | awk '{ n += $1 } END { printf "%.0f\n", n }'; }

# empty: nothing is stored and nothing restored.
empty() {
	rm -rf "$restored"
	if [ "$store" = s3 ]; then minio_empty; else rm -rf "$repository"; fi
	stored=0
}

# tool_round TOOL: an empty repository, two full backups, a restore.
tool_round() {
	local tool=$1
	empty
	"${tool}_prepare"
	sql -c "CHECKPOINT"
	measured "$tool" "full" "${backup[@]}"
	measured "$tool" "second full" "${backup[@]}"
	measured_again "$tool" "restore" "${restore[@]}"
	if [ "$round" -eq 1 ]; then
		"${tool}_prove"
	fi
	rm -rf "$restored"
}

copy_round() {
	empty
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

# tables_of NAME SIZE ROUNDS...: what the function ROUNDS measures goes into results/NAME.tsv, and the tables from that into NAME.md.
# SIZE is that of the cluster in bytes, for MB/s; 0 for none.
tables_of() {
	raw=$results/$1.tsv
	: >"$raw"
	"${@:3}"
	"$base/bin/report" -raw "$raw" -bytes "$2" -segments "$segments" >"$results/$1.md"
}

local_rounds() {
	local tool
	store_local "$base/repository"
	for round in $(seq "$runs"); do
		for tool in $(chosen "${local_tools[@]}"); do tool_round "$tool"; done
		copy_round
	done
	rm -rf "$repository"
}

s3_rounds() {
	local tool
	store_s3 "$minio_port"
	for round in $(seq "$runs"); do
		for tool in $(chosen "${s3_tools[@]}"); do tool_round "$tool"; done
		if [ -n "$(chosen pgbak)" ]; then
			latency_round 0 no_latency
			latency_round 50ms 50_ms
		fi
	done
	minio_stop
}

finish() {
	local status=$? cluster daemon
	trap - EXIT INT TERM
	for cluster in "$base"/data* "$copy" "$base_copy" "$archiver" "$changing" "$many"; do data=$cluster server_stop || true; done
	for daemon in agent proxy minio; do daemon_stop "$daemon"; done
	rm -rf "$base/repository" "$restored" "$copy" "$changing" "$many" "$archiver" "$minio_dir"
	exit "$status"
}

# part_local, part_s3, part_wal, part_incremental and part_manyfiles measure, and print what belongs into the report.
part_local() {
	cluster_serve
	tables_of local "$(cluster_bytes)" local_rounds >&2
	server_stop
	tools_environment
	printf '\n## On the local disk\n\n'
	cat "$results/local.md"
}

part_s3() {
	find_minio
	minio_make
	cluster_serve
	tables_of s3 "$(cluster_bytes)" s3_rounds >&2
	server_stop
	tools_environment
	s3_notes
	printf '\n## On S3\n\n'
	cat "$results/s3.md"
}

# cluster_serve starts the server on the cluster, warm.
cluster_serve() {
	cluster_make
	archive_with true
	server_benchmark
	warm
}

main() {
	local part parts=(local s3 wal incremental manyfiles)
	find_postgres
	make_base
	case "${1:-}" in
	--micro) microbenchmarks; return ;;
	--local | --s3 | --wal | --incremental | --manyfiles) parts=("${1#--}") ;;
	"") microbenchmarks ;;
	*) die "unknown argument $1 (known: --micro, --local, --s3, --wal, --incremental, --manyfiles)" ;;
	esac
	tools_build
	tools_find_pgbackrest
	trap finish EXIT
	trap 'exit 130' INT
	trap 'exit 143' TERM
	for part in "${parts[@]}"; do "part_$part" >"$results/report-$part.md"; done
	for part in "${parts[@]}"; do cat "$results/report-$part.md"; done | tee "$results/report.md"
	say "written to $results"
}

main "$@"
