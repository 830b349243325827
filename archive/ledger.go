package archive

import (
	"cmp"
	"slices"
	"strings"

	"github.com/pgbak/pgbak/internal/postgres"
	"github.com/pgbak/pgbak/repo"
)

// Ledger is what is known of a stanza's WAL: what is there, what is missing and
// whether that matters, what was refused, and how far recovery can get. It is
// worked out of a catalogue alone.
type Ledger struct {
	Identities []IdentityLedger // oldest first
}

// IdentityLedger is the part of one identity.
type IdentityLedger struct {
	Identity repo.Identity
	// Newest is the timeline that the server is on, or the newest that the archive
	// knows.
	Newest postgres.Timeline
	// Timelines are those that the server may be on, lowest first: gaps and conflicts
	// matter on the way to each of them.
	Timelines []postgres.Timeline
	Runs      []repo.WALRange
	Gaps      []Gap
	Conflicts []Conflict
	Foreign   []repo.WALEvent // files of other clusters that were refused
	Backups   []BackupReach   // that are not expired and can be read
	Damaged   []repo.DamagedHistory
	// NoHistory are timelines whose WAL, or whose descendants, are there without
	// their history: recovery cannot come to them from another one.
	NoHistory []postgres.Timeline
}

// Standing is whether a gap or a conflict matters.
type Standing string

// The standings.
const (
	// Open: it alarms. No recovery gets over it, and nobody has said that this is known.
	Open Standing = "open"
	// Closed: a backup was taken behind it. Only recovery from before ends there.
	Closed Standing = "closed"
	// Acknowledged: a person knows of it.
	Acknowledged Standing = "acknowledged"
	// Aside: it is on a branch that leads to no timeline that the server may be on.
	Aside Standing = "aside"
)

// Gap is a run of segments that are not there though WAL behind them, or the
// history of a timeline that began later, is.
type Gap struct {
	repo.WALRange
	Standing Standing
	// OpenOn are the timelines on whose way it is open.
	OpenOn []postgres.Timeline
	// ClosedBy is the first backup behind the gap.
	ClosedBy repo.Label
	// IsDropped tells that archive-push gave up at least a part of it, because of archive.queue-max.
	IsDropped bool
	// IsRecent tells that so little WAL is archived behind it that it can be on its
	// way: who pushes several files at once does not end in order.
	IsRecent bool
	Notes    []repo.WALEvent // acknowledgements
}

// Conflict is a file that was refused because another content has its name.
type Conflict struct {
	repo.WALEvent
	Standing Standing
	OpenOn   []postgres.Timeline
	ClosedBy repo.Label
	Notes    []repo.WALEvent
}

// BackupReach is how far recovery gets from a backup.
type BackupReach struct {
	Label repo.Label
	Own   Reach // on the backup's own timeline
	// Others are along the ways to the other timelines that the server may be on, as
	// far as they lead over the backup; lowest first, at most the newest maxReaches.
	Others []Reach
}

// recentSegments is how much WAL behind a gap makes it old: a batch of
// archive-push has at most as many.
const recentSegments = 64

// NewLedger works out the ledger. current is the timeline that the server is on, of
// the newest identity; with 0, unknown, no gap is aside that may matter to it.
func NewLedger(c *repo.Catalog, current postgres.Timeline) *Ledger {
	l := &Ledger{}
	for i, id := range c.Identities {
		on := postgres.Timeline(0)
		if i == len(c.Identities)-1 {
			on = current
		}
		l.Identities = append(l.Identities, newIdentityLedger(c, id, on))
	}
	return l
}

