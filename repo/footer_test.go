package repo

import (
	"errors"
	"math/rand/v2"
	"reflect"
	"strings"
	"testing"

	"github.com/pgbak/pgbak/repo/codec"
)

// randomFooter describes a pack with frames of every kind.
func randomFooter(rng *rand.Rand, pack packID, first uint32) *footer {
	f := &footer{pageSize: testPage}
	offset := first
	path := func() string { return "base/" + strings.Repeat("x", rng.IntN(4)) + string(rune('a'+rng.IntN(26))) }
	for ordinal := range uint32(1 + rng.IntN(30)) {
		i := frameInfo{kind: frameKind(1 + rng.IntN(3)), ref: frameRef{pack: pack, ordinal: ordinal, offset: offset, codec: codec.ID(rng.IntN(3))}}
		switch i.kind {
		case frameAligned:
			i.id, i.path, i.page, i.ref.raw = ContentID{1, byte(ordinal)}, path(), uint32(rng.IntN(1<<17)), uint32(1+rng.IntN(windowBytes))
		case frameDelta:
			i.id, i.path = ContentID{2, byte(ordinal)}, path()
			page := uint32(0)
			for range 1 + rng.IntN(PagesPerFrame) {
				page += uint32(1 + rng.IntN(1000))
				i.pages = append(i.pages, page)
			}
			i.ref.raw = uint32(len(i.pages) * testPage)
		case frameBundle:
			for range 1 + rng.IntN(9) {
				m := member{path: path(), length: uint32(1 + rng.IntN(9000)), id: ContentID{3, byte(ordinal)}}
				i.members = append(i.members, m)
				i.ref.raw += m.length
			}
		}
		i.ref.stored = uint32(gcmOverhead + rng.IntN(int(i.ref.raw)))
		offset = i.ref.end()
		i.firstHash = f.pages
		f.pages += i.pageCount(testPage)
		f.frames = append(f.frames, i)
	}
	return f
}

func TestFootersReadBackAsTheyWereWritten(t *testing.T) {
	rng := rand.New(rand.NewPCG(3, 4))
	pack := testPack(7, 8)
	for range 300 {
		want := randomFooter(rng, pack, 300)
		got, err := decodeFooter(pack, want.encode(300))
		if err != nil {
			t.Fatal(err)
		}
		if !reflect.DeepEqual(got, want) {
			t.Fatalf("footer differs:\n%+v\n%+v", got, want)
		}
	}
}

func TestHostileFootersAreRefused(t *testing.T) {
	pack := testPack(7, 8)
	sound := func() *footer {
		return &footer{pageSize: testPage, frames: []frameInfo{
			{kind: frameAligned, ref: frameRef{stored: 4000, raw: windowBytes}, path: "a"},
			{kind: frameBundle, ref: frameRef{stored: 30, raw: 30}, members: []member{{path: "b", length: 10}, {path: "c", length: 20}}},
			{kind: frameDelta, ref: frameRef{stored: 100, raw: 2 * testPage}, path: "a", pages: []uint32{4, 9}},
		}}
	}
	for _, test := range []struct {
		title string
		spoil func(f *footer, b []byte) []byte
		want  string
	}{
		{"a sound footer is not", func(_ *footer, b []byte) []byte { return b }, ""},
		{"a frame of unknown kind", func(f *footer, _ []byte) []byte { f.frames[0].kind = 4; return nil }, "frame kind 4 is unknown"},
		{"a bundle that is longer than its members", func(f *footer, _ []byte) []byte { f.frames[1].ref.raw++; return nil }, "members of 30 bytes in a bundle of 31"},
		{"a bundle that is shorter than its members", func(f *footer, _ []byte) []byte { f.frames[1].members[0].length++; return nil }, "members of 31 bytes in a bundle of 30"},
		{"a frame larger than any", func(f *footer, _ []byte) []byte { f.frames[0].ref.raw = maxFrame + 1; return nil }, "length"},
		{"a frame without content", func(f *footer, _ []byte) []byte { f.frames[0].ref.raw = 0; return nil }, "out of bounds"},
		{"bytes behind the last frame", func(_ *footer, b []byte) []byte { return append(b, 0) }, "1 bytes too many"},
		{"a cut", func(_ *footer, b []byte) []byte { return b[:len(b)-1] }, "2 pages in 1 bytes"},
		{"paths that blow up", func(*footer, []byte) []byte {
			var w wireWriter
			w.uvarint(testPage)
			w.uvarint(100)
			w.uvarint(5000)
			long := strings.Repeat("p", maxPath)
			w.path("", long)
			for range 4999 {
				w.path(long, long[:maxPath-1]+"q") // three bytes for a path of 1024
			}
			w.uvarint(0)
			return w.b
		}, "paths are too long for the footer"},
	} {
		t.Run(test.title, func(t *testing.T) {
			f := sound()
			b := test.spoil(f, f.encode(200))
			if b == nil {
				b = f.encode(200)
			}
			_, err := decodeFooter(pack, b)
			expectError(t, err, test.want)
			if err != nil && !errors.Is(err, errWire) {
				t.Errorf("%v is no errWire", err)
			}
		})
	}
}

func TestPackTailIsRefusedWhenItIsNotOne(t *testing.T) {
	f := newFixture(t, "")
	pack := f.objects("packs/")[0]
	data := f.content(t, pack)
	for _, test := range []struct {
		title string
		spoil func(b []byte) []byte
		want  string
	}{
		{"a sound tail is not", func(b []byte) []byte { return b }, ""},
		{"nothing", func([]byte) []byte { return nil }, "ends early"},
		{"a cut by one byte", func(b []byte) []byte { return b[:len(b)-1] }, "torn or overwritten"},
		{"one byte more", func(b []byte) []byte { return append(b, 0) }, "torn or overwritten"},
		{"another length of the footer", func(b []byte) []byte { b[len(b)-28]++; return b }, "torn or overwritten"},
	} {
		t.Run(test.title, func(t *testing.T) {
			_, err := parsePackTail(pack, test.spoil(append([]byte(nil), data...)))
			expectError(t, err, test.want)
			if err != nil && !errors.Is(err, ErrDamaged) {
				t.Errorf("%v is no ErrDamaged", err)
			}
		})
	}
}
