package main

import (
	"context"
	"fmt"
	"runtime/debug"

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

// pushMemory, in bytes, is what archive-push may use before garbage is collected.
const pushMemory = 256 << 20

func (a *app) archivePush(cmd *cobra.Command, path string) error {
	sel, err := a.selected()
	if err != nil {
		return err
	}
	if result, done, err := a.pushByAgent(cmd.Context(), sel, path); done {
		a.logPushed(result)
		return err
	}
	var targets []archive.PushTarget
	for _, rc := range sel.repositories {
		compression, err := repo.ParseCompression(rc.Compression)
		if err != nil {
			return &configError{fmt.Errorf("repository %q: %w", rc.Name, err)}
		}
		targets = append(targets, archive.PushTarget{Name: rc.Name, Compression: compression, Open: func(ctx context.Context) (*repo.Stanza, error) {
			o, err := a.openStanza(ctx, rc, sel.stanza.Name, toWrite)
			return o.stanza, err
		}})
	}
	pusher, err := archive.NewPusher(targets...)
	if err != nil {
		return err
	}
	pusher.Processes = sel.processes
	pusher.Control = a.workingControl
	pusher.Log = a.log
	// The run is over before garbage is worth collecting, and each collection
	// costs as much as compressing some MiB. Large segments meet the limit.
	debug.SetGCPercent(-1)
	debug.SetMemoryLimit(pushMemory)
	result, err := pusher.Push(cmd.Context(), path)
	a.logPushed(result)
	return err
}

// logPushed says what became of a file.
func (a *app) logPushed(result archive.Result) {
	for _, w := range result.Warnings {
		a.log.Warn(w)
	}
	for _, s := range result.Stored {
		if s.Outcome == repo.WALStored {
			a.log.Debug("archived", "file", result.File, "repository", s.Repository, "bytes", s.RawSize, "stored", s.StoredSize)
		}
	}
}
