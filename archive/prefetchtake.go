package archive

import (
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"

	"golang.org/x/sys/unix"

	"github.com/pgbak/pgbak/internal/postgres"
)

// look finds a segment and opens what may hold it; nil if it is not there.
func (q *PrefetchQueue) look(f postgres.WALFile) (*queued, *os.File, error) {
	found, err := q.find(f)
	if found == nil {
		return nil, nil, err
	}
	file, err := q.open(found)
	if errors.Is(err, fs.ErrNotExist) {
		return nil, nil, nil
	}
	if err != nil {
		return nil, nil, err
	}
	return found, file, nil
}

// take moves a segment to dest, or copies it where that is another file system.
// Not taken without an error is a segment that is not there.
func (q *PrefetchQueue) take(f postgres.WALFile, dest string) (taken bool, err error) {
	found, file, err := q.look(f)
	if found == nil {
		return false, err
	}
	defer file.Close()
	if err := q.pass(found, file, nil); err != nil {
		return false, err
	}
	// Nobody writes into a file that has its name in the queue, so it is still
	// what was proved; where it was taken meanwhile there is nothing to rename.
	err = os.Rename(found.path, dest)
	switch {
	case errors.Is(err, fs.ErrNotExist) && !isThere(found.path):
		return false, nil
	case errors.Is(err, unix.EXDEV):
		if err := replace(dest, func(w io.Writer) error { return q.pass(found, file, w) }); err != nil {
			return false, err
		}
		return true, os.Remove(found.path)
	case err != nil:
		return false, fmt.Errorf("write %s: %w", dest, err)
	}
	// The file is durable, its new name need not be: PostgreSQL gives it another
	// one at once and makes that durable (KeepFileRestoredFromArchive), and after a crash
	// it removes what recoveryFile is before it asks anew. To wait here for the file system's
	// journal, behind what is being fetched, would hold up replay.
	return true, nil
}

func isThere(path string) bool {
	_, err := os.Lstat(path)
	return err == nil
}

// copyInto is take for a file that the caller has opened.
func (q *PrefetchQueue) copyInto(f postgres.WALFile, to *os.File) (taken bool, err error) {
	found, file, err := q.look(f)
	if found == nil {
		return false, err
	}
	defer file.Close()
	// What is proved is what was copied. If it was not the segment, the caller's file is
	// written anew.
	if err := rewrite(to, func(w io.Writer) error { return q.pass(found, file, w) }); err != nil {
		return false, err
	}
	return true, os.Remove(found.path)
}
