package formattest

import (
	"bytes"
	"crypto/aes"
	"crypto/cipher"
	"crypto/hkdf"
	"crypto/sha256"
	"encoding/binary"

	"github.com/klauspost/compress/s2"
	"github.com/klauspost/compress/zstd"
	"github.com/zeebo/xxh3"
)

// unseal is section 3.3; key is nil in a plain repository.
func unseal(key, sealed []byte, number uint64, context []byte) ([]byte, error) {
	if key == nil {
		if len(sealed) < 8 {
			return nil, damage("a seal is cut")
		}
		n := len(sealed) - 8
		if xxh3.HashSeed(sealed[:n], xxh3.HashSeed(context, number)) != binary.LittleEndian.Uint64(sealed[n:]) {
			return nil, damage("a checksum does not match")
		}
		return sealed[:n], nil
	}
	block, err := aes.NewCipher(key)
	if err != nil {
		return nil, err
	}
	gcm, err := cipher.NewGCM(block)
	if err != nil {
		return nil, err
	}
	nonce := binary.LittleEndian.AppendUint64(nil, number)
	return gcm.Open(nil, append(nonce, 0, 0, 0, 0), sealed, context)
}

// expand is section 3.1.
func expand(codec byte, payload []byte, plain int) ([]byte, error) {
	out := payload
	var err error
	switch codec {
	case 0:
	case 1:
		var dec *zstd.Decoder
		if dec, err = zstd.NewReader(nil); err != nil {
			return nil, err
		}
		defer dec.Close()
		out, err = dec.DecodeAll(payload, nil)
	case 2:
		out, err = s2.Decode(nil, payload)
	default:
		return nil, damage("codec %d", codec)
	}
	if err != nil {
		return nil, err
	}
	if len(out) != plain {
		return nil, damage("%d bytes, want %d", len(out), plain)
	}
	return out, nil
}

// metadataKey is the end of section 3.3.
func (r *repository) metadataKey(operation []byte, key string) ([]byte, error) {
	if r.secrets == nil {
		return nil, nil
	}
	return hkdf.Key(sha256.New, r.secrets.MetaKey, operation, "pgbak metadata "+key, 32)
}

// openHeader is section 5; it gives the operation and what follows.
func (r *repository) openHeader(object []byte, magic string) (operation, rest []byte, err error) {
	c := &cursor{b: object}
	if string(c.bytes(8)) != magic || c.u8() != 1 || c.u8() != r.flags() || !bytes.Equal(c.bytes(2), []byte{0, 0}) {
		return nil, nil, damage("the object header")
	}
	operation = c.bytes(16)
	return operation, c.b, c.err
}

func (r *repository) flags() byte {
	if r.secrets != nil {
		return 1
	}
	return 0
}

// block is section 6: it reads block number n from c.
func (r *repository) block(c *cursor, operation []byte, key string, n uint64) (typ byte, content []byte, err error) {
	head := c.bytes(10)
	h := &cursor{b: head}
	typ, codec, stored, plain := h.u8(), h.u8(), h.u32(), h.u32()
	if plain < 1 || plain > 1<<25 {
		return 0, nil, damage("a block of %d bytes", plain)
	}
	sealed := c.bytes(uint64(stored))
	if c.err != nil {
		return 0, nil, c.err
	}
	secret, err := r.metadataKey(operation, key)
	if err != nil {
		return 0, nil, err
	}
	payload, err := unseal(secret, sealed, n, join(head, []byte(key)))
	if err != nil {
		return 0, nil, err
	}
	content, err = expand(codec, payload, int(plain))
	return typ, content, err
}
