package posix

import (
	"errors"
	"fmt"
	"os"
	"strings"

	"golang.org/x/sys/unix"

	"github.com/pgbak/pgbak/internal/hint"
	"github.com/pgbak/pgbak/storage"
)

var (
	// errAbsent: no file or directory has this path.
	errAbsent = errors.New("no such file or directory")
	// errVanished: a directory was removed by a concurrent Delete between two
	// steps of a Put, which then begins again.
	errVanished = errors.New("directory was removed while in use")

	errSymlink    = errors.New("is a symbolic link, which a repository may not contain")
	errNotRegular = errors.New("is neither a regular file nor a directory")
)

// split separates a key into the path of its directory ("" is the root) and
// the name in it.
func split(key string) (dir, name string) {
	i := strings.LastIndexByte(key, '/')
	if i < 0 {
		return "", key
	}
	return key[:i], key[i+1:]
}

// retry repeats a system call that a signal interrupted.
func retry[T any](call func() (T, error)) (T, error) {
	for {
		v, err := call()
		if err != unix.EINTR {
			return v, err
		}
	}
}

// retryErr is retry for a system call without a result.
func retryErr(call func() error) error {
	_, err := retry(func() (struct{}, error) { return struct{}{}, call() })
	return err
}

// openAt opens the entry name of dir without following a symbolic link. An
// entry that is not there gives errAbsent.
func openAt(dir *os.File, name string, flags int, mode uint32) (*os.File, error) {
	fd, err := retry(func() (int, error) {
		return unix.Openat(int(dir.Fd()), name, flags|unix.O_NOFOLLOW|unix.O_CLOEXEC, mode)
	})
	path := dir.Name() + "/" + name
	switch {
	case err == nil:
		return os.NewFile(uintptr(fd), path), nil
	case err == unix.ENOENT:
		return nil, errAbsent
	case err == unix.ELOOP || err == unix.ENOTDIR:
		// A link gives either, depending on the flags.
		if isSymlink(dir, name) {
			return nil, fmt.Errorf("%s %w", path, errSymlink)
		}
		if err == unix.ENOTDIR {
			return nil, errAbsent // a file: nothing is below it
		}
	}
	return nil, fmt.Errorf("open %s: %w", path, err)
}

// statAt describes the entry name of dir without following a symbolic link.
func statAt(dir *os.File, name string) (st unix.Stat_t, err error) {
	err = retryErr(func() error {
		return unix.Fstatat(int(dir.Fd()), name, &st, unix.AT_SYMLINK_NOFOLLOW)
	})
	if err == unix.ENOENT {
		return st, errAbsent
	}
	if err != nil {
		return st, fmt.Errorf("stat %s/%s: %w", dir.Name(), name, err)
	}
	return st, nil
}

func isSymlink(dir *os.File, name string) bool {
	st, err := statAt(dir, name)
	return err == nil && st.Mode&unix.S_IFMT == unix.S_IFLNK
}

// openChild opens the directory name in dir.
func openChild(dir *os.File, name string) (*os.File, error) {
	return openAt(dir, name, unix.O_RDONLY|unix.O_DIRECTORY, 0)
}

// wasRemoved tells whether a system call on the open directory dir failed with
// err because the directory itself was removed. Most say ENOENT then; ext4 says
// EPERM for an unnamed file (ext4_new_inode); an NFS client whose directory was
// removed by another one says ESTALE.
func wasRemoved(dir *os.File, err error) bool {
	switch err {
	case nil:
		return false
	case unix.ENOENT, unix.ESTALE:
		return true
	}
	var st unix.Stat_t
	return retryErr(func() error { return unix.Fstat(int(dir.Fd()), &st) }) == nil && st.Nlink == 0
}

