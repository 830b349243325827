package archive

import (
	"context"
	"errors"
	"sync"

	"github.com/pgbak/pgbak/repo"
)

// runTarget is a target during one run: it is opened at most once, and left alone
// by files that nobody asked for after it has failed.
type runTarget struct {
	PushTarget
	key string

	open   func() // begins to open it, once
	opened chan struct{}
	stanza *repo.Stanza // valid when opened is closed
	err    error

	settle  func()        // the file asked for is done here, one way or the other
	settled chan struct{} // closed by settle

	mu     sync.Mutex
	down   error
	barred string // the lowest timeline, as names begin with, of which it holds other WAL than this server's; "" is none
}

func newRunTarget(t PushTarget) *runTarget {
	r := &runTarget{PushTarget: t, key: placeKey(t), opened: make(chan struct{}), settled: make(chan struct{})}
	r.settle = sync.OnceFunc(func() { close(r.settled) })
	return r
}

// errNotAsked says that a file did not wait for a repository that fails, or is not open yet.
var errNotAsked = errors.New("the repository was not asked")

// begin binds the target to the run, whose context it is opened by.
func (t *runTarget) begin(ctx context.Context, opening *sync.WaitGroup) {
	t.open = sync.OnceFunc(func() {
		opening.Go(func() {
			defer close(t.opened)
			if t.stanza, t.err = t.Open(ctx); t.err != nil {
				t.fail(t.err)
			}
		})
	})
}

// forAsked is the target as the file asked for is pushed to it.
func (t *runTarget) forAsked(name string) PushTarget {
	target := t.PushTarget
	target.Open = func(ctx context.Context) (*repo.Stanza, error) {
		t.open()
		select {
		case <-t.opened:
			return t.stanza, t.err
		case <-ctx.Done():
			return nil, context.Cause(ctx)
		}
	}
	target.settled = func(err error) {
		t.barAfter(name, err)
		t.settle()
	}
	return target
}

// forAhead is the target as a file that nobody asked for is pushed to it: when the
// one that was asked for is done there. Two servers that go on from one WAL would
// otherwise mix theirs in the archive, since what comes later could be stored
// before it shows that they have parted. patience ends when the file should not
// wait any longer.
func (t *runTarget) forAhead(name string, patience <-chan struct{}) PushTarget {
	target := t.PushTarget
	target.Open = func(ctx context.Context) (*repo.Stanza, error) {
		t.open()
		for _, ready := range []<-chan struct{}{t.opened, t.settled} {
			select {
			case <-ready:
				continue
			default:
			}
			select {
			case <-ready:
			case <-patience:
				return nil, errNotAsked
			case <-ctx.Done():
				return nil, context.Cause(ctx)
			}
		}
		if t.isBarred(name) {
			return nil, errNotAsked
		}
		return t.stanza, t.err
	}
	target.settled = func(err error) { t.barAfter(name, err) }
	return target
}

// barAfter keeps further files of a timeline, and of those that may come from it,
// away from a repository that holds other content under the name of one.
func (t *runTarget) barAfter(name string, err error) {
	if !errors.Is(err, repo.ErrWALConflict) {
		return
	}
	t.mu.Lock()
	defer t.mu.Unlock()
	if tli := timelineOf(name); t.barred == "" || tli < t.barred {
		t.barred = tli
	}
}

func (t *runTarget) isBarred(name string) bool {
	t.mu.Lock()
	defer t.mu.Unlock()
	return t.barred != "" && timelineOf(name) >= t.barred
}

// timelineOf gives the timeline as the name of a WAL file begins with it: in hexadecimal.
func timelineOf(name string) string { return name[:8] }

// isReady tells whether files that nobody asked for need not wait.
func (t *runTarget) isReady() bool {
	select {
	case <-t.settled:
		return t.isOpen()
	default:
		return false
	}
}

// isOpen tells whether it was opened in this run, with success.
func (t *runTarget) isOpen() bool {
	select {
	case <-t.opened:
		return t.err == nil
	default:
		return false
	}
}

// holder is what the open repository would be as a holder.
func (t *runTarget) holder() (holder, bool) {
	if !t.isOpen() {
		return holder{}, false
	}
	return holderOf(t.PushTarget, t.stanza), true
}

// fail notes that the repository is in trouble.
func (t *runTarget) fail(err error) {
	t.mu.Lock()
	defer t.mu.Unlock()
	if t.down == nil {
		t.down = err
	}
}

func (t *runTarget) isDown() bool {
	t.mu.Lock()
	defer t.mu.Unlock()
	return t.down != nil
}

// isOfFile tells whether an error is about the file and not about the repository.
func isOfFile(err error) bool {
	for _, of := range []error{ErrRefused, repo.ErrWALConflict, repo.ErrDamaged, errNotAsked, context.Canceled} {
		if errors.Is(err, of) {
			return true
		}
	}
	return false
}
