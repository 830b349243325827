package archive

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"hash/crc32"
	"log/slog"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/pgbak/pgbak/internal/postgres"
	"github.com/pgbak/pgbak/repo"
	"github.com/pgbak/pgbak/storage"
	"github.com/pgbak/pgbak/storage/faulty"
	"github.com/pgbak/pgbak/storage/mem"
)

// The histories of timelines 2 to 4 as PostgreSQL writes them: a copy of the
// parent's, an empty line, and a line of its own.
const (
	history2 = "1\t0/300100\tno recovery target specified\n"
	history3 = history2 + "\n2\t0/500200\tbefore 2026-11-20 12:00:00+00\n"
	history4 = history3 + "\n3\t0/700300\tno recovery target specified\n"
)

// walDir is a pg_wal with these files, whose segments of timeline are ready.
func walDir(t *testing.T, files map[string]string) string {
	t.Helper()
	dir := filepath.Join(t.TempDir(), "pg_wal")
	if err := os.MkdirAll(filepath.Join(dir, "archive_status"), 0o700); err != nil {
		t.Fatal(err)
	}
	for name, content := range files {
		if err := os.WriteFile(filepath.Join(dir, name), []byte(content), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	return dir
}

// pagedSegment is a segment all of which is inside of one large record, so that
// it holds WAL to its end.
func pagedSegment(id repo.Identity, f postgres.WALFile) []byte {
	data := segment(id, f)
	le := binary.LittleEndian
	rest := uint32(1 << 30)
	le.PutUint16(data[2:], 0x0002|0x0001)
	for at := 0; at < len(data); at += 8192 {
		header := 40
		if at > 0 {
			header = 24
			copy(data[at:], data[:8])
			le.PutUint16(data[at+2:], 0x0001)
			le.PutUint64(data[at+8:], uint64(f.Start(id.SegmentSize))+uint64(at))
		}
		le.PutUint32(data[at+16:], rest)
		rest -= uint32(8192 - header)
	}
	return data
}

// switchAt ends the record of a pagedSegment with a page, from which on follows
// the switch to the next segment, and then what the file held before.
func switchAt(data []byte, page int) (end int) {
	le := binary.LittleEndian
	left := uint32(0)
	for at := (page - 1) * 8192; at >= 0; at -= 8192 {
		header := uint32(24)
		if at == 0 {
			header = 40
		}
		left += 8192 - header
		le.PutUint32(data[at+16:], left)
	}
	at := page * 8192
	le.PutUint16(data[at+2:], 0)
	le.PutUint32(data[at+16:], 0)
	record := data[at+24 : at+48]
	clear(record)
	le.PutUint32(record, 24)
	record[16] = 0x40
	le.PutUint32(record[20:], crc32.Checksum(record[:20], crc32.MakeTable(crc32.Castagnoli)))
	return at + 48
}

func on(tli postgres.Timeline, number uint64) postgres.WALFile {
	return postgres.WALFile{Kind: postgres.WALSegment, Timeline: tli, Segment: number}
}

// pushFrom pushes a file of dir as the host db2 does, and gives what was noted.
func pushFrom(t *testing.T, s *repo.Stanza, dir, name string) (Result, string, error) {
	t.Helper()
	p, err := NewPusher(pushTo("local", s))
	if err != nil {
		t.Fatal(err)
	}
	var notes strings.Builder
	p.Log, p.Host = slog.New(slog.NewTextHandler(&notes, nil)), "db2"
	result, err := p.Push(t.Context(), filepath.Join(dir, name))
	return result, notes.String(), err
}

func mustLack(t *testing.T, s *repo.Stanza, name string) {
	t.Helper()
	if _, err := getContent(t, s, name); !errors.Is(err, ErrAbsent) {
		t.Errorf("%s is archived, or it is not known: %v", name, err)
	}
}

func TestAHistoryTakesThoseOfAllItsAncestorsAlong(t *testing.T) {
	for title, c := range map[string]struct {
		files    map[string]string
		archived string // history of timeline 2 that is there before
		notes    []string
	}{
		"from the server's directory": {map[string]string{"00000002.history": history2, "00000003.history": history3}, "",
			[]string{"00000002.history was not in", "00000003.history was not in", "was taken from "}},
		"one of which is there": {map[string]string{"00000002.history": history2, "00000003.history": history3}, history2,
			[]string{"00000003.history was not in"}},
		"one of which has another reason there": {map[string]string{"00000003.history": history3}, "1\t0/300100\tby hand\n",
			[]string{"00000003.history was not in"}},
		"which are gone from the server": {nil, "", []string{"00000002.history was neither in", "00000003.history was neither in"}},
		"which are torn on the server":   {map[string]string{"00000002.history": "", "00000003.history": history3[:20]}, "", []string{"00000002.history was neither in"}},
		"which are others on the server": {map[string]string{"00000003.history": history2 + "\n2\t0/500000\tx\n"}, "", []string{"00000003.history was neither in"}},
	} {
		t.Run(title, func(t *testing.T) {
			s := memStanza(t)
			dir := walDir(t, c.files)
			want2 := history2
			if c.archived != "" {
				want2 = c.archived
				if _, err := pushContent(t, s, "00000002.history", []byte(c.archived)); err != nil {
					t.Fatal(err)
				}
			}
			if err := os.WriteFile(filepath.Join(dir, "00000004.history"), []byte(history4), 0o600); err != nil {
				t.Fatal(err)
			}
			result, notes, err := pushFrom(t, s, dir, "00000004.history")
			if err != nil || len(result.Warnings) != 0 || len(result.Stored) != 1 {
				t.Fatalf("result %+v, error %v", result, err)
			}
			for name, want := range map[string]string{"00000002.history": want2, "00000003.history": history3, "00000004.history": history4} {
				mustHold(t, s, name, []byte(want))
			}
			for _, words := range c.notes {
				if !strings.Contains(notes, words) {
					t.Errorf("%q is not in %s", words, notes)
				}
			}
		})
	}
}

func TestAnAncestorThatIsNowhereIsAWarningAndWALGoesOn(t *testing.T) {
	s := memStanza(t)
	// Nobody knows how the parent's file ended: there is no empty line.
	dir := walDir(t, map[string]string{"00000003.history": strings.ReplaceAll(history3, "\n\n", "\n")})
	result, _, err := pushFrom(t, s, dir, "00000003.history")
	if err != nil || len(result.Warnings) != 1 {
		t.Fatalf("result %+v, error %v", result, err)
	}
	contains(t, errors.New(result.Warnings[0]), "history of timeline 2", "timeline 3", "repository local", "no such file",
		"hint: ", "archive-push with 00000002.history of another server")
	mustLack(t, s, "00000002.history")
}

func TestADamagedAncestorIsAWarning(t *testing.T) {
	st := mem.New()
	s := newStanza(t, st, testIdentity(17))
	if _, err := pushContent(t, s, "00000002.history", []byte(history2)); err != nil {
		t.Fatal(err)
	}
	if err := faulty.Flip(t.Context(), st, "wal/main/00000001/history/00000002.history", 60, 1); err != nil {
		t.Fatal(err)
	}
	result, _, err := pushFrom(t, s, walDir(t, map[string]string{"00000003.history": history3}), "00000003.history")
	if err != nil || len(result.Warnings) != 1 {
		t.Fatalf("result %+v, error %v", result, err)
	}
	contains(t, errors.New(result.Warnings[0]), "00000002.history is damaged", "move the object away")
	mustHold(t, s, "00000003.history", []byte(history3))
}

// TestATimelineThatAnotherServerHasBegunIsAConflict of an ancestor too: this
// server's timeline 3 comes from a timeline 2 that is not the archive's.
func TestATimelineThatAnotherServerHasBegunIsAConflict(t *testing.T) {
	const other2 = "1\t0/300500\tno recovery target specified\n"
	for pushed, content := range map[string]string{"00000002.history": history2, "00000003.history": history3} {
		for _, kept := range []bool{true, false} {
			st := mem.New()
			s := newStanza(t, st, testIdentity(17))
			if _, err := pushContent(t, s, "00000002.history", []byte(other2)); err != nil {
				t.Fatal(err)
			}
			files := map[string]string{pushed: content}
			if kept {
				files["00000002.history"] = history2
			}
			dir := walDir(t, files)
			for range 2 { // PostgreSQL tries again
				_, _, err := pushFrom(t, s, dir, pushed)
				if !errors.Is(err, repo.ErrWALConflict) {
					t.Fatalf("error %v", err)
				}
				contains(t, err, "00000002.history", "pushed by host db2 from "+dir+"/00000002.history", "wal/main/00000001/history/00000002.history")
				hinted(t, err, "two servers have begun the same timeline")
				if pushed == "00000003.history" {
					contains(t, err, "timeline 1 to 0/300100, then timeline 2 to 0/500200, then timeline 3", "timeline 1 to 0/300500, then timeline 2")
				}
			}
			if pushed == "00000003.history" {
				mustLack(t, s, pushed)
			}
			mustHold(t, s, "00000002.history", []byte(other2))
			e := onlyEvent(t, s)
			archived, err := s.WALContentID(t.Context(), s.Current(), postgres.WALFile{Kind: postgres.WALHistory, Timeline: 2})
			if err != nil {
				t.Fatal(err)
			}
			if e.Kind != repo.WALHistoryConflict || e.First != "00000002.history" || e.Host != "db2" || e.Path != dir+"/00000002.history" ||
				e.Archived != archived.String() || e.Refused == "" || e.Refused == e.Archived || e.Timeline != 2 {
				t.Errorf("event %+v", e)
			}
		}
	}
}

func onlyEvent(t *testing.T, s *repo.Stanza) repo.WALEvent {
	t.Helper()
	events, err := s.WALEvents(t.Context())
	if err != nil || len(events) != 1 {
		t.Fatalf("events %+v, error %v", events, err)
	}
	return events[0]
}

// TestASegmentBringsTheHistoryOfItsTimeline where that was never archived, since
// archiving was off when the timeline began, and asks for it once.
func TestASegmentBringsTheHistoryOfItsTimeline(t *testing.T) {
	st := mem.New()
	newStanza(t, st, testIdentity(17))
	traced := faulty.New(st, nil, nil)
	s, err := openStanza(t, traced)
	if err != nil {
		t.Fatal(err)
	}
	files := map[string]string{"00000003.history": history3}
	for n := range uint64(4) {
		files[on(3, 5+n).Name(segmentSize)] = string(pagedSegment(testIdentity(17), on(3, 5+n)))
	}
	dir := walDir(t, files)
	push := func(p *Pusher, n uint64) []string {
		before := len(traced.Trace())
		if _, err := p.Push(t.Context(), filepath.Join(dir, on(3, n).Name(segmentSize))); err != nil {
			t.Fatal(err)
		}
		own := faulty.OpStat + " " // near by a push looks first whether the segment itself is there
		return slices.DeleteFunc(slices.Clone(traced.Trace()[before:]), func(op string) bool {
			return strings.HasPrefix(op, faulty.OpRead+" ") || strings.HasPrefix(op, own) && strings.HasSuffix(op, "/"+on(3, n).Name(segmentSize))
		})
	}
	newPusher := func() *Pusher {
		p, err := NewPusher(pushTo("local", s))
		if err != nil {
			t.Fatal(err)
		}
		return p
	}
	first := newPusher()
	push(first, 5)
	mustHold(t, s, "00000002.history", []byte(history2))
	mustHold(t, s, "00000003.history", []byte(history3))
	if asked := push(first, 6); len(asked) != 1 {
		t.Errorf("a second segment of the run asked %q, want one put", asked)
	}
	second := newPusher()
	if asked := push(second, 7); len(asked) != 2 {
		t.Errorf("the first segment of a run asked %q, want one put and one stat", asked)
	}
	if asked := push(second, 8); len(asked) != 1 {
		t.Errorf("the second segment of a run asked %q, want one put", asked)
	}
}

func TestASegmentWithoutAnyHistoryIsAWarning(t *testing.T) {
	s := memStanza(t)
	name := on(3, 5).Name(segmentSize)
	result, _, err := pushFrom(t, s, walDir(t, map[string]string{name: string(pagedSegment(testIdentity(17), on(3, 5)))}), name)
	if err != nil || len(result.Warnings) != 1 || len(result.Stored) != 1 {
		t.Fatalf("result %+v, error %v", result, err)
	}
	contains(t, errors.New(result.Warnings[0]), "history of timeline 3", "hint: ", "00000003.history")
}

// TestAfterAFaultNoHistoryIsThereWithoutItsAncestors: the one which is there is
// what later pushes go by.
func TestAfterAFaultNoHistoryIsThereWithoutItsAncestors(t *testing.T) {
	id := testIdentity(17)
	files := map[string]string{"00000002.history": history2, "00000003.history": history3, "00000004.history": history4,
		on(4, 7).Name(segmentSize): string(pagedSegment(id, on(4, 7))), on(3, 6).Name(segmentSize): string(pagedSegment(id, on(3, 6)))}
	dir := walDir(t, files)
	for _, pushed := range []string{"00000004.history", on(4, 7).Name(segmentSize)} {
		for title, fault := range faults() {
			t.Run(fmt.Sprint(pushed, ": operation n ", title), func(t *testing.T) {
				for n := 1; ; n++ {
					if n > tooMany {
						t.Fatal("the fault never stopped to fire")
					}
					base := mem.New()
					newStanza(t, base, id)
					faulted := fault(base, n)
					err := pushThrough(t, faulted, filepath.Join(dir, pushed))
					if fired := faulted.Fired(); !fired && err != nil {
						t.Fatalf("operation %d: fault %v, error %v", n, fired, err)
					}
					ancestorsFirst(t, base)
					if err := pushThrough(t, base, filepath.Join(dir, pushed)); err != nil {
						t.Fatalf("the next push after a fault at operation %d: %v", n, err)
					}
					if there := ancestorsFirst(t, base); there != 3 {
						t.Fatalf("after a fault at operation %d and another push %d histories are there", n, there)
					}
					if !faulted.Fired() {
						t.Logf("%d operations", n-1)
						return
					}
				}
			})
		}
	}
}

// ancestorsFirst counts the histories of timelines 2 to 4.
func ancestorsFirst(t *testing.T, st storage.Store) (n int) {
	t.Helper()
	s, err := openStanza(t, st)
	if err != nil {
		t.Fatal(err)
	}
	for tli := postgres.Timeline(2); tli <= 4; tli++ {
		there, err := s.HasWAL(t.Context(), s.Current(), postgres.WALFile{Kind: postgres.WALHistory, Timeline: tli})
		if err != nil {
			t.Fatal(err)
		}
		if there && n < int(tli)-2 {
			t.Errorf("the history of timeline %d is there without those of all its ancestors", tli)
		}
		if there {
			n++
		}
	}
	return n
}

func TestARepositoryThatIsGoneDoesNotKeepHistoriesFromTheOther(t *testing.T) {
	good := memStanza(t)
	p, err := NewPusher(PushTarget{Name: "gone", Open: func(context.Context) (*repo.Stanza, error) { return nil, errors.New("no route to host") }}, pushTo("good", good))
	if err != nil {
		t.Fatal(err)
	}
	dir := walDir(t, map[string]string{"00000002.history": history2, "00000003.history": history3})
	if _, err := p.Push(t.Context(), filepath.Join(dir, "00000003.history")); err == nil {
		t.Error("there was no error")
	}
	mustHold(t, good, "00000002.history", []byte(history2))
	mustHold(t, good, "00000003.history", []byte(history3))
}

// FuzzBeginning: what is taken for an ancestor's file is one, and names what the
// descendant's names up to there.
func FuzzBeginning(f *testing.F) {
	f.Add([]byte(history4), 2)
	f.Add([]byte(history3), 1)
	f.Add([]byte("# x\n\n1 0/1\n\n\n2 0/2"), 1)
	f.Fuzz(func(t *testing.T, data []byte, i int) {
		h, err := postgres.ParseHistory(1<<31, data)
		if err != nil || i < 1 || i >= len(h.Entries) {
			return
		}
		made, ok := beginning(data, i)
		if !ok {
			return
		}
		got, err := postgres.ParseHistory(h.Entries[i].Timeline, made)
		if err != nil || !slices.Equal(got.Entries, h.Entries[:i]) {
			t.Errorf("%q begins with %q: %+v, error %v", data, made, got, err)
		}
	})
}
