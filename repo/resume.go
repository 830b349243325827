package repo

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"slices"
	"sync"
	"time"

	"github.com/oklog/ulid/v2"

	"github.com/pgbak/pgbak/storage"
)

// An interrupted backup leaves its pin and the packs that it has stored. The next
// one of the stanza finds in them what has not changed since, and does not store it
// again. Its own pin names the operations that it resumes, so that a collector
// keeps their packs.

const (
	maxResumed  = 2                  // operations: backups that fail time and again do not make an endless chain
	resumedAge  = 7 * 24 * time.Hour // what is older has little that is still as it was
	maxLookedAt = 8                  // pins that are looked at for packs
)

// Resumption is what interrupted backups have stored and a new one may share.
// A nil Resumption has nothing. Safe for concurrent use.
type Resumption struct {
	parts []*leftover // newest first
}

// Operations names the interrupted operations.
func (r *Resumption) Operations() (names []string) {
	if r == nil {
		return nil
	}
	for _, l := range r.parts {
		names = append(names, l.op.String())
	}
	return names
}

// leftBehind chooses among the pins of other operations those to resume.
func (s *Stanza) leftBehind(ctx context.Context, pins []Pin) (chosen []Pin, parts []*leftover, err error) {
	slices.SortFunc(pins, func(a, b Pin) int { return cmp.Compare(b.Operation, a.Operation) }) // newest first
	oldest := s.repo.o.Clock().Add(-resumedAge)
	for _, p := range pins[:min(len(pins), maxLookedAt)] {
		op, err := ulid.ParseStrict(p.Operation)
		if err != nil || p.Kind != pinBackup || p.Started.Before(oldest) || s.repo.keys != nil && len(p.WrappedKey) == 0 {
			continue
		}
		l, err := s.leftover(ctx, op, p)
		if err != nil {
			return nil, nil, err
		}
		if len(l.packs) == 0 {
			continue
		}
		chosen, parts = append(chosen, p), append(parts, l)
		if len(parts) == maxResumed {
			break
		}
	}
	return chosen, parts, nil
}

// leftover lists the packs of an operation, which are in the order of the walk.
func (s *Stanza) leftover(ctx context.Context, op ulid.ULID, p Pin) (*leftover, error) {
	l := &leftover{repo: s.repo, op: op, wrapped: p.WrappedKey, pageSize: s.Current().BlockSize,
		data: &dataKeys{keys: s.repo.keys, wrapped: map[string][]byte{op.String(): p.WrappedKey}}}
	prefix := packsPrefix(op)
	for obj, err := range s.repo.store.List(ctx, prefix, "") {
		if err != nil {
			return nil, fmt.Errorf("list %s: %w", prefix, err)
		}
		var n uint32
		if _, err := fmt.Sscanf(obj.Key[len(prefix):], "%08x", &n); err == nil && packKey(op, n) == obj.Key {
			l.packs = append(l.packs, packUse{id: packID{op: op, number: n}, size: obj.Size})
		}
	}
	return l, nil
}

// resume looks for interrupted backups among the other operations' pins. It puts
// the pin that names them first and looks for revocations afterwards: a collector
// revokes first and lists pins afterwards, so either it sees that its packs are
// wanted, or we see that they are given up.
func (w *BackupWriter) resume(ctx context.Context) error {
	chosen, parts, err := w.stanza.leftBehind(ctx, w.others)
	if err != nil || len(parts) == 0 {
		return err
	}
	for _, p := range chosen {
		w.pinned.Resumes = append(w.pinned.Resumes, p.Operation)
	}
	if err := putDocument(ctx, w.stanza.repo.store, pinKey(w.op), pinFormat, w.pinned, storage.PutOptions{}); err != nil {
		return fmt.Errorf("pin what is resumed: %w", err)
	}
	r := &Resumption{}
	for i, p := range chosen {
		_, err := w.stanza.repo.store.Stat(ctx, manifestKey(w.stanza.name, p.Label))
		switch {
		case err == nil: // revoked, or it has committed after all and may be expired
			continue
		case !errors.Is(err, storage.ErrNotExist):
			return fmt.Errorf("look whether %s is revoked: %w", p.Label, err)
		}
		r.parts = append(r.parts, parts[i])
	}
	if len(r.parts) > 0 {
		w.resumption = r
	}
	return nil
}

// start makes the parts ready for look-ups, until stop.
func (r *Resumption) start(ctx context.Context) {
	if r == nil {
		return
	}
	for _, l := range r.parts {
		l.footers = newFooterCache(ctx, l.repo, l.packs)
	}
}

func (r *Resumption) stop() {
	if r == nil {
		return
	}
	for _, l := range r.parts {
		l.footers.stop()
	}
}

// size gives the size of a pack.
func (r *Resumption) size(id packID) (int64, bool) {
	l := r.part(id.op)
	if l == nil {
		return 0, false
	}
	n := slices.IndexFunc(l.packs, func(p packUse) bool { return p.id == id })
	if n < 0 {
		return 0, false
	}
	return l.packs[n].size, true
}

// part gives what an operation has left; nil when it is not resumed.
func (r *Resumption) part(op ulid.ULID) *leftover {
	if r == nil {
		return nil
	}
	n := slices.IndexFunc(r.parts, func(l *leftover) bool { return l.op == op })
	if n < 0 {
		return nil
	}
	return r.parts[n]
}

