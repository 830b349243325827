# shellcheck shell=bash
# Sourced by run.sh: the same operations on S3, that is MinIO with TLS on this machine, and what the distance to it costs.
#
# MinIO has its data on the same file system and starts anew, empty, before each tool. It counts the requests that reach it, whoever sends
# them. Its CPU time is in no tool's figure but takes cores away from all of them, so it is measured too.
minio_dir=$base/minio
bucket=bench
clock_ticks=$(getconf CLK_TCK)

# find_minio sets minio.
find_minio() {
	minio=${MINIO:-}
	if [ -z "$minio" ]; then
		"$root/scripts/install-s3.sh" >&2
		local cache=${XDG_CACHE_HOME:-${HOME:-}/.cache}/pgbak
		if [ "$(id -u)" -eq 0 ]; then cache=/var/cache/pgbak; fi
		minio=${PGBAK_TEST_CACHE:-$cache}/s3/minio
	fi
	[ -x "$minio" ] || die "$minio is no program: name MinIO's server in MINIO"
	if ! command -v curl >/dev/null; then apt_install curl; fi
}

# daemon_start NAME COMMAND...: in the background, as the server's user. daemon_stop NAME ends it if it runs.
declare -A daemons=()
daemon_start() {
	local name=$1
	shift
	rm -f "$base/$name.pid"
	# shellcheck disable=SC2016 # the inner shell is to expand this
	as_server sh -c 'echo $$ >"$0"; exec "$@"' "$base/$name.pid" "$@" >"$base/$name.log" 2>&1 &
	daemons[$name]=$!
	until [ -s "$base/$name.pid" ]; do
		kill -0 "${daemons[$name]}" 2>/dev/null || { cat "$base/$name.log" >&2; die "$name does not start"; }
		sleep 0.02
	done
}

daemon_stop() {
	[ -n "${daemons[$1]:-}" ] || return 0
	kill "$(<"$base/$1.pid")" 2>/dev/null || true
	wait "${daemons[$1]}" || true
	unset "daemons[$1]"
}

# free_port FIRST prints the first port from FIRST on where nobody listens. The ports of outgoing connections begin above.
free_port() {
	local port=$1
	while (exec 3<>"/dev/tcp/127.0.0.1/$port") 2>/dev/null; do port=$((port + 1)); done
	printf '%s\n' "$port"
}

ask_minio() { curl --silent --fail --max-time 10 --cacert "$minio_dir/certs/public.crt" "https://localhost:$minio_port$1"; }

# minio_make writes what the server needs: a certificate that is its own authority, and keys.
minio_make() {
	local at
	minio_port=$(free_port 19000)
	rm -rf "$minio_dir"
	as_server mkdir -p "$minio_dir/certs"
	at=$(mktemp -d)
	(cd "$at" && go run "$(go env GOROOT)/src/crypto/tls/generate_cert.go" --host localhost,127.0.0.1 --ca --ecdsa-curve P256 2>/dev/null)
	as_server tee "$minio_dir/certs/public.crt" <"$at/cert.pem" >/dev/null
	as_server tee "$minio_dir/certs/private.key" <"$at/key.pem" >/dev/null
	rm -rf "$at"
	printf 'benchmark\n' | as_server tee "$minio_dir/key" >/dev/null
	printf 'not-a-secret-a-benchmark\n' | as_server tee "$minio_dir/secret" >/dev/null
	as_server chmod 0600 "$minio_dir/certs/private.key" "$minio_dir/key" "$minio_dir/secret"
}

minio_stop() { daemon_stop minio; }

# minio_empty starts the server with an empty bucket and all counters at zero.
minio_empty() {
	local tries=0
	minio_stop
	rm -rf "$minio_dir/data"
	as_server mkdir -p "$minio_dir/data/$bucket"
	daemon_start minio env MINIO_ROOT_USER="$(<"$minio_dir/key")" MINIO_ROOT_PASSWORD="$(<"$minio_dir/secret")" MINIO_BROWSER=off \
		MINIO_PROMETHEUS_AUTH_TYPE=public "$minio" server --quiet --certs-dir "$minio_dir/certs" \
		--address "127.0.0.1:$minio_port" "$minio_dir/data"
	until ask_minio /minio/health/ready; do
		tries=$((tries + 1))
		[ "$tries" -le 100 ] || { cat "$base/minio.log" >&2; die "MinIO does not become ready"; }
		sleep 0.1
	done
}

# server_counts prints how many requests of each kind MinIO has answered, and the CPU time in seconds that it took.
server_counts() {
	ask_minio /minio/metrics/v3/api/requests |
		sed -nE 's/^minio_api_requests_total\{name="([^"]+)".*type="s3"\} ([0-9.e+]+)$/\1 \2/p'
	awk -v ticks="$clock_ticks" '{ printf "cpu %.2f\n", ($14 + $15) / ticks }' "/proc/$(<"$base/minio.pid")/stat"
}

# counted BEFORE AFTER prints the difference as two columns: requests by kind, CPU seconds.
counted() {
	awk 'NR == FNR { before[$1] = $2; next }
		$1 == "cpu" { cpu = $2 - before[$1]; next }
		$2 > before[$1] { list = list separator $1 "=" $2 - before[$1]; separator = "," }
		END { printf "%s\t%.2f", list == "" ? "none" : list, cpu }' <(printf '%s\n' "$1") <(printf '%s\n' "$2")
}

# store_s3 PORT: the repositories that are configured from now on are in the bucket, by way of this port.
store_s3() {
	store=s3
	s3_port=$1
	repository=$minio_dir/data/$bucket
	pgbak_store=("    url: s3://$bucket/pgbak"
		"    s3: {endpoint: \"https://localhost:$1\", region: us-east-1, path-style: true, ca-file: $minio_dir/certs/public.crt, credentials: {key-file: $minio_dir/key, secret-file: $minio_dir/secret}}")
	pgbackrest_store=(repo1-path=/pgbackrest repo1-type=s3 "repo1-s3-bucket=$bucket" repo1-s3-endpoint=localhost "repo1-storage-port=$1"
		repo1-s3-region=us-east-1 repo1-s3-uri-style=path "repo1-storage-ca-file=$minio_dir/certs/public.crt"
		"repo1-s3-key=$(<"$minio_dir/key")" "repo1-s3-key-secret=$(<"$minio_dir/secret")")
}

# latency_round TRIP NAME: full backup and restore of pgbak by way of a proxy that makes round trips longer.
latency_round() {
	local port
	port=$(free_port 19500)
	daemon_start proxy "$base/bin/proxy" -listen "127.0.0.1:$port" -to "127.0.0.1:$minio_port" -round-trip "$1"
	store_s3 "$port"
	empty
	pgbak_prepare
	sql -c "CHECKPOINT"
	measured "$2" "full of pgbak by way of a proxy" "${backup[@]}"
	measured_again "$2" "restore of pgbak by way of a proxy" "${restore[@]}"
	daemon_stop proxy
	store_s3 "$minio_port"
}

s3_notes() {
	printf -- '- %s\n' "S3: MinIO $(go version -m "$minio" | awk '$1 == "mod" { print $3 }'), TLS, one process on the same machine and file system. Its CPU time is in no tool's figures but takes from the same cores" \
		"requests are those that MinIO counted during the operation, those of archive_command included; repository sizes are those of MinIO's files"
}
