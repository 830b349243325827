package main

import (
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/pgbak/pgbak/internal/hint"
	"github.com/pgbak/pgbak/internal/pgtest"
	"github.com/pgbak/pgbak/repo"
	"github.com/pgbak/pgbak/restore"
	"github.com/pgbak/pgbak/storage"
)

// TestSeveralRepositories goes through what happens when they differ and when
// one is down.
func TestSeveralRepositories(t *testing.T) {
	h := hostWith(t, configOf("  - {name: first, url: \"file://DIR/first\", compression: s2}\n", "  - {name: second, url: \"file://DIR/second\"}\n"), nil)
	h.expect(t, exitOK, "init")
	h.Exec(t, "CREATE TABLE t AS SELECT generate_series(1, 1000) n")
	backups := func(code int, args ...string) (backupResult, outcome) {
		t.Helper()
		o := h.expect(t, code, append([]string{"backup", "--output", "json"}, args...)...)
		var r backupResult
		if err := json.Unmarshal([]byte(o.stdout), &r); err != nil {
			t.Fatal(err)
		}
		return r, o
	}
	away := func(name string) (mend func()) {
		t.Helper()
		path := filepath.Join(h.dir, name)
		if err := os.Rename(path, path+".away"); err != nil {
			t.Fatal(err)
		}
		return func() {
			if err := os.Rename(path+".away", path); err != nil {
				t.Fatal(err)
			}
		}
	}
	plan := func(code int, args ...string) (planResult, outcome) {
		t.Helper()
		o := h.expect(t, code, append([]string{"restore", "--plan", "--output", "json", "--target-dir", filepath.Join(h.dir, "new")}, args...)...)
		var r planResult
		if code == exitOK {
			if err := json.Unmarshal([]byte(o.stdout), &r); err != nil {
				t.Fatal(err)
			}
		}
		return r, o
	}

	// Only the second one has a backup: restore passes the first over.
	r, _ := backups(exitOK, "--repo", "second")
	if r.Backup == nil || len(r.Backups) != 1 || r.Backups[0].Repository != "second" || r.Backups[0].Backup.Label != r.Backup.Label {
		t.Errorf("--repo second: %+v", r)
	}
	p, o := plan(exitOK)
	if p.RepositoryName != "second" {
		t.Errorf("the plan is from %s", p.RepositoryName)
	}
	contains(t, o.stderr, "level=WARN", "passed over", `repository \"first\"`, "restoring from repository second")
	_, o = plan(exitRestoreRefused, "--repo", "first")
	if strings.Contains(o.stderr, "second") {
		t.Errorf("--repo first asked the second:\n%s", o.stderr)
	}
	_, o = plan(exitRestoreRefused, "--set", "20000101-000000F")
	contains(t, o.stderr, `repository "first"`, `repository "second"`, "hint: ")

	// By default the first; with all both, by one pass.
	if r, _ = backups(exitOK); len(r.Backups) != 1 || r.Backups[0].Repository != "first" {
		t.Errorf("by default: %+v", r)
	}
	if r, _ = backups(exitOK, "--repo", "all"); len(r.Backups) != 2 || r.Backups[0].Backup == nil || r.Backups[1].Backup == nil {
		t.Fatalf("--repo all: %+v", r)
	}
	contains(t, h.expect(t, exitOK, "info").stdout, string(r.Backups[0].Backup.Label), string(r.Backups[1].Backup.Label))
	if p, _ := plan(exitOK); p.RepositoryName != "first" {
		t.Errorf("the plan is from %s", p.RepositoryName)
	}

	// One is down: the other has its backup, and can be restored from.
	h.Exec(t, "SELECT pg_create_restore_point('here')")
	h.expect(t, exitOK, "check")
	// The server archives one file after the other: what one repository does not
	// take keeps the next file from all, so it must not be asked meanwhile.
	archive := func(repository string) {
		h.Exec(t, fmt.Sprintf("ALTER SYSTEM SET archive_command = '%s --config %s --repo %s archive-push %%p'", h.program, h.config, repository))
		h.Exec(t, "SELECT pg_reload_conf()")
	}
	archive("second")
	mend := away("first")
	r, o = backups(exitRepository, "--repo", "all")
	if r.Backup == nil || len(r.Backups) != 2 || r.Backups[0].Error == "" || r.Backups[1].Backup == nil {
		t.Errorf("with the first one down: %+v", r)
	}
	contains(t, o.stderr, `repository "first"`)
	o = h.expect(t, exitRepository, "info")
	contains(t, o.stdout, "repository: first", "repository: second", string(r.Backup.Label))
	into := filepath.Join(h.dir, "restored")
	o = h.expect(t, exitOK, "restore", "--target-dir", into, "--type", "name", "--target", "here", "--target-action", "promote", "--archive-mode", "off")
	contains(t, o.stdout, "from repository second (file://")
	contains(t, o.stderr, "restore_command names this repository alone")
	c := pgtest.Open(t, into, 17, nil)
	c.WaitFor(t, "SELECT pg_is_in_recovery()", "f", 3*time.Minute)
	if n := c.Query(t, "SELECT count(*) FROM t"); n != "1000" {
		t.Errorf("%s rows came back, want 1000", n)
	}
	c.Stop(t, "fast")

	// None is there: all reasons are told.
	mendSecond := away("second")
	_, o = plan(exitRepository)
	contains(t, o.stderr, h.dir+"/first", h.dir+"/second", "hint: ")
	if o := h.expect(t, exitRepository, "backup", "--repo", "all"); o.stdout != "" {
		t.Errorf("a backup nowhere printed %s", o.stdout)
	}
	mend()
	mendSecond()
	archive("all")
	contains(t, h.expect(t, exitOK, "backup", "--repo", "all").stdout, " in repository first: ", " in repository second: ")
}

func TestTheReasonThatIsMostUsefulDecidesWhenNoRepositoryLeadsToTheTarget(t *testing.T) {
	down := hint.Wrap(&storageError{fmt.Errorf("a: %w", errors.New("timeout"))}, "look at the network.")
	unreachable := hint.Wrap(fmt.Errorf("b: %w", restore.ErrUnreachable), "use another target.")
	damaged := fmt.Errorf("c: %w", &repo.DamagedError{Key: "x", Err: errors.New("hash")})
	uninitialised := fmt.Errorf("d: %w", repo.ErrNotInitialized)
	for _, c := range []struct {
		reasons []error
		code    int
		hint    string
	}{
		{[]error{unreachable}, exitRestoreRefused, "use another target."},
		{[]error{unreachable, down}, exitStorage, "look at the network."},
		{[]error{damaged, unreachable}, exitDamaged, ""},
		{[]error{uninitialised, unreachable}, exitRestoreRefused, "use another target."},
		{[]error{uninitialised, &storageError{storage.ErrNoSpace}}, exitStorage, ""},
		{[]error{uninitialised, uninitialised}, exitRepository, ""},
	} {
		err := noSource(c.reasons)
		if got := generalCode(err); got != c.code || hint.Of(err) != c.hint {
			t.Errorf("%v: exit %d, want %d; hint %q", err, got, c.code, hint.Of(err))
		}
		for _, r := range c.reasons {
			contains(t, err.Error(), r.Error())
		}
	}
}
