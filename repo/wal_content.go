package repo

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"sync"
	"sync/atomic"

	"golang.org/x/sync/errgroup"

	"github.com/pgbak/pgbak/repo/codec"
	"github.com/pgbak/pgbak/storage"
)

// maxHeldWAL is the largest WAL file that is held in memory, in bytes. Segments
// have 16 MiB unless initdb was told otherwise.
const maxHeldWAL = 64 << 20

// WALContent is a WAL file that is read once, and compressed once for each
// distinct setting, whatever the number of repositories that PutWAL puts it
// into. It is safe for concurrent use.
//
// A file of up to 64 MiB is read in one go into memory: what is checked, hashed
// and stored are the same bytes, even if somebody writes to the file. Besides it
// there is its compressed form for each setting, and the object that each
// PutWAL makes of that; none of them is larger than the file, but for some bytes
// per MiB.
//
// A larger file is read twice for every repository, which fails when the two
// differ. It takes 1 MiB, and in each PutWAL up to 64 MiB for the object, which
// goes to a temporary file when it is larger.
type WALContent struct {
	// Compressors compress the frames; nil is some of its own, with as many frames
	// at the same time as runtime.GOMAXPROCS. To be set before the first use.
	Compressors *WALCompressors
	// Buffer, if it is large enough, is what the content is read into. It belongs
	// to the content until Close has returned: who pushes many files saves the
	// kernel from clearing as much memory for each. To be set before the first use.
	Buffer []byte
	// MayBeThere tells that the file may be archived already: every PutWAL then looks
	// first, which is a Stat, before it compresses. To be set before the first use.
	MayBeThere bool

	src  storage.Source
	hold int64                  // bytes: maxHeldWAL
	held *heldWAL               // the content, if it is small enough
	head func() ([]byte, error) // the first bytes of a larger one; read once

	stop    context.CancelFunc
	stopped context.Context
	running sync.WaitGroup

	mu       sync.Mutex
	settings map[Compression]*walFrames           // begun or done
	plainIDs map[string]func() (ContentID, error) // unkeyed content ids by algorithm
	summary  *walSummarized                       // begun or done; nil when nobody asked for one
}

// walHeadSize bounds what Head gives of a file that is not held.
const walHeadSize = 64 << 10

// NewWALContent makes a WALContent of src, which is not read before it is asked
// for. A storage.Source that yields more or fewer bytes than its size is an
// error then.
func NewWALContent(src storage.Source) *WALContent {
	c := &WALContent{src: src, hold: maxHeldWAL, settings: map[Compression]*walFrames{}, plainIDs: map[string]func() (ContentID, error){}}
	c.held = newHeldWAL(src, c.room)
	c.head = sync.OnceValues(func() ([]byte, error) { return readStart(src, make([]byte, min(walHeadSize, src.Size()))) })
	// Close is what ends the work, not a request: several share it.
	c.stopped, c.stop = context.WithCancel(context.Background())
	return c
}

// NewWALBuffer makes a Buffer for files of n bytes.
func NewWALBuffer(n int64) []byte { return newLargeBuffer(n) }

// room is where n bytes are read into.
func (c *WALContent) room(n int64) []byte {
	if int64(cap(c.Buffer)) >= n {
		return c.Buffer[:n:n]
	}
	return newLargeBuffer(n)
}

// readStart fills b with the first bytes.
func readStart(src storage.Source, b []byte) ([]byte, error) {
	in, err := src.Open()
	if err != nil {
		return nil, err
	}
	defer in.Close()
	if got, err := io.ReadFull(in, b); err != nil {
		return nil, fmt.Errorf("it ends after %d of %d bytes: %w", got, src.Size(), err)
	}
	return b, nil
}

func expectEnd(in io.Reader, size int64) error {
	switch _, err := io.ReadFull(in, make([]byte, 1)); {
	case err == nil:
		return fmt.Errorf("it has more than %d bytes", size)
	case err != io.EOF:
		return err
	}
	return nil
}

