package repo

import (
	"context"
	"errors"
	"fmt"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/pgbak/pgbak/storage"
	"github.com/pgbak/pgbak/storage/faulty"
	"github.com/pgbak/pgbak/storage/mem"
)

// costly is a store whose reads are not cheap.
type costly struct{ storage.Store }

func (c costly) Properties() storage.Properties {
	p := c.Store.Properties()
	p.CheapReads = false
	return p
}

// packsOfOneFile writes a backup of n files, each in a pack of its own.
func packsOfOneFile(t *testing.T, s *Stanza, n int) *Backup {
	t.Helper()
	ctx := context.Background()
	w, err := s.BeginBackup(ctx, s.Current(), BeginOptions{Type: Full, PageSize: testPage})
	if err != nil {
		t.Fatal(err)
	}
	framer, err := s.repo.NewFramer()
	if err != nil {
		t.Fatal(err)
	}
	for i := range n {
		path := fmt.Sprintf("base/%06d", i)
		if err := errFirst(writeBig(ctx, w, framer, File{Path: path, Type: TypeFile}, rows(windowBytes, uint64(i))), w.closePack()); err != nil {
			t.Fatal(err)
		}
	}
	h, err := w.Commit(BackupHeader{Timeline: 1})
	if err != nil {
		t.Fatal(err)
	}
	b, err := s.OpenBackup(ctx, h.Label)
	if err != nil {
		t.Fatal(err)
	}
	return b
}

// over gives the backup as it is read through another store.
func (b *Backup) over(t *testing.T, st storage.Store) *Backup {
	t.Helper()
	r := *b.stanza.repo
	r.store = st
	o, err := (&Stanza{repo: &r, name: b.stanza.name, identities: b.stanza.identities}).OpenBackup(context.Background(), b.header.Label)
	if err != nil {
		t.Fatal(err)
	}
	return o
}

// askAll asks for the first window of every file and gives the number of the
// first for which there is no answer, n if there is none such.
func askAll(t *testing.T, p *Parent, n int) int {
	t.Helper()
	ctx := context.Background()
	for i := range n {
		if _, _, ok := p.Find(ctx, fmt.Sprintf("base/%06d", i)).window(ctx, 0); !ok {
			return i
		}
	}
	return n
}

func TestFootersOfTheParentAreReadAheadOnAFarStore(t *testing.T) {
	const n = 40
	base := mem.New()
	b := packsOfOneFile(t, testRepository(t, base, ""), n)
	for _, test := range []struct {
		title string
		on    func(storage.Store) storage.Store
		waits int // at most, for the files, the maps, and the footers
	}{
		{"far", func(st storage.Store) storage.Store { return costly{st} }, 2 + 6},
		{"near", func(st storage.Store) storage.Store { return st }, 2 + n},
	} {
		t.Run(test.title, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				st := far(base)
				on := b.over(t, test.on(st))
				begin, before := time.Now(), gets(st)
				p := newParent(context.Background(), on, false)
				if i := askAll(t, p, n); i != n || p.Err() != nil {
					t.Errorf("nothing is known of file %d: %v", i, p.Err())
				}
				p.stop()
				if waits := int(time.Since(begin) / roundTrip); waits > test.waits {
					t.Errorf("%d round trips, want at most %d", waits, test.waits)
				}
				if got := gets(st) - before; got != 2+n {
					t.Errorf("%d requests, want %d", got, 2+n)
				}
			})
		})
	}
}

// TestStoppingAParentEndsWhatItReadsAhead: were anything left, synctest would say so.
func TestStoppingAParentEndsWhatItReadsAhead(t *testing.T) {
	base := mem.New()
	b := packsOfOneFile(t, testRepository(t, base, ""), 30)
	synctest.Test(t, func(t *testing.T) {
		var waiting atomic.Int32
		first := b.tables.packs[0].id.key()
		p := newParent(context.Background(), b.over(t, costly{faulty.New(base, func(ctx context.Context, op faulty.Op) error {
			if op.Name != faulty.OpGet || op.Key[:6] != "packs/" || op.Key == first {
				return nil
			}
			waiting.Add(1)
			<-ctx.Done()
			return context.Cause(ctx)
		}, nil)}), false)
		if i := askAll(t, p, 1); i != 1 {
			t.Error("the first is not found")
		}
		synctest.Wait()
		if n := waiting.Load(); n != footersAhead {
			t.Errorf("%d are read ahead, want %d", n, footersAhead)
		}
		p.stop()
		if err := p.Err(); err != nil {
			t.Errorf("what nobody has asked for: %v", err)
		}
	})
}

func TestAFooterThatCannotBeReadAheadMattersWhenItIsAskedFor(t *testing.T) {
	base := mem.New()
	b := packsOfOneFile(t, testRepository(t, base, ""), 10)
	bad := b.tables.packs[5].id.key()
	if err := faulty.Truncate(context.Background(), base, bad, -1); err != nil {
		t.Fatal(err)
	}
	p := newParent(context.Background(), b.over(t, costly{base}), false)
	defer p.stop()
	if i := askAll(t, p, 5); i != 5 || p.Err() != nil {
		t.Errorf("nothing is known of file %d: %v", i, p.Err())
	}
	ctx := context.Background()
	if _, _, ok := p.Find(ctx, "base/000005").window(ctx, 0); ok || !errors.Is(p.Err(), ErrDamaged) {
		t.Errorf("known: %v, error %v", ok, p.Err())
	}
	if _, _, ok := p.Find(ctx, "base/000006").window(ctx, 0); !ok {
		t.Error("the one behind it is not known")
	}
}
