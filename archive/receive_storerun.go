package archive

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"slices"
	"sync"
	"time"

	"github.com/pgbak/pgbak/internal/postgres"
	"github.com/pgbak/pgbak/internal/received"
	"github.com/pgbak/pgbak/repo"
)

// storeRun pushes what is complete in the directory, several files at a time, in the
// order that a batch keeps: see walOrder. So what lies behind a segment that conflicts
// waits with it, for it is another history than the archive's. A file that is refused
// keeps nothing back, and a repository that fails is asked no more in this run, while
// the others are served.
//
// A history is pushed when all before it is done, and nothing behind it is begun until
// it is: it takes along what the directory has of its ancestors, and segments without
// their history may meet another server's timeline of that number.
type storeRun struct {
	r       *Receiver
	id      received.Identity
	targets []*runTarget
	buffers walBuffers
	opening sync.WaitGroup
	// waits is never closed: what is received waits for a repository as long as it takes to open.
	waits chan struct{}
	retry *time.Timer // begins when something has failed

	mu       sync.Mutex
	files    []postgres.WALFile // in the directory, in its order, without partial ones
	names    []string           // of files
	next     int                // of files: those before it were begun, or need not be
	begun    map[string]bool
	active   int
	history  bool          // one is on its way
	news     chan struct{} // closed, and made anew, with each change
	removed  map[string]bool
	errs     []error // some
	failures int     // all
}

// maxStoreErrors bounds what is said of one run.
const maxStoreErrors = 3

func (r *Receiver) newStoreRun(ctx context.Context) *storeRun {
	s := &storeRun{r: r, waits: make(chan struct{}), begun: map[string]bool{}, removed: map[string]bool{}, news: make(chan struct{})}
	for _, t := range r.o.Pusher.targets {
		target := newRunTarget(t)
		target.begin(ctx, &s.opening)
		s.targets = append(s.targets, target)
	}
	return s
}

// do pushes what was not begun in this run, and removes what is stored. The error tells
// of all that has failed in this run.
func (s *storeRun) do(ctx context.Context) error {
	id, err := s.r.o.Directory.Identity()
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	s.id = id
	if err == nil {
		err = s.list()
	}
	if err != nil {
		s.fail(err)
		return s.failure()
	}
	var workers sync.WaitGroup
	for range s.r.processes() {
		workers.Go(func() { s.work(ctx) })
	}
	workers.Wait()
	s.opening.Wait()
	if ctx.Err() != nil {
		return context.Cause(ctx)
	}
	if err := s.removeLeft(ctx); err != nil {
		s.fail(err)
	}
	return s.failure()
}

// failure tells of all that has failed in this run, nil if nothing has.
func (s *storeRun) failure() error {
	if s.failures == 0 {
		return nil
	}
	err := errors.Join(s.errs...)
	if more := s.failures - len(s.errs); more > 0 {
		err = fmt.Errorf("%w; and %d more", err, more)
	}
	return fmt.Errorf("%w: %w", errOfRepository, err)
}

