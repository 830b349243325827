package backup

import (
	"context"
	"fmt"
	"sync"
	"sync/atomic"

	"golang.org/x/sync/errgroup"

	"github.com/pgbak/pgbak/internal/postgres"
	"github.com/pgbak/pgbak/repo"
)

const (
	// chunkWindows is how many windows of a large file one task reads: 1 MiB
	// with pages of 8 KiB.
	chunkWindows = 8
	// smallWindows bounds a small file: it fits one frame.
	smallWindows = 1
	// maxGroup bounds a group of small files, directories and links.
	maxGroup = 256
)

// copier is the pipeline from the walk to the writer.
//
// The dispatcher walks and makes tasks; workers run them in any order; the
// writer takes them in the order in which they were made. Every task that reads
// holds one of a fixed number of batches, which bounds memory.
type copier struct {
	o        Options
	to       *destinations
	control  postgres.Control
	changes  changes
	uses     wayUses
	errors   pageErrors
	throttle *throttle
	total    atomic.Int64 // bytes of the cluster as estimated; 0 when not known
	batches  chan *batch
	work     chan *task
	order    chan *task
	pageSize int

	group     []item // small files, directories and links that await their task
	groupSize int64
}

// batch is the memory of one task.
type batch struct {
	raw []byte // plain content
	out []byte // compressed content, once for each way of compressing
}

// task is one step of the copy.
type task struct {
	batch  *batch
	read   func(context.Context, *repo.Framers, *batch) error // nil when there is nothing to read
	commit func(i int, d *destination) error                  // called for each repository that has not failed
	done   chan struct{}
	err    error
}

func newCopier(o Options, to *destinations, control postgres.Control, ch changes) *copier {
	c := &copier{o: o, to: to, control: control, changes: ch, throttle: newThrottle(o.MaxRate, o.Clock), pageSize: control.BlockSize,
		work: make(chan *task), order: make(chan *task, 4*o.Processes)}
	n := 2*o.Processes + 2
	c.batches = make(chan *batch, n)
	for range n {
		c.batches <- &batch{}
	}
	for _, h := range to.parents() {
		c.total.Store(max(c.total.Load(), h.DatabaseSize))
	}
	return c
}

// frameBytes is the plain size of a whole window.
func (c *copier) frameBytes() int64 { return int64(c.pageSize) * repo.PagesPerFrame }

// prepare gives a batch its buffers when it is first used.
func (c *copier) prepare(b *batch, framers *repo.Framers) {
	b.raw = c.room(b)
	if b.out == nil {
		b.out = make([]byte, 0, framers.Room(len(b.raw)))
	}
}

// room gives a batch's buffer for plain content.
func (c *copier) room(b *batch) []byte {
	if b.raw == nil {
		b.raw = make([]byte, chunkWindows*c.frameBytes())
	}
	return b.raw
}

// copy walks the cluster and writes all of it but pg_control.
func (c *copier) copy(ctx context.Context, w *walker) error {
	if c.total.Load() == 0 {
		defer c.estimateBeside(ctx, *w)()
	}
	return c.run(ctx, func(ctx context.Context) error { return c.dispatch(ctx, w) })
}

// run runs the pipeline for the tasks that dispatch sends.
func (c *copier) run(ctx context.Context, dispatch func(context.Context) error) error {
	g, ctx := errgroup.WithContext(ctx)
	g.Go(func() error {
		defer close(c.work)
		defer close(c.order)
		return dispatch(ctx)
	})
	for range c.o.Processes {
		g.Go(func() error { return c.worker(ctx) })
	}
	g.Go(func() error { return c.write(ctx) })
	return g.Wait()
}

// dispatch turns the walk into tasks.
func (c *copier) dispatch(ctx context.Context, w *walker) error {
	w.emit = func(it item) error { return c.take(ctx, it) }
	if err := w.walk(ctx); err != nil {
		return err
	}
	return c.closeGroup(ctx)
}

