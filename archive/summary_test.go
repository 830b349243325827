package archive

import (
	"bytes"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"testing"

	"github.com/pgbak/pgbak/internal/pgtest"
	"github.com/pgbak/pgbak/internal/postgres"
	"github.com/pgbak/pgbak/repo"
	"github.com/pgbak/pgbak/storage/faulty"
	"github.com/pgbak/pgbak/storage/mem"
)

// pushLogged pushes to s and gives what was logged.
func pushLogged(t *testing.T, s *repo.Stanza, path string) string {
	t.Helper()
	p, err := NewPusher(pushTo("local", s))
	if err != nil {
		t.Fatal(err)
	}
	var log bytes.Buffer
	p.Log = slog.New(slog.NewTextHandler(&log, &slog.HandlerOptions{Level: slog.LevelDebug}))
	if _, err := p.Push(t.Context(), path); err != nil {
		t.Fatal(err)
	}
	return log.String()
}

func summaryOf(t *testing.T, s *repo.Stanza, name string) (repo.WALSummary, error) {
	t.Helper()
	f, err := postgres.ParseWALFile(name, s.Current().SegmentSize)
	if err != nil {
		t.Fatal(err)
	}
	return s.WALSummary(t.Context(), s.Current(), f)
}

// written is a stopped server with some segments of 1 MiB that are ready, and
// the relation that they tell of.
type written struct {
	wal      string   // pg_wal
	segments []string // one behind the other
	identity repo.Identity
	relation postgres.RelationForkID
	pages    uint32
}

func writeWAL(t *testing.T, major int) written {
	t.Helper()
	c := pgtest.Start(t, pgtest.Options{Major: major, SegmentSizeMB: 1,
		Config: map[string]string{"archive_mode": "on", "archive_command": "false", "wal_level": "logical"}})
	c.Exec(t, "CREATE TABLE t AS SELECT n, repeat('x', 100) FROM generate_series(1, 20000) n")
	// A record that fills segments: no record ends in some of them.
	c.Exec(t, "SELECT pg_logical_emit_message(true, 'pgbak', repeat('y', 3500000))")
	c.Exec(t, "UPDATE t SET n = n + 1")
	c.Exec(t, "SELECT pg_switch_wal()")
	w := written{wal: filepath.Join(c.DataDir, "pg_wal")}
	fields := strings.Split(strings.TrimSpace(c.Query(t, "SELECT d.oid || ' ' || pg_relation_filenode('t') || ' ' || pg_relation_size('t') / 8192 FROM pg_database d WHERE datname = current_database()")), " ")
	var numbers []uint32
	for _, f := range fields {
		n, err := strconv.ParseUint(f, 10, 32)
		if err != nil {
			t.Fatal(err)
		}
		numbers = append(numbers, uint32(n))
	}
	w.relation = postgres.RelationForkID{Tablespace: postgres.DefaultTablespace, Database: numbers[0], Node: numbers[1]}
	w.pages = numbers[2]
	c.Stop(t, "fast")
	w.identity = serverIdentity(t, c.DataDir)
	for _, name := range readyFiles(t, w.wal) {
		if f, err := postgres.ParseWALFile(name, w.identity.SegmentSize); err == nil && f.Kind == postgres.WALSegment {
			w.segments = append(w.segments, name)
		}
	}
	if len(w.segments) < 6 {
		t.Fatalf("the server wrote %q", w.segments)
	}
	return w
}

// TestTheSummariesOfAllSegmentsAreOneChainThatNamesEveryBlock reads what a
// server wrote: where one summary ends the next begins, and a table that was
// created and filled is in them with all of its pages.
func TestTheSummariesOfAllSegmentsAreOneChainThatNamesEveryBlock(t *testing.T) {
	for _, major := range []int{13, 18} {
		t.Run(fmt.Sprint("PostgreSQL ", major), func(t *testing.T) {
			t.Parallel()
			w := writeWAL(t, major)
			st := faulty.OnOp(mem.New(), func(string, string) error { return nil })
			s := newStanza(t, st, w.identity)
			var all postgres.BlockTable
			var at postgres.LSN
			without := 0
			for _, name := range w.segments {
				before := len(st.Trace())
				log := pushLogged(t, s, filepath.Join(w.wal, name))
				asked := slices.DeleteFunc(st.Trace()[before:], func(op string) bool { return strings.HasPrefix(op, faulty.OpRead+" ") })
				if len(asked) != 2 || !strings.HasPrefix(asked[0], faulty.OpStat+" ") { // is it there, and the put
					t.Errorf("%s: the push asked %q", name, asked)
				}
				sum, err := summaryOf(t, s, name)
				if errors.Is(err, repo.ErrNoSummary) {
					without++
					if !strings.Contains(log, "no record ends in it") {
						t.Errorf("%s has no summary, and the log says %q", name, log)
					}
					continue
				}
				if err != nil {
					t.Fatal(err)
				}
				if at != 0 && (log != "" || sum.From != at) { // what came before the first is the work of initdb
					t.Errorf("%s: its summary begins at %s, the one before ended at %s; %q", name, sum.From, at, log)
				}
				at = sum.To
				table, err := postgres.DecodeBlockTable(sum.Table)
				if err != nil {
					t.Fatal(err)
				}
				all.Add(table)
			}
			if without == 0 || without > 3 {
				t.Errorf("%d segments have no summary; the record of 3.5 MB fills 2 or 3", without)
			}
			if limit, known := all.Limit(w.relation); !known || limit != 0 {
				t.Errorf("the table's limit is %d, %v", limit, known)
			}
			if n := all.Count(w.relation, 0, w.pages); uint32(n) != w.pages {
				t.Errorf("%d of %d pages are in the summaries", n, w.pages)
			}
		})
	}
}

