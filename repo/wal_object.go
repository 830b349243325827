package repo

import (
	"crypto/rand"
	"encoding/binary"
	"fmt"

	"github.com/zeebo/xxh3"

	"github.com/pgbak/pgbak/repo/codec"
)

// A WAL object:
//
//	magic 8 | version 1 | flags 1 | zero 2 | plain size 8 | content id 32 | wrapped key length 2 | wrapped key | xxh3 of all before 8
//	frames: codec 1 | plain length 4 | stored length 4 | sealed bytes
//	with flagSummary: a summary
//
// Frames follow until their plain lengths sum up to the plain size; nothing
// but the summary follows them. The content id is that of the whole plain content. The header's
// xxh3 is of the header followed by the object's key. A frame's seal covers its
// number, its header, the object's header and key, so that neither frames of
// two segments nor whole segments can stand for one another.

const (
	walHeaderFixed = 8 + 4 + 8 + 32 + 2
	walFrameHeader = 9
	walFrameSize   = 1 << 20
	maxWAL         = 1 << 30 // PostgreSQL's largest segment
)

// walHeader is the beginning of a WAL object.
type walHeader struct {
	size    int64
	id      ContentID
	wrapped []byte
	summary bool // follows the frames
}

func (h walHeader) encode(key string) []byte {
	flags := byte(0)
	if len(h.wrapped) > 0 {
		flags = flagEncrypted
	}
	if h.summary {
		flags |= flagSummary
	}
	b := append(make([]byte, 0, walHeaderFixed+len(h.wrapped)+8), walMagic...)
	b = append(b, objectVersion, flags, 0, 0)
	b = binary.LittleEndian.AppendUint64(b, uint64(h.size))
	b = append(b, h.id[:]...)
	b = binary.LittleEndian.AppendUint16(b, uint16(len(h.wrapped)))
	b = append(b, h.wrapped...)
	return binary.LittleEndian.AppendUint64(b, walSum(b, key))
}

func walSum(head []byte, key string) uint64 {
	return xxh3.Hash(append(append(make([]byte, 0, len(head)+len(key)), head...), key...))
}

// decodeWALHeader reads a header from the beginning of b and gives its length.
func decodeWALHeader(key string, b []byte, encrypted bool) (h walHeader, n int, err error) {
	if len(b) < walHeaderFixed || string(b[:8]) != walMagic {
		return h, 0, damagedf(key, "header", "it does not begin with %s", walMagic)
	}
	if b[8] != objectVersion {
		return h, 0, newerFormat(key, fmt.Sprintf("object version %d", b[8]))
	}
	wrapped := int(binary.LittleEndian.Uint16(b[walHeaderFixed-2:]))
	n = walHeaderFixed + wrapped + 8
	if wrapped > maxWrapped || len(b) < n {
		return h, 0, damagedf(key, "header", "the object ends early")
	}
	if walSum(b[:n-8], key) != binary.LittleEndian.Uint64(b[n-8:]) {
		return h, 0, damaged(key, "header", errSeal)
	}
	h.summary = b[9]&flagSummary != 0
	want := b[9] & flagSummary
	if encrypted {
		want |= flagEncrypted
	}
	if b[9] != want || b[10] != 0 || b[11] != 0 || (wrapped > 0) != encrypted {
		return h, 0, damagedf(key, "header", "flags %02x, want %02x", b[9:12], want)
	}
	h.size = int64(binary.LittleEndian.Uint64(b[12:]))
	if h.size < 0 || h.size > maxWAL {
		return h, 0, damagedf(key, "header", "size %d is out of bounds", h.size)
	}
	copy(h.id[:], b[20:])
	h.wrapped = b[walHeaderFixed : walHeaderFixed+wrapped]
	return h, n, nil
}

// walSealer makes the object of one repository out of frames, in their order.
type walSealer struct {
	s    sealer
	head []byte // of the object, and its key
	size int    // bytes of the head without the key
	n    uint64
}

func (r *Repository) newWALSealer(key string, h walHeader) (*walSealer, error) {
	w := &walSealer{}
	if r.keys != nil {
		var data [32]byte
		if _, err := rand.Read(data[:]); err != nil {
			return nil, fmt.Errorf("make a data key: %w", err)
		}
		var err error
		if h.wrapped, err = r.keys.wrapDataKey(&data); err != nil {
			return nil, fmt.Errorf("wrap the data key: %w", err)
		}
		if w.s, err = newSealer(&data); err != nil {
			return nil, err
		}
	}
	head := h.encode(key)
	w.head, w.size = append(head, key...), len(head)
	return w, nil
}

// whole gives the object of all frames and the sealed summary, if there is one,
// in one buffer, which is made once.
func (w *walSealer) whole(frames []walFrame, summary []byte) []byte {
	size := w.size + len(summary)
	for _, f := range frames {
		size += walFrameHeader + len(f.payload) + w.s.overhead()
	}
	b := append(make([]byte, 0, size), w.head[:w.size]...)
	for _, f := range frames {
		b = w.frame(b, f)
	}
	return append(b, summary...)
}

// frame appends the next frame, sealed.
func (w *walSealer) frame(dst []byte, f walFrame) []byte {
	head := walFrameHead(f.codec, f.plain, len(f.payload)+w.s.overhead())
	dst = append(dst, head...)
	dst = w.s.seal(dst, f.payload, w.n, walContext(head, w.head))
	w.n++
	return dst
}

func walFrameHead(id codec.ID, plain, stored int) []byte {
	b := append(make([]byte, 0, walFrameHeader), byte(id))
	b = binary.LittleEndian.AppendUint32(b, uint32(plain))
	return binary.LittleEndian.AppendUint32(b, uint32(stored))
}

func walContext(frame, object []byte) []byte {
	return append(append(make([]byte, 0, len(frame)+len(object)), frame...), object...)
}
