package archive

import (
	"context"
	"errors"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"time"

	"github.com/pgbak/pgbak/internal/pause"
	"github.com/pgbak/pgbak/internal/postgres"
	"github.com/pgbak/pgbak/storage"
)

// Prefetcher fills a queue with the segments that recovery will ask for next. It
// remembers of no segment that it is absent for longer than recovery asks for the next one,
// and tells nobody: what it cannot fetch is missing in the queue, and that is all.
type Prefetcher struct {
	queue   *PrefetchQueue
	sources []*keptSource
	workers int
	clock   func() time.Time
	note    func(error)
}

// NewPrefetcher returns a Prefetcher that fetches workers segments at the same
// time. note is told of trouble; more than one goroutine may call it.
func NewPrefetcher(queue *PrefetchQueue, workers int, note func(error), sources ...Source) (*Prefetcher, error) {
	if len(sources) == 0 || workers < 1 {
		return nil, errors.New("nothing to fetch ahead from, or by")
	}
	p := &Prefetcher{queue: queue, workers: workers, clock: queue.clock, note: note}
	for _, s := range sources {
		p.sources = append(p.sources, &keptSource{Source: s})
	}
	return p, nil
}

const (
	// prefetchIdle is how long recovery may ask for nothing: a segment takes
	// some milliseconds to replay, or some seconds where every page is read.
	prefetchIdle = 30 * time.Second
	busyPause    = 5 * time.Millisecond
	idlePause    = 100 * time.Millisecond
	busyFor      = time.Second
	// Who only looks whether a lock is held holds it for a moment.
	lockTries, lockPause = 20, 10 * time.Millisecond
)

// Run fills the queue and keeps it full while recovery takes from it. It ends
// when recovery has ended or asked for nothing for half a minute, or with ctx, without an error;
// and at once if somebody else is at it.
func (p *Prefetcher) Run(ctx context.Context) error {
	unlock, err := p.begin(ctx)
	if unlock == nil {
		return err
	}
	defer unlock()
	signs := lookForSigns(p.queue.of.Directory)
	ctx, cancel := context.WithCancel(ctx)
	r := newPrefetchRun(p)
	stop := func() {
		cancel()
		r.wait()
	}
	defer stop() // before the lock ends
	active := p.clock()
	for {
		changed, err := r.step(ctx)
		if err != nil {
			return err
		}
		now := p.clock()
		if changed || len(r.fetching) > 0 || now.Before(active) {
			active = now
		}
		idle, wait := now.Sub(active), busyPause
		if idle > busyFor {
			wait = idlePause
			if signs.haveGone() {
				stop()
				return p.queue.clear()
			}
		}
		if idle > prefetchIdle || r.pause(ctx, wait) != nil {
			return nil
		}
	}
}

// Fill fills the queue once and ends, for where nobody may stay behind; as Run does, at
// once if somebody else is at it.
func (p *Prefetcher) Fill(ctx context.Context) error {
	unlock, err := p.begin(ctx)
	if unlock == nil {
		return err
	}
	defer unlock()
	ctx, cancel := context.WithCancel(ctx)
	r := newPrefetchRun(p)
	defer r.wait()
	defer cancel()
	for {
		if _, err := r.step(ctx); err != nil || len(r.fetching) == 0 {
			return err
		}
		if r.pause(ctx, idlePause) != nil {
			return nil
		}
	}
}

// begin takes the queue for this process alone, and sweeps it. There is no unlock if
// that failed, and no error either if somebody else is at it or ctx has ended.
func (p *Prefetcher) begin(ctx context.Context) (unlock func(), err error) {
	err = tryLock(ctx, func() error {
		unlock, err = p.queue.lock()
		return err
	})
	if errors.Is(err, errLocked) || err != nil && ctx.Err() != nil {
		return nil, nil
	}
	if err != nil {
		return nil, err
	}
	if ctx.Err() == nil {
		err = p.queue.sweep()
	}
	if err != nil || ctx.Err() != nil {
		unlock()
		return nil, err
	}
	return unlock, nil
}

// tryLock calls lock until it does not say errLocked, for a while.
func tryLock(ctx context.Context, lock func() error) (err error) {
	for range lockTries {
		if err = lock(); !errors.Is(err, errLocked) {
			return err
		}
		if pause.For(ctx, lockPause) != nil {
			break
		}
	}
	return err
}

// signs are the files of a data directory that say that it is in recovery. They
// are looked for at the beginning: who has none may be no server at all.
type signs []string

