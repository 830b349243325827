package e2e

import (
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/pgbak/pgbak/internal/pgtest"
)

// churn is work that makes files come, grow, shrink and go.
type churn struct {
	c      *pgtest.Cluster
	end    chan struct{}
	wait   sync.WaitGroup
	rounds [3]atomic.Int64
	failed atomic.Pointer[error]
}

// startChurn runs three sessions' worth of it until stop is called: tables,
// databases, tablespaces.
func startChurn(t *testing.T, c *pgtest.Cluster, space string) *churn {
	t.Helper()
	w := &churn{c: c, end: make(chan struct{})}
	for worker, round := range []func(n int64) []string{
		func(n int64) []string {
			return []string{
				fmt.Sprintf("CREATE TABLE churned%d AS SELECT n, repeat(md5(n::text), 10) x FROM generate_series(1, 2000) n", n),
				fmt.Sprintf("CREATE INDEX ON churned%d (x)", n),
				"INSERT INTO grows SELECT n, repeat(md5(n::text), 10) FROM generate_series(1, 1000) n",
				fmt.Sprintf("TRUNCATE churned%d", max(0, n-1)),
				fmt.Sprintf("DROP TABLE IF EXISTS churned%d", max(n-2, 0)),
				"DELETE FROM shrinks WHERE n > (SELECT max(n) - 1500 FROM shrinks)",
				"VACUUM shrinks",
			}
		},
		func(n int64) []string {
			return []string{fmt.Sprintf("CREATE DATABASE churned%d", n), fmt.Sprintf("DROP DATABASE IF EXISTS churned%d", n-1)}
		},
		func(n int64) []string {
			return []string{
				fmt.Sprintf("CREATE TABLESPACE churned%d LOCATION '%s'", n, filepath.Join(space, fmt.Sprint(n%2))),
				fmt.Sprintf("CREATE TABLE spaced%d TABLESPACE churned%d AS SELECT n FROM generate_series(1, 1000) n", n, n),
				fmt.Sprintf("DROP TABLE spaced%d", n),
				fmt.Sprintf("DROP TABLESPACE churned%d", n),
			}
		},
	} {
		w.wait.Add(1)
		go w.work(worker, round)
	}
	t.Cleanup(func() { w.stop(nil) })
	return w
}

func (w *churn) work(worker int, round func(int64) []string) {
	defer w.wait.Done()
	for n := int64(1); ; n++ {
		for _, sql := range round(n) {
			select {
			case <-w.end:
				return
			default:
			}
			if _, err := w.c.TryQuery(sql); err != nil {
				err = fmt.Errorf("%s: %w", sql, err)
				w.failed.Store(&err)
				return
			}
		}
		w.rounds[worker].Add(1)
	}
}

func (w *churn) stop(t *testing.T) {
	select {
	case <-w.end:
	default:
		close(w.end)
	}
	w.wait.Wait()
	if err := w.failed.Load(); err != nil && t != nil {
		t.Fatal(*err)
	}
}

