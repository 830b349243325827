package repo

import (
	"context"
	"fmt"

	"github.com/pgbak/pgbak/repo/codec"
)

// Framer turns plain content into frames of one repository: content id, look-up
// in the parent, compression. It is the parallel part of writing; every worker has
// its own. Framers does the same for several repositories.
type Framer struct {
	enc         codec.Encoder
	compression Compression
	ids         *contentHasher
	seed        uint64 // of page hashes
	back        readBack
	resumption  *Resumption
}

// readable tells that a frame of the parent is still what was written. Where
// reads are cheap it is read back: a backup must not rest on a pack that has
// decayed meanwhile. Elsewhere its footer was read, and verify does the rest.
func (f *Framer) readable(ctx context.Context, parent *ParentFile, ref frameRef) bool {
	b := parent.parent.backup
	if !b.stanza.repo.store.Properties().CheapReads {
		return true
	}
	if err := f.back.check(ctx, b.stanza.repo, b.data, ref); err != nil {
		parent.parent.note(fmt.Errorf("content of %s: %w", parent.file.Path, err))
		return false
	}
	return true
}

// intact is readable for content that an interrupted backup has stored.
func (f *Framer) intact(ctx context.Context, found resumed) bool {
	l := found.left
	return !l.repo.store.Properties().CheapReads || f.back.check(ctx, l.repo, l.data, found.ref) == nil
}

// Window is up to PagesPerFrame consecutive pages of a file, ready for
// BackupWriter: zero pages, a frame of the parent, or a new frame.
type Window struct {
	pages  uint32
	raw    int
	zero   bool
	reused bool
	again  bool     // reused of an interrupted backup
	ref    frameRef // reused
	fresh  frame
}

// Reused tells that the content is already in the repository.
func (w Window) Reused() bool { return w.reused }

// Zero makes a window of zero pages: a hole.
func Zero(raw, pageSize int) Window {
	return Window{zero: true, raw: raw, pages: uint32(pageCount(int64(raw), pageSize))}
}

// NewFramer makes a framer for a worker.
func (r *Repository) NewFramer() (*Framer, error) {
	compression := r.o.Compression.forFrames()
	enc, err := codec.NewEncoder(compression.codec, compression.level)
	if err != nil {
		return nil, err
	}
	ids, err := r.hasher()
	if err != nil {
		return nil, err
	}
	seed, err := r.pageSeed()
	return &Framer{enc: enc, compression: compression, ids: ids, seed: seed}, err
}

// compress gives the stored form of raw: in the free room behind out, which it
// returns grown, where that suffices. Content that does not shrink by a
// twentieth is stored as it is.
func (f *Framer) compress(out, raw []byte) (grown, payload []byte, id codec.ID, err error) {
	if f.compression.codec != codec.None {
		room := out[len(out):]
		payload, err = f.enc.Encode(room, raw)
		if err != nil {
			return out, nil, 0, fmt.Errorf("compress: %w", err)
		}
		if len(payload) < len(raw)-len(raw)/20 {
			if cap(room) > 0 && &room[:1][0] == &payload[0] {
				out = out[:len(out)+len(payload)]
			}
			return out, payload, f.compression.codec, nil
		}
	}
	start := len(out)
	out = append(out, raw...)
	return out, out[start:], codec.None, nil
}

// Window frames the pages at window number n of a file. The new frame's bytes
// are appended to out, which is returned grown. parent may be nil.
func (f *Framer) Window(ctx context.Context, out, raw []byte, path string, n int64, pageSize int, parent *ParentFile) ([]byte, Window, error) {
	w := f.lookUp(ctx, f.ids.sum(raw), len(raw), path, n, pageSize, parent)
	if w.reused {
		return out, w, nil
	}
	w.fresh.hashes = hashPages(raw, pageSize, f.seed)
	var err error
	out, w.fresh.payload, w.fresh.codec, err = f.compress(out, raw)
	return out, w, err
}

// lookUp finds a window in the parent, or begins a new frame, which has no payload yet.
func (f *Framer) lookUp(ctx context.Context, id ContentID, length int, path string, n int64, pageSize int, parent *ParentFile) Window {
	w := Window{raw: length, pages: uint32(pageCount(int64(length), pageSize))}
	if parent != nil {
		if ref, old, ok := parent.window(ctx, n); ok && old == id && int(ref.raw) == length && !parent.worn(ref.pack) && f.readable(ctx, parent, ref) {
			w.reused, w.ref = true, ref
			return w
		}
	}
	if found, ok := f.resumption.window(ctx, path, uint32(n*PagesPerFrame), id, length); ok && f.intact(ctx, found) {
		w.reused, w.again, w.ref = true, true, found.ref
		return w
	}
	w.fresh = frame{kind: frameAligned, raw: length, id: id, path: path, page: uint32(n * PagesPerFrame)}
	return w
}

// Small is a small file on its way into a bundle or found in the parent's.
type Small struct {
	reused bool
	again  bool // reused of an interrupted backup
	ref    frameRef
	offset uint32
	member member
}

// Reused tells that the content is already in the repository.
func (s Small) Reused() bool { return s.reused }

// Small looks a small file's content up in the parent. An empty file, like a
// directory or a link, takes no room in the bundle: its Small is the zero value.
func (f *Framer) Small(ctx context.Context, raw []byte, path string, parent *ParentFile) Small {
	return f.lookUpSmall(ctx, f.ids.sum(raw), len(raw), path, parent)
}

func (f *Framer) lookUpSmall(ctx context.Context, id ContentID, length int, path string, parent *ParentFile) Small {
	s := Small{member: member{path: path, length: uint32(length), id: id}}
	if parent != nil {
		ref, offset, old, ok := parent.member(ctx)
		if ok && old == id && parent.file.Size == int64(length) && !parent.worn(ref.pack) && f.readable(ctx, parent, ref) {
			s.reused, s.ref, s.offset = true, ref, offset
			return s
		}
	}
	if length == 0 {
		return s
	}
	if found, ok := f.resumption.member(ctx, path, id, length); ok && f.intact(ctx, found) {
		s.reused, s.again, s.ref, s.offset = true, true, found.ref, found.at
	}
	return s
}

// Bundle compresses raw, the contents of the small files that are not reused,
// one after the other in the order of members, into one frame.
func (f *Framer) Bundle(out, raw []byte, members []Small) ([]byte, Bundle, error) {
	b := newBundle(len(raw), members)
	if len(raw) == 0 {
		return out, b, nil
	}
	if len(raw) > maxFrame {
		return out, b, fmt.Errorf("bundle of %d bytes is over %d", len(raw), maxFrame)
	}
	var err error
	out, b.fresh.payload, b.fresh.codec, err = f.compress(out, raw)
	return out, b, err
}

// Bundle is a frame of small files, ready for BackupWriter.
type Bundle struct {
	fresh frame
}

// newBundle describes the bundle of the members that are not reused; it has no payload yet.
func newBundle(length int, members []Small) Bundle {
	b := Bundle{fresh: frame{kind: frameBundle, raw: length}}
	for _, m := range members {
		if !m.reused && m.member.length > 0 {
			b.fresh.members = append(b.fresh.members, m.member)
		}
	}
	return b
}
