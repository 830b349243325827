package backup

import (
	"context"
	"fmt"
	"slices"
	"sync/atomic"

	"github.com/pgbak/pgbak/internal/crc32c"
	"github.com/pgbak/pgbak/internal/postgres"
	"github.com/pgbak/pgbak/repo"
)

// smallFile is a path of a group; its content lies in the group's batch.
type smallFile struct {
	file    repo.File
	from    int
	parents []*repo.ParentFile
}

// path adds a directory or a link to the group.
func (t *tarSource) path(ctx context.Context, f repo.File) error {
	return t.member(ctx, smallFile{file: f, parents: make([]*repo.ParentFile, len(t.c.to.all))})
}

// smallFile reads a file into the group.
func (t *tarSource) smallFile(ctx context.Context, f repo.File) error {
	return t.member(ctx, smallFile{file: f, parents: t.c.find(ctx, f.Path)})
}

// member adds to the group and reads the content, if there is any.
func (t *tarSource) member(ctx context.Context, m smallFile) (err error) {
	size := int(m.file.Size)
	if t.group != nil && (int64(t.groupEnd+size) > t.c.frameBytes() || len(t.groupList) == maxGroup) {
		if err := t.closeGroup(ctx); err != nil {
			return err
		}
	}
	if t.group == nil {
		if t.group, err = t.c.freeBatch(ctx); err != nil {
			return err
		}
	}
	m.from = t.groupEnd
	if err := t.fill(t.c.room(t.group)[m.from:][:size]); err != nil {
		return fmt.Errorf("receive %s: %w", m.file.Path, err)
	}
	t.groupEnd += size
	t.groupList = append(t.groupList, m)
	return nil
}

// closeGroup sends the group as one task.
func (t *tarSource) closeGroup(ctx context.Context) error {
	if t.group == nil {
		return nil
	}
	b, list := t.group, t.groupList
	t.group, t.groupEnd, t.groupList = nil, 0, nil
	files := make([]repo.File, len(list))
	content := make([][]repo.Small, len(t.c.to.all))
	var bundles []repo.Bundle
	return t.c.hand(ctx, &task{batch: b, read: func(ctx context.Context, framers *repo.Framers, b *batch) (err error) {
		end := 0 // of what some repository lacks, side by side
		for n, m := range list {
			data, smalls, wanted := b.raw[m.from:][:m.file.Size], make([]repo.Small, len(content)), false
			if len(data) > 0 {
				m.file.PageErrors = t.check(m.file.Path, data, pagesFrom(0))
				m.file.HasCRC, m.file.CRC32C = true, crc32c.Update(0, data)
				smalls, wanted = framers.Small(ctx, data, m.file.Path, m.parents)
				t.c.uses.add(WayFull, 1, m.file.Size, m.file.Size)
			}
			if wanted {
				end += copy(b.raw[end:], data)
			}
			files[n] = m.file
			for i, s := range smalls {
				content[i] = append(content[i], s)
			}
		}
		b.out, bundles, err = framers.Bundle(b.out[:0], b.raw[:end], content)
		bundles = slices.Clone(bundles)
		return err
	}, commit: func(i int, d *destination) error {
		return d.writer.AddSmall(slices.Clone(files), content[i], bundles[i])
	}})
}

// streamedFile is a larger file while it comes.
type streamedFile struct {
	t       *tarSource
	file    repo.File
	parents []*repo.ParentFile
	way     string
	patched []*repo.PatchedFile
	missing []error     // why a repository lacks what the server leaves out: it has no backup then
	failed  atomic.Bool // a page failed its checksum
}

func (t *tarSource) newFile(ctx context.Context, f repo.File, way string) *streamedFile {
	return &streamedFile{t: t, file: f, parents: t.c.find(ctx, f.Path), way: way,
		patched: make([]*repo.PatchedFile, len(t.c.to.all)), missing: make([]error, len(t.c.to.all))}
}

// writer is the file in one of the backups. Files are written one after the
// other, so it is begun when its first task is committed.
func (f *streamedFile) writer(i int, d *destination) (*repo.PatchedFile, error) {
	if f.patched[i] == nil && f.missing[i] == nil {
		f.patched[i] = d.writer.PatchFile(f.parents[i])
	}
	return f.patched[i], f.missing[i]
}

