package backup

import (
	"cmp"
	"context"
	"errors"
	"fmt"

	"github.com/pgbak/pgbak/internal/postgres"
	"github.com/pgbak/pgbak/repo"
)

// windowsPerTask bounds a task of windows that hold next to nothing.
const windowsPerTask = 1024

// incrementalFile reads a file of which the server sends changed pages only. The
// backup's map takes the others from the parents, so that a restore does not
// have to put anything together.
func (t *tarSource) incrementalFile(ctx context.Context, file repo.File) error {
	head, err := postgres.ReadIncrementalFile(t, file.Size, t.c.pageSize, t.c.control.SegmentBlocks)
	if err != nil {
		return fmt.Errorf("receive changes of %s: %w", file.Path, err)
	}
	f := t.newFile(ctx, file, WayServerSummaries)
	length := int64(head.Length())
	fresh, err := f.freshFrom(length)
	if err != nil {
		return err
	}
	windows := cut(head.Blocks, fresh, length)
	for len(windows) > 0 {
		count, pages := 0, 0
		for count < len(windows) && count < windowsPerTask && pages+windows[count].sent.Len() <= chunkWindows*repo.PagesPerFrame {
			pages += windows[count].sent.Len()
			count++
		}
		if err := f.sendChanges(ctx, windows[:count], pages, length); err != nil {
			return fmt.Errorf("receive changes of %s: %w", file.Path, err)
		}
		windows = windows[count:]
	}
	return f.finish(ctx, length*int64(t.c.pageSize))
}

// errNotMapped is why a parent's file is of no use when nothing else is known.
var errNotMapped = errors.New("it has no map")

// freshFrom gives the page from which on nothing is the parents': there pages
// that are not sent are zero.
func (f *streamedFile) freshFrom(length int64) (int64, error) {
	c := f.t.c
	for i, p := range f.parents {
		if c.to.all[i].failed.Load() {
			continue
		}
		if !p.Mapped() { // it was when the server was told of the file
			f.missing[i] = fmt.Errorf("the server sends changes of %s, which cannot be read in the parent any more: %w", f.file.Path,
				cmp.Or(c.to.all[i].writer.Parent().Err(), errNotMapped))
			continue
		}
		length = min(length, p.File().Size/int64(c.pageSize))
	}
	rel, ok := postgres.ParseRelationPath(f.file.Path)
	if !ok {
		return 0, fmt.Errorf("the server sends changes of %s, which is no relation", f.file.Path)
	}
	if limit, known := f.t.s.changes.limits[rel.ForkID()]; known {
		length = min(length, max(0, int64(limit)-int64(rel.Segment)*int64(c.control.SegmentBlocks)))
	}
	return length, nil
}

// changedWindow is a window of which some pages are sent and some are zero.
type changedWindow struct {
	number     int64
	sent, zero repo.PageSet
}

// cut gives the windows in which something is not the parents': blocks that are
// sent, and pages from fresh up to length that are zero.
func cut(blocks []uint32, fresh, length int64) []changedWindow {
	var list []changedWindow
	at := func(page int64) *changedWindow {
		if n := page / repo.PagesPerFrame; len(list) == 0 || list[len(list)-1].number != n {
			list = append(list, changedWindow{number: n})
		}
		return &list[len(list)-1]
	}
	next := fresh
	zeros := func(to int64) {
		for ; next < to; next++ {
			at(next).zero |= 1 << (next % repo.PagesPerFrame)
		}
	}
	for _, b := range blocks {
		zeros(int64(b))
		at(int64(b)).sent |= 1 << (b % repo.PagesPerFrame)
		next = max(next, int64(b)+1)
	}
	zeros(length)
	return list
}

// sendChanges reads the pages of some windows and sends them as a task.
func (f *streamedFile) sendChanges(ctx context.Context, windows []changedWindow, pages int, length int64) error {
	c := f.t.c
	b, err := c.freeBatch(ctx)
	if err != nil {
		return err
	}
	raw := c.room(b)[:pages*c.pageSize]
	if err := f.t.fill(raw); err != nil {
		return err
	}
	var patches []repo.Patch
	return c.hand(ctx, &task{batch: b, read: func(ctx context.Context, framers *repo.Framers, b *batch) (err error) {
		patches, err = f.frameChanges(ctx, framers, b, raw, windows, length)
		return err
	}, commit: func(i int, d *destination) error {
		w, err := f.writer(i, d)
		if err == nil {
			err = w.Patch(patches[i])
		}
		return err
	}})
}

// frameChanges verifies and frames changed pages, which lie side by side in raw.
func (f *streamedFile) frameChanges(ctx context.Context, framers *repo.Framers, b *batch, raw []byte, windows []changedWindow, length int64) ([]repo.Patch, error) {
	c := f.t.c
	c.uses.add(f.way, 0, 0, int64(len(raw)))
	if f.t.check(f.file.Path, raw, sentPages(windows)) {
		f.failed.Store(true)
	}
	for i, err := range f.missing {
		if err != nil {
			framers.Drop(i) // the writer drops it for good
		}
	}
	stretch := framers.Stretch(b.out[:0], f.file.Path, c.pageSize, f.parents)
	window := make([]byte, c.frameBytes())
	for _, w := range windows {
		count := int(min(repo.PagesPerFrame, length-w.number*repo.PagesPerFrame))
		for k := range count {
			page := window[k*c.pageSize:][:c.pageSize]
			if w.sent.Has(k) {
				raw = raw[copy(page, raw):]
			} else {
				clear(page)
			}
		}
		changed := w.sent | w.zero
		if err := stretch.Window(ctx, w.number, window[:count*c.pageSize], changed, changed.Len() == count, false); err != nil {
			return nil, err
		}
	}
	var patches []repo.Patch
	var err error
	b.out, patches, err = stretch.End()
	return patches, err
}

// sentPages gives the numbers of the pages that are sent, in their order.
func sentPages(windows []changedWindow) func(int) int64 {
	var numbers []int64
	for _, w := range windows {
		for k := range repo.PagesPerFrame {
			if w.sent.Has(k) {
				numbers = append(numbers, w.number*repo.PagesPerFrame+int64(k))
			}
		}
	}
	return func(n int) int64 { return numbers[n] }
}
