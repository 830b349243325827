package postgres_test

import (
	"fmt"
	"math/rand/v2"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/pgbak/pgbak/internal/pgtest"
	"github.com/pgbak/pgbak/internal/postgres"
)

// changes is work of every kind that a server does in WAL, statements of one
// line, between bars, in an order that is drawn. %d is a number that is used once, %T
// a tablespace.
var changes = []string{
	`INSERT INTO heap SELECT n, repeat(md5(n::text), 1 + n % 4), ARRAY[n, n+1], point(n, n) FROM generate_series(1, 3000) n`,
	`UPDATE heap SET s = s || 'x' WHERE n % 17 = %d % 17`,
	`DELETE FROM heap WHERE n % 13 = %d % 13`,
	`DELETE FROM heap WHERE n > 500`,
	`VACUUM heap`,
	`VACUUM (FREEZE) heap`,
	`VACUUM FULL heap`,
	`CLUSTER heap USING heap_n`,
	`TRUNCATE heap`,
	`REINDEX TABLE heap`,
	`REINDEX TABLE CONCURRENTLY heap`,
	`CREATE INDEX btree%d ON heap (s, n)`,
	`CREATE INDEX hash%d ON heap USING hash (s)`,
	`CREATE INDEX gin%d ON heap USING gin (a)`,
	`CREATE INDEX gist%d ON heap USING gist (p)`,
	`CREATE INDEX spgist%d ON heap USING spgist (s)`,
	`CREATE INDEX brin%d ON heap USING brin (n)`,
	`CREATE INDEX CONCURRENTLY slow%d ON heap (s)`,
	`CREATE INDEX there%d ON heap (n) TABLESPACE %T`,
	`DO $$ DECLARE i text; BEGIN FOR i IN SELECT indexrelid::regclass FROM pg_index WHERE indrelid = 'heap'::regclass AND NOT indisclustered LOOP EXECUTE 'DROP INDEX ' || i; END LOOP; END $$`,
	`CREATE TABLE made%d (n int PRIMARY KEY, big text) | INSERT INTO made%d SELECT n, string_agg(md5((n*m)::text), '') FROM generate_series(1, 20) n, generate_series(1, 300) m GROUP BY n | UPDATE made%d SET big = big || n`,
	`BEGIN | CREATE TABLE gone%d AS SELECT n FROM generate_series(1, 5000) n | ROLLBACK`,
	`CREATE TABLE moved%d AS SELECT n FROM generate_series(1, 5000) n | ALTER TABLE moved%d SET TABLESPACE %T | UPDATE moved%d SET n = -n WHERE n < 100`,
	`BEGIN | CREATE TABLE kept%d (n serial) | INSERT INTO kept%d SELECT FROM generate_series(1, 2000) | SAVEPOINT a | CREATE TABLE unkept%d (n int) | INSERT INTO unkept%d VALUES (1) | ROLLBACK TO a | INSERT INTO heap VALUES (1) | COMMIT`,
	`BEGIN | CREATE TABLE prepared%d (n serial) | INSERT INTO prepared%d SELECT FROM generate_series(1, 2000) | PREPARE TRANSACTION 'p%d' | COMMIT PREPARED 'p%d' | DROP TABLE prepared%d`,
	`BEGIN | CREATE TABLE prepared%d (n serial) | INSERT INTO prepared%d SELECT FROM generate_series(1, 2000) | PREPARE TRANSACTION 'p%d' | ROLLBACK PREPARED 'p%d'`,
	`CREATE TABLE dropped%d (n serial) | BEGIN | DROP TABLE dropped%d | PREPARE TRANSACTION 'p%d' | COMMIT PREPARED 'p%d'`,
	`BEGIN | DO $$ BEGIN FOR i IN 1..200 LOOP EXECUTE format('CREATE TABLE many%s (n serial PRIMARY KEY, s text)', i); END LOOP; END $$ | COMMIT | BEGIN | DO $$ BEGIN FOR i IN 1..200 LOOP EXECUTE format('DROP TABLE many%s', i); END LOOP; END $$ | COMMIT`,
	`CREATE MATERIALIZED VIEW view%d AS SELECT n, s FROM heap | REFRESH MATERIALIZED VIEW view%d | DROP MATERIALIZED VIEW view%d`,
	`CREATE SEQUENCE seq%d | SELECT nextval('seq%d') FROM generate_series(1, 100) | ALTER SEQUENCE seq%d RESTART`,
	`CREATE UNLOGGED TABLE unlogged%d (n serial) | INSERT INTO unlogged%d SELECT FROM generate_series(1, 2000) | ALTER TABLE unlogged%d SET LOGGED | INSERT INTO unlogged%d DEFAULT VALUES`,
	`CREATE UNLOGGED TABLE unlogged%d (n serial PRIMARY KEY) | DROP TABLE unlogged%d`,
	`CREATE DATABASE copied%d`,
	`CREATE DATABASE copied%d STRATEGY file_copy`,
	`CREATE DATABASE there%d TABLESPACE %T`,
	`CREATE DATABASE gone%d | DROP DATABASE gone%d`,
	`CREATE DATABASE moved%d | ALTER DATABASE moved%d SET TABLESPACE %T`,
	`ALTER TABLE heap ADD COLUMN c%d int DEFAULT 5`,
	`ALTER TABLE heap ALTER COLUMN n TYPE bigint | ALTER TABLE heap ALTER COLUMN n TYPE int`,
	`SELECT lo_from_bytea(0, decode(repeat('abcdef', 30000), 'hex'))`,
	`SELECT count(*) FROM heap | SELECT * FROM heap WHERE n < 50 FOR UPDATE`,
	`ANALYZE`,
	`UPDATE still SET s = 'changed by %d' WHERE n / 500 % 20 = %d % 20`,
	`DELETE FROM still WHERE n > 25000 | VACUUM still | INSERT INTO still SELECT n FROM generate_series(25001, 26000) n`,
	`CHECKPOINT`,
	`SELECT pg_switch_wal()`,
	`SELECT pg_logical_emit_message(false, 'long', repeat('x', 2500000))`,
	`COMMENT ON TABLE heap IS 'comment %d'`,
}

