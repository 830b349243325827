package postgres

import (
	"bytes"
	"encoding/binary"
	"fmt"
)

// Positions in PageHeaderData, the header of every page of a relation
// (storage/bufpage.h): pd_lsn 8 bytes, pd_checksum 2, pd_flags 2, pd_lower 2,
// pd_upper 2, pd_special 2, pd_pagesize_version 2, pd_prune_xid 4. pgbak knows
// little-endian clusters only, as all that PostgreSQL's binaries are built for.
const (
	pageChecksumAt = 8
	pageUpperAt    = 14
	pageHeaderSize = 24
)

// PageStatus is what the bytes of a page say about themselves.
type PageStatus int

const (
	// PageInvalid is a page that PostgreSQL would not accept: damaged, or read
	// while the server was writing it.
	PageInvalid PageStatus = iota
	// PageValid is a page whose checksum is right.
	PageValid
	// PageNew is a page of zeros: the relation was extended, and the page not
	// yet written. It has no checksum.
	PageNew
)

// String names the status in one word.
func (s PageStatus) String() string {
	switch s {
	case PageInvalid:
		return "invalid"
	case PageValid:
		return "valid"
	case PageNew:
		return "new"
	}
	return fmt.Sprintf("PageStatus(%d)", int(s))
}

// CheckPage verifies a page of a cluster that has data checksums, by the rules
// of PostgreSQL's PageIsVerified: a page without an upper bound (pd_upper is
// 0) is new if it is all zero and damaged if it is not; any other must carry
// its checksum. block is as in [PageChecksum], and a page of a length that has
// no checksum is invalid.
//
// A page that is invalid may only have been torn by a write under way: read it
// again, and compare [PageLSN] with the start of the backup, before you call
// it damaged.
func CheckPage(page []byte, block uint32) PageStatus {
	if len(page) < pageHeaderSize {
		return PageInvalid
	}
	if binary.LittleEndian.Uint16(page[pageUpperAt:]) == 0 {
		if IsZero(page) {
			return PageNew
		}
		return PageInvalid
	}
	// A page of an impossible length sums to 0, and 0 in a page means that it
	// has no checksum: the two must not meet.
	sum := PageChecksum(page, block)
	if sum == 0 || sum != binary.LittleEndian.Uint16(page[pageChecksumAt:]) {
		return PageInvalid
	}
	return PageValid
}

// PageLSN returns pd_lsn, the end of the WAL record that last changed the
// page: two words of 32 bits, the high one first. It is 0 for what is too
// short to be a page, and for a page that was never written through the WAL.
func PageLSN(page []byte) LSN {
	if len(page) < pageHeaderSize {
		return 0
	}
	high := binary.LittleEndian.Uint32(page)
	low := binary.LittleEndian.Uint32(page[4:])
	return LSN(uint64(high)<<32 | uint64(low))
}

// IsZero reports whether every byte of p is zero; of no bytes it is true.
func IsZero(p []byte) bool {
	// If the first byte is zero and every byte equals the one after it, all
	// are zero. This hands the work to the runtime's vectorised comparison.
	return len(p) == 0 || p[0] == 0 && bytes.Equal(p[:len(p)-1], p[1:])
}
