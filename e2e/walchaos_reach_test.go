package e2e

import (
	"fmt"
	"path/filepath"
	"slices"
	"testing"

	"github.com/pgbak/pgbak/internal/pgtest"
)

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

// restoreToEnd lets a cluster recover as far as there is WAL, from one backup along one way, and compares the place
// and the commits with what the ledger says of it.
func (c *chaos) restoreToEnd(t *testing.T, repository string, ledger ledgerSays) {
	t.Helper()
	var ways []chaosTarget
	find := func(says ledgerSays, of chaosTarget) uint64 {
		for _, b := range says.backups {
			for _, r := range b.Recoverable {
				if string(b.Label) == of.flags[1] && r.Timeline == of.branch.timeline {
					return lsnOf(r.LSN)
				}
			}
		}
		return 0
	}
	for _, b := range ledger.backups {
		i := slices.IndexFunc(c.backups, func(known chaosBackup) bool { return known.Label == b.Label && known.repository == repository })
		if i < 0 {
			continue
		}
		for n, r := range b.Recoverable {
			g := chaosTarget{branch: c.backups[i].branch, repository: repository, lsn: lsnOf(r.LSN), flags: []string{"--set", string(b.Label)}}
			if n > 0 {
				g.branch = c.primary.branch
			}
			if r.Timeline != g.branch.timeline {
				t.Errorf("%s: recovery from %s leads to timeline %d, want %d", repository, b.Label, r.Timeline, g.branch.timeline)
			}
			if r.Last != "" && !r.Gap && c.archivedBranch(g.branch) && uint64(c.backups[i].Stop.LSN) <= g.lsn {
				ways = append(ways, g)
			}
		}
	}
	if len(ways) == 0 {
		return
	}
	g := ways[c.IntN(len(ways))]
	s := c.restoreTo(t, g)
	end, err := endedAt(s)
	if err != nil {
		t.Fatal(err)
	}
	// The primary may archive by itself meanwhile.
	if after := find(c.ledger(t, repository), g); end < g.lsn || end > after {
		t.Errorf("%s: recovery of %s gets to %x; the ledger says %x, and %x afterwards", repository, g, end, g.lsn, after)
	}
	c.counts["ends of WAL restored"]++
}

// endedAt is the place where a server that is stopped has left its parent's timeline, by its own history.
func endedAt(s *pgtest.Cluster) (uint64, error) {
	files, err := filepath.Glob(filepath.Join(s.DataDir, "pg_wal", "*.history"))
	if err != nil || len(files) == 0 {
		return 0, fmt.Errorf("%s has no history (%v)", s.DataDir, err)
	}
	newest := slices.Max(files)
	var timeline uint32
	if _, err := fmt.Sscanf(filepath.Base(newest)[:8], "%X", &timeline); err != nil {
		return 0, err
	}
	b, err := readBranch(timeline, newest)
	if err != nil {
		return 0, err
	}
	way := b.way()
	return way[len(way)-1].begin, nil
}
