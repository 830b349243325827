package postgres_test

import (
	"errors"
	"fmt"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/pgbak/pgbak/internal/pgtest"
	"github.com/pgbak/pgbak/internal/postgres"
)

// summaryWorkloads are what happens between two checkpoints, the first of them
// before all that is compared: relations that are created, truncated and dropped,
// one of which so many blocks change that a file has a bitmap of them, and databases.
func summaryWorkloads() [][]string {
	return [][]string{
		{"CREATE TABLE wide (n int, s text)", "ALTER TABLE wide ALTER s SET STORAGE PLAIN"},
		{
			"INSERT INTO wide SELECT n, repeat('x', 7000) FROM generate_series(1, 6000) AS n",
			"CREATE TABLE narrow AS SELECT n FROM generate_series(1, 100000) AS n", "CREATE INDEX ON narrow (n)",
		},
		{
			"UPDATE narrow SET n = n WHERE n % 5000 = 7", "DELETE FROM wide WHERE n > 20", "VACUUM wide", "VACUUM narrow",
			"CREATE TABLE gone (n int)", "INSERT INTO gone VALUES (1)", "DROP TABLE gone",
		},
		{
			"UPDATE wide SET n = n + 1", "INSERT INTO wide SELECT n, repeat('y', 7000) FROM generate_series(1, 100) AS n",
			"CREATE DATABASE copied STRATEGY file_copy", "CREATE DATABASE logged STRATEGY wal_log", "DROP DATABASE copied", "TRUNCATE narrow",
		},
		{"UPDATE wide SET n = n + 1 WHERE n % 3 = 0"},
	}
}

// What a server keeps as summaries is read as the server itself reads it, and the
// server reads what Encode makes of it.
func TestSummariesOfServers(t *testing.T) {
	for _, major := range pgtest.Majors() {
		if major < 17 {
			continue
		}
		t.Run(fmt.Sprintf("PostgreSQL %d", major), func(t *testing.T) {
			c := pgtest.Start(t, pgtest.Options{Major: major, Config: map[string]string{"summarize_wal": "on", "autovacuum": "off"}})
			var ends []postgres.LSN
			for _, statements := range summaryWorkloads() {
				for _, statement := range statements {
					c.Exec(t, statement)
				}
				ends = append(ends, checkpointSummarized(t, c))
			}
			from, to := ends[0], ends[len(ends)-1]

			dir := filepath.Join(c.DataDir, postgres.SummariesDirectory)
			files, err := postgres.ListSummaries(os.DirFS(dir))
			if err != nil {
				t.Fatal(err)
			}
			chosen, err := postgres.CoverSummaries(files, postgres.History{Timeline: 1}, 1, from, to)
			if err != nil || len(chosen) < len(ends)-1 || chosen[0].Start != from || chosen[len(chosen)-1].End != to {
				t.Fatalf("%v of %v for %s to %s: %v", chosen, files, from, to, err)
			}
			for _, f := range files {
				compareSummary(t, c, dir, f)
			}
			compareMerged(t, c, dir, chosen)
		})
	}
}

