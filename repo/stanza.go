package repo

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"time"

	"github.com/pgbak/pgbak/internal/hint"
	"github.com/pgbak/pgbak/storage"
)

const identityFormat = "pgbak-identity"

// Identity is what a cluster is to PostgreSQL. WAL and backups belong to one
// identity of a stanza and never mix with another's.
type Identity struct {
	Number         int       `json:"number"` // 1, 2, ... in the stanza
	SystemID       uint64    `json:"system-identifier,string"`
	Major          int       `json:"postgresql-major"`
	SegmentSize    int64     `json:"wal-segment-size"` // bytes
	BlockSize      int       `json:"block-size"`       // bytes of a page
	CatalogVersion uint32    `json:"catalog-version"`
	ControlVersion uint32    `json:"control-version"`
	Created        time.Time `json:"created"`
}

// same tells whether two identities are one cluster; the system identifier
// survives pg_upgrade --link in no version, but the major is compared anyway.
func (i Identity) same(o Identity) bool {
	return i.SystemID == o.SystemID && i.Major == o.Major && i.SegmentSize == o.SegmentSize && i.BlockSize == o.BlockSize
}

// String names the identity in errors.
func (i Identity) String() string {
	return fmt.Sprintf("system identifier %d, PostgreSQL %d", i.SystemID, i.Major)
}

// Stanza is one archived cluster in a repository. It is a snapshot of the
// identities at the time it was opened; safe for concurrent use.
type Stanza struct {
	repo       *Repository
	name       string
	identities []Identity
}

// CreateStanza begins a stanza with identity number 1. The same identity again
// opens the stanza that is there; another one is an ErrIdentityMismatch.
func (r *Repository) CreateStanza(ctx context.Context, name string, id Identity) (*Stanza, error) {
	if err := CheckStanzaName(name); err != nil {
		return nil, err
	}
	if err := r.config.checkWrite(r.location()); err != nil {
		return nil, err
	}
	if err := r.refuseLost(ctx, name); err != nil {
		return nil, err
	}
	id.Number, id.Created = 1, r.o.Clock().UTC().Truncate(time.Second)
	err := putDocument(ctx, r.store, identityKey(name, 1), identityFormat, id, storage.PutOptions{IfAbsent: true})
	if err != nil && !errors.Is(err, storage.ErrExist) {
		return nil, fmt.Errorf("create stanza %s: %w", name, err)
	}
	s, err := r.Stanza(ctx, name)
	if err != nil {
		return nil, err
	}
	if !s.Current().same(id) {
		return nil, hint.Wrap(fmt.Errorf("stanza %s: %w: it belongs to %s, this cluster is %s", name, ErrIdentityMismatch, s.Current(), id),
			"use another stanza name for another cluster; after pg_upgrade run 'pgbak init --upgrade'.")
	}
	return s, nil
}

// Stanza opens a stanza; ErrUnknownStanza when it has no identity.
func (r *Repository) Stanza(ctx context.Context, name string) (*Stanza, error) {
	if err := CheckStanzaName(name); err != nil {
		return nil, err
	}
	return r.stanza(ctx, name, readTwoIdentities(ctx, r.store, name, 1))
}

// OpenStanza is Open and Stanza in one: the first requests of both are sent
// together, so that a plain repository costs one round trip, an encrypted one
// two. Errors are those of Open and Stanza.
func OpenStanza(ctx context.Context, st storage.Store, o Options, name string) (*Stanza, error) {
	if err := CheckStanzaName(name); err != nil {
		return nil, err
	}
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	first := make(chan twoIdentities, 1)
	go func() { first <- readTwoIdentities(ctx, st, name, 1) }()
	r, err := Open(ctx, st, o)
	if err != nil {
		cancel()
		<-first
		return nil, err
	}
	return r.stanza(ctx, name, <-first)
}

// refuseLost makes sure that no stanza stands here that has only lost its first
// identity: a new one in its place would claim another cluster's WAL and backups.
func (r *Repository) refuseLost(ctx context.Context, name string) error {
	switch _, err := r.store.Stat(ctx, identityKey(name, 1)); {
	case err == nil:
		return nil
	case !isAbsent(err):
		return fmt.Errorf("look for stanza %s: %w", name, err)
	}
	if err := r.checkIdentities(ctx, name); err != nil {
		return err
	}
	return r.refuseRemainsOf(ctx, name, 1, backupsPrefix(name), stanzaWALPrefix(name), ledgerPrefix(name))
}

// refuseRemainsOf is an error when something is there that only an identity of
// that number can have left.
func (r *Repository) refuseRemainsOf(ctx context.Context, stanza string, n int, prefixes ...string) error {
	for _, prefix := range prefixes {
		for obj, err := range r.store.List(ctx, prefix, "") {
			if err != nil {
				return fmt.Errorf("look for remains of stanza %s: %w", stanza, err)
			}
			return hint.Wrap(damagedf(identityKey(stanza, n), "", "it is lost, but %s is there", obj.Key),
				"bring the lost object back from a copy of the repository, or use another stanza name.")
		}
	}
	return nil
}

// twoIdentities are neighbours that were asked for together, one of which is
// more than most stanzas have: the absence of the second ends the list without
// a round trip.
type twoIdentities [2]struct {
	id  Identity
	err error
}

