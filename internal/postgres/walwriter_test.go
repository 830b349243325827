package postgres

import (
	"encoding/binary"
	"hash/crc32"
	"slices"
	"testing"
)

// walWriter writes WAL as PostgreSQL 17 would, record after record, for cases
// that a server does not produce when asked.
type walWriter struct {
	start LSN
	tli   Timeline
	data  []byte
	last  LSN // start of the last record
	size  int // of a page
}

// Sizes of what walWriter and realRecords deal with.
const (
	testSegment = 1 << 20
	testPage    = 8 << 10
)

// newWALWriter returns a writer that begins with the segment at start.
func newWALWriter(start LSN) *walWriter { return &walWriter{start: start, tli: 1, size: testPage} }

func (w *walWriter) pos() LSN { return w.start + LSN(len(w.data)) }

// page begins a new page, that has rest bytes of a record to come.
func (w *walWriter) page(info uint16, rest uint32) {
	le := binary.LittleEndian
	header := make([]byte, 24)
	if w.pos()%testSegment == 0 {
		header = make([]byte, WALHeaderSize)
		info |= walLongHeader
		le.PutUint32(header[32:], testSegment)
		le.PutUint32(header[36:], uint32(w.size))
	}
	if rest > 0 {
		info |= walContinuation
	}
	le.PutUint16(header, 0xD116)
	le.PutUint16(header[2:], info)
	le.PutUint32(header[4:], uint32(w.tli))
	le.PutUint64(header[8:], uint64(w.pos()))
	le.PutUint32(header[16:], rest)
	w.data = append(w.data, header...)
}

// bytes writes the bytes of a record, and headers where a page begins.
func (w *walWriter) bytes(b []byte) {
	for len(b) > 0 {
		if len(w.data)%w.size == 0 {
			w.page(0, uint32(len(b)))
		}
		n := min(len(b), w.size-len(w.data)%w.size)
		w.data = append(w.data, b[:n]...)
		b = b[n:]
	}
}

// record writes a record with this body and returns where it starts.
func (w *walWriter) record(manager, info byte, xid uint32, body []byte) LSN {
	if len(w.data)%w.size == 0 {
		w.page(0, 0)
	}
	start := w.pos()
	le := binary.LittleEndian
	b := make([]byte, walRecordHeaderSize, walRecordHeaderSize+len(body))
	le.PutUint32(b, uint32(walRecordHeaderSize+len(body)))
	le.PutUint32(b[4:], xid)
	le.PutUint64(b[8:], uint64(w.last))
	b[16], b[17] = info, manager
	b = append(b, body...)
	le.PutUint32(b[walRecordCRCAt:], finishWALCRC(crc32.Checksum(body, castagnoli()), b))
	w.last = start
	w.bytes(b)
	w.align()
	return start
}

func (w *walWriter) align() {
	for len(w.data)%8 != 0 {
		w.data = append(w.data, 0)
	}
}

// filler writes a record of no interest that is length bytes long.
func (w *walWriter) filler(length int) LSN {
	body := mainData(make([]byte, length-walRecordHeaderSize-5))
	return w.record(10, 0, 5, body)
}

// fillPageUpTo writes one filler so that left bytes of the page remain.
func (w *walWriter) fillPageUpTo(left int) {
	if len(w.data)%testPage == 0 {
		w.page(0, 0)
	}
	w.filler(testPage - len(w.data)%testPage - left)
}

// commit writes the commit of a transaction.
func (w *walWriter) commit(xid uint32) LSN {
	return w.record(walManagerXact, walXactCommit, xid, mainData(timestamp(int64(xid))))
}

// mainData puts the header before main data: always the long form.
func mainData(main []byte) []byte {
	return append(binary.LittleEndian.AppendUint32([]byte{walBlockLongData}, uint32(len(main))), main...)
}

func timestamp(micros int64) []byte { return binary.LittleEndian.AppendUint64(nil, uint64(micros)) }

// scan gives all that was written to a scanner, by segments.
func (w *walWriter) scan(t *testing.T, tli Timeline) (*WALScanner, []WALEvent, error) {
	t.Helper()
	s := NewWALScanner(17, testSegment, w.size)
	var events []WALEvent
	for n, segment := range slices.Collect(slices.Chunk(w.data, testSegment)) {
		padded := make([]byte, testSegment)
		copy(padded, segment)
		err := s.Scan(w.start+LSN(n*testSegment), tli, padded, func(e WALEvent) error {
			events = append(events, e)
			return nil
		})
		if err != nil || s.Ended() {
			return s, events, err
		}
	}
	return s, events, nil
}

// segment is the one that was written, with zeros behind.
func (w *walWriter) segment() []byte {
	return append(slices.Clone(w.data), make([]byte, testSegment-len(w.data))...)
}
