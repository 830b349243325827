package restore

import (
	"cmp"
	"context"
	"slices"

	"github.com/pgbak/pgbak/internal/postgres"
)

// Targets that are one record of the WAL: a transaction's end or a restore
// point. Nothing tells where it is, so the WAL is searched, the newest first.

// matches tells whether recovery ends at the record (recoveryStopsBefore and
// recoveryStopsAfter).
func (t Target) matches(e postgres.WALEvent) bool {
	if t.Type == TargetName {
		return e.Kind == postgres.WALRestorePoint && e.Name == t.Name
	}
	return endsTransaction(e) && e.XID == uint32(t.XID)
}

// decideEvent searches the WAL between the ends of the backups, from the
// newest interval to the oldest: what is found in an interval is reached from
// the backup at its beginning.
func (q *request) decideEvent(ctx context.Context, all []candidate, d *decision) error {
	usable := sameWay(all, d)
	if len(usable) == 0 {
		return q.requireComplete(ctx, all, all[0])
	}
	for i, c := range usable {
		last := c.reach.Next - 1
		if i > 0 {
			last = min(last, c.reach.path.segmentBefore(usable[i-1].Stop.LSN))
		}
		hits, err := q.find(ctx, c, c.Stop.LSN, last)
		if err != nil {
			return err
		}
		if len(hits) == 0 {
			continue
		}
		early, err := q.stopsEarly(ctx, c)
		if err != nil {
			return err
		}
		if early != nil {
			d.pass(c.Label, "a restore point of that name lies inside the backup, at "+early.LSN.String()+", and recovery would stop there before it is consistent")
			continue
		}
		d.takeEvent(q.target, c, hits)
		return nil
	}
	oldest, newest := usable[len(usable)-1], usable[0]
	return unreachable(q.windows(ctx, all), "%s is not in the WAL from %s (the end of backup %s) to %s%s",
		q.target, oldest.Stop.LSN, oldest.Label, newest.reach.last(), newest.reach.lost())
}

// takeEvent settles on the first of the records found.
func (d *decision) takeEvent(t Target, c candidate, hits []postgres.WALEvent) {
	stop := hits[0]
	d.take(c, c.reach.path.segmentBefore(stop.End), "the newest backup that ended (at %s) before %s, which is at %s of %s",
		c.Stop.LSN, t, stop.LSN, formatTime(stop.Time))
	d.stop = &stop
	for _, other := range hits[1:] {
		d.note("another restore point %q follows at %s of %s: PostgreSQL stops at the first after the backup; name a later backup or the LSN for another",
			t.Name, other.LSN, formatTime(other.Time))
	}
}

// sameWay keeps the candidates that can be restored and that lead to the same
// timeline as the newest of them, by the end of the backup, last first.
func sameWay(all []candidate, d *decision) []candidate {
	var usable []candidate
	for _, c := range all {
		switch {
		case !c.complete():
			d.pass(c.Label, c.reach.missing()+" is not in the archive")
		case len(usable) > 0 && usable[0].reach.path.history.Timeline != c.reach.path.history.Timeline:
			d.pass(c.Label, "it leads to another timeline")
		default:
			usable = append(usable, c)
		}
	}
	slices.SortStableFunc(usable, func(x, y candidate) int { return cmp.Compare(y.Stop.LSN, x.Stop.LSN) })
	return usable
}

// find lists the records that the target matches, from the position floor to
// the end of segment last.
func (q *request) find(ctx context.Context, c candidate, floor postgres.LSN, last uint64) ([]postgres.WALEvent, error) {
	first := max(floor.Segment(c.reach.path.size), c.reach.First)
	if first > last {
		return nil, nil
	}
	var hits []postgres.WALEvent
	_, err := q.wal.events(ctx, c.reach, first, last, func(e postgres.WALEvent) error {
		const most = 16 // what a note can list
		if q.target.matches(e) && e.LSN >= floor && len(hits) < most {
			hits = append(hits, e)
		}
		return nil
	})
	return hits, err
}

// stopsEarly finds a restore point of the same name between the start and the
// end of the backup itself, where recovery would stop too early.
func (q *request) stopsEarly(ctx context.Context, c candidate) (*postgres.WALEvent, error) {
	if q.target.Type != TargetName {
		return nil, nil
	}
	hits, err := q.find(ctx, c, c.Start.LSN, c.reach.path.segmentBefore(c.Stop.LSN))
	if err != nil || len(hits) == 0 || hits[0].LSN >= c.Stop.LSN {
		return nil, err
	}
	return &hits[0], nil
}
