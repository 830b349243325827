package e2e

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/jackc/pgx/v5/pgconn"

	"github.com/pgbak/pgbak/internal/pgtest"
)

// workload is several sessions that do at random what PostgreSQL can do to
// files. The statements follow from the seed, how they meet does not.
type workload struct {
	// calm is held by a backup, and by the few actions during which PostgreSQL
	// itself gives no base backup that recovers (see delicate).
	calm    sync.RWMutex
	done    atomic.Int64 // actions that succeeded
	c       *pgtest.Cluster
	workers []*worker
	end     chan struct{}
	wait    sync.WaitGroup
}

// worker is one session with tables of its own.
type worker struct {
	*rand.Rand
	number int
	c      *pgtest.Cluster
	calm   *sync.RWMutex
	total  *atomic.Int64
	round  int
	done   map[string]int // how often each action succeeded
	failed error          // what must not have happened
}

// slots is how many tables a worker has at once.
const slots = 4

func newWorkload(c *pgtest.Cluster, rng *rand.Rand, sessions int) *workload {
	w := &workload{c: c}
	for n := range sessions {
		w.workers = append(w.workers, &worker{Rand: rand.New(rand.NewPCG(rng.Uint64(), rng.Uint64())), number: n, c: c, calm: &w.calm, total: &w.done, done: map[string]int{}})
	}
	return w
}

// start lets all sessions work until stop.
func (w *workload) start() {
	w.end = make(chan struct{})
	for _, one := range w.workers {
		w.wait.Add(1)
		go func() {
			defer w.wait.Done()
			for one.failed == nil {
				select {
				case <-w.end:
					return
				default:
					one.act()
				}
			}
		}()
	}
}

// stop ends the work between two actions and fails the test for what went wrong.
func (w *workload) stop(t *testing.T) {
	t.Helper()
	close(w.end)
	w.wait.Wait()
	for _, one := range w.workers {
		if one.failed != nil {
			t.Fatalf("session %d: %v", one.number, one.failed)
		}
	}
}

// passes are conditions that sessions meet that work on the same things:
// objects that are missing, there already or in use, deadlocks, timeouts.
var passes = map[string]bool{"42P01": true, "42P07": true, "42704": true, "42710": true, "42701": true, "3D000": true, "42P04": true, "55006": true,
	"40P01": true, "55P03": true, "57014": true, "55000": true, "23505": true, "0A000": true, "42703": true, "25006": true, "40001": true, "2BP01": true}

// act does one action in a session of its own; its statements are executed one
// by one, and what fails ends the action.
func (w *worker) act() {
	w.round++
	name, statements := w.choose()
	if delicate(name, statements) {
		if !w.calm.TryRLock() {
			return
		}
		defer w.calm.RUnlock()
	}
	database := "postgres"
	if rest, ok := strings.CutPrefix(name, "in "); ok {
		database, name = rest, "other database"
	}
	ctx, cancel := context.WithTimeout(context.Background(), time.Minute)
	defer cancel()
	conn, err := pgconn.Connect(ctx, w.c.DSN()+" sslmode=disable dbname="+database)
	if err == nil {
		defer conn.Close(ctx)
		for _, sql := range append([]string{"SET lock_timeout = '2s'"}, statements...) {
			if _, err = conn.Exec(ctx, sql).ReadAll(); err != nil {
				err = fmt.Errorf("%s: %w", sql, err)
				break
			}
		}
	}
	var refused *pgconn.PgError
	switch {
	case err == nil:
		w.done[name]++
		w.total.Add(1)
	case errors.As(err, &refused) && passes[refused.Code]:
	default:
		w.failed = err
	}
}

// delicate actions are not done while a backup runs, because no base backup of
// PostgreSQL's own survives them. A database that changes its tablespace is
// copied again by recovery, from a directory that the backup may not have seen
// any more (dbase_redo in commands/dbcommands.c). An index of an unlogged table
// gets its init fork when it is complete: recovery makes that beside a main fork that the
// backup took for that of a usual index, and ends with "File exists" (storage/file/reinit.c).
func delicate(name string, statements []string) bool {
	return name == "move a database" || strings.Contains(strings.Join(statements, " "), unlogged)
}

// unlogged is what the names of unlogged tables end with.
const unlogged = "_unlogged"

