package repo

import (
	"context"
	"errors"
	"fmt"
	"io"
	"iter"
	"strings"
	"sync"

	"github.com/pgbak/pgbak/internal/hint"
	"github.com/pgbak/pgbak/internal/postgres"
	"github.com/pgbak/pgbak/storage"
)

// WALOutcome tells what PutWAL did.
type WALOutcome int

// The outcomes of PutWAL.
const (
	WALStored       WALOutcome = iota
	WALAlreadyThere            // the same content was there
)

// WALPut is the result of PutWAL.
type WALPut struct {
	Outcome    WALOutcome
	RawSize    int64 // bytes of the file
	StoredSize int64 // bytes of the object; 0 when it was there
	// MarkErr is why the WAL before it could not be marked as complete, when it
	// was time for that. It is no error of the file, which is stored.
	MarkErr error
}

// PutWAL archives a WAL file: durable on return, never over something else.
// When the key is taken, the contents are compared by their hash: equal is
// WALAlreadyThere, once what is there was read back whole; different is
// ErrWALConflict; and nothing is changed. Otherwise one Put is all that it asks
// of the store. A summary of c is stored in the same object, and is no part of
// what is compared. After one segment in each 4 GiB of WAL the 4 GiB before it are
// marked if they are complete, which is a List and a Put more.
func (s *Stanza) PutWAL(ctx context.Context, id Identity, f postgres.WALFile, c *WALContent) (WALPut, error) {
	put := WALPut{RawSize: c.Size()}
	name := f.Name(id.SegmentSize)
	if err := s.repo.config.checkWrite(s.repo.location()); err != nil {
		return put, err
	}
	if c.Size() > maxWAL {
		return put, fmt.Errorf("WAL file %s has %d bytes, more than any WAL file", name, c.Size())
	}
	key := walKey(s.name, id, f)
	there := s.seems(ctx, key, c)
	content, err := c.contentID(s.repo)
	if err != nil {
		return put, fmt.Errorf("read WAL file %s: %w", name, err)
	}
	spool := storage.NewSpool(maxHeldWAL, "")
	defer spool.Close()
	build := func() (storage.Source, error) { return s.walObject(ctx, key, c, content, spool) }
	object := storage.Source(&laterObject{make: sync.OnceValues(build)})
	if !there {
		if object, err = build(); err != nil {
			return put, fmt.Errorf("read WAL file %s: %w", name, err)
		}
	}
	if there && !s.repo.store.Properties().CheapReads {
		err = storage.ErrExist // a Put would send all of it to hear that
	} else {
		err = s.repo.store.Put(ctx, key, object, storage.PutOptions{IfAbsent: true})
	}
	if errors.Is(err, storage.ErrExist) {
		put.Outcome = WALAlreadyThere
		if err := s.compareWAL(ctx, key, name, content, c.Size()); err != nil {
			return put, err
		}
		return put, s.readBackWAL(ctx, id, f)
	}
	if err != nil {
		return put, fmt.Errorf("archive WAL file %s: %w", name, err)
	}
	put.StoredSize = object.Size()
	put.MarkErr = s.markAfter(ctx, id, f)
	return put, nil
}

