package repo

import (
	"bufio"
	"bytes"
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"slices"

	"github.com/pgbak/pgbak/internal/postgres"
	"github.com/pgbak/pgbak/repo/codec"
	"github.com/pgbak/pgbak/storage"
)

// WALReader streams the plain content of a WAL file. Every frame is verified
// before a byte of it is given; io.EOF comes only after the length and the
// content id of the whole were verified.
type WALReader struct {
	key    string
	body   io.ReadCloser
	in     *bufio.Reader
	header walHeader
	head   []byte // the header as it stands in the object, and the key
	s      sealer
	dec    *codec.Decoder
	ids    *contentHasher
	n      uint64
	done   int64
	plain  []byte // verified, not yet read; in out
	sealed []byte // room for a frame, used again for the next
	out    []byte // the same, plain
	err    error

	repo    *Repository
	rest    []byte // what follows the frames, if a summary does
	restErr error
}

// OpenWAL begins to read a WAL file of an identity. An absent file gives
// storage.ErrNotExist; a damaged one ErrDamaged, here or from Read.
func (s *Stanza) OpenWAL(ctx context.Context, id Identity, f postgres.WALFile) (*WALReader, error) {
	key := walKey(s.name, id, f)
	body, err := s.repo.store.Get(ctx, key, storage.Range{})
	if err != nil {
		return nil, fmt.Errorf("read %s: %w", key, err)
	}
	r := &WALReader{repo: s.repo, key: key, body: body, in: bufio.NewReaderSize(body, 256<<10), dec: codec.NewDecoder()}
	if err := r.open(); err != nil {
		_ = body.Close()
		return nil, err
	}
	return r, nil
}

func (r *WALReader) open() error {
	head, err := r.in.Peek(walHeaderFixed)
	if err != nil {
		return r.cut("header", err)
	}
	wrapped := int(binary.LittleEndian.Uint16(head[walHeaderFixed-2:]))
	if head, err = r.in.Peek(walHeaderFixed + min(wrapped, maxWrapped) + 8); err != nil {
		return r.cut("header", err)
	}
	h, n, err := decodeWALHeader(r.key, head, r.repo.keys != nil)
	if err != nil {
		return err
	}
	r.head = append(append([]byte(nil), head[:n]...), r.key...)
	h.wrapped = append([]byte(nil), h.wrapped...)
	r.header = h
	if _, err := r.in.Discard(n); err != nil {
		return fmt.Errorf("read %s: %w", r.key, err)
	}
	if r.repo.keys != nil {
		key, err := r.repo.keys.unwrapDataKey(h.wrapped)
		if errors.Is(err, errNoReadingKey) {
			return fmt.Errorf("read %s: %w", r.key, err)
		}
		if err != nil {
			return damaged(r.key, "wrapped key", err)
		}
		if r.s, err = newSealer(key); err != nil {
			return err
		}
	}
	r.ids, err = r.repo.hasher()
	return err
}

// RawSize is the length of the plain content in bytes.
func (r *WALReader) RawSize() int64 { return r.header.size }

// ContentID is what the object's header says of the plain content.
func (r *WALReader) ContentID() ContentID { return r.header.id }

// Close ends reading.
func (r *WALReader) Close() error { return r.body.Close() }

// Read implements io.Reader.
func (r *WALReader) Read(p []byte) (int, error) {
	for len(r.plain) == 0 {
		if r.err == nil {
			r.err = r.nextFrame()
		}
		if r.err != nil {
			return 0, r.err
		}
	}
	n := copy(p, r.plain)
	r.plain = r.plain[n:]
	return n, nil
}

// walPiece is what is written at a time, in bytes. The pieces of io.Copy cost the kernel
// more calls; for those of a whole frame it looks for as large pieces of
// memory, which costs it twice as much where memory is in pieces itself.
const walPiece = 128 << 10

// WriteTo implements io.WriterTo: it writes what Read would give, walPiece at a time.
func (r *WALReader) WriteTo(w io.Writer) (int64, error) {
	var done int64
	for {
		if len(r.plain) == 0 && r.err == nil {
			r.err = r.nextFrame()
		}
		if len(r.plain) > 0 {
			piece := r.plain[:min(len(r.plain), walPiece)]
			n, err := w.Write(piece)
			done += int64(n)
			if err == nil && n < len(piece) {
				err = io.ErrShortWrite
			}
			r.plain = r.plain[n:]
			if err != nil {
				return done, err
			}
			continue
		}
		if r.err == io.EOF { // itself: an error that wraps it is one
			return done, nil
		}
		if r.err != nil {
			return done, r.err
		}
	}
}

// nextFrame verifies the next frame; io.EOF after a verified end.
func (r *WALReader) nextFrame() error {
	if r.done == r.header.size {
		return r.finish()
	}
	what := fmt.Sprintf("frame %d", r.n)
	head := make([]byte, walFrameHeader)
	if _, err := io.ReadFull(r.in, head); err != nil {
		return r.cut(what, err)
	}
	plain, stored := int64(binary.LittleEndian.Uint32(head[1:])), int64(binary.LittleEndian.Uint32(head[5:]))
	if plain == 0 || plain > walFrameSize || plain > r.header.size-r.done || stored > walFrameSize+gcmOverhead {
		return damagedf(r.key, what, "%d bytes stored in %d are out of bounds", plain, stored)
	}
	r.sealed = slices.Grow(r.sealed[:0], int(stored))[:stored]
	if _, err := io.ReadFull(r.in, r.sealed); err != nil {
		return r.cut(what, err)
	}
	payload, err := r.s.open(r.sealed, r.n, walContext(head, r.head))
	if err != nil {
		return damaged(r.key, what, err)
	}
	r.out = slices.Grow(r.out[:0], int(plain))[:plain]
	if err := r.dec.Decode(r.out, payload, codec.ID(head[0])); err != nil {
		return damaged(r.key, what, err)
	}
	r.ids.h.Write(r.out)
	r.n++
	r.done += plain
	r.plain = r.out
	return nil
}

func (r *WALReader) finish() error {
	var id ContentID
	if r.ids.h.Sum(id[:0]); id != r.header.id {
		return damagedf(r.key, "content", "its hash does not match")
	}
	if r.header.summary {
		// All of the content is proved; nothing that follows can take that back.
		r.rest, r.restErr = io.ReadAll(io.LimitReader(r.in, maxWALSummary+1))
		return io.EOF
	}
	if n, err := r.in.Read(make([]byte, 1)); n != 0 {
		return damagedf(r.key, "end", "bytes follow it")
	} else if err != io.EOF {
		return fmt.Errorf("read %s: %w", r.key, err)
	}
	return io.EOF
}

// Summary gives the summary that follows the content, once Read has given
// io.EOF. It takes all that follows the content for the summary, so that a byte
// too many is an ErrDamaged too; ErrNoSummary as from Stanza.WALSummary.
func (r *WALReader) Summary() (WALSummary, error) {
	switch {
	case !errors.Is(r.err, io.EOF):
		return WALSummary{}, fmt.Errorf("read the summary in %s: its end was not reached", r.key)
	case !r.header.summary:
		return WALSummary{}, fmt.Errorf("read the summary in %s: %w", r.key, ErrNoSummary)
	case r.restErr != nil:
		return WALSummary{}, fmt.Errorf("read the summary in %s: %w", r.key, r.restErr)
	}
	return r.repo.openSummary(r.key, bytes.Clone(r.rest))
}

func (r *WALReader) cut(what string, err error) error {
	if isEnd(err) {
		return damagedf(r.key, what, "the object ends early")
	}
	return fmt.Errorf("read %s: %w", r.key, err)
}
