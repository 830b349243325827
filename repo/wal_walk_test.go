package repo

import (
	"cmp"
	"context"
	"fmt"
	"iter"
	"math/rand/v2"
	"runtime"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"

	"github.com/pgbak/pgbak/internal/postgres"
	"github.com/pgbak/pgbak/storage"
	"github.com/pgbak/pgbak/storage/faulty"
	"github.com/pgbak/pgbak/storage/mem"
)

// largeSegments are segments of which four make a log, so that small archives
// have many logs. minSkipped is still a thousand segments.
func largeSegments(t testing.TB, st storage.Store) *Stanza {
	t.Helper()
	r, err := Create(context.Background(), st, fixtureOptions(""))
	if err != nil {
		t.Fatal(err)
	}
	id := testIdentity()
	id.SegmentSize = 1 << 30
	s, err := r.CreateStanza(context.Background(), "main", id)
	if err != nil {
		t.Fatal(err)
	}
	return s
}

// naive is the judge: the runs by a look at every key, without any code of the walk.
func naive(t testing.TB, st storage.Store, s *Stanza) []WALRange {
	t.Helper()
	var out []WALRange
	for o, err := range st.List(context.Background(), "wal/main/00000001/", "") {
		if err != nil {
			t.Fatal(err)
		}
		name := o.Key[strings.LastIndex(o.Key, "/")+1:]
		if len(name) != 24 {
			continue
		}
		var tli, log, seg uint64
		if _, err := fmt.Sscanf(name, "%08X%08X%08X", &tli, &log, &seg); err != nil {
			t.Fatal(err)
		}
		n := log*uint64(0x100000000/s.Current().SegmentSize) + seg
		if k := len(out) - 1; k >= 0 && out[k].Timeline == postgres.Timeline(tli) && out[k].Last == n-1 {
			out[k].Last = n
		} else {
			out = append(out, WALRange{1, postgres.Timeline(tli), n, n})
		}
	}
	return out
}

func putEmpty(t testing.TB, st storage.Store, s *Stanza, f postgres.WALFile) {
	t.Helper()
	if err := st.Put(context.Background(), walKey("main", s.Current(), f), storage.Bytes(nil), storage.PutOptions{}); err != nil {
		t.Fatal(err)
	}
}

func segment(tli postgres.Timeline, n uint64) postgres.WALFile {
	return postgres.WALFile{Kind: postgres.WALSegment, Timeline: tli, Segment: n}
}

// randomArchive has up to three timelines with runs, gaps and other files, marked in part.
func randomArchive(t testing.TB, random *rand.Rand) (*mem.Store, *Stanza) {
	st := mem.New()
	s := largeSegments(t, st)
	for tli := postgres.Timeline(1); tli <= postgres.Timeline(1+random.IntN(3)); tli++ {
		n := random.Uint64N(20)
		for range 1 + random.IntN(4) {
			run := 1 + random.Uint64N(40)
			if random.IntN(2) == 0 {
				run = minSkipped + random.Uint64N(1500)
			}
			for range run {
				putEmpty(t, st, s, segment(tli, n))
				n++
			}
			for _, kind := range []postgres.WALKind{postgres.WALPartial, postgres.WALBackup} {
				if random.IntN(2) == 0 {
					putEmpty(t, st, s, postgres.WALFile{Kind: kind, Timeline: tli, Segment: n - random.Uint64N(min(n, 9)), Offset: 40})
				}
			}
			n += 1 + random.Uint64N(9)
		}
	}
	putEmpty(t, st, s, postgres.WALFile{Kind: postgres.WALHistory, Timeline: 2})
	return st, s
}

// markAtRandom marks some logs that are complete, as pushes do, or lets MarkWAL mark some part.
func markAtRandom(t testing.TB, s *Stanza, random *rand.Rand, all []WALRange) {
	ctx := context.Background()
	for _, r := range all {
		logs, ok := r.completeLogs(s.Current())
		for log := logs.first; ok && log <= logs.last; log++ {
			if random.IntN(50) == 0 {
				continue
			}
			if err := s.putMark(ctx, s.Current(), r.Timeline, logRange{log, log}, ""); err != nil {
				t.Fatal(err)
			}
		}
	}
	if random.IntN(2) == 0 {
		if _, err := s.markWAL(ctx, s.Current(), random.IntN(4000)+1); err != nil {
			t.Fatal(err)
		}
	}
}

