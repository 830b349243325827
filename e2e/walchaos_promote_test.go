package e2e

import (
	"fmt"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/pgbak/pgbak/internal/pgtest"
)

// promote makes a standby the primary; the caller has the old one in its hand. Other
// standbys follow the new one, if they have not got ahead of it.
func (c *chaos) promote(t *testing.T) {
	t.Helper()
	i := c.IntN(len(c.standbys))
	s, others := c.standbys[i], slices.Delete(slices.Clone(c.standbys), i, i+1)
	c.standbys = nil
	s.Promote(t)
	s.configure(t)
	c.primary = s
	s.lead(t)
	c.receive(t)
	c.counts["promotions"]++
	c.gather(t, others)
	if c.IntN(2) == 0 {
		c.backUp(t, "incr")
	}
}

// gather leads the standbys of another primary to this one.
func (c *chaos) gather(t *testing.T, others []*chaosNode) {
	t.Helper()
	for _, n := range others {
		switch {
		case n.upstream == c.primary:
			c.standbys = append(c.standbys, n)
			c.streamsAgain(t, n)
			c.counts["cascading standbys through a promotion"]++
		case n.follow(t, c.primary):
			c.standbys = append(c.standbys, n)
			c.counts["standbys that follow another primary"]++
		default:
			t.Logf("%s cannot follow %s:\n%s", n.name, c.primary.name, lastWords(n.Log(), 3))
			c.counts["standbys that could not follow another primary"]++
			c.lose(t, n)
		}
	}
}

// follow points a server at another one, and tells whether it can follow that.
func (n *chaosNode) follow(t *testing.T, upstream *chaosNode) bool {
	t.Helper()
	// A setting of the command line cannot be changed: restart it with the new one.
	n.Stop(t, "fast")
	n.openStandby(t, upstream)
	streams := false
	await(t.Context(), 30*time.Second, func() bool {
		streams = n.streams()
		// It is ahead of the place where the other's timeline began, and says so or ends.
		return streams || !n.Running() || strings.Contains(n.Log(), "forked off") ||
			strings.Contains(n.Log(), "is not in this server's history")
	})
	return streams
}

// openStandby starts a server behind another one.
func (n *chaosNode) openStandby(t *testing.T, upstream *chaosNode) {
	t.Helper()
	n.upstream = upstream
	n.Cluster = pgtest.Open(t, n.data, n.c.major, map[string]string{
		"primary_conninfo": upstream.wire.dsn(), "restore_command": n.c.truth.getCommand(), "recovery_target_timeline": "latest",
	})
	n.configure(t)
}

// streams tells whether a standby gets WAL of the primary's timeline; that it tries to is called streaming, too.
func (n *chaosNode) streams() bool {
	rows, err := n.TryQuery(fmt.Sprintf("SELECT count(*) FROM pg_stat_wal_receiver WHERE status = 'streaming' AND received_tli = %d", n.c.primary.branch.timeline))
	return err == nil && rows == "1"
}

// stranded tells whether a standby asks for WAL that is nowhere: it was dropped, or its primary was lost with it and
// other standbys had removed it before they were promoted. Then only a new backup leads on.
func (c *chaos) stranded(s *chaosNode) bool {
	log := s.Log()
	_, after, found := strings.Cut(log[max(0, strings.LastIndex(log, "requested WAL segment ")):], "requested WAL segment ")
	if !found || len(after) < 24 || !strings.Contains(after, "has already been removed") {
		return false
	}
	acknowledged, _ := filepath.Glob(filepath.Join(c.dir, "n*", "done", after[:24])) // the pattern is good
	return c.means.queueMax || len(acknowledged) == 0
}

// streamsAgain waits until a standby has come back to its server.
func (c *chaos) streamsAgain(t *testing.T, s *chaosNode) {
	t.Helper()
	await(t.Context(), 3*time.Minute, func() bool { return s.streams() || c.stranded(s) })
	if s.streams() {
		return
	}
	if !c.stranded(s) {
		t.Fatalf("the standby %s does not stream\n%s", s.name, lastWords(s.Log(), 30))
	}
	c.counts["standbys that needed WAL that is nowhere"]++
	c.standbys = slices.DeleteFunc(c.standbys, func(n *chaosNode) bool { return n == s })
	c.lose(t, s)
	for _, n := range c.standbys {
		if n.upstream == s && !n.follow(t, c.primary) {
			t.Fatalf("the standby %s cannot follow its upstream's primary\n%s", n.name, lastWords(n.Log(), 30))
		}
	}
}

