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
func (s *Store) List(ctx context.Context, prefix, after string) iter.Seq2[storage.Object, error] {
	return func(yield func(storage.Object, error) bool) {
		err := s.list(ctx, prefix, after, func(o storage.Object) bool { return yield(o, nil) })
		if err != nil && !errors.Is(err, errStop) {
			yield(storage.Object{}, s.fault("list", prefix, err))
		}
	}
}

// errStop: the caller of List wants no more.
var errStop = errors.New("stop")

func (s *Store) list(ctx context.Context, prefix, after string, yield func(storage.Object) bool) error {
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
	if err := (&lister{rest, after, yield}).directory(ctx, dir, path); err != nil {
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

// lister walks the directories of a listing.
type lister struct {
	rest  string // the names in the first directory begin with it
	after string // keys up to it are passed over
	yield func(storage.Object) bool
}

// directory yields the objects in dir, whose keys begin with above. It closes dir.
func (l *lister) directory(ctx context.Context, dir *os.File, above string) error {
	defer dir.Close()
	rest := l.rest
	l.rest = ""
	entries, err := readEntries(dir, func(name string) bool {
		return strings.HasPrefix(name, rest) && !strings.HasPrefix(name, storage.TemporaryPrefix) && !l.isPassed(above+name)
	})
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
			if err := l.directory(ctx, child, key); err != nil {
				return err
			}
		} else if key > l.after && storage.CheckKey(key) == nil && !l.yield(storage.Object{Key: key, Size: e.size}) {
			return errStop
		}
	}
	return nil
}

// isPassed tells whether neither a file at path nor anything in a directory there comes
// behind after.
func (l *lister) isPassed(path string) bool {
	return path+"/" <= l.after && !strings.HasPrefix(l.after, path+"/")
}

// readEntries reads the entries of dir whose names are wanted, in order.
func readEntries(dir *os.File, isWanted func(name string) bool) ([]entry, error) {
	var entries []entry
	for {
		names, err := dir.Readdirnames(1024)
		for _, name := range names {
			if !isWanted(name) {
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