func (c *copier) take(ctx context.Context, it item) error {
	if it.file.Type == repo.TypeFile {
		it.parents = c.find(ctx, it.file.Path)
		if it.file.Size >= smallWindows*c.frameBytes() {
			if err := c.closeGroup(ctx); err != nil {
				return err
			}
			return c.large(ctx, it)
		}
	}
	size := it.file.Size
	if it.kept = c.keepSmall(it); it.kept {
		size = 0 // it needs no room
	}
	if c.groupSize+size > c.frameBytes() || len(c.group) == maxGroup {
		if err := c.closeGroup(ctx); err != nil {
			return err
		}
	}
	c.group = append(c.group, it)
	c.groupSize += size
	return nil
}

// large sends a larger file: as its changes are found.
func (c *copier) large(ctx context.Context, it item) error {
	if c.changes.way == WayFull {
		return c.largeFile(ctx, it)
	}
	return c.changedFile(ctx, it)
}

// send hands a task to the workers and, in order, to the writer.
func (c *copier) send(ctx context.Context, t *task) (err error) {
	if t.batch, err = c.freeBatch(ctx); err != nil {
		return err
	}
	return c.hand(ctx, t)
}

// freeBatch waits for a batch that no task holds.
func (c *copier) freeBatch(ctx context.Context) (*batch, error) {
	select {
	case b := <-c.batches:
		return b, nil
	case <-ctx.Done():
		return nil, context.Cause(ctx)
	}
}

// hand is send for a task that has its batch.
func (c *copier) hand(ctx context.Context, t *task) error {
	t.done = make(chan struct{})
	select {
	case c.order <- t:
	case <-ctx.Done():
		return context.Cause(ctx)
	}
	select {
	case c.work <- t:
	case <-ctx.Done():
		return context.Cause(ctx)
	}
	return nil
}

func (c *copier) worker(ctx context.Context) error {
	framers, err := repo.NewFramers(c.to.repositories()...)
	if err != nil {
		return err
	}
	for i, d := range c.to.all {
		if d.writer != nil { // else it has failed to begin
			framers.Resume(i, d.writer.Resumption())
		}
	}
	for t := range c.work {
		for i, d := range c.to.all {
			if d.failed.Load() {
				framers.Drop(i)
			}
		}
		c.prepare(t.batch, framers)
		if t.read != nil {
			t.err = t.read(ctx, framers, t.batch)
		}
		close(t.done)
		if t.err != nil {
			return t.err
		}
	}
	return nil
}

// write commits the tasks in order. It is the only user of the BackupWriters: a
// repository that stores slowly holds up all, one that fails is dropped.
func (c *copier) write(ctx context.Context) error {
	for t := range c.order {
		select {
		case <-t.done:
		case <-ctx.Done():
			return context.Cause(ctx)
		}
		if t.err != nil {
			return t.err
		}
		if err := c.to.each(ctx, t.commit); err != nil {
			return err
		}
		c.batches <- t.batch
		totals := c.to.first().writer.Totals()
		c.o.Progress(Progress{Files: totals.Files, Bytes: totals.Bytes, Stored: totals.StoredBytes, Total: c.total.Load()})
	}
	return nil
}

// find looks a path up in the parents of all repositories.
func (c *copier) find(ctx context.Context, path string) []*repo.ParentFile {
	parents := make([]*repo.ParentFile, len(c.to.all))
	for i, d := range c.to.all {
		parents[i] = d.find(ctx, path)
	}
	return parents
}

// pageErrors collects pages whose checksum failed; safe for concurrent use.
type pageErrors struct {
	mu    sync.Mutex
	total int64
	files []repo.PageError
}

const (
	maxErrorFiles  = 100
	maxErrorBlocks = 100
)

func (p *pageErrors) add(path string, block uint32) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.total++
	for i := range p.files {
		if f := &p.files[i]; f.Path == path {
			if len(f.Blocks) < maxErrorBlocks {
				f.Blocks = append(f.Blocks, block)
			} else {
				f.Truncated = true
			}
			return
		}
	}
	if len(p.files) < maxErrorFiles {
		p.files = append(p.files, repo.PageError{Path: path, Blocks: []uint32{block}})
	}
}

func (p *pageErrors) warnings() []string {
	var out []string
	for _, f := range p.files {
		count := fmt.Sprint(len(f.Blocks))
		if f.Truncated {
			count = "more than " + count
		}
		out = append(out, fmt.Sprintf("file %s: checksum of %s pages is wrong, first block %d", f.Path, count, f.Blocks[0]))
	}
	return out
}
