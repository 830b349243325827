package repo

import (
	"context"
	"fmt"
	"math/bits"
	"sync"

	"github.com/oklog/ulid/v2"

	"github.com/pgbak/pgbak/repo/codec"
)

// Extent is a piece of a file's content that can be read by itself.
type Extent struct {
	Offset int64 // in the file
	Length int64 // bytes
	Zero   bool  // all bytes are zero: nothing is stored for it

	path   string
	parts  []part
	stored int64 // bytes of its frames
}

// part is a slice of a frame's plain content that goes to a place in the extent.
type part struct {
	ref    frameRef
	from   uint32 // in the frame
	length uint32
}

// Extents lists the content of f in file order, each extent at most limit
// bytes (at least one frame's), except runs of zeros, which may be longer.
// Where pages come from scattered frames extents are shorter, so that the frames
// of each have at most twice limit bytes.
func (b *Backup) Extents(ctx context.Context, f File, limit int64) ([]Extent, error) {
	switch f.content.kind {
	case contentBundle:
		p := part{ref: b.tables.bundles[f.content.number], from: f.content.index, length: uint32(f.Size)}
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
		if n < 0 || out[n].Zero || out[n].Length+int64(p.length) > limit || out[n].stored+int64(p.ref.stored) > 2*limit {
			out = append(out, Extent{Offset: offset, path: path})
			n++
		}
		e := &out[n]
		if len(e.parts) == 0 || e.parts[len(e.parts)-1].ref != p.ref {
			e.stored += int64(p.ref.stored)
		}
		e.parts = append(e.parts, p)
		e.Length += int64(p.length)
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

// ReadExtent reads and verifies an extent into dst, which has its length: a
// Fetch of one. Concurrent calls are fine.
func (b *Backup) ReadExtent(ctx context.Context, e Extent, dst []byte) error {
	f, err := b.Fetch(ctx, []Extent{e})
	if err != nil {
		return err
	}
	defer f.Release()
	return f.Read(0, dst)
}

// whole tells that the part is all of its frame.
func (p part) whole() bool { return p.from == 0 && p.length == p.ref.raw }

// dataKeys opens frames of every operation that a backup uses.
type dataKeys struct {
	keys    *keyring
	wrapped map[string][]byte
	mu      sync.Mutex
	sealers map[ulid.ULID]sealer
	idle    []*frameWorker
}

// frameWorker is what one goroutine needs to open frames. It keeps the plain
// content of a few: the small files of a bundle are asked for one after the
// other, by turns with those of other bundles when some have changed.
type frameWorker struct {
	dec  *codec.Decoder
	kept [8]keptFrame
	next int // is given up next
}

type keptFrame struct {
	ref   frameRef
	plain []byte
}

// find gives a frame's plain content if it is kept.
func (w *frameWorker) find(ref frameRef) []byte {
	for _, k := range w.kept {
		if k.ref == ref {
			return k.plain
		}
	}
	return nil
}

// room makes room for a frame's plain content, which is kept when ref is set.
func (w *frameWorker) room(ref frameRef) *keptFrame {
	k := &w.kept[w.next]
	w.next = (w.next + 1) % len(w.kept)
	k.ref = frameRef{}
	if cap(k.plain) < int(ref.raw) {
		k.plain = make([]byte, 1<<bits.Len32(ref.raw-1))
	}
	k.plain = k.plain[:ref.raw]
	return k
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

// open verifies a frame and gives its compressed content, in place.
func (d *dataKeys) open(ref frameRef, sealed []byte) ([]byte, error) {
	s, err := d.sealer(ref.pack.op)
	if err != nil {
		return nil, err
	}
	payload, err := s.open(sealed, ref.number(), ref.context())
	if err != nil {
		return nil, damaged(ref.pack.key(), fmt.Sprintf("frame %d", ref.ordinal), err)
	}
	return payload, nil
}
