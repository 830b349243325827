# shellcheck shell=bash
# Sourced by run.sh: incremental backups, and what restoring them takes, next to pgBackRest, WAL-G and PostgreSQL's own pg_basebackup.
#
# shellcheck disable=SC2034 # apart and changed are used by run.sh
#
# Each tool gets a copy of the cluster of its own, and on it the same changes: rows that are spread evenly over both halves of the
# cluster, drawn at random but the same in every run. The CPU time of the PostgreSQL server, archive_command included, is measured apart,
# since tools differ in what they leave to it.
changing=$base/changing # the copy

incremental_tools=(pgbak pgbackrest_recommended pgbackrest_files walg pg_basebackup)

# programs_of MAJOR sets bin to that major's programs, pg_basebackup included.
programs_of() {
	local candidate
	for candidate in "/usr/lib/postgresql/$1/bin" "$debian13"; do
		if [[ "$("$candidate/postgres" --version 2>/dev/null)" = *"(PostgreSQL) $1."* ]] && [ -x "$candidate/pgbench" ]; then
			bin=$candidate
			return 0
		fi
	done
	return 1
}

# tools_find_more sets debian13, walg and, unless PGBACKREST names one, the newest pgBackRest.
tools_find_more() {
	local found
	debian13=none
	if found=$("$root/scripts/install-debian13.sh"); then
		debian13=$(sed -n 1p <<<"$found")
		if [ -z "${PGBACKREST:-}" ] && ! block_incremental; then pgbackrest=$(sed -n 2p <<<"$found"); fi
	fi
	walg=${WALG:-$("$root/scripts/install-walg.sh" || true)}
	say "$("$pgbackrest" version), ${walg:+$("$walg" --version | cut -f 1)}"
}

# usable TOOL MAJOR: is the tool there, and does it know this major?
usable() {
	case $1 in
	walg) [ -n "$walg" ] ;;
	pg_basebackup) [ "$2" -ge 17 ] && [ -x "$bin/pg_combinebackup" ] ;;
	pgbackrest*) [ "$2" -le 15 ] || block_incremental ;;
	esac
}

# pgBackRest without block incremental: whole files, as all versions before 2.46 store them.
pgbackrest_files_prepare() { pgbackrest_with repo1-bundle=y compress-type=zst compress-level=3 "process-max=$cores"; }
pgbackrest_files_prove() { pgbackrest_recommended_prove; }

# WAL-G with deltas on, zstd, and one reader for each core. It verifies no page checksums unless told to. WALG_USE_WAL_DELTA is not among
# the tools: it needs notes of whole groups of 16 segments, and without them falls back to what is measured here.
walg_prepare() {
	printf '{"WALG_FILE_PREFIX": "%s", "PGHOST": "%s", "PGUSER": "postgres", "PGDATABASE": "postgres", "PGDATA": "%s", %s}\n' \
		"$repository" "$sockets" "$data" \
		"\"WALG_COMPRESSION_METHOD\": \"zstd\", \"WALG_DELTA_MAX_STEPS\": \"1000\", \"WALG_LOG_LEVEL\": \"ERROR\", \"WALG_UPLOAD_DISK_CONCURRENCY\": \"$cores\"" \
		>"$base/walg.json"
	as_server mkdir -p "$repository"
	local command=("$walg" --config "$base/walg.json")
	archive_with "${command[@]}" wal-push
	backup=("${command[@]}" backup-push --full "$data")
	incremental=("${command[@]}" backup-push "$data")
	restore=("${command[@]}" backup-fetch "$restored" LATEST)
}
walg_prove() { [ -f "$restored/global/pg_control" ] || die "WAL-G restored no pg_control"; }

