package e2e

import (
	"encoding/json"
	"testing"
	"time"

	"github.com/pgbak/pgbak/repo"
)

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
	Recoverable []ledgerReach
}

type ledgerReach struct {
	Timeline uint32
	Last     string
	LSN      string
	Time     time.Time
	Gap      bool
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
		for name, status := range want {
			if got[name] != status {
				t.Errorf("%s: by the ledger the gap %s is %q, by the truth %q", repository, name, got[name], status)
			}
			if c.told[repository][name] && !dropped[name] {
				t.Errorf("%s: the ledger does not tell that %s was dropped", repository, name)
			}
		}
		for name, status := range got {
			if want[name] == "" {
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
			t.Logf("%s: gaps %+v, want %v", repository, ledger.Gaps, want)
		}
		c.checkConflicts(t, repository, ledger)
		c.checkReach(t, ledger)
		c.restoreToEnd(t, repository, ledger)
	}
	c.checkAlarm(t, open)
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
