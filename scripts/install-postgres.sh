#!/usr/bin/env bash
# Installs the PostgreSQL that the tests (or, with --demo, the demonstration) need on Debian or Ubuntu.
#
#   scripts/install-postgres.sh          everything that `make test` needs:
#                                        the distribution's server with its client tools (pgbench, pg_verifybackup, pg_amcheck,
#                                        pg_waldump, pg_controldata), a C compiler (the libzstd codec and the race detector
#                                        need one), and one server of every major listed in postgres-servers.txt
#   scripts/install-postgres.sh --demo   one PostgreSQL with pgbench, of any version; nothing is done when there is one
#
# It changes nothing that is there already, may be run again and again, and takes well under a second when nothing is missing.
# Packages are installed as root or through sudo. The servers of the npm packages go to
#   $PGBAK_TEST_CACHE/postgres/MAJOR, by default /var/cache/pgbak for root (whose home other users often cannot enter,
#   and PostgreSQL does not run as root) and ${XDG_CACHE_HOME:-~/.cache}/pgbak for everyone else; internal/pgtest looks there.
# PGBAK_TEST_MAJORS=15,18 restricts the majors.
set -euo pipefail
umask 022

here=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
# shellcheck source=scripts/apt.sh
. "$here/apt.sh"
# shellcheck source=scripts/servers.sh
. "$here/servers.sh"

say() { printf 'install-postgres: %s\n' "$*"; }
die() { printf 'install-postgres: %s\n' "$*" >&2; exit 1; }

# has_pgbench: is there any PostgreSQL server that comes with pgbench, in PATH or where Debian keeps it?
has_pgbench() {
	local dir
	if command -v pgbench >/dev/null && command -v initdb >/dev/null && command -v postgres >/dev/null; then return 0; fi
	for dir in /usr/lib/postgresql/*/bin; do
		if [ -x "$dir/pgbench" ] && [ -x "$dir/initdb" ] && [ -x "$dir/postgres" ]; then return 0; fi
	done
	return 1
}

# has_debian_tools: one version of the distribution's PostgreSQL with all the tools that the tests call.
# pg_verifybackup exists since 13, pg_amcheck since 14.
has_debian_tools() {
	local dir tool
	for dir in /usr/lib/postgresql/*/bin; do
		for tool in postgres initdb pgbench pg_verifybackup pg_amcheck pg_waldump pg_controldata; do
			[ -x "$dir/$tool" ] || continue 2
		done
		return 0
	done
	return 1
}

case "${1:-}" in
--demo)
	if ! has_pgbench; then apt_install_postgres; fi
	has_pgbench || die "there is still no PostgreSQL with pgbench after the installation"
	;;
"")
	missing=()
	if ! command -v "${CC:-cc}" >/dev/null && ! command -v gcc >/dev/null; then missing+=(gcc libc6-dev); fi
	if servers_missing && ! command -v npm >/dev/null; then missing+=(npm); fi
	if [ ${#missing[@]} -gt 0 ]; then apt_install "${missing[@]}"; fi
	if ! has_debian_tools; then apt_install_postgres; fi
	has_debian_tools || die "the distribution's PostgreSQL lacks one of pgbench, pg_verifybackup, pg_amcheck, pg_waldump, pg_controldata"
	if servers_missing; then servers_install; fi
	;;
*)
	die "unknown argument $1 (known: --demo)"
	;;
esac
