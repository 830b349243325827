package backup

import (
	"context"
	"errors"
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
	"github.com/pgbak/pgbak/storage/faulty"
	"github.com/pgbak/pgbak/storage/mem"
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
	c.WaitFor(t, "SELECT pg_is_in_recovery()", "f", time.Minute)
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
	for _, name := range w.segments[:len(w.segments)-1] {
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

// TestChangesComeFromSummariesAndHolesFromWAL looks for the changes of a range
// over two timelines in archives of every kind. On 17 and later the server's own
// summaries judge what is found; on all majors, a reading of all the WAL.
func TestChangesComeFromSummariesAndHolesFromWAL(t *testing.T) {
	for _, major := range pgtest.Majors() {
		t.Run(fmt.Sprint("PostgreSQL ", major), func(t *testing.T) {
			t.Parallel()
			w := writeWAL(t, major)
			length := int64(w.to - w.from)
			tail := int64(w.to - postgres.WALFile{Segment: w.to.Segment(w.identity.SegmentSize)}.Start(w.identity.SegmentSize))
			want := w.scanned(t, w.from, w.to)
			middle := w.segments[1 : len(w.segments)-1]
			for _, test := range []struct {
				title                string
				left, without, alone []string
				local                string
				least, most          int64 // bytes scanned
			}{
				{"all have a summary, the last stretch is local", nil, nil, nil, w.dir, 1, tail},
				{"one has none", nil, middle[1:2], nil, w.dir, tail, tail + 3<<20},
				{"every other one has none", nil, everyOther(middle), nil, w.dir, 3 << 20, length},
				{"none has one", nil, w.segments, nil, w.dir, length, length},
				{"none is archived", w.segments, nil, nil, w.dir, length, length},
				{"all were made without the one before", nil, nil, w.segments, w.dir, tail + 1, length - 1},
			} {
				s := w.archived(t, mem.New(), test.left, test.without, test.alone)
				src := w.source(s)
				src.local = test.local
				got, coverage, err := w.changes(t, src)
				if err != nil {
					t.Errorf("%s: %v", test.title, err)
					continue
				}
				if coverage.Scanned < test.least || coverage.Scanned > test.most || coverage.Scanned+coverage.Summarized != length || coverage.Unusable != nil {
					t.Errorf("%s: %+v of %d bytes; want %d to %d scanned", test.title, coverage, length, test.least, test.most)
				}
				holdsAll(t, test.title, got, want)
				if w.summary != nil {
					holdsAll(t, test.title+", by the server", got, w.summary)
				}
			}
			w.withoutTheServer(t, want)
		})
	}
}

func everyOther(names []string) (out []string) {
	for i := 0; i < len(names); i += 2 {
		out = append(out, names[i])
	}
	return out
}

// withoutTheServer fills holes from the repository. The range ends where the
// last full segment does, for the stretch after it is nowhere.
func (w *writtenWAL) withoutTheServer(t *testing.T, want *postgres.BlockTable) {
	t.Helper()
	s := w.archived(t, mem.New(), nil, everyOther(w.segments), nil)
	_, _, err := w.changes(t, w.source(s))
	var uncovered *uncoveredError
	if !errors.As(err, &uncovered) || !errors.Is(err, storage.ErrNotExist) || uncovered.to != w.to {
		t.Errorf("the last stretch is nowhere: %v", err)
	}
	// A copy of pg_wal of which the files were used for other segments, and one
	// of another cluster.
	recycled, foreign := t.TempDir(), t.TempDir()
	for i, name := range w.segments {
		other := w.read(t, w.segments[(i+1)%len(w.segments)])
		stranger := w.read(t, name)
		stranger[24] ^= 1 // the system identifier
		if i == len(w.segments)-1 {
			other, stranger = w.read(t, name), w.read(t, name)
		}
		if err := errors.Join(os.WriteFile(filepath.Join(recycled, name), other, 0o600), os.WriteFile(filepath.Join(foreign, name), stranger, 0o600)); err != nil {
			t.Fatal(err)
		}
	}
	lost := w.source(w.archived(t, mem.New(), w.segments[2:3], nil, nil))
	for _, local := range []string{recycled, foreign} {
		lost.local = local
		if _, _, err := w.changes(t, lost); !errors.As(err, &uncovered) {
			t.Errorf("a segment is lost, and that of others is taken for it: %v", err)
		}
		src := w.source(s)
		src.local = local
		got, _, err := w.changes(t, src)
		if err != nil {
			t.Error(err)
			continue
		}
		holdsAll(t, "local files are of no use", got, want)
	}
}

// TestChangesThatCannotBeFoundSayWhichWAL uses what one server wrote in archives
// that do not suffice.
func TestChangesThatCannotBeFoundSayWhichWAL(t *testing.T) {
	t.Parallel()
	w := writeWAL(t, 16)
	whole := w.archived(t, mem.New(), nil, nil, nil)
	local := w.source(whole)
	local.local = w.dir
	lost := w.segments[3]
	f, err := postgres.ParseWALFile(lost, w.identity.SegmentSize)
	if err != nil {
		t.Fatal(err)
	}
	start := f.Start(w.identity.SegmentSize)
	expect := func(title string, err error, words ...string) {
		t.Helper()
		var uncovered *uncoveredError
		if !errors.As(err, &uncovered) {
			t.Errorf("%s: %v", title, err)
			return
		}
		for _, word := range words {
			if !strings.Contains(err.Error(), word) {
				t.Errorf("%s: %v does not say %q", title, err, word)
			}
		}
	}
	gone := w.source(w.archived(t, mem.New(), []string{lost}, nil, nil))
	_, coverage, err := w.changes(t, gone)
	expect("a segment is lost", err, "no WAL summary covers", lost)
	if coverage.Scanned != 0 || coverage.Summarized == 0 {
		t.Errorf("%+v", coverage)
	}
	narrow := local
	narrow.maxScan = 8192
	if _, _, err := w.changes(t, narrow); err != nil {
		t.Errorf("one page is enough for the last stretch: %v", err)
	}
	none := w.source(w.archived(t, mem.New(), nil, w.segments, nil))
	none.local, none.maxScan = w.dir, 2<<20
	_, _, err = w.changes(t, none)
	expect("too much to read", err, "would have to be read, more than 2097152", w.from.String())

	_, _, err = walChanges(t.Context(), local, postgres.History{Timeline: 1}, 2, w.from, w.to)
	expect("another timeline's", err, "on timeline 2", "the history of timeline 1")
	_, _, err = walChanges(t.Context(), local, w.history, 1, w.from, w.from-8)
	expect("backwards", err, "the end is before the start")
	_, _, err = walChanges(t.Context(), none, w.history, 1, start+8+w.offset(t, start), w.to)
	expect("no record's start", err, "on timeline")

	if table, coverage, err := walChanges(t.Context(), w.source(whole), w.history, 1, w.from, w.from); err != nil || table.Forks() != 0 || coverage.Scanned != 0 || coverage.Summarized != 0 {
		t.Errorf("nothing: %+v, %v", coverage, err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if _, _, err := walChanges(ctx, local, w.history, 1, w.from, w.to); !errors.Is(err, context.Canceled) {
		t.Errorf("canceled: %v", err)
	}
}

// offset is a place inside of the segment at which no page begins.
func (w *writtenWAL) offset(t *testing.T, start postgres.LSN) postgres.LSN {
	t.Helper()
	return start.RecordStart(w.identity.SegmentSize, w.pageSize) - start + 4
}

// TestManySegmentsWithoutASummaryAreNotAllAskedFor: more than the bound, and
// than the largest record that could fill them.
func TestManySegmentsWithoutASummaryAreNotAllAskedFor(t *testing.T) {
	asked := 0
	st := faulty.OnOp(mem.New(), func(op, key string) error {
		if op == faulty.OpGet && strings.HasPrefix(key, "wal/") {
			asked++
		}
		return nil
	})
	w := &writtenWAL{identity: repo.Identity{SystemID: 1, Major: 18, SegmentSize: 16 << 20, BlockSize: 8192}, segments: []string{""}}
	src := walSource{stanza: w.archived(t, st, nil, nil, nil), identity: w.identity, pageSize: 8192}
	_, _, err := walChanges(t.Context(), src, postgres.History{Timeline: 1}, 1, 0x1000028, 1<<40)
	var uncovered *uncoveredError
	if !errors.As(err, &uncovered) || uncovered.from != 0x1000028 || !strings.Contains(err.Error(), "more than 1073741824") {
		t.Error(err)
	}
	if asked < 128 || asked > 160 {
		t.Errorf("%d were asked for, want 2 GiB of 16 MiB each and what is under way", asked)
	}
}

// TestADamagedSummaryIsToldAndItsSegmentRead: and a damaged segment is not read over.
func TestADamagedSummaryIsToldAndItsSegmentRead(t *testing.T) {
	t.Parallel()
	w := writeWAL(t, 17)
	want := w.scanned(t, w.from, w.to)
	st := mem.New()
	s := w.archived(t, st, nil, nil, nil)
	src := w.source(s)
	src.local = w.dir
	name := w.segments[2]
	var key string
	for o, err := range st.List(t.Context(), "wal/") {
		if err != nil {
			t.Fatal(err)
		}
		if strings.HasSuffix(o.Key, name) {
			key = o.Key
		}
	}
	if err := faulty.Flip(t.Context(), st, key, -60, 1); err != nil {
		t.Fatal(err)
	}
	got, coverage, err := w.changes(t, src)
	if err != nil || len(coverage.Unusable) != 1 || !errors.Is(coverage.Unusable[0], repo.ErrDamaged) || !strings.Contains(coverage.Unusable[0].Error(), name) {
		t.Fatalf("%+v, %v", coverage, err)
	}
	if coverage.Scanned < 1<<19 {
		t.Errorf("%d bytes were read", coverage.Scanned)
	}
	holdsAll(t, "a damaged summary", got, want)
	if err := faulty.Flip(t.Context(), st, key, 5000, 1); err != nil {
		t.Fatal(err)
	}
	src.local = ""
	_, _, err = w.changes(t, src)
	var uncovered *uncoveredError
	if !errors.As(err, &uncovered) || !errors.Is(err, repo.ErrDamaged) {
		t.Errorf("a damaged segment: %v", err)
	}
}

// TestAFailingStorageIsNoHole: it is not taken for WAL that is not there.
func TestAFailingStorageIsNoHole(t *testing.T) {
	t.Parallel()
	w := writeWAL(t, 15)
	base := mem.New()
	w.archived(t, base, nil, everyOther(w.segments), nil)
	for n := 1; ; n++ {
		count, failed := 0, false
		r, err := repo.Open(t.Context(), base, repo.Options{Clock: time.Now})
		if err != nil {
			t.Fatal(err)
		}
		if _, err = r.Stanza(t.Context(), "main"); err != nil {
			t.Fatal(err)
		}
		st := faulty.OnOp(base, func(op, key string) error {
			if op == faulty.OpGet && strings.HasPrefix(key, "wal/") {
				if count++; count == n {
					failed = true
					return faulty.ErrInjected
				}
			}
			return nil
		})
		if r, err = repo.Open(t.Context(), st, repo.Options{Clock: time.Now}); err != nil {
			t.Fatal(err)
		}
		s, err := r.Stanza(t.Context(), "main")
		if err != nil {
			t.Fatal(err)
		}
		_, _, err = w.changes(t, w.source(s))
		var uncovered *uncoveredError
		if !failed {
			if !errors.As(err, &uncovered) || n < 8 {
				t.Errorf("after %d faults: %v", n-1, err)
			}
			return
		}
		if errors.As(err, &uncovered) || !errors.Is(err, faulty.ErrInjected) {
			t.Errorf("fault %d: %v", n, err)
		}
	}
}
