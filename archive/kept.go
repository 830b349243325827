package archive

import (
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"slices"

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

// keptFor says which repositories a kept file waits for. It lies beside the file;
// where there is none these are all.
type keptFor struct {
	Version int      `json:"version"`
	Places  []string `json:"repositories"`
}

const (
	keptVersion = 1
	keptForMark = ".for-" // before the name of the kept file; no WAL file's name begins so
)

// readKeptFor gives the places that a kept file waits for; false if it does not say so.
func readKeptFor(path string) ([]string, bool) {
	var k keptFor
	if err := readDocument(keptForPath(path), &k); err != nil || k.Version != keptVersion {
		return nil, false
	}
	return k.Places, true
}

func writeKeptFor(path string, places []string) error {
	return writeDocument(keptForPath(path), keptFor{keptVersion, places}, true)
}

func keptForPath(path string) string {
	return filepath.Join(filepath.Dir(path), keptForMark+filepath.Base(path))
}

// keep takes a file that is no segment, and that could not be pushed, durably into
// the spool, if more segments wait behind it than QueueMax allows. The next run
// that reaches the repositories pushes it from there.
func (r *pushRun) keep(ctx context.Context, failed []Failed, pushErr error) (warning string, kept bool) {
	kind, ok := walKind(r.asked)
	if !ok || kind == postgres.WALSegment || r.QueueMax == 0 || r.spool == nil || r.control == nil ||
		errors.Is(pushErr, ErrRefused) || errors.Is(pushErr, repo.ErrWALConflict) {
		return "", false
	}
	waiting, err := r.waiting()
	if err != nil || len(excess(waiting, r.control.WALSegmentSize, r.QueueMax)) == 0 {
		return "", false
	}
	var lack []string
	for _, t := range r.targets {
		if isFailed(failed, t) {
			lack = append(lack, t.key)
		}
	}
	if len(lack) == 0 {
		return "", false // it is not the repositories that it failed for
	}
	if err := r.spool.keepFile(ctx, r.path(r.asked), r.spool.keptPart(r.control.SystemID), lack); err != nil {
		r.spoolFailed(err)
		return "", false
	}
	return fmt.Sprintf("%s is kept in the spool until the repositories can be reached, because %d segments wait behind it, more than archive.queue-max allows: %v",
		r.asked, len(waiting), pushErr), true
}

func isFailed(failed []Failed, t *runTarget) bool {
	return slices.ContainsFunc(failed, func(f Failed) bool { return f.Repository == t.Name })
}

// keepFile copies a file into the part for kept files, for the repositories that
// lack it; durable on return. Another file that is kept under its name stays, and
// is an error: PostgreSQL was told that it is safe.
func (s *Spool) keepFile(ctx context.Context, path, dir string, lack []string) error {
	if err := os.Mkdir(dir, 0o700); err != nil && !errors.Is(err, fs.ErrExist) {
		return fmt.Errorf("%w: %w", ErrSpool, err)
	}
	if err := checkPrivate(dir); err != nil {
		return err
	}
	unlock, err := s.waitLock(ctx, spoolKept)
	if err != nil {
		return err
	}
	defer unlock()
	from, err := look(path)
	if err != nil {
		return err
	}
	defer from.Close()
	dest := filepath.Join(dir, filepath.Base(path))
	kept, err := sumFile(dest)
	if err == nil {
		return s.keepAgain(from, dest, kept, lack)
	}
	if !errors.Is(err, fs.ErrNotExist) {
		return fmt.Errorf("%w: %w", ErrSpool, err)
	}
	if err := writeKeptFor(dest, lack); err != nil {
		return err
	}
	if err := copyDurably(dest, io.NewSectionReader(from.file, 0, from.size)); err != nil {
		return fmt.Errorf("%w: %w", ErrSpool, err)
	}
	return syncDirectory(s.dir)
}

// keepAgain adds the repositories that lack a file which is kept already.
func (s *Spool) keepAgain(from *walFile, dest string, kept contentSum, lack []string) error {
	now, err := from.sum()
	if err != nil {
		return err
	}
	if now != kept {
		return fmt.Errorf("%w: another %s is kept in it already, and not yet archived", ErrSpool, filepath.Base(dest))
	}
	places, known := readKeptFor(dest)
	if !known {
		return nil // it is for all
	}
	return writeKeptFor(dest, slices.Compact(slices.Sorted(slices.Values(slices.Concat(places, lack)))))
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

// pushKept pushes what was kept to the repositories that lack it and can be
// reached, and removes what is in all of them then.
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
		if _, isWAL := walKind(e.Name()); !isWAL || ctx.Err() != nil {
			continue
		}
		if err := r.pushOneKept(ctx, filepath.Join(dir, e.Name())); err != nil {
			r.pusher.Log.Warn("a file that is kept in the spool could not be archived", "file", e.Name(), "error", err.Error())
		}
	}
}

func (r *pushRun) pushOneKept(ctx context.Context, path string) error {
	places, known := readKeptFor(path)
	if !known {
		places = r.places()
	}
	lacking := r.lacking(places)
	if len(lacking) == 0 {
		return nil
	}
	file, err := look(path)
	if err != nil {
		return err
	}
	defer file.Close()
	file.beside = r.wal // what goes along with a history lies there
	var targets []PushTarget
	for _, t := range lacking {
		targets = append(targets, t.forRun(filepath.Base(path), r.patience.Done()))
	}
	o, err := r.pusher.pushFile(ctx, file, targets, nil)
	r.noteFailed(o.Failed)
	for _, w := range o.Warnings {
		r.pusher.Log.Warn(w)
	}
	var done []string
	for _, t := range lacking {
		if !isFailed(o.Failed, t) {
			done = append(done, t.key)
		}
	}
	if forgetErr := r.spool.forgetKept(ctx, path, r.places(), done); forgetErr != nil || !errors.Is(err, errNotAsked) {
		err = errors.Join(err, forgetErr)
	}
	return err
}

// forgetKept takes out the places that have the file now, and removes it when none is left.
func (s *Spool) forgetKept(ctx context.Context, path string, all, done []string) error {
	if len(done) == 0 {
		return nil
	}
	unlock, err := s.waitLock(ctx, spoolKept)
	if err != nil {
		return err
	}
	defer unlock()
	places, known := readKeptFor(path)
	if !known {
		places = all
	}
	left := slices.DeleteFunc(places, func(place string) bool { return slices.Contains(done, place) })
	if len(left) > 0 {
		return writeKeptFor(path, left)
	}
	if err := os.Remove(path); err != nil {
		return err
	}
	if err := os.Remove(keptForPath(path)); err != nil && known {
		return err
	}
	return nil
}
