package repo

import (
	"bytes"
	"context"
	"crypto/rand"
	"encoding/binary"
	"errors"
	"fmt"

	"github.com/pgbak/pgbak/internal/postgres"
	"github.com/pgbak/pgbak/repo/codec"
	"github.com/pgbak/pgbak/storage"
)

// Behind the frames of a WAL object whose header has flagSummary:
//
//	salt 16 | one block, number 0, type 'S' | tail
//	tail: length of the block with its header 4 | zero 4 | magic 8 | xxh3 of the 16 bytes before and the object's key 8
//
// The block's content is
//
//	version 1 | zero 3 | timeline 4 | from 8 | to 8 | table
//
// The block is sealed with the metadata key of the salt and the object's key,
// as a manifest is with that of its operation: a host that takes backups and
// may not read WAL can read it. An object is written once, so the salt makes
// the key unique even if the object was removed and is archived again. The
// object's header is no part of the seal, because one read of the object's end
// has to be enough.

const (
	flagSummary    = 2
	blockSummary   = 'S'
	walSaltSize    = 16
	walTailSize    = 24
	walSummaryHead = 24 // bytes before the table
	summaryVersion = 1

	// maxWALSummary bounds what follows the frames.
	maxWALSummary = walSaltSize + blockHeaderSize + maxBlock + gcmOverhead + walTailSize
	// walTailGuess is read at first: the summary of a busy segment of 16 MiB has
	// some thousand blocks of two bytes each.
	walTailGuess = 32 << 10
)

// ErrNoSummary is wrapped by the error for a WAL file that was archived without
// a summary.
var ErrNoSummary = errors.New("it was archived without a summary")

// WALSummary tells which blocks the WAL from From up to To changed: that of all
// records that end in one segment, of which the first may have begun before it.
// Where From is the To of the segment before, the two have no hole between them.
// A segment in which no record ends has no summary, and leaves no hole.
type WALSummary struct {
	Timeline postgres.Timeline // in the segment's name
	From, To postgres.LSN
	Table    []byte // as in a WAL summary file of PostgreSQL 17; not looked into here
}

func (s WALSummary) encode() []byte {
	b := append(make([]byte, 0, walSummaryHead+len(s.Table)), summaryVersion, 0, 0, 0)
	b = binary.LittleEndian.AppendUint32(b, uint32(s.Timeline))
	b = binary.LittleEndian.AppendUint64(b, uint64(s.From))
	b = binary.LittleEndian.AppendUint64(b, uint64(s.To))
	return append(b, s.Table...)
}

// check refuses what no writer makes and no block holds.
func (s WALSummary) check() error {
	switch {
	case s.Timeline == 0 || s.From >= s.To:
		return fmt.Errorf("the summary of timeline %d reaches from %s to %s", s.Timeline, s.From, s.To)
	case len(s.Table) == 0 || len(s.Table) > maxBlock-walSummaryHead:
		return fmt.Errorf("the summary's table has %d bytes", len(s.Table))
	}
	return nil
}

func decodeWALSummary(key string, b []byte) (s WALSummary, err error) {
	if len(b) < walSummaryHead {
		return s, damagedf(key, "summary", "it has %d bytes", len(b))
	}
	if b[0] != summaryVersion {
		return s, newerFormat(key, fmt.Sprintf("WAL summary version %d", b[0]))
	}
	if b[1] != 0 || b[2] != 0 || b[3] != 0 {
		return s, damagedf(key, "summary", "bytes %02x, want zeros", b[1:4])
	}
	s.Timeline = postgres.Timeline(binary.LittleEndian.Uint32(b[4:]))
	s.From, s.To = postgres.LSN(binary.LittleEndian.Uint64(b[8:])), postgres.LSN(binary.LittleEndian.Uint64(b[16:]))
	s.Table = b[walSummaryHead:]
	if err := s.check(); err != nil {
		return WALSummary{}, damaged(key, "summary", err)
	}
	return s, nil
}

// sealSummary gives all that follows the frames.
func (r *Repository) sealSummary(key string, s WALSummary) ([]byte, error) {
	var b bytes.Buffer
	var salt [walSaltSize]byte
	if _, err := rand.Read(salt[:]); err != nil {
		return nil, fmt.Errorf("make a salt: %w", err)
	}
	b.Write(salt[:])
	seal, err := r.keys.metaSealer(salt, key)
	if err != nil {
		return nil, err
	}
	w, err := newBlockWriter(&b, seal, key)
	if err != nil {
		return nil, err
	}
	n, err := w.write(blockSummary, s.encode())
	if err != nil {
		return nil, err
	}
	return append(b.Bytes(), walTail(key, n)...), nil
}

