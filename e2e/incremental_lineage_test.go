package e2e

import (
	"fmt"
	"path/filepath"
	"slices"
	"testing"
	"time"

	"github.com/pgbak/pgbak/internal/pgtest"
	"github.com/pgbak/pgbak/repo"
)

// TestIncrementalBackupsOverAPromotion goes on with a restored cluster: when its
// timeline leads on from the parent, only what changed is read; when it left
// before the parent was taken, everything is.
func TestIncrementalBackupsOverAPromotion(t *testing.T) {
	for _, major := range []int{16, 18} {
		t.Run(fmt.Sprint("PostgreSQL ", major), func(t *testing.T) {
			t.Parallel()
			h := newHost(t, hostOptions{cluster: pgtest.Options{Major: major}})
			h.Exec(t, "CREATE EXTENSION amcheck")
			h.Exec(t, "CREATE TABLE large AS SELECT n, repeat(md5(n::text), 8) x FROM generate_series(1, 40000) n")
			first := h.incremental(t)
			if first.Backup.Type != repo.Full || len(first.Warnings) != 1 {
				t.Errorf("%+v, warnings %q", first.Backup, first.Warnings)
			}
			says(t, fmt.Sprint(first.Warnings, first.Backup.WayReason), "no backup that an incremental backup could build on: this one is a full backup", "no backup that it could build on")
			h.Exec(t, "UPDATE large SET x = 'on the first timeline' WHERE n % 500 = 0")
			lost := h.incremental(t)
			h.Stop(t, "immediate")

			h.goOn(t, string(first.Backup.Label))
			h.Exec(t, "UPDATE large SET x = 'on the second timeline' WHERE n % 700 = 0")
			apart := h.incremental(t)
			h.provedBy(t, apart, lost.Backup.Label, "page-hashes", "is not in the history of timeline 2")

			h.Stop(t, "immediate")
			h.goOn(t, string(apart.Backup.Label))
			h.Exec(t, "UPDATE large SET x = 'on the third timeline' WHERE n % 900 = 0")
			h.provedBy(t, h.incremental(t), apart.Backup.Label, "archive-summaries", "server-summaries: ")
		})
	}
}

func (h *host) incremental(t *testing.T) taken {
	t.Helper()
	return parseTaken(t, h.expect(t, codeOK, "backup", "--type", "incr", "--output", "json"))
}

// goOn restores a backup as it was, promotes it, and lets the cluster take the
// place of the one that was.
func (h *host) goOn(t *testing.T, label string) {
	t.Helper()
	into := filepath.Join(pgtest.TempDir(t), "data")
	h.expect(t, codeOK, "restore", "--target-dir", into, "--set", label, "--type", "immediate", "--target-action", "promote")
	h.Cluster = pgtest.Open(t, into, h.Major, nil)
	h.WaitFor(t, inRecovery, "f", time.Minute)
	h.configure(t, into, h.DSN(), "")
}

// provedBy checks how the changes of a backup were found, and that it restores
// to what the cluster holds.
func (h *host) provedBy(t *testing.T, b taken, parent repo.Label, way, reason string) {
	t.Helper()
	n := slices.IndexFunc(b.Backup.Ways, func(w repo.WayUse) bool { return w.Way == way })
	if b.Backup.Parent != parent || n < 0 || b.Backup.Ways[n].Bytes < 10<<20 {
		t.Errorf("parent %s, want %s; ways %+v, want %s; %s", b.Backup.Parent, parent, b.Backup.Ways, way, b.Backup.WayReason)
	}
	says(t, b.Backup.WayReason, reason)
	want := committed(t, h.Cluster)
	into := filepath.Join(pgtest.TempDir(t), "data")
	h.expect(t, codeOK, "restore", "--target-dir", into, "--archive-mode", "off", "--set", string(b.Backup.Label), "--type", "immediate", "--target-action", "promote")
	verifyBackup(t, into)
	c := pgtest.Open(t, into, h.Major, nil)
	c.WaitFor(t, inRecovery, "f", time.Minute)
	sameText(t, "the committed state", committed(t, c), want)
	checkStructure(t, c)
	c.Stop(t, "immediate")
}

// TestDamagedPagesAreLookedAtAgain damages pages before a full backup: an
// incremental one reads their files again, whatever WAL says of them.
func TestDamagedPagesAreLookedAtAgain(t *testing.T) {
	t.Parallel()
	h, want := damagedHost(t, pgtest.Options{Major: 17, Config: map[string]string{"summarize_wal": "on"}})
	full := h.run(t, "backup", "--output", "json")
	incr := h.run(t, "backup", "--type", "incr", "--output", "json")
	for _, o := range []outcome{full, incr} {
		b := parseTaken(t, o)
		if b.Backup.Status != "page errors" || !samePageErrors(b.Backup.PageErrors, want) {
			t.Errorf("%s: %s, page errors %+v, want %+v", b.Backup.Label, b.Backup.Status, b.Backup.PageErrors, want)
		}
	}
	ways := parseTaken(t, incr).Backup.Ways
	if ways[0].Way != "server-summaries" || ways[0].Read > 1<<20 {
		t.Errorf("what is not damaged was read: %+v", ways)
	}
	for _, e := range want { // repaired outside of the server: the bits are turned back
		for _, block := range e.Blocks {
			damagePages(t, filepath.Join(h.DataDir, e.Path), int64(block))
		}
	}
	if again := h.backup(t, "--type", "incr"); again.Backup.Status != "ok" {
		t.Errorf("after the repair: %s, %+v", again.Backup.Status, again.Backup.PageErrors)
	}
}

// samePageErrors compares regardless of the order in which they were found.
func samePageErrors(a, b []repo.PageError) bool {
	sorted := func(list []repo.PageError) (all []string) {
		for _, e := range list {
			for _, block := range e.Blocks {
				all = append(all, fmt.Sprint(e.Path, " ", block))
			}
		}
		slices.Sort(all)
		return all
	}
	return slices.Equal(sorted(a), sorted(b))
}