# PostgreSQL's own: a backup is a directory of plain files, an incremental one has INCREMENTAL files. Nothing is compressed; WAL of the
# backup is streamed beside it, by default. pg_combinebackup makes a data directory of the whole chain.
pg_basebackup_prepare() {
	as_server mkdir -p "$repository"
	chain=()
	archive_with true
	backup=("$bin/pg_basebackup" -h "$sockets" -U postgres --checkpoint=fast --no-password -D "$repository/full")
	pg_basebackup_next full
}
# pg_basebackup_next NAME: the next backup, of this name, is another link of the chain.
pg_basebackup_next() {
	incremental=("${backup[@]::${#backup[@]}-1}" "$repository/$1")
	if [ ${#chain[@]} -gt 0 ]; then incremental+=("--incremental=${chain[-1]}/backup_manifest"); fi
	chain+=("$repository/$1")
	restore=("$bin/pg_combinebackup" "${chain[@]}" -o "$restored")
}
pg_basebackup_prove() { quietly "$bin/pg_verifybackup" --no-parse-wal "$restored"; }

# changes SEED: updates rows, and waits until everything that follows from that is on disk and archived.
changes() {
	local segment
	sql -v "seed=$1" -v "updates=$updates" -v "scale=$scale" -f - <<'SQL'
UPDATE pgbench_accounts SET abalance = abalance + 1
	WHERE aid IN (SELECT 1 + abs(hashint8(:seed * 1000000000::bigint + n)::bigint) % (:scale * 100000::bigint) FROM generate_series(1, :updates / 2) n);
UPDATE events SET payload = payload || jsonb_build_object('seen', :seed)
	WHERE id IN (SELECT 1 + abs(hashint8(:seed * 2000000000::bigint + n)::bigint) % (:scale * 23000::bigint) FROM generate_series(1, :updates / 2) n);
CHECKPOINT;
SQL
	segment=$(sql -c "SELECT pg_walfile_name(pg_switch_wal() - 1)")
	until [ "$(sql -c "SELECT last_archived_wal >= '$segment' FROM pg_stat_archiver")" = t ]; do sleep 0.1; done
	if [ "$major" -lt 17 ]; then return 0; fi
	until [ "$(sql -c "SELECT summarized_lsn >= redo_lsn FROM pg_get_wal_summarizer_state(), pg_control_checkpoint()")" = t ]; do sleep 0.1; done
}

# pgbak_way: did pgbak find the changes as it is meant to on this major? Else the figures would be those of something else.
pgbak_way() {
	local way=archive-summaries
	if [ "$major" -ge 17 ]; then way=server-summaries; fi
	grep -qF "\"$way\"" "$base/command.log" || die "pgbak did not use $way: $(grep -F '"way-reason"' "$base/command.log")"
}

# incremental_round TOOL: a full backup; as many incremental ones as are wanted, each after changes; one after none; and restores.
incremental_round() {
	local tool=$1 n data=$changing settings=()
	empty
	rm -rf "$changing"
	as_server cp -a --reflink=auto "$unchanged" "$changing"
	archive_with true
	if [ "$major" -ge 17 ]; then settings=(summarize_wal=on); fi
	server_benchmark max_wal_size=4GB "${settings[@]}"
	"${tool}_prepare"
	warm
	apart=yes
	measured "$tool" "full" "${backup[@]}"
	apart='' measured_again "$tool" "restore of a full" "${restore[@]}"
	rm -rf "$restored"
	for n in $(seq "$incrementals"); do
		changes "$n"
		if [ "$n" = 1 ]; then find_changed; fi
		if declare -F "${tool}_next" >/dev/null; then "${tool}_next" "changed$n"; fi
		measured "$tool" "incremental after $updates updates" "${incremental[@]}"
		if [ "$tool" = pgbak ]; then pgbak_way; fi
	done
	changed=-
	apart='' measured_again "$tool" "restore of the last of $incrementals incrementals" "${restore[@]}"
	if [ "$round" -eq 1 ]; then "${tool}_prove"; fi
	rm -rf "$restored"
	if declare -F "${tool}_next" >/dev/null; then "${tool}_next" unchanged; fi
	measured "$tool" "incremental, nothing changed" "${incremental[@]}"
	apart=''
	server_stop
	rm -rf "$changing"
}

# find_changed sets changed to how many bytes the first changes have changed, the same for every tool; it is found out once.
find_changed() {
	if [ -z "${changed_in[$major]:-}" ]; then changed_in[$major]=$("$base/bin/changed" -old "$unchanged" -new "$changing"); fi
	changed=${changed_in[$major]}
	[ -n "$changed" ] || die "how many bytes have changed was not found out"
}
declare -A changed_in=()

incremental_rounds() {
	local tool
	store_local "$base/repository"
	for round in $(seq "$runs"); do
		for tool in $(chosen "${incremental_tools[@]}"); do
			if usable "$tool" "$major"; then incremental_round "$tool"; fi
		done
	done
	rm -rf "$repository"
}

# part_incremental measures each major and prints the report.
part_incremental() {
	local home=$data
	local major unchanged own data=$home bin=$bin
	own=$(major_of_programs)
	tools_find_more
	for major in $majors; do
		if ! programs_of "$major"; then
			say "PostgreSQL $major is not installed: left out"
			continue
		fi
		data=$home
		if [ "$own" != "$major" ]; then data=$home-$major; fi
		cluster_make
		unchanged=$data
		tables_of "incremental-$major" "$(cluster_bytes)" incremental_rounds >&2
		tools_environment
		printf -- '- %s\n' "${walg:+$("$walg" --version | cut -f 1)}" \
			"changed by $updates updates: $(awk -v n="${changed_in[$major]:-0}" 'BEGIN { printf "%.1f MB of pages", n / 1e6 }')"
		printf '\n## Incremental backups of PostgreSQL %s\n\n' "$major"
		cat "$results/incremental-$major.md"
		printf '\n'
	done
}
