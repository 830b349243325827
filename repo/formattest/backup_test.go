package formattest

import (
	"bytes"
	"encoding/binary"
	"encoding/json"
	"fmt"
	"hash/crc32"

	"github.com/oklog/ulid/v2"
)

// pack is operation and number of a pack or map object.
type pack struct {
	operation [16]byte
	number    uint32
}

func (p pack) key(kind string) string {
	return fmt.Sprintf("%s/%s/%08x", kind, ulid.ULID(p.operation), p.number)
}

func readPack(c *cursor) (p pack) {
	copy(p.operation[:], c.bytes(16))
	p.number = uint32(c.uvarint())
	return p
}

// frame is what must be known to open one.
type frame struct {
	pack                           pack
	codec                          byte
	ordinal, offset, stored, plain uint64
}

// mapBlock is an entry of 9.3.
type mapBlock struct {
	object                pack
	block, offset, length uint64
}

type manifest struct {
	Label     string            `json:"label"`
	Stanza    string            `json:"stanza"`
	Operation string            `json:"operation"`
	PageSize  int               `json:"page-size"`
	Owners    []string          `json:"owners"`
	Keys      map[string][]byte `json:"wrapped-keys"`
	Files     int               `json:"files"`

	repository *repository
	packs      []pack
	maps       []pack
	bundles    []frame
	blocks     []mapBlock
	entries    []entry
}

// entry is section 9.4.
type entry struct {
	path, owner, target string
	typ, flags          byte
	mode, mtime, size   uint64
	crc                 uint32
	number, index       int // of the content
}

// manifest is section 9; revoked labels give nil.
func (r *repository) manifest(stanza, label string) (*manifest, error) {
	key := "backups/" + stanza + "/" + label
	object, err := r.object(key)
	if err != nil {
		return nil, err
	}
	if object[0] == '{' {
		_, err := r.document(key, "pgbak-revoked", &struct{}{})
		return nil, err
	}
	operation, rest, err := r.openHeader(object, "PGBKMNFT")
	if err != nil {
		return nil, err
	}
	m := &manifest{repository: r}
	c := &cursor{b: rest}
	order := []byte("HPR")
	last := ""
	for n := uint64(0); ; n++ {
		typ, content, err := r.block(c, operation, key, n)
		if err != nil {
			return nil, fmt.Errorf("block %d: %w", n, err)
		}
		if n < 3 && typ != order[n] {
			return nil, damage("block %d has type %c", n, typ)
		}
		if typ == 'E' {
			if binary.LittleEndian.Uint64(content) != n {
				return nil, damage("the count of blocks")
			}
			break
		}
		if err := m.read(typ, content, &last); err != nil {
			return nil, fmt.Errorf("block %d (%c): %w", n, typ, err)
		}
	}
	if m.Label != label || m.Stanza != stanza || m.Operation != ulid.ULID(operation).String() {
		return nil, damage("it is the manifest of %s", m.Label)
	}
	return m, c.end()
}

func (m *manifest) read(typ byte, content []byte, last *string) error {
	c := &cursor{b: content}
	switch typ {
	case 'H':
		return json.Unmarshal(content, m)
	case 'P':
		c.each(func() {
			m.packs = append(m.packs, readPack(c))
			c.uvarint()
			c.uvarint()
		})
		c.each(func() {
			m.maps = append(m.maps, readPack(c))
			c.uvarint()
		})
	case 'R':
		c.each(func() {
			f := frame{pack: m.packs[c.below(len(m.packs))]}
			f.codec, f.ordinal, f.offset, f.stored, f.plain = c.u8(), c.uvarint(), c.uvarint(), c.uvarint(), c.uvarint()
			m.bundles = append(m.bundles, f)
		})
		c.each(func() {
			m.blocks = append(m.blocks, mapBlock{m.maps[c.below(len(m.maps))], c.uvarint(), c.uvarint(), c.uvarint()})
		})
	case 'F', 'L':
		before := ""
		for len(c.b) > 0 && c.err == nil {
			e := m.readEntry(c, before)
			if typ == 'F' {
				if !ascends(*last, e.path) {
					return damage("%q after %q", e.path, *last)
				}
				before, *last = e.path, e.path
			}
			m.entries = append(m.entries, e)
		}
	default:
		return damage("type %c", typ)
	}
	return c.end()
}

// ascends compares byte by byte, '/' before every other byte.
func ascends(a, b string) bool {
	first := func(s string) []byte { return bytes.ReplaceAll([]byte(s), []byte{'/'}, []byte{0}) }
	return bytes.Compare(first(a), first(b)) < 0
}

func (m *manifest) readEntry(c *cursor, before string) (e entry) {
	flags := c.u8()
	e.typ, e.flags = flags&3, flags
	e.path, e.mode, e.mtime = c.path(before), c.uvarint(), c.uvarint()
	e.owner = m.Owners[c.below(len(m.Owners))]
	if flags&0xc0 != 0 {
		c.err = damage("flags %02x", flags)
	}
	switch e.typ {
	case 3:
		e.target = c.string()
	case 1:
		e.size = c.uvarint()
		if flags&4 != 0 {
			e.crc = c.u32()
		}
		switch flags >> 4 & 3 {
		case 1:
			e.number, e.index = c.below(len(m.bundles)), c.below(1<<20)
		case 2:
			e.number, e.index = c.below(len(m.blocks)), c.below(1<<20)
		}
	}
	return e
}

