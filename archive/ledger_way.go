package archive

import (
	"cmp"
	"maps"
	"math"
	"slices"
	"sort"

	"github.com/pgbak/pgbak/internal/postgres"
	"github.com/pgbak/pgbak/repo"
)

// span are segments of one timeline, both ends included.
type span struct{ first, last uint64 }

func (s span) overlaps(o span) bool { return s.first <= o.last && o.first <= s.last }
func (s span) holds(n uint64) bool  { return s.first <= n && n <= s.last }

// joinSpans sorts spans and puts together what overlaps or touches.
func joinSpans(in []span) []span {
	sorted := slices.Clone(in)
	slices.SortFunc(sorted, func(a, b span) int { return cmp.Compare(a.first, b.first) })
	var out []span
	for _, s := range sorted {
		if n := len(out) - 1; n >= 0 && (out[n].last == math.MaxUint64 || s.first <= out[n].last+1) {
			out[n].last = max(out[n].last, s.last)
			continue
		}
		out = append(out, s)
	}
	return out
}

// subtractSpans is what of a is not in b.
func subtractSpans(a, b []span) []span {
	var out []span
	cuts := joinSpans(b)
	for _, s := range joinSpans(a) {
		isLeft := true
		for _, cut := range cuts {
			if !cut.overlaps(s) {
				continue
			}
			if cut.first > s.first {
				out = append(out, span{s.first, cut.first - 1})
			}
			if cut.last >= s.last {
				isLeft = false
				break
			}
			s.first = cut.last + 1
		}
		if isLeft {
			out = append(out, s)
		}
	}
	return out
}

// held is what the archive holds of one identity.
type held struct {
	id        repo.Identity
	runs      map[postgres.Timeline][]repo.WALRange
	histories map[postgres.Timeline]postgres.History
}

func newHeld(c *repo.Catalog, id repo.Identity) *held {
	a := &held{id: id}
	a.runs, a.histories = c.OnTimelines(id.Number)
	return a
}

// timelines are all that there is anything of, in order.
func (a *held) timelines(others ...map[postgres.Timeline][]span) []postgres.Timeline {
	all := map[postgres.Timeline]bool{}
	for tli := range a.runs {
		all[tli] = true
	}
	for tli, h := range a.histories {
		all[tli] = true
		for _, e := range h.Entries {
			all[e.Timeline] = true
		}
	}
	for _, other := range others {
		for tli := range other {
			all[tli] = true
		}
	}
	return slices.Sorted(maps.Keys(all))
}

// newest is the newest timeline that the archive knows of; 1 if none.
func (a *held) newest() postgres.Timeline {
	newest := postgres.Timeline(1)
	for tli := range a.runs {
		newest = max(newest, tli)
	}
	for tli := range a.histories {
		newest = max(newest, tli)
	}
	return newest
}

// way is how recovery gets to a timeline. Like PostgreSQL it takes a missing
// history for a timeline without parents.
func (a *held) way(tli postgres.Timeline) walWay {
	h, ok := a.histories[tli]
	if !ok {
		h = postgres.History{Timeline: tli}
	}
	return walWay{history: h, size: a.id.SegmentSize, isKnown: ok || tli == 1}
}

// missing are the segments of a timeline that are not there though they were: between
// two runs, from where the timeline began to its first, from its last to where
// another one left it, and what was given up.
func (a *held) missing(tli postgres.Timeline, given []span) []span {
	runs := a.runs[tli]
	due := slices.Clone(given)
	if len(runs) > 0 {
		due = append(due, span{runs[0].First, runs[len(runs)-1].Last})
		if h, ok := a.histories[tli]; ok && len(h.Entries) > 0 {
			due = append(due, span{min(h.Begin().Segment(a.id.SegmentSize), runs[0].First), runs[0].First})
		}
	}
	for _, h := range a.histories {
		due = append(due, a.passedOver(tli, h)...)
	}
	var there []span
	for _, r := range runs {
		there = append(there, span{r.First, r.Last})
	}
	return subtractSpans(due, there)
}

// passedOver are the segments of a timeline that lead to one that has left it.
// Where an oldest timeline began its archive is not known but from what is there.
func (a *held) passedOver(tli postgres.Timeline, h postgres.History) []span {
	w := walWay{history: h, size: a.id.SegmentSize}
	begin := postgres.LSN(0)
	for i, e := range h.Entries {
		if e.Timeline == tli {
			first, end := begin.Segment(w.size), e.Switch.Segment(w.size)
			if runs := a.runs[tli]; i == 0 && len(runs) == 0 {
				return nil
			} else if i == 0 {
				first = runs[0].First
			}
			if first < end && w.timelineOf(first) == tli {
				return []span{{first, end - 1}}
			}
			return nil
		}
		begin = e.Switch
	}
	return nil
}

// hasMoreBehind tells whether more than limit segments of the timeline are there
// behind n. It looks from the end on, so that an archive full of gaps costs no
// more than the limit for each.
func (a *held) hasMoreBehind(tli postgres.Timeline, n, limit uint64) bool {
	sum := uint64(0)
	for _, r := range slices.Backward(a.runs[tli]) {
		if r.Last <= n {
			break
		}
		if sum += r.Last - max(r.First-1, n); sum > limit {
			return true
		}
	}
	return false
}

// runEnd is the last segment of the run that holds segment n.
func (a *held) runEnd(tli postgres.Timeline, n uint64) (uint64, bool) {
	runs := a.runs[tli]
	i := sort.Search(len(runs), func(i int) bool { return runs[i].Last >= n })
	if i == len(runs) || runs[i].First > n {
		return 0, false
	}
	return runs[i].Last, true
}

// walWay is the way that recovery takes through the archive to one timeline.
type walWay struct {
	history postgres.History
	size    int64 // bytes of a segment
	isKnown bool  // the history is there, or there need be none
}

// timelineOf is the timeline of the file that PostgreSQL asks for first where
// the way passes segment n: the youngest that begins in it or before it.
func (w walWay) timelineOf(n uint64) postgres.Timeline {
	return w.history.TimelineAt(postgres.LSN(n*uint64(w.size)) + postgres.LSN(w.size-1))
}

// lastOf is the last segment that the way takes from the timeline of segment n.
func (w walWay) lastOf(n uint64) uint64 {
	last := w.lastSegment()
	for _, e := range w.history.Entries {
		first := e.Switch.Segment(w.size)
		if first > n && w.timelineOf(first) != w.timelineOf(n) {
			last = min(last, first-1)
		}
	}
	return last
}

func (w walWay) lastSegment() uint64 { return math.MaxUint64 / uint64(w.size) }

// isAside tells whether the way does not take segment n from the timeline. Without a
// history nobody knows, and nothing is put aside.
func (w walWay) isAside(tli postgres.Timeline, n uint64) bool {
	return w.isKnown && w.timelineOf(n) != tli
}

// passes tells whether the timeline is on the way.
func (w walWay) passes(tli postgres.Timeline) bool {
	return !w.isKnown || w.history.Timeline == tli || slices.ContainsFunc(w.history.Entries, func(e postgres.HistoryEntry) bool { return e.Timeline == tli })
}

// split cuts a span where the way enters or leaves the timeline.
func (w walWay) split(tli postgres.Timeline, s span) []span {
	var out []span
	for n := s.first; n <= s.last; {
		end := min(w.lastOf(n), s.last)
		if k := len(out) - 1; k >= 0 && w.isAside(tli, out[k].first) == w.isAside(tli, n) {
			out[k].last = end
		} else {
			out = append(out, span{n, end})
		}
		n = end + 1
	}
	return out
}
