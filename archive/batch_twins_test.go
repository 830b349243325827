package archive

import (
	"bytes"
	"errors"
	"slices"
	"testing"

	"github.com/pgbak/pgbak/repo"
	"github.com/pgbak/pgbak/storage/mem"
)

// Two standbys that are promoted at once can begin the same timeline, with the
// same history. What they write parts somewhere; behind that place the archive
// must not hold WAL of both.
func TestTwoServersOnOneTimelineDoNotMixTheirWAL(t *testing.T) {
	for _, c := range []struct {
		title   string
		parted  int // the first segment that differs
		asked   int
		refused bool
	}{
		{"they part with the file asked for", 2, 2, true},
		{"they part behind it", 3, 2, false},
	} {
		st := traced(mem.New())
		stanza := newStanza(t, st, testIdentity(17))
		first, second := newServer(t, 3), newServer(t, 6)
		for i := c.parted; i <= 6; i++ {
			other := bytes.Clone(second.contents[segmentNumber(i)])
			other[len(other)/2] ^= 1
			second.write(t, segmentNumber(i), other)
		}
		mustAsk(t, newTestBatch(t, newSpool(t), pushTo("local", stanza)), first.path(segmentNumber(1)))
		second.done(t, segmentNumber(1))
		b := newTestBatch(t, newSpool(t), pushTo("local", stanza))
		b.Processes = 1
		_, err := b.Push(t.Context(), second.path(segmentNumber(c.asked)))
		if refused := errors.Is(err, repo.ErrWALConflict); refused != c.refused || !refused && err != nil {
			t.Errorf("%s: %v", c.title, err)
		}
		// Everything is ready at once: with more workers what is under way already may still be stored.
		if got := puts(st); slices.Contains(got, segmentNumber(4)) || slices.Contains(got, segmentNumber(6)) {
			t.Errorf("%s: stored were %q", c.title, got)
		}
		first.mustBeIn(t, stanza, segmentNumber(1), segmentNumber(2), segmentNumber(3))
	}
	// The file asked for comes first, however many workers there are.
	st := traced(mem.New())
	stanza := newStanza(t, st, testIdentity(17))
	first, second := newServer(t, 1), newServer(t, 40)
	for i := range 40 {
		other := bytes.Clone(second.contents[segmentNumber(i+1)])
		other[len(other)/2] ^= 1
		second.write(t, segmentNumber(i+1), other)
	}
	mustAsk(t, newTestBatch(t, newSpool(t), pushTo("local", stanza)), first.path(segmentNumber(1)))
	b := newTestBatch(t, newSpool(t), pushTo("local", stanza))
	b.Processes = 8
	if _, err := b.Push(t.Context(), second.path(segmentNumber(1))); !errors.Is(err, repo.ErrWALConflict) {
		t.Errorf("another content: %v", err)
	}
	if got := puts(st); slices.ContainsFunc(got, func(name string) bool { return len(name) == 24 && name != segmentNumber(1) }) {
		t.Errorf("stored were %q", got)
	}
}
