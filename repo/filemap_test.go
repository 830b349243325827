package repo

import (
	"errors"
	"math/rand/v2"
	"slices"
	"testing"

	"github.com/oklog/ulid/v2"

	"github.com/pgbak/pgbak/repo/codec"
)

func testPack(op byte, number uint32) packID { return packID{op: ulid.ULID{15: op}, number: number} }

// testRef is a frame of whole pages.
func testRef(pack packID, ordinal uint32, pages int) frameRef {
	return frameRef{pack: pack, ordinal: ordinal, offset: 100 + ordinal*5000, stored: 4000, raw: uint32(pages * testPage), codec: codec.Zstd}
}

// randomMap makes a valid map of every kind of run.
func randomMap(rng *rand.Rand) *fileMap {
	m := &fileMap{pageSize: testPage}
	var pages int64
	for range 1 + rng.IntN(20) {
		pack := testPack(byte(rng.IntN(3)), uint32(rng.IntN(4)))
		ref := frameRef{pack: pack, ordinal: uint32(rng.IntN(900)), offset: uint32(rng.IntN(32 << 20)), codec: codec.ID(rng.IntN(3))}
		switch rng.IntN(3) {
		case 0:
			n := 1 + rng.IntN(100)
			m.addZero(uint32(n))
			pages += int64(n)
		case 1:
			for i := range 1 + rng.IntN(5) {
				ref.raw, ref.stored = windowBytes, uint32(9000+rng.IntN(90000))
				if i > 0 { // right behind the one before
					prev := m.frames[len(m.frames)-1]
					ref.ordinal, ref.offset = prev.ordinal+1, prev.end()
				}
				m.addAligned(ref, PagesPerFrame)
				pages += PagesPerFrame
			}
		case 2:
			held := 1 + rng.IntN(PagesPerFrame)
			ref.raw, ref.stored = uint32(held*testPage), uint32(100+rng.IntN(4000))
			slot := rng.IntN(held)
			n := 1 + rng.IntN(held-slot)
			m.frames = append(m.frames, ref)
			m.runs = append(m.runs, run{kind: runDelta, count: uint32(n), frame: uint32(len(m.frames) - 1), slot: uint32(slot)})
			pages += int64(n)
		}
	}
	m.size = pages * testPage
	if last := m.runs[len(m.runs)-1]; last.kind != runAligned {
		m.size -= int64(rng.IntN(testPage)) // a short last page
	}
	return m
}

func TestMapsReadBackAsTheyWereWritten(t *testing.T) {
	rng := rand.New(rand.NewPCG(1, 2))
	for range 500 {
		var maps []*fileMap
		for range 1 + rng.IntN(4) {
			maps = append(maps, randomMap(rng))
		}
		got, err := decodeMaps(encodeMaps(maps))
		if err != nil {
			t.Fatal(err)
		}
		if !slices.EqualFunc(got, maps, func(a, b *fileMap) bool { return a.equal(b) }) {
			t.Fatalf("maps differ: %+v, want %+v", got, maps)
		}
	}
}

func TestMapOfASegmentTakesFourBytesForAFrame(t *testing.T) {
	m := &fileMap{pageSize: testPage, size: 1 << 30}
	ref := frameRef{pack: testPack(1, 0), offset: 300, stored: 20000, raw: windowBytes, codec: codec.Zstd}
	for range 8192 {
		m.addAligned(ref, PagesPerFrame)
		ref.ordinal, ref.offset = ref.ordinal+1, ref.end()
	}
	if n := len(encodeMaps([]*fileMap{m})); n > 4*8192+64 {
		t.Errorf("%d bytes", n)
	}
}

