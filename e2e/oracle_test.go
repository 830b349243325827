package e2e

import (
	"errors"
	"fmt"
	"io/fs"
	"math/rand/v2"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/pgbak/pgbak/backup"
	"github.com/pgbak/pgbak/internal/pgtest"
	"github.com/pgbak/pgbak/internal/postgres"
	"github.com/pgbak/pgbak/repo"
	"github.com/pgbak/pgbak/storage"
	"github.com/pgbak/pgbak/storage/faulty"
	"github.com/pgbak/pgbak/storage/posix"
)

// TestTheOracle asks whether an incremental backup and a full one of the same
// cluster become the same cluster. During a random workload it takes a full
// backup and a random series of others, the last of them incremental, and then a full one
// into a second repository, which holds nothing else. Both are recovered to the same
// position and all their files are compared, page by page.
//
// PGBAK_ORACLE_SEED repeats a run (as far as the schedule of the sessions lets
// it), PGBAK_ORACLE_ROUNDS makes it longer; the usual is one round for each major.
func TestTheOracle(t *testing.T) {
	rounds, err := strconv.Atoi(cmpOr(os.Getenv("PGBAK_ORACLE_ROUNDS"), "1"))
	if err != nil {
		t.Fatal(err)
	}
	seed, err := strconv.ParseUint(cmpOr(os.Getenv("PGBAK_ORACLE_SEED"), fmt.Sprint(time.Now().UnixNano())), 10, 64)
	if err != nil {
		t.Fatal(err)
	}
	for _, major := range pgtest.Majors() {
		t.Run(fmt.Sprint("PostgreSQL ", major), func(t *testing.T) {
			t.Parallel()
			for n := range uint64(rounds) {
				t.Run(fmt.Sprint("seed ", seed+n), func(t *testing.T) { newOracle(t, major, seed+n).ask(t) })
			}
		})
	}
}

func cmpOr(a, b string) string {
	if a != "" {
		return a
	}
	return b
}

// oracle is one round.
type oracle struct {
	*host
	*rand.Rand
	second    string // the directory of the repository of the other full backup
	way       string // that incremental backups must take
	checksums bool
	work      *workload
	crashed   int
	during    int64 // actions that succeeded while a backup ran
}

func newOracle(t *testing.T, major int, seed uint64) *oracle {
	t.Helper()
	o := &oracle{Rand: rand.New(rand.NewPCG(seed, uint64(major)))}
	cluster := pgtest.Options{Major: major, SegmentSizeMB: 1 << o.IntN(7), NoChecksums: o.IntN(3) == 0, Config: map[string]string{
		"allow_in_place_tablespaces": "on", "log_checkpoints": "off", "autovacuum_naptime": "1s", "autovacuum_vacuum_threshold": "20",
		"autovacuum_vacuum_scale_factor": "0.01", "autovacuum_vacuum_cost_delay": "0", "max_wal_size": "256MB",
		"autovacuum": o.onOff(), "wal_log_hints": o.onOff(), "wal_compression": o.onOff(),
		"shared_buffers": []string{"2MB", "8MB", "64MB"}[o.IntN(3)],
	}}
	summarize := major >= 17 && o.IntN(3) > 0
	if summarize {
		cluster.Config["summarize_wal"] = "on"
	}
	o.checksums = !cluster.NoChecksums
	o.host = newHost(t, hostOptions{cluster: cluster})
	o.way = wayOf(o.Cluster, summarize)
	o.second = filepath.Join(o.dir, "second")
	o.configure(t, o.DataDir, o.DSN(), "\n  - name: second\n    url: file://"+o.second)
	o.expect(t, codeOK, "init")
	t.Logf("segments of %d MB, %v, backups by %s", cluster.SegmentSizeMB, cluster.Config, o.way)
	o.fill(t)
	return o
}

func (o *oracle) onOff() string { return []string{"on", "off"}[o.IntN(2)] }

// fill makes what the sessions share.
func (o *oracle) fill(t *testing.T) {
	t.Helper()
	space := filepath.Join(o.dir, "space")
	if err := os.Mkdir(space, 0o700); err != nil {
		t.Fatal(err)
	}
	pgtest.GiveToServer(t, space)
	for _, sql := range []string{
		"CREATE TABLESPACE far LOCATION '" + space + "'", "CREATE TABLESPACE inplace LOCATION ''",
		"CREATE TABLE shared (n int PRIMARY KEY, x text)", "INSERT INTO shared SELECT g, md5(g::text) FROM generate_series(1, 5000) g",
		"CREATE TABLE steady WITH (fillfactor = 85) AS SELECT g AS n, repeat(md5(g::text), 8) AS x FROM generate_series(1, 40000) g", "CREATE INDEX ON steady (n)",
		"CREATE SEQUENCE counter", "CHECKPOINT",
	} {
		o.Exec(t, sql)
	}
	for _, extension := range []string{"amcheck", "pg_visibility", "bloom"} {
		queryIn(t, o.Cluster, "template1", "CREATE EXTENSION "+extension)
		o.Exec(t, "CREATE EXTENSION "+extension)
	}
	o.Exec(t, "CREATE DATABASE model")
	queryIn(t, o.Cluster, "model", "CREATE TABLE t (id bigserial PRIMARY KEY, v int, x text, big text, p point, a int[], r int4range); CREATE INDEX ON t USING gin (a)")
	queryIn(t, o.Cluster, "model", "INSERT INTO t (v, x) SELECT g, md5(g::text) FROM generate_series(1, 3000) g")
	for _, template := range []string{"model", "template1"} { // nothing is left to do for autovacuum
		queryIn(t, o.Cluster, template, "VACUUM (FREEZE, ANALYZE)")
	}
	o.work = newWorkload(o.Cluster, o.Rand, 3)
}

