package backup

import (
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"slices"

	"github.com/pgbak/pgbak/internal/crc32c"
	"github.com/pgbak/pgbak/internal/postgres"
	"github.com/pgbak/pgbak/repo"
)

// closeGroup sends the small files gathered so far as one task. Directories,
// links and empty files go along, to keep the order of the walk.
func (c *copier) closeGroup(ctx context.Context) error {
	if len(c.group) == 0 {
		return nil
	}
	group := c.group
	c.group, c.groupSize = nil, 0
	var r groupRead
	return c.send(ctx, &task{
		read: func(ctx context.Context, framers *repo.Framers, b *batch) (err error) {
			r, err = c.readGroup(ctx, framers, b, group)
			return err
		},
		commit: func(i int, d *destination) error {
			return d.writer.AddSmall(r.filesOf(i), r.content[i], r.bundles[i])
		},
	})
}

// groupRead is a group of small files that was read: content and bundle of each
// repository.
type groupRead struct {
	items   []item
	content [][]repo.Small
	bundles []repo.Bundle
}

// filesOf gives the entries for repository i: of what is kept, the parent says
// what the content is.
func (r groupRead) filesOf(i int) []repo.File {
	files := make([]repo.File, len(r.items))
	for n, it := range r.items {
		files[n] = it.file
		if it.kept {
			old := it.parents[i].File()
			files[n].CRC32C, files[n].HasCRC, files[n].PageErrors = old.CRC32C, old.HasCRC, old.PageErrors
		}
	}
	return files
}

// keepSmall tells that a small file is taken from the parents unread.
func (c *copier) keepSmall(it item) bool {
	if it.file.Type != repo.TypeFile || it.file.Size == 0 {
		return false
	}
	parents := c.live(it.parents)
	sets, ok := c.suspects(it.file.Path, it.file.Size, parents)
	if !ok || !unchanged(sets, it.file.Size, parents) || slices.ContainsFunc(parents, (*repo.ParentFile).Mapped) {
		return false
	}
	c.uses.add(c.changes.way, 1, it.file.Size, 0)
	return true
}

// readGroup reads the files of a group, looks each up in the parents and
// bundles those that are new.
func (c *copier) readGroup(ctx context.Context, framers *repo.Framers, b *batch, group []item) (groupRead, error) {
	r := groupRead{content: make([][]repo.Small, len(c.to.all))}
	raw := b.raw[:0]
	for _, it := range group {
		smalls, wanted := make([]repo.Small, len(c.to.all)), false
		switch {
		case it.kept:
			for i, p := range it.parents {
				if p != nil {
					smalls[i], _ = p.Keep()
				}
			}
		case it.file.Type == repo.TypeFile && it.file.Size > 0:
			data, file, err := c.readSmall(ctx, it, b.raw[len(raw):len(raw)+int(it.file.Size)])
			if errors.Is(err, fs.ErrNotExist) {
				continue // dropped after the backup began
			}
			if err != nil {
				return r, err
			}
			it.file = file
			if len(data) > 0 {
				smalls, wanted = framers.Small(ctx, data, file.Path, it.parents)
			}
			if wanted {
				raw = b.raw[:len(raw)+len(data)]
			}
		}
		r.items = append(r.items, it)
		for i, s := range smalls {
			r.content[i] = append(r.content[i], s)
		}
	}
	var err error
	b.out, r.bundles, err = framers.Bundle(b.out[:0], raw, r.content)
	r.bundles = slices.Clone(r.bundles)
	return r, err
}

// readSmall reads a file into buf, at most as much of it as there was when the
// walk met it, and verifies its pages.
func (c *copier) readSmall(ctx context.Context, it item, buf []byte) ([]byte, repo.File, error) {
	file := it.file
	f, err := os.Open(it.name)
	if err != nil {
		return nil, file, fmt.Errorf("open %s: %w", file.Path, err)
	}
	defer f.Close()
	if err := c.throttle.wait(ctx, int64(len(buf))); err != nil {
		return nil, file, err
	}
	n, err := io.ReadFull(f, buf)
	if err != nil && err != io.EOF && err != io.ErrUnexpectedEOF {
		return nil, file, fmt.Errorf("read %s: %w", file.Path, err)
	}
	data := buf[:n]
	c.uses.add(WayFull, 1, int64(n), int64(n))
	if rel, ok := postgres.ParseRelationPath(file.Path); ok && c.control.ChecksumVersion != 0 {
		p := pageReader{c: c, f: f, path: file.Path, rel: rel}
		if file.PageErrors, err = p.check(ctx, data, 0); err != nil {
			return nil, file, err
		}
	}
	file.Size, file.HasCRC, file.CRC32C = int64(n), true, crc32c.Update(0, data)
	return data, file, nil
}
