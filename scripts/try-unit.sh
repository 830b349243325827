#!/usr/bin/env bash
# Runs deploy/systemd/pgbak-agent.service by a real systemd, which is process 1 of namespaces of its own over a copy of this machine's
# root (an overlay in memory, with a network of its own): a server archives by the agent, the agent is killed again and again and comes back, a restored
# server recovers by it, and it is stopped. It needs root, systemd, and the servers of scripts/install-postgres.sh. CI does not run it.
set -euo pipefail
here=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
# shellcheck source=scripts/servers.sh
. "$here/servers.sh"
bin=$(servers_cache)/postgres/17/bin
[ "$(id -u)" -eq 0 ] && [ -x /lib/systemd/systemd ] && [ -x "$bin/postgres" ] || { echo "NOT RUN: it needs root, systemd and PostgreSQL 17 of the tests" >&2; exit 1; }
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
mkdir "$work/root" "$work/mnt"
(cd "$here/.." && CGO_ENABLED=0 go build -o "$work/mnt/pgbak" ./cmd/pgbak)
cp "$here/../deploy/systemd/pgbak-agent.service" "$work/"
systemd-analyze security --offline=yes --threshold=25 "$work/pgbak-agent.service" | tail -1

# boot makes the root that systemd sees, and becomes systemd. Of the machine's own units none is started.
cat >"$work/boot" <<'X'
set -e
work=$1
mount --make-rprivate /
mount -t tmpfs none "$work/root"
cd "$work/root"
mkdir up changes root
mount -t overlay overlay -o "lowerdir=/,upperdir=$work/root/up,workdir=$work/root/changes" root
cd root
mount -t proc proc proc
mount -t tmpfs -o mode=755 tmpfs run
mount -t tmpfs tmpfs tmp
mount -t tmpfs -o mode=755 tmpfs dev
for d in null zero full random urandom tty; do touch "dev/$d" && mount --bind "/dev/$d" "dev/$d"; done
mkdir dev/pts dev/shm
mount -t devpts devpts dev/pts -o newinstance,ptmxmode=666
ln -s pts/ptmx dev/ptmx
mount -t tmpfs tmpfs dev/shm
mount -t sysfs -o ro sysfs sys || mount --rbind /sys sys
if [ -e /sys/fs/cgroup/cgroup.controllers ]; then
	mount -t cgroup2 cgroup2 sys/fs/cgroup
else
	mount -t tmpfs tmpfs sys/fs/cgroup
	mkdir sys/fs/cgroup/systemd
	mount -t cgroup -o none,name=systemd cgroup sys/fs/cgroup/systemd
fi
mkdir -p mnt machine
mount --bind "$work/mnt" mnt
rm -rf etc/systemd/system/* && mkdir -p etc/systemd/system/multi-user.target.wants
for u in lib/systemd/system/multi-user.target.wants/* lib/systemd/system/sysinit.target.wants/* x/systemd-remount-fs.service x/systemd-logind.service x/getty.target; do
	case $u in *tmpfiles-setup.service | *journald*) ;; *) ln -sf /dev/null "etc/systemd/system/${u##*/}" ;; esac
done
cp "$work/pgbak-agent.service" "$work/try.service" etc/systemd/system/
ln -s ../try.service etc/systemd/system/multi-user.target.wants/
install -m 755 mnt/pgbak usr/local/bin/pgbak
mkdir -p etc/pgbak
cat >etc/pgbak/pgbak.yaml <<'Y'
repositories:
  - name: local
    url: file:///var/lib/pgbak
stanzas:
  - name: main
    pgdata: /var/lib/pg17
    connection: "host=/tmp user=postgres dbname=postgres"
