#!/usr/bin/env bash
# Installs the S3 servers that the tests need, MinIO and versitygw, by `go install` at the versions below.
#
# They go to $PGBAK_TEST_CACHE/s3, by default /var/cache/pgbak/s3 for root and ${XDG_CACHE_HOME:-~/.cache}/pgbak/s3 for everyone
# else; internal/s3test looks there. What is there in the right version is left alone, which takes a fraction of a second.
# The first time takes some minutes, as both are compiled.
set -euo pipefail
umask 022

here=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
# shellcheck source=scripts/servers.sh
. "$here/servers.sh"

say() { printf 'install-s3: %s\n' "$*"; }
die() { printf 'install-s3: %s\n' "$*" >&2; exit 1; }

dir=$(servers_cache)/s3
new=
trap 'if [ -n "$new" ]; then rm -rf "$new"; fi' EXIT

# install_server PACKAGE MODULE VERSION: the program has the name of the package's last element.
install_server() {
	local name=${1##*/} try
	# What go records in a program says which version it is, so nothing else needs to be remembered.
	if go version -m "$dir/$name" 2>/dev/null | awk '$1 == "mod" { print $2, $3 }' | grep -qxF "$2 $3"; then return 0; fi
	say "compiling $name $3"
	mkdir -p "$dir"
	new=$(mktemp -d "$dir/.new.XXXXXX")
	for try in 1 2 3; do
		# Without cgo: no C compiler is needed, and the program runs everywhere.
		if (cd / && GOBIN=$new CGO_ENABLED=0 go install -trimpath -ldflags '-s -w' "$1@$3"); then break; fi
		[ "$try" -lt 3 ] || die "could not install $1@$3"
		sleep $((try * 5))
	done
	mv -f "$new/$name" "$dir/$name"
	rm -rf "$new"
	new=
}

install_server github.com/minio/minio github.com/minio/minio v0.0.0-20260212201848-7aac2a2c5b7c
install_server github.com/versity/versitygw/cmd/versitygw github.com/versity/versitygw v1.8.0
