package backup

import (
	"context"
	"errors"
	"fmt"
	"path/filepath"
	"slices"
	"sync"
	"time"

	"golang.org/x/sync/errgroup"

	"github.com/pgbak/pgbak/internal/postgres"
	"github.com/pgbak/pgbak/internal/postgres/server"
	"github.com/pgbak/pgbak/internal/readiness"
	"github.com/pgbak/pgbak/repo"
)

// run is a backup under way.
type run struct {
	o        Options
	began    time.Time
	conn     *server.Conn
	session  sync.Mutex // held while the session is asked by one of several
	info     server.Info
	primary  *primary // of the standby that is backed up; nil when the server is a primary itself
	control  postgres.Control
	to       *destinations
	identity repo.Identity     // of the cluster; its number is that of one of the repositories
	header   repo.BackupHeader // what the backups have in common
	// databases are those at the start.
	databases []server.Database
	pages     *pageErrors
	source    Source
	timings   Timings

	mu       sync.Mutex
	warnings []string
}

// Run takes a backup into every repository of the options, in one pass over the
// cluster. On any error that is not a repository's own, and when ctx ends, there
// is no backup: the server forgets the one it had begun, and what was stored is
// left under each operation's pin for a collector.
//
// A repository that fails is dropped and the others go on. Run then returns
// both: a Result that tells of each repository whether it has a backup, and an
// error that joins those of the repositories that have none.
func Run(ctx context.Context, o Options) (Result, error) {
	r := &run{o: o.withDefaults(), began: o.Clock()}
	if len(r.o.Repositories) == 0 {
		return Result{}, errors.New("backup: no repository is given")
	}
	r.to = newDestinations(ctx, r.o)
	err := r.steps(ctx)
	r.close()
	r.to.close(ctx)
	result := Result{Duration: o.Clock().Sub(r.began), Timings: r.timings, Warnings: r.warnings}
	result.Backups, err = r.to.results(err)
	return result, err
}

func (r *run) steps(ctx context.Context) error {
	var other time.Duration
	for _, s := range []struct {
		name string
		do   func(context.Context) error
		time *time.Duration
	}{
		{"connect", r.connect, &other},
		{"check the cluster", r.checkCluster, &other},
		{"begin", r.begin, &other},
		{"start", r.start, &r.timings.Waiting},
		{"copy", func(ctx context.Context) error { return r.source.Copy(ctx) }, &r.timings.Copying},
		{"stop", r.stop, &r.timings.Waiting},
		{"wait for WAL", r.waitForWAL, &r.timings.Waiting},
		{"prove WAL", r.proveWAL, &r.timings.Committing},
		{"commit", r.commit, &r.timings.Committing},
		{"mark WAL", r.markWAL, &other},
	} {
		began := r.o.Clock()
		r.o.Log.Debug("backup step", "step", s.name, "elapsed", began.Sub(r.began))
		if err := s.do(ctx); err != nil {
			return err
		}
		*s.time += r.o.Clock().Sub(began)
	}
	return nil
}

// close ends the sessions, which makes a server forget a backup not stopped.
func (r *run) close() {
	ctx, cancel := context.WithTimeout(context.Background(), 5*time.Second)
	defer cancel()
	if r.source != nil {
		r.source.Close(ctx)
	}
	if r.conn != nil {
		_ = r.conn.Close(ctx)
	}
}

func (r *run) warn(format string, args ...any) {
	w := fmt.Sprintf(format, args...)
	r.mu.Lock()
	r.warnings = append(r.warnings, w)
	r.mu.Unlock()
	r.o.Log.Warn(w)
}

// warnOf warns about what concerns one repository.
func (r *run) warnOf(d *destination, format string, args ...any) {
	if len(r.o.Repositories) > 1 {
		format, args = "repository %s: "+format, append([]any{d.Name}, args...)
	}
	r.warn(format, args...)
}

func (r *run) connect(ctx context.Context) (err error) {
	if r.conn, err = server.Connect(ctx, r.o.Connection); err != nil {
		return err
	}
	if r.info, err = r.conn.Info(ctx); err != nil {
		return err
	}
	r.source, err = newSource(ctx, r)
	return err
}

// checkCluster compares server, files and stanzas before anything is touched. A
// stanza of another cluster is its repository's failure alone.
func (r *run) checkCluster(ctx context.Context) error {
	var problems []readiness.Problem
	if err := r.to.each(ctx, func(_ int, d *destination) error {
		found := r.problems(d.identity)
		if err := readiness.Fatal(found); errors.Is(err, repo.ErrIdentityMismatch) {
			return err
		}
		problems = found // without those of the identity they are the same for all
		return nil
	}); err != nil {
		return err
	}
	if err := readiness.Fatal(problems); err != nil {
		return err
	}
	for _, p := range problems {
		r.warn("%v", p.Error)
	}
	if err := r.source.Check(ctx); err != nil {
		return err
	}
	r.identity = r.to.first().identity
	return nil
}

// begin names the backups and pins their parents.
func (r *run) begin(ctx context.Context) error {
	return r.to.together(ctx, func(d *destination) error {
		err := d.begin(r.o, r.info.BlockSize)
		if err == nil && d.writer.Type() != r.o.Type {
			r.warnOf(d, "there is no backup that %s backup could build on: this one is a full backup", article(r.o.Type))
		}
		return err
	})
}

func article(t repo.BackupType) string {
	if t == repo.Incremental {
		return "an incremental"
	}
	return "a differential"
}

