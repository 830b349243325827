package posix

import (
	"crypto/rand"
	"errors"
	"fmt"
	"os"

	"golang.org/x/sys/unix"

	"github.com/pgbak/pgbak/storage"
)

// draft is the file of an object that has not got its name yet.
type draft struct {
	dir  *os.File
	file *os.File
	// name is the temporary name in dir, "" when there is none.
	name string
	// unnamed tells that the file was opened without a name, so that it
	// takes linkUnnamed to give it one.
	unnamed bool
}

// errNoUnnamed: this file system, or this operating system, has no files
// without names.
var errNoUnnamed = errors.New("no unnamed files here")

// newDraft opens an empty draft in dir, without a name where that works and
// named is not set.
func (s *Store) newDraft(dir *os.File, named bool) (*draft, error) {
	if !named && !s.named.Load() {
		file, err := openUnnamed(dir)
		if err == nil {
			return &draft{dir: dir, file: file, unnamed: true}, nil
		}
		if !errors.Is(err, errNoUnnamed) {
			return nil, err
		}
		s.named.Store(true)
	}
	name := temporaryName()
	file, err := openAt(dir, name, unix.O_WRONLY|unix.O_CREAT|unix.O_EXCL, fileMode)
	if errors.Is(err, errAbsent) {
		err = errVanished
	}
	if err != nil {
		return nil, err
	}
	// Told to Sweep: in use. Without locks, Sweep leaves the file alone.
	_ = lock(file)
	return &draft{dir: dir, file: file, name: name}, nil
}

// temporaryName gives a name that nobody else has and List hides.
func temporaryName() string { return storage.TemporaryPrefix + rand.Text() }

// lock takes the lock of a file that says that a living process works on it,
// or fails at once if another one has it.
func lock(file *os.File) error {
	return retryErr(func() error { return unix.Flock(int(file.Fd()), unix.LOCK_EX|unix.LOCK_NB) })
}

// publish gives the draft the name of its object in one step. It fails with
// EEXIST when the name is taken and ifAbsent is set.
func (d *draft) publish(name string, ifAbsent bool) error {
	if !ifAbsent && !d.unnamed {
		return d.rename(name)
	}
	err := d.link(name)
	if !errors.Is(err, unix.EEXIST) {
		return err
	}
	if d.isAt(name) {
		// An NFS client that repeats a link whose answer was lost is told
		// EEXIST by its own success.
		return nil
	}
	if ifAbsent {
		return err
	}
	// link(2) does not replace and rename(2) needs a name to begin with.
	_ = lock(d.file)
	temporary := temporaryName()
	if err := d.link(temporary); err != nil {
		return err
	}
	d.name = temporary
	return d.rename(name)
}

func (d *draft) link(name string) error {
	err := retryErr(func() error {
		if d.unnamed {
			return linkUnnamed(d.file, d.dir, name)
		}
		return unix.Linkat(int(d.dir.Fd()), d.name, int(d.dir.Fd()), name, 0)
	})
	if wasRemoved(d.dir, err) {
		return errVanished
	}
	if err != nil {
		return fmt.Errorf("link %s/%s: %w", d.dir.Name(), name, err)
	}
	return nil
}

func (d *draft) rename(name string) error {
	err := retryErr(func() error {
		return unix.Renameat(int(d.dir.Fd()), d.name, int(d.dir.Fd()), name)
	})
	if wasRemoved(d.dir, err) {
		return errVanished
	}
	if err != nil {
		return fmt.Errorf("rename to %s/%s: %w", d.dir.Name(), name, err)
	}
	d.name = ""
	return nil
}

// isAt tells whether the file that has this name is the draft itself.
func (d *draft) isAt(name string) bool {
	st, err := statAt(d.dir, name)
	if err != nil {
		return false
	}
	var own unix.Stat_t
	if err := retryErr(func() error { return unix.Fstat(int(d.file.Fd()), &own) }); err != nil {
		return false
	}
	return st.Dev == own.Dev && st.Ino == own.Ino
}

// discard closes the draft and removes its temporary name; an object that it
// became stays.
func (d *draft) discard() error {
	var err error
	if d.name != "" {
		err = unlinkAt(d.dir, d.name, 0)
		d.name = ""
	}
	return errors.Join(err, d.file.Close())
}
