package archive

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/pgbak/pgbak/internal/postgres"
	"github.com/pgbak/pgbak/internal/received"
	"github.com/pgbak/pgbak/repo"
	"github.com/pgbak/pgbak/storage"
	"github.com/pgbak/pgbak/storage/faulty"
	"github.com/pgbak/pgbak/storage/mem"
)

// receivedFiles is a receiver with a directory that a stream has filled.
type receivedFiles struct {
	*Receiver
	dir      string
	contents map[string][]byte
}

// newReceived has no segments yet; targets are where they go to.
func newReceived(t *testing.T, targets ...PushTarget) *receivedFiles {
	t.Helper()
	r := &receivedFiles{dir: t.TempDir(), contents: map[string][]byte{}}
	d, err := received.Open(r.dir, received.OS{})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { d.Close() })
	id := testIdentity(17)
	if err := d.Claim(received.Identity{Stanza: "main", SystemID: id.SystemID, Major: id.Major, SegmentSize: id.SegmentSize}); err != nil {
		t.Fatal(err)
	}
	pusher, err := NewPusher(targets...)
	if err != nil {
		t.Fatal(err)
	}
	if r.Receiver, err = NewReceiver(ReceiveOptions{Stanza: "main", Directory: d, Slot: "receiver", Pusher: pusher, Processes: 4, Clock: time.Now}); err != nil {
		t.Fatal(err)
	}
	return r
}

// segments puts some of a timeline into the directory.
func (r *receivedFiles) segments(t *testing.T, tli postgres.Timeline, from, to uint64) {
	t.Helper()
	for n := from; n <= to; n++ {
		r.put(t, on(tli, n).Name(segmentSize), pagedSegment(testIdentity(17), on(tli, n)))
	}
}

func (r *receivedFiles) put(t *testing.T, name string, content []byte) {
	t.Helper()
	r.contents[name] = content
	if err := os.WriteFile(filepath.Join(r.dir, name), content, 0o600); err != nil {
		t.Fatal(err)
	}
}

// left are the WAL files in the directory.
func (r *receivedFiles) left() string {
	return strings.TrimSuffix(strings.TrimSuffix(namesOf(r.dir), " receiver.json receiver.lock"), "receiver.json receiver.lock")
}

// namesOn are the names of segments of a timeline.
func namesOn(tli postgres.Timeline, numbers ...uint64) string {
	var names []string
	for _, n := range numbers {
		names = append(names, on(tli, n).Name(segmentSize))
	}
	return strings.Join(names, " ")
}

// mustBeSafe makes sure that everything is in each stanza, or in the directory.
func (r *receivedFiles) mustBeSafe(t *testing.T, stanzas ...*repo.Stanza) (everywhere bool) {
	t.Helper()
	everywhere = true
	for name, want := range r.contents {
		here := slices.Contains(strings.Fields(r.left()), name)
		for _, s := range stanzas {
			got, err := getContent(t, s, name)
			if err == nil && bytes.Equal(got, want) {
				continue
			}
			everywhere = false
			if !here {
				t.Errorf("%s is not in the directory, and in a repository: %v", name, err)
			}
		}
	}
	return everywhere
}

// TestReceivedWALIsStoredSeveralFilesAtATime looks at the puts: several are under way
// at once, and while a segment is put the one before it is still there, by which its
// summary tells of the record that crosses their border.
func TestReceivedWALIsStoredSeveralFilesAtATime(t *testing.T) {
	var r *receivedFiles
	var mu sync.Mutex
	under, most, lacking := 0, 0, ""
	together := make(chan struct{})
	hook := func(begin bool) faulty.Hook {
		return func(_ context.Context, op faulty.Op) error {
			if r == nil || op.Name != faulty.OpPutIfAbsent || !strings.Contains(op.Key, "/wal/") && !strings.HasPrefix(op.Key, "wal/") {
				return nil
			}
			mu.Lock()
			defer mu.Unlock()
			if !begin {
				under--
				return nil
			}
			under++
			if under == 4 && most < 4 {
				close(together)
			}
			most = max(most, under)
			for n := uint64(4); n <= 13; n++ {
				name := on(1, n).Name(segmentSize)
				if _, err := os.Lstat(filepath.Join(r.dir, on(1, n-1).Name(segmentSize))); strings.Contains(op.Key, name) && n > 4 && err != nil {
					lacking += " " + name
				}
			}
			return nil
		}
	}
	wait := func(ctx context.Context, op faulty.Op) error {
		err := hook(true)(ctx, op)
		if strings.Contains(op.Key, on(1, 4).Name(segmentSize)) || r == nil || op.Name != faulty.OpPutIfAbsent {
			return err // the others wait for the first one, by the order
		}
		select {
		case <-together:
		case <-time.After(time.Minute):
		}
		return err
	}
	s := newStanza(t, faulty.New(mem.New(), wait, hook(false)), testIdentity(17))
	r0 := newReceived(t, pushTo("one", s))
	r0.segments(t, 1, 4, 13)
	r = r0
	if err := r.storeAll(t.Context()); err != nil {
		t.Fatal(err)
	}
	if most != 4 || lacking != "" {
		t.Errorf("%d puts at once, want 4; put without the segment before it:%s", most, lacking)
	}
	if !r.mustBeSafe(t, s) || r.left() != namesOn(1, 13) {
		t.Errorf("left in the directory: %s", r.left())
	}
	status := r.Status()
	if status.Waiting != 0 || status.Stored != 14*segmentSize || status.Repositories["one"].Files != 10 || status.Repositories["one"].Bytes != 10*segmentSize {
		t.Errorf("status %+v", status)
	}
}

