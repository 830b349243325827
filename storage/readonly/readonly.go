// Package readonly decorates a [storage.Store] so that nothing can be changed
// through it, for commands that only read: what they must not do they then
// cannot do, whatever the layers between them and the store attempt.
package readonly

import (
	"context"
	"errors"
	"fmt"

	"github.com/pgbak/pgbak/internal/hint"
	"github.com/pgbak/pgbak/storage"
)

// ErrReadOnly is wrapped by every Put and Delete.
var ErrReadOnly = errors.New("the repository is open for reading only")

// Store is the decorated Store.
type Store struct{ storage.Store }

// New decorates st.
func New(st storage.Store) Store { return Store{st} }

// Put implements [storage.Store] by refusing; the source is not opened.
func (Store) Put(_ context.Context, key string, _ storage.Source, _ storage.PutOptions) error {
	return refuse("put %q", key)
}

// Delete implements [storage.Store] by refusing, also when there are no keys.
func (Store) Delete(_ context.Context, keys ...string) error {
	return refuse("delete %.200q", keys)
}

func refuse(format string, what any) error {
	return hint.Wrap(fmt.Errorf(format+": %w", what, ErrReadOnly),
		"a command that only reads has tried to write: nothing was changed, please report it as an error of pgbak.")
}
