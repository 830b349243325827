package restore

import (
	"context"
	"fmt"
	"path/filepath"
	"sync"

	"golang.org/x/sync/errgroup"

	"github.com/pgbak/pgbak/repo"
)

// The granularity of writing. An extent is read, verified and written by one
// worker in one piece, so that big files are spread over all of them; small
// files go to a worker together, since they share frames of the repository.
const (
	extentSize = 1 << 20 // bytes asked of the repository at once
	batchSize  = 1 << 20 // bytes of a batch, when it has more than one piece
	batchFiles = 64      // pieces of a batch
	maxExtent  = 16 << 20
)

// piece is an extent of a file; index -1 is the one of an empty file.
type piece struct {
	out    *outFile
	index  int
	extent repo.Extent
}

// writeFiles writes all files and directories of the backup but the links. It
// walks the list in order, which is the order of the content in the repository.
func (r *run) writeFiles(ctx context.Context) error {
	group, ctx := errgroup.WithContext(ctx)
	batches := make(chan []piece, 2*r.o.Processes)
	group.Go(func() error {
		defer close(batches)
		return r.produce(ctx, batches)
	})
	r.syncs.start(ctx, group)
	var writers sync.WaitGroup
	for range r.o.Processes {
		writers.Add(1)
		group.Go(func() error {
			defer writers.Done()
			return r.consume(ctx, batches)
		})
	}
	group.Go(func() error {
		writers.Wait()
		r.syncs.finish()
		return nil
	})
	err := group.Wait()
	r.closeUnfinished()
	return err
}

// produce makes directories and cuts files into pieces.
func (r *run) produce(ctx context.Context, batches chan<- []piece) error {
	q := queue{ctx: ctx, out: batches}
	for f, err := range r.backup.Files(ctx) {
		if err != nil {
			return fmt.Errorf("list the files of backup %s: %w", r.backup.Header().Label, err)
		}
		switch {
		case f.Type == repo.TypeDir:
			err = r.makeDir(f)
		case f.Type == repo.TypeFile && !left(f.Path):
			err = r.cut(ctx, f, &q)
		}
		if err != nil {
			return err
		}
	}
	return q.flush()
}

// cut puts a file's pieces into the queue.
func (r *run) cut(ctx context.Context, f repo.File, q *queue) error {
	extents, err := r.backup.Extents(ctx, f, extentSize)
	if err != nil {
		return err
	}
	end := int64(0)
	for _, e := range extents {
		if e.Offset != end || e.Length <= 0 || !e.Zero && e.Length > maxExtent {
			return fmt.Errorf("content of %s: extent of %d bytes at %d, want one at %d", f.Path, e.Length, e.Offset, end)
		}
		end += e.Length
	}
	if end != f.Size {
		return fmt.Errorf("content of %s: extents of %d bytes for a file of %d", f.Path, end, f.Size)
	}
	out := r.newOutFile(f, len(extents))
	if len(extents) == 0 {
		return q.add(piece{out: out, index: -1})
	}
	for i, e := range extents {
		if err := q.add(piece{out: out, index: i, extent: e}); err != nil {
			return err
		}
	}
	return nil
}

// queue gathers pieces into batches.
type queue struct {
	ctx   context.Context
	out   chan<- []piece
	batch []piece
	bytes int64
}

func (q *queue) add(p piece) error {
	length := p.extent.Length
	if p.extent.Zero {
		length = 0
	}
	if len(q.batch) == batchFiles || len(q.batch) > 0 && q.bytes+length > batchSize {
		if err := q.flush(); err != nil {
			return err
		}
	}
	q.batch, q.bytes = append(q.batch, p), q.bytes+length
	return nil
}

func (q *queue) flush() error {
	if len(q.batch) == 0 {
		return nil
	}
	select {
	case q.out <- q.batch:
	case <-q.ctx.Done():
		return context.Cause(q.ctx)
	}
	q.batch, q.bytes = nil, 0
	return nil
}

// consume is one worker.
func (r *run) consume(ctx context.Context, batches <-chan []piece) error {
	buf := make([]byte, extentSize)
	for batch := range batches {
		for _, p := range batch {
			if err := ctx.Err(); err != nil {
				return context.Cause(ctx)
			}
			if err := r.write(ctx, p, &buf); err != nil {
				return err
			}
		}
	}
	return nil
}

// write reads a piece from the repository and puts it into its file; zeros are
// left out, so that they become a hole.
func (r *run) write(ctx context.Context, p piece, buf *[]byte) error {
	if err := p.out.open(); err != nil {
		return err
	}
	if p.index >= 0 && !p.extent.Zero {
		if int64(cap(*buf)) < p.extent.Length {
			*buf = make([]byte, p.extent.Length)
		}
		data := (*buf)[:p.extent.Length]
		if err := r.backup.ReadExtent(ctx, p.extent, data); err != nil {
			return fmt.Errorf("read %s from backup %s: %w", p.out.file.Path, r.backup.Header().Label, err)
		}
		if err := p.out.put(p.index, p.extent.Offset, data); err != nil {
			return err
		}
	} else if p.index >= 0 {
		p.out.skip(p.index, p.extent.Length)
	}
	if p.out.left.Add(-1) > 0 {
		return nil
	}
	if err := r.complete(p.out); err != nil {
		return err
	}
	r.progress(p.out.file.Size)
	return nil
}

// progress counts a file and tells the caller.
func (r *run) progress(bytes int64) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.done.Files++
	r.done.Bytes += bytes
	r.o.Progress(r.done)
}

// target is where a path of the backup is written to. pg_control is kept under
// another name until all is durable, wherever global lies.
func (r *run) target(p string) (at *openPlace, rel string) {
	if p == controlFile {
		p = controlDraft
	}
	at, rel = locate(r.places, p)
	return at, filepath.FromSlash(rel)
}
