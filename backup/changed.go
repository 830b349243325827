package backup

import (
	"context"
	"slices"

	"github.com/pgbak/pgbak/internal/crc32c"
	"github.com/pgbak/pgbak/repo"
)

const (
	// taskPages is how many pages a task reads of a file whose changed pages are known.
	taskPages = chunkWindows * repo.PagesPerFrame
	// compareWindows is how many windows a task reads and compares: changed
	// pages of all of them share delta frames.
	compareWindows = 4 * chunkWindows
)

// changedFile is a larger file of which only what has changed is stored.
type changedFile struct {
	*openFile
	way     string
	compare bool // all of it is read and compared with the parents
	patched []*repo.PatchedFile
}

// window is what a task reads of one window of a file.
type window struct {
	number  int64
	changed repo.PageSet // pages that may have changed
	whole   bool         // the others are read, too
}

// changedFile sends a larger file: nothing of it, some pages, or all of it.
func (c *copier) changedFile(ctx context.Context, it item) error {
	parents := c.live(it.parents)
	sets, known := c.suspects(it.file.Path, it.file.Size, parents)
	if known && unchanged(sets, it.file.Size, parents) && len(c.windows(sets, parents)) == 0 {
		return c.keepLarge(ctx, it)
	}
	o, err := c.openLarge(it)
	if o == nil {
		return err
	}
	if o.size != it.file.Size {
		sets, known = c.suspects(it.file.Path, o.size, parents)
	}
	f := &changedFile{openFile: o, way: c.changes.way, compare: !known}
	var tasks [][]window
	if known {
		tasks = f.split(c.windows(sets, parents))
	} else {
		f.way = WayPageHashes
		if !slices.ContainsFunc(parents, (*repo.ParentFile).Mapped) {
			f.way = WayFull // there is nothing to compare with
		}
		tasks = f.all()
	}
	c.uses.add(f.way, 1, o.size, 0)
	return f.send(ctx, tasks)
}

// keepLarge sends a file that is as in the parents.
func (c *copier) keepLarge(ctx context.Context, it item) error {
	c.uses.add(c.changes.way, 1, it.file.Size, 0)
	return c.send(ctx, &task{
		commit: func(i int, d *destination) error {
			return d.writer.AddUnchanged(it.file, it.parents[i])
		},
	})
}

// windows are those of which something has to be read.
func (c *copier) windows(sets []repo.PageSet, parents []*repo.ParentFile) []window {
	var list []window
	for n, set := range sets {
		if whole := repo.WholeWindow(parents, int64(n), set); whole || set != 0 {
			list = append(list, window{number: int64(n), changed: set, whole: whole})
		}
	}
	return list
}

// split cuts windows into tasks of about taskPages pages.
func (f *changedFile) split(list []window) (tasks [][]window) {
	pages, from := 0, 0
	for n, w := range list {
		if w.whole {
			pages += repo.PagesPerFrame
		} else {
			pages += w.changed.Len()
		}
		if pages >= taskPages || n == len(list)-1 {
			tasks = append(tasks, list[from:n+1])
			pages, from = 0, n+1
		}
	}
	return tasks
}

// all cuts all of the file into tasks.
func (f *changedFile) all() [][]window {
	var list []window
	for n := int64(0); n*f.c.frameBytes() < f.size; n++ {
		list = append(list, window{number: n, changed: ^repo.PageSet(0), whole: true})
	}
	return slices.Collect(slices.Chunk(list, compareWindows))
}

// send sends the tasks and, behind them, the end of the file.
func (f *changedFile) send(ctx context.Context, tasks [][]window) error {
	f.open.Store(int32(len(tasks)) + 1)
	defer f.close() // the dispatcher's own hold
	f.patched = make([]*repo.PatchedFile, len(f.c.to.all))
	for _, list := range tasks {
		var r stretchRead
		t := &task{read: func(ctx context.Context, framers *repo.Framers, b *batch) (err error) {
			defer f.close()
			r, err = f.read(ctx, framers, b, list)
			return err
		}, commit: func(i int, d *destination) error { return f.patch(i, d, list, r) }}
		if err := f.c.send(ctx, t); err != nil {
			return err
		}
	}
	return f.c.send(ctx, &task{commit: f.finish})
}

