package main

import (
	"fmt"
	"maps"
	"slices"
	"strings"
)

// line is a line of a table: the medians of one tool's runs of one operation.
type line struct {
	tool string
	tree bool
	// fastest and slowest are wall clock seconds: how much the runs differ.
	fastest, slowest float64
	median           figures
	extra            [3]bool
	requests         map[string]float64
}

// lines gives those of an operation, in the order in which tools first appear.
func lines(rows []measurement, operation string) []line {
	var order []string
	byTool := map[string][]measurement{}
	for _, m := range rows {
		if m.operation != operation {
			continue
		}
		if byTool[m.tool] == nil {
			order = append(order, m.tool)
		}
		byTool[m.tool] = append(byTool[m.tool], m)
	}
	var all []line
	for _, tool := range order {
		all = append(all, summary(tool, byTool[tool]))
	}
	return all
}

// summary of a tool's runs, of which there is at least one.
func summary(tool string, runs []measurement) line {
	of := func(get func(measurement) float64) []float64 {
		var values []float64
		for _, m := range runs {
			values = append(values, get(m))
		}
		slices.Sort(values)
		return values
	}
	wall := of(func(m measurement) float64 { return m.figures.wall })
	l := line{
		tool: tool, fastest: wall[0], slowest: wall[len(wall)-1],
		tree: slices.ContainsFunc(runs, func(m measurement) bool { return m.tree }),
		median: figures{
			wall:    median(wall),
			user:    median(of(func(m measurement) float64 { return m.figures.user })),
			system:  median(of(func(m measurement) float64 { return m.figures.system })),
			peak:    median(of(func(m measurement) float64 { return m.figures.peak })),
			stored:  median(of(func(m measurement) float64 { return m.figures.stored })),
			added:   median(of(func(m measurement) float64 { return m.figures.added })),
			server:  median(of(func(m measurement) float64 { return m.figures.server })),
			apart:   median(of(func(m measurement) float64 { return m.figures.apart })),
			waited:  median(of(func(m measurement) float64 { return m.figures.waited })),
			changed: median(of(func(m measurement) float64 { return m.figures.changed })),
		},
		extra:    runs[0].extra,
		requests: map[string]float64{},
	}
	for _, m := range runs {
		for kind := range m.requests {
			// A run without requests of this kind had none of them.
			l.requests[kind] = median(of(func(m measurement) float64 { return m.requests[kind] }))
		}
	}
	return l
}

// median of sorted values, of which there is at least one.
func median(sorted []float64) float64 {
	n := len(sorted)
	return (sorted[(n-1)/2] + sorted[n/2]) / 2
}

// reference is the tool that the others are compared with, or the first one in
// a table where it is not.
const reference = "pgbak"

// size is of what operations work on.
type size struct {
	cluster  int64 // bytes
	segments int   // of WAL
}

// table is one operation's.
type table struct {
	operation string
	lines     []line
	compare   line
	served    bool
	extra     [3]bool // which of the further columns some line has
	of        size
}

// tables renders one table per operation.
func tables(rows []measurement, of size) string {
	var operations []string
	for _, m := range rows {
		if !slices.Contains(operations, m.operation) {
			operations = append(operations, m.operation)
		}
	}
	var rendered []string
	for _, operation := range operations {
		t := table{operation: operation, lines: lines(rows, operation), of: of}
		t.compare = t.lines[0]
		if i := slices.IndexFunc(t.lines, func(l line) bool { return l.tool == reference }); i >= 0 {
			t.compare = t.lines[i]
		}
		t.served = slices.ContainsFunc(rows, func(m measurement) bool { return m.operation == operation && m.served })
		for _, l := range t.lines {
			for i, measured := range l.extra {
				t.extra[i] = t.extra[i] || measured
			}
		}
		rendered = append(rendered, t.markdown())
	}
	return strings.Join(rendered, "\n")
}

// speed is the column that says how fast the work was done.
const speed = 3

// onSegments says that the operation is on WAL segments, not on the cluster.
func (t table) onSegments() bool { return strings.HasPrefix(t.operation, "archive-") }

// ofCalls says that the operation is as many calls of a program as there are segments.
func (t table) ofCalls() bool { return strings.HasPrefix(t.operation, "call ") }

func (t table) markdown() string {
	if t.ofCalls() {
		return t.callsMarkdown()
	}
	header := []string{"tool", "wall s (min to max)", "times " + title(t.compare.tool) + "'s", "MB/s", "CPU s (user + system)", "peak MiB", "added MB", "repository MB"}
	if t.onSegments() {
		header[speed] = "segments/s"
		header = slices.Insert(header, 5, "CPU ms per segment")
	}
	if t.served {
		header = append(header, "S3 requests", "S3 server's CPU s")
		if t.onSegments() {
			header[len(header)-2] = "S3 requests per segment"
		}
	}
	for i, name := range []string{"PostgreSQL's CPU s", "waiting for PostgreSQL s", "CPU ns per changed byte"} {
		if t.extra[i] {
			header = append(header, name)
		}
	}
	if t.of.cluster == 0 && !t.onSegments() {
		header = slices.Delete(header, speed, speed+1)
	}
	var text strings.Builder
	fmt.Fprintf(&text, "### %s\n\n", strings.ToUpper(t.operation[:1])+t.operation[1:])
	writeRow(&text, header)
	writeRow(&text, slices.Repeat([]string{"---"}, len(header)))
	for _, l := range t.lines {
		writeRow(&text, t.cells(l))
	}
	return text.String()
}

