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

// wal is section 10.
func (r *repository) wal(key string) ([]byte, error) {
	object, err := r.object(key)
	if err != nil {
		return nil, err
	}
	c := &cursor{b: object}
	if string(c.bytes(8)) != "PGBKWALS" || c.u8() != 1 || c.u8() != r.flags() || !bytes.Equal(c.bytes(2), []byte{0, 0}) {
		return nil, damage("the object header")
	}
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
	if err := c.end(); err != nil {
		return nil, err
	}
	if got, err := r.contentID(out); err != nil || !bytes.Equal(got, id) || uint64(len(out)) != size {
		return nil, damage("the content id, %v", err)
	}
	return out, nil
}
