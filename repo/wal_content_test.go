package repo

import (
	"bytes"
	"context"
	"errors"
	"io"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"golang.org/x/sync/errgroup"

	"github.com/pgbak/pgbak/storage"
	"github.com/pgbak/pgbak/storage/faulty"
	"github.com/pgbak/pgbak/storage/mem"
)

// counted counts how often a source is opened.
type counted struct {
	storage.Source
	opened atomic.Int64
}

func (c *counted) Open() (io.ReadCloser, error) {
	c.opened.Add(1)
	return c.Source.Open()
}

func mustCompression(t testing.TB, s string) Compression {
	t.Helper()
	c, err := ParseCompression(s)
	if err != nil {
		t.Fatal(err)
	}
	return c
}

func TestOneWALFileForManyRepositoriesIsReadAndCompressedOnce(t *testing.T) {
	ctx := context.Background()
	content := append(rows(5*walFrameSize, 1), noise(walFrameSize+7, 2)...)
	src := &counted{Source: storage.Bytes(content)}
	c := NewWALContent(src)
	defer c.Close()
	var stanzas []*Stanza
	for _, passphrase := range []string{"", "", fixturePassphrase, fixturePassphrase} {
		stanzas = append(stanzas, walStanza(t, mem.New(), passphrase))
	}
	// The default under each of its names is one setting.
	stanzas[1].repo.o.Compression, stanzas[2].repo.o.Compression = mustCompression(t, "s2"), mustCompression(t, "zstd")
	c.Compress(Compression{})
	c.Compress(mustCompression(t, "zstd"))
	f := mustWAL(t, "000000010000000000000001")
	var puts errgroup.Group
	for _, s := range stanzas {
		puts.Go(func() error {
			_, err := s.PutWAL(ctx, s.Current(), f, c)
			return err
		})
	}
	if err := puts.Wait(); err != nil {
		t.Fatal(err)
	}
	if n := src.opened.Load(); n != 1 {
		t.Errorf("the file was read %d times", n)
	}
	if len(c.settings) != 2 || len(c.plainIDs) != 1 {
		t.Errorf("it was compressed %d times for 2 settings, and hashed %d times without a key", len(c.settings), len(c.plainIDs))
	}
	for i, s := range stanzas {
		if got, err := readWAL(ctx, s, s.Current(), f.Name(fixtureSegment)); err != nil || !bytes.Equal(got, content) {
			t.Errorf("repository %d: %d bytes, %v", i, len(got), err)
		}
	}
}

// begun begins to compress.
func begun(c *WALContent, comp Compression) *walFrames {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.begin(comp)
}

func TestFramesAreCompressedOnlyInTheSlotsOfTheProcesses(t *testing.T) {
	c := NewWALContent(storage.Bytes(rows(8*walFrameSize, 1)))
	c.Compressors = NewWALCompressors(3)
	f := begun(c, Compression{})
	if <-f.done; f.err != nil || len(f.frames) != 8 || cap(c.Compressors.slots) != 3 {
		t.Errorf("%d frames in %d slots, %v", len(f.frames), cap(c.Compressors.slots), f.err)
	}
	for range 3 {
		c.Compressors.slots <- struct{}{}
	}
	other := begun(c, mustCompression(t, "s2"))
	select {
	case <-other.done:
		t.Error("another setting is compressed although all slots are taken")
	case <-time.After(200 * time.Millisecond):
	}
	for range 3 {
		<-c.Compressors.slots
	}
	if <-other.done; other.err != nil {
		t.Error(other.err)
	}
	c.Close()
}

// remote is a store whose requests cost something.
type remote struct{ storage.Store }

func (r remote) Properties() storage.Properties {
	p := r.Store.Properties()
	p.CheapReads = false
	return p
}

