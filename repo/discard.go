package repo

import (
	"context"
	"errors"
	"fmt"
	"slices"

	"github.com/oklog/ulid/v2"

	"github.com/pgbak/pgbak/storage"
)

// Abort ends the writer without a backup. What was stored stays for the next
// backup to resume, and so does the pin, which tells of it.
func (w *BackupWriter) Abort() {
	_ = w.uploads.Wait()
	w.close()
}

// errResumed is why stored content was not discarded.
var errResumed = errors.New("another backup has begun to use it")

// Discard is an Abort that also removes what the writer has stored, to give
// room back to a full repository. It removes nothing once the manifest was
// sent, since its answer may have been lost, and no packs that another backup
// has begun to resume: to know that, the writer revokes itself as a collector
// would, and lists the pins afterwards. Its own pin goes last but for the
// revocation: until then a collector knows of what is left.
func (w *BackupWriter) Discard(ctx context.Context) error {
	w.Abort()
	if w.sent {
		return nil
	}
	store := w.stanza.repo.store
	if err := w.discard(ctx, mapsPrefix(w.op)); err != nil { // first: nobody resumes maps, and the rest needs some room
		return err
	}
	stub := manifestKey(w.stanza.name, w.label)
	revoked := putDocument(ctx, store, stub, revokedFormat, struct{}{}, storage.PutOptions{IfAbsent: true})
	if revoked != nil && !errors.Is(revoked, storage.ErrExist) {
		return fmt.Errorf("revoke %s: %w", w.label, revoked)
	}
	wanted, err := w.stanza.resumes(ctx, w.op)
	if err != nil {
		return err
	}
	if wanted {
		return errResumed
	}
	if err := w.discard(ctx, packsPrefix(w.op)); err != nil {
		return err
	}
	if err := store.Delete(ctx, pinKey(w.op)); err != nil || revoked != nil { // a stub that was there is a collector's
		return err
	}
	return store.Delete(ctx, stub)
}

// discard deletes all objects below a prefix of the writer's own.
func (w *BackupWriter) discard(ctx context.Context, prefix string) error {
	store := w.stanza.repo.store
	var keys []string
	for obj, err := range store.List(ctx, prefix, "") {
		if err != nil {
			return fmt.Errorf("list %s: %w", prefix, err)
		}
		keys = append(keys, obj.Key)
	}
	if err := store.Delete(ctx, keys...); err != nil {
		return fmt.Errorf("discard %s: %w", prefix, err)
	}
	return nil
}

// resumes tells whether a pin says that its operation uses packs of op. A pin
// that cannot be read may be such a one.
func (s *Stanza) resumes(ctx context.Context, op ulid.ULID) (bool, error) {
	pins, damage, err := s.pins(ctx)
	if err != nil {
		return false, err
	}
	return damage != nil || slices.ContainsFunc(pins, func(p Pin) bool { return slices.Contains(p.Resumes, op.String()) }), nil
}
