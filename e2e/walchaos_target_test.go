package e2e

import (
	"fmt"
	"strings"
	"time"
)

// chaosTarget is where a restore is to lead. The truth about it does not come from
// pgbak: it follows from where and when the clients' commits lie.
type chaosTarget struct {
	branch     branch
	repository string
	flags      []string
	// need is a position that recovery has to read.
	need uint64
	// lsn and moment bound what is replayed; the one that does not count is noEnd or zero.
	lsn    uint64
	moment time.Time
	xid    *chaosCommit // replayed last
}

func (g chaosTarget) String() string {
	return fmt.Sprintf("%s on timeline %d from %s", strings.Join(g.flags[1:], " "), g.branch.timeline, g.repository)
}

// drawTarget draws a commit and makes a target of it; found is false if that commit does not serve.
func (c *chaos) drawTarget() (g chaosTarget, found bool) {
	commit := c.journal.commits[c.IntN(len(c.journal.commits))]
	// Each timeline has its turn, however little was done on it.
	if n := c.nodes[c.IntN(len(c.nodes))]; commit.branch != n.branch || !commit.told || commit.after == noEnd || !c.archivedBranch(commit.branch) {
		return g, false
	}
	g = chaosTarget{branch: commit.branch, repository: chaosRepositories[c.IntN(2)], need: commit.after, lsn: noEnd}
	switch c.IntN(3) {
	case 0:
		g.lsn = commit.before + c.Uint64N(commit.after-commit.before+1)
		// Recovery ends behind the first record that begins at the target or later.
		next, ok := c.laterOn(commit)
		if !ok {
			return g, false
		}
		g.need = next.after
		g.flags = []string{"--type", "lsn", "--target", fmt.Sprintf("%X/%X", g.lsn>>32, g.lsn&0xffffffff)}
	case 1:
		g.moment = commit.to.Add(time.Microsecond).Truncate(time.Microsecond).UTC()
		next, ok := c.laterOn(commit) // recovery ends at the first commit after the moment
		if !ok {
			return g, false
		}
		g.need = next.after
		g.flags = []string{"--type", "time", "--target", g.moment.Format("2006-01-02 15:04:05.000000") + "+00"}
	default:
		g.xid = &commit
		g.flags = []string{"--type", "xid", "--target", commit.xid}
	}
	return g, true
}

// laterOn finds a commit that was begun on the branch some time after another.
func (c *chaos) laterOn(commit chaosCommit) (chaosCommit, bool) {
	for _, l := range c.journal.commits {
		if l.told && l.after != noEnd && l.branch == commit.branch && l.before > commit.after && l.from.After(commit.to.Add(time.Millisecond)) {
			return l, true
		}
	}
	return chaosCommit{}, false
}

// archivedBranch tells whether the branch is the one that has its timeline's number: the latest primary's way is.
func (c *chaos) archivedBranch(b branch) bool {
	for _, n := range c.nodes {
		if n.branch.timeline == b.timeline && n.branch != b {
			return false
		}
	}
	return true
}

// holds says whether the restored cluster must hold a row ("in"), must not ("out"), or may ("").
func (g chaosTarget) holds(commit chaosCommit) string {
	in := commit.told
	var on *stretch
	for _, s := range g.branch.way() {
		if s.branch == commit.branch {
			on = &s
			break
		}
	}
	if on == nil || commit.before >= on.end {
		return "out"
	}
	in = in && commit.after <= on.end
	switch {
	case g.xid != nil:
		if commit.key() == g.xid.key() {
			return "in"
		}
		if commit.branch == g.branch && commit.before >= g.xid.after {
			return "out"
		}
		in = in && (commit.branch != g.branch || commit.after <= g.xid.before)
	case g.lsn != noEnd:
		if commit.before >= g.lsn {
			return "out"
		}
		in = in && commit.after <= g.lsn
	default:
		if commit.from.After(g.moment) {
			return "out"
		}
		in = in && commit.to.Before(g.moment)
	}
	if in {
		return "in"
	}
	return ""
}

// reachable says what the truth thinks of a target: "yes" if each segment on the
// way from a backup was acknowledged, "no" if one was never seen, else "".
func (c *chaos) reachable(g chaosTarget, contents map[string]*walContents) string {
	answer := "no"
	way := g.branch.way()
	for _, b := range c.backups {
		if b.repository != g.repository {
			continue
		}
		on := -1
		for i, s := range way {
			// A time may lie before the end of a backup though its position does not; then the backup does not serve.
			if s.branch == b.branch && uint64(b.Stop.LSN) <= min(s.end, g.need, g.lsn) && (g.moment.IsZero() || b.Stop.Time.Before(g.moment.Add(-time.Second))) &&
				(g.xid == nil || uint64(b.Stop.LSN) <= g.xid.before) {
				on = i
			}
		}
		if on < 0 {
			continue
		}
		switch c.walOn(way, uint64(b.Start.LSN), g.need, c.shown[g.repository], contents) {
		case "yes":
			return "yes"
		case "":
			answer = ""
		}
	}
	return answer
}

// walOn looks for each segment between two positions: on the youngest timeline that had begun by then, as PostgreSQL does.
func (c *chaos) walOn(way []stretch, from, to uint64, shown map[string]bool, contents map[string]*walContents) string {
	const segment = 1 << 20
	answer := "yes"
	for n := from / segment; n <= to/segment; n++ {
		timeline := timelineAt(way, n)
		name := segmentCalled(timeline, n)
		f := contents[name]
		switch {
		case f == nil || c.dropped[name] && !shown[name]:
			if timeline == way[len(way)-1].timeline {
				return "no"
			}
			answer = "" // the child's segment may hold what is needed of the parent's last one
		case len(f.acknowledged) == 0:
			answer = ""
		}
	}
	return answer
}

// timelineAt is the timeline on which PostgreSQL looks for a segment first: the youngest that had begun by its end.
func timelineAt(way []stretch, n uint64) (timeline uint32) {
	const segment = 1 << 20
	for _, s := range way {
		if s.begin/segment <= n {
			timeline = s.timeline
		}
	}
	return timeline
}