func TestHostileMapsAreRefused(t *testing.T) {
	pack := testPack(1, 1)
	aligned := func(m *fileMap) {
		m.frames = []frameRef{testRef(pack, 0, 16), testRef(pack, 1, 4)}
		m.runs = []run{{kind: runAligned, count: 20}}
	}
	for _, test := range []struct {
		title string
		spoil func(m *fileMap)
		want  string
	}{
		{"a sound map is not", func(m *fileMap) {}, ""},
		{"runs that end before the file does", func(m *fileMap) { m.size += testPage; m.frames[1].raw += testPage }, "aligned frame of"},
		{"runs that cover less than the file", func(m *fileMap) { m.runs = []run{{kind: runAligned, count: 16}} }, "runs cover 16 of 20 pages"},
		{"runs that go beyond the file", func(m *fileMap) { m.runs = append(m.runs, run{kind: runZero, count: 1}) }, "runs cover 21 of 20 pages"},
		{"no runs at all", func(m *fileMap) { m.runs = nil }, "runs cover 0 of 20 pages"},
		{"an empty run", func(m *fileMap) { m.runs = append(m.runs, run{kind: runZero}) }, "empty run"},
		{"a run of unknown kind", func(m *fileMap) { m.runs[0].kind = 9 }, "run kind 9 is unknown"},
		{"an aligned run that leaves the frames", func(m *fileMap) { m.runs[0].frame = 1 }, "leaves the list of frames"},
		{"a delta run whose frame is not there", func(m *fileMap) { m.runs[0] = run{kind: runDelta, count: 20, frame: 2} }, "leaves the list of frames"},
		{"a delta run of more pages than the frame has", func(m *fileMap) { m.runs[0] = run{kind: runDelta, count: 20} }, "leaves its delta frame"},
		{"a delta run whose slot lies behind the frame", func(m *fileMap) {
			m.runs = []run{{kind: runZero, count: 19}, {kind: runDelta, count: 1, slot: 16}}
		}, "leaves its delta frame"},
		{"a delta run whose slot overflows", func(m *fileMap) {
			m.runs = []run{{kind: runZero, count: 19}, {kind: runDelta, count: 1, slot: maxFrame}}
		}, "leaves its delta frame"},
		{"an aligned frame that is too short", func(m *fileMap) { m.frames[0].raw = 15 * testPage }, "aligned frame of"},
		{"an aligned frame that is too long", func(m *fileMap) { m.frames[1].raw = 5 * testPage }, "aligned frame of"},
		{"a frame without content", func(m *fileMap) { m.frames[1].raw = 0 }, "out of bounds"},
		{"a frame over the largest", func(m *fileMap) { m.frames[1].raw = maxFrame + 1 }, "length"},
		{"a frame that is stored in more than its content", func(m *fileMap) { m.frames[1].stored = 4*testPage + gcmOverhead + 1 }, "out of bounds"},
		{"a frame that is stored in less than its seal", func(m *fileMap) { m.frames[1].stored = 7 }, "out of bounds"},
		{"a frame behind the largest pack", func(m *fileMap) { m.frames[1].offset = maxPack + 1 }, "offset"},
		{"pages smaller than PostgreSQL's", func(m *fileMap) { m.pageSize = 256 }, "bytes in pages of 256"},
		{"pages larger than PostgreSQL's", func(m *fileMap) { m.pageSize = 64 << 10 }, "page size 65536 is over 32768"},
		{"a file of more pages than a file has", func(m *fileMap) { m.size = maxPages*testPage + 1 }, "bytes in pages of"},
		{"a file whose pages overflow", func(m *fileMap) { m.size = 1<<63 - 1 }, ""},
	} {
		t.Run(test.title, func(t *testing.T) {
			m := &fileMap{pageSize: testPage, size: 20 * testPage}
			aligned(m)
			test.spoil(m)
			_, err := decodeMaps(encodeMaps([]*fileMap{m}))
			if test.title == "a file whose pages overflow" {
				if !errors.Is(err, errWire) {
					t.Errorf("error %v", err)
				}
				return
			}
			expectError(t, err, test.want)
			if err != nil && !errors.Is(err, errWire) {
				t.Errorf("%v is no errWire", err)
			}
		})
	}
}

func TestHostileFlagsOfFramesAreRefused(t *testing.T) {
	pack := testPack(1, 1)
	encode := func(flags ...byte) []byte {
		var w wireWriter
		w.uvarint(testPage)
		w.uvarint(uint64(len(flags)) * windowBytes)
		w.uvarint(uint64(len(flags)))
		for _, f := range flags {
			w.byte(f)
			if f&refSamePack == 0 {
				w.uvarint(0)
			}
			if f&refContiguous == 0 {
				w.uvarint(0)
				w.uvarint(200)
			}
			w.uvarint(4000)
			if f&refFull == 0 {
				w.uvarint(windowBytes)
			}
		}
		w.uvarint(1)
		w.byte(byte(runAligned))
		w.uvarint(uint64(len(flags)) * PagesPerFrame)
		w.uvarint(0)
		return w.b
	}
	for _, test := range []struct {
		title string
		flags []byte
		packs []packID
		want  string
	}{
		{"what the writer writes is not", []byte{refFull | 1, refFull | refSamePack | refContiguous | 1}, []packID{pack}, ""},
		{"the first frame in the pack of the one before", []byte{refSamePack}, []packID{pack}, "refers to one before it"},
		{"the first frame behind the one before", []byte{refContiguous}, []packID{pack}, "refers to one before it"},
		{"behind the one before, but in another pack", []byte{refFull, refFull | refContiguous}, []packID{pack}, "flags 30"},
		{"a flag that has no meaning yet", []byte{refFull | 0x40}, []packID{pack}, "flags 60"},
		{"a pack that is not listed", []byte{refFull}, nil, "pack number is out of range"},
	} {
		t.Run(test.title, func(t *testing.T) {
			_, err := decodeFileMap(&wireReader{b: encode(test.flags...)}, test.packs)
			expectError(t, err, test.want)
		})
	}
}

func TestAlignedFrameIsFoundByItsWindow(t *testing.T) {
	pack := testPack(1, 1)
	m := &fileMap{pageSize: testPage}
	m.addAligned(testRef(pack, 0, 16), 16)
	m.addZero(32)
	m.addAligned(testRef(pack, 1, 16), 16)
	m.frames = append(m.frames, testRef(pack, 2, 4))
	m.runs = append(m.runs, run{kind: runDelta, count: 4, frame: 2})
	m.size = 68 * testPage
	m.index()
	for window, want := range []int{0, -1, -1, 1, -1, -1} {
		ref, ok := m.alignedFrame(int64(window))
		if ok != (want >= 0) || ok && ref.ordinal != uint32(want) {
			t.Errorf("window %d: frame %d, %v, want %d", window, ref.ordinal, ok, want)
		}
	}
}
