package archive

import (
	"cmp"
	"slices"

	"github.com/pgbak/pgbak/internal/postgres"
)

// horizon is where recovery stands and what is known of the archive before it.
type horizon struct {
	asked       postgres.WALFile
	segmentSize int64
	histories   []postgres.History
	// ends are, by timeline, the first segments after asked that are not in the
	// archive just now.
	ends map[postgres.Timeline]uint64
}

// next lists the count segments that recovery may ask for after asked, the
// nearest first. Which timeline it follows it does not say, so where another one
// leaves that of asked within these segments the list has both, the newer first, as PostgreSQL
// tries them (XLogFileReadAnyTLI).
func (h horizon) next(count int) []postgres.WALFile {
	var out []postgres.WALFile
	for n := h.asked.Segment + 1; n <= h.asked.Segment+uint64(count); n++ {
		for _, tli := range h.timelinesOf(n) {
			if end, ok := h.ends[tli]; ok && n >= end {
				continue
			}
			if out = append(out, postgres.WALFile{Kind: postgres.WALSegment, Timeline: tli, Segment: n}); len(out) == count {
				return out
			}
		}
	}
	return out
}

// timelinesOf gives the timelines whose segment n lies ahead, the newest first.
func (h horizon) timelinesOf(n uint64) []postgres.Timeline {
	asked := h.asked.Timeline
	out := []postgres.Timeline{asked}
	// The segment in which a timeline begins is read from that timeline, so the
	// last byte decides.
	last := postgres.WALFile{Segment: n + 1}.Start(h.segmentSize) - 1
	for _, history := range h.histories {
		i := slices.IndexFunc(history.Entries, func(e postgres.HistoryEntry) bool { return e.Timeline == asked })
		if i < 0 || history.Entries[i].Switch < h.asked.Start(h.segmentSize) {
			continue // it does not descend from asked, or left before
		}
		if tli := history.TimelineAt(last); tli > asked && !slices.Contains(out, tli) {
			out = append(out, tli)
		}
	}
	slices.SortFunc(out, func(a, b postgres.Timeline) int { return cmp.Compare(b, a) })
	return out
}
