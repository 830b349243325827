package repo

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/pgbak/pgbak/internal/hint"
	"github.com/pgbak/pgbak/storage"
	"github.com/pgbak/pgbak/storage/faulty"
	"github.com/pgbak/pgbak/storage/mem"
)

// roundTrip is what each request takes in these tests, of a clock that moves
// only when nothing else can: time divided by it counts round trips exactly.
const roundTrip = 50 * time.Millisecond

// far decorates a store so that it answers late. What follows of an answer
// takes no time.
func far(st storage.Store) *faulty.Store {
	return faulty.New(st, func(_ context.Context, op faulty.Op) error {
		if op.Name != faulty.OpRead {
			time.Sleep(roundTrip)
		}
		return nil
	}, nil)
}

// requests runs do on a far store. It gives the requests, each kind with its
// number, and how many round trips they took one after the other.
func requests(t *testing.T, st storage.Store, do func(st storage.Store)) (kinds string, rounds int) {
	t.Helper()
	synctest.Test(t, func(*testing.T) {
		slow := far(st)
		begin := time.Now()
		do(slow)
		rounds = int(time.Since(begin) / roundTrip)
		count := map[string]int{}
		for _, op := range slow.Trace() {
			if name, key, _ := strings.Cut(op, " "); name != faulty.OpRead {
				first, _, _ := strings.Cut(key, "/")
				count[name+" "+first]++
			}
		}
		var parts []string
		for kind, n := range count {
			parts = append(parts, fmt.Sprintf("%d %s", n, kind))
		}
		slices.Sort(parts)
		kinds = strings.Join(parts, ", ")
	})
	return kinds, rounds
}

func checkRequests(t *testing.T, st storage.Store, kinds string, rounds int, do func(st storage.Store)) {
	t.Helper()
	gotKinds, gotRounds := requests(t, st, do)
	if gotKinds != kinds {
		t.Errorf("requests:\n %s, want\n %s", gotKinds, kinds)
	}
	if gotRounds != rounds {
		t.Errorf("%d round trips, want %d", gotRounds, rounds)
	}
}

// identities adds identities to a stanza until it has n.
func identities(t *testing.T, s *Stanza, n int) {
	t.Helper()
	for len(s.Identities()) < n {
		id := s.Current()
		id.Major++
		if _, err := s.AddIdentity(context.Background(), id); err != nil {
			t.Fatal(err)
		}
	}
}

func TestOpeningCostsAHandfulOfRequests(t *testing.T) {
	const config = "1 get pgbak-features.json, 1 get pgbak-repository.json, "
	for _, test := range []struct {
		title      string
		passphrase string
		identities int
		together   bool // by OpenStanza
		kinds      string
		rounds     int
	}{
		{"at once", "", 1, true, config + "2 get stanzas", 1},
		{"one after the other", "", 1, false, config + "2 get stanzas", 2},
		{"encrypted, at once", fixturePassphrase, 1, true, "1 get keys, " + config + "2 get stanzas", 2},
		{"encrypted, one after the other", fixturePassphrase, 1, false, "1 get keys, " + config + "2 get stanzas", 3},
		{"with two identities", "", 2, true, config + "4 get stanzas", 2},
		{"with five identities", "", 5, true, config + "6 get stanzas", 3},
	} {
		t.Run(test.title, func(t *testing.T) {
			st := mem.New()
			identities(t, testRepository(t, st, test.passphrase), test.identities)
			checkRequests(t, st, test.kinds, test.rounds, func(st storage.Store) {
				if s := open(t, st, test.passphrase, test.together); s != nil && len(s.Identities()) != test.identities {
					t.Errorf("identities %v", s.Identities())
				}
			})
		})
	}
}

