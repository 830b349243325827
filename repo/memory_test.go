package repo

import (
	"context"
	"fmt"
	"runtime"
	"runtime/debug"
	"testing"
	"time"

	"github.com/pgbak/pgbak/internal/crc32c"
	"github.com/pgbak/pgbak/repo/codec"
	"github.com/pgbak/pgbak/storage/posix"
)

// A cluster of many small files and of many large ones, in terms of metadata.
const (
	manySegments = 200
	memoryLimit  = 128 << 20 // bytes of heap above what was there before
)

// manyFiles is the number of small files.
func manyFiles() int {
	if underRace {
		return 20_000
	}
	return 400_000
}

// heapPeak samples the heap until it is asked. The collector is told the limit,
// because by itself it lets the heap grow to twice what is alive: what is alive
// at any time must fit.
type heapPeak struct {
	base uint64
	max  uint64
	old  int64 // limit
	stop chan struct{}
	done chan struct{}
}

func watchHeap() *heapPeak {
	runtime.GC()
	debug.FreeOSMemory()
	p := &heapPeak{stop: make(chan struct{}), done: make(chan struct{})}
	var m runtime.MemStats
	runtime.ReadMemStats(&m)
	p.base = m.HeapInuse
	p.old = debug.SetMemoryLimit(int64(m.Sys-m.HeapReleased) + memoryLimit*13/16)
	go func() {
		defer close(p.done)
		for {
			runtime.ReadMemStats(&m)
			p.max = max(p.max, m.HeapInuse)
			select {
			case <-p.stop:
				return
			case <-time.After(2 * time.Millisecond):
			}
		}
	}()
	return p
}

// grown is the peak above the base, in bytes.
func (p *heapPeak) grown() int64 {
	close(p.stop)
	<-p.done
	debug.SetMemoryLimit(p.old)
	return int64(p.max) - int64(p.base)
}

// writeMany writes many small files and the maps of manySegments segments.
func writeMany(ctx context.Context, s *Stanza) (BackupHeader, error) {
	w, err := s.BeginBackup(ctx, s.Current(), BeginOptions{Type: Full, PageSize: testPage, Uploads: 1})
	if err != nil {
		return BackupHeader{}, err
	}
	framer, err := s.repo.NewFramer()
	if err == nil {
		err = writeSegments(ctx, w)
	}
	if err == nil {
		err = writeSmallFiles(ctx, w, framer)
	}
	if err != nil {
		w.Abort()
		return BackupHeader{}, err
	}
	return w.Commit(BackupHeader{Timeline: 1})
}

// writeSegments makes maps of 1 GiB segments with frames that were never
// written: reading their content is not what is measured.
func writeSegments(ctx context.Context, w *BackupWriter) error {
	var ref frameRef
	var err error
	if p := w.Parent().Find(ctx, "base/1/000000"); p != nil {
		ref = p.fileMap.frames[0]
		w.use(ref)
	} else if ref, err = w.addFrame(frame{kind: frameAligned, raw: windowBytes, payload: make([]byte, 1000), codec: codec.Zstd, path: "base/1/1"}); err != nil {
		return err
	}
	for n := range manySegments {
		parent := w.Parent().Find(ctx, fmt.Sprintf("base/1/%06d", n))
		fw := w.BeginFile()
		for i := range uint32(8192) {
			ref.ordinal, ref.offset, ref.stored = i, 1000*i, 900+(i*uint32(n+1))%97
			fw.m.addAligned(ref, PagesPerFrame)
		}
		fw.m.size = 1 << 30
		if err := fw.End(File{Path: fmt.Sprintf("base/1/%06d", n), Type: TypeFile, Mode: 0o600, Owner: "postgres"}, parent); err != nil {
			return err
		}
	}
	return nil
}

func writeSmallFiles(ctx context.Context, w *BackupWriter, framer *Framer) error {
	const perBundle = PagesPerFrame
	page := rows(testPage, 3)
	out := make([]byte, 0, 2*windowBytes)
	for n := 0; n < manyFiles(); n += perBundle {
		var files []File
		var smalls []Small
		var raw []byte
		for i := range perBundle {
			path := fmt.Sprintf("base/2/%08d", n+i)
			copy(page, path)
			sm := framer.Small(ctx, page, path, w.Parent().Find(ctx, path))
			files = append(files, File{Path: path, Type: TypeFile, Mode: 0o600, Owner: "postgres", Size: testPage, HasCRC: true, CRC32C: crc32c.Update(0, page)})
			smalls = append(smalls, sm)
			if !sm.Reused() {
				raw = append(raw, page...)
			}
		}
		_, b, err := framer.Bundle(out, raw, smalls)
		if err == nil {
			err = w.AddSmall(files, smalls, b)
		}
		if err != nil {
			return err
		}
	}
	return nil
}

// TestMemoryDoesNotGrowWithTheCluster: in an encrypted repository, which takes more.
func TestMemoryDoesNotGrowWithTheCluster(t *testing.T) {
	ctx := context.Background()
	st, err := posix.Open(t.TempDir())
	if err != nil {
		t.Fatal(err)
	}
	s := testRepository(t, st, fixturePassphrase)
	var h BackupHeader
	for run, title := range []string{"writing the first backup", "writing a second of the same content"} {
		p := watchHeap()
		begin := time.Now()
		if h, err = writeMany(ctx, s); err != nil {
			t.Fatal(err)
		}
		checkPeak(t, title, p, begin)
		if run == 1 && h.AddedSize > 2<<20 {
			t.Errorf("the second backup added %d bytes", h.AddedSize)
		}
	}
	p := watchHeap()
	begin := time.Now()
	if n := readMany(t, s, h.Label); n != manyFiles()+manySegments {
		t.Errorf("%d files", n)
	}
	checkPeak(t, "reading it", p, begin)
}

func checkPeak(t *testing.T, title string, p *heapPeak, begin time.Time) {
	t.Helper()
	grown := p.grown()
	t.Logf("%s: peak of %d MiB in %s", title, grown>>20, time.Since(begin).Round(time.Millisecond))
	if grown > memoryLimit {
		t.Errorf("%s: peak of %d MiB, want at most %d", title, grown>>20, memoryLimit>>20)
	}
}

// readMany reads every map, and the content of every file that is not mapped.
func readMany(t *testing.T, s *Stanza, l Label) int {
	t.Helper()
	ctx := context.Background()
	b, err := s.OpenBackup(ctx, l)
	if err != nil {
		t.Fatal(err)
	}
	n := 0
	var batch []Extent
	var sums []uint32
	buf := make([]byte, testPage)
	read := func() {
		f, err := b.Fetch(ctx, batch)
		if err != nil || f.Len() != len(batch) {
			t.Fatalf("%d of %d: %v", f.Len(), len(batch), err)
		}
		for i := range batch {
			if err := f.Read(i, buf); err != nil || crc32c.Update(0, buf) != sums[i] {
				t.Fatalf("file %d: %v", n, err)
			}
		}
		f.Release()
		batch, sums = batch[:0], sums[:0]
	}
	for f, err := range b.Files(ctx) {
		if err != nil {
			t.Fatal(err)
		}
		n++
		extents, err := b.Extents(ctx, f, 1<<20)
		if err != nil {
			t.Fatal(err)
		}
		if f.content.kind == contentMap && len(extents) != 1024 {
			t.Fatalf("%s: %d extents", f.Path, len(extents))
		}
		if f.content.kind == contentBundle {
			if batch, sums = append(batch, extents[0]), append(sums, f.CRC32C); len(batch) == 64 {
				read()
			}
		}
	}
	read()
	return n
}
