package archive

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"

	"github.com/pgbak/pgbak/internal/hint"
	"github.com/pgbak/pgbak/internal/postgres"
	"github.com/pgbak/pgbak/repo"
	"github.com/pgbak/pgbak/storage/mem"
)

func TestEveryKindOfFileOfEveryMajorIsStoredAndComesBack(t *testing.T) {
	for major := range magics() {
		for kind, open := range stores(t) {
			t.Run(fmt.Sprint(major, " on ", kind), func(t *testing.T) {
				id := testIdentity(major)
				s := newStanza(t, open(), id)
				content := segment(id, walFileOf(4100))
				for name, content := range map[string][]byte{
					walFileOf(4100).Name(segmentSize):                      content,
					walFileOf(4100).Name(segmentSize) + ".partial":         content,
					walFileOf(4100).Name(segmentSize) + ".00000028.backup": []byte("START WAL LOCATION: 1/400028\n"),
					"00000002.history":                                     []byte("1\t1/400000\tno recovery target specified\n"),
				} {
					result, err := pushContent(t, s, name, content)
					if err != nil {
						t.Fatal(err)
					}
					if len(result.Stored) != 1 || result.Stored[0].Outcome != repo.WALStored || result.Stored[0].RawSize != int64(len(content)) || len(result.Warnings) != 0 {
						t.Errorf("result %+v", result)
					}
					mustHold(t, s, name, content)
				}
			})
		}
	}
}

func TestTheSameContentAgainIsSuccessWithAWarning(t *testing.T) {
	s := memStanza(t)
	name, content := walFileOf(1).Name(segmentSize), segment(testIdentity(17), walFileOf(1))
	if _, err := pushContent(t, s, name, content); err != nil {
		t.Fatal(err)
	}
	result, err := pushContent(t, s, name, content)
	if err != nil {
		t.Fatal(err)
	}
	if len(result.Warnings) != 1 || result.Stored[0].Outcome != repo.WALAlreadyThere {
		t.Errorf("result %+v", result)
	}
}

func TestOtherContentIsRefusedAndChangesNothing(t *testing.T) {
	s := memStanza(t)
	name, content := walFileOf(1).Name(segmentSize), segment(testIdentity(17), walFileOf(1))
	if _, err := pushContent(t, s, name, content); err != nil {
		t.Fatal(err)
	}
	other := bytes.Clone(content)
	other[len(other)-1] ^= 1
	_, err := pushContent(t, s, name, other)
	if !errors.Is(err, repo.ErrWALConflict) || hint.Of(err) == "" {
		t.Errorf("error %v, hint %q", err, hint.Of(err))
	}
	contains(t, err, name)
	mustHold(t, s, name, content)
}