// open opens stanza main; nil after an error of the test.
func open(t *testing.T, st storage.Store, passphrase string, together bool) *Stanza {
	t.Helper()
	ctx := context.Background()
	var s *Stanza
	var err error
	if together {
		s, err = OpenStanza(ctx, st, fixtureOptions(passphrase), "main")
	} else {
		var r *Repository
		if r, err = Open(ctx, st, fixtureOptions(passphrase)); err == nil {
			s, err = r.Stanza(ctx, "main")
		}
	}
	if err != nil {
		t.Error(err)
	}
	return s
}

// headersOf puts n backups that are nothing but a small manifest.
func headersOf(t *testing.T, s *Stanza, n int) {
	t.Helper()
	for range n {
		w, err := s.BeginBackup(context.Background(), s.Current(), BeginOptions{Type: Full, PageSize: testPage})
		if err != nil {
			t.Fatal(err)
		}
		if _, err := w.Commit(BackupHeader{Timeline: 1}); err != nil {
			t.Fatal(err)
		}
	}
}

func TestBeginningABackupReadsNoMoreHeadersThanItNeeds(t *testing.T) {
	const pins = ", 1 get pins, 1 list backups, 1 list pins, 1 list stanzas, 1 list tombs, 1 put pins"
	for _, test := range []struct {
		title   string
		backups int
		prepare func(t *testing.T, s *Stanza)
		parent  int // number of the backup, counted from 1; 0 for none
		kinds   string
		rounds  int
	}{
		{"of none", 0, nil, 0, pins[2:], 4},
		// The header of the parent; whether it has a tomb; its tables; its files.
		{"of one", 1, nil, 1, "1 get pins, 1 list backups, 1 list pins, 1 list stanzas, 1 list tombs, 1 put pins, 1 stat tombs, 3 get backups", 8},
		{"of sixty", 60, nil, 60, "1 get pins, 1 list backups, 1 list pins, 1 list stanzas, 1 list tombs, 1 put pins, 1 stat tombs, 3 get backups", 8},
		{"of three, the newest damaged", 3, func(t *testing.T, s *Stanza) {
			if err := faulty.Flip(context.Background(), s.repo.store, manifestKey(s.name, s.labelsThere(t)[2]), 40, 1); err != nil {
				t.Fatal(err)
			}
		}, 2, "1 get pins, 1 list backups, 1 list pins, 1 list stanzas, 1 list tombs, 1 put pins, 1 stat tombs, 4 get backups", 9},
		{"of two, the newest with a tomb", 2, func(t *testing.T, s *Stanza) {
			if err := s.repo.store.Put(context.Background(), tombKey(s.name, s.labelsThere(t)[1]), storage.Bytes(nil), storage.PutOptions{}); err != nil {
				t.Fatal(err)
			}
		}, 1, "1 get pins, 1 list backups, 1 list pins, 1 list stanzas, 1 list tombs, 1 put pins, 1 stat tombs, 3 get backups", 8},
	} {
		t.Run(test.title, func(t *testing.T) {
			st := mem.New()
			s := testRepository(t, st, "")
			headersOf(t, s, test.backups)
			var want Label
			if test.parent > 0 {
				want = s.labelsThere(t)[test.parent-1]
			}
			if test.prepare != nil {
				test.prepare(t, s)
			}
			checkRequests(t, st, test.kinds, test.rounds, func(far storage.Store) {
				on := *s
				r := *s.repo
				r.store, on.repo = far, &r
				w, err := on.BeginBackup(context.Background(), s.Current(), BeginOptions{Type: Full, PageSize: testPage})
				if err != nil {
					t.Error(err)
					return
				}
				var got Label
				if w.Parent() != nil {
					got = w.Parent().Label()
				}
				if got != want {
					t.Errorf("parent %q, want %q", got, want)
				}
				w.Abort()
			})
		})
	}
}