// changingServer is a server that was made to write much WAL, all of which it keeps.
type changingServer struct {
	*pgtest.Cluster
	segmentSize int64
	// from is where a record starts, before which the files were those in old.
	from postgres.LSN
	old  map[string][]byte
}

// makeChanges starts a server and has it do everything in changes.
func makeChanges(t *testing.T, major int) *changingServer {
	t.Helper()
	config := map[string]string{
		"max_prepared_transactions": "5", "wal_keep_size": "4GB", "max_wal_size": "4GB", "checkpoint_timeout": "1h", "wal_level": "logical",
	}
	if major >= 17 {
		config["summarize_wal"] = "on"
	}
	s := &changingServer{Cluster: pgtest.Start(t, pgtest.Options{Major: major, SegmentSizeMB: 1, Config: config}), segmentSize: 1 << 20}
	if major >= 15 {
		s.Exec(t, "CREATE EXTENSION pg_walinspect")
	}
	for n := range 2 {
		s.Exec(t, fmt.Sprintf("CREATE TABLESPACE space%d LOCATION '%s'", n, pgtest.TempDir(t)))
	}
	s.Exec(t, `CREATE TABLE heap (n int, s text, a int[], p point); CREATE INDEX heap_n ON heap (n); CLUSTER heap USING heap_n`)
	s.Exec(t, "INSERT INTO heap SELECT n, repeat(md5(n::text), 3) FROM generate_series(1, 3000) n; CREATE TABLE still AS SELECT n, md5(n::text) || md5(n::text) AS s FROM generate_series(1, 30000) n")
	s.Exec(t, "CHECKPOINT")
	s.from, s.old = s.redo(t), s.relations(t)
	draw := rand.New(rand.NewPCG(uint64(major), 4))
	conn := s.Connect(t)
	order := draw.Perm(len(changes))
	if major >= 17 { // those with the best judges do all of it twice
		order = append(order, draw.Perm(len(changes))...)
	}
	for number, i := range order {
		line := strings.NewReplacer("%d", fmt.Sprint(number), "%T", fmt.Sprintf("space%d", number%2)).Replace(changes[i])
		if major < 15 {
			line = strings.ReplaceAll(line, " STRATEGY file_copy", "")
		}
		for part := range strings.SplitSeq(line, " | ") {
			if _, err := conn.Exec(t.Context(), part).ReadAll(); err != nil {
				t.Fatalf("%s: %v", part, err)
			}
		}
	}
	s.truncate(t)
	s.Exec(t, "CHECKPOINT")
	return s
}

