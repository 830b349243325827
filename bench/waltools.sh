# shellcheck shell=bash
# Sourced by run.sh: the tools that push and fetch WAL, each as a function TOOL_prepare, like those of tools.sh. They need no server: a
# data directory at rest says which cluster it is. What TOOL_finish undoes, if there is one, TOOL_prepare has begun.
# shellcheck disable=SC2034 # the commands and settings are used by tools.sh and walround.sh

wal_tools=(pgbak pgbak_batch pgbak_agent pgbak_encrypted pgbak_encrypted_batch pgbak_encrypted_agent pgbackrest_recommended pgbackrest_async walg cp)
s3_wal_tools=(pgbak pgbak_batch pgbak_agent pgbackrest_recommended pgbackrest_async walg)
# replaying_tools are measured in recovery too; local_pg_wal has all WAL at hand.
replaying_tools=(local_pg_wal cp pgbak pgbak_batch pgbak_agent pgbackrest_recommended pgbackrest_async walg)
s3_replaying_tools=(pgbak_batch pgbak_agent pgbackrest_async)
if [ "$replay" = no ]; then replaying_tools=() s3_replaying_tools=(); fi
# called_tools are measured by single calls.
called_tools=(pgbak pgbak_batch pgbak_agent pgbackrest_recommended pgbackrest_async walg)

# wal_usable TOOL: is it there, and can it work with the store that is configured?
wal_usable() {
	case $1 in
	cp) [ "$store" = local ] ;;
	walg) [ -n "$walg" ] ;;
	*_agent) "$base/bin/pgbak" help agent >/dev/null 2>&1 ;;
	esac
}

# wal_tools_find sets walg.
wal_tools_find() {
	walg=${WALG:-$("$root/scripts/install-walg.sh" || true)}
	say "${walg:+$("$walg" --version | cut -f 1)}"
}

# pgbak in batches, and with prefetch: the section archive has a spool.
spool_section() { pgbak_sections=("archive:" "  spool: $base/spool"); }
pgbak_batch_prepare() {
	local pgbak_sections
	spool_section
	pgbak_prepare
}
pgbak_encrypted_batch_prepare() {
	local pgbak_sections
	spool_section
	pgbak_encrypted_prepare
}

# pgbak by way of an agent that runs before and after. It reads the same configuration.
agent_with() {
	local pgbak_sections
	spool_section
	pgbak_sections+=("agent:" "  socket: $base/agent.socket")
	"$1"
	rm -f "$base/agent.socket"
	daemon_start agent "$base/bin/pgbak" --config "$base/pgbak.yaml" --log-level warn agent
	until [ -S "$base/agent.socket" ]; do
		kill -0 "${daemons[agent]}" 2>/dev/null || { cat "$base/agent.log" >&2; die "the agent does not start"; }
		sleep 0.02
	done
}
pgbak_agent_prepare() { agent_with pgbak_prepare; }
pgbak_agent_finish() { daemon_stop agent; }
pgbak_encrypted_agent_prepare() { agent_with pgbak_encrypted_prepare; }
pgbak_encrypted_agent_finish() { daemon_stop agent; }

pgbackrest_async_prepare() { pgbackrest_recommended_prepare archive-async=y; }

# WAL-G with zstd, and with the uploads and prefetches in the background that it makes by default.
walg_wal_prepare() {
	local at="\"WALG_FILE_PREFIX\": \"$repository\""
	if [ "$store" = s3 ]; then
		at="\"WALG_S3_PREFIX\": \"s3://$bucket/walg\", \"AWS_ENDPOINT\": \"https://localhost:$s3_port\", \"AWS_S3_FORCE_PATH_STYLE\": \"true\", \"AWS_REGION\": \"us-east-1\""
		at+=", \"AWS_ACCESS_KEY_ID\": \"$(<"$minio_dir/key")\", \"AWS_SECRET_ACCESS_KEY\": \"$(<"$minio_dir/secret")\", \"WALG_S3_CA_CERT_FILE\": \"$minio_dir/certs/public.crt\""
	fi
	printf '{%s, "PGDATA": "%s", "WALG_COMPRESSION_METHOD": "zstd", "WALG_LOG_LEVEL": "ERROR"}\n' "$at" "$archiver" >"$base/walg.json"
	as_server mkdir -p "$repository"
	push=("$walg" --config "$base/walg.json" wal-push)
	get=("$walg" --config "$base/walg.json" wal-fetch)
}

# cp without fsync and compression, for orientation.
cp_prepare() {
	as_server mkdir -p "$repository"
	# shellcheck disable=SC2016 # the inner shell is to expand this
	push=(sh -c 'exec cp "$1" "$0/"' "$repository")
	# shellcheck disable=SC2016
	get=(sh -c 'exec cp "$0/$1" "$2"' "$repository")
}
