package backup

import (
	"context"
	"fmt"
	"path/filepath"

	"github.com/pgbak/pgbak/internal/postgres"
)

// archiveSummaries reads what changed from the summaries in the WAL archive, and
// where there are none from the WAL itself. One repository is enough, since the
// WAL is the same in all.
//
// The server's own files may be those of a standby, in which only what was
// replayed is known to be WAL of this timeline. That is all of the span: it ends
// at a restart point.
func (r *run) archiveSummaries(ctx context.Context, s span) (*postgres.BlockTable, error) {
	err := errNone
	for i, d := range r.to.all {
		if d.failed.Load() {
			continue
		}
		var t *postgres.BlockTable
		var c walCoverage
		src := walSource{stanza: d.Stanza, identity: d.identity, pageSize: s.walPageSize, local: filepath.Join(r.o.PGData, "pg_wal")}
		t, c, err = walChanges(ctx, src, s.history, s.fromTimeline, s.from, s.to)
		for _, u := range c.Unusable {
			r.warnOf(d, "%v; its WAL is read instead", u)
		}
		if err == nil {
			r.o.Log.Debug("read WAL summaries", "repository", d.Name, "summarized", c.Summarized, "scanned", c.Scanned)
			return t, nil
		}
		if i < len(r.to.all)-1 {
			err = fmt.Errorf("repository %s: %w", d.Name, err)
		}
	}
	return nil, err
}
