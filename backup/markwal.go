package backup

import "context"

// markWAL lets each repository with the new backup catch up with the marks of its
// WAL: archive-push marks what is complete as it goes, but not what came to it out
// of order or was there before it knew marks. Nothing depends on it, so what
// fails is only said.
func (r *run) markWAL(ctx context.Context) error {
	return r.to.together(ctx, func(d *destination) error {
		m, err := d.Stanza.MarkWAL(ctx, d.identity)
		if err != nil {
			r.o.Log.Warn("the backup is complete, but its WAL archive could not be marked; listing it takes longer until the next backup", "repository", d.Name, "cause", err)
			return nil
		}
		r.o.Log.Debug("marked WAL", "repository", d.Name, "listed", m.Listed, "marked", m.Marked, "removed", m.Removed, "partial", m.Partial)
		return nil
	})
}
