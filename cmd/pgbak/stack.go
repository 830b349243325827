package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"iter"
	"os"

	"github.com/pgbak/pgbak/internal/hint"
	"github.com/pgbak/pgbak/repo"
	"github.com/pgbak/pgbak/storage"
	"github.com/pgbak/pgbak/storage/posix"
)

// openStore puts a repository's store together, from the disk upwards:
//
//	posix      the driver
//	faults     only in builds with the tag pgbak_faults: fails or kills at the
//	           n-th operation. Next to the driver, so that what stands above
//	           treats an injected fault as it would treat the disk's.
//	marked     marks what failed as a failure of the storage, for the exit
//	           code. Outermost, because only the error that the caller sees counts.
func openStore(rc repositoryConfig, create bool) (storage.Store, error) {
	dir, err := rc.directory()
	if err != nil {
		return nil, &configError{fmt.Errorf("repository %q: %w", rc.Name, err)}
	}
	open := posix.Open
	if create {
		open = posix.Create
	}
	st, err := open(dir)
	if errors.Is(err, fs.ErrNotExist) {
		return nil, hint.Wrap(fmt.Errorf("directory %s does not exist: %w", dir, repo.ErrNotInitialized),
			"check the url in the configuration and whether its file system is mounted, or run 'pgbak init' to create a repository there.")
	}
	if err != nil {
		return nil, &storageError{err}
	}
	return marked{withFaults(st)}, nil
}

// openRepository opens a configured repository, or with create makes it.
func (a *app) openRepository(ctx context.Context, rc repositoryConfig, create bool) (*repo.Repository, error) {
	o := repo.Options{Clock: a.clock}
	var err error
	if o.Compression, err = repo.ParseCompression(rc.Compression); err != nil {
		return nil, &configError{fmt.Errorf("repository %q: %w", rc.Name, err)}
	}
	if rc.Encryption != nil {
		o.Passphrase = func() ([]byte, error) { return a.passphrase(rc.Encryption.PassphraseFile) }
	}
	st, err := openStore(rc, create)
	if err != nil {
		return nil, fmt.Errorf("repository %q: %w", rc.Name, err)
	}
	open := repo.Open
	if create {
		open = repo.Create
	}
	r, err := open(ctx, st, o)
	if err != nil {
		return nil, fmt.Errorf("repository %q: %w", rc.Name, err)
	}
	return r, nil
}

// passphrase reads the file and warns if strangers can read it too. A group
// may: root owns the file and the server's group reads it on many hosts.
func (a *app) passphrase(path string) ([]byte, error) {
	if info, err := os.Stat(path); err == nil && info.Mode().Perm()&0o007 != 0 {
		a.log.Warn("the passphrase file can be read by every user", "file", path, "mode", info.Mode().Perm().String())
	}
	return readPassphrase(path)
}

// opened is a stanza in one of its repositories.
type opened struct {
	repository repositoryConfig
	stanza     *repo.Stanza
}

// openStanza opens the stanza in one repository.
func (a *app) openStanza(ctx context.Context, rc repositoryConfig, name string) (opened, error) {
	r, err := a.openRepository(ctx, rc, false)
	if err != nil {
		return opened{}, err
	}
	s, err := r.Stanza(ctx, name)
	if err != nil {
		return opened{}, fmt.Errorf("repository %q: %w", rc.Name, err)
	}
	return opened{rc, s}, nil
}

// selection is what the configuration, the flags and the variables choose.
type selection struct {
	config       *config
	stanza       stanzaConfig
	repositories []repositoryConfig
	processes    int
}

// selected reads the configuration and chooses from it. All repositories are
// selected where none is named.
func (a *app) selected() (selection, error) {
	c, err := a.loadConfig()
	if err != nil {
		return selection{}, err
	}
	s := selection{config: c}
	if s.stanza, err = c.stanza(a.setting(a.flags.stanza, "PGBAK_STANZA", "")); err != nil {
		return s, err
	}
	if s.repositories, err = c.repositories(a.setting(a.flags.repository, "PGBAK_REPO", "")); err != nil {
		return s, err
	}
	s.processes, err = a.processes(c)
	return s, err
}

// storageError marks a failure of the storage.
type storageError struct{ err error }

func (e *storageError) Error() string { return e.err.Error() }
func (e *storageError) Unwrap() error { return e.err }

// marked is a decorator that wraps every failure of a store in a storageError.
// An object that is absent or there already is an answer, not a failure.
type marked struct{ storage.Store }

func mark(err error) error {
	if err == nil || err == io.EOF || errors.Is(err, storage.ErrNotExist) || errors.Is(err, storage.ErrExist) {
		return err
	}
	return &storageError{err}
}

func (m marked) Put(ctx context.Context, key string, src storage.Source, o storage.PutOptions) error {
	source := &markedSource{Source: src}
	err := m.Store.Put(ctx, key, source, o)
	if source.failed {
		// What could not be read is the caller's file, not the store.
		return err
	}
	return mark(err)
}

func (m marked) Get(ctx context.Context, key string, r storage.Range) (io.ReadCloser, error) {
	rc, err := m.Store.Get(ctx, key, r)
	if err != nil {
		return nil, mark(err)
	}
	return markedReader{rc}, nil
}

func (m marked) Stat(ctx context.Context, key string) (storage.Object, error) {
	o, err := m.Store.Stat(ctx, key)
	return o, mark(err)
}

func (m marked) List(ctx context.Context, prefix string) iter.Seq2[storage.Object, error] {
	return func(yield func(storage.Object, error) bool) {
		for o, err := range m.Store.List(ctx, prefix) {
			if !yield(o, mark(err)) {
				return
			}
		}
	}
}

func (m marked) Delete(ctx context.Context, keys ...string) error {
	return mark(m.Store.Delete(ctx, keys...))
}

type markedReader struct{ io.ReadCloser }

func (r markedReader) Read(p []byte) (int, error) {
	n, err := r.ReadCloser.Read(p)
	return n, mark(err)
}

// markedSource remembers whether the source itself failed.
type markedSource struct {
	storage.Source
	failed bool
}

func (s *markedSource) Open() (io.ReadCloser, error) {
	rc, err := s.Source.Open()
	if err != nil {
		s.failed = true
		return nil, err
	}
	return &sourceReader{rc, s}, nil
}

type sourceReader struct {
	io.ReadCloser
	source *markedSource
}

func (r *sourceReader) Read(p []byte) (int, error) {
	n, err := r.ReadCloser.Read(p)
	if err != nil && err != io.EOF {
		r.source.failed = true
	}
	return n, err
}
