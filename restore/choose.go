package restore

import (
	"context"
	"fmt"
	"time"

	"github.com/pgbak/pgbak/internal/hint"
	"github.com/pgbak/pgbak/internal/postgres"
	"github.com/pgbak/pgbak/repo"
)

// request is everything that the choice depends on.
type request struct {
	target  Target
	set     repo.Label // only this backup; empty: any
	catalog *repo.Catalog
	wal     walReader
	// list gives the segments that are there from one to another in the order of
	// their names, by a list of each; of timeline 0 the second is the end.
	list func(ctx context.Context, first, last postgres.WALFile) ([]repo.WALRange, error)
}

// decision is a backup and the proof that the target can be reached from it.
type decision struct {
	candidate
	why string
	// needed is the last segment that recovery reads.
	needed uint64
	// stop is the record that ends recovery, where the WAL was searched for it.
	stop *postgres.WALEvent
	// last is the last commit that can be recovered, where that was asked.
	last *postgres.WALEvent

	passed []Passed
	// rivals are backups on other branches than that of the newest timeline.
	rivals   []candidate
	warnings []string
	notes    []string
	damage   error // of manifests that could not be read
}

func (d *decision) warn(format string, args ...any) {
	d.warnings = append(d.warnings, fmt.Sprintf(format, args...))
}

func (d *decision) note(format string, args ...any) {
	d.notes = append(d.notes, fmt.Sprintf(format, args...))
}

func (d *decision) pass(l repo.Label, reason string) {
	d.passed = append(d.passed, Passed{Label: l, Reason: reason})
}

// take settles on a candidate and the last segment that it needs.
func (d *decision) take(c candidate, needed uint64, why string, args ...any) {
	d.candidate, d.needed, d.why = c, needed, fmt.Sprintf(why, args...)
}

// decide chooses the backup and proves that the target can be reached from it,
// or says what can be reached instead (ErrUnreachable). It reads WAL only
// through q.wal and writes nothing.
func (q *request) decide(ctx context.Context) (decision, error) {
	var d decision
	if q.target.Type == "" {
		q.target.Type = TargetLatest
	}
	id, err := pickIdentity(q.catalog, q.set)
	if err != nil {
		return d, err
	}
	if err := q.judgeHistories(id, &d); err != nil {
		return d, err
	}
	archive := newWALArchive(q.catalog, id)
	candidates, err := q.candidates(id, archive, &d)
	if err != nil {
		return d, err
	}
	if err := q.decideType(ctx, candidates, &d); err != nil {
		return d, q.adviseBranch(err, candidates, &d)
	}
	if err := q.judgeBranches(archive, &d); err != nil {
		return d, err
	}
	if q.set != "" {
		d.why = "it was named"
	}
	if d.PageErrorCount > 0 {
		d.warn("backup %s holds %d damaged pages, as the cluster did when it was taken", d.Label, d.PageErrorCount)
	}
	return d, nil
}

// decideProven is decide on WAL that was listed. The catalogue can go by marks of
// what is complete, and recovery takes a segment that is missing in spite of them
// for the end of WAL.
func (q *request) decideProven(ctx context.Context, id repo.Identity) (decision, error) {
	d, err := q.decide(ctx)
	if err != nil {
		return d, err
	}
	path := d.reach.path
	listed, err := q.list(ctx, path.file(d.reach.First), path.file(d.needed))
	if err != nil {
		return d, err
	}
	there := *q.catalog
	there.WAL = listed
	if newWALArchive(&there, id).follow(path, d.reach.First).holds(d.needed) {
		return d, nil
	}
	if there.WAL, err = q.list(ctx, postgres.WALFile{Timeline: 1}, postgres.WALFile{}); err != nil {
		return d, err
	}
	q.catalog = &there
	if d, err = q.decide(ctx); err != nil {
		return d, err
	}
	d.warn("WAL is missing that was marked as complete: something other than pgbak has removed it from the repository; 'pgbak ledger --full' shows what is there")
	return d, nil
}

// judgeHistories refuses to look for the newest timeline among histories of which
// one cannot be read: PostgreSQL would ask for it too, and stop.
func (q *request) judgeHistories(id repo.Identity, d *decision) error {
	for _, h := range q.catalog.DamagedHistories {
		if h.Identity != id.Number {
			continue
		}
		const advice = "move the damaged object away, and push the history file again from the pg_wal of a server that has it; PostgreSQL asks for it at the end of recovery too."
		if q.target.timeline() == TimelineLatest {
			return hint.Wrap(fmt.Errorf("the history of timeline %d cannot be read: %w", h.Timeline, h.Err),
				"%s Without it --target-timeline current, or a number, still leads to timelines whose own history is sound.", advice)
		}
		d.warn("the history of timeline %d cannot be read: %v; %s", h.Timeline, h.Err, advice)
	}
	return nil
}

// decideType asks the rules of the target's type.
func (q *request) decideType(ctx context.Context, candidates []candidate, d *decision) error {
	switch q.target.Type {
	case TargetLatest:
		return q.decideLatest(ctx, candidates, d)
	case TargetImmediate:
		return q.decideImmediate(ctx, candidates, d)
	case TargetLSN:
		return q.decideLSN(ctx, candidates, d)
	case TargetTime:
		return q.decideTime(ctx, candidates, d)
	case TargetXID, TargetName:
		return q.decideEvent(ctx, candidates, d)
	}
	return fmt.Errorf("target type %q is unknown", q.target.Type)
}

// requireComplete refuses a backup whose own WAL has a hole: no server gets
// consistent from it.
func (q *request) requireComplete(ctx context.Context, all []candidate, c candidate) error {
	if c.complete() {
		return nil
	}
	return unreachable(q.windows(ctx, all), "backup %s needs the WAL from %s to %s, but %s is not in the archive",
		c.Label, c.reach.path.name(c.reach.First), c.reach.path.name(c.reach.path.segmentBefore(c.Stop.LSN)), c.reach.missing())
}

