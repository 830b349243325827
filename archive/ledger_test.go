package archive

import (
	"fmt"
	"math/rand/v2"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/pgbak/pgbak/internal/postgres"
	"github.com/pgbak/pgbak/repo"
)

const ledgerSegment = 16 << 20

// books is a catalogue under construction.
type books struct{ repo.Catalog }

func newBooks() *books {
	return &books{repo.Catalog{Stanza: "main", Histories: map[int][]postgres.History{},
		Identities: []repo.Identity{{Number: 1, SystemID: 7, Major: 17, SegmentSize: ledgerSegment}}}}
}

func (b *books) wal(tli postgres.Timeline, first, last uint64) *books {
	b.WAL = append(b.WAL, repo.WALRange{Identity: 1, Timeline: tli, First: first, Last: last})
	return b
}

// history is of a timeline that left each of the others in a segment, at its middle.
func (b *books) history(tli postgres.Timeline, left ...uint64) *books {
	h := postgres.History{Timeline: tli}
	for i := 0; i < len(left); i += 2 {
		h.Entries = append(h.Entries, postgres.HistoryEntry{Timeline: postgres.Timeline(left[i]), Switch: postgres.LSN(left[i+1]*ledgerSegment + ledgerSegment/2)})
	}
	b.Histories[1] = append(b.Histories[1], h)
	return b
}

func ledgerTime(hour uint64) time.Time { return time.Date(2026, 11, 20, int(hour), 0, 0, 0, time.UTC) }

// backup begins in the middle of a segment and ends in the middle of another, at the hour of its first segment.
func (b *books) backup(label string, tli postgres.Timeline, first, last uint64) *books {
	b.Backups = append(b.Backups, repo.BackupInfo{Label: repo.Label(label), Header: repo.BackupHeader{Label: repo.Label(label), Identity: b.Identities[0], Timeline: tli,
		Start: repo.BackupPoint{Time: ledgerTime(first), LSN: postgres.LSN(first*ledgerSegment + 40)},
		Stop:  repo.BackupPoint{Time: ledgerTime(first), LSN: postgres.LSN(last*ledgerSegment + ledgerSegment/4)}}})
	return b
}

func (b *books) event(kind repo.WALEventKind, tli postgres.Timeline, first, last uint64) *books {
	l := IdentityLedger{Identity: b.Identities[0]}
	b.Events = append(b.Events, repo.WALEvent{Kind: kind, Identity: 1, Timeline: tli, First: l.Name(tli, first), Last: l.Name(tli, last), Time: ledgerTime(5), Note: "known"})
	return b
}

// gapText tells of the ways on which it is open if there are several.
func gapText(g Gap, on int) string {
	text := fmt.Sprintf("%d:%d-%d %s", g.Timeline, g.First, g.Last, g.Standing)
	if len(g.OpenOn) > 0 && on > 1 {
		text += fmt.Sprint(" on ", g.OpenOn)
	}
	if g.ClosedBy != "" {
		text += " " + string(g.ClosedBy)
	}
	if g.IsDropped {
		text += " dropped"
	}
	if g.IsRecent {
		text += " recent"
	}
	return text
}

