package main

import (
	"strings"
	"testing"
)

// raw are three rounds of two tools.
const raw = `1	pgbak	full	2.000	3.000	0.500	104857600	process	600000000	590000000	-	-	-	-	-
1	other_tool	full	8.000	9.000	1.000	209715200	tree	700000000	700000000	-	-	-	-	-
1	pgbak	restore	1.000	1.000	1.000	52428800	process	600000000	0	-	-	-	-	-
2	pgbak	full	9.000	3.000	0.500	104857600	process	600000000	590000000	-	-	-	-	-
2	other_tool	full	4.000	9.000	1.000	209715200	tree	700000000	700000000	-	-	-	-	-
3	pgbak	full	1.000	3.000	0.500	104857600	process	600000000	590000000	-	-	-	-	-
3	other_tool	full	6.000	9.000	1.000	209715200	tree	700000000	700000000	-	-	-	-	-
`

// onS3 is one round by way of a server that counted.
const onS3 = `1	other_tool	archive-push	8.000	3.000	1.000	20971520	tree	50000000	50000000	ListObjectsV2=80,PutObject=80,GetObject=160	4.500	-	-	-
1	pgbak	archive-push	4.000	2.000	2.000	104857600	process	40000000	40000000	PutObject=80	3.000	-	-	-
1	no_latency	full by way of a proxy	2.000	3.000	0.500	104857600	process	600000000	590000000	none	0.500	-	-	-
1	50_ms	full by way of a proxy	3.000	3.000	0.500	104857600	process	600000000	590000000	PutObject=1	0.500	-	-	-
2	50_ms	full by way of a proxy	3.000	3.000	0.500	104857600	process	600000000	590000000	PutObject=3,GetObject=2	0.500	-	-	-
`

func rendered(t *testing.T, text string) string {
	t.Helper()
	rows, err := parseRows(text)
	if err != nil {
		t.Fatal(err)
	}
	return tables(rows, size{cluster: 3_000_000_000, segments: 80})
}

