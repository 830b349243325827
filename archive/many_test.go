package archive

import (
	"bytes"
	"context"
	"errors"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/pgbak/pgbak/internal/hint"
	"github.com/pgbak/pgbak/repo"
	"github.com/pgbak/pgbak/storage"
	"github.com/pgbak/pgbak/storage/faulty"
	"github.com/pgbak/pgbak/storage/mem"
)

// Several repositories at once.

// opens is a target that is opened only in Push, from its store.
func opens(t *testing.T, name string, st storage.Store) PushTarget {
	return PushTarget{Name: name, Open: func(context.Context) (*repo.Stanza, error) { return openStanza(t, st) }}
}

func mustPush(t *testing.T, path string, targets ...PushTarget) (Result, error) {
	t.Helper()
	p, err := NewPusher(targets...)
	if err != nil {
		t.Fatal(err)
	}
	return p.Push(t.Context(), path)
}

func TestASlowRepositoryDelaysNoOther(t *testing.T) {
	id := testIdentity(17)
	name, content := walFileOf(1).Name(segmentSize), segment(id, walFileOf(1))
	slow, fast := newStanza(t, mem.New(), id), newStanza(t, mem.New(), id)
	there := make(chan struct{})
	st := faulty.New(fast.Repository().Store(), nil, func(_ context.Context, op faulty.Op) error {
		if op.Name == faulty.OpPutIfAbsent {
			close(there)
		}
		return nil
	})
	waits := PushTarget{Name: "slow", Open: func(context.Context) (*repo.Stanza, error) {
		select {
		case <-there:
			return slow, nil
		case <-time.After(20 * time.Second):
			return nil, errors.New("the other repository has to wait")
		}
	}}
	result, err := mustPush(t, writeFile(t, name, content), waits, opens(t, "fast", st))
	if err != nil {
		t.Fatal(err)
	}
	// The fast one was the first to be done, and is the second to be told of.
	if len(result.Stored) != 2 || result.Stored[0].Repository != "slow" || result.Stored[1].Repository != "fast" {
		t.Errorf("result %+v", result)
	}
	mustHold(t, slow, name, content)
	mustHold(t, fast, name, content)
}

func TestAPushAfterOneThatFailedInPartStoresOnlyWhatIsMissing(t *testing.T) {
	id := testIdentity(17)
	name, content := walFileOf(1).Name(segmentSize), segment(id, walFileOf(1))
	path := writeFile(t, name, content)
	for _, failsAt := range []string{faulty.OpGet, faulty.OpPutIfAbsent} {
		first, second := mem.New(), mem.New()
		newStanza(t, first, id)
		newStanza(t, second, id)
		down := true
		st := faulty.OnOp(second, func(op, _ string) error {
			if down && op == failsAt {
				return errors.New("no route")
			}
			return nil
		})
		result, err := mustPush(t, path, opens(t, "first", first), opens(t, "second", st))
		if err == nil || len(result.Stored) != 1 || result.Stored[0].Repository != "first" || result.Stored[0].Outcome != repo.WALStored {
			t.Fatalf("%s fails: result %+v, %v", failsAt, result, err)
		}
		contains(t, err, "no route")
		if strings.Contains(err.Error(), "first") {
			t.Errorf("the error names a repository that works: %v", err)
		}

		down = false
		again := faulty.OnOp(first, func(string, string) error { return nil })
		result, err = mustPush(t, path, opens(t, "first", again), opens(t, "second", st))
		if err != nil || len(result.Stored) != 2 || result.Stored[0].Outcome != repo.WALAlreadyThere || result.Stored[1].Outcome != repo.WALStored {
			t.Errorf("the second time: %+v, %v", result, err)
		}
		if len(result.Warnings) != 1 || !strings.Contains(result.Warnings[0], "first") {
			t.Errorf("warnings %q", result.Warnings)
		}
		if key := "get " + walKey(t, first).Key; !slices.Contains(again.Trace(), key) {
			t.Errorf("what was there was not read back: %q", again.Trace())
		}
		s, err := openStanza(t, second)
		if err != nil {
			t.Fatal(err)
		}
		mustHold(t, s, name, content)
	}
}

