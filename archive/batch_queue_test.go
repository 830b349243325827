package archive

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"slices"
	"sync/atomic"
	"testing"

	"github.com/pgbak/pgbak/storage/faulty"
	"github.com/pgbak/pgbak/storage/mem"
)

// lateRepository is a server whose segments 1 to n are in the repository a; b was
// away for all of them, and is back. Segments up to all were written meanwhile, and
// no run has tried them.
type lateRepository struct {
	*walServer
	spool *Spool
	a, b  *mem.Store
}

func newLateRepository(t *testing.T, n, all int) lateRepository {
	t.Helper()
	id := testIdentity(17)
	l := lateRepository{newServer(t, n), newSpool(t), mem.New(), mem.New()}
	first := newStanza(t, l.a, id)
	newStanza(t, l.b, id)
	if _, err := newTestBatch(t, l.spool, pushTo("a", first), PushTarget{Name: "b", Open: closedQuietly}).Push(t.Context(), l.path(segmentNumber(1))); err == nil {
		t.Fatal("no error")
	}
	for i := n + 1; i <= all; i++ {
		l.write(t, segmentNumber(i), segment(id, walFileOf(uint64(i))))
	}
	return l
}

func TestARepositoryThatIsBackGetsWhatIsOldestAndTheOthersWhatIsNew(t *testing.T) {
	l := newLateRepository(t, 6, 9)
	first, second := traced(l.a), traced(l.b)
	b := newTestBatch(t, l.spool, opens(t, "a", first), opens(t, "b", second))
	b.Processes = 1
	if _, err := b.Push(t.Context(), l.path(segmentNumber(1))); err != nil {
		t.Fatal(err)
	}
	if got, want := puts(second), names(1, 9); !slices.Equal(got, want) {
		t.Errorf("to the one that is back were pushed %q, want %q", got, want)
	}
	if got, want := puts(first), names(7, 9); !slices.Equal(got, want) {
		t.Errorf("to the other were pushed %q, want %q", got, want)
	}
}

// segmentsHeld are the numbers of the segments that are in a store.
func segmentsHeld(t *testing.T, st *mem.Store, most int) (held []int) {
	t.Helper()
	s, err := openStanza(t, st)
	if err != nil {
		t.Fatal(err)
	}
	for i := 1; i <= most; i++ {
		there, err := s.HasWAL(t.Context(), s.Current(), walFileOf(uint64(i)))
		if err != nil {
			t.Fatal(err)
		}
		if there {
			held = append(held, i)
		}
	}
	return held
}

// TestWhatARepositoryThatCatchesUpHoldsHasNoHoles, wherever the host dies or that or
// the other repository fails: with one process it is a prefix, with more all but
// what was on its way.
func TestWhatARepositoryThatCatchesUpHoldsHasNoHoles(t *testing.T) {
	for _, processes := range []int{1, 4} {
		for _, fault := range []string{"the host dies", "the repository fails", "the other fails"} {
			reached := 0
			for n := 1; n <= 11; n++ {
				l := newLateRepository(t, 4, 9)
				ctx, die := context.WithCancelCause(t.Context())
				var count atomic.Int64
				onPut := func(isBroken bool) func(op, key string) error {
					return func(op, key string) error {
						if op != faulty.OpPutIfAbsent || !isBroken || count.Add(1) < int64(n) {
							return nil
						}
						if die(errors.New("the host dies")); fault == "the host dies" {
							return ctx.Err()
						}
						return errors.New("no route")
					}
				}
				if fault != "the host dies" {
					die = func(error) {}
				}
				b := newTestBatch(t, l.spool, opens(t, "a", faulty.OnOp(l.a, onPut(fault != "the repository fails"))),
					opens(t, "b", faulty.OnOp(l.b, onPut(fault != "the other fails"))))
				b.Processes = processes
				_, _ = b.Push(ctx, l.path(segmentNumber(1)))
				held := segmentsHeld(t, l.b, 9)
				if len(held) > 0 && held[len(held)-1] > len(held)+processes-1 {
					t.Errorf("%d processes, %s at put %d: the repository holds %v", processes, fault, n, held)
				}
				if len(held) > 0 && len(held) < 9 {
					reached++
				}
				if n != 5 {
					continue
				}
				// The next runs bring the rest.
				again := newTestBatch(t, l.spool, opens(t, "a", l.a), opens(t, "b", l.b))
				for i := 1; i <= 9; i++ {
					if _, err := again.Push(t.Context(), l.path(segmentNumber(i))); err != nil {
						t.Fatal(err)
					}
				}
				if a, b := segmentsHeld(t, l.a, 9), segmentsHeld(t, l.b, 9); len(a) != 9 || len(b) != 9 {
					t.Errorf("afterwards %v and %v are there", a, b)
				}
			}
			if reached == 0 && fault != "the other fails" {
				t.Errorf("%d processes, %s: never amid the work", processes, fault)
			}
		}
	}
}

