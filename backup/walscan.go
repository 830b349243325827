package backup

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"

	"github.com/pgbak/pgbak/internal/postgres"
	"github.com/pgbak/pgbak/repo"
	"github.com/pgbak/pgbak/storage"
)

// scan reads the WAL of a hole. The server's own files come first: they are near,
// and the only ones that have the last stretch. But the server may have used
// a file again, or be doing so while it is read, so what cannot be read by
// them is read once more from the repository.
func (c *changeCollector) scan(ctx context.Context, hole walRange) (*postgres.BlockTable, error) {
	t, local, err := c.scanFrom(ctx, hole, c.local)
	if err != nil && local && ctx.Err() == nil {
		again, _, repositoryErr := c.scanFrom(ctx, hole, "")
		if repositoryErr == nil {
			return again, nil
		}
		err = fmt.Errorf("%w; without the server's own files: %w", err, repositoryErr)
	}
	var failed *storageFailure
	if err == nil || ctx.Err() != nil {
		return t, err
	}
	if errors.As(err, &failed) {
		return nil, failed.error
	}
	return nil, &uncoveredError{hole, err}
}

// storageFailure is an error that says nothing of the WAL.
type storageFailure struct{ error }

// scanFrom reads the segments of a hole from the directory local, and what is not
// there from the repository. usedLocal is whether any was read from local.
func (c *changeCollector) scanFrom(ctx context.Context, hole walRange, local string) (t *postgres.BlockTable, usedLocal bool, err error) {
	s := postgres.NewWALSummarizer(c.identity.Major, c.identity.SegmentSize, c.pageSize, hole.from, hole.to)
	var buf []byte
	for n := hole.from.Segment(c.identity.SegmentSize); n <= c.last(hole.to); n++ {
		if ctx.Err() != nil {
			return nil, usedLocal, context.Cause(ctx)
		}
		f := c.file(c.history, n)
		name := f.Name(c.identity.SegmentSize)
		start := f.Start(c.identity.SegmentSize)
		if buf == nil {
			buf = make([]byte, min(c.bytes(hole), c.identity.SegmentSize))
		}
		data := buf[:c.end(n, hole.to)-start]
		if local != "" && c.readLocal(filepath.Join(local, name), data) == nil && c.ownSegment(start, data) == nil {
			usedLocal = true
		} else if err := c.readArchived(ctx, f, data); err != nil {
			return nil, usedLocal, fmt.Errorf("read WAL segment %s: %w", name, err)
		}
		if err := s.Scan(start, f.Timeline, data); err != nil {
			return nil, usedLocal, fmt.Errorf("read WAL segment %s: %w", name, err)
		}
		if s.Ended() && s.To() < hole.to {
			return nil, usedLocal, fmt.Errorf("WAL segment %s: its records end at %s", name, s.To())
		}
	}
	return c.proved(s, hole, usedLocal)
}

// proved is the table, if it tells of every record of the hole.
func (c *changeCollector) proved(s *postgres.WALSummarizer, hole walRange, usedLocal bool) (*postgres.BlockTable, bool, error) {
	switch {
	case s.Minimal():
		return nil, usedLocal, errors.New("wal_level was minimal, so that WAL does not have every change")
	case s.From() > hole.from:
		return nil, usedLocal, fmt.Errorf("no record begins at %s", hole.from)
	case s.To() < hole.to:
		return nil, usedLocal, fmt.Errorf("its records end at %s", s.To())
	}
	return s.Table(), usedLocal, nil
}

func (c *changeCollector) readLocal(path string, data []byte) error {
	f, err := os.Open(path)
	if err != nil {
		return err
	}
	defer f.Close()
	_, err = io.ReadFull(f, data)
	return err
}

// ownSegment makes sure that data is the beginning of the cluster's segment that starts at start.
func (c *changeCollector) ownSegment(start postgres.LSN, data []byte) error {
	h, err := postgres.ParseWALHeader(data)
	if err != nil {
		return err
	}
	if h.SystemID != c.identity.SystemID || h.Major() != c.identity.Major || h.PageAddr != start {
		return fmt.Errorf("%w: it is of system identifier %d, PostgreSQL %d, and begins at %s", repo.ErrIdentityMismatch, h.SystemID, h.Major(), h.PageAddr)
	}
	return nil
}

// readArchived reads the beginning of an archived segment.
func (c *changeCollector) readArchived(ctx context.Context, f postgres.WALFile, data []byte) error {
	in, err := c.stanza.OpenWAL(ctx, c.identity, f)
	if err != nil {
		return ofStorage(err)
	}
	defer in.Close()
	if in.RawSize() != c.identity.SegmentSize {
		return fmt.Errorf("it has %d bytes, want %d", in.RawSize(), c.identity.SegmentSize)
	}
	if _, err := io.ReadFull(in, data); err != nil {
		return ofStorage(err)
	}
	if int64(len(data)) == in.RawSize() { // its end tells whether the hash of the whole matched
		if _, err := io.ReadFull(in, make([]byte, 1)); !errors.Is(err, io.EOF) {
			return ofStorage(errors.Join(errors.New("its end was not reached"), err))
		}
	}
	return c.ownSegment(f.Start(c.identity.SegmentSize), data)
}

// ofStorage marks errors that do not say that the WAL is absent or damaged.
func ofStorage(err error) error {
	if errors.Is(err, storage.ErrNotExist) || errors.Is(err, repo.ErrDamaged) || errors.Is(err, repo.ErrNewerFormat) {
		return err
	}
	return &storageFailure{err}
}
