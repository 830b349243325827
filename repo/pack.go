package repo

import (
	"bytes"
	"context"
	"encoding/binary"
	"fmt"

	"github.com/oklog/ulid/v2"
	"github.com/zeebo/xxh3"

	"github.com/pgbak/pgbak/repo/codec"
	"github.com/pgbak/pgbak/storage"
)

// A pack:
//
//	object header 28 | number 4 | wrapped key length 2 | wrapped key | xxh3 of the header 8
//	sealed frames, one after the other
//	page hashes: one block (blocks.go), number 1; not if no frame holds pages
//	footer: one block, number 0
//	tail: footer offset 4 | footer length 4 | frames 4 | length of the page hashes 4 | magic 8 | xxh3 of the tail 8   = 32 bytes
//
// The wrapped data key stands in every pack so that packs alone are enough.

const (
	packTarget   = 32 << 20 // a pack is closed when it has reached this
	footerTarget = 2 << 20  // or when its footer has
	maxPack      = 1 << 30
	packTailSize = 32
	blockFooter  = 'T'
	blockHashes  = 'X'
	maxWrapped   = 4 << 10
)

// packBuilder fills one pack in memory.
type packBuilder struct {
	id     packID
	frames sealer // data key
	meta   sealer // footer
	buf    []byte
	first  uint32
	footer footer
	hashes []uint64 // of the pages of aligned and delta frames
	// described estimates the footer's plain size, which must fit a block.
	described int
}

// newPackBuilder begins a pack in buf[:0].
func newPackBuilder(id packID, pageSize int, dataKey, meta sealer, wrapped []byte, buf []byte) *packBuilder {
	b := &packBuilder{id: id, frames: dataKey, meta: meta, footer: footer{pageSize: pageSize}}
	b.buf = append(buf[:0], objectHeader(packMagic, id.op, meta.aead != nil)...)
	b.buf = binary.LittleEndian.AppendUint32(b.buf, id.number)
	b.buf = binary.LittleEndian.AppendUint16(b.buf, uint16(len(wrapped)))
	b.buf = append(b.buf, wrapped...)
	b.buf = binary.LittleEndian.AppendUint64(b.buf, xxh3.Hash(b.buf))
	b.first = uint32(len(b.buf))
	return b
}

// add seals a frame into the pack.
func (b *packBuilder) add(f frame) frameRef {
	ref := frameRef{pack: b.id, ordinal: uint32(len(b.footer.frames)), offset: uint32(len(b.buf)),
		raw: uint32(f.raw), codec: f.codec, stored: uint32(len(f.payload) + b.frames.overhead())}
	b.buf = b.frames.seal(b.buf, f.payload, ref.number(), ref.context())
	b.footer.frames = append(b.footer.frames, frameInfo{kind: f.kind, ref: ref, id: f.id, path: f.path,
		page: f.page, pages: f.pages, members: f.members})
	b.hashes = append(b.hashes, f.hashes...)
	b.described += 64 + len(f.path) + 5*len(f.pages)
	for _, m := range f.members {
		b.described += 48 + len(m.path)
	}
	return ref
}

// full tells that the pack is to be closed: when it has reached a size, and a
// pack of many tiny files when its footer is full.
func (b *packBuilder) full(target int) bool {
	return len(b.buf) >= target || b.described >= footerTarget
}

// finish closes the pack and gives its bytes.
func (b *packBuilder) finish() ([]byte, error) {
	var out bytes.Buffer
	w, err := newBlockWriter(&out, b.meta, b.id.key())
	if err != nil {
		return nil, err
	}
	footerLength, err := w.write(blockFooter, b.footer.encode(b.first))
	if err != nil {
		return nil, err
	}
	hashLength := 0
	if len(b.hashes) > 0 {
		if hashLength, err = w.write(blockHashes, encodePageHashes(b.hashes)); err != nil {
			return nil, err
		}
	}
	// The footer is number 0 and stands last: who wants only that reads the end.
	b.buf = append(b.buf, out.Bytes()[footerLength:]...)
	offset := len(b.buf)
	b.buf = append(b.buf, out.Bytes()[:footerLength]...)
	var tail []byte
	for _, n := range []int{offset, footerLength, len(b.footer.frames), hashLength} {
		tail = binary.LittleEndian.AppendUint32(tail, uint32(n))
	}
	tail = append(tail, packEndMagic...)
	tail = binary.LittleEndian.AppendUint64(tail, xxh3.Hash(tail))
	b.buf = append(b.buf, tail...)
	return b.buf, nil
}

// packHeader is what the beginning of a pack tells.
type packHeader struct {
	id      packID
	wrapped []byte // data key, nil in a plain repository
}

