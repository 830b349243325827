package restore

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/pgbak/pgbak/internal/hint"
	"github.com/pgbak/pgbak/internal/postgres"
	"github.com/pgbak/pgbak/repo"
)

const testSegment = 16 << 20

// at is a position: an offset in a segment.
func at(segment uint64, offset uint32) postgres.LSN {
	return postgres.LSN(segment*testSegment + uint64(offset))
}

// clock is the made-up moment of a minute of the day.
func clock(minute int) time.Time {
	return time.Date(2026, 11, 20, 12, 0, 0, 0, time.UTC).Add(time.Duration(minute) * time.Minute)
}

// world is a made-up archive: a catalogue and the events in the WAL.
type world struct {
	catalog  repo.Catalog
	happened []postgres.WALEvent
	on       []postgres.Timeline     // of the events
	ends     map[string]postgres.LSN // by segment name: where the WAL ends inside of it
	read     []string                // names of the segments that were read
	broken   map[string]error        // by segment name
}

func newWorld() *world {
	id := repo.Identity{Number: 1, SystemID: 7, Major: 18, SegmentSize: testSegment, BlockSize: 8192}
	return &world{catalog: repo.Catalog{Stanza: "main", Identities: []repo.Identity{id}, Histories: map[int][]postgres.History{}}}
}

func (w *world) identity() repo.Identity { return w.catalog.Identities[len(w.catalog.Identities)-1] }

// backup adds a backup that took a minute.
func (w *world) backup(label string, tli postgres.Timeline, start, stop postgres.LSN, minute int) *world {
	h := repo.BackupHeader{Label: repo.Label(label), Type: repo.Full, Identity: w.identity(), Timeline: tli,
		Start: repo.BackupPoint{Time: clock(minute - 1), LSN: start}, Stop: repo.BackupPoint{Time: clock(minute), LSN: stop}}
	w.catalog.Backups = append(w.catalog.Backups, repo.BackupInfo{Label: h.Label, Header: h})
	return w
}

func (w *world) wal(tli postgres.Timeline, first, last uint64) *world {
	w.catalog.WAL = append(w.catalog.WAL, repo.WALRange{Identity: w.identity().Number, Timeline: tli, First: first, Last: last})
	return w
}

func (w *world) history(tli postgres.Timeline, parents ...postgres.HistoryEntry) *world {
	n := w.identity().Number
	w.catalog.Histories[n] = append(w.catalog.Histories[n], postgres.History{Timeline: tli, Entries: parents})
	return w
}

func from(tli postgres.Timeline, lsn postgres.LSN) postgres.HistoryEntry {
	return postgres.HistoryEntry{Timeline: tli, Switch: lsn}
}

func (w *world) event(tli postgres.Timeline, e postgres.WALEvent) *world {
	e.End = e.LSN + 48
	w.happened, w.on = append(w.happened, e), append(w.on, tli)
	return w
}

func (w *world) commit(tli postgres.Timeline, lsn postgres.LSN, minute int, xid uint32) *world {
	return w.event(tli, postgres.WALEvent{LSN: lsn, Kind: postgres.WALCommit, XID: xid, Time: clock(minute)})
}

func (w *world) point(tli postgres.Timeline, lsn postgres.LSN, minute int, name string) *world {
	return w.event(tli, postgres.WALEvent{LSN: lsn, Kind: postgres.WALRestorePoint, Time: clock(minute), Name: name})
}

// events implements walReader.
func (w *world) events(ctx context.Context, r reach, first, last uint64, emit func(postgres.WALEvent) error) (lastRecord, error) {
	end := r.path.start(last + 1)
	for n := first; n <= last; n++ {
		name := r.path.name(n)
		w.read = append(w.read, name)
		if !r.holds(n) {
			return lastRecord{}, fmt.Errorf("the choice asks for %s, which is not there", name)
		}
		if err := w.broken[name]; err != nil {
			return lastRecord{}, err
		}
		if inside, ok := w.ends[name]; ok {
			end = inside
		}
		var here []postgres.WALEvent
		for i, e := range w.happened {
			if e.LSN.Segment(testSegment) == n && w.on[i] == r.path.history.TimelineAt(e.LSN) {
				here = append(here, e)
			}
		}
		slices.SortFunc(here, func(a, b postgres.WALEvent) int { return cmp.Compare(a.LSN, b.LSN) })
		for _, e := range here {
			if err := emit(e); err != nil {
				return lastRecord{e.LSN, e.End}, err
			}
		}
	}
	return lastRecord{end - 48, end}, nil // a commit or restore point has 48 bytes here
}

