// Package waltest makes up WAL for tests that need records but no server.
package waltest

import (
	"encoding/binary"
	"hash/crc32"
	"math/rand/v2"
	"slices"

	"github.com/pgbak/pgbak/internal/postgres"
)

const (
	// SegmentSize is that of all WAL made here.
	SegmentSize = 1 << 20
	// PageSize is that of all WAL made here.
	PageSize = 8192
)

// WAL is that of a server of PostgreSQL 18 from the start of a segment on, record
// after record. The same calls make the same WAL.
type WAL struct {
	systemID uint64
	start    postgres.LSN
	tli      postgres.Timeline
	data     []byte
	last     postgres.LSN   // start of the last record
	ends     []postgres.LSN // of all records
	rng      *rand.Rand
}

// New begins the WAL of a cluster, on timeline 1, with the segment that starts at a position.
func New(systemID uint64, start postgres.LSN) *WAL {
	return &WAL{systemID: systemID, start: start, tli: 1, rng: rand.New(rand.NewPCG(1, 1))}
}

// End is how far the WAL has come.
func (w *WAL) End() postgres.LSN { return w.start + postgres.LSN(len(w.data)) }

// page begins a page, that has rest bytes of a record to come.
func (w *WAL) page(rest int) {
	le := binary.LittleEndian
	header, info := make([]byte, 24), uint16(0)
	if w.End()%SegmentSize == 0 {
		header, info = make([]byte, postgres.WALHeaderSize), 0x0002
		le.PutUint64(header[24:], w.systemID)
		le.PutUint32(header[32:], SegmentSize)
		le.PutUint32(header[36:], PageSize)
	}
	if rest > 0 {
		info |= 0x0001
	}
	le.PutUint16(header, 0xD118)
	le.PutUint16(header[2:], info)
	le.PutUint32(header[4:], uint32(w.tli))
	le.PutUint64(header[8:], uint64(w.End()))
	le.PutUint32(header[16:], uint32(rest))
	w.data = append(w.data, header...)
}

// record writes a record of a resource manager with so many bytes of main data.
func (w *WAL) record(manager, info byte, length int) {
	if len(w.data)%PageSize == 0 {
		w.page(0)
	}
	le := binary.LittleEndian
	b := make([]byte, 24)
	le.PutUint64(b[8:], uint64(w.last))
	b[16], b[17] = info, manager
	if length > 0 {
		b = le.AppendUint32(append(b, 254), uint32(length))
	}
	for range length {
		b = append(b, byte(w.rng.Uint32()))
	}
	le.PutUint32(b, uint32(len(b)))
	castagnoli := crc32.MakeTable(crc32.Castagnoli)
	le.PutUint32(b[20:], crc32.Update(crc32.Checksum(b[24:], castagnoli), castagnoli, b[:20]))
	w.last = w.End()
	for len(b) > 0 {
		if len(w.data)%PageSize == 0 {
			w.page(len(b))
		}
		n := min(len(b), PageSize-len(w.data)%PageSize)
		w.data, b = append(w.data, b[:n]...), b[n:]
	}
	for len(w.data)%8 != 0 {
		w.data = append(w.data, 0)
	}
	w.ends = append(w.ends, w.End())
}

// To writes records until the WAL has come to a position, or a bit further.
func (w *WAL) To(lsn postgres.LSN) *WAL {
	for w.End() < lsn {
		w.record(10, 0, 100+w.rng.IntN(20_000)) // of tables
	}
	return w
}

// Switch writes a switch to the next segment, and gives where its record ends.
// Behind that come zeros.
func (w *WAL) Switch() postgres.LSN {
	w.record(0, 0x40, 0)
	end := w.End()
	w.data = append(w.data, make([]byte, (SegmentSize-len(w.data)%SegmentSize)%SegmentSize)...)
	return end
}

// Diverge makes what follows other WAL than it would have been.
func (w *WAL) Diverge() *WAL {
	w.rng.Uint64()
	return w
}

// ValidTo is the end of the last record that ends before a position or there.
func (w *WAL) ValidTo(lsn postgres.LSN) postgres.LSN {
	i := slices.IndexFunc(w.ends, func(end postgres.LSN) bool { return end > lsn })
	return w.ends[i-1]
}

// Branch is another timeline that begins at the end of a record.
func (w *WAL) Branch(tli postgres.Timeline, at postgres.LSN) *WAL {
	i := slices.Index(w.ends, at)
	return &WAL{systemID: w.systemID, start: w.start, tli: tli, data: slices.Clone(w.data[:at-w.start]), last: w.ends[i-1], ends: slices.Clone(w.ends[:i+1]),
		rng: rand.New(rand.NewPCG(uint64(tli), 1))}
}

// Segment is segment n as it is before the WAL has come further than end.
func (w *WAL) Segment(n uint64, end postgres.LSN) []byte {
	start := postgres.LSN(n * SegmentSize)
	return slices.Clone(w.data[start-w.start : min(start+SegmentSize, end)-w.start])
}

// Whole is the segment n.
func (w *WAL) Whole(n uint64) []byte { return w.Segment(n, w.End()) }
