package postgres

import (
	"encoding/binary"
	"errors"
	"fmt"
	"hash/crc32"
)

// ErrWALEnded is what [WALScanner.Scan] and [WALSummarizer.Scan] say when they
// are given a segment after the one in which the WAL ended.
var ErrWALEnded = errors.New("the WAL ended before it")

// walReader walks the records of a run of WAL pages, given to it in order. It
// follows them across pages and segments, and checks their CRC-32C and their
// link to the record before. A record whose start is before the first page is
// passed over. In memory is no more than what keep asks for of one record.
type walReader struct {
	major       int
	segmentSize int64
	pageSize    int
	// keep says how many of the first bytes of a record's body are wanted.
	keep func(walRecordHeader) int

	next     LSN // the page that has to come next; meaningless before the first
	stop     LSN // end of the segment that is read
	timeline Timeline
	begun    bool // a page was given
	lost     bool // no start of a record was found yet
	ended    bool
	end      LSN
	first    walRecord // the first record that starts here, without a body
	last     LSN       // start of the last record, 0 when there is none
	switched LSN       // end of the record in this segment that switches to the next, 0 if there is none
	record   walRecordInProgress
}

// walRecord is a record that was read whole, and is in order.
type walRecord struct {
	// start is where it starts, end the position after it and its padding.
	start, end LSN
	header     walRecordHeader
	// body is what follows the head: all of it, or its first bytes, as many as
	// were asked for. It is valid until the next record is read.
	body []byte
}

// walRecordInProgress is a record of which some bytes may be yet to come.
type walRecordInProgress struct {
	active bool
	// headless is set when the record began before the first page, so that there
	// is nothing to check and nothing to decode.
	headless bool
	start    LSN
	rest     uint32 // bytes to come
	head     [walRecordHeaderSize]byte
	headLen  int
	header   walRecordHeader // valid once the head is whole
	wanted   int             // bytes of the body, valid with the header
	crc      uint32          // of the body so far
	body     []byte          // its first bytes, if it came in pieces
	piece    []byte          // the body, if it came in one
}

func newWALReader(major int, segmentSize int64, pageSize int, keep func(walRecordHeader) int) walReader {
	return walReader{major: major, segmentSize: segmentSize, pageSize: pageSize, keep: keep, lost: true}
}

// readSegment reads a segment, all of it or as far as it goes.
func (r *walReader) readSegment(start LSN, tli Timeline, data []byte, each func(walRecord) error) error {
	if err := r.checkSizes(start); err != nil {
		return err
	}
	if uint64(start)%uint64(r.segmentSize) != 0 {
		return fmt.Errorf("WAL segment at %s: no segment of %d bytes starts there", start, r.segmentSize)
	}
	return r.read(start, tli, data, each)
}

// checkSizes refuses a major and sizes that cannot be.
func (r *walReader) checkSizes(at LSN) error {
	switch {
	case r.major < MinMajor || r.major > MaxMajor:
		return fmt.Errorf("WAL segment at %s: PostgreSQL %d is not supported (want %d to %d)", at, r.major, MinMajor, MaxMajor)
	case !ValidSegmentSize(r.segmentSize) || !validBlockSize(r.pageSize, 64<<10):
		return fmt.Errorf("WAL segment at %s: impossible sizes: segments of %d bytes, pages of %d", at, r.segmentSize, r.pageSize)
	}
	return nil
}

// read reads the pages from at to the end of at's segment, and calls each for
// every record that ends there. If there are fewer pages, the WAL ends with them.
func (r *walReader) read(at LSN, tli Timeline, data []byte, each func(walRecord) error) error {
	if err := r.admit(at, data); err != nil {
		return err
	}
	for len(data) >= r.pageSize && !r.ended && r.end < r.stop {
		if err := r.readPage(at, tli, data[:r.pageSize], each); err != nil {
			r.ended = true
			return err
		}
		at, data = at+LSN(r.pageSize), data[r.pageSize:]
	}
	if at < r.stop && r.end < r.stop {
		r.ended = true
	}
	return nil
}

// admit checks that it is the turn of the pages at at, and that they are not too many.
func (r *walReader) admit(at LSN, data []byte) error {
	stop := at - at%LSN(r.segmentSize) + LSN(r.segmentSize)
	switch {
	case uint64(len(data)) > uint64(stop-at):
		return fmt.Errorf("WAL segment at %s: %d bytes (want at most %d)", at, len(data), stop-at)
	case r.ended:
		return fmt.Errorf("WAL segment at %s: %w, at %s", at, ErrWALEnded, r.end)
	case r.begun && at != r.next:
		return fmt.Errorf("WAL segment at %s: out of order (want the one at %s)", at, r.next)
	}
	if !r.begun {
		r.begun, r.end = true, at
	}
	r.next, r.stop, r.switched = stop, stop, 0
	return nil
}

// readPage reads the page at addr: first the rest of a record that an earlier
// page began, then one record after the other.
func (r *walReader) readPage(addr LSN, tli Timeline, page []byte, each func(walRecord) error) error {
	at, ok := r.pageHeader(addr, tli, page)
	if !ok || !r.takeUp(page) {
		r.ended = true
		return nil
	}
	for at < len(page) && !r.ended && r.end < r.stop {
		if !r.record.active && !r.begin(addr+LSN(at), page[at:]) {
			r.ended = true
			return nil
		}
		n := int(min(r.record.rest, uint32(len(page)-at)))
		if !r.take(page[at : at+n]) {
			r.ended = true
			return nil
		}
		at += n
		if r.record.rest > 0 {
			return nil // the page is used up
		}
		// Records are aligned to eight bytes, and so is what follows a header.
		at = (at + 7) &^ 7
		if err := r.finish(addr+LSN(at), each); err != nil {
			return err
		}
	}
	return nil
}

