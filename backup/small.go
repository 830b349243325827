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
	parents := make([][]*repo.ParentFile, len(group))
	for n, it := range group {
		if it.file.Type == repo.TypeFile {
			parents[n] = c.find(ctx, it.file.Path)
		}
	}
	var files []repo.File
	var content [][]repo.Small
	var bundles []repo.Bundle
	return c.send(ctx, &task{
		read: func(ctx context.Context, framers *repo.Framers, b *batch) (err error) {
			files, content, bundles, err = c.readGroup(ctx, framers, b, group, parents)
			return err
		},
		commit: func(i int, d *destination) error { return d.writer.AddSmall(files, content[i], bundles[i]) },
	})
}

// readGroup reads the files of a group, looks each up in the parents and
// bundles those that are new. Content and bundles are those of each repository.
func (c *copier) readGroup(ctx context.Context, framers *repo.Framers, b *batch, group []item, parents [][]*repo.ParentFile) ([]repo.File, [][]repo.Small, []repo.Bundle, error) {
	var files []repo.File
	content := make([][]repo.Small, len(c.to.all))
	nothing := make([]repo.Small, len(c.to.all))
	raw := b.raw[:0]
	for n, it := range group {
		file, smalls, wanted := it.file, nothing, false
		if file.Type == repo.TypeFile && file.Size > 0 {
			var data []byte
			var err error
			data, file, err = c.readSmall(ctx, it, b.raw[len(raw):len(raw)+int(it.file.Size)])
			if errors.Is(err, fs.ErrNotExist) {
				continue // dropped after the backup began
			}
			if err != nil {
				return nil, nil, nil, err
			}
			if len(data) > 0 {
				smalls, wanted = framers.Small(ctx, data, file.Path, parents[n])
			}
			if wanted {
				raw = b.raw[:len(raw)+len(data)]
			}
		}
		files = append(files, file)
		for i, s := range smalls {
			content[i] = append(content[i], s)
		}
	}
	var err error
	var bundles []repo.Bundle
	b.out, bundles, err = framers.Bundle(b.out[:0], raw, content)
	return files, content, slices.Clone(bundles), err
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
	if rel, ok := postgres.ParseRelationPath(file.Path); ok && c.control.ChecksumVersion != 0 {
		p := pageReader{c: c, f: f, path: file.Path, rel: rel}
		if file.PageErrors, err = p.check(ctx, data, 0); err != nil {
			return nil, file, err
		}
	}
	file.Size, file.HasCRC, file.CRC32C = int64(n), true, crc32c.Update(0, data)
	return data, file, nil
}
