package archive

import (
	"fmt"
	"maps"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"syscall"
	"testing"

	"github.com/pgbak/pgbak/internal/postgres"
	"github.com/pgbak/pgbak/internal/postgres/server"
	"github.com/pgbak/pgbak/internal/received"
	"github.com/pgbak/pgbak/repo"
)

// lossyDisk is a disk that knows what of it a crash of the machine would leave. A
// write is lost until its file was synced behind it, a name until its directory
// was. A sync that fails loses what it should have kept for good, as the page cache
// of Linux does: the next one succeeds and has nothing to do.
type lossyDisk struct {
	received.OS

	mu      sync.Mutex
	syncs   int              // so far
	fails   func(n int) bool // which of them fail
	failed  int
	content map[string]*durableFile // by path
	names   map[string]string       // durable: name to the path it was made under
	pending map[string]string
	noRoom  bool
	refused int // writes
}

// durableFile is what of a file is on the disk.
type durableFile struct {
	data  []byte
	dirty map[int64][]byte // by offset
}

func newLossyDisk(fails func(n int) bool) *lossyDisk {
	return &lossyDisk{fails: fails, content: map[string]*durableFile{}, names: map[string]string{}, pending: map[string]string{}}
}

func (d *lossyDisk) Create(path string) (*os.File, error) {
	d.mu.Lock()
	defer d.mu.Unlock()
	if d.noRoom {
		return nil, &os.PathError{Op: "open", Path: path, Err: syscall.ENOSPC}
	}
	if d.content[d.pending[path]] == nil {
		d.pending[path] = path + fmt.Sprint("#", len(d.content))
		d.content[d.pending[path]] = &durableFile{dirty: map[int64][]byte{}}
	}
	return d.OS.Create(path)
}

func (d *lossyDisk) WriteAt(f *os.File, p []byte, offset int64) (int, error) {
	d.mu.Lock()
	defer d.mu.Unlock()
	if d.noRoom {
		d.refused++
		n, _ := d.OS.WriteAt(f, p[:len(p)/2], offset) // a part of it still fits
		d.content[d.pending[f.Name()]].dirty[offset] = append([]byte{}, p[:n]...)
		return n, &os.PathError{Op: "write", Path: f.Name(), Err: syscall.ENOSPC}
	}
	d.content[d.pending[f.Name()]].dirty[offset] = append([]byte{}, p...)
	return d.OS.WriteAt(f, p, offset)
}

func (d *lossyDisk) Sync(f *os.File) error {
	d.mu.Lock()
	defer d.mu.Unlock()
	d.syncs++
	fails := d.fails != nil && d.fails(d.syncs)
	if info, err := f.Stat(); err == nil && info.IsDir() {
		if fails {
			d.failed++
			return &os.PathError{Op: "sync", Path: f.Name(), Err: syscall.EIO}
		}
		d.names = maps.Clone(d.pending)
		return nil
	}
	file := d.content[d.pending[f.Name()]]
	if !fails {
		for offset, p := range file.dirty {
			if end := int(offset) + len(p); end > len(file.data) {
				file.data = append(file.data, make([]byte, end-len(file.data))...)
			}
			copy(file.data[offset:], p)
		}
	}
	clear(file.dirty)
	if fails {
		d.failed++
		return &os.PathError{Op: "sync", Path: f.Name(), Err: syscall.EIO}
	}
	return nil
}

func (d *lossyDisk) Rename(from, to string) error {
	d.mu.Lock()
	defer d.mu.Unlock()
	d.pending[to] = d.pending[from]
	delete(d.pending, from)
	return d.OS.Rename(from, to)
}

// crashed gives the content that a crash now would leave of a segment, under its
// whole or its partial name.
func (d *lossyDisk) crashed(dir string, f postgres.WALFile, size int64) []byte {
	d.mu.Lock()
	defer d.mu.Unlock()
	for _, kind := range []postgres.WALKind{postgres.WALSegment, postgres.WALPartial} {
		f.Kind = kind
		if file := d.content[d.names[filepath.Join(dir, f.Name(size))]]; file != nil {
			return append([]byte{}, file.data...)
		}
	}
	return nil
}

