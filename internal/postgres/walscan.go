package postgres

import (
	"encoding/binary"
	"errors"
	"fmt"
	"hash/crc32"
	"time"
)

// WALEventKind tells the events of a WAL that a recovery can stop at.
type WALEventKind int

const (
	// WALCommit is the commit of a transaction, prepared ones included.
	WALCommit WALEventKind = iota + 1
	// WALAbort is the rollback of a transaction, prepared ones included.
	WALAbort
	// WALRestorePoint is what pg_create_restore_point leaves.
	WALRestorePoint
)

// String names the kind in words.
func (k WALEventKind) String() string {
	switch k {
	case WALCommit:
		return "commit"
	case WALAbort:
		return "abort"
	case WALRestorePoint:
		return "restore point"
	}
	return fmt.Sprintf("WALEventKind(%d)", int(k))
}

// WALEvent is a place in the WAL that a recovery target can mean.
type WALEvent struct {
	// LSN is the start of the record, and End the position after it, where a
	// record that follows would start.
	LSN, End LSN
	Kind     WALEventKind
	// XID is the transaction that ended; 0 for a restore point.
	XID uint32
	// Time is the server's clock, in microseconds and UTC, as it wrote the record.
	Time time.Time
	// Name is the restore point's; "" for a transaction.
	Name string
}

// ErrWALEnded is what [WALScanner.Scan] says when it is given a segment after
// the one in which the WAL ended.
var ErrWALEnded = errors.New("the WAL ended before it")

// WALScanner finds the events in a run of WAL segments, given to it in order.
// It reads every record, follows it across pages and segments, and checks its
// CRC-32C and its link to the record before it, so that its End is where
// PostgreSQL's recovery would stop. It keeps no more than one record in memory,
// and that only if it is an event's.
//
// A scanner may begin anywhere. A record whose start is in an earlier segment
// is passed over, and its event missed: who reads single segments backwards has
// to read each together with the one that follows.
//
// A WALScanner is for one goroutine.
type WALScanner struct {
	major       int
	segmentSize int64
	pageSize    int

	next     LSN // start of the segment that has to come next; meaningless before the first
	timeline Timeline
	begun    bool // a segment was given
	lost     bool // no start of a record was found yet
	ended    bool
	end      LSN
	last     LSN // start of the last record, 0 when there is none
	record   walRecordInProgress
}

// walRecordInProgress is a record of which some bytes may be yet to come.
type walRecordInProgress struct {
	active bool
	// headless is set when the record began before the scan, so that there is
	// nothing to check and nothing to decode.
	headless bool
	start    LSN
	rest     uint32 // bytes to come
	head     [walRecordHeaderSize]byte
	headLen  int
	header   walRecordHeader // valid once the head is whole
	crc      uint32          // of the body so far
	body     []byte          // only of a record of interest
}

// NewWALScanner returns a scanner for the WAL of a major (13 to 18) with
// segments of segmentSize bytes and pages of pageSize bytes (XLOG_BLCKSZ, 8192
// unless the server was built otherwise). [WALScanner.Scan] reports values that cannot be.
func NewWALScanner(major int, segmentSize int64, pageSize int) *WALScanner {
	return &WALScanner{major: major, segmentSize: segmentSize, pageSize: pageSize, lost: true}
}

// End is the position after the last valid record, padding included, or the
// end of the segment after a record that switches to a new one. Before any
// record was found it is the start of the first segment.
func (s *WALScanner) End() LSN { return s.end }

// LastStart is where the last valid record starts, 0 before one was found. A
// recovery_target_lsn behind it is never reached.
func (s *WALScanner) LastStart() LSN { return s.last }

// Ended is whether the last segment given holds the end of the WAL, which is
// then [WALScanner.End]. Otherwise the WAL goes on in the next segment, and a
// record may have begun that ends there.
func (s *WALScanner) Ended() bool { return s.ended }

