package formattest

import (
	"encoding/binary"

	"github.com/oklog/ulid/v2"
	"github.com/zeebo/xxh3"
)

// described is a frame as a footer tells of it.
type described struct {
	frame
	kind  byte
	paths []string
	ids   [][]byte
	sizes []uint64 // of the members of a bundle
	page  uint64   // size of a page
	pages uint64   // of a kind that has page hashes
	// hashes are those of the pages; none in a pack without.
	hashes []uint64
}

// footer is section 7: it checks header and tail of a pack and reads its footer.
func (r *repository) footer(key string) ([]described, error) {
	object, err := r.object(key)
	if err != nil {
		return nil, err
	}
	operation, rest, err := r.openHeader(object, "PGBKPACK")
	if err != nil {
		return nil, err
	}
	c := &cursor{b: rest}
	p := pack{number: c.u32()}
	copy(p.operation[:], operation)
	c.bytes(uint64(c.u16()))
	head := len(object) - len(c.b)
	if c.u64() != xxh3.Hash(object[:head]) || p.key("packs") != key {
		return nil, damage("header of %s", key)
	}
	tail := object[len(object)-32:]
	t := &cursor{b: tail}
	offset, length, count, hashes := t.u32(), t.u32(), t.u32(), t.u32()
	if string(t.bytes(8)) != "PGBKPEND" || t.u64() != xxh3.Hash(tail[:24]) || int(offset+length) != len(object)-32 {
		return nil, damage("tail of %s", key)
	}
	typ, content, err := r.block(&cursor{b: object[offset:][:length]}, operation, key, 0)
	if err != nil || typ != 'T' {
		return nil, damage("footer of %s: %v", key, err)
	}
	frames, err := readFooter(&cursor{b: content}, p)
	end := uint64(offset - hashes)
	if hashes > 0 && err == nil {
		typ, content, err = r.block(&cursor{b: object[end:offset]}, operation, key, 1)
		if err != nil || typ != 'X' {
			return nil, damage("page hashes of %s: %v", key, err)
		}
		err = dealHashes(&cursor{b: content}, frames)
	}
	if err == nil && (len(frames) != int(count) || frames[0].offset != uint64(head)+8 || frames[count-1].offset+frames[count-1].stored != end) {
		err = damage("frames of %s do not fill it", key)
	}
	return frames, err
}

// dealHashes gives each frame the hashes of its pages: section 7.4.
func dealHashes(c *cursor, frames []described) error {
	for i := range frames {
		for range frames[i].pages {
			frames[i].hashes = append(frames[i].hashes, c.u64())
		}
	}
	return c.end()
}

// pageSeed is section 7.4.
func (r *repository) pageSeed() (uint64, error) {
	id, err := r.contentID([]byte("pgbak page hashes " + r.id))
	if err != nil {
		return 0, err
	}
	return binary.LittleEndian.Uint64(id), nil
}

// readFooter is section 7.3.
func readFooter(c *cursor, p pack) (frames []described, err error) {
	page, offset := c.uvarint(), c.uvarint()
	var paths []string
	before := ""
	c.each(func() {
		before = c.path(before)
		paths = append(paths, before)
	})
	c.each(func() {
		d := described{kind: c.u8(), page: page, frame: frame{pack: p, ordinal: uint64(len(frames)), offset: offset}}
		d.codec, d.stored, d.plain = c.u8(), c.uvarint(), c.uvarint()
		offset += d.stored
		switch d.kind {
		case 2:
			c.each(func() {
				d.paths = append(d.paths, paths[c.below(len(paths))])
				d.sizes = append(d.sizes, c.uvarint())
				d.ids = append(d.ids, c.bytes(32))
			})
		case 1, 3:
			d.ids = append(d.ids, c.bytes(32))
			d.paths = append(d.paths, paths[c.below(len(paths))])
			d.pages = (d.plain + page - 1) / page
			if d.kind == 1 {
				c.uvarint()
			} else {
				named := uint64(0)
				c.each(func() { c.uvarint(); named++ })
				if d.pages != named {
					c.err = damage("a delta frame of %d bytes with %d pages", d.plain, named)
				}
			}
		default:
			c.err = damage("frame of kind %d", d.kind)
		}
		frames = append(frames, d)
	})
	return frames, c.end()
}

// wrappedKey gives the wrapped data key that stands in a pack.
func wrappedKey(object []byte) []byte {
	n := binary.LittleEndian.Uint16(object[32:])
	return object[34:][:n]
}

func (p pack) operationText() string { return ulid.ULID(p.operation).String() }
