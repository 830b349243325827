package e2e

import (
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/pgbak/pgbak/internal/pgtest"
	"github.com/pgbak/pgbak/repo"
)

// awkward is a cluster with what is hard to back up: tablespaces elsewhere and
// in place, a linked pg_wal, unlogged and temporary relations, and relations
// and databases for each time that a backup of it is held.
type awkward struct {
	*host
	way   string // of its incremental backups
	files int64  // of the cluster, about
	times int    // how often it was upset
}

func newAwkward(t *testing.T, major int) *awkward {
	t.Helper()
	cfg := map[string]string{"allow_in_place_tablespaces": "on", "log_checkpoints": "off"}
	if major >= 17 {
		cfg["summarize_wal"] = "on"
	}
	a := &awkward{host: newHost(t, hostOptions{cluster: pgtest.Options{Major: major, SegmentSizeMB: 4, Config: cfg,
		InitArgs: []string{"--waldir", filepath.Join(pgtest.TempDir(t), "wal")}}})}
	a.way = wayOf(a.Cluster, true)
	space := filepath.Join(a.dir, "space")
	if err := os.Mkdir(space, 0o700); err != nil {
		t.Fatal(err)
	}
	pgtest.GiveToServer(t, space)
	for _, sql := range []string{
		"CREATE EXTENSION amcheck", "CREATE EXTENSION pg_visibility",
		"CREATE TABLESPACE elsewhere LOCATION '" + space + "'", "CREATE TABLESPACE inplace LOCATION ''",
		"CREATE TABLE far TABLESPACE elsewhere AS SELECT n, md5(n::text) x FROM generate_series(1, 20000) n", "CREATE INDEX ON far (x) TABLESPACE inplace",
		"CREATE TABLE near TABLESPACE inplace AS SELECT n, md5(n::text) x FROM generate_series(1, 20000) n",
		"CREATE TABLE steady AS SELECT n, repeat(md5(n::text), 4) x FROM generate_series(1, 20000) n", "CREATE INDEX ON steady (x)",
		"CREATE UNLOGGED TABLE scratch AS SELECT n FROM generate_series(1, 10000) n",
		"CREATE TABLE grows AS SELECT n, repeat(md5(n::text), 10) x FROM generate_series(1, 5000) n",
		"CREATE TABLE shrinks AS SELECT n, repeat(md5(n::text), 20) x FROM generate_series(1, 30000) n",
		"CREATE TABLE rewritten AS SELECT n, repeat(md5(n::text), 10) x FROM generate_series(1, 10000) n",
		"CREATE DATABASE model",
	} {
		a.Exec(t, sql)
	}
	queryIn(t, a.Cluster, "model", "CREATE TABLE inherited AS SELECT n, md5(n::text) x FROM generate_series(1, 10000) n")
	session := a.Connect(t)
	if _, err := session.Exec(t.Context(), "CREATE TEMPORARY TABLE mine AS SELECT n FROM generate_series(1, 10000) n").ReadAll(); err != nil {
		t.Fatal(err)
	}
	return a
}

// prepare makes what upset will do away with.
func (a *awkward) prepare(t *testing.T) {
	t.Helper()
	n := a.times
	for _, sql := range []string{
		fmt.Sprintf("CREATE TABLE gone%d AS SELECT n, repeat(md5(n::text), 10) x FROM generate_series(1, 10000) n", n),
		fmt.Sprintf("CREATE TABLE again%d AS SELECT n, repeat(md5(n::text), 10) x FROM generate_series(1, 10000) n", n),
		fmt.Sprintf("CREATE TABLE cut%d AS SELECT n, repeat(md5(n::text), 10) x FROM generate_series(1, 10000) n", n),
		fmt.Sprintf("CREATE TABLE moved%d AS SELECT n, repeat(md5(n::text), 10) x FROM generate_series(1, 10000) n", n),
		fmt.Sprintf("CREATE UNLOGGED TABLE logged%d AS SELECT n, repeat(md5(n::text), 10) x FROM generate_series(1, 10000) n", n),
		fmt.Sprintf("CREATE DATABASE victim%d TEMPLATE model", n),
		fmt.Sprintf("CREATE TABLESPACE spare%d LOCATION ''", n),
		"CHECKPOINT",
	} {
		a.Exec(t, sql)
	}
}

