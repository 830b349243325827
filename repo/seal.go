package repo

import (
	"crypto/aes"
	"crypto/cipher"
	"crypto/hkdf"
	"crypto/sha256"
	"encoding/binary"
	"errors"
	"fmt"

	"github.com/zeebo/xxh3"
)

// sealer closes a run of bytes so that a change of it, or bytes of another
// place standing in this one, is noticed: by AES-256-GCM in an encrypted
// repository, by a seeded xxh3 checksum in a plain one.
//
// number and context say what the bytes are. With a key, a number is used once
// for one content only: keys are per operation and numbers count up, so nonces
// are deterministic and never repeat. Safe for concurrent use.
type sealer struct {
	aead cipher.AEAD // nil: checksum only
}

var errSeal = errors.New("checksum or authentication tag does not match")

const (
	plainOverhead = 8  // xxh3-64
	gcmOverhead   = 16 // tag
)

func newSealer(key *[32]byte) (sealer, error) {
	if key == nil {
		return sealer{}, nil
	}
	block, err := aes.NewCipher(key[:])
	if err != nil {
		return sealer{}, fmt.Errorf("aes: %w", err)
	}
	aead, err := cipher.NewGCM(block)
	if err != nil {
		return sealer{}, fmt.Errorf("gcm: %w", err)
	}
	return sealer{aead: aead}, nil
}

func (s sealer) overhead() int {
	if s.aead == nil {
		return plainOverhead
	}
	return gcmOverhead
}

// nonce spreads number over the 96 bits of GCM's nonce.
func nonce(number uint64) [12]byte {
	var n [12]byte
	binary.LittleEndian.PutUint64(n[:8], number)
	return n
}

func plainCheck(payload []byte, number uint64, context []byte) uint64 {
	return xxh3.HashSeed(payload, xxh3.HashSeed(context, number))
}

// seal appends the sealed payload to dst.
func (s sealer) seal(dst, payload []byte, number uint64, context []byte) []byte {
	if s.aead == nil {
		dst = append(dst, payload...)
		return binary.LittleEndian.AppendUint64(dst, plainCheck(payload, number, context))
	}
	n := nonce(number)
	return s.aead.Seal(dst, n[:], payload, context)
}

// open verifies sealed and gives its payload, in place: sealed is overwritten.
func (s sealer) open(sealed []byte, number uint64, context []byte) ([]byte, error) {
	if len(sealed) < s.overhead() {
		return nil, errSeal
	}
	if s.aead == nil {
		payload, check := sealed[:len(sealed)-plainOverhead], sealed[len(sealed)-plainOverhead:]
		if binary.LittleEndian.Uint64(check) != plainCheck(payload, number, context) {
			return nil, errSeal
		}
		return payload, nil
	}
	n := nonce(number)
	payload, err := s.aead.Open(sealed[:0], n[:], sealed, context)
	if err != nil {
		return nil, errSeal
	}
	return payload, nil
}

// metaSealer is the sealer of one metadata object. The operation's id makes
// the key unique: an operation writes each of its objects once.
func (k *keyring) metaSealer(operation [16]byte, subject string) (sealer, error) {
	if k == nil {
		return sealer{}, nil
	}
	derived, err := hkdf.Key(sha256.New, k.metaKey[:], operation[:], "pgbak metadata "+subject, 32)
	if err != nil {
		return sealer{}, fmt.Errorf("derive metadata key: %w", err)
	}
	var key [32]byte
	copy(key[:], derived)
	return newSealer(&key)
}
