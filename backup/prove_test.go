package backup

import (
	"fmt"
	"slices"
	"strings"
	"testing"

	"github.com/pgbak/pgbak/internal/postgres"
	"github.com/pgbak/pgbak/internal/postgres/server"
	"github.com/pgbak/pgbak/repo"
)

func TestABackupLabelThatStartsElsewhereIsRefused(t *testing.T) {
	label := func(start, file string, tli int) string {
		return fmt.Sprintf("START WAL LOCATION: %s (file %s)\nCHECKPOINT LOCATION: %s\nBACKUP METHOD: streamed\nBACKUP FROM: primary\n"+
			"START TIME: 2026-11-20 12:00:00 UTC\nLABEL: pgbak\nSTART TIMELINE: %d\n", start, file, start, tli)
	}
	for _, c := range []struct {
		title, label string
		stop         postgres.LSN
		ok           bool
	}{
		{"the label of this backup", label("0/3000028", "000000010000000000000003", 1), 0x3000100, true},
		{"another start", label("0/3000060", "000000010000000000000003", 1), 0x3000100, false},
		{"another timeline", label("0/3000028", "000000020000000000000003", 2), 0x3000100, false},
		{"an end that is the start", label("0/3000028", "000000010000000000000003", 1), 0x3000028, false},
		{"an end before the start", label("0/3000028", "000000010000000000000003", 1), 0x2000028, false},
		{"no label at all", "", 0x3000100, false},
	} {
		t.Run(c.title, func(t *testing.T) {
			r := run{header: repo.BackupHeader{Timeline: 1, Start: repo.BackupPoint{LSN: 0x3000028}}}
			err := r.checkLabel(server.StopResult{LSN: c.stop, LabelFile: c.label})
			if (err == nil) != c.ok || err != nil && !strings.Contains(err.Error(), "backup_label from the server") {
				t.Errorf("error %v", err)
			}
		})
	}
}

func TestFewSegmentsAreProvedWholeWhateverReadsCost(t *testing.T) {
	id := repo.Identity{SegmentSize: 16 << 20}
	for _, c := range []struct {
		title  string
		needed int
		cheap  bool
		want   []uint64
	}{
		{"one", 1, false, []uint64{3}},
		{"few", 8, false, []uint64{3, 4, 5, 6, 7, 8, 9, 10}},
		{"many", 9, false, []uint64{3, 11}},
		{"many, and reads are cheap", 9, true, []uint64{3, 4, 5, 6, 7, 8, 9, 10, 11}},
	} {
		start := postgres.LSN(3 * id.SegmentSize)
		var got []uint64
		for _, f := range segmentsToProve(walFiles(id, 1, start, start+postgres.LSN(int64(c.needed)*id.SegmentSize)), c.cheap) {
			got = append(got, f.Segment)
		}
		if !slices.Equal(got, c.want) {
			t.Errorf("%s: segments %v, want %v", c.title, got, c.want)
		}
	}
}
