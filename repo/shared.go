package repo

import (
	"context"
	"fmt"
	"maps"
	"slices"
	"strings"

	"github.com/pgbak/pgbak/internal/hint"
)

// sharedLists is how many operations' objects are listed at once.
const sharedLists = 8

// proveShared makes sure that the packs and maps of other operations that the
// backup names are there, in their sizes, by one list or two for each operation.
// A full backup has read of all that it shares; what another one keeps unread it
// would otherwise inherit even if it is lost.
func (w *BackupWriter) proveShared(ctx context.Context) error {
	if w.typ == Full {
		return nil
	}
	wanted, prefixes := map[string]int64{}, []string(nil)
	for o := range w.tables.objects() {
		prefix := o.Key[:strings.LastIndexByte(o.Key, '/')+1]
		if prefix != packsPrefix(w.op) && prefix != mapsPrefix(w.op) {
			wanted[o.Key], prefixes = o.Size, append(prefixes, prefix)
		}
	}
	slices.Sort(prefixes)
	prefixes = slices.Compact(prefixes)
	found := make([][]string, len(prefixes))
	if err := readEach(ctx, len(prefixes), sharedLists, func(ctx context.Context, i int) error {
		for obj, err := range w.stanza.repo.store.List(ctx, prefixes[i], "") {
			if err != nil {
				return fmt.Errorf("list %s: %w", prefixes[i], err)
			}
			if size, ok := wanted[obj.Key]; ok && size == obj.Size {
				found[i] = append(found[i], obj.Key)
			}
		}
		return nil
	}); err != nil {
		return err
	}
	for _, key := range slices.Concat(found...) {
		delete(wanted, key)
	}
	for _, key := range slices.Sorted(maps.Keys(wanted)) {
		return hint.Wrap(damagedf(key, "", "the backup shares it with earlier ones, and it is lost or has another size"),
			"take a full backup: it stores anew what is lost. Older backups that need the object are damaged.")
	}
	return nil
}
