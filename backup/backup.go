package backup

import (
	"context"
	"errors"
	"fmt"
	"path/filepath"
	"time"

	"golang.org/x/sync/errgroup"

	"github.com/pgbak/pgbak/internal/hint"
	"github.com/pgbak/pgbak/internal/postgres"
	"github.com/pgbak/pgbak/internal/postgres/server"
	"github.com/pgbak/pgbak/internal/readiness"
	"github.com/pgbak/pgbak/repo"
	"github.com/pgbak/pgbak/storage"
)

// run is a backup under way.
type run struct {
	o        Options
	began    time.Time
	identity repo.Identity
	conn     *server.Conn
	info     server.Info
	control  postgres.Control
	writer   *repo.BackupWriter
	header   repo.BackupHeader
	warnings []string
	pages    *pageErrors
	walker   *walker
}

// Run takes a backup. On any error, and when ctx ends, there is no backup: the
// server forgets the one it had begun, and what was stored is left under the
// operation's pin for a collector.
func Run(ctx context.Context, o Options) (Result, error) {
	r := &run{o: o.withDefaults(), began: o.Clock(), identity: o.Stanza.Current()}
	if r.o.Type != repo.Full {
		return Result{}, hint.Wrap(fmt.Errorf("backup type %q is not supported", r.o.Type), "this version writes full backups: use --type full.")
	}
	defer r.close()
	steps := []struct {
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
	}
	for _, s := range steps {
		r.o.Log.Debug("backup step", "step", s.name, "elapsed", o.Clock().Sub(r.began))
		if err := s.do(ctx); err != nil {
			return Result{}, errors.Join(err, r.makeRoom(ctx, err))
		}
	}
	return Result{Header: r.header, ReusedBytes: r.writer.Totals().ReusedBytes,
		Duration: o.Clock().Sub(r.began), Warnings: r.warnings}, nil
}

// close ends the session, which makes the server forget a backup not stopped,
// and the writer, which does nothing after Commit.
func (r *run) close() {
	if r.writer != nil && r.header.Operation == "" {
		r.writer.Abort()
	}
	if r.conn != nil {
		ctx, cancel := context.WithTimeout(context.Background(), 5*time.Second)
		defer cancel()
		_ = r.conn.Close(ctx)
	}
}

// makeRoom takes back what this backup has stored when the repository is full:
// WAL needs the room more. After other failures it is left to a collector.
func (r *run) makeRoom(ctx context.Context, cause error) error {
	if r.writer == nil || r.header.Operation != "" || !errors.Is(cause, storage.ErrNoSpace) {
		return nil
	}
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), time.Minute)
	defer cancel()
	err := r.writer.Discard(ctx)
	r.writer = nil
	if err != nil {
		return fmt.Errorf("what the backup had stored could not be removed: %w", err)
	}
	r.o.Log.Info("the repository is full: what this backup had stored was removed")
	return nil
}

func (r *run) warn(format string, args ...any) {
	w := fmt.Sprintf(format, args...)
	r.warnings = append(r.warnings, w)
	r.o.Log.Warn(w)
}

func (r *run) connect(ctx context.Context) (err error) {
	if r.conn, err = server.Connect(ctx, r.o.Connection); err != nil {
		return err
	}
	r.info, err = r.conn.Info(ctx)
	return err
}

// checkCluster compares server, files and stanza before anything is touched.
func (r *run) checkCluster(ctx context.Context) error {
	problems := readiness.Problems(r.info, r.o.PGData, r.identity)
	if err := readiness.Fatal(problems); err != nil {
		return err
	}
	for _, p := range problems {
		r.warn("%v", p.Error)
	}
	_, control, err := readControl(ctx, r.o.PGData)
	if err != nil {
		return err
	}
	if control.State != postgres.ControlInProduction {
		return hint.Wrap(fmt.Errorf("pg_control in %s says that its cluster is %s, not in production", r.o.PGData, control.State),
			"pgdata must be the data directory of the primary that connection leads to.")
	}
	if control.SystemID != r.identity.SystemID {
		return hint.Wrap(fmt.Errorf("%s: %w: its system identifier is %d, stanza %s belongs to %s", r.o.PGData,
			repo.ErrIdentityMismatch, control.SystemID, r.o.Stanza.Name(), r.identity),
			"check pgdata and connection in the configuration.")
	}
	return nil
}

