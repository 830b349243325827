package postgres

import (
	"bytes"
	"encoding/binary"
	"errors"
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
		return h.endsTransaction()
	}
	return false
}

// endsTransaction is whether a record of transactions is a commit or an abort.
func (h walRecordHeader) endsTransaction() bool {
	switch h.info & walXactOperationMask {
	case walXactCommit, walXactAbort, walXactCommitPrep, walXactAbortPrep:
		return true
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
	event := WALEvent{Kind: h.xactKind(), XID: h.xid}
	c := walCursor{left: main}
	event.Time = c.time()
	switch h.info & walXactOperationMask {
	case walXactCommitPrep, walXactAbortPrep:
		event.XID = c.xactParts(major, event.Kind, h.info).prepared
		if event.XID == 0 && c.err == nil {
			c.err = errors.New("it ends a prepared transaction and does not say which")
		}
	}
	return event, c.err
}

// xactKind tells the two ends of a transaction apart.
func (h walRecordHeader) xactKind() WALEventKind {
	switch h.info & walXactOperationMask {
	case walXactAbort, walXactAbortPrep:
		return WALAbort
	}
	return WALCommit
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

// list takes a count of 32 bits and as many items of size bytes, which it returns.
func (c *walCursor) list(size int) []byte {
	n := c.uint32()
	if uint64(n)*uint64(size) > uint64(len(c.left)) {
		c.err = errWALRecordShort
		return nil
	}
	return c.bytes(int(n) * size)
}

// walXactParts is what the end of a transaction tells besides its time, as far
// as it is of use here.
type walXactParts struct {
	// relations are the files that it removes, RelFileLocator after RelFileLocator.
	relations []byte
	// prepared is the transaction that was prepared, 0 if none was.
	prepared uint32
}

// xactParts reads on after the time, through xl_xact_parsed_commit and
// xl_xact_parsed_abort (access/rmgrdesc/xactdesc.c).
func (c *walCursor) xactParts(major int, kind WALEventKind, info byte) walXactParts {
	const (
		databaseSize     = 8  // xl_xact_dbinfo
		xidSize          = 4  // TransactionId
		invalidationSize = 16 // SharedInvalidationMessage
	)
	var bits uint32
	var parts walXactParts
	if info&walXactHasInfo != 0 {
		bits = c.uint32()
	}
	if bits&xactHasDatabase != 0 {
		c.bytes(databaseSize)
	}
	if bits&xactHasSubxacts != 0 {
		c.list(xidSize)
	}
	if bits&xactHasRelations != 0 {
		parts.relations = c.list(walRelationSize)
	}
	if major >= 15 && bits&xactHasDroppedStats != 0 {
		c.list(droppedStatSize(major))
	}
	if kind == WALCommit && bits&xactHasInvalidation != 0 {
		c.list(invalidationSize)
	}
	if bits&xactHasTwophase != 0 {
		parts.prepared = c.uint32()
	}
	return parts
}

// droppedStatSize is the size of xl_xact_stats_item, whose object identifier
// grew from 32 bits to 64 with 18.
func droppedStatSize(major int) int {
	if major >= 18 {
		return 16
	}
	return 12
}
