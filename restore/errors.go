package restore

import (
	"errors"
	"fmt"

	"github.com/pgbak/pgbak/internal/hint"
)

// ErrUnreachable says that the repository holds no backup and WAL that lead to
// the target. Nothing was written.
var ErrUnreachable = errors.New("target cannot be reached")

// ErrDirectory says that a directory that the cluster would be written to is
// not fit for it: not empty, in use, or in the wrong place. Nothing was
// written.
var ErrDirectory = errors.New("directory cannot be restored to")

// ErrIncomplete says that a restore failed after it had begun to write. The
// directory has no global/pg_control, so that no server starts on it.
var ErrIncomplete = errors.New("restore is incomplete")

// unreachable is a refusal whose hint says what can be reached instead.
func unreachable(reachable, format string, args ...any) error {
	return hint.Wrap(fmt.Errorf("%w: %s", ErrUnreachable, fmt.Sprintf(format, args...)), "%s", reachable)
}

// unfit is a refusal of a directory.
func unfit(advice, format string, args ...any) error {
	return hint.Wrap(fmt.Errorf("%w: %s", ErrDirectory, fmt.Sprintf(format, args...)), "%s", advice)
}
