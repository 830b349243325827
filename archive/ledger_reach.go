package archive

import (
	"time"

	"github.com/pgbak/pgbak/internal/postgres"
	"github.com/pgbak/pgbak/repo"
)

// Reach is how far recovery gets along a way.
type Reach struct {
	Timeline postgres.Timeline // to which it leads
	// IsConsistent tells that the WAL that the backup itself needs is there.
	IsConsistent bool
	First, Last  string // names of segments; Last is "" if the first is missing itself
	Missing      string // the first segment that is not there
	// End is where the last segment ends. IsGap tells that WAL behind it is there:
	// recovery ends because something was lost, not because the archive ends.
	End   postgres.LSN
	IsGap bool
	// Until and Time are the end of the last record, and the time of the last commit
	// before it; zero until they were read, and where there is none near the end.
	Until postgres.LSN
	Time  time.Time

	way         walWay
	first, next uint64
}

// maxReaches bounds the ways that are followed from each backup.
const maxReaches = 8

// reaches are those of all backups that can be used or looked at.
func (a *held) reaches(c *repo.Catalog, ways []wayJudge) []BackupReach {
	var out []BackupReach
	for _, b := range c.Backups {
		h := b.Header
		if b.Err != nil || b.Tombed || h.Identity.Number != a.id.Number || h.Start.LSN == 0 {
			continue
		}
		r := BackupReach{Label: b.Label, Own: a.reach(a.way(h.Timeline), h)}
		for _, w := range ways[len(ways)-min(len(ways), maxReaches):] {
			if w.history.Timeline != h.Timeline && w.history.Contains(h.Timeline, h.Stop.LSN) {
				r.Others = append(r.Others, a.reach(w.walWay, h))
			}
		}
		out = append(out, r)
	}
	return out
}

// reach follows a way from the start of a backup.
func (a *held) reach(w walWay, h repo.BackupHeader) Reach {
	first := h.Start.LSN.Segment(w.size)
	next := first
	for next <= w.lastSegment() {
		last, ok := a.runEnd(w.timelineOf(next), next)
		if !ok {
			break
		}
		next = min(last, w.lastOf(next)) + 1
	}
	name := func(n uint64) string {
		return postgres.WALFile{Kind: postgres.WALSegment, Timeline: w.timelineOf(n), Segment: n}.Name(w.size)
	}
	r := Reach{Timeline: w.history.Timeline, First: name(first), Missing: name(next), End: postgres.LSN(next * uint64(w.size)),
		way: w, first: first, next: next}
	if next > first {
		r.Last = name(next - 1)
	}
	r.IsConsistent = h.Stop.LSN > h.Start.LSN && h.Stop.LSN <= r.End
	for n := next; n <= w.lastSegment() && !r.IsGap; n = w.lastOf(n) + 1 {
		for _, run := range a.runs[w.timelineOf(n)] {
			r.IsGap = r.IsGap || run.First <= w.lastOf(n) && n <= run.Last
		}
	}
	return r
}