func TestGapsAndWhetherTheyMatter(t *testing.T) {
	for _, c := range []struct {
		title string
		books *books
		want  string
	}{
		{"nothing at all", newBooks(), ""},
		{"a run", newBooks().wal(1, 3, 900), ""},
		{"a gap that no backup closes", newBooks().wal(1, 3, 9).wal(1, 12, 900).backup("A", 1, 4, 5), "1:10-11 open"},
		{"a gap near the end may still be filled", newBooks().wal(1, 3, 9).wal(1, 12, 75), "1:10-11 open recent"},
		{"with one segment more behind it no longer", newBooks().wal(1, 3, 9).wal(1, 12, 76), "1:10-11 open"},
		{"a backup behind it closes it", newBooks().wal(1, 3, 9).wal(1, 12, 900).backup("A", 1, 4, 5).backup("B", 1, 12, 13).backup("C", 1, 14, 14), "1:10-11 closed B"},
		{"one that begins in the last segment before does not", newBooks().wal(1, 3, 9).wal(1, 12, 900).backup("B", 1, 9, 13), "1:10-11 open"},
		{"nor one without its own WAL", newBooks().wal(1, 3, 9).wal(1, 12, 12).wal(1, 14, 900).backup("B", 1, 12, 13), "1:10-11 open; 1:13-13 open"},
		{"nor an expired one", func() *books {
			b := newBooks().wal(1, 3, 9).wal(1, 12, 900).backup("B", 1, 12, 13)
			b.Backups[0].Tombed = true
			return b
		}(), "1:10-11 open"},
		{"nor one on a branch aside", newBooks().wal(1, 3, 9).wal(1, 12, 20).wal(1, 22, 30).history(2, 1, 15).wal(2, 15, 900).backup("B", 1, 22, 23), "1:10-11 open on [00000002]; 1:21-21 closed B recent"},
		{"acknowledged as a whole", newBooks().wal(1, 3, 9).wal(1, 12, 900).event(repo.WALGapAcknowledged, 1, 10, 11), "1:10-11 acknowledged"},
		{"acknowledged piece by piece", newBooks().wal(1, 3, 9).wal(1, 12, 900).event(repo.WALGapAcknowledged, 1, 10, 10).event(repo.WALGapAcknowledged, 1, 11, 30), "1:10-11 acknowledged"},
		{"acknowledged in part", newBooks().wal(1, 3, 9).wal(1, 12, 900).event(repo.WALGapAcknowledged, 1, 11, 12), "1:10-11 open"},
		{"acknowledged of another timeline", newBooks().wal(1, 3, 9).wal(1, 12, 900).event(repo.WALGapAcknowledged, 2, 10, 11), "1:10-11 open"},
		{"dropped, and later WAL is there", newBooks().wal(1, 3, 9).wal(1, 12, 900).event(repo.WALDropped, 1, 10, 11), "1:10-11 open dropped"},
		{"dropped at the end", newBooks().wal(1, 3, 9).event(repo.WALDropped, 1, 10, 11), "1:10-11 open dropped recent"},
		{"dropped, and pushed all the same", newBooks().wal(1, 3, 11).event(repo.WALDropped, 1, 10, 11), ""},
		{"dropped, and a backup taken", newBooks().wal(1, 3, 9).wal(1, 12, 900).event(repo.WALDropped, 1, 10, 11).backup("B", 1, 12, 12), "1:10-11 closed B dropped"},
		{"not received, nor pushed", newBooks().wal(1, 3, 9).event(repo.WALNotReceived, 1, 10, 11), "1:10-11 open recent"},
		{"not received, but pushed", newBooks().wal(1, 3, 11).event(repo.WALNotReceived, 1, 10, 11), ""},
		{"a promotion without a loss", newBooks().wal(1, 3, 9).history(2, 1, 10).wal(2, 10, 900), ""},
		{"what the old primary took with it", newBooks().wal(1, 3, 7).history(2, 1, 10).wal(2, 10, 900), "1:8-9 open"},
		{"what the new one has not archived", newBooks().wal(1, 3, 9).history(2, 1, 10).wal(2, 12, 900), "2:10-11 open"},
		{"all of a timeline between", newBooks().wal(1, 3, 9).history(2, 1, 10).history(3, 1, 10, 2, 13).wal(3, 13, 900), "2:10-12 open"},
		{"a timeline that began and ended in one segment", newBooks().wal(1, 3, 9).history(2, 1, 10).history(3, 1, 10, 2, 10).wal(3, 10, 900), ""},
		{"the old primary went on, with a gap", newBooks().wal(1, 3, 9).wal(1, 12, 15).history(2, 1, 10).wal(2, 10, 900), "1:10-11 open on [00000001] recent"},
		{"half of a gap leads on", newBooks().wal(1, 3, 7).wal(1, 12, 15).history(2, 1, 10).wal(2, 10, 900), "1:8-9 open on [00000001 00000002]; 1:10-11 open on [00000001] recent"},
		{"a backup after the promotion closes what was lost at it", newBooks().wal(1, 3, 7).history(2, 1, 10).wal(2, 10, 900).backup("B", 2, 11, 12), "1:8-9 closed B"},
		{"without the history nobody knows what is aside", newBooks().wal(1, 3, 9).wal(1, 12, 15).wal(2, 13, 900), "1:10-11 open on [00000001 00000002]"},
		{"a rehearsal that was promoted and archived", newBooks().wal(1, 3, 900).history(2, 1, 10).wal(2, 10, 11), ""},
		{"the server loses something behind a rehearsal", newBooks().wal(1, 3, 20).wal(1, 22, 900).history(2, 1, 10).wal(2, 10, 11).backup("A", 1, 4, 4), "1:21-21 open on [00000001]"},
		{"though the rehearsal got further and was backed up", newBooks().wal(1, 3, 20).wal(1, 22, 900).history(2, 1, 10).wal(2, 10, 999).backup("B", 2, 950, 950), "1:21-21 open on [00000001]"},
		{"a backup of the rehearsal closes nothing for the server", newBooks().wal(1, 3, 6).wal(1, 8, 900).history(2, 1, 10).wal(2, 10, 12).backup("B", 2, 11, 11), "1:7-7 open on [00000001]"},
		{"one of each closes it", newBooks().wal(1, 3, 6).wal(1, 8, 900).history(2, 1, 10).wal(2, 10, 12).backup("B", 2, 11, 11).backup("C", 1, 30, 31), "1:7-7 closed C"},
		{"the rehearsal itself has lost something", newBooks().wal(1, 3, 900).history(2, 1, 10).wal(2, 10, 11).wal(2, 13, 80), "2:12-12 open on [00000002]"},
		{"of two rehearsals neither is the server", newBooks().wal(1, 3, 20).wal(1, 22, 900).history(2, 1, 10).wal(2, 10, 11).history(3, 1, 12).wal(3, 12, 90), "1:21-21 open on [00000001]"},
		{"the server is on the lower one of two promotions", newBooks().wal(1, 3, 10).history(2, 1, 10).wal(2, 10, 20).wal(2, 22, 900).history(3, 1, 10).wal(3, 10, 11), "2:21-21 open on [00000002]"},
		{"a timeline that has gone over into another one", newBooks().wal(1, 3, 9).history(2, 1, 10).wal(2, 10, 14).history(3, 1, 10, 2, 20).wal(3, 20, 900), "2:15-19 open"},
		{"two forks at the same place, both of which go on", newBooks().wal(1, 3, 9).history(2, 1, 10).wal(2, 10, 20).wal(2, 22, 100).history(3, 1, 10).wal(3, 10, 20).wal(3, 23, 100).backup("A", 1, 4, 4), "2:21-21 open on [00000002]; 3:21-22 open on [00000003]"},
		{"each is closed for itself", newBooks().wal(1, 3, 9).history(2, 1, 10).wal(2, 10, 20).wal(2, 22, 100).history(3, 1, 10).wal(3, 10, 20).wal(3, 23, 100).backup("B", 2, 30, 30).backup("C", 3, 30, 30), "2:21-21 closed B; 3:21-22 closed C"},
		{"the history of a timeline between is lost", newBooks().wal(1, 3, 9).wal(2, 10, 12).wal(2, 14, 19).history(3, 1, 10, 2, 20).wal(3, 20, 100), "2:13-13 open"},
		{"the history of the newest is lost", newBooks().wal(1, 3, 5).wal(1, 7, 9).wal(2, 10, 100).backup("A", 1, 8, 8), "1:6-6 open on [00000002]"},
		{"a backup on a dead timeline closes nothing on the other", newBooks().wal(1, 3, 9).wal(1, 11, 30).history(2, 1, 13).wal(2, 13, 100).backup("A", 1, 20, 21), "1:10-10 open on [00000002]"},
		{"acknowledged, and pushed after all", newBooks().wal(1, 3, 30).event(repo.WALGapAcknowledged, 1, 10, 11), ""},
		{"acknowledged, and pushed in part", newBooks().wal(1, 3, 10).wal(1, 12, 100).event(repo.WALGapAcknowledged, 1, 10, 11), "1:11-11 acknowledged"},
		{"acknowledged, and more was lost beside it", newBooks().wal(1, 3, 9).wal(1, 13, 100).event(repo.WALGapAcknowledged, 1, 10, 11), "1:10-12 open"},
		{"dropped by the server, behind where a rehearsal left it", newBooks().wal(1, 3, 9).history(2, 1, 9).wal(2, 9, 900).event(repo.WALDropped, 1, 10, 11), "1:10-11 open on [00000001] dropped recent"},
	} {
		var got []string
		l := NewLedger(&c.books.Catalog, 0).Identities[0]
		for _, g := range l.Gaps {
			got = append(got, gapText(g, len(l.Timelines)))
		}
		if text := strings.Join(got, "; "); text != c.want {
			t.Errorf("%s: %q, want %q", c.title, text, c.want)
		}
	}
}

