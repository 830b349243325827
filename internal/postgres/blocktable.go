package postgres

import (
	"cmp"
	"iter"
	"math/bits"
	"slices"
)

// DefaultTablespace is the OID of pg_default, whose files are in base/.
const DefaultTablespace = 1663

// RelationForkID names a fork of a relation by the numbers that WAL has.
type RelationForkID struct {
	// Tablespace is an OID, also for pg_default (DefaultTablespace) and
	// pg_global (GlobalTablespace). 0 is none: a fork there cannot be encoded.
	Tablespace uint32
	// Database is 0 for what all databases share.
	Database uint32
	// Node is the relation's file number. An entry of a BlockTable with node 0
	// stands for a whole database: it was created by copying files, or dropped.
	Node uint32
	Fork RelationFork
}

// ForkID is the fork that the file is a segment of.
func (f RelationFile) ForkID() RelationForkID {
	id := RelationForkID{Tablespace: f.Tablespace, Database: f.Database, Node: f.Node, Fork: f.Fork}
	if id.Tablespace == 0 {
		id.Tablespace = DefaultTablespace
	}
	return id
}

// compare orders forks as PostgreSQL's summary files do.
func (f RelationForkID) compare(g RelationForkID) int {
	return cmp.Or(cmp.Compare(f.Tablespace, g.Tablespace), cmp.Compare(f.Database, g.Database),
		cmp.Compare(f.Node, g.Node), cmp.Compare(f.Fork, g.Fork))
}

// NoLimit is the limit of a fork that was neither created, nor truncated, nor
// dropped. No block has this number.
const NoLimit = 1<<32 - 1

// BlockTable says which blocks of which forks a stretch of WAL changed. It is
// what PostgreSQL calls a block reference table (common/blkreftable.c), and
// keeps the same promises:
//
//   - a block that is marked was changed by WAL;
//   - the limit of a fork is the smallest number of blocks that it had in that
//     stretch, 0 if it was created or dropped. A block from the limit on may have
//     gone and come again, so nothing is known of it, marked or not;
//   - a block below the limit that is not marked was not changed, as far as WAL
//     registers changes, which it does not for every fork.
//
// The zero value is an empty table. A table takes about 130 bytes for each fork,
// and for each 65,536 blocks of it two to four bytes a marked block, or 8 KiB from
// the 257th on. Its reading methods may be used at the same time; changing ones may
// not.
type BlockTable struct {
	index map[forkKey]int32
	forks []forkBlocks
	// The fork that was marked last, since changes come in runs: a place in forks
	// plus one.
	last    int32
	lastKey forkKey
}

// forkKey is a RelationForkID without gaps between its fields, which hashes fast.
type forkKey struct {
	tablespace, database, node uint32
	fork                       int32
}

func (f RelationForkID) key() forkKey {
	return forkKey{f.Tablespace, f.Database, f.Node, int32(f.Fork)}
}

// forkBlocks is what is known of one fork.
type forkBlocks struct {
	limit  uint32
	chunks []blockChunk
}

const (
	chunkBlocks = 1 << 16
	// bitmapWords is the length of a chunk that is a bitmap, 16 blocks a word.
	bitmapWords = chunkBlocks / 16
	// maxOffsets is the length from which offsets in order cost more time than a
	// bitmap is worth memory: 8 KiB for at least 2 MiB of changed pages.
	maxOffsets = 256
)

// blockChunk holds the marks of 65,536 consecutive blocks in one of two forms,
// told apart by the length: at most maxOffsets numbers are the offsets of the
// marked blocks, ascending; bitmapWords of them are a bitmap, the first block in
// the lowest bit of the first word.
type blockChunk []uint16

// Mark records that WAL changed a block.
func (t *BlockTable) Mark(f RelationForkID, block uint32) {
	key := f.key()
	if t.last == 0 || key != t.lastKey {
		t.last, t.lastKey = t.place(key, NoLimit)+1, key
	}
	t.forks[t.last-1].chunk(block / chunkBlocks).mark(uint16(block % chunkBlocks))
}

// Truncate records that WAL left a fork with no more than limit blocks: 0 when it
// was created or dropped. Marks from limit on are forgotten, unless an earlier
// limit was as low: then they are younger than that one, and nothing changes.
func (t *BlockTable) Truncate(f RelationForkID, limit uint32) {
	fork := &t.forks[t.place(f.key(), limit)]
	if limit < fork.limit {
		fork.limit = limit
		fork.forget(limit)
	}
}

// place finds the fork in forks, or puts it there with the limit.
func (t *BlockTable) place(key forkKey, limit uint32) int32 {
	i, ok := t.index[key]
	if ok {
		return i
	}
	if t.index == nil {
		t.index = map[forkKey]int32{}
	}
	i = int32(len(t.forks))
	t.index[key] = i
	t.forks = append(t.forks, forkBlocks{limit: limit})
	return i
}

// find returns nil for a fork that is not in the table.
func (t *BlockTable) find(f RelationForkID) *forkBlocks {
	if i, ok := t.index[f.key()]; ok {
		return &t.forks[i]
	}
	return nil
}

// Add puts the table of later WAL on top of this one. The result is what
// PostgreSQL makes of the two files when it reads them one after the other.
func (t *BlockTable) Add(later *BlockTable) {
	for key, i := range later.index {
		t.addFork(key, later.forks[i].limit, later.forks[i].chunks)
	}
}

