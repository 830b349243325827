package archive

import (
	"bytes"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/pgbak/pgbak/internal/postgres"
	"github.com/pgbak/pgbak/repo"
	"github.com/pgbak/pgbak/storage"
	"github.com/pgbak/pgbak/storage/faulty"
	"github.com/pgbak/pgbak/storage/mem"
)

// archiveAll does what PostgreSQL's archiver does, until a file fails.
func (s *walServer) archiveAll(t *testing.T, b *Batch) (dropped []string, err error) {
	t.Helper()
	for {
		ready, err := filesReady(s.wal)
		if err != nil {
			t.Fatal(err)
		}
		if len(ready) == 0 {
			return dropped, nil
		}
		result, err := b.Push(t.Context(), s.path(ready[0]))
		if err != nil {
			return dropped, err
		}
		if result.Dropped {
			dropped = append(dropped, ready[0])
			contains(t, errors.New(strings.Join(result.Warnings, " ")), ready[0], "DROPPED", "new backup")
		}
		s.done(t, ready[0])
	}
}

func events(t *testing.T, s *repo.Stanza) (ranges []string) {
	t.Helper()
	all, err := s.WALEvents(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	for _, e := range all {
		if e.Kind != repo.WALDropped || e.Host != "here" || e.Time.Unix() != clock().Unix() {
			t.Errorf("event %+v", e)
		}
		ranges = append(ranges, e.First+" "+e.Last)
	}
	slices.Sort(ranges)
	return ranges
}

func names(from, to int) (names []string) {
	for n := from; n <= to; n++ {
		names = append(names, segmentNumber(n))
	}
	return names
}

func TestOfWhatWaitsAboveTheLimitTheOldestIsDroppedAndRecorded(t *testing.T) {
	stanza := memStanza(t)
	s, spool := newServer(t, 20), newSpool(t)
	down := newTestBatch(t, spool, PushTarget{Name: "local", Open: closedQuietly})
	down.QueueMax, down.Host = 8*segmentSize+segmentSize/2, "here"
	dropped, err := s.archiveAll(t, down)
	if contains(t, err, "no route"); !slices.Equal(dropped, names(1, 12)) {
		t.Fatalf("dropped are %q", dropped)
	}
	// It is still away, and more comes.
	s.write(t, segmentNumber(21), segment(testIdentity(17), walFileOf(21)))
	if dropped, err = s.archiveAll(t, down); err == nil || !slices.Equal(dropped, names(13, 13)) {
		t.Fatalf("dropped are %q, %v", dropped, err)
	}
	up := newTestBatch(t, spool, pushTo("local", stanza))
	up.QueueMax, up.Host = down.QueueMax, "here"
	if dropped, err = s.archiveAll(t, up); err != nil || len(dropped) != 0 {
		t.Fatalf("dropped are %q, %v", dropped, err)
	}
	s.mustBeIn(t, stanza, names(14, 21)...)
	if got := events(t, stanza); !slices.Equal(got, []string{segmentNumber(1) + " " + segmentNumber(13)}) {
		t.Errorf("events of %q", got)
	}
	if _, err := os.Stat(spool.droppedPath()); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("the journal is left: %v", err)
	}
	// The next time is another event.
	for n := 22; n <= 31; n++ {
		s.write(t, segmentNumber(n), segment(testIdentity(17), walFileOf(uint64(n))))
	}
	if dropped, err = s.archiveAll(t, down); err == nil || !slices.Equal(dropped, names(22, 23)) {
		t.Fatalf("dropped are %q, %v", dropped, err)
	}
	if _, err = s.archiveAll(t, up); err != nil {
		t.Fatal(err)
	}
	if got := events(t, stanza); !slices.Equal(got, []string{segmentNumber(1) + " " + segmentNumber(13), segmentNumber(22) + " " + segmentNumber(23)}) {
		t.Errorf("events of %q", got)
	}
}

