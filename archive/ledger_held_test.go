package archive

import (
	"errors"
	"slices"
	"strings"
	"testing"

	"github.com/pgbak/pgbak/internal/postgres"
	"github.com/pgbak/pgbak/internal/waltest"
	"github.com/pgbak/pgbak/repo"
	"github.com/pgbak/pgbak/storage"
	"github.com/pgbak/pgbak/storage/mem"
)

// What cannot be restored is no way to anywhere, and closes no gap.
func TestTheLedgerKnowsOnlyBackupsThatCanBeUsed(t *testing.T) {
	for title, spoil := range map[string]func(b *repo.BackupInfo){
		"expired":                   func(b *repo.BackupInfo) { b.Tombed = true },
		"damaged":                   func(b *repo.BackupInfo) { b.Err = errors.New("damaged") },
		"of another cluster":        func(b *repo.BackupInfo) { b.Header.Identity.Number = 2 },
		"without a place":           func(b *repo.BackupInfo) { b.Header.Start.LSN = 0 },
		"which ends where it began": nil, // it closes none, but can be looked at
	} {
		t.Run(title, func(t *testing.T) {
			b := newBooks().wal(1, 3, 9).wal(1, 12, 200).backup("A", 1, 4, 5).backup("B", 1, 14, 15)
			l := NewLedger(&b.Catalog, 0).Identities[0]
			if len(l.Backups) != 2 || len(l.Gaps) != 1 || l.Gaps[0].Standing != Closed || l.Gaps[0].ClosedBy != "B" {
				t.Fatalf("with all of them sound: %+v", l)
			}
			left := 1
			if spoil == nil {
				b.Backups[1].Header.Stop.LSN, left = b.Backups[1].Header.Start.LSN, 2
			} else {
				spoil(&b.Backups[1])
			}
			l = NewLedger(&b.Catalog, 0).Identities[0]
			if len(l.Backups) != left || len(l.Gaps) != 1 || l.Gaps[0].Standing != Open {
				t.Errorf("%d backups, gaps %+v", len(l.Backups), l.Gaps)
			}
		})
	}
}

func TestTheLedgerSaysWhichHistoriesAreNotThere(t *testing.T) {
	b := newBooks().wal(1, 1, 9).wal(2, 9, 12).wal(3, 12, 15).wal(4, 15, 20).history(2, 1, 9)
	b.DamagedHistories = []repo.DamagedHistory{{Identity: 1, Timeline: 3}, {Identity: 2, Timeline: 4}}
	l := NewLedger(&b.Catalog, 0).Identities[0]
	if !slices.Equal(l.NoHistory, []postgres.Timeline{4}) || len(l.Damaged) != 1 || l.Damaged[0].Timeline != 3 {
		t.Errorf("missing %v, damaged %+v", l.NoHistory, l.Damaged)
	}
}

// Where recovery ends is said by records that were read and proved, or not at all.
func TestTheEndOfTheWALIsReadFromTheSegmentItself(t *testing.T) {
	w := waltest.New(7, 0x100000).To(0x480000)
	id := repo.Identity{SystemID: 7, Major: 18, SegmentSize: waltest.SegmentSize, BlockSize: waltest.PageSize}
	whole := append(w.Segment(4, 0x480000), make([]byte, 0x80000)...)
	for title, c := range map[string]struct {
		content []byte
		failed  string
		until   postgres.LSN
	}{
		"its WAL ends inside":      {whole, "", w.ValidTo(0x480000)},
		"all of it is WAL":         {waltest.New(7, 0x100000).To(0x600000).Whole(4), "", waltest.New(7, 0x100000).To(0x600000).ValidTo(0x500000)},
		"it is short":              {whole[:1000], "000000010000000000000004: it has 1000 bytes, want 1048576", 0},
		"it is of another cluster": {waltest.New(8, 0x100000).To(0x500000).Whole(4), "is damaged (is of another cluster): it has system identifier 8, not 7", 0},
		"it is another one":        {w.Whole(3), "0/300000", 0},
		"it is no WAL":             {make([]byte, waltest.SegmentSize), "WAL page header", 0},
		"it is not in archive":     {nil, "000000010000000000000004", 0},
	} {
		t.Run(title, func(t *testing.T) {
			s := newStanza(t, mem.New(), id)
			put := func(n uint64, content []byte) {
				t.Helper()
				f := postgres.WALFile{Kind: postgres.WALSegment, Timeline: 1, Segment: n}
				if _, err := s.PutWAL(t.Context(), s.Current(), f, repo.NewWALContent(storage.Bytes(content))); err != nil {
					t.Fatal(err)
				}
			}
			put(2, w.Whole(2))
			put(3, w.Whole(3))
			if c.content != nil {
				put(4, c.content)
			}
			catalog := &repo.Catalog{Stanza: "main", Identities: []repo.Identity{s.Current()}, Histories: map[int][]postgres.History{},
				WAL: []repo.WALRange{{Identity: s.Current().Number, Timeline: 1, First: 2, Last: 4}},
				Backups: []repo.BackupInfo{{Label: "A", Header: repo.BackupHeader{Label: "A", Identity: s.Current(), Timeline: 1,
					Start: repo.BackupPoint{LSN: 0x200028}, Stop: repo.BackupPoint{LSN: 0x200100}}}}}
			l := NewLedger(catalog, 0)
			failed := l.ReadEnds(t.Context(), s)
			if c.failed == "" && len(failed) > 0 || c.failed != "" && (len(failed) != 1 || !strings.Contains(failed[0].Error(), c.failed)) {
				t.Errorf("failed: %v, want %q", failed, c.failed)
			}
			if got := l.Identities[0].Backups[0].Own.Until; got != c.until {
				t.Errorf("it ends at %s, want %s", got, c.until)
			}
		})
	}
}

func TestABackupIsConsistentWithTheLastByteOfItsWAL(t *testing.T) {
	for stop, want := range map[postgres.LSN]bool{10*ledgerSegment - 1: true, 10 * ledgerSegment: true, 10*ledgerSegment + 1: false} {
		b := newBooks().wal(1, 3, 9).backup("A", 1, 4, 5)
		b.Backups[0].Header.Stop.LSN = stop
		if r := NewLedger(&b.Catalog, 0).Identities[0].Backups[0].Own; r.IsConsistent != want {
			t.Errorf("it ends at %s: consistent is %t", stop, r.IsConsistent)
		}
	}
}

func TestABackupThatATimelineLeavesOutDoesNotLeadToIt(t *testing.T) {
	b := newBooks().wal(1, 3, 20).history(2, 1, 10).wal(2, 10, 20).backup("A", 1, 4, 5).backup("B", 1, 12, 13)
	for _, r := range NewLedger(&b.Catalog, 0).Identities[0].Backups {
		if (len(r.Others) > 0) != (r.Label == "A") {
			t.Errorf("%s leads to the newest timeline: %+v", r.Label, r.Others)
		}
	}
}

func TestConflictsAreOfTheirCluster(t *testing.T) {
	b := newBooks().wal(1, 3, 20).event(repo.WALConflict, 1, 15, 15).event(repo.WALHistoryConflict, 1, 16, 16)
	b.Events[1].Identity = 2
	if l := NewLedger(&b.Catalog, 0).Identities[0]; len(l.Conflicts) != 1 || l.Conflicts[0].First != l.Name(1, 15) {
		t.Errorf("%+v", l.Conflicts)
	}
}
