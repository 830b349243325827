package repo

import (
	"context"
	"fmt"
	"math/rand/v2"
	"testing"
	"time"

	"github.com/pgbak/pgbak/internal/crc32c"
	"github.com/pgbak/pgbak/storage/mem"
)

// TestPatchesOverManyBackups changes random pages of a file, in many ways, from
// backup to backup, and reads each backup back.
func TestPatchesOverManyBackups(t *testing.T) {
	ctx := context.Background()
	eachRepository(t, func(t *testing.T, passphrase string) {
		for seed := range uint64(6) {
			rng := rand.New(rand.NewPCG(seed, 1))
			s := testRepository(t, mem.New(), passphrase)
			content := randomPages(rng, 100)
			backups := map[Label][]byte{}
			for n := range 12 {
				typ := []BackupType{Full, Incremental, Differential, Incremental}[n%4]
				old := content
				content = churn(rng, content)
				label := patchedBackup(t, s, typ, content, changedPages(old, content, typ), n%3 == 0)
				backups[label] = content
			}
			for label, want := range backups {
				b, err := s.OpenBackup(ctx, label)
				if err != nil {
					t.Fatal(err)
				}
				for f, err := range b.Files(ctx) {
					if err != nil {
						t.Fatal(err)
					}
					got, err := readFile(ctx, b, f)
					if err != nil {
						t.Fatal(err)
					}
					if string(got) != string(want) {
						t.Fatalf("seed %d: %s of backup %s differs", seed, f.Path, label)
					}
					if f.HasCRC && f.CRC32C != crc32c.Update(0, want) {
						t.Errorf("seed %d: backup %s: wrong CRC", seed, label)
					}
				}
			}
		}
	})
}

func randomPages(rng *rand.Rand, n int) []byte {
	b := make([]byte, n*testPage)
	for i := range b {
		b[i] = byte(rng.UintN(4)) // compresses
	}
	return b
}

// churn changes pages here and there, grows and truncates.
func churn(rng *rand.Rand, old []byte) []byte {
	b := append([]byte(nil), old...)
	pages := len(b) / testPage
	for range rng.IntN(20) {
		p := rng.IntN(pages)
		copy(b[p*testPage:], randomPages(rng, 1))
	}
	if rng.IntN(3) == 0 {
		p := rng.IntN(pages)
		clear(b[p*testPage:][:testPage])
	}
	switch rng.IntN(4) {
	case 0:
		b = append(b, randomPages(rng, rng.IntN(30))...)
	case 1:
		b = b[:max(20, pages-rng.IntN(30))*testPage]
	}
	return b
}

// changedPages gives what a summary would tell; nil when all may have changed.
func changedPages(old, now []byte, typ BackupType) func(page int) bool {
	if typ != Incremental {
		return func(int) bool { return true }
	}
	return func(page int) bool {
		at := page * testPage
		return at >= len(old) || string(old[at:at+testPage]) != string(now[at:at+testPage])
	}
}

func patchedBackup(t *testing.T, s *Stanza, typ BackupType, content []byte, changed func(int) bool, compare bool) Label {
	t.Helper()
	h, err := beginPatched(t, s, typ, content, changed, compare).Commit(BackupHeader{})
	if err != nil {
		t.Fatal(err)
	}
	return h.Label
}

// patchedFile is the file of these tests.
const patchedFile = "base/1/2"

// beginPatched is patchedBackup up to its commit.
func beginPatched(t *testing.T, s *Stanza, typ BackupType, content []byte, changed func(int) bool, compare bool) *BackupWriter {
	t.Helper()
	ctx := context.Background()
	w, err := s.BeginBackup(ctx, s.Current(), BeginOptions{Type: typ, PageSize: testPage})
	if err != nil {
		t.Fatal(err)
	}
	parents := []*ParentFile{w.Parent().Find(ctx, patchedFile)}
	framers, err := NewFramers(s.Repository())
	if err != nil {
		t.Fatal(err)
	}
	framers.Resume(0, w.Resumption())
	file := w.PatchFile(parents[0])
	const windowBytes = PagesPerFrame * testPage
	for from := int64(0); from*windowBytes < int64(len(content)); from += 3 {
		st := framers.Stretch(nil, patchedFile, testPage, parents)
		for n := from; n < from+3 && n*windowBytes < int64(len(content)); n++ {
			raw := append([]byte(nil), content[n*windowBytes:min((n+1)*windowBytes, int64(len(content)))]...)
			var set PageSet
			for k := range len(raw) / testPage {
				if changed(int(n)*PagesPerFrame + k) {
					set |= 1 << k
				}
			}
			whole := WholeWindow(parents, n, set)
			for k := range len(raw) / testPage {
				if !whole && !set.Has(k) {
					copy(raw[k*testPage:], fmt.Sprintf("%*s", testPage, "never read"))
				}
			}
			if err := st.Window(ctx, n, raw, set, whole, compare); err != nil {
				t.Fatal(err)
			}
		}
		_, patches, err := st.End()
		if err != nil {
			t.Fatal(err)
		}
		if err := file.Patch(patches[0]); err != nil {
			t.Fatal(err)
		}
	}
	if compare || typ == Full { // else only some of it was read
		file.AddCRC(crc32c.Update(0, content), int64(len(content)))
	}
	if err := file.End(File{Path: patchedFile, Type: TypeFile, Mode: 0o600, Size: int64(len(content)), ModTime: time.Unix(1, 0)}); err != nil {
		t.Fatal(err)
	}
	return w
}
