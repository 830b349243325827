package repo

import (
	"crypto/hmac"
	"crypto/sha256"
	"encoding/hex"
	"fmt"
	"hash"

	"github.com/zeebo/blake3"
)

// ContentID names content by its bytes: BLAKE3 or SHA-256, in an encrypted
// repository keyed with the repository's id key, so that the store learns
// nothing by guessing content.
type ContentID [32]byte

// String gives the hexadecimal form.
func (id ContentID) String() string { return hex.EncodeToString(id[:]) }

// contentHasher computes content ids; not safe for concurrent use.
type contentHasher struct {
	h hash.Hash
}

func newContentHasher(algorithm string, keys *keyring) (*contentHasher, error) {
	switch {
	case algorithm == IDBlake3 && keys == nil:
		return &contentHasher{h: blake3.New()}, nil
	case algorithm == IDBlake3:
		h, err := blake3.NewKeyed(keys.idKey[:])
		if err != nil {
			return nil, fmt.Errorf("keyed blake3: %w", err)
		}
		return &contentHasher{h: h}, nil
	case algorithm == IDSHA256 && keys == nil:
		return &contentHasher{h: sha256.New()}, nil
	case algorithm == IDSHA256:
		return &contentHasher{h: hmac.New(sha256.New, keys.idKey[:])}, nil
	}
	return nil, fmt.Errorf("unknown content id algorithm %q", algorithm)
}

func (c *contentHasher) sum(p []byte) ContentID {
	c.h.Reset()
	c.h.Write(p) // a hash.Hash never returns an error
	var id ContentID
	c.h.Sum(id[:0])
	return id
}
