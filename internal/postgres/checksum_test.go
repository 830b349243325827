package postgres

import (
	"bytes"
	"encoding/binary"
	"fmt"
	"math/rand/v2"
	"testing"
)

// pageSizes are the block sizes that PostgreSQL can be built with.
var pageSizes = []int{1 << 10, 2 << 10, 4 << 10, 8 << 10, 16 << 10, 32 << 10}

// randomPage returns size bytes that depend on seed alone.
func randomPage(size int, seed uint64) []byte {
	var key [32]byte
	binary.LittleEndian.PutUint64(key[:], seed)
	page := make([]byte, size)
	rand.NewChaCha8(key).Read(page)
	return page
}

// sumPageByDefinition is the checksum in the shape of its definition, row by
// row over thirty-two sums: slow, and a third opinion on the other two.
func sumPageByDefinition(page []byte) uint32 {
	page = bytes.Clone(page)
	page[8], page[9] = 0, 0
	sums := checksumSeeds
	page = append(page, make([]byte, 2*checksumRow)...)
	for at := 0; at < len(page); at += 4 {
		lane := at / 4 % checksumLanes
		sums[lane] = mixChecksum(sums[lane], binary.LittleEndian.Uint32(page[at:]))
	}
	var sum uint32
	for _, s := range sums {
		sum ^= s
	}
	return sum
}

func TestVectorCodeSumsAsTheGoTwin(t *testing.T) {
	sizes := append([]int{checksumRow, 2 * checksumRow, 3 * checksumRow}, pageSizes...)
	for _, size := range sizes {
		t.Run(fmt.Sprintf("%d bytes", size), func(t *testing.T) {
			for seed := range uint64(50) {
				page := randomPage(size, seed)
				want := sumPageByDefinition(page)
				if got := sumPageGo(page); got != want {
					t.Fatalf("seed %d: the Go twin sums to %#x, want %#x", seed, got, want)
				}
				if got := sumPage(page); got != want {
					t.Fatalf("seed %d: sumPage gives %#x, want %#x", seed, got, want)
				}
			}
		})
	}
}

func TestEveryBitCountsButTheChecksumItself(t *testing.T) {
	const block = 7
	page := randomPage(1<<10, 1)
	before := sumPage(page)
	for bit := range 8 * len(page) {
		page[bit/8] ^= 1 << (bit % 8)
		inField := bit/8 == pageChecksumAt || bit/8 == pageChecksumAt+1
		if got := sumPage(page); (got == before) != inField {
			t.Fatalf("bit %d of byte %d flipped: sum %#x, was %#x", bit%8, bit/8, got, before)
		}
		if got := sumPageGo(page); got != sumPage(page) {
			t.Fatalf("bit %d of byte %d flipped: the twin differs", bit%8, bit/8)
		}
		page[bit/8] ^= 1 << (bit % 8)
	}
	if PageChecksum(page, block) == PageChecksum(page, block+1) {
		t.Error("the block number does not count")
	}
}

func TestPageChecksumLeavesThePageAlone(t *testing.T) {
	page := randomPage(8<<10, 3)
	want := bytes.Clone(page)
	PageChecksum(page, 12)
	if !bytes.Equal(page, want) {
		t.Error("PageChecksum has modified its input")
	}
	if n := testing.AllocsPerRun(100, func() { PageChecksum(page, 12) }); n != 0 {
		t.Errorf("PageChecksum allocates %v times", n)
	}
}

func TestPageChecksumOfAnImpossibleLengthIsZero(t *testing.T) {
	for _, size := range []int{0, 1, 24, 127, 129, 8191, 8193} {
		if got := PageChecksum(make([]byte, size), 0); got != 0 {
			t.Errorf("%d bytes: checksum %d, want 0", size, got)
		}
	}
}

func BenchmarkPageChecksum(b *testing.B) {
	page := randomPage(8<<10, 5)
	b.SetBytes(int64(len(page)))
	for b.Loop() {
		PageChecksum(page, 1)
	}
}

func BenchmarkPageChecksumGo(b *testing.B) {
	page := randomPage(8<<10, 5)
	b.SetBytes(int64(len(page)))
	for b.Loop() {
		sumPageGo(page)
	}
}

// A 64 MiB file, which no cache below the memory holds.
func BenchmarkCheckPagesFromMemory(b *testing.B) {
	const size, pages = 8 << 10, 8 << 10
	file := randomPage(size*pages, 6)
	b.SetBytes(int64(len(file)))
	for b.Loop() {
		for n := range pages {
			CheckPage(file[n*size:(n+1)*size], uint32(n))
		}
	}
}

func BenchmarkIsZero(b *testing.B) {
	page := make([]byte, 8<<10)
	b.SetBytes(int64(len(page)))
	for b.Loop() {
		IsZero(page)
	}
}
