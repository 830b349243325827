package e2e

import (
	"encoding/json"
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/pgbak/pgbak/internal/s3test"
)

// chaosEvent is something that happens to the installation while clients work.
type chaosEvent struct {
	name   string
	happen func(t *testing.T)
}

func (c *chaos) events() []chaosEvent {
	events := []chaosEvent{
		{"failover, the old primary comes back", c.failover},
		{"the network to the bucket is cut", c.cut},
		{"archivers are killed", c.killPushes},
		{"the local repository goes away", c.unmount},
		{"the primary crashes", c.crash},
		{"a backup", func(t *testing.T) { c.backUp(t, []string{"full", "diff", "incr", "incr"}[c.IntN(4)]) }},
		{"a long time of work", func(t *testing.T) { c.advance(t, 20+c.IntN(30)) }},
		{"both repositories go away", c.blackout},
		{"the standby crashes", c.crashStandby},
		{"split brain", c.splitBrain},
		{"switchover", c.switchover},
		{"the network of the servers fails", c.cutServers},
		{"another standby", c.anotherStandby},
	}
	if c.means.receive {
		events = append(events, chaosEvent{"the primary and its disk are lost while commits wait for the receiver", c.disaster})
	}
	return events
}

// advance lets the primary fill so many segments, and archive as many of whatever waited.
func (c *chaos) advance(t *testing.T, segments int) {
	t.Helper()
	c.whileArchiving(t, segments, func() {})
}

// whileArchiving does something again and again while so many segments are
// filled and as many are archived.
func (c *chaos) whileArchiving(t *testing.T, segments int, do func()) {
	t.Helper()
	goal, began := c.truth.acknowledged(t)+segments, time.Now()
	c.whileFilling(t, segments, do)
	for n := 0; !await(t.Context(), 2*time.Second, func() bool { do(); return c.truth.acknowledged(t) >= goal }); n++ {
		if time.Since(began) > 2*time.Minute {
			t.Fatalf("%d of %d segments were not archived\n%s", goal-c.truth.acknowledged(t), segments, lastWords(c.primary.Log(), 30))
		}
		c.whileFilling(t, 1, do) // after three failures PostgreSQL waits for a minute, or for the next segment
	}
}

// whileFilling does something again and again until so many segments are filled, archived or not.
func (c *chaos) whileFilling(t *testing.T, segments int, do func()) {
	t.Helper()
	w := c.primary.work
	goal := w.filled.Load() + int64(segments)
	for range segments {
		w.wanted <- struct{}{}
	}
	if !await(t.Context(), 2*time.Minute, func() bool { do(); return w.filled.Load() >= goal }) {
		t.Fatalf("%d of %d segments were not filled\n%s", goal-w.filled.Load(), segments, lastWords(c.primary.Log(), 30))
	}
}

// untilRefused fills segments and, if it must be, goes on until an archive-push has failed: what is
// acknowledged in a spool ends well during an outage too.
func (c *chaos) untilRefused(t *testing.T, must bool) {
	t.Helper()
	before := c.truth.refused(t)
	c.whileFilling(t, 5+c.IntN(20), func() {})
	for began := time.Now(); must && !c.means.queueMax && time.Since(began) < 10*time.Second; c.whileFilling(t, 1, func() {}) {
		if await(t.Context(), time.Second, func() bool { return c.truth.refused(t) > before }) {
			c.counts["outages that archive-push met"]++
			return
		}
	}
}

// cut breaks the network before the bucket: wholly, or some requests in every way there is.
func (c *chaos) cut(t *testing.T) {
	t.Helper()
	whole := c.IntN(2) == 0
	faults := s3test.Faults()
	draws := make(chan s3test.Fault, 4096)
	for range cap(draws) {
		f := s3test.None
		switch {
		case whole:
			f = s3test.CutBefore
		case c.IntN(3) == 0:
			f = faults[c.IntN(len(faults)-1)] // Hang is the last one, see blackout
		}
		draws <- f
	}
	fired := 0
	c.proxy.Reset()
	c.proxy.On(func(s3test.Request) s3test.Fault {
		select {
		case f := <-draws:
			return f
		default:
			return s3test.CutBefore
		}
	})
	c.untilRefused(t, whole)
	fired = len(c.proxy.Requests())
	c.proxy.On(nil)
	c.proxy.Reset()
	c.counts["network cuts"]++
	c.counts["requests into a cut"] += fired
}

// unmount takes the local repository away for a while.
func (c *chaos) unmount(t *testing.T) {
	t.Helper()
	away := c.local + ".away"
	if err := os.Rename(c.local, away); err != nil {
		t.Fatal(err)
	}
	c.untilRefused(t, true)
	// Whoever writes into an empty mount point would be found out here.
	if err := os.Rename(away, c.local); err != nil {
		t.Fatal(err)
	}
	c.counts["outages of a directory"]++
}