// truncate has VACUUM give the end of a table back, which it does only when
// nobody is in its way, not even autovacuum.
func (s *changingServer) truncate(t *testing.T) {
	t.Helper()
	s.Exec(t, "CREATE TABLE cut AS SELECT n, md5(n::text) FROM generate_series(1, 20000) n")
	s.Exec(t, "DELETE FROM cut WHERE n > 100")
	for range 100 {
		s.Exec(t, "VACUUM cut")
		if s.Query(t, "SELECT pg_relation_size('cut') < 100000") == "t" {
			return
		}
		time.Sleep(100 * time.Millisecond)
	}
	t.Fatal("VACUUM did not truncate the table")
}

// redo is where the last checkpoint begins, and so does a record.
func (s *changingServer) redo(t *testing.T) postgres.LSN {
	t.Helper()
	return lsnOf(t, s.Cluster, "redo_lsn FROM pg_control_checkpoint()")
}

// relations reads all files of relations, by their paths.
func (s *changingServer) relations(t *testing.T) map[string][]byte {
	t.Helper()
	files := make(map[string][]byte)
	links, err := filepath.Glob(filepath.Join(s.DataDir, "pg_tblspc", "*"))
	if err != nil {
		t.Fatal(err)
	}
	for _, dir := range append(links, filepath.Join(s.DataDir, "base"), filepath.Join(s.DataDir, "global")) {
		// The slash goes through the link of a tablespace.
		err := filepath.WalkDir(dir+"/", func(path string, entry os.DirEntry, err error) error {
			name, _ := filepath.Rel(s.DataDir, path)
			if _, ok := postgres.ParseRelationPath(name); err != nil || !ok {
				return err
			}
			files[name], err = os.ReadFile(path)
			return err
		})
		if err != nil {
			t.Fatal(err)
		}
	}
	return files
}

// segment reads the segment that starts at at from pg_wal: that of timeline 2 if
// there is one.
func (s *changingServer) segment(t *testing.T, at postgres.LSN) (postgres.WALFile, []byte) {
	t.Helper()
	f := postgres.WALFile{Timeline: 2, Segment: at.Segment(s.segmentSize)}
	data, err := s.before(f.Name(s.segmentSize), 0)
	if os.IsNotExist(err) {
		f.Timeline = 1
		data, err = s.before(f.Name(s.segmentSize), 0)
	}
	if err != nil {
		t.Fatal(err)
	}
	return f, data
}

// before reads from pg_wal what SummarizeSegment asks for.
func (s *changingServer) before(name string, offset int64) ([]byte, error) {
	data, err := os.ReadFile(filepath.Join(s.DataDir, "pg_wal", name))
	if err != nil {
		return nil, err
	}
	return data[offset:], nil
}

// summarize reads the WAL from from to to.
func (s *changingServer) summarize(t *testing.T, from, to postgres.LSN) *postgres.BlockTable {
	t.Helper()
	size := postgres.LSN(s.segmentSize)
	w := postgres.NewWALSummarizer(s.Major, s.segmentSize, 8<<10, from, to)
	for at := from - from%size; at < to; at += size {
		f, data := s.segment(t, at)
		if err := w.Scan(at, f.Timeline, data); err != nil {
			t.Fatal(err)
		}
	}
	if w.From() != from || w.To() != to.RecordStart(s.segmentSize, 8<<10) {
		t.Fatalf("read %s to %s, want %s to %s", w.From(), w.To(), from, to)
	}
	return w.Table()
}
