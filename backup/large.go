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

// largeFile is a file on its way through the pipeline in chunks.
type largeFile struct {
	c      *copier
	item   item
	f      *os.File
	size   int64 // when it was opened: what is added later comes from WAL
	parent *repo.ParentFile
	rel    postgres.RelationFile
	verify bool
	writer *repo.FileWriter
	open   atomic.Int32 // chunks not yet read
	ended  bool         // a chunk was short: the file was truncated meanwhile
	failed atomic.Bool  // a page failed its checksum
}

// largeFile opens a file and sends its chunks. A file that has vanished was
// dropped after the backup began; replay of WAL drops it again.
func (c *copier) largeFile(ctx context.Context, it item) error {
	f, err := os.Open(it.name)
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	if err != nil {
		return fmt.Errorf("open %s: %w", it.file.Path, err)
	}
	info, err := f.Stat()
	if err != nil {
		_ = f.Close()
		return fmt.Errorf("read %s: %w", it.file.Path, err)
	}
	l := &largeFile{c: c, item: it, f: f, size: info.Size(), parent: c.w.Parent().Find(ctx, it.file.Path)}
	l.item.file.ModTime = info.ModTime()
	l.rel, l.verify = postgres.ParseRelationPath(it.file.Path)
	l.verify = l.verify && c.control.ChecksumVersion != 0
	return l.send(ctx)
}

// send sends the chunks and, behind them, the end of the file.
func (l *largeFile) send(ctx context.Context) error {
	chunk := chunkWindows * l.c.frameBytes()
	count := (l.size + chunk - 1) / chunk
	l.open.Store(int32(count) + 1)
	defer l.close() // the dispatcher's own hold
	l.writer = l.c.w.BeginFile()
	for n := range count {
		offset := n * chunk
		length := min(chunk, l.size-offset)
		var windows []repo.Window
		var crc uint32
		var got int64
		t := &task{read: func(ctx context.Context, framer *repo.Framer, b *batch) (err error) {
			defer l.close()
			windows, crc, got, err = l.read(ctx, framer, b, offset, length)
			return err
		}, commit: func() error {
			if l.ended {
				return nil
			}
			l.ended = got < length
			return l.writer.Add(windows, crc)
		}}
		if err := l.c.send(ctx, t); err != nil {
			return err
		}
	}
	return l.c.send(ctx, &task{read: func(context.Context, *repo.Framer, *batch) error { return nil }, commit: l.end})
}

// close closes the file after its last chunk.
func (l *largeFile) close() {
	if l.open.Add(-1) == 0 {
		_ = l.f.Close() // opened for reading: nothing can be lost
	}
}

func (l *largeFile) end() error {
	l.item.file.PageErrors = l.failed.Load()
	return l.writer.End(l.item.file, l.parent)
}

// read reads one chunk, verifies its pages and frames its windows.
func (l *largeFile) read(ctx context.Context, framer *repo.Framer, b *batch, offset, length int64) ([]repo.Window, uint32, int64, error) {
	raw := b.raw[:length]
	n, err := l.f.ReadAt(raw, offset)
	if err != nil && err != io.EOF {
		return nil, 0, 0, fmt.Errorf("read %s at %d: %w", l.item.file.Path, offset, err)
	}
	raw = raw[:n]
	if l.verify {
		if err := l.checkPages(ctx, raw, offset); err != nil {
			return nil, 0, 0, err
		}
	}
	windows := make([]repo.Window, 0, chunkWindows)
	frame := l.c.frameBytes()
	b.out = b.out[:0]
	for at := int64(0); at < int64(len(raw)); at += frame {
		part := raw[at:min(at+frame, int64(len(raw)))]
		if postgres.IsZero(part) {
			windows = append(windows, repo.Zero(len(part), l.c.pageSize))
			continue
		}
		var w repo.Window
		b.out, w, err = framer.Window(ctx, b.out, part, l.item.file.Path, (offset+at)/frame, l.c.pageSize, l.parent)
		if err != nil {
			return nil, 0, 0, fmt.Errorf("frame %s at %d: %w", l.item.file.Path, offset+at, err)
		}
		windows = append(windows, w)
	}
	return windows, crc32c.Update(0, raw), int64(n), nil
}

func (l *largeFile) checkPages(ctx context.Context, raw []byte, offset int64) error {
	p := pageReader{c: l.c, f: l.f, path: l.item.file.Path, rel: l.rel}
	bad, err := p.check(ctx, raw, offset)
	if bad {
		l.failed.Store(true)
	}
	return err
}
