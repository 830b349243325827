package archive

import (
	"bytes"
	"errors"
	"testing"

	"github.com/pgbak/pgbak/repo"
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