// content gives the bytes of a file.
func (m *manifest) content(e entry) ([]byte, error) {
	var data []byte
	var err error
	switch e.flags >> 4 & 3 {
	case 1:
		if data, err = m.open(m.bundles[e.number]); err == nil {
			data = data[e.index:][:e.size]
		}
	case 2:
		data, err = m.mapped(e)
	}
	if err != nil {
		return nil, err
	}
	if uint64(len(data)) != e.size || e.flags&4 != 0 && crc32.Checksum(data, crc32.MakeTable(crc32.Castagnoli)) != e.crc {
		return nil, damage("size or CRC of %s", e.path)
	}
	return data, nil
}

// open is section 7.2.
func (m *manifest) open(f frame) ([]byte, error) {
	object, err := m.repository.object(f.pack.key("packs"))
	if err != nil {
		return nil, err
	}
	key, err := m.repository.unwrap(m.Keys[ulid.ULID(f.pack.operation).String()])
	if err != nil {
		return nil, err
	}
	context := join([]byte{'F', f.codec}, f.pack.operation[:], u32(uint32(f.plain)))
	payload, err := unseal(key, object[f.offset:][:f.stored], uint64(f.pack.number)<<32|f.ordinal, context)
	if err != nil {
		return nil, fmt.Errorf("frame %d of %s: %w", f.ordinal, f.pack.key("packs"), err)
	}
	return expand(f.codec, payload, int(f.plain))
}

// mapped is section 8: the block, the map in it, and the pages it leads to.
func (m *manifest) mapped(e entry) ([]byte, error) {
	ref := m.blocks[e.number]
	key := ref.object.key("maps")
	object, err := m.repository.object(key)
	if err != nil {
		return nil, err
	}
	operation, _, err := m.repository.openHeader(object, "PGBKMAPS")
	if err != nil {
		return nil, err
	}
	c := &cursor{b: object[ref.offset:][:ref.length]}
	typ, content, err := m.repository.block(c, operation, key, ref.block)
	if err != nil || typ != 'M' {
		return nil, fmt.Errorf("type %c: %w", typ, err)
	}
	c = &cursor{b: content}
	var lengths []uint64
	var packs []pack
	c.each(func() { lengths = append(lengths, c.uvarint()) })
	c.each(func() { packs = append(packs, readPack(c)) })
	var encoded []byte
	for i, n := range lengths {
		if one := c.bytes(n); i == e.index {
			encoded = one
		}
	}
	if err := c.end(); err != nil {
		return nil, err
	}
	return m.follow(&cursor{b: encoded}, packs)
}

func (m *manifest) follow(c *cursor, packs []pack) ([]byte, error) {
	page, size := c.uvarint(), c.uvarint()
	var frames []frame
	c.each(func() {
		f := frame{}
		if len(frames) > 0 {
			f = frames[len(frames)-1]
		}
		frames = append(frames, readReference(c, f, page, packs))
	})
	var out []byte
	c.each(func() {
		kind, pages := c.u8(), c.uvarint()
		n := min(pages*page, size-uint64(len(out)))
		switch kind {
		case 0:
			out = append(out, make([]byte, n)...)
		case 1:
			first := c.below(len(frames))
			for i := range (pages + 15) / 16 {
				out = m.append(c, out, frames[first+int(i)])
			}
		case 2:
			f, slot := frames[c.below(len(frames))], c.uvarint()
			content := m.append(c, nil, f)
			if c.err == nil {
				out = append(out, content[slot*page:][:n]...)
			}
		default:
			c.err = damage("run of kind %d", kind)
		}
	})
	if err := c.end(); err != nil {
		return nil, err
	}
	if uint64(len(out)) != size {
		return nil, damage("%d bytes, want %d", len(out), size)
	}
	return out, nil
}

func (m *manifest) append(c *cursor, out []byte, f frame) []byte {
	content, err := m.open(f)
	if c.err == nil {
		c.err = err
	}
	return append(out, content...)
}

// readReference reads a frame reference behind another.
func readReference(c *cursor, before frame, page uint64, packs []pack) frame {
	flags := c.u8()
	f := frame{codec: flags & 7, pack: before.pack, plain: 16 * page}
	if flags&8 == 0 {
		f.pack = packs[c.below(len(packs))]
	}
	if flags&0x10 != 0 {
		f.ordinal, f.offset = before.ordinal+1, before.offset+before.stored
	} else {
		f.ordinal, f.offset = c.uvarint(), c.uvarint()
	}
	f.stored = c.uvarint()
	if flags&0x20 == 0 {
		f.plain = c.uvarint()
	}
	return f
}
