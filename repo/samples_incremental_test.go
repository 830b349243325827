package repo

import (
	"bytes"
	"context"
	"crypto/sha256"
	"fmt"
	"os"
	"path/filepath"
	"regexp"
	"testing"
	"time"

	"github.com/pgbak/pgbak/storage"
	"github.com/pgbak/pgbak/storage/mem"
	"github.com/pgbak/pgbak/storage/posix"
)

// The sample v1-incremental is of the first version that wrote incremental
// backups: page hashes, delta frames, a file without a CRC, frames of an
// interrupted backup in the one that resumed it, a pin that resumes another.
// fixturePassphrase opens it; v1-incremental.txt lists what it holds. Like the
// others it is never written again.
const incrementalSample = "v1-incremental"

// buildIncremental writes the sample into an empty store.
func buildIncremental(t *testing.T, st storage.Store) *Stanza {
	t.Helper()
	ctx := context.Background()
	o := fixtureOptions(fixturePassphrase)
	r, err := Create(ctx, st, o)
	if err != nil {
		t.Fatal(err)
	}
	id := testIdentity()
	id.SegmentSize = fixtureSegment
	s, err := r.CreateStanza(ctx, "main", id)
	if err != nil {
		t.Fatal(err)
	}
	old := rows(6*windowBytes+5*testPage, 1)
	clear(old[windowBytes : 2*windowBytes])
	commitSample(t, beginPatched(t, s, Full, old, func(int) bool { return true }, true))
	now := patched(old, 100, 0, 20, 21, 40, 41, 42, 43, 44, 45, 46, 47, 100)
	changed := changedPages(old, now, Incremental)
	dead := beginPatched(t, s, Incremental, now, changed, false)
	if err := dead.closePack(); err != nil {
		t.Fatal(err)
	}
	dead.Abort()
	now = patched(now, 200, 21, 60)
	w := beginPatched(t, s, Incremental, now, changedPages(old, now, Incremental), false)
	if w.Totals().ResumedBytes == 0 {
		t.Fatal("nothing is resumed")
	}
	commitSample(t, w)
	commitSample(t, beginPatched(t, s, Differential, now, changedPages(old, now, Incremental), true))
	resumes, err := s.BeginBackup(ctx, s.Current(), BeginOptions{Type: Full, PageSize: testPage})
	if err != nil {
		t.Fatal(err)
	}
	resumes.Abort()
	wal := fixtureWAL()["00000002.history"]
	if _, err := s.PutWAL(ctx, s.Current(), mustWAL(t, "00000002.history"), NewWALContent(storage.Bytes(wal))); err != nil {
		t.Fatal(err)
	}
	if len(resumes.Resumption().Operations()) == 0 {
		t.Fatal("the last pin resumes nothing")
	}
	revoked, err := s.BeginBackup(ctx, s.Current(), BeginOptions{Type: Full, PageSize: testPage})
	if err != nil {
		t.Fatal(err)
	}
	revoked.Abort()
	if err := putDocument(ctx, st, manifestKey(s.name, revoked.Label()), revokedFormat, struct{}{}, storage.PutOptions{IfAbsent: true}); err != nil {
		t.Fatal(err)
	}
	return s
}

func commitSample(t *testing.T, w *BackupWriter) {
	t.Helper()
	framer, err := w.stanza.repo.NewFramer()
	if err != nil {
		t.Fatal(err)
	}
	late := File{Path: "global/pg_control", Type: TypeFile, Mode: 0o600, ModTime: time.Unix(1, 0), Owner: "postgres", Group: "postgres"}
	if err := w.AddLate(framer, []File{late}, [][]byte{rows(300, 9)}); err != nil {
		t.Fatal(err)
	}
	if _, err := w.Commit(BackupHeader{Timeline: 1}); err != nil {
		t.Fatal(err)
	}
}

// incrementalLines are what the sample holds.
func incrementalLines(t *testing.T, s *Stanza) []byte {
	t.Helper()
	ctx := context.Background()
	c, err := s.Catalog(ctx)
	if err != nil {
		t.Fatal(err)
	}
	values := map[string]string{}
	for _, info := range c.Backups {
		b, err := s.OpenBackup(ctx, info.Label)
		if err != nil {
			t.Fatal(err)
		}
		for f, err := range b.Files(ctx) {
			if err != nil {
				t.Fatal(err)
			}
			data, err := readFile(ctx, b, f)
			if err != nil {
				t.Fatal(err)
			}
			values["backup/"+string(info.Label)+"/"+f.Path] = fmt.Sprintf("file %o %d %s:%s page-errors=%v %d %08x %x",
				f.Mode, f.ModTime.Unix(), f.Owner, f.Group, f.PageErrors, f.Size, f.CRC32C, sha256.Sum256(data))
		}
	}
	wal, err := readWAL(ctx, s, s.Current(), "00000002.history")
	if err != nil {
		t.Fatal(err)
	}
	values["wal/00000002.history"] = fmt.Sprintf("%d %x", len(wal), sha256.Sum256(wal))
	return sampleLines(values)
}

// TestTheIncrementalSampleIsStillWrittenAlike: what the sample holds comes out
// of the same steps today, but for the names.
func TestTheIncrementalSampleIsStillWrittenAlike(t *testing.T) {
	want, err := os.ReadFile(filepath.Join(samplesDir, incrementalSample+".txt"))
	if err != nil {
		t.Fatal(err)
	}
	label := regexp.MustCompile(`\d{8}-\d{6}`)
	got := incrementalLines(t, buildIncremental(t, mem.New()))
	if want, got := label.ReplaceAll(want, nil), label.ReplaceAll(got, nil); !bytes.Equal(got, want) {
		t.Errorf("it holds\n%s\nwant\n%s", got, want)
	}
}

func TestTheIncrementalSampleIsReadForEver(t *testing.T) {
	dir, list := filepath.Join(samplesDir, incrementalSample), filepath.Join(samplesDir, incrementalSample+".txt")
	if _, err := os.Stat(dir); err != nil && *writeSamples {
		if err := os.MkdirAll(dir, 0o755); err != nil {
			t.Fatal(err)
		}
		st, err := posix.Open(dir)
		if err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(list, incrementalLines(t, buildIncremental(t, st)), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	want, err := os.ReadFile(list)
	if err != nil {
		t.Fatal(err)
	}
	s, err := OpenStanza(context.Background(), loadSample(t, incrementalSample), fixtureOptions(fixturePassphrase), "main")
	if err != nil {
		t.Fatal(err)
	}
	if lines := incrementalLines(t, s); !bytes.Equal(lines, want) {
		t.Errorf("it holds\n%s\nwant\n%s", lines, want)
	}
}
