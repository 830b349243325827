package repo

import (
	"bytes"
	"context"
	"fmt"
	"io/fs"
	"math/rand/v2"
	"testing"
	"time"

	"github.com/pgbak/pgbak/internal/crc32c"
	"github.com/pgbak/pgbak/storage"
	"github.com/pgbak/pgbak/storage/mem"
)

const testPage = 8192

// testClock ticks one second at every reading.
func testClock() func() time.Time {
	now := time.Date(2026, 11, 20, 12, 0, 0, 0, time.UTC)
	return func() time.Time {
		now = now.Add(time.Second)
		return now
	}
}

func testIdentity() Identity {
	return Identity{SystemID: 7_400_000_000_000_000_001, Major: 18, SegmentSize: 16 << 20, BlockSize: testPage}
}

// testTree is a made-up cluster: path to content, in the order of a walk.
type testTree []struct {
	path string
	data []byte
}

func makeTree(seed uint64) testTree {
	rng := rand.New(rand.NewPCG(seed, 1))
	content := func(n int) []byte {
		b := make([]byte, n)
		for i := range b {
			b[i] = "abcdefgh"[rng.IntN(8)]
		}
		return b
	}
	big := content(5<<20 + 3*testPage + 100)
	clear(big[1<<20 : 3<<20]) // a hole
	return testTree{
		{"PG_VERSION", content(3)},
		{"base", nil},
		{"base/1", nil},
		{"base/1/100", content(testPage)},
		{"base/1/101", content(16 * testPage)},
		{"base/1/102", big},
		{"base/1/103", []byte{}},
		{"base/1/104", content(17 * testPage)},
		{"base-x", content(20)},
		{"global", nil},
		{"global/1", content(40 << 10)},
		{"global/2", content(80 << 10)},
		{"global/3", make([]byte, 2<<20)},
	}
}

// store writes the tree as a backup.
func (tree testTree) store(t testing.TB, s *Stanza) BackupHeader {
	t.Helper()
	ctx := context.Background()
	w, err := s.BeginBackup(ctx, s.Current(), BeginOptions{Type: Full, PageSize: testPage, Uploads: 2})
	if err != nil {
		t.Fatal(err)
	}
	if err := tree.write(ctx, w); err != nil {
		w.Abort()
		t.Fatal(err)
	}
	h, err := w.Commit(BackupHeader{Timeline: 1})
	if err != nil {
		t.Fatal(err)
	}
	return h
}

func (tree testTree) write(ctx context.Context, w *BackupWriter) error {
	framer, err := w.stanza.repo.NewFramer()
	if err != nil {
		return err
	}
	framer.resumption = w.Resumption()
	var files []File
	var smalls []Small
	var raw []byte
	flush := func() error {
		_, b, err := framer.Bundle(nil, raw, smalls)
		if err == nil {
			err = w.AddSmall(files, smalls, b)
		}
		files, smalls, raw = nil, nil, nil
		return err
	}
	for _, f := range tree {
		file := File{Path: f.path, Type: TypeFile, Mode: 0o600, ModTime: time.Unix(1_700_000_000, 0), Owner: "postgres", Group: "postgres", Size: int64(len(f.data))}
		if f.data == nil {
			file.Type, file.Mode = TypeDir, 0o700
		}
		small := len(f.data) > 0 && len(f.data) < 16*testPage
		if !small || len(raw)+len(f.data) > 16*testPage {
			if err := flush(); err != nil {
				return err
			}
		}
		switch {
		case small:
			parent := w.Parent().Find(ctx, f.path)
			s := framer.Small(ctx, f.data, f.path, parent)
			file.HasCRC, file.CRC32C = true, crc32c.Update(0, f.data)
			files, smalls = append(files, file), append(smalls, s)
			if !s.Reused() {
				raw = append(raw, f.data...)
			}
		case len(f.data) == 0:
			if err := w.AddPath(file); err != nil {
				return err
			}
		default:
			if err := writeBig(ctx, w, framer, file, f.data); err != nil {
				return err
			}
		}
	}
	return flush()
}

