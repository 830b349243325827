package restore

import (
	"fmt"
	"math"
	"slices"

	"github.com/pgbak/pgbak/internal/postgres"
	"github.com/pgbak/pgbak/repo"
)

// walArchive is what the repository holds of one identity's WAL: runs of
// segments per timeline, and the timelines' histories.
type walArchive struct {
	size      int64 // bytes of a segment
	runs      map[postgres.Timeline][]repo.WALRange
	histories map[postgres.Timeline]postgres.History
}

// newWALArchive takes the identity's part out of the catalogue.
func newWALArchive(c *repo.Catalog, id repo.Identity) *walArchive {
	a := &walArchive{size: id.SegmentSize}
	a.runs, a.histories = c.OnTimelines(id.Number)
	return a
}

// runEnd is the last segment of the unbroken run that segment n belongs to.
func (a *walArchive) runEnd(tli postgres.Timeline, n uint64) (last uint64, ok bool) {
	for _, r := range a.runs[tli] {
		if r.First <= n && n <= r.Last {
			return r.Last, true
		}
	}
	return 0, false
}

// holdsBetween tells whether any segment from first to last is there.
func (a *walArchive) holdsBetween(tli postgres.Timeline, first, last uint64) bool {
	return slices.ContainsFunc(a.runs[tli], func(r repo.WALRange) bool { return r.First <= last && first <= r.Last })
}

// history gives the ancestry of a timeline. Like PostgreSQL it takes a missing
// file for a timeline without parents; known tells whether that was so.
func (a *walArchive) history(tli postgres.Timeline) (h postgres.History, known bool) {
	if h, ok := a.histories[tli]; ok {
		return h, true
	}
	return postgres.History{Timeline: tli}, tli == 1
}

// newest is what recovery_target_timeline = 'latest' finds from a backup on
// tli: PostgreSQL asks for one history file after the other and stops at the
// first that is missing (findNewestTimeLine of timeline.c).
func (a *walArchive) newest(tli postgres.Timeline) postgres.Timeline {
	for tli < math.MaxUint32 {
		if _, ok := a.histories[tli+1]; !ok {
			break
		}
		tli++
	}
	return tli
}

// beyond finds the newest timeline that descends from position lsn on tli but
// lies behind a missing history file, where PostgreSQL does not look.
func (a *walArchive) beyond(newest, tli postgres.Timeline, lsn postgres.LSN) (postgres.Timeline, bool) {
	var found postgres.Timeline
	for t, h := range a.histories {
		if t > newest && t > found && h.Contains(tli, lsn) {
			found = t
		}
	}
	return found, found != 0
}

// walPath is the way that recovery takes through the archive to one timeline.
type walPath struct {
	history postgres.History
	size    int64 // bytes of a segment
}

// start is the position of segment n's first byte.
func (p walPath) start(n uint64) postgres.LSN { return postgres.LSN(n * uint64(p.size)) }

// file is the segment that PostgreSQL asks for first where the path passes
// segment n: that of the youngest timeline which begins in it or before it
// (XLogFileReadAnyTLI of xlogrecovery.c). The segment in which a timeline
// begins starts with a copy of the old one, so nothing is missed.
func (p walPath) file(n uint64) postgres.WALFile {
	last := p.start(n) + postgres.LSN(p.size-1)
	return postgres.WALFile{Kind: postgres.WALSegment, Timeline: p.history.TimelineAt(last), Segment: n}
}

// name is the name of that file.
func (p walPath) name(n uint64) string { return p.file(n).Name(p.size) }

// lastOf is the last segment that the path takes from the timeline of segment
// n. Switch points need not ascend, see [postgres.ParseHistory].
func (p walPath) lastOf(n uint64) uint64 {
	last := p.lastSegment()
	for _, e := range p.history.Entries {
		first := e.Switch.Segment(p.size)
		if first > n && p.file(first).Timeline != p.file(n).Timeline {
			last = min(last, first-1)
		}
	}
	return last
}

// lastSegment is the highest segment number that there can be.
func (p walPath) lastSegment() uint64 { return math.MaxUint64 / uint64(p.size) }

// segmentBefore is the segment that holds the byte before lsn: the last one
// that recovery reads to reach it.
func (p walPath) segmentBefore(lsn postgres.LSN) uint64 { return (lsn - 1).Segment(p.size) }

// reach is an unbroken row of segments along a path. It is empty when First is
// missing itself; then Next equals First.
type reach struct {
	path  walPath
	First uint64
	Next  uint64 // the first segment that is missing
	// Gap tells that the archive holds segments behind Next: something was
	// lost in between. Without it Next is just what has not been written yet.
	Gap bool
}

// follow walks the archive along the path from segment first.
func (a *walArchive) follow(p walPath, first uint64) reach {
	r := reach{path: p, First: first, Next: first}
	for r.Next <= p.lastSegment() {
		last, ok := a.runEnd(p.file(r.Next).Timeline, r.Next)
		if !ok {
			break
		}
		r.Next = min(last, p.lastOf(r.Next)) + 1
	}
	for n := r.Next; n <= p.lastSegment() && !r.Gap; n = p.lastOf(n) + 1 {
		r.Gap = a.holdsBetween(p.file(n).Timeline, n, p.lastOf(n))
	}
	return r
}

// holds tells whether segment n can be read.
func (r reach) holds(n uint64) bool { return r.First <= n && n < r.Next }

// end is the first position that cannot be read.
func (r reach) end() postgres.LSN { return r.path.start(r.Next) }

// missing names the first file that is not there.
func (r reach) missing() string { return r.path.name(r.Next) }

// lost says, for the end of a sentence, that a file is missing amid the WAL;
// empty when the row ends with the archive.
func (r reach) lost() string {
	if !r.Gap {
		return ""
	}
	return fmt.Sprintf(" (%s is not in the archive, though later WAL is)", r.missing())
}

// last names the last file that is there; only when the row is not empty.
func (r reach) last() string { return r.path.name(r.Next - 1) }
