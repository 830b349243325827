package repo

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"sync"
	"testing"

	"github.com/oklog/ulid/v2"
	"golang.org/x/sync/errgroup"

	"github.com/pgbak/pgbak/storage"
	"github.com/pgbak/pgbak/storage/faulty"
	"github.com/pgbak/pgbak/storage/mem"
)

// resumedTree has content for many small packs: windows, bundles, zeros.
func resumedTree(seed uint64) testTree {
	tree := testTree{{"PG_VERSION", rows(3, seed)}, {"base", nil}}
	for i := range 3 {
		tree = append(tree, testTree{{fmt.Sprintf("base/%d0", i), noise(2*windowBytes+testPage, seed+uint64(i))},
			{fmt.Sprintf("base/%d1", i), noise(5000, seed+uint64(i))}, {fmt.Sprintf("base/%d2", i), noise(2*testPage, seed+uint64(i))}}...)
	}
	return append(tree, testTree{{"global", nil}, {"global/1", noise(5000, seed)}}...)
}

const resumedPack = 100 << 10

// storeResumed writes a tree over a store as a backup with small packs.
func storeResumed(st storage.Store, passphrase string, tree testTree, typ BackupType) (*BackupWriter, BackupHeader, error) {
	ctx := context.Background()
	o := fixtureOptions(passphrase)
	o.Random = nil
	s, err := OpenStanza(ctx, st, o, "main")
	if err != nil {
		return nil, BackupHeader{}, err
	}
	w, err := s.BeginBackup(ctx, s.Current(), BeginOptions{Type: typ, PageSize: testPage, PackSize: resumedPack})
	if err != nil {
		return nil, BackupHeader{}, err
	}
	if err := tree.write(ctx, w); err != nil {
		w.Abort()
		return w, BackupHeader{}, err
	}
	h, err := w.Commit(BackupHeader{Timeline: 1})
	return w, h, err
}

// packsThere gives the packs of all operations but one, with the stored bytes of their frames.
func packsThere(t *testing.T, s *Stanza, but string) map[packID]int64 {
	t.Helper()
	out := map[packID]int64{}
	for _, key := range allKeys(t, s.repo.store) {
		id, ok := packOf(key)
		if !ok || id.op.String() == but {
			continue
		}
		f, err := s.repo.readFooter(context.Background(), id)
		if err != nil {
			t.Fatal(err)
		}
		for _, info := range f.frames {
			out[id] += int64(info.ref.stored)
		}
	}
	return out
}

func packOf(key string) (id packID, ok bool) {
	parts := strings.Split(key, "/")
	if parts[0] != "packs" {
		return id, false
	}
	op, err := ulid.ParseStrict(parts[1])
	if err != nil {
		return id, false
	}
	_, err = fmt.Sscanf(parts[2], "%08x", &id.number)
	id.op = op
	return id, err == nil
}

// TestAnInterruptedBackupIsResumed kills a backup at every operation. The next one uses every
// frame of every pack that arrived, and stores the rest only.
func TestAnInterruptedBackupIsResumed(t *testing.T) {
	tree := resumedTree(1)
	eachRepository(t, func(t *testing.T, passphrase string) {
		base := mem.New()
		testRepository(t, base, passphrase)
		most, step := 0, 1
		if passphrase != "" {
			step = 4 // opening takes its time
		}
		for n := 1; ; n += step {
			st := base.Clone()
			crash := faulty.CrashAfter(st, n)
			_, _, err := storeResumed(crash, passphrase, tree, Full)
			if len(crash.Trace()) < n {
				if err != nil {
					t.Fatal(err)
				}
				break
			}
			s := testRepository(t, st, passphrase)
			left := packsThere(t, s, "")
			committed := slices.ContainsFunc(allKeys(t, st), func(key string) bool { return strings.HasPrefix(key, "backups/") })
			w, h, err := storeResumed(st, passphrase, tree, Full)
			if err != nil {
				t.Fatalf("the run after operation %d: %v", n, err)
			}
			if err := checkBackup(s, h.Label, tree); err != nil {
				t.Errorf("operation %d: %v", n, err)
			}
			if committed {
				continue
			}
			most = max(most, len(left))
			b, err := s.OpenBackup(t.Context(), h.Label)
			if err != nil {
				t.Fatal(err)
			}
			for id, stored := range left {
				if at := slices.IndexFunc(b.tables.packs, func(p packUse) bool { return p.id == id }); at < 0 || b.tables.packs[at].used != stored || b.tables.packs[at].size <= stored {
					t.Errorf("operation %d: pack %s with frames of %d bytes is not used as a whole", n, id.key(), stored)
				}
			}
			if (w.Totals().ResumedBytes > 0) != (len(left) > 0) || len(left) > 0 && len(w.Resumption().Operations()) != 1 {
				t.Errorf("operation %d: %d packs were left, %d bytes of %v resumed", n, len(left), w.Totals().ResumedBytes, w.Resumption().Operations())
			}
		}
		if most < 6 {
			t.Errorf("at most %d packs were left", most)
		}
	})
}

