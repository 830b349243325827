package e2e

import (
	"context"
	"fmt"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/jackc/pgx/v5/pgconn"

	"github.com/pgbak/pgbak/internal/pgtest"
)

// queryIn asks another database than postgres, in the form of Cluster.Query.
func queryIn(t *testing.T, c *pgtest.Cluster, database, sql string) string {
	t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), time.Minute)
	defer cancel()
	conn, err := pgconn.Connect(ctx, c.DSN()+" sslmode=disable dbname="+database)
	if err != nil {
		t.Fatalf("database %s: %v", database, err)
	}
	defer conn.Close(ctx)
	results, err := conn.Exec(ctx, sql).ReadAll()
	if err != nil {
		t.Fatalf("database %s: %v\n%s", database, err, sql)
	}
	var rows []string
	for _, result := range results {
		for _, row := range result.Rows {
			var columns []string
			for _, column := range row {
				columns = append(columns, string(column))
			}
			rows = append(rows, strings.Join(columns, "|"))
		}
	}
	return strings.Join(rows, "\n")
}

// committed is the committed state of a cluster: for every ordinary table of
// every database the number of rows and a sum over their content, and the
// content of large objects. It is compared as a text.
func committed(t *testing.T, c *pgtest.Cluster) string {
	t.Helper()
	var all []string
	for _, database := range strings.Split(c.Query(t, "SELECT datname FROM pg_database WHERE datallowconn ORDER BY 1"), "\n") {
		names := queryIn(t, c, database, `SELECT c.oid::regclass FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace
			WHERE n.nspname = 'public' AND c.relkind = 'r' AND c.relpersistence = 'p' ORDER BY 1`)
		var parts []string
		for _, name := range strings.Fields(names) {
			parts = append(parts, fmt.Sprintf("SELECT '%s.%s', count(*)::text, sum(hashtextextended(x::text, 0)::numeric)::text FROM %s x", database, name, name))
		}
		parts = append(parts, fmt.Sprintf("SELECT '%s large object ' || oid, md5(lo_get(oid)), '' FROM pg_largeobject_metadata", database))
		all = append(all, queryIn(t, c, database, strings.Join(parts, " UNION ALL ")+" ORDER BY 1"))
	}
	return strings.Join(all, "\n")
}

// moment is a transaction, with the committed state before and after it.
// Nobody else writes meanwhile.
type moment struct {
	before, after string
	xid           string
	lsn           string // where the commit record begins
	commit        string // the time in the commit record
	clock         string // the server's clock after it, with a zone
	restorePoint  string // set after it
}

// newMoment makes a row in table ledger, which must exist.
func newMoment(t *testing.T, c *pgtest.Cluster, name string) moment {
	t.Helper()
	m := moment{before: committed(t, c), restorePoint: name}
	row := c.Query(t, fmt.Sprintf(`BEGIN; INSERT INTO ledger VALUES ('%s');
		SELECT txid_current(), pg_current_wal_insert_lsn(); COMMIT`, name))
	m.xid, m.lsn, _ = strings.Cut(row, "|")
	m.commit = c.Query(t, fmt.Sprintf("SELECT pg_xact_commit_timestamp('%s')", m.xid))
	m.clock = c.Query(t, "SELECT clock_timestamp() FROM pg_sleep(0.01)")
	m.after = committed(t, c)
	c.Query(t, fmt.Sprintf("SELECT pg_create_restore_point('%s')", name))
	if m.before == m.after {
		t.Fatal("the state does not show the row of the moment")
	}
	return m
}

// traffic is pgbench at work in the background.
type traffic struct {
	c    *pgtest.Cluster
	cmd  *exec.Cmd
	done chan error
	at   int // rows of pgbench_history when last asked
}

// startTraffic starts pgbench on tables that pgbench -i has made, with further arguments.
func startTraffic(t *testing.T, c *pgtest.Cluster, args ...string) *traffic {
	t.Helper()
	all := append([]string{"-h", c.SocketDir, "-p", strconv.Itoa(c.Port), "-U", "postgres", "-n", "-T", "600"}, args...)
	w := &traffic{c: c, cmd: pgtest.Command(t, pgtest.Tool(t, "pgbench"), append(all, "postgres")...), done: make(chan error, 1)}
	if err := w.cmd.Start(); err != nil {
		t.Fatal(err)
	}
	go func() { w.done <- w.cmd.Wait() }()
	t.Cleanup(func() { w.cmd.Process.Kill() })
	w.mustMove(t)
	return w
}

func (w *traffic) rows(t *testing.T) int {
	t.Helper()
	n, err := strconv.Atoi(w.c.Query(t, "SELECT count(*) FROM pgbench_history"))
	if err != nil {
		t.Fatal(err)
	}
	return n
}

// mustMove fails the test if no transaction was committed since it was last asked.
func (w *traffic) mustMove(t *testing.T) {
	t.Helper()
	before := w.at
	for deadline := time.Now().Add(20 * time.Second); w.at == before && time.Now().Before(deadline); time.Sleep(10 * time.Millisecond) {
		w.at = w.rows(t)
	}
	if w.at == before {
		t.Fatal("pgbench has committed nothing")
	}
}

// stop ends pgbench and waits until its sessions are gone.
func (w *traffic) stop(t *testing.T) {
	t.Helper()
	select {
	case err := <-w.done:
		t.Fatalf("pgbench has ended by itself: %v", err)
	default:
	}
	_ = w.cmd.Process.Signal(syscall.SIGINT)
	<-w.done
	w.c.WaitFor(t, "SELECT count(*) FROM pg_stat_activity WHERE application_name = 'pgbench'", "0", time.Minute)
}

// balanced is pgbench's invariant, true at every consistent point: all three
// kinds of balance, and the history, have the same sum.
func balanced(t *testing.T, c *pgtest.Cluster) {
	t.Helper()
	if ok := c.Query(t, `SELECT count(DISTINCT s) FROM (SELECT sum(abalance) s FROM pgbench_accounts UNION ALL SELECT sum(bbalance) FROM pgbench_branches
		UNION ALL SELECT sum(tbalance) FROM pgbench_tellers UNION ALL SELECT coalesce(sum(delta), 0) FROM pgbench_history) x`); ok != "1" {
		t.Error("the sums of pgbench's balances differ: a transaction came back by halves")
	}
}

// switchWAL closes the segment and waits until it is archived.
func switchWAL(t *testing.T, c *pgtest.Cluster) {
	t.Helper()
	name := c.Query(t, "SELECT pg_walfile_name(pg_switch_wal())")
	c.WaitFor(t, fmt.Sprintf("SELECT last_archived_wal >= '%s' FROM pg_stat_archiver", name), "t", time.Minute)
}

// relationPath is where the file of a relation of database postgres is, relative to the data directory.
func relationPath(t *testing.T, c *pgtest.Cluster, relation string) string {
	t.Helper()
	return filepath.ToSlash(c.Query(t, fmt.Sprintf("SELECT pg_relation_filepath('%s')", relation)))
}
