package repo

import (
	"context"
	"fmt"
	"sync"

	"github.com/oklog/ulid/v2"

	"github.com/pgbak/pgbak/repo/codec"
	"github.com/pgbak/pgbak/storage"
)

// Extent is a piece of a file's content that can be read by itself.
type Extent struct {
	Offset int64 // in the file
	Length int64 // bytes
	Zero   bool  // all bytes are zero: nothing is stored for it

	path  string
	parts []part
}

// part is a slice of a frame's plain content that goes to a place in the extent.
type part struct {
	ref    frameRef
	from   uint32 // in the frame
	length uint32
	bundle bool
}

// Extents lists the content of f in file order, each extent at most limit
// bytes (at least one frame's), except runs of zeros, which may be longer.
func (b *Backup) Extents(ctx context.Context, f File, limit int64) ([]Extent, error) {
	switch f.content.kind {
	case contentBundle:
		p := part{ref: b.tables.bundles[f.content.number], from: f.content.index, length: uint32(f.Size), bundle: true}
		return []Extent{{Length: f.Size, path: f.Path, parts: []part{p}}}, nil
	case contentMap:
		m, err := b.maps.get(ctx, b, f.content)
		if err != nil {
			return nil, fmt.Errorf("map of %s: %w", f.Path, err)
		}
		if m.size != f.Size {
			return nil, damagedf(b.key, "files", "%s has %d bytes, its map %d", f.Path, f.Size, m.size)
		}
		return m.extents(f.Path, max(limit, int64(m.pageSize)*PagesPerFrame)), nil
	}
	return nil, nil
}

// extents cuts the map's runs into extents; one extent holds frames of one kind of run only.
func (m *fileMap) extents(path string, limit int64) []Extent {
	var out []Extent
	var page int64
	add := func(p part, offset int64) {
		n := len(out) - 1
		if n < 0 || out[n].Zero || out[n].Length+int64(p.length) > limit {
			out = append(out, Extent{Offset: offset, path: path})
			n++
		}
		out[n].parts = append(out[n].parts, p)
		out[n].Length += int64(p.length)
	}
	for _, u := range m.runs {
		offset := page * int64(m.pageSize)
		length := m.rawLength(page, int64(u.count))
		switch u.kind {
		case runZero:
			out = append(out, Extent{Offset: offset, Length: length, Zero: true, path: path})
		case runAligned:
			for i, at := uint32(0), offset; at < offset+length; i++ {
				ref := m.frames[u.frame+i]
				add(part{ref: ref, length: ref.raw}, at)
				at += int64(ref.raw)
			}
		case runDelta:
			add(part{ref: m.frames[u.frame], from: u.slot * uint32(m.pageSize), length: uint32(length)}, offset)
		}
		page += int64(u.count)
	}
	return out
}

// ReadExtent reads and verifies an extent into dst, which has its length.
// Frames that lie side by side in a pack are read by one request. Concurrent
// calls are fine; damage is reported with the pack and the file.
func (b *Backup) ReadExtent(ctx context.Context, e Extent, dst []byte) error {
	if int64(len(dst)) != e.Length {
		return fmt.Errorf("read %s: buffer of %d bytes for %d", e.path, len(dst), e.Length)
	}
	if e.Zero {
		clear(dst)
		return nil
	}
	if len(e.parts) == 1 && e.parts[0].bundle {
		return b.small.read(ctx, e, dst)
	}
	for i := 0; i < len(e.parts); {
		n := contiguous(e.parts[i:])
		if err := b.readParts(ctx, e.path, e.parts[i:i+n], &dst); err != nil {
			return err
		}
		i += n
	}
	return nil
}

// maxOverRead is how many unwanted bytes between two frames are read along
// rather than asking the store again.
const maxOverRead = 64 << 10

// maxRequest bounds what one request reads of frames that are mostly unwanted,
// as when every page of an extent comes from another delta frame.
const maxRequest = 4 << 20

// contiguous counts the parts at the beginning whose frames one request reads.
// Parts of one frame that follow each other share it, unless the first is the
// whole frame: that is opened in place, and its sealed bytes are gone then.
func contiguous(parts []part) int {
	n := 1
	for n < len(parts) && parts[n].ref.pack == parts[0].ref.pack {
		prev, next := parts[n-1], parts[n].ref
		if next == prev.ref {
			if prev.whole() {
				break
			}
		} else if next.offset < prev.ref.end() || next.offset-prev.ref.end() > maxOverRead || next.end()-parts[0].ref.offset > maxRequest {
			break
		}
		n++
	}
	return n
}