// readPackHeader reads and checks the beginning of a pack.
func (r *Repository) readPackHeader(ctx context.Context, id packID) (packHeader, error) {
	key := id.key()
	b, err := storage.ReadRange(ctx, r.store, key, 0, objectHeaderSize+6)
	if err != nil {
		return packHeader{}, r.lost(key, err)
	}
	op, err := parseObjectHeader(key, packMagic, b, r.keys != nil)
	if err != nil {
		return packHeader{}, err
	}
	wrapped := int64(binary.LittleEndian.Uint16(b[objectHeaderSize+4:]))
	if wrapped > maxWrapped {
		return packHeader{}, damagedf(key, "header", "wrapped key of %d bytes is too long", wrapped)
	}
	b, err = storage.ReadRange(ctx, r.store, key, 0, objectHeaderSize+6+wrapped+8)
	if err != nil {
		return packHeader{}, r.lost(key, err)
	}
	n := len(b) - 8
	if xxh3.Hash(b[:n]) != binary.LittleEndian.Uint64(b[n:]) {
		return packHeader{}, damaged(key, "header", errSeal)
	}
	h := packHeader{id: packID{op: ulid.ULID(op), number: binary.LittleEndian.Uint32(b[objectHeaderSize:])}, wrapped: b[objectHeaderSize+6 : n]}
	if h.id != id {
		return packHeader{}, damagedf(key, "header", "it belongs to %s", h.id.key())
	}
	return h, nil
}

// footerGuess is read at a pack's end in the hope that the footer is inside:
// about 900 frames of 60 bytes, compressed.
const footerGuess = 96 << 10

// readFooter reads the footer of a pack: one request, seldom two.
func (r *Repository) readFooter(ctx context.Context, id packID) (*footer, error) {
	key := id.key()
	end, err := storage.ReadTail(ctx, r.store, key, footerGuess)
	if err != nil {
		return nil, r.lost(key, err)
	}
	t, err := parsePackTail(key, end)
	if err != nil {
		return nil, err
	}
	var block []byte
	if need := t.length + packTailSize; need <= len(end) {
		block = end[len(end)-need : len(end)-packTailSize]
	} else if block, err = storage.ReadRange(ctx, r.store, key, int64(t.offset), int64(t.length)); err != nil {
		return nil, r.lost(key, err)
	}
	f, err := r.decodeFooterBlock(id, block, t.frames)
	if err == nil {
		f.hashes = hashArea{offset: t.offset - t.hashes, length: t.hashes}
	}
	return f, err
}

func (r *Repository) decodeFooterBlock(id packID, block []byte, frames int) (*footer, error) {
	key := id.key()
	plain, err := r.openPackBlock(id, blockFooter, 0, block)
	if err != nil {
		return nil, err
	}
	f, err := decodeFooter(id, plain)
	if err != nil {
		return nil, damaged(key, "footer", err)
	}
	if len(f.frames) != frames {
		return nil, damagedf(key, "footer", "it lists %d frames, the tail says %d", len(f.frames), frames)
	}
	return f, nil
}

// openPackBlock opens one of the blocks at the end of a pack.
func (r *Repository) openPackBlock(id packID, want byte, number uint64, block []byte) ([]byte, error) {
	key := id.key()
	s, err := r.keys.metaSealer(id.op, key)
	if err != nil {
		return nil, err
	}
	stored, err := storedLength(key, number, block)
	if err != nil {
		return nil, err
	}
	if stored != len(block)-blockHeaderSize {
		return nil, damagedf(key, "footer", "block %d has %d bytes, want %d", number, len(block)-blockHeaderSize, stored)
	}
	typ, plain, err := openBlock(s, key, number, block[:blockHeaderSize], block[blockHeaderSize:], codec.NewDecoder())
	if err != nil {
		return nil, err
	}
	if typ != want {
		return nil, damagedf(key, "footer", "block of type %q", typ)
	}
	return plain, nil
}

type packTail struct {
	offset, length, frames int
	hashes                 int // length of the block before the footer, 0 when there is none
}

func parsePackTail(key string, end []byte) (packTail, error) {
	if len(end) < packTailSize {
		return packTail{}, damagedf(key, "tail", "the object ends early")
	}
	t := end[len(end)-packTailSize:]
	if string(t[16:24]) != packEndMagic || xxh3.Hash(t[:24]) != binary.LittleEndian.Uint64(t[24:]) {
		return packTail{}, damagedf(key, "tail", "it does not end as a pack does: torn or overwritten")
	}
	p := packTail{offset: int(binary.LittleEndian.Uint32(t)), length: int(binary.LittleEndian.Uint32(t[4:])), frames: int(binary.LittleEndian.Uint32(t[8:])),
		hashes: int(binary.LittleEndian.Uint32(t[12:]))}
	if p.length < blockHeaderSize || p.length > blockHeaderSize+maxBlock+gcmOverhead {
		return packTail{}, damagedf(key, "tail", "footer of %d bytes", p.length)
	}
	if p.hashes != 0 && (p.hashes < blockHeaderSize || p.hashes > blockHeaderSize+maxBlock+gcmOverhead || p.hashes > p.offset) {
		return packTail{}, damagedf(key, "tail", "page hashes of %d bytes", p.hashes)
	}
	return p, nil
}

// lost turns the absence of an object that a manifest names, or its being too
// short, into damage; other faults of the store stay what they are.
func (r *Repository) lost(key string, err error) error {
	if isAbsent(err) || isShort(err) {
		return damaged(key, "", err)
	}
	return fmt.Errorf("read %s: %w", key, err)
}
