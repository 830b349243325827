package postgres

import "encoding/binary"

// checksumLanes is PostgreSQL's N_SUMS: a page is read as rows of 32 words of
// four bytes, and each column is summed by itself so that a CPU's vector unit
// can take several at once.
const checksumLanes = 32

// checksumRow is one row of words in bytes. A page is a whole number of them.
const checksumRow = 4 * checksumLanes

// checksumPrime is the prime of 32-bit FNV-1a, which each lane is a variant of.
const checksumPrime = 16777619

// checksumFieldWord is the word of a page that holds pd_checksum, in its low
// half, and checksumFieldMask what of that word is summed. PostgreSQL writes a
// zero there for as long as it sums; pgbak takes it as zero and leaves the
// page alone.
const (
	checksumFieldWord = 2
	checksumFieldMask = 0xFFFF0000
)

// checksumSeeds are the values that the lanes begin with, checksumBaseOffsets
// in PostgreSQL's storage/checksum_impl.h. It is never written to.
var checksumSeeds = [checksumLanes]uint32{
	0x5B1F36E9, 0xB8525960, 0x02AB50AA, 0x1DE66D2A, 0x79FF467A, 0x9BB9F8A3, 0x217E7CD2, 0x83E13D2C,
	0xF8D4474F, 0xE39EB970, 0x42C6AE16, 0x993216FA, 0x7B093B5D, 0x98DAFF3C, 0xF718902A, 0x0B1C9CDB,
	0xE58F764B, 0x187636BC, 0x5D7B3BB1, 0xE73DE7DE, 0x92BEC979, 0xCCA6C0B2, 0x304A0979, 0x85AA43D4,
	0x783125BB, 0x6CA8EAA2, 0xE407EAC6, 0x4B5CFC3E, 0x9FBF8C76, 0x15CA20BE, 0xF2CA9FD3, 0x959BD756,
}

// PageChecksum returns what pd_checksum of a page must be, as
// pg_checksum_page in PostgreSQL's storage/checksum_impl.h computes it. The
// page is not modified, and what it has in pd_checksum does not matter.
//
// block is the page's number in its whole relation fork, not in the file: the
// segment's number times the blocks of a segment (RELSEG_SIZE), plus the
// page's place in the segment.
//
// The length of page must be a multiple of 128 bytes, as that of every page
// size of PostgreSQL (1 to 32 KiB) is. Anything else has no checksum: the
// result is then 0, which is no page's checksum.
func PageChecksum(page []byte, block uint32) uint16 {
	if len(page) == 0 || len(page)%checksumRow != 0 {
		return 0
	}
	// The remainder is by 65535, and one is added, so that 0 is free to mean
	// that a page has no checksum.
	return uint16((sumPage(page)^block)%65535 + 1)
}

// sumPageGo is the checksum of a page before the block number is mixed in, on
// any CPU. It goes down the page eight columns at a time, because eight sums
// fit into the registers and thirty-two do not. The length of page must be a
// positive multiple of [checksumRow].
func sumPageGo(page []byte) uint32 {
	var sum uint32
	for lane := 0; lane < checksumLanes; lane += 8 {
		sum ^= sumColumns(page, lane)
	}
	return sum
}

// sumColumns sums the eight columns of a page that begin with lane and returns
// them folded into one word.
func sumColumns(page []byte, lane int) uint32 {
	s := checksumSeeds[lane : lane+8 : lane+8]
	a, b, c, d, e, f, g, h := s[0], s[1], s[2], s[3], s[4], s[5], s[6], s[7]
	mask := uint32(0xFFFFFFFF)
	if lane == 0 {
		mask = checksumFieldMask
	}
	for at := 4 * lane; at+32 <= len(page); at += checksumRow {
		row := page[at : at+32 : at+32]
		a = mixChecksum(a, binary.LittleEndian.Uint32(row))
		b = mixChecksum(b, binary.LittleEndian.Uint32(row[4:]))
		c = mixChecksum(c, binary.LittleEndian.Uint32(row[4*checksumFieldWord:])&mask)
		d = mixChecksum(d, binary.LittleEndian.Uint32(row[12:]))
		e = mixChecksum(e, binary.LittleEndian.Uint32(row[16:]))
		f = mixChecksum(f, binary.LittleEndian.Uint32(row[20:]))
		g = mixChecksum(g, binary.LittleEndian.Uint32(row[24:]))
		h = mixChecksum(h, binary.LittleEndian.Uint32(row[28:]))
		mask = 0xFFFFFFFF // the field is in the first row only
	}
	// Two rows of zeros at the end spread the last words over the whole sum.
	for range 2 {
		a, b, c, d = mixChecksum(a, 0), mixChecksum(b, 0), mixChecksum(c, 0), mixChecksum(d, 0)
		e, f, g, h = mixChecksum(e, 0), mixChecksum(f, 0), mixChecksum(g, 0), mixChecksum(h, 0)
	}
	return a ^ b ^ c ^ d ^ e ^ f ^ g ^ h
}

// mixChecksum takes one word into a lane's sum. The shift lets the high bits
// of the sum reach the low ones, which the multiplication by itself never does.
func mixChecksum(sum, word uint32) uint32 {
	sum ^= word
	return sum*checksumPrime ^ sum>>17
}