func newIdentityLedger(c *repo.Catalog, id repo.Identity, current postgres.Timeline) IdentityLedger {
	a := newHeld(c, id)
	l := IdentityLedger{Identity: id, Newest: cmp.Or(current, a.newest())}
	for _, tli := range a.timelines() {
		l.Runs = append(l.Runs, a.runs[tli]...)
		isDamaged := slices.ContainsFunc(c.DamagedHistories, func(d repo.DamagedHistory) bool { return d.Identity == id.Number && d.Timeline == tli })
		if _, ok := a.histories[tli]; !ok && tli > 1 && !isDamaged {
			l.NoHistory = append(l.NoHistory, tli)
		}
	}
	for _, d := range c.DamagedHistories {
		if d.Identity == id.Number {
			l.Damaged = append(l.Damaged, d)
		}
	}
	var notes []repo.WALEvent
	given := givenUp{map[postgres.Timeline][]span{}, map[postgres.Timeline][]span{}}
	for _, e := range c.Events {
		switch {
		case e.Identity != id.Number:
		case e.Kind == repo.WALGapAcknowledged:
			notes = append(notes, e)
		case e.Kind == repo.WALForeign:
			l.Foreign = append(l.Foreign, e)
		case e.Kind == repo.WALDropped || e.Kind == repo.WALNotReceived:
			if tli, s, ok := segmentsOf(id, e); ok {
				given.all[tli] = append(given.all[tli], s)
				if e.Kind == repo.WALDropped {
					given.dropped[tli] = append(given.dropped[tli], s)
				}
			}
		}
	}
	if l.Timelines = []postgres.Timeline{current}; current == 0 {
		l.Timelines = a.goesOn(given.all)
	}
	ways := a.judges(c, l.Timelines)
	l.Gaps = a.gaps(ways, given, notes)
	for _, e := range c.Events {
		if e.Identity == id.Number && (e.Kind == repo.WALConflict || e.Kind == repo.WALHistoryConflict) {
			l.Conflicts = append(l.Conflicts, judgeConflict(id, e, ways, notes))
		}
	}
	l.Backups = a.reaches(c, ways)
	return l
}

// OpenGaps are the gaps that alarm.
func (l IdentityLedger) OpenGaps() []Gap {
	var open []Gap
	for _, g := range l.Gaps {
		if g.Standing == Open {
			open = append(open, g)
		}
	}
	return open
}

// OpenConflicts are the conflicts that alarm.
func (l IdentityLedger) OpenConflicts() []Conflict {
	var open []Conflict
	for _, c := range l.Conflicts {
		if c.Standing == Open {
			open = append(open, c)
		}
	}
	return open
}

// Within gives what a person can acknowledge of a range of names: an event, without
// kind, for each gap, as far as it lies in the range, and for each conflict, of its time.
// It is not the range itself, lest what is lost later is known before.
func (l IdentityLedger) Within(first, last string) []repo.WALEvent {
	var out []repo.WALEvent
	for _, g := range l.Gaps {
		e := repo.WALEvent{First: max(first, l.Name(g.Timeline, g.First)), Last: min(last, l.Name(g.Timeline, g.Last))}
		if e.First <= e.Last {
			out = append(out, e)
		}
	}
	for _, c := range l.Conflicts {
		if first <= c.First && c.First <= last {
			out = append(out, repo.WALEvent{First: c.First, Last: c.First, Time: c.Time})
		}
	}
	return out
}

// Name is the name of a segment of the identity.
func (l IdentityLedger) Name(tli postgres.Timeline, segment uint64) string {
	return postgres.WALFile{Kind: postgres.WALSegment, Timeline: tli, Segment: segment}.Name(l.Identity.SegmentSize)
}

// givenUp is WAL, by timeline, that somebody has gone on without: what archive-push
// dropped, and all with what archive-receive did not get.
type givenUp struct{ dropped, all map[postgres.Timeline][]span }

// gaps finds what is missing on every timeline and judges it.
func (a *held) gaps(ways []wayJudge, given givenUp, notes []repo.WALEvent) []Gap {
	var out []Gap
	for _, tli := range a.timelines(given.all) {
		for _, s := range a.missing(tli, given.all[tli]) {
			// What leads on is one gap, the rest of it another.
			for _, part := range splitBy(ways, tli, s) {
				g := Gap{WALRange: repo.WALRange{Identity: a.id.Number, Timeline: tli, First: part.first, Last: part.last}}
				g.IsDropped = slices.ContainsFunc(given.dropped[tli], part.overlaps)
				g.IsRecent = isHead(ways, tli, part.first) && !a.hasMoreBehind(tli, part.last, recentSegments)
				g.Notes = notesOn(a.id, tli, part, notes)
				v := judge(ways, isCovered(a.id, part, g.Notes),
					func(w walWay) bool { return w.isAside(tli, part.first) },
					func(w wayJudge) repo.Label { return closerOf(w.closers, a.id, part.last) })
				g.Standing, g.ClosedBy, g.OpenOn = v.standing, v.closedBy, v.openOn
				out = append(out, g)
			}
		}
	}
	return out
}

