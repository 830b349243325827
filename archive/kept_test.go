package archive

import (
	"errors"
	"io"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"testing"

	"github.com/pgbak/pgbak/internal/postgres"
	"github.com/pgbak/pgbak/repo"
	"github.com/pgbak/pgbak/storage"
)

// PostgreSQL is told that a kept file is safe. What could not be kept is not.
func TestAFileThatCannotBeKeptIsNotAcknowledged(t *testing.T) {
	const name = "00000003.history"
	for title, c := range map[string]struct {
		spoil func(part string) error
		said  string
	}{
		"others may write there": {func(part string) error { return errors.Join(os.Mkdir(part, 0o700), os.Chmod(part, 0o777)) }, "can be written by others"},
		"a file is there":        {func(part string) error { return os.WriteFile(part, nil, 0o600) }, "is not a directory"},
		"a link is there":        {func(part string) error { return os.Symlink(filepath.Dir(part), part) }, "is not a directory"},
		"its name is taken": {func(part string) error {
			return errors.Join(os.Mkdir(part, 0o700), os.Mkdir(filepath.Join(part, name), 0o700))
		}, "not a regular file"},
		"its name is a link's": {func(part string) error {
			return errors.Join(os.Mkdir(part, 0o700), os.Symlink("/nowhere", filepath.Join(part, name)))
		}, "not a regular file"},
		"it cannot be said for whom": {func(part string) error {
			return errors.Join(os.Mkdir(part, 0o700), os.Mkdir(keptForPath(filepath.Join(part, name)), 0o700))
		}, keptForMark + "00000003.history"},
	} {
		t.Run(title, func(t *testing.T) {
			s, spool := newServer(t, 0), newSpool(t)
			part := spool.keptPart(testIdentity(17).SystemID)
			if err := c.spoil(part); err != nil {
				t.Fatal(err)
			}
			s.write(t, name, []byte(history3))
			for n := range uint64(3) {
				s.write(t, on(3, 5+n).Name(segmentSize), pagedSegment(testIdentity(17), on(3, 5+n)))
			}
			result, err := withControl(t, spool, 1, PushTarget{Name: "local", Open: closedQuietly}).Push(t.Context(), s.path(name))
			if err == nil || result.Kept {
				t.Fatalf("%+v, %v", result, err)
			}
			if err := spool.keepFile(t.Context(), s.path(name), part, []string{"a"}); err == nil || !strings.Contains(err.Error(), c.said) {
				t.Errorf("%v, want %q", err, c.said)
			}
			if info, err := os.Lstat(filepath.Join(part, name)); err == nil && info.Mode().IsRegular() {
				t.Error("something is kept")
			}
		})
	}
}

func TestWhatAKeptFileWaitsFor(t *testing.T) {
	spool := newSpool(t)
	s := newServer(t, 0)
	s.write(t, "00000003.history", []byte(history3))
	part := spool.keptPart(7)
	kept := filepath.Join(part, "00000003.history")
	steps := func(all []string, done ...string) {
		t.Helper()
		if err := spool.forgetKept(t.Context(), kept, all, done); err != nil {
			t.Fatal(err)
		}
	}
	waits := func(want ...string) {
		t.Helper()
		if got, known := readKeptFor(kept); !known || !slices.Equal(got, want) {
			t.Errorf("it waits for %q (%t), want %q", got, known, want)
		}
		if content, err := os.ReadFile(kept); err != nil || string(content) != history3 {
			t.Errorf("kept is %q, %v", content, err)
		}
	}
	keep := func(lack ...string) {
		t.Helper()
		if err := spool.keepFile(t.Context(), s.path("00000003.history"), part, lack); err != nil {
			t.Fatal(err)
		}
	}
	keep("b", "a")
	waits("b", "a")
	keep("c", "a")
	waits("a", "b", "c")
	steps(nil, "b")
	waits("a", "c")
	steps(nil)
	waits("a", "c")

	// One that does not say it, or in a way of a later version, is for all.
	for _, k := range []any{keptFor{Version: keptVersion + 1, Places: []string{"a"}}, "x"} {
		if err := writeDocument(keptForPath(kept), k, false); err != nil {
			t.Fatal(err)
		}
		if places, known := readKeptFor(kept); known {
			t.Errorf("%v is read as %q", k, places)
		}
	}
	keep("d") // it stays for all
	if _, known := readKeptFor(kept); known {
		t.Error("a file for all is for one only")
	}
	steps([]string{"a", "b"}, "b")
	waits("a")
	steps([]string{"a", "b"}, "a")
	if left, err := os.ReadDir(part); err != nil || len(left) > 0 {
		t.Errorf("left are %v, %v", left, err)
	}
}

func TestAJournalOfALaterVersionIsPutAside(t *testing.T) {
	s, spool := newServer(t, 5), newSpool(t)
	later := droppedRanges{Version: droppedVersion + 1, Ranges: []droppedRange{dropOf(segmentNumber(7), segmentNumber(7), "a")}}
	if err := writeDocument(spool.droppedPath(), later, false); err != nil {
		t.Fatal(err)
	}
	if _, err := spool.readDropped(); !errors.Is(err, ErrSpool) || !strings.Contains(err.Error(), "has version 2, this program knows 1") {
		t.Error(err)
	}
	down := newTestBatch(t, spool, PushTarget{Name: "local", Open: closedQuietly})
	down.QueueMax = 3 * segmentSize
	if dropped, _ := s.archiveAll(t, down); !slices.Equal(dropped, names(1, 2)) {
		t.Errorf("dropped are %q", dropped)
	}
	j, err := spool.readDropped()
	if err != nil || len(j.Ranges) != 1 || j.Ranges[0].First != segmentNumber(1) || j.Ranges[0].Last != segmentNumber(2) {
		t.Errorf("%+v, %v", j, err)
	}
	var aside droppedRanges
	if err := readDocument(spool.droppedPath()+".damaged", &aside); err != nil || len(aside.Ranges) != 1 {
		t.Errorf("%+v, %v", aside, err)
	}
}