func TestWhatDoesNotBelongIntoTheStanzaIsRefusedAndNothingIsStored(t *testing.T) {
	id := testIdentity(17)
	f := walFileOf(3)
	name := f.Name(segmentSize)
	change := func(change func(*repo.Identity)) []byte {
		other := id
		change(&other)
		return segment(other, f)
	}
	at := func(offset int, value byte) []byte {
		data := segment(id, f)
		data[offset] = value
		return data
	}
	otherSize := segment(id, walFileOf(4))
	otherSize[34] = 0x20 // 2 MiB in the little-endian size at offset 32
	for _, c := range []struct {
		title, name string
		content     []byte
		want        []any
		hint        bool
	}{
		{"a segment of another cluster", name, change(func(i *repo.Identity) { i.SystemID = 42 }), []any{42, id.SystemID}, true},
		{"a segment of another major", name, change(func(i *repo.Identity) { i.Major = 16 }), []any{"PostgreSQL 16", "PostgreSQL 17"}, true},
		{"a segment that says another segment size", walFileOf(4).Name(segmentSize), otherSize, []any{2 << 20, segmentSize}, true},
		{"a segment under another one's name", walFileOf(4).Name(segmentSize), segment(id, f), []any{"0/300000", "0/400000"}, false},
		{"a segment that carries a newer timeline than its name", name, at(4, 2), []any{"timeline 2", "timeline 1"}, false},
		{"a truncated segment", name, segment(id, f)[:segmentSize-1], []any{segmentSize - 1, segmentSize}, false},
		{"a segment that is too long", name, append(segment(id, f), 0), []any{segmentSize + 1}, false},
		{"a truncated partial segment", name + ".partial", segment(id, f)[:8192], []any{8192}, false},
		{"an empty segment", name, nil, []any{0, segmentSize}, false},
		{"a segment of zeros", name, make([]byte, segmentSize), []any{"not a WAL segment"}, false},
		{"a segment without the long header", name, at(2, 0), []any{"not a WAL segment"}, false},
		{"a name that is no WAL file's", "postgresql.conf", []byte("x"), []any{"postgresql.conf"}, false},
		{"a name in lower case", strings.ToLower("00000001000000000000000A"), segment(id, f), []any{"name of a WAL file"}, false},
		{"a segment number that the segment size does not allow", "000000010000000000001000", segment(id, f), []any{"name of a WAL file"}, false},
		{"timeline 0", "000000000000000000000003", segment(id, f), []any{"name of a WAL file"}, false},
		{"an empty history", "00000002.history", nil, []any{"empty"}, false},
		{"a history that cannot be read", "00000002.history", []byte("this is no history\n"), []any{"not a timeline history"}, false},
		{"a history of endless length", "00000002.history", bytes.Repeat([]byte("# comment\n"), 200_000), []any{2_000_000}, false},
		{"an empty backup file", name + ".00000028.backup", nil, []any{"empty"}, false},
		{"a backup file of endless length", name + ".00000028.backup", make([]byte, 65<<10), []any{65 << 10}, false},
	} {
		t.Run(c.title, func(t *testing.T) {
			st := mem.New()
			s := newStanza(t, st, id)
			before := count(t, st)
			_, err := pushContent(t, s, c.name, c.content)
			if !errors.Is(err, ErrRefused) {
				t.Fatalf("error %v is no refusal", err)
			}
			contains(t, err, append(c.want, c.name)...)
			if (hint.Of(err) != "") != c.hint {
				t.Errorf("hint %q", hint.Of(err))
			}
			// The attempt of another cluster is recorded, and nothing else.
			events, err := s.WALEvents(t.Context())
			if err != nil {
				t.Fatal(err)
			}
			if foreign := strings.Contains(c.title, "another cluster") || strings.Contains(c.title, "another major"); foreign != (len(events) == 1) {
				t.Errorf("events %+v", events)
			}
			if after := count(t, st); after != before+len(events) {
				t.Errorf("%d objects are new", after-before)
			}
		})
	}
}

// TestAFileWithoutAHeaderIsOfTheClusterThatPushesIt pushes what does not say by
// itself whose it is to the stanza of the server and to that of another one.
func TestAFileWithoutAHeaderIsOfTheClusterThatPushesIt(t *testing.T) {
	id, foreign := testIdentity(17), testIdentity(17)
	foreign.SystemID++
	history := []byte("1\t0/2000000\tno reason\n")
	for name, content := range map[string][]byte{
		"00000002.history": history, walFileOf(3).Name(segmentSize) + ".00000028.backup": []byte("START WAL LOCATION: 0/300028\n"),
	} {
		other := mem.New()
		own, stranger := newStanza(t, mem.New(), id), newStanza(t, other, foreign)
		before := count(t, other)
		p, err := NewPusher(pushTo("own", own), pushTo("stranger", stranger))
		if err != nil {
			t.Fatal(err)
		}
		control := &postgres.Control{SystemID: id.SystemID, Major: 17, WALSegmentSize: segmentSize}
		p.Control = func() (*postgres.Control, error) { return control, nil }
		result, err := p.Push(t.Context(), writeFile(t, name, content))
		if !errors.Is(err, ErrRefused) || hint.Of(err) == "" {
			t.Errorf("%s: error %v", name, err)
		}
		contains(t, err, "repository stranger", id.SystemID, foreign.SystemID)
		if len(result.Stored) != 1 || result.Stored[0].Repository != "own" || count(t, other) != before+1 { // the event
			t.Errorf("%s: result %+v, %d objects are new in the other", name, result, count(t, other)-before)
		}
		mustHold(t, own, name, content)
		for _, control = range []*postgres.Control{nil, {SystemID: foreign.SystemID, Major: 17, WALSegmentSize: segmentSize}} {
			q, err := NewPusher(pushTo("stranger", stranger))
			if err != nil {
				t.Fatal(err)
			}
			q.Control = p.Control
			if _, err := q.Push(t.Context(), writeFile(t, name, content)); err != nil {
				t.Errorf("%s from %v: %v", name, control, err)
			}
		}
	}
}