// openRoot opens the root once more, so that every directory in use can be
// closed like any other.
func (s *Store) openRoot() (*os.File, error) {
	fd, err := retry(func() (int, error) {
		return unix.Openat(int(s.root.Fd()), ".", unix.O_RDONLY|unix.O_DIRECTORY|unix.O_CLOEXEC, 0)
	})
	if err == unix.ENOENT {
		return nil, errors.Join(errAbsent, s.alive())
	}
	if err != nil {
		return nil, fmt.Errorf("open %s: %w", s.root.Name(), err)
	}
	return os.NewFile(uintptr(fd), s.root.Name()), nil
}

// alive gives an error if the root was removed while it is open.
func (s *Store) alive() error {
	var st unix.Stat_t
	if err := retryErr(func() error { return unix.Fstat(int(s.root.Fd()), &st) }); err != nil {
		return fmt.Errorf("stat %s: %w", s.root.Name(), err)
	}
	if st.Nlink == 0 {
		return fmt.Errorf("repository directory %s was removed", s.root.Name())
	}
	return nil
}

// openDirectory opens the directory with the given path below the root, or
// gives errAbsent.
func (s *Store) openDirectory(path string) (*os.File, error) {
	dir, rest, err := s.deepest(path)
	if err == nil && rest != "" {
		dir.Close()
		err = errAbsent
	}
	if err != nil {
		return nil, err
	}
	return dir, nil
}

// deepest opens the deepest directory on the way to path that is there, and
// gives what of path is missing below it.
func (s *Store) deepest(path string) (dir *os.File, rest string, err error) {
	dir, err = s.openRoot()
	for err == nil && path != "" {
		name, below, _ := strings.Cut(path, "/")
		var child *os.File
		child, err = openChild(dir, name)
		if errors.Is(err, errAbsent) {
			return dir, path, nil
		}
		dir.Close()
		dir, path = child, below
	}
	if err != nil {
		return nil, "", err
	}
	return dir, "", nil
}

// trail holds the directories from the root to the one that a Put works in.
type trail []step

// step is a directory of a trail; made tells that this Put made it.
type step struct {
	*os.File
	made bool
}

func (t trail) last() *os.File { return t[len(t)-1].File }

func (t trail) close() {
	for _, dir := range t {
		dir.Close()
	}
}

// makeDirectory opens the directories on the way to path and makes those that
// are missing; it tells whether there were any. They need not be durable yet,
// see confirm. The trail is to be closed also after an error.
func (s *Store) makeDirectory(path string) (t trail, made bool, err error) {
	isNew := false
	dir, err := s.openRoot()
	for err == nil {
		t = append(t, step{dir, isNew})
		made = made || isNew
		if path == "" {
			return t, made, nil
		}
		var name string
		name, path, _ = strings.Cut(path, "/")
		dir, isNew, err = makeChild(t.last(), name)
	}
	if errors.Is(err, errAbsent) {
		err = errVanished
	}
	return t, made || isNew, err
}

// makeChild opens the directory name in dir and makes it if it is missing.
func makeChild(dir *os.File, name string) (child *os.File, made bool, err error) {
	child, err = openChild(dir, name)
	if errors.Is(err, errAbsent) {
		if made, err = mkdirAt(dir, name); err != nil {
			return nil, false, err
		}
		child, err = openChild(dir, name)
	}
	if errors.Is(err, unix.EACCES) && unmask(dir, name) {
		child, err = openChild(dir, name)
	}
	return child, made, err
}

// unmask gives the directory name in dir, if it is marked as new, the permissions
// that a umask kept from its owner, who could not open it otherwise; it tells
// whether it did. That of another Put that is under way is as good. Only who may
// write in dir could put a link in its place, and that is the owner.
func unmask(dir *os.File, name string) bool {
	st, err := statAt(dir, name)
	if err != nil || st.Mode&unix.S_IFMT != unix.S_IFDIR || st.Mode&unix.S_ISVTX == 0 {
		return false
	}
	mode := uint32(directoryMode | st.Mode&(unix.S_ISVTX|unix.S_ISGID))
	return retryErr(func() error { return unix.Fchmodat(int(dir.Fd()), name, mode, 0) }) == nil
}

