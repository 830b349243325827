package archive

import (
	"cmp"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"github.com/pgbak/pgbak/internal/postgres"
)

const readySuffix = ".ready"

// walKind tells what a name says without knowing the size of segments; false if
// it is no WAL file's whatever the size.
func walKind(name string) (postgres.WALKind, bool) {
	f, err := postgres.ParseWALFile(name, postgres.MinWALSegmentSize)
	if err == nil {
		return f.Kind, true
	}
	// The smallest segments allow every number, the largest every offset.
	if len(name) <= segmentNameLength {
		return 0, false
	}
	_, err = postgres.ParseWALFile(name[:segmentNameLength], postgres.MinWALSegmentSize)
	if err != nil {
		return 0, false
	}
	f, err = postgres.ParseWALFile(firstSegmentName+name[segmentNameLength:], postgres.MaxWALSegmentSize)
	return f.Kind, err == nil
}

const (
	firstSegmentName  = "000000010000000000000000"
	segmentNameLength = len(firstSegmentName)
	// timelineNameLength is that of the timeline, with which all names begin.
	timelineNameLength = 8
)

// isSegmentName is true of segments and partial segments, whose content says of
// which cluster it is.
func isSegmentName(name string) bool {
	kind, ok := walKind(name)
	return ok && (kind == postgres.WALSegment || kind == postgres.WALPartial)
}

// inArchiveOrder is the order in which PostgreSQL archives: histories first, then by name.
func inArchiveOrder(a, b string) int {
	first := func(name string) int {
		if strings.HasSuffix(name, ".history") {
			return 0
		}
		return 1
	}
	return cmp.Or(first(a)-first(b), strings.Compare(a, b))
}

// filesReady are the names of the WAL files that PostgreSQL has marked ready in a
// pg_wal directory, in the order in which it archives them. What else lies in
// archive_status is passed over.
func filesReady(wal string) ([]string, error) {
	dir, err := os.Open(filepath.Join(wal, "archive_status"))
	if err != nil {
		return nil, fmt.Errorf("look for WAL files that are ready: %w", err)
	}
	defer dir.Close()
	entries, err := dir.Readdirnames(-1)
	if err != nil {
		return nil, fmt.Errorf("look for WAL files that are ready: %w", err)
	}
	var names []string
	for _, e := range entries {
		name, ready := strings.CutSuffix(e, readySuffix)
		if !ready {
			continue
		}
		if _, ok := walKind(name); ok {
			names = append(names, name)
		}
	}
	slices.SortFunc(names, inArchiveOrder)
	return names, nil
}

// isUnproven tells whether the history of a file's timeline waits still to be archived.
// PostgreSQL asks for histories first, but a run pushes what is ready at the same
// time, and what is kept at its end.
func (r *pushRun) isUnproven(name string) bool {
	kind, ok := walKind(name)
	if !ok || kind == postgres.WALHistory {
		return false
	}
	history := name[:timelineNameLength] + ".history"
	if _, err := os.Lstat(filepath.Join(r.wal, "archive_status", history+readySuffix)); err == nil {
		return true
	}
	if r.spool == nil || r.control == nil {
		return false
	}
	_, err := os.Lstat(filepath.Join(r.spool.keptPart(r.control.SystemID), history))
	return err == nil
}