func TestEveryRepositoryThatFailedIsNamedAndItsErrorFound(t *testing.T) {
	id := testIdentity(17)
	name, content := walFileOf(1).Name(segmentSize), segment(id, walFileOf(1))
	foreign := id
	foreign.SystemID = 1
	other := bytes.Clone(content)
	other[len(other)-1] ^= 1
	taken, full := newStanza(t, mem.New(), id), mem.New()
	if _, err := pushContent(t, taken, name, other); err != nil {
		t.Fatal(err)
	}
	newStanza(t, full, id)
	sound := newStanza(t, mem.New(), id)
	gone := errors.New(`repository "gone": no route`)
	result, err := mustPush(t, writeFile(t, name, content),
		PushTarget{Name: "gone", Open: func(context.Context) (*repo.Stanza, error) {
			return nil, hint.Wrap(gone, "mount it.")
		}},
		pushTo("foreign", newStanza(t, mem.New(), foreign)),
		pushTo("sound", sound),
		pushTo("taken", taken),
		opens(t, "full", faulty.OnOp(full, func(op, _ string) error {
			if op == faulty.OpPutIfAbsent {
				return storage.ErrNoSpace
			}
			return nil
		})))
	contains(t, err, `repository "gone"`, "repository foreign", "repository taken", "repository full")
	for _, want := range []error{gone, ErrRefused, repo.ErrWALConflict, storage.ErrNoSpace} {
		if !errors.Is(err, want) {
			t.Errorf("%v is not found in %v", want, err)
		}
	}
	if hint.Of(err) != "mount it." {
		t.Errorf("hint %q", hint.Of(err))
	}
	if len(result.Stored) != 1 || result.Stored[0].Repository != "sound" || strings.Contains(err.Error(), "sound") {
		t.Errorf("result %+v, %v", result, err)
	}
	mustHold(t, sound, name, content)
}

func TestWhatWasOpenedIsStoredThoughThePathBecomesAnotherFile(t *testing.T) {
	s := memStanza(t)
	f := walFileOf(1)
	content := segment(s.Current(), f)
	path := writeFile(t, f.Name(segmentSize), content)
	file, err := look(path)
	if err != nil {
		t.Fatal(err)
	}
	defer file.Close()
	other := bytes.Clone(content)
	other[len(other)-1] ^= 1
	if err := os.Rename(writeFile(t, "other", other), path); err != nil {
		t.Fatal(err)
	}
	if _, err := (&Pusher{}).pushInto(t.Context(), "local", s, file, repo.NewWALContent(file)); err != nil {
		t.Fatal(err)
	}
	mustHold(t, s, f.Name(segmentSize), content)
}

func TestAFileThatGrowsIsRefused(t *testing.T) {
	s := memStanza(t)
	path := writeFile(t, walFileOf(1).Name(segmentSize), segment(s.Current(), walFileOf(1)))
	file, err := look(path)
	if err != nil {
		t.Fatal(err)
	}
	defer file.Close()
	grown, err := os.OpenFile(path, os.O_WRONLY|os.O_APPEND, 0)
	if err != nil {
		t.Fatal(err)
	}
	defer grown.Close()
	if _, err := grown.WriteString("x"); err != nil {
		t.Fatal(err)
	}
	_, err = (&Pusher{}).pushInto(t.Context(), "local", s, file, repo.NewWALContent(file))
	contains(t, err, "more than", segmentSize)
}

// asked is a source that remembers that it was opened.
type asked struct {
	mu     sync.Mutex
	opened []string
}

func (a *asked) source(name string, s *repo.Stanza, err error) Source {
	return Source{Name: name, Open: func(context.Context) (*repo.Stanza, []repo.Identity, error) {
		a.mu.Lock()
		defer a.mu.Unlock()
		a.opened = append(a.opened, name)
		if err != nil {
			return nil, nil, err
		}
		return s, s.Identities(), nil
	}}
}

