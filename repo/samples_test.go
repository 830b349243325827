package repo

import (
	"bytes"
	"context"
	"errors"
	"flag"
	"fmt"
	"io/fs"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/pgbak/pgbak/internal/postgres"
	"github.com/pgbak/pgbak/storage"
	"github.com/pgbak/pgbak/storage/mem"
	"github.com/pgbak/pgbak/storage/posix"
)

// The sample repositories of format version 1 were written by the version that
// introduced it, and every later version must read them:
//
//	testdata/repository/v1-plain
//	testdata/repository/v1-encrypted   fixturePassphrase opens it
//	testdata/repository/v1.txt         what both hold, a line for every file and WAL file
//
// They are never written again; -write-samples is for a new format version. The
// segment with a summary was added to them when the format got summaries,
// before any version was released.
var writeSamples = flag.Bool("write-samples", false, "write the sample repositories; those that are there must be removed first")

const samplesDir = "../testdata/repository"

// loadSample copies a sample into memory.
func loadSample(t testing.TB, name string) *mem.Store {
	t.Helper()
	st := mem.New()
	root := filepath.Join(samplesDir, name)
	err := filepath.WalkDir(root, func(path string, d fs.DirEntry, err error) error {
		if err != nil || d.IsDir() {
			return err
		}
		data, err := os.ReadFile(path)
		if err != nil {
			return err
		}
		key, err := filepath.Rel(root, path)
		if err != nil {
			return err
		}
		return st.Put(context.Background(), filepath.ToSlash(key), storage.Bytes(data), storage.PutOptions{})
	})
	if err != nil {
		t.Fatal(err)
	}
	return st
}

// sampleLines are what a repository holds, in the form of v1.txt.
func sampleLines(values map[string]string) []byte {
	var b bytes.Buffer
	for _, name := range sortedKeys(values) {
		fmt.Fprintf(&b, "%s: %s\n", name, values[name])
	}
	return b.Bytes()
}

func makeSamples(t *testing.T) {
	t.Helper()
	var lines []byte
	for name, passphrase := range map[string]string{"v1-plain": "", "v1-encrypted": fixturePassphrase} {
		dir := filepath.Join(samplesDir, name)
		if _, err := os.Stat(dir); err == nil {
			t.Fatalf("%s is there: a sample is kept for ever", dir)
		}
		if err := os.MkdirAll(dir, 0o755); err != nil {
			t.Fatal(err)
		}
		st, err := posix.Open(dir)
		if err != nil {
			t.Fatal(err)
		}
		s, err := buildFixture(context.Background(), st, fixtureOptions(passphrase))
		if err != nil {
			t.Fatal(err)
		}
		f := describeFixture(t, mem.New(), s)
		lines = sampleLines(f.truth)
	}
	if err := os.WriteFile(filepath.Join(samplesDir, "v1.txt"), lines, 0o644); err != nil {
		t.Fatal(err)
	}
}

func TestSamplesOfFormatVersion1AreReadForEver(t *testing.T) {
	if *writeSamples {
		makeSamples(t)
	}
	ctx := context.Background()
	want, err := os.ReadFile(filepath.Join(samplesDir, "v1.txt"))
	if err != nil {
		t.Fatal(err)
	}
	for name, passphrase := range map[string]string{"v1-plain": "", "v1-encrypted": fixturePassphrase} {
		t.Run(name, func(t *testing.T) {
			r, err := Open(ctx, loadSample(t, name), fixtureOptions(passphrase))
			if err != nil {
				t.Fatal(err)
			}
			names, err := r.Stanzas(ctx)
			if err != nil || !slices.Equal(names, []string{"main"}) {
				t.Fatalf("stanzas %v, %v", names, err)
			}
			s, err := r.Stanza(ctx, "main")
			if err != nil {
				t.Fatal(err)
			}
			labels, wal := checkSampleCatalog(t, s)
			got := readAll(ctx, s, labels, wal)
			for name, err := range got.errs {
				t.Errorf("%s: %v", name, err)
			}
			maps.DeleteFunc(got.values, func(name, _ string) bool { return strings.Count(name, "/") == 1 && strings.HasPrefix(name, "backup/") })
			if lines := sampleLines(got.values); !bytes.Equal(lines, want) {
				t.Errorf("it holds\n%s\nwant\n%s", lines, want)
			}
		})
	}
}

// checkSampleCatalog compares what the catalogue says of a sample.
func checkSampleCatalog(t *testing.T, s *Stanza) (labels []Label, wal []string) {
	t.Helper()
	ctx := context.Background()
	c, err := s.Catalog(ctx)
	if err != nil {
		t.Fatal(err)
	}
	for i, b := range c.Backups {
		labels = append(labels, b.Label)
		h := b.Header
		at := postgres.LSN(i)
		sound := b.Err == nil && b.Tombed == (i == 1) && h.Type == []BackupType{Full, Differential, Incremental}[i] && h.Version == "0.1.0" && h.Checksums
		sound = sound && h.Timeline == 1 && h.Start.LSN == 0x1000028+at && h.Stop.LSN == 0x1000100+at && h.PageErrorCount == 1 && h.PageSize == testPage
		if !sound || len(h.Tablespaces) != 1 || h.Tablespaces[0].Location != "/srv/fast" || h.Databases[0].Name != "postgres" || h.Annotations["made-by"] == "" {
			t.Errorf("backup %d: %+v", i, b)
		}
	}
	if len(labels) != 3 || len(c.Histories[1]) != 1 || c.Histories[1][0].Timeline != 2 {
		t.Errorf("labels %v, histories %v", labels, c.Histories)
	}
	pins, err := s.Pins(ctx)
	if err != nil || len(pins) != 1 || pins[0].Kind != "backup" {
		t.Errorf("pins %v, %v", pins, err)
	}
	if _, err := s.OpenBackup(ctx, pins[0].Label); !errors.Is(err, ErrRevoked) {
		t.Errorf("the backup of the dead operation: %v", err)
	}
	if wal, err = walNames(ctx, s, s.Current()); err != nil {
		t.Fatal(err)
	}
	return labels, wal
}

// TestSamplesCanBeWrittenTo: an old repository takes new backups that share its frames.
func TestSamplesCanBeWrittenTo(t *testing.T) {
	ctx := context.Background()
	for name, passphrase := range map[string]string{"v1-plain": "", "v1-encrypted": fixturePassphrase} {
		t.Run(name, func(t *testing.T) {
			o := fixtureOptions(passphrase)
			o.Random = nil
			r, err := Open(ctx, loadSample(t, name), o)
			if err != nil {
				t.Fatal(err)
			}
			s, err := r.Stanza(ctx, "main")
			if err != nil {
				t.Fatal(err)
			}
			h, err := writeFixtureBackup(ctx, s, 0)
			if err != nil {
				t.Fatal(err)
			}
			if h.Parent == "" || h.AddedSize >= h.ReferencedSize {
				t.Errorf("parent %q, added %d of %d bytes", h.Parent, h.AddedSize, h.ReferencedSize)
			}
			got := readAll(ctx, s, []Label{h.Label}, nil)
			for name, err := range got.errs {
				t.Errorf("%s: %v", name, err)
			}
		})
	}
}
