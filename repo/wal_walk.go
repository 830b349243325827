package repo

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"sort"

	"github.com/pgbak/pgbak/internal/postgres"
)

// minSkipped is the number of marked segments in a row that are worth a request
// of their own to pass over: a request lists about as many.
const minSkipped = 1000

// WALRanges gives the runs of segments of an identity. What marks say is complete
// is not listed but at both ends, so that WAL that something else has removed
// from either end is missed; ListedWALRanges trusts no mark.
func (s *Stanza) WALRanges(ctx context.Context, id Identity) ([]WALRange, error) {
	marks, _, err := s.walMarks(ctx)
	if err != nil {
		return nil, err
	}
	return s.rangesWith(ctx, id, marks[id.Number].effective())
}

// ListedWALRanges is WALRanges by a list of every segment, from the segment first
// on to the segment last in the order of their names. A last of timeline 0 is the end.
func (s *Stanza) ListedWALRanges(ctx context.Context, id Identity, first, last postgres.WALFile) ([]WALRange, error) {
	w := s.newWALWalk(id, nil)
	w.after, w.last = w.before(first), last
	err := w.run(ctx)
	return w.out, err
}

func (s *Stanza) rangesWith(ctx context.Context, id Identity, marks walMarks) ([]WALRange, error) {
	out, _, err := s.rangesAndStrays(ctx, id, marks)
	return out, err
}

func (s *Stanza) rangesAndStrays(ctx context.Context, id Identity, marks walMarks) ([]WALRange, Strays, error) {
	w := s.newWALWalk(id, marks)
	err := w.run(ctx)
	return w.out, w.strays, err
}

// walWalk goes over an identity's segments in order and keeps only the runs.
type walWalk struct {
	stanza *Stanza
	id     Identity
	marks  walMarks         // its own: a mark that is found to be wrong is taken out
	after  string           // where the next list begins
	last   postgres.WALFile // where the walk ends; of timeline 0: nowhere
	out    []WALRange
	wrong  []WALRange // marked, but not there at one end
	strays Strays     // among what was listed
	limit  int        // keys to list at most; 0 is without limit
	listed int
}

func (s *Stanza) newWALWalk(id Identity, marks walMarks) *walWalk {
	w := &walWalk{stanza: s, id: id, marks: walMarks{}}
	for tli, runs := range marks {
		w.marks[tli] = slices.Clone(runs)
	}
	return w
}

// errEnoughListed ends a walk at its limit.
var errEnoughListed = errors.New("enough was listed")

// run lists from one marked run to the next.
func (w *walWalk) run(ctx context.Context) error {
	var over *WALRange // the marked run that was passed over last
	for {
		next, isThere, err := w.list(ctx, over)
		switch {
		case err != nil:
			return err
		case !isThere:
			w.distrust(*over)
			w.after, over = w.before(postgres.WALFile{Timeline: over.Timeline, Segment: over.First}), nil
		case next == nil:
			return nil
		default:
			// The last segment of the run is the first thing that the next list must show.
			over, w.after = next, w.before(postgres.WALFile{Timeline: next.Timeline, Segment: next.Last})
		}
	}
}

// list goes on to the beginning of the next marked run and gives it, nil at the
// end. The marked run over counts, and isThere is true, if its last
// segment is the first thing listed.
func (w *walWalk) list(ctx context.Context, over *WALRange) (next *WALRange, isThere bool, err error) {
	isThere = over == nil
	for f, err := range w.stanza.listWALBeside(ctx, w.id, walPrefix(w.stanza.name, w.id.Number), w.after, w.strays.add) {
		if err != nil {
			return nil, true, err
		}
		if w.listed++; w.limit > 0 && w.listed > w.limit {
			return nil, true, errEnoughListed
		}
		if !isThere {
			if f.Kind != postgres.WALSegment || f.Timeline != over.Timeline || f.Segment != over.Last {
				break
			}
			w.add(*over)
			isThere = true
			continue
		}
		if w.last.Timeline != 0 && (f.Timeline > w.last.Timeline || f.Timeline == w.last.Timeline && f.Segment > w.last.Segment) {
			break
		}
		if run, ok := w.marked(f); ok {
			if f.Kind == postgres.WALSegment && f.Segment == run.First {
				return &run, true, nil
			}
			w.distrust(run)
		}
		if f.Kind == postgres.WALSegment {
			w.add(WALRange{w.id.Number, f.Timeline, f.Segment, f.Segment})
		}
	}
	return nil, isThere, nil
}

