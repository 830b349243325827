package repo

import (
	"cmp"
	"container/heap"
	"fmt"
	"slices"

	"github.com/pgbak/pgbak/storage"
)

// A server that sends its files over the network does not send them in the order
// of ComparePaths, in which a manifest lists them. So the entries of such a
// backup are sorted: runs that fit into memory first, then all runs together.
// And its parent's entries, which are in order, are kept where each can be found.

const (
	// sortedAtOnce bounds the entries that are in memory, at about 300 bytes each.
	sortedAtOnce = 32 << 10
	// runBlock is how many entries of a run are read together: about 5 KiB.
	runBlock = 128
	// indexBlock is that where single entries are looked up: all of a block is
	// decoded for each. What stays in memory is some 5 bytes for each entry.
	indexBlock = 16
)

// ownerTable numbers the owners of files in the order in which they are met.
type ownerTable struct {
	owners []string
	number map[string]int
}

func (o *ownerTable) owner(f File) int {
	owner := f.Owner + ":" + f.Group
	n, ok := o.number[owner]
	if !ok {
		if o.number == nil {
			o.number = map[string]int{}
		}
		n = len(o.owners)
		o.number[owner] = n
		o.owners = append(o.owners, owner)
	}
	return n
}

// entryRun holds entries in the order of ComparePaths, in a temporary file. Only
// the first path of every block is in memory.
type entryRun struct {
	owners *ownerTable
	most   int // entries of a block
	spool  *storage.Spool
	blocks []runPlace
	w      wireWriter
	prev   string
	count  int // entries in w
	first  string
}

// runPlace is where a block of a run is.
type runPlace struct {
	first  string
	offset int64
	length int
}

func newEntryRun(owners *ownerTable, most int) *entryRun {
	return &entryRun{owners: owners, most: most, spool: storage.NewSpool(0, "")}
}

// add appends an entry, whose path comes after all before it.
func (r *entryRun) add(f File) error {
	if r.count == 0 {
		r.first, r.prev = f.Path, ""
	}
	encodeFile(&r.w, r.prev, f, r.owners.owner(f))
	r.prev = f.Path
	if r.count++; r.count == r.most {
		return r.flush()
	}
	return nil
}

// flush ends a block. It must be called before entries are read.
func (r *entryRun) flush() error {
	if r.count == 0 {
		return nil
	}
	r.blocks = append(r.blocks, runPlace{first: r.first, offset: r.spool.Size(), length: len(r.w.b)})
	_, err := r.spool.Write(r.w.b)
	r.w.b, r.count = r.w.b[:0], 0
	return err
}

// block reads the entries of one block into into.
func (r *entryRun) block(n int, into []File) ([]File, error) {
	place := r.blocks[n]
	plain := make([]byte, place.length)
	if _, err := r.spool.ReadAt(plain, place.offset); err != nil {
		return nil, fmt.Errorf("read sorted entries: %w", err)
	}
	into = into[:0]
	in, prev := &wireReader{b: plain}, ""
	for len(in.b) > 0 {
		f := decodeFile(in, prev, r.owners.owners)
		if in.err != nil {
			return nil, fmt.Errorf("read sorted entries: %w", in.err)
		}
		into, prev = append(into, f), f.Path
	}
	return into, nil
}

// find gives the entry of a path, if there is one.
func (r *entryRun) find(path string) (File, bool, error) {
	n, found := slices.BinarySearchFunc(r.blocks, path, func(p runPlace, path string) int { return ComparePaths(p.first, path) })
	if !found {
		n-- // the last block that begins before path
	}
	if n < 0 {
		return File{}, false, nil
	}
	files, err := r.block(n, nil)
	if err != nil {
		return File{}, false, err
	}
	i, found := slices.BinarySearchFunc(files, path, func(f File, path string) int { return ComparePaths(f.Path, path) })
	if !found {
		return File{}, false, nil
	}
	return files[i], true, nil
}

// entrySorter takes entries in any order and gives them in that of ComparePaths.
type entrySorter struct {
	owners *ownerTable
	buffer []File
	limit  int // of buffer
	runs   []*entryRun
}

func newEntrySorter(owners *ownerTable) *entrySorter {
	return &entrySorter{owners: owners, limit: sortedAtOnce}
}

func (s *entrySorter) add(f File) error {
	s.owners.owner(f) // its number is wanted before the entries are
	s.buffer = append(s.buffer, f)
	if len(s.buffer) < s.limit {
		return nil
	}
	return s.sort()
}

// sort makes a run of what is in memory.
func (s *entrySorter) sort() error {
	if len(s.buffer) == 0 {
		return nil
	}
	slices.SortStableFunc(s.buffer, func(a, b File) int { return ComparePaths(a.Path, b.Path) })
	r := newEntryRun(s.owners, runBlock)
	s.runs = append(s.runs, r)
	for i, f := range s.buffer {
		if i+1 < len(s.buffer) && s.buffer[i+1].Path == f.Path {
			continue
		}
		if err := r.add(f); err != nil {
			return err
		}
	}
	clear(s.buffer)
	s.buffer = s.buffer[:0]
	return r.flush()
}

// all gives all entries in order. Of several with the same path, as a directory
// that changes while it is listed can give, only the last that was added.
func (s *entrySorter) all(yield func(File) error) error {
	if err := s.sort(); err != nil {
		return err
	}
	var cursors runCursors
	for n, r := range s.runs {
		c := &runCursor{run: r, age: len(s.runs) - n}
		if err := c.advance(); err != nil {
			return err
		}
		cursors = append(cursors, c)
	}
	heap.Init(&cursors)
	last := ""
	for len(cursors) > 0 {
		c := cursors[0]
		if f := c.files[c.at]; f.Path != last {
			last = f.Path
			if err := yield(f); err != nil {
				return err
			}
		}
		if err := c.advance(); err != nil {
			return err
		}
		if c.at < len(c.files) {
			heap.Fix(&cursors, 0)
		} else {
			heap.Pop(&cursors)
		}
	}
	return nil
}

func (s *entrySorter) close() {
	for _, r := range s.runs {
		_ = r.spool.Close() // a temporary file
	}
}

// runCursor goes through a run.
type runCursor struct {
	run   *entryRun
	age   int // smaller for later runs
	next  int // block
	files []File
	at    int
}

// advance goes to the next entry; at the end there is none.
func (c *runCursor) advance() (err error) {
	if c.at++; c.at < len(c.files) || c.next == len(c.run.blocks) {
		return nil
	}
	c.files, err = c.run.block(c.next, c.files)
	c.next, c.at = c.next+1, 0
	return err
}

// runCursors are a heap: the first has the first entry.
type runCursors []*runCursor

func (c runCursors) Len() int { return len(c) }
func (c runCursors) Less(i, j int) bool {
	a, b := c[i], c[j]
	return cmp.Or(ComparePaths(a.files[a.at].Path, b.files[b.at].Path), cmp.Compare(a.age, b.age)) < 0
}
func (c runCursors) Swap(i, j int) { c[i], c[j] = c[j], c[i] }
func (c *runCursors) Push(x any)   { *c = append(*c, x.(*runCursor)) }
func (c *runCursors) Pop() any {
	last := len(*c) - 1
	x := (*c)[last]
	*c = (*c)[:last]
	return x
}