func (w *worker) table() string {
	if w.IntN(8) == 0 {
		return fmt.Sprintf("w%d%s", w.number, unlogged)
	}
	return w.usual()
}

func (w *worker) usual() string { return fmt.Sprintf("w%d_%d", w.number, w.IntN(slots)) }

func (w *worker) tablespace() string {
	return []string{"pg_default", "far", "inplace"}[w.IntN(3)]
}

// rows is what fills a table: all kinds of index have a column, and some rows
// are too wide for a page.
func (w *worker) rows(n int) string {
	return fmt.Sprintf(`SELECT g, md5((g * %d)::text), CASE WHEN g %% %d = 0 THEN (SELECT string_agg(md5((g * i + %d)::text), '') FROM generate_series(1, %d) i) END,
		point(g %% 997, g * 7 %% 1009), ARRAY[g %% 10, g %% 101], int4range(g %% 1000, g %% 1000 + 10) FROM generate_series(1, %d) g`,
		w.IntN(1000)+1, w.IntN(40)+10, w.IntN(1000), w.IntN(300)+80, n)
}

const columns = "(v, x, big, p, a, r)"

func (w *worker) create(name string) string {
	persistence := ""
	if strings.HasSuffix(name, unlogged) {
		persistence = "UNLOGGED "
	}
	with := []string{"", " WITH (fillfactor = 50)", " WITH (autovacuum_enabled = off)"}[w.IntN(3)]
	return fmt.Sprintf("CREATE %sTABLE IF NOT EXISTS %s (id bigserial PRIMARY KEY, v int, x text, big text, p point, a int[], r int4range)%s TABLESPACE %s",
		persistence, name, with, w.tablespace())
}

func (w *worker) insert(name string) string {
	return fmt.Sprintf("INSERT INTO %s %s %s", name, columns, w.rows(20+w.IntN(1500)))
}

// change is a statement that changes rows.
func (w *worker) change(name string) string {
	k := w.IntN(60) + 2
	return fmt.Sprintf([]string{
		"UPDATE %s SET x = md5(x), v = v + 1 WHERE id %% %d = %d",
		"UPDATE %s SET p = point(v, v) WHERE id %% %d = %d",
		"UPDATE %s SET big = coalesce(big, '') || x WHERE id %% %d = %d",
		"DELETE FROM %s WHERE id %% %d = %d",
		"UPDATE %s SET a = a || v WHERE id %% %d = %d",
	}[w.IntN(5)], name, k, w.IntN(k))
}

func (w *worker) index(name string, concurrently string) string {
	on := []string{"btree (v)", "btree (x)", "hash (x)", "gin (a)", "gist (p)", "gist (r)", "spgist (p)", "brin (v)", "bloom (v)", "btree (x, v) WHERE v % 3 = 0"}[w.IntN(10)]
	return fmt.Sprintf("CREATE INDEX %s ON %s USING %s", concurrently, name, on)
}

// anyIndex gives a DO statement that does something to one of a table's indexes.
func (w *worker) anyIndex(name, do string) string {
	return fmt.Sprintf(`DO $$ DECLARE i regclass; BEGIN
		SELECT indexrelid::regclass INTO i FROM pg_index WHERE indrelid = to_regclass('%s') AND NOT indisprimary ORDER BY md5(indexrelid::text || '%d') LIMIT 1;
		IF i IS NOT NULL THEN EXECUTE format('%s', i); END IF; END $$`, name, w.IntN(1000), do)
}

// choose gives the next action.
func (w *worker) choose() (string, []string) {
	name := w.table()
	if w.IntN(3) == 0 { // most of what happens to databases is plain work
		return "work", []string{w.create(name), w.insert(name), "BEGIN", w.change(name), w.change(name), "COMMIT"}
	}
	all := w.actions(name)
	if w.number == 0 && w.IntN(5) == 0 {
		all = w.databases()
	}
	a := all[w.IntN(len(all))]
	return a[0], a[1:]
}