// begin names the backup and pins its parent.
func (r *run) begin(ctx context.Context) (err error) {
	uploads := 4
	if r.o.Stanza.Repository().Store().Properties().CheapReads {
		uploads = 2 // a local disk needs only that one pack can be synced while the next is written
	}
	r.writer, err = r.o.Stanza.BeginBackup(ctx, r.identity, repo.BeginOptions{Type: r.o.Type, PageSize: r.info.BlockSize, Uploads: uploads})
	if err != nil {
		return err
	}
	if p := r.writer.Parent(); p != nil {
		r.o.Log.Info("backup begins", "label", r.writer.Label(), "parent", p.Label())
	} else {
		r.o.Log.Info("backup begins", "label", r.writer.Label())
	}
	return nil
}

// start proves that WAL reaches the repository and starts the backup. The
// server's checkpoint runs while the archiver works; nothing is copied before
// both are done.
func (r *run) start(ctx context.Context) error {
	switched, err := r.conn.SwitchWAL(ctx)
	if err != nil {
		return err
	}
	proof := postgres.WALFile{Kind: postgres.WALSegment, Timeline: r.info.Timeline, Segment: switched.Segment(r.identity.SegmentSize)}
	r.header.Start.Time = r.info.Now
	if r.header.Start.LSN, err = r.conn.StartBackup(ctx, "pgbak "+string(r.writer.Label()), r.o.StartFast); err != nil {
		return err
	}
	if err := r.waitFor(ctx, []postgres.WALFile{proof}); err != nil {
		return fmt.Errorf("before the backup: %w", err)
	}
	if r.control, err = waitForCheckpoint(ctx, r.o.PGData, r.header.Start.LSN); err != nil {
		return err
	}
	if r.control.Timeline != r.info.Timeline {
		return fmt.Errorf("pg_control in %s is on timeline %d, the server on %d", r.o.PGData, r.control.Timeline, r.info.Timeline)
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
	c := newCopier(r.o, r.writer, r.control)
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
			if err := r.conn.Ping(ctx); err != nil && ctx.Err() == nil {
				return fmt.Errorf("the session that holds the backup is lost: %w", err)
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
	if parsed.SystemID != r.identity.SystemID || parsed.Timeline != r.header.Timeline {
		return fmt.Errorf("%s became another cluster or timeline during the backup", r.o.PGData)
	}
	if err := r.checkTablespaces(ctx); err != nil {
		return err
	}
	result, err := r.conn.StopBackup(ctx)
	if err != nil {
		return err
	}
	if err := r.checkLabel(result); err != nil {
		return err
	}
	after, err := r.conn.Info(ctx)
	if err != nil {
		return err
	}
	r.header.Stop = repo.BackupPoint{Time: after.Now, LSN: result.LSN, WAL: r.walName(result.LSN - 1)}
	r.header.Start.WAL = r.walName(r.header.Start.LSN)
	framer, err := r.o.Stanza.Repository().NewFramer()
	if err != nil {
		return err
	}
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
	return r.writer.AddLate(framer, files, contents)
}

func (r *run) walName(lsn postgres.LSN) string {
	f := postgres.WALFile{Kind: postgres.WALSegment, Timeline: r.header.Timeline, Segment: lsn.Segment(r.identity.SegmentSize)}
	return f.Name(r.identity.SegmentSize)
}

// commit puts the manifest: the backup exists from here on.
func (r *run) commit(context.Context) error {
	h := r.header
	h.PageErrorCount, h.PageErrors = r.pages.total, r.pages.files
	if p := r.writer.Parent(); p != nil && p.Err() != nil {
		r.warn("parent %s could not be read completely, its content was stored again: %v", p.Label(), p.Err())
	}
	r.warnings = append(r.warnings, r.pages.warnings()...)
	h, err := r.writer.Commit(h)
	if h.Operation != "" {
		r.header = h // the writer is done with, whatever came of it
	}
	if errors.Is(err, repo.ErrPinLeft) {
		r.warn("%v; it only keeps the parent from being collected", err)
		return nil
	}
	return err
}
