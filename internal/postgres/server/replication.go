package server

import (
	"context"
	"errors"
	"fmt"
	"io"
	"strconv"
	"strings"
	"sync"
	"time"

	"github.com/jackc/pglogrepl"
	"github.com/jackc/pgx/v5/pgconn"

	"github.com/pgbak/pgbak/internal/hint"
	"github.com/pgbak/pgbak/internal/postgres"
)

// ReplicationConn is a session in the replication protocol, over which a server
// sends a base backup: chapter "Streaming Replication Protocol" of PostgreSQL's
// manual. It is for one goroutine. Like with [Conn], what the server began ends
// with the session.
type ReplicationConn struct {
	conn    *pgconn.PgConn
	version int

	mu      sync.Mutex
	notices []string
	dropped int // notices beyond maxNotices
}

// maxNotices bounds what is kept of the warnings of one backup: a server warns
// of every file that it does not send.
const maxNotices = 50

// ConnectReplication opens a session with the server that dsn leads to, for the
// replication protocol. Its role needs the attribute REPLICATION, pg_hba.conf a
// line for the database replication, and max_wal_senders a place.
func ConnectReplication(ctx context.Context, dsn string) (*ReplicationConn, error) {
	return ConnectReplicationAs(ctx, dsn, "")
}

// ConnectReplicationAs is ConnectReplication under an application_name, which is
// what synchronous_standby_names refers to. With "" it is what dsn or PGAPPNAME
// says, else pgbak.
func ConnectReplicationAs(ctx context.Context, dsn, name string) (*ReplicationConn, error) {
	config, err := pgconn.ParseConfig(dsn)
	if err != nil {
		return nil, settingsError(err)
	}
	if name != "" {
		config.RuntimeParams["application_name"] = name
	} else if config.RuntimeParams["application_name"] == "" {
		config.RuntimeParams["application_name"] = "pgbak"
	}
	config.RuntimeParams["replication"] = "true"
	c := &ReplicationConn{}
	config.OnNotice = func(_ *pgconn.PgConn, n *pgconn.Notice) { c.note(n) }
	if c.conn, err = pgconn.ConnectConfig(ctx, config); err != nil {
		return nil, replicationError("connect to the server for replication", err)
	}
	r, err := c.one(ctx, "read the server's version", "SHOW server_version_num")
	if err == nil {
		c.version, err = int(r.integer("server_version_num")), r.err
	}
	if err != nil {
		return nil, errors.Join(err, c.Close(ctx))
	}
	return c, nil
}

// note keeps a warning of the server.
func (c *ReplicationConn) note(n *pgconn.Notice) {
	if n.Severity != "WARNING" && n.SeverityUnlocalized != "WARNING" {
		return
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	if len(c.notices) == maxNotices {
		c.dropped++
		return
	}
	c.notices = append(c.notices, n.Message)
}

// Warnings are the server's warnings so far, and how many more there were than
// are kept.
func (c *ReplicationConn) Warnings() (kept []string, more int) {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.notices, c.dropped
}

// Close ends the session. A command under way is cancelled first, since a
// server that waits for a checkpoint would not notice that nobody listens.
func (c *ReplicationConn) Close(ctx context.Context) error {
	if c.conn.IsClosed() {
		select {
		case <-c.conn.CleanupDone():
		case <-ctx.Done():
		}
		return nil
	}
	if err := c.conn.Close(ctx); err != nil {
		return fmt.Errorf("close the replication connection: %w", err)
	}
	return nil
}

// Cancel asks the server to give up the command under way, and ends the session.
func (c *ReplicationConn) Cancel(ctx context.Context) error {
	var err error
	if !c.conn.IsClosed() {
		err = c.conn.CancelRequest(ctx)
	}
	return errors.Join(err, c.Close(ctx))
}

// System is what IDENTIFY_SYSTEM says.
type System struct {
	SystemID uint64
	Timeline postgres.Timeline
	LSN      postgres.LSN // up to which WAL is flushed
}

// IdentifySystem asks which cluster the session is with.
func (c *ReplicationConn) IdentifySystem(ctx context.Context) (System, error) {
	answer, err := pglogrepl.IdentifySystem(ctx, c.conn)
	if err != nil {
		return System{}, replicationError("identify the system", err)
	}
	id, err := strconv.ParseUint(answer.SystemID, 10, 64)
	if err != nil {
		return System{}, fmt.Errorf("identify the system: the system identifier: %w", err)
	}
	return System{SystemID: id, Timeline: postgres.Timeline(answer.Timeline), LSN: postgres.LSN(answer.XLogPos)}, nil
}

// UploadManifest sends the manifest of an earlier backup, against which the next
// BaseBackup of this session is incremental. Of PostgreSQL 17 and later.
func (c *ReplicationConn) UploadManifest(ctx context.Context, manifest io.Reader) error {
	if c.version < 170000 {
		return fmt.Errorf("upload a manifest: PostgreSQL %d has no incremental backups", c.version/10000)
	}
	if _, err := c.conn.CopyFrom(ctx, manifest, "UPLOAD_MANIFEST"); err != nil {
		return replicationError("upload the parent's manifest", err)
	}
	return nil
}

// one runs a command that gives one row.
func (c *ReplicationConn) one(ctx context.Context, what, command string) (*row, error) {
	results, err := c.conn.Exec(ctx, command).ReadAll()
	if err != nil {
		return nil, replicationError(what, err)
	}
	if len(results) != 1 || len(results[0].Rows) != 1 {
		return nil, fmt.Errorf("%s: the server's answer is not one row", what)
	}
	return &row{what: what, cells: results[0].Rows[0]}, nil
}

// replicationError is queryError with the advice that concerns replication.
func replicationError(what string, err error) error {
	wrapped := fmt.Errorf("%s: %w", what, err)
	var answer *pgconn.PgError
	if errors.As(err, &answer) {
		switch {
		case answer.Code == codeInsufficientPrivilege:
			return hint.Wrap(wrapped, "give the role of the connection the attribute REPLICATION: ALTER ROLE name REPLICATION.")
		case answer.Code == codeInvalidAuthorization && strings.Contains(answer.Message, "pg_hba.conf"):
			return hint.Wrap(wrapped, "let the role make replication connections: add a line for the database replication to pg_hba.conf and reload the server.")
		case answer.Code == codeTooManyConnections && strings.Contains(answer.Message, "max_wal_senders"):
			return hint.Wrap(wrapped, "raise max_wal_senders and restart the server, or wait until a standby or another backup has ended.")
		}
	}
	return queryError(what, err)
}

// cancelPatience is how long a server may take to be told that its command is given up.
const cancelPatience = 5 * time.Second
