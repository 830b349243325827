package archive

import (
	"context"
	"errors"
	"slices"
	"sync"
	"time"

	"github.com/pgbak/pgbak/repo"
)

// begin prepares the targets for this run.
func (r *pushRun) begin(ctx context.Context) {
	for _, t := range r.targets {
		t.begin(ctx, &r.opening)
	}
}

// run pushes the file that was asked for and, by the other workers, what else is ready.
func (r *pushRun) run(ctx context.Context) (Result, error) {
	began := r.clock()
	patience, giveUp := context.WithTimeout(ctx, r.bounds.open)
	defer giveUp()
	r.patience = patience
	r.beginFile(readyFile{name: r.asked})
	var workers sync.WaitGroup
	for range r.processes() - 1 {
		workers.Go(func() { r.pushAhead(ctx) })
	}
	result, err := r.pushAsked(ctx)
	defer r.answer(ctx, err)()
	r.pushAhead(ctx)
	workers.Wait()
	r.disown()
	r.pushKept(ctx)
	r.recordDropped(ctx)
	if r.total.files > 1 {
		r.pusher.Log.Info("archived a batch", "files", r.total.files, "bytes", r.total.bytes, "stored", r.total.stored,
			"seconds", r.clock().Sub(began).Seconds())
	}
	return result, err
}

// answer begins the time in which the run has to come to its end.
func (r *pushRun) answer(ctx context.Context, err error) context.CancelFunc {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.answered, r.unsettle = true, err
	left := r.bounds.ahead
	if err != nil {
		left = r.bounds.failing
	}
	close(r.done)
	var cancel context.CancelFunc
	r.stop, cancel = context.WithTimeout(ctx, left)
	return cancel
}

// pushAsked pushes the file that PostgreSQL waits for.
func (r *pushRun) pushAsked(ctx context.Context) (Result, error) {
	began := r.clock()
	result, err := r.push(ctx, readyFile{name: r.asked}, nil)
	if err != nil && ctx.Err() == nil {
		if warning, kept := r.keep(ctx, result.Failed, err); kept {
			result.Warnings, result.Kept, err = append(result.Warnings, warning), true, nil
		}
	}
	result.Warnings = slices.Clip(result.Warnings) // others append to it
	r.tell(Pushed{Result: result, Err: err, Asked: true, Duration: r.clock().Sub(began)})
	return result, err
}

// pushAhead pushes what else is ready, file by file.
func (r *pushRun) pushAhead(ctx context.Context) {
	for ctx.Err() == nil {
		file, ok := r.next()
		if !ok && !r.more(ctx) {
			return
		}
		if !ok {
			continue
		}
		began := r.clock()
		result, err := r.push(ctx, file, r.patience)
		if ctx.Err() != nil {
			return
		}
		r.again(result)
		r.tell(Pushed{Result: result, Err: err, Duration: r.clock().Sub(began)})
	}
}

// lookAgain is how often a worker that has nothing to do looks for more while the
// file that was asked for is not done: it may wait for one repository for long.
const lookAgain = 500 * time.Millisecond

// more waits for work, and tells whether there may be some. What is on its way and
// comes again is some.
func (r *pushRun) more(ctx context.Context) bool {
	r.mu.Lock()
	away, came := len(r.later), r.came
	r.mu.Unlock()
	if away > 0 {
		select {
		case <-came:
		case <-ctx.Done():
		}
		return true
	}
	select {
	case <-r.done:
		return false
	default:
	}
	timer := time.NewTimer(lookAgain)
	defer timer.Stop()
	select {
	case <-r.done:
	case <-timer.C:
	case <-ctx.Done():
	}
	return true
}

// without gives the places that none of the holders is.
func without(places []string, holders []holder) []string {
	return slices.DeleteFunc(slices.Clone(places), func(place string) bool {
		return slices.ContainsFunc(holders, func(h holder) bool { return h.Place == place })
	})
}

