package backup

import (
	"context"
	"errors"
	"fmt"

	"golang.org/x/sync/errgroup"

	"github.com/pgbak/pgbak/internal/postgres"
	"github.com/pgbak/pgbak/repo"
	"github.com/pgbak/pgbak/storage"
)

// defaultMaxScan bounds, in bytes, the WAL that is read where no summary tells
// of it: beyond that, reading the cluster's pages is hardly more work.
const defaultMaxScan = 1 << 30

// largestRecord is above PostgreSQL's XLogRecordMaxSize, in bytes.
const largestRecord = 1 << 30

// How many summaries are asked for at once. Each is some ten KiB, and never
// above 32 MiB.
const (
	summariesAtOnce    = 8
	summariesAtOnceFar = 16
)

// walSource is where WAL is found that was written before a backup.
type walSource struct {
	stanza   *repo.Stanza
	identity repo.Identity
	pageSize int    // of WAL, in bytes
	local    string // the server's pg_wal, "" if it cannot be reached from here
	maxScan  int64  // bytes of WAL that may be read; 0 is 1 GiB
}

// walCoverage says how the changes of a range of WAL were found.
type walCoverage struct {
	Summarized int64   // bytes of the range of which archived summaries told
	Scanned    int64   // the other bytes of it, which were read
	Unusable   []error // summaries that are damaged, and were passed over
}

// uncoveredError says that it cannot be found out what some WAL changed. It is
// no fault of the storage: another way of finding changes has to be taken.
type uncoveredError struct {
	walRange
	cause error
}

func (e *uncoveredError) Error() string {
	return fmt.Sprintf("no WAL summary covers %s to %s on timeline %d: %v", e.from, e.to, e.timeline, e.cause)
}

func (e *uncoveredError) Unwrap() error { return e.cause }

// walRange is WAL from from up to, without, to; each is where a record starts.
// timeline is that of its beginning.
type walRange struct {
	timeline postgres.Timeline
	from, to postgres.LSN
}

// walChanges gives the blocks that WAL changed from from, on the timeline
// fromTLI, up to to on the timeline of h: for every record that starts in
// between, and perhaps for some before and after. It takes the summaries in the
// repository, proves that they meet from one segment to the next, and reads the WAL
// itself where they do not: the server's own, else the repository's.
//
// An *uncoveredError says that this is not possible. Others are the storage's.
func walChanges(ctx context.Context, src walSource, h postgres.History, fromTLI postgres.Timeline, from, to postgres.LSN) (*postgres.BlockTable, walCoverage, error) {
	if src.maxScan == 0 {
		src.maxScan = defaultMaxScan
	}
	c := &changeCollector{walSource: src, history: h, table: new(postgres.BlockTable)}
	whole := walRange{timeline: fromTLI, from: c.recordStart(from), to: c.recordStart(to)}
	if tli := h.TimelineAt(from); tli != fromTLI {
		return nil, walCoverage{}, &uncoveredError{whole, fmt.Errorf("the history of timeline %d has %s on timeline %d", h.Timeline, from, tli)}
	}
	if from > to {
		return nil, walCoverage{}, &uncoveredError{whole, errors.New("the end is before the start")}
	}
	c.at, c.to = whole.from, whole.to
	if err := c.summaries(ctx); err != nil {
		return nil, c.coverage, err
	}
	// Marks of later WAL are in the table already. A scan may yet lower the limit
	// of a fork, and with that forget marks from there on: what is beyond a limit
	// is to be read whether it is marked or not.
	for _, hole := range c.holes {
		t, err := c.scan(ctx, hole)
		if err != nil {
			return nil, c.coverage, err
		}
		c.table.Add(t)
		c.coverage.Scanned += int64(hole.to - hole.from)
	}
	return c.table, c.coverage, nil
}

// changeCollector goes through the summaries in the order of WAL.
type changeCollector struct {
	walSource
	history  postgres.History
	at, to   postgres.LSN // all before at is told of, or in holes
	holes    []walRange
	toScan   int64 // bytes that have to be read for the holes
	table    *postgres.BlockTable
	coverage walCoverage
}

func (s walSource) recordStart(l postgres.LSN) postgres.LSN {
	return l.RecordStart(s.identity.SegmentSize, s.pageSize)
}

// file is the segment that holds the WAL of number n on the way to the timeline of
// h. One in which a timeline begins holds what its parent wrote before too.
func (s walSource) file(h postgres.History, n uint64) postgres.WALFile {
	f := postgres.WALFile{Kind: postgres.WALSegment, Segment: n}
	f.Timeline = h.TimelineAt(f.Start(s.identity.SegmentSize) + postgres.LSN(s.identity.SegmentSize) - 1)
	return f
}

// end is where the last page of segment n ends that is needed for the records
// before to.
func (s walSource) end(n uint64, to postgres.LSN) postgres.LSN {
	start := postgres.WALFile{Segment: n}.Start(s.identity.SegmentSize)
	page := postgres.LSN(s.pageSize)
	return min((to+page-1)/page*page, start+postgres.LSN(s.identity.SegmentSize))
}

