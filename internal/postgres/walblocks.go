package postgres

import (
	"encoding/binary"
	"errors"
	"fmt"
)

// Block identifiers with a meaning of their own (access/xlogrecord.h).
const (
	walMaxBlockID    = 32
	walBlockToplevel = 252 // 14 and later
	walBlockOrigin   = 253
	walBlockLongData = 254
	walBlockData     = 255
)

// Flags of a block reference (access/xlogrecord.h).
const (
	walBlockForkMask     = 0x0F
	walBlockHasImage     = 0x10
	walBlockSameRelation = 0x80
	walImageHasHole      = 0x01
)

// walRelationSize is the size of a RelFileLocator: tablespace, database, file number.
const walRelationSize = 12

// walHeadersSize is enough of a record's body for the headers at its beginning:
// 33 blocks of 27 bytes each, and 13 bytes for what there is once.
const walHeadersSize = 1 << 10

// noBlock is InvalidBlockNumber.
const noBlock = 1<<32 - 1

// walParts reads the headers with which the body of a record begins: one for
// each block that the record refers to, one for its main data, and others. After
// them come the blocks' data and page images, which are never looked at, and the
// main data.
//
// Use it like this: next until it is false, then check or mainData.
type walParts struct {
	major  int
	cursor walCursor
	// rest is how many bytes the body has from the cursor on. The cursor may hold fewer of them.
	rest uint64
	// data and main are how many bytes of it belong to blocks and to the main data.
	data, main uint64
	seenMain   bool
	fork       RelationForkID // of the last block reference
	block      uint32
	named      bool // there was a block reference that named its relation
}

// newWALParts begins to read the body of a record of length bytes. body is the
// body, or at least its first walHeadersSize bytes.
func newWALParts(major int, length uint32, body []byte) walParts {
	return walParts{major: major, cursor: walCursor{left: body}, rest: uint64(length) - walRecordHeaderSize}
}

// next goes to the next block reference, which is then in fork and block. It is
// false behind the last one, and when something is wrong, which cursor.err says.
func (p *walParts) next() bool {
	c := &p.cursor
	for !p.seenMain && c.err == nil && p.rest > p.data {
		before := len(c.left)
		isBlock := p.part()
		p.rest -= uint64(before - len(c.left))
		if isBlock {
			return c.err == nil
		}
	}
	return false
}

// part reads one header and says whether it was that of a block.
func (p *walParts) part() bool {
	c := &p.cursor
	b := c.bytes(1)
	if b == nil {
		return false
	}
	switch id := b[0]; {
	case id <= walMaxBlockID:
		p.blockReference()
		return true
	case id == walBlockData:
		if b := c.bytes(1); b != nil {
			p.main = uint64(b[0])
		}
		p.seenMain = true
	case id == walBlockLongData:
		p.main = uint64(c.uint32())
		p.seenMain = true
	case id == walBlockOrigin:
		c.bytes(2)
	case id == walBlockToplevel:
		c.bytes(4)
	default:
		c.err = fmt.Errorf("it has a part of the unknown kind %d", id)
	}
	return false
}

// blockReference reads XLogRecordBlockHeader, after its identifier.
func (p *walParts) blockReference() {
	c := &p.cursor
	head := c.bytes(3)
	if head == nil {
		return
	}
	flags := head[0]
	p.data += uint64(binary.LittleEndian.Uint16(head[1:]))
	if flags&walBlockHasImage != 0 {
		image := c.bytes(5) // length 2, offset of the hole 2, flags 1
		if image == nil {
			return
		}
		p.data += uint64(binary.LittleEndian.Uint16(image))
		if image[4]&walImageHasHole != 0 && image[4]&compressedImage(p.major) != 0 {
			c.bytes(2) // length of the hole, which only a compressed image has to say
		}
	}
	if flags&walBlockSameRelation == 0 {
		p.fork, p.named = parseWALRelation(c.bytes(walRelationSize)), true
	}
	p.fork.Fork = RelationFork(flags & walBlockForkMask)
	p.block = c.uint32()
	switch {
	case c.err != nil:
	case !p.named:
		c.err = errors.New("it refers to a block of the relation before it, and there is none")
	case p.fork.Fork > InitFork:
		c.err = fmt.Errorf("it refers to %s of a relation, which is unknown", p.fork.Fork)
	case p.block == noBlock:
		c.err = fmt.Errorf("it refers to block %d, which no relation has", p.block)
	}
}

// check is to be called when next is false: whether the headers were in order,
// and lengths add up.
func (p *walParts) check() error {
	if p.cursor.err != nil {
		return p.cursor.err
	}
	if p.rest != p.data+p.main {
		return fmt.Errorf("its parts add up to %d bytes, and it has %d", p.data+p.main, p.rest)
	}
	return nil
}

// mainData is check, and the main data, for which the whole body must be there.
func (p *walParts) mainData() ([]byte, error) {
	if err := p.check(); err != nil {
		return nil, err
	}
	if uint64(len(p.cursor.left)) != p.rest {
		return nil, errWALRecordShort
	}
	return p.cursor.left[p.data:], nil
}

// walMainData returns the main data of a record: its last part. body is the
// record without its head.
func walMainData(major int, body []byte) ([]byte, error) {
	p := newWALParts(major, uint32(walRecordHeaderSize+len(body)), body)
	for p.next() {
	}
	return p.mainData()
}

// compressedImage is the bits of bimg_info of which one is set when a page image
// is compressed: one until 14, one for each method since.
func compressedImage(major int) byte {
	if major >= 15 {
		return 0x04 | 0x08 | 0x10
	}
	return 0x02
}

// parseWALRelation decodes a RelFileLocator, as the main fork of the relation.
// nil reads as zeros, as everything does past the end of a record.
func parseWALRelation(b []byte) RelationForkID {
	if b == nil {
		return RelationForkID{}
	}
	le := binary.LittleEndian
	return RelationForkID{Tablespace: le.Uint32(b), Database: le.Uint32(b[4:]), Node: le.Uint32(b[8:])}
}
