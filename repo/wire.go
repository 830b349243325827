package repo

import (
	"encoding/binary"
	"errors"
	"fmt"
	"math"
)

// errWire is the cause of every decoding failure of binary metadata.
var errWire = errors.New("encoding is not valid")

// wireWriter builds binary metadata: unsigned LEB128 numbers, byte strings
// with their length, fixed fields in little-endian order.
type wireWriter struct{ b []byte }

func (w *wireWriter) uvarint(v uint64) { w.b = binary.AppendUvarint(w.b, v) }
func (w *wireWriter) byte(v byte)      { w.b = append(w.b, v) }
func (w *wireWriter) raw(p []byte)     { w.b = append(w.b, p...) }
func (w *wireWriter) u32(v uint32)     { w.b = binary.LittleEndian.AppendUint32(w.b, v) }
func (w *wireWriter) u64(v uint64)     { w.b = binary.LittleEndian.AppendUint64(w.b, v) }
func (w *wireWriter) string(s string) {
	w.uvarint(uint64(len(s)))
	w.b = append(w.b, s...)
}

// path front-codes s against prev: the length of the common prefix, then the rest.
func (w *wireWriter) path(prev, s string) {
	n := 0
	for n < len(prev) && n < len(s) && prev[n] == s[n] {
		n++
	}
	w.uvarint(uint64(n))
	w.string(s[n:])
}

// wireReader reads what wireWriter wrote. After the first failure every read
// gives zero, so a decoder checks err once per group of fields; lengths are
// checked against what is left before anything is allocated.
type wireReader struct {
	b   []byte
	err error
}

func (r *wireReader) fail(what string) {
	if r.err == nil {
		r.err = fmt.Errorf("%w: %s", errWire, what)
	}
}

func (r *wireReader) uvarint() uint64 {
	if r.err != nil {
		return 0
	}
	v, n := binary.Uvarint(r.b)
	if n <= 0 {
		r.fail("number runs past the end")
		return 0
	}
	r.b = r.b[n:]
	return v
}

// number reads a number that must not exceed limit.
func (r *wireReader) number(limit uint64, what string) uint64 {
	v := r.uvarint()
	if v > limit {
		r.fail(fmt.Sprintf("%s %d is over %d", what, v, limit))
		return 0
	}
	return v
}

// count reads a number of items, each of which takes at least one byte.
func (r *wireReader) count(what string) int {
	v := r.uvarint()
	if v > uint64(len(r.b)) {
		r.fail(fmt.Sprintf("%d %s in %d bytes", v, what, len(r.b)))
		return 0
	}
	return int(v)
}

func (r *wireReader) int63(what string) int64 { return int64(r.number(math.MaxInt64, what)) }

func (r *wireReader) take(n int) []byte {
	if r.err != nil {
		return nil
	}
	if n < 0 || n > len(r.b) {
		r.fail("field runs past the end")
		return nil
	}
	p := r.b[:n]
	r.b = r.b[n:]
	return p
}

func (r *wireReader) byte() byte {
	if p := r.take(1); p != nil {
		return p[0]
	}
	return 0
}

func (r *wireReader) u32() uint32 {
	if p := r.take(4); p != nil {
		return binary.LittleEndian.Uint32(p)
	}
	return 0
}

func (r *wireReader) u64() uint64 {
	if p := r.take(8); p != nil {
		return binary.LittleEndian.Uint64(p)
	}
	return 0
}

func (r *wireReader) string(limit int) string {
	return string(r.take(int(r.number(uint64(limit), "length"))))
}

func (r *wireReader) path(prev string) string {
	n := int(r.number(uint64(len(prev)), "common prefix"))
	rest := r.string(maxPath - min(n, maxPath)) // a path longer than its predecessor must not grow without end
	if r.err != nil {
		return ""
	}
	return prev[:n] + rest
}

// end fails when bytes are left over.
func (r *wireReader) end() error {
	if r.err == nil && len(r.b) != 0 {
		r.fail(fmt.Sprintf("%d bytes too many", len(r.b)))
	}
	return r.err
}

// maxPath bounds a path inside a backup, as PostgreSQL's MAXPGPATH does.
const maxPath = 1024
