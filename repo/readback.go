package repo

import (
	"context"
	"fmt"
	"io"

	"github.com/pgbak/pgbak/storage"
)

// readBack verifies the seals of frames that a new backup is about to share.
// Frames that follow each other in a pack, as those of one file do, are read
// together. It does not decompress: what was sealed is what was compressed.
// Not safe for concurrent use.
type readBack struct {
	last  frameRef // the frame checked last: the members of a bundle ask for it one after the other
	pack  packID
	from  uint32 // where in the pack ahead begins
	next  uint32 // what lies before it in ahead was opened, which overwrites it
	ahead []byte
	buf   []byte
}

// aheadFrames is how many frames of the size at hand one request reads.
const aheadFrames = 8

// check reads a frame, unless it was read along with one before it, and verifies its seal.
func (r *readBack) check(ctx context.Context, repo *Repository, data *dataKeys, ref frameRef) error {
	if r.last == ref {
		return nil
	}
	if r.pack != ref.pack || ref.offset < r.next || int(ref.end()-r.from) > len(r.ahead) {
		if err := r.read(ctx, repo, ref); err != nil {
			return err
		}
	}
	s, err := data.sealer(ref.pack.op)
	if err != nil {
		return err
	}
	sealed := r.ahead[ref.offset-r.from:][:ref.stored]
	if _, err := s.open(sealed, ref.number(), ref.context()); err != nil {
		r.ahead = nil
		return damaged(ref.pack.key(), fmt.Sprintf("frame %d", ref.ordinal), err)
	}
	r.last, r.next = ref, ref.end()
	return nil
}

// read reads the frame and what follows it.
func (r *readBack) read(ctx context.Context, repo *Repository, ref frameRef) error {
	key := ref.pack.key()
	n := int(ref.stored) * aheadFrames
	if cap(r.buf) < n {
		r.buf = make([]byte, aheadFrames*maxStoredFrame)
	}
	r.ahead = nil
	body, err := repo.store.Get(ctx, key, storage.Range{Offset: int64(ref.offset), Length: int64(n)})
	if err != nil {
		return repo.lost(key, err)
	}
	defer body.Close()
	got, err := io.ReadFull(body, r.buf[:n])
	if err != nil && !isEnd(err) {
		return fmt.Errorf("read %s: %w", key, err)
	}
	if got < int(ref.stored) {
		return damagedf(key, fmt.Sprintf("frame %d", ref.ordinal), "the object ends early")
	}
	r.pack, r.from, r.next, r.ahead = ref.pack, ref.offset, ref.offset, r.buf[:got]
	return nil
}
