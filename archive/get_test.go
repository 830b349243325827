package archive

import (
	"context"
	"errors"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/pgbak/pgbak/repo"
	"github.com/pgbak/pgbak/storage"
	"github.com/pgbak/pgbak/storage/faulty"
	"github.com/pgbak/pgbak/storage/mem"
)

func TestWhatIsInNoRepositoryIsAbsentAndNothingElse(t *testing.T) {
	s := memStanza(t)
	for _, name := range []string{walFileOf(1).Name(segmentSize), walFileOf(1).Name(segmentSize) + ".partial", "00000002.history"} {
		_, err := getContent(t, s, name)
		if !errors.Is(err, ErrAbsent) || !errors.Is(err, storage.ErrNotExist) {
			t.Errorf("%s: %v", name, err)
		}
		contains(t, err, name)
	}
	if _, err := getContent(t, s, "nonsense"); err == nil || errors.Is(err, ErrAbsent) {
		t.Errorf("a name that is no WAL file's: %v", err)
	}
}

func TestAPartialSegmentIsServedOnlyUnderItsOwnName(t *testing.T) {
	s := memStanza(t)
	name, content := walFileOf(1).Name(segmentSize), segment(s.Current(), walFileOf(1))
	if _, err := pushContent(t, s, name+".partial", content); err != nil {
		t.Fatal(err)
	}
	if _, err := getContent(t, s, name); !errors.Is(err, ErrAbsent) {
		t.Errorf("error %v", err)
	}
	mustHold(t, s, name+".partial", content)
}

func TestARepositoryThatWentAwayIsNotAnAbsentFile(t *testing.T) {
	st := mem.New()
	s := newStanza(t, st, testIdentity(17))
	for o, err := range st.Clone().List(t.Context(), "", "") {
		if err != nil {
			t.Fatal(err)
		}
		if err := st.Delete(t.Context(), o.Key); err != nil {
			t.Fatal(err)
		}
	}
	if _, err := getContent(t, s, walFileOf(1).Name(segmentSize)); err == nil || errors.Is(err, ErrAbsent) {
		t.Errorf("error %v", err)
	}
}

// TestAbsenceIsNotProvedByAStanzaThatLostAnIdentity has a cluster come back to
// its stanza after an upgrade that was given up: its newest WAL is under the
// third identity, which cannot be seen when the second is lost.
func TestAbsenceIsNotProvedByAStanzaThatLostAnIdentity(t *testing.T) {
	st := mem.New()
	old, upgraded := testIdentity(17), testIdentity(18)
	upgraded.SystemID++
	s := newStanza(t, st, old)
	for _, id := range []repo.Identity{upgraded, old} {
		if _, err := s.AddIdentity(t.Context(), id); err != nil {
			t.Fatal(err)
		}
	}
	name, content := walFileOf(5).Name(segmentSize), segment(s.Current(), walFileOf(5))
	if _, err := pushContent(t, s, name, content); err != nil {
		t.Fatal(err)
	}
	if err := st.Delete(t.Context(), "stanzas/main/identity/00000002"); err != nil {
		t.Fatal(err)
	}
	s, err := openStanza(t, st)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := getContent(t, s, name); errors.Is(err, ErrAbsent) || !errors.Is(err, repo.ErrDamaged) {
		t.Errorf("error %v", err)
	}
}

// getFrom asks several repositories and returns what Get says.
func getFrom(t *testing.T, name, dest string, stanzas ...*repo.Stanza) ([]string, error) {
	t.Helper()
	var sources []Source
	for i, s := range stanzas {
		sources = append(sources, takeFrom(string(rune('a'+i)), s, s.Current()))
	}
	g, err := NewGetter(sources...)
	if err != nil {
		t.Fatal(err)
	}
	got, err := g.Get(t.Context(), name, dest)
	return got.Warnings, err
}

