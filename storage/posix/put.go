package posix

import (
	"context"
	"errors"
	"fmt"
	"os"

	"golang.org/x/sys/unix"

	"github.com/pgbak/pgbak/storage"
)

// putAttempts bounds how often a Put begins again because Deletes by others
// remove the directory it is about to use. After unnamedAttempts of them
// it writes a draft with a name, which no longer lets the directory be removed
// as empty: what is then left to lose is the moment between mkdir and open.
const (
	putAttempts     = 1000
	unnamedAttempts = 2
)

// Put implements [storage.Store]. When IfAbsent finds the key taken, the object
// that is there has been made durable before Put returns storage.ErrExist, so
// that a caller who finds it to be equal need not store it again.
func (s *Store) Put(ctx context.Context, key string, src storage.Source, o storage.PutOptions) error {
	if err := storage.CheckKey(key); err != nil {
		return s.fault("put", key, err)
	}
	for attempt := 1; ; attempt++ {
		err := s.put(ctx, key, src, o, attempt > unnamedAttempts)
		if err == nil {
			return nil
		}
		if errors.Is(err, errVanished) && attempt < putAttempts {
			if err = s.alive(); err == nil {
				continue
			}
		}
		return s.fault("put", key, err)
	}
}

// put is one attempt of a Put.
func (s *Store) put(ctx context.Context, key string, src storage.Source, o storage.PutOptions, named bool) (err error) {
	if ctx.Err() != nil {
		return context.Cause(ctx)
	}
	path, name := split(key)
	dirs, made, err := s.makeDirectory(path)
	defer dirs.close()
	defer func() {
		if made && err != nil {
			s.prune(path)
		}
	}()
	if err != nil {
		return err
	}
	if o.IfAbsent {
		// Before the content is written for nothing; link decides.
		if err := s.refuseTaken(dirs, name); err != nil {
			return err
		}
	}
	d, err := s.newDraft(dirs.last(), named)
	if err != nil {
		return err
	}
	defer d.discard()
	if err := s.fill(ctx, d.file, src); err != nil {
		return err
	}
	return s.publish(dirs, d, name, o.IfAbsent)
}

// publish makes the draft the object with this name, durably.
func (s *Store) publish(dirs trail, d *draft, name string, ifAbsent bool) error {
	if err := s.confirm(dirs); err != nil {
		return err
	}
	err := d.publish(name, ifAbsent)
	if errors.Is(err, unix.EEXIST) {
		err = s.refuseTaken(dirs, name)
		if err == nil {
			err = errVanished // who took the name is gone again
		}
	}
	if err != nil {
		return err
	}
	return syncDirectory(dirs.last(), s.sync)
}

// refuseTaken gives ErrExist if the last directory has an object with this
// name, after having made it durable: the Put that won may be killed before it
// does.
func (s *Store) refuseTaken(dirs trail, name string) error {
	dir := dirs.last()
	st, err := statAt(dir, name)
	if errors.Is(err, errAbsent) {
		return nil
	}
	if err != nil {
		return err
	}
	switch st.Mode & unix.S_IFMT {
	case unix.S_IFREG:
	case unix.S_IFDIR:
		return fmt.Errorf("other keys begin with it: %w", unix.EISDIR)
	case unix.S_IFLNK:
		return fmt.Errorf("%s/%s %w", dir.Name(), name, errSymlink)
	default:
		return fmt.Errorf("%s/%s %w", dir.Name(), name, errNotRegular)
	}
	if err := s.confirm(dirs); err != nil {
		return err
	}
	if err := syncDirectory(dir, s.sync); err != nil {
		return err
	}
	return storage.ErrExist
}

// fill makes src the content of a draft, complete and durable but for its name.
func (s *Store) fill(ctx context.Context, file *os.File, src storage.Source) error {
	if err := storage.CopySource(ctx, file, src); err != nil {
		return err
	}
	if err := file.Chmod(fileMode); err != nil {
		return err
	}
	// After a failed fsync the kernel may have dropped the pages and says so
	// only once: the file is worthless, and a second fsync would lie.
	if err := s.sync(file); err != nil {
		return fmt.Errorf("fsync: %w", err)
	}
	if ctx.Err() != nil {
		return context.Cause(ctx)
	}
	return nil
}
