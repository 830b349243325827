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

	"github.com/pgbak/pgbak/internal/hint"
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
	pages    *pageErrors
	walker   *walker

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
	if r.o.Type != repo.Full {
		return Result{}, hint.Wrap(fmt.Errorf("backup type %q is not supported", r.o.Type), "this version writes full backups: use --type full.")
	}
	if len(r.o.Repositories) == 0 {
		return Result{}, errors.New("backup: no repository is given")
	}
	r.to = newDestinations(ctx, r.o)
	err := r.steps(ctx)
	r.close()
	r.to.close(ctx)
	result := Result{Duration: o.Clock().Sub(r.began), Warnings: r.warnings}
	result.Backups, err = r.to.results(err)
	return result, err
}

func (r *run) steps(ctx context.Context) error {
	for _, s := range []struct {
		name string
		do   func(context.Context) error
	}{
		{"connect", r.connect},
		{"check the cluster", r.checkCluster},
		{"begin", r.begin},
		{"start", r.start},
		{"copy", r.copy},
		{"stop", r.stop},
		{"wait for WAL", r.waitForWAL},
		{"prove WAL", r.proveWAL},
		{"commit", r.commit},
	} {
		r.o.Log.Debug("backup step", "step", s.name, "elapsed", r.o.Clock().Sub(r.began))
		if err := s.do(ctx); err != nil {
			return err
		}
	}
	return nil
}

