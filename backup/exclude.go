package backup

import (
	"io/fs"
	"slices"
	"strings"

	"github.com/pgbak/pgbak/internal/postgres"
)

// What is left out follows PostgreSQL's own base backup
// (https://www.postgresql.org/docs/current/continuous-archiving.html,
// "Backing Up the Data Directory") and pgBackRest: what the server makes anew
// when it starts, what belongs to the running server only, and what recovery
// must not find.

// emptied are directories whose content is left out but which must exist.
func emptied(path string) bool {
	switch path {
	case "pg_wal", "pg_dynshmem", "pg_notify", "pg_replslot", "pg_serial",
		"pg_snapshots", "pg_stat_tmp", "pg_subtrans":
		return true
	}
	return false
}

// keptInEmptied are directories inside an emptied one that are kept, empty.
func keptInEmptied(path string) bool {
	return path == "pg_wal/archive_status" || path == "pg_wal/summaries"
}

// rootFiles are left out of the data directory itself.
func rootFiles(path string) bool {
	switch path {
	case "postmaster.pid", "postmaster.opts",
		"recovery.signal", "standby.signal",
		"backup_label", "backup_label.old", "tablespace_map", "tablespace_map.old",
		"backup_manifest", "backup_manifest.tmp",
		"postgresql.auto.conf.tmp", "current_logfiles.tmp",
		controlPath: // read last
		return true
	}
	return false
}

// excluder decides about one directory's entries at a time.
type excluder struct {
	user []string
}

// excluded tells whether a path is left out. unlogged are the file numbers in
// its directory that have an init fork.
func (e excluder) excluded(path, name string, unlogged map[uint32]bool) bool {
	switch {
	case rootFiles(path),
		strings.HasPrefix(name, "pgsql_tmp"),
		strings.HasPrefix(name, "pg_internal.init"),
		slices.Contains(e.user, path):
		return true
	}
	dir := path[:len(path)-len(name)]
	if dir != "" && (emptied(strings.TrimSuffix(dir, "/")) && !keptInEmptied(path) || slices.Contains(e.user, dir)) {
		return true
	}
	if keptInEmptied(strings.TrimSuffix(dir, "/")) {
		return true
	}
	rel, ok := postgres.ParseRelationPath(path)
	return ok && (rel.Temporary || unlogged[rel.Node] && rel.Fork != postgres.InitFork)
}

// unloggedNodes finds the unlogged relations of a directory: those with an init
// fork, from which the server makes the other forks when it starts.
func unloggedNodes(dir string, entries []fs.DirEntry) map[uint32]bool {
	var nodes map[uint32]bool
	for _, e := range entries {
		if !strings.HasSuffix(e.Name(), "_init") {
			continue
		}
		if rel, ok := postgres.ParseRelationPath(dir + "/" + e.Name()); ok {
			if nodes == nil {
				nodes = map[uint32]bool{}
			}
			nodes[rel.Node] = true
		}
	}
	return nodes
}
