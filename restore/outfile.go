package restore

import (
	"fmt"
	"io/fs"
	"os"
	"sync"
	"sync/atomic"

	"github.com/pgbak/pgbak/internal/crc32c"
	"github.com/pgbak/pgbak/repo"
)

// outFile is a file while workers write it. It is opened by the first of them
// and completed by the last.
type outFile struct {
	file repo.File
	at   *openPlace
	rel  string
	run  *run

	left  atomic.Int64 // pieces that are not written yet
	once  sync.Once
	f     *os.File
	err   error
	parts []checksum // one for each extent, each written by one worker
}

// checksum is the CRC-32C of a piece.
type checksum struct {
	crc    uint32
	length int64
	zero   bool
}

func (r *run) newOutFile(f repo.File, extents int) *outFile {
	out := &outFile{file: f, run: r, parts: make([]checksum, extents)}
	out.at, out.rel = r.target(f.Path)
	out.left.Store(int64(max(extents, 1)))
	return out
}

// open makes the file, which must not exist.
func (o *outFile) open() error {
	o.once.Do(func() {
		o.f, o.err = o.at.root.OpenFile(o.rel, os.O_WRONLY|os.O_CREATE|os.O_EXCL, 0o600)
		if o.err != nil {
			o.err = fmt.Errorf("make file %s: %w", o.file.Path, o.err)
			return
		}
		o.run.track(o)
	})
	return o.err
}

// put writes a piece.
func (o *outFile) put(index int, offset int64, data []byte) error {
	if _, err := o.f.WriteAt(data, offset); err != nil {
		return fmt.Errorf("write %s: %w", o.file.Path, err)
	}
	o.parts[index] = checksum{crc: crc32c.Update(0, data), length: int64(len(data))}
	return nil
}

// skip notes a piece of zeros.
func (o *outFile) skip(index int, length int64) {
	o.parts[index] = checksum{length: length, zero: true}
}

// sum is the checksum of the whole file.
func (o *outFile) sum() uint32 {
	crc := uint32(0)
	for _, p := range o.parts {
		if p.zero {
			crc = crc32c.Zeros(crc, p.length)
		} else {
			crc = crc32c.Combine(crc, p.crc, p.length)
		}
	}
	return crc
}

// complete verifies a file whose last piece was written, gives it its size,
// mode, owner and time, and hands it on to be made durable.
func (r *run) complete(o *outFile) error {
	sum := o.sum()
	if !o.file.HasCRC {
		r.mu.Lock()
		r.sums[o.file.Path] = sum
		r.mu.Unlock()
	} else if sum != o.file.CRC32C {
		return &repo.DamagedError{Key: "backup " + string(r.backup.Header().Label), What: "file " + o.file.Path,
			Err: fmt.Errorf("its checksum is %08X, the manifest says %08X", sum, o.file.CRC32C)}
	}
	if n := len(o.parts); n > 0 && o.parts[n-1].zero {
		if err := o.f.Truncate(o.file.Size); err != nil {
			return fmt.Errorf("size of %s: %w", o.file.Path, err)
		}
	}
	if err := r.dress(o.f, o.at, o.rel, o.file); err != nil {
		return fmt.Errorf("mode, owner and time of %s: %w", o.file.Path, err)
	}
	return r.syncs.add(o)
}

// dress sets mode, owner and time as they were recorded.
func (r *run) dress(f *os.File, at *openPlace, rel string, from repo.File) error {
	if r.owners.root {
		uid, gid := r.owners.ids(from.Owner, from.Group)
		if err := f.Chown(uid, gid); err != nil {
			return err
		}
	}
	if err := f.Chmod(from.Mode.Perm() & fs.ModePerm); err != nil {
		return err
	}
	if from.ModTime.IsZero() {
		return nil
	}
	return at.root.Chtimes(rel, from.ModTime, from.ModTime)
}

// track keeps an open file until it is closed.
func (r *run) track(o *outFile) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.unfinished[o] = struct{}{}
}

// closeFile closes a file that is complete.
func (r *run) closeFile(o *outFile) error {
	r.mu.Lock()
	delete(r.unfinished, o)
	r.mu.Unlock()
	if err := o.f.Close(); err != nil {
		return fmt.Errorf("close %s: %w", o.file.Path, err)
	}
	return nil
}

// closeUnfinished closes what a failed restore left open.
func (r *run) closeUnfinished() {
	r.mu.Lock()
	defer r.mu.Unlock()
	for o := range r.unfinished {
		_ = o.f.Close()
	}
	clear(r.unfinished)
}
