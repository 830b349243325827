package restore

import (
	"bytes"
	"context"
	"fmt"
	"io"
	"log/slog"

	"github.com/pgbak/pgbak/internal/postgres"
	"github.com/pgbak/pgbak/internal/received"
	"github.com/pgbak/pgbak/repo"
)

// judgeTwice compares a received segment with the one that is archived, as far as it
// has come: recovery takes the archived one, and if that went another way, what was
// acknowledged is in the received one only.
func (w *receivedWAL) judgeTwice(ctx context.Context, s *repo.Stanza, identity repo.Identity, f postgres.WALFile) error {
	from := receivedFile{f, w.id.SegmentSize}
	file, err := w.open(from)
	if err != nil {
		return err
	}
	defer file.Close()
	data, err := io.ReadAll(io.LimitReader(file, from.use))
	if err != nil {
		return fmt.Errorf("read received WAL: %w", err)
	}
	whole := f
	whole.Kind = postgres.WALSegment
	end, err := received.ValidEnd(data, whole, w.id)
	if err != nil {
		return err
	}
	archived := &archiveReader{stanza: s, identity: identity, log: slog.New(slog.DiscardHandler)}
	if err := archived.read(ctx, whole, walPath{size: w.id.SegmentSize}); err != nil {
		if ctx.Err() != nil {
			return context.Cause(ctx)
		}
		w.doubts = append(w.doubts, fmt.Sprintf("whether %s is the same as the archived one is not known: %v", file.Name(), err))
		return nil
	}
	if valid := end - whole.Start(w.id.SegmentSize); !bytes.Equal(data[:valid], archived.segment[:valid]) {
		return unusable("two servers have written the same segment, and recovery takes the archived one: 'pgbak info' and 'pgbak ledger' tell more; leave --received out to restore what is archived.",
			"%s holds other WAL than the archive has under that name", file.Name())
	}
	return nil
}
