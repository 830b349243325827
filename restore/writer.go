package restore

import (
	"context"
	"fmt"
	"path/filepath"
	"sync"

	"golang.org/x/sync/errgroup"

	"github.com/pgbak/pgbak/repo"
)

// An extent is read, verified and written by one worker in one piece, so that
// big files are spread over all of them.
const (
	extentSize = 1 << 20 // bytes asked of the repository as one extent
	maxExtent  = 16 << 20
)

// pace is the granularity of restoring. Pieces that follow each other are
// fetched in batches: small files share frames of the repository, and frames of
// large ones lie side by side in it.
type pace struct {
	fetchers int   // batches that are on their way or being written
	bytes    int64 // plain bytes of a batch, when it has more than one piece
	pieces   int
}

// farFetchers wait for a store whose answers take time, so that the network is
// busy while others decompress and write: with 50 ms for an answer, and as long
// for its bytes, 8 of 16 MiB are more than 1 GiB of content a second. Batches are that
// large because a request costs the server some milliseconds of CPU time, and money.
// They hold 8 times the stored bytes of a batch, which are at most 12 MiB, see
// [repo.Backup.Fetch].
const farFetchers = 8

// pace depends on what a request costs. Where reads are cheap a worker reads
// just before it writes: nothing is gained by waiting for several at once. The
// batch is as large as it is because a delta frame holds pages from all over some
// megabytes: each batch that wants one of them reads the frame again.
func (r *run) pace() pace {
	if r.o.Stanza.Repository().Store().Properties().CheapReads {
		return pace{fetchers: r.o.Processes, bytes: 4 << 20, pieces: 64}
	}
	return pace{fetchers: max(farFetchers, r.o.Processes), bytes: 16 << 20, pieces: 1024}
}

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
	p := r.pace()
	batches := make(chan []piece, 2*r.o.Processes)
	group.Go(func() error {
		defer close(batches)
		return r.produce(ctx, &queue{ctx: ctx, pace: p, out: batches})
	})
	r.syncs.start(ctx, group)
	// Who decompresses and writes holds one of these, with room for an extent.
	rooms := make(chan []byte, r.o.Processes)
	for range r.o.Processes {
		rooms <- nil // allocated when first used
	}
	var writers sync.WaitGroup
	for range p.fetchers {
		writers.Add(1)
		group.Go(func() error {
			defer writers.Done()
			return r.consume(ctx, batches, rooms)
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
func (r *run) produce(ctx context.Context, q *queue) error {
	for f, err := range r.backup.Files(ctx) {
		if err != nil {
			return fmt.Errorf("list the files of backup %s: %w", r.backup.Header().Label, err)
		}
		switch {
		case f.Type == repo.TypeDir:
			err = r.makeDir(f)
		case f.Type == repo.TypeFile && !left(f.Path):
			err = r.cut(ctx, f, q)
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
	pace  pace
	out   chan<- []piece
	batch []piece
	bytes int64
}

func (q *queue) add(p piece) error {
	length := p.extent.Length
	if p.extent.Zero {
		length = 0
	}
	if len(q.batch) == q.pace.pieces || len(q.batch) > 0 && q.bytes+length > q.pace.bytes {
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

// consume fetches batches and writes them.
func (r *run) consume(ctx context.Context, batches <-chan []piece, rooms chan []byte) error {
	for batch := range batches {
		for len(batch) > 0 {
			n, err := r.restoreBatch(ctx, batch, rooms)
			if err != nil {
				return err
			}
			batch = batch[n:]
		}
	}
	return nil
}

// restoreBatch fetches what a batch needs, waits for its turn to decompress,
// and writes. It gives the number of pieces written: a fetch holds so much only.
func (r *run) restoreBatch(ctx context.Context, batch []piece, rooms chan []byte) (int, error) {
	if ctx.Err() != nil {
		return 0, context.Cause(ctx)
	}
	extents := make([]repo.Extent, len(batch))
	for i, p := range batch {
		extents[i] = p.extent
	}
	fetched, err := r.backup.Fetch(ctx, extents)
	if err != nil {
		return 0, fmt.Errorf("read backup %s: %w", r.backup.Header().Label, err)
	}
	defer fetched.Release()
	var room []byte
	select {
	case room = <-rooms:
	case <-ctx.Done():
		return 0, context.Cause(ctx)
	}
	defer func() { rooms <- room }()
	for i, p := range batch[:fetched.Len()] {
		if err := ctx.Err(); err != nil {
			return 0, context.Cause(ctx)
		}
		if err := r.write(p, func(dst []byte) error { return fetched.Read(i, dst) }, &room); err != nil {
			return 0, err
		}
	}
	return fetched.Len(), nil
}

// write reads a piece that was fetched and puts it into its file; zeros are
// left out, so that they become a hole.
func (r *run) write(p piece, read func(dst []byte) error, room *[]byte) error {
	if err := p.out.open(); err != nil {
		return err
	}
	if p.index >= 0 && !p.extent.Zero {
		if int64(cap(*room)) < p.extent.Length {
			*room = make([]byte, max(p.extent.Length, extentSize))
		}
		data := (*room)[:p.extent.Length]
		if err := read(data); err != nil {
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