// interrupted gives a store with an operation that died after its packs were stored.
func interrupted(t *testing.T, tree testTree) (*mem.Store, *Stanza, Pin) {
	t.Helper()
	st := mem.New()
	s := testRepository(t, st, "")
	interrupt(t, st, tree)
	pins, err := s.Pins(context.Background())
	if err != nil || len(pins) != 1 {
		t.Fatalf("pins %v, %v", pins, err)
	}
	return st, s, pins[0]
}

// interrupt runs a backup that dies after its packs were stored.
func interrupt(t *testing.T, st storage.Store, tree testTree) {
	t.Helper()
	fails := faulty.New(st, func(_ context.Context, op faulty.Op) error {
		if op.Name == faulty.OpPutIfAbsent && strings.HasPrefix(op.Key, "backups/") {
			return faulty.ErrInjected
		}
		return nil
	}, nil)
	if _, _, err := storeResumed(fails, "", tree, Full); !errors.Is(err, faulty.ErrInjected) {
		t.Fatal(err)
	}
}

// collectDead is a collector's part of docs/REPOSITORY.md 12 for one dead operation.
func collectDead(ctx context.Context, s *Stanza, dead Pin) error {
	st := s.repo.store
	stub := manifestKey(s.name, dead.Label)
	if err := putDocument(ctx, st, stub, revokedFormat, struct{}{}, storage.PutOptions{IfAbsent: true}); err != nil && !errors.Is(err, storage.ErrExist) {
		return err
	}
	pins, err := s.Pins(ctx) // after the stub
	if err != nil || slices.ContainsFunc(pins, func(p Pin) bool { return slices.Contains(p.Resumes, dead.Operation) }) {
		return err
	}
	manifests, err := s.manifests(ctx) // after the pins
	if err != nil {
		return err
	}
	named := map[string]bool{}
	for _, m := range manifests {
		b, err := s.OpenBackup(ctx, m.Label)
		if errors.Is(err, ErrRevoked) {
			continue
		}
		if err != nil {
			return err
		}
		for o := range b.Objects() {
			named[o.Key] = true
		}
	}
	for obj, err := range st.List(ctx, "packs/"+dead.Operation+"/", "") {
		if err == nil && !named[obj.Key] {
			err = st.Delete(ctx, obj.Key)
		}
		if err != nil {
			return err
		}
	}
	return st.Delete(ctx, pinsPrefix+dead.Operation)
}