// seems tells whether an object seems to be there, where it is worth to look: on
// a store near by, and where the caller has reason to think so. It begins or ends
// compression accordingly. On a store near by nothing is decided by it: the Put says
// what is there, and sees to it that it is durable, as what can be read in a
// directory need not be.
func (s *Stanza) seems(ctx context.Context, key string, c *WALContent) bool {
	if s.repo.store.Properties().CheapReads || c.MayBeThere {
		if _, err := s.repo.store.Stat(ctx, key); err == nil {
			c.spare(s.repo.o.Compression)
			return true
		}
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.isHeld() {
		c.begin(s.repo.o.Compression) // while it is hashed
	}
	return false
}

// laterObject is an object that is made when the store turns out to want it.
type laterObject struct {
	make func() (storage.Source, error)
}

// Size implements storage.Source. Where there is no object, Open says why.
func (o *laterObject) Size() int64 {
	made, err := o.make()
	if err != nil {
		return 0
	}
	return made.Size()
}

// Open implements storage.Source.
func (o *laterObject) Open() (io.ReadCloser, error) {
	made, err := o.make()
	if err != nil {
		return nil, err
	}
	return made.Open()
}

// walObject seals the content for this repository: in memory if the content is
// held, else into the spool.
func (s *Stanza) walObject(ctx context.Context, key string, c *WALContent, content ContentID, spool *storage.Spool) (storage.Source, error) {
	if !c.isHeld() {
		w, err := s.repo.newWALSealer(key, walHeader{size: c.Size(), id: content})
		if err != nil {
			return nil, err
		}
		err = s.spoolWAL(ctx, w, c, content, spool)
		return spool.Source(), err
	}
	frames, err := c.compressed(ctx, s.repo.o.Compression)
	if err != nil {
		return nil, err
	}
	var summary []byte
	switch made, err := c.Summary(ctx); {
	case ctx.Err() != nil:
		return nil, context.Cause(ctx)
	case err == nil:
		if summary, err = s.repo.sealSummary(key, made); err != nil {
			return nil, err
		}
	}
	w, err := s.repo.newWALSealer(key, walHeader{size: c.Size(), id: content, summary: summary != nil})
	if err != nil {
		return nil, err
	}
	return storage.Bytes(w.whole(frames, summary)), nil
}

// spoolWAL reads content that is not held a second time; it hashes again what
// it reads, so that content that changes meanwhile is refused.
func (s *Stanza) spoolWAL(ctx context.Context, w *walSealer, c *WALContent, content ContentID, spool *storage.Spool) error {
	ids, err := s.repo.hasher()
	if err != nil {
		return err
	}
	compressor, err := newWALCompressor(s.repo.o.Compression)
	if err != nil {
		return err
	}
	if _, err := spool.Write(w.head[:w.size]); err != nil {
		return err
	}
	var sealed []byte
	err = c.eachFrame(func(plain []byte) error {
		if ctx.Err() != nil {
			return context.Cause(ctx)
		}
		ids.h.Write(plain)
		f, err := compressor.frame(plain)
		if err != nil {
			return err
		}
		sealed = w.frame(sealed[:0], f)
		_, err = spool.Write(sealed)
		return err
	})
	if err != nil {
		return err
	}
	var again ContentID
	if ids.h.Sum(again[:0]); again != content {
		return errWALChanged
	}
	return nil
}

// readBackWAL proves that a file archived before is whole: the clash is decided
// by what the object's header says of its content, and PostgreSQL will recycle
// its own good copy when the push succeeds.
func (s *Stanza) readBackWAL(ctx context.Context, id Identity, f postgres.WALFile) error {
	r, err := s.OpenWAL(ctx, id, f)
	if err != nil {
		return err
	}
	defer r.Close()
	_, err = io.Copy(io.Discard, r)
	return hint.Wrap(err, "the server keeps its own copy and tries again: move the damaged object away, and the next push stores it anew.")
}

// compareWAL decides a clash by the header of what is there, which a checksum protects.
func (s *Stanza) compareWAL(ctx context.Context, key, name string, content ContentID, size int64) error {
	h, err := s.repo.readWALHeader(ctx, key)
	if err != nil {
		return fmt.Errorf("compare WAL file %s with what is archived: %w", name, err)
	}
	if h.id == content && h.size == size {
		return nil
	}
	return hint.Wrap(&WALConflictError{File: name, Object: key, Location: s.repo.location(), Archived: h.id, Pushed: content, ArchivedSize: h.size, PushedSize: size},
		"two clusters may be archiving to stanza %s, or this one was rewound: compare 'SELECT system_identifier FROM pg_control_system()' and the timelines of all of them; nothing was overwritten.", s.name)
}

// WALContentID gives the content id of an archived WAL file, by its header alone.
// The error is storage.ErrNotExist if the file is not archived.
func (s *Stanza) WALContentID(ctx context.Context, id Identity, f postgres.WALFile) (ContentID, error) {
	h, err := s.repo.readWALHeader(ctx, walKey(s.name, id, f))
	return h.id, err
}

func (r *Repository) readWALHeader(ctx context.Context, key string) (walHeader, error) {
	b, err := readPrefix(ctx, r.store, key, walHeaderFixed+maxWrapped+8)
	if err != nil {
		return walHeader{}, err
	}
	h, _, err := decodeWALHeader(key, b, r.keys != nil)
	return h, err
}

func (id ContentID) short() string { return id.String()[:16] }

// HasWAL tells whether a WAL file is archived.
func (s *Stanza) HasWAL(ctx context.Context, id Identity, f postgres.WALFile) (bool, error) {
	_, err := s.repo.store.Stat(ctx, walKey(s.name, id, f))
	if errors.Is(err, storage.ErrNotExist) {
		return false, nil
	}
	if err != nil {
		return false, fmt.Errorf("look for WAL file %s: %w", f.Name(id.SegmentSize), err)
	}
	return true, nil
}

// StillThere proves, by one List, that the stanza has not gone away since it
// was opened: a directory that was unmounted or removed answers for every WAL
// file that it does not exist. It proves too that no identity is lost amid
// others: opening ends before such a gap and knows nothing of those behind it,
// which may be of the same cluster. The error wraps ErrUnknownStanza or
// ErrDamaged, or is the store's.
func (s *Stanza) StillThere(ctx context.Context) error {
	n, err := s.repo.countIdentities(ctx, s.name)
	if err != nil {
		return err
	}
	if n == 0 {
		return fmt.Errorf("stanza %s in %s: %w", s.name, s.repo.location(), ErrUnknownStanza)
	}
	if n < len(s.identities) {
		return damagedf(identityKey(s.name, len(s.identities)), "", "it was there before")
	}
	return nil
}

// HistoryTimelines gives the timelines of an identity that have a history file, lowest first.
func (s *Stanza) HistoryTimelines(ctx context.Context, id Identity) ([]postgres.Timeline, error) {
	var out []postgres.Timeline
	for f, err := range s.listWAL(ctx, id, historyPrefix(s.name, id.Number), "") {
		if err != nil {
			return nil, err
		}
		out = append(out, f.Timeline)
	}
	return out, nil
}

// ListWALFrom gives the WAL files of a timeline from a segment on, its history file
// apart, in the order of their names.
func (s *Stanza) ListWALFrom(ctx context.Context, id Identity, tli postgres.Timeline, first uint64) iter.Seq2[postgres.WALFile, error] {
	after := ""
	if first > 0 {
		// Behind all that begins with the name of the segment before.
		after = walKey(s.name, id, postgres.WALFile{Timeline: tli, Segment: first - 1}) + ".~"
	}
	return s.listWAL(ctx, id, timelinePrefix(s.name, id.Number, tli), after)
}

func (s *Stanza) listWAL(ctx context.Context, id Identity, prefix, after string) iter.Seq2[postgres.WALFile, error] {
	return s.listWALBeside(ctx, id, prefix, after, func(string) {})
}

// listWALBeside tells stray of each key that is no WAL file's.
func (s *Stanza) listWALBeside(ctx context.Context, id Identity, prefix, after string, stray func(key string)) iter.Seq2[postgres.WALFile, error] {
	return func(yield func(postgres.WALFile, error) bool) {
		for obj, err := range s.repo.store.List(ctx, prefix, after) {
			if err != nil {
				yield(postgres.WALFile{}, fmt.Errorf("list WAL under %s: %w", prefix, err))
				return
			}
			f, err := postgres.ParseWALFile(obj.Key[strings.LastIndexByte(obj.Key, '/')+1:], id.SegmentSize)
			if err != nil || walKey(s.name, id, f) != obj.Key {
				stray(obj.Key)
				continue
			}
			if !yield(f, nil) {
				return
			}
		}
	}
}

// maxHistory bounds a timeline history file: one line per promotion.
const maxHistory = 1 << 20

// History reads a timeline's history file; timeline 1 has none and needs none.
func (s *Stanza) History(ctx context.Context, id Identity, tli postgres.Timeline) (postgres.History, error) {
	if tli == 1 {
		return postgres.History{Timeline: 1}, nil
	}
	f := postgres.WALFile{Kind: postgres.WALHistory, Timeline: tli}
	r, err := s.OpenWAL(ctx, id, f)
	if err != nil {
		return postgres.History{}, err
	}
	defer r.Close()
	if r.RawSize() > maxHistory {
		return postgres.History{}, damagedf(r.key, "", "%d bytes are too many for a history file", r.RawSize())
	}
	data, err := io.ReadAll(r)
	if err != nil {
		return postgres.History{}, err
	}
	h, err := postgres.ParseHistory(tli, data)
	if err != nil {
		return postgres.History{}, damaged(r.key, "content", err)
	}
	return h, nil
}
