package repo

import (
	"bytes"
	"cmp"
	"context"
	"errors"
	"fmt"
	"io"
	"slices"
	"sync"

	"github.com/pgbak/pgbak/storage"
)

// The bounds of a fetch, in stored bytes. It holds at most maxFetched and one
// more extent of what was asked for, and maxUnwanted of what lies between.
const (
	maxFetched  = 8 << 20
	maxUnwanted = 2 << 20
	maxRequest  = 8 << 20 // what one request reads
)

// Unwanted bytes between two frames are read along rather than asking the store
// again, when they are no more than this. Where a request costs a round trip,
// it would have brought more in the same time.
const (
	maxGap    = 64 << 10
	maxGapFar = 256 << 10
)

// Fetched is what extents need, read from the store; it is verified and
// decompressed when it is asked for. Its methods are for one goroutine.
type Fetched struct {
	backup  *Backup
	extents []Extent
	frames  map[frameRef]*fetchedFrame
	buf     []byte
	worker  *frameWorker
}

// fetchedFrame is a frame as it was stored, until it is opened, in place.
type fetchedFrame struct {
	ref     frameRef
	path    string // of a file that wants it
	bytes   []byte // sealed, or the payload
	opened  bool
	missing error
}

// Fetch reads what the extents need, or as many of them, from the first on, as
// need no more than some megabytes; Len tells how many. Frames that lie side by
// side in a pack are read by one request, in whatever order they are wanted.
// An object that is lost or too short is damage for those extents that need it:
// Read tells. Any other fault of the store is an error here. Concurrent calls are
// fine, and each holds at most 12 MiB, if the extents are of at most 1 MiB.
func (b *Backup) Fetch(ctx context.Context, extents []Extent) (*Fetched, error) {
	f := &Fetched{backup: b, frames: map[frameRef]*fetchedFrame{}}
	gap := int64(maxGapFar)
	if b.stanza.repo.store.Properties().CheapReads {
		gap = maxGap
	}
	requests := cutRequests(f.want(extents), gap)
	size := int64(0)
	for _, q := range requests {
		size += q.length
	}
	f.buf = b.buffers.take(int(size))
	rest := f.buf
	for _, q := range requests {
		if err := f.read(ctx, q, rest[:q.length]); err != nil {
			f.Release()
			return nil, fmt.Errorf("content of %s: %w", q.frames[0].path, err)
		}
		rest = rest[q.length:]
	}
	return f, nil
}

// want takes extents and gives their frames, each once.
func (f *Fetched) want(extents []Extent) (frames []*fetchedFrame) {
	total := int64(0)
	for i, e := range extents {
		if total >= maxFetched {
			extents = extents[:i]
			break
		}
		for _, p := range e.parts {
			if f.frames[p.ref] == nil {
				frame := &fetchedFrame{ref: p.ref, path: e.path}
				f.frames[p.ref] = frame
				frames = append(frames, frame)
				total += int64(p.ref.stored)
			}
		}
	}
	f.extents = extents
	return frames
}

// packRequest is a piece of a pack that one request reads.
type packRequest struct {
	pack   packID
	offset uint32
	length int64
	frames []*fetchedFrame
}

// cutRequests puts frames into the order of the packs and cuts where the store
// has to be asked anew. Frames that overlap, as only a damaged map says, are
// read apart, so that opening one in place does not change the other.
func cutRequests(frames []*fetchedFrame, gap int64) (requests []packRequest) {
	slices.SortFunc(frames, func(a, b *fetchedFrame) int {
		return cmp.Or(bytes.Compare(a.ref.pack.op[:], b.ref.pack.op[:]), cmp.Compare(a.ref.pack.number, b.ref.pack.number),
			cmp.Compare(a.ref.offset, b.ref.offset))
	})
	unwanted := int64(0)
	for _, frame := range frames {
		ref := frame.ref
		if n := len(requests) - 1; n >= 0 && requests[n].pack == ref.pack {
			q := &requests[n]
			between := int64(ref.offset) - int64(q.offset) - q.length
			length := int64(ref.end()) - int64(q.offset)
			if between >= 0 && between <= gap && unwanted+between <= maxUnwanted && length <= maxRequest {
				unwanted += between
				q.length, q.frames = length, append(q.frames, frame)
				continue
			}
		}
		requests = append(requests, packRequest{pack: ref.pack, offset: ref.offset, length: int64(ref.stored), frames: []*fetchedFrame{frame}})
	}
	return requests
}

