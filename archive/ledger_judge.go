package archive

import (
	"slices"

	"github.com/pgbak/pgbak/internal/postgres"
	"github.com/pgbak/pgbak/repo"
)

// Which timeline a server is on does not follow from what is archived: one that has
// the highest number may be of a rehearsal, a restored copy that was promoted and
// archived, while the server goes on. What is archived only tells which timelines
// the server cannot be on any more: those that another one leads over as a whole.
// A gap is judged on the way to each of the others, and the worst judgement counts.

// wayJudge is a way that the server may be on, and the backups on it.
type wayJudge struct {
	walWay
	closers []repo.BackupInfo
}

// goesOn are the timelines that no other one leads over up to their end, and the newest.
func (a *held) goesOn(given map[postgres.Timeline][]span) []postgres.Timeline {
	all := a.timelines(given)
	var out []postgres.Timeline
	for _, tli := range all {
		last, isThere := a.lastOf(tli, given[tli])
		isLedOver := slices.ContainsFunc(all, func(other postgres.Timeline) bool {
			w := a.way(other)
			return other != tli && w.isKnown && w.passes(tli) && (!isThere || w.timelineOf(last) == tli)
		})
		if tli == a.newest() || isThere && !isLedOver {
			out = append(out, tli)
		}
	}
	if len(out) == 0 {
		return []postgres.Timeline{a.newest()}
	}
	return out
}

// lastOf is the last segment of a timeline that is there, or was given up.
func (a *held) lastOf(tli postgres.Timeline, given []span) (last uint64, isThere bool) {
	for _, r := range a.runs[tli] {
		last, isThere = max(last, r.Last), true
	}
	for _, s := range given {
		last, isThere = max(last, s.last), true
	}
	return last, isThere
}

// judges are the ways to some timelines.
func (a *held) judges(c *repo.Catalog, timelines []postgres.Timeline) []wayJudge {
	var out []wayJudge
	for _, tli := range timelines {
		way := a.way(tli)
		out = append(out, wayJudge{way, a.closers(c, way)})
	}
	return out
}

// verdict is what the ways together say of a part of WAL.
type verdict struct {
	standing Standing
	closedBy repo.Label
	openOn   []postgres.Timeline
}

// judge puts together what the ways say: isAside and closer are of one of them.
// Aside is only what none takes, and closed what is closed on all that take it.
func judge(ways []wayJudge, isKnown bool, isAside func(walWay) bool, closer func(wayJudge) repo.Label) verdict {
	v := verdict{standing: Aside}
	for _, w := range ways {
		if isAside(w.walWay) {
			continue
		}
		by := closer(w)
		switch {
		case by == "" && isKnown:
			v.standing = Acknowledged
		case by == "":
			v.openOn = append(v.openOn, w.history.Timeline)
		case v.standing == Aside:
			v.standing = Closed
		}
		v.closedBy = max(v.closedBy, by) // the later one, from which on all of them are past it
	}
	if len(v.openOn) > 0 {
		v.standing = Open
	}
	if v.standing != Closed {
		v.closedBy = ""
	}
	return v
}

// splitBy cuts a span where one of the ways enters or leaves the timeline.
func splitBy(ways []wayJudge, tli postgres.Timeline, s span) []span {
	parts := []span{s}
	for _, w := range ways {
		var finer []span
		for _, p := range parts {
			finer = append(finer, w.split(tli, p)...)
		}
		parts = finer
	}
	return parts
}

// isHead tells whether the segment may only matter to a server that is on its timeline
// still, and can push it.
func isHead(ways []wayJudge, tli postgres.Timeline, n uint64) bool {
	is := false
	for _, w := range ways {
		if w.isAside(tli, n) {
			continue
		}
		if is = w.history.Timeline == tli; !is {
			return false
		}
	}
	return is
}
