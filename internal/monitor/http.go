package monitor

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"sync"
	"time"
)

// Health is what a process says by HTTP: /healthz, that it is alive; /readyz,
// whether it can work; /metrics. It changes nothing, and there is no password: what
// Probe and Measure tell must be fit for everybody.
type Health struct {
	// Probe says why the process cannot work, nil if it can.
	Probe func(ctx context.Context) error
	// Age is how long the outcome of a probe is told again, so that those who ask
	// every second cost nothing more.
	Age time.Duration
	// Measure gives what is measured, when it is asked for.
	Measure func() []Family
	Clock   func() time.Time

	mu    sync.Mutex
	probe *probe
}

// probePatience is for how long who asks waits: less than a kubelet does.
const probePatience = 700 * time.Millisecond

type probe struct {
	done chan struct{}
	at   time.Time
	err  error
	last *probe // the one before, until this one is done
}

// ServeHTTP answers GET and HEAD.
func (h *Health) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	if r.Method != http.MethodGet && r.Method != http.MethodHead {
		w.Header().Set("Allow", "GET, HEAD")
		http.Error(w, "method not allowed", http.StatusMethodNotAllowed)
		return
	}
	switch r.URL.Path {
	case "/healthz":
		fmt.Fprintln(w, "alive")
	case "/readyz":
		if err := h.ready(r.Context()); err != nil {
			http.Error(w, err.Error(), http.StatusServiceUnavailable)
			return
		}
		fmt.Fprintln(w, "ready")
	case "/metrics":
		w.Header().Set("Content-Type", "text/plain; version=0.0.4; charset=utf-8")
		_ = Write(w, h.Measure()...)
	default:
		http.NotFound(w, r)
	}
}

// ready tells the outcome of the newest probe, which is begun where the last is old.
// A probe that takes long (what is away is tried for a while) leaves
// the word to the one before it.
func (h *Health) ready(ctx context.Context) error {
	h.mu.Lock()
	p, now := h.probe, h.Clock()
	if p == nil || isDone(p.done) && (now.Sub(p.at) > h.Age || now.Before(p.at)) {
		p = &probe{done: make(chan struct{}), at: now, last: p}
		h.probe = p
		go func() {
			p.err = h.Probe(context.WithoutCancel(ctx))
			h.mu.Lock()
			p.last = nil
			h.mu.Unlock()
			close(p.done)
		}()
	}
	last := p.last
	h.mu.Unlock()
	patience := time.NewTimer(probePatience)
	defer patience.Stop()
	select {
	case <-p.done:
		return p.err
	case <-patience.C:
	case <-ctx.Done():
	}
	if last != nil {
		return last.err
	}
	return errUnproven
}

var errUnproven = errors.New("what it needs has not answered yet")

func isDone(done <-chan struct{}) bool {
	select {
	case <-done:
		return true
	default:
		return false
	}
}
