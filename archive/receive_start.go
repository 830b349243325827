package archive

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"slices"

	"github.com/pgbak/pgbak/internal/hint"
	"github.com/pgbak/pgbak/internal/postgres"
	"github.com/pgbak/pgbak/internal/postgres/server"
	"github.com/pgbak/pgbak/internal/received"
	"github.com/pgbak/pgbak/repo"
	"github.com/pgbak/pgbak/storage"
)

// streamStart is where a stream begins: at the first byte of a segment, before
// which all WAL is in the directory, in the repositories, or recorded as missing.
type streamStart struct {
	timeline postgres.Timeline
	lsn      postgres.LSN
}

// follow fetches the history of a timeline and of all its ancestors, and makes
// them durable before any WAL of the timeline is asked for.
func (r *Receiver) follow(ctx context.Context, conn *server.ReplicationConn, tli postgres.Timeline) (postgres.History, error) {
	history, err := r.fetchHistory(ctx, conn, tli)
	if err != nil {
		return history, err
	}
	for _, e := range history.Entries {
		if _, err := r.fetchHistory(ctx, conn, e.Timeline); server.WALRemoved(err) {
			r.o.Log.Warn("the server has not got the history of an older timeline any more", "timeline", uint32(e.Timeline))
		} else if err != nil {
			return history, err
		}
	}
	r.rouse()
	return history, nil
}

func (r *Receiver) fetchHistory(ctx context.Context, conn *server.ReplicationConn, tli postgres.Timeline) (postgres.History, error) {
	if tli == 1 {
		r.histories[1] = postgres.History{Timeline: 1}
		return r.histories[1], nil
	}
	content, err := conn.TimelineHistory(ctx, tli)
	if err != nil {
		return postgres.History{}, err
	}
	if err := r.o.Directory.PutHistory(tli, content); err != nil {
		return postgres.History{}, err
	}
	history, err := postgres.ParseHistory(tli, content)
	if err == nil {
		r.histories[tli] = history
	}
	return history, err
}

// leads tells whether WAL up to end on a timeline is part of a history.
func leads(h postgres.History, tli postgres.Timeline, end postgres.LSN) bool {
	if tli == h.Timeline {
		return true
	}
	for _, e := range h.Entries {
		if e.Timeline == tli {
			return end <= e.Switch
		}
	}
	return false
}

// start finds out where to go on: behind what the directory holds, else behind
// what is archived, else where the slot or the server is.
func (r *Receiver) start(ctx context.Context, id received.Identity, system server.System, slot server.Slot, history postgres.History) (streamStart, error) {
	// A segment may have got its name just before this could not be made durable.
	if err := r.o.Directory.Sync(); err != nil {
		return streamStart{}, fmt.Errorf("%w: %s", errNotDurable, oneLine(err))
	}
	at, ok, err := r.o.Directory.Position(id)
	if err != nil {
		return streamStart{}, err
	}
	if ok && !leads(history, at.Timeline, at.End) {
		return streamStart{}, r.forked(history, at)
	}
	from := streamStart{at.Timeline, at.Next}
	if r.removed == nil && ok {
		return from, nil
	}
	serverStart := slotStart(system, slot, history, id.SegmentSize)
	if ok && !r.o.AcceptGap {
		return from, gone(from)
	}
	if !ok {
		unbroken, frontier, err := r.frontier(ctx, history, id.SegmentSize)
		if err != nil {
			return from, fmt.Errorf("find out up to where WAL is archived: %w", err)
		}
		if frontier == 0 {
			r.warnOfNoBackup(serverStart)
			return serverStart, nil
		}
		if r.removed == nil {
			return streamStart{history.TimelineAt(unbroken), unbroken}, nil
		}
		from = streamStart{history.TimelineAt(frontier), frontier}
		if r.removed.lsn < frontier { // an old gap, of which the ledger tells
			r.removed = nil
			return from, nil
		}
	}
	if serverStart.lsn <= from.lsn { // the slot itself is behind: only now is what there is
		serverStart = slotStart(system, server.Slot{}, history, id.SegmentSize)
	}
	r.removed = nil
	r.recordGap(ctx, id, history, from.lsn, serverStart.lsn)
	return serverStart, nil
}

// warnOfNoBackup says what an acknowledgement is worth where no repository has any WAL
// on the way of the server. There is no backup to recover from either then, since a
// backup is one only when its WAL is archived. Acknowledged is from the slot's start on,
// and so are commits before it, which nobody has: they are in the first backup, as is
// everything that its copy has seen. Its own WAL it waits for in the repository, so it
// cannot begin before what is received and come to its end. Hence from the first backup on
// all that was acknowledged can be restored, whenever that was, and before it nothing
// can, whatever is received. Not to acknowledge until then would help nobody: commits
// would wait, and would be as lost with the server as they are now.
func (r *Receiver) warnOfNoBackup(from streamStart) {
	r.o.Log.Warn("no WAL that leads here is archived, so there is no backup either: what is acknowledged can be restored as soon as the first backup is taken",
		"timeline", uint32(from.timeline), "from", from.lsn.String())
}

