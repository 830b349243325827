package postgres

import (
	"bytes"
	"encoding/binary"
	"slices"
	"strings"
	"testing"

	"github.com/pgbak/pgbak/internal/crc32c"
)

// encodedTable writes a table by hand: for each entry its six numbers, and then
// the numbers of 16 bits that follow them.
func encodedTable(entries ...any) []byte {
	b := binary.LittleEndian.AppendUint32(nil, blockTableMagic)
	for _, entry := range entries {
		b, _ = binary.Append(b, binary.LittleEndian, entry)
	}
	return sealTable(append(b, make([]byte, blockEntrySize)...))
}

// sealTable gives b with its checksum behind it.
func sealTable(b []byte) []byte {
	return binary.LittleEndian.AppendUint32(bytes.Clone(b), crc32c.Update(0, b))
}

func TestDecodeBlockTableAsServersWriteIt(t *testing.T) {
	sparse := make([]uint16, bitmapWords)
	sparse[0], sparse[4095] = 1<<3|1<<15, 1<<15
	table, err := DecodeBlockTable(encodedTable(
		[]uint32{1663, 5, 0, 0, 0, 0},                                             // a database
		[]uint32{1663, 5, 16384, 0, NoLimit, 3}, []uint16{3, 0, 2, 9, 1, 4, 1, 0}, // in no order, with a hole
		[]uint32{1663, 5, 16384, 2, 0, 2}, []uint16{0, 0}, // chunks without a mark
		[]uint32{1663, 5, 16385, 0, 7, 0},
		[]uint32{1663, 6, 16384, 0, 8, 0},
		[]uint32{1664, 0, 1262, 0, 4, 1}, []uint16{bitmapWords}, sparse, // a bitmap that was truncated
	))
	if err != nil {
		t.Fatal(err)
	}
	for _, c := range []struct {
		id     RelationForkID
		limit  uint32
		blocks []uint32
	}{
		{RelationForkID{1663, 5, 0, MainFork}, 0, nil},
		{RelationForkID{1663, 5, 16384, MainFork}, NoLimit, []uint32{1, 4, 9, 2 * chunkBlocks, 2*chunkBlocks + 1}},
		{RelationForkID{1663, 5, 16384, VMFork}, 0, nil},
		{RelationForkID{1663, 5, 16385, MainFork}, 7, nil},
		{RelationForkID{1663, 6, 16384, MainFork}, 8, nil},
		{RelationForkID{1664, 0, 1262, MainFork}, 4, []uint32{3, 15, 65535}},
	} {
		limit, known := table.Limit(c.id)
		if blocks := slices.Collect(table.Blocks(c.id, 0, NoLimit)); limit != c.limit || !known || !slices.Equal(blocks, c.blocks) {
			t.Errorf("%+v: limit %d (%v), blocks %v; want %d, %v", c.id, limit, known, blocks, c.limit, c.blocks)
		}
	}
	if table.Forks() != 6 {
		t.Errorf("%d forks", table.Forks())
	}
}

func TestEncodeOfNothing(t *testing.T) {
	got := new(BlockTable).Encode()
	if !bytes.Equal(got, encodedTable()) || len(got) != minBlockTable {
		t.Errorf("% X", got)
	}
	if table, err := DecodeBlockTable(got); err != nil || table.Forks() != 0 {
		t.Errorf("decoded: %v", err)
	}
}

func TestDecodeBlockTableRefuses(t *testing.T) {
	good := encodedTable([]uint32{1663, 5, 16384, 0, NoLimit, 1}, []uint16{2, 7, 8})
	if _, err := DecodeBlockTable(good); err != nil {
		t.Fatal(err)
	}
	magic := bytes.Clone(good[:len(good)-4])
	magic[0]++
	for _, c := range []struct {
		title string
		b     []byte
		want  string
	}{
		{"nothing", nil, "0 bytes (want at least 32)"},
		{"cut short", good[:31], "31 bytes (want at least 32)"},
		{"another magic", sealTable(magic), "magic 652B137C (want 652B137B)"},
		{"torn", good[:len(good)-1], "checksum"},
		{"no end", sealTable(good[:len(good)-4-blockEntrySize]), "entry 2: the table ends within it"},
		{"more after the end", sealTable(append(bytes.Clone(good[:len(good)-4]), 0)), "entry 2: 1 bytes after the end"},
		{"too many chunks", encodedTable([]uint32{1663, 5, 16384, 0, 0, 65537}), "entry 1: 65537 chunks (want at most 65536)"},
		{"chunks that are not there", encodedTable([]uint32{1663, 5, 16384, 0, 0, 65536}), "entry 1: the table ends within it"},
		{"a chunk that is too long", encodedTable([]uint32{1663, 5, 16384, 0, 0, 1}, []uint16{4097}, make([]uint16, 4097)),
			"entry 1: a chunk of 4097 numbers (want at most 4096)"},
		{"a chunk that is cut short", encodedTable([]uint32{1663, 5, 16384, 0, 0, 1}, []uint16{100}), "entry 1: the table ends within it"},
		{"the same fork twice", encodedTable([]uint32{1663, 5, 16384, 0, 0, 0}, []uint32{1663, 5, 16384, 0, 0, 0}), "entry 2: it is not in order"},
		{"forks in disorder", encodedTable([]uint32{1663, 5, 16384, 2, 0, 0}, []uint32{1663, 5, 16384, 0, 0, 0}), "entry 2: it is not in order"},
	} {
		if table, err := DecodeBlockTable(c.b); err == nil || table != nil || !strings.Contains(err.Error(), c.want) {
			t.Errorf("%s: %v, want %q", c.title, err, c.want)
		}
	}
	for i := range good {
		bad := bytes.Clone(good)
		bad[i] ^= 0x10
		if _, err := DecodeBlockTable(bad); err == nil {
			t.Errorf("byte %d may be changed", i)
		}
	}
}

func FuzzDecodeBlockTable(f *testing.F) {
	f.Add(encodedTable())
	f.Add(encodedTable([]uint32{1663, 5, 16384, 0, NoLimit, 2}, []uint16{0, 2, 7, 8}))
	f.Add(encodedTable([]uint32{1663, 5, 16384, 0, 0, 1}, []uint16{bitmapWords}, make([]uint16, bitmapWords)))
	f.Fuzz(func(t *testing.T, b []byte) {
		if len(b) < 4 {
			return
		}
		// Checksums are not guessed.
		table, err := DecodeBlockTable(sealTable(b[:len(b)-4]))
		if err != nil {
			return
		}
		encoded := table.Encode()
		if len(encoded) > len(b) {
			t.Fatalf("%d bytes became %d", len(b), len(encoded))
		}
		again, err := DecodeBlockTable(encoded)
		if err != nil || !bytes.Equal(again.Encode(), encoded) {
			t.Fatalf("the encoding is not stable: %v", err)
		}
	})
}
