package e2e

import (
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/pgbak/pgbak/internal/pgtest"
)

// What archive-push stores is what it is given. If that is not what the server
// wrote, because a copy of the server archives here too or a script stands
// between, the backup must notice before it calls itself one.
func TestABackupWhoseWALIsNotTheServersIsRefused(t *testing.T) {
	h := newHost(t, hostOptions{})
	h.backup(t)
	script := filepath.Join(h.dir, "archive.sh")
	h.write(t, "archive.sh", fmt.Sprintf(`#!/bin/sh
set -e
mkdir -p %[1]s/changed
cp "$1" %[1]s/changed/
printf 'X' | dd of=%[1]s/changed/$(basename "$1") bs=1 seek=100 conv=notrunc 2>/dev/null
exec %[2]s --config %[3]s archive-push %[1]s/changed/$(basename "$1")
`, h.dir, h.program, h.config))
	if err := os.Chmod(script, 0o755); err != nil {
		t.Fatal(err)
	}
	h.Exec(t, "ALTER SYSTEM SET archive_command = '"+script+" %p # pgbak archive-push'")
	h.Exec(t, "SELECT pg_reload_conf()")
	h.WaitFor(t, "SELECT current_setting('archive_command') LIKE '"+script+"%'", "t", time.Minute)
	o := h.run(t, "backup")
	if o.code == codeOK || !strings.Contains(o.stderr, "is not what this server wrote") || !strings.Contains(o.stderr, "hint:") {
		t.Errorf("exit %d\n%s", o.code, o.stderr)
	}
	if n := len(h.backups(t)); n != 1 {
		t.Errorf("%d backups are listed, want only the first", n)
	}
}

func TestABackupThatDoesNotSeeATablespaceIsRefused(t *testing.T) {
	h := newHost(t, hostOptions{})
	space := pgtest.TempDir(t)
	h.Exec(t, "CREATE TABLESPACE elsewhere LOCATION '"+space+"'")
	h.Exec(t, "CREATE TABLE there (i int) TABLESPACE elsewhere")
	h.backup(t)
	hidden := space + "-hidden"
	for name, hide := range map[string]func() error{
		"location missing": func() error { return os.Rename(space, hidden) },
		"empty mount point": func() error {
			if err := os.Rename(space, hidden); err != nil {
				return err
			}
			return os.Mkdir(space, 0o755)
		},
	} {
		if err := hide(); err != nil {
			t.Fatal(err)
		}
		o := h.run(t, "backup")
		if o.code == codeOK || !strings.Contains(o.stderr, "mounted") {
			t.Errorf("%s: exit %d\n%s", name, o.code, o.stderr)
		}
		if err := os.RemoveAll(space); err != nil {
			t.Fatal(err)
		}
		if err := os.Rename(hidden, space); err != nil {
			t.Fatal(err)
		}
	}
	if n := len(h.backups(t)); n != 1 {
		t.Errorf("%d backups are listed, want only the first", n)
	}
}
