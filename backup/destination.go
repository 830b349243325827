package backup

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"sync/atomic"
	"time"

	"golang.org/x/sync/errgroup"

	"github.com/pgbak/pgbak/repo"
	"github.com/pgbak/pgbak/storage"
)

// destination is a repository during a run. Its failure is its own: the others go on.
type destination struct {
	Repository
	identity repo.Identity
	ctx      context.Context // ends when it fails
	cancel   context.CancelCauseFunc
	writer   *repo.BackupWriter // nil before begin
	// header is that of the backup once the manifest was sent; Operation is
	// empty before.
	header repo.BackupHeader
	exists bool // the backup: what was sent has arrived
	// stopWAL is the content id of the WAL segment that was read back last, in
	// which the backup ended.
	stopWAL repo.ContentID

	failed atomic.Bool
	mu     sync.Mutex // guards what follows, and the parent against being read and closed at once
	ended  bool
	err    error
}

func newDestination(ctx context.Context, r Repository) *destination {
	d := &destination{Repository: r, identity: r.Stanza.Current()}
	d.ctx, d.cancel = context.WithCancelCause(ctx)
	return d
}

// begin names the backup and pins its parent.
func (d *destination) begin(o Options, pageSize int) (err error) {
	uploads := 4
	if d.Stanza.Repository().Store().Properties().CheapReads {
		uploads = 2 // a local disk needs only that one pack can be synced while the next is written
	}
	d.writer, err = d.Stanza.BeginBackup(d.ctx, d.identity, repo.BeginOptions{Type: o.Type, PageSize: pageSize, Uploads: uploads, AnyOrder: o.From == FromStream})
	if err != nil {
		return err
	}
	log := o.Log.With("repository", d.Name, "label", d.writer.Label())
	if p := d.writer.Parent(); p != nil {
		log = log.With("parent", p.Label())
	}
	if left := d.writer.Resumption().Operations(); len(left) > 0 {
		log = log.With("resumes", left)
	}
	log.Info("backup begins")
	return nil
}

// find gives the parent's file of that path, nil when there is none. It ends
// with the destination, too.
func (d *destination) find(ctx context.Context, path string) *repo.ParentFile {
	ctx, cancel := context.WithCancelCause(ctx)
	defer cancel(nil)
	defer context.AfterFunc(d.ctx, func() { cancel(context.Cause(d.ctx)) })()
	d.mu.Lock()
	defer d.mu.Unlock()
	if d.ended {
		return nil
	}
	return d.writer.Parent().Find(ctx, path)
}

// cause is why there is no backup; nil as long as there may be one.
func (d *destination) cause() error {
	d.mu.Lock()
	defer d.mu.Unlock()
	return d.err
}

// fail gives the destination up. It does not wait: what is on its way is told
// to end, and end waits for it.
func (d *destination) fail(err error) {
	d.cancel(err) // before the lock: a look into the parent may hold that, and ends now
	d.mu.Lock()
	d.ended, d.err = true, err
	d.failed.Store(true) // with ended: who finds no parent because of that learns why
	d.mu.Unlock()
}

// end ends the writer of a destination that has failed. When the repository is
// full, what this backup has stored is taken back: WAL needs the room more.
// After other failures it is left to a collector.
func (d *destination) end(ctx context.Context, o Options) {
	if d.writer == nil || d.header.Operation != "" {
		return
	}
	if cause := d.cause(); !errors.Is(cause, storage.ErrNoSpace) {
		d.writer.Abort()
		return
	}
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), time.Minute)
	defer cancel()
	if err := d.writer.Discard(ctx); err != nil {
		d.mu.Lock()
		defer d.mu.Unlock()
		d.err = errors.Join(d.err, fmt.Errorf("what the backup had stored could not be removed: %w", err))
		return
	}
	o.Log.Info("the repository is full: what this backup had stored was removed", "repository", d.Name)
}

