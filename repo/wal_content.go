package repo

import (
	"bytes"
	"cmp"
	"context"
	"errors"
	"fmt"
	"io"
	"runtime"
	"sync"

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
	// Processes is how many frames are compressed at the same time, for all
	// settings together; 0 is runtime.GOMAXPROCS. To be set before the first use.
	Processes int
	// Buffer, if it is large enough, is what the content is read into. It belongs
	// to the content until Close has returned: who pushes many files saves the
	// kernel from clearing as much memory for each. To be set before the first use.
	Buffer []byte

	src  storage.Source
	hold int64                  // bytes: maxHeldWAL
	held func() ([]byte, error) // the content, if it is small enough; read once
	head func() ([]byte, error) // the first bytes of a larger one; read once

	stop    context.CancelFunc
	stopped context.Context
	running sync.WaitGroup

	mu       sync.Mutex
	slots    chan struct{}                        // held while a frame is compressed
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
	c.held = sync.OnceValues(func() ([]byte, error) { return readStart(src, c.room(src.Size())) })
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

// readStart fills b with the first bytes, and of all bytes makes sure that they are all.
func readStart(src storage.Source, b []byte) ([]byte, error) {
	in, err := src.Open()
	if err != nil {
		return nil, err
	}
	defer in.Close()
	n := int64(len(b))
	if got, err := io.ReadFull(in, b); err != nil {
		return nil, fmt.Errorf("it ends after %d of %d bytes: %w", got, src.Size(), err)
	}
	if n < src.Size() {
		return b, nil
	}
	return b, expectEnd(in, n)
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
	start := c.head
	if c.isHeld() {
		start = c.held
	}
	b, err := start()
	return b[:min(n, len(b))], err
}

// Compress begins to read the content and to compress it in the background,
// so that both overlap with what the caller does until PutWAL. Of a file above
// 64 MiB it does nothing. The zero Compression is the default; a setting
// that was begun is not begun again.
func (c *WALContent) Compress(comp Compression) {
	if c.isHeld() {
		c.begin(comp)
	}
}

// makeSlots needs c.mu.
func (c *WALContent) makeSlots() {
	if c.slots == nil {
		c.slots = make(chan struct{}, cmp.Or(c.Processes, runtime.GOMAXPROCS(0)))
	}
}

// Close ends what still runs in the background, and waits for that. Nothing
// can be compressed afterwards.
func (c *WALContent) Close() {
	c.stop()
	c.running.Wait()
}

// walFrames is the content as compressed by one setting.
type walFrames struct {
	done   chan struct{} // closed when the others are there
	frames []walFrame
	err    error
}

// walFrame is one frame, not yet sealed.
type walFrame struct {
	codec   codec.ID
	plain   int // bytes
	payload []byte
}

func (c *WALContent) begin(comp Compression) *walFrames {
	comp = Options{Compression: comp}.withDefaults().Compression.forWAL()
	c.mu.Lock()
	defer c.mu.Unlock()
	if f := c.settings[comp]; f != nil {
		return f
	}
	f := &walFrames{done: make(chan struct{})}
	c.settings[comp] = f
	c.makeSlots()
	c.running.Go(func() {
		defer close(f.done)
		f.frames, f.err = c.compress(comp)
	})
	return f
}

// compressed waits for the content in the form of a setting.
func (c *WALContent) compressed(ctx context.Context, comp Compression) ([]walFrame, error) {
	f := c.begin(comp)
	select {
	case <-f.done:
		return f.frames, f.err
	case <-ctx.Done():
		return nil, context.Cause(ctx)
	}
}

// compress is frame by frame, as many at a time as there are slots.
func (c *WALContent) compress(comp Compression) ([]walFrame, error) {
	content, err := c.held()
	if err != nil {
		return nil, err
	}
	frames := make([]walFrame, (len(content)+walFrameSize-1)/walFrameSize)
	next := make(chan int, len(frames))
	for i := range frames {
		next <- i
	}
	close(next)
	var workers errgroup.Group
	for range min(cap(c.slots), len(frames)) {
		workers.Go(func() error {
			enc, err := newWALCompressor(comp)
			if err != nil {
				return err
			}
			for i := range next {
				plain := content[i*walFrameSize : min((i+1)*walFrameSize, len(content))]
				if frames[i], err = c.inSlot(enc, plain); err != nil {
					return err
				}
			}
			return nil
		})
	}
	return frames, workers.Wait()
}

func (c *WALContent) inSlot(enc *walCompressor, plain []byte) (walFrame, error) {
	if c.stopped.Err() != nil {
		return walFrame{}, errors.New("the WAL content was closed")
	}
	c.slots <- struct{}{}
	defer func() { <-c.slots }()
	f, err := enc.frame(plain)
	if f.codec != codec.None {
		// The compressor's buffer is as large as the frame could have become.
		f.payload = bytes.Clone(f.payload)
	}
	return f, err
}

// walCompressor makes frames, one after the other.
type walCompressor struct {
	codec codec.ID
	enc   codec.Encoder
	buf   []byte
}

func newWALCompressor(comp Compression) (*walCompressor, error) {
	enc, err := codec.NewEncoder(comp.walCodec, comp.walLevel)
	return &walCompressor{codec: comp.walCodec, enc: enc}, err
}

// frame compresses plain; what it gives holds until the next call. What does not
// become smaller stays as it is.
func (w *walCompressor) frame(plain []byte) (walFrame, error) {
	f := walFrame{codec: codec.None, plain: len(plain), payload: plain}
	if w.codec == codec.None {
		return f, nil
	}
	compressed, err := w.enc.Encode(w.buf, plain)
	if err != nil {
		return f, err
	}
	w.buf = compressed
	if len(compressed) < len(plain) {
		f.codec, f.payload = w.codec, compressed
	}
	return f, nil
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
	content, err := c.held()
	if err != nil {
		return ContentID{}, err
	}
	return ids.sum(content), nil
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
