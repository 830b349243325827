# shellcheck shell=bash
# Sourced by run.sh: WAL segments of the cluster, and pushing them, fetching them, and replaying them. Uses the functions of cluster.sh,
# tools.sh and waltools.sh.
#
# The segments are made once, by pgbench on a copy of the cluster, which has its system identifier. What the copy was before is
# kept as well: PostgreSQL replays the segments on it.
wal=$base/wal
base_copy=$base/wal-base # the cluster before the first of the segments, at rest
copy=$base/wal-cluster
archiver=$base/archiver # a data directory as far as it is needed
calls=$((segments > 20 ? 20 : segments - 1)) # of each kind, when single calls are measured

# wal_make makes the segments unless they are there from an earlier run.
wal_make() {
	local mark=$base/wal.made made surplus
	made="$(cluster_version) $segments with base"
	if [ -f "$mark" ] && [ "$(<"$mark")" = "$made" ]; then return 0; fi
	say "generating $segments WAL segments in $wal (once)"
	rm -rf "$mark" "$wal" "$copy" "$base_copy"
	as_server mkdir "$wal"
	as_server cp -a --reflink=auto "$data" "$base_copy"
	# It was made with wal_level=minimal, from which nothing can be replayed.
	data=$base_copy server_start archive_mode=off
	data=$base_copy server_stop
	as_server cp -a --reflink=auto "$base_copy" "$copy"
	find "$base_copy/pg_wal" -type f -delete
	# Checkpoints as on a busy server, so that there are images of whole pages and small records; what is generated need not survive.
	data=$copy server_start archive_mode=on "archive_command='cp %p \"$wal/%f\"'" fsync=off synchronous_commit=off \
		max_wal_size=512MB checkpoint_timeout=30s shared_buffers=512MB log_checkpoints=off
	until [ "$(find "$wal" -type f | wc -l)" -gt "$segments" ]; do
		quietly "$bin/pgbench" -h "$sockets" -U postgres -n -c 4 -j 2 -T 5 postgres
	done
	data=$copy server_stop
	rm -rf "$copy"
	# The last one may not be whole.
	for surplus in $(find "$wal" -type f -printf '%f\n' | sort | tail -n +$((segments + 1))); do rm "$wal/$surplus"; done
	printf '%s\n' "$made" >"$mark"
}

# wal_segments prints the names of the first segments, as many as are wanted.
wal_segments() { find "$wal" -type f -printf '%f\n' | sort | sed -n "1,${segments}p"; }

# wal_ready makes the directory anew as a server leaves it that has all segments still to archive.
wal_ready() {
	rm -rf "$archiver" "$base/spool"
	as_server mkdir -p "$archiver/pg_wal/archive_status" "$archiver/global" "$archiver/fetched" "$base/spool"
	as_server cp "$base_copy/PG_VERSION" "$archiver/PG_VERSION"
	as_server cp "$base_copy/global/pg_control" "$archiver/global/pg_control"
	# shellcheck disable=SC2016 # the inner shell is to expand this
	wal_segments | as_server sh -c 'while read -r segment; do ln "$0/$segment" "$1/pg_wal/" && : >"$1/pg_wal/archive_status/$segment.ready"; done' "$wal" "$archiver"
	sleep 3 # a link is a change; WAL that waits has been at rest
}

# wal_prove: what was fetched is what was pushed.
wal_prove() {
	local segment
	while read -r segment; do
		cmp -s "$wal/$segment" "$archiver/fetched/$segment" || die "$segment that was fetched differs from the one that was pushed"
	done < <(wal_segments)
}

# wal_prepare TOOL: an empty repository, and the commands push and get. wal_finish TOOL ends what that has begun.
wal_prepare() {
	local data=$base_copy
	local pgbackrest_offline=(--no-online)
	empty
	if declare -F "$1_wal_prepare" >/dev/null; then "$1_wal_prepare"; else "$1_prepare"; fi
}
wal_finish() { if declare -F "$1_finish" >/dev/null; then "$1_finish"; fi; }

