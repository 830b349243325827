package repo

import (
	"cmp"
	"context"
	"fmt"
	"math/bits"
	"slices"

	"github.com/zeebo/xxh3"

	"github.com/pgbak/pgbak/internal/postgres"
	"github.com/pgbak/pgbak/repo/codec"
)

// PageSet is a set of the pages of a window: bit n stands for its page n.
type PageSet uint16

// FirstPages is the set of the first n pages, at most PagesPerFrame.
func FirstPages(n int) PageSet { return PageSet(1<<n - 1) }

// Has tells whether page n is in the set.
func (s PageSet) Has(n int) bool { return s&(1<<n) != 0 }

// Len is the number of pages in the set.
func (s PageSet) Len() int { return bits.OnesCount16(uint16(s)) }

// realignAt is how many changed pages of a window make it worth storing all of
// it again, side by side.
const realignAt = PagesPerFrame / 2

// WholeWindow tells whether all pages of window n of a file have to be read when
// those of the set may have changed, since one of the repositories stores all of
// it again: because it has no such pages yet, because many have changed, or
// because the parent's lie scattered. Each of parents may be nil.
func WholeWindow(parents []*ParentFile, n int64, changed PageSet) bool {
	if changed.Len() >= realignAt {
		return true
	}
	return slices.ContainsFunc(parents, func(p *ParentFile) bool { return !p.Mapped() || p.gather(n) != 0 })
}

// gather gives the pages of a window that are to be stored again although they did
// not change: all, when the pages of the file lie scattered and those of the window
// do, too; else those that lie in a pack that is worn. The others of such a window
// stay: the budget of wear would not hold if one page took fifteen with it.
func (f *ParentFile) gather(n int64) (again PageSet) {
	from := n * PagesPerFrame
	if f.settled || from >= f.fileMap.pages() {
		return 0
	}
	at := 0
	for p := range f.fileMap.pieces(from, min(from+PagesPerFrame, f.fileMap.pages())) {
		if !p.zero && f.rebase && !p.whole {
			return FirstPages(PagesPerFrame)
		}
		if !p.zero && f.worn(p.ref.pack) {
			again |= FirstPages(int(p.count)) << at
		}
		at += int(p.count)
	}
	return again
}

// rebaseAt is from which scatter on a file is stored again in one piece. It
// differs from file to file, so that files which are changed alike do not all
// have their turn in the same backup.
func rebaseAt(path string) float64 {
	spread := float64(hashPages([]byte(path), len(path), 0)[0]%1024) / 1024
	return rebaseMin + spread*(rebaseMax-rebaseMin)
}

const (
	rebaseMin = 1.6
	rebaseMax = 2.2
)

// Stretch frames changed pages of one file, window by window in ascending order,
// for all repositories: what it makes are Patches. Few changed pages of a window
// go, with those of others, into delta frames; windows with many changed pages
// are stored again as a whole. It is for one worker.
type Stretch struct {
	fs       *Framers
	path     string
	pageSize int
	parents  []*ParentFile
	out      []byte
	each     []stretchFor
	aligned  []compressed // of the window at hand
}

// stretchFor is a Stretch for one repository.
type stretchFor struct {
	patch Patch
	pages []uint32 // wait for their delta frame
	raw   []byte   // their content
}

// compressed is a frame compressed in one way.
type compressed struct {
	how     Compression
	payload []byte
	codec   codec.ID
}

// Patch is new content for some pages of a file.
type Patch struct {
	frames []frame
	places []patchPlace
}

// patchPlace tells where the pages from page on are: zeros, a frame of the parent, or
// one of the patch's own.
type patchPlace struct {
	page, count uint32
	zero        bool
	ref         frameRef // already stored, when frame is negative
	frame       int
	slot        uint32
	whole       bool // they are all of the frame
	again       bool // ref is of an interrupted backup
}

// Stretch begins a stretch of a file. The bytes of new frames are appended to
// out. Each of parents may be nil.
func (fs *Framers) Stretch(out []byte, path string, pageSize int, parents []*ParentFile) *Stretch {
	return &Stretch{fs: fs, path: path, pageSize: pageSize, parents: parents, out: out, each: make([]stretchFor, len(fs.each))}
}

// Window adds window number n. raw has the room of all its pages, the last of
// which may be short at the end of the file. changed are those that may have
// changed: they are in raw; with whole so are all others. With compare a page of
// changed whose hash is that of the parent's page counts as unchanged.
// Pages that are not stored here stay as they are in the parent.
func (s *Stretch) Window(ctx context.Context, n int64, raw []byte, changed PageSet, whole, compare bool) error {
	s.aligned = s.aligned[:0]
	summed := false
	for i, f := range s.fs.each {
		if f == nil {
			continue
		}
		p := s.parents[i]
		fresh := !p.Mapped()
		mine := changed
		if compare && !fresh {
			mine = s.differing(ctx, f, p, n, raw, changed)
		}
		if whole && !fresh { // who cannot read the rest leaves it where it is
			mine |= p.gather(n)
		}
		switch {
		case mine == 0 && !fresh:
		case !fresh && (mine.Len() < realignAt || !whole):
			if err := s.addPages(ctx, i, f, n, raw, mine); err != nil {
				return err
			}
		case !whole:
			return fmt.Errorf("window %d of %s was not read as a whole", n, s.path)
		default:
			if !summed {
				s.fs.sum(raw)
				summed = true
			}
			if err := s.addWindow(ctx, i, f, n, raw); err != nil {
				return err
			}
		}
	}
	return nil
}

