package main

import (
	"fmt"
	"strconv"
	"time"

	"github.com/pgbak/pgbak/archive"
	"github.com/pgbak/pgbak/internal/hint"
	"github.com/pgbak/pgbak/internal/postgres"
	"github.com/pgbak/pgbak/internal/readiness"
	"github.com/pgbak/pgbak/repo"
)

// What info, check and ledger show of the ledger. docs/json.md describes every
// field; they are a contract.

// ledgerInfo is a part of an identity.
type ledgerInfo struct {
	Newest           uint32         `json:"newest-timeline"`
	Timelines        []uint32       `json:"timelines"`
	Gaps             []gapInfo      `json:"gaps"`
	Conflicts        []conflictInfo `json:"conflicts"`
	Foreign          []foreignInfo  `json:"foreign,omitempty"`
	DamagedHistories []damagedInfo  `json:"damaged-histories,omitempty"`
	NoHistory        []uint32       `json:"missing-histories,omitempty"`
}

type gapInfo struct {
	Timeline uint32     `json:"timeline"`
	First    string     `json:"first"`
	Last     string     `json:"last"`
	Segments uint64     `json:"segments"`
	Status   string     `json:"status"` // open, closed, acknowledged, aside
	OpenOn   []uint32   `json:"open-on,omitempty"`
	Dropped  bool       `json:"dropped"`
	Recent   bool       `json:"recent"`
	ClosedBy repo.Label `json:"closed-by,omitempty"`
	Notes    []noteInfo `json:"acknowledgements,omitempty"`
}

type noteInfo struct {
	Time time.Time `json:"time"`
	By   string    `json:"by,omitempty"`
	Note string    `json:"note"`
}

type conflictInfo struct {
	Kind     string     `json:"kind"` // conflict, history-conflict
	File     string     `json:"file"`
	Timeline uint32     `json:"timeline"`
	Status   string     `json:"status"`
	OpenOn   []uint32   `json:"open-on,omitempty"`
	Archived string     `json:"archived,omitempty"`
	Refused  string     `json:"refused,omitempty"`
	Host     string     `json:"host,omitempty"`
	Path     string     `json:"path,omitempty"`
	Time     time.Time  `json:"time"`
	Message  string     `json:"message,omitempty"`
	ClosedBy repo.Label `json:"closed-by,omitempty"`
	Notes    []noteInfo `json:"acknowledgements,omitempty"`
}

type foreignInfo struct {
	SystemID string    `json:"system-identifier"`
	Major    int       `json:"postgresql-major,omitempty"`
	File     string    `json:"file,omitempty"`
	Host     string    `json:"host,omitempty"`
	Path     string    `json:"path,omitempty"`
	Time     time.Time `json:"time"`
	Message  string    `json:"message,omitempty"`
}

type damagedInfo struct {
	Timeline uint32 `json:"timeline"`
	Error    string `json:"error"`
}

// reachInfo is how far recovery gets from a backup to a timeline.
type reachInfo struct {
	Timeline uint32     `json:"timeline"`
	Last     string     `json:"last,omitempty"` // segment
	LSN      string     `json:"lsn"`
	Time     *time.Time `json:"time,omitempty"` // of the last commit
	Gap      bool       `json:"gap"`            // WAL behind it is there
	Missing  string     `json:"missing,omitempty"`
}

func newLedgerInfo(l archive.IdentityLedger) ledgerInfo {
	info := ledgerInfo{Newest: uint32(l.Newest), Timelines: numbers(l.Timelines), Gaps: []gapInfo{}, Conflicts: []conflictInfo{}}
	for _, g := range l.Gaps {
		info.Gaps = append(info.Gaps, newGapInfo(l, g))
	}
	for _, c := range l.Conflicts {
		info.Conflicts = append(info.Conflicts, conflictInfo{string(c.Kind), c.First, uint32(c.Timeline), string(c.Standing), numbers(c.OpenOn), c.Archived, c.Refused,
			c.Host, c.Path, c.Time, c.Message, c.ClosedBy, newNotes(c.Notes)})
	}
	for _, f := range l.Foreign {
		info.Foreign = append(info.Foreign, foreignInfo{strconv.FormatUint(f.SystemID, 10), f.Major, f.First, f.Host, f.Path, f.Time, f.Message})
	}
	for _, d := range l.Damaged {
		info.DamagedHistories = append(info.DamagedHistories, damagedInfo{uint32(d.Timeline), oneLine(d.Err.Error())})
	}
	info.NoHistory = numbers(l.NoHistory)
	return info
}

func numbers(timelines []postgres.Timeline) []uint32 {
	var out []uint32
	for _, tli := range timelines {
		out = append(out, uint32(tli))
	}
	return out
}

