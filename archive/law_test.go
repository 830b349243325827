package archive

import (
	"bytes"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"testing"

	"github.com/pgbak/pgbak/internal/hint"
	"github.com/pgbak/pgbak/repo"
	"github.com/pgbak/pgbak/storage"
	"github.com/pgbak/pgbak/storage/faulty"
)

// The ways in which the n-th storage operation can go wrong.
func faults() map[string]func(storage.Store, int) *faulty.Store {
	return map[string]func(storage.Store, int) *faulty.Store{
		"fails":                        faulty.FailNth,
		"works but its answer is lost": faulty.FailNthAfter,
		"is the last one before a crash": func(st storage.Store, n int) *faulty.Store {
			return faulty.CrashAfter(st, n-1)
		},
	}
}

// tooMany bounds the loops over n: no push or get needs so many operations.
const tooMany = 500

func TestAfterAFaultAtAnyOperationOfAPushTheArchiveIsRightAndTheNextPushSucceeds(t *testing.T) {
	id := testIdentity(17)
	name, content := walFileOf(1).Name(segmentSize), segment(id, walFileOf(1))
	path := writeFile(t, name, content)
	for title, fault := range faults() {
		for kind, open := range stores(t) {
			t.Run(fmt.Sprint("operation n ", title, " on ", kind), func(t *testing.T) {
				for n := 1; ; n++ {
					if n > tooMany {
						t.Fatal("the fault never stopped to fire")
					}
					base := open()
					newStanza(t, base, id)
					faulted := fault(base, n)
					pushErr := pushThrough(t, faulted, path)
					if !faulted.Fired() {
						if pushErr != nil {
							t.Fatalf("without a fault: %v", pushErr)
						}
						t.Logf("%d operations", n-1)
						return
					}
					checkAfterFault(t, base, name, path, content, pushErr)
				}
			})
		}
	}
}

func pushThrough(t *testing.T, st storage.Store, path string) error {
	t.Helper()
	s, err := openStanza(t, st)
	if err != nil {
		return err
	}
	_, err = pushPath(t, s, path)
	return err
}

func checkAfterFault(t *testing.T, base storage.Store, name, path string, content []byte, pushErr error) {
	t.Helper()
	s, err := openStanza(t, base)
	if err != nil {
		t.Fatal(err)
	}
	got, err := getContent(t, s, name)
	switch {
	case err == nil && !bytes.Equal(got, content):
		t.Fatal("other content than was pushed is there")
	case err != nil && !errors.Is(err, ErrAbsent):
		t.Fatalf("neither absent nor whole: %v", err)
	case err != nil && pushErr == nil:
		t.Fatal("the push reported success and the file is absent")
	}
	if _, err := pushPath(t, s, path); err != nil {
		t.Fatalf("the next push: %v", err)
	}
	mustHold(t, s, name, content)
}

func TestAFaultAtAnyOperationOfAGetIsNeverAbsenceAndNeverAPartialFile(t *testing.T) {
	id := testIdentity(17)
	name, content := walFileOf(1).Name(segmentSize), segment(id, walFileOf(1))
	for title, fault := range faults() {
		for kind, open := range stores(t) {
			t.Run(fmt.Sprint("operation n ", title, " on ", kind), func(t *testing.T) {
				base := open()
				if _, err := pushContent(t, newStanza(t, base, id), name, content); err != nil {
					t.Fatal(err)
				}
				for n := 1; ; n++ {
					if n > tooMany {
						t.Fatal("the fault never stopped to fire")
					}
					faulted := fault(base, n)
					err := getThrough(t, faulted, name, content)
					if !faulted.Fired() {
						if err != nil {
							t.Fatalf("without a fault: %v", err)
						}
						t.Logf("%d operations", n-1)
						return
					}
					if errors.Is(err, ErrAbsent) {
						t.Fatalf("operation %d: a fault looks like an absent file: %v", n, err)
					}
				}
			})
		}
	}
}

func TestAFaultWhileAbsenceIsProvedIsNotAbsence(t *testing.T) {
	id := testIdentity(17)
	name := walFileOf(1).Name(segmentSize)
	for title, fault := range faults() {
		for kind, open := range stores(t) {
			t.Run(fmt.Sprint("operation n ", title, " on ", kind), func(t *testing.T) {
				base := open()
				newStanza(t, base, id)
				for n := 1; ; n++ {
					faulted := fault(base, n)
					err := getThrough(t, faulted, name, nil)
					if !faulted.Fired() {
						if !errors.Is(err, ErrAbsent) {
							t.Fatalf("without a fault: %v", err)
						}
						return
					}
					if err == nil || errors.Is(err, ErrAbsent) || n > tooMany {
						t.Fatalf("operation %d: %v", n, err)
					}
				}
			})
		}
	}
}

func getThrough(t *testing.T, st storage.Store, name string, content []byte) error {
	t.Helper()
	s, err := openStanza(t, st)
	if err != nil {
		return err
	}
	got, err := getContent(t, s, name)
	if err == nil && !bytes.Equal(got, content) {
		t.Fatal("a get without error gave other content")
	}
	return err
}

func TestATornPutIsNoticedByTheNextGetAndTheNextPush(t *testing.T) {
	id := testIdentity(17)
	name, content := walFileOf(1).Name(segmentSize), segment(id, walFileOf(1))
	for _, open := range stores(t) {
		base := open()
		newStanza(t, base, id)
		path := writeFile(t, name, content)
		if err := pushThrough(t, faulty.Tear(base, 1), path); err != nil {
			t.Logf("the push itself: %v", err)
		}
		s, err := openStanza(t, base)
		if err != nil {
			t.Fatal(err)
		}
		if _, err := getContent(t, s, name); err == nil || errors.Is(err, ErrAbsent) {
			t.Errorf("get: %v", err)
		}
		if _, err := pushPath(t, s, path); !errors.Is(err, repo.ErrDamaged) || hint.Of(err) == "" {
			t.Errorf("a push over a torn object: %v", err)
		}
	}
}

func TestNoSpaceForTheDestinationLeavesNothing(t *testing.T) {
	s := memStanza(t)
	name, content := walFileOf(1).Name(segmentSize), segment(s.Current(), walFileOf(1))
	if _, err := pushContent(t, s, name, content); err != nil {
		t.Fatal(err)
	}
	dir := smallFileSystem(t, segmentSize/2)
	if _, err := getFrom(t, name, filepath.Join(dir, "RECOVERYXLOG"), s); err == nil || errors.Is(err, ErrAbsent) {
		t.Errorf("error %v", err)
	}
	entries, err := os.ReadDir(dir)
	if err != nil || len(entries) != 0 {
		t.Errorf("%d files are left, %v", len(entries), err)
	}
}
