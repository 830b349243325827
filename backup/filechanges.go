package backup

import (
	"slices"
	"sync"

	"github.com/pgbak/pgbak/internal/postgres"
	"github.com/pgbak/pgbak/repo"
)

// The rules by which a WAL table decides about a file are those of PostgreSQL
// (GetFileBackupMethod in backend/backup/basebackup_incremental.c), with two
// additions. Forks other than the main one are always read: WAL does not
// register every change of a visibility map (or any of a free space map). And
// what is read as a whole is still compared with the parent.

// suspects are the pages of a file that may differ from those of any of the
// parents, one set for each window. ok is false where the table cannot tell:
// then all of the file has to be read.
func (c *copier) suspects(path string, size int64, parents []*repo.ParentFile) (sets []repo.PageSet, ok bool) {
	rel, relation := postgres.ParseRelationPath(path)
	if c.changes.table == nil || !relation || rel.Temporary || rel.Fork != postgres.MainFork || size%int64(c.pageSize) != 0 {
		return nil, false
	}
	pages := size / int64(c.pageSize)
	first := int64(rel.Segment) * int64(c.control.SegmentBlocks)
	if pages > int64(c.control.SegmentBlocks) || first+pages > postgres.NoLimit {
		return nil, false
	}
	from := pages // from here on everything is new
	for _, p := range parents {
		if p == nil || p.File().PageErrors {
			return nil, false // damaged pages are looked at again: they may have been repaired, of which WAL says nothing
		}
		from = min(from, p.File().Size/int64(c.pageSize))
	}
	fork := rel.ForkID()
	database := postgres.RelationForkID{Tablespace: fork.Tablespace, Database: fork.Database}
	if _, copied := c.changes.table.Limit(database); copied {
		return nil, false // the database was created by copying files, or dropped
	}
	limit, _ := c.changes.table.Limit(fork)
	if int64(limit) <= first {
		return nil, false // the segment was made anew
	}
	from = min(from, int64(limit)-first)
	return c.pageSets(fork, first, from, pages), true
}

// pageSets are the marked pages below from, and all from there on.
func (c *copier) pageSets(fork postgres.RelationForkID, first, from, pages int64) []repo.PageSet {
	sets := make([]repo.PageSet, (pages+repo.PagesPerFrame-1)/repo.PagesPerFrame)
	mark := func(page int64) { sets[page/repo.PagesPerFrame] |= 1 << (page % repo.PagesPerFrame) }
	for block := range c.changes.table.Blocks(fork, uint32(first), uint32(first+from)) {
		mark(int64(block) - first)
	}
	for page := from; page < pages; page++ {
		mark(page)
	}
	return sets
}

// unchanged tells that a file of which no page is suspected can be taken from
// the parents unread.
func unchanged(sets []repo.PageSet, size int64, parents []*repo.ParentFile) bool {
	for _, p := range parents {
		if p == nil || p.File().Size != size || !p.Settled() {
			return false
		}
	}
	return !slices.ContainsFunc(sets, func(s repo.PageSet) bool { return s != 0 })
}

// live leaves out the elements of repositories that have failed.
func (c *copier) live(parents []*repo.ParentFile) []*repo.ParentFile {
	if len(parents) == 1 {
		return parents
	}
	var all []*repo.ParentFile
	for i, d := range c.to.all {
		if !d.failed.Load() {
			all = append(all, parents[i])
		}
	}
	return all
}

// wayUses counts what each way was used for; safe for concurrent use.
type wayUses struct {
	mu  sync.Mutex
	all []repo.WayUse
}

func (u *wayUses) add(way string, files, bytes, read int64) {
	u.mu.Lock()
	defer u.mu.Unlock()
	n := slices.IndexFunc(u.all, func(w repo.WayUse) bool { return w.Way == way })
	if n < 0 {
		n = len(u.all)
		u.all = append(u.all, repo.WayUse{Way: way})
	}
	w := &u.all[n]
	w.Files, w.Bytes, w.Read = w.Files+files, w.Bytes+bytes, w.Read+read
}

// list gives the uses, the best way first.
func (u *wayUses) list() []repo.WayUse {
	order := []string{WayServerSummaries, WayArchiveSummaries, WayPageHashes, WayFull}
	slices.SortFunc(u.all, func(a, b repo.WayUse) int { return slices.Index(order, a.Way) - slices.Index(order, b.Way) })
	return u.all
}
