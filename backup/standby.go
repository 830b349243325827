package backup

import (
	"context"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"github.com/pgbak/pgbak/internal/hint"
	"github.com/pgbak/pgbak/internal/postgres"
	"github.com/pgbak/pgbak/internal/postgres/server"
	"github.com/pgbak/pgbak/internal/readiness"
	"github.com/pgbak/pgbak/repo"
)

// A backup from a standby is PostgreSQL's own low-level backup of a server in
// recovery (https://www.postgresql.org/docs/current/continuous-archiving.html,
// "Making a Base Backup Using the Low Level API"): pg_backup_start makes a
// restart point of the last checkpoint that was replayed, and recovery of the
// backup ends where pg_control, copied after everything else, says that the
// standby's pages may have come to.
//
// A standby can neither make a checkpoint nor complete a segment. So a backup is
// begun on the primary too, around that of the standby. Its checkpoint gives the
// standby a restart point that is new and on the timeline that is written now;
// its end completes the last segment that is needed. No files of the primary
// are read.

// primary is the primary of a standby that is backed up.
type primary struct {
	conn *server.Conn
	info server.Info
	// histories are the history files that the standby knew at the start.
	histories []string
}

// standbyFiles is the source that reads the data directory of a standby on this
// host. It needs a run with the primary of that standby.
type standbyFiles struct{ localFiles }

// Check is that of localFiles for a server in recovery.
func (s *standbyFiles) Check(ctx context.Context) error {
	return s.checkFiles(ctx, postgres.ControlInArchiveRecovery)
}

// Start begins the backup on both servers.
func (s *standbyFiles) Start(ctx context.Context, label string) (postgres.LSN, error) {
	return s.startOnStandby(ctx, label)
}

// Stop reads pg_control and ends the backup on both servers. All other files
// were copied before it looks for another timeline, and pg_control tells by
// itself of one that it was read after.
func (s *standbyFiles) Stop(ctx context.Context) (Stopped, error) {
	if err := s.checkStillStandby(ctx); err != nil {
		return Stopped{}, err
	}
	stopped, control, err := s.lastFile(ctx)
	if err != nil {
		return stopped, err
	}
	stopped.StopResult, err = s.stopOnStandby(ctx, control)
	return stopped, err
}

// Close ends the session with the primary, too.
func (s *standbyFiles) Close(ctx context.Context) {
	if s.primary != nil {
		_ = s.primary.conn.Close(ctx)
	}
}

// connectPrimary opens the session with the primary of a standby.
func (r *run) connectPrimary(ctx context.Context) error {
	if r.o.Primary == "" {
		return readiness.NotReady("set primary-connection of the stanza in the configuration.", "the way from the standby to its primary is not known")
	}
	conn, err := server.Connect(ctx, r.o.Primary)
	if err != nil {
		return hint.Wrap(fmt.Errorf("the primary of the standby: %w", err),
			"a backup from a standby needs its primary: check primary-connection in the configuration, and that the primary runs.")
	}
	r.primary = &primary{conn: conn}
	if r.primary.info, err = conn.Info(ctx); err != nil {
		return fmt.Errorf("the primary of the standby: %w", err)
	}
	// Commits have the primary's times, and a restart point may still be on the
	// timeline before.
	r.info.Timeline, r.info.Now = r.primary.info.Timeline, r.primary.info.Now
	return nil
}

// writer is the session with the server that writes WAL and archives it.
func (r *run) writer() *server.Conn {
	if r.primary != nil {
		return r.primary.conn
	}
	return r.conn
}

func (r *run) problems(id repo.Identity) []readiness.Problem {
	if r.primary != nil {
		return readiness.StandbyProblems(r.info, r.primary.info, r.o.PGData, id)
	}
	pgdata := r.o.PGData
	if r.o.From == FromStream {
		pgdata = r.info.DataDirectory // whatever this host has there
	}
	return readiness.Problems(r.info, pgdata, id)
}

// startOnStandby starts the backup on the primary and then, when its checkpoint
// has been replayed, on the standby. The switch lets the checkpoint reach a
// standby that gets whole segments only.
func (r *run) startOnStandby(ctx context.Context, label string) (postgres.LSN, error) {
	var err error
	if r.primary.histories, err = r.histories(); err != nil {
		return 0, err
	}
	state, err := r.conn.ReplayState(ctx)
	if err != nil {
		return 0, err
	}
	if p, paused := readiness.PausedProblem(state); paused {
		return 0, p.Error
	}
	checkpoint, err := r.primary.conn.StartBackup(ctx, label+" from a standby", r.o.StartFast)
	if err != nil {
		return 0, fmt.Errorf("on the primary: %w", err)
	}
	switched, err := r.primary.conn.SwitchWAL(ctx)
	if err != nil {
		return 0, fmt.Errorf("on the primary: %w", err)
	}
	if err := r.waitFor(ctx, "before the backup", []postgres.WALFile{r.segment(switched)}); err != nil {
		return 0, err
	}
	if err := readiness.WaitForReplay(ctx, r.conn.ReplayState, switched+1, readiness.WaitOptions{Timeout: r.o.ArchiveTimeout, Clock: r.o.Clock}); err != nil {
		return 0, err
	}
	start, err := r.conn.StartBackup(ctx, label, r.o.StartFast)
	if err == nil && start < checkpoint {
		err = readiness.NotReady(notFollowed, "the standby's restart point is at %s, before the primary's checkpoint at %s", start, checkpoint)
	}
	return start, err
}

