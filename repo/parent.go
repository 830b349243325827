package repo

import (
	"context"
	"iter"
	"math"
	"sync"

	"golang.org/x/sync/errgroup"
)

// Parent is an earlier backup whose frames a new one may share: pinned by the
// new one's operation. Find is for one goroutine; what it returns is for many.
type Parent struct {
	backup  *Backup
	worn    map[packID]*wornPack // packs whose frames are stored again rather than shared
	footers *footerCache
	next    func() (File, error, bool)
	endList func()
	current File
	valid   bool
	maps    mapBlockCache
	index   *entryRun // set where paths are asked for in any order
	// Err is the first fault met while reading the parent: the backup goes on
	// without it and stores the content again.
	mu  sync.Mutex
	err error
}

func newParent(ctx context.Context, b *Backup, anyOrder bool) *Parent {
	p := &Parent{backup: b, footers: newFooterCache(ctx, b.stanza.repo, b.tables.packs)}
	p.next, p.endList = iter.Pull2(b.Files(ctx))
	p.advance()
	if anyOrder {
		p.indexFiles()
	}
	return p
}

// stop ends what is under way for the parent, and waits for it.
func (p *Parent) stop() {
	p.endList()
	p.footers.stop()
	if p.index != nil {
		_ = p.index.spool.Close() // a temporary file
	}
}

// Label is the parent's label.
func (p *Parent) Label() Label { return p.backup.header.Label }

// Header is what the parent is.
func (p *Parent) Header() BackupHeader { return p.backup.header }

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
// be asked for in the order of ComparePaths, unless the writer is for any order.
func (p *Parent) Find(ctx context.Context, path string) *ParentFile {
	if p == nil {
		return nil
	}
	file, ok := p.entry(path)
	if !ok || file.Type != TypeFile {
		return nil
	}
	f := &ParentFile{parent: p, file: file}
	if f.file.content.kind == contentMap {
		m, err := p.maps.get(ctx, p.backup, f.file.content)
		if err != nil {
			p.note(err)
			return nil
		}
		f.fileMap = m
		f.rebase = m.scatter() > rebaseAt(f.file.Path)
	}
	f.findWorn(ctx)
	f.settled = !f.rebase && len(f.wornPacks) == 0
	return f
}

// ParentFile is one file of the parent. Safe for concurrent use.
type ParentFile struct {
	parent  *Parent
	file    File
	fileMap *fileMap
	rebase  bool // its pages are scattered over so many frames that it is to be stored anew
	settled bool

	wornPacks []packID // few: those of the file's content that is not to be shared
}

// Settled tells that nothing of the file is to be stored again if it has not
// changed, so that it may be kept without being read. A file that is not
// settled is to be handed to a Stretch, window by window, whatever has changed,
// or to Small; keeping it is no fault, but lets the repository age.
func (f *ParentFile) Settled() bool { return f.settled }

// File is what the parent's manifest says of the file.
func (f *ParentFile) File() File { return f.file }

// Mapped tells that the file's pages can be kept one by one.
func (f *ParentFile) Mapped() bool { return f != nil && f.fileMap != nil }

