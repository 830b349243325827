package e2e

import (
	"bytes"
	"encoding/binary"
	"fmt"

	"github.com/pgbak/pgbak/internal/postgres"
)

// Two clusters that were recovered to the same position from different copies
// need not be equal in every byte: some of what a server writes into a page is
// not in WAL. What that is, PostgreSQL says itself, in the functions by which
// wal_consistency_checking compares a replayed page with the original: rm_mask
// of each resource manager (access/*/..xlog.c) and access/common/bufmask.c.
// The masks here cover at most the same, and less where less is enough.

var le = binary.LittleEndian

// Bits of the page header and line pointers (storage/bufpage.h, itemid.h).
const (
	pageHeader    = 24
	pageFreeLines = 1
	pageFull      = 2
	pageVisible   = 4

	lpUnused = 0
	lpNormal = 1
)

// Bits of t_infomask (access/htup_details.h).
const (
	heapComboCID    = 0x0020
	heapXminHints   = 0x0300 // both together: frozen, which is more than a hint
	heapXmaxHints   = 0x0c00
	heapSpeculative = 0xfffe // offset number in t_ctid
)

// pageKind is what wrote a page, as its special space tells.
type pageKind string

const (
	heapPage     pageKind = "heap"
	btreePage    pageKind = "btree"
	hashPage     pageKind = "hash"
	gistPage     pageKind = "gist"
	spgistPage   pageKind = "spgist"
	ginPage      pageKind = "gin"
	brinPage     pageKind = "brin"
	bloomPage    pageKind = "bloom"
	sequencePage pageKind = "sequence"
	strangePage  pageKind = "unknown"
)

// kindOf goes by the size of the special space and the mark at its end, as
// pg_filedump does.
func kindOf(page []byte) pageKind {
	special := int(le.Uint16(page[16:]))
	if special == len(page) {
		return heapPage
	}
	mark := le.Uint16(page[len(page)-2:])
	switch {
	case len(page)-special == 16 && mark == 0xff80:
		return hashPage
	case len(page)-special == 16 && mark == 0xff81:
		return gistPage
	case len(page)-special == 16 && mark <= 0xff7f:
		return btreePage
	case len(page)-special != 8:
		return strangePage
	case mark == 0xff82:
		return spgistPage
	case mark == 0xff83:
		return bloomPage
	case mark >= 0xf091 && mark <= 0xf093:
		return brinPage
	case le.Uint32(page[special:]) == 0x1717:
		return sequencePage
	}
	return ginPage
}

// samePage compares two pages but for what WAL does not bring. kind is that of
// a, and why says what differs.
func samePage(a, b []byte) (kind pageKind, why string) {
	if blankPage(a) || blankPage(b) {
		if blankPage(a) && blankPage(b) {
			return heapPage, ""
		}
		if unloggedSequence(a) || unloggedSequence(b) {
			return sequencePage, ""
		}
		return heapPage, "one of the pages was never written"
	}
	kind = kindOf(a)
	if other := kindOf(b); kind != other {
		return kind, "the other is a page of " + string(other)
	}
	if kind == strangePage {
		return kind, "no known page"
	}
	x, y := bytes.Clone(a), bytes.Clone(b)
	maskPage(x, kind)
	maskPage(y, kind)
	for i := range x {
		if x[i] != y[i] {
			return kind, fmt.Sprintf("byte %d is %02x and %02x; page LSN %s and %s; %d and %d line pointers", i, a[i], b[i],
				postgres.PageLSN(a), postgres.PageLSN(b), lines(a), lines(b))
		}
	}
	return kind, ""
}

// blankPage tells that a page was added to its relation and never filled: all
// zero, or initialised without WAL, which gives it no LSN.
func blankPage(page []byte) bool {
	return postgres.IsZero(page) || postgres.PageLSN(page) == 0 && lines(page) == 0 && le.Uint16(page[16:]) == uint16(len(page))
}

// unloggedSequence tells that a page, of which the other copy is blank, is that of
// a sequence: recovery of PostgreSQL 15 and later makes an unlogged one from an init fork that
// seq_redo has not written to disk yet, and leaves it empty. No other
// relation is forgiven that.
func unloggedSequence(page []byte) bool {
	return !blankPage(page) && kindOf(page) == sequencePage
}

func lines(page []byte) int { return max(0, int(le.Uint16(page[12:]))-pageHeader) / 4 }

