# shellcheck shell=bash
# Sourced by install-postgres.sh: the distribution's packages.

# as_root COMMAND...: directly, or through sudo.
as_root() {
	if [ "$(id -u)" -eq 0 ]; then
		"$@"
	elif command -v sudo >/dev/null; then
		sudo "$@"
	else
		die "root or sudo is needed for: $*"
	fi
}

# apt_install PACKAGE...: with patience for another apt at work and for mirrors that fail now and then.
apt_install() {
	command -v apt-get >/dev/null || die "this is no Debian or Ubuntu: install by hand what these packages hold: $*"
	say "installing with apt-get: $*"
	local try
	for try in 1 2 3; do
		if as_root apt-get -qq -o Acquire::Retries=5 -o DPkg::Lock::Timeout=300 update &&
			as_root env DEBIAN_FRONTEND=noninteractive apt-get -qq -y --no-install-recommends \
				-o Acquire::Retries=5 -o DPkg::Lock::Timeout=300 -o Dpkg::Use-Pty=0 install "$@" </dev/null; then
			return 0
		fi
		say "apt-get failed (attempt $try of 3)"
		sleep $((try * 5))
	done
	die "could not install: $*"
}

# apt_install_postgres installs the distribution's server and tools. Debian's package would create a cluster "main" and start it:
# nobody asked for that, so its own switch turns it off for the time of the installation, unless the administrator
# already decided (clusters that exist are never touched).
apt_install_postgres() {
	local switch=/etc/postgresql-common/createcluster.d/pgbak-tests.conf
	as_root mkdir -p "${switch%/*}"
	printf 'create_main_cluster = false\n' | as_root tee "$switch" >/dev/null
	# Double quotes: the path must be in the trap itself, the variable is local.
	# shellcheck disable=SC2064
	trap "as_root rm -f '$switch'" EXIT
	apt_install postgresql postgresql-contrib
	as_root rm -f "$switch"
	trap - EXIT
}
