package e2e

import (
	"bytes"
	"io/fs"
	"os"
	"path/filepath"
	"regexp"
	"strconv"
	"strings"
	"testing"

	"github.com/pgbak/pgbak/internal/pgtest"
	"github.com/pgbak/pgbak/internal/postgres"
)

// verifyBackup lets the distribution's pg_verifybackup judge a restored data
// directory before a server has touched it. It may not know the version of
// the manifest, and then gets the same list in the older form.
func verifyBackup(t *testing.T, dir string) {
	t.Helper()
	data, err := os.ReadFile(filepath.Join(dir, "backup_manifest"))
	if err != nil {
		t.Fatal(err)
	}
	m, err := postgres.ParseBackupManifest(data)
	if err != nil {
		t.Fatal(err)
	}
	if len(m.Files) < 500 {
		t.Errorf("backup_manifest lists %d files only", len(m.Files))
	}
	var older bytes.Buffer
	w := postgres.NewBackupManifestWriter(&older, postgres.BackupManifestOptions{Version: 1})
	for _, f := range m.Files {
		if f.CRC32C == nil {
			t.Errorf("backup_manifest has no checksum of %s", f.Path)
		}
		if err := w.File(f); err != nil {
			t.Fatal(err)
		}
	}
	if err := w.Finish(m.WALRanges); err != nil {
		t.Fatal(err)
	}
	path := filepath.Join(pgtest.TempDir(t), "backup_manifest")
	if err := os.WriteFile(path, older.Bytes(), 0o644); err != nil {
		t.Fatal(err)
	}
	args := []string{"-n", dir}
	if m.Version > 1 && pgtest.ToolMajor() < 17 {
		args = []string{"-n", "-m", path, dir}
	}
	if out, err := pgtest.Command(t, pgtest.Tool(t, "pg_verifybackup"), args...).CombinedOutput(); err != nil {
		t.Errorf("pg_verifybackup: %v\n%s", err, out)
	}
}

// checkStructure lets amcheck judge every B-tree and, where the major can,
// every table of database postgres.
func checkStructure(t *testing.T, c *pgtest.Cluster) {
	t.Helper()
	c.Query(t, `SELECT bt_index_check(c.oid, true) FROM pg_class c JOIN pg_am a ON a.oid = c.relam JOIN pg_index i ON i.indexrelid = c.oid
		WHERE a.amname = 'btree' AND c.relkind = 'i' AND i.indisvalid AND c.relpersistence = 'p'`)
	if c.Major < 14 {
		return
	}
	if found := c.Query(t, `SELECT c.relname, v.* FROM pg_class c, verify_heapam(c.oid) v
		WHERE c.relkind IN ('r', 't', 'm') AND c.relpersistence = 'p' LIMIT 10`); found != "" {
		t.Errorf("verify_heapam: %s", found)
	}
}

// dumpAll gives the whole cluster as SQL, without what differs by design: the
// random words of newer tools and the places of tablespaces.
func dumpAll(t *testing.T, c *pgtest.Cluster) string {
	t.Helper()
	out, err := pgtest.Command(t, pgtest.Tool(t, "pg_dumpall"), "--no-unlogged-table-data",
		"-h", c.SocketDir, "-p", strconv.Itoa(c.Port), "-U", "postgres").CombinedOutput()
	if err != nil {
		t.Fatalf("pg_dumpall: %v\n%s", err, out)
	}
	var kept []string
	for _, line := range strings.Split(string(out), "\n") {
		if strings.HasPrefix(line, `\restrict`) || strings.HasPrefix(line, `\unrestrict`) || strings.HasPrefix(line, "CREATE TABLESPACE") {
			continue
		}
		kept = append(kept, line)
	}
	return strings.Join(kept, "\n")
}

// sameText compares texts line by line and shows the first difference only.
func sameText(t *testing.T, what, got, want string) {
	t.Helper()
	if got == want {
		return
	}
	g, w := strings.Split(got, "\n"), strings.Split(want, "\n")
	for i := range max(len(g), len(w)) {
		var a, b string
		if i < len(g) {
			a = g[i]
		}
		if i < len(w) {
			b = w[i]
		}
		if a != b {
			t.Errorf("%s differs in line %d of %d (want %d):\n got %s\nwant %s", what, i+1, len(g), len(w), a, b)
			return
		}
	}
}

var temporaryRelation = regexp.MustCompile(`^t\d+_\d+`)

// checkLeftOut looks for what a restored directory must not hold.
func checkLeftOut(t *testing.T, dir string) {
	t.Helper()
	err := filepath.WalkDir(dir, func(path string, e fs.DirEntry, err error) error {
		name := filepath.Base(path)
		if temporaryRelation.MatchString(name) || strings.HasPrefix(name, "pgsql_tmp") || name == "postmaster.pid" || name == "pg_internal.init" {
			t.Errorf("%s was restored", path)
		}
		return err
	})
	if err != nil {
		t.Error(err)
	}
}