func segmentStart(lsn postgres.LSN, size int64) postgres.LSN { return lsn - lsn%postgres.LSN(size) }

// slotStart is the first segment that the server surely has: the one that the slot
// keeps, or the one being written.
func slotStart(system server.System, slot server.Slot, history postgres.History, size int64) streamStart {
	lsn := system.LSN
	if slot.Restart != 0 {
		lsn = slot.Restart
	}
	lsn = segmentStart(lsn, size)
	return streamStart{history.TimelineAt(lsn), lsn}
}

// forked refuses a server that went another way than what was received.
func (r *Receiver) forked(history postgres.History, at received.Position) error {
	what := fmt.Sprintf("what was received goes to %s on timeline %d, and the server is on timeline %d, which does not descend from it",
		at.End, at.Timeline, history.Timeline)
	for _, e := range history.Entries {
		if e.Timeline == at.Timeline {
			what = fmt.Sprintf("what was received goes to %s on timeline %d, and the server's timeline %d left that at %s already",
				at.End, at.Timeline, history.Timeline, e.Switch)
		}
	}
	return hint.Wrap(&refused{text: what},
		"commits that only this receiver has are in %s: 'pgbak restore --received' with --target-timeline %d brings them back. To follow this server instead, begin with an empty directory and keep the old one until nobody misses anything.",
		r.o.Directory.Path(), at.Timeline)
}

// gone says that the stream cannot be continued.
func gone(from streamStart) error {
	return hint.Wrap(fmt.Errorf("%w: from %s on timeline %d on", ErrWALGap, from.lsn, from.timeline),
		"unless archive_command brings it, recovery cannot cross the gap: run archive-receive with --accept-gap to go on behind it, and take a new backup at once. Without a slot, or beyond max_slot_wal_keep_size, a server removes WAL that nobody has received.")
}

// frontier is the first position on the way of a history behind all segments that
// are in every repository, 0 if there is no WAL of it at all. From unbroken on some
// segment before it is missing: archive_command may be about to bring it, and until
// then nobody may be told that it is safe.
func (r *Receiver) frontier(ctx context.Context, history postgres.History, size int64) (unbroken, frontier postgres.LSN, err error) {
	for _, t := range r.o.Pusher.targets {
		s, err := t.Open(ctx)
		if err != nil {
			return 0, 0, err
		}
		ranges, err := s.WALRanges(ctx, s.Current())
		if err != nil {
			return 0, 0, fmt.Errorf("repository %s: %w", t.Name, err)
		}
		if ranges, err = r.ofTheWay(ctx, t.Name, s, ranges, history); err != nil {
			return 0, 0, fmt.Errorf("repository %s: %w", t.Name, err)
		}
		end := archivedEnd(ranges, history, size)
		if end == 0 {
			continue
		}
		if whole := archivedUnbroken(ranges, history, end, size); frontier == 0 || whole < unbroken {
			unbroken = whole
		}
		if frontier == 0 || end < frontier {
			frontier = end
		}
	}
	return min(unbroken, frontier), frontier, nil
}

// ofTheWay are the runs of which the archived history proves that they are of the
// server's own way. Another server, such as a restored copy that was promoted, may
// have begun a timeline of the same number elsewhere: what that one archived says
// nothing of this one's WAL, and the conflict is told when the history is stored.
func (r *Receiver) ofTheWay(ctx context.Context, repository string, s *repo.Stanza, ranges []repo.WALRange, h postgres.History) ([]repo.WALRange, error) {
	proven := map[postgres.Timeline]bool{1: true}
	for i := range h.Entries {
		tli := h.Timeline
		if i+1 < len(h.Entries) {
			tli = h.Entries[i+1].Timeline
		}
		if !slices.ContainsFunc(ranges, func(r repo.WALRange) bool { return r.Timeline == tli }) {
			continue
		}
		archived, err := s.History(ctx, s.Current(), tli)
		switch {
		case errors.Is(err, storage.ErrNotExist), errors.Is(err, repo.ErrDamaged):
			r.o.Log.Warn("the archive has WAL of a timeline without its history; it does not count", "repository", repository, "timeline", uint32(tli), "error", oneLine(err))
		case err != nil:
			return nil, err
		case !samePath(archived.Entries, h.Entries[:i+1]):
			r.o.Log.Warn("the archive has WAL of another server's timeline of the same number; it does not count", "repository", repository,
				"archived", pathText(tli, archived.Entries), "this-server", pathText(tli, h.Entries[:i+1]))
		default:
			proven[tli] = true
		}
	}
	return slices.DeleteFunc(slices.Clone(ranges), func(r repo.WALRange) bool { return !proven[r.Timeline] }), nil
}

// inFlight is how far before the end of the archive segments may be missing that are
// still on their way: archive_command in batches brings some before others.
const inFlight = 256

