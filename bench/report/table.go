package main

import (
	"fmt"
	"slices"
	"strconv"
	"strings"
)

// measurement is one run of one tool; figures are in the order of the columns.
type measurement struct {
	tool, operation string
	tree            bool
	figures         figures
}

// figures are what is measured: seconds, bytes.
type figures struct{ wall, user, system, peak, stored, added float64 }

// columns is how many a line of raw results has.
const columns = 10

func parseRows(text string) ([]measurement, error) {
	var rows []measurement
	for n, line := range strings.Split(strings.TrimRight(text, "\n"), "\n") {
		words := strings.Split(line, "\t")
		if len(words) != columns {
			return nil, fmt.Errorf("line %d has %d columns, not %d", n+1, len(words), columns)
		}
		m := measurement{tool: words[1], operation: words[2], tree: words[7] == "tree"}
		for column, to := range map[int]*float64{
			3: &m.figures.wall, 4: &m.figures.user, 5: &m.figures.system, 6: &m.figures.peak, 8: &m.figures.stored, 9: &m.figures.added,
		} {
			v, err := strconv.ParseFloat(words[column], 64)
			if err != nil {
				return nil, fmt.Errorf("line %d, column %d: %w", n+1, column+1, err)
			}
			*to = v
		}
		rows = append(rows, m)
	}
	return rows, nil
}

// line is a line of a table: the medians of one tool's runs of one operation.
type line struct {
	tool string
	runs int
	tree bool
	// fastest and slowest are wall clock seconds: how much the runs differ.
	fastest, slowest float64
	median           figures
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
		runs := byTool[tool]
		of := func(get func(figures) float64) []float64 {
			var values []float64
			for _, m := range runs {
				values = append(values, get(m.figures))
			}
			slices.Sort(values)
			return values
		}
		wall := of(func(f figures) float64 { return f.wall })
		all = append(all, line{
			tool: tool, runs: len(runs), fastest: wall[0], slowest: wall[len(wall)-1],
			tree: slices.ContainsFunc(runs, func(m measurement) bool { return m.tree }),
			median: figures{
				wall:   median(wall),
				user:   median(of(func(f figures) float64 { return f.user })),
				system: median(of(func(f figures) float64 { return f.system })),
				peak:   median(of(func(f figures) float64 { return f.peak })),
				stored: median(of(func(f figures) float64 { return f.stored })),
				added:  median(of(func(f figures) float64 { return f.added })),
			},
		})
	}
	return all
}

// median of sorted values, of which there is at least one.
func median(sorted []float64) float64 {
	n := len(sorted)
	return (sorted[(n-1)/2] + sorted[n/2]) / 2
}

// reference is the tool that the others are compared with.
const reference = "pgbak"

// tables renders one table per operation. bytes is the size of the cluster.
func tables(rows []measurement, bytes int64) string {
	var operations []string
	for _, m := range rows {
		if !slices.Contains(operations, m.operation) {
			operations = append(operations, m.operation)
		}
	}
	var text strings.Builder
	for i, operation := range operations {
		if i > 0 {
			text.WriteByte('\n')
		}
		all := lines(rows, operation)
		fmt.Fprintf(&text, "### %s\n\n", strings.ToUpper(operation[:1])+operation[1:])
		text.WriteString("| tool | wall s (min to max) | times pgbak's | MB/s | CPU s (user + system) | peak MiB | added MB | repository MB |\n")
		text.WriteString("| --- | --- | --- | --- | --- | --- | --- | --- |\n")
		compare := 0.0
		for _, l := range all {
			if l.tool == reference {
				compare = l.median.wall
			}
		}
		for _, l := range all {
			text.WriteString(l.markdown(bytes, compare))
		}
	}
	return text.String()
}

func (l line) markdown(bytes int64, compare float64) string {
	f := l.median
	times := "-"
	if compare > 0 {
		times = fmt.Sprintf("%.2f", f.wall/compare)
	}
	peak := fmt.Sprintf("%.0f", f.peak/(1<<20))
	if l.tree {
		peak += " (all processes)"
	}
	return fmt.Sprintf("| %s | %.2f (%.2f to %.2f) | %s | %.0f | %.2f (%.2f + %.2f) | %s | %.2f | %.1f |\n",
		strings.ReplaceAll(l.tool, "_", " "), f.wall, l.fastest, l.slowest, times, float64(bytes)/1e6/f.wall,
		f.user+f.system, f.user, f.system, peak, f.added/1e6, f.stored/1e6)
}
