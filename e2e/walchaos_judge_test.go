package e2e

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/pgbak/pgbak/archive"
	"github.com/pgbak/pgbak/internal/pgtest"
	"github.com/pgbak/pgbak/repo"
	"github.com/pgbak/pgbak/storage"
	"github.com/pgbak/pgbak/storage/posix"
)

// judge compares the archive with the truth.
func (c *chaos) judge(t *testing.T) {
	began := time.Now()
	step := func(what string) {
		t.Logf("judged: %s, %v", what, time.Since(began).Round(time.Millisecond))
		began = time.Now()
	}
	c.settle(t)
	for _, n := range c.nodes {
		if exists(n.data) {
			c.truth.harvest(t, n)
		}
	}
	contents := c.truth.contents(t)
	step("settled")
	c.readDropped(t, contents)
	c.checkStatuses(t, contents)
	c.checkContents(t, contents)
	step("statuses and contents")
	for _, repository := range chaosRepositories {
		c.checkRuns(t, repository, contents)
	}
	step("info")
	c.checkLedger(t, contents)
	step("ledger and check")
	c.restoreTargets(t, contents)
	step("targets")
	for _, l := range c.journal.commits {
		c.counts["commits"]++
		if !l.told {
			c.counts["commits of unknown outcome"]++
		}
	}
	c.counts["rounds"]++
}

// checkStatuses reads what archive-push and archive-get ended with.
func (c *chaos) checkStatuses(t *testing.T, contents map[string]*walContents) {
	t.Helper()
	if lies := c.truth.lies(t); lies != "" {
		t.Errorf("exit statuses that lie:\n%s", lies)
	}
	for _, line := range c.truth.log(t, "pushed") {
		c.counts["archive-push exit "+line[1]]++
	}
	for _, line := range c.truth.log(t, "fetched") {
		if len(line) != 4 {
			t.Errorf("torn line %q", line)
			continue
		}
		name, status, had, sum := line[0], line[1], line[2], line[3]
		c.counts["archive-get exit "+status]++
		if status == "1" && had == "yes" && !c.dropped[name] {
			t.Errorf("archive-get %s ended with 1 though it had been acknowledged", name)
		}
		if status != "0" {
			continue
		}
		var key [32]byte
		if n, err := hex.Decode(key[:], []byte(sum)); err != nil || n != len(key) {
			t.Errorf("archive-get %s: sum %q", name, sum)
		} else if f := contents[name]; f == nil || f.known[key] == "" {
			t.Errorf("archive-get %s ended with 0 and gave what no server had", name)
		}
	}
}

// checkContents gets every acknowledged file from each repository.
func (c *chaos) checkContents(t *testing.T, contents map[string]*walContents) {
	t.Helper()
	var names []string
	for name, f := range contents {
		if len(f.acknowledged) > 1 {
			t.Errorf("%s was acknowledged with %d contents: %v", name, len(f.acknowledged), slices.Collect(maps.Values(f.acknowledged)))
		}
		if len(f.acknowledged) > 0 {
			names = append(names, name)
		}
	}
	for _, repository := range chaosRepositories {
		stanza := c.openStanza(t, repository)
		getter, err := archive.NewGetter(archive.Source{Name: repository, Open: func(context.Context) (*repo.Stanza, []repo.Identity, error) {
			return stanza, stanza.Identities(), nil
		}})
		if err != nil {
			t.Fatal(err)
		}
		dir := t.TempDir()
		var next atomic.Int64
		var workers sync.WaitGroup
		for range 2 {
			workers.Go(func() {
				for i := next.Add(1) - 1; i < int64(len(names)); i = next.Add(1) - 1 {
					path := filepath.Join(dir, names[i])
					if _, err := getter.Get(t.Context(), names[i], path); errors.Is(err, archive.ErrAbsent) && c.dropped[names[i]] {
						continue
					} else if err != nil {
						t.Errorf("%s was acknowledged and is not in %s: %v", names[i], repository, err)
						continue
					}
					data, err := os.ReadFile(path)
					if err != nil || contents[names[i]].acknowledged[sha256.Sum256(data)] == "" {
						t.Errorf("%s in %s is not what was acknowledged (%v)", names[i], repository, err)
					}
					_ = os.Remove(path) // of a directory that goes anyway
				}
			})
		}
		workers.Wait()
		c.counts["files compared in "+repository] += len(names)
	}
	if len(names) == 0 {
		t.Error("nothing was acknowledged")
	}
	// And some as a server would.
	for range 5 {
		name := names[c.IntN(len(names))]
		if c.dropped[name] {
			continue
		}
		path := filepath.Join(c.primary.dir, "got")
		c.primary.expect(t, codeOK, "--repo", chaosRepositories[c.IntN(2)], "archive-get", name, path)
		data, err := os.ReadFile(path)
		if err != nil || contents[name].acknowledged[sha256.Sum256(data)] == "" {
			t.Errorf("archive-get %s gave something else (%v)", name, err)
		}
	}
}

// openStanza opens a repository without the proxy.
func (c *chaos) openStanza(t *testing.T, repository string) *repo.Stanza {
	t.Helper()
	var st storage.Store
	if repository == "local" {
		local, err := posix.Open(c.local)
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { _ = local.Close() })
		st = local
	} else {
		st = c.bucket.store(t)
	}
	s, err := openStanza(t.Context(), st)
	if err != nil {
		t.Fatal(err)
	}
	return s
}

// chaosRun is a run of WAL as info shows it.
type chaosRun struct {
	Timeline    uint32 `json:"timeline"`
	First, Last string
	Segments    int
}

