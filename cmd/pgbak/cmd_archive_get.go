package main

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"time"

	"github.com/spf13/cobra"

	"github.com/pgbak/pgbak/archive"
	"github.com/pgbak/pgbak/internal/hint"
	"github.com/pgbak/pgbak/internal/postgres"
	"github.com/pgbak/pgbak/repo"
)

func (a *app) archiveGetCommand() *cobra.Command {
	cmd := &cobra.Command{
		Use:   archiveGetName + " NAME PATH",
		Short: "Fetch a WAL file from a repository (restore_command)",
		Long: `archive-get writes the WAL file NAME to PATH, whole and verified, or not at all.
restore writes the setting that calls it:

  restore_command = 'pgbak --config FILE --stanza NAME archive-get %f "%p"'

It ends with 1 only if the file is proven to be in no repository; PostgreSQL
takes that as the end of WAL. Any trouble ends with 200, which stops recovery
instead of ending it too early. On a standby (standby.signal is in the working
directory, or --standby) trouble ends with 75, and the standby asks again.`,
		Args: cobra.ExactArgs(2),
		RunE: func(cmd *cobra.Command, args []string) error { return a.archiveGet(cmd.Context(), args[0], args[1]) },
	}
	cmd.Flags().Bool("standby", false, "exit with 75 on trouble, as if standby.signal were there")
	return cmd
}

func (a *app) archiveGet(ctx context.Context, name, dest string) error {
	sel, err := a.selected()
	if err != nil {
		return err
	}
	control, err := readControl(a.directory)
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	var sources []archive.Source
	var failed error
	for _, rc := range sel.repositories {
		s, err := a.source(ctx, rc, sel.stanza.Name, control)
		if err != nil {
			failed = join(failed, err)
			continue
		}
		sources = append(sources, s)
	}
	if len(sources) == 0 {
		return failed
	}
	getter, err := archive.NewGetter(sources...)
	if err != nil {
		return err
	}
	warnings, err := getter.Get(ctx, name, dest)
	for _, w := range warnings {
		a.log.Warn(w)
	}
	if failed != nil && errors.Is(err, archive.ErrAbsent) {
		// Absent from those that answered: nobody knows about the others.
		return failed
	}
	if failed != nil && err == nil {
		a.log.Warn(failed.Error())
	}
	return err
}

// source opens the stanza and finds out which of its identities asks. control
// is nil if the working directory is no data directory; then it is the current one.
func (a *app) source(ctx context.Context, rc repositoryConfig, stanza string, control *postgres.Control) (archive.Source, error) {
	o, err := a.openStanza(ctx, rc, stanza)
	if err != nil {
		return archive.Source{}, err
	}
	s := archive.Source{Target: archive.Target{Name: rc.Name, Stanza: o.stanza}, Identity: o.stanza.Current()}
	if control == nil {
		return s, nil
	}
	id, found := o.stanza.FindIdentity(control.SystemID, control.Major)
	if !found {
		return s, hint.Wrap(fmt.Errorf("repository %q: stanza %s: %w: the data directory has system identifier %d (PostgreSQL %d)",
			rc.Name, stanza, repo.ErrIdentityMismatch, control.SystemID, control.Major),
			"check --stanza in restore_command.")
	}
	s.Identity = id
	return s, nil
}

// readControl reads global/pg_control of a data directory. A server may be
// writing it at this moment, so a checksum that fails is given some time.
func readControl(pgdata string) (*postgres.Control, error) {
	const tries, pause = 20, 20 * time.Millisecond
	path := filepath.Join(pgdata, "global", "pg_control")
	for try := 1; ; try++ {
		data, err := os.ReadFile(path)
		if err != nil {
			return nil, fmt.Errorf("read control file: %w", err)
		}
		control, err := postgres.ParseControl(data)
		if err == nil {
			return &control, nil
		}
		if try == tries || !errors.Is(err, postgres.ErrControlChecksum) {
			return nil, fmt.Errorf("%s: %w", path, err)
		}
		time.Sleep(pause)
	}
}