func TestPinsAreReadAtOnce(t *testing.T) {
	st := mem.New()
	s := testRepository(t, st, "")
	for range 20 { // each leaves its pin
		w, err := s.BeginBackup(context.Background(), s.Current(), BeginOptions{Type: Full, PageSize: testPage})
		if err != nil {
			t.Fatal(err)
		}
		w.Abort()
	}
	checkRequests(t, st, "1 list pins, 20 get pins", 1+3, func(far storage.Store) {
		r := *s.repo
		r.store = far
		pins, err := (&Stanza{repo: &r, name: "main"}).Pins(context.Background())
		if err != nil || len(pins) != 20 || !slices.IsSortedFunc(pins, func(a, b Pin) int { return strings.Compare(a.Operation, b.Operation) }) {
			t.Errorf("%d pins, %v", len(pins), err)
		}
	})
}

func TestCatalogueIsReadAtOnceAndInOrder(t *testing.T) {
	ctx := context.Background()
	st := mem.New()
	s := testRepository(t, st, "")
	headersOf(t, s, 40)
	for _, name := range []string{"000000010000000000000001", "00000002.history", "00000003.history"} {
		if _, err := s.PutWAL(ctx, s.Current(), mustWAL(t, name), NewWALContent(storage.Bytes([]byte("1\t0/2000000\tno reason\n")))); err != nil {
			t.Fatal(err)
		}
	}
	identities(t, s, 2)
	damagedAt := []int{7, 30}
	labels := s.labelsThere(t)
	for _, i := range damagedAt {
		if err := faulty.Flip(ctx, st, manifestKey("main", labels[i]), 40, 1); err != nil {
			t.Fatal(err)
		}
	}
	// Lists of tombs, manifests and marks; then 40 headers in three times 16, beside which WAL, histories and their contents.
	checkRequests(t, st, "1 list backups, 1 list ledger, 1 list stanzas, 1 list tombs, 2 get wal, 4 list wal, 40 get backups", 1+3, func(far storage.Store) {
		r := *s.repo
		r.store = far
		on := *s
		on.repo = &r
		c, err := on.Catalog(ctx)
		if err != nil {
			t.Error(err)
			return
		}
		var got []Label
		for i, b := range c.Backups {
			got = append(got, b.Label)
			if bad := slices.Contains(damagedAt, i); errors.Is(b.Err, ErrDamaged) != bad || !bad && b.Header.Label != b.Label {
				t.Errorf("backup %d: %v", i, b.Err)
			}
		}
		if !slices.Equal(got, labels) || len(c.WAL) != 1 || len(c.Histories[1]) != 2 || c.Histories[1][1].Timeline != 3 {
			t.Errorf("labels %v, WAL %v, histories %v", got, c.WAL, c.Histories)
		}
	})
}

func TestAFaultEndsTheCatalogue(t *testing.T) {
	st := mem.New()
	s := testRepository(t, st, "")
	headersOf(t, s, 40)
	labels := s.labelsThere(t)
	r := *s.repo
	r.store = faulty.OnOp(st, func(op, key string) error {
		if op == faulty.OpGet && key == manifestKey("main", labels[5]) {
			return faulty.ErrInjected
		}
		return nil
	})
	c, err := (&Stanza{repo: &r, name: "main", identities: s.identities}).Catalog(context.Background())
	if !errors.Is(err, faulty.ErrInjected) || c != nil {
		t.Errorf("catalogue %v, error %v", c, err)
	}
}

