package repo

import (
	"bytes"
	"encoding/binary"
	"fmt"
	"io"

	"github.com/oklog/ulid/v2"

	"github.com/pgbak/pgbak/repo/codec"
)

// Metadata objects (manifests, maps, the footers of packs) are made of blocks:
// each is compressed and sealed by itself, so that one can be read by its
// position and all can be streamed in bounded memory.
//
//	object header: magic 8, version 1, flags 1, zero 2, operation 16    = 28 bytes
//	block header:  type 1, codec 1, stored length 4, plain length 4     = 10 bytes
//	block body:    the sealed compressed bytes, "stored length" of them
//
// A block's seal covers its number in the object, its header and the object's key.

const (
	objectHeaderSize = 28
	blockHeaderSize  = 10
	objectVersion    = 1
	flagEncrypted    = 1

	// maxBlock bounds a block, plain and stored.
	maxBlock = 32 << 20
)

// The magics of format 1.
const (
	packMagic     = "PGBKPACK"
	mapMagic      = "PGBKMAPS"
	manifestMagic = "PGBKMNFT"
	walMagic      = "PGBKWALS"
	packEndMagic  = "PGBKPEND"
	walEndMagic   = "PGBKWEND"
)

// blockEnd is the type of the last block of a map or manifest; its content is
// the number of blocks before it, so a cut object is noticed.
const blockEnd = 'E'

func objectHeader(magic string, operation [16]byte, encrypted bool) []byte {
	h := make([]byte, 0, objectHeaderSize)
	h = append(h, magic...)
	flags := byte(0)
	if encrypted {
		flags = flagEncrypted
	}
	h = append(h, objectVersion, flags, 0, 0)
	return append(h, operation[:]...)
}

// parseObjectHeader checks magic, version and that the object is encrypted if
// and only if the repository is, and gives the operation that wrote it.
func parseObjectHeader(key, magic string, h []byte, encrypted bool) (operation [16]byte, err error) {
	if len(h) < objectHeaderSize || string(h[:8]) != magic {
		return operation, damagedf(key, "header", "it does not begin with %s", magic)
	}
	if h[8] != objectVersion {
		return operation, newerFormat(key, fmt.Sprintf("object version %d", h[8]))
	}
	want := byte(0)
	if encrypted {
		want = flagEncrypted
	}
	if h[9] != want || h[10] != 0 || h[11] != 0 {
		return operation, damagedf(key, "header", "flags %02x, want %02x", h[9:12], want)
	}
	copy(operation[:], h[12:28])
	return operation, nil
}

// blockWriter writes the blocks of one object in order.
type blockWriter struct {
	w       io.Writer
	s       sealer
	key     string
	n       uint64
	enc     codec.Encoder
	scratch []byte
	sealed  []byte
}

func newBlockWriter(w io.Writer, s sealer, key string) (*blockWriter, error) {
	enc, err := codec.NewEncoder(codec.Zstd, 3)
	if err != nil {
		return nil, err
	}
	return &blockWriter{w: w, s: s, key: key, enc: enc}, nil
}

// write adds a block and gives its length in the object, header included.
func (b *blockWriter) write(typ byte, plain []byte) (int, error) {
	if len(plain) == 0 || len(plain) > maxBlock {
		return 0, fmt.Errorf("block of %d bytes in %s", len(plain), b.key)
	}
	compressed, err := b.enc.Encode(b.scratch, plain)
	if err != nil {
		return 0, err
	}
	b.scratch = compressed
	id := codec.Zstd
	if len(compressed) >= len(plain) {
		compressed, id = plain, codec.None
	}
	stored := len(compressed) + b.s.overhead()
	head := blockHeader(typ, id, stored, len(plain))
	b.sealed = append(b.sealed[:0], head...)
	b.sealed = b.s.seal(b.sealed, compressed, b.n, blockContext(head, b.key))
	b.n++
	if _, err := b.w.Write(b.sealed); err != nil {
		return 0, err
	}
	return len(b.sealed), nil
}

// end closes the object.
func (b *blockWriter) end() error {
	_, err := b.write(blockEnd, binary.LittleEndian.AppendUint64(nil, b.n))
	return err
}

