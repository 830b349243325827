package e2e

import (
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/pgbak/pgbak/internal/hint"
	"github.com/pgbak/pgbak/internal/pgtest"
	"github.com/pgbak/pgbak/repo"
)

// TestADatabaseThatIsMovedDuringTheCopy: recovery could lose it, so there is no backup.
func TestADatabaseThatIsMovedDuringTheCopy(t *testing.T) {
	t.Parallel()
	h := newHost(t, hostOptions{})
	space := filepath.Join(pgtest.TempDir(t), "space")
	if err := os.Mkdir(space, 0o700); err != nil {
		t.Fatal(err)
	}
	pgtest.GiveToServer(t, space)
	h.Exec(t, "CREATE TABLESPACE elsewhere LOCATION '"+space+"'")
	h.Exec(t, "CREATE DATABASE wanders")
	st, _ := h.mustOpen(t)
	pgtest.GiveToServer(t, h.repo)
	b := h.hold(t, st, repo.Full, 100)
	h.Exec(t, "ALTER DATABASE wanders SET TABLESPACE elsewhere")
	b.goOn()
	if b.err == nil || !strings.Contains(b.err.Error(), "database wanders was moved to another tablespace during the backup") {
		t.Fatalf("error %v", b.err)
	}
	if advice := hint.Of(b.err); advice != "take the backup again; recovery of this one could lose the database." {
		t.Errorf("hint %q", advice)
	}
	pgtest.GiveToServer(t, h.repo)
	if n := len(h.backups(t)); n != 0 {
		t.Errorf("%d backups", n)
	}
	h.backup(t)
}