func (d *lossyDisk) setRoom(room bool) (refused int) {
	d.mu.Lock()
	defer d.mu.Unlock()
	d.noRoom = !room
	return d.refused
}

func (d *lossyDisk) counts() (syncs, failed int) {
	d.mu.Lock()
	defer d.mu.Unlock()
	return d.syncs, d.failed
}

// honest asks the server up to where it was told that WAL is durable, which its slot
// remembers when the connection is lost, and looks whether a crash of the receiver's machine would leave that WAL, byte by byte.
func (r *receiving) honest(t *testing.T, c clusterFiles, disk *lossyDisk) postgres.LSN {
	t.Helper()
	answer := c.Query(t, "SELECT coalesce(restart_lsn, '0/0') FROM pg_replication_slots WHERE slot_name = 'receiver'")
	flushed, err := postgres.ParseLSN(answer)
	if err != nil {
		t.Fatal(err)
	}
	size := r.stanza.Current().SegmentSize
	if flushed == 0 || flushed%postgres.LSN(size) == 0 {
		return flushed // nothing of the segment was said
	}
	f := postgres.WALFile{Kind: postgres.WALSegment, Timeline: 1, Segment: flushed.Segment(size)}
	name, n := f.Name(size), int(flushed%postgres.LSN(size))
	want, err := os.ReadFile(c.wal(name))
	if err != nil {
		t.Fatal(err)
	}
	got := disk.crashed(r.dir, f, size)
	if len(got) < n || string(got[:n]) != string(want[:n]) {
		at := 0
		for at < min(len(got), n) && got[at] == want[at] {
			at++
		}
		t.Fatalf("the server was told that %s is durable, but of %s a crash would leave %d bytes, the same as the server's up to %d of %d",
			flushed, name, len(got), at, n)
	}
	return flushed
}

// clusterFiles is what honest needs of a cluster.
type clusterFiles struct {
	Query func(t testing.TB, sql string) string
	wal   func(name string) string
}

func namesOf(dir string) string {
	entries, _ := os.ReadDir(dir)
	var names []string
	for _, e := range entries {
		names = append(names, e.Name())
	}
	return strings.Join(names, " ")
}

// TestANameThatIsNotDurableIsMadeSoBeforeReceivingGoesOn completes a segment whose new
// name cannot be made durable. The next session goes on behind it, and tells the server
// that it is there: after a crash it has to be.
func TestANameThatIsNotDurableIsMadeSoBeforeReceivingGoesOn(t *testing.T) {
	const size = 1 << 20
	disk := newLossyDisk(func(n int) bool { return n == 3 || n == 4 }) // its content, its entry; its name, and that again
	dir, err := received.Open(t.TempDir(), disk)
	if err != nil {
		t.Fatal(err)
	}
	defer dir.Close()
	id := received.Identity{SystemID: 7, Major: 17, SegmentSize: size}
	f := postgres.WALFile{Kind: postgres.WALSegment, Timeline: 1, Segment: 16}
	s, err := dir.Begin(id, f, 0, 0)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := s.Write(pagedSegment(repo.Identity{Number: 1, SystemID: 7, Major: 17, SegmentSize: size}, f)); err != nil {
		t.Fatal(err)
	}
	is(t, s.Complete(), syscall.EIO, "complete received WAL")
	s.Close()
	r := &Receiver{o: ReceiveOptions{Directory: dir}}
	start := func() (streamStart, error) {
		return r.start(t.Context(), id, server.System{Timeline: 1}, server.Slot{}, postgres.History{Timeline: 1})
	}
	_, err = start()
	is(t, err, errNotDurable, "make the names of received WAL durable")
	from, err := start()
	if want := f.Start(size) + size; err != nil || from.lsn != want {
		t.Fatalf("it goes on at %s (%v), want %s", from.lsn, err, want)
	}
	if whole := dir.Path(f.Name(size)); disk.names[whole] == "" {
		t.Errorf("the server is told that %s is there, and after a crash it is not: %v", whole, disk.names)
	}
}