// actions are what can be done to a table and beside it; each begins with its name.
func (w *worker) actions(name string) [][]string {
	part, view, gid := fmt.Sprintf("part%d", w.number), fmt.Sprintf("view%d", w.number), fmt.Sprintf("gid%d_%d", w.number, w.round)
	lo := w.number*1000 + w.IntN(5) + 100000
	return [][]string{
		{"drop", "DROP TABLE IF EXISTS " + name + " CASCADE", w.create(name), w.insert(name)},
		{"drop and abort", "BEGIN", "DROP TABLE IF EXISTS " + name + " CASCADE", w.create(name), w.insert(name), "ROLLBACK"},
		{"truncate", "TRUNCATE " + name, w.insert(name)},
		{"truncate and abort", "BEGIN", w.change(name), "TRUNCATE " + name, w.insert(name), "ROLLBACK"},
		{"cut off the end", w.insert(name), "DELETE FROM " + name + " WHERE ctid > '(20,0)'", "VACUUM " + name},
		{"vacuum", w.change(name), "VACUUM " + name},
		{"freeze", "VACUUM (FREEZE) " + name, w.change(name)},
		{"vacuum full", "VACUUM FULL " + name},
		{"cluster", fmt.Sprintf("CLUSTER %s USING %s_pkey", name, name), w.change(name)},
		{"analyze", "ANALYZE " + name},
		{"rewrite", fmt.Sprintf("ALTER TABLE %s ADD COLUMN c%d float DEFAULT random()", name, w.IntN(4)), w.change(name)},
		{"drop a column", fmt.Sprintf("ALTER TABLE %s DROP COLUMN IF EXISTS c%d", name, w.IntN(4))},
		{"index", w.index(name, ""), w.change(name)},
		{"index", w.index(name, ""), w.insert(name)},
		{"index and abort", "BEGIN", w.index(name, ""), w.change(name), "ROLLBACK"},
		{"index concurrently", w.index(name, "CONCURRENTLY"), w.change(name)},
		{"drop an index", w.anyIndex(name, "DROP INDEX %s")},
		{"move an index", w.anyIndex(name, "ALTER INDEX %s SET TABLESPACE "+w.tablespace())},
		{"reindex", "REINDEX TABLE " + name},
		{"reindex concurrently", "REINDEX TABLE CONCURRENTLY " + name},
		{"move", fmt.Sprintf("ALTER TABLE %s SET TABLESPACE %s", name, w.tablespace()), w.change(name)},
		{"make unlogged", fmt.Sprintf("ALTER TABLE w%d%s SET UNLOGGED", w.number, unlogged), w.change(name)},
		{"make logged", fmt.Sprintf("ALTER TABLE w%d%s SET LOGGED", w.number, unlogged), w.change(name)},
		{"here and there", fmt.Sprintf("UPDATE steady SET x = repeat(md5(x), 8) WHERE n %% 400 = %d", w.IntN(400))},
		{"savepoints", "BEGIN", w.insert(name), "SAVEPOINT a", w.change(name), "ROLLBACK TO a", w.change(name), "SAVEPOINT b", w.insert(name), "RELEASE b", "COMMIT"},
		{"abort", "BEGIN", w.insert(name), w.change(name), "ROLLBACK"},
		{"prepare", "BEGIN", w.change(name), w.insert(name), "PREPARE TRANSACTION '" + gid + "'", "COMMIT PREPARED '" + gid + "'"},
		{"prepare and abort", "BEGIN", w.insert(name), w.create(name + "x"), "PREPARE TRANSACTION '" + gid + "'", "CHECKPOINT", "ROLLBACK PREPARED '" + gid + "'"},
		{"large object", fmt.Sprintf("DO $$ BEGIN PERFORM lo_unlink(oid) FROM pg_largeobject_metadata WHERE oid = %d; END $$", lo),
			fmt.Sprintf("SELECT lo_from_bytea(%d, decode(repeat(md5('%d'), %d), 'hex'))", lo, w.IntN(1000), w.IntN(4000)+10),
			fmt.Sprintf("SELECT lo_put(%d, %d, '\\xdeadbeef')", lo, w.IntN(100000))},
		{"copy", w.create(name), fmt.Sprintf("COPY %s (v, x) FROM PROGRAM 'seq -f \"%%.0f,copied\" 1 %d' WITH (DELIMITER ',')", name, w.IntN(5000)+1)},
		{"copy frozen", "BEGIN", "TRUNCATE " + name, fmt.Sprintf("COPY %s (v) FROM PROGRAM 'seq 1 %d' WITH (FREEZE)", name, w.IntN(5000)+1), "COMMIT"},
		{"view", fmt.Sprintf("CREATE MATERIALIZED VIEW IF NOT EXISTS %s AS SELECT id, v, x FROM %s", view, name), fmt.Sprintf("CREATE UNIQUE INDEX IF NOT EXISTS %s_id ON %s (id)", view, view),
			"REFRESH MATERIALIZED VIEW " + view, w.change(name), "REFRESH MATERIALIZED VIEW CONCURRENTLY " + view},
		{"drop a view", "DROP MATERIALIZED VIEW IF EXISTS " + view},
		{"partition", fmt.Sprintf("CREATE TABLE IF NOT EXISTS %s (n int, x text) PARTITION BY LIST (n)", part),
			fmt.Sprintf("CREATE TABLE %s_%d PARTITION OF %s FOR VALUES IN (%d)", part, w.round, part, w.round),
			fmt.Sprintf("INSERT INTO %s SELECT %d, md5(g::text) FROM generate_series(1, 2000) g", part, w.round),
			fmt.Sprintf("ALTER TABLE %s DETACH PARTITION %s_%d", part, part, w.round), fmt.Sprintf("DROP TABLE %s_%d", part, w.round)},
		{"lock rows", "BEGIN", fmt.Sprintf("SELECT count(*) FROM (SELECT 1 FROM shared WHERE n %% 50 = %d FOR KEY SHARE) s", w.IntN(50)), "SELECT pg_sleep(0.02)", "COMMIT"},
		{"lock rows", "BEGIN", fmt.Sprintf("SELECT count(*) FROM (SELECT 1 FROM shared WHERE n %% 50 = %d FOR SHARE) s", w.IntN(50)),
			fmt.Sprintf("UPDATE shared SET x = md5(x) WHERE n %% 500 = %d", w.IntN(500)), "COMMIT"},
		{"upsert", fmt.Sprintf("INSERT INTO shared SELECT g, 'new' FROM generate_series(%d, %d) g ON CONFLICT (n) DO UPDATE SET x = md5(shared.x)", w.IntN(5000), w.IntN(300)+5000)},
		{"sequence", fmt.Sprintf("SELECT count(nextval('counter')) FROM generate_series(1, %d)", w.IntN(100))},
		{"checkpoint", "CHECKPOINT"},
		{"temporary", "CREATE TEMPORARY TABLE mine AS SELECT g FROM generate_series(1, 5000) g", "SELECT count(*) FROM mine"},
		{"tablespace", fmt.Sprintf("CREATE TABLESPACE own%d_%d LOCATION ''", w.number, w.round),
			fmt.Sprintf("CREATE TABLE own%d_%d TABLESPACE own%d_%d AS SELECT g FROM generate_series(1, 1000) g", w.number, w.round, w.number, w.round),
			fmt.Sprintf("DROP TABLE own%d_%d", w.number, w.round), fmt.Sprintf("DROP TABLESPACE own%d_%d", w.number, w.round)},
	}
}

// databases are actions on whole databases, of one session only. Templates are
// never changed: that is where PostgreSQL's own base backups are wrong
// (https://www.postgresql.org/docs/current/continuous-archiving.html, "Caveats":
// what changes a template during the backup can come up in its copies too).
func (w *worker) databases() [][]string {
	name := fmt.Sprintf("d%d", w.IntN(3))
	template := []string{"template1", "model"}[w.IntN(2)]
	strategy := ""
	if w.c.Major >= 15 {
		strategy = []string{" STRATEGY wal_log", " STRATEGY file_copy"}[w.IntN(2)]
	}
	return [][]string{
		{"create a database" + strategy, fmt.Sprintf("CREATE DATABASE %s TEMPLATE %s%s", name, template, strategy)},
		{"drop and create a database" + strategy, "DROP DATABASE IF EXISTS " + name, fmt.Sprintf("CREATE DATABASE %s TEMPLATE %s%s", name, template, strategy)},
		{"drop a database", "DROP DATABASE " + name},
		{"move a database", fmt.Sprintf("ALTER DATABASE %s SET TABLESPACE %s", name, w.tablespace())},
		{"in " + name, w.create("t"), w.insert("t"), w.change("t"), "VACUUM t", w.index("t", "")},
	}
}
