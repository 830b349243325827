//go:build !cgo

package codec

import (
	"errors"
	"fmt"

	"github.com/klauspost/compress/zstd"
)

// Implementation names the zstd library of this build.
func Implementation() string { return "klauspost" }

type zstdEncoder struct{ enc *zstd.Encoder }

func newZstdEncoder(level int) (Encoder, error) {
	enc, err := zstd.NewWriter(nil, zstd.WithEncoderLevel(zstd.EncoderLevelFromZstd(level)),
		zstd.WithEncoderConcurrency(1), zstd.WithEncoderCRC(false), zstd.WithLowerEncoderMem(true))
	if err != nil {
		return nil, fmt.Errorf("zstd: %w", err)
	}
	return &zstdEncoder{enc: enc}, nil
}

func (e *zstdEncoder) Encode(dst, src []byte) ([]byte, error) {
	return e.enc.EncodeAll(src, dst[:0]), nil
}

type zstdDecoder struct{ dec *zstd.Decoder }

// maxDecoded bounds what one call may allocate whatever the frame claims:
// frames of format 1 are at most 1 MiB, metadata blocks at most 32 MiB.
const maxDecoded = 64 << 20

func (d *zstdDecoder) decode(dst, src []byte) error {
	if len(dst) == 0 || len(src) == 0 {
		return errors.New("zstd: empty frame")
	}
	if d.dec == nil {
		dec, err := zstd.NewReader(nil, zstd.WithDecoderConcurrency(1), zstd.WithDecoderMaxMemory(maxDecoded))
		if err != nil {
			return fmt.Errorf("zstd: %w", err)
		}
		d.dec = dec
	}
	out, err := d.dec.DecodeAll(src, dst[:0:len(dst)])
	if err != nil {
		return fmt.Errorf("zstd: %w", err)
	}
	if len(out) != len(dst) {
		return fmt.Errorf("zstd frame has %d bytes, want %d", len(out), len(dst))
	}
	if &out[0] != &dst[0] {
		copy(dst, out)
	}
	return nil
}