func TestTheServersTimelineDecidesWhatIsAside(t *testing.T) {
	b := newBooks().wal(1, 3, 20).wal(1, 22, 900).history(2, 1, 10).wal(2, 10, 11)
	for current, want := range map[postgres.Timeline]Standing{0: Open, 2: Aside, 1: Open} {
		if got := NewLedger(&b.Catalog, current).Identities[0].Gaps; len(got) != 1 || got[0].Standing != want {
			t.Errorf("on timeline %d: %v, want %s", current, got, want)
		}
	}
}

func TestConflicts(t *testing.T) {
	at := func(b *books, hour uint64) *books { b.Events[len(b.Events)-1].Time = ledgerTime(hour); return b }
	conflict := func() *books { return newBooks().wal(1, 3, 30).event(repo.WALConflict, 1, 10, 10) }
	history := func() *books {
		b := newBooks().wal(1, 3, 9).history(2, 1, 10).wal(2, 10, 30)
		b.Events = []repo.WALEvent{{Kind: repo.WALHistoryConflict, Identity: 1, Timeline: 2, First: "00000002.history", Last: "00000002.history"}}
		return b
	}
	noted := history()
	noted.Events = append(noted.Events, repo.WALEvent{Kind: repo.WALGapAcknowledged, Identity: 1, Timeline: 2, First: "00000002.history", Last: "00000002.history"})
	for _, c := range []struct {
		title string
		books *books
		want  Standing
	}{
		{"it alarms", conflict(), Open},
		{"beside a way that does not take it", conflict().history(2, 1, 5).wal(2, 5, 40), Open},
		{"a history beside", history().history(3, 1, 8).wal(3, 8, 30), Open},
		{"a backup from before closes nothing", at(conflict(), 13).backup("B", 1, 12, 12), Open},
		{"a later one does", at(conflict(), 11).backup("B", 1, 12, 12), Closed},
		{"but not one that needs the segment", at(conflict(), 4).backup("B", 1, 10, 12), Open},
		{"acknowledged", conflict().event(repo.WALGapAcknowledged, 1, 10, 10), Acknowledged},
		{"another one was acknowledged before", at(conflict().event(repo.WALGapAcknowledged, 1, 10, 10), 4), Open},
		{"a history", history(), Open},
		{"a history that is known", noted, Acknowledged},
	} {
		got := NewLedger(&c.books.Catalog, 0).Identities[0].Conflicts
		if len(got) != 1 || got[0].Standing != c.want {
			t.Errorf("%s: %+v, want %s", c.title, got, c.want)
		}
	}
	for title, b := range map[string]*books{"aside": conflict().history(2, 1, 5).wal(2, 5, 40), "a history aside": history().history(3, 1, 8).wal(3, 8, 30)} {
		if got := NewLedger(&b.Catalog, b.Histories[1][len(b.Histories[1])-1].Timeline).Identities[0].Conflicts; len(got) != 1 || got[0].Standing != Aside {
			t.Errorf("%s: the server says so, but %+v", title, got)
		}
	}
}