// upset is done while a backup is held: files come, grow, shrink, go, and come
// again under the same name.
func (a *awkward) upset(t *testing.T) {
	t.Helper()
	n := a.times
	a.times++
	strategies := []string{""}
	if a.Major >= 15 {
		strategies = []string{" STRATEGY wal_log", " STRATEGY file_copy"}
	}
	for k, strategy := range strategies {
		a.Exec(t, fmt.Sprintf("CREATE DATABASE made%d_%d TEMPLATE model%s", n, k, strategy))
		queryIn(t, a.Cluster, fmt.Sprintf("made%d_%d", n, k), "UPDATE inherited SET x = md5(x) WHERE n % 100 = 0")
	}
	for _, sql := range []string{
		fmt.Sprintf("DROP TABLE gone%d", n),
		fmt.Sprintf("TRUNCATE cut%d", n), fmt.Sprintf("INSERT INTO cut%d SELECT n, md5(n::text) FROM generate_series(1, 500) n", n),
		fmt.Sprintf("DROP TABLE again%d", n), fmt.Sprintf("CREATE TABLE again%d AS SELECT n FROM generate_series(1, 3000) n", n),
		fmt.Sprintf("ALTER TABLE moved%d SET TABLESPACE spare%d", n, n),
		fmt.Sprintf("ALTER TABLE logged%d SET LOGGED", n),
		"INSERT INTO grows SELECT n, repeat(md5(n::text), 10) FROM generate_series(1, 20000) n",
		"DELETE FROM shrinks WHERE n > (SELECT max(n) * 2 / 3 FROM shrinks)", "VACUUM shrinks",
		"UPDATE steady SET x = repeat(md5(x), 4) WHERE n % 500 = 7",
		"UPDATE far SET x = md5(x) WHERE n % 500 = 7", "UPDATE near SET x = md5(x) WHERE n % 500 = 7",
		"VACUUM FULL rewritten", "REINDEX TABLE steady",
		fmt.Sprintf("DROP DATABASE victim%d", n),
		fmt.Sprintf("CREATE TABLESPACE fresh%d LOCATION ''", n),
		fmt.Sprintf("CREATE TABLE fresh%d TABLESPACE fresh%d AS SELECT n FROM generate_series(1, 5000) n", n, n),
		"CHECKPOINT",
		fmt.Sprintf("CREATE TABLE late%d AS SELECT n, md5(n::text) x FROM generate_series(1, 5000) n", n),
	} {
		a.Exec(t, sql)
	}
	if n > 0 { // a tablespace that the parent has goes away
		a.Exec(t, fmt.Sprintf("DROP TABLE fresh%d", n-1))
		a.Exec(t, fmt.Sprintf("DROP TABLESPACE fresh%d", n-1))
	}
}

// TestAnAwkwardClusterIsUpsetDuringTheCopy holds full and incremental backups at
// several moments, and upsets the cluster there.
func TestAnAwkwardClusterIsUpsetDuringTheCopy(t *testing.T) {
	for _, major := range pgtest.Majors() {
		if major != 13 && major != 15 && major != 18 {
			continue // 15 creates databases in two ways, 17 and 18 have summaries of their own
		}
		t.Run(fmt.Sprint("PostgreSQL ", major), func(t *testing.T) {
			t.Parallel()
			a := newAwkward(t, major)
			st, s := a.mustOpen(t)
			a.files = a.takeInto(t, st, repo.Full).Files
			for _, typ := range []repo.BackupType{repo.Full, repo.Incremental} {
				for _, at := range heldAt {
					a.prepare(t)
					b := a.hold(t, st, typ, int64(float64(a.files)*at.share))
					a.upset(t)
					b.goOn()
					if b.err != nil || len(b.result.Warnings) != 0 {
						t.Fatalf("%s backup, upset %s: %v, warnings %q", typ, at.title, b.err, b.result.Warnings)
					}
					header := b.result.Backups[0].Header
					if header.PageErrorCount != 0 {
						t.Errorf("%s backup, upset %s: %d page errors", typ, at.title, header.PageErrorCount)
					}
					if typ == repo.Incremental {
						took(t, header, typ, a.way)
					}
				}
				a.crash(t, typ)
			}
			law(t, s, map[repo.Label]bool{})
			a.proveAwkward(t)
		})
	}
}

