package server

import (
	"context"
	"fmt"
	"time"

	"github.com/pgbak/pgbak/internal/postgres"
)

// SwitchWAL completes the WAL segment that is being written, so that the server
// archives it, and returns a position in that segment: its last byte that was
// used. A segment that nothing was written to yet is not completed by
// PostgreSQL; then a restore point named "pgbak" is written first, so that a
// segment really is completed by every call. The server must not be in
// recovery.
func (c *Conn) SwitchWAL(ctx context.Context) (switched postgres.LSN, err error) {
	// Something else may switch between the two statements, archive_timeout for
	// one, and leave an empty segment again. That does not happen ten times.
	for range 10 {
		lsn, done, err := c.switchOnce(ctx)
		if err != nil {
			return 0, err
		}
		if done {
			return lsn - 1, nil
		}
		if _, err := c.one(ctx, "write a restore point", "SELECT pg_create_restore_point('pgbak')"); err != nil {
			return 0, err
		}
	}
	return 0, fmt.Errorf("switch to a new WAL segment: the current one is still empty after ten attempts to write to it")
}

// switchOnce asks for a switch once. done is false when there was nothing to
// complete: the server then returns the first byte of the current segment. A
// switch that ends exactly with its segment looks the same, and being told to
// do it again does no harm.
func (c *Conn) switchOnce(ctx context.Context) (lsn postgres.LSN, done bool, err error) {
	r, err := c.one(ctx, "switch to a new WAL segment",
		"SELECT pg_switch_wal(), pg_size_bytes(current_setting('wal_segment_size'))")
	if err != nil {
		return 0, false, err
	}
	lsn, size := r.lsn("pg_switch_wal"), r.integer("wal_segment_size")
	if r.err != nil {
		return 0, false, r.err
	}
	if size <= 0 {
		return 0, false, fmt.Errorf("switch to a new WAL segment: the server's wal_segment_size is %d", size)
	}
	return lsn, uint64(lsn)%uint64(size) != 0, nil
}

// CurrentWALFile returns the position up to which the server has written WAL,
// and the name of the file there. The server must not be in recovery.
func (c *Conn) CurrentWALFile(ctx context.Context) (name string, lsn postgres.LSN, err error) {
	r, err := c.one(ctx, "ask for the current WAL file",
		"SELECT pg_walfile_name(lsn), lsn FROM pg_current_wal_lsn() AS lsn")
	if err != nil {
		return "", 0, err
	}
	name, lsn = r.text("pg_walfile_name"), r.lsn("pg_current_wal_lsn")
	if r.err != nil {
		return "", 0, r.err
	}
	return name, lsn, nil
}

// ArchiverStatus is how the server's archiver fares (pg_stat_archiver). Names
// are empty and times zero for what has not happened since the statistics were
// reset.
type ArchiverStatus struct {
	// Archived and Failed count successes and failures.
	Archived, Failed int64
	// LastArchived is the last file that was archived, and LastArchivedTime when.
	LastArchived     string
	LastArchivedTime time.Time
	// LastFailed is the last file that failed, and LastFailedTime when.
	LastFailed     string
	LastFailedTime time.Time
}

// Failing is whether the last thing that the archiver did was to fail.
func (s ArchiverStatus) Failing() bool {
	return s.LastFailed != "" && s.LastFailedTime.After(s.LastArchivedTime)
}

// String says it in a sentence, for who waits for a segment in vain.
func (s ArchiverStatus) String() string {
	switch {
	case s.Failing():
		return fmt.Sprintf("archive_command fails: %d failures, the last one for %s at %s",
			s.Failed, s.LastFailed, s.LastFailedTime.Format(time.RFC3339))
	case s.LastArchived != "":
		return fmt.Sprintf("archive_command works: %s was archived at %s",
			s.LastArchived, s.LastArchivedTime.Format(time.RFC3339))
	}
	return "the server has not archived anything yet"
}

// ArchiverStatus asks how archiving fares, so that who waits for a segment can
// say why it does not come.
func (c *Conn) ArchiverStatus(ctx context.Context) (ArchiverStatus, error) {
	r, err := c.one(ctx, "ask for the state of the archiver", `
		SELECT archived_count, failed_count,
			last_archived_wal, (extract(epoch FROM last_archived_time) * 1000000)::bigint,
			last_failed_wal, (extract(epoch FROM last_failed_time) * 1000000)::bigint
		FROM pg_stat_archiver`)
	if err != nil {
		return ArchiverStatus{}, err
	}
	s := ArchiverStatus{
		Archived:         r.integer("archived_count"),
		Failed:           r.integer("failed_count"),
		LastArchived:     r.optional("last_archived_wal"),
		LastArchivedTime: r.micros("last_archived_time"),
		LastFailed:       r.optional("last_failed_wal"),
		LastFailedTime:   r.micros("last_failed_time"),
	}
	if r.err != nil {
		return ArchiverStatus{}, r.err
	}
	return s, nil
}