func TestNothingButSegmentsIsDropped(t *testing.T) {
	for _, name := range []string{"00000002.history", segmentNumber(0) + ".00000028.backup", segmentNumber(1) + ".partial"} {
		s := newServer(t, 10)
		s.write(t, name, segment(testIdentity(17), walFileOf(1)))
		b := newTestBatch(t, newSpool(t), PushTarget{Name: "local", Open: closedQuietly})
		b.QueueMax = segmentSize
		if result, err := b.Push(t.Context(), s.path(name)); err == nil || result.Dropped {
			t.Errorf("%s: %+v, %v", name, result, err)
		}
	}
}

// TestAHistoryDoesNotStandBeforeSegmentsThatMustBeDropped: PostgreSQL archives it
// first, so that nothing could be dropped while the repositories are away.
func TestAHistoryDoesNotStandBeforeSegmentsThatMustBeDropped(t *testing.T) {
	stanza := memStanza(t)
	control := func() (*postgres.Control, error) {
		return &postgres.Control{SystemID: testIdentity(17).SystemID, Major: 17, WALSegmentSize: segmentSize}, nil
	}
	s, spool := newServer(t, 6), newSpool(t)
	others := []string{"00000002.history", segmentNumber(1) + ".00000028.backup", segmentNumber(2) + ".partial"}
	s.write(t, others[0], []byte("1\t0/2000000\tno reason\n"))
	s.write(t, others[1], []byte("START WAL LOCATION: 0/100028\n"))
	s.write(t, others[2], segment(testIdentity(17), walFileOf(2)))
	down := newTestBatch(t, spool, PushTarget{Name: "local", Open: closedQuietly})
	down.pusher.Control, down.Host = control, "here"
	if _, err := down.Push(t.Context(), s.path(others[0])); err == nil {
		t.Fatal("without a limit it is not kept")
	}
	down.QueueMax = 4 * segmentSize
	result, err := down.Push(t.Context(), s.path(others[0]))
	if err != nil || !result.Kept || result.Dropped || len(result.Warnings) != 1 || !strings.Contains(result.Warnings[0], "kept in the spool") {
		t.Fatalf("%+v, %v", result, err)
	}
	dropped, err := s.archiveAll(t, down)
	if err == nil || !slices.Equal(dropped, names(1, 2)) {
		t.Fatalf("dropped are %q, %v", dropped, err)
	}
	if ready, _ := filesReady(s.wal); !slices.Equal(ready, append([]string{others[2]}, names(3, 6)...)) {
		t.Errorf("ready are %q", ready)
	}
	up := newTestBatch(t, spool, pushTo("local", stanza))
	up.pusher.Control, up.Host = control, "here"
	if _, err := s.archiveAll(t, up); err != nil {
		t.Fatal(err)
	}
	s.mustBeIn(t, stanza, append(others, names(3, 6)...)...)
	if left, err := os.ReadDir(spool.keptPart(testIdentity(17).SystemID)); err != nil || len(left) != 0 {
		t.Errorf("%d files are kept still, %v", len(left), err)
	}
	// What is refused is not kept.
	s.write(t, "00000003.history", []byte("nonsense\n"))
	for n := 7; n <= 12; n++ {
		s.write(t, segmentNumber(n), segment(testIdentity(17), walFileOf(uint64(n))))
	}
	up.QueueMax = 4 * segmentSize
	if _, err := up.Push(t.Context(), s.path("00000003.history")); !errors.Is(err, ErrRefused) {
		t.Errorf("error %v", err)
	}
}

func TestWhatDoesNotCountForTheLimit(t *testing.T) {
	s, spool := newServer(t, 10), newSpool(t)
	for i := range 20 {
		s.write(t, fmt.Sprintf("%08X.history", i+2), []byte("1\t0/2000000\tno reason\n"))
		s.write(t, fmt.Sprintf("%s.%08X.backup", segmentNumber(1), 0x28+8*i), []byte("START WAL LOCATION\n"))
	}
	down := newTestBatch(t, spool, PushTarget{Name: "local", Open: closedQuietly})
	down.QueueMax = 10 * segmentSize
	result, err := down.Push(t.Context(), s.path(segmentNumber(1)))
	if err == nil || result.Dropped {
		t.Errorf("files that are no segments were counted: %+v", result)
	}
	down.QueueMax = 10*segmentSize - 1
	if result, err := down.Push(t.Context(), s.path(segmentNumber(2))); err == nil || result.Dropped {
		t.Errorf("dropped is one that is not the oldest: %+v", result)
	}
	if result, err := down.Push(t.Context(), s.path(segmentNumber(1))); err != nil || !result.Dropped {
		t.Errorf("above the limit: %+v, %v", result, err)
	}
	// What nobody has marked ready is not waiting.
	s.done(t, segmentNumber(1))
	down.QueueMax = 1
	if result, err := down.Push(t.Context(), s.path(segmentNumber(1))); err == nil || result.Dropped {
		t.Errorf("not ready: %+v", result)
	}
	// Not even a limit of a byte drops the only one.
	s = newServer(t, 1)
	if result, err := down.Push(t.Context(), s.path(segmentNumber(1))); err == nil || result.Dropped {
		t.Errorf("the only one: %+v", result)
	}
}

