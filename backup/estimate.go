package backup

import (
	"context"

	"github.com/pgbak/pgbak/repo"
)

// How large the cluster is, for Progress.Total: where there is a parent, as large
// as that was, which costs nothing. Else all is to be read, and next to that a
// walk beside it costs little.

// estimateBeside begins to estimate; what it returns ends that.
func (c *copier) estimateBeside(ctx context.Context, w walker) (end func()) {
	ctx, cancel := context.WithCancel(ctx)
	done := make(chan struct{})
	go func() {
		defer close(done)
		c.estimate(ctx, w)
	}()
	return func() {
		cancel()
		<-done
	}
}

// estimate walks the cluster, which is soon far ahead of the copy, since it
// reads no file. A fault is none of the estimate's: the copy meets it too and
// says so, and as long as the walk has not ended nothing is known.
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