// TestFilesMayComeAndGoDuringTheCopy backs up while tables, databases and
// tablespaces are made, extended, truncated and dropped.
func TestFilesMayComeAndGoDuringTheCopy(t *testing.T) {
	t.Parallel()
	h := newHost(t, hostOptions{cluster: pgtest.Options{SegmentSizeMB: 16, Major: 15}})
	space := filepath.Join(h.dir, "space")
	for _, dir := range []string{space, filepath.Join(space, "0"), filepath.Join(space, "1")} {
		if err := os.Mkdir(dir, 0o700); err != nil {
			t.Fatal(err)
		}
	}
	pgtest.GiveToServer(t, space)
	for _, sql := range []string{
		"CREATE EXTENSION amcheck",
		"CREATE TABLE churned0 (n int)", "CREATE TABLE grows (n int, x text)",
		"CREATE TABLE shrinks AS SELECT n, repeat(md5(n::text), 20) x FROM generate_series(1, 20000) n",
		"CREATE TABLE steady AS SELECT n, md5(n::text) x FROM generate_series(1, 20000) n",
	} {
		h.Exec(t, sql)
	}
	w := startChurn(t, h.Cluster, space)
	var last taken
	for range 4 {
		before := [3]int64{w.rounds[0].Load(), w.rounds[1].Load(), w.rounds[2].Load()}
		last = h.backup(t)
		for i := range before {
			for deadline := time.Now().Add(30 * time.Second); w.rounds[i].Load() == before[i] && time.Now().Before(deadline) && w.failed.Load() == nil; {
				time.Sleep(10 * time.Millisecond)
			}
			if w.rounds[i].Load() == before[i] {
				t.Errorf("worker %d made no round during and after the backup", i)
			}
		}
		if last.Backup.ErrorCount != 0 {
			t.Errorf("page errors: %+v", last.Backup)
		}
	}
	w.stop(t)
	t.Logf("%d rounds of tables, %d of databases, %d of tablespaces", w.rounds[0].Load(), w.rounds[1].Load(), w.rounds[2].Load())
	want := committed(t, h.Cluster)
	switchWAL(t, h.Cluster)
	h.Stop(t, "fast")
	rename(t, space, space+".away")
	for _, dir := range []string{space, filepath.Join(space, "0"), filepath.Join(space, "1")} {
		// Recovery makes and drops tablespaces at the places where they were.
		if err := os.Mkdir(dir, 0o700); err != nil {
			t.Fatal(err)
		}
	}
	pgtest.GiveToServer(t, space)
	h.proveState(t, want)
}

// proveState restores to the end and compares.
func (h *host) proveState(t *testing.T, want string) {
	t.Helper()
	base := pgtest.TempDir(t)
	into := filepath.Join(base, "data")
	h.expect(t, codeOK, "restore", "--target-dir", into, "--archive-mode", "off", "--tablespace-map-all", base)
	verifyBackup(t, into)
	c := pgtest.Open(t, into, h.Major, nil)
	c.WaitFor(t, inRecovery, "f", 2*time.Minute)
	sameText(t, "the committed state", committed(t, c), want)
	checkStructure(t, c)
	checkFilesAreThere(t, c)
	c.Stop(t, "immediate")
}

// checkFilesAreThere compares the catalogue with the files.
func checkFilesAreThere(t *testing.T, c *pgtest.Cluster) {
	t.Helper()
	missing := c.Query(t, `SELECT c.relname FROM pg_class c WHERE pg_relation_filepath(c.oid) IS NOT NULL
		AND c.relpersistence = 'p' AND (pg_stat_file(pg_relation_filepath(c.oid), true)).size IS NULL`)
	if missing != "" {
		t.Errorf("relations without a file: %s", missing)
	}
}

func TestAClusterOfThousandsOfRelations(t *testing.T) {
	t.Parallel()
	h := newHost(t, hostOptions{cluster: pgtest.Options{SegmentSizeMB: 16, Config: map[string]string{"max_locks_per_transaction": "1000"}}})
	h.Exec(t, "CREATE EXTENSION amcheck")
	h.Exec(t, `DO $$ BEGIN FOR i IN 1..1500 LOOP
		EXECUTE format('CREATE TABLE many%s (n int PRIMARY KEY)', i);
		EXECUTE format('INSERT INTO many%s SELECT generate_series(1, %s)', i, i % 50);
		END LOOP; END $$`)
	b := h.backup(t)
	sum := "SELECT count(*), sum(n) FROM (" + manyTables(1500) + ") x"
	want := h.Query(t, sum)
	base := filepath.Join(pgtest.TempDir(t), "data")
	h.expect(t, codeOK, "restore", "--target-dir", base, "--archive-mode", "off", "--set", string(b.Backup.Label))
	verifyBackup(t, base)
	c := pgtest.Open(t, base, h.Major, nil)
	c.WaitFor(t, inRecovery, "f", time.Minute)
	if got := c.Query(t, sum); got != want {
		t.Errorf("%s, want %s", got, want)
	}
	checkStructure(t, c)
	checkFilesAreThere(t, c)
	if n := c.Query(t, "SELECT count(*) FROM pg_class WHERE relname LIKE 'many%'"); n != "3000" {
		t.Errorf("%s relations", n)
	}
}

func manyTables(n int) string {
	parts := make([]string, n)
	for i := range parts {
		parts[i] = fmt.Sprintf("SELECT n FROM many%d", i+1)
	}
	return strings.Join(parts, " UNION ALL ")
}