// close ends the sessions, which makes a server forget a backup not stopped.
func (r *run) close() {
	r.closePrimary()
	if r.conn != nil {
		ctx, cancel := context.WithTimeout(context.Background(), 5*time.Second)
		defer cancel()
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
	return r.connectPrimary(ctx)
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
	return r.checkControl(ctx)
}

// checkControl compares pg_control, which is what the files say, with the stanzas.
func (r *run) checkControl(ctx context.Context) error {
	_, control, err := readControl(ctx, r.o.PGData)
	if err != nil {
		return err
	}
	if want := r.wantedState(); control.State != want {
		return hint.Wrap(fmt.Errorf("pg_control in %s says that its cluster is %s, not %s", r.o.PGData, control.State, want),
			"pgdata must be the data directory of the running server that connection leads to.")
	}
	if control.SystemID != r.info.SystemID {
		return hint.Wrap(fmt.Errorf("%s: %w: its system identifier is %d, stanza %s belongs to %s", r.o.PGData,
			repo.ErrIdentityMismatch, control.SystemID, r.to.first().Stanza.Name(), r.to.first().identity),
			"check pgdata and connection in the configuration.")
	}
	if err := r.to.each(ctx, func(_ int, d *destination) error {
		if control.BlockSize == d.identity.BlockSize {
			return nil
		}
		return hint.Wrap(fmt.Errorf("%s: %w: its pages have %d bytes, stanza %s has pages of %d bytes", r.o.PGData,
			repo.ErrIdentityMismatch, control.BlockSize, d.Stanza.Name(), d.identity.BlockSize),
			"a cluster with another size of pages needs a stanza of its own.")
	}); err != nil {
		return err
	}
	r.identity = r.to.first().identity
	return nil
}

// begin names the backups and pins their parents.
func (r *run) begin(ctx context.Context) error {
	return r.to.together(ctx, func(d *destination) error { return d.begin(r.o, r.info.BlockSize) })
}

// start proves that WAL reaches the repository and starts the backup. Nothing
// is copied before both are done and the start stands in the files.
func (r *run) start(ctx context.Context) (err error) {
	r.header.Start.Time = r.info.Now
	begin := r.startOnPrimary
	if r.primary != nil {
		begin = r.startOnStandby
	}
	label := "pgbak " + string(r.to.first().writer.Label())
	if r.header.Start.LSN, err = begin(ctx, label); err != nil {
		return err
	}
	if r.control, err = waitForCheckpoint(ctx, r.o.PGData, r.header.Start.LSN); err != nil {
		return err
	}
	if r.control.Timeline != r.info.Timeline {
		return fmt.Errorf("pg_control in %s is on timeline %d, the server that writes WAL on %d", r.o.PGData, r.control.Timeline, r.info.Timeline)
	}
	r.header.Timeline, r.header.Source = r.info.Timeline, string(r.source())
	return r.describe(ctx)
}

// startOnPrimary lets the checkpoint run while the archiver works.
func (r *run) startOnPrimary(ctx context.Context, label string) (postgres.LSN, error) {
	switched, err := r.conn.SwitchWAL(ctx)
	if err != nil {
		return 0, err
	}
	start, err := r.conn.StartBackup(ctx, label, r.o.StartFast)
	if err != nil {
		return 0, err
	}
	return start, r.waitFor(ctx, "before the backup", []postgres.WALFile{r.segment(switched)})
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

// copy copies all files while the session is watched.
func (r *run) copy(ctx context.Context) error {
	root, err := filepath.EvalSymlinks(r.o.PGData)
	if err != nil {
		return fmt.Errorf("data directory: %w", err)
	}
	c := newCopier(r.o, r.to, r.control)
	r.pages = &c.errors
	w := &walker{root: root, owners: newOwners(), warn: r.warn, exclude: excluder{user: r.o.Exclude}, tablespaces: map[string]bool{},
		version: fmt.Sprintf("PG_%d_%d", r.control.Major, r.control.CatalogVersion)}
	r.walker = w
	g, ctx := errgroup.WithContext(ctx)
	copied := make(chan struct{})
	g.Go(func() error {
		defer close(copied)
		return c.copy(ctx, w)
	})
	g.Go(func() error { return r.watch(ctx, copied) })
	return g.Wait()
}

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

// stop reads pg_control, after all other files, ends the backup on the server
// and stores what it gives. WAL that was written since the start makes the
// copied files consistent; pg_control is only where recovery looks first.
func (r *run) stop(ctx context.Context) error {
	control, parsed, err := readControl(ctx, r.o.PGData)
	if err != nil {
		return err
	}
	if err := r.checkStillStandby(ctx); err != nil {
		return err
	}
	if parsed.SystemID != r.identity.SystemID || parsed.Timeline != r.header.Timeline {
		return fmt.Errorf("%s became another cluster or timeline during the backup", r.o.PGData)
	}
	if err := r.checkTablespaces(ctx); err != nil {
		return err
	}
	end := r.stopOnPrimary
	if r.primary != nil {
		end = r.stopOnStandby
	}
	result, after, err := end(ctx, parsed)
	if err != nil {
		return err
	}
	if err := r.checkLabel(result); err != nil {
		return err
	}
	r.header.Stop = repo.BackupPoint{Time: after.Now, LSN: result.LSN, WAL: r.walName(result.LSN - 1)}
	r.header.Start.WAL = r.walName(r.header.Start.LSN)
	owner, group := r.clusterOwner()
	files := []repo.File{{Path: controlPath}, {Path: "backup_label"}}
	contents := [][]byte{control, []byte(result.LabelFile)}
	if result.TablespaceMap != "" {
		files, contents = append(files, repo.File{Path: "tablespace_map"}), append(contents, []byte(result.TablespaceMap))
	}
	for i := range files {
		files[i].Type, files[i].Mode, files[i].ModTime = repo.TypeFile, 0o600, after.Now
		files[i].Owner, files[i].Group = owner, group
	}
	return r.to.together(ctx, func(d *destination) error {
		framer, err := d.Stanza.Repository().NewFramer()
		if err != nil {
			return err
		}
		return d.writer.AddLate(framer, slices.Clone(files), contents)
	})
}

func (r *run) stopOnPrimary(ctx context.Context, _ postgres.Control) (server.StopResult, server.Info, error) {
	result, err := r.conn.StopBackup(ctx)
	if err != nil {
		return result, server.Info{}, err
	}
	after, err := r.conn.Info(ctx)
	return result, after, err
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
	h, err := d.writer.Commit(r.header)
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
