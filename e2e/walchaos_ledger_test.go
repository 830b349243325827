package e2e

import (
	"encoding/json"
	"fmt"
	"maps"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/pgbak/pgbak/repo"
)

// readDropped learns from the repositories what was dropped. That it was, and that nothing
// else was, shows in the contents.
func (c *chaos) readDropped(t *testing.T, contents map[string]*walContents) {
	t.Helper()
	c.dropped, c.shown = map[string]bool{}, map[string]map[string]bool{}
	for _, repository := range chaosRepositories {
		s := c.openStanza(t, repository)
		events, err := s.WALEvents(t.Context())
		if err != nil {
			t.Fatal(err)
		}
		for _, e := range events {
			c.counts["events "+string(e.Kind)+" in "+repository]++
			if e.Kind != repo.WALDropped {
				continue
			}
			if !c.means.queueMax {
				t.Errorf("%s: %+v without queue-max", repository, e)
			}
			for n := segmentNumber(t, e.First); n <= segmentNumber(t, e.Last); n++ {
				name := segmentCalled(uint32(e.Timeline), n)
				c.dropped[name] = true
				if f := contents[name]; f == nil {
					t.Errorf("%s was dropped, which no server had", name)
				}
			}
		}
	}
	c.counts["segments dropped"] += len(c.dropped)
}

// codeAlarm is what check ends with when it finds a problem.
const codeAlarm = 9

// ledgerSays is the output of ledger about a repository's only identity (docs/json.md).
type ledgerSays struct {
	Gaps []struct {
		chaosRun
		Status  string
		Dropped bool
	}
	Conflicts []struct{ File, Status string }
	backups   []ledgerBackup
}

type ledgerBackup struct {
	Label       repo.Label
	Recoverable []struct {
		Timeline uint32
		Last     string
		LSN      string
		Time     time.Time
	}
}

func (c *chaos) ledger(t *testing.T, repository string) ledgerSays {
	t.Helper()
	// As check judges, which asks the server.
	timeline := c.primary.Query(t, "SELECT ('x' || left(pg_walfile_name(pg_current_wal_lsn()), 8))::bit(32)::int")
	o := c.primary.expect(t, codeOK, "--repo", repository, "ledger", "--full", "--timeline", timeline, "--output", "json")
	var ledger struct {
		Repositories []struct {
			Identities []ledgerSays
			Backups    []ledgerBackup
		}
	}
	if err := json.Unmarshal([]byte(o.stdout), &ledger); err != nil || len(ledger.Repositories) != 1 || len(ledger.Repositories[0].Identities) != 1 {
		t.Fatalf("ledger: %v\n%s", err, o.stdout)
	}
	says := ledger.Repositories[0].Identities[0]
	says.backups = ledger.Repositories[0].Backups
	return says
}

// checkLedger compares the ledger's gaps with those that follow from the segments
// that are shown (which were compared with the truth) and the servers' own histories.
func (c *chaos) checkLedger(t *testing.T, contents map[string]*walContents) {
	t.Helper()
	open := 0
	for _, repository := range chaosRepositories {
		ledger := c.ledger(t, repository)
		got, dropped := map[string]string{}, map[string]bool{}
		for _, g := range ledger.Gaps {
			for n := segmentNumber(t, g.First); n <= segmentNumber(t, g.Last); n++ {
				got[segmentCalled(g.Timeline, n)], dropped[segmentCalled(g.Timeline, n)] = g.Status, g.Dropped
			}
		}
		want := c.gaps(t, repository, contents)
		for name := range want {
			if got[name] == "" {
				t.Errorf("%s: the ledger does not tell that %s is missing", repository, name)
			}
			if c.dropped[name] && !dropped[name] {
				t.Errorf("%s: the ledger does not tell that %s was dropped", repository, name)
			}
		}
		for name, status := range got {
			if !want[name] {
				t.Errorf("%s: the ledger tells of the gap %s (%s), the truth does not", repository, name, status)
			}
			if status == "open" {
				open++
			}
			c.counts["segments missing, "+status]++
		}
		for _, conflict := range ledger.Conflicts {
			if conflict.Status == "open" {
				open++
			}
		}
		if t.Failed() {
			t.Logf("%s: gaps %+v, want %v", repository, ledger.Gaps, slices.Sorted(maps.Keys(want)))
		}
		c.checkConflicts(t, repository, ledger)
		c.checkReach(t, ledger)
	}
	c.checkAlarm(t, open)
}

