package repo

import (
	"context"
	"fmt"
	"math/rand/v2"
	"slices"
	"testing"

	"github.com/pgbak/pgbak/storage/mem"
)

// TestEntriesAreSortedByRuns gives paths in random order, many more than are in
// memory at once, some twice.
func TestEntriesAreSortedByRuns(t *testing.T) {
	const n, limit = 3000, 256
	rng := rand.New(rand.NewPCG(1, 2))
	var owners ownerTable
	s := newEntrySorter(&owners)
	s.limit = limit
	defer s.close()
	var paths []string
	for i := range n {
		paths = append(paths, fmt.Sprintf("base/%d/%d%s", i%7, i, []string{"", ".1", "_vm", "-x/y"}[i%4]))
	}
	rng.Shuffle(n, func(i, j int) { paths[i], paths[j] = paths[j], paths[i] })
	for round := range int64(2) {
		for i, p := range paths {
			if round == 0 || i%5 == 0 {
				if err := s.add(File{Path: p, Type: TypeFile, Owner: fmt.Sprint(i % 3), Size: round + 1, content: contentRef{kind: contentMap, number: uint32(i)}}); err != nil {
					t.Fatal(err)
				}
			}
		}
	}
	if len(s.runs) < 2*n/limit/2 || len(owners.owners) != 3 {
		t.Fatalf("%d runs, %d owners", len(s.runs), len(owners.owners))
	}
	place := map[string]int{}
	for i, p := range paths {
		place[p] = i
	}
	slices.SortFunc(paths, ComparePaths)
	index, i := newEntryRun(&ownerTable{}, indexBlock), 0
	if err := s.all(func(f File) error {
		at := place[f.Path]
		want := int64(1)
		if at%5 == 0 {
			want = 2
		}
		if i >= n || f.Path != paths[i] || f.Size != want || f.content.number != uint32(at) || f.Owner != fmt.Sprint(at%3) {
			return fmt.Errorf("entry %d is %+v, want %s", i, f, paths[i])
		}
		i++
		return index.add(f)
	}); err != nil || i != n {
		t.Fatalf("%d of %d entries: %v", i, n, err)
	}
	if err := index.flush(); err != nil {
		t.Fatal(err)
	}
	for _, p := range paths {
		if f, ok, err := index.find(p); err != nil || !ok || f.Path != p || f.content.number != uint32(place[p]) {
			t.Fatalf("%s is found as %+v, %v, %v", p, f, ok, err)
		}
		if f, ok, err := index.find(p + "0-"); err != nil || ok {
			t.Fatalf("%s0- is found as %+v, %v", p, f, err)
		}
	}
	for _, p := range []string{"a", "z"} {
		if _, ok, err := index.find(p); ok || err != nil {
			t.Errorf("%s: %v, %v", p, ok, err)
		}
	}
}

// TestBackupInAnyOrder writes the same tree in another order: it reads back in
// order, and finds all of its content in the parent.
func TestBackupInAnyOrder(t *testing.T) {
	ctx := context.Background()
	for _, passphrase := range []string{"", "correct horse battery staple"} {
		s := testRepository(t, mem.New(), passphrase)
		tree := makeTree(1)
		tree.store(t, s)
		shuffled := slices.Clone(tree)
		rand.New(rand.NewPCG(3, 4)).Shuffle(len(tree), func(i, j int) { shuffled[i], shuffled[j] = shuffled[j], shuffled[i] })
		for range 2 {
			w, err := s.BeginBackup(ctx, s.Current(), BeginOptions{Type: Full, PageSize: testPage, Uploads: 2, AnyOrder: true})
			if err != nil {
				t.Fatal(err)
			}
			if err := shuffled.write(ctx, w); err != nil {
				w.Abort()
				t.Fatal(err)
			}
			h, err := w.Commit(BackupHeader{Timeline: 1})
			if err != nil {
				t.Fatal(err)
			}
			if err := checkBackup(s, h.Label, tree); err != nil {
				t.Fatal(err)
			}
			if h.AddedSize != 0 || w.Totals().ReusedBytes == 0 {
				t.Errorf("added %d bytes, reused %d", h.AddedSize, w.Totals().ReusedBytes)
			}
		}
	}
}
