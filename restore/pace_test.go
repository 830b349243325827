package restore

import (
	"context"
	"fmt"
	"math/rand/v2"
	"path/filepath"
	"runtime"
	"runtime/debug"
	"strings"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/pgbak/pgbak/repo"
	"github.com/pgbak/pgbak/storage"
	"github.com/pgbak/pgbak/storage/faulty"
)

const answer = 50 * time.Millisecond // of the far store

// far is a store whose answers take time and whose reads are not cheap.
type far struct{ *faulty.Store }

func (f far) Properties() storage.Properties {
	p := f.Store.Properties()
	p.CheapReads = false
	return p
}

func farStore(st storage.Store) far {
	return far{faulty.New(st, func(_ context.Context, op faulty.Op) error {
		if op.Name != faulty.OpRead {
			time.Sleep(answer)
		}
		return nil
	}, nil)}
}

// gets counts the requests for objects of a kind.
func (f far) gets(kind string) (n int) {
	for _, op := range f.Trace() {
		if strings.HasPrefix(op, faulty.OpGet+" "+kind) {
			n++
		}
	}
	return n
}

// noisy is a cluster that does not compress: large files of 32 MiB and small ones of a page.
func noisy(large, small int) (entries []entry, bytes int64) {
	rng := rand.New(rand.NewPCG(1, 1))
	noise := func(n int) []byte {
		b := make([]byte, n)
		for i := range b {
			b[i] = byte(rng.Uint32())
		}
		return b
	}
	entries = []entry{{path: "PG_VERSION", data: []byte("18\n")}, {path: "backup_label", data: []byte("x")}, {path: "base"}, {path: "base/1"}}
	for i := range small {
		entries = append(entries, entry{path: fmt.Sprintf("base/1/1%04d", i), data: noise(testPage)})
	}
	big := noise(32 << 20)
	for i := range large {
		entries = append(entries, entry{path: fmt.Sprintf("base/1/2%04d", i), data: big})
	}
	entries = append(entries, entry{path: "global"}, entry{path: "global/pg_control", data: text(testPage, 6)})
	for _, e := range entries {
		bytes += int64(len(e.data))
	}
	return entries, bytes
}

// TestAFarStoreIsAskedAheadOfTheWriters counts, with a clock that moves only
// when nothing else can, how long a restore does nothing but wait for answers.
func TestAFarStoreIsAskedAheadOfTheWriters(t *testing.T) {
	for _, test := range []struct {
		title        string
		large, small int
		waits        int // answers that all of the restore waits for, one after the other
	}{
		// 9 to plan and to open; maps; 10 batches, of which each takes several fetches, in
		// turns of 8; 2 batches.
		{"large files", 5, 0, 19},
		{"small files", 0, 3000, 11},
	} {
		t.Run(test.title, func(t *testing.T) {
			entries, bytes := noisy(test.large, test.small)
			inner, _ := stored(t, entries, repo.BackupHeader{})
			synctest.Test(t, func(t *testing.T) {
				st := farStore(inner)
				s, err := reopen(t, st)
				if err != nil {
					t.Fatal(err)
				}
				dir := filepath.Join(t.TempDir(), "data")
				begin := time.Now()
				if _, err := Run(context.Background(), options(s, dir)); err != nil {
					t.Fatal(err)
				}
				waited := int(time.Since(begin) / answer)
				if waited > test.waits {
					t.Errorf("it waited for %d answers, want at most %d", waited, test.waits)
				}
				packs := st.gets("packs/")
				if most := int(bytes>>22) + 10; packs > most {
					t.Errorf("%d requests for %d MiB of packs, want at most %d", packs, bytes>>20, most)
				}
				t.Logf("%d MiB by %d requests, waiting for %d answers", bytes>>20, packs, waited)
				checkTree(t, dir, entries)
			})
		})
	}
}

// TestARestoreFromAFarStoreHoldsWhatItMay: fetches of 8 MiB that do not
// compress, for each of 8 fetchers, and an extent and some frames for each of 3
// writers.
func TestARestoreFromAFarStoreHoldsWhatItMay(t *testing.T) {
	const limit = 100 << 20
	entries, _ := noisy(8, 0)
	inner, _ := stored(t, entries, repo.BackupHeader{})
	st := farStore(inner)
	s, err := reopen(t, st)
	if err != nil {
		t.Fatal(err)
	}
	runtime.GC()
	var m runtime.MemStats
	runtime.ReadMemStats(&m)
	base := m.HeapInuse
	// What is alive must fit; left alone, the collector lets the heap grow to twice that.
	defer debug.SetMemoryLimit(debug.SetMemoryLimit(int64(m.Sys-m.HeapReleased) + limit*3/4))
	stop, done := make(chan struct{}), make(chan uint64)
	go func() {
		peak := uint64(0)
		for {
			var m runtime.MemStats
			runtime.ReadMemStats(&m)
			peak = max(peak, m.HeapInuse)
			select {
			case <-stop:
				done <- peak
				return
			case <-time.After(2 * time.Millisecond):
			}
		}
	}()
	_, err = Run(context.Background(), options(s, filepath.Join(t.TempDir(), "data")))
	close(stop)
	grown := int64(<-done) - int64(base)
	if err != nil {
		t.Fatal(err)
	}
	t.Logf("peak of %d MiB", grown>>20)
	if grown > limit {
		t.Errorf("peak of %d MiB, want at most %d", grown>>20, limit>>20)
	}
	if grown < 16<<20 {
		t.Errorf("peak of %d MiB: it did not fetch ahead", grown>>20)
	}
	runtime.KeepAlive(inner)
}

// TestThePaceDependsOnTheStore: where reads are cheap nothing is fetched ahead.
func TestThePaceDependsOnTheStore(t *testing.T) {
	st, s := stored(t, cluster(), repo.BackupHeader{})
	r := &run{o: Options{Stanza: s, Processes: 3}}
	if p := r.pace(); p != (pace{fetchers: 3, bytes: 4 << 20, pieces: 64}) {
		t.Errorf("on a local disk: %+v", p)
	}
	remote, err := reopen(t, far{faulty.New(st, nil, nil)})
	if err != nil {
		t.Fatal(err)
	}
	for processes, want := range map[int]int{1: 8, 3: 8, 40: 40} {
		r := &run{o: Options{Stanza: remote, Processes: processes}}
		if p := r.pace(); p != (pace{fetchers: want, bytes: 16 << 20, pieces: 1024}) {
			t.Errorf("far away, with %d processes: %+v", processes, p)
		}
	}
}

// TestAFaultEndsARestoreFromAFarStore: the first error ends it.
func TestAFaultEndsARestoreFromAFarStore(t *testing.T) {
	inner, _ := stored(t, cluster(), repo.BackupHeader{})
	for kind, key := range kindsOfObject(t, inner) {
		for n := 1; ; n++ {
			var seen atomic.Int64
			st := far{faulty.OnOp(inner, func(op, k string) error {
				if op != faulty.OpRead && k == key && seen.Add(1) == int64(n) {
					return faulty.ErrInjected
				}
				return nil
			})}
			dir := filepath.Join(t.TempDir(), "data")
			err := restoreThrough(t, st, dir)
			if !st.Fired() {
				if err != nil || n == 1 {
					t.Errorf("%s: nothing fired at %d: %v", kind, n, err)
				}
				break
			}
			if err == nil || !strings.Contains(err.Error(), "injected") || exists(t, filepath.Join(dir, controlFile)) {
				t.Errorf("%s, request %d: %v", kind, n, err)
			}
		}
	}
}
