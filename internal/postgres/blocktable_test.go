package postgres

import (
	"bytes"
	"maps"
	"math/rand/v2"
	"slices"
	"testing"
)

func TestForkIDHasTheNumbersOfWAL(t *testing.T) {
	for path, want := range map[string]RelationForkID{
		"base/5/16384.3":  {DefaultTablespace, 5, 16384, MainFork},
		"base/5/16384_vm": {DefaultTablespace, 5, 16384, VMFork},
		"global/1262_fsm": {GlobalTablespace, 0, 1262, FSMFork},
		"pg_tblspc/16385/PG_15_202209061/5/1_init": {16385, 5, 1, InitFork},
	} {
		f, ok := ParseRelationPath(path)
		if got := f.ForkID(); !ok || got != want {
			t.Errorf("%s: %+v, want %+v", path, got, want)
		}
	}
}

// plainTable does what BlockTable does, in the plainest way.
type plainTable map[RelationForkID]*plainFork

type plainFork struct {
	limit uint32
	marks map[uint32]bool
}

func (p plainTable) fork(f RelationForkID, limit uint32) *plainFork {
	if p[f] == nil {
		p[f] = &plainFork{limit: limit, marks: map[uint32]bool{}}
	}
	return p[f]
}

func (p plainTable) mark(f RelationForkID, block uint32) { p.fork(f, NoLimit).marks[block] = true }

func (p plainTable) truncate(f RelationForkID, limit uint32) {
	if fork := p.fork(f, limit); limit < fork.limit {
		fork.limit = limit
		maps.DeleteFunc(fork.marks, func(block uint32, _ bool) bool { return block >= limit })
	}
}

func (p plainTable) add(later plainTable) {
	for f, fork := range later {
		p.truncate(f, fork.limit)
		for block := range fork.marks {
			p.mark(f, block)
		}
	}
}

// compare fails the test where the table differs from the plain one.
func (p plainTable) compare(t *testing.T, table *BlockTable, random *rand.Rand) {
	t.Helper()
	if table.Forks() != len(p) || len(table.ForkIDs()) != len(p) {
		t.Fatalf("%d forks, want %d", table.Forks(), len(p))
	}
	for f, fork := range p {
		if limit, known := table.Limit(f); limit != fork.limit || !known {
			t.Fatalf("%+v: limit %d (%v), want %d", f, limit, known, fork.limit)
		}
		all := slices.Sorted(maps.Keys(fork.marks))
		if got := slices.Collect(table.Blocks(f, 0, NoLimit)); !slices.Equal(got, all) {
			t.Fatalf("%+v: %d blocks, want %d", f, len(got), len(all))
		}
		for range 10 {
			from, to := random.Uint32N(3*chunkBlocks), random.Uint32N(3*chunkBlocks)
			if len(all) > 0 && random.IntN(2) == 0 {
				from = all[random.IntN(len(all))]
			}
			want := slices.DeleteFunc(slices.Clone(all), func(block uint32) bool { return block < from || block >= to })
			if got := slices.Collect(table.Blocks(f, from, to)); !slices.Equal(got, want) || table.Count(f, from, to) != len(want) {
				t.Fatalf("%+v: %d blocks (%d counted) from %d to %d, want %d", f, len(got), table.Count(f, from, to), from, to, len(want))
			}
		}
	}
}

func randomFork(random *rand.Rand) RelationForkID {
	return RelationForkID{DefaultTablespace, 5 + random.Uint32N(2), 16384 + random.Uint32N(2), RelationFork(random.IntN(2) * 2)}
}

// randomTables makes the same changes to both tables: single blocks, runs that
// are long enough for bitmaps, and truncations.
func randomTables(random *rand.Rand, changes int) (plainTable, *BlockTable) {
	p, table := plainTable{}, new(BlockTable)
	for range changes {
		f, block := randomFork(random), random.Uint32N(3*chunkBlocks)
		switch random.IntN(20) {
		case 0:
			p.truncate(f, block)
			table.Truncate(f, block)
		case 1, 2:
			length, step := random.Uint32N(8000), 1+random.Uint32N(3)
			for i := range length {
				p.mark(f, block+i*step)
				table.Mark(f, block+i*step)
			}
		default:
			p.mark(f, block)
			table.Mark(f, block)
		}
	}
	return p, table
}