func (w *world) decide(t Target, set string) (decision, error) {
	q := request{target: t, set: repo.Label(set), catalog: &w.catalog, wal: w}
	return q.decide(context.Background())
}

const (
	first  = "20261120-120000F"
	second = "20261120-121000F"
	third  = "20261120-122000F"
)

// line is one timeline, two backups, WAL without a hole, a commit a minute.
func line() *world {
	w := newWorld().wal(1, 1, 40).backup(first, 1, at(2, 40), at(3, 800), 2).backup(second, 1, at(12, 40), at(13, 800), 12)
	for n := uint64(1); n <= 40; n++ {
		w.commit(1, at(n, 1000), int(n), uint32(700+n))
	}
	return w
}

// choice is a row of the tables below.
type choice struct {
	title  string
	world  *world
	target Target
	set    string

	backup   string // the one that is chosen
	needed   string // the last segment that recovery reads
	timeline string // recovery_target_timeline
	says     string // in warnings and notes
	refused  string // in the error
	hint     string // in the hint of a refusal
}

func (c choice) run(t *testing.T) {
	t.Helper()
	d, err := c.world.decide(c.target, c.set)
	if c.refused != "" {
		if err == nil || !strings.Contains(err.Error(), c.refused) {
			t.Fatalf("error %v, want one with %q", err, c.refused)
		}
		if !errors.Is(err, ErrUnreachable) && !errors.Is(err, repo.ErrNoBackup) && !errors.Is(err, repo.ErrDamaged) {
			t.Errorf("error %v is none that callers tell apart", err)
		}
		if h := hint.Of(err); !strings.Contains(h, c.hint) {
			t.Errorf("hint %q, want one with %q", h, c.hint)
		}
		return
	}
	if err != nil {
		t.Fatalf("refused: %v (hint: %s)", err, hint.Of(err))
	}
	if string(d.Label) != c.backup {
		t.Errorf("backup %s, want %s", d.Label, c.backup)
	}
	if c.needed != "" && d.reach.path.name(d.needed) != c.needed {
		t.Errorf("needs WAL up to %s, want %s", d.reach.path.name(d.needed), c.needed)
	}
	if c.timeline != "" && d.setting != c.timeline {
		t.Errorf("recovery_target_timeline %s, want %s", d.setting, c.timeline)
	}
	said := strings.Join(append(d.warnings, d.notes...), "\n")
	if !strings.Contains(said, c.says) || c.says == "" && said != "" {
		t.Errorf("says %q, want %q in it", said, c.says)
	}
}

func runChoices(t *testing.T, cases []choice) {
	t.Helper()
	for _, c := range cases {
		t.Run(c.title, c.run)
	}
}

func timeTarget(minute int, seconds ...int) Target {
	t := clock(minute)
	for _, s := range seconds {
		t = t.Add(time.Duration(s) * time.Second)
	}
	return Target{Type: TargetTime, Time: t}
}

func exclusive(t Target) Target { t.Exclusive = true; return t }