// pause lets the sessions work for a while.
func (o *oracle) pause() { time.Sleep(time.Duration(200+o.IntN(800)) * time.Millisecond) }

// ask is the round.
func (o *oracle) ask(t *testing.T) {
	local := o.store(t)
	o.work.start()
	o.pause()
	incremental := o.take(t, local, repo.Full) // to begin with
	took(t, incremental, repo.Full, backup.WayFull)
	for n := 2 + o.IntN(3); n > 0; n-- {
		o.pause()
		if o.IntN(5) == 0 {
			o.crash(t)
		}
		typ := repo.Incremental
		if n > 1 && o.IntN(3) == 0 {
			typ = repo.Differential
		}
		st, way := storage.Store(local), o.way
		if way == backup.WayArchiveSummaries && o.IntN(2) == 0 {
			st, way = o.withoutWAL(t, local, incremental.Start.WAL), backup.WayPageHashes
		}
		incremental = o.take(t, st, typ)
		took(t, incremental, typ, way)
		t.Logf("%s backup %s: %+v %s", typ, incremental.Label, incremental.Ways, incremental.WayReason)
	}
	if o.IntN(2) == 0 {
		o.pause()
	}
	other, err := posix.Open(o.second)
	if err != nil {
		t.Fatal(err)
	}
	defer other.Close()
	full := o.take(t, other, repo.Full)
	took(t, full, repo.Full, backup.WayFull)
	o.pause()
	o.work.stop(t)
	o.judge(t, incremental, full)
}

// take takes a backup while the sessions work.
func (o *oracle) take(t *testing.T, st storage.Store, typ repo.BackupType) repo.BackupHeader {
	t.Helper()
	o.work.calm.Lock()
	defer o.work.calm.Unlock()
	before := o.work.done.Load()
	b := o.takeInto(t, st, typ)
	o.during += o.work.done.Load() - before
	return b
}

// withoutWAL hides a segment from what looks for changes: the server has no need of
// it after a checkpoint, and the repository's is not seen through what it gives.
func (o *oracle) withoutWAL(t *testing.T, st storage.Store, segment string) storage.Store {
	t.Helper()
	o.Exec(t, "CHECKPOINT")
	if err := os.Remove(filepath.Join(o.DataDir, "pg_wal", segment)); err != nil && !errors.Is(err, fs.ErrNotExist) {
		t.Fatal(err)
	}
	return faulty.OnOp(st, func(op, key string) error {
		if op == faulty.OpGet && strings.HasSuffix(key, "/"+segment) {
			return fmt.Errorf("%s: %w", key, storage.ErrNotExist)
		}
		return nil
	})
}

// crash kills the server between two backups.
func (o *oracle) crash(t *testing.T) {
	t.Helper()
	o.work.stop(t)
	o.Exec(t, "BEGIN; INSERT INTO shared SELECT g, 'lost' FROM generate_series(6000, 9000) g; SELECT pg_sleep(0.01); ROLLBACK")
	o.Kill(t)
	o.Start(t)
	o.crashed++
	o.work.start()
}

// judge recovers both backups to the position where the workload ended, and compares.
func (o *oracle) judge(t *testing.T, incremental, full repo.BackupHeader) {
	t.Helper()
	o.report(t)
	pgtest.GiveToServer(t, o.dir) // this process may be root
	want := committed(t, o.Cluster)
	target := o.Query(t, "SELECT pg_create_restore_point('oracle')")
	switchWAL(t, o.Cluster)
	o.Stop(t, "fast")
	a := o.recover(t, "local", incremental.Label, target)
	b := o.recover(t, "second", full.Label, target)
	c := comparison{a: a, b: b, checksums: o.checksums}
	c.compare(t)
	t.Logf("%d files, %v pages, %d of them equal only when masked, %d bytes of visibility maps differ", c.files, c.pages, c.masked, c.maps)
	var dumps []string
	for _, dir := range []string{a, b} {
		server := pgtest.Open(t, dir, o.Major, map[string]string{"autovacuum": "off"})
		server.WaitReady(t, time.Minute)
		sameText(t, "the committed state", committed(t, server), want)
		checkAll(t, server)
		c.explain(t, server)
		if o.Major <= pgtest.ToolMajor() {
			dumps = append(dumps, dumpAll(t, server))
		}
		server.Stop(t, "immediate")
	}
	if len(dumps) == 2 {
		sameText(t, "the dump", withoutSequences(dumps[0]), withoutSequences(dumps[1]))
	}
}