// TestBehindAConflictNothingReceivedIsStored has a segment of the same name and another
// content in one of two repositories: what was received behind it is another history
// than the one that is archived there, and waits. The other repository gets all.
func TestBehindAConflictNothingReceivedIsStored(t *testing.T) {
	id := testIdentity(17)
	clean, taken := memStanza(t), memStanza(t)
	other := pagedSegment(id, on(1, 5))
	other[5000] ^= 1
	for n, content := range map[uint64][]byte{4: pagedSegment(id, on(1, 4)), 5: other} {
		if _, err := pushContent(t, taken, on(1, n).Name(segmentSize), content); err != nil {
			t.Fatal(err)
		}
	}
	r := newReceived(t, pushTo("clean", clean), pushTo("taken", taken))
	r.segments(t, 1, 4, 9)
	err := r.storeAll(t.Context())
	is(t, err, repo.ErrWALConflict, "push "+on(1, 5).Name(segmentSize)+" to repository taken")
	if n := strings.Count(err.Error(), "push 0000"); n != 1 {
		t.Errorf("%d files are blamed: %v", n, err)
	}
	for n := uint64(6); n <= 9; n++ {
		mustLack(t, taken, on(1, n).Name(segmentSize))
		mustHold(t, clean, on(1, n).Name(segmentSize), r.contents[on(1, n).Name(segmentSize)])
	}
	if want := namesOn(1, 4, 5, 6, 7, 8, 9); r.left() != want {
		t.Errorf("in the directory is %s, want %s", r.left(), want)
	}
	if s := r.Status(); s.Waiting != 5 || s.WaitingBytes != 5*segmentSize || s.Stored != 5*segmentSize {
		t.Errorf("status %+v", s)
	}
}

// TestSegmentsOfATimelineThatAnotherServerBeganAreNotStored has another history of that
// number in the repository.
func TestSegmentsOfATimelineThatAnotherServerBeganAreNotStored(t *testing.T) {
	s := memStanza(t)
	if _, err := pushContent(t, s, "00000002.history", []byte("1\t0/200100\tthe other server\n")); err != nil {
		t.Fatal(err)
	}
	r := newReceived(t, pushTo("one", s))
	r.segments(t, 1, 1, 2)
	r.put(t, "00000002.history", []byte(history2))
	r.segments(t, 2, 3, 5)
	is(t, r.storeAll(t.Context()), repo.ErrWALConflict, "00000002.history")
	for n := uint64(3); n <= 5; n++ {
		mustLack(t, s, on(2, n).Name(segmentSize))
	}
	mustHold(t, s, on(1, 2).Name(segmentSize), r.contents[on(1, 2).Name(segmentSize)])
	if !strings.Contains(r.left(), "00000002.history "+namesOn(2, 3, 4, 5)) {
		t.Errorf("left: %s", r.left())
	}
}

// TestARepositoryThatIsAwayKeepsReceivedWALFromNoOther has one of two that fails. The
// other one gets everything, once, and the first one what it lacks when it is back.
func TestARepositoryThatIsAwayKeepsReceivedWALFromNoOther(t *testing.T) {
	var away atomic.Bool
	failing := newStanza(t, faulty.OnOp(mem.New(), func(_, _ string) error {
		if away.Load() {
			return errors.New("the network is down")
		}
		return nil
	}), testIdentity(17))
	var asked atomic.Int64
	fine := newStanza(t, faulty.OnOp(mem.New(), func(string, string) error { asked.Add(1); return nil }), testIdentity(17))
	r := newReceived(t, pushTo("failing", failing), pushTo("fine", fine))
	r.segments(t, 1, 1, 3)
	r.put(t, "00000002.history", []byte(history2))
	r.segments(t, 2, 3, 8)
	left := r.left()
	away.Store(true)
	is(t, r.storeAll(t.Context()), errOfRepository, "repository failing", "the network is down")
	for name, content := range r.contents {
		mustHold(t, fine, name, content)
	}
	if r.left() != left {
		t.Errorf("in the directory is %s, want %s", r.left(), left)
	}
	asked.Store(0)
	contains(t, r.storeAll(t.Context()), "the network is down")
	if n := asked.Load(); n != 0 {
		t.Errorf("%d operations on a repository that has everything", n)
	}
	away.Store(false)
	if err := r.storeAll(t.Context()); err != nil {
		t.Fatal(err)
	}
	if n := asked.Load(); n != 0 {
		t.Errorf("%d operations on a repository that has everything", n)
	}
	if !r.mustBeSafe(t, failing, fine) || r.left() != "00000002.history "+namesOn(2, 8) {
		t.Errorf("left: %s", r.left())
	}
}

