package postgres

import (
	"fmt"
	"strconv"
	"strings"
)

// HistoryEntry is one line of a timeline history file: an ancestor, and the
// position at which the next timeline left it.
type HistoryEntry struct {
	Timeline Timeline `json:"timeline"`
	// Switch is the first byte that no longer belongs to Timeline.
	Switch LSN `json:"switch"`
	// Reason is the server's remark, for people.
	Reason string `json:"reason,omitempty"`
}

// History is the ancestry of one timeline, as its .history file tells it:
// parents, oldest first. Timeline 1 has no file; History{Timeline: 1} is its
// whole history.
type History struct {
	Timeline Timeline       `json:"timeline"`
	Entries  []HistoryEntry `json:"entries,omitempty"`
}

// ParseHistory reads the file of timeline tli by the rules of PostgreSQL's
// readTimeLineHistory: lines that are empty or begin with '#' are skipped,
// every other one is a decimal timeline, a switch point and a remark, separated
// by white space; timelines increase and stay below tli.
//
// Stricter than PostgreSQL, it refuses the file of a timeline above 1 that names
// no parent: no server writes one, so it is what a torn copy looks like.
//
// Switch points may decrease: a server that was told to follow a timeline but
// stopped before reaching it writes such a history, and PostgreSQL reads it.
func ParseHistory(tli Timeline, data []byte) (History, error) {
	h := History{Timeline: tli}
	last := Timeline(0)
	number := 0
	for line := range strings.Lines(string(data)) {
		number++
		line = strings.TrimFunc(line, isSpace)
		if line == "" || line[0] == '#' {
			continue
		}
		entry, err := parseHistoryLine(line)
		if err != nil {
			return History{}, fmt.Errorf("history of timeline %d, line %d: %w", tli, number, err)
		}
		if entry.Timeline <= last {
			return History{}, fmt.Errorf("history of timeline %d, line %d: timeline %d after %d (timelines must increase)",
				tli, number, entry.Timeline, last)
		}
		last = entry.Timeline
		h.Entries = append(h.Entries, entry)
	}
	if tli == 0 || tli > 1 && last == 0 {
		return History{}, fmt.Errorf("history of timeline %d names no parent", tli)
	}
	if tli <= last {
		return History{}, fmt.Errorf("history of timeline %d names timeline %d as a parent (parents must be lower)", tli, last)
	}
	return h, nil
}

// parseHistoryLine reads "1<TAB>0/3000000<TAB>no recovery target specified".
func parseHistoryLine(line string) (HistoryEntry, error) {
	number, rest := cutSpace(line)
	tli, err := strconv.ParseUint(number, 10, 32)
	if err != nil || tli == 0 {
		return HistoryEntry{}, fmt.Errorf("%q is not a timeline (want a decimal number)", clip(number))
	}
	point, reason := cutSpace(rest)
	lsn, err := ParseLSN(point)
	if err != nil {
		return HistoryEntry{}, fmt.Errorf("switch point of timeline %d: %w", tli, err)
	}
	return HistoryEntry{Timeline: Timeline(tli), Switch: lsn, Reason: reason}, nil
}

// cutSpace splits s at its first run of white space.
func cutSpace(s string) (before, after string) {
	i := strings.IndexFunc(s, isSpace)
	if i < 0 {
		return s, ""
	}
	return s[:i], strings.TrimLeftFunc(s[i:], isSpace)
}

// isSpace is C's isspace in the C locale, which is what PostgreSQL asks.
func isSpace(r rune) bool { return r == ' ' || '\t' <= r && r <= '\r' }

// clip shortens text from a file of unknown worth to what fits in an error.
func clip(s string) string {
	const most = 64
	if len(s) <= most {
		return s
	}
	return s[:most] + "..."
}

// Begin is where h's own timeline starts: the switch point of its parent, and 0
// for a timeline without one.
func (h History) Begin() LSN {
	if len(h.Entries) == 0 {
		return 0
	}
	return h.Entries[len(h.Entries)-1].Switch
}

// TimelineAt is the timeline that holds the byte at lsn on the way to
// h.Timeline. Like PostgreSQL's tliOfPointInHistory it lets the youngest
// timeline win that had begun by then, which also settles decreasing switch
// points.
func (h History) TimelineAt(lsn LSN) Timeline {
	tli := h.Timeline
	for i := len(h.Entries) - 1; i >= 0 && lsn < h.Entries[i].Switch; i-- {
		tli = h.Entries[i].Timeline
	}
	return tli
}

// Contains says whether a backup that ended at lsn on tli leads to h.Timeline:
// the last byte before lsn must lie on tli in this history, so lsn is at most
// the switch point away from tli. PostgreSQL asks the same of the minimum
// recovery point before it starts to replay.
func (h History) Contains(tli Timeline, lsn LSN) bool {
	if lsn > 0 {
		lsn--
	}
	return tli != 0 && h.TimelineAt(lsn) == tli
}
