package archive

import (
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

// spoolKept is the part of a spool for files that are not segments, but stand
// before segments of which more wait than may: PostgreSQL asks for nothing else
// until they are archived, and the disk would fill up behind them.
const spoolKept = "kept"

// keptPart is that of one cluster: such files do not all say whose they are.
func (s *Spool) keptPart(systemID uint64) string {
	return s.part(fmt.Sprintf("%s-%d", spoolKept, systemID))
}

// keep takes a file that is no segment, and that could not be pushed, durably into
// the spool, if more segments wait behind it than QueueMax allows. The next run
// that reaches the repositories pushes it from there.
func (r *pushRun) keep(pushErr error) (warning string, kept bool) {
	kind, ok := walKind(r.asked)
	if !ok || kind == postgres.WALSegment || r.QueueMax == 0 || r.spool == nil || r.control == nil ||
		errors.Is(pushErr, ErrRefused) || errors.Is(pushErr, repo.ErrWALConflict) {
		return "", false
	}
	waiting, err := r.waiting()
	if err != nil || len(excess(waiting, r.control.WALSegmentSize, r.QueueMax)) == 0 {
		return "", false
	}
	if err := r.spool.keepFile(r.path(r.asked), r.spool.keptPart(r.control.SystemID)); err != nil {
		r.spoolFailed(err)
		return "", false
	}
	return fmt.Sprintf("%s is kept in the spool until the repositories can be reached, because %d segments wait behind it, more than archive.queue-max allows: %v",
		r.asked, len(waiting), pushErr), true
}

// keepFile copies a file into the part for kept files; durable on return.
func (s *Spool) keepFile(path, dir string) error {
	if err := os.Mkdir(dir, 0o700); err != nil && !errors.Is(err, fs.ErrExist) {
		return fmt.Errorf("%w: %w", ErrSpool, err)
	}
	if err := checkPrivate(dir); err != nil {
		return err
	}
	from, err := look(path)
	if err != nil {
		return err
	}
	defer from.Close()
	if err := copyDurably(filepath.Join(dir, filepath.Base(path)), io.NewSectionReader(from.file, 0, from.size)); err != nil {
		return fmt.Errorf("%w: %w", ErrSpool, err)
	}
	return syncDirectory(s.dir)
}

func copyDurably(path string, content io.Reader) error {
	dir := filepath.Dir(path)
	f, err := os.CreateTemp(dir, temporaryMark)
	if err != nil {
		return err
	}
	_, err = io.Copy(f, content)
	if err == nil {
		err = f.Sync()
	}
	if closeErr := f.Close(); err == nil {
		err = closeErr
	}
	if err == nil {
		err = os.Rename(f.Name(), path)
	}
	if err != nil {
		_ = os.Remove(f.Name())
		return err
	}
	return syncDirectory(dir)
}

// pushKept pushes what was kept, and removes what is in every repository then.
func (r *pushRun) pushKept(ctx context.Context) {
	if r.control == nil {
		return
	}
	dir := r.spool.keptPart(r.control.SystemID)
	entries, err := os.ReadDir(dir)
	if err != nil {
		return // hardly ever is anything kept
	}
	for _, e := range entries {
		if _, isWAL := walKind(e.Name()); !isWAL || ctx.Err() != nil || len(r.lacking(r.places())) < len(r.targets) {
			continue
		}
		path := filepath.Join(dir, e.Name())
		o, err := r.pusher.pushTo(ctx, path, r.asking(nil, nil), nil)
		r.noteFailed(o.Failed)
		if err == nil {
			err = os.Remove(path)
		}
		if err != nil {
			r.pusher.Log.Warn("a file that is kept in the spool could not be archived", "file", e.Name(), "error", err.Error())
		}
	}
}
