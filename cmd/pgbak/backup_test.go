package main

import (
	"encoding/json"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/pgbak/pgbak/internal/pgtest"
	"github.com/pgbak/pgbak/restore"
)

// TestTheCommandsTogetherBringAClusterBack goes once through everything on one
// major; what backup and restore promise in detail is tested there.
func TestTheCommandsTogetherBringAClusterBack(t *testing.T) {
	h := host(t, nil)
	h.expect(t, exitOK, "init")
	h.Exec(t, "CREATE TABLE t AS SELECT generate_series(1, 1000) n")
	if err := syscall.Mkfifo(filepath.Join(h.DataDir, "strange"), 0o600); err != nil {
		t.Fatal(err)
	}
	var taken backupResult
	o := h.expect(t, exitOK, "backup", "--output", "json", "--annotation", "why=test")
	if err := json.Unmarshal([]byte(o.stdout), &taken); err != nil {
		t.Fatal(err)
	}
	if b := taken.Backup; b.Status != "ok" || b.Files == 0 || b.DatabaseSize == 0 || b.Annotations["why"] != "test" {
		t.Errorf("backup %+v", b)
	}
	if n := strings.Count(o.stderr, "strange"); n != 1 || len(taken.Warnings) != 1 {
		t.Errorf("the warning about what is left out was logged %d times, and is one of %q:\n%s", n, taken.Warnings, o.stderr)
	}
	h.Exec(t, "INSERT INTO t SELECT generate_series(1001, 2000)")
	h.Exec(t, "SELECT pg_create_restore_point('before the mistake')")
	h.Exec(t, "DROP TABLE t")
	h.expect(t, exitOK, "check")
	contains(t, h.expect(t, exitOK, "info").stdout, string(taken.Backup.Label), "status: ok")
	contains(t, h.expect(t, exitOK, "info", "--set", string(taken.Backup.Label)).stdout, "annotation: why: test")
	h.expect(t, exitRestoreRefused, "info", "--set", "20000101-000000F")

	into := filepath.Join(h.dir, "restored")
	target := []string{"--target-dir", into, "--type", "name", "--target", "before the mistake", "--target-action", "promote", "--archive-mode", "off"}
	contains(t, h.expect(t, exitOK, append([]string{"restore", "--plan"}, target...)...).stdout, string(taken.Backup.Label))
	if _, err := os.Stat(into); err == nil {
		t.Error("restore --plan made the directory")
	}
	var restored restore.Result
	o = h.expect(t, exitOK, append([]string{"restore", "--output", "json"}, target...)...)
	if err := json.Unmarshal([]byte(o.stdout), &restored); err != nil || restored.Files == 0 {
		t.Errorf("restored %+v, %v", restored, err)
	}
	contains(t, h.expect(t, exitRestoreRefused, append([]string{"restore"}, target...)...).stderr, into, "hint: ")

	c := pgtest.Open(t, into, 17, nil)
	c.WaitFor(t, "SELECT pg_is_in_recovery()", "f", 3*time.Minute)
	if n := c.Query(t, "SELECT count(*) FROM t"); n != "2000" {
		t.Errorf("%s rows came back, want 2000", n)
	}
	c.Stop(t, "fast")
}
