package repo

import (
	"context"
	"iter"
	"slices"
	"sync"
)

// Parent is an earlier backup whose frames a new one may share: pinned by the
// new one's operation. Find is for one goroutine; what it returns is for many.
type Parent struct {
	backup  *Backup
	footers *footerCache
	next    func() (File, error, bool)
	stop    func()
	current File
	valid   bool
	maps    mapBlockCache
	// Err is the first fault met while reading the parent: the backup goes on
	// without it and stores the content again.
	mu  sync.Mutex
	err error
}

func newParent(ctx context.Context, b *Backup) *Parent {
	p := &Parent{backup: b, footers: newFooterCache(b.stanza.repo)}
	p.next, p.stop = iter.Pull2(b.Files(ctx))
	p.advance()
	return p
}

// Label is the parent's label.
func (p *Parent) Label() Label { return p.backup.header.Label }

// Err tells what of the parent could not be read, if anything.
func (p *Parent) Err() error {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.err
}

func (p *Parent) note(err error) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.err == nil {
		p.err = err
	}
}

func (p *Parent) advance() {
	f, err, ok := p.next()
	if ok && err != nil {
		p.note(err)
		ok = false
	}
	p.current, p.valid = f, ok
}

// Find gives the parent's file of that path, nil when it has none. Paths must
// be asked for in the order of ComparePaths.
func (p *Parent) Find(ctx context.Context, path string) *ParentFile {
	if p == nil {
		return nil
	}
	for p.valid && ComparePaths(p.current.Path, path) < 0 {
		p.advance()
	}
	if !p.valid || p.current.Path != path || p.current.Type != TypeFile {
		return nil
	}
	f := &ParentFile{parent: p, file: p.current}
	if f.file.content.kind == contentMap {
		m, err := p.maps.get(ctx, p.backup, f.file.content)
		if err != nil {
			p.note(err)
			return nil
		}
		f.fileMap = m
	}
	return f
}

// ParentFile is one file of the parent. Safe for concurrent use.
type ParentFile struct {
	parent  *Parent
	file    File
	fileMap *fileMap
}

// frame gives what the footer tells of a frame of the parent.
func (f *ParentFile) frame(ctx context.Context, ref frameRef) (frameInfo, bool) {
	footer, err := f.parent.footers.get(ctx, ref.pack)
	if err != nil {
		f.parent.note(err)
		return frameInfo{}, false
	}
	if int(ref.ordinal) >= len(footer.frames) || footer.frames[ref.ordinal].ref != ref {
		return frameInfo{}, false
	}
	return footer.frames[ref.ordinal], true
}

func (f *ParentFile) window(ctx context.Context, n int64) (frameRef, ContentID, bool) {
	if f.fileMap == nil {
		return frameRef{}, ContentID{}, false
	}
	ref, ok := f.fileMap.alignedFrame(n)
	if !ok {
		return frameRef{}, ContentID{}, false
	}
	info, ok := f.frame(ctx, ref)
	return ref, info.id, ok && info.kind == frameAligned
}

func (f *ParentFile) member(ctx context.Context) (frameRef, uint32, ContentID, bool) {
	c := f.file.content
	if c.kind != contentBundle {
		return frameRef{}, 0, ContentID{}, false
	}
	ref := f.parent.backup.tables.bundles[c.number]
	info, ok := f.frame(ctx, ref)
	if !ok || info.kind != frameBundle {
		return frameRef{}, 0, ContentID{}, false
	}
	offset := uint32(0)
	for _, m := range info.members {
		if offset == c.index && int64(m.length) == f.file.Size {
			return ref, offset, m.id, true
		}
		offset += m.length
	}
	return frameRef{}, 0, ContentID{}, false
}

// footerCache keeps the footers used last. Backups are walked in the order in
// which they were written, so a few are enough.
type footerCache struct {
	repo *Repository
	mu   sync.Mutex
	byID map[packID]*footerEntry
	used []packID // oldest first
}

type footerEntry struct {
	once   sync.Once
	footer *footer
	err    error
}

const footersKept = 24

func newFooterCache(r *Repository) *footerCache {
	return &footerCache{repo: r, byID: map[packID]*footerEntry{}}
}

func (c *footerCache) get(ctx context.Context, id packID) (*footer, error) {
	c.mu.Lock()
	e, ok := c.byID[id]
	if !ok {
		e = &footerEntry{}
		c.byID[id] = e
		c.used = append(c.used, id)
		if len(c.used) > footersKept {
			delete(c.byID, c.used[0])
			c.used = c.used[1:]
		}
	} else if n := slices.Index(c.used, id); n >= 0 && n < len(c.used)-footersKept/2 {
		c.used = append(slices.Delete(c.used, n, n+1), id)
	}
	c.mu.Unlock()
	e.once.Do(func() { e.footer, e.err = c.repo.readFooter(ctx, id) })
	return e.footer, e.err
}
