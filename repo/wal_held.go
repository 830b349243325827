package repo

import (
	"fmt"
	"io"
	"sync"

	"github.com/pgbak/pgbak/storage"
)

// walReadPiece is how much of a held file is read before who waits for its
// beginning is told, in bytes: that is compressed while the rest is read.
const walReadPiece = walFrameSize

// heldWAL is the content of a file that is held in memory; it is read once, from
// when somebody first asks for some of it.
type heldWAL struct {
	src  storage.Source
	room func(n int64) []byte

	begin sync.Once
	mu    sync.Mutex
	more  sync.Cond // when what follows has changed; its lock is mu
	b     []byte    // only what was read may be looked at
	read  int
	done  bool
	err   error // valid once done
}

func newHeldWAL(src storage.Source, room func(n int64) []byte) *heldWAL {
	h := &heldWAL{src: src, room: room}
	h.more.L = &h.mu
	return h
}

// first gives the first n bytes as soon as they are read. Who gets all has the
// proof that these are as many as were announced; before that nothing may be
// stored.
func (h *heldWAL) first(n int64) ([]byte, error) {
	h.begin.Do(func() { go h.fill() })
	h.mu.Lock()
	defer h.mu.Unlock()
	all := n >= h.src.Size()
	for !h.done && (all || int64(h.read) < n) {
		h.more.Wait()
	}
	if h.err != nil {
		return nil, h.err
	}
	return h.b[:min(n, int64(h.read))], nil
}

func (h *heldWAL) whole() ([]byte, error) { return h.first(h.src.Size()) }

// end waits until nobody reads into the buffer any more.
func (h *heldWAL) end() {
	h.begin.Do(func() { h.finish(errWALClosed) })
	_, _ = h.whole()
}

func (h *heldWAL) fill() { h.finish(h.fillPieces()) }

func (h *heldWAL) finish(err error) {
	h.mu.Lock()
	defer h.mu.Unlock()
	h.done, h.err = true, err
	h.more.Broadcast()
}

func (h *heldWAL) fillPieces() error {
	in, err := h.src.Open()
	if err != nil {
		return err
	}
	defer in.Close()
	size := h.src.Size()
	b := h.room(size)
	h.mu.Lock()
	h.b = b
	h.mu.Unlock()
	for at := 0; at < len(b); {
		n, err := io.ReadFull(in, b[at:min(at+walReadPiece, len(b))])
		if err != nil {
			return fmt.Errorf("it ends after %d of %d bytes: %w", at+n, size, err)
		}
		at += n
		h.mu.Lock()
		h.read = at
		h.more.Broadcast()
		h.mu.Unlock()
	}
	return expectEnd(in, size)
}