func TestTables(t *testing.T) {
	got := rendered(t, raw)
	for title, want := range map[string]string{
		"the columns": "| tool | wall s (min to max) | times pgbak's | MB/s | CPU s (user + system) | peak MiB | added MB | repository MB |\n| --- |",
		"the median, not the mean, and the range":              "| pgbak | 2.00 (1.00 to 9.00) | 1.00 | 1500 | 3.50 (3.00 + 0.50) | 100 | 590.00 | 600.0 |\n",
		"another tool in times of pgbak, its processes summed": "| other tool | 6.00 (4.00 to 8.00) | 3.00 | 500 | 10.00 (9.00 + 1.00) | 200 (all processes) | 700.00 | 700.0 |\n",
		"an operation of its own":                              "\n\n### Restore\n\n",
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

func TestTablesOnS3(t *testing.T) {
	got := rendered(t, onS3)
	for title, want := range map[string]string{
		"columns of WAL archiving": "| tool | wall s (min to max) | times pgbak's | segments/s | CPU s (user + system) | CPU ms per segment |" +
			" peak MiB | added MB | repository MB | S3 requests per segment | S3 server's CPU s |\n",
		"requests by kind, most frequent first": "| other tool | 8.00 (8.00 to 8.00) | 2.00 | 10.0 | 4.00 (3.00 + 1.00) | 50 | 20 (all processes) | 50.00 | 50.0 |" +
			" 4.00 (GetObject 2.00, ListObjectsV2 1.00, PutObject 1.00) | 4.50 |\n",
		"pgbak is compared with wherever it stands": "| pgbak | 4.00 (4.00 to 4.00) | 1.00 | 20.0 |",
		"without pgbak the first is compared with":  " | times no latency's | MB/s | CPU s (user + system) | peak MiB |",
		"no request":                            "| no latency | 2.00 (2.00 to 2.00) | 1.00 | 1500 | 3.50 (3.00 + 0.50) | 100 | 590.00 | 600.0 | 0 | 0.50 |\n",
		"a kind that one round did not ask for": "| 50 ms | 3.00 (3.00 to 3.00) | 1.50 | 1000 | 3.50 (3.00 + 0.50) | 100 | 590.00 | 600.0 | 3 (PutObject 2, GetObject 1) | 0.50 |\n",
	} {
		t.Run(title, func(t *testing.T) {
			if !strings.Contains(got, want) {
				t.Errorf("%q is not in:\n%s", want, got)
			}
		})
	}
}

// calls are a tool's and those of nothing.
const calls = `1	pgbak	call that does nothing	0.400	0.200	0.160	20971520	tree	0	0	-	-	-	-	-
2	pgbak	call that does nothing	0.480	0.200	0.240	20971520	tree	0	0	-	-	-	-	-
3	pgbak	call that does nothing	0.320	0.120	0.160	20971520	tree	0	0	-	-	-	-	-
1	nothing	call that does nothing	0.080	0.008	0.008	1048576	tree	0	0	-	-	-	-	-
1	pgbak	call of archive-push	2.400	2.000	0.400	20971520	tree	0	0	-	-	-	-	-
1	compression	call of archive-push	2.000	2.000	0.400	20971520	process	0	0	-	-	-	-	-
`

func TestTablesOfCalls(t *testing.T) {
	got := rendered(t, calls)
	for _, want := range []string{
		"### Call that does nothing\n\n| tool | wall ms (min to max) | CPU ms (user + system) | peak MiB |\n",
		"| pgbak | 5.0 (4.0 to 6.0) | 4.5 (2.5 + 2.0) | 20 |\n",
		"### Call of archive-push\n\n| tool | wall ms (min to max) | times compression's | CPU ms (user + system) | peak MiB |\n",
		"| pgbak | 30.0 (30.0 to 30.0) | 1.20 | 30.0 (25.0 + 5.0) | 20 |\n",
		"| nothing | 1.0 (1.0 to 1.0) | 0.2 (0.1 + 0.1) | 1 |\n",
	} {
		if !strings.Contains(got, want) {
			t.Errorf("%q is not in:\n%s", want, got)
		}
	}
}

// increments are two tools that let the server work, one of which says how long it waited.
const increments = `1	pgbak	incremental	2.000	0.003	0.001	104857600	process	600000000	590000000	-	-	0.250	0.500	16384
1	pg_basebackup	incremental	1.000	0.010	0.000	104857600	process	600000000	590000000	-	-	0.750	-	16384
1	pgbak	restore	1.000	1.000	1.000	52428800	process	600000000	0	-	-	-	-	-
`

func TestTablesOfIncrementals(t *testing.T) {
	rows, err := parseRows(increments)
	if err != nil {
		t.Fatal(err)
	}
	got := tables(rows, size{})
	for _, want := range []string{
		"| tool | wall s (min to max) | times pgbak's | CPU s (user + system) | peak MiB | added MB | repository MB | PostgreSQL's CPU s | waiting for PostgreSQL s | CPU ns per changed byte |\n",
		"| pgbak | 2.00 (2.00 to 2.00) | 1.00 | 0.00 (0.00 + 0.00) | 100 | 590.00 | 600.0 | 0.25 | 0.50 (25 %) | 244.1 |\n",
		"| pg_basebackup | 1.00 (1.00 to 1.00) | 0.50 | 0.01 (0.01 + 0.00) | 100 | 590.00 | 600.0 | 0.75 |  | 610.4 |\n",
		"| pgbak | 1.00 (1.00 to 1.00) | 1.00 | 2.00 (1.00 + 1.00) | 50 | 0.00 | 600.0 |\n",
	} {
		if !strings.Contains(got, want) {
			t.Errorf("%q is not in:\n%s", want, got)
		}
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
		{"a column is missing", strings.Replace(raw, "\tprocess", "", 1), "line 1 has 14 columns"},
		{"a figure is none", strings.Replace(raw, "8.000", "x", 1), "line 2, column 4"},
		{"a request has no number", strings.Replace(onS3, "PutObject=80", "PutObject", 1), `line 1, column 11: "PutObject"`},
		{"a further figure is none", strings.Replace(increments, "0.500	16384", "x	16384", 1), "line 1, column 14"},
		{"the server's CPU time is none", strings.Replace(onS3, "4.500", "-", 1), "line 1, column 12"},
		{"nothing at all", "", "line 1 has 1 columns"},
	} {
		t.Run(test.title, func(t *testing.T) {
			if _, err := parseRows(test.text); err == nil || !strings.Contains(err.Error(), test.want) {
				t.Errorf("error %v, want one with %q", err, test.want)
			}
		})
	}
}
