package archive

import (
	"context"
	"errors"
	"io/fs"

	"github.com/pgbak/pgbak/internal/pause"
	"github.com/pgbak/pgbak/internal/postgres"
	"github.com/pgbak/pgbak/internal/received"
	"github.com/pgbak/pgbak/repo"
)

// rouse tells the half that stores that there is something new.
func (r *Receiver) rouse() {
	select {
	case r.wake <- struct{}{}:
	default: // it has been told already
	}
}

// store puts what is complete into the repositories, until ctx ends.
func (r *Receiver) store(ctx context.Context) {
	wait := r.pace.store
	for {
		err := r.storeAll(ctx)
		if ctx.Err() != nil {
			return
		}
		if err != nil {
			r.o.Log.Warn("received WAL waits in the directory: it could not be stored in every repository",
				"directory", r.o.Directory.Path(), "error", oneLine(err), "next-in", wait.String())
			if pause.For(ctx, wait) != nil {
				return
			}
			wait = min(2*wait, r.pace.storeTo)
			continue
		}
		wait = r.pace.store
		select {
		case <-ctx.Done():
			return
		case <-r.wake:
		}
	}
}

// storeAll pushes the complete files in the order in which PostgreSQL archives
// them, and removes those that are stored. A file that is refused, or whose name
// is taken by other content, stays and does not keep the others back.
func (r *Receiver) storeAll(ctx context.Context) error {
	id, err := r.o.Directory.Identity()
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	if err != nil {
		return err
	}
	files, err := r.o.Directory.Files(id.SegmentSize)
	if err != nil {
		return err
	}
	var failed error
	for _, f := range files {
		name := f.Name(id.SegmentSize)
		if f.Kind == postgres.WALPartial || r.stored[name] {
			continue
		}
		result, err := r.push(ctx, f, id)
		for _, s := range result.Stored {
			r.o.Log.Debug("received WAL is stored", "file", name, "repository", s.Repository, "bytes", s.RawSize, "stored", s.StoredSize,
				"was-there", s.Outcome == repo.WALAlreadyThere)
		}
		switch {
		case err == nil:
			err = r.keep(f, id.SegmentSize)
		case ctx.Err() != nil:
			return context.Cause(ctx)
		}
		failed = errors.Join(failed, err)
		if err != nil && !errors.Is(err, ErrRefused) && !errors.Is(err, repo.ErrWALConflict) {
			break
		}
	}
	return errors.Join(failed, r.removeLeft(files, id.SegmentSize))
}

func (r *Receiver) push(ctx context.Context, f postgres.WALFile, id received.Identity) (Result, error) {
	if f.Kind == postgres.WALSegment {
		if err := r.o.Directory.Settle(f, id); err != nil {
			return Result{}, err
		}
	}
	return r.o.Pusher.Push(ctx, r.o.Directory.Path(f.Name(id.SegmentSize)))
}

// keep takes a file that is stored now for the newest such segment, and removes the
// one before. The newest stays: by it the next start knows where to go on, and the
// next segment's summary takes from it the record that crosses their border.
// Histories stay, they are small.
func (r *Receiver) keep(stored postgres.WALFile, segmentSize int64) error {
	r.stored[stored.Name(segmentSize)] = true
	if stored.Kind != postgres.WALSegment {
		return nil
	}
	old := r.newest
	if old.Timeline == 0 {
		r.newest = stored
		return nil
	}
	if stored.Timeline < old.Timeline || stored.Timeline == old.Timeline && stored.Segment < old.Segment {
		old = stored // it had been refused, and another one was stored meanwhile
	} else {
		r.newest = stored
	}
	delete(r.stored, old.Name(segmentSize))
	return r.o.Directory.Remove(old, segmentSize)
}

// removeLeft removes what is left of the segments in which a timeline ended: the
// next timeline's segment has all of it, and is stored.
func (r *Receiver) removeLeft(files []postgres.WALFile, segmentSize int64) error {
	for _, f := range files {
		if f.Kind == postgres.WALPartial && f.Timeline < r.newest.Timeline && f.Segment <= r.newest.Segment {
			if err := r.o.Directory.Remove(f, segmentSize); err != nil {
				return err
			}
		}
	}
	return nil
}

// keptOpen makes targets that open their repository once; only a failure to do so
// is tried again. What a stanza is does not change while a receiver lives: after
// pg_upgrade the server is another one.
func keptOpen(targets []PushTarget) []PushTarget {
	out := make([]PushTarget, len(targets))
	for i, t := range targets {
		open := t.Open
		keep := make(chan *repo.Stanza, 1)
		keep <- nil
		t.Open = func(ctx context.Context) (*repo.Stanza, error) {
			s := <-keep
			defer func() { keep <- s }()
			if s != nil {
				return s, nil
			}
			opened, err := open(ctx)
			if err == nil {
				s = opened
			}
			return opened, err
		}
		out[i] = t
	}
	return out
}