func readTwoIdentities(ctx context.Context, st storage.Store, stanza string, first int) (two twoIdentities) {
	var reads sync.WaitGroup
	for i := range two {
		reads.Go(func() { two[i].id, two[i].err = readIdentity(ctx, st, stanza, first+i) })
	}
	reads.Wait()
	return two
}

func readIdentity(ctx context.Context, st storage.Store, stanza string, n int) (Identity, error) {
	var id Identity
	key := identityKey(stanza, n)
	if err := getDocument(ctx, st, key, identityFormat, &id); err != nil {
		return id, err
	}
	if id.Number != n {
		return id, damagedf(key, "", "it is number %d, want %d", id.Number, n)
	}
	return id, nil
}

// stanza goes on from the first two identities to the last one.
func (r *Repository) stanza(ctx context.Context, name string, two twoIdentities) (*Stanza, error) {
	s := &Stanza{repo: r, name: name}
	for {
		for _, next := range two {
			switch {
			case isAbsent(next.err) && len(s.identities) == 0:
				return nil, r.unknownStanza(ctx, name)
			case isAbsent(next.err):
				return s, nil
			case next.err != nil:
				return nil, next.err
			}
			s.identities = append(s.identities, next.id)
		}
		two = readTwoIdentities(ctx, r.store, name, len(s.identities)+1)
	}
}

// unknownStanza says why a stanza has no first identity.
func (r *Repository) unknownStanza(ctx context.Context, name string) error {
	if err := r.checkIdentities(ctx, name); err != nil {
		return err
	}
	return hint.Wrap(fmt.Errorf("stanza %s in %s: %w", name, r.location(), ErrUnknownStanza),
		"check the stanza's name, or run 'pgbak --stanza %s init' to create it.", name)
}

// checkIdentities makes sure that no identity is lost before one that is there.
// Opening a stanza, which ends at the first that is absent, does not see that.
func (r *Repository) checkIdentities(ctx context.Context, stanza string) error {
	_, err := r.countIdentities(ctx, stanza)
	return err
}

// countIdentities lists the identities, which must be numbered without a gap.
func (r *Repository) countIdentities(ctx context.Context, stanza string) (n int, err error) {
	for obj, err := range r.store.List(ctx, identityPrefix(stanza), "") {
		if err != nil {
			return n, fmt.Errorf("list identities of stanza %s: %w", stanza, err)
		}
		if n++; obj.Key != identityKey(stanza, n) {
			return n, damagedf(identityKey(stanza, n), "", "it is lost, but %s is there", obj.Key)
		}
	}
	return n, nil
}

func (r *Repository) location() string { return r.store.Properties().Location }

// Name is the stanza's name.
func (s *Stanza) Name() string { return s.name }

// Repository is where the stanza lives.
func (s *Stanza) Repository() *Repository { return s.repo }

// Identities are oldest first.
func (s *Stanza) Identities() []Identity { return s.identities }

// Current is the identity that archives and backs up now.
func (s *Stanza) Current() Identity { return s.identities[len(s.identities)-1] }

// AddIdentity records that the stanza's cluster has become another one, after
// pg_upgrade or initdb. Old backups and WAL stay under the old identity.
func (s *Stanza) AddIdentity(ctx context.Context, id Identity) (Identity, error) {
	if s.Current().same(id) {
		return s.Current(), nil
	}
	if err := s.repo.config.checkWrite(s.repo.location()); err != nil {
		return Identity{}, err
	}
	// The number of a lost one would be given away again.
	if err := s.repo.checkIdentities(ctx, s.name); err != nil {
		return Identity{}, err
	}
	next := s.Current().Number + 1
	if err := s.repo.refuseRemainsOf(ctx, s.name, next, walPrefix(s.name, next), marksPrefix(s.name, next)); err != nil {
		return Identity{}, err
	}
	id.Number, id.Created = next, s.repo.o.Clock().UTC().Truncate(time.Second)
	key := identityKey(s.name, id.Number)
	err := putDocument(ctx, s.repo.store, key, identityFormat, id, storage.PutOptions{IfAbsent: true})
	if errors.Is(err, storage.ErrExist) {
		return s.sameAdded(ctx, id, err)
	}
	if err != nil {
		return Identity{}, fmt.Errorf("add identity %d to stanza %s: %w", id.Number, s.name, err)
	}
	s.identities = append(s.identities, id)
	return id, nil
}

// sameAdded settles a race: another one has added an identity since the stanza
// was opened. Where it is the same cluster, what was wanted is done.
func (s *Stanza) sameAdded(ctx context.Context, id Identity, taken error) (Identity, error) {
	now, err := s.repo.Stanza(ctx, s.name)
	if err != nil {
		return Identity{}, err
	}
	s.identities = now.identities
	if s.Current().same(id) {
		return s.Current(), nil
	}
	return Identity{}, hint.Wrap(fmt.Errorf("add identity %d to stanza %s: %w: meanwhile it belongs to %s, this cluster is %s: %w",
		id.Number, s.name, ErrIdentityMismatch, s.Current(), id, taken),
		"find out who runs 'pgbak init --upgrade' for another cluster: one stanza is for one cluster.")
}
