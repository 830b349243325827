package postgres_test

import (
	"bytes"
	"compress/gzip"
	"encoding/json"
	"flag"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/pgbak/pgbak/internal/pgtest"
	"github.com/pgbak/pgbak/internal/postgres"
)

var updateWAL = flag.Bool("update-wal", false, "write what the servers did to testdata/postgres/wal")

// walSamples holds, of each major, the segments that a run of this test got
// from a server, MAJOR.wal.gz, and what the judges said of them, MAJOR.json.gz.
// To make them anew: go test ./internal/postgres -run Agrees -update-wal
const walSamples = "../../testdata/postgres/wal"

// walSample is some WAL of a real server, and what is in it according to others
// than the scanner.
type walSample struct {
	Major       int               `json:"major"`
	Judge       string            `json:"judge"`
	SegmentSize int64             `json:"segment-size"`
	PageSize    int               `json:"page-size"`
	Timeline    postgres.Timeline `json:"timeline"`
	// Start is where the first segment starts, End where the last record ends.
	Start  postgres.LSN  `json:"start"`
	End    postgres.LSN  `json:"end"`
	Events []judgedEvent `json:"events"`

	// Segments one after the other.
	data []byte
}

// judgedEvent is an event as the judge tells it. LSN is 0 and Time null where
// it does not know.
type judgedEvent struct {
	LSN  postgres.LSN `json:"lsn"`
	End  postgres.LSN `json:"end"`
	Kind string       `json:"kind"`
	XID  uint32       `json:"xid,omitempty"`
	Time *time.Time   `json:"time,omitempty"`
	Name string       `json:"name,omitempty"`
}

// walWorkload makes a server write every kind of record that ends a
// transaction, a commit that crosses into the next segment because it names 220
// subtransactions and has less than 1000 bytes left, and a segment that is not
// filled. The last restore point has the longest name.
const walWorkload = `
	CREATE TABLE t (n int);
	INSERT INTO t VALUES (1);
	SELECT pg_create_restore_point('first');
	BEGIN; INSERT INTO t VALUES (2); ROLLBACK;
	BEGIN; CREATE TABLE gone (n int); INSERT INTO gone VALUES (1); ROLLBACK;
	BEGIN; SAVEPOINT a; INSERT INTO t VALUES (3); RELEASE a; SAVEPOINT b; INSERT INTO t VALUES (4); ROLLBACK TO b; COMMIT;
	CREATE TABLE dropped (n serial PRIMARY KEY, s text); DROP TABLE dropped;
	BEGIN; INSERT INTO t VALUES (5); PREPARE TRANSACTION 'plain';
	BEGIN; INSERT INTO t VALUES (6); PREPARE TRANSACTION 'undone';
	COMMIT PREPARED 'plain';
	ROLLBACK PREPARED 'undone';
	CREATE TABLE dropped (n serial PRIMARY KEY, s text);
	BEGIN; DROP TABLE dropped; SAVEPOINT a; INSERT INTO t VALUES (7); RELEASE a; CREATE TABLE made (s text); PREPARE TRANSACTION 'all its parts';
	COMMIT PREPARED 'all its parts';
	BEGIN; SAVEPOINT a; INSERT INTO t VALUES (8); RELEASE a; CREATE TABLE unmade (s text); PREPARE TRANSACTION 'all its parts';
	ROLLBACK PREPARED 'all its parts';
	SELECT pg_replication_origin_create('elsewhere');
	SELECT pg_replication_origin_session_setup('elsewhere');
	BEGIN; SELECT pg_replication_origin_xact_setup('0/1234', '2020-02-02 02:02:02+00'); INSERT INTO t VALUES (9); COMMIT;
	SELECT pg_replication_origin_session_reset();
	DO $$ BEGIN FOR i IN 1..60 LOOP INSERT INTO t VALUES (i); IF i % 7 = 0 THEN ROLLBACK; ELSE COMMIT; END IF; END LOOP; END $$;
	BEGIN;
	DO $$ BEGIN FOR i IN 1..220 LOOP BEGIN INSERT INTO t VALUES (i); EXCEPTION WHEN division_by_zero THEN NULL; END; END LOOP; END $$;
	SELECT pg_logical_emit_message(false, 'fill', repeat('x', ((1048576 - (pg_current_wal_insert_lsn() - '0/0') % 1048576) * 8168 / 8192)::int - 600));
	COMMIT;
	BEGIN;
	DO $$ BEGIN FOR i IN 1..220 LOOP BEGIN INSERT INTO t VALUES (i); EXCEPTION WHEN division_by_zero THEN NULL; END; END LOOP; END $$;
	PREPARE TRANSACTION 'long';
	COMMIT PREPARED 'long';
	SELECT pg_create_restore_point('before the switch');
	SELECT pg_switch_wal();
	INSERT INTO t VALUES (10);
	SELECT pg_create_restore_point('a name of sixty-three bytes, which is the longest there can be.');
	INSERT INTO t VALUES (11)`

func TestWALScannerAgreesWithTheServers(t *testing.T) {
	for _, major := range pgtest.Majors() {
		t.Run(fmt.Sprintf("PostgreSQL %d", major), func(t *testing.T) {
			sample := writeWAL(t, major)
			compareWAL(t, sample)
			if major == pgtest.ToolMajor() {
				t.Run("judged by pg_waldump", func(t *testing.T) {
					sample.Events = judgeByWaldump(t, sample)
					compareWAL(t, sample)
				})
			}
			if *updateWAL {
				sample.save(t)
			}
		})
	}
}