# wal_round TOOL WHERE: all segments into an empty repository, out of it again, and out of it by PostgreSQL in recovery.
wal_round() {
	local tool=$1
	wal_prepare "$tool"
	wal_ready
	measured "$tool" "archive-push, $2" "$base/bin/archiver" push "$archiver" "${push[@]}"
	measured "$tool" "archive-get, $2" "$base/bin/archiver" get "$archiver" "${get[@]}"
	wal_prove
	case " ${replaying_tools[*]} " in *" $tool "*) wal_replay "$tool" "$2" "${get[@]}" ;; esac
	wal_finish "$tool"
	rm -rf "$archiver"
}

# wal_replay TOOL WHERE COMMAND...: PostgreSQL replays up to the last of the segments, which it gets by COMMAND. The time is that from
# the beginning of redo to its end, by the server's log; CPU time is that of the server and all that it started.
wal_replay() {
	local last command
	replay_ready
	if [ "$1" = local_pg_wal ]; then wal_segments | sed "s|^|$wal/|" | as_server xargs cp --reflink=auto -t "$archiver/pg_wal"; fi
	last=$(wal_segments | tail -n 1)
	command=$(printf '%q ' "${@:3}")
	command=${command//\\/\\\\} # as the configuration file wants it
	printf '%s\n' "restore_command = '${command//\'/\'\'} %f \"%p\"'" "recovery_target_lsn = '${last:8:8}/${last:22:2}000000'" \
		"recovery_target_action = shutdown" "log_line_prefix = '%n '" "log_min_messages = log" "hot_standby = off" "fsync = off" "archive_mode = off" "max_wal_size = 8GB" \
		"shared_buffers = 1GB" "listen_addresses = ''" "unix_socket_directories = '$sockets'" "logging_collector = off" "lc_messages = C" |
		as_server tee -a "$archiver/postgresql.auto.conf" >/dev/null
	as_server touch "$archiver/recovery.signal"
	replaying=yes measured "$1" "archive-get in recovery, $2" "$bin/postgres" -D "$archiver"
}

# replay_ready makes archiver the cluster as it was before the segments.
replay_ready() {
	rm -rf "$archiver" "$base/spool"
	as_server mkdir -p "$base/spool"
	as_server cp -a --reflink=auto "$base_copy" "$archiver"
	as_server mkdir -p "$archiver/pg_wal/archive_status"
}

# replayed prints the seconds between the lines of the server's log that redo starts and that it has come to its target.
replaying=''
replayed() {
	awk '/ redo starts at / { from = $1 } / recovery stopping / { to = $1 } END { if (from && to) printf "%.3f", to - from }' "$base/command.log"
}

# replay_at_hand WHERE: the same with all segments in pg_wal from the start, for comparison.
replay_at_hand() {
	case " ${replaying_tools[*]} " in *" local_pg_wal "*) ;; *) return 0 ;; esac
	if [ -z "$(chosen local_pg_wal)" ]; then return 0; fi
	empty
	as_server mkdir -p "$repository"
	wal_replay local_pg_wal "$1" false
	rm -rf "$archiver"
}