func TestChoiceOnOneTimeline(t *testing.T) {
	holed := func() *world { // segment 20 is lost
		w := line()
		w.catalog.WAL = nil
		return w.wal(1, 1, 19).wal(1, 21, 40)
	}
	ended := func() *world { // the last record begins at 4952 of segment 40 and ends at 5000
		w := line()
		w.ends = map[string]postgres.LSN{"000000010000000000000028": at(40, 5000)}
		return w
	}
	torn := func() *world { // segment 13, in the second backup, is lost
		w := line()
		w.catalog.WAL = nil
		return w.wal(1, 1, 12).wal(1, 14, 40)
	}
	runChoices(t, []choice{
		{title: "latest takes the newest backup and all WAL", world: line(), backup: second, needed: "000000010000000000000028", timeline: "latest"},
		{title: "latest from a named backup", world: line(), set: first, backup: first, needed: "000000010000000000000028"},
		{title: "immediate needs the WAL of the backup only, on its own timeline", world: line(), target: Target{Type: TargetImmediate},
			backup: second, needed: "00000001000000000000000D", timeline: "current"},
		{title: "latest warns of a gap behind the backup and says where recovery ends", world: holed(), backup: second,
			needed: "000000010000000000000013", says: "000000010000000000000014 is not in the archive, though later WAL is: recovery ends before it, at 0/14000000"},
		{title: "a gap inside the backup refuses, and the older window is named", world: torn(),
			refused: "needs the WAL from 00000001000000000000000C to 00000001000000000000000D, but 00000001000000000000000D is not in the archive",
			hint:    "from the end of backup " + first},
		{title: "a named older backup works up to the gap", world: torn(), set: first, backup: first, says: "recovery ends before it, at 0/D000000"},

		{title: "lsn takes the newest backup that ended before it", world: line(), target: Target{Type: TargetLSN, LSN: at(20, 0)}, backup: second, needed: "000000010000000000000014"},
		{title: "lsn at the very end of the backup is consistent", world: line(), target: Target{Type: TargetLSN, LSN: at(13, 800)}, backup: second},
		{title: "lsn inside a backup takes the one before it", world: line(), target: Target{Type: TargetLSN, LSN: at(13, 799)}, backup: first},
		{title: "lsn before every backup is refused", world: line(), target: Target{Type: TargetLSN, LSN: at(3, 799)},
			refused: "lies before the end of backup " + first + " at 0/3000320", hint: "from the end of backup " + first},
		{title: "lsn inside a named backup is refused", world: line(), set: second, target: Target{Type: TargetLSN, LSN: at(13, 799)}, refused: "lies before the end of backup " + second},
		{title: "lsn behind a gap is refused and the first missing segment named", world: holed(), target: Target{Type: TargetLSN, LSN: at(30, 0)},
			refused: "000000010000000000000014 is not in the archive", hint: "to the last transaction at 2026-11-20 12:19:00+00"},
		{title: "lsn before a gap needs nothing behind it", world: holed(), target: Target{Type: TargetLSN, LSN: at(19, 0)}, backup: second, needed: "000000010000000000000013"},
		{title: "lsn behind the archive is refused", world: line(), target: Target{Type: TargetLSN, LSN: at(41, 0)}, refused: "000000010000000000000029 is not in the archive"},
		{title: "lsn behind the last record is refused", world: ended(), target: Target{Type: TargetLSN, LSN: at(40, 5000)}, refused: "the WAL that follows backup " + second + " ends at 0/28001388"},
		{title: "lsn inside the last record is refused, for no record begins there", world: ended(), target: Target{Type: TargetLSN, LSN: at(40, 4953)},
			refused: "no record begins at 0/28001359 or later (the last begins at 0/28001358)"},
		{title: "lsn at the beginning of the last record stops there", world: ended(), target: Target{Type: TargetLSN, LSN: at(40, 4952)}, backup: second},

		{title: "time takes the newest backup that ended before it", world: line(), target: timeTarget(20, 30), backup: second, needed: "000000010000000000000015", timeline: "1"},
		{title: "time of a commit, inclusive, stops at the next one", world: line(), target: timeTarget(20), backup: second, needed: "000000010000000000000015"},
		{title: "time of a commit, exclusive, stops at it", world: line(), target: exclusive(timeTarget(20)), backup: second, needed: "000000010000000000000014"},
		{title: "time of a backup's end takes the one before it", world: line(), target: timeTarget(12), backup: first},
		{title: "time before every backup is refused", world: line(), target: timeTarget(2), refused: "lies before the end of backup " + first, hint: "from the end of backup " + first},
		{title: "time of the last commit, inclusive, cannot be told from a later one", world: line(), target: timeTarget(40),
			refused: "is not before the last transaction in the WAL that follows backup " + second + ", which ended at 2026-11-20 12:40:00+00"},
		{title: "time of the last commit, exclusive, stops at it", world: line(), target: exclusive(timeTarget(40)), backup: second, needed: "000000010000000000000028"},
		{title: "time behind the archive is refused with the last commit", world: line(), target: timeTarget(50), refused: "2026-11-20 12:40:00+00", hint: "to the last transaction at 2026-11-20 12:40:00+00"},
		{title: "time behind a gap is refused and the first missing segment named", world: holed(), target: timeTarget(30),
			refused: "000000010000000000000014 is not in the archive, though later WAL is", hint: "12:19:00+00"},
		{title: "time before a gap is fine", world: holed(), target: timeTarget(18, 30), backup: second, needed: "000000010000000000000013"},
		{title: "time without any transaction behind the backup is refused", world: newWorld().wal(1, 1, 9).backup(first, 1, at(2, 40), at(3, 800), 2),
			target: timeTarget(5), refused: "holds no transaction", hint: "to the end of 000000010000000000000009"},

		{title: "xid is found in the WAL and the backup before it taken", world: line(), target: Target{Type: TargetXID, XID: 725}, backup: second, needed: "000000010000000000000019", timeline: "1"},
		{title: "xid between the backups takes the older", world: line(), target: Target{Type: TargetXID, XID: 707}, backup: first, needed: "000000010000000000000007"},
		{title: "xid inside a backup takes the one before it", world: line(), target: Target{Type: TargetXID, XID: 712}, backup: first},
		{title: "xid in the segment of the backup's end, behind it, takes it", world: line(), target: Target{Type: TargetXID, XID: 713}, backup: second},
		{title: "xid is compared in its lower half", world: line(), target: Target{Type: TargetXID, XID: 1<<32 | 725}, backup: second},
		{title: "xid that is nowhere is refused with the range", world: line(), target: Target{Type: TargetXID, XID: 5},
			refused: "transaction 5 is not in the WAL from 0/3000320 (the end of backup " + first + ") to 000000010000000000000028"},
		{title: "xid before a named backup is refused", world: line(), set: second, target: Target{Type: TargetXID, XID: 707}, refused: "the end of backup " + second},
		{title: "xid behind a gap is refused", world: holed(), target: Target{Type: TargetXID, XID: 730}, refused: "000000010000000000000013"},

		{title: "name takes the newest backup before it", world: line().point(1, at(20, 9), 20, "here"), target: Target{Type: TargetName, Name: "here"}, backup: second, needed: "000000010000000000000014"},
		{title: "of several of one name the first behind the backup counts, and a note says so",
			world: line().point(1, at(20, 9), 20, "here").point(1, at(30, 9), 30, "here"), target: Target{Type: TargetName, Name: "here"},
			backup: second, needed: "000000010000000000000014", says: "another restore point \"here\" follows at 0/1E000009"},
		{title: "a name inside the newest backup takes the one before it", world: line().point(1, at(12, 900), 12, "here"),
			target: Target{Type: TargetName, Name: "here"}, backup: first, needed: "00000001000000000000000C"},
		{title: "a name inside and behind the newest backup would stop it too early",
			world:  line().point(1, at(12, 900), 12, "here").point(1, at(30, 9), 30, "here"),
			target: Target{Type: TargetName, Name: "here"}, backup: first, needed: "00000001000000000000000C"},
		{title: "a name that is nowhere is refused", world: line(), target: Target{Type: TargetName, Name: "here"}, refused: `restore point "here" is not in the WAL`},
	})
}

