// Package codec compresses and decompresses frames. It is a small seam of its
// own because compression is where the CPU time of a backup goes.
//
// All zstd output is standard zstd (RFC 8878): a build with cgo encodes and
// decodes by libzstd (github.com/DataDog/zstd), a pure Go build by
// github.com/klauspost/compress, and each reads what the other wrote
// (codec_test.go). s2 is the block format of github.com/klauspost/compress/s2.
//
// A frame never carries its own decompressed size as the truth: the caller
// knows it from the repository's metadata and every decoder refuses content of
// any other length, so hostile bytes cannot make it allocate.
package codec

import (
	"fmt"

	"github.com/klauspost/compress/s2"
)

// ID names a codec in the repository format. The values are on disk.
type ID uint8

// The codecs of repository format 1.
const (
	None ID = 0
	Zstd ID = 1
	S2   ID = 2
)

// DefaultZstdLevel is the level used where the configuration says "zstd".
// docs/BENCHMARKS.md shows how it was chosen.
const DefaultZstdLevel = 2

// String gives the name used in the configuration.
func (id ID) String() string {
	switch id {
	case None:
		return "none"
	case Zstd:
		return "zstd"
	case S2:
		return "s2"
	}
	return fmt.Sprintf("codec %d", uint8(id))
}

// Encoder compresses frames with one codec. It is not safe for concurrent
// use: every worker has its own.
type Encoder interface {
	// Encode appends the compressed form of src to dst[:0] and returns it.
	Encode(dst, src []byte) ([]byte, error)
}

// NewEncoder makes an encoder; level matters to zstd only (1 to 19).
func NewEncoder(id ID, level int) (Encoder, error) {
	switch id {
	case None:
		return storeEncoder{}, nil
	case S2:
		return s2Encoder{}, nil
	case Zstd:
		if level < 1 || level > 19 {
			return nil, fmt.Errorf("zstd level %d is outside 1 to 19", level)
		}
		return newZstdEncoder(level)
	}
	return nil, fmt.Errorf("unknown codec %d", uint8(id))
}

// DefaultWALLevel is the level of zstd for WAL where the configuration names none.
// Frames of WAL have 1 MiB, in which level 3 finds a sixth more than level 2 for a
// tenth more CPU time; in those of 128 KiB it finds next to nothing.
const DefaultWALLevel = 3

// NewWALEncoder makes an encoder for frames of WAL. It is that of NewEncoder, but
// for zstd at its default level: there it is tuned to what WAL is, where the
// library can be.
func NewWALEncoder(id ID, level int) (Encoder, error) {
	if id == Zstd && level == DefaultWALLevel {
		if enc := newTunedEncoder(level); enc != nil {
			return enc, nil
		}
	}
	return NewEncoder(id, level)
}

type storeEncoder struct{}

func (storeEncoder) Encode(dst, src []byte) ([]byte, error) { return append(dst[:0], src...), nil }

type s2Encoder struct{}

func (s2Encoder) Encode(dst, src []byte) ([]byte, error) {
	return s2.Encode(dst[:cap(dst)], src), nil
}

// Decoder decompresses frames of every codec. It is not safe for concurrent
// use: every worker has its own.
type Decoder struct {
	zstd zstdDecoder
}

// NewDecoder makes a decoder. It costs nothing until the first frame.
func NewDecoder() *Decoder { return &Decoder{} }

// Decode decompresses src into dst, which has exactly the length that the
// content must have; content of any other length is an error.
func (d *Decoder) Decode(dst, src []byte, id ID) error {
	switch id {
	case None:
		if len(src) != len(dst) {
			return fmt.Errorf("stored frame has %d bytes, want %d", len(src), len(dst))
		}
		copy(dst, src)
		return nil
	case S2:
		return decodeS2(dst, src)
	case Zstd:
		return d.zstd.decode(dst, src)
	}
	return fmt.Errorf("unknown codec %d", uint8(id))
}

func decodeS2(dst, src []byte) error {
	n, err := s2.DecodedLen(src)
	if err != nil {
		return fmt.Errorf("s2: %w", err)
	}
	if n != len(dst) {
		return fmt.Errorf("s2 frame has %d bytes, want %d", n, len(dst))
	}
	if n == 0 {
		return nil
	}
	if _, err := s2.Decode(dst, src); err != nil {
		return fmt.Errorf("s2: %w", err)
	}
	return nil
}
