package archive

import (
	"bytes"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/pgbak/pgbak/internal/postgres"
	"github.com/pgbak/pgbak/repo"
	"github.com/pgbak/pgbak/storage/faulty"
	"github.com/pgbak/pgbak/storage/mem"
)

// promoted is the pg_wal of a server that was promoted to timeline 3: history3
// leaves timeline 1 within segment 3, and timeline 2 within segment 5.
func promoted(t *testing.T, id repo.Identity) string {
	t.Helper()
	files := map[string]string{"00000002.history": history2, "00000003.history": history3}
	for _, f := range []postgres.WALFile{on(1, 1), on(1, 2), on(1, 3), on(1, 4), on(2, 2), on(2, 3), on(2, 4), on(2, 5), on(3, 5)} {
		files[f.Name(id.SegmentSize)] = string(pagedSegment(id, f))
	}
	files[on(1, 3).Name(id.SegmentSize)+".partial"] = files[on(1, 3).Name(id.SegmentSize)]
	return walDir(t, files)
}

// tail is what the history of timeline 3 should take along of promoted.
func tail() []postgres.WALFile {
	return []postgres.WALFile{on(1, 1), on(1, 2), on(2, 3), on(2, 4)}
}

func TestAHistoryTakesAlongTheWALBeforeItThatNobodyHasArchived(t *testing.T) {
	s := memStanza(t)
	dir := promoted(t, s.Current())
	if _, _, err := pushFrom(t, s, dir, on(1, 1).Name(segmentSize)); err != nil {
		t.Fatal(err)
	}
	result, notes, err := pushFrom(t, s, dir, "00000003.history")
	if err != nil || len(result.Warnings) != 0 {
		t.Fatalf("result %+v, error %v", result, err)
	}
	for _, f := range tail() {
		name := f.Name(segmentSize)
		mustHold(t, s, name, pagedSegment(s.Current(), f))
		if noted := strings.Contains(notes, name+", which the primary of its timeline had not archived"); noted != (f != on(1, 1)) {
			t.Errorf("%s: noted %v\n%s", name, noted, notes)
		}
	}
	// What holds a switch point or lies behind it is another server's, or the archiver's.
	for _, f := range []postgres.WALFile{on(1, 3), on(1, 4), on(2, 2), on(2, 5), on(3, 5)} {
		mustLack(t, s, f.Name(segmentSize))
	}
	mustLack(t, s, on(1, 3).Name(segmentSize)+".partial")
}

func TestWhatIsReadyIsLeftToTheServer(t *testing.T) {
	s := memStanza(t)
	dir := promoted(t, s.Current())
	name := on(1, 2).Name(segmentSize)
	if err := os.WriteFile(filepath.Join(dir, "archive_status", name+".ready"), nil, 0o600); err != nil {
		t.Fatal(err)
	}
	if _, _, err := pushFrom(t, s, dir, "00000003.history"); err != nil {
		t.Fatal(err)
	}
	mustLack(t, s, name)
	mustHold(t, s, on(1, 1).Name(segmentSize), pagedSegment(s.Current(), on(1, 1)))
}

// TestWhatIsNoWholeSegmentIsNotTakenAlong, since whatever is put there stays.
func TestWhatIsNoWholeSegmentIsNotTakenAlong(t *testing.T) {
	id := testIdentity(17)
	whole := func() []byte { return pagedSegment(id, on(1, 2)) }
	foreign := id
	foreign.SystemID++
	recycled := whole()
	copy(recycled[40*8192:], pagedSegment(id, on(1, 1))[40*8192:])
	newer := whole()
	copy(newer, pagedSegment(id, on(1, 20))[:8192])
	for title, c := range map[string]struct {
		content []byte
		words   []any
	}{
		"left over from an older one from some page on": {recycled, []any{"is not whole", "the WAL ends at 0/2"}},
		"being overwritten by a newer one":              {newer, []any{"begins with the page of LSN 0/1400000"}},
		"of another cluster":                            {pagedSegment(foreign, on(1, 2)), []any{foreign.SystemID}},
		"torn":                                          {whole()[:70000], []any{70000}},
	} {
		t.Run(title, func(t *testing.T) {
			s := memStanza(t)
			dir := promoted(t, id)
			name := on(1, 2).Name(segmentSize)
			if err := os.WriteFile(filepath.Join(dir, name), c.content, 0o600); err != nil {
				t.Fatal(err)
			}
			result, _, err := pushFrom(t, s, dir, "00000003.history")
			if err != nil || len(result.Warnings) != 1 {
				t.Fatalf("result %+v, error %v", result, err)
			}
			contains(t, errors.New(result.Warnings[0]), append(c.words, name+", which the primary of its timeline has not archived, cannot be archived from here")...)
			mustLack(t, s, name)
			for _, f := range tail() {
				if f != on(1, 2) {
					mustHold(t, s, f.Name(segmentSize), pagedSegment(id, f))
				}
			}
		})
	}
}

