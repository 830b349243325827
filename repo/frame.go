package repo

import (
	"encoding/binary"
	"fmt"
	"slices"

	"github.com/oklog/ulid/v2"

	"github.com/pgbak/pgbak/repo/codec"
)

// PagesPerFrame is how many pages an aligned frame holds; the last of a file may hold fewer.
const PagesPerFrame = 16

const (
	// maxFrame bounds the plain content of a frame: 16 pages of the largest block size.
	maxFrame = PagesPerFrame * 32 << 10
	// maxStoredFrame bounds a sealed frame. A codec that does not gain is not used.
	maxStoredFrame = maxFrame + gcmOverhead
)

// frameKind says what a frame holds. The values are on disk.
type frameKind byte

const (
	frameAligned frameKind = 1 // consecutive pages of one file, beginning at a multiple of PagesPerFrame
	frameBundle  frameKind = 2 // whole small files, one after the other
	frameDelta   frameKind = 3 // pages of one file in page order
)

// packID names a pack.
type packID struct {
	op     ulid.ULID
	number uint32
}

func (p packID) key() string { return packKey(p.op, p.number) }

// frameRef is where a frame is and what is needed to open it. Pack and
// ordinal are its identity, which its seal covers; offset is merely its place.
type frameRef struct {
	pack    packID
	ordinal uint32 // position among the frames of the pack it was written to
	offset  uint32 // bytes from the start of the pack
	stored  uint32 // sealed bytes
	raw     uint32 // plain bytes
	codec   codec.ID
}

func (f frameRef) end() uint32 { return f.offset + f.stored }

func (f frameRef) check() error {
	if f.raw == 0 || f.raw > maxFrame || f.stored < plainOverhead || f.stored > f.raw+gcmOverhead || f.offset > maxPack {
		return fmt.Errorf("%w: frame of %d bytes stored in %d at %d is out of bounds", errWire, f.raw, f.stored, f.offset)
	}
	return nil
}

// number and context bind a frame to its identity.
func (f frameRef) number() uint64 { return uint64(f.pack.number)<<32 | uint64(f.ordinal) }

func (f frameRef) context() []byte {
	c := make([]byte, 0, 24)
	c = append(c, 'F', byte(f.codec))
	c = append(c, f.pack.op[:]...)
	return binary.LittleEndian.AppendUint32(c, f.raw)
}

// frame is a compressed frame on its way into a pack.
type frame struct {
	kind    frameKind
	codec   codec.ID
	raw     int    // plain bytes
	payload []byte // compressed, not sealed
	id      ContentID
	path    string   // aligned, delta: the file
	page    uint32   // aligned: the first page
	pages   []uint32 // delta: the pages held, ascending
	members []member // bundle
	hashes  []uint64 // aligned, delta: of each page
}

// member is one small file in a bundle.
type member struct {
	path   string
	length uint32
	id     ContentID
}

// frameInfo is what a pack's footer tells of one of its frames.
type frameInfo struct {
	kind    frameKind
	ref     frameRef
	id      ContentID
	path    string
	page    uint32
	pages   []uint32
	members []member
	// firstHash is the place in the pack's page hashes of its first page.
	firstHash int
}

// footer describes a pack by itself.
type footer struct {
	pageSize int
	frames   []frameInfo
	pages    int      // of aligned and delta frames together
	hashes   hashArea // where the hashes of these pages are
}

// cost is about how many bytes of memory the footer takes, with its page hashes.
func (f *footer) cost() int {
	n := 1<<10 + 12*f.pages // hashes, and numbers in delta frames
	for _, i := range f.frames {
		n += 200 + 80*len(i.members)
	}
	return n
}

// pageCount is how many pages of a file the frame holds.
func (i frameInfo) pageCount(pageSize int) int {
	switch i.kind {
	case frameAligned:
		return int(pageCount(int64(i.ref.raw), pageSize))
	case frameDelta:
		return len(i.pages)
	}
	return 0
}

// encode writes the footer: files that the frames speak of, then the frames in
// their order in the pack; offsets follow from the lengths, beginning at first.
func (f *footer) encode(first uint32) []byte {
	paths := f.paths()
	var w wireWriter
	w.uvarint(uint64(f.pageSize))
	w.uvarint(uint64(first))
	w.uvarint(uint64(len(paths)))
	index := make(map[string]uint64, len(paths))
	prev := ""
	for i, p := range paths {
		w.path(prev, p)
		index[p], prev = uint64(i), p
	}
	w.uvarint(uint64(len(f.frames)))
	for _, fr := range f.frames {
		fr.encode(&w, index)
	}
	return w.b
}

