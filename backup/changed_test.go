package backup

import (
	"bytes"
	"context"
	"fmt"
	"log/slog"
	"math/rand/v2"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/pgbak/pgbak/internal/crc32c"
	"github.com/pgbak/pgbak/internal/postgres"
	"github.com/pgbak/pgbak/repo"
	"github.com/pgbak/pgbak/storage/mem"
)

// segmentBlocks is how many pages a segment has in these tests.
const segmentBlocks = 64

// tree is a data directory of which copies are taken without a server.
type tree struct {
	root string
	run  *run
	c    *copier
}

// copyChanges copies a tree as a backup of a type does that knows the changes.
func copyChanges(t *testing.T, root string, typ repo.BackupType, ch changes, to ...Repository) ([]RepositoryResult, []repo.WayUse) {
	t.Helper()
	tr := beginCopy(t, root, typ, ch, to...)
	w := &walker{root: root, version: testVersion, owners: newOwners(), tablespaces: map[string]bool{}, warn: tr.run.warn}
	if err := tr.c.copy(t.Context(), w); err != nil {
		t.Fatal(err)
	}
	return tr.commit(t), tr.c.uses.list()
}

func beginCopy(t *testing.T, root string, typ repo.BackupType, ch changes, to ...Repository) *tree {
	t.Helper()
	ctx := t.Context()
	o := Options{Repositories: to, PGData: root, Type: typ, Processes: 2, Clock: time.Now, Log: slog.New(slog.DiscardHandler)}.withDefaults()
	r := &run{o: o, to: newDestinations(ctx, o), header: repo.BackupHeader{Timeline: 1}, pages: &pageErrors{},
		control: postgres.Control{BlockSize: testPage, SegmentBlocks: segmentBlocks}}
	r.info.BlockSize = testPage
	if err := r.begin(ctx); err != nil {
		t.Fatal(err)
	}
	c := newCopier(o, r.to, r.control, ch)
	r.pages = &c.errors
	return &tree{root: root, run: r, c: c}
}

func (tr *tree) commit(t *testing.T) []RepositoryResult {
	t.Helper()
	err := tr.run.commit(t.Context())
	tr.run.to.close(t.Context())
	results, err := tr.run.to.results(err)
	if err != nil {
		t.Fatal(err)
	}
	return results
}

// contents reads the files of a backup and checks the sums that it gives of them.
func contents(t *testing.T, s *repo.Stanza, label repo.Label) map[string][]byte {
	t.Helper()
	ctx := t.Context()
	b, err := s.OpenBackup(ctx, label)
	if err != nil {
		t.Fatal(err)
	}
	all := map[string][]byte{}
	for f, err := range b.Files(ctx) {
		if err != nil {
			t.Fatal(err)
		}
		if f.Type != repo.TypeFile {
			continue
		}
		extents, err := b.Extents(ctx, f, 1<<20)
		if err != nil {
			t.Fatal(err)
		}
		got := make([]byte, f.Size)
		for _, e := range extents {
			if err := b.ReadExtent(ctx, e, got[e.Offset:e.Offset+e.Length]); err != nil {
				t.Fatal(err)
			}
		}
		if f.HasCRC && f.CRC32C != crc32c.Update(0, got) {
			t.Errorf("%s: the recorded CRC is wrong", f.Path)
		}
		all[f.Path] = got
	}
	return all
}

// generation is content of which every page differs from that of other
// generations and other pages; bytes more than whole pages go to its end.
func generation(g byte, pages, bytes int) []byte {
	content := make([]byte, pages*testPage+bytes)
	for i := range content {
		content[i] = byte(i/testPage) ^ byte(i%251) ^ g<<5
	}
	return content
}

func writeFile(t *testing.T, root, path string, content []byte) {
	t.Helper()
	makeFiles(t, root, path)
	if err := os.WriteFile(filepath.Join(root, path), content, 0o600); err != nil {
		t.Fatal(err)
	}
}

