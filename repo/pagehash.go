package repo

import (
	"context"
	"encoding/binary"
	"fmt"

	"github.com/zeebo/xxh3"

	"github.com/pgbak/pgbak/internal/postgres"
	"github.com/pgbak/pgbak/storage"
)

// Every page of an aligned or delta frame has a hash, which stands in its pack,
// in a block of its own: a backup that reads all pages finds out by it which
// have changed. Since a frame never changes, neither does the hash, so there is
// nothing that could be out of date; and who does not compare does not read it.
//
// The hash is XXH3 with 64 bits. It is seeded, so that nobody who can write to a
// table, but cannot read the repository, can make two pages that have the same.

// hashArea is where the page hashes of a pack are.
type hashArea struct {
	offset, length int
}

func encodePageHashes(hashes []uint64) []byte {
	b := make([]byte, 0, 8*len(hashes))
	for _, h := range hashes {
		b = binary.LittleEndian.AppendUint64(b, h)
	}
	return b
}

// pageSeed is the seed of the repository's page hashes: the first eight bytes,
// as a number, of the content id of a text that names the repository.
func (r *Repository) pageSeed() (uint64, error) {
	ids, err := r.hasher()
	if err != nil {
		return 0, err
	}
	id := ids.sum([]byte("pgbak page hashes " + r.config.ID))
	return binary.LittleEndian.Uint64(id[:]), nil
}

// hashPages gives the hash of each page of raw, of which the last may be short.
func hashPages(raw []byte, pageSize int, seed uint64) []uint64 {
	hashes := make([]uint64, 0, pageCount(int64(len(raw)), pageSize))
	for len(raw) > 0 {
		n := min(pageSize, len(raw))
		hashes = append(hashes, xxh3.HashSeed(raw[:n], seed))
		raw = raw[n:]
	}
	return hashes
}

// readPageHashes reads the hashes of all pages of a pack: one request.
func (r *Repository) readPageHashes(ctx context.Context, id packID, f *footer) ([]uint64, error) {
	key := id.key()
	if f.hashes.length == 0 {
		return nil, fmt.Errorf("pack %s has no page hashes", key)
	}
	block, err := storage.ReadRange(ctx, r.store, key, int64(f.hashes.offset), int64(f.hashes.length))
	if err != nil {
		return nil, r.lost(key, err)
	}
	plain, err := r.openPackBlock(id, blockHashes, 1, block)
	if err != nil {
		return nil, err
	}
	if len(plain) != 8*f.pages {
		return nil, damagedf(key, "page hashes", "%d bytes for %d pages", len(plain), f.pages)
	}
	hashes := make([]uint64, f.pages)
	for i := range hashes {
		hashes[i] = binary.LittleEndian.Uint64(plain[8*i:])
	}
	return hashes, nil
}

// samePage tells that the parent's page has the hash of this one. What cannot be
// read or has no hash is not the same: then the page is stored again.
func (f *ParentFile) samePage(ctx context.Context, page int64, raw []byte, seed uint64) bool {
	m := f.fileMap
	if int64(len(raw)) != int64(m.pageSize) || (page+1)*int64(m.pageSize) > m.size {
		return false
	}
	for p := range m.pieces(page, page+1) {
		if p.zero {
			return postgres.IsZero(raw)
		}
		old, ok := f.pageHash(ctx, p.ref, p.slot)
		return ok && old == xxh3.HashSeed(raw, seed)
	}
	return false
}

// pageHash gives the hash of a page of one of the parent's frames.
func (f *ParentFile) pageHash(ctx context.Context, ref frameRef, slot uint32) (uint64, bool) {
	e, err := f.parent.footers.get(ctx, ref.pack)
	if err == nil {
		err = e.readHashes(ctx, f.parent.footers.repo, ref.pack)
	}
	if err != nil {
		f.parent.note(err)
		return 0, false
	}
	if int(ref.ordinal) >= len(e.footer.frames) || e.footer.frames[ref.ordinal].ref != ref {
		return 0, false
	}
	info := e.footer.frames[ref.ordinal]
	if int(slot) >= info.pageCount(e.footer.pageSize) {
		return 0, false
	}
	return e.hashes[info.firstHash+int(slot)], true
}

// readHashes reads the page hashes of the footer's pack when they are first asked for.
func (e *footerEntry) readHashes(ctx context.Context, r *Repository, id packID) error {
	e.hashing.Lock()
	defer e.hashing.Unlock()
	if e.hashes != nil {
		return nil
	}
	if e.hashErr == nil {
		hashes, err := r.readPageHashes(ctx, id, e.footer)
		if err != nil && ctx.Err() == nil {
			e.hashErr = err // not asked for again: every page of the pack would
		}
		e.hashes = hashes
		return err
	}
	return e.hashErr
}
