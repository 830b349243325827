package backup

import (
	"context"
	"fmt"
	"path/filepath"

	"golang.org/x/sync/errgroup"

	"github.com/pgbak/pgbak/internal/hint"
	"github.com/pgbak/pgbak/internal/postgres"
	"github.com/pgbak/pgbak/internal/postgres/server"
	"github.com/pgbak/pgbak/repo"
)

// Source is where the files of a cluster come from and how a backup of them is
// bracketed. The methods are called once each, in this order; on an error the
// run ends, and closing its sessions ends what the server began.
type Source interface {
	// Check compares what the source itself says of the cluster with the
	// server and the stanzas, before anything is touched.
	Check(ctx context.Context) error
	// Start begins the backup on the server under a label and gives where its
	// WAL begins.
	Start(ctx context.Context, label string) (postgres.LSN, error)
	// Settle waits until the source shows the checkpoint that begins at start:
	// what is copied afterwards is not older. It gives pg_control, of which
	// version, timeline, sizes and checksums are set.
	Settle(ctx context.Context, start postgres.LSN) (postgres.Control, error)
	// Copy copies all files but those that Stop gives.
	Copy(ctx context.Context) error
	// Stop ends the backup on the server. It is called when the copy is complete.
	Stop(ctx context.Context) (Stopped, error)
	// Close frees what the source holds, whatever was called before.
	Close(ctx context.Context)
}

// Stopped is what a source gives at the end of a backup.
type Stopped struct {
	server.StopResult
	Control []byte // the content of pg_control, read after all other files
	// Owner and Group are those of the data directory, empty when not known.
	Owner, Group string
}

// localFiles is the source that reads the server's data directory on this host.
type localFiles struct {
	*run
	walker  *walker
	changes changes
}

// Check compares pg_control, which is what the files say, with the stanzas.
func (l *localFiles) Check(ctx context.Context) error {
	return l.checkFiles(ctx, postgres.ControlInProduction)
}

func (l *localFiles) checkFiles(ctx context.Context, want postgres.ControlState) error {
	_, control, err := readControl(ctx, l.o.PGData)
	if err != nil {
		return err
	}
	if control.State != want {
		return hint.Wrap(fmt.Errorf("pg_control in %s says that its cluster is %s, not %s", l.o.PGData, control.State, want),
			"pgdata must be the data directory of the running server that connection leads to.")
	}
	if control.SystemID != l.info.SystemID {
		return hint.Wrap(fmt.Errorf("%s: %w: its system identifier is %d, stanza %s belongs to %s", l.o.PGData,
			repo.ErrIdentityMismatch, control.SystemID, l.to.first().Stanza.Name(), l.to.first().identity),
			"check pgdata and connection in the configuration.")
	}
	return l.checkPageSize(ctx, l.o.PGData, control.BlockSize)
}

// checkPageSize drops the repositories whose stanza has pages of another size.
func (r *run) checkPageSize(ctx context.Context, what string, size int) error {
	return r.to.each(ctx, func(_ int, d *destination) error {
		if size == d.identity.BlockSize {
			return nil
		}
		return hint.Wrap(fmt.Errorf("%s: %w: its pages have %d bytes, stanza %s has pages of %d bytes", what,
			repo.ErrIdentityMismatch, size, d.Stanza.Name(), d.identity.BlockSize),
			"a cluster with another size of pages needs a stanza of its own.")
	})
}

// Start begins the backup by pg_backup_start.
func (l *localFiles) Start(ctx context.Context, label string) (postgres.LSN, error) {
	return l.conn.StartBackup(ctx, label, l.o.StartFast)
}

// Settle waits until the checkpoint stands in the files, and finds out what has
// changed since the parents.
func (l *localFiles) Settle(ctx context.Context, start postgres.LSN) (postgres.Control, error) {
	control, err := waitForCheckpoint(ctx, l.o.PGData, start)
	if err != nil {
		return control, err
	}
	l.changes, err = l.findChanges(ctx, control)
	return control, err
}

// Copy copies all files while the session is watched.
func (l *localFiles) Copy(ctx context.Context) error {
	root, err := filepath.EvalSymlinks(l.o.PGData)
	if err != nil {
		return fmt.Errorf("data directory: %w", err)
	}
	c := newCopier(l.o, l.to, l.control, l.changes)
	l.pages = &c.errors
	l.walker = &walker{root: root, owners: newOwners(), warn: l.warn, exclude: excluder{user: l.o.Exclude}, tablespaces: map[string]bool{},
		version: fmt.Sprintf("PG_%d_%d", l.control.Major, l.control.CatalogVersion)}
	g, ctx := errgroup.WithContext(ctx)
	copied := make(chan struct{})
	g.Go(func() error {
		defer close(copied)
		return c.copy(ctx, l.walker)
	})
	g.Go(func() error { return l.watch(ctx, copied) })
	err = g.Wait()
	l.header.Ways, l.header.WayReason = c.uses.list(), l.changes.reason
	return err
}

// Stop reads pg_control and ends the backup by pg_backup_stop.
func (l *localFiles) Stop(ctx context.Context) (Stopped, error) {
	s, _, err := l.lastFile(ctx)
	if err == nil {
		s.StopResult, err = l.conn.StopBackup(ctx)
	}
	return s, err
}

// lastFile reads pg_control and proves that all files were those of one cluster.
func (l *localFiles) lastFile(ctx context.Context) (s Stopped, control postgres.Control, err error) {
	if s.Control, control, err = readControl(ctx, l.o.PGData); err != nil {
		return s, control, err
	}
	if control.SystemID != l.identity.SystemID || control.Timeline != l.header.Timeline {
		return s, control, fmt.Errorf("%s became another cluster or timeline during the backup", l.o.PGData)
	}
	s.Owner, s.Group = l.clusterOwner()
	return s, control, l.checkTablespaces(ctx)
}

// Close has nothing to do: the session is the run's.
func (l *localFiles) Close(context.Context) {}

// newSource makes the source that the options name, for the server that is there.
func newSource(ctx context.Context, r *run) (Source, error) {
	from := r.o.From
	if from == FromPreferStandby && !r.info.InRecovery {
		r.o.Log.Info("the server is not a standby, the backup is that of a primary")
		from = FromLocal
	} else if from == FromPreferStandby {
		from = FromStandby
	}
	r.header.Source = string(from)
	switch from {
	case FromLocal:
		return &localFiles{run: r}, nil
	case FromStream:
		return &streamedFiles{run: r}, nil
	case FromStandby:
		return &standbyFiles{localFiles{run: r}}, r.connectPrimary(ctx)
	}
	return nil, hint.Wrap(fmt.Errorf("backup from %q is not supported", r.o.From), "use --from local, --from standby, --from prefer-standby or --from stream.")
}