func TestIdentitiesThatAreMissing(t *testing.T) {
	ctx := context.Background()
	for _, test := range []struct {
		title string
		lost  []int
		want  error
		text  string
	}{
		{"all", []int{1, 2, 3}, ErrUnknownStanza, "stanza main in memory"},
		{"the first", []int{1}, ErrDamaged, "object stanzas/main/identity/00000001 is damaged: it is lost, but stanzas/main/identity/00000002 is there"},
		{"the first two", []int{1, 2}, ErrDamaged, "identity/00000001 is damaged: it is lost"},
	} {
		t.Run(test.title, func(t *testing.T) {
			st := mem.New()
			s := testRepository(t, st, "")
			identities(t, s, 3)
			for _, n := range test.lost {
				if err := st.Delete(ctx, identityKey("main", n)); err != nil {
					t.Fatal(err)
				}
			}
			_, err := OpenStanza(ctx, st, fixtureOptions(""), "main")
			if !errors.Is(err, test.want) {
				t.Errorf("error %v, want %v", err, test.want)
			}
			expectError(t, err, test.text)
		})
	}
	t.Run("one in the middle, which opening does not see", func(t *testing.T) {
		st := mem.New()
		s := testRepository(t, st, "")
		identities(t, s, 3)
		if err := st.Delete(ctx, identityKey("main", 2)); err != nil {
			t.Fatal(err)
		}
		s, err := OpenStanza(ctx, st, fixtureOptions(""), "main")
		if err != nil {
			t.Fatal(err)
		}
		id := s.Current()
		id.Major++
		if _, err := s.AddIdentity(ctx, id); !errors.Is(err, ErrDamaged) {
			t.Errorf("adding one: %v", err)
		}
		if _, err := s.Catalog(ctx); !errors.Is(err, ErrDamaged) {
			t.Errorf("the catalogue: %v", err)
		}
		if _, err := s.BeginBackup(ctx, s.Current(), BeginOptions{Type: Full, PageSize: testPage}); !errors.Is(err, ErrDamaged) {
			t.Errorf("a backup: %v", err)
		}
	})
}

// TestTheNumberOfALostIdentityIsNotGivenAway runs init, and init --upgrade, over
// what an identity has left that was lost itself.
func TestTheNumberOfALostIdentityIsNotGivenAway(t *testing.T) {
	ctx := context.Background()
	other := testIdentity()
	other.SystemID++
	for _, test := range []struct {
		title string
		lost  int
		left  func(t *testing.T, s *Stanza)
		add   func(r *Repository) error
	}{
		{"the first of two", 1, func(t *testing.T, s *Stanza) { identities(t, s, 2) },
			func(r *Repository) error { _, err := r.CreateStanza(ctx, "main", other); return err }},
		{"the only one, with WAL", 1, putSomeWAL,
			func(r *Repository) error { _, err := r.CreateStanza(ctx, "main", other); return err }},
		{"the only one, with a backup", 1, func(t *testing.T, s *Stanza) { headersOf(t, s, 1) },
			func(r *Repository) error { _, err := r.CreateStanza(ctx, "main", other); return err }},
		{"the last of two, with WAL", 2, func(t *testing.T, s *Stanza) { identities(t, s, 2); putSomeWAL(t, s) },
			func(r *Repository) error {
				s, err := r.Stanza(ctx, "main")
				if err == nil {
					_, err = s.AddIdentity(ctx, other)
				}
				return err
			}},
	} {
		t.Run(test.title, func(t *testing.T) {
			st := mem.New()
			s := testRepository(t, st, "")
			test.left(t, s)
			if err := test.add(s.repo); errors.Is(err, ErrDamaged) {
				t.Errorf("before it was lost: %v", err)
			}
			key := identityKey("main", test.lost)
			if test.lost == 2 {
				if err := st.Delete(ctx, identityKey("main", 3)); err != nil { // what was added just now
					t.Fatal(err)
				}
			}
			if err := st.Delete(ctx, key); err != nil {
				t.Fatal(err)
			}
			err := test.add(s.repo)
			if !errors.Is(err, ErrDamaged) || !strings.Contains(fmt.Sprint(err), key+" is damaged: it is lost") {
				t.Errorf("error %v", err)
			}
			if _, err := st.Stat(ctx, key); !isAbsent(err) {
				t.Errorf("the number was given away (%v)", err)
			}
		})
	}
}

