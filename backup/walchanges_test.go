package backup

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
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
	none.maxScan = 0
	inside := start.RecordStart(w.identity.SegmentSize, w.pageSize) + 4
	_, _, err = walChanges(t.Context(), none, w.history, 1, inside, w.to)
	expect("no record's start", err, "no record begins at "+inside.String())

	if table, coverage, err := walChanges(t.Context(), w.source(whole), w.history, 1, w.from, w.from); err != nil || table.Forks() != 0 || coverage.Scanned != 0 || coverage.Summarized != 0 {
		t.Errorf("nothing: %+v, %v", coverage, err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if _, _, err := walChanges(ctx, local, w.history, 1, w.from, w.to); !errors.Is(err, context.Canceled) {
		t.Errorf("canceled: %v", err)
	}
}

// TestWALOfLevelMinimalTellsNothing: a server that was once without archiving
// wrote pages that its WAL does not name.
func TestWALOfLevelMinimalTellsNothing(t *testing.T) {
	t.Parallel()
	c := pgtest.Start(t, pgtest.Options{Major: 14, SegmentSizeMB: 1})
	w := &writtenWAL{dir: filepath.Join(c.DataDir, "pg_wal"), history: postgres.History{Timeline: 1}}
	checkpoint := func() postgres.LSN {
		c.Exec(t, "CHECKPOINT")
		_, control, err := readControl(t.Context(), c.DataDir)
		if err != nil {
			t.Fatal(err)
		}
		w.pageSize = control.WALBlockSize
		w.identity = repo.Identity{SystemID: control.SystemID, Major: control.Major, SegmentSize: control.WALSegmentSize, BlockSize: control.BlockSize}
		return control.Redo
	}
	w.from = checkpoint()
	for _, level := range []string{"minimal", "replica"} {
		c.Exec(t, "ALTER SYSTEM SET wal_level = "+level)
		c.Exec(t, "ALTER SYSTEM SET max_wal_senders = 0")
		c.Restart(t)
		c.Exec(t, "CREATE TABLE "+level+" AS SELECT generate_series(1, 1000) n")
	}
	w.to = checkpoint()
	src := w.source(w.archived(t, mem.New(), nil, nil, nil))
	src.local = w.dir
	_, _, err := w.changes(t, src)
	var uncovered *uncoveredError
	if !errors.As(err, &uncovered) || !strings.Contains(err.Error(), "wal_level was minimal") {
		t.Error(err)
	}
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
	w := &writtenWAL{identity: repo.Identity{SystemID: 1, Major: 18, SegmentSize: 16 << 20, BlockSize: 8192}}
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
	for o, err := range st.List(t.Context(), "wal/", "") {
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
