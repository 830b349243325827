package archive

import (
	"bytes"
	"errors"
	"slices"
	"testing"

	"github.com/pgbak/pgbak/repo"
	"github.com/pgbak/pgbak/storage/mem"
)

// TestBehindAConflictNothingOfItsTimelineIsPushedAhead: of two servers on one timeline,
// such as a clone and its original, PostgreSQL's archiver stops where they part. What
// the second has beyond the first must not take the names of what the first will write.
func TestBehindAConflictNothingOfItsTimelineIsPushedAhead(t *testing.T) {
	id := testIdentity(17)
	for title, same := range map[string]int{"from the first on": 0, "behind one that both have": 1, "behind more": 3} {
		t.Run(title, func(t *testing.T) {
			stanza := memStanza(t)
			s := newServer(t, 12)
			for n := 1; n <= 6; n++ {
				content := bytes.Clone(s.contents[segmentNumber(n)])
				if n > same {
					content[5000] ^= 1
				}
				if _, err := pushContent(t, stanza, segmentNumber(n), content); err != nil {
					t.Fatal(err)
				}
			}
			other := on(2, 1).Name(segmentSize)
			s.write(t, other, segment(id, on(2, 1)))
			b := newTestBatch(t, newSpool(t), pushTo("local", stanza))
			b.Processes = 4
			_, err := b.Push(t.Context(), s.path(segmentNumber(1)))
			if same == 0 != errors.Is(err, repo.ErrWALConflict) {
				t.Errorf("error %v", err)
			}
			for n := 7; n <= 12; n++ {
				mustLack(t, stanza, segmentNumber(n))
			}
			s.mustBeIn(t, stanza, other)
		})
	}
}

// A server that was set back, by a snapshot of its disk, writes its timeline once more
// beside a spool that knows the first time.
func TestWhatIsAcknowledgedForOtherContentIsPushedInItsOrder(t *testing.T) {
	st := traced(mem.New())
	a, b := newStanza(t, st, testIdentity(17)), memStanza(t)
	server, spool := newServer(t, 2), newSpool(t)
	if _, err := newTestBatch(t, spool, pushTo("a", a), PushTarget{Name: "b", Open: closedQuietly}).Push(t.Context(), server.path(segmentNumber(1))); err == nil {
		t.Fatal("a push to a repository that cannot be opened succeeds")
	}
	server.mustBeIn(t, a, segmentNumber(1), segmentNumber(2))

	for n := 2; n <= 6; n++ {
		again := segment(testIdentity(17), walFileOf(uint64(n)))
		again[len(again)/2] ^= 1
		server.write(t, segmentNumber(n), again)
	}
	server.done(t, segmentNumber(1))
	batch := newTestBatch(t, spool, pushTo("a", a), pushTo("b", b))
	batch.Processes = 1
	if _, err := batch.Push(t.Context(), server.path(segmentNumber(2))); !errors.Is(err, repo.ErrWALConflict) {
		t.Errorf("other content under a name that is taken: %v", err)
	}
	if got := puts(st); slices.Contains(got, segmentNumber(3)) {
		t.Errorf("stored behind the conflict were %q", got)
	}
}
