package main

import (
	"context"
	"errors"
	"fmt"
	"runtime/debug"
	"strings"
	"sync"
	"time"

	"github.com/spf13/cobra"

	"github.com/pgbak/pgbak/backup"
	"github.com/pgbak/pgbak/internal/hint"
	"github.com/pgbak/pgbak/repo"
)

// backupFlags are the flags of backup as they were given.
type backupFlags struct {
	output      outputFlag
	typ         string
	from        string
	startFast   bool
	timeout     time.Duration
	annotations []string
	exclude     []string
}

func (a *app) backupCommand() *cobra.Command {
	var f backupFlags
	cmd := &cobra.Command{
		Use:   "backup",
		Short: "Take a base backup of the running cluster",
		Long: `backup copies the cluster in pgdata into the repository while the server runs,
verifies the checksum of every page, and ends only when all WAL that the backup
needs is in the repository.

It goes to the first configured repository, to the one named by --repo, or with
--repo all to every one, for which the cluster is read only once. A repository
that fails does not keep the backup from the others; the command then ends with
the code of the failure and says which repositories have a backup.

pgdata and connection of the stanza are those of a server on this host. With
--from standby it must be a standby: its files are read, and its primary, to
which primary-connection leads, makes the checkpoint and archives the WAL. With
--from prefer-standby the server may be either.`,
		Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			if err := f.check(); err != nil {
				return &usageError{err: err, command: cmd.CommandPath()}
			}
			return a.backup(cmd, f)
		},
	}
	flags := cmd.Flags()
	flags.SortFlags = false
	flags.StringVar(&f.typ, "type", string(repo.Full), "`TYPE` of the backup: full (this version writes full backups only)")
	flags.StringVar(&f.from, "from", string(backup.FromLocal), "`SOURCE` of the files: local (a primary), standby, prefer-standby (a standby if the server is one now)")
	flags.BoolVar(&f.startFast, "start-fast", true, "begin with an immediate checkpoint instead of waiting for a spread one")
	flags.DurationVar(&f.timeout, "archive-timeout", time.Minute, "how long to wait for the next WAL segment to reach the repository (`DURATION` like 60s)")
	flags.StringArrayVar(&f.annotations, "annotation", nil, "note to keep with the backup (`KEY=VALUE`; may be repeated)")
	flags.StringArrayVar(&f.exclude, "exclude", nil, "leave out a file or directory of pgdata (`PATH` relative to it; may be repeated)")
	f.output.add(cmd)
	return cmd
}

func (f backupFlags) check() error {
	if err := f.output.check(); err != nil {
		return err
	}
	switch repo.BackupType(f.typ) {
	case repo.Full:
	case repo.Differential, repo.Incremental:
		return fmt.Errorf("--type %s: this version writes full backups only", f.typ)
	default:
		return fmt.Errorf("--type %q is unknown: use full", f.typ)
	}
	switch backup.From(f.from) {
	case backup.FromLocal, backup.FromStandby, backup.FromPreferStandby:
	default:
		return fmt.Errorf("--from %q is unknown: use local, standby or prefer-standby", f.from)
	}
	if f.timeout <= 0 {
		return errors.New("--archive-timeout must be more than 0")
	}
	return nil
}

func (a *app) backup(cmd *cobra.Command, f backupFlags) error {
	sel, err := a.selected()
	if err != nil {
		return err
	}
	if a.repositoryName() == "" {
		sel.repositories = sel.repositories[:1]
	}
	if backup.From(f.from) != backup.FromLocal && sel.stanza.Primary == "" {
		return hint.Wrap(&configError{fmt.Errorf("--from %s: stanza %s has no primary-connection", f.from, sel.stanza.Name)},
			"set primary-connection to a connection string that leads to the primary of the standby.")
	}
	id, err := clusterIdentity(sel.stanza)
	if err != nil {
		return err
	}
	annotations, err := parseAnnotations(f.annotations)
	if err != nil {
		return &usageError{err: err, command: cmd.CommandPath()}
	}
	outcomes := a.openForBackup(cmd.Context(), sel, id)
	into, err := backupTargets(outcomes)
	if len(into) == 0 {
		return err
	}
	// Most of the heap is buffers that live as long as the backup: at the usual
	// 100 % the collector would let as much garbage gather again.
	debug.SetGCPercent(25)
	p := a.newProgress("backup")
	result, runErr := backup.Run(cmd.Context(), backup.Options{
		Repositories: into, PGData: sel.stanza.PGData, Connection: sel.stanza.Connection,
		From: backup.From(f.from), Primary: sel.stanza.Primary, Processes: sel.processes,
		Type: repo.BackupType(f.typ), StartFast: f.startFast, ArchiveTimeout: f.timeout, Log: a.log, Clock: a.clock,
		Version: version, Annotations: annotations, Exclude: f.exclude,
		Progress: func(b backup.Progress) { p.show(b.Files, b.Bytes, 0) },
	})
	p.end()
	err = join(err, runErr)
	out := newBackupResult(outcomes, result)
	if out.Backup == nil {
		return err
	}
	return errors.Join(f.output.print(a, out, out.text), err)
}

// backupOutcome is what became of the backup in one repository: where it could
// not be opened, why; else what backup.Run says, in the order of its options.
type backupOutcome struct {
	opened
	err error
}

// openForBackup opens the selected repositories at the same time. One that
// cannot be opened does not keep the backup from the others.
func (a *app) openForBackup(ctx context.Context, sel selection, id repo.Identity) []backupOutcome {
	outcomes := make([]backupOutcome, len(sel.repositories))
	var opening sync.WaitGroup
	for i, rc := range sel.repositories {
		opening.Go(func() {
			o, err := a.openStanza(ctx, rc, sel.stanza.Name, toWrite)
			if err == nil {
				err = sameCluster(o, sel.stanza, id)
			}
			o.repository = rc
			outcomes[i] = backupOutcome{o, err}
		})
	}
	opening.Wait()
	return outcomes
}

// backupTargets are the repositories that were opened; the error is that of the others.
func backupTargets(outcomes []backupOutcome) (targets []backup.Repository, err error) {
	for _, o := range outcomes {
		if o.err == nil {
			targets = append(targets, backup.Repository{Name: o.repository.Name, Stanza: o.stanza})
		}
		err = join(err, o.err)
	}
	return targets, err
}

// join keeps a single error what it is, so that its text has no frills.
func join(a, b error) error {
	switch {
	case a == nil:
		return b
	case b == nil:
		return a
	}
	return fmt.Errorf("%w; %w", a, b)
}

// parseAnnotations reads repeated KEY=VALUE.
func parseAnnotations(pairs []string) (map[string]string, error) {
	m := map[string]string{}
	for _, pair := range pairs {
		key, value, ok := strings.Cut(pair, "=")
		if !ok || key == "" {
			return nil, fmt.Errorf("--annotation %q is not of the form KEY=VALUE", pair)
		}
		if _, twice := m[key]; twice {
			return nil, fmt.Errorf("--annotation names %q twice", key)
		}
		m[key] = value
	}
	return m, nil
}
