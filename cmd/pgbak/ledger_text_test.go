package main

import (
	"encoding/json"
	"fmt"
	"strings"
	"testing"

	"github.com/pgbak/pgbak/archive"
	"github.com/pgbak/pgbak/internal/hint"
	"github.com/pgbak/pgbak/repo"
)

// gapsAndConflicts has n gaps, the first of which is behind all that matters, and as many conflicts.
func gapsAndConflicts(n int) *repo.Catalog {
	c := sampleCatalog()
	c.Identities, c.Backups, c.WAL = c.Identities[1:], c.Backups[3:], nil
	c.WAL = append(c.WAL, repo.WALRange{Identity: 2, Timeline: 1, First: 1, Last: 2}, repo.WALRange{Identity: 2, Timeline: 1, First: 5, Last: 5})
	for i := range uint64(n) - 1 {
		c.WAL = append(c.WAL, repo.WALRange{Identity: 2, Timeline: 1, First: 7 + 2*i, Last: 7 + 2*i})
	}
	for i := range n {
		name := fmt.Sprintf("00000001%08X%08X", 0, i+5)
		c.Events = append(c.Events, repo.WALEvent{Kind: repo.WALConflict, Identity: 2, Timeline: 1, First: name, Last: name, Time: testClock()},
			repo.WALEvent{Kind: repo.WALForeign, Identity: 2, SystemID: uint64(i), Time: testClock()})
	}
	return c
}

func TestInfoShowsTheMostUrgentAndCountsTheRest(t *testing.T) {
	c := gapsAndConflicts(200)
	info, err := newRepositoryInfo(repositoryConfig{Name: "local"}, holdingsOf("none", c), nil)
	if err != nil {
		t.Fatal(err)
	}
	text := infoText([]stanzaInfo{{Name: "main", Repositories: []repositoryInfo{info}}}, false)
	if lines := strings.Count(text, "\n"); lines > 70 {
		t.Errorf("%d lines:\n%s", lines, text)
	}
	contains(t, text,
		"wal archive: 191 older runs of 192 segments, from 000000010000000000000001: 'pgbak ledger' shows them",
		"190 more wal gaps (189 open, 1 closed): 'pgbak ledger' shows them",
		"190 more wal conflicts (190 open): 'pgbak ledger' shows them",
		"190 more clusters whose wal was refused: 'pgbak ledger' shows them",
		"wal gap (timeline 1: 000000010000000100000092 to 000000010000000100000092 (1 segments): open, or still on its way)")
	if strings.Contains(text, "closed by") {
		t.Errorf("what is closed is shown before what is open:\n%s", text)
	}
	ledger := ledgerResult{Stanza: "main", Repositories: []ledgerRepository{newLedgerRepository("local", c, archive.NewLedger(c, 0))}}
	all := ledger.text()
	if n := strings.Count(all, "wal gap ("); n != 200 || strings.Contains(all, " more ") || strings.Count(all, "wal archive min/max") != 201 {
		t.Errorf("the ledger has %d gaps:\n%s", n, all)
	}
	raw, err := json.Marshal(info)
	if err != nil || strings.Count(string(raw), `"status":"open"`) != 199+200 {
		t.Errorf("%v, the JSON is not whole: %s", err, raw)
	}
}

func TestCheckTellsOfABoundedNumberOfGaps(t *testing.T) {
	ledgers := archive.NewLedger(gapsAndConflicts(200), 1).Identities
	problems := ledgerProblems("local", ledgers[0], nil)
	fatal := []string{}
	for _, p := range problems {
		if p.Fatal {
			fatal = append(fatal, p.Error.Error()+" "+hint.Of(p.Error))
		}
	}
	if len(fatal) != 2*(maxProblems+1) {
		t.Errorf("%d problems", len(fatal))
	}
	contains(t, strings.Join(fatal, "\n"), "179 more runs of WAL are missing in the archive, the last of them 000000010000000100000092 to 000000010000000100000092",
		"'pgbak ledger' shows them all", "180 more files were refused")
}

func TestTheTextSaysForWhichServerAGapIsOpen(t *testing.T) {
	gap := gapInfo{Timeline: 1, First: "A", Last: "B", Segments: 2, Status: "open", OpenOn: []uint32{1}}
	for _, c := range []struct {
		on   []uint32
		want string
	}{
		{[]uint32{1}, "timeline 1: A to B (2 segments): open, a new backup is needed"},
		{[]uint32{1, 2}, "timeline 1: A to B (2 segments): open if the server is on timeline 1, a new backup is needed"},
	} {
		if got := gap.text(c.on); got != c.want {
			t.Errorf("on %v: %q, want %q", c.on, got, c.want)
		}
	}
}
