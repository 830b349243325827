package restore

import (
	"cmp"
	"errors"
	"fmt"
	"math"
	"slices"

	"github.com/pgbak/pgbak/internal/hint"
	"github.com/pgbak/pgbak/internal/postgres"
	"github.com/pgbak/pgbak/repo"
)

// Branches. The newest timeline is not always the one that the work goes on
// in: a rehearsal that was promoted while it archived leaves a newer one. What
// the archive holds of the other branches tells the two apart.

// noteRival remembers a backup that was passed over because the newest
// timeline does not contain it, if it could be restored on its own timeline.
// Who names a timeline or a backup has chosen already.
func (q *request) noteRival(a *walArchive, h repo.BackupHeader, d *decision) {
	if q.set != "" || q.target.timeline() != TimelineLatest {
		return
	}
	c, err := newCandidate(a, Target{Type: TargetLatest, Timeline: TimelineCurrent}, h)
	if err == nil && c.complete() {
		d.rivals = append(d.rivals, c)
	}
}

// rivalOf is the newest of the rivals that ended after the backup c.
func (d *decision) rivalOf(c candidate) (candidate, bool) {
	var found candidate
	ok := false
	for _, r := range d.rivals {
		if r.Stop.Time.After(c.Stop.Time) && (!ok || r.Stop.Time.After(found.Stop.Time)) {
			found, ok = r, true
		}
	}
	return found, ok
}

// judgeBranches looks at what the way to the newest timeline leaves out. It
// refuses to pass over a newer backup unless the user asked for the newest
// timeline in so many words, or the target lies where the branches are still
// one.
func (q *request) judgeBranches(a *walArchive, d *decision) error {
	if q.target.timeline() != TimelineLatest {
		return nil
	}
	d.warnOfWork(a, q.recoveryEnd(d))
	rival, ok := d.rivalOf(d.candidate)
	if !ok || q.recoveryEnd(d) <= parting(d.reach.path.history, rival.reach.path.history) {
		return nil
	}
	if q.target.Timeline == TimelineLatest {
		d.warn("the newest timeline is %d, and %s on timeline %d is passed over for it",
			d.reach.path.history.Timeline, rival.describe(), rival.Timeline)
		return nil
	}
	return unreachable(branchesHint(d.candidate, rival), "it is not clear which branch is wanted: the newest timeline %d does not contain %s on timeline %d; the newest on the way to timeline %d is the older %s",
		d.reach.path.history.Timeline, rival.describe(), rival.Timeline, d.reach.path.history.Timeline, d.candidate.describe())
}

// adviseBranch adds the other branch to the hint of a refusal: the target may
// be there.
func (q *request) adviseBranch(err error, all []candidate, d *decision) error {
	rival, ok := d.rivalOf(all[0])
	if !ok || !errors.Is(err, ErrUnreachable) {
		return err
	}
	return hint.Wrap(err, "%s", hint.Of(err)+" There is another branch: "+branchesHint(all[0], rival))
}

func (c candidate) describe() string {
	return fmt.Sprintf("backup %s, which ended at %s (%s)", c.Label, formatTime(c.Stop.Time), c.Stop.LSN)
}

// branchesHint tells the branch of the newest timeline from the rival's.
func branchesHint(chosen, rival candidate) string {
	return fmt.Sprintf("choose with --target-timeline: current, or %d, is the branch of backup %s (the newest), with WAL up to %s; "+
		"%d, or latest, is the one that was begun last, at %s, with backup %s before it and WAL up to %s. "+
		"A restore that was promoted with archiving on, such as a rehearsal, begins a timeline like that.",
		rival.Timeline, rival.Label, rival.reach.last(), chosen.reach.path.history.Timeline, chosen.reach.path.history.Begin(),
		chosen.Label, chosen.reach.last())
}

// recoveryEnd is where recovery will stop, or the highest position when that is
// the end of the WAL.
func (q *request) recoveryEnd(d *decision) postgres.LSN {
	switch {
	case q.target.Type == TargetLSN:
		return q.target.LSN
	case d.stop != nil:
		return d.stop.LSN
	}
	return math.MaxUint64
}

// parting is the position up to which two ways are one.
func parting(a, b postgres.History) postgres.LSN {
	for i := 0; ; i++ {
		tliA, beginA, endA := stage(a, i)
		tliB, beginB, endB := stage(b, i)
		switch {
		case tliA != tliB:
			return min(beginA, beginB)
		case endA != endB || i >= len(a.Entries):
			return min(endA, endB)
		}
	}
}

// stage is the i-th timeline of a way, from the oldest on. Its own timeline is
// the last and has no end.
func stage(h postgres.History, i int) (tli postgres.Timeline, begin, end postgres.LSN) {
	if i > 0 && i <= len(h.Entries) {
		begin = h.Entries[i-1].Switch
	}
	if i < len(h.Entries) {
		return h.Entries[i].Timeline, begin, h.Entries[i].Switch
	}
	return h.Timeline, begin, math.MaxUint64
}

// warnOfWork warns when the archive shows that work went on in an ancestor
// after the way had left it before the position end. The segment of the switch
// point itself proves nothing: a server may archive it as it shuts down.
func (d *decision) warnOfWork(a *walArchive, end postgres.LSN) {
	for i, e := range d.reach.path.history.Entries {
		next, _, _ := stage(d.reach.path.history, i+1)
		left := e.Switch.Segment(a.size)
		runs := a.runs[e.Timeline]
		if len(runs) == 0 || e.Switch >= end {
			continue
		}
		if last := slices.MaxFunc(runs, func(x, y repo.WALRange) int { return cmp.Compare(x.Last, y.Last) }).Last; last > left {
			name := postgres.WALFile{Kind: postgres.WALSegment, Timeline: e.Timeline, Segment: last}.Name(a.size)
			d.warn("timeline %d was left for timeline %d at %s, but its WAL in the archive goes on to %s: what was done there meanwhile is not restored; --target-timeline %d follows it",
				e.Timeline, next, e.Switch, name, e.Timeline)
		}
	}
}
