package server

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/jackc/pgx/v5/pgconn"

	"github.com/pgbak/pgbak/internal/hint"
	"github.com/pgbak/pgbak/internal/pgtest"
	"github.com/pgbak/pgbak/internal/postgres"
)

func testBackup(t *testing.T, c *pgtest.Cluster) {
	location := filepath.Join(pgtest.TempDir(t), "space")
	if err := os.Mkdir(location, 0o700); err != nil {
		t.Fatal(err)
	}
	pgtest.GiveToServer(t, location)
	c.Exec(t, fmt.Sprintf("CREATE TABLESPACE slow LOCATION '%s'", location))
	defer c.Exec(t, "DROP TABLESPACE slow")

	const label = `it's the "pgbak" backup`
	conn := connect(t, c.DSN())
	start := must(conn.StartBackup(t.Context(), label, true))(t)
	if err := conn.Ping(t.Context()); err != nil {
		t.Errorf("ping while the backup is under way: %v", err)
	}
	var refused *pgconn.PgError
	if _, err := conn.StartBackup(t.Context(), "second", true); !errors.As(err, &refused) {
		t.Errorf("second backup in the same session: %v, want the server's refusal", err)
	}
	c.Exec(t, "CREATE TABLE during_backup AS SELECT 1")
	stop := must(conn.StopBackup(t.Context()))(t)
	if stop.LSN <= start {
		t.Errorf("backup from %s to %s", start, stop.LSN)
	}
	got := must(postgres.ParseBackupLabel([]byte(stop.LabelFile)))(t)
	if got.Start != start || got.Label != label || got.Timeline != 1 {
		t.Errorf("label %+v, want start %s, timeline 1 and %q", got, start, label)
	}
	if !strings.HasSuffix(strings.TrimSpace(stop.TablespaceMap), " "+location) {
		t.Errorf("tablespace map %q does not name %s", stop.TablespaceMap, location)
	}
	if _, err := conn.StopBackup(t.Context()); !errors.As(err, &refused) {
		t.Errorf("second stop: %v, want the server's refusal", err)
	}
}

// active says how many sessions of pgbak run a statement.
const active = `SELECT count(*) FROM pg_stat_activity WHERE application_name = 'pgbak' AND state = 'active'`

// sessions says how many sessions of pgbak there are.
const sessions = `SELECT count(*) FROM pg_stat_activity WHERE application_name = 'pgbak'`

func testCancelledStart(t *testing.T, c *pgtest.Cluster) {
	// Dirty pages, for a checkpoint that is not fast to be busy with.
	c.Exec(t, "CREATE TABLE dirty AS SELECT generate_series(1, 200000) AS n")
	conn := connect(t, c.DSN())
	ctx, cancel := context.WithCancel(t.Context())
	result := make(chan error, 1)
	go func() {
		_, err := conn.StartBackup(ctx, "slow", false)
		result <- err
	}()
	c.WaitFor(t, active, "1", 10*time.Second)
	select {
	case err := <-result:
		t.Fatalf("a start that is not fast has ended at once (error %v)", err)
	case <-time.After(500 * time.Millisecond):
	}
	cancel()
	if err := <-result; !errors.Is(err, context.Canceled) {
		t.Errorf("StartBackup: %v, want one that is context.Canceled", err)
	}
	if err := conn.Close(t.Context()); err != nil {
		t.Error(err)
	}
	select {
	case <-conn.conn.CleanupDone():
	default:
		t.Error("Close has not waited for the session's end")
	}
	if n := c.Query(t, sessions); n != "0" {
		t.Errorf("%s sessions are left after Close", n)
	}
	err := conn.Ping(t.Context())
	if !errors.Is(err, pgconn.ErrConnClosed) || hint.Of(err) == "" {
		t.Errorf("ping after that: %v (hint %q), want a closed connection and a hint", err, hint.Of(err))
	}

	again := connect(t, c.DSN())
	must(again.StartBackup(t.Context(), "fast", true))(t)
	must(again.StopBackup(t.Context()))(t)
}

func testCloseEndsBackup(t *testing.T, c *pgtest.Cluster) {
	conn := connect(t, c.DSN())
	must(conn.StartBackup(t.Context(), "given up", true))(t)
	if err := conn.Close(t.Context()); err != nil {
		t.Fatal(err)
	}
	if _, err := conn.StopBackup(t.Context()); !errors.Is(err, pgconn.ErrConnClosed) {
		t.Errorf("StopBackup after Close: %v, want a closed connection", err)
	}
	if err := conn.Close(t.Context()); err != nil {
		t.Errorf("second Close: %v", err)
	}
	c.WaitFor(t, sessions, "0", 10*time.Second)
}

func TestPingNoticesThatTheBackupsSessionIsGone(t *testing.T) {
	c := pgtest.Start(t, pgtest.Options{})
	t.Run("ended by the server", func(t *testing.T) {
		conn := connect(t, c.DSN())
		must(conn.StartBackup(t.Context(), "label", true))(t)
		c.Exec(t, fmt.Sprintf("SELECT pg_terminate_backend(%d)", conn.getBackupPID()))
		c.WaitFor(t, sessions, "0", 10*time.Second)
		if err := conn.Ping(t.Context()); err == nil {
			t.Error("ping of a session that the server has ended succeeds")
		}
	})
	t.Run("exchanged by a pooler", func(t *testing.T) {
		conn, other := connect(t, c.DSN()), connect(t, c.DSN())
		must(conn.StartBackup(t.Context(), "label", true))(t)
		// What a pooler does: the same connection, another session behind it.
		conn.conn, other.conn = other.conn, conn.conn
		err := conn.Ping(t.Context())
		if !errors.Is(err, errOtherSession) || !strings.Contains(hint.Of(err), "pooler") {
			t.Errorf("ping: %v (hint %q), want another session", err, hint.Of(err))
		}
	})
}

func TestWaitingForACallDoesNotDisturbIt(t *testing.T) {
	c := pgtest.Start(t, pgtest.Options{})
	conn := connect(t, c.DSN())
	errs := make(chan error)
	for range 4 {
		go func() {
			var err error
			for range 25 {
				err = errors.Join(err, conn.Ping(t.Context()))
			}
			errs <- err
		}()
	}
	for range 4 {
		if err := <-errs; err != nil {
			t.Error(err)
		}
	}
}