// Size is the length of the content in bytes.
func (c *WALContent) Size() int64 { return c.src.Size() }

func (c *WALContent) isHeld() bool { return c.Size() <= c.hold }

// Head gives the first n bytes of what PutWAL stores, or all if there are fewer;
// of a file above 64 MiB at most 64 KiB.
func (c *WALContent) Head(n int) ([]byte, error) {
	if c.isHeld() {
		return c.held.first(int64(n))
	}
	b, err := c.head()
	return b[:min(n, len(b))], err
}

// Compress begins to read the content and to compress it in the background,
// so that both overlap with what the caller does until PutWAL. Of a file above
// 64 MiB it does nothing. The zero Compression is the default; a setting
// that was begun is not begun again. It is to be called once for each PutWAL by this
// setting: when each of them has found the file archived, compressing ends.
func (c *WALContent) Compress(comp Compression) {
	if c.isHeld() && !c.MayBeThere {
		c.mu.Lock()
		defer c.mu.Unlock()
		c.begin(comp).expected++
	}
}

// spare says that one of the PutWALs by this setting needs no frames, as far as can be seen.
func (c *WALContent) spare(comp Compression) {
	c.mu.Lock()
	defer c.mu.Unlock()
	f := c.settings[comp.ofWAL()]
	if f == nil {
		return
	}
	if f.expected--; f.expected <= 0 && f.waiting == 0 {
		// Who needs them all the same begins anew.
		f.spared.Store(true)
		delete(c.settings, comp.ofWAL())
	}
}

// compressors needs c.mu.
func (c *WALContent) compressors() *WALCompressors {
	if c.Compressors == nil {
		c.Compressors = NewWALCompressors(0)
	}
	return c.Compressors
}

// errWALClosed is what comes of asking after Close.
var errWALClosed = errors.New("the WAL content was closed")

// Close ends what still runs in the background, and waits for that. It must follow
// the last PutWAL: others get the memory of what it has compressed. Nothing can be
// compressed or read afterwards.
func (c *WALContent) Close() {
	c.stop()
	c.running.Wait()
	c.held.end()
	c.mu.Lock()
	defer c.mu.Unlock()
	for _, f := range c.settings {
		if f.memory != nil {
			c.compressors().giveMemory(f.memory)
			f.memory, f.frames, f.err = nil, nil, errWALClosed
		}
	}
}

// walFrames is the content as compressed by one setting.
type walFrames struct {
	done   chan struct{} // closed when the others are there
	frames []walFrame
	err    error
	memory *walMemory // of the frames; nil once it was given back

	expected int         // PutWALs that may still want the frames; needs WALContent.mu
	waiting  int         // those that do; needs WALContent.mu
	spared   atomic.Bool // nobody wants them
}

// walFrame is one frame, not yet sealed.
type walFrame struct {
	codec   codec.ID
	plain   int // bytes
	payload []byte
}

// begin needs c.mu.
func (c *WALContent) begin(comp Compression) *walFrames {
	comp = comp.ofWAL()
	if f := c.settings[comp]; f != nil {
		return f
	}
	by := c.compressors()
	f := &walFrames{done: make(chan struct{}), memory: by.memory()}
	c.settings[comp] = f
	c.running.Go(func() {
		defer close(f.done)
		f.frames, f.err = c.compress(comp, by, f)
		if f.spared.Load() {
			by.giveMemory(f.memory) // it is no setting any more, which Close would find
		}
	})
	return f
}

// compressed waits for the content in the form of a setting.
func (c *WALContent) compressed(ctx context.Context, comp Compression) ([]walFrame, error) {
	c.mu.Lock()
	f := c.begin(comp)
	f.waiting++ // nobody spares it now
	c.mu.Unlock()
	select {
	case <-f.done:
		return f.frames, f.err
	case <-ctx.Done():
		return nil, context.Cause(ctx)
	}
}