// checkRuns compares the runs of WAL that info shows with the segments that are known: each acknowledged one is in a
// run, and nothing is in one that no server had.
func (c *chaos) checkRuns(t *testing.T, repository string, contents map[string]*walContents) {
	t.Helper()
	o := c.primary.run(t, "--repo", repository, "info", "--output", "json")
	var stanzas []struct {
		Repositories []struct {
			Identities []struct {
				WAL []chaosRun `json:"wal"`
			} `json:"identities"`
			Backups []backupInfo `json:"backups"`
		} `json:"repositories"`
	}
	if err := json.Unmarshal([]byte(o.stdout), &stanzas); err != nil || o.code != codeOK {
		t.Fatalf("info: exit %d, %v\n%s", o.code, err, o.stderr)
	}
	shown := map[string]bool{}
	r := stanzas[0].Repositories[0]
	for _, run := range r.Identities[0].WAL {
		first, last := segmentNumber(t, run.First), segmentNumber(t, run.Last)
		if last-first+1 != uint64(run.Segments) {
			t.Errorf("%s: run %+v", repository, run)
		}
		for n := first; n <= last; n++ {
			shown[segmentCalled(run.Timeline, n)] = true
		}
	}
	for name, f := range contents {
		if len(name) == 24 && len(f.acknowledged) > 0 && !shown[name] && !c.dropped[name] {
			t.Errorf("info does not show %s in %s, which was acknowledged", name, repository)
		}
	}
	var later map[string]*walContents
	for name := range shown {
		if contents[name] != nil {
			continue
		}
		if later == nil { // autovacuum can fill a segment after the clients have gone
			c.truth.harvest(t, c.primary)
			later = c.truth.contents(t)
		}
		if later[name] == nil {
			t.Errorf("info shows %s in %s, which no server had", name, repository)
		}
	}
	for name := range c.dropped {
		if !shown[name] && !c.told[repository][name] && !c.untold[name] {
			t.Errorf("%s was dropped and is not in %s, which was not told", name, repository)
		}
	}
	c.shown[repository] = shown
	c.counts["runs of WAL in info"] += len(r.Identities[0].WAL)
	for _, b := range c.backups {
		if b.repository == repository && !slices.ContainsFunc(r.Backups, func(l backupInfo) bool { return l.Label == b.Label && l.Status == "ok" }) {
			t.Errorf("backup %v succeeded and info does not say so", b)
		}
	}
}

// segmentNumber is the place of a segment of 1 MiB in WAL.
func segmentNumber(t *testing.T, name string) uint64 {
	t.Helper()
	high, err := strconv.ParseUint(name[8:16], 16, 32)
	if err != nil {
		t.Fatal(err)
	}
	low, err := strconv.ParseUint(name[16:24], 16, 32)
	if err != nil {
		t.Fatal(err)
	}
	return high<<12 | low
}

func segmentCalled(timeline uint32, number uint64) string {
	return fmt.Sprintf("%08X%08X%08X", timeline, number>>12, number&0xfff)
}

// restoreTargets restores to random moments on random timelines.
func (c *chaos) restoreTargets(t *testing.T, contents map[string]*walContents) {
	targets, refusals := c.targets, 0
	for tries := 0; targets > 0 && tries < 5000; tries++ {
		target, found := c.drawTarget()
		if !found {
			continue
		}
		switch answer := c.reachable(target, contents); {
		case answer == "no" && refusals < 3:
			refusals++
			c.primary.expect(t, codeRefused, append([]string{"--repo", target.repository, "restore", "--plan", "--target-dir", filepath.Join(c.dir, "nowhere"),
				"--target-timeline", fmt.Sprint(target.branch.timeline)}, target.flags...)...)
			c.counts["targets refused for missing WAL"]++
			continue
		case answer != "yes":
			continue
		}
		targets--
		t.Run(target.String(), func(t *testing.T) { c.restoreTo(t, target) })
	}
	if targets > 0 {
		t.Errorf("%d targets were not found", targets)
	}
}

// restoreTo restores a cluster and lets it recover; it is stopped then.
func (c *chaos) restoreTo(t *testing.T, target chaosTarget) *pgtest.Cluster {
	t.Helper()
	dir := filepath.Join(pgtest.TempDir(t), "data")
	args := append([]string{"--repo", target.repository, "restore", "--target-dir", dir, "--archive-mode", "off",
		"--target-timeline", fmt.Sprint(target.branch.timeline)}, target.flags...)
	if target.flags[0] == "--type" { // or recovery ends with the archive, and the server promotes itself
		args = append(args, "--target-action", "promote")
	}
	c.primary.expect(t, codeOK, args...)
	s := pgtest.Open(t, dir, c.major, map[string]string{"autovacuum": "off"})
	s.WaitFor(t, "SELECT pg_is_in_recovery()", "f", 3*time.Minute)
	rows := map[string]bool{}
	for _, row := range strings.Fields(s.Query(t, "SELECT session, n FROM journal")) {
		rows[row] = true
	}
	inside, wrong := 0, 0
	for _, commit := range c.journal.commits {
		has, want := rows[commit.key()], target.holds(commit)
		delete(rows, commit.key())
		switch {
		case want == "in":
			inside++
			if has {
				continue
			}
		case want == "out" && has:
		default:
			continue
		}
		if wrong++; wrong <= 5 {
			t.Errorf("row %s is %s, and that it is there is %v: %+v", commit.key(), want, has, commit)
		}
	}
	if len(rows) > 0 {
		t.Errorf("%d rows that no client wrote", len(rows))
	}
	if wrong > 0 {
		t.Errorf("%d rows are wrong of %d; the way is %+v", wrong, inside, target.branch.way())
	}
	checkStructure(t, s)
	s.Stop(t, "immediate")
	c.counts["targets restored"]++
	c.counts["commits that had to be there"] += inside
	t.Logf("%d commits", inside)
	return s
}
