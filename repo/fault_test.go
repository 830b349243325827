package repo

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"testing"

	"github.com/pgbak/pgbak/storage"
	"github.com/pgbak/pgbak/storage/faulty"
	"github.com/pgbak/pgbak/storage/mem"
)

// faultVariants are the ways in which the n-th operation fails.
var faultVariants = []struct {
	title string
	make  func(st storage.Store, n int) *faulty.Store
}{
	{"fails without effect", faulty.FailNth},
	{"has its effect, but the answer is lost", faulty.FailNthAfter},
	{"is the last that works", faulty.CrashAfter},
}

// eachFault runs program on a copy of base once for every operation that it
// has, failing that one, and then law on what the store holds.
func eachFault(t *testing.T, base *mem.Store, program func(st storage.Store) error, law func(t *testing.T, st *mem.Store, failed error)) {
	for _, v := range faultVariants {
		t.Run("an operation "+v.title, func(t *testing.T) {
			n := 1
			for ; ; n++ {
				inner := base.Clone()
				st := v.make(inner, n)
				err := program(st)
				if len(st.Trace()) < n { // all were tried
					if err != nil {
						t.Fatal(err)
					}
					break
				}
				if !st.Fired() { // it failed by itself, as a look for what is absent does
					continue
				}
				if err != nil && !errors.Is(err, faulty.ErrInjected) {
					t.Errorf("operation %d (%s): another error: %v", n, st.Trace()[n-1], err)
				}
				t.Run(fmt.Sprintf("number %d", n), func(t *testing.T) { law(t, inner, err) })
			}
			t.Logf("%d operations", n-1)
			if n < 3 {
				t.Errorf("only %d operations were tried", n-1)
			}
		})
	}
}

// smallTree has a file of each kind of content; a run per operation is enough to wait for.
func smallTree(seed uint64) testTree {
	return testTree{
		{"PG_VERSION", rows(3, seed)},
		{"base", nil},
		{"base/1", append(rows(2*windowBytes, seed), make([]byte, windowBytes)...)},
		{"base/2", []byte{}},
		{"base/3", rows(20*testPage, seed)},
		{"global", nil},
		{"global/1", rows(5000, seed)},
	}
}

func stanzaOn(ctx context.Context, st storage.Store) (*Stanza, error) {
	r, err := Create(ctx, st, Options{Clock: testClock()})
	if err != nil {
		return nil, err
	}
	return r.CreateStanza(ctx, "main", testIdentity())
}

func TestCreatingARepositoryUnderFaults(t *testing.T) {
	ctx := context.Background()
	eachRepository(t, func(t *testing.T, passphrase string) {
		create := func(st storage.Store) error {
			o := fixtureOptions(passphrase)
			o.Random = nil // every run is another one
			r, err := Create(ctx, st, o)
			if err != nil {
				return err
			}
			_, err = r.CreateStanza(ctx, "main", testIdentity())
			return err
		}
		eachFault(t, mem.New(), create, func(t *testing.T, st *mem.Store, _ error) {
			if err := create(st); err != nil {
				t.Errorf("the next run: %v", err)
			}
			if passphrase == "" {
				smallTree(1).store(t, testRepositoryAgain(t, st))
			}
		})
	})
}

func testRepositoryAgain(t *testing.T, st storage.Store) *Stanza {
	t.Helper()
	s, err := stanzaOn(context.Background(), st)
	if err != nil {
		t.Fatal(err)
	}
	return s
}

func TestPuttingWALUnderFaults(t *testing.T) {
	ctx := context.Background()
	base := mem.New()
	walStanza(t, base, "")
	content := rows(fixtureSegment, 1)
	f := mustWAL(t, "000000010000000000000001")
	put := func(st storage.Store) error {
		r, err := Open(ctx, st, Options{Clock: testClock()})
		if err != nil {
			return err
		}
		s, err := r.Stanza(ctx, "main")
		if err == nil {
			_, err = s.PutWAL(ctx, s.Current(), f, NewWALContent(storage.Bytes(content)))
		}
		return err
	}
	again := func(st storage.Store) error { return errFirst(put(st), put(st)) } // the second time it compares
	law := func(t *testing.T, st *mem.Store, failed error) {
		s := walStanza(t, st, "")
		there, err := s.HasWAL(ctx, s.Current(), f)
		if err != nil || failed == nil && !there {
			t.Errorf("there %v, %v after %v", there, err, failed)
		}
		if there {
			if got, err := readWAL(ctx, s, s.Current(), "000000010000000000000001"); err != nil || string(got) != string(content) {
				t.Errorf("what is there: %v", err)
			}
		}
		if err := put(st); err != nil {
			t.Errorf("the next run: %v", err)
		}
	}
	eachFault(t, base, put, law)
	eachFault(t, base, again, law)
}

