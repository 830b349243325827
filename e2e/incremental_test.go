package e2e

import (
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/pgbak/pgbak/internal/pgtest"
	"github.com/pgbak/pgbak/repo"
)

// evolving is a cluster of which backups are taken while it changes.
type evolving struct {
	*host
	standby *host  // of the cluster, if it has one
	from    *host  // where the next backup is taken: host, or its standby
	way     string // by which changes must be found
	asleep  bool   // the summarizer of the standby is
	taken   []moments
}

// moments is a backup and the committed state while it was taken.
type moments struct {
	taken
	state string
}

// TestBackupsThatReadOnlyWhatChanged takes backups of every type, on every
// major, by every way of finding changes that it has, and restores each alone.
func TestBackupsThatReadOnlyWhatChanged(t *testing.T) {
	for _, major := range pgtest.Majors() {
		ways := []string{"archive-summaries"}
		if major >= 17 {
			ways = append(ways, "server-summaries")
		}
		if major == 13 || major == 18 {
			ways = append(ways, "page-hashes")
		}
		for _, way := range ways {
			t.Run(fmt.Sprintf("PostgreSQL %d, %s", major, way), func(t *testing.T) {
				t.Parallel()
				e := newEvolving(t, major, way)
				e.live(t)
				for n := range e.taken {
					if way != "page-hashes" { // there, WAL was lost on the way
						e.prove(t, n)
					}
				}
			})
		}
	}
}

func newEvolving(t *testing.T, major int, way string) *evolving {
	t.Helper()
	o := hostOptions{encrypted: major%2 == 0, cluster: pgtest.Options{Major: major, Config: map[string]string{"autovacuum": "off"}}}
	if way == "server-summaries" {
		o.cluster.Config["summarize_wal"] = "on"
	}
	e := &evolving{host: newHost(t, o), way: way}
	e.from = e.host
	if err := os.Mkdir(filepath.Join(e.dir, "space"), 0o700); err != nil {
		t.Fatal(err)
	}
	pgtest.GiveToServer(t, filepath.Join(e.dir, "space"))
	for _, sql := range []string{
		"CREATE EXTENSION amcheck",
		fmt.Sprintf("CREATE TABLESPACE elsewhere LOCATION '%s'", filepath.Join(e.dir, "space")),
		"CREATE TABLE large (n int PRIMARY KEY, x text)",
		"INSERT INTO large SELECT n, repeat(md5(n::text), 8) FROM generate_series(1, 60000) n",
		"CREATE TABLE spaced (n int PRIMARY KEY, x text) TABLESPACE elsewhere",
		"INSERT INTO spaced SELECT n, md5(n::text) FROM generate_series(1, 20000) n",
		"CREATE TABLE shrinking AS SELECT n, md5(n::text) x FROM generate_series(1, 50000) n",
		"CREATE TABLE emptied AS SELECT n, md5(n::text) x FROM generate_series(1, 20000) n",
		"CREATE TABLE dropped AS SELECT n, md5(n::text) x FROM generate_series(1, 20000) n",
		"CREATE TABLE steady AS SELECT n, repeat(md5(n::text), 8) x FROM generate_series(1, 40000) n",
		"CREATE UNLOGGED TABLE scratch AS SELECT n FROM generate_series(1, 1000) n",
		"CREATE DATABASE second",
	} {
		e.Exec(t, sql)
	}
	return e
}

// live takes a full backup, then others after changes.
func (e *evolving) live(t *testing.T) {
	t.Helper()
	e.Exec(t, "VACUUM")
	e.take(t, repo.Full, "", 0)
	e.loseWAL(t)
	for _, sql := range []string{
		"UPDATE large SET x = md5(x) WHERE n % 997 = 0",
		"UPDATE spaced SET x = x || 'y' WHERE n % 1000 = 0",
		"DELETE FROM shrinking WHERE n > 10000",
		"VACUUM shrinking", // truncates
		"TRUNCATE emptied",
		"CREATE TABLE fresh AS SELECT n, md5(n::text) x FROM generate_series(1, 20000) n",
	} {
		e.Exec(t, sql)
	}
	e.take(t, repo.Incremental, e.taken[0].Backup.Label, 12<<20)
	e.loseWAL(t)
	e.Exec(t, "DROP TABLE dropped")
	e.Exec(t, "CREATE DATABASE copied TEMPLATE second")
	queryIn(t, e.Cluster, "second", "CREATE TABLE other AS SELECT n, md5(n::text) x FROM generate_series(1, 20000) n")
	e.Exec(t, "INSERT INTO shrinking SELECT n, md5(n::text) FROM generate_series(1, 30000) n") // grows again
	e.Exec(t, "DELETE FROM large WHERE n % 1009 = 0")
	e.Exec(t, "CREATE INDEX ON large (x)")
	e.take(t, repo.Incremental, e.taken[1].Backup.Label, 20<<20)
	e.loseWAL(t)
	e.Exec(t, "UPDATE large SET x = 'z' WHERE n BETWEEN 100 AND 3000")
	e.Exec(t, "DROP DATABASE copied")
	e.take(t, repo.Differential, e.taken[0].Backup.Label, 40<<20)
	e.loseWAL(t)
	e.take(t, repo.Incremental, e.taken[3].Backup.Label, 0) // nothing has changed
}