func TestWhatIsAcknowledgedIsNotWaiting(t *testing.T) {
	stanza := memStanza(t)
	s, spool := newServer(t, 6), newSpool(t)
	if _, err := newTestBatch(t, spool, pushTo("local", stanza)).Push(t.Context(), s.path(segmentNumber(1))); err != nil {
		t.Fatal(err)
	}
	for n := 7; n <= 10; n++ {
		s.write(t, segmentNumber(n), segment(testIdentity(17), walFileOf(uint64(n))))
	}
	down := newTestBatch(t, spool, PushTarget{Name: "local", Open: closedQuietly})
	down.QueueMax = 4 * segmentSize
	dropped, err := s.archiveAll(t, down)
	if err == nil || len(dropped) != 0 {
		t.Errorf("dropped are %q, %v", dropped, err)
	}
	if ready, _ := filesReady(s.wal); !slices.Equal(ready, names(7, 10)) {
		t.Errorf("ready are %q", ready)
	}
	// Neither does it count behind the one that PostgreSQL asks for.
	s, spool = newServer(t, 6), newSpool(t)
	if err := os.WriteFile(s.path(segmentNumber(1)), segment(testIdentity(17), walFileOf(2)), 0o600); err != nil {
		t.Fatal(err)
	}
	if _, err := newTestBatch(t, spool, pushTo("local", stanza)).Push(t.Context(), s.path(segmentNumber(2))); err != nil {
		t.Fatal(err)
	}
	down = newTestBatch(t, spool, PushTarget{Name: "local", Open: closedQuietly})
	down.QueueMax = 4 * segmentSize
	if result, err := down.Push(t.Context(), s.path(segmentNumber(1))); err == nil || result.Dropped {
		t.Errorf("one segment waits: %+v", result)
	}
}

// TestAKillBetweenDroppingAndTheEventLosesNoRecord ends the run at every
// operation of the repository that it makes after the drop.
func TestAKillBetweenDroppingAndTheEventLosesNoRecord(t *testing.T) {
	for title, fault := range faults() {
		t.Run(title, func(t *testing.T) {
			for n := 1; ; n++ {
				if n > tooMany {
					t.Fatal("the fault never stopped to fire")
				}
				base := mem.New()
				newStanza(t, base, testIdentity(17))
				s, spool := newServer(t, 4), newSpool(t)
				down := newTestBatch(t, spool, PushTarget{Name: "local", Open: closedQuietly})
				down.QueueMax, down.Host = 2*segmentSize, "here"
				if dropped, _ := s.archiveAll(t, down); !slices.Equal(dropped, names(1, 2)) {
					t.Fatalf("dropped are %q", dropped)
				}
				faulted := fault(base, n)
				broken := newTestBatch(t, spool, opens(t, "local", faulted))
				broken.Host, broken.Processes = "here", 1
				_, _ = broken.Push(t.Context(), s.path(segmentNumber(3)))
				fired := faulted.Fired()
				again := newTestBatch(t, spool, opens(t, "local", base))
				again.Host = "here"
				s.write(t, segmentNumber(5), segment(testIdentity(17), walFileOf(5)))
				if _, err := again.Push(t.Context(), s.path(segmentNumber(5))); err != nil {
					t.Fatal(err)
				}
				stanza, err := openStanza(t, base)
				if err != nil {
					t.Fatal(err)
				}
				if got := events(t, stanza); !slices.Equal(got, []string{segmentNumber(1) + " " + segmentNumber(2)}) {
					t.Fatalf("operation %d: events of %q", n, got)
				}
				if !fired {
					t.Logf("%d operations", n-1)
					return
				}
			}
		})
	}
}

