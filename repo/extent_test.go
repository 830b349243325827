package repo

import (
	"bytes"
	"context"
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

func TestContiguousBoundsARequest(t *testing.T) {
	pack := testPack(1, 0)
	var parts []part
	for i := range uint32(100) {
		ref := frameRef{pack: pack, ordinal: i, offset: i * (windowBytes + 100), stored: windowBytes, raw: windowBytes}
		parts = append(parts, part{ref: ref, length: testPage})
	}
	n := contiguous(parts)
	if got := parts[n-1].ref.end() - parts[0].ref.offset; got > maxRequest || n < 2 {
		t.Errorf("%d parts, %d bytes", n, got)
	}
	far := []part{parts[0], parts[40]}
	if contiguous(far) != 1 {
		t.Error("a gap of megabytes is read along")
	}
	other := parts[1]
	other.ref.pack.number++
	if contiguous([]part{parts[0], other}) != 1 {
		t.Error("frames of two packs are read as one")
	}
}