agent: {socket: /run/pgbak/agent.sock, listen: "127.0.0.1:9188"}
archive: {spool: /var/spool/pgbak}
Y
for d in var/lib/pgbak var/spool/pgbak var/lib/pg17; do rm -rf "$d" && install -d -o postgres -g postgres -m 700 "$d"; done
pivot_root . machine
exec env -i container=namespaces PATH=/usr/sbin:/usr/bin:/sbin:/bin chroot . /bin/sh -c 'umount -l /machine; exec /lib/systemd/systemd --system --unit=multi-user.target --show-status=0'
X
cat >"$work/try.service" <<'X'
[Unit]
Wants=pgbak-agent.service
After=pgbak-agent.service
[Service]
Type=oneshot
ExecStart=/bin/bash /mnt/try
StandardOutput=file:/mnt/out
StandardError=file:/mnt/out
ExecStopPost=/bin/systemctl --force --force poweroff
X
printf 'bin=%q\n' "$bin" >"$work/mnt/try"
cat >>"$work/mnt/try" <<'X'
set -e
trap 'e=$?; [ $e -eq 0 ] || journalctl -u pgbak-agent --no-pager; cat /tmp/server.log; echo $e >/mnt/status' EXIT
as() { setpriv --reuid postgres --regid postgres --init-groups "$@"; }
sql() { as psql -h /tmp -v ON_ERROR_STOP=1 -Atc "$1" postgres; }
metric() { curl -sf http://127.0.0.1:9188/metrics | awk -v f="$1" 'index($1, f "{") == 1 { n += $2 } END { print n + 0 }'; }
until_is() { for _ in $(seq 300); do [ "$("${@:2}")" = "$1" ] && return; sleep 0.2; done; echo "${*:2}: not $1"; return 1; }
cd /tmp
ip link set lo up
systemctl is-active pgbak-agent # Type=notify: it has said that it is ready
as pgbak agent --ping
as "$bin/initdb" -D /var/lib/pg17 --no-sync >/dev/null 2>&1
printf '%s\n' archive_mode=on "archive_command='pgbak archive-push %p'" "unix_socket_directories='/tmp'" "listen_addresses=''" >>/var/lib/pg17/postgresql.conf
as pgbak init
as "$bin/pg_ctl" -D /var/lib/pg17 -l /tmp/server.log -w start >/dev/null
as pgbak check
as pgbak backup
sql "CREATE TABLE t AS SELECT generate_series(1, 100000) n" >/dev/null
for n in $(seq 7); do # more often than systemd starts a unit within ten seconds unless it is told to
	systemctl kill -s KILL pgbak-agent
	until_is "$n" systemctl show -P NRestarts pgbak-agent
done
until_is active systemctl is-active pgbak-agent
last=$(sql "SELECT pg_walfile_name(pg_switch_wal())")
for _ in $(seq 300); do [ "$(sql "SELECT last_archived_wal >= '$last' FROM pg_stat_archiver")" = t ] && break; sleep 0.2; done
[ "$(metric pgbak_agent_pushed_files_total)" -ge 1 ]
as pgbak restore --target-dir /tmp/restored --archive-mode off >/dev/null
as "$bin/pg_ctl" -D /var/lib/pg17 stop -m fast >/dev/null
as "$bin/pg_ctl" -D /tmp/restored -l /tmp/server.log -w start >/dev/null
until_is f sql "SELECT pg_is_in_recovery()"
[ "$(sql "SELECT count(*) FROM t")" = 100000 ]
[ "$(metric pgbak_agent_fetched_files_total)" -ge 1 ]
systemctl stop pgbak-agent
[ "$(systemctl show -P Result pgbak-agent)$(systemctl show -P ExecMainStatus pgbak-agent)" = success0 ]
[ ! -e /run/pgbak ]
echo "the unit works"
X
timeout -s KILL "${TIME:-300}" unshare --mount --pid --fork --kill-child --uts --ipc --cgroup --net bash "$work/boot" "$work" >"$work/console" 2>&1 || true
if [ "$(cat "$work/mnt/status" 2>/dev/null)" != 0 ]; then
	tail -20 "$work/console" >&2
	cat "$work/mnt/out" >&2 || true
	echo "the unit does not work" >&2
	exit 1
fi
grep -v '^20' "$work/mnt/out" | tail -20
