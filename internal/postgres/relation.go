package postgres

import (
	"strconv"
	"strings"
)

// RelationFork is one of the files that make up a relation.
type RelationFork int

// The forks, with PostgreSQL's numbers (common/relpath.h).
const (
	MainFork RelationFork = iota
	FSMFork
	VMFork
	InitFork
)

// String gives the fork's name as in file names; the main fork has none there.
func (f RelationFork) String() string {
	switch f {
	case MainFork:
		return "main"
	case FSMFork:
		return "fsm"
	case VMFork:
		return "vm"
	case InitFork:
		return "init"
	}
	return "fork " + strconv.Itoa(int(f))
}

// GlobalTablespace is the OID of pg_global, whose files are in global/.
const GlobalTablespace = 1664

// RelationFile is what the path of a relation segment says.
type RelationFile struct {
	// Tablespace is its OID under pg_tblspc, GlobalTablespace for global/,
	// and 0 for base/, which is pg_default.
	Tablespace uint32
	// Database is 0 in global/.
	Database uint32
	// Node is the relation's file number.
	Node uint32
	Fork RelationFork
	// Segment counts from 0.
	Segment uint32
	// Temporary is set for a temporary relation; BackendID, which may be 0 from
	// PostgreSQL 17 on, is the session that it belongs to.
	Temporary bool
	BackendID int
}

// ParseRelationPath reads a path with slashes, relative to the data directory:
//
//	base/DB/FILE
//	global/FILE
//	pg_tblspc/TABLESPACE/PG_MAJOR_CATALOG/DB/FILE
//
// where FILE is NODE[_fork][.SEGMENT], or t<backend>_NODE[_fork][.SEGMENT] of a
// temporary relation (common/relpath.c, storage/file/reinit.c). Numbers have no
// leading zeros and fit 32 bits, so that every relation file has one spelling.
// It reports false for every other path, whether or not PostgreSQL knows it.
func ParseRelationPath(path string) (RelationFile, bool) {
	top, rest, ok := strings.Cut(path, "/")
	if !ok {
		return RelationFile{}, false
	}
	var f RelationFile
	switch top {
	case "global":
		f.Tablespace = GlobalTablespace
		if !f.parseName(rest) || f.Temporary {
			return RelationFile{}, false
		}
		return f, true
	case "base":
	case "pg_tblspc":
		var oid, version string
		oid, rest, _ = strings.Cut(rest, "/")
		version, rest, _ = strings.Cut(rest, "/")
		if f.Tablespace, ok = parseOID(oid); !ok || !isTablespaceVersion(version) {
			return RelationFile{}, false
		}
	default:
		return RelationFile{}, false
	}
	database, name, _ := strings.Cut(rest, "/")
	if f.Database, ok = parseOID(database); !ok || !f.parseName(name) {
		return RelationFile{}, false
	}
	return f, true
}

// isTablespaceVersion recognises the directory that each major makes for itself
// in a tablespace, for instance PG_15_202209061.
func isTablespaceVersion(s string) bool {
	s, ok := strings.CutPrefix(s, "PG_")
	major, catalog, _ := strings.Cut(s, "_")
	_, ok1 := parseOID(major)
	_, ok2 := parseOID(catalog)
	return ok && ok1 && ok2
}

// parseName reads the last part of a path.
func (f *RelationFile) parseName(name string) bool {
	var ok bool
	if rest, temporary := strings.CutPrefix(name, "t"); temporary {
		var backend string
		backend, name, _ = strings.Cut(rest, "_")
		f.Temporary = true
		if f.BackendID, ok = parseBackend(backend); !ok {
			return false
		}
	}
	name, segment, segmented := strings.Cut(name, ".")
	if segmented {
		if f.Segment, ok = parseOID(segment); !ok {
			return false
		}
	}
	name, fork, forked := strings.Cut(name, "_")
	if forked {
		if f.Fork, ok = parseFork(fork); !ok {
			return false
		}
	}
	f.Node, ok = parseOID(name)
	return ok
}

// parseFork reads the suffix of a fork other than the main one.
func parseFork(s string) (RelationFork, bool) {
	for f := FSMFork; f <= InitFork; f++ {
		if s == f.String() {
			return f, true
		}
	}
	return 0, false
}

// parseBackend reads a session number, which PostgreSQL keeps in an int.
func parseBackend(s string) (int, bool) {
	if s == "0" {
		return 0, true
	}
	v, ok := parseOID(s)
	return int(v), ok && v <= 1<<31-1
}

// parseOID reads a decimal number from 1 to 2^32-1 that begins with no zero.
func parseOID(s string) (uint32, bool) {
	if s == "" || len(s) > 10 || s[0] == '0' {
		return 0, false
	}
	var v uint64
	for i := range len(s) {
		if s[i] < '0' || s[i] > '9' {
			return 0, false
		}
		v = v*10 + uint64(s[i]-'0')
	}
	return uint32(v), v <= 1<<32-1
}
