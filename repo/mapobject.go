package repo

import (
	"bytes"
	"context"
	"fmt"

	"github.com/oklog/ulid/v2"

	"github.com/pgbak/pgbak/repo/codec"
	"github.com/pgbak/pgbak/storage"
)

// A map object is an object header and blocks of type blockMaps, each with the
// maps of one or more files and a list of the packs that they name:
//
//	maps n | n times: length of the encoded map
//	packs
//	the encoded maps
//
// A manifest names a map by its block and its number in the block.

const (
	blockMaps = 'M'
	// mapBlockTarget closes a block: one 1 GiB segment of aligned frames is about 32 KiB.
	mapBlockTarget = 48 << 10
	// mapObjectTarget closes an object.
	mapObjectTarget = 8 << 20
	maxMapsPerBlock = 1 << 12
)

// mapBlockRef is where a block of maps is.
type mapBlockRef struct {
	op     ulid.ULID
	number uint32 // of the map object
	block  uint32 // number of the block in it
	offset uint32
	length uint32 // with the block header
}

func (b mapBlockRef) key() string { return mapKey(b.op, b.number) }

// mapWriter gathers file maps into blocks and blocks into objects. Used by one goroutine.
type mapWriter struct {
	ctx     context.Context
	repo    *Repository
	op      ulid.ULID
	tables  *manifestTables // gets the blocks and the objects written
	objects uint32          // map objects put so far
	open    int             // number in tables of the block being filled
	buf     bytes.Buffer
	w       *blockWriter
	pending []*fileMap
	cost    int
	stored  int64
}

// add queues a map and gives the number that its block has in the manifest's
// table, and its number in the block.
func (m *mapWriter) add(f *fileMap) (block, index int, err error) {
	if len(m.pending) == 0 {
		m.open = len(m.tables.blocks)
		m.tables.blocks = append(m.tables.blocks, mapBlockRef{}) // filled in when the block is closed
	}
	block, index = m.open, len(m.pending)
	m.pending = append(m.pending, f)
	m.cost += 16 + 6*len(f.frames) + 6*len(f.runs)
	if m.cost >= mapBlockTarget || len(m.pending) == maxMapsPerBlock {
		err = m.closeBlock()
	}
	return block, index, err
}

func encodeMaps(maps []*fileMap) []byte {
	var packs packTable
	encoded := make([]wireWriter, len(maps))
	for i, f := range maps {
		f.encode(&encoded[i], &packs)
	}
	var w wireWriter
	w.uvarint(uint64(len(maps)))
	for _, e := range encoded {
		w.uvarint(uint64(len(e.b)))
	}
	encodePackIDs(&w, packs.ids)
	for _, e := range encoded {
		w.raw(e.b)
	}
	return w.b
}

func (m *mapWriter) closeBlock() error {
	if len(m.pending) == 0 {
		return nil
	}
	if m.w == nil {
		if err := m.openObject(); err != nil {
			return err
		}
	}
	plain := encodeMaps(m.pending)
	offset, number := m.buf.Len(), m.w.n
	length, err := m.w.write(blockMaps, plain)
	if err != nil {
		return fmt.Errorf("write map: %w", err)
	}
	m.tables.blocks[m.open] = mapBlockRef{op: m.op, number: m.objects, block: uint32(number), offset: uint32(offset), length: uint32(length)}
	m.pending, m.cost = m.pending[:0], 0
	if m.buf.Len() >= mapObjectTarget {
		return m.closeObject()
	}
	return nil
}

func (m *mapWriter) openObject() error {
	key := mapKey(m.op, m.objects)
	s, err := m.repo.keys.metaSealer(m.op, key)
	if err != nil {
		return err
	}
	m.buf.Reset()
	m.buf.Grow(mapObjectTarget + 2*mapBlockTarget) // doubling would end at twice as much, for good
	m.buf.Write(objectHeader(mapMagic, m.op, m.repo.keys != nil))
	m.w, err = newBlockWriter(&m.buf, s, key)
	return err
}

func (m *mapWriter) closeObject() error {
	if m.w == nil {
		return nil
	}
	if err := m.w.end(); err != nil {
		return err
	}
	key := m.w.key
	m.w = nil
	if err := m.repo.store.Put(m.ctx, key, storage.Bytes(m.buf.Bytes()), storage.PutOptions{IfAbsent: true}); err != nil {
		return fmt.Errorf("store map: %w", err)
	}
	m.tables.maps = append(m.tables.maps, mapUse{op: m.op, number: m.objects, size: int64(m.buf.Len())})
	m.objects++
	m.stored += int64(m.buf.Len())
	return nil
}

// close writes what is left.
func (m *mapWriter) close() error {
	if err := m.closeBlock(); err != nil {
		return err
	}
	return m.closeObject()
}

// readMapBlock reads one block of maps: one request.
func (r *Repository) readMapBlock(ctx context.Context, ref mapBlockRef) ([]*fileMap, error) {
	key := ref.key()
	b, err := storage.ReadRange(ctx, r.store, key, int64(ref.offset), int64(ref.length))
	if err != nil {
		return nil, r.lost(key, err)
	}
	s, err := r.keys.metaSealer(ref.op, key)
	if err != nil {
		return nil, err
	}
	stored, err := storedLength(key, uint64(ref.block), b)
	if err != nil {
		return nil, err
	}
	if stored != len(b)-blockHeaderSize {
		return nil, damagedf(key, "", "block %d has %d bytes, want %d", ref.block, stored, len(b)-blockHeaderSize)
	}
	typ, plain, err := openBlock(s, key, uint64(ref.block), b[:blockHeaderSize], b[blockHeaderSize:], codec.NewDecoder())
	if err != nil {
		return nil, err
	}
	if typ != blockMaps {
		return nil, damagedf(key, "", "block %d has type %q", ref.block, typ)
	}
	maps, err := decodeMaps(plain)
	if err != nil {
		return nil, damaged(key, fmt.Sprintf("block %d", ref.block), err)
	}
	return maps, nil
}

func decodeMaps(plain []byte) ([]*fileMap, error) {
	r := &wireReader{b: plain}
	n := r.count("maps")
	lengths := make([]int, 0, min(n, maxMapsPerBlock))
	for ; n > 0 && r.err == nil; n-- {
		lengths = append(lengths, int(r.number(maxBlock, "length")))
	}
	packs := decodePackIDs(r)
	maps := make([]*fileMap, 0, len(lengths))
	for _, length := range lengths {
		one := &wireReader{b: r.take(length), err: r.err}
		m, err := decodeFileMap(one, packs)
		if err == nil {
			err = one.end()
		}
		if err != nil {
			return nil, err
		}
		maps = append(maps, m)
	}
	return maps, r.end()
}