// addFork does Add for one fork. It keeps none of the chunks.
func (t *BlockTable) addFork(key forkKey, limit uint32, chunks []blockChunk) {
	fork := &t.forks[t.place(key, limit)]
	if limit < fork.limit {
		fork.limit = limit
		fork.forget(limit)
	}
	for n, c := range chunks {
		if len(c) > 0 {
			fork.chunk(uint32(n)).add(c)
		}
	}
}

// Limit is the smallest number of blocks that the fork had, NoLimit if that is
// not below what it had before. known is false, and the limit NoLimit, when WAL
// said nothing of the fork.
func (t *BlockTable) Limit(f RelationForkID) (limit uint32, known bool) {
	fork := t.find(f)
	if fork == nil {
		return NoLimit, false
	}
	return fork.limit, true
}

// Blocks gives the marked blocks of the fork from from up to, without, to, in
// ascending order.
func (t *BlockTable) Blocks(f RelationForkID, from, to uint32) iter.Seq[uint32] {
	return func(yield func(uint32) bool) {
		fork := t.find(f)
		if fork == nil || from >= to {
			return
		}
		for n := from / chunkBlocks; n <= (to-1)/chunkBlocks && int(n) < len(fork.chunks); n++ {
			first := n * chunkBlocks
			low := max(from, first) - first
			high := min(to-1-first, chunkBlocks-1)
			for offset := range fork.chunks[n].offsets(low, high) {
				if !yield(first + uint32(offset)) {
					return
				}
			}
		}
	}
}

// Count is the number of blocks that Blocks gives.
func (t *BlockTable) Count(f RelationForkID, from, to uint32) int {
	count := 0
	for range t.Blocks(f, from, to) {
		count++
	}
	return count
}

// Forks is the number of forks of which the table knows something.
func (t *BlockTable) Forks() int { return len(t.forks) }

// ForkIDs lists these forks, by tablespace, database, node and fork.
func (t *BlockTable) ForkIDs() []RelationForkID {
	ids := make([]RelationForkID, 0, len(t.index))
	for key := range t.index {
		ids = append(ids, RelationForkID{key.tablespace, key.database, key.node, RelationFork(key.fork)})
	}
	slices.SortFunc(ids, RelationForkID.compare)
	return ids
}

// chunk gives the n-th chunk, to be changed.
func (f *forkBlocks) chunk(n uint32) *blockChunk {
	if missing := int(n) + 1 - len(f.chunks); missing > 0 {
		f.chunks = append(f.chunks, make([]blockChunk, missing)...)
	}
	return &f.chunks[n]
}

// forget drops the marks from limit on.
func (f *forkBlocks) forget(limit uint32) {
	n := int(limit / chunkBlocks)
	if n >= len(f.chunks) {
		return
	}
	clear(f.chunks[n+1:])
	f.chunks = f.chunks[:n+1]
	f.chunks[n].forget(limit % chunkBlocks)
}

// mark sets one mark.
func (c *blockChunk) mark(offset uint16) {
	list := *c
	if len(list) == bitmapWords {
		list[offset/16] |= 1 << (offset % 16)
		return
	}
	at := len(list)
	if at > 0 && offset <= list[at-1] {
		var found bool
		if at, found = slices.BinarySearch(list, offset); found {
			return
		}
	}
	if len(list) < maxOffsets {
		*c = slices.Insert(list, at, offset)
		return
	}
	*c = list.bitmap()
	c.mark(offset)
}

// forget drops the marks from low on.
func (c *blockChunk) forget(low uint32) {
	list := *c
	if len(list) < bitmapWords {
		at, _ := slices.BinarySearch(list, uint16(low))
		*c = list[:at]
		return
	}
	list[low/16] &= 1<<(low%16) - 1
	clear(list[low/16+1:])
}

// count is the number of marks.
func (c blockChunk) count() int {
	if len(c) < bitmapWords {
		return len(c)
	}
	count := 0
	for _, word := range c {
		count += bits.OnesCount16(word)
	}
	return count
}

// bitmap gives the chunk as a bitmap: itself if it is one, else a new one.
func (c blockChunk) bitmap() blockChunk {
	if len(c) == bitmapWords {
		return c
	}
	words := make(blockChunk, bitmapWords)
	for _, offset := range c {
		words[offset/16] |= 1 << (offset % 16)
	}
	return words
}

// add sets the marks of d too.
func (c *blockChunk) add(d blockChunk) {
	switch {
	case len(*c) == 0:
		*c = slices.Clone(d)
	case len(d) < bitmapWords:
		for _, offset := range d {
			c.mark(offset)
		}
	default:
		words := c.bitmap()
		for i, word := range d {
			words[i] |= word
		}
		*c = words
	}
}

// offsets gives the marked offsets from low to high, both of them included,
// ascending.
func (c blockChunk) offsets(low, high uint32) iter.Seq[uint16] {
	return func(yield func(uint16) bool) {
		if len(c) < bitmapWords {
			at, _ := slices.BinarySearch(c, uint16(low))
			for ; at < len(c) && uint32(c[at]) <= high; at++ {
				if !yield(c[at]) {
					return
				}
			}
			return
		}
		for i := low / 16; i <= high/16; i++ {
			for word := c[i]; word != 0; word &= word - 1 {
				offset := i*16 + uint32(bits.TrailingZeros16(word))
				if offset >= low && offset <= high && !yield(uint16(offset)) {
					return
				}
			}
		}
	}
}
