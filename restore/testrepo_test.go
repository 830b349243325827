package restore

import (
	"bytes"
	"cmp"
	"context"
	"io/fs"
	"math/rand/v2"
	"os"
	"path/filepath"
	"testing"
	"time"

	"github.com/pgbak/pgbak/internal/crc32c"
	"github.com/pgbak/pgbak/internal/postgres"
	"github.com/pgbak/pgbak/repo"
	"github.com/pgbak/pgbak/storage"
	"github.com/pgbak/pgbak/storage/mem"
)

const (
	testPage   = 8192
	testWindow = testPage * repo.PagesPerFrame
	smallWAL   = 1 << 20 // bytes of a segment
)

// ticking is a clock that advances one second at every reading.
func ticking() func() time.Time {
	now := time.Date(2026, 11, 20, 12, 0, 0, 0, time.UTC)
	return func() time.Time {
		now = now.Add(time.Second)
		return now
	}
}

// entry is a path of a made-up cluster.
type entry struct {
	path string
	data []byte // nil: a directory
	link string // the target, of a link
	mode fs.FileMode
	// owner and group are postgres when empty.
	owner, group string
	wrongCRC     bool // the manifest is made to lie about the content
}

func text(n int, seed uint64) []byte {
	rng := rand.New(rand.NewPCG(seed, 7))
	b := make([]byte, n)
	for i := range b {
		b[i] = "abcdefgh"[rng.IntN(8)]
	}
	return b
}

// cluster is a made-up cluster, in the order of a walk: small files, files of
// several extents, holes at the beginning, in the middle and at the end.
func cluster() []entry {
	holed := text(5<<20+3*testPage+100, 3)
	clear(holed[1<<20 : 3<<20])
	ended := text(3<<20, 4)
	clear(ended[1<<20:])
	return []entry{
		{path: "PG_VERSION", data: []byte("18\n")},
		{path: "backup_label", data: []byte("START WAL LOCATION: 0/200028\n")},
		{path: "base"},
		{path: "base/1"},
		{path: "base/1/100", data: text(testPage, 1)},
		{path: "base/1/101", data: text(3*testWindow, 2)},
		{path: "base/1/102", data: holed},
		{path: "base/1/103", data: []byte{}},
		{path: "base/1/104", data: ended},
		{path: "base/1/105", data: make([]byte, 2<<20)},
		{path: "global"},
		{path: "global/1262", data: text(testPage, 5)},
		{path: "global/pg_control", data: text(testPage, 6)},
		{path: "pg_tblspc"},
		{path: "pg_wal", mode: 0o700},
		{path: "pg_wal/archive_status"},
		{path: "postgresql.auto.conf", data: []byte("work_mem = '8MB'\nRecovery_Target_Time = 'old'\n")},
		{path: "postgresql.conf", data: []byte("port = 5432\n"), mode: 0o640},
		{path: "tablespace_map", data: []byte("16384 /old\n")},
	}
}

// testStanza makes a repository and a stanza of a made-up cluster in st.
func testStanza(t testing.TB, st storage.Store) *repo.Stanza {
	t.Helper()
	return newStanza(t, st, repo.Identity{SystemID: 7_400_000_000_000_000_001, Major: 18, SegmentSize: smallWAL, BlockSize: testPage})
}

func newStanza(t testing.TB, st storage.Store, id repo.Identity) *repo.Stanza {
	t.Helper()
	ctx := context.Background()
	r, err := repo.Create(ctx, st, repo.Options{Clock: ticking(), Compression: repo.Compression{}})
	if err != nil {
		t.Fatal(err)
	}
	s, err := r.CreateStanza(ctx, "main", id)
	if err != nil {
		t.Fatal(err)
	}
	return s
}

// reopen opens the stanza anew, through another store.
func reopen(t testing.TB, st storage.Store) (*repo.Stanza, error) {
	t.Helper()
	r, err := repo.Open(context.Background(), st, repo.Options{Clock: ticking()})
	if err != nil {
		return nil, err
	}
	return r.Stanza(context.Background(), "main")
}

// store writes the entries as a backup from 0/200028 to 0/300100, and the two
// segments of WAL that belong to it.
func store(t testing.TB, s *repo.Stanza, entries []entry, h repo.BackupHeader) repo.BackupHeader {
	t.Helper()
	ctx := context.Background()
	for _, n := range []uint64{2, 3} {
		f := postgres.WALFile{Timeline: 1, Segment: n}
		if _, err := s.PutWAL(ctx, s.Current(), f, repo.NewWALContent(storage.Bytes(text(smallWAL, n)))); err != nil {
			t.Fatal(err)
		}
	}
	h.Timeline = 1
	h.Start = repo.BackupPoint{Time: time.Date(2026, 11, 20, 11, 0, 0, 0, time.UTC), LSN: 0x200028}
	h.Stop = repo.BackupPoint{Time: time.Date(2026, 11, 20, 11, 1, 0, 0, time.UTC), LSN: 0x300100}
	return storeBackup(t, s, entries, h)
}

