package backup

import (
	"context"
	"encoding/binary"
	"log/slog"
	"os"
	"path/filepath"
	"reflect"
	"testing"

	"github.com/pgbak/pgbak/internal/postgres"
	"github.com/pgbak/pgbak/repo"
)

const testPage = 8192

// testPages makes pages as they stand in a segment: with their checksums, which
// the number of the block in the whole relation goes into.
func testPages(first uint32, count int) []byte {
	content := make([]byte, count*testPage)
	for i := range count {
		page := content[i*testPage : (i+1)*testPage]
		for k := range page {
			page[k] = byte(k*7 + i)
		}
		copy(page[:24], make([]byte, 24))
		binary.LittleEndian.PutUint16(page[12:], 28)         // pd_lower
		binary.LittleEndian.PutUint16(page[14:], testPage)   // pd_upper
		binary.LittleEndian.PutUint16(page[16:], testPage)   // pd_special
		binary.LittleEndian.PutUint16(page[18:], testPage|4) // pd_pagesize_version
		binary.LittleEndian.PutUint16(page[8:], postgres.PageChecksum(page, first+uint32(i)))
	}
	return content
}

// checkFile runs a pageReader over one reading of a file.
func checkFile(t *testing.T, name string, raw []byte, offset int64, onDisk []byte) (*copier, bool) {
	t.Helper()
	path := filepath.Join(t.TempDir(), "relation")
	if err := os.WriteFile(path, onDisk, 0o600); err != nil {
		t.Fatal(err)
	}
	f, err := os.Open(path)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	rel, ok := postgres.ParseRelationPath(name)
	if !ok {
		t.Fatalf("%s is no relation", name)
	}
	c := &copier{pageSize: testPage, o: Options{Log: slog.New(slog.DiscardHandler)}, control: postgres.Control{BlockSize: testPage, SegmentBlocks: 131072}}
	bad, err := (pageReader{c: c, f: f, path: name, rel: rel}).check(context.Background(), raw, offset)
	if err != nil {
		t.Fatal(err)
	}
	return c, bad
}

func TestPagesAreCheckedByTheirBlockInTheWholeRelation(t *testing.T) {
	const segment = 131072 // blocks
	for _, c := range []struct {
		title, name string
		first       uint32 // block of the file's first page
		offset      int64  // of the reading, in pages
		damage      []int  // pages
		want        []uint32
	}{
		{"segment 0, all right", "base/5/16384", 0, 0, nil, nil},
		{"segment 1, all right", "base/5/16384.1", segment, 0, nil, nil},
		{"segment 12 of a fork, all right", "base/5/16384_fsm.12", 12 * segment, 0, nil, nil},
		{"segment 0, a damaged page", "base/5/16384", 0, 0, []int{3}, []uint32{3}},
		{"segment 1, the first page is damaged", "base/5/16384.1", segment, 0, []int{0}, []uint32{segment}},
		{"segment 2, damaged pages in a later reading", "base/5/16384.2", 2 * segment, 4, []int{5, 7}, []uint32{2*segment + 5, 2*segment + 7}},
		{"pages of segment 0 under the name of segment 1", "base/5/16384.1", 0, 6, nil, []uint32{segment + 6, segment + 7}},
	} {
		t.Run(c.title, func(t *testing.T) {
			content := testPages(c.first, 8)
			for _, n := range c.damage {
				content[n*testPage+5000] ^= 1
			}
			raw := append([]byte(nil), content[c.offset*testPage:]...)
			copier, bad := checkFile(t, c.name, raw, c.offset*testPage, content)
			var want []repo.PageError
			if len(c.want) > 0 {
				want = []repo.PageError{{Path: c.name, Blocks: c.want}}
			}
			if bad != (len(c.want) > 0) || copier.errors.total != int64(len(c.want)) || !reflect.DeepEqual(copier.errors.files, want) {
				t.Errorf("bad %v, %d errors, %+v; want %+v", bad, copier.errors.total, copier.errors.files, want)
			}
		})
	}
}

func TestAPageThatTheServerIsWritingIsReadAgainAndIsNoError(t *testing.T) {
	whole := testPages(0, 4)
	torn := append([]byte(nil), whole...)
	clear(torn[testPage+4096 : 2*testPage]) // half of page 1 was old when it was read first
	raw := append([]byte(nil), torn...)
	c, bad := checkFile(t, "base/5/16384", raw, 0, whole)
	if bad || c.errors.total != 0 {
		t.Errorf("reported as damaged: %+v", c.errors.files)
	}
	if !reflect.DeepEqual(raw, whole) {
		t.Error("the torn page was kept, though a later reading gave the whole one")
	}
}

func TestAPageThatIsCutOffMeanwhileIsNoError(t *testing.T) {
	whole := testPages(0, 4)
	raw := append([]byte(nil), whole...)
	raw[3*testPage+5000] ^= 1
	c, bad := checkFile(t, "base/5/16384", raw, 0, whole[:3*testPage])
	if bad || c.errors.total != 0 {
		t.Errorf("reported as damaged: %+v", c.errors.files)
	}
}

func TestTooManyDamagedPagesAreCountedButNotAllListed(t *testing.T) {
	var p pageErrors
	for n := range uint32(250) {
		p.add("base/5/1", n)
	}
	for n := range uint32(150) {
		p.add("base/5/"+string(rune('a'+n)), 0)
	}
	if p.total != 400 || len(p.files) != maxErrorFiles || len(p.files[0].Blocks) != maxErrorBlocks || !p.files[0].Truncated {
		t.Errorf("%d in all, %d files, %d blocks of the first", p.total, len(p.files), len(p.files[0].Blocks))
	}
}
