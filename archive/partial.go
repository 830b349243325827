package archive

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"

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

// settlePartial says, as a warning for the server's log, why the refused partial
// segment is not needed; "" if it may be needed, or is none.
func settlePartial(ctx context.Context, s *repo.Stanza, f postgres.WALFile, file *walFile, conflict error) (string, error) {
	if f.Kind != postgres.WALPartial || !errors.Is(conflict, repo.ErrWALConflict) {
		return "", nil
	}
	dir := filepath.Dir(file.path)
	next, err := successor(s, dir, f)
	if err != nil || next.Timeline == 0 {
		return "", err
	}
	name := next.Name(s.Current().SegmentSize)
	where := dir
	if _, err := os.Lstat(filepath.Join(dir, name)); errors.Is(err, fs.ErrNotExist) {
		there, err := s.HasWAL(ctx, s.Current(), next)
		if err != nil || !there {
			return "", err
		}
		where = "the archive"
	} else if err != nil {
		return "", fmt.Errorf("look for WAL file: %w", err)
	}
	return fmt.Sprintf("%v; nothing is lost: %s in %s begins with all of the WAL in it", conflict, name, where), nil
}

// successor is the segment with which a timeline of this server begins that has
// left f's within f; the zero WALFile if no history in dir tells of one.
func successor(s *repo.Stanza, dir string, f postgres.WALFile) (postgres.WALFile, error) {
	entries, err := os.ReadDir(dir)
	if err != nil {
		return postgres.WALFile{}, fmt.Errorf("look for timeline histories: %w", err)
	}
	size := s.Current().SegmentSize
	for _, entry := range entries {
		if !strings.HasSuffix(entry.Name(), ".history") {
			continue
		}
		named, err := postgres.ParseWALFile(entry.Name(), size)
		if err != nil || named.Kind != postgres.WALHistory {
			continue
		}
		d := &descent{stanza: s, dir: dir}
		_, h, err := d.read(named.Timeline)
		if err != nil || len(h.Entries) == 0 {
			continue
		}
		if last := h.Entries[len(h.Entries)-1]; last.Timeline == f.Timeline && uint64(last.Switch)/uint64(size) == f.Segment {
			return postgres.WALFile{Kind: postgres.WALSegment, Timeline: named.Timeline, Segment: f.Segment}, nil
		}
	}
	return postgres.WALFile{}, nil
}
