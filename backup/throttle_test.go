package backup

import (
	"context"
	"errors"
	"sync"
	"testing"
	"time"

	"github.com/pgbak/pgbak/internal/postgres"
	"github.com/pgbak/pgbak/repo"
	"github.com/pgbak/pgbak/storage/mem"
)

// sleptTime is a clock that only sleeping moves, to the end of the longest sleep.
type sleptTime struct {
	mu  sync.Mutex
	now time.Time
}

func (s *sleptTime) clock() time.Time {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.now
}

func (s *sleptTime) sleep(ctx context.Context, d time.Duration) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	if ctx.Err() == nil {
		s.now = s.now.Add(d)
	}
	return context.Cause(ctx)
}

func TestReadingIsNoFasterThanTheThrottle(t *testing.T) {
	const bytes = 20 << 20
	for _, c := range []struct {
		title            string
		perSecond, piece int64
	}{
		{"pieces that the bucket holds", 10 << 20, 128 << 10},
		{"pieces larger than the bucket", 1 << 20, 1 << 20},
		{"a rate so small that the bucket holds more than a tenth of a second", 100_000, 1 << 20},
		{"pieces of odd sizes", 3_000_001, 77_777},
	} {
		t.Run(c.title, func(t *testing.T) {
			s := &sleptTime{now: time.Unix(1_800_000_000, 0)}
			th := newThrottle(c.perSecond, s.clock)
			th.sleep = s.sleep
			start := s.clock()
			for read := int64(0); read < bytes; read += c.piece {
				if err := th.wait(t.Context(), min(c.piece, bytes-read)); err != nil {
					t.Fatal(err)
				}
			}
			want := float64(bytes) / float64(c.perSecond)
			if took := s.clock().Sub(start).Seconds(); took < want*0.95 || took > want*1.01 {
				t.Errorf("reading took %.2fs, want %.2fs", took, want)
			}
		})
	}
}

// TestACopyIsThrottledAndKnowsHowMuchThereIs copies small and large files.
func TestACopyIsThrottledAndKnowsHowMuchThereIs(t *testing.T) {
	const perSecond = 2 << 20
	root := t.TempDir()
	size := makeTree(t, root, 20<<20)
	slept := &sleptTime{now: time.Unix(1_800_000_000, 0)}
	var c *copier
	var last Progress
	o := Options{Repositories: []Repository{place{"one", "none", "", mem.New()}.open(t)}, PGData: root, MaxRate: perSecond, Clock: slept.clock,
		Progress: func(p Progress) {
			for deadline := time.Now().Add(10 * time.Second); c.total.Load() == 0 && time.Now().Before(deadline); {
				time.Sleep(time.Millisecond)
			}
			last = p
		}}.withDefaults()
	r := &run{o: o, to: newDestinations(t.Context(), o), control: postgres.Control{BlockSize: testPage, SegmentBlocks: 131072}}
	r.info.BlockSize = testPage
	if err := r.begin(t.Context()); err != nil {
		t.Fatal(err)
	}
	defer r.to.close(t.Context())
	c = newCopier(o, r.to, r.control, changes{way: WayFull})
	c.throttle.sleep = slept.sleep
	begin := slept.clock()
	if err := c.copy(t.Context(), &walker{root: root, version: testVersion, owners: newOwners(), tablespaces: map[string]bool{}, warn: r.warn}); err != nil {
		t.Fatal(err)
	}
	want := float64(size) / perSecond
	if took := slept.clock().Sub(begin).Seconds(); took < want*0.95 || took > want*1.01 {
		t.Errorf("reading %d bytes took %.2fs, want %.2fs", size, took, want)
	}
	if last.Bytes != size || last.Total != size {
		t.Errorf("the last progress is %+v, want all of %d bytes", last, size)
	}
}

func TestAnIncrementalExpectsAsMuchAsItsParentHas(t *testing.T) {
	root := t.TempDir()
	size := makeTree(t, root, 1<<20)
	to := place{"one", "none", "", mem.New()}.open(t)
	if _, err := copyTree(t, root, to); err != nil {
		t.Fatal(err)
	}
	tr := beginCopy(t, root, repo.Incremental, changes{way: WayFull}, to)
	defer tr.run.to.close(t.Context())
	if total := tr.c.total.Load(); total != size {
		t.Errorf("%d bytes are expected, the parent has %d", total, size)
	}
}

func TestWithoutARateNothingIsHeldBack(t *testing.T) {
	if th := newThrottle(0, time.Now); th != nil {
		t.Errorf("%+v bounds what has no bound", th)
	}
	if err := (*throttle)(nil).wait(t.Context(), 1<<40); err != nil {
		t.Error(err)
	}
}

func TestWaitingEndsWithItsContext(t *testing.T) {
	ctx, cancel := context.WithCancelCause(t.Context())
	told := errors.New("told to end")
	th := newThrottle(1<<10, time.Now)
	done := make(chan error, 1)
	go func() { done <- th.wait(ctx, 1<<30) }()
	cancel(told)
	select {
	case err := <-done:
		if !errors.Is(err, told) {
			t.Errorf("error %v, want the cause", err)
		}
	case <-time.After(10 * time.Second):
		t.Fatal("it goes on waiting")
	}
}
