package postgres

import (
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
	"hash/crc32"
	"time"
)

// Layout of XLogRecord, the fixed head of every WAL record
// (access/xlogrecord.h): xl_tot_len 4 bytes, xl_xid 4, xl_prev 8, xl_info 1,
// xl_rmid 1, padding 2, xl_crc 4.
const (
	walRecordHeaderSize = 24
	walRecordCRCAt      = 20
	// walRecordMaxSize bounds xl_tot_len. PostgreSQL 16 and later stop at
	// 1020 MiB, earlier ones at the largest allocation, one byte less than this.
	walRecordMaxSize = 1 << 30
)

// Resource managers (access/rmgrlist.h) and their operations, which are the
// high bits of xl_info (catalog/pg_control.h, access/xact.h).
const (
	walManagerXLOG = 0
	walManagerXact = 1

	walOperationMask     = 0xF0
	walSwitch            = 0x40
	walRestorePoint      = 0x70
	walXactOperationMask = 0x70
	walXactHasInfo       = 0x80
	walXactCommit        = 0x00
	walXactAbort         = 0x20
	walXactCommitPrep    = 0x30
	walXactAbortPrep     = 0x40
)

// Bits of xl_xact_xinfo (access/xact.h) that say which parts follow.
const (
	xactHasDatabase     = 1 << 0
	xactHasSubxacts     = 1 << 1
	xactHasRelations    = 1 << 2
	xactHasInvalidation = 1 << 3
	xactHasTwophase     = 1 << 4
	xactHasDroppedStats = 1 << 8 // 15 and later
)

// Block identifiers with a meaning of their own (access/xlogrecord.h).
const (
	walMaxBlockID    = 32
	walBlockToplevel = 252 // 14 and later
	walBlockOrigin   = 253
	walBlockLongData = 254
	walBlockData     = 255
)

// Flags of a block reference (access/xlogrecord.h).
const (
	walBlockHasImage     = 0x10
	walBlockSameRelation = 0x80
	walImageHasHole      = 0x01
)

var errWALRecordShort = errors.New("it ends before its last part")

// walRecordHeader is the head of a record, decoded.
type walRecordHeader struct {
	length  uint32 // of the whole record, head included
	xid     uint32
	prev    LSN // where the record before it starts
	info    byte
	manager byte
	crc     uint32
}

// parseWALRecordHeader decodes a head; b must hold walRecordHeaderSize bytes.
func parseWALRecordHeader(b []byte) walRecordHeader {
	le := binary.LittleEndian
	return walRecordHeader{
		length: le.Uint32(b), xid: le.Uint32(b[4:]), prev: LSN(le.Uint64(b[8:])),
		info: b[16], manager: b[17], crc: le.Uint32(b[walRecordCRCAt:]),
	}
}

// ofInterest is whether the record ends a transaction or sets a restore point.
func (h walRecordHeader) ofInterest() bool {
	switch h.manager {
	case walManagerXLOG:
		return h.info&walOperationMask == walRestorePoint
	case walManagerXact:
		switch h.info & walXactOperationMask {
		case walXactCommit, walXactAbort, walXactCommitPrep, walXactAbortPrep:
			return true
		}
	}
	return false
}

// isSwitch is whether the record is the last of its segment, however much room
// there is.
func (h walRecordHeader) isSwitch() bool {
	return h.manager == walManagerXLOG && h.info&walOperationMask == walSwitch
}

// finishWALCRC completes the checksum of a record: what follows the head comes
// first, then the head up to the checksum itself.
func finishWALCRC(bodyCRC uint32, header []byte) uint32 {
	return crc32.Update(bodyCRC, castagnoli(), header[:walRecordCRCAt])
}

// castagnoli is the polynomial of PostgreSQL's CRC-32C. MakeTable keeps the
// table for itself and returns the same one each time.
func castagnoli() *crc32.Table { return crc32.MakeTable(crc32.Castagnoli) }

// walEvent decodes a record of interest: what kind of event it is, of which
// transaction and when. body is the record without its head.
func (h walRecordHeader) walEvent(major int, body []byte) (WALEvent, error) {
	main, err := walMainData(major, body)
	if err != nil {
		return WALEvent{}, err
	}
	if h.manager == walManagerXLOG {
		return restorePointEvent(main)
	}
	return h.xactEvent(major, main)
}

// restorePointEvent decodes xl_restore_point: the time, and the name in 64
// bytes that end with a zero.
func restorePointEvent(main []byte) (WALEvent, error) {
	const nameSize = 64
	c := walCursor{left: main}
	event := WALEvent{Kind: WALRestorePoint, Time: c.time()}
	name, _, _ := bytes.Cut(c.bytes(nameSize), []byte{0})
	event.Name = string(name)
	return event, c.err
}

// xactEvent decodes xl_xact_commit and xl_xact_abort. The transaction is the
// record's own, but for a prepared one, which another session may end.
func (h walRecordHeader) xactEvent(major int, main []byte) (WALEvent, error) {
	event := WALEvent{Kind: WALCommit, XID: h.xid}
	operation := h.info & walXactOperationMask
	if operation == walXactAbort || operation == walXactAbortPrep {
		event.Kind = WALAbort
	}
	c := walCursor{left: main}
	event.Time = c.time()
	if operation == walXactCommitPrep || operation == walXactAbortPrep {
		event.XID = c.preparedXID(major, event.Kind, h.info)
	}
	return event, c.err
}