func TestTheNextRepositoryIsAskedAndTroubleIsNeverAbsence(t *testing.T) {
	id := testIdentity(17)
	name, content := walFileOf(1).Name(segmentSize), segment(id, walFileOf(1))
	empty, full := newStanza(t, mem.New(), id), newStanza(t, mem.New(), id)
	if _, err := pushContent(t, full, name, content); err != nil {
		t.Fatal(err)
	}
	base := mem.New()
	newStanza(t, base, id)
	down := false
	broken, err := openStanza(t, faulty.OnOp(base, func(string, string) error {
		if down {
			return errors.New("timeout")
		}
		return nil
	}))
	if err != nil {
		t.Fatal(err)
	}
	down = true
	dest := filepath.Join(t.TempDir(), "RECOVERYXLOG")
	if warnings, err := getFrom(t, name, dest, empty, full); err != nil || len(warnings) != 0 {
		t.Errorf("absent, then there: %v, warnings %q", err, warnings)
	}
	if warnings, err := getFrom(t, name, dest, broken, full); err != nil || len(warnings) != 1 || !strings.Contains(warnings[0], "timeout") {
		t.Errorf("trouble, then there: %v, warnings %q", err, warnings)
	}
	for _, order := range [][]*repo.Stanza{{broken, empty}, {empty, broken}} {
		if _, err := getFrom(t, name, dest, order...); err == nil || errors.Is(err, ErrAbsent) {
			t.Errorf("trouble and absent: %v", err)
		}
	}
	if _, err := getFrom(t, name, dest, empty, empty); !errors.Is(err, ErrAbsent) {
		t.Errorf("absent twice: %v", err)
	}
	if _, err := NewGetter(); err == nil {
		t.Error("a getter from nowhere was made")
	}
}

func TestTheDestinationIsReplacedOrLeftAlone(t *testing.T) {
	s := memStanza(t)
	name, content := walFileOf(1).Name(segmentSize), segment(s.Current(), walFileOf(1))
	if _, err := pushContent(t, s, name, content); err != nil {
		t.Fatal(err)
	}
	t.Chdir(t.TempDir())
	if err := os.Mkdir("pg_wal", 0o700); err != nil {
		t.Fatal(err)
	}
	dest := "pg_wal/RECOVERYXLOG"
	if err := os.WriteFile(dest, []byte("old"), 0o600); err != nil {
		t.Fatal(err)
	}
	if _, err := getFrom(t, walFileOf(2).Name(segmentSize), dest, s); !errors.Is(err, ErrAbsent) {
		t.Errorf("error %v", err)
	}
	if got, err := os.ReadFile(dest); err != nil || string(got) != "old" {
		t.Errorf("the destination was touched: %.20q, %v", got, err)
	}
	if _, err := getFrom(t, name, dest, s); err != nil {
		t.Fatal(err)
	}
	if got, err := os.ReadFile(dest); err != nil || string(got) != string(content) {
		t.Errorf("the destination has other content (%v)", err)
	}
	if _, err := getFrom(t, name, "nowhere/RECOVERYXLOG", s); err == nil || errors.Is(err, ErrAbsent) {
		t.Errorf("a directory that is not there: %v", err)
	}
}

// TestWhatAKilledGetLeftGoes: PostgreSQL removes nothing from pg_wal whose name it does not know.
func TestWhatAKilledGetLeftGoes(t *testing.T) {
	s := memStanza(t)
	f := walFileOf(1)
	if _, err := pushContent(t, s, f.Name(segmentSize), segment(s.Current(), f)); err != nil {
		t.Fatal(err)
	}
	dir := t.TempDir()
	for name, age := range map[string]time.Duration{".pgbak-get-1": 2 * time.Hour, ".pgbak-get-2": time.Minute, "pgbak-get-3": 2 * time.Hour} {
		path := filepath.Join(dir, name)
		if err := os.WriteFile(path, nil, 0o600); err != nil {
			t.Fatal(err)
		}
		if err := os.Chtimes(path, time.Time{}, time.Now().Add(-age)); err != nil {
			t.Fatal(err)
		}
	}
	if _, err := getFrom(t, f.Name(segmentSize), filepath.Join(dir, recoveryFile), s); err != nil {
		t.Fatal(err)
	}
	entries, err := os.ReadDir(dir)
	if err != nil {
		t.Fatal(err)
	}
	var names []string
	for _, e := range entries {
		names = append(names, e.Name())
	}
	if got, want := strings.Join(names, " "), ".pgbak-get-2 RECOVERYXLOG pgbak-get-3"; got != want {
		t.Errorf("there is %s, want %s", got, want)
	}
}

