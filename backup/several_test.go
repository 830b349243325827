package backup

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"log/slog"
	"math/rand/v2"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/pgbak/pgbak/internal/postgres"
	"github.com/pgbak/pgbak/repo"
	"github.com/pgbak/pgbak/storage"
	"github.com/pgbak/pgbak/storage/faulty"
	"github.com/pgbak/pgbak/storage/mem"
)

// place is a repository of a test, in memory.
type place struct {
	name, compression, passphrase string
	store                         storage.Store
}

// open opens the place, after making it when it is new.
func (p place) open(t *testing.T) Repository {
	t.Helper()
	compression, err := repo.ParseCompression(p.compression)
	if err != nil {
		t.Fatal(err)
	}
	o := repo.Options{Clock: time.Now, Compression: compression}
	if p.passphrase != "" {
		o.Passphrase = func() ([]byte, error) { return []byte(p.passphrase), nil }
	}
	r, err := repo.Create(t.Context(), p.store, o)
	if err != nil {
		t.Fatal(err)
	}
	s, err := r.CreateStanza(t.Context(), "main", repo.Identity{SystemID: 7_400_000_000_000_000_001, Major: 18, SegmentSize: 16 << 20, BlockSize: testPage})
	if err != nil {
		t.Fatal(err)
	}
	return Repository{Name: p.name, Stanza: s}
}

// copyTree does the part of a run that needs no server: begin, copy, commit.
func copyTree(t *testing.T, root string, to ...Repository) ([]RepositoryResult, error) {
	t.Helper()
	return copyTreeOf(t, root, func(*destinations) {}, to...)
}

// copyTreeOf does besides something with the destinations during the copy.
func copyTreeOf(t *testing.T, root string, besides func(*destinations), to ...Repository) ([]RepositoryResult, error) {
	ctx := t.Context()
	o := Options{Repositories: to, PGData: root, Processes: 2, Clock: time.Now, Log: slog.New(slog.DiscardHandler)}.withDefaults()
	r := &run{o: o, to: newDestinations(ctx, o), header: repo.BackupHeader{Timeline: 1}, pages: &pageErrors{},
		control: postgres.Control{BlockSize: testPage, SegmentBlocks: 131072}}
	r.info.BlockSize = testPage
	err := r.begin(ctx)
	if err == nil {
		go besides(r.to)
		w := &walker{root: root, version: testVersion, owners: newOwners(), tablespaces: map[string]bool{}, warn: r.warn}
		err = newCopier(o, r.to, r.control, changes{way: WayFull}).copy(ctx, w)
	}
	if err == nil {
		err = r.commit(ctx)
	}
	r.to.close(ctx)
	return r.to.results(err)
}

