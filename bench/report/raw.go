package main

import (
	"fmt"
	"strconv"
	"strings"
)

// measurement is one run of one tool; figures are in the order of the columns.
type measurement struct {
	tool, operation string
	tree            bool
	figures         figures
	// extra says which of the figures from apart on were measured.
	extra [3]bool
	// served says that an S3 server was asked; requests are by kind.
	served   bool
	requests map[string]float64
}

// figures are what is measured: seconds, bytes.
type figures struct {
	wall, user, system, peak, stored, added, server float64
	// apart is the CPU time of the PostgreSQL server, waited how long the tool
	// waited for it, changed how many bytes there were to find.
	apart, waited, changed float64
}

// columns is how many a line of raw results has.
const columns = 15

func parseRows(text string) ([]measurement, error) {
	var rows []measurement
	for n, line := range strings.Split(strings.TrimRight(text, "\n"), "\n") {
		words := strings.Split(line, "\t")
		if len(words) != columns {
			return nil, fmt.Errorf("line %d has %d columns, not %d", n+1, len(words), columns)
		}
		m, err := parseRow(words)
		if err != nil {
			return nil, fmt.Errorf("line %d, %w", n+1, err)
		}
		rows = append(rows, m)
	}
	return rows, nil
}

func parseRow(words []string) (measurement, error) {
	m := measurement{tool: words[1], operation: words[2], tree: words[7] == "tree", served: words[10] != "-"}
	f := &m.figures
	to := []*float64{3: &f.wall, 4: &f.user, 5: &f.system, 6: &f.peak, 8: &f.stored, 9: &f.added, 11: &f.server, 12: &f.apart, 13: &f.waited, 14: &f.changed}
	for column, figure := range to {
		if figure == nil || column == 11 && !m.served || column > 11 && words[column] == "-" {
			continue
		}
		if column > 11 {
			m.extra[column-12] = true
		}
		v, err := strconv.ParseFloat(words[column], 64)
		if err != nil {
			return measurement{}, fmt.Errorf("column %d: %w", column+1, err)
		}
		*figure = v
	}
	if !m.served || words[10] == "none" {
		return m, nil
	}
	m.requests = map[string]float64{}
	for _, word := range strings.Split(words[10], ",") {
		kind, number, _ := strings.Cut(word, "=")
		v, err := strconv.ParseFloat(number, 64)
		if err != nil {
			return measurement{}, fmt.Errorf("column 11: %q is not of the form KIND=NUMBER", word)
		}
		m.requests[kind] = v
	}
	return m, nil
}
