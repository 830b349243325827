package archive

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"time"

	"github.com/pgbak/pgbak/internal/pause"
	"github.com/pgbak/pgbak/internal/postgres"
	"github.com/pgbak/pgbak/repo"
)

// droppedJournal is the one thing in a spool that is not to be lost: what was
// dropped, until every repository has an event of it.
const droppedJournal = "dropped"

// droppedVersion is the version of the journal.
const droppedVersion = 1

type droppedRanges struct {
	Version int            `json:"version"`
	Ranges  []droppedRange `json:"ranges"`
}

// droppedRange are segments of one timeline without a hole.
type droppedRange struct {
	First       string   `json:"first"`
	Last        string   `json:"last"`
	SegmentSize int64    `json:"wal-segment-size"`
	SystemID    uint64   `json:"system-identifier,string,omitempty"` // 0 is not known
	Time        int64    `json:"time"`                               // Unix seconds, when the first was dropped
	Places      []string `json:"repositories"`                       // that lack it, and have no event yet
	Begun       bool     `json:"begun,omitempty"`                    // an event may exist somewhere: it must not grow
}

// extend adds a segment if it is the next one, or is in the range already.
func (d *droppedRange) extend(next droppedRange) bool {
	f, err := postgres.ParseWALFile(next.First, d.SegmentSize)
	first, errFirst := postgres.ParseWALFile(d.First, d.SegmentSize)
	last, errLast := postgres.ParseWALFile(d.Last, d.SegmentSize)
	if err != nil || errFirst != nil || errLast != nil || d.SystemID != next.SystemID || d.SegmentSize != next.SegmentSize || f.Timeline != last.Timeline {
		return false
	}
	if f.Segment >= first.Segment && f.Segment <= last.Segment {
		return true
	}
	if d.Begun || f.Segment != last.Segment+1 || !slices.Equal(d.Places, next.Places) {
		return false
	}
	d.Last = next.First
	return true
}

// noteDropped writes down, durably, that the file asked for is given up.
func (r *pushRun) noteDropped(ctx context.Context, segmentSize int64) error {
	if r.spool == nil {
		return ErrSpool
	}
	d := droppedRange{First: r.asked, Last: r.asked, SegmentSize: segmentSize, Time: r.clock().Unix(), Places: r.places()}
	if r.control != nil {
		d.SystemID = r.control.SystemID
	}
	if a, err := r.spool.readAcknowledgement(r.asked); err == nil {
		if now, err := sumFile(r.path(r.asked)); err == nil && now == a.contentSum {
			d.Places = without(d.Places, r.holders(a))
		}
	}
	return r.spool.changeDropped(ctx, func(j *droppedRanges) {
		for i := range j.Ranges {
			if j.Ranges[i].extend(d) {
				return
			}
		}
		j.Ranges = append(j.Ranges, d)
	})
}

// recordDropped tells the repositories that are open of what was dropped. What
// fails stays in the journal for the next run.
func (r *pushRun) recordDropped(ctx context.Context) {
	j, err := r.spool.readDropped()
	if err == nil && (len(j.Ranges) == 0 || ctx.Err() != nil) {
		return
	}
	// From now on these ranges are what events say: the next segment begins a new one.
	err = r.spool.changeDropped(ctx, func(now *droppedRanges) {
		for i := range now.Ranges {
			if d := &now.Ranges[i]; slices.ContainsFunc(r.targets, func(t *runTarget) bool { return d.isFor(t) }) {
				d.Begun = true
			}
		}
		j = droppedRanges{Ranges: slices.Clone(now.Ranges)}
	})
	if err != nil {
		r.spoolFailed(err)
		return
	}
	done := map[string][]string{} // by the first segment of a range
	for _, d := range j.Ranges {
		for _, t := range r.targets {
			if d.Begun && d.isFor(t) && r.recordRange(ctx, t, d) {
				done[d.First] = append(done[d.First], t.key)
			}
		}
	}
	r.spoolFailed(r.spool.changeDropped(ctx, func(now *droppedRanges) { now.forget(done, r.places(), r.clock()) }))
}

// isFor tells whether a repository has no event of it, and can be told now.
func (d droppedRange) isFor(t *runTarget) bool {
	return slices.Contains(d.Places, t.key) && t.isOpen() && !t.isDown()
}

