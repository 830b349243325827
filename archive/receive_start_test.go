package archive

import (
	"fmt"
	"os"
	"testing"
	"time"

	"github.com/pgbak/pgbak/internal/pgtest"
	"github.com/pgbak/pgbak/internal/postgres"
	"github.com/pgbak/pgbak/internal/postgres/server"
	"github.com/pgbak/pgbak/internal/received"
	"github.com/pgbak/pgbak/repo"
	"github.com/pgbak/pgbak/storage/mem"
)

// TestSegmentsThatAreStillOnTheirWayAreReceived begins a receiver while archive_command
// has brought a later segment before an earlier one: nothing from the missing one on
// is safe, so the server must not be told that it is.
func TestSegmentsThatAreStillOnTheirWayAreReceived(t *testing.T) {
	t.Parallel()
	c := pgtest.Start(t, pgtest.Options{SegmentSizeMB: 1, Config: map[string]string{"wal_keep_size": "1GB"}})
	fill(t, c, 4)
	s := newStanza(t, mem.New(), serverIdentity(t, c.DataDir))
	names := serversSegments(t, c)
	if len(names) < 4 {
		t.Fatalf("segments %v", names)
	}
	missing := names[len(names)-2]
	for _, name := range []string{names[len(names)-3], names[len(names)-1]} {
		if _, err := pushPath(t, s, c.DataDir+"/pg_wal/"+name); err != nil {
			t.Fatal(err)
		}
	}
	r := continued(t, c, t.TempDir(), s, received.OS{}, nil).begin(t)
	r.says(t, "receiving WAL")
	f, err := postgres.ParseWALFile(missing, 1<<20)
	if err != nil {
		t.Fatal(err)
	}
	r.says(t, fmt.Sprint("from=", f.Start(1<<20)))
	r.waitStored(t, missing)
	r.stop(t)
}

// TestWhatAnotherServerArchivedOnTheSameTimelineIsNotTakenForReceived has in the archive
// what a copy wrote that was promoted before the server was: both are timeline 2.
func TestWhatAnotherServerArchivedOnTheSameTimelineIsNotTakenForReceived(t *testing.T) {
	t.Parallel()
	c := pgtest.Start(t, pgtest.Options{SegmentSizeMB: 1, Config: map[string]string{"wal_keep_size": "1GB"}})
	rehearsal := pgtest.StartStandby(t, c)
	rehearsal.Promote(t)
	rehearsal.WaitFor(t, "SELECT pg_is_in_recovery()", "f", time.Minute)
	fill(t, rehearsal, 4)
	s := newStanza(t, mem.New(), serverIdentity(t, c.DataDir))
	for _, name := range append([]string{"00000002.history"}, serversSegments(t, rehearsal)...) {
		if _, err := pushPath(t, s, rehearsal.DataDir+"/pg_wal/"+name); err != nil {
			t.Fatal(err)
		}
	}
	fill(t, c, 1)
	promoteAgain(t, c)
	fill(t, c, 8)
	r := continued(t, c, t.TempDir(), s, received.OS{}, nil).begin(t)
	r.says(t, "receiving WAL")
	caughtUp(t, c)
	for _, name := range serversSegments(t, c) {
		f, err := postgres.ParseWALFile(name, 1<<20)
		if err != nil {
			t.Fatal(err)
		}
		if f.Timeline != 2 {
			continue
		}
		if _, err := os.Stat(r.dir + "/" + name); err != nil {
			t.Errorf("acknowledged, but not received: %v", err)
		}
	}
	r.says(t, "another server's timeline of the same number")
	r.says(t, "received WAL waits in the directory")
	r.stop(t)
}

func TestTheFirstSegmentThatIsMissingAmongTheLast(t *testing.T) {
	const size = 1 << 20
	h := postgres.History{Timeline: 2, Entries: []postgres.HistoryEntry{{Timeline: 1, Switch: 20*size + 5}}}
	for name, test := range map[string]struct {
		ranges []repo.WALRange
		want   uint64
	}{
		"whole":           {[]repo.WALRange{{Timeline: 1, First: 3, Last: 19}, {Timeline: 2, First: 20, Last: 29}}, 30},
		"missing":         {[]repo.WALRange{{Timeline: 1, First: 3, Last: 19}, {Timeline: 2, First: 20, Last: 25}, {Timeline: 2, First: 27, Last: 29}}, 26},
		"the switch":      {[]repo.WALRange{{Timeline: 1, First: 3, Last: 20}, {Timeline: 2, First: 21, Last: 29}}, 20},
		"the last before": {[]repo.WALRange{{Timeline: 1, First: 3, Last: 18}, {Timeline: 2, First: 20, Last: 29}}, 19},
	} {
		if got := archivedUnbroken(test.ranges, h, 30*size, size); got != postgres.LSN(test.want*size) {
			t.Errorf("%s: %s, want segment %d", name, got, test.want)
		}
	}
}

// TestSmallSegmentsAreReportedWithoutAPause has more in the queue than is to be
// received between two reports.
func TestSmallSegmentsAreReportedWithoutAPause(t *testing.T) {
	const size, begin = 1 << 20, 16
	identity := repo.Identity{Number: 1, SystemID: 7, Major: 17, SegmentSize: size}
	dir, err := received.Open(t.TempDir(), received.OS{})
	if err != nil {
		t.Fatal(err)
	}
	defer dir.Close()
	in := &inflow{r: &Receiver{o: ReceiveOptions{Directory: dir}, wake: make(chan struct{}, 1), state: receiveState{clock: time.Now}}, queue: make(chan incoming, 64), timeline: 1,
		id:   received.Identity{SystemID: 7, Major: 17, SegmentSize: size},
		next: begin * size, durable: begin * size, reported: begin*size + unsyncedBytes} // what would be said is said already
	for n := range uint64(20) {
		f := postgres.WALFile{Kind: postgres.WALSegment, Timeline: 1, Segment: begin + n}
		in.queue <- incoming{message: server.WALMessage{Kind: server.WALData, Start: f.Start(size), Data: pagedSegment(identity, f)}}
	}
	if err := in.takeAll(t.Context(), <-in.queue); err != nil {
		t.Fatal(err)
	}
	if in.durable != in.reported || len(in.queue) != 12 {
		t.Errorf("up to %s is durable and %d messages are left, want %s and 12", in.durable, len(in.queue), in.reported)
	}
}