// differing gives the pages whose hash is not that of the parent's page.
func (s *Stretch) differing(ctx context.Context, f *Framer, p *ParentFile, n int64, raw []byte, changed PageSet) PageSet {
	for k := range PagesPerFrame {
		if changed.Has(k) && p.samePage(ctx, n*PagesPerFrame+int64(k), s.page(raw, k), f.seed) {
			changed &^= 1 << k
		}
	}
	return changed
}

func (s *Stretch) page(raw []byte, k int) []byte {
	return raw[min(k*s.pageSize, len(raw)):min((k+1)*s.pageSize, len(raw))]
}

// addPages hands changed pages to the delta frame being filled.
func (s *Stretch) addPages(ctx context.Context, i int, f *Framer, n int64, raw []byte, changed PageSet) error {
	e := &s.each[i]
	for k := range PagesPerFrame {
		page := s.page(raw, k)
		if !changed.Has(k) || len(page) == 0 {
			continue
		}
		number := uint32(n*PagesPerFrame) + uint32(k)
		if postgres.IsZero(page) {
			e.patch.places = append(e.patch.places, patchPlace{page: number, count: 1, zero: true})
			continue
		}
		if f.resumption != nil {
			if found, ok := f.resumption.page(ctx, s.path, number, xxh3.HashSeed(page, f.seed)); ok && f.intact(ctx, found) {
				e.patch.places = append(e.patch.places, patchPlace{page: number, count: 1, frame: -1, ref: found.ref, slot: found.at, again: true})
				continue
			}
		}
		e.pages, e.raw = append(e.pages, number), append(e.raw, page...)
		if len(e.pages) == PagesPerFrame {
			if err := s.flush(i, f); err != nil {
				return err
			}
		}
	}
	return nil
}

// flush makes a delta frame of the pages that wait.
func (s *Stretch) flush(i int, f *Framer) (err error) {
	e := &s.each[i]
	if len(e.pages) == 0 {
		return nil
	}
	fr := frame{kind: frameDelta, raw: len(e.raw), id: f.ids.sum(e.raw), path: s.path, pages: slices.Clone(e.pages), hashes: hashPages(e.raw, s.pageSize, f.seed)}
	if s.out, fr.payload, fr.codec, err = f.compress(s.out, e.raw); err != nil {
		return err
	}
	for slot, page := range e.pages {
		if last := len(e.patch.places) - 1; slot > 0 && e.patch.places[last].frame == len(e.patch.frames) &&
			!e.patch.places[last].zero && e.patch.places[last].page+e.patch.places[last].count == page {
			e.patch.places[last].count++
			continue
		}
		e.patch.places = append(e.patch.places, patchPlace{page: page, count: 1, frame: len(e.patch.frames), slot: uint32(slot)})
	}
	e.patch.frames = append(e.patch.frames, fr)
	e.pages, e.raw = e.pages[:0], e.raw[:0]
	return nil
}

// addWindow stores a window as an aligned frame, unless the parent has the same.
func (s *Stretch) addWindow(ctx context.Context, i int, f *Framer, n int64, raw []byte) error {
	e := &s.each[i]
	at := patchPlace{page: uint32(n * PagesPerFrame), count: uint32(pageCount(int64(len(raw)), s.pageSize)), whole: true}
	if postgres.IsZero(raw) {
		at.zero = true
		e.patch.places = append(e.patch.places, at)
		return nil
	}
	w := f.lookUp(ctx, s.fs.ids[i], len(raw), s.path, n, s.pageSize, s.parents[i])
	if w.reused {
		at.ref, at.frame, at.again = w.ref, -1, w.again
		e.patch.places = append(e.patch.places, at)
		return nil
	}
	w.fresh.hashes = hashPages(raw, s.pageSize, f.seed)
	known := slices.IndexFunc(s.aligned, func(c compressed) bool { return c.how == f.compression })
	if known < 0 {
		c := compressed{how: f.compression}
		var err error
		if s.out, c.payload, c.codec, err = f.compress(s.out, raw); err != nil {
			return err
		}
		known, s.aligned = len(s.aligned), append(s.aligned, c)
	}
	w.fresh.payload, w.fresh.codec = s.aligned[known].payload, s.aligned[known].codec
	at.frame = len(e.patch.frames)
	e.patch.frames = append(e.patch.frames, w.fresh)
	e.patch.places = append(e.patch.places, at)
	return nil
}

// End gives the patch for each repository, and out as it has grown. The bytes
// of the patches lie in out.
func (s *Stretch) End() ([]byte, []Patch, error) {
	patches := make([]Patch, len(s.each))
	for i, f := range s.fs.each {
		if f == nil {
			continue
		}
		if err := s.flush(i, f); err != nil {
			return s.out, nil, err
		}
		patches[i] = s.each[i].patch
		slices.SortFunc(patches[i].places, func(a, b patchPlace) int { return cmp.Compare(a.page, b.page) })
	}
	return s.out, patches, nil
}
