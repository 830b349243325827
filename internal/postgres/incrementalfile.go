package postgres

import (
	"encoding/binary"
	"fmt"
	"io"
	"strings"
)

// IncrementalPrefix begins the names of the files of which an incremental base
// backup of PostgreSQL 17 and later holds changed blocks only.
const IncrementalPrefix = "INCREMENTAL."

// incrementalMagic is INCREMENTAL_MAGIC of backup/basebackup_incremental.h.
const incrementalMagic = 0xd3ae1f0d

// IncrementalFile is the head of such a file; the blocks follow it in the order
// of Blocks, each with the size of a page. It is written by sendFile of
// backup/basebackup.c: three numbers (magic, how many blocks, Truncation) and
// the block numbers, all 32 bits, little-endian, then zeros up to a whole
// number of pages if there is any block.
type IncrementalFile struct {
	// Blocks are the numbers, in the segment, of the blocks that it holds, in
	// ascending order.
	Blocks []uint32
	// Truncation is the length, in blocks, up to which blocks that it does not
	// hold come from the backup before, or are zero if that had none there.
	Truncation uint32
}

// ReadIncrementalFile reads the head of a file of size bytes and leaves r at the
// first block. It refuses heads that do not fit the size, whose blocks are not
// in order, or that go beyond a segment of segmentBlocks blocks.
func ReadIncrementalFile(r io.Reader, size int64, pageSize, segmentBlocks int) (IncrementalFile, error) {
	var head [12]byte
	if _, err := io.ReadFull(r, head[:]); err != nil {
		return IncrementalFile{}, fmt.Errorf("incremental file: %w", err)
	}
	magic, count := binary.LittleEndian.Uint32(head[0:]), binary.LittleEndian.Uint32(head[4:])
	f := IncrementalFile{Truncation: binary.LittleEndian.Uint32(head[8:])}
	if magic != incrementalMagic {
		return f, fmt.Errorf("incremental file: it begins with %#08x, not %#08x", magic, uint32(incrementalMagic))
	}
	if int64(count) > int64(segmentBlocks) {
		return f, fmt.Errorf("incremental file: %d blocks in a segment of %d", count, segmentBlocks)
	}
	// Older minor releases give the limit of the relation, which may lie in a later segment.
	f.Truncation = uint32(min(int64(f.Truncation), int64(segmentBlocks)))
	length := int64(len(head)) + 4*int64(count)
	padding := int64(0)
	if page := int64(pageSize); count > 0 {
		padding = (page - length%page) % page
	}
	if want := length + padding + int64(count)*int64(pageSize); size != want {
		return f, fmt.Errorf("incremental file: %d bytes with %d blocks, want %d", size, count, want)
	}
	numbers := make([]byte, 4*count)
	if _, err := io.ReadFull(r, numbers); err != nil {
		return f, fmt.Errorf("incremental file: %w", err)
	}
	f.Blocks = make([]uint32, count)
	for i := range f.Blocks {
		f.Blocks[i] = binary.LittleEndian.Uint32(numbers[4*i:])
		if int64(f.Blocks[i]) >= int64(segmentBlocks) || i > 0 && f.Blocks[i] <= f.Blocks[i-1] {
			return f, fmt.Errorf("incremental file: block %d at place %d is out of order or of the segment", f.Blocks[i], i)
		}
	}
	if _, err := io.CopyN(io.Discard, r, padding); err != nil {
		return f, fmt.Errorf("incremental file: %w", err)
	}
	return f, nil
}

// Length is the length in blocks of the file that the incremental one stands for.
func (f IncrementalFile) Length() uint32 {
	if n := len(f.Blocks); n > 0 {
		return max(f.Truncation, f.Blocks[n-1]+1)
	}
	return f.Truncation
}

// IncrementalPath gives the path of the file that an incremental one stands for.
func IncrementalPath(path string) (string, bool) {
	slash := strings.LastIndexByte(path, '/') + 1
	name, ok := strings.CutPrefix(path[slash:], IncrementalPrefix)
	return path[:slash] + name, ok
}

// CompleteBackupLabel makes the backup_label of an incremental base backup that
// of a complete one: it leaves out the lines by which a server refuses to start
// from files that pg_combinebackup has not put together.
func CompleteBackupLabel(label []byte) []byte {
	var out strings.Builder
	for line := range strings.Lines(string(label)) {
		if !strings.HasPrefix(line, "INCREMENTAL FROM LSN: ") && !strings.HasPrefix(line, "INCREMENTAL FROM TLI: ") {
			out.WriteString(line)
		}
	}
	return []byte(out.String())
}