// sameAsOnDisk compares a backup with the data directory.
func sameAsOnDisk(t *testing.T, root string, s *repo.Stanza, label repo.Label) {
	t.Helper()
	ctx := t.Context()
	b, err := s.OpenBackup(ctx, label)
	if err != nil {
		t.Fatal(err)
	}
	files := 0
	for f, err := range b.Files(ctx) {
		if err != nil {
			t.Fatal(err)
		}
		if f.Type != repo.TypeFile {
			continue
		}
		files++
		want, err := os.ReadFile(filepath.Join(root, f.Path))
		if err != nil {
			t.Fatal(err)
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
		if !bytes.Equal(got, want) {
			t.Errorf("%s differs from what is on disk", f.Path)
		}
	}
	if files < 40 {
		t.Errorf("%d files only", files)
	}
}

// makeTree makes a data directory of small files and some that are larger, of
// content that compresses by half, and gives its size.
func makeTree(t *testing.T, root string, large int) (size int64) {
	t.Helper()
	random := rand.New(rand.NewPCG(1, 2))
	write := func(path string, n int) {
		content := make([]byte, n)
		for i := range content {
			content[i] = "0123456789abcdef"[random.IntN(16)]
		}
		makeFiles(t, root, path)
		if err := os.WriteFile(filepath.Join(root, path), content, 0o600); err != nil {
			t.Fatal(err)
		}
		size += int64(n)
	}
	for n := range 40 {
		write(fmt.Sprintf("base/1/%d", 1000+n), 100+n*2000)
	}
	write("base/1/2000", 3<<20+5000)
	write("base/1/2001", large)
	return size
}

// change writes over the beginning of a file.
func change(t *testing.T, root, path string) {
	t.Helper()
	f, err := os.OpenFile(filepath.Join(root, path), os.O_RDWR, 0)
	if err == nil {
		_, err = f.WriteAt([]byte("this is new"), 10)
	}
	if err == nil {
		err = f.Close()
	}
	if err != nil {
		t.Fatal(err)
	}
}

// charactersRead is how much this process has asked the kernel for, in bytes.
func charactersRead(t *testing.T) (n int64) {
	t.Helper()
	text, err := os.ReadFile("/proc/self/io")
	if err == nil {
		_, err = fmt.Sscanf(string(text), "rchar: %d", &n)
	}
	if err != nil {
		t.Fatal(err)
	}
	return n
}

func TestTheClusterIsReadOnceForAllRepositories(t *testing.T) {
	root := t.TempDir()
	size := makeTree(t, root, 10<<20)
	places := []place{
		{"first", "zstd:1", "", mem.New()}, {"second", "s2", "correct horse", mem.New()},
		{"third", "zstd:1", "", mem.New()}, {"fourth", "none", "", mem.New()},
	}
	var to []Repository
	for _, p := range places {
		to = append(to, p.open(t))
	}
	backUp := func(to ...Repository) []RepositoryResult {
		t.Helper()
		before := charactersRead(t)
		results, err := copyTree(t, root, to...)
		if err != nil {
			t.Fatal(err)
		}
		if read := charactersRead(t) - before; read < size || read > size+size/10 {
			t.Errorf("%d bytes were read for %d repositories, the cluster has %d", read, len(to), size)
		}
		for i, r := range results {
			if r.Name != to[i].Name {
				t.Errorf("result %d is of %s", i, r.Name)
			}
			sameAsOnDisk(t, root, to[i].Stanza, r.Header.Label)
		}
		return results
	}
	// The third has a parent that the others do not have, and later all have others.
	backUp(to[2])
	results := backUp(to...)
	if results[2].ReusedBytes < size*9/10 || results[2].Header.AddedSize > 1<<20 {
		t.Errorf("the third repository shared %d bytes of %d and stored %d", results[2].ReusedBytes, size, results[2].Header.AddedSize)
	}
	for _, i := range []int{0, 1, 3} {
		if results[i].ReusedBytes != 0 || results[i].Header.AddedSize < size/3 {
			t.Errorf("repository %d shared %d bytes and stored %d, it had nothing before", i, results[i].ReusedBytes, results[i].Header.AddedSize)
		}
	}
	change(t, root, "base/1/1002")
	change(t, root, "base/1/2000")
	backUp(to[0])
	change(t, root, "base/1/1003") // of a group of which each repository now lacks other files
	change(t, root, "base/1/2001")
	for i, r := range backUp(to...) {
		if changed := size - r.ReusedBytes; changed <= 0 || changed > 600<<10 {
			t.Errorf("repository %d found %d bytes of %d changed", i, changed, size)
		}
	}
}

// TestARepositoryThatFailsDuringTheCopyIsDroppedAndHoldsNothingUp fails packs of
// one of two repositories while others of it are on their way.
func TestARepositoryThatFailsDuringTheCopyIsDroppedAndHoldsNothingUp(t *testing.T) {
	root := t.TempDir()
	makeTree(t, root, 200<<20) // so many packs that the failed one's buffers would not do
	for _, c := range []struct {
		title string
		err   error
		left  bool // what was stored is left for a collector
	}{
		{"a fault", faulty.ErrInjected, true},
		{"no room", storage.ErrNoSpace, false},
	} {
		t.Run(c.title, func(t *testing.T) {
			good, bad := place{"good", "none", "", mem.New()}, place{"bad", "none", "", mem.New()}
			inner := bad.store
			bad.open(t)
			packs := make(chan struct{}, 100)
			bad.store = faulty.New(inner, func(ctx context.Context, op faulty.Op) error {
				if op.Name != faulty.OpPutIfAbsent || !strings.HasPrefix(op.Key, "packs/") {
					return nil
				}
				packs <- struct{}{}
				switch len(packs) {
				case 1:
					return nil
				case 2:
					return c.err
				}
				<-ctx.Done() // as a connection that hangs: it ends only when it is told to
				return context.Cause(ctx)
			}, nil)
			to := []Repository{bad.open(t), good.open(t)}
			results, err := copyTree(t, root, to...)
			if !errors.Is(err, c.err) || !strings.Contains(err.Error(), "repository bad: ") {
				t.Errorf("error %v", err)
			}
			if len(results) != 2 || !errors.Is(results[0].Err, c.err) || results[0].Header.Label != "" || results[1].Err != nil {
				t.Fatalf("results %+v", results)
			}
			sameAsOnDisk(t, root, to[1].Stanza, results[1].Header.Label)
			if len(packs) < 2 || len(packs) > 8 {
				t.Errorf("%d packs of the bad repository were begun: it was not dropped", len(packs))
			}
			left := 0
			for _, prefix := range []string{"packs/", "maps/", "pins/", "backups/"} {
				for obj, err := range inner.List(t.Context(), prefix, "") {
					if err != nil {
						t.Fatal(err)
					}
					if left++; prefix == "backups/" {
						t.Errorf("%s is there", obj.Key)
					}
				}
			}
			if (left > 0) != c.left {
				t.Errorf("%d objects are left", left)
			}
			for obj, err := range good.store.List(t.Context(), "pins/", "") {
				t.Errorf("the good repository has pin %s, %v", obj.Key, err)
			}
		})
	}
}

func TestWhenNoRepositoryIsLeftTheRunFailsWithAllReasons(t *testing.T) {
	root := t.TempDir()
	makeTree(t, root, 1<<20)
	one, two := place{"one", "zstd", "", mem.New()}, place{"two", "zstd", "", mem.New()}
	one.open(t)
	two.open(t)
	first, second := errors.New("the first reason"), errors.New("the second reason")
	fail := func(p place, err error) Repository {
		p.store = faulty.OnOp(p.store, func(op, key string) error {
			if strings.HasPrefix(key, "packs/") {
				return err
			}
			return nil
		})
		return p.open(t)
	}
	results, err := copyTree(t, root, fail(one, first), fail(two, second))
	if !errors.Is(err, first) || !errors.Is(err, second) || errors.Is(err, errNone) {
		t.Errorf("error %v", err)
	}
	if len(results) != 2 || !errors.Is(results[0].Err, first) || !errors.Is(results[1].Err, second) {
		t.Errorf("results %+v", results)
	}
	results, err = copyTree(t, root, fail(one, first))
	if !errors.Is(err, first) || strings.Contains(err.Error(), "repository one") || len(results) != 1 {
		t.Errorf("of a single repository: error %v, results %+v", err, results)
	}
}

// TestUploadsOfARunThatFailedAreToldToEnd begins uploads that would hang for good,
// and fails one repository for another reason, the other with the whole run.
func TestUploadsOfARunThatFailedAreToldToEnd(t *testing.T) {
	ctx := t.Context()
	hanging := make(chan struct{}, 2)
	hang := func(p place) Repository {
		p.open(t)
		p.store = faulty.New(p.store, func(ctx context.Context, op faulty.Op) error {
			if !strings.HasPrefix(op.Key, "packs/") {
				return nil
			}
			hanging <- struct{}{}
			<-ctx.Done()
			return context.Cause(ctx)
		}, nil)
		return p.open(t)
	}
	o := Options{Repositories: []Repository{hang(place{"one", "zstd", "", mem.New()}), hang(place{"two", "zstd", "", mem.New()})}}.withDefaults()
	to := newDestinations(ctx, o)
	if err := to.together(ctx, func(d *destination) error { return d.begin(o, testPage) }); err != nil {
		t.Fatal(err)
	}
	own, whole := errors.New("its own reason"), errors.New("the reason of the run")
	err := to.each(ctx, func(i int, d *destination) error {
		framer, err := d.Stanza.Repository().NewFramer()
		if err != nil {
			t.Fatal(err)
		}
		if err := d.writer.AddLate(framer, []repo.File{{Path: controlPath, Type: repo.TypeFile}}, [][]byte{[]byte("content")}); err != nil {
			t.Fatal(err)
		}
		<-hanging
		if i == 0 {
			return own
		}
		return nil
	})
	if err != nil || to.first().Name != "two" {
		t.Fatalf("one that failed of two: %v", err)
	}
	to.close(ctx)
	results, err := to.results(whole)
	if !errors.Is(err, own) || !errors.Is(err, whole) || !errors.Is(results[0].Err, own) || errors.Is(results[0].Err, whole) || !errors.Is(results[1].Err, whole) {
		t.Errorf("error %v, results %+v", err, results)
	}
}
