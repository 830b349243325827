# shellcheck shell=bash
# Sourced by run.sh: what very many files cost. A full and an incremental backup of a cluster of FILES files of relations and of one of a
# tenth: time should grow no faster than the number of files, and memory hardly at all.
#
# Every table is four files: the table with a row, its index, and the table and index of what is too long for a row. So many tables are
# made as the small cluster needs; the large one has nine more databases, which the server makes by copying files.
many=$base/manyfiles
many_tools=(pgbak pgbackrest_recommended)

many_make() {
	local tables=$((files / 40)) at
	say "generating a cluster of $((files / 10)) files in $many"
	rm -rf "$many"
	as_server "$bin/initdb" -D "$many" -U postgres -A trust -k -N -E UTF8 --no-locale >/dev/null
	data=$many server_start fsync=off full_page_writes=off wal_level=minimal max_wal_senders=0 archive_mode=off autovacuum=off \
		synchronous_commit=off max_wal_size=4GB max_locks_per_transaction=1000
	# A transaction holds a lock for each file that it makes.
	for at in $(seq 1 1000 "$tables"); do
		sql -v "first=$at" -v "last=$((at + 999 < tables ? at + 999 : tables))" -f - <<'SQL'
SELECT format('CREATE TABLE t%1$s (id integer PRIMARY KEY, note text); INSERT INTO t%1$s VALUES (%1$s, ''one'')', n) FROM generate_series(:first, :last) n
\gexec
SQL
	done
	sql -c CHECKPOINT
	data=$many server_stop
}

# many_more makes the large cluster out of the small one. Until 14 databases are always copied as files.
many_more() {
	local n strategy=
	if [ "$(major_of_programs)" -ge 15 ]; then strategy=" STRATEGY file_copy"; fi
	say "generating a cluster of $files files out of it"
	data=$many server_start fsync=off wal_level=minimal max_wal_senders=0 archive_mode=off autovacuum=off max_wal_size=4GB
	for n in $(seq 9); do
		as_server "$bin/psql" -X -q -h "$sockets" -U postgres -d template1 -c "CREATE DATABASE copy$n TEMPLATE postgres$strategy"
	done
	data=$many server_stop
}

# many_round TOOL COUNT: one row in a hundred tables changes between the two backups.
many_round() {
	local tool=$1 data=$many
	empty
	archive_with true
	server_benchmark
	"${tool}_prepare"
	warm
	measured "$tool" "full of $2 files" "${backup[@]}"
	sql -v "round=$round" -v "tables=$((files / 40))" -f - <<'SQL'
SELECT format('UPDATE t%s SET note = ''two''', 1 + (n * 7919 + :round) % :tables) FROM generate_series(1, least(100, :tables)) n
\gexec
CHECKPOINT;
SQL
	measured "$tool" "incremental of $2 files" "${incremental[@]}"
	server_stop
}

many_rounds() {
	local tool count
	store_local "$base/repository"
	for count in $((files / 10)) "$files"; do
		if [ "$count" = "$files" ]; then many_more; fi
		for round in $(seq "$runs"); do
			for tool in $(chosen "${many_tools[@]}"); do many_round "$tool" "$count"; done
		done
	done
	rm -rf "$repository"
}

part_manyfiles() {
	tools_find_more
	many_make
	tables_of manyfiles 0 many_rounds >&2
	printf -- '- %s\n' "files in the larger cluster: $(find "$many" -type f | wc -l), $(data=$many cluster_bytes | awk '{ printf "%.2f GB", $1 / 1e9 }')" \
		"$("$pgbackrest" version)" "$("$bin/postgres" --version)"
	printf '\n## Very many files\n\n'
	cat "$results/manyfiles.md"
	rm -rf "$many"
}
