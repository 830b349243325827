package repo

import (
	"bytes"
	"errors"
	"io"
	"testing"

	"github.com/pgbak/pgbak/repo/codec"
)

// blockObject makes the blocks of an object with contents of type 'F'.
func blockObject(t *testing.T, s sealer, key string, contents ...string) []byte {
	t.Helper()
	var out bytes.Buffer
	w, err := newBlockWriter(&out, s, key)
	if err != nil {
		t.Fatal(err)
	}
	for _, c := range contents {
		if _, err := w.write(blockFiles, []byte(c)); err != nil {
			t.Fatal(err)
		}
	}
	if err := w.end(); err != nil {
		t.Fatal(err)
	}
	return out.Bytes()
}

// readBlocks gives the contents of all blocks up to the end.
func readBlocks(s sealer, key string, object []byte) (contents []string, err error) {
	r := &blockReader{r: bytes.NewReader(object), s: s, key: key, dec: codec.NewDecoder()}
	for {
		_, plain, err := r.next()
		if err == io.EOF {
			return contents, nil
		}
		if err != nil {
			return contents, err
		}
		contents = append(contents, string(plain))
	}
}

// eachSealer runs a test with a checksum and with a key.
func eachSealer(t *testing.T, test func(t *testing.T, s sealer)) {
	keyed, err := newSealer(&[32]byte{1, 2, 3})
	if err != nil {
		t.Fatal(err)
	}
	t.Run("plain", func(t *testing.T) { test(t, sealer{}) })
	t.Run("encrypted", func(t *testing.T) { test(t, keyed) })
}

func TestBlocksReadBackAsTheyWereWritten(t *testing.T) {
	eachSealer(t, func(t *testing.T, s sealer) {
		want := []string{"x", string(rows(100<<10, 1)), string(noise(1000, 2))}
		got, err := readBlocks(s, "k", blockObject(t, s, "k", want...))
		if err != nil || len(got) != 3 || got[0] != want[0] || got[1] != want[1] || got[2] != want[2] {
			t.Errorf("%d blocks, %v", len(got), err)
		}
	})
}

func TestBlocksThatAreNotThoseThatWereWrittenAreRefused(t *testing.T) {
	eachSealer(t, func(t *testing.T, s sealer) {
		object := blockObject(t, s, "k", "one", "two", "three")
		one := len(blockObject(t, s, "k", "one")) - len(blockObject(t, s, "k"))
		two := one // same length
		other := blockObject(t, s, "other", "one", "two", "three")
		join := func(parts ...[]byte) []byte { return bytes.Join(parts, nil) }
		for _, test := range []struct {
			title  string
			object []byte
			want   string
		}{
			{"nothing", nil, "the object ends early"},
			{"no end block", object[:len(object)-len(blockObject(t, s, "k"))], "the object ends early"},
			{"cut in a block header", object[:one+3], "the object ends early"},
			{"cut in a block", object[:one+blockHeaderSize+1], "the object ends early"},
			{"two blocks exchanged", join(object[one:one+two], object[:one], object[one+two:]), "block 0"},
			{"a block left out", join(object[:one], object[one+two:]), "block 1"},
			{"a block twice", join(object[:one], object), "block 1"},
			{"the same block of another object", join(other[:one], object[one:]), "block 0"},
			{"the end block of a shorter object", join(object[:one], blockObject(t, s, "k", "one")[one:], object[one:]), "bytes follow it"},
			{"bytes behind the end", join(object, []byte{0}), "bytes follow it"},
		} {
			t.Run(test.title, func(t *testing.T) {
				_, err := readBlocks(s, "k", test.object)
				expectError(t, err, test.want)
				expectError(t, err, "object k is damaged")
				if !errors.Is(err, ErrDamaged) {
					t.Errorf("%v is no ErrDamaged", err)
				}
			})
		}
	})
}

func TestEveryBitOfABlockCounts(t *testing.T) {
	eachSealer(t, func(t *testing.T, s sealer) {
		object := blockObject(t, s, "k", "the content of a block", string(rows(500, 1)))
		for i := range object {
			for bit := range 8 {
				flipped := bytes.Clone(object)
				flipped[i] ^= 1 << bit
				if _, err := readBlocks(s, "k", flipped); !errors.Is(err, ErrDamaged) {
					t.Fatalf("byte %d, bit %d: error %v", i, bit, err)
				}
			}
		}
	})
}

func TestBlocksOfImpossibleLengthsAreRefusedBeforeTheyAreRead(t *testing.T) {
	for _, test := range []struct {
		title         string
		stored, plain int
		want          string
	}{
		{"a stored length over the largest", maxBlock + gcmOverhead + 1, 10, "stored length"},
		{"a stored length under a seal", plainOverhead - 1, 10, "stored length"},
		{"a plain length over the largest", 20, maxBlock + 1, "length 33554433 is out of bounds"},
		{"a plain length of nothing", 20, 0, "length 0 is out of bounds"},
	} {
		t.Run(test.title, func(t *testing.T) {
			_, err := readBlocks(sealer{}, "k", append(blockHeader(blockFiles, codec.Zstd, test.stored, test.plain), make([]byte, 64)...))
			expectError(t, err, test.want)
		})
	}
}

func TestObjectHeaderIsRefused(t *testing.T) {
	for _, test := range []struct {
		title     string
		spoil     func(h []byte) []byte
		encrypted bool
		want      string
		is        error
	}{
		{"when it is that of another kind of object", func(h []byte) []byte { return append([]byte(mapMagic), h[8:]...) }, false, "it does not begin with PGBKPACK", ErrDamaged},
		{"when it is cut", func(h []byte) []byte { return h[:27] }, false, "it does not begin with", ErrDamaged},
		{"when its version is newer", func(h []byte) []byte { h[8] = 2; return h }, false, "object version 2", ErrNewerFormat},
		{"when it is plain in an encrypted repository", func(h []byte) []byte { return h }, true, "flags 000000, want 01", ErrDamaged},
		{"when it is encrypted in a plain repository", func(h []byte) []byte { h[9] = flagEncrypted; return h }, false, "flags 010000, want 00", ErrDamaged},
		{"when a flag is set that has no meaning yet", func(h []byte) []byte { h[9] = 4; return h }, false, "flags 040000", ErrDamaged},
		{"when a byte that must be zero is not", func(h []byte) []byte { h[11] = 1; return h }, false, "flags 000001", ErrDamaged},
	} {
		t.Run(test.title, func(t *testing.T) {
			_, err := parseObjectHeader("k", packMagic, test.spoil(objectHeader(packMagic, [16]byte{5}, false)), test.encrypted)
			expectError(t, err, test.want)
			if !errors.Is(err, test.is) {
				t.Errorf("%v is no %v", err, test.is)
			}
		})
	}
}
