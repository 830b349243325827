package archive

import (
	"context"
	"crypto/rand"
	"testing"
	"time"

	"github.com/pgbak/pgbak/repo"
	"github.com/pgbak/pgbak/storage/limit"
	"github.com/pgbak/pgbak/storage/mem"
)

// A limit is that of a run, whatever the number of files in it: the store that
// keeps it is opened once.
func TestALimitOfBandwidthHoldsForTheWholeBatch(t *testing.T) {
	const rate = 8 * segmentSize // bytes per second
	inner := mem.New()
	stanza := newStanza(t, inner, testIdentity(17))
	s := newServer(t, 0)
	for i := 1; i <= 16; i++ {
		content := segment(testIdentity(17), walFileOf(uint64(i)))
		_, _ = rand.Read(content[len(content)/64:]) // what cannot be compressed
		s.write(t, segmentNumber(i), content)
	}
	target := PushTarget{Name: "local", Open: func(ctx context.Context) (*repo.Stanza, error) {
		return repo.OpenStanza(ctx, limit.New(inner, limit.Limits{Upload: rate, Clock: time.Now}), repo.Options{Clock: time.Now}, "main")
	}}
	b := newTestBatch(t, newSpool(t), target)
	b.Processes = 4
	began := time.Now()
	mustAsk(t, b, s.path(segmentNumber(1)))
	// A second's worth may be in the first burst.
	if took := time.Since(began); took < 800*time.Millisecond {
		t.Errorf("16 segments at 8 in a second took %s", took)
	}
	for name := range s.contents {
		s.mustBeIn(t, stanza, name)
	}
}