func count(t *testing.T, st *mem.Store) (n int) {
	t.Helper()
	for _, err := range st.List(t.Context(), "", "") {
		if err != nil {
			t.Fatal(err)
		}
		n++
	}
	return n
}

func TestASegmentMayBeginWithThePageOfAnOlderTimeline(t *testing.T) {
	s := memStanza(t)
	f := walFileOf(9)
	f.Timeline = 3
	content := segment(testIdentity(17), f)
	content[4] = 2
	if _, err := pushContent(t, s, f.Name(segmentSize), content); err != nil {
		t.Fatal(err)
	}
	mustHold(t, s, f.Name(segmentSize), content)
}

func TestTheClusterFromBeforeAnUpgradeIsRefusedByName(t *testing.T) {
	s := memStanza(t)
	upgraded := testIdentity(18)
	upgraded.SystemID = 99
	if _, err := s.AddIdentity(t.Context(), upgraded); err != nil {
		t.Fatal(err)
	}
	_, err := pushContent(t, s, walFileOf(1).Name(segmentSize), segment(testIdentity(17), walFileOf(1)))
	if !errors.Is(err, ErrRefused) || !strings.Contains(err.Error(), "before it was upgraded") || hint.Of(err) == "" {
		t.Errorf("error %v, hint %q", err, hint.Of(err))
	}
	if _, err := pushContent(t, s, walFileOf(1).Name(segmentSize), segment(upgraded, walFileOf(1))); err != nil {
		t.Errorf("the upgraded cluster: %v", err)
	}
}

func TestAFileThatCannotBeReadIsAnErrorThatNamesIt(t *testing.T) {
	s := memStanza(t)
	path := filepath.Join(t.TempDir(), walFileOf(1).Name(segmentSize))
	_, err := pushPath(t, s, path)
	contains(t, err, path, "no such file")
	if err := os.Mkdir(path, 0o700); err != nil {
		t.Fatal(err)
	}
	_, err = pushPath(t, s, path)
	contains(t, err, path, "not a regular file")
	pipe := filepath.Join(t.TempDir(), walFileOf(1).Name(segmentSize))
	if err := syscall.Mkfifo(pipe, 0o600); err != nil {
		t.Fatal(err)
	}
	_, err = pushPath(t, s, pipe)
	contains(t, err, pipe, "not a regular file")
}

func TestAFaultOfOneRepositoryDoesNotKeepTheFileFromTheOthers(t *testing.T) {
	id := testIdentity(17)
	foreign := id
	foreign.SystemID = 1
	first, second := newStanza(t, mem.New(), foreign), newStanza(t, mem.New(), id)
	p, err := NewPusher(pushTo("first", first), pushTo("second", second))
	if err != nil {
		t.Fatal(err)
	}
	name, content := walFileOf(1).Name(segmentSize), segment(id, walFileOf(1))
	result, err := p.Push(t.Context(), writeFile(t, name, content))
	contains(t, err, "repository first")
	if strings.Contains(err.Error(), "second") || len(result.Stored) != 1 || result.Stored[0].Repository != "second" {
		t.Errorf("error %v, result %+v", err, result)
	}
	mustHold(t, second, name, content)
}

func TestPushWithoutRepositoriesOrTimeFails(t *testing.T) {
	if _, err := NewPusher(); err == nil {
		t.Error("a pusher to nowhere was made")
	}
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	s := memStanza(t)
	p, err := NewPusher(pushTo("local", s))
	if err != nil {
		t.Fatal(err)
	}
	if _, err := p.Push(ctx, writeFile(t, walFileOf(1).Name(segmentSize), segment(s.Current(), walFileOf(1)))); !errors.Is(err, context.Canceled) {
		t.Errorf("error %v", err)
	}
}