func TestTwoUpgradesAtOnceAreOneIfTheyAreOfOneCluster(t *testing.T) {
	ctx := context.Background()
	for _, other := range []bool{false, true} {
		s := testRepository(t, mem.New(), "")
		late, err := s.repo.Stanza(ctx, "main")
		if err != nil {
			t.Fatal(err)
		}
		upgraded := s.Current()
		upgraded.Major++
		first, err := s.AddIdentity(ctx, upgraded)
		if err != nil {
			t.Fatal(err)
		}
		if other {
			upgraded.SystemID++
		}
		second, err := late.AddIdentity(ctx, upgraded)
		switch {
		case !other && (err != nil || second != first || len(late.Identities()) != 2):
			t.Errorf("of one cluster: %+v, %v", second, err)
		case other && (!errors.Is(err, ErrIdentityMismatch) || hint.Of(err) == ""):
			t.Errorf("of two clusters: %+v, %v", second, err)
		}
	}
}

// TestAnInitThatIsOvertakenByAnotherOpensWhatThatMade lets the other one run
// between each two operations.
func TestAnInitThatIsOvertakenByAnotherOpensWhatThatMade(t *testing.T) {
	eachRepository(t, func(t *testing.T, passphrase string) {
		ctx := context.Background()
		for n := 1; ; n++ {
			base := mem.New()
			var other *Stanza
			st := faulty.New(base, func(_ context.Context, op faulty.Op) error {
				if op.N == n {
					other = testRepository(t, base, passphrase)
				}
				return nil
			}, nil)
			r, err := Create(ctx, st, fixtureOptions(passphrase))
			var s *Stanza
			if err == nil {
				s, err = r.CreateStanza(ctx, "main", testIdentity())
			}
			if err != nil {
				t.Fatalf("overtaken before operation %d: %v", n, err)
			}
			if other == nil {
				if n < 8 {
					t.Errorf("%d operations only", n)
				}
				return
			}
			if r.Config().ID != other.repo.Config().ID || s.Current() != other.Current() {
				t.Errorf("overtaken before operation %d: two repositories", n)
			}
		}
	})
}

func putSomeWAL(t *testing.T, s *Stanza) {
	t.Helper()
	c := NewWALContent(storage.Bytes([]byte("1\t0/2000000\tno reason\n")))
	defer c.Close()
	if _, err := s.PutWAL(context.Background(), s.Current(), mustWAL(t, "00000002.history"), c); err != nil {
		t.Fatal(err)
	}
}

// TestOpeningTogetherFailsAsOneAfterTheOther fails each operation.
func TestOpeningTogetherFailsAsOneAfterTheOther(t *testing.T) {
	eachRepository(t, func(t *testing.T, passphrase string) {
		base := mem.New()
		testRepository(t, base, passphrase)
		for _, key := range []string{configKey, featuresKey, keysPrefix, stanzasPrefix} {
			if key == keysPrefix && passphrase == "" {
				continue
			}
			st := faulty.OnOp(base, func(op, k string) error {
				if strings.HasPrefix(k, key) && !strings.HasSuffix(k, "/00000002") {
					return faulty.ErrInjected
				}
				return nil
			})
			_, err := OpenStanza(context.Background(), st, fixtureOptions(passphrase), "main")
			if !errors.Is(err, faulty.ErrInjected) || !strings.Contains(err.Error(), key) || errors.Is(err, ErrUnknownStanza) {
				t.Errorf("%s: fired %v, error %v", key, st.Fired(), err)
			}
		}
	})
	_, err := OpenStanza(context.Background(), mem.New(), fixtureOptions(""), "main")
	if !errors.Is(err, ErrNotInitialized) {
		t.Errorf("in an empty place: %v", err)
	}
	if _, err := OpenStanza(context.Background(), mem.New(), fixtureOptions(""), "../main"); err == nil || errors.Is(err, ErrNotInitialized) {
		t.Errorf("a bad name: %v", err)
	}
}
