package agent

import (
	"context"
	"errors"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/pgbak/pgbak/internal/monitor"
	"github.com/pgbak/pgbak/repo"
	"github.com/pgbak/pgbak/storage"
	"github.com/pgbak/pgbak/storage/faulty"
	"github.com/pgbak/pgbak/storage/mem"
)

// place is a storage with a repository, and what was asked of it.
type place struct {
	inner storage.Store
	store storage.Store
	down  atomic.Bool
	moved atomic.Bool // the url leads elsewhere
	opens atomic.Int64
	asked atomic.Int64 // operations
	later atomic.Int64 // nanoseconds
}

var (
	errDown  = errors.New("the storage is down")
	errMoved = errors.New("it leads elsewhere")
)

func newPlace(t *testing.T) (*place, *Warm) {
	t.Helper()
	p := &place{inner: mem.New()}
	p.store = faulty.New(p.inner, func(context.Context, faulty.Op) error {
		p.asked.Add(1)
		if p.down.Load() {
			return errDown
		}
		return nil
	}, nil)
	p.renew(t)
	return p, NewWarm(p.open, p.clock)
}

func (p *place) clock() time.Time { return time.Unix(1_800_000_000, p.later.Load()) }

func (p *place) options() repo.Options {
	return repo.Options{Clock: p.clock}
}

func (p *place) open(ctx context.Context) (*repo.Repository, func() error, error) {
	p.opens.Add(1)
	r, err := repo.Open(ctx, p.store, p.options())
	return r, func() error {
		if p.moved.Swap(false) {
			return errMoved
		}
		return nil
	}, err
}

// renew puts another repository in the place of the one that is there.
func (p *place) renew(t *testing.T) {
	t.Helper()
	for o, err := range p.inner.List(t.Context(), "", "") {
		if err != nil {
			t.Fatal(err)
		}
		if err := p.inner.Delete(t.Context(), o.Key); err != nil {
			t.Fatal(err)
		}
	}
	r, err := repo.Create(t.Context(), p.inner, p.options())
	if err != nil {
		t.Fatal(err)
	}
	if _, err := r.CreateStanza(t.Context(), "main", identity(1)); err != nil {
		t.Fatal(err)
	}
}

func identity(system uint64) repo.Identity {
	return repo.Identity{SystemID: system, Major: 17, SegmentSize: 1 << 20, BlockSize: 8192, CatalogVersion: 202406281, ControlVersion: 1300}
}

// upgrade gives the stanza another identity, by another program.
func upgrade(t *testing.T, p *place) {
	t.Helper()
	s, err := repo.OpenStanza(t.Context(), p.inner, p.options(), "main")
	if err != nil {
		t.Fatal(err)
	}
	if _, err := s.AddIdentity(t.Context(), identity(2)); err != nil {
		t.Fatal(err)
	}
}

func mustStanza(t *testing.T, w *Warm, maxAge time.Duration) *repo.Stanza {
	t.Helper()
	s, err := w.Stanza(t.Context(), "main", maxAge)
	if err != nil {
		t.Fatal(err)
	}
	return s
}

func TestAWarmRepositoryIsOpenedOnceAndLookedAtAgainByAge(t *testing.T) {
	p, w := newPlace(t)
	first := mustStanza(t, w, time.Second)
	after := p.asked.Load()
	p.later.Add(int64(time.Second))
	if again := mustStanza(t, w, time.Second); again != first || p.asked.Load() != after {
		t.Errorf("within its age %d operations were made", p.asked.Load()-after)
	}
	upgrade(t, p)
	if n := len(mustStanza(t, w, time.Second).Identities()); n != 1 {
		t.Errorf("%d identities without a look", n)
	}
	if n := len(mustStanza(t, w, 0).Identities()); n != 2 {
		t.Errorf("%d identities by a look of now", n)
	}
	p.later.Add(-int64(time.Hour)) // a clock that was set back
	after = p.asked.Load()
	mustStanza(t, w, time.Second)
	if p.asked.Load() == after {
		t.Error("what was learned in the future was believed")
	}
	p.later.Add(int64(time.Second) + 1)
	after = p.asked.Load()
	mustStanza(t, w, time.Second)
	if p.asked.Load() == after {
		t.Error("what is too old was believed")
	}
	if p.opens.Load() != 1 {
		t.Errorf("it was opened %d times", p.opens.Load())
	}
}

func TestAnotherRepositoryInItsPlaceIsOpened(t *testing.T) {
	p, w := newPlace(t)
	mustStanza(t, w, 0)
	p.renew(t)
	mustStanza(t, w, 0)
	if p.opens.Load() != 2 {
		t.Errorf("after it was replaced it was opened %d times", p.opens.Load())
	}
	p.moved.Store(true)
	mustStanza(t, w, 0)
	if p.opens.Load() != 3 {
		t.Errorf("after its url led elsewhere it was opened %d times", p.opens.Load())
	}
	w.Forget()
	mustStanza(t, w, time.Hour)
	if p.opens.Load() != 4 {
		t.Errorf("after it was forgotten it was opened %d times", p.opens.Load())
	}
}

func TestAFailureIsToldToAllWhoWaitAndNotRemembered(t *testing.T) {
	p, w := newPlace(t)
	mustStanza(t, w, 0)
	p.down.Store(true)
	var waiting sync.WaitGroup
	for range 8 {
		waiting.Go(func() {
			if _, err := w.Stanza(context.Background(), "main", 0); !errors.Is(err, errDown) {
				t.Errorf("error %v", err)
			}
		})
	}
	waiting.Wait()
	p.down.Store(false)
	mustStanza(t, w, time.Hour)
	if _, err := w.Stanza(t.Context(), "other", time.Hour); !errors.Is(err, repo.ErrUnknownStanza) {
		t.Errorf("error %v", err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if _, err := w.Stanza(ctx, "main", 0); err != nil && !errors.Is(err, context.Canceled) {
		t.Errorf("error %v", err)
	}
	mustStanza(t, w, 0) // who left has not ended it for the others
}

func TestMetricsAreWrittenAsPrometheusReadsThem(t *testing.T) {
	m := &Metrics{}
	m.add("pgbak_agent_pushed_files_total", 2, "stanza", "a\"b\\c\nd", "repository", "r")
	m.add("pgbak_agent_pushed_files_total", 1, "stanza", "a\"b\\c\nd", "repository", "r")
	var b strings.Builder
	if err := monitor.Write(&b, append(m.Families(), monitor.Family{Name: "x", Kind: "gauge", Help: "Help.", Samples: []monitor.Sample{{Value: 1.5}}})...); err != nil {
		t.Fatal(err)
	}
	for _, line := range []string{
		`pgbak_agent_pushed_files_total{stanza="a\"b\\c\nd",repository="r"} 3`,
		"# HELP x Help.\n# TYPE x gauge\nx 1.5\n", "# TYPE pgbak_agent_get_errors_total counter\n",
	} {
		if !strings.Contains(b.String(), line) {
			t.Errorf("%s is not in\n%s", line, b.String())
		}
	}
	for name := range m.values {
		found := false
		for _, f := range families() {
			found = found || f.Name == name.family
		}
		if !found {
			t.Errorf("%s is counted and not written", name.family)
		}
	}
}