// archivedUnbroken is the first position whose segment is missing among the last ones
// before the end of what is archived, else that end.
func archivedUnbroken(ranges []repo.WALRange, h postgres.History, end postgres.LSN, size int64) postgres.LSN {
	last := end.Segment(size)
	n := last - min(last, inFlight)
	for begun := false; n < last; n++ {
		at := postgres.LSN(n * uint64(size))
		tli := h.TimelineAt(at + postgres.LSN(size) - 1)
		there := slices.ContainsFunc(ranges, func(r repo.WALRange) bool {
			return r.Timeline == tli && r.First <= n && n <= r.Last
		})
		if !there && begun {
			return at
		}
		begun = begun || there
	}
	return end
}

// archivedEnd is the position behind the last archived segment on the way of a
// history, 0 if there is none. The segment in which a timeline ended goes on under
// the next one's name.
func archivedEnd(ranges []repo.WALRange, h postgres.History, size int64) (end postgres.LSN) {
	for _, r := range ranges {
		last := postgres.LSN((r.Last + 1) * uint64(size))
		for _, e := range h.Entries {
			if e.Timeline == r.Timeline {
				last = min(last, segmentStart(e.Switch, size))
			}
		}
		if first := postgres.LSN(r.First * uint64(size)); first < last && leads(h, r.Timeline, first) {
			end = max(end, last)
		}
	}
	return end
}

// recordGap says in the log and in every repository that WAL was not received.
func (r *Receiver) recordGap(ctx context.Context, id received.Identity, h postgres.History, from, to postgres.LSN) {
	if from >= to {
		return
	}
	r.o.Log.Warn("WAL is missing: the server has not got it any more, so recovery ends before it unless it is archived in another way; take a new backup",
		"from", from.String(), "to", to.String())
	for _, e := range missingEvents(h, id.SegmentSize, from, to) {
		for _, t := range r.o.Pusher.targets {
			s, err := t.Open(ctx)
			if err == nil {
				err = s.RecordWALEvent(ctx, s.Current(), e)
			}
			if err != nil {
				r.o.Log.Warn("the missing WAL could not be recorded", "repository", t.Name, "error", oneLine(err))
			}
		}
	}
}

// missingEvents tells of a range of positions, timeline by timeline.
func missingEvents(h postgres.History, size int64, from, to postgres.LSN) []repo.WALEvent {
	var events []repo.WALEvent
	for at := from; at < to; {
		tli, end := h.TimelineAt(at+postgres.LSN(size)-1), to
		for _, e := range h.Entries {
			if e.Timeline == tli {
				end = min(to, segmentStart(e.Switch, size))
			}
		}
		end = max(end, at+postgres.LSN(size))
		name := func(lsn postgres.LSN) string {
			return postgres.WALFile{Kind: postgres.WALSegment, Timeline: tli, Segment: lsn.Segment(size)}.Name(size)
		}
		events = append(events, repo.WALEvent{Kind: repo.WALNotReceived, Timeline: tli, First: name(at), Last: name(end - 1),
			Message: "archive-receive went on behind WAL that the server had not got any more"})
		at = end
	}
	return events
}

// switched goes on with the next timeline, if it really begins where the old one
// ended.
func (r *Receiver) switched(ctx context.Context, conn *server.ReplicationConn, id received.Identity, old streamStart, next server.NextTimeline) (streamStart, error) {
	history, err := r.follow(ctx, conn, next.Timeline)
	if err != nil {
		return old, err
	}
	if next.Timeline <= old.timeline || !leads(history, old.timeline, next.Begin) || history.Begin() != next.Begin {
		return old, fmt.Errorf("the server says that timeline %d goes on as timeline %d at %s, which %s does not say",
			old.timeline, next.Timeline, next.Begin, postgres.WALFile{Kind: postgres.WALHistory, Timeline: next.Timeline}.Name(0))
	}
	// A standby that was behind has sent less than an earlier server, before it was promoted.
	if at, ok, err := r.o.Directory.Position(id); err != nil {
		return old, err
	} else if ok && !leads(history, at.Timeline, at.End) {
		return old, r.forked(history, at)
	}
	r.o.Log.Info("the server has begun a new timeline", "timeline", uint32(next.Timeline), "at", next.Begin.String())
	return streamStart{next.Timeline, segmentStart(next.Begin, id.SegmentSize)}, nil
}

// sharedWith tells which timeline a segment began on, and how many of its bytes
// are that timeline's.
func (r *Receiver) sharedWith(f postgres.WALFile, size int64) (postgres.Timeline, int64) {
	h, ok := r.histories[f.Timeline]
	if !ok {
		var err error
		if h, err = r.o.Directory.History(f.Timeline); errors.Is(err, fs.ErrNotExist) || err != nil {
			return 0, 0
		}
	}
	if len(h.Entries) == 0 || h.Begin().Segment(size) != f.Segment {
		return 0, 0
	}
	return h.Entries[len(h.Entries)-1].Timeline, int64(h.Begin() - f.Start(size))
}
