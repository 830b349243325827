# shellcheck shell=bash
# Sourced by run.sh and profile.sh: the generated cluster and its server. Uses bin, base, data, sockets and cores of settings.sh.
#
# About 3 GB in pages with checksums. Half is pgbench (narrow rows with much padding: compresses 36 times), half is a table of
# events as applications have them: random uuids, JSON with random numbers, text of words, and five indexes, one of them on random
# keys and one on random text. Every value derives from md5 of its row's number, so every run on every machine makes the same rows.

# as_server COMMAND...: as the user that owns the cluster; PostgreSQL refuses to run as root.
as_server() {
	local as=()
	if [ "$(id -u)" -eq 0 ]; then as=(setpriv --reuid=postgres --regid=postgres --init-groups); fi
	(cd "$base" && exec "${as[@]}" env -i PATH="$PATH" HOME="$base" LC_ALL=C "$@")
}

sql() { as_server "$bin/psql" -X -q -A -t -v ON_ERROR_STOP=1 -h "$sockets" -U postgres -d postgres "$@"; }

# server_start [SETTING=VALUE...]
server_start() {
	local options="-c listen_addresses= -c unix_socket_directories=$sockets" setting
	for setting in "$@"; do options+=" -c $setting"; done
	as_server "$bin/pg_ctl" -D "$data" -o "$options" -l "$base/server.log" -w -t 300 start >/dev/null ||
		{ tail -n 20 "$base/server.log" >&2; die "the server does not start"; }
}

# server_benchmark [SETTING=VALUE...] starts the server as it is while tools are measured. autovacuum=off keeps the cluster unchanged
# between two backups. Both tools look for their name in archive_command, which the shell takes as a comment.
server_benchmark() {
	server_start "$@" archive_mode=on "archive_command='\"$base/archive\" %p # pgbak archive-push or pgbackrest archive-push'" \
		autovacuum=off shared_buffers=256MB log_checkpoints=off
}

server_stop() {
	if [ -f "$data/postmaster.pid" ]; then as_server "$bin/pg_ctl" -D "$data" -m fast -w -t 300 stop >/dev/null; fi
}

# cluster_version changes with what is generated, so that a cached cluster of other content is made anew.
cluster_version() {
	printf '%s %s ' "$("$bin/postgres" --version | tr -dc '0-9.')" "$scale"
	sha256sum "$here/cluster.sql" | cut -d ' ' -f 1
}

# cluster_make generates the cluster unless it is there from an earlier run.
cluster_make() {
	local mark=$base/cluster${data#"$base/data"}.made
	if [ -f "$mark" ] && [ "$(<"$mark")" = "$(cluster_version)" ]; then return 0; fi
	say "generating the cluster in $data (once; some minutes)"
	rm -rf "$mark" "$data"
	as_server "$bin/initdb" -D "$data" -U postgres -A trust -k -N -E UTF8 --no-locale >/dev/null
	# What is generated need not survive a crash.
	server_start fsync=off wal_level=minimal max_wal_senders=0 archive_mode=off autovacuum=off full_page_writes=off \
		synchronous_commit=off max_wal_size=4GB min_wal_size=80MB shared_buffers=512MB maintenance_work_mem=512MB
	as_server "$bin/pgbench" -h "$sockets" -U postgres -i -I dtGvp -s "$scale" -q postgres >/dev/null 2>&1 || die "pgbench -i failed"
	sql -v "scale=$scale" -f - <"$here/cluster.sql"
	server_stop
	cluster_version >"$mark"
}

# cluster_bytes prints the size of the cluster's files without WAL: what a full backup reads.
cluster_bytes() {
	find "$data" -path "$data/pg_wal" -prune -o -type f -printf '%s\n' | awk '{ n += $1 } END { printf "%.0f\n", n }'
}