// destinations are all repositories of a run, in the order of the options.
type destinations struct {
	o      Options
	all    []*destination
	ending sync.WaitGroup
}

func newDestinations(ctx context.Context, o Options) *destinations {
	ds := &destinations{o: o}
	for _, r := range o.Repositories {
		ds.all = append(ds.all, newDestination(ctx, r))
	}
	return ds
}

// first is the first that has not failed, nil when all have.
func (ds *destinations) first() *destination {
	for _, d := range ds.all {
		if !d.failed.Load() {
			return d
		}
	}
	return nil
}

// repositories are those of all destinations, failed or not.
func (ds *destinations) repositories() []*repo.Repository {
	var all []*repo.Repository
	for _, d := range ds.all {
		all = append(all, d.Stanza.Repository())
	}
	return all
}

// fail drops one repository. Its writer is ended beside the run, which must not wait for it.
func (ds *destinations) fail(ctx context.Context, d *destination, err error) {
	if len(ds.all) > 1 {
		ds.o.Log.Error("the backup in this repository has failed", "repository", d.Name, "error", err)
	}
	d.fail(err)
	ds.ending.Go(func() { d.end(ctx, ds.o) })
}

// errNone ends the run: every repository has failed, and says itself why.
var errNone = errors.New("no repository is left to back up to")

// each runs a step for every repository that has not failed, in order, and
// drops those for which it fails. It is an error when none is left, or when the
// run itself was told to end.
func (ds *destinations) each(ctx context.Context, step func(i int, d *destination) error) error {
	for i, d := range ds.all {
		if d.failed.Load() {
			continue
		}
		if err := ds.judge(ctx, d, step(i, d)); err != nil {
			return err
		}
	}
	return ds.left()
}

// together is each for steps that wait more than they work: all at once.
func (ds *destinations) together(ctx context.Context, step func(d *destination) error) error {
	var g errgroup.Group
	for _, d := range ds.all {
		if !d.failed.Load() {
			g.Go(func() error { return ds.judge(ctx, d, step(d)) })
		}
	}
	if err := g.Wait(); err != nil {
		return err
	}
	return ds.left()
}

// judge drops a repository for which a step has failed, unless all are to end;
// a full one is dropped even then, because it is to be cleared.
func (ds *destinations) judge(ctx context.Context, d *destination, err error) error {
	if err != nil && (ctx.Err() == nil || errors.Is(err, storage.ErrNoSpace)) {
		ds.fail(ctx, d, err)
		return nil
	}
	return err
}

func (ds *destinations) left() error {
	if ds.first() == nil {
		return errNone
	}
	return nil
}

// close ends those that have neither failed nor a backup, and waits until all have ended.
func (ds *destinations) close(ctx context.Context) {
	for _, d := range ds.all {
		if !d.failed.Load() && d.header.Operation == "" {
			d.cancel(nil)
			ds.ending.Go(func() { d.end(ctx, ds.o) })
		}
	}
	ds.ending.Wait()
	for _, d := range ds.all {
		d.cancel(nil)
	}
}

// results tell what became of each after a run that ended in err, and all
// errors together: nil when every repository has its backup.
func (ds *destinations) results(err error) ([]RepositoryResult, error) {
	var failures []error
	if err != nil && !errors.Is(err, errNone) {
		failures = append(failures, err)
	}
	var results []RepositoryResult
	for _, d := range ds.all {
		r := RepositoryResult{Name: d.Name, Err: d.cause()}
		switch {
		case r.Err != nil && len(ds.all) == 1:
			failures = append(failures, r.Err)
		case r.Err != nil:
			failures = append(failures, fmt.Errorf("repository %s: %w", d.Name, r.Err))
		case !d.exists:
			r.Err = err
		default:
			r.Header, r.ReusedBytes = d.header, d.writer.Totals().ReusedBytes
		}
		results = append(results, r)
	}
	return results, errors.Join(failures...)
}