func (w *walWalk) add(r WALRange) {
	if n := len(w.out) - 1; n >= 0 && w.out[n].Timeline == r.Timeline && w.out[n].Last+1 == r.First {
		w.out[n].Last = r.Last
		return
	}
	w.out = append(w.out, r)
}

// marked gives the marked run that a file lies in and that is not passed yet.
func (w *walWalk) marked(f postgres.WALFile) (WALRange, bool) {
	// They are in order, and each file that is listed is looked for among them.
	runs, log := w.marks[f.Timeline], f.Segment/postgres.SegmentsPerLog(w.id.SegmentSize)
	i := sort.Search(len(runs), func(i int) bool { return runs[i].last >= log })
	if i == len(runs) {
		return WALRange{}, false
	}
	run := runs[i].segments(w.id, f.Timeline)
	return run, run.First <= f.Segment && f.Segment < run.Last && run.Count() >= minSkipped
}

// distrust takes a run out of the marks: something has removed WAL without
// voiding them.
func (w *walWalk) distrust(run WALRange) {
	w.wrong = append(w.wrong, run)
	w.marks[run.Timeline] = slices.DeleteFunc(w.marks[run.Timeline], func(logs logRange) bool {
		return logs.segments(w.id, run.Timeline) == run
	})
}

// distrustHidden finds marked runs that were too short to be passed over, and so
// were listed, and are not there as a whole. They did no harm, but together with
// what will be marked beside them they could be passed over. Of a walk that
// was ended by its limit only what it came past can be judged.
func (w *walWalk) distrustHidden(isPartial bool) {
	end := WALRange{}
	if len(w.out) > 0 {
		end = w.out[len(w.out)-1]
	}
	for tli, runs := range w.marks {
		for _, logs := range slices.Clone(runs) {
			run := logs.segments(w.id, tli)
			isListed := !isPartial || tli < end.Timeline || tli == end.Timeline && run.Last <= end.Last
			if isListed && !slices.ContainsFunc(w.out, run.within) {
				w.distrust(run)
			}
		}
	}
}

// within tells whether all of r is in o.
func (r WALRange) within(o WALRange) bool {
	return r.Identity == o.Identity && r.Timeline == o.Timeline && o.First <= r.First && r.Last <= o.Last
}

// before is a place in the order of keys before the file and behind all that
// belongs to the segments before it.
func (w *walWalk) before(f postgres.WALFile) string {
	if f.Segment == 0 {
		return timelinePrefix(w.stanza.name, w.id.Number, f.Timeline)
	}
	f.Segment--
	return walKey(w.stanza.name, w.id, f) + "~"
}

// WALMarking is what MarkWAL did.
type WALMarking struct {
	Listed  int  // keys
	Marked  int  // marks that were put
	Removed int  // marks that were wrong, or are part of a larger one now
	Partial bool // the limit ended it: the next run goes on
}

// Bounds of MarkWAL: of one run, and of the marks that are put together.
const (
	maxMarkListed = 256 << 10
	fewMarks      = 64
)

// MarkWAL marks what is complete and not marked yet, as it is with an archive of
// an earlier version, or when pushing came to it out of order; it lists what is
// not marked, up to a bound, and goes on there the next time. Marks that
// were found to be wrong are removed, and many that lie in a row become one.
func (s *Stanza) MarkWAL(ctx context.Context, id Identity) (WALMarking, error) {
	if err := s.repo.config.checkWrite(s.repo.location()); err != nil {
		return WALMarking{}, err
	}
	return s.markWAL(ctx, id, maxMarkListed)
}

