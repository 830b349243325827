package backup

import (
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/pgbak/pgbak/internal/pgtest"
	"github.com/pgbak/pgbak/internal/postgres"
	"github.com/pgbak/pgbak/repo"
	"github.com/pgbak/pgbak/storage"
)

// writtenWAL is what a server left in pg_wal: segments of 1 MiB over two
// timelines, the last of which it did not fill. It was stopped in between.
type writtenWAL struct {
	dir      string
	identity repo.Identity
	pageSize int
	history  postgres.History
	from, to postgres.LSN // where checkpoints begin
	segments []string     // from's to to's on the way to timeline 2
	summary  *postgres.BlockTable
}

// writeWAL makes the server write WAL of many kinds between two checkpoints,
// and be promoted in between. From 17 on the server summarizes it too.
func writeWAL(t *testing.T, major int) *writtenWAL {
	t.Helper()
	config := map[string]string{"archive_mode": "on", "archive_command": "false", "wal_level": "logical", "max_prepared_transactions": "5"}
	if major >= 17 {
		config["summarize_wal"] = "on"
	}
	c := pgtest.Start(t, pgtest.Options{Major: major, SegmentSizeMB: 1, Config: config})
	redo := func() (lsn postgres.LSN) {
		c.Exec(t, "CHECKPOINT")
		lsn, err := postgres.ParseLSN(strings.TrimSpace(c.Query(t, "SELECT redo_lsn FROM pg_control_checkpoint()")))
		if err != nil {
			t.Fatal(err)
		}
		return lsn
	}
	work := func(name string) {
		c.Exec(t, strings.ReplaceAll("CREATE TABLE $ AS SELECT n, repeat('x', 100) FROM generate_series(1, 15000) n; CREATE INDEX ON $ (n);"+
			"UPDATE $ SET n = -n WHERE n % 7 = 0; DELETE FROM $ WHERE n > 9000", "$", name))
		c.Exec(t, "VACUUM "+name)
		c.Exec(t, "SELECT pg_logical_emit_message(true, 'pgbak', repeat('y', 2500000))")
		c.Exec(t, "CREATE DATABASE "+name)
		c.Exec(t, "BEGIN; CREATE TABLE dropped (n int); INSERT INTO dropped VALUES (1); PREPARE TRANSACTION '"+name+"'")
		c.Exec(t, "COMMIT PREPARED '"+name+"'")
		c.Exec(t, "DROP TABLE dropped; SELECT pg_switch_wal()")
	}
	work("before")
	w := &writtenWAL{dir: filepath.Join(c.DataDir, "pg_wal"), from: redo()}
	work("first")
	c.Stop(t, "fast")
	signal := filepath.Join(c.DataDir, "standby.signal")
	if err := os.WriteFile(signal, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	pgtest.GiveToServer(t, signal)
	c.Start(t)
	c.Promote(t)
	c.WaitFor(t, "SELECT pg_is_in_recovery()", "f", 3*time.Minute)
	work("second")
	w.to = redo()
	if major >= 17 {
		c.WaitFor(t, fmt.Sprintf("SELECT summarized_lsn >= '%s' FROM pg_get_wal_summarizer_state()", w.to), "t", time.Minute)
	}
	w.look(t, c.DataDir)
	return w
}

// look reads what the tests need while the server runs on.
func (w *writtenWAL) look(t *testing.T, dataDir string) {
	t.Helper()
	_, control, err := readControl(t.Context(), dataDir)
	if err != nil {
		t.Fatal(err)
	}
	w.identity = repo.Identity{SystemID: control.SystemID, Major: control.Major, SegmentSize: control.WALSegmentSize, BlockSize: control.BlockSize,
		CatalogVersion: control.CatalogVersion, ControlVersion: control.ControlVersion}
	w.pageSize = control.WALBlockSize
	data, err := os.ReadFile(filepath.Join(w.dir, "00000002.history"))
	if err != nil {
		t.Fatal(err)
	}
	if w.history, err = postgres.ParseHistory(2, data); err != nil {
		t.Fatal(err)
	}
	src := walSource{identity: w.identity, pageSize: w.pageSize}
	for n := w.from.Segment(w.identity.SegmentSize); n <= w.to.Segment(w.identity.SegmentSize); n++ {
		f := src.file(w.history, n)
		w.segments = append(w.segments, f.Name(w.identity.SegmentSize))
	}
	if w.identity.Major < 17 {
		return
	}
	own := os.DirFS(filepath.Join(dataDir, filepath.FromSlash(postgres.SummariesDirectory)))
	files, err := postgres.ListSummaries(own)
	if err != nil {
		t.Fatal(err)
	}
	if files, err = postgres.CoverSummaries(files, w.history, 1, w.from, w.to); err != nil {
		t.Fatal(err)
	}
	if w.summary, err = postgres.ReadSummaries(own, files); err != nil {
		t.Fatal(err)
	}
}

// read is the beginning of a segment.
func (w *writtenWAL) read(t *testing.T, name string) []byte {
	t.Helper()
	data, err := os.ReadFile(filepath.Join(w.dir, name))
	if err != nil {
		t.Fatal(err)
	}
	return data
}

// archived is a stanza with all segments of w that are full and not left out;
// without gives the names of those that are stored without a summary, alone of
// those whose summary was made without the segment before.
func (w *writtenWAL) archived(t *testing.T, st storage.Store, left, without, alone []string) *repo.Stanza {
	t.Helper()
	r, err := repo.Create(t.Context(), st, repo.Options{Clock: time.Now})
	if err != nil {
		t.Fatal(err)
	}
	s, err := r.CreateStanza(t.Context(), "main", w.identity)
	if err != nil {
		t.Fatal(err)
	}
	for _, name := range w.segments[:max(0, len(w.segments)-1)] {
		if slices.Contains(left, name) {
			continue
		}
		f, err := postgres.ParseWALFile(name, w.identity.SegmentSize)
		if err != nil {
			t.Fatal(err)
		}
		c := repo.NewWALContent(storage.Bytes(w.read(t, name)))
		if !slices.Contains(without, name) {
			c.Summarize(func(data []byte) (repo.WALSummary, error) {
				sum, err := postgres.SummarizeSegment(w.identity.Major, w.identity.SegmentSize, w.pageSize, f, data, func(name string, offset int64) ([]byte, error) {
					if slices.Contains(alone, f.Name(w.identity.SegmentSize)) {
						return nil, os.ErrNotExist
					}
					return w.read(t, name)[offset:], nil
				})
				return repo.WALSummary{Timeline: sum.Timeline, From: sum.From, To: sum.To, Table: sum.Table.Encode()}, err
			})
		}
		if _, err := s.PutWAL(t.Context(), w.identity, f, c); err != nil {
			t.Fatal(err)
		}
		c.Close()
	}
	return s
}

// scanned is what a reading of all bytes of the range gives.
func (w *writtenWAL) scanned(t *testing.T, from, to postgres.LSN) *postgres.BlockTable {
	t.Helper()
	s := postgres.NewWALSummarizer(w.identity.Major, w.identity.SegmentSize, w.pageSize, from, to)
	for _, name := range w.segments {
		f, err := postgres.ParseWALFile(name, w.identity.SegmentSize)
		if err != nil {
			t.Fatal(err)
		}
		if err := s.Scan(f.Start(w.identity.SegmentSize), f.Timeline, w.read(t, name)); err != nil {
			t.Fatal(err)
		}
	}
	if s.From() != from || s.To() < to {
		t.Fatalf("the WAL tells of %s to %s, want %s to %s", s.From(), s.To(), from, to)
	}
	return s.Table()
}

// holdsAll fails when got lacks something of want: pages that an incremental
// backup would not read though they have changed.
func holdsAll(t *testing.T, title string, got, want *postgres.BlockTable) {
	t.Helper()
	missing := 0
	for _, f := range want.ForkIDs() {
		if f.Fork == postgres.FSMFork || f.Fork == postgres.VMFork {
			continue // always read whole
		}
		limit, known := got.Limit(f)
		if below, _ := want.Limit(f); !known || limit > below {
			t.Errorf("%s: the limit of %v is %d (%v), want at most %d", title, f, limit, known, below)
			continue
		}
		marked := slices.Collect(got.Blocks(f, 0, postgres.NoLimit))
		for block := range want.Blocks(f, 0, limit) {
			if _, found := slices.BinarySearch(marked, block); !found {
				missing++
			}
		}
	}
	if missing > 0 || want.Forks() < 10 {
		t.Errorf("%s: %d blocks of %d forks are missing", title, missing, want.Forks())
	}
}

func (w *writtenWAL) source(s *repo.Stanza) walSource {
	return walSource{stanza: s, identity: w.identity, pageSize: w.pageSize}
}

func (w *writtenWAL) changes(t *testing.T, src walSource) (*postgres.BlockTable, walCoverage, error) {
	return walChanges(t.Context(), src, w.history, 1, w.from, w.to)
}
