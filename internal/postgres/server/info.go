package server

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/jackc/pgx/v5/pgconn"

	"github.com/pgbak/pgbak/internal/pause"
	"github.com/pgbak/pgbak/internal/postgres"
)

// Info is what a server says about itself and its cluster.
type Info struct {
	// Version is server_version_num, for instance 150018, and Major its major, 15.
	Version, Major int
	// SystemID identifies the cluster (pg_control_system).
	SystemID uint64
	// Timeline is the one that the server writes. In recovery it is the one of
	// the last restart point, which a standby that follows a promotion may be
	// past.
	Timeline postgres.Timeline
	// DataDirectory is data_directory: the server's own name for it, which
	// another host or container may not know it by.
	DataDirectory string
	// ArchiveMode is off, on or always.
	ArchiveMode string
	// ArchiveCommand is archive_command, "" or "(disabled)" when not set;
	// ArchiveLibrary is archive_library, which replaces it, and "" before 15.
	ArchiveCommand, ArchiveLibrary string
	// WALLevel is minimal, replica or logical.
	WALLevel string
	// WALSegmentSize is the size of a WAL segment in bytes.
	WALSegmentSize int64
	// BlockSize is the size of a page of a relation in bytes.
	BlockSize int
	// DataChecksums is whether the pages carry checksums.
	DataChecksums bool
	// InRecovery is true of a standby, and of a server that restores.
	InRecovery bool
	// FullPageWrites is full_page_writes. A backup of a primary needs no more
	// than this says, since pg_backup_start turns them on for its own time.
	FullPageWrites bool
	// CheckpointTimeout is checkpoint_timeout, the time that a start of a
	// backup which is not fast may take.
	CheckpointTimeout time.Duration
	// Now is the server's clock, in UTC, when it answered.
	Now time.Time
}

// Info asks the server for its identity and for the settings that a backup
// depends on.
func (c *Conn) Info(ctx context.Context) (Info, error) {
	// pg_control_checkpoint lags behind a promotion until the next checkpoint,
	// so the timeline of a server that writes comes from the name of its WAL
	// file. A server in recovery refuses that function, hence the CASE.
	r, err := c.one(ctx, "ask the server for its settings", `
		SELECT (SELECT system_identifier FROM pg_control_system()),
			CASE WHEN pg_is_in_recovery() THEN NULL
				ELSE substr(pg_walfile_name(pg_current_wal_lsn()), 1, 8) END,
			(SELECT timeline_id FROM pg_control_checkpoint()),
			current_setting('data_directory'),
			current_setting('archive_mode'),
			current_setting('archive_command'),
			current_setting('archive_library', true),
			current_setting('wal_level'),
			pg_size_bytes(current_setting('wal_segment_size')),
			current_setting('block_size'),
			current_setting('data_checksums'),
			pg_is_in_recovery(),
			current_setting('full_page_writes'),
			(SELECT setting FROM pg_settings WHERE name = 'checkpoint_timeout'),
			(extract(epoch FROM clock_timestamp()) * 1000000)::bigint`)
	if err != nil {
		return Info{}, err
	}
	info := Info{Version: c.version, Major: c.major()}
	info.SystemID = r.systemID("the system identifier")
	writing := r.optional("the timeline")
	info.Timeline = postgres.Timeline(r.number("the timeline of the last checkpoint"))
	if writing != "" && r.err == nil {
		info.Timeline, r.err = postgres.ParseTimeline(writing)
	}
	info.DataDirectory = r.text("data_directory")
	info.ArchiveMode = r.text("archive_mode")
	info.ArchiveCommand = r.text("archive_command")
	info.ArchiveLibrary = r.optional("archive_library")
	info.WALLevel = r.text("wal_level")
	info.WALSegmentSize = r.integer("wal_segment_size")
	info.BlockSize = int(r.integer("block_size"))
	info.DataChecksums = r.boolean("data_checksums")
	info.InRecovery = r.boolean("pg_is_in_recovery")
	info.FullPageWrites = r.boolean("full_page_writes")
	info.CheckpointTimeout = time.Duration(r.integer("checkpoint_timeout")) * time.Second
	info.Now = r.micros("the server's clock")
	if r.err != nil {
		return Info{}, r.err
	}
	return info, nil
}

// Tablespace is one that lies outside of the data directory, or could.
type Tablespace struct {
	OID  uint32
	Name string
	// Location is the directory that pg_tblspc/OID links to. A tablespace in
	// place (allow_in_place_tablespaces, 15 and later) is a directory there,
	// not a link, and has the relative Location "pg_tblspc/OID".
	Location string
}

// Tablespaces lists the tablespaces but pg_default and pg_global, by OID.
func (c *Conn) Tablespaces(ctx context.Context) ([]Tablespace, error) {
	rows, err := c.tablespaceRows(ctx)
	if err != nil {
		return nil, err
	}
	list := make([]Tablespace, len(rows))
	for i := range rows {
		r := &rows[i]
		list[i] = Tablespace{r.number("oid"), r.text("spcname"), r.text("location")}
		if r.err != nil {
			return nil, r.err
		}
	}
	return list, nil
}

const (
	tablespaceAttempts = 50
	tablespaceWait     = 20 * time.Millisecond
)

// tablespaceRows asks again when a link is missing: DROP TABLESPACE removes it
// before it commits, and until then the row is there and its location is not.
func (c *Conn) tablespaceRows(ctx context.Context) ([]row, error) {
	for attempt := 1; ; attempt++ {
		rows, err := c.query(ctx, "list the tablespaces", `
			SELECT oid, spcname, location FROM pg_tablespace, pg_tablespace_location(oid) AS location
			WHERE location <> '' ORDER BY oid`)
		var answer *pgconn.PgError
		if attempt == tablespaceAttempts || !errors.As(err, &answer) || answer.Code != codeUndefinedFile {
			return rows, err
		}
		if err := pause.For(ctx, tablespaceWait); err != nil {
			return nil, fmt.Errorf("list the tablespaces: %w", err)
		}
	}
}

// Database is a database of the cluster, and OID the name of its directory
// under base.
type Database struct {
	OID  uint32
	Name string
	// Tablespace is the OID of the one that holds the database's directory.
	Tablespace uint32
}

// Databases lists all databases, templates included, by OID.
func (c *Conn) Databases(ctx context.Context) ([]Database, error) {
	rows, err := c.query(ctx, "list the databases", `SELECT oid, datname, dattablespace FROM pg_database ORDER BY oid`)
	if err != nil {
		return nil, err
	}
	list := make([]Database, len(rows))
	for i := range rows {
		r := &rows[i]
		list[i] = Database{r.number("oid"), r.text("datname"), r.number("dattablespace")}
		if r.err != nil {
			return nil, r.err
		}
	}
	return list, nil
}
