package e2e

import (
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"testing"
	"time"

	"github.com/pgbak/pgbak/internal/pgtest"
	"github.com/pgbak/pgbak/repo"
)

// damagePages flips a byte in pages of a relation's file, which the server must
// not have in its buffers.
func damagePages(t *testing.T, path string, blocks ...int64) {
	t.Helper()
	f, err := os.OpenFile(path, os.O_RDWR, 0)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	for _, block := range blocks {
		b := make([]byte, 1)
		at := block*8192 + 8000
		if _, err := f.ReadAt(b, at); err != nil {
			t.Fatal(err)
		}
		b[0] ^= 0x40
		if _, err := f.WriteAt(b, at); err != nil {
			t.Fatal(err)
		}
	}
}

// damagedHost has a small and a large table with damaged pages.
func damagedHost(t *testing.T, o pgtest.Options) (h *host, want []repo.PageError) {
	t.Helper()
	h = newHost(t, hostOptions{cluster: o})
	h.Exec(t, "CREATE TABLE small AS SELECT n, md5(n::text) FROM generate_series(1, 1000) n")
	h.Exec(t, "CREATE TABLE large AS SELECT n, md5(n::text) FROM generate_series(1, 60000) n")
	small, large := relationPath(t, h.Cluster, "small"), relationPath(t, h.Cluster, "large")
	h.Exec(t, "CHECKPOINT")
	h.Restart(t) // its buffers are empty now
	damagePages(t, filepath.Join(h.DataDir, small), 3)
	damagePages(t, filepath.Join(h.DataDir, large), 0, 17, 300)
	want = []repo.PageError{{Path: small, Blocks: []uint32{3}}, {Path: large, Blocks: []uint32{0, 17, 300}}}
	return h, want
}

func TestDamagedPagesAreReportedWithFileAndBlockAndDoNotStopTheBackup(t *testing.T) {
	t.Parallel()
	h, want := damagedHost(t, pgtest.Options{})
	taken := h.backup(t)
	sameErrors := func(where string, b backupInfo) {
		t.Helper()
		got := slices.Clone(b.PageErrors)
		slices.SortFunc(got, func(x, y repo.PageError) int { return len(x.Blocks) - len(y.Blocks) })
		for _, e := range got {
			slices.Sort(e.Blocks)
		}
		if fmt.Sprint(got) != fmt.Sprint(want) || b.ErrorCount != 4 || b.Status != "page errors" {
			t.Errorf("%s: status %s, %d errors: %v, want %v", where, b.Status, b.ErrorCount, got, want)
		}
	}
	sameErrors("result", taken.Backup)
	if len(taken.Warnings) != 2 {
		t.Errorf("warnings %q", taken.Warnings)
	}
	all := h.backups(t)
	if len(all) != 1 {
		t.Fatalf("%d backups", len(all))
	}
	sameErrors("info", all[0])
	detail := h.expect(t, codeOK, "info", "--set", string(all[0].Label)).stdout
	for _, e := range want {
		says(t, detail, e.Path, "page errors")
	}
	again := h.backup(t) // what is stored already is checked all the same
	sameErrors("the next backup", again.Backup)

	// The rest of the cluster, which may be all that is needed, can be restored;
	// the restore says what it brings along.
	into := filepath.Join(pgtest.TempDir(t), "data")
	o := h.expect(t, codeOK, "restore", "--target-dir", into, "--archive-mode", "off")
	says(t, o.stdout+o.stderr, "4 damaged pages")
	c := pgtest.Open(t, into, h.Major, nil)
	c.WaitFor(t, inRecovery, "f", time.Minute)
	if _, err := c.TryQuery("SELECT count(*) FROM small"); err == nil {
		t.Error("the damaged page came back without its damage: the test damaged nothing")
	}
}

func TestAClusterWithoutChecksumsIsBackedUpWithoutPageErrors(t *testing.T) {
	t.Parallel()
	h, _ := damagedHost(t, pgtest.Options{NoChecksums: true, Major: slices.Min(pgtest.Majors())})
	b := h.backup(t)
	if b.Backup.ErrorCount != 0 || b.Backup.Status != "ok" || len(b.Warnings) != 0 {
		t.Errorf("%+v", b)
	}
	into := filepath.Join(pgtest.TempDir(t), "data")
	h.expect(t, codeOK, "restore", "--target-dir", into)
	verifyBackup(t, into)
}

// TestPagesThatAreBeingWrittenAreNoErrors reads the files of a server that
// writes pages all the time, as its buffers hold next to nothing.
func TestPagesThatAreBeingWrittenAreNoErrors(t *testing.T) {
	t.Parallel()
	h := newHost(t, hostOptions{cluster: pgtest.Options{SegmentSizeMB: 16, Config: map[string]string{
		"shared_buffers": "1MB", "checkpoint_timeout": "30s", "max_wal_size": "64MB", "bgwriter_delay": "10ms", "bgwriter_lru_maxpages": "1000"}}})
	pgtest.Pgbench(t, h.Cluster, "-i", "-q", "-s", "5")
	w := startTraffic(t, h.Cluster, "-c", "4", "-j", "2")
	backups, before := 0, w.at
	for end := time.Now().Add(30 * time.Second); time.Now().Before(end); backups++ {
		b := h.backup(t)
		if b.Backup.ErrorCount != 0 || len(b.Warnings) != 0 {
			t.Errorf("%+v", b)
		}
		w.mustMove(t)
	}
	w.stop(t)
	if backups < 2 {
		t.Errorf("%d backups only", backups)
	}
	t.Logf("%d backups, %d transactions", backups, w.at-before)
	into := filepath.Join(pgtest.TempDir(t), "data")
	h.expect(t, codeOK, "restore", "--target-dir", into, "--archive-mode", "off", "--type", "immediate", "--target-action", "promote")
	c := pgtest.Open(t, into, h.Major, nil)
	c.WaitFor(t, inRecovery, "f", time.Minute)
	balanced(t, c)
	c.Exec(t, "CREATE EXTENSION amcheck")
	checkStructure(t, c)
}
