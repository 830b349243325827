package archive

import (
	"bytes"
	"context"
	"errors"
	"os"
	"strings"
	"testing"

	"github.com/pgbak/pgbak/repo"
	"github.com/pgbak/pgbak/storage/faulty"
	"github.com/pgbak/pgbak/storage/mem"
)

// TestAHistoryPushedAheadSaysWhatItLacks in the run that pushes it: when
// PostgreSQL asks for it, it is acknowledged.
func TestAHistoryPushedAheadSaysWhatItLacks(t *testing.T) {
	stanza, s := memStanza(t), newServer(t, 1)
	s.write(t, "00000003.history", []byte(strings.ReplaceAll(history3, "\n\n", "\n")))
	var log bytes.Buffer
	b := newTestBatch(t, newSpool(t), pushTo("local", stanza))
	logInto(b, &log)
	if _, err := b.Push(t.Context(), s.path(segmentNumber(1))); err != nil {
		t.Fatal(err)
	}
	s.mustBeIn(t, stanza, "00000003.history", segmentNumber(1))
	if !strings.Contains(log.String(), "the history of timeline 2, on the way to timeline 3, is not in repository local") {
		t.Errorf("the log says\n%s", log.String())
	}
}

// TestAHistoryIsNotAcknowledgedBeforeItsAncestors and the WAL before it, which the
// call that finds an acknowledgement would not look after.
func TestAHistoryIsNotAcknowledgedBeforeItsAncestors(t *testing.T) {
	id := testIdentity(17)
	for _, refused := range []string{"00000002.history", on(1, 2).Name(segmentSize)} {
		base := mem.New()
		newStanza(t, base, id)
		broken := faulty.OnOp(base, func(op, key string) error {
			if op == faulty.OpPutIfAbsent && strings.HasSuffix(key, "/"+refused) {
				return errors.New("refused by the test")
			}
			return nil
		})
		s := newServer(t, 1)
		s.write(t, "00000003.history", []byte(history3))
		if err := os.WriteFile(s.path(on(1, 2).Name(segmentSize)), pagedSegment(id, on(1, 2)), 0o600); err != nil {
			t.Fatal(err)
		}
		spool := newSpool(t)
		through := PushTarget{Name: "local", Open: func(context.Context) (*repo.Stanza, error) { return openStanza(t, broken) }}
		if _, err := newTestBatch(t, spool, through).Push(t.Context(), s.path(segmentNumber(1))); err != nil {
			t.Fatal(err)
		}
		if a, err := spool.readAcknowledgement("00000003.history"); err == nil {
			t.Errorf("without %s: acknowledged %+v", refused, a)
		}
		stanza, err := openStanza(t, base)
		if err != nil {
			t.Fatal(err)
		}
		if _, err := newTestBatch(t, spool, pushTo("local", stanza)).Push(t.Context(), s.path("00000003.history")); err != nil {
			t.Fatal(err)
		}
		mustHold(t, stanza, "00000002.history", []byte(history2))
		mustHold(t, stanza, on(1, 2).Name(segmentSize), pagedSegment(id, on(1, 2)))
	}
}

// TestAheadOfAHistoryThatConflictsNothingOfItsTimelineIsPushed: PostgreSQL asks for
// nothing else before the history is archived, so that a second server which began
// a timeline can put nothing between the segments of the first.
func TestAheadOfAHistoryThatConflictsNothingOfItsTimelineIsPushed(t *testing.T) {
	for title, kept := range map[string]bool{"and is ready": false, "and is kept": true} {
		t.Run(title, func(t *testing.T) {
			stanza := memStanza(t)
			if _, err := pushContent(t, stanza, "00000003.history", []byte(history2+"\n2\t0/500000\tthe first server\n")); err != nil {
				t.Fatal(err)
			}
			s, spool := newServer(t, 2), newSpool(t)
			asked, want := "00000003.history", repo.ErrWALConflict
			if kept {
				keepHistory(t, s, withControl(t, spool, 1, PushTarget{Name: "local", Open: closedQuietly}))
				asked, want = segmentNumber(1), nil
			} else {
				s.write(t, asked, []byte(history3))
				s.write(t, on(3, 5).Name(segmentSize), pagedSegment(testIdentity(17), on(3, 5)))
				s.write(t, on(3, 6).Name(segmentSize), pagedSegment(testIdentity(17), on(3, 6)))
			}
			var log bytes.Buffer
			b := withControl(t, spool, 0, pushTo("local", stanza))
			logInto(b, &log)
			if _, err := b.Push(t.Context(), s.path(asked)); !errors.Is(err, want) {
				t.Fatalf("error %v", err)
			}
			if _, err := b.Push(t.Context(), s.path(on(3, 6).Name(segmentSize))); !errors.Is(err, repo.ErrWALConflict) {
				t.Errorf("error %v", err)
			}
			// One for what waits for it, and one for the kept file itself.
			if n := strings.Count(log.String(), "level=WARN"); n > 4 {
				t.Errorf("%d warnings:\n%s", n, log.String())
			}
			mustLack(t, stanza, on(3, 5).Name(segmentSize))
			mustLack(t, stanza, on(3, 6).Name(segmentSize))
			s.mustBeIn(t, stanza, segmentNumber(1), segmentNumber(2))
		})
	}
}