// walKey finds the object of the only WAL file.
func walKey(t *testing.T, st storage.Store) storage.Object {
	t.Helper()
	var found storage.Object
	for o, err := range st.List(t.Context(), "wal/", "") {
		if err != nil {
			t.Fatal(err)
		}
		found = o
	}
	if found.Key == "" {
		t.Fatal("there is no WAL object")
	}
	return found
}

func TestDamageIsNoticedWhereverItIsAndNamed(t *testing.T) {
	id := testIdentity(17)
	name := walFileOf(1).Name(segmentSize)
	st := mem.New()
	if _, err := pushContent(t, newStanza(t, st, id), name, segment(id, walFileOf(1))); err != nil {
		t.Fatal(err)
	}
	object := walKey(t, st)
	try := func(t *testing.T, damage func(storage.Store) error) {
		t.Helper()
		copied := st.Clone()
		if err := damage(copied); err != nil {
			t.Fatal(err)
		}
		s, err := openStanza(t, copied)
		if err != nil {
			t.Fatal(err)
		}
		_, err = getContent(t, s, name)
		if !errors.Is(err, repo.ErrDamaged) || errors.Is(err, ErrAbsent) {
			t.Fatalf("error %v is no damage", err)
		}
		contains(t, err, name)
	}
	for at := int64(0); at < object.Size; at += max(1, object.Size/97) {
		try(t, func(st storage.Store) error { return faulty.Flip(t.Context(), st, object.Key, at, 0x10) })
		try(t, func(st storage.Store) error { return faulty.Truncate(t.Context(), st, object.Key, at) })
	}
	try(t, func(st storage.Store) error { return faulty.Flip(t.Context(), st, object.Key, -1, 1) })
}

func TestAnotherSegmentUnderTheNameIsDamage(t *testing.T) {
	id := testIdentity(17)
	f := walFileOf(1)
	for title, content := range map[string][]byte{
		"of another position": segment(id, walFileOf(2)),
		"of another cluster":  segment(repo.Identity{SystemID: 5, Major: 17, SegmentSize: segmentSize}, f),
		"no segment at all":   make([]byte, segmentSize),
	} {
		t.Run(title, func(t *testing.T) {
			s := memStanza(t)
			if _, err := s.PutWAL(t.Context(), s.Current(), f, repo.NewWALContent(storage.Bytes(content))); err != nil {
				t.Fatal(err)
			}
			_, err := getContent(t, s, f.Name(segmentSize))
			if !errors.Is(err, repo.ErrDamaged) {
				t.Errorf("error %v is no damage", err)
			}
		})
	}
}

func TestWALFromBeforeAnUpgradeIsServedToTheOldCluster(t *testing.T) {
	s := memStanza(t)
	old := s.Current()
	name, content := walFileOf(1).Name(segmentSize), segment(old, walFileOf(1))
	if _, err := pushContent(t, s, name, content); err != nil {
		t.Fatal(err)
	}
	upgraded := testIdentity(18)
	upgraded.SystemID = 99
	if _, err := s.AddIdentity(t.Context(), upgraded); err != nil {
		t.Fatal(err)
	}
	if _, err := getContent(t, s, name); !errors.Is(err, ErrAbsent) {
		t.Errorf("the new cluster: %v", err)
	}
	g, err := NewGetter(takeFrom("local", s, old))
	if err != nil {
		t.Fatal(err)
	}
	if _, err := g.Get(t.Context(), name, filepath.Join(t.TempDir(), "x")); err != nil {
		t.Errorf("the old cluster: %v", err)
	}
}

func TestAnInterruptedGetIsNotAbsence(t *testing.T) {
	s := memStanza(t)
	g, err := NewGetter(takeFrom("local", s, s.Current()))
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if _, err := g.Get(ctx, walFileOf(1).Name(segmentSize), filepath.Join(t.TempDir(), "x")); !errors.Is(err, context.Canceled) || errors.Is(err, ErrAbsent) {
		t.Errorf("error %v", err)
	}
}
