package archive

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"

	"github.com/pgbak/pgbak/internal/postgres"
	"github.com/pgbak/pgbak/repo"
)

// Two standbys of one dead primary that were promoted one after the other, the
// second of which had got further, archive the unfinished segment of the old
// timeline both, under one name and with different content. An error would keep
// the second one's archiver from everything that comes after it, for the sake of
// a file that no recovery reads: a server begins its timeline with a copy of the
// unfinished segment up to the switch point, so that its own first segment
// holds all of it. Where that is proven, the conflict is a warning.

// settle says, as a warning for the server's log, why a file may be passed over
// that is not stored, since other content is archived under its name; "" if it
// may not.
func settle(ctx context.Context, s *repo.Stanza, f postgres.WALFile, file *walFile, content *repo.WALContent, conflict error) (string, error) {
	c, ok := errors.AsType[*repo.WALConflictError](conflict)
	switch {
	case !ok || c.File != filepath.Base(file.path): // it may be that of a history that the file needs
		return "", nil
	case f.Kind == postgres.WALPartial:
		return settlePartial(ctx, s, f, file, conflict)
	case f.Kind == postgres.WALSegment:
		return settleSwitched(ctx, s, f, file, content)
	}
	return "", nil
}

// settleSwitched settles the conflict of a segment that differs only behind the
// record with which the server switched to the next one. A standby of a standby
// may have such a segment, see postgres.WALInSegment.
func settleSwitched(ctx context.Context, s *repo.Stanza, f postgres.WALFile, file *walFile, content *repo.WALContent) (string, error) {
	own, err := file.whole(f, content)
	if errors.Is(err, ErrRefused) {
		return "", nil
	}
	if err != nil {
		return "", err
	}
	in, err := s.OpenWAL(ctx, s.Current(), f)
	if err != nil {
		return "", err
	}
	defer in.Close()
	archived, err := io.ReadAll(io.LimitReader(in, int64(len(own))+1))
	if err != nil || len(archived) != len(own) {
		return "", err
	}
	h, err := postgres.ParseWALHeader(archived)
	if err != nil {
		return "", nil
	}
	used, err := postgres.WALInSegment(h, f, archived)
	if err != nil {
		return "", nil
	}
	clear(archived[used:])
	if !bytes.Equal(archived, own) {
		return "", nil
	}
	return fmt.Sprintf("%s was in the archive already, with the same WAL and other bytes behind its end at byte %d, which mean nothing", filepath.Base(file.path), used), nil
}

// settlePartial says, as a warning for the server's log, why the refused partial
// segment is not needed; "" if it may be needed, or is none.
func settlePartial(ctx context.Context, s *repo.Stanza, f postgres.WALFile, file *walFile, conflict error) (string, error) {
	dir := file.dir()
	next, length, err := successor(s, dir, f)
	if err != nil || next.Timeline == 0 {
		return "", err
	}
	in, where, err := openSuccessor(ctx, s, dir, next)
	if err != nil {
		return "", err
	}
	defer in.Close()
	own, err := file.Open()
	if err != nil {
		return "", err
	}
	defer own.Close()
	if same, err := sameBytes(in, own, length); !same || err != nil {
		return "", err
	}
	return fmt.Sprintf("%v; nothing is lost: %s in %s begins with all of the WAL in it", conflict, next.Name(s.Current().SegmentSize), where), nil
}

// openSuccessor opens a segment on the server or, where it is gone, in the archive.
func openSuccessor(ctx context.Context, s *repo.Stanza, dir string, next postgres.WALFile) (io.ReadCloser, string, error) {
	file, err := look(filepath.Join(dir, next.Name(s.Current().SegmentSize)))
	if err == nil {
		return file.file, dir, nil
	}
	if !errors.Is(err, fs.ErrNotExist) {
		return nil, "", err
	}
	archived, err := s.OpenWAL(ctx, s.Current(), next)
	return archived, "the archive", err
}

// sameBytes compares the first n bytes of both.
func sameBytes(a, b io.Reader, n int64) (bool, error) {
	var x, y [comparedAtOnce]byte
	for n > 0 {
		m := min(n, comparedAtOnce)
		if _, err := io.ReadFull(a, x[:m]); err != nil {
			return false, err
		}
		if _, err := io.ReadFull(b, y[:m]); err != nil {
			return false, err
		}
		if x != y {
			return false, nil
		}
		n -= m
	}
	return true, nil
}

// successor is the segment with which the timeline begins that this server went on
// to from f's within f, and how many of its bytes are f's; the zero WALFile if it
// is not known to have done so. The server's own way is what the history of its
// newest timeline says: others in dir may be of servers that got less far.
func successor(s *repo.Stanza, dir string, f postgres.WALFile) (postgres.WALFile, int64, error) {
	entries, err := os.ReadDir(dir)
	if err != nil {
		return postgres.WALFile{}, 0, fmt.Errorf("look for timeline histories: %w", err)
	}
	size := s.Current().SegmentSize
	newest := postgres.Timeline(0)
	for _, entry := range entries {
		if named, err := postgres.ParseWALFile(entry.Name(), size); err == nil && named.Kind == postgres.WALHistory {
			newest = max(newest, named.Timeline)
		}
	}
	if newest <= f.Timeline {
		return postgres.WALFile{}, 0, nil
	}
	d := &descent{stanza: s, dir: dir}
	_, h, err := d.read(newest)
	if err != nil {
		return postgres.WALFile{}, 0, err
	}
	for i, e := range h.Entries {
		if e.Timeline != f.Timeline || uint64(e.Switch)/uint64(size) != f.Segment {
			continue
		}
		next := h.Timeline
		if i+1 < len(h.Entries) {
			next = h.Entries[i+1].Timeline
		}
		return postgres.WALFile{Kind: postgres.WALSegment, Timeline: next, Segment: f.Segment}, int64(uint64(e.Switch) % uint64(size)), nil
	}
	return postgres.WALFile{}, 0, nil
}
