package restore

import (
	"errors"
	"fmt"
	"path"
	"path/filepath"
)

// controlDraft is where global/pg_control waits until everything else is
// durable. PostgreSQL ignores the name, and without the other one it does not
// start.
const controlDraft = "global/pg_control.pgbak-restore"

// putControl gives pg_control its name: the last thing that a restore does.
// When that cannot be made durable, the name is taken back. All goes through
// the place that global lies in: it may be behind a link, and a root follows
// none that leads out of it.
func (r *run) putControl() error {
	at, draft := r.target(controlFile)
	dir := filepath.Dir(draft)
	name := filepath.Join(dir, path.Base(controlFile))
	if err := syncIn(at.root, draft); err != nil {
		return fmt.Errorf("make %s durable: %w", controlFile, err)
	}
	if err := at.root.Rename(draft, name); err != nil {
		return fmt.Errorf("put %s in place: %w", controlFile, err)
	}
	if err := syncIn(at.root, dir); err != nil {
		back := at.root.Rename(name, draft)
		return fmt.Errorf("put %s in place: %w", controlFile, errors.Join(err, back))
	}
	return nil
}
