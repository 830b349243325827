package codec

import (
	"bytes"
	"encoding/binary"
	"fmt"
	"math/rand/v2"
	"runtime"
	"testing"

	"github.com/klauspost/compress/s2"
	kzstd "github.com/klauspost/compress/zstd"
)

// contents are frames of the kinds that a cluster has.
func contents() map[string][]byte {
	rng := rand.New(rand.NewPCG(1, 1))
	noise := make([]byte, 128<<10)
	for i := range noise {
		noise[i] = byte(rng.Uint32())
	}
	var rows bytes.Buffer
	for i := 0; rows.Len() < 128<<10; i++ {
		fmt.Fprintf(&rows, "%d|%x|some words that repeat themselves|", i, rng.Uint64())
	}
	return map[string][]byte{
		"one byte": {7}, "zeros": make([]byte, 128<<10), "noise": noise, "rows": rows.Bytes()[:128<<10], "a short page": rows.Bytes()[:100],
		"a block of metadata": bytes.Repeat(rows.Bytes(), 40),
	}
}

// klauspost and the build's own implementation must read each other: in a
// build with cgo these are two libraries.
func klauspostEncode(t testing.TB, src []byte, level int) []byte {
	t.Helper()
	enc, err := kzstd.NewWriter(nil, kzstd.WithEncoderLevel(kzstd.EncoderLevelFromZstd(level)))
	if err != nil {
		t.Fatal(err)
	}
	return enc.EncodeAll(src, nil)
}

func klauspostDecode(t testing.TB, src []byte) []byte {
	t.Helper()
	dec, err := kzstd.NewReader(nil)
	if err != nil {
		t.Fatal(err)
	}
	defer dec.Close()
	out, err := dec.DecodeAll(src, nil)
	if err != nil {
		t.Fatal(err)
	}
	return out
}

func encode(t testing.TB, id ID, level int, src []byte) []byte {
	t.Helper()
	enc, err := NewEncoder(id, level)
	if err != nil {
		t.Fatal(err)
	}
	var out []byte
	for range 2 { // an encoder is used again and again
		if out, err = enc.Encode(out, src); err != nil {
			t.Fatal(err)
		}
	}
	return out
}

func TestZstdIsReadByAnotherLibraryAndReadsItsFrames(t *testing.T) {
	t.Logf("this build compresses by %s", Implementation())
	for title, src := range contents() {
		for _, level := range []int{1, 2, 3, 9, 19} {
			t.Run(fmt.Sprintf("%s at level %d", title, level), func(t *testing.T) {
				if got := klauspostDecode(t, encode(t, Zstd, level, src)); !bytes.Equal(got, src) {
					t.Error("the other library reads other bytes")
				}
				got := make([]byte, len(src))
				if err := NewDecoder().Decode(got, klauspostEncode(t, src, level), Zstd); err != nil || !bytes.Equal(got, src) {
					t.Errorf("the other library's frame: %v", err)
				}
			})
		}
	}
}

func TestFramesOfWALAreReadByAnotherLibrary(t *testing.T) {
	for title, src := range contents() {
		enc, err := NewWALEncoder(Zstd, DefaultWALLevel)
		if err != nil {
			t.Fatal(err)
		}
		var frame []byte
		for range 2 {
			if frame, err = enc.Encode(frame, src); err != nil {
				t.Fatal(err)
			}
		}
		if got := klauspostDecode(t, frame); !bytes.Equal(got, src) {
			t.Errorf("%s: the other library reads other bytes", title)
		}
		if len(frame) > len(encode(t, Zstd, DefaultWALLevel, src))*11/10+16 {
			t.Errorf("%s: %d bytes", title, len(frame))
		}
	}
}

// libzstd can be tuned, which costs no more than a level does: the program is
// linked so that the parameters are found.
func TestTheLibraryCanBeTuned(t *testing.T) {
	enc, err := NewWALEncoder(Zstd, DefaultWALLevel)
	if err != nil {
		t.Fatal(err)
	}
	_, plain := enc.(*zstdEncoder)
	if want := Implementation() != "libzstd" || runtime.GOOS != "linux"; plain != want {
		t.Errorf("%s on %s: %T", Implementation(), runtime.GOOS, enc)
	}
	for _, test := range []struct {
		id    ID
		level int
	}{{Zstd, 2}, {Zstd, 9}, {S2, 0}, {None, 0}} {
		enc, err := NewWALEncoder(test.id, test.level)
		usual, _ := NewEncoder(test.id, test.level)
		if got, want := fmt.Sprintf("%T", enc), fmt.Sprintf("%T", usual); err != nil || got != want {
			t.Errorf("%s:%d is encoded by %s, %v", test.id, test.level, got, err)
		}
	}
	if _, err := NewWALEncoder(Zstd, 20); err == nil {
		t.Error("level 20 is accepted")
	}
}

