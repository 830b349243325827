package repo

import (
	"github.com/oklog/ulid/v2"

	"github.com/pgbak/pgbak/repo/codec"
)

// packUse is a pack that a backup uses.
type packUse struct {
	id   packID
	size int64 // of the object
	used int64 // stored bytes of the frames that the backup uses
}

// manifestTables are the lists that file entries refer to by number.
type manifestTables struct {
	packs   []packUse
	bundles []frameRef
	blocks  []mapBlockRef
	maps    []mapUse
}

// mapUse is a map object that a backup uses.
type mapUse struct {
	op     ulid.ULID
	number uint32
	size   int64
}

func (t *manifestTables) encodePacks() []byte {
	var w wireWriter
	w.uvarint(uint64(len(t.packs)))
	for _, p := range t.packs {
		w.raw(p.id.op[:])
		w.uvarint(uint64(p.id.number))
		w.uvarint(uint64(p.size))
		w.uvarint(uint64(p.used))
	}
	w.uvarint(uint64(len(t.maps)))
	for _, m := range t.maps {
		w.raw(m.op[:])
		w.uvarint(uint64(m.number))
		w.uvarint(uint64(m.size))
	}
	return w.b
}

func (t *manifestTables) decodePacks(b []byte) error {
	r := &wireReader{b: b}
	for n := r.count("packs"); n > 0 && r.err == nil; n-- {
		p := packUse{id: packID{op: decodeOperation(r), number: uint32(r.number(maxPages, "pack number"))}}
		p.size, p.used = r.int63("pack size"), r.int63("used bytes")
		t.packs = append(t.packs, p)
	}
	for n := r.count("maps"); n > 0 && r.err == nil; n-- {
		t.maps = append(t.maps, mapUse{op: decodeOperation(r), number: uint32(r.number(maxPages, "map number")), size: r.int63("map size")})
	}
	return r.end()
}

// encodeRefs writes bundles (with numbers into packs) and map blocks (with numbers into maps).
func (t *manifestTables) encodeRefs() []byte {
	var w wireWriter
	packs := make(map[packID]int, len(t.packs))
	for i, p := range t.packs {
		packs[p.id] = i
	}
	w.uvarint(uint64(len(t.bundles)))
	for _, f := range t.bundles {
		w.uvarint(uint64(packs[f.pack]))
		w.byte(byte(f.codec))
		w.uvarint(uint64(f.ordinal))
		w.uvarint(uint64(f.offset))
		w.uvarint(uint64(f.stored))
		w.uvarint(uint64(f.raw))
	}
	type object struct {
		op     ulid.ULID
		number uint32
	}
	maps := make(map[object]int, len(t.maps))
	for i, m := range t.maps {
		maps[object{m.op, m.number}] = i
	}
	w.uvarint(uint64(len(t.blocks)))
	for _, b := range t.blocks {
		w.uvarint(uint64(maps[object{b.op, b.number}]))
		w.uvarint(uint64(b.block))
		w.uvarint(uint64(b.offset))
		w.uvarint(uint64(b.length))
	}
	return w.b
}

func (t *manifestTables) decodeRefs(b []byte) error {
	r := &wireReader{b: b}
	for n := r.count("bundles"); n > 0 && r.err == nil; n-- {
		pack := r.uvarint()
		if r.err != nil || pack >= uint64(len(t.packs)) {
			r.fail("pack number is out of range")
			break
		}
		f := frameRef{pack: t.packs[pack].id, codec: codec.ID(r.byte())}
		f.ordinal, f.offset = uint32(r.number(maxPages, "ordinal")), uint32(r.number(maxPack, "offset"))
		f.stored, f.raw = uint32(r.number(maxStoredFrame, "stored length")), uint32(r.number(maxFrame, "length"))
		if r.err == nil {
			r.err = f.check()
		}
		t.bundles = append(t.bundles, f)
	}
	for n := r.count("blocks"); n > 0 && r.err == nil; n-- {
		m := r.uvarint()
		if r.err != nil || m >= uint64(len(t.maps)) {
			r.fail("map number is out of range")
			break
		}
		t.blocks = append(t.blocks, mapBlockRef{op: t.maps[m].op, number: t.maps[m].number,
			block: uint32(r.number(maxPages, "block")), offset: uint32(r.number(maxPages, "offset")),
			length: uint32(r.number(blockHeaderSize+maxBlock+gcmOverhead, "length"))})
		if r.err == nil && t.blocks[len(t.blocks)-1].length < blockHeaderSize+plainOverhead {
			r.fail("block is too short")
		}
	}
	return r.end()
}
