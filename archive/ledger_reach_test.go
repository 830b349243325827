package archive

import (
	"context"
	"encoding/binary"
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

// Idle servers archive segments without a commit: each is asked for once, and of large
// ones, in all, no more than the bound.
func TestWhatIsReadOfEndsWithoutACommitIsBounded(t *testing.T) {
	for _, c := range []struct {
		size   int64
		places uint64
		want   int // segments
	}{
		{1 << 20, 1, lookBack}, {1 << 20, 20, maxEnds * lookBack}, {64 << 20, 2, 4}, {512 << 20, 1, 1},
	} {
		ctx := context.Background()
		base := mem.New()
		r, err := repo.Create(ctx, base, repo.Options{Clock: clock})
		if err != nil {
			t.Fatal(err)
		}
		s, err := r.CreateStanza(ctx, "main", repo.Identity{SystemID: 7, Major: 17, SegmentSize: c.size, BlockSize: 8192})
		if err != nil {
			t.Fatal(err)
		}
		of := IdentityLedger{Identity: s.Current()}
		way := walWay{history: postgres.History{Timeline: 1}, size: c.size, isKnown: true}
		length := uint64(max(2, min(10, (200<<20)/c.size)))
		for p := range c.places {
			first := 1 + p*20
			for n := first; n < first+length; n++ {
				f := postgres.WALFile{Kind: postgres.WALSegment, Timeline: 1, Segment: n}
				if _, err := s.PutWAL(ctx, s.Current(), f, repo.NewWALContent(storage.Bytes(idleSegment(s.Current(), f)))); err != nil {
					t.Fatal(err)
				}
			}
			of.Backups = append(of.Backups, BackupReach{Own: Reach{Timeline: 1, Last: "x", way: way, first: first, next: first + length}})
		}
		watched := faulty.New(base, nil, nil)
		if s, err = repo.OpenStanza(ctx, watched, repo.Options{Clock: clock}, "main"); err != nil {
			t.Fatal(err)
		}
		failed := (&Ledger{Identities: []IdentityLedger{of}}).ReadEnds(ctx, s)
		gets := map[string]int{}
		for _, op := range watched.Trace() {
			if strings.HasPrefix(op, "get wal/") {
				gets[op]++
			}
		}
		for op, n := range gets {
			if n != 1 {
				t.Errorf("%s %d times", op, n)
			}
		}
		if len(gets) != c.want || len(failed) != 0 {
			t.Errorf("%d places, segments of %d bytes: %d were read, want %d; %v", c.places, c.size, len(gets), c.want, failed)
		}
	}
}

// idleSegment has the header of a segment, and no record.
func idleSegment(id repo.Identity, f postgres.WALFile) []byte {
	small := id
	small.SegmentSize = segmentSize
	data := make([]byte, id.SegmentSize)
	copy(data, segment(small, f)[:40])
	le := binary.LittleEndian
	le.PutUint64(data[8:], uint64(f.Start(id.SegmentSize)))
	le.PutUint32(data[32:], uint32(id.SegmentSize))
	return data
}
