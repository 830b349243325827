package server

import (
	"errors"
	"os"
	"path/filepath"
	"testing"
	"time"

	"github.com/pgbak/pgbak/internal/pgtest"
	"github.com/pgbak/pgbak/internal/postgres"
)

// TestRelationLimitsAreOfAllTheWAL removes a summary, as the server does when it
// is old: what it told must not be missed in silence.
func TestRelationLimitsAreOfAllTheWAL(t *testing.T) {
	t.Parallel()
	c := pgtest.Start(t, pgtest.Options{Major: 18, Config: map[string]string{"summarize_wal": "on"}})
	conn := connect(t, c.DSN())
	c.Exec(t, "CREATE TABLE t AS SELECT generate_series(1, 10000) AS n")
	summarized := func() postgres.LSN {
		t.Helper()
		start := must(conn.StartBackup(t.Context(), "pgbak", true))(t)
		must(conn.StopBackup(t.Context()))(t)
		if err := conn.WaitSummarized(t.Context(), start, time.Minute, time.Now); err != nil {
			t.Fatal(err)
		}
		return start
	}
	from := summarized()
	c.Exec(t, "DELETE FROM t WHERE n > 100")
	c.Exec(t, "VACUUM t")
	middle := summarized()
	c.Exec(t, "CREATE TABLE u AS SELECT 1 AS n")
	to := summarized()
	limits := must(conn.RelationLimits(t.Context(), 1, from, to))(t)
	truncated, made := false, false
	for _, l := range limits {
		truncated = truncated || l.Fork.Fork == postgres.MainFork && l.Limit == 1
		made = made || l.Fork.Fork == postgres.MainFork && l.Limit == 0
	}
	if !truncated || !made {
		t.Errorf("limits %+v", limits)
	}
	name := filepath.Join(c.DataDir, postgres.SummariesDirectory, postgres.SummaryFile{Timeline: 1, Start: from, End: middle}.Name())
	if err := os.Remove(name); err != nil {
		t.Fatal(err)
	}
	limits, err := conn.RelationLimits(t.Context(), 1, from, to)
	gap, ok := errors.AsType[*postgres.SummaryGapError](err)
	if !ok || gap.From != from || gap.To != middle {
		t.Errorf("limits %+v, error %v, want a gap from %s to %s", limits, err, from, middle)
	}
}
