package main

import (
	"runtime/debug"

	"github.com/spf13/cobra"

	"github.com/pgbak/pgbak/archive"
	"github.com/pgbak/pgbak/internal/hint"
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
is taken is an error and changes nothing.

Where archive.spool is configured, one run pushes all files that are ready, and
the next ones return at once. Above archive.queue-max, if that is configured, the
oldest segments are given up with a warning, and with success for PostgreSQL.`,
		Args: cobra.ExactArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error { return a.archivePush(cmd, args[0]) },
	}
}

// What archive-push may use, in bytes, before garbage is collected.
const (
	pushMemory    = 256 << 20
	batchedMemory = 64 << 20 // for each further file at the same time
)

func (a *app) archivePush(cmd *cobra.Command, path string) error {
	sel, err := a.selected()
	if err != nil {
		return err
	}
	if result, done, err := a.pushByAgent(cmd.Context(), sel, path); done {
		a.logPushed(result)
		return err
	}
	batch, spoolErr, err := a.batch(pushing{config: sel.config, stanza: sel.stanza.Name, repositories: sel.repositories, processes: sel.processes,
		control: a.workingControl, log: a.log, open: a.openToPush(sel.stanza.Name)})
	if err != nil {
		return err
	}
	if spoolErr != nil {
		a.log.Warn("archiving goes on without the spool, file by file", "error", spoolErr.Error(), "hint", hint.Of(spoolErr))
	}
	// The run is over before garbage is worth collecting, and each collection
	// costs as much as compressing some MiB. Large segments and batches meet the limit.
	debug.SetGCPercent(-1)
	debug.SetMemoryLimit(pushMemory + int64(batch.Processes-1)*batchedMemory)
	result, err := batch.Push(cmd.Context(), path)
	a.logPushed(result)
	return err
}

// logPushed says what became of the file that was asked for.
func (a *app) logPushed(result archive.Result) {
	for _, w := range result.Warnings {
		a.log.Warn(w)
	}
	if result.Acknowledged {
		a.log.Debug("archived by an earlier run", "file", result.File)
	}
}