// writer is the file in one of the backups. Files are written one after the
// other, so it is begun when its first task is committed.
func (f *changedFile) writer(i int, d *destination) *repo.PatchedFile {
	if f.patched[i] == nil {
		f.patched[i] = d.writer.PatchFile(f.item.parents[i])
	}
	return f.patched[i]
}

// patch adds what a task has read to one of the backups.
func (f *changedFile) patch(i int, d *destination, list []window, r stretchRead) error {
	if list[0].number*f.c.frameBytes() >= f.end {
		return nil
	}
	f.end = min(f.end, r.end)
	file := f.writer(i, d)
	if f.compare {
		file.AddCRC(r.crc, r.length)
	}
	return file.Patch(r.patches[i])
}

// finish adds the file to one of the backups.
func (f *changedFile) finish(i int, d *destination) error {
	file := f.item.file
	file.Size, file.PageErrors = f.end, f.failed.Load()
	return f.writer(i, d).End(file)
}

// stretchRead is what a task has read: a patch for each repository.
type stretchRead struct {
	patches []repo.Patch
	end     int64  // where the file ends, as far as this task has seen
	crc     uint32 // of all that was read, when all of the file is
	length  int64
}

// read reads some windows of the file and frames what has changed.
func (f *changedFile) read(ctx context.Context, framers *repo.Framers, b *batch, list []window) (r stretchRead, err error) {
	frame := f.c.frameBytes()
	stretch := framers.Stretch(b.out[:0], f.item.file.Path, f.c.pageSize, f.item.parents)
	r.end = f.size
	for part := range slices.Chunk(list, chunkWindows) {
		if r.end, err = f.fill(ctx, b.raw, part); err != nil {
			return r, err
		}
		for k, w := range part {
			length := min(frame, r.end-w.number*frame)
			if length <= 0 {
				break
			}
			raw := b.raw[int64(k)*frame:][:length]
			if f.compare {
				r.crc, r.length = crc32c.Update(r.crc, raw), r.length+length
			}
			changed := w.changed & repo.FirstPages(f.pagesIn(length))
			if err := stretch.Window(ctx, w.number, raw, changed, w.whole, f.compare); err != nil {
				return r, err
			}
		}
		if r.end < f.size {
			break // what follows is gone
		}
	}
	b.out, r.patches, err = stretch.End()
	return r, err
}

// pagesIn is the number of pages of so many bytes, of which the last may be short.
func (f *changedFile) pagesIn(length int64) int {
	return int((length + int64(f.c.pageSize) - 1) / int64(f.c.pageSize))
}

// fill reads the pages of some windows to their places in raw, those that lie
// side by side at once, and gives where the file ends: not behind a page that
// was to be read and is not there any more.
func (f *changedFile) fill(ctx context.Context, raw []byte, part []window) (end int64, err error) {
	var run fileRun
	for k, w := range part {
		for p := range repo.PagesPerFrame {
			offset := w.number*f.c.frameBytes() + int64(p*f.c.pageSize)
			if !w.whole && !w.changed.Has(p) || offset >= f.size {
				continue
			}
			place := k*int(f.c.frameBytes()) + p*f.c.pageSize
			if run.length > 0 && (run.offset+int64(run.length) != offset || run.place+run.length != place) {
				if end, err := f.readRun(ctx, raw, run); err != nil || end < f.size {
					return end, err
				}
				run.length = 0
			}
			if run.length == 0 {
				run.offset, run.place = offset, place
			}
			run.length += int(min(int64(f.c.pageSize), f.size-offset))
		}
	}
	return f.readRun(ctx, raw, run)
}

// fileRun is bytes of a file and their place in a buffer.
type fileRun struct {
	offset        int64
	place, length int
}

// readRun reads a run and gives where the file ends as far as it has seen. A
// file that was cut ends after a whole page, if only pages of it are read.
func (f *changedFile) readRun(ctx context.Context, raw []byte, run fileRun) (end int64, err error) {
	n, err := f.readAt(ctx, f.way, raw[run.place:][:run.length], run.offset)
	if err != nil || n == run.length {
		return f.size, err
	}
	end = run.offset + int64(n)
	if !f.compare {
		end -= end % int64(f.c.pageSize)
	}
	return end, nil
}