func TestOnlyRepositoriesThatLackItAreToldOfWhatWasDropped(t *testing.T) {
	id := testIdentity(17)
	first, second := newStanza(t, mem.New(), id), newStanza(t, mem.New(), id)
	s, spool := newServer(t, 4), newSpool(t)
	down := PushTarget{Name: "b", Open: closedQuietly}
	b := newTestBatch(t, spool, pushTo("a", first), down)
	b.Host = "here"
	if _, err := b.Push(t.Context(), s.path(segmentNumber(1))); err == nil {
		t.Fatal("no error")
	}
	b.QueueMax = 3 * segmentSize
	if dropped, err := s.archiveAll(t, b); err == nil || !slices.Equal(dropped, names(1, 1)) {
		t.Fatalf("dropped are %q, %v", dropped, err)
	}
	s.write(t, segmentNumber(5), segment(id, walFileOf(5))) // so that both are opened
	up := newTestBatch(t, spool, pushTo("a", first), pushTo("b", second))
	up.Host = "here"
	if _, err := s.archiveAll(t, up); err != nil {
		t.Fatal(err)
	}
	if a, b := events(t, first), events(t, second); len(a) != 0 || len(b) != 1 {
		t.Errorf("events %q and %q", a, b)
	}
	s.mustBeIn(t, first, names(1, 4)...)
	s.mustBeIn(t, second, names(2, 4)...)
}

func TestWithoutAJournalItIsDroppedWithALouderWarning(t *testing.T) {
	s, spool := newServer(t, 4), newSpool(t)
	b := newTestBatch(t, spool, PushTarget{Name: "local", Open: closedQuietly})
	b.QueueMax = 3 * segmentSize
	if err := os.RemoveAll(spool.dir); err != nil {
		t.Fatal(err)
	}
	result, err := b.Push(t.Context(), s.path(segmentNumber(1)))
	if err != nil || !result.Dropped || len(result.Warnings) != 2 || !strings.Contains(result.Warnings[1], "could not be written down") {
		t.Errorf("%+v, %v", result, err)
	}
	none := newTestBatch(t, nil, PushTarget{Name: "local", Open: closedQuietly})
	none.QueueMax = b.QueueMax
	if result, err = none.Push(t.Context(), s.path(segmentNumber(1))); err != nil || !result.Dropped || len(result.Warnings) != 2 {
		t.Errorf("%+v, %v", result, err)
	}
}

func TestADamagedJournalIsPutAside(t *testing.T) {
	stanza := memStanza(t)
	s, spool := newServer(t, 5), newSpool(t)
	if err := os.WriteFile(spool.droppedPath(), []byte("torn"), 0o600); err != nil {
		t.Fatal(err)
	}
	down := newTestBatch(t, spool, PushTarget{Name: "local", Open: closedQuietly})
	down.QueueMax, down.Host = 3*segmentSize, "here"
	if dropped, err := s.archiveAll(t, down); err == nil || !slices.Equal(dropped, names(1, 2)) {
		t.Fatalf("dropped are %q, %v", dropped, err)
	}
	if _, err := os.Stat(filepath.Join(spool.dir, "dropped.damaged")); err != nil {
		t.Error(err)
	}
	up := newTestBatch(t, spool, pushTo("local", stanza))
	up.Host = "here"
	if _, err := s.archiveAll(t, up); err != nil || len(events(t, stanza)) != 1 {
		t.Errorf("%v, events %q", err, events(t, stanza))
	}
}

