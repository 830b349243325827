package server

import (
	"context"
	"time"

	"github.com/pgbak/pgbak/internal/postgres"
)

// ReplayState is how far a server in recovery has come, and what may keep it.
type ReplayState struct {
	// InRecovery is false once the server was promoted; the rest is then zero.
	InRecovery bool
	// Replayed is the position up to which WAL has been replayed, 0 when none
	// was since the server started.
	Replayed postgres.LSN
	// Paused is whether a pause was asked for (pg_wal_replay_pause).
	Paused bool
	// Receiving is whether WAL comes from another server; if not, it can only
	// come by restore_command.
	Receiving bool
	// Delay is recovery_min_apply_delay: by how much commits are replayed later
	// than they happened.
	Delay time.Duration
}

// ReplayState asks a standby how its recovery fares. Every role may.
func (c *Conn) ReplayState(ctx context.Context) (ReplayState, error) {
	// A server that is not in recovery refuses the question about the pause.
	r, err := c.one(ctx, "ask the standby how far it is", `
		SELECT pg_is_in_recovery(),
			coalesce(pg_last_wal_replay_lsn(), '0/0'),
			CASE WHEN pg_is_in_recovery() THEN pg_is_wal_replay_paused() ELSE false END,
			EXISTS (SELECT FROM pg_stat_wal_receiver),
			(SELECT setting FROM pg_settings WHERE name = 'recovery_min_apply_delay')`)
	if err != nil {
		return ReplayState{}, err
	}
	s := ReplayState{
		InRecovery: r.boolean("pg_is_in_recovery"),
		Replayed:   r.lsn("pg_last_wal_replay_lsn"),
		Paused:     r.boolean("pg_is_wal_replay_paused"),
		Receiving:  r.boolean("pg_stat_wal_receiver"),
		Delay:      time.Duration(r.integer("recovery_min_apply_delay")) * time.Millisecond,
	}
	if r.err != nil {
		return ReplayState{}, r.err
	}
	if !s.InRecovery {
		return ReplayState{}, nil
	}
	return s, nil
}
