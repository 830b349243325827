package main

import (
	"context"
	"errors"
	"fmt"
	"path"
	"path/filepath"
	"regexp"
	"runtime/debug"
	"slices"
	"strings"
	"sync"
	"time"
	"unicode"
	"unicode/utf8"

	"github.com/spf13/cobra"

	"github.com/pgbak/pgbak/backup"
	"github.com/pgbak/pgbak/internal/hint"
	"github.com/pgbak/pgbak/repo"
	"github.com/pgbak/pgbak/storage/limit"
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
	maxRate     string
}

func (a *app) backupCommand() *cobra.Command {
	var f backupFlags
	cmd := &cobra.Command{
		Use:   "backup",
		Short: "Take a base backup of the running cluster",
		Long: `backup copies the cluster in pgdata into the repository while the server runs,
verifies the checksum of every page that it reads, and ends only when all WAL
that the backup needs is in the repository.

A full backup reads everything. A differential backup (diff) takes from the
newest full one what has not changed since, an incremental backup (incr) from the
newest backup of any type. Each is restored like a full one, in one step. The
result says how it was found out what has changed: by WAL summaries, where only
changed pages are read, or by reading all pages and comparing their hashes.

It goes to the first configured repository, to the one named by --repo, or with
--repo all to every one, for which the cluster is read only once. A repository
that fails does not keep the backup from the others; the command then ends with
the code of the failure and says which repositories have a backup.

pgdata and connection of the stanza are those of a server on this host. With
--from standby it must be a standby: its files are read, and its primary, to
which primary-connection leads, makes the checkpoint and archives the WAL. With
--from prefer-standby the server may be either. With --from stream the server
sends its files over the replication protocol, and pgdata is not needed.`,
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
	flags.StringVar(&f.typ, "type", string(repo.Full), "`TYPE` of the backup: full, diff (what changed since the newest full one) or incr (since the newest one)")
	flags.StringVar(&f.from, "from", string(backup.FromLocal), "`SOURCE` of the files: local (a primary), standby, prefer-standby (a standby if the server is one now) or stream")
	flags.BoolVar(&f.startFast, "start-fast", true, "begin with an immediate checkpoint instead of waiting for a spread one")
	flags.DurationVar(&f.timeout, "archive-timeout", time.Minute, "how long to wait for the next WAL segment to reach the repository (`DURATION` like 60s)")
	flags.StringArrayVar(&f.annotations, "annotation", nil, "note to keep with the backup (`KEY=VALUE`; may be repeated)")
	flags.StringArrayVar(&f.exclude, "exclude", nil, "leave out a file or directory of pgdata (`PATH` relative to it; may be repeated)")
	flags.StringVar(&f.maxRate, "max-rate", "", "read no more than so many bytes per second from pgdata (`RATE` like 50MiB/s; default: no bound)")
	f.output.add(cmd)
	return cmd
}

func (f backupFlags) check() error {
	if err := f.output.check(); err != nil {
		return err
	}
	switch repo.BackupType(f.typ) {
	case repo.Full, repo.Differential, repo.Incremental:
	default:
		return fmt.Errorf("--type %q is unknown: use full, diff or incr", f.typ)
	}
	switch backup.From(f.from) {
	case backup.FromLocal, backup.FromStandby, backup.FromPreferStandby, backup.FromStream:
	default:
		return fmt.Errorf("--from %q is unknown: use local, standby, prefer-standby or stream", f.from)
	}
	if f.timeout <= 0 {
		return errors.New("--archive-timeout must be more than 0")
	}
	if _, err := parseAnnotations(f.annotations); err != nil {
		return err
	}
	if _, err := parseMaxRate(f.maxRate); err != nil {
		return err
	}
	return checkExclude(f.exclude)
}

func (a *app) backup(cmd *cobra.Command, f backupFlags) error {
	sel, err := a.selected()
	if err != nil {
		return err
	}
	if a.repositoryName() == "" {
		sel.repositories = sel.repositories[:1]
	}
	if err := checkSource(backup.From(f.from), sel.stanza); err != nil {
		return err
	}
	if backup.From(f.from) == backup.FromStream {
		sel.stanza.PGData = "" // of this host: it may be there, and of another cluster
	}
	id, err := clusterIdentity(cmd.Context(), sel.stanza)
	if err != nil {
		return err
	}
	annotations, err := parseAnnotations(f.annotations)
	if err != nil {
		return err
	}
	maxRate, err := parseMaxRate(f.maxRate)
	if err != nil {
		return err
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
		Version: version, Annotations: annotations, Exclude: f.exclude, MaxRate: maxRate,
		Progress: func(b backup.Progress) { p.show(b.Files, b.Bytes, b.Total) },
	})
	p.end()
	err = join(err, runErr)
	out := newBackupResult(outcomes, result)
	if out.Backup == nil {
		return err
	}
	return errors.Join(f.output.print(a, out, out.text), err)
}

