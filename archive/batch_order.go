package archive

import (
	"context"
	"errors"
	"slices"
	"sync"

	"github.com/pgbak/pgbak/internal/postgres"
	"github.com/pgbak/pgbak/repo"
)

// Two servers may write the same timeline: a clone and its original, or two
// standbys that were promoted at the same place. PostgreSQL archives in order, so
// that the archiver of the second one stops where they part, and nothing that it
// wrote behind that takes a name which the first one needs. A batch must not
// overtake that: a segment is stored once the one before it is known not to
// conflict, until one was new to the repository. What comes behind that is new too.

// errBehindConflict says that a file was not stored because one before it conflicts.
var errBehindConflict = errors.New("a segment before it conflicts with what is archived")

// walOrder is the order of segments in one repository during one run. The zero
// value is ready.
type walOrder struct {
	mu    sync.Mutex
	lanes map[string]*walLane // by timeline
}

// walLane are the segments of a timeline.
type walLane struct {
	begun   []string      // and not done, in order
	isNew   bool          // one was new to the repository
	blocked bool          // one conflicts
	news    chan struct{} // closed, and made anew, with each change
}

// laneOf is empty for what has no order.
func laneOf(name string) string {
	if kind, ok := walKind(name); !ok || kind != postgres.WALSegment {
		return ""
	}
	return name[:timelineNameLength]
}

// begin puts a file behind those that were begun before it.
func (o *walOrder) begin(name string) {
	lane := laneOf(name)
	if lane == "" {
		return
	}
	o.mu.Lock()
	defer o.mu.Unlock()
	if o.lanes == nil {
		o.lanes = map[string]*walLane{}
	}
	if o.lanes[lane] == nil {
		o.lanes[lane] = &walLane{news: make(chan struct{})}
	}
	o.lanes[lane].begun = append(o.lanes[lane].begun, name)
}

// isBlocked tells whether one before the file conflicts.
func (o *walOrder) isBlocked(name string) bool {
	o.mu.Lock()
	defer o.mu.Unlock()
	l := o.lanes[laneOf(name)]
	return l != nil && l.blocked
}

// wait returns when the file may be stored. One that was not begun here is asked
// for by PostgreSQL itself, which keeps the order.
func (o *walOrder) wait(ctx context.Context, name string) error {
	for {
		o.mu.Lock()
		l := o.lanes[laneOf(name)]
		if l == nil || !slices.Contains(l.begun, name) {
			o.mu.Unlock()
			return nil
		}
		blocked, free, news := l.blocked, l.isNew || l.begun[0] == name, l.news
		o.mu.Unlock()
		switch {
		case blocked:
			return errBehindConflict
		case free:
			return nil
		}
		select {
		case <-news:
		case <-ctx.Done():
			return context.Cause(ctx)
		}
	}
}

// end tells what became of a file; it may be told again, which changes nothing.
func (o *walOrder) end(name string, isNew bool, err error) {
	o.mu.Lock()
	defer o.mu.Unlock()
	l := o.lanes[laneOf(name)]
	if l == nil {
		return
	}
	i := slices.Index(l.begun, name)
	if i < 0 {
		return
	}
	l.begun = slices.Delete(l.begun, i, i+1)
	l.isNew = l.isNew || isNew
	l.blocked = l.blocked || errors.Is(err, repo.ErrWALConflict)
	close(l.news)
	l.news = make(chan struct{})
}
