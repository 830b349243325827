package main

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/spf13/cobra"

	"github.com/pgbak/pgbak/internal/hint"
	"github.com/pgbak/pgbak/internal/postgres"
	"github.com/pgbak/pgbak/internal/postgres/server"
	"github.com/pgbak/pgbak/repo"
)

// connectPatience is how long init looks for a server that need not run.
const connectPatience = 5 * time.Second

func (a *app) initCommand() *cobra.Command {
	var upgrade bool
	cmd := &cobra.Command{
		Use:   "init",
		Short: "Create the repository and the stanza",
		Long: `init creates every configured repository (or the one named by --repo) where it
is missing, and the stanza in it. The stanza takes its identity (system
identifier, major version, segment size) from the control file in pgdata; if the
server runs, it must be of the same cluster. A stanza without pgdata takes it
from the server at connection. Running init again changes nothing.

After pg_upgrade, --upgrade records that the stanza's cluster has a new identity.
What was backed up and archived before stays usable.`,
		Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error { return a.initialise(cmd.Context(), upgrade) },
	}
	cmd.Flags().BoolVar(&upgrade, "upgrade", false, "record the cluster's new identity after pg_upgrade")
	return cmd
}

func (a *app) initialise(ctx context.Context, upgrade bool) error {
	sel, err := a.selected()
	if err != nil {
		return err
	}
	id, err := clusterIdentity(ctx, sel.stanza)
	if err != nil {
		return err
	}
	if sel.stanza.PGData != "" {
		if err := a.compareServer(ctx, sel.stanza, id); err != nil {
			return err
		}
	}
	for _, rc := range sel.repositories {
		if err := a.initRepository(ctx, rc, sel.stanza.Name, id, upgrade); err != nil {
			return err
		}
	}
	return nil
}

// clusterIdentity reads the identity of the cluster in the stanza's pgdata; if it
// has none, the server at connection tells it.
func clusterIdentity(ctx context.Context, s stanzaConfig) (repo.Identity, error) {
	if s.PGData == "" {
		return serverIdentity(ctx, s)
	}
	c, err := readControl(s.PGData)
	if err != nil {
		return repo.Identity{}, hint.Wrap(&serverError{fmt.Errorf("stanza %s: %w", s.Name, err)},
			"check pgdata of the stanza in the configuration, and run pgbak as the user that owns it.")
	}
	return identityOf(*c), nil
}

// serverIdentity asks the server.
func serverIdentity(ctx context.Context, s stanzaConfig) (repo.Identity, error) {
	conn, err := server.Connect(ctx, s.Connection)
	if err != nil {
		return repo.Identity{}, err
	}
	defer conn.Close(context.WithoutCancel(ctx))
	c, err := conn.Layout(ctx)
	return identityOf(c), err
}

func identityOf(c postgres.Control) repo.Identity {
	return repo.Identity{
		SystemID: c.SystemID, Major: c.Major, SegmentSize: c.WALSegmentSize, BlockSize: c.BlockSize,
		CatalogVersion: c.CatalogVersion, ControlVersion: c.ControlVersion,
	}
}

// compareServer refuses a running server that is another cluster than pgdata
// holds. That no server answers is no error: init may come before the first start.
func (a *app) compareServer(ctx context.Context, s stanzaConfig, id repo.Identity) error {
	if s.Connection == "" {
		return nil
	}
	ctx, cancel := context.WithTimeout(ctx, connectPatience)
	defer cancel()
	conn, err := server.Connect(ctx, s.Connection)
	if err != nil {
		if errors.Is(context.Cause(ctx), context.DeadlineExceeded) || ctx.Err() == nil {
			a.log.Info("the server was not reached; the identity is that of the control file", "pgdata", s.PGData, "reason", oneLine(err.Error()))
			return nil
		}
		return err
	}
	defer conn.Close(context.WithoutCancel(ctx))
	info, err := conn.Info(ctx)
	if err != nil {
		return err
	}
	if info.SystemID == id.SystemID {
		return nil
	}
	return hint.Wrap(fmt.Errorf("stanza %s: %w: pgdata %s has system identifier %d, the server at connection has system identifier %d",
		s.Name, repo.ErrIdentityMismatch, s.PGData, id.SystemID, info.SystemID),
		"let pgdata and connection of the stanza lead to the same cluster.")
}

func (a *app) initRepository(ctx context.Context, rc repositoryConfig, stanza string, id repo.Identity, upgrade bool) error {
	to := toCreate
	if upgrade {
		to = toWrite // what is upgraded is there: a new repository where the url is wrong helps nobody
	}
	r, err := a.openRepository(ctx, rc, to)
	if err != nil {
		return err
	}
	if !upgrade {
		s, err := r.CreateStanza(ctx, stanza, id)
		if err != nil {
			return fmt.Errorf("repository %q: %w", rc.Name, err)
		}
		return a.printStanza(rc, s.Name(), s.Current())
	}
	s, err := r.Stanza(ctx, stanza)
	if err != nil {
		return fmt.Errorf("repository %q: %w", rc.Name, err)
	}
	if id, err = s.AddIdentity(ctx, id); err != nil {
		return fmt.Errorf("repository %q: %w", rc.Name, err)
	}
	return a.printStanza(rc, s.Name(), id)
}

func (a *app) printStanza(rc repositoryConfig, stanza string, id repo.Identity) error {
	_, err := fmt.Fprintf(a.stdout, "repository %s: stanza %s is ready (identity %d: system identifier %d, PostgreSQL %d, WAL segments of %s)\n",
		rc.Name, stanza, id.Number, id.SystemID, id.Major, sizeText(id.SegmentSize))
	return err
}

// sameCluster refuses a data directory that is not the stanza's cluster.
func sameCluster(o opened, s stanzaConfig, id repo.Identity) error {
	current := o.stanza.Current()
	if current.SystemID == id.SystemID && current.Major == id.Major && current.SegmentSize == id.SegmentSize {
		return nil
	}
	advice := "check pgdata and --stanza; a new cluster needs a stanza of its own."
	if current.SystemID != id.SystemID && current.Major < id.Major {
		advice = "after pg_upgrade run 'pgbak init --upgrade'; otherwise check pgdata and --stanza."
	}
	return hint.Wrap(fmt.Errorf("repository %q: stanza %s: %w: it belongs to %s, %s %s",
		o.repository.Name, s.Name, repo.ErrIdentityMismatch, current, s.holder(), id), "%s", advice)
}

// holder says where a cluster was found, before its identity.
func (s stanzaConfig) holder() string {
	if s.PGData == "" {
		return "the server at connection is"
	}
	return "pgdata " + s.PGData + " holds"
}

// serverError marks what is wrong with the server's side: its data directory
// or its state.
type serverError struct{ err error }

func (e *serverError) Error() string { return e.err.Error() }
func (e *serverError) Unwrap() error { return e.err }
