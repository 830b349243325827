package server

import (
	"context"
	"strconv"

	"github.com/pgbak/pgbak/internal/postgres"
)

// Layout gives what pg_control says of the cluster's format, as the server tells
// it: identity, versions, sizes and checksums. Positions and times are not set.
func (c *Conn) Layout(ctx context.Context) (postgres.Control, error) {
	r, err := c.one(ctx, "ask for the layout of the cluster", `
		SELECT system_identifier, pg_control_version, catalog_version_no, database_block_size,
			blocks_per_segment, wal_block_size, bytes_per_wal_segment, data_page_checksum_version
		FROM pg_control_system(), pg_control_init()`)
	if err != nil {
		return postgres.Control{}, err
	}
	control := postgres.Control{
		Major:           c.major(),
		SystemID:        r.systemID("the system identifier"),
		ControlVersion:  r.number("the version of pg_control"),
		CatalogVersion:  r.number("the version of the catalog"),
		BlockSize:       int(r.integer("the size of pages")),
		SegmentBlocks:   int(r.integer("the pages of a segment")),
		WALBlockSize:    int(r.integer("the size of WAL pages")),
		WALSegmentSize:  r.integer("the size of WAL segments"),
		ChecksumVersion: r.number("the version of checksums"),
	}
	return control, r.err
}

// RelationLimit is the smallest length in blocks that a fork of a relation had,
// by truncation or by having been created.
type RelationLimit struct {
	Fork  postgres.RelationForkID
	Limit uint32
}

// RelationLimits gives the forks that were truncated or created in the WAL from
// from up to to on a timeline, as the server's WAL summaries tell. It is of
// PostgreSQL 17 and later, and needs the right to run pg_wal_summary_contents.
// The error is a *postgres.SummaryGapError if there are not summaries of all of
// this WAL: the server makes them with delay, and removes old ones at any time.
func (c *Conn) RelationLimits(ctx context.Context, tli postgres.Timeline, from, to postgres.LSN) ([]RelationLimit, error) {
	rows, err := c.query(ctx, "read the server's WAL summaries", `
		SELECT reltablespace, reldatabase, relfilenode, relforknumber, min(relblocknumber)
		FROM pg_available_wal_summaries() AS s, pg_wal_summary_contents(s.tli, s.start_lsn, s.end_lsn) AS c
		WHERE s.tli = `+quote(strconv.FormatUint(uint64(tli), 10))+`::bigint AND s.end_lsn > `+quote(from.String())+` AND s.start_lsn < `+quote(to.String())+`
			AND is_limit_block
		GROUP BY 1, 2, 3, 4`)
	if err != nil {
		return nil, err
	}
	limits := make([]RelationLimit, len(rows))
	for i := range rows {
		r := &rows[i]
		l := RelationLimit{Fork: postgres.RelationForkID{}}
		l.Fork.Tablespace, l.Fork.Database = r.number("reltablespace"), r.number("reldatabase")
		l.Fork.Node, l.Fork.Fork = r.number("relfilenode"), postgres.RelationFork(r.integer("relforknumber"))
		l.Limit = uint32(r.integer("relblocknumber"))
		if r.err != nil {
			return nil, r.err
		}
		limits[i] = l
	}
	files, err := c.Summaries(ctx) // that are there now were there before
	if err == nil {
		_, err = postgres.CoverSummaries(files, postgres.History{Timeline: tli}, tli, from, to)
	}
	return limits, err
}

// Summaries lists the WAL summaries that the server has now. It removes them
// after wal_summary_keep_time: what was read of all it had is complete if those
// that are still there afterwards cover the range.
func (c *Conn) Summaries(ctx context.Context) ([]postgres.SummaryFile, error) {
	rows, err := c.query(ctx, "list the server's WAL summaries", "SELECT tli, start_lsn, end_lsn FROM pg_available_wal_summaries()")
	if err != nil {
		return nil, err
	}
	files := make([]postgres.SummaryFile, len(rows))
	for i := range rows {
		r := &rows[i]
		files[i] = postgres.SummaryFile{Timeline: postgres.Timeline(r.number("tli")), Start: r.lsn("start_lsn"), End: r.lsn("end_lsn")}
		if r.err != nil {
			return nil, r.err
		}
	}
	return files, nil
}