# wal_calls TOOL: what a call costs: one that does nothing, a push of a segment that is new, a push of one that a call before has pushed
# along. The segment of the first call is not measured.
wal_calls() {
	local tool=$1 start=() first
	wal_prepare "$tool"
	wal_ready
	first=$(wal_segments | sed -n 1p)
	as_server mv "$archiver/pg_wal/archive_status/$first.ready" "$archiver/pg_wal/archive_status/$first.done"
	case $tool in
	pgbak) start=("$base/bin/pgbak" version) ;;
	pgbackrest_recommended) start=("$pgbackrest" version) ;;
	walg) start=("$walg" --version) ;;
	*)
		# The first call pushes the others too, or has that done in the background: measure waits for its end.
		quietly "$base/bin/measure" -row "$base/row" -- sh -c "cd $archiver && exec \"\$@\"" sh "${push[@]}" "pg_wal/$first"
		measured "$tool" "call of archive-push, acknowledged before" "$base/bin/archiver" push "$archiver" "${push[@]}"
		;;
	esac
	if [ ${#start[@]} -gt 0 ]; then
		measured "$tool" "call that does nothing" "$base/bin/archiver" call "$calls" "${start[@]}"
		measured "$tool" "call of archive-push, a new segment" "$base/bin/archiver" push "$archiver" "${push[@]}"
	fi
	wal_finish "$tool"
	rm -rf "$archiver"
}

# calls_of_none: what the measurement itself costs, and what compressing the same segments takes in one process that does nothing else.
calls_of_none() {
	local files
	mapfile -t files < <(wal_segments | sed "s|^|$wal/|")
	empty
	as_server mkdir -p "$repository"
	measured nothing "call that does nothing" "$base/bin/archiver" call "$segments" /bin/true
	# shellcheck disable=SC2016 # the inner shell is to expand this
	local proved=(sh -c '"$@" | grep -q compressed' sh "$base/bin/compress")
	measured compression "call of archive-push, a new segment" "${proved[@]}" -processes "$cores" "${files[@]}"
	measured compression_by_one_process "call of archive-push, a new segment" "${proved[@]}" -processes 1 "${files[@]}"
}

call_rounds() {
	local tool
	store_local "$base/repository"
	for round in $(seq "$runs"); do
		for tool in $(chosen "${called_tools[@]}"); do
			if wal_usable "$tool"; then segments=$((calls + 1)) wal_calls "$tool"; fi
		done
		segments=$calls calls_of_none
	done
	rm -rf "$repository"
}

# wal_rounds WHERE TOOL...
wal_rounds() {
	local tool
	for round in $(seq "$runs"); do
		replay_at_hand "$1"
		for tool in $(chosen "${@:2}"); do
			if wal_usable "$tool"; then wal_round "$tool" "$1"; fi
		done
	done
}

# wal_rounds_s3 TRIP: on S3 to which a round trip takes so many ms longer. Without a longer way there is no proxy.
wal_rounds_s3() {
	local port=$minio_port where=S3 replaying_tools=("${s3_replaying_tools[@]}")
	if [ "$1" != 0 ]; then
		port=$(free_port 19500)
		where="S3 at $1 ms"
		daemon_start proxy "$base/bin/proxy" -listen "127.0.0.1:$port" -to "127.0.0.1:$minio_port" -round-trip "$1ms"
	fi
	store_s3 "$port"
	wal_rounds "$where" "${s3_wal_tools[@]}"
	daemon_stop proxy
	minio_stop
}

# part_wal measures and prints what belongs into the report.
part_wal() {
	local trip all=$segments
	find_minio
	minio_make
	wal_tools_find
	cluster_make
	wal_make
	segments=$calls tables_of wal-calls 0 call_rounds >&2
	store_local "$base/repository"
	tables_of wal-local 0 wal_rounds "local disk" "${wal_tools[@]}" >&2
	rm -rf "$repository"
	for trip in $latencies; do
		if [ "$trip" != 0 ]; then segments=$far_segments; fi
		tables_of "wal-s3-$trip" 0 wal_rounds_s3 "$trip" >&2
		segments=$all
	done
	tools_environment
	printf -- '- %s\n' "${walg:+$("$walg" --version | cut -f 1)}" \
		"$segments segments of 16 MiB, $far_segments where round trips to S3 take longer; S3 is MinIO $(go version -m "$minio" | awk '$1 == "mod" { print $3 }'), TLS, on the same machine"
	printf '\n## WAL\n'
	for trip in wal-calls wal-local $(for trip in $latencies; do echo "wal-s3-$trip"; done); do
		printf '\n'
		cat "$results/$trip.md"
	done
}
