package e2e

import (
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"testing"
	"time"

	"github.com/pgbak/pgbak/internal/pgtest"
)

// TestAParentThatACopyOfTheClusterHasTakenIsNotTrusted lets a copy of a cluster
// archive and take a backup in its place, on the same timeline. When the copy is
// gone, and its WAL was moved away, as pgbak itself advises, its backup is still
// the newest: the cluster's own WAL since then does not tell of what differs.
func TestAParentThatACopyOfTheClusterHasTakenIsNotTrusted(t *testing.T) {
	for _, major := range []int{15, 17} {
		t.Run(fmt.Sprint("PostgreSQL ", major), func(t *testing.T) {
			t.Parallel()
			o := hostOptions{encrypted: major == 15, cluster: pgtest.Options{Major: major}}
			if major == 17 {
				o.cluster.Config = map[string]string{"summarize_wal": "on"}
			}
			h := newHost(t, o)
			h.Exec(t, "CREATE EXTENSION amcheck")
			h.Exec(t, "CREATE TABLE large AS SELECT n, repeat(md5(n::text), 8) x FROM generate_series(1, 40000) n")
			h.backup(t)
			h.Stop(t, "fast")
			original, copied := h.Cluster, filepath.Join(pgtest.TempDir(t), "data")
			copyCluster(t, h.DataDir, copied)
			known := archivedWAL(t, h.repo)

			h.Cluster = pgtest.Open(t, copied, major, nil)
			h.WaitReady(t, time.Minute)
			h.reconfigure(t)
			h.Exec(t, "UPDATE large SET x = 'of the copy' WHERE n % 500 = 0")
			foreign := h.incremental(t)
			h.Stop(t, "fast")
			for name := range archivedWAL(t, h.repo) {
				if !known[name] {
					if err := os.Remove(name); err != nil {
						t.Fatal(err)
					}
				}
			}

			h.Cluster = original
			h.Start(t)
			h.reconfigure(t)
			h.Exec(t, "UPDATE large SET x = 'of the original' WHERE n % 700 = 0")
			for h.Query(t, fmt.Sprintf("SELECT pg_current_wal_lsn() > '%s'", foreign.Backup.Stop.LSN)) != "t" {
				h.Exec(t, "SELECT pg_create_restore_point('on')")
				h.Exec(t, "SELECT pg_switch_wal()")
			}
			h.provedBy(t, h.incremental(t), foreign.Backup.Label, "page-hashes", string(foreign.Backup.Label))
			h.Exec(t, "UPDATE large SET x = 'once more' WHERE n % 900 = 0")
			next := h.incremental(t)
			h.provedBy(t, next, next.Backup.Parent, next.Backup.Ways[0].Way, "")
			if next.Backup.Ways[0].Way == "page-hashes" {
				t.Errorf("the cluster's own backup is not trusted: %s", next.Backup.WayReason)
			}
		})
	}
}

// reconfigure points the configuration at the cluster.
func (h *host) reconfigure(t *testing.T) {
	t.Helper()
	encryption := ""
	if exists(filepath.Join(h.dir, "passphrase")) {
		encryption = "\n    encryption: {passphrase-file: " + filepath.Join(h.dir, "passphrase") + "}"
	}
	h.configure(t, h.DataDir, h.DSN(), encryption)
}

// copyCluster copies the files of a stopped cluster.
func copyCluster(t *testing.T, from, to string) {
	t.Helper()
	if out, err := pgtest.Command(t, "/bin/cp", "-a", from, to).CombinedOutput(); err != nil {
		t.Fatalf("%v: %s", err, out)
	}
}

// archivedWAL lists the WAL files in a repository.
func archivedWAL(t *testing.T, dir string) map[string]bool {
	t.Helper()
	names := map[string]bool{}
	err := filepath.WalkDir(filepath.Join(dir, "wal"), func(path string, d fs.DirEntry, err error) error {
		if err == nil && d.Type().IsRegular() {
			names[path] = true
		}
		return err
	})
	if err != nil || len(names) == 0 {
		t.Fatalf("%d WAL files: %v", len(names), err)
	}
	return names
}
