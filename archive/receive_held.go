package archive

import (
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