// read fills buf and gives the frames their places in it.
func (f *Fetched) read(ctx context.Context, q packRequest, buf []byte) error {
	r := f.backup.stanza.repo
	key := q.pack.key()
	n, err := readUpTo(ctx, r.store, key, int64(q.offset), buf)
	if err != nil {
		if err = r.lost(key, err); !errors.Is(err, ErrDamaged) {
			return err
		}
	}
	for _, frame := range q.frames {
		from := int(frame.ref.offset - q.offset)
		if end := from + int(frame.ref.stored); end <= n {
			frame.bytes = buf[from:end:end]
		} else {
			frame.missing = err
		}
	}
	return nil
}

// readUpTo fills buf from an offset of an object and tells how much of it is
// good; less than all of it comes with an error.
func readUpTo(ctx context.Context, st storage.Store, key string, offset int64, buf []byte) (int, error) {
	body, err := st.Get(ctx, key, storage.Range{Offset: offset, Length: int64(len(buf))})
	if err != nil {
		return 0, err
	}
	defer body.Close()
	n, err := io.ReadFull(body, buf)
	if err == io.EOF { // ReadFull's word for "nothing at all came"
		err = io.ErrUnexpectedEOF
	}
	if err != nil {
		return n, fmt.Errorf("read %q: %d of %d bytes from offset %d: %w", key, n, len(buf), offset, err)
	}
	return n, nil
}

// Len is how many of the extents were fetched: at least one, if there was one.
func (f *Fetched) Len() int { return len(f.extents) }

// Read verifies and decompresses extent i into dst, which has its length.
// Damage is reported with the pack and the file.
func (f *Fetched) Read(i int, dst []byte) error {
	e := f.extents[i]
	if int64(len(dst)) != e.Length {
		return fmt.Errorf("read %s: buffer of %d bytes for %d", e.path, len(dst), e.Length)
	}
	if e.Zero {
		clear(dst)
		return nil
	}
	if f.worker == nil {
		f.worker = f.backup.data.worker()
	}
	for _, p := range e.parts {
		if err := f.readPart(p, dst[:p.length]); err != nil {
			return fmt.Errorf("content of %s: %w", e.path, err)
		}
		dst = dst[p.length:]
	}
	return nil
}

// Release gives the memory back; nothing can be read afterwards.
func (f *Fetched) Release() {
	if f.worker != nil {
		f.backup.data.release(f.worker)
	}
	f.backup.buffers.give(f.buf)
	f.worker, f.buf, f.frames, f.extents = nil, nil, nil, nil
}

// readPart copies a part of a frame; a frame that is wanted whole is decompressed
// where it is wanted.
func (f *Fetched) readPart(p part, out []byte) error {
	if p.whole() {
		return f.decode(p.ref, out)
	}
	plain := f.worker.find(p.ref)
	if plain == nil {
		kept := f.worker.room(p.ref)
		if err := f.decode(p.ref, kept.plain); err != nil {
			return err
		}
		kept.ref, plain = p.ref, kept.plain
	}
	if int64(p.from)+int64(p.length) > int64(len(plain)) {
		return damagedf(p.ref.pack.key(), "", "part of a frame is out of range")
	}
	copy(out, plain[p.from:])
	return nil
}

func (f *Fetched) decode(ref frameRef, out []byte) (err error) {
	frame := f.frames[ref]
	if frame.missing != nil {
		return frame.missing
	}
	data := f.backup.data
	if !frame.opened {
		if frame.bytes, err = data.open(ref, frame.bytes); err != nil {
			return err
		}
		frame.opened = true
	}
	if err := f.worker.dec.Decode(out, frame.bytes, ref.codec); err != nil {
		return damaged(ref.pack.key(), fmt.Sprintf("frame %d", ref.ordinal), err)
	}
	return nil
}

// buffers keeps what fetches have given back.
type buffers struct {
	mu   sync.Mutex
	idle [][]byte
}

func (b *buffers) take(n int) []byte {
	b.mu.Lock()
	defer b.mu.Unlock()
	if last := len(b.idle) - 1; last >= 0 {
		buf := b.idle[last]
		b.idle = b.idle[:last]
		if cap(buf) >= n {
			return buf[:n]
		}
	}
	const step = 256 << 10 // so that the next one, a little larger, fits too
	return make([]byte, n, (n+step-1)/step*step)
}

func (b *buffers) give(buf []byte) {
	if cap(buf) == 0 {
		return
	}
	b.mu.Lock()
	defer b.mu.Unlock()
	b.idle = append(b.idle, buf)
}