// closers are the usable backups on the way, by where they begin.
func (a *held) closers(c *repo.Catalog, way walWay) []repo.BackupInfo {
	var out []repo.BackupInfo
	for _, b := range c.Backups {
		h := b.Header
		if b.Err != nil || b.Tombed || h.Identity.Number != a.id.Number || h.Start.LSN == 0 || h.Stop.LSN <= h.Start.LSN {
			continue
		}
		if way.history.Contains(h.Timeline, h.Stop.LSN) && a.reach(a.way(h.Timeline), h).IsConsistent {
			out = append(out, b)
		}
	}
	slices.SortStableFunc(out, func(x, y repo.BackupInfo) int { return cmp.Compare(x.Header.Start.LSN, y.Header.Start.LSN) })
	return out
}

// closerOf is the first backup that begins behind a segment.
func closerOf(closers []repo.BackupInfo, id repo.Identity, last uint64) repo.Label {
	for _, b := range closers {
		if b.Header.Start.LSN.Segment(id.SegmentSize) > last {
			return b.Label
		}
	}
	return ""
}

// judgeConflict says whether a conflict matters still. A backup that began later,
// and behind it, has read back its own WAL.
func judgeConflict(id repo.Identity, e repo.WALEvent, ways []wayJudge, notes []repo.WALEvent) Conflict {
	c := Conflict{WALEvent: e, Standing: Open}
	f, err := postgres.ParseWALFile(e.First, id.SegmentSize)
	if err != nil {
		return c // damaged or of a newer version: shown as it is
	}
	for _, n := range notes {
		if n.Time.Before(e.Time) {
			continue // nobody knew of this one
		}
		if tli, s, ok := segmentsOf(id, n); n.First == e.First || ok && f.Kind == postgres.WALSegment && tli == f.Timeline && s.holds(f.Segment) {
			c.Notes = append(c.Notes, n)
		}
	}
	isAside := func(w walWay) bool { return w.isAside(f.Timeline, f.Segment) }
	closer := func(w wayJudge) repo.Label {
		later := slices.DeleteFunc(slices.Clone(w.closers), func(b repo.BackupInfo) bool { return !b.Header.Start.Time.After(e.Time) })
		return closerOf(later, id, f.Segment)
	}
	if f.Kind == postgres.WALHistory {
		isAside = func(w walWay) bool { return !w.passes(f.Timeline) }
		closer = func(wayJudge) repo.Label { return "" }
	}
	v := judge(ways, len(c.Notes) > 0, isAside, closer)
	c.Standing, c.ClosedBy, c.OpenOn = v.standing, v.closedBy, v.openOn
	return c
}

// segmentsOf is the range of segments that an event is about.
func segmentsOf(id repo.Identity, e repo.WALEvent) (postgres.Timeline, span, bool) {
	first, err1 := postgres.ParseWALFile(e.First, id.SegmentSize)
	last, err2 := postgres.ParseWALFile(e.Last, id.SegmentSize)
	ok := err1 == nil && err2 == nil && first.Kind == postgres.WALSegment && last.Kind == postgres.WALSegment &&
		first.Timeline == last.Timeline && first.Segment <= last.Segment
	return first.Timeline, span{first.Segment, last.Segment}, ok
}

// notesOn are the acknowledgements of at least a part of the span.
func notesOn(id repo.Identity, tli postgres.Timeline, s span, notes []repo.WALEvent) []repo.WALEvent {
	var out []repo.WALEvent
	for _, n := range notes {
		if on, of, ok := segmentsOf(id, n); ok && on == tli && of.overlaps(s) {
			out = append(out, n)
		}
	}
	slices.SortStableFunc(out, func(x, y repo.WALEvent) int {
		return cmp.Or(x.Time.Compare(y.Time), strings.Compare(x.First, y.First))
	})
	return out
}

// isCovered tells whether the acknowledgements together are of all of the span.
func isCovered(id repo.Identity, s span, notes []repo.WALEvent) bool {
	var known []span
	for _, n := range notes {
		_, of, _ := segmentsOf(id, n)
		known = append(known, of)
	}
	return len(subtractSpans([]span{s}, known)) == 0
}
