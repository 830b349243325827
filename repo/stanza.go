package repo

import (
	"context"
	"errors"
	"fmt"
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
	s := &Stanza{repo: r, name: name}
	for obj, err := range r.store.List(ctx, identityPrefix(name)) {
		if err != nil {
			return nil, fmt.Errorf("list identities of stanza %s: %w", name, err)
		}
		var id Identity
		if err := getDocument(ctx, r.store, obj.Key, identityFormat, &id); err != nil {
			return nil, err
		}
		if id.Number != len(s.identities)+1 || obj.Key != identityKey(name, id.Number) {
			return nil, damagedf(obj.Key, "", "it is number %d, want %d", id.Number, len(s.identities)+1)
		}
		s.identities = append(s.identities, id)
	}
	if len(s.identities) == 0 {
		return nil, hint.Wrap(fmt.Errorf("stanza %s in %s: %w", name, r.location(), ErrUnknownStanza),
			"check the stanza's name, or run 'pgbak --stanza %s init' to create it.", name)
	}
	return s, nil
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
	id.Number, id.Created = s.Current().Number+1, s.repo.o.Clock().UTC().Truncate(time.Second)
	key := identityKey(s.name, id.Number)
	if err := putDocument(ctx, s.repo.store, key, identityFormat, id, storage.PutOptions{IfAbsent: true}); err != nil {
		return Identity{}, fmt.Errorf("add identity %d to stanza %s: %w", id.Number, s.name, err)
	}
	s.identities = append(s.identities, id)
	return id, nil
}
