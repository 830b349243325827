package main

import (
	"strings"
	"testing"
)

// raw are three rounds of two tools.
const raw = `1	pgbak	full	2.000	3.000	0.500	104857600	process	600000000	590000000
1	other_tool	full	8.000	9.000	1.000	209715200	tree	700000000	700000000
1	pgbak	restore	1.000	1.000	1.000	52428800	process	600000000	0
2	pgbak	full	9.000	3.000	0.500	104857600	process	600000000	590000000
2	other_tool	full	4.000	9.000	1.000	209715200	tree	700000000	700000000
3	pgbak	full	1.000	3.000	0.500	104857600	process	600000000	590000000
3	other_tool	full	6.000	9.000	1.000	209715200	tree	700000000	700000000
`

func TestTables(t *testing.T) {
	rows, err := parseRows(raw)
	if err != nil {
		t.Fatal(err)
	}
	got := tables(rows, 3_000_000_000)
	for title, want := range map[string]string{
		"the median, not the mean, and the range":              "| pgbak | 2.00 (1.00 to 9.00) | 1.00 | 1500 | 3.50 (3.00 + 0.50) | 100 | 590.00 | 600.0 |",
		"another tool in times of pgbak, its processes summed": "| other tool | 6.00 (4.00 to 8.00) | 3.00 | 500 | 10.00 (9.00 + 1.00) | 200 (all processes) | 700.00 | 700.0 |",
		"an operation of its own":                              "### Restore\n",
	} {
		t.Run(title, func(t *testing.T) {
			if !strings.Contains(got, want) {
				t.Errorf("%q is not in:\n%s", want, got)
			}
		})
	}
	if strings.Count(got, "| pgbak |") != 2 {
		t.Errorf("pgbak is not in both tables:\n%s", got)
	}
}

func TestMedian(t *testing.T) {
	for _, test := range []struct {
		title  string
		values []float64
		want   float64
	}{
		{"one", []float64{4}, 4},
		{"the middle one", []float64{1, 2, 9}, 2},
		{"between the two in the middle", []float64{1, 2, 4, 9}, 3},
	} {
		t.Run(test.title, func(t *testing.T) {
			if got := median(test.values); got != test.want {
				t.Errorf("%v, want %v", got, test.want)
			}
		})
	}
}

func TestLinesThatAreNoResultsAreRefused(t *testing.T) {
	for _, test := range []struct{ title, text, want string }{
		{"a column is missing", strings.Replace(raw, "\tprocess", "", 1), "line 1 has 9 columns"},
		{"a figure is none", strings.Replace(raw, "8.000", "x", 1), "line 2, column 4"},
		{"nothing at all", "", "line 1 has 1 columns"},
	} {
		t.Run(test.title, func(t *testing.T) {
			if _, err := parseRows(test.text); err == nil || !strings.Contains(err.Error(), test.want) {
				t.Errorf("error %v, want one with %q", err, test.want)
			}
		})
	}
}
