package readiness

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/pgbak/pgbak/internal/hint"
	"github.com/pgbak/pgbak/internal/pause"
	"github.com/pgbak/pgbak/internal/postgres"
	"github.com/pgbak/pgbak/repo"
)

// ErrWALTimeout is wrapped by the error of WaitForWAL when the time is up.
var ErrWALTimeout = errors.New("WAL did not reach the repository in time")

// The pauses between two looks into the repository: short at first, because a
// healthy archiver needs some tens of milliseconds, and then rarer, because
// a look can be a request that costs money.
const (
	firstPause = 10 * time.Millisecond
	lastPause  = time.Second
)

// WaitOptions say how long WaitForWAL waits and by whose clock.
type WaitOptions struct {
	// Timeout begins anew whenever a file was found: an archiver that is far
	// behind, but at work, is waited for. Zero looks at what is there now.
	Timeout time.Duration
	// Clock is required.
	Clock func() time.Time
	// Sleep pauses for d or until ctx ends, and then returns ctx's error; nil
	// is a timer. Tests move the clock with it.
	Sleep func(ctx context.Context, d time.Duration) error
	// Archiver tells what the server's archiver is doing, in one sentence for
	// the error when the time is up; nil if there is no server to ask.
	Archiver func(ctx context.Context) (string, error)
}

// WaitForWAL returns nil once every one of files is in the repository under
// the identity id. When the time is up it returns an error that wraps
// ErrWALTimeout and names the first file that is missing and what the archiver
// says. An error of the storage ends the waiting at once.
func WaitForWAL(ctx context.Context, s *repo.Stanza, id repo.Identity, files []postgres.WALFile, o WaitOptions) error {
	if o.Sleep == nil {
		o.Sleep = pause.For
	}
	has := func(f postgres.WALFile) (bool, error) { return s.HasWAL(ctx, id, f) }
	missing, err := waitFor(ctx, files, has, o)
	if err != nil {
		return err
	}
	if len(missing) == 0 {
		return nil
	}
	return timeoutError(ctx, missing, id, o)
}

// waitFor looks for files in their order until all are there or the time is
// up, and returns those that are missing.
func waitFor(ctx context.Context, files []postgres.WALFile, has func(postgres.WALFile) (bool, error), o WaitOptions) ([]postgres.WALFile, error) {
	deadline := o.Clock().Add(o.Timeout)
	pause := firstPause
	for {
		for len(files) > 0 {
			there, err := has(files[0])
			if err != nil {
				return nil, fmt.Errorf("wait for WAL: %w", err)
			}
			if !there {
				break
			}
			// The archiver works in order: what was seen once stays, and the
			// rest need not be asked for before the first is there.
			files = files[1:]
			deadline = o.Clock().Add(o.Timeout)
		}
		left := deadline.Sub(o.Clock())
		if len(files) == 0 || left <= 0 {
			return files, nil
		}
		if err := o.Sleep(ctx, min(pause, left)); err != nil {
			return nil, fmt.Errorf("wait for WAL: %w", err)
		}
		pause = min(2*pause, lastPause)
	}
}

func timeoutError(ctx context.Context, missing []postgres.WALFile, id repo.Identity, o WaitOptions) error {
	text := fmt.Sprintf("WAL segment %s did not reach the repository within %s", missing[0].Name(id.SegmentSize), o.Timeout)
	if n := len(missing); n > 1 {
		text += fmt.Sprintf(" (nor did %d after it)", n-1)
	}
	if o.Archiver != nil {
		said, err := o.Archiver(ctx)
		if err != nil {
			said = "asking the archiver failed: " + err.Error()
		}
		text += "; " + said
	}
	return hint.Wrap(&notReady{text: text, kind: ErrWALTimeout},
		"look for the output of archive_command in the server's log, and run it by hand for the first missing segment.")
}
