package main

import (
	"fmt"

	"github.com/spf13/cobra"

	"github.com/pgbak/pgbak/archive"
	"github.com/pgbak/pgbak/repo"
)

func (a *app) archivePushCommand() *cobra.Command {
	return &cobra.Command{
		Use:   archivePushName + " PATH",
		Short: "Store a WAL file in every repository (archive_command)",
		Long: `archive-push stores the WAL file PATH and ends with 0 only when it is durable in
every repository. Set in postgresql.conf:

  archive_mode = on
  archive_command = 'pgbak --config FILE --stanza NAME archive-push %p'

A file of another cluster, or one whose content disagrees with its name, is
refused. The same content again is success; another content under a name that
is taken is an error and changes nothing.`,
		Args: cobra.ExactArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error { return a.archivePush(cmd, args[0]) },
	}
}

func (a *app) archivePush(cmd *cobra.Command, path string) error {
	sel, err := a.selected()
	if err != nil {
		return err
	}
	// A repository that cannot be opened must not keep the file from the
	// others; but PostgreSQL must not forget it, so the run fails at the end.
	var targets []archive.Target
	var failed error
	for _, rc := range sel.repositories {
		o, err := a.openStanza(cmd.Context(), rc, sel.stanza.Name, toWrite)
		if err != nil {
			failed = join(failed, err)
			continue
		}
		targets = append(targets, archive.Target{Name: rc.Name, Stanza: o.stanza})
	}
	if len(targets) == 0 {
		return failed
	}
	pusher, err := archive.NewPusher(targets...)
	if err != nil {
		return err
	}
	result, err := pusher.Push(cmd.Context(), path)
	for _, w := range result.Warnings {
		a.log.Warn(w)
	}
	for _, s := range result.Stored {
		if s.Outcome == repo.WALStored {
			a.log.Debug("archived", "file", result.File, "repository", s.Repository, "bytes", s.RawSize, "stored", s.StoredSize)
		}
	}
	return join(failed, err)
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
