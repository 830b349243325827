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
