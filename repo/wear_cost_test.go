package repo

import (
	"math/rand/v2"
	"testing"

	"github.com/pgbak/pgbak/storage/mem"
)

// TestWhatIsStoredAgainIsWhatIsWorn: pages of a worn pack that lie scattered over
// many windows do not take the rest of their windows with them.
func TestWhatIsStoredAgainIsWhatIsWorn(t *testing.T) {
	rng := rand.New(rand.NewPCG(1, 1))
	s := testRepository(t, mem.New(), "")
	content := noise(40*windowBytes, 1)
	patchedBackup(t, s, Full, content, everyPage, true)
	change := func(windows int) {
		old := content
		var pages []int
		for n := range windows {
			pages = append(pages, n*PagesPerFrame+3)
		}
		content = patched(old, rng.Uint64(), pages...)
		patchedBackup(t, s, Incremental, content, changedPages(old, content, Incremental), false)
	}
	change(30)
	change(24) // 6 of the 30 pages stay in use
	w := beginPatched(t, s, Incremental, content, changedPages(content, content, Incremental), false)
	worn := len(w.parent.worn)
	h, err := w.Commit(BackupHeader{})
	if err != nil || worn != 1 {
		t.Fatalf("%d worn packs, %v", worn, err)
	}
	p := parentOf(t, s, h.Label)
	defer p.stop()
	for _, u := range p.backup.tables.packs {
		if u.id.op != w.op {
			continue
		}
		f, err := s.repo.readFooter(t.Context(), u.id)
		if err != nil || f.pages != 6 {
			t.Errorf("%d pages were stored again for the 6 that lay in the worn pack, %v", f.pages, err)
		}
	}
	if h.AddedSize == 0 {
		t.Error("nothing was stored again")
	}
	got, err := readFile(t.Context(), p.backup, p.Find(t.Context(), patchedFile).file)
	if err != nil || string(got) != string(content) {
		t.Errorf("the content is not what it was: %v", err)
	}
}

// TestADifferentialLeavesWornPacks: as long as its parent is there, so are they, and the next
// differential would store the same again.
func TestADifferentialLeavesWornPacks(t *testing.T) {
	s := testRepository(t, mem.New(), "")
	content := noise(40*windowBytes, 1)
	patchedBackup(t, s, Full, content, everyPage, true)
	old := content
	content = append(noise(37*windowBytes, 2), old[37*windowBytes:]...)
	patchedBackup(t, s, Full, content, changedPages(old, content, Full), true)
	for range 2 {
		w := beginPatched(t, s, Differential, content, changedPages(content, content, Incremental), false)
		h, err := w.Commit(BackupHeader{})
		if err != nil || h.Type != Differential {
			t.Fatal(h.Type, err)
		}
		if h.AddedSize > 0 {
			t.Errorf("%d bytes were stored again, %d packs are worn", h.AddedSize, len(w.parent.worn))
		}
	}
	w := beginPatched(t, s, Incremental, content, changedPages(content, content, Incremental), false)
	if h, err := w.Commit(BackupHeader{}); err != nil || h.AddedSize == 0 {
		t.Errorf("an incremental stores nothing again: %v", err)
	}
}
