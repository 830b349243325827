package repo

import (
	"context"
	"fmt"
	"slices"
	"strings"
	"testing"

	"github.com/pgbak/pgbak/storage"
	"github.com/pgbak/pgbak/storage/faulty"
	"github.com/pgbak/pgbak/storage/mem"
)

func TestWhatIsNotWALIsFoundAmongItAndBesideIt(t *testing.T) {
	ctx := context.Background()
	base := mem.New()
	s := largeSegments(t, base)
	later := s.Current()
	later.SystemID++
	if _, err := s.AddIdentity(ctx, later); err != nil {
		t.Fatal(err)
	}
	s, err := s.repo.Stanza(ctx, "main")
	if err != nil {
		t.Fatal(err)
	}
	second := s.Current() // the first identity has no WAL
	for n := range uint64(5000) {
		if err := base.Put(ctx, walKey("main", second, segment(1, n)), storage.Bytes(nil), storage.PutOptions{}); err != nil {
			t.Fatal(err)
		}
	}
	strays := []string{
		"wal/main/.keep",
		"wal/main/00000002/00000001/00000000/000000010000000000000001.gz",
		"wal/main/00000002/00000001/000000010000000000000002", // not in its directory
		"wal/main/00000002/history/notes.txt",
		"wal/main/00000002/zz",
		"wal/main/00000003/00000001/00000000/000000010000000000000001", // of no identity
		"wal/main/readme",
	}
	for _, key := range strays {
		if err := base.Put(ctx, key, storage.Bytes(nil), storage.PutOptions{}); err != nil {
			t.Fatal(err)
		}
	}
	if err := base.Put(ctx, "wal/main2/x", storage.Bytes(nil), storage.PutOptions{}); err != nil { // another stanza's
		t.Fatal(err)
	}
	watched := faulty.New(base, nil, nil)
	on := onStore(s, watched)
	beside, err := on.StrayWAL(ctx)
	if err != nil || len(watched.Trace()) > 3 {
		t.Fatalf("%v, %q", err, watched.Trace())
	}
	c, err := on.Catalog(ctx)
	if err != nil {
		t.Fatal(err)
	}
	if got := c.Strays.With(beside); got.Count != len(strays) || !slices.Equal(got.Keys, strays) {
		t.Errorf("%d: %q, want %q", got.Count, got.Keys, strays)
	}
	// What is marked is not listed, but a full list has it.
	if _, err := s.MarkWAL(ctx, second); err != nil {
		t.Fatal(err)
	}
	if c, err = on.Catalog(ctx); err != nil || c.Strays.Count >= 4 || len(c.WAL) != 1 {
		t.Errorf("%v, %+v, %+v", err, c.Strays, c.WAL)
	}
	ranges, all, err := on.ListedWAL(ctx, second)
	if err != nil || len(ranges) != 1 || all.With(beside).Count != len(strays) {
		t.Errorf("%v, %+v, %+v", err, ranges, all)
	}
}

func TestOfManyStraysSomeAreKept(t *testing.T) {
	ctx := context.Background()
	base := mem.New()
	s := largeSegments(t, base)
	for n := range 3 * maxStrays {
		if err := base.Put(ctx, fmt.Sprintf("wal/main/%05d", n), storage.Bytes(nil), storage.PutOptions{}); err != nil {
			t.Fatal(err)
		}
	}
	got, err := s.StrayWAL(ctx)
	if got = got.With(got); err != nil || got.Count != 6*maxStrays || len(got.Keys) != maxStrays {
		t.Errorf("%v: %d, %d keys", err, got.Count, len(got.Keys))
	}
	broken := faulty.OnOp(base, func(op, key string) error {
		if op == faulty.OpList {
			return faulty.ErrInjected
		}
		return nil
	})
	if _, err := onStore(s, broken).StrayWAL(ctx); err == nil || !strings.Contains(err.Error(), "look for what is not WAL of stanza main") {
		t.Errorf("error %v", err)
	}
}
