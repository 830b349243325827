package backup

import (
	"context"
	"fmt"
	"sync"

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
	errors   pageErrors
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
	read   func(context.Context, *repo.Framers, *batch) error
	commit func(i int, d *destination) error // called for each repository that has not failed
	done   chan struct{}
	err    error
}

func newCopier(o Options, to *destinations, control postgres.Control) *copier {
	c := &copier{o: o, to: to, control: control, pageSize: control.BlockSize,
		work: make(chan *task), order: make(chan *task, 4*o.Processes)}
	n := 2*o.Processes + 2
	c.batches = make(chan *batch, n)
	for range n {
		c.batches <- &batch{}
	}
	return c
}

// frameBytes is the plain size of a whole window.
func (c *copier) frameBytes() int64 { return int64(c.pageSize) * repo.PagesPerFrame }

// prepare gives a batch its buffers when it is first used.
func (c *copier) prepare(b *batch, framers *repo.Framers) {
	if b.raw == nil {
		n := chunkWindows * int(c.frameBytes())
		b.raw = make([]byte, n)
		b.out = make([]byte, 0, framers.Room(n))
	}
}

// copy walks the cluster and writes all of it but pg_control.
func (c *copier) copy(ctx context.Context, w *walker) error {
	g, ctx := errgroup.WithContext(ctx)
	g.Go(func() error {
		defer close(c.work)
		defer close(c.order)
		return c.dispatch(ctx, w)
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
	if it.file.Type == repo.TypeFile && it.file.Size >= smallWindows*c.frameBytes() {
		if err := c.closeGroup(ctx); err != nil {
			return err
		}
		return c.largeFile(ctx, it)
	}
	if c.groupSize+it.file.Size > c.frameBytes() || len(c.group) == maxGroup {
		if err := c.closeGroup(ctx); err != nil {
			return err
		}
	}
	c.group = append(c.group, it)
	c.groupSize += it.file.Size
	return nil
}

// send hands a task to the workers and, in order, to the writer.
func (c *copier) send(ctx context.Context, t *task) error {
	t.done = make(chan struct{})
	select {
	case t.batch = <-c.batches:
	case <-ctx.Done():
		return context.Cause(ctx)
	}
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
		framers.Resume(i, d.writer.Resumption())
	}
	for t := range c.work {
		for i, d := range c.to.all {
			if d.failed.Load() {
				framers.Drop(i)
			}
		}
		c.prepare(t.batch, framers)
		t.err = t.read(ctx, framers, t.batch)
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
		c.o.Progress(Progress{Files: totals.Files, Bytes: totals.Bytes, Stored: totals.StoredBytes})
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
