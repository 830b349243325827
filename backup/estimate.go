package backup

import (
	"context"

	"github.com/pgbak/pgbak/repo"
)

// estimate finds out beside the copy how large the cluster is, for
// Progress.Total: by a walk of its own, which is far ahead of the copy soon,
// since it reads no file. A fault is none of the estimate's: the copy meets it
// too and says so, and as long as the walk has not ended nothing is known.
func (c *copier) estimate(ctx context.Context, w walker) {
	var sum int64
	w.owners, w.tablespaces = newOwners(), map[string]bool{}
	w.warn = func(string, ...any) {}
	w.emit = func(it item) error {
		if it.file.Type == repo.TypeFile {
			sum += it.file.Size
		}
		return nil
	}
	if err := w.walk(ctx); err == nil {
		c.total.Store(sum)
	}
}
