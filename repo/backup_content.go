package repo

import (
	"fmt"
	"slices"

	"github.com/pgbak/pgbak/internal/crc32c"
)

// AddPath adds a directory, a link or an empty file.
func (w *BackupWriter) AddPath(f File) error {
	return w.addMembers([]File{f}, []Small{{}}, frameRef{}, w.entries.add)
}

// AddSmall adds small files, whose content is in one bundle or was found in the
// parent, and the directories, links and empty files between them; files and
// content stand in the same order.
func (w *BackupWriter) AddSmall(files []File, content []Small, b Bundle) error {
	var ref frameRef
	if len(b.fresh.members) > 0 {
		var err error
		if ref, err = w.addFrame(b.fresh); err != nil {
			return err
		}
	}
	return w.addMembers(files, content, ref, w.entries.add)
}

// AddLate adds the few files that are read after all others, in one bundle of
// their own; in the manifest they stand behind the rest, in this order. Nothing
// follows them, so what is left of packs and maps goes on its way: it becomes
// durable while the caller does what remains before Commit.
func (w *BackupWriter) AddLate(framer *Framer, files []File, contents [][]byte) error {
	var raw []byte
	var members []Small
	for i := range files {
		if len(contents[i]) == 0 {
			return fmt.Errorf("late file %s is empty", files[i].Path)
		}
		files[i].Size, files[i].HasCRC, files[i].CRC32C = int64(len(contents[i])), true, crc32c.Update(0, contents[i])
		members = append(members, Small{member: member{path: files[i].Path, length: uint32(len(contents[i])), id: framer.ids.sum(contents[i])}})
		raw = append(raw, contents[i]...)
	}
	_, b, err := framer.Bundle(nil, raw, members)
	if err != nil {
		return err
	}
	ref, err := w.addFrame(b.fresh)
	if err != nil {
		return err
	}
	if err := w.addMembers(files, members, ref, w.entries.addLate); err != nil {
		return err
	}
	return w.closeContent()
}

// addMembers makes the entries of the members of a bundle, of which ref holds the new ones.
func (w *BackupWriter) addMembers(files []File, content []Small, ref frameRef, add func(File) error) error {
	offset := uint32(0)
	for i, f := range files {
		s := content[i]
		if int64(s.member.length) != f.Size {
			return fmt.Errorf("%s has %d bytes, its content %d", f.Path, f.Size, s.member.length)
		}
		if f.Size == 0 {
			if err := w.addEmpty(f, add); err != nil {
				return err
			}
			continue
		}
		from := frameRef{}
		if s.reused {
			from, f.content.index = s.ref, s.offset
			w.totals.ReusedBytes += f.Size
			if s.again {
				w.totals.ResumedBytes += f.Size
			}
		} else {
			from, f.content.index = ref, offset
			offset += s.member.length
		}
		f.content.kind, f.content.number = contentBundle, w.bundleNumber(from, s.reused)
		w.totals.Files++
		w.totals.Bytes += f.Size
		if err := add(f); err != nil {
			return err
		}
	}
	return nil
}

func (w *BackupWriter) addEmpty(f File, add func(File) error) error {
	if f.Type == TypeFile {
		f.HasCRC, f.CRC32C = true, 0
		w.totals.Files++
	}
	return add(f)
}

// bundleNumber gives a bundle's number in the manifest. A reused bundle's
// bytes count once, whatever the number of its members; a new one's were
// counted when it was packed.
func (w *BackupWriter) bundleNumber(ref frameRef, reused bool) uint32 {
	if n, ok := w.bundles[ref]; ok {
		return n
	}
	if reused {
		w.use(ref)
	}
	n := uint32(len(w.tables.bundles))
	w.tables.bundles = append(w.tables.bundles, ref)
	w.bundles[ref] = n
	return n
}

// FileWriter collects the windows of one file in order.
type FileWriter struct {
	w   *BackupWriter
	m   fileMap
	crc uint32
}

// BeginFile starts a file that is larger than a bundle takes.
func (w *BackupWriter) BeginFile() *FileWriter {
	return &FileWriter{w: w, m: fileMap{pageSize: w.pageSize}}
}

// Add appends windows; crc is the CRC-32C of their plain bytes together.
func (f *FileWriter) Add(windows []Window, crc uint32) error {
	length := int64(0)
	for _, win := range windows {
		length += int64(win.raw)
		switch {
		case win.zero:
			f.m.addZero(win.pages)
		case win.reused:
			f.w.use(win.ref)
			f.w.totals.ReusedBytes += int64(win.raw)
			if win.again {
				f.w.totals.ResumedBytes += int64(win.raw)
			}
			f.m.addAligned(win.ref, win.pages)
		default:
			ref, err := f.w.addFrame(win.fresh)
			if err != nil {
				return err
			}
			f.m.addAligned(ref, win.pages)
		}
	}
	f.m.size += length
	f.crc = crc32c.Combine(f.crc, crc, length)
	return nil
}

// End adds the file to the backup; its size is what was added. parent may be
// nil; where the file's map is the parent's, the parent's is named.
func (f *FileWriter) End(file File, parent *ParentFile) error {
	file.Size, file.CRC32C, file.HasCRC = f.m.size, f.crc, true
	w := f.w
	w.totals.Files++
	w.totals.Bytes += file.Size
	if file.Size == 0 {
		return w.entries.add(file)
	}
	return w.addMapped(file, &f.m, parent)
}

// addMapped adds a file and its map: the parent's where that is the same.
func (w *BackupWriter) addMapped(file File, m *fileMap, parent *ParentFile) error {
	if err := m.check(); err != nil {
		return fmt.Errorf("map of %s: %w", file.Path, err)
	}
	file.content.kind = contentMap
	if parent != nil && parent.fileMap != nil && m.equal(parent.fileMap) {
		ref := parent.parent.backup.tables.blocks[parent.file.content.number]
		file.content.number, file.content.index = w.sharedBlock(ref), parent.file.content.index
		return w.entries.add(file)
	}
	block, index, err := w.maps.add(m)
	if err != nil {
		return err
	}
	file.content.number, file.content.index = uint32(block), uint32(index)
	return w.entries.add(file)
}

// sharedBlock gives the number of a block of the parent's maps.
func (w *BackupWriter) sharedBlock(ref mapBlockRef) uint32 {
	if n, ok := w.mapBlocks[ref]; ok {
		return n
	}
	n := uint32(len(w.tables.blocks))
	w.tables.blocks = append(w.tables.blocks, ref)
	w.mapBlocks[ref] = n
	for _, m := range w.tables.maps {
		if m.op == ref.op && m.number == ref.number {
			return n
		}
	}
	for _, m := range w.parent.backup.tables.maps {
		if m.op == ref.op && m.number == ref.number {
			w.tables.maps = append(w.tables.maps, m)
		}
	}
	return n
}

func (m *fileMap) equal(o *fileMap) bool {
	return m.pageSize == o.pageSize && m.size == o.size && slices.Equal(m.frames, o.frames) && slices.Equal(m.runs, o.runs)
}
