package server

import (
	"context"
	"fmt"
	"strconv"
	"time"

	"github.com/pgbak/pgbak/internal/hint"
	"github.com/pgbak/pgbak/internal/pause"
	"github.com/pgbak/pgbak/internal/postgres"
)

// summarizingMajor is the first major that makes WAL summaries.
const summarizingMajor = 17

// SummarizerState says how the server's WAL summarizer fares
// (pg_get_wal_summarizer_state). All is zero before PostgreSQL 17.
type SummarizerState struct {
	// Supported is set from PostgreSQL 17 on.
	Supported bool
	// Enabled is summarize_wal. When it is off, the rest says how far the
	// summarizer came before.
	Enabled bool
	// Timeline and Summarized say where the next summary will begin. Files that
	// end there are complete and durable. Both are 0 before the summarizer has
	// run.
	Timeline   postgres.Timeline
	Summarized postgres.LSN
	// Pending is how far the summarizer has read for the next summary. It writes
	// that when it meets the redo point of a checkpoint.
	Pending postgres.LSN
	// PID is 0 when the summarizer does not run.
	PID int
}

// Summarizer asks for the state of the server's WAL summarizer.
func (c *Conn) Summarizer(ctx context.Context) (SummarizerState, error) {
	if c.major() < summarizingMajor {
		return SummarizerState{}, nil
	}
	r, err := c.one(ctx, "ask for the state of the WAL summarizer", `
		SELECT current_setting('summarize_wal'), summarized_tli, summarized_lsn, pending_lsn, coalesce(summarizer_pid, 0)
		FROM pg_get_wal_summarizer_state()`)
	if err != nil {
		return SummarizerState{}, err
	}
	s := SummarizerState{
		Supported:  true,
		Enabled:    r.boolean("summarize_wal"),
		Timeline:   postgres.Timeline(r.number("summarized_tli")),
		Summarized: r.lsn("summarized_lsn"),
		Pending:    r.lsn("pending_lsn"),
		PID:        int(r.integer("summarizer_pid")),
	}
	if r.err != nil {
		return SummarizerState{}, r.err
	}
	return s, nil
}

// The pauses between two looks at the summarizer grow from the first to the last.
// A checkpoint wakes it, and then it is often done at once.
const (
	firstSummarizerPause = 5 * time.Millisecond
	lastSummarizerPause  = 500 * time.Millisecond
)

// WaitSummarized waits until the server's WAL summaries reach lsn. That must be
// the redo point of a checkpoint that has ended, such as where a backup starts:
// the summarizer completes no file before it has read one.
//
// It gives up when the summarizer has not read on for stall. A summarizer that
// finds nothing to do sleeps for up to 30 seconds, and on a standby nothing wakes
// it; PostgreSQL itself waits for 60 seconds. It also gives up when summarize_wal
// is off, or goes off meanwhile.
//
// That summaries reach lsn does not mean that there is one for all WAL before it:
// postgres.CoverSummaries tells that.
func (c *Conn) WaitSummarized(ctx context.Context, lsn postgres.LSN, stall time.Duration, clock func() time.Time) error {
	var last SummarizerState
	since, wait := clock(), firstSummarizerPause
	for {
		s, err := c.Summarizer(ctx)
		switch {
		case err != nil:
			return err
		case !s.Supported:
			return fmt.Errorf("PostgreSQL %d makes no WAL summaries (%d and later do)", c.major(), summarizingMajor)
		case !s.Enabled:
			return hint.Wrap(fmt.Errorf("wait for WAL summaries up to %s: summarize_wal is off", lsn),
				"set summarize_wal = on and reload the server, so that backups read only what changed.")
		case s.Summarized >= lsn:
			return nil
		}
		if now := clock(); s != last {
			last, since = s, now
		} else if now.Sub(since) >= stall {
			return stalledError(s, lsn, stall)
		}
		if err := pause.For(ctx, wait); err != nil {
			return fmt.Errorf("wait for WAL summaries up to %s: %w", lsn, err)
		}
		wait = min(2*wait, lastSummarizerPause)
	}
}

// stalledError says where the summarizer stands.
func stalledError(s SummarizerState, lsn postgres.LSN, stall time.Duration) error {
	process := "does not run"
	if s.PID != 0 {
		process = "is process " + strconv.Itoa(s.PID)
	}
	err := fmt.Errorf("wait for WAL summaries up to %s: the WAL summarizer, which %s, stands at %s, %s on disk, for %s",
		lsn, process, s.Pending, s.Summarized, stall)
	return hint.Wrap(err, "look into the server's log for what keeps the WAL summarizer from going on.")
}
