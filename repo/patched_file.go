package repo

import (
	"fmt"

	"github.com/pgbak/pgbak/internal/crc32c"
)

// PatchedFile puts a file together from pages of the parent and patches.
type PatchedFile struct {
	w       *BackupWriter
	parent  *ParentFile // may be nil: then patches give every page
	m       fileMap
	next    int64 // first page that is not in m yet
	numbers map[frameRef]uint32
	crc     uint32
	read    int64 // bytes that crc is of
}

// PatchFile starts a file whose pages stay those of the parent where no patch
// brings others.
func (w *BackupWriter) PatchFile(parent *ParentFile) *PatchedFile {
	if !parent.Mapped() {
		parent = nil
	}
	return &PatchedFile{w: w, parent: parent, m: fileMap{pageSize: w.pageSize}, numbers: map[frameRef]uint32{}}
}

// Patch adds what a stretch brought. Stretches come in ascending order and do
// not overlap.
func (f *PatchedFile) Patch(p Patch) error {
	refs := make([]frameRef, len(p.frames))
	for i, fr := range p.frames {
		ref, err := f.w.addFrame(fr) // counts it, too
		if err != nil {
			return err
		}
		refs[i] = ref
	}
	for _, at := range p.places {
		if int64(at.page) < f.next {
			return fmt.Errorf("page %d is patched twice", at.page)
		}
		if err := f.keep(int64(at.page)); err != nil {
			return err
		}
		f.place(at, refs)
		f.next += int64(at.count)
	}
	return nil
}

func (f *PatchedFile) place(at patchPlace, refs []frameRef) {
	switch {
	case at.zero:
		f.m.addZero(at.count)
	case at.frame < 0:
		f.shared(at)
	case at.whole:
		f.m.addAligned(refs[at.frame], at.count)
	default:
		f.m.addPages(f.numbers, refs[at.frame], at.slot, at.count)
	}
}

// shared places pages that are already stored.
func (f *PatchedFile) shared(at patchPlace) {
	w := f.w
	if at.whole {
		w.use(at.ref)
		f.m.addAligned(at.ref, at.count)
	} else if f.m.addPages(f.numbers, at.ref, at.slot, at.count) {
		w.use(at.ref)
	}
	bytes := int64(at.count) * int64(f.m.pageSize)
	w.totals.ReusedBytes += bytes
	if at.again {
		w.totals.ResumedBytes += bytes
	}
}

// keep adds the parent's pages up to a page.
func (f *PatchedFile) keep(to int64) error {
	if f.next >= to {
		return nil
	}
	if f.parent == nil || to > f.parent.fileMap.pages() {
		return fmt.Errorf("nothing holds the pages %d to %d", f.next, to-1)
	}
	for p := range f.parent.fileMap.pieces(f.next, to) {
		switch {
		case p.zero:
			f.m.addZero(p.count)
			continue
		case p.whole:
			f.w.use(p.ref)
			f.m.addAligned(p.ref, p.count)
		default:
			if f.m.addPages(f.numbers, p.ref, p.slot, p.count) {
				f.w.use(p.ref)
			}
		}
		f.w.totals.ReusedBytes += int64(p.count) * int64(f.m.pageSize)
	}
	f.next = to
	return nil
}

// AddCRC tells the CRC-32C of the next bytes of the file: of a file that is
// read as a whole, for each of its stretches.
func (f *PatchedFile) AddCRC(crc uint32, length int64) {
	f.crc = crc32c.Combine(f.crc, crc, length)
	f.read += length
}

// End adds the file to the backup; file.Size is its size, of which no patch went
// beyond the end. It gets a CRC if AddCRC told that of every byte.
func (f *PatchedFile) End(file File) error {
	w := f.w
	f.m.size = file.Size
	file.CRC32C, file.HasCRC = f.crc, f.read == file.Size
	w.totals.Files++
	w.totals.Bytes += file.Size
	if file.Size == 0 {
		file.HasCRC, file.CRC32C = true, 0
		return w.entries.add(file)
	}
	if err := f.keep(f.m.pages()); err != nil {
		return fmt.Errorf("file %s: %w", file.Path, err)
	}
	return w.addMapped(file, &f.m, f.parent)
}

// AddUnchanged adds a file whose content is that of the parent. Its size and
// checksum are the parent's; the rest of file is as given.
func (w *BackupWriter) AddUnchanged(file File, parent *ParentFile) error {
	old := parent.file
	file.Size, file.CRC32C, file.HasCRC = old.Size, old.CRC32C, old.HasCRC
	if !parent.Mapped() {
		small, _ := parent.Keep()
		return w.addMembers([]File{file}, []Small{small}, frameRef{}, w.entries.add)
	}
	for _, ref := range parent.fileMap.frames {
		w.use(ref)
	}
	w.totals.Files++
	w.totals.Bytes += file.Size
	w.totals.ReusedBytes += file.Size
	file.content.kind = contentMap
	ref := parent.parent.backup.tables.blocks[old.content.number]
	file.content.number, file.content.index = w.sharedBlock(ref), old.content.index
	return w.entries.add(file)
}

// Keep gives the content of a small file as the parent holds it, for AddSmall:
// what is not read is not looked up. ok is false when its content has a map.
func (f *ParentFile) Keep() (s Small, ok bool) {
	if f.file.content.kind == contentMap {
		return Small{}, false
	}
	s.member.length = uint32(f.file.Size)
	if f.file.Size > 0 {
		s.reused, s.ref, s.offset = true, f.parent.backup.tables.bundles[f.file.content.number], f.file.content.index
	}
	return s, true
}