func TestChoiceAmongTimelines(t *testing.T) {
	// Timeline 2 leaves 1 in the middle of segment 20, 3 leaves 2 in segment 30.
	forks := func() *world {
		w := line().history(2, from(1, at(20, 4096))).wal(2, 20, 34).
			history(3, from(1, at(20, 4096)), from(2, at(30, 4096))).wal(3, 30, 38)
		for n := uint64(20); n <= 34; n++ {
			w.commit(2, at(n, 8192), 100+int(n), uint32(1000+n))
		}
		for n := uint64(30); n <= 38; n++ {
			w.commit(3, at(n, 16384), 200+int(n), uint32(2000+n))
		}
		return w
	}
	dead := func() *world { return forks().backup(third, 1, at(25, 40), at(26, 800), 26) } // after timeline 2 had left
	late := func() *world {                                                                // timeline 2 has been begun, but no segment of it is there
		return line().history(2, from(1, at(41, 0)))
	}
	runChoices(t, []choice{
		{title: "latest follows the timelines to the newest", world: forks(), backup: second, needed: "000000030000000000000026", timeline: "latest",
			says: "timeline 1 was left for timeline 2 at 0/14001000, but its WAL in the archive goes on to 000000010000000000000028"},
		{title: "the segment of a switch is read from the younger timeline", world: forks(), target: Target{Type: TargetLSN, LSN: at(20, 0)},
			backup: second, needed: "000000020000000000000014", timeline: "3"},
		{title: "current stays on the backup's timeline", world: forks(), target: Target{Timeline: "current"}, backup: second, needed: "000000010000000000000028", timeline: "current"},
		{title: "a timeline by number", world: forks(), target: Target{Timeline: "2"}, backup: second, needed: "000000020000000000000022", timeline: "2"},
		{title: "a backup on a dead branch is refused by name, with the timelines it leads to", world: dead(), set: third,
			refused: "timeline 3 leaves timeline 1 at 0/14001000, before the backup's end at 0/1A000320", hint: "backup " + third + " leads to timeline 1"},
		{title: "a backup on a dead branch can be had on its own timeline", world: dead(), set: third, target: Target{Timeline: "current"}, backup: third, needed: "000000010000000000000028"},
		{title: "immediate takes a backup on a dead branch as it is", world: dead(), target: Target{Type: TargetImmediate}, backup: third, timeline: "current"},
		{title: "time on the old branch of a timeline", world: forks(), target: Target{Type: TargetTime, Time: clock(30).Add(time.Second), Timeline: "current"},
			backup: second, needed: "00000001000000000000001F", timeline: "current"},
		{title: "time after two promotions", world: forks(), target: timeTarget(235, 30), backup: second, needed: "000000030000000000000024", timeline: "3",
			says: "timeline 2 was left for timeline 3 at 0/1E001000"},
		{title: "xid on a branch that the path does not take is not found", world: forks(), target: Target{Type: TargetXID, XID: 1034}, refused: "is not in the WAL"},
		{title: "the same xid on its own timeline", world: forks(), target: Target{Type: TargetXID, XID: 1034, Timeline: "2"}, backup: second, needed: "000000020000000000000022"},
		{title: "a timeline without a history file is refused", world: forks(), target: Target{Timeline: "9"}, refused: "timeline 9 has no history file", hint: "leads to timeline 1, 2, 3"},
		{title: "a timeline that PostgreSQL would not find is not passed over in silence",
			world:   line().history(3, from(1, at(20, 4096))).wal(3, 20, 30),
			refused: "timeline 3 descends from it, but PostgreSQL looks no further than timeline 1 because 00000002.history is not in the archive"},
		{title: "it can be named", world: line().history(3, from(1, at(20, 4096))).wal(3, 20, 30), target: Target{Timeline: "3"}, backup: second, needed: "00000003000000000000001E"},
		{title: "a switch at the border of two segments", world: newWorld().wal(1, 1, 19).wal(2, 20, 25).history(2, from(1, at(20, 0))).backup(first, 1, at(2, 40), at(3, 800), 2),
			backup: first, needed: "000000020000000000000019"},
		{title: "the first segment of a timeline missing is a gap", world: newWorld().wal(1, 1, 20).wal(2, 21, 25).history(2, from(1, at(20, 4096))).backup(first, 1, at(2, 40), at(3, 800), 2),
			backup: first, needed: "000000010000000000000013", says: "000000020000000000000014 is not in the archive, though later WAL is"},
		{title: "a timeline that has no WAL yet is said", world: late(), backup: second, needed: "000000010000000000000028",
			says: "the archive holds the history of timeline 2, which begins at 0/29000000, but no WAL of it"},
		{title: "a backup on a later timeline whose history was never archived", world: newWorld().wal(5, 1, 9).backup(first, 5, at(2, 40), at(3, 800), 2),
			backup: first, timeline: "latest"},
		{title: "its number is told to PostgreSQL as current, for it would look for the history file", world: newWorld().wal(5, 1, 9).backup(first, 5, at(2, 40), at(3, 800), 2),
			target: Target{Timeline: "5"}, backup: first, timeline: "current"},
		{title: "a backup that ended right at the switch leads on", world: newWorld().wal(1, 1, 3).wal(2, 3, 9).history(2, from(1, at(3, 800))).backup(first, 1, at(2, 40), at(3, 800), 2),
			backup: first, needed: "000000020000000000000009"},
		{title: "two switches in one segment", world: newWorld().wal(1, 1, 4).wal(3, 5, 9).history(2, from(1, at(5, 100))).history(3, from(1, at(5, 100)), from(2, at(5, 4000))).
			backup(first, 1, at(2, 40), at(3, 800), 2), backup: first, needed: "000000030000000000000009"},
		{title: "decreasing switch points, as PostgreSQL may write them", world: newWorld().wal(1, 1, 4).wal(3, 5, 9).history(2, from(1, at(8, 0))).history(3, from(1, at(8, 0)), from(2, at(5, 0))).
			backup(first, 1, at(2, 40), at(3, 800), 2), backup: first, needed: "000000030000000000000009"},
	})
}