func (f *footer) paths() []string {
	var paths []string
	for _, fr := range f.frames {
		if fr.kind != frameBundle {
			paths = append(paths, fr.path)
		}
		for _, m := range fr.members {
			paths = append(paths, m.path)
		}
	}
	slices.Sort(paths)
	return slices.Compact(paths)
}

func (i frameInfo) encode(w *wireWriter, index map[string]uint64) {
	w.byte(byte(i.kind))
	w.byte(byte(i.ref.codec))
	w.uvarint(uint64(i.ref.stored))
	w.uvarint(uint64(i.ref.raw))
	switch i.kind {
	case frameBundle:
		w.uvarint(uint64(len(i.members)))
		for _, m := range i.members {
			w.uvarint(index[m.path])
			w.uvarint(uint64(m.length))
			w.raw(m.id[:])
		}
	case frameAligned:
		w.raw(i.id[:])
		w.uvarint(index[i.path])
		w.uvarint(uint64(i.page))
	case frameDelta:
		w.raw(i.id[:])
		w.uvarint(index[i.path])
		w.uvarint(uint64(len(i.pages)))
		prev := uint32(0)
		for _, p := range i.pages {
			w.uvarint(uint64(p - prev))
			prev = p
		}
	}
}

// decodeFooter reads what encode wrote.
func decodeFooter(pack packID, b []byte) (*footer, error) {
	r := &wireReader{b: b}
	f := &footer{pageSize: int(r.number(32<<10, "page size"))}
	if r.err == nil && f.pageSize < 512 {
		r.fail(fmt.Sprintf("page size %d", f.pageSize))
	}
	offset := uint32(r.number(maxPack, "offset"))
	paths := decodeFooterPaths(r)
	for n, ordinal := r.count("frames"), uint32(0); uint32(n) > ordinal && r.err == nil; ordinal++ {
		info := decodeFrameInfo(r, paths)
		info.ref.pack, info.ref.ordinal, info.ref.offset = pack, ordinal, offset
		info.firstHash = f.pages
		if r.err == nil {
			r.err = info.ref.check()
		}
		offset = info.ref.end()
		if r.err == nil {
			f.pages += info.pageCount(f.pageSize)
		}
		f.frames = append(f.frames, info)
	}
	return f, r.end()
}

// decodeFooterPaths reads the list of files. Front coding lets a few bytes
// stand for a long path; but a file stands in the list because a frame or a
// member of at least 34 bytes speaks of it, so honest paths together stay below
// maxPath/34 times the footer's length.
func decodeFooterPaths(r *wireReader) []string {
	paths := make([]string, 0, 64)
	prev, room := "", (maxPath/34+1)*len(r.b)
	for n := r.count("files"); n > 0 && r.err == nil; n-- {
		prev = r.path(prev)
		if room -= len(prev); room < 0 {
			r.fail("paths are too long for the footer")
		}
		paths = append(paths, prev)
	}
	return paths
}

func decodeFrameInfo(r *wireReader, paths []string) frameInfo {
	i := frameInfo{kind: frameKind(r.byte())}
	i.ref.codec = codec.ID(r.byte())
	i.ref.stored = uint32(r.number(maxStoredFrame, "stored length"))
	i.ref.raw = uint32(r.number(maxFrame, "length"))
	path := func() string {
		n := r.uvarint()
		if r.err == nil && n >= uint64(len(paths)) {
			r.fail("file number is out of range")
		}
		if r.err != nil {
			return ""
		}
		return paths[n]
	}
	switch i.kind {
	case frameBundle:
		sum := uint64(0)
		for n := r.count("members"); n > 0 && r.err == nil; n-- {
			m := member{path: path(), length: uint32(r.number(maxFrame, "member length"))}
			copy(m.id[:], r.take(32))
			i.members = append(i.members, m)
			sum += uint64(m.length)
		}
		if sum != uint64(i.ref.raw) {
			r.fail(fmt.Sprintf("members of %d bytes in a bundle of %d", sum, i.ref.raw))
		}
	case frameAligned:
		copy(i.id[:], r.take(32))
		i.path, i.page = path(), uint32(r.number(maxPages, "page"))
	case frameDelta:
		copy(i.id[:], r.take(32))
		i.path = path()
		page := uint64(0)
		for n := r.count("pages"); n > 0 && r.err == nil; n-- {
			page += r.number(maxPages, "page")
			if page > maxPages {
				r.fail("page is out of range")
			}
			i.pages = append(i.pages, uint32(page))
		}
	default:
		r.fail(fmt.Sprintf("frame kind %d is unknown", i.kind))
	}
	return i
}

// maxPages bounds the pages of one file. Relation segments are at most 1 GiB
// by default; other files may be larger.
const maxPages = 1<<32 - 1
