package repo

import (
	"encoding/binary"
	"errors"
	"fmt"
	"io"

	"github.com/pgbak/pgbak/storage"
)

const (
	blockHeaderJSON = 'H'
	blockPacks      = 'P'
	blockRefs       = 'R'
	blockFiles      = 'F'
	// blockLate holds the few files that are read after all others, whatever
	// their place in the tree: pg_control, backup_label, tablespace_map.
	blockLate = 'L'

	entrySpoolMemory = 8 << 20
	filesBlockTarget = 64 << 10
)

// entrySpool keeps the file entries of a manifest until the tables that stand
// before them are known: in memory, or, when they are many, in a temporary file.
type entrySpool struct {
	ownerTable
	spool *storage.Spool
	w     wireWriter
	prev  string
	last  string
	late  wireWriter
	// sorter is set where entries come in any order: they go through it before
	// they come here.
	sorter *entrySorter
}

func newEntrySpool() *entrySpool {
	return &entrySpool{spool: storage.NewSpool(entrySpoolMemory, "")}
}

// add adds an entry; without a sorter, entries come in the order of ComparePaths.
func (e *entrySpool) add(f File) error {
	if err := f.check(); err != nil {
		return err
	}
	if e.sorter != nil {
		return e.sorter.add(f)
	}
	return e.append(f)
}

// append adds the entry that comes after all before it.
func (e *entrySpool) append(f File) error {
	if e.last != "" && ComparePaths(e.last, f.Path) >= 0 {
		return fmt.Errorf("path %q comes after %q", f.Path, e.last)
	}
	encodeFile(&e.w, e.prev, f, e.owner(f))
	e.prev, e.last = f.Path, f.Path
	if len(e.w.b) >= filesBlockTarget {
		return e.flush()
	}
	return nil
}

// addLate appends an entry to the block of late files.
func (e *entrySpool) addLate(f File) error {
	if err := f.check(); err != nil {
		return err
	}
	encodeFile(&e.late, "", f, e.owner(f))
	return nil
}

// flush ends a block; the next one begins without a previous path.
func (e *entrySpool) flush() error {
	if len(e.w.b) == 0 {
		return nil
	}
	if _, err := e.spool.Write(binary.LittleEndian.AppendUint32(nil, uint32(len(e.w.b)))); err != nil {
		return err
	}
	_, err := e.spool.Write(e.w.b)
	e.w.b, e.prev = e.w.b[:0], ""
	return err
}

// blocks gives the blocks in order.
func (e *entrySpool) blocks(yield func(plain []byte) error) error {
	if e.sorter != nil {
		if err := e.sorter.all(e.append); err != nil {
			return err
		}
	}
	if err := e.flush(); err != nil {
		return err
	}
	r, err := e.spool.Source().Open()
	if err != nil {
		return err
	}
	defer r.Close()
	var length [4]byte
	for {
		if _, err := io.ReadFull(r, length[:]); errors.Is(err, io.EOF) {
			return nil
		} else if err != nil {
			return err
		}
		plain := make([]byte, binary.LittleEndian.Uint32(length[:]))
		if _, err := io.ReadFull(r, plain); err != nil {
			return err
		}
		if err := yield(plain); err != nil {
			return err
		}
	}
}

func (e *entrySpool) close() {
	_ = e.spool.Close()
	if e.sorter != nil {
		e.sorter.close()
	}
}