// TestBackupUnderFaults: whatever fails, every listed backup reads right, a
// failed commit is invisible or whole, and the next run succeeds.
func TestBackupUnderFaults(t *testing.T) {
	for _, test := range []struct {
		title  string
		before int // backups that are there
		tree   testTree
	}{
		{"the first full", 0, smallTree(1)},
		{"a second full of the same content", 1, smallTree(1)},
		{"a second full of other content", 1, smallTree(2)},
	} {
		t.Run(test.title, func(t *testing.T) {
			base := mem.New()
			s := testRepository(t, base, "")
			known := map[Label]testTree{}
			for range test.before {
				known[smallTree(1).store(t, s).Label] = smallTree(1)
			}
			eachFault(t, base, func(st storage.Store) error { return runBackup(st, test.tree) }, func(t *testing.T, st *mem.Store, failed error) {
				afterFault(t, st, known, test.tree, failed)
			})
		})
	}
}

func runBackup(st storage.Store, tree testTree) error {
	ctx := context.Background()
	r, err := Open(ctx, st, Options{Clock: testClock()})
	if err != nil {
		return err
	}
	s, err := r.Stanza(ctx, "main")
	if err != nil {
		return err
	}
	w, err := s.BeginBackup(ctx, s.Current(), BeginOptions{Type: Full, PageSize: testPage, Uploads: 2})
	if err != nil {
		return err
	}
	if err := tree.write(ctx, w); err != nil {
		w.Abort()
		return err
	}
	_, err = w.Commit(BackupHeader{Timeline: 1})
	return err
}

func afterFault(t *testing.T, st *mem.Store, known map[Label]testTree, tree testTree, failed error) {
	t.Helper()
	s := testRepositoryAgain(t, st)
	count := allReadRight(t, s, known, tree)
	if failed == nil && count != len(known)+1 {
		t.Errorf("success, but %d backups", count)
	}
	if errors.Is(failed, ErrPinLeft) && count != len(known)+1 {
		t.Errorf("%d backups after %v", count, failed)
	}
	if err := runBackup(st, tree); err != nil {
		t.Fatalf("the next run: %v", err)
	}
	if again := allReadRight(t, s, known, tree); again != count+1 {
		t.Errorf("%d backups after the next run, %d before", again, count)
	}
}

// allReadRight reads every listed backup: the known ones hold what they did,
// all others the tree.
func allReadRight(t *testing.T, s *Stanza, known map[Label]testTree, tree testTree) int {
	t.Helper()
	c, err := s.Catalog(context.Background())
	if err != nil {
		t.Fatal(err)
	}
	for _, b := range c.Backups {
		want, ok := known[b.Label]
		if !ok {
			want = tree
		}
		if err := errFirst(b.Err, checkBackup(s, b.Label, want)); err != nil {
			t.Errorf("backup %s: %v", b.Label, err)
		}
	}
	return len(c.Backups)
}

// TestTornPutIsNoticed: no store may tear, but readers would see it. A torn pin
// is not needed to read the backup.
func TestTornPutIsNoticed(t *testing.T) {
	for n := 1; ; n++ {
		base := mem.New()
		testRepository(t, base, "")
		st := faulty.Tear(base, n)
		err := runBackup(st, smallTree(1))
		if !st.Fired() {
			if n < 4 {
				t.Errorf("only %d puts were tried", n-1)
			}
			return
		}
		if err == nil {
			s := testRepositoryAgain(t, base)
			err = checkBackup(s, s.labelsThere(t)[0], smallTree(1))
		}
		key := tornKey(st, n)
		if err == nil && !strings.HasPrefix(key, pinsPrefix) || err != nil && !(errors.Is(err, ErrDamaged) && strings.Contains(err.Error(), key)) {
			t.Errorf("%s was torn: %v", key, err)
		}
	}
}

// tornKey is the key of the n-th put.
func tornKey(st *faulty.Store, n int) string {
	for _, op := range st.Trace() {
		if name, key, _ := strings.Cut(op, " "); name == faulty.OpPut || name == faulty.OpPutIfAbsent {
			if n--; n == 0 {
				return key
			}
		}
	}
	return "no put"
}

func (s *Stanza) labelsThere(t *testing.T) (labels []Label) {
	t.Helper()
	manifests, err := s.manifests(context.Background())
	if err != nil || len(manifests) == 0 {
		t.Fatalf("manifests %v, %v", manifests, err)
	}
	for _, m := range manifests {
		labels = append(labels, m.Label)
	}
	return labels
}
