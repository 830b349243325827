package restore

import (
	"fmt"
	"strings"
)

// String describes the plan for people, one fact a line.
func (p *Plan) String() string {
	var b strings.Builder
	line := func(name, format string, args ...any) {
		fmt.Fprintf(&b, "%-12s %s\n", name+":", fmt.Sprintf(format, args...))
	}
	line("target", "%s", p.describeTarget())
	line("backup", "%s (%s), %s to %s, timeline %d", p.Backup.Label, p.Backup.Type, p.Backup.Start.LSN, p.Backup.Stop.LSN, p.Backup.Timeline)
	line("because", "%s", p.Why)
	for _, passed := range p.Passed {
		line("not", "%s: %s", passed.Label, passed.Reason)
	}
	line("timelines", "%s", p.describeTimelines())
	where := "all in the archive"
	if p.Received != nil && p.Received.First != "" {
		where = "in the archive or received"
	}
	line("wal", "%s to %s, %d files, %s", p.WAL.First, p.WAL.Last, p.WAL.Files, where)
	if p.Received != nil && p.Received.First != "" {
		line("received", "%s", p.Received)
	}
	line("reachable", "%s to %s", p.Reachable.From, p.Reachable.To)
	if s := p.Stop; s != nil {
		line("stop", "%s", s)
	}
	line("data", "%d files, %s (%s stored) to %s", p.Files, size(p.Bytes), size(p.StoredBytes), p.TargetDir)
	for _, t := range p.Tablespaces {
		line("tablespace", "%d %s to %s", t.OID, t.Name, t.describe())
	}
	for _, l := range p.Links {
		line("link", "%s to %s", l.Path, moved(l.Destination, l.Recorded))
	}
	for _, n := range p.Notes {
		line("note", "%s", n)
	}
	for _, w := range p.Warnings {
		line("warning", "%s", w)
	}
	return b.String()
}

func (p *Plan) describeTarget() string {
	t := p.Target
	s := string(t.Type)
	switch t.Type {
	case TargetLatest:
		s = "the end of the archived WAL"
	case TargetImmediate:
		s = "the end of the backup"
	}
	if t.Value != "" {
		s += " " + t.Value
	}
	if t.Exclusive {
		s += ", exclusive"
	}
	s += ", timeline " + t.Timeline
	if t.Action != "" {
		s += ", then " + t.Action
	}
	return s
}

func (p *Plan) describeTimelines() string {
	var parts []string
	for _, s := range p.Timelines {
		part := fmt.Sprintf("%d", s.Timeline)
		if s.End != nil {
			part += fmt.Sprintf(" until %s", *s.End)
		}
		parts = append(parts, part)
	}
	return strings.Join(parts, ", ")
}

func (t TablespacePlan) describe() string {
	if t.Destination == "" {
		return "its place in the data directory"
	}
	return moved(t.Destination, t.Recorded)
}

func moved(to, from string) string {
	if to == from {
		return to
	}
	return fmt.Sprintf("%s (was %s)", to, from)
}

// String gives the position, and the time where it is known.
func (m Moment) String() string {
	if m.Time == nil {
		return m.LSN.String()
	}
	return fmt.Sprintf("%s (%s)", formatTime(*m.Time), m.LSN)
}

// String names the record.
func (s StopPoint) String() string {
	what := fmt.Sprintf("transaction %d (%s)", s.XID, s.Kind)
	if s.Name != "" {
		what = fmt.Sprintf("restore point %q", s.Name)
	}
	return fmt.Sprintf("at %s of %s, %s", what, formatTime(s.Time), s.LSN)
}

// size gives bytes in the unit that a person would choose.
func size(n int64) string {
	const unit = 1024
	if n < unit {
		return fmt.Sprintf("%d B", n)
	}
	value, names := float64(n)/unit, []string{"KiB", "MiB", "GiB", "TiB"}
	for len(names) > 1 && value >= unit {
		value, names = value/unit, names[1:]
	}
	return fmt.Sprintf("%.1f %s", value, names[0])
}