// compress is frame by frame, as many at a time as there are slots, from when
// they are read.
func (c *WALContent) compress(comp Compression, by *WALCompressors, f *walFrames) ([]walFrame, error) {
	frames := make([]walFrame, (c.Size()+walFrameSize-1)/walFrameSize)
	next := make(chan int, len(frames))
	for i := range frames {
		next <- i
	}
	close(next)
	var workers errgroup.Group
	for range min(cap(by.slots), len(frames)) {
		workers.Go(func() (err error) {
			for i := range next {
				plain, err := c.held.first(int64(i+1) * walFrameSize)
				if err != nil {
					return err
				}
				if frames[i], err = c.inSlot(comp, by, f, plain[i*walFrameSize:]); err != nil {
					return err
				}
			}
			return nil
		})
	}
	err := workers.Wait()
	if err == nil {
		_, err = c.held.whole() // of an empty file too
	}
	return frames, err
}

func (c *WALContent) inSlot(comp Compression, by *WALCompressors, of *walFrames, plain []byte) (walFrame, error) {
	by.slots <- struct{}{}
	defer func() { <-by.slots }()
	if c.stopped.Err() != nil || of.spared.Load() {
		return walFrame{}, errWALClosed
	}
	enc, err := by.take(comp)
	if err != nil {
		return walFrame{}, err
	}
	defer by.give(comp, enc)
	f, err := enc.frame(plain)
	if f.codec != codec.None {
		f.payload = of.memory.keep(f.payload) // the compressor's is its own
	}
	return f, err
}

// contentID gives the content id that a repository has for the content. Those
// without a key are computed once.
func (c *WALContent) contentID(r *Repository) (ContentID, error) {
	if r.keys != nil || !c.isHeld() {
		return c.hash(r)
	}
	c.mu.Lock()
	id := c.plainIDs[r.config.IDAlgorithm]
	if id == nil {
		id = sync.OnceValues(func() (ContentID, error) { return c.hash(r) })
		c.plainIDs[r.config.IDAlgorithm] = id
	}
	c.mu.Unlock()
	return id()
}

func (c *WALContent) hash(r *Repository) (ContentID, error) {
	ids, err := r.hasher()
	if err != nil {
		return ContentID{}, err
	}
	if !c.isHeld() {
		return c.hashLarge(ids)
	}
	return c.hashHeld(ids)
}

// hashHeld hashes what is held as it is read.
func (c *WALContent) hashHeld(ids *contentHasher) (id ContentID, err error) {
	for done := 0; int64(done) < c.Size(); {
		content, err := c.held.first(int64(done) + walReadPiece)
		if err != nil {
			return id, err
		}
		ids.h.Write(content[done:])
		done = len(content)
	}
	_, err = c.held.whole()
	ids.h.Sum(id[:0])
	return id, err
}

var errWALChanged = errors.New("it changed while it was read")

// hashLarge reads a file that is not held. Its beginning must still be what Head
// gave, for that is what was checked.
func (c *WALContent) hashLarge(ids *contentHasher) (id ContentID, err error) {
	head, err := c.head()
	if err != nil {
		return id, err
	}
	err = c.eachFrame(func(plain []byte) error {
		n := min(len(head), len(plain))
		if !bytes.Equal(head[:n], plain[:n]) {
			return errWALChanged
		}
		head = head[n:]
		ids.h.Write(plain)
		return nil
	})
	ids.h.Sum(id[:0])
	return id, err
}

// eachFrame reads the content once, frame by frame; a frame's bytes hold until
// do returns.
func (c *WALContent) eachFrame(do func(plain []byte) error) error {
	in, err := c.src.Open()
	if err != nil {
		return err
	}
	defer in.Close()
	buf := make([]byte, walFrameSize)
	for done := int64(0); done < c.Size(); {
		plain := buf[:min(c.Size()-done, walFrameSize)]
		if n, err := io.ReadFull(in, plain); err != nil {
			return fmt.Errorf("it ends after %d of %d bytes: %w", done+int64(n), c.Size(), err)
		}
		if err := do(plain); err != nil {
			return err
		}
		done += int64(len(plain))
	}
	return expectEnd(in, c.Size())
}
