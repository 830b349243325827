package backup

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"time"

	"github.com/pgbak/pgbak/internal/postgres"
)

// summarizerPatience is how long the server's WAL summarizer may stand still
// before another way is taken. One that found nothing to do sleeps for 30 s.
const summarizerPatience = 35 * time.Second

// standbyPatience is that for a standby. There no checkpoint wakes a summarizer
// that sleeps, so mostly it is awake or it is not worth waiting for: the WAL
// archive tells the same.
const standbyPatience = 2 * time.Second

// serverSummaries reads from the server's WAL summaries what changed.
func (r *run) serverSummaries(ctx context.Context, s span) (*postgres.BlockTable, error) {
	if err := r.awaitSummaries(ctx, s.to); err != nil {
		return nil, err
	}
	dir := os.DirFS(filepath.Join(r.o.PGData, postgres.SummariesDirectory))
	files, err := postgres.ListSummaries(dir)
	if err != nil {
		return nil, err
	}
	chosen, err := postgres.CoverSummaries(files, s.history, s.fromTimeline, s.from, s.to)
	if err != nil {
		return nil, err
	}
	return postgres.ReadSummaries(dir, chosen)
}

func (r *run) awaitSummaries(ctx context.Context, to postgres.LSN) error {
	r.session.Lock()
	defer r.session.Unlock()
	state, err := r.conn.Summarizer(ctx)
	switch {
	case err != nil:
		return err
	case !state.Supported:
		return fmt.Errorf("PostgreSQL %d makes none", r.identity.Major)
	case !state.Enabled:
		return errors.New("summarize_wal is off")
	}
	patience := summarizerPatience
	if r.primary != nil {
		patience = standbyPatience
	}
	return r.conn.WaitSummarized(ctx, to, patience, r.o.Clock)
}
