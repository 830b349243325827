package main

import (
	"bytes"
	"context"
	"fmt"
	"slices"
	"sync/atomic"
	"time"

	"github.com/pgbak/pgbak/internal/crc32c"
	"github.com/pgbak/pgbak/repo"
	"github.com/pgbak/pgbak/storage/mem"
	"github.com/pgbak/pgbak/storage/metrics"
)

// taken is a backup that is kept.
type taken struct {
	label    repo.Label
	day      int
	versions [][]uint32
	objects  []repo.ObjectUse
	frames   map[repo.FrameUse]bool
}

// page names a version of a page.
type page struct {
	file, number int
	version      uint32
}

// store is the simulated repository and what is counted of it.
type store struct {
	metrics *metrics.Store
	stanza  *repo.Stanza
	packs   int // size, bytes
	kept    []taken
	objects map[string]int // how many kept backups need it
	frames  map[repo.FrameUse]int
	pages   map[page]int
}

func newStore(ctx context.Context, packs int) (*store, error) {
	s := &store{packs: packs, objects: map[string]int{}, frames: map[repo.FrameUse]int{}, pages: map[page]int{}}
	var ticks atomic.Int64 // the repository asks from several goroutines
	clock := func() time.Time { return time.Date(2026, 1, 1, 0, 0, int(ticks.Add(1)), 0, time.UTC) }
	s.metrics = metrics.New(mem.New(), clock)
	compression, err := repo.ParseCompression("s2")
	if err != nil {
		return nil, err
	}
	r, err := repo.Create(ctx, s.metrics, repo.Options{Clock: clock, Compression: compression})
	if err != nil {
		return nil, err
	}
	s.stanza, err = r.CreateStanza(ctx, "main", repo.Identity{SystemID: 1, Major: 18, SegmentSize: 16 << 20, BlockSize: pageSize})
	return s, err
}

// backup stores the cluster as the backup of a type and tells what was put, in bytes.
func (s *store) backup(ctx context.Context, c *cluster, typ repo.BackupType, day int) (added int64, err error) {
	w, err := s.stanza.BeginBackup(ctx, s.stanza.Current(), repo.BeginOptions{Type: typ, PageSize: pageSize, Uploads: 1, PackSize: s.packs})
	if err != nil {
		return 0, err
	}
	framers, err := repo.NewFramers(s.stanza.Repository())
	if err != nil {
		return 0, err
	}
	t := taken{day: day, frames: map[repo.FrameUse]bool{}}
	b := writer{ctx: ctx, w: w, framers: framers, cluster: c, raw: make([]byte, windowBytes), old: s.versions(w.Parent())}
	for f := range c.files {
		if w.Type() == repo.Full {
			err = b.full(f)
		} else {
			err = b.changed(f)
		}
		if err != nil {
			w.Abort()
			return 0, err
		}
		t.versions = append(t.versions, slices.Clone(c.files[f]))
	}
	h, err := w.Commit(repo.BackupHeader{Timeline: 1})
	if err != nil {
		return 0, err
	}
	t.label = h.Label
	return h.AddedSize, s.keep(ctx, t)
}

func (s *store) versions(p *repo.Parent) [][]uint32 {
	if p == nil {
		return nil
	}
	for _, t := range s.kept {
		if t.label == p.Label() {
			return t.versions
		}
	}
	return nil
}

// keep counts what a new backup needs.
func (s *store) keep(ctx context.Context, t taken) error {
	b, err := s.stanza.OpenBackup(ctx, t.label)
	if err != nil {
		return err
	}
	t.objects = slices.Collect(b.Objects())
	for f, err := range b.Files(ctx) {
		if err != nil {
			return err
		}
		extents, err := b.Extents(ctx, f, 1<<20)
		if err != nil {
			return err
		}
		for _, e := range extents {
			for u := range e.Frames() {
				t.frames[u] = true
			}
		}
	}
	s.count(t, 1)
	s.kept = append(s.kept, t)
	return nil
}

func (s *store) count(t taken, n int) {
	for _, o := range t.objects {
		s.objects[o.Key] += n
	}
	for u := range t.frames {
		if s.frames[u] += n; s.frames[u] == 0 {
			delete(s.frames, u)
		}
	}
	for f, versions := range t.versions {
		for i, v := range versions {
			p := page{f, i, v}
			if s.pages[p] += n; s.pages[p] == 0 {
				delete(s.pages, p)
			}
		}
	}
}

// expire removes the backups of days before a day, and then the packs and maps
// of them that no other backup needs.
func (s *store) expire(ctx context.Context, before int) error {
	for len(s.kept) > 1 && s.kept[0].day < before {
		t := s.kept[0]
		s.kept = s.kept[1:]
		s.count(t, -1)
		gone := []string{"backups/main/" + string(t.label)}
		for _, o := range t.objects {
			if s.objects[o.Key] == 0 {
				gone = append(gone, o.Key)
				delete(s.objects, o.Key)
			}
		}
		if err := s.stanza.Repository().Store().Delete(ctx, gone...); err != nil {
			return err
		}
	}
	return nil
}

// sizes gives the bytes of all objects, and those of the frames that kept backups use.
func (s *store) sizes(ctx context.Context) (stored, used int64, err error) {
	for o, err := range s.stanza.Repository().Store().List(ctx, "", "") {
		if err != nil {
			return 0, 0, err
		}
		stored += o.Size
	}
	for u := range s.frames {
		used += u.Stored
	}
	return stored, used, nil
}

