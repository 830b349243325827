package readiness

import (
	"context"
	"fmt"

	"github.com/pgbak/pgbak/internal/hint"
	"github.com/pgbak/pgbak/internal/pause"
	"github.com/pgbak/pgbak/internal/postgres"
	"github.com/pgbak/pgbak/internal/postgres/server"
	"github.com/pgbak/pgbak/repo"
)

// StandbyProblems is Problems for a backup whose files are those of a standby:
// what concerns the files is asked of the standby, and what concerns the WAL of
// the primary, which alone archives. Problems of the primary say so.
func StandbyProblems(standby, primary server.Info, pgdata string, id repo.Identity) []Problem {
	if problems := identityProblems(standby, id); len(problems) > 0 {
		return problems
	}
	if problems := identityProblems(primary, id); len(problems) > 0 {
		return []Problem{problem(repo.ErrIdentityMismatch, true,
			"check primary-connection in the configuration: it must lead to the primary of this standby.",
			"on the primary: %v", problems[0].Error)}
	}
	var problems []Problem
	if !standby.InRecovery {
		problems = append(problems, problem(ErrNotReady, true,
			"use --from local, or --from prefer-standby where the roles of the servers change.",
			"the server is not a standby"))
	}
	if p, found := directoryProblem(standby, pgdata); found {
		problems = append(problems, p)
	}
	return append(problems, primaryProblems(primary)...)
}

// primaryProblems are those of the primary of a standby.
func primaryProblems(primary server.Info) []Problem {
	if primary.InRecovery {
		return []Problem{problem(ErrNotReady, true,
			"let primary-connection lead to the primary: with all hosts of the cluster and target_session_attrs=read-write it does so after a failover too.",
			"the server that primary-connection leads to is in recovery itself")}
	}
	var problems []Problem
	for _, decide := range []func(server.Info, string) (Problem, bool){levelProblem, modeProblem, commandProblem} {
		if p, found := decide(primary, ""); found {
			p.Error = fmt.Errorf("on the primary: %w", p.Error)
			problems = append(problems, p)
		}
	}
	if !primary.FullPageWrites {
		// A primary turns them on for its own backups; for a backup of its
		// standby it does not, and the standby refuses it.
		problems = append(problems, problem(ErrNotReady, true,
			"set full_page_writes = on on the primary and reload it, or take the backup on the primary.",
			"on the primary: full_page_writes is off, without which the copy of a standby is not safe"))
	}
	return problems
}

// PausedProblem is that of a standby which was told to stop replaying.
func PausedProblem(s server.ReplayState) (Problem, bool) {
	if !s.Paused {
		return Problem{}, false
	}
	return problem(ErrNotReady, true, "let it go on: SELECT pg_wal_replay_resume().",
		"the standby's replay is paused at %s", s.Replayed), true
}

// NotReady is an error that wraps ErrNotReady and carries the advice as its hint,
// for what a backup finds in the servers while it runs.
func NotReady(advice, format string, args ...any) error {
	return problem(ErrNotReady, true, advice, format, args...).Error
}

// Promoted is the error of a standby that has become a primary.
func Promoted(when string) error {
	return NotReady("its cluster has another primary now: take the backup again, with --from local if it is this server.",
		"the standby was promoted %s", when)
}

// WaitForReplay returns nil once a standby has replayed WAL up to the position
// lsn. The timeout begins anew whenever the standby has made progress. A standby
// that is paused or promoted ends the waiting at once; those errors, and that of
// the time, wrap ErrNotReady.
func WaitForReplay(ctx context.Context, state func(context.Context) (server.ReplayState, error), lsn postgres.LSN, o WaitOptions) error {
	if o.Sleep == nil {
		o.Sleep = pause.For
	}
	var last postgres.LSN
	deadline, wait := o.Clock().Add(o.Timeout), firstPause
	for {
		s, err := state(ctx)
		if err != nil {
			return err
		}
		if !s.InRecovery {
			return Promoted("before the copy began")
		}
		if p, paused := PausedProblem(s); paused {
			return p.Error
		}
		if s.Replayed >= lsn {
			return nil
		}
		if s.Replayed > last {
			last, deadline = s.Replayed, o.Clock().Add(o.Timeout)
		}
		left := deadline.Sub(o.Clock())
		if left <= 0 {
			return behindError(s, lsn, o)
		}
		if err := o.Sleep(ctx, min(wait, left)); err != nil {
			return fmt.Errorf("wait for the standby: %w", err)
		}
		wait = min(2*wait, lastPause)
	}
}

func behindError(s server.ReplayState, lsn postgres.LSN, o WaitOptions) error {
	text := fmt.Sprintf("the standby has replayed WAL up to %s and for %s no more; the primary is at %s", s.Replayed, o.Timeout, lsn)
	advice := "look into the standby's log for what keeps its replay."
	switch {
	case s.Delay > 0:
		text += fmt.Sprintf("; recovery_min_apply_delay is %s", s.Delay)
		advice = "a standby that is delayed by design is no good source: take the backup elsewhere, or raise --archive-timeout above the delay."
	case !s.Receiving:
		text += "; it receives no WAL from another server"
		advice = "check the standby's primary_conninfo and restore_command, and that primary-connection leads to the server that it follows."
	}
	return hint.Wrap(&notReady{text: text, kind: ErrNotReady}, "%s", advice)
}