// deleteAtRandom removes segments as pgbak would: what is voided first, or what
// is at an end of a run, which is noticed without.
func deleteAtRandom(t testing.TB, st *mem.Store, s *Stanza, random *rand.Rand, all []WALRange) {
	ctx := context.Background()
	r := all[random.IntN(len(all))]
	gone := WALRange{1, r.Timeline, r.First, r.First + random.Uint64N(r.Count())}
	switch random.IntN(3) {
	case 0:
		gone = WALRange{1, r.Timeline, r.First + random.Uint64N(r.Count()), r.Last}
	case 1:
		gone.First += random.Uint64N(gone.Count())
		if err := s.VoidWALMarks(ctx, s.Current(), r.Timeline, uint32(gone.First/4), uint32(gone.Last/4)); err != nil {
			t.Fatal(err)
		}
	}
	for n := gone.First; n <= gone.Last; n++ {
		if err := st.Delete(ctx, walKey("main", s.Current(), segment(r.Timeline, n))); err != nil {
			t.Fatal(err)
		}
	}
}

func TestRunsAreThoseOfAFullListWhateverIsMarked(t *testing.T) {
	ctx := context.Background()
	skipped := 0
	seeds := uint64(30)
	if underRace {
		seeds = 3
	}
	for seed := range seeds {
		random := rand.New(rand.NewPCG(seed, 5))
		st, s := randomArchive(t, random)
		markAtRandom(t, s, random, naive(t, st, s))
		check := func(when string) {
			t.Helper()
			want := naive(t, st, s)
			listing := faulty.New(st, nil, nil)
			got, err := onStore(s, listing).WALRanges(ctx, s.Current())
			if err != nil || !slices.Equal(got, want) {
				t.Fatalf("seed %d, %s: %v\n%v, want\n%v", seed, when, err, got, want)
			}
			skipped += len(listing.Trace()) - 2
			listed, err := s.ListedWALRanges(ctx, s.Current(), segment(1, 0), postgres.WALFile{})
			if err != nil || !slices.Equal(listed, want) {
				t.Fatalf("seed %d, %s, listed: %v\n%v, want\n%v", seed, when, err, listed, want)
			}
		}
		check("as it is")
		deleteAtRandom(t, st, s, random, naive(t, st, s))
		check("after a removal")
		if _, err := s.MarkWAL(ctx, s.Current()); err != nil {
			t.Fatal(err)
		}
		marksAreTrue(t, st, s)
		check("marked again")
		deleteAtRandom(t, st, s, random, naive(t, st, s))
		check("after another removal")
	}
	if skipped < int(seeds) {
		t.Errorf("only %d times was something passed over", skipped)
	}
}

// onStore is the stanza with another store below.
func onStore(s *Stanza, st storage.Store) *Stanza {
	r := *s.repo
	r.store = st
	on := *s
	on.repo = &r
	return &on
}

// marksAreTrue is the law: every segment of a mark that was not voided is there.
func marksAreTrue(t testing.TB, st storage.Store, s *Stanza) (logs int) {
	t.Helper()
	all, _, err := onStore(s, st).walMarks(context.Background())
	if err != nil {
		t.Fatal(err)
	}
	have := naive(t, st, s)
	for tli, runs := range all[1].effective() {
		for _, run := range runs {
			logs += int(run.last - run.first + 1)
			r := run.segments(s.Current(), tli)
			if !slices.ContainsFunc(have, func(h WALRange) bool { return h.Timeline == tli && h.First <= r.First && r.Last <= h.Last }) {
				t.Fatalf("marked is %v, but there is %v", r, have)
			}
		}
	}
	return logs
}

func TestMarksNeverLieWhateverFails(t *testing.T) {
	ctx := context.Background()
	base := mem.New()
	s := largeSegments(t, base)
	for n := range uint64(2600) {
		if n != 1301 {
			putEmpty(t, base, s, segment(1, n))
		}
	}
	for log := range uint64(fewMarks + 3) { // enough to be put together
		if _, err := s.markLog(ctx, s.Current(), 1, 10+log); err != nil {
			t.Fatal(err)
		}
	}
	// A mark that something else has made a lie is found and mended.
	if err := s.putMark(ctx, s.Current(), 1, logRange{326, 640}, ""); err != nil {
		t.Fatal(err)
	}
	if err := base.Delete(ctx, walKey("main", s.Current(), segment(1, 326*4))); err != nil {
		t.Fatal(err)
	}
	lying := markKey("main", 1, 1, 326, 640)
	eachFault(t, base, func(st storage.Store) error {
		_, err := onStore(s, st).MarkWAL(ctx, s.Current())
		return err
	}, func(t *testing.T, st *mem.Store, _ error) {
		if _, err := st.Stat(ctx, lying); err == nil {
			if err := st.Delete(ctx, lying); err != nil { // it was there before
				t.Fatal(err)
			}
		}
		marksAreTrue(t, st, s)
		m, err := onStore(s, st).MarkWAL(ctx, s.Current())
		if err != nil {
			t.Fatal(err)
		}
		if n := marksAreTrue(t, st, s); n != 325+323 {
			t.Errorf("%d logs are marked after the next run (%+v)", n, m)
		}
	})
}