func newGapInfo(l archive.IdentityLedger, g archive.Gap) gapInfo {
	return gapInfo{uint32(g.Timeline), l.Name(g.Timeline, g.First), l.Name(g.Timeline, g.Last), g.Count(), string(g.Standing),
		numbers(g.OpenOn), g.IsDropped, g.IsRecent, g.ClosedBy, newNotes(g.Notes)}
}

func newNotes(events []repo.WALEvent) []noteInfo {
	var notes []noteInfo
	for _, e := range events {
		notes = append(notes, noteInfo{e.Time, e.By, e.Note})
	}
	return notes
}

// newReaches gives, for a backup, its own timeline and the way to the newest.
func newReaches(l *archive.Ledger, label repo.Label) []reachInfo {
	var out []reachInfo
	for _, id := range l.Identities {
		for _, b := range id.Backups {
			if b.Label != label {
				continue
			}
			out = append(out, newReachInfo(b.Own))
			for _, r := range b.Others {
				out = append(out, newReachInfo(r))
			}
		}
	}
	return out
}

func newReachInfo(r archive.Reach) reachInfo {
	info := reachInfo{Timeline: uint32(r.Timeline), Last: r.Last, LSN: r.End.String(), Gap: r.IsGap, Missing: r.Missing}
	if r.Until != 0 {
		info.LSN = r.Until.String()
	}
	if !r.Time.IsZero() {
		info.Time = &r.Time
	}
	return info
}

// maxProblems bounds the gaps and the conflicts that check tells of one by one.
const maxProblems = 20

// ledgerProblems are what check says of the WAL of the identity that archives now.
// unread is why not all events could be read: one of them may be of a conflict.
func ledgerProblems(repository string, l archive.IdentityLedger, unread error) []readiness.Problem {
	var out []readiness.Problem
	problem := func(fatal bool, advice, format string, args ...any) {
		err := fmt.Errorf("repository %q: %w", repository, fmt.Errorf(format, args...))
		out = append(out, readiness.Problem{Error: hint.Wrap(err, "%s", advice), Fatal: fatal})
	}
	open := l.OpenGaps()
	for i, g := range open {
		if i == maxProblems {
			problem(true, "'pgbak ledger' shows them all; a new backup closes those before it.", "%d more runs of WAL are missing in the archive, the last of them %s to %s",
				len(open)-i, l.Name(open[len(open)-1].Timeline, open[len(open)-1].First), l.Name(open[len(open)-1].Timeline, open[len(open)-1].Last))
			break
		}
		first, last, why := l.Name(g.Timeline, g.First), l.Name(g.Timeline, g.Last), ""
		if g.IsDropped {
			why = "; archive-push gave them up because of archive.queue-max"
		}
		problem(true, fmt.Sprintf("push them if a server still has them in pg_wal; else take a new backup, behind which recovery is possible again, or, if the loss is known, run 'pgbak ledger acknowledge %s %s --note TEXT'.", first, last),
			"WAL from %s to %s (%d segments) is missing in the archive, and recovery from older backups ends there%s", first, last, g.Count(), why)
	}
	conflicts := l.OpenConflicts()
	for i, c := range conflicts {
		if i == maxProblems {
			problem(true, "'pgbak ledger' shows them all.", "%d more files were refused because another content has their name", len(conflicts)-i)
			break
		}
		info := newLedgerInfo(archive.IdentityLedger{Identity: l.Identity, Conflicts: []archive.Conflict{c}}).Conflicts[0]
		problem(true, fmt.Sprintf("two servers archive to this stanza, or one was rewound: find out which is right; take a new backup of it, or run 'pgbak ledger acknowledge %s %s --note TEXT'.", oneLine(c.First), oneLine(c.Last)),
			"%s", info.text(nil))
	}
	if unread != nil {
		problem(true, "let the user who runs pgbak read them; move a damaged object away: what it told is lost, and a gap may have to be acknowledged again.",
			"events of the ledger cannot be read, and may tell of a conflict: %w", unread)
	}
	for _, d := range l.Damaged {
		problem(true, "move the object away and push the file again from the pg_wal of a server that has it.", "the history of timeline %d cannot be read: %w", d.Timeline, d.Err)
	}
	for _, tli := range l.NoHistory {
		problem(false, fmt.Sprintf("push %s.history from the pg_wal of a server that has it.", tli),
			"the history of timeline %d is not in the archive, and recovery cannot come to it from another timeline", tli)
	}
	for _, f := range newLedgerInfo(l).Foreign {
		problem(false, "correct archive_command on that server.", "%s", f.text())
	}
	return out
}

// segmentNames parses two names of the command line.
func segmentNames(id repo.Identity, first, last string) error {
	for _, name := range []string{first, last} {
		if _, err := postgres.ParseWALFile(name, id.SegmentSize); err != nil {
			return err
		}
	}
	return nil
}
