package repo

import (
	"fmt"
	"io/fs"
	"path"
	"strings"
	"time"
)

// FileType is what a path of a backup is.
type FileType byte

// The types of path. The values are on disk.
const (
	TypeFile FileType = 1
	TypeDir  FileType = 2
	TypeLink FileType = 3 // a symbolic link to a directory
)

// File is one path of a backup.
type File struct {
	// Path is slash-separated and relative to the data directory; what lies in
	// a tablespace is under pg_tblspc/OID, what lies behind a link under the link.
	Path       string
	Type       FileType
	Mode       fs.FileMode // permission bits
	ModTime    time.Time   // whole seconds
	Owner      string
	Group      string
	Size       int64
	CRC32C     uint32 // of the content, when HasCRC
	HasCRC     bool
	PageErrors bool   // a page of it failed its checksum
	LinkTarget string // TypeLink

	content contentRef
}

// contentKind says how a file's content is found. The values are on disk.
type contentKind byte

const (
	contentNone   contentKind = 0 // empty files, directories, links
	contentBundle contentKind = 1 // in a bundle frame: table number, offset in the frame
	contentMap    contentKind = 2 // by a map: table number of its block, number in the block
)

type contentRef struct {
	kind   contentKind
	number uint32 // in the manifest's table of bundles or map blocks
	index  uint32 // offset in the bundle, or number in the block
}

// CheckPath refuses a path that could leave the directory it is restored to.
func CheckPath(p string) error {
	if p == "" || len(p) > maxPath || p[0] == '/' || path.Clean(p) != p || p == "." || p == ".." ||
		strings.HasPrefix(p, "../") || strings.ContainsRune(p, 0) {
		return fmt.Errorf("path %q is not allowed in a backup", p)
	}
	return nil
}

// ComparePaths orders paths as a walk of the tree meets them: a directory
// before what is in it, the entries of a directory by the bytes of their names.
func ComparePaths(a, b string) int {
	for i := 0; i < len(a) && i < len(b); i++ {
		if x, y := a[i], b[i]; x != y {
			if x == '/' {
				return -1
			}
			if y == '/' {
				return 1
			}
			return int(x) - int(y)
		}
	}
	return len(a) - len(b)
}

// Bits of an encoded file's flags, above the file type.
const (
	fileTypeMask   = 0x03
	fileHasCRC     = 0x04
	filePageErrors = 0x08
	fileKindShift  = 4
	fileKindMask   = 0x03
	fileReserved   = 0xc0 // must be zero
)

// maxModTime bounds the seconds since 1970 of a file's time of modification;
// a file system may hold anything, and no restore needs more.
const maxModTime = 1 << 40

func encodeFile(w *wireWriter, prev string, f File, owner int) {
	flags := byte(f.Type) | byte(f.content.kind)<<fileKindShift
	if f.HasCRC {
		flags |= fileHasCRC
	}
	if f.PageErrors {
		flags |= filePageErrors
	}
	w.byte(flags)
	w.path(prev, f.Path)
	w.uvarint(uint64(f.Mode.Perm()))
	w.uvarint(uint64(min(max(f.ModTime.Unix(), 0), maxModTime)))
	w.uvarint(uint64(owner))
	if f.Type == TypeLink {
		w.string(f.LinkTarget)
	}
	if f.Type != TypeFile {
		return
	}
	w.uvarint(uint64(f.Size))
	if f.HasCRC {
		w.u32(f.CRC32C)
	}
	if f.content.kind != contentNone {
		w.uvarint(uint64(f.content.number))
		w.uvarint(uint64(f.content.index))
	}
}

func decodeFile(r *wireReader, prev string, owners []string) File {
	flags := r.byte()
	f := File{Type: FileType(flags & fileTypeMask), HasCRC: flags&fileHasCRC != 0, PageErrors: flags&filePageErrors != 0}
	f.content.kind = contentKind(flags >> fileKindShift & fileKindMask)
	if flags&fileReserved != 0 {
		r.fail(fmt.Sprintf("flags %02x of a file", flags))
	}
	f.Path = r.path(prev)
	f.Mode = fs.FileMode(r.number(0o777, "mode"))
	f.ModTime = time.Unix(int64(r.number(maxModTime, "time")), 0).UTC()
	if n := r.uvarint(); r.err == nil && n < uint64(len(owners)) {
		f.Owner, f.Group, _ = strings.Cut(owners[n], ":")
	} else {
		r.fail("owner is out of range")
	}
	switch f.Type {
	case TypeLink:
		f.LinkTarget = r.string(4 << 10)
	case TypeFile:
		f.Size = r.int63("file size")
		if f.HasCRC {
			f.CRC32C = r.u32()
		}
		if f.content.kind != contentNone {
			f.content.number, f.content.index = uint32(r.number(maxPages, "number")), uint32(r.number(maxPages, "index"))
		}
	case TypeDir:
	default:
		r.fail(fmt.Sprintf("file type %d is unknown", f.Type))
	}
	if r.err == nil {
		r.err = f.check()
	}
	return f
}

func (f File) check() error {
	if err := CheckPath(f.Path); err != nil {
		return fmt.Errorf("%w: %w", errWire, err)
	}
	empty := f.Type != TypeFile || f.Size == 0
	if (f.content.kind == contentNone) != empty || f.content.kind > contentMap {
		return fmt.Errorf("%w: %s has %d bytes and content of kind %d", errWire, f.Path, f.Size, f.content.kind)
	}
	return nil
}