// finish sends the end of the file behind its content.
func (f *streamedFile) finish(ctx context.Context, bytes int64) error {
	f.t.c.uses.add(f.way, 1, bytes, 0)
	f.file.Size = bytes
	return f.t.c.send(ctx, &task{
		commit: func(i int, d *destination) error {
			file := f.file
			file.PageErrors = f.failed.Load()
			w, err := f.writer(i, d)
			if err == nil {
				err = w.End(file)
			}
			return err
		},
	})
}

// largeFile reads a file that comes as a whole. Where there is a parent to
// compare with, only its pages that have changed are stored.
func (t *tarSource) largeFile(ctx context.Context, file repo.File) error {
	f := t.newFile(ctx, file, t.c.changes.way)
	compare := f.way != WayFull
	if compare && !slices.ContainsFunc(f.parents, (*repo.ParentFile).Mapped) {
		f.way = WayFull // there is nothing to compare with
	}
	chunk := chunkWindows * t.c.frameBytes()
	for offset := int64(0); offset < file.Size; offset += chunk {
		b, err := t.c.freeBatch(ctx)
		if err != nil {
			return err
		}
		raw := t.c.room(b)[:min(chunk, file.Size-offset)]
		if err := t.fill(raw); err != nil {
			return fmt.Errorf("receive %s at %d: %w", file.Path, offset, err)
		}
		var patches []repo.Patch
		var crc uint32
		err = t.c.hand(ctx, &task{batch: b, read: func(ctx context.Context, framers *repo.Framers, b *batch) (err error) {
			crc = crc32c.Update(0, raw)
			patches, err = f.frame(ctx, framers, b, raw, offset, compare)
			return err
		}, commit: func(i int, d *destination) error {
			w, err := f.writer(i, d)
			if err != nil {
				return err
			}
			w.AddCRC(crc, int64(len(raw)))
			return w.Patch(patches[i])
		}})
		if err != nil {
			return err
		}
	}
	return f.finish(ctx, file.Size)
}

// frame verifies and frames whole windows.
func (f *streamedFile) frame(ctx context.Context, framers *repo.Framers, b *batch, raw []byte, offset int64, compare bool) ([]repo.Patch, error) {
	c := f.t.c
	c.uses.add(f.way, 0, 0, int64(len(raw)))
	if f.t.check(f.file.Path, raw, pagesFrom(offset/int64(c.pageSize))) {
		f.failed.Store(true)
	}
	stretch := framers.Stretch(b.out[:0], f.file.Path, c.pageSize, f.parents)
	number := offset / c.frameBytes()
	for window := range slices.Chunk(raw, int(c.frameBytes())) {
		if err := stretch.Window(ctx, number, window, ^repo.PageSet(0), true, compare); err != nil {
			return nil, err
		}
		number++
	}
	var patches []repo.Patch
	var err error
	b.out, patches, err = stretch.End()
	return patches, err
}

// pagesFrom numbers pages that lie side by side.
func pagesFrom(first int64) func(int) int64 {
	return func(n int) int64 { return first + int64(n) }
}

// check verifies the whole pages of a relation and tells whether one is damaged;
// page gives their numbers in the file. A page that the server changed after the
// backup began may have come half written: WAL brings it whole. Others were read
// again by the server if their checksum was wrong.
func (t *tarSource) check(path string, raw []byte, page func(int) int64) (bad bool) {
	rel, ok := postgres.ParseRelationPath(path)
	if !ok || t.c.control.ChecksumVersion == 0 {
		return false
	}
	size := t.c.pageSize
	for n := 0; (n+1)*size <= len(raw); n++ {
		content := raw[n*size:][:size]
		block := rel.Segment*uint32(t.c.control.SegmentBlocks) + uint32(page(n))
		if postgres.CheckPage(content, block) != postgres.PageInvalid || postgres.PageLSN(content) >= t.s.header.Start.LSN {
			continue
		}
		bad = true
		t.c.errors.add(path, block)
		t.c.o.Log.Warn("page checksum is wrong", "file", path, "block", block)
	}
	return bad
}
