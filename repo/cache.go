package repo

import (
	"context"
	"sync"
)

// mapBlockCache keeps the blocks of maps used last: files are read in the
// order in which their maps were written.
type mapBlockCache struct {
	mu   sync.Mutex
	refs []mapBlockRef
	maps [][]*fileMap
}

const mapBlocksKept = 4

func (c *mapBlockCache) get(ctx context.Context, b *Backup, content contentRef) (*fileMap, error) {
	ref := b.tables.blocks[content.number]
	maps, err := c.block(ctx, b, ref)
	if err != nil {
		return nil, err
	}
	if int(content.index) >= len(maps) {
		return nil, damagedf(ref.key(), "", "block %d has no map %d", ref.block, content.index)
	}
	return maps[content.index], nil
}

func (c *mapBlockCache) block(ctx context.Context, b *Backup, ref mapBlockRef) ([]*fileMap, error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	for i, r := range c.refs {
		if r == ref {
			return c.maps[i], nil
		}
	}
	maps, err := b.stanza.repo.readMapBlock(ctx, ref)
	if err != nil {
		return nil, err
	}
	if len(c.refs) == mapBlocksKept {
		c.refs, c.maps = c.refs[1:], c.maps[1:]
	}
	c.refs, c.maps = append(c.refs, ref), append(c.maps, maps)
	return maps, nil
}

// bundleCache keeps the plain content of the bundles used last: the members of
// a bundle are asked for one after the other, often by several workers at once.
type bundleCache struct {
	backup *Backup
	mu     sync.Mutex
	refs   []frameRef
	kept   []*bundleEntry
}

type bundleEntry struct {
	once  sync.Once
	plain []byte
	err   error
}

const bundlesKept = 16

func (c *bundleCache) init(b *Backup) { c.backup = b }

func (c *bundleCache) entry(ref frameRef) *bundleEntry {
	c.mu.Lock()
	defer c.mu.Unlock()
	for i, r := range c.refs {
		if r == ref {
			return c.kept[i]
		}
	}
	if len(c.refs) == bundlesKept {
		c.refs, c.kept = c.refs[1:], c.kept[1:]
	}
	e := &bundleEntry{}
	c.refs, c.kept = append(c.refs, ref), append(c.kept, e)
	return e
}

func (c *bundleCache) read(ctx context.Context, e Extent, dst []byte) error {
	p := e.parts[0]
	entry := c.entry(p.ref)
	entry.once.Do(func() {
		entry.plain = make([]byte, p.ref.raw)
		whole, rest := part{ref: p.ref, length: p.ref.raw}, entry.plain
		entry.err = c.backup.readParts(ctx, e.path, []part{whole}, &rest)
	})
	if entry.err != nil {
		c.forget(p.ref, entry) // a passing fault must not stick
		return entry.err
	}
	if int64(p.from)+int64(p.length) > int64(len(entry.plain)) {
		return damagedf(p.ref.pack.key(), "", "content of %s leaves its bundle", e.path)
	}
	copy(dst, entry.plain[p.from:])
	return nil
}

func (c *bundleCache) forget(ref frameRef, e *bundleEntry) {
	c.mu.Lock()
	defer c.mu.Unlock()
	for i, r := range c.refs {
		if r == ref && c.kept[i] == e {
			c.refs, c.kept = append(c.refs[:i:i], c.refs[i+1:]...), append(c.kept[:i:i], c.kept[i+1:]...)
			return
		}
	}
}
