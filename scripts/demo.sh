#!/usr/bin/env bash
# Shows the main job of pgbak on a real PostgreSQL: back up a cluster under traffic, lose a table by mistake, restore to the
# moment before into a new directory, and prove that every committed row up to that moment is there and nothing later is.
#
# Needs Go on Debian or Ubuntu; PostgreSQL is found, or installed as root or through sudo. Everything happens in a temporary
# directory that is removed at the end, servers listen on Unix sockets in it only, and clusters that exist are never touched.
# Exits 1 if any step or any proof fails.
#
#   TMPDIR            where the temporary directory is made (default /tmp, or /var/tmp where that is too small)
#   PGBAK_DEMO_KEEP=1 stops the servers at the end but keeps the directory
set -euo pipefail
umask 022
cd "$(dirname "${BASH_SOURCE[0]}")/.."

# Half of this is used; the rest is room for WAL of a machine that is much faster.
need_mb=1500
step_number=0
dir=

step() { step_number=$((step_number + 1)); printf '\n%d. %s\n' "$step_number" "$*"; }
say() { printf '   %s\n' "$*"; }
die() { printf 'demo: %s\n' "$*" >&2; exit 1; }

# as_server COMMAND...: as the user that owns the clusters, as PostgreSQL refuses to run as root, and with nothing in the
# environment that would lead PostgreSQL's programs or pgbak elsewhere.
as_server() {
	local as=()
	if [ "$(id -u)" -eq 0 ]; then as=(setpriv --reuid=postgres --regid=postgres --init-groups); fi
	(cd "$dir" && exec "${as[@]}" env -i PATH="$PATH" HOME="$dir" LC_ALL=C ${TZ:+TZ="$TZ"} "$@")
}

# shown COMMAND...: runs it as that user with its output indented.
shown() { as_server "$@" 2>&1 | sed 's/^/     | /'; }
pgbak() { shown "$dir/bin/pgbak" --config "$dir/pgbak.yaml" "$@"; }
sql() { as_server "$bin/psql" -X -q -A -t -v ON_ERROR_STOP=1 -h "$dir/run" -p "$1" -U postgres -d postgres -c "$2"; }

# start_server DATA PORT LOG: on a Unix socket only, so that no port of the machine is taken.
start_server() {
	as_server "$bin/pg_ctl" -D "$1" -o "-p $2" -l "$dir/$3" -w -t 60 start >/dev/null ||
		die "the server on $1 did not start"
}

stop_server() {
	if [ -f "$1/postmaster.pid" ]; then as_server "$bin/pg_ctl" -D "$1" -m immediate -w stop >/dev/null 2>&1 || true; fi
}

finish() {
	local status=$?
	trap - EXIT INT TERM
	if [ -n "$dir" ]; then clean_up "$status"; fi
	case $status in
	0 | 130 | 143) exit "$status" ;;
	esac
	printf '\nTHE DEMONSTRATION FAILED (exit %d).\n' "$status" >&2
	exit 1
}

# clean_up STATUS stops what runs, shows the ends of the logs after a failure, and removes the directory.
clean_up() {
	local log
	stop_server "$dir/restored"
	stop_server "$dir/data"
	if [ "$1" -ne 0 ]; then
		for log in "$dir"/*.log; do
			[ -s "$log" ] || continue
			printf '\n---- the end of %s\n' "${log##*/}" >&2
			tail -n 15 "$log" >&2
		done
	fi
	if [ -n "${PGBAK_DEMO_KEEP:-}" ]; then
		say "kept: $dir"
	else
		cd /
		rm -rf "$dir"
	fi
}
trap finish EXIT
trap 'exit 130' INT
trap 'exit 143' TERM

# find_postgres sets bin to the programs of the newest PostgreSQL from 13 to 18 that has pgbench and pg_verifybackup.
find_postgres() {
	local candidate program major best=0
	bin=
	for candidate in /usr/lib/postgresql/*/bin "$(dirname "$(readlink -f "$(command -v initdb || echo /nowhere/initdb)")")"; do
		for program in initdb postgres pg_ctl psql pgbench pg_verifybackup; do
			[ -x "$candidate/$program" ] || continue 2
		done
		major=$("$candidate/postgres" --version | sed -nE 's/^postgres \(PostgreSQL\) ([0-9]+).*/\1/p')
		if [ "${major:-0}" -ge 13 ] && [ "$major" -le 18 ] && [ "$major" -gt "$best" ]; then
			best=$major
			bin=$candidate
		fi
	done
	[ -n "$bin" ] || die "no PostgreSQL 13 to 18 with pgbench and pg_verifybackup is installed, and the distribution has none"
}

