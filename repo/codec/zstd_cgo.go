//go:build cgo

package codec

import (
	"fmt"
	"runtime"

	"github.com/DataDog/zstd"
)

// Implementation names the zstd library of this build.
func Implementation() string { return "libzstd" }

type zstdEncoder struct {
	ctx   zstd.Ctx
	level int
}

func newZstdEncoder(level int) (Encoder, error) {
	return &zstdEncoder{ctx: zstd.NewCtx(), level: level}, nil
}

func (e *zstdEncoder) Encode(dst, src []byte) ([]byte, error) {
	// The binding compresses into dst[:cap] when it is large enough for the worst case.
	out, err := e.ctx.CompressLevel(dst[:cap(dst)], src, e.level)
	// The context's finalizer frees C memory: it must not run during the call.
	runtime.KeepAlive(e)
	if err != nil {
		return nil, fmt.Errorf("zstd: %w", err)
	}
	return out, nil
}

type zstdDecoder struct {
	ctx zstd.Ctx
}

func (d *zstdDecoder) decode(dst, src []byte) error {
	if len(dst) == 0 || len(src) == 0 {
		return fmt.Errorf("zstd: empty frame")
	}
	if d.ctx == nil {
		d.ctx = zstd.NewCtx()
	}
	n, err := d.ctx.DecompressInto(dst, src)
	runtime.KeepAlive(d)
	if err != nil {
		return fmt.Errorf("zstd: %w", err)
	}
	if n != len(dst) {
		return fmt.Errorf("zstd frame has %d bytes, want %d", n, len(dst))
	}
	return nil
}