// A promoted server has summaries of both timelines that meet at the switch point.
func TestSummariesOverAPromotion(t *testing.T) {
	for _, major := range pgtest.Majors() {
		if major < 17 {
			continue
		}
		t.Run(fmt.Sprintf("PostgreSQL %d", major), func(t *testing.T) {
			c := pgtest.Start(t, pgtest.Options{Major: major, Config: map[string]string{"summarize_wal": "on"}})
			from := checkpointSummarized(t, c)
			c.Exec(t, "CREATE TABLE before_the_switch AS SELECT 1")
			c.Stop(t, "fast")
			signal := filepath.Join(c.DataDir, "standby.signal")
			if err := os.WriteFile(signal, nil, 0o600); err != nil {
				t.Fatal(err)
			}
			pgtest.GiveToServer(t, signal)
			c.Start(t)
			c.Promote(t)
			c.Exec(t, "CREATE TABLE after_the_switch AS SELECT 1")
			to := checkpointSummarized(t, c)

			history := readHistory(t, c, 2)
			dir := os.DirFS(filepath.Join(c.DataDir, postgres.SummariesDirectory))
			files, err := postgres.ListSummaries(dir)
			if err != nil {
				t.Fatal(err)
			}
			chosen, err := postgres.CoverSummaries(files, history, 1, from, to)
			if err != nil || chosen[0].Timeline != 1 || chosen[len(chosen)-1].Timeline != 2 {
				t.Fatalf("%v of %v for %s to %s of %+v: %v", chosen, files, from, to, history, err)
			}
			table, err := postgres.ReadSummaries(dir, chosen)
			if err != nil {
				t.Fatal(err)
			}
			for _, name := range []string{"before_the_switch", "after_the_switch"} {
				file, _ := postgres.ParseRelationPath(c.Query(t, "SELECT pg_relation_filepath('"+name+"')"))
				if limit, known := table.Limit(file.ForkID()); !known || limit != 0 {
					t.Errorf("%s: limit %d (%v), want 0 for a new table", name, limit, known)
				}
			}
			// Whoever misses a file of either timeline, misses WAL.
			for i := range chosen {
				var gap *postgres.SummaryGapError
				without := slices.DeleteFunc(slices.Clone(files), func(f postgres.SummaryFile) bool { return f == chosen[i] })
				_, err := postgres.CoverSummaries(without, history, 1, from, to)
				if !errors.As(err, &gap) || gap.Timeline != chosen[i].Timeline || gap.From > chosen[i].End || gap.To < chosen[i].Start {
					t.Errorf("without %s: %v", chosen[i].Name(), err)
				}
			}
		})
	}
}

// readHistory reads the history of a timeline from the server's pg_wal.
func readHistory(t *testing.T, c *pgtest.Cluster, tli postgres.Timeline) postgres.History {
	t.Helper()
	text, err := os.ReadFile(filepath.Join(c.DataDir, "pg_wal", postgres.WALFile{Kind: postgres.WALHistory, Timeline: tli}.Name(0)))
	if err != nil {
		t.Fatal(err)
	}
	history, err := postgres.ParseHistory(tli, text)
	if err != nil {
		t.Fatal(err)
	}
	return history
}

// checkpointSummarized makes a checkpoint and waits until the summaries reach its
// redo point, which it returns.
func checkpointSummarized(t *testing.T, c *pgtest.Cluster) postgres.LSN {
	t.Helper()
	c.Exec(t, "CHECKPOINT")
	redo := lsnOf(t, c, "redo_lsn FROM pg_control_checkpoint()")
	c.WaitFor(t, fmt.Sprintf("SELECT summarized_lsn >= '%s' FROM pg_get_wal_summarizer_state()", redo), "t", time.Minute)
	return redo
}

// serverSummary is what the server's own code reads in a file: a line for each
// limit and for each block, in order.
func serverSummary(t *testing.T, c *pgtest.Cluster, f postgres.SummaryFile) []string {
	t.Helper()
	out := c.Query(t, fmt.Sprintf(`
		SELECT reltablespace, reldatabase, relfilenode, relforknumber, NOT is_limit_block, relblocknumber
		FROM pg_wal_summary_contents(%d, '%s', '%s') ORDER BY 1, 2, 3, 4, 5, 6`, f.Timeline, f.Start, f.End))
	if out == "" {
		return nil
	}
	return strings.Split(out, "\n")
}

// tableLines writes a table in the same way.
func tableLines(t *postgres.BlockTable) []string {
	var lines []string
	for _, id := range t.ForkIDs() {
		fork := fmt.Sprintf("%d|%d|%d|%d|", id.Tablespace, id.Database, id.Node, id.Fork)
		if limit, _ := t.Limit(id); limit != postgres.NoLimit {
			lines = append(lines, fmt.Sprintf("%sf|%d", fork, limit))
		}
		for block := range t.Blocks(id, 0, postgres.NoLimit) {
			lines = append(lines, fmt.Sprintf("%st|%d", fork, block))
		}
	}
	return lines
}

