package repo

import (
	"fmt"

	"github.com/oklog/ulid/v2"

	"github.com/pgbak/pgbak/repo/codec"
)

// runKind says where a run of pages is. The values are on disk.
type runKind byte

const (
	runZero    runKind = 0 // pages of zero bytes: holes
	runAligned runKind = 1 // whole aligned frames, one per PagesPerFrame pages
	runDelta   runKind = 2 // consecutive slots of one delta frame
)

// run is consecutive pages of a file that are found the same way. The runs of
// a file cover it from its first page to its last.
type run struct {
	kind  runKind
	count uint32 // pages
	frame uint32 // index into fileMap.frames: the first frame (aligned), the frame (delta)
	slot  uint32 // delta: position in the frame of the first page
}

// fileMap tells for every page of one file which frame holds it. The last page
// may be shorter than pageSize: size is the file's length.
type fileMap struct {
	pageSize int
	size     int64
	frames   []frameRef
	runs     []run
	starts   []int64 // of a map that was read: the first page of each run
}

// pages is the number of pages of the file, the last short one included.
func (m *fileMap) pages() int64 { return pageCount(m.size, m.pageSize) }

func pageCount(size int64, pageSize int) int64 { return (size + int64(pageSize) - 1) / int64(pageSize) }

// addZero appends pages of zeros.
func (m *fileMap) addZero(pages uint32) {
	if n := len(m.runs); n > 0 && m.runs[n-1].kind == runZero {
		m.runs[n-1].count += pages
		return
	}
	m.runs = append(m.runs, run{kind: runZero, count: pages})
}

// addAligned appends an aligned frame that holds the next pages. Only the last
// frame of a file, or one before a run of zeros, may hold fewer than PagesPerFrame.
func (m *fileMap) addAligned(ref frameRef, pages uint32) {
	m.frames = append(m.frames, ref)
	if n := len(m.runs); n > 0 && m.runs[n-1].kind == runAligned && m.runs[n-1].count%PagesPerFrame == 0 {
		m.runs[n-1].count += pages
		return
	}
	m.runs = append(m.runs, run{kind: runAligned, count: pages, frame: uint32(len(m.frames) - 1)})
}

// Flags of an encoded frame reference; what a flag says need not be stored.
const (
	refCodecMask  = 0x07
	refSamePack   = 0x08 // the pack of the reference before
	refContiguous = 0x10 // next ordinal, right behind the reference before
	refFull       = 0x20 // the plain length is PagesPerFrame pages
	refReserved   = 0xc0 // must be zero
)

// encode appends the map; packs collects the packs that it names.
func (m *fileMap) encode(w *wireWriter, packs *packTable) {
	w.uvarint(uint64(m.pageSize))
	w.uvarint(uint64(m.size))
	w.uvarint(uint64(len(m.frames)))
	var prev frameRef
	for i, f := range m.frames {
		m.encodeRef(w, packs, prev, f, i == 0)
		prev = f
	}
	w.uvarint(uint64(len(m.runs)))
	for _, r := range m.runs {
		w.byte(byte(r.kind))
		w.uvarint(uint64(r.count))
		if r.kind != runZero {
			w.uvarint(uint64(r.frame))
		}
		if r.kind == runDelta {
			w.uvarint(uint64(r.slot))
		}
	}
}

func (m *fileMap) encodeRef(w *wireWriter, packs *packTable, prev, f frameRef, first bool) {
	flags := byte(f.codec) & refCodecMask
	if !first && f.pack == prev.pack {
		flags |= refSamePack
		if f.ordinal == prev.ordinal+1 && f.offset == prev.end() {
			flags |= refContiguous
		}
	}
	full := uint32(m.pageSize * PagesPerFrame)
	if f.raw == full {
		flags |= refFull
	}
	w.byte(flags)
	if flags&refSamePack == 0 {
		w.uvarint(uint64(packs.index(f.pack)))
	}
	if flags&refContiguous == 0 {
		w.uvarint(uint64(f.ordinal))
		w.uvarint(uint64(f.offset))
	}
	w.uvarint(uint64(f.stored))
	if flags&refFull == 0 {
		w.uvarint(uint64(f.raw))
	}
}

// decodeFileMap reads what encode wrote and checks that the runs cover the
// file exactly and stay inside the frames.
func decodeFileMap(r *wireReader, packs []packID) (*fileMap, error) {
	m := &fileMap{pageSize: int(r.number(32<<10, "page size"))}
	m.size = r.int63("file size")
	if r.err == nil && (m.pageSize < 512 || m.pages() > maxPages) {
		r.fail(fmt.Sprintf("%d bytes in pages of %d", m.size, m.pageSize))
	}
	var prev frameRef
	n := r.count("frames")
	for i := 0; i < n && r.err == nil; i++ {
		prev = m.decodeRef(r, packs, prev, i == 0)
		m.frames = append(m.frames, prev)
	}
	for n := r.count("runs"); n > 0 && r.err == nil; n-- {
		u := run{kind: runKind(r.byte()), count: uint32(r.number(maxPages, "pages"))}
		if u.kind != runZero {
			u.frame = uint32(r.number(uint64(len(m.frames)), "frame"))
		}
		if u.kind == runDelta {
			u.slot = uint32(r.number(maxFrame, "slot"))
		}
		m.runs = append(m.runs, u)
	}
	if r.err != nil {
		return nil, r.err
	}
	if err := m.check(); err != nil {
		return nil, err
	}
	m.index()
	return m, nil
}