func walTail(key string, block int) []byte {
	b := binary.LittleEndian.AppendUint32(make([]byte, 0, walTailSize+len(key)), uint32(block))
	b = append(append(b, 0, 0, 0, 0), walEndMagic...)
	return binary.LittleEndian.AppendUint64(b, walSum(b, key))
}

// parseWALTail reads the tail at the end of b and gives how many bytes follow
// the frames. there is false when no tail stands there, which a summary that
// was torn can be the cause of too.
func parseWALTail(key string, b []byte) (size int, there bool, err error) {
	if len(b) < walTailSize || string(b[len(b)-16:len(b)-8]) != walEndMagic {
		return 0, false, nil
	}
	b = b[len(b)-walTailSize:]
	block := binary.LittleEndian.Uint32(b)
	if !bytes.Equal(b, walTail(key, int(block))) {
		return 0, true, damaged(key, "summary's tail", errSeal)
	}
	size = walSaltSize + int(block) + walTailSize
	if size > maxWALSummary || block < blockHeaderSize+plainOverhead {
		return 0, true, damagedf(key, "summary's tail", "a length of %d bytes is out of bounds", block)
	}
	return size, true, nil
}

// openSummary opens all that follows the frames, tail included; b is overwritten.
func (r *Repository) openSummary(key string, b []byte) (WALSummary, error) {
	size, there, err := parseWALTail(key, b)
	if err != nil {
		return WALSummary{}, err
	}
	if !there || size != len(b) {
		return WALSummary{}, damagedf(key, "summary", "its %d bytes have not the tail that belongs to them", len(b))
	}
	seal, err := r.keys.metaSealer([walSaltSize]byte(b), key)
	if err != nil {
		return WALSummary{}, err
	}
	head, body := b[walSaltSize:][:blockHeaderSize], b[walSaltSize+blockHeaderSize:len(b)-walTailSize]
	if stored := binary.LittleEndian.Uint32(head[2:]); uint64(stored) != uint64(len(body)) {
		return WALSummary{}, damagedf(key, "summary", "its block has %d bytes, its header says %d", len(body), stored)
	}
	typ, plain, err := openBlock(seal, key, 0, head, body, codec.NewDecoder())
	if err != nil {
		return WALSummary{}, err
	}
	if typ != blockSummary {
		return WALSummary{}, damagedf(key, "summary", "a block of type %q", typ)
	}
	return decodeWALSummary(key, plain)
}

// WALSummary reads the summary of a segment by one request for the object's
// end, or two when it is large. Its WAL itself is not looked at.
//
// Errors: storage.ErrNotExist if the segment is not archived, ErrNoSummary,
// and ErrDamaged, which says nothing against the segment's WAL.
func (s *Stanza) WALSummary(ctx context.Context, id Identity, f postgres.WALFile) (WALSummary, error) {
	key := walKey(s.name, id, f)
	b, err := storage.ReadTail(ctx, s.repo.store, key, walTailGuess)
	if err != nil {
		return WALSummary{}, fmt.Errorf("read %s: %w", key, err)
	}
	size, there, err := parseWALTail(key, b)
	if err != nil {
		return WALSummary{}, err
	}
	if !there {
		return WALSummary{}, s.noSummary(ctx, key)
	}
	if size > len(b) {
		if b, err = storage.ReadTail(ctx, s.repo.store, key, int64(size)); err != nil {
			return WALSummary{}, fmt.Errorf("read %s: %w", key, err)
		}
	}
	summary, err := s.repo.openSummary(key, b[max(0, len(b)-size):])
	if err == nil && summary.Timeline != f.Timeline {
		err = damagedf(key, "summary", "it is of timeline %d", summary.Timeline)
	}
	return summary, err
}

// noSummary tells a summary that is torn from one that never was.
func (s *Stanza) noSummary(ctx context.Context, key string) error {
	h, err := s.repo.readWALHeader(ctx, key)
	if err != nil {
		return err
	}
	if h.summary {
		return damagedf(key, "summary", "its tail is gone")
	}
	return fmt.Errorf("read the summary in %s: %w", key, ErrNoSummary)
}
