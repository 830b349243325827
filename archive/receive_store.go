package archive

import (
	"context"
	"errors"
	"runtime"
	"time"

	"github.com/pgbak/pgbak/repo"
)

// rouse tells the half that stores that there is something new.
func (r *Receiver) rouse() {
	select {
	case r.wake <- struct{}{}:
	default: // it has been told already
	}
}

// errOfRepository is wrapped by the errors of the half that stores.
var errOfRepository = errors.New("received WAL could not be stored in every repository")

// store puts what is complete into the repositories, until ctx ends. After something
// has failed it is tried again later, all of it; what becomes complete meanwhile goes
// at once where nothing has failed.
func (r *Receiver) store(ctx context.Context) {
	wait, run := r.pace.store, (*storeRun)(nil)
	for ctx.Err() == nil {
		if run == nil {
			run = r.newStoreRun(ctx)
		}
		known := run.failures
		err := run.do(ctx)
		if ctx.Err() != nil {
			break
		}
		if err == nil {
			run, wait = nil, r.pace.store
			select {
			case <-ctx.Done():
			case <-r.wake:
			}
			continue
		}
		if run.failures > known {
			r.state.failed(err)
			r.o.Log.Warn("received WAL waits in the directory: it could not be stored in every repository",
				"directory", r.o.Directory.Path(), "error", oneLine(err), "next-in", wait.String())
		}
		if run.retry == nil {
			run.retry = time.NewTimer(wait)
			wait = min(2*wait, r.pace.storeTo)
		}
		select {
		case <-ctx.Done():
		case <-r.wake:
		case <-run.retry.C:
			run = nil
		}
	}
}

// storeAll pushes what is complete now, once.
func (r *Receiver) storeAll(ctx context.Context) error { return r.newStoreRun(ctx).do(ctx) }

func (r *Receiver) processes() int {
	if r.o.Processes > 0 {
		return r.o.Processes
	}
	return runtime.GOMAXPROCS(0)
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