// notFollowed is the advice where the standby's WAL is not the primary's.
const notFollowed = "primary-connection must lead to the server that the standby follows."

// ping watches the sessions that hold the backup. A standby that was promoted
// has lost it too, and would say so only at the end.
func (r *run) ping(ctx context.Context) error {
	err := r.conn.Ping(ctx)
	if err == nil && r.primary != nil {
		err = r.primary.conn.Ping(ctx)
	}
	if err != nil {
		return fmt.Errorf("the session that holds the backup is lost: %w", err)
	}
	return r.checkStillStandby(ctx)
}

// checkStillStandby finds a standby that was promoted, or that has turned to
// another timeline. What it replays there is not in the WAL of this backup. The
// pages are safe, since pg_control names the timeline up to which they may have
// come, but files that were made and extended are there without a trace in it.
//
// Before a server turns to a timeline it stores its history file in pg_wal,
// whether that came from another server or from an archive (readTimeLineHistory
// and WalRcvFetchTimeLineHistoryFiles of PostgreSQL), and never removes it.
func (r *run) checkStillStandby(ctx context.Context) error {
	if r.primary == nil {
		return nil
	}
	if r.promoted(ctx) {
		return readiness.Promoted("during the backup")
	}
	now, err := r.histories()
	if err != nil {
		return err
	}
	for _, name := range now {
		if !slices.Contains(r.primary.histories, name) {
			return readiness.NotReady("if its cluster has another primary now, let primary-connection lead there; take the backup again.",
				"the standby met another timeline during the backup: there is a new file %s in its pg_wal", name)
		}
	}
	return nil
}

// histories are the names of the history files in pg_wal.
func (r *run) histories() ([]string, error) {
	entries, err := os.ReadDir(filepath.Join(r.o.PGData, "pg_wal"))
	if err != nil {
		return nil, fmt.Errorf("look for timelines: %w", err)
	}
	var names []string
	for _, e := range entries {
		if strings.HasSuffix(e.Name(), ".history") {
			names = append(names, e.Name())
		}
	}
	return names, nil
}

// promoted tells whether the standby is none any more. If it cannot be asked,
// the next question to its session gives the reason.
func (r *run) promoted(ctx context.Context) bool {
	state, err := r.conn.ReplayState(ctx)
	return err == nil && !state.InRecovery
}

// stopOnStandby ends the backup on the standby and then on the primary. control
// is what was read after all other files.
func (r *run) stopOnStandby(ctx context.Context, control postgres.Control) (server.StopResult, error) {
	result, err := r.conn.StopBackup(ctx)
	switch {
	case err == nil:
	case r.promoted(ctx):
		return result, readiness.Promoted("during the backup")
	case strings.Contains(err.Error(), "full_page_writes"): // the server's refusal, in whatever language
		return result, hint.Wrap(err, "full_page_writes was switched off on the primary: keep it on for the time of a backup, and take this one again.")
	default:
		return result, err
	}
	if err := r.checkRecoveryPoint(control, result.LSN); err != nil {
		return result, err
	}
	completed, err := r.primary.conn.StopBackup(ctx)
	if err != nil {
		return result, fmt.Errorf("on the primary: %w", err)
	}
	after, err := r.primary.conn.Info(ctx)
	if err != nil {
		return result, fmt.Errorf("on the primary: %w", err)
	}
	if completed.LSN < result.LSN || after.Timeline != r.header.Timeline || after.InRecovery {
		return result, readiness.NotReady(notFollowed, "the standby has come to %s on timeline %d, its primary to %s on timeline %d",
			result.LSN, r.header.Timeline, completed.LSN, after.Timeline)
	}
	return result, nil
}

// checkRecoveryPoint compares the copy of pg_control, by which recovery will
// know the end of the backup, with the backup's end as the standby gave it.
func (r *run) checkRecoveryPoint(control postgres.Control, stop postgres.LSN) error {
	if control.State != postgres.ControlInArchiveRecovery {
		return readiness.Promoted("during the backup")
	}
	if control.MinRecoveryTimeline != r.header.Timeline {
		return readiness.NotReady("its cluster has another primary now: take the backup again.",
			"the standby went from timeline %d to %d during the backup", r.header.Timeline, control.MinRecoveryTimeline)
	}
	if control.MinRecoveryPoint <= r.header.Start.LSN || control.MinRecoveryPoint > stop {
		return readiness.NotReady("pgdata must be the data directory of the standby that connection leads to.",
			"pg_control in %s has the minimum recovery point %s, the backup goes from %s to %s", r.o.PGData, control.MinRecoveryPoint, r.header.Start.LSN, stop)
	}
	return nil
}

// comparable is the part of a segment of WAL that the server's own file must
// have as well. The last file of a standby may be one that is still coming in,
// with what it held before behind the part that was replayed.
func (r *run) comparable(f postgres.WALFile, content []byte) []byte {
	if r.primary == nil {
		return content
	}
	needed := uint64(r.header.Stop.LSN - f.Start(r.identity.SegmentSize))
	return content[:min(uint64(len(content)), needed)]
}