func TestOnlyWhatIsMissingIsAcknowledged(t *testing.T) {
	b := newBooks().wal(1, 3, 9).wal(1, 12, 20).wal(1, 22, 30).event(repo.WALConflict, 1, 15, 15)
	l := NewLedger(&b.Catalog, 0).Identities[0]
	for _, c := range []struct {
		first, last uint64
		want        string
	}{
		{10, 11, "10-11 "},
		{11, 11, "11-11 "},
		{1, 12, "10-11 "},
		{10, 9999, "10-11 21-21 15-15 "},
		{12, 14, ""},
		{22, 9999, ""},
	} {
		got := ""
		for _, e := range l.Within(l.Name(1, c.first), l.Name(1, c.last)) {
			_, s, ok := segmentsOf(l.Identity, e)
			if got += fmt.Sprintf("%d-%d ", s.first, s.last); !ok || (s.first == 15) != e.Time.Equal(ledgerTime(5)) {
				t.Errorf("%+v", e)
			}
		}
		if got != c.want {
			t.Errorf("of %d to %d: %q, want %q", c.first, c.last, got, c.want)
		}
	}
}

func TestHowFarRecoveryGets(t *testing.T) {
	b := newBooks().wal(1, 3, 9).history(2, 1, 10).wal(2, 10, 20).wal(2, 23, 30).backup("A", 1, 4, 5).backup("B", 2, 12, 13).backup("C", 2, 20, 21).backup("D", 2, 24, 24)
	want := map[repo.Label]string{
		"A": "1:000000010000000000000009 true false; 2:000000020000000000000014 true true",
		"B": "2:000000020000000000000014 true true",
		"C": "2:000000020000000000000014 false true",
		"D": "2:00000002000000000000001E true false",
	}
	text := func(r Reach) string { return fmt.Sprintf("%d:%s %t %t", r.Timeline, r.Last, r.IsConsistent, r.IsGap) }
	for _, r := range NewLedger(&b.Catalog, 0).Identities[0].Backups {
		got := text(r.Own)
		for _, other := range r.Others {
			got += "; " + text(other)
		}
		if got != want[r.Label] {
			t.Errorf("%s: %s, want %s", r.Label, got, want[r.Label])
		}
	}
}