// walCursor reads the parts of a record's main data in their order. What would
// go past the end sets err, and everything after it reads as zero.
type walCursor struct {
	left []byte
	err  error
}

// bytes takes the next n bytes; they are nil past the end.
func (c *walCursor) bytes(n int) []byte {
	if c.err != nil || n > len(c.left) {
		c.err = errWALRecordShort
		return nil
	}
	b := c.left[:n]
	c.left = c.left[n:]
	return b
}

func (c *walCursor) uint32() uint32 {
	b := c.bytes(4)
	if b == nil {
		return 0
	}
	return binary.LittleEndian.Uint32(b)
}

// time reads a TimestampTz: microseconds since 2000-01-01 UTC.
func (c *walCursor) time() time.Time {
	b := c.bytes(8)
	if b == nil {
		return time.Time{}
	}
	const epoch = 946_684_800 // of PostgreSQL, in seconds since 1970
	micros := int64(binary.LittleEndian.Uint64(b))
	// Split, because the sum in microseconds would overflow for hostile bytes.
	return time.Unix(epoch+micros/1e6, micros%1e6*1e3).UTC()
}

// skipList skips a count of 32 bits and as many items of size bytes.
func (c *walCursor) skipList(size int) {
	n := c.uint32()
	if uint64(n)*uint64(size) > uint64(len(c.left)) {
		c.err = errWALRecordShort
		return
	}
	c.bytes(int(n) * size)
}

// preparedXID reads on after the time to the transaction that was prepared
// (xl_xact_twophase), past the parts that come before it if they are there.
func (c *walCursor) preparedXID(major int, kind WALEventKind, info byte) uint32 {
	const (
		databaseSize     = 8  // xl_xact_dbinfo
		xidSize          = 4  // TransactionId
		relationSize     = 12 // RelFileNode, RelFileLocator
		invalidationSize = 16 // SharedInvalidationMessage
	)
	var parts uint32
	if info&walXactHasInfo != 0 {
		parts = c.uint32()
	}
	if parts&xactHasTwophase == 0 {
		if c.err == nil {
			c.err = errors.New("it ends a prepared transaction and does not say which")
		}
		return 0
	}
	if parts&xactHasDatabase != 0 {
		c.bytes(databaseSize)
	}
	if parts&xactHasSubxacts != 0 {
		c.skipList(xidSize)
	}
	if parts&xactHasRelations != 0 {
		c.skipList(relationSize)
	}
	if major >= 15 && parts&xactHasDroppedStats != 0 {
		c.skipList(droppedStatSize(major))
	}
	if kind == WALCommit && parts&xactHasInvalidation != 0 {
		c.skipList(invalidationSize)
	}
	return c.uint32()
}

// droppedStatSize is the size of xl_xact_stats_item, whose object identifier
// grew from 32 bits to 64 with 18.
func droppedStatSize(major int) int {
	if major >= 18 {
		return 16
	}
	return 12
}

// walMainData returns the main data of a record: its last part. What precedes
// it is a list of headers, of block references and others, and then the data of
// the blocks. body is the record without its head.
func walMainData(major int, body []byte) ([]byte, error) {
	c := walCursor{left: body}
	var blockData, mainLength uint64
	seenMain := false
	for !seenMain && c.err == nil && uint64(len(c.left)) > blockData {
		switch id := c.bytes(1)[0]; {
		case id == walBlockData:
			if b := c.bytes(1); b != nil {
				mainLength = uint64(b[0])
			}
			seenMain = true
		case id == walBlockLongData:
			mainLength = uint64(c.uint32())
			seenMain = true
		case id == walBlockOrigin:
			c.bytes(2)
		case id == walBlockToplevel:
			c.bytes(4)
		case id <= walMaxBlockID:
			blockData += c.blockReference(major)
		default:
			return nil, fmt.Errorf("it has a part of the unknown kind %d", id)
		}
	}
	if c.err != nil {
		return nil, c.err
	}
	if uint64(len(c.left)) != blockData+mainLength {
		return nil, fmt.Errorf("its parts add up to %d bytes, and it has %d", blockData+mainLength, len(c.left))
	}
	return c.left[blockData:], nil
}

// blockReference skips XLogRecordBlockHeader, after its identifier, and returns
// how many bytes of data and of page image the block has later in the record.
func (c *walCursor) blockReference(major int) uint64 {
	const relationSize, blockNumberSize = 12, 4
	head := c.bytes(3)
	if head == nil {
		return 0
	}
	flags, data := head[0], uint64(binary.LittleEndian.Uint16(head[1:]))
	if flags&walBlockHasImage != 0 {
		image := c.bytes(5) // length 2, offset of the hole 2, flags 1
		if image == nil {
			return 0
		}
		data += uint64(binary.LittleEndian.Uint16(image))
		if image[4]&walImageHasHole != 0 && image[4]&compressedImage(major) != 0 {
			c.bytes(2) // length of the hole, which only a compressed image has to say
		}
	}
	if flags&walBlockSameRelation == 0 {
		c.bytes(relationSize)
	}
	c.bytes(blockNumberSize)
	return data
}

// compressedImage is the bits of bimg_info of which one is set when a page image
// is compressed: one until 14, one for each method since.
func compressedImage(major int) byte {
	if major >= 15 {
		return 0x04 | 0x08 | 0x10
	}
	return 0x02
}