func TestAPushMarksTheLogBeforeOnlyIfItIsComplete(t *testing.T) {
	ctx := context.Background()
	for _, c := range []struct {
		title   string
		missing uint64
		pushed  uint64
		want    int
	}{
		{"complete", 0, 9, 1}, {"too early", 0, 8, 0}, {"too late", 0, 10, 0},
		{"its first segment is missing", 4, 9, 0}, {"one amid it is missing", 6, 9, 0}, {"its last is missing", 7, 9, 0},
	} {
		base := mem.New()
		s := largeSegments(t, base)
		for n := range uint64(9) {
			if n == 0 || n != c.missing {
				putEmpty(t, base, s, segment(1, n))
			}
		}
		put, err := s.PutWAL(ctx, s.Current(), segment(1, c.pushed+90), NewWALContent(storage.Bytes([]byte("x"))))
		if err != nil || put.MarkErr != nil || marksAreTrue(t, base, s) != 0 {
			t.Errorf("%s: a segment far away: %v, %v", c.title, err, put.MarkErr)
		}
		if err := base.Delete(ctx, walKey("main", s.Current(), segment(1, c.pushed))); err != nil {
			t.Fatal(err)
		}
		put, err = s.PutWAL(ctx, s.Current(), segment(1, c.pushed), NewWALContent(storage.Bytes([]byte("x"))))
		if err != nil || put.MarkErr != nil {
			t.Errorf("%s: %v, %v", c.title, err, put.MarkErr)
		}
		if got := marksAreTrue(t, base, s); got != c.want {
			t.Errorf("%s: %d logs are marked, want %d", c.title, got, c.want)
		}
	}
}

func TestAMarkThatFailsFailsNoPush(t *testing.T) {
	ctx := context.Background()
	for _, op := range []string{faulty.OpList, faulty.OpPutIfAbsent} {
		base := mem.New()
		s := largeSegments(t, base)
		for n := range uint64(9) {
			putEmpty(t, base, s, segment(1, n))
		}
		broken := faulty.OnOp(base, func(name, key string) error {
			if name == op && (op == faulty.OpList || strings.HasPrefix(key, "ledger/")) {
				return faulty.ErrInjected
			}
			return nil
		})
		put, err := onStore(s, broken).PutWAL(ctx, s.Current(), segment(1, 9), NewWALContent(storage.Bytes([]byte("x"))))
		if err != nil || put.MarkErr == nil || !broken.Fired() {
			t.Errorf("%s fails: %v, of the mark %v", op, err, put.MarkErr)
		}
	}
}

// Several processes push, out of order, and others mark: at the moment at which a
// mark is put, all that it speaks of must be there.
func TestConcurrentPushesPutOnlyMarksThatAreTrue(t *testing.T) {
	ctx := context.Background()
	for seed := range uint64(20) {
		base := mem.New()
		s := largeSegments(t, base)
		var marked atomic.Int64
		watched := faulty.OnOp(base, func(op, key string) error {
			name, isMark := strings.CutPrefix(key, stanzaMarksPrefix("main"))
			if op != faulty.OpPutIfAbsent || !isMark {
				return nil
			}
			_, tli, logs, _, ok := parseMarkName(name)
			run := logs.segments(s.Current(), tli)
			if marked.Add(1); !ok || !slices.ContainsFunc(naive(t, base, s), run.within) {
				t.Errorf("seed %d: %s is put too early", seed, key)
			}
			return nil
		})
		on := onStore(s, watched)
		order := rand.New(rand.NewPCG(seed, 3)).Perm(160)
		// Not quite in order, as batches are.
		slices.SortStableFunc(order, func(a, b int) int { return cmp.Compare(a/12, b/12) })
		next := make(chan int)
		var group sync.WaitGroup
		for range 6 {
			group.Go(func() {
				for n := range next {
					put, err := on.PutWAL(ctx, s.Current(), segment(1, uint64(n)), NewWALContent(storage.Bytes([]byte("x"))))
					if err != nil || put.MarkErr != nil {
						t.Error(err, put.MarkErr)
					}
				}
			})
		}
		for i, n := range order {
			if next <- n; i%40 == 39 {
				group.Go(func() {
					if _, err := on.MarkWAL(ctx, s.Current()); err != nil {
						t.Error(err)
					}
				})
			}
		}
		close(next)
		group.Wait()
		if marked.Load() == 0 {
			t.Errorf("seed %d: nothing was marked", seed)
		}
		marksAreTrue(t, base, s)
	}
}