// TestWhatIsReadByTheRules writes every page of every file anew, so that each
// page of the backup says whether it was read (N) or is the parent's (O).
func TestWhatIsReadByTheRules(t *testing.T) {
	old, now := func(n int) string { return strings.Repeat("O", n) }, func(n int) string { return strings.Repeat("N", n) }
	space := "pg_tblspc/16400/" + testVersion + "/5/"
	fork := func(tablespace, database, node uint32) postgres.RelationForkID {
		return postgres.RelationForkID{Tablespace: tablespace, Database: database, Node: node}
	}
	table := new(postgres.BlockTable)
	cases := []struct {
		path          string
		before, after int // pages
		odd           int // bytes behind them
		mark          postgres.RelationForkID
		blocks        []uint32
		limit         int // -1: none
		want          string
	}{
		{path: "base/1/100", before: 3, after: 3, limit: -1, want: old(3)},
		{path: "base/1/101", before: 3, after: 3, mark: fork(1663, 1, 101), blocks: []uint32{1}, limit: -1, want: now(3)},
		{path: "base/1/102", before: 3, after: 4, limit: -1, want: now(4)},
		{path: "base/1/103", before: 3, after: 2, limit: -1, want: now(2)},
		{path: "base/1/200", before: 40, after: 40, limit: -1, want: old(40)},
		{path: "base/1/201", before: 40, after: 40, mark: fork(1663, 1, 201), blocks: []uint32{3, 20}, limit: -1, want: old(3) + "N" + old(16) + "N" + old(19)},
		{path: "base/1/202", before: 40, after: 40, mark: fork(1663, 1, 202), blocks: []uint32{16, 17, 18, 19, 20, 21, 22, 31}, limit: -1, want: old(16) + now(16) + old(8)},
		{path: "base/1/203", before: 40, after: 40, mark: fork(1663, 1, 203), blocks: []uint32{2}, limit: 30, want: "OON" + old(27) + now(10)},
		{path: "base/1/204", before: 40, after: 40, mark: fork(1663, 1, 204), limit: 0, want: now(40)},
		{path: "base/1/205", before: 40, after: 45, limit: -1, want: old(40) + now(5)},
		{path: "base/1/206", before: 40, after: 36, limit: -1, want: old(36)},
		{path: "base/1/207", before: 40, after: 40, odd: 100, limit: -1, want: now(41)},
		{path: "base/1/208", before: 0, after: 40, limit: -1, want: now(40)},
		{path: "base/1/209", before: 3, after: 40, limit: -1, want: now(40)},
		{path: "base/1/210", before: 65, after: 65, limit: -1, want: now(65)},
		{path: "base/1/300", before: 64, after: 64, mark: fork(1663, 1, 300), blocks: []uint32{64 + 5}, limit: 64 + 26, want: old(64)},
		{path: "base/1/300.1", before: 40, after: 40, want: old(5) + "N" + old(20) + now(14), limit: -1},
		{path: "base/1/301.1", before: 40, after: 40, mark: fork(1663, 1, 301), limit: 64, want: now(40)},
		{path: "base/1/302.1", before: 40, after: 40, mark: fork(1663, 1, 302), blocks: []uint32{1, 128}, limit: -1, want: old(40)},
		{path: "base/1/200_fsm", before: 20, after: 20, limit: -1, want: now(20)},
		{path: "base/1/200_vm", before: 3, after: 3, limit: -1, want: now(3)},
		{path: "base/1/201_vm", before: 20, after: 20, limit: -1, want: now(20)},
		{path: "base/1/250_init", before: 20, after: 20, limit: -1, want: now(20)},
		{path: "base/1/PG_VERSION", before: 1, after: 1, limit: -1, want: "N"},
		{path: "base/2/100", before: 3, after: 3, mark: fork(1663, 2, 0), limit: 0, want: now(3)},
		{path: "base/2/200", before: 40, after: 40, limit: -1, want: now(40)},
		{path: "global/1260", before: 20, after: 20, mark: fork(1664, 0, 1260), blocks: []uint32{19}, limit: -1, want: old(19) + "N"},
		{path: "pg_xact/0000", before: 32, after: 32, limit: -1, want: now(32)},
		{path: space + "100", before: 20, after: 20, mark: fork(16400, 5, 100), blocks: []uint32{0}, limit: -1, want: "N" + old(19)},
	}
	root := t.TempDir()
	for _, c := range cases {
		if c.before > 0 {
			writeFile(t, root, c.path, generation(1, c.before, 0))
		}
	}
	plain, sealed := place{"plain", "zstd:1", "", mem.New()}.open(t), place{"sealed", "none", "secret", mem.New()}.open(t)
	copyChanges(t, root, repo.Full, changes{way: WayFull}, plain, sealed)
	for _, c := range cases {
		writeFile(t, root, c.path, generation(2, c.after, c.odd))
		if c.mark == (postgres.RelationForkID{}) {
			continue
		}
		for _, b := range c.blocks {
			table.Mark(c.mark, b)
		}
		if c.limit >= 0 {
			table.Truncate(c.mark, uint32(c.limit))
			for _, b := range c.blocks {
				table.Mark(c.mark, b)
			}
		}
	}
	results, ways := copyChanges(t, root, repo.Incremental, changes{way: WayServerSummaries, table: table}, plain, sealed)
	for i, s := range []Repository{plain, sealed} {
		if results[i].Header.Type != repo.Incremental {
			t.Errorf("%s: type %s", s.Name, results[i].Header.Type)
		}
		all := contents(t, s.Stanza, results[i].Header.Label)
		for _, c := range cases {
			if got := generations(all[c.path], generation(1, c.before, 0), generation(2, c.after, c.odd)); got != c.want {
				t.Errorf("%s: %s of %d and then %d pages:\n got %s\nwant %s", s.Name, c.path, c.before, c.after, got, c.want)
			}
		}
	}
	if ways[0].Way != WayServerSummaries || ways[0].Read >= ways[0].Bytes/2 || ways[1].Way != WayPageHashes || ways[2].Way != WayFull {
		t.Errorf("ways %+v", ways)
	}
}