// TestASegmentWhoseNeighbourIsGoneIsArchivedWithAHole: removed, used again for
// later WAL, torn, or no file at all.
func TestASegmentWhoseNeighbourIsGoneIsArchivedWithAHole(t *testing.T) {
	w := writeWAL(t, 16)
	s := newStanza(t, mem.New(), w.identity)
	var name, neighbour string
	var from postgres.LSN
	for i, n := range w.segments[1:] { // the first into which a record crosses
		pushLogged(t, s, filepath.Join(w.wal, n))
		sum, err := summaryOf(t, s, n)
		if err != nil {
			t.Fatal(err)
		}
		if f, _ := postgres.ParseWALFile(n, w.identity.SegmentSize); sum.From < f.Start(w.identity.SegmentSize) {
			name, neighbour, from = n, w.segments[i], sum.From
			break
		}
	}
	content := readFile(t, filepath.Join(w.wal, name))
	earlier := readFile(t, filepath.Join(w.wal, neighbour))
	for title, neighbourIs := range map[string]func(path string) error{
		"removed":      func(string) error { return nil },
		"recycled":     func(path string) error { return os.WriteFile(path, content, 0o600) },
		"torn":         func(path string) error { return os.WriteFile(path, earlier[:len(earlier)-1], 0o600) },
		"zeros":        func(path string) error { return os.WriteFile(path, make([]byte, len(earlier)), 0o600) },
		"a directory":  func(path string) error { return os.Mkdir(path, 0o700) },
		"another byte": func(path string) error { earlier[len(earlier)-1] ^= 1; return os.WriteFile(path, earlier, 0o600) },
	} {
		t.Run(title, func(t *testing.T) {
			dir := t.TempDir()
			if err := neighbourIs(filepath.Join(dir, neighbour)); err != nil {
				t.Fatal(err)
			}
			path := filepath.Join(dir, name)
			if err := os.WriteFile(path, content, 0o600); err != nil {
				t.Fatal(err)
			}
			s := newStanza(t, mem.New(), w.identity)
			log := pushLogged(t, s, path)
			mustHold(t, s, name, content)
			sum, err := summaryOf(t, s, name)
			if err != nil {
				t.Fatal(err)
			}
			if sum.From <= from || !strings.Contains(log, "its summary has a hole before it") || !strings.Contains(log, from.String()) {
				t.Errorf("it begins at %s, the record that crosses at %s; log %q", sum.From, from, log)
			}
		})
	}
}

func readFile(t *testing.T, path string) []byte {
	t.Helper()
	data, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	return data
}

func TestEarlierSegmentsAreReadWithinABound(t *testing.T) {
	name := walFileOf(1).Name(segmentSize)
	dir := filepath.Dir(writeFile(t, name, segment(testIdentity(17), walFileOf(1))))
	e := earlierWAL{dir: dir, segmentSize: segmentSize, left: segmentSize + 100}
	for _, test := range []struct {
		offset int64
		want   string
	}{{0, ""}, {segmentSize - 90, ""}, {segmentSize - 20, "more than 67108864 bytes"}, {segmentSize - 10, ""}} {
		data, err := e.read(name, test.offset)
		if test.want == "" && (err != nil || int64(len(data)) != segmentSize-test.offset) {
			t.Errorf("from %d on: %d bytes, %v", test.offset, len(data), err)
		}
		if test.want != "" {
			contains(t, err, test.want)
		}
	}
}

func TestWhatIsNoSegmentHasNoSummary(t *testing.T) {
	s := memStanza(t)
	for name, content := range map[string][]byte{
		walFileOf(1).Name(segmentSize) + ".partial":         segment(s.Current(), walFileOf(1)),
		walFileOf(1).Name(segmentSize) + ".00000028.backup": []byte("START WAL LOCATION: 0/100028\n"),
		"00000002.history": []byte("1\t0/2000000\tno reason\n"),
	} {
		if log := pushLogged(t, s, writeFile(t, name, content)); log != "" {
			t.Errorf("%s: %s", name, log)
		}
		if _, err := summaryOf(t, s, name); !errors.Is(err, repo.ErrNoSummary) {
			t.Errorf("%s: %v", name, err)
		}
	}
}
