package repo

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"slices"
	"strings"
	"testing"

	"github.com/pgbak/pgbak/storage/faulty"
	"github.com/pgbak/pgbak/storage/mem"
)

// mappedBackup writes a backup of one file whose map is made of the frames of
// content, a window each, by arrange.
func mappedBackup(t *testing.T, s *Stanza, content []byte, arrange func(refs []frameRef) fileMap) *Backup {
	t.Helper()
	ctx := context.Background()
	w, err := s.BeginBackup(ctx, s.Current(), BeginOptions{Type: Full, PageSize: testPage})
	if err != nil {
		t.Fatal(err)
	}
	framer, err := s.repo.NewFramer()
	if err != nil {
		t.Fatal(err)
	}
	var refs []frameRef
	for n := 0; n*windowBytes < len(content); n++ {
		_, win, err := framer.Window(ctx, nil, content[n*windowBytes:min((n+1)*windowBytes, len(content))], "f", int64(n), testPage, nil)
		if err != nil {
			t.Fatal(err)
		}
		ref, err := w.addFrame(win.fresh)
		if err != nil {
			t.Fatal(err)
		}
		refs = append(refs, ref)
	}
	m := arrange(refs)
	block, index, err := w.maps.add(&m)
	f := File{Path: "f", Type: TypeFile, Size: m.size, content: contentRef{kind: contentMap, number: uint32(block), index: uint32(index)}}
	if err := errFirst(m.check(), err, w.entries.add(f)); err != nil {
		t.Fatal(err)
	}
	h, err := w.Commit(BackupHeader{Timeline: 1})
	if err != nil {
		t.Fatal(err)
	}
	b, err := s.OpenBackup(ctx, h.Label)
	if err != nil {
		t.Fatal(err)
	}
	return b
}

func delta(frame, slot, count int) run {
	return run{kind: runDelta, frame: uint32(frame), slot: uint32(slot), count: uint32(count)}
}

func aligned(frame, count int) run {
	return run{kind: runAligned, frame: uint32(frame), count: uint32(count)}
}

// TestMapMayUseAFrameInAnyWay reads maps that no writer makes yet, but which
// the format allows.
func TestMapMayUseAFrameInAnyWay(t *testing.T) {
	content := rows(3*windowBytes, 1)
	pages := func(from, n int) []byte { return content[from*testPage : (from+n)*testPage] }
	for _, test := range []struct {
		title string
		runs  []run
		want  []byte
	}{
		{"the same frame twice, whole", []run{aligned(0, 16), aligned(0, 16)}, append(bytes.Clone(pages(0, 16)), pages(0, 16)...)},
		{"a whole frame, then a page of it", []run{aligned(0, 16), delta(0, 3, 1)}, append(bytes.Clone(pages(0, 16)), pages(3, 1)...)},
		{"a page of a frame, then all of it", []run{delta(0, 3, 1), aligned(0, 16)}, append(bytes.Clone(pages(3, 1)), pages(0, 16)...)},
		{"all of a frame as a delta run, twice", []run{delta(1, 0, 16), delta(1, 0, 16)}, append(bytes.Clone(pages(16, 16)), pages(16, 16)...)},
		{"pages of a frame backwards", []run{delta(0, 5, 1), delta(0, 4, 1), delta(0, 3, 1)}, bytes.Join([][]byte{pages(5, 1), pages(4, 1), pages(3, 1)}, nil)},
		{"pages of frames by turns", []run{delta(0, 1, 2), delta(1, 1, 2), delta(0, 5, 1), delta(2, 0, 3)}, bytes.Join([][]byte{pages(1, 2), pages(17, 2), pages(5, 1), pages(32, 3)}, nil)},
		{"frames backwards", []run{aligned(2, 16), aligned(1, 16)}, append(bytes.Clone(pages(32, 16)), pages(16, 16)...)},
	} {
		t.Run(test.title, func(t *testing.T) {
			eachRepository(t, func(t *testing.T, passphrase string) {
				s := testRepository(t, mem.New(), passphrase)
				b := mappedBackup(t, s, content, func(refs []frameRef) fileMap {
					return fileMap{pageSize: testPage, size: int64(len(test.want)), frames: refs, runs: test.runs}
				})
				for f, err := range b.Files(context.Background()) {
					if err != nil {
						t.Fatal(err)
					}
					got, err := readFile(context.Background(), b, f)
					if err != nil || !bytes.Equal(got, test.want) {
						t.Errorf("it reads other bytes: %v", err)
					}
				}
			})
		})
	}
}