func TestTheJournalOfAnotherClusterIsNotRecorded(t *testing.T) {
	base := mem.New()
	stanza := newStanza(t, base, testIdentity(17))
	s, spool := newServer(t, 5), newSpool(t)
	down := newTestBatch(t, spool, PushTarget{Name: "local", Open: closedQuietly})
	down.pusher.Control = func() (*postgres.Control, error) {
		return &postgres.Control{SystemID: 42, Major: 17, WALSegmentSize: segmentSize}, nil
	}
	down.QueueMax = 3 * segmentSize
	if _, err := s.archiveAll(t, down); err == nil {
		t.Fatal("no error")
	}
	var log bytes.Buffer
	up := newTestBatch(t, spool, pushTo("local", stanza))
	logInto(up, &log)
	if _, err := s.archiveAll(t, up); err != nil || len(events(t, stanza)) != 0 || !strings.Contains(log.String(), "of no cluster") {
		t.Errorf("%v, events %q, log %q", err, events(t, stanza), log.String())
	}
}

// TestAnEventThatFailsIsTriedByTheNextRun is for storage that takes WAL and refuses the event.
func TestAnEventThatFailsIsTriedByTheNextRun(t *testing.T) {
	base := mem.New()
	newStanza(t, base, testIdentity(17))
	s, spool := newServer(t, 5), newSpool(t)
	down := newTestBatch(t, spool, PushTarget{Name: "local", Open: closedQuietly})
	down.QueueMax, down.Host = 3*segmentSize, "here"
	if _, err := s.archiveAll(t, down); err == nil {
		t.Fatal("no error")
	}
	refuses := faulty.OnOp(base, func(op, key string) error {
		if strings.Contains(key, "/events/") {
			return storage.ErrNoSpace
		}
		return nil
	})
	half := newTestBatch(t, spool, opens(t, "local", refuses))
	half.Host = "here"
	if _, err := s.archiveAll(t, half); err != nil {
		t.Fatalf("an event that cannot be recorded fails the push: %v", err)
	}
	stanza, err := openStanza(t, base)
	if err != nil {
		t.Fatal(err)
	}
	s.write(t, segmentNumber(6), segment(testIdentity(17), walFileOf(6)))
	whole := newTestBatch(t, spool, pushTo("local", stanza))
	whole.Host = "here"
	if _, err := s.archiveAll(t, whole); err != nil || len(events(t, stanza)) != 1 {
		t.Errorf("%v, events %q", err, events(t, stanza))
	}
}

// withControl is a batch of a server that is known, with a limit of segments.
func withControl(t *testing.T, spool *Spool, limit int64, targets ...PushTarget) *Batch {
	t.Helper()
	b := newTestBatch(t, spool, targets...)
	b.pusher.Control = func() (*postgres.Control, error) {
		return &postgres.Control{SystemID: testIdentity(17).SystemID, Major: 17, WALSegmentSize: segmentSize}, nil
	}
	b.QueueMax = limit * segmentSize
	return b
}

// keepHistory has the history of timeline 3 kept by a batch whose repositories fail.
func keepHistory(t *testing.T, s *walServer, down *Batch) {
	t.Helper()
	s.write(t, "00000003.history", []byte(history3))
	for n := range uint64(3) {
		s.write(t, on(3, 5+n).Name(segmentSize), pagedSegment(testIdentity(17), on(3, 5+n)))
	}
	if result, err := down.Push(t.Context(), s.path("00000003.history")); err != nil || !result.Kept {
		t.Fatalf("%+v, %v", result, err)
	}
	s.done(t, "00000003.history")
}