func TestPuttingWALFarAwayIsOnePut(t *testing.T) {
	ctx := context.Background()
	st := faulty.OnOp(mem.New(), func(string, string) error { return nil })
	s := walStanza(t, remote{st}, "")
	f := mustWAL(t, "000000010000000000000001")
	key := walKey(s.name, s.Current(), f)
	for _, test := range []struct {
		mayBeThere bool
		want       []string
	}{
		{false, []string{"put-if-absent " + key}},
		{false, []string{"put-if-absent " + key, "get " + key, "get " + key}},
		{true, []string{"stat " + key, "get " + key, "get " + key}},
	} {
		before := len(st.Trace())
		c := NewWALContent(storage.Bytes(rows(1000, 1)))
		c.MayBeThere = test.mayBeThere
		if _, err := s.PutWAL(ctx, s.Current(), f, c); err != nil {
			t.Fatal(err)
		}
		c.Close()
		if got := slices.DeleteFunc(st.Trace()[before:], func(op string) bool { return strings.HasPrefix(op, "read ") }); !slices.Equal(got, test.want) {
			t.Errorf("may be there %v: it asked %q", test.mayBeThere, got)
		}
	}
}

func TestPuttingWALNearByAsksAStatMore(t *testing.T) {
	ctx := context.Background()
	st := faulty.OnOp(mem.New(), func(string, string) error { return nil })
	s := walStanza(t, st, "")
	f := mustWAL(t, "000000010000000000000001")
	before := len(st.Trace())
	if _, err := s.PutWAL(ctx, s.Current(), f, NewWALContent(storage.Bytes(rows(1000, 1)))); err != nil {
		t.Fatal(err)
	}
	key := walKey(s.name, s.Current(), f)
	if got := st.Trace()[before:]; !slices.Equal(got, []string{"stat " + key, "put-if-absent " + key}) {
		t.Errorf("it asked %q", got)
	}
	before = len(st.Trace())
	if _, err := s.OpenWAL(ctx, s.Current(), f); err != nil {
		t.Fatal(err)
	}
	if got := slices.DeleteFunc(st.Trace()[before:], func(op string) bool { return strings.HasPrefix(op, "read ") }); !slices.Equal(got, []string{"get " + key}) {
		t.Errorf("opening asked %q", got)
	}
}

// seekable is a store that wants its sources to seek, as one does that signs them.
type seekable struct {
	storage.Store
	refused atomic.Bool
}

func (s *seekable) Put(ctx context.Context, key string, src storage.Source, o storage.PutOptions) error {
	r, err := src.Open()
	if err != nil {
		return err
	}
	defer r.Close()
	if _, ok := r.(io.Seeker); !ok {
		s.refused.Store(true)
	}
	return s.Store.Put(ctx, key, src, o)
}

func TestWALObjectsCanSeek(t *testing.T) {
	st := &seekable{Store: mem.New()}
	s := walStanza(t, st, "")
	for i, c := range []*WALContent{NewWALContent(storage.Bytes(rows(1000, 1))), unheld(storage.Bytes(rows(1000, 1)))} {
		f := mustWAL(t, "000000010000000000000001")
		f.Segment += uint64(i)
		if _, err := s.PutWAL(context.Background(), s.Current(), f, c); err != nil {
			t.Fatal(err)
		}
		if st.refused.Load() {
			t.Errorf("content %d makes an object that cannot seek", i)
		}
	}
}

func TestTheHeadIsOfWhatIsStored(t *testing.T) {
	content := rows(walHeadSize+5000, 1)
	for _, test := range []struct {
		title   string
		c       *WALContent
		n, want int
	}{
		{"a part", NewWALContent(storage.Bytes(content)), 40, 40},
		{"more than there is", NewWALContent(storage.Bytes(content)), 1 << 20, len(content)},
		{"a part of a large file", unheld(storage.Bytes(content)), 40, 40},
		{"no more than 64 KiB of a large file", unheld(storage.Bytes(content)), 1 << 20, walHeadSize},
		{"an empty file", NewWALContent(storage.Bytes(nil)), 40, 0},
	} {
		if got, err := test.c.Head(test.n); err != nil || len(got) != test.want || !bytes.HasPrefix(content, got) {
			t.Errorf("%s: %d bytes, %v", test.title, len(got), err)
		}
	}
	if c := NewWALContent(sized(maxHeldWAL)); !c.isHeld() {
		t.Error("64 MiB are not held")
	}
	if c := NewWALContent(sized(maxHeldWAL + 1)); c.isHeld() {
		t.Error("more than 64 MiB are held")
	}
}