// A sum is of all the bytes that a file had when it was opened.
func TestAFileThatShrinksHasNoSum(t *testing.T) {
	path := writeFile(t, segmentNumber(1), make([]byte, 100_000))
	file, err := look(path)
	if err != nil {
		t.Fatal(err)
	}
	defer file.Close()
	if sum, err := file.sum(); err != nil || sum.Size != 100_000 {
		t.Fatal(sum, err)
	}
	if err := os.Truncate(path, 99_999); err != nil {
		t.Fatal(err)
	}
	if sum, err := file.sum(); err == nil || sum != (contentSum{}) {
		t.Errorf("%+v, %v", sum, err)
	}
}

// What a spool says is read from a regular file, whole.
func TestADocumentIsWholeOrNone(t *testing.T) {
	path := filepath.Join(t.TempDir(), "document")
	var got keptFor
	if err := writeDocument(path, keptFor{1, []string{"a"}}, true); err != nil {
		t.Fatal(err)
	}
	if err := readDocument(path, &got); err != nil || !slices.Equal(got.Places, []string{"a"}) {
		t.Fatal(got, err)
	}
	whole, err := encodeDocument(keptFor{1, []string{strings.Repeat("x", maxDocument)}})
	if err != nil {
		t.Fatal(err)
	}
	small, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	tail := small[len(small)-documentTail:]
	for title, content := range map[string][]byte{"too large": whole, "empty": nil, "only a tail": tail, "torn": small[:len(small)-1], "two lines": append([]byte("{}\n"), small...)} {
		if err := os.WriteFile(path, content, 0o600); err != nil {
			t.Fatal(err)
		}
		if err := readDocument(path, &got); !errors.Is(err, errNoDocument) || !strings.Contains(err.Error(), path) {
			t.Errorf("%s: %v", title, err)
		}
	}
	if left, err := filepath.Glob(filepath.Join(filepath.Dir(path), temporaryMark+"*")); err != nil || len(left) > 0 {
		t.Errorf("left over: %v, %v", left, err)
	}
	// One that cannot be written leaves the old one, and nothing else.
	dir := filepath.Join(t.TempDir(), "dir")
	if err := errors.Join(os.MkdirAll(filepath.Join(dir, "taken", "x"), 0o700)); err != nil {
		t.Fatal(err)
	}
	if err := writeDocument(filepath.Join(dir, "taken"), got, true); !errors.Is(err, ErrSpool) {
		t.Errorf("over a directory: %v", err)
	}
	if err := copyDurably(filepath.Join(dir, "taken"), strings.NewReader("x")); err == nil {
		t.Error("a copy replaces a directory")
	}
	if err := copyDurably(filepath.Join(dir, "torn"), io.MultiReader(strings.NewReader("x"), failingReader{})); !errors.Is(err, syscall.EIO) {
		t.Errorf("a copy of what cannot be read: %v", err)
	}
	if left, err := os.ReadDir(dir); err != nil || len(left) != 1 {
		t.Errorf("left over: %v, %v", left, err)
	}
	if err := writeDocument(filepath.Join(dir, "none", "x"), got, true); !errors.Is(err, ErrSpool) {
		t.Errorf("in no directory: %v", err)
	}
}

type failingReader struct{}

func (failingReader) Read([]byte) (int, error) { return 0, syscall.EIO }

// Only what the repositories could not take is kept: what they refuse would never
// be archived, though PostgreSQL had heard of success.
func TestWhatIsRefusedIsNotKept(t *testing.T) {
	for title, c := range map[string]struct {
		content string
		is      error
	}{
		"another history is archived": {history2 + "2\t0/500000\tanother way\n", repo.ErrWALConflict},
		"it is no history":            {"x", ErrRefused},
	} {
		t.Run(title, func(t *testing.T) {
			stanza := memStanza(t)
			s, spool := newServer(t, 0), newSpool(t)
			f := postgres.WALFile{Kind: postgres.WALHistory, Timeline: 3}
			if _, err := stanza.PutWAL(t.Context(), stanza.Current(), f, repo.NewWALContent(storage.Bytes([]byte(history3)))); err != nil {
				t.Fatal(err)
			}
			s.write(t, "00000003.history", []byte(c.content))
			for n := range uint64(3) {
				s.write(t, on(3, 5+n).Name(segmentSize), pagedSegment(testIdentity(17), on(3, 5+n)))
			}
			result, err := withControl(t, spool, 1, pushTo("local", stanza)).Push(t.Context(), s.path("00000003.history"))
			if !errors.Is(err, c.is) || result.Kept {
				t.Errorf("%+v, %v", result, err)
			}
			if _, err := os.Stat(spool.keptPart(testIdentity(17).SystemID)); !errors.Is(err, os.ErrNotExist) {
				t.Errorf("something is kept: %v", err)
			}
		})
	}
}