func TestReadingAnExtentAsksTheStoreOnce(t *testing.T) {
	st := faulty.New(mem.New(), nil, nil)
	s := testRepository(t, st, "")
	content := rows(8*windowBytes, 1)
	b := mappedBackup(t, s, content, func(refs []frameRef) fileMap {
		m := fileMap{pageSize: testPage, size: int64(len(content))}
		for _, ref := range refs {
			m.addAligned(ref, PagesPerFrame)
		}
		return m
	})
	ctx := context.Background()
	for f, err := range b.Files(ctx) {
		if err != nil {
			t.Fatal(err)
		}
		extents, err := b.Extents(ctx, f, 1<<20)
		if err != nil || len(extents) != 1 {
			t.Fatalf("%d extents, %v", len(extents), err)
		}
		before := gets(st)
		if err := b.ReadExtent(ctx, extents[0], make([]byte, len(content))); err != nil {
			t.Fatal(err)
		}
		if n := gets(st) - before; n != 1 {
			t.Errorf("%d requests for 8 frames side by side", n)
		}
	}
}

func gets(st *faulty.Store) (n int) {
	for _, op := range st.Trace() {
		if len(op) > 4 && op[:4] == faulty.OpGet+" " {
			n++
		}
	}
	return n
}

func TestRequestsAreCutWhereTheStoreHasToBeAskedAnew(t *testing.T) {
	const size = 100_000
	at := func(pack, offset uint32) frameRef {
		return frameRef{pack: testPack(1, pack), ordinal: offset, offset: offset, stored: size, raw: windowBytes}
	}
	many := func(n int, step uint32) (refs []frameRef) {
		for i := range uint32(n) {
			refs = append(refs, at(0, i*step))
		}
		return refs
	}
	for _, test := range []struct {
		title string
		refs  []frameRef
		gap   int64
		want  []int64 // lengths of the requests
	}{
		{"side by side", many(3, size), maxGap, []int64{3 * size}},
		{"in another order", []frameRef{at(0, 2*size), at(0, 0), at(0, size)}, maxGap, []int64{3 * size}},
		{"a small gap", many(2, size+maxGap), maxGap, []int64{2*size + maxGap}},
		{"a larger gap", many(2, size+maxGap+1), maxGap, []int64{size, size}},
		{"a larger gap, far away", many(2, size+maxGap+1), maxGapFar, []int64{2*size + maxGap + 1}},
		{"packs by turns", []frameRef{at(0, 0), at(1, 0), at(0, size), at(1, size)}, maxGap, []int64{2 * size, 2 * size}},
		{"frames that overlap", many(3, size-1), maxGap, []int64{size, size, size}},
		{"more than one request reads", many(100, size), maxGap, []int64{83 * size, 17 * size}},
		{"many gaps", many(40, size+maxGapFar), maxGapFar, []int64{9*size + 8*maxGapFar, size, size}},
	} {
		var frames []*fetchedFrame
		for _, ref := range test.refs {
			frames = append(frames, &fetchedFrame{ref: ref})
		}
		var got []int64
		unwanted := -int64(len(test.refs)) * size
		for _, q := range cutRequests(frames, test.gap) {
			got = append(got, q.length)
			unwanted += q.length
			if q.length > maxRequest {
				t.Errorf("%s: a request of %d bytes", test.title, q.length)
			}
		}
		if unwanted > maxUnwanted {
			t.Errorf("%s: %d unwanted bytes", test.title, unwanted)
		}
		if len(got) < len(test.want) || !slices.Equal(got[:len(test.want)], test.want) {
			t.Errorf("%s: requests of %v bytes, want %v", test.title, got, test.want)
		}
	}
}

// smallFiles writes n small files, perBundle in each bundle, and gives their extents.
func smallFiles(t *testing.T, s *Stanza, n, perBundle int) (b *Backup, extents []Extent, want [][]byte) {
	t.Helper()
	ctx := context.Background()
	w, err := s.BeginBackup(ctx, s.Current(), BeginOptions{Type: Full, PageSize: testPage})
	if err != nil {
		t.Fatal(err)
	}
	framer, err := s.repo.NewFramer()
	if err != nil {
		t.Fatal(err)
	}
	for i := 0; i < n; i += perBundle {
		var files []File
		var smalls []Small
		var raw []byte
		for j := i; j < min(i+perBundle, n); j++ {
			data := noise(1000, uint64(j))
			path := fmt.Sprintf("base/%06d", j)
			smalls, raw = append(smalls, framer.Small(ctx, data, path, nil)), append(raw, data...)
			files, want = append(files, File{Path: path, Type: TypeFile, Size: 1000}), append(want, data)
		}
		_, bundle, err := framer.Bundle(nil, raw, smalls)
		if err := errFirst(err, w.AddSmall(files, smalls, bundle)); err != nil {
			t.Fatal(err)
		}
	}
	h, err := w.Commit(BackupHeader{Timeline: 1})
	if err != nil {
		t.Fatal(err)
	}
	if b, err = s.OpenBackup(ctx, h.Label); err != nil {
		t.Fatal(err)
	}
	for f, err := range b.Files(ctx) {
		if err != nil {
			t.Fatal(err)
		}
		es, err := b.Extents(ctx, f, 1<<20)
		if err != nil || len(es) != 1 {
			t.Fatal(es, err)
		}
		extents = append(extents, es...)
	}
	return b, extents, want
}