// The judge looks at each repository by itself: what it lacks comes in order, as far as it comes.
func TestTurns(t *testing.T) {
	for seed := range uint64(3000) {
		random := rand.New(rand.NewPCG(seed, 11))
		places := []string{"a", "b", "c"}[:1+random.IntN(3)]
		lacks := map[string][]string{}
		var fresh, tried, all []string
		for i := range 1 + random.IntN(12) {
			name := segmentNumber(i + 1)
			all = append(all, name)
			if random.IntN(2) == 0 || seed%3 == 0 && i > 5 {
				fresh = append(fresh, name)
				lacks[name] = places
				continue
			}
			for _, p := range places {
				if random.IntN(2) == 0 {
					lacks[name] = append(lacks[name], p)
				}
			}
			if len(lacks[name]) > 0 {
				tried = append(tried, name)
			}
		}
		left := map[string][]string{} // by place, what it lacks, in order
		for _, name := range all {
			for _, p := range lacks[name] {
				left[p] = append(left[p], name)
			}
		}
		for rounds := 0; len(fresh)+len(tried) > 0; rounds++ {
			queue := inTurn(fresh, tried, func(name string) []string { return lacks[name] }, nil)
			if len(queue) == 0 || rounds > 20 {
				t.Fatalf("seed %d: nothing has its turn of %q and %q", seed, fresh, tried)
			}
			for _, f := range queue {
				var rest []string
				for _, p := range lacks[f.name] {
					if slices.Contains(f.later, p) {
						rest = append(rest, p)
					} else if left[p][0] != f.name {
						t.Fatalf("seed %d: %s gets %s before %s; the queue is %v", seed, p, f.name, left[p][0], queue)
					} else {
						left[p] = left[p][1:]
					}
				}
				lacks[f.name] = rest
				fresh = slices.DeleteFunc(fresh, func(n string) bool { return n == f.name })
				tried = slices.DeleteFunc(tried, func(n string) bool { return n == f.name })
				if len(rest) > 0 {
					tried = append(tried, f.name)
				}
			}
			slices.SortFunc(tried, inArchiveOrder)
		}
	}
}

// A history tells other things than segments, and PostgreSQL sends it first.
func TestAHistoryWaitsForNoRepositoryThatCatchesUp(t *testing.T) {
	queue := inTurn([]string{"00000002.history", segmentNumber(9)}, []string{segmentNumber(1)}, func(name string) []string {
		if name == segmentNumber(1) {
			return []string{"b"}
		}
		return []string{"a", "b"}
	}, nil)
	// By turns: what is new does not wait for who catches up, nor that for what is new.
	want := fmt.Sprint([]readyFile{{"00000002.history", nil}, {segmentNumber(1), nil}, {segmentNumber(9), []string{"b"}}})
	if got := fmt.Sprint(queue); got != want {
		t.Errorf("%s, want %s", got, want)
	}
}

// What is on its way to a only is older than what would go to b as well.
func TestWhatIsOnItsWayElsewhereHasItsTurnFirst(t *testing.T) {
	away := map[string][]string{segmentNumber(5): {"b"}}
	both := func(string) []string { return []string{"a", "b"} }
	if got, want := fmt.Sprint(inTurn(names(6, 7), nil, both, away)), fmt.Sprint([]readyFile{{segmentNumber(6), []string{"b"}}, {segmentNumber(7), []string{"b"}}}); got != want {
		t.Errorf("%s, want %s", got, want)
	}
	onlyB := func(string) []string { return []string{"b"} }
	if got, want := fmt.Sprint(inTurn(nil, []string{segmentNumber(4), segmentNumber(6), segmentNumber(7)}, onlyB, away)), fmt.Sprint([]readyFile{{name: segmentNumber(4)}}); got != want {
		t.Errorf("%s, want %s", got, want)
	}
}