func writeBig(ctx context.Context, w *BackupWriter, framer *Framer, file File, data []byte) error {
	parent := w.Parent().Find(ctx, file.Path)
	fw := w.BeginFile()
	for n := int64(0); n*16*testPage < int64(len(data)); n++ {
		raw := data[n*16*testPage : min((n+1)*16*testPage, int64(len(data)))]
		win := Zero(len(raw), testPage)
		if len(bytes.Trim(raw, "\x00")) > 0 {
			var err error
			if _, win, err = framer.Window(ctx, nil, raw, file.Path, n, testPage, parent); err != nil {
				return err
			}
		}
		if err := fw.Add([]Window{win}, crc32c.Update(0, raw)); err != nil {
			return err
		}
	}
	return fw.End(file, parent)
}

// readTree restores a backup into memory and compares it with the tree.
func checkBackup(s *Stanza, l Label, tree testTree) error {
	ctx := context.Background()
	b, err := s.OpenBackup(ctx, l)
	if err != nil {
		return err
	}
	i := 0
	for f, err := range b.Files(ctx) {
		if err != nil {
			return err
		}
		if i >= len(tree) || tree[i].path != f.Path || (tree[i].data == nil) != (f.Type == TypeDir) {
			return fmt.Errorf("file %d is %q", i, f.Path)
		}
		data, err := readFile(ctx, b, f)
		if err != nil {
			return err
		}
		if !bytes.Equal(data, tree[i].data) {
			return fmt.Errorf("content of %s differs", f.Path)
		}
		if f.Type == TypeFile && (!f.HasCRC || f.CRC32C != crc32c.Update(0, data)) {
			return fmt.Errorf("crc of %s differs", f.Path)
		}
		if want := fs.FileMode(0o600); f.Type == TypeFile && f.Mode != want || f.Owner != "postgres" {
			return fmt.Errorf("mode or owner of %s differs", f.Path)
		}
		i++
	}
	if i != len(tree) {
		return fmt.Errorf("%d files, want %d", i, len(tree))
	}
	return nil
}

func readFile(ctx context.Context, b *Backup, f File) ([]byte, error) {
	extents, err := b.Extents(ctx, f, 1<<20)
	if err != nil {
		return nil, err
	}
	data := make([]byte, f.Size)
	for _, e := range extents {
		if err := b.ReadExtent(ctx, e, data[e.Offset:e.Offset+e.Length]); err != nil {
			return nil, err
		}
	}
	return data, nil
}

func testRepository(t testing.TB, st storage.Store, passphrase string) *Stanza {
	t.Helper()
	o := Options{Clock: testClock()}
	if passphrase != "" {
		o.Passphrase = func() ([]byte, error) { return []byte(passphrase), nil }
	}
	r, err := Create(context.Background(), st, o)
	if err != nil {
		t.Fatal(err)
	}
	s, err := r.CreateStanza(context.Background(), "main", testIdentity())
	if err != nil {
		t.Fatal(err)
	}
	return s
}

func TestBackupRoundTrip(t *testing.T) {
	for _, passphrase := range []string{"", "correct horse battery staple"} {
		t.Run("encrypted="+fmt.Sprint(passphrase != ""), func(t *testing.T) {
			st := mem.New()
			s := testRepository(t, st, passphrase)
			tree := makeTree(1)
			first := tree.store(t, s)
			if err := checkBackup(s, first.Label, tree); err != nil {
				t.Fatal(err)
			}
			second := tree.store(t, s)
			if second.Parent != first.Label {
				t.Errorf("parent %q, want %q", second.Parent, first.Label)
			}
			if second.AddedSize != 0 {
				t.Errorf("a second full of the same content added %d bytes", second.AddedSize)
			}
			if err := st.Delete(context.Background(), manifestKey("main", first.Label)); err != nil {
				t.Fatal(err)
			}
			if err := checkBackup(s, second.Label, tree); err != nil {
				t.Fatalf("after the first was deleted: %v", err)
			}
			other := makeTree(2)
			third := other.store(t, s)
			if err := checkBackup(s, third.Label, other); err != nil {
				t.Fatal(err)
			}
		})
	}
}
