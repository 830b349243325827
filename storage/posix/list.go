package posix

import (
	"context"
	"errors"
	"fmt"
	"io"
	"iter"
	"os"
	"slices"
	"strings"

	"golang.org/x/sys/unix"

	"github.com/pgbak/pgbak/storage"
)

// List implements [storage.Store]. It holds one directory of each level in
// memory: names and sizes, not contents. An entry that is neither a file nor a
// directory is an error, as objects might be hidden behind it.
func (s *Store) List(ctx context.Context, prefix string) iter.Seq2[storage.Object, error] {
	return func(yield func(storage.Object, error) bool) {
		err := s.list(ctx, prefix, func(o storage.Object) bool { return yield(o, nil) })
		if err != nil && !errors.Is(err, errStop) {
			yield(storage.Object{}, s.fault("list", prefix, err))
		}
	}
}

// errStop: the caller of List wants no more.
var errStop = errors.New("stop")

func (s *Store) list(ctx context.Context, prefix string, yield func(storage.Object) bool) error {
	if ctx.Err() != nil {
		return context.Cause(ctx)
	}
	path, rest := split(prefix)
	if path == "" && strings.HasPrefix(prefix, "/") || path != "" && storage.CheckKey(path) != nil {
		return nil // no key begins like this
	}
	dir, err := s.openDirectory(path)
	if errors.Is(err, errAbsent) {
		return s.alive()
	}
	if err != nil {
		return err
	}
	if path != "" {
		path += "/"
	}
	if err := listDirectory(ctx, dir, path, rest, yield); err != nil {
		return err
	}
	return s.alive() // or what was not found proves nothing
}

// entry is a file or directory in a listing. The sort key of a directory ends
// in a slash, so that its objects come where their full keys belong: "a.b"
// before "a/b".
type entry struct {
	sortKey string
	size    int64
}

// listDirectory yields the objects in dir, whose keys begin with above, as far
// as their names in dir begin with rest. It closes dir.
func listDirectory(ctx context.Context, dir *os.File, above, rest string, yield func(storage.Object) bool) error {
	defer dir.Close()
	entries, err := readEntries(dir, rest)
	if err != nil {
		return err
	}
	for _, e := range entries {
		if ctx.Err() != nil {
			return context.Cause(ctx)
		}
		key := above + e.sortKey
		if name, isDirectory := strings.CutSuffix(e.sortKey, "/"); isDirectory {
			child, err := openChild(dir, name)
			if errors.Is(err, errAbsent) {
				continue
			}
			if err != nil {
				return err
			}
			if err := listDirectory(ctx, child, key, "", yield); err != nil {
				return err
			}
		} else if storage.CheckKey(key) == nil && !yield(storage.Object{Key: key, Size: e.size}) {
			return errStop
		}
	}
	return nil
}

// readEntries reads the entries of dir whose names begin with rest, in order.
func readEntries(dir *os.File, rest string) ([]entry, error) {
	var entries []entry
	for {
		names, err := dir.Readdirnames(1024)
		for _, name := range names {
			if !strings.HasPrefix(name, rest) || strings.HasPrefix(name, storage.TemporaryPrefix) {
				continue
			}
			e, err := readEntry(dir, name)
			if errors.Is(err, errAbsent) {
				continue
			}
			if err != nil {
				return nil, err
			}
			entries = append(entries, e)
		}
		if err == io.EOF || errors.Is(err, unix.ENOENT) { // ENOENT: dir was removed
			break
		}
		if err != nil {
			return nil, fmt.Errorf("read directory: %w", err)
		}
	}
	slices.SortFunc(entries, func(a, b entry) int { return strings.Compare(a.sortKey, b.sortKey) })
	// A directory that changes while it is read may tell of an entry twice.
	return slices.CompactFunc(entries, func(a, b entry) bool { return a.sortKey == b.sortKey }), nil
}

func readEntry(dir *os.File, name string) (entry, error) {
	st, err := statAt(dir, name)
	if err != nil {
		return entry{}, err
	}
	switch st.Mode & unix.S_IFMT {
	case unix.S_IFREG:
		return entry{sortKey: name, size: st.Size}, nil
	case unix.S_IFDIR:
		return entry{sortKey: name + "/"}, nil
	case unix.S_IFLNK:
		return entry{}, fmt.Errorf("%s/%s %w", dir.Name(), name, errSymlink)
	}
	return entry{}, fmt.Errorf("%s/%s %w", dir.Name(), name, errNotRegular)
}
