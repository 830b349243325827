#!/bin/bash
# Makes the real PostgreSQL files that internal/postgres is tested with.
#
#   generate.sh CLIENT_BIN SERVER_BIN...
#
# CLIENT_BIN has psql, pg_basebackup and pg_controldata; each SERVER_BIN has
# initdb, pg_ctl and postgres of one major. As root it becomes the user postgres
# for the servers. Files land in one directory for each major beside this script:
#
#   pg_control.STATE.gz  global/pg_control in production, shut down, in recovery
#   control.STATE.json   what the server's pg_control_* functions say of that file
#   pg_controldata.txt   what pg_controldata says of pg_control.shutdown (there is
#                        no server to ask), for the clients' own major
#   wal.NAME.gz          first page of the WAL segment NAME
#   NAME.history         timeline history of a real promotion
#   backup_label, tablespace_map, backup_manifest.gz   of a base backup
#   tablespaces.json     the links that tablespace_map describes
set -euo pipefail

[ $# -ge 2 ] || { sed -n '2,5p' "$0"; exit 2; }
client=$1
shift
out=$(cd "$(dirname "$0")" && pwd)
work=$(mktemp -d /tmp/pgsample.XXXXXX)
data=$work/data
chmod 755 "$work"
trap 'stop_server; rm -rf "$work"' EXIT

as_server() {
	if [ "$(id -u)" -eq 0 ]; then
		setpriv --reuid=postgres --regid=postgres --init-groups "$@"
	else
		"$@"
	fi
}

sql() { PGOPTIONS='' as_server "$client/psql" -XAtq -v ON_ERROR_STOP=1 -h "$work/socket" -U postgres -d postgres -c "$1"; }

start_server() { as_server "$server/pg_ctl" -D "$data" -l "$work/log/server" -w start >/dev/null || { cat "$work/log/server"; exit 1; }; }

stop_server() {
	[ -f "$data/postmaster.pid" ] && as_server "$server/pg_ctl" -D "$data" -m fast -w stop >/dev/null || true
}

# pack SOURCE NAME: keeps a binary file, compressed without a name or a date.
pack() { gzip -9n <"$1" >"$dir/$2.gz"; }

control_facts="select row_to_json(t) from (select * from pg_control_system(), pg_control_checkpoint(),
	pg_control_recovery(), pg_control_init()) t"

# control STATE: keeps pg_control and what the server says of it, from a moment
# when the server did not write it between the two.
control() {
	local before after
	while :; do
		before=$(sql "$control_facts")
		cp "$data/global/pg_control" "$work/pg_control"
		after=$(sql "$control_facts")
		[ "$before" = "$after" ] && break
	done
	printf '%s\n' "$after" >"$dir/control.$1.json"
	pack "$work/pg_control" "pg_control.$1"
}

# first_page SEGMENT: keeps the first page of a WAL segment.
first_page() {
	head -c 8192 "$data/pg_wal/$1" >"$work/page"
	pack "$work/page" "wal.$1"
}

init_cluster() {
	local size=$1
	rm -rf "$data" "$work/socket" "$work/log" "$work"/space*
	mkdir "$work/socket" "$work/log"
	mkdir "$work/space one" "$work/"$'space\nline' "$work/space\\back"
	[ "$(id -u)" -ne 0 ] || chown -R postgres "$work"
	as_server "$server/initdb" -D "$data" -U postgres -A trust -E UTF8 --locale=C --data-checksums --wal-segsize="$size" >/dev/null
	cat >>"$data/postgresql.conf" <<-END
		listen_addresses = ''
		unix_socket_directories = '$work/socket'
		log_timezone = 'UTC'
		timezone = 'UTC'
		shared_buffers = '8MB'
		min_wal_size = '$((size * 2))MB'
		max_wal_size = '$((size * 4))MB'
		max_connections = 23
		max_wal_senders = 7
		max_worker_processes = 11
		max_prepared_transactions = 5
		max_locks_per_transaction = 71
		wal_log_hints = on
	END
}

# base_backup: a base backup in tar form, into $work/backup. pg_basebackup
# refuses servers newer than itself; those can write the backup themselves.
base_backup() {
	local backup=$work/backup
	rm -rf "$backup"
	mkdir "$backup"
	[ "$(id -u)" -ne 0 ] || chown postgres "$backup"
	if [ "$major" -le "$client_major" ]; then
		as_server "$client/pg_basebackup" -h "$work/socket" -U postgres -D "$backup" -Ft -X none -c fast -l 'sample label' 2>/dev/null
	else
		# psql does not know what follows the copy and ends with a status that
		# says nothing; the server names the manifest last, when all is written.
		rmdir "$backup"
		PGOPTIONS='' as_server "$client/psql" -Xq "host=$work/socket user=postgres dbname=postgres replication=true" \
			-c "BASE_BACKUP (LABEL 'sample label', CHECKPOINT 'fast', WAIT false, MANIFEST 'yes', TABLESPACE_MAP, TARGET 'server', TARGET_DETAIL '$backup')" >/dev/null || true
		[ -f "$backup/backup_manifest" ]
	fi
	tar -xOf "$backup/base.tar" backup_label >"$dir/backup_label"
	tar -xOf "$backup/base.tar" tablespace_map >"$dir/tablespace_map"
	pack "$backup/backup_manifest" backup_manifest
}

tablespaces() {
	sql "create tablespace plain location '$work/space one'"
	sql "create tablespace line location '$work/"$'space\nline'"'"
	sql "create tablespace back location E'$work/space\\\\back'"
	sql "select json_agg(json_build_object('OID', oid::bigint, 'Path', pg_tablespace_location(oid)) order by oid)
		from pg_tablespace where oid > 16000" >"$dir/tablespaces.json"
}

sample() {
	server=$1
	major=$("$server/postgres" --version | sed 's/.* \([0-9]*\)[.].*/\1/')
	dir=$out/$major
	rm -rf "$dir"
	mkdir "$dir"
	init_cluster $((1 << (major - 13)))
	start_server
	tablespaces
	base_backup
	sql 'create table t as select generate_series(1, 1000) n; select pg_switch_wal(); checkpoint' >/dev/null
	control production
	first_page "$(sql 'select pg_walfile_name(pg_current_wal_lsn())')"
	stop_server
	pack "$data/global/pg_control" pg_control.shutdown
	if [ "$major" -eq "$client_major" ]; then
		LC_ALL=C TZ=UTC "$client/pg_controldata" "$data" >"$dir/pg_controldata.txt"
	fi
	as_server touch "$data/standby.signal"
	start_server
	control recovery
	sql 'select pg_promote()' >/dev/null
	sql 'checkpoint'
	control promoted
	first_page "$(sql 'select pg_walfile_name(pg_current_wal_lsn())')"
	cp "$data/pg_wal/00000002.history" "$dir/"
	stop_server
	chmod 644 "$dir"/*
}

client_major=$("$client/psql" --version | sed 's/.* \([0-9]*\)[.].*/\1/')
for bin in "$@"; do
	sample "$bin"
	echo "PostgreSQL $major: $(du -sb "$dir" | cut -f1) bytes"
done
