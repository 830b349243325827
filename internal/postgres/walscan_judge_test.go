package postgres_test

import (
	"fmt"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/pgbak/pgbak/internal/pgtest"
	"github.com/pgbak/pgbak/internal/postgres"
)

// judgeByWalinspect asks the server to read its own WAL.
func (s *walSample) judgeByWalinspect(t *testing.T, c *pgtest.Cluster) {
	t.Helper()
	s.Judge = "pg_walinspect"
	out := c.Query(t, fmt.Sprintf(`SELECT start_lsn, end_lsn, xid, record_type, description
		FROM pg_get_wal_records_info('%s', '%s')
		WHERE record_type IN ('COMMIT', 'ABORT', 'COMMIT_PREPARED', 'ABORT_PREPARED', 'RESTORE_POINT')
		ORDER BY start_lsn`, s.Start+postgres.WALHeaderSize, s.End))
	for line := range strings.SplitSeq(out, "\n") {
		f := strings.SplitN(line, "|", 5)
		if len(f) != 5 {
			t.Fatalf("pg_walinspect says %q", line)
		}
		event := describedEvent(t, f[0], f[2], f[3], f[4])
		var err error
		if event.End, err = postgres.ParseLSN(f[1]); err != nil {
			t.Fatal(err)
		}
		s.Events = append(s.Events, event)
	}
}

// judgeByWaldump has pg_waldump read the segments.
func judgeByWaldump(t *testing.T, s walSample) []judgedEvent {
	t.Helper()
	dir := pgtest.TempDir(t)
	for at := int64(0); at < int64(len(s.data)); at += s.SegmentSize {
		segment := (s.Start + postgres.LSN(at)).Segment(s.SegmentSize)
		name := filepath.Join(dir, postgres.WALFile{Kind: postgres.WALSegment, Timeline: 1, Segment: segment}.Name(s.SegmentSize))
		if err := os.WriteFile(name, s.data[at:at+s.SegmentSize], 0o600); err != nil {
			t.Fatal(err)
		}
		pgtest.GiveToServer(t, name)
	}
	cmd := pgtest.Command(t, pgtest.Tool(t, "pg_waldump"), "-p", dir, "-s", s.Start.String(), "-e", s.End.String())
	cmd.Env = append(cmd.Environ(), "TZ=UTC")
	out, err := cmd.Output()
	if err != nil {
		t.Fatalf("pg_waldump: %v\n%s", err, out)
	}
	line := regexp.MustCompile(`tx: +(\d+), lsn: ([0-9A-F/]+), .* desc: (COMMIT|ABORT|COMMIT_PREPARED|ABORT_PREPARED|RESTORE_POINT) (.*)`)
	var events []judgedEvent
	for _, m := range line.FindAllStringSubmatch(string(out), -1) {
		events = append(events, describedEvent(t, m[2], m[1], m[3], m[4]))
	}
	return events
}

// describedEvent reads what PostgreSQL's tools show of a record: the end of a
// transaction as "[XID: ]TIME[; more]", a restore point as its name.
func describedEvent(t *testing.T, lsn, xid, kind, description string) judgedEvent {
	t.Helper()
	var event judgedEvent
	var err error
	if event.LSN, err = postgres.ParseLSN(lsn); err != nil {
		t.Fatal(err)
	}
	if kind == "RESTORE_POINT" {
		event.Kind, event.Name = "restore point", description
		return event
	}
	if prepared, rest, ok := strings.Cut(description, ": 20"); ok && strings.HasSuffix(kind, "_PREPARED") {
		xid, description = prepared, "20"+rest
	}
	n, err := strconv.ParseUint(xid, 10, 32)
	if err != nil {
		t.Fatal(err)
	}
	event.Kind, event.XID = strings.ToLower(strings.TrimSuffix(kind, "_PREPARED")), uint32(n)
	moment, _, _ := strings.Cut(description, ";")
	// Servers write UTC as +00, pg_waldump by its name.
	when, err := time.Parse("2006-01-02 15:04:05-07", strings.Replace(moment, " UTC", "+00", 1))
	if err != nil {
		t.Fatal(err)
	}
	when = when.UTC()
	event.Time = &when
	return event
}

// judgeByServer asks a server that cannot read its own WAL what became of the
// transactions. It does not know where in the WAL, and not when one was
// aborted; the order of the ends is that of their times. The scanner's own
// order is held against it by compareWAL.
func (s *walSample) judgeByServer(t *testing.T, c *pgtest.Cluster, firstXID string) {
	t.Helper()
	s.Judge = "pg_xact_status and pg_xact_commit_timestamp"
	out := c.Query(t, fmt.Sprintf(`SELECT n, pg_xact_status(n::text::xid8),
			CASE pg_xact_status(n::text::xid8) WHEN 'committed' THEN pg_xact_commit_timestamp(n::text::xid) END
		FROM generate_series(%s, txid_snapshot_xmax(txid_current_snapshot()) - 1) AS n ORDER BY n`, firstXID))
	for line := range strings.SplitSeq(out, "\n") {
		f := strings.Split(line, "|")
		n, err := strconv.ParseUint(f[0], 10, 32)
		if err != nil {
			t.Fatal(err)
		}
		event := judgedEvent{Kind: map[string]string{"committed": "commit", "aborted": "abort"}[f[1]], XID: uint32(n)}
		if f[2] != "" && !strings.HasPrefix(f[2], "2020") { // the origin's time, not the server's
			when, err := time.Parse("2006-01-02 15:04:05-07", f[2])
			if err != nil {
				t.Fatal(err)
			}
			when = when.UTC()
			event.Time = &when
		}
		s.Events = append(s.Events, event)
	}
	for _, name := range restorePointNames() {
		s.Events = append(s.Events, judgedEvent{Kind: "restore point", Name: name})
	}
}

