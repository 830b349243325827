package restore

import (
	"context"
	"fmt"
	"strings"
	"time"

	"github.com/pgbak/pgbak/internal/postgres"
)

// lookBack bounds how many segments are read to tell the time of a window's
// end, when it is only for a hint.
const lookBack = 64

// windows says in one sentence what can be reached: for each unbroken row of
// WAL, from the end of the first backup in it to the row's end. It goes into
// the hint of a refusal, so what cannot be read is left out of it.
func (q *request) windows(ctx context.Context, all []candidate) string {
	var parts []string
	for i := 0; i < len(all); {
		first := all[i]
		for i++; i < len(all) && all[i].reach.sameEnd(first.reach); i++ {
			if all[i].complete() {
				first = all[i]
			}
		}
		if first.complete() {
			parts = append(parts, q.window(ctx, first))
		}
	}
	if len(parts) == 0 {
		return "nothing can be reached: no backup has all the WAL that it needs; take a new backup, and look for the missing WAL in the server's pg_wal."
	}
	const most = 3
	return "what can be reached is " + strings.Join(parts[:min(most, len(parts))], "; and ") + "."
}

// sameEnd tells whether two rows end alike, so that one window covers both.
func (r reach) sameEnd(o reach) bool {
	return r.Next == o.Next && r.path.history.Timeline == o.path.history.Timeline
}

// window describes what lies between the end of a backup and the end of the
// WAL that follows it.
func (q *request) window(ctx context.Context, c candidate) string {
	until := ""
	last, err := lastCommit(ctx, q.wal, c.reach, c.Stop.LSN, lookBack)
	if err == nil && last != nil {
		until = fmt.Sprintf("the last transaction at %s (%s)", formatTime(last.Time), last.LSN)
	} else {
		until = fmt.Sprintf("the end of %s", c.reach.last())
	}
	return fmt.Sprintf("from the end of backup %s at %s (%s) to %s on timeline %d",
		c.Label, formatTime(c.Stop.Time), c.Stop.LSN, until, c.reach.path.history.Timeline)
}

// Window is what can be reached from the chosen backup.
type Window struct {
	// From is the end of the backup.
	From Moment `json:"from"`
	// To is the end of the WAL that follows it without a hole; its time is
	// that of the last transaction, and zero where the plan did not need to
	// know it.
	To Moment `json:"to"`
}

// Moment is a position and, where known, its time.
type Moment struct {
	LSN  postgres.LSN `json:"lsn"`
	Time *time.Time   `json:"time,omitempty"`
}
