#!/usr/bin/env bash
# Builds WAL-G, with which bench/incremental.sh compares, and prints the path of the program.
#
# It goes to $PGBAK_TEST_CACHE/walg (the default is that of install-s3.sh). What is there in the right version is left alone. The source is
# WAL-G's Go module, or where no module proxy has it the git directory that WALG_GIT names, which may be bare. It is built without cgo,
# hence without WAL-G's optional lzo, brotli and libsodium. The first time takes some minutes.
set -euo pipefail
umask 022

here=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
# shellcheck source=scripts/servers.sh
. "$here/servers.sh"

say() { printf 'install-walg: %s\n' "$*" >&2; }

# 3.0.8 is the newest whose dependencies are all published; it wants the experiment.
version=v3.0.8
commit=f81943e64bdf97aa66f6c52fec55114703f97af7
package=github.com/wal-g/wal-g
export GOEXPERIMENT=jsonv2 CGO_ENABLED=0

dir=$(servers_cache)/walg
if [ -x "$dir/wal-g" ] && [ "$(cat "$dir/commit" 2>/dev/null)" = "$commit" ]; then
	printf '%s\n' "$dir/wal-g"
	exit
fi

say "compiling WAL-G $version"
mkdir -p "$dir"
new=$(mktemp -d "$dir/.new.XXXXXX")
trap 'rm -rf "$new"' EXIT
flags=(-trimpath -ldflags "-s -w -X $package/cmd/pg.walgVersion=$version -X $package/cmd/pg.gitRevision=${commit::12}")
if [ -n "${WALG_GIT:-}" ]; then
	mkdir "$new/source"
	# A copy may lack large files, and those of tests are the only ones.
	git --git-dir="$WALG_GIT" archive "$commit" -- . ':(exclude,glob)**/testdata/**' | tar -xf - -C "$new/source"
	(cd "$new/source" && GOFLAGS=-mod=mod go build "${flags[@]}" -o "$new/wal-g" ./main/pg) >&2
else
	# The program is called pg, after its directory.
	(cd / && GOBIN=$new go install "${flags[@]}" "$package/main/pg@$commit") >&2 ||
		{ say "no module proxy has it: name a copy of its git repository in WALG_GIT"; exit 1; }
	mv "$new/pg" "$new/wal-g"
fi
"$new/wal-g" --version >&2
rm -f "$dir/commit"
mv -f "$new/wal-g" "$dir/wal-g"
printf '%s\n' "$commit" >"$dir/commit"
printf '%s\n' "$dir/wal-g"
