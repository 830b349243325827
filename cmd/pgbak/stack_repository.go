package main

import (
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"os"

	"github.com/oklog/ulid/v2"

	"github.com/pgbak/pgbak/repo"
	"github.com/pgbak/pgbak/storage"
	"github.com/pgbak/pgbak/storage/conformance"
	"github.com/pgbak/pgbak/storage/lookfirst"
)

// openRepository opens a configured repository, or makes it to create.
func (a *app) openRepository(ctx context.Context, rc repositoryConfig, to access) (*repo.Repository, error) {
	o, err := a.repositoryOptions(rc)
	if err != nil {
		return nil, err
	}
	st, err := a.openStore(ctx, rc, to)
	if err != nil {
		return nil, fmt.Errorf("repository %q: %w", rc.Name, err)
	}
	r, err := repo.Open(ctx, st, o)
	if to == toCreate && errors.Is(err, repo.ErrNotInitialized) {
		r, err = a.createRepository(ctx, rc, st, o)
	}
	if err != nil {
		return nil, fmt.Errorf("repository %q: %w", rc.Name, err)
	}
	return r, nil
}

func (a *app) repositoryOptions(rc repositoryConfig) (repo.Options, error) {
	o := repo.Options{Clock: a.clock}
	var err error
	if o.Compression, err = rc.compression(); err != nil {
		return o, err
	}
	if rc.Encryption != nil {
		o.Passphrase = func() ([]byte, error) { return a.passphrase(rc.Encryption.PassphraseFile) }
	}
	return o, nil
}

// createRepository first finds out whether the storage keeps two writers of one
// key apart: the repository records the answer for ever.
func (a *app) createRepository(ctx context.Context, rc repositoryConfig, st storage.Store, o repo.Options) (*repo.Repository, error) {
	prefix, err := a.probePrefix()
	if err != nil {
		return nil, err
	}
	held, err := conformance.ConditionalPut(ctx, st, prefix)
	if err != nil {
		return nil, fmt.Errorf("try out the storage: %w", err)
	}
	if !held {
		a.log.Warn("the storage does not refuse to overwrite an object when two programs put it at the same moment: "+
			"pgbak looks before it puts, which is safe as long as only one server archives into a stanza; "+
			"'pgbak repo check --probe' shows what the storage promises", "repository", rc.Name, "location", st.Properties().Location)
		st = lookfirst.New(st)
	}
	return repo.Create(ctx, st, o)
}

// probePrefix names a place for objects that only try out the storage. It is no
// part of a repository, and what an interrupted run leaves there does no harm.
func (a *app) probePrefix() (string, error) {
	id, err := ulid.New(ulid.Timestamp(a.clock()), rand.Reader)
	if err != nil {
		return "", fmt.Errorf("make a name for a probe: %w", err)
	}
	return "probe/" + id.String() + "/", nil
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

// openStanza opens a repository and the stanza in it, for less than both cost
// one after the other.
func (a *app) openStanza(ctx context.Context, rc repositoryConfig, name string, to access) (opened, error) {
	o, err := a.repositoryOptions(rc)
	if err != nil {
		return opened{}, err
	}
	st, err := a.openStore(ctx, rc, to)
	if err != nil {
		return opened{}, fmt.Errorf("repository %q: %w", rc.Name, err)
	}
	s, err := repo.OpenStanza(ctx, st, o, name)
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
	if s.repositories, err = c.repositories(a.repositoryName()); err != nil {
		return s, err
	}
	s.processes, err = a.processes(c)
	return s, err
}

// repositoryName is what --repo or PGBAK_REPO says; "" if neither does.
func (a *app) repositoryName() string { return a.setting(a.flags.repository, "PGBAK_REPO", "") }
