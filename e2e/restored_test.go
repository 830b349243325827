package e2e

import (
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/pgbak/pgbak/internal/pgtest"
)

// restored is a new directory with a cluster that pgbak restored.
type restored struct {
	*job
	dir string // of this restore; the data directory is below it
}

func (r *restored) data() string { return filepath.Join(r.dir, "data") }

// restore restores into a new directory and looks at it before a server does.
func (j *job) restore(t *testing.T, args ...string) *restored {
	t.Helper()
	r := &restored{job: j, dir: pgtest.TempDir(t)}
	all := []string{"restore", "--target-dir", r.data(), "--tablespace-map", "elsewhere=" + filepath.Join(r.dir, "space"),
		"--link-map", "log=" + filepath.Join(r.dir, "log")}
	if j.walLinked {
		all = append(all, "--link-map", "pg_wal="+filepath.Join(r.dir, "wal"))
	}
	j.expect(t, codeOK, append(all, args...)...)
	r.look(t)
	return r
}

func (r *restored) look(t *testing.T) {
	t.Helper()
	verifyBackup(t, r.data())
	checkLeftOut(t, r.data())
	if !exists(filepath.Join(r.data(), "recovery.signal")) || !exists(filepath.Join(r.data(), "backup_label")) {
		t.Error("recovery.signal or backup_label is missing")
	}
	if text, err := os.ReadFile(filepath.Join(r.dir, "log", "old.log")); err != nil || string(text) != "a line of an old log\n" {
		t.Errorf("behind the link: %q, %v", text, err)
	}
	links := []string{"log", "pg_tblspc/*"}
	if r.walLinked {
		links = append(links, "pg_wal")
	}
	for _, pattern := range links {
		found, _ := filepath.Glob(filepath.Join(r.data(), pattern)) // fails on a bad pattern only
		if len(found) != 1 {
			t.Fatalf("%s: found %q", pattern, found)
		}
		if to, err := os.Readlink(found[0]); err != nil || !strings.HasPrefix(to, r.dir+"/") {
			t.Errorf("%s leads to %q, %v", found[0], to, err)
		}
	}
	info, err := os.Stat(filepath.Join(r.data(), r.holed))
	if err != nil {
		t.Fatal(err)
	}
	if used := info.Sys().(*syscall.Stat_t).Blocks * 512; info.Size() < 2<<20 || used > info.Size()-1<<20 {
		t.Errorf("the relation with holes has %d bytes and takes %d", info.Size(), used)
	}
}

// open starts a server on the restored directory.
func (r *restored) open(t *testing.T) *pgtest.Cluster {
	t.Helper()
	return pgtest.Open(t, r.data(), r.Major, nil)
}

// discard ends a server and its directory.
func (r *restored) discard(t *testing.T, c *pgtest.Cluster) {
	t.Helper()
	c.Stop(t, "immediate")
	if err := os.RemoveAll(r.data()); err != nil {
		t.Error(err)
	}
}

const inRecovery = "SELECT pg_is_in_recovery()"

// restoreTo restores to a target and compares what comes back.
func (j *job) restoreTo(t *testing.T, target string) {
	args, state := j.arguments(target)
	r := j.restore(t, append(args, "--archive-mode", "off")...)
	c := r.open(t)
	if !strings.Contains(strings.Join(args, " "), "promote") && len(args) > 0 {
		// PostgreSQL's own default: it pauses, so that one can look.
		c.WaitFor(t, "SELECT pg_is_wal_replay_paused()", "t", time.Minute)
		sameText(t, "what can be seen while recovery pauses", committed(t, c), state)
		c.Exec(t, "SELECT pg_wal_replay_resume()")
	}
	c.WaitFor(t, inRecovery, "f", time.Minute)
	if state == "" {
		j.checkImmediate(t, c)
	} else {
		sameText(t, "the committed state", committed(t, c), state)
	}
	if target == "latest" && j.dump != "" {
		sameText(t, "the dump", dumpAll(t, c), j.dump)
	}
	balanced(t, c)
	checkStructure(t, c)
	j.checkPeculiar(t, r, c)
	r.discard(t, c)
}

// checkImmediate knows of the backup's end only what is on both sides of it.
func (j *job) checkImmediate(t *testing.T, c *pgtest.Cluster) {
	t.Helper()
	if rows := c.Query(t, "SELECT name FROM ledger"); rows != "before the backup" {
		t.Errorf("ledger holds %q, want the row from before the backup alone", rows)
	}
	if n := c.Query(t, "SELECT count(*) FROM precious"); n != "10000" {
		t.Errorf("precious has %s rows", n)
	}
}

// checkPeculiar looks at what recovery treats in its own way.
func (j *job) checkPeculiar(t *testing.T, r *restored, c *pgtest.Cluster) {
	t.Helper()
	if n := c.Query(t, "SELECT count(*) FROM scratch"); n != "0" {
		t.Errorf("the unlogged table has %s rows", n)
	}
	if p := c.Query(t, "SELECT gid FROM pg_prepared_xacts"); p != "under way" {
		t.Errorf("prepared transactions: %q", p)
	}
	c.Exec(t, "COMMIT PREPARED 'under way'")
	if n := c.Query(t, "SELECT count(*) FROM prepared"); n != "1" {
		t.Errorf("the prepared transaction brought %s rows", n)
	}
	for _, name := range []string{"recovery.signal", "backup_label", "tablespace_map"} {
		if exists(filepath.Join(r.data(), name)) {
			t.Errorf("%s is still there after recovery", name)
		}
	}
	c.Exec(t, "INSERT INTO ledger VALUES ('life goes on')")
}