func TestRepositoriesAreOpenedOneAfterTheOtherUpToTheOneThatServes(t *testing.T) {
	id := testIdentity(17)
	name, content := walFileOf(1).Name(segmentSize), segment(id, walFileOf(1))
	empty, full := newStanza(t, mem.New(), id), newStanza(t, mem.New(), id)
	if _, err := pushContent(t, full, name, content); err != nil {
		t.Fatal(err)
	}
	gone := errors.New(`repository "gone": no route`)
	for _, test := range []struct {
		title    string
		sources  func(a *asked) []Source
		opened   string
		served   string // "" if it is not
		absent   bool
		warnings int
	}{
		{"the first has it", func(a *asked) []Source {
			return []Source{a.source("full", full, nil), a.source("gone", nil, gone)}
		}, "full", "full", false, 0},
		{"the second has it", func(a *asked) []Source {
			return []Source{a.source("empty", empty, nil), a.source("full", full, nil), a.source("gone", nil, gone)}
		}, "empty full", "full", false, 0},
		{"the first cannot be opened, the second has it", func(a *asked) []Source {
			return []Source{a.source("gone", nil, gone), a.source("full", full, nil)}
		}, "gone full", "full", false, 1},
		{"one cannot be opened, the other does not have it", func(a *asked) []Source {
			return []Source{a.source("gone", nil, gone), a.source("empty", empty, nil)}
		}, "gone empty", "", false, 0},
		{"one does not have it, the other cannot be opened", func(a *asked) []Source {
			return []Source{a.source("empty", empty, nil), a.source("gone", nil, gone)}
		}, "empty gone", "", false, 0},
		{"none has it", func(a *asked) []Source {
			return []Source{a.source("empty", empty, nil), a.source("other", newStanza(t, mem.New(), id), nil)}
		}, "empty other", "", true, 0},
		{"one says nothing of its identities, the other does not have it", func(a *asked) []Source {
			return []Source{takeFrom("silent", full), a.source("empty", empty, nil)}
		}, "empty", "", false, 0},
	} {
		t.Run(test.title, func(t *testing.T) {
			a := &asked{}
			g, err := NewGetter(test.sources(a)...)
			if err != nil {
				t.Fatal(err)
			}
			got, err := g.Get(t.Context(), name, filepath.Join(t.TempDir(), "RECOVERYXLOG"))
			if opened := strings.Join(a.opened, " "); opened != test.opened {
				t.Errorf("opened were %q, want %q", opened, test.opened)
			}
			if got.Repository != test.served || len(got.Warnings) != test.warnings || (err == nil) != (test.served != "") {
				t.Errorf("got %+v, %v", got, err)
			}
			if errors.Is(err, ErrAbsent) != test.absent {
				t.Errorf("absent: %v", err)
			}
			if slices.Contains(a.opened, "gone") && err != nil && !errors.Is(err, gone) {
				t.Errorf("the error does not say why nobody knows: %v", err)
			}
		})
	}
}

func TestAGetAsksOneGetAndAbsenceOneListMore(t *testing.T) {
	id := testIdentity(17)
	name, content := walFileOf(1).Name(segmentSize), segment(id, walFileOf(1))
	base := mem.New()
	if _, err := pushContent(t, newStanza(t, base, id), name, content); err != nil {
		t.Fatal(err)
	}
	st := faulty.OnOp(base, func(string, string) error { return nil })
	s, err := openStanza(t, st)
	if err != nil {
		t.Fatal(err)
	}
	requests := func(get func()) []string {
		before := len(st.Trace())
		get()
		return slices.DeleteFunc(st.Trace()[before:], func(op string) bool { return strings.HasPrefix(op, faulty.OpRead+" ") })
	}
	key := walKey(t, base).Key
	if got := requests(func() { mustHold(t, s, name, content) }); !slices.Equal(got, []string{"get " + key}) {
		t.Errorf("a file that is there: %q", got)
	}
	absent := requests(func() {
		if _, err := getContent(t, s, "00000002.history"); !errors.Is(err, ErrAbsent) {
			t.Error(err)
		}
	})
	want := []string{"get wal/main/00000001/history/00000002.history", "list stanzas/main/identity/"}
	if !slices.Equal(absent, want) {
		t.Errorf("a file that is absent: %q", absent)
	}
}