func writeRow(text *strings.Builder, cells []string) {
	fmt.Fprintf(text, "| %s |\n", strings.Join(cells, " | "))
}

// cells are a line's, in the order of the header.
func (t table) cells(l line) []string {
	f := l.median
	peak := fmt.Sprintf("%.0f", f.peak/(1<<20))
	if l.tree {
		peak += " (all processes)"
	}
	cells := []string{
		title(l.tool), fmt.Sprintf("%.2f (%.2f to %.2f)", f.wall, l.fastest, l.slowest), fmt.Sprintf("%.2f", f.wall/t.compare.median.wall),
		fmt.Sprintf("%.0f", float64(t.of.cluster)/1e6/f.wall), fmt.Sprintf("%.2f (%.2f + %.2f)", f.user+f.system, f.user, f.system),
		peak, fmt.Sprintf("%.2f", f.added/1e6), fmt.Sprintf("%.1f", f.stored/1e6),
	}
	if t.onSegments() {
		n := float64(t.of.segments)
		cells[speed] = fmt.Sprintf("%.1f", n/f.wall)
		cells = slices.Insert(cells, 5, fmt.Sprintf("%.0f", 1000*(f.user+f.system)/n))
	}
	if t.served {
		requests := kinds(l.requests)
		if t.onSegments() {
			requests = kindsPer(l.requests, t.of.segments)
		}
		cells = append(cells, requests, fmt.Sprintf("%.2f", f.server))
	}
	for i, text := range []string{fmt.Sprintf("%.2f", f.apart), fmt.Sprintf("%.2f (%.0f %%)", f.waited, 100*f.waited/f.wall),
		fmt.Sprintf("%.1f", 1e9*(f.user+f.system)/f.changed)} {
		switch {
		case t.extra[i] && l.extra[i]:
			cells = append(cells, text)
		case t.extra[i]:
			cells = append(cells, "")
		}
	}
	if t.of.cluster == 0 && !t.onSegments() {
		cells = slices.Delete(cells, speed, speed+1)
	}
	return cells
}

// compression is what calls that compress are compared with, where it was measured.
const compression = "compression"

// callsMarkdown is the table of single calls: milliseconds of each.
func (t table) callsMarkdown() string {
	var text strings.Builder
	fmt.Fprintf(&text, "### %s\n\n", strings.ToUpper(t.operation[:1])+t.operation[1:])
	header := []string{"tool", "wall ms (min to max)", "CPU ms (user + system)", "peak MiB"}
	least := slices.IndexFunc(t.lines, func(l line) bool { return l.tool == compression })
	if least >= 0 {
		header = slices.Insert(header, 2, "times compression's")
	}
	writeRow(&text, header)
	writeRow(&text, slices.Repeat([]string{"---"}, len(header)))
	for _, l := range t.lines {
		f, ms := l.median, 1000/float64(t.of.segments)
		cells := []string{title(l.tool), fmt.Sprintf("%.1f (%.1f to %.1f)", f.wall*ms, l.fastest*ms, l.slowest*ms),
			fmt.Sprintf("%.1f (%.1f + %.1f)", (f.user+f.system)*ms, f.user*ms, f.system*ms), fmt.Sprintf("%.0f", f.peak/(1<<20))}
		if least >= 0 {
			cells = slices.Insert(cells, 2, fmt.Sprintf("%.2f", f.wall/t.lines[least].median.wall))
		}
		writeRow(&text, cells)
	}
	return text.String()
}

// kinds renders requests: how many, and of which kind, most frequent first.
func kinds(requests map[string]float64) string { return renderKinds(requests, 1, "%.0f") }

// kindsPer renders them as so many for each segment.
func kindsPer(requests map[string]float64, segments int) string {
	return renderKinds(requests, float64(segments), "%.2f")
}

func renderKinds(requests map[string]float64, by float64, format string) string {
	sum := 0.0
	names := slices.Sorted(maps.Keys(requests))
	slices.SortStableFunc(names, func(a, b string) int { return int(requests[b] - requests[a]) })
	var each []string
	for _, name := range names {
		sum += requests[name]
		each = append(each, fmt.Sprintf("%s "+format, name, requests[name]/by))
	}
	if len(each) == 0 {
		return "0"
	}
	return fmt.Sprintf(format+" (%s)", sum/by, strings.Join(each, ", "))
}

// title is a tool's name for people. A PostgreSQL program keeps its own.
func title(tool string) string {
	if strings.HasPrefix(tool, "pg_") {
		return tool
	}
	return strings.ReplaceAll(tool, "_", " ")
}