// maskPage makes everything zero that need not be equal.
func maskPage(page []byte, kind pageKind) {
	maskHeader(page)
	special := page[le.Uint16(page[16:]):]
	switch kind {
	case heapPage:
		maskEmpty(page)
		for n := range lines(page) {
			maskTuple(page, n)
		}
	case btreePage:
		maskEmpty(page)
		flags := le.Uint16(special[12:])
		if flags&1 != 0 { // leaf
			maskDead(page)
		}
		le.PutUint16(special[12:], flags&^(1<<5|1<<6)) // split end, has garbage
		le.PutUint16(special[14:], 0)                  // vacuum cycle
	case hashPage:
		maskHole(page)
		flags := le.Uint16(special[12:])
		switch {
		case flags&0xf == 0: // unused
			clear(page[pageHeader:])
			return
		case flags&3 != 0: // bucket, overflow
			maskDead(page)
		}
		le.PutUint16(special[12:], flags&^(1<<7)) // has dead tuples
	case gistPage:
		maskEmpty(page)
		clear(special[:8]) // NSN, an LSN
		flags := le.Uint16(special[12:])
		if flags&1 != 0 { // leaf
			maskDead(page)
		}
		le.PutUint16(special[12:], flags&^(1<<3|1<<4)) // follow right, has garbage
	case spgistPage:
		if le.Uint16(special)&1 != 0 { // the meta page caches free pages without WAL
			clear(page)
			return
		}
		maskHole(page)
	case ginPage:
		if le.Uint16(special[6:])&(1<<2) != 0 { // deleted
			clear(page)
			return
		}
		maskHole(page)
	case brinPage:
		if le.Uint16(special[6:]) != 0xf092 { // not a map
			maskHole(page)
		}
		le.PutUint16(special[4:], le.Uint16(special[4:])&^1) // evacuating
	case bloomPage:
		maskHole(page)
	case sequencePage:
		// WAL is ahead of the page by up to 32 values, so that the page after a
		// checkpoint is behind what replay makes of the same. SQL judges it.
		clear(page[pageHeader:])
		clear(page[12:16])
	}
}

// maskHeader masks the LSN, the checksum and the hints of the header.
func maskHeader(page []byte) {
	clear(page[:10])
	le.PutUint16(page[10:], le.Uint16(page[10:])&^(pageFreeLines|pageFull|pageVisible))
	clear(page[20:24]) // pd_prune_xid
}

// maskHole masks what lies between the line pointers and the tuples, where the
// header tells of both.
func maskHole(page []byte) {
	lower, upper := int(le.Uint16(page[12:])), int(le.Uint16(page[14:]))
	if lower > pageHeader && lower <= upper && upper <= len(page) {
		clear(page[lower:upper])
	}
}

// maskEmpty is maskHole where no page has anything there that its header does not
// tell of: one without any tuple has a hole too, in which a copy may show what was there
// before the last tuple went, while an image of the page in WAL leaves it out.
func maskEmpty(page []byte) {
	if int(le.Uint16(page[12:])) == pageHeader && le.Uint16(page[14:]) == le.Uint16(page[16:]) {
		clear(page[pageHeader:le.Uint16(page[14:])])
		return
	}
	maskHole(page)
}

// maskDead forgets which tuples a reader of the index has found to be dead.
func maskDead(page []byte) {
	for n := range lines(page) {
		item := page[pageHeader+4*n:]
		le.PutUint32(item, le.Uint32(item)&^(3<<15))
	}
}

// maskTuple masks hints of one tuple of a heap page, and the padding behind it.
func maskTuple(page []byte, n int) {
	item := le.Uint32(page[pageHeader+4*n:])
	offset, state, length := int(item&0x7fff), item>>15&3, int(item>>17)
	if state != lpNormal || length < 23 || offset+length > len(page) {
		return
	}
	tuple := page[offset:]
	mask := le.Uint16(tuple[20:])
	if mask&heapXminHints != heapXminHints {
		mask &^= heapXminHints
	}
	le.PutUint16(tuple[20:], mask&^(heapXmaxHints|heapComboCID))
	clear(tuple[8:12]) // the command that made it
	if le.Uint16(tuple[16:]) == heapSpeculative {
		clear(tuple[12:18])
	}
	clear(page[offset+length : min(len(page), (offset+length+7)&^7)])
}