func TestBlockTableDoesWhatAPlainOneDoes(t *testing.T) {
	random := rand.New(rand.NewPCG(1, 2))
	bitmaps := 0
	for range 60 {
		p, table := randomTables(random, random.IntN(60))
		p.compare(t, table, random)
		for _, fork := range table.forks {
			for _, c := range fork.chunks {
				if len(c) == bitmapWords {
					bitmaps++
				}
			}
		}
		decoded, err := DecodeBlockTable(table.Encode())
		if err != nil {
			t.Fatal(err)
		}
		p.compare(t, decoded, random)
		if !bytes.Equal(decoded.Encode(), table.Encode()) || table.Size() != len(table.Encode()) {
			t.Fatal("the encoding is not stable, or Size is wrong")
		}

		laterPlain, later := randomTables(random, random.IntN(60))
		before := later.Encode()
		p.add(laterPlain)
		table.Add(later)
		p.compare(t, table, random)
		if err := decoded.addEncoded(before); err != nil || !bytes.Equal(decoded.Encode(), table.Encode()) {
			t.Fatalf("adding the encoded table gives another one (%v)", err)
		}
		// What happens to the sum must not happen to what was added.
		for _, f := range table.ForkIDs() {
			table.Mark(f, 7)
			table.Truncate(f, 3)
		}
		if !bytes.Equal(later.Encode(), before) {
			t.Fatal("the added table changed with the sum")
		}
	}
	if bitmaps < 20 {
		t.Errorf("only %d bitmaps", bitmaps)
	}
}

// The cases that PostgreSQL's code tells apart (BlockRefTableEntrySetLimitBlock).
func TestTruncateForgetsWhatWasBeyond(t *testing.T) {
	f := RelationForkID{DefaultTablespace, 5, 16384, MainFork}
	var table BlockTable
	if limit, known := table.Limit(f); limit != NoLimit || known || table.Count(f, 0, NoLimit) != 0 || table.Forks() != 0 {
		t.Errorf("empty table: limit %d, %v", limit, known)
	}
	expect := func(limit uint32, blocks ...uint32) {
		t.Helper()
		got := slices.Collect(table.Blocks(f, 0, NoLimit))
		if l, known := table.Limit(f); l != limit || !known || !slices.Equal(got, blocks) {
			t.Errorf("limit %d, %v, blocks %v; want %d, %v", l, known, got, limit, blocks)
		}
	}
	table.Mark(f, 200000)
	table.Mark(f, 5)
	table.Mark(f, 70000)
	table.Mark(f, 5)
	expect(NoLimit, 5, 70000, 200000)
	table.Truncate(f, 70001)
	expect(70001, 5, 70000)
	table.Mark(f, 80000)
	table.Truncate(f, 70002)
	expect(70001, 5, 70000, 80000) // extended again, and left longer than it once was
	table.Truncate(f, 65536)
	expect(65536, 5)
	table.Truncate(f, 0)
	expect(0)
	table.Mark(f, 0)
	expect(0, 0)
}

// A file has offsets up to where a bitmap is as short, and has them again when a
// truncation leaves fewer.
func TestChunksAreNeverLongerThanABitmap(t *testing.T) {
	f := RelationForkID{DefaultTablespace, 5, 16384, MainFork}
	var table BlockTable
	for i := range uint32(bitmapWords) {
		if got := len(table.Encode()) - minBlockTable; i > 0 && got != blockEntrySize+2+2*int(i) {
			t.Fatalf("%d marks take %d bytes", i, got)
		}
		table.Mark(f, 60000-7*i)
	}
	for block := range uint32(chunkBlocks) {
		table.Mark(f, block)
		table.Mark(f, block)
	}
	if got := table.Size() - minBlockTable; got != blockEntrySize+2+2*bitmapWords || table.Count(f, 0, NoLimit) != chunkBlocks {
		t.Errorf("all blocks of a chunk take %d bytes", got)
	}
	table.Truncate(f, 10)
	if got := table.Size() - minBlockTable; got != blockEntrySize+2+2*10 {
		t.Errorf("10 blocks take %d bytes", got)
	}
}

func TestBlocksCanBeLeftEarly(t *testing.T) {
	f := RelationForkID{DefaultTablespace, 5, 16384, MainFork}
	var table BlockTable
	for block := range uint32(chunkBlocks + 10) {
		table.Mark(f, block)
	}
	for _, from := range []uint32{0, chunkBlocks} {
		for block := range table.Blocks(f, from, NoLimit) {
			if block != from {
				t.Errorf("block %d, want %d", block, from)
			}
			break
		}
	}
}

func BenchmarkMark(b *testing.B) {
	for _, c := range []struct {
		name   string
		forks  uint32
		blocks uint32
	}{
		{"10 forks of 1 GiB", 10, 131072},
		{"100 forks of 1 GiB", 100, 131072},
		{"100,000 forks of 1 MiB", 100000, 128},
	} {
		b.Run(c.name, func(b *testing.B) {
			random := rand.New(rand.NewPCG(1, 2))
			places := make([][2]uint32, 1<<16)
			for i := range places {
				places[i] = [2]uint32{random.Uint32N(c.forks), random.Uint32N(c.blocks)}
			}
			var table BlockTable
			for i := 0; b.Loop(); i++ {
				place := places[i%len(places)]
				table.Mark(RelationForkID{DefaultTablespace, 5, 16384 + place[0], MainFork}, place[1])
			}
		})
	}
}
