package backup

import (
	"errors"
	"strings"
	"testing"

	"github.com/pgbak/pgbak/internal/hint"
	"github.com/pgbak/pgbak/internal/postgres"
	"github.com/pgbak/pgbak/internal/readiness"
	"github.com/pgbak/pgbak/repo"
)

func standbyRun() *run {
	r := &run{primary: &primary{}, identity: repo.Identity{SegmentSize: 1 << 20}}
	r.header.Timeline, r.header.Start.LSN, r.header.Stop.LSN = 3, 0x100028, 0x300100
	return r
}

// TestTheEndOfAStandbysBackupIsWhereRecoveryEnds: recovery takes it from pg_control.
func TestTheEndOfAStandbysBackupIsWhereRecoveryEnds(t *testing.T) {
	good := postgres.Control{State: postgres.ControlInArchiveRecovery, MinRecoveryTimeline: 3, MinRecoveryPoint: 0x300000}
	for _, c := range []struct {
		title  string
		change func(*postgres.Control)
		want   string
	}{
		{"a point within the backup", func(*postgres.Control) {}, ""},
		{"the end itself", func(c *postgres.Control) { c.MinRecoveryPoint = 0x300100 }, ""},
		{"a point behind the end", func(c *postgres.Control) { c.MinRecoveryPoint = 0x300101 }, "minimum recovery point 0/300101"},
		{"the start", func(c *postgres.Control) { c.MinRecoveryPoint = 0x100028 }, "minimum recovery point 0/100028"},
		{"none", func(c *postgres.Control) { c.MinRecoveryPoint = 0 }, "minimum recovery point 0/0"},
		{"another timeline", func(c *postgres.Control) { c.MinRecoveryTimeline = 4 }, "from timeline 3 to 4"},
		{"a primary", func(c *postgres.Control) { c.State = postgres.ControlInProduction }, "promoted during the backup"},
	} {
		t.Run(c.title, func(t *testing.T) {
			control := good
			c.change(&control)
			err := standbyRun().checkRecoveryPoint(control, 0x300100)
			if c.want == "" && err != nil || c.want != "" && (err == nil || !strings.Contains(err.Error(), c.want)) {
				t.Errorf("error %v, want %q", err, c.want)
			}
			if c.title == "a primary" && (!errors.Is(err, readiness.ErrNotReady) || hint.Of(err) == "") {
				t.Errorf("error %v has the hint %q", err, hint.Of(err))
			}
		})
	}
}

// TestOnlyReplayedWALOfAStandbyIsCompared: behind it the file may hold what it
// held before it was recycled.
func TestOnlyReplayedWALOfAStandbyIsCompared(t *testing.T) {
	r, content := standbyRun(), make([]byte, 1<<20)
	for segment, want := range map[uint64]int{1: 1 << 20, 2: 1 << 20, 3: 0x100} {
		f := postgres.WALFile{Kind: postgres.WALSegment, Timeline: 3, Segment: segment}
		if got := len(r.comparable(f, content)); got != want {
			t.Errorf("segment %d: %d bytes, want %d", segment, got, want)
		}
		if got := len((&run{}).comparable(f, content)); got != 1<<20 {
			t.Errorf("segment %d of a primary: %d bytes", segment, got)
		}
	}
}