// last is the number of the segment in which the last record before to ends.
func (s walSource) last(to postgres.LSN) uint64 {
	n := to.Segment(s.identity.SegmentSize)
	if start := (postgres.WALFile{Segment: n}).Start(s.identity.SegmentSize); n > 0 && to <= s.recordStart(start) {
		n--
	}
	return n
}

// archivedSummary is what there is of a segment.
type archivedSummary struct {
	repo.WALSummary
	table *postgres.BlockTable // nil if there is none
	err   error                // why it cannot be used, though there is one
}

// summaries reads those of all segments of the range, some at once, and puts them
// together in their order.
func (c *changeCollector) summaries(ctx context.Context) error {
	atOnce := uint64(summariesAtOnceFar)
	if c.stanza.Repository().Store().Properties().CheapReads {
		atOnce = summariesAtOnce
	}
	last := c.last(c.to)
	for n := c.at.Segment(c.identity.SegmentSize); n <= last && c.at < c.to; n += atOnce {
		read := make([]archivedSummary, min(atOnce, last-n+1))
		group, readCtx := errgroup.WithContext(ctx)
		for i := range read {
			group.Go(func() (err error) {
				read[i], err = c.summary(readCtx, c.file(c.history, n+uint64(i)))
				return err
			})
		}
		if err := group.Wait(); err != nil {
			return err
		}
		for i, s := range read {
			if err := c.take(n+uint64(i), s); err != nil {
				return err
			}
		}
	}
	return c.hole(c.to)
}

// summary reads that of a segment; errors are those of the storage.
func (c *changeCollector) summary(ctx context.Context, f postgres.WALFile) (s archivedSummary, err error) {
	s.WALSummary, err = c.stanza.WALSummary(ctx, c.identity, f)
	switch {
	case errors.Is(err, repo.ErrNoSummary), errors.Is(err, storage.ErrNotExist):
		return archivedSummary{}, nil
	case errors.Is(err, repo.ErrDamaged), errors.Is(err, repo.ErrNewerFormat):
		return archivedSummary{err: err}, nil
	case err != nil:
		return s, err
	}
	start := f.Start(c.identity.SegmentSize)
	if s.To <= start || s.To > c.recordStart(start+postgres.LSN(c.identity.SegmentSize)) {
		return archivedSummary{err: c.unusable(f, fmt.Errorf("it ends at %s", s.To))}, nil
	}
	t, err := postgres.DecodeBlockTable(s.Table)
	if err != nil {
		return archivedSummary{err: c.unusable(f, err)}, nil
	}
	s.table, s.Table = t, nil
	return s, nil
}

func (c *changeCollector) unusable(f postgres.WALFile, err error) error {
	return fmt.Errorf("summary of WAL segment %s: %w: %w", f.Name(c.identity.SegmentSize), repo.ErrDamaged, err)
}

// take adds the summary of segment n. That a segment has none is no hole yet:
// perhaps no record ends in it. But it is one when no record is that large, and
// then there is no use in asking for all the others.
func (c *changeCollector) take(n uint64, s archivedSummary) error {
	if s.err != nil {
		c.coverage.Unusable = append(c.coverage.Unusable, s.err)
	}
	if s.table == nil {
		hole := walRange{from: c.at, to: min(c.end(n, c.to), c.to)}
		return c.checkBound(c.toScan+c.bytes(hole)-largestRecord, hole)
	}
	if s.From >= c.to || s.To <= c.at {
		return nil
	}
	if err := c.hole(s.From); err != nil {
		return err
	}
	c.table.Add(s.table)
	c.coverage.Summarized += int64(min(s.To, c.to) - c.at)
	c.at = s.To
	return nil
}

// hole notes that no summary tells of what is before to, if there is anything.
func (c *changeCollector) hole(to postgres.LSN) error {
	if to <= c.at {
		return nil
	}
	hole := walRange{timeline: c.history.TimelineAt(c.at), from: c.at, to: to}
	c.holes = append(c.holes, hole)
	c.toScan += c.bytes(hole)
	c.at = to
	return c.checkBound(c.toScan, hole)
}

// bytes is how much has to be read for a hole: its segments from their beginning.
func (c *changeCollector) bytes(hole walRange) int64 {
	if hole.from >= hole.to {
		return 0
	}
	first := postgres.WALFile{Segment: hole.from.Segment(c.identity.SegmentSize)}.Start(c.identity.SegmentSize)
	return int64(c.end(c.last(hole.to), hole.to) - first)
}

// checkBound is the end of it when bytes is more than may be read.
func (c *changeCollector) checkBound(bytes int64, hole walRange) error {
	if bytes <= c.maxScan {
		return nil
	}
	hole.timeline = c.history.TimelineAt(hole.from)
	if len(c.holes) > 0 {
		hole = c.holes[0]
	}
	return &uncoveredError{hole, fmt.Errorf("%d bytes of WAL or more would have to be read, more than %d", bytes, c.maxScan)}
}
