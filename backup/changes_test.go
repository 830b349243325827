package backup

import (
	"strings"
	"testing"

	"github.com/pgbak/pgbak/internal/postgres"
	"github.com/pgbak/pgbak/repo"
)

// TestWhichParentsSummariesMayBeUsedFor holds the proofs without which no page
// is taken from a parent unread.
func TestWhichParentsSummariesMayBeUsedFor(t *testing.T) {
	control := postgres.Control{BlockSize: testPage, ChecksumVersion: 1}
	history := postgres.History{Timeline: 3, Entries: []postgres.HistoryEntry{{Timeline: 1, Switch: 1000}, {Timeline: 2, Switch: 2000}}}
	s := span{to: 5000, history: history}
	sound := repo.BackupHeader{Label: "20261120-123456F", PageSize: testPage, Checksums: true, Timeline: 3}
	sound.Start.LSN, sound.Stop.LSN = 3000, 4000
	for _, c := range []struct {
		title  string
		change func(*repo.BackupHeader)
		want   string
	}{
		{"on the same timeline", func(*repo.BackupHeader) {}, ""},
		{"on an ancestor, up to where it was left", func(h *repo.BackupHeader) { h.Timeline, h.Start.LSN, h.Stop.LSN = 1, 500, 1000 }, ""},
		{"on an ancestor, ending after it was left", func(h *repo.BackupHeader) { h.Timeline, h.Start.LSN, h.Stop.LSN = 1, 500, 1001 }, "not in the history of timeline 3"},
		{"on an ancestor, begun after it was left", func(h *repo.BackupHeader) { h.Timeline, h.Start.LSN, h.Stop.LSN = 2, 2100, 2200 }, "not in the history"},
		{"on no ancestor", func(h *repo.BackupHeader) { h.Timeline = 4 }, "not in the history"},
		{"ends where this one begins", func(h *repo.BackupHeader) { h.Stop.LSN = 5000 }, ""},
		{"ends after this one begins", func(h *repo.BackupHeader) { h.Stop.LSN = 5001 }, "does not lie before this backup"},
		{"has no positions", func(h *repo.BackupHeader) { h.Start.LSN, h.Stop.LSN, h.Timeline = 0, 0, 1 }, "does not lie before"},
		{"has no checksums", func(h *repo.BackupHeader) { h.Checksums = false }, "data checksums were switched"},
		{"has larger pages", func(h *repo.BackupHeader) { h.PageSize = 32768 }, "have 32768 bytes, those of the cluster 8192"},
	} {
		h := sound
		c.change(&h)
		err := s.proveParent(h, control)
		if (err == nil) != (c.want == "") || err != nil && (!strings.Contains(err.Error(), c.want) || !strings.Contains(err.Error(), string(h.Label))) {
			t.Errorf("a parent that %s: %v, want %q", c.title, err, c.want)
		}
	}
}