// list looks what is complete.
func (s *storeRun) list() error {
	files, err := s.r.o.Directory.Files(s.id.SegmentSize)
	if err != nil {
		return err
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	s.files, s.names, s.next = nil, nil, 0
	for _, f := range files {
		if f.Kind != postgres.WALPartial {
			s.files, s.names = append(s.files, f), append(s.names, f.Name(s.id.SegmentSize))
		}
	}
	return nil
}

// work pushes one file after the other, until there is none for this worker to begin.
func (s *storeRun) work(ctx context.Context) {
	for ctx.Err() == nil {
		i, asking, wait := s.take()
		switch {
		case asking != nil:
			s.end(ctx, i, s.push(ctx, i, asking))
		case wait == nil:
			return
		default:
			select {
			case <-wait:
			case <-ctx.Done():
			}
		}
	}
}

// take gives the next file and who lacks it. If a history stands in the way wait is
// closed when it is worth to ask again.
func (s *storeRun) take() (i int, asking []*runTarget, wait <-chan struct{}) {
	s.mu.Lock()
	defer s.mu.Unlock()
	for ; s.next < len(s.files); s.next++ {
		name := s.names[s.next]
		if s.begun[name] {
			continue
		}
		if asking = s.asking(name); len(asking) == 0 {
			continue
		}
		isHistory := s.files[s.next].Kind == postgres.WALHistory
		if s.history || isHistory && s.active > 0 {
			return 0, nil, s.news
		}
		s.begun[name], s.history = true, isHistory
		s.active++
		for _, t := range asking {
			t.order.begin(name)
		}
		s.next++
		return s.next - 1, asking, nil
	}
	return 0, nil, nil
}

// asking are the repositories that lack a file and may be asked.
func (s *storeRun) asking(name string) []*runTarget {
	var asking []*runTarget
	for _, t := range s.targets {
		if !s.r.held.by(name, t.Name) && !t.isDown() && !t.order.isBlocked(name) {
			asking = append(asking, t)
		}
	}
	return asking
}

// push pushes a file to the repositories that lack it, and says what failed.
func (s *storeRun) push(ctx context.Context, i int, asking []*runTarget) (errs []error) {
	f, name := s.files[i], s.names[i]
	defer func() {
		for _, t := range asking {
			t.order.end(name, false, nil)
		}
	}()
	if f.Kind == postgres.WALSegment {
		if err := s.r.o.Directory.Settle(f, s.id); err != nil {
			return []error{err}
		}
	}
	file, err := look(s.r.o.Directory.Path(name))
	if err != nil {
		return []error{err}
	}
	defer file.Close()
	file.unproven = s.isUnproven(f, asking)
	var targets []PushTarget
	for _, t := range asking {
		targets = append(targets, t.forRun(name, s.waits))
	}
	o, _ := s.r.o.Pusher.pushFile(ctx, file, targets, &s.buffers) // its error is that of o.Failed
	for _, stored := range o.Stored {
		s.r.state.stored(stored)
		s.r.o.Log.Debug("received WAL is stored", "file", name, "repository", stored.Repository, "bytes", stored.RawSize, "stored", stored.StoredSize,
			"was-there", stored.Outcome == repo.WALAlreadyThere)
	}
	for _, t := range asking {
		if !isFailed(o.Failed, t) {
			s.r.held.add(name, t.Name)
		}
	}
	for _, f := range o.Failed {
		errs = append(errs, f.Err)
	}
	return errs
}

// isUnproven tells whether the history of a segment's timeline is here and could not be stored:
// the repository may hold another server's.
func (s *storeRun) isUnproven(f postgres.WALFile, asking []*runTarget) bool {
	if f.Kind == postgres.WALHistory {
		return false
	}
	history := postgres.WALFile{Kind: postgres.WALHistory, Timeline: f.Timeline}.Name(s.id.SegmentSize)
	if _, err := os.Lstat(s.r.o.Directory.Path(history)); err != nil {
		return false
	}
	return slices.ContainsFunc(asking, func(t *runTarget) bool { return !s.r.held.by(history, t.Name) })
}

// end notes what became of a file.
func (s *storeRun) end(ctx context.Context, i int, errs []error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.active--
	if s.files[i].Kind == postgres.WALHistory {
		s.history = false
	}
	close(s.news)
	s.news = make(chan struct{})
	if ctx.Err() != nil {
		return
	}
	for _, err := range errs {
		s.note(err)
	}
	if s.files[i].Kind != postgres.WALSegment {
		return
	}
	if err := s.removeStored(i); err != nil {
		s.note(err)
	}
}

// fail is note for who has not the lock.
func (s *storeRun) fail(err error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.note(err)
}

// note counts what has failed, the same only once. What was not tried for the sake of
// another file has that one's error.
func (s *storeRun) note(err error) {
	if errors.Is(err, errNotAsked) || errors.Is(err, errBehindConflict) ||
		slices.ContainsFunc(s.errs, func(known error) bool { return known.Error() == err.Error() }) {
		return
	}
	if s.failures++; len(s.errs) < maxStoreErrors {
		s.errs = append(s.errs, err)
	}
}

// isStored tells whether a file is in every repository.
func (s *storeRun) isStored(i int) bool {
	return s.removed[s.names[i]] || s.r.held.byAll(s.names[i], s.r.o.Pusher.targets)
}

// removeStored removes a segment that is stored everywhere, and the one before it, if
// the one behind it is stored too: that one's summary takes from it the record that
// crosses their border. So the last one stays, and the next start knows by it where to
// go on. Histories stay, they are small.
func (s *storeRun) removeStored(i int) error {
	behind := s.neighbour(i, 1)
	if before := s.neighbour(i, -1); before >= 0 {
		if err := s.remove(before, i); err != nil {
			return err
		}
	}
	return s.remove(i, behind)
}

// remove removes a segment if it and the one behind it are stored.
func (s *storeRun) remove(i, behind int) error {
	if behind < 0 || s.removed[s.names[i]] || !s.isStored(i) || !s.isStored(behind) {
		return nil
	}
	if err := s.r.o.Directory.Remove(s.files[i], s.id.SegmentSize); err != nil {
		return err
	}
	s.removed[s.names[i]] = true
	s.r.held.forget(s.names[i])
	return nil
}

// neighbour is the next segment in a direction, -1 if there is none.
func (s *storeRun) neighbour(i, step int) int {
	for i += step; i >= 0 && i < len(s.files); i += step {
		if s.files[i].Kind == postgres.WALSegment {
			return i
		}
	}
	return -1
}