// generations says of each page which of two contents it is of.
func generations(got, old, now []byte) string {
	var s []byte
	for at := 0; at < len(got); at += testPage {
		page := func(b []byte) []byte { return b[min(at, len(b)):min(at+testPage, len(b))] }
		switch {
		case bytes.Equal(page(got), page(now)):
			s = append(s, 'N')
		case bytes.Equal(page(got), page(old)):
			s = append(s, 'O')
		default:
			s = append(s, '?')
		}
	}
	return string(s)
}

// TestPagesAreComparedByTheirHashes takes backups of every type of a tree that
// changes at random, into a repository that has been there from the beginning
// and one that comes later.
func TestPagesAreComparedByTheirHashes(t *testing.T) {
	root, rng := t.TempDir(), rand.New(rand.NewPCG(3, 4))
	files := map[string][]byte{}
	for n, pages := range []int{1, 15, 16, 17, 40, 130, 600} {
		for _, name := range []string{fmt.Sprint("base/1/", 100+n), fmt.Sprintf("base/1/%d_fsm", 100+n), fmt.Sprint("pg_xact/", n)} {
			files[name] = generation(1, pages, n%2*1000)
			writeFile(t, root, name, files[name])
		}
	}
	first, later := place{"first", "zstd:3", "", mem.New()}.open(t), place{"later", "zstd:1", "secret", mem.New()}.open(t)
	copyChanges(t, root, repo.Full, changes{way: WayFull}, first)
	for n, typ := range []repo.BackupType{repo.Incremental, repo.Incremental, repo.Differential, repo.Incremental, repo.Full, repo.Incremental} {
		for name, content := range files {
			if rng.IntN(3) > 0 {
				files[name] = disturb(rng, content)
				writeFile(t, root, name, files[name])
			}
		}
		to := []Repository{first}
		if n > 1 {
			to = append(to, later)
		}
		way := WayPageHashes
		if typ == repo.Full {
			way = WayFull
		}
		results, ways := copyChanges(t, root, typ, changes{way: way}, to...)
		for i, s := range to {
			all := contents(t, s.Stanza, results[i].Header.Label)
			for name, want := range files {
				if !bytes.Equal(all[name], want) {
					t.Fatalf("round %d: %s: %s differs", n, s.Name, name)
				}
			}
		}
		h := results[0].Header
		if way == WayPageHashes && (ways[0].Way != way || h.AddedSize > h.DatabaseSize/4) {
			t.Errorf("round %d: ways %+v, %d bytes added of %d", n, ways, h.AddedSize, h.DatabaseSize)
		}
	}
}

