//go:build cgo && linux

package codec

/*
#include <stddef.h>

// Of zstd.h, whose code github.com/DataDog/zstd brings into the program; it does
// not hand on the parameters. Weak: a library without one of them, which a build
// can ask for, leaves it at zero, and then the level is used as it is.
typedef struct ZSTD_CCtx_s ZSTD_CCtx;
#define weak __attribute__((weak))
extern weak ZSTD_CCtx *ZSTD_createCCtx(void);
extern weak size_t ZSTD_freeCCtx(ZSTD_CCtx *);
extern weak size_t ZSTD_CCtx_setParameter(ZSTD_CCtx *, int, int);
extern weak size_t ZSTD_compress2(ZSTD_CCtx *, void *, size_t, const void *, size_t);
extern weak size_t ZSTD_compressBound(size_t);
extern weak unsigned ZSTD_isError(size_t);

enum { level = 100, hashLog = 102, chainLog = 103, blockSplitter = 1017 }; // ZSTD_cParameter

static int tuned(ZSTD_CCtx *c, int parameter, int value) {
	return !ZSTD_isError(ZSTD_CCtx_setParameter(c, parameter, value));
}

// newTuned gives 0 where the library cannot be tuned.
static ZSTD_CCtx *newTuned(int l, int table) {
	if (!ZSTD_createCCtx || !ZSTD_freeCCtx || !ZSTD_CCtx_setParameter || !ZSTD_compress2 || !ZSTD_compressBound || !ZSTD_isError) return 0;
	ZSTD_CCtx *c = ZSTD_createCCtx();
	if (c && tuned(c, level, l) && tuned(c, hashLog, table) && tuned(c, chainLog, table) && tuned(c, blockSplitter, 1)) return c;
	ZSTD_freeCCtx(c);
	return 0;
}

// compressTuned gives a negative number when it fails.
static long long compressTuned(ZSTD_CCtx *c, void *dst, size_t room, const void *src, size_t n) {
	size_t got = ZSTD_compress2(c, dst, room, src, n);
	return ZSTD_isError(got) ? -1 : (long long)got;
}

static size_t bound(size_t n) { return ZSTD_compressBound(n); }
static void freeTuned(ZSTD_CCtx *c) { ZSTD_freeCCtx(c); }
*/
import "C"

import (
	"errors"
	"runtime"
	"unsafe"

	_ "github.com/DataDog/zstd" // the library itself
)

// walTable is the logarithm of the entries in each of the two tables by which
// tunedEncoder finds repetitions.
const walTable = 15

// tunedEncoder is libzstd at a level, with smaller tables than the level has,
// which stay in the processor's cache, and without looking for better places to
// cut blocks. docs/BENCHMARKS.md shows what that is worth for WAL.
type tunedEncoder struct{ ctx *C.ZSTD_CCtx }

// newTunedEncoder gives nil where that cannot be had.
func newTunedEncoder(level int) Encoder {
	ctx := C.newTuned(C.int(level), walTable)
	if ctx == nil {
		return nil
	}
	e := &tunedEncoder{ctx}
	runtime.AddCleanup(e, func(ctx *C.ZSTD_CCtx) { C.freeTuned(ctx) }, ctx)
	return e
}

func (e *tunedEncoder) Encode(dst, src []byte) ([]byte, error) {
	if room := int(C.bound(C.size_t(len(src)))); cap(dst) < room {
		dst = make([]byte, room)
	}
	dst = dst[:cap(dst)]
	n := C.compressTuned(e.ctx, unsafe.Pointer(unsafe.SliceData(dst)), C.size_t(len(dst)), unsafe.Pointer(unsafe.SliceData(src)), C.size_t(len(src)))
	runtime.KeepAlive(e) // its cleanup frees ctx: not during the call
	if n < 0 {
		return nil, errors.New("zstd: it cannot be compressed")
	}
	return dst[:n], nil
}
