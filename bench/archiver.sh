#!/bin/sh
# Does with the WAL files of a directory what a server does, one process after the other:
#   archiver.sh push DIRECTORY COMMAND...   calls COMMAND pg_wal/SEGMENT for every .ready file, as the archiver calls archive_command,
#                                           and makes it .done
#   archiver.sh get DIRECTORY COMMAND...    calls COMMAND SEGMENT pg_wal/RECOVERYXLOG for every segment, as recovery calls
#                                           restore_command, and keeps what it got in DIRECTORY/fetched
#   archiver.sh call NUMBER COMMAND...      calls COMMAND so many times
set -eu
operation=$1
where=$2
shift 2
case $operation in
push)
	cd "$where"
	for ready in pg_wal/archive_status/*.ready; do
		segment=${ready##*/}
		"$@" "pg_wal/${segment%.ready}"
		mv "$ready" "${ready%.ready}.done"
	done
	;;
get)
	cd "$where"
	for stored in pg_wal/????????????????????????; do
		segment=${stored##*/}
		"$@" "$segment" pg_wal/RECOVERYXLOG
		mv pg_wal/RECOVERYXLOG "fetched/$segment"
	done
	;;
call)
	while [ "$where" -gt 0 ]; do
		"$@" >/dev/null
		where=$((where - 1))
	done
	;;
esac