// crash kills the server while a backup is held, and starts it again: the
// backup must fail and leave nothing, and the next ones are right.
func (a *awkward) crash(t *testing.T, typ repo.BackupType) {
	t.Helper()
	st, _ := a.mustOpen(t)
	pgtest.GiveToServer(t, a.repo) // this process may be root
	before := len(a.backups(t))
	b := a.hold(t, st, typ, a.files/2)
	a.Exec(t, "UPDATE steady SET x = repeat(md5(x), 4) WHERE n % 300 = 11")
	a.Kill(t)
	a.Start(t)
	b.goOn()
	if b.err == nil || !strings.Contains(b.err.Error(), "the session with the server is lost") {
		t.Errorf("a crash during the %s backup: %v", typ, b.err)
	}
	pgtest.GiveToServer(t, a.repo)
	if after := len(a.backups(t)); after != before {
		t.Errorf("after a crash during the %s backup %d backups are listed, before there were %d", typ, after, before)
	}
	a.Exec(t, "UPDATE steady SET x = repeat(md5(x), 4) WHERE n % 300 = 12")
	took(t, a.takeInto(t, st, repo.Incremental), repo.Incremental, a.way)
}

// proveAwkward restores the last backup to the end of WAL and compares.
func (a *awkward) proveAwkward(t *testing.T) {
	t.Helper()
	pgtest.GiveToServer(t, a.repo)
	all := a.backups(t)
	want := committed(t, a.Cluster)
	switchWAL(t, a.Cluster)
	a.Stop(t, "fast") // what comes back must not lean on it
	// Of the fulls and the incrementals, those that were held last.
	for _, b := range []backupInfo{all[3], all[len(all)-2]} {
		base := pgtest.TempDir(t)
		into := filepath.Join(base, "data")
		a.expect(t, codeOK, "restore", "--set", string(b.Label), "--target-dir", into, "--archive-mode", "off",
			"--tablespace-map", "elsewhere="+filepath.Join(base, "space"), "--link-map", "pg_wal="+filepath.Join(base, "wal"))
		verifyBackup(t, into)
		checkLeftOut(t, into)
		c := pgtest.Open(t, into, a.Major, nil)
		c.WaitFor(t, inRecovery, "f", 2*time.Minute)
		sameText(t, "the committed state after "+string(b.Label), committed(t, c), want)
		if n := c.Query(t, "SELECT count(*) FROM scratch"); n != "0" {
			t.Errorf("the unlogged table has %s rows", n)
		}
		checkStructure(t, c)
		checkVisibility(t, c)
		checkFilesAreThere(t, c)
		c.Stop(t, "immediate")
	}
}

// checkVisibility lets pg_visibility judge what the visibility maps of database
// postgres claim; a wrong claim hides or shows rows later.
func checkVisibility(t *testing.T, c *pgtest.Cluster) {
	t.Helper()
	for _, check := range []string{"pg_check_visible", "pg_check_frozen"} {
		if wrong := c.Query(t, fmt.Sprintf(`SELECT c.oid::regclass, v.* FROM pg_class c, %s(c.oid) v
			WHERE c.relkind IN ('r', 't', 'm') AND c.relpersistence = 'p' LIMIT 10`, check)); wrong != "" {
			t.Errorf("%s: %s", check, wrong)
		}
	}
}