func lookForSigns(directory string) signs {
	var there signs
	for _, name := range []string{"recovery.signal", "standby.signal"} {
		path := filepath.Join(directory, name)
		if _, err := os.Stat(path); err == nil {
			there = append(there, path)
		}
	}
	return there
}

// haveGone says that recovery, which was under way, has ended, and nobody will
// ask for what is in the queue.
func (s signs) haveGone() bool {
	for _, path := range s {
		if _, err := os.Stat(path); !errors.Is(err, fs.ErrNotExist) {
			return false
		}
	}
	return len(s) > 0
}

// sweep removes what a prefetcher left that was killed, and other queues that
// nobody has used for long. The lock must be held.
func (q *PrefetchQueue) sweep() error {
	entries, err := os.ReadDir(q.dir)
	if err != nil {
		return err
	}
	for _, e := range entries {
		_, isQueued := q.parse(e.Name())
		if isQueued || e.Name() == askedName || e.Name() == troubleName || strings.HasSuffix(e.Name(), ".lock") {
			continue
		}
		if err := os.RemoveAll(filepath.Join(q.dir, e.Name())); err != nil {
			return err
		}
	}
	others, err := os.ReadDir(filepath.Dir(q.dir))
	if err != nil {
		return err
	}
	for _, e := range others {
		other := &PrefetchQueue{spool: q.spool, of: q.of, key: e.Name(), dir: filepath.Join(filepath.Dir(q.dir), e.Name()), clock: q.clock}
		if e.Name() == q.key || !e.IsDir() {
			continue
		}
		if err := other.removeUnused(); err != nil {
			return err
		}
	}
	return nil
}

// removeUnused removes a queue if what was noted in it last is older than what it would serve.
func (q *PrefetchQueue) removeUnused() error {
	info, err := os.Stat(filepath.Join(q.dir, askedName))
	if err != nil {
		info, err = os.Stat(q.dir)
	}
	if err != nil || q.clock().Sub(info.ModTime()) <= maxPrefetchAge {
		return nil // its recovery has just removed it, or is using it
	}
	unlock, err := q.lock()
	if err != nil {
		return nil // it is being filled
	}
	defer unlock()
	return os.RemoveAll(q.dir)
}

// clear removes all segments of the queue.
func (q *PrefetchQueue) clear() error {
	files, err := q.files()
	for _, f := range files {
		err = errors.Join(err, os.RemoveAll(f.path))
	}
	return err
}

// fetch brings one segment into the queue. Not found without an error says that
// no repository had it at that moment, which nobody has proved.
func (p *Prefetcher) fetch(ctx context.Context, f postgres.WALFile) (found bool, err error) {
	place, err := p.queue.place(ctx, f)
	if err != nil {
		return false, err
	}
	defer place.leave()
	var trouble []error
	for _, s := range p.sources {
		_, _, found, failed := s.ask(ctx, f.Name(p.queue.of.SegmentSize), place.put)
		if found {
			return true, nil
		}
		trouble = append(trouble, failed...)
	}
	return false, errors.Join(trouble...)
}

// histories reads the histories of all timelines newer than tli. What is damaged is left out:
// recovery that needs it meets it by itself. A repository that fails is trouble, and an error
// only if there is no other one.
func (p *Prefetcher) histories(ctx context.Context, tli postgres.Timeline, known map[postgres.Timeline]postgres.History) error {
	var trouble []error
	for _, s := range p.sources {
		if err := p.historiesOf(ctx, s, tli, known); err != nil {
			trouble = append(trouble, err)
		}
	}
	if len(trouble) == len(p.sources) || ctx.Err() != nil {
		return errors.Join(trouble...)
	}
	for _, err := range trouble {
		p.note(err)
	}
	return nil
}

func (p *Prefetcher) historiesOf(ctx context.Context, s *keptSource, tli postgres.Timeline, known map[postgres.Timeline]postgres.History) error {
	stanza, ids, err := s.Open(ctx)
	if err != nil {
		return err
	}
	for _, id := range ids {
		timelines, err := stanza.HistoryTimelines(ctx, id)
		if err != nil {
			return err
		}
		for _, t := range timelines {
			if _, ok := known[t]; ok || t <= tli {
				continue
			}
			h, err := stanza.History(ctx, id, t)
			if err != nil && !errors.Is(err, storage.ErrNotExist) {
				p.note(err)
			}
			known[t] = h // one that cannot be read descends from nothing
		}
	}
	return nil
}
