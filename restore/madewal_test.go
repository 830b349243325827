package restore

import (
	"encoding/binary"
	"hash/crc32"
	"math/rand/v2"
	"slices"

	"github.com/pgbak/pgbak/internal/postgres"
)

// madeWAL is WAL of PostgreSQL 18 from the start of a segment on, record after
// record, with segments of smallWAL bytes.
type madeWAL struct {
	start postgres.LSN
	tli   postgres.Timeline
	data  []byte
	last  postgres.LSN   // start of the last record
	ends  []postgres.LSN // of all records
	rng   *rand.Rand
}

func newMadeWAL(start postgres.LSN) *madeWAL {
	return &madeWAL{start: start, tli: 1, rng: rand.New(rand.NewPCG(1, 1))}
}

func (w *madeWAL) pos() postgres.LSN { return w.start + postgres.LSN(len(w.data)) }

// page begins a page, that has rest bytes of a record to come.
func (w *madeWAL) page(rest int) {
	le := binary.LittleEndian
	header, info := make([]byte, 24), uint16(0)
	if w.pos()%smallWAL == 0 {
		header, info = make([]byte, postgres.WALHeaderSize), 0x0002
		le.PutUint64(header[24:], 7_400_000_000_000_000_001)
		le.PutUint32(header[32:], smallWAL)
		le.PutUint32(header[36:], testPage)
	}
	if rest > 0 {
		info |= 0x0001
	}
	le.PutUint16(header, 0xD118)
	le.PutUint16(header[2:], info)
	le.PutUint32(header[4:], uint32(w.tli))
	le.PutUint64(header[8:], uint64(w.pos()))
	le.PutUint32(header[16:], uint32(rest))
	w.data = append(w.data, header...)
}

// record writes a record with so many bytes of main data.
func (w *madeWAL) record(length int) {
	if len(w.data)%testPage == 0 {
		w.page(0)
	}
	start, le := w.pos(), binary.LittleEndian
	b := make([]byte, 29+length)
	le.PutUint32(b, uint32(len(b)))
	le.PutUint32(b[4:], 5)
	le.PutUint64(b[8:], uint64(w.last))
	b[17], b[24] = 10, 254 // of tables; main data with a long header
	le.PutUint32(b[25:], uint32(length))
	for i := range b[29:] {
		b[29+i] = byte(w.rng.Uint32())
	}
	castagnoli := crc32.MakeTable(crc32.Castagnoli)
	le.PutUint32(b[20:], crc32.Update(crc32.Checksum(b[24:], castagnoli), castagnoli, b[:20]))
	w.last = start
	for len(b) > 0 {
		if len(w.data)%testPage == 0 {
			w.page(len(b))
		}
		n := min(len(b), testPage-len(w.data)%testPage)
		w.data, b = append(w.data, b[:n]...), b[n:]
	}
	for len(w.data)%8 != 0 {
		w.data = append(w.data, 0)
	}
	w.ends = append(w.ends, w.pos())
}

// to writes records until the WAL has come to a position, or a bit further.
func (w *madeWAL) to(lsn postgres.LSN) *madeWAL {
	for w.pos() < lsn {
		w.record(100 + w.rng.IntN(20_000))
	}
	return w
}

// validTo is the end of the last record that ends before a position or there.
func (w *madeWAL) validTo(lsn postgres.LSN) postgres.LSN {
	i := slices.IndexFunc(w.ends, func(end postgres.LSN) bool { return end > lsn })
	return w.ends[i-1]
}

// branch is another timeline that begins at the end of a record.
func (w *madeWAL) branch(tli postgres.Timeline, at postgres.LSN) *madeWAL {
	i := slices.Index(w.ends, at)
	return &madeWAL{start: w.start, tli: tli, data: slices.Clone(w.data[:at-w.start]), last: w.ends[i-1], ends: slices.Clone(w.ends[:i+1]),
		rng: rand.New(rand.NewPCG(uint64(tli), 1))}
}

// segment is segment n as it is before the WAL has come further than end.
func (w *madeWAL) segment(n uint64, end postgres.LSN) []byte {
	start := postgres.LSN(n * smallWAL)
	return slices.Clone(w.data[start-w.start : min(start+smallWAL, end)-w.start])
}

// whole is the segment n.
func (w *madeWAL) whole(n uint64) []byte { return w.segment(n, w.pos()) }
