package repo

import (
	"bytes"
	"context"
	"fmt"
	"math/rand/v2"
	"testing"

	"github.com/pgbak/pgbak/repo/codec"
	"github.com/pgbak/pgbak/storage/mem"
)

// BenchmarkWindow is what a worker does to a window: content id and compression.
func BenchmarkWindow(b *testing.B) {
	for _, compression := range []string{"zstd:1", "zstd:2", "zstd:3", "s2", "none"} {
		b.Run(compression, func(b *testing.B) {
			s := testRepository(b, mem.New(), "")
			var err error
			if s.repo.o.Compression, err = ParseCompression(compression); err != nil {
				b.Fatal(err)
			}
			framer, err := s.repo.NewFramer()
			if err != nil {
				b.Fatal(err)
			}
			raw, out := rows(windowBytes, 1), make([]byte, 0, 4*windowBytes)
			b.SetBytes(windowBytes)
			for b.Loop() {
				if _, _, err := framer.Window(context.Background(), out[:0], raw, "base/1/1", 0, testPage, nil); err != nil {
					b.Fatal(err)
				}
			}
		})
	}
}

func BenchmarkPackAdd(b *testing.B) {
	keyed, err := newSealer(&[32]byte{1})
	if err != nil {
		b.Fatal(err)
	}
	for title, s := range map[string]sealer{"plain": {}, "encrypted": keyed} {
		b.Run(title, func(b *testing.B) {
			buf := make([]byte, 0, packTarget+maxStoredFrame)
			p := newPackBuilder(testPack(1, 1), testPage, s, s, nil, buf)
			f := frame{kind: frameAligned, codec: codec.Zstd, raw: windowBytes, payload: noise(40<<10, 1), path: "base/1/1"}
			b.SetBytes(int64(len(f.payload)))
			for b.Loop() {
				if p.add(f); p.full(packTarget) {
					p = newPackBuilder(testPack(1, 1), testPage, s, s, nil, buf)
				}
			}
		})
	}
}

// segmentMap is that of a 1 GiB segment of aligned frames in several packs.
func segmentMap() *fileMap {
	rng := rand.New(rand.NewPCG(1, 1))
	m := &fileMap{pageSize: testPage, size: 1 << 30}
	ref := frameRef{pack: testPack(1, 0), offset: 300, raw: windowBytes, codec: codec.Zstd}
	for i := range 8192 {
		if i%900 == 899 {
			ref = frameRef{pack: testPack(1, uint32(i)), offset: 300, raw: windowBytes, codec: codec.Zstd}
		}
		ref.stored = uint32(20000 + rng.IntN(20000))
		m.addAligned(ref, PagesPerFrame)
		ref.ordinal, ref.offset = ref.ordinal+1, ref.end()
	}
	return m
}

func BenchmarkMapEncode(b *testing.B) {
	maps := []*fileMap{segmentMap()}
	n := 0
	for b.Loop() {
		n = len(encodeMaps(maps))
	}
	b.ReportMetric(float64(n), "B/segment")
}

func BenchmarkMapDecode(b *testing.B) {
	encoded := encodeMaps([]*fileMap{segmentMap()})
	for b.Loop() {
		if _, err := decodeMaps(encoded); err != nil {
			b.Fatal(err)
		}
	}
}

func BenchmarkFooterDecode(b *testing.B) {
	p := newPackBuilder(testPack(1, 1), testPage, sealer{}, sealer{}, nil, nil)
	for i := range 900 {
		p.add(frame{kind: frameAligned, codec: codec.Zstd, raw: windowBytes, payload: make([]byte, 100), path: fmt.Sprintf("base/1/%d", i/300)})
	}
	encoded := p.footer.encode(p.first)
	for b.Loop() {
		if _, err := decodeFooter(testPack(1, 1), encoded); err != nil {
			b.Fatal(err)
		}
	}
}

// BenchmarkManifestDecode reads the entries of 100,000 files.
func BenchmarkManifestDecode(b *testing.B) {
	ctx := context.Background()
	s := testRepository(b, mem.New(), "")
	w, err := s.BeginBackup(ctx, s.Current(), BeginOptions{Type: Full, PageSize: testPage})
	if err != nil {
		b.Fatal(err)
	}
	framer, err := s.repo.NewFramer()
	if err != nil {
		b.Fatal(err)
	}
	const files, perBundle = 100_000, 1000
	for n := 0; n < files; n += perBundle {
		var batch []File
		var smalls []Small
		for i := range perBundle {
			path := fmt.Sprintf("base/%08d", n+i)
			batch = append(batch, File{Path: path, Type: TypeFile, Size: 1, Mode: 0o600, Owner: "postgres"})
			smalls = append(smalls, framer.Small(ctx, []byte("x"), path, nil))
		}
		_, bundle, err := framer.Bundle(nil, bytes.Repeat([]byte("x"), perBundle), smalls)
		if err == nil {
			err = w.AddSmall(batch, smalls, bundle)
		}
		if err != nil {
			b.Fatal(err)
		}
	}
	h, err := w.Commit(BackupHeader{Timeline: 1})
	if err != nil {
		b.Fatal(err)
	}
	backup, err := s.OpenBackup(ctx, h.Label)
	if err != nil {
		b.Fatal(err)
	}
	for b.Loop() {
		n := 0
		for _, err := range backup.Files(ctx) {
			if err != nil {
				b.Fatal(err)
			}
			n++
		}
		if n != files {
			b.Fatalf("%d files", n)
		}
	}
	b.ReportMetric(float64(b.Elapsed().Nanoseconds())/float64(b.N)/files, "ns/file")
}