// loseWAL takes all WAL that was archived away where no summary shall be found.
func (e *evolving) loseWAL(t *testing.T) {
	t.Helper()
	if e.way != "page-hashes" {
		return
	}
	e.Exec(t, "CREATE TABLE lost AS SELECT repeat('x', 1000) FROM generate_series(1, 8000)")
	e.Exec(t, "DROP TABLE lost")
	switchWAL(t, e.Cluster)
	e.standbyFollows(t)
	e.Exec(t, "CHECKPOINT") // recycles the server's own files
	e.WaitFor(t, "SELECT count(*) FROM pg_ls_dir('pg_wal/archive_status') n WHERE n LIKE '%.ready'", "0", time.Minute)
	found, err := filepath.Glob(filepath.Join(e.repo, "wal/main/*/*/*/*"))
	if err != nil || len(found) < 5 {
		t.Fatalf("archived WAL: %q, %v", found, err)
	}
	for _, name := range found {
		if err := os.Remove(name); err != nil {
			t.Fatal(err)
		}
	}
	e.Exec(t, "CHECKPOINT")
	e.standbyFollows(t)
}

// take takes a backup and checks what it says of itself: of the pages that
// summaries tell of at most so many bytes were read.
func (e *evolving) take(t *testing.T, typ repo.BackupType, parent repo.Label, most int64) {
	t.Helper()
	state := committed(t, e.Cluster)
	if e.way == "page-hashes" {
		defer func() { e.prove(t, len(e.taken)-1) }()
	}
	source := "local"
	if e.from == e.standby {
		source = "standby"
	}
	b := parseTaken(t, e.from.expect(t, codeOK, "backup", "--from", source, "--type", string(typ), "--output", "json"))
	e.taken = append(e.taken, moments{b, state})
	i := b.Backup
	if i.Source != source || i.Type != typ || parent != "" && i.Parent != parent || len(b.Warnings) != 0 || i.ErrorCount != 0 {
		t.Errorf("backup %+v, warnings %q, want type %s and parent %s from %s", i, b.Warnings, typ, parent, source)
	}
	var all, read int64
	for _, w := range i.Ways {
		t.Logf("%s: %+v", i.Label, w)
		all, read = all+w.Bytes, read+w.Read
	}
	if all < i.DatabaseSize-1<<20 || all > i.DatabaseSize {
		t.Errorf("ways %+v are of %d bytes, the cluster has %d", i.Ways, all, i.DatabaseSize)
	}
	if typ == repo.Full {
		if len(i.Ways) != 1 || i.Ways[0].Way != "full" || read != all || i.WayReason != "" {
			t.Errorf("a full backup reads all: %+v, %q", i.Ways, i.WayReason)
		}
		return
	}
	n := slices.IndexFunc(i.Ways, func(w repo.WayUse) bool { return w.Way == e.way })
	if n < 0 || i.Ways[n].Bytes < i.DatabaseSize/2 {
		t.Fatalf("changes were not found by %s: %+v, %s", e.way, i.Ways, i.WayReason)
	}
	if e.way != "page-hashes" && i.Ways[n].Read > most {
		t.Errorf("%+v: more than %d bytes were read", i.Ways[n], most)
	}
	e.reasons(t, i.WayReason)
}

// reasons checks why no better way was taken.
func (e *evolving) reasons(t *testing.T, reason string) {
	t.Helper()
	switch {
	case e.asleep:
		says(t, reason, "server-summaries: wait for WAL summaries up to", "for 2s")
	case e.way == "server-summaries":
		if reason != "" {
			t.Errorf("reason %q although there is no better way", reason)
		}
		return
	case e.Major >= 17:
		says(t, reason, "server-summaries: summarize_wal is off")
	default:
		says(t, reason, fmt.Sprintf("server-summaries: PostgreSQL %d makes none", e.Major))
	}
	if e.way == "page-hashes" {
		says(t, reason, "archive-summaries: no WAL summary covers")
	}
}

// prove restores a backup as it was when it ended.
func (e *evolving) prove(t *testing.T, n int) {
	t.Helper()
	base := pgtest.TempDir(t)
	into, label := filepath.Join(base, "data"), string(e.taken[n].Backup.Label)
	e.expect(t, codeOK, "restore", "--target-dir", into, "--archive-mode", "off", "--tablespace-map-all", base,
		"--set", label, "--type", "immediate", "--target-action", "promote")
	verifyBackup(t, into)
	c := pgtest.Open(t, into, e.Major, nil)
	c.WaitFor(t, inRecovery, "f", 2*time.Minute)
	sameText(t, "the committed state in "+label, committed(t, c), e.taken[n].state)
	checkStructure(t, c)
	checkFilesAreThere(t, c)
	c.Stop(t, "immediate")
	if t.Failed() {
		t.Fatalf("backup %s", strings.TrimSpace(label))
	}
}
