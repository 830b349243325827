package archive

import (
	"context"
	"strings"
	"testing"

	"github.com/pgbak/pgbak/internal/postgres"
	"github.com/pgbak/pgbak/repo"
	"github.com/pgbak/pgbak/storage"
	"github.com/pgbak/pgbak/storage/faulty"
	"github.com/pgbak/pgbak/storage/mem"
)

// Many backups that end in many places must not make info read the archive.
func TestTheEndsOfManyBackupsAreReadInBounds(t *testing.T) {
	ctx := context.Background()
	base := mem.New()
	r, err := repo.Create(ctx, base, repo.Options{Clock: clock})
	if err != nil {
		t.Fatal(err)
	}
	b := newBooks()
	s, err := r.CreateStanza(ctx, "main", repo.Identity{SystemID: 7, Major: 17, SegmentSize: ledgerSegment, BlockSize: 8192})
	if err != nil {
		t.Fatal(err)
	}
	for n := uint64(1); n < 400; n += 4 { // a hundred gaps, and a backup before each twice
		b.wal(1, n, n+2).backup("A", 1, n, n).backup("B", 1, n, n+1)
		f := postgres.WALFile{Kind: postgres.WALSegment, Timeline: 1, Segment: n + 2}
		if _, err := s.PutWAL(ctx, s.Current(), f, repo.NewWALContent(storage.Bytes([]byte("not a segment")))); err != nil {
			t.Fatal(err)
		}
	}
	watched := faulty.New(base, nil, nil)
	s, err = repo.OpenStanza(ctx, watched, repo.Options{Clock: clock}, "main")
	if err != nil {
		t.Fatal(err)
	}
	failed := NewLedger(&b.Catalog, 0).ReadEnds(ctx, s)
	gets := map[string]int{}
	for _, op := range watched.Trace() {
		if strings.HasPrefix(op, "get wal/") {
			gets[op]++
		}
	}
	if len(gets) != maxEnds || len(failed) != maxEnds {
		t.Errorf("%d segments were read, %d errors, want %d", len(gets), len(failed), maxEnds)
	}
	for op, n := range gets {
		if n != 1 {
			t.Errorf("%s %d times", op, n)
		}
	}
	if !strings.Contains(failed[0].Error(), "00000001000000010000008F") {
		t.Errorf("the newest was not the first: %v", failed[0])
	}
}
