package restore

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/pgbak/pgbak/internal/postgres"
)

// walReader reads what matters to recovery out of archived segments.
type walReader interface {
	// events calls emit for every commit, abort and restore point that begins
	// in segments first to last of the row, in order; a record that runs on
	// into the next segment is followed there if the row holds it. It returns
	// where the last valid record lies. An error of emit ends it.
	events(ctx context.Context, r reach, first, last uint64, emit func(postgres.WALEvent) error) (lastRecord, error)
}

// lastRecord is the last valid record that a scan has met. start is 0 when no
// record began in what was read.
type lastRecord struct{ start, end postgres.LSN }

// begin says, for the end of a sentence, where the record begins; empty when
// that is not known.
func (l lastRecord) begin() string {
	if l.start == 0 {
		return ""
	}
	return fmt.Sprintf(" (the last begins at %s)", l.start)
}

// errEnough ends a scan early.
var errEnough = errors.New("enough")

// endsTransaction tells whether the record carries a time that PostgreSQL
// compares with recovery_target_time, and a transaction that it compares with
// recovery_target_xid. Restore points carry a time too, but are not asked.
func endsTransaction(e postgres.WALEvent) bool {
	return e.Kind == postgres.WALCommit || e.Kind == postgres.WALAbort
}

// commits finds the latest time among the commits and aborts that begin in
// segment n at floor or behind it; nil when there are none. Times need not
// ascend: a transaction takes its time before its place in the WAL.
func commits(ctx context.Context, wal walReader, r reach, n uint64, floor postgres.LSN) (*postgres.WALEvent, error) {
	var latest *postgres.WALEvent
	_, err := wal.events(ctx, r, n, n, func(e postgres.WALEvent) error {
		if endsTransaction(e) && e.LSN >= floor && (latest == nil || e.Time.After(latest.Time)) {
			latest = &e
		}
		return nil
	})
	return latest, err
}

// lastCommit looks for the last commit or abort of the row that begins at
// floor or behind it, from the end backwards, in at most limit segments (0: in
// all). It is nil when there is none.
func lastCommit(ctx context.Context, wal walReader, r reach, floor postgres.LSN, limit int) (*postgres.WALEvent, error) {
	for n := r.Next; n > r.First && r.path.start(n) > floor; n-- {
		found, err := commits(ctx, wal, r, n-1, floor)
		if found != nil || err != nil {
			return found, err
		}
		if limit--; limit == 0 {
			break
		}
	}
	return nil, nil
}

// nextCommits finds the commits of the first segment from n to last that has any.
func nextCommits(ctx context.Context, wal walReader, r reach, n, last uint64, floor postgres.LSN) (*postgres.WALEvent, uint64, error) {
	for ; n <= last; n++ {
		if found, err := commits(ctx, wal, r, n, floor); found != nil || err != nil {
			return found, n, err
		}
	}
	return nil, n, nil
}

// findStop finds the record that ends recovery: the first commit or abort at
// floor or behind it whose time is past the target. There must be one. It
// halves the row, so that a month of WAL costs a dozen segments, and reads the
// last step forward.
func findStop(ctx context.Context, wal walReader, r reach, floor postgres.LSN, past func(commit time.Time) bool) (*postgres.WALEvent, error) {
	low, high := floor.Segment(r.path.size), r.Next-1
	for low < high {
		middle := low + (high-low)/2
		found, at, err := nextCommits(ctx, wal, r, middle, high, floor)
		if err != nil {
			return nil, err
		}
		if found == nil || past(found.Time) {
			high = middle
		} else {
			low = at + 1
		}
	}
	// Where times do not ascend, the segment that looked too early may follow
	// one that holds the record: begin before it.
	low = max(low, r.First+2) - 2
	var stop *postgres.WALEvent
	_, err := wal.events(ctx, r, low, r.Next-1, func(e postgres.WALEvent) error {
		if endsTransaction(e) && e.LSN >= floor && past(e.Time) {
			stop = &e
			return errEnough
		}
		return nil
	})
	if err != nil && !errors.Is(err, errEnough) {
		return nil, err
	}
	if stop == nil {
		return nil, fmt.Errorf("no transaction past the target was found from %s to %s, where one had been seen", r.path.name(low), r.last())
	}
	return stop, nil
}
