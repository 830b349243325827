package e2e

import (
	"path/filepath"
	"testing"
	"time"

	"github.com/pgbak/pgbak/internal/pgtest"
	"github.com/pgbak/pgbak/repo"
)

// TestAServerWhoseFilesAreNotReached is backed up by the program on a host that
// knows no data directory.
func TestAServerWhoseFilesAreNotReached(t *testing.T) {
	t.Parallel()
	h := newHost(t, hostOptions{encrypted: true, cluster: pgtest.Options{Config: map[string]string{"summarize_wal": "on"}}})
	h.write(t, "pgbak.yaml", "repositories:\n  - name: local\n    url: file://"+h.repo+
		"\n    encryption: {passphrase-file: "+filepath.Join(h.dir, "passphrase")+"}\nstanzas:\n  - name: main\n    connection: \""+h.DSN()+"\"\n")
	h.expect(t, codeOK, "init")
	h.expect(t, codeOK, "check")
	refused := h.expect(t, 3, "backup")
	says(t, refused.stderr, "stanza main has no pgdata", "hint: set pgdata to the data directory on this host, or use --from stream.")

	h.Exec(t, "CREATE EXTENSION amcheck")
	h.Exec(t, "CREATE TABLE t AS SELECT n, md5(n::text) x FROM generate_series(1, 100000) n")
	full := h.backup(t, "--from", "stream", "--annotation", "why=test")
	h.Exec(t, "UPDATE t SET x = 'y' WHERE n % 1000 = 0")
	incr := h.backup(t, "--from", "stream", "--type", "incr")
	if full.Backup.Source != "stream" || incr.Backup.Type != repo.Incremental || incr.Backup.Parent != full.Backup.Label || incr.Backup.AddedSize > full.Backup.AddedSize/2 {
		t.Errorf("%+v\n%+v", full.Backup, incr.Backup)
	}
	if ways := incr.Backup.Ways; len(ways) == 0 || ways[0].Way != "server-summaries" {
		t.Errorf("ways %+v, %s", ways, incr.Backup.WayReason)
	}
	into := filepath.Join(pgtest.TempDir(t), "data")
	h.expect(t, codeOK, "restore", "--target-dir", into, "--archive-mode", "off", "--type", "immediate", "--target-action", "promote")
	verifyBackup(t, into)
	c := pgtest.Open(t, into, h.Major, nil)
	c.WaitFor(t, inRecovery, "f", 2*time.Minute)
	sameText(t, "the table", c.Query(t, "SELECT count(*), sum(hashtext(x)) FROM t"), h.Query(t, "SELECT count(*), sum(hashtext(x)) FROM t"))
	checkStructure(t, c)
}