// TestEachFailingOperationLosesNoReceivedWAL fails the n-th operation of one of two
// repositories, for every n, before its effect and behind it, with a timeline's end among the files.
func TestEachFailingOperationLosesNoReceivedWAL(t *testing.T) {
	for title, fail := range map[string]func(st storage.Store, n int) *faulty.Store{"before": faulty.FailNth, "behind": faulty.FailNthAfter} {
		t.Run(title, func(t *testing.T) {
			t.Parallel()
			fired := true
			for n := 1; fired; n++ {
				inner := mem.New()
				one, two := newStanza(t, inner, testIdentity(17)), memStanza(t)
				st := fail(inner, n)
				target := PushTarget{Name: "one", Open: func(ctx context.Context) (*repo.Stanza, error) {
					r, err := repo.Open(ctx, st, repo.Options{Clock: clock})
					if err != nil {
						return nil, err
					}
					return r.Stanza(ctx, "main")
				}}
				r := newReceived(t, target, pushTo("two", two))
				r.segments(t, 1, 2, 3)
				r.put(t, "00000002.history", []byte(history2))
				r.segments(t, 2, 3, 5)
				part := on(1, 4)
				part.Kind = postgres.WALPartial
				if err := os.WriteFile(filepath.Join(r.dir, part.Name(segmentSize)), []byte("left of timeline 1"), 0o600); err != nil {
					t.Fatal(err)
				}
				err := r.storeAll(t.Context())
				fired = st.Fired()
				if all := r.mustBeSafe(t, one, two); err == nil && !all {
					t.Errorf("n=%d: without an error not everything is stored", n)
				}
				for tries := 0; err != nil; tries++ {
					if tries == 5 {
						t.Fatalf("n=%d: %v", n, err)
					}
					err = r.storeAll(t.Context())
				}
				if !r.mustBeSafe(t, one, two) || r.left() != "00000002.history "+namesOn(2, 5) {
					t.Errorf("n=%d: left: %s", n, r.left())
				}
			}
		})
	}
}

// TestWhatATimelineLeftStaysUntilTheNextHasIt has the partial segment in which a timeline
// ended, while the next timeline's segment of that number cannot be stored and a later one is.
func TestWhatATimelineLeftStaysUntilTheNextHasIt(t *testing.T) {
	refuses := on(2, 3).Name(segmentSize)
	var refusing atomic.Bool
	refusing.Store(true)
	s := newStanza(t, faulty.OnOp(mem.New(), func(_, key string) error {
		if strings.Contains(key, refuses) && refusing.Load() {
			return fmt.Errorf("put: %w", repo.ErrDamaged)
		}
		return nil
	}), testIdentity(17))
	r := newReceived(t, pushTo("one", s))
	part := on(1, 3)
	part.Kind = postgres.WALPartial
	r.put(t, "00000002.history", []byte(history2))
	r.segments(t, 2, 3, 5)
	if err := os.WriteFile(filepath.Join(r.dir, part.Name(segmentSize)), r.contents[refuses][:500], 0o600); err != nil {
		t.Fatal(err)
	}
	is(t, r.storeAll(t.Context()), repo.ErrDamaged, refuses)
	mustHold(t, s, on(2, 5).Name(segmentSize), r.contents[on(2, 5).Name(segmentSize)])
	if !strings.Contains(r.left(), part.Name(segmentSize)) {
		t.Errorf("the partial segment is gone: %s", r.left())
	}
	refusing.Store(false)
	if err := r.storeAll(t.Context()); err != nil {
		t.Fatal(err)
	}
	if r.left() != "00000002.history "+namesOn(2, 5) {
		t.Errorf("left: %s", r.left())
	}
}

// TestWhatATimelineLeftStaysBehindAGapThatWasAccepted has the partial segment in which a
// timeline ended, and of the next timeline only what comes behind a gap.
func TestWhatATimelineLeftStaysBehindAGapThatWasAccepted(t *testing.T) {
	s := memStanza(t)
	r := newReceived(t, pushTo("one", s))
	part := on(1, 3)
	part.Kind = postgres.WALPartial
	r.put(t, "00000002.history", []byte(history2))
	r.segments(t, 2, 5, 7)
	whole := pagedSegment(testIdentity(17), on(2, 3))
	if err := os.WriteFile(filepath.Join(r.dir, part.Name(segmentSize)), whole[:500], 0o600); err != nil {
		t.Fatal(err)
	}
	for range 2 {
		if err := r.storeAll(t.Context()); err != nil {
			t.Fatal(err)
		}
	}
	if !strings.Contains(r.left(), part.Name(segmentSize)) {
		t.Fatalf("what nobody else has is gone: %s", r.left())
	}
	// archive_command brings it.
	if _, err := pushContent(t, s, on(2, 3).Name(segmentSize), whole); err != nil {
		t.Fatal(err)
	}
	if err := r.storeAll(t.Context()); err != nil {
		t.Fatal(err)
	}
	if r.left() != "00000002.history "+namesOn(2, 7) {
		t.Errorf("left: %s", r.left())
	}
}