// push pushes a file to the repositories that lack it, and leaves word of those
// that hold it. patience is nil for the file that was asked for.
func (r *pushRun) push(ctx context.Context, f readyFile, patience context.Context) (Result, error) {
	name := f.name
	defer func() {
		for _, t := range r.targets {
			t.order.end(name, false, nil)
		}
	}()
	var ack acknowledgement
	var counting []holder
	if r.spool != nil {
		if a, err := r.spool.readAcknowledgement(name); err == nil {
			ack, counting = a, r.holders(a)
		}
	}
	if len(counting) > 0 && !ack.isOf(r.path(name)) {
		counting = nil // of another content: what holds that is asked in its order
	}
	if len(counting) == len(r.targets) {
		return r.complete(Result{File: name, Acknowledged: true}, counting, ack.Size), nil // left since this run looked
	}
	// An acknowledgement that does not count any more: it was archived, some time ago.
	known := ack.File != "" && len(counting) == 0
	o, err := r.pushTo(ctx, name, r.asking(f, counting, patience), known)
	if len(counting) > 0 && (o.content != ack.contentSum || len(r.holders(ack)) < len(counting)) {
		// The others hold other content, or are not what they were.
		counting = nil
		o, err = r.pushTo(ctx, name, r.asking(f, nil, patience), true)
	}
	r.noteFailed(o.Failed)
	if r.spool != nil && len(o.holders) > 0 && o.content != (contentSum{}) {
		ack.File = name
		r.spoolFailed(r.spool.writeAcknowledgement(ack.with(o, counting, r.clock())))
	}
	return r.complete(o.Result, counting, o.content.Size), err
}

// pushTo pushes a file to some targets, which are known to have held it if known says so.
func (r *pushRun) pushTo(ctx context.Context, name string, targets []PushTarget, known bool) (outcome, error) {
	file, err := look(r.path(name))
	if err != nil {
		return outcome{Result: Result{File: name}}, err
	}
	defer file.Close()
	file.unproven, file.known = r.isUnproven(name), known
	began := r.clock()
	before, ok := file.stamp()
	o, err := r.pusher.pushFile(ctx, file, targets, r.buffers)
	if after, _ := file.stamp(); ok && after == before && before.isSettled(began) {
		o.stamp = &before
	}
	return o, err
}

// asking gives the targets for a file that these hold.
func (r *pushRun) asking(f readyFile, holders []holder, patience context.Context) []PushTarget {
	var asking []PushTarget
	missing := without(r.places(), holders)
	for _, t := range r.targets {
		switch {
		case !slices.Contains(missing, t.key):
			t.order.end(f.name, false, nil)
		case patience == nil:
			asking = append(asking, t.forRun(f.name, nil))
		case t.isDown() || slices.Contains(f.later, t.key):
			asking = append(asking, PushTarget{Name: t.Name, Compression: t.Compression,
				Open: func(context.Context) (*repo.Stanza, error) { return nil, errNotAsked }})
		default:
			asking = append(asking, t.forRun(f.name, patience.Done()))
		}
	}
	return asking
}

// complete adds the repositories that held the file before, in the order of the targets.
func (r *pushRun) complete(result Result, held []holder, size int64) Result {
	stored := result.Stored
	result.Stored = nil
	for _, t := range r.targets {
		if i := slices.IndexFunc(stored, func(s Stored) bool { return s.Repository == t.Name }); i >= 0 {
			result.Stored = append(result.Stored, stored[i])
		} else if slices.ContainsFunc(held, func(h holder) bool { return h.Place == t.key }) {
			result.Stored = append(result.Stored, Stored{Repository: t.Name, Outcome: repo.WALAlreadyThere, RawSize: size})
		}
	}
	return result
}

// noteFailed keeps the files that nobody asked for away from a repository that fails.
func (r *pushRun) noteFailed(failed []Failed) {
	for _, f := range failed {
		if isOfFile(f.Err) {
			continue
		}
		for _, t := range r.targets {
			if t.Name == f.Repository {
				t.fail(f.Err)
			}
		}
	}
}

// spoolFailed keeps the first error of the spool: it never fails a push.
func (r *pushRun) spoolFailed(err error) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if err != nil && r.spoolErr == nil {
		r.spoolErr = err
	}
}

// tell logs what became of a file.
func (r *pushRun) tell(p Pushed) {
	r.telling.Lock()
	defer r.telling.Unlock()
	log := r.pusher.Log
	var bytes, stored int64
	for _, s := range p.Stored {
		if s.Outcome == repo.WALStored {
			log.Debug("archived", "file", p.File, "repository", s.Repository, "bytes", s.RawSize, "stored", s.StoredSize, "seconds", p.Duration.Seconds())
			bytes, stored = s.RawSize, stored+s.StoredSize
		}
	}
	if bytes > 0 {
		r.total.files++
		r.total.bytes += bytes
		r.total.stored += stored
	}
	if !p.Asked {
		// When PostgreSQL asks for it, the acknowledgement has nothing to say of them.
		for _, w := range p.Warnings {
			log.Warn(w)
		}
		for _, f := range p.Failed {
			if !f.Unasked() && !errors.Is(f.Err, errBehindConflict) {
				r.warnOnce(p.File, f)
			}
		}
	}
	if r.Each != nil {
		r.Each(p)
	}
}