// vast synthesises an archive: segments 1 to n of timeline 1, without keeping any.
type vast struct {
	storage.Store // everything else
	id            Identity
	n             uint64
	lists, keys   int
}

func (v *vast) List(ctx context.Context, prefix, after string) iter.Seq2[storage.Object, error] {
	v.lists++
	if !strings.HasPrefix(prefix, "wal/") || strings.Contains(prefix, "history") {
		return v.Store.List(ctx, prefix, after)
	}
	return func(yield func(storage.Object, error) bool) {
		first := uint64(1)
		if i := strings.LastIndex(after, "/"); i >= 0 && len(after) > i+24 {
			if f, err := postgres.ParseWALFile(after[i+1:i+25], v.id.SegmentSize); err == nil {
				first = f.Segment + 1
			}
		}
		for n := first; n <= v.n; n++ {
			key := walKey("main", v.id, segment(1, n))
			if !strings.HasPrefix(key, prefix) {
				if key > prefix {
					return
				}
				continue
			}
			// A page of S3 has 1000 keys, and each is a request.
			if v.keys++; (n-first)%1000 == 999 {
				v.lists++
			}
			if !yield(storage.Object{Key: key, Size: 4 << 20}, nil) {
				return
			}
		}
	}
}

func TestTwoMillionSegmentsCostTensOfRequests(t *testing.T) {
	ctx := context.Background()
	n := uint64(2_000_000)
	if underRace {
		n = 100_000 // twenty times as slow, and nothing runs beside anything
	}
	base := mem.New()
	s := testRepository(t, base, "")
	id := s.Current()
	v := &vast{Store: base, id: id, n: n}
	on := onStore(s, v)
	runs := 0
	for { // as backups come to an archive that was never marked
		m, err := on.MarkWAL(ctx, id)
		if err != nil {
			t.Fatal(err)
		}
		if runs++; !m.Partial || runs > 20 {
			break
		}
	}
	v.lists, v.keys = 0, 0
	got, err := on.WALRanges(ctx, id)
	if err != nil || !slices.Equal(got, []WALRange{{1, 1, 1, n}}) {
		t.Fatalf("%v, %v", got, err)
	}
	if v.lists > 10 || v.keys > 2000 {
		t.Errorf("after MarkWAL (%d runs): %d requests for %d keys", runs, v.lists, v.keys)
	}
	t.Logf("%d runs of MarkWAL; then %d requests, %d keys", runs, v.lists, v.keys)

	// The worst that pushing alone leaves: a mark for each log.
	for key := range keysOf(t, base, stanzaMarksPrefix("main")) {
		if err := base.Delete(ctx, key); err != nil {
			t.Fatal(err)
		}
	}
	for log := uint64(1); log < n/256; log++ {
		if err := s.putMark(ctx, id, 1, logRange{log, log}, ""); err != nil {
			t.Fatal(err)
		}
	}
	v.lists, v.keys = int(n/256/1000), 0 // the pages of the marks
	var before, after runtime.MemStats
	runtime.ReadMemStats(&before)
	if got, err = on.WALRanges(ctx, id); err != nil || len(got) != 1 || got[0].Last != n {
		t.Fatalf("%v, %v", got, err)
	}
	runtime.ReadMemStats(&after)
	// All that was allocated bounds what was needed at once; the store's own list is in it.
	memory := (after.TotalAlloc - before.TotalAlloc) >> 20
	if v.lists > 20 || v.keys > 2000 || memory > 32 {
		t.Errorf("with a mark for each log: %d requests for %d keys, %d MiB", v.lists, v.keys, memory)
	}
	t.Logf("with a mark for each log: %d requests, %d keys, %d MiB", v.lists, v.keys, memory)
}

func keysOf(t testing.TB, st storage.Store, prefix string) map[string]bool {
	t.Helper()
	keys := map[string]bool{}
	for o, err := range st.List(context.Background(), prefix, "") {
		if err != nil {
			t.Fatal(err)
		}
		keys[o.Key] = true
	}
	return keys
}

func FuzzMarkNames(f *testing.F) {
	f.Add("00000001/00000001/0000000A-0000000C")
	f.Add("00000001/00000001/0000000A-0000000C.void")
	f.Add("00000001/0000000g/0000000A-0000000C")
	f.Fuzz(func(t *testing.T, name string) {
		number, tli, r, isVoid, ok := parseMarkName(name)
		if !ok {
			return
		}
		key := strings.TrimPrefix(markKey("x", number, tli, r.first, r.last), stanzaMarksPrefix("x"))
		if isVoid {
			key += walVoidSuffix
		}
		if key != name || r.first > r.last || tli == 0 {
			t.Errorf("%q is read as %q", name, key)
		}
	})
}