// restorePointNames lists the restore points of walWorkload.
func restorePointNames() []string {
	var names []string
	for _, m := range regexp.MustCompile(`pg_create_restore_point\('(.*)'\)`).FindAllStringSubmatch(walWorkload, -1) {
		names = append(names, m[1])
	}
	return names
}

// scanSample scans all segments of a sample with one scanner.
func scanSample(t testing.TB, s walSample) (*postgres.WALScanner, []postgres.WALEvent) {
	t.Helper()
	var events []postgres.WALEvent
	scanner := postgres.NewWALScanner(s.Major, s.SegmentSize, s.PageSize)
	for at := int64(0); at < int64(len(s.data)); at += s.SegmentSize {
		err := scanner.Scan(s.Start+postgres.LSN(at), s.Timeline, s.data[at:min(at+s.SegmentSize, int64(len(s.data)))], func(e postgres.WALEvent) error {
			events = append(events, e)
			return nil
		})
		if err != nil {
			t.Fatal(err)
		}
	}
	return scanner, events
}

// compareWAL holds what the scanner finds against what the judge says.
func compareWAL(t *testing.T, s walSample) {
	t.Helper()
	scanner, events := scanSample(t, s)
	if scanner.End() != s.End || !scanner.Ended() {
		t.Errorf("the WAL ends at %s (ended: %t), want %s", scanner.End(), scanner.Ended(), s.End)
	}
	if len(events) < 50 {
		t.Errorf("only %d events", len(events))
	}
	crossing := slices.IndexFunc(events, func(e postgres.WALEvent) bool {
		return e.LSN.Segment(s.SegmentSize) != e.End.Segment(s.SegmentSize)
	})
	if crossing < 0 || events[crossing].Kind != postgres.WALCommit {
		t.Error("no commit crosses into the next segment, which this WAL was made for")
	}
	for i := 1; i < len(events); i++ {
		if events[i].LSN < events[i-1].End {
			t.Errorf("event at %s, after one that ends at %s", events[i].LSN, events[i-1].End)
		}
	}
	if s.Judge == "pg_walinspect" {
		compareInOrder(t, s.Events, events)
		return
	}
	compareByTransaction(t, s.Events, events)
}

// compareInOrder is for a judge that knows every record.
func compareInOrder(t *testing.T, want []judgedEvent, got []postgres.WALEvent) {
	t.Helper()
	if len(got) != len(want) {
		t.Errorf("%d events, want %d", len(got), len(want))
	}
	for i := range min(len(got), len(want)) {
		g, w := got[i], want[i]
		sameTime := w.Time == nil || g.Time.Equal(*w.Time)
		sameEnd := w.End == 0 || g.End == w.End
		if g.LSN != w.LSN || !sameEnd || g.Kind.String() != w.Kind || g.XID != w.XID || g.Name != w.Name || !sameTime {
			t.Fatalf("event %d:\n got %s..%s %+v\nwant %s..%s %+v", i, g.LSN, g.End, g, w.LSN, w.End, w)
		}
	}
}

// compareByTransaction is for a judge that knows what became of each
// transaction, subtransactions included, which have no records of their own.
func compareByTransaction(t *testing.T, want []judgedEvent, got []postgres.WALEvent) {
	t.Helper()
	fates := make(map[uint32]judgedEvent)
	times := make(map[int64]bool) // of commits that are yet to be seen
	var wantNames, names []string
	for _, w := range want {
		if w.Kind == "restore point" {
			wantNames = append(wantNames, w.Name)
			continue
		}
		fates[w.XID] = w
		if w.Time != nil {
			times[w.Time.UnixMicro()] = true
		}
	}
	for _, g := range got {
		if g.Kind == postgres.WALRestorePoint {
			names = append(names, g.Name)
			continue
		}
		w, ok := fates[g.XID]
		if !ok || w.Kind != g.Kind.String() || w.Time != nil && !g.Time.Equal(*w.Time) {
			t.Fatalf("event %+v, want %+v", g, w)
		}
		delete(fates, g.XID) // so that a second end of the same transaction is an error
		delete(times, g.Time.UnixMicro())
	}
	if !slices.Equal(names, wantNames) {
		t.Errorf("restore points %q, want %q", names, wantNames)
	}
	// A subtransaction commits at the time of its parent, so that a missed
	// commit leaves a time that no event has.
	if len(times) != 0 {
		t.Errorf("%d moments at which something was committed have no event", len(times))
	}
}