func TestChoiceAmongBackups(t *testing.T) {
	tombed := line()
	tombed.catalog.Backups[1].Tombed = true
	damagedOne := line()
	damagedOne.catalog.Backups[1] = repo.BackupInfo{Label: second, Err: &repo.DamagedError{Key: "stanzas/main/backups/" + second, Err: errors.New("torn")}}
	damagedAll := newWorld().wal(1, 1, 9)
	damagedAll.catalog.Backups = damagedOne.catalog.Backups[1:]
	upgraded := line()
	upgraded.catalog.Identities = append(upgraded.catalog.Identities, repo.Identity{Number: 2, SystemID: 8, Major: 18, SegmentSize: testSegment})
	pages := line()
	pages.catalog.Backups[1].Header.PageErrorCount = 3
	brokenHistory := line()
	brokenHistory.catalog.DamagedHistories = []repo.DamagedHistory{{Identity: 1, Timeline: 2, Err: &repo.DamagedError{Key: "wal/2.history", Err: errors.New("torn")}}}
	otherHistory := line()
	otherHistory.catalog.DamagedHistories = []repo.DamagedHistory{{Identity: 9, Timeline: 2, Err: errors.New("torn")}}
	unread := line()
	unread.broken = map[string]error{"000000010000000000000028": &repo.DamagedError{Key: "wal/28", Err: errors.New("torn")}}
	runChoices(t, []choice{
		{title: "an expired backup is not used", world: tombed, backup: first},
		{title: "an expired backup is refused by name", world: tombed, set: second, refused: "backup does not exist", hint: first},
		{title: "a label that is not there is refused with those that are", world: line(), set: third, refused: "backup does not exist", hint: first + ", " + second},
		{title: "a damaged manifest is said, and another backup used", world: damagedOne, backup: first, says: "backup " + second + " cannot be used: object stanzas/main/backups/" + second + " is damaged"},
		{title: "a damaged manifest is refused by name", world: damagedOne, set: second, refused: "is damaged"},
		{title: "nothing but damaged manifests", world: damagedAll, refused: "no backup can be used"},
		{title: "no backup at all", world: newWorld(), refused: "backup does not exist", hint: "pgbak backup"},
		{title: "backups of the cluster before an upgrade are not used", world: upgraded, refused: "system identifier 8", hint: "--set"},
		{title: "but can be named", world: upgraded, set: second, backup: second},
		{title: "damaged pages are said", world: pages, backup: second, says: "holds 3 damaged pages"},
		{title: "a damaged history hides which timeline is the newest", world: brokenHistory, refused: "the history of timeline 2 cannot be read: object wal/2.history is damaged", hint: "--target-timeline current"},
		{title: "but not a timeline that is named", world: brokenHistory, target: Target{Type: TargetLatest, Timeline: TimelineCurrent}, backup: second, says: "wal/2.history is damaged"},
		{title: "that of another cluster is of no account", world: otherHistory, backup: second},
		{title: "latest only warns of WAL that cannot be read", world: unread, backup: second, says: "wal/28 is damaged"},
		{title: "time cannot be proven with WAL that cannot be read", world: unread, target: timeTarget(20), refused: "wal/28 is damaged"},
	})
}

