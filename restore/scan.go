package restore

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"

	"github.com/pgbak/pgbak/internal/hint"
	"github.com/pgbak/pgbak/internal/postgres"
	"github.com/pgbak/pgbak/repo"
)

// archiveReader is the walReader of a repository. It is for one goroutine: it
// keeps the memory of one segment.
type archiveReader struct {
	stanza   *repo.Stanza
	identity repo.Identity
	log      *slog.Logger
	received *receivedWAL // asked first; nil: there is none
	segment  []byte
}

// events implements walReader.
func (a *archiveReader) events(ctx context.Context, r reach, first, last uint64, emit func(postgres.WALEvent) error) (lastRecord, error) {
	scanner, err := a.start(ctx, r, first)
	if err != nil {
		return lastRecord{}, err
	}
	a.log.Debug("reading WAL", "from", r.path.name(first), "to", r.path.name(last))
	for n := first; ; n++ {
		border := r.path.start(last + 1)
		if n > last {
			// Only the record that began before the border is still of interest.
			if scanner.End() >= border || !r.holds(n) {
				break
			}
			emit = untilBorder(emit, border)
		}
		if n > first {
			if err := a.read(ctx, r.path.file(n), r.path); err != nil {
				return lastRecord{}, err
			}
		}
		err := scanner.Scan(r.path.start(n), r.path.file(n).Timeline, a.segment, emit)
		if n > last && errors.Is(err, errEnough) {
			break
		}
		if err != nil {
			return lastRecord{scanner.LastStart(), scanner.End()}, a.explain(err, r.path.name(n))
		}
		if scanner.Ended() {
			if r.holds(n + 1) {
				a.log.Warn("the WAL ends inside a segment, though another one follows: recovery will not get further",
					"segment", r.path.name(n), "end", scanner.End().String())
			}
			break
		}
	}
	return lastRecord{scanner.LastStart(), scanner.End()}, nil
}

// untilBorder passes on what begins before the border and then ends the scan.
func untilBorder(emit func(postgres.WALEvent) error, border postgres.LSN) func(postgres.WALEvent) error {
	return func(e postgres.WALEvent) error {
		if e.LSN >= border {
			return errEnough
		}
		if err := emit(e); err != nil {
			return err
		}
		return errEnough
	}
}

// explain leaves the caller's own error as it is.
func (a *archiveReader) explain(err error, name string) error {
	if errors.Is(err, errEnough) {
		return err
	}
	return fmt.Errorf("read WAL segment %s: %w", name, err)
}

// start reads the first segment of a scan and makes a scanner for what its
// header says.
func (a *archiveReader) start(ctx context.Context, r reach, n uint64) (*postgres.WALScanner, error) {
	f := r.path.file(n)
	if err := a.read(ctx, f, r.path); err != nil {
		return nil, err
	}
	h, err := postgres.ParseWALHeader(a.segment)
	if err == nil && (h.SystemID != a.identity.SystemID || h.Major() != a.identity.Major || h.SegmentSize != a.identity.SegmentSize) {
		err = fmt.Errorf("%w: it is of system identifier %d, PostgreSQL %d", repo.ErrIdentityMismatch, h.SystemID, h.Major())
	}
	if err != nil {
		return nil, a.explain(err, r.path.name(n))
	}
	return postgres.NewWALScanner(h.Major(), h.SegmentSize, h.BlockSize), nil
}

// read fetches a whole segment.
func (a *archiveReader) read(ctx context.Context, f postgres.WALFile, p walPath) error {
	name := f.Name(p.size)
	if a.segment == nil {
		a.segment = make([]byte, p.size)
	}
	if found, err := a.received.read(f, a.segment); found {
		return err
	}
	in, err := a.stanza.OpenWAL(ctx, a.identity, f)
	if err != nil {
		return hint.Wrap(fmt.Errorf("look for the target in WAL segment %s: %w", name, err),
			"the WAL cannot be searched for the target without it; targets of type latest and immediate, and most of type lsn, need no search.")
	}
	defer in.Close()
	if in.RawSize() != p.size {
		return fmt.Errorf("look for the target in WAL segment %s: it has %d bytes, want %d", name, in.RawSize(), p.size)
	}
	if _, err := io.ReadFull(in, a.segment); err != nil {
		return fmt.Errorf("look for the target in WAL segment %s: %w", name, err)
	}
	// The end of the content tells whether its hash matched.
	if _, err := io.ReadFull(in, make([]byte, 1)); !errors.Is(err, io.EOF) {
		return fmt.Errorf("look for the target in WAL segment %s: %w", name, errors.Join(errors.New("its end was not reached"), err))
	}
	return nil
}
