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
// When that cannot be made durable, the name is taken back.
func (r *run) putControl() error {
	root := r.main().root
	if err := syncIn(root, filepath.FromSlash(controlDraft)); err != nil {
		return fmt.Errorf("make %s durable: %w", controlFile, err)
	}
	if err := root.Rename(filepath.FromSlash(controlDraft), filepath.FromSlash(controlFile)); err != nil {
		return fmt.Errorf("put %s in place: %w", controlFile, err)
	}
	if err := syncIn(root, path.Dir(controlFile)); err != nil {
		back := root.Rename(filepath.FromSlash(controlFile), filepath.FromSlash(controlDraft))
		return fmt.Errorf("put %s in place: %w", controlFile, errors.Join(err, back))
	}
	return nil
}
