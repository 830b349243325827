package postgres

import (
	"encoding/binary"
	"fmt"
)

// WALHeaderSize is the length of the long page header at the start of a WAL
// segment: XLogLongPageHeaderData of access/xlog_internal.h.
const WALHeaderSize = 40

// walPageHeaderSize is the length of the header of every other page,
// XLogPageHeaderData.
const walPageHeaderSize = 24

// Bits of WALHeader.Info (XLP_* of access/xlog_internal.h).
const (
	walContinuation  = 0x0001 // the page begins inside a record
	walLongHeader    = 0x0002 // the header carries the cluster's identity
	walRemovable     = 0x0004 // full-page images may be left out
	walOverwrote     = 0x0008 // a broken continuation was given up here
	walKnownInfoBits = walContinuation | walLongHeader | walRemovable | walOverwrote
)

// WALHeader is the long page header with which every WAL segment begins.
type WALHeader struct {
	// Magic is the version of the WAL format, one value for each major.
	Magic uint16
	// Info holds flag bits.
	Info uint16
	// Timeline is that of the page; at a promotion it may be older than
	// the one in the file's name.
	Timeline Timeline
	// PageAddr is the position of the page's first byte.
	PageAddr LSN
	// SystemID is the identifier of the cluster that wrote the page.
	SystemID uint64
	// SegmentSize is the cluster's WAL segment size in bytes.
	SegmentSize int64
	// BlockSize is the cluster's WAL page size in bytes.
	BlockSize int
}

// ParseWALHeader reads the header from the first bytes of a segment, at least
// WALHeaderSize of them. It refuses a page without the long header, a format of
// an unknown PostgreSQL, and values that no PostgreSQL writes.
func ParseWALHeader(page []byte) (WALHeader, error) {
	if len(page) < WALHeaderSize {
		return WALHeader{}, fmt.Errorf("WAL page header: %d bytes (want at least %d)", len(page), WALHeaderSize)
	}
	le := binary.LittleEndian
	h := WALHeader{
		Magic:    le.Uint16(page[0:]),
		Info:     le.Uint16(page[2:]),
		Timeline: Timeline(le.Uint32(page[4:])),
		PageAddr: LSN(le.Uint64(page[8:])),
		// Bytes 16 to 19 are the rest of a continued record, 20 to 23 padding.
		SystemID:    le.Uint64(page[24:]),
		SegmentSize: int64(le.Uint32(page[32:])),
		BlockSize:   int(le.Uint32(page[36:])),
	}
	if err := h.check(); err != nil {
		return WALHeader{}, err
	}
	return h, nil
}

func (h WALHeader) check() error {
	if h.Major() == 0 {
		return fmt.Errorf("WAL page header: magic %04X belongs to no known PostgreSQL (known: %s)", h.Magic, knownMagics())
	}
	if h.Info&^walKnownInfoBits != 0 {
		return fmt.Errorf("WAL page header: unknown flags %04X", h.Info)
	}
	if h.Info&walLongHeader == 0 {
		return fmt.Errorf("WAL page header at %s: not the first page of a segment (flags %04X)", h.PageAddr, h.Info)
	}
	if h.Timeline == 0 {
		return fmt.Errorf("WAL page header at %s: timeline 0", h.PageAddr)
	}
	if !ValidSegmentSize(h.SegmentSize) {
		return fmt.Errorf("WAL page header at %s: segment size %d (want a power of two from 1 MiB to 1 GiB)", h.PageAddr, h.SegmentSize)
	}
	if !validBlockSize(h.BlockSize, 64<<10) {
		return fmt.Errorf("WAL page header at %s: page size %d (want a power of two from 1 to 64 KiB)", h.PageAddr, h.BlockSize)
	}
	if uint64(h.PageAddr)%uint64(h.SegmentSize) != 0 {
		return fmt.Errorf("WAL page header: address %s is not the start of a segment of %d bytes", h.PageAddr, h.SegmentSize)
	}
	return nil
}

// validBlockSize says whether n is a block size that configure allows: a power
// of two from 1 KiB to most.
func validBlockSize(n, most int) bool { return n >= 1<<10 && n <= most && n&(n-1) == 0 }