// blackout takes both away: the server of the bucket takes requests and never answers.
func (c *chaos) blackout(t *testing.T) {
	t.Helper()
	c.proxy.On(func(s3test.Request) s3test.Fault { return s3test.Hang })
	c.unmount(t)
	c.proxy.On(nil)
	c.counts["requests into a cut"] += len(c.proxy.Requests())
	c.proxy.Reset()
	// What hangs would wait for its own patience; a person would not.
	if a := c.primary.agent; a != nil {
		a.kill()
	}
	c.killPushesOnce(t)
	c.counts["blackouts"]++
}

// killPushes ends archive-push with SIGKILL, most of the times that it is seen, while the primary works.
func (c *chaos) killPushes(t *testing.T) {
	t.Helper()
	c.whileArchiving(t, 10+c.IntN(20), func() {
		if c.IntN(10) == 0 {
			c.killPushesOnce(t)
		}
	})
}

// killPushesOnce ends the processes of pgbak that work for this round and archive.
func (c *chaos) killPushesOnce(t *testing.T) {
	t.Helper()
	if c.receiver != nil && c.IntN(3) == 0 {
		c.receiver.service.kill()
		c.counts["archive-receive killed"]++
	}
	if a := c.primary.agent; a != nil && c.IntN(2) == 0 {
		a.kill()
		c.counts["agents killed"]++
	}
	found, err := filepath.Glob("/proc/[0-9]*/cmdline")
	if err != nil {
		t.Fatal(err)
	}
	for _, path := range found {
		line, _ := os.ReadFile(path) // it may have ended
		words := strings.Split(string(line), "\x00")
		if len(words) < 4 || words[0] != c.program || !strings.HasPrefix(words[2], c.dir+"/") || words[3] != "archive-push" {
			continue
		}
		pid, err := strconv.Atoi(filepath.Base(filepath.Dir(path)))
		if err == nil && syscall.Kill(pid, syscall.SIGKILL) == nil {
			c.counts["archive-push killed"]++
		}
	}
}

// crash kills the primary, with its archiver, and starts it again.
func (c *chaos) crash(t *testing.T) {
	t.Helper()
	c.primary.Kill(t)
	c.primary.Start(t)
	c.counts["primaries killed"]++
}

// crashStandby kills the standby until it needs the archive, and starts it again while no repository answers.
func (c *chaos) crashStandby(t *testing.T) {
	t.Helper()
	c.ensureStandby(t)
	s := c.standbys[c.IntN(len(c.standbys))]
	s.Kill(t)
	c.advance(t, 12+c.IntN(10)) // the primary keeps less
	away := c.local + ".away"
	if err := os.Rename(c.local, away); err != nil {
		t.Fatal(err)
	}
	c.proxy.On(func(s3test.Request) s3test.Fault { return s3test.CutBefore })
	asked := len(c.truth.log(t, "fetched"))
	s.Start(t)
	if !await(t.Context(), time.Minute, func() bool { return len(c.truth.log(t, "fetched")) > asked+1 }) {
		t.Errorf("the standby %s did not ask the archive", s.name)
	}
	c.proxy.On(nil)
	if err := os.Rename(away, c.local); err != nil {
		t.Fatal(err)
	}
	c.counts["standbys killed"]++
	c.streamsAgain(t, s)
}

// chaosBackup is a backup that succeeded.
type chaosBackup struct {
	backupInfo
	repository string
	branch     branch
}

// backUp takes a backup into both repositories. In the middle of trouble it may fail, but then it says so.
func (c *chaos) backUp(t *testing.T, typ string) {
	t.Helper()
	n := c.primary
	o := n.run(t, "backup", "--type", typ, "--repo", "all", "--archive-timeout", "3m", "--output", "json")
	var result struct {
		Backups []struct {
			Repository string      `json:"repository"`
			Backup     *backupInfo `json:"backup"`
			Error      string      `json:"error"`
		} `json:"backups"`
	}
	if err := json.Unmarshal([]byte(o.stdout), &result); err != nil || o.code != codeOK {
		t.Errorf("backup --type %s: exit %d, %v\n%s%s", typ, o.code, err, o.stdout, lastWords(o.stderr, 20))
		return
	}
	for _, b := range result.Backups {
		if b.Error != "" {
			t.Errorf("backup exits 0 and says of repository %s: %s", b.Repository, b.Error)
			continue
		}
		c.backups = append(c.backups, chaosBackup{*b.Backup, b.Repository, n.branch})
		c.counts["backups "+string(b.Backup.Type)]++
		t.Logf("backup %s in %s: %s of %s, %v to %v, %+v %s", b.Backup.Label, b.Repository, b.Backup.Type, b.Backup.Parent, b.Backup.Start.LSN, b.Backup.Stop.LSN, b.Backup.Ways, b.Backup.WayReason)
	}
	if len(result.Backups) != len(chaosRepositories) {
		t.Errorf("backup into %d repositories only", len(result.Backups))
	}
}

func (b chaosBackup) String() string { return fmt.Sprintf("%s in %s", b.Label, b.repository) }
