package backup

import (
	"archive/tar"
	"bytes"
	"context"
	"crypto/sha256"
	"errors"
	"fmt"
	"hash"
	"io"
	"path/filepath"
	"strings"

	"github.com/pgbak/pgbak/internal/crc32c"
	"github.com/pgbak/pgbak/internal/postgres"
	"github.com/pgbak/pgbak/internal/postgres/server"
	"github.com/pgbak/pgbak/repo"
)

// tarSource makes tasks of the tar archives of a base backup. An archive can
// only be read in order, so its content goes into batches here, and workers do
// the rest.
type tarSource struct {
	s       *streamedFiles
	c       *copier
	exclude excluder
	sum     *fileSum

	in     *tar.Reader
	prefix string // of the paths of the archive at hand
	crc    uint32 // of what was read of the file at hand

	group     *batch // small files that await their task; nil when there are none
	groupEnd  int    // of what is used of its raw
	groupList []smallFile
}

// maxLate bounds the files that are kept in memory: tablespace_map has a line
// for each tablespace.
const maxLate = 16 << 20

func newTarSource(s *streamedFiles, c *copier) *tarSource {
	return &tarSource{s: s, c: c, exclude: excluder{user: s.o.Exclude}}
}

// archive reads one archive.
func (t *tarSource) archive(ctx context.Context, a server.BackupArchive, content io.Reader) error {
	t.in, t.prefix = tar.NewReader(content), ""
	if a.OID != 0 {
		dir := fmt.Sprintf("pg_tblspc/%d", a.OID)
		t.prefix = dir + "/"
		if err := t.tablespace(ctx, dir, a.Location); err != nil {
			return err
		}
	}
	for {
		h, err := t.in.Next()
		if errors.Is(err, io.EOF) {
			return nil
		}
		if err != nil {
			return fmt.Errorf("archive of the base backup: %w", err)
		}
		path := t.prefix + strings.TrimSuffix(strings.TrimPrefix(h.Name, "./"), "/")
		if err := t.entry(ctx, path, h); err != nil {
			return err
		}
	}
}

// tablespace adds what pg_tblspc has for a tablespace, which is not sent when
// tablespace_map is: a link, or a directory if it is in place.
func (t *tarSource) tablespace(ctx context.Context, path, location string) error {
	f := repo.File{Path: path, Type: repo.TypeLink, LinkTarget: location, Mode: 0o700, ModTime: t.s.header.Start.Time}
	if !filepath.IsAbs(location) {
		f.Type, f.LinkTarget = repo.TypeDir, ""
	}
	if t.excluded(path) {
		return nil
	}
	return t.path(ctx, f)
}

func (t *tarSource) entry(ctx context.Context, path string, h *tar.Header) error {
	if path == "" || path == "." {
		return nil
	}
	f := repo.File{Path: path, Mode: h.FileInfo().Mode().Perm(), ModTime: h.ModTime, Owner: h.Uname, Group: h.Gname}
	switch h.Typeflag {
	case tar.TypeReg:
		f.Type, f.Size = repo.TypeFile, h.Size
		return t.file(ctx, f)
	case tar.TypeDir:
		f.Type = repo.TypeDir
		if !t.excluded(path) && !t.left(path) {
			return t.path(ctx, f)
		}
	case tar.TypeSymlink:
		if !strings.HasPrefix(path, "pg_tblspc/") { // those have been added
			t.s.warn("link %s to %s is left out: what it leads to is not sent", path, h.Linkname)
		}
	default:
		t.s.warn("%s is left out: it is neither a file nor a directory", path)
	}
	return nil
}

// excluded tells that a path, or a directory above it, is left out.
func (t *tarSource) excluded(path string) bool {
	for at := 0; at < len(path); {
		end := strings.IndexByte(path[at:], '/')
		if end < 0 {
			end = len(path) - at
		}
		if t.exclude.excluded(path[:at+end], path[at:at+end], nil) {
			return true
		}
		at += end + 1
	}
	return false
}

// left tells that a path cannot be in a backup, and warns of it.
func (t *tarSource) left(path string) bool {
	err := repo.CheckPath(path)
	if err != nil {
		t.s.warn("%s is left out: %v", path, err)
	}
	return err != nil
}

// file takes a file, whose content follows.
func (t *tarSource) file(ctx context.Context, f repo.File) error {
	t.crc = 0
	name, size := f.Path, f.Size
	if err := t.content(ctx, f); err != nil {
		return err
	}
	if err := t.skip(); err != nil {
		return fmt.Errorf("receive %s: %w", name, err)
	}
	t.sum.add(name, size, t.crc)
	return nil
}

// content does with a file what it is for.
func (t *tarSource) content(ctx context.Context, f repo.File) error {
	late := &t.s.late
	switch f.Path {
	case controlPath:
		return t.keep(&late.control, f)
	case "backup_label":
		late.owner, late.group = f.Owner, f.Group
		return t.keep(&late.label, f)
	case "tablespace_map":
		return t.keep(&late.tablespaceMap, f)
	}
	path, incremental := f.Path, false
	if t.s.changes.incremental {
		path, incremental = changedPath(f.Path)
		f.Path = path
	}
	switch {
	case t.excluded(path) || t.left(path):
		return nil
	case incremental:
		return t.incrementalFile(ctx, f)
	case f.Size >= smallWindows*t.c.frameBytes():
		return t.largeFile(ctx, f)
	}
	return t.smallFile(ctx, f)
}

// changedPath gives the path of the relation of which a file holds changed pages
// only. Others of such a name are the user's, and complete.
func changedPath(path string) (string, bool) {
	whole, ok := postgres.IncrementalPath(path)
	if _, relation := postgres.ParseRelationPath(whole); ok && relation {
		return whole, true
	}
	return path, false
}

func (t *tarSource) keep(into *[]byte, f repo.File) error {
	if f.Size > maxLate {
		return fmt.Errorf("%s from the server has %d bytes", f.Path, f.Size)
	}
	*into = make([]byte, f.Size)
	return t.fill(*into)
}

// fill reads the next bytes of the file at hand.
func (t *tarSource) fill(p []byte) error {
	_, err := io.ReadFull(t.in, p)
	t.crc = crc32c.Update(t.crc, p)
	if errors.Is(err, io.EOF) {
		err = io.ErrUnexpectedEOF
	}
	return err
}

// Read reads the file at hand as it comes.
func (t *tarSource) Read(p []byte) (int, error) {
	n, err := t.in.Read(p)
	t.crc = crc32c.Update(t.crc, p[:n])
	return n, err
}

// skip reads what is left of the file at hand.
func (t *tarSource) skip() error {
	_, err := io.Copy(io.Discard, struct{ io.Reader }{t})
	return err
}

// fileSum is the sum of a sequence of files with their checksums.
type fileSum struct {
	hash  hash.Hash
	files int
}

func newFileSum() fileSum { return fileSum{hash: sha256.New()} }

func (s *fileSum) add(path string, size int64, crc uint32) {
	s.files++
	fmt.Fprintf(s.hash, "%q %d %08x\n", path, size, crc)
}

func (s fileSum) equal(other fileSum) bool {
	return bytes.Equal(s.hash.Sum(nil), other.hash.Sum(nil))
}
