package repo

import (
	"context"
	"fmt"
	"math/rand/v2"
	"slices"
	"testing"

	"github.com/pgbak/pgbak/storage/mem"
)

// fileOf gives the map of the patched file in a backup.
func fileOf(t *testing.T, s *Stanza, l Label) *fileMap {
	t.Helper()
	p := parentOf(t, s, l)
	defer p.stop()
	return p.Find(context.Background(), patchedFile).fileMap
}

func parentOf(t *testing.T, s *Stanza, l Label) *Parent {
	t.Helper()
	b, err := s.OpenBackup(context.Background(), l)
	if err != nil {
		t.Fatal(err)
	}
	p := newParent(context.Background(), b, false)
	p.wear(Incremental)
	return p
}

func everyPage(int) bool { return true }

// TestWindowsOfManyChangesAreStoredAgain: from realignAt on, and with fewer they are not.
func TestWindowsOfManyChangesAreStoredAgain(t *testing.T) {
	old := rows(4*windowBytes, 1)
	for _, test := range []struct{ changed, aligned int }{{realignAt - 1, 3}, {realignAt, 4}} {
		s := testRepository(t, mem.New(), "")
		patchedBackup(t, s, Full, old, everyPage, true)
		var pages []int
		for k := range test.changed {
			pages = append(pages, 2*PagesPerFrame+2*k)
		}
		now := patched(old, 50, pages...)
		m := fileOf(t, s, patchedBackup(t, s, Incremental, now, changedPages(old, now, Incremental), false))
		aligned := 0
		for n := range int64(4) {
			if _, ok := m.alignedFrame(n); ok {
				aligned++
			}
		}
		if aligned != test.aligned {
			t.Errorf("%d changed pages leave %d aligned windows, want %d", test.changed, aligned, test.aligned)
		}
	}
}

// TestAnUnchangedFileNamesItsParentsMap, though it was handed through a Stretch,
// has a short last window and pages in delta frames.
func TestAnUnchangedFileNamesItsParentsMap(t *testing.T) {
	s := testRepository(t, mem.New(), "")
	old := rows(4*windowBytes+5*testPage+100, 1)
	patchedBackup(t, s, Full, old, everyPage, true)
	now := patched(old, 50, 3, 20, 21)
	m := fileOf(t, s, patchedBackup(t, s, Incremental, now, changedPages(old, now, Incremental), false))
	if _, ok := m.alignedFrame(4); !ok {
		t.Error("the last window is not taken over as a whole")
	}
	h, err := beginPatched(t, s, Incremental, now, changedPages(now, now, Incremental), false).Commit(BackupHeader{})
	if err != nil || h.AddedSize != 0 {
		t.Errorf("%d bytes added, %v", h.AddedSize, err)
	}
}

// TestAllPagesAreComparedByTheirHashes, those in slots of delta frames, too.
func TestAllPagesAreComparedByTheirHashes(t *testing.T) {
	s := testRepository(t, mem.New(), "")
	old := rows(4*windowBytes+5*testPage, 1)
	clear(old[windowBytes:][:3*testPage])
	patchedBackup(t, s, Full, old, everyPage, true)
	now := patched(old, 50, 3, 20, 21, 50, 68)
	patchedBackup(t, s, Incremental, now, everyPage, true)
	m := fileOf(t, s, s.labelsThere(t)[1])
	first := fileOf(t, s, s.labelsThere(t)[0]).frames[0].pack
	var moved []int64
	for page := range m.pages() {
		for p := range m.pieces(page, page+1) {
			if !p.zero && p.ref.pack != first {
				moved = append(moved, page)
			}
		}
	}
	if !slices.Equal(moved, []int64{3, 20, 21, 50, 68}) {
		t.Errorf("pages %v were stored", moved)
	}
	h, err := beginPatched(t, s, Incremental, now, everyPage, true).Commit(BackupHeader{})
	if err != nil || h.AddedSize != 0 {
		t.Errorf("%d bytes added though nothing has changed, %v", h.AddedSize, err)
	}
}