// mkdirAt makes the directory name in dir, marked by the sticky bit as not yet
// durable. One that another process makes at the same time is as good.
func mkdirAt(dir *os.File, name string) (made bool, err error) {
	err = retryErr(func() error {
		return unix.Mkdirat(int(dir.Fd()), name, directoryMode|unix.S_ISVTX)
	})
	switch {
	case err == nil:
		return true, nil
	case wasRemoved(dir, err):
		return false, errVanished
	case err == unix.EEXIST:
		if st, err := statAt(dir, name); err == nil && st.Mode&unix.S_IFMT != unix.S_IFDIR {
			return false, fmt.Errorf("make directory %s/%s: the name is taken: %w", dir.Name(), name, unix.ENOTDIR)
		}
		return false, nil
	}
	return false, fmt.Errorf("make directory %s/%s: %w", dir.Name(), name, err)
}

// confirm makes all directories of a trail durable.
func (s *Store) confirm(t trail) error {
	for i, child := range t[1:] {
		if err := s.confirmChild(t[i].File, child); err != nil {
			return err
		}
	}
	return nil
}

// confirmChild makes dir's entry for child durable if it may not be, and takes
// off the mark that said so. Chmod follows the fsync: the other way round, a
// crash between them would leave a directory that looks durable and is not.
//
// Some file systems, FUSE ones among them, do not keep the sticky bit of mkdir.
// There who made the directory does this all the same; only another Put that
// found it in between does not know, and relies on the maker's fsync.
func (s *Store) confirmChild(dir *os.File, child step) error {
	var st unix.Stat_t
	if err := retryErr(func() error { return unix.Fstat(int(child.Fd()), &st) }); err != nil {
		return fmt.Errorf("stat %s: %w", child.Name(), err)
	}
	mode := uint32(st.Mode)
	if mode&unix.S_ISVTX == 0 && !child.made {
		return nil
	}
	if err := syncDirectory(dir, s.sync); err != nil {
		return err
	}
	// A group that the parent passes on (set-group-ID) is the user's choice.
	mode = directoryMode | mode&unix.S_ISGID
	if err := retryErr(func() error { return unix.Fchmod(int(child.Fd()), mode) }); err != nil {
		return fmt.Errorf("chmod %s: %w", child.Name(), err)
	}
	return nil
}

// syncDirectory makes the entries of dir durable. Some network file systems
// cannot fsync a directory and say EINVAL, as PostgreSQL too takes for granted
// (fsync_fname_ext in src/common/file_utils.c); there, entries are the server's care.
func syncDirectory(dir *os.File, sync func(*os.File) error) error {
	if err := sync(dir); err != nil && !errors.Is(err, unix.EINVAL) {
		return fmt.Errorf("fsync directory: %w", err)
	}
	return nil
}

// transient adds ErrTransient to what network file systems say while their server
// is away, restarts, or has forgotten a file that it finds again by its name. What
// a disk says is not among it: after EIO, what can be read is not what was written.
func transient(err error) error {
	for _, passing := range []error{unix.ESTALE, unix.ETIMEDOUT, unix.EAGAIN} {
		if errors.Is(err, passing) && !errors.Is(err, storage.ErrTransient) {
			return fmt.Errorf("%w: %w", storage.ErrTransient, err)
		}
	}
	return err
}

// noSpace adds ErrNoSpace to the error of a full file system or quota.
func noSpace(err error) error {
	if errors.Is(err, unix.ENOSPC) || errors.Is(err, unix.EDQUOT) {
		return hint.Wrap(fmt.Errorf("%w: %w", storage.ErrNoSpace, err),
			"make room on the file system of the repository; what is stored there already is not harmed.")
	}
	return err
}
