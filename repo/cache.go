package repo

import (
	"context"
	"sync"
)

// mapBlockCache keeps the blocks of maps used last: files are read in the
// order in which their maps were written, by each of the backups that stored
// some of them. A block covers about 1 GiB of large files, or 1700 files of one
// frame, and takes about 350 KiB of memory.
type mapBlockCache struct {
	mu   sync.Mutex
	refs []mapBlockRef
	maps [][]*fileMap
}

const mapBlocksKept = 16

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
