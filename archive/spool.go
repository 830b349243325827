package archive

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"syscall"

	"golang.org/x/sys/unix"

	"github.com/pgbak/pgbak/internal/hint"
)

// Spool is a directory on the server's host, outside of its data directory,
// with what one run leaves for the next: acknowledgements of WAL that is
// durable in every repository, and WAL that was fetched ahead. Everything in it
// can be lost without harm but for what queue-max has dropped, and nothing in it
// is believed before it was compared with what it speaks of.
type Spool struct {
	dir string // of one stanza, absolute
}

// ErrSpool is wrapped by errors of a spool that cannot be used or trusted.
var ErrSpool = errors.New("the spool cannot be used")

// Parts of a spool, directories in it.
const (
	spoolPush = "push" // acknowledgements
	spoolGet  = "get"  // fetched ahead
)

// OpenSpool opens the spool of a stanza in dir, which must be there, be owned by
// this process's user and be writable for nobody else: who may write there could
// acknowledge WAL that is in no repository. Directories below are made.
func OpenSpool(dir, stanza string) (*Spool, error) {
	if err := checkPrivate(dir); err != nil {
		return nil, err
	}
	s := &Spool{dir: filepath.Join(dir, stanza)}
	for _, d := range []string{s.dir, s.part(spoolPush), s.part(spoolGet)} {
		if err := os.Mkdir(d, 0o700); err != nil && !errors.Is(err, fs.ErrExist) {
			return nil, fmt.Errorf("%w: %w", ErrSpool, err)
		}
		if err := checkPrivate(d); err != nil {
			return nil, err
		}
	}
	return s, nil
}

func (s *Spool) part(name string) string { return filepath.Join(s.dir, name) }

func checkPrivate(dir string) error {
	info, err := os.Lstat(dir)
	if err != nil {
		return hint.Wrap(fmt.Errorf("%w: %w", ErrSpool, err), "make the directory, owned by the user who runs PostgreSQL, with mode 0700; or correct archive.spool.")
	}
	st, isUnix := info.Sys().(*syscall.Stat_t)
	switch {
	case !info.IsDir():
		return fmt.Errorf("%w: %s is not a directory", ErrSpool, dir)
	case !isUnix || int(st.Uid) != os.Geteuid():
		return hint.Wrap(fmt.Errorf("%w: %s does not belong to the user who runs pgbak", ErrSpool, dir), "chown it to the user who runs PostgreSQL.")
	case info.Mode().Perm()&0o022 != 0:
		return hint.Wrap(fmt.Errorf("%w: %s can be written by others (mode %04o)", ErrSpool, dir, info.Mode().Perm()), "chmod 0700 %s", dir)
	}
	return nil
}

// errLocked says that another process holds a lock of the spool.
var errLocked = errors.New("another process holds the lock")

// lock takes the lock of a name without waiting; errLocked when another process
// has it. It ends with unlock or with the process.
func (s *Spool) lock(name string) (unlock func(), err error) {
	file, err := os.OpenFile(filepath.Join(s.dir, name+".lock"), os.O_CREATE|os.O_RDWR|syscall.O_CLOEXEC, 0o600)
	if err != nil {
		return nil, fmt.Errorf("%w: %w", ErrSpool, err)
	}
	if err := unix.Flock(int(file.Fd()), unix.LOCK_EX|unix.LOCK_NB); err != nil {
		_ = file.Close()
		if errors.Is(err, unix.EWOULDBLOCK) {
			return nil, errLocked
		}
		return nil, fmt.Errorf("%w: lock %s: %w", ErrSpool, file.Name(), err)
	}
	return func() { _ = file.Close() }, nil
}