func (s *Stanza) markWAL(ctx context.Context, id Identity, limit int) (m WALMarking, err error) {
	all, _, err := s.walMarks(ctx)
	if err != nil {
		return m, err
	}
	set := all[id.Number]
	w := s.newWALWalk(id, set.effective())
	w.limit = limit
	err = w.run(ctx)
	m.Listed, m.Partial = w.listed, errors.Is(err, errEnoughListed)
	if err != nil && !m.Partial {
		return m, err
	}
	w.distrustHidden(m.Partial)
	if err := s.removeVoid(ctx, id, set, &m); err != nil {
		return m, err
	}
	for _, run := range w.wrong {
		if err := s.removeMarks(ctx, id, run.Timeline, set, &m, func(r logRange) bool {
			marked := r.segments(id, run.Timeline)
			return marked.First >= run.First && marked.Last <= run.Last
		}); err != nil {
			return m, err
		}
	}
	for _, run := range w.out {
		if err := s.markRun(ctx, id, run, set, w.marks, &m); err != nil {
			return m, err
		}
	}
	return m, nil
}

// markRun marks the complete logs of a run, all of which was listed or is marked.
func (s *Stanza) markRun(ctx context.Context, id Identity, run WALRange, set markSet, trusted walMarks, m *WALMarking) error {
	logs, ok := run.completeLogs(id)
	if !ok {
		return nil
	}
	known := append(slices.Clone(trusted[run.Timeline]), set.void[run.Timeline]...)
	for _, r := range subtractLogs([]logRange{logs}, joinLogs(known)) {
		if err := s.putMark(ctx, id, run.Timeline, r, ""); err != nil {
			return err
		}
		m.Marked++
	}
	// What is void stays so: pieces are put together between.
	for _, piece := range subtractLogs([]logRange{logs}, joinLogs(set.void[run.Timeline])) {
		if err := s.joinMarks(ctx, id, run.Timeline, piece, set, m); err != nil {
			return err
		}
	}
	return nil
}

// joinMarks makes one mark of many that lie in a row.
func (s *Stanza) joinMarks(ctx context.Context, id Identity, tli postgres.Timeline, logs logRange, set markSet, m *WALMarking) error {
	within := func(r logRange) bool { return logs.first <= r.first && r.last <= logs.last && r != logs }
	parts := 0
	for _, r := range set.put[tli] {
		if within(r) {
			parts++
		}
	}
	if parts < fewMarks {
		return nil
	}
	if err := s.putMark(ctx, id, tli, logs, ""); err != nil {
		return err
	}
	m.Marked++
	return s.removeMarks(ctx, id, tli, set, m, within)
}

// removeVoid removes marks all of which is void.
func (s *Stanza) removeVoid(ctx context.Context, id Identity, set markSet, m *WALMarking) error {
	for tli, voids := range set.void {
		void := joinLogs(voids)
		if err := s.removeMarks(ctx, id, tli, set, m, func(r logRange) bool { return len(subtractLogs([]logRange{r}, void)) == 0 }); err != nil {
			return err
		}
	}
	return nil
}

// removeMarks deletes marks, which is safe at any time: without them more is listed.
func (s *Stanza) removeMarks(ctx context.Context, id Identity, tli postgres.Timeline, set markSet, m *WALMarking, isRemoved func(logRange) bool) error {
	var keys []string
	for _, r := range set.put[tli] {
		if isRemoved(r) {
			keys = append(keys, markKey(s.name, id.Number, tli, r.first, r.last))
		}
	}
	if len(keys) == 0 {
		return nil
	}
	if err := s.repo.store.Delete(ctx, keys...); err != nil {
		return fmt.Errorf("remove marks of WAL: %w", err)
	}
	m.Removed += len(keys)
	return nil
}