// start proves that WAL reaches the repository and starts the backup. The
// server's checkpoint runs while the archiver works; nothing is copied before
// both are done and the start stands in the files.
func (r *run) start(ctx context.Context) error {
	switched, err := r.writer().SwitchWAL(ctx)
	if err != nil {
		return err
	}
	r.header.Start.Time = r.info.Now
	if r.header.Start.LSN, err = r.source.Start(ctx, "pgbak "+string(r.to.first().writer.Label())); err != nil {
		return err
	}
	g, gctx := errgroup.WithContext(ctx)
	g.Go(func() error { return r.waitFor(gctx, "before the backup", []postgres.WALFile{r.segment(switched)}) })
	g.Go(func() (err error) {
		r.control, err = r.source.Settle(gctx, r.header.Start.LSN)
		return err
	})
	if err := g.Wait(); err != nil {
		return err
	}
	if r.control.Timeline != r.info.Timeline {
		return fmt.Errorf("pg_control of the data directory is on timeline %d, the server that writes WAL on %d", r.control.Timeline, r.info.Timeline)
	}
	r.header.Timeline = r.info.Timeline
	return r.describe(ctx)
}

// describe records what info and restore want to know of the cluster.
func (r *run) describe(ctx context.Context) error {
	tablespaces, err := r.conn.Tablespaces(ctx)
	if err != nil {
		return err
	}
	for _, t := range tablespaces {
		inPlace := !filepath.IsAbs(t.Location)
		if inPlace {
			t.Location = ""
		}
		r.header.Tablespaces = append(r.header.Tablespaces, repo.Tablespace{OID: t.OID, Name: t.Name, Location: t.Location, InPlace: inPlace})
	}
	databases, err := r.conn.Databases(ctx)
	r.databases = databases
	for _, d := range databases {
		r.header.Databases = append(r.header.Databases, repo.Database{OID: d.OID, Name: d.Name})
	}
	r.header.Checksums = r.control.ChecksumVersion != 0
	r.header.Version, r.header.Annotations = r.o.Version, r.o.Annotations
	return err
}

// keepAliveEvery is how often the session is asked during the copy: if it is
// lost, the backup is lost, and going on would be for nothing.
const keepAliveEvery = 5 * time.Second

func (r *run) watch(ctx context.Context, copied <-chan struct{}) error {
	tick := time.NewTicker(keepAliveEvery)
	defer tick.Stop()
	for {
		select {
		case <-copied:
			return nil
		case <-ctx.Done():
			return nil // the copy says why
		case <-tick.C:
			if err := r.ping(ctx); err != nil && ctx.Err() == nil {
				return err
			}
		}
	}
}

// stop ends the backup on the server and stores what that gives, with
// pg_control, which was read after all other files. WAL that was written since
// the start makes the copied files consistent; pg_control is only where
// recovery looks first.
func (r *run) stop(ctx context.Context) error {
	result, err := r.source.Stop(ctx)
	if err != nil {
		return err
	}
	if err := r.checkLabel(result.StopResult); err != nil {
		return err
	}
	if err := r.checkDatabases(ctx); err != nil {
		return err
	}
	after, err := r.writer().Info(ctx)
	if err != nil {
		return err
	}
	r.header.Stop = repo.BackupPoint{Time: after.Now, LSN: result.LSN, WAL: r.walName(result.LSN - 1)}
	r.header.Start.WAL = r.walName(r.header.Start.LSN)
	files := []repo.File{{Path: controlPath}, {Path: "backup_label"}}
	contents := [][]byte{result.Control, []byte(result.LabelFile)}
	if result.TablespaceMap != "" {
		files, contents = append(files, repo.File{Path: "tablespace_map"}), append(contents, []byte(result.TablespaceMap))
	}
	for i := range files {
		files[i].Type, files[i].Mode, files[i].ModTime = repo.TypeFile, 0o600, after.Now
		files[i].Owner, files[i].Group = result.Owner, result.Group
	}
	return r.to.together(ctx, func(d *destination) error {
		framer, err := d.Stanza.Repository().NewFramer()
		if err != nil {
			return err
		}
		return d.writer.AddLate(framer, slices.Clone(files), contents)
	})
}

func (r *run) walName(lsn postgres.LSN) string { return r.segment(lsn).Name(r.identity.SegmentSize) }

// segment is the one that holds lsn, on the timeline that is written now.
func (r *run) segment(lsn postgres.LSN) postgres.WALFile {
	return postgres.WALFile{Kind: postgres.WALSegment, Timeline: r.info.Timeline, Segment: lsn.Segment(r.identity.SegmentSize)}
}

// commit puts the manifests: a backup exists from there on.
func (r *run) commit(ctx context.Context) error {
	r.header.PageErrorCount, r.header.PageErrors = r.pages.total, r.pages.files
	for _, w := range r.pages.warnings() {
		r.warn("%s", w)
	}
	return r.to.together(ctx, r.commitTo)
}

func (r *run) commitTo(d *destination) error {
	if p := d.writer.Parent(); p != nil && p.Err() != nil {
		r.warnOf(d, "parent %s could not be read completely, its content was stored again: %v", p.Label(), p.Err())
	}
	h := r.header
	h.StopWALID = d.stopWAL.String()
	h, err := d.writer.Commit(h)
	if h.Operation != "" {
		d.header = h // the writer is done with, whatever came of it
	}
	if errors.Is(err, repo.ErrPinLeft) {
		r.warnOf(d, "%v; it only keeps the parent from being collected", err)
		err = nil
	}
	d.exists = err == nil
	return err
}
