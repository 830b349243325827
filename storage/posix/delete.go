package posix

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"os"
	"slices"

	"golang.org/x/sys/unix"

	"github.com/pgbak/pgbak/storage"
)

// Delete implements [storage.Store]. The objects are gone durably when it
// returns nil: what may only be deleted after them cannot survive a crash in
// their company. A failure does not keep it from trying the other keys.
func (s *Store) Delete(ctx context.Context, keys ...string) error {
	names := map[string][]string{} // by directory, for one fsync of each
	for _, key := range keys {
		if err := storage.CheckKey(key); err != nil {
			return s.fault("delete", key, err)
		}
		path, name := split(key)
		names[path] = append(names[path], name)
	}
	var faults []error
	for _, path := range slices.Sorted(maps.Keys(names)) {
		if ctx.Err() != nil {
			faults = append(faults, fmt.Errorf("delete in %s: %w", s.location, context.Cause(ctx)))
			break
		}
		if err := s.deleteIn(path, names[path]); err != nil {
			faults = append(faults, fmt.Errorf("delete in %s: %w", s.location, transient(err)))
		}
	}
	return errors.Join(faults...)
}

// deleteIn removes the named objects from a directory, and then the directory
// and its parents as far as they are empty.
func (s *Store) deleteIn(path string, names []string) error {
	// A directory that is not there may have been removed by a Delete that was
	// killed before its fsync; syncing what is left of the path covers that.
	dir, rest, err := s.deepest(path)
	if err != nil {
		return err
	}
	defer dir.Close()
	if rest != "" {
		return syncDirectory(dir, s.sync)
	}
	var faults []error
	for _, name := range names {
		if err := unlinkAt(dir, name, 0); err != nil {
			faults = append(faults, err)
		}
	}
	faults = append(faults, syncDirectory(dir, s.sync))
	s.prune(path)
	return errors.Join(faults...)
}

// unlinkAt removes the entry name of dir. That it is not there, or is a
// directory while a file is meant, is no error.
func unlinkAt(dir *os.File, name string, flags int) error {
	err := retryErr(func() error { return unix.Unlinkat(int(dir.Fd()), name, flags) })
	if err == nil || err == unix.ENOENT {
		return nil
	}
	if st, statErr := statAt(dir, name); flags == 0 && statErr == nil && st.Mode&unix.S_IFMT == unix.S_IFDIR {
		return nil // EISDIR on Linux, EPERM by POSIX: no object has this key
	}
	return fmt.Errorf("remove %s/%s: %w", dir.Name(), name, err)
}

// prune removes the directory with the given path if it is empty, then its
// parent, and so on up to the root, which stays. It is best effort and not
// synced: an empty directory that comes back after a crash is no object.
func (s *Store) prune(path string) {
	for path != "" {
		above, name := split(path)
		dir, err := s.openDirectory(above)
		if errors.Is(err, errAbsent) {
			path = above
			continue
		}
		if err != nil {
			return
		}
		err = retryErr(func() error { return unix.Unlinkat(int(dir.Fd()), name, unix.AT_REMOVEDIR) })
		dir.Close()
		if err != nil && err != unix.ENOENT {
			return // ENOTEMPTY, as a rule
		}
		path = above
	}
}