// writeWAL has a server of the major do the work, and takes its WAL and its
// word about it.
func writeWAL(t *testing.T, major int) walSample {
	t.Helper()
	c := pgtest.Start(t, pgtest.Options{Major: major, SegmentSizeMB: 1, Config: map[string]string{
		"max_prepared_transactions": "5", "track_commit_timestamp": "on", "autovacuum": "off",
		"wal_compression": "on", "checkpoint_timeout": "1h", "wal_keep_size": "64MB", "timezone": "UTC",
	}})
	if major >= 15 {
		c.Exec(t, "CREATE EXTENSION pg_walinspect")
	}
	c.Exec(t, "SELECT pg_switch_wal()")
	sample := walSample{Major: major, SegmentSize: 1 << 20, PageSize: 8 << 10, Timeline: 1}
	sample.Start = lsnOf(t, c, "pg_current_wal_insert_lsn()")
	sample.Start -= sample.Start % (1 << 20)
	firstXID := c.Query(t, "SELECT txid_snapshot_xmax(txid_current_snapshot())")

	conn := c.Connect(t)
	for statement := range strings.Lines(walWorkload) {
		// One by one, because a string of several would be one transaction.
		for _, part := range splitStatements(statement) {
			if _, err := conn.Exec(t.Context(), part).ReadAll(); err != nil {
				t.Fatalf("%s: %v", part, err)
			}
		}
	}
	// A server writes now and then without being asked, and flushes that later.
	// What the judge and the files say is of the same moment if all was flushed
	// before, and nothing written meanwhile.
	for range 100 {
		sample.End = lsnOf(t, c, "pg_current_wal_insert_lsn()")
		if lsnOf(t, c, "pg_current_wal_flush_lsn()") == sample.End {
			sample.collect(t, c, firstXID)
			if lsnOf(t, c, "pg_current_wal_insert_lsn()") == sample.End {
				return sample
			}
		}
		time.Sleep(50 * time.Millisecond)
	}
	t.Fatal("the server does not stop writing")
	return walSample{}
}

// collect takes the segments up to the end, and the judge's word about them.
func (s *walSample) collect(t *testing.T, c *pgtest.Cluster, firstXID string) {
	t.Helper()
	s.Events, s.data = nil, nil
	if s.Major >= 15 {
		s.judgeByWalinspect(t, c)
	} else {
		s.judgeByServer(t, c, firstXID)
	}
	for at := s.Start; at < s.End; at += 1 << 20 {
		name := postgres.WALFile{Kind: postgres.WALSegment, Timeline: 1, Segment: at.Segment(1 << 20)}.Name(1 << 20)
		segment, err := os.ReadFile(filepath.Join(c.DataDir, "pg_wal", name))
		if err != nil {
			t.Fatal(err)
		}
		s.data = append(s.data, segment...)
	}
}

// splitStatements splits a line of SQL, but not the body of a DO.
func splitStatements(line string) []string {
	line = strings.TrimSpace(line)
	if strings.HasPrefix(line, "DO ") {
		return []string{line}
	}
	var parts []string
	for part := range strings.SplitSeq(line, ";") {
		if part = strings.TrimSpace(part); part != "" {
			parts = append(parts, part)
		}
	}
	return parts
}

func lsnOf(t *testing.T, c *pgtest.Cluster, expression string) postgres.LSN {
	t.Helper()
	lsn, err := postgres.ParseLSN(c.Query(t, "SELECT "+expression))
	if err != nil {
		t.Fatal(err)
	}
	return lsn
}

// save writes the sample for TestWALScannerOnSamples.
func (s *walSample) save(t *testing.T) {
	t.Helper()
	text, err := json.MarshalIndent(s, "", " ")
	if err != nil {
		t.Fatal(err)
	}
	if err := os.MkdirAll(walSamples, 0o755); err != nil {
		t.Fatal(err)
	}
	// Behind the end is what the last segment held in its life before. One page
	// of that says as much as all.
	used := (int64(s.End-s.Start)/int64(s.PageSize) + 2) * int64(s.PageSize)
	data := s.data[:min(used, int64(len(s.data)))]
	for suffix, content := range map[string][]byte{".json.gz": text, ".wal.gz": data} {
		var packed bytes.Buffer
		w, err := gzip.NewWriterLevel(&packed, gzip.BestCompression)
		if err != nil {
			t.Fatal(err)
		}
		if _, err := w.Write(content); err != nil {
			t.Fatal(err)
		}
		if err := w.Close(); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(filepath.Join(walSamples, strconv.Itoa(s.Major)+suffix), packed.Bytes(), 0o644); err != nil {
			t.Fatal(err)
		}
	}
}

// loadWALSample reads what save wrote.
func loadWALSample(t testing.TB, major int) walSample {
	t.Helper()
	read := func(suffix string) []byte {
		file, err := os.Open(filepath.Join(walSamples, strconv.Itoa(major)+suffix))
		if err != nil {
			t.Fatal(err)
		}
		defer file.Close()
		unpacked, err := gzip.NewReader(file)
		if err != nil {
			t.Fatal(err)
		}
		content, err := io.ReadAll(unpacked)
		if err != nil {
			t.Fatal(err)
		}
		return content
	}
	var s walSample
	if err := json.Unmarshal(read(".json.gz"), &s); err != nil {
		t.Fatal(err)
	}
	s.data = read(".wal.gz")
	return s
}