func TestAPageThatNobodyHoldsIsRefused(t *testing.T) {
	ctx := context.Background()
	s := testRepository(t, mem.New(), "")
	old := rows(2*windowBytes, 1)
	patchedBackup(t, s, Full, old, everyPage, true)
	for _, pages := range []int64{1, PagesPerFrame} {
		w, err := s.BeginBackup(ctx, s.Current(), BeginOptions{Type: Incremental, PageSize: testPage})
		if err != nil {
			t.Fatal(err)
		}
		file := w.PatchFile(w.Parent().Find(ctx, patchedFile))
		err = file.End(File{Path: patchedFile, Type: TypeFile, Size: int64(len(old)) + pages*testPage})
		expectError(t, err, fmt.Sprintf("nothing holds the pages 0 to %d", 2*PagesPerFrame+pages-1))
		w.Abort()
	}
}

func TestWornPacks(t *testing.T) {
	pack := func(n uint32, size, used int64) packUse { return packUse{id: testPack(1, n), size: size, used: used} }
	for _, test := range []struct {
		title string
		packs []packUse
		worn  []uint32
	}{
		{"none", nil, nil},
		{"half is enough", []packUse{pack(0, 1000, 500), pack(1, 1000, 499), pack(2, 100_000, 99_000)}, []uint32{1}},
		{"the emptiest first, within the budget", []packUse{pack(0, 10_000, 3000), pack(1, 10_000, 1000), pack(2, 5000, 600), pack(3, 80_000, 79_000)}, []uint32{1, 2}},
		{"one, whatever the budget", []packUse{pack(0, 1000, 400), pack(1, 1000, 450)}, []uint32{0}},
	} {
		var got []uint32
		for id := range wornPacks(test.packs, wearBudget) {
			got = append(got, id.number)
		}
		slices.Sort(got)
		if !slices.Equal(got, test.worn) {
			t.Errorf("%s: worn %v, want %v", test.title, got, test.worn)
		}
	}
}

// TestContentOfWornPacksIsStoredAgain: a file that has not changed is not settled as
// long as some of it lies in a worn pack, and a backup moves that, whatever its type.
func TestContentOfWornPacksIsStoredAgain(t *testing.T) {
	for _, typ := range []BackupType{Full, Incremental} {
		t.Run(string(typ), func(t *testing.T) {
			ctx := context.Background()
			s := testRepository(t, mem.New(), "")
			content := rows(40*windowBytes, 1)
			for n := range 36 { // of the first backup's pack, 4 windows stay in use
				now := patched(content, uint64(1000*n), n*PagesPerFrame, n*PagesPerFrame+1, n*PagesPerFrame+2, n*PagesPerFrame+3, n*PagesPerFrame+4, n*PagesPerFrame+5, n*PagesPerFrame+6, n*PagesPerFrame+7)
				if n == 0 {
					patchedBackup(t, s, Full, content, everyPage, true)
				}
				content = now
			}
			first := s.labelsThere(t)[0]
			old := parentOf(t, s, first)
			defer old.stop()
			label := patchedBackup(t, s, Incremental, content, func(page int) bool { return page/PagesPerFrame < 36 && page%PagesPerFrame < 8 }, false)
			p := parentOf(t, s, label)
			defer p.stop()
			worn := old.backup.tables.packs[0].id
			wants := p.Find(ctx, patchedFile)
			if !p.isWorn(ctx, worn) {
				used := float64(p.backup.tables.packs[1].used) / float64(p.backup.header.ReferencedSize)
				t.Fatalf("pack %s is not worn: %+v, %f", worn.key(), p.backup.tables.packs, used)
			}
			if wants.Settled() {
				t.Error("the file is settled")
			}
			next := patchedBackup(t, s, typ, content, changedPages(content, content, typ), typ == Full)
			b, err := s.OpenBackup(ctx, next)
			if err != nil {
				t.Fatal(err)
			}
			if slices.ContainsFunc(b.tables.packs, func(u packUse) bool { return u.id == worn }) {
				t.Error("the worn pack is still used")
			}
			after := parentOf(t, s, next)
			defer after.stop()
			if !after.Find(ctx, patchedFile).Settled() {
				t.Error("the file is not settled")
			}
			got, err := readFile(ctx, b, after.Find(ctx, patchedFile).file)
			if err != nil || string(got) != string(content) {
				t.Errorf("the content is not what it was: %v", err)
			}
		})
	}
}