// Scan reads the segment that starts at segmentStart and calls emit for each
// event that ends in it, in the order of the WAL. tli is the timeline in the
// segment's name; its pages may be of that timeline or of those before it.
// data is the whole segment; a shorter one is read as far as it goes, and the
// WAL ends there.
//
// The end of the WAL, be it zeros, remains of an older segment or damage, is
// no error: see [WALScanner.Ended]. Errors are a segment out of order,
// [ErrWALEnded], a record whose CRC is right and whose content is not, and what
// emit returns, as it is. After an error the scanner only gives errors.
func (s *WALScanner) Scan(segmentStart LSN, tli Timeline, data []byte, emit func(WALEvent) error) error {
	if err := s.admit(segmentStart, data); err != nil {
		return err
	}
	s.next = segmentStart + LSN(s.segmentSize)
	for at := 0; at+s.pageSize <= len(data) && !s.ended && s.end < s.next; at += s.pageSize {
		if err := s.scanPage(segmentStart+LSN(at), tli, data[at:at+s.pageSize], emit); err != nil {
			s.ended = true
			return err
		}
	}
	if int64(len(data)) < s.segmentSize && s.end < s.next {
		s.ended = true
	}
	return nil
}

// admit checks what Scan is given, and that it is the segment's turn.
func (s *WALScanner) admit(segmentStart LSN, data []byte) error {
	switch {
	case s.major < MinMajor || s.major > MaxMajor:
		return fmt.Errorf("WAL segment at %s: PostgreSQL %d is not supported (want %d to %d)", segmentStart, s.major, MinMajor, MaxMajor)
	case !ValidSegmentSize(s.segmentSize) || !validBlockSize(s.pageSize, 64<<10):
		return fmt.Errorf("WAL segment at %s: impossible sizes: segments of %d bytes, pages of %d", segmentStart, s.segmentSize, s.pageSize)
	case uint64(segmentStart)%uint64(s.segmentSize) != 0:
		return fmt.Errorf("WAL segment at %s: no segment of %d bytes starts there", segmentStart, s.segmentSize)
	case int64(len(data)) > s.segmentSize:
		return fmt.Errorf("WAL segment at %s: %d bytes (want at most %d)", segmentStart, len(data), s.segmentSize)
	case s.ended:
		return fmt.Errorf("WAL segment at %s: %w, at %s", segmentStart, ErrWALEnded, s.end)
	case s.begun && segmentStart != s.next:
		return fmt.Errorf("WAL segment at %s: out of order (want the one at %s)", segmentStart, s.next)
	}
	if !s.begun {
		s.begun, s.end = true, segmentStart
	}
	return nil
}

// scanPage reads the page at addr: first the rest of a record that an earlier
// page began, then one record after the other.
func (s *WALScanner) scanPage(addr LSN, tli Timeline, page []byte, emit func(WALEvent) error) error {
	headerSize, ok := s.pageHeader(addr, tli, page)
	if !ok || !s.takeUp(page) {
		s.ended = true
		return nil
	}
	for at := headerSize; at < len(page) && !s.ended && s.end < s.next; {
		if !s.record.active && !s.begin(addr+LSN(at), page[at:]) {
			s.ended = true
			return nil
		}
		n := int(min(s.record.rest, uint32(len(page)-at)))
		if !s.take(page[at : at+n]) {
			s.ended = true
			return nil
		}
		at += n
		if s.record.rest > 0 {
			return nil // the page is used up
		}
		// Records are aligned to eight bytes, and so is what follows a header.
		at = (at + 7) &^ 7
		if err := s.finish(addr+LSN(at), emit); err != nil {
			return err
		}
	}
	return nil
}

