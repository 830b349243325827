package archive

import (
	"context"
	"slices"
	"sync"

	"github.com/pgbak/pgbak/internal/postgres"
)

// heldBy are the repositories that hold files, by the files' names. The zero value is
// ready; it is safe for concurrent use.
type heldBy struct {
	mu    sync.Mutex
	names map[string][]string
}

func (h *heldBy) by(file, repository string) bool {
	h.mu.Lock()
	defer h.mu.Unlock()
	return slices.Contains(h.names[file], repository)
}

func (h *heldBy) byAll(file string, targets []PushTarget) bool {
	h.mu.Lock()
	defer h.mu.Unlock()
	return !slices.ContainsFunc(targets, func(t PushTarget) bool { return !slices.Contains(h.names[file], t.Name) })
}

func (h *heldBy) add(file, repository string) {
	h.mu.Lock()
	defer h.mu.Unlock()
	if h.names == nil {
		h.names = map[string][]string{}
	}
	if !slices.Contains(h.names[file], repository) {
		h.names[file] = append(h.names[file], repository)
	}
}

func (h *heldBy) forget(file string) {
	h.mu.Lock()
	defer h.mu.Unlock()
	delete(h.names, file)
}

// addWaiting counts what is complete and waits for a repository, and tells up to where
// nothing does.
func (r *Receiver) addWaiting(s *ReceiveStatus) {
	id, err := r.o.Directory.Identity()
	if err != nil {
		return // nothing has been received
	}
	files, err := r.o.Directory.Files(id.SegmentSize)
	if err != nil {
		return
	}
	for _, f := range files {
		if f.Kind == postgres.WALPartial {
			continue
		}
		waits := !r.held.byAll(f.Name(id.SegmentSize), r.o.Pusher.targets)
		if waits {
			s.Waiting++
		}
		if f.Kind != postgres.WALSegment {
			continue
		}
		if waits {
			s.WaitingBytes += id.SegmentSize
		} else if s.WaitingBytes == 0 {
			s.Stored = f.Start(id.SegmentSize) + postgres.LSN(id.SegmentSize)
		}
	}
}

// removeLeft removes what is left of the segments in which a timeline ended, if the
// next timeline's segment of that number, which has all of it, is stored. One that is not in
// the directory may have been removed, or never received: a person may have accepted a gap.
// So it counts only what the repositories have.
func (s *storeRun) removeLeft(ctx context.Context) error {
	files, err := s.r.o.Directory.Files(s.id.SegmentSize)
	if err != nil {
		return err
	}
	for _, p := range files {
		if p.Kind != postgres.WALPartial {
			continue
		}
		later, here, waiting := false, false, false
		for i, f := range s.files {
			if f.Kind == postgres.WALSegment && f.Timeline > p.Timeline && f.Segment >= p.Segment {
				stored, same := s.isStored(i), f.Segment == p.Segment
				later, here, waiting = later || stored, here || same && stored, waiting || same && !stored
			}
		}
		if !later || waiting {
			continue
		}
		if !here {
			if here, err = s.isElsewhere(ctx, p); err != nil {
				return err
			}
		}
		if !here {
			continue
		}
		if err := s.r.o.Directory.Remove(p, s.id.SegmentSize); err != nil {
			return err
		}
	}
	return nil
}

// isElsewhere tells whether every repository has the whole segment that the newest
// history takes in the place of a partial one.
func (s *storeRun) isElsewhere(ctx context.Context, p postgres.WALFile) (bool, error) {
	newest := postgres.Timeline(1)
	for _, f := range s.files {
		newest = max(newest, f.Timeline)
	}
	history, err := s.r.o.Directory.History(newest)
	if err != nil {
		return false, err
	}
	end := p.Start(s.id.SegmentSize) + postgres.LSN(s.id.SegmentSize) - 1
	whole := postgres.WALFile{Kind: postgres.WALSegment, Timeline: history.TimelineAt(end), Segment: p.Segment}
	for _, t := range s.r.o.Pusher.targets {
		stanza, err := t.Open(ctx)
		if err != nil {
			return false, err
		}
		if there, err := stanza.HasWAL(ctx, stanza.Current(), whole); err != nil || !there {
			return false, err
		}
	}
	return true, nil
}
