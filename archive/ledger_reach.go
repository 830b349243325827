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

// Reach is how far recovery gets along a way.
type Reach struct {
	Timeline postgres.Timeline // to which it leads
	// IsConsistent tells that the WAL that the backup itself needs is there.
	IsConsistent bool
	First, Last  string // names of segments; Last is "" if the first is missing itself
	Missing      string // the first segment that is not there
	// End is where the last segment ends. IsGap tells that WAL behind it is there:
	// recovery ends because something was lost, not because the archive ends.
	End   postgres.LSN
	IsGap bool
	// Until and Time are the end of the last record, and the time of the last commit
	// before it; zero until they were read, and where there is none near the end.
	Until postgres.LSN
	Time  time.Time

	way         walWay
	first, next uint64
}

// maxReaches bounds the ways that are followed from each backup.
const maxReaches = 8

// reaches are those of all backups that can be used or looked at.
func (a *held) reaches(c *repo.Catalog, ways []wayJudge) []BackupReach {
	var out []BackupReach
	for _, b := range c.Backups {
		h := b.Header
		if b.Err != nil || b.Tombed || h.Identity.Number != a.id.Number || h.Start.LSN == 0 {
			continue
		}
		r := BackupReach{Label: b.Label, Own: a.reach(a.way(h.Timeline), h)}
		for _, w := range ways[len(ways)-min(len(ways), maxReaches):] {
			if w.history.Timeline != h.Timeline && w.history.Contains(h.Timeline, h.Stop.LSN) {
				r.Others = append(r.Others, a.reach(w.walWay, h))
			}
		}
		out = append(out, r)
	}
	return out
}

// reach follows a way from the start of a backup.
func (a *held) reach(w walWay, h repo.BackupHeader) Reach {
	first := h.Start.LSN.Segment(w.size)
	next := first
	for next <= w.lastSegment() {
		last, ok := a.runEnd(w.timelineOf(next), next)
		if !ok {
			break
		}
		next = min(last, w.lastOf(next)) + 1
	}
	name := func(n uint64) string {
		return postgres.WALFile{Kind: postgres.WALSegment, Timeline: w.timelineOf(n), Segment: n}.Name(w.size)
	}
	r := Reach{Timeline: w.history.Timeline, First: name(first), Missing: name(next), End: postgres.LSN(next * uint64(w.size)),
		way: w, first: first, next: next}
	if next > first {
		r.Last = name(next - 1)
	}
	r.IsConsistent = h.Stop.LSN > h.Start.LSN && h.Stop.LSN <= r.End
	for n := next; n <= w.lastSegment() && !r.IsGap; n = w.lastOf(n) + 1 {
		for _, run := range a.runs[w.timelineOf(n)] {
			r.IsGap = r.IsGap || run.First <= w.lastOf(n) && n <= run.Last
		}
	}
	return r
}

// Bounds of ReadEnds: how many segments before an end of WAL are searched for a
// commit, and of how many ends.
const (
	lookBack = 8
	maxEnds  = 16
)

// ReadEnds reads, for each identity's backups, the last WAL that can be reached, to
// say until which position and commit recovery gets. Backups that end at the same
// place share the reading, from the start of the oldest of them on: what was committed
// before the newest began is in it. Of each place at most some segments are read, and of at
// most some places, those of the newest backups. What cannot be read stays unknown
// and is told by the errors.
func (l *Ledger) ReadEnds(ctx context.Context, s *repo.Stanza) []error {
	var failed []error
	left := maxEnds
	for _, id := range slices.Backward(l.Identities) {
		places, order := id.ends()
		for _, p := range order[:min(left, len(order))] {
			left--
			ending := places[p]
			oldest := slices.MinFunc(ending, func(a, b *Reach) int { return cmp.Compare(a.first, b.first) })
			until, commit, err := readEnd(ctx, s, id.Identity, *oldest)
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

// readEnd scans the last segment, and then more and more before it together with
// it, since a commit may lie on a border.
func readEnd(ctx context.Context, s *repo.Stanza, id repo.Identity, r Reach) (until postgres.LSN, commit time.Time, err error) {
	for n := uint64(1); ; n *= 2 {
		first := max(r.first, r.next-min(n, r.next))
		until, commit, err = scanRow(ctx, s, id, r.way, first, r.next-1)
		if err != nil || !commit.IsZero() || first == r.first || n >= lookBack {
			return until, commit, err
		}
	}
}

// scanRow reads segments first to last and gives the end of their records and
// the last commit.
func scanRow(ctx context.Context, s *repo.Stanza, id repo.Identity, w walWay, first, last uint64) (until postgres.LSN, commit time.Time, err error) {
	var scanner *postgres.WALScanner
	for n := first; n <= last; n++ {
		f := postgres.WALFile{Kind: postgres.WALSegment, Timeline: w.timelineOf(n), Segment: n}
		data, err := readSegment(ctx, s, id, f)
		if err != nil {
			return 0, time.Time{}, err
		}
		if scanner == nil {
			h, err := postgres.ParseWALHeader(data)
			if err != nil {
				return 0, time.Time{}, fmt.Errorf("read WAL segment %s: %w", f.Name(id.SegmentSize), err)
			}
			scanner = postgres.NewWALScanner(h.Major(), h.SegmentSize, h.BlockSize)
		}
		err = scanner.Scan(f.Start(id.SegmentSize), f.Timeline, data, func(e postgres.WALEvent) error {
			if e.Kind == postgres.WALCommit {
				commit = e.Time
			}
			return nil
		})
		if err != nil {
			return 0, time.Time{}, fmt.Errorf("read WAL segment %s: %w", f.Name(id.SegmentSize), err)
		}
		if scanner.Ended() {
			break
		}
	}
	return scanner.End(), commit, nil
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