// TestACollectorBesideABackupThatResumes runs at every step of the backup: what the
// backup then commits is whole.
func TestACollectorBesideABackupThatResumes(t *testing.T) {
	ctx := context.Background()
	tree := resumedTree(1)
	for _, test := range []struct {
		title   string
		collect func(s *Stanza, dead Pin) error
	}{
		{"collects the dead operation", func(s *Stanza, dead Pin) error { return collectDead(ctx, s, dead) }},
		{"is the operation itself, which was alive and discards what it has stored", func(s *Stanza, dead Pin) error {
			op, err := ulid.ParseStrict(dead.Operation)
			if err != nil {
				return err
			}
			w := &BackupWriter{stanza: s, op: op, label: dead.Label, uploads: new(errgroup.Group), entries: newEntrySpool()}
			if err := w.Discard(ctx); !errors.Is(err, errResumed) {
				return err
			}
			return nil
		}},
	} {
		t.Run(test.title, func(t *testing.T) {
			resumed, fresh := 0, 0
			for step := 1; ; step++ {
				st, s, dead := interrupted(t, tree)
				n := 0
				var mu sync.Mutex
				hooked := faulty.OnOp(st, func(string, string) error {
					mu.Lock()
					defer mu.Unlock()
					if n++; n == step {
						return test.collect(s, dead)
					}
					return nil
				})
				w, h, err := storeResumed(hooked, "", tree, Full)
				if errors.Is(err, ErrRevoked) { // it had taken the dead one's label
					continue
				}
				if err != nil {
					t.Fatalf("step %d: %v", step, err)
				}
				if err := checkBackup(s, h.Label, tree); err != nil {
					t.Errorf("step %d: %v", step, err)
				}
				if w.Totals().ResumedBytes > 0 {
					resumed++
				} else {
					fresh++
				}
				if n < step {
					break
				}
			}
			if resumed < 5 || fresh < 5 {
				t.Errorf("%d times something was resumed, %d times nothing", resumed, fresh)
			}
		})
	}
}

func TestWhatIsResumedIsBounded(t *testing.T) {
	ctx := context.Background()
	st, s, _ := interrupted(t, resumedTree(1))
	interrupt(t, st, resumedTree(100))
	interrupt(t, st, resumedTree(200))
	pins, err := s.Pins(ctx)
	if err != nil || len(pins) != 3 {
		t.Fatalf("%d pins, %v", len(pins), err)
	}
	chosen, parts, err := s.leftBehind(ctx, slices.Clone(pins))
	if err != nil || len(chosen) != maxResumed || len(parts) != maxResumed || chosen[0].Operation < chosen[1].Operation {
		t.Errorf("chosen %v, %v", chosen, err)
	}
	for i := range pins {
		pins[i].Started = pins[i].Started.Add(-resumedAge)
	}
	if chosen, _, err = s.leftBehind(ctx, pins); err != nil || len(chosen) > 0 {
		t.Errorf("older ones: %v, %v", chosen, err)
	}
}

// TestWhatHasChangedSinceIsNotResumed: content of the same place and length.
func TestWhatHasChangedSinceIsNotResumed(t *testing.T) {
	tree := resumedTree(1)
	st, s, _ := interrupted(t, tree)
	for i := 0; i < len(tree); i += 2 {
		if len(tree[i].data) > 0 {
			tree[i].data = noise(len(tree[i].data), 77)
		}
	}
	w, h, err := storeResumed(st, "", tree, Full)
	if err != nil {
		t.Fatal(err)
	}
	if err := checkBackup(s, h.Label, tree); err != nil {
		t.Error(err)
	}
	if n := w.Totals().ResumedBytes; n == 0 || n >= w.Totals().Bytes {
		t.Errorf("%d of %d bytes resumed", n, w.Totals().Bytes)
	}
}

// TestADecayedPackIsNotResumed: where reads are cheap frames are read back.
func TestADecayedPackIsNotResumed(t *testing.T) {
	ctx := context.Background()
	tree := resumedTree(1)
	st, s, dead := interrupted(t, tree)
	if err := faulty.Flip(ctx, st, "packs/"+dead.Operation+"/00000002", 5000, 4); err != nil {
		t.Fatal(err)
	}
	w, h, err := storeResumed(st, "", tree, Full)
	if err != nil {
		t.Fatal(err)
	}
	if err := checkBackup(s, h.Label, tree); err != nil {
		t.Error(err)
	}
	if n := w.Totals().ResumedBytes; n == 0 || n >= w.Totals().Bytes {
		t.Errorf("%d of %d bytes resumed", n, w.Totals().Bytes)
	}
}
