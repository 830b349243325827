package main

import (
	"errors"
	"fmt"
	"runtime/debug"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"github.com/pgbak/pgbak/backup"
	"github.com/pgbak/pgbak/repo"
)

// backupFlags are the flags of backup as they were given.
type backupFlags struct {
	output      outputFlag
	typ         string
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
needs is in the repository.`,
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
	if f.timeout <= 0 {
		return errors.New("--archive-timeout must be more than 0")
	}
	return nil
}

// backupResult is the output of backup; docs/json.md describes it.
type backupResult struct {
	Backup   backupInfo `json:"backup"`
	Warnings []string   `json:"warnings"`
}

func (a *app) backup(cmd *cobra.Command, f backupFlags) error {
	sel, err := a.selected()
	if err != nil {
		return err
	}
	id, err := clusterIdentity(sel.stanza)
	if err != nil {
		return err
	}
	into, err := a.openStanza(cmd.Context(), sel.repositories[0], sel.stanza.Name, toWrite)
	if err != nil {
		return err
	}
	if err := sameCluster(into, sel.stanza, id); err != nil {
		return err
	}
	annotations, err := parseAnnotations(f.annotations)
	if err != nil {
		return &usageError{err: err, command: cmd.CommandPath()}
	}
	// Most of the heap is buffers that live as long as the backup: at the usual
	// 100 % the collector would let as much garbage gather again.
	debug.SetGCPercent(25)
	p := a.newProgress("backup")
	result, err := backup.Run(cmd.Context(), backup.Options{
		Repositories: []backup.Repository{{Name: sel.repositories[0].Name, Stanza: into.stanza}}, PGData: sel.stanza.PGData, Connection: sel.stanza.Connection, Processes: sel.processes,
		Type: repo.BackupType(f.typ), StartFast: f.startFast, ArchiveTimeout: f.timeout, Log: a.log, Clock: a.clock,
		Version: version, Annotations: annotations, Exclude: f.exclude,
		Progress: func(b backup.Progress) { p.show(b.Files, b.Bytes, 0) },
	})
	p.end()
	if err != nil {
		return err
	}
	// A backup that has succeeded has waited for its WAL.
	out := backupResult{Backup: newBackupInfo(repo.BackupInfo{Label: result.Backups[0].Header.Label, Header: result.Backups[0].Header}, true), Warnings: []string{}}
	// The run has logged them already, each when it came up.
	out.Warnings = append(out.Warnings, result.Warnings...)
	return f.output.print(a, out, out.text)
}

func (r backupResult) text() string {
	b := r.Backup
	s := fmt.Sprintf("backup %s: %s in %d files, %s added to the repository (%s with what it shares), %s\n",
		b.Label, sizeText(b.DatabaseSize), b.Files, sizeText(b.AddedSize), sizeText(b.StoredSize), durationText(seconds(b.Seconds)))
	if b.PageErrorCount > 0 {
		s += fmt.Sprintf("page errors: %d ('pgbak info --set %s' lists them)\n", b.PageErrorCount, b.Label)
	}
	return s
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