// restore reads the newest backup as a restore does, compares it with the
// cluster, and tells how many bytes were read from the store. Batches of a far
// store are larger than those of one whose reads are cheap.
func (s *store) restore(ctx context.Context, c *cluster, batch int64) (int64, error) {
	b, err := s.stanza.OpenBackup(ctx, s.kept[len(s.kept)-1].label)
	if err != nil {
		return 0, err
	}
	before := s.metrics.Snapshot().Get.Bytes
	n := 0
	for f, err := range b.Files(ctx) {
		if err != nil {
			return 0, err
		}
		extents, err := b.Extents(ctx, f, 1<<20)
		if err != nil {
			return 0, err
		}
		if err := readFile(ctx, b, extents, batch, c.files[n]); err != nil {
			return 0, fmt.Errorf("%s: %w", f.Path, err)
		}
		n++
	}
	return s.metrics.Snapshot().Get.Bytes - before, nil
}

func readFile(ctx context.Context, b *repo.Backup, extents []repo.Extent, batch int64, versions []uint32) error {
	got, want := make([]byte, 2<<20), make([]byte, pageSize)
	at := 0
	for len(extents) > 0 {
		n, length := 0, int64(0)
		for n < len(extents) && (n == 0 || length+extents[n].Length <= batch) {
			length += extents[n].Length
			n++
		}
		fetched, err := b.Fetch(ctx, extents[:n])
		if err != nil {
			return err
		}
		for i, e := range extents[:fetched.Len()] {
			dst := got[:e.Length]
			if err := fetched.Read(i, dst); err != nil {
				return err
			}
			for ; len(dst) > 0; dst = dst[pageSize:] {
				fill(want, versions[at])
				if !bytes.Equal(dst[:pageSize], want) {
					return fmt.Errorf("page %d differs", at)
				}
				at++
			}
		}
		extents = extents[fetched.Len():]
		fetched.Release()
	}
	if at != len(versions) {
		return fmt.Errorf("%d pages, want %d", at, len(versions))
	}
	return nil
}

const windowBytes = repo.PagesPerFrame * pageSize

// writer drives a BackupWriter as package backup does.
type writer struct {
	ctx     context.Context
	w       *repo.BackupWriter
	framers *repo.Framers
	cluster *cluster
	old     [][]uint32 // versions of the parent's pages
	raw     []byte
	out     []byte
}

// window gives the content of some pages.
func (b *writer) window(versions []uint32, n int) []byte {
	versions = versions[n*repo.PagesPerFrame:]
	versions = versions[:min(repo.PagesPerFrame, len(versions))]
	for i, v := range versions {
		fill(b.raw[i*pageSize:][:pageSize], v)
	}
	return b.raw[:len(versions)*pageSize]
}

func (b *writer) entry(f int) repo.File {
	return repo.File{Path: b.cluster.path(f), Type: repo.TypeFile, Mode: 0o600, Size: int64(len(b.cluster.files[f])) * pageSize, Owner: "postgres", Group: "postgres"}
}

// full stores a file of a full backup.
func (b *writer) full(f int) error {
	versions := b.cluster.files[f]
	parents := []*repo.ParentFile{b.w.Parent().Find(b.ctx, b.cluster.path(f))}
	file := b.w.BeginFile()
	for n := 0; n*repo.PagesPerFrame < len(versions); n++ {
		raw := b.window(versions, n)
		var windows []repo.Window
		var err error
		b.out, windows, err = b.framers.Window(b.ctx, b.out[:0], raw, b.cluster.path(f), int64(n), pageSize, parents)
		if err == nil {
			err = file.Add(windows[:1], crc32c.Update(0, raw))
		}
		if err != nil {
			return err
		}
	}
	return file.End(b.entry(f), parents[0])
}

// stretch is how many windows are handed on together.
const stretch = 32

// changed stores a file of which it is known which pages have changed.
func (b *writer) changed(f int) error {
	path, versions := b.cluster.path(f), b.cluster.files[f]
	parents := []*repo.ParentFile{b.w.Parent().Find(b.ctx, path)}
	file := b.w.PatchFile(parents[0])
	for from := 0; from*repo.PagesPerFrame < len(versions); from += stretch {
		st := b.framers.Stretch(b.out[:0], path, pageSize, parents)
		for n := from; n < from+stretch && n*repo.PagesPerFrame < len(versions); n++ {
			set := b.differing(f, n)
			whole := repo.WholeWindow(parents, int64(n), set)
			if !whole && set == 0 {
				continue
			}
			if err := st.Window(b.ctx, int64(n), b.window(versions, n), set, whole, false); err != nil {
				return err
			}
		}
		out, patches, err := st.End()
		if err == nil {
			b.out, err = out, file.Patch(patches[0])
		}
		if err != nil {
			return err
		}
	}
	return file.End(b.entry(f))
}

func (b *writer) differing(f, n int) (set repo.PageSet) {
	for k := range repo.PagesPerFrame {
		i := n*repo.PagesPerFrame + k
		if i >= len(b.cluster.files[f]) {
			break
		}
		if b.old == nil || i >= len(b.old[f]) || b.old[f][i] != b.cluster.files[f][i] {
			set |= 1 << k
		}
	}
	return set
}