// A transaction takes its time before its place in the WAL, so the next one may
// show an earlier time. The first record past the target counts.
func TestTimesThatDoNotAscend(t *testing.T) {
	w := line()
	w.event(1, postgres.WALEvent{LSN: at(18, 9000), Kind: postgres.WALCommit, XID: 901, Time: clock(18).Add(30500 * time.Millisecond)})
	for i := range w.happened {
		if w.happened[i].XID == 719 { // in segment 19, where the search looks
			w.happened[i].Time = clock(18).Add(30200 * time.Millisecond)
		}
	}
	for label, ms := range map[string]int{"between": 30300, "before": 30100} {
		d, err := w.decide(Target{Type: TargetTime, Time: clock(18).Add(time.Duration(ms) * time.Millisecond)}, "")
		if err != nil || d.stop.XID != 901 {
			t.Errorf("%s: recovery would stop at %+v (%v), want transaction 901", label, d.stop, err)
		}
	}
}

func TestATimeIsFoundInFewSegments(t *testing.T) {
	w := newWorld().wal(1, 1, 5000).backup(first, 1, at(2, 40), at(3, 800), 2)
	for n := uint64(3); n <= 5000; n++ {
		if n%7 == 0 { // most segments hold no transaction
			w.commit(1, at(n, 1000), int(n), uint32(n))
		}
	}
	d, err := w.decide(timeTarget(3000, 1), "")
	if err != nil {
		t.Fatal(err)
	}
	if d.stop.XID != 3003 {
		t.Errorf("recovery would stop at transaction %d, want 3003", d.stop.XID)
	}
	if len(w.read) > 150 {
		t.Errorf("%d segments were read to find it", len(w.read))
	}
}