// frame gives what the footer tells of a frame of the parent.
func (f *ParentFile) frame(ctx context.Context, ref frameRef) (frameInfo, bool) {
	e, err := f.parent.footers.get(ctx, ref.pack)
	if err != nil {
		f.parent.note(err)
		return frameInfo{}, false
	}
	footer := e.footer
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
// which they were written, so a few are enough. On a store whose reads are not
// cheap it reads ahead: when a pack is first asked for, those that follow it in
// the parent's table, which is in the order of first use.
type footerCache struct {
	repo  *Repository
	mu    sync.Mutex
	byID  map[packID]*footerEntry
	asks  int64 // counts up
	bytes int   // of the footers kept

	ctx    context.Context // of reading ahead
	cancel context.CancelFunc
	ahead  errgroup.Group
	order  []packUse
	place  map[packID]int // in order; nil when nothing is read ahead
}

type footerEntry struct {
	done   chan struct{} // closed when it was read
	asked  bool
	last   int64 // when it was asked for last, in asks
	cost   int   // bytes, about
	footer *footer
	err    error

	hashing sync.Mutex // guards what follows
	hashes  []uint64   // of its pages, once asked for
	hashErr error
}

// A file that was changed in each of many backups has its pages in as many
// packs, all of which are asked for by turns: they must fit.
const (
	footersKept  = 64       // however large: below 1 MiB each with page hashes, most of them far below
	footersBytes = 32 << 20 // or as many as fit here
	footersAhead = 8        // also how many are read at once; well below footersKept, or they would displace one another
)

// newFooterCache makes a cache for packs that are asked for in about this order.
func newFooterCache(ctx context.Context, r *Repository, packs []packUse) *footerCache {
	c := &footerCache{repo: r, byID: map[packID]*footerEntry{}}
	c.ctx, c.cancel = context.WithCancel(ctx)
	c.ahead.SetLimit(footersAhead)
	if c.repo.store.Properties().CheapReads {
		return c
	}
	c.order, c.place = packs, make(map[packID]int, len(packs))
	for i, p := range c.order {
		c.place[p.id] = i
	}
	return c
}

// stop ends reading ahead.
func (c *footerCache) stop() {
	c.mu.Lock()
	c.place = nil
	c.mu.Unlock()
	c.cancel()
	_ = c.ahead.Wait()
}

func (c *footerCache) get(ctx context.Context, id packID) (*footerEntry, error) {
	c.mu.Lock()
	e, ok := c.byID[id]
	if !ok {
		e = &footerEntry{done: make(chan struct{})}
		c.keep(id, e)
	}
	c.asks++
	e.last = c.asks
	if !e.asked {
		e.asked = true
		c.readAhead(id)
	}
	c.mu.Unlock()
	if !ok {
		c.readFor(ctx, id, e)
	}
	select {
	case <-e.done:
		return e, e.err
	case <-ctx.Done():
		return nil, context.Cause(ctx)
	}
}

func (c *footerCache) keep(id packID, e *footerEntry) {
	c.asks++
	e.last = c.asks
	c.byID[id] = e
	c.trim()
}

// trim gives up the footers that were not asked for longest.
func (c *footerCache) trim() {
	for len(c.byID) > footersKept && c.bytes > footersBytes {
		var oldest packID
		first := int64(math.MaxInt64)
		for id, e := range c.byID {
			if e.last < first {
				oldest, first = id, e.last
			}
		}
		c.bytes -= c.byID[oldest].cost
		delete(c.byID, oldest)
	}
}

// readAhead begins to read the footers behind that of id. What fails is told to
// who asks for it, if anybody does.
func (c *footerCache) readAhead(id packID) {
	at, ok := c.place[id]
	if !ok {
		return
	}
	for _, p := range c.order[at+1 : min(at+1+footersAhead, len(c.order))] {
		if _, ok := c.byID[p.id]; ok {
			continue
		}
		e := &footerEntry{done: make(chan struct{})}
		if !c.ahead.TryGo(func() error {
			c.read(c.ctx, p.id, e)
			return nil
		}) {
			return // enough are on their way
		}
		c.keep(p.id, e)
	}
}

// readFor is read for who asks. It ends with the writer, too: workers serve
// other repositories, which must not wait for one that has failed.
func (c *footerCache) readFor(ctx context.Context, id packID, e *footerEntry) {
	ctx, cancel := context.WithCancelCause(ctx)
	defer cancel(nil)
	defer context.AfterFunc(c.ctx, func() { cancel(context.Cause(c.ctx)) })()
	c.read(ctx, id, e)
}

// read is for who has made the entry.
func (c *footerCache) read(ctx context.Context, id packID, e *footerEntry) {
	e.footer, e.err = c.repo.readFooter(ctx, id)
	close(e.done)
	if e.err != nil {
		return
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.byID[id] == e {
		e.cost = e.footer.cost()
		c.bytes += e.cost
		c.trim()
	}
}
