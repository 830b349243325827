# shellcheck shell=bash
# Sourced by run.sh and profile.sh: where things are, and what the environment may change.
#
#   PGBAK_BENCH_DIR  where the cluster, the repositories and the restored clusters go (default /var/tmp/pgbak-bench; 16 GB, with WAL 26)
#   PG_BIN           the programs of the PostgreSQL to use (default: the newest from 13 to 18 of the distribution)
#   PGBACKREST       the pgBackRest to compare with (default: the one in PATH, or else the distribution's package is installed)
#   MINIO            MinIO's server, for S3 (default: that of scripts/install-s3.sh, which compiles it once)
#   RUNS             how often everything is measured (default 3)
#   SCALE            size of the cluster, 100 (the default) is about 3 GB
#   SEGMENTS         WAL segments of 16 MiB that are pushed, fetched and replayed (default 256)
#   FAR_SEGMENTS     the same by way of a longer distance (default a fifth of SEGMENTS)
#   LATENCIES        ms that a round trip to S3 takes longer, for WAL (default "0 20 100"; "" leaves S3 out)
#   REPLAY           no leaves out what PostgreSQL replays
#   MAJORS           PostgreSQL majors of the incremental backups (default "15 17"; one that is not installed is left out)
#   UPDATES          rows that are updated before each incremental backup (default 20000)
#   INCREMENTALS     incremental backups in a row, each after as many updates (default 3)
#   FILES            files of relations in the cluster with many files (default 400000), which is compared with one of a tenth
#   WALG             the WAL-G to compare with (default: that of scripts/install-walg.sh, or none where it cannot be built)
#   TOOLS            measures only these of the tools, such as "pgbak pgbackrest_recommended" (default: all)

say() { printf 'bench: %s\n' "$*" >&2; }
die() { printf 'bench: %s\n' "$*" >&2; exit 1; }

here=$root/bench
# shellcheck source=scripts/apt.sh
. "$root/scripts/apt.sh"
base=${PGBAK_BENCH_DIR:-/var/tmp/pgbak-bench}
data=$base/data
sockets=$base
runs=${RUNS:-3}
scale=${SCALE:-100}
segments=${SEGMENTS:-256}
far_segments=${FAR_SEGMENTS:-$(((segments + 4) / 5))}
latencies=${LATENCIES-0 20 100}
replay=${REPLAY:-yes}
majors=${MAJORS:-15 17}
updates=${UPDATES:-20000}
incrementals=${INCREMENTALS:-3}
files=${FILES:-400000}
only=${TOOLS:-}
cores=$(nproc)
results=$here/results

# major_of_programs prints the major of the programs in bin.
major_of_programs() { "$bin/postgres" --version | sed -nE 's/^postgres \(PostgreSQL\) ([0-9]+).*/\1/p'; }

# find_postgres sets bin.
find_postgres() {
	local candidate major best=0
	bin=${PG_BIN:-}
	[ -z "$bin" ] || return 0
	"$root/scripts/install-postgres.sh" --demo >&2
	for candidate in /usr/lib/postgresql/*/bin; do
		[ -x "$candidate/pgbench" ] && [ -x "$candidate/pg_verifybackup" ] || continue
		major=$(bin=$candidate major_of_programs)
		if [ "$major" -ge 13 ] && [ "$major" -le 18 ] && [ "$major" -gt "$best" ]; then
			best=$major
			bin=$candidate
		fi
	done
	[ -n "$bin" ] || die "no PostgreSQL 13 to 18 is installed: name its programs in PG_BIN"
}

# make_base makes the directory for everything and gives it to the server's user.
make_base() {
	mkdir -p "$base/bin" "$results"
	if [ "$(id -u)" -eq 0 ]; then chown postgres:postgres "$base"; fi
	(as_server test -w .) || die "the server's user cannot write to $base: name another directory in PGBAK_BENCH_DIR"
	[ ${#sockets} -le 85 ] || die "$base is too long a path for a Unix socket: name another directory in PGBAK_BENCH_DIR"
}