// unknownAge is how long the journal is kept for a repository that no run has
// configured: a run may have been for some of them only.
const unknownAge = 30 * 24 * time.Hour

// forget takes out what has been recorded.
func (j *droppedRanges) forget(done map[string][]string, places []string, now time.Time) {
	for i := range j.Ranges {
		d := &j.Ranges[i]
		d.Places = slices.DeleteFunc(d.Places, func(place string) bool {
			return d.Begun && slices.Contains(done[d.First], place) ||
				!slices.Contains(places, place) && !isRecent(d.Time, now, unknownAge)
		})
	}
	j.Ranges = slices.DeleteFunc(j.Ranges, func(d droppedRange) bool { return len(d.Places) == 0 })
}

// recordRange puts the event into one repository.
func (r *pushRun) recordRange(ctx context.Context, t *runTarget, d droppedRange) bool {
	ids := t.stanza.Identities()
	i := len(ids) - 1
	for d.SystemID != 0 && i >= 0 && (ids[i].SystemID != d.SystemID || ids[i].SegmentSize != d.SegmentSize) {
		i--
	}
	if i < 0 {
		r.pusher.Log.Warn("dropped WAL is of no cluster that the repository knows", "repository", t.Name, "first", d.First, "last", d.Last)
		return true
	}
	err := t.stanza.RecordWALEvent(ctx, ids[i], repo.WALEvent{Kind: repo.WALDropped, First: d.First, Last: d.Last, Host: r.Host,
		Time: time.Unix(d.Time, 0), Message: "archive-push gave these segments up, as archive.queue-max wants it"})
	if err != nil {
		t.fail(err)
		r.pusher.Log.Warn("what was dropped could not be recorded yet", "repository", t.Name, "error", err.Error())
	}
	return err == nil
}

func (s *Spool) droppedPath() string { return filepath.Join(s.dir, droppedJournal) }

// readDropped gives the journal; one that is not there is empty.
func (s *Spool) readDropped() (droppedRanges, error) {
	var j droppedRanges
	err := readDocument(s.droppedPath(), &j)
	if errors.Is(err, fs.ErrNotExist) {
		return droppedRanges{Version: droppedVersion}, nil
	}
	if err == nil && j.Version != droppedVersion {
		err = fmt.Errorf("%s has version %d, this program knows %d", s.droppedPath(), j.Version, droppedVersion)
	}
	if err != nil {
		return droppedRanges{}, fmt.Errorf("%w: %w", ErrSpool, err)
	}
	return j, nil
}

// changeDropped changes the journal, one process at a time. A journal that cannot
// be understood is put aside: what was in it shows as a gap in the archive.
func (s *Spool) changeDropped(ctx context.Context, change func(*droppedRanges)) error {
	unlock, err := s.waitLock(ctx, droppedJournal)
	if err != nil {
		return err
	}
	defer unlock()
	j, err := s.readDropped()
	if err != nil {
		if err := os.Rename(s.droppedPath(), s.droppedPath()+".damaged"); err != nil {
			return fmt.Errorf("%w: %w", ErrSpool, err)
		}
		j = droppedRanges{Version: droppedVersion}
	}
	change(&j)
	if len(j.Ranges) > 0 {
		return writeDocument(s.droppedPath(), j, true)
	}
	if err := os.Remove(s.droppedPath()); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return fmt.Errorf("%w: %w", ErrSpool, err)
	}
	return nil
}

// lockTime is how long waitLock tries: what others do under such a lock takes
// some writes to a local disk.
const lockTime = 10 * time.Second

// waitLock takes a lock as soon as nobody else has it.
func (s *Spool) waitLock(ctx context.Context, name string) (unlock func(), err error) {
	ctx, cancel := context.WithTimeout(ctx, lockTime)
	defer cancel()
	for {
		unlock, err := s.lock(name)
		if !errors.Is(err, errLocked) {
			return unlock, err
		}
		if pauseErr := pause.For(ctx, 5*time.Millisecond); pauseErr != nil {
			return nil, fmt.Errorf("%w: %s: %w", ErrSpool, name, err)
		}
	}
}
