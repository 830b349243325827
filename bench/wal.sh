# shellcheck shell=bash
# Sourced by run.sh: WAL segments of the cluster, and archiving them one by one. Uses the functions of cluster.sh and tools.sh.
#
# The segments are made once, by pgbench on a copy of the cluster, which has its system identifier; so the cluster stays as it is. They are
# named like those that the cluster itself will write, hence they go to repositories that take nothing else.
wal=$base/wal
copy=$base/wal-cluster
archiver=$base/archiver # a data directory as far as archiving needs one

# wal_make makes the segments unless they are there from an earlier run.
wal_make() {
	local mark=$base/wal.made made surplus
	made="$(cluster_version) $segments"
	if [ -f "$mark" ] && [ "$(<"$mark")" = "$made" ]; then return 0; fi
	say "generating $segments WAL segments in $wal (once)"
	rm -rf "$mark" "$wal" "$copy"
	as_server mkdir "$wal"
	as_server cp -a --reflink=auto "$data" "$copy"
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

# wal_ready makes the directory anew as a server leaves it that has all segments still to archive.
wal_ready() {
	local segment
	rm -rf "$archiver" "$base/spool"
	as_server mkdir -p "$archiver/pg_wal/archive_status" "$archiver/global" "$archiver/fetched" "$base/spool"
	as_server cp "$data/PG_VERSION" "$archiver/PG_VERSION"
	as_server cp "$data/global/pg_control" "$archiver/global/pg_control"
	for segment in "$wal"/*; do
		as_server ln "$segment" "$archiver/pg_wal/"
		as_server touch "$archiver/pg_wal/archive_status/${segment##*/}.ready"
	done
}

# wal_prove: what was fetched is what was pushed.
wal_prove() {
	diff -r "$wal" "$archiver/fetched" >&2 || die "the segments that were fetched differ from those that were pushed"
}

# wal_round TOOL: all segments into an empty repository, and out of it again. What the server writes meanwhile goes nowhere.
wal_round() {
	local tool=$1
	empty
	"${tool}_prepare"
	archive_with true
	wal_ready
	measured "$tool" archive-push "$base/bin/archiver" push "$archiver" "${push[@]}"
	measured "$tool" archive-get "$base/bin/archiver" get "$archiver" "${get[@]}"
	wal_prove
	rm -rf "$archiver"
}
