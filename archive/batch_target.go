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

	order walOrder

	mu   sync.Mutex
	down error
}

func newRunTarget(t PushTarget) *runTarget {
	return &runTarget{PushTarget: t, key: placeKey(t), opened: make(chan struct{})}
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

// forRun is the target as a Pusher wants it for a file. patience ends, if it is not
// nil, when the file should not wait any longer for the repository to be opened.
func (t *runTarget) forRun(name string, patience <-chan struct{}) PushTarget {
	target, open := t.PushTarget, t.openFor(patience)
	target.Open = func(ctx context.Context) (*repo.Stanza, error) {
		s, err := open(ctx)
		if err == nil {
			err = t.order.wait(ctx, name)
		}
		if err == nil && patience != nil && t.isDown() {
			err = errNotAsked // the one that it waited for has failed
		}
		return s, err
	}
	target.done = func(p pushed, err error) {
		if err != nil && !isOfFile(err) {
			t.fail(err)
		}
		t.order.end(name, err == nil && !p.needless && p.Outcome == repo.WALStored, err)
	}
	return target
}

// openFor waits for the repository to be open.
func (t *runTarget) openFor(patience <-chan struct{}) func(ctx context.Context) (*repo.Stanza, error) {
	return func(ctx context.Context) (*repo.Stanza, error) {
		t.open()
		select {
		case <-t.opened:
			return t.stanza, t.err
		default:
		}
		select {
		case <-t.opened:
			return t.stanza, t.err
		case <-patience:
			return nil, errNotAsked
		case <-ctx.Done():
			return nil, context.Cause(ctx)
		}
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
	for _, of := range []error{ErrRefused, repo.ErrWALConflict, repo.ErrDamaged, errNotAsked, errBehindConflict, context.Canceled} {
		if errors.Is(err, of) {
			return true
		}
	}
	return false
}