// TestASegmentThatIsRecycledWhileItIsReadIsNotTakenAlong: its file gets another
// name first, and then other content.
func TestASegmentThatIsRecycledWhileItIsReadIsNotTakenAlong(t *testing.T) {
	id := testIdentity(17)
	for title, replace := range map[string]bool{"and its name is free": false, "and its name is another file's": true} {
		t.Run(title, func(t *testing.T) {
			path := writeFile(t, on(1, 2).Name(segmentSize), pagedSegment(id, on(1, 2)))
			file, err := look(path)
			if err != nil {
				t.Fatal(err)
			}
			defer file.Close()
			if err := file.checkKept(); err != nil {
				t.Fatal(err)
			}
			if err := os.Rename(path, path+".elsewhere"); err != nil {
				t.Fatal(err)
			}
			if replace {
				if err := os.WriteFile(path, pagedSegment(id, on(1, 2)), 0o600); err != nil {
					t.Fatal(err)
				}
			}
			if err := file.checkKept(); err == nil {
				t.Error("it was taken for what it was")
			}
		})
	}
}

// TestWhatIsBehindASwitchBecomesZeros, as the server that switched has it: a
// standby may hold there what its recycled file held before.
func TestWhatIsBehindASwitchBecomesZeros(t *testing.T) {
	for title, clean := range map[string]bool{"that are there": true, "that are not there": false} {
		t.Run(title, func(t *testing.T) {
			s := memStanza(t)
			dir := promoted(t, s.Current())
			name, content := on(1, 2).Name(segmentSize), pagedSegment(s.Current(), on(1, 2))
			want := bytes.Clone(content)
			end := switchAt(want, 50)
			switchAt(content, 50)
			clear(want[end:])
			if clean {
				content = want
			}
			if err := os.WriteFile(filepath.Join(dir, name), content, 0o600); err != nil {
				t.Fatal(err)
			}
			if result, _, err := pushFrom(t, s, dir, "00000003.history"); err != nil || len(result.Warnings) != 0 {
				t.Fatalf("result %+v, error %v", result, err)
			}
			mustHold(t, s, name, want)
		})
	}
}

// TestAfterAFaultTheNextPushOfTheHistoryBringsTheRest of the WAL before it.
func TestAfterAFaultTheNextPushOfTheHistoryBringsTheRest(t *testing.T) {
	id := testIdentity(17)
	path := filepath.Join(promoted(t, id), "00000003.history")
	for title, fault := range faults() {
		t.Run(fmt.Sprint("operation n ", title), func(t *testing.T) {
			for n := 1; ; n++ {
				if n > tooMany {
					t.Fatal("the fault never stopped to fire")
				}
				base := mem.New()
				newStanza(t, base, id)
				faulted := fault(base, n)
				err := pushThrough(t, faulted, path)
				s, openErr := openStanza(t, base)
				if openErr != nil {
					t.Fatal(openErr)
				}
				if err != nil {
					if _, _, err := pushFrom(t, s, filepath.Dir(path), filepath.Base(path)); err != nil {
						t.Fatalf("the push after a fault at operation %d: %v", n, err)
					}
				}
				for _, f := range tail() {
					if there, err := s.HasWAL(t.Context(), s.Current(), f); err != nil || !there {
						t.Fatalf("after a fault at operation %d, error %v, segment %v is archived: %v, %v", n, err, f, there, err)
					}
				}
				if !faulted.Fired() {
					t.Logf("%d operations", n-1)
					return
				}
			}
		})
	}
}

// TestTheTailCostsOneListForEachTimeline when nothing is missing.
func TestTheTailCostsOneListForEachTimeline(t *testing.T) {
	base := mem.New()
	newStanza(t, base, testIdentity(17))
	traced := faulty.New(base, nil, nil)
	s, err := openStanza(t, traced)
	if err != nil {
		t.Fatal(err)
	}
	dir := promoted(t, s.Current())
	for range 2 {
		before := len(traced.Trace())
		if _, _, err := pushFrom(t, s, dir, "00000003.history"); err != nil {
			t.Fatal(err)
		}
		lists, puts := 0, 0
		for _, op := range traced.Trace()[before:] {
			if strings.HasPrefix(op, faulty.OpList+" ") {
				lists++
			}
			if strings.HasPrefix(op, faulty.OpPutIfAbsent+" ") {
				puts++
			}
		}
		t.Logf("%d lists, %d puts", lists, puts)
		if lists != 2 {
			t.Errorf("%d lists: %q", lists, traced.Trace()[before:])
		}
	}
}
