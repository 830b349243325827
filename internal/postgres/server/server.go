// Package server speaks to a running PostgreSQL, 13 to 18: it asks what the
// server is ([Conn.Info]), brackets a base backup ([Conn.StartBackup],
// [Conn.StopBackup]), completes WAL segments ([Conn.SwitchWAL]) and says how
// archiving fares ([Conn.ArchiverStatus]).
//
// A [Conn] is one session with the server, and is never replaced by another
// behind its user's back. That matters because a base backup belongs to its
// session: PostgreSQL gives up the backup when the session ends. So there is no
// half state to clean up after a failure. Whatever went wrong, a cancelled
// context included, close the connection and the server is as it was before.
//
//	conn, err := server.Connect(ctx, "host=/var/run/postgresql user=postgres")
//	...
//	defer conn.Close(context.WithoutCancel(ctx)) // also after a Ctrl-C
//	start, err := conn.StartBackup(ctx, "pgbak", true)
//	... copy the files, with a Ping now and then ...
//	stop, err := conn.StopBackup(ctx)
//
// Errors of the server keep their [pgconn.PgError] within reach of
// [errors.As]. No error holds a password.
package server

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"sync"

	"github.com/jackc/pgx/v5/pgconn"

	"github.com/pgbak/pgbak/internal/postgres"
)

// Conn is a session with a server. Calls from several goroutines wait for one
// another, so that one may [Conn.Ping] while another works.
type Conn struct {
	mu   sync.Mutex // held for the time of a query; the protocol allows one at a time
	conn *pgconn.PgConn
	// version is server_version_num, which does not change within a session.
	version int
	// backupPID is the server process that began a backup, 0 when none is under way.
	backupPID int
}

// Connect opens a session. dsn is a libpq connection string in either form,
// "host=/var/run/postgresql user=postgres" or "postgres://..."; what it leaves
// out comes from the PG* variables and the password file, as with libpq. The
// session is called pgbak in pg_stat_activity unless dsn or PGAPPNAME says
// otherwise, sees no schema but pg_catalog, and has no time limits, since a
// backup keeps it idle for hours.
//
// A server older or newer than pgbak knows is refused.
func Connect(ctx context.Context, dsn string) (*Conn, error) {
	config, err := pgconn.ParseConfig(dsn)
	if err != nil {
		return nil, settingsError(err)
	}
	if config.RuntimeParams["application_name"] == "" {
		config.RuntimeParams["application_name"] = "pgbak"
	}
	// A name in pg_catalog must not be shadowed by an object that some user put
	// into a schema before it, since pgbak is often a superuser.
	config.RuntimeParams["search_path"] = "pg_catalog"
	config.RuntimeParams["client_encoding"] = "UTF8"
	config.RuntimeParams["standard_conforming_strings"] = "on" // quote relies on it
	config.RuntimeParams["statement_timeout"] = "0"
	config.RuntimeParams["lock_timeout"] = "0"
	session, err := pgconn.ConnectConfig(ctx, config)
	if err != nil {
		return nil, connectError(err)
	}
	c := &Conn{conn: session}
	if err := c.prepare(ctx); err != nil {
		return nil, errors.Join(err, c.Close(ctx))
	}
	return c, nil
}

// prepare learns the server's version and lifts the time limits that not every
// version has: idle_session_timeout came with 14, transaction_timeout with 17.
func (c *Conn) prepare(ctx context.Context) error {
	r, err := c.one(ctx, "read the server's version", `SELECT current_setting('server_version_num')`)
	if err != nil {
		return err
	}
	c.version = int(r.integer("server_version_num"))
	if r.err != nil {
		return r.err
	}
	if major := c.version / 10000; major < postgres.MinMajor || major > postgres.MaxMajor {
		return fmt.Errorf("the server is PostgreSQL %d, and only %d to %d are supported",
			major, postgres.MinMajor, postgres.MaxMajor)
	}
	_, err = c.query(ctx, "lift the session's time limits", `
		SELECT set_config(name, '0', false) FROM pg_settings
		WHERE name IN ('idle_session_timeout', 'transaction_timeout')`)
	return err
}

// major is the server's major version.
func (c *Conn) major() int { return c.version / 10000 }

// Close ends the session, and with it a backup that was begun and not stopped.
// When the session ended already, because a context was cancelled in the middle
// of a query, Close waits until the server has been told so. It gives up when
// ctx is done; the session is then closed without a farewell. Closing twice
// does nothing.
func (c *Conn) Close(ctx context.Context) error {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.backupPID = 0
	if !c.conn.IsClosed() {
		if err := c.conn.Close(ctx); err != nil {
			return fmt.Errorf("close the connection to the server: %w", err)
		}
		return nil
	}
	select {
	case <-c.conn.CleanupDone():
	case <-ctx.Done():
	}
	return nil
}

// query runs one statement in the simple protocol and returns its rows. what
// says in a few words what it is for, and begins the text of an error.
func (c *Conn) query(ctx context.Context, what, sql string) ([]row, error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	results, err := c.conn.Exec(ctx, sql).ReadAll()
	if err != nil {
		return nil, queryError(what, err)
	}
	if len(results) != 1 {
		return nil, fmt.Errorf("%s: the server gave %d results for one statement", what, len(results))
	}
	rows := make([]row, len(results[0].Rows))
	for i, cells := range results[0].Rows {
		rows[i] = row{what: what, cells: cells}
	}
	return rows, nil
}

// one runs a statement that gives exactly one row.
func (c *Conn) one(ctx context.Context, what, sql string) (*row, error) {
	rows, err := c.query(ctx, what, sql)
	if err != nil {
		return nil, err
	}
	if len(rows) != 1 {
		return nil, fmt.Errorf("%s: the server gave %d rows where one was expected", what, len(rows))
	}
	return &rows[0], nil
}

// quote makes s a literal of SQL. In the simple protocol a statement has no
// parameters, and in a session with standard_conforming_strings, which Connect
// sets, an apostrophe is all that has to be escaped.
func quote(s string) string { return "'" + strings.ReplaceAll(s, "'", "''") + "'" }