// window finds a window by its content id.
func (r *Resumption) window(ctx context.Context, path string, page uint32, id ContentID, length int) (found resumed, ok bool) {
	return r.find(ctx, position{path, page}, func(p *leftPack) (resumed, bool) {
		n, ok := p.windows[position{path, page}]
		if !ok || p.frames[n].id != id || int(p.frames[n].ref.raw) != length {
			return resumed{}, false
		}
		return resumed{ref: p.frames[n].ref}, true
	})
}

// member finds a small file by its content id.
func (r *Resumption) member(ctx context.Context, path string, id ContentID, length int) (found resumed, ok bool) {
	return r.find(ctx, position{path, 0}, func(p *leftPack) (resumed, bool) {
		m, ok := p.members[path]
		if !ok || m.id != id || int(m.length) != length {
			return resumed{}, false
		}
		return resumed{ref: m.ref, at: m.offset}, true
	})
}

// page finds a changed page by its hash.
func (r *Resumption) page(ctx context.Context, path string, page uint32, hash uint64) (found resumed, ok bool) {
	return r.find(ctx, position{path, page}, func(p *leftPack) (resumed, bool) {
		s, ok := p.pages[position{path, page}]
		if !ok || p.entry.readHashes(ctx, p.left.repo, p.id) != nil {
			return resumed{}, false
		}
		info := p.frames[s.frame]
		if p.entry.hashes[info.firstHash+int(s.slot)] != hash {
			return resumed{}, false
		}
		return resumed{ref: info.ref, at: s.slot}, true
	})
}

func (r *Resumption) find(ctx context.Context, at position, look func(*leftPack) (resumed, bool)) (resumed, bool) {
	if r == nil {
		return resumed{}, false
	}
	for _, l := range r.parts {
		for _, p := range l.around(ctx, at) {
			if found, ok := look(p); ok {
				found.left = l
				return found, true
			}
		}
	}
	return resumed{}, false
}

// resumed is content that an interrupted backup has stored.
type resumed struct {
	left *leftover
	ref  frameRef
	at   uint32 // offset of a member, slot of a page
}

// leftover is what one interrupted operation has stored. Look-ups come about in the
// order in which it was stored, so only the packs around the newest are kept.
type leftover struct {
	repo     *Repository
	op       ulid.ULID
	wrapped  []byte
	pageSize int
	packs    []packUse
	data     *dataKeys
	footers  *footerCache

	mu     sync.Mutex
	next   int         // pack to be looked at next
	loaded []*leftPack // newest last
}

// packsAround is how many packs are kept: workers are within some tens of
// megabytes of each other.
const packsAround = 6

// around gives the packs in which content of a place may be.
func (l *leftover) around(ctx context.Context, at position) []*leftPack {
	l.mu.Lock()
	defer l.mu.Unlock()
	for l.next < len(l.packs) && (len(l.loaded) == 0 || l.loaded[len(l.loaded)-1].end.before(at)) {
		id := l.packs[l.next].id
		e, err := l.footers.get(ctx, id)
		if ctx.Err() != nil {
			return nil
		}
		l.next++
		if err != nil || e.footer.pageSize != l.pageSize {
			continue // not whole, or lost: what it held is stored again
		}
		l.loaded = append(l.loaded, newLeftPack(l, id, e))
		if len(l.loaded) > packsAround {
			l.loaded = slices.Delete(l.loaded, 0, 1)
		}
	}
	return slices.Clone(l.loaded)
}

// position is a place in the order of the walk.
type position struct {
	path string
	page uint32
}

func (p position) before(o position) bool {
	if c := ComparePaths(p.path, o.path); c != 0 {
		return c < 0
	}
	return p.page < o.page
}

// leftPack is the footer of a pack, by content.
type leftPack struct {
	left    *leftover
	id      packID
	entry   *footerEntry
	frames  []frameInfo
	end     position // of the content that comes last
	windows map[position]int
	members map[string]leftMember
	pages   map[position]leftPage
}

type leftMember struct {
	member
	ref    frameRef
	offset uint32
}

type leftPage struct {
	frame int
	slot  uint32
}

func newLeftPack(l *leftover, id packID, e *footerEntry) *leftPack {
	p := &leftPack{left: l, id: id, entry: e, frames: e.footer.frames, windows: map[position]int{}, members: map[string]leftMember{}, pages: map[position]leftPage{}}
	reach := func(at position) {
		if p.end.before(at) {
			p.end = at
		}
	}
	for n, f := range p.frames {
		switch f.kind {
		case frameAligned:
			p.windows[position{f.path, f.page}] = n
			reach(position{f.path, f.page})
		case frameDelta:
			for slot, page := range f.pages {
				p.pages[position{f.path, page}] = leftPage{frame: n, slot: uint32(slot)}
				reach(position{f.path, page})
			}
		case frameBundle:
			offset := uint32(0)
			for _, m := range f.members {
				p.members[m.path] = leftMember{member: m, ref: f.ref, offset: offset}
				offset += m.length
				reach(position{m.path, 0})
			}
		}
	}
	return p
}
