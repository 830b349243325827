package archive

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"io"
	"slices"
	"time"

	"github.com/pgbak/pgbak/internal/postgres"
	"github.com/pgbak/pgbak/repo"
)

// Bounds of ReadEnds, whatever the archive holds: of how many ends, how many segments
// before one are searched for a commit, and how much is read in all. One segment, which
// can have 1 GiB, is always read.
const (
	lookBack    = 8
	maxEnds     = 16
	maxEndBytes = 256 << 20
)

// headKept is what is kept of a segment for the record that begins in the one
// before it: few are longer.
const headKept = 1 << 20

// ReadEnds reads, for each identity's backups, the last WAL that can be reached, to
// say until which position and commit recovery gets. Backups that end at the same
// place share the reading, from the start of the oldest of them on: what was committed
// before the newest began is in it. It costs one request for each segment, at most
// lookBack for each of at most maxEnds places, those of the newest backups, and no more
// than maxEndBytes. What is not read stays unknown; what cannot be is told by the errors.
func (l *Ledger) ReadEnds(ctx context.Context, s *repo.Stanza) []error {
	var failed []error
	e := endReader{stanza: s, left: maxEndBytes}
	places := maxEnds
	for _, id := range slices.Backward(l.Identities) {
		at, order := id.ends()
		for _, p := range order[:min(places, len(order))] {
			places--
			ending := at[p]
			oldest := slices.MinFunc(ending, func(a, b *Reach) int { return cmp.Compare(a.first, b.first) })
			until, commit, err := e.read(ctx, id.Identity, *oldest)
			if err != nil {
				failed = append(failed, err)
			}
			for _, r := range ending {
				r.Until, r.Time = until, commit
			}
		}
	}
	return failed
}

// endPlace is where WAL that can be reached ends.
type endPlace struct {
	timeline postgres.Timeline
	next     uint64
}

// ends are the reaches of all backups by where they end, in order those of the newest first.
func (l *IdentityLedger) ends() (places map[endPlace][]*Reach, order []endPlace) {
	places = map[endPlace][]*Reach{}
	for i := range slices.Backward(l.Backups) {
		b := &l.Backups[i]
		all := []*Reach{&b.Own}
		for k := range b.Others {
			all = append(all, &b.Others[k])
		}
		for _, r := range all {
			if r.Last == "" {
				continue
			}
			p := endPlace{r.way.timelineOf(r.next - 1), r.next}
			if places[p] == nil {
				order = append(order, p)
			}
			places[p] = append(places[p], r)
		}
	}
	return places, order
}

// endReader reads ends of WAL within a bound.
type endReader struct {
	stanza *repo.Stanza
	left   int64 // bytes that may still be read
	begun  bool
}

// may tells whether a segment more may be read, and counts it.
func (e *endReader) may(size int64) bool {
	if e.begun && e.left < size {
		return false
	}
	e.begun = true
	e.left -= size
	return true
}

// read scans the last segment, and as long as there is no commit those before it,
// one after the other. A commit may lie on a border: then it is in what is kept of the
// segment behind.
func (e *endReader) read(ctx context.Context, id repo.Identity, r Reach) (until postgres.LSN, commit time.Time, err error) {
	var behind []byte // the beginning of the segment behind
	for n := r.next - 1; ; n-- {
		if !e.may(id.SegmentSize) {
			return until, commit, nil
		}
		data, err := readSegment(ctx, e.stanza, id, postgres.WALFile{Kind: postgres.WALSegment, Timeline: r.way.timelineOf(n), Segment: n})
		if err != nil {
			return until, commit, err
		}
		row, err := scanRow(id, r.way, n, data, behind)
		if err != nil {
			return until, commit, err
		}
		commit = row.commit
		if until == 0 || row.isCut {
			until = row.end
		}
		// A segment that is the middle of one record, or its end, says nothing by itself;
		// where that record begins, the end is known from there.
		if !commit.IsZero() && until != 0 || n == r.first || r.next-n >= lookBack {
			return cmp.Or(until, row.start), commit, nil
		}
		if until == 0 {
			behind = append(data, behind...)
			continue
		}
		behind = data[:min(len(data), headKept)]
	}
}

// row is what a scan of some segments found.
type row struct {
	start, end postgres.LSN // of its records; the end is 0 if there is none
	commit     time.Time    // the last
	isCut      bool         // the WAL ends before the last segment
}

// scanRow scans a segment and what is given of those behind it.
func scanRow(id repo.Identity, w walWay, first uint64, data, behind []byte) (row, error) {
	h, err := postgres.ParseWALHeader(data)
	if err != nil {
		return row{}, fmt.Errorf("read WAL segment %d of timeline %d: %w", first, w.timelineOf(first), err)
	}
	scanner := postgres.NewWALScanner(h.Major(), h.SegmentSize, h.BlockSize)
	r := row{start: postgres.LSN(first * uint64(id.SegmentSize))}
	rest := behind
	for n, segment := first, data; ; n++ {
		f := postgres.WALFile{Kind: postgres.WALSegment, Timeline: w.timelineOf(n), Segment: n}
		err = scanner.Scan(f.Start(id.SegmentSize), f.Timeline, segment, func(e postgres.WALEvent) error {
			if e.Kind == postgres.WALCommit {
				r.commit = e.Time
			}
			return nil
		})
		if err != nil {
			return row{}, fmt.Errorf("read WAL segment %s: %w", f.Name(id.SegmentSize), err)
		}
		if r.isCut = scanner.Ended() && len(rest) > 0; scanner.Ended() || len(rest) == 0 {
			break
		}
		segment = rest[:min(int64(len(rest)), id.SegmentSize)]
		rest = rest[len(segment):]
	}
	if scanner.LastStart() != 0 {
		r.end = scanner.End()
	}
	return r, nil
}

// readSegment reads a whole archived segment, verified, and proves by its header
// that it is this one.
func readSegment(ctx context.Context, s *repo.Stanza, id repo.Identity, f postgres.WALFile) ([]byte, error) {
	in, err := s.OpenWAL(ctx, id, f)
	if err != nil {
		return nil, fmt.Errorf("read WAL segment %s: %w", f.Name(id.SegmentSize), err)
	}
	defer in.Close()
	if in.RawSize() != id.SegmentSize {
		return nil, fmt.Errorf("read WAL segment %s: it has %d bytes, want %d", f.Name(id.SegmentSize), in.RawSize(), id.SegmentSize)
	}
	data := make([]byte, id.SegmentSize)
	if _, err := io.ReadFull(in, data); err != nil {
		return nil, fmt.Errorf("read WAL segment %s: %w", f.Name(id.SegmentSize), err)
	}
	// The end of the content tells whether its hash matched.
	if _, err := io.ReadFull(in, make([]byte, 1)); !errors.Is(err, io.EOF) {
		return nil, fmt.Errorf("read WAL segment %s: %w", f.Name(id.SegmentSize), errors.Join(errors.New("its end was not reached"), err))
	}
	return data, checkHead(data[:postgres.WALHeaderSize], f, id)
}
