package repo

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"strings"

	"github.com/pgbak/pgbak/internal/postgres"
	"github.com/pgbak/pgbak/storage"
)

// Catalog is what a stanza holds at one moment: the input of every decision.
type Catalog struct {
	Stanza     string
	Identities []Identity
	Backups    []BackupInfo               // in the order of their labels
	WAL        []WALRange                 // by identity, timeline, segment
	Histories  map[int][]postgres.History // by identity number
}

// BackupInfo is one backup as the catalogue sees it.
type BackupInfo struct {
	Label      Label
	Header     BackupHeader
	StoredSize int64 // of the manifest, bytes
	Tombed     bool  // expired, not yet collected: not to be used
	Err        error // the manifest cannot be read: shown, never used
}

// WALRange is a run of segments without a gap.
type WALRange struct {
	Identity int
	Timeline postgres.Timeline
	First    uint64 // segment numbers
	Last     uint64
}

// Count is the number of segments of the range.
func (r WALRange) Count() uint64 { return r.Last - r.First + 1 }

// Catalog reads the stanza's backups, WAL ranges and timeline histories.
func (s *Stanza) Catalog(ctx context.Context) (*Catalog, error) {
	c := &Catalog{Stanza: s.name, Identities: s.identities, Histories: map[int][]postgres.History{}}
	var err error
	if c.Backups, _, err = s.backups(ctx); err != nil {
		return nil, err
	}
	for _, id := range s.identities {
		ranges, err := s.WALRanges(ctx, id)
		if err != nil {
			return nil, err
		}
		c.WAL = append(c.WAL, ranges...)
		histories, err := s.Histories(ctx, id)
		if err != nil {
			return nil, err
		}
		c.Histories[id.Number] = histories
	}
	return c, nil
}

// backups lists the manifests. One that cannot be read has Err; a label
// occupied by a collector is no backup and is left out, but it is taken.
func (s *Stanza) backups(ctx context.Context) (out []BackupInfo, taken []Label, err error) {
	tombs, err := s.tombs(ctx)
	if err != nil {
		return nil, nil, err
	}
	for obj, err := range s.repo.store.List(ctx, backupsPrefix(s.name)) {
		if err != nil {
			return nil, nil, fmt.Errorf("list backups of stanza %s: %w", s.name, err)
		}
		l, err := ParseLabel(strings.TrimPrefix(obj.Key, backupsPrefix(s.name)))
		if err != nil {
			continue // not ours
		}
		taken = append(taken, l)
		info := BackupInfo{Label: l, StoredSize: obj.Size, Tombed: tombs[l]}
		info.Header, info.Err = s.readHeader(ctx, l)
		if errors.Is(info.Err, ErrRevoked) || errors.Is(info.Err, storage.ErrNotExist) {
			continue
		}
		if info.Err != nil && !errors.Is(info.Err, ErrDamaged) && !errors.Is(info.Err, ErrNewerFormat) {
			return nil, nil, info.Err
		}
		out = append(out, info)
	}
	return out, taken, nil
}

func (s *Stanza) tombs(ctx context.Context) (map[Label]bool, error) {
	tombs := map[Label]bool{}
	for obj, err := range s.repo.store.List(ctx, tombsPrefix(s.name)) {
		if err != nil {
			return nil, fmt.Errorf("list tombs of stanza %s: %w", s.name, err)
		}
		tombs[Label(strings.TrimPrefix(obj.Key, tombsPrefix(s.name)))] = true
	}
	return tombs, nil
}

// headerGuess holds most headers: one request.
const headerGuess = 32 << 10

// readHeader reads the first block of a manifest.
func (s *Stanza) readHeader(ctx context.Context, l Label) (BackupHeader, error) {
	b := &Backup{stanza: s, key: manifestKey(s.name, l)}
	head, err := readPrefix(ctx, s.repo.store, b.key, headerGuess)
	if err != nil {
		return b.header, err
	}
	blocks, err := s.repo.manifestBlocks(b.key, bytes.NewReader(head))
	if err != nil {
		return b.header, err
	}
	if len(head) >= objectHeaderSize+blockHeaderSize {
		if n, err := storedLength(b.key, 0, head[objectHeaderSize:]); err == nil && objectHeaderSize+blockHeaderSize+n > len(head) {
			if head, err = readPrefix(ctx, s.repo.store, b.key, int64(objectHeaderSize+blockHeaderSize+n)); err != nil {
				return b.header, err
			}
			blocks.r = bytes.NewReader(head[objectHeaderSize:])
		}
	}
	typ, plain, err := blocks.next()
	if err != nil && !errors.Is(err, ErrDamaged) {
		err = damaged(b.key, "header", err)
	}
	if err != nil {
		return b.header, err
	}
	if typ != blockHeaderJSON {
		return b.header, damagedf(b.key, "header", "block of type %q", typ)
	}
	if err := b.readHeader(plain); err != nil {
		return b.header, unreadable(b.key, "header", err)
	}
	return b.header, b.checkIdentity(l, blocks.op)
}