// compareSummary compares a file with what the server says of it, and then has
// the server read the same table as Encode writes it.
func compareSummary(t *testing.T, c *pgtest.Cluster, dir string, f postgres.SummaryFile) {
	t.Helper()
	want := serverSummary(t, c, f)
	written, err := os.ReadFile(filepath.Join(dir, f.Name()))
	if err != nil {
		t.Fatal(err)
	}
	table, err := postgres.DecodeBlockTable(written)
	if err != nil {
		t.Fatal(err)
	}
	if got := tableLines(table); !slices.Equal(got, want) {
		t.Errorf("%s: %d lines, the server has %d; the first that differs is %s", f.Name(), len(got), len(want), difference(got, want))
	}
	if c.Query(t, fmt.Sprintf("SELECT count(*) FROM pg_available_wal_summaries() WHERE (tli, start_lsn, end_lsn) = (%d, '%s', '%s')",
		f.Timeline, f.Start, f.End)) != "1" {
		t.Errorf("%s: the server does not list it", f.Name())
	}
	// A timeline that the server will not reach by itself.
	encoded := table.Encode()
	if len(encoded) > len(written) {
		t.Errorf("%s: %d bytes became %d", f.Name(), len(written), len(encoded))
	}
	f.Timeline = 99
	path := filepath.Join(dir, f.Name())
	if err := os.WriteFile(path, encoded, 0o600); err != nil {
		t.Fatal(err)
	}
	pgtest.GiveToServer(t, path)
	if got := serverSummary(t, c, f); !slices.Equal(got, want) {
		t.Errorf("%s: the server reads %d lines, not %d; the first that differs is %s", f.Name(), len(got), len(want), difference(got, want))
	}
}

// difference shows where two lists part.
func difference(a, b []string) string {
	for i := range min(len(a), len(b)) {
		if a[i] != b[i] {
			return fmt.Sprintf("%s, %s", a[i], b[i])
		}
	}
	return "behind the end of one"
}

// compareMerged compares ReadSummaries with the server's lines of each file,
// merged by the rule: a limit removes the blocks from it on of earlier files,
// unless an earlier limit was as low.
func compareMerged(t *testing.T, c *pgtest.Cluster, dir string, files []postgres.SummaryFile) {
	t.Helper()
	type fork struct {
		limit  uint32
		blocks map[uint32]bool
	}
	forks := map[string]*fork{}
	most, removed := 0, 0
	for _, f := range files {
		for _, line := range serverSummary(t, c, f) {
			id, value, isBlock := strings.Cut(line, "|t|")
			if !isBlock {
				id, value, _ = strings.Cut(line, "|f|")
			}
			number, err := strconv.ParseUint(value, 10, 32)
			if err != nil {
				t.Fatalf("%s: %v", line, err)
			}
			if forks[id] == nil {
				forks[id] = &fork{postgres.NoLimit, map[uint32]bool{}}
			}
			known, block := forks[id], uint32(number)
			if isBlock {
				known.blocks[block] = true
				most = max(most, len(known.blocks))
			} else if block < known.limit {
				known.limit = block
				before := len(known.blocks)
				maps.DeleteFunc(known.blocks, func(b uint32, _ bool) bool { return b >= block })
				removed += before - len(known.blocks)
			}
		}
	}
	var want []string
	for id, known := range forks {
		if known.limit != postgres.NoLimit {
			want = append(want, fmt.Sprintf("%s|f|%d", id, known.limit))
		}
		for block := range known.blocks {
			want = append(want, fmt.Sprintf("%s|t|%d", id, block))
		}
	}
	table, err := postgres.ReadSummaries(os.DirFS(dir), files)
	if err != nil {
		t.Fatal(err)
	}
	got := tableLines(table)
	slices.Sort(got)
	slices.Sort(want)
	if !slices.Equal(got, want) {
		t.Errorf("together: %d lines, want %d; the first that differs is %s", len(got), len(want), difference(got, want))
	}
	// 4096 is where a file has a bitmap.
	if most < 4096 || removed < 4096 {
		t.Errorf("the workload marks at most %d blocks of a fork, and %d go by limits", most, removed)
	}
}
