package archive

import (
	"bytes"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/pgbak/pgbak/repo"
)

func TestAConflictNamesBothSidesAndWhereTheyPart(t *testing.T) {
	id := testIdentity(17)
	f := on(2, 3)
	name := f.Name(segmentSize)
	original := pagedSegment(id, f)
	changed := func(change func(b []byte)) []byte {
		b := bytes.Clone(original)
		change(b)
		return b
	}
	for title, c := range map[string]struct {
		content []byte
		words   string
	}{
		"one byte": {changed(func(b []byte) { b[100_000] ^= 1 }),
			"both are the same up to LSN 0/3186A0; there what is archived holds WAL of timeline 2, the pushed file holds WAL of timeline 2"},
		"the last byte": {changed(func(b []byte) { b[len(b)-1] ^= 1 }), "up to LSN 0/3FFFFF;"},
		"a server that stopped earlier": {changed(func(b []byte) { clear(b[100_000:]) }),
			"there what is archived holds WAL of timeline 2, the pushed file holds zeros"},
		"a recycled file": {changed(func(b []byte) { copy(b[81920:], pagedSegment(id, on(2, 1))[81920:]) }),
			"both are the same up to LSN 0/31400A; there what is archived holds WAL of timeline 2, the pushed file holds what is left of LSN 0/114000"},
		"a page of a parent": {changed(func(b []byte) { b[4] = 1 }), "up to LSN 0/300004; there what is archived holds WAL of timeline 2, the pushed file holds WAL of timeline 1"},
	} {
		t.Run(title, func(t *testing.T) {
			s := memStanza(t)
			if _, err := pushContent(t, s, name, original); err != nil {
				t.Fatal(err)
			}
			dir := walDir(t, map[string]string{name: string(c.content), "00000002.history": history2})
			for range 2 {
				_, _, err := pushFrom(t, s, dir, name)
				if !errors.Is(err, repo.ErrWALConflict) {
					t.Fatalf("error %v", err)
				}
				contains(t, err, c.words, "it was pushed by host db2 from "+filepath.Join(dir, name), "object wal/main/00000001/00000002/00000000/"+name)
				hinted(t, err, "nothing was overwritten")
				if strings.Contains(err.Error(), "\n") {
					t.Errorf("it is more than one line: %v", err)
				}
			}
			e := onlyEvent(t, s)
			if e.Kind != repo.WALConflict || e.First != name || e.Last != name || e.Host != "db2" || e.Path != filepath.Join(dir, name) || !strings.Contains(e.Message, c.words) {
				t.Errorf("event %+v", e)
			}
			mustHold(t, s, name, original)
		})
	}
}

func TestAFileOfAnotherClusterIsRecordedOnce(t *testing.T) {
	s := memStanza(t)
	foreign := testIdentity(17)
	foreign.SystemID = 42
	dir := walDir(t, nil)
	for n := range uint64(3) {
		name := on(1, n+1).Name(segmentSize)
		if err := os.WriteFile(filepath.Join(dir, name), segment(foreign, on(1, n+1)), 0o600); err != nil {
			t.Fatal(err)
		}
		if _, _, err := pushFrom(t, s, dir, name); !errors.Is(err, ErrRefused) {
			t.Fatalf("error %v", err)
		}
	}
	if e := onlyEvent(t, s); e.Kind != repo.WALForeign || e.SystemID != 42 || e.Major != 17 || e.Host != "db2" {
		t.Errorf("event %+v", e)
	}
}