// checkReach looks for commits that recovery brings, by the ledger's word, though they are younger than
// the youngest that it tells of.
func (c *chaos) checkReach(t *testing.T, ledger ledgerSays) {
	t.Helper()
	for _, b := range ledger.backups {
		i := slices.IndexFunc(c.backups, func(known chaosBackup) bool { return known.Label == b.Label })
		if i < 0 || len(b.Recoverable) == 0 || b.Recoverable[0].Time.IsZero() {
			continue
		}
		// The first is about the backup's own timeline.
		own, reach := c.backups[i].branch, b.Recoverable[0]
		for _, commit := range c.journal.commits {
			if commit.told && commit.branch == own && commit.after <= lsnOf(reach.LSN) && commit.from.After(reach.Time) {
				t.Errorf("from %s recovery gets to %s, and the last commit is of %v: one of %v lies before", b.Label, reach.LSN, reach.Time, commit.from)
				break
			}
		}
		c.counts["reaches compared"]++
	}
}

// checkAlarm lets check fail as long as something is open, and no longer than to the next backup.
func (c *chaos) checkAlarm(t *testing.T, open int) {
	t.Helper()
	if open == 0 {
		c.primary.expect(t, codeOK, "check")
		return
	}
	c.primary.expect(t, codeAlarm, "check", "--archive-timeout", "10s") // it waits for gaps that may be on their way
	c.backUp(t, "full")
	c.primary.expect(t, codeOK, "check")
	c.counts["alarms that a backup ended"]++
}

// gaps are the segments that are missing between the first one and the last one of each
// timeline, and from there to where the next timelines began.
func (c *chaos) gaps(t *testing.T, repository string, contents map[string]*walContents) map[string]bool {
	t.Helper()
	const segment = 1 << 20
	first, last := map[uint32]uint64{}, map[uint32]uint64{}
	see := func(timeline uint32, n uint64) {
		if old, ok := first[timeline]; !ok || n < old {
			first[timeline] = n
		}
		last[timeline] = max(last[timeline], n)
	}
	for name := range c.shown[repository] {
		var timeline uint32
		if _, err := fmt.Sscanf(name[:8], "%X", &timeline); err != nil {
			t.Fatal(err)
		}
		see(timeline, segmentNumber(t, name))
	}
	// What leads over to a timeline: its parents up to where it begins, and its own first segment.
	for name, f := range contents {
		if !strings.HasSuffix(name, ".history") || len(f.acknowledged) == 0 {
			continue
		}
		var timeline uint32
		if _, err := fmt.Sscanf(name[:8], "%X", &timeline); err != nil {
			t.Fatal(err)
		}
		b, err := readBranch(timeline, slices.Collect(maps.Values(f.acknowledged))[0])
		if err != nil {
			t.Fatal(err)
		}
		way := b.way()
		for i, s := range way[:len(way)-1] {
			from, to := s.begin/segment, s.end/segment
			if s.end <= s.begin || to == from {
				continue
			}
			if i > 0 { // of timeline 1 nobody knows where archiving began
				see(s.timeline, from)
			}
			if _, ok := first[s.timeline]; ok {
				see(s.timeline, to-1)
			}
		}
	}
	missing := map[string]bool{}
	for timeline := range first {
		for n := first[timeline]; n <= last[timeline]; n++ {
			if name := segmentCalled(timeline, n); !c.shown[repository][name] {
				missing[name] = true
			}
		}
	}
	return missing
}

// checkConflicts wants an event for each file that archive-push has refused.
func (c *chaos) checkConflicts(t *testing.T, repository string, ledger ledgerSays) {
	t.Helper()
	told := map[string]bool{}
	for _, e := range ledger.Conflicts {
		told[e.File] = true
	}
	for _, line := range c.truth.log(t, "pushed") {
		if line[1] == "10" && !told[line[0]] {
			t.Errorf("%s was refused, and the ledger of %s does not tell", line[0], repository)
		}
	}
}
