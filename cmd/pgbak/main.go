// Command pgbak backs up, archives and restores PostgreSQL.
//
// This package is the only one of the program that reads flags, environment
// and configuration, that prints, and that ends the process. It holds no
// decision about backups: every command opens what it needs through stack.go,
// calls one of archive, backup, restore or repo, and prints the result.
//
//	main.go     the process: signals, the context, the last word on the exit code
//	root.go     the command tree, global flags, where a setting comes from
//	config.go   the configuration file
//	config_*.go its sections about repositories
//	stack.go    how a store and its decorators are put together
//	stack_*.go  the repository on top of them; decorators of this package
//	exit.go     the table of exit codes
//	output.go   what results and errors look like
//	cmd_*.go    one command each
//
// # archive-get and its exit codes
//
// PostgreSQL (13 to 18 alike: RestoreArchivedFile) takes the exit status of
// restore_command as follows. 0: the file is there. 1 to 125: there is no such
// file; in archive recovery that is the end of WAL, the server promotes and
// what comes after is lost. Above 125, or death by a signal: the startup
// process stops, and with it the server; SIGTERM, or 143, counts as a shutdown
// that was asked for. So archive-get exits 1 only when it has proved that the
// file is in no repository, and 200 on any trouble: storage, damage,
// configuration, even a mistyped flag. What crashes cannot choose, and ends
// with 2: the restore_command that restore writes (crashGuard) turns that into
// trouble too.
//
// A standby (standby.signal in the working directory, which is the data
// directory, or --standby) also takes 1 to 125 as "not there", but then
// follows its primary by streaming or asks again five seconds later, so
// nothing is lost; stopping it would turn a passing fault into an outage.
// There trouble exits 75.
package main

import (
	"context"
	"errors"
	"os"
	"os/signal"
	"slices"
	"syscall"
	"time"
)

// version is set by the linker (-X main.version=...).
var version = "devel"

func main() {
	ctx, cancel := context.WithCancelCause(context.Background())
	go onSignal(cancel)
	a := &app{stdout: os.Stdout, stderr: os.Stderr, getenv: os.Getenv, clock: time.Now, directory: "."}
	os.Exit(a.run(ctx, os.Args[1:]))
}

// interrupted is the cause of a context that a signal ended.
type interrupted struct{ signal syscall.Signal }

func (e interrupted) Error() string {
	if e.signal == syscall.SIGTERM {
		return "terminated by a signal"
	}
	return "interrupted by a signal"
}

// onSignal ends the context at the first signal, so that the command can leave
// nothing half-visible, and the process at the second.
func onSignal(cancel context.CancelCauseFunc) {
	signals := make(chan os.Signal, 2)
	signal.Notify(signals, syscall.SIGINT, syscall.SIGTERM)
	cancel(interrupted{(<-signals).(syscall.Signal)})
	again := interrupted{(<-signals).(syscall.Signal)}
	o := occasion{command: "pgbak"}
	if slices.Contains(os.Args[1:], archivePushName) {
		o.command = archivePushName
	}
	os.Exit(exitCode(o, again))
}

// run is the program without its process: arguments in, exit code out.
func (a *app) run(ctx context.Context, args []string) int {
	root := a.newRoot()
	root.SetArgs(args)
	command, err := root.ExecuteContextC(ctx)
	a.logCounters()
	if err != nil && !a.began {
		err = &usageError{err: err, command: command.CommandPath()}
	}
	var signalled interrupted
	if err != nil && errors.As(context.Cause(ctx), &signalled) {
		// Whatever failed failed because of the signal.
		err = errors.Join(signalled, err)
	}
	if err != nil {
		a.printError(err)
	}
	return exitCode(a.occasion(command.Name(), args), err)
}