func blockHeader(typ byte, id codec.ID, stored, plain int) []byte {
	h := make([]byte, 0, blockHeaderSize)
	h = append(h, typ, byte(id))
	h = binary.LittleEndian.AppendUint32(h, uint32(stored))
	return binary.LittleEndian.AppendUint32(h, uint32(plain))
}

func blockContext(head []byte, key string) []byte {
	return append(append(make([]byte, 0, len(head)+len(key)), head...), key...)
}

// openBlock opens block number n of the object from its header and body; body
// is overwritten.
func openBlock(s sealer, key string, n uint64, head, body []byte, dec *codec.Decoder) (typ byte, plain []byte, err error) {
	what := fmt.Sprintf("block %d", n)
	size := int(binary.LittleEndian.Uint32(head[6:]))
	if size == 0 || size > maxBlock {
		return 0, nil, damagedf(key, what, "length %d is out of bounds", size)
	}
	payload, err := s.open(body, n, blockContext(head, key))
	if err != nil {
		return 0, nil, damaged(key, what, err)
	}
	plain = make([]byte, size)
	if err := dec.Decode(plain, payload, codec.ID(head[1])); err != nil {
		return 0, nil, damaged(key, what, err)
	}
	return head[0], plain, nil
}

// storedLength reads the body's length from a block header.
func storedLength(key string, n uint64, head []byte) (int, error) {
	stored := int64(binary.LittleEndian.Uint32(head[2:]))
	if stored < plainOverhead || stored > maxBlock+gcmOverhead {
		return 0, damagedf(key, fmt.Sprintf("block %d", n), "stored length %d is out of bounds", stored)
	}
	return int(stored), nil
}

// blockReader streams the blocks of one object.
type blockReader struct {
	r   io.Reader
	s   sealer
	key string
	op  ulid.ULID // of the object header
	n   uint64
	dec *codec.Decoder
}

// next gives the next block; io.EOF after a valid end block with nothing behind it.
func (b *blockReader) next() (typ byte, plain []byte, err error) {
	head := make([]byte, blockHeaderSize)
	if _, err := io.ReadFull(b.r, head); err != nil {
		return 0, nil, b.cut(err)
	}
	stored, err := storedLength(b.key, b.n, head)
	if err != nil {
		return 0, nil, err
	}
	body, err := b.body(stored)
	if err != nil {
		return 0, nil, b.cut(err)
	}
	typ, plain, err = openBlock(b.s, b.key, b.n, head, body, b.dec)
	if err != nil {
		return 0, nil, err
	}
	if typ == blockEnd {
		return 0, nil, b.finish(plain)
	}
	b.n++
	return typ, plain, nil
}

// ordinaryBlock holds most blocks. What claims to be larger is given room as it
// comes, so that a hostile length costs nothing.
const ordinaryBlock = 1 << 20

func (b *blockReader) body(n int) ([]byte, error) {
	if n <= ordinaryBlock {
		body := make([]byte, n)
		_, err := io.ReadFull(b.r, body)
		return body, err
	}
	body, err := io.ReadAll(io.LimitReader(b.r, int64(n)))
	if err == nil && len(body) < n {
		err = io.ErrUnexpectedEOF
	}
	return body, err
}

func (b *blockReader) finish(plain []byte) error {
	if !bytes.Equal(plain, binary.LittleEndian.AppendUint64(nil, b.n)) {
		return damagedf(b.key, "end", "its count of blocks is not %d", b.n)
	}
	if n, err := io.ReadFull(b.r, make([]byte, 1)); n != 0 {
		return damagedf(b.key, "end", "bytes follow it")
	} else if err != io.EOF {
		return fmt.Errorf("read %s: %w", b.key, err)
	}
	return io.EOF
}

// cut tells a torn object from a failing store.
func (b *blockReader) cut(err error) error {
	if err == io.EOF || err == io.ErrUnexpectedEOF {
		return damagedf(b.key, fmt.Sprintf("block %d", b.n), "the object ends early")
	}
	return fmt.Errorf("read %s: %w", b.key, err)
}