// whole tells that the part is all of its frame.
func (p part) whole() bool { return p.from == 0 && p.length == p.ref.raw }

// readParts reads the frames of parts by one request and moves dst behind what it filled.
func (b *Backup) readParts(ctx context.Context, path string, parts []part, dst *[]byte) error {
	first, last := parts[0].ref, parts[len(parts)-1].ref
	key := first.pack.key()
	w := b.data.worker()
	defer b.data.release(w)
	stored := w.room(int(last.end() - first.offset))
	if err := storage.ReadFull(ctx, b.stanza.repo.store, key, int64(first.offset), stored); err != nil {
		return fmt.Errorf("content of %s: %w", path, b.stanza.repo.lost(key, err))
	}
	w.filled = frameRef{}
	for _, p := range parts {
		sealed := stored[p.ref.offset-first.offset:][:p.ref.stored]
		out := (*dst)[:p.length]
		if err := b.readPart(w, p, sealed, out); err != nil {
			return fmt.Errorf("content of %s: %w", path, err)
		}
		*dst = (*dst)[p.length:]
	}
	return nil
}

// readPart opens one frame, unless it is the one opened last, and copies the
// part's bytes to out.
func (b *Backup) readPart(w *frameWorker, p part, sealed, out []byte) error {
	if p.whole() && w.filled != p.ref {
		return b.data.openFrame(w, p.ref, sealed, out)
	}
	if w.filled != p.ref {
		if cap(w.plain) < int(p.ref.raw) {
			w.plain = make([]byte, maxFrame)
		}
		w.plain = w.plain[:p.ref.raw]
		if err := b.data.openFrame(w, p.ref, sealed, w.plain); err != nil {
			return err
		}
		w.filled = p.ref
	}
	if int(p.from)+int(p.length) > len(w.plain) {
		return damagedf(p.ref.pack.key(), "", "part of a frame is out of range")
	}
	copy(out, w.plain[p.from:])
	return nil
}

// dataKeys opens frames of every operation that a backup uses.
type dataKeys struct {
	keys    *keyring
	wrapped map[string][]byte
	mu      sync.Mutex
	sealers map[ulid.ULID]sealer
	idle    []*frameWorker
}

// frameWorker is what one goroutine needs to read frames.
type frameWorker struct {
	dec    *codec.Decoder
	stored []byte
	plain  []byte
	filled frameRef // whose content is in plain
}

// room gives a buffer of n bytes for what is read of a pack.
func (w *frameWorker) room(n int) []byte {
	if cap(w.stored) < n {
		w.stored = make([]byte, n)
	}
	return w.stored[:n]
}

func (d *dataKeys) worker() *frameWorker {
	d.mu.Lock()
	defer d.mu.Unlock()
	if n := len(d.idle); n > 0 {
		w := d.idle[n-1]
		d.idle = d.idle[:n-1]
		return w
	}
	return &frameWorker{dec: codec.NewDecoder()}
}

func (d *dataKeys) release(w *frameWorker) {
	d.mu.Lock()
	defer d.mu.Unlock()
	d.idle = append(d.idle, w)
}

func (d *dataKeys) sealer(op ulid.ULID) (sealer, error) {
	if d.keys == nil {
		return sealer{}, nil
	}
	d.mu.Lock()
	defer d.mu.Unlock()
	if s, ok := d.sealers[op]; ok {
		return s, nil
	}
	key, err := d.keys.unwrapDataKey(d.wrapped[op.String()])
	if err != nil {
		return sealer{}, fmt.Errorf("data key of operation %s: %w", op, err)
	}
	s, err := newSealer(key)
	if err != nil {
		return sealer{}, err
	}
	if d.sealers == nil {
		d.sealers = map[ulid.ULID]sealer{}
	}
	d.sealers[op] = s
	return s, nil
}

// openFrame verifies and decompresses a frame into out, which has its plain length.
func (d *dataKeys) openFrame(w *frameWorker, ref frameRef, sealed, out []byte) error {
	s, err := d.sealer(ref.pack.op)
	if err != nil {
		return err
	}
	payload, err := s.open(sealed, ref.number(), ref.context())
	if err == nil {
		err = w.dec.Decode(out, payload, ref.codec)
	}
	if err != nil {
		return damaged(ref.pack.key(), fmt.Sprintf("frame %d", ref.ordinal), err)
	}
	return nil
}
