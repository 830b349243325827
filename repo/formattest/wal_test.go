package formattest

import (
	"bytes"
	"crypto/hmac"
	"crypto/sha256"
	"fmt"
	"hash"

	"github.com/zeebo/blake3"
	"github.com/zeebo/xxh3"
)

// contentID is section 3.2.
func (r *repository) contentID(content []byte) ([]byte, error) {
	var h hash.Hash
	switch {
	case r.idAlgorithm == "blake3" && r.secrets == nil:
		h = blake3.New()
	case r.idAlgorithm == "blake3":
		keyed, err := blake3.NewKeyed(r.secrets.IDKey)
		if err != nil {
			return nil, err
		}
		h = keyed
	case r.secrets == nil:
		h = sha256.New()
	default:
		h = hmac.New(sha256.New, r.secrets.IDKey)
	}
	h.Write(content)
	return h.Sum(nil), nil
}

// wal is section 10; summary is nil if there is none.
func (r *repository) wal(key string) (content []byte, sum *summary, err error) {
	object, err := r.object(key)
	if err != nil {
		return nil, nil, err
	}
	c := &cursor{b: object}
	if string(c.bytes(8)) != "PGBKWALS" || c.u8() != 1 {
		return nil, nil, damage("the object header")
	}
	flags := c.u8()
	if flags&^2 != r.flags() || !bytes.Equal(c.bytes(2), []byte{0, 0}) {
		return nil, nil, damage("the object header")
	}
	if content, err = r.walContent(c, object, key); err != nil {
		return nil, nil, err
	}
	if flags&2 != 0 {
		if sum, err = r.summary(c.b, key); err != nil {
			return nil, nil, err
		}
		c.b = nil
	}
	return content, sum, c.end()
}

// walContent reads the rest of the header, and the frames.
func (r *repository) walContent(c *cursor, object []byte, key string) ([]byte, error) {
	size, id := c.u64(), c.bytes(32)
	wrapped := c.bytes(uint64(c.u16()))
	n := len(object) - len(c.b)
	if c.u64() != xxh3.Hash(join(object[:n], []byte(key))) {
		return nil, damage("the header's checksum")
	}
	head := object[:n+8]
	secret, err := r.unwrap(wrapped)
	if err != nil {
		return nil, err
	}
	var out []byte
	for number := uint64(0); uint64(len(out)) < size && c.err == nil; number++ {
		frameHead := c.bytes(9)
		h := &cursor{b: frameHead}
		codec, plain, stored := h.u8(), h.u32(), h.u32()
		payload, err := unseal(secret, c.bytes(uint64(stored)), number, join(frameHead, head, []byte(key)))
		if err != nil {
			return nil, fmt.Errorf("frame %d: %w", number, err)
		}
		content, err := expand(codec, payload, int(plain))
		if err != nil {
			return nil, fmt.Errorf("frame %d: %w", number, err)
		}
		out = append(out, content...)
	}
	if c.err != nil {
		return nil, c.err
	}
	if got, err := r.contentID(out); err != nil || !bytes.Equal(got, id) || uint64(len(out)) != size {
		return nil, damage("the content id, %v", err)
	}
	return out, nil
}

// summary is section 10.1; table is not looked into.
type summary struct {
	timeline uint32
	from, to uint64
	table    []byte
}

// summary reads what follows the frames of the object: from the end, as a
// reader that does not have the rest would.
func (r *repository) summary(b []byte, key string) (*summary, error) {
	if len(b) < 16+24 {
		return nil, damage("a summary of %d bytes", len(b))
	}
	tail := &cursor{b: b[len(b)-24:]}
	sum := xxh3.Hash(join(tail.b[:16], []byte(key)))
	length := uint64(tail.u32())
	if tail.u32() != 0 || string(tail.bytes(8)) != "PGBKWEND" || tail.u64() != sum || uint64(len(b)) != 16+length+24 {
		return nil, damage("a summary's tail")
	}
	c := &cursor{b: b[16 : len(b)-24]}
	typ, content, err := r.block(c, b[:16], key, 0)
	if err != nil || typ != 'S' || c.end() != nil {
		return nil, damage("a summary's block of type %q, %v", typ, err)
	}
	c = &cursor{b: content}
	if c.u8() != 1 || !bytes.Equal(c.bytes(3), []byte{0, 0, 0}) {
		return nil, damage("a summary's version")
	}
	s := &summary{timeline: c.u32(), from: c.u64(), to: c.u64()}
	s.table = c.b
	return s, c.err
}
