package postgres

import (
	"bytes"
	"compress/gzip"
	"encoding/binary"
	"fmt"
	"io"
	"os"
	"slices"
	"testing"
)

// validPage returns a page of random content with the checksum for block.
func validPage(size int, block uint32) []byte {
	page := randomPage(size, uint64(block)+1)
	binary.LittleEndian.PutUint16(page[pageUpperAt:], 100)
	binary.LittleEndian.PutUint16(page[pageChecksumAt:], PageChecksum(page, block))
	return page
}

func TestCheckPage(t *testing.T) {
	const block = 131072 + 7 // in the second segment of a relation
	changed := func(at int, to byte) []byte {
		page := validPage(8<<10, block)
		page[at] ^= to
		return page
	}
	noUpper := validPage(8<<10, block)
	noUpper[pageUpperAt], noUpper[pageUpperAt+1] = 0, 0
	lastByte := make([]byte, 8<<10)
	lastByte[len(lastByte)-1] = 1
	noChecksum := validPage(8<<10, block)
	noChecksum[pageChecksumAt], noChecksum[pageChecksumAt+1] = 0, 0
	cases := []struct {
		title string
		page  []byte
		block uint32
		want  PageStatus
	}{
		{"right checksum", validPage(8<<10, block), block, PageValid},
		{"right checksum in the first block", validPage(8<<10, 0), 0, PageValid},
		{"right checksum for another block", validPage(8<<10, block), block + 1, PageInvalid},
		{"first byte changed", changed(0, 1), block, PageInvalid},
		{"last byte changed", changed(8191, 0x80), block, PageInvalid},
		{"checksum changed", changed(pageChecksumAt, 1), block, PageInvalid},
		{"checksum missing", noChecksum, block, PageInvalid},
		{"all zero", make([]byte, 8<<10), block, PageNew},
		{"zero but for the last byte", lastByte, block, PageInvalid},
		{"no upper bound, and content", noUpper, block, PageInvalid},
		{"second half never written", append(validPage(8<<10, block)[:4096], make([]byte, 4096)...), block, PageInvalid},
		{"nothing", nil, block, PageInvalid},
		{"less than a header", make([]byte, 23), block, PageInvalid},
		{"cut off", validPage(8<<10, block)[:8191], block, PageInvalid},
		{"cut off, and without a checksum", noChecksum[:8191], block, PageInvalid},
	}
	for _, size := range pageSizes {
		cases = append(cases, struct {
			title string
			page  []byte
			block uint32
			want  PageStatus
		}{fmt.Sprintf("right checksum of %d bytes", size), validPage(size, block), block, PageValid})
	}
	for _, tc := range cases {
		t.Run(tc.title, func(t *testing.T) {
			if got := CheckPage(tc.page, tc.block); got != tc.want {
				t.Errorf("CheckPage = %v, want %v", got, tc.want)
			}
		})
	}
}

// The pages are the first of pg_class of a real cluster: PostgreSQL has
// computed these checksums.
func TestChecksumsOfRealPages(t *testing.T) {
	file, err := os.Open("../../testdata/postgres/pages/pg_class.gz")
	if err != nil {
		t.Fatal(err)
	}
	defer file.Close()
	unpacked, err := gzip.NewReader(file)
	if err != nil {
		t.Fatal(err)
	}
	content, err := io.ReadAll(unpacked)
	if err != nil {
		t.Fatal(err)
	}
	n := uint32(0)
	for page := range slices.Chunk(content, 8<<10) {
		stored := binary.LittleEndian.Uint16(page[pageChecksumAt:])
		if got := PageChecksum(page, n); got != stored || CheckPage(page, n) != PageValid {
			t.Errorf("block %d: checksum %d, and the page has %d", n, got, stored)
		}
		if got := uint16((sumPageGo(page)^n)%65535 + 1); got != stored {
			t.Errorf("block %d: checksum %d by the Go twin, and the page has %d", n, got, stored)
		}
		if lsn := PageLSN(page); lsn < 1<<20 || lsn > 1<<32 {
			t.Errorf("block %d: LSN %s is not one of a fresh cluster", n, lsn)
		}
		n++
	}
	if n < 4 {
		t.Errorf("only %d pages", n)
	}
}

func TestPageLSNIsTheFirstEightBytesHighHalfFirst(t *testing.T) {
	page := make([]byte, 8<<10)
	copy(page, []byte{0x16, 0, 0, 0, 0x48, 0xD8, 0x74, 0xB3})
	if got := PageLSN(page).String(); got != "16/B374D848" {
		t.Errorf("PageLSN = %s, want 16/B374D848", got)
	}
	if got := PageLSN(page[:23]); got != 0 {
		t.Errorf("PageLSN of less than a header = %s, want 0/0", got)
	}
}

func TestIsZeroFindsEveryByte(t *testing.T) {
	for _, size := range []int{0, 1, 7, 8, 9, 63, 64, 65, 1024, 8192} {
		p := make([]byte, size)
		if !IsZero(p) {
			t.Errorf("%d zero bytes are not zero", size)
		}
		for at := range p {
			p[at] = 1
			if IsZero(p) {
				t.Fatalf("byte %d of %d is 1 and was not seen", at, size)
			}
			p[at] = 0
		}
	}
	if IsZero(bytes.Repeat([]byte{7}, 100)) {
		t.Error("bytes that are all equal and not zero are zero")
	}
}

func FuzzCheckPage(f *testing.F) {
	f.Add(validPage(1<<10, 0), uint32(0))
	f.Add(make([]byte, 1<<10), uint32(1))
	f.Add([]byte{}, uint32(2))
	f.Fuzz(func(t *testing.T, page []byte, block uint32) {
		before := bytes.Clone(page)
		status := CheckPage(page, block)
		if !bytes.Equal(page, before) {
			t.Error("the page was modified")
		}
		if status == PageNew && !IsZero(page) {
			t.Error("a new page has content")
		}
		if n := len(page); n > 0 && n%checksumRow == 0 && sumPage(page) != sumPageGo(page) {
			t.Error("the vector code and its twin differ")
		}
		PageLSN(page)
	})
}