// report says what the sessions did, and fails the test when that was little.
func (o *oracle) report(t *testing.T) {
	t.Helper()
	total, done := 0, map[string]int{}
	for _, w := range o.work.workers {
		for name, n := range w.done {
			done[name] += n
			total += n
		}
	}
	t.Logf("%d actions, %d of them during backups, %d crashes: %v", total, o.during, o.crashed, done)
	if total < 20 || len(done) < 10 || o.during < 5 {
		t.Errorf("only %d actions of %d kinds succeeded, %d during backups", total, len(done), o.during)
	}
}

// recover restores a backup, lets a server recover it to the target to which no
// session ever connects, and stops it.
func (o *oracle) recover(t *testing.T, repository string, label repo.Label, target string) (dir string) {
	t.Helper()
	base := pgtest.TempDir(t)
	dir = filepath.Join(base, "data")
	o.expect(t, codeOK, "--repo", repository, "restore", "--set", string(label), "--target-dir", dir, "--archive-mode", "off",
		"--type", "lsn", "--target", target, "--target-action", "promote", "--tablespace-map", "far="+filepath.Join(base, "space"))
	verifyBackup(t, dir)
	c := pgtest.Open(t, dir, o.Major, map[string]string{"hot_standby": "off", "autovacuum": "off"})
	for deadline := time.Now().Add(2 * time.Minute); ; time.Sleep(20 * time.Millisecond) {
		data, err := os.ReadFile(filepath.Join(dir, "global", "pg_control"))
		if err != nil {
			t.Fatal(err)
		}
		// The signal file goes when recovery ends: before that pg_control may be as it was copied.
		control, err := postgres.ParseControl(data) // a read while the server writes may not parse
		if !exists(filepath.Join(dir, "recovery.signal")) && err == nil && control.State == postgres.ControlInProduction {
			break
		}
		if !c.Running() || time.Now().After(deadline) {
			t.Fatalf("%s backup %s was not recovered to %s", repository, label, target)
		}
	}
	c.Stop(t, "fast")
	return dir
}

// checkAll lets the server's own extensions judge every database.
func checkAll(t *testing.T, c *pgtest.Cluster) {
	t.Helper()
	databases := c.Query(t, "SELECT datname FROM pg_database WHERE datallowconn AND datname <> 'template0'")
	for _, database := range strings.Fields(databases) {
		queryIn(t, c, database, `SELECT bt_index_check(c.oid, true) FROM pg_class c JOIN pg_am a ON a.oid = c.relam JOIN pg_index i ON i.indexrelid = c.oid
			WHERE a.amname = 'btree' AND c.relkind = 'i' AND i.indisvalid AND c.relpersistence = 'p'`)
		checks := []string{"pg_check_visible", "pg_check_frozen"}
		if c.Major >= 14 {
			checks = append(checks, "verify_heapam")
		}
		for _, check := range checks {
			if wrong := queryIn(t, c, database, fmt.Sprintf(`SELECT c.oid::regclass, v.* FROM pg_class c, %s(c.oid) v
				WHERE c.relkind IN ('r', 't', 'm') AND c.relpersistence = 'p' LIMIT 10`, check)); wrong != "" {
				t.Errorf("database %s, %s: %s", database, check, wrong)
			}
		}
	}
	// WAL may run ahead of a sequence, never behind: a value that is in use would come again.
	for _, table := range strings.Fields(c.Query(t, `SELECT attrelid::regclass FROM pg_attribute a JOIN pg_class c ON c.oid = attrelid
		WHERE attname = 'id' AND relkind = 'r' AND relpersistence = 'p' AND relname LIKE 'w%' AND pg_get_serial_sequence(attrelid::regclass::text, 'id') IS NOT NULL`)) {
		if behind := c.Query(t, fmt.Sprintf("SELECT max(id), last_value FROM %s, %s_id_seq GROUP BY last_value HAVING max(id) > last_value", table, table)); behind != "" {
			t.Errorf("the sequence of %s is behind: %s", table, behind)
		}
	}
}

// withoutSequences leaves out how far sequences are: WAL runs ahead of them.
func withoutSequences(dump string) string {
	var kept []string
	for _, line := range strings.Split(dump, "\n") {
		if !strings.HasPrefix(line, "SELECT pg_catalog.setval(") {
			kept = append(kept, line)
		}
	}
	return strings.Join(kept, "\n")
}
