package repo

import (
	"bytes"
	"context"
	"slices"

	"github.com/pgbak/pgbak/internal/postgres"
	"github.com/pgbak/pgbak/repo/codec"
	"github.com/pgbak/pgbak/storage"
)

// fixtureWAL is the WAL of the fixture by file name.
func fixtureWAL() map[string][]byte {
	return map[string][]byte{
		"000000010000000000000010":                 rows(fixtureSegment, 40),
		"000000010000000000000011":                 append(rows(70<<10, 41), make([]byte, fixtureSegment-70<<10)...),
		"000000010000000000000012.partial":         append(rows(9000, 42), make([]byte, fixtureSegment-9000)...),
		"000000010000000000000010.00000028.backup": rows(300, 43),
		"00000002.history":                         []byte("1\t0/1200000\tno recovery target specified\n"),
		"000000020000000000000012":                 append(noise(2000, 44), make([]byte, fixtureSegment-2000)...),
		summarizedWAL:                              append(rows(5000, 45), make([]byte, fixtureSegment-5000)...),
	}
}

// summarizedWAL is the segment of the fixture that has a summary.
const summarizedWAL = "000000020000000000000013"

func fixtureSummary() WALSummary {
	var t postgres.BlockTable
	f := postgres.RelationForkID{Tablespace: postgres.DefaultTablespace, Database: 5, Node: 16384}
	for block := range uint32(5000) {
		t.Mark(f, 3*block)
	}
	f.Node++
	t.Truncate(f, 7)
	t.Mark(f, 100_000)
	return WALSummary{Timeline: 2, From: 0x12ffff8, To: 0x1400028, Table: t.Encode()}
}

// buildFixture writes the fixture into an empty store and gives its stanza. The
// second backup compresses with s2, the third not at all. The second is tombed;
// behind them stand a pin that was left behind and the stub that revokes it.
func buildFixture(ctx context.Context, st storage.Store, o Options) (*Stanza, error) {
	r, err := Create(ctx, st, o)
	if err != nil {
		return nil, err
	}
	id := testIdentity()
	id.SegmentSize = fixtureSegment
	s, err := r.CreateStanza(ctx, "main", id)
	if err != nil {
		return nil, err
	}
	var labels []Label
	for n, c := range []codec.ID{codec.Zstd, codec.S2, codec.None} {
		r.o.Compression = Compression{codec: c, level: codec.DefaultZstdLevel, walLevel: codec.DefaultZstdLevel, set: true}
		h, err := writeFixtureBackup(ctx, s, n)
		if err != nil {
			return nil, err
		}
		labels = append(labels, h.Label)
	}
	r.o.Compression = defaultCompression()
	wal := fixtureWAL()
	for _, name := range sortedKeys(wal) {
		f, err := postgres.ParseWALFile(name, fixtureSegment)
		if err != nil {
			return nil, err
		}
		c := NewWALContent(storage.Bytes(wal[name]))
		if name == summarizedWAL {
			c.Summarize(func([]byte) (WALSummary, error) { return fixtureSummary(), nil })
		}
		if _, err := s.PutWAL(ctx, s.Current(), f, c); err != nil {
			return nil, err
		}
	}
	return s, buildRemains(ctx, s, labels[1])
}

// buildRemains writes what deletion leaves: a tomb, and a dead operation with its stub.
func buildRemains(ctx context.Context, s *Stanza, tombed Label) error {
	st := s.repo.store
	if err := putDocument(ctx, st, tombKey(s.name, tombed), "pgbak-tomb", struct{}{}, storage.PutOptions{IfAbsent: true}); err != nil {
		return err
	}
	w, err := s.BeginBackup(ctx, s.Current(), BeginOptions{Type: Full, PageSize: testPage})
	if err != nil {
		return err
	}
	w.Abort()
	return putDocument(ctx, st, manifestKey(s.name, w.Label()), revokedFormat, struct{}{}, storage.PutOptions{IfAbsent: true})
}

func sortedKeys[V any](m map[string]V) []string {
	var keys []string
	for k := range m {
		keys = append(keys, k)
	}
	slices.Sort(keys)
	return keys
}

// fixtureOptions are those of a repository with or without a passphrase; the
// names of operations come from a fixed seed.
func fixtureOptions(passphrase string) Options {
	o := Options{Clock: testClock(), Random: bytes.NewReader(noise(64<<10, 99))}
	if passphrase != "" {
		o.Passphrase = func() ([]byte, error) { return []byte(passphrase), nil }
	}
	return o
}
