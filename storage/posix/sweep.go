package posix

import (
	"context"
	"errors"
	"io"
	"os"
	"strings"

	"golang.org/x/sys/unix"

	"github.com/pgbak/pgbak/storage"
)

// Sweep removes the temporary files that killed Puts have left below the
// directory with the given path ("" is the root), and tells how many there
// were. It never removes one of a Put that is under way on this host, or on
// another one as far as the file system's locks (flock) reach; should one be
// removed all the same, its Put notices and begins again. Objects are not touched.
func (s *Store) Sweep(ctx context.Context, path string) (removed int, err error) {
	if path != "" {
		if err := storage.CheckKey(path); err != nil {
			return 0, s.fault("sweep", path, err)
		}
	}
	dir, err := s.openDirectory(path)
	if errors.Is(err, errAbsent) {
		return 0, s.alive()
	}
	if err == nil {
		removed, err = sweepDirectory(ctx, dir)
	}
	if err != nil {
		return removed, s.fault("sweep", path, err)
	}
	return removed, nil
}

// sweepDirectory sweeps dir and what is below it, and closes it.
func sweepDirectory(ctx context.Context, dir *os.File) (removed int, err error) {
	defer dir.Close()
	names, err := dir.Readdirnames(-1)
	if err != nil && err != io.EOF && !errors.Is(err, unix.ENOENT) {
		return 0, err
	}
	for _, name := range names {
		if ctx.Err() != nil {
			return removed, context.Cause(ctx)
		}
		st, err := statAt(dir, name)
		if errors.Is(err, errAbsent) {
			continue
		}
		if err != nil {
			return removed, err
		}
		n := 0
		switch {
		case st.Mode&unix.S_IFMT == unix.S_IFDIR:
			n, err = sweepChild(ctx, dir, name)
		case st.Mode&unix.S_IFMT == unix.S_IFREG && strings.HasPrefix(name, storage.TemporaryPrefix):
			n, err = sweepFile(dir, name)
		}
		removed += n
		if err != nil {
			return removed, err
		}
	}
	return removed, nil
}

func sweepChild(ctx context.Context, dir *os.File, name string) (int, error) {
	child, err := openChild(dir, name)
	if errors.Is(err, errAbsent) {
		return 0, nil
	}
	if err != nil {
		return 0, err
	}
	return sweepDirectory(ctx, child)
}

// sweepFile removes a temporary file that nobody has locked.
func sweepFile(dir *os.File, name string) (int, error) {
	file, err := openAt(dir, name, unix.O_RDWR|unix.O_NONBLOCK, 0) // NFS locks need write access
	if errors.Is(err, errAbsent) {
		return 0, nil
	}
	if err != nil {
		return 0, err
	}
	defer file.Close()
	if lock(file) != nil {
		return 0, nil
	}
	if err := unlinkAt(dir, name, 0); err != nil {
		return 0, err
	}
	return 1, nil
}
