package agent

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"time"

	"github.com/pgbak/pgbak/repo"
)

// Warm is a repository that stays open, with its keys and connections.
//
// A repository can be moved away and made anew under the same url, with other keys:
// what is sealed with the old ones could never be read. A stanza can get another
// identity, or lose all. Whoever opens a repository for each file notices. Hence a
// Warm one is compared with what its storage holds before it is used, by a round
// trip for the repository's own id and the stanza's identities, unless that was done
// within the time that the caller allows; a repository that is another one now is
// opened anew.
type Warm struct {
	open  func(ctx context.Context) (*repo.Repository, func() error, error)
	clock func() time.Time

	mu      sync.Mutex
	held    *held // nil when it has to be opened
	stanzas map[string]*looked
}

// held is an open repository.
type held struct {
	repository *repo.Repository
	same       func() error
}

// looked is the last look at a stanza, or one that is going on.
type looked struct {
	done   chan struct{}
	began  time.Time
	stanza *repo.Stanza
	err    error
}

// NewWarm returns a repository that open opens when it is wanted. With it open gives
// a cheap function whose error says that the url leads elsewhere by now; it may
// be nil.
func NewWarm(open func(ctx context.Context) (*repo.Repository, func() error, error), clock func() time.Time) *Warm {
	return &Warm{open: open, clock: clock, stanzas: map[string]*looked{}}
}

// Stanza gives the stanza as it is in the repository now, or was at most maxAge
// ago. Those who ask at the same time share one look; with a maxAge of 0 the look
// begins after the call.
func (w *Warm) Stanza(ctx context.Context, name string, maxAge time.Duration) (*repo.Stanza, error) {
	w.mu.Lock()
	now := w.clock()
	l := w.stanzas[name]
	// A clock that was set back makes the look one of the future: not to be relied on.
	if l == nil || maxAge == 0 || l.began.After(now) || now.Sub(l.began) > maxAge && isDone(l.done) {
		l = &looked{done: make(chan struct{}), began: now}
		w.stanzas[name] = l
		// Others wait for this look too, so that it does not end with who asked first.
		go w.look(context.WithoutCancel(ctx), l, name)
	}
	w.mu.Unlock()
	select {
	case <-l.done:
		return l.stanza, l.err
	case <-ctx.Done():
		return nil, context.Cause(ctx)
	}
}

func isDone(done <-chan struct{}) bool {
	select {
	case <-done:
		return true
	default:
		return false
	}
}

// Forget makes the next use open the repository anew: its storage failed, and what
// is held of it may be of no use any more.
func (w *Warm) Forget() {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.held = nil
	clear(w.stanzas)
}

func (w *Warm) look(ctx context.Context, l *looked, name string) {
	defer close(l.done)
	l.stanza, l.err = w.read(ctx, name)
	if l.err == nil {
		return
	}
	w.mu.Lock()
	defer w.mu.Unlock()
	w.held = nil
	if w.stanzas[name] == l {
		delete(w.stanzas, name)
	}
}

// read looks at the repository that is held, or opens it.
func (w *Warm) read(ctx context.Context, name string) (*repo.Stanza, error) {
	w.mu.Lock()
	h := w.held
	w.mu.Unlock()
	if h != nil {
		s, err := h.read(ctx, name)
		if err == nil || !errors.Is(err, errElsewhere) {
			return s, err
		}
	}
	r, same, err := w.open(ctx)
	if err != nil {
		return nil, err
	}
	s, err := r.Stanza(ctx, name)
	if err != nil {
		return nil, err
	}
	w.mu.Lock()
	w.held = &held{r, same}
	w.mu.Unlock()
	return s, nil
}

// errElsewhere says that the url does not lead to the repository that is held.
var errElsewhere = errors.New("the repository was replaced")

func (h *held) read(ctx context.Context, name string) (*repo.Stanza, error) {
	if h.same != nil {
		if err := h.same(); err != nil {
			return nil, fmt.Errorf("%w: %w", errElsewhere, err)
		}
	}
	confirmed := make(chan error, 1)
	go func() { confirmed <- h.repository.Confirm(ctx) }()
	s, err := h.repository.Stanza(ctx, name)
	if failed := <-confirmed; failed != nil {
		if errors.Is(failed, repo.ErrReplaced) || errors.Is(failed, repo.ErrNotInitialized) {
			failed = fmt.Errorf("%w: %w", errElsewhere, failed)
		}
		return nil, failed
	}
	return s, err
}