// pageHeader checks the header of the page at addr (XLogPageHeaderData of
// access/xlog_internal.h, long on the first page of a segment) and returns its
// size.
func (s *WALScanner) pageHeader(addr LSN, tli Timeline, page []byte) (size int, ok bool) {
	const shortSize = 24
	le := binary.LittleEndian
	info := le.Uint16(page[2:])
	timeline := Timeline(le.Uint32(page[4:]))
	h := WALHeader{Magic: le.Uint16(page)}
	first := uint64(addr)%uint64(s.segmentSize) == 0
	switch {
	case h.Major() != s.major,
		info&^walKnownInfoBits != 0,
		(info&walLongHeader != 0) != first,
		timeline < s.timeline, timeline > tli, timeline == 0,
		LSN(le.Uint64(page[8:])) != addr:
		return 0, false
	}
	s.timeline = timeline
	if !first {
		return shortSize, true
	}
	ok = int64(le.Uint32(page[32:])) == s.segmentSize && int(le.Uint32(page[36:])) == s.pageSize
	return WALHeaderSize, ok
}

// takeUp compares what a page says about its first bytes with the record that
// is in progress. It is false when they do not fit, which is where the WAL ends.
func (s *WALScanner) takeUp(page []byte) bool {
	info, rest := binary.LittleEndian.Uint16(page[2:]), binary.LittleEndian.Uint32(page[16:])
	continues := info&walContinuation != 0
	if info&walOverwrote != 0 {
		// A crash cut the record off. The server found that when it came up,
		// gave up what there was of it, and went on with this page.
		s.record.active = false
		return !continues
	}
	if s.record.active {
		return continues && rest == s.record.rest
	}
	if !continues {
		return true
	}
	// Nothing began before this page, unless nothing was read before it.
	if !s.lost || rest == 0 {
		return false
	}
	s.record = walRecordInProgress{active: true, headless: true, rest: rest, body: s.record.body[:0]}
	return true
}

// begin starts a record whose first bytes are at the head of b, at least eight
// of them. It is false when no record can start like that.
func (s *WALScanner) begin(start LSN, b []byte) bool {
	length := binary.LittleEndian.Uint32(b)
	if length < walRecordHeaderSize || length > walRecordMaxSize {
		return false
	}
	s.lost = false
	s.record = walRecordInProgress{active: true, start: start, rest: length, body: s.record.body[:0]}
	return true
}

// take takes the next bytes of the record in progress. It is false when its
// head turns out not to belong there.
func (s *WALScanner) take(b []byte) bool {
	r := &s.record
	r.rest -= uint32(len(b))
	if r.headless {
		return true
	}
	if r.headLen < len(r.head) {
		n := copy(r.head[r.headLen:], b)
		r.headLen += n
		b = b[n:]
		if r.headLen < len(r.head) {
			return true
		}
		r.header = parseWALRecordHeader(r.head[:])
		// Remains of an older use of the file have a link that is older too.
		if s.last != 0 && r.header.prev != s.last || r.header.prev >= r.start {
			return false
		}
	}
	r.crc = crc32.Update(r.crc, castagnoli(), b)
	if r.header.ofInterest() {
		r.body = append(r.body, b...)
	}
	return true
}

// finish ends the record in progress, all of which was taken; end is the
// position after it and its padding.
func (s *WALScanner) finish(end LSN, emit func(WALEvent) error) error {
	r := &s.record
	r.active = false
	if r.headless {
		s.lost = false
		return nil
	}
	if finishWALCRC(r.crc, r.head[:]) != r.header.crc {
		s.ended = true
		return nil
	}
	s.last, s.end = r.start, end
	if r.header.isSwitch() {
		s.end = s.next
		return nil
	}
	if !r.header.ofInterest() {
		return nil
	}
	event, err := r.header.walEvent(s.major, r.body)
	if err != nil {
		return fmt.Errorf("WAL record at %s: %w", r.start, err)
	}
	const keptBuffer = 1 << 20 // a giant record's memory is not kept for the small ones after it
	if cap(r.body) > keptBuffer {
		r.body = nil
	}
	event.LSN, event.End = r.start, end
	return emit(event)
}
