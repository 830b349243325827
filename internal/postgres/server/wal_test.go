package server

import (
	"strings"
	"testing"
	"time"

	"github.com/pgbak/pgbak/internal/pgtest"
	"github.com/pgbak/pgbak/internal/postgres"
)

func testSwitchWAL(t *testing.T, c *pgtest.Cluster) {
	const size = 16 << 20
	conn := connect(t, c.DSN())
	var last uint64
	for n := range 4 {
		// Nothing is written between the switches but for the second one.
		if n == 1 {
			c.Exec(t, "CREATE TABLE between_switches AS SELECT 1")
		}
		before, _, err := conn.CurrentWALFile(t.Context())
		if err != nil {
			t.Fatal(err)
		}
		lsn := must(conn.SwitchWAL(t.Context()))(t)
		segment := lsn.Segment(size)
		if n > 0 && segment <= last {
			t.Errorf("switch %d completes segment %d, which is not after %d", n, segment, last)
		}
		last = segment
		name := postgres.WALFile{Kind: postgres.WALSegment, Timeline: 1, Segment: segment}.Name(size)
		if name < before {
			t.Errorf("switch %d completes %s, and %s was current", n, name, before)
		}
		c.WaitFor(t, "SELECT last_archived_wal >= '"+name+"' FROM pg_stat_archiver", "t", 20*time.Second)
		status := must(conn.ArchiverStatus(t.Context()))(t)
		if status.Failing() || status.LastArchived != name || time.Since(status.LastArchivedTime).Abs() > time.Minute {
			t.Errorf("archiver status %+v (%s), want %s archived just now", status, status, name)
		}
	}
}

func testCurrentWALFile(t *testing.T, c *pgtest.Cluster) {
	conn := connect(t, c.DSN())
	c.Exec(t, "CREATE TABLE written AS SELECT 1")
	name, lsn, err := conn.CurrentWALFile(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	file, err := postgres.ParseWALFile(name, 16<<20)
	if err != nil {
		t.Fatal(err)
	}
	if file.Timeline != 1 || file.Segment != lsn.Segment(16<<20) {
		t.Errorf("%s for %s", name, lsn)
	}
}

func testFailingArchiver(t *testing.T, c *pgtest.Cluster) {
	conn := connect(t, c.DSN())
	must(conn.query(t.Context(), "break archiving", "ALTER SYSTEM SET archive_command = 'false'"))(t)
	defer func() {
		c.Exec(t, "ALTER SYSTEM RESET archive_command")
		c.Exec(t, "SELECT pg_reload_conf()")
	}()
	must(conn.query(t.Context(), "reload", "SELECT pg_reload_conf(), pg_stat_reset_shared('archiver')"))(t)
	// The statistics of 13 and 14 come late, since a process of their own collects them.
	c.WaitFor(t, "SELECT archived_count FROM pg_stat_archiver", "0", 10*time.Second)
	if s := must(conn.ArchiverStatus(t.Context()))(t); s != (ArchiverStatus{}) || !strings.Contains(s.String(), "not archived anything") {
		t.Errorf("fresh server: %+v (%s)", s, s)
	}
	lsn := must(conn.SwitchWAL(t.Context()))(t)
	c.WaitFor(t, "SELECT failed_count > 0 FROM pg_stat_archiver", "t", 20*time.Second)
	s := must(conn.ArchiverStatus(t.Context()))(t)
	want := postgres.WALFile{Kind: postgres.WALSegment, Timeline: 1, Segment: lsn.Segment(16 << 20)}.Name(16 << 20)
	if !s.Failing() || s.LastFailed != want || !strings.Contains(s.String(), want) {
		t.Errorf("archiver status %+v (%s), want failing for %s", s, s, want)
	}
}
