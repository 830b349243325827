package archive

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"

	"github.com/pgbak/pgbak/internal/postgres"
	"github.com/pgbak/pgbak/repo"
	"github.com/pgbak/pgbak/storage"
)

// A standby marks the segments that it gets by streaming as archived, since its
// primary archives them. What the primary had not archived when it died is then
// archived by nobody, although the promoted standby has it: a hole before the
// new timeline, which no later push would close. Hence the history of a new
// timeline, the first thing that a promoted server archives, takes along what
// lies in the same directory of the WAL that leads to it and is not archived.

// putTail stores the missing segments of the timelines that lead to this one.
// Each lies wholly before a switch point, which the server has replayed, so that
// it is what the old primary would have archived; where that comes back and
// archives them too, both agree. What PostgreSQL has marked ready is left to it.
func (d *descent) putTail(ctx context.Context, p *Pusher) error {
	begin := postgres.LSN(0)
	for _, e := range d.history.Entries {
		local, err := d.localSegments(e.Timeline, begin, e.Switch)
		if err != nil {
			d.warnings = append(d.warnings, fmt.Sprintf("WAL of timeline %d that its own primary may not have archived: %v", e.Timeline, err))
			return nil
		}
		begin = e.Switch
		if err := d.putMissing(ctx, p, local); err != nil {
			return err
		}
	}
	return nil
}

// localSegments are the segments of a timeline in the server's directory, in
// their order, that hold nothing but what lies between two switch points, but
// for those that the server will archive by itself.
func (d *descent) localSegments(tli postgres.Timeline, begin, end postgres.LSN) ([]postgres.WALFile, error) {
	size := uint64(d.stanza.Current().SegmentSize)
	entries, err := os.ReadDir(d.dir)
	if err != nil {
		return nil, fmt.Errorf("look for WAL files: %w", err)
	}
	var out []postgres.WALFile
	for _, entry := range entries {
		f, err := postgres.ParseWALFile(entry.Name(), int64(size))
		if err != nil || f.Kind != postgres.WALSegment || f.Timeline != tli || f.Segment < uint64(begin)/size || f.Segment >= uint64(end)/size {
			continue
		}
		_, err = os.Lstat(filepath.Join(d.dir, "archive_status", entry.Name()+".ready"))
		if errors.Is(err, fs.ErrNotExist) {
			out = append(out, f)
		}
	}
	return out, nil
}

// putMissing stores those of the segments, which are of one timeline and in their
// order, that are not archived.
func (d *descent) putMissing(ctx context.Context, p *Pusher, local []postgres.WALFile) error {
	if len(local) == 0 {
		return nil
	}
	id := d.stanza.Current()
	archived := map[uint64]bool{}
	for f, err := range d.stanza.ListWALFrom(ctx, id, local[0].Timeline, local[0].Segment) {
		if err != nil {
			return err
		}
		if f.Kind == postgres.WALSegment {
			archived[f.Segment] = true
		}
		if f.Segment > local[len(local)-1].Segment {
			break
		}
	}
	for _, f := range local {
		if archived[f.Segment] {
			continue
		}
		name := f.Name(id.SegmentSize)
		err := d.putSegment(ctx, p, f, filepath.Join(d.dir, name))
		switch {
		case err == nil:
			d.notes = append(d.notes, fmt.Sprintf("%s, which the primary of its timeline had not archived, was not in repository %s; it was taken from %s", name, d.target, d.dir))
		case errors.Is(err, ErrRefused), errors.Is(err, fs.ErrNotExist), errors.Is(err, repo.ErrWALConflict):
			d.warnings = append(d.warnings, fmt.Sprintf("%s, which the primary of its timeline has not archived, cannot be archived from here: %v", name, err))
		default:
			return err
		}
	}
	return nil
}

func (d *descent) putSegment(ctx context.Context, p *Pusher, f postgres.WALFile, path string) error {
	file, err := look(path)
	if err != nil {
		return err
	}
	defer file.Close()
	content := repo.NewWALContent(file)
	defer content.Close()
	if err := file.check(d.stanza, f, content); err != nil {
		return err
	}
	data, err := file.whole(f, content)
	if err != nil {
		return err
	}
	if err := file.checkKept(); err != nil {
		return err
	}
	whole := repo.NewWALContent(storage.Bytes(data))
	whole.Compressors = p.compressors(nil)
	defer whole.Close()
	file.summarize(whole)
	_, err = d.stanza.PutWAL(ctx, d.stanza.Current(), f, whole)
	return err
}

// whole gives the segment as the server has written it that its WAL comes from:
// every record of it is there, and what is behind a switch is zeros.
func (w *walFile) whole(f postgres.WALFile, content *repo.WALContent) ([]byte, error) {
	data, err := content.Head(int(w.size))
	if err != nil {
		return nil, fmt.Errorf("read WAL file: %w", err)
	}
	if int64(len(data)) != w.size {
		return nil, &refused{text: fmt.Sprintf("%s is too large to be read while the server may recycle it", w.path)}
	}
	h, err := postgres.ParseWALHeader(data)
	if err != nil {
		return nil, &refused{text: fmt.Sprintf("%s is not a WAL segment", w.path), cause: err}
	}
	used, err := postgres.WALInSegment(h, f, data)
	if err != nil {
		return nil, &refused{text: fmt.Sprintf("%s is not whole", w.path), cause: err}
	}
	data = bytes.Clone(data)
	clear(data[used:])
	return data, nil
}

// checkKept makes sure that a segment which the server need not keep for the
// archiver was still that segment when it had been read: it may be recycled at
// any time, which gives it another name before it gets other content.
func (w *walFile) checkKept() error {
	opened, err := w.file.Stat()
	if err != nil {
		return fmt.Errorf("read WAL file: %w", err)
	}
	now, err := os.Lstat(w.path)
	if err != nil {
		return fmt.Errorf("read WAL file: %w", err)
	}
	if !os.SameFile(opened, now) {
		return &refused{text: fmt.Sprintf("%s was recycled while it was read", w.path)}
	}
	return nil
}
