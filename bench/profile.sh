#!/usr/bin/env bash
# Shows where the CPU time of a full backup of the benchmark's cluster goes: by kind of work, and the 15 functions that take most. The
# profile stays in bench/results/backup.pprof. Takes the same variables as bench/run.sh (settings.sh), and COMPRESSION, which
# is zstd unless told otherwise.
set -euo pipefail
umask 022
root=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)
cd "$root"
# shellcheck source=bench/settings.sh
. bench/settings.sh
# shellcheck source=bench/cluster.sh
. bench/cluster.sh
# shellcheck source=bench/tools.sh
. bench/tools.sh
store_local "$base/repository-profile"

finish() {
	local status=$?
	trap - EXIT INT TERM
	server_stop || true
	rm -rf "$repository" "$base/backup.pprof"
	exit "$status"
}

# kinds sums the time that functions spend themselves, as pprof -top lists it, by what they do.
kinds() {
	awk '
		NR == 1, /flat%/ { next }
		{ seconds = $1; if (sub(/ms$/, "", seconds)) seconds /= 1000; else sub(/s$/, "", seconds) }
		/runtime\.cgocall|klauspost\/compress\/(zstd|s2|huff0|fse)/ { kind = "compression" }
		/[cC]hecksum|crc32|[cC]rc32|xxh3|sha256|sha1|blake|[iI]sZero/ { kind = "page checksums, hashes, zero pages" }
		/internal\/runtime\/syscall|syscall\.(raw)?[sS]yscall|runtime\.vdso/ { kind = "system calls: read, write, fsync" }
		/aes|gcm/ { kind = "encryption" }
		kind == "" && /memmove|memclr/ { kind = "copying memory" }
		kind == "" && /runtime/ { kind = "Go runtime" }
		kind == "" { kind = "the rest" }
		{ sum[kind] += seconds; total += seconds; kind = "" }
		END { for (k in sum) printf "%6.2f s %5.1f %%  %s\n", sum[k], 100 * sum[k] / total, k }
	' | sort -rn
}

find_postgres
make_base
tools_build
go build -o "$base/bin/profile" ./bench/profile
cluster_make
rm -rf "$repository"
trap finish EXIT
trap 'exit 130' INT
trap 'exit 143' TERM
archive_with true
server_benchmark
pgbak_with "${COMPRESSION:-zstd}"
# Once to have everything in the page cache; the second must store all anew.
quietly "${backup[@]}"
rm -rf "$repository"
pgbak_with "${COMPRESSION:-zstd}"
rm -f "$base/backup.pprof"
sync
as_server "$base/bin/profile" -repository "$repository" -pgdata "$data" -connection "host=$sockets user=postgres dbname=postgres" \
	-processes "$cores" -cpu "$base/backup.pprof" | tee "$results/profile.txt"
[ -f "$base/backup.pprof" ] || die "there is no profile"
cp "$base/backup.pprof" "$results/backup.pprof"
{
	echo
	go tool pprof -top -nodecount=100000 -nodefraction=0 "$base/bin/profile" "$results/backup.pprof" 2>/dev/null | kinds
	echo
	go tool pprof -top -nodecount=15 "$base/bin/profile" "$results/backup.pprof" 2>/dev/null
} | tee -a "$results/profile.txt"
