package postgres

import (
	"encoding/binary"
	"errors"
	"fmt"
	"slices"

	"github.com/pgbak/pgbak/internal/crc32c"
)

// The format of a WAL summary file (common/blkreftable.c of PostgreSQL 17 and
// 18), little-endian:
//
//	u32 blockTableMagic
//	for each fork, by tablespace, database, node and fork:
//		u32 tablespace, database, node; i32 fork; u32 limit; u32 chunks
//		u16 length of each chunk
//		u16 numbers of each chunk: fewer than bitmapWords are offsets, in any
//			order; bitmapWords of them are a bitmap
//	24 bytes of zero
//	u32 CRC-32C of all before it
const (
	blockTableMagic = 0x652B137B
	blockEntrySize  = 24
	// maxChunks is what blocks numbered by 32 bits need.
	maxChunks = (NoLimit + 1) / chunkBlocks
	// minBlockTable is the length of an empty table.
	minBlockTable = 4 + blockEntrySize + 4
)

// Size is the number of bytes that Encode gives.
func (t *BlockTable) Size() int {
	size := minBlockTable
	for i := range t.forks {
		size += blockEntrySize
		for _, length := range t.forks[i].lengths() {
			size += 2 + 2*length
		}
	}
	return size
}

// lengths tells how many numbers of each chunk a file has, up to the last chunk
// that has a mark.
func (f *forkBlocks) lengths() []int {
	lengths := make([]int, len(f.chunks))
	used := 0
	for n, chunk := range f.chunks {
		lengths[n] = min(chunk.count(), bitmapWords)
		if lengths[n] > 0 {
			used = n + 1
		}
	}
	return lengths[:used]
}

// Encode gives the content of a WAL summary file. Equal tables give equal bytes.
func (t *BlockTable) Encode() []byte {
	b := make([]byte, 0, t.Size())
	b = binary.LittleEndian.AppendUint32(b, blockTableMagic)
	for _, id := range t.ForkIDs() {
		fork := t.find(id)
		lengths := fork.lengths()
		for _, v := range [...]uint32{id.Tablespace, id.Database, id.Node, uint32(id.Fork), fork.limit, uint32(len(lengths))} {
			b = binary.LittleEndian.AppendUint32(b, v)
		}
		for _, length := range lengths {
			b = binary.LittleEndian.AppendUint16(b, uint16(length))
		}
		for n, length := range lengths {
			b = fork.chunks[n].appendTo(b, length)
		}
	}
	b = append(b, make([]byte, blockEntrySize)...)
	return binary.LittleEndian.AppendUint32(b, crc32c.Update(0, b))
}

// appendTo appends the chunk in the form that a file has it in for the length.
func (c blockChunk) appendTo(b []byte, length int) []byte {
	if length == bitmapWords {
		for _, word := range c {
			b = binary.LittleEndian.AppendUint16(b, word)
		}
		return b
	}
	for offset := range c.offsets(0, chunkBlocks-1) {
		b = binary.LittleEndian.AppendUint16(b, offset)
	}
	return b
}

// DecodeBlockTable reads the content of a WAL summary file, PostgreSQL's or
// Encode's. Stricter than PostgreSQL, it wants the forks in their order and
// nothing after the end. The memory it takes is in proportion to len(b).
func DecodeBlockTable(b []byte) (*BlockTable, error) {
	t := new(BlockTable)
	if err := t.addEncoded(b); err != nil {
		return nil, err
	}
	return t, nil
}

// addEncoded does Add for a table that is encoded. After an error t is of no use.
func (t *BlockTable) addEncoded(b []byte) error {
	if len(b) < minBlockTable {
		return fmt.Errorf("block table: %d bytes (want at least %d)", len(b), minBlockTable)
	}
	if magic := binary.LittleEndian.Uint32(b); magic != blockTableMagic {
		return fmt.Errorf("block table: magic %08X (want %08X)", magic, uint32(blockTableMagic))
	}
	b, tail := b[:len(b)-4], binary.LittleEndian.Uint32(b[len(b)-4:])
	if sum := crc32c.Update(0, b); sum != tail {
		return fmt.Errorf("block table: checksum %08X (want %08X)", tail, sum)
	}
	r := blockTableReader{rest: b[4:]}
	for {
		more, err := r.next()
		if err != nil {
			return fmt.Errorf("block table: entry %d: %w", r.entries, err)
		}
		if !more {
			return nil
		}
		t.addFork(r.id.key(), r.limit, r.chunks)
	}
}

// blockTableReader goes through the entries of an encoded table.
type blockTableReader struct {
	rest    []byte
	entries int

	// The current entry.
	id     RelationForkID
	limit  uint32
	chunks []blockChunk
}

var (
	errBlockTableEnds  = errors.New("the table ends within it")
	errBlockTableOrder = errors.New("it is not in order")
)

// next reads an entry, and reports false at the end of the table.
func (r *blockTableReader) next() (bool, error) {
	r.entries++
	head, err := r.take(blockEntrySize)
	if err != nil {
		return false, err
	}
	var v [blockEntrySize / 4]uint32
	for i := range v {
		v[i] = binary.LittleEndian.Uint32(head[4*i:])
	}
	if v == [blockEntrySize / 4]uint32{} {
		if len(r.rest) > 0 {
			return false, fmt.Errorf("%d bytes after the end", len(r.rest))
		}
		return false, nil
	}
	id := RelationForkID{Tablespace: v[0], Database: v[1], Node: v[2], Fork: RelationFork(int32(v[3]))}
	if r.entries > 1 && r.id.compare(id) >= 0 {
		return false, errBlockTableOrder
	}
	r.id, r.limit = id, v[4]
	if v[5] > maxChunks {
		return false, fmt.Errorf("%d chunks (want at most %d)", v[5], maxChunks)
	}
	return true, r.readChunks(int(v[5]))
}

// readChunks reads the lengths of n chunks and then the chunks.
func (r *blockTableReader) readChunks(n int) error {
	lengths, err := r.take(2 * n)
	if err != nil {
		return err
	}
	r.chunks = slices.Grow(r.chunks[:0], n)
	for i := range n {
		length := int(binary.LittleEndian.Uint16(lengths[2*i:]))
		if length > bitmapWords {
			return fmt.Errorf("a chunk of %d numbers (want at most %d)", length, bitmapWords)
		}
		numbers, err := r.take(2 * length)
		if err != nil {
			return err
		}
		r.chunks = append(r.chunks, decodeChunk(numbers))
	}
	return nil
}

func (r *blockTableReader) take(n int) ([]byte, error) {
	if n > len(r.rest) {
		return nil, errBlockTableEnds
	}
	taken := r.rest[:n]
	r.rest = r.rest[n:]
	return taken, nil
}

// decodeChunk brings a chunk of a file into the form that blockChunk promises.
func decodeChunk(b []byte) blockChunk {
	chunk := make(blockChunk, len(b)/2)
	for i := range chunk {
		chunk[i] = binary.LittleEndian.Uint16(b[2*i:])
	}
	if len(chunk) == bitmapWords {
		return chunk
	}
	if len(chunk) > maxOffsets {
		return chunk.bitmap()
	}
	slices.Sort(chunk)
	return slices.Compact(chunk)
}
