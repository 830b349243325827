package archive

import (
	"context"
	"os"
	"sync"
	"time"

	"github.com/pgbak/pgbak/internal/postgres"
	"github.com/pgbak/pgbak/repo"
)

// keptSource is a Source that is opened once, and again after it failed.
type keptSource struct {
	Source
	mu     sync.Mutex
	stanza *repo.Stanza
	ids    []repo.Identity
}

// Open shadows Source.Open by what it gave the first time.
func (s *keptSource) Open(ctx context.Context) (*repo.Stanza, []repo.Identity, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.stanza != nil {
		return s.stanza, s.ids, nil
	}
	var err error
	s.stanza, s.ids, err = s.Source.Open(ctx)
	return s.stanza, s.ids, err
}

// ask is Source.ask of what is open.
func (s *keptSource) ask(ctx context.Context, name string, placing func(filling) error) (*repo.Stanza, []repo.Identity, bool, []error) {
	stanza, ids, found, trouble := Source{Name: s.Name, Open: s.Open}.ask(ctx, name, placing)
	if len(trouble) > 0 {
		s.mu.Lock()
		s.stanza = nil
		s.mu.Unlock()
	}
	return stanza, ids, found, trouble
}

// prefetchRun is the state of Prefetcher.Run. One goroutine works with it; those that
// fetch only send what became of it.
type prefetchRun struct {
	p        *Prefetcher
	horizon  horizon
	started  bool // recovery's place is known
	known    map[postgres.Timeline]postgres.History
	fetching map[postgres.WALFile]bool
	done     chan fetched
	settled  bool // nothing is to be begun until recovery asks or something is fetched
	// failed says that there was trouble since recovery asked last: what is not
	// there yet is left to it.
	failed bool
}

type fetched struct {
	segment postgres.WALFile
	found   bool
	err     error
}

func newPrefetchRun(p *Prefetcher) *prefetchRun {
	return &prefetchRun{p: p, known: map[postgres.Timeline]postgres.History{}, fetching: map[postgres.WALFile]bool{}, done: make(chan fetched, p.workers)}
}

// wait waits until nothing is being fetched any more.
func (r *prefetchRun) wait() {
	for len(r.fetching) > 0 {
		r.take(<-r.done)
	}
}

func (r *prefetchRun) take(f fetched) {
	delete(r.fetching, f.segment)
	if f.err != nil {
		r.failed = true
		r.p.note(f.err)
	} else if end, ok := r.horizon.ends[f.segment.Timeline]; !f.found && (!ok || f.segment.Segment < end) {
		r.horizon.ends[f.segment.Timeline] = f.segment.Segment
	}
}

// pause waits until something is fetched, for d at most.
func (r *prefetchRun) pause(ctx context.Context, d time.Duration) error {
	timer := time.NewTimer(d)
	defer timer.Stop()
	select {
	case f := <-r.done:
		r.settled = false
		r.take(f)
	case <-timer.C:
	case <-ctx.Done():
		return context.Cause(ctx)
	}
	return nil
}

// step looks where recovery is and what has been fetched, removes what it will
// not ask for and begins to fetch what it will. changed says that recovery has gone on.
func (r *prefetchRun) step(ctx context.Context) (changed bool, err error) {
	for len(r.done) > 0 {
		r.settled = false
		r.take(<-r.done)
	}
	// Most of the time nothing has happened, and this is all that is done to see it.
	if asked, ok := r.p.queue.asked(); r.settled && ok && asked == r.horizon.asked {
		return false, nil
	}
	// First the files, then what was asked for: it is noted before a file is
	// taken, so that what is taken between the two is not missed here and fetched again.
	files, err := r.p.queue.files()
	if err != nil {
		return false, err
	}
	asked, ok := r.p.queue.asked()
	if !ok {
		return false, nil // nothing yet, or it is being written
	}
	if !r.started || asked != r.horizon.asked {
		changed = true
		r.follow(ctx, asked)
	}
	wanted := r.horizon.next(r.p.queue.segments())
	ready, err := r.keep(files, wanted)
	if err != nil {
		return changed, err
	}
	r.begin(ctx, wanted, ready)
	r.settled = true
	return changed, nil
}

// begin fetches what is wanted and not ready, the nearest first.
func (r *prefetchRun) begin(ctx context.Context, wanted []postgres.WALFile, ready map[postgres.WALFile]bool) {
	for _, f := range wanted {
		if len(r.fetching) >= r.p.workers || r.failed {
			break
		}
		if !ready[f] && !r.fetching[f] {
			r.fetching[f] = true
			go func() {
				found, err := r.p.fetch(ctx, f)
				if ctx.Err() != nil {
					err = nil // no trouble: the run ends
				}
				r.done <- fetched{f, found, err}
			}()
		}
	}
}

// follow goes on from where recovery is now. What was absent may have come.
func (r *prefetchRun) follow(ctx context.Context, asked postgres.WALFile) {
	look := !r.started || asked.Timeline != r.horizon.asked.Timeline || len(r.horizon.ends) > 0
	r.started, r.failed = true, false
	r.horizon.asked, r.horizon.segmentSize, r.horizon.ends = asked, r.p.queue.of.SegmentSize, map[postgres.Timeline]uint64{}
	if !look {
		return
	}
	if err := r.p.histories(ctx, asked.Timeline, r.known); err != nil {
		r.failed = true
		if ctx.Err() == nil { // otherwise no trouble: the run ends
			r.p.note(err)
		}
	}
	r.horizon.histories = r.horizon.histories[:0]
	for _, h := range r.known {
		r.horizon.histories = append(r.horizon.histories, h)
	}
}

// keep removes from the queue what recovery will not ask for, and says what is ready.
func (r *prefetchRun) keep(files []queued, wanted []postgres.WALFile) (ready map[postgres.WALFile]bool, err error) {
	ready = map[postgres.WALFile]bool{}
	isWanted := map[postgres.WALFile]bool{r.horizon.asked: true} // it may be about to be taken
	for _, f := range wanted {
		isWanted[f] = true
	}
	for _, f := range files {
		if !isWanted[f.segment] || ready[f.segment] {
			if err := os.RemoveAll(f.path); err != nil {
				return nil, err
			}
			continue
		}
		ready[f.segment] = true
	}
	return ready, nil
}