// pageHeader checks the header of the page at addr (XLogPageHeaderData of
// access/xlog_internal.h, long on the first page of a segment) and returns its
// size.
func (r *walReader) pageHeader(addr LSN, tli Timeline, page []byte) (size int, ok bool) {
	le := binary.LittleEndian
	info := le.Uint16(page[2:])
	timeline := Timeline(le.Uint32(page[4:]))
	h := WALHeader{Magic: le.Uint16(page)}
	first := uint64(addr)%uint64(r.segmentSize) == 0
	switch {
	case h.Major() != r.major,
		info&^walKnownInfoBits != 0,
		(info&walLongHeader != 0) != first,
		timeline < r.timeline, timeline > tli, timeline == 0,
		LSN(le.Uint64(page[8:])) != addr:
		return 0, false
	}
	r.timeline = timeline
	if !first {
		return walPageHeaderSize, true
	}
	ok = int64(le.Uint32(page[32:])) == r.segmentSize && int(le.Uint32(page[36:])) == r.pageSize
	return WALHeaderSize, ok
}

// takeUp compares what a page says about its first bytes with the record that
// is in progress. It is false when they do not fit, which is where the WAL ends.
func (r *walReader) takeUp(page []byte) bool {
	info, rest := binary.LittleEndian.Uint16(page[2:]), binary.LittleEndian.Uint32(page[16:])
	continues := info&walContinuation != 0
	if info&walOverwrote != 0 {
		// A crash cut the record off. The server found that when it came up,
		// gave up what there was of it, and went on with this page.
		r.record.active = false
		return !continues
	}
	if r.record.active {
		return continues && rest == r.record.rest
	}
	if !continues {
		return true
	}
	// Nothing began before this page, unless nothing was read before it.
	if !r.lost || rest == 0 {
		return false
	}
	r.record = walRecordInProgress{active: true, headless: true, rest: rest, body: r.record.body[:0]}
	return true
}

// begin starts a record whose first bytes are at the head of b, at least eight
// of them. It is false when no record can start like that.
func (r *walReader) begin(start LSN, b []byte) bool {
	length := binary.LittleEndian.Uint32(b)
	if length < walRecordHeaderSize || length > walRecordMaxSize {
		return false
	}
	r.lost = false
	p := &r.record // not made anew as a whole, which would cost more than the rest
	p.active, p.headless, p.start, p.rest = true, false, start, length
	p.headLen, p.crc, p.body, p.piece = 0, 0, p.body[:0], nil
	return true
}

// take takes the next bytes of the record in progress. It is false when its
// head turns out not to belong there.
func (r *walReader) take(b []byte) bool {
	p := &r.record
	p.rest -= uint32(len(b))
	if p.headless {
		return true
	}
	if p.headLen == 0 && len(b) >= len(p.head) {
		p.head, p.headLen = [walRecordHeaderSize]byte(b), walRecordHeaderSize
		b = b[walRecordHeaderSize:]
		if !r.recognise() {
			return false
		}
	} else if p.headLen < len(p.head) {
		n := copy(p.head[p.headLen:], b)
		p.headLen += n
		b = b[n:]
		if p.headLen < len(p.head) {
			return true
		}
		if !r.recognise() {
			return false
		}
	}
	p.crc = crc32.Update(p.crc, castagnoli(), b)
	if len(b) == int(p.header.length)-walRecordHeaderSize {
		p.piece = b
	} else if missing := p.wanted - len(p.body); missing > 0 {
		p.body = append(p.body, b[:min(missing, len(b))]...)
	}
	return true
}

// recognise decodes the head of the record in progress, and says whether it
// belongs behind the last one. Remains of an older use of the file have a link that
// is older too.
func (r *walReader) recognise() bool {
	p := &r.record
	p.header = parseWALRecordHeader(p.head[:])
	p.wanted = r.keep(p.header)
	if r.first.start == 0 {
		r.first = walRecord{start: p.start, header: p.header}
	}
	return (r.last == 0 || p.header.prev == r.last) && p.header.prev < p.start
}

// finish ends the record in progress, all of which was taken; end is the
// position after it and its padding.
func (r *walReader) finish(end LSN, each func(walRecord) error) error {
	p := &r.record
	p.active = false
	if p.headless {
		r.lost = false
		return nil
	}
	if finishWALCRC(p.crc, p.head[:]) != p.header.crc {
		r.ended = true
		return nil
	}
	r.last, r.end = p.start, end
	if p.header.isSwitch() {
		r.switched, r.end = end, r.stop
	}
	record := walRecord{start: p.start, end: r.end, header: p.header, body: p.piece}
	if record.body == nil {
		record.body = p.body
	}
	const keptBuffer = 1 << 20 // a giant record's memory is not kept for the small ones after it
	if cap(p.body) > keptBuffer {
		p.body = nil
	}
	return each(record)
}
