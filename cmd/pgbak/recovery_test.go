package main

import (
	"fmt"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/pgbak/pgbak/internal/pgtest"
	"github.com/pgbak/pgbak/internal/postgres"
)

// archived is a cluster whose WAL is in a repository, and a copy of it from
// before most of that WAL was written.
type archived struct {
	major          int
	dir            string // holds all that follows, belongs to the server user
	repository     string
	copy           string
	restoreCommand string
	spool          string // "" is none
	rows           string
}

// withSpool lets archive-get fetch ahead, and say so in the server's log.
func (a *archived) withSpool(t *testing.T) *archived {
	t.Helper()
	ahead := *a
	ahead.spool = filepath.Join(a.dir, "spool")
	if err := os.Mkdir(ahead.spool, 0o700); err != nil {
		t.Fatal(err)
	}
	pgtest.GiveToServer(t, ahead.spool)
	text, err := os.ReadFile(filepath.Join(a.dir, "pgbak.yaml"))
	if err != nil {
		t.Fatal(err)
	}
	config := filepath.Join(a.dir, "ahead.yaml")
	if err := os.WriteFile(config, fmt.Appendf(text, "archive: {spool: %s, prefetch: 4MiB}\n", ahead.spool), 0o644); err != nil {
		t.Fatal(err)
	}
	ahead.restoreCommand = strings.Replace(a.restoreCommand, "pgbak.yaml", "ahead.yaml --log-level debug", 1)
	return &ahead
}

// newArchived makes a cluster, copies it while it is shut down, and lets it write
// and archive ten segments more.
func newArchived(t *testing.T, major int) *archived {
	t.Helper()
	return newArchivedBy(t, major, "%[1]s --config %[2]s/pgbak.yaml archive-push %%p", func(string) {})
}

// newArchivedBy is newArchived with another archive_command, a format for the program and the
// directory; ready is called with the directory when the configuration is there.
func newArchivedBy(t *testing.T, major int, push string, ready func(dir string)) *archived {
	t.Helper()
	dir := pgtest.TempDir(t)
	program := pgtest.BuildPgbak(t)
	a := &archived{major: major, dir: dir, repository: filepath.Join(dir, "repo"), copy: filepath.Join(dir, "copy")}
	config := filepath.Join(dir, "pgbak.yaml")
	a.restoreCommand = fmt.Sprintf(`%s --config %s archive-get %%f "%%p"`, program, config)
	c := pgtest.Start(t, pgtest.Options{Major: major, SegmentSizeMB: 1, Dir: filepath.Join(dir, "data"),
		Config: map[string]string{"archive_mode": "on", "archive_command": fmt.Sprintf(push, program, dir), "wal_level": "replica"}})
	text := strings.ReplaceAll(strings.Replace(plainConfig, "host=DIR/nowhere user=postgres dbname=postgres", c.DSN(), 1), "DIR", dir)
	if err := os.WriteFile(config, []byte(text), 0o644); err != nil {
		t.Fatal(err)
	}
	ready(dir)
	asServer(t, program, "--config", config, "init")
	asServer(t, program, "--config", config, "check")
	c.Stop(t, "fast")
	a.copyTo(t, c.DataDir, a.copy)
	c.Start(t)
	c.Exec(t, "CREATE TABLE t AS SELECT n, repeat('x', 100) FROM generate_series(1, 60000) n")
	c.Exec(t, "SELECT pg_switch_wal()")
	a.rows = c.Query(t, "SELECT count(*) FROM t")
	c.Stop(t, "fast")
	return a
}

// asServer runs a program as the server user.
func asServer(t *testing.T, path string, args ...string) {
	t.Helper()
	if out, err := pgtest.Command(t, path, args...).CombinedOutput(); err != nil {
		t.Fatalf("%s %s: %v\n%s", path, strings.Join(args, " "), err, out)
	}
}

func (a *archived) copyTo(t *testing.T, from, to string) {
	t.Helper()
	if out, err := exec.Command("cp", "-a", from, to).CombinedOutput(); err != nil {
		t.Fatalf("copy the cluster: %v\n%s", err, out)
	}
}