func TestEveryCodecReadsWhatItWrote(t *testing.T) {
	dec := NewDecoder()
	for _, id := range []ID{None, Zstd, S2} {
		for title, src := range contents() {
			got := make([]byte, len(src))
			if err := dec.Decode(got, encode(t, id, 3, src), id); err != nil || !bytes.Equal(got, src) {
				t.Errorf("%s, %s: %v", id, title, err)
			}
		}
	}
}

func TestEncodersUseTheRoomThatTheyAreGiven(t *testing.T) {
	src := contents()["rows"]
	for _, id := range []ID{None, Zstd, S2} {
		enc, err := NewEncoder(id, 2)
		if err != nil {
			t.Fatal(err)
		}
		room := make([]byte, 0, 2*len(src))
		out, err := enc.Encode(room, src)
		if err != nil || &out[0] != &room[:1][0] {
			t.Errorf("%s: %v, or it allocated", id, err)
		}
	}
}

func TestContentOfAnyOtherLengthIsRefused(t *testing.T) {
	src := contents()["rows"]
	for _, id := range []ID{None, Zstd, S2} {
		frame := encode(t, id, 3, src)
		for _, n := range []int{0, 1, len(src) - 1, len(src) + 1, 2 * len(src)} {
			if err := NewDecoder().Decode(make([]byte, n), frame, id); err == nil {
				t.Errorf("%s: %d bytes were taken for %d", id, len(src), n)
			}
		}
	}
}

func TestHostileFramesAreRefused(t *testing.T) {
	src := contents()["rows"]
	bomb := binary.AppendUvarint(nil, 1<<31-1)
	for _, test := range []struct {
		title string
		id    ID
		frame []byte
	}{
		{"an unknown codec", 3, src},
		{"the largest codec", 255, src},
		{"zstd: nothing", Zstd, nil},
		{"zstd: no magic", Zstd, src},
		{"zstd: a cut", Zstd, encode(t, Zstd, 3, src)[:100]},
		{"zstd: a claim of 4 EiB", Zstd, []byte{0x28, 0xb5, 0x2f, 0xfd, 0xe0, 0, 0, 0, 0, 0, 0, 0, 0x40, 1, 0, 0}},
		{"s2: nothing", S2, nil},
		{"s2: a claim of 2 GiB", S2, append(bomb, 1, 2, 3)},
		{"s2: a cut", S2, s2.Encode(nil, src)[:100]},
	} {
		t.Run(test.title, func(t *testing.T) {
			if err := NewDecoder().Decode(make([]byte, len(src)), test.frame, test.id); err == nil {
				t.Error("it was read")
			}
		})
	}
}

func TestLevelsAreBounded(t *testing.T) {
	for _, level := range []int{-1, 0, 20} {
		if _, err := NewEncoder(Zstd, level); err == nil {
			t.Errorf("level %d is accepted", level)
		}
	}
	if _, err := NewEncoder(9, 1); err == nil {
		t.Error("codec 9 is accepted")
	}
}

func FuzzDecode(f *testing.F) {
	src := contents()["a short page"]
	for _, id := range []ID{None, Zstd, S2} {
		f.Add(uint8(id), encode(f, id, 3, src), uint16(len(src)))
	}
	dec := NewDecoder()
	f.Fuzz(func(t *testing.T, id uint8, frame []byte, n uint16) {
		dst := make([]byte, int(n)+8)
		guard := dst[n:]
		_ = dec.Decode(dst[:n], frame, ID(id))
		if !bytes.Equal(guard, make([]byte, 8)) {
			t.Error("it wrote behind its buffer")
		}
	})
}

func BenchmarkEncode(b *testing.B) {
	src := contents()["rows"]
	for _, test := range []struct {
		id    ID
		level int
	}{{None, 0}, {S2, 0}, {Zstd, 1}, {Zstd, 2}, {Zstd, 3}, {Zstd, 9}} {
		b.Run(fmt.Sprintf("%s-%d", test.id, test.level), func(b *testing.B) {
			enc, err := NewEncoder(test.id, test.level)
			if err != nil {
				b.Fatal(err)
			}
			b.SetBytes(int64(len(src)))
			out := make([]byte, 0, 2*len(src))
			for b.Loop() {
				if out, err = enc.Encode(out, src); err != nil {
					b.Fatal(err)
				}
			}
			b.ReportMetric(float64(len(src))/float64(len(out)), "ratio")
		})
	}
}

func BenchmarkDecode(b *testing.B) {
	src := contents()["rows"]
	for _, id := range []ID{S2, Zstd} {
		b.Run(id.String(), func(b *testing.B) {
			frame, dst, dec := encode(b, id, 2, src), make([]byte, len(src)), NewDecoder()
			b.SetBytes(int64(len(src)))
			for b.Loop() {
				if err := dec.Decode(dst, frame, id); err != nil {
					b.Fatal(err)
				}
			}
		})
	}
}
