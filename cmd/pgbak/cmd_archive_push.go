package main

import (
	"cmp"
	"context"
	"os"
	"runtime/debug"
	"strings"

	"github.com/spf13/cobra"

	"github.com/pgbak/pgbak/archive"
	"github.com/pgbak/pgbak/internal/hint"
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
	batch, err := a.newBatch(sel)
	if err != nil {
		return err
	}
	// The run is over before garbage is worth collecting, and each collection
	// costs as much as compressing some MiB. Large segments and batches meet the limit.
	debug.SetGCPercent(-1)
	debug.SetMemoryLimit(pushMemory + int64(batch.Processes-1)*batchedMemory)
	result, err := batch.Push(cmd.Context(), path)
	for _, w := range result.Warnings {
		a.log.Warn(w)
	}
	if result.Acknowledged {
		a.log.Debug("archived by an earlier run", "file", result.File)
	}
	return err
}

// newBatch makes what pushes WAL to the selected repositories. A spool that
// cannot be used is a warning: WAL is archived without it.
func (a *app) newBatch(sel selection) (*archive.Batch, error) {
	settings, err := sel.config.Archive.parse()
	if err != nil {
		return nil, &configError{err}
	}
	targets, err := a.pushTargets(sel)
	if err != nil {
		return nil, err
	}
	pusher, err := archive.NewPusher(targets...)
	if err != nil {
		return nil, err
	}
	pusher.Processes = sel.processes
	pusher.Control = a.workingControl
	pusher.Log = a.log
	pusher.Host, _ = os.Hostname() // for people; the events do without
	var spool *archive.Spool
	if settings.spool != "" {
		if spool, err = archive.OpenSpool(settings.spool, sel.stanza.Name); err != nil {
			a.log.Warn("archiving goes on without the spool, file by file", "error", err.Error(), "hint", hint.Of(err))
		}
	}
	batch := archive.NewBatch(pusher, spool, a.clock)
	batch.Processes = cmp.Or(settings.processes, sel.processes)
	batch.QueueMax = settings.queueMax
	batch.Host = pusher.Host
	return batch, nil
}

// pushTargets are the selected repositories, not opened yet.
func (a *app) pushTargets(sel selection) ([]archive.PushTarget, error) {
	var targets []archive.PushTarget
	for _, rc := range sel.repositories {
		compression, err := rc.compression()
		if err != nil {
			return nil, err
		}
		targets = append(targets, archive.PushTarget{Name: rc.Name, Place: pushPlace(rc, sel.stanza.Name), Compression: compression,
			Open: func(ctx context.Context) (*repo.Stanza, error) {
				o, err := a.openStanza(ctx, rc, sel.stanza.Name, toWrite)
				return o.stanza, err
			}})
	}
	return targets, nil
}

// pushPlace is all that decides where a repository's files of a stanza go to.
func pushPlace(rc repositoryConfig, stanza string) string {
	s := rc.s3()
	return strings.Join([]string{rc.URL, s.Endpoint, s.Region, stanza}, "\x00")
}