// TestScatterIsWhatARestoreReads: every frame once, by what of it is needed.
func TestScatterIsWhatARestoreReads(t *testing.T) {
	rng := rand.New(rand.NewPCG(5, 5))
	for range 50 {
		m := randomMap(rng)
		m.index()
		var needed float64
		frames := map[frameRef]bool{}
		for p := range m.pieces(0, m.pages()) {
			if p.zero {
				continue
			}
			share := 1.0
			if !p.whole {
				share = min(1, float64(p.count)*float64(m.pageSize)/float64(p.ref.raw))
			}
			needed += share * float64(p.ref.stored)
			frames[p.ref] = true
		}
		read := 0.0
		for ref := range frames {
			read += float64(ref.stored)
		}
		if got := m.scatter(); needed > 0 && (got < 0.999*read/needed || got > 1.001*read/needed) {
			t.Fatalf("scatter %f, want %f", got, read/needed)
		}
	}
}

// TestAScatteredFileIsStoredInOnePiece though nothing has changed.
func TestAScatteredFileIsStoredInOnePiece(t *testing.T) {
	s := testRepository(t, mem.New(), "")
	content := noise(6*windowBytes, 1) // or the packs would be next to empty, and worn
	rng := rand.New(rand.NewPCG(6, 6))
	label := patchedBackup(t, s, Full, content, everyPage, true)
	for n := 0; fileOf(t, s, label).scatter() <= rebaseAt(patchedFile); n++ {
		if n == 60 {
			t.Fatalf("scatter %f", fileOf(t, s, label).scatter())
		}
		now := patched(content, uint64(100*n), rng.Perm(6 * PagesPerFrame)[:5]...)
		label = patchedBackup(t, s, Incremental, now, changedPages(content, now, Incremental), false)
		content = now
	}
	label = patchedBackup(t, s, Incremental, content, changedPages(content, content, Incremental), false)
	if got := fileOf(t, s, label).scatter(); got != 1 {
		t.Errorf("scatter %f", got)
	}
}

// TestRebasesAreSpread: files that are changed alike do not all have their turn at once.
func TestRebasesAreSpread(t *testing.T) {
	low, high := 0, 0
	for n := range 1000 {
		at := rebaseAt(fmt.Sprintf("base/5/%d", n))
		if at < rebaseMin || at >= rebaseMax {
			t.Fatalf("scatter %f", at)
		}
		if at < (rebaseMin+rebaseMax)/2 {
			low++
		} else {
			high++
		}
	}
	if low < 400 || high < 400 {
		t.Errorf("%d early, %d late", low, high)
	}
}

// TestAPackOfTinyFilesIsNotWorn: what describes them takes more room than they do.
func TestAPackOfTinyFilesIsNotWorn(t *testing.T) {
	s := testRepository(t, mem.New(), "")
	tree := testTree{{"base", nil}}
	for n := range 300 {
		tree = append(tree, testTree{{fmt.Sprintf("base/%08d", n), []byte{byte(n), byte(n >> 8)}}}...)
	}
	tree.store(t, s)
	w, err := s.BeginBackup(t.Context(), s.Current(), BeginOptions{Type: Full, PageSize: testPage})
	if err != nil {
		t.Fatal(err)
	}
	defer w.Abort()
	if len(w.parent.worn) != 1 {
		t.Errorf("%d packs seem worn: the test proves nothing", len(w.parent.worn))
	}
	if f := w.Parent().Find(t.Context(), "base/00000007"); !f.Settled() {
		t.Error("it is to be stored again")
	}
}
