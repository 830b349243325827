package main

import (
	"cmp"
	"fmt"
	"slices"
	"strings"

	"github.com/pgbak/pgbak/archive"
)

// What info and ledger show people of the ledger. info shows at most infoLines of
// a kind and counts the rest: a repository can have a gap for each outage of years.

// infoLines bounds what info shows of each kind.
const infoLines = 10

// text is a line or two for people. on are the timelines that the server may be on.
func (g gapInfo) text(on []uint32) string {
	what := fmt.Sprintf("timeline %d: %s to %s (%d segments): %s%s", g.Timeline, g.First, g.Last, g.Segments, g.Status, openOn(g.OpenOn, on))
	switch g.Status {
	case string(archive.Open):
		next := ", a new backup is needed"
		if g.Recent {
			next = ", or still on its way"
		}
		what += next
	case string(archive.Closed):
		what += " by backup " + string(g.ClosedBy)
	case string(archive.Aside):
		what += ", on a branch that the server has left"
	}
	if g.Dropped {
		what += "; dropped because of archive.queue-max"
	}
	return what + notesText(g.Notes)
}

// openOn tells for whom it is open where that is not the same for all.
func openOn(open, on []uint32) string {
	if len(open) == 0 || len(open) >= len(on) {
		return ""
	}
	return " if the server is on timeline " + joinNumbers(open)
}

func joinNumbers(n []uint32) string {
	var parts []string
	for i, v := range n {
		if i == infoLines {
			parts = append(parts, "...")
			break
		}
		parts = append(parts, fmt.Sprint(v))
	}
	return strings.Join(parts, ", ")
}

func notesText(notes []noteInfo) string {
	text := ""
	for _, n := range notes {
		text += fmt.Sprintf("; acknowledged %s by %s: %s", timeText(n.Time), n.By, oneLine(n.Note))
	}
	return text
}

func (c conflictInfo) text(on []uint32) string {
	what := "another content of " + c.File + " was refused"
	if c.Host != "" || c.Path != "" {
		what += fmt.Sprintf(", from %s:%s", c.Host, c.Path)
	}
	what += fmt.Sprintf(", first at %s: %s%s", timeText(c.Time), c.Status, openOn(c.OpenOn, on))
	if c.Message != "" {
		what += "; " + oneLine(c.Message)
	}
	return what + notesText(c.Notes)
}

func (f foreignInfo) text() string {
	return fmt.Sprintf("WAL of system identifier %s was refused, from %s:%s, first at %s", f.SystemID, f.Host, f.Path, timeText(f.Time))
}

// writeText shows at most limit of each kind; 0 is all.
func (l ledgerInfo) writeText(b *strings.Builder, limit int) {
	shown, rest := mostUrgent(l.Gaps, limit, func(g gapInfo) string { return g.Status })
	for _, g := range shown {
		fmt.Fprintf(b, "            wal gap (%s)\n", oneLine(g.text(l.Timelines)))
	}
	writeRest(b, "wal gaps", rest)
	refused, rest := mostUrgent(l.Conflicts, limit, func(c conflictInfo) string { return c.Status })
	for _, c := range refused {
		fmt.Fprintf(b, "            wal %s (%s)\n", strings.ReplaceAll(c.Kind, "-", " "), oneLine(c.text(l.Timelines)))
	}
	writeRest(b, "wal conflicts", rest)
	foreign, rest := mostUrgent(l.Foreign, limit, func(foreignInfo) string { return "" })
	for _, f := range foreign {
		fmt.Fprintf(b, "            foreign wal (%s)\n", oneLine(f.text()))
	}
	writeRest(b, "clusters whose wal was refused", rest)
	damaged, rest := mostUrgent(l.DamagedHistories, limit, func(damagedInfo) string { return "" })
	for _, d := range damaged {
		fmt.Fprintf(b, "            history of timeline %d cannot be read: %s\n", d.Timeline, d.Error)
	}
	writeRest(b, "histories that cannot be read", rest)
	absent, rest := mostUrgent(l.NoHistory, limit, func(uint32) string { return "" })
	for _, tli := range absent {
		fmt.Fprintf(b, "            history of timeline %d is not in the archive\n", tli)
	}
	writeRest(b, "histories that are not in the archive", rest)
}

// urgency orders what is shown where not all is.
func urgency() []string {
	return []string{string(archive.Open), string(archive.Acknowledged), string(archive.Closed), string(archive.Aside)}
}

// mostUrgent gives at most limit of them, the open ones before the others and the newest
// before the older, in their own order; and counts the rest by status.
func mostUrgent[T any](all []T, limit int, status func(T) string) (shown []T, rest map[string]int) {
	rest = map[string]int{}
	if limit == 0 || len(all) <= limit {
		return all, rest
	}
	order := make([]int, len(all))
	for i := range order {
		order[i] = i
	}
	ranks := urgency()
	rank := func(i int) int { return slices.Index(ranks, status(all[i])) }
	slices.SortFunc(order, func(x, y int) int { return cmp.Or(cmp.Compare(rank(x), rank(y)), cmp.Compare(y, x)) })
	for _, i := range order[limit:] {
		rest[status(all[i])]++
	}
	chosen := slices.Sorted(slices.Values(order[:limit]))
	for _, i := range chosen {
		shown = append(shown, all[i])
	}
	return shown, rest
}

func writeRest(b *strings.Builder, what string, rest map[string]int) {
	n, counts := 0, []string{}
	for _, status := range append([]string{""}, urgency()...) {
		if n += rest[status]; status != "" && rest[status] > 0 {
			counts = append(counts, fmt.Sprintf("%d %s", rest[status], status))
		}
	}
	if n == 0 {
		return
	}
	of := ""
	if len(counts) > 0 {
		of = " (" + strings.Join(counts, ", ") + ")"
	}
	fmt.Fprintf(b, "            %d more %s%s: 'pgbak ledger' shows them\n", n, what, of)
}

func (r reachInfo) text() string {
	text := fmt.Sprintf("timeline %d to %s", r.Timeline, r.LSN)
	if r.Time != nil {
		text += ", last commit " + timeText(*r.Time)
	}
	if r.Gap {
		text += ", where " + r.Missing + " is missing"
	}
	return text
}