// disturb changes some pages, grows or shrinks.
func disturb(rng *rand.Rand, content []byte) []byte {
	b := slices.Clone(content)
	for range rng.IntN(4) {
		b[rng.IntN(len(b))] ^= 0x55
	}
	switch rng.IntN(6) {
	case 0:
		b = append(b, generation(byte(rng.IntN(4)), rng.IntN(3), rng.IntN(testPage))...)
	case 1:
		b = b[:len(b)-rng.IntN(len(b)/2)]
	}
	return b
}

// TestAFileThatIsCutWhileItIsReadEndsThere cuts a file after it was opened.
func TestAFileThatIsCutWhileItIsReadEndsThere(t *testing.T) {
	for _, c := range []struct {
		pages  int
		cut    int64 // bytes that are left
		blocks []uint32
		want   int // pages
	}{
		{60, 50 * testPage, []uint32{3, 55}, 55}, // what was not to be read cannot be missed; WAL cuts it
		{60, 50*testPage + 100, []uint32{3, 50, 51}, 50},
		{60, 50 * testPage, []uint32{48, 49, 50, 51}, 50},
		{60, 0, []uint32{3}, 3},
		{60, 0, nil, 0}, // all of it is read
		{300, 100 * testPage, nil, 100},
	} {
		t.Run(fmt.Sprint(c.cut, c.blocks), func(t *testing.T) {
			ctx, root, path := t.Context(), t.TempDir(), "base/1/100"
			to := place{"only", "zstd:1", "", mem.New()}.open(t)
			writeFile(t, root, path, generation(1, c.pages, 0))
			copyChanges(t, root, repo.Full, changes{way: WayFull}, to)
			table, fork := new(postgres.BlockTable), postgres.RelationForkID{Tablespace: 1663, Database: 1, Node: 100}
			for _, b := range c.blocks {
				table.Mark(fork, b)
			}
			ch := changes{way: WayServerSummaries, table: table}
			if c.blocks == nil {
				ch = changes{way: WayPageHashes}
			}
			tr := beginCopy(t, root, repo.Incremental, ch, to)
			tr.cutWhileRead(ctx, t, path, c.cut)
			got := contents(t, to.Stanza, tr.commit(t)[0].Header.Label)[path]
			if len(got) != c.want*testPage || !bytes.Equal(got, generation(1, c.want, 0)) {
				t.Errorf("the file has %d bytes, want %d pages", len(got), c.want)
			}
		})
	}
}

// cutWhileRead sends a file on its way, with the workers held back until it is cut.
func (tr *tree) cutWhileRead(ctx context.Context, t *testing.T, path string, length int64) {
	t.Helper()
	name := filepath.Join(tr.root, path)
	info, err := os.Stat(name)
	if err != nil {
		t.Fatal(err)
	}
	cut := false
	tr.c.o.Processes, tr.c.work = 1, make(chan *task, 100)
	done := make(chan error)
	go func() { done <- tr.c.write(ctx) }()
	it := item{file: repo.File{Path: path, Type: repo.TypeFile, Size: info.Size(), ModTime: info.ModTime()}, name: name}
	if err := tr.c.take(ctx, it); err != nil {
		t.Fatal(err)
	}
	if err := os.Truncate(name, length); err == nil {
		cut = true
	}
	close(tr.c.work)
	close(tr.c.order)
	if err := tr.c.worker(ctx); err != nil || !cut {
		t.Fatal(err, cut)
	}
	if err := <-done; err != nil {
		t.Fatal(err)
	}
}