// anotherStandby makes a second standby, of the primary or of the first one; or loses one.
func (c *chaos) anotherStandby(t *testing.T) {
	t.Helper()
	c.ensureStandby(t)
	if len(c.standbys) < 2 {
		upstream := c.primary
		if c.IntN(2) == 0 {
			upstream = c.standbys[0]
			c.counts["cascading standbys"]++
		}
		c.addStandby(t, upstream)
		return
	}
	i := c.IntN(2)
	gone, left := c.standbys[i], c.standbys[1-i]
	c.standbys = []*chaosNode{left}
	c.lose(t, gone)
	if left.upstream == gone && !left.follow(t, c.primary) {
		t.Fatalf("the standby %s cannot follow its upstream's primary\n%s", left.name, lastWords(left.Log(), 30))
	}
}

// failover kills the primary and promotes the standby. The old one is lost, or
// comes back and writes on the dead timeline, with clients that believe in it.
func (c *chaos) failover(t *testing.T) {
	t.Helper()
	c.ensureStandby(t)
	old := c.primary
	old.Kill(t)
	c.counts["primaries killed"]++
	old.rest()
	c.promote(t)
	c.advance(t, 1+c.IntN(10))
	if c.IntN(2) == 0 {
		old.Start(t)
		old.toil()
		c.haunt(t, old)
	}
	c.retire(t, old)
}

// splitBrain promotes the standby while the primary lives.
func (c *chaos) splitBrain(t *testing.T) {
	t.Helper()
	c.ensureStandby(t)
	old := c.primary
	c.promote(t)
	c.haunt(t, old)
	c.retire(t, old)
	c.counts["split brains"]++
}

// switchover stops the primary as one should.
func (c *chaos) switchover(t *testing.T) {
	t.Helper()
	c.ensureStandby(t)
	old := c.primary
	old.rest()
	old.Stop(t, "fast")
	c.promote(t)
	c.retire(t, old)
	c.counts["switchovers"]++
}

// haunt lets a former primary write and archive beside the new one.
func (c *chaos) haunt(t *testing.T, old *chaosNode) {
	t.Helper()
	for range 1 + c.IntN(8) {
		old.work.wanted <- struct{}{}
	}
	before := old.work.filled.Load()
	c.advance(t, 5+c.IntN(10))
	await(t.Context(), 2*time.Minute, func() bool { return old.work.filled.Load() > before })
	if old.work.filled.Load() == before {
		t.Errorf("the former primary %s wrote nothing", old.name)
	}
	c.counts["former primaries on a dead timeline"]++
}

// retire ends a former primary: its disk is lost, or it becomes a standby by pg_rewind
// where there is one for this major.
func (c *chaos) retire(t *testing.T, old *chaosNode) {
	t.Helper()
	old.rest()
	if c.major != pgtest.ToolMajor() || c.IntN(3) == 0 {
		c.lose(t, old)
		return
	}
	if old.Running() {
		old.Stop(t, "fast") // waits until its archiver has come to an end of what it can
	} else {
		old.Start(t) // pg_rewind wants a clean end
		old.Stop(t, "fast")
	}
	c.truth.harvest(t, old)
	c.primary.Exec(t, "CHECKPOINT") // or the source's control file still has the old timeline
	out, err := pgtest.Command(t, pgtest.Tool(t, "pg_rewind"), "-D", old.data, "--source-server", c.primary.DSN(), "-c").CombinedOutput()
	if err != nil {
		t.Logf("pg_rewind: %v\n%s", err, lastWords(string(out), 10))
		c.counts["pg_rewind failed"]++
		c.lose(t, old)
		return
	}
	old.write(t, "data/standby.signal", "")
	if !old.follow(t, c.primary) {
		t.Logf("%s cannot follow after pg_rewind:\n%s", old.name, lastWords(old.Log(), 10))
		c.counts["rewound servers that could not follow"]++
		c.lose(t, old)
		return
	}
	c.standbys = append(c.standbys, old)
	c.counts["servers rewound"]++
}