# make_directory sets dir to a new directory with room enough that belongs to the server's user. A Unix socket's path may have
# 107 bytes only, so a long TMPDIR cannot be used.
make_directory() {
	local base free
	for base in "${TMPDIR:-/tmp}" /var/tmp; do
		free=$(df -Pm "$base" 2>/dev/null | awk 'NR == 2 { print $4 }')
		if [ "${free:-0}" -ge "$need_mb" ] && [ ${#base} -le 70 ] && [ -w "$base" ]; then
			dir=$(mktemp -d "$base/pgbak-demo.XXXXXX")
			break
		fi
	done
	[ -n "$dir" ] || die "neither ${TMPDIR:-/tmp} nor /var/tmp has $need_mb MB of room (and a short path): name a directory in TMPDIR"
	dir=$(cd "$dir" && pwd -P)
	mkdir "$dir/bin" "$dir/run"
	if [ "$(id -u)" -eq 0 ]; then
		id postgres >/dev/null 2>&1 || die "PostgreSQL does not run as root, and there is no user postgres: run this as another user"
		chown -R postgres:postgres "$dir"
	fi
	(as_server test -w .) || die "user postgres cannot enter $dir: name another directory in TMPDIR"
}

make_cluster() {
	as_server "$bin/initdb" -D "$dir/data" -U postgres -A trust -k -N -E UTF8 --no-locale >"$dir/initdb.out" || die "initdb failed"
	as_server tee -a "$dir/data/postgresql.conf" >/dev/null <<-CONF
		listen_addresses = ''
		unix_socket_directories = '$dir/run'
		shared_buffers = 64MB
		max_wal_size = 256MB
		checkpoint_warning = 0
		log_checkpoints = off
		archive_mode = on
		archive_command = '"$dir/bin/pgbak" --config "$dir/pgbak.yaml" --log-level warn archive-push %p'
	CONF
	as_server tee "$dir/pgbak.yaml" >/dev/null <<-YAML
		repositories:
		  - name: local
		    url: file://$dir/repository
		stanzas:
		  - name: main
		    pgdata: $dir/data
		    connection: "host=$dir/run port=5432 user=postgres dbname=postgres"
	YAML
}

# fill makes pgbench's bank of a million accounts, and the table that will be lost.
fill() {
	as_server "$bin/pgbench" -h "$dir/run" -p 5432 -U postgres -i -s 10 -q postgres >"$dir/pgbench.log" 2>&1
	sql 5432 "CREATE TABLE orders (id bigserial PRIMARY KEY, placed timestamptz NOT NULL DEFAULT clock_timestamp(),
		amount numeric(10,2) NOT NULL, note text NOT NULL)"
	as_server tee "$dir/orders.sql" >/dev/null <<-'SQL'
		INSERT INTO orders (amount, note) SELECT round((random() * 1000)::numeric, 2), md5(random()::text) FROM generate_series(1, 10);
	SQL
}

# traffic SECONDS WHAT: four clients. What they commit is durable when pgbench ends. WHAT is "bank", pgbench's own transactions, or
# "bank+orders", where every second transaction inserts ten orders.
traffic() {
	local scripts=(-b tpcb-like)
	if [ "$2" = bank+orders ]; then scripts+=(-f "$dir/orders.sql"); fi
	as_server "$bin/pgbench" -h "$dir/run" -p 5432 -U postgres -n -c 4 -j 2 -T "$1" "${scripts[@]}" postgres >>"$dir/pgbench.log" 2>&1
	say "$(sed -nE 's/^number of transactions actually processed: ([0-9]+).*/\1 transactions were committed./p' "$dir/pgbench.log" | tail -n 1)"
}

# state PORT FILE writes one line per table: its name, rows, sum of its figures, and a sum of a hash over all of every row, which any
# lost, added or altered row changes.
state() {
	local table figure sums='sum(hashtextextended(t::text, 0))' query=
	while read -r table figure; do
		if [ "$(sql "$1" "SELECT to_regclass('$table') IS NULL")" = t ]; then
			query+="${query:+ UNION ALL }SELECT '$table', 'gone', '', ''"
		else
			query+="${query:+ UNION ALL }SELECT '$table', count(*)::text, sum($figure)::text, ($sums)::text FROM $table t"
		fi
	done <<-'TABLES'
		orders amount
		pgbench_accounts abalance
		pgbench_branches bbalance
		pgbench_history delta
		pgbench_tellers tbalance
	TABLES
	sql "$1" "$query" >"$dir/$2"
	{
		echo 'table|rows|sum|sum of row hashes'
		cat "$dir/$2"
	} | awk -F'|' '{ printf "     | %-18s %10s %14s  %s\n", $1, $2, $3, $4 }'
}

# wait_until PORT QUERY WHAT: until the query says t, for a minute.
wait_until() {
	local deadline=$((SECONDS + 60))
	until [ "$(sql "$1" "$2" 2>/dev/null)" = t ]; do
		[ "$SECONDS" -lt "$deadline" ] || die "waited a minute in vain: $3"
		sleep 0.2
	done
}

# archived_all ends the current WAL file, as an administrator does before a restore, and waits until it is in the repository.
archived_all() {
	local file
	file=$(sql 5432 "SELECT pg_walfile_name(pg_switch_wal())")
	wait_until 5432 "SELECT last_archived_wal >= '$file' FROM pg_stat_archiver" "WAL file $file is not archived"
}

prove_same() {
	cmp -s "$dir/before" "$dir/after" || {
		diff "$dir/before" "$dir/after" >&2 || true
		die "PROOF FAILED: the restored tables are not what they were at $moment (lines with < were, lines with > are)"
	}
	say "proved: every table, the lost one too, has the rows, sums and row hashes of $moment:"
	say "        no committed row is missing, and none that came later is there."
}

# prove_different: the proof above would be worth nothing if the traffic after the mistake had changed nothing.
prove_different() {
	cmp -s "$dir/before" "$dir/now" && die "PROOF FAILED: the first server has not changed since $moment"
	grep -q '^orders|gone' "$dir/now" || die "PROOF FAILED: the table was not lost on the first server"
	say "proved: the first server went on: there the table is gone and later transactions are."
}

began=$SECONDS
step "Look for PostgreSQL (and install the distribution's if there is none)."
scripts/install-postgres.sh --demo
find_postgres
say "$("$bin/postgres" --version) in $bin"

step "Build pgbak."
said=$(make --no-print-directory -s build 2>&1) || die "make build failed:"$'\n'"$said"
make_directory
install -m 0755 bin/pgbak "$dir/bin/pgbak"
say "$("$dir/bin/pgbak" version)"
worked=$SECONDS

step "Create a cluster whose archive_command is pgbak archive-push, with a bank of 1,000,000 accounts and a table of orders."
make_cluster
say "$(grep '^archive_command' "$dir/data/postgresql.conf")"
start_server "$dir/data" 5432 server.log

step "Create the repository and the stanza (pgbak init), and see whether archiving works (pgbak check)."
pgbak init
pgbak check
fill
traffic 4 bank+orders

step "Take a full backup while clients go on writing."
traffic 8 bank+orders >"$dir/traffic" &
writers=$!
pgbak --log-level warn backup --type full
wait "$writers" || die "the traffic during the backup failed"
cat "$dir/traffic"

step "More traffic after the backup: what it commits is in the archived WAL only."
traffic 6 bank+orders

step "Write down what is committed now, and the server's time: this is what we shall want back."
state 5432 before
moment=$(sql 5432 "SELECT clock_timestamp()")
say "the moment: $moment"
sleep 0.5

step "The mistake: DROP TABLE orders."
sql 5432 "DROP TABLE orders"
say "Nobody notices, and traffic goes on."
traffic 4 bank
archived_all
state 5432 now

step "What is in the repository (pgbak info)."
pgbak info

step "Restore to the moment before the mistake, into a new directory. The first server keeps running."
pgbak --log-level warn restore --target-dir "$dir/restored" --type time --target "$moment" --target-action promote

step "Let PostgreSQL's own pg_verifybackup compare every restored file with its checksum in backup_manifest."
shown "$bin/pg_verifybackup" --no-parse-wal "$dir/restored"

step "Start a second server on the restored directory; it fetches WAL by pgbak archive-get and stops at the moment."
start_server "$dir/restored" 5433 restored.log
wait_until 5433 "SELECT NOT pg_is_in_recovery()" "the restored server does not end recovery"
{ grep -E 'recovery stopping|archive recovery complete|selected new timeline' "$dir/restored.log" || true; } | sed 's/^/     | /'

step "Compare."
state 5433 after
prove_same
prove_different
say "The restored server takes new transactions: $(sql 5433 "INSERT INTO orders (amount, note) VALUES (1, 'after the restore') RETURNING 'order ' || id")."

printf '\nDONE: the dropped table and every row committed up to %s are back (%s orders, %d s, %d s with the build).\n' \
	"$moment" "$(sed -nE 's/^orders\|([0-9]+)\|.*/\1/p' "$dir/before")" $((SECONDS - worked)) $((SECONDS - began))
[ -n "${PGBAK_DEMO_KEEP:-}" ] || echo "The servers are stopped and the temporary directory is removed."
