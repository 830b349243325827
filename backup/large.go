package backup

import (
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"sync/atomic"

	"github.com/pgbak/pgbak/internal/crc32c"
	"github.com/pgbak/pgbak/internal/postgres"
	"github.com/pgbak/pgbak/repo"
)

// openFile is a larger file while workers read it.
type openFile struct {
	c      *copier
	item   item
	f      *os.File
	size   int64 // when it was opened: what is added later comes from WAL
	rel    postgres.RelationFile
	verify bool
	end    int64        // where the file ends: less than size when it was truncated meanwhile
	open   atomic.Int32 // tasks that have not read yet
	failed atomic.Bool  // a page failed its checksum
}

// openLarge opens a file; nil when it has vanished: then it was dropped after
// the backup began, and replay of WAL drops it again.
func (c *copier) openLarge(it item) (*openFile, error) {
	f, err := os.Open(it.name)
	if errors.Is(err, fs.ErrNotExist) {
		return nil, nil
	}
	if err != nil {
		return nil, fmt.Errorf("open %s: %w", it.file.Path, err)
	}
	info, err := f.Stat()
	if err != nil {
		_ = f.Close()
		return nil, fmt.Errorf("read %s: %w", it.file.Path, err)
	}
	o := &openFile{c: c, item: it, f: f, size: info.Size(), end: info.Size()}
	o.item.file.ModTime = info.ModTime()
	o.rel, o.verify = postgres.ParseRelationPath(it.file.Path)
	o.verify = o.verify && c.control.ChecksumVersion != 0
	return o, nil
}

// close closes the file after its last task.
func (o *openFile) close() {
	if o.open.Add(-1) == 0 {
		_ = o.f.Close() // opened for reading: nothing can be lost
	}
}

// readAt fills raw and verifies its pages; it gives how much of it there was.
func (o *openFile) readAt(ctx context.Context, way string, raw []byte, offset int64) (int, error) {
	if err := o.c.throttle.wait(ctx, int64(len(raw))); err != nil {
		return 0, err
	}
	n, err := o.f.ReadAt(raw, offset)
	if err != nil && err != io.EOF {
		return 0, fmt.Errorf("read %s at %d: %w", o.item.file.Path, offset, err)
	}
	o.c.uses.add(way, 0, 0, int64(n))
	if !o.verify {
		return n, nil
	}
	p := pageReader{c: o.c, f: o.f, path: o.item.file.Path, rel: o.rel}
	bad, err := p.check(ctx, raw[:n], offset)
	if bad {
		o.failed.Store(true)
	}
	return n, err
}

// largeFile is a file that is read as a whole, on its way in chunks.
type largeFile struct {
	*openFile
	writers []*repo.FileWriter
}

// largeFile opens a file and sends its chunks.
func (c *copier) largeFile(ctx context.Context, it item) error {
	o, err := c.openLarge(it)
	if o == nil {
		return err
	}
	c.uses.add(WayFull, 1, o.size, 0)
	return (&largeFile{openFile: o}).send(ctx)
}

// send sends the chunks and, behind them, the end of the file.
func (l *largeFile) send(ctx context.Context) error {
	chunk := chunkWindows * l.c.frameBytes()
	count := (l.size + chunk - 1) / chunk
	l.open.Store(int32(count) + 1)
	defer l.close() // the dispatcher's own hold
	l.writers = make([]*repo.FileWriter, len(l.c.to.all))
	for i, d := range l.c.to.all {
		if !d.failed.Load() { // else it may have no writer, and nothing is asked of it any more
			l.writers[i] = d.writer.BeginFile()
		}
	}
	for n := range count {
		offset := n * chunk
		length := min(chunk, l.size-offset)
		var windows []repo.Window
		var crc uint32
		var got int64
		t := &task{read: func(ctx context.Context, framers *repo.Framers, b *batch) (err error) {
			defer l.close()
			windows, crc, got, err = l.read(ctx, framers, b, offset, length)
			return err
		}, commit: func(i int, _ *destination) error {
			if offset >= l.end {
				return nil
			}
			if got < length {
				l.end = offset + got
			}
			count := len(windows) / len(l.writers)
			return l.writers[i].Add(windows[i*count:][:count], crc)
		}}
		if err := l.c.send(ctx, t); err != nil {
			return err
		}
	}
	return l.c.send(ctx, &task{commit: l.finish})
}

// finish adds the file to one of the backups.
func (l *largeFile) finish(i int, _ *destination) error {
	l.item.file.PageErrors = l.failed.Load()
	return l.writers[i].End(l.item.file, l.item.parents[i])
}

// read reads one chunk, verifies its pages and frames its windows: those of the
// first repository, then those of the second, and so on.
func (l *largeFile) read(ctx context.Context, framers *repo.Framers, b *batch, offset, length int64) ([]repo.Window, uint32, int64, error) {
	n, err := l.readAt(ctx, WayFull, b.raw[:length], offset)
	if err != nil {
		return nil, 0, 0, err
	}
	raw := b.raw[:n]
	frame := l.c.frameBytes()
	count := int((int64(len(raw)) + frame - 1) / frame)
	windows := make([]repo.Window, count*len(l.writers))
	b.out = b.out[:0]
	for k := range count {
		at := int64(k) * frame
		part := raw[at:min(at+frame, int64(len(raw)))]
		zero := postgres.IsZero(part)
		var framed []repo.Window
		if !zero {
			b.out, framed, err = framers.Window(ctx, b.out, part, l.item.file.Path, (offset+at)/frame, l.c.pageSize, l.item.parents)
			if err != nil {
				return nil, 0, 0, fmt.Errorf("frame %s at %d: %w", l.item.file.Path, offset+at, err)
			}
		}
		for i := range l.writers {
			if zero {
				windows[i*count+k] = repo.Zero(len(part), l.c.pageSize)
			} else {
				windows[i*count+k] = framed[i]
			}
		}
	}
	return windows, crc32c.Update(0, raw), int64(n), nil
}
