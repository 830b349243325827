// Package posix is a [storage.Store] in a directory of a file system, local or
// mounted. The object with key "a/b/c" is the file a/b/c below the root:
// whatever can copy files can copy a repository.
//
// What a Put promises comes from four system calls in a fixed order: the
// content is written to a file that no name in the repository leads to, fsynced,
// given its name by link(2), which never replaces, and the directory is
// fsynced. On Linux the unnamed file is one of open(2)'s O_TMPFILE, which a
// kill leaves no trace of; where the file system has none (NFS), it is a
// file with a name that List hides, see [storage.TemporaryPrefix] and
// [Store.Sweep]. Replacing an object is rename(2).
//
// Directories appear with their first object and go with their last. Files have
// mode 0640 and directories 0750, whatever the umask. Nothing below the
// root may be a symbolic link: every path is walked element by element without
// following any, so that no key leads out of the repository. Nothing depends on
// the times of files.
//
// A directory is made durable by an fsync of its parent. So that a Put which
// finds a directory that another process has just made does not rely
// on what that one may never get to do, a new directory carries the sticky bit
// until its parent has been fsynced; whoever meets the bit does the fsync
// and takes it off.
package posix

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"sync/atomic"

	"golang.org/x/sys/unix"

	"github.com/pgbak/pgbak/internal/hint"
	"github.com/pgbak/pgbak/storage"
)

// Modes of what a Store creates.
const (
	fileMode      = 0o640
	directoryMode = 0o750
)

// Store keeps objects below a root directory. Several Stores, in several
// processes or on several hosts, may use the same directory at the same time.
type Store struct {
	root     *os.File
	location string
	// named tells that this file system has no unnamed files, or that
	// /proc, which gives them names, is missing.
	named atomic.Bool
	// sync is (*os.File).Sync; a field, so that tests can watch and fail it.
	sync func(*os.File) error
}

var _ storage.Store = (*Store)(nil)

// Open opens the Store in the directory root, which must exist: a directory
// that is missing is often a file system that is not mounted, and an empty new
// one would then look like a repository without backups. See [Create].
//
// The Store holds the directory open until Close.
func Open(root string) (*Store, error) {
	path, err := filepath.Abs(root)
	if err != nil {
		return nil, fmt.Errorf("open repository directory %q: %w", root, err)
	}
	fd, err := retry(func() (int, error) {
		return unix.Open(path, unix.O_RDONLY|unix.O_DIRECTORY|unix.O_CLOEXEC, 0)
	})
	if err != nil {
		err = fmt.Errorf("open repository directory %s: %w", path, err)
		if errors.Is(err, unix.ENOENT) {
			err = hint.Wrap(err, "check that its file system is mounted; a new repository is created by pgbak init.")
		}
		return nil, err
	}
	return newStore(fd, path), nil
}

func newStore(fd int, path string) *Store {
	s := &Store{
		root:     os.NewFile(uintptr(fd), path),
		location: "file://" + path,
		sync:     (*os.File).Sync,
	}
	s.named.Store(!canLinkUnnamed() || !unnamedIsDurable(s.root))
	return s
}

// Create makes the directory root and those of its parents that are missing,
// durably and with mode 0750, and opens the Store in it. A directory that is
// there already is left as it is.
func Create(root string) (*Store, error) {
	path, err := filepath.Abs(root)
	if err != nil {
		return nil, fmt.Errorf("create repository directory %q: %w", root, err)
	}
	if err := createDirectories(path); err != nil {
		return nil, fmt.Errorf("create repository directory %s: %w", path, noSpace(err))
	}
	return Open(path)
}

func createDirectories(path string) error {
	err := os.Mkdir(path, directoryMode)
	if errors.Is(err, os.ErrNotExist) {
		if err := createDirectories(filepath.Dir(path)); err != nil {
			return err
		}
		err = os.Mkdir(path, directoryMode)
	}
	if errors.Is(err, os.ErrExist) {
		return nil // Open tells if it is no directory
	}
	if err != nil {
		return err
	}
	if err := os.Chmod(path, directoryMode); err != nil {
		return err
	}
	parent, err := os.Open(filepath.Dir(path))
	if err != nil {
		return err
	}
	defer parent.Close()
	return syncDirectory(parent, (*os.File).Sync)
}

// Close closes the root directory; the Store cannot be used any more.
func (s *Store) Close() error { return s.root.Close() }

// Properties implements [storage.Store]; link(2) is what makes a Put
// conditional.
func (s *Store) Properties() storage.Properties {
	return storage.Properties{Location: s.location, ConditionalPut: true, CheapReads: true}
}

// Stat implements [storage.Store].
func (s *Store) Stat(ctx context.Context, key string) (storage.Object, error) {
	file, size, err := s.open(ctx, key)
	if err != nil {
		return storage.Object{}, s.fault("stat", key, err)
	}
	return storage.Object{Key: key, Size: size}, file.Close()
}

// Get implements [storage.Store].
func (s *Store) Get(ctx context.Context, key string, r storage.Range) (io.ReadCloser, error) {
	if r.Length < 0 {
		return nil, s.fault("get", key, fmt.Errorf("negative length %d", r.Length))
	}
	file, size, err := s.open(ctx, key)
	if err != nil {
		return nil, s.fault("get", key, err)
	}
	from := min(r.Offset, size)
	if from < 0 {
		from = max(size+from, 0)
	}
	n := size - from
	if r.Length > 0 {
		n = min(n, r.Length)
	}
	return &reader{ctx: ctx, file: file, content: io.NewSectionReader(file, from, n)}, nil
}

// reader reads a range of an object; its errors name the file.
type reader struct {
	ctx     context.Context
	file    *os.File
	content *io.SectionReader
}

func (r *reader) Read(p []byte) (int, error) {
	if r.ctx.Err() != nil {
		return 0, fmt.Errorf("read %s: %w", r.file.Name(), context.Cause(r.ctx))
	}
	n, err := r.content.Read(p)
	return n, transient(err)
}

func (r *reader) Close() error { return r.file.Close() }

// open opens the file of an object and tells its size.
func (s *Store) open(ctx context.Context, key string) (*os.File, int64, error) {
	if ctx.Err() != nil {
		return nil, 0, context.Cause(ctx)
	}
	if err := storage.CheckKey(key); err != nil {
		return nil, 0, err
	}
	path, name := split(key)
	dir, err := s.openDirectory(path)
	if err != nil {
		return nil, 0, s.absence(err)
	}
	defer dir.Close()
	// O_NONBLOCK: opening a FIFO that somebody put here must not wait.
	file, err := openAt(dir, name, unix.O_RDONLY|unix.O_NONBLOCK, 0)
	if err != nil {
		return nil, 0, s.absence(err)
	}
	info, err := file.Stat()
	if err == nil && info.IsDir() {
		err = storage.ErrNotExist // other keys begin with this one
	} else if err == nil && !info.Mode().IsRegular() {
		err = errNotRegular
	}
	if err != nil {
		file.Close()
		return nil, 0, err
	}
	return file, info.Size(), nil
}

// absence turns the error of a path that leads nowhere into ErrNotExist, but
// only if the root is still in the file system: below a removed directory
// everything looks absent.
func (s *Store) absence(err error) error {
	if !errors.Is(err, errAbsent) {
		return err
	}
	if err := s.alive(); err != nil {
		return err
	}
	return storage.ErrNotExist
}

// fault names the operation, the key and the store in an error.
func (s *Store) fault(operation, key string, err error) error {
	return fmt.Errorf("%s %q in %s: %w", operation, key, s.location, transient(noSpace(err)))
}
