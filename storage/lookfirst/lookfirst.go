// Package lookfirst decorates a [storage.Store] whose driver or server does not
// know puts that succeed only if the key is free: it looks whether the key is
// taken and then puts.
//
// Between the look and the end of the put another writer can put the same key.
// Then both believe that theirs is the object, and the later one's is. Therefore
// Properties.ConditionalPut is false, and what needs one winner among writers at
// the same time must not rely on a key alone. Keys that only one writer can
// choose (packs and maps below the id of their operation) do not mind; that two
// servers archive the same WAL segment at the same moment goes unnoticed; and
// collection, which must exclude others, is then serialised by a lease.
package lookfirst

import (
	"context"
	"errors"
	"fmt"

	"github.com/pgbak/pgbak/storage"
)

// Store is the decorated Store.
type Store struct{ storage.Store }

// New decorates st.
func New(st storage.Store) storage.Store { return Store{st} }

// Put implements [storage.Store].
func (s Store) Put(ctx context.Context, key string, src storage.Source, o storage.PutOptions) error {
	if o.IfAbsent {
		_, err := s.Store.Stat(ctx, key)
		if err == nil {
			return fmt.Errorf("put %q: %w", key, storage.ErrExist)
		}
		if !errors.Is(err, storage.ErrNotExist) {
			return fmt.Errorf("put %q: look whether it is there: %w", key, err)
		}
	}
	return s.Store.Put(ctx, key, src, storage.PutOptions{})
}

// Properties implements [storage.Store].
func (s Store) Properties() storage.Properties {
	p := s.Store.Properties()
	p.ConditionalPut = false
	return p
}