// TestSmallFilesOfABatchAreReadTogether, whatever their order, and more often than once.
func TestSmallFilesOfABatchAreReadTogether(t *testing.T) {
	eachRepository(t, func(t *testing.T, passphrase string) {
		st := faulty.New(mem.New(), nil, nil)
		b, extents, want := smallFiles(t, testRepository(t, st, passphrase), 1000, 20)
		order := rand.New(rand.NewPCG(1, 1)).Perm(len(extents)) // 50 bundles, 8 of which are kept open
		order = append(order, order[:50]...)
		var mixed []Extent
		for _, i := range order {
			mixed = append(mixed, extents[i])
		}
		before := gets(st)
		f, err := b.Fetch(context.Background(), mixed)
		if err != nil || f.Len() != len(mixed) {
			t.Fatal(err)
		}
		defer f.Release()
		if n := gets(st) - before; n != 1 {
			t.Errorf("%d requests for one pack", n)
		}
		got := make([]byte, 1000)
		for k, i := range order {
			if err := f.Read(k, got); err != nil || !bytes.Equal(got, want[i]) {
				t.Fatalf("file %d differs: %v", i, err)
			}
		}
		if n := gets(st) - before; n != 1 {
			t.Errorf("%d requests after reading", n)
		}
	})
}

func TestAFetchTakesNoMoreThanItMayHold(t *testing.T) {
	st := mem.New()
	s := testRepository(t, st, "")
	content := noise(24<<20, 1)
	b := mappedBackup(t, s, content, func(refs []frameRef) fileMap {
		m := fileMap{pageSize: testPage, size: int64(len(content))}
		for _, ref := range refs {
			m.addAligned(ref, PagesPerFrame)
		}
		return m
	})
	ctx := context.Background()
	for file, err := range b.Files(ctx) {
		if err != nil {
			t.Fatal(err)
		}
		extents, err := b.Extents(ctx, file, 1<<20)
		if err != nil {
			t.Fatal(err)
		}
		for rounds := 0; len(extents) > 0; rounds++ {
			f, err := b.Fetch(ctx, extents)
			if err != nil || f.Len() == 0 || len(f.buf) > 10<<20 || rounds > 3 {
				t.Fatalf("round %d: %d extents in %d bytes, %v", rounds, f.Len(), len(f.buf), err)
			}
			for i := range f.Len() {
				e := extents[i]
				got := make([]byte, e.Length)
				if err := f.Read(i, got); err != nil || !bytes.Equal(got, content[e.Offset:e.Offset+e.Length]) {
					t.Fatalf("extent at %d differs: %v", e.Offset, err)
				}
			}
			extents = extents[f.Len():]
			f.Release()
		}
	}
}

// TestExtentsOfScatteredPagesAreShort: one page of each of many frames.
func TestExtentsOfScatteredPagesAreShort(t *testing.T) {
	m := fileMap{pageSize: testPage, size: 100 * testPage}
	for i := range uint32(100) {
		m.frames = append(m.frames, frameRef{pack: testPack(1, 0), ordinal: i, offset: i * 500_000, stored: 500_000, raw: 500_100})
		m.runs = append(m.runs, delta(int(i), 0, 1))
	}
	extents := m.extents("f", 1<<20)
	if len(extents) != 25 || extents[0].stored != 2_000_000 || extents[0].Length != 4*testPage {
		t.Errorf("%d extents, the first of %d bytes, stored in %d", len(extents), extents[0].Length, extents[0].stored)
	}
}

// TestDamageOfOneFrameIsThatOfItsFiles though others were read by the same request.
func TestDamageOfOneFrameIsThatOfItsFiles(t *testing.T) {
	for title, damage := range map[string]func(st *mem.Store, key string, last frameRef) error{
		"lost bytes": func(st *mem.Store, key string, last frameRef) error {
			return faulty.Truncate(context.Background(), st, key, int64(last.offset)+100)
		},
		"a bit": func(st *mem.Store, key string, last frameRef) error {
			return faulty.Flip(context.Background(), st, key, int64(last.offset)+100, 1)
		},
	} {
		t.Run(title, func(t *testing.T) {
			st := mem.New()
			b, extents, want := smallFiles(t, testRepository(t, st, ""), 100, 20)
			last := extents[99].parts[0].ref
			if err := damage(st, last.pack.key(), last); err != nil {
				t.Fatal(err)
			}
			f, err := b.Fetch(context.Background(), extents)
			if err != nil {
				t.Fatal(err)
			}
			defer f.Release()
			got := make([]byte, 1000)
			for i := range extents {
				err := f.Read(i, got)
				if bad := i >= 80; !bad && (err != nil || !bytes.Equal(got, want[i])) {
					t.Errorf("file %d: %v", i, err)
				} else if bad && (!errors.Is(err, ErrDamaged) || !strings.Contains(err.Error(), fmt.Sprintf("base/%06d", i)) || !strings.Contains(err.Error(), last.pack.key()) || (title == "lost bytes") != isShort(err)) {
					t.Errorf("file %d: error %v", i, err)
				}
			}
		})
	}
}
