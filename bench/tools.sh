# shellcheck shell=bash
# Sourced by run.sh: the tools that are compared, each as a function TOOL_prepare, which makes an empty repository ready and sets the
# commands backup (a full one), incremental, restore, push and get, and a function TOOL_prove, which judges the first restore.
# shellcheck disable=SC2034 # the commands are run by run.sh, walround.sh, incremental.sh and manyfiles.sh

local_tools=(pgbak pgbak_encrypted pgbak_s2 pgbackrest_recommended pgbackrest_default)
s3_tools=(pgbak pgbak_encrypted pgbackrest_recommended)
restored=$base/restored

# chosen TOOL...: those of them that TOOLS names, or all.
chosen() {
	local tool
	for tool in "$@"; do
		case " ${only:-$tool} " in *" $tool "*) printf '%s\n' "$tool" ;; esac
	done
}

# store_local DIRECTORY: the repositories that are configured from now on are there.
store_local() {
	store=local
	repository=$1
	pgbak_store=("    url: file://$repository")
	pgbackrest_store=("repo1-path=$repository")
}

tools_build() {
	say "building pgbak"
	make --no-print-directory -s build >"$base/build.log" 2>&1 || { cat "$base/build.log" >&2; die "make build failed"; }
	install -m 0755 bin/pgbak "$base/bin/pgbak"
	go build -o "$base/bin/measure" ./bench/measure
	go build -o "$base/bin/report" ./bench/report
	go build -o "$base/bin/proxy" ./bench/proxy
	go build -o "$base/bin/changed" ./bench/changed
	go build -o "$base/bin/compress" ./bench/compress
	install -m 0755 bench/archiver.sh "$base/bin/archiver"
}

tools_find_pgbackrest() {
	pgbackrest=${PGBACKREST:-$(command -v pgbackrest || true)}
	if [ -z "$pgbackrest" ]; then
		apt_install pgbackrest
		pgbackrest=$(command -v pgbackrest)
	fi
	say "$("$pgbackrest" version), $("$bin/postgres" --version)"
}

# archive_with COMMAND: what archive_command calls from now on with the path of a WAL file.
archive_with() {
	printf '#!/bin/sh\nexec %s "$1"\n' "$*" >"$base/archive.new"
	chmod 0755 "$base/archive.new"
	mv "$base/archive.new" "$base/archive"
}

# quietly COMMAND...: as the server's user; its output is shown if it fails.
quietly() { as_server "$@" >"$base/command.log" 2>&1 || { cat "$base/command.log" >&2; die "failed: $*"; }; }

# pgbak_with COMPRESSION [MORE]: a configuration with this compression, and MORE in the repository's entry. The lines of pgbak_sections
# follow at its end.
pgbak_sections=()
pgbak_with() {
	printf '%s\n' "repositories:" "  - name: bench" "${pgbak_store[@]}" "    compression: $1" "${@:2}" \
		"stanzas:" "  - name: main" "    pgdata: $data" \
		"    connection: \"host=$sockets user=postgres dbname=postgres\"" "${pgbak_sections[@]}" >"$base/pgbak.yaml"
	local pgbak=("$base/bin/pgbak" --config "$base/pgbak.yaml" --log-level warn)
	quietly "${pgbak[@]}" init
	archive_with "${pgbak[@]}" archive-push
	backup=("${pgbak[@]}" backup --type full)
	incremental=("${pgbak[@]}" backup --type incr --output json)
	restore=("${pgbak[@]}" restore --target-dir "$restored")
	push=("${pgbak[@]}" archive-push)
	get=("${pgbak[@]}" archive-get)
}

pgbak_prepare() { pgbak_with zstd; }
pgbak_s2_prepare() { pgbak_with s2; }
pgbak_encrypted_prepare() {
	printf 'not a secret, a benchmark\n' | as_server tee "$base/passphrase" >/dev/null
	as_server chmod 0600 "$base/passphrase"
	pgbak_with zstd "    encryption: {passphrase-file: $base/passphrase}"
}

# PostgreSQL's own judge reads every restored file.
pgbak_prove() { quietly "$bin/pg_verifybackup" --no-parse-wal "$restored"; }
pgbak_s2_prove() { pgbak_prove; }
pgbak_encrypted_prove() { pgbak_prove; }

# pgbackrest_with SETTING...: a configuration with these settings besides what every one needs. Without an explicit retention it would warn.
# pgbackrest_offline may hold the option that lets it do without a server.
pgbackrest_offline=()
pgbackrest_with() {
	printf '%s\n' '[global]' "${pgbackrest_store[@]}" repo1-retention-full=9 "lock-path=$base/lock" "spool-path=$base/spool" \
		log-level-console=warn log-level-file=off start-fast=y "$@" \
		'[main]' "pg1-path=$data" "pg1-socket-path=$sockets" pg1-user=postgres >"$base/pgbackrest.conf"
	as_server mkdir -p "$repository" "$restored"
	local command=("$pgbackrest" --config="$base/pgbackrest.conf" --stanza=main)
	quietly "${command[@]}" stanza-create "${pgbackrest_offline[@]}"
	archive_with "${command[@]}" archive-push
	backup=("${command[@]}" backup --type=full)
	incremental=("${command[@]}" backup --type=incr)
	restore=("${command[@]}" restore --pg1-path="$restored")
	push=("${command[@]}" --pg1-path="$archiver" archive-push)
	get=("${command[@]}" --pg1-path="$archiver" archive-get)
}

# block_incremental: does this pgBackRest have it for production? Before 2.46 it was a beta.
block_incremental() {
	local version
	version=$("$pgbackrest" version)
	printf '%s\n' 2.46 "${version##* }" | sort -C -V
}

pgbackrest_default_prepare() { pgbackrest_with; }
pgbackrest_recommended_prepare() {
	local settings=(repo1-bundle=y compress-type=zst compress-level=3 "process-max=$cores")
	if block_incremental; then settings+=(repo1-block=y); fi
	pgbackrest_with "${settings[@]}" "$@"
}

# pgBackRest writes no backup_manifest that pg_verifybackup could read: only that it came to its end is seen here.
pgbackrest_recommended_prove() { [ -f "$restored/global/pg_control" ] || die "pgBackRest restored no pg_control"; }
pgbackrest_default_prove() { pgbackrest_recommended_prove; }

# tools_environment prints what the figures depend on.
tools_environment() {
	local cpu
	cpu=$(sed -nE 's/^model name[[:space:]]*: (.*)/\1/p' /proc/cpuinfo | sed -n 1p)
	printf -- '- %s\n' "$(date -u +%F), ${cpu:-CPU unknown}, $cores cores, $(awk '/^MemTotal/ { printf "%.0f GiB", $2 / 1048576 }' /proc/meminfo) of memory, $(df -PT "$base" | awk 'NR == 2 { print $2 }'), Linux $(uname -r)" \
		"$("$base/bin/pgbak" version)" "$("$pgbackrest" version) ($pgbackrest)" "$("$bin/postgres" --version)" \
		"cluster: $(cluster_bytes | awk '{ printf "%.2f GB", $1 / 1e9 }') without WAL, $runs runs each, medians; load of the machine at the end: $(cut -d ' ' -f 1-3 /proc/loadavg)"
}