func (m *fileMap) decodeRef(r *wireReader, packs []packID, prev frameRef, first bool) frameRef {
	flags := r.byte()
	f := frameRef{codec: codec.ID(flags & refCodecMask), pack: prev.pack}
	if first && flags&(refSamePack|refContiguous) != 0 {
		r.fail("the first frame refers to one before it")
	}
	if flags&refReserved != 0 || flags&refContiguous != 0 && flags&refSamePack == 0 {
		r.fail(fmt.Sprintf("flags %02x of a frame", flags))
	}
	if flags&refSamePack == 0 {
		n := r.uvarint()
		if r.err == nil && n >= uint64(len(packs)) {
			r.fail("pack number is out of range")
		}
		if r.err != nil {
			return f
		}
		f.pack = packs[n]
	}
	if flags&refContiguous != 0 {
		f.ordinal, f.offset = prev.ordinal+1, prev.end()
	} else {
		f.ordinal, f.offset = uint32(r.number(maxPages, "ordinal")), uint32(r.number(maxPack, "offset"))
	}
	f.stored = uint32(r.number(maxStoredFrame, "stored length"))
	f.raw = uint32(m.pageSize * PagesPerFrame)
	if flags&refFull == 0 {
		f.raw = uint32(r.number(maxFrame, "length"))
	}
	if r.err == nil {
		r.err = f.check()
	}
	return f
}

// check proves that every page of the file is found in exactly one place and
// that no run asks a frame for more than it holds.
func (m *fileMap) check() error {
	var page int64
	for _, u := range m.runs {
		if u.count == 0 {
			return fmt.Errorf("%w: empty run", errWire)
		}
		if err := m.checkRun(u, page); err != nil {
			return err
		}
		page += int64(u.count)
	}
	if page != m.pages() {
		return fmt.Errorf("%w: runs cover %d of %d pages", errWire, page, m.pages())
	}
	return nil
}

func (m *fileMap) checkRun(u run, page int64) error {
	switch u.kind {
	case runZero:
		return nil
	case runAligned:
		n := (int64(u.count) + PagesPerFrame - 1) / PagesPerFrame
		if int64(u.frame)+n > int64(len(m.frames)) {
			return fmt.Errorf("%w: run leaves the list of frames", errWire)
		}
		for i := range n {
			if want := m.rawLength(page+i*PagesPerFrame, min(PagesPerFrame, int64(u.count)-i*PagesPerFrame)); int64(m.frames[int64(u.frame)+i].raw) != want {
				return fmt.Errorf("%w: aligned frame of %d bytes, want %d", errWire, m.frames[int64(u.frame)+i].raw, want)
			}
		}
		return nil
	case runDelta:
		if int(u.frame) >= len(m.frames) {
			return fmt.Errorf("%w: run leaves the list of frames", errWire)
		}
		if m.deltaEnd(u, page) > int64(m.frames[u.frame].raw) {
			return fmt.Errorf("%w: run leaves its delta frame", errWire)
		}
		return nil
	}
	return fmt.Errorf("%w: run kind %d is unknown", errWire, u.kind)
}

// rawLength is how many bytes of the file the pages hold: the last page of the file may be short.
func (m *fileMap) rawLength(page, pages int64) int64 {
	return min((page+pages)*int64(m.pageSize), m.size) - page*int64(m.pageSize)
}

// deltaEnd is where a delta run ends in its frame.
func (m *fileMap) deltaEnd(u run, page int64) int64 {
	return int64(u.slot)*int64(m.pageSize) + m.rawLength(page, int64(u.count))
}

// packTable numbers packs in the order in which they are first named.
type packTable struct {
	ids     []packID
	numbers map[packID]int
}

func (t *packTable) index(id packID) int {
	if n, ok := t.numbers[id]; ok {
		return n
	}
	if t.numbers == nil {
		t.numbers = map[packID]int{}
	}
	t.numbers[id] = len(t.ids)
	t.ids = append(t.ids, id)
	return len(t.ids) - 1
}

func encodePackIDs(w *wireWriter, ids []packID) {
	w.uvarint(uint64(len(ids)))
	for _, id := range ids {
		w.raw(id.op[:])
		w.uvarint(uint64(id.number))
	}
}

func decodePackIDs(r *wireReader) []packID {
	var ids []packID
	for n := r.count("packs"); n > 0 && r.err == nil; n-- {
		id := packID{op: decodeOperation(r), number: uint32(r.number(maxPages, "pack number"))}
		ids = append(ids, id)
	}
	return ids
}

func decodeOperation(r *wireReader) ulid.ULID {
	var op ulid.ULID
	copy(op[:], r.take(len(op)))
	return op
}