// checkSource refuses a source that the configuration does not lead to.
func checkSource(from backup.From, s stanzaConfig) error {
	switch {
	case from == backup.FromStream:
		return nil
	case s.PGData == "":
		return hint.Wrap(&configError{fmt.Errorf("--from %s: stanza %s has no pgdata", from, s.Name)},
			"set pgdata to the data directory on this host, or use --from stream.")
	case from != backup.FromLocal && s.Primary == "":
		return hint.Wrap(&configError{fmt.Errorf("--from %s: stanza %s has no primary-connection", from, s.Name)},
			"set primary-connection to a connection string that leads to the primary of the standby.")
	}
	return nil
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

// What an annotation may be: short enough for a line of info, and without what
// would make that line look like another.
const (
	maxAnnotations     = 64
	maxAnnotationKey   = 64   // bytes
	maxAnnotationValue = 1024 // bytes
)

// parseAnnotations reads repeated KEY=VALUE.
func parseAnnotations(pairs []string) (map[string]string, error) {
	if len(pairs) > maxAnnotations {
		return nil, fmt.Errorf("--annotation is given %d times: a backup takes %d", len(pairs), maxAnnotations)
	}
	m := map[string]string{}
	for _, pair := range pairs {
		key, value, ok := strings.Cut(pair, "=")
		if !ok || key == "" {
			return nil, fmt.Errorf("--annotation %q is not of the form KEY=VALUE", pair)
		}
		if _, twice := m[key]; twice {
			return nil, fmt.Errorf("--annotation names %q twice", key)
		}
		if len(key) > maxAnnotationKey || !regexp.MustCompile(`^[A-Za-z0-9][A-Za-z0-9._/-]*$`).MatchString(key) {
			return nil, fmt.Errorf("--annotation: the key %.80q is not made of at most %d letters, digits and . _ - / with a letter or digit first", key, maxAnnotationKey)
		}
		if len(value) > maxAnnotationValue {
			return nil, fmt.Errorf("--annotation %s: the value has %d bytes, more than %d", key, len(value), maxAnnotationValue)
		}
		if !utf8.ValidString(value) || strings.ContainsFunc(value, unicode.IsControl) {
			return nil, fmt.Errorf("--annotation %s: the value %.80q is not one line of text", key, value)
		}
		m[key] = value
	}
	return m, nil
}

// parseMaxRate gives bytes per second, 0 when there is no bound.
func parseMaxRate(text string) (int64, error) {
	if text == "" {
		return 0, nil
	}
	n, err := limit.Parse(text)
	if err != nil {
		return 0, fmt.Errorf("--max-rate: %w", err)
	}
	return n, nil
}

// checkExclude refuses paths that would exclude nothing because of how they are
// written, and those without which no cluster can be restored.
func checkExclude(paths []string) error {
	for _, p := range paths {
		name := strings.TrimSuffix(p, "/")
		if name == "" || name == "." || path.Clean(name) != name || !filepath.IsLocal(name) {
			return fmt.Errorf("--exclude %q is not a path relative to pgdata such as log/ or core.1234", p)
		}
		if slices.Contains([]string{"base", "global", "pg_multixact", "pg_tblspc", "pg_xact", "PG_VERSION"}, name) {
			return fmt.Errorf("--exclude %q: the cluster cannot be restored without it", p)
		}
	}
	return nil
}
