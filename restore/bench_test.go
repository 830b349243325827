package restore

import (
	"context"
	"fmt"
	"path/filepath"
	"testing"
	"time"

	"github.com/pgbak/pgbak/internal/postgres"
	"github.com/pgbak/pgbak/repo"
	"github.com/pgbak/pgbak/storage"
	"github.com/pgbak/pgbak/storage/posix"
)

// benchCluster is like a fresh cluster with some data: a thousand small files
// and a few big ones.
func benchCluster() []entry {
	entries := []entry{{path: "PG_VERSION", data: []byte("18\n")}, {path: "backup_label", data: []byte("x")}, {path: "base"}, {path: "base/1"}}
	for i := range 1000 {
		entries = append(entries, entry{path: fmt.Sprintf("base/1/1%04d", i), data: text(testPage*(1+i%4), uint64(i))})
	}
	big := text(64<<20, 9)
	for i := range 8 {
		entries = append(entries, entry{path: fmt.Sprintf("base/1/2%04d", i), data: big})
	}
	return append(entries, entry{path: "global"}, entry{path: "global/pg_control", data: text(testPage, 6)})
}

// BenchmarkRestoreOfSmallFiles is that of 20000 files of a page, from bundles, on a local disk.
func BenchmarkRestoreOfSmallFiles(b *testing.B) {
	const files, perBundle = 20_000, repo.PagesPerFrame
	ctx := context.Background()
	st, err := posix.Create(b.TempDir())
	if err != nil {
		b.Fatal(err)
	}
	s := testStanza(b, st)
	for _, n := range []uint64{2, 3} {
		if _, err := s.PutWAL(ctx, s.Current(), postgres.WALFile{Timeline: 1, Segment: n}, repo.NewWALContent(storage.Bytes(text(smallWAL, n)))); err != nil {
			b.Fatal(err)
		}
	}
	w, err := s.BeginBackup(ctx, s.Current(), repo.BeginOptions{Type: repo.Full, PageSize: testPage, Uploads: 2})
	if err != nil {
		b.Fatal(err)
	}
	framer, err := s.Repository().NewFramer()
	if err != nil {
		b.Fatal(err)
	}
	for _, e := range []entry{{path: "PG_VERSION", data: []byte("18\n")}, {path: "backup_label", data: []byte("x")}, {path: "base"}} {
		if err := storeEntry(ctx, s, w, e); err != nil {
			b.Fatal(err)
		}
	}
	for n := 0; n < files; n += perBundle {
		var list []repo.File
		var smalls []repo.Small
		var raw []byte
		for i := range perBundle {
			data, path := text(testPage, uint64(n+i)), fmt.Sprintf("base/%08d", n+i)
			list = append(list, repo.File{Path: path, Type: repo.TypeFile, Mode: 0o600, Size: testPage, Owner: "postgres", Group: "postgres"})
			smalls, raw = append(smalls, framer.Small(ctx, data, path, nil)), append(raw, data...)
		}
		_, bundle, err := framer.Bundle(nil, raw, smalls)
		if err == nil {
			err = w.AddSmall(list, smalls, bundle)
		}
		if err != nil {
			b.Fatal(err)
		}
	}
	for _, e := range []entry{{path: "global"}, {path: "global/pg_control", data: text(testPage, 6)}} {
		if err := storeEntry(ctx, s, w, e); err != nil {
			b.Fatal(err)
		}
	}
	h := repo.BackupHeader{Timeline: 1}
	h.Start, h.Stop = repo.BackupPoint{Time: time.Unix(1_790_000_000, 0), LSN: 0x200028}, repo.BackupPoint{Time: time.Unix(1_790_000_001, 0), LSN: 0x300100}
	if _, err := w.Commit(h); err != nil {
		b.Fatal(err)
	}
	b.SetBytes(files * testPage)
	b.ResetTimer()
	for i := range b.N {
		o := options(s, filepath.Join(b.TempDir(), fmt.Sprint(i)))
		o.Processes = 2
		if _, err := Run(ctx, o); err != nil {
			b.Fatal(err)
		}
	}
}

func BenchmarkRestore(b *testing.B) {
	entries := benchCluster()
	_, s := stored(b, entries, repo.BackupHeader{})
	bytes := int64(0)
	for _, e := range entries {
		bytes += int64(len(e.data))
	}
	b.SetBytes(bytes)
	b.ResetTimer()
	for i := range b.N {
		o := options(s, filepath.Join(b.TempDir(), fmt.Sprint(i)))
		o.Processes = 2
		if _, err := Run(context.Background(), o); err != nil {
			b.Fatal(err)
		}
	}
}
