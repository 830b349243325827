package main

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"time"

	"github.com/spf13/cobra"

	"github.com/pgbak/pgbak/archive"
	"github.com/pgbak/pgbak/internal/hint"
	"github.com/pgbak/pgbak/internal/postgres"
	"github.com/pgbak/pgbak/repo"
)

func (a *app) archiveGetCommand() *cobra.Command {
	identity := 0
	cmd := &cobra.Command{
		Use:   archiveGetName + " NAME PATH",
		Short: "Fetch a WAL file from a repository (restore_command)",
		Long: `archive-get writes the WAL file NAME to PATH, whole and verified, or not at all.
restore writes the setting that calls it. In a setting written by hand put the
same trap before it, or a crash (status 2) is taken as the end of WAL:

  restore_command = 'trap ''if [ $? -eq 2 ]; then [ -e standby.signal ] && exit 75; exit 200; fi'' EXIT; pgbak --config FILE --stanza NAME archive-get %f "%p"'

It ends with 1 only if the file is proven to be in no repository; PostgreSQL
takes that as the end of WAL. Any trouble ends with 200, which stops recovery
instead of ending it too early. On a standby (standby.signal is in the working
directory, or --standby) trouble ends with 75, and the standby asks again.`,
		Args: cobra.ExactArgs(2),
		RunE: func(cmd *cobra.Command, args []string) error {
			if identity < 0 || identity == 0 && cmd.Flags().Changed("identity") {
				return &usageError{err: fmt.Errorf("--identity %d: identities are counted from 1", identity), command: cmd.CommandPath()}
			}
			return a.archiveGet(cmd.Context(), identity, args[0], args[1])
		},
	}
	cmd.Flags().IntVar(&identity, "identity", 0, "`NUMBER` of the identity whose WAL is wanted, where it is the data directory's cluster (restore writes it; default: all that are)")
	cmd.Flags().Bool("standby", false, "exit with 75 on trouble, as if standby.signal were there")
	return cmd
}

func (a *app) archiveGet(ctx context.Context, identity int, name, dest string) error {
	sel, err := a.selected()
	if err != nil {
		return err
	}
	control, err := a.workingControl()
	if err != nil {
		return err
	}
	if got, done, err := a.getByAgent(ctx, sel, identity, control, name, dest); done {
		a.logGot(name, got, err)
		return err
	}
	r := recovering{selection: sel, asked: a.repositoryName(), identity: identity, control: control}
	sources := openedOnce(a.sources(r))
	getter, err := archive.NewGetter(sources...)
	if err != nil {
		return err
	}
	got, err := a.getBy(ctx, r, sources, getter)(ctx, name, dest)
	a.logGot(name, got, err)
	return err
}

// logGot says where a file came from.
func (a *app) logGot(name string, got archive.Got, err error) {
	for _, w := range got.Warnings {
		a.log.Warn(w)
	}
	if err == nil {
		a.log.Debug("fetched", "file", name, "repository", got.Repository, "ahead", got.Repository == "")
	}
}

// getBy is how a file is got: through the queue of what was fetched ahead, or
// straight from the repositories where there is no spool, or none that can be used.
func (a *app) getBy(ctx context.Context, r recovering, sources []archive.Source, getter *archive.Getter) func(ctx context.Context, name, dest string) (archive.Got, error) {
	if r.config.Archive.Spool == "" || r.control == nil {
		return getter.Get
	}
	var err error
	if r.directory, err = filepath.Abs(a.directory); err == nil {
		r.instance = instanceOf(r.directory)
		var ahead *archive.PrefetchGetter
		if ahead, err = a.prefetching(ctx, r, sources, getter); err == nil {
			return ahead.Get
		}
	}
	a.log.Warn("nothing is fetched ahead", "error", oneLine(err.Error()))
	return getter.Get
}

// sources are the repositories that were selected, to be opened when they are asked.
func (a *app) sources(r recovering) []archive.Source {
	var sources []archive.Source
	for _, rc := range r.repositories {
		sources = append(sources, archive.Source{Name: rc.Name, Open: func(ctx context.Context) (*repo.Stanza, []repo.Identity, error) {
			return a.openSource(ctx, rc, r.stanza.Name, r.identity, r.control)
		}})
	}
	return sources
}

// openSource opens the stanza and finds out which of its identities may have the
// file: a file is absent only if none has it. control is nil if the working
// directory is no data directory.
func (a *app) openSource(ctx context.Context, rc repositoryConfig, stanza string, identity int, control *postgres.Control) (*repo.Stanza, []repo.Identity, error) {
	o, err := a.openStanza(ctx, rc, stanza, toRead)
	if err != nil {
		return nil, nil, err
	}
	ids := wantedIdentities(o.stanza.Identities(), identity, control)
	if len(ids) == 0 {
		return nil, nil, noIdentity(rc.Name, stanza, identity, control)
	}
	return o.stanza, ids, nil
}

// wantedIdentities picks from all identities, the newest first. Several are
// the cluster of the control file when the stanza came back to a cluster, for
// instance by init --upgrade after a rollback; then the number, if one was
// given, decides. It does not where it is another cluster's: every repository
// counts for itself. Without a control file there is only the number, or the
// identity that archives now.
func wantedIdentities(all []repo.Identity, number int, control *postgres.Control) []repo.Identity {
	var matching []repo.Identity
	for _, id := range slices.Backward(all) {
		fits := control == nil || id.SystemID == control.SystemID && id.Major == control.Major && id.SegmentSize == control.WALSegmentSize
		switch {
		case fits && id.Number == number:
			return []repo.Identity{id}
		case fits && (control != nil || number == 0 && len(matching) == 0):
			matching = append(matching, id)
		}
	}
	return matching
}

// noIdentity says what was looked for in vain.
func noIdentity(repository, stanza string, number int, control *postgres.Control) error {
	if control == nil {
		return hint.Wrap(fmt.Errorf("repository %q: stanza %s: %w: it has no identity %d", repository, stanza, repo.ErrIdentityMismatch, number),
			"'pgbak info' shows the identities.")
	}
	return hint.Wrap(fmt.Errorf("repository %q: stanza %s: %w: the data directory has system identifier %d (PostgreSQL %d, WAL segments of %d bytes)",
		repository, stanza, repo.ErrIdentityMismatch, control.SystemID, control.Major, control.WALSegmentSize),
		"check --stanza in restore_command.")
}

// workingControl reads the control file of the working directory, which is the
// data directory when the server calls; nil if it is none.
func (a *app) workingControl() (*postgres.Control, error) {
	control, err := readControl(a.directory)
	if errors.Is(err, fs.ErrNotExist) {
		return nil, nil
	}
	return control, err
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
