#!/usr/bin/env bash
# Unpacks PostgreSQL 17 with all its programs, and pgBackRest, of Debian 13 beside an older Debian, for bench/incremental.sh: the
# servers of install-postgres.sh come without pg_basebackup and pg_combinebackup, and pgBackRest has block incremental backups for
# production, and knows PostgreSQL 16 and later, only in versions that Debian 12 does not have.
#
# They go to $PGBAK_TEST_CACHE/debian13 (the default is that of install-postgres.sh), with the C library that they were built for: no
# package is installed, nothing outside of that directory changes, and no root is needed. It prints two lines, the directory of
# PostgreSQL's programs and the path of pgBackRest. On Debian 13 these are the distribution's own, and nothing is unpacked.
set -euo pipefail
umask 022

here=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
# shellcheck source=scripts/servers.sh
. "$here/servers.sh"

say() { printf 'install-debian13: %s\n' "$*" >&2; }
die() { say "$*"; exit 1; }

suite=trixie
own=/usr/lib/postgresql/17/bin
keys=/usr/share/keyrings/debian-archive-keyring.gpg
dir=$(servers_cache)/debian13
programs=$dir/usr/lib/postgresql/17/bin
new=
trap 'if [ -n "$new" ]; then rm -rf "$new"; fi' EXIT

# wrap ROOT PROGRAM: the program, a path in ROOT which will be $dir, becomes a script of its name that runs it by the loader and the
# libraries beside it. PostgreSQL's programs find each other and their files by the name that they were called by, hence --argv0.
wrap() {
	local libraries loader elf=${2%/*}/.elf/${2##*/}
	libraries=$(cd "$1" && echo usr/lib/*-linux-gnu)
	loader=$(cd "$1" && echo "$libraries"/ld-linux*.so.*)
	mkdir -p "$1/${elf%/*}"
	mv "$1/$2" "$1/$elf"
	printf '#!/bin/sh\nexec "%s" --argv0 "$0" --library-path "%s" "%s" "$@"\n' "$dir/$loader" "$dir/$libraries" "$dir/$elf" >"$1/$2"
	chmod 0755 "$1/$2"
}

# download DIRECTORY: the packages and what they need, chosen by apt as for a system on which nothing is installed.
download() {
	local apt=(-qq -o "Dir::Etc::SourceList=$1/sources" -o Dir::Etc::SourceParts=/nonexistent -o "Dir::State::Lists=$1/lists"
		-o "Dir::State::status=$1/status" -o "Dir::Cache=$1" -o Debug::NoLocking=1 -o APT::Sandbox::User= -o Acquire::Retries=5)
	mkdir -p "$1/lists/partial" "$1/archives/partial"
	printf 'deb [signed-by=%s] http://deb.debian.org/debian %s main\n' "$keys" "$suite" >"$1/sources"
	: >"$1/status"
	apt-get "${apt[@]}" update && apt-get "${apt[@]}" -y --no-install-recommends --download-only install postgresql-17 pgbackrest
}

# unpack PACKAGES DIRECTORY: programs, and libraries without those that only a compiler in the server or a language would load. Without
# llvmjit.so the server does not compile expressions.
unpack() {
	local package
	for package in "$1"/lib*.deb "$1"/postgresql-17_*.deb "$1"/postgresql-client-17_*.deb "$1"/pgbackrest_*.deb; do
		case ${package##*/} in libllvm* | libperl* | libz3* | *-perl_*) continue ;; esac
		dpkg-deb -x "$package" "$2"
	done
	rm -rf "$2"/usr/lib/postgresql/17/lib/llvmjit.so "$2"/usr/lib/postgresql/17/lib/bitcode
}

if [ -x "$own/pg_combinebackup" ] && [ -x /usr/bin/pgbackrest ]; then
	printf '%s\n' "$own" /usr/bin/pgbackrest
	exit
fi
if [ ! -e "$dir/.complete" ]; then
	[ -r "$keys" ] && command -v apt-get >/dev/null || die "this is no Debian: PostgreSQL 17 and pgBackRest are to be installed by hand"
	say "fetching PostgreSQL 17 and pgBackRest of Debian 13 into $dir"
	mkdir -p "$(servers_cache)"
	new=$(mktemp -d "$(servers_cache)/.debian13.XXXXXX")
	download "$new/apt" >&2 || die "apt-get could not fetch the packages"
	mkdir "$new/root"
	unpack "$new/apt/archives" "$new/root"
	for program in "$new/root"/usr/lib/postgresql/17/bin/* "$new/root/usr/bin/pgbackrest"; do
		wrap "$new/root" "${program#"$new/root/"}"
	done
	chmod -R go+rX "$new/root"
	rm -rf "$dir"
	mv "$new/root" "$dir"
	"$programs/postgres" --version >&2 && "$dir/usr/bin/pgbackrest" version >&2 || die "what was unpacked does not run"
	: >"$dir/.complete"
fi
printf '%s\n' "$programs" "$dir/usr/bin/pgbackrest"
