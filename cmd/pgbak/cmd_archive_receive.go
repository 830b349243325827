package main

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"net"

	"github.com/spf13/cobra"

	"github.com/pgbak/pgbak/archive"
	"github.com/pgbak/pgbak/internal/hint"
	"github.com/pgbak/pgbak/internal/monitor"
	"github.com/pgbak/pgbak/internal/postgres/server"
	"github.com/pgbak/pgbak/internal/received"
)

const archiveReceiveName = "archive-receive"

// receiveFlags are the flags of archive-receive as they were given.
type receiveFlags struct {
	directory, slot, name, listen string
	createSlot, acceptGap         bool
}

func (a *app) archiveReceiveCommand() *cobra.Command {
	var f receiveFlags
	cmd := &cobra.Command{
		Use:   archiveReceiveName + " --directory DIRECTORY --slot NAME",
		Short: "Stream WAL from the server into every repository, without a loss window",
		Long: `archive-receive connects to the server like a standby and receives its WAL while
it is written. The WAL is durable in DIRECTORY at once, and every segment that is
complete goes from there into all repositories. It runs until it is stopped by
SIGTERM, and connects again when the connection is lost.

The server is told of what is durable in DIRECTORY, so that the receiver can be
named in synchronous_standby_names, by the name of its slot or by --name. With
synchronous_commit = on a commit then returns only when its WAL is safe, whatever
happens to the server and its disk: 'pgbak restore --received DIRECTORY' brings
it back. DIRECTORY is therefore on another disk than the server's, best on another
host, and when it is full, commits wait. remote_apply is refused, for a receiver
applies nothing; if it is set later, that is an error in the log and of readiness.

The role needs REPLICATION, and pg_hba.conf a line for the database replication.
The stanza's primary-connection is used if there is one, else connection; with
several hosts and target_session_attrs=read-write it finds the new primary after a
failover. archive_command may go on working at the same time.`,
		Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			if err := f.check(); err != nil {
				return &usageError{err: err, command: cmd.CommandPath()}
			}
			return a.archiveReceive(cmd.Context(), f)
		},
	}
	flags := cmd.Flags()
	flags.SortFlags = false
	flags.StringVar(&f.directory, "directory", "", "`DIRECTORY` for WAL that is not in every repository yet; it must exist, be private, and be used for nothing else")
	flags.StringVar(&f.slot, "slot", "", "`NAME` of the replication slot, which keeps WAL on the server while nobody receives it")
	flags.BoolVar(&f.createSlot, "create-slot", false, "create the slot if it does not exist")
	flags.StringVar(&f.name, "name", "", "application `NAME` of the connection, which synchronous_standby_names refers to (default: the slot's)")
	flags.StringVar(&f.listen, "listen", "", "`HOST:PORT` where health, readiness and metrics are told by HTTP (default: nowhere)")
	flags.BoolVar(&f.acceptGap, "accept-gap", false, "go on behind WAL that the server has not got any more, and record the gap")
	return cmd
}

func (f receiveFlags) check() error {
	if f.directory == "" {
		return errors.New("--directory is missing")
	}
	if f.slot == "" {
		return errors.New("--slot is missing")
	}
	if f.listen != "" {
		if _, _, err := net.SplitHostPort(f.listen); err != nil {
			return fmt.Errorf("--listen %q is not HOST:PORT", f.listen)
		}
	}
	return server.CheckSlotName(f.slot)
}

func (a *app) archiveReceive(ctx context.Context, f receiveFlags) error {
	sel, err := a.selected()
	if err != nil {
		return err
	}
	dsn := sel.stanza.Connection
	if sel.stanza.Primary != "" {
		dsn = sel.stanza.Primary
	}
	if dsn == "" {
		return hint.Wrap(&configError{errors.New("stanza " + sel.stanza.Name + " has no connection")}, "add connection to the stanza: archive-receive gets WAL from the server.")
	}
	if f.name == "" {
		f.name = f.slot
	}
	settings, err := sel.config.Archive.parse()
	if err != nil {
		return &configError{err}
	}
	pusher, err := a.pusher(pushing{config: sel.config, stanza: sel.stanza.Name, repositories: sel.repositories, processes: sel.processes,
		log: a.log, open: a.openToPush(sel.stanza.Name)})
	if err != nil {
		return err
	}
	directory, err := received.Open(f.directory, received.OS{})
	if err != nil {
		return err
	}
	defer directory.Close()
	receiver, err := archive.NewReceiver(archive.ReceiveOptions{
		Stanza: sel.stanza.Name, Directory: directory, Slot: f.slot, CreateSlot: f.createSlot, Name: f.name, AcceptGap: f.acceptGap,
		Connect: func(ctx context.Context) (*server.ReplicationConn, error) {
			return server.ConnectReplicationAs(ctx, dsn, f.name)
		},
		Inspect: func(ctx context.Context) (*server.Conn, error) { return server.Connect(ctx, dsn) },
		Pusher:  pusher, Processes: cmp.Or(settings.processes, sel.processes), Log: a.log, Clock: a.clock,
	})
	if err != nil {
		return err
	}
	return a.runReceiver(ctx, receiver, sel.stanza.Name, f)
}

// runReceiver receives until ctx ends, and tells meanwhile how that goes.
func (a *app) runReceiver(ctx context.Context, receiver *archive.Receiver, stanza string, f receiveFlags) error {
	health := &monitor.Health{Clock: a.clock, Probe: func(context.Context) error { return receiver.Status().Problem() },
		Measure: func() []monitor.Family {
			return append(receiveFamilies(receiver.Status(), stanza, f.slot), storageFamilies(a)...)
		}}
	_, stopHealth, err := a.serveHealth("--listen", f.listen, health)
	if err != nil {
		return err
	}
	defer stopHealth()
	a.notifySupervisor("READY=1") // it waits for the server by itself
	err = receiver.Run(ctx)
	a.notifySupervisor("STOPPING=1")
	return err
}
