package archive

import (
	"context"
	"errors"
	"os"
	"time"

	"github.com/pgbak/pgbak/internal/pause"
	"github.com/pgbak/pgbak/internal/postgres"
)

// PrefetchGetter is a Getter that serves recovery from a queue, and has the
// queue filled while recovery replays. What the queue does not hold is asked of the
// repositories: the queue proves that a file is there, never that one is absent,
// and no trouble with it is trouble for who asks.
type PrefetchGetter struct {
	getter *Getter
	queue  *PrefetchQueue
	fill   func() error
}

// NewPrefetchGetter returns a PrefetchGetter. fill has the queue filled by
// somebody else (Prefetcher.Run) and does not wait for that, or fills it itself
// (Prefetcher.Fill); it is called when the queue runs low and nobody fills it.
func NewPrefetchGetter(getter *Getter, queue *PrefetchQueue, fill func() error) *PrefetchGetter {
	return &PrefetchGetter{getter: getter, queue: queue, fill: fill}
}

// Take moves a segment to dest if it was fetched ahead or is being fetched, for who would
// ask somebody else next. Nothing is taken when the queue runs low and nobody fills it: who is
// asked then has that done.
func (q *PrefetchQueue) Take(ctx context.Context, name, dest string) (taken bool, err error) {
	f, ok := q.asksFor(name, dest)
	if !ok || q.isLow(f) && !q.isServed() {
		return false, nil
	}
	return q.await(ctx, f, func(f postgres.WALFile) (bool, error) { return q.take(f, dest) })
}

// Get is Getter.Get.
func (g *PrefetchGetter) Get(ctx context.Context, name, dest string) (Got, error) {
	return g.get(ctx, name, dest,
		func(f postgres.WALFile) (bool, error) { return g.queue.take(f, dest) },
		func() (Got, error) { return g.getter.Get(ctx, name, dest) })
}

// GetInto is Getter.GetInto for who will rename file to dest.
func (g *PrefetchGetter) GetInto(ctx context.Context, name, dest string, file *os.File) (Got, error) {
	return g.get(ctx, name, dest,
		func(f postgres.WALFile) (bool, error) { return g.queue.copyInto(f, file) },
		func() (Got, error) { return g.getter.GetInto(ctx, name, file) })
}

func (g *PrefetchGetter) get(ctx context.Context, name, dest string, take func(postgres.WALFile) (bool, error), direct func() (Got, error)) (Got, error) {
	f, ok := g.queue.asksFor(name, dest)
	if !ok {
		return direct()
	}
	taken, trouble := g.queue.await(ctx, f, take)
	trouble = errors.Join(g.queue.complaint(), trouble)
	var got Got
	if !taken {
		var err error
		if got, err = direct(); err != nil {
			return got.warn(trouble), err
		}
		// Not before: recovery also asks for what does not exist, the segments of
		// newer timelines.
		trouble = errors.Join(trouble, g.queue.note(f))
	}
	if g.queue.isLow(f) && !g.queue.isServed() {
		trouble = errors.Join(trouble, g.fill())
	}
	return got.warn(trouble), nil
}

// warn adds what is no trouble for who asked.
func (got Got) warn(trouble error) Got {
	if trouble != nil {
		got.Warnings = append(got.Warnings, "fetching ahead: "+trouble.Error())
	}
	return got
}

const (
	takePause = 2 * time.Millisecond
	// takePatience is how often a segment that is being fetched is looked for,
	// with the pause between, until it is fetched a second time: about 30 s.
	takePatience = 15_000
)

// await takes a segment out of the queue. One that is being fetched is waited
// for, as it would be here no earlier by a second way; but not for ever, since who
// fetches it may be stuck where the second way is not.
func (q *PrefetchQueue) await(ctx context.Context, f postgres.WALFile, take func(postgres.WALFile) (bool, error)) (taken bool, err error) {
	for range takePatience {
		coming := q.isFetched(f) // before the look for it: it becomes a whole file in between
		there, err := q.find(f)
		if err != nil || there == nil && !coming {
			return false, err
		}
		if there != nil {
			// Before it vanishes from the queue, lest it is fetched again.
			if err := q.note(f); err != nil {
				return false, err
			}
			if taken, err := take(f); taken || err != nil {
				return taken, err
			}
		}
		if err := pause.For(ctx, takePause); err != nil {
			return false, nil
		}
	}
	return false, nil
}
