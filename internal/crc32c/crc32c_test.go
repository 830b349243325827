package crc32c

import (
	"fmt"
	"math"
	"math/rand/v2"
	"testing"
)

// The check value and the zero vectors of RFC 3720, appendix B.4 (iSCSI), which
// prints the bytes in the order of transmission.
func TestUpdateKnownValues(t *testing.T) {
	ones := make([]byte, 32)
	for i := range ones {
		ones[i] = 0xFF
	}
	for _, c := range []struct {
		name string
		text []byte
		want uint32
	}{
		{"nothing", nil, 0},
		{"check value", []byte("123456789"), 0xE3069283},
		{"32 zeros", make([]byte, 32), 0x8A9136AA},
		{"32 ones", ones, 0x62A8AB43},
	} {
		if got := Update(0, c.text); got != c.want {
			t.Errorf("%s: %08X, want %08X", c.name, got, c.want)
		}
	}
}

// lengths covers none, each power of two and its neighbours, and random ones.
func lengths(random *rand.Rand) []int {
	list := []int{0}
	for k := range 18 {
		list = append(list, 1<<k, 1<<k+1, 1<<k-1)
	}
	for range 50 {
		list = append(list, random.IntN(1<<18))
	}
	return list
}

func randomText(random *rand.Rand, n int) []byte {
	text := make([]byte, n)
	for i := range text {
		text[i] = byte(random.Uint32())
	}
	return text
}

func TestUpdateInPartsEqualsWhole(t *testing.T) {
	random := rand.New(rand.NewPCG(1, 2))
	text := randomText(random, 5000)
	whole := Update(0, text)
	for range 100 {
		cut := random.IntN(len(text) + 1)
		if got := Update(Update(0, text[:cut]), text[cut:]); got != whole {
			t.Fatalf("cut at %d: %08X, want %08X", cut, got, whole)
		}
	}
}

func TestCombineEqualsChecksumOfConcatenation(t *testing.T) {
	random := rand.New(rand.NewPCG(3, 4))
	for _, n := range lengths(random) {
		first, second := randomText(random, random.IntN(100)), randomText(random, n)
		crc1, crc2 := Update(0, first), Update(0, second)
		want := Update(crc1, second)
		if got := Combine(crc1, crc2, int64(n)); got != want {
			t.Fatalf("second text of %d bytes: %08X, want %08X", n, got, want)
		}
	}
}

func TestZerosEqualsChecksumOfZeros(t *testing.T) {
	random := rand.New(rand.NewPCG(5, 6))
	for _, n := range lengths(random) {
		crc := Update(0, randomText(random, random.IntN(100)))
		want := Update(crc, make([]byte, n))
		if got := Zeros(crc, int64(n)); got != want {
			t.Fatalf("%d zeros: %08X, want %08X", n, got, want)
		}
	}
}

// Lengths that no test can write out: associativity must hold for them.
func TestHugeLengths(t *testing.T) {
	const crc = 0xDEADBEEF
	for _, n := range []int64{1 << 32, 1<<40 + 12345, math.MaxInt64 / 3} {
		if got, want := Zeros(crc, 3*n), Zeros(Zeros(Zeros(crc, n), n), n); got != want {
			t.Errorf("%d zeros at once %08X, in three parts %08X", 3*n, got, want)
		}
		if got, want := Combine(crc, Zeros(0, n), n), Zeros(crc, n); got != want {
			t.Errorf("combined with %d zeros %08X, want %08X", n, got, want)
		}
	}
}

func TestNegativeLengthAddsNothing(t *testing.T) {
	if Combine(7, 9, -1) != 7 || Zeros(7, -1) != 7 {
		t.Error("a negative length changed the checksum")
	}
}

func BenchmarkUpdate(b *testing.B) {
	for _, n := range []int{512, 8192, 128 << 10} {
		b.Run(fmt.Sprint(n), func(b *testing.B) {
			text := make([]byte, n)
			b.SetBytes(int64(n))
			for b.Loop() {
				Update(0, text)
			}
		})
	}
}

func BenchmarkCombine(b *testing.B) {
	for _, n := range []int64{8192, 128 << 10, 1 << 30, 123456789, math.MaxInt64} {
		b.Run(fmt.Sprint(n), func(b *testing.B) {
			for b.Loop() {
				Combine(0xDEADBEEF, 0x12345678, n)
			}
		})
	}
}

func BenchmarkZeros(b *testing.B) {
	for b.Loop() {
		Zeros(0xDEADBEEF, 1<<30)
	}
}
