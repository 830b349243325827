package archive

import (
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/pgbak/pgbak/internal/pgtest"
	"github.com/pgbak/pgbak/internal/postgres"
	"github.com/pgbak/pgbak/repo"
	"github.com/pgbak/pgbak/storage/mem"
)

// TestEverythingThatAServerWantsArchivedIsTakenAndComesBack uses the files of
// a server that wrote segments, took a backup, was promoted and wrote on: its
// archive_command fails, so that pg_wal keeps all that is ready.
func TestEverythingThatAServerWantsArchivedIsTakenAndComesBack(t *testing.T) {
	const major = 15
	archiving := map[string]string{"archive_mode": "on", "archive_command": "false", "wal_level": "replica"}
	c := pgtest.Start(t, pgtest.Options{Major: major, Config: archiving})
	c.Exec(t, "CREATE TABLE t AS SELECT generate_series(1, 100000) n")
	c.Exec(t, "SELECT pg_switch_wal()")
	backupHistory(t, c)
	c.Stop(t, "fast")
	if err := os.WriteFile(filepath.Join(c.DataDir, "standby.signal"), nil, 0o600); err != nil {
		t.Fatal(err)
	}
	pgtest.GiveToServer(t, filepath.Join(c.DataDir, "standby.signal"))
	c.Start(t)
	c.Promote(t)
	c.Exec(t, "CREATE TABLE u AS SELECT generate_series(1, 100000) n")
	c.Exec(t, "SELECT pg_switch_wal()")
	c.Stop(t, "fast")

	s := newStanza(t, mem.New(), serverIdentity(t, c.DataDir))
	kinds := map[postgres.WALKind]int{}
	wal := filepath.Join(c.DataDir, "pg_wal")
	for _, name := range readyFiles(t, wal) {
		if _, err := pushPath(t, s, filepath.Join(wal, name)); err != nil {
			t.Fatal(err)
		}
		content, err := os.ReadFile(filepath.Join(wal, name))
		if err != nil {
			t.Fatal(err)
		}
		mustHold(t, s, name, content)
		f, err := postgres.ParseWALFile(name, s.Current().SegmentSize)
		if err != nil {
			t.Fatal(err)
		}
		kinds[f.Kind]++
	}
	for _, kind := range []postgres.WALKind{postgres.WALSegment, postgres.WALPartial, postgres.WALBackup, postgres.WALHistory} {
		if kinds[kind] == 0 {
			t.Errorf("the server had no %s ready, so none was tried (%v)", kind, kinds)
		}
	}
}

// backupHistory makes the server write a .backup file, in one session as the
// functions demand.
func backupHistory(t *testing.T, c *pgtest.Cluster) {
	t.Helper()
	conn := c.Connect(t)
	for _, sql := range []string{"SELECT pg_backup_start('x', true)", "SELECT pg_backup_stop(false)"} {
		if _, err := conn.Exec(t.Context(), sql).ReadAll(); err != nil {
			t.Fatal(err)
		}
	}
}

func serverIdentity(t *testing.T, dataDir string) repo.Identity {
	t.Helper()
	data, err := os.ReadFile(filepath.Join(dataDir, "global", "pg_control"))
	if err != nil {
		t.Fatal(err)
	}
	c, err := postgres.ParseControl(data)
	if err != nil {
		t.Fatal(err)
	}
	return repo.Identity{SystemID: c.SystemID, Major: c.Major, SegmentSize: c.WALSegmentSize, BlockSize: c.BlockSize,
		CatalogVersion: c.CatalogVersion, ControlVersion: c.ControlVersion}
}

func readyFiles(t *testing.T, wal string) []string {
	t.Helper()
	entries, err := os.ReadDir(filepath.Join(wal, "archive_status"))
	if err != nil {
		t.Fatal(err)
	}
	var names []string
	for _, e := range entries {
		if name, ready := strings.CutSuffix(e.Name(), ".ready"); ready {
			names = append(names, name)
		}
	}
	return names
}
