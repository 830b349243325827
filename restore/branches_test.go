package restore

import (
	"errors"
	"math"
	"strings"
	"testing"

	"github.com/pgbak/pgbak/internal/hint"
	"github.com/pgbak/pgbak/internal/postgres"
)

// rehearsed is an archive whose newest timeline is not the one of the work: a
// rehearsal was promoted at minute 20 and wrote ten minutes on timeline 2,
// while timeline 1 went on and had a third backup at minute 26.
func rehearsed() *world {
	w := line().history(2, from(1, at(20, 4096))).wal(2, 20, 30).backup(third, 1, at(25, 40), at(26, 800), 26)
	for n := uint64(21); n <= 30; n++ {
		w.commit(2, at(n, 8192), int(n), uint32(1000+n))
	}
	return w
}

func TestChoiceAmongBranches(t *testing.T) {
	tombed := rehearsed()
	tombed.catalog.Backups[2].Tombed = true
	torn := rehearsed()
	torn.catalog.WAL = nil
	torn.wal(1, 1, 25).wal(1, 27, 40).wal(2, 20, 30)
	newer := rehearsed().backup("20261120-122900F", 2, at(28, 40), at(29, 800), 29)
	goesOn := "timeline 1 was left for timeline 2 at 0/14001000, but its WAL in the archive goes on to 000000010000000000000028"
	unclear := "the newest timeline 2 does not contain backup " + third + ", which ended at 2026-11-20 12:26:00+00 (0/1A000320) on timeline 1; " +
		"the newest on the way to timeline 2 is the older backup " + second
	runChoices(t, []choice{
		{title: "a newer backup is not passed over for the newest timeline without a word", world: rehearsed(), refused: unclear,
			hint: "current, or 1, is the branch of backup " + third + " (the newest), with WAL up to 000000010000000000000028; " +
				"2, or latest, is the one that was begun last, at 0/14001000, with backup " + second + " before it and WAL up to 00000002000000000000001E"},
		{title: "current takes it", world: rehearsed(), target: Target{Timeline: "current"}, backup: third, needed: "000000010000000000000028"},
		{title: "its number takes it", world: rehearsed(), target: Target{Timeline: "1"}, backup: third, needed: "000000010000000000000028"},
		{title: "latest in so many words takes the newest timeline and says what it passes over", world: rehearsed(), target: Target{Timeline: "latest"},
			backup: second, needed: "00000002000000000000001E", says: "the newest timeline is 2, and backup " + third + ", which ended at 2026-11-20 12:26:00+00 (0/1A000320) on timeline 1 is passed over"},
		{title: "the number of the newest timeline takes it", world: rehearsed(), target: Target{Timeline: "2"}, backup: second, needed: "00000002000000000000001E"},
		{title: "a named backup needs no choice of the branch", world: rehearsed(), set: second, backup: second, needed: "00000002000000000000001E", says: goesOn},
		{title: "a time behind the parting is refused", world: rehearsed(), target: timeTarget(25, 30), refused: unclear},
		{title: "a time before the parting is the same on both", world: rehearsed(), target: timeTarget(18, 30), backup: second, timeline: "2"},
		{title: "a time that only the other branch has is refused with a hint at it", world: rehearsed(), target: timeTarget(35),
			refused: "is not before the last transaction", hint: "There is another branch: choose with --target-timeline: current, or 1"},
		{title: "an lsn behind the parting is refused", world: rehearsed(), target: Target{Type: TargetLSN, LSN: at(24, 0)}, refused: unclear},
		{title: "an lsn before the parting is the same on both", world: rehearsed(), target: Target{Type: TargetLSN, LSN: at(19, 0)}, backup: second},
		{title: "a transaction behind the parting is refused", world: rehearsed(), target: Target{Type: TargetXID, XID: 1024}, refused: unclear},
		{title: "a transaction before the parting is the same on both", world: rehearsed(), target: Target{Type: TargetXID, XID: 715}, backup: second},
		{title: "an expired backup on the other branch does not count, but the WAL is said", world: tombed, backup: second, says: goesOn},
		{title: "nor does one that cannot be restored", world: torn, backup: second, says: goesOn},
		{title: "a branch with the newest backup is the branch, and the WAL is said", world: newer, backup: "20261120-122900F", says: goesOn},
		{title: "WAL of the segment of the switch point alone is nothing to speak of",
			world: newWorld().wal(1, 1, 20).wal(2, 20, 25).history(2, from(1, at(20, 4096))).backup(first, 1, at(2, 40), at(3, 800), 2), backup: first},
	})
}

func TestThePlanNamesWhatWasPassedOver(t *testing.T) {
	d, err := rehearsed().decide(Target{Type: TargetLatest, Timeline: "latest"}, "")
	if err != nil {
		t.Fatal(err)
	}
	p := &Plan{Backup: d.BackupHeader, Passed: d.passed, Warnings: d.warnings}
	if text := p.String(); !strings.Contains(text, "not:         "+third+": timeline 2 leaves timeline 1 at 0/14001000") || !strings.Contains(text, "is passed over") {
		t.Errorf("the plan is\n%s", text)
	}
}

func TestARefusalOfABranchIsARefusal(t *testing.T) {
	_, err := rehearsed().decide(Target{}, "")
	if !errors.Is(err, ErrUnreachable) || !strings.Contains(hint.Of(err), "rehearsal") {
		t.Errorf("error %v, hint %q", err, hint.Of(err))
	}
}

func TestWhereTwoWaysPart(t *testing.T) {
	way := func(tli postgres.Timeline, entries ...postgres.HistoryEntry) postgres.History {
		return postgres.History{Timeline: tli, Entries: entries}
	}
	one, two, three := way(1), way(2, from(1, 100)), way(3, from(1, 100), from(2, 200))
	for _, c := range []struct {
		title string
		a, b  postgres.History
		want  postgres.LSN
	}{
		{"a way and itself", two, two, math.MaxUint64},
		{"a timeline and its child", one, two, 100},
		{"a timeline and its grandchild", one, three, 100},
		{"a child and its own", two, three, 200},
		{"two children", two, way(4, from(1, 150)), 100},
		{"two children that left at one point", two, way(4, from(1, 100)), 100},
		{"no common ancestor", two, way(5), 0},
	} {
		if got := parting(c.a, c.b); got != c.want {
			t.Errorf("%s: %d, want %d", c.title, got, c.want)
		}
		if got := parting(c.b, c.a); got != c.want {
			t.Errorf("%s, the other way round: %d, want %d", c.title, got, c.want)
		}
	}
}