// TestAKeptHistoryTakesAlongWhatItsPushWould have taken from the server's directory.
func TestAKeptHistoryTakesAlongWhatItsPushWould(t *testing.T) {
	stanza := memStanza(t)
	id := stanza.Current()
	s, spool := newServer(t, 0), newSpool(t)
	for _, f := range tail() {
		if err := os.WriteFile(s.path(f.Name(segmentSize)), pagedSegment(id, f), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	own2 := strings.Replace(history2, "no recovery target specified", "as the server has it", 1)
	if err := os.WriteFile(s.path("00000002.history"), []byte(own2), 0o600); err != nil {
		t.Fatal(err)
	}
	keepHistory(t, s, withControl(t, spool, 1, PushTarget{Name: "local", Open: closedQuietly}))
	if _, err := withControl(t, spool, 0, pushTo("local", stanza)).Push(t.Context(), s.path(on(3, 5).Name(segmentSize))); err != nil {
		t.Fatal(err)
	}
	mustHold(t, stanza, "00000003.history", []byte(history3))
	mustHold(t, stanza, "00000002.history", []byte(own2))
	for _, f := range tail() {
		mustHold(t, stanza, f.Name(segmentSize), pagedSegment(id, f))
	}
}

// TestAKeptFileGoesToTheRepositoriesThatWork, and waits for the others, be they away
// or not chosen.
func TestAKeptFileGoesToTheRepositoriesThatWork(t *testing.T) {
	first, second, third := newStanza(t, mem.New(), testIdentity(17)), newStanza(t, mem.New(), testIdentity(17)), newStanza(t, mem.New(), testIdentity(17))
	s, spool := newServer(t, 0), newSpool(t)
	away := func(name string) PushTarget { return PushTarget{Name: name, Open: closedQuietly} }
	keepHistory(t, s, withControl(t, spool, 1, away("a"), away("b"), away("c")))
	const name = "000000030000000000000005.00000028.backup"
	s.write(t, name, []byte("START WAL LOCATION: 0/500028\n"))
	if result, err := withControl(t, spool, 1, away("a"), away("b"), away("c")).Push(t.Context(), s.path(name)); err != nil || !result.Kept {
		t.Fatalf("%+v, %v", result, err)
	}
	s.done(t, name)
	var log bytes.Buffer
	push := func(number uint64, targets ...PushTarget) error {
		b := withControl(t, spool, 0, targets...)
		logInto(b, &log)
		_, err := b.Push(t.Context(), s.path(on(3, number).Name(segmentSize)))
		return err
	}
	if err := push(5, pushTo("a", first), away("b"), away("c")); err == nil {
		t.Fatal("no error")
	}
	mustHold(t, first, name, s.contents[name])
	if strings.Contains(log.String(), "kept in the spool could not") {
		t.Errorf("a repository that is away is told of anew for each kept file: %s", log.String())
	}
	if err := push(6, pushTo("b", second)); err != nil { // the only one that is chosen
		t.Fatal(err)
	}
	mustHold(t, second, name, s.contents[name])
	if err := push(7, pushTo("a", first), pushTo("b", second), pushTo("c", third)); err != nil {
		t.Fatal(err)
	}
	mustHold(t, third, name, s.contents[name])
	if left, err := os.ReadDir(spool.keptPart(testIdentity(17).SystemID)); err != nil || len(left) != 0 {
		t.Errorf("%d files are kept still, %v", len(left), err)
	}
}

// TestAKeptFileIsNotReplacedByAnother, as of a second server of the cluster with
// this spool: PostgreSQL was told that the first one is safe.
func TestAKeptFileIsNotReplacedByAnother(t *testing.T) {
	stanza := memStanza(t)
	s, other, spool := newServer(t, 0), newServer(t, 3), newSpool(t)
	down := withControl(t, spool, 1, PushTarget{Name: "local", Open: closedQuietly})
	keepHistory(t, s, down)
	keepHistory(t, s, down) // the same is kept already
	other.write(t, "00000003.history", []byte(history2+"\n2\t0/500000\tanother way\n"))
	if result, err := down.Push(t.Context(), other.path("00000003.history")); err == nil || result.Kept {
		t.Errorf("%+v, %v", result, err)
	}
	if _, err := withControl(t, spool, 0, pushTo("local", stanza)).Push(t.Context(), s.path(on(3, 5).Name(segmentSize))); err != nil {
		t.Fatal(err)
	}
	mustHold(t, stanza, "00000003.history", []byte(history3))
}

// TestWhoKeepsARunGoingLearnsThatAFileIsKept: an agent answers by what Each is told.
func TestWhoKeepsARunGoingLearnsThatAFileIsKept(t *testing.T) {
	s := newServer(t, 0)
	b := withControl(t, newSpool(t), 1, PushTarget{Name: "local", Open: closedQuietly})
	var told []Pushed
	b.Each = func(p Pushed) {
		if p.Asked {
			told = append(told, p)
		}
	}
	keepHistory(t, s, b)
	if len(told) != 1 || told[0].Err != nil || !told[0].Kept || len(told[0].Warnings) != 1 {
		t.Errorf("told was %+v", told)
	}
}
