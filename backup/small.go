package backup

import (
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"

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
	parents := make([]*repo.ParentFile, len(group))
	for i, it := range group {
		if it.file.Type == repo.TypeFile {
			parents[i] = c.w.Parent().Find(ctx, it.file.Path)
		}
	}
	var files []repo.File
	var content []repo.Small
	var bundle repo.Bundle
	return c.send(ctx, &task{
		read: func(ctx context.Context, framer *repo.Framer, b *batch) (err error) {
			files, content, bundle, err = c.readGroup(ctx, framer, b, group, parents)
			return err
		},
		commit: func() error { return c.w.AddSmall(files, content, bundle) },
	})
}

// readGroup reads the files of a group, looks each up in the parent and
// bundles those that are new.
func (c *copier) readGroup(ctx context.Context, framer *repo.Framer, b *batch, group []item, parents []*repo.ParentFile) ([]repo.File, []repo.Small, repo.Bundle, error) {
	var files []repo.File
	var content []repo.Small
	raw := b.raw[:0]
	for i, it := range group {
		if it.file.Type != repo.TypeFile || it.file.Size == 0 {
			files, content = append(files, it.file), append(content, repo.Small{})
			continue
		}
		data, file, err := c.readSmall(ctx, it, b.raw[len(raw):len(raw)+int(it.file.Size)])
		if errors.Is(err, fs.ErrNotExist) {
			continue // dropped after the backup began
		}
		if err != nil {
			return nil, nil, repo.Bundle{}, err
		}
		small := repo.Small{}
		if len(data) > 0 {
			small = framer.Small(ctx, data, file.Path, parents[i])
		}
		files, content = append(files, file), append(content, small)
		if !small.Reused() {
			raw = b.raw[:len(raw)+len(data)]
		}
	}
	var bundle repo.Bundle
	var err error
	b.out, bundle, err = framer.Bundle(b.out[:0], raw, content)
	return files, content, bundle, err
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
