package e2e

import (
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/pgbak/pgbak/internal/pgtest"
	"github.com/pgbak/pgbak/internal/s3test"
)

// disaster lets commits wait for the receiver, and in the middle of some trouble kills the primary and takes its disk.
// A repository and the receiver's directory have to bring every commit back that a client was told of; the restored
// server is the next primary.
func (c *chaos) disaster(t *testing.T) {
	t.Helper()
	old := c.primary
	c.waitForReceiver(t)
	heal := c.trouble(t)
	goal := c.journal.told(old.branch) + 20 + c.IntN(80)
	if !await(t.Context(), 2*time.Minute, func() bool { c.watchReceiver(t); return c.journal.told(old.branch) >= goal }) {
		_, said := c.receiver.service.failures()
		t.Fatalf("commits wait for the receiver\n%s\n%s", said, lastWords(old.Log(), 30))
	}
	time.Sleep(time.Duration(c.IntN(300)) * time.Millisecond) // the random moment
	if c.IntN(2) == 0 {
		c.receiver.service.stop() // before the primary: whatever it has said has to be there
	}
	old.Kill(t)
	c.receiver.service.stop()
	c.lose(t, old)
	heal()
	c.counts["primaries killed"]++
	others := c.standbys
	c.standbys = nil
	c.restoreReceived(t, old.branch)
	c.gather(t, others)
	c.counts["disasters"]++
}

// waitForReceiver makes commits wait for the receiver, and waits until it has all that was committed before.
func (c *chaos) waitForReceiver(t *testing.T) {
	t.Helper()
	n := c.primary
	follows := func(more string) func() bool {
		return func() bool {
			c.watchReceiver(t)
			rows, err := n.TryQuery("SELECT count(*) FROM pg_stat_replication WHERE application_name = 'chaos' AND state = 'streaming'" + more)
			return err == nil && rows == "1"
		}
	}
	if !await(t.Context(), 2*time.Minute, follows("")) {
		_, said := c.receiver.service.failures()
		t.Fatalf("the receiver does not stream from %s: %s\n%s", n.name, said, lastWords(n.Log(), 30))
	}
	n.Exec(t, "ALTER SYSTEM SET synchronous_standby_names = 'chaos'")
	n.Exec(t, "SELECT pg_reload_conf()")
	lsn := n.Query(t, "SELECT pg_current_wal_insert_lsn()")
	if !await(t.Context(), 2*time.Minute, follows(" AND sync_state = 'sync' AND flush_lsn >= '"+lsn+"'")) {
		t.Fatalf("commits do not wait for the receiver\n%s", lastWords(n.Log(), 30))
	}
}

// trouble is something that a receiver has to get over, and what ends it.
func (c *chaos) trouble(t *testing.T) (heal func()) {
	t.Helper()
	for range 1 + c.IntN(12) {
		c.primary.work.wanted <- struct{}{}
	}
	heal = func() {}
	switch c.IntN(5) {
	case 0:
		c.proxy.On(func(s3test.Request) s3test.Fault { return s3test.CutBefore })
		heal = func() { c.proxy.On(nil); c.proxy.Reset() }
	case 1:
		away := c.local + ".away"
		if err := os.Rename(c.local, away); err != nil {
			t.Fatal(err)
		}
		heal = func() {
			if err := os.Rename(away, c.local); err != nil {
				t.Fatal(err)
			}
		}
	case 2:
		c.receiver.service.kill()
		c.counts["archive-receive killed"]++
	case 3:
		c.primary.wire.set(wireCut)
		c.primary.wire.set(wireWhole)
		c.counts["replication connections cut"]++
	}
	return heal
}

// restoreReceived makes a primary out of a repository and of what was received, and looks for every commit.
func (c *chaos) restoreReceived(t *testing.T, last branch) {
	t.Helper()
	n := c.newNode(t)
	n.Cluster = &pgtest.Cluster{DataDir: n.data, Major: c.major}
	n.configure(t)
	n.expect(t, codeOK, "--repo", chaosRepositories[c.IntN(2)], "restore", "--target-dir", n.data, "--received", c.receiver.directory(),
		"--target-timeline", fmt.Sprint(last.timeline))
	n.Cluster = pgtest.Open(t, n.data, c.major, map[string]string{"restore_command": c.truth.getCommand()})
	n.WaitFor(t, "SELECT pg_is_in_recovery()", "f", 3*time.Minute)
	n.configure(t)
	there := map[string]bool{}
	for _, row := range strings.Fields(n.Query(t, "SELECT session, n FROM journal")) {
		there[row] = true
	}
	lost := 0
	for _, commit := range c.journal.all() {
		for _, s := range last.way() {
			if commit.told && commit.branch == s.branch && commit.after <= s.end {
				if c.counts["acknowledged commits after a disaster"]++; !there[commit.key()] {
					lost++
					t.Logf("lost: %+v", commit)
				}
			}
		}
	}
	if lost > 0 {
		t.Fatalf("%d acknowledged commits of timeline %d are lost with the server and its disk; received: %v", lost, last.timeline, filesIn(c.receiver.directory()))
	}
	c.primary = n
	n.lead(t)
	c.receive(t)
	c.counts["promotions"]++
}

// filesIn names what is in a directory.
func filesIn(dir string) (names []string) {
	found, _ := filepath.Glob(filepath.Join(dir, "*")) // the pattern is good
	for _, path := range found {
		names = append(names, filepath.Base(path))
	}
	return names
}
