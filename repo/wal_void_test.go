package repo

import (
	"context"
	"fmt"
	"slices"
	"testing"

	"github.com/pgbak/pgbak/storage"
	"github.com/pgbak/pgbak/storage/faulty"
	"github.com/pgbak/pgbak/storage/mem"
)

// expire deletes segments as an expiry has to: it voids first.
func expire(ctx context.Context, s *Stanza, gone WALRange) error {
	perLog := uint64(4) // largeSegments
	if err := s.VoidWALMarks(ctx, s.Current(), gone.Timeline, uint32(gone.First/perLog), uint32(gone.Last/perLog)); err != nil {
		return err
	}
	for n := gone.First; n <= gone.Last; n++ {
		if err := s.repo.store.Delete(ctx, walKey(s.name, s.Current(), segment(gone.Timeline, n))); err != nil {
			return err
		}
	}
	return nil
}

// atEach runs the work once for each of its operations on a copy of the store, with
// something else carried out, as a whole, before that operation.
func atEach(t *testing.T, base *mem.Store, work, between func(st storage.Store) error, check func(n int, st *mem.Store)) {
	t.Helper()
	for n := 1; ; n++ {
		st := copyOf(t, base)
		ops, isDone := 0, false
		watched := faulty.OnOp(st, func(string, string) error {
			if ops++; ops == n && !isDone {
				isDone = true
				if err := between(st); err != nil {
					t.Fatalf("before operation %d: %v", n, err)
				}
			}
			return nil
		})
		if err := work(watched); err != nil {
			t.Fatalf("with something before operation %d: %v", n, err)
		}
		if check(n, st); !isDone {
			if n < 4 {
				t.Errorf("only %d operations", n-1)
			}
			return
		}
	}
}

func copyOf(t *testing.T, base *mem.Store) *mem.Store {
	t.Helper()
	st := mem.New()
	for key := range keysOf(t, base, "") {
		r, err := base.Get(context.Background(), key, storage.Range{})
		if err != nil {
			t.Fatal(err)
		}
		data := make([]byte, 1<<16)
		n, _ := r.Read(data)
		for m := 0; n < len(data); n += m {
			if m, err = r.Read(data[n:]); err != nil {
				break
			}
		}
		_ = r.Close()
		if err := st.Put(context.Background(), key, storage.Bytes(data[:n]), storage.PutOptions{}); err != nil {
			t.Fatal(err)
		}
	}
	return st
}

// TestMarksNeverLieWhoeverMarksWhileWALIsExpired: a mark may be put, and put together with others, on a
// list from before the deletion, at any moment of it, and by several at once.
func TestMarksNeverLieWhoeverMarksWhileWALIsExpired(t *testing.T) {
	ctx := context.Background()
	base := mem.New()
	s := largeSegments(t, base)
	for n := range uint64(60) {
		putEmpty(t, base, s, segment(1, n))
	}
	for log := range uint64(15) {
		if log != 5 {
			if err := s.putMark(ctx, s.Current(), 1, logRange{log, log}, ""); err != nil {
				t.Fatal(err)
			}
		}
	}
	gone := WALRange{1, 1, 18, 25} // parts of logs 4 and 6, and all of 5
	expiry := func(st storage.Store) error { return expire(ctx, onStore(s, st), gone) }
	marking := map[string]func(st storage.Store) error{
		"a push marks": func(st storage.Store) error {
			for log := uint64(4); log <= 6; log++ {
				if _, err := onStore(s, st).markLog(ctx, s.Current(), 1, log); err != nil {
					return err
				}
			}
			return nil
		},
		"a backup marks": func(st storage.Store) error { _, err := onStore(s, st).MarkWAL(ctx, s.Current()); return err },
		"another expires": func(st storage.Store) error {
			return expire(ctx, onStore(s, st), WALRange{1, 1, 23, 30})
		},
	}
	for title, mark := range marking {
		t.Run(title, func(t *testing.T) {
			check := func(when string) func(n int, st *mem.Store) {
				return func(n int, st *mem.Store) {
					if err := expiry(st); err != nil { // if its moment never came
						t.Fatal(err)
					}
					marksAreTrue(t, st, s)
					want := naive(t, st, s)
					got, err := onStore(s, st).WALRanges(ctx, s.Current())
					if err != nil || !slices.Equal(got, want) {
						t.Errorf("%s %d: %v, %v, want %v", when, n, got, err, want)
					}
					// What marks again, later, knows of it.
					if _, err := onStore(s, st).MarkWAL(ctx, s.Current()); err != nil {
						t.Fatal(err)
					}
					marksAreTrue(t, st, s)
				}
			}
			atEach(t, base, mark, expiry, check("WAL expires before operation"))
			atEach(t, base, expiry, mark, check("it is done in an expiry before operation"))
		})
	}
}

// TestAnExpiryThatFailsLeavesNoMarkThatLies, wherever it fails.
func TestAnExpiryThatFailsLeavesNoMarkThatLies(t *testing.T) {
	ctx := context.Background()
	base := mem.New()
	s := largeSegments(t, base)
	for n := range uint64(40) {
		putEmpty(t, base, s, segment(1, n))
	}
	for log := range uint64(10) {
		if _, err := s.markLog(ctx, s.Current(), 1, log); err != nil {
			t.Fatal(err)
		}
	}
	eachFault(t, base, func(st storage.Store) error {
		return expire(ctx, onStore(s, st), WALRange{1, 1, 2, 21})
	}, func(t *testing.T, st *mem.Store, _ error) {
		marksAreTrue(t, st, s)
		if _, err := onStore(s, st).MarkWAL(ctx, s.Current()); err != nil {
			t.Fatal(err)
		}
		marksAreTrue(t, st, s)
	})
}

// TestAfterAnExpiryMarksArePutTogetherStill, or a stanza that expires would have a
// mark for each 4 GiB that it ever archives.
func TestAfterAnExpiryMarksArePutTogetherStill(t *testing.T) {
	ctx := context.Background()
	base := mem.New()
	s := largeSegments(t, base)
	for n := range uint64(4 * 3 * fewMarks) {
		putEmpty(t, base, s, segment(1, n))
	}
	for log := range uint64(3 * fewMarks) {
		if err := s.putMark(ctx, s.Current(), 1, logRange{log, log}, ""); err != nil {
			t.Fatal(err)
		}
	}
	if err := expire(ctx, s, WALRange{1, 1, 0, 41}); err != nil {
		t.Fatal(err)
	}
	for range 3 {
		if _, err := s.MarkWAL(ctx, s.Current()); err != nil {
			t.Fatal(err)
		}
		marksAreTrue(t, base, s)
	}
	if n := len(keysOf(t, base, stanzaMarksPrefix("main"))); n > 4 {
		t.Errorf("%d marks and voids are left: %v", n, fmt.Sprint(keysOf(t, base, stanzaMarksPrefix("main"))))
	}
	if got, want := marksAreTrue(t, base, s), 3*fewMarks-11; got != want {
		t.Errorf("%d logs are marked, want %d", got, want)
	}
}
