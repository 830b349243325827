// Package crc32c computes the CRC-32C (Castagnoli) that PostgreSQL puts on WAL
// records, pg_control and backup manifests, and puts checksums of parts together
// without the parts' bytes.
//
// A checksum is the finished value, as PostgreSQL stores it: initial value all
// ones, final inversion. The checksum of nothing is 0, so 0 is what a chain of
// Update starts from.
package crc32c

import (
	"hash/crc32"
	"math/bits"
	"sync"
)

// Update is the checksum of a text whose checksum was crc, followed by p.
// It uses the processor's CRC instructions where there are any.
func Update(crc uint32, p []byte) uint32 {
	return crc32.Update(crc, crc32.MakeTable(crc32.Castagnoli), p)
}

// Combine is the checksum of two texts one after the other, from the checksum of
// each and the length in bytes of the second. It takes a step for every bit that
// is set in len2. A len2 below 1 means that there is no second text.
func Combine(crc1, crc2 uint32, len2 int64) uint32 {
	if len2 <= 0 {
		return crc1
	}
	return shift(crc1, uint64(len2)) ^ crc2
}

// Zeros is the checksum of a text whose checksum was crc, followed by n bytes of
// zero. An n below 1 adds none. It costs what Combine costs.
func Zeros(crc uint32, n int64) uint32 {
	if n <= 0 {
		return crc
	}
	return ^shift(^crc, uint64(n))
}

// A checksum is a polynomial over GF(2) modulo the generator, bit 31 being the
// coefficient of x^0. Reading n bytes of zero multiplies it by x^(8n); the
// operators for every power of two together give any n.

// shift multiplies crc by x^(8n).
func shift(crc uint32, n uint64) uint32 {
	ops := operators()
	for ; n != 0; n &= n - 1 {
		crc = multiply(ops[bits.TrailingZeros64(n)], crc)
	}
	return crc
}

// operators gives x^(8*2^k) for every k that a length of 64 bits can have set.
var operators = sync.OnceValue(func() *[64]uint32 {
	var ops [64]uint32
	op := uint32(1) << (31 - 8)
	for k := range ops {
		ops[k] = op
		op = multiply(op, op)
	}
	return &ops
})

// multiply is the product of two polynomials modulo the generator. It walks over
// the coefficients of a from x^0 up, multiplies b by x at every step, and ends
// with the last coefficient that is set: a short operator is a cheap one.
func multiply(a, b uint32) uint32 {
	var product uint32
	for ; a != 0; a <<= 1 {
		product ^= b & -(a >> 31)
		b = b>>1 ^ crc32.Castagnoli&-(b&1)
	}
	return product
}