// sized is a source of which only the size is asked.
type sized int64

func (s sized) Size() int64                  { return int64(s) }
func (s sized) Open() (io.ReadCloser, error) { return nil, errors.ErrUnsupported }

func TestWALOfAnotherSizeThanAnnouncedIsRefused(t *testing.T) {
	s := walStanza(t, mem.New(), "")
	f := mustWAL(t, "000000010000000000000001")
	for _, test := range []struct {
		title  string
		change func(b []byte) []byte
		want   string
	}{
		{"fewer bytes", func(b []byte) []byte { return b[:100] }, "it ends after 100 of 5000 bytes"},
		{"more bytes", func(b []byte) []byte { return append(b, 0) }, "it has more than 5000 bytes"},
	} {
		c := NewWALContent(&changing{Source: storage.Bytes(rows(5000, 1)), from: 1, change: test.change})
		_, err := s.PutWAL(context.Background(), s.Current(), f, c)
		expectError(t, err, test.want)
		expectError(t, err, f.Name(fixtureSegment))
		c.Close()
	}
}

// heldBack is a source that yields nothing before it is let go.
type heldBack struct {
	storage.Source
	open, let chan struct{}
	once      sync.Once
}

func (h *heldBack) Open() (io.ReadCloser, error) {
	h.once.Do(func() { close(h.open) })
	<-h.let
	return h.Source.Open()
}

func TestClosingEndsWhatRunsInTheBackground(t *testing.T) {
	h := &heldBack{Source: storage.Bytes(rows(3*walFrameSize, 1)), open: make(chan struct{}), let: make(chan struct{})}
	c := NewWALContent(h)
	c.Compress(Compression{})
	<-h.open // Compress reads by itself
	c.stop()
	close(h.let)
	c.Close()
	f := begun(c, Compression{})
	select {
	case <-f.done:
	default:
		t.Fatal("Close did not wait")
	}
	expectError(t, f.err, "closed")
}

func TestAPutDoesNotWaitForCompressionWhenItsContextEnds(t *testing.T) {
	s := walStanza(t, mem.New(), "")
	c := NewWALContent(storage.Bytes(rows(walFrameSize, 1)))
	c.Compressors = NewWALCompressors(1)
	c.Compress(Compression{})
	c.Compressors.slots <- struct{}{} // compressing never goes on, or is over
	comp := mustCompression(t, "s2")
	s.repo.o.Compression = comp
	ctx, cancel := context.WithCancel(context.Background())
	cancel()
	_, err := s.PutWAL(ctx, s.Current(), mustWAL(t, "000000010000000000000001"), c)
	if !errors.Is(err, context.Canceled) {
		t.Error(err)
	}
	<-c.Compressors.slots
	c.Close()
}

func TestAStanzaIsStillThereOrNot(t *testing.T) {
	ctx := context.Background()
	st := mem.New()
	down := error(nil)
	s := walStanza(t, faulty.OnOp(st, func(string, string) error { return down }), "")
	if err := s.StillThere(ctx); err != nil {
		t.Error(err)
	}
	down = errors.New("no route")
	if err := s.StillThere(ctx); !errors.Is(err, down) || errors.Is(err, ErrUnknownStanza) {
		t.Errorf("a fault: %v", err)
	}
	down = nil
	if err := st.Delete(ctx, identityKey("main", 1)); err != nil {
		t.Fatal(err)
	}
	if err := s.StillThere(ctx); !errors.Is(err, ErrUnknownStanza) || errors.Is(err, storage.ErrNotExist) {
		t.Errorf("when it is gone: %v", err)
	}
}
