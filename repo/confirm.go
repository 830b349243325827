package repo

import (
	"context"
	"errors"
	"fmt"
	"slices"
)

// ErrReplaced says that another repository lies where an opened one lay.
var ErrReplaced = errors.New("the repository is not the one that was opened")

// Confirm proves, by one round trip, that the store still holds the repository
// that was opened: one that was removed and created anew has other keys, and what
// is sealed with those of the old one could not be read again. The error wraps
// ErrReplaced, is one of Open, or is the store's.
func (r *Repository) Confirm(ctx context.Context) error {
	c, _, err := readConfig(ctx, r.store)
	if err != nil {
		return err
	}
	if c.ID != r.config.ID || !c.Features.equal(r.config.Features) {
		return fmt.Errorf("%s: %w: it was %s, it is %s", r.location(), ErrReplaced, r.config.ID, c.ID)
	}
	return nil
}

func (f Features) equal(o Features) bool {
	return slices.Equal(f.Read, o.Read) && slices.Equal(f.Write, o.Write) && slices.Equal(f.Collect, o.Collect)
}
