package repo

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/pgbak/pgbak/internal/postgres"
	"github.com/pgbak/pgbak/storage"
)

// Marks. A stanza can hold millions of segments, and a list of them takes
// thousands of requests. A mark says of a range of logs (4 GiB of WAL each, see
// walKey) of one timeline that every segment of them is archived, so that who
// asks for the runs of segments need not list these.
//
// Laws: a mark is put only after a list has shown all of its segments. Who
// deletes WAL first voids its logs, for ever: a mark that another writer puts
// late, on a list from before, then counts for nothing. A mark saves reading and
// grants nothing; without any, all is listed.

const (
	walMarkFormat  = "pgbak-wal-mark"
	walVoidSuffix  = ".void"
	walMarkDigits  = 8
	walMarkNameLen = 2*walMarkDigits + 1
)

// logRange are consecutive logs of a timeline.
type logRange struct{ first, last uint64 }

func compareLogs(a, b logRange) int { return cmp.Compare(a.first, b.first) }

// walMarks are the logs, by timeline, that marks say are complete: ascending,
// disjoint, and with a gap between neighbours.
type walMarks map[postgres.Timeline][]logRange

// markSet is what is found under the marks of one identity.
type markSet struct {
	put, void walMarks // as they were put: in the order of their keys, overlapping
}

// effective are the marked logs without those that were voided.
func (m markSet) effective() walMarks {
	out := walMarks{}
	for tli, put := range m.put {
		if runs := subtractLogs(joinLogs(put), joinLogs(m.void[tli])); len(runs) > 0 {
			out[tli] = runs
		}
	}
	return out
}

// joinLogs puts together what overlaps or touches.
func joinLogs(in []logRange) []logRange {
	sorted := slices.Clone(in)
	slices.SortFunc(sorted, compareLogs)
	var out []logRange
	for _, r := range sorted {
		if n := len(out) - 1; n >= 0 && r.first <= out[n].last+1 {
			out[n].last = max(out[n].last, r.last)
			continue
		}
		out = append(out, r)
	}
	return out
}

// subtractLogs takes away from a what is in b; both as joinLogs gives them.
func subtractLogs(a, b []logRange) []logRange {
	var out []logRange
	for _, r := range a {
		for _, cut := range b {
			if cut.last < r.first || cut.first > r.last {
				continue
			}
			if cut.first > r.first {
				out = append(out, logRange{r.first, cut.first - 1})
			}
			r.first = cut.last + 1
		}
		if r.first <= r.last {
			out = append(out, r)
		}
	}
	return out
}

// walMarks reads the marks of all identities by one List, which gives the keys of
// the stanza's events too.
func (s *Stanza) walMarks(ctx context.Context) (marks map[int]markSet, events []string, err error) {
	marks = map[int]markSet{}
	for _, id := range s.identities {
		marks[id.Number] = markSet{walMarks{}, walMarks{}}
	}
	for obj, err := range s.repo.store.List(ctx, ledgerPrefix(s.name), "") {
		if err != nil {
			return nil, nil, fmt.Errorf("list the marks of stanza %s: %w", s.name, err)
		}
		name, isMark := strings.CutPrefix(obj.Key, stanzaMarksPrefix(s.name))
		if !isMark {
			if strings.HasPrefix(obj.Key, stanzaEventsPrefix(s.name)) {
				events = append(events, obj.Key)
			}
			continue
		}
		number, tli, r, isVoid, ok := parseMarkName(name)
		set, known := marks[number]
		switch {
		case !ok || !known: // not ours
		case isVoid:
			set.void[tli] = append(set.void[tli], r)
		default:
			set.put[tli] = append(set.put[tli], r)
		}
	}
	return marks, events, nil
}

// parseMarkName reads "00000001/00000001/0000000A-0000000C", with .void behind it
// or not. What is not exactly that is no mark.
func parseMarkName(name string) (identity int, tli postgres.Timeline, r logRange, isVoid, ok bool) {
	parts := strings.Split(name, "/")
	if len(parts) != 3 || len(parts[0]) != 8 {
		return
	}
	identity, err := strconv.Atoi(parts[0])
	logs, isVoid := strings.CutSuffix(parts[2], walVoidSuffix)
	if err != nil || identity < 1 || len(logs) != walMarkNameLen || logs[walMarkDigits] != '-' {
		return
	}
	t, ok1 := parseLog(parts[1])
	first, ok2 := parseLog(logs[:walMarkDigits])
	last, ok3 := parseLog(logs[walMarkDigits+1:])
	return identity, postgres.Timeline(t), logRange{first, last}, isVoid, ok1 && ok2 && ok3 && t > 0 && first <= last
}

