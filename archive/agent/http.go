package agent

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"sync"
	"time"
)

// Health is what the agent says by HTTP: /healthz, that it is alive; /readyz,
// whether it can work; /metrics. It shows no names but those of stanzas and
// repositories, and changes nothing.
type Health struct {
	// Probe looks whether all repositories can be used.
	Probe func(ctx context.Context) error
	// Measure gives what is measured when it is asked for; nil is nothing.
	Measure func() []Family
	Metrics *Metrics
	Clock   func() time.Time

	mu    sync.Mutex
	probe *probe
}

const (
	// probeAge is how long the outcome of a probe is told again: those who ask every
	// second cost the storage nothing more.
	probeAge = 10 * time.Second
	// probePatience is for how long who asks waits: less than a kubelet does.
	probePatience = 700 * time.Millisecond
)

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
		var measured []Family
		if h.Measure != nil {
			measured = h.Measure()
		}
		w.Header().Set("Content-Type", "text/plain; version=0.0.4; charset=utf-8")
		_ = h.Metrics.Write(w, measured...)
	default:
		http.NotFound(w, r)
	}
}

// ready tells the outcome of the newest probe, which is begun where the last is old.
// A probe that takes long (a repository that is away is tried for a while) leaves
// the word to the one before it.
func (h *Health) ready(ctx context.Context) error {
	h.mu.Lock()
	p, now := h.probe, h.Clock()
	if p == nil || isDone(p.done) && (now.Sub(p.at) > probeAge || now.Before(p.at)) {
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

var errUnproven = errors.New("the repositories have not answered yet")