// TestAnUnfinishedSegmentOfTwoServers under one name is no error where the one
// that comes second begins its timeline with it.
func TestAnUnfinishedSegmentOfTwoServers(t *testing.T) {
	id := testIdentity(17)
	partial := on(1, 3).Name(segmentSize) + ".partial"
	first, second := pagedSegment(id, on(1, 3)), pagedSegment(id, on(1, 3))
	clear(second[100_000:])
	next := on(3, 3).Name(segmentSize)
	begun := bytes.Clone(second)
	copy(begun[0x10000:], pagedSegment(id, on(3, 3))[0x10000:])
	lacks := bytes.Clone(begun)
	lacks[0xFFFF] ^= 1
	const history = "1\t0/310000\tno recovery target specified\n"
	for title, c := range map[string]struct {
		files    map[string]string
		archived bool // the first segment of the new timeline
		needless bool
	}{
		"its successor is on the server":    {map[string]string{"00000003.history": history, next: string(begun)}, false, true},
		"its successor lacks its last byte": {map[string]string{"00000003.history": history, next: string(lacks)}, false, false},
		"its successor is archived":         {map[string]string{"00000003.history": history}, true, true},
		"its successor is nowhere":          {map[string]string{"00000003.history": history}, false, false},
		"another server's successor holds less of it": {map[string]string{"00000002.history": "1\t0/308000\tx\n", "00000003.history": history,
			on(2, 3).Name(segmentSize): string(second)}, false, false},
		"another server's history beside its own": {map[string]string{"00000002.history": "1\t0/308000\tx\n", "00000003.history": history,
			on(2, 3).Name(segmentSize): string(second), next: string(begun)}, false, true},
		"no history":                            {map[string]string{next: string(begun)}, true, false},
		"a history that leaves another segment": {map[string]string{"00000003.history": "1\t0/410000\tx\n", next: string(begun)}, true, false},
		"a history of another timeline":         {map[string]string{"00000003.history": history + "\n2\t0/410000\tx\n", next: string(begun)}, true, false},
	} {
		t.Run(title, func(t *testing.T) {
			s := memStanza(t)
			if _, err := pushContent(t, s, partial, first); err != nil {
				t.Fatal(err)
			}
			if c.archived {
				if _, err := pushContent(t, s, next, begun); err != nil {
					t.Fatal(err)
				}
			}
			dir := walDir(t, c.files)
			if err := os.WriteFile(filepath.Join(dir, partial), second, 0o600); err != nil {
				t.Fatal(err)
			}
			result, _, err := pushFrom(t, s, dir, partial)
			if !c.needless {
				if !errors.Is(err, repo.ErrWALConflict) {
					t.Errorf("error %v", err)
				}
				return
			}
			if err != nil || len(result.Stored) != 0 || len(result.Warnings) != 1 {
				t.Fatalf("result %+v, error %v", result, err)
			}
			contains(t, errors.New(result.Warnings[0]), partial, "different content", fmt.Sprintf("nothing is lost: %s in ", next))
			mustHold(t, s, partial, first)
		})
	}
}

// TestWhatDiffersBehindASwitchIsNoConflict, in either order.
func TestWhatDiffersBehindASwitchIsNoConflict(t *testing.T) {
	id := testIdentity(17)
	f := on(1, 3)
	name := f.Name(segmentSize)
	left := pagedSegment(id, f)
	end := switchAt(left, 50)
	zeros := bytes.Clone(left)
	clear(zeros[end:])
	for title, c := range map[string]struct {
		archived, pushed []byte
		same             bool
	}{
		"the server after its standby": {left, zeros, true},
		"the standby after its server": {zeros, left, true},
		"one byte before the end": {zeros, func() []byte {
			b := bytes.Clone(zeros)
			b[end-60_000] ^= 1
			return b
		}(), false},
		"one without a switch": {zeros, pagedSegment(id, f), false},
	} {
		t.Run(title, func(t *testing.T) {
			s := memStanza(t)
			if _, err := pushContent(t, s, name, c.archived); err != nil {
				t.Fatal(err)
			}
			result, _, err := pushFrom(t, s, walDir(t, map[string]string{name: string(c.pushed)}), name)
			if !c.same {
				if !errors.Is(err, repo.ErrWALConflict) || len(result.Stored) != 0 {
					t.Errorf("error %v, result %+v", err, result)
				}
				onlyEvent(t, s)
				return
			}
			if err != nil || len(result.Stored) != 0 || len(result.Warnings) != 1 {
				t.Fatalf("result %+v, error %v", result, err)
			}
			contains(t, errors.New(result.Warnings[0]), name, "with the same WAL", end)
			mustHold(t, s, name, c.archived)
			if events, err := s.WALEvents(t.Context()); err != nil || len(events) != 0 {
				t.Errorf("events %+v, error %v", events, err)
			}
		})
	}
}

// TestTheConflictOfAnAncestorsHistoryIsNotSettledByTheSegment that it came up with,
// which is archived with the same content, of course: it was stored a moment ago.
func TestTheConflictOfAnAncestorsHistoryIsNotSettledByTheSegment(t *testing.T) {
	for title, suffix := range map[string]string{"a segment": "", "an unfinished one": ".partial"} {
		t.Run(title, func(t *testing.T) {
			s := memStanza(t)
			if _, err := pushContent(t, s, "00000002.history", []byte("1\t0/208000\tanother server's\n")); err != nil {
				t.Fatal(err)
			}
			name := on(3, 5).Name(segmentSize) + suffix
			content := string(pagedSegment(s.Current(), on(3, 5)))
			dir := walDir(t, map[string]string{"00000003.history": history3, "00000004.history": history3 + "\n3\t0/510000\tx\n",
				name: content, on(4, 5).Name(segmentSize): content})
			for range 2 {
				result, _, err := pushFrom(t, s, dir, name)
				if !errors.Is(err, repo.ErrWALConflict) {
					t.Fatalf("result %+v, error %v", result, err)
				}
				contains(t, err, "timeline 3 of this server is", "what is archived as timeline 2 is")
			}
			if e := onlyEvent(t, s); e.Kind != repo.WALHistoryConflict {
				t.Errorf("event %+v", e)
			}
		})
	}
}
