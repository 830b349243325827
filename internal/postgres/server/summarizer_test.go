package server

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/pgbak/pgbak/internal/hint"
	"github.com/pgbak/pgbak/internal/pgtest"
	"github.com/pgbak/pgbak/internal/postgres"
)

// testSummarizer is for a server without summaries, as one is by default.
func testSummarizer(t *testing.T, c *pgtest.Cluster) {
	conn := connect(t, c.DSN())
	s := must(conn.Summarizer(t.Context()))(t)
	err := conn.WaitSummarized(t.Context(), 1, time.Minute, time.Now)
	if c.Major < 17 {
		if s != (SummarizerState{}) {
			t.Errorf("state %+v, want none", s)
		}
		if want := fmt.Sprintf("PostgreSQL %d makes no WAL summaries (17 and later do)", c.Major); err == nil || err.Error() != want {
			t.Errorf("waiting: %v, want %s", err, want)
		}
		return
	}
	if s != (SummarizerState{Supported: true}) {
		t.Errorf("state %+v, want that it is supported", s)
	}
	if err == nil || err.Error() != "wait for WAL summaries up to 0/1: summarize_wal is off" ||
		hint.Of(err) != "set summarize_wal = on and reload the server, so that backups read only what changed." {
		t.Errorf("waiting: %v (hint: %s)", err, hint.Of(err))
	}
}

func TestWaitSummarized(t *testing.T) {
	for _, major := range pgtest.Majors() {
		if major < summarizingMajor {
			continue
		}
		t.Run(fmt.Sprintf("PostgreSQL %d", major), func(t *testing.T) {
			c := pgtest.Start(t, pgtest.Options{Major: major, Config: map[string]string{"summarize_wal": "on"}})
			conn := connect(t, c.DSN())
			for n := range 3 {
				c.Exec(t, fmt.Sprintf("CREATE TABLE t%d AS SELECT generate_series(1, 100000) AS n", n))
				start := must(conn.StartBackup(t.Context(), "pgbak", true))(t)
				if err := conn.WaitSummarized(t.Context(), start, time.Minute, time.Now); err != nil {
					t.Fatal(err)
				}
				checkSummarized(t, conn, c, start)
				must(conn.StopBackup(t.Context()))(t)
			}
			testSummaries(t, conn, c)
			testSummarizerStalls(t, conn, c)
			testSummarizerIsSwitchedOff(t, c)
		})
	}
}

// testSummaries compares the server's list with the names of its files.
func testSummaries(t *testing.T, conn *Conn, c *pgtest.Cluster) {
	t.Helper()
	files := must(conn.Summaries(t.Context()))(t)
	for _, f := range files {
		if _, err := os.Stat(filepath.Join(c.DataDir, "pg_wal/summaries", f.Name())); err != nil {
			t.Error(err)
		}
	}
	if len(files) < 3 {
		t.Fatalf("%d summaries", len(files))
	}
	if err := os.Remove(filepath.Join(c.DataDir, "pg_wal/summaries", files[0].Name())); err != nil {
		t.Fatal(err)
	}
	if left := must(conn.Summaries(t.Context()))(t); len(left) != len(files)-1 {
		t.Errorf("%d of %d are left after one was removed", len(left), len(files))
	}
}

// checkSummarized compares the state with the server's files.
func checkSummarized(t *testing.T, conn *Conn, c *pgtest.Cluster, lsn postgres.LSN) {
	t.Helper()
	s := must(conn.Summarizer(t.Context()))(t)
	if !s.Supported || !s.Enabled || s.Timeline != 1 || s.Summarized < lsn || s.Pending < s.Summarized || s.PID <= 0 {
		t.Errorf("state %+v, want that it has reached %s", s, lsn)
	}
	files := must(postgres.ListSummaries(os.DirFS(filepath.Join(c.DataDir, postgres.SummariesDirectory))))(t)
	if _, err := postgres.CoverSummaries(files, postgres.History{Timeline: 1}, 1, 0x1000028, lsn); err != nil {
		t.Errorf("%v by %v", err, files)
	}
}

// testSummarizerStalls stops the process when it has read WAL of which no file
// tells yet: what is waited for does not come.
func testSummarizerStalls(t *testing.T, conn *Conn, c *pgtest.Cluster) {
	c.Exec(t, "CREATE TABLE stalled AS SELECT 1")
	c.WaitFor(t, "SELECT pending_lsn > summarized_lsn FROM pg_get_wal_summarizer_state()", "t", time.Minute)
	s := must(conn.Summarizer(t.Context()))(t)
	if err := syscall.Kill(s.PID, syscall.SIGSTOP); err != nil {
		t.Fatal(err)
	}
	defer func() { _ = syscall.Kill(s.PID, syscall.SIGCONT) }()
	s = must(conn.Summarizer(t.Context()))(t)
	target := s.Pending

	looks := 0
	clock := func() time.Time { // a minute with every look
		looks++
		return time.Unix(0, 0).Add(time.Duration(looks) * time.Minute)
	}
	err := conn.WaitSummarized(t.Context(), target, 3*time.Minute, clock)
	want := fmt.Sprintf("wait for WAL summaries up to %s: the WAL summarizer, which is process %d, stands at %s, %s on disk, for 3m0s",
		target, s.PID, s.Pending, s.Summarized)
	if err == nil || err.Error() != want || hint.Of(err) != "look into the server's log for what keeps the WAL summarizer from going on." {
		t.Errorf("stalled: %v, want %s (hint: %s)", err, want, hint.Of(err))
	}
	if looks != 5 { // the start, the first state, and three minutes without another
		t.Errorf("%d looks at the clock", looks)
	}

	ctx, cancel := context.WithCancelCause(t.Context())
	reason := errors.New("had enough")
	time.AfterFunc(50*time.Millisecond, func() { cancel(reason) })
	if err := conn.WaitSummarized(ctx, target, time.Minute, time.Now); !errors.Is(err, reason) && !errors.Is(err, context.Canceled) {
		t.Errorf("cancelled: %v", err)
	}
}

// testSummarizerIsSwitchedOff turns summarize_wal off while it is waited for.
func testSummarizerIsSwitchedOff(t *testing.T, c *pgtest.Cluster) {
	// The session of the test before may have ended with its statement.
	conn := connect(t, c.DSN())
	time.AfterFunc(100*time.Millisecond, func() {
		for _, sql := range []string{"ALTER SYSTEM SET summarize_wal = off", "SELECT pg_reload_conf()"} {
			if _, err := c.TryQuery(sql); err != nil {
				t.Error(err)
			}
		}
	})
	err := conn.WaitSummarized(t.Context(), 1<<60, time.Minute, time.Now)
	if err == nil || !strings.HasSuffix(err.Error(), "summarize_wal is off") {
		t.Errorf("switched off: %v", err)
	}
	c.WaitFor(t, "SELECT summarizer_pid FROM pg_get_wal_summarizer_state()", "", time.Minute)
	if s := must(conn.Summarizer(t.Context()))(t); s.Enabled || s.PID != 0 || s.Summarized == 0 {
		t.Errorf("state %+v after it was switched off", s)
	}
}
