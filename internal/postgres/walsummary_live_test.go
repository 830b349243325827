package postgres_test

import (
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"testing"
	"time"

	"github.com/pgbak/pgbak/internal/pgtest"
	"github.com/pgbak/pgbak/internal/postgres"
)

// startSummarized starts a server with small segments that it keeps, and some work done.
func startSummarized(t *testing.T, major int, config map[string]string) *changingServer {
	t.Helper()
	config["wal_keep_size"] = "1GB"
	if major >= 17 {
		config["summarize_wal"] = "on"
	}
	s := &changingServer{Cluster: pgtest.Start(t, pgtest.Options{Major: major, SegmentSizeMB: 1, Config: config}), segmentSize: 1 << 20}
	s.work(t, "first")
	s.from = s.redo(t)
	s.work(t, "second")
	return s
}

// work fills more than two segments and ends with a checkpoint.
func (s *changingServer) work(t *testing.T, name string) {
	t.Helper()
	s.Exec(t, fmt.Sprintf("CREATE TABLE %s AS SELECT n, md5(n::text) AS s FROM generate_series(1, 20000) n", name))
	s.Exec(t, "CHECKPOINT")
}

func TestWALThatAServerWroteAtLevelMinimalIsNotCovered(t *testing.T) {
	for _, major := range []int{slices.Min(pgtest.Majors()), slices.Max(pgtest.Majors())} {
		t.Run(fmt.Sprintf("PostgreSQL %d", major), func(t *testing.T) {
			s := startSummarized(t, major, map[string]string{"max_wal_senders": "0"})
			before := s.redo(t)
			s.summarize(t, s.from, before)
			for _, level := range []string{"minimal", "replica"} {
				s.Exec(t, "ALTER SYSTEM SET wal_level = "+level)
				if major >= 17 {
					s.Exec(t, "ALTER SYSTEM SET summarize_wal = off")
				}
				s.Restart(t)
				s.work(t, level)
			}
			after := s.redo(t)
			size := postgres.LSN(s.segmentSize)
			w := postgres.NewWALSummarizer(major, s.segmentSize, 8<<10, s.from, after)
			for at := s.from - s.from%size; at < after; at += size {
				f, data := s.segment(t, at)
				if err := w.Scan(at, f.Timeline, data); err != nil {
					t.Fatal(err)
				}
			}
			if !w.Minimal() || w.From() <= before || w.From() >= after || w.To() != after {
				t.Errorf("covers %s to %s, minimal %t, want what is between %s and %s", w.From(), w.To(), w.Minimal(), before, after)
			}
			node := number(t, s.Query(t, "SELECT pg_relation_filenode('replica')"))
			if limit, _ := w.Table().Limit(postgres.RelationForkID{
				Tablespace: postgres.DefaultTablespace, Database: number(t, s.Query(t, "SELECT oid FROM pg_database WHERE datname = current_database()")), Node: node,
			}); limit != 0 {
				t.Error("what was done after it is not covered")
			}
		})
	}
}

func TestSummariesOfSegmentsGoOnOverAPromotion(t *testing.T) {
	for _, major := range []int{slices.Min(pgtest.Majors()), slices.Max(pgtest.Majors())} {
		t.Run(fmt.Sprintf("PostgreSQL %d", major), func(t *testing.T) {
			s := startSummarized(t, major, map[string]string{})
			s.Stop(t, "fast")
			signal := filepath.Join(s.DataDir, "standby.signal")
			if err := os.WriteFile(signal, nil, 0o600); err != nil {
				t.Fatal(err)
			}
			pgtest.GiveToServer(t, signal)
			s.Start(t)
			s.Promote(t)
			s.work(t, "third")
			end := s.redo(t)

			segments := 0
			var to postgres.LSN
			size := postgres.LSN(s.segmentSize)
			for at := s.from - s.from%size + size; to < end; at += size {
				f, data := s.segment(t, at)
				sum, err := postgres.SummarizeSegment(major, s.segmentSize, 8<<10, f, data, s.before)
				if err != nil || sum.Hole != nil || to != 0 && sum.From != to || sum.To <= sum.From {
					t.Fatalf("%s: from %s to %s, after %s: %v, hole %v", f.Name(s.segmentSize), sum.From, sum.To, to, err, sum.Hole)
				}
				to, segments = sum.To, segments+int(f.Timeline)
			}
			if segments < 5 { // one at least of timeline 1, two of timeline 2
				t.Error("too few segments to say anything")
			}
			if major >= 17 {
				s.comparePromoted(t, end)
			}
		})
	}
}

// comparePromoted compares what the server says of both timelines with one reading
// of the segments of both.
func (s *changingServer) comparePromoted(t *testing.T, end postgres.LSN) {
	t.Helper()
	s.WaitFor(t, fmt.Sprintf("SELECT max(end_lsn) >= '%s' FROM pg_available_wal_summaries()", end), "t", time.Minute)
	dir := os.DirFS(filepath.Join(s.DataDir, filepath.FromSlash(postgres.SummariesDirectory)))
	files, err := postgres.ListSummaries(dir)
	if err != nil {
		t.Fatal(err)
	}
	files = slices.DeleteFunc(files, func(f postgres.SummaryFile) bool { return f.Start < s.from || f.Start >= end })
	slices.SortFunc(files, func(a, b postgres.SummaryFile) int { return int(a.Start) - int(b.Start) })
	theirs, err := postgres.ReadSummaries(dir, files)
	if err != nil {
		t.Fatal(err)
	}
	if len(files) < 2 || files[0].Timeline != 1 || files[len(files)-1].Timeline != 2 || files[len(files)-1].End != end {
		t.Fatalf("the server's summaries are %+v, want them from %s to %s", files, s.from, end)
	}
	compareTables(t, belowLimits(withoutVM(s.summarize(t, s.from, end))), belowLimits(withoutVM(theirs)))
}
