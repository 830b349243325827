package server

import (
	"context"
	"errors"
	"fmt"
	"strings"

	"github.com/jackc/pgx/v5/pgconn"
	"github.com/jackc/pgx/v5/pgproto3"

	"github.com/pgbak/pgbak/internal/postgres"
)

// BaseBackupOptions are those of the command BASE_BACKUP.
type BaseBackupOptions struct {
	Label string
	// Fast asks for an immediate checkpoint instead of a spread one.
	Fast bool
	// MaxRate is in bytes per second, 0 for no bound. The server's unit is
	// 1024 bytes, and its bounds are 32 KiB and 1 GiB per second.
	MaxRate int64
	// Incremental wants pages changed since the manifest that was uploaded.
	Incremental bool
}

// The bounds of MAX_RATE in KiB per second (MAX_RATE_LOWER and
// MAX_RATE_UPPER of replication/basebackup.h).
const (
	minRate = 32
	maxRate = 1 << 20
)

// command gives the command in the syntax of the server's version. The server
// does not wait for its WAL to be archived: the caller knows better whether it
// is. It verifies page checksums, because it can read a page again that it met
// half written, and the receiver cannot.
func (o BaseBackupOptions) command(major int) string {
	var parts []string
	add := func(old, modern string) {
		if major < 15 {
			modern = old
		}
		if modern != "" {
			parts = append(parts, modern)
		}
	}
	add("LABEL "+quote(o.Label), "LABEL "+quote(o.Label))
	add("PROGRESS", "PROGRESS")
	if o.Fast {
		add("FAST", "CHECKPOINT 'fast'")
	} else {
		add("", "CHECKPOINT 'spread'")
	}
	add("NOWAIT", "WAIT 'false'")
	if o.MaxRate > 0 {
		rate := fmt.Sprintf("MAX_RATE %d", min(max(o.MaxRate>>10, minRate), maxRate))
		add(rate, rate)
	}
	add("TABLESPACE_MAP", "TABLESPACE_MAP")
	add("MANIFEST 'yes'", "MANIFEST 'yes'")
	if o.Incremental {
		add("", "INCREMENTAL")
	}
	if major < 15 {
		return "BASE_BACKUP " + strings.Join(parts, " ")
	}
	return "BASE_BACKUP (" + strings.Join(parts, ", ") + ")"
}

// BackupArchive is one of the tar archives that a base backup consists of: one
// for each tablespace, and the data directory as the last.
type BackupArchive struct {
	// OID is that of the tablespace, 0 for the data directory.
	OID uint32
	// Location is where the tablespace is on the server: relative to the data
	// directory if it is in place, "" for the data directory.
	Location string
	// Size is the server's estimate in bytes.
	Size int64
}

// BaseBackup is a base backup that the server has begun to send.
type BaseBackup struct {
	// Start is where its WAL begins, on Timeline.
	Start    postgres.LSN
	Timeline postgres.Timeline
	// Archives are in the order in which the server sends them.
	Archives []BackupArchive

	c *ReplicationConn
}

// BaseBackup begins a base backup. It returns when the server's checkpoint is
// done and the server is about to send. After an error of the server, a
// [pgconn.PgError], the session can be used again; after any other, close it.
func (c *ReplicationConn) BaseBackup(ctx context.Context, o BaseBackupOptions) (*BaseBackup, error) {
	const what = "start the base backup"
	c.conn.Frontend().SendQuery(&pgproto3.Query{String: o.command(c.version / 10000)})
	if err := c.conn.Frontend().Flush(); err != nil {
		return nil, replicationError(what, err)
	}
	b := &BaseBackup{c: c}
	err := b.readHead(ctx, what)
	var answer *pgconn.PgError
	if errors.As(err, &answer) {
		err = errors.Join(replicationError(what, answer), c.ready(ctx))
	}
	if err != nil {
		return nil, err
	}
	return b, nil
}

// readHead reads the two results that come before the archives.
func (b *BaseBackup) readHead(ctx context.Context, what string) error {
	rows, err := b.c.result(ctx, what)
	if err != nil {
		return err
	}
	if b.Start, b.Timeline, err = readPoint(what, rows); err != nil {
		return err
	}
	if rows, err = b.c.result(ctx, what); err != nil {
		return err
	}
	for i := range rows {
		r := &rows[i]
		a := BackupArchive{}
		if r.cells[0] == nil {
			r.next = 2
		} else {
			a.OID, a.Location = r.number("the tablespace"), r.text("its location")
		}
		if size := r.optional("its size"); size != "" {
			kib, err := parseUint64(size)
			if err != nil {
				return fmt.Errorf("%s: size of an archive: %w", what, err)
			}
			a.Size = int64(kib) << 10
		}
		if r.err != nil {
			return r.err
		}
		b.Archives = append(b.Archives, a)
	}
	if n := len(b.Archives); n == 0 || b.Archives[n-1].OID != 0 {
		return fmt.Errorf("%s: the server does not send the data directory as the last of %d archives", what, n)
	}
	return nil
}

// readPoint reads a result of a position and a timeline.
func readPoint(what string, rows []row) (postgres.LSN, postgres.Timeline, error) {
	if len(rows) != 1 {
		return 0, 0, fmt.Errorf("%s: the server gave %d rows where one was expected", what, len(rows))
	}
	lsn, tli := rows[0].lsn("the position"), rows[0].number("the timeline")
	return lsn, postgres.Timeline(tli), rows[0].err
}

// result reads the rows of one result. An answer of the server that is an error
// comes as a *pgconn.PgError.
func (c *ReplicationConn) result(ctx context.Context, what string) ([]row, error) {
	var rows []row
	for {
		m, err := c.receive(ctx, what)
		if err != nil {
			return nil, err
		}
		switch m := m.(type) {
		case *pgproto3.RowDescription:
		case *pgproto3.DataRow:
			cells := make([][]byte, len(m.Values))
			for i, v := range m.Values {
				if v != nil {
					cells[i] = append([]byte{}, v...) // the message is valid until the next
				}
			}
			if len(cells) < 2 {
				return nil, fmt.Errorf("%s: a row of %d columns", what, len(cells))
			}
			rows = append(rows, row{what: what, cells: cells})
		case *pgproto3.CommandComplete:
			return rows, nil
		default:
			return nil, fmt.Errorf("%s: the server sent %T where a result was expected", what, m)
		}
	}
}

// receive gives the next message that is not a notice.
func (c *ReplicationConn) receive(ctx context.Context, what string) (pgproto3.BackendMessage, error) {
	for {
		m, err := c.conn.ReceiveMessage(ctx)
		if err != nil {
			if ctx.Err() != nil {
				c.abandon(ctx)
				return nil, fmt.Errorf("%s: %w", what, context.Cause(ctx))
			}
			return nil, replicationError(what, err)
		}
		switch m := m.(type) {
		case *pgproto3.NoticeResponse, *pgproto3.ParameterStatus, *pgproto3.NotificationResponse:
		case *pgproto3.ErrorResponse:
			return nil, pgconn.ErrorResponseToPgError(m)
		default:
			return m, nil
		}
	}
}

// abandon tells the server that nobody listens any more.
func (c *ReplicationConn) abandon(ctx context.Context) {
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), cancelPatience)
	defer cancel()
	_ = c.Cancel(ctx) // the session is over anyhow
}

// ready reads up to the server's readiness for another command.
func (c *ReplicationConn) ready(ctx context.Context) error {
	for {
		m, err := c.receive(ctx, "wait for the server")
		if err != nil {
			return err
		}
		if _, ok := m.(*pgproto3.ReadyForQuery); ok {
			return nil
		}
	}
}