func (q *request) decideLatest(ctx context.Context, all []candidate, d *decision) error {
	c := all[0]
	if err := q.requireComplete(ctx, all, c); err != nil {
		return err
	}
	d.take(c, c.reach.Next-1, "the newest backup on the way to timeline %d", c.reach.path.history.Timeline)
	if c.reach.Gap {
		d.warn("%s is not in the archive, though later WAL is: recovery ends before it, at %s", c.reach.missing(), c.reach.end())
	} else if begin := c.reach.path.history.Begin(); c.reach.end() <= begin {
		d.warn("the archive holds the history of timeline %d, which begins at %s, but no WAL of it: recovery ends at %s",
			c.reach.path.history.Timeline, begin, c.reach.end())
	}
	last, err := lastCommit(ctx, q.wal, c.reach, c.Stop.LSN, lookBack)
	if ctx.Err() != nil {
		return context.Cause(ctx)
	}
	if err != nil {
		d.warn("the time of the last transaction is unknown, and recovery may stop with an error: %v", err)
	}
	d.last = last
	return nil
}

func (q *request) decideImmediate(ctx context.Context, all []candidate, d *decision) error {
	c := all[0]
	if err := q.requireComplete(ctx, all, c); err != nil {
		return err
	}
	d.take(c, c.reach.path.segmentBefore(c.Stop.LSN), "the newest backup")
	return nil
}

// decideLSN follows recoveryStopsBefore and recoveryStopsAfter: recovery ends
// at the first record that begins at the target or behind it, so there must be
// one. The record that ends the backup ends at Stop.LSN.
func (q *request) decideLSN(ctx context.Context, all []candidate, d *decision) error {
	target := q.target.LSN
	c, ok := newest(all, func(c candidate) bool { return c.endsBefore(target) })
	if !ok {
		return q.beforeFirst(ctx, all, func(c candidate) string { return c.Stop.LSN.String() })
	}
	if err := q.requireComplete(ctx, all, c); err != nil {
		return err
	}
	n := target.Segment(c.reach.path.size)
	if !c.reach.holds(n) {
		return unreachable(q.windows(ctx, all), "%s lies behind the WAL that follows backup %s: %s is not in the archive",
			q.target, c.Label, c.reach.missing())
	}
	d.take(c, n, "the newest backup that ended (at %s) before %s", c.Stop.LSN, target)
	if c.reach.holds(n + 1) {
		return nil
	}
	last, err := q.wal.events(ctx, c.reach, n, n, func(postgres.WALEvent) error { return nil })
	if err == nil && last.start < target {
		err = unreachable(q.windows(ctx, all), "the WAL that follows backup %s ends at %s, and no record begins at %s or later%s",
			c.Label, last.end, target, last.begin())
	}
	return err
}

// decideTime follows recoveryStopsBefore: recovery ends before the first
// commit or abort whose time is past the target. From version 13 on a server
// that finds none gives up ("recovery ended before configured recovery target
// was reached"), so there must be one.
func (q *request) decideTime(ctx context.Context, all []candidate, d *decision) error {
	c, ok := newest(all, func(c candidate) bool { return c.Stop.Time.Before(q.target.Time) })
	if !ok {
		return q.beforeFirst(ctx, all, func(c candidate) string { return formatTime(c.Stop.Time) })
	}
	if err := q.requireComplete(ctx, all, c); err != nil {
		return err
	}
	last, err := lastCommit(ctx, q.wal, c.reach, c.Stop.LSN, 0)
	if err != nil {
		return err
	}
	if last == nil || !q.target.passedBy(last.Time) {
		return q.afterLast(ctx, all, c, last)
	}
	stop, err := findStop(ctx, q.wal, c.reach, c.Stop.LSN, q.target.passedBy)
	if err != nil {
		return err
	}
	needed := max(c.reach.path.segmentBefore(stop.End), c.reach.path.segmentBefore(c.Stop.LSN))
	d.take(c, needed, "the newest backup that ended (at %s) before %s", formatTime(c.Stop.Time), formatTime(q.target.Time))
	d.stop, d.last = stop, last
	return nil
}

// passedBy tells whether a commit at time t ends recovery.
func (t Target) passedBy(commit time.Time) bool {
	return commit.After(t.Time) || t.Exclusive && commit.Equal(t.Time)
}

// afterLast refuses a time behind the last commit.
func (q *request) afterLast(ctx context.Context, all []candidate, c candidate, last *postgres.WALEvent) error {
	lost := c.reach.lost()
	if last == nil {
		return unreachable(q.windows(ctx, all), "the WAL that follows backup %s holds no transaction%s, so recovery could not tell when to stop",
			c.Label, lost)
	}
	return unreachable(q.windows(ctx, all), "%s is not before the last transaction in the WAL that follows backup %s, which ended at %s%s",
		q.target, c.Label, formatTime(last.Time), lost)
}

// beforeFirst refuses a target that lies before the end of every backup.
func (q *request) beforeFirst(ctx context.Context, all []candidate, end func(candidate) string) error {
	oldest := all[len(all)-1]
	return unreachable(q.windows(ctx, all), "%s lies before the end of backup %s at %s, and there is no older one on the way to it",
		q.target, oldest.Label, end(oldest))
}

// newest finds the first candidate that fits; they are ordered newest first.
func newest(all []candidate, fits func(candidate) bool) (candidate, bool) {
	for _, c := range all {
		if fits(c) {
			return c, true
		}
	}
	return candidate{}, false
}