// The judge looks at each segment by itself.
func TestGapsAreTheSegmentsThatAreMissing(t *testing.T) {
	for seed := range uint64(3000) {
		random := rand.New(rand.NewPCG(seed, 9))
		b := newBooks()
		there := map[[2]uint64]bool{}
		begin := map[uint64]uint64{}
		newest := uint64(1 + random.IntN(4))
		switches := []uint64{}
		last := uint64(0)
		for tli := uint64(1); tli <= newest; tli++ {
			begin[tli] = last
			if tli > 1 {
				switches = append(switches, tli-1, last)
				b.history(postgres.Timeline(tli), switches...)
			}
			end := last + random.Uint64N(12)
			for n := max(last, 1); n <= end+random.Uint64N(4); n++ { // some goes on behind the switch
				if random.IntN(4) > 0 {
					there[[2]uint64{tli, n}] = true
					b.wal(postgres.Timeline(tli), n, n)
				}
			}
			last = end
		}
		missing := map[[2]uint64]bool{}
		for tli := uint64(1); tli <= newest; tli++ {
			first, most := uint64(1<<62), uint64(0)
			for k := range there {
				if k[0] == tli {
					first, most = min(first, k[1]), max(most, k[1])
				}
			}
			for n := range uint64(64) {
				amid := first <= n && n <= most
				head := tli > 1 && most > 0 && begin[tli] <= n && n < first
				onWay := tli < newest && n < begin[tli+1] && (tli > 1 && n >= begin[tli] || tli == 1 && n >= first)
				if (amid || head || onWay) && !there[[2]uint64{tli, n}] {
					missing[[2]uint64{tli, n}] = true
				}
			}
		}
		l := NewLedger(&b.Catalog, postgres.Timeline(newest)).Identities[0]
		for _, g := range l.Gaps {
			for n := g.First; n <= g.Last; n++ {
				key := [2]uint64{uint64(g.Timeline), n}
				if !missing[key] {
					t.Fatalf("seed %d: %v is no gap", seed, key)
				}
				delete(missing, key)
				leads := key[0] == newest || n < begin[key[0]+1]
				if leads != (g.Standing == Open) {
					t.Fatalf("seed %d: %s, but leads on is %t", seed, gapText(g, 1), leads)
				}
			}
		}
		if len(missing) > 0 {
			t.Fatalf("seed %d: %v is missing, gaps %v, switches %v", seed, missing, l.Gaps, switches)
		}
		if !slices.IsSortedFunc(l.Gaps, func(x, y Gap) int { return strings.Compare(l.Name(x.Timeline, x.First), l.Name(y.Timeline, y.First)) }) {
			t.Fatalf("seed %d: gaps out of order", seed)
		}
	}
}

// Every second segment is missing: each gap may cost only what lies around it.
func TestALedgerOfManyGapsIsWorkedOutInTime(t *testing.T) {
	const n = 200_000
	b := newBooks().backup("A", 1, 4, 5)
	for i := uint64(0); i < n; i++ {
		b.wal(1, 4+2*i, 4+2*i)
	}
	begin := time.Now()
	gaps := NewLedger(&b.Catalog, 0).Identities[0].Gaps
	recent := 0
	for _, g := range gaps {
		if g.IsRecent {
			recent++
		}
	}
	if len(gaps) != n-1 || recent != recentSegments {
		t.Errorf("%d gaps, %d of them recent", len(gaps), recent)
	}
	// It takes a part of a second; by looks at all runs for each gap it took a minute.
	if took := time.Since(begin); took > 20*time.Second {
		t.Errorf("it took %s", took)
	}
}