// parseLog reads eight upper-case hexadecimal digits.
func parseLog(s string) (uint64, bool) {
	v, err := strconv.ParseUint(s, 16, 32)
	return v, err == nil && fmt.Sprintf("%08X", v) == s
}

// walMark is the content of a mark, for people: its name says all.
type walMark struct {
	Identity int               `json:"identity"`
	Timeline postgres.Timeline `json:"timeline"`
	First    string            `json:"first"` // names of segments
	Last     string            `json:"last"`
	Segments uint64            `json:"segments"`
}

// putMark puts a mark of logs that a list has just shown to be complete, or a void.
func (s *Stanza) putMark(ctx context.Context, id Identity, tli postgres.Timeline, r logRange, suffix string) error {
	perLog := postgres.SegmentsPerLog(id.SegmentSize)
	run := r.segments(id, tli)
	key := markKey(s.name, id.Number, tli, r.first, r.last) + suffix
	err := putDocument(ctx, s.repo.store, key, walMarkFormat, walMark{id.Number, tli,
		segmentName(id, tli, run.First), segmentName(id, tli, run.Last), (r.last - r.first + 1) * perLog}, storage.PutOptions{IfAbsent: true})
	if err != nil && !errors.Is(err, storage.ErrExist) {
		return fmt.Errorf("mark WAL as complete: %w", err)
	}
	return nil
}

func segmentName(id Identity, tli postgres.Timeline, n uint64) string {
	return postgres.WALFile{Kind: postgres.WALSegment, Timeline: tli, Segment: n}.Name(id.SegmentSize)
}

// segments are the segments of the logs.
func (r logRange) segments(id Identity, tli postgres.Timeline) WALRange {
	perLog := postgres.SegmentsPerLog(id.SegmentSize)
	return WALRange{Identity: id.Number, Timeline: tli, First: r.first * perLog, Last: (r.last+1)*perLog - 1}
}

// completeLogs are the logs that lie in a run as a whole.
func (r WALRange) completeLogs(id Identity) (logRange, bool) {
	perLog := postgres.SegmentsPerLog(id.SegmentSize)
	first, end := (r.First+perLog-1)/perLog, (r.Last+1)/perLog
	if first >= end {
		return logRange{}, false
	}
	return logRange{first, end - 1}, true
}

// markPatience bounds what marking adds to a push.
const markPatience = 10 * time.Second

// markAfter marks, if it is time, the log before that of the segment f, which
// was just archived: once for each log, when a quarter of the next is there and
// what was pushed out of order has arrived.
func (s *Stanza) markAfter(ctx context.Context, id Identity, f postgres.WALFile) error {
	perLog := postgres.SegmentsPerLog(id.SegmentSize)
	if f.Kind != postgres.WALSegment || f.Segment < perLog || f.Segment%perLog != perLog/4 {
		return nil
	}
	// PostgreSQL waits for the file, which is stored; a mark is not worth much waiting.
	ctx, cancel := context.WithTimeout(ctx, markPatience)
	defer cancel()
	_, err := s.markLog(ctx, id, f.Timeline, f.Segment/perLog-1)
	return err
}

// markLog marks one log if a List shows that it is complete.
func (s *Stanza) markLog(ctx context.Context, id Identity, tli postgres.Timeline, log uint64) (bool, error) {
	logs := logRange{log, log}
	run := logs.segments(id, tli)
	next := run.First
	for f, err := range s.listWAL(ctx, id, fmt.Sprintf("%s%08X/", timelinePrefix(s.name, id.Number, tli), log), "") {
		switch {
		case err != nil:
			return false, err
		case f.Kind != postgres.WALSegment:
			continue
		case f.Segment != next:
			return false, nil
		}
		next++
	}
	if next != run.Last+1 {
		return false, nil
	}
	return true, s.putMark(ctx, id, tli, logs, "")
}

// VoidWALMarks must have succeeded before WAL of these logs of a timeline is deleted,
// whether it is marked or not, and whoever marks at the same time: from then on marks
// of them count for nothing, also those that are put later on an older list.
// A void of logs that hold the segments first and last, and of all between, is enough;
// what of them stays is listed from then on.
func (s *Stanza) VoidWALMarks(ctx context.Context, id Identity, tli postgres.Timeline, first, last uint32) error {
	if err := s.repo.config.checkWrite(s.repo.location()); err != nil {
		return err
	}
	return s.putMark(ctx, id, tli, logRange{uint64(first), uint64(last)}, walVoidSuffix)
}