// storeBackup writes the entries as a backup.
func storeBackup(t testing.TB, s *repo.Stanza, entries []entry, h repo.BackupHeader) repo.BackupHeader {
	t.Helper()
	ctx := context.Background()
	w, err := s.BeginBackup(ctx, s.Current(), repo.BeginOptions{Type: repo.Full, PageSize: testPage, Uploads: 2})
	if err != nil {
		t.Fatal(err)
	}
	for _, e := range entries {
		if err := storeEntry(ctx, s, w, e); err != nil {
			w.Abort()
			t.Fatal(err)
		}
	}
	h, err = w.Commit(h)
	if err != nil {
		t.Fatal(err)
	}
	return h
}

func storeEntry(ctx context.Context, s *repo.Stanza, w *repo.BackupWriter, e entry) error {
	f := repo.File{Path: e.path, Type: repo.TypeFile, Mode: 0o600, ModTime: time.Unix(1_700_000_000, 0), Size: int64(len(e.data)),
		Owner: cmp.Or(e.owner, "postgres"), Group: cmp.Or(e.group, "postgres")}
	if e.mode != 0 {
		f.Mode = e.mode
	}
	switch {
	case e.link != "":
		f.Type, f.LinkTarget = repo.TypeLink, e.link
		return w.AddPath(f)
	case e.data == nil:
		f.Type = repo.TypeDir
		if e.mode == 0 {
			f.Mode = 0o700
		}
		return w.AddPath(f)
	case len(e.data) == 0:
		return w.AddPath(f)
	}
	framer, err := s.Repository().NewFramer()
	if err != nil {
		return err
	}
	if len(e.data) < testWindow {
		f.HasCRC, f.CRC32C = true, crc32c.Update(0, e.data)
		if e.wrongCRC {
			f.CRC32C++
		}
		small := framer.Small(ctx, e.data, e.path, nil)
		_, b, err := framer.Bundle(nil, e.data, []repo.Small{small})
		if err != nil {
			return err
		}
		return w.AddSmall([]repo.File{f}, []repo.Small{small}, b)
	}
	return storeBig(ctx, w, framer, f, e.data)
}

func storeBig(ctx context.Context, w *repo.BackupWriter, framer *repo.Framer, f repo.File, data []byte) error {
	fw := w.BeginFile()
	for n := int64(0); n*testWindow < int64(len(data)); n++ {
		raw := data[n*testWindow : min((n+1)*testWindow, int64(len(data)))]
		win := repo.Zero(len(raw), testPage)
		if !postgres.IsZero(raw) {
			var err error
			if _, win, err = framer.Window(ctx, nil, raw, f.Path, n, testPage, nil); err != nil {
				return err
			}
		}
		if err := fw.Add([]repo.Window{win}, crc32c.Update(0, raw)); err != nil {
			return err
		}
	}
	return fw.End(f, nil)
}

// stored is a repository in memory with one backup of the entries.
func stored(t testing.TB, entries []entry, h repo.BackupHeader) (*mem.Store, *repo.Stanza) {
	t.Helper()
	st := mem.New()
	s := testStanza(t, st)
	store(t, s, entries, h)
	return st, s
}

// options restore the end of the backup, for which no WAL is searched.
func options(s *repo.Stanza, dir string) Options {
	return Options{Stanza: s, TargetDir: dir, Target: Target{Type: TargetImmediate}, Processes: 3, Clock: ticking(),
		RestoreCommand: `/usr/bin/pgbak archive-get %f "%p"`}
}

// checkTree compares the directory with the entries.
func checkTree(t *testing.T, dir string, entries []entry) {
	t.Helper()
	for _, e := range entries {
		path := filepath.Join(dir, e.path)
		info, err := os.Stat(path)
		if left(e.path) {
			if e.path != manifestFile && e.path != signalFile && err == nil {
				t.Errorf("%s was restored", e.path)
			}
			continue
		}
		if err != nil {
			t.Error(err)
			continue
		}
		if info.IsDir() != (e.data == nil) {
			t.Errorf("%s: mode %s", e.path, info.Mode())
		}
		if e.data == nil || e.path == ownSettingsFile {
			continue
		}
		got, err := os.ReadFile(path)
		if err != nil || !bytes.Equal(got, e.data) {
			t.Errorf("%s differs (%v)", e.path, err)
		}
		if want := e.mode; want != 0 && info.Mode().Perm() != want {
			t.Errorf("%s: mode %s, want %s", e.path, info.Mode().Perm(), want)
		}
		if info.ModTime().Unix() != 1_700_000_000 {
			t.Errorf("%s: modified %s", e.path, info.ModTime())
		}
	}
}

// exists tells whether a path is there, not following a link at its end.
func exists(t testing.TB, path string) bool {
	t.Helper()
	_, err := os.Lstat(path)
	if err != nil && !os.IsNotExist(err) {
		t.Fatal(err)
	}
	return err == nil
}