// recover starts a server on a new copy with the signal file.
func (a *archived) recover(t *testing.T, signal string) *pgtest.Cluster {
	t.Helper()
	data := filepath.Join(a.dir, fmt.Sprintf("restored-%d", time.Now().UnixNano()))
	a.copyTo(t, a.copy, data)
	path := filepath.Join(data, signal)
	if err := os.WriteFile(path, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	pgtest.GiveToServer(t, path)
	return a.open(t, data)
}

func (a *archived) open(t *testing.T, data string) *pgtest.Cluster {
	t.Helper()
	return pgtest.Open(t, data, a.major, map[string]string{
		"restore_command": a.restoreCommand, "archive_mode": "off", "wal_retrieve_retry_interval": "100ms", "hot_standby": "on"})
}

// breakStorage moves the repository away; the result puts it back.
func (a *archived) breakStorage(t *testing.T) (mend func()) {
	t.Helper()
	away := a.repository + ".away"
	rename := func(from, to string) {
		if err := os.Rename(from, to); err != nil {
			t.Fatal(err)
		}
	}
	rename(a.repository, away)
	return func() { rename(away, a.repository) }
}

// damageWAL flips a byte in the third last segment that was archived; the
// result mends it.
func (a *archived) damageWAL(t *testing.T) (mend func()) {
	t.Helper()
	var segments []string
	err := filepath.WalkDir(filepath.Join(a.repository, "wal"), func(path string, e fs.DirEntry, err error) error {
		if err == nil && e.Type().IsRegular() && len(e.Name()) == 24 {
			segments = append(segments, path)
		}
		return err
	})
	if err != nil || len(segments) < 5 {
		t.Fatalf("%d segments are archived, %v", len(segments), err)
	}
	path := segments[len(segments)-3]
	info, err := os.Stat(path)
	if err != nil {
		t.Fatal(err)
	}
	flip(t, path, int(info.Size()/2))
	return func() { flip(t, path, int(info.Size()/2)) }
}

func timelineOf(t *testing.T, data string) postgres.Timeline {
	t.Helper()
	control, err := readControl(data)
	if err != nil {
		t.Fatal(err)
	}
	return control.Timeline
}

// TestArchiveGetAndRecovery is the law about archive-get's exit codes, on every
// major: absence ends recovery, trouble stops it, and a standby outlives it.
func TestArchiveGetAndRecovery(t *testing.T) {
	for _, major := range pgtest.Majors() {
		t.Run(fmt.Sprintf("PostgreSQL %d", major), func(t *testing.T) {
			t.Parallel() // it is mostly waiting
			a := newArchived(t, major)
			a.keepsTheLaw(t)
			// Now with what is fetched ahead between the server and the repository.
			t.Run("fetching ahead", func(t *testing.T) { a.withSpool(t).keepsTheLaw(t) })
		})
	}
}

func (a *archived) keepsTheLaw(t *testing.T) {
	t.Run("an absent file ends recovery and the server promotes with every row", func(t *testing.T) {
		c := a.recover(t, "recovery.signal")
		c.WaitFor(t, "SELECT pg_is_in_recovery()", "f", 3*time.Minute)
		if rows := c.Query(t, "SELECT count(*) FROM t"); rows != a.rows {
			t.Errorf("%s rows, want %s", rows, a.rows)
		}
		if got := strings.Contains(c.Log(), "ahead=true"); got != (a.spool != "") {
			t.Errorf("served ahead: %v", got)
		}
	})
	for title, trouble := range map[string]func(*testing.T) func(){
		"a repository that is not there": a.breakStorage,
		"a damaged WAL file":             a.damageWAL,
	} {
		t.Run(title+" stops recovery, and it goes on when the trouble is gone", func(t *testing.T) { a.stops(t, trouble) })
		t.Run(title+" does not stop a standby, and it goes on when the trouble is gone", func(t *testing.T) { a.waits(t, trouble) })
	}
}

func (a *archived) stops(t *testing.T, trouble func(*testing.T) func()) {
	mend := trouble(t)
	c := a.recover(t, "recovery.signal")
	status := c.WaitExit(t, time.Minute)
	mend()
	if status == 0 {
		t.Error("the server ended as if it had been asked to")
	}
	if tli := timelineOf(t, c.DataDir); tli != 1 {
		t.Errorf("the server promoted to timeline %d", tli)
	}
	contains(t, c.Log(), "pgbak: ")
	again := a.open(t, c.DataDir)
	again.WaitFor(t, "SELECT pg_is_in_recovery()", "f", 3*time.Minute)
	if rows := again.Query(t, "SELECT count(*) FROM t"); rows != a.rows {
		t.Errorf("%s rows after the trouble, want %s", rows, a.rows)
	}
}

func (a *archived) waits(t *testing.T, trouble func(*testing.T) func()) {
	mend := trouble(t)
	c := a.recover(t, "standby.signal")
	deadline := time.Now().Add(time.Minute)
	for strings.Count(c.Log(), "pgbak: ") < 3 { // it has asked again
		if !c.Running() || time.Now().After(deadline) {
			mend()
			t.Fatalf("the standby runs: %v; it met the trouble %d times", c.Running(), strings.Count(c.Log(), "pgbak: "))
		}
		time.Sleep(50 * time.Millisecond)
	}
	mend()
	c.WaitFor(t, "SELECT count(*) FROM t", a.rows, time.Minute)
	c.WaitFor(t, "SELECT pg_is_in_recovery()", "t", time.Minute)
}
