package main

import (
	"context"
	"errors"
	"syscall"

	"github.com/jackc/pgx/v5/pgconn"

	"github.com/pgbak/pgbak/archive"
	"github.com/pgbak/pgbak/archive/agent"
	"github.com/pgbak/pgbak/internal/postgres/server"
	"github.com/pgbak/pgbak/internal/readiness"
	"github.com/pgbak/pgbak/internal/received"
	"github.com/pgbak/pgbak/repo"
	"github.com/pgbak/pgbak/restore"
	"github.com/pgbak/pgbak/storage"
)

// The exit codes are a contract: docs/exit-codes.md has the table for users,
// and a test holds the two together.
const (
	exitOK             = 0
	exitFailed         = 1
	exitUsage          = 2
	exitConfiguration  = 3
	exitRepository     = 4
	exitServer         = 5
	exitDamaged        = 6
	exitStorage        = 7
	exitRestoreRefused = 8
	exitCheckFailed    = 9
	exitWALRefused     = 10
	exitStandbyTrouble = 75
	exitInterrupted    = 130
	exitTerminated     = 143
	exitGetTrouble     = 200
)

// exitMeanings is the table, in order.
func exitMeanings() []exitMeaning {
	return []exitMeaning{
		{exitOK, "success"},
		{exitFailed, "failed, and no other code fits; archive-get: the file is proven absent from every repository"},
		{exitUsage, "the command line is wrong"},
		{exitConfiguration, "the configuration is missing, unreadable or wrong"},
		{exitRepository, "the repository or stanza cannot be used: not initialised, unknown, of a newer format, wrong passphrase, or of another cluster"},
		{exitServer, "the PostgreSQL server cannot be reached or is not set up for backups, or its WAL does not arrive"},
		{exitDamaged, "damaged content in the repository"},
		{exitStorage, "the repository's storage failed or is full"},
		{exitRestoreRefused, "restore refused before anything was written: the target cannot be reached, the backup does not exist, or the directory is not empty or in use"},
		{exitCheckFailed, "check or repo check found a problem"},
		{exitWALRefused, "archive-push refused the file: it is foreign, misnamed or torn, or another content is archived under its name; archive-receive: the server is another one, or went another way than what was received"},
		{exitStandbyTrouble, "archive-get on a standby: trouble; the standby asks again"},
		{exitInterrupted, "interrupted (SIGINT); archive-push exits 1 instead"},
		{exitTerminated, "terminated (SIGTERM); archive-push exits 1 instead"},
		{exitGetTrouble, "archive-get in recovery: trouble; PostgreSQL stops, lest it takes the trouble for the end of WAL"},
	}
}

type exitMeaning struct {
	code    int
	meaning string
}

// usageError is a command line that was not understood.
type usageError struct {
	err     error
	command string
}

func (e *usageError) Error() string { return e.err.Error() }
func (e *usageError) Unwrap() error { return e.err }

// checkError says that check found problems.
type checkError struct{ err error }

func (e *checkError) Error() string { return e.err.Error() }
func (e *checkError) Unwrap() error { return e.err }

// occasion is what decides about the exit code besides the error.
type occasion struct {
	command string
	standby bool // archive-get for a standby
}

const (
	archiveGetName      = "archive-get"
	archivePrefetchName = "archive-prefetch"
	archivePushName     = "archive-push"
)

// exitCode is the one place that turns an error into an exit code.
func exitCode(o occasion, err error) int {
	code := generalCode(err)
	signalled := code == exitInterrupted || code == exitTerminated
	switch {
	case err == nil:
		return exitOK
	case o.command == archivePushName && signalled:
		// Above 128 the archiver process would end itself and be started anew;
		// 1 lets it try the same file again, which is all that is needed.
		return exitFailed
	case o.command != archiveGetName || signalled:
		// 143 of archive-get tells the startup process of a shutdown.
		return code
	case errors.Is(err, archive.ErrAbsent):
		return exitFailed
	case o.standby:
		return exitStandbyTrouble
	default:
		return exitGetTrouble
	}
}

// generalCode is the code without regard to the command. The order matters:
// the reason that a user can act upon comes before its consequences.
func generalCode(err error) int {
	var signalled interrupted
	var failure *agent.Failure
	switch {
	case err == nil:
		return exitOK
	case errors.As(err, &signalled):
		return signalCode(signalled.signal)
	case errors.As(err, &failure):
		return failureCode(failure)
	case is[*usageError](err):
		return exitUsage
	case is[*configError](err):
		return exitConfiguration
	case is[*checkError](err):
		return exitCheckFailed
	case isAny(err, archive.ErrRefused, repo.ErrWALConflict, received.ErrDiffers):
		return exitWALRefused
	case isAny(err, restore.ErrUnreachable, restore.ErrDirectory, repo.ErrNoBackup):
		return exitRestoreRefused
	case errors.Is(err, received.ErrDirectory):
		return exitConfiguration
	case isAny(err, archive.ErrRemoteApply, archive.ErrWALGap, archive.ErrSlotUnusable, server.ErrNoSlot):
		return exitServer
	case isAny(err, repo.ErrDamaged, errBackupWithoutWAL):
		return exitDamaged
	case isAny(err, repo.ErrNotInitialized, repo.ErrNewerFormat, repo.ErrWrongPassphrase, repo.ErrEncrypted,
		repo.ErrNotEncrypted, repo.ErrUnknownStanza, repo.ErrIdentityMismatch):
		return exitRepository
	case isAny(err, readiness.ErrNotReady, readiness.ErrWALTimeout), isServer(err):
		return exitServer
	case isAny(err, storage.ErrNoSpace), is[*storageError](err):
		return exitStorage
	case errors.Is(err, context.Canceled):
		return exitInterrupted
	default:
		return exitFailed
	}
}

func signalCode(s syscall.Signal) int {
	if s == syscall.SIGTERM {
		return exitTerminated
	}
	return exitInterrupted
}

func is[T error](err error) bool {
	var target T
	return errors.As(err, &target)
}

func isAny(err error, targets ...error) bool {
	for _, t := range targets {
		if errors.Is(err, t) {
			return true
		}
	}
	return false
}

// isServer tells whether the server, or the way to it, failed.
func isServer(err error) bool {
	return is[*serverError](err) || is[*pgconn.ConnectError](err) || is[*pgconn.PgError](err) || is[*pgconn.ParseConfigError](err) ||
		errors.Is(err, server.ErrSessionLost)
}
