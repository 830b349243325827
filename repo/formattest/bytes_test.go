// Package formattest reads sample repositories by a reader of its own, written
// from docs/REPOSITORY.md alone: it shares no code with package repo. When it
// fails, the format was changed or the page is wrong.
package formattest

import (
	"encoding/binary"
	"errors"
	"fmt"
	"slices"
)

var errDamage = errors.New("damage")

func damage(format string, args ...any) error {
	return fmt.Errorf("%w: %s", errDamage, fmt.Sprintf(format, args...))
}

// cursor reads the encodings of section 1. A failure stays in err and makes
// everything after it zero.
type cursor struct {
	b   []byte
	err error
}

func (c *cursor) bytes(n uint64) []byte {
	if c.err == nil && n > uint64(len(c.b)) {
		c.err = damage("%d bytes are wanted, %d are there", n, len(c.b))
	}
	if c.err != nil {
		return make([]byte, min(n, 32))
	}
	p := c.b[:n]
	c.b = c.b[n:]
	return p
}

func (c *cursor) u8() byte    { return c.bytes(1)[0] }
func (c *cursor) u16() uint16 { return binary.LittleEndian.Uint16(c.bytes(2)) }
func (c *cursor) u32() uint32 { return binary.LittleEndian.Uint32(c.bytes(4)) }
func (c *cursor) u64() uint64 { return binary.LittleEndian.Uint64(c.bytes(8)) }

func (c *cursor) uvarint() uint64 {
	v, n := binary.Uvarint(c.b)
	if n <= 0 && c.err == nil {
		c.err = damage("a number has no end")
	}
	if c.err != nil {
		return 0
	}
	c.b = c.b[n:]
	return v
}

// below reads a number that must be less than limit.
func (c *cursor) below(limit int) int {
	v := c.uvarint()
	if c.err == nil && v >= uint64(limit) {
		c.err = damage("%d is not below %d", v, limit)
	}
	if c.err != nil {
		return 0
	}
	return int(v)
}

func (c *cursor) string() string { return string(c.bytes(c.uvarint())) }

func (c *cursor) path(before string) string {
	n := c.below(len(before) + 1)
	return before[:n] + c.string()
}

// each calls f as often as the number that it reads says.
func (c *cursor) each(f func()) {
	for n := c.uvarint(); n > 0 && c.err == nil; n-- {
		f()
	}
}

func (c *cursor) end() error {
	if c.err == nil && len(c.b) > 0 {
		c.err = damage("%d bytes are left over", len(c.b))
	}
	return c.err
}

func join(parts ...[]byte) []byte { return slices.Concat(parts...) }

func u32(v uint32) []byte { return binary.LittleEndian.AppendUint32(nil, v) }
